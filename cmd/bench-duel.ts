import { accessSync, constants } from "node:fs";
import { resolve } from "node:path";
import { type ErrorCode, ERRORS, FastblockError } from "../core/base/errors.ts";
import {
  type DuelOptions,
  type DuelOutside,
  type DuelReport,
  type DuelRun,
  type ImageBenchReport,
  runDuel,
  type Sides,
  type SuiteRow,
} from "../core/bench/bench.ts";
import type { CliContext } from "../core/cli/cli.ts";
import { childEnvironment, lastLines } from "../core/dev/bun-processes.ts";
import { OSD_BYTES_DEFAULT } from "../core/dev/dev.ts";
import { machineNow, makeImage, OSDS, REPLICAS, withBenchClusters } from "./bench-cluster.ts";
import { checkRow } from "./bench-suite.ts";
import { unreadable } from "./input-file.ts";

/** `bench duel`: a cluster of each of two builds, loaded at the same time, and nothing left behind. */
const IMAGE = "bench/duel";
const FILL = { rw: "write", blockBytes: 131_072, depth: 16 } as const;
const FILL_MS = 100;
const NOT_TOLD = { compileUsPerIo: 0 };
/** For a program that is asked for its version: it may be any. */
const VERSION_MS_MAX = 20_000;

/** Run it; both clusters are gone afterwards. Throws FB1001, FB1006, FB1008, FB1009, FB1014, FB4008, FB5001, FB5002. */
export async function duelBench(
  cli: CliContext,
  program: readonly string[],
  options: DuelOptions,
): Promise<DuelReport> {
  for (const row of options.rows) checkRow(row, options.imageBytes);
  const { versions } = cli.ports;
  const other = resolve(options.other);
  const otherVersions = await versionsOf(other);
  const sides = [
    { program, folder: "this" },
    { program: [other], folder: "other" },
  ];
  const cluster = { ...options, osdBytes: OSD_BYTES_DEFAULT };
  const rows = await withBenchClusters(sides, cluster, async (directories, ending) => {
    const ends = sides.map((side, at) => ({ ...side, directory: directories[at]! }));
    const [ours, others] = [ends[0]!, ends[1]!];
    const duel = new Duel(cli, options, { this: ours, other: others }, ending);
    await duel.prepare();
    return await runDuel(duel, options);
  });
  return {
    kind: "duel",
    machine: machineNow(),
    versions: { this: versions["fastblock"] ?? "", other: otherVersions.fastblock },
    builds: { this: versions["build"] ?? "", other: otherVersions.build },
    other,
    osds: OSDS,
    replicas: REPLICAS,
    imageBytes: options.imageBytes,
    seconds: options.timeMs / 1000,
    rounds: options.rounds,
    rows,
  };
}

/** One build, and where its cluster is. */
interface End {
  readonly program: readonly string[];
  readonly directory: string;
}

class Duel implements DuelOutside {
  private readonly cli: CliContext;
  private readonly options: DuelOptions;
  private readonly ends: Sides<End>;
  private readonly ending: AbortSignal;
  /** Rows that the other one begins next: by turns, as who is first has the machine to itself for a moment. */
  private readonly begunByThis = new Set<SuiteRow>();

  constructor(cli: CliContext, options: DuelOptions, ends: Sides<End>, ending: AbortSignal) {
    this.cli = cli;
    this.options = options;
    this.ends = ends;
    this.ending = ending;
  }

  /** Write both images in full. */
  async prepare(): Promise<void> {
    const { imageBytes } = this.options;
    this.say("filling the images");
    await both(this.ends, async ({ program, directory }) => {
      await makeImage(program, directory, IMAGE, imageBytes);
    });
    await both(this.ends, (end) => this.run(end, FILL, FILL_MS, ["--ramp", "0s", "--fill"]));
  }

  async load(row: SuiteRow, timeMs: number, rampMs: number): Promise<Sides<DuelRun>> {
    const more = ["--ramp", `${rampMs}ms`, "--no-fill"];
    const isOtherFirst = this.begunByThis.delete(row);
    if (!isOtherFirst) this.begunByThis.add(row);
    return await both(this.ends, (end) => this.run(end, row, timeMs, more), isOtherFirst);
  }

  say(words: string): void {
    this.cli.say(words);
  }

