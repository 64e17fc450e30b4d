// data path
import { assert } from "../base/assert.ts";

/** What an overlay entry stands for. */
export enum OverlayKind {
  /** The block's bytes lie in the log. */
  Data = 0,
  /** The block is zero though an older version or a parent has data. */
  Zero = 1,
  /** Lost for good. */
  Lost = 2,
}

const BITS = 16;
const EMPTY = -1;

/**
 * Blocks that are applied and not yet moved home: (slot, block of the unit) → place in the log,
 * version, crc. The slot is the one of the block's (layer, unit, snapSeq), so it stands for them.
 *
 * Open addressing, linear probing, load ≤ 1/2; removal shifts back. 30 B an entry at capacity.
 *
 * Invariants (`object-invariants.ts`): an entry is there exactly when its slot is Forming or Live and
 * has the bit; its version is applied; data lies between tail and head of the log.
 */
export class Overlay {
  count = 0;
  private keys: Float64Array;
  private positions: Float64Array;
  private versionOf: Float64Array;
  private crcOf: Uint32Array;
  private kindOf: Uint8Array;
  private mask: number;

  /** `blocks`: entries expected; grows beyond. */
  constructor(blocks: number) {
    const size = 2 ** Math.ceil(Math.log2(Math.max(1024, blocks * 2)));
    this.keys = new Float64Array(size).fill(EMPTY);
    this.positions = new Float64Array(size);
    this.versionOf = new Float64Array(size);
    this.crcOf = new Uint32Array(size);
    this.kindOf = new Uint8Array(size);
    this.mask = size - 1;
  }

  /** Where the entry sits, for the accessors; -1 when there is none. Valid until put or remove. */
  find(slot: number, bit: number): number {
    const key = slot * BITS + bit;
    let at = hashOf(key) & this.mask;
    for (;;) {
      const found = this.keys[at]!;
      if (found === key) return at;
      if (found === EMPTY) return -1;
      at = (at + 1) & this.mask;
    }
  }

  /** Log block with the bytes; of Zero and Lost: a block of the batch that said so. */
  position(at: number): number {
    return this.positions[at]!;
  }

  version(at: number): number {
    return this.versionOf[at]!;
  }

  crc(at: number): number {
    return this.crcOf[at]!;
  }

  kind(at: number): OverlayKind {
    return this.kindOf[at]!;
  }

  /** Places in which an entry may sit: below this. */
  get capacity(): number {
    return this.mask + 1;
  }

  /** Slot · 16 + block of the entry that sits there; -1: none does. */
  keyAt(at: number): number {
    return this.keys[at]!;
  }

  /** Add or replace. */
  put(
    slot: number,
    bit: number,
    kind: OverlayKind,
    position: number,
    version: number,
    crc: number,
  ): void {
    const key = slot * BITS + bit;
    let at = hashOf(key) & this.mask;
    while (this.keys[at] !== EMPTY && this.keys[at] !== key) at = (at + 1) & this.mask;
    if (this.keys[at] === EMPTY) {
      this.keys[at] = key;
      this.count += 1;
    }
    this.positions[at] = position;
    this.versionOf[at] = version;
    this.crcOf[at] = crc;
    this.kindOf[at] = kind;
    if (this.count * 2 > this.mask) this.grow();
  }

  remove(slot: number, bit: number): void {
    const at = this.find(slot, bit);
    assert(at >= 0, "Overlay.remove: no such entry");
    this.removeAt(at);
  }

  /** Remove the entry that `find` has found. */
  removeAt(found: number): void {
    assert(this.keys[found] !== EMPTY, "Overlay.removeAt: no entry is there");
    this.count -= 1;
    let hollow = found;
    let at = hollow;
    for (;;) {
      at = (at + 1) & this.mask;
      const key = this.keys[at]!;
      if (key === EMPTY) break;
      const distance = (at - hashOf(key)) & this.mask;
      if (distance < ((at - hollow) & this.mask)) continue;
      this.copy(at, hollow);
      hollow = at;
    }
    this.keys[hollow] = EMPTY;
  }

  /** The lowest log block that an entry points to; Infinity when there is none. O(capacity). */
  lowestPosition(): number {
    let lowest = Number.POSITIVE_INFINITY;
    for (let at = 0; at <= this.mask; at++) {
      if (this.keys[at] !== EMPTY && this.positions[at]! < lowest) lowest = this.positions[at]!;
    }
    return lowest;
  }

  private copy(from: number, to: number): void {
    this.keys[to] = this.keys[from]!;
    this.positions[to] = this.positions[from]!;
    this.versionOf[to] = this.versionOf[from]!;
    this.crcOf[to] = this.crcOf[from]!;
    this.kindOf[to] = this.kindOf[from]!;
  }

  // cold: doubles when it is full.
  private grow(): void {
    const keys = this.keys;
    const positions = this.positions;
    const versions = this.versionOf;
    const crcs = this.crcOf;
    const kinds = this.kindOf;
    const size = keys.length * 2;
    this.keys = new Float64Array(size).fill(EMPTY);
    this.positions = new Float64Array(size);
    this.versionOf = new Float64Array(size);
    this.crcOf = new Uint32Array(size);
    this.kindOf = new Uint8Array(size);
    this.mask = size - 1;
    for (let from = 0; from < keys.length; from++) {
      const key = keys[from]!;
      if (key === EMPTY) continue;
      let at = hashOf(key) & this.mask;
      while (this.keys[at] !== EMPTY) at = (at + 1) & this.mask;
      this.keys[at] = key;
      this.positions[at] = positions[from]!;
      this.versionOf[at] = versions[from]!;
      this.crcOf[at] = crcs[from]!;
      this.kindOf[at] = kinds[from]!;
    }
  }
}

function hashOf(key: number): number {
  const high = (key / 4_294_967_296) >>> 0;
  let hash = Math.imul((key >>> 0) ^ Math.imul(high, 0x27d4_eb2f), 0x9e37_79b1);
  hash = Math.imul(hash ^ (hash >>> 15), 0x85eb_ca77);
  return (hash ^ (hash >>> 13)) >>> 0;
}
