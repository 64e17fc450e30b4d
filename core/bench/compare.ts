import { FastblockError } from "../base/errors.ts";

/** One figure of two reports, and how B stands to A. */
export interface Comparison {
  readonly figure: string;
  readonly a: number;
  readonly b: number;
  /** b ÷ a; null when a is 0. */
  readonly ratio: number | null;
  /** Whether B is better, worse, or within 2 %. */
  readonly verdict: "better" | "worse" | "same";
}

interface Figure {
  readonly path: readonly string[];
  readonly moreIsBetter: boolean;
}

const FIGURES: readonly Figure[] = [
  { path: ["iops"], moreIsBetter: true },
  { path: ["bytesPerSec"], moreIsBetter: true },
  { path: ["latencyUs", "mean"], moreIsBetter: false },
  { path: ["latencyUs", "p50"], moreIsBetter: false },
  { path: ["latencyUs", "p99"], moreIsBetter: false },
  { path: ["latencyUs", "p999"], moreIsBetter: false },
  { path: ["latencyUs", "max"], moreIsBetter: false },
  { path: ["cpuUsPerIo"], moreIsBetter: false },
  { path: ["deviceBytesPerClientByte"], moreIsBetter: false },
];

const SAME_WITHIN = 0.02;

/** Compare two reports of `bench … -o json`, figure by figure. Throws FB1001 when none is in both. */
export function compareReports(a: unknown, b: unknown): Comparison[] {
  const rows: Comparison[] = [];
  for (const figure of FIGURES) {
    const left = numberAt(a, figure.path);
    const right = numberAt(b, figure.path);
    if (left === undefined || right === undefined) continue;
    rows.push({
      figure: figure.path.join("."),
      a: left,
      b: right,
      ratio: left === 0 ? null : Math.round((right / left) * 1000) / 1000,
      verdict: verdictOf(left, right, figure.moreIsBetter),
    });
  }
  if (rows.length === 0) {
    throw new FastblockError(
      "FB1001",
      "comparing reports: no figure stands in both, wanted two outputs of bench … -o json",
    );
  }
  return rows;
}

function verdictOf(a: number, b: number, moreIsBetter: boolean): Comparison["verdict"] {
  if (Math.abs(b - a) <= SAME_WITHIN * Math.abs(a)) return "same";
  return b > a === moreIsBetter ? "better" : "worse";
}

function numberAt(report: unknown, path: readonly string[]): number | undefined {
  let value: unknown = report;
  for (const key of path) {
    if (typeof value !== "object" || value === null) return undefined;
    value = (value as Record<string, unknown>)[key];
  }
  return typeof value === "number" ? value : undefined;
}
