// cold path: a scrub works in rounds of milliseconds, in the background.
/** Which groups of a shard are scrubbed, one at a time, and how their scrubs stand (`scrub.ts`). */
import type { Group } from "./group.ts";
import type { PgShard } from "./pg.ts";
import { Scrub, type ScrubCounters } from "./scrub.ts";

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
  /** The newest of each group, done or not. */
  private readonly newest = new Map<Group, Scrub>();
  private readonly waiting: Scrub[] = [];
  private running: Scrub | null = null;
  private stopped = false;

  constructor(shard: PgShard) {
    this.shard = shard;
  }

  /** How the scrub that was ordered last stands; undefined: none was, or it ended without a result. */
  of(group: Group): Scrub | undefined {
    return this.newest.get(group);
  }

  /** Scrub a group that is led here; an order that is known already is not carried out again. */
  order(group: Group, order: number, isDeep: boolean): void {
    const known = this.newest.get(group);
    if (this.stopped || !group.isLeader || (known !== undefined && known.order >= order)) return;
    this.forget(group);
    const scrub = new Scrub(this.shard, group, this.counters, order, isDeep);
    this.newest.set(group, scrub);
    this.waiting.push(scrub);
    this.next();
  }

  /** The replica is gone. */
  forget(group: Group): void {
    const scrub = this.newest.get(group);
    if (scrub === undefined) return;
    scrub.cancel();
    this.newest.delete(group);
    const at = this.waiting.indexOf(scrub);
    if (at >= 0) this.waiting.splice(at, 1);
  }

  /** Scrub nothing any more. */
  stop(): void {
    this.stopped = true;
    for (const group of [...this.newest.keys()]) this.forget(group);
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
    // Without a result: whoever leads now is told.
    if (!scrub.done && this.newest.get(scrub.group) === scrub) this.newest.delete(scrub.group);
    if (scrub.done && !this.stopped) this.shard.onScrubbed(scrub.group);
    this.next();
  }
}
