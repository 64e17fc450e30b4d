import { expect } from "bun:test";
import { drainMicrotasks, edenGC } from "bun:jsc";
import { SystemChecksum, SystemCiphers } from "../reactor/bun-system.ts";
import {
  runSimulation,
  SHRINK_MS,
  SimFailure,
  SimMemory,
  SimTally,
  type SimVerdict,
  tellFailure,
} from "./testing.ts";

/** Seeds of the gate, half of them in each of two files that run side by side; `SIM_SEEDS=10000` for more. */
const SEEDS = Number(process.env["SIM_SEEDS"] ?? "2000");
const SEED_FIRST = Number(process.env["SIM_SEED_FIRST"] ?? "1");
/** Fewer than these meet some kinds of faults by luck only. */
const SEEDS_TELLING = 100;

/** Once in so many seeds all that the others left is collected. */
const SEEDS_COLLECTED = 32;

const memory = new SimMemory();

/** One seed, with nothing left out. */
export function runSeed(seed: number): SimVerdict {
  // Arenas are large and stay; beside them what a seed leaves, 150 MB, makes the collector come late.
  if (seed % SEEDS_COLLECTED < 2) Bun.gc(true);
  else edenGC();
  const collect = (): void => void edenGC();
  const runtime = { checksum: new SystemChecksum(), ciphers: new SystemCiphers() };
  const options = { seed, memory, ...runtime, drainMicrotasks, collect };
  try {
    return runSimulation(options);
  } catch (error) {
    if (!(error instanceof SimFailure)) throw error;
    const endMs = performance.now() + SHRINK_MS;
    throw new Error(
      tellFailure(options, error, () => performance.now() >= endMs),
      {
        cause: error,
      },
    );
  }
}

/** Every second seed, from the first one or the next. */
export function runHalf(half: number): void {
  const tally = new SimTally();
  for (let seed = SEED_FIRST + half; seed < SEED_FIRST + SEEDS; seed += 2) tally.add(runSeed(seed));
  console.log(JSON.stringify(tally));
  const { seeds, faults } = tally;
  // A run without load or without faults would prove nothing.
  expect(tally.operations).toBeGreaterThan(seeds * 600);
  expect(tally.shared).toBeGreaterThan(seeds * 300);
  expect(tally.unanswered).toBeGreaterThan(seeds);
  expect(tally.fills).toBeGreaterThan(seeds / 10);
  expect(tally.blocksFilled).toBeGreaterThan(tally.fills);
  if (seeds < SEEDS_TELLING) return;
  for (const name of ["crash", "cut", "sides", "rot", "death of a client"]) {
    expect(faults[name]).toBeGreaterThan(seeds / 8);
  }
  for (const name of ["pause", "starvation", "device errors", "slow device"]) {
    expect(faults[name]).toBeGreaterThan(seeds / 40);
  }
  for (const name of ["flush failed", "short transfers"]) {
    expect(faults[name]).toBeGreaterThan(seeds / 8);
  }
  for (const name of ["misdirected writes", "misdirected reads", "lost writes"]) {
    expect(faults[name]).toBeGreaterThan(seeds / 16);
  }
  for (const name of ["hung operation", "lying flush"]) {
    expect(faults[name]).toBeGreaterThan(seeds / 40);
  }
  // The runs are blind for a rare situation that none of so many has met.
  expect(tally.unmet).toEqual([]);
}
