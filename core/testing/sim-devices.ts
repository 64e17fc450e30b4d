// cold: the simulator
import { BLOCK_SIZE } from "../base/units.ts";
import { inspectStore } from "../pg/pg.ts";
import { groupsOf, isServing, type SimCluster, type SimOsd } from "./sim-cluster.ts";
import { isElsewhere } from "./sim-commits.ts";
import type { SimFaults } from "./sim-faults.ts";
import { stampBlock } from "./sim-stamps.ts";
import { FORMATS_NEXT } from "./sim-versions.ts";

/**
 * What goes wrong with the devices of a simulated cluster.
 *
 *   reads fail, device slow, stalled     any osd: nothing is lost
 *   write fails, flush fails             any osd: it must end; it is started again
 *   no space in the file system          any osd, or all: writes are refused, or wait
 *   rot, unreadable sectors              the victim's device: data, index, log, a copy of the superblock
 *   misdirected and lost writes,
 *   misdirected reads                    the victim's device, while it serves
 *   lying flush, then the power is cut   the victim, with everybody else in peace, once a majority has
 *                                        all without it
 *
 * Damage to the last batches before a crash, which nobody vouched for, is not told from a torn end:
 * it would be a second fault. So an osd whose device is damaged while it runs goes on for a while.
 *
 * What a device that lied loses may leave no trace: its log ends earlier, and is whole. An entry that
 * counts as committed by such a replica and one more of three is lost then if the third one, which was
 * behind, meets the liar before the one that has it: nothing that either of them holds tells of it. So
 * the power of a liar is cut while all that it has called durable lies on a majority without it.
 */

/** An osd whose device rots while it runs does not crash for this long: see the file's comment. */
const VOUCH_US = 200_000;
/** Batches of the log that may not be vouched for, at its end. */
const BATCHES_UNVOUCHED = 3;
const ROT_MAX = 8;
/** For this long, in looks, an occasion to damage what somebody is filled from is waited for. */
const SOURCE_LOOKS_MAX = 200;
const SOURCE_LOOK_US = 5_000;
const SOURCE_ROT_MAX = 48;
const SLOW_US = 200_000;
/** Of what a file system has left: less than this is too little at any time, or near it. */
const LITTLE_BYTES_MAX = 96 * 1_048_576;
/** For this long, in looks, an osd is waited for that starts between two power cuts. */
const START_LOOKS_MAX = 500;
const START_LOOK_US = 1_000;
/** Beside a device that lies, and after its power cut, everybody else stays up for this long. */
const PEACE_US = 4_000_000;
const LIE_LOOK_US = 1_000;
/** Both zone tables of a simulated device: two blocks each, side by side (`core/store/geometry.ts`). */
const TABLES_OFFSET = BLOCK_SIZE;
const TABLE_BYTES = 2 * BLOCK_SIZE;

export class SimDevices {
  /** Blocks of a device that were damaged. */
  damaged = 0;
  /** Devices, by path, that were damaged, and where; not here: any of their blocks may be. */
  private readonly marred = new Map<string, Set<number> | null>();
  private readonly cluster: SimCluster;
  private readonly faults: SimFaults;
  /** By path: the zone tables, while writes stray. */
  private readonly tables = new Map<string, Uint8Array>();
  /** Osds whose device fails operations, and what it said at first. */
  private readonly failing = new Set<SimOsd>();

  constructor(cluster: SimCluster, faults: SimFaults) {
    this.cluster = cluster;
    this.faults = faults;
  }

  /** Whether an osd may end because of its device. */
  isFailing(osd: SimOsd): boolean {
    return this.failing.has(osd);
  }

  /**
   * Whether the block at an offset of an osd's device may be damaged; without one: whether any of it may.
   * What was healed since counts too.
   */
  isMarred(osd: SimOsd, place?: number): boolean {
    const places = this.marred.get(osd.path);
    if (places === undefined || place === undefined) return places !== undefined;
    return places === null || places.has(place);
  }

  /** Whether a read of an osd's device failed, ever. */
  hasFailedReads(osd: SimOsd): boolean {
    const { readsFailed, short } = this.cluster.simulation.disk(osd.path).strikes;
    return readsFailed + short > 0;
  }

