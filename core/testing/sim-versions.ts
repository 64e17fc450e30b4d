// cold: the simulator
import { FastblockError } from "../base/errors.ts";
import { FORMATS, type FormatRange } from "../base/formats.ts";
import { Prng } from "../base/prng.ts";
import type { SimCluster, SimOsd } from "./sim-cluster.ts";
import type { SimFaults } from "./sim-faults.ts";

/**
 * Programs of two versions in one cluster: G17.
 *
 * Every osd and monitor that starts runs this version or the next one, which knows one format more:
 * restarts go up and down. Later all go up, and an operator raises the cluster's format as soon as the
 * monitor does it. From then on this version must refuse, and change nothing: it is started all the
 * same, and the next one in its place. Drawn beside all other faults.
 */

/** Of a program of the next version; it reads what both write. */
export const FORMATS_NEXT: FormatRange = { min: FORMATS.min, max: FORMATS.max + 1 };
const MIXED_US_MIN = 500_000;
const MIXED_US_SPAN = 1_000_000;
const STEP_US = 100_000;
/** One start of so many is of this version while all go up; and after the format was raised. */
const STRAGGLERS = 8;
const MISTAKES = 2;
const REFUSALS: readonly string[] = ["FB1016", "FB4003"];

enum Phase {
  Mixed = 0,
  Upward = 1,
  Raised = 2,
}

/** What processes of a run are of; made before the cluster. */
export class SimVersions {
  private readonly random: Prng;
  private phase = Phase.Mixed;
  /** Faults are over: whoever starts is of a version that fits. */
  private isQuiet = false;
  private monitor: FormatRange = FORMATS;

  constructor(seed: number) {
    this.random = new Prng(seed * 59 + 23);
  }

  /** The version of a process that starts. Clients go up before all others. */
  draw(who: "mon" | "osd" | "client"): FormatRange {
    if (who === "client") return FORMATS_NEXT;
    const formats = this.isOld(who) ? FORMATS : FORMATS_NEXT;
    if (who === "mon") this.monitor = formats;
    return formats;
  }

  private isOld(who: "mon" | "osd"): boolean {
    switch (this.phase) {
      case Phase.Mixed:
        return this.random.below(2) === 0;
      case Phase.Upward:
        return who === "osd" && !this.isQuiet && this.random.below(STRAGGLERS) === 0;
      case Phase.Raised:
        return who === "osd" && !this.isQuiet && this.random.below(MISTAKES) === 0;
    }
  }

  /** Plan it for a round of faults. */
  begin(cluster: SimCluster, faults: SimFaults): void {
    this.isQuiet = false;
    const delay = MIXED_US_MIN + this.random.below(MIXED_US_SPAN);
    faults.later(delay, () => {
      if (this.phase === Phase.Mixed) this.phase = Phase.Upward;
      this.step(cluster, faults);
    });
  }

  end(): void {
    this.isQuiet = true;
  }

  /** Whether the end of a process is that this version refused what it does not know. */
  isRefusal(osd: SimOsd, error: unknown): boolean {
    const isRefused = error instanceof FastblockError && REFUSALS.includes(error.code);
    return isRefused && this.phase !== Phase.Mixed && osd.formats.max < FORMATS_NEXT.max;
  }

  /** An operator at work: whoever is of this version goes up, the format is raised. */
  private step(cluster: SimCluster, faults: SimFaults): void {
    if (!faults.goesOn) return;
    faults.later(STEP_US + this.random.below(STEP_US), () => this.step(cluster, faults));
    if (cluster.clusterFormat === FORMATS_NEXT.max) {
      if (this.random.below(8) === 0) this.restartSome(cluster, faults);
      return;
    }
    const old = cluster.osds.find((osd) => osd.formats.max < FORMATS_NEXT.max);
    if (this.monitor.max < FORMATS_NEXT.max) faults.killMonitor();
    else if (old !== undefined) faults.crash(old);
    else this.raise(cluster, faults);
  }

  private restartSome(cluster: SimCluster, faults: SimFaults): void {
    const osd = cluster.osds[this.random.below(cluster.osds.length)]!;
    if (faults.crash(osd)) faults.note("restart after the format was raised");
  }

  private raise(cluster: SimCluster, faults: SimFaults): void {
    // What it is after a monitor that died meanwhile: nobody may be of this version who was let in.
    this.phase = Phase.Raised;
    faults.errand(async () => {
      try {
        await cluster.raiseFormat();
        faults.note("format raised");
      } catch (error) {
        // Somebody does not know it, or the monitor can not be asked.
        if (!(error instanceof FastblockError)) throw error;
      }
    });
  }
}
