import { expect, test } from "bun:test";
import { type TestCluster, waitFor, withCluster, WriteCounter } from "./e2e-harness.ts";

const GROUPS = 1024;
/** Far above what two peers get of each shard, and far below what 1,024 groups would send. */
const HEARTBEATS_PER_SECOND_MAX = 100;

/** Lists of all groups that are asked for, 5 MB of garbage each, and what the mon may keep then. */
const LISTS = 80;
const ANONYMOUS_BYTES_MAX = 200 * 1024 * 1024;

interface Status {
  readonly pgs: { readonly byState: Readonly<Record<string, number>> };
}

interface BenchResult {
  readonly latencyUs: { readonly max: number };
  readonly verifiedBlocks: number;
  readonly errors: number;
}

async function get(cluster: TestCluster, path: string): Promise<Response> {
  return fetch(`http://127.0.0.1:${cluster.port("mon.a", "http")}${path}`);
}

/** Wait until all groups are in this state. Answers the seconds that took. */
async function allAre(cluster: TestCluster, state: string): Promise<string> {
  const beganMs = performance.now();
  await waitFor(`every group to be ${state}`, async () => {
    const status = (await (await get(cluster, "/api/v1/status")).json()) as Status;
    return status.pgs.byState[state] === GROUPS;
  });
  return ((performance.now() - beganMs) / 1000).toFixed(1);
}

/** Heartbeats that each osd has sent, as last reported. */
async function heartbeats(cluster: TestCluster): Promise<number[]> {
  const text = await (await get(cluster, "/metrics")).text();
  const rows = text.matchAll(/^fastblock_raft_heartbeats_total\{.*\} (\d+)$/gm);
  return [...rows].map((row) => Number(row[1]));
}

test("G9: 1,024 groups serve through the death and the return of an osd", async () => {
  await withCluster({ osds: 3 }, async (cluster) => {
    await cluster.run("pool", "create", "rbd", "--size", "3", "--pgs", String(GROUPS));
    const made = await allAre(cluster, "active");
    console.log(`${GROUPS} groups are active ${made} s after the command`);
    const groups = await cluster.json<{ leaderOsd: number }[]>("pg", "ls", "rbd");
    expect(groups.filter(({ leaderOsd }) => leaderOsd === 1).length).toBeGreaterThan(GROUPS / 6);

    await cluster.run("image", "create", "rbd/disk", "--size", "128MiB");
    const writes = new WriteCounter(cluster);
    const load = cluster.json<BenchResult>(
      ...["bench", "image", "rbd/disk", "--rw", "randrw", "--bs", "4KiB", "--depth", "16"],
      ...["--time", "12s", "--verify", "--no-fill", "--no-drain"],
    );
    await writes.more(200);
    const before = await heartbeats(cluster);
    const beganMs = performance.now();
    await writes.more(500);
    const after = await heartbeats(cluster);
    const seconds = (performance.now() - beganMs) / 1000;
    expect(after).toHaveLength(3);
    for (const [at, count] of after.entries()) {
      expect((count - before[at]!) / (seconds + 1)).toBeLessThan(HEARTBEATS_PER_SECOND_MAX);
    }
    await cluster.kill("osd.1", "SIGKILL");
    const led = await allAre(cluster, "degraded");
    console.log(`every group has another leader, and the mon knows, ${led} s after the kill`);
    await writes.more(200);
    await cluster.restart("osd.1");
    const whole = await allAre(cluster, "active");
    console.log(`every group is active again ${whole} s after its osd is ready`);
    const result = await load;
    expect(result.errors).toBe(0);
    expect(result.verifiedBlocks).toBeGreaterThan(100);
    console.log(`longest pause of a request: ${Math.round(result.latencyUs.max / 1000)} ms`);
    await cluster.run("image", "verify", "rbd/disk");

    for (let list = 0; list < LISTS; list++) {
      await (await get(cluster, `/api/v1/pgs?pool=rbd`)).text();
    }
    const bytes = (): number => cluster.anonymousBytes("mon.a");
    console.log(`mon.a: ${Math.round(bytes() / 1e6)} MB of anonymous memory`);
    await waitFor("the mon to be small", () => bytes() < ANONYMOUS_BYTES_MAX);
  });
}, 180_000);
