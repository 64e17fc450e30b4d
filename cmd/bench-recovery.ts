import { existsSync, rmSync } from "node:fs";
import { join } from "node:path";
import {
  type BenchOutside,
  type BenchProgress,
  checkShape,
  type ImageBenchOptions,
  type ImageBenchReport,
  type RecoveryCause,
  type RecoveryLook,
  type RecoveryOptions,
  type RecoveryOutside,
  type RecoveryReport,
  type RecoverySpeedWord,
  runImageBench,
  runRecovery,
  samplesOf,
} from "../core/bench/bench.ts";
import { FastblockError } from "../core/base/errors.ts";
import type { CliContext } from "../core/cli/cli.ts";
import { readPlan, runningPid } from "../core/dev/bun-processes.ts";
import { withImages } from "./attach.ts";
import { machineNow, makeImage, OSDS, REPLICAS, withBenchCluster } from "./bench-cluster.ts";
import { BenchControl } from "./bench-control.ts";
import { benchOutside } from "./bench-outside.ts";

/** `bench recovery`: a cluster of its own, one image, and an osd that is brought back under load. */
const IMAGE = "bench/recovery";
/** The osd that is brought back. */
const VICTIM = "osd.2";
/** How long the osd is away: what is written meanwhile is still in the log. */
const AWAY_MS = 3000;
/** Writes that go through the log, whatever clients do otherwise. */
const LOG_FILL = { rw: "write", blockBytes: 32_768 } as const;
const LOG_FILL_MS = 2000;

/** Run it; the cluster and its directory are gone afterwards. Throws FB1006, FB1009, FB4008, FB5001. */
export async function recoveryBench(
  cli: CliContext,
  program: readonly string[],
  progress: BenchProgress,
  options: RecoveryOptions,
): Promise<RecoveryReport> {
  const { rw, blockBytes, depth, backend } = options;
  const once = { jobs: 1, verify: false, history: false };
  checkShape({ rw, blockBytes, depth, rangeBytes: options.imageBytes, ...once });
  return await withBenchCluster(program, options, async (directory) => {
    await makeImage(program, directory, IMAGE, options.imageBytes);
    const { timeoutMs } = cli.globals;
    const attach = { cluster: directory, paths: [IMAGE], readOnly: false, backend, timeoutMs };
    return await withImages(attach, async ([image], world) => {
      if (image === undefined) throw new Error("no image was opened");
      const outside = benchOutside(directory, world, image, progress);
      const bench = new RecoveryBench(cli, program, directory, outside, options);
      await bench.prepare();
      const rows = await runRecovery(bench, options);
      return {
        kind: "recovery",
        machine: machineNow(),
        version: cli.ports.versions["fastblock"] ?? "",
        osds: OSDS,
        replicas: REPLICAS,
        imageBytes: options.imageBytes,
        load: `${rw}:${blockBytes}:${depth}`,
        seconds: options.timeMs / 1000,
        backend: world.backend,
        rows,
      };
    });
  });
}

interface RecoveryAnswer {
  readonly replicas: readonly unknown[];
}

interface OsdAnswer {
  readonly logCapacityBytes: number | string;
}

class RecoveryBench implements RecoveryOutside {
  private readonly cli: CliContext;
  private readonly control: BenchControl;
  private readonly directory: string;
  private readonly outside: BenchOutside;
  private readonly options: RecoveryOptions;
  private readonly victim: ReturnType<typeof readPlan>["processes"][number];

  constructor(
    cli: CliContext,
    program: readonly string[],
    directory: string,
    outside: BenchOutside,
    options: RecoveryOptions,
  ) {
    this.cli = cli;
    this.control = new BenchControl(cli, program, directory);
    this.directory = directory;
    this.outside = outside;
    this.options = options;
    this.victim = readPlan(directory).processes.find(({ name }) => name === VICTIM)!;
  }

