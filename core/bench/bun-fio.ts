import type { BenchRow } from "./bench-row.ts";
import type { DiskBenchCase } from "./disk-bench.ts";

/**
 * The same load by fio, to stand beside ours: on a file, through a socket to a second process, and
 * an operation without any I/O.
 */

/** A row that fio has no figures for, and why. */
export interface FioGap {
  readonly name: string;
  readonly note: string;
}

/** What fio measured, or why it did not; undefined when it is not installed. */
export type FioRow = BenchRow | FioGap | undefined;

/** Messages through loopback: so many bytes one way, answered by as many. */
export interface FioEchoCase {
  readonly messageBytes: number;
  readonly depth: number;
  readonly durationMs: number;
  /** Whose processor time counts: that of the sender alone, or of the answering job as well. */
  readonly cpuOf: "sender" | "both";
}

const RAMP_MS = 300;
/** After this time the receiver listens. */
const LISTEN_MS = 500;
/** Beside the time that it measures: start, report. */
const SPARE_MS = 10_000;
const NOTE_CHARS_MAX = 120;

/** The row of a case of `bench disk`. The file is locked by nobody then: close the disk first. */
export function runFioDisk(
  path: string,
  sizeBytes: number,
  direct: boolean,
  one: DiskBenchCase,
): Promise<FioRow> {
  const side = one.verb === "read" ? "read" : "write";
  const order = one.sequential === true ? "" : "rand";
  const args = [
    ...timed(one.durationMs),
    "--name=fastblock",
    `--filename=${path.replaceAll(":", "\\:")}`,
    `--rw=${order}${side}`,
    `--bs=${one.blockBytes}`,
    `--iodepth=${one.depth}`,
    `--size=${sizeBytes}`,
    "--ioengine=io_uring",
    `--direct=${direct ? 1 : 0}`,
    "--norandommap",
    ...(one.verb === "writeDurable" ? ["--sync=dsync"] : []),
  ];
  return run(args, one.durationMs, { name: `fio ${one.verb} depth ${one.depth}`, side });
}

/**
 * The row of messages that are sent and answered. fio's ping-pong keeps one message on its way, so
 * there are figures for depth 1 alone. It answers with as many bytes as it got.
 */
export async function runFioEcho(one: FioEchoCase): Promise<FioRow> {
  const name = `fio net ${one.messageBytes} bytes each way depth ${one.depth}`;
  if (Bun.which("fio") === null) return undefined;
  if (one.depth > 1) return { name, note: "fio keeps one message on its way" };
  const args = [
    ...timed(one.durationMs),
    "--ioengine=net",
    "--protocol=tcp",
    `--port=${freePort()}`,
    "--nodelay=1",
    "--pingpong=1",
    `--bs=${one.messageBytes}`,
    "--size=1000g",
    "--name=receiver",
    "--listen=1",
    "--rw=read",
    "--name=sender",
    // Both begin at once otherwise. A sender that is refused ends, and the receiver waits for ever.
    `--startdelay=${LISTEN_MS}ms`,
    "--hostname=127.0.0.1",
    "--rw=write",
  ];
  const wanted = { name, side: "write", job: "sender" } as const;
  return await run(args, one.durationMs, { ...wanted, cpuOfAll: one.cpuOf === "both" });
}

/** The row of an operation that fio takes up and ends without any I/O, beside an empty turn. */
export function runFioNull(durationMs: number): Promise<FioRow> {
  const args = [
    ...timed(durationMs),
    "--name=fastblock",
    "--ioengine=null",
    "--rw=read",
    "--bs=4096",
    "--size=1g",
  ];
  return run(args, durationMs, { name: "fio null, operation without I/O", side: "read" });
}

function timed(durationMs: number, rampMs: number = RAMP_MS): readonly string[] {
  return [
    "--time_based",
    `--ramp_time=${rampMs}ms`,
    `--runtime=${durationMs}ms`,
    "--output-format=json",
  ];
}

