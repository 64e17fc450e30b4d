// data path
import { assert } from "../base/assert.ts";
import type { Checksum } from "../base/checksum.ts";
import { Prng } from "../base/prng.ts";
import { Status } from "../base/status.ts";
import { BLOCK_SIZE } from "../base/units.ts";
import { ImageOp, type ImageTarget, OpKind } from "../client/client.ts";
import { LatencyHistogram } from "../metrics/metrics.ts";
import type { Arena, Clock } from "../reactor/world.ts";
import { formatHistoryLine, type OpLog } from "./history.ts";
import { LoadFailures } from "./load-failures.ts";
import type { Pace } from "./pace.ts";
import type { LoadShape } from "./shape.ts";
import { judgeBlock, stampBlock, StampBook, StampFinding, stampSequence } from "./stamp.ts";
import type { WorstMoments } from "./worst-moments.ts";

/**
 * A load on one image. In a closed loop `depth × jobs` operations are open at any time, each of which
 * submits the next as soon as it is done. In an open loop operations are due at a rate (`pace.ts`), at most
 * so many are open, and latency counts from when one was due; those that are due wait for one that ends.
 *
 * Jobs of a sequential shape walk their own equal part of the range, round and round. With
 * `verify`, a block is never written by two open operations, so that the newest acknowledged
 * sequence is what a later read must see at least.
 */
export interface LoadOptions {
  readonly image: ImageTarget;
  readonly arena: Arena;
  readonly clock: Clock;
  readonly checksum: Checksum;
  readonly rw: LoadShape;
  readonly blockBytes: number;
  readonly depth: number;
  readonly jobs: number;
  /** The load stays below this offset; at least `blockBytes`. */
  readonly rangeBytes: number;
  /** Share of reads of a mixed shape, in percent. */
  readonly readPercent: number;
  readonly seed: number;
  /** Stamp what is written and judge what is read. */
  readonly verify: boolean;
  /** Lines of the history; stamps too, judges nothing. */
  readonly log: OpLog | null;
  /** Shared by the loads of one run; makes stamps of one run its own. */
  readonly run: number;
  /** The image's id, low half: stamps of one image its own. */
  readonly imageTag: number;
  /** Shared by the loads of one run over the same image; null without stamps. */
  readonly book: StampBook | null;
  /**
   * Walk the range once, then be done (shapes `write` and `read`, one job). A walk that reads leaves
   * out what no load of this run wrote.
   */
  readonly once: boolean;
  /** Of an open loop; null: a closed one. */
  readonly pace: Pace | null;
  /** What is slow is noted there as well. */
  readonly worst: WorstMoments | null;
}

/** After so many failed operations the load stops by itself; after one without an answer at once. */
const ERRORS_MAX = 100;
/** Draws for a block that no open write touches, before a read is done instead. */
const DRAWS_MAX = 16;
const TWO_53 = 9_007_199_254_740_992;

export class ImageLoad {
  readonly reads = new LatencyHistogram();
  readonly writes = new LatencyHistogram();
  readonly failures = new LoadFailures();
  /** Since the last `resetWindow`. */
  ops = 0;
  errors = 0;
  writtenBytes = 0;
  /** Longest time in µs without any operation done, within the window. */
  pauseUsMax = 0;
  /** Since the start. */
  opsTotal = 0;
  writtenBytesTotal = 0;
  errorsTotal = 0;
  verifiedBlocks = 0;
  /** Operations submitted and not done. */
  open = 0;
  /** Called when the last operation is done after `stop`, or after `once`. */
  onIdle: (() => void) | null = null;

  private readonly options: LoadOptions;
  private readonly random: Prng;
  private readonly cursors: Float64Array;
  private readonly slotCount: number;
  private readonly stamped: boolean;
  /** Bit per block: an open write touches it. Empty without `verify`. */
  private readonly busy: Uint8Array;
  private readonly all: LoadOp[] = [];
  /** Of an open loop: those that are not open. */
  private readonly free: LoadOp[] = [];
  private stopping = false;
  /** Of an open loop: `stop` was called, and what was due by then is submitted yet. */
  private winding = false;
  private abandoned = false;
  private lastDoneUs = 0;
  private windowUs = 0;

