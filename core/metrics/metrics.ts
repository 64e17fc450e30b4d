// data path
/** The face of `core/metrics`: histograms, counters, and the time stamps of stages. */
import { assert } from "../base/assert.ts";

export {
  PEER_WIDTH,
  PEERS_AT,
  ROW_WIDTH,
  Stage,
  STAGE_COUNT,
  StageTrace,
  TRACE_PEERS_MAX,
  TRACE_ROWS,
  TRACE_ROWS_TOLD_MAX,
  TraceColumn,
  TraceKind,
  type TraceOrder,
  type TraceRows,
  TraceSide,
} from "./stage-trace.ts";

/** Below this many µs each has a bucket of its own; above, 32 buckets per doubling (≤ 3.2 % off). */
const LINEAR_BUCKETS = 64;
const SUB_BUCKETS = 32;
const SUB_BITS = 5;
/** Values from 2^32 µs (71 minutes) on count as the largest. */
const VALUE_MAX = 4_294_967_295;
const BUCKET_COUNT = LINEAR_BUCKETS + (32 - SUB_BITS - 1) * SUB_BUCKETS;

/**
 * A histogram of latencies in µs with log-linear buckets: fixed memory, no allocation per value,
 * percentiles within 3.2 % of the truth.
 *
 * Layout: 64 buckets of 1 µs, then for each power of two from 2^6 on 32 equal buckets.
 */
export class LatencyHistogram {
  count = 0;
  /** Sum of all values in µs. */
  sumUs = 0;
  maxUs = 0;
  private readonly buckets = new Float64Array(BUCKET_COUNT);

  /** Count one value in µs; fractions are dropped, negative values count as 0. */
  record(us: number): void {
    const value = us > 0 ? (us < VALUE_MAX ? us >>> 0 : VALUE_MAX) : 0;
    const bucket = bucketOf(value);
    this.buckets[bucket] = this.buckets[bucket]! + 1;
    this.count += 1;
    this.sumUs += value;
    if (value > this.maxUs) this.maxUs = value;
  }

  /** The value in µs that a share (0 to 1) of all values does not pass; 0 when empty. */
  percentile(share: number): number {
    assert(share >= 0 && share <= 1, "LatencyHistogram.percentile: share is outside of 0 to 1");
    if (this.count === 0) return 0;
    const wanted = Math.max(1, Math.ceil(this.count * share));
    let seen = 0;
    for (let bucket = 0; bucket < BUCKET_COUNT; bucket++) {
      seen += this.buckets[bucket]!;
      if (seen >= wanted) return Math.min(highestOf(bucket), this.maxUs);
    }
    return this.maxUs;
  }

  /** Mean in µs; 0 when empty. */
  meanUs(): number {
    return this.count === 0 ? 0 : this.sumUs / this.count;
  }

  /** Add what another histogram counted. */
  merge(other: LatencyHistogram): void {
    for (let bucket = 0; bucket < BUCKET_COUNT; bucket++) {
      this.buckets[bucket] = this.buckets[bucket]! + other.buckets[bucket]!;
    }
    this.count += other.count;
    this.sumUs += other.sumUs;
    if (other.maxUs > this.maxUs) this.maxUs = other.maxUs;
  }

  /** Values counted that are at most `us` (for cumulative buckets of an exporter). */
  countUpTo(us: number): number {
    let seen = 0;
    for (let bucket = 0; bucket < BUCKET_COUNT && highestOf(bucket) <= us; bucket++) {
      seen += this.buckets[bucket]!;
    }
    return seen;
  }

  reset(): void {
    this.buckets.fill(0);
    this.count = 0;
    this.sumUs = 0;
    this.maxUs = 0;
  }
}

function bucketOf(value: number): number {
  if (value < LINEAR_BUCKETS) return value;
  const exponent = 31 - Math.clz32(value);
  const shift = exponent - SUB_BITS;
  const sub = (value >>> shift) - SUB_BUCKETS;
  return LINEAR_BUCKETS + (shift - 1) * SUB_BUCKETS + sub;
}

/** The largest value that falls into a bucket. */
function highestOf(bucket: number): number {
  if (bucket < LINEAR_BUCKETS) return bucket;
  const group = Math.floor((bucket - LINEAR_BUCKETS) / SUB_BUCKETS) + 1;
  const sub = (bucket - LINEAR_BUCKETS) % SUB_BUCKETS;
  return (SUB_BUCKETS + sub + 1) * 2 ** group - 1;
}

/**
 * Named counters in one typed array. The owner declares an enum of indexes and the names beside
 * it; the data path adds by index, the exporter reads by name.
 */
export class Counters {
  readonly names: readonly string[];
  readonly values: Float64Array;

  constructor(names: readonly string[]) {
    this.names = names;
    this.values = new Float64Array(names.length);
  }

  add(index: number, amount: number): void {
    this.values[index] = this.values[index]! + amount;
  }

  get(index: number): number {
    assert(index >= 0 && index < this.values.length, "Counters.get: index out of range");
    return this.values[index]!;
  }
}
