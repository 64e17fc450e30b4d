import { expect, test } from "bun:test";
import { waitFor, withCluster, WriteCounter, expectWithin } from "./e2e-harness.ts";

const MIB = 1024 ** 2;
/** G14. */
const PROMISED_MS = 5000;
/** Of the log of 1 GiB: as full as this load keeps it, while the mover brings home what is older. */
const FILLED_BYTES = 256 * MIB;

interface OsdRow {
  readonly id: number;
  readonly logCapacityBytes: number;
  readonly logUsedBytes: number;
}

test("G14: an osd that is killed with a log of 1 GiB in use serves again within five seconds", async () => {
  // A sixteenth of a store is log.
  await withCluster({ osds: 3, flags: ["--osd-size", "16GiB"] }, async (cluster) => {
    await cluster.image("rbd/disk", "1GiB", 3);
    const load = cluster.attempt(
      ...["bench", "image", "rbd/disk", "--rw", "randwrite", "--bs", "32KiB", "--depth", "32"],
      ...["--time", "30s", "-o", "json"],
    );
    const used = await waitFor("the logs to fill", async () => {
      const rows = await cluster.json<OsdRow[]>("osd", "ls");
      for (const { logCapacityBytes } of rows) expect(logCapacityBytes).toBeGreaterThan(900 * MIB);
      const least = Math.min(...rows.map(({ logUsedBytes }) => logUsedBytes));
      return least > FILLED_BYTES ? least : undefined;
    });
    const writes = new WriteCounter(cluster);
    const tookMs: number[] = [];
    for (const name of ["osd.0", "osd.1", "osd.2"]) {
      await cluster.kill(name, "SIGKILL");
      const beganMs = performance.now();
      await cluster.restart(name);
      tookMs.push(Math.round(performance.now() - beganMs));
      await writes.more(100);
    }
    console.log(`${Math.round(used / MIB)} MiB of log: back after ${tookMs.join(", ")} ms`);
    // A machine that stands still for seconds does so once.
    const middle = tookMs.sort((a, b) => a - b)[1]!;
    expectWithin("an osd with a full log to serve", middle, PROMISED_MS);
    const { code, stderr } = await load;
    expect(`${code} ${stderr}`).toBe("0 ");
  });
});
