// data path
import { assert } from "../base/assert.ts";
import { Status } from "../base/status.ts";
import { BLOCK_SIZE, BLOCKS_PER_UNIT, UNIT_SIZE } from "../base/units.ts";
import { type Device, DeviceOp, DeviceRegion } from "../device/device.ts";
import { DiskVerb, type Drain, DrainOrder, Timer, type World } from "../reactor/world.ts";
import { NONE, type Quarantine, SlotState, type SlotTable } from "../store/store.ts";
import { BATCH_BLOCKS_MAX, BATCH_HEADER_SIZE, BatchHeader, sealBatch } from "./batch.ts";
import type { BatchTable } from "./batch-table.ts";
import { type Entry, EntryType } from "./entry.ts";
import type { EntryPool } from "./entry-pool.ts";
import { GroupLog } from "./group-log.ts";
import type { LogSpace } from "./log-space.ts";
import {
  ControlRecord,
  controlSize,
  encodeControl,
  encodeEntry,
  headBlocks,
  inlineBlocks,
  RecordType,
  recordSize,
  wholeUnits,
} from "./record.ts";
import { RowList } from "./row-list.ts";

/** What the log tells its owner: in handler or drain phases, in the order of the log. */
export interface LogOwner {
  onEntriesDurable(row: number, index: number, term: number): void;
  onHardStateDurable(row: number): void;
  /** A local record is durable; it goes back to its pool after the call. */
  onControlDurable(record: ControlRecord): void;
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
  readonly vouchUs: number;
  /** Arena offset of two batch buffers of 1 MiB each. */
  readonly buffers: number;
}

const IN_FLIGHT_MAX = 2;
const BATCH_BYTES_MAX = BATCH_BLOCKS_MAX * BLOCK_SIZE;
/** Share of the ring that entries may fill; the rest is for local records and R4. */
const FILL_SHARE_MAX = 0.7;
/** R4: entries of a group that are not applied, in inline blocks (8 MiB). */
const UNAPPLIED_BLOCKS_MAX = 2048;
/** Header blocks of a batch at most: 64 KiB of records. */
const HEADER_BYTES_MAX = 16 * BLOCK_SIZE;
const COMPOSE_CAPACITY_START = 256;

/**
 * The log of one shard, shared by all of its groups (`store.md`, write path 1 to 4).
 *
 * Entries, hard states and local records queued in a turn leave as one batch: one durable write.
 * Whole aligned units of an entry are written beside it, directly into free units, from `append` on.
 * At most two batches are under way; they complete in the order of their sequence.
 *
 * An entry is durable when its batch and all before it are, and the direct writes of its group up to
 * it. Any error fails the log for good.
 *
 * Invariants: tailPosition ≤ headPosition ≤ tailPosition + ringBlocks;
 * directSeq ≤ completedSeq < batches.nextSeq ≤ completedSeq + 3.
 */
export class ShardLog implements Drain {
  readonly groups: GroupLog[] = [];
  readonly batches: BatchTable;
  readonly space: LogSpace;
  headPosition: number;
  tailPosition: number;
  completedSeq: number;
  directSeq: number;
  /** Units set aside for entries that are not applied, log blocks for entries not appended. */
  reservedUnits = 0;
  reservedBlocks = 0;
  failed = false;
  /** Grow for ever. */
  entriesAppended = 0;
  entriesAgain = 0;
  batchesWritten = 0;
  bytesWritten = 0;
  bytesDirect = 0;
  appendedAtUs = 0;

  private readonly world: World;
  private readonly device: Device;
  private readonly owner: LogOwner;
  private readonly entries: EntryPool;
  private readonly slots: SlotTable;
  private readonly quarantine: Quarantine;
  private readonly shard: number;
  private readonly incarnation: number;
  private readonly seed: number;
  private readonly unitSlack: number;
  private readonly vouchUs: number;
  private readonly header = new BatchHeader();
  private readonly vouch: VouchTimer;
  private lastCrc: number;
  private lastWasEmpty = false;

