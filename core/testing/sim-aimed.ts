// cold: the simulator
import { assert } from "../base/assert.ts";
import { Prng } from "../base/prng.ts";
import { BLOCK_SIZE } from "../base/units.ts";
import type { Group } from "../pg/pg.ts";
import type { DiskWatcher } from "../reactor/reactor.ts";
import { type DiskOp, DiskVerb } from "../reactor/world.ts";
import { awakeOf, isServing, type SimCluster, type SimOsd } from "./sim-cluster.ts";
import type { SimFaults } from "./sim-faults.ts";
import type { SimProbes } from "./sim-probes.ts";

/**
 * Faults that are aimed: each waits for the very moment of a story that chance meets in one run of
 * thousands, with devices that are slow enough for such moments to last.
 *
 *   stale batch    power cut with two batches of a log on their way; the first is lost, the second one
 *                  arrives. Another batch, as long as the first, is written in its place; power cut again,
 *                  before the next one. What lies behind it was written in an earlier life (`store.md`,
 *                  story 1).
 *   second vote    power cut of a voter as soon as its candidate was elected; the one who led before asks
 *                  it for a vote in the same term, and the elected one is not heard (defect 10 of the
 *                  original).
 *
 * One at a time, drawn beside all other faults, which rest meanwhile.
 */

const PAUSE_US_MIN = 20_000;
const PAUSE_US_MAX = 200_000;
/** Between two looks at what is under way, and at who leads. */
const LOOK_US = 100;
const SLOW_US_MIN = 2_000;
const SLOW_US_MAX = 3_000;
/** A vote takes longer than its message. */
const VOTE_US_MIN = 9_000;
const VOTE_US_MAX = 12_000;
/** For this long a moment is waited for. */
const WAIT_US = 1_500_000;
/** In this time an osd starts, its peers elect somebody, and all is as it was. */
const PEACE_US = 3_000_000;
/** So often two batches are lost, until what comes in their place is as long. */
const STALE_TRIES = 4;
/** Most batches are no longer than that. */
const SHORT_BYTES = 2 * BLOCK_SIZE;
const BATCH_MAGIC = 0x424c_4246;

/** A batch of a log: what its header says, and where it lies on the device. */
interface Batch {
  readonly shard: number;
  readonly incarnation: number;
  readonly seq: number;
  readonly offsetBytes: number;
  readonly lengthBytes: number;
}

/**
 * The first batch of a log that is submitted from now on. Looks from time to time are not enough: a fast
 * device writes one, and begins with the next, between two of them.
 */
class FirstBatch implements DiskWatcher {
  batch: Batch | null = null;
  private readonly shard: number;

  constructor(shard: number) {
    this.shard = shard;
  }

  onSubmit({ verb, offsetBytes, lengthBytes }: DiskOp, contents: readonly Uint8Array[]): void {
    if (this.batch !== null || verb !== DiskVerb.WriteDurable) return;
    const batch = batchOf(offsetBytes, lengthBytes, contents[0]!);
    if (batch?.shard === this.shard) this.batch = batch;
  }

  onLand(): boolean {
    return false;
  }
}

/** The osds of a group: who leads it, and who elects another one. */
interface Electors {
  readonly pg: number;
  readonly leader: SimOsd;
  readonly others: readonly SimOsd[];
}

/** Who leads a group, and in which term. */
interface Elected {
  readonly osd: SimOsd;
  readonly term: number;
  readonly replica: number;
}

export class SimAimed {
  private readonly cluster: SimCluster;
  private readonly faults: SimFaults;
  private readonly probes: SimProbes;
  private readonly random: Prng;

  constructor(cluster: SimCluster, faults: SimFaults, probes: SimProbes) {
    this.cluster = cluster;
    this.faults = faults;
    this.probes = probes;
    this.random = new Prng(cluster.simulation.seed * 89 + 29);
  }

  /** Plan them for a round of faults. */
  begin(): void {
    this.faults.later(PAUSE_US_MIN + this.random.below(PAUSE_US_MAX), () => this.strike());
  }

  private strike(): void {
    const { faults } = this;
    const { round } = faults;
    if (!faults.goesOn) return;
    this.cluster.simulation.heal();
    if (!faults.makePeace(PEACE_US)) {
      this.begin();
      return;
    }
    const isVote = this.random.below(2) === 0;
    faults.errand(async () => {
      await (isVote ? this.secondVote() : this.staleBatch());
      faults.endPeace();
      // The next round plans its own: two at a time would make each other's devices fast again.
      if (faults.round === round) this.begin();
    });
  }

  /* ------------------------------------------------------------ stale batch */

  private async staleBatch(): Promise<void> {
    const { osds } = this.cluster;
    const osd = osds[this.random.below(osds.length)]!;
    if (!this.isFree(osd)) return;
    this.slow([osd], SLOW_US_MIN, SLOW_US_MAX);
    for (let tries = 0; tries < STALE_TRIES; tries++) {
      const stale = await this.loseFirst(osd);
      if (stale === null) break;
      if (!(await this.writeAnew(osd, stale))) continue;
      this.faults.note("stale batch");
      await this.checkRefused(osd, stale);
      break;
    }
    this.slow([osd], 0, 0);
  }

