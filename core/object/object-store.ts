// data path
import { assert } from "../base/assert.ts";
import { BLOCKS_PER_UNIT } from "../base/units.ts";
import {
  NONE,
  type Quarantine,
  SlotFlag,
  SlotState,
  type SlotTable,
  UNITS_PER_HOLE,
} from "../store/store.ts";
import { GoneLayers, isKeyed } from "./gone-layers.ts";
import { SNAP_SEQ_HEAD } from "./ops.ts";
import { Overlay, OverlayKind } from "./overlay.ts";
import { SlotQueue } from "./slot-queue.ts";

/** Where the bytes of a block are. */
export enum SourceKind {
  Zero = 0,
  /** In the log, at `position`. */
  Log = 1,
  /** In unit `slot`. */
  Home = 2,
  Lost = 3,
}

/** The head of the log as quarantine needs it; the shard's table of batches. */
export interface SeqSource {
  readonly nextSeq: number;
}

const ALL_BITS = 0xffff;
const PARENTS_MAX = 16;

/**
 * Layers, units and blocks of one shard, in memory: what applying an entry changes and what a read
 * asks (`store.md`, write path 5 and 6).
 *
 * A unit is complete: each of its blocks is data, zero or lost; a lookup never goes below a Live
 * slot. Only a Forming slot (the first write to a unit at a new snapSeq, over an older version or a
 * parent) shows what is below, until the mover has copied it.
 */
export class ObjectStore {
  readonly slots: SlotTable;
  readonly overlay: Overlay;
  /** Slots with blocks in the overlay, oldest first: the mover's work. */
  readonly dirty = new SlotQueue();
  /** Slots that emptied above something older, each once: `freeEmptied` has the why. */
  readonly emptied = new SlotQueue();
  private readonly quarantine: Quarantine;
  private readonly seqs: SeqSource;
  /** Layers that are deleted and not yet freed. */
  readonly gone: GoneLayers = new GoneLayers();

  /* Answer of `blockAt`. */
  sourceKind: SourceKind = SourceKind.Zero;
  sourceSlot: number = NONE;
  sourcePosition = 0;
  sourceVersion = 0;
  sourceCrc = 0;
  /** The block is in `sourceSlot`, and that slot's row is not in memory: no version, no checksum. */
  sourceAbsent = false;

  /* Set by `openUnit`. */
  private layer: number = NONE;
  private unit = 0;
  private row = 0;
  private firstSlot: number = NONE;
  private firstHole = -1;

  constructor(slots: SlotTable, quarantine: Quarantine, seqs: SeqSource, logBlocks: number) {
    this.slots = slots;
    this.quarantine = quarantine;
    this.seqs = seqs;
    this.overlay = new Overlay(Math.min(logBlocks, 16_384));
  }

  /* ---------------------------------------------------------------- lookup */

  /** Begin looking at a unit of a layer as of `snapSeq`; then `blockAt`. */
  openUnit(layer: number, unit: number, snapSeq: number, row: number): void {
    const found = this.slots.layers.find(layer);
    const handle = this.gone.has(row, layer) ? NONE : found;
    this.layer = handle;
    this.unit = unit;
    this.row = row;
    this.firstSlot = NONE;
    this.firstHole = -1;
    if (handle === NONE) return;
    this.firstSlot = this.slots.newestUpTo(handle, unit, snapSeq);
    this.firstHole = this.slots.holeUpTo(handle, unit, snapSeq, row);
  }

  /** Row of the replica that holds the unit, or 0 when nothing of it shows. */
  rowOfUnit(layer: number, unit: number, snapSeq: number): number {
    let handle = this.slots.layers.find(layer);
    let limit = snapSeq;
    while (handle !== NONE) {
      const slot = this.slots.newestUpTo(handle, unit, limit);
      if (slot !== NONE) return this.slots.zoneOf(slot).row[this.slots.indexOf(slot)]!;
      limit = this.slots.layers.parentSnapSeqOf(handle);
      handle = this.slots.layers.parentOf(handle);
    }
    return 0;
  }

