// cold path: only for followers that are far behind.
import { Status } from "../base/status.ts";
import { type Entry, StoreLoadOp } from "../log/log.ts";
import type { LocalStore } from "./local-store.ts";

/** Entries read at a time for one follower, and held for all followers of a shard. */
const ENTRIES_MAX = 16;
const HELD_MAX = 256;

/** What one shard holds for all of its followers. */
export class ReadAheadBudget {
  held = 0;
}

/** What is told when a run of reads has ended. */
export interface ReadAheadOwner {
  /** `status` and `index`: why the first of them is not here; Ok when it is. */
  onReadAhead(status: Status, index: number): void;
}

/**
 * Entries of one group that are read back from the log for one follower.
 *
 * A run of neighbours at a time: the next run begins when the follower has taken this one. One read
 * after the other was not enough: under writes the leader's log grew faster than that.
 *
 * Owns one reference of each entry that it holds.
 */
export class ReadAhead {
  /** Entry `wanted + i` at i. */
  private readonly held: (Entry | null)[] = new Array<Entry | null>(ENTRIES_MAX).fill(null);
  private readonly budget: ReadAheadBudget;
  private owner: ReadAheadOwner | null = null;
  private store: LocalStore | null = null;
  private pending = 0;
  private wanted = 0;
  private status: Status = Status.Ok;

  constructor(budget: ReadAheadBudget) {
    this.budget = budget;
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
  read(store: LocalStore, row: number, index: number, last: number, owner: ReadAheadOwner): void {
    if (this.pending > 0) return;
    this.drop();
    this.store = store;
    this.owner = owner;
    this.wanted = index;
    this.status = Status.Ok;
    const room = Math.max(1, HELD_MAX - this.budget.held);
    const count = Math.min(ENTRIES_MAX, room, last - index + 1);
    for (let at = 0; at < count; at++) {
      const op = new AheadOp(this);
      op.row = row;
      op.index = index + at;
      op.entry = store.entries.take();
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
    this.owner = null;
    for (let at = 0; at < ENTRIES_MAX; at++) {
      const entry = this.held[at]!;
      if (entry !== null) this.release(entry);
      this.held[at] = null;
    }
  }

  private release(entry: Entry): void {
    this.budget.held -= 1;
    this.store!.entries.release(entry);
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
