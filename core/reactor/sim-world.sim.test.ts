import { drainMicrotasks } from "bun:jsc";
import { describe, expect, test } from "bun:test";
import { SystemChecksum } from "./bun-system.ts";
import {
  type ConformanceCase,
  check,
  DISK_CASES,
  type Harness,
  NETWORK_CASES,
  RANDOM_CASES,
  TIMER_CASES,
} from "./conformance.ts";
import { PlainChecksum } from "./sim-checksum.ts";
import { Simulation } from "./sim-world.ts";

function harnessOf(simulation: Simulation): Harness {
  const world = simulation.createWorld("a", "10.0.0.1");
  const other = simulation.createWorld("b", "10.0.0.2");
  world.start();
  other.start();
  let paths = 0;
  return {
    world,
    other,
    until(condition, what) {
      check(simulation.run(condition), `waited 60 simulated s for ${what}`);
      return Promise.resolve();
    },
    newPath() {
      paths += 1;
      return `disk ${paths}`;
    },
    shorten(path, sizeBytes) {
      simulation.disk(path).endBytes = sizeBytes;
    },
    listenAddresses: () => [{ kind: "tcp", host: "10.0.0.1", port: 0 }],
    deadAddress: { kind: "tcp", host: "10.0.0.1", port: 1 },
    otherBind: "10.0.0.2",
  };
}

async function runCase(seed: number, one: ConformanceCase): Promise<string> {
  const simulation = new Simulation(seed, { drainMicrotasks });
  await one.run(harnessOf(simulation));
  return simulation.traceHash;
}

describe("simulated world", () => {
  for (const one of [...TIMER_CASES, ...DISK_CASES, ...NETWORK_CASES, ...RANDOM_CASES]) {
    test(one.name, async () => {
      for (let seed = 1; seed <= 5; seed++) {
        const first = await runCase(seed, one);
        expect(await runCase(seed, one)).toBe(first);
      }
    });
  }

  test("checksums equal those of the runtime", () => {
    const plain = new PlainChecksum();
    const system = new SystemChecksum();
    for (const length of [0, 1, 55, 56, 63, 64, 65, 127, 4096]) {
      const data = new Uint8Array(length).map((_, at) => at * 7);
      const key = data.subarray(0, 100);
      expect(plain.crc32(data, 0)).toBe(system.crc32(data, 0));
      expect(plain.crc32(data, 0x1234_5678)).toBe(system.crc32(data, 0x1234_5678));
      expect(plain.hmacSha256(key, data)).toEqual(system.hmacSha256(key, data));
    }
  });
});
