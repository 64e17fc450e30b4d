// cold: the simulator
import { FastblockError } from "../base/errors.ts";
import { Prng } from "../base/prng.ts";
import { type Group, GroupHealth } from "../pg/pg.ts";
import { SimAimed } from "./sim-aimed.ts";
import { SimBackup } from "./sim-backup.ts";
import { checkEnded, checkOpened, type SimWatch } from "./sim-check.ts";
import { clockKinds } from "./sim-clocks.ts";
import { groupsOf, type SimCluster, type SimOsd } from "./sim-cluster.ts";
import { SimDevices } from "./sim-devices.ts";
import type { SimHot } from "./sim-hot.ts";
import type { SimImages } from "./sim-images.ts";
import type { SimLoad } from "./sim-load.ts";
import type { SimLocks } from "./sim-locks.ts";
import type { TraceSink } from "./sim-trace.ts";
import { SimTroubles, type TroublePlan } from "./sim-troubles.ts";
import type { SimVersions } from "./sim-versions.ts";
import { SimRough } from "./sim-rough.ts";
import { SimWeather } from "./sim-weather.ts";

/**
 * What happens to a simulated cluster, drawn from the seed.
 *
 *   processes   crash (one, some, all, again and again), pause, lose their power; clients die
 *   network     cuts of one or both directions, of everybody, flapping; resets, storms; loss, what
 *               comes late, ports that are taken again (`sim-rough.ts`)
 *   clocks      wall clocks step; clocks strobe (`sim-clocks.ts`)
 *   operator    replicas move, a lost disk is replaced, machines change their addresses; and
 *               `sim-operators.ts`
 *   monitor     away for a while; dies; its catalogue is put back from a backup (`sim-backup.ts`)
 *   programs    of this version and of the next one, mixed (`sim-versions.ts`)
 *   devices     `sim-devices.ts`, `sim-troubles.ts`
 *   aimed       at a moment that chance rarely meets (`sim-aimed.ts`)
 *
 * Whatever destroys data happens to the victim alone until all replicas were compared: the fault
 * budget. It is made whole again by the others.
 *
 * Each fault has a number, and its chance is its own: a run without some of them (`without`) draws
 * the others as before, so that a schedule can be shrunk.
 */

/** What a run may do besides crashes, cuts, pauses and resets. */
export interface FaultPlan {
  /** Replicas move between osds. */
  readonly moves: boolean;
  /** Blocks rot, or can not be read, on the osd whose turn it is. */
  readonly rot: boolean;
  /** It loses its whole disk, and gets another one. */
  readonly diskLoss: boolean;
  /** Its device loses or misdirects writes; it lies about flushes. */
  readonly strays: boolean;
  readonly lies: boolean;
  /** The pool has two replicas and a witness: the disk that is lost is not the only one. */
  readonly isWitnessed: boolean;
  /** Devices answer EIO, are slow, or do not answer. */
  readonly errors: boolean;
  readonly troubles: TroublePlan;
  /** The file systems beneath the devices have little space for a while, or none. */
  readonly beneath: boolean;
  /** The monitor's catalogue is put back from an older copy. */
  readonly restores: boolean;
  /** Faults are aimed at moments that chance rarely meets. */
  readonly aimed: boolean;
  /** The monitor's process dies, and is started again. */
  readonly monitorDies: boolean;
  /** Longest time between two faults. */
  readonly paceUs: number;
  /** Longest pause of a process. */
  readonly pauseUsMax: number;
  /** Clients from this one on may die. */
  readonly mortalsFirst: number;
  readonly deviceUsMax: number;
  /** Faults that are left out, by their number. */
  readonly without: ReadonlySet<number>;
}

/** What clients do in a run; null: nobody takes an image from another, none is changed. */
export interface SimLoads {
  readonly load: SimLoad;
  readonly hot: SimHot;
  readonly locks: SimLocks | null;
  readonly images: SimImages | null;
}

/** A kind of fault; `run` answers whether there was an occasion. */
export interface FaultKind {
  readonly name: string;
  readonly weight: number;
  readonly run: (osd: SimOsd) => boolean;
}

