// data path
import { assert } from "../base/assert.ts";
import { type Entry, EntryType } from "./entry.ts";

const CAPACITY_FIRST = 4;
/** Direct units of one entry at most: 64 blocks. */
const UNITS_MAX = 4;

/* A row is so many numbers … */
const TERM = 0;
const SEQ = 1;
const INLINE = 2;
const NUMBERS = 3;
/* … and so many words. */
const RECORD_AT = 0;
/** EntryType, inline blocks and direct units, 8 bits each. */
const KIND = 1;
const RESERVED = 2;
const UNITS = 3;
const WORDS: number = UNITS + UNITS_MAX;

const NO_NUMBERS = new Float64Array(0);
const NO_WORDS = new Uint32Array(0);

/** Inline blocks of entries that are not applied, over all groups of a shard. */
export class Unapplied {
  blocks = 0;
}

/**
 * One replica's part of the shard's log: hard state, and a row for each entry in (base, last].
 *
 * Invariants (`log-invariants.ts`): base ≤ applied ≤ durable ≤ last; term(base) = baseTerm; what is
 * durable lies in a batch between tail and head; unappliedBlocks is the sum over (applied, last].
 * Rows sit in two rings addressed by index modulo capacity: 52 bytes an entry, and nothing while the
 * log holds no entry of the group.
 */
export class GroupLog {
  readonly row: number;
  pg = 0;
  replicaId = 0;
  /** False: the row is free. */
  alive = false;
  term = 0;
  vote = 0;
  commit = 0;
  /** Highest commit index in a record composed so far, and in one that is durable. */
  commitLogged = 0;
  commitDurable = 0;
  /**
   * The group takes another position, or gets another replica id: nothing is appended or applied, and
   * no record may tell a commit index that the log of the old position would be read with.
   */
  frozen = false;
  /** Versions up to here were on index pages at start, or before the replica was renewed. */
  homeVersion = 0;
  /** The batches in flight (at most two) that the group is listed in, and the commit index of each. */
  private evenSeq = 0;
  private evenCommit = 0;
  private oddSeq = 0;
  private oddCommit = 0;
  hardStateQueued = false;
  /** The owner waits for its hard state; sequence of the batch that holds it (0: not composed). */
  hardStateWanted = false;
  hardStateSeq = 0;
  /** In the list of groups whose commit index is not logged. */
  commitListed = false;

  base = 0;
  baseTerm = 0;
  last = 0;
  lastTerm = 0;
  durable = 0;
  applied = 0;
  /** Inline blocks of entries that are not applied (R4: at most 8 MiB a group). */
  unappliedBlocks = 0;

  /** Zero and LayerGone entries that are not applied: they may free what a later write counts on. */
  unappliedFreeing = 0;

  /** Entries that are not durable, in index order. */
  pendingHead: Entry | null = null;
  pendingTail: Entry | null = null;

  private numbers: Float64Array = NO_NUMBERS;
  private words: Uint32Array = NO_WORDS;
  private size = 0;

  private readonly total: Unapplied;

  constructor(row: number, total: Unapplied) {
    this.row = row;
    this.total = total;
  }

  /** Begin an empty log after (base, baseTerm). */
  reset(pg: number, replicaId: number, base: number, baseTerm: number): void {
    assert(this.pendingHead === null, "GroupLog.reset: entries are pending");
    this.pg = pg;
    this.replicaId = replicaId;
    this.alive = true;
    this.term = 0;
    this.vote = 0;
    this.commit = base;
    this.commitLogged = 0;
    this.commitDurable = 0;
    this.frozen = false;
    this.homeVersion = 0;
    this.evenSeq = 0;
    this.evenCommit = 0;
    this.oddSeq = 0;
    this.oddCommit = 0;
    this.hardStateQueued = false;
    this.hardStateWanted = false;
    this.hardStateSeq = 0;
    this.commitListed = false;
    this.base = base;
    this.baseTerm = baseTerm;
    this.last = base;
    this.lastTerm = baseTerm;
    this.durable = base;
    this.applied = base;
    this.dropRows();
    this.total.blocks -= this.unappliedBlocks;
    this.unappliedBlocks = 0;
    this.unappliedFreeing = 0;
  }

