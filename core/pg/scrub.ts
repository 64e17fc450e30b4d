// cold path: a scrub works in rounds of milliseconds, in the background.
/**
 * Scrub: the leader of a group compares its replicas, and puts right what is not the same.
 *
 *   light     every replica tells its units, each with a digest of its 16 blocks, at any index. Those
 *             that are not as here, or are not told, are compared block by block at one exact index:
 *             the leader notes what they are here at its applied index L; each replica applies until
 *             exactly L, tells what they are there, and goes on. What differs at L has diverged.
 *   deep      before that each replica reads all of its data against its checksums, which are bound
 *             to place and version, and heals what does not match (`core/osd/scrub-reader.ts`): a
 *             write that was lost, or went elsewhere, shows there
 *
 * What most replicas have (more than half of those with data, block by block) is right: it was committed
 * and applied there, and a wrong copy has no way to come to be the same twice. A replica that has
 * another block is filled by difference, as if it had missed entries: it counts for nothing until it
 * is the same. A leader that has it hands over first: the next one finds it. Where no majority has
 * the same, nothing is touched: the blocks are told, and stay what they are on each replica.
 *
 * A block that is given up as lost on one replica and not yet on another has not diverged: whoever
 * meets it next learns so (`core/osd/healer.ts`).
 *
 * Only a whole group is scrubbed: all members are voters, those with data reachable, and none of them
 * is being filled. When that ends, or the connection, it goes on once it is whole again; when the
 * leadership ends, the monitor tells the next leader. A witness has nothing to compare.
 *
 * Holding all replicas at a `cut` entry was not enough: a leader that holds answers no reads.
 */
import { FastblockError } from "../base/errors.ts";
import { BLOCKS_PER_UNIT } from "../base/units.ts";
import { ProgressState } from "../raft/raft.ts";
import { CallbackTimer } from "../reactor/world.ts";
import { SlotSet } from "./fill-parts.ts";
import type { ListedUnit, UnitKey } from "./fill-source.ts";
import type { Group } from "./group.ts";
import { UnitListing, UnitState } from "./local-store.ts";
import type { PgShard } from "./pg.ts";
import { unitsOf } from "./scrub-hold.ts";
import type { BlockPlace, ScrubPeer, ScrubReader } from "./scrub-peer.ts";
import { blockOf, judgeUnit, ScrubTally } from "./scrub-tally.ts";

/** Units that one round compares, and units that wait until they are. */
const ROUND_UNITS_MAX = 64;
/** The share of the time that is left to clients: a pause after each step, in steps. */
const PAUSE_STEPS = 4;
/** Units of which the store has all in memory at a time. */
const ROWS_UNITS = 64;
const PAUSE_US_MIN = 2000;
const PAUSE_US_MAX = 200_000;
/** Between an attempt that failed and the next; between two looks at a group that is not whole. */
const RETRY_US = 500_000;
/** A round whose index a replica had passed is repeated at a newer one, so often in a row. */
const ROUND_TRIES = 100;
/** Each pass but the first compares what was put right. */
const PASSES_MAX = 3;
/** A replica that is filled may take long; what does not begin to be filled within this is left. */
const REFILL_BEGINS_US = 10_000_000;

/** What was done since the start, all groups of the shard. */
export interface ScrubCounters {
  scrubsLight: number;
  scrubsDeep: number;
  scrubUnitsCompared: number;
  /** Units that were compared block by block, at one index. */
  scrubUnitsAsked: number;
  scrubBlocksDiverged: number;
  scrubBlocksUndecided: number;
  scrubRefills: number;
}

/** One scrub of one group, as the monitor ordered it. */
export class Scrub {
  readonly group: Group;
  readonly order: number;
  readonly deep: boolean;
  /** What it has found. */
  readonly tally: ScrubTally = new ScrubTally();
  done = false;
  private readonly shard: PgShard;
  private readonly counters: ScrubCounters;
  private cancelled = false;
  private wake: (() => void) | null = null;
  private readonly candidates = new Map<string, UnitKey>();
  private readonly own = new UnitState();
  /** How far each replica has read, by its id; -1: all. */
  private readonly readTo = new Map<number, number>();
  /** Replicas that have blocks which most do not have. */
  private readonly minority = new Set<number>();