  constructor(options: LoadOptions) {
    assert(options.rangeBytes >= options.blockBytes, "ImageLoad: the range is below one block");
    assert(options.rangeBytes <= options.image.sizeBytes, "ImageLoad: the range passes the image");
    this.options = options;
    this.random = new Prng(options.seed);
    this.slotCount = Math.floor(options.rangeBytes / options.blockBytes);
    this.stamped = options.verify || options.log !== null;
    assert(!this.stamped || options.book !== null, "ImageLoad: stamps need a book");
    const blocks = Math.ceil(options.rangeBytes / BLOCK_SIZE);
    this.busy = new Uint8Array(options.verify ? Math.ceil(blocks / 8) : 0);
    this.cursors = new Float64Array(options.jobs);
    for (let job = 0; job < options.jobs; job++) {
      this.cursors[job] = Math.floor((this.slotCount / options.jobs) * job);
    }
    const buffers = new Prng(options.seed + 1);
    for (let job = 0; job < options.jobs; job++) {
      for (let at = 0; at < options.depth; at++) this.all.push(this.makeOp(job, buffers));
    }
  }

  // cold: once per load.
  /** Submit the first operations. */
  start(): void {
    const { clock, pace } = this.options;
    this.lastDoneUs = clock.nowUs();
    if (pace !== null) {
      for (let at = 0; at < this.all.length; at++) this.free.push(this.all[at]!);
      pace.begin(() => this.submitDue());
      return;
    }
    for (let at = 0; at < this.all.length; at++) this.next(this.all[at]!, -1);
    if (this.open === 0) this.idle();
  }

  /**
   * Submit no more, but what was due by now; `onIdle` follows when all are done (at once when none is
   * open).
   */
  stop(): void {
    const { clock, pace } = this.options;
    if (pace !== null && !this.stopping) {
      pace.end(clock.nowUs());
      this.winding = true;
      this.submitDue();
    }
    this.stopping = true;
    if (this.open === 0) this.idle();
  }

  /** It was stopped, or has stopped by itself, and nothing is open. */
  get isOver(): boolean {
    return this.stopping && this.open === 0;
  }

  /** Begin to count anew: the ramp is over. */
  resetWindow(): void {
    this.reads.reset();
    this.writes.reset();
    this.ops = 0;
    this.errors = 0;
    this.writtenBytes = 0;
    this.pauseUsMax = 0;
    this.windowUs = this.options.clock.nowUs();
    this.lastDoneUs = this.windowUs;
    this.options.worst?.reset(this.windowUs);
  }

  /** Bytes that so many operations moved. */
  bytesOf(ops: number): number {
    return ops * this.options.blockBytes;
  }

  /** The longest pause of the window, with one that has not ended yet. */
  pauseUsNow(): number {
    return Math.max(this.pauseUsMax, this.options.clock.nowUs() - this.lastDoneUs);
  }

  /** Count what never ended as failed, outcome unknown. Its later completion changes nothing. */
  abandon(): void {
    this.abandoned = true;
    for (let at = 0; at < this.all.length; at++) {
      const op = this.all[at]!;
      if (!op.isOpen) continue;
      op.status = Status.TimedOut;
      this.onFailed(op);
      if (this.options.log !== null) this.logOp(op, -1, false);
    }
  }

  /** Called by an op when it is done. */
  done(op: LoadOp): void {
    if (this.abandoned) return;
    const nowUs = this.options.clock.nowUs();
    const latencyUs = nowUs - op.callUs;
    const isWrite = op.kind === OpKind.Write;
    op.isOpen = false;
    this.open--;
    this.ops++;
    this.opsTotal++;
    const gapUs = nowUs - this.lastDoneUs;
    if (gapUs > this.pauseUsMax) this.pauseUsMax = gapUs;
    this.lastDoneUs = nowUs;
    const ok = op.status === Status.Ok;
    if (ok) this.onOk(op, isWrite, latencyUs);
    else this.onFailed(op);
    if (this.stamped) this.onStampedDone(op, nowUs, ok);
    if (this.options.pace !== null) {
      this.free.push(op);
      this.submitDue();
    } else if (!this.stopping) {
      this.next(op, -1);
      this.stopping = this.open === 0;
    }
    if (this.isOver) this.idle();
  }

  private onOk(op: LoadOp, isWrite: boolean, latencyUs: number): void {
    if (isWrite) {
      this.writtenBytes += op.lengthBytes;
      this.writtenBytesTotal += op.lengthBytes;
    }
    const { pace, worst } = this.options;
    // What was due in the ramp belongs to it, however late it ends.
    if (pace !== null && op.callUs < this.windowUs) return;
    if (isWrite) this.writes.record(latencyUs);
    else this.reads.record(latencyUs);
    if (worst !== null) worst.note(op.callUs, latencyUs, op.lateUs);
  }

