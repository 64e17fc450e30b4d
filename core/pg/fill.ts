// cold path: a replica is filled in rounds of milliseconds; nothing here runs per I/O.
/**
 * Catch-up by difference: for a replica that misses entries which nobody holds in the log any more,
 * or whose store can not be trusted as it is.
 *
 *   begin     when its log does not reach the leader's: it takes over the leader's position X and
 *             the state of the group as of X; its blocks stay what they are: old
 *   listing   the leader tells its units, each with a digest of its 16 blocks; equal ones are done
 *   transfer  units that differ, then its own units that the leader did not tell, in rounds:
 *               hold: apply nothing further
 *               ask what the blocks of some units are; the answer holds at the leader's applied
 *               index L; go on applying until exactly L, and hold there
 *               fetch the blocks that differ, log them, and when that is durable, put them in place
 *               let go
 *   again     until a pass has put nothing in place: what an older snapshot or a parent shows may
 *             show through where a newer one, compared before, holds nothing of its own
 *   end       a durable record; from then on it counts again
 *
 * A witness has nothing to list or transfer: it begins and ends.
 *
 * Each round makes some units of this replica at index L what they are at the leader at index L.
 * Both apply the same entries from there on, so they stay the same; entries apply as ever, and redo
 * needs to know no more than behind which entry a transfer stands in the log.
 *
 * A block that the leader has overwritten between the answer and the fetch is left out: the entry
 * that did it lies behind L and will be applied here as well. Units that are told as equal were
 * equal at two indexes, perhaps different ones; what lies between them either wrote a version, which
 * both show, or zeroed what both show as zero.
 *
 * The simpler design, to compare versions block by block while entries are applied and to let the
 * higher one win, was not enough: a unit that was zeroed as a whole has no version left, and a copy
 * that was under way meanwhile would have brought back what was in it.
 *
 * How much of the time that takes is the recovery dial's (`recovery-pace.ts`): after each page of the
 * listing and each round comes a rest. While recovery is paused a replica that has begun stays where
 * it is between two rounds, holding nothing up, and takes what is new like the others.
 *
 * Everything starts over when the leader changes or the connection ends: equal units cost 24 bytes.
 */
import { assert } from "../base/assert.ts";
import { FastblockError } from "../base/errors.ts";
import { Status, statusName } from "../base/status.ts";
import { BLOCK_SIZE, BLOCKS_PER_UNIT } from "../base/units.ts";
import { bitCount, dataBits, SlotSet, UnitFillOp } from "./fill-parts.ts";
import { FillProgress, type FillState } from "./fill-progress.ts";
import type { FillSource, FillUnits, ListedUnit, UnitKey } from "./fill-source.ts";
import { FillTurns } from "./fill-turns.ts";
import type { FillCounters } from "./fills.ts";
import type { Group } from "./group.ts";
import { BlockState, GroupHealth, UnitListing, UnitState } from "./local-store.ts";
import type { PgShard } from "./pg.ts";

/** Data blocks that are copied at a time (4 MiB of slots at most). */
const COPY_BLOCKS_MAX = 256;
/** Units of which the store has all in memory at a time. */
const ROWS_UNITS = 64;
/** A round that takes longer leaves the rest of its units to another: nothing is applied meanwhile. */
const ROUND_US_MAX = 50_000;
/** Between an attempt that failed and the next. */
const RETRY_US = 200_000;
/** How often the dial is looked at while recovery is paused. */
const PAUSED_LOOK_US = 100_000;
/** Until a log that was full is looked at again: blocks are being moved home meanwhile. */
const ROOM_US = 10_000;
/** A round whose index does not come is given up: the hold must not last. */
const HOLD_US_MAX = 2_000_000;

