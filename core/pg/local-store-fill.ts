// cold path: catch-up by difference; nothing here runs for a client's request.
import { assert } from "../base/assert.ts";
import { Status } from "../base/status.ts";
import { BLOCK_SIZE, BLOCKS_PER_UNIT } from "../base/units.ts";
import {
  type ControlRecord,
  RECORD_DATA_MAX,
  RecordFlag,
  RecordType,
  RecordView,
  type ScannedFill,
  type ShardLog,
  StoreFillOp,
} from "../log/log.ts";
import {
  BlockState,
  type ObjectStore,
  SourceKind,
  unitsForWrite,
  unitsForZero,
} from "../object/object.ts";
import { type Drain, DrainOrder } from "../reactor/world.ts";
import { GroupHealth, type GroupState } from "../store/store.ts";
import { RowState, type StoreParts, type StoreState } from "./local-store-parts.ts";

const ALL_BITS = 0xffff;

/** What the fills ask of the store. */
export interface FillHost {
  /** Back-pressure: a checkpoint makes room. Answers what to tell whom it was refused. */
  onRefused(row: number, status: Status): Status;
  requestCheckpoint(): void;
}

/**
 * The store's half of catch-up by difference (`fill.ts` is the half that talks to the leader).
 *
 * A replica that is filled has units that are not what its applied index says. Each fill makes blocks
 * of one unit what they are elsewhere as of exactly the applied index: logged with that index, durable,
 * then put in place in memory, and no entry is applied in between. So entries apply as ever, and redo is:
 * entries in the order of their index, the fills of an index right behind its entry in the order of
 * the log. Fills below the checkpoint's index are home (R3); those above what can be replayed wait.
 *
 * A replica takes another position, or another id, together with a checkpoint: home and pages hold
 * all that was applied at the old position by then, and redo never has to apply entries of two logs.
 */
export class Filler implements Drain {
  unitsFilled = 0;
  private readonly parts: StoreParts;
  private readonly state: StoreState;
  private readonly log: ShardLog;
  private readonly objects: ObjectStore;
  private readonly host: FillHost;
  private readonly record: RecordView;
  private readonly scratch = new RecoveredFill();
  private refused: StoreFillOp | null = null;
  /** Space is set aside for the fills that wait. */
  private reserved = false;

  constructor(
    parts: StoreParts,
    machines: { readonly log: ShardLog; readonly objects: ObjectStore },
    state: StoreState,
    host: FillHost,
  ) {
    this.parts = parts;
    this.state = state;
    this.log = machines.log;
    this.objects = machines.objects;
    this.host = host;
    this.record = new RecordView(parts.world.arena.view);
    parts.world.turns.addDrain(DrainOrder.Receive, this);
  }

  /* -------------------------------------------------------------- one fill */

  /** See `LocalStore.fill`. */
  fill(op: StoreFillOp): void {
    op.status = this.submit(op);
    if (op.status === Status.Ok) this.rowOf(op.row).fillsPending += 1;
    else this.refuse(op);
  }

  private submit(op: StoreFillOp): Status {
    if (this.state.failed) return Status.DeviceFailed;
    const group = this.log.group(op.row);
    assert(this.rowOf(op.row).health === GroupHealth.Filling, "LocalStore.fill: not Filling");
    assert(!group.frozen, "LocalStore.fill: the replica takes another position");
    assert(op.at === group.applied, "LocalStore.fill: as of another index than the applied one");
    assert(op.mask > 0 && op.mask <= ALL_BITS, "LocalStore.fill: no such blocks");
    if (!this.readMask(op)) return Status.Invalid;
    if ((op.dataBits | op.lostBits) === 0 && isZeroBut(this.objects, op)) {
      // Said in the record: redo may find the unit freed, and what is older in its place.
      op.zeroBits = ALL_BITS;
    }
    return this.host.onRefused(op.row, this.log.appendFill(op, unitsForFill(this.objects, op)));
  }

  /** Sort the blocks by state. False when the payload does not match its checksums. */
  private readMask(op: StoreFillOp): boolean {
    const { arena, checksum } = this.parts.world;
    op.dataBits = 0;
    op.zeroBits = 0;
    op.lostBits = 0;
    let payload = op.arenaOffset;
    for (let bit = 0; bit < BLOCKS_PER_UNIT; bit++) {
      const on = op.mask & (1 << bit);
      if (on === 0) continue;
      const state: BlockState = op.states[bit]!;
      if (state === BlockState.Zero) {
        op.zeroBits |= on;
        continue;
      }
      assert(op.versions[bit]! <= op.at, "LocalStore.fill: a version above the index");
      if (state === BlockState.Lost) {
        op.lostBits |= on;
        continue;
      }
      assert(state === BlockState.Data, "LocalStore.fill: a block is neither zero, data nor lost");
      op.dataBits |= on;
      if (checksum.crc32(arena.block(payload), 0) !== op.crcs[bit]) return false;
      payload += BLOCK_SIZE;
    }
    return true;
  }