  /** Find block `bit` of the open unit: fills the `source…` fields. */
  blockAt(bit: number): void {
    this.sourceKind = SourceKind.Zero;
    this.sourceSlot = NONE;
    this.sourceVersion = 0;
    this.sourceCrc = 0;
    this.sourceAbsent = false;
    let layer = this.layer;
    let slot = this.firstSlot;
    let hole = this.firstHole;
    for (let depth = 0; layer !== NONE; depth++) {
      assert(depth <= PARENTS_MAX, "ObjectStore: too many parents");
      while (slot !== NONE) {
        const snapSeq = this.slots.snapSeqOf(slot);
        if (hole > snapSeq) return;
        if (this.blockIn(slot, bit)) return;
        if (hole === snapSeq) return;
        slot = this.slots.olderOf(slot);
      }
      if (hole >= 0) return;
      const parent = this.slots.layers.parentOf(layer);
      if (parent === NONE) return;
      const snapSeq = this.slots.layers.parentSnapSeqOf(layer);
      layer = parent;
      slot = this.slots.newestUpTo(layer, this.unit, snapSeq);
      hole = this.slots.holeUpTo(layer, this.unit, snapSeq, this.row);
    }
  }

  /** True when the slot itself answers for the block. */
  private blockIn(slot: number, bit: number): boolean {
    const zone = this.slots.zoneOf(slot);
    const index = this.slots.indexOf(slot);
    if (((zone.overlayBits[index]! >>> bit) & 1) === 1) {
      const at = this.overlay.find(slot, bit);
      assert(at >= 0, "ObjectStore: overlay bit without entry");
      const kind = this.overlay.kind(at);
      this.sourceSlot = slot;
      this.sourceVersion = this.overlay.version(at);
      if (kind === OverlayKind.Data) {
        this.sourceKind = SourceKind.Log;
        this.sourcePosition = this.overlay.position(at);
        this.sourceCrc = this.overlay.crc(at);
      } else if (kind === OverlayKind.Lost) this.sourceKind = SourceKind.Lost;
      return true;
    }
    if (zone.state[index] === SlotState.Forming) return false;
    this.sourceSlot = slot;
    if (((zone.lostBits[index]! >>> bit) & 1) === 1) this.sourceKind = SourceKind.Lost;
    else if (((zone.dataBits[index]! >>> bit) & 1) === 1) this.sourceKind = SourceKind.Home;
    if (this.sourceKind !== SourceKind.Zero && this.slots.isAbsent(slot)) {
      this.sourceAbsent = true;
      return true;
    }
    this.sourceVersion = this.slots.versionOfBlock(slot, bit);
    if (this.sourceKind === SourceKind.Home) this.sourceCrc = this.slots.crcOfBlock(slot, bit);
    return true;
  }

  /**
   * The complete slot that a Forming slot stands upon: NONE when what is below is zero, -1 when it
   * is not ready to be copied (Forming itself, or with blocks in the overlay).
   */
  baseOf(forming: number): number {
    const zone = this.slots.zoneOf(forming);
    const index = this.slots.indexOf(forming);
    let layer = zone.layer[index]!;
    const unit = zone.unit[index]!;
    const row = zone.row[index]!;
    let hole = this.slots.holeUpTo(layer, unit, zone.snapSeq[index]!, row);
    if (hole === zone.snapSeq[index]) return NONE;
    let slot = zone.older[index]!;
    for (;;) {
      if (slot !== NONE) {
        if (hole > this.slots.snapSeqOf(slot)) return NONE;
        const ready =
          this.slots.stateOf(slot) === SlotState.Live &&
          this.slots.zoneOf(slot).overlayBits[this.slots.indexOf(slot)] === 0;
        return ready ? slot : -1;
      }
      if (hole >= 0) return NONE;
      const parent = this.slots.layers.parentOf(layer);
      if (parent === NONE) return NONE;
      const snapSeq = this.slots.layers.parentSnapSeqOf(layer);
      layer = parent;
      slot = this.slots.newestUpTo(layer, unit, snapSeq);
      hole = this.slots.holeUpTo(layer, unit, snapSeq, row);
    }
  }

