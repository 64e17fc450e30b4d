import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { cpuTimes } from "../../ffi/libc/libc.ts";
import { silentLogger } from "../base/logger.ts";
import { createUringWorld } from "../reactor/uring-world.ts";
import type { CpuClock } from "./bench-row.ts";
import type { FullStoreBenchOptions, MicroRow, StoreBenchOptions } from "./bench.ts";
import { fullStoreBytesOf, judgeFullStore, runFullStoreBench } from "./full-store-bench.ts";
import { judgePagedStore, pagedStoreBytesOf, runPagedStoreBench } from "./paged-store-bench.ts";
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
/** 65,536 units in 4,096 pages, and a log of 16 MiB. */
const FULL_OPTIONS: FullStoreBenchOptions = {
  path: "",
  imageBytes: 4096 * MIB,
  depth: 32,
  logTurns: 3,
  backend: "auto",
};

/** Different pages among so many random ones of 4,096, for each. */
function pagesPerWrite(writes: number): number {
  return (4096 / writes) * (1 - Math.exp(-writes / 4096));
}

describe("writes to a local store", () => {
  const directory = mkdtempSync(join(tmpdir(), "fastblock-bench-"));
  const world = createUringWorld({ arenaBytes: 256 * MIB, logger: silentLogger });
  const cpu: CpuClock = { read: () => cpuTimes("process") };
  world.start();
  afterAll(async () => {
    await world.stop();
    rmSync(directory, { recursive: true, force: true });
  });

  test("each unit is copied once for every snapshot, and none without", async () => {
    const createBytes = storeBytesOf(OPTIONS);
    const disk = world.disks.open(join(directory, "snapshots"), { createBytes });
    const [without, withSnapshots] = await runStoreBench(world, disk, OPTIONS, cpu);
    expect(without!.name).toBe("without snapshots");
    expect(without!.iops!).toBeGreaterThan(0);
    expect(without!["unitsCopied"]).toBe(0);
    expect(without!["systemUsPerIo"]).toBeGreaterThan(0);
    expect(without!.cpuUsPerIo!).toBeGreaterThan(Number(without!["systemUsPerIo"]));
    expect(withSnapshots!.name).toBe("a snapshot every 0.1 s");
    expect(withSnapshots!.iops!).toBeGreaterThan(0);
    expect(withSnapshots!.latencyUs!.p50).toBeLessThanOrEqual(withSnapshots!.latencyUs!.p99);
    // Two turns are measured; 4 MiB are 64 units.
    expect(withSnapshots!["unitsCopied"]).toBeGreaterThan(0);
    expect(withSnapshots!["unitsCopied"]).toBeLessThanOrEqual(2 * 64);
  }, 60_000);

  test("a paged one loads an index page for nearly every read", async () => {
    const options = {
      path: "",
      imageBytes: 64 * MIB,
      depth: 8,
      timeMs: 800,
      backend: "auto",
    } as const;
    const createBytes = pagedStoreBytesOf(options);
    const disk = world.disks.open(join(directory, "paged"), { createBytes });
    const cpu = { read: () => ({ userUs: performance.now() * 1000, systemUs: 0 }) };
    const rows = await runPagedStoreBench(world, disk, options, cpu);
    const [bare, paged] = rows;
    expect(bare!.iops!).toBeGreaterThan(0);
    expect(paged!.iops!).toBeGreaterThan(0);
    expect(paged!["loadsPerRead"]).toBeGreaterThan(0.7);
    expect(paged!["loadsPerRead"]).toBeLessThanOrEqual(1.01);
    expect(judgePagedStore(rows).seen!).toBeCloseTo(paged!.iops! / bare!.iops!, 2);
  }, 60_000);

  test("all over a full one, each costs itself twice and most of an index page", async () => {
    const disk = world.disks.open(join(directory, "full"), {
      createBytes: fullStoreBytesOf(FULL_OPTIONS),
    });
    const row = await runFullStoreBench(world, disk, FULL_OPTIONS);
    const { log, home, index, checkpoints } = row["parts"] as Readonly<Record<string, number>>;
    // A block of header for 35 writes at most; the empty batches that vouch for others are few.
    expect(log).toBeWithin(1 + 1 / 35, 1.3);
    // All but what is written twice before it moves: a few in a thousand.
    expect(home).toBeWithin(0.98, 1.0001);
    expect(index).toBeWithin(0.6, 1);
    const perCheckpoint = (row["writes"] as number) / (row["checkpoints"] as number);
    expect(index! - pagesPerWrite(perCheckpoint)).toBeWithin(-0.1, 0.1);
    // 22,272 B of crcs, a header, behind some thousand writes of 4 KiB.
    expect(checkpoints).toBeWithin(0.001, 0.02);
    expect(row["deviceBytesPerClientByte"]).toBeCloseTo(log! + home! + index! + checkpoints!, 2);
    expect(row["logTurns"]).toBeWithin(3, 3.5);
    expect(row.iops).toBeNull();
    expect(judgeFullStore(row)).toMatchObject({ verdict: "pass", seen: expect.any(Number) });
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

test.each([
  [3.1, 3.1, "pass"],
  [3.101, 3.101, "FAIL"],
  [undefined, null, "not measured"],
] as const)("%p device bytes per client byte: %p, %s", (deviceBytes, seen, verdict) => {
  const row = { deviceBytesPerClientByte: deviceBytes } as unknown as MicroRow;
  expect(judgeFullStore(row)).toMatchObject({ seen, verdict, bound: "at most", wanted: 3.1 });
  expect(judgeFullStore(undefined).verdict).toBe("not measured");
});
