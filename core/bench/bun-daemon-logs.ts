import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

/** What a daemon of a cluster directory logged, and the time that it is about. */
export interface LoggedSpan {
  readonly fromMs: number;
  readonly toMs: number;
  /** `osd.1/0: checkpoint written (ms 31)` */
  readonly words: string;
}

/** What all daemons of the directory have logged so far. */
export function readLogs(directory: string): LoggedSpan[] {
  const names = readdirSync(directory).filter((name) =>
    /^(?:osd|mon)\..*\.log$|^mon\.log$/.test(name),
  );
  return names.flatMap((name) => parseLog(readFileSync(join(directory, name), "utf8")));
}

/** Read lines of a log. Those with `ms` are about the time before them. What is no line is left out. */
export function parseLog(text: string): LoggedSpan[] {
  return text.split("\n").flatMap((line) => {
    if (!line.startsWith("{") || !line.endsWith("}")) return [];
    const { time, name, msg, level: _level, ...fields } = JSON.parse(line) as Logged;
    const toMs = Date.parse(time ?? "");
    if (Number.isNaN(toMs)) return [];
    const lastedMs = typeof fields["ms"] === "number" ? fields["ms"] : 0;
    const told = Object.entries(fields).map(([key, value]) => `${key} ${String(value)}`);
    const behind = told.length === 0 ? "" : ` (${told.join(", ")})`;
    return [{ fromMs: toMs - lastedMs, toMs, words: `${name ?? "?"}: ${msg ?? ""}${behind}` }];
  });
}

interface Logged extends Readonly<Record<string, unknown>> {
  readonly time?: string;
  readonly name?: string;
  readonly msg?: string;
  readonly level?: string;
}

/** In words what went on at any time from `fromMs` to `toMs`, the shortest first: they say the most. */
export function ranBetween(logs: readonly LoggedSpan[], fromMs: number, toMs: number): string[] {
  return logs
    .filter((one) => one.fromMs <= toMs && one.toMs >= fromMs)
    .toSorted((a, b) => a.toMs - a.fromMs - (b.toMs - b.fromMs) || a.toMs - b.toMs)
    .map(({ words }) => words);
}
