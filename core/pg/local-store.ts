// data path
import { assert } from "../base/assert.ts";
import { Status } from "../base/status.ts";
import { BLOCKS_PER_UNIT, UNIT_SIZE } from "../base/units.ts";
import { type DeviceObserver } from "../device/device.ts";
import {
  type ControlRecord,
  type Entry,
  type EntryPool,
  EntryType,
  type GroupLog,
  Loader,
  type LogOwner,
  RECORD_DATA_MAX,
  RecordType,
  RecordView,
  ShardLog,
  type StoreLoadOp,
} from "../log/log.ts";
import {
  Mover,
  type MoverOwner,
  ObjectStore,
  Reader,
  type StoreReadOp,
  type StoreRepairOp,
} from "../object/object.ts";
import { type Drain, DrainOrder, Timer } from "../reactor/world.ts";
import { GroupHealth, PageWriter, type PageWriterOwner, type Tombstone } from "../store/store.ts";
import { Checkpointer, type TurnWaiter } from "./local-store-checkpoint.ts";
import { BUFFERS, type OpenedStore, openStore, markClean } from "./local-store-open.ts";
import { RowState, type StoreMachines, type StoreParts, StoreState } from "./local-store-parts.ts";
import type {
  RecoveredGroup,
  StoreClaim,
  StoreCounters,
  StoreIdentity,
  StoreOptions,
  StoreOwner,
  StoreUsage,
} from "./local-store-types.ts";

export * from "./local-store-types.ts";

const ALL_BITS = 0xffff;
/** Share of the units in quarantine that starts a checkpoint (R5). */
const QUARANTINE_SHARE = 0.01;

/** Share of the log that must have filled since the last checkpoint before the next one. */
const GROWTH_SHARE = 0.05;

/** Sweeps of a checkpoint that find nothing but damage, before it is adopted as it is. */
const DAMAGE_TRIES = 3;