  constructor(
    shard: PgShard,
    group: Group,
    counters: ScrubCounters,
    order: number,
    isDeep: boolean,
  ) {
    this.shard = shard;
    this.group = group;
    this.counters = counters;
    this.order = order;
    this.deep = isDeep;
  }

  cancel(): void {
    this.cancelled = true;
    this.wake?.();
  }

  /** Until it is done, is cancelled, or this replica does not lead any more. */
  async run(): Promise<void> {
    while (this.goesOn) {
      try {
        if (this.isWhole && (await this.attempt())) {
          this.done = true;
          return;
        }
      } catch (error) {
        if (!(error instanceof FastblockError) && !(error instanceof Setback)) throw error;
        const reason = error.message;
        this.shard.logger.info("scrubbing begins again", { pg: this.group.pg, reason });
      }
      await this.pause(RETRY_US);
    }
  }

  private get goesOn(): boolean {
    return !this.cancelled && !this.group.gone && this.group.isLeader;
  }

  /** Every member votes, can be reached, and is what its acknowledgements say. */
  private get isWhole(): boolean {
    const { group } = this;
    const { node } = group;
    if (!group.serving || group.fill !== null || group.faulty.length > 0) return false;
    if (node.conf.learners !== 0 || node.conf.outgoing !== 0) return false;
    return node.progress.every((progress, slot) => {
      if (slot === node.selfSlot || (node.conf.witnesses & (1 << slot)) !== 0) return true;
      if (group.peers[slot]?.link.up !== true || progress.filling) return false;
      return progress.state !== ProgressState.Fill;
    });
  }

  /** False: the group is not what it was. */
  private async attempt(): Promise<boolean> {
    const peers = this.shard.scrubPeers(this.group);
    if (peers === null) return false;
    if (this.deep) await this.readAll(peers);
    for (let pass = 1; this.goesOn; pass++) {
      this.tally.beginPass();
      this.minority.clear();
      await this.compareAll(peers);
      if (!this.goesOn) return false;
      if (this.minority.size === 0 || pass === PASSES_MAX) break;
      if (!(await this.treat(peers))) break;
    }
    if (!this.goesOn) return false;
    if (this.deep) this.counters.scrubsDeep += 1;
    else this.counters.scrubsLight += 1;
    this.tell();
    return true;
  }

  private tell(): void {
    const { group, tally, deep } = this;
    const { found, left } = tally;
    const fields = { pg: group.pg, deep, found, healed: found - left, left };
    if (left > 0) this.shard.logger.error("scrub found what it can not put right", fields);
    else if (found > 0) this.shard.logger.warn("scrub put right what it found", fields);
    else this.shard.logger.debug("scrub found nothing", fields);
  }

  /* ------------------------------------------------------------------ reading */

  /** Every replica reads all of its data; one that did so before an interruption does not again. */
  private async readAll(peers: readonly ScrubPeer[]): Promise<void> {
    const all: ScrubReader[] = [...peers, this.shard.scrubSelf(this.group)];
    const settled = await Promise.allSettled(all.map((one) => this.readOne(one)));
    for (const one of settled) if (one.status === "rejected") throw one.reason;
  }

  private async readOne(peer: ScrubReader): Promise<void> {
    let cursor = this.readTo.get(peer.replica) ?? 0;
    while (cursor >= 0 && this.goesOn) {
      const read = await peer.read(cursor);
      this.tally.addRead(read);
      cursor = read.next;
      this.readTo.set(peer.replica, cursor);
      await this.turn();
    }
  }

  /* ---------------------------------------------------------------- comparing */

  private async compareAll(peers: readonly ScrubPeer[]): Promise<void> {
    this.candidates.clear();
    const seen = peers.map(() => new SlotSet());
    for (const [at, peer] of peers.entries()) await this.compareListed(peers, peer, seen[at]!);
    await this.compareOwn(peers, seen);
    await this.compareCandidates(peers, 1);
  }

