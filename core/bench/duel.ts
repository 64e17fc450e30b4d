import { FastblockError } from "../base/errors.ts";
import { cpuUsPerIoOf, type ProcessCost, round } from "./spending.ts";
import { compileCost, medianOf, parseSuiteRows, type SuiteRow, warmUp } from "./suite.ts";

/**
 * `fastblock bench duel`: this build and another one, each with a cluster of its own, under the same load
 * at the same time.
 *
 * What disturbs the machine disturbs both, so the ratio of a round is steadier than the figures that make
 * it: on a virtual machine CPU per I/O of one build differs by 20 % from run to run, the ratios by 2 %.
 * Comparing the medians of two reports (`bench compare`) was not enough there.
 */
export interface DuelOptions {
  /** The executable of the other build. */
  readonly other: string;
  /** Directory of both clusters, which is made; empty: a temporary one here. */
  readonly directory: string;
  readonly rows: readonly SuiteRow[];
  readonly rounds: number;
  /** Measured time of each run. */
  readonly timeMs: number;
  readonly rampMs: number;
  /** Load before anything is measured, again while the daemons still compile what they run often. */
  readonly warmMs: number;
  readonly imageBytes: number;
  readonly backend: "auto" | "uring" | "file";
}

/** Of this build, and of the other one. */
export interface Sides<T> {
  readonly this: T;
  readonly other: T;
}

export interface DuelFigures {
  readonly iops: number;
  /** Null: unknown. */
  readonly cpuUsPerIo: number | null;
  readonly systemCallsPerIo: number | null;
}

/** What a duel takes of a run of `bench image`. */
export interface DuelRun extends DuelFigures {
  readonly seconds: number;
  readonly processes: readonly ProcessCost[];
}

/** What a duel measures with. */
export interface DuelOutside {
  /** Drive the images of both clusters at once. */
  load(row: SuiteRow, timeMs: number, rampMs: number): Promise<Sides<DuelRun>>;
  /** Tell how far it is. */
  say(words: string): void;
}

/** Of the ratios of all rounds: a quarter of them is less than `low`, a quarter more than `high`. */
export interface Quartiles {
  readonly low: number;
  readonly median: number;
  readonly high: number;
}

export interface DuelRowReport extends Sides<DuelFigures> {
  readonly name: string;
  /** This ÷ other, of the same round. Null: CPU is unknown. */
  readonly cpuRatio: Quartiles | null;
  readonly iopsRatio: Quartiles | null;
  /** Of each round, in their order. */
  readonly runs: readonly Sides<DuelFigures>[];
  readonly [key: string]: unknown;
}

/** The answer of `bench duel -o json`. */
export interface DuelReport {
  readonly kind: "duel";
  readonly machine: Readonly<Record<string, string | number>>;
  /** What both builds say of themselves. */
  readonly versions: Sides<string>;
  readonly builds: Sides<string>;
  /** Path of the other one. */
  readonly other: string;
  readonly osds: number;
  readonly replicas: number;
  readonly imageBytes: number;
  readonly seconds: number;
  readonly rounds: number;
  readonly rows: readonly DuelRowReport[];
}

export const DUEL_ROWS = ["randwrite:4KiB:32", "randwrite:4KiB:128"] as const;
export const DUEL_HINT =
  "ratios are this ÷ other; what a duel of a build with itself shows as well says nothing: about 0.98 to 1.02 of CPU and 0.95 to 1.05 of IOPS";

/** Read the names of rows as the suite has them. Throws FB1001, also for what a duel does not do. */
export function parseDuelRows(
  names: readonly string[],
  sizeOf: (text: string) => number,
): SuiteRow[] {
  const rows = parseSuiteRows(names, sizeOf);
  const odd = rows.find(({ nbd, steady, tail, cold }) => nbd || steady || tail || cold);
  if (odd === undefined) return rows;
  const message = `reading --rows: ${odd.name}, wanted SHAPE:SIZE:DEPTH alone like ${DUEL_ROWS[0]}`;
  throw new FastblockError("FB1001", message, {
    hint: "nbd:, :steady, :tail and :cold are for bench suite",
  });
}

