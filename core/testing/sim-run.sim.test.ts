/** What every run of the simulator does, whatever its seed draws. */
import { describe, expect, test } from "bun:test";
import { drainMicrotasks } from "bun:jsc";
import { SystemChecksum } from "../reactor/bun-system.ts";
import { runSimulation, SimMemory, type SimVerdict } from "./testing.ts";

const memory = new SimMemory();

function run(seed: number, faultUs?: number): SimVerdict {
  const checksum = new SystemChecksum();
  return runSimulation({
    seed,
    memory,
    checksum,
    drainMicrotasks,
    ...(faultUs === undefined ? {} : { faultUs }),
  });
}

describe("no run is idle", () => {
  // Of these, the first is one whose faults let nobody work for as long as it draws.
  test.each([
    [8, undefined],
    [5, 1],
    [9, 1],
  ])("seed %p, with faults for %p µs", (seed, faultUs) => {
    const { operations, shared } = run(seed, faultUs);
    expect(operations).toBeGreaterThanOrEqual(500);
    expect(shared).toBeGreaterThanOrEqual(100);
  });
});
