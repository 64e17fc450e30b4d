// data path
import { mix32 } from "../base/checksum.ts";
import type { Checksum } from "../base/checksum.ts";
import { BLOCKS_PER_UNIT, TWO_32 } from "../base/units.ts";
import { fitU53, getU48, getU64, putU48, putU64 } from "./fixed.ts";
import type { IndexFrames } from "./index-frames.ts";
import { SlotState, type SlotZone } from "./slot-zone.ts";

/**
 * A slot on disk: the index record of one 64 KiB unit, or of a hole. Written by the page writer
 * behind the acknowledgement, read once at start.
 *
 * 256 bytes, two in a 512-byte sector and never across: a page of 16 slots may tear at power loss,
 * a slot may not.
 *
 * ```
 *   0 crc u32 (of bytes 4…255, seeded with store and slot id: a page in a wrong place is none)
 *   4 state u8 (0 free, 1 data, 2 hole) | 5 flags u8 | 6 size u16 = 256
 *   8 layer u64 | 16 unit u32 (hole: first of 64, a multiple of 64) | 20 snapSeq u32
 *  24 version u64 (highest of the blocks; free: index that freed it) | 32 dataBits u16 | 34 lostBits u16
 *  36 pageStamp u64 (incarnation · 2^32 + counter, one for all slots of a page write)
 *  44 pg u32 | 48 reserved 16
 *  64 crc32 16 × u32 (client's crc xor mix32(layer, block))   hole: 64 mask u64 instead
 * 128 version 16 × u48 | 224 reserved 32
 * ```
 * The pg stands in the slot so that a start needs no cluster map to know whose a unit is.
 *
 * A slot without checksum of its page's history was not enough: a *lost* page write leaves an older
 * page that is valid in itself. Hence the stamp, and the crc of each page in the checkpoint.
 */
export const SLOT_SIZE = 256;
export const SLOTS_PER_PAGE = 16;

export enum DiskSlot {
  Free = 0,
  Data = 1,
  Hole = 2,
}

/** Fields of a slot that was read. */
export class SlotImage {
  state: DiskSlot = DiskSlot.Free;
  layer = 0;
  unit = 0;
  snapSeq = 0;
  version = 0;
  dataBits = 0;
  lostBits = 0;
  pageStamp = 0;
  pg = 0;
  readonly crcs: Uint32Array = new Uint32Array(BLOCKS_PER_UNIT);
  readonly versions: Float64Array = new Float64Array(BLOCKS_PER_UNIT);
}

/** What the crc of a slot begins with. `seed` binds to the store, `slot` and `shard` to the place. */
export function slotSeed(seed: number, shard: number, slot: number): number {
  return (seed ^ mix32(shard, slot)) >>> 0;
}

/**
 * Lay out slot `index` of `zone` at `at`; `bytes` is a view of its 256 bytes. Forming, taken and
 * quarantined slots are free on disk. `frames`, `page`: when the index is paged; the row is there.
 */
export function encodeSlot(
  view: DataView,
  at: number,
  bytes: Uint8Array,
  zone: SlotZone,
  index: number,
  layer: number,
  pg: number,
  pageStamp: number,
  crcSeed: number,
  checksum: Checksum,
  frames: IndexFrames | null = null,
  page = 0,
): void {
  bytes.fill(0);
  view.setUint16(at + 6, SLOT_SIZE, true);
  putU64(view, at + 36, pageStamp);
  const state = zone.state[index]!;
  putU64(view, at + 24, zone.version[index]!);
  if (state === SlotState.Live || state === SlotState.Hole) {
    view.setUint8(at + 4, state === SlotState.Live ? DiskSlot.Data : DiskSlot.Hole);
    putU64(view, at + 8, layer);
    view.setUint32(at + 16, zone.unit[index]!, true);
    view.setUint32(at + 20, zone.snapSeq[index]!, true);
    view.setUint32(at + 44, pg, true);
    if (state === SlotState.Live) encodeBlocks(view, at, zone, index, layer, frames, page);
    else {
      view.setUint32(at + 64, zone.holes[index * 2]!, true);
      view.setUint32(at + 68, zone.holes[index * 2 + 1]!, true);
    }
  }
  view.setUint32(at, crcOfSlot(bytes, crcSeed, checksum), true);
}

