/**
 * What the kernel and the load generators tell, read out of their text. Everything here is a running
 * total since some moment; `measure.ts` takes differences.
 */

/** `utime` and `stime` count in these on every Linux that user programs see. */
export const TICK_US = 10_000;
const SECTOR_BYTES = 512;

/** A process out of the text of /proc/PID/stat. */
export interface ProcessStat {
  readonly name: string;
  readonly parentPid: number;
  readonly cpuTicks: number;
  readonly startTicks: number;
}

/** Undefined: the process ended while it was read. */
export function parseProcessStat(text: string): ProcessStat | undefined {
  // The name in parentheses may hold blanks and parentheses: fields count from its end.
  const from = text.indexOf("(");
  const to = text.lastIndexOf(")");
  const fields = text.slice(to + 2).split(" ");
  if (from < 0 || to < from || fields.length < 20) return undefined;
  return {
    name: text.slice(from + 1, to),
    parentPid: Number(fields[1]),
    cpuTicks: Number(fields[11]) + Number(fields[12]),
    startTicks: Number(fields[19]),
  };
}

/** What all cores did, in ticks, out of the text of /proc/stat. */
export interface MachineTicks {
  /** In processes and kernel threads. */
  readonly tasks: number;
  /** In interrupts, network among them: no process is charged for that. */
  readonly interrupts: number;
  /** Taken by the host. */
  readonly stolen: number;
}

export function parseMachine(text: string): MachineTicks {
  const fields = /^cpu +(.*)$/m.exec(text)?.[1]?.split(" ").map(Number) ?? [];
  if (fields.length < 8) {
    throw new Error(`reading /proc/stat: ${text.slice(0, 60)}, wanted a line "cpu" of 8 numbers`);
  }
  const [user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0, stolen = 0] = fields;
  return { tasks: user + nice + system, interrupts: irq + softirq, stolen };
}

/** What a disk did, out of the text of /proc/diskstats. */
export interface DiskCounts {
  readonly reads: number;
  readonly writes: number;
  readonly writtenBytes: number;
  readonly flushes: number;
}

/** Throws when the disk is not there, or the kernel is too old (5.5) to count flushes. */
export function parseDisk(text: string, device: string): DiskCounts {
  for (const line of text.split("\n")) {
    const fields = line.trim().split(/ +/);
    if (fields[2] !== device) continue;
    if (fields.length < 20) break;
    const at = (index: number): number => Number(fields[index]);
    const [reads, writes, writtenBytes] = [at(3), at(7), at(9) * SECTOR_BYTES];
    return { reads, writes, writtenBytes, flushes: at(18) };
  }
  throw new Error(`reading /proc/diskstats: no ${device} with 20 fields, wanted the disk's line`);
}

/** What a load generator says of a run. */
export interface LoadFigures {
  readonly iops: number;
  readonly bytesPerSec: number;
  readonly latencyUs: { readonly p50: number; readonly p99: number; readonly max: number };
  readonly errors: number;
}

interface FioSide {
  readonly iops: number;
  readonly bw_bytes: number;
  readonly clat_ns: {
    readonly max: number;
    readonly percentile?: Readonly<Record<string, number>>;
  };
}

interface FioReport {
  readonly jobs?: readonly {
    readonly error: number;
    readonly read: FioSide;
    readonly write: FioSide;
  }[];
}

/** Read what `fio --output-format=json` printed; warnings may stand before the object. */
export function parseFioLoad(text: string, side: "read" | "write"): LoadFigures {
  const from = text.indexOf("{\n");
  const job = from < 0 ? undefined : (JSON.parse(text.slice(from)) as FioReport).jobs?.[0];
  if (job === undefined) {
    throw new Error(`reading fio's report: ${text.slice(0, 200)}, wanted JSON with a job`);
  }
  const { iops, bw_bytes, clat_ns } = job[side];
  const percentile = (name: string): number => Math.round((clat_ns.percentile?.[name] ?? 0) / 1000);
  return {
    iops,
    bytesPerSec: bw_bytes,
    latencyUs: {
      p50: percentile("50.000000"),
      p99: percentile("99.000000"),
      max: Math.round(clat_ns.max / 1000),
    },
    errors: job.error,
  };
}

interface OurReport extends LoadFigures {
  readonly kind?: string;
}

/** Read what `fastblock bench image -o json` printed. */
export function parseOurLoad(text: string): LoadFigures {
  const report = JSON.parse(text) as OurReport;
  if (report.kind !== "image") {
    throw new Error(`reading a report of bench image: kind ${report.kind}, wanted image`);
  }
  const { iops, bytesPerSec, latencyUs, errors } = report;
  const { p50, p99, max } = latencyUs;
  return { iops, bytesPerSec, latencyUs: { p50, p99, max }, errors };
}