  private compose: (Entry | null)[];
  private composeHead = 0;
  private composeCount = 0;
  /** Log blocks that the queued entries will take. */
  private queuedBlocks = 0;
  private controlHead: ControlRecord | null = null;
  private controlTail: ControlRecord | null = null;
  private controlFree: ControlRecord | null = null;
  private readonly hardRows = new RowList();
  private readonly commitRows = new RowList();
  private freeRows: number[] = [];

  private readonly ios: BatchIo[] = [];
  private inFlight = 0;
  private directFree: DirectIo | null = null;
  private directsInFlight = 0;

  constructor(options: ShardLogOptions) {
    this.world = options.world;
    this.device = options.device;
    this.owner = options.owner;
    this.entries = options.entries;
    this.space = options.space;
    this.batches = options.batches;
    this.slots = options.slots;
    this.quarantine = options.quarantine;
    this.shard = options.shard;
    this.incarnation = options.incarnation;
    this.seed = options.seed;
    this.headPosition = options.headPosition;
    this.tailPosition = options.tailPosition;
    this.lastCrc = options.lastCrc;
    this.vouchUs = options.vouchUs;
    this.completedSeq = options.batches.nextSeq - 1;
    this.directSeq = this.completedSeq;
    this.unitSlack = Math.max(32, Math.floor(this.slots.unitsTotal / 256));
    this.vouch = new VouchTimer(this);
    this.compose = new Array<Entry | null>(COMPOSE_CAPACITY_START).fill(null);
    for (let at = 0; at < IN_FLIGHT_MAX; at++) {
      this.ios.push(new BatchIo(this, options.buffers + at * BATCH_BYTES_MAX));
    }
    this.world.turns.addDrain(DrainOrder.Log, this);
  }

  /** Blocks between tail and head, with what is queued. */
  get usedBlocks(): number {
    return this.headPosition - this.tailPosition + this.queuedBlocks;
  }

  /** Nothing queued, nothing under way. */
  get quiet(): boolean {
    return this.inFlight === 0 && this.directsInFlight === 0 && !this.hasWork();
  }

  /** Local records are queued or under way. */
  get hasControls(): boolean {
    if (this.controlHead !== null) return true;
    for (let at = 0; at < IN_FLIGHT_MAX; at++) {
      if (this.ios[at]!.busy && this.ios[at]!.controlList !== null) return true;
    }
    return false;
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
      this.groups.push(new GroupLog(row));
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
  }

  freeRow(row: number): void {
    assert(!this.groups[row]!.alive, "ShardLog.freeRow: the row is in use");
    this.freeRows.push(row);
  }

  /* --------------------------------------------------------------- reserve */

  /** Set log space and `units` units aside. Answers Ok, NoSpace, Busy, DeviceFailed. */
  reserve(row: number, entry: Entry, units: number): Status {
    if (this.failed) return Status.DeviceFailed;
    assert(entry.reservedLogBlocks === 0, "ShardLog.reserve: reserved already");
    const group = this.group(row);
    const whole = entry.type === EntryType.Write ? wholeUnits(entry.firstBlock, entry.blocks) : 0;
    const inline = entry.type === EntryType.Write ? entry.blocks - whole * BLOCKS_PER_UNIT : 0;
    if (units > 0 && this.slots.freeUnits - this.reservedUnits - units < this.unitSlack) {
      return Status.NoSpace;
    }
    if (inline > 0 && group.unappliedBlocks + inline > UNAPPLIED_BLOCKS_MAX) return Status.Busy;
    const blocks = inline + 1;
    const limit = this.space.ringBlocks * FILL_SHARE_MAX;
    if (this.usedBlocks + this.reservedBlocks + blocks > limit) return Status.Busy;
    entry.reservedUnits = units;
    entry.reservedLogBlocks = blocks;
    this.reservedUnits += units;
    this.reservedBlocks += blocks;
    return Status.Ok;
  }

