// cold: the simulator
import { FastblockError } from "../base/errors.ts";
import type { OsdId } from "../base/ids.ts";
import { Prng } from "../base/prng.ts";
import { type PgInfo, RecoverySpeed } from "../cluster/cluster.ts";
import type { SimCluster, SimOsd } from "./sim-cluster.ts";
import type { SimFaults } from "./sim-faults.ts";
import type { SimProbes } from "./sim-probes.ts";

/**
 * Operators at work while faults happen, as people are who see that something is wrong.
 *
 * They scrub groups, light or deep; turn the recovery dial, pause recovery and resume it, most of all
 * while a replica is filled; take osds out and in; add one, and let replicas move there; and the
 * clock of the monitor's machine, after which scrubs are scheduled and numbered, steps. In the end they
 * put everything back, and scrub until nothing is left that a scrub could not put right. Drawn beside
 * all other faults.
 */

/** In one seed of so many; so that no seed is among them that once found something. */
const OPERATED_SEEDS = 5;
/** Between two things that are done. */
const PACE_US_MIN = 30_000;
const PACE_US_SPAN = 250_000;
/** Recovery is paused for so long, if nobody resumes it before. */
const PAUSE_US_MIN = 50_000;
const PAUSE_US_SPAN = 600_000;
const WALL_STEP_MS = 20 * 86_400_000;
const LOOK_US = 100_000;
const SPEEDS = ["low", "medium", "high"] as const;
/** Logged as an error, and put right in the end. */
const SCRUB_LEFT = "scrub found what it can not put right";

/** Whether operators are at work in the run of a seed. */
export function isOperated(seed: number): boolean {
  return new Prng(seed * 61 + 9).below(OPERATED_SEEDS) === 0;
}

/** Whether a message that is logged as an error says that somebody is away who could heal a block. */
export function isScrubLeft(message: string): boolean {
  return message === SCRUB_LEFT;
}

interface Task {
  readonly weight: number;
  readonly run: () => Promise<void>;
}

export class SimOperators {
  private readonly cluster: SimCluster;
  private readonly faults: SimFaults;
  private readonly probes: SimProbes;
  private readonly random: Prng;
  private readonly tasks: readonly Task[];
  private isBusy = false;
  /** Somebody was filled at the last look. */
  private isFilled = false;
  /** Blocks of devices that were damaged by then. */
  private damaged = 0;
  private isAdded = false;
  /** Faults have ended. */
  private isQuiet = true;
  /** Scrubs of leaders that were seen done: groups with their orders. */
  private readonly seen = new Set<string>();

  constructor(cluster: SimCluster, faults: SimFaults, probes: SimProbes) {
    this.cluster = cluster;
    this.faults = faults;
    this.probes = probes;
    this.random = new Prng(cluster.simulation.seed * 67 + 29);
    this.tasks = [
      { weight: 6, run: () => this.scrub() },
      { weight: 2, run: () => this.turnDial() },
      { weight: 2, run: () => this.pause() },
      { weight: 3, run: () => this.turnOsd() },
      { weight: 1, run: () => this.addOsd() },
      { weight: 1, run: () => this.stepMonitor() },
    ];
  }

  /** A round of faults begins. */
  begin(): void {
    this.isQuiet = false;
    this.start(() => this.scrubSome(this.cluster.pgs, this.random.below(2) === 0));
    this.planNext();
  }

  /**
   * Faults have ended: everything is as it is usually, and what scrubs left is put right. In half of the
   * rounds everything is scrubbed then, before anybody reads all of it.
   */
  end(): void {
    this.isQuiet = true;
    this.faults.errand(() => this.tidy());
  }

  private planNext(): void {
    this.faults.later(PACE_US_MIN + this.random.below(PACE_US_SPAN), () => {
      this.start(this.draw());
      this.planNext();
    });
  }

  private draw(): () => Promise<void> {
    const total = this.tasks.reduce((sum, { weight }) => sum + weight, 0);
    let left = this.random.below(total);
    return this.tasks.find(({ weight }) => (left -= weight) < 0)!.run;
  }

  /** One thing at a time, while there is a monitor to be asked. */
  private start(task: () => Promise<void>): void {
    if (this.isBusy || !this.cluster.monitorServes) return;
    this.isBusy = true;
    this.faults.errand(async () => {
      await this.attempt(task);
      this.isBusy = false;
    });
  }

  /** False: the monitor refuses, and says why, or has died. */
  private async attempt(task: () => Promise<void>): Promise<boolean> {
    try {
      await task();
      return true;
    } catch (error) {
      if (!(error instanceof FastblockError)) throw error;
      return false;
    }
  }

  /* -------------------------------------------------------------------- tasks */

  private scrub(): Promise<void> {
    const { random } = this;
    const { pgs } = this.cluster;
    const isDeep = random.below(2) === 0;
    return this.scrubSome(random.below(3) === 0 ? pgs : [pgs[random.below(pgs.length)]!], isDeep);
  }

  private scrubSome(pgs: readonly PgInfo[], isDeep: boolean): Promise<void> {
    for (const pg of pgs) this.cluster.monitor.scrubs.request(pg, isDeep);
    this.faults.note(isDeep ? "scrub deep" : "scrub light");
    return Promise.resolve();
  }

  private async turnDial(): Promise<void> {
    const speed = SPEEDS[this.random.below(SPEEDS.length)]!;
    const isSame = this.cluster.recovery.view().speed === speed;
    await this.wish({ speed });
    this.faults.note("dial turned");
    if (!isSame && this.isFilling) this.probes.hit("dial changed during a fill");
  }