/** A fault that happened. `osd`: -1 when it was of none. */
export interface FaultNote {
  readonly number: number;
  readonly atUs: number;
  readonly name: string;
  readonly osd: number;
}

const MOVES_MAX = 4;
const PACE_US_MIN = 50_000;
/** Between two looks of who waits for the monitor. */
const LOOK_US = 200_000;
/** For this long, in looks, a joint configuration is waited for. */
const JOINT_LOOKS_MAX = 2000;
const JOINT_LOOK_US = 500;
const WALL_STEP_MS = 86_400_000;
const TRIES_MAX = 4;

export class SimFaults {
  /** Faults that happened, in order, and how many of each kind. */
  readonly notes: FaultNote[] = [];
  readonly counts: Record<string, number> = {};
  /** Replicas that were filled by difference, and blocks copied for it. */
  fills = 0;
  blocksFilled = 0;
  blocksHealed = 0;
  trace: TraceSink | null = null;
  /** Grows with each end: whoever was to be started by then runs. */
  round = 0;
  readonly plan: FaultPlan;
  /** Of the fault that is being drawn. */
  random: Prng;
  /** Whose device may be damaged. */
  victim: SimOsd;
  readonly devices: SimDevices;
  private readonly cluster: SimCluster;
  private readonly load: SimLoad;
  private readonly hot: SimHot;
  private readonly locks: SimLocks | null;
  private readonly images: SimImages | null;
  private readonly watch: SimWatch;
  private readonly weather: SimWeather;
  private readonly rough: SimRough;
  private readonly backup: SimBackup;
  private readonly troubles: SimTroubles;
  private readonly aimed: SimAimed;
  private readonly versions: SimVersions | null;
  private readonly pace: Prng;
  private readonly kinds: readonly FaultKind[];
  private endUs = 0;
  private drawn = 0;
  /** Osds that are down and that somebody else starts. */
  private readonly held = new Set<SimOsd>();
  private readonly steadyUntilUs = new Map<SimOsd, number>();
  private peaceUntilUs = 0;
  private movesLeft = 0;
  private diskLost = false;
  private errands = 0;

  constructor(
    cluster: SimCluster,
    loads: SimLoads,
    watch: SimWatch,
    plan: FaultPlan,
    versions: SimVersions | null = null,
  ) {
    this.versions = versions;
    this.cluster = cluster;
    this.watch = watch;
    this.load = loads.load;
    this.hot = loads.hot;
    this.locks = loads.locks;
    this.images = loads.images;
    this.plan = plan;
    this.pace = new Prng(cluster.simulation.seed * 17 + 11);
    this.random = this.pace;
    this.victim = cluster.osds[0]!;
    this.devices = new SimDevices(cluster, this);
    this.weather = new SimWeather(cluster, this);
    this.rough = new SimRough(cluster, this);
    this.backup = new SimBackup(cluster, this);
    this.troubles = new SimTroubles(cluster, this, plan.troubles);
    this.aimed = new SimAimed(cluster, this, watch.probes);
    const { weather, rough } = this;
    const more = [...rough.kinds, ...clockKinds(cluster, this)];
    this.kinds = [...this.processKinds(), ...weather.kinds, ...more, ...this.planKinds()];
    cluster.onFatal = (osd, error) => this.onFatal(osd, error);
    cluster.onOpened = (osd) => {
      watch.begin(osd);
      checkOpened(osd, this.devices);
    };
  }