  unreserve(entry: Entry): void {
    this.reservedUnits -= entry.reservedUnits;
    this.reservedBlocks -= entry.reservedLogBlocks;
    entry.reservedUnits = 0;
    entry.reservedLogBlocks = 0;
  }

  /* ---------------------------------------------------------------- append */

  append(row: number, entry: Entry): void {
    if (this.failed) {
      this.unreserve(entry);
      return;
    }
    const group = this.group(row);
    assert(entry.reservedLogBlocks > 0, "ShardLog.append: nothing is reserved");
    entry.group = row;
    entry.truncates = entry.index <= group.last;
    if (entry.truncates) this.cut(group, entry.index);
    this.takeUnits(entry);
    const reserved = entry.reservedUnits;
    this.reservedBlocks -= entry.reservedLogBlocks;
    this.queuedBlocks += entry.reservedLogBlocks;
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
    this.queueEntry(entry);
    this.submitDirects(entry);
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
    this.queuedBlocks += entry.reservedLogBlocks;
    this.queueEntry(entry);
    this.entriesAgain += 1;
  }

  private queueEntry(entry: Entry): void {
    this.entries.retain(entry);
    if (this.composeCount === this.compose.length) this.growCompose();
    this.compose[(this.composeHead + this.composeCount) & (this.compose.length - 1)] = entry;
    this.composeCount += 1;
    this.world.turns.again();
  }

  /** Direct units: whole aligned ones, new for each write. Space was reserved. */
  private takeUnits(entry: Entry): void {
    entry.unitCount = 0;
    if (entry.type !== EntryType.Write) return;
    assert(entry.payload >= 0, "ShardLog.append: a write without payload");
    const whole = wholeUnits(entry.firstBlock, entry.blocks);
    for (let unit = 0; unit < whole; unit++) {
      const slot =
        unit === 0 ? this.slots.takeUnit() : this.slots.takeUnitAfter(entry.units[unit - 1]!);
      assert(slot !== NONE, "ShardLog.append: reserved units are gone");
      entry.units[unit] = slot;
      entry.unitCount = unit + 1;
    }
    assert(entry.reservedUnits >= whole, "ShardLog.append: units were not reserved");
    entry.reservedUnits -= whole;
    this.reservedUnits -= whole;
  }

  private submitDirects(entry: Entry): void {
    const from = entry.payload + headBlocks(entry.firstBlock, entry.blocks) * BLOCK_SIZE;
    let unit = 0;
    while (unit < entry.unitCount) {
      let count = 1;
      while (
        unit + count < entry.unitCount &&
        entry.units[unit + count] === entry.units[unit]! + count
      ) {
        count += 1;
      }
      const io = this.takeDirect();
      io.entry = entry;
      io.verb = DiskVerb.WriteDurable;
      io.region = DeviceRegion.Data;
      io.arenaOffset = from + unit * UNIT_SIZE;
      io.lengthBytes = count * UNIT_SIZE;
      io.offsetBytes = this.slots.unitOffset(entry.units[unit]!);
      this.entries.retain(entry);
      entry.directPending += 1;
      this.directsInFlight += 1;
      this.bytesDirect += io.lengthBytes;
      this.device.submit(io);
      unit += count;
    }
  }

