// cold: the simulator
import type { SimVerdict } from "./sim-run.ts";

/** So many seeds meet every rare situation that is known. */
const SEEDS_NIGHTLY = 1000;

/** What many runs came to. */
export class SimTally {
  seeds = 0;
  operations = 0;
  shared = 0;
  unanswered = 0;
  refused = 0;
  fills = 0;
  blocksFilled = 0;
  blocksHealed = 0;
  /** Faults and rare situations, by name. */
  readonly faults: Record<string, number> = {};
  readonly probes: Record<string, number> = {};

  add(verdict: SimVerdict): void {
    this.seeds += 1;
    this.operations += verdict.operations;
    this.shared += verdict.shared;
    this.unanswered += verdict.unanswered;
    this.refused += verdict.refused;
    this.fills += verdict.fills;
    this.blocksFilled += verdict.blocksFilled;
    this.blocksHealed += verdict.blocksHealed;
    addAll(this.faults, verdict.faults);
    addAll(this.probes, verdict.probes);
  }

  /** Rare situations that no run has met: the runs are blind for them. */
  get missed(): string[] {
    return Object.keys(this.probes).filter((name) => this.probes[name] === 0);
  }

  /** The same, once the runs are so many that they should have met all: else empty. */
  get unmet(): string[] {
    return this.seeds < SEEDS_NIGHTLY ? [] : this.missed;
  }
}

function addAll(to: Record<string, number>, from: Readonly<Record<string, number>>): void {
  for (const [name, count] of Object.entries(from)) to[name] = (to[name] ?? 0) + count;
}