/** Warm both up, then run all rows in every round. */
export async function runDuel(
  outside: DuelOutside,
  options: DuelOptions,
): Promise<readonly DuelRowReport[]> {
  const { rows, rounds, timeMs, rampMs, warmMs } = options;
  const say = (words: string): void => outside.say(words);
  if (warmMs > 0) {
    await warmUp(rows, warmMs, say, async (row, rowMs) => {
      const runs = await outside.load(row, rowMs, 0);
      return [runs.this, runs.other].map(costOfDaemons);
    });
  }
  const done = new Map(rows.map((row) => [row, [] as Sides<DuelFigures>[]]));
  for (let at = 1; at <= rounds; at++) {
    for (const [row, runs] of done) {
      const { this: ours, other } = await outside.load(row, timeMs, rampMs);
      const sides = { this: figuresOf(ours), other: figuresOf(other) };
      runs.push(sides);
      say(`round ${at} of ${rounds}: ${row.name}: ${roundText(sides)}`);
    }
  }
  return [...done].map(([{ name }, runs]) => duelRow(name, runs));
}

/** The client of each run is a new process, which compiles anew: it never gets warm. */
function costOfDaemons(run: DuelRun): ReturnType<typeof compileCost> {
  const processes = run.processes.filter(({ kind }) => kind !== "client");
  return compileCost({ ...run, processes, cpuUsPerIo: cpuUsPerIoOf(processes) });
}

function figuresOf({ iops, cpuUsPerIo, systemCallsPerIo }: DuelRun): DuelFigures {
  return { iops, cpuUsPerIo, systemCallsPerIo };
}

/** `12345 and 12300 I/O per s, CPU 101.5 and 103.2 µs per I/O` */
function roundText({ this: ours, other }: Sides<DuelFigures>): string {
  const rates = `${Math.round(ours.iops)} and ${Math.round(other.iops)} I/O per s`;
  if (ours.cpuUsPerIo === null || other.cpuUsPerIo === null) return rates;
  return `${rates}, CPU ${ours.cpuUsPerIo} and ${other.cpuUsPerIo} µs per I/O`;
}

/** Medians of both, and what the ratios of the rounds come to. */
function duelRow(name: string, runs: readonly Sides<DuelFigures>[]): DuelRowReport {
  return {
    name,
    this: mediansOf(runs.map((run) => run.this)),
    other: mediansOf(runs.map(({ other }) => other)),
    cpuRatio: ratiosOf(runs, ({ cpuUsPerIo }) => cpuUsPerIo),
    iopsRatio: ratiosOf(runs, ({ iops }) => iops),
    runs,
  };
}

function mediansOf(runs: readonly DuelFigures[]): DuelFigures {
  const of = (pick: (run: DuelFigures) => number | null): number | null =>
    medianOf(runs.map(pick).filter((value) => value !== null));
  return {
    iops: of(({ iops }) => iops) ?? 0,
    cpuUsPerIo: of(({ cpuUsPerIo }) => cpuUsPerIo),
    systemCallsPerIo: of(({ systemCallsPerIo }) => systemCallsPerIo),
  };
}

/** Round by round: ratios of medians would put runs beside each other that met other disturbances. */
function ratiosOf(
  runs: readonly Sides<DuelFigures>[],
  pick: (run: DuelFigures) => number | null,
): Quartiles | null {
  const ratios: number[] = [];
  for (const run of runs) {
    const [ours, other] = [pick(run.this), pick(run.other)];
    if (ours !== null && other !== null && other !== 0) ratios.push(ours / other);
  }
  if (ratios.length === 0) return null;
  ratios.sort((a, b) => a - b);
  const [low, median, high] = [0.25, 0.5, 0.75].map((share) => round(valueAt(ratios, share)));
  return { low: low!, median: median!, high: high! };
}

/** The value that so large a share of the sorted ones is below; between two of them in proportion. */
function valueAt(sorted: readonly number[], share: number): number {
  const place = share * (sorted.length - 1);
  const below = Math.floor(place);
  const above = Math.ceil(place);
  return sorted[below]! + (place - below) * (sorted[above]! - sorted[below]!);
}
