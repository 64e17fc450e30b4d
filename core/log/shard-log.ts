// data path
import { assert } from "../base/assert.ts";
import { Status } from "../base/status.ts";
import type { Device } from "../device/device.ts";
import { Stage } from "../metrics/metrics.ts";
import type { World } from "../reactor/world.ts";
import type { Quarantine, SlotTable } from "../store/store.ts";
import { BatchComposer } from "./batch-composer.ts";
import type { BatchIo } from "./batch-io.ts";
import type { BatchTable } from "./batch-table.ts";
import { type BatchOwner, BatchWriter } from "./batch-writer.ts";
import { type DirectOwner, DirectUnits } from "./direct-units.ts";
import type { Entry } from "./entry.ts";
import type { EntryPool } from "./entry-pool.ts";
import type { StoreFillOp } from "./fill-op.ts";
import { GroupLog } from "./group-log.ts";
import { checkLog } from "./log-invariants.ts";
import { LogQueue } from "./log-queue.ts";
import { LogRoom } from "./log-room.ts";
import type { LogSpace } from "./log-space.ts";
import { type ControlRecord, inlineBlocks, type RecordType } from "./record.ts";

/** What the log tells its owner: in handler or drain phases, in the order of the log. */
export interface LogOwner {
  onEntriesDurable(row: number, index: number, term: number): void;
  onHardStateDurable(row: number): void;
  /** A local record is durable; it goes back to its pool after the call. */
  onControlDurable(record: ControlRecord): void;
  /** A fill is durable; orphaned ones are told too. In the order in which they were appended. */
  onFillDurable(op: StoreFillOp): void;
  /** A batch is durable; background work that waited for a commit index may go on. */
  onBatchDurable(): void;
}

export interface ShardLogOptions {
  readonly world: World;
  readonly device: Device;
  readonly owner: LogOwner;
  readonly entries: EntryPool;
  readonly space: LogSpace;
  readonly batches: BatchTable;
  readonly slots: SlotTable;
  readonly quarantine: Quarantine;
  readonly shard: number;
  readonly incarnation: number;
  /** Seed of batch checksums: crc of the store's uuid. */
  readonly seed: number;
  /** Where the log ended at start: next log block, tail block, crc of the last batch. */
  readonly headPosition: number;
  readonly tailPosition: number;
  readonly lastCrc: number;
  /** Whether nobody needs to vouch for what the log held at start. */
  readonly isVouched: boolean;
  readonly vouchUs: number;
  /** Arena offset of two batch buffers of 1 MiB each. */
  readonly buffers: number;
}

/**
 * The log of one shard, shared by all of its groups (`store.md`, write path 1 to 4).
 *
 * Entries, hard states and local records queued in a turn (`LogQueue`) leave as one batch: one durable
 * write (`BatchComposer`, `BatchWriter`). Whole aligned units of an entry are written beside it,
 * directly into free units, from `append` on (`DirectUnits`). `LogRoom` keeps account of the space.
 * Here each group's rows follow what happens to its entries: appended, durable, applied, cut.
 *
 * An entry is durable when its batch and all before it are, and the direct writes of its group up to
 * it. Any error fails the log for good.
 */
export class ShardLog implements BatchOwner, DirectOwner {
  readonly groups: GroupLog[] = [];
  readonly batches: BatchTable;
  readonly space: LogSpace;
  /** Grow for ever. */
  entriesAppended = 0;
  entriesAgain = 0;
  appendedAtUs = 0;

  private readonly world: World;
  private readonly owner: LogOwner;
  private readonly entries: EntryPool;
  private readonly room: LogRoom;
  private readonly queue: LogQueue;
  private readonly composer: BatchComposer;
  private readonly writer: BatchWriter;
  private readonly directs: DirectUnits;
  private freeRows: number[] = [];

  constructor(options: ShardLogOptions) {
    this.world = options.world;
    this.owner = options.owner;
    this.entries = options.entries;
    this.space = options.space;
    this.batches = options.batches;
    const { space, slots, headPosition, tailPosition } = options;
    this.room = new LogRoom(space, slots, headPosition, tailPosition);
    this.queue = new LogQueue(options.world, options.entries, this.groups);
    this.composer = new BatchComposer(options, this.queue, this.room, this.groups);
    this.writer = new BatchWriter(options, this.queue, this.composer, this);
    this.directs = new DirectUnits(options, this.room, this);
  }

  /** Log block at which the next batch begins, if it fits before the end of the run. */
  get headPosition(): number {
    return this.room.headPosition;
  }

  /** Blocks between tail and head, with what is queued. */
  get usedBlocks(): number {
    return this.room.usedBlocks;
  }

  /** Inline blocks of entries that are not applied. */
  get unappliedBlocks(): number {
    return this.room.unapplied.blocks;
  }

