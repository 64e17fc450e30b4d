import { expect, test } from "bun:test";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { EXECUTABLE, succeed } from "./e2e-harness.ts";

/** What clients feel of an osd that gets all its data on an empty disk is measured in one run. */

interface Report {
  readonly kind: string;
  readonly rows: readonly {
    readonly name: string;
    readonly latencyUs: { readonly p99: number };
    readonly latencyUsDuring: { readonly p99: number };
    readonly p99Ratio: number;
    readonly bytesPerSecDuring: number;
    readonly amplification: number | null;
  }[];
}

test("bench recovery brings an osd back under load, compares, and leaves nothing behind", async () => {
  const folder = mkdtempSync(join(tmpdir(), "fastblock e2e "));
  try {
    const directory = join(folder, "cluster dir");
    const shape = ["--speeds", "high", "--causes", "disk", "--image-size", "64MiB", "--depth", "4"];
    const text = await succeed([
      ...[EXECUTABLE, "bench", "recovery", "--dir", directory, ...shape, "--osd-size", "1GiB"],
      ...["--warm-up", "500ms", "--time", "2s", "--ramp", "100ms", "-o", "json"],
    ]);
    const report = JSON.parse(text) as Report;
    expect([report.kind, report.rows.map(({ name }) => name)]).toEqual(["recovery", ["high disk"]]);
    const row = report.rows[0]!;
    expect(row.p99Ratio).toBeCloseTo(row.latencyUsDuring.p99 / row.latencyUs.p99, 1);
    expect(row.bytesPerSecDuring).toBeGreaterThan(0);
    // Clients wrote on: blocks that they wrote again may have been fetched in vain.
    expect(row.amplification).toBeGreaterThanOrEqual(1);
    expect(row.amplification).toBeLessThan(1.2);
    expect(existsSync(directory)).toBe(false);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}, 240_000);
