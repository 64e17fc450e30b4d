import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { cpus, release, totalmem } from "node:os";
import { join, resolve } from "node:path";
import { FastblockError } from "../core/base/errors.ts";
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
import { runCommand } from "../core/dev/bun-demo.ts";
import { childEnvironment, lastLines } from "../core/dev/bun-processes.ts";
import { Interruption } from "../core/dev/bun-start.ts";
import { STARTED_BY } from "../core/dev/dev.ts";
import type { World } from "../core/reactor/world.ts";
import { withImages } from "./attach.ts";
import { readClusterFile } from "./daemon.ts";

/** `bench suite`: a cluster of its own, all rows on one image of it, and nothing left behind. */
const OSDS = 3;
const REPLICAS = 3;
const POOL = "bench";
const IMAGE = "bench/suite";
const INTERRUPTED_EXIT = 130;

/** Run the rows; the cluster and its directory are gone afterwards. Throws FB1009, FB4008, FB5001. */
export async function suiteBench(
  cli: CliContext,
  program: readonly string[],
  progress: BenchProgress,
  options: SuiteOptions,
): Promise<SuiteReport> {
  for (const row of options.rows) checkRow(row, options.imageBytes);
  const directory = makeDirectory(options.directory);
  const interruption = new Interruption();
  let cluster: ChildProcess | undefined;
  try {
    cluster = startCluster(program, directory, options);
    const started = cluster;
    const run = async (): Promise<SuiteReport> => {
      await serving(started);
      await makeImage(program, directory, options.imageBytes);
      return await measure(cli, directory, progress, options);
    };
    const end = await Promise.race([run(), interrupted(interruption)]);
    if (end !== undefined) return end;
  } finally {
    if (cluster !== undefined) await stopCluster(cluster);
    rmSync(directory, { recursive: true, force: true });
  }
  process.exit(INTERRUPTED_EXIT);
}

function checkRow(row: SuiteRow, imageBytes: number): void {
  const { rw, blockBytes, depth } = row;
  const once = { jobs: 1, verify: false, history: false };
  checkShape({ rw, blockBytes, depth, rangeBytes: imageBytes, ...once });
}

function makeDirectory(given: string): string {
  if (given === "") return mkdtempSync(join(process.cwd(), "fastblock-suite-"));
  const directory = resolve(given);
  if (existsSync(directory) && readdirSync(directory).length > 0) {
    const message = `starting a cluster in ${directory}: it is not empty, wanted an empty directory`;
    throw new FastblockError("FB4008", message, { hint: "name one that does not exist" });
  }
  mkdirSync(directory, { recursive: true });
  return directory;
}

/** In the foreground: it ends with us, whatever happens to us. */
function startCluster(
  program: readonly string[],
  directory: string,
  options: SuiteOptions,
): ChildProcess {
  const [executable, ...first] = program;
  const words = ["dev", "up", "--dir", directory, "--osds", String(OSDS), "--nbd", "0"];
  return spawn(executable!, [...first, ...words, "--backend", options.backend], {
    cwd: "/",
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...childEnvironment(), [STARTED_BY]: String(process.pid) },
  });
}

/** Resolves when the cluster tells its addresses. Rejects with FB1009 when it ends before. */
function serving(cluster: ChildProcess): Promise<void> {
  return new Promise((done, refuse) => {
    let text = "";
    cluster.stderr!.on("data", (bytes: Buffer) => {
      text += bytes.toString();
    });
    cluster.stdout!.on("data", () => done());
    cluster.on("error", refuse);
    cluster.on("close", (code) => {
      const message = `starting a cluster: exit code ${String(code)}, wanted one that serves`;
      refuse(new FastblockError("FB1009", message, { why: lastLines(text) }));
    });
  });
}

async function stopCluster(cluster: ChildProcess): Promise<void> {
  if (cluster.exitCode !== null || cluster.signalCode !== null) return;
  const ended = new Promise<void>((done) => cluster.on("close", () => done()));
  cluster.kill("SIGTERM");
  await ended;
}

function interrupted(interruption: Interruption): Promise<undefined> {
  return new Promise((done) => interruption.tell(() => done(undefined)));
}

async function makeImage(
  program: readonly string[],
  directory: string,
  imageBytes: number,
): Promise<void> {
  const steps = [
    ["pool", "create", POOL, "--size", String(REPLICAS)],
    ["image", "create", IMAGE, "--size", String(imageBytes)],
  ];
  for (const step of steps) {
    const { code, text } = await runCommand(program, [...step, "--cluster", directory]);
    if (code === 0) continue;
    const message = `preparing ${IMAGE}: exit code ${code} of ${step.join(" ")}`;
    throw new FastblockError("FB5001", message, { why: lastLines(text) });
  }
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
    const fill = !this.filled;
    this.filled = true;
    // The cluster was started with the same choice on the same machine.
    const { backend } = world;
    const outside = { world, image, imageId: image.id, meter, backend, progress, log: null };
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

function machineNow(): Readonly<Record<string, string | number>> {
  const all = cpus();
  return {
    cores: all.length,
    processor: all[0]?.model ?? "",
    memoryBytes: totalmem(),
    kernel: release(),
  };
}
