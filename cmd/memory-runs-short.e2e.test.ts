import { expect, test } from "bun:test";
import { connect, type Socket } from "node:net";
import { join } from "node:path";
import { checkRegisters, RegisterHistory } from "../core/testing/testing.ts";
import { CampaignCluster, waitUntil } from "./campaign-cluster.ts";
import { CampaignLoad } from "./campaign-load.ts";
import { MemoryGroup, memoryGroupFault } from "./campaign-memory.ts";
import { command, EXECUTABLE, succeed, withCluster } from "./e2e-harness.ts";

/**
 * G1, G2, G15: memory runs short under a recorded load, in each way that a process can meet: no more
 * addresses, so that allocations fail; a control group that slows it down; the kernel's OOM killer.
 * Who ends is started again, as systemd does, and nothing else is done. What was acknowledged is there.
 */

const MIB = 1_048_576;
const IMAGE = "rbd/a";
const IMAGE_BYTES = 64 * MIB;
const CLIENTS = 6;
const OPERATIONS_MIN = 2000;
/** Who has no more addresses goes on with what it has, or ends. */
const SHORT_MS = 3000;
const SLOW_MS = 3000;
const STRANGERS = 100;
const GOES_ON_LIMIT_MS = 60_000;
/** Groups of a pool that is made meanwhile: whoever keeps them needs memory. */
const GROUPS = 128;

/** Limits that the runtime starts under: without room for compiled code; for the arena. */
const CODE_MIB = 1500;
const ARENA_MIB = 3000;
/** Less than a process must have left when it serves. */
const STEP_MIB = 100;
const START_LIMIT_S = "20";

const groupFault = memoryGroupFault();

/** A cluster under a recorded load, which is judged at the end, as is every store. */
class LoadedCluster {
  readonly cluster: CampaignCluster = new CampaignCluster({
    program: [EXECUTABLE],
    osds: 3,
    shards: 1,
    gateways: 2,
  });
  private readonly history = new RegisterHistory();
  private load: CampaignLoad | undefined;

  async run(body: () => Promise<void>): Promise<void> {
    const { cluster } = this;
    try {
      await this.start();
      await body();
      await this.judge();
    } catch (error) {
      for (const name of cluster.names) console.error(cluster.lastWords(name));
      throw error;
    } finally {
      await this.load?.stop();
      await cluster.down();
      cluster.remove();
    }
  }

  /** Every client is answered again. */
  async goesOn(what: string): Promise<void> {
    const nowMs = performance.now();
    const isAnswered = (): boolean => this.load!.goesOnSince(nowMs);
    await waitUntil(`all to go on: ${what}`, isAnswered, GOES_ON_LIMIT_MS);
  }

  /** Start again what has ended, or is about to; the cluster becomes well without help. */
  async restart(name: string): Promise<void> {
    const { cluster } = this;
    await waitUntil(`${name} to be gone`, () => !cluster.isRunning(name));
    await cluster.start(name);
    await this.goesOn(name);
    await waitUntil(`health with ${name}`, async () => (await cluster.complaints()) === "");
  }

  private async start(): Promise<void> {
    const { cluster, history } = this;
    await cluster.up();
    await cluster.run("pool", "create", "rbd", "--size", "3");
    await cluster.run("image", "create", IMAGE, "--size", String(IMAGE_BYTES));
    const gateways = cluster.gateways.map((name) => ({
      name,
      host: cluster.address(name),
      port: cluster.port(name, "nbd"),
    }));
    const shape = { exportName: IMAGE, sizeBytes: IMAGE_BYTES, clientsPerGateway: CLIENTS };
    this.load = new CampaignLoad({ gateways, ...shape, history, seed: 1 });
    this.load.start();
  }

  private async judge(): Promise<void> {
    const { cluster, history } = this;
    const load = this.load!;
    await load.stop();
    await load.readBack();
    await cluster.run("image", "verify", IMAGE);
    const { violations, operations } = checkRegisters(history);
    expect([violations, load.damage, [...load.errors]]).toEqual([[], [], []]);
    expect(operations).toBeGreaterThan(OPERATIONS_MIN);
    await cluster.down();
    for (const name of cluster.osds) {
      await cluster.run("osd", "fsck", "--data", join(cluster.directory, `${name}.img`));
    }
  }
}

function strangers(host: string, port: number): readonly Socket[] {
  return Array.from({ length: STRANGERS }, (_none, at) => {
    const socket = connect(port, host);
    socket.on("error", () => undefined).resume();
    socket.write(Buffer.alloc(900, at));
    return socket;
  });
}

