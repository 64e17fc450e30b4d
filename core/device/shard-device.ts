// data path
import { assert } from "../base/assert.ts";
import { Status } from "../base/status.ts";
import { BLOCK_SIZE } from "../base/units.ts";
import { LatencyHistogram } from "../metrics/metrics.ts";
import {
  CallbackTimer,
  type Disk,
  DiskOp,
  DiskVerb,
  type Drain,
  DrainOrder,
  type World,
} from "../reactor/world.ts";

/** What a range of the device holds; bytes are counted by it. */
export enum DeviceRegion {
  Super = 0,
  Meta = 1,
  Log = 2,
  Data = 3,
}

const REGION_COUNT = 4;

/**
 * One operation on a device: a `DiskOp` that knows its region. Extend it, pool it, implement
 * `onComplete`; fill verb, region, arenaOffset, lengthBytes, offsetBytes; `device.submit(op)`.
 */
export abstract class DeviceOp extends DiskOp {
  region: DeviceRegion = DeviceRegion.Data;
  /** Owned by the device from submit to `onComplete`. */
  device: Device | null = null;
  submittedUs = 0;
  /** The clock's `overrunUs` then. */
  overrunUs = 0;
  /** In-flight list of the device, oldest first; discards are not in it. */
  olderOp: DeviceOp | null = null;
  newerOp: DeviceOp | null = null;

  /** The operation is over: `status` and `errno` are valid, the memory is the caller's again. */
  abstract onComplete(): void;

  onDone(): void {
    const device = this.device;
    assert(device !== null, "DeviceOp: done without a device");
    device.finish(this);
  }
}

/** What the shard is told of its device. Called at most once each until the state changes back. */
export interface DeviceObserver {
  /**
   * A write, durable write or flush failed: nothing on this device may be acknowledged any more.
   * Called once for the life of the device, before the failed operation's `onComplete`.
   */
  onDeviceFailed(errno: number): void;
  /**
   * The oldest operation in flight, or the recent average, passed the watermark; or the average was
   * above the lower one for seconds.
   */
  onDeviceSlow(latencyUs: number): void;
  /** Latencies are below half of both watermarks again. */
  onDeviceRecovered(): void;
  /**
   * A write into a hole of a sparse file found no space beneath: it is kept and tried again until
   * there is some. Called when the first one of several begins to wait.
   */
  onDeviceStarved(): void;
}

export interface DeviceOptions {
  /** Operations handed to the disk at once; the rest waits in order. Default 256. */
  readonly inFlightMax?: number;
  /** Watermark for `onDeviceSlow`. Default 1 s. */
  readonly slowUs?: number;
  /** That of an average which lasts. Default 150 ms. */
  readonly sluggishUs?: number;
}

/** Bytes and operations since the device was opened. */
export class DeviceCounters {
  readonly bytesRead = new Float64Array(REGION_COUNT);
  readonly bytesWritten = new Float64Array(REGION_COUNT);
  readonly reads = new Float64Array(REGION_COUNT);
  readonly writes = new Float64Array(REGION_COUNT);
  durableWrites = 0;
  flushes = 0;
  discards = 0;
  bytesDiscarded = 0;
  readErrors = 0;
  writeErrors = 0;
  flushErrors = 0;
  readonly readLatency = new LatencyHistogram();
  readonly writeLatency = new LatencyHistogram();
  readonly durableLatency = new LatencyHistogram();
}

const IN_FLIGHT_DEFAULT = 256;
const SLOW_US_DEFAULT = 1_000_000;
/** What no flash disk takes on average, however much it is given; what a failing one does. */
const SLUGGISH_US_DEFAULT = 150_000;
/** From here on an operation that somebody waits for is logged, at level debug. */
const LATE_US = 20_000;
/** Of turns that are longer than fair, what an operation is not told to be late for: two such turns. */
const OVERRUN_US_MAX = 2_000_000;
/** So long an average has to last: a burst of background work is over by then. */
const SLUGGISH_FOR_US = 3_000_000;
const WATCH_US = 100_000;
/** How often writes that found no space are tried again. */
const STARVED_RETRY_US = 250_000;
/** A read that failed counts against the device for an hour. */
const READ_ERROR_US = 3_600_000_000;
const EIO = 5;
const ENOSPC = 28;

