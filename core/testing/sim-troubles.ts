// cold: the simulator
import { Prng } from "../base/prng.ts";
import { isServing, type SimCluster, type SimOsd } from "./sim-cluster.ts";
import type { SimDevices, StrayKind } from "./sim-devices.ts";
import type { FaultKind, SimFaults } from "./sim-faults.ts";

/**
 * The rarer troubles of devices, in a share of the seeds, so often there that runs are full of them.
 *
 *   flush failed       any osd: some of what it covered is gone; sooner or later the power is cut too
 *   hung operation     any osd: one read, write or flush never ends, until the osd is started again
 *   short transfers    any osd: some reads and writes move less than they were to
 *   strays, lies       the victim: as `sim-devices.ts` has them, of up to a tenth of its operations
 *
 * Which seeds, when, and what: all of that is drawn from a stream of their own, so that the other seeds
 * run as if there were none of this. Their numbers, for who leaves some of them out, follow on those of all
 * other faults.
 */

/** Which of them a run may meet. */
export interface TroublePlan {
  readonly flushes: boolean;
  readonly hangs: boolean;
  readonly shorts: boolean;
  readonly strays: boolean;
  readonly lies: boolean;
}

/** Of devices that do what they are told. */
export const NO_TROUBLES: TroublePlan = {
  flushes: false,
  hangs: false,
  shorts: false,
  strays: false,
  lies: false,
};

const FIRST_NUMBER = 1_000_000;
const PACE_US_MIN = 40_000;
const PACE_US = 250_000;
/** For this long, in looks, the next operation is waited for that fails or hangs. */
const LOOKS_MAX = 200;
const LOOK_US = 5_000;
/** Of a round: where every second osd hangs, nothing goes on. */
const HANGS_MAX = 2;
const DOWN_US_MAX = 200_000;

/** Drawn so that no seed is among those that once found something rare. */
export function troublesOf(seed: number): TroublePlan {
  const random = new Prng(seed * 101 + 4151);
  return {
    flushes: random.below(4) === 0,
    hangs: random.below(6) === 0,
    shorts: random.below(6) === 0,
    strays: random.below(3) === 0,
    lies: random.below(5) === 0,
  };
}

export class SimTroubles {
  private readonly cluster: SimCluster;
  private readonly faults: SimFaults;
  private readonly devices: SimDevices;
  private readonly pace: Prng;
  private readonly kinds: readonly FaultKind[];
  private drawn = FIRST_NUMBER;
  private hangsLeft = 0;
  private endUs = 0;

  constructor(cluster: SimCluster, faults: SimFaults, plan: TroublePlan) {
    this.cluster = cluster;
    this.faults = faults;
    this.devices = faults.devices;
    this.pace = new Prng(cluster.simulation.seed * 103 + 67);
    const all: readonly [boolean, FaultKind][] = [
      [plan.flushes, { name: "flush failed", weight: 3, run: (osd) => this.failFlush(osd) }],
      [plan.hangs, { name: "hung operation", weight: 2, run: (osd) => this.hang(osd) }],
      [plan.shorts, { name: "short transfers", weight: 2, run: (osd) => this.shorten(osd) }],
      [plan.strays, this.strayKind("misdirected writes", "misdirectedWriteShare")],
      [plan.strays, this.strayKind("misdirected reads", "misdirectedReadShare")],
      [plan.strays, this.strayKind("lost writes", "lostWriteShare")],
      [plan.lies, { name: "lying flush", weight: 3, run: () => this.devices.lie() }],
    ];
    this.kinds = all.filter(([isPlanned]) => isPlanned).map(([, kind]) => kind);
  }

  /** Plan troubles until `endUs`. */
  begin(endUs: number): void {
    this.endUs = endUs;
    this.hangsLeft = HANGS_MAX;
    if (this.kinds.length > 0) this.planNext();
  }