/** Give a process no more addresses, and reasons to want some; true when it goes on. */
async function withoutAddresses(
  cluster: CampaignCluster,
  name: string,
  role: string,
): Promise<boolean> {
  await succeed(["prlimit", `--pid=${cluster.pid(name)}`, "--as=1:", "--data=1:"]);
  const sockets = strangers(cluster.address(name), cluster.port(name, role));
  await Bun.sleep(SHORT_MS);
  for (const socket of sockets) socket.destroy();
  return cluster.isRunning(name);
}

/** What a process says that does not start under a limit. */
async function refusal(start: string, limit: "as" | "data", mib: number): Promise<string> {
  const limited = ["prlimit", `--${limit}=${mib * MIB}`, "timeout", START_LIMIT_S, start];
  const { code, stderr } = await command(limited);
  expect([code, stderr]).toEqual([
    1,
    expect.stringMatching(/^error FB4012: .*\n( {2}why.*\n)? {2}hint.*ulimit -/),
  ]);
  return stderr;
}

test("G1, G2, G15: a process that gets no more addresses goes on or ends, and loses nothing", async () => {
  const loaded = new LoadedCluster();
  const { cluster } = loaded;
  await loaded.run(async () => {
    await cluster.giveLeadership("osd.0");
    for (const [name, role] of [
      ["osd.0", "data"],
      ["nbd.0", "nbd"],
      ["mon.a", "control"],
    ] as const) {
      const short = withoutAddresses(cluster, name, role);
      if (name === "osd.0") {
        await cluster.run("pool", "create", "more", "--size", "3", "--pgs", String(GROUPS));
      }
      const isThere = await short;
      console.log(`${name} without addresses: ${isThere ? "goes on" : "ended"}`);
      if (isThere) {
        await loaded.goesOn(`${name} without addresses`);
        // As the OOM killer would: what it has told must not depend on its memory.
        cluster.signal(name, "SIGKILL");
      }
      await loaded.restart(name);
    }
  });
}, 120_000);

/** Take memory from an osd that leads until it is slow, and then until the kernel ends it. */
async function slowedThenEnded(
  loaded: LoadedCluster,
  group: MemoryGroup,
  name: string,
): Promise<void> {
  const { cluster } = loaded;
  await cluster.giveLeadership(name);
  group.take(cluster.pid(name));
  const [slowed, ended] = [group.count("high"), group.count("oom_kill")];
  // Of what it has it keeps all; whoever comes makes it want more.
  const sockets = strangers(cluster.address(name), cluster.port(name, "data"));
  group.slowAbove(0);
  await waitUntil(`${name} to be slowed down`, () => group.count("high") > slowed);
  await Bun.sleep(SLOW_MS);
  await loaded.goesOn(`${name} slowed down`);
  expect(cluster.isRunning(name)).toBe(true);
  group.endAbove(0);
  group.slowAbove("max");
  await waitUntil(`the kernel to end ${name}`, () => group.count("oom_kill") > ended);
  group.endAbove("max");
  for (const socket of sockets) socket.destroy();
  await loaded.restart(name);
}

test.skipIf(groupFault !== "")(
  `G1, G2, G15: an osd that is slowed down for want of memory, then ended by the OOM killer, loses nothing (${groupFault || "control groups"})`,
  async () => {
    const loaded = new LoadedCluster();
    const group = new MemoryGroup();
    try {
      await loaded.run(async () => {
        for (const name of ["osd.0", "osd.1"]) await slowedThenEnded(loaded, group, name);
      });
    } finally {
      group.close();
    }
  },
  120_000,
);

test("G15: an osd with too little memory to start says so, and starts when it has it", async () => {
  await withCluster({ osds: 1 }, async (cluster) => {
    await cluster.kill("osd.0", "SIGTERM");
    const start = join(cluster.directory, "osd.0.start");
    for (const limit of ["as", "data"] as const) {
      expect(await refusal(start, limit, CODE_MIB)).toContain(" for compiled code: ");
      expect(await refusal(start, limit, ARENA_MIB)).toContain("mapping 1024 MiB of memory: ");
    }
    // As much as it takes to start, and hardly more.
    let mib = ARENA_MIB;
    let text = "";
    do {
      mib += STEP_MIB;
      text = await refusal(start, "data", mib);
    } while (text.includes("mapping"));
    expect(text).toMatch(/looking at the limit of data size: \d+ MiB left, wanted 128 MiB/);
    await cluster.restart("osd.0");
  });
}, 60_000);
