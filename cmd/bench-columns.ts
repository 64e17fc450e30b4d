import type { ImageBenchReport, Quartiles } from "../core/bench/bench.ts";
import {
  type Column,
  formatCount,
  formatDurationUs,
  formatSize,
  type Row,
} from "../core/cli/cli.ts";

/** How the reports of `fastblock bench` look as tables. */

export const COMPARE_COLUMNS: readonly Column[] = [
  { name: "figure" },
  { name: "a", right: true, show: figureText },
  { name: "b", right: true, show: figureText },
  { name: "ratio", right: true },
  { name: "verdict" },
];

export const SUITE_COLUMNS: readonly Column[] = [
  { name: "row", path: "name" },
  { name: "iops", right: true, show: figureText },
  {
    name: "rate",
    path: "bytesPerSec",
    right: true,
    show: (value) => `${formatSize(Number(value))}/s`,
  },
  { name: "p50", path: "latencyUs.p50", right: true, show: usText },
  { name: "p99", path: "latencyUs.p99", right: true, show: usText },
  { name: "p99.9", path: "latencyUs.p999", right: true, show: usText },
  { name: "max", path: "latencyUs.max", right: true, show: usText },
  { name: "cpu/io", path: "cpuUsPerIo", right: true, show: usText },
  { name: "compile", path: "compileUsPerIo", right: true, show: usText },
  { name: "user+sys", path: "processes", show: costText, wide: true },
  { name: "switches", path: "switchesPerIo", right: true },
  { name: "calls", path: "systemCallsPerIo", right: true },
  { name: "gcs", path: "collections.count", right: true, show: countText },
  { name: "gc max", path: "collections.pauseUsMax", right: true, show: usText },
  { name: "bytes", path: "deviceBytesPerClientByte", right: true },
  { name: "writes", path: "deviceWritesPerClientWrite", right: true },
  { name: "flushes", path: "flushesPerClientWrite", right: true },
  { name: "raw iops", path: "raw.iops", right: true, show: countText },
  { name: "raw p50", path: "raw.latencyUs.p50", right: true, show: usText },
  { name: "÷ raw", path: "ratioToRaw", right: true },
];

export const DUEL_COLUMNS: readonly Column[] = [
  { name: "row", path: "name" },
  { name: "iops", path: "this.iops", right: true, show: figureText },
  { name: "other iops", path: "other.iops", right: true, show: figureText },
  { name: "cpu/io", path: "this.cpuUsPerIo", right: true, show: usText },
  { name: "other cpu/io", path: "other.cpuUsPerIo", right: true, show: usText },
  { name: "calls", path: "this.systemCallsPerIo", right: true },
  { name: "other calls", path: "other.systemCallsPerIo", right: true },
  { name: "cpu ratio", path: "cpuRatio.median", right: true },
  { name: "cpu quartiles", path: "cpuRatio", show: quartilesText },
  { name: "iops ratio", path: "iopsRatio.median", right: true },
  { name: "iops quartiles", path: "iopsRatio", show: quartilesText },
];

export const BAR_COLUMNS: readonly Column[] = [
  { name: "row" },
  { name: "figure" },
  { name: "seen", right: true, show: numberText },
  { name: "bound" },
  { name: "wanted", right: true },
  { name: "bare", right: true, show: numberText },
  { name: "verdict" },
];

export const RECOVERY_COLUMNS: readonly Column[] = [
  { name: "row", path: "name" },
  { name: "iops", right: true, show: figureText },
  { name: "during", path: "iopsDuring", right: true, show: figureText },
  { name: "p50", path: "latencyUs.p50", right: true, show: usText },
  { name: "during", path: "latencyUsDuring.p50", right: true, show: usText },
  { name: "p99", path: "latencyUs.p99", right: true, show: usText },
  { name: "during", path: "latencyUsDuring.p99", right: true, show: usText },
  { name: "ratio", path: "p99Ratio", right: true },
  { name: "max", path: "latencyUs.max", right: true, show: usText, wide: true },
  { name: "during", path: "latencyUsDuring.max", right: true, show: usText, wide: true },
  {
    name: "copied",
    path: "bytesPerSecDuring",
    right: true,
    show: (value) => `${formatSize(Number(value))}/s`,
  },
  { name: "to-end", path: "recoveringToEnd" },
  { name: "seconds", right: true },
  { name: "amplification", right: true },
];