  /** Two batches are on their way; the power is cut: the second arrives. Answers it. */
  private async loseFirst(osd: SimOsd): Promise<Batch | null> {
    const second = await this.until(() => {
      const batches = this.flying(osd);
      const isSecond = (one: Batch): boolean =>
        batches.some((other) => other.lengthBytes <= SHORT_BYTES && precedes(other, one));
      return batches.find(isSecond);
    }, WAIT_US);
    if (second === undefined || !this.isFree(osd)) return null;
    this.cut(osd, (at) => at === second.offsetBytes);
    return second;
  }

  /** What takes the place of the first comes just before the stale one, and is durable; power cut. */
  private async writeAnew(osd: SimOsd, stale: Batch): Promise<boolean> {
    const isFirst = ({ shard, seq }: Batch): boolean =>
      shard === stale.shard && seq === stale.seq - 1;
    const first = await this.until(() => this.flying(osd).find(isFirst), WAIT_US);
    if (first === undefined) return false;
    const file = this.cluster.simulation.disk(osd.path);
    const at = first.offsetBytes;
    const newer = this.flying(osd).find((one) => one.shard === stale.shard && one.seq > first.seq);
    if (!precedes(first, stale) || newer !== undefined) return false;
    const isDone = (): boolean =>
      batchOf(at, BLOCK_SIZE, file.peekDurable(at, BLOCK_SIZE))?.incarnation === first.incarnation;
    if (!(await this.until(isDone, WAIT_US)) || !this.isFree(osd)) return false;
    this.cut(osd, () => false);
    const behind = file.peekDurable(stale.offsetBytes, BLOCK_SIZE);
    return (
      batchOf(stale.offsetBytes, BLOCK_SIZE, behind)?.incarnation === stale.incarnation && isDone()
    );
  }

  /** The log goes on where the stale batch lies, not behind it. */
  private async checkRefused(osd: SimOsd, stale: Batch): Promise<void> {
    const file = this.cluster.simulation.disk(osd.path);
    const first = new FirstBatch(stale.shard);
    // The one that was cut, and the one behind it: a third may go on behind what the second has written.
    const processes = new Set([osd.world]);
    const isWritten = (): boolean => {
      processes.add(osd.world);
      return first.batch !== null || processes.size > 2;
    };
    file.watcher = first;
    const isSeen = await this.atOnce(isWritten, WAIT_US);
    file.watcher = null;
    const next = first.batch;
    if (!isSeen || next === null || processes.size > 2) return;
    assert(
      next.seq === stale.seq,
      `osd.${String(osd.id)} goes on with batch ${String(next.seq)}: batch ${String(stale.seq)} of an earlier start was taken`,
    );
    this.probes.hit("stale batch refused");
  }

  private flying(osd: SimOsd): Batch[] {
    const { world } = osd;
    if (world?.alive !== true) return [];
    return world
      .flying(osd.path)
      .map(({ offsetBytes, lengthBytes, head }) => batchOf(offsetBytes, lengthBytes, head))
      .filter((batch) => batch !== null);
  }

  /* ------------------------------------------------------------ second vote */

  private async secondVote(): Promise<void> {
    const { faults } = this;
    const wanted = this.random.below(this.cluster.pgs.length);
    const electors = await this.until(() => this.electorsFrom(wanted), WAIT_US);
    if (electors === undefined) return;
    const { pg, leader, others } = electors;
    this.slow(others, VOTE_US_MIN, VOTE_US_MAX);
    faults.hold(leader);
    if (faults.kill(leader, true)) await this.voteTwice(pg, leader, others);
    this.slow(others, 0, 0);
    if (faults.isHeld(leader)) faults.release(leader);
  }

  /** The first group from one on that is led, and whose three osds all run. */
  private electorsFrom(wanted: number): Electors | undefined {
    const { pgs, osds } = this.cluster;
    for (let at = 0; at < pgs.length; at++) {
      const pg = pgs[(wanted + at) % pgs.length]!.id;
      const members = osds.filter((osd) => groupOf(osd, pg) !== undefined && this.isFree(osd));
      const leader = members.find((osd) => groupOf(osd, pg)!.serving);
      const others = members.filter((osd) => osd !== leader);
      if (leader !== undefined && others.length === 2) return { pg, leader, others };
    }
    return undefined;
  }

