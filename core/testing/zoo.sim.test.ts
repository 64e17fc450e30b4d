import { expect, test } from "bun:test";
import { hunt, ZOO } from "./bun-zoo-hunt.ts";

/**
 * Campaign C2: planted bugs are found. Each hunt begins with the seed that found the bug before, which
 * takes seconds, and goes on only if that fails: a change of what draws chances makes other runs of all
 * seeds. Then the first seeds must find it, as far as they found it ever; else some around the
 * recorded one. `npm run zoo` counts anew how many seeds each needs. Without a bug, the same seeds
 * pass in `cluster.sim.test.ts`.
 */

/** A bug that needs more of the first seeds is rare. */
const RARE = 20;
/** So many seeds on either side of a recorded one. */
const AROUND = 20;
const LIMIT_MS = 600_000;

/** Where to look for a bug that its recorded seed does not find any more. */
function others(seed: number): string {
  if (seed <= RARE) return `1..${String(RARE)}`;
  return `${String(seed - AROUND)}..${String(seed + AROUND)}`;
}

test("C2: there are enough of both kinds", () => {
  const rare = ZOO.filter(({ seed }) => seed > RARE);
  expect(ZOO.length).toBeGreaterThanOrEqual(15);
  expect(rare.length).toBeGreaterThanOrEqual(5);
});

test.each(ZOO.map((bug) => [bug.name, bug] as const))(
  "C2: %s is found",
  async (name, { seed }) => {
    const { failure } = await hunt(name, [String(seed), others(seed)]);
    expect(failure).not.toBeNull();
  },
  LIMIT_MS,
);
