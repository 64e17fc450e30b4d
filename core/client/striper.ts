// data path
//
// Step 3 of the life of a write: an operation on bytes becomes parts, each a run of whole blocks
// within one object (and so of one group), at most 64 blocks where data travels. The first and the
// last block of a change may be covered in part: these are parts of their own, one block each.
//
//   bytes   |..####|######|######|##....|      # the range; | borders of 4 KiB blocks
//   parts     ^^^^  ^^^^^^^^^^^^^ ^^           partial, whole run, partial
import { BLOCK_SIZE, PAYLOAD_BLOCKS_MAX } from "../base/units.ts";
import { OpKind } from "./image-op.ts";

/** The next part of an operation. Reused: valid until the next call. */
export class Cut {
  firstBlock = 0;
  blocks = 0;
  /** A change of [fromByte, toByte) of its only block. */
  isPartial = false;
  fromByte = 0;
  toByte = 0;
  /** Where the part ends in the image. */
  endByte = 0;
  /** Nothing to be done in this stretch (a discard of less than a block). */
  isSkipped = false;
}

/**
 * Cut the next part off [cursor, end).
 *
 * Reads and states take whole blocks (their memory covers them), so only changes have partial
 * parts; discards skip theirs. Requires: cursor < end, objectBlocks > 0.
 */
export function cutPart(
  cut: Cut,
  kind: OpKind,
  cursor: number,
  end: number,
  objectBlocks: number,
): void {
  const first = Math.floor(cursor / BLOCK_SIZE);
  const within = cursor - first * BLOCK_SIZE;
  const isChange = kind === OpKind.Write || kind === OpKind.Zero || kind === OpKind.Discard;
  const blockEnd = (first + 1) * BLOCK_SIZE;
  cut.firstBlock = first;
  cut.isPartial = false;
  cut.isSkipped = false;
  if (isChange && (within > 0 || end < blockEnd)) {
    const to = end < blockEnd ? end : blockEnd;
    cut.blocks = 1;
    cut.isPartial = true;
    cut.fromByte = within;
    cut.toByte = to - first * BLOCK_SIZE;
    cut.endByte = to;
    cut.isSkipped = kind === OpKind.Discard;
    return;
  }
  const lastBorder = isChange ? Math.floor(end / BLOCK_SIZE) : Math.ceil(end / BLOCK_SIZE);
  const objectBorder = (Math.floor(first / objectBlocks) + 1) * objectBlocks;
  let border = lastBorder < objectBorder ? lastBorder : objectBorder;
  const carriesData = kind !== OpKind.Zero && kind !== OpKind.Discard;
  if (carriesData) {
    // Cut at multiples of 64 blocks, so that the parts of neighbouring operations line up.
    const frameBorder = (Math.floor(first / PAYLOAD_BLOCKS_MAX) + 1) * PAYLOAD_BLOCKS_MAX;
    if (frameBorder < border) border = frameBorder;
  }
  cut.blocks = border - first;
  const endByte = border * BLOCK_SIZE;
  cut.endByte = endByte < end ? endByte : end;
}