  /** Batch `seq` carries the commit index. Answers true when the group was not listed in it before. */
  listIn(seq: number): boolean {
    if (this.commit > this.commitLogged) this.commitLogged = this.commit;
    const isNews = seq !== (seq % 2 === 0 ? this.evenSeq : this.oddSeq);
    if (seq % 2 === 0) {
      this.evenSeq = seq;
      this.evenCommit = this.commit;
    } else {
      this.oddSeq = seq;
      this.oddCommit = this.commit;
    }
    return isNews;
  }

  /** Batch `seq` is durable, with the commit index that it carries. Answers false if it was not listed. */
  onListed(seq: number): boolean {
    const isEven = seq % 2 === 0;
    if (seq !== (isEven ? this.evenSeq : this.oddSeq)) return false;
    const commit = isEven ? this.evenCommit : this.oddCommit;
    if (commit > this.commitDurable) this.commitDurable = commit;
    return true;
  }

  holds(index: number): boolean {
    return index > this.base && index <= this.last;
  }

  /** Term of an entry in [base, last], or -1. */
  termAt(index: number): number {
    if (index === this.base) return this.baseTerm;
    return this.holds(index) ? this.number(index, TERM) : -1;
  }

  typeAt(index: number): number {
    return this.word(index, KIND) & 0xff;
  }

  /** Sequence of the batch that holds the entry; 0: not composed yet. */
  seqAt(index: number): number {
    return this.number(index, SEQ);
  }

  /** Byte offset of the record in its batch. */
  recordAt(index: number): number {
    return this.word(index, RECORD_AT);
  }

  inlineAt(index: number): number {
    return this.number(index, INLINE);
  }

  inlineCountAt(index: number): number {
    return (this.word(index, KIND) >>> 8) & 0xff;
  }

  unitCountAt(index: number): number {
    return this.word(index, KIND) >>> 16;
  }

  unitAt(index: number, which: number): number {
    return this.word(index, UNITS + which);
  }

  /** Units set aside until the entry is applied or cut. */
  reservedAt(index: number): number {
    return this.word(index, RESERVED);
  }

  private number(index: number, which: number): number {
    return this.numbers[(index % this.size) * NUMBERS + which]!;
  }

  private word(index: number, which: number): number {
    return this.words[(index % this.size) * WORDS + which]!;
  }

  /** Add the row of entry last + 1. `reserved`: units set aside until it is applied. */
  push(entry: Entry, inlineCount: number, reserved: number): void {
    assert(entry.index === this.last + 1, "GroupLog.push: the index does not follow");
    if (this.last - this.base >= this.size) this.grow();
    const number = (entry.index % this.size) * NUMBERS;
    this.numbers[number + TERM] = entry.term;
    this.numbers[number + SEQ] = 0;
    this.numbers[number + INLINE] = -1;
    const word = (entry.index % this.size) * WORDS;
    this.words[word + RECORD_AT] = 0;
    this.words[word + KIND] = entry.type | (inlineCount << 8);
    this.words[word + RESERVED] = reserved;
    this.setUnits(entry);
    this.last = entry.index;
    this.lastTerm = entry.term;
    this.unappliedBlocks += inlineCount;
    this.total.blocks += inlineCount;
    if (isFreeing(entry.type)) this.unappliedFreeing += 1;
  }

  setUnits(entry: Entry): void {
    const word = (entry.index % this.size) * WORDS;
    const kind = this.words[word + KIND]! & 0xffff;
    this.words[word + KIND] = kind | (entry.unitCount << 16);
    for (let unit = 0; unit < entry.unitCount; unit++) {
      this.words[word + UNITS + unit] = entry.units[unit]!;
    }
  }

