import { expect, test } from "bun:test";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { EXECUTABLE, succeed } from "./e2e-harness.ts";

/** What writers feel of processes that go and come back is measured in one run. */

interface Report {
  readonly kind: string;
  readonly rows: readonly {
    readonly event: string;
    readonly ownMs: readonly number[];
    readonly elsewhereMs: readonly number[];
  }[];
  readonly bars: readonly { readonly verdict: string }[];
}

test("bench pauses takes processes away and brings them back, and leaves nothing behind", async () => {
  const folder = mkdtempSync(join(tmpdir(), "fastblock e2e "));
  try {
    const directory = join(folder, "cluster dir");
    const shape = ["--times", "1", "--warm-up", "1s", "-o", "json"];
    const text = await succeed([EXECUTABLE, "bench", "pauses", "--dir", directory, ...shape]);
    const report = JSON.parse(text) as Report;
    expect(report.kind).toBe("pauses");
    const events = ["kill", "kill-back", "stop", "stop-back", "freeze", "mon"];
    expect(report.rows.map(({ event }) => event)).toEqual(events);
    for (const { ownMs, elsewhereMs } of report.rows) {
      expect([ownMs.length, elsewhereMs.length]).toEqual([1, 1]);
      expect(Math.min(...ownMs, ...elsewhereMs)).toBeGreaterThan(0);
    }
    // A group without its leader elects another one: no sooner than that is missed, and none else waits for it.
    const [killed] = report.rows;
    expect(killed!.ownMs[0]!).toBeGreaterThan(200);
    expect(report.bars).toHaveLength(13);
    expect(report.bars.map(({ verdict }) => verdict)).not.toContain("not measured");
    expect(existsSync(directory)).toBe(false);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}, 240_000);
