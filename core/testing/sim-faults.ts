// cold: the simulator
import { FastblockError } from "../base/errors.ts";
import { Prng } from "../base/prng.ts";
import { BLOCK_SIZE } from "../base/units.ts";
import { inspectStore } from "../pg/pg.ts";
import { groupsOf, type SimCluster, type SimOsd } from "./sim-cluster.ts";
import { type SimLoad, stampBlock } from "./sim-load.ts";

/**
 * What happens to a simulated cluster, drawn from the seed.
 *
 *   crash, cut, pause, reset   anybody, any number at a time: nothing that was durable is lost
 *   move                       a replica goes to another osd
 *   rot, loss of a disk        one osd only until all replicas were compared: the fault budget.
 *                              Whoever lost something is made whole again by the others
 *
 * Damage to the last batches before a crash, which nobody vouched for, is not told from a torn end:
 * it would be a second fault. So an osd whose device rots while it runs goes on for a while.
 */

/** What a run may do besides crashes, cuts, pauses and resets. */
export interface FaultPlan {
  /** Replicas move between osds. */
  readonly moves: boolean;
  /** Blocks rot on the osd whose turn it is. */
  readonly rot: boolean;
  /** It loses its whole disk, and gets another one. */
  readonly diskLoss: boolean;
}

/** An osd whose device rots while it runs does not crash for this long: see the file's comment. */
const VOUCH_US = 200_000;
/** Batches of the log that may not be vouched for, at its end. */
const BATCHES_UNVOUCHED = 3;
const ROT_MAX = 8;
/** For this long, in looks, an occasion to damage what somebody is filled from is waited for. */
const SOURCE_LOOKS_MAX = 200;
const SOURCE_LOOK_US = 5_000;
const SOURCE_ROT_MAX = 48;
const MOVES_MAX = 4;
/** Between two looks of who waits for the monitor. */
const LOOK_US = 200_000;

export class SimFaults {
  crashes = 0;
  partitions = 0;
  pauses = 0;
  moves = 0;
  disks = 0;
  /** Blocks of a device that were damaged. */
  rotted = 0;
  /** Replicas that were filled by difference, and blocks copied for it. */
  fills = 0;
  blocksFilled = 0;
  blocksHealed = 0;
  private readonly cluster: SimCluster;
  private readonly load: SimLoad;
  private readonly plan: FaultPlan;
  private readonly random: Prng;
  private endUs = 0;
  /** Whose device may be damaged, until the next round. */
  private victim: SimOsd;
  /** Osds that are down and that somebody else starts. */
  private readonly held = new Set<SimOsd>();
  private readonly steadyUntilUs = new Map<SimOsd, number>();
  private movesLeft = 0;
  private diskLost = false;
  private errands = 0;

  constructor(cluster: SimCluster, load: SimLoad, plan: FaultPlan) {
    this.cluster = cluster;
    this.load = load;
    this.plan = plan;
    this.random = new Prng(cluster.simulation.seed * 17 + 11);
    this.victim = cluster.osds[0]!;
  }

  /** Plan faults until `endUs`; whatever was damaged before is whole again. */
  begin(endUs: number): void {
    this.endUs = endUs;
    this.victim = this.pick();
    this.movesLeft = MOVES_MAX;
    this.diskLost = false;
    this.load.mayRefuse = this.plan.rot || this.plan.diskLoss;
    this.planNext();
  }

  /** Whether nobody is on the way to repair something. */
  get idle(): boolean {
    return this.errands === 0;
  }

  /** End every fault that does not end by itself. */
  end(): void {
    const { simulation, osds } = this.cluster;
    simulation.heal();
    // Machines that lost their power said no goodbye: in most runs nobody has to wait for that.
    if (this.random.below(4) > 0) simulation.reset("*", "*");
    for (const osd of osds) {
      osd.world?.resume();
      this.start(osd);
    }
  }

  /** Count what a process has done, before it ends. */
  count(osd: SimOsd): void {
    for (const { pg } of osd.shards) {
      const { fillsEnded, fillBlocksCopied } = pg.fills.counters;
      this.fills += fillsEnded;
      this.blocksFilled += fillBlocksCopied;
      if (osd.session !== null) this.blocksHealed += pg.store.counters.blocksHealed;
    }
  }

  private pick(): SimOsd {
    return this.cluster.osds[this.random.below(this.cluster.osds.length)]!;
  }

