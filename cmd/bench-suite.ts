import { join } from "node:path";
import {
  type BenchOutside,
  type BenchProgress,
  type BenchRow,
  checkShape,
  fillDisk,
  type ImageBenchOptions,
  type ImageBenchReport,
  runImageBench,
  runSuite,
  type SuiteOptions,
  type SuiteOutside,
  type SuiteReport,
  type SuiteRow,
} from "../core/bench/bench.ts";
import { runFioDisk } from "../core/bench/bun-fio.ts";
import type { CliContext } from "../core/cli/cli.ts";
import { withImages } from "./attach.ts";
import { machineNow, makeImage, OSDS, REPLICAS, withBenchCluster } from "./bench-cluster.ts";
import { benchOutside } from "./bench-outside.ts";

/** `bench suite`: a cluster of its own, all rows on one image of it, and nothing left behind. */
const IMAGE = "bench/suite";

/** Run the rows; the cluster and its directory are gone afterwards. Throws FB1009, FB4008, FB5001. */
export async function suiteBench(
  cli: CliContext,
  program: readonly string[],
  progress: BenchProgress,
  options: SuiteOptions,
): Promise<SuiteReport> {
  for (const row of options.rows) checkRow(row, options.imageBytes);
  return await withBenchCluster(program, options, async (directory) => {
    await makeImage(program, directory, IMAGE, options.imageBytes);
    return await measure(cli, directory, progress, options);
  });
}

function checkRow(row: SuiteRow, imageBytes: number): void {
  const { rw, blockBytes, depth } = row;
  const once = { jobs: 1, verify: false, history: false };
  checkShape({ rw, blockBytes, depth, rangeBytes: imageBytes, ...once });
}

async function measure(
  cli: CliContext,
  directory: string,
  progress: BenchProgress,
  options: SuiteOptions,
): Promise<SuiteReport> {
  const { backend } = options;
  const { timeoutMs } = cli.globals;
  const attach = { cluster: directory, paths: [IMAGE], readOnly: false, backend, timeoutMs };
  return await withImages(attach, async ([image], world) => {
    if (image === undefined) throw new Error("no image was opened");
    // The cluster was started with the same choice on the same machine: one back end.
    const outside = benchOutside(directory, world, image, progress);
    const bench = new SuiteBench(cli, join(directory, "raw.img"), outside, options);
    await bench.prepare();
    const rows = await runSuite(bench, options);
    return {
      kind: "suite",
      machine: machineNow(),
      version: cli.ports.versions["fastblock"] ?? "",
      osds: OSDS,
      replicas: REPLICAS,
      imageBytes: options.imageBytes,
      seconds: options.timeMs / 1000,
      repeat: options.repeat,
      backend: world.backend,
      rows,
    };
  });
}

/** One image, and a file beside the osds' for fio. */
class SuiteBench implements SuiteOutside {
  private readonly cli: CliContext;
  private readonly rawPath: string;
  private readonly outside: BenchOutside;
  private readonly options: SuiteOptions;
  private rawDirect = true;
  private filled = false;

  constructor(cli: CliContext, rawPath: string, outside: BenchOutside, options: SuiteOptions) {
    this.cli = cli;
    this.rawPath = rawPath;
    this.outside = outside;
    this.options = options;
  }

  /** Write fio's file in full: into holes a file system writes in another way. */
  async prepare(): Promise<void> {
    if (!this.options.fio || Bun.which("fio") === null) return;
    const { world } = this.outside;
    const disk = world.disks.open(this.rawPath, { createBytes: this.options.imageBytes });
    await fillDisk(world, disk);
    this.rawDirect = disk.direct;
    disk.close();
  }

  async image(row: SuiteRow, timeMs: number): Promise<ImageBenchReport> {
    const fill = this.filled ? "never" : "always";
    this.filled = true;
    return await runImageBench(this.outside, { ...this.baseOptions(), ...row, timeMs, fill });
  }

  async raw(row: SuiteRow): Promise<BenchRow | undefined> {
    const isRead = row.rw === "read" || row.rw === "randread";
    const raw = await runFioDisk(this.rawPath, this.options.imageBytes, this.rawDirect, {
      verb: isRead ? "read" : "writeDurable",
      depth: row.depth,
      blockBytes: row.blockBytes,
      durationMs: this.options.timeMs,
      sequential: row.rw === "read" || row.rw === "write",
    });
    if (raw === undefined || "opsPerSecond" in raw) return raw;
    this.say(`${raw.name}: ${raw.note}`);
    return undefined;
  }

  say(words: string): void {
    this.cli.say(words);
  }

  private baseOptions(): Omit<
    ImageBenchOptions,
    "rw" | "blockBytes" | "depth" | "timeMs" | "fill"
  > {
    return {
      cluster: "",
      path: IMAGE,
      jobs: 1,
      rampMs: this.options.rampMs,
      readPercent: 0,
      verify: false,
      drain: true,
      rangeBytes: 0,
      seed: 1,
      historyPath: "",
      backend: this.options.backend,
      timeoutMs: this.cli.globals.timeoutMs,
      progress: this.cli.progress,
    };
  }
}
