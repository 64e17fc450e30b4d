// data path
import { assert } from "../base/assert.ts";
import { BLOCK_SIZE, BLOCKS_PER_UNIT, TWO_32, UNIT_SIZE } from "../base/units.ts";
import type { Geometry } from "./geometry.ts";
import { IndexFrames } from "./index-frames.ts";
import { LayerTable, NONE } from "./layer-table.ts";
import { SLOTS_PER_PAGE } from "./slot-codec.ts";
import { SlotFlag, SlotState, SlotZone } from "./slot-zone.ts";

/** Hole slots are keyed by their group's row too; this stands for "not a hole". */
const NO_HOLE = -1;
/** Units to a hole slot. */
export const UNITS_PER_HOLE = 64;

/** Of its units, what a zone has free when it is gone through again: runs stay contiguous. */
const REUSED_SHARE = 0.25;

/**
 * The index of one shard in memory: which unit of the device holds which unit of a layer.
 *
 * A slot is named by a 32-bit id: order of its data zone · 2^slotShift + index in the zone. A hash of
 * (layer, unit) leads to the newest slot, `older` chains the snapshots, newest first. Hole slots have
 * chains of their own under (layer, first of 64 units, row: small objects share 64 units). A slot takes precedence over a hole bit of
 * the same snapSeq: bits are never cleared while an older version may show through, because slot and
 * hole lie on two pages, and only one of the two may reach the disk before a crash.
 *
 * Invariants: a slot is in a chain exactly when Forming, Live or Hole; along a chain snapSeq falls
 * strictly; each count is that of the slots in that state (`slot-invariants.ts`).
 */
export class SlotTable {
  readonly geometry: Geometry;
  /** Rows of slots that are in memory; null: all are, in the zones. */
  readonly frames: IndexFrames | null;
  /**
   * While a start redoes the log and the index is paged: units to which an entry was written directly, and
   * that entry's index. Empty otherwise.
   */
  readonly redoUnits = new Map<number, number>();
  readonly layers = new LayerTable();
  readonly zones: SlotZone[] = [];
  freeUnits = 0;
  freeHoles = 0;
  quarantined = 0;
  /** Units that are being discarded. */
  discarding = 0;
  /** As of its zones. */
  holdsStale = false;
  /** Free units that are stale. */
  staleUnits = 0;
  /** Pages that changed since they were written: `page` of `markDirty`, each once. */
  dirtyPages: Uint32Array = new Uint32Array(256);
  dirtyCount = 0;
  /** Units that are in chains, by the row of their group. */
  private rowUnits: Uint32Array = new Uint32Array(64);
  private readonly buckets: Uint32Array;
  private readonly bucketMask: number;
  private readonly slotShift: number;
  private readonly slotMask: number;
  private cursorZone = 0;
  private cursorIndex = 0;
  private holeCursor = 0;

  /**
   * `zoneOffsets`: device offsets of the shard's data zones, in order. `indexBytes`: what the rows of
   * slots may take in memory; 0: all of them are resident.
   */
  constructor(geometry: Geometry, zoneOffsets: readonly number[], indexBytes = 0) {
    this.geometry = geometry;
    this.slotShift = geometry.slotShift;
    this.slotMask = 2 ** geometry.slotShift - 1;
    for (const offset of zoneOffsets) this.zones.push(new SlotZone(geometry, offset));
    const slots = geometry.slotsPerZone * zoneOffsets.length;
    const buckets = 2 ** Math.ceil(Math.log2(slots * 1.33 + 16));
    this.buckets = new Uint32Array(buckets).fill(NONE);
    this.bucketMask = buckets - 1;
    this.freeUnits = geometry.unitsPerZone * zoneOffsets.length;
    this.freeHoles = (geometry.slotsPerZone - geometry.unitsPerZone) * zoneOffsets.length;
    const pages = geometry.pagesPerZone * zoneOffsets.length;
    this.frames = indexBytes === 0 ? null : new IndexFrames(pages, indexBytes);
  }

