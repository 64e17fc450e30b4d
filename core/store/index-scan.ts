// cold path: reads the whole index once per start.
import { BLOCK_SIZE, BLOCKS_PER_UNIT } from "../base/units.ts";
import { type Device, DeviceRegion, readOnce, readSurely } from "../device/device.ts";
import type { World } from "../reactor/world.ts";
import { NONE } from "./layer-table.ts";
import {
  DiskSlot,
  decodeSlot,
  pageCrcOf,
  SLOT_SIZE,
  SLOTS_PER_PAGE,
  SlotImage,
  slotSeed,
} from "./slot-codec.ts";
import { SlotState } from "./slot-zone.ts";
import type { SlotTable } from "./slot-table.ts";

/**
 * Start-up's reading of the index pages (`store.md`, Start 2).
 *
 * A page whose slots carry no newer stamp than the checkpoint's must have the crc that the checkpoint
 * remembers: otherwise a page write was lost, and an older page, valid in itself, came back. A page
 * with newer slots was written (perhaps in part) after the checkpoint; redo repairs it. A slot with a
 * bad checksum is damage, but on a page that was never written before the checkpoint.
 *
 * Nothing is known of the slots of a damaged page: they count as free, whatever of them can be read.
 * What they held is missing from its group then; who opened the store has to distrust all groups.
 */
export interface IndexScanInput {
  readonly world: World;
  readonly device: Device;
  readonly table: SlotTable;
  readonly shard: number;
  readonly seed: number;
  /** Of the checkpoint: newest stamp, and crcs of all pages in order. */
  readonly pageStamp: number;
  readonly pageCrcs: Uint32Array;
  /** Arena memory to read into, and its size. */
  readonly buffer: number;
  readonly bufferBytes: number;
  /** Row of the replica of a pg, or -1: then the slot is nobody's. */
  rowOf(pg: number): number;
}

export interface IndexScanResult {
  /** Pages that are damaged or stale: device offset and what is wrong. */
  readonly damage: { readonly offsetBytes: number; readonly text: string }[];
  readonly slotsChecked: number;
  readonly liveUnits: number;
  /** The highest version that the pages hold for each row. */
  readonly versions: ReadonlyMap<number, number>;
}

/** Read all index pages into the table. Slots that lose or are nobody's end in quarantine. */
export async function scanIndex(input: IndexScanInput): Promise<IndexScanResult> {
  const scanner = new IndexScanner(input);
  const zones = input.table.zones;
  const zoneBytes = input.table.geometry.pagesPerZone * BLOCK_SIZE;
  const perPiece = Math.min(zoneBytes, Math.floor(input.bufferBytes / BLOCK_SIZE) * BLOCK_SIZE);
  const parallel = Math.max(1, Math.min(8, Math.floor(input.bufferBytes / perPiece)));
  const pieces: { zone: number; from: number; bytes: number }[] = [];
  for (let zone = 0; zone < zones.length; zone++) {
    for (let from = 0; from < zoneBytes; from += perPiece) {
      pieces.push({ zone, from, bytes: Math.min(perPiece, zoneBytes - from) });
    }
  }
  for (let first = 0; first < pieces.length; first += parallel) {
    const group = pieces.slice(first, first + parallel);
    const reads = group.map((piece, at) =>
      readOnce(
        input.device,
        input.buffer + at * perPiece,
        zones[piece.zone]!.offset + piece.from,
        piece.bytes,
        DeviceRegion.Meta,
      ),
    );
    const done = await Promise.allSettled(reads);
    for (let at = 0; at < group.length; at++) {
      const { zone, from, bytes } = group[at]!;
      const buffer = input.buffer + at * perPiece;
      if (done[at]!.status === "rejected") {
        await readSingly(input, buffer, zones[zone]!.offset + from, bytes);
      }
      for (let page = 0; page < bytes / BLOCK_SIZE; page++) {
        scanner.page(zone, from / BLOCK_SIZE + page, buffer + page * BLOCK_SIZE);
      }
    }
  }
  return scanner.result();
}

/** One bad sector must not hide the pages around it. What the device does not give counts as zero. */
async function readSingly(
  input: IndexScanInput,
  buffer: number,
  offset: number,
  bytes: number,
): Promise<void> {
  const { device, world } = input;
  for (let at = 0; at < bytes; at += BLOCK_SIZE) {
    const to = buffer + at;
    if (await readSurely(device, to, offset + at, BLOCK_SIZE, DeviceRegion.Meta)) continue;
    world.arena.bytes.fill(0, to, to + BLOCK_SIZE);
  }
}

class IndexScanner {
  private readonly input: IndexScanInput;
  private readonly damage: { offsetBytes: number; text: string }[] = [];
  private readonly images: SlotImage[] = [];
  private readonly valid: boolean[] = [];
  /** Stamps of slots that are newer than the checkpoint; the others count as 0. */
  private readonly stamps = new Map<number, number>();
  private readonly versions = new Map<number, number>();
  private slotsChecked = 0;
  private liveUnits = 0;

  constructor(input: IndexScanInput) {
    this.input = input;
    for (let slot = 0; slot < SLOTS_PER_PAGE; slot++) this.images.push(new SlotImage());
  }

  result(): IndexScanResult {
    const { damage, slotsChecked, liveUnits, versions } = this;
    return { damage, slotsChecked, liveUnits, versions };
  }

