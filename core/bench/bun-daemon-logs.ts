import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

/** What went on, and when; times since 1970. */
export interface TimedSpan {
  readonly fromMs: number;
  readonly toMs: number;
  /** `osd.1/0: late device operation (verb Read, region Log)` */
  readonly what: string;
}

const DAEMON = /^(?:osd|mon)(?:\..*)?\.log$/;

/** What all osds and mons of the directory have logged so far. */
export function readLogs(directory: string): TimedSpan[] {
  const names = readdirSync(directory).filter((name) => DAEMON.test(name));
  return names.flatMap((name) => parseLog(readFileSync(join(directory, name), "utf8")));
}

/** Read lines of a log. Those with `ms` are about the time before them. What is no line is left out. */
export function parseLog(text: string): TimedSpan[] {
  return text.split("\n").flatMap((line) => {
    if (!line.startsWith("{") || !line.endsWith("}")) return [];
    const { time, name, msg, level: _level, ms, ...fields } = JSON.parse(line) as Logged;
    const toMs = Date.parse(time ?? "");
    if (Number.isNaN(toMs)) return [];
    const told = Object.entries(fields).map(([key, value]) => `${key} ${String(value)}`);
    const behind = told.length === 0 ? "" : ` (${told.join(", ")})`;
    return [{ fromMs: toMs - (ms ?? 0), toMs, what: `${name ?? "?"}: ${msg ?? ""}${behind}` }];
  });
}

interface Logged extends Readonly<Record<string, unknown>> {
  readonly time?: string;
  readonly name?: string;
  readonly msg?: string;
  readonly level?: string;
  readonly ms?: number;
}

/**
 * In words what went on at any time from `fromMs` to `toMs`, alike ones together; the shortest first: they
 * say the most.
 */
export function ranBetween(spans: readonly TimedSpan[], fromMs: number, toMs: number): string[] {
  const found = new Map<string, { count: number; ms: number }>();
  for (const one of spans) {
    if (one.fromMs > toMs || one.toMs < fromMs) continue;
    const seen = found.get(one.what) ?? { count: 0, ms: 0 };
    found.set(one.what, {
      count: seen.count + 1,
      ms: Math.max(seen.ms, one.toMs - one.fromMs),
    });
  }
  return [...found]
    .toSorted(([, a], [, b]) => a.ms - b.ms)
    .map(([what, { count, ms }]) => {
      const lasted = ms === 0 ? "" : `, ${ms} ms`;
      return count === 1 ? `${what}${lasted}` : `${what}, ${count} times, at most ${ms} ms`;
    });
}