/** One group on its way back. */
export class Fill {
  readonly group: Group;
  private readonly shard: PgShard;
  private readonly counters: FillCounters;
  private readonly progress: FillProgress;
  private readonly turns: FillTurns;
  private fromBase: boolean;
  /** Its log is right, its blocks are not: it begins where it stands. */
  private readonly diverged: boolean;
  private cancelled = false;
  /** The record of its end is on its way to the log. */
  private ending = false;
  private readonly seen = new SlotSet();
  private readonly pending: UnitKey[] = [];
  /** Units with blocks that the leader could not read: asked for again at the end. */
  private readonly unreadable: UnitKey[] = [];
  private readonly own = new UnitState();
  /** Units put in place by the pass that goes on. */
  private placed = 0;

  constructor(
    shard: PgShard,
    group: Group,
    counters: FillCounters,
    fromBase: boolean,
    diverged = false,
  ) {
    this.shard = shard;
    this.group = group;
    this.counters = counters;
    this.progress = new FillProgress(counters);
    this.turns = new FillTurns(shard);
    this.fromBase = fromBase;
    this.diverged = diverged;
  }

  /** The leader's log went past this replica again. */
  beginAgain(): void {
    this.fromBase = true;
  }

  cancel(): void {
    this.cancelled = true;
    this.release();
    this.turns.cancel();
  }

  /** Called by the group whenever it has applied something. */
  onApplied(): void {
    this.turns.wakeUp();
  }

  /** Called by the group: the beginning is durable. */
  onBegun(): void {
    this.turns.wakeUp();
  }

  /** How far it is. */
  get state(): FillState {
    return this.progress.state(this.shard.world.clock.nowUs(), this.pending.length);
  }

  /** Until the replica counts again. */
  async run(): Promise<void> {
    while (!this.cancelled) {
      try {
        if (await this.attempt()) return;
      } catch (error) {
        if (!(error instanceof FastblockError) && !(error instanceof Setback)) throw error;
        const reason = error.message;
        this.shard.logger.info("filling begins again", { pg: this.group.pg, reason });
      } finally {
        this.release();
      }
      await this.turns.pause(RETRY_US);
    }
  }

  /** One attempt with one leader. False: there is none, or it has to begin again. */
  private async attempt(): Promise<boolean> {
    const source = this.shard.fillSource(this.group);
    if (source === null) return false;
    if (this.group.isLeader) this.fromBase = false;
    if (this.fromBase && !(await this.begin(source))) return false;
    if (!this.isFilling()) return true;
    do {
      this.placed = 0;
      if (!this.group.witness) await this.pass(source);
    } while (this.placed > 0 && this.goesOn());
    if (!this.goesOn()) return false;
    await this.end();
    this.counters.fillsEnded += 1;
    this.shard.logger.info("replica is filled", { pg: this.group.pg, replica: this.group.replica });
    // Meanwhile the leader's log may have gone past it again, and that is said once.
    return !this.fromBase;
  }

  private async end(): Promise<void> {
    this.ending = true;
    this.shard.store.endFill(this.group.row);
    this.shard.world.turns.again();
    await this.until(() => !this.isFilling());
    this.ending = false;
  }

  /** Once through everything. */
  private async pass(source: FillSource): Promise<void> {
    await this.list(source);
    await this.listOwn(source);
    if (this.unreadable.length > 0) {
      const units = this.unreadable.length;
      const { pg } = this.group;
      this.shard.logger.warn("filling waits for blocks that the leader can not read", {
        pg,
        units,
      });
    }
    while (this.unreadable.length > 0 && this.goesOn()) {
      this.pending.push(...this.unreadable.splice(0));
      await this.turns.pause(RETRY_US);
      await this.transferAll(source, 1);
    }
  }

  private isFilling(): boolean {
    return this.shard.store.healthOf(this.group.row) === GroupHealth.Filling;
  }

  private goesOn(): boolean {
    return !this.cancelled && !this.fromBase;
  }

  /* -------------------------------------------------------------- beginning */