  private planNext(): void {
    const { simulation } = this.cluster;
    const delay = 50_000 + this.random.below(900_000);
    if (simulation.nowUs + delay >= this.endUs) return;
    simulation.after(delay, () => {
      this.inject();
      this.planNext();
    });
  }

  private inject(): void {
    const { cluster, plan } = this;
    const osd = this.pick();
    switch (this.random.below(14)) {
      case 0:
      case 1:
      case 2:
        this.crash(osd);
        break;
      case 3:
        for (const one of cluster.osds) if (this.random.below(2) === 0) this.crash(one);
        break;
      case 4:
      case 5:
        this.cut(osd);
        break;
      case 6:
        this.pause(osd);
        break;
      case 7:
        cluster.simulation.reset(osd.address, "*");
        break;
      case 8:
      case 9:
        if (plan.moves) this.move();
        else this.crash(osd);
        break;
      default:
        if (plan.diskLoss && !this.diskLost) this.loseDisk();
        else if (plan.rot) this.rot();
        else this.cut(osd);
    }
  }

  /* ------------------------------------------------------- crashes and cuts */

  private crash(osd: SimOsd): void {
    if (!this.kill(osd)) return;
    this.cluster.simulation.after(10_000 + this.random.below(1_500_000), () => this.start(osd));
  }

  private kill(osd: SimOsd): boolean {
    const { world } = osd;
    if (world?.alive !== true || this.isSteady(osd)) return false;
    this.crashes += 1;
    this.count(osd);
    if (this.random.below(2) === 0) world.crash();
    else world.powerCut();
    osd.session = null;
    return true;
  }

  private start(osd: SimOsd): void {
    if (osd.world?.alive !== true && !this.held.has(osd)) this.cluster.startOsd(osd);
  }

  private isSteady(osd: SimOsd): boolean {
    return this.cluster.simulation.nowUs < (this.steadyUntilUs.get(osd) ?? 0);
  }

  private cut(osd: SimOsd): void {
    const other = this.pick();
    if (other === osd) return;
    this.partitions += 1;
    const { simulation } = this.cluster;
    simulation.cut(osd.address, other.address);
    const both = this.random.below(2) === 0;
    if (both) simulation.cut(other.address, osd.address);
    simulation.after(100_000 + this.random.below(2_000_000), () => {
      simulation.heal(osd.address, other.address);
      if (both) simulation.heal(other.address, osd.address);
    });
  }

  private pause(osd: SimOsd): void {
    const world = osd.world;
    if (world?.alive !== true || this.isSteady(osd)) return;
    this.pauses += 1;
    world.pause();
    this.cluster.simulation.after(50_000 + this.random.below(2_000_000), () => {
      if (world.alive) world.resume();
    });
  }

  /* ------------------------------------------------------------------ moves */

  /** Give some group a new replica elsewhere, in the place of any of its own. */
  private move(): void {
    const { pgs, osds } = this.cluster;
    const pg = pgs[this.random.below(pgs.length)]!;
    const stay = pg.replicas.filter((one) => !one.leaving);
    const from = stay[this.random.below(stay.length)]!;
    const spare = osds.filter((osd) => pg.replicas.every((one) => one.osd !== osd.id));
    const to = spare[this.random.below(Math.max(1, spare.length))];
    if (to === undefined || this.movesLeft === 0) return;
    this.movesLeft -= 1;
    this.errand(async () => {
      if (await this.tryMove(pg.id, from.osd, to.id)) this.moves += 1;
    });
  }

  private async tryMove(pg: number, from: number, to: number): Promise<boolean> {
    try {
      await this.cluster.moveReplica(pg, from, to);
      return true;
    } catch (error) {
      // The monitor refuses what can not be done now, and says why.
      if (error instanceof FastblockError) return false;
      throw error;
    }
  }

  private errand(what: () => Promise<void>): void {
    this.errands += 1;
    what().then(
      () => {
        this.errands -= 1;
      },
      (error: unknown) => this.cluster.simulation.fail("operator", error),
    );
  }

  private sleep(us: number): Promise<void> {
    return new Promise((resolve) => this.cluster.simulation.after(us, resolve));
  }

  private async until(ready: () => boolean): Promise<void> {
    while (!ready()) await this.sleep(LOOK_US);
  }

  /* ----------------------------------------------------------- lost devices */

