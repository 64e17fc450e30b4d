// cold: the simulator
import type { FaultNote } from "./sim-faults.ts";

/**
 * What a run has from its beginning to its end, beside faults: a failing run is shrunk by these as by
 * faults, so each has a number, above those of faults.
 */
export enum SimPart {
  Operators = 2_000_001,
  OldCatalogue = 2_000_002,
  Versions = 2_000_003,
  FlippedBits = 2_000_004,
  ClockDrift = 2_000_005,
  Tunables = 2_000_006,
}

const NAMES: Readonly<Record<SimPart, string>> = {
  [SimPart.Operators]: "operators at work",
  [SimPart.OldCatalogue]: "old catalogues put back",
  [SimPart.Versions]: "programs of two versions",
  [SimPart.FlippedBits]: "bits that flip on wires",
  [SimPart.ClockDrift]: "clocks that drift",
  [SimPart.Tunables]: "limits and times drawn by the seed",
};

/** The parts of a run, less those that are left out. */
export class SimParts {
  /** Of those that the run has. */
  readonly notes: FaultNote[] = [];
  private readonly without: ReadonlySet<number>;

  constructor(without: ReadonlySet<number>) {
    this.without = without;
  }

  /** Whether the run has a part that its seed `draws` for it. */
  has(part: SimPart, draws: boolean): boolean {
    if (!draws || this.without.has(part)) return false;
    this.notes.push({ number: part, atUs: 0, name: NAMES[part], osd: -1 });
    return true;
  }
}