  /** By the client of the build. Throws what that tells, or FB5001. */
  private async run(
    { program, directory }: End,
    { rw, blockBytes, depth }: Pick<SuiteRow, "rw" | "blockBytes" | "depth">,
    timeMs: number,
    more: readonly string[],
  ): Promise<DuelRun> {
    const { backend } = this.options;
    const load = ["--rw", rw, "--bs", String(blockBytes), "--depth", String(depth), ...more];
    const words = ["bench", "image", IMAGE, "--cluster", directory, ...load];
    words.push("--time", `${timeMs}ms`, "--backend", backend, "-o", "json");
    const limit = { signal: this.ending };
    const { code, out, err } = await runChild([...program, ...words], limit);
    const report = code === 0 ? (readObject(out) as Partial<ImageBenchReport>) : undefined;
    if (typeof report?.iops === "number" && typeof report.seconds === "number") {
      const { iops, seconds } = report;
      // A build that does not tell what compiles takes as long to get warm as the other one.
      const processes = (report.processes ?? []).map((one) => ({ ...NOT_TOLD, ...one }));
      const { cpuUsPerIo = null, systemCallsPerIo = null } = report;
      return { iops, seconds, processes, cpuUsPerIo, systemCallsPerIo };
    }
    throw failureOf(program.join(" "), code, err);
  }
}

/** With the code of the error that the client tells, if it does: `-o json` makes it an object. */
function failureOf(build: string, code: number, err: string): FastblockError {
  const { error } = readObject(err) as { error?: Readonly<Record<string, unknown>> };
  const told = String(error?.["code"]);
  const doing = `driving the cluster of ${build}`;
  if (error === undefined || !Object.hasOwn(ERRORS, told)) {
    const message = `${doing}: exit code ${code}, wanted 0 and a report`;
    return new FastblockError("FB5001", message, { why: lastLines(err) });
  }
  const details = { why: error["why"], hint: error["hint"] };
  const known = Object.entries(details).filter(([, text]) => typeof text === "string");
  const message = `${doing}: ${String(error["detail"])}`;
  return new FastblockError(told as ErrorCode, message, Object.fromEntries(known));
}

async function both<T>(
  ends: Sides<End>,
  body: (end: End) => Promise<T>,
  isOtherFirst = false,
): Promise<Sides<T>> {
  const begun = isOtherFirst ? body(ends.other) : null;
  const [ours, other] = await Promise.all([body(ends.this), begun ?? body(ends.other)]);
  return { this: ours, other };
}

/** What a build says of itself. Throws FB1001, FB1008, FB1014. */
async function versionsOf(path: string): Promise<{ fastblock: string; build: string }> {
  try {
    accessSync(path, constants.X_OK);
  } catch (error) {
    throw unreadable(path, error);
  }
  const end = await runChild([path, "version", "-o", "json"], { timeout: VERSION_MS_MAX });
  const { fastblock, build } = readObject(end.out) as Record<string, unknown>;
  if (end.code === 0 && typeof fastblock === "string") {
    return { fastblock, build: typeof build === "string" ? build : "" };
  }
  const message = `asking ${path} for its version: exit code ${end.code} and no answer, wanted a fastblock executable`;
  throw new FastblockError("FB1001", message, { hint: "name the executable of another build" });
}

/** Empty where it is none: those who ask tell what they miss. */
function readObject(text: string): object {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null ? value : {};
  } catch {
    return {};
  }
}

interface ChildEnd {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

/** Run a program to its end, or until `limit` says. Throws FB1008 when it does not start. */
async function runChild(
  words: readonly string[],
  limit: { readonly signal?: AbortSignal; readonly timeout?: number },
): Promise<ChildEnd> {
  const child = startChild(words, limit);
  const [out, err] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ]);
  return { code: await child.exited, out, err };
}

function startChild(
  words: readonly string[],
  limit: { readonly signal?: AbortSignal; readonly timeout?: number },
): Bun.Subprocess<"ignore", "pipe", "pipe"> {
  try {
    return Bun.spawn([...words], {
      ...limit,
      cwd: "/",
      stdin: "ignore",
      stdout: "pipe",
      stderr: "pipe",
      env: childEnvironment(),
    });
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new FastblockError("FB1008", `starting ${words[0]}: ${why}, wanted it to run`);
  }
}