  /** Plan faults until `endUs`; whatever was damaged before is whole again. */
  begin(endUs: number): void {
    this.endUs = endUs;
    // What strays can lie anywhere, unseen: then nobody else may be damaged later.
    const stays = this.round > 0 && (this.plan.strays || this.plan.lies);
    if (!stays) this.victim = this.cluster.osds[this.pace.below(this.cluster.osds.length)]!;
    this.movesLeft = MOVES_MAX;
    this.diskLost = false;
    const { rot, diskLoss, strays, lies, errors, beneath, troubles } = this.plan;
    this.load.mayRefuse =
      rot || diskLoss || strays || lies || errors || beneath || troubles.flushes || troubles.shorts;
    this.hot.mayRefuse = this.load.mayRefuse;
    if (this.locks !== null) this.locks.mayRefuse = this.load.mayRefuse;
    if (this.images !== null) this.images.mayRefuse = this.load.mayRefuse;
    if (this.plan.restores) this.backup.begin();
    if (this.plan.aimed) this.aimed.begin();
    this.versions?.begin(this.cluster, this);
    this.images?.begin(this, endUs);
    this.planNext();
    this.troubles.begin(endUs);
  }

  /** The round of faults goes on until `endUs`. */
  prolong(endUs: number): void {
    this.endUs = endUs;
    this.planNext();
  }

  /** Whether nobody is on the way to repair something. */
  get idle(): boolean {
    return this.errands === 0;
  }

  /** End every fault that does not end by itself. */
  end(): void {
    const { simulation, osds, clients } = this.cluster;
    this.round += 1;
    this.peaceUntilUs = 0;
    this.versions?.end();
    simulation.heal();
    this.devices.end();
    this.weather.calm();
    this.rough.calm();
    // Machines that lost their power said no goodbye: in most runs nobody has to wait for that.
    if (this.pace.below(4) > 0) simulation.reset("*", "*");
    this.startMonitor();
    this.cluster.monWorld.resume();
    for (const { world } of clients) world.resume();
    for (const osd of osds) {
      osd.world?.resume();
      this.start(osd);
    }
  }

  /** From now on nothing proves what the device of an osd has. */
  distrust(osd: SimOsd): void {
    this.watch.liars.add(osd.id);
  }

  /** Count what a process has done, before it ends. */
  count(osd: SimOsd): void {
    this.watch.end(osd);
    checkEnded(osd, this.devices);
    for (const { pg } of osd.shards) {
      const { fillsEnded, fillBlocksCopied } = pg.fills.counters;
      this.fills += fillsEnded;
      this.blocksFilled += fillBlocksCopied;
      if (osd.session !== null) this.blocksHealed += pg.store.counters.blocksHealed;
    }
  }

  /* ---------------------------------------------------------------- the draw */

  private processKinds(): FaultKind[] {
    const { hot } = this;
    const { osds } = this.cluster;
    return [
      { name: "crash", weight: 6, run: (osd) => this.crash(osd) },
      {
        name: "crash of some",
        weight: 2,
        run: () => osds.filter((one) => this.random.below(2) === 0 && this.crash(one)).length > 0,
      },
      {
        name: "crash of all",
        weight: 1,
        run: () => osds.filter((one) => this.crash(one)).length > 0,
      },
      { name: "power cuts in a row", weight: 3, run: (osd) => this.devices.cutBusy(osd) },
      { name: "pause", weight: 2, run: (osd) => this.pause(osd) },
      { name: "starvation", weight: 1, run: (osd) => this.starve(osd) },
      { name: "pause of a client", weight: 1, run: () => this.pauseClient() },
      {
        name: "death of a client",
        weight: 3,
        run: () => hot.killClient(this.plan.mortalsFirst),
      },
      { name: "monitor away", weight: 1, run: () => this.leaveMonitor() },
      { name: "wall clock steps", weight: 1, run: (osd) => this.stepWall(osd) },
      { name: "addresses change", weight: 1, run: (osd) => this.swapAddresses(osd) },
    ];
  }

