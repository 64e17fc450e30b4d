import { expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { type TestCluster, waitFor, withCluster, WriteCounter } from "./e2e-harness.ts";

const GROUPS = 32;
const OSDS = ["osd.0", "osd.1", "osd.2"];

interface Group {
  readonly state: string;
  readonly leaderReplica: number;
  readonly replicas: readonly { readonly replicaId: number; readonly shard: number }[];
}

interface BenchResult {
  readonly latencyUs: { readonly max: number };
  readonly verifiedBlocks: number;
  readonly errors: number;
}

function active(cluster: TestCluster): Promise<readonly Group[]> {
  return waitFor("every group to be active", async () => {
    const all = await cluster.json<Group[]>("pg", "ls", "rbd");
    return all.length === GROUPS && all.every((one) => one.state === "active") ? all : undefined;
  });
}

/** The shard on which a group is led. */
function leaderShard(group: Group): number {
  return group.replicas.find((one) => one.replicaId === group.leaderReplica)?.shard ?? -1;
}

test("G1, G9: osds of two shards serve through a death, a clean stop, and a stop of the whole cluster", async () => {
  await withCluster({ osds: 3, shards: 2 }, async (cluster) => {
    await cluster.image("rbd/disk", "128MiB", 3);
    const shards = (await active(cluster)).map(leaderShard);
    for (const shard of [0, 1]) {
      expect(shards.filter((one) => one === shard).length).toBeGreaterThan(GROUPS / 4);
      for (const name of OSDS) {
        expect(cluster.port(name, shard === 0 ? "data" : "data.1")).toBeGreaterThan(0);
      }
    }
    const writes = new WriteCounter(cluster);
    const load = cluster.json<BenchResult>(
      ...["bench", "image", "rbd/disk", "--rw", "randrw", "--bs", "4KiB", "--depth", "16"],
      ...["--time", "12s", "--verify", "--no-fill", "--no-drain"],
    );
    await writes.more(200);
    await cluster.kill("osd.0", "SIGKILL");
    await writes.more(200);
    await cluster.restart("osd.0");
    await writes.more(200);
    await cluster.kill("osd.1", "SIGTERM");
    await writes.more(200);
    await cluster.restart("osd.1");
    const result = await load;
    expect(result.errors).toBe(0);
    expect(result.verifiedBlocks).toBeGreaterThan(100);
    console.log(`longest pause of a request: ${Math.round(result.latencyUs.max / 1000)} ms`);
    await active(cluster);
    await cluster.run("image", "verify", "rbd/disk");

    await cluster.run("dev", "down", "--dir", cluster.directory);
    for (const name of OSDS) {
      expect(existsSync(`/proc/${cluster.pid(name)}/exe`)).toBe(false);
      const log = readFileSync(join(cluster.directory, `${name}.log`), "utf8");
      expect(log).toMatch(/"msg":"stopped"\}\n$/);
      await cluster.run("osd", "fsck", "--data", join(cluster.directory, `${name}.img`));
    }
    await cluster.up({ osds: 3, shards: 2 });
    await active(cluster);
    await cluster.run("image", "verify", "rbd/disk");
  });
}, 180_000);