  /** A block is damaged; without a place: any may be. */
  private mar(osd: SimOsd, place?: number): void {
    this.damaged += 1;
    const places = this.marred.get(osd.path);
    if (places === null) return;
    if (place === undefined) this.marred.set(osd.path, null);
    else this.marred.set(osd.path, (places ?? new Set()).add(place));
  }

  /** What may be why a read is refused: blocks that were damaged, operations that went wrong. */
  get woes(): number {
    let count = this.damaged;
    for (const { strikes } of this.cluster.simulation.disks) {
      count += strikes.strayed + strikes.short + strikes.readsFailed;
    }
    return count;
  }

  /** All devices do what they are told from now on. */
  end(): void {
    for (const osd of this.cluster.osds) this.mend(osd);
  }

  /** The device of an osd may fail it from now on, until `mend`. */
  fails(osd: SimOsd): void {
    this.failing.add(osd);
  }

  /** The device does what it is told from now on. */
  mend(osd: SimOsd): void {
    const disk = this.cluster.simulation.disk(osd.path);
    const { faults } = disk;
    this.failing.delete(osd);
    this.keepTable(osd);
    disk.bytesBeneath = Number.POSITIVE_INFINITY;
    Object.assign(faults, {
      readErrorShare: 0,
      writeErrorShare: 0,
      flushErrorShare: 0,
      latencyUsMin: 30,
      latencyUsMax: this.faults.plan.deviceUsMax,
      stalled: false,
      lyingFlush: false,
      lostWriteShare: 0,
      misdirectedWriteShare: 0,
      misdirectedReadShare: 0,
      failFlushes: 0,
      hangReads: 0,
      hangWrites: 0,
      shortShare: 0,
    });
  }

  /** One fault of the device at a time. */
  isWell(osd: SimOsd): boolean {
    return isServing(osd) && !this.failing.has(osd) && !this.faults.isSteady(osd);
  }

  /* ------------------------------------------------------- errors, slowness */

  /** Reads, writes or flushes answer EIO for a while. */
  errors(osd: SimOsd): boolean {
    if (!this.isWell(osd)) return false;
    const { random } = this.faults;
    const { faults } = this.cluster.simulation.disk(osd.path);
    const share = 0.01 + random.below(5) / 100;
    this.failing.add(osd);
    const kind = random.below(4);
    if (kind < 2) faults.readErrorShare = share;
    else if (kind === 2) faults.writeErrorShare = share;
    else faults.flushErrorShare = share;
    this.mendLater(osd, 100_000 + random.below(1_000_000));
    return true;
  }

  /** 200 ms an operation, or no answer. */
  slow(osd: SimOsd): boolean {
    if (!this.isWell(osd)) return false;
    const { random } = this.faults;
    const { faults } = this.cluster.simulation.disk(osd.path);
    this.failing.add(osd);
    if (random.below(2) === 0) faults.stalled = true;
    else Object.assign(faults, { latencyUsMin: SLOW_US / 2, latencyUsMax: SLOW_US });
    this.mendLater(osd, 50_000 + random.below(2_500_000));
    return true;
  }

  /** Somebody else fills the file system of one osd, or of all: little is left, or nothing. */
  fill(osd: SimOsd): boolean {
    const { random } = this.faults;
    const left = random.below(2) === 0 ? 0 : random.below(LITTLE_BYTES_MAX);
    const us = 50_000 + random.below(2_000_000);
    for (const one of random.below(2) === 0 ? this.cluster.osds : [osd]) {
      const disk = this.cluster.simulation.disk(one.path);
      disk.bytesBeneath = left;
      this.faults.later(us, () => {
        disk.bytesBeneath = Number.POSITIVE_INFINITY;
      });
    }
    return true;
  }

  /**
   * Writes overtake each other, so that many are under way at a time; the power is cut, some times, and
   * again soon after the start: what an earlier cut left is still in the log behind what is new.
   */
  cutBusy(osd: SimOsd): boolean {
    if (!this.isWell(osd)) return false;
    const { random } = this.faults;
    const { faults } = this.cluster.simulation.disk(osd.path);
    faults.latencyUsMax = 2_000 + random.below(30_000);
    const { faults: all } = this;
    const cuts = 1 + random.below(3);
    all.errand(async () => {
      await all.sleep(10_000 + random.below(200_000));
      for (let left = cuts; left > 0 && all.goesOn && this.isWell(osd); left--) {
        all.cutPower(osd, 5_000 + random.below(50_000));
        for (let looks = 0; looks < START_LOOKS_MAX && !isServing(osd); looks++) {
          await all.sleep(START_LOOK_US);
        }
        await all.sleep(random.below(40_000));
      }
      faults.latencyUsMax = all.plan.deviceUsMax;
    });
    return true;
  }

