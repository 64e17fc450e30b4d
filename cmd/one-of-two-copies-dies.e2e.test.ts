import { expect, test } from "bun:test";
import { command, type TestCluster, waitFor, withCluster, WriteCounter } from "./e2e-harness.ts";

interface Replica {
  readonly osd: number;
  readonly witness: boolean;
  readonly usedBytes: number;
}

interface Pg {
  readonly id: string;
  readonly state: string;
  readonly leaderOsd: number | null;
  readonly osds: readonly number[];
  readonly witnesses: readonly number[];
  readonly replicas: readonly Replica[];
}

interface Verified {
  readonly equal: boolean;
  readonly replicas: number;
}

const OSDS = ["osd.0", "osd.1", "osd.2"];

/** All groups, once each has its three replicas and a leader, and nobody is on the way back. */
function wholeGroups(cluster: TestCluster): Promise<readonly Pg[]> {
  return waitFor("all groups to be whole", async () => {
    const { replicas } = await cluster.json<{ replicas: unknown[] }>("recovery", "status");
    const pgs = await cluster.json<Pg[]>("pg", "ls", "rbd");
    const isWhole = pgs.every((pg) => pg.state === "active" && pg.leaderOsd !== null);
    return isWhole && replicas.length === 0 && pgs;
  });
}

test("a pool of two copies and a witness goes on while any one osd is dead", async () => {
  await withCluster({ osds: 3 }, async (cluster) => {
    const created = await cluster.run("pool", "create", "rbd", "--size", "2", "--pgs", "8");
    expect(created).not.toContain("one failure");
    await cluster.run("image", "create", "rbd/two", "--size", "256MiB");
    const fio = command([
      "fio",
      ...["--name=v", "--ioengine=nbd", `--uri=${cluster.uri("rbd/two")}`, "--rw=randwrite"],
      ...["--bs=4k-32k", "--iodepth=16", "--size=256M", "--io_size=256M"],
      ...["--verify=crc32c", "--do_verify=1", "--verify_fatal=1", "--verify_state_save=0"],
      // Slow enough to last through all kills.
      ...["--rate_iops=8000,500", "--output-format=json"],
    ]);
    const writes = new WriteCounter(cluster);
    for (const name of OSDS) {
      // What the one before missed is in the memory of the leaders: it has that long before so much
      // more is written.
      await writes.more(300);
      const pgs = await wholeGroups(cluster);
      const osd = Number(name.slice(4));
      // It leads some, follows in some, and is the witness of others.
      expect(pgs.some((pg) => pg.osds.includes(osd))).toBe(true);
      expect(pgs.some((pg) => pg.witnesses.includes(osd))).toBe(true);
      await cluster.kill(name, "SIGKILL");
      // Each group goes on: with as many blocks in flight one that does not would stop the writer.
      await writes.more(150);
      await cluster.restart(name);
      for (const pg of await wholeGroups(cluster)) expect(pg.witnesses).not.toContain(pg.leaderOsd);
    }
    const { code, stdout, stderr } = await fio;
    expect(`${code} ${stderr}`).toBe("0 ");
    const { jobs } = JSON.parse(stdout.slice(stdout.indexOf("{"))) as {
      jobs: { error: number; read: { total_ios: number } }[];
    };
    expect(jobs[0]?.error).toBe(0);
    expect(jobs[0]?.read.total_ios).toBeGreaterThan(500);
    for (const pg of await wholeGroups(cluster)) {
      expect([pg.osds.length, pg.witnesses.length, pg.replicas.length]).toEqual([2, 1, 3]);
      for (const { witness, osd, usedBytes } of pg.replicas) {
        expect(witness).toBe(pg.witnesses.includes(osd));
        if (witness) expect(usedBytes).toBe(0);
        else expect(usedBytes).toBeGreaterThan(0);
      }
    }
    const verified = await cluster.json<Verified>("image", "verify", "rbd/two");
    expect([verified.equal, verified.replicas]).toEqual([true, 2]);
  });
}, 120_000);
