import { expect, test } from "bun:test";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { IdleReport } from "../core/bench/bench.ts";
import { EXECUTABLE, succeed } from "./e2e-harness.ts";

/** What groups cost that nobody uses is measured in one run, and nothing is left behind. */

const GROUPS = 96;
/** Each way a frame of 48 bytes every 100 ms, and two thirds more for what else there is to say. */
const PAIR_BYTES_PER_SEC = [750, 1600] as const;

test("bench idle makes groups, measures them at rest, and takes the cluster away", async () => {
  const folder = mkdtempSync(join(tmpdir(), "fastblock e2e "));
  try {
    const directory = join(folder, "cluster dir");
    const words = ["bench", "idle", "--dir", directory, "--groups", String(GROUPS)];
    const times = ["--time", "5s", "--rest", "25s", "-o", "json"];
    const text = await succeed([EXECUTABLE, ...words, ...times]);
    const report = JSON.parse(text) as IdleReport;
    expect([report.kind, report.osds, report.shards, report.groups]).toEqual([
      "idle",
      3,
      1,
      GROUPS,
    ]);
    const osds = report.rows.filter(({ name }) => name.startsWith("osd."));
    expect(report.rows.map(({ name }) => name)).toEqual(["mon.a", "osd.0", "osd.1", "osd.2"]);
    for (const osd of osds) {
      expect(osd.replicas).toBe(GROUPS);
      expect(osd.cpuShare).toBeGreaterThan(0);
      expect(osd.anonymousBytes).toBeGreaterThan(osd.anonymousBytesBare);
      expect(osd.anonymousBytesBare).toBeGreaterThan(10_000_000);
      if (Bun.which("ss") === null) continue;
      expect(osd.pairBytesPerSec).toBeGreaterThan(PAIR_BYTES_PER_SEC[0]);
      expect(osd.pairBytesPerSec).toBeLessThan(PAIR_BYTES_PER_SEC[1]);
    }
    expect(report.bars.map(({ row, wanted }) => [row, wanted])).toEqual([
      [`idle:${GROUPS}`, 1],
      [`idle:${GROUPS}`, 1024],
      [`idle:${GROUPS}`, 4096],
    ]);
    expect(existsSync(directory)).toBe(false);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}, 240_000);
