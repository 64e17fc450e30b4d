import type { ImageBenchReport } from "./bench.ts";
import type { LatencyReport } from "./latency.ts";
import { loadError } from "./load-failures.ts";
import { round } from "./spending.ts";

/**
 * `fastblock bench recovery`: what clients feel of a replica that is brought back.
 *
 * For each position of the recovery dial the same load twice, on the same cluster: with all replicas
 * whole, and while an osd is brought back. Two causes: its disk is another, empty one, so that all of
 * it is copied; or it was stopped for a moment, so that it gets the entries that it missed.
 */
export interface RecoveryOptions {
  /** Directory for a cluster of its own; empty: a temporary one. */
  readonly directory: string;
  readonly speeds: readonly RecoverySpeedWord[];
  readonly causes: readonly RecoveryCause[];
  readonly rw: "randwrite" | "randread" | "rw" | "randrw";
  readonly blockBytes: number;
  readonly depth: number;
  /** Of each of the two loads. */
  readonly timeMs: number;
  readonly rampMs: number;
  /** Load before anything is measured: the processes compile what they run often. */
  readonly warmMs: number;
  readonly imageBytes: number;
  /** Of each osd's store: a sixteenth of it is its log. */
  readonly osdBytes: number;
  readonly backend: "auto" | "uring" | "file";
}

export type RecoverySpeedWord = "low" | "medium" | "high";
export type RecoveryCause = "disk" | "away";

/** How far an osd is on its way back. */
export interface RecoveryLook {
  readonly replicas: number;
  readonly bytesCopied: number;
  readonly bytesDiffering: number;
}

/** What is measured with. */
export interface RecoveryOutside {
  /** Turn the dial. */
  turn(speed: RecoverySpeedWord): Promise<void>;
  /** Drive the image. */
  load(timeMs: number): Promise<ImageBenchReport>;
  /** Make an osd need recovery. */
  disturb(cause: RecoveryCause): Promise<void>;
  /** Let it begin, while the load runs. */
  bringBack(cause: RecoveryCause): Promise<void>;
  look(): Promise<RecoveryLook>;
  /** Wait until all replicas are whole. */
  whole(): Promise<void>;
  nowMs(): number;
  /** Tell how far it is. */
  say(words: string): void;
}

/** One row of the report. */
export interface RecoveryRow {
  /** `medium disk` */
  readonly name: string;
  readonly speed: RecoverySpeedWord;
  readonly cause: RecoveryCause;
  readonly iops: number;
  readonly iopsDuring: number;
  readonly latencyUs: LatencyReport;
  readonly latencyUsDuring: LatencyReport;
  /** p99 during recovery ÷ p99 without. */
  readonly p99Ratio: number;
  /** Recovery went on to the end of the load; false: a part of it was measured without. */
  readonly recoveringToEnd: boolean;
  /** Copied during the load, per second; 0 where only old entries were sent. */
  readonly bytesPerSecDuring: number;
  /** From the return of the osd to the last replica that was whole, load and what is behind it. */
  readonly seconds: number;
  /** Bytes copied ÷ bytes that differed; null: nothing differed. */
  readonly amplification: number | null;
  readonly [key: string]: unknown;
}

/** The answer of `bench recovery -o json`. */
export interface RecoveryReport {
  readonly kind: "recovery";
  readonly machine: Readonly<Record<string, string | number>>;
  readonly version: string;
  readonly osds: number;
  readonly replicas: number;
  readonly imageBytes: number;
  readonly load: string;
  readonly seconds: number;
  readonly backend: string;
  readonly rows: readonly RecoveryRow[];
}

/** Measure each position of the dial. Throws FB1006 or FB5001 when an operation failed. */
export async function runRecovery(
  outside: RecoveryOutside,
  options: RecoveryOptions,
): Promise<readonly RecoveryRow[]> {
  const rows: RecoveryRow[] = [];
  for (const speed of options.speeds) {
    await outside.turn(speed);
    for (const cause of options.causes) rows.push(await measure(outside, speed, cause, options));
  }
  return rows;
}

async function measure(
  outside: RecoveryOutside,
  speed: RecoverySpeedWord,
  cause: RecoveryCause,
  { timeMs }: RecoveryOptions,
): Promise<RecoveryRow> {
  const name = `${speed} ${cause}`;
  const alone = refuseErrors(name, await outside.load(timeMs));
  await outside.disturb(cause);
  const startMs = outside.nowMs();
  const before = await outside.look();
  const [report] = await Promise.all([outside.load(timeMs), outside.bringBack(cause)]);
  const during = refuseErrors(name, report);
  const after = await outside.look();
  await outside.whole();
  const end = await outside.look();
  const differing = end.bytesDiffering - before.bytesDiffering;
  const row: RecoveryRow = {
    name,
    speed,
    cause,
    iops: alone.iops,
    iopsDuring: during.iops,
    latencyUs: alone.latencyUs,
    latencyUsDuring: during.latencyUs,
    p99Ratio: round(during.latencyUs.p99 / alone.latencyUs.p99),
    recoveringToEnd: after.replicas > 0,
    bytesPerSecDuring: Math.round(
      ((after.bytesCopied - before.bytesCopied) * 1000) / Math.max(1, timeMs),
    ),
    seconds: round((outside.nowMs() - startMs) / 1000),
    amplification:
      differing === 0 ? null : round((end.bytesCopied - before.bytesCopied) / differing),
  };
  outside.say(`${name}: p99 ${row.latencyUs.p99} µs, during recovery × ${row.p99Ratio}`);
  return row;
}

function refuseErrors(name: string, report: ImageBenchReport): ImageBenchReport {
  const failure = report.verifyErrors[0] ?? report.errorTexts[0];
  if (failure === undefined) return report;
  throw loadError(`running ${name}`, failure, report);
}
