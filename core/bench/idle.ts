import { type BarReport, barOf } from "./bars.ts";
import { round } from "./spending.ts";

/**
 * `fastblock bench idle`: what groups cost that nobody asks anything of.
 *
 * The same cluster twice: at rest without any group, and at rest with all of them. What processes hold
 * more then is what the groups take; what osds spend and say to each other is taken over a time in
 * which nothing else happens.
 */
export interface IdleOptions {
  /** Directory for a cluster of its own; empty: a temporary one. */
  readonly directory: string;
  /** Each osd has a replica of every one. */
  readonly groups: number;
  /** Of each osd. */
  readonly shards: number;
  readonly timeMs: number;
  /** What waiting for rest may take, without groups and with them. */
  readonly restMs: number;
  readonly backend: "auto" | "uring" | "file";
}

/** What a process has spent so far. */
export interface IdleUsage {
  /** `osd.0`, `mon.a` */
  readonly name: string;
  readonly cpuUs: number;
}

/** What two osds have said to each other so far. */
export interface PairUsage {
  /** `osd.0 osd.1` */
  readonly name: string;
  /** Both ways, as the kernel counts them: TCP's and IP's own headers are not among them. */
  readonly bytes: number;
  /** How many pairs of shards they are. */
  readonly shardPairs: number;
}

/** What is measured with. */
export interface IdleOutside {
  /** Make the pools, and wait until every group serves. */
  makeGroups(): Promise<void>;
  usage(): readonly IdleUsage[];
  /** Null: the system does not tell. */
  pairs(): readonly PairUsage[] | null;
  /** Anonymous memory by process. */
  memory(): ReadonlyMap<string, number>;
  /** Replicas by osd, as last reported. */
  replicas(): Promise<ReadonlyMap<string, number>>;
  /** Elections of all osds; grows while leaders go home. */
  elections(): Promise<number>;
  sleep(ms: number): Promise<void>;
  nowMs(): number;
  /** Tell how far it is. */
  say(words: string): void;
}

/** One process. */
export interface IdleRow {
  readonly name: string;
  /** Of one core. */
  readonly cpuShare: number;
  readonly replicas: number;
  /** Between two shards, both ways, of its busiest pair; null: not an osd, or the system does not tell. */
  readonly pairBytesPerSec: number | null;
  readonly anonymousBytesBare: number;
  readonly anonymousBytes: number;
  /** Memory with the groups minus memory without, by replica; null: it has none. */
  readonly bytesPerReplica: number | null;
  readonly [key: string]: unknown;
}

export interface IdleFigures {
  /** From the first command until every group served, and from there until all was at rest. */
  readonly makeSeconds: number;
  readonly restSeconds: number;
  /** False: it did not come to rest in time, and was measured all the same. */
  readonly rested: boolean;
  readonly rows: readonly IdleRow[];
  readonly bars: readonly BarReport[];
}

/** The answer of `bench idle -o json`. */
export interface IdleReport extends IdleFigures {
  readonly kind: "idle";
  readonly machine: Readonly<Record<string, string | number>>;
  readonly version: string;
  readonly osds: number;
  readonly shards: number;
  readonly groups: number;
  readonly seconds: number;
}

const CPU_PERCENT_MAX = 1;
const PAIR_BYTES_PER_SEC_MAX = 1024;
const BYTES_PER_REPLICA_MAX = 4096;

/** At rest: nobody was elected, and each spent about as much in each of so many windows. */
const WINDOW_MS = 5000;
const WINDOWS = 4;
/** Two clock ticks of 10 ms in a window, or a fourth: strangers on the machine do as much. */
const LEVEL_SHARE = 0.004;
const LEVEL_RATIO = 0.25;

/** Measure it. Rejects when the groups can not be made. */
export async function runIdle(outside: IdleOutside, options: IdleOptions): Promise<IdleFigures> {
  const bare = await rest(outside, "the cluster without groups", options);
  const bareBytes = outside.memory();
  const startMs = outside.nowMs();
  await outside.makeGroups();
  const madeMs = outside.nowMs();
  const { rested } = await rest(outside, `${String(options.groups)} groups`, options);
  const restedMs = outside.nowMs();
  const before = lookAt(outside);
  await outside.sleep(options.timeMs);
  const after = lookAt(outside);
  const bytes = outside.memory();
  const replicas = await outside.replicas();
  const rows = rowsOf(before, after).map(({ name, cpuShare, pairBytesPerSec }): IdleRow => {
    const count = replicas.get(name) ?? 0;
    const [without, held] = [bareBytes.get(name) ?? 0, bytes.get(name) ?? 0];
    return {
      name,
      cpuShare,
      replicas: count,
      pairBytesPerSec,
      anonymousBytesBare: without,
      anonymousBytes: held,
      bytesPerReplica: count === 0 ? null : Math.round((held - without) / count),
    };
  });
  return {
    makeSeconds: round((madeMs - startMs) / 1000),
    restSeconds: round((restedMs - madeMs) / 1000),
    rested: rested && bare.rested,
    rows,
    bars: judgeIdle(rows, options.groups),
  };
}