/**
 * The shard's view of a disk.
 *
 * Bounds the operations in flight, asserts alignment, counts by region, and latches failure: after
 * any failed write, durable write or flush every further operation but reads answers
 * `DeviceFailed` without touching the disk (a repeated flush may answer Ok over lost data).
 *
 * A write that finds no space is no failure: nothing of the file has changed, and what waits for it
 * is still where it was. It starves, outside of the bound, until there is space or `close` is near.
 * What may tell of other writes that found none is one (`isOwnError`).
 *
 * Operations leave in the order of submitting; they may complete in any order. `onComplete` never
 * runs within `submit`.
 *
 * Invariant: 0 ≤ inFlight ≤ inFlightMax; queued > 0 only when inFlight = inFlightMax, except
 * between a completion and the next drain.
 */
export class Device implements Drain {
  readonly disk: Disk;
  readonly counters: DeviceCounters = new DeviceCounters();
  /** Latched by the first failed write or flush. */
  failed = false;
  /** Errno of the failure that latched `failed`. */
  failedErrno = 0;
  slow = false;
  /** While it is slow: the age or average that says so, as of the last look. */
  slowLatencyUs = 0;
  private readonly world: World;
  private readonly observer: DeviceObserver;
  private readonly inFlightMax: number;
  private readonly slowUs: number;
  private readonly sluggishUs: number;
  private readonly watch: CallbackTimer;
  private issued = 0;
  private queueHead: DiskOp | null = null;
  private queueTail: DiskOp | null = null;
  private queued = 0;
  private refusedHead: DiskOp | null = null;
  private refusedTail: DiskOp | null = null;
  private starvedHead: DiskOp | null = null;
  private starved = 0;
  private mayStarve = true;
  private readonly retry: CallbackTimer;
  private oldest: DeviceOp | null = null;
  private newest: DeviceOp | null = null;
  /** Completions and their latencies since the last look of the watch. */
  private recentCount = 0;
  private recentSumUs = 0;
  /** When a read failed last; -1: none did. */
  private readErrorUs = -1;
  /** Since when the averages are above the lower watermark, without a gap; -1: they are not. */
  private sluggishSinceUs = -1;

  constructor(world: World, disk: Disk, observer: DeviceObserver, options: DeviceOptions = {}) {
    this.world = world;
    this.disk = disk;
    this.observer = observer;
    this.inFlightMax = options.inFlightMax ?? IN_FLIGHT_DEFAULT;
    this.slowUs = options.slowUs ?? SLOW_US_DEFAULT;
    this.sluggishUs = options.sluggishUs ?? SLUGGISH_US_DEFAULT;
    assert(this.inFlightMax >= 1, "Device: inFlightMax is below 1");
    this.watch = new CallbackTimer(() => this.look());
    this.retry = new CallbackTimer(() => this.feed());
    world.turns.addDrain(DrainOrder.Receive, this);
    // Behind the log's and the movers' drains too: what they could not place this turn.
    world.turns.addDrain(DrainOrder.Send, this);
  }

  get sizeBytes(): number {
    return this.disk.sizeBytes;
  }

  /** Operations submitted and not complete, queued ones and those without space included. */
  get pending(): number {
    return this.issued + this.queued + this.starved;
  }

  // cold: for reports.
  /** Whether a read failed in the last hour. */
  get readsFail(): boolean {
    return this.readErrorUs >= 0 && this.world.clock.nowUs() - this.readErrorUs < READ_ERROR_US;
  }

  /** Writes wait for space beneath, or did at the last try. */
  get isStarving(): boolean {
    return this.retry.timerDueUs >= 0;
  }

  /**
   * Start an operation.
   *
   * The memory at `arenaOffset` belongs to the device until `onComplete`. Answers: Ok,
   * DeviceFailed. A failed read latches nothing: the caller heals from a peer.
   */
  submit(op: DeviceOp): void {
    checkOp(op, this.disk.sizeBytes);
    assert(op.device === null, "Device.submit: operation is in flight");
    op.device = this;
    op.status = Status.Ok;
    op.errno = 0;
    // Before the first turn there is no time of a turn: the first read of a start would look as old
    // as the machine, and its device slow.
    const clock = this.world.clock;
    op.submittedUs = clock.turnUs === 0 ? clock.nowUs() : clock.turnUs;
    op.overrunUs = clock.overrunUs;
    op.diskNext = null;
    if (this.failed && op.verb !== DiskVerb.Read) {
      this.refuse(op);
      return;
    }
    if (this.queueHead === null && this.issued < this.inFlightMax) {
      this.issue(op);
      return;
    }
    if (this.queueTail === null) this.queueHead = op;
    else this.queueTail.diskNext = op;
    this.queueTail = op;
    this.queued += 1;
  }

  /** Whoever closes the disk does not wait for space: without it, from now on, the device fails. */
  failStarved(): void {
    this.mayStarve = false;
    this.submitStarved();
  }

