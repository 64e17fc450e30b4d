import { expect, test } from "bun:test";
import { command, type TestCluster, waitFor, withCluster, WriteCounter } from "./e2e-harness.ts";

interface Pg {
  readonly id: string;
  readonly state: string;
  readonly leaderOsd: number | null;
  readonly osds: readonly number[];
  readonly joining: readonly number[];
  readonly leaving: readonly number[];
  readonly replicas: readonly { readonly osd: number; readonly replicaId: number }[];
  readonly configuration: { readonly voters: readonly number[] } | null;
}

const OSDS = [0, 1, 2, 3];

function infoOf(cluster: TestCluster, pg: string): Promise<Pg> {
  return cluster.json<Pg>("pg", "info", pg);
}

/** The group is what the map wants: nobody joins, nobody leaves. */
function settled(cluster: TestCluster, pg: string, on: number): Promise<Pg> {
  return waitFor(`group ${pg} to be on osd.${on} alone of both`, async () => {
    const info = await infoOf(cluster, pg);
    const done = info.joining.length + info.leaving.length === 0 && info.state === "active";
    return done && info.osds.includes(on) ? info : undefined;
  });
}

function spareOf(pg: Pg): number {
  return OSDS.find((osd) => !pg.osds.includes(osd))!;
}

/** Replicas that an osd says it holds. */
async function replicasOn(cluster: TestCluster, osd: number): Promise<number> {
  const reply = await fetch(`http://127.0.0.1:${cluster.port("mon.a", "http")}/metrics`);
  let count = 0;
  for (const [, labels, value] of (await reply.text()).matchAll(
    /^fastblock_raft_groups\{(.*?)\} (\d+)/gm,
  )) {
    if (labels!.includes(`osd="${osd}"`)) count += Number(value);
  }
  return count;
}

test("replicas move to another osd while fio verifies, also when their leader is killed", async () => {
  await withCluster({ osds: 4 }, async (cluster) => {
    const uri = await cluster.image("rbd/moved", "128MiB", 3);
    const fio = command([
      "fio",
      ...["--name=v", "--ioengine=nbd", `--uri=${uri}`, "--rw=randwrite", "--bs=4k-64k"],
      ...["--iodepth=16", "--size=128M", "--io_size=128M", "--verify=crc32c", "--do_verify=1"],
      // Slow enough to last until everything has moved.
      ...["--rate_iops=2000,80", "--verify_fatal=1", "--verify_state_save=0"],
      "--output-format=json",
    ]);
    const writes = new WriteCounter(cluster);
    await writes.more(200);
    const [first, second, third] = await cluster.json<Pg[]>("pg", "ls", "rbd");

    // The replica that leads moves: the group goes on under another leader.
    const from = first!.leaderOsd!;
    const to = spareOf(first!);
    await waitFor("every founder to be seen", async () => {
      const words = ["--from", `osd.${from}`, "--to", `osd.${to}`];
      const { code, stderr } = await cluster.attempt("pg", "replace", first!.id, ...words);
      if (code !== 0 && !stderr.includes("FB2202")) throw new Error(stderr);
      return code === 0;
    });
    const moved = await settled(cluster, first!.id, to);
    expect(moved.replicas.map((one) => one.osd)).not.toContain(from);
    expect(moved.configuration?.voters.length).toBe(3);
    await writes.more(50);
    // Neither that replica nor an unknown one can be replaced; what is there already neither.
    const again = ["pg", "replace", first!.id, "--from", `osd.${to}`, "--to", `osd.${to}`];
    expect((await cluster.attempt(...again)).stderr).toContain("FB2203");

    // The leader of the next group dies in the middle; another one goes on.
    const leader = second!.leaderOsd!;
    const old = second!.osds.find((osd) => osd !== leader)!;
    const spare = spareOf(second!);
    const move = ["--from", `osd.${old}`, "--to", `osd.${spare}`, "--no-wait"];
    await cluster.run("pg", "replace", second!.id, ...move);
    await cluster.kill(`osd.${leader}`, "SIGKILL");
    await waitFor(`the voters of ${second!.id} to change without osd.${leader}`, async () => {
      const info = await infoOf(cluster, second!.id);
      return info.joining.length + info.leaving.length === 0 && info.osds.includes(spare);
    });
    await cluster.restart(`osd.${leader}`);
    await settled(cluster, second!.id, spare);
    await writes.more(50);

    // A command moves the leader, and it stays there.
    const { osds } = await infoOf(cluster, third!.id);
    await cluster.run("pg", "transfer-leader", third!.id, "--to", `osd.${osds[2]}`);
    expect((await infoOf(cluster, third!.id)).leaderOsd).toBe(osds[2]!);
    const refused = await cluster.attempt(
      ...["pg", "transfer-leader", third!.id, "--to", `osd.${spareOf(third!)}`],
    );
    expect(refused.stderr).toContain("FB1001");

    const { code, stdout, stderr } = await fio;
    expect(`${code} ${stderr}`).toBe("0 ");
    const [job] = (
      JSON.parse(stdout.slice(stdout.indexOf("{"))) as {
        jobs: { error: number; read: { total_ios: number } }[];
      }
    ).jobs;
    expect(job?.error).toBe(0);
    expect(job?.read.total_ios).toBeGreaterThan(1000);
    await cluster.run("image", "verify", "rbd/moved");
    const all = await cluster.json<Pg[]>("pg", "ls", "rbd");
    for (const osd of OSDS) {
      const wanted = all.filter((pg) => pg.osds.includes(osd));
      await waitFor(`osd.${osd} to hold ${wanted.length} replicas`, async () => {
        return (await replicasOn(cluster, osd)) === wanted.length;
      });
    }
    // With its pool the last replica goes.
    await cluster.run("image", "rm", "rbd/moved", "--yes");
    await cluster.run("pool", "rm", "rbd", "--yes");
    for (const osd of OSDS) {
      await waitFor(`osd.${osd} to be empty`, async () => (await replicasOn(cluster, osd)) === 0);
    }
  });
}, 300_000);
