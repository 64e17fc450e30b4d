// cold path: read at start, written at format and where a copy was lost.
import { assert } from "../base/assert.ts";
import type { Checksum } from "../base/checksum.ts";
import { BLOCK_SIZE } from "../base/units.ts";
import { fitU53, getU64, putU64 } from "./fixed.ts";

/**
 * Which zone serves what.
 *
 * Two copies behind superblock A, written alternately (generation mod 2) by `writeDurable`.
 *
 * ```
 * header block  0 magic u32 | 4 format u32 | 8 generation u64 | 16 zoneCount u32 | 20 crc u32 (of the
 *               whole table, this field zero, seeded with the store's uuid) | reserved
 * per zone      0 kind u8 | 1 reserved u8 | 2 shard u16 | 4 order u32 | 8 generation u32 | 12 crc u32
 *               (of the 12 bytes, seeded with the zone's number)
 * ```
 * `order` numbers the zones of one kind and shard: the log ring and slot ids follow it.
 */
export interface ZoneEntry {
  readonly kind: ZoneKind;
  readonly shard: number;
  readonly order: number;
  readonly generation: number;
}

export enum ZoneKind {
  Free = 0,
  Log = 1,
  Meta = 2,
  Data = 3,
}

/** "FBZT". */
const MAGIC = 0x545a_4246;
const FORMAT = 1;
const ENTRY_SIZE = 16;

export function encodeZoneTable(
  zones: readonly ZoneEntry[],
  generation: number,
  tableBytes: number,
  seed: number,
  checksum: Checksum,
): Uint8Array {
  assert(BLOCK_SIZE + zones.length * ENTRY_SIZE <= tableBytes, "encodeZoneTable: the table fits");
  const bytes = new Uint8Array(tableBytes);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, MAGIC, true);
  view.setUint32(4, FORMAT, true);
  putU64(view, 8, generation);
  view.setUint32(16, zones.length, true);
  zones.forEach((zone, number) => {
    const at = BLOCK_SIZE + number * ENTRY_SIZE;
    view.setUint8(at, zone.kind);
    view.setUint16(at + 2, zone.shard, true);
    view.setUint32(at + 4, zone.order, true);
    view.setUint32(at + 8, zone.generation, true);
    view.setUint32(at + 12, checksum.crc32(bytes.subarray(at, at + 12), number), true);
  });
  view.setUint32(20, checksum.crc32(bytes, seed), true);
  return bytes;
}

export interface ZoneTable {
  readonly generation: number;
  readonly zones: readonly ZoneEntry[];
}

/** Read a table back; undefined when it is none or damaged. */
export function decodeZoneTable(
  bytes: Uint8Array,
  zoneCount: number,
  seed: number,
  checksum: Checksum,
): ZoneTable | undefined {
  const copy = bytes.slice();
  const view = new DataView(copy.buffer);
  if (view.getUint32(0, true) !== MAGIC || view.getUint32(4, true) !== FORMAT) return undefined;
  const crc = view.getUint32(20, true);
  view.setUint32(20, 0, true);
  if (checksum.crc32(copy, seed) !== crc) return undefined;
  if (view.getUint32(16, true) !== zoneCount || !fitU53(view, 8, 1)) return undefined;
  const zones: ZoneEntry[] = [];
  for (let number = 0; number < zoneCount; number++) {
    const at = BLOCK_SIZE + number * ENTRY_SIZE;
    const kind = view.getUint8(at);
    if (kind > ZoneKind.Data) return undefined;
    if (checksum.crc32(copy.subarray(at, at + 12), number) !== view.getUint32(at + 12, true)) {
      return undefined;
    }
    zones.push({
      kind,
      shard: view.getUint16(at + 2, true),
      order: view.getUint32(at + 4, true),
      generation: view.getUint32(at + 8, true),
    });
  }
  return { generation: getU64(view, 8), zones };
}

/** Zone numbers of one kind and shard, in their order. */
export function zonesOf(table: ZoneTable, kind: ZoneKind, shard: number): number[] {
  const found: number[] = [];
  table.zones.forEach((zone, number) => {
    if (zone.kind === kind && zone.shard === shard) found.push(number);
  });
  return found.sort((a, b) => table.zones[a]!.order - table.zones[b]!.order);
}
