/**
 * What one terminal serves, others start again, add to, stop and remove: each is told what is so.
 */
import { expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { type Subprocess, spawn } from "bun";
import { EXECUTABLE, type TestCluster, waitFor, withCluster } from "./e2e-harness.ts";

/** Small osds: made in a moment. */
const SMALL = ["--osd-size", "300MiB"];
const NAMES = ["mon.a", "osd.0", "nbd.0"];

/** `fastblock dev up` in a terminal of its own. */
class Terminal {
  readonly process: Subprocess<"ignore", "pipe", "pipe">;
  text = "";
  private readonly reading: Promise<unknown>;

  constructor(cluster: TestCluster) {
    this.process = spawn([EXECUTABLE, "dev", "up", "--dir", cluster.directory], {
      cwd: "/",
      stdin: "ignore",
      stdout: "pipe",
      stderr: "pipe",
    });
    const { stdout, stderr } = this.process;
    this.reading = Promise.all([stdout, stderr].map((stream) => this.read(stream)));
  }

  private async read(stream: ReadableStream<Uint8Array>): Promise<void> {
    for await (const bytes of stream) this.text += new TextDecoder().decode(bytes);
  }

  serving(): Promise<unknown> {
    return waitFor("the terminal to serve", () => this.text.includes("Ctrl-C stops it."));
  }

  /** Its exit code, and what it said since `serving`. */
  async ended(): Promise<[number, string]> {
    const code = await this.process.exited;
    await this.reading;
    return [code, this.text.split("Ctrl-C stops it.\n").at(-1)!];
  }
}

function runningOf(cluster: TestCluster): readonly string[] {
  return NAMES.filter((name) => cluster.isRunning(name));
}

test("a cluster that one terminal serves is stopped, taken up and removed by others", async () => {
  await withCluster({ osds: 1, flags: SMALL }, async (cluster) => {
    const { directory } = cluster;
    const dir = ["--dir", directory];

    // It serves without a terminal: whoever comes is told, and takes nothing over.
    const visitor = new Terminal(cluster);
    const [visited] = await visitor.ended();
    const mon = cluster.pid("mon.a");
    expect([visited, visitor.text]).toEqual([
      0,
      expect.stringContaining("it runs already, since "),
    ]);
    expect(visitor.text).toContain(`, without a terminal (its mon is process ${mon})\n`);
    expect(visitor.text).toContain("\nStop it: ");
    const other = await cluster.attempt("dev", "up", ...dir, "--osd-size", "1GiB");
    expect(`${other.code} ${other.stderr}`).toStartWith(
      "2 error FB1001: starting the cluster: its --osd-size is 300 MiB, wanted 1 GiB\n",
    );
    expect(runningOf(cluster)).toEqual(NAMES);
    await cluster.run("dev", "down", ...dir);

    // A second terminal names the first, starts what is missing, and ends without ending anything.
    const first = new Terminal(cluster);
    await first.serving();
    await cluster.kill("nbd.0", "SIGKILL");
    await waitFor("the first terminal to see it", () => first.text.includes("nbd.0 is gone; "));
    const second = new Terminal(cluster);
    const [joined] = await second.ended();
    const by = `by "dev up" in another terminal (process ${first.process.pid})`;
    expect([joined, second.text]).toEqual([0, expect.stringContaining(`, served ${by}`)]);
    expect(second.text).toContain("; started now: nbd.0\n");
    await waitFor("the first terminal to see it", () => first.text.includes("nbd.0 runs again\n"));
    expect(runningOf(cluster)).toEqual(NAMES);

    // Stopped by order: one line, and no process is called gone.
    const said = first.text.length;
    await cluster.run("dev", "down", ...dir);
    const [stopped] = await first.ended();
    const order = "stopped by `fastblock dev down` in another terminal\n";
    expect([stopped, first.text.slice(said)]).toEqual([0, order]);
    expect(runningOf(cluster)).toEqual([]);

    // Whoever starts it anew at once serves it, and what it serves is not stopped by the one before.
    const third = new Terminal(cluster);
    await third.serving();
    await cluster.run("dev", "down", ...dir);
    await cluster.run("dev", "up", ...dir, "--detach");
    expect((await third.ended())[0]).toBe(0);
    expect(runningOf(cluster)).toEqual(NAMES);
    await cluster.run("dev", "down", ...dir);

    const last = new Terminal(cluster);
    await last.serving();
    expect(readFileSync(join(directory, "dev.up.pid"), "utf8")).toBe(`${last.process.pid}\n`);
    await cluster.run("dev", "reset", ...dir, "--yes");
    expect(existsSync(directory)).toBe(false);
    const removed = "removed by `fastblock dev reset` in another terminal\n";
    expect(await last.ended()).toEqual([0, removed]);
  });
}, 120_000);
