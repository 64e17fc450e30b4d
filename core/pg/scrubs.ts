// cold path: a scrub works in rounds of milliseconds, in the background.
/** Which groups of a shard are scrubbed, one at a time, and how their scrubs stand (`scrub.ts`). */
import type { Group } from "./group.ts";
import type { PgShard } from "./pg.ts";
import { Scrub, type ScrubCounters } from "./scrub.ts";
import type { ScrubTally } from "./scrub-tally.ts";

/** How a scrub stands. */
export interface ScrubState {
  readonly order: number;
  readonly deep: boolean;
  readonly done: boolean;
  readonly tally: ScrubTally;
}

/** The scrubs that the monitor ordered of groups that this shard leads. */
export class Scrubs {
  readonly counters: ScrubCounters = {
    scrubsLight: 0,
    scrubsDeep: 0,
    scrubUnitsCompared: 0,
    scrubUnitsAsked: 0,
    scrubBlocksDiverged: 0,
    scrubBlocksUndecided: 0,
    scrubRefills: 0,
  };
  private readonly shard: PgShard;
  /** The newest of each group, done or not; one that is done holds its group no more. */
  private readonly newest = new Map<number, ScrubState>();
  private readonly waiting: Scrub[] = [];
  private running: Scrub | null = null;
  private stopped = false;

  constructor(shard: PgShard) {
    this.shard = shard;
  }

  /** How the scrub that was ordered last stands; undefined: none was, or it ended without a result. */
  of(group: { readonly pg: number }): ScrubState | undefined {
    return this.newest.get(group.pg);
  }

  /** Whether a group is scrubbed, or waits for that. */
  isUnderWay(group: Group): boolean {
    return this.of(group)?.done === false;
  }

  /** Scrub a group that is led here; an order that is known already is not carried out again. */
  order(group: Group, order: number, isDeep: boolean): void {
    const known = this.of(group);
    if (this.stopped || !group.isLeader || (known !== undefined && known.order >= order)) return;
    this.forget(group);
    const scrub = new Scrub(this.shard, group, this.counters, order, isDeep);
    this.newest.set(group.pg, scrub);
    this.waiting.push(scrub);
    this.next();
  }

  /** The replica is gone. */
  forget(group: Group): void {
    const scrub = this.of(group);
    this.newest.delete(group.pg);
    if (!(scrub instanceof Scrub)) return;
    scrub.cancel();
    const at = this.waiting.indexOf(scrub);
    if (at >= 0) this.waiting.splice(at, 1);
  }

  /** Scrub nothing any more. */
  stop(): void {
    this.stopped = true;
    for (const scrub of this.newest.values()) if (scrub instanceof Scrub) this.forget(scrub.group);
  }

  private next(): void {
    if (this.running !== null) return;
    const scrub = this.waiting.shift();
    if (scrub === undefined) return;
    this.running = scrub;
    // `run` answers every error itself; what still comes out is a bug and ends the process.
    scrub.run().then(
      () => this.onEnded(scrub),
      (error: unknown) => this.shard.onBroken(error),
    );
  }

  private onEnded(scrub: Scrub): void {
    this.running = null;
    if (this.of(scrub.group) === scrub) {
      const { order, deep, done, tally } = scrub;
      if (done) this.newest.set(scrub.group.pg, { order, deep, done, tally });
      // Without a result: whoever leads now is told.
      else this.newest.delete(scrub.group.pg);
    }
    if (scrub.done && !this.stopped) this.shard.onScrubbed(scrub.group);
    this.next();
  }
}
