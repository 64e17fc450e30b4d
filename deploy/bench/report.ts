import { formatSize } from "../../core/base/size-text.ts";
import type { Run } from "./measure.ts";
import { isWrite, type Load, LOADS, type Settings, type System } from "./settings.ts";

/** What `run` writes, and `report` prints. */
export interface Report {
  readonly kind: "ceph-beside-fastblock";
  readonly machine: {
    readonly cores: number;
    readonly processor: string;
    readonly memoryBytes: number;
    readonly kernel: string;
    readonly device: string;
    readonly fileSystem: string;
  };
  readonly versions: Readonly<Record<string, string>>;
  readonly settings: Settings;
  readonly ceph: Readonly<Record<string, string>>;
  readonly seconds: number;
  readonly rampSeconds: number;
  readonly repeat: number;
  readonly runs: readonly Run[];
}

/** What fastblock is to reach at these loads, as a multiple of Ceph. */
const BARS = { iops: 20, perCpuSecond: 30 };
const BARRED = ["4 KiB random write, depth 32", "4 KiB random write, depth 128"];
/** Above this share of one core strangers may have decided the figure. */
const FOREIGN_PERCENT_MAX = 15;

/** The middle one; of two, their mean. NaN of none. */
export function medianOf(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  if (sorted.length % 2 === 1) return sorted[middle]!;
  return (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/** Of the runs of a load on a system: of those without strangers, where there are any. */
interface Medians {
  readonly count: number;
  readonly countAll: number;
  readonly iops: number;
  readonly iopsMin: number;
  readonly iopsMax: number;
  readonly p50Us: number;
  readonly p99Us: number;
  readonly cpuUsPerIo: number;
  readonly drainCpuUsPerIo: number;
  readonly kernelCpuUsPerIo: number;
  readonly bytes: number;
  readonly flushes: number;
  readonly reads: number;
  readonly restingPercent: number;
  readonly foreignPercentMax: number;
}

/** Undefined: there is no such run. */
export function mediansOf(runs: readonly Run[], load: string, system: System): Medians | undefined {
  const all = runs.filter((run) => run.load === load && run.system === system);
  if (all.length === 0) return undefined;
  const quiet = all.filter(({ foreignPercent }) => foreignPercent <= FOREIGN_PERCENT_MAX);
  const of = quiet.length > 0 ? quiet : all;
  const median = (pick: (run: Run) => number): number => medianOf(of.map(pick));
  const rates = of.map(({ iops }) => iops);
  return {
    count: of.length,
    countAll: all.length,
    iops: median(({ iops }) => iops),
    iopsMin: Math.min(...rates),
    iopsMax: Math.max(...rates),
    p50Us: median(({ latencyUs }) => latencyUs.p50),
    p99Us: median(({ latencyUs }) => latencyUs.p99),
    cpuUsPerIo: median(({ cpuUsPerIo }) => cpuUsPerIo),
    drainCpuUsPerIo: median(({ drainCpuUsPerIo }) => drainCpuUsPerIo),
    kernelCpuUsPerIo: median(({ kernelCpuUsPerIo }) => kernelCpuUsPerIo),
    bytes: median(({ disk }) => disk.bytes),
    flushes: median(({ disk }) => disk.flushes),
    reads: median(({ disk }) => disk.reads),
    restingPercent: median(({ restingPercent }) => restingPercent),
    foreignPercentMax: Math.max(...of.map(({ foreignPercent }) => foreignPercent)),
  };
}

/** Everything for people, as Markdown: conditions, rates, costs, what to make of it. */
export function reportText(report: Report): string {
  const rows = LOADS.map((load) => ({
    load,
    raw: mediansOf(report.runs, load.name, "raw"),
    ceph: mediansOf(report.runs, load.name, "ceph"),
    ours: mediansOf(report.runs, load.name, "fastblock"),
  })).filter(({ raw, ceph, ours }) => raw ?? ceph ?? ours);
  return [conditions(report), ratios(rows), details(rows), cautions(report)].join("\n");
}

interface RowMedians {
  readonly load: Load;
  readonly raw: Medians | undefined;
  readonly ceph: Medians | undefined;
  readonly ours: Medians | undefined;
}

function conditions(report: Report): string {
  const { machine, versions, settings, ceph } = report;
  const rows = [
    ["machine", `${machine.cores} cores, ${machine.processor}, ${formatSize(machine.memoryBytes)}`],
    ["kernel", machine.kernel],
    ["disk", `${machine.device}, ${machine.fileSystem}; one for all, files written in full`],
    ...Object.entries(versions),
    ["Ceph's profile", settings.profile],
    ...Object.entries(ceph).map(([name, value]) => [`Ceph: ${name}`, value]),
    [
      "image",
      `${formatSize(settings.imageBytes)}, written in full; stores ${formatSize(settings.osdBytes)}`,
    ],
    ["a run", `${report.rampSeconds} s ramp, ${report.seconds} s measured, medians`],
    ["Ceph acknowledges", "when all three osds have the write on disk; cephx and rbd_cache off"],
    ["fastblock acknowledges", "when two of three have it on disk; frames authenticated"],
  ];
  return table([["condition", "value"], ...rows.map(([name, value]) => [name!, value!])]);
}

function ratios(rows: readonly RowMedians[]): string {
  const head = ["load", "raw fio", "Ceph", "fastblock", "IOPS ÷ Ceph", "CPU µs per I/O: Ceph"];
  const more = ["fastblock", "I/O per CPU second ÷ Ceph", "bars"];
  const lines = rows.map(({ load, raw, ceph, ours }) => {
    const faster = quotient(ours?.iops, ceph?.iops);
    const cheaper = quotient(ceph?.cpuUsPerIo, ours?.cpuUsPerIo);
    const rates = [raw, ceph, ours].map((one) => rateText(load, one));
    const costs = [number(ceph?.cpuUsPerIo), number(ours?.cpuUsPerIo)];
    return [load.name, ...rates, times(faster), ...costs, times(cheaper)].concat(
      barText(load.name, faster, cheaper),
    );
  });
  return table([[...head, ...more], ...lines]);
}

function details(rows: readonly RowMedians[]): string {
  const head = ["load", "system", "runs", "IOPS min to max", "p50 ms", "p99 ms"];
  const cost = ["CPU µs of it in the drain", "kernel threads, interrupts µs per I/O"];
  const disk = ["disk KiB per I/O", "flushes per I/O", "disk reads per I/O"];
  const beside = ["other cluster at rest, % of a core", "strangers at most, % of a core"];
  const lines = rows.flatMap(({ load, raw, ceph, ours }) =>
    [
      { name: "raw", of: raw },
      { name: "Ceph", of: ceph },
      { name: "fastblock", of: ours },
    ].flatMap(({ name, of }) => (of === undefined ? [] : [detail(load, name, of)])),
  );
  return table([[...head, ...cost, ...disk, ...beside], ...lines]);
}

function detail(load: Load, name: string, of: Medians): string[] {
  return [
    load.name,
    name,
    of.count === of.countAll ? String(of.count) : `${of.count} of ${of.countAll}`,
    `${number(of.iopsMin)} to ${number(of.iopsMax)}`,
    number(of.p50Us / 1000),
    number(of.p99Us / 1000),
    isWrite(load) && name !== "raw" ? number(of.drainCpuUsPerIo) : "",
    number(of.kernelCpuUsPerIo),
    number(of.bytes / 1024),
    number(of.flushes),
    number(of.reads),
    number(of.restingPercent),
    number(of.foreignPercentMax) + (of.foreignPercentMax > FOREIGN_PERCENT_MAX ? " (!)" : ""),
  ];
}

function cautions(report: Report): string {
  const { cores } = report.machine;
  const loud = report.runs.filter(({ foreignPercent }) => foreignPercent > FOREIGN_PERCENT_MAX);
  const failed = report.runs.filter(({ errors }) => errors > 0);
  const lines = [
    `All processes of each system, and its client, share ${cores} cores and one disk.`,
    cores <= 4
      ? "So few cores suit Ceph worst: an osd of it has some 60 threads, one of ours a single one." +
        " Judge by CPU per I/O; IOPS are little more than its inverse here."
      : "Judge by CPU per I/O before IOPS: it depends least on the machine.",
    "I/O per CPU second ÷ Ceph is Ceph's CPU per I/O ÷ ours: one ratio, and the bar is on it.",
    "The cluster that is not measured rests meanwhile; what it takes is in its column.",
    `Strangers took more than ${FOREIGN_PERCENT_MAX} % of a core in ${loud.length} of ` +
      `${report.runs.length} runs; these count only where a row has no others, and are marked (!).`,
    ...failed.map(({ load, system, errors }) => `${system}, ${load}: ${errors} errors.`),
  ];
  return `${lines.map((line) => `- ${line}`).join("\n")}\n`;
}

function barText(load: string, faster: number, cheaper: number): string {
  if (!BARRED.includes(load) || Number.isNaN(faster + cheaper)) return "";
  const word = (value: number, bar: number): string => (value >= bar ? "met" : "missed");
  const iops = `IOPS ≥ ${BARS.iops}: ${word(faster, BARS.iops)}`;
  return `${iops}; CPU ≥ ${BARS.perCpuSecond}: ${word(cheaper, BARS.perCpuSecond)}`;
}

function quotient(a: number | undefined, b: number | undefined): number {
  return a === undefined || b === undefined || b === 0 ? Number.NaN : a / b;
}

/** Small blocks by their count, large ones by their bytes. */
function rateText(load: Load, of: Medians | undefined): string {
  if (of === undefined) return "";
  if (load.blockBytes <= 4096) return `${number(of.iops)} IOPS`;
  return `${number((of.iops * load.blockBytes) / 1e6)} MB/s`;
}

function times(ratio: number): string {
  return Number.isNaN(ratio) ? "" : `${ratio.toFixed(1)} ×`;
}

/** Three digits; large ones whole, with commas. */
function number(value: number | undefined): string {
  if (value === undefined || Number.isNaN(value)) return "";
  if (value >= 100) return Math.round(value).toLocaleString("en-US");
  return String(Number(value.toPrecision(3)));
}

/** Markdown; columns as wide as their widest cell, as the formatter of the README has them. */
function table(rows: readonly (readonly string[])[]): string {
  const widths = rows[0]!.map((_, at) => Math.max(3, ...rows.map((row) => row[at]!.length)));
  const line = (cells: readonly string[]): string =>
    `| ${cells.map((cell, at) => cell.padEnd(widths[at]!)).join(" | ")} |\n`;
  const rule = line(widths.map((width) => "-".repeat(width)));
  const [head, ...body] = rows;
  return line(head!) + rule + body.map(line).join("");
}