  /** Wait for nothing, close the disk. Requires: nothing pending. */
  close(): void {
    assert(this.pending === 0, "Device.close: operations are pending");
    this.world.timers.disarm(this.watch);
    this.world.timers.disarm(this.retry);
    this.disk.close();
  }

  drain(): void {
    this.completeRefused();
    while (this.queueHead !== null && this.issued < this.inFlightMax) {
      const op = this.queueHead as DeviceOp;
      this.queueHead = op.diskNext;
      if (this.queueHead === null) this.queueTail = null;
      op.diskNext = null;
      this.queued -= 1;
      if (this.failed && op.verb !== DiskVerb.Read) this.refuse(op);
      else this.issue(op);
    }
    if (this.refusedHead !== null) this.world.turns.again();
  }

  /** Called by `DeviceOp.onDone` only. */
  finish(op: DeviceOp): void {
    this.issued -= 1;
    if (op.verb === DiskVerb.Discard) {
      this.finishDiscard(op);
      return;
    }
    this.unlist(op);
    if (op.errno === ENOSPC && this.mayStarve && !this.failed && this.isOwnError(op)) {
      this.starve(op);
      return;
    }
    const latencyUs = this.world.clock.turnUs - op.submittedUs;
    this.recentCount += 1;
    const ageUs = this.ageOf(op);
    this.recentSumUs += ageUs;
    if (ageUs >= LATE_US && op.verb !== DiskVerb.Write) this.tellLate(op, ageUs);
    if (op.status === Status.Ok) this.count(op, latencyUs);
    else this.onError(op);
    op.device = null;
    if (this.queueHead !== null) this.world.turns.again();
    op.onComplete();
  }

  // cold: devices are faster.
  private tellLate({ verb, region }: DeviceOp, ageUs: number): void {
    const ms = Math.round(ageUs / 1000);
    this.world.logger.debug("late device operation", {
      verb: DiskVerb[verb],
      region: DeviceRegion[region],
      ms,
    });
  }

  // cold: background work.
  /** One that was refused, or took long, says nothing of what is written and read. */
  private finishDiscard(op: DeviceOp): void {
    if (op.errno === 0) this.count(op, 0);
    op.device = null;
    if (this.queueHead !== null) this.world.turns.again();
    op.onComplete();
  }

  /** Called by the watch every 100 ms while operations are in flight, or were slow just now. */
  look(): void {
    const nowUs = this.world.clock.turnUs;
    const age = this.oldest === null ? 0 : this.ageOf(this.oldest);
    const mean = this.recentCount === 0 ? 0 : this.recentSumUs / this.recentCount;
    const worst = age > mean ? age : mean;
    const idle = this.oldest === null && this.recentCount === 0;
    if (idle || (this.recentCount > 0 && mean * 2 < this.sluggishUs)) {
      this.sluggishSinceUs = -1;
    } else if (this.sluggishSinceUs < 0 && mean >= this.sluggishUs) {
      this.sluggishSinceUs = nowUs;
    }
    this.recentCount = 0;
    this.recentSumUs = 0;
    const lasts = this.sluggishSinceUs >= 0 && nowUs - this.sluggishSinceUs >= SLUGGISH_FOR_US;
    if (!this.slow && (worst >= this.slowUs || lasts)) {
      this.slow = true;
      this.observer.onDeviceSlow(worst);
    } else if (this.slow && worst * 2 < this.slowUs && this.sluggishSinceUs < 0) {
      this.slow = false;
      this.observer.onDeviceRecovered();
    }
    this.slowLatencyUs = this.slow ? worst : 0;
    const goesOn = this.oldest !== null || this.slow || this.sluggishSinceUs >= 0;
    if (goesOn) this.world.timers.arm(this.watch, WATCH_US);
  }

  /**
   * For how long the device has had it. Long turns of this reactor do not count: one that made 4,096
   * groups saw each write after 300 ms to 1.4 s, and handed all that it led to others for that. Two turns
   * can hide an end: that of the submission, and the last one. A disk that stands still shows behind more.
   */
  private ageOf(op: DeviceOp): number {
    const { turnUs, overrunUs } = this.world.clock;
    return turnUs - op.submittedUs - Math.min(overrunUs - op.overrunUs, OVERRUN_US_MAX);
  }

  private issue(op: DeviceOp): void {
    this.issued += 1;
    if (op.verb !== DiskVerb.Discard) this.list(op);
    this.disk.submit(op);
  }

  private list(op: DeviceOp): void {
    op.olderOp = this.newest;
    op.newerOp = null;
    if (this.newest === null) this.oldest = op;
    else this.newest.newerOp = op;
    this.newest = op;
    if (this.watch.timerDueUs < 0) this.world.timers.arm(this.watch, WATCH_US);
  }