  /** Of an open loop: submit what is due, as far as there are operations for it. */
  private submitDue(): void {
    const { pace } = this.options;
    assert(pace !== null, "ImageLoad: a closed loop has no pace");
    // It has stopped by itself: nobody waits for the rest.
    if (this.stopping && !this.winding) return pace.end(this.options.clock.nowUs());
    while (this.free.length > 0) {
      const dueUs = pace.take();
      if (dueUs < 0) return;
      this.next(this.free.pop()!, dueUs);
    }
  }

  // cold: the pool is filled before the first operation.
  private makeOp(job: number, random: Prng): LoadOp {
    const { arena, blockBytes } = this.options;
    const blocks = Math.ceil(blockBytes / BLOCK_SIZE);
    const whole = blockBytes % BLOCK_SIZE === 0;
    // An unaligned operation touches one block more, and its offset within it varies.
    const bufferBytes = (whole ? blocks : blocks + 1) * BLOCK_SIZE;
    const buffer = arena.allocate(bufferBytes);
    const words = arena.words;
    const end = (buffer + bufferBytes) >>> 2;
    for (let at = buffer >>> 2; at < end; at++) words[at] = random.u32();
    return new LoadOp(this, job, buffer, this.stamped ? blocks : 0);
  }

  /** Submit the next operation, unless a single walk is over. `dueUs`: of an open loop, else -1. */
  private next(op: LoadOp, dueUs: number): void {
    const options = this.options;
    op.kind = this.drawsWrite() ? OpKind.Write : OpKind.Read;
    let slot = this.drawSlot(op.job);
    if (slot < 0) return;
    if (options.verify && op.kind === OpKind.Write) {
      for (let draw = 0; this.isBusy(slot) && draw < DRAWS_MAX; draw++) {
        slot = this.drawSlot(op.job);
        if (slot < 0) return;
      }
      if (this.isBusy(slot)) op.kind = OpKind.Read;
      else this.markBusy(slot, true);
    }
    op.offsetBytes = slot * options.blockBytes;
    op.lengthBytes = options.blockBytes;
    op.arenaOffset = op.buffer + (op.offsetBytes % BLOCK_SIZE);
    if (op.kind === OpKind.Write) this.prepareWrite(op);
    else if (this.stamped) this.prepareRead(op);
    const nowUs = options.clock.nowUs();
    op.callUs = dueUs < 0 ? nowUs : dueUs;
    op.lateUs = nowUs - op.callUs;
    op.isOpen = true;
    this.open++;
    options.image.submit(op);
  }

  private drawsWrite(): boolean {
    switch (this.options.rw) {
      case "write":
      case "randwrite":
        return true;
      case "read":
      case "randread":
        return false;
      case "rw":
      case "randrw":
        return this.random.below(100) >= this.options.readPercent;
    }
  }

  /** Number of a piece of `blockBytes` of the range; -1: the single walk is over. */
  private drawSlot(job: number): number {
    const { rw, jobs, once } = this.options;
    if (rw !== "write" && rw !== "read") {
      const high = this.random.u32() * 2_097_152;
      return Math.floor(((high + (this.random.u32() >>> 11)) / TWO_53) * this.slotCount);
    }
    const slot = this.cursors[job]!;
    const end = Math.max(
      Math.floor((this.slotCount / jobs) * (job + 1)),
      Math.floor((this.slotCount / jobs) * job) + 1,
    );
    if (once) return this.walk(job, slot, end);
    const following = slot + 1;
    this.cursors[job] = following < end ? following : Math.floor((this.slotCount / jobs) * job);
    return slot;
  }

  /** The next piece of a single walk, from `slot` on; -1: it is over. */
  private walk(job: number, slot: number, end: number): number {
    let found = slot;
    while (found < end && this.options.rw === "read" && !this.isWritten(found)) found++;
    this.cursors[job] = Math.min(found + 1, end);
    return found < end ? found : -1;
  }

  /** Whether a load of this run wrote a block of a piece. */
  private isWritten(slot: number): boolean {
    const { blockBytes, book } = this.options;
    assert(book !== null, "ImageLoad: reading back needs a book");
    const end = ((slot + 1) * blockBytes) / BLOCK_SIZE;
    for (let block = (slot * blockBytes) / BLOCK_SIZE; block < end; block++) {
      if (book.issuedOf(block) > 0) return true;
    }
    return false;
  }

  private prepareWrite(op: LoadOp): void {
    const { arena, blockBytes, book, checksum, run, imageTag } = this.options;
    if (!this.stamped || book === null) {
      // Two words of each block change, so that no two writes are equal.
      for (let at = op.buffer; at < op.buffer + blockBytes; at += BLOCK_SIZE) {
        arena.words[at >>> 2] = this.random.u32();
        arena.words[(at >>> 2) + 1] = this.random.u32();
      }
      return;
    }
    const first = op.offsetBytes / BLOCK_SIZE;
    for (let at = 0; at < op.sequences.length; at++) {
      const sequence = book.issue(first + at);
      op.sequences[at] = sequence;
      stampBlock(arena, checksum, op.buffer + at * BLOCK_SIZE, run, imageTag, first + at, sequence);
    }
  }

