// cold: the simulator
import { Prng } from "../base/prng.ts";
import type { GroupLimits, StoreTuning } from "../pg/pg.ts";
import { RAFT_OPTIONS_DEFAULT } from "../raft/raft.ts";

/**
 * Limits that production has one value of, drawn from the seed in some seeds: each anywhere in its
 * legal range. A rule must not hold only because a window is wide, a table large, or a timer short.
 *
 * The smallest table of sessions is smaller than the number of clients: they forget each other all the
 * time, and whoever was forgotten must be refused, never applied twice.
 */

/** In one of so many seeds; recorded seeds are not among them. */
const TWISTED_SEEDS = 4;
/** No more sessions than this: groups forget clients that work. */
export const SESSIONS_FEW = 8;
const MIB = 1_048_576;
const KIB = 1024;

/** What a seed makes of the limits. */
export interface SimTunables {
  readonly limits: Partial<GroupLimits>;
  readonly tuning: Partial<StoreTuning>;
  /** Memory of an osd for payloads, all shards together. */
  readonly slotsBytes: number;
  /** Of recovery. */
  readonly speed: "low" | "medium" | "high";
}

/** Null: those of production. */
export function tunablesOf(seed: number, shards: number): SimTunables | null {
  if (new Prng(seed * 83 + 10).below(TWISTED_SEEDS) > 0) return null;
  const random = new Prng(seed * 89 + 23);
  const between = (low: number, high: number): number => low + random.below(high - low + 1);
  const pick = <Value>(values: readonly Value[]): Value => values[random.below(values.length)]!;
  return {
    limits: {
      raft: {
        ...RAFT_OPTIONS_DEFAULT,
        electionTicks: between(10, 40),
        lostTicks: between(1, 10),
        preVoteTicks: between(2, 8),
        quorumTicks: between(40, 80),
        retryTicks: between(5, 60),
        transferTicks: between(20, 100),
        windowEntries: pick([1, 2, 8, 64, 256]),
        windowBytes: pick([1, 64 * KIB, MIB, 4 * MIB]),
        promoteLagMax: pick([0, 8, 64, 512]),
      },
      sessionsMax: random.below(2) === 0 ? between(3, SESSIONS_FEW) : between(9, 1024),
      fillUnits: pick([1, 2, 16, 64]),
      heartbeatUs: between(20_000, 100_000),
    },
    tuning: {
      discardRestMs: pick([0, 10, 250]),
      staleKeptPercent: pick([0, 5, 50]),
      quarantinePercent: pick([0.1, 0.5, 1, 5]),
    },
    slotsBytes: shards * pick([6, 12, 48]) * MIB,
    speed: pick(["low", "medium", "high"] as const),
  };
}
