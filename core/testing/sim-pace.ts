// cold: the simulator
import type { Prng } from "../base/prng.ts";

/**
 * Of one round: from here on clients take their time. Seeds with quick devices and nothing in the way made
 * forty times as many operations as the others, and met no more for it.
 */
const LIVELY_OPERATIONS = 400;
const LEISURELY_TIMES = 24;

/** How long the clients of a workload think between two operations: chance, and how many they have made. */
export class SimPace {
  private readonly usMax: number;
  private leisurelyFrom = LIVELY_OPERATIONS;

  /** `thinkTimes`: so many times as long as usual, `usMax` µs. */
  constructor(usMax: number, thinkTimes: number) {
    this.usMax = usMax * thinkTimes;
  }

  /** A round begins after so many `operations`. */
  begin(operations: number): void {
    this.leisurelyFrom = operations + LIVELY_OPERATIONS;
  }

  /** µs until the next one, after so many `operations`. */
  thinkUs(random: Prng, operations: number): number {
    return random.below(
      operations < this.leisurelyFrom ? this.usMax : this.usMax * LEISURELY_TIMES,
    );
  }
}
