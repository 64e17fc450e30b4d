import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { silentLogger } from "../base/logger.ts";
import { createUringWorld } from "../reactor/uring-world.ts";
import type { MicroRow, StoreBenchOptions } from "./bench.ts";
import { judgeStore, runStoreBench, storeBytesOf } from "./store-bench.ts";

const MIB = 1_048_576;
const OPTIONS: StoreBenchOptions = {
  path: "",
  imageBytes: 4 * MIB,
  depth: 16,
  timeMs: 400,
  snapshotMs: 100,
  backend: "auto",
};

describe("writes to a store with snapshots", () => {
  const directory = mkdtempSync(join(tmpdir(), "fastblock-bench-"));
  const world = createUringWorld({ arenaBytes: 256 * MIB, logger: silentLogger });
  world.start();
  afterAll(async () => {
    await world.stop();
    rmSync(directory, { recursive: true, force: true });
  });

  test("each unit is copied once for every snapshot, and none without", async () => {
    const createBytes = storeBytesOf(OPTIONS);
    const disk = world.disks.open(join(directory, "store"), { createBytes });
    const [without, withSnapshots] = await runStoreBench(world, disk, OPTIONS);
    expect(without!.name).toBe("without snapshots");
    expect(without!.iops!).toBeGreaterThan(0);
    expect(without!["unitsCopied"]).toBe(0);
    expect(withSnapshots!.name).toBe("a snapshot every 0.1 s");
    expect(withSnapshots!.iops!).toBeGreaterThan(0);
    expect(withSnapshots!.latencyUs!.p50).toBeLessThanOrEqual(withSnapshots!.latencyUs!.p99);
    // Two turns are measured; 4 MiB are 64 units.
    expect(withSnapshots!["unitsCopied"]).toBeGreaterThan(0);
    expect(withSnapshots!["unitsCopied"]).toBeLessThanOrEqual(2 * 64);
  }, 60_000);
});

test.each([
  [1000, 600, 0.6, "pass"],
  [1000, 599, 0.599, "FAIL"],
  [0, 0, null, "not measured"],
] as const)("%d I/O per s without, %d with snapshots: %p, %s", (without, within, seen, verdict) => {
  const rows = [without, within].map((iops) => ({ iops }) as MicroRow);
  expect(judgeStore(rows)).toMatchObject({ seen, verdict, bound: "at least", wanted: 0.6 });
});
