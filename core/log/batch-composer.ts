// data path
import { assert } from "../base/assert.ts";
import { BLOCK_SIZE, BLOCKS_PER_UNIT } from "../base/units.ts";
import { DeviceRegion } from "../device/device.ts";
import { Stage } from "../metrics/metrics.ts";
import { DiskVerb, type World } from "../reactor/world.ts";
import { BATCH_BLOCKS_MAX, BATCH_HEADER_SIZE, BatchHeader, sealBatch } from "./batch.ts";
import type { BatchIo } from "./batch-io.ts";
import type { BatchTable } from "./batch-table.ts";
import { type Entry, EntryType } from "./entry.ts";
import type { EntryPool } from "./entry-pool.ts";
import type { GroupLog } from "./group-log.ts";
import type { LogQueue } from "./log-queue.ts";
import { COPY_BLOCKS_MAX, type LogRoom } from "./log-room.ts";
import type { LogSpace } from "./log-space.ts";
import {
  controlSize,
  encodeControl,
  encodeEntry,
  encodeFill,
  fillSize,
  headBlocks,
  inlineBlocks,
  RecordType,
  recordSize,
} from "./record.ts";

export interface BatchComposerOptions {
  readonly world: World;
  readonly entries: EntryPool;
  readonly space: LogSpace;
  readonly batches: BatchTable;
  readonly shard: number;
  readonly incarnation: number;
  /** Seed of batch checksums: crc of the store's uuid. */
  readonly seed: number;
  /** crc of the last batch. */
  readonly lastCrc: number;
}

/** Header blocks of a batch at most: 64 KiB of records. */
const HEADER_BYTES_MAX = 16 * BLOCK_SIZE;
const HARD_STATE_SIZE = 104;

/**
 * Makes batches of what is queued: chooses, encodes, seals, each chained to the one before it.
 *
 * First everything is measured, so that a batch that finds no room in the ring leaves the queue as it
 * was. Then records go to the header blocks and payload behind them, in the same order: local
 * records, hard states, fills, entries.
 */
export class BatchComposer {
  private readonly world: World;
  private readonly entries: EntryPool;
  private readonly space: LogSpace;
  private readonly batches: BatchTable;
  private readonly shard: number;
  private readonly incarnation: number;
  private readonly seed: number;
  private readonly queue: LogQueue;
  private readonly room: LogRoom;
  private readonly groups: readonly GroupLog[];
  private readonly header = new BatchHeader();
  private lastCrc: number;

  constructor(
    options: BatchComposerOptions,
    queue: LogQueue,
    room: LogRoom,
    groups: readonly GroupLog[],
  ) {
    this.world = options.world;
    this.entries = options.entries;
    this.space = options.space;
    this.batches = options.batches;
    this.shard = options.shard;
    this.incarnation = options.incarnation;
    this.seed = options.seed;
    this.queue = queue;
    this.room = room;
    this.groups = groups;
    this.lastCrc = options.lastCrc;
  }

  /**
   * Compose the next batch in `io`, ready to be submitted. It vouches for the batches up to
   * `durableSeq` and the direct units up to `directSeq`. False when the ring has no room for it.
   */
  compose(io: BatchIo, durableSeq: number, directSeq: number): boolean {
    this.measure(io);
    const headerBlocks = Math.ceil((BATCH_HEADER_SIZE + io.recordBytes) / BLOCK_SIZE);
    const blocks = headerBlocks + io.payloadBlocks;
    const start = this.room.startOf(blocks);
    if (start < 0) return false;
    const seq = this.batches.nextSeq;
    io.begin(seq);
    this.world.arena.bytes.fill(0, io.buffer, io.buffer + headerBlocks * BLOCK_SIZE);
    const directs = this.encodeRecords(io, start, headerBlocks);
    const header = this.header;
    header.shard = this.shard;
    header.incarnation = this.incarnation;
    header.seq = seq;
    header.durableSeq = durableSeq;
    header.directSeq = directSeq;
    header.prevCrc = this.lastCrc;
    header.headerBlocks = headerBlocks;
    header.payloadBlocks = io.payloadBlocks;
    header.records = io.records;
    header.recordBytes = io.recordBytes;
    const world = this.world;
    this.lastCrc = sealBatch(world.arena, io.buffer, header, this.seed, world.checksum);
    this.batches.push(start, this.lastCrc, this.incarnation, directs);
    this.room.headPosition = start + blocks;
    io.verb = DiskVerb.WriteDurable;
    io.region = DeviceRegion.Log;
    io.arenaOffset = io.buffer;
    io.lengthBytes = blocks * BLOCK_SIZE;
    io.offsetBytes = this.space.deviceOffset(start);
    return true;
  }

  /* --------------------------------------------------------------- choose */

