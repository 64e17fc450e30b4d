import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { cpus, release, totalmem } from "node:os";
import { join, resolve } from "node:path";
import { FastblockError } from "../core/base/errors.ts";
import { COLLECTIONS_TOLD, withoutCollections } from "../core/bench/bench.ts";
import { runCommand } from "../core/dev/bun-demo.ts";
import { childEnvironment, lastLines } from "../core/dev/bun-processes.ts";
import { Interruption } from "../core/dev/bun-start.ts";
import { STARTED_BY } from "../core/dev/dev.ts";

/** A cluster of a benchmark's own: three osds on this machine, and nothing left behind. */
export const OSDS = 3;
export const REPLICAS = 3;
const INTERRUPTED_EXIT = 130;

export interface BenchClusterOptions {
  /** Empty: a temporary directory here. */
  readonly directory: string;
  readonly backend: "auto" | "uring" | "file";
  /** Of each osd's store. Default: as `dev up` has it. */
  readonly osdBytes?: number;
  /** Reactors of each osd. Default: one. */
  readonly shards?: number;
  /** NBD gateways. Default: none. */
  readonly gateways?: number;
  /** Of the daemons. Default: info. */
  readonly logLevel?: "debug" | "info";
  /** All connections are encrypted. Default: none is. */
  readonly encrypt?: boolean;
}

/** Run `body` on a fresh cluster, which is gone afterwards. Throws FB1009, FB4008. */
export async function withBenchCluster<T>(
  program: readonly string[],
  options: BenchClusterOptions,
  body: (directory: string) => Promise<T>,
): Promise<T> {
  return await withBenchClusters([{ program, folder: "" }], options, ([directory]) =>
    body(directory!),
  );
}

/** A cluster beside others, and the program that runs it. */
export interface BenchSide {
  readonly program: readonly string[];
  /** In the directory of all of them; empty: that directory. */
  readonly folder: string;
}

/**
 * Run `body` on fresh clusters, each in a folder of the directory; all are gone afterwards. `ending` tells
 * `body` that they go: what it has started has to end. Throws FB1009, FB4008.
 */
export async function withBenchClusters<T>(
  sides: readonly BenchSide[],
  options: BenchClusterOptions,
  body: (directories: readonly string[], ending: AbortSignal) => Promise<T>,
): Promise<T> {
  const directory = makeDirectory(options.directory);
  const interruption = new Interruption();
  const ending = new AbortController();
  const clusters: ChildProcess[] = [];
  try {
    const directories = sides.map(({ folder }) => join(directory, folder));
    for (const [at, { program }] of sides.entries()) {
      mkdirSync(directories[at]!, { recursive: true });
      clusters.push(startCluster(program, directories[at]!, options));
    }
    const run = async (): Promise<{ readonly value: T }> => {
      await Promise.all(clusters.map(serving));
      return { value: await body(directories, ending.signal) };
    };
    const end = await Promise.race([run(), interrupted(interruption)]);
    if (end !== undefined) return end.value;
  } finally {
    ending.abort();
    await Promise.all(clusters.map(stopCluster));
    rmSync(directory, { recursive: true, force: true });
  }
  process.exit(INTERRUPTED_EXIT);
}

function makeDirectory(given: string): string {
  if (given === "") return mkdtempSync(join(process.cwd(), "fastblock-bench-"));
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
  options: BenchClusterOptions,
): ChildProcess {
  const [executable, ...first] = program;
  const words = ["dev", "up", "--dir", directory, "--osds", String(OSDS)];
  words.push("--nbd", String(options.gateways ?? 0));
  if (options.logLevel !== undefined) words.push("--log-level", options.logLevel);
  if (options.encrypt === true) words.push("--encrypt");
  if (options.shards !== undefined) words.push("--shards", String(options.shards));
  if (options.osdBytes !== undefined) words.push("--osd-size", String(options.osdBytes));
  return spawn(executable!, [...first, ...words, "--backend", options.backend], {
    cwd: "/",
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...childEnvironment(), ...COLLECTIONS_TOLD, [STARTED_BY]: String(process.pid) },
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
      refuse(new FastblockError("FB1009", message, { why: lastLines(withoutCollections(text)) }));
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

/** An image that has `REPLICAS` replicas, in a pool of its own, of so many groups. Default: as pools are made. */
export async function makeImage(
  program: readonly string[],
  directory: string,
  image: string,
  imageBytes: number,
  groups?: number,
): Promise<void> {
  const shape = ["--size", String(REPLICAS)];
  if (groups !== undefined) shape.push("--pgs", String(groups));
  const steps = [
    ["pool", "create", image.slice(0, image.indexOf("/")), ...shape],
    ["image", "create", image, "--size", String(imageBytes)],
  ];
  for (const step of steps) {
    const { code, text } = await runCommand(program, [...step, "--cluster", directory]);
    if (code === 0) continue;
    const message = `preparing ${image}: exit code ${code} of ${step.join(" ")}`;
    throw new FastblockError("FB5001", message, { why: lastLines(text) });
  }
}

/** What a report says of the machine. */
export function machineNow(): Readonly<Record<string, string | number>> {
  const all = cpus();
  return {
    cores: all.length,
    processor: all[0]?.model ?? "",
    memoryBytes: totalmem(),
    kernel: release(),
  };
}
