import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import {
  command,
  type TestCluster,
  waitFor,
  withCluster,
  WriteCounter,
  expectWithin,
} from "./e2e-harness.ts";

interface BenchResult {
  readonly backend: string;
}

test("G1, G14: fio verifies every block while osds are killed one by one and then all at once", async () => {
  await withCluster({ osds: 3 }, async (cluster) => {
    const uri = await cluster.image("rbd/fio", "256MiB", 3);
    const fio = command([
      "fio",
      ...["--name=v", "--ioengine=nbd", `--uri=${uri}`, "--rw=randwrite", "--bs=4k-64k"],
      ...["--iodepth=16", "--size=256M", "--io_size=256M", "--verify=crc32c", "--do_verify=1"],
      // Slow enough to last through all kills, and for what an osd misses to stay in the logs.
      ...[
        "--rate_iops=400,400",
        "--verify_fatal=1",
        "--verify_state_save=0",
        "--output-format=json",
      ],
    ]);
    const writes = new WriteCounter(cluster);
    await writes.more(100);
    for (const name of ["osd.0", "osd.1"]) {
      await cluster.kill(name, "SIGKILL");
      await writes.more(100);
      await cluster.restart(name);
      await writes.more(100);
    }
    await Promise.all(["osd.0", "osd.1", "osd.2"].map((name) => cluster.kill(name, "SIGKILL")));
    await Promise.all(["osd.0", "osd.1", "osd.2"].map((name) => cluster.restart(name)));
    const { code, stdout, stderr } = await fio;
    expect(`${code} ${stderr}`).toBe("0 ");
    const [job] = (
      JSON.parse(stdout.slice(stdout.indexOf("{"))) as {
        jobs: { error: number; read: { total_ios: number } }[];
      }
    ).jobs;
    expect(job?.error).toBe(0);
    expect(job?.read.total_ios).toBeGreaterThan(1000);
    await cluster.run("image", "verify", "rbd/fio");
  });
});

/** Operations before a pause is looked for: the writer's own start is none. */
const WRITES_BEFORE = 200;
const ROUNDS = 3;
/** G9: no group stalls for longer. */
const PROMISED_MS = 5000;

interface Pg {
  readonly state: string;
  readonly leaderOsd: number | null;
  readonly term: number;
}

/** The one group of the pool, when all three replicas are there and one of them leads. */
async function wholeGroup(cluster: TestCluster): Promise<Pg & { readonly leaderOsd: number }> {
  return await waitFor("the group to have a leader and all replicas", async () => {
    const [pg] = await cluster.json<Pg[]>("pg", "ls", "one");
    if (pg === undefined || pg.leaderOsd === null || pg.state !== "active") return undefined;
    // Who was away has all that it missed: else the next pause is its own.
    const { replicas } = await cluster.json<{ replicas: unknown[] }>("recovery", "status");
    if (replicas.length > 0) return undefined;
    return { ...pg, leaderOsd: pg.leaderOsd };
  });
}

/** Longest time in ms between two answers of a history, without the first `WRITES_BEFORE`. */
function longestPauseMs(history: string): number {
  const returns = history
    .trim()
    .split("\n")
    .map((line) => (JSON.parse(line) as { return: number }).return / 1e6)
    .slice(WRITES_BEFORE);
  let longest = 0;
  for (let at = 1; at < returns.length; at++) {
    longest = Math.max(longest, returns[at]! - returns[at - 1]!);
  }
  return longest;
}

/** Stop the osd that leads the only group under a writer at depth 1. Answers the writer's pause. */
async function pauseOf(cluster: TestCluster, signal: "SIGKILL" | "SIGTERM"): Promise<number> {
  await wholeGroup(cluster);
  const writes = new WriteCounter(cluster);
  await writes.rest();
  const history = cluster.path("history");
  const bench = cluster.json<BenchResult>(
    ...["bench", "image", "one/pause", "--rw", "randwrite", "--bs", "4KiB", "--depth", "1"],
    ...["--time", "6s", "--ramp", "0s", "--no-fill", "--no-drain", "--history", history],
  );
  await writes.more(WRITES_BEFORE * 2);
  // A leader may have gone home meanwhile, to an osd that is back for a while.
  const before = await wholeGroup(cluster);
  const name = `osd.${before.leaderOsd}`;
  await cluster.kill(name, signal);
  // The writer goes on behind it.
  await writes.more(WRITES_BEFORE);
  const result = await bench;
  expect(result.backend).toBe("uring");
  const pauseMs = longestPauseMs(readFileSync(history, "utf8"));
  // It was a leader's: another osd leads, of a later term.
  const [after] = await cluster.json<Pg[]>("pg", "ls", "one");
  expect(after?.leaderOsd).not.toBe(before.leaderOsd);
  expect(after?.leaderOsd).not.toBeNull();
  expect(after?.term).toBeGreaterThan(before.term);
  await cluster.restart(name);
  return pauseMs;
}

test("G9: the writer of a group goes on after its leader is killed, and after it is stopped", async () => {
  await withCluster({ osds: 3 }, async (cluster) => {
    // One group only: whoever leads it leads every block of the image.
    await cluster.run("pool", "create", "one", "--size", "3", "--pgs", "1");
    await cluster.run("image", "create", "one/pause", "--size", "64MiB");
    const medianOf = async (signal: "SIGKILL" | "SIGTERM", what: string): Promise<number> => {
      const pauses: number[] = [];
      for (let round = 0; round < ROUNDS; round++) pauses.push(await pauseOf(cluster, signal));
      const text = pauses.map((ms) => ms.toFixed(0)).join(", ");
      console.log(`pause of a depth-1 writer after ${what} of its leader: ${text} ms`);
      // One pause may be the machine's own.
      return pauses.toSorted((a, b) => a - b)[Math.floor(ROUNDS / 2)]!;
    };
    const killed = await medianOf("SIGKILL", "kill -9");
    const stopped = await medianOf("SIGTERM", "a clean stop");
    expectWithin("another leader after a kill", killed, PROMISED_MS);
    // An election waits out the lease of the leader that was killed; one that is stopped hands over.
    expect(stopped).toBeLessThan(killed / 2);
    await cluster.run("image", "verify", "one/pause");
  });
});