  /** Write the image in full, and let the processes compile what they run often. */
  async prepare(): Promise<void> {
    this.say("filling the image, warming up");
    await this.run(this.options.warmMs, { fill: "always" });
    // An empty disk would get all that ever was from logs that have not gone round once.
    const { items } = (await this.control.ask("/api/v1/osds")) as { items: readonly OsdAnswer[] };
    const logBytes = Math.max(...items.map((osd) => Number(osd.logCapacityBytes)));
    for (let bytes = 0; bytes < logBytes; ) {
      const report = await this.run(LOG_FILL_MS, { ...LOG_FILL, rampMs: 0 });
      bytes += report.ops * report.blockBytes;
    }
    await this.run(LOG_FILL_MS, { rampMs: 0, drain: true });
    await this.whole();
  }

  async turn(speed: RecoverySpeedWord): Promise<void> {
    await this.turnTo({ speed });
  }

  private async turnTo(wish: Readonly<Record<string, unknown>>): Promise<void> {
    const headers = { "content-type": "application/json" };
    const body = JSON.stringify(wish);
    const reply = await fetch(`${this.control.http}/api/v1/recovery`, {
      method: "PATCH",
      headers,
      body,
    });
    if (reply.ok) return;
    const message = `turning the recovery dial: the mon answered ${reply.status}, wanted 200`;
    throw new FastblockError("FB1003", message);
  }

  load(timeMs: number): Promise<ImageBenchReport> {
    return this.run(timeMs);
  }

  /**
   * Stop the osd while clients write; or start it on an empty disk, until it gets its replicas. That a
   * process starts and compiles its code is none of recovery's.
   */
  async disturb(cause: RecoveryCause): Promise<void> {
    const pid = runningPid(this.victim, this.directory);
    if (cause === "away") {
      process.kill(pid, "SIGSTOP");
      await this.run(AWAY_MS);
      return;
    }
    process.kill(pid, "SIGKILL");
    await this.control.until(`${VICTIM} to end`, () =>
      Promise.resolve(!existsSync(`/proc/${pid}/exe`)),
    );
    rmSync(join(this.directory, this.victim.data));
    await this.turnTo({ paused: true });
    await this.control.up();
    await this.control.until("recovery to wait", async () => (await this.look()).replicas > 0);
  }

  async bringBack(cause: RecoveryCause): Promise<void> {
    if (cause === "away") process.kill(runningPid(this.victim, this.directory), "SIGCONT");
    else await this.turnTo({ paused: false });
  }

  async look(): Promise<RecoveryLook> {
    const { replicas } = (await this.control.ask("/api/v1/recovery")) as RecoveryAnswer;
    const text = await (await fetch(`${this.control.http}/metrics`)).text();
    const sum = (name: string): number =>
      samplesOf(text, name).reduce((total, { value }) => total + value, 0);
    return {
      replicas: replicas.length,
      bytesCopied: sum("fastblock_recovery_bytes_total"),
      bytesDiffering: sum("fastblock_recovery_differing_bytes_total"),
    };
  }

  whole(): Promise<void> {
    return this.control.whole();
  }

  nowMs(): number {
    return performance.now();
  }

  say(words: string): void {
    this.cli.say(words);
  }

  private async run(
    timeMs: number,
    other: Partial<ImageBenchOptions> = {},
  ): Promise<ImageBenchReport> {
    const { options } = this;
    return await runImageBench(this.outside, {
      cluster: "",
      path: IMAGE,
      rw: options.rw,
      blockBytes: options.blockBytes,
      depth: options.depth,
      jobs: 1,
      timeMs,
      rampMs: options.rampMs,
      opsPerSecond: 0,
      readPercent: 50,
      verify: false,
      fill: "never",
      // What waits in the logs is moved home under the load, as ever.
      drain: false,
      rangeBytes: 0,
      seed: 1,
      historyPath: "",
      backend: options.backend,
      timeoutMs: this.cli.globals.timeoutMs,
      progress: this.cli.progress,
      ...other,
    });
  }
}
