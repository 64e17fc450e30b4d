/**
 * The face of `core/bench`: load shapes, latency histograms, reports, comparison.
 *
 * `fastblock bench image` drives an image through `core/client` in its own reactor;
 * `bench disk|reactor|rpc` drive one layer each. All speak `-o json` with the same words.
 */
import type { Collections } from "./collections.ts";
import type { DuelOptions, DuelReport } from "./duel.ts";
import type { IdleOptions, IdleReport } from "./idle.ts";
import type { LatencyReport } from "./latency.ts";
import type { LoadShape } from "./shape.ts";
import type { PausesOptions, PausesReport } from "./pauses.ts";
import type { CallCost, ProcessCost } from "./spending.ts";
import type { RecoveryOptions, RecoveryReport } from "./recovery.ts";
import type { SuiteOptions, SuiteReport } from "./suite.ts";

export { judgeRows } from "./bars.ts";
export type { BenchRow, CpuClock } from "./bench-row.ts";
export { COLLECTIONS_TOLD, withoutCollections } from "./collections.ts";
export { compareReports, unlikeLoads } from "./compare.ts";
export { type DiskBenchCase, fillDisk, runDiskBench } from "./disk-bench.ts";
export { DiskProbe } from "./disk-probe.ts";
export {
  DUEL_HINT,
  DUEL_ROWS,
  type DuelOptions,
  type DuelOutside,
  type DuelReport,
  type DuelRun,
  parseDuelRows,
  type Quartiles,
  runDuel,
  type Sides,
} from "./duel.ts";
export { formatHistoryLine } from "./history.ts";
export { ImageLoad } from "./image-load.ts";
export { type BenchOutside, type BenchProgress, drain, runImageBench } from "./image-bench.ts";
export {
  type IdleOptions,
  type IdleOutside,
  type IdleReport,
  type IdleUsage,
  type PairUsage,
  poolsFor,
  runIdle,
} from "./idle.ts";
export {
  FULL_STORE_LOAD,
  FULL_STORE_ROW,
  fullStoreBytesOf,
  fullStoreMemoryOf,
  judgeFullStore,
  runFullStoreBench,
} from "./full-store-bench.ts";
export { latencyReport } from "./latency.ts";
export { loadError } from "./load-failures.ts";
export {
  judgePauses,
  type PauseEvent,
  type Pauses,
  type PausesOptions,
  type PausesOutside,
  type PausesReport,
  runPauses,
} from "./pauses.ts";
export { samplesOf } from "./metrics-text.ts";
export {
  type RecoveryCause,
  type RecoveryLook,
  type RecoveryOptions,
  type RecoveryOutside,
  type RecoveryReport,
  type RecoverySpeedWord,
  runRecovery,
} from "./recovery.ts";
export { costsOf, cpuUsPerIoOf } from "./spending.ts";
export { serveBareReplica } from "./bare-replica.ts";
export { runEchoBench, runTurnBench, serveEcho } from "./reactor-bench.ts";
export { runRpcBench, serveRpcBench } from "./rpc-bench.ts";
export { pagedStoreBytesOf, runPagedStoreBench } from "./paged-store-bench.ts";
export { judgeStore, runStoreBench, STORE_LOAD, STORE_ROW, storeBytesOf } from "./store-bench.ts";
export { checkDiskShape, checkRpcShape, checkShape, type LoadShape } from "./shape.ts";
export {
  BAR_ROWS,
  type BareFigures,
  encryptionText,
  parseSuiteRows,
  runSuite,
  SUITE_ROWS,
  type SuiteOptions,
  type SuiteOutside,
  type SuiteReport,
  type SuiteRow,
  type SuiteRowReport,
  type SuiteRun,
} from "./suite.ts";

