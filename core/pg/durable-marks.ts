// data path

class Mark {
  version = 0;
  index = 0;
  /** Which hard state record it waits for, 0: none. */
  hardState = 0;
}

/**
 * What raft waits for until it may count on it: versions of one group's log and hard state.
 *
 * The store tells how far its log is durable, and that the newest hard state record is. Where a log is
 * cut, what it had there is neither durable nor waited for any more: `cut` says so in the same call as
 * the entry that takes the place is handed over.
 *
 * Terms do not tell which of two entries with one index came later, so ordering positions by (term,
 * index) was not enough: the leader of term 4 hands on what term 2 left, in the place of what somebody
 * wrote in term 3 and nobody else has. By their terms the new entry was durable before it was written,
 * and acknowledged.
 *
 * A ring that grows by doubling; in order of handing over.
 */
export class DurableMarks {
  /** The newest mark that `settle` found durable. */
  version = 0;
  index = 0;
  private marks: Mark[] = [];
  private first = 0;
  private count = 0;
  private durableIndex = 0;
  private hardStateIssued = 0;
  private hardStateDurable = 0;

  /** True while something that was handed over is not durable. */
  get pending(): boolean {
    return this.count > 0 || this.hardStateIssued > this.hardStateDurable;
  }

  /** Remember that raft's `version` is durable with the entry at `index` and what came before. */
  push(version: number, index: number): void {
    if (this.count === this.marks.length) this.grow();
    const mark = this.marks[(this.first + this.count) % this.marks.length]!;
    this.count += 1;
    mark.version = version;
    mark.index = index;
    mark.hardState = this.hardStateIssued > this.hardStateDurable ? this.hardStateIssued : 0;
  }

  /** A hard state record was queued: marks pushed from now on wait for it. */
  issueHardState(): void {
    this.hardStateIssued += 1;
  }

  /** The newest queued hard state record is durable. */
  reachHardState(): void {
    this.hardStateDurable = this.hardStateIssued;
  }

  /** Entries up to `index` are durable. */
  reach(index: number): void {
    this.durableIndex = index;
  }

  /** The entries from `index` on are others from now on, or none. */
  cut(index: number): void {
    const last = index - 1;
    if (this.durableIndex > last) this.durableIndex = last;
    for (let at = 0; at < this.count; at++) {
      const mark = this.marks[(this.first + at) % this.marks.length]!;
      if (mark.index > last) mark.index = last;
    }
  }

  /** Drop the marks that are durable now. True: `version` and `index` are those of the newest. */
  settle(): boolean {
    let settled = false;
    while (this.count > 0) {
      const mark = this.marks[this.first]!;
      if (mark.hardState > this.hardStateDurable) break;
      if (mark.index > this.durableIndex) break;
      this.version = mark.version;
      this.index = mark.index;
      this.first = (this.first + 1) % this.marks.length;
      this.count -= 1;
      settled = true;
    }
    return settled;
  }

  // cold: by doubling.
  private grow(): void {
    const grown: Mark[] = [];
    for (let at = 0; at < this.count; at++) {
      grown.push(this.marks[(this.first + at) % this.marks.length]!);
    }
    const capacity = this.marks.length === 0 ? 4 : this.marks.length * 2;
    while (grown.length < capacity) grown.push(new Mark());
    this.marks = grown;
    this.first = 0;
  }
}
