// cold: the simulator
import type { Prng } from "../base/prng.ts";

const LEISURELY_TIMES = 24;

/** How the clients of a workload think between two operations. */
export interface Thinking {
  /** So many times as long as usual. */
  readonly times: number;
  /**
   * Of one round: from so many operations on they take their time. Seeds with quick devices and nothing in
   * the way made forty times as many operations as the others, and met no more for it.
   */
  readonly livelyOperations: number;
}

/** How long the clients of a workload think between two operations: chance, and how many they have made. */
export class SimPace {
  private readonly usMax: number;
  private readonly livelyOperations: number;
  private leisurelyFrom: number;

  /** `usMax`: µs, as usual. */
  constructor(usMax: number, { times, livelyOperations }: Thinking) {
    this.usMax = usMax * times;
    this.livelyOperations = livelyOperations;
    this.leisurelyFrom = livelyOperations;
  }

  /** A round begins after so many `operations`. */
  begin(operations: number): void {
    this.leisurelyFrom = operations + this.livelyOperations;
  }

  /** µs until the next one, after so many `operations`. */
  thinkUs(random: Prng, operations: number): number {
    return random.below(
      operations < this.leisurelyFrom ? this.usMax : this.usMax * LEISURELY_TIMES,
    );
  }
}
