// cold: fuzzing of decoders
import { assert } from "../base/assert.ts";
import { Prng } from "../base/prng.ts";
import type { FuzzTarget } from "./fuzz.ts";

/**
 * Makes the inputs of one target out of its seeds: input `index` of a seed number is always the same
 * bytes, and needs none of the inputs before it.
 *
 * An input is a seed with one to eight changes: bits, bytes and numbers at their borders (both byte
 * orders, 2^53 and 2^64 − 1 among them), numbers off by a little, ends cut off or added, ranges
 * removed, repeated, cleared or copied, two seeds spliced; in texts whole words are exchanged. Half of
 * the places are drawn from where the seed is not zero: most bytes of a block on disk are padding.
 *
 * Where a target knows how, three inputs of four get their sizes, checksums and tags repaired: with
 * them left broken a decoder is never seen beyond its first check.
 */
export class FuzzMutator {
  private readonly target: FuzzTarget;
  private readonly seed: number;
  private readonly dense: readonly Uint32Array[];
  private readonly bytes: Uint8Array;
  private readonly view: DataView;
  private size = 0;
  private places: Uint32Array = new Uint32Array(0);
  private random: Prng = new Prng(0);

  constructor(target: FuzzTarget, seed: number) {
    assert(target.seeds.length > 0, "FuzzMutator: a target has no seeds");
    this.target = target;
    this.seed = seed;
    this.bytes = new Uint8Array(target.sizeMax);
    this.view = new DataView(this.bytes.buffer);
    this.dense = target.seeds.map(denseOf);
  }

  /** Input `index`, in memory of its own; and the generator for what else its run draws. */
  input(index: number): { readonly bytes: Uint8Array<ArrayBuffer>; readonly random: Prng } {
    // Seeds lie far apart: the inputs of two of them differ.
    const random = new Prng((Math.imul(this.seed + 1, 0x9e37_79b1) + index) >>> 0);
    this.random = random;
    const at = random.below(this.target.seeds.length);
    this.places = this.dense[at]!;
    this.load(this.target.seeds[at]!);
    const kind = random.below(64);
    if (kind === 0) this.noise();
    else if (kind > 1) this.change(1 + random.below(1 << random.below(4)));
    if (random.below(16) > 0) this.round();
    const bytes = this.bytes.slice(0, this.size) as Uint8Array<ArrayBuffer>;
    if (random.below(4) > 0) this.target.repair?.(bytes);
    return { bytes, random };
  }

  private load(seed: Uint8Array): void {
    this.size = Math.min(seed.length, this.bytes.length);
    this.bytes.set(seed.subarray(0, this.size));
  }

  private noise(): void {
    this.size = this.random.below(Math.min(256, this.bytes.length) + 1);
    this.random.fill(this.bytes.subarray(0, this.size));
  }

  private change(count: number): void {
    const words = this.target.words;
    for (let left = count; left > 0; left--) {
      if (words !== undefined && this.random.below(2) === 0) this.exchangeWord(words);
      else if (this.random.below(3) > 0) this.changePlace();
      else this.changeShape();
    }
  }

  /** To a multiple of the target's grain, and to its least size: what is added is zero. */
  private round(): void {
    const grain = this.target.grain ?? 1;
    const wanted = Math.max(this.target.sizeMin ?? 0, Math.ceil(this.size / grain) * grain);
    const to = Math.min(wanted, this.bytes.length);
    if (to > this.size) this.bytes.fill(0, this.size, to);
    this.size = to;
  }

  private place(): number {
    const { random, places } = this;
    if (places.length > 0 && random.below(2) === 0) {
      const at = places[random.below(places.length)]!;
      if (at < this.size) return at;
    }
    return random.below(this.size);
  }

  /* ------------------------------------------------------------- one place */

  private changePlace(): void {
    if (this.size === 0) return;
    const { random, bytes } = this;
    const at = this.place();
    switch (random.below(5)) {
      case 0:
        bytes[at] = bytes[at]! ^ (1 << random.below(8));
        return;
      case 1:
        bytes[at] = random.below(256);
        return;
      case 2:
        bytes[at] = BORDERS_8[random.below(BORDERS_8.length)]!;
        return;
      case 3:
        this.setNumber(at);
        return;
      default:
        this.moveNumber(at);
    }
  }

  private setNumber(place: number): void {
    const { random, view } = this;
    const width = 2 << random.below(3);
    const at = random.below(2) === 0 ? place - (place % width) : place;
    if (at + width > this.size) return;
    const little = random.below(2) === 0;
    if (width === 2) {
      view.setUint16(at, BORDERS_32[random.below(BORDERS_32.length)]! & 0xffff, little);
      return;
    }
    const number = random.below(4) === 0 ? this.size + random.below(3) - 1 : this.border();
    const high = random.below(4) === 0 ? HIGHS[random.below(HIGHS.length)]! : 0;
    view.setUint32(at, little || width === 4 ? number : high, little);
    if (width === 8) view.setUint32(at + 4, little ? high : number, little);
  }

