// data path
import { assert } from "../base/assert.ts";
import { Status } from "../base/status.ts";
import { BLOCK_SIZE } from "../base/units.ts";
import type { Device } from "../device/device.ts";
import { CallbackTimer, type Drain, DrainOrder, type World } from "../reactor/world.ts";
import { BATCH_BLOCKS_MAX } from "./batch.ts";
import type { BatchComposer } from "./batch-composer.ts";
import { BatchIo, type BatchSink } from "./batch-io.ts";
import type { BatchTable } from "./batch-table.ts";
import type { LogQueue } from "./log-queue.ts";

/** Who is told of durable batches. */
export interface BatchOwner {
  /** The batch and all before it are durable; told in the order of their sequence. */
  onBatchDurable(io: BatchIo): void;
}

export interface BatchWriterOptions {
  readonly world: World;
  readonly device: Device;
  readonly batches: BatchTable;
  readonly vouchUs: number;
  /** Whether nobody needs to vouch for what the log held at start. */
  readonly isVouched: boolean;
  /** Arena offset of two batch buffers of 1 MiB each. */
  readonly buffers: number;
}

const IN_FLIGHT_MAX = 2;
const BATCH_BYTES_MAX = BATCH_BLOCKS_MAX * BLOCK_SIZE;

/**
 * Writes the batches of a shard's log: what is queued in a turn leaves in the log's own drain, at most
 * two batches are under way, and they complete in the order of their sequence. When nothing follows
 * for a while, an empty batch vouches for the last one (R7), also for one of an earlier start: nobody
 * knows when the next batch comes, and until then damage to the last one looks like a torn write, which
 * cuts what was acknowledged. Any error fails it for good.
 *
 * Invariant: directSeq ≤ completedSeq < batches.nextSeq ≤ completedSeq + 3.
 */
export class BatchWriter implements Drain, BatchSink {
  /** The last batch that is durable with all before it; the last up to which direct units are, too. */
  completedSeq: number;
  directSeq: number;
  failed = false;
  inFlight = 0;
  /** Grow for ever. */
  batchesWritten = 0;
  bytesWritten = 0;
  readonly ios: BatchIo[] = [];
  private readonly world: World;
  private readonly device: Device;
  private readonly batches: BatchTable;
  private readonly vouchUs: number;
  private readonly queue: LogQueue;
  private readonly composer: BatchComposer;
  private readonly owner: BatchOwner;
  private readonly vouch: CallbackTimer;
  /** Nobody needs to vouch for the last batch: that is all it was written for. */
  private isVouched: boolean;

  constructor(
    options: BatchWriterOptions,
    queue: LogQueue,
    composer: BatchComposer,
    owner: BatchOwner,
  ) {
    this.world = options.world;
    this.device = options.device;
    this.batches = options.batches;
    this.vouchUs = options.vouchUs;
    this.queue = queue;
    this.composer = composer;
    this.owner = owner;
    this.completedSeq = options.batches.nextSeq - 1;
    this.directSeq = this.completedSeq;
    this.vouch = new CallbackTimer(() => this.onVouch());
    this.isVouched = options.isVouched;
    this.vouchLater();
    for (let at = 0; at < IN_FLIGHT_MAX; at++) {
      this.ios.push(new BatchIo(this, options.buffers + at * BATCH_BYTES_MAX));
    }
    this.world.turns.addDrain(DrainOrder.Log, this);
  }

  /** Local records are under way. */
  get hasControls(): boolean {
    for (let at = 0; at < IN_FLIGHT_MAX; at++) {
      if (this.ios[at]!.busy && this.ios[at]!.controlList !== null) return true;
    }
    return false;
  }

  drain(): void {
    while (this.inFlight < IN_FLIGHT_MAX && this.queue.hasWork && !this.failed) {
      if (!this.writeBatch()) return;
    }
  }

  /** R7: vouch for the last batch, and make the newest commit indexes durable. */
  onVouch(): void {
    if (this.failed || this.inFlight > 0 || this.queue.hasWork) return;
    this.queue.wantCommits();
    if (this.writeBatch()) this.isVouched = true;
    // The ring is full. When the tail moves, what is queued is looked at; an empty batch is not.
    else this.vouchLater();
  }

  /** The stop does not wait for the timer. Requires: nothing queued, nothing under way. */
  vouchNow(): void {
    if (!this.isVouched) this.onVouch();
    this.close();
  }

  /** Compose and submit one batch. False when the ring has no room for it. */
  private writeBatch(): boolean {
    const io = this.freeIo();
    if (!this.composer.compose(io, this.completedSeq, this.directSeq)) return false;
    this.isVouched = false;
    this.inFlight += 1;
    this.batchesWritten += 1;
    this.bytesWritten += io.lengthBytes;
    this.device.submit(io);
    return true;
  }

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
      this.completedSeq = next.seq;
      this.advanceDirect();
      next.busy = false;
      this.inFlight -= 1;
      this.owner.onBatchDurable(next);
      if (this.failed) return;
    }
    if (this.queue.hasWork) this.world.turns.again();
    else this.vouchLater();
  }

  /** When all is quiet, and something needs it. */
  private vouchLater(): void {
    if (this.inFlight > 0 || this.isVouched) return;
    this.world.timers.arm(this.vouch, this.vouchUs);
  }

  /** A direct write of the batch's entries was done (0: the entry is not composed yet). */
  directDone(batchSeq: number): void {
    if (batchSeq > 0) this.batches.directDone(batchSeq);
    const before = this.directSeq;
    this.advanceDirect();
    if (this.directSeq === before || this.failed) return;
    // The last batch may have been empty already: it did not vouch for these.
    this.isVouched = false;
    if (!this.queue.hasWork) this.vouchLater();
  }

  private advanceDirect(): void {
    while (this.directSeq < this.completedSeq) {
      const next = this.directSeq + 1;
      if (this.batches.has(next) && this.batches.directsOf(next) > 0) return;
      this.directSeq = next;
    }
  }

  /** Nothing is durable any more. */
  fail(): void {
    this.failed = true;
    this.world.timers.disarm(this.vouch);
  }

  /** Stop the timer. */
  close(): void {
    this.world.timers.disarm(this.vouch);
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
}
