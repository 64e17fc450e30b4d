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
  { path: ["flushesPerClientWrite"], moreIsBetter: false },
  { path: ["switchesPerIo"], moreIsBetter: false },
  { path: ["systemCallsPerIo"], moreIsBetter: false },
  { path: ["ratioToRaw"], moreIsBetter: true },
];

const SAME_WITHIN = 0.02;

/**
 * Compare two reports of `bench … -o json`, figure by figure; of the suite, the rows that are in
 * both. Throws FB1001 when no figure is.
 */
export function compareReports(a: unknown, b: unknown): Comparison[] {
  const rows = figuresOf("", a, b);
  const others = rowsOf(b);
  for (const [name, row] of rowsOf(a)) {
    if (others.has(name)) rows.push(...figuresOf(`${name} `, row, others.get(name)));
  }
  if (rows.length === 0) {
    throw new FastblockError(
      "FB1001",
      "comparing reports: no figure stands in both, wanted two outputs of bench … -o json",
    );
  }
  return rows;
}

/** What makes a load: figures of unlike ones say little of each other. */
const LOAD = [
  "kind",
  "rw",
  "blockBytes",
  "depth",
  "jobs",
  "opsPerSecond",
  "replicas",
  "shards",
  "imageBytes",
  "encrypted",
];

/** In which words the loads of two reports differ, a line each; what one does not tell is left out. */
export function unlikeLoads(a: unknown, b: unknown): string[] {
  const left = wordsOf(a);
  const right = wordsOf(b);
  const lines = LOAD.filter(
    (key) => left.has(key) && right.has(key) && left.get(key) !== right.get(key),
  ).map((key) => `${key} is ${String(left.get(key))} in A, ${String(right.get(key))} in B`);
  const [first, second] = [filledOf(left), filledOf(right)];
  if (first === undefined || second === undefined || first === second) return lines;
  const [who, other] = first ? ["A", "B"] : ["B", "A"];
  return [...lines, `${who} filled its image first, ${other} took it as it was`];
}

/** Undefined: the report does not tell. */
function filledOf(words: ReadonlyMap<string, unknown>): boolean | undefined {
  return words.has("filled") ? words.get("filled") !== null : undefined;
}

function wordsOf(report: unknown): Map<string, unknown> {
  return new Map(typeof report === "object" && report !== null ? Object.entries(report) : []);
}

/** Rows by their name: those of `bench suite`, and of the micro-benchmarks. */
function rowsOf(report: unknown): Map<string, unknown> {
  const listed = Array.isArray(report) ? report : (report as { rows?: unknown } | null)?.rows;
  const rows = new Map<string, unknown>();
  if (!Array.isArray(listed)) return rows;
  for (const row of listed as readonly unknown[]) {
    const name = (row as { name?: unknown } | null)?.name;
    if (typeof name === "string") rows.set(name, row);
  }
  return rows;
}

function figuresOf(prefix: string, a: unknown, b: unknown): Comparison[] {
  const rows: Comparison[] = [];
  for (const figure of FIGURES) {
    const left = numberAt(a, figure.path);
    const right = numberAt(b, figure.path);
    if (left === undefined || right === undefined) continue;
    rows.push({
      figure: prefix + figure.path.join("."),
      a: left,
      b: right,
      ratio: left === 0 ? null : Math.round((right / left) * 1000) / 1000,
      verdict: verdictOf(left, right, figure.moreIsBetter),
    });
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
