import { FastblockError } from "../base/errors.ts";
import { exactSize } from "../base/size-text.ts";
import { BlockState, type ImageTarget } from "../client/client.ts";
import { LatencyHistogram } from "../metrics/metrics.ts";
import { sleep, type World } from "../reactor/world.ts";
import type { ImageBenchOptions, ImageBenchReport, SlowMoment } from "./bench.ts";
import type { Collections } from "./collections.ts";
import type { OpLog } from "./history.ts";
import { ImageLoad, type LoadOptions } from "./image-load.ts";
import { latencyReport } from "./latency.ts";
import { loadError } from "./load-failures.ts";
import { Pace } from "./pace.ts";
import {
  callCostsOf,
  callsPerIoOf,
  type CallCost,
  costsOf,
  cpuUsPerIoOf,
  type DeviceUsage,
  type ProcessUsage,
  round,
} from "./spending.ts";
import type { LoadShape } from "./shape.ts";
import { StampBook } from "./stamp.ts";
import { anyBlockIs } from "./survey.ts";
import { WorstMoments } from "./worst-moments.ts";

/**
 * One run of `fastblock bench image`: fill (where it has holes) → ramp → measured window → end of the open operations
 * → drain of the osds' logs → with verify, everything that was written is read back.
 *
 * What the figures count. Latency and I/O per second: the window alone. Device bytes per client
 * byte: everything from the start of the ramp to the end of the drain over everything written in
 * that time, because the log of the ramp is moved home during the window. CPU per I/O: the
 * window's, plus the drain's share of all I/O since the start of the ramp. Of an open loop the window is
 * all that was due in it, however late it ended. System calls per I/O: from the start of the ramp to the
 * end of the drain, of this process to the end of the load.
 */
export interface BenchOutside {
  readonly world: World;
  readonly image: BenchImage;
  readonly meter: ClusterMeter;
  /** Of this reactor and of all osds: one word when they agree, else `mixed`. */
  readonly backend: string;
  readonly progress: BenchProgress;
  readonly log: OpLog | null;
}

/** An image, and what a run wants to know of it. */
export interface BenchImage extends ImageTarget {
  readonly id: number;
  /** All connections to osds are encrypted. */
  readonly isEncrypted: boolean;
  /** Those that keep the byte at `offsetBytes`. */
  replicasAt(offsetBytes: number): readonly unknown[];
}

/** Reads what the cluster spends. */
export interface ClusterMeter {
  /** Of the processes of the cluster directory and of this one, by kind. */
  processes(): readonly ProcessUsage[];
  /** Of all devices together; null: unknown. */
  devices(): Promise<DeviceUsage | null>;
  /** System calls of this process' reactor, and of those of all osds some time ago; null: unknown. */
  ownCalls(): number | null;
  osdCalls(): Promise<number | null>;
  /** Of all processes of the cluster directory, since it was asked last; null: they do not tell. */
  takeCollections(): Collections | null;
  /** Bytes in all logs that are not yet moved home; null: unknown. */
  logBytes(): Promise<number | null>;
  /** What all devices together have left; null: unknown. */
  freeBytes(): Promise<number | null>;
}

/** Shows how far a run is; `phase` is a word like `fill`. */
export interface BenchProgress {
  begin(phase: string, total: number): void;
  at(done: number, note: string): void;
  end(): void;
}

const FILL_BLOCK_BYTES = 262_144;
const FILL_DEPTH = 8;
const FILL_SHARE_MAX = 0.8;
const READ_BACK_DEPTH_MAX = 32;
const TICK_MS = 250;
/** Between two looks at the devices during the drain: longer than the osds' report interval. */
const DRAIN_LOOK_MS = 1200;
const DRAIN_LOOKS_MAX = 100;
/** So many looks in a row without traffic end the drain. */
const DRAIN_QUIET_LOOKS = 2;
const DRAIN_QUIET_BYTES = 262_144;
/** For what has no limit of its own. */
const FINISH_MS_MAX = 30_000;
/** How much later than its limit an operation may end. */
const FINISH_LATE_MS = 2000;
const FINISH_LOOK_MS = 10;
const WORST_LISTED = 10;
const CLOSED = { pace: null, worst: null };