  /** Take over the leader's position. False: not now, or not needed any more. */
  private async begin(source: FillSource): Promise<boolean> {
    const { group, shard } = this;
    const { node } = group;
    group.deaf = true;
    node.setFilling(true);
    await this.until(() => group.isQuiet);
    const beginning = await source.begin();
    if (this.cancelled) return false;
    assert(group.isQuiet, "Fill.begin: the replica appended while it was deaf");
    const known =
      beginning.index <= group.commitIndex || node.log.matches(beginning.index, beginning.term);
    if (this.diverged && known && beginning.index !== node.log.lastIndex) {
      throw new Setback("the leader has not applied what is in the log here");
    }
    this.fromBase = false;
    if (known && !this.diverged) {
      // The entries came after all: an answer to an older question.
      this.hearAgain();
      return true;
    }
    this.counters.fillsBegun += 1;
    shard.logger.info("filling a replica by difference", {
      pg: group.pg,
      replica: group.replica,
      applied: group.appliedIndex,
      from: beginning.index,
    });
    group.beginning = beginning;
    shard.store.beginFill(group.row, beginning.index, beginning.term, beginning.state);
    shard.world.turns.again();
    await this.until(() => group.beginning === null);
    return true;
  }

  private hearAgain(): void {
    const { group } = this;
    group.deaf = false;
    group.node.setFilling(this.isFilling());
  }

  /* ---------------------------------------------------------------- listing */

  private async list(source: FillSource): Promise<void> {
    this.seen.clear();
    this.pending.length = 0;
    this.unreadable.length = 0;
    let cursor = 0;
    this.progress.beginPass(this.shard.world.clock.nowUs());
    while (cursor >= 0 && (await this.mayGoOn())) {
      const begunUs = this.shard.world.clock.nowUs();
      const page = await source.list(cursor);
      this.turns.load = page.load;
      this.progress.onTotal(page.total);
      await this.withUnits(page.units, (listed) => this.compare(listed));
      await this.turns.rest(begunUs);
      await this.transferAll(source, this.shard.pace.unitsMax);
      cursor = page.next;
    }
    await this.transferAll(source, 1);
  }

  /** Look at units of this replica, when what the store knows of them is in memory. */
  private async withUnits<T extends UnitKey>(
    units: readonly T[],
    look: (unit: T) => void,
  ): Promise<void> {
    const { store } = this.shard;
    if (!store.isPaged) {
      for (const unit of units) look(unit);
      return;
    }
    for (let at = 0; at < units.length; at += ROWS_UNITS) {
      const some = units.slice(at, at + ROWS_UNITS);
      await store.withUnits(this.group.row, some, () => some.forEach(look));
    }
  }

  private compare(listed: ListedUnit): void {
    const { own, shard } = this;
    own.layer = listed.layer;
    own.unit = listed.unit;
    own.snapSeq = listed.snapSeq;
    shard.store.unitState(this.group.row, own);
    this.progress.onCompared();
    const slot = shard.store.unitSlot(listed.layer, listed.unit, listed.snapSeq);
    if (slot >= 0) this.seen.add(slot);
    shard.store.digestOf(own);
    if (own.digestLow === listed.digestLow && own.digestHigh === listed.digestHigh) return;
    this.pending.push({ layer: listed.layer, unit: listed.unit, snapSeq: listed.snapSeq });
  }

  /** Units that are here and were not told: the leader is asked for each. */
  private async listOwn(source: FillSource): Promise<void> {
    const listing = new UnitListing();
    const { store } = this.shard;
    let cursor = 0;
    while (cursor >= 0 && this.goesOn()) {
      cursor = store.listUnits(this.group.row, cursor, listing);
      for (let at = 0; at < listing.count; at++) {
        const layer = listing.layers[at]!;
        const unit = listing.units[at]!;
        const snapSeq = listing.snapSeqs[at]!;
        const slot = store.unitSlot(layer, unit, snapSeq);
        if (slot >= 0 && this.seen.has(slot)) continue;
        this.pending.push({ layer, unit, snapSeq });
      }
      await this.transferAll(source, this.shard.pace.unitsMax);
      await this.turns.pause(0);
    }
    await this.transferAll(source, 1);
  }

  /* --------------------------------------------------------------- transfer */

