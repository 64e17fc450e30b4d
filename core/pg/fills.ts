// cold path: a replica is filled in rounds of milliseconds; nothing here runs per I/O.
/** Which replicas of a shard are filled, a few at a time (`fill.ts`), and what came of it. */
import { Fill } from "./fill.ts";
import type { Group } from "./group.ts";
import type { PgShard } from "./pg.ts";
import { release } from "./scrub-hold.ts";

/** Groups of one shard that are filled at a time. */
const RUNNING_MAX = 2;

/** What was done since the start, all groups of the shard. */
export interface FillCounters {
  fillsBegun: number;
  fillsEnded: number;
  fillUnitsCompared: number;
  /** Units that the leader was asked about: each takes a few hundred bytes of an answer. */
  fillUnitsAsked: number;
  fillUnitsDiffering: number;
  /** Blocks with data that differed, and blocks fetched for them: their ratio is the amplification. */
  fillBlocksDiffering: number;
  fillBlocksCopied: number;
}

/** The groups of one shard that are being filled, or wait for it. */
export class Fills {
  readonly counters: FillCounters = {
    fillsBegun: 0,
    fillsEnded: 0,
    fillUnitsCompared: 0,
    fillUnitsAsked: 0,
    fillUnitsDiffering: 0,
    fillBlocksDiffering: 0,
    fillBlocksCopied: 0,
  };
  private readonly shard: PgShard;
  private readonly waiting: Fill[] = [];
  private running = 0;
  private stopped = false;

  constructor(shard: PgShard) {
    this.shard = shard;
  }

  /** How many groups are being filled. */
  get runningCount(): number {
    return this.running;
  }

  /** How many groups are being filled or wait for it. */
  get count(): number {
    return this.running + this.waiting.length;
  }

  /** Units that fills have not compared yet, or not copied; those that wait do not know theirs. */
  get unitsLeft(): number {
    if (this.count === 0) return 0;
    let units = 0;
    for (const group of this.shard.groups.awake()) units += group.fill?.state.unitsLeft ?? 0;
    return units;
  }

  /**
   * Fill a group. `fromBase`: its log does not reach the leader's, it has to begin at the leader's
   * position; else it was being filled when this process started.
   */
  want(group: Group, fromBase: boolean): void {
    if (this.stopped) return;
    if (group.fill !== null) {
      if (fromBase) group.fill.beginAgain();
      return;
    }
    this.start(group, new Fill(this.shard, group, this.counters, fromBase));
  }

  /** Fill a replica that has all entries, and whose blocks are not what most replicas have. */
  wantDiverged(group: Group): void {
    if (this.stopped || group.fill !== null) return;
    this.start(group, new Fill(this.shard, group, this.counters, true, true));
  }

  private start(group: Group, fill: Fill): void {
    // A scrub may hold it.
    release(group);
    group.fill = fill;
    // A witness has nothing to copy, and its group may need it: it waits for nobody.
    if (group.witness) this.run(fill);
    else this.waiting.push(fill);
    this.next();
  }

  /** The replica is gone, or the process stops. */
  forget(group: Group): void {
    const fill = group.fill;
    if (fill === null) return;
    fill.cancel();
    const at = this.waiting.indexOf(fill);
    if (at >= 0) this.waiting.splice(at, 1);
    group.fill = null;
  }

  /** Fill nothing any more. */
  stop(): void {
    this.stopped = true;
    for (const group of this.shard.groups.awake()) this.forget(group);
  }

  private next(): void {
    while (this.running < RUNNING_MAX && this.waiting.length > 0) {
      this.run(this.waiting.shift()!);
    }
  }

  private run(fill: Fill): void {
    this.running += 1;
    // `run` answers every error itself; what still comes out is a bug and ends the process.
    fill.run().then(
      () => this.onEnded(fill),
      (error: unknown) => this.shard.onBroken(error),
    );
  }

  private onEnded(fill: Fill): void {
    this.running -= 1;
    if (fill.group.fill === fill) fill.group.fill = null;
    this.next();
  }
}