  // cold: once per zone.
  /** Make the memory of a zone. */
  openZone(zone: SlotZone): void {
    zone.open(this.geometry.slotsPerZone, this.frames === null);
  }

  get unitsTotal(): number {
    return this.geometry.unitsPerZone * this.zones.length;
  }

  zoneOf(slot: number): SlotZone {
    return this.zones[slot >>> this.slotShift]!;
  }

  indexOf(slot: number): number {
    return slot & this.slotMask;
  }

  slotAt(zone: number, index: number): number {
    return ((zone << this.slotShift) | index) >>> 0;
  }

  /** True when a place read from disk names a unit that exists here. */
  isUnit(slot: number): boolean {
    return (
      slot >>> this.slotShift < this.zones.length && this.indexOf(slot) < this.geometry.unitsPerZone
    );
  }

  /** Device offset of a slot's unit. */
  unitOffset(slot: number): number {
    return this.zoneOf(slot).unitsOffset + this.indexOf(slot) * UNIT_SIZE;
  }

  stateOf(slot: number): SlotState {
    const zone = this.zoneOf(slot);
    return zone.opened ? zone.state[this.indexOf(slot)]! : SlotState.Free;
  }

  /* ------------------------------------------------------------------ rows */

  /** Index page of a slot, in the order of the shard's zones. */
  pageOf(slot: number): number {
    const page = Math.floor((slot & this.slotMask) / SLOTS_PER_PAGE);
    return (slot >>> this.slotShift) * this.geometry.pagesPerZone + page;
  }

  zoneOfPage(page: number): SlotZone {
    return this.zones[Math.floor(page / this.geometry.pagesPerZone)]!;
  }

  /** Where the page lies on the device. */
  pageOffset(page: number): number {
    return this.zoneOfPage(page).offset + (page % this.geometry.pagesPerZone) * BLOCK_SIZE;
  }

  /** crc of the page as it was written last; 0: never. */
  pageCrc(page: number): number {
    return this.zoneOfPage(page).pageCrc[page % this.geometry.pagesPerZone]!;
  }

  /**
   * Whether the row of a unit in use is not in memory: until it is loaded, versions and checksums of
   * its blocks can neither be asked for nor be set, but for all of them (`makeRow`).
   */
  isAbsent(slot: number): boolean {
    const { frames } = this;
    if (frames === null) return false;
    const zone = this.zoneOf(slot);
    const index = this.indexOf(slot);
    if ((zone.dataBits[index]! | zone.lostBits[index]!) === 0) return false;
    return !frames.knows(this.pageOf(slot), index % SLOTS_PER_PAGE);
  }

  /** A unit of the page of which the row is wanted and not in memory; NONE: all are that are wanted. */
  absentOf(page: number): number {
    const number = Math.floor(page / this.geometry.pagesPerZone);
    const first = this.slotAt(number, (page % this.geometry.pagesPerZone) * SLOTS_PER_PAGE);
    const zone = this.zones[number]!;
    for (let slot = first; slot < first + SLOTS_PER_PAGE; slot++) {
      if (zone.state[this.indexOf(slot)] === SlotState.Live && this.isAbsent(slot)) return slot;
    }
    return NONE;
  }

  /** All blocks of the unit are set next: whatever its row was does not matter. */
  makeRow(slot: number): void {
    if (this.frames !== null) this.frames.make(this.pageOf(slot), slot % SLOTS_PER_PAGE);
  }

  /** Raft index that wrote the block. When the index is paged: 0 of one that is neither data nor lost. */
  versionOfBlock(slot: number, bit: number): number {
    const zone = this.zoneOf(slot);
    const index = this.indexOf(slot);
    if (this.frames !== null) {
      if ((((zone.dataBits[index]! | zone.lostBits[index]!) >>> bit) & 1) === 0) return 0;
      return this.frames.version(this.pageOf(slot), slot % SLOTS_PER_PAGE, bit);
    }
    const at = index * BLOCKS_PER_UNIT + bit;
    return zone.versionLow[at]! + zone.versionHigh[at]! * TWO_32;
  }