function encodeBlocks(
  view: DataView,
  at: number,
  zone: SlotZone,
  index: number,
  layer: number,
  frames: IndexFrames | null,
  page: number,
): void {
  view.setUint16(at + 32, zone.dataBits[index]!, true);
  view.setUint16(at + 34, zone.lostBits[index]!, true);
  const firstBlock = zone.unit[index]! * BLOCKS_PER_UNIT;
  if (frames !== null) {
    const bits = zone.dataBits[index]! | zone.lostBits[index]!;
    if (bits !== 0) {
      frames.putRow(page, index % SLOTS_PER_PAGE, bits, layer, firstBlock, view, at);
      return;
    }
    encodeNothing(view, at, firstBlock, layer);
    return;
  }
  const from = index * BLOCKS_PER_UNIT;
  for (let bit = 0; bit < BLOCKS_PER_UNIT; bit++) {
    const stored = (zone.crcs[from + bit]! ^ mix32(layer, firstBlock + bit)) >>> 0;
    view.setUint32(at + 64 + bit * 4, stored, true);
    const version = zone.versionLow[from + bit]! + zone.versionHigh[from + bit]! * TWO_32;
    putU48(view, at + 128 + bit * 6, version);
  }
}

/** What the blocks of a unit without data are: written by nobody. */
function encodeNothing(view: DataView, at: number, firstBlock: number, layer: number): void {
  for (let bit = 0; bit < BLOCKS_PER_UNIT; bit++) {
    view.setUint32(at + 64 + bit * 4, mix32(layer, firstBlock + bit) >>> 0, true);
  }
}

/** Read a slot; false when its checksum does not match (`image` is then undefined). */
export function decodeSlot(
  view: DataView,
  at: number,
  bytes: Uint8Array,
  crcSeed: number,
  checksum: Checksum,
  image: SlotImage,
): boolean {
  if (view.getUint16(at + 6, true) !== SLOT_SIZE) return false;
  if (view.getUint32(at, true) !== crcOfSlot(bytes, crcSeed, checksum)) return false;
  const state = view.getUint8(at + 4);
  if (state > DiskSlot.Hole || !fitU53(view, at + 8, 1)) return false;
  if (!fitU53(view, at + 24, 1) || !fitU53(view, at + 36, 1)) return false;
  image.state = state;
  image.version = getU64(view, at + 24);
  image.pageStamp = getU64(view, at + 36);
  image.layer = getU64(view, at + 8);
  image.unit = view.getUint32(at + 16, true);
  image.snapSeq = view.getUint32(at + 20, true);
  image.pg = view.getUint32(at + 44, true);
  image.dataBits = view.getUint16(at + 32, true);
  image.lostBits = view.getUint16(at + 34, true);
  if (state === DiskSlot.Hole) {
    image.crcs[0] = view.getUint32(at + 64, true);
    image.crcs[1] = view.getUint32(at + 68, true);
    return true;
  }
  const firstBlock = image.unit * BLOCKS_PER_UNIT;
  for (let bit = 0; bit < BLOCKS_PER_UNIT; bit++) {
    const stored = view.getUint32(at + 64 + bit * 4, true);
    image.crcs[bit] = (stored ^ mix32(image.layer, firstBlock + bit)) >>> 0;
    image.versions[bit] = getU48(view, at + 128 + bit * 6);
  }
  return true;
}

/** crc of a slot with its crc field taken as zero: the field comes first and is left out. */
function crcOfSlot(bytes: Uint8Array, crcSeed: number, checksum: Checksum): number {
  const b0 = bytes[0]!;
  const b1 = bytes[1]!;
  const b2 = bytes[2]!;
  const b3 = bytes[3]!;
  bytes[0] = 0;
  bytes[1] = 0;
  bytes[2] = 0;
  bytes[3] = 0;
  const crc = checksum.crc32(bytes, crcSeed);
  bytes[0] = b0;
  bytes[1] = b1;
  bytes[2] = b2;
  bytes[3] = b3;
  return crc;
}

/** The crc under which a checkpoint knows a page; 0 stands for a page never written. */
export function pageCrcOf(crc: number): number {
  return crc === 0 ? 1 : crc;
}
