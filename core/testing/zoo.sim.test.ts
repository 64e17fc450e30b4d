import { expect, test } from "bun:test";
import { hunt, ZOO } from "./bun-zoo-hunt.ts";

/**
 * Campaign C2: planted bugs are found. The gate hunts those that few seeds find; it begins with the seed
 * that found the bug before, and goes on with others, because a change of what draws chances makes
 * other runs of all seeds. `npm run zoo` hunts all of them, and counts anew how many seeds each needs.
 * Without a bug, the same seeds pass in `cluster.sim.test.ts`.
 */

/** A bug that needs more seeds is rare: minutes each. */
const RARE = 20;
const LIMIT_MS = 300_000;

const common = ZOO.filter(({ seed }) => seed <= RARE);

test("C2: there are enough of both kinds", () => {
  expect(ZOO.length).toBeGreaterThanOrEqual(15);
  expect(ZOO.length - common.length).toBeGreaterThanOrEqual(5);
});

test.each(common.map((bug) => [bug.name, bug] as const))(
  "C2: %s is found",
  async (name, { seed }) => {
    const { failure } = await hunt(name, [String(seed), `1..${RARE}`]);
    expect(failure).not.toBeNull();
  },
  LIMIT_MS,
);
