// cold path: computed once per format and once per open.
import { assert } from "../base/assert.ts";
import { FastblockError } from "../base/errors.ts";
import { exactSize, formatSize } from "../base/size-text.ts";
import { BLOCK_SIZE, UNIT_SIZE } from "../base/units.ts";
import { roundUp } from "./fixed.ts";

/**
 * How a device is divided (`store.md`, DEVICE).
 *
 * ```
 * 0        superblock A (4 KiB)
 * 4 KiB    zone table A, zone table B (each: 4 KiB header + 16 B a zone, whole blocks)
 * 64 KiB·n zones of zoneSize
 * end-4K   superblock B
 * ```
 * A data zone: index pages (4 KiB, 16 slots of 256 B), then units of 64 KiB. Slot i < unitsPerZone
 * belongs to unit i; the slots above (6 %) only hold holes.
 *
 * Invariants: unitsOffset + unitsPerZone · 64 KiB ≤ zoneSize; slotsPerZone = 16 · pagesPerZone
 * ≥ 1.06 · unitsPerZone; zonesOffset + zoneCount · zoneSize ≤ deviceBytes − 4 KiB.
 */
export interface Geometry {
  readonly deviceBytes: number;
  readonly zoneSize: number;
  readonly zoneCount: number;
  readonly tableBytes: number;
  readonly zonesOffset: number;
  readonly unitsPerZone: number;
  readonly slotsPerZone: number;
  readonly pagesPerZone: number;
  /** Of the first unit within a data zone. */
  readonly unitsOffset: number;
  /** A slot's id on its shard is (order of its data zone) << slotShift | index in the zone. */
  readonly slotShift: number;
}

const DEVICE_BYTES_MIN = 256 * 1024 * 1024;
const MIB = 1024 * 1024;
const GIB = 1024 * MIB;
const SLOTS_PER_PAGE = 16;
const SLOT_SIZE = 256;
const HOLE_SHARE = 1.06;

/** 64 MiB zones, 1 GiB over 64 GiB; smaller ones for development devices. */
function zoneSizeOf(deviceBytes: number): number {
  if (deviceBytes > 64 * GIB) return GIB;
  if (deviceBytes > 16 * GIB) return 64 * MIB;
  if (deviceBytes >= GIB) return 16 * MIB;
  return 4 * MIB;
}

/** Divide a device. Throws FB4007 when it is too small. */
export function geometryOf(sizeBytes: number, zoneSize = zoneSizeOf(sizeBytes)): Geometry {
  const deviceBytes = Math.floor(sizeBytes / BLOCK_SIZE) * BLOCK_SIZE;
  if (deviceBytes < DEVICE_BYTES_MIN) {
    throw new FastblockError(
      "FB4007",
      `The device is too small: ${exactSize(sizeBytes)}, at least ${formatSize(DEVICE_BYTES_MIN)} are wanted`,
    );
  }
  const zonesMax = Math.floor(deviceBytes / zoneSize);
  const tableBytes = roundUp(BLOCK_SIZE + zonesMax * 16, BLOCK_SIZE);
  const zonesOffset = roundUp(BLOCK_SIZE + 2 * tableBytes, UNIT_SIZE);
  const zoneCount = Math.floor((deviceBytes - BLOCK_SIZE - zonesOffset) / zoneSize);
  let unitsPerZone = Math.floor(zoneSize / UNIT_SIZE);
  while (unitsOffsetOf(unitsPerZone) + unitsPerZone * UNIT_SIZE > zoneSize) unitsPerZone -= 1;
  const pagesPerZone = pagesOf(unitsPerZone);
  const slotsPerZone = pagesPerZone * SLOTS_PER_PAGE;
  const slotShift = Math.ceil(Math.log2(slotsPerZone));
  assert(
    slotsPerZone * SLOT_SIZE === pagesPerZone * BLOCK_SIZE,
    "geometryOf: pages hold all slots",
  );
  assert(zoneCount * 2 ** slotShift < 2 ** 32, "geometryOf: slot ids fit 32 bits");
  return {
    deviceBytes,
    zoneSize,
    zoneCount,
    tableBytes,
    zonesOffset,
    unitsPerZone,
    slotsPerZone,
    pagesPerZone,
    unitsOffset: unitsOffsetOf(unitsPerZone),
    slotShift,
  };
}

function pagesOf(units: number): number {
  return Math.ceil((units * HOLE_SHARE) / SLOTS_PER_PAGE);
}

function unitsOffsetOf(units: number): number {
  return roundUp(pagesOf(units) * BLOCK_SIZE, UNIT_SIZE);
}

/** Device offset of a zone. */
export function zoneOffset(geometry: Geometry, zone: number): number {
  return geometry.zonesOffset + zone * geometry.zoneSize;
}

/** Zones that each shard gets at format. */
export interface ShardZones {
  readonly log: number;
  readonly meta: number;
  readonly data: number;
}

/** Share the zones out evenly. Throws FB4007 when the device does not carry so many shards. */
export function shareZones(geometry: Geometry, shardCount: number, logBytes?: number): ShardZones {
  const zones = Math.floor(geometry.zoneCount / shardCount);
  const share = zones * geometry.zoneSize;
  const wanted = logBytes ?? Math.min(GIB, Math.max(16 * MIB, share / 16));
  const log = Math.max(1, Math.ceil(wanted / geometry.zoneSize));
  // Two halves, each with 4 B a page and the state of the groups.
  const metaBytes = Math.max(8 * MIB, 4 * MIB + 8 * geometry.pagesPerZone * zones);
  const meta = Math.ceil(metaBytes / geometry.zoneSize);
  const data = zones - log - meta;
  if (data < 4) {
    throw new FastblockError(
      "FB4007",
      `The device is too small: ${String(zones)} zones a shard, ${String(log + meta + 4)} are wanted`,
    );
  }
  return { log, meta, data };
}