  /** The client's crc32 of a block. */
  crcOfBlock(slot: number, bit: number): number {
    const zone = this.zoneOf(slot);
    const index = this.indexOf(slot);
    if (this.frames !== null) {
      if ((((zone.dataBits[index]! | zone.lostBits[index]!) >>> bit) & 1) === 0) return 0;
      const layer = this.layers.idOf(zone.layer[index]!);
      const block = zone.unit[index]! * BLOCKS_PER_UNIT + bit;
      return this.frames.crc(this.pageOf(slot), slot % SLOTS_PER_PAGE, layer, block);
    }
    return zone.crcs[index * BLOCKS_PER_UNIT + bit]!;
  }

  setBlock(slot: number, bit: number, version: number, crc: number): void {
    const zone = this.zoneOf(slot);
    const index = this.indexOf(slot);
    if (this.frames === null) {
      const at = index * BLOCKS_PER_UNIT + bit;
      zone.versionLow[at] = version >>> 0;
      zone.versionHigh[at] = (version / TWO_32) & 0xffff;
      zone.crcs[at] = crc;
    } else {
      const layer = this.layers.idOf(zone.layer[index]!);
      const block = zone.unit[index]! * BLOCKS_PER_UNIT + bit;
      this.frames.set(this.pageOf(slot), slot % SLOTS_PER_PAGE, layer, block, version, crc);
    }
    if (version > zone.version[index]!) zone.version[index] = version;
  }

  /** A block became zero: its row need not be here, the bits of the slot say so. */
  setZero(slot: number, bit: number, version: number): void {
    if (this.frames === null) {
      this.setBlock(slot, bit, version, 0);
      return;
    }
    const zone = this.zoneOf(slot);
    const index = this.indexOf(slot);
    if (version > zone.version[index]!) zone.version[index] = version;
  }

  /** The slot begins anew, without data; `version`: of the entry that takes it. */
  resetRow(slot: number, version: number): void {
    const zone = this.zoneOf(slot);
    const index = this.indexOf(slot);
    if (this.frames === null) {
      const from = index * BLOCKS_PER_UNIT;
      zone.crcs.fill(0, from, from + BLOCKS_PER_UNIT);
      zone.versionLow.fill(0, from, from + BLOCKS_PER_UNIT);
      zone.versionHigh.fill(0, from, from + BLOCKS_PER_UNIT);
    }
    zone.dataBits[index] = 0;
    zone.lostBits[index] = 0;
    zone.overlayBits[index] = 0;
    zone.version[index] = version;
  }

  /** Word 0 or 1 of a hole slot's mask. */
  holeWord(slot: number, word: number): number {
    return this.zoneOf(slot).holes[this.indexOf(slot) * 2 + word]!;
  }

  setHoleWord(slot: number, word: number, mask: number): void {
    const zone = this.zoneOf(slot);
    zone.openHoles();
    zone.holes[this.indexOf(slot) * 2 + word] = mask;
  }

  /* ------------------------------------------------------------ allocation */

  /** Take a free unit: its slot id, or NONE. */
  takeUnit(): number {
    if (this.freeUnits === 0) return NONE;
    const index = this.freeFrom(this.cursorIndex);
    if (index >= 0) return this.takeAt(index);
    this.cursorZone = this.nextZone();
    const first = this.freeFrom(0);
    assert(first >= 0, "SlotTable.takeUnit: the count of free units is wrong");
    return this.takeAt(first);
  }

  /** The first free unit of the zone of the cursor, from `index` on; -1: none. */
  private freeFrom(index: number): number {
    const zone = this.zones[this.cursorZone]!;
    if (zone.freeUnits === 0) return -1;
    this.openZone(zone);
    const units = this.geometry.unitsPerZone;
    for (let at = index; at < units; at++) if (zone.state[at] === SlotState.Free) return at;
    return -1;
  }

