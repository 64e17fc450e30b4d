import { expect, test } from "bun:test";
import { drainMicrotasks } from "bun:jsc";
import { SystemChecksum } from "../reactor/bun-system.ts";
import { runSimulation, type SimVerdict } from "./testing.ts";

/** Seeds of the gate; `SIM_SEEDS=1000 bun test core/testing` runs more. */
const SEEDS = Number(process.env["SIM_SEEDS"] ?? "200");
const SEED_FIRST = Number(process.env["SIM_SEED_FIRST"] ?? "1");

function run(seed: number): SimVerdict {
  return runSimulation({ seed, checksum: new SystemChecksum(), drainMicrotasks });
}

test("clusters lose nothing and serve nothing stale under crashes, cuts and pauses", () => {
  let operations = 0;
  let crashes = 0;
  let partitions = 0;
  let pauses = 0;
  let fills = 0;
  let blocksFilled = 0;
  for (let seed = SEED_FIRST; seed < SEED_FIRST + SEEDS; seed++) {
    const verdict = run(seed);
    operations += verdict.operations;
    crashes += verdict.crashes;
    partitions += verdict.partitions;
    pauses += verdict.pauses;
    fills += verdict.fills;
    blocksFilled += verdict.blocksFilled;
  }
  console.log(
    `${SEEDS} seeds: ${operations} operations, ${crashes} crashes, ${partitions} partitions, ${pauses} pauses, ${fills} replicas filled with ${blocksFilled} blocks`,
  );
  // A run without load or without faults would prove nothing.
  expect(operations).toBeGreaterThan(SEEDS * 200);
  expect(crashes).toBeGreaterThan(SEEDS);
  expect(partitions).toBeGreaterThan(SEEDS / 4);
  expect(fills).toBeGreaterThan(SEEDS / 10);
  expect(blocksFilled).toBeGreaterThan(fills);
}, 600_000);

test("the same seed gives the same trace", () => {
  expect(run(SEED_FIRST).traceHash).toBe(run(SEED_FIRST).traceHash);
}, 60_000);