  /** Called by the log, in its order. */
  onDurable(op: StoreFillOp): void {
    this.log.fillEnded(op);
    op.status = Status.Cancelled;
    if (!op.orphaned) {
      op.status = Status.Ok;
      this.rowOf(op.row).fillsPending -= 1;
      this.place(op);
    }
    op.onDone();
  }

  private place(op: StoreFillOp): void {
    fillUnit(this.objects, op, this.parts.batches.positionOf(op.batchSeq));
    this.unitsFilled += 1;
    this.state.changed = true;
  }

  /** Nothing is durable any more. */
  onDeviceFailed(): void {
    let op = this.log.dropFills();
    while (op !== null) {
      const next = op.fillNext;
      op.status = Status.DeviceFailed;
      this.refuse(op);
      op = next;
    }
  }

  /** Answer in the next drain. */
  private refuse(op: StoreFillOp): void {
    op.fillNext = this.refused;
    this.refused = op;
    this.parts.world.turns.again();
  }

  drain(): void {
    let op = this.refused;
    this.refused = null;
    while (op !== null) {
      const next = op.fillNext;
      op.fillNext = null;
      op.onDone();
      op = next;
    }
  }

  private rowOf(row: number): RowState {
    const facts = this.state.rows[row];
    assert(facts !== undefined, "LocalStore: the row is free");
    return facts;
  }

  /* ------------------------------------------------------- found at start */

  /** Set space aside for the fills that wait for their index. */
  finishRecovery(): void {
    this.reserved = true;
    for (const facts of this.state.rows) {
      if (facts !== undefined) this.log.reservedUnits += facts.fills.length;
    }
  }

  /** Put the fills of the applied index in place. */
  replay(row: number): void {
    const facts = this.rowOf(row);
    const applied = this.log.group(row).applied;
    let count = 0;
    for (const fill of facts.fills) {
      if (fill.at > applied) break;
      if (fill.at === applied) this.placeRecovered(row, fill);
      count += 1;
    }
    this.forget(facts, count);
  }

  private placeRecovered(row: number, fill: ScannedFill): void {
    const { record, scratch } = this;
    record.load(fill.record, 0, fill.record.byteLength);
    record.readFill(scratch);
    scratch.row = row;
    scratch.batchSeq = fill.seq;
    scratch.inlineBlock = fill.inlineBlock;
    this.place(scratch);
  }

  /** Drop the first `count` of the fills that wait. */
  private forget(facts: RowState, count: number): void {
    if (this.reserved) this.log.reservedUnits -= count;
    facts.fills = facts.fills.slice(count);
  }

  /** The replica is removed. */
  onRemoved(row: number): void {
    const facts = this.rowOf(row);
    this.forget(facts, facts.fills.length);
  }

  /* -------------------------------------------------------- begin, end, renew */

  /** See `LocalStore.beginFill`. */
  begin(row: number, index: number, term: number, state: GroupState): void {
    if (this.state.failed) return;
    const group = this.log.group(row);
    const facts = this.quietRow(row);
    assert(
      facts.health !== GroupHealth.Distrusted,
      "LocalStore.beginFill: the replica is distrusted",
    );
    assert(state.applied === index, "LocalStore.beginFill: the state is as of another index");
    assert(
      group.applied === Math.min(group.commit, group.last),
      "LocalStore.beginFill: a committed entry is not applied",
    );
    facts.droppedSeq = this.log.rebase(group, index, term);
    facts.health = GroupHealth.Filling;
    facts.fillIndex = index;
    facts.beginning = state;
    this.state.rebases += 1;
    this.wantCheckpoint();
  }

  /** A checkpoint has the new position. */
  onBeginningDurable(row: number): void {
    const group = this.log.group(row);
    const facts = this.rowOf(row);
    this.log.positionDurable(group);
    facts.beginning = null;
    // Redo must not take up what was dropped. Until this is durable all of it is in the log: a part
    // of it, behind the position, would look like a log with a hole.
    if (facts.droppedSeq !== Number.POSITIVE_INFINITY) {
      this.put(RecordType.Truncated, row).index = group.applied + 1;
    }
    facts.droppedSeq = Number.POSITIVE_INFINITY;
    this.replay(row);
    this.parts.owner.onFillBegun(row);
  }

  /** See `LocalStore.endFill`. */
  end(row: number): void {
    const facts = this.quietRow(row);
    assert(facts.health === GroupHealth.Filling, "LocalStore.endFill: not Filling");
    this.put(RecordType.Filling, row);
  }

  /** See `LocalStore.renewReplica`. */
  renew(row: number, replicaId: number, conf: Uint8Array): void {
    if (this.state.failed) return;
    const group = this.log.group(row);
    const facts = this.quietRow(row);
    assert(replicaId > group.replicaId, "LocalStore.renewReplica: the replica id does not grow");
    assert(
      conf.length <= RECORD_DATA_MAX,
      "LocalStore.renewReplica: the configuration is too large",
    );
    group.frozen = true;
    facts.renewal = { replicaId, conf };
    this.wantCheckpoint();
  }