  /** Those that only some runs have. */
  private planKinds(): FaultKind[] {
    const { plan, devices } = this;
    const all: readonly [boolean, FaultKind][] = [
      [plan.moves, { name: "move", weight: 4, run: () => this.move() }],
      [plan.rot, { name: "rot", weight: 5, run: () => devices.rot() }],
      [plan.rot, { name: "lost index page", weight: 3, run: () => devices.rewind() }],
      [plan.diskLoss, { name: "loss of a disk", weight: 5, run: () => this.loseDisk() }],
      [plan.errors, { name: "device errors", weight: 4, run: (osd) => devices.errors(osd) }],
      [plan.errors, { name: "slow device", weight: 3, run: (osd) => devices.slow(osd) }],
      [
        plan.strays,
        {
          name: "misdirected writes",
          weight: 3,
          run: () => devices.stray("misdirectedWriteShare"),
        },
      ],
      [
        plan.strays,
        { name: "misdirected reads", weight: 2, run: () => devices.stray("misdirectedReadShare") },
      ],
      [plan.strays, { name: "lost writes", weight: 3, run: () => devices.stray("lostWriteShare") }],
      [
        this.locks !== null,
        { name: "pause of a holder", weight: 4, run: () => this.pauseHolder() },
      ],
      [
        plan.monitorDies,
        { name: "death of the monitor", weight: 4, run: () => this.killMonitor() },
      ],
      // Often: replicas that rest while all are full are met by few.
      [plan.beneath, { name: "no space beneath", weight: 12, run: (osd) => devices.fill(osd) }],
      [plan.lies, { name: "lying flush", weight: 8, run: () => devices.lie() }],
    ];
    return all.filter(([isPlanned]) => isPlanned).map(([, kind]) => kind);
  }

  private planNext(): void {
    const { simulation } = this.cluster;
    const delay = PACE_US_MIN + this.pace.below(this.plan.paceUs);
    if (simulation.nowUs + delay >= this.endUs) return;
    simulation.after(delay, () => {
      this.inject();
      this.planNext();
    });
  }

  private inject(): void {
    const { simulation, osds } = this.cluster;
    const number = ++this.drawn;
    if (this.plan.without.has(number) || this.isPeace) return;
    this.random = new Prng(simulation.seed * 4099 + number);
    for (let tries = 0; tries < TRIES_MAX; tries++) {
      const osd = osds[this.random.below(osds.length)]!;
      const kind = this.drawKind();
      if (!kind.run(osd)) continue;
      this.noteAs(number, kind.name, osd.id);
      return;
    }
  }

  /** Something happened that can be left out by its number; `osd`: -1 when it was of none. */
  noteAs(number: number, name: string, osd: number): void {
    const atUs = this.cluster.simulation.nowUs;
    const who = osd < 0 ? "operator" : `osd.${String(osd)}`;
    this.trace?.(atUs, who, `fault ${String(number)}: ${name}`);
    this.notes.push({ number, atUs, name, osd });
    this.counts[name] = (this.counts[name] ?? 0) + 1;
  }

  private drawKind(): FaultKind {
    const total = this.kinds.reduce((sum, { weight }) => sum + weight, 0);
    let left = this.random.below(total);
    return this.kinds.find(({ weight }) => (left -= weight) < 0)!;
  }

  /** A fault happened that was drawn elsewhere. */
  note(name: string): void {
    this.counts[name] = (this.counts[name] ?? 0) + 1;
    this.trace?.(this.cluster.simulation.nowUs, "operator", name);
  }

  /** Whether faults may still happen. */
  get goesOn(): boolean {
    return this.cluster.simulation.nowUs < this.endUs;
  }

  /** Do something later, if this round of faults goes on. */
  later(delayUs: number, action: () => void): void {
    const { round } = this;
    this.cluster.simulation.after(delayUs, () => {
      if (this.round === round) action();
    });
  }

  /* ------------------------------------------------------------- processes */

  crash(osd: SimOsd): boolean {
    if (!this.kill(osd)) return false;
    this.startLater(osd);
    return true;
  }

  /** An osd ends: its process crashes, or its power is cut. False: it does not run, is steady, or lies. */
  kill(osd: SimOsd, crashes: boolean = this.random.below(2) === 0): boolean {
    const { world } = osd;
    if (world?.alive !== true || this.isSteady(osd) || this.devices.isLying(osd)) return false;
    this.count(osd);
    if (crashes) world.crash();
    else world.powerCut();
    osd.session = null;
    return true;
  }

