/** What every run of the simulator does, whatever its seed draws. */
import { describe, expect, test } from "bun:test";
import { drainMicrotasks } from "bun:jsc";
import { SystemChecksum, SystemCiphers } from "../reactor/bun-system.ts";
import { isOperated } from "./sim-operators.ts";
import { runSimulation, SimMemory, type SimVerdict } from "./testing.ts";

const memory = new SimMemory();

function run(seed: number, faultUs?: number): SimVerdict {
  const checksum = new SystemChecksum();
  return runSimulation({
    seed,
    memory,
    checksum,
    ciphers: new SystemCiphers(),
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

test("operators scrub, turn the dial, and take osds out while faults happen", () => {
  const seeds = Array.from({ length: 20 }, (_, at) => at + 1).filter(isOperated);
  expect(seeds.length).toBeGreaterThan(1);
  const verdicts = seeds.map((seed) => run(seed));
  const sum = (kind: "faults" | "probes", name: string): number =>
    verdicts.reduce((total, verdict) => total + (verdict[kind][name] ?? 0), 0);
  for (const name of ["scrub light", "scrub deep", "dial turned", "recovery paused", "osd added"]) {
    expect(`${name}: ${sum("faults", name) > 0}`).toBe(`${name}: true`);
  }
  for (const name of ["scrub ran under faults", "osd went out"]) {
    expect(`${name}: ${sum("probes", name) > 0}`).toBe(`${name}: true`);
  }
}, 60_000);