  private takeAt(index: number): number {
    this.cursorIndex = index + 1;
    return this.occupy(this.slotAt(this.cursorZone, index));
  }

  /**
   * The zone to go on with: the lowest that is in use and has a good part free, then one that was
   * never used, then any. What was written before is written anew at less cost: beneath a sparse
   * file there is space, and the index of the zone is in memory.
   */
  private nextZone(): number {
    const wanted = this.geometry.unitsPerZone * REUSED_SHARE;
    let fresh = -1;
    let any = -1;
    for (let at = 0; at < this.zones.length; at++) {
      const zone = this.zones[at]!;
      if (zone.freeUnits === 0) continue;
      if (zone.opened && zone.freeUnits >= wanted) return at;
      if (!zone.opened && fresh < 0) fresh = at;
      if (any < 0) any = at;
    }
    return fresh >= 0 ? fresh : any;
  }

  /** The unit behind `slot` when it is free, else any: runs stay contiguous while they can. */
  takeUnitAfter(slot: number): number {
    const index = this.indexOf(slot) + 1;
    if (index < this.geometry.unitsPerZone && this.zoneOf(slot).state[index] === SlotState.Free) {
      if (this.cursorIndex === index) this.cursorIndex = index + 1;
      return this.occupy(slot + 1);
    }
    return this.takeUnit();
  }

  /** Take a free slot for a hole: one without a unit, else one with. NONE when there is none. */
  takeHole(): number {
    if (this.freeHoles === 0) return this.takeUnit();
    const units = this.geometry.unitsPerZone;
    const slots = this.geometry.slotsPerZone;
    for (let step = 0; step <= this.zones.length; step++) {
      const zone = this.zones[this.holeCursor]!;
      if (zone.freeHoles > 0) {
        this.openZone(zone);
        for (let index = units; index < slots; index++) {
          if (zone.state[index] === SlotState.Free) {
            return this.occupy(this.slotAt(this.holeCursor, index));
          }
        }
      }
      this.holeCursor = (this.holeCursor + 1) % this.zones.length;
    }
    assert(false, "SlotTable.takeHole: the count of free hole slots is wrong");
    return NONE;
  }

  /** Mark a slot that a record names as taken (start-up). False when it is not free. */
  takeNamed(slot: number): boolean {
    const zone = this.zoneOf(slot);
    this.openZone(zone);
    if (zone.state[this.indexOf(slot)] !== SlotState.Free) return false;
    this.occupy(slot);
    return true;
  }

  private occupy(slot: number): number {
    const zone = this.zoneOf(slot);
    const index = this.indexOf(slot);
    if ((zone.flags[index]! & SlotFlag.Stale) !== 0) this.staleUnits -= 1;
    zone.state[index] = SlotState.Taken;
    zone.dataBits[index] = 0;
    zone.lostBits[index] = 0;
    zone.overlayBits[index] = 0;
    zone.version[index] = 0;
    zone.flags[index] = SlotFlag.None;
    if (index < this.geometry.unitsPerZone) {
      zone.freeUnits -= 1;
      this.freeUnits -= 1;
    } else {
      zone.freeHoles -= 1;
      this.freeHoles -= 1;
    }
    return slot;
  }

  /** Put a slot that is in no chain into quarantine; `version`: index of the freeing entry. */
  quarantine(slot: number, version: number): void {
    const zone = this.zoneOf(slot);
    const index = this.indexOf(slot);
    assert(
      zone.state[index] === SlotState.Taken,
      "SlotTable.quarantine: the slot is in use or free",
    );
    zone.state[index] = SlotState.Quarantined;
    if (version > zone.version[index]!) zone.version[index] = version;
    this.quarantined += 1;
    this.markDirty(slot);
  }