  /**
   * Cut the power of an osd that may be steady, and start it later; below 0: some time. `arrives`: as of
   * `SimWorld.powerCut`.
   */
  cutPower(osd: SimOsd, downUs = -1, arrives?: (offsetBytes: number) => boolean): void {
    if (osd.world?.alive !== true) return;
    this.count(osd);
    osd.world.powerCut(arrives);
    osd.session = null;
    if (downUs < 0) this.startLater(osd);
    else this.later(downUs, () => this.start(osd));
  }

  /** A process ends, which is no wonder: its device failed, or holds no store that may be opened. */
  private onFatal(osd: SimOsd, error: unknown): boolean {
    const { world } = osd;
    const isRefused = this.versions?.isRefusal(osd, error) === true;
    const isDamaged = !isRefused && this.isDamage(osd, error);
    const isFailed = isDeviceError(String(error)) && this.devices.isFailing(osd);
    if (!(isRefused || isDamaged || isFailed) || world === null) return false;
    if (isRefused) this.note("newer format refused");
    this.cluster.simulation.after(0, () => {
      if (!world.alive) return;
      this.count(osd);
      world.crash();
      osd.session = null;
      if (isDamaged) this.giveUpStore(osd);
      else this.startLater(osd);
    });
    return true;
  }

  /** Whether what a process named `who` says of a failure is no wonder: its device was made to fail. */
  mayFail(who: string, reason: string): boolean {
    const osd = this.cluster.osds.find(({ id }) => who === `osd.${String(id)}`);
    return osd !== undefined && this.devices.isFailing(osd) && isDeviceError(reason);
  }

  /** Whether the device of an osd may have lost what it had called durable. */
  mayForget(osd: unknown): boolean {
    return this.mayBeDamaged && osd === this.victim.id;
  }

  /** Writes went astray there: what the store says of itself is for people. */
  private isDamage(osd: SimOsd, error: unknown): boolean {
    return this.mayBeDamaged && osd === this.victim && error instanceof FastblockError;
  }

  private get mayBeDamaged(): boolean {
    const { strays, lies } = this.plan;
    return (strays || lies) && this.devices.damaged > 0;
  }

  private giveUpStore(osd: SimOsd): void {
    this.counts["store given up"] = (this.counts["store given up"] ?? 0) + 1;
    this.replaceDisk(osd);
  }

  private startLater(osd: SimOsd): void {
    this.later(10_000 + this.random.below(1_500_000), () => this.start(osd));
  }

  /** Start an osd that is down, unless somebody else does that. */
  start(osd: SimOsd): void {
    if (osd.world?.alive !== true && !this.held.has(osd)) this.cluster.startOsd(osd);
  }

  /** An osd is not started before `release`. */
  hold(osd: SimOsd): void {
    this.held.add(osd);
  }

  release(osd: SimOsd): void {
    this.held.delete(osd);
    this.start(osd);
  }

  isHeld(osd: SimOsd): boolean {
    return this.held.has(osd);
  }

  /** An osd does not crash, nor stand still, for so long. */
  steady(osd: SimOsd, us: number): void {
    this.steadyUntilUs.set(osd, this.cluster.simulation.nowUs + us);
  }

  isSteady(osd: SimOsd): boolean {
    return this.cluster.simulation.nowUs < (this.steadyUntilUs.get(osd) ?? 0);
  }

  /** Nothing else happens for so long. False: something goes on. */
  makePeace(us: number): boolean {
    const { simulation } = this.cluster;
    if (simulation.hasCuts || this.held.size > 0) return false;
    this.peaceUntilUs = simulation.nowUs + us;
    return true;
  }

  endPeace(): void {
    this.peaceUntilUs = 0;
  }

  /** Nobody else may be hurt now. */
  get isPeace(): boolean {
    return this.cluster.simulation.nowUs < this.peaceUntilUs;
  }

  private pause(osd: SimOsd): boolean {
    const { world } = osd;
    if (world?.alive !== true || this.isSteady(osd)) return false;
    world.pause();
    this.later(50_000 + this.random.below(this.plan.pauseUsMax), () => {
      if (world.alive) world.resume();
    });
    return true;
  }