  /** Units that a replica tells and that are not the same here are candidates. */
  private async compareListed(
    peers: readonly ScrubPeer[],
    peer: ScrubPeer,
    seen: SlotSet,
  ): Promise<void> {
    const { own, shard } = this;
    const { store } = shard;
    let cursor = 0;
    while (cursor >= 0 && this.goesOn) {
      const begunUs = shard.world.clock.nowUs();
      const page = await peer.list(cursor);
      for (let at = 0; at < page.units.length; at += ROWS_UNITS) {
        const some = page.units.slice(at, at + ROWS_UNITS);
        const look = (): void => some.forEach((listed) => this.compare(listed, own, seen));
        if (store.isPaged) await store.withUnits(this.group.row, some, look);
        else look();
      }
      cursor = page.next;
      await this.rest(begunUs);
      await this.compareCandidates(peers, ROUND_UNITS_MAX);
    }
  }

  private compare(listed: ListedUnit, own: UnitState, seen: SlotSet): void {
    const { store } = this.shard;
    own.layer = listed.layer;
    own.unit = listed.unit;
    own.snapSeq = listed.snapSeq;
    store.unitState(this.group.row, own);
    store.digestOf(own);
    this.counters.scrubUnitsCompared += 1;
    const slot = store.unitSlot(listed.layer, listed.unit, listed.snapSeq);
    if (slot >= 0) seen.add(slot);
    const same = own.digestLow === listed.digestLow && own.digestHigh === listed.digestHigh;
    if (!same) this.addCandidate(listed.layer, listed.unit, listed.snapSeq);
  }

  /** Units that are here and that some replica did not tell are candidates. */
  private async compareOwn(peers: readonly ScrubPeer[], seen: readonly SlotSet[]): Promise<void> {
    const listing = new UnitListing();
    const { store } = this.shard;
    let cursor = 0;
    while (cursor >= 0 && this.goesOn) {
      const begunUs = this.shard.world.clock.nowUs();
      cursor = store.listUnits(this.group.row, cursor, listing);
      for (let at = 0; at < listing.count; at++) {
        const layer = listing.layers[at]!;
        const unit = listing.units[at]!;
        const snapSeq = listing.snapSeqs[at]!;
        const slot = store.unitSlot(layer, unit, snapSeq);
        if (slot >= 0 && seen.every((set) => set.has(slot))) continue;
        this.addCandidate(layer, unit, snapSeq);
      }
      await this.rest(begunUs);
      await this.compareCandidates(peers, ROUND_UNITS_MAX);
    }
  }

  private addCandidate(layer: number, unit: number, snapSeq: number): void {
    const key = `${String(layer)}/${String(unit)}/${String(snapSeq)}`;
    this.candidates.set(key, { layer, unit, snapSeq });
  }

  /** Compare candidates at one index, while at least `countMin` wait. */
  private async compareCandidates(peers: readonly ScrubPeer[], countMin: number): Promise<void> {
    while (this.candidates.size >= countMin && this.goesOn) {
      const begunUs = this.shard.world.clock.nowUs();
      const keys = [...this.candidates].slice(0, ROUND_UNITS_MAX);
      await this.round(
        peers,
        keys.map(([, key]) => key),
      );
      for (const [name] of keys) this.candidates.delete(name);
      await this.rest(begunUs);
    }
  }

  /** Compare some units at one index. */
  private async round(peers: readonly ScrubPeer[], keys: readonly UnitKey[]): Promise<void> {
    const { group } = this;
    for (let tries = 1; this.goesOn; tries++) {
      if (tries > ROUND_TRIES) throw new Setback("the replicas do not meet at one index");
      const { applied: index, units: own } = await unitsOf(group, keys);
      const settled = await Promise.allSettled(peers.map((one) => one.unitsAt(keys, index)));
      const replicas = [own];
      for (const one of settled) {
        if (one.status === "rejected") throw one.reason;
        if (one.value !== null) replicas.push([...one.value]);
      }
      if (replicas.length <= peers.length) {
        await this.pause(PAUSE_US_MIN);
        continue;
      }
      this.counters.scrubUnitsAsked += keys.length;
      for (const at of keys.keys())
        this.judge(
          peers,
          keys[at]!,
          replicas.map((one) => one[at]!),
        );
      return;
    }
  }

