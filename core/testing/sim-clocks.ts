// cold: the simulator
import { Prng } from "../base/prng.ts";
import type { SimCluster, SimOsd } from "./sim-cluster.ts";
import type { FaultKind, SimFaults } from "./sim-faults.ts";

/**
 * Clocks that strobe, in some seeds only: the wall clock of a machine jumps forth and back many times
 * a second, and its other clock, which only goes forward, runs now a little fast and now a little slow.
 * Leases hold all the same: the two clocks of a promise never differ by more than they allow for.
 */

/** In one of so many seeds; recorded seeds are not among them. */
const STROBE_SEEDS = 4;
/** Leases allow for 1 % between two clocks. */
export const DRIFT_SHARE = 0.0045;
const JUMP_MS_MAX = 5_000;
const STEP_US_MAX = 40_000;
const STROBE_US_MAX = 1_500_000;

/** Whether clocks strobe in a seed. */
function strobes(seed: number): boolean {
  return new Prng(seed * 79 + 27).below(STROBE_SEEDS) === 0;
}

/** The fault, for seeds that have it. */
export function clockKinds(cluster: SimCluster, faults: SimFaults): FaultKind[] {
  if (!strobes(cluster.simulation.seed)) return [];
  const run = (osd: SimOsd): boolean => {
    const machines = [
      osd.world,
      cluster.monWorld,
      ...cluster.clients.map(({ world }) => world),
      ...cluster.osds.filter(() => faults.random.below(2) === 0).map(({ world }) => world),
    ];
    const { random } = faults;
    const endUs = cluster.simulation.nowUs + 100_000 + random.below(STROBE_US_MAX);
    const step = (): void => {
      const isOver = cluster.simulation.nowUs > endUs;
      for (const world of machines) {
        if (world?.alive !== true) continue;
        world.stepWall(random.below(2 * JUMP_MS_MAX + 1) - JUMP_MS_MAX);
        world.setRate(isOver ? 0 : (random.below(2001) / 1000 - 1) * DRIFT_SHARE);
      }
      if (!isOver) faults.later(1 + random.below(STEP_US_MAX), step);
    };
    step();
    return true;
  };
  return [{ name: "clocks strobe", weight: 9, run }];
}