export const IDLE_COLUMNS: readonly Column[] = [
  { name: "process", path: "name" },
  { name: "replicas", right: true },
  {
    name: "cpu",
    path: "cpuShare",
    right: true,
    show: (value) => `${(Number(value) * 100).toFixed(2)} %`,
  },
  {
    name: "between shards",
    path: "pairBytesPerSec",
    right: true,
    show: (value) => (typeof value === "number" ? `${value} B/s` : "-"),
  },
  { name: "without groups", path: "anonymousBytesBare", right: true, show: sizeText },
  { name: "with groups", path: "anonymousBytes", right: true, show: sizeText },
  {
    name: "a replica",
    path: "bytesPerReplica",
    right: true,
    show: (value) => (typeof value === "number" ? `${value} B` : "-"),
  },
];

export const PAUSES_COLUMNS: readonly Column[] = [
  { name: "event", path: "name" },
  { name: "times", path: "ownMs", right: true, show: (value) => `${(value as number[]).length}` },
  { name: "p50", path: "p50Ms", right: true, show: msText },
  { name: "longest", path: "maxMs", right: true, show: msText },
  { name: "elsewhere", path: "elsewhereMaxMs", right: true, show: msText },
];

function msText(value: unknown): string {
  return `${Math.round(Number(value))} ms`;
}

function numberText(value: unknown): string {
  return typeof value === "number" ? `${value}` : "-";
}

function quartilesText(value: unknown): string {
  const quartiles = value as Quartiles | null;
  return quartiles === null ? "-" : `${quartiles.low} to ${quartiles.high}`;
}

/** CPU by kind of process: `osd 32+33 client 8+5`. */
function costText(value: unknown): string {
  const costs = value as ImageBenchReport["processes"];
  return costs
    .filter(({ userUsPerIo, systemUsPerIo }) => userUsPerIo + systemUsPerIo >= 1)
    .map((one) => `${one.kind} ${one.userUsPerIo.toFixed(0)}+${one.systemUsPerIo.toFixed(0)}`)
    .join(" ");
}

export const MICRO_COLUMNS: readonly Column[] = [
  { name: "name" },
  { name: "iops", right: true, show: countText },
  {
    name: "rate",
    path: "bytesPerSec",
    right: true,
    show: (value) => (value === null ? "-" : `${formatSize(Number(value))}/s`),
  },
  { name: "p50", path: "latencyUs.p50", right: true, show: usText },
  { name: "p99", path: "latencyUs.p99", right: true, show: usText },
  { name: "p99.9", path: "latencyUs.p999", right: true, show: usText },
  { name: "max", path: "latencyUs.max", right: true, show: usText, wide: true },
  { name: "cpu/io", path: "cpuUsPerIo", right: true, show: usText },
  { name: "backend" },
  { name: "note", show: (value) => (typeof value === "string" ? value : "") },
];

export function nameOf(row: Row): string {
  return String(row["name"]);
}

export function barOf(row: Row): string {
  return `${String(row["row"])}: ${String(row["figure"])}`;
}

function sizeText(value: unknown): string {
  return formatSize(Number(value));
}

function figureText(value: unknown): string {
  return formatCount(Number(value));
}

function countText(value: unknown): string {
  return typeof value === "number" ? formatCount(value) : "-";
}

function usText(value: unknown): string {
  return typeof value === "number" ? us(value) : "-";
}

export function us(value: number): string {
  return formatDurationUs(value);
}