  /** The disk of the victim is gone: an operator puts in another one and replaces its replicas. */
  private loseDisk(): void {
    const { cluster, victim } = this;
    if (!this.kill(victim)) return;
    this.diskLost = true;
    this.disks += 1;
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

  /* -------------------------------------------------------------------- rot */

  private rot(): void {
    const { victim } = this;
    if (this.held.has(victim)) return;
    if (!isServing(victim)) this.rotStopped(victim);
    else if (this.random.below(3) > 0) this.rotRunning(victim);
    else this.rotSource(victim);
  }

  /** Rot where somebody is filled from: old blocks are about that must not be taken for whole. */
  private rotSource(osd: SimOsd): void {
    this.errand(async () => {
      for (let looks = 0; looks < SOURCE_LOOKS_MAX; looks++) {
        if (this.held.has(osd) || !isServing(osd)) return;
        if (this.fillsOthers(osd)) break;
        await this.sleep(SOURCE_LOOK_US);
      }
      this.rotRunning(osd, SOURCE_ROT_MAX);
    });
  }

  private fillsOthers(osd: SimOsd): boolean {
    const led = groupsOf(osd).filter((group) => group.isLeader);
    const filled = this.cluster.osds.flatMap(groupsOf).filter((group) => group.fill !== null);
    return filled.some((one) => led.some((group) => group.pg === one.pg));
  }

  /** Data of some blocks, wherever they are: in the log, in their units, or in both. */
  private rotRunning(osd: SimOsd, most = ROT_MAX): void {
    const file = this.cluster.simulation.disk(osd.path);
    const content = new Uint8Array(BLOCK_SIZE);
    for (const stamp of this.load.someStamps(this.random, 1 + this.random.below(most))) {
      stampBlock(content, stamp);
      for (const place of file.find(content)) this.damage(osd, place);
    }
    osd.world?.resume();
    this.steadyUntilUs.set(osd, this.cluster.simulation.nowUs + VOUCH_US);
  }

  /** Anything that the store can know for damaged: data, index pages, batches of the log. */
  private rotStopped(osd: SimOsd): void {
    if (osd.world?.alive === true && !this.kill(osd)) return;
    this.held.add(osd);
    this.errand(async () => {
      const places = await this.cluster.withDevice(osd, (world, disk) =>
        readPlaces((section) => inspectStore(world, disk, section)),
      );
      for (let count = 1 + this.random.below(ROT_MAX); count > 0; count--) {
        const kind = places[this.random.below(places.length)]!;
        const place = kind[this.random.below(kind.length)];
        if (place !== undefined) this.damage(osd, place);
      }
      await this.sleep(this.random.below(1_000_000));
      this.held.delete(osd);
      this.start(osd);
    });
  }

  private damage(osd: SimOsd, place: number): void {
    this.rotted += 1;
    this.cluster.simulation.disk(osd.path).rot(place, BLOCK_SIZE);
  }
}

function isServing(osd: SimOsd): boolean {
  return osd.world?.alive === true && osd.session !== null;
}

interface PlaceRow {
  readonly shard: number;
  readonly seq: number;
  readonly offsetBytes: number;
  readonly pageOffsetBytes: number;
  readonly inlineOffsetsBytes: readonly number[];
  readonly unitOffsetsBytes: readonly number[];
}

/** Device offsets that may be damaged, by kind: data at home, index pages, log headers, payload. */
async function readPlaces(
  read: (section: string) => Promise<Record<string, unknown>>,
): Promise<number[][]> {
  const rowsOf = async (section: string): Promise<readonly PlaceRow[]> =>
    (await read(section))[section] as readonly PlaceRow[];
  const batches = await rowsOf("batches");
  const entries = await rowsOf("entries");
  const units = await rowsOf("units");
  const last = new Map<number, number>();
  for (const { shard, seq } of batches) last.set(shard, Math.max(seq, last.get(shard) ?? 0));
  const isVouched = ({ shard, seq }: PlaceRow): boolean =>
    seq <= (last.get(shard) ?? 0) - BATCHES_UNVOUCHED;
  const young = new Set(
    entries.filter((one) => !isVouched(one)).flatMap((one) => one.unitOffsetsBytes),
  );
  const old = units.filter((one) => !young.has(one.offsetBytes));
  const vouched = entries.filter(isVouched);
  return [
    old.flatMap((one) => Array.from({ length: 16 }, (_, at) => one.offsetBytes + at * BLOCK_SIZE)),
    old.map((one) => one.pageOffsetBytes),
    batches.filter(isVouched).map((one) => one.offsetBytes),
    vouched.flatMap((one) => [...one.inlineOffsetsBytes, ...one.unitOffsetsBytes]),
  ];
}