  /** True when something older than (layer, snapSeq) may show through: a version, or a parent's. */
  showsThrough(handle: number, unit: number, snapSeq: number, row: number): boolean {
    let layer = handle;
    let limit = snapSeq;
    for (;;) {
      const slot = this.slots.newestUpTo(layer, unit, limit);
      const hole = this.slots.holeUpTo(layer, unit, limit, row);
      if (slot !== NONE) return hole <= this.slots.snapSeqOf(slot);
      if (hole >= 0) return false;
      const parent = this.slots.layers.parentOf(layer);
      if (parent === NONE) return false;
      limit = this.slots.layers.parentSnapSeqOf(layer);
      layer = parent;
    }
  }

  /**
   * Whether the unit is another group's: a unit is of one group for good, and so is its parent's. A
   * zero is told to every group of the pool with the whole range, when an image shrinks; each has
   * only its own part of it.
   */
  isOthers(handle: number, unit: number, row: number): boolean {
    let layer = handle;
    for (let depth = 0; layer !== NONE && depth <= PARENTS_MAX; depth++) {
      const slot = this.slots.newestUpTo(layer, unit, SNAP_SEQ_HEAD);
      if (slot !== NONE) return this.slots.zoneOf(slot).row[this.slots.indexOf(slot)]! !== row;
      layer = this.slots.layers.parentOf(layer);
    }
    return false;
  }

  /* ----------------------------------------------------------------- apply */

  /** The slot that takes blocks of (layer, unit, snapSeq); made when there is none. */
  slotForWrite(row: number, layer: number, unit: number, snapSeq: number, version: number): number {
    const handle = this.slots.layers.obtain(layer);
    const known = this.slots.exact(handle, unit, snapSeq);
    if (known !== NONE) {
      const owner = this.slots.zoneOf(known).row[this.slots.indexOf(known)]!;
      assert(owner === row, "ObjectStore.slotForWrite: the unit is another group's");
      return known;
    }
    const hole = this.slots.holeUpTo(handle, unit, snapSeq, row) === snapSeq;
    const forming = !hole && this.showsThrough(handle, unit, snapSeq, row);
    const slot = this.slots.takeUnit();
    assert(slot !== NONE, "ObjectStore: reserved space is gone");
    const state = forming ? SlotState.Forming : SlotState.Live;
    this.slots.insert(slot, state, handle, unit, snapSeq, row);
    this.slots.resetRow(slot, version);
    if (!forming) this.slots.markDirty(slot);
    return slot;
  }

  /** A block whose bytes lie in the log. */
  putBlock(slot: number, bit: number, position: number, version: number, crc: number): void {
    this.overlay.put(slot, bit, OverlayKind.Data, position, version, crc);
    this.addToOverlay(slot, bit);
  }

  /**
   * A taken, directly written unit becomes the newest; `setBlock` for each block follows. False: redo,
   * and the index is paged: a page on the device says so already, or what came of it later, which redo
   * does again. Rows that were written need no memory then.
   */
  putDirect(
    row: number,
    slot: number,
    layer: number,
    unit: number,
    snapSeq: number,
    version: number,
  ): boolean {
    const state = this.slots.stateOf(slot);
    if (state === SlotState.Live && this.isPaged(row, slot, layer, unit, snapSeq, version)) {
      this.dropOverlay(slot, ALL_BITS);
      this.slots.zoneOf(slot).dataBits[this.slots.indexOf(slot)] = ALL_BITS;
      this.slots.markDirty(slot);
      return false;
    }
    const known = this.slots.layers.find(layer);
    const before = known === NONE ? NONE : this.slots.exact(known, unit, snapSeq);
    if (before !== slot && this.isRedone(before, row, version)) {
      this.dropOverlay(before, ALL_BITS);
      this.passOver(slot, row, version);
      return false;
    }
    // Redo: a page that was written later than the checkpoint shows the unit in use already.
    if (state === SlotState.Live) this.detach(slot);
    else if (state === SlotState.Quarantined) this.slots.unquarantine(slot);
    if (before !== NONE && before !== slot) this.free(before, version);
    // Freeing the last slot of a layer gives its handle away.
    const handle = this.slots.layers.obtain(layer);
    this.slots.insert(slot, SlotState.Live, handle, unit, snapSeq, row);
    this.slots.resetRow(slot, version);
    this.slots.zoneOf(slot).dataBits[this.slots.indexOf(slot)] = ALL_BITS;
    this.slots.makeRow(slot);
    this.slots.markDirty(slot);
    return true;
  }

