// data path
import { assert } from "../base/assert.ts";
import { Status } from "../base/status.ts";
import { BLOCK_SIZE, UNIT_SIZE } from "../base/units.ts";
import type { DeviceObserver } from "../device/device.ts";
import {
  type ControlRecord,
  type Entry,
  type EntryPool,
  RecordType,
  type ShardLog,
  type StoreFillOp,
  type StoreLoadOp,
} from "../log/log.ts";
import {
  digestListed,
  digestOf,
  findLost,
  listUnits,
  type LostBlock,
  readUnit,
  type StoreReadOp,
  type StoreRepairOp,
  type UnitListing,
  type UnitState,
  unitSlot,
} from "../object/object.ts";
import type { GroupHealth, StoreStart, Tombstone } from "../store/store.ts";
import { Applier } from "./local-store-apply.ts";
import { Background } from "./local-store-background.ts";
import { Filler } from "./local-store-fill.ts";
import { buildMachines, type MachineOwner } from "./local-store-machines.ts";
import { type OpenedStore, openStore } from "./local-store-open.ts";
import type { StoreMachines, StoreParts, StoreState } from "./local-store-parts.ts";
import { Replicas } from "./local-store-replicas.ts";
import { countersOf, layerBytesOf, usageOf } from "./local-store-report.ts";
import { type UnitName, withUnits } from "./local-store-rows.ts";
import { Space, type SpaceHost } from "./local-store-space.ts";
import { recordFacts, type StoreFacts } from "./store-starts.ts";
import type {
  GroupState,
  RecoveredGroup,
  StoreClaim,
  StoreCounters,
  StoreIdentity,
  StoreOptions,
  StoreOwner,
  StoreUsage,
} from "./local-store-types.ts";

export * from "./local-store-types.ts";

/**
 * The local store of one shard (`store.md`): log, blocks, checkpoints of all its replicas.
 *
 * Life of a row: `createReplica` → `onReplicaCreated` → reserve, append, `onDurable`, apply … →
 * `removeReplica` → `onReplicaGone`. On its way back: `beginFill` → `onFillBegun` → fill … →
 * `endFill` → `onFillEnded`; before that `renewReplica` → `onReplicaCreated` when it is distrusted.
 *
 * At start: `open`, then for each recovered group build its state from `group.state`, replay the
 * entries in (state.applied, commit] by `recoveredEntry` + `apply`, in index order; then
 * `finishRecovery`. Nothing is moved or checkpointed before. Entries above commit are applied by the
 * same two calls when they commit later (`recoveredEntry` works until an entry is applied or cut).
 *
 * Everything queued in a turn leaves as one batch in the log's own drain (`DrainOrder.Log`).
 */
export class LocalStore implements MachineOwner, DeviceObserver, SpaceHost {
  readonly identity: StoreIdentity;
  readonly claim: StoreClaim;
  /** The shard's pool of entries: take here, release here. */
  readonly entries: EntryPool;
  readonly recovered: readonly RecoveredGroup[];
  readonly tombstones: readonly Tombstone[];
  /**
   * There may have been replicas that nothing tells of: this start found its log damaged, or an
   * earlier one did that ended before `endForgetful`.
   */
  readonly forgetful: boolean;
  private readonly parts: StoreParts;
  private readonly owner: StoreOwner;
  private readonly state: StoreState;
  private readonly machines: StoreMachines;
  private readonly log: ShardLog;
  private readonly applier: Applier;
  private readonly filler: Filler;
  private readonly replicas: Replicas;
  private readonly background: Background;
  private readonly space: Space;
  /** Writes of the superblock: the last one, how many are open, and their block of the arena; -1: none yet. */
  private recording: Promise<void> = Promise.resolve();
  private recordings = 0;
  private recordBuffer = -1;

  private constructor(opened: OpenedStore) {
    const parts = opened.parts;
    this.parts = parts;
    this.owner = parts.owner;
    this.identity = parts.identity;
    this.claim = parts.claim;
    this.entries = parts.entries;
    this.tombstones = parts.tombstones;
    this.state = opened.state;
    const machines = buildMachines(opened, this);
    this.machines = machines;
    this.log = machines.log;
    this.applier = new Applier(parts, machines, this.state);
    this.space = new Space(parts, machines, this.state, this.applier, this);
    this.filler = new Filler(parts, machines, this.state, this.space);
    this.replicas = new Replicas(parts, machines, this.state, this.filler);
    this.background = new Background(opened, machines, this.filler, this.space);
    parts.events.target = this;
    this.forgetful = opened.state.forgetful;
    this.recovered = opened.install(this.log);
    for (const { row } of this.recovered) this.filler.replay(row);
  }