  /** Others have the processor: it runs for a few ms now and then. */
  private starve(osd: SimOsd): boolean {
    const { world } = osd;
    if (world?.alive !== true || this.isSteady(osd)) return false;
    const untilUs = this.cluster.simulation.nowUs + 100_000 + this.random.below(900_000);
    const { random } = this;
    const stand = (): void => {
      if (!world.alive || this.isSteady(osd) || this.cluster.simulation.nowUs > untilUs) return;
      world.pause();
      this.later(5_000 + random.below(60_000), () => {
        world.resume();
        this.later(500 + random.below(5_000), stand);
      });
    };
    stand();
    return true;
  }

  private pauseClient(): boolean {
    const { clients } = this.cluster;
    const { world } = clients[this.random.below(clients.length)]!;
    world.pause();
    this.later(50_000 + this.random.below(this.plan.pauseUsMax), () => world.resume());
    return true;
  }

  /** Whoever holds the image that is handed around stands still while another one takes it. */
  private pauseHolder(): boolean {
    const world = this.locks?.hasten() ?? null;
    if (world === null) return false;
    world.pause();
    this.later(5_000 + this.random.below(500_000), () => world.resume());
    return true;
  }

  private leaveMonitor(): boolean {
    const { monWorld } = this.cluster;
    monWorld.pause();
    this.later(100_000 + this.random.below(3_000_000), () => monWorld.resume());
    return true;
  }

  killMonitor(): boolean {
    if (!this.cluster.monWorld.alive) return false;
    this.cluster.crashMonitor();
    this.later(this.random.below(2_000_000), () => this.startMonitor());
    return true;
  }

  startMonitor(): void {
    if (!this.cluster.monWorld.alive) this.cluster.startMonitor();
  }

  private stepWall(osd: SimOsd): boolean {
    osd.world?.stepWall(this.random.below(2 * WALL_STEP_MS) - WALL_STEP_MS);
    return osd.world !== null;
  }

  /** The disks of two machines change places: peers find somebody else where they were. */
  private swapAddresses(osd: SimOsd): boolean {
    const { osds } = this.cluster;
    const other = osds[this.random.below(osds.length)]!;
    const isFree = (one: SimOsd): boolean =>
      one.world?.alive === true && !this.isSteady(one) && !this.held.has(one);
    if (other === osd || !isFree(osd) || !isFree(other)) return false;
    this.crash(osd);
    this.crash(other);
    [osd.address, other.address] = [other.address, osd.address];
    return true;
  }

  /** Stamps of blocks that hold data. */
  someStamps(count: number): number[] {
    const from = this.random.below(4) === 0 ? this.hot : this.load;
    return from.someStamps(this.random, count);
  }

  /* ------------------------------------------------------------------ moves */

  /** Give some group a new replica elsewhere, in the place of any of its own. */
  private move(): boolean {
    const { pgs, osds } = this.cluster;
    const pg = pgs[this.random.below(pgs.length)]!;
    const stay = pg.replicas.filter((one) => !one.leaving);
    const from = stay[this.random.below(stay.length)]!;
    const spare = osds.filter((osd) => pg.replicas.every((one) => one.osd !== osd.id));
    const to = spare[this.random.below(Math.max(1, spare.length))];
    if (to === undefined || this.movesLeft === 0) return false;
    this.movesLeft -= 1;
    const crashes = this.random.below(2) === 0;
    this.errand(async () => {
      await this.tryMove(pg.id, from.osd, to.id);
      if (crashes) await this.crashInJoint(pg.id);
    });
    return true;
  }

  /** Whoever leads a group in a configuration of two majorities crashes, if that comes soon. */
  private async crashInJoint(pg: number): Promise<void> {
    const { round } = this;
    for (let looks = 0; looks < JOINT_LOOKS_MAX && this.round === round; looks++) {
      const leader = this.cluster.osds.find((osd) =>
        groupsOf(osd).some((one) => one.pg === pg && one.isLeader && one.node.conf.joint),
      );
      if (leader !== undefined) {
        this.crash(leader);
        return;
      }
      await this.sleep(JOINT_LOOK_US);
    }
  }

