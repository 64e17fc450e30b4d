import { spawn } from "bun";
import { expect, test } from "bun:test";
import { closeSync, openSync, readFileSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import {
  randomBytes,
  succeed,
  type TestCluster,
  waitFor,
  withCluster,
  expectWithin,
} from "./e2e-harness.ts";

/**
 * The store of a stopped osd is damaged as `dd` would do it (G6, G7, G8, G14). The osd starts within
 * seconds, says what it distrusts, gets it back from its peers, and every read meanwhile is right.
 */

const MIB = 1024 * 1024;
const BLOCK = 4096;
const VICTIM = 1;
const NAME = `osd.${VICTIM}`;
/** G14: from the start to the ready line. */
const START_LIMIT_MS = 5000;

interface PlacedUnit {
  readonly pg: number;
  readonly firstBlock: number;
  readonly dataBits: number;
  readonly offsetBytes: number;
  readonly pageOffsetBytes: number;
}

interface PlacedEntry {
  readonly pg: number;
  readonly type: string;
  readonly seq: number;
  readonly firstBlock: number;
  readonly applied: boolean;
  readonly inlineOffsetsBytes: readonly number[];
}

interface PlacedBatch {
  readonly offsetBytes: number;
}

interface Health {
  readonly status: string;
  readonly checks: readonly {
    readonly code: string;
    readonly summary: string;
    readonly details: readonly string[];
  }[];
}

/** Reads a whole image over NBD, again and again, and compares every byte. */
class Verifier {
  passes = 0;
  private readonly uri: string;
  private readonly wanted: Uint8Array;
  private stopping = false;
  private readonly running: Promise<void>;

  constructor(uri: string, wanted: Uint8Array) {
    this.uri = uri;
    this.wanted = wanted;
    this.running = this.run();
    // Told by `stop`, or by `more` before.
    this.running.catch(() => undefined);
  }

  private async run(): Promise<void> {
    while (!this.stopping) {
      const child = spawn(["nbdcopy", "--", this.uri, "-"], { stdout: "pipe", stderr: "inherit" });
      const bytes = await new Response(child.stdout).bytes();
      const code = await child.exited;
      if (code !== 0) throw new Error(`nbdcopy of ${this.uri}: exit code ${code}, wanted 0`);
      const at = differenceAt(bytes, this.wanted);
      if (at >= 0) throw new Error(`reading ${this.uri}: byte ${at} is wrong`);
      this.passes++;
    }
  }

  /** Wait until two more passes have ended: at least one of them began after the call. */
  async more(): Promise<void> {
    const passes = this.passes + 2;
    await Promise.race([this.running, waitFor("two passes", () => this.passes >= passes)]);
  }

  async stop(): Promise<void> {
    this.stopping = true;
    await this.running;
  }
}

function differenceAt(one: Uint8Array, other: Uint8Array): number {
  if (one.length !== other.length) return Math.min(one.length, other.length);
  if (Buffer.compare(one, other) === 0) return -1;
  return one.findIndex((byte, at) => byte !== other[at]);
}

/** Places on the device of a stopped osd. */
async function places<T>(cluster: TestCluster, section: string): Promise<T[]> {
  const data = join(cluster.directory, `${NAME}.img`);
  const told = await cluster.json<Record<string, T[]>>("osd", "inspect", section, "--data", data);
  return told[section]!;
}

/** Write garbage over a block of the device, as `dd if=/dev/urandom bs=4096 count=1` does. */
function damage(cluster: TestCluster, offsetBytes: number): void {
  const file = openSync(join(cluster.directory, `${NAME}.img`), "r+");
  writeSync(file, randomBytes(BLOCK, offsetBytes + 1), 0, BLOCK, offsetBytes);
  closeSync(file);
}

/** Start the damaged osd, which must serve in time, and read what it logs from then on. */
async function startDamaged(cluster: TestCluster): Promise<() => string> {
  const path = join(cluster.directory, `${NAME}.log`);
  const before = readFileSync(path, "utf8").length;
  const startedMs = performance.now();
  await cluster.restart(NAME);
  expectWithin("a damaged osd to serve", performance.now() - startedMs, START_LIMIT_MS);
  return () => readFileSync(path, "utf8").slice(before);
}

async function waitForLog(log: () => string, text: string): Promise<void> {
  await waitFor(`the log of ${NAME} to say: ${text}`, () => log().includes(text));
}

/** Sum of a metric over the shards of the victim. */
async function metric(cluster: TestCluster, name: string): Promise<number> {
  const reply = await fetch(`http://127.0.0.1:${cluster.port("mon.a", "http")}/metrics`);
  let sum = 0;
  const line = new RegExp(`^fastblock_${name}\\{osd="${VICTIM}"[^}]*\\} (\\d+)`, "gm");
  for (const match of (await reply.text()).matchAll(line)) sum += Number(match[1]);
  return sum;
}

async function healthCheck(cluster: TestCluster, code: string): Promise<string | undefined> {
  const { checks } = JSON.parse((await cluster.attempt("health", "-o", "json")).stdout) as Health;
  const check = checks.find((one) => one.code === code);
  return check === undefined ? undefined : `${check.summary}: ${check.details.join("; ")}`;
}

async function waitUntilHealthy(cluster: TestCluster): Promise<void> {
  await waitFor(
    "health to be ok",
    async () => (await cluster.attempt("health", "--check")).code === 0,
  );
}

/** An image with random content. Answers its address and the content. */
async function filledImage(
  cluster: TestCluster,
  name: string,
  mib: number,
  flags: readonly string[] = [],
): Promise<{ uri: string; content: Uint8Array }> {
  const content = randomBytes(mib * MIB, mib + flags.length);
  const path = cluster.path(`${name.replace("/", "-")}.raw`);
  writeFileSync(path, content);
  await cluster.run("image", "create", name, "--size", `${mib}MiB`);
  await succeed(["nbdcopy", ...flags, path, cluster.uri(name)]);
  return { uri: cluster.uri(name), content };
}

/** Make the victim lead a group. */
async function makeLeader(cluster: TestCluster, pg: number): Promise<void> {
  const id = `${pg >>> 16}.${pg & 0xffff}`;
  const words = ["pg", "transfer-leader", id, "--to", String(VICTIM)];
  await waitFor(`${NAME} to lead ${id}`, async () => (await cluster.attempt(...words)).code === 0);
}

/** Replicas are equal, and the store of the stopped victim holds no damage. */
async function expectWhole(cluster: TestCluster, image: string): Promise<void> {
  await waitUntilHealthy(cluster);
  await cluster.run("image", "verify", image);
  await cluster.kill(NAME, "SIGTERM");
  await cluster.run("osd", "fsck", "--data", join(cluster.directory, `${NAME}.img`));
}

/** The scenario around each kind of damage, under a load that verifies every byte. */
async function withDamage(
  image: { readonly flags: readonly string[]; readonly mib: number },
  signal: "SIGTERM" | "SIGKILL",
  body: (cluster: TestCluster, verifier: Verifier) => Promise<void>,
): Promise<void> {
  await withCluster({ osds: 3 }, async (cluster) => {
    await cluster.run("pool", "create", "rbd", "--size", "3");
    const { uri, content } = await filledImage(cluster, "rbd/disk", image.mib, image.flags);
    const verifier = new Verifier(uri, content);
    if (signal === "SIGTERM") await verifier.more();
    await cluster.kill(NAME, signal);
    await body(cluster, verifier);
    await verifier.more();
    await verifier.stop();
    await expectWhole(cluster, "rbd/disk");
  });
}

test("a data block is damaged: it is healed by the first read", async () => {
  await withDamage({ flags: [], mib: 32 }, "SIGTERM", async (cluster, verifier) => {
    const units = await places<PlacedUnit>(cluster, "units");
    expect(units.length).toBeGreaterThan(400);
    // A block of every 16th unit.
    const damaged = units.filter((unit, at) => at % 16 === 0 && unit.dataBits === 0xffff);
    for (const unit of damaged) damage(cluster, unit.offsetBytes + 5 * BLOCK);
    await startDamaged(cluster);
    await waitUntilHealthy(cluster);
    // Where it leads, reads by NBD heal; where it follows, `image verify` does.
    const pgs = [...new Set(damaged.map((unit) => unit.pg))];
    for (const pg of pgs.slice(0, pgs.length / 2)) await makeLeader(cluster, pg);
    await waitFor("a healed block", async () => (await metric(cluster, "blocks_healed_total")) > 0);
    await verifier.more();
    expect(await metric(cluster, "blocks_healed_total")).toBeLessThan(damaged.length);
    await cluster.run("image", "verify", "rbd/disk");
    await waitFor(
      "all blocks to be healed",
      async () => (await metric(cluster, "blocks_healed_total")) === damaged.length,
    );
    expect(await metric(cluster, "checksum_failures_total")).toBeGreaterThanOrEqual(damaged.length);
    expect(await metric(cluster, "osd_blocks_lost")).toBe(0);
  });
});

test("payload in the log is damaged: it is fetched from peers, and the osd leads again", async () => {
  // Small writes lie in the log until they are moved, which begins a second after the last one.
  await withDamage({ flags: ["--request-size=4096"], mib: 8 }, "SIGKILL", async (cluster) => {
    const entries = await places<PlacedEntry>(cluster, "entries");
    const last = Math.max(...entries.map((entry) => entry.seq));
    const wanted = entries.filter(
      // What the last batches hold may be torn, as far as the osd knows: that is cut, not damaged.
      ({ applied, seq, inlineOffsetsBytes: { length } }) =>
        !applied && length > 0 && seq < last - 4,
    );
    expect(wanted.length).toBeGreaterThan(100);
    const damaged = wanted.filter((_, at) => at % Math.floor(wanted.length / 10) === 0);
    for (const entry of damaged) damage(cluster, entry.inlineOffsetsBytes[0]!);
    const faulty = await places<PlacedEntry & { readonly faulty: boolean }>(cluster, "entries");
    expect(faulty.filter((entry) => entry.faulty)).toHaveLength(damaged.length);
    const log = await startDamaged(cluster);
    await waitForLog(log, "payload of entries is damaged in the log");
    await waitForLog(log, "no entry lacks its payload any more");
    await waitFor(
      "all entries to be right",
      async () => (await metric(cluster, "blocks_healed_total")) >= damaged.length,
    );
    await waitFor(
      "none to be left",
      async () => (await metric(cluster, "osd_entries_damaged")) === 0,
    );
    for (const pg of new Set(damaged.map((entry) => entry.pg))) await makeLeader(cluster, pg);
  });
});

test("a page of the index is damaged: the osd refills what it distrusts", async () => {
  await withDamage({ flags: [], mib: 32 }, "SIGTERM", async (cluster, verifier) => {
    const units = await places<PlacedUnit>(cluster, "units");
    damage(cluster, units[Math.floor(units.length / 2)]!.pageOffsetBytes);
    const log = await startDamaged(cluster);
    await waitForLog(log, "the index is damaged, all replicas of the shard are distrusted");
    await waitForLog(log, "replica is filled");
    await verifier.more();
  });
});

test("a batch in the middle of the log is damaged: the osd refills what it distrusts", async () => {
  await withDamage(
    { flags: ["--request-size=4096"], mib: 8 },
    "SIGKILL",
    async (cluster, verifier) => {
      const batches = await places<PlacedBatch>(cluster, "batches");
      expect(batches.length).toBeGreaterThan(20);
      damage(cluster, batches[Math.floor(batches.length / 2)]!.offsetBytes);
      const log = await startDamaged(cluster);
      await waitForLog(log, "the log is damaged, all replicas of the shard are distrusted");
      await waitForLog(log, "replica is filled");
      await verifier.more();
    },
  );
});

test("a block without another copy is damaged: it is refused, named, and whole once written", async () => {
  await withCluster({ osds: 3 }, async (cluster) => {
    await cluster.run("pool", "create", "solo", "--size", "1");
    const { uri } = await filledImage(cluster, "solo/disk", 16);
    await cluster.kill(NAME, "SIGTERM");
    const [unit] = await places<PlacedUnit>(cluster, "units");
    damage(cluster, unit!.offsetBytes + 3 * BLOCK);
    const offset = (unit!.firstBlock + 3) * BLOCK;
    await cluster.restart(NAME);
    const read = (at: number): Promise<string> =>
      succeed(["qemu-io", "-r", "-f", "raw", "-c", `read ${at} ${BLOCK}`, uri]);
    const readFails = (at: number): Promise<string> =>
      read(at).catch((error: Error) => error.message);
    expect(await readFails(offset)).toContain("Input/output error");
    await read(offset - BLOCK);
    await read(offset + BLOCK);
    const check = await waitFor("health to tell", () => healthCheck(cluster, "BLOCKS_LOST"));
    expect(check).toContain("1 block is lost in solo/disk: ");
    expect(check).toContain(`solo/disk at ${offset}: `);
    expect(await metric(cluster, "osd_blocks_lost")).toBe(1);
    const verified = await cluster.attempt("image", "verify", "solo/disk", "-o", "json");
    expect(verified.code).toBe(1);
    expect(verified.stderr).toContain("FB3008");
    expect(JSON.parse(verified.stdout)).toMatchObject({
      equal: true,
      lostBlocks: 1,
      lostOffsets: [offset],
    });
    await succeed(["qemu-io", "-f", "raw", "-c", `write -P 0x5a ${offset} ${BLOCK}`, uri]);
    await succeed(["qemu-io", "-r", "-f", "raw", "-c", `read -P 0x5a ${offset} ${BLOCK}`, uri]);
    await waitUntilHealthy(cluster);
    await cluster.run("image", "verify", "solo/disk");
  });
});