  mendLater(osd: SimOsd, delayUs: number): void {
    this.faults.later(delayUs, () => this.mend(osd));
  }

  /* ---------------------------------------- writes that do not get where they should */

  /**
   * Some writes of the victim land elsewhere, or nowhere; or its reads come from elsewhere. `share`:
   * of how many; default: drawn.
   */
  stray(kind: StrayKind, share?: number): boolean {
    const { victim, random } = this.faults;
    if (!this.isWell(victim)) return false;
    const disk = this.cluster.simulation.disk(victim.path);
    const { faults } = disk;
    this.tables.set(victim.path, disk.peek(TABLES_OFFSET, 2 * TABLE_BYTES));
    const us = 20_000 + random.below(300_000);
    faults[kind] = share ?? 0.002 + random.below(20) / 1000;
    this.failing.add(victim);
    this.faults.distrust(victim);
    this.mar(victim);
    victim.world?.resume();
    this.faults.steady(victim, us + VOUCH_US);
    this.mendLater(victim, us);
    return true;
  }

  /**
   * One large write that strays may take both zone tables: the disk is lost then, which is another fault,
   * for one victim more than the budget has. One copy comes back.
   */
  private keepTable({ path }: SimOsd): void {
    const tables = this.tables.get(path);
    this.tables.delete(path);
    if (tables === undefined) return;
    const disk = this.cluster.simulation.disk(path);
    const present = disk.peek(TABLES_OFFSET, 2 * TABLE_BYTES);
    const isLost = [0, TABLE_BYTES].every((at) => {
      const [now, before] = [present, tables].map((all) => all.subarray(at, at + TABLE_BYTES));
      return Buffer.compare(now!, before!) !== 0;
    });
    if (isLost) disk.poke(TABLES_OFFSET, tables.subarray(0, TABLE_BYTES));
  }

  /** The victim's device makes nothing stable for a while; then its power is cut: see `endLie`. */
  lie(): boolean {
    const { victim, random } = this.faults;
    const { osds } = this.cluster;
    if (!osds.every(isServing) || !this.isWell(victim) || !this.faults.makePeace(PEACE_US)) {
      return false;
    }
    this.failing.add(victim);
    this.faults.distrust(victim);
    this.mar(victim);
    this.cluster.simulation.disk(victim.path).faults.lyingFlush = true;
    this.faults.later(10_000 + random.below(600_000), () => this.endLie(victim));
    return true;
  }

  /** Whether the device makes nothing stable: then nobody but `endLie` ends the process above it. */
  isLying(osd: SimOsd): boolean {
    return this.cluster.simulation.disk(osd.path).faults.lyingFlush;
  }

  /** The power of a liar is cut as soon as others have all, in a peace of its own; else not at all. */
  private endLie(victim: SimOsd): void {
    const { faults } = this;
    const isSpare = this.isSpare(victim);
    if (!isSpare && faults.isPeace) {
      faults.later(LIE_LOOK_US, () => this.endLie(victim));
      return;
    }
    if (isSpare && faults.makePeace(PEACE_US)) faults.cutPower(victim);
    else faults.steady(victim, VOUCH_US);
    this.mend(victim);
  }

  /** Whether all that an osd has called durable is durable at a majority of each group without it. */
  private isSpare(osd: SimOsd): boolean {
    const others = this.cluster.osds.filter((one) => one !== osd && isServing(one));
    const groups = others.flatMap(groupsOf);
    return isServing(osd) && groupsOf(osd).every((group) => isElsewhere(group, groups));
  }

  /* -------------------------------------------------------------------- rot */

  rot(): boolean {
    const { victim } = this.faults;
    if (this.faults.isHeld(victim) || this.failing.has(victim)) return false;
    if (!isServing(victim)) this.rotStopped(victim);
    else if (this.faults.random.below(3) > 0) this.rotRunning(victim);
    else this.rotSource(victim);
    return true;
  }