  /** `units`: what one unit is here, then at each peer, all at the same index. */
  private judge(peers: readonly ScrubPeer[], key: UnitKey, units: readonly UnitState[]): void {
    const judged = judgeUnit(units);
    for (let bit = 0; bit < BLOCKS_PER_UNIT; bit++) {
      const word = judged.differing[bit]!;
      if (word === 0) continue;
      const place = blockOf(key, bit);
      const isUndecided = ((judged.undecided >>> bit) & 1) === 1;
      this.note(place, isUndecided);
      if (isUndecided) continue;
      for (let at = 0; at < units.length; at++) {
        if (((word >>> at) & 1) === 0) continue;
        this.minority.add(at === 0 ? this.group.replica : peers[at - 1]!.replica);
      }
    }
  }

  private note(place: BlockPlace, isUndecided: boolean): void {
    if (this.tally.note(place, isUndecided)) {
      if (isUndecided) this.counters.scrubBlocksUndecided += 1;
      else this.counters.scrubBlocksDiverged += 1;
    }
    this.shard.logger.warn("replicas differ at one index", {
      pg: this.group.pg,
      ...place,
      undecided: isUndecided,
    });
  }

  /* ---------------------------------------------------------------- treatment */

  /** Let replicas be filled that are not what most are. True: compare again. */
  private async treat(peers: readonly ScrubPeer[]): Promise<boolean> {
    const { group, minority, shard } = this;
    if (minority.has(group.replica)) {
      const heir = peers.find((one) => !minority.has(one.replica));
      if (heir === undefined) return false;
      shard.logger.warn("a leader that has diverged hands over", {
        pg: group.pg,
        to: heir.replica,
      });
      if (!shard.reconfigurer.transfer(group, heir.replica))
        throw new Setback("it can not hand over now");
      await this.until(REFILL_BEGINS_US, () => !this.goesOn);
      throw new Setback("the leadership did not go");
    }
    for (const peer of peers) {
      if (!minority.has(peer.replica) || !this.goesOn) continue;
      await peer.refill();
      this.counters.scrubRefills += 1;
      await this.until(REFILL_BEGINS_US, () => !this.isWhole);
      // However long it takes; another leader begins anew.
      while (this.goesOn && !this.isWhole) await this.pause(RETRY_US);
    }
    return this.goesOn;
  }

  /** Wait until `ready`, for at most `limitUs`. */
  private async until(limitUs: number, ready: () => boolean): Promise<void> {
    const { clock } = this.shard.world;
    const untilUs = clock.nowUs() + limitUs;
    while (!ready() && clock.nowUs() < untilUs) await this.pause(PAUSE_US_MIN);
  }

  /* ------------------------------------------------------------------ waiting */

  /** Leave the shard to clients for some times what was taken since `begunUs`. */
  private rest(begunUs: number): Promise<void> {
    const tookUs = this.shard.world.clock.nowUs() - begunUs;
    return this.pause(Math.max(PAUSE_US_MIN, Math.min(PAUSE_US_MAX, tookUs * PAUSE_STEPS)));
  }

  private turn(): Promise<void> {
    return this.pause(0);
  }

  private pause(delayUs: number): Promise<void> {
    if (this.cancelled) return Promise.resolve();
    const { timers } = this.shard.world;
    return new Promise((resolve) => {
      const timer = new CallbackTimer(() => {
        timers.disarm(timer);
        resolve();
      });
      this.wake = (): void => timer.onTimer();
      timers.arm(timer, delayUs);
    });
  }
}

/** What may happen and is tried again. */
class Setback extends Error {}
