// data path
import { assert } from "../base/assert.ts";
import { type Entry, EntryType } from "./entry.ts";

const CAPACITY_START = 16;
/** Direct units of one entry at most: 64 blocks. */
const UNITS_MAX = 4;

/** Inline blocks of entries that are not applied, over all groups of a shard. */
export class Unapplied {
  blocks = 0;
}

/**
 * One replica's part of the shard's log: hard state, and a row for each entry in (base, last].
 *
 * Invariants: base ≤ applied ≤ durable ≤ last; base ≤ durable; term(base) = baseTerm.
 * Rows sit in rings addressed by index modulo capacity.
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
  /** Commit index carried by the (at most two) batches in flight, by seq mod 2. */
  readonly commitInFlight: Float64Array = new Float64Array(2);
  hardStateQueued = false;
  /** The owner waits for its hard state; sequence of the batch that holds it (0: not composed). */
  hardStateWanted = false;
  hardStateSeq = 0;
  /** In the list of groups whose commit index is not logged. */
  commitListed = false;
  /** Already in the list of groups that a batch touches, by seq mod 2. */
  readonly listedIn: Float64Array = new Float64Array(2);

  base = 0;
  baseTerm = 0;
  last = 0;
  lastTerm = 0;
  durable = 0;
  applied = 0;
  /** Keep entries from here on for a follower; 0: none. */
  retention = 0;
  /** Inline blocks of entries that are not applied (R4: at most 8 MiB a group). */
  unappliedBlocks = 0;

  /** Zero and LayerGone entries that are not applied: they may free what a later write counts on. */
  unappliedFreeing = 0;

  /** Entries that are not durable, in index order. */
  pendingHead: Entry | null = null;
  pendingTail: Entry | null = null;

  private terms: Float64Array = new Float64Array(CAPACITY_START);
  private seqs: Float64Array = new Float64Array(CAPACITY_START);
  private inlines: Float64Array = new Float64Array(CAPACITY_START);
  private recordAts: Uint32Array = new Uint32Array(CAPACITY_START);
  private inlineCounts: Uint8Array = new Uint8Array(CAPACITY_START);
  private types: Uint8Array = new Uint8Array(CAPACITY_START);
  private reserved: Uint16Array = new Uint16Array(CAPACITY_START);
  private unitCounts: Uint8Array = new Uint8Array(CAPACITY_START);
  private units: Uint32Array = new Uint32Array(CAPACITY_START * UNITS_MAX);
  private size: number = CAPACITY_START;

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
    this.commitInFlight.fill(0);
    this.listedIn.fill(0);
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
    this.retention = 0;
    this.total.blocks -= this.unappliedBlocks;
    this.unappliedBlocks = 0;
    this.unappliedFreeing = 0;
  }

  holds(index: number): boolean {
    return index > this.base && index <= this.last;
  }

  /** Term of an entry in [base, last], or -1. */
  termAt(index: number): number {
    if (index === this.base) return this.baseTerm;
    return this.holds(index) ? this.terms[index % this.size]! : -1;
  }

  typeAt(index: number): number {
    return this.types[index % this.size]!;
  }

  /** Sequence of the batch that holds the entry; 0: not composed yet. */
  seqAt(index: number): number {
    return this.seqs[index % this.size]!;
  }

  /** Byte offset of the record in its batch. */
  recordAt(index: number): number {
    return this.recordAts[index % this.size]!;
  }

  inlineAt(index: number): number {
    return this.inlines[index % this.size]!;
  }

  inlineCountAt(index: number): number {
    return this.inlineCounts[index % this.size]!;
  }

  unitCountAt(index: number): number {
    return this.unitCounts[index % this.size]!;
  }

  unitAt(index: number, which: number): number {
    return this.units[(index % this.size) * UNITS_MAX + which]!;
  }

  /** Units set aside until the entry is applied or cut. */
  reservedAt(index: number): number {
    return this.reserved[index % this.size]!;
  }

  /** Add the row of entry last + 1. `reserved`: units set aside until it is applied. */
  push(entry: Entry, inlineCount: number, reserved: number): void {
    assert(entry.index === this.last + 1, "GroupLog.push: the index does not follow");
    if (this.last - this.base >= this.size) this.grow();
    const at = entry.index % this.size;
    this.terms[at] = entry.term;
    this.types[at] = entry.type;
    this.seqs[at] = 0;
    this.recordAts[at] = 0;
    this.inlines[at] = -1;
    this.inlineCounts[at] = inlineCount;
    this.reserved[at] = reserved;
    this.setUnits(entry);
    this.last = entry.index;
    this.lastTerm = entry.term;
    this.unappliedBlocks += inlineCount;
    this.total.blocks += inlineCount;
    if (isFreeing(entry.type)) this.unappliedFreeing += 1;
  }

  setUnits(entry: Entry): void {
    const at = entry.index % this.size;
    this.unitCounts[at] = entry.unitCount;
    for (let unit = 0; unit < entry.unitCount; unit++) {
      this.units[at * UNITS_MAX + unit] = entry.units[unit]!;
    }
  }

  /** The record of an entry was placed (again). `inlineBlock` is a log block. */
  place(index: number, seq: number, recordAt: number, inlineBlock: number): void {
    assert(this.holds(index), "GroupLog.place: no such entry");
    const at = index % this.size;
    this.seqs[at] = seq;
    this.recordAts[at] = recordAt;
    this.inlines[at] = inlineBlock;
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
  }

  /** Start-up: entries up to `index` were applied when the checkpoint was taken. */
  installApplied(index: number): void {
    for (let at = this.base + 1; at <= index; at++) this.forget(at);
    this.applied = index;
  }

  setReserved(index: number, units: number): void {
    this.reserved[index % this.size] = units;
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
  }

  // cold: doubles when it is full.
  private grow(): void {
    const size = this.size * 2;
    const terms = new Float64Array(size);
    const seqs = new Float64Array(size);
    const inlines = new Float64Array(size);
    const recordAts = new Uint32Array(size);
    const inlineCounts = new Uint8Array(size);
    const types = new Uint8Array(size);
    const reserved = new Uint16Array(size);
    const unitCounts = new Uint8Array(size);
    const units = new Uint32Array(size * UNITS_MAX);
    for (let index = this.base + 1; index <= this.last; index++) {
      const from = index % this.size;
      const to = index % size;
      terms[to] = this.terms[from]!;
      seqs[to] = this.seqs[from]!;
      inlines[to] = this.inlines[from]!;
      recordAts[to] = this.recordAts[from]!;
      inlineCounts[to] = this.inlineCounts[from]!;
      types[to] = this.types[from]!;
      reserved[to] = this.reserved[from]!;
      unitCounts[to] = this.unitCounts[from]!;
      for (let unit = 0; unit < UNITS_MAX; unit++) {
        units[to * UNITS_MAX + unit] = this.units[from * UNITS_MAX + unit]!;
      }
    }
    this.terms = terms;
    this.seqs = seqs;
    this.inlines = inlines;
    this.recordAts = recordAts;
    this.inlineCounts = inlineCounts;
    this.types = types;
    this.reserved = reserved;
    this.unitCounts = unitCounts;
    this.units = units;
    this.size = size;
  }
}

function isFreeing(type: number): boolean {
  return type === EntryType.Zero || type === EntryType.LayerGone;
}
