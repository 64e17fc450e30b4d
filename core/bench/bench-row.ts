import type { LatencyHistogram } from "../metrics/metrics.ts";

/** Processor time of the process so far, in µs; `cmd/` supplies it. */
export interface CpuClock {
  read(): { readonly userUs: number; readonly systemUs: number };
}

/** One line of a micro-benchmark. */
export interface BenchRow {
  readonly name: string;
  readonly operations: number;
  readonly opsPerSecond: number;
  readonly latencyUs: {
    readonly p50: number;
    readonly p99: number;
    readonly p999: number;
    readonly max: number;
  };
  /** Processor time per operation, in µs. */
  readonly cpuUsPerOp: { readonly user: number; readonly system: number };
}

/** What was measured between two moments. */
export interface BenchSpan {
  readonly startUs: number;
  readonly endUs: number;
  readonly cpuBefore: { readonly userUs: number; readonly systemUs: number };
  readonly cpuAfter: { readonly userUs: number; readonly systemUs: number };
}

/** Make the line for what a histogram counted in a span. */
export function rowOf(name: string, histogram: LatencyHistogram, span: BenchSpan): BenchRow {
  const operations = histogram.count;
  const seconds = (span.endUs - span.startUs) / 1_000_000;
  const perOp = (us: number): number => (operations === 0 ? 0 : us / operations);
  return {
    name,
    operations,
    opsPerSecond: seconds > 0 ? operations / seconds : 0,
    latencyUs: {
      p50: histogram.percentile(0.5),
      p99: histogram.percentile(0.99),
      p999: histogram.percentile(0.999),
      max: histogram.maxUs,
    },
    cpuUsPerOp: {
      user: perOp(span.cpuAfter.userUs - span.cpuBefore.userUs),
      system: perOp(span.cpuAfter.systemUs - span.cpuBefore.systemUs),
    },
  };
}