interface Waiter {
  readonly ready: () => boolean;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

/**
 * The local store of one shard (`store.md`): log, blocks, checkpoints of all its replicas.
 *
 * Life of a row: `createReplica` → `onReplicaCreated` → reserve, append, `onDurable`, apply … →
 * `removeReplica` → `onReplicaGone`.
 *
 * At start: `open`, then for each recovered group build its state from `group.state`, replay the
 * entries in (state.applied, commit] by `recoveredEntry` + `apply`, in index order; then
 * `finishRecovery`. Nothing is moved or checkpointed before. Entries above commit are applied by the
 * same two calls when they commit later (`recoveredEntry` works until an entry is applied or cut).
 *
 * Everything queued in a turn leaves as one batch in the log's own drain (`DrainOrder.Log`).
 */
export class LocalStore
  implements Drain, LogOwner, MoverOwner, PageWriterOwner, DeviceObserver, TurnWaiter
{
  readonly identity: StoreIdentity;
  readonly claim: StoreClaim;
  /** The shard's pool of entries: take here, release here. */
  readonly entries: EntryPool;
  readonly recovered: readonly RecoveredGroup[];
  readonly tombstones: readonly Tombstone[];
  private readonly parts: StoreParts;
  private readonly owner: StoreOwner;
  private readonly state: StoreState;
  private readonly log: ShardLog;
  private readonly objects: ObjectStore;
  private readonly reader: Reader;
  private readonly mover: Mover;
  private readonly pages: PageWriter;
  private readonly loader: Loader;
  private readonly checkpointer: Checkpointer;
  private readonly record: RecordView;
  private readonly idleTimer: IdleTimer;
  private readonly waiters: Waiter[] = [];
  private recoveryFinished = false;
  private backgroundHeld = false;
  private draining = false;
  private idle = false;
  private checkpointRequested = false;
  /** The mover found nothing that may be moved; it looks again after the next batch. */
  private moverStalled = false;
  private fruitlessSweeps = 0;

  private constructor(opened: OpenedStore) {
    const parts = opened.parts;
    this.parts = parts;
    this.owner = parts.owner;
    this.identity = parts.identity;
    this.claim = parts.claim;
    this.entries = parts.entries;
    this.tombstones = parts.tombstones;
    this.state = opened.state;
    this.record = new RecordView(parts.world.arena.view);
    this.idleTimer = new IdleTimer(this);
    const machines = this.build(opened);
    this.log = machines.log;
    this.objects = machines.objects;
    this.reader = machines.reader;
    this.mover = machines.mover;
    this.pages = machines.pages;
    this.loader = machines.loader;
    this.checkpointer = new Checkpointer(parts, machines, this.state, this);
    this.checkpointer.tailCrc = opened.tailPrevCrc;
    this.checkpointer.tailIncarnation = opened.tailIncarnation;
    parts.events.target = this;
    parts.world.turns.addDrain(DrainOrder.Apply, this);
    this.recovered = opened.install(this.log);
  }

  // cold: once per start.
  /** Open a formatted store. Throws FB4001 to FB4006, FB4009. Cold. */
  static async open(options: StoreOptions): Promise<LocalStore> {
    return new LocalStore(await openStore(options));
  }

  // cold: once per start.
  private build(opened: OpenedStore): StoreMachines {
    const { world, device, space, batches, slots, quarantine, eras, seed, shard } = opened.parts;
    const incarnation = opened.parts.claim.incarnation;
    const log = new ShardLog({
      world,
      device,
      owner: this,
      entries: opened.parts.entries,
      space,
      batches,
      slots,
      quarantine,
      shard,
      incarnation,
      seed,
      headPosition: opened.headPosition,
      tailPosition: opened.tailPosition,
      lastCrc: opened.lastCrc,
      vouchUs: opened.parts.tuning.vouchMs * 1000,
      buffers: opened.parts.buffers + BUFFERS.batches,
    });
    const objects = new ObjectStore(slots, quarantine, batches, space.ringBlocks);
    const depth = opened.parts.tuning.backgroundDepth;
    const moverBuffer = opened.parts.buffers + BUFFERS.mover;
    const pageBuffer = opened.parts.buffers + BUFFERS.pages;
    return {
      log,
      objects,
      reader: new Reader(world, device, objects, eras, space),
      mover: new Mover(world, device, objects, eras, space, this, { depth, buffer: moverBuffer }),
      pages: new PageWriter(world, device, slots, this, {
        seed,
        shard,
        incarnation,
        buffer: pageBuffer,
      }),
      loader: new Loader(world, device, log, slots, eras),
    };
  }

  /** Set once the device failed. */
  get failed(): boolean {
    return this.state.failed;
  }

  /* ------------------------------------------------------------- replicas */

  // cold: once per replica.
  /**
   * Make a replica; `onReplicaCreated` tells when it is durable. Its log begins after `baseIndex`.
   * Answers its row, or -1 when a tombstone or a living replica of the pg forbids it.
   */
  createReplica(
    pg: number,
    replicaId: number,
    conf: Uint8Array,
    baseIndex: number,
    baseTerm: number,
  ): number {
    assert(
      conf.length <= RECORD_DATA_MAX,
      "LocalStore.createReplica: the configuration is too large",
    );
    if (this.state.failed || !this.mayCreate(pg, replicaId)) return -1;
    const group = this.log.openGroup(pg, replicaId, baseIndex, baseTerm);
    this.state.rows[group.row] = new RowState(GroupHealth.Ok, 0);
    const record = this.log.takeControl(RecordType.ReplicaCreated);
    record.row = group.row;
    record.pg = pg;
    record.replicaId = replicaId;
    record.index = baseIndex;
    record.term = baseTerm;
    record.data = conf;
    this.log.putControl(record);
    return group.row;
  }

  private mayCreate(pg: number, replicaId: number): boolean {
    for (let at = 0; at < this.tombstones.length; at++) {
      const stone = this.tombstones[at]!;
      if (stone.pg === pg && stone.replicaId >= replicaId) return false;
    }
    for (let row = 0; row < this.log.groups.length; row++) {
      const group = this.log.groups[row]!;
      if (group.pg !== pg) continue;
      // A replica that is being removed keeps its pg until its record is durable.
      if (group.alive || this.state.rows[row] !== undefined) return false;
    }
    return true;
  }

  /** Remove a replica for good: its units are freed, its id becomes a tombstone. */
  removeReplica(row: number): void {
    const group = this.log.group(row);
    this.log.closeGroup(row);
    const record = this.log.takeControl(RecordType.ReplicaGone);
    record.row = row;
    record.pg = group.pg;
    record.replicaId = group.replicaId;
    this.log.putControl(record);
  }

  /** Whether a replica can be relied on. */
  healthOf(row: number): GroupHealth {
    return this.state.rows[row]!.health;
  }

  /* ------------------------------------------------------------------ log */

  /** Queue the group's hard state; `onHardStateDurable` follows. Replaces one queued before. */
  putHardState(row: number, term: number, vote: number, commit: number): void {
    this.log.putHardState(row, term, vote, commit);
  }

  /**
   * Tell the commit index without asking for a write of its own: records written from now on carry
   * it, and the store makes it durable when it needs it.
   */
  setCommit(row: number, commit: number): void {
    this.log.setCommit(this.log.group(row), commit);
  }

  /**
   * Set space aside before the entry is proposed or accepted. Reads type, layer, firstBlock,
   * blocks, snapSeq, data. Answers Ok, NoSpace (ENOSPC), Busy (log full, or space is about to be
   * freed: back-pressure, later), DeviceFailed. After Ok follow `append` (which consumes it) or
   * `unreserve`.
   */
  reserve(row: number, entry: Entry): Status {
    if (this.state.failed) return Status.DeviceFailed;
    const status = this.log.reserve(row, entry, this.unitsFor(row, entry));
    if (status === Status.Busy) this.requestCheckpoint();
    if (status !== Status.NoSpace || this.parts.slots.quarantined === 0) return status;
    this.requestCheckpoint();
    return Status.Busy;
  }

  /** Units that the entry may take when it is appended and applied. */
  private unitsFor(row: number, entry: Entry): number {
    const { layer, firstBlock, blocks, snapSeq } = entry;
    if (entry.type === EntryType.Write) {
      const freeing = this.log.group(row).unappliedFreeing > 0;
      return this.objects.unitsForWrite(layer, firstBlock, blocks, snapSeq, freeing);
    }
    if (entry.type !== EntryType.Zero) return 0;
    return this.objects.unitsForZero(layer, firstBlock, blocks, snapSeq, row);
  }

  /** Give back what `reserve` set aside for an entry that is not appended. */
  unreserve(entry: Entry): void {
    this.log.unreserve(entry);
  }

  /**
   * Append an entry; `onDurable` follows. `entry.index ≤ lastIndex` cuts the suffix from there
   * first (the caller knows that the terms differ). Takes a reference until the entry is durable.
   *
   * Requires: `appliedIndex < entry.index ≤ lastIndex + 1`, `reserve` answered Ok.
   */
  append(row: number, entry: Entry): void {
    this.log.append(row, entry);
    this.idle = false;
    if (this.idleTimer.timerDueUs < 0) this.armIdle(this.parts.tuning.idleMs * 1000);
  }

  /** First index that the log holds (lastIndex + 1 when empty); grows with the tail. */
  firstIndex(row: number): number {
    return this.log.group(row).base + 1;
  }

  lastIndex(row: number): number {
    return this.log.group(row).last;
  }

  /** Last index that is on stable storage here. */
  durableIndex(row: number): number {
    return this.log.group(row).durable;
  }

  appliedIndex(row: number): number {
    return this.log.group(row).applied;
  }

  /** Term of an entry in [firstIndex - 1, lastIndex], or -1. */
  termAt(row: number, index: number): number {
    return this.log.group(row).termAt(index);
  }

  /** Fill `entry` from a record found at start (no payload). False: not held any more. */
  recoveredEntry(row: number, index: number, entry: Entry): boolean {
    const entries = this.state.rows[row]!.recovered;
    if (entries.length === 0) return false;
    const group = this.log.group(row);
    const scanned = entries[index - entries[0]!.index];
    if (scanned === undefined || !group.holds(index)) return false;
    if (group.termAt(index) !== scanned.term) return false;
    this.record.load(scanned.record, 0, scanned.record.byteLength);
    this.record.fill(entry);
    entry.group = row;
    entry.inlineBlock = group.inlineAt(index);
    entry.batchSeq = group.seqAt(index);
    return true;
  }

  // cold: once per start.
  /** The replay has ended: background work may start. */
  finishRecovery(): void {
    assert(!this.recoveryFinished, "LocalStore.finishRecovery: finished already");
    this.recoveryFinished = true;
    this.parts.quarantine.begin(this.parts.batches.nextSeq);
    const scratch = this.entries.take();
    for (let row = 0; row < this.log.groups.length; row++) {
      const group = this.log.groups[row]!;
      if (!group.alive) continue;
      const facts = this.state.rows[row]!;
      facts.recovered = facts.recovered.filter((entry) => entry.index > group.applied);
      this.reserveRecovered(group, scratch);
    }
    scratch.payload = -1;
    this.entries.release(scratch);
    this.state.changed = true;
    this.armIdle(this.parts.tuning.idleMs * 1000);
  }

  /** Set space aside for entries that were found in the log and are not applied. */
  private reserveRecovered(group: GroupLog, scratch: Entry): void {
    for (let index = group.applied + 1; index <= group.last; index++) {
      if (!this.recoveredEntry(group.row, index, scratch)) continue;
      const units = Math.max(0, this.unitsFor(group.row, scratch) - scratch.unitCount);
      group.setReserved(index, units);
      this.log.reservedUnits += units;
    }
  }

  /** Read an entry back, payload included. `op.onDone` follows in a later turn. */
  loadEntry(op: StoreLoadOp): void {
    this.loader.load(op);
  }

  /**
   * Keep entries from `index` on for a slow follower (0: none), within the limits of R4: the tail
   * passes them when they hold too much; look at `firstIndex`.
   */
  setRetention(row: number, index: number): void {
    this.log.group(row).retention = index;
  }

  /* --------------------------------------------------------------- blocks */

  /**
   * Apply a committed entry: memory only, never fails. All types, in index order.
   *
   * Requires: `entry.index === appliedIndex + 1`, `entry.index ≤ durableIndex` (a commit may run
   * ahead of this replica's own disk: apply up to the smaller of the two).
   */
  apply(row: number, entry: Entry): void {
    const group = this.log.group(row);
    const index = entry.index;
    assert(index === group.applied + 1, "LocalStore.apply: the index does not follow");
    assert(index <= group.durable, "LocalStore.apply: the entry is not durable here");
    assert(group.termAt(index) === entry.term, "LocalStore.apply: another entry is in the log");
    switch (entry.type) {
      case EntryType.Write:
        this.applyWrite(group, entry);
        break;
      case EntryType.Zero:
        this.applyZero(group, entry);
        break;
      case EntryType.LayerGone:
        this.objects.layerGone(row, entry.layer, index);
        break;
      case EntryType.Noop:
      case EntryType.Fence:
      case EntryType.Session:
      case EntryType.Conf:
      case EntryType.Cut:
        break;
    }
    this.log.setApplied(group, index);
    this.state.changed = true;
    const facts = this.state.rows[row]!;
    if (facts.recovered.length > 0 && index >= facts.recovered.at(-1)!.index) {
      facts.recovered = NO_RECOVERED;
    }
  }

  private applyWrite(group: GroupLog, entry: Entry): void {
    const index = entry.index;
    const directs = group.unitCountAt(index);
    let inline = group.inlineAt(index);
    let direct = 0;
    let at = 0;
    while (at < entry.blocks) {
      const block = entry.firstBlock + at;
      const unit = Math.floor(block / BLOCKS_PER_UNIT);
      const bit = block % BLOCKS_PER_UNIT;
      const count = Math.min(BLOCKS_PER_UNIT - bit, entry.blocks - at);
      if (count === BLOCKS_PER_UNIT && directs > 0) {
        this.applyDirect(group, entry, unit, at, group.unitAt(index, direct));
        direct += 1;
      } else {
        const { layer, snapSeq } = entry;
        const slot = this.objects.slotForWrite(group.row, layer, unit, snapSeq, index);
        for (let of = 0; of < count; of++) {
          this.objects.putBlock(slot, bit + of, inline, index, entry.crcs[at + of]!);
          inline += 1;
        }
      }
      at += count;
    }
  }

  private applyDirect(group: GroupLog, entry: Entry, unit: number, at: number, slot: number): void {
    const { layer, snapSeq, index } = entry;
    this.objects.putDirect(group.row, slot, layer, unit, snapSeq, index);
    for (let bit = 0; bit < BLOCKS_PER_UNIT; bit++) {
      this.parts.slots.setBlock(slot, bit, index, entry.crcs[at + bit]!);
    }
  }

  private applyZero(group: GroupLog, entry: Entry): void {
    const position = this.parts.batches.positionOf(group.seqAt(entry.index));
    const end = entry.firstBlock + entry.blocks;
    let block = entry.firstBlock;
    while (block < end) {
      const unit = Math.floor(block / BLOCKS_PER_UNIT);
      const bit = block % BLOCKS_PER_UNIT;
      const count = Math.min(BLOCKS_PER_UNIT - bit, end - block);
      const mask = count === BLOCKS_PER_UNIT ? ALL_BITS : ((1 << count) - 1) << bit;
      const { layer, snapSeq, index } = entry;
      this.objects.zero(group.row, layer, unit, mask, snapSeq, index, position);
      block += count;
    }
  }

  /** Read blocks. True: answered at once, `onDone` is not called. False: `onDone` follows. */
  read(op: StoreReadOp): boolean {
    if (this.state.failed) {
      op.status = Status.DeviceFailed;
      return true;
    }
    return this.reader.read(op);
  }

  /** Version of one block (`SNAP_SEQ_HEAD`: the writable state); 0 when nothing is known of it. */
  versionOf(layer: number, block: number, snapSeq: number): number {
    return this.reader.versionOf(layer, block, snapSeq);
  }

  /** Rewrite a damaged block in its place. `op.onDone` follows. */
  repair(op: StoreRepairOp): void {
    if (this.state.failed) {
      this.reader.refuseRepair(op, Status.DeviceFailed);
      return;
    }
    this.moverStalled = false;
    this.reader.repair(op);
  }

  /**
   * No replica has the block in this version: refuse it until it is written again. False when it
   * has another version by now.
   */
  markLost(row: number, layer: number, block: number, snapSeq: number, version: number): boolean {
    this.state.changed = true;
    return this.objects.markLost(layer, block, snapSeq, row, version);
  }

  /** Tell that `layer` shows `parent` at `parentSnapSeq` where it holds nothing itself. */
  setParent(layer: number, parent: number, parentSnapSeq: number): void {
    if (!this.parts.slots.layers.setParent(layer, parent, parentSnapSeq)) return;
    const record = this.log.takeControl(RecordType.LayerParent);
    record.layer = layer;
    record.session = parent;
    record.snapSeq = parentSnapSeq;
    this.log.putControl(record);
  }

  /* -------------------------------------------------- background, each turn */

  drain(): void {
    this.wakeWaiters();
    if (!this.recoveryFinished || this.state.failed) return;
    this.mover.advance();
    this.pages.advance();
    if (this.mover.failed || this.pages.failed) return;
    if (this.objects.goneCount > 0) {
      if (this.objects.scanGone()) this.parts.world.turns.again();
      this.state.changed = true;
    }
    this.moveHome();
    this.startCheckpoint();
  }

  private moveHome(): void {
    if (this.backgroundHeld || !this.mover.idle) return;
    if (this.moverStalled && !this.draining) return;
    if (this.objects.dirty.count === 0) return;
    if (this.mover.fruitless) this.onFruitlessSweep();
    if (!this.draining && !this.idle && !this.isFuller(this.parts.tuning.moverStartPercent)) return;
    if (!this.mover.start()) this.moverStalled = true;
  }

  /** Damage that nobody healed yet: it must not hold a checkpoint, nor be tried again and again. */
  private onFruitlessSweep(): void {
    this.mover.fruitless = false;
    this.fruitlessSweeps += 1;
    if (this.draining) this.mover.adoptDamage = this.fruitlessSweeps >= DAMAGE_TRIES;
    else this.moverStalled = true;
  }

  private isFuller(percent: number): boolean {
    return this.log.usedBlocks * 100 >= this.log.space.ringBlocks * percent;
  }

  private startCheckpoint(): void {
    if (this.checkpointer.running || this.state.closing) return;
    if (!this.state.changed || !this.wantsCheckpoint()) return;
    this.checkpointRequested = false;
    this.runCheckpoint();
  }

  private wantsCheckpoint(): boolean {
    if (this.checkpointRequested) return true;
    // What the last checkpoint could not release does not call for the next one by itself.
    const { slots, space } = this.parts;
    const freed = slots.quarantined - this.state.quarantinedAfter;
    if (freed > slots.unitsTotal * QUARANTINE_SHARE) return true;
    if (!this.isFuller(this.parts.tuning.checkpointStartPercent)) return false;
    return this.log.usedBlocks - this.state.usedAfter > space.ringBlocks * GROWTH_SHARE;
  }

  // cold: once per checkpoint.
  private runCheckpoint(): void {
    this.checkpointer.run().catch((error: unknown) => {
      if (this.state.failed) return;
      this.parts.logger.error("checkpoint failed", { error: String(error) });
    });
  }

  private wakeWaiters(): void {
    for (let at = this.waiters.length - 1; at >= 0; at--) {
      const waiter = this.waiters[at]!;
      if (this.state.failed) {
        this.waiters.splice(at, 1);
        rejectWaiter(waiter);
      } else if (waiter.ready()) {
        this.waiters.splice(at, 1);
        waiter.resolve();
      }
    }
  }

  // cold: the checkpointer waits with it.
  waitUntil(ready: () => boolean): Promise<void> {
    return new Promise((resolve, reject) => {
      this.waiters.push({ ready, resolve, reject });
      this.parts.world.turns.again();
    });
  }

  holdBackground(hold: boolean): void {
    this.backgroundHeld = hold;
  }

  // cold: once per checkpoint.
  async drainOverlay(position: number): Promise<void> {
    this.draining = true;
    this.moverStalled = false;
    this.fruitlessSweeps = 0;
    try {
      await this.waitUntil(
        () => this.mover.idle && this.objects.overlay.lowestPosition() >= position,
      );
    } finally {
      this.draining = false;
      this.mover.adoptDamage = false;
    }
  }

  /** Called by the idle timer only. */
  onIdleTimer(): void {
    const idleUs = this.parts.tuning.idleMs * 1000;
    const quietUs = this.parts.world.clock.turnUs - this.log.appendedAtUs;
    if (quietUs < idleUs) {
      this.armIdle(idleUs - quietUs);
      return;
    }
    this.idle = true;
    this.moverStalled = false;
    if (this.state.changed) this.requestCheckpoint();
  }

  private armIdle(delayUs: number): void {
    this.parts.world.timers.arm(this.idleTimer, delayUs);
  }

  /* ------------------------------------------------------- owned machines */

  onEntriesDurable(row: number, index: number, term: number): void {
    this.owner.onDurable(row, index, term);
  }

  onHardStateDurable(row: number): void {
    this.owner.onHardStateDurable(row);
  }

  // cold: once per replica.
  onControlDurable(record: ControlRecord): void {
    if (record.type === RecordType.ReplicaCreated) this.owner.onReplicaCreated(record.row);
    if (record.type !== RecordType.ReplicaGone) return;
    const { row, pg, replicaId } = record;
    this.parts.tombstones.push({ pg, replicaId });
    this.objects.freeRow(row);
    this.state.rows[row] = undefined;
    this.state.changed = true;
    this.log.freeRow(row);
    this.owner.onReplicaGone(row, pg, replicaId);
  }

  onBatchDurable(): void {
    this.moverStalled = false;
  }

  mayWrite(row: number, version: number): boolean {
    const group = this.log.groups[row];
    if (group === undefined || !group.alive) return true;
    if (version <= group.commitDurable) return true;
    this.log.wantCommit(group);
    return false;
  }

  pgOf(row: number): number {
    return this.log.groups[row]!.pg;
  }

  onPagesWritten(): void {
    this.parts.world.turns.again();
  }

  onBlockDamaged(
    row: number,
    layer: number,
    block: number,
    snapSeq: number,
    version: number,
  ): void {
    this.reader.checksumFailures += 1;
    this.owner.onDamaged(row, layer, block, snapSeq, version);
  }

  onDeviceFailed(errno: number): void {
    if (this.state.failed) return;
    this.state.failed = true;
    this.log.stop();
    this.owner.onDeviceFailed(failureText(errno));
  }

  onDeviceSlow(latencyUs: number): void {
    this.owner.onDeviceSlow(latencyUs);
  }

  onDeviceRecovered(): void {
    this.owner.onDeviceRecovered();
  }

  /* ------------------------------------------------------------ the whole */

  // cold: for reports.
  usage(): StoreUsage {
    const { slots, space } = this.parts;
    const total = slots.unitsTotal;
    const quarantined = Math.min(slots.quarantined, total - slots.freeUnits);
    return {
      bytesTotal: total * UNIT_SIZE,
      bytesUsed: (total - slots.freeUnits - quarantined + this.log.reservedUnits) * UNIT_SIZE,
      bytesQuarantined: quarantined * UNIT_SIZE,
      logBytesTotal: space.ringBlocks * 4096,
      logBytesUsed: this.log.usedBlocks * 4096,
      overlayBlocks: this.objects.overlay.count,
    };
  }

  // cold: for reports.
  /** A snapshot of what was done since the store was opened. */
  get counters(): StoreCounters {
    return {
      bytesLog: this.log.bytesWritten,
      bytesDirect: this.log.bytesDirect,
      bytesHome: this.mover.bytesWritten,
      bytesIndex: this.pages.bytesWritten,
      bytesCheckpoint: this.state.checkpointBytes,
      bytesRead: this.reader.bytesRead,
      batches: this.log.batchesWritten,
      entries: this.log.entriesAppended,
      entriesAppendedAgain: this.log.entriesAgain,
      flushes: this.state.flushes,
      checkpoints: this.state.checkpoints,
      checksumFailures: this.reader.checksumFailures,
      blocksHealed: this.reader.blocksHealed,
      blocksMoved: this.mover.blocksMoved,
      unitsCopied: this.mover.unitsCopied,
    };
  }

  /** Move everything home and write a checkpoint soon. */
  requestCheckpoint(): void {
    this.checkpointRequested = true;
    this.parts.world.turns.again();
  }

  // cold: once per stop.
  /** Clean stop: everything durable, checkpoint, clean flag. No call may follow. Cold. */
  async close(): Promise<void> {
    const { world, device } = this.parts;
    // From here on no checkpoint begins by itself: one that began between the end of the wait and
    // what follows it would share buffers with the clean mark.
    this.state.closing = true;
    if (!this.state.failed && this.recoveryFinished) {
      try {
        await this.waitUntil(() => this.log.quiet && !this.checkpointer.running);
        if (this.state.changed) await this.checkpointer.run();
        await this.waitUntil(() => this.log.quiet);
        if (this.parts.claimed) await markClean(this.parts);
      } catch (error) {
        this.parts.logger.warn("the store was not closed cleanly", { error: String(error) });
      }
    }
    world.timers.disarm(this.idleTimer);
    this.log.close();
    while (device.pending > 0) await this.turn();
    device.close();
  }

  // cold: once per stop.
  private turn(): Promise<void> {
    let turns = 0;
    this.parts.world.turns.again();
    return this.waitUntil(() => turns++ > 0).catch(() => undefined);
  }
}

const NO_RECOVERED: readonly never[] = [];

// cold: once per failed device.
function rejectWaiter(waiter: Waiter): void {
  waiter.reject(new Error("the device has failed"));
}

// cold: once per failed device.
function failureText(errno: number): string {
  return "a write or flush failed with errno ".concat(String(errno));
}

/** Looks whether nothing was appended for a while: then everything is moved home. */
class IdleTimer extends Timer {
  private readonly store: LocalStore;

  constructor(store: LocalStore) {
    super();
    this.store = store;
  }

  onTimer(): void {
    this.store.onIdleTimer();
  }
}
