import type { LatencyHistogram } from "../metrics/metrics.ts";

/** Latencies in µs, as every report of `fastblock bench` shows them. */
export interface LatencyReport {
  readonly mean: number;
  readonly p50: number;
  readonly p99: number;
  readonly p999: number;
  readonly max: number;
}

/** Sum a histogram up. */
export function latencyReport(histogram: LatencyHistogram): LatencyReport {
  return {
    mean: Math.round(histogram.meanUs() * 10) / 10,
    p50: histogram.percentile(0.5),
    p99: histogram.percentile(0.99),
    p999: histogram.percentile(0.999),
    max: histogram.maxUs,
  };
}
