import { FastblockError } from "../base/errors.ts";
import type { BarReport } from "./bars.ts";
import type { ImageBenchReport, MicroRow, SlowMoment } from "./bench.ts";
import type { BenchRow } from "./bench-row.ts";
import { type Collections, collectionsOf } from "./collections.ts";
import type { LatencyReport } from "./latency.ts";
import { loadError } from "./load-failures.ts";
import { type CallCost, type ProcessCost, round } from "./spending.ts";

/**
 * `fastblock bench suite`: the same rows on every machine, against the raw disk below them.
 *
 * Each row runs several times, fio's row on a file beside the osds' right before it: machines
 * change their speed by the hour. So does what stands below an operation, without fastblock around it
 * (`BareFigures`). A figure of a row is the median of its runs, `max` the worst.
 */
export interface SuiteRow {
  /**
   * As people write it: `randwrite:4KiB:32`, `nbd:randread:4KiB:32`, `randwrite:4KiB:32:steady`,
   * `randwrite:4KiB:128:tail`, `randread:4KiB:32:cold`, `encrypted:randwrite:4KiB:32`.
   */
  readonly name: string;
  /** Through an NBD gateway, by fio; else by the native client of this process. */
  readonly nbd: boolean;
  readonly rw: "randwrite" | "randread" | "write" | "read";
  readonly blockBytes: number;
  readonly depth: number;
  /** On a cluster whose logs are small: a run goes around them several times. Else it fits into them. */
  readonly steady: boolean;
  /**
   * The latency tail: an open loop at half of the rate that the closed loop reaches right before, once and
   * for `tailMs`.
   */
  readonly tail: boolean;
  /** All osds are started anew before each run, and nothing ramps up: the first operation counts. */
  readonly cold: boolean;
  /** On a cluster whose connections are encrypted. */
  readonly encrypted: boolean;
}

export interface SuiteOptions {
  /** Directory of a dev cluster that is started, or made, and left as it was; empty: a new one. */
  readonly directory: string;
  readonly rows: readonly SuiteRow[];
  /** Measure the local store with snapshots and without, too (`STORE_ROW`). */
  readonly store: boolean;
  /** Measure a full local store, too (`FULL_STORE_ROW`). */
  readonly fullStore: boolean;
  /** Measured time of each run, of fio's as well. */
  readonly timeMs: number;
  /** Measured time of the open loop of a row that is about the tail. */
  readonly tailMs: number;
  readonly rampMs: number;
  /** Load before anything is measured, again while the processes still compile what they run often. */
  readonly warmMs: number;
  readonly repeat: number;
  readonly imageBytes: number;
  /** Reactors of each osd. */
  readonly shards: number;
  /** Measure what the bars are about as well. */
  readonly judged: boolean;
  readonly fio: boolean;
  readonly backend: "auto" | "uring" | "file";
  /** All rows run on clusters whose connections are encrypted. */
  readonly encrypt: boolean;
}

/** What the suite takes of a run. */
export type SuiteRun = Pick<
  ImageBenchReport,
  | "iops"
  | "latencyUs"
  | "cpuUsPerIo"
  | "processes"
  | "systemCalls"
  | "systemCallsPerIo"
  | "collections"
  | "deviceBytesPerClientByte"
  | "deviceWritesPerClientWrite"
  | "flushesPerClientWrite"
  | "writtenBytes"
  | "errorTexts"
  | "verifyErrors"
  | "timeouts"
  | "refusedForSpace"
  | "seconds"
  | "worst"
> & {
  /** Of an open loop: what a durable write to the raw disk took meanwhile, one every 10 ms. */
  readonly probeUs?: LatencyReport;
};