/** Run it. The image stays open. Throws FB1006 or FB5001 when a fill failed. */
export async function runImageBench(
  outside: BenchOutside,
  options: ImageBenchOptions,
): Promise<ImageBenchReport> {
  const { world, meter } = outside;
  const common = baseOf(outside, options);
  const filled = await prepare(outside, options, common);
  // Without the drain, what the logs still hold would be missing from the devices' bytes.
  const counts = options.drain && !onlyReads(options.rw);
  const worst = new WorstMoments(options.timeMs);
  const load = loadOf(world, options, common, worst);
  const before = counts ? await meter.devices() : null;
  const calls = new CallCounts(meter, options.drain);
  await calls.begin();
  load.start();
  await tickThrough(outside, load, "ramp", options.rampMs);
  load.resetWindow();
  const atStart = meter.processes();
  meter.takeCollections();
  const startUs = world.clock.nowUs();
  await tickThrough(outside, load, "run", options.timeMs);
  const lengthUs = world.clock.nowUs() - startUs;
  const atEnd = meter.processes();
  const closed = options.opsPerSecond === 0 ? windowOf(load, lengthUs) : null;
  await finish(outside, load, options.timeoutMs);
  const window = closed ?? windowOf(load, lengthUs);
  calls.endOwn();
  const drainSeconds = counts ? await drain(outside) : 0;
  const afterDrain = meter.processes();
  const collections = meter.takeCollections();
  const after = counts ? await meter.devices() : null;
  // A drain ends when the osds have reported that they are quiet.
  if (calls.known && !counts) await sleep(world.timers, DRAIN_LOOK_MS * 1000);
  await calls.end();
  const back = await readBack(outside, options, common, load);
  const [windowOps, totalOps] = [window.ops, load.opsTotal];
  const processes = costsOf({ atStart, atEnd, afterDrain, windowOps, totalOps });
  const systemCalls = calls.costs(totalOps);
  return {
    kind: "image",
    path: options.path,
    rw: options.rw,
    blockBytes: options.blockBytes,
    depth: options.depth,
    jobs: options.jobs,
    filled,
    ...window,
    cpuUsPerIo: cpuUsPerIoOf(processes),
    processes,
    systemCalls,
    systemCallsPerIo: callsPerIoOf(systemCalls),
    collections,
    ...devicesOf(before, after, load),
    writtenBytes: load.writtenBytesTotal,
    drainSeconds,
    backend: outside.backend,
    encrypted: outside.image.isEncrypted,
    errors: load.errorsTotal + (back?.errorsTotal ?? 0),
    errorTexts: [...load.failures.statusTexts, ...(back?.failures.statusTexts ?? [])],
    timeouts: load.failures.timeouts + (back?.failures.timeouts ?? 0),
    refusedForSpace: load.failures.refusedForSpace,
    verifiedBlocks: load.verifiedBlocks + (back?.verifiedBlocks ?? 0),
    verifyErrors: [...load.failures.blockTexts, ...(back?.failures.blockTexts ?? [])],
    seed: options.seed,
    opsPerSecond: options.opsPerSecond,
    worst: slowOf(world, worst, startUs),
  };
}

function loadOf(
  { clock, timers }: World,
  { rw, blockBytes, depth, jobs, opsPerSecond }: ImageBenchOptions,
  common: LoadBase,
  worst: WorstMoments,
): ImageLoad {
  const pace = opsPerSecond === 0 ? null : new Pace(clock, timers, opsPerSecond);
  return new ImageLoad({ ...common, rw, blockBytes, depth, jobs, once: false, pace, worst });
}

/** The slowest operations, in the words of the report. */
function slowOf({ clock }: World, worst: WorstMoments, startUs: number): SlowMoment[] {
  const wallOfClockMs = clock.wallMs() - clock.nowUs() / 1000;
  return worst.list(WORST_LISTED).map(({ dueUs, latencyUs, lateUs }) => ({
    atSeconds: round((dueUs - startUs) / 1_000_000),
    wallMs: Math.round(wallOfClockMs + dueUs / 1000),
    latencyUs,
    lateUs,
  }));
}

/** System calls around a run. */
class CallCounts {
  private readonly meter: ClusterMeter;
  private readonly isWanted: boolean;
  private readonly own: [number | null, number | null] = [null, null];
  private readonly osds: [number | null, number | null] = [null, null];

  constructor(meter: ClusterMeter, isWanted: boolean) {
    this.meter = meter;
    this.isWanted = isWanted;
  }

  get known(): boolean {
    return this.own[0] !== null && this.osds[0] !== null;
  }

  async begin(): Promise<void> {
    if (!this.isWanted) return;
    this.osds[0] = await this.meter.osdCalls();
    this.own[0] = this.meter.ownCalls();
  }

  endOwn(): void {
    this.own[1] = this.meter.ownCalls();
  }

  async end(): Promise<void> {
    if (this.known) this.osds[1] = await this.meter.osdCalls();
  }

  costs(ops: number): CallCost[] {
    return callCostsOf({ client: this.own, osd: this.osds }, ops);
  }
}

