import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { type TestCluster, waitFor, withCluster } from "./e2e-harness.ts";

const AWAY = "60s";
const AMPLIFICATION_MAX = 1.2;
const BLOCK_BYTES = 4096;
/** Of the pool: the log that all share went past each of them. */
const GROUPS = 32;

/** Blocks that a history of the load generator names as written. */
function blocksWritten(history: string): number {
  const keys = new Set<string>();
  for (const match of readFileSync(history, "utf8").matchAll(/"key":(\d+),"kind":"write"/g)) {
    keys.add(match[1]!);
  }
  return keys.size;
}

/** A counter of osd.2 whose labels hold `label`; 0 while it was not reported yet. */
async function counter(cluster: TestCluster, name: string, label: string): Promise<number> {
  const reply = await fetch(`http://127.0.0.1:${cluster.port("mon.a", "http")}/metrics`);
  let sum = 0;
  for (const line of (await reply.text()).split("\n")) {
    if (!line.startsWith(`fastblock_${name}{`) || !line.includes('osd="2"')) continue;
    if (line.includes(label)) sum += Number(line.slice(line.lastIndexOf(" ")));
  }
  return sum;
}

test("G7: an osd that was away under random writes comes back by copying what differs", async () => {
  await withCluster({ osds: 3, flags: ["--osd-size", "4GiB"] }, async (cluster) => {
    await cluster.image("rbd/away", "1GiB", 3);
    const load = ["bench", "image", "rbd/away", "--rw", "randwrite", "--bs", "4KiB"];
    await cluster.run(...load, "--depth", "32", "--fill", "--time", "1s");
    await cluster.kill("osd.2", "SIGKILL");
    const history = cluster.path("history.jsonl");
    await cluster.run(...load, "--depth", "16", "--time", AWAY, "--history", history);
    const differing = blocksWritten(history);
    await cluster.restart("osd.2");
    const beganMs = performance.now();
    const fills = (stage: string): Promise<number> =>
      counter(cluster, "recovery_fills_total", `stage="${stage}"`);
    await waitFor(
      "every group to be filled",
      async () => (await fills("ended")) === GROUPS,
      120_000,
    );
    await cluster.run("image", "verify", "rbd/away");
    const copied = (await counter(cluster, "recovery_bytes_total", "")) / BLOCK_BYTES;
    const seconds = ((performance.now() - beganMs) / 1000).toFixed(1);
    const ratio = copied / differing;
    console.log(
      `away ${AWAY}: ${differing} blocks differed, ${copied} copied in ${seconds} s, ratio ${ratio.toFixed(3)}`,
    );
    expect(differing).toBeGreaterThan(10_000);
    expect(ratio).toBeGreaterThan(0.5);
    expect(ratio).toBeLessThanOrEqual(AMPLIFICATION_MAX);
  });
}, 400_000);
