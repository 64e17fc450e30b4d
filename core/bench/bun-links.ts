import type { PairUsage } from "./idle.ts";

/**
 * What osds of this machine have said to each other, as the kernel counts it for each connection.
 *
 * Shards that share groups dial each other: a pair of shards has two connections, which belong to it
 * from the first to the last byte. Beside heartbeats they carry whatever else the two have to say.
 */
export interface LinkEnd {
  readonly name: string;
  readonly pid: number;
  /** Those that its shards listen on. */
  readonly ports: readonly number[];
}

const LINE =
  /\s\S+:(\d+)\s+\S+:(\d+)\s.*?\bpid=(\d+).*?\bbytes_sent:(\d+)(?:.*?\bbytes_received:(\d+))?/;

/** Pairs with a connection; null where `ss` of iproute2 is not installed, or tells nothing. */
export function pairsNow(ends: readonly LinkEnd[]): PairUsage[] | null {
  if (Bun.which("ss") === null) return null;
  // TCP, its figures, numbers, processes, no heading, a line each.
  const { stdout, success } = Bun.spawnSync(["ss", "-tinpHO"], { stderr: "ignore" });
  return success ? pairsOf(stdout.toString(), ends) : null;
}

/** The same out of what `ss` printed. */
export function pairsOf(text: string, ends: readonly LinkEnd[]): PairUsage[] {
  const pairs = new Map<string, { bytes: number; dialled: number }>();
  for (const line of text.split("\n")) {
    const match = LINE.exec(line);
    if (match === null) continue;
    const [peerPort, pid, sent, received] = [2, 3, 4, 5].map((at) => Number(match[at] ?? 0));
    // Both ends are of this machine: only the one that dialled counts, for both ways.
    const dialler = ends.find((end) => end.pid === pid);
    const other = ends.find(({ ports }) => ports.includes(peerPort!));
    if (dialler === undefined || other === undefined || dialler === other) continue;
    const name = [dialler.name, other.name].toSorted().join(" ");
    const pair = pairs.get(name) ?? { bytes: 0, dialled: 0 };
    pairs.set(name, { bytes: pair.bytes + sent! + received!, dialled: pair.dialled + 1 });
  }
  return [...pairs]
    .map(([name, { bytes, dialled }]) => ({ name, bytes, shardPairs: dialled / 2 }))
    .toSorted((a, b) => (a.name < b.name ? -1 : 1));
}
