// cold: the simulator
import { Prng } from "../base/prng.ts";
import type { MemoryMetaStore } from "../mon/mon.ts";
import type { SimCluster } from "./sim-cluster.ts";
import type { SimFaults } from "./sim-faults.ts";

/**
 * The monitor's catalogue is lost, and put back from an older copy: G10.
 *
 * An operator makes a copy at some time, and later puts it back, sometimes twice, as it is documented:
 * the monitor is started with `--restored`. What the copy has forgotten (sessions, locks, maps, ids)
 * comes a second time if anything does. Drawn beside all other faults.
 */

const COPY_US_MAX = 1_500_000;
const WAIT_US_MIN = 300_000;
const WAIT_US_MAX = 1_500_000;
const DOWN_US_MAX = 1_000_000;

export class SimBackup {
  private readonly cluster: SimCluster;
  private readonly faults: SimFaults;
  private readonly random: Prng;

  constructor(cluster: SimCluster, faults: SimFaults) {
    this.cluster = cluster;
    this.faults = faults;
    this.random = new Prng(cluster.simulation.seed * 53 + 19);
  }

  /** Plan it for a round of faults. */
  begin(): void {
    const times = 1 + this.random.below(2);
    this.faults.later(this.random.below(COPY_US_MAX), () => {
      this.putBackLater(this.cluster.copyCatalogue(), times);
    });
  }

  private putBackLater(copy: MemoryMetaStore, times: number): void {
    const { cluster, faults, random } = this;
    faults.later(WAIT_US_MIN + random.below(WAIT_US_MAX), () => {
      cluster.restoreMonitor(copy);
      faults.note("old catalogue put back");
      faults.later(random.below(DOWN_US_MAX), () => faults.startMonitor());
      if (times > 1) this.putBackLater(copy, times - 1);
    });
  }
}
