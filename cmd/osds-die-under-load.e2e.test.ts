import { expect, test } from "bun:test";
import { command, withCluster, WriteCounter } from "./e2e-harness.ts";

interface BenchResult {
  readonly iops: number;
  readonly latencyUs: { readonly p50: number; readonly max: number };
  readonly backend: string;
}

test("fio verifies every block while osds are killed one by one and then all at once", async () => {
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

test("a writer at depth 1 goes on after its leader is killed, and after it is stopped", async () => {
  await withCluster({ osds: 3 }, async (cluster) => {
    await cluster.image("rbd/pause", "64MiB", 3);
    for (const [signal, what] of [
      ["SIGKILL", "kill -9"],
      ["SIGTERM", "a clean stop"],
    ] as const) {
      const bench = cluster.json<BenchResult>(
        ...["bench", "image", "rbd/pause", "--rw", "randwrite", "--bs", "4KiB"],
        ...["--depth", "1", "--time", "6s"],
      );
      await new WriteCounter(cluster).more(50);
      // With 32 groups over three osds each one leads some of them.
      await cluster.kill("osd.1", signal);
      const result = await bench;
      expect(result.backend).toBe("uring");
      const pauseMs = Math.round(result.latencyUs.max / 1000);
      console.log(`longest pause of a depth-1 writer after ${what} of a leader: ${pauseMs} ms`);
      await cluster.restart("osd.1");
      await cluster.run("image", "verify", "rbd/pause");
    }
  });
});
