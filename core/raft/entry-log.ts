// data path
/**
 * What raft knows of its log in memory: the term and the kind of each entry above the base.
 *
 * Rows of two typed arrays used as one ring, 9 bytes an entry, nothing at all for a quiet group
 * whose log is compacted. Payloads and places are the owner's.
 *
 *   base (applied, compacted)   first retained        last
 *   ──────────────●──────────────────●─────────────────●
 *            baseIndex          baseIndex + 1       lastIndex      row of index = index & mask
 *
 * Invariants: baseIndex ≤ lastIndex; terms never fall from one entry to the next;
 * lastIndex − baseIndex ≤ capacity; capacity is 0 or a power of two.
 */
import { assert } from "../base/assert.ts";
import { ENTRY_KIND_CONF } from "./message.ts";

const CAPACITY_FIRST = 16;
/** 2^22 entries are 16 GiB of 4 KiB writes: far past what the shared log retains. */
const CAPACITY_MAX = 4_194_304;
const NO_TERMS = new Float64Array(0);
const NO_KINDS = new Uint8Array(0);

export class EntryLog {
  /** The last index that is only known by its term; 0 at the birth of the group. */
  baseIndex: number;
  baseTerm: number;
  lastIndex: number;
  lastTerm: number;
  private terms: Float64Array = NO_TERMS;
  private kinds: Uint8Array = NO_KINDS;

  constructor(baseIndex: number, baseTerm: number) {
    this.baseIndex = baseIndex;
    this.baseTerm = baseTerm;
    this.lastIndex = baseIndex;
    this.lastTerm = baseTerm;
  }

  /** Term of an entry; -1 when it lies below the base or above the last. */
  termAt(index: number): number {
    if (index > this.lastIndex || index < this.baseIndex) return -1;
    if (index === this.lastIndex) return this.lastTerm;
    if (index === this.baseIndex) return this.baseTerm;
    return this.terms[index % this.terms.length]!;
  }

  /** EntryType of an entry. Requires: baseIndex < index ≤ lastIndex. */
  kindAt(index: number): number {
    assert(index > this.baseIndex && index <= this.lastIndex, "EntryLog: kind of an absent entry");
    return this.kinds[index % this.kinds.length]!;
  }

  /** Append one entry behind the last and return its index. */
  append(term: number, kind: number): number {
    assert(term >= this.lastTerm, "EntryLog: terms must not fall");
    assert(kind > 0 && kind < 256, "EntryLog: kind out of range");
    const index = this.lastIndex + 1;
    assert(index <= Number.MAX_SAFE_INTEGER, "EntryLog: index out of range");
    if (index - this.baseIndex > this.terms.length)
      this.resize(Math.max(this.terms.length * 2, CAPACITY_FIRST));
    this.terms[index % this.terms.length] = term;
    this.kinds[index % this.kinds.length] = kind;
    this.lastIndex = index;
    this.lastTerm = term;
    return index;
  }

  /** Remove `index` and everything behind it. Requires: baseIndex < index ≤ lastIndex. */
  truncateFrom(index: number): void {
    assert(index > this.baseIndex && index <= this.lastIndex, "EntryLog: truncation out of range");
    const term = this.termAt(index - 1);
    this.lastIndex = index - 1;
    this.lastTerm = term;
  }

  /** Forget rows up to `index`, keeping its term. Requires: baseIndex ≤ index ≤ lastIndex. */
  compactTo(index: number): void {
    assert(index >= this.baseIndex && index <= this.lastIndex, "EntryLog: base out of range");
    this.baseTerm = this.termAt(index);
    this.baseIndex = index;
    const count = this.lastIndex - index;
    const capacity = this.terms.length;
    // A quarter full or less: halve until half full at most, so that growing back is not next.
    if (count === 0) {
      this.terms = NO_TERMS;
      this.kinds = NO_KINDS;
    } else if (capacity > CAPACITY_FIRST * 4 && count * 4 <= capacity) {
      let smaller = capacity;
      while (smaller > CAPACITY_FIRST && count * 4 <= smaller) smaller /= 2;
      this.resize(smaller);
    }
  }

  /** Drop everything and begin behind (index, term). */
  reset(index: number, term: number): void {
    this.baseIndex = index;
    this.baseTerm = term;
    this.lastIndex = index;
    this.lastTerm = term;
    this.terms = NO_TERMS;
    this.kinds = NO_KINDS;
  }

  /** Whether the entry is here with this term. */
  matches(index: number, term: number): boolean {
    return this.termAt(index) === term;
  }

  /** Whether (lastIndex, lastTerm) of a candidate is at least as new as this log. */
  isUpToDate(index: number, term: number): boolean {
    return term > this.lastTerm || (term === this.lastTerm && index >= this.lastIndex);
  }

  /**
   * The highest index ≤ `index` whose term here is ≤ `term`: behind it the logs certainly differ.
   *
   * One refusal then skips a whole term. Answers the base at the lowest: what lies there is applied
   * and therefore the same everywhere.
   */
  findConflict(index: number, term: number): number {
    let at = Math.min(index, this.lastIndex);
    while (at > this.baseIndex && this.termAt(at) > term) at--;
    return Math.max(at, Math.min(index, this.baseIndex));
  }

  /** How many Conf entries lie in (from, to]; what is below the base is applied and not counted. */
  confCount(from: number, to: number): number {
    let count = 0;
    for (let index = Math.max(from, this.baseIndex) + 1; index <= to; index++) {
      if (this.kindAt(index) === ENTRY_KIND_CONF) count++;
    }
    return count;
  }

  /** Check what the file comment promises; for `verifying` runs. */
  invariants(): void {
    assert(this.baseIndex <= this.lastIndex, "EntryLog: base passed the last entry");
    assert(this.baseTerm <= this.lastTerm, "EntryLog: base term passed the last term");
    const capacity = this.terms.length;
    assert(capacity === 0 || (capacity & (capacity - 1)) === 0, "EntryLog: capacity not 2^n");
    assert(this.lastIndex - this.baseIndex <= capacity, "EntryLog: more entries than rows");
  }

  /** cold: growth by doubling, or giving memory back. */
  private resize(capacity: number): void {
    assert(capacity <= CAPACITY_MAX, "EntryLog: more entries than the log can retain");
    const terms = new Float64Array(capacity);
    const kinds = new Uint8Array(capacity);
    const before = this.terms.length;
    for (let index = this.baseIndex + 1; index <= this.lastIndex; index++) {
      terms[index % capacity] = this.terms[index % before]!;
      kinds[index % capacity] = this.kinds[index % before]!;
    }
    this.terms = terms;
    this.kinds = kinds;
  }
}