/** What the suite measures with. */
export interface SuiteOutside {
  /** Drive the image; the drain of what was written is included. `opsPerSecond`: 0 in a closed loop. */
  image(row: SuiteRow, timeMs: number, opsPerSecond: number): Promise<SuiteRun>;
  /** What the cluster's daemons did meanwhile, as far as they tell, by moment. */
  ran(moments: readonly SlowMoment[]): readonly (readonly string[])[];
  /** The same on a file; undefined without fio. */
  raw(row: SuiteRow): Promise<BenchRow | undefined>;
  /** What the row comes down to; null where nothing is compared with that. */
  bare(row: SuiteRow): Promise<BareFigures | null>;
  /** Tell how far it is. */
  say(words: string): void;
}

/** What fio did on a file on the same file system, direct; writes durable (dsync). */
export interface RawFigures {
  readonly iops: number;
  readonly latencyUs: Omit<LatencyReport, "mean">;
  readonly cpuUsPerIo: number;
}

/**
 * What an operation comes down to, by the same reactor, between processes that do nothing else: for a read a
 * message to a server that reads the block from a file and answers; for sequential reads, from the server's
 * memory; for a write alone a durable write to the file and two round trips of the block; for writes of
 * 4 KiB beside each other, all messages and device writes of three copies (`bare-replica.ts`).
 */
export interface BareFigures {
  readonly iops: number;
  readonly p50Us: number;
  /** Of all processes; null: was not taken. */
  readonly cpuUsPerIo: number | null;
  /** Where the others are a sum of parts: the p50 of processes that do all of it, µs; null: was not taken. */
  readonly wholeP50Us: number | null;
}

/** The tail of latencies: operations were due at a rate, and count from then. */
export interface TailFigures {
  /** Of the closed loop before. */
  readonly peakIops: number;
  readonly opsPerSecond: number;
  readonly seconds: number;
  /** Durable writes to the raw disk meanwhile, one every 10 ms: what is slow there is not fastblock's. */
  readonly probeUs: LatencyReport | null;
  /** The worst moments, worst first, and what the daemons' logs tell of them. */
  readonly worst: readonly (SlowMoment & { readonly ran: readonly string[] })[];
}

/** One row of the report: medians over its runs. */
export interface SuiteRowReport {
  readonly name: string;
  /** Connections were encrypted; else handshakes and headers were signed, as ever. */
  readonly encrypted: boolean;
  readonly iops: number;
  readonly bytesPerSec: number;
  readonly latencyUs: LatencyReport;
  readonly cpuUsPerIo: number;
  readonly processes: readonly ProcessCost[];
  /** Of the CPU: the threads that compile, beside the load, what it runs often. Less after a longer warm-up. */
  readonly compileUsPerIo: number;
  readonly switchesPerIo: number;
  /** Of the reactors of osds and client; null and none: unknown, as through a gateway. */
  readonly systemCallsPerIo: number | null;
  readonly systemCalls: readonly CallCost[];
  /** Of garbage, in osds, mon and gateways, in all runs together: there are few. Null: unknown. */
  readonly collections: Collections | null;
  readonly deviceBytesPerClientByte: number | null;
  readonly deviceWritesPerClientWrite: number | null;
  readonly flushesPerClientWrite: number | null;
  readonly raw: RawFigures | null;
  /** I/O per second ÷ those of the raw row. */
  readonly ratioToRaw: number | null;
  readonly bare: BareFigures | null;
  readonly tail: TailFigures | null;
  /** How often a run, its ramp included, has gone around the log of an osd; null: it only read. */
  readonly logTurns: number | null;
  /** I/O per second of each run, in their order. */
  readonly runs: readonly number[];
  readonly rawRuns: readonly number[];
  readonly [key: string]: unknown;
}

/** The answer of `bench suite -o json`. */
export interface SuiteReport {
  readonly kind: "suite";
  readonly machine: Readonly<Record<string, string | number>>;
  readonly version: string;
  readonly osds: number;
  readonly replicas: number;
  readonly shards: number;
  readonly imageBytes: number;
  readonly seconds: number;
  readonly repeat: number;
  readonly backend: string;
  /** All rows ran on encrypted connections. */
  readonly encrypted: boolean;
  readonly rows: readonly SuiteRowReport[];
  /** Of local stores: without snapshots, and with; a full one. What was not measured is left out. */
  readonly store: readonly MicroRow[];
  /** How the rows stand to what fastblock aims at. */
  readonly bars: readonly BarReport[];
}