  /** Rounds, while at least `countMin` units wait. */
  private async transferAll(source: FillSource, countMin: number): Promise<void> {
    const { pace, world } = this.shard;
    while (this.pending.length >= countMin && (await this.mayGoOn())) {
      const begunUs = world.clock.nowUs();
      const keys = this.pending.splice(0, pace.roundUnits(this.turns.isBusy));
      try {
        await this.round(source, keys);
      } finally {
        this.release();
      }
      await this.turns.rest(begunUs);
    }
  }

  /** Make some units what they are at the leader. Those that do not fit go back to the queue. */
  private async round(source: FillSource, keys: readonly UnitKey[]): Promise<void> {
    const { group } = this;
    group.holdIndex = group.appliedIndex;
    const answer = await source.units(keys);
    this.turns.load = answer.load;
    this.progress.onAsked(keys.length);
    if (answer.applied < group.appliedIndex) {
      // The leader has not applied what this replica knows as committed: in a moment it will have.
      this.pending.push(...keys);
      return;
    }
    group.holdIndex = answer.applied;
    this.shard.queueApply(group);
    this.shard.world.turns.again();
    await this.until(() => group.appliedIndex === answer.applied);
    const { clock } = this.shard.world;
    const untilUs = clock.nowUs() + ROUND_US_MAX;
    let done = 0;
    let before: number;
    do {
      before = done;
      const ops: UnitFillOp[] = [];
      try {
        done = await this.gather(source, keys, done, answer, ops);
        await this.place(ops);
      } finally {
        for (const op of ops) op.release();
      }
    } while (done > before && done < keys.length && clock.nowUs() < untilUs && this.goesOn());
    this.pending.push(...keys.slice(done));
  }

  /** Find what differs from unit `from` on, and fetch it; answers the unit where to go on. */
  private async gather(
    source: FillSource,
    keys: readonly UnitKey[],
    from: number,
    answer: FillUnits,
    ops: UnitFillOp[],
  ): Promise<number> {
    const { store, world } = this.shard;
    const fetches: Promise<void>[] = [];
    const bits: number[] = [];
    await this.withUnits(keys.slice(from), (key) => {
      bits.push(this.differing(key, answer.units[from + bits.length]!));
    });
    let blocks = 0;
    let at = from;
    for (; at < keys.length; at++) {
      const key = keys[at]!;
      const theirs = answer.units[at]!;
      const differing = bits[at - from]!;
      if (differing === 0) continue;
      const data = differing & dataBits(theirs);
      const count = bitCount(data);
      const slot = count === 0 ? -1 : world.slots.take(count * BLOCK_SIZE);
      if (blocks + count > COPY_BLOCKS_MAX || (count > 0 && slot < 0)) {
        if (slot >= 0) world.slots.release(slot);
        break;
      }
      blocks += count;
      this.progress.onDiffering(data);
      const op = new UnitFillOp(world, store, theirs, this.group.row, answer.applied);
      op.mask = differing;
      op.arenaOffset = slot;
      ops.push(op);
      fetches.push(this.fetch(source, op, key, theirs, data));
    }
    // All of them end before the slots may be given back.
    const settled = await Promise.allSettled(fetches);
    for (const one of settled) if (one.status === "rejected") throw one.reason;
    return at;
  }

  /** The blocks of a unit that are not the same here. */
  private differing(key: UnitKey, theirs: UnitState): number {
    const { own } = this;
    own.layer = key.layer;
    own.unit = key.unit;
    own.snapSeq = key.snapSeq;
    this.shard.store.unitState(this.group.row, own);
    let bits = 0;
    for (let block = 0; block < BLOCKS_PER_UNIT; block++) {
      const state = theirs.states[block]!;
      const same =
        state === own.states[block]! &&
        (state === BlockState.Zero ||
          (theirs.versions[block]! === own.versions[block]! &&
            theirs.crcs[block]! === own.crcs[block]!));
      if (!same) bits |= 1 << block;
    }
    return bits;
  }