/** A random or sequential load through an NBD server at `uri`. Undefined without fio. */
export function runFioNbd(
  uri: string,
  sizeBytes: number,
  rampMs: number,
  one: DiskBenchCase,
): Promise<FioRow> {
  const side = one.verb === "read" ? "read" : "write";
  const order = one.sequential === true ? "" : "rand";
  const args = [
    ...timed(one.durationMs, rampMs),
    "--name=fastblock",
    "--ioengine=nbd",
    `--uri=${uri}`,
    `--rw=${order}${side}`,
    `--bs=${one.blockBytes}`,
    `--iodepth=${one.depth}`,
    `--size=${sizeBytes}`,
    "--norandommap",
  ];
  return run(args, rampMs + one.durationMs, { name: `fio nbd ${side} depth ${one.depth}`, side });
}

/** A port that was free a moment ago: fio takes no 0. */
function freePort(): number {
  const listener = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data: () => {} } });
  const { port } = listener;
  listener.stop(true);
  return port;
}

async function run(
  args: readonly string[],
  durationMs: number,
  wanted: FioWanted,
): Promise<FioRow> {
  const fio = Bun.which("fio");
  if (fio === null) return undefined;
  const child = Bun.spawn([fio, ...args], {
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
    timeout: RAMP_MS + durationMs + SPARE_MS,
    killSignal: "SIGKILL",
  });
  const [text, words] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ]);
  const code = await child.exited;
  if (code === 0) return parseFio(text, wanted);
  const line = words.trim().split("\n")[0] ?? "";
  const note = `fio ended with ${code}, wanted 0: ${line}`;
  return { name: wanted.name, note: note.slice(0, NOTE_CHARS_MAX) };
}

interface FioSide {
  readonly iops: number;
  readonly total_ios: number;
  readonly clat_ns: {
    readonly max: number;
    readonly percentile?: Readonly<Record<string, number>>;
  };
}

interface FioJob {
  readonly jobname?: string;
  readonly read: FioSide;
  readonly write: FioSide;
  readonly usr_cpu: number;
  readonly sys_cpu: number;
}

/** What of fio's report makes the row. */
export interface FioWanted {
  readonly name: string;
  readonly side: "read" | "write";
  /** The job whose operations count; default: the first. */
  readonly job?: string;
  /** Count the processor time of all jobs. */
  readonly cpuOfAll?: boolean;
}

/** Read fio's JSON; a gap when it is something else. */
export function parseFio(text: string, wanted: FioWanted): BenchRow | FioGap {
  const jobs = jobsOf(text);
  const job = jobs.find((one) => wanted.job === undefined || one.jobname === wanted.job);
  if (job === undefined) return { name: wanted.name, note: "fio's report names no such job" };
  const side = job[wanted.side];
  const percentile = (name: string): number =>
    Math.round((side.clat_ns.percentile?.[name] ?? 0) / 1000);
  const counted = wanted.cpuOfAll === true ? jobs : [job];
  const cpuUs = (percents: readonly number[]): number =>
    (percents.reduce((sum, one) => sum + one, 0) * 10_000) / Math.max(1, side.iops);
  return {
    name: wanted.name,
    operations: side.total_ios,
    opsPerSecond: side.iops,
    latencyUs: {
      p50: percentile("50.000000"),
      p99: percentile("99.000000"),
      p999: percentile("99.900000"),
      max: Math.round(side.clat_ns.max / 1000),
    },
    cpuUsPerOp: {
      user: cpuUs(counted.map((one) => one.usr_cpu)),
      system: cpuUs(counted.map((one) => one.sys_cpu)),
    },
  };
}

function jobsOf(text: string): readonly FioJob[] {
  // fio writes warnings before the object.
  const from = text.indexOf("{");
  if (from < 0) return [];
  return (JSON.parse(text.slice(from)) as { readonly jobs: readonly FioJob[] }).jobs;
}