  // cold: redo.
  /** A unit that was written and freed again by entries that redo comes to waits in quarantine. */
  private passOver(slot: number, row: number, version: number): void {
    const state = this.slots.stateOf(slot);
    if (state === SlotState.Quarantined) return;
    if (state === SlotState.Live) this.detach(slot);
    this.slots.zoneOf(slot).row[this.slots.indexOf(slot)] = row;
    this.quarantine.put(slot, version, this.seqs.nextSeq);
  }

  /** Whether a page on the device has the row of a unit as of an entry, or later. */
  private isPaged(
    row: number,
    slot: number,
    layer: number,
    unit: number,
    snapSeq: number,
    version: number,
  ): boolean {
    if (this.slots.frames === null) return false;
    const zone = this.slots.zoneOf(slot);
    const index = this.slots.indexOf(slot);
    if (zone.unit[index] !== unit || zone.snapSeq[index] !== snapSeq) return false;
    if (zone.row[index] !== row || this.slots.layers.idOf(zone.layer[index]!) !== layer)
      return false;
    // A mark of loss is not in the log: until it is in a checkpoint a start takes it back.
    if (zone.lostBits[index] !== 0) return false;
    return zone.version[index]! >= version;
  }

  /**
   * Whether redo comes, behind `version`, to the entry that wrote the whole unit `slot`, and a page shows
   * what came of that: then a start needs nothing of what the unit of the layer was before.
   */
  private isRedone(slot: number, row: number, version: number): boolean {
    const { redoUnits } = this.slots;
    if (slot === NONE || redoUnits.size === 0) return false;
    const redone = redoUnits.get(slot);
    if (redone === undefined || redone <= version) return false;
    const zone = this.slots.zoneOf(slot);
    const index = this.slots.indexOf(slot);
    if (zone.state[index] !== SlotState.Live || zone.row[index] !== row) return false;
    return zone.version[index]! >= redone;
  }

  /** Blocks `mask` of a unit become zero. `position`: a log block of the batch that says so. */
  zero(
    row: number,
    layer: number,
    unit: number,
    mask: number,
    snapSeq: number,
    version: number,
    position: number,
  ): void {
    const handle = this.slots.layers.find(layer);
    if (handle === NONE || this.isOthers(handle, unit, row)) return;
    const slot = this.slots.exact(handle, unit, snapSeq);
    if (slot === NONE) {
      const hidden = this.slots.holeUpTo(handle, unit, snapSeq, row) === snapSeq;
      if (hidden || !this.showsThrough(handle, unit, snapSeq, row)) return;
      if (mask === ALL_BITS) this.setHole(row, handle, unit, snapSeq, version);
      else {
        const forming = this.slotForWrite(row, layer, unit, snapSeq, version);
        this.zeroInOverlay(forming, mask, version, position);
      }
      return;
    }
    if (mask === ALL_BITS) {
      if (this.isRedone(slot, row, version)) {
        this.dropOverlay(slot, ALL_BITS);
        return;
      }
      this.free(slot, version);
      if (this.showsThrough(handle, unit, snapSeq, row)) {
        this.setHole(row, handle, unit, snapSeq, version);
      }
      return;
    }
    if (this.slots.stateOf(slot) === SlotState.Forming) {
      this.zeroInOverlay(slot, mask, version, position);
    } else this.zeroLive(slot, handle, mask, version);
  }

  private zeroLive(slot: number, handle: number, mask: number, version: number): void {
    const zone = this.slots.zoneOf(slot);
    const index = this.slots.indexOf(slot);
    this.dropOverlay(slot, mask);
    zone.dataBits[index] = zone.dataBits[index]! & ~mask;
    zone.lostBits[index] = zone.lostBits[index]! & ~mask;
    for (let bit = 0; bit < BLOCKS_PER_UNIT; bit++) {
      if (((mask >>> bit) & 1) === 1) this.slots.setZero(slot, bit, version);
    }
    this.slots.markDirty(slot);
    if (zone.dataBits[index] !== 0 || zone.overlayBits[index] !== 0) return;
    if (zone.lostBits[index] !== 0) return;
    const unit = zone.unit[index]!;
    const snapSeq = zone.snapSeq[index]!;
    const row = zone.row[index]!;
    if (this.isRedone(slot, row, version)) return;
    if (this.showsThrough(handle, unit, snapSeq - 1, row)) {
      this.setHole(row, handle, unit, snapSeq, version);
      this.queueEmptied(slot);
    } else if (this.hasOwnHole(slot)) this.queueEmptied(slot);
    else this.free(slot, version);
  }