type LoadBase = Omit<
  LoadOptions,
  "rw" | "blockBytes" | "depth" | "jobs" | "once" | "pace" | "worst"
>;

/** What the fill and the load itself share. */
function baseOf(outside: BenchOutside, options: ImageBenchOptions): LoadBase {
  const { world, image, log } = outside;
  const rangeBytes = options.rangeBytes === 0 ? image.sizeBytes : options.rangeBytes;
  const stamped = options.verify || log !== null;
  return {
    image,
    arena: world.arena,
    clock: world.clock,
    checksum: world.checksum,
    rangeBytes,
    readPercent: options.readPercent,
    seed: options.seed,
    verify: options.verify,
    run: world.random.u32(),
    imageTag: image.id >>> 0,
    book: stamped ? new StampBook(Math.ceil(rangeBytes / 4096)) : null,
    log,
  };
}

function onlyReads(rw: LoadShape): boolean {
  return rw === "read" || rw === "randread";
}

/** Fill the range where that is wanted, and let the logs drain of it. Null: it is as it was. */
async function prepare(
  outside: BenchOutside,
  options: ImageBenchOptions,
  common: LoadBase,
): Promise<ImageBenchReport["filled"]> {
  if (!(await isToFill(outside, options, common.rangeBytes))) return null;
  if (options.fill === "holes") await checkRoom(outside, common.rangeBytes);
  const { clock } = outside.world;
  const startUs = clock.nowUs();
  const bytes = await fill(outside, common);
  const seconds = round((clock.nowUs() - startUs) / 1_000_000);
  if (options.drain) await drain(outside);
  return { bytes, seconds };
}

/**
 * Holes are quicker to read than data, and slower to write once. Who only reads keeps what there is:
 * data of somebody's; who writes takes random places of it anyway.
 */
async function isToFill(
  outside: BenchOutside,
  { fill, rw }: ImageBenchOptions,
  rangeBytes: number,
): Promise<boolean> {
  if (fill !== "holes") return fill === "always";
  const { image, world } = outside;
  if (onlyReads(rw)) return !(await anyBlockIs(BlockState.Data, image, rangeBytes, world));
  return await anyBlockIs(BlockState.Zero, image, rangeBytes, world);
}

/** A fill that nobody asked for takes no more than most of what is free. Throws FB5002. */
async function checkRoom(outside: BenchOutside, rangeBytes: number): Promise<void> {
  const free = await outside.meter.freeBytes();
  const needed = rangeBytes * outside.image.replicasAt(0).length;
  if (free === null || needed <= free * FILL_SHARE_MAX) return;
  const seen = `${exactSize(needed)} on all osds together, ${exactSize(free)} are free`;
  throw new FastblockError("FB5002", `filling the image before the run: it takes ${seen}`, {
    hint: "--range fills and drives less of it; --no-fill leaves its holes; --fill insists",
  });
}

/** Write the whole range once, with random or stamped content. Answers the bytes of it. */
async function fill(outside: BenchOutside, common: LoadBase): Promise<number> {
  const blockBytes = Math.min(FILL_BLOCK_BYTES, Math.floor(common.rangeBytes / 4096) * 4096);
  if (blockBytes === 0) return 0;
  const load = new ImageLoad({
    ...common,
    rw: "write",
    blockBytes,
    depth: FILL_DEPTH,
    jobs: 1,
    once: true,
    ...CLOSED,
  });
  await walkThrough(outside, load, "fill", common.rangeBytes);
  const failure = load.failures.statusTexts[0];
  if (failure !== undefined) throw loadError("filling the image", failure, load.failures);
  return load.writtenBytesTotal;
}

/**
 * With verify: read everything that the run wrote, and judge it. Undefined: there is nothing to
 * judge, or the load has failed already.
 */
async function readBack(
  outside: BenchOutside,
  options: ImageBenchOptions,
  common: LoadBase,
  load: ImageLoad,
): Promise<ImageLoad | undefined> {
  if (!options.verify || load.errorsTotal > 0) return undefined;
  const back = new ImageLoad({
    ...common,
    rw: "read",
    blockBytes: options.blockBytes,
    depth: Math.min(options.depth * options.jobs, READ_BACK_DEPTH_MAX),
    jobs: 1,
    once: true,
    ...CLOSED,
  });
  await walkThrough(outside, back, "verify", 0);
  return back;
}

