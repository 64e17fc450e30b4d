// data path
import type { Checksum } from "../base/checksum.ts";
import type { Arena } from "../reactor/world.ts";

/**
 * Stamps of verify mode: every 4 KiB block that the bench writes says which block it is, which
 * write of this run made it, and proves with a checksum that it is whole.
 *
 * ```
 * 0 magic 4 | 4 run 4 | 8 block 4 | 12 block, high half 4 | 16 sequence 4 | 20 image 4
 * 24 filler, a function of run, block and sequence … 4092 crc32 of the block with this field zero 4
 * ```
 *
 * The book (`StampBook`) keeps per block the newest sequence that was issued and the newest that
 * was acknowledged: a read must see a sequence from acknowledged-when-the-read-began up to
 * issued-when-it-ended. Acknowledged writes of this run never disappear, blocks never mix, and a
 * block never shows another's content.
 */
const MAGIC = 0x7374_616d;
const CRC_AT = 4092;
const FILLER_AT = 24;

/** What a block turned out to hold. */
export enum StampFinding {
  Fine = 0,
  /** The checksum does not match: torn or damaged. */
  Torn = 1,
  /** A whole stamp of another block or image. */
  Misplaced = 2,
  /** Older than what was acknowledged before the read began, or the block is not stamped at all. */
  Stale = 3,
  /** A sequence that was never issued. */
  Invented = 4,
}

/** Write the stamp of (run, block, sequence) over a whole block of the arena. */
export function stampBlock(
  arena: Arena,
  checksum: Checksum,
  offset: number,
  run: number,
  image: number,
  block: number,
  sequence: number,
): void {
  const view = arena.view;
  view.setUint32(offset, MAGIC, true);
  view.setUint32(offset + 4, run, true);
  view.setUint32(offset + 8, block >>> 0, true);
  view.setUint32(offset + 12, (block / 4_294_967_296) >>> 0, true);
  view.setUint32(offset + 16, sequence, true);
  view.setUint32(offset + 20, image, true);
  const words = arena.words;
  let state = (run ^ Math.imul(block, 0x9e37_79b1) ^ Math.imul(sequence, 0x85eb_ca6b)) | 1;
  const end = (offset + CRC_AT) >>> 2;
  for (let at = (offset + FILLER_AT) >>> 2; at < end; at++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    words[at] = state;
  }
  view.setUint32(offset + CRC_AT, 0, true);
  view.setUint32(offset + CRC_AT, checksum.crc32(arena.block(offset), 0), true);
}

/** The sequence that the block at `offset` carries of this run, or 0 when it is of another. */
export function stampSequence(arena: Arena, offset: number, run: number): number {
  const view = arena.view;
  if (view.getUint32(offset, true) !== MAGIC || view.getUint32(offset + 4, true) !== run) return 0;
  return view.getUint32(offset + 16, true);
}

/** Judge a block that was read. `least`: acknowledged when the read began, 0: none; `most`: issued. */
export function judgeBlock(
  arena: Arena,
  checksum: Checksum,
  offset: number,
  run: number,
  image: number,
  block: number,
  least: number,
  most: number,
): StampFinding {
  const view = arena.view;
  if (view.getUint32(offset, true) !== MAGIC) {
    return least === 0 ? StampFinding.Fine : StampFinding.Stale;
  }
  const stored = view.getUint32(offset + CRC_AT, true);
  view.setUint32(offset + CRC_AT, 0, true);
  const computed = checksum.crc32(arena.block(offset), 0);
  view.setUint32(offset + CRC_AT, stored, true);
  if (stored !== computed) return StampFinding.Torn;
  const place =
    view.getUint32(offset + 8, true) + view.getUint32(offset + 12, true) * 4_294_967_296;
  if (place !== block || view.getUint32(offset + 20, true) !== image) return StampFinding.Misplaced;
  if (view.getUint32(offset + 4, true) !== run) {
    return least === 0 ? StampFinding.Fine : StampFinding.Stale;
  }
  const sequence = view.getUint32(offset + 16, true);
  if (sequence > most) return StampFinding.Invented;
  return sequence < least ? StampFinding.Stale : StampFinding.Fine;
}

/** Per block of the range: the newest sequence issued, and acknowledged. */
export class StampBook {
  private readonly issued: Uint32Array;
  private readonly acknowledged: Uint32Array;

  constructor(blocks: number) {
    this.issued = new Uint32Array(blocks);
    this.acknowledged = new Uint32Array(blocks);
  }

  /** Draw the sequence of the next write of a block. */
  issue(block: number): number {
    const sequence = this.issued[block]! + 1;
    this.issued[block] = sequence;
    return sequence;
  }

  acknowledge(block: number, sequence: number): void {
    if (sequence > this.acknowledged[block]!) this.acknowledged[block] = sequence;
  }

  issuedOf(block: number): number {
    return this.issued[block]!;
  }

  acknowledgedOf(block: number): number {
    return this.acknowledged[block]!;
  }
}