  /** The record of an entry was placed (again). `inlineBlock` is a log block. */
  place(index: number, seq: number, recordAt: number, inlineBlock: number): void {
    assert(this.holds(index), "GroupLog.place: no such entry");
    const number = (index % this.size) * NUMBERS;
    this.numbers[number + SEQ] = seq;
    this.numbers[number + INLINE] = inlineBlock;
    this.words[(index % this.size) * WORDS + RECORD_AT] = recordAt;
  }

  /** Drop rows from `index` on. Their units and pending entries are the caller's affair. */
  cut(index: number): void {
    assert(index > this.applied, "GroupLog.cut: the entry is applied");
    assert(index > this.base && index <= this.last, "GroupLog.cut: no such entry");
    for (let at = index; at <= this.last; at++) this.forget(at);
    this.last = index - 1;
    this.lastTerm = this.termAt(this.last);
    if (this.durable > this.last) this.durable = this.last;
  }

  /**
   * Go on behind (index, term) with everything up to it applied. Entries above stay.
   *
   * Requires: all that the log holds is durable; it holds (index, term), or nothing above `applied`.
   */
  rebase(index: number, term: number): void {
    assert(index >= this.applied, "GroupLog.rebase: the position falls");
    assert(this.durable === this.last, "GroupLog.rebase: an entry is not durable");
    for (let at = this.applied + 1; at <= Math.min(index, this.last); at++) this.forget(at);
    this.base = index;
    this.baseTerm = term;
    this.applied = index;
    if (this.last > index) return;
    this.last = index;
    this.lastTerm = term;
    this.durable = index;
    this.dropRows();
  }

  /** Start-up: entries up to `index` were applied when the checkpoint was taken. */
  installApplied(index: number): void {
    for (let at = this.base + 1; at <= index; at++) this.forget(at);
    this.applied = index;
  }

  setReserved(index: number, units: number): void {
    this.words[(index % this.size) * WORDS + RESERVED] = units;
  }

  /** The entry was applied. */
  setApplied(index: number): void {
    this.forget(index);
    this.applied = index;
  }

  /**
   * The base once the tail stands at batch `tailSeq`: the highest index up to `applied` whose record
   * the tail passes. Sequences need not grow with the index: an entry that was appended again lies
   * behind younger ones, and what is kept must have no hole.
   */
  baseFor(tailSeq: number, applied: number): number {
    for (let index = applied; index > this.base; index--) {
      if (this.seqAt(index) < tailSeq) return index;
    }
    return this.base;
  }

  /** The entry is not among those that wait to be applied any more. */
  private forget(index: number): void {
    const blocks = this.inlineCountAt(index);
    this.unappliedBlocks -= blocks;
    this.total.blocks -= blocks;
    if (isFreeing(this.typeAt(index))) this.unappliedFreeing -= 1;
  }

  /** Forget entries up to `index`: the tail passed them. */
  dropUpTo(index: number): void {
    assert(index <= this.applied, "GroupLog.dropUpTo: the entry is not applied");
    if (index <= this.base) return;
    this.baseTerm = this.termAt(index);
    this.base = index;
    if (index === this.last) this.dropRows();
  }

  // cold: the log holds no entry of the group any more.
  private dropRows(): void {
    this.numbers = NO_NUMBERS;
    this.words = NO_WORDS;
    this.size = 0;
  }

  // cold: doubles when it is full.
  private grow(): void {
    const size = this.size === 0 ? CAPACITY_FIRST : this.size * 2;
    const numbers = new Float64Array(size * NUMBERS);
    const words = new Uint32Array(size * WORDS);
    for (let index = this.base + 1; index <= this.last; index++) {
      const from = index % this.size;
      const to = index % size;
      for (let at = 0; at < NUMBERS; at++) {
        numbers[to * NUMBERS + at] = this.numbers[from * NUMBERS + at]!;
      }
      for (let at = 0; at < WORDS; at++) words[to * WORDS + at] = this.words[from * WORDS + at]!;
    }
    this.numbers = numbers;
    this.words = words;
    this.size = size;
  }
}

function isFreeing(type: number): boolean {
  return type === EntryType.Zero || type === EntryType.LayerGone;
}
