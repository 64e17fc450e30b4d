import { expect, test } from "bun:test";
import { closeSync, openSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { randomBytes, succeed, type TestCluster, waitFor, withCluster } from "./e2e-harness.ts";

/**
 * Blocks rot on the device of one osd while nobody reads them (G6, G7): a scrub finds and heals them,
 * and says so; one that no replica has whole is named, until it is written.
 */

const MIB = 1024 * 1024;
const BLOCK = 4096;
const NAMES = ["osd.0", "osd.1", "osd.2"];

interface PlacedUnit {
  readonly pg: number;
  readonly layer: number;
  readonly firstBlock: number;
  readonly dataBits: number;
  readonly offsetBytes: number;
}

interface Scrubbed {
  readonly id: string;
  readonly scrub: {
    readonly running: string | null;
    readonly last: string | null;
    readonly lastDeep: string | null;
    readonly found: number;
    readonly healed: number;
    readonly left: number;
  };
}

function deviceOf(cluster: TestCluster, name: string): string {
  return join(cluster.directory, `${name}.img`);
}

/** Stop an osd in order, look at its units, and start it again. */
async function unitsOf(cluster: TestCluster, name: string): Promise<PlacedUnit[]> {
  await cluster.kill(name, "SIGTERM");
  const words = ["osd", "inspect", "units", "--data", deviceOf(cluster, name)];
  const { units } = await cluster.json<{ units: PlacedUnit[] }>(...words);
  await cluster.restart(name);
  await waitUntilHealthy(cluster);
  return units.filter((unit) => unit.dataBits === 0xffff);
}

/** Write garbage over a block of a device that is in use. */
function rot(cluster: TestCluster, name: string, offsetBytes: number): void {
  const file = openSync(deviceOf(cluster, name), "r+");
  writeSync(file, randomBytes(BLOCK, offsetBytes + 1), 0, BLOCK, offsetBytes);
  closeSync(file);
}

async function waitUntilHealthy(cluster: TestCluster): Promise<void> {
  await waitFor(
    "health to be ok",
    async () => (await cluster.attempt("health", "--check")).code === 0,
  );
}

async function metric(cluster: TestCluster, line: string): Promise<number> {
  const reply = await fetch(`http://127.0.0.1:${cluster.port("mon.a", "http")}/metrics`);
  const text = await reply.text();
  const name = line.split("{")[0]!;
  const label = line.includes("{") ? line.split("{")[1]!.replace("}", "") : "";
  return text
    .split("\n")
    .filter((one) => one.startsWith(`fastblock_${name}{`) && one.includes(label))
    .reduce((sum, one) => sum + Number(one.split(" ").at(-1)), 0);
}

function sum(rows: readonly Scrubbed[], of: "found" | "healed" | "left"): number {
  return rows.reduce((total, { scrub }) => total + scrub[of], 0);
}

test("rot on a running osd is found and healed by a scrub, or named", async () => {
  await withCluster({ osds: 3 }, async (cluster) => {
    await cluster.run("pool", "create", "rbd", "--size", "3");
    await cluster.run("image", "create", "rbd/disk", "--size", "16MiB");
    const path = cluster.path("disk.raw");
    writeFileSync(path, randomBytes(16 * MIB, 7));
    await succeed(["nbdcopy", path, cluster.uri("rbd/disk")]);

    const units = await unitsOf(cluster, "osd.1");
    expect(units.length).toBeGreaterThan(100);
    const damaged = units.filter((_, at) => at % 8 === 0);
    for (const unit of damaged) rot(cluster, "osd.1", unit.offsetBytes + 5 * BLOCK);
    const scrub = ["pg", "scrub", "--all", "-o", "json"];

    // A light one looks at no data.
    expect(sum(await cluster.json<Scrubbed[]>(...scrub), "found")).toBe(0);
    const rows = await cluster.json<Scrubbed[]>(...scrub, "--deep");
    expect([sum(rows, "found"), sum(rows, "healed"), sum(rows, "left")]).toEqual([
      damaged.length,
      damaged.length,
      0,
    ]);
    expect(rows.every(({ scrub: { running, lastDeep } }) => running === null && lastDeep)).toBe(
      true,
    );
    const counted = (kind: string): Promise<number> =>
      metric(cluster, `scrub_errors_total{kind="${kind}"}`);
    await waitFor("counters", async () => (await counted("damaged")) === damaged.length);
    expect([await counted("diverged"), await counted("undecided")]).toEqual([0, 0]);
    expect(await metric(cluster, "scrub_bytes_total")).toBeGreaterThanOrEqual(3 * 16 * MIB);
    await waitFor(
      "healed blocks",
      async () => (await metric(cluster, "blocks_healed_total")) === damaged.length,
    );
    await waitUntilHealthy(cluster);

    await loseOne(cluster, units[1]!);
    await cluster.run("image", "verify", "rbd/disk");
  });
});

/** A block rots everywhere: it is named until it is written. */
async function loseOne(cluster: TestCluster, unit: PlacedUnit): Promise<void> {
  for (const name of NAMES) {
    const all = await unitsOf(cluster, name);
    const same = all.find(
      ({ layer, firstBlock }) => layer === unit.layer && firstBlock === unit.firstBlock,
    );
    rot(cluster, name, same!.offsetBytes);
  }
  const pg = `${unit.pg >>> 16}.${unit.pg & 0xffff}`;
  const failed = await cluster.attempt("pg", "scrub", pg, "--deep");
  expect(failed.code).toBe(1);
  expect(failed.stderr).toContain("FB2204");
  const health = await cluster.attempt("health");
  expect(health.stdout).toContain("error SCRUB_ERRORS");
  expect(health.stdout).toContain(`rbd/disk at ${unit.firstBlock * BLOCK}: block`);
  const at = `${unit.firstBlock * BLOCK} ${BLOCK}`;
  await succeed(["qemu-io", "-f", "raw", "-c", `write -P 0x5a ${at}`, cluster.uri("rbd/disk")]);
  await cluster.run("pg", "scrub", pg, "--deep");
  await waitUntilHealthy(cluster);
}