/** What to do with an image, and for how long. */
export interface ImageBenchOptions {
  readonly cluster: string;
  /** `POOL/IMAGE` */
  readonly path: string;
  readonly rw: LoadShape;
  readonly blockBytes: number;
  /** Operations kept open per job; of an open loop: at most so many. */
  readonly depth: number;
  readonly jobs: number;
  /** An open loop: so many are due each second, and latency counts from then. 0: a closed loop. */
  readonly opsPerSecond: number;
  readonly timeMs: number;
  /** Not counted; before `timeMs`. */
  readonly rampMs: number;
  /** Share of reads of `rw`, in percent. */
  readonly readPercent: number;
  /** Stamp blocks, check what is read, and read back what was written when the run is over. */
  readonly verify: boolean;
  /**
   * Write the range in full with random data first: `holes`, where it is not written in full (for
   * loads that only read: where nothing of it is).
   */
  readonly fill: "always" | "holes" | "never";
  /** Wait until the osds' logs are drained, and count it. */
  readonly drain: boolean;
  /** Only the first bytes of the image; 0: all of it. */
  readonly rangeBytes: number;
  readonly seed: number;
  /** One JSON line per operation goes there; empty: none. */
  readonly historyPath: string;
  readonly backend: "auto" | "uring" | "file";
  /** An operation without an answer for this long fails, and ends the run; 0: no limit. */
  readonly timeoutMs: number;
  readonly progress: boolean;
}

/** The answer of `bench image -o json`. */
export interface ImageBenchReport {
  readonly kind: "image";
  readonly path: string;
  readonly rw: string;
  readonly blockBytes: number;
  readonly depth: number;
  readonly jobs: number;
  /** What was written before the run, and how long that took; null: nothing, it was as it was. */
  readonly filled: { readonly bytes: number; readonly seconds: number } | null;
  readonly seconds: number;
  readonly ops: number;
  readonly iops: number;
  readonly bytesPerSec: number;
  readonly latencyUs: LatencyReport;
  readonly readLatencyUs: LatencyReport | null;
  readonly writeLatencyUs: LatencyReport | null;
  /** µs of all processes of the cluster directory and of this one per I/O; null: unknown. */
  readonly cpuUsPerIo: number | null;
  /** The same by kind of process: `client` is this one. */
  readonly processes: readonly ProcessCost[];
  /**
   * System calls of the reactors of osds and of this process per I/O, and by kind of process; null and none:
   * unknown. What the runtime calls beside them, and other processes, are not counted.
   */
  readonly systemCallsPerIo: number | null;
  readonly systemCalls: readonly CallCost[];
  /** Of garbage, in osds, mon and gateways, in the window and the drain; null: they do not tell. */
  readonly collections: Collections | null;
  /** Written to all devices per byte that clients wrote; null: nothing written, or unknown. */
  readonly deviceBytesPerClientByte: number | null;
  /** On all devices per write of clients: writes of any kind; flushes and durable writes. */
  readonly deviceWritesPerClientWrite: number | null;
  readonly flushesPerClientWrite: number | null;
  /** By clients, from the start of the ramp on. */
  readonly writtenBytes: number;
  readonly drainSeconds: number;
  /** Of this process and of all osds: one word when they agree, else `mixed`. */
  readonly backend: string;
  /** All connections of this process to osds were encrypted; else handshakes and headers were signed. */
  readonly encrypted: boolean;
  /** Operations that failed and blocks that were wrong. */
  readonly errors: number;
  readonly errorTexts: readonly string[];
  /** Of these errors: operations that had no answer in time. */
  readonly timeouts: number;
  /** Operations that had no space. */
  readonly refusedForSpace: number;
  readonly verifiedBlocks: number;
  readonly verifyErrors: readonly string[];
  readonly seed: number;
  /** µs during which no operation was done, at its longest. */
  readonly pauseUsMax: number;
  /** Of an open loop; 0: a closed one. */
  readonly opsPerSecond: number;
  /** The slowest operations, at most one of neighbouring tenths of a second; the worst first. */
  readonly worst: readonly SlowMoment[];
}