  private queueEmptied(slot: number): void {
    const zone = this.slots.zoneOf(slot);
    const index = this.slots.indexOf(slot);
    const flags = zone.flags[index]!;
    if ((flags & SlotFlag.Emptied) !== 0) return;
    zone.flags[index] = flags | SlotFlag.Emptied;
    this.emptied.push(slot);
  }

  /**
   * Free the first `count` slots that emptied, but those that were written again. To be called when
   * the holes that they had then are in a checkpoint. True when there were some.
   *
   * A slot that emptied bit by bit was freed at once; its page reached the disk, that of its hole did
   * not, and the power failed. Redo knew the last of the zeros alone: the others were in the slot, and
   * what is older showed in their place. A unit that is zeroed as a whole needs no such wait: its
   * entry says all.
   */
  freeEmptied(count: number): boolean {
    let freed = false;
    for (let left = count; left > 0; left--) {
      const slot = this.emptied.shift();
      const zone = this.slots.zoneOf(slot);
      const index = this.slots.indexOf(slot);
      zone.flags[index] = zone.flags[index]! & ~SlotFlag.Emptied;
      if (!this.isEmpty(slot) || !this.hasOwnHole(slot)) continue;
      this.free(slot, 0);
      freed = true;
    }
    return freed;
  }

  // cold: once per start.
  /** Find slots that emptied before this start: their holes are there. */
  findEmptied(): void {
    for (let number = 0; number < this.slots.zones.length; number++) {
      const zone = this.slots.zones[number]!;
      if (!zone.opened) continue;
      for (let index = 0; index < this.slots.geometry.unitsPerZone; index++) {
        const slot = this.slots.slotAt(number, index);
        if (this.isEmpty(slot) && this.hasOwnHole(slot)) this.queueEmptied(slot);
      }
    }
  }

  private isEmpty(slot: number): boolean {
    const zone = this.slots.zoneOf(slot);
    const index = this.slots.indexOf(slot);
    if (zone.state[index] !== SlotState.Live) return false;
    return (zone.dataBits[index]! | zone.lostBits[index]! | zone.overlayBits[index]!) === 0;
  }

  /** Whether a hole of the same key says that the unit is zero. */
  private hasOwnHole(slot: number): boolean {
    const zone = this.slots.zoneOf(slot);
    const index = this.slots.indexOf(slot);
    const snapSeq = zone.snapSeq[index]!;
    const { layer, unit, row } = zone;
    const hole = this.slots.holeUpTo(layer[index]!, unit[index]!, snapSeq, row[index]!);
    return hole === snapSeq;
  }

  /** Whether a slot may be freed in the background: who writes to it may need another one. */
  mayGo(slot: number): boolean {
    const flags = this.slots.zoneOf(slot).flags[this.slots.indexOf(slot)]!;
    return (flags & SlotFlag.Emptied) !== 0;
  }

  private zeroInOverlay(slot: number, mask: number, version: number, position: number): void {
    for (let bit = 0; bit < BLOCKS_PER_UNIT; bit++) {
      if (((mask >>> bit) & 1) === 0) continue;
      this.overlay.put(slot, bit, OverlayKind.Zero, position, version, 0);
      this.addToOverlay(slot, bit);
    }
  }

  private setHole(
    row: number,
    handle: number,
    unit: number,
    snapSeq: number,
    version: number,
  ): void {
    let slot = this.slots.exactHole(handle, unit, snapSeq, row);
    const bit = unit % UNITS_PER_HOLE;
    if (slot === NONE) {
      slot = this.slots.takeHole();
      assert(slot !== NONE, "ObjectStore: no slot for a hole");
      this.slots.insert(slot, SlotState.Hole, handle, unit - bit, snapSeq, row);
      this.slots.resetRow(slot, version);
      this.slots.setHoleWord(slot, 0, 0);
      this.slots.setHoleWord(slot, 1, 0);
    }
    const zone = this.slots.zoneOf(slot);
    const index = this.slots.indexOf(slot);
    const mask = this.slots.holeWord(slot, bit >>> 5) | (1 << (bit & 31));
    this.slots.setHoleWord(slot, bit >>> 5, mask >>> 0);
    if (version > zone.version[index]!) zone.version[index] = version;
    this.slots.markDirty(slot);
  }