/** Reported apart: nothing is aimed at. */
const ENCRYPTED_ROW = "encrypted:randwrite:4KiB:32";

export const SUITE_ROWS = [
  "randwrite:4KiB:1",
  "randwrite:4KiB:32",
  "randwrite:4KiB:128",
  "randread:4KiB:1",
  "randread:4KiB:32",
  "write:128KiB:16",
  "read:128KiB:16",
] as const;

/** Those that the aims of `bars.ts` are about, besides. */
export const BAR_ROWS = [
  ...SUITE_ROWS,
  "randwrite:64KiB:32",
  "randwrite:4KiB:1:steady",
  "randwrite:4KiB:32:steady",
  "randwrite:4KiB:128:steady",
  "randwrite:4KiB:128:tail",
  "randread:4KiB:32:cold",
  "nbd:randwrite:4KiB:1",
  "nbd:randwrite:4KiB:32",
  "nbd:randwrite:4KiB:128",
  "nbd:randread:4KiB:32",
  ENCRYPTED_ROW,
] as const;

const ROW =
  /^(encrypted:)?(nbd:)?(randwrite|randread|write|read):([^:]+):(\d{1,4})(?::(steady|tail|cold))?$/;
const NATIVE = { nbd: false, steady: false, tail: false, cold: false, encrypted: false };
/** Of the peak, and how many worst moments are told to people. */
const TAIL_SHARE = 0.5;
const TAIL_TOLD = 5;
const RAN_TOLD = 4;
const WARM_ROUNDS = 8;
const WARM_COMPILE_SHARE = 0.05;
const WARM_ROWS: readonly SuiteRow[] = [
  { name: "randwrite", rw: "randwrite", blockBytes: 4096, depth: 32, ...NATIVE },
  { name: "write", rw: "write", blockBytes: 131_072, depth: 16, ...NATIVE },
  { name: "randread", rw: "randread", blockBytes: 4096, depth: 32, ...NATIVE },
];

/** Read the names of rows. `sizeOf` reads a size like `4KiB`. Throws FB1001. */
export function parseSuiteRows(
  names: readonly string[],
  sizeOf: (text: string) => number,
): SuiteRow[] {
  return names.map((name) => {
    const match = ROW.exec(name);
    if (match === null || Number(match[5]) === 0) {
      const message = `reading --rows: ${name}, wanted SHAPE:SIZE:DEPTH like ${SUITE_ROWS[0]}, encrypted: or nbd: before, or :steady, :tail or :cold behind it`;
      throw new FastblockError("FB1001", message);
    }
    const rw = match[3] as SuiteRow["rw"];
    const [encrypted, nbd] = [match[1] !== undefined, match[2] !== undefined];
    const [tail, cold] = [match[6] === "tail", match[6] === "cold"];
    if (nbd && (tail || cold)) {
      const message = `reading --rows: ${name}, wanted nbd: before or :${match[6]} behind, not both`;
      throw new FastblockError("FB1001", message);
    }
    const steady = tail || match[6] === "steady";
    const [blockBytes, depth] = [sizeOf(match[4]!), Number(match[5])];
    return { name, rw, blockBytes, depth, nbd, steady, tail, cold, encrypted };
  });
}