  /** A checkpoint has all that was applied under the old id: redo needs none of its entries. */
  onRenewable(row: number): void {
    const group = this.log.group(row);
    const facts = this.rowOf(row);
    const { replicaId, conf } = facts.renewal!;
    const old = group.replicaId;
    this.forget(facts, facts.fills.length);
    this.log.renewGroup(group, replicaId);
    this.state.rows[row] = new RowState(GroupHealth.Filling, 0);
    const record = this.put(RecordType.ReplicaCreated, row);
    record.flags = RecordFlag.Renews;
    record.session = old;
    record.data = conf;
  }

  /** A local record that belongs here is durable. */
  onControlDurable(record: ControlRecord): void {
    const { row, pg, replicaId } = record;
    if (record.type === RecordType.ReplicaCreated && record.flags === RecordFlag.Renews) {
      this.parts.tombstones.push({ pg, replicaId: record.session });
      this.state.changed = true;
    }
    if (record.type !== RecordType.Filling) return;
    const group = this.log.groups[row]!;
    if (!group.alive || group.replicaId !== replicaId) return;
    const facts = this.rowOf(row);
    facts.health = GroupHealth.Ok;
    facts.fillIndex = 0;
    this.state.changed = true;
    this.parts.owner.onFillEnded(row);
  }

  private quietRow(row: number): RowState {
    const group = this.log.group(row);
    const facts = this.rowOf(row);
    assert(!group.frozen, "LocalStore: the replica takes another position or id");
    assert(facts.fillsPending === 0, "LocalStore: a fill is under way");
    return facts;
  }

  private put(type: RecordType, row: number): ControlRecord {
    const group = this.log.group(row);
    const record = this.log.takeControl(type);
    record.row = row;
    record.pg = group.pg;
    record.replicaId = group.replicaId;
    this.log.putControl(record);
    return record;
  }

  private wantCheckpoint(): void {
    this.state.changed = true;
    this.host.requestCheckpoint();
  }
}

/* ----------------------------------------------------------------- units */

/** Units that a fill may take when it is put in place. */
function unitsForFill(objects: ObjectStore, op: StoreFillOp): number {
  const { row, layer, snapSeq } = op;
  const firstBlock = op.unit * BLOCKS_PER_UNIT;
  if ((op.dataBits | op.lostBits) !== 0) {
    return unitsForWrite(objects, layer, firstBlock, 1, snapSeq, false, false);
  }
  // As a hole when nothing is left of the unit, else as blocks over what is older.
  const whole = unitsForZero(objects, layer, firstBlock, BLOCKS_PER_UNIT, snapSeq, row);
  return Math.max(whole, unitsForZero(objects, layer, firstBlock, 1, snapSeq, row));
}

/**
 * Put the blocks of a durable fill in place, in memory; `position`: a log block of its batch.
 *
 * Data goes through the overlay like that of an entry, with its own version. Done again at start,
 * perhaps on a unit that shows later changes already: what made those is done again behind it.
 */
function fillUnit(objects: ObjectStore, op: StoreFillOp, position: number): void {
  const { row, layer, unit, snapSeq, at, zeroBits } = op;
  const kept = op.dataBits | op.lostBits;
  const slot = kept === 0 ? -1 : objects.slotForWrite(row, layer, unit, snapSeq, at);
  let inline = op.inlineBlock;
  for (let bit = 0; bit < BLOCKS_PER_UNIT; bit++) {
    if (((op.dataBits >>> bit) & 1) === 1) {
      objects.putBlock(slot, bit, inline, op.versions[bit]!, op.crcs[bit]!);
      inline += 1;
    } else if (((op.lostBits >>> bit) & 1) === 1) {
      objects.putLost(slot, bit, position, op.versions[bit]!);
    }
  }
  // Last: a unit that has blocks in the overlay is not taken for empty.
  if (zeroBits !== 0) objects.zero(row, layer, unit, zeroBits, snapSeq, at, position);
}

/** Is every block zero that the fill does not make so? */
function isZeroBut(objects: ObjectStore, op: StoreFillOp): boolean {
  objects.openUnit(op.layer, op.unit, op.snapSeq, op.row);
  for (let bit = 0; bit < BLOCKS_PER_UNIT; bit++) {
    if (((op.zeroBits >>> bit) & 1) === 1) continue;
    objects.blockAt(bit);
    if (objects.sourceKind !== SourceKind.Zero) return false;
  }
  return true;
}

/** Reads the fills found at start back, one after the other. */
class RecoveredFill extends StoreFillOp {
  onDone(): void {
    assert(false, "RecoveredFill: nobody waits");
  }
}