  /** R6: drop the entries from `index` on; their direct units are freed. */
  cut(group: GroupLog, index: number): void {
    for (let at = index; at <= group.last; at++) {
      this.reservedUnits -= group.reservedAt(at);
      if (at > group.durable) continue;
      for (let unit = 0; unit < group.unitCountAt(at); unit++) {
        const slot = group.unitAt(at, unit);
        // After a restart the unit may wait in quarantine already.
        if (this.slots.stateOf(slot) !== SlotState.Taken) continue;
        this.quarantine.put(slot, 0, this.batches.nextSeq);
      }
    }
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
      if (entry.directPending === 0) this.freeOrphan(entry);
      this.entries.release(entry);
      entry = next;
    }
    group.cut(index);
  }

  private freeOrphan(entry: Entry): void {
    for (let unit = 0; unit < entry.unitCount; unit++) {
      this.quarantine.put(entry.units[unit]!, 0, this.batches.nextSeq);
    }
    entry.unitCount = 0;
  }

  /** The entry was applied: what was set aside for it is free again. */
  setApplied(group: GroupLog, index: number): void {
    this.reservedUnits -= group.reservedAt(index);
    group.setApplied(index);
    this.setCommit(group, index);
  }

  /* ----------------------------------------------- hard state, local records */

  putHardState(row: number, term: number, vote: number, commit: number): void {
    const group = this.group(row);
    assert(term >= group.term, "ShardLog.putHardState: the term falls");
    group.term = term;
    group.vote = vote;
    if (commit > group.commit) group.commit = commit;
    group.hardStateWanted = true;
    this.queueHardState(group);
  }

  setCommit(group: GroupLog, commit: number): void {
    if (commit > group.commit) group.commit = commit;
    if (group.commit <= group.commitLogged || group.commitListed) return;
    group.commitListed = true;
    this.commitRows.push(group.row);
  }

  /** Write the commit index of the group soon, unless a record carries it already. */
  wantCommit(group: GroupLog): void {
    if (group.commit > group.commitLogged) this.queueHardState(group);
  }

  /** Write every commit index that no record carries. */
  wantCommits(): void {
    for (let at = 0; at < this.commitRows.count; at++) {
      const group = this.groups[this.commitRows.items[at]!]!;
      group.commitListed = false;
      if (group.alive) this.wantCommit(group);
    }
    this.commitRows.count = 0;
  }

  private queueHardState(group: GroupLog): void {
    if (group.hardStateQueued) return;
    group.hardStateQueued = true;
    this.hardRows.push(group.row);
    this.world.turns.again();
  }

  /** A cleared local record from the pool; hand it over with `putControl`. */
  takeControl(type: RecordType): ControlRecord {
    let record = this.controlFree;
    if (record === null) record = makeControl();
    else this.controlFree = record.controlNext;
    record.type = type;
    record.row = 0;
    record.pg = 0;
    record.replicaId = 0;
    record.term = 0;
    record.index = 0;
    record.commit = 0;
    record.session = 0;
    record.layer = 0;
    record.snapSeq = 0;
    record.data = null;
    record.controlNext = null;
    return record;
  }

  putControl(record: ControlRecord): void {
    if (this.controlTail === null) this.controlHead = record;
    else this.controlTail.controlNext = record;
    this.controlTail = record;
    this.world.turns.again();
  }

  /* ----------------------------------------------------------------- drain */

  drain(): void {
    while (this.inFlight < IN_FLIGHT_MAX && this.hasWork() && !this.failed) {
      if (!this.composeBatch()) return;
    }
  }

  private hasWork(): boolean {
    return this.composeCount > 0 || this.controlHead !== null || this.hardRows.count > 0;
  }

  /** R7: vouch for the last batch, and make the newest commit indexes durable. */
  onVouch(): void {
    if (this.failed || this.inFlight > 0 || this.hasWork()) return;
    this.wantCommits();
    if (!this.composeBatch()) return;
    this.lastWasEmpty = true;
  }

  /** Compose and submit one batch. False when the ring has no room for it. */
  private composeBatch(): boolean {
    const io = this.freeIo();
    this.measure(io);
    const headerBlocks = Math.ceil((BATCH_HEADER_SIZE + io.recordBytes) / BLOCK_SIZE);
    const blocks = headerBlocks + io.payloadBlocks;
    const contiguous = this.space.contiguous(this.headPosition);
    const start = this.headPosition + (contiguous < blocks ? contiguous : 0);
    if (start + blocks - this.tailPosition > this.space.ringBlocks) return false;
    const seq = this.batches.nextSeq;
    io.begin(seq);
    this.world.arena.bytes.fill(0, io.buffer, io.buffer + headerBlocks * BLOCK_SIZE);
    const directs = this.encodeRecords(io, start, headerBlocks);
    const header = this.header;
    header.shard = this.shard;
    header.incarnation = this.incarnation;
    header.seq = seq;
    header.durableSeq = this.completedSeq;
    header.directSeq = this.directSeq;
    header.prevCrc = this.lastCrc;
    header.headerBlocks = headerBlocks;
    header.payloadBlocks = io.payloadBlocks;
    header.records = io.records;
    header.recordBytes = io.recordBytes;
    const world = this.world;
    this.lastCrc = sealBatch(world.arena, io.buffer, header, this.seed, world.checksum);
    this.batches.push(start, this.lastCrc, this.incarnation, directs);
    this.headPosition = start + blocks;
    this.lastWasEmpty = false;
    this.inFlight += 1;
    io.verb = DiskVerb.WriteDurable;
    io.region = DeviceRegion.Log;
    io.arenaOffset = io.buffer;
    io.lengthBytes = blocks * BLOCK_SIZE;
    io.offsetBytes = this.space.deviceOffset(start);
    this.batchesWritten += 1;
    this.bytesWritten += io.lengthBytes;
    this.device.submit(io);
    return true;
  }

  /** Choose what goes into the batch: counts only. */
  private measure(io: BatchIo): void {
    let bytes = 0;
    let controls = 0;
    let control = this.controlHead;
    while (control !== null && bytes + controlSize(control) <= HEADER_BYTES_MAX / 2) {
      bytes += controlSize(control);
      controls += 1;
      control = control.controlNext;
    }
    let hardStates = 0;
    while (hardStates < this.hardRows.count && bytes + HARD_STATE_SIZE <= HEADER_BYTES_MAX / 2) {
      bytes += HARD_STATE_SIZE;
      hardStates += 1;
    }
    let payload = 0;
    let entries = 0;
    let written = 0;
    // Local records left over must precede the entries that rely on them.
    const open = control === null && hardStates === this.hardRows.count;
    while (open && entries < this.composeCount) {
      const entry = this.composeAt(entries);
      if (this.isStale(entry)) {
        entries += 1;
        continue;
      }
      const size = recordSize(entry);
      const inline = inlineBlocks(entry);
      const headers = Math.ceil((BATCH_HEADER_SIZE + bytes + size) / BLOCK_SIZE);
      if (headers * BLOCK_SIZE > HEADER_BYTES_MAX) break;
      if (headers + payload + inline > BATCH_BLOCKS_MAX) break;
      bytes += size;
      payload += inline;
      entries += 1;
      written += 1;
    }
    io.controls = controls;
    io.hardStates = hardStates;
    io.entries = entries;
    io.records = controls + hardStates + written;
    io.recordBytes = bytes;
    io.payloadBlocks = payload;
  }

  /** An entry that needs no record any more: cut, applied meanwhile, or its group is gone. */
  private isStale(entry: Entry): boolean {
    if (entry.orphaned) return true;
    if (!entry.again) return false;
    const group = this.groups[entry.group]!;
    return !group.alive || entry.index <= group.applied || group.termAt(entry.index) !== entry.term;
  }

  private composeAt(which: number): Entry {
    const entry = this.compose[(this.composeHead + which) & (this.compose.length - 1)];
    assert(entry !== null && entry !== undefined, "ShardLog: hole in the queue of entries");
    return entry;
  }

  /** Write the measured records and payload; answers the direct writes still under way. */
  private encodeRecords(io: BatchIo, start: number, headerBlocks: number): number {
    let at = io.buffer + BATCH_HEADER_SIZE;
    for (let count = 0; count < io.controls; count++) {
      const record = this.controlHead!;
      this.controlHead = record.controlNext;
      if (this.controlHead === null) this.controlTail = null;
      at += encodeControl(this.world.arena.view, at, record);
      io.addControl(record);
    }
    for (let count = 0; count < io.hardStates; count++) at += this.encodeHardState(io, count, at);
    this.hardRows.dropFirst(io.hardStates);
    let directs = 0;
    let inlineFirst = 0;
    for (let count = 0; count < io.entries; count++) {
      const entry = this.composeAt(0);
      this.compose[this.composeHead] = null;
      this.composeHead = (this.composeHead + 1) & (this.compose.length - 1);
      this.composeCount -= 1;
      this.queuedBlocks -= entry.reservedLogBlocks;
      entry.reservedLogBlocks = 0;
      if (!this.isStale(entry)) {
        at += this.encodeOne(io, entry, at, start + headerBlocks, inlineFirst);
        const payloadAt = io.buffer + (headerBlocks + inlineFirst) * BLOCK_SIZE;
        inlineFirst += this.copyInline(entry, payloadAt);
        directs += entry.directPending;
      }
      this.entries.release(entry);
    }
    return directs;
  }

  private encodeOne(
    io: BatchIo,
    entry: Entry,
    at: number,
    payloadStart: number,
    inlineFirst: number,
  ): number {
    const group = this.groups[entry.group]!;
    const inlineBlock = inlineBlocks(entry) > 0 ? payloadStart + inlineFirst : -1;
    entry.batchSeq = io.seq;
    entry.inlineBlock = inlineBlock;
    entry.recordAt = at - io.buffer;
    // A second copy counts only once it is durable: until then the first one is read.
    if (entry.again) this.holdAgain(io, entry);
    else group.place(entry.index, io.seq, entry.recordAt, inlineBlock);
    this.touch(io, group);
    const view = this.world.arena.view;
    return encodeEntry(view, at, entry, group.pg, group.replicaId, group.commit, inlineFirst);
  }

  private holdAgain(io: BatchIo, entry: Entry): void {
    this.entries.retain(entry);
    entry.entryNext = io.againList;
    io.againList = entry;
  }

  /** The second copies of a batch are durable: they replace the first. */
  private placeAgain(io: BatchIo): void {
    let entry = io.againList;
    io.againList = null;
    while (entry !== null) {
      const next: Entry | null = entry.entryNext;
      entry.entryNext = null;
      const group = this.groups[entry.group]!;
      if (!this.isStale(entry)) {
        group.place(entry.index, io.seq, entry.recordAt, entry.inlineBlock);
      }
      this.entries.release(entry);
      entry = next;
    }
  }

  private encodeHardState(io: BatchIo, which: number, at: number): number {
    const group = this.groups[this.hardRows.items[which]!]!;
    const record = this.takeControl(RecordType.HardState);
    group.hardStateQueued = false;
    record.pg = group.pg;
    record.replicaId = group.replicaId;
    record.term = group.term;
    record.session = group.vote;
    record.commit = group.commit;
    const size = encodeControl(this.world.arena.view, at, record);
    this.recycle(record);
    group.hardStateSeq = io.seq;
    if (group.alive) this.touch(io, group);
    return size;
  }

  private touch(io: BatchIo, group: GroupLog): void {
    const parity = io.seq % 2;
    group.commitInFlight[parity] = group.commit;
    if (group.commit > group.commitLogged) group.commitLogged = group.commit;
    if (group.listedIn[parity] === io.seq) return;
    group.listedIn[parity] = io.seq;
    io.rows.push(group.row);
  }

  /** Copy the inline blocks (what lies around the direct units); answers how many. */
  private copyInline(entry: Entry, to: number): number {
    if (entry.type !== EntryType.Write) return 0;
    const bytes = this.world.arena.bytes;
    if (entry.unitCount === 0) {
      bytes.copyWithin(to, entry.payload, entry.payload + entry.blocks * BLOCK_SIZE);
      return entry.blocks;
    }
    const head = headBlocks(entry.firstBlock, entry.blocks);
    const skipped = head + entry.unitCount * BLOCKS_PER_UNIT;
    const from = entry.payload;
    if (head > 0) bytes.copyWithin(to, from, from + head * BLOCK_SIZE);
    if (skipped < entry.blocks) {
      const tailAt = from + skipped * BLOCK_SIZE;
      bytes.copyWithin(to + head * BLOCK_SIZE, tailAt, from + entry.blocks * BLOCK_SIZE);
    }
    return entry.blocks - entry.unitCount * BLOCKS_PER_UNIT;
  }

  /* ----------------------------------------------------------- completions */

  /** Called by `BatchIo` only. */
  onBatchDone(io: BatchIo): void {
    io.done = true;
    if (io.status !== Status.Ok) this.fail();
    if (this.failed) {
      io.busy = false;
      this.inFlight -= 1;
      return;
    }
    for (;;) {
      const next = this.ioOf(this.completedSeq + 1);
      if (next === null || !next.done) break;
      this.finishBatch(next);
      if (this.failed) return;
    }
    if (this.hasWork()) this.world.turns.again();
    else if (this.inFlight === 0 && !this.lastWasEmpty) {
      this.world.timers.arm(this.vouch, this.vouchUs);
    }
  }

  private finishBatch(io: BatchIo): void {
    this.completedSeq = io.seq;
    this.advanceDirect();
    io.busy = false;
    this.inFlight -= 1;
    this.placeAgain(io);
    let record = io.controlList;
    io.controlList = null;
    while (record !== null) {
      const next: ControlRecord | null = record.controlNext;
      record.controlNext = null;
      this.owner.onControlDurable(record);
      this.recycle(record);
      record = next;
    }
    const parity = io.seq % 2;
    for (let at = 0; at < io.rows.count; at++) {
      const group = this.groups[io.rows.items[at]!]!;
      if (!group.alive || group.listedIn[parity] !== io.seq) continue;
      const commit = group.commitInFlight[parity]!;
      if (commit > group.commitDurable) group.commitDurable = commit;
      if (group.hardStateWanted && !group.hardStateQueued && group.hardStateSeq === io.seq) {
        group.hardStateWanted = false;
        this.owner.onHardStateDurable(group.row);
      }
      if (group.alive) this.advanceGroup(group);
    }
    this.owner.onBatchDurable();
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
      this.entries.release(entry);
    }
    if (group.durable === before) return;
    this.owner.onEntriesDurable(group.row, group.durable, group.termAt(group.durable));
  }

  private advanceDirect(): void {
    while (this.directSeq < this.completedSeq) {
      const next = this.directSeq + 1;
      if (this.batches.has(next) && this.batches.directsOf(next) > 0) return;
      this.directSeq = next;
    }
  }

  /** Called by `DirectIo` only. */
  onDirectDone(io: DirectIo): void {
    const entry = io.entry;
    assert(entry !== null, "ShardLog: direct write without entry");
    io.entry = null;
    io.directNext = this.directFree;
    this.directFree = io;
    this.directsInFlight -= 1;
    entry.directPending -= 1;
    if (io.status !== Status.Ok) this.fail();
    if (entry.batchSeq > 0) this.batches.directDone(entry.batchSeq);
    this.advanceDirect();
    if (entry.directPending === 0) {
      if (entry.orphaned) this.freeOrphan(entry);
      else if (!this.failed) this.advanceGroup(this.groups[entry.group]!);
    }
    this.entries.release(entry);
  }

  private fail(): void {
    this.failed = true;
    this.world.timers.disarm(this.vouch);
  }

  /** Forget batches below `seq`: their blocks are free. Requires: a checkpoint covers it. */
  moveTail(seq: number): void {
    this.batches.dropBelow(seq);
    this.tailPosition =
      seq < this.batches.nextSeq ? this.batches.positionOf(seq) : this.headPosition;
    for (let row = 0; row < this.groups.length; row++) {
      const group = this.groups[row]!;
      if (!group.alive) continue;
      group.dropUpTo(group.baseFor(seq, group.applied));
    }
    if (this.hasWork()) this.world.turns.again();
  }

  /** Nothing is durable any more. */
  stop(): void {
    this.fail();
  }

  /** Stop timers; requires `quiet` or `failed`. */
  close(): void {
    this.world.timers.disarm(this.vouch);
  }

  private recycle(record: ControlRecord): void {
    record.data = null;
    record.controlNext = this.controlFree;
    this.controlFree = record;
  }

  private takeDirect(): DirectIo {
    const io = this.directFree;
    if (io === null) return makeDirect(this);
    this.directFree = io.directNext;
    io.directNext = null;
    return io;
  }

  private freeIo(): BatchIo {
    for (let at = 0; at < IN_FLIGHT_MAX; at++) if (!this.ios[at]!.busy) return this.ios[at]!;
    assert(false, "ShardLog: no batch buffer is free");
    return this.ios[0]!;
  }

  private ioOf(seq: number): BatchIo | null {
    for (let at = 0; at < IN_FLIGHT_MAX; at++) {
      const io = this.ios[at]!;
      if (io.busy && io.seq === seq) return io;
    }
    return null;
  }

  // cold: doubles when it is full.
  private growCompose(): void {
    const size = this.compose.length;
    const grown = new Array<Entry | null>(size * 2).fill(null);
    for (let at = 0; at < size; at++) {
      grown[at] = this.compose[(this.composeHead + at) & (size - 1)] ?? null;
    }
    this.compose = grown;
    this.composeHead = 0;
  }
}