  /**
   * The block is lost on all replicas: refuse it from now on. False when it has another version.
   *
   * No checkpoint waits for the mark: until it is at home a crash takes it back, and who reads the
   * block finds out again.
   */
  markLost(layer: number, block: number, snapSeq: number, row: number, version: number): boolean {
    const bit = block % BLOCKS_PER_UNIT;
    this.openUnit(layer, Math.floor(block / BLOCKS_PER_UNIT), snapSeq, row);
    this.blockAt(bit);
    assert(!this.sourceAbsent, "ObjectStore.markLost: the row is not here");
    if (this.sourceSlot === NONE || this.sourceVersion !== version) return false;
    const slot = this.sourceSlot;
    const at = this.overlay.find(slot, bit);
    const position = at >= 0 ? this.overlay.position(at) : Number.MAX_SAFE_INTEGER;
    this.putLost(slot, bit, position, version);
    return true;
  }

  /** A block of which no replica has a whole copy. `position`: as of `zero`. */
  putLost(slot: number, bit: number, position: number, version: number): void {
    this.overlay.put(slot, bit, OverlayKind.Lost, position, version, 0);
    this.addToOverlay(slot, bit);
    this.slots.zoneOf(slot).holdsLost = true;
  }

  /** Take a slot out of use: its overlay goes, its unit waits in quarantine (R5). */
  free(slot: number, version: number): void {
    this.detach(slot);
    this.quarantine.put(slot, version, this.seqs.nextSeq);
  }

  private detach(slot: number): void {
    const zone = this.slots.zoneOf(slot);
    this.dropOverlay(slot, zone.overlayBits[this.slots.indexOf(slot)]!);
    this.slots.remove(slot);
  }

  private dropOverlay(slot: number, mask: number): void {
    const zone = this.slots.zoneOf(slot);
    const index = this.slots.indexOf(slot);
    const bits = zone.overlayBits[index]! & mask;
    if (bits === 0) return;
    for (let bit = 0; bit < BLOCKS_PER_UNIT; bit++) {
      if (((bits >>> bit) & 1) === 1) this.overlay.remove(slot, bit);
    }
    zone.overlayBits[index] = zone.overlayBits[index]! & ~mask;
  }

  private addToOverlay(slot: number, bit: number): void {
    const zone = this.slots.zoneOf(slot);
    const index = this.slots.indexOf(slot);
    zone.overlayBits[index] = zone.overlayBits[index]! | (1 << bit);
    this.queue(slot);
  }

  /** Put a slot with blocks in the overlay into the mover's queue, once. */
  queue(slot: number): void {
    const zone = this.slots.zoneOf(slot);
    const index = this.slots.indexOf(slot);
    const flags = zone.flags[index]!;
    if ((flags & SlotFlag.Queued) !== 0) return;
    zone.flags[index] = flags | SlotFlag.Queued;
    this.dirty.push(slot);
  }

  /* -------------------------------------------------------------- removed */

  /** Free everything of a removed replica; `row` may be given to another one then. Cold. */
  freeRow(row: number): void {
    for (let zoneNumber = 0; zoneNumber < this.slots.zones.length; zoneNumber++) {
      const zone = this.slots.zones[zoneNumber]!;
      if (!zone.opened) continue;
      for (let index = 0; index < this.slots.geometry.slotsPerZone; index++) {
        if (zone.row[index] !== row) continue;
        if (isKeyed(zone.state[index]!)) this.free(this.slots.slotAt(zoneNumber, index), 0);
        // The next replica of the row knows nothing of this one's commit index (R2).
        if (zone.state[index] === SlotState.Quarantined) zone.version[index] = 0;
      }
    }
    this.gone.forget(row);
  }
}
