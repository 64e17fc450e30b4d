import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { FastblockError } from "../core/base/errors.ts";
import { formatSize } from "../core/base/size-text.ts";
import {
  type BenchPrograms,
  type BenchProgress,
  checkShape,
  type ImageBenchOptions,
  type ImageBenchReport,
  runImageBench,
} from "../core/bench/bench.ts";
import { BunOpLog } from "../core/bench/bun-op-log.ts";
import type { CliContext } from "../core/cli/cli.ts";
import { withImages } from "./attach.ts";
import { duelBench } from "./bench-duel.ts";
import { idleBench } from "./bench-idle.ts";
import { diskBench, reactorBench, rpcBench } from "./bench-micro.ts";
import { benchOutside } from "./bench-outside.ts";
import { pausesBench } from "./bench-pauses.ts";
import { recoveryBench } from "./bench-recovery.ts";
import { fullStoreBench, pagedStoreBench, storeBench } from "./bench-store.ts";
import { unreadable } from "./input-file.ts";
import { suiteBench } from "./bench-suite.ts";

/** The programs of `fastblock bench`, wired to this machine. */
export function benchPrograms(cli: CliContext, program: readonly string[]): BenchPrograms {
  return {
    image: (options) => imageBench(cli, options),
    suite: (options) => suiteBench(cli, program, new BarProgress(cli), options),
    duel: (options) => duelBench(cli, program, options),
    recovery: (options) => recoveryBench(cli, program, new BarProgress(cli), options),
    store: storeBench,
    pagedStore: pagedStoreBench,
    fullStore: fullStoreBench,
    idle: (options) => idleBench(cli, program, options),
    pauses: (options) => pausesBench(cli, program, options),
    disk: diskBench,
    reactor: (options) => reactorBench(options, program),
    rpc: (options) => rpcBench(options, program),
    readReport: (path) => Promise.resolve(readReport(path)),
  };
}

async function imageBench(cli: CliContext, options: ImageBenchOptions): Promise<ImageBenchReport> {
  const directory = resolve(options.cluster);
  const attach = {
    cluster: directory,
    paths: [options.path],
    readOnly: false,
    backend: options.backend,
    timeoutMs: options.timeoutMs,
  };
  return await withImages(attach, async ([image], world) => {
    if (image === undefined) throw new Error("no image was opened");
    const { rangeBytes } = options;
    if (rangeBytes > image.sizeBytes) {
      const sizes = `${formatSize(rangeBytes)}, wanted at most its ${formatSize(image.sizeBytes)}`;
      throw new FastblockError("FB1001", `bench on ${options.path}: --range ${sizes}`);
    }
    checkShape({
      rw: options.rw,
      blockBytes: options.blockBytes,
      depth: options.depth,
      jobs: options.jobs,
      verify: options.verify,
      history: options.historyPath !== "",
      rangeBytes: rangeBytes === 0 ? image.sizeBytes : rangeBytes,
    });
    const backend = await cli.backendWith(world.backend);
    const log = options.historyPath === "" ? null : new BunOpLog(options.historyPath);
    const progress = new BarProgress(cli);
    const outside = benchOutside(directory, world, image, progress);
    try {
      return await runImageBench({ ...outside, backend, log }, options);
    } finally {
      progress.end();
      log?.close();
    }
  });
}

/** One bar per phase. */
class BarProgress implements BenchProgress {
  private readonly cli: CliContext;
  private bar: Awaited<ReturnType<CliContext["bar"]>> | undefined;
  private phase = 0;
  private total = 1;

  constructor(cli: CliContext) {
    this.cli = cli;
  }

  begin(phase: string, total: number): void {
    this.end();
    this.total = Math.max(1, total);
    const wanted = this.phase;
    this.cli.bar(phase).then(
      (bar) => {
        if (this.phase === wanted) this.bar = bar;
      },
      () => undefined,
    );
  }

  at(done: number, note: string): void {
    this.bar?.at(done, this.total, note);
  }

  end(): void {
    this.phase++;
    this.bar?.end();
    this.bar = undefined;
  }
}

function readReport(path: string): unknown {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    throw unreadable(path, error);
  }
  try {
    return JSON.parse(text);
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new FastblockError("FB1001", `reading ${path}: ${why}, wanted JSON of bench -o json`);
  }
}