  private prepareRead(op: LoadOp): void {
    const book = this.options.book;
    assert(book !== null, "ImageLoad: stamps need a book");
    const first = op.offsetBytes / BLOCK_SIZE;
    for (let at = 0; at < op.sequences.length; at++) {
      op.sequences[at] = book.acknowledgedOf(first + at);
    }
  }

  private onStampedDone(op: LoadOp, nowUs: number, ok: boolean): void {
    const { book, verify } = this.options;
    assert(book !== null, "ImageLoad: stamps need a book");
    const first = op.offsetBytes / BLOCK_SIZE;
    if (op.kind === OpKind.Write) {
      if (verify) this.markBusy(op.offsetBytes / this.options.blockBytes, false);
      for (let at = 0; ok && at < op.sequences.length; at++) {
        book.acknowledge(first + at, op.sequences[at]!);
      }
    } else if (ok && verify) {
      this.judge(op, book, first);
    }
    if (this.options.log !== null) this.logOp(op, nowUs, ok);
  }

  private judge(op: LoadOp, book: StampBook, first: number): void {
    const { arena, checksum, run, imageTag } = this.options;
    for (let at = 0; at < op.sequences.length; at++) {
      const offset = op.arenaOffset + at * BLOCK_SIZE;
      const least = op.sequences[at]!;
      const most = book.issuedOf(first + at);
      const finding = judgeBlock(arena, checksum, offset, run, imageTag, first + at, least, most);
      this.verifiedBlocks++;
      if (finding === StampFinding.Fine) continue;
      this.failures.addBlock(first + at, finding, stampSequence(arena, offset, run), least, most);
      this.errors++;
      this.errorsTotal++;
      if (this.errorsTotal >= ERRORS_MAX) this.stopping = true;
    }
  }

  private logOp(op: LoadOp, nowUs: number, ok: boolean): void {
    const { arena, log, run } = this.options;
    assert(log !== null, "ImageLoad: no history is kept");
    const first = op.offsetBytes / BLOCK_SIZE;
    const isWrite = op.kind === OpKind.Write;
    for (let at = 0; at < op.sequences.length; at++) {
      let value = op.sequences[at]!;
      if (!isWrite && ok) value = stampSequence(arena, op.arenaOffset + at * BLOCK_SIZE, run);
      log.add(
        formatHistoryLine(first + at, isWrite, isWrite || ok ? value : null, op.callUs, nowUs, ok),
      );
    }
  }

  private onFailed(op: LoadOp): void {
    this.errors++;
    this.errorsTotal++;
    this.failures.addStatus(op.kind === OpKind.Write, op.offsetBytes, op.status);
    if (this.errorsTotal >= ERRORS_MAX || op.status === Status.TimedOut) this.stopping = true;
  }

  private isBusy(slot: number): boolean {
    const blocks = this.options.blockBytes / BLOCK_SIZE;
    const end = (slot + 1) * blocks;
    for (let block = slot * blocks; block < end; block++) {
      if ((this.busy[block >>> 3]! & (1 << (block & 7))) !== 0) return true;
    }
    return false;
  }

  private markBusy(slot: number, on: boolean): void {
    const blocks = this.options.blockBytes / BLOCK_SIZE;
    const end = (slot + 1) * blocks;
    for (let block = slot * blocks; block < end; block++) {
      const bit = 1 << (block & 7);
      const before = this.busy[block >>> 3]!;
      this.busy[block >>> 3] = on ? before | bit : before & ~bit;
    }
  }

  private idle(): void {
    this.stopping = true;
    const onIdle = this.onIdle;
    this.onIdle = null;
    if (onIdle !== null) onIdle();
  }
}

class LoadOp extends ImageOp {
  readonly load: ImageLoad;
  readonly job: number;
  readonly buffer: number;
  /** When it was submitted; of an open loop, when it was due. */
  callUs = 0;
  /** How much later than that it was submitted. */
  lateUs = 0;
  isOpen = false;
  /** Per block: of a write the sequence written, of a read the one acknowledged before it. */
  readonly sequences: Uint32Array;

  constructor(load: ImageLoad, job: number, buffer: number, blocks: number) {
    super();
    this.load = load;
    this.job = job;
    this.buffer = buffer;
    this.sequences = new Uint32Array(blocks);
  }

  override onDone(): void {
    this.load.done(this);
  }
}