  private async tryMove(pg: number, from: number, to: number): Promise<void> {
    try {
      await this.cluster.moveReplica(pg, from, to);
    } catch (error) {
      // The monitor refuses what can not be done now, and says why.
      if (!(error instanceof FastblockError)) throw error;
    }
  }

  errand(what: () => Promise<void>): void {
    this.errands += 1;
    what().then(
      () => {
        this.errands -= 1;
      },
      (error: unknown) => this.cluster.simulation.fail("operator", error),
    );
  }

  sleep(us: number): Promise<void> {
    return new Promise((resolve) => this.cluster.simulation.after(us, resolve));
  }

  private async until(ready: () => boolean): Promise<void> {
    while (!ready()) await this.sleep(LOOK_US);
  }

  /* ----------------------------------------------------------- lost devices */

  /** The disk of the victim is gone: an operator puts in another one and replaces its replicas. */
  private loseDisk(): boolean {
    const { victim } = this;
    if (this.plan.isWitnessed && !this.isSpare(victim)) return false;
    if (this.diskLost || this.held.has(victim) || !this.kill(victim)) return false;
    this.replaceDisk(victim);
    return true;
  }

  /** Whether all that is acknowledged in its groups lies on another disk as well. */
  private isSpare(victim: SimOsd): boolean {
    const others = this.cluster.osds
      .filter((osd) => osd !== victim && osd.world?.alive === true)
      .flatMap((osd) => groupsOf(osd));
    return this.cluster.pgs.every((pg) => {
      const isHolder = pg.replicas.some((one) => one.osd === victim.id && !one.witness);
      const known = groupsOf(victim).find((one) => one.pg === pg.id)?.commitIndex ?? 0;
      const commit = Math.max(known, ...others.filter(isOf(pg)).map((one) => one.commitIndex));
      return !isHolder || others.filter(isOf(pg)).some((one) => holds(one, commit));
    });
  }

  private replaceDisk(victim: SimOsd): void {
    const { cluster } = this;
    this.diskLost = true;
    this.held.add(victim);
    const before = cluster.storeOf(victim);
    this.errand(async () => {
      // The monitor takes another store under this id only once the old one is down.
      await this.until(() => !cluster.isUp(victim));
      await cluster.renewDisk(victim);
      this.held.delete(victim);
      cluster.startOsd(victim);
      await this.until(() => cluster.isUp(victim) && cluster.storeOf(victim) !== before);
      await this.replaceAll(victim, cluster.storeOf(victim)!);
    });
  }

  /** Replace every replica that was on an earlier store of an osd: there, or somewhere else. */
  private async replaceAll(osd: SimOsd, store: string): Promise<void> {
    const { cluster } = this;
    for (;;) {
      const left = cluster.pgs.filter((pg) =>
        pg.replicas.some((one) => !one.leaving && one.osd === osd.id && one.storeUuid !== store),
      );
      if (left.length === 0) return;
      for (const pg of left) {
        const spare = cluster.osds.filter((one) => pg.replicas.every((two) => two.osd !== one.id));
        const to = [osd, ...spare][this.random.below(spare.length + 1)]!;
        await this.tryMove(pg.id, osd.id, to.id);
      }
      await this.sleep(LOOK_US);
    }
  }
}

/** What a store says whose device fails: of an operation, or of all that comes behind the first. */
function isDeviceError(text: string): boolean {
  return /^(FastblockError: |Error: (the device has|device) failed)/.test(text);
}

function isOf(pg: { readonly id: number }): (group: Group) => boolean {
  return (group) => group.pg === pg.id;
}

function holds(group: Group, index: number): boolean {
  if (group.witness || group.isMute || group.fill !== null) return false;
  const { store } = group.shard;
  return store.healthOf(group.row) === GroupHealth.Ok && store.durableIndex(group.row) >= index;
}