  /** R4: log blocks that entries and the second copies of those that are not applied may take. */
  get roomAgain(): number {
    return this.room.roomAgain;
  }

  /** Units set aside for entries and fills that are not applied. */
  get reservedUnits(): number {
    return this.room.reservedUnits;
  }

  set reservedUnits(units: number) {
    this.room.reservedUnits = units;
  }

  /** The last batch that is durable with all before it. */
  get completedSeq(): number {
    return this.writer.completedSeq;
  }

  get failed(): boolean {
    return this.writer.failed;
  }

  /** Grow for ever. */
  get batchesWritten(): number {
    return this.writer.batchesWritten;
  }

  get bytesWritten(): number {
    return this.writer.bytesWritten;
  }

  get bytesDirect(): number {
    return this.directs.bytesWritten;
  }

  /** Nothing queued, nothing under way. */
  get quiet(): boolean {
    return this.writer.inFlight === 0 && this.directs.inFlight === 0 && !this.queue.hasWork;
  }

  /** Blocks between tail and head. */
  get livingBlocks(): number {
    return this.room.headPosition - this.room.tailPosition;
  }

  /** Units are being written beside the log. */
  get writesDirectly(): boolean {
    return this.directs.inFlight > 0;
  }

  /** Local records are queued or under way. */
  get hasControls(): boolean {
    return this.queue.controlHead !== null || this.writer.hasControls;
  }

  group(row: number): GroupLog {
    const group = this.groups[row];
    assert(group !== undefined, "ShardLog: no such row");
    assert(group.alive, "ShardLog: the row is free");
    return group;
  }

  // cold: once per replica.
  /** A row for a new replica. Its log begins after (base, baseTerm). */
  openGroup(pg: number, replicaId: number, base: number, baseTerm: number): GroupLog {
    let row = this.freeRows.pop();
    if (row === undefined) {
      row = this.groups.length;
      assert(row < 65_535, "ShardLog: too many replicas on one shard");
      this.groups.push(new GroupLog(row, this.room.unapplied));
    }
    const group = this.groups[row]!;
    group.reset(pg, replicaId, base, baseTerm);
    return group;
  }

  /** Drop a group: whatever is queued of it is not written. The row stays taken until `freeRow`. */
  closeGroup(row: number): void {
    const group = this.group(row);
    if (group.last > group.applied) this.cut(group, group.applied + 1);
    assert(group.pendingHead === null, "ShardLog.closeGroup: entries are pending");
    group.alive = false;
    this.orphanFills(row);
  }

  // cold: once per fill of a replica.
  /**
   * The group's log goes on behind (index, term) as if everything up to it were applied. Entries
   * above stay when the log holds (index, term); else they are dropped. Answers the first batch that
   * holds one of those, or Infinity.
   */
  rebase(group: GroupLog, index: number, term: number): number {
    assert(group.pendingHead === null, "ShardLog.rebase: entries are pending");
    group.frozen = true;
    const stays = group.termAt(index) === term;
    let dropped = Number.POSITIVE_INFINITY;
    for (let at = index + 1; at <= group.last && !stays; at++) {
      dropped = Math.min(dropped, group.seqAt(at));
    }
    if (!stays && group.last > group.applied) this.cut(group, group.applied + 1);
    // What is skipped is not applied any more: its units are nobody's.
    for (let at = group.applied + 1; at <= Math.min(index, group.last); at++) {
      this.dropEntry(group, at);
    }
    group.rebase(index, term);
    return dropped;
  }

  // cold: once per fill of a replica.
  /** A checkpoint has the group's new position: it is committed, durably here. */
  positionDurable(group: GroupLog): void {
    group.frozen = false;
    const index = group.applied;
    group.commit = Math.max(group.commit, index);
    group.commitLogged = Math.max(group.commitLogged, index);
    group.commitDurable = Math.max(group.commitDurable, index);
  }

  // cold: once per renewed replica.
  /** Begin the group anew, under another replica id, with an empty log. */
  renewGroup(group: GroupLog, replicaId: number): void {
    const homeVersion = Math.max(group.homeVersion, group.applied);
    if (group.last > group.applied) this.cut(group, group.applied + 1);
    group.reset(group.pg, replicaId, 0, 0);
    group.homeVersion = homeVersion;
  }

  // cold: when many groups fell quiet.
  /** See `LogQueue.shrink`. */
  shrink(): void {
    this.queue.shrink();
  }

  freeRow(row: number): void {
    assert(!this.groups[row]!.alive, "ShardLog.freeRow: the row is in use");
    this.freeRows.push(row);
  }

  /* --------------------------------------------------------------- append */

