// data path
import { assert, verifying } from "../base/assert.ts";
import type { Arena, Slots } from "./world.ts";

/** Slots are carved out of pieces of this size; the largest class is one whole piece. */
export const SLAB_SIZE = 1_048_576;
const CLASS_COUNT = 5;
/** 4 KiB · 4^class: 4, 16, 64, 256 KiB, 1 MiB. */
const CLASS_SHIFTS = [12, 14, 16, 18, 20];
/** Bits of the largest bitmap: 256 slots of 4 KiB. */
const WORDS_PER_SLAB = 8;
const NONE = -1;
const POISON = 0xdb;

/**
 * Slots in slabs of 1 MiB: a slab belongs to one size class while any of its slots is taken and
 * goes back to the common list when the last one is released, as long as another slab of the class
 * has room (else a class at its edge would take and give the same slab for each slot).
 *
 * Per slab: class (-1: common), count of free slots, bitmap of free slots. Per class: a doubly
 * linked list of slabs with at least one free slot. All in typed arrays; take and release are O(1).
 */
export class SlotPool implements Slots {
  usedBytes = 0;
  /** Slots taken since the start: whether the pool is in use. */
  takes = 0;
  refusals = 0;
  readonly sizeBytes: number;
  /** Arena offset of slab 0; slabs follow each other. */
  private readonly baseOffset: number;
  private readonly slabCount: number;
  private readonly arena: Arena;
  private readonly classOf: Int8Array;
  private readonly freeCount: Uint16Array;
  private readonly freeBits: Int32Array;
  private readonly next: Int32Array;
  private readonly previous: Int32Array;
  /** First slab with room, per class; the last entry heads the common list. */
  private readonly heads: Int32Array;
  /** 1: its memory may have been touched since it was vacated last. */
  private readonly held: Uint8Array;
  private untouched = 0;

  /** Reserve `sizeBytes` (a multiple of 1 MiB) of the arena; memory is touched only when taken. */
  constructor(arena: Arena, sizeBytes: number) {
    assert(sizeBytes % SLAB_SIZE === 0, "SlotPool: size is not a multiple of 1 MiB");
    assert(sizeBytes >= SLAB_SIZE, "SlotPool: size is below 1 MiB");
    this.arena = arena;
    this.sizeBytes = sizeBytes;
    this.baseOffset = arena.allocate(sizeBytes);
    this.slabCount = sizeBytes / SLAB_SIZE;
    this.classOf = new Int8Array(this.slabCount).fill(NONE);
    this.freeCount = new Uint16Array(this.slabCount);
    this.freeBits = new Int32Array(this.slabCount * WORDS_PER_SLAB);
    this.next = new Int32Array(this.slabCount).fill(NONE);
    this.previous = new Int32Array(this.slabCount).fill(NONE);
    this.heads = new Int32Array(CLASS_COUNT + 1).fill(NONE);
    this.held = new Uint8Array(this.slabCount);
  }

  take(sizeBytes: number): number {
    const sizeClass = classFor(sizeBytes);
    let slab = this.heads[sizeClass]!;
    if (slab === NONE) {
      slab = this.openSlab(sizeClass);
      if (slab === NONE) {
        this.refusals += 1;
        return -1;
      }
    }
    const slot = this.takeBit(slab);
    const free = this.freeCount[slab]! - 1;
    this.freeCount[slab] = free;
    if (free === 0) this.unlink(sizeClass, slab);
    const shift = CLASS_SHIFTS[sizeClass]!;
    this.usedBytes += 1 << shift;
    this.takes += 1;
    return this.baseOffset + slab * SLAB_SIZE + slot * (1 << shift);
  }

  release(offset: number): void {
    const relative = offset - this.baseOffset;
    const slab = Math.floor(relative / SLAB_SIZE);
    assert(slab >= 0 && slab < this.slabCount, "Slots.release: offset is not in the slots");
    const sizeClass = this.classOf[slab]!;
    assert(sizeClass !== NONE, "Slots.release: nothing is taken there");
    const shift = CLASS_SHIFTS[sizeClass]!;
    const within = relative - slab * SLAB_SIZE;
    const slot = within >> shift;
    assert(slot << shift === within, "Slots.release: offset is not the start of a slot");
    const word = slab * WORDS_PER_SLAB + (slot >> 5);
    const bit = 1 << (slot & 31);
    assert((this.freeBits[word]! & bit) === 0, "Slots.release: slot is not taken");
    if (verifying) this.arena.bytes.fill(POISON, offset, offset + (1 << shift));
    this.freeBits[word] = this.freeBits[word]! | bit;
    this.usedBytes -= 1 << shift;
    const free = this.freeCount[slab]! + 1;
    this.freeCount[slab] = free;
    if (free === 1) this.link(sizeClass, slab);
    if (free === SLAB_SIZE >> shift && this.hasOther(sizeClass, slab))
      this.closeSlab(sizeClass, slab);
  }