  // cold: once per start.
  /** Open a formatted store. Throws FB4001 to FB4006, FB4009. Cold. */
  static async open(options: StoreOptions): Promise<LocalStore> {
    return new LocalStore(await openStore(options));
  }

  // cold: when many groups fell quiet.
  /** Let go of what the pools hold: it was needed by many groups at once. */
  shrink(): void {
    this.entries.shrink();
    this.log.shrink();
  }

  // cold: once per start, and every few minutes.
  /**
   * Make the history of this store's starts durable; only the shard that claimed the device, one
   * call at a time. Rejects when the device fails. Cold.
   */
  recordStarts(starts: readonly StoreStart[]): Promise<void> {
    return this.record({ starts });
  }

  // cold: when the cluster's format is raised.
  /**
   * From here on no program opens this store that does not know `format`. Only the shard that claimed
   * the device. Rejects when the device fails. Cold.
   */
  raiseFormat(format: number): Promise<void> {
    return this.record({ format });
  }

  // cold: as its callers.
  /** One after the other: each reads what the one before has written. */
  private record(facts: StoreFacts): Promise<void> {
    assert(this.parts.claimed, "LocalStore.record: not the shard that claimed the device");
    if (this.recordBuffer < 0) this.recordBuffer = this.parts.world.arena.allocate(BLOCK_SIZE);
    const write = (): Promise<void> => recordFacts(this.parts, facts, this.recordBuffer);
    const written = this.recordings === 0 ? write() : this.recording.then(write);
    this.recordings += 1;
    this.recording = written.finally(() => {
      this.recordings -= 1;
    });
    return this.recording;
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
    return this.replicas.create(pg, replicaId, conf, baseIndex, baseTerm);
  }

  /** Remove a replica for good: its units are freed, its id becomes a tombstone. */
  removeReplica(row: number): void {
    this.replicas.remove(row);
  }

  // cold: once per forgotten replica.
  /**
   * Leave a tombstone of a replica that nothing tells of any more: neither it nor a lower id of its
   * pg may ever begin here anew. One of a lower id that is here stays.
   */
  bury(pg: number, replicaId: number): void {
    this.replicas.bury(pg, replicaId);
  }