  page(zoneNumber: number, page: number, at: number): void {
    const { table, world } = this.input;
    const first = table.slotAt(zoneNumber, page * SLOTS_PER_PAGE);
    const zone = table.zones[zoneNumber]!;
    const known = this.input.pageCrcs[zoneNumber * zone.pageCount + page] ?? 0;
    if (known === 0 && isZero(world.arena.words, at >>> 2)) {
      // Never written.
      this.slotsChecked += SLOTS_PER_PAGE;
      return;
    }
    const crc = pageCrcOf(world.checksum.crc32(world.arena.block(at), 0));
    const counts = this.decode(first, at);
    if (known === 0 && counts.valid === 0) return;
    const text = this.judge(known, crc, counts);
    if (text !== undefined) {
      this.damage.push({ offsetBytes: zone.offset + page * BLOCK_SIZE, text });
    }
    zone.pageCrc[page] = crc;
    const mixed = counts.newer > 0 && counts.newer < SLOTS_PER_PAGE;
    if (text !== undefined || mixed) {
      table.openZone(zone);
      table.markDirty(first);
    }
    if (text !== undefined) return;
    for (let slot = 0; slot < SLOTS_PER_PAGE; slot++) {
      if (this.valid[slot]) this.take(first + slot, this.images[slot]!);
    }
  }

  private decode(first: number, at: number): { valid: number; newer: number } {
    const { world, seed, shard, pageStamp } = this.input;
    let valid = 0;
    let newer = 0;
    for (let slot = 0; slot < SLOTS_PER_PAGE; slot++) {
      const offset = at + slot * SLOT_SIZE;
      const bytes = world.arena.bytes.subarray(offset, offset + SLOT_SIZE);
      const image = this.images[slot]!;
      const crcSeed = slotSeed(seed, shard, first + slot);
      const good = decodeSlot(world.arena.view, offset, bytes, crcSeed, world.checksum, image);
      this.valid[slot] = good;
      this.slotsChecked += 1;
      if (!good) continue;
      valid += 1;
      if (image.pageStamp > pageStamp) newer += 1;
    }
    return { valid, newer };
  }

  /** What is wrong with a page; undefined when nothing is. */
  private judge(
    known: number,
    crc: number,
    counts: { valid: number; newer: number },
  ): string | undefined {
    if (known === 0) {
      if (counts.valid === counts.newer) return undefined;
      return "slots older than the checkpoint on a page that it does not know";
    }
    if (counts.valid < SLOTS_PER_PAGE) {
      return `${String(SLOTS_PER_PAGE - counts.valid)} slots with a bad checksum, none wanted`;
    }
    if (counts.newer === 0 && crc !== known) return "an older page than the checkpoint remembers";
    return undefined;
  }

  private take(slot: number, image: SlotImage): void {
    if (image.state === DiskSlot.Free) return;
    const table = this.input.table;
    const row = this.input.rowOf(image.pg);
    const hole = image.state === DiskSlot.Hole;
    if (!hole && !table.isUnit(slot)) return;
    table.takeNamed(slot);
    if (row < 0) {
      table.quarantine(slot, 0);
      return;
    }
    this.versions.set(row, Math.max(this.versions.get(row) ?? 0, image.version));
    const handle = table.layers.obtain(image.layer);
    const rival = hole
      ? table.exactHole(handle, image.unit, image.snapSeq, row)
      : table.exact(handle, image.unit, image.snapSeq);
    if (rival !== NONE && !this.wins(image, rival)) {
      table.quarantine(slot, 0);
      return;
    }
    if (rival !== NONE) {
      table.remove(rival);
      table.quarantine(rival, 0);
      this.liveUnits -= 1;
    }
    const again = table.layers.obtain(image.layer);
    table.insert(
      slot,
      hole ? SlotState.Hole : SlotState.Live,
      again,
      image.unit,
      image.snapSeq,
      row,
    );
    this.copy(slot, image, hole);
    if (image.pageStamp > this.input.pageStamp) this.stamps.set(slot, image.pageStamp);
    this.liveUnits += 1;
  }

  /** Two slots of one key: the higher version lives, then the higher stamp. */
  private wins(image: SlotImage, rival: number): boolean {
    const table = this.input.table;
    const version = table.zoneOf(rival).version[table.indexOf(rival)]!;
    if (image.version !== version) return image.version > version;
    return image.pageStamp > (this.stamps.get(rival) ?? 0);
  }

  private copy(slot: number, image: SlotImage, hole: boolean): void {
    const table = this.input.table;
    const zone = table.zoneOf(slot);
    const index = table.indexOf(slot);
    zone.version[index] = image.version;
    if (hole) {
      table.setHoleWord(slot, 0, image.crcs[0]!);
      table.setHoleWord(slot, 1, image.crcs[1]!);
      return;
    }
    zone.dataBits[index] = image.dataBits;
    zone.lostBits[index] = image.lostBits;
    if (image.lostBits !== 0) zone.holdsLost = true;
    for (let bit = 0; bit < BLOCKS_PER_UNIT && table.frames === null; bit++) {
      table.setBlock(slot, bit, image.versions[bit]!, image.crcs[bit]!);
    }
    zone.version[index] = image.version;
  }
}

function isZero(words: Int32Array, at: number): boolean {
  for (let word = at; word < at + BLOCK_SIZE / 4; word++) if (words[word] !== 0) return false;
  return true;
}
