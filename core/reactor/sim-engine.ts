// cold: the simulator
import { Prng } from "../base/prng.ts";

/** One thing that will happen. */
interface SimEvent {
  readonly atUs: number;
  /** Breaks ties: what was planned first happens first. */
  readonly seq: number;
  readonly action: () => void;
}

/** Kinds of facts that enter the trace hash. */
export enum TraceKind {
  Turn = 1,
  DiskSubmit = 2,
  DiskDone = 3,
  Segment = 4,
  Connect = 5,
  Close = 6,
  Crash = 7,
  Fault = 8,
}

/**
 * Time, chance and the future of one simulation: a queue of events ordered by simulated µs. All
 * chance comes from one seed, so a run is a function of the seed and of the code.
 */
export class SimEngine {
  readonly seed: number;
  readonly random: Prng;
  nowUs = 0;
  private readonly heap: SimEvent[] = [];
  private seq = 0;
  private hashLow = 0x811c_9dc5;
  private hashHigh = 0x9e37_79b9;

  constructor(seed: number) {
    this.seed = seed;
    this.random = new Prng(seed);
  }

  /** Do something `delayUs` from now (at once: 0). */
  after(delayUs: number, action: () => void): void {
    const event = { atUs: this.nowUs + Math.max(0, delayUs), seq: this.seq, action };
    this.seq += 1;
    this.push(event);
  }

  /** When the next event happens; Infinity when there is none. */
  get nextUs(): number {
    return this.heap[0]?.atUs ?? Number.POSITIVE_INFINITY;
  }

  /** Let the next event happen; false when there is none. */
  step(): boolean {
    const event = this.pop();
    if (event === undefined) return false;
    this.nowUs = event.atUs;
    event.action();
    return true;
  }

  /** A whole number drawn from [low, high]. */
  between(low: number, high: number): number {
    return high <= low ? low : low + this.random.below(high - low + 1);
  }

  /** True with the given probability; draws nothing for 0. */
  chance(share: number): boolean {
    return share > 0 && this.random.u32() < share * 4_294_967_296;
  }

  /** Add a fact to the trace. */
  trace(kind: TraceKind, a: number, b: number): void {
    let low = this.hashLow;
    low = Math.imul(low ^ kind, 0x0100_0193) ^ (this.nowUs >>> 0);
    low = Math.imul(low, 0x0100_0193) ^ (a >>> 0);
    low = Math.imul(low, 0x0100_0193) ^ (b >>> 0);
    this.hashLow = Math.imul(low, 0x0100_0193);
    this.hashHigh = (Math.imul(this.hashHigh, 31) + (low ^ (low >>> 15))) >>> 0;
  }

  /** 16 hex digits over every fact so far, in order. */
  get traceHash(): string {
    const hex = (value: number): string => (value >>> 0).toString(16).padStart(8, "0");
    return hex(this.hashHigh) + hex(this.hashLow);
  }

  private push(event: SimEvent): void {
    const { heap } = this;
    let at = heap.length;
    heap.push(event);
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!before(event, heap[parent]!)) break;
      heap[at] = heap[parent]!;
      at = parent;
    }
    heap[at] = event;
  }

  private pop(): SimEvent | undefined {
    const { heap } = this;
    const first = heap[0];
    const last = heap.pop();
    if (first === undefined || last === undefined || heap.length === 0) return first;
    let at = 0;
    for (;;) {
      let child = at * 2 + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && before(heap[child + 1]!, heap[child]!)) child += 1;
      if (!before(heap[child]!, last)) break;
      heap[at] = heap[child]!;
      at = child;
    }
    heap[at] = last;
    return first;
  }
}

function before(a: SimEvent, b: SimEvent): boolean {
  return a.atUs < b.atUs || (a.atUs === b.atUs && a.seq < b.seq);
}

/** What one simulated process offers to its disks and its network. */
export interface SimHost {
  readonly engine: SimEngine;
  /** Number of the process in the trace. */
  readonly id: number;
  readonly address: string;
  readonly alive: boolean;
  /** Take a turn as soon as the process can. */
  requestTurn(): void;
}
