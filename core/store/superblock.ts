// cold path: read and written once per start, stop and format.
import type { Checksum } from "../base/checksum.ts";
import { BLOCK_SIZE } from "../base/units.ts";
import { fitU53, getU64, putU64 } from "./fixed.ts";
import { decodeStarts, encodeStarts, START_SIZE, STARTS_MAX, type StoreStart } from "./starts.ts";

/**
 * The superblock: who a device belongs to, and how it is divided.
 *
 * Two copies, at 0 and in the last 4 KiB, written alternately with `writeDurable`: generation g goes
 * to copy g mod 2, so that a torn write leaves the other. The highest valid generation counts.
 *
 * ```
 *  0 magic 8 | 8 format u32 | 12 crc u32 (of the 4 KiB with this field zero)
 * 16 clusterId 16 | 32 storeUuid 16 | 48 osd u32 | 52 shardCount u32
 * 56 generation u64 | 64 deviceBytes u64 | 72 zoneSize u64
 * 80 zoneCount u32 | 84 unitsPerZone u32 | 88 slotsPerZone u32 | 92 incarnation u32
 * 96 clean u8 | 97 reserved, zero | 100 starts u32 | 104 reserved, zero
 * 128 16 B a start, the oldest first (starts.ts) | reserved, zero, to 4096
 * ```
 */
export interface Superblock {
  readonly clusterId: Uint8Array;
  readonly storeUuid: Uint8Array;
  readonly osd: number;
  readonly shardCount: number;
  readonly generation: number;
  readonly deviceBytes: number;
  readonly zoneSize: number;
  readonly zoneCount: number;
  readonly unitsPerZone: number;
  readonly slotsPerZone: number;
  /** Of all that lies on the device (core/base/formats.ts). */
  readonly format: number;
  /** Grows with every start, none has that of another one; part of every batch and page stamp. */
  readonly incarnation: number;
  /** The last stop was a clean one. */
  readonly clean: boolean;
  /** Starts that have served, the newest last. None in a store of format 1. */
  readonly starts: readonly StoreStart[];
}

/** Where the starts lie in the superblock. */
const STARTS_AT = 128;
/** "FBSTORE" + 0x1a. */
const MAGIC = [0x46, 0x42, 0x53, 0x54, 0x4f, 0x52, 0x45, 0x1a];

/** Lay a superblock out in 4 KiB. */
export function encodeSuperblock(block: Superblock, checksum: Checksum): Uint8Array {
  const bytes = new Uint8Array(BLOCK_SIZE);
  const view = new DataView(bytes.buffer);
  bytes.set(MAGIC, 0);
  view.setUint32(8, block.format, true);
  bytes.set(block.clusterId, 16);
  bytes.set(block.storeUuid, 32);
  view.setUint32(48, block.osd, true);
  view.setUint32(52, block.shardCount, true);
  putU64(view, 56, block.generation);
  putU64(view, 64, block.deviceBytes);
  putU64(view, 72, block.zoneSize);
  view.setUint32(80, block.zoneCount, true);
  view.setUint32(84, block.unitsPerZone, true);
  view.setUint32(88, block.slotsPerZone, true);
  view.setUint32(92, block.incarnation, true);
  bytes[96] = block.clean ? 1 : 0;
  view.setUint32(100, block.starts.length, true);
  bytes.set(encodeStarts(block.starts), STARTS_AT);
  view.setUint32(12, checksum.crc32(bytes, 0), true);
  return bytes;
}

/** Whether a superblock stands there, damaged or not. */
export function isSuperblock(bytes: Uint8Array): boolean {
  return MAGIC.every((byte, at) => bytes[at] === byte);
}

/** Read a superblock back; undefined when it is none or damaged. The format is not judged. */
export function decodeSuperblock(bytes: Uint8Array, checksum: Checksum): Superblock | undefined {
  if (bytes.length !== BLOCK_SIZE) return undefined;
  if (!isSuperblock(bytes)) return undefined;
  const copy = bytes.slice();
  const view = new DataView(copy.buffer);
  const crc = view.getUint32(12, true);
  view.setUint32(12, 0, true);
  if (checksum.crc32(copy, 0) !== crc) return undefined;
  if (!fitU53(view, 56, 3)) return undefined;
  const count = view.getUint32(100, true);
  if (count > STARTS_MAX) return undefined;
  const starts = decodeStarts(copy.subarray(STARTS_AT, STARTS_AT + count * START_SIZE));
  if (starts === undefined) return undefined;
  return {
    format: view.getUint32(8, true),
    clusterId: copy.slice(16, 32),
    storeUuid: copy.slice(32, 48),
    osd: view.getUint32(48, true),
    shardCount: view.getUint32(52, true),
    generation: getU64(view, 56),
    deviceBytes: getU64(view, 64),
    zoneSize: getU64(view, 72),
    zoneCount: view.getUint32(80, true),
    unitsPerZone: view.getUint32(84, true),
    slotsPerZone: view.getUint32(88, true),
    incarnation: view.getUint32(92, true),
    clean: copy[96] === 1,
    starts,
  };
}

/** Where the copy of a generation lies. */
export function superblockOffset(generation: number, deviceBytes: number): number {
  return generation % 2 === 0 ? 0 : deviceBytes - BLOCK_SIZE;
}

/** The valid copy with the higher generation. */
export function newestSuperblock(
  a: Superblock | undefined,
  b: Superblock | undefined,
): Superblock | undefined {
  if (a === undefined) return b;
  if (b === undefined) return a;
  return b.generation > a.generation ? b : a;
}
