import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { succeed, waitFor, withCluster } from "./e2e-harness.ts";

/**
 * Real processes: a trace that is started before a load and shown behind it has all stages of its
 * writes, though the client has ended by then, and they make up the time that the load took.
 */

interface Trace {
  readonly state: string;
  readonly writes: number;
  readonly reads: number;
  readonly partial: number;
  readonly processes: readonly string[];
  readonly stages: readonly {
    readonly kind: string;
    readonly stage: string;
    readonly within: string | null;
    readonly count: number;
    readonly meanUs: number;
    readonly share: number;
  }[];
  readonly slowest: readonly {
    readonly totalUs: number;
    readonly lanes: readonly { readonly role: string; readonly isAligned: boolean }[];
    readonly bars: readonly { readonly stage: string; fromUs: number; toUs: number }[];
  }[];
}

const LOAD = ["--rw", "randrw", "--bs", "4KiB", "--depth", "8", "--time", "3s", "--ramp", "1s"];
const WRITE = ["client", "request", "admit", "replicate", "answer", "reply", "finish"];

test("a trace of a load shows each stage of its writes, as a table and as a picture", async () => {
  await withCluster({}, async (cluster) => {
    const shown = (): Promise<Trace> => cluster.json<Trace>("trace", "show", "--slowest", "5");
    expect((await shown()).state).toBe("never");
    await cluster.run("pool", "create", "demo", "--size", "3");
    await cluster.run("image", "create", "demo/disk1", "--size", "64MiB");
    await cluster.run("trace", "start", "--sample", "20", "--time", "5m");
    await cluster.run("bench", "image", "demo/disk1", ...LOAD);
    await cluster.run("trace", "stop");
    const trace = await waitFor("all rows to be told", async () => {
      const now = await shown();
      const followed = now.stages.find(({ stage }) => stage === "follower-write")?.count ?? 0;
      return now.reads > 0 && followed > now.writes ? now : undefined;
    });
    expect(trace.state).toBe("ended");
    expect(trace.processes).toEqual(expect.arrayContaining(["osd.0", "osd.1", "osd.2"]));
    const writes = trace.stages.filter(({ kind }) => kind === "write");
    const whole = writes.filter(({ within, stage }) => within === null && stage !== "total");
    expect(whole.map(({ stage }) => stage)).toEqual(WRITE);
    expect(whole.reduce((sum, { share }) => sum + share, 0)).toBeCloseTo(1, 2);
    expect(writes.find(({ stage }) => stage === "follower-write")!.count).toBeGreaterThan(
      trace.writes,
    );
    for (const { totalUs, lanes, bars } of trace.slowest) {
      expect(lanes.map(({ role }) => role)).toEqual(["client", "leader", "follower", "follower"]);
      // One machine, one clock.
      expect(lanes.some(({ isAligned }) => isAligned)).toBe(false);
      expect(bars.every(({ fromUs, toUs }) => fromUs >= 0 && toUs >= fromUs)).toBe(true);
      const ends = bars.find(({ stage }) => stage === "finish")!.toUs;
      expect(ends).toBe(totalUs);
    }
    const file = join(cluster.directory, "trace.svg");
    await cluster.run("trace", "show", "--svg", file);
    const svg = readFileSync(file, "utf8");
    for (const text of [
      "Typical write",
      "Slowest write",
      "committed",
      "client",
      "leader",
      "follower",
    ]) {
      expect(svg).toContain(text);
    }
    expect(svg.match(/<text class="faint"[^>]*>follower<\/text>/g)?.length).toBe(4);
    if (Bun.which("xmllint") !== null) await succeed(["xmllint", "--noout", file]);
    expect(await cluster.run("trace", "show")).toMatch(/^OP +STAGE +WHO +COUNT/);
  });
});
