// data path

class Mark {
  version = 0;
  index = 0;
  term = 0;
  /** Which hard state record it waits for, 0: none. */
  hardState = 0;
}

/**
 * What raft waits for until it may count on it: versions of one group's log and hard state.
 *
 * The store tells how far its log is durable as (term, index), and that the newest hard state
 * record is. A position of a log is ordered by (term, index): a later term at a lower index comes
 * after a truncation, so it vouches for everything handed over before.
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
  private durableTerm = 0;
  private hardStateIssued = 0;
  private hardStateDurable = 0;

  /** True while something that was handed over is not durable. */
  get pending(): boolean {
    return this.count > 0 || this.hardStateIssued > this.hardStateDurable;
  }

  /** Remember that raft's `version` is durable with the entry (term, index) and what came before. */
  push(version: number, index: number, term: number): void {
    if (this.count === this.marks.length) this.grow();
    const mark = this.marks[(this.first + this.count) % this.marks.length]!;
    this.count += 1;
    mark.version = version;
    mark.index = index;
    mark.term = term;
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

  /** Entries up to (term, index) are durable. */
  reach(index: number, term: number): void {
    this.durableIndex = index;
    this.durableTerm = term;
  }

  /** Drop the marks that are durable now. True: `version` and `index` are those of the newest. */
  settle(): boolean {
    let settled = false;
    while (this.count > 0) {
      const mark = this.marks[this.first]!;
      if (mark.hardState > this.hardStateDurable) break;
      if (!this.covers(mark.term, mark.index)) break;
      this.version = mark.version;
      this.index = mark.index;
      this.first = (this.first + 1) % this.marks.length;
      this.count -= 1;
      settled = true;
    }
    return settled;
  }

  private covers(term: number, index: number): boolean {
    if (term < this.durableTerm) return true;
    return term === this.durableTerm && index <= this.durableIndex;
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