/** Run all rows; `logBytes`: of each osd's log. Throws FB1006 or FB5001 when an operation failed or a block was wrong. */
export async function runSuite(
  outside: SuiteOutside,
  options: SuiteOptions,
  logBytes: number,
): Promise<readonly SuiteRowReport[]> {
  const runs = new Map(options.rows.map((row) => [row, new RowRuns()]));
  const say = (words: string): void => outside.say(words);
  if (options.warmMs > 0) {
    await warmUp(WARM_ROWS, options.warmMs, say, async (row, timeMs) => {
      const report = await outside.image(row, timeMs, 0);
      refuseErrors(row, report);
      return [compileCost(report)];
    });
  }
  for (let run = 1; run <= options.repeat; run++) {
    for (const [row, done] of runs) {
      if (row.tail) {
        if (run === 1) await runTail(outside, options, row, done);
        continue;
      }
      const bare = options.judged ? await outside.bare(row) : null;
      const raw = options.fio ? await outside.raw(row) : undefined;
      const report = await outside.image(row, options.timeMs, 0);
      refuseErrors(row, report);
      if (bare !== null) done.bares.push(bare);
      if (raw !== undefined) done.raws.push(raw);
      done.ours.push(report);
      const beside = raw === undefined ? "" : `, raw ${Math.round(raw.opsPerSecond)}`;
      const rate = `${Math.round(report.iops)} I/O per s${beside}`;
      outside.say(`run ${run} of ${options.repeat}: ${row.name}: ${rate}`);
    }
  }
  return options.rows.map((row) => {
    const encrypted = options.encrypt || row.encrypted;
    return rowReport({ ...row, encrypted }, runs.get(row)!, logBytes);
  });
}

/** What a run on encrypted connections costs beside the same one on signed ones, for people; empty: nothing ran. */
export function encryptionText(rows: readonly SuiteRowReport[]): string {
  const row = rows.find(({ name }) => name === ENCRYPTED_ROW);
  if (row === undefined) return "";
  const signed = rows.find(({ name }) => name === ENCRYPTED_ROW.slice("encrypted:".length));
  const text = (one: SuiteRowReport): string =>
    `${Math.round(one.iops)} I/O per s, ${one.cpuUsPerIo} µs of CPU each`;
  return `${row.name}: ${text(row)}${signed === undefined ? "" : `; signed: ${text(signed)}`}`;
}

/** µs that a run spent, and how many of them on what compiles. */
export interface CompileCost {
  readonly compileUs: number;
  readonly allUs: number;
}

/**
 * Until little of the CPU goes to what compiles, in all clusters. Some of it is compiled again whenever the
 * load changes. `load` answers what it cost, for each cluster that it drove.
 */
export async function warmUp(
  rows: readonly SuiteRow[],
  warmMs: number,
  say: (words: string) => void,
  load: (row: SuiteRow, timeMs: number) => Promise<readonly CompileCost[]>,
): Promise<void> {
  for (let round = 1; round <= WARM_ROUNDS; round++) {
    const spent: { compileUs: number; allUs: number }[] = [];
    for (const row of rows) {
      say(`warming up, round ${round}: ${row.name}`);
      const costs = await load(row, Math.ceil(warmMs / rows.length));
      for (const [at, { compileUs, allUs }] of costs.entries()) {
        const sum = (spent[at] ??= { compileUs: 0, allUs: 0 });
        sum.compileUs += compileUs;
        sum.allUs += allUs;
      }
    }
    const shares = spent.map(({ compileUs, allUs }) => (allUs === 0 ? 0 : compileUs / allUs));
    const share = Math.max(...shares);
    if (share <= WARM_COMPILE_SHARE) return;
    say(`compiling took ${Math.round(100 * share)} % of the CPU`);
  }
}

/** What a run spent. */
export function compileCost(
  report: Pick<SuiteRun, "iops" | "seconds" | "processes" | "cpuUsPerIo">,
): CompileCost {
  const ios = report.iops * report.seconds;
  const compileUs = ios * sumOf(report.processes, (cost) => cost.compileUsPerIo);
  return { compileUs, allUs: ios * (report.cpuUsPerIo ?? 0) };
}