  /** Redo found that a quarantined slot is used after all (start-up). */
  unquarantine(slot: number): void {
    const zone = this.zoneOf(slot);
    const index = this.indexOf(slot);
    assert(zone.state[index] === SlotState.Quarantined, "SlotTable.unquarantine: the slot is not");
    zone.state[index] = SlotState.Taken;
    this.quarantined -= 1;
  }

  /** R5 is met: the slot may be used again. */
  release(slot: number): void {
    const zone = this.zoneOf(slot);
    const index = this.indexOf(slot);
    assert(
      zone.state[index] === SlotState.Quarantined,
      "SlotTable.release: the slot is not quarantined",
    );
    this.quarantined -= 1;
    this.makeFree(zone, index);
    if (index < this.geometry.unitsPerZone) this.markStale(zone, index);
  }

  /** What a free unit held is still allocated beneath. */
  markStale(zone: SlotZone, index: number): void {
    assert(zone.state[index] === SlotState.Free, "SlotTable.markStale: the unit is not free");
    if ((zone.flags[index]! & SlotFlag.Stale) === 0) this.staleUnits += 1;
    zone.flags[index] = zone.flags[index]! | SlotFlag.Stale;
    zone.holdsStale = true;
    this.holdsStale = true;
  }

  /** Keep a stale unit from being used while it is discarded. */
  beginDiscard(zone: SlotZone, index: number): void {
    assert(zone.state[index] === SlotState.Free, "SlotTable.beginDiscard: the unit is not free");
    zone.state[index] = SlotState.Discarding;
    assert((zone.flags[index]! & SlotFlag.Stale) !== 0, "SlotTable.beginDiscard: it is not stale");
    zone.flags[index] = zone.flags[index]! & ~SlotFlag.Stale;
    this.staleUnits -= 1;
    zone.freeUnits -= 1;
    this.freeUnits -= 1;
    this.discarding += 1;
  }

  /** It may be used again. */
  endDiscard(zone: SlotZone, index: number): void {
    assert(zone.state[index] === SlotState.Discarding, "SlotTable.endDiscard: it is not discarded");
    this.discarding -= 1;
    this.makeFree(zone, index);
  }

  /** Give back a slot that nothing on disk ever named. */
  untake(slot: number): void {
    const zone = this.zoneOf(slot);
    const index = this.indexOf(slot);
    assert(zone.state[index] === SlotState.Taken, "SlotTable.untake: the slot is not taken");
    this.makeFree(zone, index);
  }

  private makeFree(zone: SlotZone, index: number): void {
    zone.state[index] = SlotState.Free;
    zone.version[index] = 0;
    if (index < this.geometry.unitsPerZone) {
      zone.freeUnits += 1;
      this.freeUnits += 1;
    } else {
      zone.freeHoles += 1;
      this.freeHoles += 1;
    }
  }

  /* ---------------------------------------------------------------- chains */

  /** Newest slot of a unit, Forming or Live; NONE when there is none. */
  newest(layer: number, unit: number): number {
    return this.lookup(layer, unit, NO_HOLE);
  }

  /** Newest slot of a unit with snapSeq ≤ `snapSeq`, or NONE. */
  newestUpTo(layer: number, unit: number, snapSeq: number): number {
    let slot = this.lookup(layer, unit, NO_HOLE);
    while (slot !== NONE && this.zoneOf(slot).snapSeq[this.indexOf(slot)]! > snapSeq) {
      slot = this.zoneOf(slot).older[this.indexOf(slot)]!;
    }
    return slot;
  }

  /** The slot of exactly this snapSeq, or NONE. */
  exact(layer: number, unit: number, snapSeq: number): number {
    const slot = this.newestUpTo(layer, unit, snapSeq);
    if (slot === NONE) return NONE;
    return this.zoneOf(slot).snapSeq[this.indexOf(slot)] === snapSeq ? slot : NONE;
  }

