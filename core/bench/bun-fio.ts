import type { BenchRow } from "./bench-row.ts";
import type { DiskBenchCase } from "./disk-bench.ts";

/**
 * The row that fio measures for a case on the same file, to stand beside ours; undefined when fio
 * is not installed. The file is locked by nobody then: close the disk first.
 */
export async function runFio(
  path: string,
  sizeBytes: number,
  direct: boolean,
  one: DiskBenchCase,
): Promise<BenchRow | undefined> {
  const fio = Bun.which("fio");
  if (fio === null) return undefined;
  const isRead = one.verb === "read";
  const order = one.sequential === true ? "" : "rand";
  const args = [
    "--name=fastblock",
    `--filename=${path.replaceAll(":", "\\:")}`,
    `--rw=${order}${isRead ? "read" : "write"}`,
    `--bs=${one.blockBytes}`,
    `--iodepth=${one.depth}`,
    `--size=${sizeBytes}`,
    "--ioengine=io_uring",
    `--direct=${direct ? 1 : 0}`,
    "--time_based",
    "--ramp_time=300ms",
    `--runtime=${one.durationMs}ms`,
    "--norandommap",
    "--output-format=json",
    ...(one.verb === "writeDurable" ? ["--sync=dsync"] : []),
  ];
  const child = Bun.spawn([fio, ...args], { stdout: "pipe", stderr: "ignore" });
  const text = await new Response(child.stdout).text();
  if ((await child.exited) !== 0) return undefined;
  return parseFio(text, isRead, one);
}

interface FioSide {
  readonly iops: number;
  readonly total_ios: number;
  readonly clat_ns: {
    readonly max: number;
    readonly percentile?: Readonly<Record<string, number>>;
  };
}

interface FioOutput {
  readonly jobs: readonly {
    readonly read: FioSide;
    readonly write: FioSide;
    readonly usr_cpu: number;
    readonly sys_cpu: number;
    readonly job_runtime: number;
  }[];
}

/** Read fio's JSON; undefined when it is something else. */
export function parseFio(text: string, isRead: boolean, one: DiskBenchCase): BenchRow | undefined {
  // fio writes warnings before the object.
  const output = JSON.parse(text.slice(text.indexOf("{"))) as FioOutput;
  const job = output.jobs[0];
  if (job === undefined) return undefined;
  const side = isRead ? job.read : job.write;
  const percentile = (name: string): number =>
    Math.round((side.clat_ns.percentile?.[name] ?? 0) / 1000);
  const cpuUs = (percent: number): number => (percent * 10_000) / Math.max(1, side.iops);
  return {
    name: `fio ${one.verb} depth ${one.depth}`,
    operations: side.total_ios,
    opsPerSecond: side.iops,
    latencyUs: {
      p50: percentile("50.000000"),
      p99: percentile("99.000000"),
      p999: percentile("99.900000"),
      max: Math.round(side.clat_ns.max / 1000),
    },
    cpuUsPerOp: { user: cpuUs(job.usr_cpu), system: cpuUs(job.sys_cpu) },
  };
}
