import { expect, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestCluster, waitFor, withCluster } from "./e2e-harness.ts";

const IMAGE = "rbd/disk";
const OSDS = ["osd.0", "osd.1", "osd.2"];
/** Of rows, 10 bytes a block: the image's 768 MiB have 1.9 MiB of them. */
const MEMORY_BYTES = 1_048_576;
/** A sweep of the mover holds 256 units and their bases; the page writer 64 pages: 2.5 KiB each. */
const HELD_BYTES = (2 * 256 + 64) * 2560;
/** With less an osd was not short of memory. */
const TURNED_MIN = 200;

/** As an administrator would: in the file that starts it. */
function bound(cluster: TestCluster, name: string): void {
  const start = join(cluster.directory, `${name}.start`);
  const text = readFileSync(start, "utf8").trimEnd();
  writeFileSync(start, `${text} --index-memory ${MEMORY_BYTES / 1024}KiB\n`);
}

/** The least, and the most, of a figure that every osd tells. */
async function figure(
  cluster: TestCluster,
  name: string,
): Promise<{ least: number; most: number }> {
  const answer = await fetch(`http://127.0.0.1:${cluster.port("mon.a", "http")}/metrics`);
  const rows = [
    ...(await answer.text()).matchAll(new RegExp(`^fastblock_${name}.* (\\d+)$`, "gm")),
  ];
  const figures = rows.map((row) => Number(row[1]));
  expect(figures).toHaveLength(OSDS.length);
  return { least: Math.min(...figures), most: Math.max(...figures) };
}

test("G1, G15: osds whose index is not all in memory serve, die and come back", async () => {
  await withCluster({ osds: 3, flags: ["--osd-size", "4GiB"] }, async (cluster) => {
    const little = await cluster.attempt("osd", "run", "--data", "x", "--index-memory", "1KiB");
    expect([little.code, little.stderr]).toEqual([2, expect.stringContaining("1MiB or more")]);
    for (const name of OSDS) {
      bound(cluster, name);
      await cluster.kill(name, "SIGTERM");
      await cluster.restart(name);
    }
    await cluster.image(IMAGE, "768MiB", 3);
    const load = async (...words: readonly string[]): Promise<void> => {
      await cluster.run("bench", "image", IMAGE, ...words, "--depth", "16", "--time", "4s");
    };
    await load("--rw", "randwrite", "--bs", "4KiB");
    await load("--rw", "randread", "--bs", "4KiB");
    const loads = await waitFor("pages to be loaded", async () => {
      const { least } = await figure(cluster, "index_loads_total");
      return least > TURNED_MIN ? least : undefined;
    });
    const evictions = (await figure(cluster, "index_evictions_total")).least;
    expect(evictions).toBeGreaterThan(TURNED_MIN);
    const used = async (): Promise<number> =>
      (await figure(cluster, 'index_memory_bytes[^\\n]*state="used"')).most;
    console.log(`${loads} loads, ${evictions} evictions, ${await used()} bytes`);
    expect(await used()).toBeLessThanOrEqual(MEMORY_BYTES + HELD_BYTES);
    // Whole units, so that redo meets rows that no page has.
    const writing = cluster.attempt(
      ...["bench", "image", IMAGE, "--rw", "randwrite", "--bs", "64KiB", "--depth", "16"],
      ...["--time", "12s"],
    );
    for (const name of OSDS) {
      await cluster.kill(name, "SIGKILL");
      await cluster.restart(name);
    }
    const { code, stderr } = await writing;
    expect([code, stderr]).toEqual([0, ""]);
    expect(await used()).toBeLessThanOrEqual(MEMORY_BYTES + HELD_BYTES);
    await cluster.run("image", "verify", IMAGE);
    await cluster.run("dev", "down", "--dir", cluster.directory);
    for (const name of OSDS) {
      const data = join(cluster.directory, `${name}.img`);
      expect(await cluster.json<object>("osd", "fsck", "--data", data)).toMatchObject({
        clean: true,
      });
    }
  });
}, 240_000);