/** What the runs of a row have brought. */
class RowRuns {
  readonly ours: SuiteRun[] = [];
  readonly raws: BenchRow[] = [];
  readonly bares: BareFigures[] = [];
  tail: TailFigures | null = null;
}

/** The closed loop says what the machine can do just now; what counts is the open loop behind it. */
async function runTail(
  outside: SuiteOutside,
  options: SuiteOptions,
  row: SuiteRow,
  done: RowRuns,
): Promise<void> {
  const peak = await outside.image(row, options.timeMs, 0);
  refuseErrors(row, peak);
  const opsPerSecond = Math.max(1, Math.round(peak.iops * TAIL_SHARE));
  const rate = `${opsPerSecond} I/O per s of ${Math.round(peak.iops)}`;
  outside.say(`${row.name}: ${rate} for ${options.tailMs / 1000} s`);
  const report = await outside.image(row, options.tailMs, opsPerSecond);
  refuseErrors(row, report);
  const ran = outside.ran(report.worst);
  const worst = report.worst.map((moment, at) => ({ ...moment, ran: ran[at] ?? [] }));
  done.ours.push(report);
  const { seconds, probeUs = null } = report;
  done.tail = { peakIops: peak.iops, opsPerSecond, seconds, probeUs, worst };
  if (probeUs !== null) {
    const slowest = `p99.9 ${msText(probeUs.p999)}, longest ${msText(probeUs.max)}`;
    outside.say(`${row.name}: durable writes to the raw disk meanwhile: ${slowest}`);
  }
  for (const moment of worst.slice(0, TAIL_TOLD)) outside.say(`${row.name}: ${momentText(moment)}`);
}

/** `at 12.3 s: 84.2 ms, submitted 0.1 ms late; osd.1/0: checkpoint written, 31 ms` */
function momentText({ atSeconds, latencyUs, lateUs, ran }: TailFigures["worst"][number]): string {
  const words = [`at ${atSeconds} s: ${msText(latencyUs)}, submitted ${msText(lateUs)} late`];
  words.push(...ran.slice(0, RAN_TOLD));
  if (ran.length > RAN_TOLD) words.push(`and ${ran.length - RAN_TOLD} more`);
  return words.join("; ");
}

function msText(us: number): string {
  return `${(us / 1000).toFixed(1)} ms`;
}

function refuseErrors(row: SuiteRow, report: SuiteRun): void {
  const failure = report.verifyErrors[0] ?? report.errorTexts[0];
  if (failure === undefined) return;
  throw loadError(`running ${row.name}`, failure, report);
}

function rowReport(
  row: SuiteRow,
  { ours: runs, raws, bares, tail }: RowRuns,
  logBytes: number,
): SuiteRowReport {
  const of = (pick: (run: SuiteRun) => number | null): number | null =>
    medianOf(runs.map(pick).filter((value) => value !== null));
  const raw = raws.length === 0 ? null : rawFigures(raws);
  const processes = processCosts(runs);
  const iops = of((run) => run.iops) ?? 0;
  return {
    name: row.name,
    encrypted: row.encrypted,
    iops,
    bytesPerSec: Math.round(iops * row.blockBytes),
    latencyUs: {
      mean: of((run) => run.latencyUs.mean) ?? 0,
      p50: of((run) => run.latencyUs.p50) ?? 0,
      p99: of((run) => run.latencyUs.p99) ?? 0,
      p999: of((run) => run.latencyUs.p999) ?? 0,
      max: Math.max(0, ...runs.map((run) => run.latencyUs.max)),
    },
    cpuUsPerIo: of((run) => run.cpuUsPerIo) ?? 0,
    processes,
    compileUsPerIo: round(sumOf(processes, (cost) => cost.compileUsPerIo)),
    switchesPerIo: round(sumOf(processes, (cost) => cost.switchesPerIo)),
    systemCallsPerIo: of((run) => run.systemCallsPerIo),
    systemCalls: callCosts(runs),
    collections: collectionsOfRuns(runs),
    deviceBytesPerClientByte: of((run) => run.deviceBytesPerClientByte),
    deviceWritesPerClientWrite: of((run) => run.deviceWritesPerClientWrite),
    flushesPerClientWrite: of((run) => run.flushesPerClientWrite),
    raw,
    ratioToRaw: raw === null || raw.iops === 0 ? null : round(iops / raw.iops),
    bare: bareFigures(bares),
    tail,
    logTurns: of((run) => (run.writtenBytes === 0 ? null : round(run.writtenBytes / logBytes))),
    runs: runs.map((run) => run.iops),
    rawRuns: raws.map((one) => Math.round(one.opsPerSecond)),
  };
}