  private border(): number {
    return BORDERS_32[this.random.below(BORDERS_32.length)]!;
  }

  /** A number off by a little, as counts and lengths that lie are. */
  private moveNumber(place: number): void {
    const { random, view } = this;
    const width = 1 << random.below(3);
    const at = random.below(2) === 0 ? place - (place % width) : place;
    if (at + width > this.size) return;
    const little = random.below(2) === 0;
    const by = (random.below(2) === 0 ? 1 : -1) * (random.below(4) === 0 ? random.below(64) : 1);
    if (width === 1) view.setUint8(at, view.getUint8(at) + by);
    else if (width === 2) view.setUint16(at, view.getUint16(at, little) + by, little);
    else view.setUint32(at, view.getUint32(at, little) + by, little);
  }

  /* -------------------------------------------------------------- the shape */

  private changeShape(): void {
    const { random, bytes } = this;
    const from = random.below(this.size + 1);
    const count = Math.min(this.size - from, this.stretch());
    switch (random.below(8)) {
      case 0:
        this.size = from;
        return;
      case 1:
        this.extend();
        return;
      case 2:
        bytes.copyWithin(from, from + count, this.size);
        this.size -= count;
        return;
      case 3:
        this.insert(from, count);
        return;
      case 4:
        this.splice(from);
        return;
      case 5:
        if (this.size > 0) {
          const to = this.place();
          bytes.copyWithin(to, from, from + Math.min(count, this.size - to));
        }
        return;
      default:
        bytes.fill(random.below(2) === 0 ? 0 : 0xff, from, from + count);
    }
  }

  private stretch(): number {
    return 1 + this.random.below(2 << this.random.below(10));
  }

  private extend(): void {
    const count = Math.min(this.bytes.length - this.size, this.stretch());
    const tail = this.bytes.subarray(this.size, this.size + count);
    if (this.random.below(2) === 0) this.random.fill(tail);
    else tail.fill(0);
    this.size += count;
  }

  /** Repeat `count` bytes, up to eight times. */
  private insert(from: number, count: number): void {
    const { bytes } = this;
    for (let times = 1 + this.random.below(8); times > 0; times--) {
      if (this.size + count > bytes.length) return;
      bytes.copyWithin(from + count, from, this.size);
      this.size += count;
    }
  }

  /** The front of this seed, the back of another. */
  private splice(from: number): void {
    const { random, bytes } = this;
    const other = this.target.seeds[random.below(this.target.seeds.length)]!;
    const at =
      random.below(2) === 0 ? Math.min(from, other.length) : random.below(other.length + 1);
    const count = Math.min(other.length - at, bytes.length - from);
    bytes.set(other.subarray(at, at + count), from);
    this.size = from + count;
  }

  /** Put another word in the place of one: words are what lies between separators. */
  private exchangeWord(words: readonly Uint8Array[]): void {
    const { random, bytes } = this;
    const word = words[random.below(words.length)]!;
    let from = random.below(this.size + 1);
    let to = from;
    while (from > 0 && !isSeparator(bytes[from - 1]!)) from -= 1;
    while (to < this.size && !isSeparator(bytes[to]!)) to += 1;
    if (this.size - (to - from) + word.length > bytes.length) return;
    bytes.copyWithin(from + word.length, to, this.size);
    bytes.set(word, from);
    this.size += word.length - (to - from);
  }
}

const BORDERS_8 = [0, 1, 2, 7, 8, 0x0a, 0x20, 0x7f, 0x80, 0xfe, 0xff];
const BORDERS_32 = [
  0, 1, 2, 3, 4, 7, 8, 15, 16, 17, 63, 64, 65, 127, 128, 255, 256, 257, 4095, 4096, 4097, 0x7fff,
  0x8000, 0xffff, 0x1_0000, 0x10_0000, 0x7fff_ffff, 0x8000_0000, 0xffff_f000, 0xffff_fff8,
  0xffff_fffe, 0xffff_ffff,
];
/** High halves: 2^32, the last number below 2^53, 2^53, 2^63, 2^64 − 1. */
const HIGHS = [1, 0x1f_ffff, 0x20_0000, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff];
const SEPARATORS = "\n\r\t \"'{}[]:,/=&?.;@";

function isSeparator(byte: number): boolean {
  return SEPARATORS.includes(String.fromCharCode(byte));
}

/** Places that are not zero, and the seven behind each: fields hold small numbers. */
function denseOf(seed: Uint8Array): Uint32Array {
  const places: number[] = [];
  let until = 0;
  for (let at = 0; at < seed.length; at++) {
    if (seed[at] !== 0) until = at + 8;
    if (at < until) places.push(at);
  }
  return Uint32Array.from(places);
}
