// data path
/**
 * The worst moments of a load: when, how bad, and how late the load itself was.
 *
 * Operations are gathered by the 100 ms in which they were due; of each the slowest is kept. One stall is
 * in several neighbours: `list` tells them as one.
 */
export interface WorstMoment {
  /** When its slowest operation was due, in µs of the clock. */
  readonly dueUs: number;
  readonly latencyUs: number;
  /** Of that time: until the load handed it over, since it was late itself or had too many open. */
  readonly lateUs: number;
}

const SPAN_US = 100_000;

export class WorstMoments {
  private fromUs = 0;
  /** Three numbers a span: due, latency, late. */
  private spans: Float64Array;

  /** `lengthMs`: of the whole load; what is due later counts in the last span. */
  constructor(lengthMs: number) {
    this.spans = new Float64Array(3 * (1 + Math.ceil((lengthMs * 1000) / SPAN_US)));
  }

  /** Forget what was; spans count from here on. */
  reset(nowUs: number): void {
    this.fromUs = nowUs;
    this.spans.fill(0);
  }

  note(dueUs: number, latencyUs: number, lateUs: number): void {
    const span = Math.floor((dueUs - this.fromUs) / SPAN_US);
    const at = 3 * Math.max(0, Math.min(span, this.spans.length / 3 - 1));
    if (latencyUs <= this.spans[at + 1]!) return;
    this.spans[at] = dueUs;
    this.spans[at + 1] = latencyUs;
    this.spans[at + 2] = lateUs;
  }

  // cold: once per load.
  /** The worst ones, worst first, at most `most`. Those next to one that is told are part of it. */
  list(most: number): WorstMoment[] {
    const { spans } = this;
    const order = Array.from({ length: spans.length / 3 }, (_, span) => span)
      .filter((span) => spans[3 * span + 1]! > 0)
      .toSorted((a, b) => spans[3 * b + 1]! - spans[3 * a + 1]! || a - b);
    const told = new Set<number>();
    const moments: WorstMoment[] = [];
    for (const span of order) {
      if (moments.length === most) break;
      const isPart = told.has(span - 1) || told.has(span + 1);
      told.add(span);
      if (isPart) continue;
      const [dueUs, latencyUs, lateUs] = [...spans.subarray(3 * span, 3 * span + 3)];
      moments.push({ dueUs: dueUs!, latencyUs: latencyUs!, lateUs: lateUs! });
    }
    return moments;
  }
}