  private planNext(): void {
    const { simulation } = this.cluster;
    const delayUs = PACE_US_MIN + this.pace.below(PACE_US);
    if (simulation.nowUs + delayUs >= this.endUs) return;
    simulation.after(delayUs, () => {
      this.inject();
      this.planNext();
    });
  }

  private inject(): void {
    const { osds, simulation } = this.cluster;
    const number = ++this.drawn;
    const { faults } = this;
    if (faults.plan.without.has(number) || faults.isPeace) return;
    const random = new Prng(simulation.seed * 4099 + number);
    const osd = osds[random.below(osds.length)]!;
    const total = this.kinds.reduce((sum, { weight }) => sum + weight, 0);
    let left = random.below(total);
    const kind = this.kinds.find(({ weight }) => (left -= weight) < 0)!;
    faults.random = random;
    if (kind.run(osd)) faults.noteAs(number, kind.name, osd.id);
  }

  private strayKind(name: string, kind: StrayKind): FaultKind {
    const run = (): boolean => {
      const { random } = this.faults;
      const share = (random.below(2) === 0 ? 0.02 : 0.1) * ((1 + random.below(10)) / 10);
      return this.devices.stray(kind, share);
    };
    return { name, weight: 2, run };
  }

  /**
   * The next flush fails. The osd must end then; an osd that goes on as if nothing had been lost is found
   * by the power cut that comes a while later, as it may come soon after the next start.
   */
  private failFlush(osd: SimOsd): boolean {
    const { devices, faults } = this;
    if (!devices.isWell(osd)) return false;
    const disk = this.cluster.simulation.disk(osd.path);
    const { strikes } = disk;
    const before = strikes.flushesFailed;
    const { random } = faults;
    devices.fails(osd);
    disk.faults.failFlushes = 1;
    if (random.below(2) === 0) for (const { pg } of osd.shards) pg.store.requestCheckpoint();
    faults.errand(async () => {
      const failed = await this.until(() => strikes.flushesFailed > before);
      disk.faults.failFlushes = 0;
      if (failed) {
        await faults.sleep(1_000 + random.below(400_000));
        await this.until(() => isServing(osd));
        if (!faults.isSteady(osd)) faults.cutPower(osd, 1_000 + random.below(DOWN_US_MAX));
      }
      devices.mend(osd);
    });
    return true;
  }

  /** The next read, or write, never ends; some time later somebody starts the osd again. */
  private hang(osd: SimOsd): boolean {
    const { devices, faults } = this;
    if (this.hangsLeft === 0 || !devices.isWell(osd)) return false;
    this.hangsLeft -= 1;
    const disk = this.cluster.simulation.disk(osd.path);
    const { strikes } = disk;
    const before = strikes.hung;
    const { random } = faults;
    devices.fails(osd);
    if (random.below(3) === 0) disk.faults.hangReads = 1;
    else disk.faults.hangWrites = 1;
    const hungUs = 200_000 + random.below(3_000_000);
    const downUs = 1_000 + random.below(DOWN_US_MAX);
    faults.errand(async () => {
      const hangs = await this.until(() => strikes.hung > before);
      Object.assign(disk.faults, { hangReads: 0, hangWrites: 0 });
      const { world } = osd;
      if (hangs) await faults.sleep(hungUs);
      if (hangs && osd.world === world) faults.cutPower(osd, downUs);
      devices.mend(osd);
    });
    return true;
  }

  private shorten(osd: SimOsd): boolean {
    const { devices, faults } = this;
    if (!devices.isWell(osd)) return false;
    const { random } = faults;
    devices.fails(osd);
    this.cluster.simulation.disk(osd.path).faults.shortShare = 0.005 + random.below(50) / 1000;
    devices.mendLater(osd, 50_000 + random.below(500_000));
    return true;
  }

  /** Wait a while for something; answers whether it happened. */
  private async until(ready: () => boolean): Promise<boolean> {
    for (let looks = 0; looks < LOOKS_MAX; looks++) {
      if (ready()) return true;
      await this.faults.sleep(LOOK_US);
    }
    return ready();
  }
}