  olderOf(slot: number): number {
    return this.zoneOf(slot).older[this.indexOf(slot)]!;
  }

  snapSeqOf(slot: number): number {
    return this.zoneOf(slot).snapSeq[this.indexOf(slot)]!;
  }

  /** snapSeq of the newest hole over a unit up to `snapSeq`, or -1. */
  holeUpTo(layer: number, unit: number, snapSeq: number, row: number): number {
    if (!this.layers.hasHoles(layer)) return -1;
    const bit = unit % UNITS_PER_HOLE;
    let slot = this.lookup(layer, unit - bit, row);
    while (slot !== NONE) {
      const zone = this.zoneOf(slot);
      const index = this.indexOf(slot);
      const at = index * 2 + (bit >>> 5);
      if (zone.snapSeq[index]! <= snapSeq && ((zone.holes[at]! >>> (bit & 31)) & 1) === 1) {
        return zone.snapSeq[index]!;
      }
      slot = zone.older[index]!;
    }
    return -1;
  }

  /** The hole slot of exactly this snapSeq that covers a unit, or NONE. */
  exactHole(layer: number, unit: number, snapSeq: number, row: number): number {
    if (!this.layers.hasHoles(layer)) return NONE;
    let slot = this.lookup(layer, unit - (unit % UNITS_PER_HOLE), row);
    while (slot !== NONE && this.snapSeqOf(slot) > snapSeq) slot = this.olderOf(slot);
    return slot !== NONE && this.snapSeqOf(slot) === snapSeq ? slot : NONE;
  }

  /** Give a taken slot its key and put it into its chain as Forming, Live or Hole. */
  insert(
    slot: number,
    state: SlotState,
    layer: number,
    unit: number,
    snapSeq: number,
    row: number,
  ): void {
    const zone = this.zoneOf(slot);
    const index = this.indexOf(slot);
    assert(zone.state[index] === SlotState.Taken, "SlotTable.insert: the slot is not taken");
    const hole = state === SlotState.Hole;
    zone.state[index] = state;
    zone.layer[index] = layer;
    zone.unit[index] = unit;
    zone.snapSeq[index] = snapSeq;
    zone.row[index] = row;
    this.layers.addSlot(layer, hole);
    if (!hole) {
      if (row >= this.rowUnits.length) this.growRows(row);
      this.rowUnits[row] = this.rowUnits[row]! + 1;
    }
    const bucket = this.bucketOf(layer, unit, hole ? row : NO_HOLE);
    const head = this.buckets[bucket]!;
    if (head === NONE || this.snapSeqOf(head) < snapSeq) {
      zone.older[index] = head;
      this.buckets[bucket] = slot;
      return;
    }
    let before = head;
    let after = this.olderOf(before);
    while (after !== NONE && this.snapSeqOf(after) > snapSeq) {
      before = after;
      after = this.olderOf(after);
    }
    assert(this.snapSeqOf(before) !== snapSeq, "SlotTable.insert: the key is there already");
    assert(after === NONE || this.snapSeqOf(after) !== snapSeq, "SlotTable.insert: key twice");
    zone.older[index] = after;
    this.zoneOf(before).older[this.indexOf(before)] = slot;
  }

  /** Take a slot out of its chain; it is Taken then. */
  remove(slot: number): void {
    const zone = this.zoneOf(slot);
    const index = this.indexOf(slot);
    const state = zone.state[index]!;
    const hole = state === SlotState.Hole;
    assert(
      hole || state === SlotState.Live || state === SlotState.Forming,
      "SlotTable.remove: no key",
    );
    const layer = zone.layer[index]!;
    const bucket = this.bucketOf(layer, zone.unit[index]!, hole ? zone.row[index]! : NO_HOLE);
    const older = zone.older[index]!;
    let at = this.buckets[bucket]!;
    if (at === slot) {
      if (older === NONE) this.dropBucket(bucket);
      else this.buckets[bucket] = older;
    } else {
      while (this.olderOf(at) !== slot) at = this.olderOf(at);
      this.zoneOf(at).older[this.indexOf(at)] = older;
    }
    zone.state[index] = SlotState.Taken;
    if (this.frames !== null) this.frames.forget(this.pageOf(slot), slot % SLOTS_PER_PAGE);
    if (!hole) this.rowUnits[zone.row[index]!] = this.rowUnits[zone.row[index]!]! - 1;
    this.layers.removeSlot(layer, hole);
  }