  /** Choose what goes into the batch: counts only. */
  private measure(io: BatchIo): void {
    io.fills = 0;
    io.fillsLooked = 0;
    let bytes = 0;
    let controls = 0;
    let control = this.queue.controlHead;
    while (control !== null && bytes + controlSize(control) <= HEADER_BYTES_MAX / 2) {
      bytes += controlSize(control);
      controls += 1;
      control = control.controlNext;
    }
    let hardStates = 0;
    while (
      hardStates < this.queue.hardRows.count &&
      bytes + HARD_STATE_SIZE <= HEADER_BYTES_MAX / 2
    ) {
      bytes += HARD_STATE_SIZE;
      hardStates += 1;
    }
    // Local records left over must precede the entries and fills that rely on them.
    const open = control === null && hardStates === this.queue.hardRows.count;
    io.recordBytes = bytes;
    io.payloadBlocks = 0;
    if (open) this.measureFills(io);
    bytes = io.recordBytes;
    let payload = io.payloadBlocks;
    let entries = 0;
    let written = 0;
    while (open && entries < this.queue.entryCount) {
      const entry = this.queue.entryAt(entries);
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
    io.records = controls + hardStates + io.fills + written;
    io.recordBytes = bytes;
    io.payloadBlocks = payload;
  }

  /** Choose the fills that go into the batch, behind the local records: a bounded share of it. */
  private measureFills(io: BatchIo): void {
    let op = this.queue.fillHead;
    while (op !== null) {
      if (!op.orphaned) {
        const bytes = io.recordBytes + fillSize(op);
        const payload = io.payloadBlocks + op.reservedLogBlocks - 1;
        if (bytes > HEADER_BYTES_MAX - BATCH_HEADER_SIZE || payload > COPY_BLOCKS_MAX) return;
        io.recordBytes = bytes;
        io.payloadBlocks = payload;
        io.fills += 1;
      }
      io.fillsLooked += 1;
      op = op.fillNext;
    }
  }

  /** An entry that needs no record any more: cut, applied meanwhile, or its group is gone. */
  private isStale(entry: Entry): boolean {
    if (entry.orphaned) return true;
    if (!entry.again) return false;
    const group = this.groups[entry.group]!;
    return !group.alive || entry.index <= group.applied || group.termAt(entry.index) !== entry.term;
  }

  /* --------------------------------------------------------------- encode */

  /** Write the measured records and payload; answers the direct writes still under way. */
  private encodeRecords(io: BatchIo, start: number, headerBlocks: number): number {
    let at = io.buffer + BATCH_HEADER_SIZE;
    for (let count = 0; count < io.controls; count++) {
      const record = this.queue.shiftControl();
      at += encodeControl(this.world.arena.view, at, record);
      io.addControl(record);
    }
    for (let count = 0; count < io.hardStates; count++) at += this.encodeHardState(io, count, at);
    this.queue.hardRows.dropFirst(io.hardStates);
    let directs = 0;
    const payloadStart = start + headerBlocks;
    at += this.encodeFills(io, at, payloadStart, io.buffer + headerBlocks * BLOCK_SIZE);
    let inlineFirst = io.fillBlocks;
    for (let count = 0; count < io.entries; count++) {
      const entry = this.queue.shiftEntry();
      this.room.queuedBlocks -= entry.reservedLogBlocks;
      entry.reservedLogBlocks = 0;
      if (!this.isStale(entry)) {
        at += this.encodeOne(io, entry, at, payloadStart, inlineFirst);
        const payloadAt = io.buffer + (headerBlocks + inlineFirst) * BLOCK_SIZE;
        inlineFirst += this.copyInline(entry, payloadAt);
        directs += entry.directPending;
      }
      this.entries.release(entry);
    }
    return directs;
  }

  private encodeHardState(io: BatchIo, which: number, at: number): number {
    const group = this.groups[this.queue.hardRows.items[which]!]!;
    const record = this.queue.takeControl(RecordType.HardState);
    group.hardStateQueued = false;
    record.pg = group.pg;
    record.replicaId = group.replicaId;
    record.term = group.term;
    record.session = group.vote;
    record.commit = group.commit;
    const size = encodeControl(this.world.arena.view, at, record);
    this.queue.recycle(record);
    group.hardStateSeq = io.seq;
    if (group.alive) this.touch(io, group);
    return size;
  }

  /** Write the measured fills; answers the bytes of their records. */
  private encodeFills(io: BatchIo, from: number, payloadStart: number, payloadAt: number): number {
    const { bytes, view } = this.world.arena;
    let at = from;
    for (let count = 0; count < io.fillsLooked; count++) {
      const op = this.queue.shiftFill();
      const blocks = op.reservedLogBlocks - 1;
      this.room.queuedBlocks -= op.reservedLogBlocks;
      op.batchSeq = io.seq;
      op.inlineBlock = blocks > 0 ? payloadStart + io.fillBlocks : -1;
      io.addFill(op);
      if (op.orphaned) continue;
      const group = this.groups[op.row]!;
      assert(group.commit >= op.at, "ShardLog: a fill ahead of its group's commit index");
      this.touch(io, group);
      at += encodeFill(view, at, op, group.pg, group.replicaId, group.commit, io.fillBlocks);
      const end = op.arenaOffset + blocks * BLOCK_SIZE;
      bytes.copyWithin(payloadAt + io.fillBlocks * BLOCK_SIZE, op.arenaOffset, end);
      io.fillBlocks += blocks;
    }
    return at - from;
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
    if (entry.trace !== 0) this.world.trace.stamp(entry.trace, Stage.Logged);
    // A second copy counts only once it is durable: until then the first one is read.
    if (entry.again) this.holdAgain(io, entry);
    else group.place(entry.index, io.seq, entry.recordAt, inlineBlock);
    this.touch(io, group);
    const view = this.world.arena.view;
    return encodeEntry(view, at, entry, group.pg, group.replicaId, group.commit, inlineFirst);
  }

  private touch(io: BatchIo, group: GroupLog): void {
    if (group.listIn(io.seq)) io.rows.push(group.row);
  }

  /** Copy the inline blocks (what lies around the direct units); answers how many. */
  private copyInline(entry: Entry, to: number): number {
    if (entry.type !== EntryType.Write || entry.bare) return 0;
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

  /* --------------------------------------------------------- second copies */

  private holdAgain(io: BatchIo, entry: Entry): void {
    this.entries.retain(entry);
    entry.entryNext = io.againList;
    io.againList = entry;
  }

  /** The second copies of a batch are durable: they replace the first. */
  placeAgain(io: BatchIo): void {
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
}
