import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { type TestCluster, waitFor, withCluster } from "./e2e-harness.ts";

const NAMES = ["mon.a", "osd.0", "osd.1", "osd.2", "nbd.0"];
const TICKS_PER_SECOND = 100;
/**
 * Of one core, by all processes together, on average over a window. While code is still compiled,
 * in the first ten seconds or so, they use more: such windows are printed and not counted.
 */
const CPU_SHARE_MAX = 0.02;
const ANONYMOUS_BYTES_MAX = 100 * 1024 * 1024;
/** The kernel tells 10 ms at best of each process: a third of a per cent of all five. */
const WINDOW_MS = 15_000;
const SETTLED_WITHIN_MS = 120_000;

function cpuSeconds(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]?.split(" ") ?? [];
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
}

function anonymousBytes(pid: number): number {
  const match = /^Anonymous:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, "utf8"));
  return Number(match?.[1]) * 1024;
}

function cpuOfAll(cluster: TestCluster): number {
  return NAMES.reduce((sum, name) => sum + cpuSeconds(cluster.pid(name)), 0);
}

/** The share of one core over a window that begins now. */
async function cpuShare(cluster: TestCluster): Promise<number> {
  const startedMs = performance.now();
  const before = cpuOfAll(cluster);
  await Bun.sleep(WINDOW_MS);
  return (cpuOfAll(cluster) - before) / ((performance.now() - startedMs) / 1000);
}

test("a cluster with a pool and nothing to do uses little processor and memory", async () => {
  await withCluster({ osds: 3 }, async (cluster) => {
    await cluster.image("rbd/idle", "64MiB", 3);
    const share = await waitFor(
      "a window at rest",
      async () => {
        const measured = await cpuShare(cluster);
        console.log(`idle cluster: ${(measured * 100).toFixed(2)} % of one core`);
        return measured < CPU_SHARE_MAX ? measured : undefined;
      },
      SETTLED_WITHIN_MS,
    );
    expect(share).toBeLessThan(CPU_SHARE_MAX);
    for (const name of NAMES) {
      const bytes = anonymousBytes(cluster.pid(name));
      console.log(`${name}: ${Math.round(bytes / 1e6)} MB of anonymous memory`);
      expect(`${name} ${bytes < ANONYMOUS_BYTES_MAX}`).toBe(`${name} true`);
    }
  });
}, 180_000);