  /**
   * One of two is elected by the other one, which loses its power before anybody else hears of that. The
   * earlier leader is back, and does not hear the elected one either.
   */
  private async voteTwice(pg: number, leader: SimOsd, others: readonly SimOsd[]): Promise<void> {
    const { simulation } = this.cluster;
    const elected = await this.until(() => electedOf(others, pg), WAIT_US);
    if (elected === undefined) return;
    const { osd: first, term, replica } = elected;
    const voter = others.find((osd) => osd !== first)!;
    if (voteOf(voter, pg) !== `${String(term)}/${String(replica)}`) return;
    if (!others.every((osd) => this.isFree(osd))) return;
    this.faults.note("second vote");
    const { address } = first;
    simulation.cut(address, "*");
    simulation.cut("*", address);
    this.cut(voter, () => false);
    this.faults.release(leader);
    const vote = await this.until(() => voteOf(voter, pg), WAIT_US);
    const next = await this.until(() => electedOf([voter, leader], pg), WAIT_US);
    simulation.heal(address, "*");
    simulation.heal("*", address);
    if (next === undefined || vote === undefined) return;
    const text = `group ${String(pg)}: a voter of term ${String(term)} lost its power`;
    assert(next.term > term, `${text}, and there is another leader of the same term`);
    assert(
      vote === `${String(term)}/${String(replica)}`,
      `${text}, and forgot its vote for ${String(replica)}: its term and vote are ${vote}`,
    );
    this.probes.hit("vote remembered after a power cut");
  }

  /* ------------------------------------------------------------------- both */

  private isFree(osd: SimOsd): boolean {
    const { faults } = this;
    return isServing(osd) && faults.goesOn && !faults.isHeld(osd) && !faults.isSteady(osd);
  }

  /** Operations of the devices take so long; 0: as long as usual. */
  private slow(osds: readonly SimOsd[], least: number, most: number): void {
    const { simulation } = this.cluster;
    const usual = { latencyUsMin: 30, latencyUsMax: this.faults.plan.deviceUsMax };
    for (const { path } of osds) {
      const wanted = most === 0 ? usual : { latencyUsMin: least, latencyUsMax: most };
      Object.assign(simulation.disk(path).faults, wanted);
    }
  }

  /** The power is gone, and back at once. */
  private cut(osd: SimOsd, arrives: (offsetBytes: number) => boolean): void {
    this.faults.cutPower(osd, 1_000, arrives);
  }

  /**
   * Look until something is found, and answer that; undefined: in vain. Whoever waits for the answer goes on
   * in the next turn that any process takes: by then a second look may find nothing.
   */
  private async until<Found>(
    look: () => Found | false | undefined,
    limitUs: number,
  ): Promise<Found | undefined> {
    const { simulation } = this.cluster;
    const endUs = simulation.nowUs + limitUs;
    while (this.faults.goesOn && simulation.nowUs < endUs) {
      const found = look();
      if (found !== undefined && found !== false) return found;
      await this.faults.sleep(LOOK_US);
    }
    return undefined;
  }

  /**
   * As `until`, with a look at each moment. Whoever sleeps goes on in the next turn that any process takes:
   * where all are quiet, that comes after a batch that was submitted behind the look before has landed.
   */
  private atOnce(ready: () => boolean, limitUs: number): Promise<boolean> {
    const { simulation } = this.cluster;
    const endUs = simulation.nowUs + limitUs;
    return new Promise((resolve) => {
      const look = (): void => {
        if (!this.faults.goesOn || simulation.nowUs >= endUs) resolve(false);
        else if (ready()) resolve(true);
        else simulation.after(LOOK_US, look);
      };
      look();
    });
  }
}

/** The group of an osd that runs; undefined: it has none, or is parked. */
function groupOf(osd: SimOsd, pg: number): Group | undefined {
  if (osd.world?.alive !== true) return undefined;
  return awakeOf(osd).find((group) => group.pg === pg);
}

/** The first of some osds that leads a group. */
function electedOf(osds: readonly SimOsd[], pg: number): Elected | undefined {
  for (const osd of osds) {
    const group = groupOf(osd, pg);
    if (group?.isLeader === true) return { osd, term: group.node.term, replica: group.replica };
  }
  return undefined;
}

/** Term and vote of a replica; undefined: its osd does not run, or opens its store. */
function voteOf(osd: SimOsd, pg: number): string | undefined {
  const node = groupOf(osd, pg)?.node;
  return node === undefined ? undefined : `${String(node.term)}/${String(node.vote)}`;
}

/** What lies, or will lie, at an offset of a device; null: no batch begins there. */
function batchOf(offsetBytes: number, lengthBytes: number, head: Uint8Array): Batch | null {
  const view = new DataView(head.buffer, head.byteOffset, head.byteLength);
  if (view.getUint32(0, true) !== BATCH_MAGIC) return null;
  const shard = view.getUint16(6, true);
  const incarnation = view.getUint32(8, true);
  const seq = Number(view.getBigUint64(16, true));
  return { shard, incarnation, seq, offsetBytes, lengthBytes };
}

/** Whether a batch stands right before another one of its log. */
function precedes(first: Batch, second: Batch): boolean {
  const isNext = first.shard === second.shard && first.seq === second.seq - 1;
  return isNext && first.offsetBytes + first.lengthBytes === second.offsetBytes;
}
