// cold path: only for followers that are far behind.
import { Status } from "../base/status.ts";
import { type Entry, StoreLoadOp } from "../log/log.ts";
import { CallbackTimer } from "../reactor/world.ts";
import type { Group } from "./group.ts";
import type { PgShard } from "./pg.ts";

/** Entries read at a time for one follower, and held for all followers of a shard. */
const ENTRIES_MAX = 16;
const HELD_MAX = 256;
/** A group that has had nothing committed for so long, and has something to commit, is stalled. */
const STALLED_US = 200_000;

/** What one shard holds for all of its followers. */
export class ReadAheadBudget {
  held = 0;
  /** Followers whose turn it is not: the time that is recovery's is shared. */
  resting = 0;
}

/** What is told when a run of reads has ended. */
export interface ReadAheadOwner {
  /** `status` and `index`: why the first of them is not here; Ok when it is. */
  onReadAhead(status: Status, index: number): void;
}

/** The log of the group's leader, as it is now. */
interface LeaderLog {
  /** It leads in. */
  readonly term: number;
  readonly lastIndex: number;
  readonly commitIndex: number;
}

interface Run {
  readonly begunUs: number;
  /** Of its first entry. */
  readonly index: number;
  readonly count: number;
  /** Of the leader's log when it began. */
  readonly lastIndex: number;
}

/**
 * Entries of one group that are read back from the log for one follower.
 *
 * A run of neighbours at a time: the next run begins when the follower has taken this one. One read
 * after the other was not enough: under writes the leader's log grew faster than that.
 *
 * Between two runs comes the rest that the recovery dial asks for. It is cut short where a follower
 * would fall back further, and left out where the group commits nothing: that may be the follower's
 * doing.
 *
 * Owns one reference of each entry that it holds.
 */
export class ReadAhead {
  /** Entry `wanted + i` at i. */
  private readonly held: (Entry | null)[] = new Array<Entry | null>(ENTRIES_MAX).fill(null);
  private readonly shard: PgShard;
  private readonly budget: ReadAheadBudget;
  /** The last run, while a rest may follow it. */
  private readonly isBare: boolean;
  private run: Run | null = null;
  private readonly restTimer: CallbackTimer;
  /** Called when the rest is over; null: there is none. */
  private onRested: (() => void) | null = null;
  /** What this leader had committed when it was looked at, and when that was seen first. */
  private commitIndex = -1;
  private commitTerm = 0;
  private commitUs = 0;
  private owner: ReadAheadOwner | null = null;
  private pending = 0;
  private wanted = 0;
  private status: Status = Status.Ok;

  /** `isBare`: for a witness, which is sent no payload. */
  constructor(shard: PgShard, budget: ReadAheadBudget, isBare: boolean) {
    this.shard = shard;
    this.budget = budget;
    this.isBare = isBare;
    this.restTimer = new CallbackTimer(() => this.endRest());
  }

  /** True while nothing is read, held or waited for. */
  get isQuiet(): boolean {
    if (this.pending > 0 || this.onRested !== null) return false;
    return this.held.every((entry) => entry === null);
  }

  /** Whether clients come before a run from `index` on; `onRested` is called when they no longer do. */
  rests(index: number, log: LeaderLog, onRested: () => void): boolean {
    if (this.pending > 0) return true;
    if (log.lastIndex - index < this.shard.pace.nearEntries) {
      this.forgetRun();
      return false;
    }
    const { run, shard } = this;
    const nowUs = shard.world.clock.nowUs();
    const isStalled = this.stalledUs(log, nowUs) >= STALLED_US;
    if (run === null) return false;
    const isFallingBack = log.lastIndex - run.lastIndex >= run.count / 2;
    const isBusy = shard.pace.isBusy(nowUs);
    const mayRest = index === run.index + run.count && isBusy && !isFallingBack && !isStalled;
    if (this.onRested !== null && mayRest) return true;
    const isOver = this.onRested !== null;
    this.forgetRun();
    if (isOver || !mayRest) return false;
    this.run = run;
    this.onRested = onRested;
    const workers = this.budget.resting + 1;
    this.budget.resting = workers;
    shard.world.timers.arm(this.restTimer, shard.pace.restUs(nowUs - run.begunUs, workers));
    return true;
  }

  /** For how long this leader is known to commit nothing of what it has: it may wait for this follower. */
  stalledUs({ term, commitIndex, lastIndex }: LeaderLog, nowUs: number): number {
    if (commitIndex !== this.commitIndex || term !== this.commitTerm) {
      this.commitIndex = commitIndex;
      this.commitTerm = term;
      this.commitUs = nowUs;
    }
    return lastIndex > commitIndex ? nowUs - this.commitUs : 0;
  }

  private endRest(): void {
    const { onRested } = this;
    this.forgetRun();
    onRested?.();
  }

  private forgetRun(): void {
    if (this.onRested !== null) {
      this.shard.world.timers.disarm(this.restTimer);
      this.budget.resting -= 1;
    }
    this.onRested = null;
    this.run = null;
  }

  /** The entry when it is here, or null. It stays owned by this object. */
  get(index: number): Entry | null {
    return this.held[index - this.wanted] ?? null;
  }

  /** The follower was sent the entry. */
  sent(index: number): void {
    const entry = this.get(index);
    if (entry === null) return;
    this.held[index - this.wanted] = null;
    this.release(entry);
  }

  /** Read from `index` on, up to `last`; `owner` is told. Nothing while reads are under way. */
  read(group: Group, index: number, last: number, owner: ReadAheadOwner): void {
    if (this.pending > 0) return;
    this.drop();
    const { row, node } = group;
    const { store, world } = this.shard;
    this.owner = owner;
    this.wanted = index;
    this.status = Status.Ok;
    const room = Math.max(1, HELD_MAX - this.budget.held);
    const count = Math.min(ENTRIES_MAX, room, last - index + 1);
    this.run = { begunUs: world.clock.nowUs(), index, count, lastIndex: node.log.lastIndex };
    for (let at = 0; at < count; at++) {
      const op = new AheadOp(this);
      op.row = row;
      op.index = index + at;
      op.entry = store.entries.take();
      op.isBare = this.isBare;
      this.pending += 1;
      this.budget.held += 1;
      store.loadEntry(op);
    }
  }

  /** A read has ended. */
  onLoaded(op: AheadOp): void {
    const entry = op.entry!;
    this.pending -= 1;
    if (op.status === Status.Ok && this.owner !== null) {
      this.held[op.index - this.wanted] = entry;
    } else {
      this.release(entry);
      if (op.index === this.wanted) this.status = op.status;
    }
    if (this.pending > 0 || this.owner === null) return;
    const { owner } = this;
    this.owner = null;
    owner.onReadAhead(this.status, this.wanted);
  }

  /** Give back what was read; reads under way are forgotten. */
  drop(): void {
    this.forgetRun();
    this.owner = null;
    for (let at = 0; at < ENTRIES_MAX; at++) {
      const entry = this.held[at]!;
      if (entry !== null) this.release(entry);
      this.held[at] = null;
    }
  }

  private release(entry: Entry): void {
    this.budget.held -= 1;
    this.shard.store.entries.release(entry);
  }
}

class AheadOp extends StoreLoadOp {
  private readonly ahead: ReadAhead;

  constructor(ahead: ReadAhead) {
    super();
    this.ahead = ahead;
  }

  override onDone(): void {
    this.ahead.onLoaded(this);
  }
}