function rawFigures(rows: readonly BenchRow[]): RawFigures {
  const of = (pick: (row: BenchRow) => number): number => medianOf(rows.map(pick)) ?? 0;
  return {
    iops: Math.round(of((row) => row.opsPerSecond)),
    latencyUs: {
      p50: of((row) => row.latencyUs.p50),
      p99: of((row) => row.latencyUs.p99),
      p999: of((row) => row.latencyUs.p999),
      max: Math.max(...rows.map((row) => row.latencyUs.max)),
    },
    cpuUsPerIo: round(of((row) => row.cpuUsPerOp.user + row.cpuUsPerOp.system)),
  };
}

function bareFigures(runs: readonly BareFigures[]): BareFigures | null {
  const iops = medianOf(runs.map((run) => run.iops));
  const p50Us = medianOf(runs.map((run) => run.p50Us));
  const cpuUs = medianOf(runs.map((run) => run.cpuUsPerIo).filter((value) => value !== null));
  const wholeP50Us = medianOf(runs.map((run) => run.wholeP50Us).filter((value) => value !== null));
  if (iops === null || p50Us === null) return null;
  const cpuUsPerIo = cpuUs === null ? null : round(cpuUs);
  return { iops: Math.round(iops), p50Us, cpuUsPerIo, wholeP50Us };
}

function processCosts(runs: readonly SuiteRun[]): ProcessCost[] {
  const kinds = new Set(runs.flatMap((run) => run.processes.map(({ kind }) => kind)));
  return [...kinds].map((kind) => {
    const costs = runs.flatMap((run) => run.processes.filter((cost) => cost.kind === kind));
    const of = (pick: (cost: ProcessCost) => number): number => medianOf(costs.map(pick)) ?? 0;
    return {
      kind,
      userUsPerIo: of((cost) => cost.userUsPerIo),
      systemUsPerIo: of((cost) => cost.systemUsPerIo),
      compileUsPerIo: of((cost) => cost.compileUsPerIo),
      switchesPerIo: of((cost) => cost.switchesPerIo),
    };
  });
}

function sumOf(costs: readonly ProcessCost[], pick: (cost: ProcessCost) => number): number {
  return costs.reduce((sum, cost) => sum + pick(cost), 0);
}

function callCosts(runs: readonly SuiteRun[]): CallCost[] {
  const kinds = new Set(runs.flatMap((run) => run.systemCalls.map(({ kind }) => kind)));
  return [...kinds].map((kind) => {
    const costs = runs.flatMap((run) => run.systemCalls.filter((cost) => cost.kind === kind));
    return { kind, perIo: medianOf(costs.map(({ perIo }) => perIo)) ?? 0 };
  });
}

function collectionsOfRuns(runs: readonly SuiteRun[]): Collections | null {
  const all = runs.map(({ collections }) => collections).filter((one) => one !== null);
  return all.length === 0 ? null : collectionsOf(all);
}

/** The middle value, or the mean of the two in the middle; null of none. */
export function medianOf(values: readonly number[]): number | null {
  if (values.length === 0) return null;
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  if (sorted.length % 2 === 1) return sorted[middle]!;
  return round((sorted[middle - 1]! + sorted[middle]!) / 2);
}