  // cold: once per start with damage.
  /**
   * All replicas that may have been forgotten are buried. The store is forgetful until a checkpoint
   * holds that: a start before it has to bury them again.
   */
  endForgetful(): void {
    this.state.forgetful = false;
    this.state.changed = true;
    this.background.requestCheckpoint();
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
   * `sparing`: units are short elsewhere, take none that the write can do without.
   */
  reserve(row: number, entry: Entry, sparing = false): Status {
    return this.space.reserve(row, entry, sparing);
  }

  /**
   * True when few units are free: leaders propose nothing then that takes units. Followers accept
   * what is under way until then, down to the last unit: what is proposed must fit on all replicas.
   */
  get isFull(): boolean {
    return this.space.isFull;
  }

  /** Whether an entry that `reserve` was asked for may take space that it has not taken yet. */
  takesSpace(entry: Entry): boolean {
    return this.space.takesSpace(entry);
  }

  /** What a proposal that takes units is told while `isFull`, here (`own`) or at a peer alone. */
  refuseFull(row: number, own: boolean): Status {
    return this.space.refuseFull(row, own);
  }

  /** Give back what `reserve` set aside for an entry that is not appended. */
  unreserve(entry: Entry): void {
    this.log.unreserve(entry);
  }

  /**
   * Append an entry; `onDurable` follows. `entry.index ≤ lastIndex` cuts the suffix from there
   * first (the caller knows that the terms differ). Takes a reference until the entry is durable.
   * Requires: `appliedIndex < entry.index ≤ lastIndex + 1`, `reserve` answered Ok.
   */
  append(row: number, entry: Entry): void {
    this.log.append(row, entry);
    this.background.onAppended();
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

  // cold: when a group is built.
  /** EntryType of an entry that the log holds. */
  typeAt(row: number, index: number): number {
    return this.log.group(row).typeAt(index);
  }

  /** Fill `entry` from a record found at start (no payload). False: not held any more. */
  recoveredEntry(row: number, index: number, entry: Entry): boolean {
    return this.applier.recoveredEntry(row, index, entry);
  }

  // cold: once per start.
  /** The replay has ended: background work may start. */
  finishRecovery(): void {
    assert(!this.background.begun, "LocalStore.finishRecovery: finished already");
    this.filler.finishRecovery();
    this.parts.slots.redoUnits.clear();
    this.parts.quarantine.begin(this.parts.batches.nextSeq);
    this.machines.objects.findEmptied();
    this.applier.finishRecovery();
    this.background.begin();
  }

  /** Read an entry back, payload included. `op.onDone` follows in a later turn. */
  loadEntry(op: StoreLoadOp): void {
    this.machines.loader.load(op);
  }

  /* --------------------------------------------------------------- blocks */

  /**
   * Apply a committed entry: memory only, never fails. All types, in index order.
   * Requires: `entry.index === appliedIndex + 1`, `entry.index ≤ durableIndex` (a commit may run
   * ahead of this replica's own disk: apply up to the smaller of the two).
   */
  apply(row: number, entry: Entry): void {
    this.applier.apply(row, entry);
    if (this.state.rows[row]!.fills.length > 0) this.filler.replay(row);
  }

  /** Read blocks. True: answered at once, `onDone` is not called. False: `onDone` follows. */
  read(op: StoreReadOp): boolean {
    if (this.state.failed) {
      op.status = Status.DeviceFailed;
      return true;
    }
    return this.machines.reader.read(op);
  }

  /**
   * Version of one block (`SNAP_SEQ_HEAD`: the writable state); 0 when nothing is known of it. -1: it has
   * to be read, ask again in a moment.
   */
  versionOf(layer: number, block: number, snapSeq: number): number {
    return this.machines.reader.versionOf(layer, block, snapSeq);
  }

  /** Rewrite a damaged block in its place. `op.onDone` follows. */
  repair(op: StoreRepairOp): void {
    if (this.state.failed) {
      this.machines.reader.refuseRepair(op, Status.DeviceFailed);
      return;
    }
    this.background.retryMoves();
    this.machines.reader.repair(op);
  }

  /**
   * No replica has the block in this version: refuse it until it is written again. False when it
   * has another version by now.
   */
  markLost(row: number, layer: number, block: number, snapSeq: number, version: number): boolean {
    this.state.changed = true;
    return this.machines.objects.markLost(layer, block, snapSeq, row, version);
  }

  // cold: for reports.
  /** Bytes of units that a replica holds; what its log alone holds is not in them. */
  bytesOf(row: number): number {
    return this.parts.slots.unitsOfRow(row) * UNIT_SIZE;
  }

  // cold: for reports.
  /** Bytes of units of each layer that is here. */
  layerBytes(): Map<number, number> {
    return layerBytesOf(this.parts.slots);
  }

  // cold: for reports.
  /** How many blocks are lost, and the first `max` of them. */
  lost(max: number): { count: number; blocks: LostBlock[] } {
    return findLost(this.machines.objects, max);
  }

  /* -------------------------------------------------- catch-up by difference */

  // cold: once per fill.
  /**
   * Put a replica to (index, term), as a leader's snapshot does: its log begins behind it (entries
   * above stay when the log holds (index, term)), `appliedIndex` is `index`, its blocks stay what
   * they are, and it is Filling. `onFillBegun` tells when a checkpoint holds all that; a crash before
   * finds the replica as it was.
   *
   * `state`: of the group as of `index`; the store keeps it for checkpoints until `onFillBegun`.
   * Nothing may be appended, applied or filled until then; hard states may be put.
   *
   * Requires: everything appended is durable, everything committed is applied,
   * `index ≥ appliedIndex`, `state.applied === index`.
   */
  beginFill(row: number, index: number, term: number, state: GroupState): void {
    this.filler.begin(row, index, term, state);
  }

  /**
   * Make blocks of a unit what they are elsewhere as of `op.at`. `op.onDone` follows: Ok when it is
   * durable and applied. Entries are not applied meanwhile.
   *
   * Newer snapshots and children show it where they hold nothing of their own: what was found equal
   * of those before is to be compared again. So go from old snapshots to new ones, parents first.
   * Requires: the replica is Filling and begun, `op.at === appliedIndex`, `op.mask ≠ 0`, at most one
   * under way per (layer, unit).
   */
  fill(op: StoreFillOp): void {
    this.filler.fill(op);
  }

  // cold: once per fill.
  /** The replica is what the others are; `onFillEnded` tells when that is durable. */
  endFill(row: number): void {
    this.filler.end(row);
  }

  // cold: once per damaged replica.
  /**
   * Give the replica of a row another id: the old one is gone for good, the new one has an empty log
   * at 0, nothing applied, health Filling, and the units of the old one, which the difference is
   * taken against. `onReplicaCreated` tells when it is durable; until then the old one stands, and
   * nothing may be appended or applied.
   * Requires: `replicaId` is above the old one, nothing is under way.
   */
  renewReplica(row: number, replicaId: number, conf: Uint8Array): void {
    this.filler.renew(row, replicaId, conf);
  }

  /** Not all of the index is in memory: `withUnits` has to go before what asks for it. */
  get isPaged(): boolean {
    return this.machines.rows !== null;
  }

  // cold: rounds of fills and scrubs, pages of listings.
  /**
   * Call `body` when what `unitState`, `digestListing` and `markLost` look at is in memory, for all of
   * `units` (some 64 at most: it stays there until `body` returns). Rejects with FB4009.
   */
  withUnits<T>(row: number, units: readonly UnitName[], body: () => T): Promise<T> {
    const { objects, rows } = this.machines;
    if (rows === null) return Promise.resolve(body());
    return withUnits(objects, rows, row, units, body);
  }

  /** Fill in what a reader sees of the unit that `state` names (layer, unit, snapSeq). */
  unitState(row: number, state: UnitState): void {
    readUnit(this.machines.objects, row, state);
  }

  /** Set the digest of what `state` holds. */
  digestOf(state: UnitState): void {
    digestOf(state);
  }

  /**
   * List the units of a replica from `cursor` (0: the beginning) on, with digests (`isPaged`: they are
   * to be asked for). Answers the next cursor, -1 at the end. Looks at 8192 slots at most: a page may be empty. Keys may be told twice; one
   * that is not written meanwhile is told. Ends with the slot that brings it to `countMax`.
   */
  listUnits(row: number, cursor: number, listing: UnitListing, countMax?: number): number {
    const { objects, rows } = this.machines;
    const next = listUnits(objects, row, cursor, listing, countMax);
    if (rows === null) digestListed(objects, row, listing, 0, listing.count);
    return next;
  }

  /** Set the digests of units [`from`, `to`) of a listing. */
  digestListing(row: number, listing: UnitListing, from: number, to: number): void {
    digestListed(this.machines.objects, row, listing, from, to);
  }

  /** A number for marking a unit as seen; -1 when nothing is held at exactly this snapSeq. */
  unitSlot(layer: number, unit: number, snapSeq: number): number {
    return unitSlot(this.machines.objects, layer, unit, snapSeq);
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

  /* ------------------------------------------------------- owned machines */

  onEntriesDurable(row: number, index: number, term: number): void {
    this.owner.onDurable(row, index, term);
  }

  onHardStateDurable(row: number): void {
    this.owner.onHardStateDurable(row);
  }

  onFillDurable(op: StoreFillOp): void {
    this.filler.onDurable(op);
  }

  // cold: once per replica.
  onControlDurable(record: ControlRecord): void {
    this.replicas.onControlDurable(record);
  }

  onBatchDurable(): void {
    this.background.retryMoves();
  }

  mayWrite(row: number, version: number): boolean {
    return this.background.mayWrite(row, version);
  }

  pgOf(row: number): number {
    return this.log.groups[row]!.pg;
  }

  onPagesWritten(): void {
    this.background.onPagesWritten();
    this.parts.world.turns.again();
  }

  onPageWriteEnded(): void {
    this.machines.rows?.onPagesWritten();
  }

  isWriting(page: number): boolean {
    return this.machines.pages.isWriting(page);
  }

  // cold: once per failed device.
  onPageLost(offsetBytes: number): void {
    const reason = "an index page can not be read, at byte ".concat(String(offsetBytes));
    this.fail(reason.concat(": the next start will take it for damage"), 0);
  }

  onBlockDamaged(
    row: number,
    layer: number,
    block: number,
    snapSeq: number,
    version: number,
  ): void {
    this.machines.reader.checksumFailures += 1;
    this.owner.onDamaged(row, layer, block, snapSeq, version);
  }

  // cold: once per failed device.
  onDeviceFailed(errno: number): void {
    this.fail("a write or flush failed with errno ".concat(String(errno)), errno);
  }

  // cold: once per failed device.
  private fail(reason: string, errno: number): void {
    if (this.state.failed) return;
    this.state.failed = true;
    this.log.stop();
    this.machines.rows?.stop();
    this.filler.onDeviceFailed();
    this.owner.onDeviceFailed(reason, errno);
  }

  onDeviceSlow(latencyUs: number): void {
    this.owner.onDeviceSlow(latencyUs);
  }

  onDeviceRecovered(): void {
    this.owner.onDeviceRecovered();
  }

  onDeviceStarved(): void {
    this.space.onStarved();
    this.owner.onDeviceStarved();
  }

  /* ------------------------------------------------------------ the whole */

  // cold: for reports.
  usage(): StoreUsage {
    return usageOf(this.parts, this.machines, this.space);
  }

  // cold: for reports.
  /** A snapshot of what was done since the store was opened. */
  get counters(): StoreCounters {
    return countersOf(this.parts, this.machines, this.state, this.filler);
  }

  /** Move everything home and write a checkpoint soon. */
  requestCheckpoint(): void {
    this.background.requestCheckpoint();
  }

  // cold: once per stop.
  /** Clean stop: everything durable, checkpoint, clean flag. No call may follow. Cold. */
  close(): Promise<void> {
    return this.background.close(() => this.recording);
  }
}