/** When an operation was due that took long, and how long. */
export interface SlowMoment {
  /** From the start of the measured time on. */
  readonly atSeconds: number;
  /** The same since 1970, as logs tell it. */
  readonly wallMs: number;
  readonly latencyUs: number;
  /** Of that time: until the load submitted it, since it was late itself or had too many open. */
  readonly lateUs: number;
}

export interface DiskBenchOptions {
  /** A file or block device; empty: a temporary file in the working directory. */
  readonly path: string;
  readonly sizeBytes: number;
  readonly blockBytes: number;
  readonly depth: number;
  readonly timeMs: number;
  readonly rw: "randwrite" | "randread" | "write" | "read";
  readonly backend: "auto" | "uring" | "file";
  readonly fio: boolean;
  /** Write over what is there. */
  readonly force: boolean;
}

export interface StoreBenchOptions {
  /** A file that is made for it; empty: a temporary one in the working directory. */
  readonly path: string;
  /** Of each of the two layers that are written. */
  readonly imageBytes: number;
  readonly depth: number;
  readonly timeMs: number;
  /** Between two snapshots: the length of a turn. */
  readonly snapshotMs: number;
  readonly backend: "auto" | "uring" | "file";
}

export interface PagedStoreBenchOptions {
  /** A file that is made for it; empty: a temporary one in the working directory. */
  readonly path: string;
  readonly imageBytes: number;
  readonly depth: number;
  /** Of the bare file and the store together. */
  readonly timeMs: number;
  readonly backend: "auto" | "uring" | "file";
}

export interface FullStoreBenchOptions {
  /** A file that is made for it, of which log and checkpoints are written; empty: a temporary one. */
  readonly path: string;
  readonly imageBytes: number;
  readonly depth: number;
  /** How often the writes go around the log, at least. */
  readonly logTurns: number;
  readonly backend: "auto" | "uring" | "file";
}

export interface ReactorBenchOptions {
  readonly timeMs: number;
  readonly backend: "auto" | "uring" | "file";
  readonly fio: boolean;
}

export interface RpcBenchOptions {
  readonly blockBytes: number;
  readonly depth: number;
  readonly timeMs: number;
  readonly backend: "auto" | "uring" | "file";
  /** The connection is encrypted. */
  readonly encrypt: boolean;
  readonly fio: boolean;
}

/** One line of `bench disk|reactor|rpc|store`; figures are null when there are none. */
export interface MicroRow {
  readonly name: string;
  readonly iops: number | null;
  readonly bytesPerSec: number | null;
  readonly latencyUs: Omit<LatencyReport, "mean"> | null;
  readonly cpuUsPerIo: number | null;
  readonly backend: string;
  /** Why figures are missing. */
  readonly note?: string;
  readonly [key: string]: unknown;
}

/** What `fastblock bench` calls. */
export interface BenchPrograms {
  image(options: ImageBenchOptions): Promise<ImageBenchReport>;
  suite(options: SuiteOptions): Promise<SuiteReport>;
  duel(options: DuelOptions): Promise<DuelReport>;
  recovery(options: RecoveryOptions): Promise<RecoveryReport>;
  store(options: StoreBenchOptions): Promise<readonly MicroRow[]>;
  pagedStore(options: PagedStoreBenchOptions): Promise<readonly MicroRow[]>;
  fullStore(options: FullStoreBenchOptions): Promise<readonly MicroRow[]>;
  idle(options: IdleOptions): Promise<IdleReport>;
  pauses(options: PausesOptions): Promise<PausesReport>;
  disk(options: DiskBenchOptions): Promise<readonly MicroRow[]>;
  reactor(options: ReactorBenchOptions): Promise<readonly MicroRow[]>;
  rpc(options: RpcBenchOptions): Promise<readonly MicroRow[]>;
  /** The parsed JSON of a report that was kept. Throws FB1001. */
  readReport(path: string): Promise<unknown>;
}