  private async pause(): Promise<void> {
    if (this.cluster.recovery.paused) {
      await this.wish({ paused: false });
      this.faults.note("recovery resumed");
      return;
    }
    const us = PAUSE_US_MIN + this.random.below(PAUSE_US_SPAN);
    await this.wish({ paused: true });
    this.faults.note("recovery paused");
    if (this.isFilling) this.probes.hit("recovery paused during a fill");
    this.faults.later(us, () => {
      if (this.cluster.recovery.paused) this.start(() => this.pause());
    });
  }

  private wish(wish: Parameters<SimCluster["recovery"]["set"]>[0]): Promise<void> {
    return this.cluster.asked(({ recovery }) => recovery.set(wish, false));
  }

  /** An osd goes out; one that is out comes in. */
  private async turnOsd(): Promise<void> {
    const { cluster, random } = this;
    const all = [...cluster.monitor.catalogue.map.osds.values()];
    const osd = all[random.below(Math.max(1, all.length))];
    if (osd === undefined) return;
    await this.setIn(osd.id, !osd.in);
    this.faults.note(osd.in ? "osd out" : "osd in");
    if (osd.in) this.probes.hit("osd went out");
  }

  private setIn(id: OsdId, isIn: boolean): Promise<void> {
    return this.cluster.asked(({ osds }) => osds.setIn(id, isIn, false));
  }

  /** One more osd, once a run; a replica of some groups moves there as soon as it is up. */
  private async addOsd(): Promise<void> {
    if (this.isAdded) return;
    this.isAdded = true;
    const { cluster, faults } = this;
    const osd = await cluster.addOsd();
    cluster.simulation.disk(osd.path).faults.latencyUsMax = faults.plan.deviceUsMax;
    faults.note("osd added");
    faults.errand(async () => {
      while (!cluster.isUp(osd)) await faults.sleep(LOOK_US);
      for (const pg of cluster.pgs) {
        if (this.random.below(3) === 0) await this.attempt(() => this.moveTo(osd, pg));
      }
    });
  }

  private moveTo(osd: SimOsd, pg: PgInfo): Promise<void> {
    const stay = pg.replicas.filter((one) => !one.leaving);
    const from = stay[this.random.below(stay.length)]!;
    return this.cluster.moveReplica(pg.id, from.osd, osd.id);
  }

  private stepMonitor(): Promise<void> {
    this.cluster.monWorld.stepWall(this.random.below(2 * WALL_STEP_MS) - WALL_STEP_MS);
    this.faults.note("wall clock of the monitor steps");
    return Promise.resolve();
  }

  /* -------------------------------------------------------------------- looks */

  private get isFilling(): boolean {
    return this.cluster.osds.some(
      (osd) => osd.world?.alive === true && osd.shards.some(({ pg }) => pg.fills.count > 0),
    );
  }

  /** Every few milliseconds: scrubs that are done, and what there is to scrub; fills, to turn the dial. */
  look(): void {
    for (const osd of this.cluster.osds) {
      if (osd.world?.alive !== true || osd.session === null) continue;
      for (const { pg: shard } of osd.shards) {
        for (const { id } of this.cluster.pgs) {
          const scrub = shard.scrubs.of({ pg: id });
          if (scrub?.done === true) this.noteScrub(id, scrub);
        }
      }
    }
    const { isFilling } = this;
    const { damaged } = this.faults.devices;
    const isFillNew = isFilling && !this.isFilled;
    const isDamageNew = damaged > this.damaged;
    this.isFilled = isFilling;
    this.damaged = damaged;
    if (this.isQuiet || !(isFillNew || isDamageNew) || this.random.below(2) === 0) return;
    if (isDamageNew) this.start(() => this.scrubSome(this.cluster.pgs, true));
    else if (this.random.below(2) === 0) this.start(() => this.turnDial());
    else this.start(() => this.pause());
  }

  private noteScrub(
    pg: number,
    scrub: {
      readonly order: number;
      readonly tally: { readonly found: number; readonly left: number };
    },
  ): void {
    const key = `${String(pg)}/${String(scrub.order)}`;
    if (this.seen.has(key)) return;
    this.seen.add(key);
    const { found, left } = scrub.tally;
    if (!this.isQuiet) this.probes.hit("scrub ran under faults");
    this.probes.hit("scrub healed a block", found - left);
  }

  /* ---------------------------------------------------------------------- end */

  private async tidy(): Promise<void> {
    const { cluster, faults } = this;
    let isScrubbed = this.random.below(2) === 0;
    for (;;) {
      const isReady = !this.isBusy && cluster.monitorServes;
      if (isReady && !isScrubbed) await this.scrubSome(cluster.pgs, true);
      isScrubbed ||= isReady;
      if (isReady && (await this.attempt(() => this.putBack())) && this.areScrubsOver) return;
      await faults.sleep(LOOK_US);
    }
  }

  private async putBack(): Promise<void> {
    const { map } = this.cluster.monitor.catalogue;
    const { speed, paused } = map.recovery;
    if (paused || speed !== RecoverySpeed.Medium) {
      await this.wish({ speed: "medium", paused: false });
    }
    for (const osd of map.osds.values()) if (!osd.in) await this.setIn(osd.id, true);
  }

  /** Whether every scrub has ended and left nothing; one that left something is ordered anew. */
  private get areScrubsOver(): boolean {
    const { scrubs, catalogue } = this.cluster.monitor;
    let areOver = true;
    for (const pg of this.cluster.pgs) {
      const isRunning = scrubs.runningOf(pg.id) !== undefined;
      const hasLeft = (catalogue.pgs.get(pg.id)?.scrub?.left ?? 0) > 0;
      if (!isRunning && hasLeft) scrubs.request(pg, true);
      if (isRunning || hasLeft) areOver = false;
    }
    return areOver;
  }
}