  /**
   * The arena offset of a slab of `SLAB_SIZE` bytes none of whose slots is taken, and which was not
   * vacated since it was used: its memory may be given back to the system before the next `take`.
   * -1 when there is none. cold: when the pool is at rest
   */
  vacate(): number {
    for (let slab = 0; slab < this.untouched; slab++) {
      if (this.held[slab] === 0) continue;
      const sizeClass = this.classOf[slab]!;
      if (sizeClass !== NONE) {
        if (this.freeCount[slab] !== SLAB_SIZE >> CLASS_SHIFTS[sizeClass]!) continue;
        this.closeSlab(sizeClass, slab);
      }
      this.held[slab] = 0;
      return this.baseOffset + slab * SLAB_SIZE;
    }
    return -1;
  }

  private hasOther(sizeClass: number, slab: number): boolean {
    const head = this.heads[sizeClass]!;
    return head !== slab || this.next[slab] !== NONE;
  }

  /** Give a slab (from the common list, or a fresh one) to a class; -1 when there is none. */
  private openSlab(sizeClass: number): number {
    let slab = this.heads[CLASS_COUNT]!;
    if (slab !== NONE) {
      this.unlink(CLASS_COUNT, slab);
    } else if (this.untouched < this.slabCount) {
      slab = this.untouched;
      this.untouched += 1;
    } else {
      slab = this.stealSlab();
      if (slab === NONE) return NONE;
    }
    const count = SLAB_SIZE >> CLASS_SHIFTS[sizeClass]!;
    this.held[slab] = 1;
    this.classOf[slab] = sizeClass;
    this.freeCount[slab] = count;
    for (let word = 0; word < WORDS_PER_SLAB; word++) {
      const left = count - word * 32;
      const bits = left >= 32 ? -1 : left > 0 ? (1 << left) - 1 : 0;
      this.freeBits[slab * WORDS_PER_SLAB + word] = bits;
    }
    this.link(sizeClass, slab);
    return slab;
  }

  /** Take the slab that another class keeps although none of its slots is taken; -1: none. */
  private stealSlab(): number {
    for (let sizeClass = 0; sizeClass < CLASS_COUNT; sizeClass++) {
      const whole = SLAB_SIZE >> CLASS_SHIFTS[sizeClass]!;
      for (let slab = this.heads[sizeClass]!; slab !== NONE; slab = this.next[slab]!) {
        if (this.freeCount[slab] !== whole) continue;
        this.unlink(sizeClass, slab);
        return slab;
      }
    }
    return NONE;
  }

  private closeSlab(sizeClass: number, slab: number): void {
    this.unlink(sizeClass, slab);
    this.classOf[slab] = NONE;
    this.link(CLASS_COUNT, slab);
  }

  /** Take the lowest free slot of a slab that has one. */
  private takeBit(slab: number): number {
    const first = slab * WORDS_PER_SLAB;
    for (let word = 0; word < WORDS_PER_SLAB; word++) {
      const bits = this.freeBits[first + word]!;
      if (bits === 0) continue;
      const bit = 31 - Math.clz32(bits & -bits);
      this.freeBits[first + word] = bits & (bits - 1);
      return word * 32 + bit;
    }
    assert(false, "Slots: a slab in its class's list has no free slot");
    return NONE;
  }

  private link(list: number, slab: number): void {
    const head = this.heads[list]!;
    this.next[slab] = head;
    this.previous[slab] = NONE;
    if (head !== NONE) this.previous[head] = slab;
    this.heads[list] = slab;
  }

  private unlink(list: number, slab: number): void {
    const next = this.next[slab]!;
    const previous = this.previous[slab]!;
    if (previous === NONE) this.heads[list] = next;
    else this.next[previous] = next;
    if (next !== NONE) this.previous[next] = previous;
    this.next[slab] = NONE;
    this.previous[slab] = NONE;
  }
}

function classFor(sizeBytes: number): number {
  assert(sizeBytes > 0, "Slots.take: size is not positive");
  assert(sizeBytes <= SLAB_SIZE, "Slots.take: size is above 1 MiB");
  if (sizeBytes <= 4096) return 0;
  if (sizeBytes <= 16_384) return 1;
  if (sizeBytes <= 65_536) return 2;
  if (sizeBytes <= 262_144) return 3;
  return 4;
}