  private unlist(op: DeviceOp): void {
    const older = op.olderOp;
    const newer = op.newerOp;
    if (older === null) this.oldest = newer;
    else older.newerOp = newer;
    if (newer === null) this.newest = older;
    else newer.olderOp = older;
    op.olderOp = null;
    op.newerOp = null;
  }

  // cold: a file system is full.
  /**
   * Whether the error is the operation's own. A flush, and a durable write where there is a page
   * cache, may tell of others, which are lost, and will not tell of them again.
   */
  private isOwnError(op: DeviceOp): boolean {
    return op.verb === DiskVerb.Write || (op.verb === DiskVerb.WriteDurable && this.disk.direct);
  }

  // cold: a file system is full.
  private starve(op: DeviceOp): void {
    op.diskNext = this.starvedHead;
    this.starvedHead = op;
    this.starved += 1;
    if (this.queueHead !== null) this.world.turns.again();
    if (this.retry.timerDueUs >= 0) return;
    this.world.timers.arm(this.retry, STARVED_RETRY_US);
    this.observer.onDeviceStarved();
  }

  // cold: some times a second while a file system is full.
  private feed(): void {
    if (this.starved === 0) return;
    this.world.timers.arm(this.retry, STARVED_RETRY_US);
    this.submitStarved();
  }

  // cold: some times a second while a file system is full.
  private submitStarved(): void {
    let left = this.starvedHead;
    this.starvedHead = null;
    this.starved = 0;
    while (left !== null) {
      const op = left as DeviceOp;
      left = op.diskNext;
      op.device = null;
      this.submit(op);
    }
  }

  private refuse(op: DeviceOp): void {
    if (this.refusedTail === null) this.refusedHead = op;
    else this.refusedTail.diskNext = op;
    this.refusedTail = op;
    this.world.turns.again();
  }

  private completeRefused(): void {
    let left = this.refusedHead;
    this.refusedHead = null;
    this.refusedTail = null;
    while (left !== null) {
      const op = left as DeviceOp;
      left = op.diskNext;
      op.diskNext = null;
      op.device = null;
      op.status = Status.DeviceFailed;
      op.errno = this.failedErrno;
      op.onComplete();
    }
  }

  private onError(op: DeviceOp): void {
    if (op.verb === DiskVerb.Read) {
      this.counters.readErrors += 1;
      this.readErrorUs = this.world.clock.turnUs;
      return;
    }
    if (op.verb === DiskVerb.Flush) this.counters.flushErrors += 1;
    else this.counters.writeErrors += 1;
    if (this.failed) return;
    this.failed = true;
    this.failedErrno = op.errno === 0 ? EIO : op.errno;
    this.observer.onDeviceFailed(this.failedErrno);
  }

  private count(op: DeviceOp, latencyUs: number): void {
    const counters = this.counters;
    const region = op.region;
    switch (op.verb) {
      case DiskVerb.Read:
        counters.reads[region] = counters.reads[region]! + 1;
        counters.bytesRead[region] = counters.bytesRead[region]! + op.lengthBytes;
        counters.readLatency.record(latencyUs);
        break;
      case DiskVerb.Write:
      case DiskVerb.WriteDurable:
        counters.writes[region] = counters.writes[region]! + 1;
        counters.bytesWritten[region] = counters.bytesWritten[region]! + op.lengthBytes;
        if (op.verb === DiskVerb.WriteDurable) {
          counters.durableWrites += 1;
          counters.durableLatency.record(latencyUs);
        } else counters.writeLatency.record(latencyUs);
        break;
      case DiskVerb.Flush:
        counters.flushes += 1;
        counters.durableLatency.record(latencyUs);
        break;
      case DiskVerb.Discard:
        counters.discards += 1;
        counters.bytesDiscarded += op.lengthBytes;
        break;
    }
  }
}

function checkOp(op: DiskOp, sizeBytes: number): void {
  assert(op.offsetBytes % BLOCK_SIZE === 0, "Device.submit: offset is not aligned to 4 KiB");
  assert(op.lengthBytes % BLOCK_SIZE === 0, "Device.submit: length is not aligned to 4 KiB");
  assert(op.arenaOffset % BLOCK_SIZE === 0, "Device.submit: memory is not aligned to 4 KiB");
  assert(op.offsetBytes >= 0, "Device.submit: offset is negative");
  if (op.verb === DiskVerb.Flush) return;
  assert(op.lengthBytes > 0, "Device.submit: length is not positive");
  assert(op.offsetBytes + op.lengthBytes <= sizeBytes, "Device.submit: range past the end");
}
