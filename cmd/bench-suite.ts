import { join } from "node:path";
import {
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
import { BunMeter } from "../core/bench/bun-meter.ts";
import type { CliContext } from "../core/cli/cli.ts";
import type { Image } from "../core/client/client.ts";
import type { World } from "../core/reactor/world.ts";
import { withImages } from "./attach.ts";
import { machineNow, makeImage, OSDS, REPLICAS, withBenchCluster } from "./bench-cluster.ts";
import { readClusterFile } from "./daemon.ts";

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
    const bench = new SuiteBench(cli, directory, progress, world, image, options);
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
  private readonly progress: BenchProgress;
  private readonly world: World;
  private readonly image_: Image;
  private readonly options: SuiteOptions;
  private readonly meter: BunMeter;
  private readonly rawPath: string;
  private rawDirect = true;
  private filled = false;

  constructor(
    cli: CliContext,
    directory: string,
    progress: BenchProgress,
    world: World,
    image: Image,
    options: SuiteOptions,
  ) {
    this.cli = cli;
    this.progress = progress;
    this.world = world;
    this.image_ = image;
    this.options = options;
    const mon = readClusterFile(directory).mons[0];
    const http = mon === undefined ? "" : `http://${mon.http.host}:${mon.http.port}`;
    this.meter = new BunMeter(directory, http);
    this.rawPath = join(directory, "raw.img");
  }

  /** Write fio's file in full: into holes a file system writes in another way. */
  async prepare(): Promise<void> {
    if (!this.options.fio || Bun.which("fio") === null) return;
    const disk = this.world.disks.open(this.rawPath, { createBytes: this.options.imageBytes });
    await fillDisk(this.world, disk);
    this.rawDirect = disk.direct;
    disk.close();
  }

  async image(row: SuiteRow, timeMs: number): Promise<ImageBenchReport> {
    const { world, image_: image, meter, progress } = this;
    const fill = this.filled ? "never" : "always";
    this.filled = true;
    // The cluster was started with the same choice on the same machine.
    const { backend } = world;
    const copies = image.replicasAt(0).length;
    const outside = {
      world,
      image,
      imageId: image.id,
      copies,
      meter,
      backend,
      progress,
      log: null,
    };
    return await runImageBench(outside, { ...this.baseOptions(), ...row, timeMs, fill });
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