  /** See `LogRoom.reserve`. Answers Ok, NoSpace, Busy, DeviceFailed. */
  reserve(row: number, entry: Entry, units: number, direct: number): Status {
    if (this.failed) return Status.DeviceFailed;
    assert(entry.reservedLogBlocks === 0, "ShardLog.reserve: reserved already");
    return this.room.reserve(this.group(row), entry, units, direct);
  }

  unreserve(entry: Entry): void {
    this.room.unreserve(entry);
  }

  append(row: number, entry: Entry): void {
    if (this.failed) {
      this.unreserve(entry);
      return;
    }
    const group = this.group(row);
    assert(entry.reservedLogBlocks > 0, "ShardLog.append: nothing is reserved");
    assert(!group.frozen, "ShardLog.append: the group takes another position");
    entry.group = row;
    entry.truncates = entry.index <= group.last;
    if (entry.truncates) this.cut(group, entry.index);
    this.directs.take(entry);
    const reserved = entry.reservedUnits;
    this.room.queueReserved(entry);
    entry.reservedUnits = 0;
    entry.batchSeq = 0;
    entry.inlineBlock = -1;
    entry.orphaned = false;
    group.push(entry, inlineBlocks(entry), reserved);
    this.entries.retain(entry);
    entry.entryNext = null;
    if (group.pendingTail === null) group.pendingHead = entry;
    else group.pendingTail.entryNext = entry;
    group.pendingTail = entry;
    this.queue.pushEntry(entry);
    this.directs.submit(entry);
    this.entriesAppended += 1;
    this.appendedAtUs = this.world.clock.turnUs;
  }

  /** Append a copy of an entry that is in the log and not applied once more, at the head. */
  appendAgain(row: number, entry: Entry): void {
    entry.group = row;
    entry.again = true;
    entry.truncates = false;
    entry.batchSeq = 0;
    entry.reservedLogBlocks = inlineBlocks(entry) + 1;
    this.room.queuedBlocks += entry.reservedLogBlocks;
    this.queue.pushEntry(entry);
    this.entriesAgain += 1;
  }

  /** R6: drop the entries from `index` on; their direct units are freed. */
  cut(group: GroupLog, index: number): void {
    for (let at = index; at <= group.last; at++) this.dropEntry(group, at);
    let kept: Entry | null = null;
    let entry = group.pendingHead;
    while (entry !== null && entry.index < index) {
      kept = entry;
      entry = entry.entryNext;
    }
    if (kept === null) group.pendingHead = null;
    else kept.entryNext = null;
    group.pendingTail = kept;
    while (entry !== null) {
      const next: Entry | null = entry.entryNext;
      entry.entryNext = null;
      entry.orphaned = true;
      if (entry.directPending === 0) this.directs.dropOrphan(entry);
      this.entries.release(entry);
      entry = next;
    }
    group.cut(index);
  }

  /** The entry will not be applied: give back what was set aside and the direct units. */
  private dropEntry(group: GroupLog, index: number): void {
    this.room.reservedUnits -= group.reservedAt(index);
    if (index <= group.durable) this.directs.drop(group, index);
  }

  /** The entry was applied: what was set aside for it is free again. */
  setApplied(group: GroupLog, index: number): void {
    this.room.reservedUnits -= group.reservedAt(index);
    group.setApplied(index);
    this.setCommit(group, index);
  }

  /* ----------------------------------------------------------------- fills */

  // cold: fills are recovery.
  /**
   * Append a fill; `onFillDurable` follows. Its record carries the group's commit index, which is
   * not below `op.at`: what it says may be written home as soon as it is durable (R2). Answers Ok,
   * NoSpace, Busy, DeviceFailed; anything but Ok: nothing follows.
   */
  appendFill(op: StoreFillOp, units: number): Status {
    if (this.failed) return Status.DeviceFailed;
    const status = this.room.queueFill(op, units);
    if (status === Status.Ok) this.queue.pushFill(op);
    return status;
  }

  // cold: fills are recovery.
  /** A fill was applied, or is not to be: what was set aside for it is free again. */
  fillEnded(op: StoreFillOp): void {
    this.room.reservedUnits -= op.reservedUnits;
    op.reservedUnits = 0;
  }

  // cold: once per removed replica.
  private orphanFills(row: number): void {
    for (let op = this.queue.fillHead; op !== null; op = op.fillNext) {
      if (op.row === row) op.orphaned = true;
    }
    for (const io of this.writer.ios) {
      for (let op = io.fillList; op !== null; op = op.fillNext) {
        if (op.row === row) op.orphaned = true;
      }
    }
  }

  // cold: once per failed device.
  /** Let go of all fills: they are durable no more. Answers them as a chain. */
  dropFills(): StoreFillOp | null {
    let chain = this.queue.takeFills();
    for (const io of this.writer.ios) {
      let op = io.fillList;
      io.fillList = null;
      while (op !== null) {
        const next: StoreFillOp | null = op.fillNext;
        op.fillNext = chain;
        chain = op;
        op = next;
      }
    }
    return chain;
  }