/** Run a load that walks the range once; a failure ends it early. `total`: bytes to write. */
async function walkThrough(
  outside: BenchOutside,
  load: ImageLoad,
  phase: string,
  total: number,
): Promise<void> {
  let isIdle = false;
  load.onIdle = () => {
    isIdle = true;
  };
  outside.progress.begin(phase, total);
  load.start();
  while (!isIdle) {
    await sleep(outside.world.timers, TICK_MS * 1000);
    outside.progress.at(load.writtenBytesTotal, "");
    if (load.errorsTotal > 0) load.stop();
  }
  outside.progress.end();
}

/** Let a phase pass; ends early when the load stopped by itself. */
async function tickThrough(
  outside: BenchOutside,
  load: ImageLoad,
  phase: string,
  lengthMs: number,
): Promise<void> {
  const { world, meter, progress } = outside;
  const endUs = world.clock.nowUs() + lengthMs * 1000;
  progress.begin(phase, lengthMs);
  let opsBefore = load.ops;
  for (let leftMs = lengthMs; leftMs > 0 && !load.isOver; ) {
    await sleep(world.timers, Math.max(1, Math.min(TICK_MS, leftMs)) * 1000);
    leftMs = Math.round((endUs - world.clock.nowUs()) / 1000);
    // Processes may die and come back during a run: the meter looks often.
    meter.processes();
    const rate = Math.round(((load.ops - opsBefore) * 1000) / TICK_MS);
    opsBefore = load.ops;
    progress.at(Math.min(lengthMs, lengthMs - leftMs), `${rate} I/O per s`);
  }
  progress.end();
}

/** Wait until the devices are quiet. Answers the seconds that it took, the quiet looks left out. */
export async function drain(outside: BenchOutside): Promise<number> {
  const { world, meter, progress } = outside;
  const startUs = world.clock.nowUs();
  let quiet = 0;
  let lastTrafficUs = startUs;
  const first = await meter.devices();
  if (first === null) return 0;
  let before = first.bytes;
  progress.begin("drain", 0);
  for (let look = 0; look < DRAIN_LOOKS_MAX && quiet < DRAIN_QUIET_LOOKS; look++) {
    await sleep(world.timers, DRAIN_LOOK_MS * 1000);
    const now = (await meter.devices())?.bytes;
    if (now === undefined) break;
    const log = await meter.logBytes();
    progress.at(0, log === null ? "" : `${Math.round(log / 1_048_576)} MiB of log left`);
    if (now - before <= DRAIN_QUIET_BYTES) {
      quiet++;
    } else {
      quiet = 0;
      lastTrafficUs = world.clock.nowUs();
    }
    before = now;
  }
  progress.end();
  return round((lastTrafficUs - startUs) / 1_000_000);
}

function windowOf(load: ImageLoad, lengthUs: number) {
  const seconds = lengthUs / 1_000_000;
  const all = new LatencyHistogram();
  all.merge(load.reads);
  all.merge(load.writes);
  return {
    seconds: round(seconds),
    ops: all.count,
    iops: round(all.count / seconds),
    bytesPerSec: Math.round(load.bytesOf(all.count) / seconds),
    latencyUs: latencyReport(all),
    readLatencyUs: load.reads.count === 0 ? null : latencyReport(load.reads),
    writeLatencyUs: load.writes.count === 0 ? null : latencyReport(load.writes),
    pauseUsMax: load.pauseUsNow(),
  };
}

/** What the devices wrote from `before` to `after`, for what clients wrote meanwhile. */
function devicesOf(before: DeviceUsage | null, after: DeviceUsage | null, load: ImageLoad) {
  const bytes = load.writtenBytesTotal;
  const writes = load.bytesOf(1) === 0 ? 0 : bytes / load.bytesOf(1);
  const known = before !== null && after !== null && bytes > 0;
  const per = (count: number, share: number): number | null =>
    known ? round(count / share) : null;
  return {
    deviceBytesPerClientByte: per((after?.bytes ?? 0) - (before?.bytes ?? 0), bytes),
    deviceWritesPerClientWrite: per((after?.writes ?? 0) - (before?.writes ?? 0), writes),
    flushesPerClientWrite: per((after?.flushes ?? 0) - (before?.flushes ?? 0), writes),
  };
}

/** Let the open operations end; those that do not are told as errors, their outcome is unknown. */
async function finish(outside: BenchOutside, load: ImageLoad, timeoutMs: number): Promise<void> {
  load.stop();
  const mostMs = timeoutMs === 0 ? FINISH_MS_MAX : timeoutMs + FINISH_LATE_MS;
  for (let waitedMs = 0; load.open > 0 && waitedMs < mostMs; waitedMs += FINISH_LOOK_MS) {
    await sleep(outside.world.timers, FINISH_LOOK_MS * 1000);
  }
  if (load.open > 0) load.abandon();
}