  /**
   * Fetch the data blocks `data` of one unit, run by run, packed; leave out those that changed, and
   * those that the leader can not read, until it can.
   */
  private async fetch(
    source: FillSource,
    op: UnitFillOp,
    key: UnitKey,
    theirs: UnitState,
    data: number,
  ): Promise<void> {
    let packed = 0;
    let arrived = 0;
    let unreadable = 0;
    let block = 0;
    while (block < BLOCKS_PER_UNIT) {
      if ((data & (1 << block)) === 0) {
        block += 1;
        continue;
      }
      let count = 1;
      while (block + count < BLOCKS_PER_UNIT && (data & (1 << (block + count))) !== 0) count += 1;
      this.progress.onCopied(count);
      const to = op.arenaOffset + packed * BLOCK_SIZE;
      const bits = await source.blocks(theirs, block, count, to);
      arrived |= bits.arrived;
      unreadable |= bits.unreadable;
      packed += count;
      block += count;
    }
    op.drop(data & ~arrived, data);
    if (unreadable !== 0) this.unreadable.push(key);
  }

  /** Put the blocks in place. Those that find no room in the log in time go back to the queue. */
  private async place(ops: readonly UnitFillOp[]): Promise<void> {
    const { clock, turns } = this.shard.world;
    const untilUs = clock.nowUs() + HOLD_US_MAX;
    let waiting = ops.filter((op) => op.mask !== 0);
    while (waiting.length > 0) {
      const placed = waiting.map((op) => op.place());
      turns.again();
      const statuses = await Promise.all(placed);
      const failed = statuses.find((status) => status !== Status.Ok && status !== Status.Busy);
      if (failed !== undefined) {
        throw new Setback(`a unit could not be put in place: ${statusName(failed)}, wanted Ok`);
      }
      for (const [at, op] of waiting.entries()) if (statuses[at] === Status.Ok) this.onPlaced(op);
      waiting = waiting.filter((_, at) => statuses[at] === Status.Busy);
      if (waiting.length === 0) return;
      if (clock.nowUs() > untilUs || !this.goesOn()) {
        for (const { layer, unit, snapSeq } of waiting) this.pending.push({ layer, unit, snapSeq });
        return;
      }
      await this.turns.pause(ROOM_US);
    }
  }

  private onPlaced({ layer, unit, snapSeq }: UnitFillOp): void {
    this.placed += 1;
    const slot = this.shard.store.unitSlot(layer, unit, snapSeq);
    if (slot >= 0) this.seen.add(slot);
  }

  /* ---------------------------------------------------------------- the dial */

  /** Wait while recovery is paused. False: begin again, or end. */
  private async mayGoOn(): Promise<boolean> {
    const { pace, world } = this.shard;
    while (pace.paused && this.goesOn()) {
      const begunUs = world.clock.nowUs();
      await this.turns.pause(PAUSED_LOOK_US);
      this.progress.onPaused(world.clock.nowUs() - begunUs);
    }
    return this.goesOn();
  }

  /* ---------------------------------------------------------------- waiting */

  /** Let the group apply and hear again. */
  private release(): void {
    const { group, shard } = this;
    if (group.beginning === null && group.deaf) this.hearAgain();
    if (group.holdIndex === Number.POSITIVE_INFINITY) return;
    group.holdIndex = Number.POSITIVE_INFINITY;
    shard.queueApply(group);
    shard.world.turns.again();
  }

  /** Wait until `ready`, looked at when something was applied and every few milliseconds. */
  private async until(ready: () => boolean): Promise<void> {
    const { clock } = this.shard.world;
    const untilUs = clock.nowUs() + HOLD_US_MAX;
    while (!ready()) {
      if (this.cancelled) throw new Setback("the replica is no longer filled here");
      // What was handed to the store comes to its end, however slow the device: nothing is tried again.
      const isHandedOver = this.group.beginning !== null || this.ending;
      if (clock.nowUs() > untilUs && !isHandedOver) {
        throw new Setback("the replica does not get there in time");
      }
      await this.turns.pause(5000);
    }
  }
}

/** What may happen and is tried again. */
class Setback extends Error {}
