// data path
import { assert } from "../base/assert.ts";

const CAPACITY_START = 1024;

/**
 * The batches between tail and head: where each begins, its crc, and direct writes still under way.
 * Addressed by sequence. Invariants: tailSeq ≤ nextSeq; rows [tailSeq, nextSeq) are valid; each begins
 * behind the one before (`log-invariants.ts`).
 */
export class BatchTable {
  tailSeq: number;
  nextSeq: number;
  private positions: Float64Array = new Float64Array(CAPACITY_START);
  private crcs: Uint32Array = new Uint32Array(CAPACITY_START);
  private incarnations: Uint32Array = new Uint32Array(CAPACITY_START);
  private directs: Uint32Array = new Uint32Array(CAPACITY_START);
  private mask: number = CAPACITY_START - 1;

  constructor(tailSeq: number) {
    this.tailSeq = tailSeq;
    this.nextSeq = tailSeq;
  }

  /** Add the next batch; answers its sequence. `position` is a log block. */
  push(position: number, crc: number, incarnation: number, directs: number): number {
    if (this.nextSeq - this.tailSeq > this.mask) this.grow();
    const seq = this.nextSeq;
    const at = seq % (this.mask + 1);
    this.positions[at] = position;
    this.crcs[at] = crc;
    this.incarnations[at] = incarnation;
    this.directs[at] = directs;
    this.nextSeq += 1;
    return seq;
  }

  has(seq: number): boolean {
    return seq >= this.tailSeq && seq < this.nextSeq;
  }

  positionOf(seq: number): number {
    assert(this.has(seq), "BatchTable.positionOf: no such batch");
    return this.positions[seq % (this.mask + 1)]!;
  }

  crcOf(seq: number): number {
    assert(this.has(seq), "BatchTable.crcOf: no such batch");
    return this.crcs[seq % (this.mask + 1)]!;
  }

  incarnationOf(seq: number): number {
    assert(this.has(seq), "BatchTable.incarnationOf: no such batch");
    return this.incarnations[seq % (this.mask + 1)]!;
  }

  directsOf(seq: number): number {
    return this.directs[seq % (this.mask + 1)]!;
  }

  directDone(seq: number): void {
    if (!this.has(seq)) return;
    const at = seq % (this.mask + 1);
    assert(this.directs[at]! > 0, "BatchTable.directDone: none is under way");
    this.directs[at] = this.directs[at]! - 1;
  }

  /** Forget batches below `seq`. */
  dropBelow(seq: number): void {
    assert(seq <= this.nextSeq, "BatchTable.dropBelow: past the head");
    if (seq > this.tailSeq) this.tailSeq = seq;
  }

  // cold: doubles when it is full.
  private grow(): void {
    const size = (this.mask + 1) * 2;
    const positions = new Float64Array(size);
    const crcs = new Uint32Array(size);
    const incarnations = new Uint32Array(size);
    const directs = new Uint32Array(size);
    for (let seq = this.tailSeq; seq < this.nextSeq; seq++) {
      const from = seq % (this.mask + 1);
      positions[seq % size] = this.positions[from]!;
      crcs[seq % size] = this.crcs[from]!;
      incarnations[seq % size] = this.incarnations[from]!;
      directs[seq % size] = this.directs[from]!;
    }
    this.positions = positions;
    this.crcs = crcs;
    this.incarnations = incarnations;
    this.directs = directs;
    this.mask = size - 1;
  }
}