  /* ----------------------------------------------- hard state, local records */

  putHardState(row: number, term: number, vote: number, commit: number): void {
    const group = this.group(row);
    assert(term >= group.term, "ShardLog.putHardState: the term falls");
    group.term = term;
    group.vote = vote;
    if (commit > group.commit && !group.frozen) group.commit = commit;
    group.hardStateWanted = true;
    this.queue.pushHardState(group);
  }

  setCommit(group: GroupLog, commit: number): void {
    if (commit > group.commit && !group.frozen) group.commit = commit;
    this.queue.listCommit(group);
  }

  /** Write the commit index of the group soon, unless a record carries it already. */
  wantCommit(group: GroupLog): void {
    this.queue.wantCommit(group);
  }

  /** A cleared local record from the pool; hand it over with `putControl`. */
  takeControl(type: RecordType): ControlRecord {
    return this.queue.takeControl(type);
  }

  putControl(record: ControlRecord): void {
    this.queue.pushControl(record);
  }

  /* ----------------------------------------------------------- completions */

  /** Called by `BatchWriter` only. */
  onBatchDurable(io: BatchIo): void {
    this.composer.placeAgain(io);
    let record = io.controlList;
    io.controlList = null;
    while (record !== null) {
      const next: ControlRecord | null = record.controlNext;
      record.controlNext = null;
      this.owner.onControlDurable(record);
      this.queue.recycle(record);
      record = next;
    }
    for (let at = 0; at < io.rows.count; at++) {
      const group = this.groups[io.rows.items[at]!]!;
      if (!group.alive || !group.onListed(io.seq)) continue;
      if (group.hardStateWanted && !group.hardStateQueued && group.hardStateSeq === io.seq) {
        group.hardStateWanted = false;
        this.owner.onHardStateDurable(group.row);
      }
      if (group.alive) this.advanceGroup(group);
    }
    this.finishFills(io);
    this.owner.onBatchDurable();
  }

  private finishFills(io: BatchIo): void {
    let op = io.fillList;
    io.fillList = null;
    while (op !== null) {
      const next: StoreFillOp | null = op.fillNext;
      op.fillNext = null;
      this.owner.onFillDurable(op);
      op = next;
    }
  }

  private advanceGroup(group: GroupLog): void {
    const before = group.durable;
    for (;;) {
      const entry = group.pendingHead;
      if (entry === null || entry.directPending > 0) break;
      if (entry.batchSeq === 0 || entry.batchSeq > this.completedSeq) break;
      group.pendingHead = entry.entryNext;
      if (group.pendingHead === null) group.pendingTail = null;
      entry.entryNext = null;
      group.durable = entry.index;
      if (entry.trace !== 0) this.world.trace.stamp(entry.trace, Stage.Durable);
      this.entries.release(entry);
    }
    if (group.durable === before) return;
    this.owner.onEntriesDurable(group.row, group.durable, group.termAt(group.durable));
  }

  /** Called by `DirectUnits` only. */
  onDirectDone(entry: Entry, status: Status): void {
    if (status !== Status.Ok) this.writer.fail();
    this.writer.directDone(entry.batchSeq);
    if (entry.directPending > 0) return;
    if (entry.orphaned) this.directs.dropOrphan(entry);
    else if (!this.failed) this.advanceGroup(this.groups[entry.group]!);
  }

  /** Forget batches below `seq`: their blocks are free. Requires: a checkpoint covers it. */
  moveTail(seq: number): void {
    this.batches.dropBelow(seq);
    this.room.tailPosition =
      seq < this.batches.nextSeq ? this.batches.positionOf(seq) : this.headPosition;
    for (let row = 0; row < this.groups.length; row++) {
      const group = this.groups[row]!;
      if (!group.alive) continue;
      group.dropUpTo(group.baseFor(seq, group.applied));
    }
    if (this.queue.hasWork) this.world.turns.again();
  }

  // cold: for `verifying` runs.
  /** Check what the log's parts promise. `unitsBeside`: set aside for fills that were found at start. */
  invariants(unitsBeside: number): void {
    const { room, queue, batches, groups } = this;
    const fills = this.writer.ios.map((io) => io.fillList);
    checkLog({ room, queue, batches, groups, fills }, unitsBeside);
  }

  /** Nothing is durable any more. */
  stop(): void {
    this.writer.fail();
  }

  /** Stop timers; requires `quiet` or `failed`. */
  close(): void {
    this.writer.close();
  }

  // cold: once per stop.
  /**
   * Vouch for the last batch, and never again: behind that batch nothing is written by itself.
   * Requires: `quiet`.
   */
  vouchNow(): void {
    this.writer.vouchNow();
  }
}