  /** Units of a group's replica; cold. */
  unitsOfRow(row: number): number {
    return row < this.rowUnits.length ? this.rowUnits[row]! : 0;
  }

  // cold: doubles when a row is beyond it.
  private growRows(row: number): void {
    const grown = new Uint32Array(2 ** Math.ceil(Math.log2(row + 1)));
    grown.set(this.rowUnits);
    this.rowUnits = grown;
  }

  private lookup(layer: number, unit: number, holeRow: number): number {
    return this.buckets[this.bucketOf(layer, unit, holeRow)]!;
  }

  /** The bucket that holds the key, or the empty one where it belongs. */
  private bucketOf(layer: number, unit: number, holeRow: number): number {
    let bucket = hashOf(layer, unit, holeRow) & this.bucketMask;
    for (;;) {
      const slot = this.buckets[bucket]!;
      if (slot === NONE) return bucket;
      const zone = this.zones[slot >>> this.slotShift]!;
      const index = slot & this.slotMask;
      if (zone.unit[index] === unit && zone.layer[index] === layer) {
        const hole = zone.state[index] === SlotState.Hole;
        if ((hole ? zone.row[index]! : NO_HOLE) === holeRow) return bucket;
      }
      bucket = (bucket + 1) & this.bucketMask;
    }
  }

  /** Empty a bucket and shift back what probed past it. */
  private dropBucket(empty: number): void {
    let hollow = empty;
    let bucket = empty;
    for (;;) {
      bucket = (bucket + 1) & this.bucketMask;
      const slot = this.buckets[bucket]!;
      if (slot === NONE) break;
      const zone = this.zoneOf(slot);
      const index = this.indexOf(slot);
      const holeRow = zone.state[index] === SlotState.Hole ? zone.row[index]! : NO_HOLE;
      const home = hashOf(zone.layer[index]!, zone.unit[index]!, holeRow) & this.bucketMask;
      const distance = (bucket - home) & this.bucketMask;
      if (distance < ((bucket - hollow) & this.bucketMask)) continue;
      this.buckets[hollow] = slot;
      hollow = bucket;
    }
    this.buckets[hollow] = NONE;
  }

  /* ----------------------------------------------------------------- pages */

  /** The page of a slot has to be written. */
  markDirty(slot: number): void {
    const zoneNumber = slot >>> this.slotShift;
    const page = Math.floor((slot & this.slotMask) / SLOTS_PER_PAGE);
    const zone = this.zones[zoneNumber]!;
    if (zone.pageDirty[page] === 1) return;
    zone.pageDirty[page] = 1;
    if (this.dirtyCount === this.dirtyPages.length) this.growDirty();
    this.dirtyPages[this.dirtyCount] = zoneNumber * this.geometry.pagesPerZone + page;
    this.dirtyCount += 1;
  }

  // cold: doubles when it is full.
  private growDirty(): void {
    const grown = new Uint32Array(this.dirtyPages.length * 2);
    grown.set(this.dirtyPages);
    this.dirtyPages = grown;
  }
}

function hashOf(layer: number, unit: number, holeRow: number): number {
  let hash = Math.imul(unit ^ Math.imul(holeRow + 1, 0x5bd1_e995), 0x9e37_79b1);
  hash = Math.imul((hash ^ (hash >>> 15)) + layer, 0x85eb_ca77);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2_ae3d);
  return (hash ^ (hash >>> 16)) >>> 0;
}
