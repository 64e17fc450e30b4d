import type { SuiteRowReport } from "./suite.ts";
import { round } from "./spending.ts";

/**
 * What fastblock aims at, as figures of the suite. Ratios to what the machine itself does in the same run
 * carry over to other machines; processor time per I/O does so nearly.
 */
interface Bar {
  /** Of the suite. */
  readonly row: string;
  readonly figure: string;
  readonly wanted: number;
  /** `wanted` is the most, else the least. */
  readonly isMost: boolean;
  /** Null: was not measured. `rows`: all of the suite, by their names. */
  of(row: SuiteRowReport, rows: ReadonlyMap<string, SuiteRowReport>): number | null;
  /** The same figure of `row.bare`. */
  bareOf?(row: SuiteRowReport): number | null;
}

/** One line of `bench suite --bars`. */
export interface BarReport {
  readonly row: string;
  readonly figure: string;
  readonly seen: number | null;
  readonly wanted: number;
  /** What bare processes reach that do nothing but the row's messages and device writes; null: was not measured. */
  readonly bare: number | null;
  readonly bound: "at least" | "at most";
  readonly verdict: "pass" | "FAIL" | "not measured";
  readonly [key: string]: unknown;
}

const STEADY_TURNS_MIN = 3;

/** Judge the rows of a suite; those that no bar is about are left out. `replicas` of each block. */
export function judgeRows(rows: readonly SuiteRowReport[], replicas: number): BarReport[] {
  const byName = new Map(rows.map((row) => [row.name, row]));
  return barsFor(replicas).flatMap((bar) => {
    const row = byName.get(bar.row);
    return row === undefined ? [] : [judge(bar, row, byName)];
  });
}

function judge(
  bar: Bar,
  row: SuiteRowReport,
  rows: ReadonlyMap<string, SuiteRowReport>,
): BarReport {
  return barOf(bar, bar.of(row, rows), bar.bareOf?.(row) ?? null);
}

/** How a figure, and that of bare processes, stand to what is aimed at. Null: was not measured. */
export function barOf(
  bar: Pick<Bar, "row" | "figure" | "wanted" | "isMost">,
  figure: number | null,
  bare: number | null = null,
): BarReport {
  const seen = figure === null || !Number.isFinite(figure) ? null : round(figure);
  const isMet = seen !== null && (bar.isMost ? seen <= bar.wanted : seen >= bar.wanted);
  return {
    row: bar.row,
    figure: bar.figure,
    seen,
    wanted: bar.wanted,
    bare: bare === null ? null : round(bare),
    bound: bar.isMost ? "at most" : "at least",
    verdict: seen === null ? "not measured" : isMet ? "pass" : "FAIL",
  };
}

function least(row: string, figure: string, wanted: number, of: Bar["of"]): Bar {
  return { row, figure, wanted, isMost: false, of };
}

function most(row: string, figure: string, wanted: number, of: Bar["of"]): Bar {
  return { row, figure, wanted, isMost: true, of };
}

function over(value: number | null, by: number | null | undefined): number | null {
  return value === null || by == null || by === 0 ? null : value / by;
}

