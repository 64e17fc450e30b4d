import { expect, test } from "bun:test";
import { readFileSync, renameSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { spawn } from "bun";
import {
  command,
  type CommandResult,
  randomBytes,
  succeed,
  type TestCluster,
  waitFor,
  withCluster,
} from "./e2e-harness.ts";

/**
 * The disk of an osd is put back from a copy that was made earlier (N22). It has forgotten what it
 * acknowledged since: it is refused however often it is started, by the monitor, by its peers when
 * there is no monitor, and by peers that were off themselves. The right disk is always taken.
 */

const MIB = 1024 * 1024;
const SIZE = 32 * MIB;
const VICTIM = "osd.2";
const REFUSED = 8;

/** Start the victim, which must end by itself. */
function start(cluster: TestCluster): Promise<CommandResult> {
  return command([join(cluster.directory, `${VICTIM}.start`)]);
}

async function refused(cluster: TestCluster, times: number, by: string): Promise<void> {
  for (let time = 0; time < times; time++) {
    const { code, stdout, stderr } = await start(cluster);
    expect({ code, stdout }).toEqual({ code: REFUSED, stdout: "" });
    expect(stderr).toContain("FB4004");
    expect(stderr).toContain(by);
  }
}

/** How far a start is, by what it logs; `written`: its disk is not what it was. */
const STAGES = ["starting", "reactor", "written", "ready", "registered"] as const;

/** Start the victim, and kill it when its start is so far. */
async function killStarting(cluster: TestCluster, stage: (typeof STAGES)[number]): Promise<void> {
  const log = join(cluster.directory, `${VICTIM}.log`);
  const disk = join(cluster.directory, `${VICTIM}.img`);
  const loggedBytes = statSync(log).size;
  const { mtimeMs } = statSync(disk);
  const child = spawn([join(cluster.directory, `${VICTIM}.start`)], {
    stdin: "ignore",
    stdout: "ignore",
    stderr: "ignore",
  });
  await waitFor(`${VICTIM} to be ${stage}`, () => {
    if (child.exitCode !== null) throw new Error(`${VICTIM} ended with ${child.exitCode}`);
    if (stage === "written") return statSync(disk).mtimeMs !== mtimeMs;
    const logged = readFileSync(log).subarray(loggedBytes).toString();
    return logged.includes(`"msg":"${stage}"`);
  });
  child.kill("SIGKILL");
  await child.exited;
}

async function write(cluster: TestCluster, seed: number): Promise<void> {
  writeFileSync(cluster.path("disk.raw"), randomBytes(SIZE, seed));
  await succeed(["nbdcopy", cluster.path("disk.raw"), cluster.uri("rbd/disk")]);
}

/** What clients read is what was written last. */
async function readsAsWritten(cluster: TestCluster): Promise<void> {
  await succeed(["nbdcopy", cluster.uri("rbd/disk"), cluster.path("read.raw")]);
  await succeed(["cmp", cluster.path("disk.raw"), cluster.path("read.raw")]);
}

test("an old copy of an osd's disk is refused, and the right disk is not", async () => {
  await withCluster({ osds: 3 }, async (cluster) => {
    await cluster.run("pool", "create", "rbd", "--size", "3", "--pgs", "16");
    await cluster.run("image", "create", "rbd/disk", "--size", `${SIZE}`);
    const disk = join(cluster.directory, `${VICTIM}.img`);
    await write(cluster, 1);
    await cluster.kill(VICTIM, "SIGTERM");
    await succeed(["cp", "--sparse=always", disk, cluster.path("old.img")]);
    await cluster.restart(VICTIM);
    await write(cluster, 2);
    await cluster.kill(VICTIM, "SIGKILL");

    // However a start ends, the disk knows what others remember of it.
    for (const stage of STAGES) await killStarting(cluster, stage);
    await cluster.restart(VICTIM);
    await write(cluster, 3);
    await cluster.kill(VICTIM, "SIGTERM");
    renameSync(disk, cluster.path("right.img"));
    renameSync(cluster.path("old.img"), disk);

    await refused(cluster, 5, "remembers more of it");
    await readsAsWritten(cluster);

    // Without a monitor its peers refuse it; and so they do when they come from a cold start.
    await cluster.kill("mon.a", "SIGTERM");
    await refused(cluster, 5, "osd ");
    await cluster.kill("osd.0", "SIGKILL");
    await cluster.kill("osd.1", "SIGKILL");
    await cluster.restart("osd.0");
    await cluster.restart("osd.1");
    await refused(cluster, 2, "osd ");

    renameSync(disk, cluster.path("old.img"));
    renameSync(cluster.path("right.img"), disk);
    await cluster.restart(VICTIM);
    await cluster.restart("mon.a");
    const equal = await waitFor("all replicas to be equal", async () => {
      const { code, stdout } = await cluster.attempt("image", "verify", "rbd/disk", "-o", "json");
      return code === 0 && stdout;
    });
    expect(JSON.parse(equal)).toMatchObject({ equal: true, replicas: 3 });
    await cluster.kill("osd.0", "SIGKILL");
    await readsAsWritten(cluster);
  });
}, 120_000);
