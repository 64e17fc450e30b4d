import { expect, test } from "bun:test";
import { hunt, ZOO } from "./bun-zoo-hunt.ts";

/**
 * Campaign C2: each planted bug is found. The gate begins with the seed that found it before, and
 * goes on with others, because a change of what draws chances makes other runs of all seeds;
 * `npm run zoo` counts anew how many are needed.
 */

/** More seeds that are tried, for bugs that some seed of twenty finds; and for those that few find. */
const MORE_SEEDS = 20;
const MORE_SEEDS_RARE = 60;
const RARE = 20;
const GATE_SEEDS = 200;
const LIMIT_MS = 300_000;

test.each(ZOO.map((bug) => [bug.name, bug] as const))(
  "C2: %s is found",
  async (name, { seed }) => {
    const more = seed > RARE ? MORE_SEEDS_RARE : MORE_SEEDS;
    const { failure } = await hunt(name, [String(seed), `1..${more}`]);
    expect(failure).not.toBeNull();
  },
  LIMIT_MS,
);

test(
  "C2: without a bug none of these seeds fails",
  async () => {
    // The lower ones run without a bug in `cluster.sim.test.ts`.
    const seeds = [...new Set(ZOO.map((bug) => bug.seed))].filter((seed) => seed > GATE_SEEDS);
    const { failure } = await hunt("", seeds.map(String));
    expect(failure).toBeNull();
  },
  LIMIT_MS,
);