function barsFor(replicas: number): readonly Bar[] {
  const bytes = (row: SuiteRowReport): number | null =>
    over(row.deviceBytesPerClientByte, replicas);
  const flushes = (row: SuiteRowReport): number | null => over(row.flushesPerClientWrite, replicas);
  const bytesText = "device bytes per client byte and replica";
  const flushesText = "durable writes ÷ (client writes × replicas)";
  const toBare = (row: SuiteRowReport): number | null => over(row.iops, row.bare?.iops);
  return [
    ...burst("randwrite:4KiB:32", 42),
    most("randwrite:4KiB:32", flushesText, 0.35, flushes),
    ...burst("randwrite:4KiB:128", 27),
    most("randwrite:4KiB:128", flushesText, 0.12, flushes),
    ...[1, 32, 128].flatMap((depth) => steady(depth, bytesText, bytes)),
    ...tail("randwrite:4KiB:128:tail"),
    {
      ...most("randwrite:4KiB:1", "p50 ÷ (durable device write + 2 round trips)", 1.3, (row) =>
        over(row.latencyUs.p50, row.bare?.p50Us),
      ),
      bareOf: ({ bare }) => over(bare?.wholeP50Us ?? null, bare?.p50Us),
    },
    most("randwrite:4KiB:1", "p99 ÷ p50", 3, (row) => over(row.latencyUs.p99, row.latencyUs.p50)),
    least("randread:4KiB:1", "IOPS ÷ bare message and device read", 0.9, toBare),
    least("randread:4KiB:32", "IOPS ÷ bare message and device read", 0.7, toBare),
    least(
      "randread:4KiB:32:cold",
      "IOPS ÷ raw IOPS from a start on (the whole index is in memory then)",
      0.45,
      ({ ratioToRaw }) => ratioToRaw,
    ),
    most("randwrite:64KiB:32", bytesText, 1.15, bytes),
    most("write:128KiB:16", bytesText, 1.08, bytes),
    least("write:128KiB:16", "rate ÷ (raw device ÷ replicas)", 0.6, (row) =>
      row.ratioToRaw === null ? null : row.ratioToRaw * replicas,
    ),
    least("read:128KiB:16", "rate ÷ the lower of raw device and loopback", 0.8, (row) =>
      row.raw === null || row.bare === null
        ? null
        : over(row.iops, Math.min(row.raw.iops, row.bare.iops)),
    ),
    ...["randwrite:4KiB:1", "randwrite:4KiB:32", "randread:4KiB:32"].map(gateway),
  ];
}

/** Through a gateway, for the native client's thing. */
function gateway(load: string): Bar {
  return least(`nbd:${load}`, "IOPS ÷ the native client's", 0.7, ({ iops }, rows) =>
    over(iops, rows.get(load)?.iops),
  );
}

/** Of an open loop at half of the peak; what the log's turns do to it shows only when there were some. */
function tail(row: string): readonly Bar[] {
  return [
    most(
      row,
      "p99.9 ÷ p50 at half of the peak",
      10,
      settled(({ latencyUs }) => over(latencyUs.p999, latencyUs.p50)),
    ),
    most(
      row,
      "longest ms at half of the peak",
      100,
      settled(({ latencyUs }) => latencyUs.max / 1000),
    ),
  ];
}

/** Nothing is said of a run that has not gone around the log often enough. */
function settled(of: Bar["of"]): Bar["of"] {
  return (report, rows) => ((report.logTurns ?? 0) < STEADY_TURNS_MIN ? null : of(report, rows));
}

function burst(row: string, cpuUs: number): readonly Bar[] {
  const rate = least(row, "IOPS ÷ raw durable IOPS", 0.75, ({ ratioToRaw }) => ratioToRaw);
  const cpu = most(row, "CPU µs per I/O", cpuUs, ({ cpuUsPerIo }) =>
    cpuUsPerIo === 0 ? null : cpuUsPerIo,
  );
  return [
    { ...rate, bareOf: ({ bare, raw }) => over(bare?.iops ?? null, raw?.iops) },
    { ...cpu, bareOf: ({ bare }) => bare?.cpuUsPerIo ?? null },
  ];
}

/** Depth 1 would take minutes to go around the log: what it wrote is moved home by the drain. */
function steady(depth: number, bytesText: string, bytes: Bar["of"]): readonly Bar[] {
  const row = `randwrite:4KiB:${String(depth)}:steady`;
  if (depth === 1) return [most(row, bytesText, 3, bytes)];
  return [
    least(
      row,
      "IOPS ÷ (raw IOPS ÷ device writes per client write)",
      0.75,
      settled(({ iops, raw, deviceWritesPerClientWrite }) =>
        raw === null || deviceWritesPerClientWrite === null
          ? null
          : over(iops * deviceWritesPerClientWrite, raw.iops),
      ),
    ),
    most(row, bytesText, 2.2, settled(bytes)),
  ];
}