const HARD_STATE_SIZE = 104;

/** One batch under way, with what its completion has to tell. */
class BatchIo extends DeviceOp {
  readonly log: ShardLog;
  readonly buffer: number;
  readonly rows = new RowList();
  busy = false;
  done = false;
  seq = 0;
  controls = 0;
  hardStates = 0;
  entries = 0;
  records = 0;
  recordBytes = 0;
  payloadBlocks = 0;
  controlList: ControlRecord | null = null;
  /** Second copies of entries (R4). */
  againList: Entry | null = null;
  private controlLast: ControlRecord | null = null;

  constructor(log: ShardLog, buffer: number) {
    super();
    this.log = log;
    this.buffer = buffer;
  }

  begin(seq: number): void {
    this.busy = true;
    this.done = false;
    this.seq = seq;
    this.rows.count = 0;
    this.controlList = null;
    this.controlLast = null;
  }

  addControl(record: ControlRecord): void {
    record.controlNext = null;
    if (this.controlLast === null) this.controlList = record;
    else this.controlLast.controlNext = record;
    this.controlLast = record;
  }

  onComplete(): void {
    this.log.onBatchDone(this);
  }
}

/** One run of whole units under way. */
class DirectIo extends DeviceOp {
  readonly log: ShardLog;
  entry: Entry | null = null;
  directNext: DirectIo | null = null;

  constructor(log: ShardLog) {
    super();
    this.log = log;
  }

  onComplete(): void {
    this.log.onDirectDone(this);
  }
}

class VouchTimer extends Timer {
  private readonly log: ShardLog;

  constructor(log: ShardLog) {
    super();
    this.log = log;
  }

  onTimer(): void {
    this.log.onVouch();
  }
}

// cold: when the pool is empty.
function makeControl(): ControlRecord {
  return new ControlRecord();
}

// cold: when the pool is empty.
function makeDirect(log: ShardLog): DirectIo {
  return new DirectIo(log);
}