interface Look {
  readonly atMs: number;
  readonly usage: readonly IdleUsage[];
  readonly pairs: readonly PairUsage[] | null;
}

function lookAt(outside: IdleOutside): Look {
  return { atMs: outside.nowMs(), usage: outside.usage(), pairs: outside.pairs() };
}

/** What each process spent between two looks. */
function rowsOf(
  before: Look,
  after: Look,
): Pick<IdleRow, "name" | "cpuShare" | "pairBytesPerSec">[] {
  const seconds = (after.atMs - before.atMs) / 1000;
  const rates = ratesOf(before.pairs, after.pairs, seconds);
  return sharesOf(before.usage, after.usage, seconds).map(([name, share]) => {
    const own = rates.filter((rate) => rate.name.split(" ").includes(name));
    const most = Math.max(...own.map(({ bytesPerSec }) => bytesPerSec));
    const cpuShare = Math.round(share * 1e5) / 1e5;
    return { name, cpuShare, pairBytesPerSec: own.length === 0 ? null : Math.round(most) };
  });
}

function ratesOf(
  before: readonly PairUsage[] | null,
  after: readonly PairUsage[] | null,
  seconds: number,
): { readonly name: string; readonly bytesPerSec: number }[] {
  return (after ?? []).flatMap(({ name, bytes, shardPairs }) => {
    const first = before?.find((pair) => pair.name === name);
    // A connection that was made anew in between counts from zero again.
    if (first === undefined || bytes < first.bytes) return [];
    return [{ name, bytesPerSec: (bytes - first.bytes) / seconds / shardPairs }];
  });
}

/** Shares of a core, by process. */
function sharesOf(
  before: readonly IdleUsage[],
  after: readonly IdleUsage[],
  seconds: number,
): [string, number][] {
  return after.map(({ name, cpuUs }) => {
    const first = before.find((one) => one.name === name);
    return [name, (cpuUs - (first?.cpuUs ?? 0)) / 1e6 / seconds];
  });
}

/** Wait until nothing happens any more but what always does. */
async function rest(
  outside: IdleOutside,
  what: string,
  { restMs }: IdleOptions,
): Promise<{ readonly rested: boolean }> {
  const endMs = outside.nowMs() + restMs;
  let windows: { readonly elections: number; readonly shares: readonly number[] }[] = [];
  while (outside.nowMs() < endMs) {
    const atMs = outside.nowMs();
    const usage = outside.usage();
    await outside.sleep(WINDOW_MS);
    const seconds = (outside.nowMs() - atMs) / 1000;
    const shares = sharesOf(usage, outside.usage(), seconds).map(([, share]) => share);
    windows = [...windows, { elections: await outside.elections(), shares }].slice(-WINDOWS);
    const all = shares.reduce((sum, share) => sum + share, 0);
    outside.say(`${what}: ${(all * 100).toFixed(1)} % of a core, all processes`);
    if (windows.length === WINDOWS && isLevel(windows)) return { rested: true };
  }
  outside.say(`${what}: not at rest within ${String(restMs / 1000)} s, measured all the same`);
  return { rested: false };
}

function isLevel(
  windows: readonly { readonly elections: number; readonly shares: readonly number[] }[],
): boolean {
  if (windows.some(({ elections }) => elections !== windows[0]!.elections)) return false;
  return windows[0]!.shares.every((_, at) => {
    const seen = windows.map(({ shares }) => shares[at]!);
    const most = Math.max(...seen);
    return most - Math.min(...seen) <= Math.max(LEVEL_SHARE, most * LEVEL_RATIO);
  });
}

/** Judge the osd that does worst in each. */
export function judgeIdle(rows: readonly IdleRow[], groups: number): BarReport[] {
  const osds = rows.filter(({ replicas }) => replicas > 0);
  const worst = (of: (row: IdleRow) => number | null): number | null => {
    const seen = osds.map(of).filter((figure) => figure !== null);
    return seen.length === 0 ? null : Math.max(...seen);
  };
  const row = `idle:${String(groups)}`;
  const bar = (figure: string, wanted: number, seen: number | null): BarReport =>
    barOf({ row, figure, wanted, isMost: true }, seen);
  return [
    bar(
      "% of a core, of each osd",
      CPU_PERCENT_MAX,
      worst(({ cpuShare }) => cpuShare * 100),
    ),
    bar(
      "bytes/s between two shards, both ways",
      PAIR_BYTES_PER_SEC_MAX,
      worst(({ pairBytesPerSec }) => pairBytesPerSec),
    ),
    bar(
      "bytes of memory per idle group",
      BYTES_PER_REPLICA_MAX,
      worst(({ bytesPerReplica }) => bytesPerReplica),
    ),
  ];
}

/** Pools have a power of two of groups: which ones make up `groups`, the largest first. */
export function poolsFor(groups: number): number[] {
  const pools: number[] = [];
  for (let left = groups; left > 0; left -= pools.at(-1)!)
    pools.push(2 ** Math.floor(Math.log2(left)));
  return pools;
}