  /** Rot where somebody is filled from: old blocks are about that must not be taken for whole. */
  private rotSource(osd: SimOsd): void {
    this.faults.errand(async () => {
      for (let looks = 0; looks < SOURCE_LOOKS_MAX; looks++) {
        if (this.faults.isHeld(osd) || !isServing(osd)) return;
        if (this.fillsOthers(osd)) break;
        await this.faults.sleep(SOURCE_LOOK_US);
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
    const { random } = this.faults;
    const isLatent = random.below(4) === 0;
    for (const stamp of this.faults.someStamps(1 + random.below(most))) {
      stampBlock(content, stamp);
      for (const place of file.find(content)) this.damage(osd, place, isLatent);
    }
    osd.world?.resume();
    this.faults.steady(osd, VOUCH_US);
  }

  /** Anything that the store can know for damaged: data, index pages, batches of the log, a superblock. */
  private rotStopped(osd: SimOsd): void {
    const { faults } = this;
    if (osd.world?.alive === true && !faults.kill(osd)) return;
    faults.hold(osd);
    faults.errand(async () => {
      const places = await this.placesOf(osd);
      const { random } = faults;
      for (let count = 1 + random.below(ROT_MAX); count > 0; count--) {
        const kind = places[random.below(places.length)]!;
        const place = kind[random.below(kind.length)];
        if (place !== undefined) this.damage(osd, place, false);
      }
      await faults.sleep(random.below(1_000_000));
      faults.release(osd);
    });
  }

  /** An index page of the victim is as it was some time ago: what was written there since is lost. */
  rewind(): boolean {
    const { faults } = this;
    const { victim, random } = faults;
    if (faults.isHeld(victim) || !this.isWell(victim)) return false;
    const file = this.cluster.simulation.disk(victim.path);
    const upUs = 100_000 + random.below(1_000_000);
    faults.errand(async () => {
      const before = await this.whileStopped(victim, async () => {
        const [, pages] = await this.placesOf(victim);
        return [...new Set(pages)].map((at) => ({ at, content: file.peek(at, BLOCK_SIZE) }));
      });
      await faults.sleep(upUs);
      await this.whileStopped(victim, () => {
        const isOld = ({ at, content }: { at: number; content: Uint8Array }): boolean => {
          const present = file.peek(at, BLOCK_SIZE);
          return content.some((byte, index) => byte !== present[index]);
        };
        const old = before?.filter(isOld) ?? [];
        const page = old[random.below(Math.max(1, old.length))];
        if (page === undefined) return Promise.resolve();
        this.mar(victim, page.at);
        file.poke(page.at, page.content);
        return Promise.resolve();
      });
    });
    return true;
  }

  /** Do something with the device of an osd that does not run for that; null: it can not be stopped. */
  private async whileStopped<Value>(
    osd: SimOsd,
    action: () => Promise<Value>,
  ): Promise<Value | null> {
    const { faults } = this;
    if (faults.isHeld(osd)) return null;
    if (osd.world?.alive === true && !faults.kill(osd)) return null;
    faults.hold(osd);
    try {
      return await action();
    } finally {
      faults.release(osd);
    }
  }

  private placesOf(osd: SimOsd): Promise<number[][]> {
    return this.cluster.withDevice(osd, async (world, disk) => {
      const read = (section: string): Promise<Record<string, unknown>> =>
        inspectStore(world, disk, section, FORMATS_NEXT);
      return [...(await readPlaces(read)), await this.superblockPlaces(read)];
    });
  }

  /** One of the two copies, while the other one is good. */
  private async superblockPlaces(
    read: (section: string) => Promise<Record<string, unknown>>,
  ): Promise<number[]> {
    const { superblock } = (await read("superblock")) as {
      readonly superblock: { deviceBytes: number; copyA: boolean; copyB: boolean };
    };
    if (!superblock.copyA || !superblock.copyB) return [];
    return [this.faults.random.below(2) === 0 ? 0 : superblock.deviceBytes - BLOCK_SIZE];
  }

  private damage(osd: SimOsd, place: number, isLatent: boolean): void {
    this.mar(osd, place);
    const file = this.cluster.simulation.disk(osd.path);
    if (isLatent) file.spoil(place, BLOCK_SIZE);
    else file.rot(place, BLOCK_SIZE);
  }
}

/** What strays. */
export type StrayKind = "misdirectedWriteShare" | "misdirectedReadShare" | "lostWriteShare";

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
