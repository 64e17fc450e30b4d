// data path
import { BLOCKS_PER_UNIT } from "../base/units.ts";
import type { Geometry } from "./geometry.ts";

/** What a slot is in memory. On disk only Free, Data and Hole exist (`slot-codec.ts`). */
export enum SlotState {
  Free = 0,
  /** Named by the place of an entry that is not applied: written directly, nobody's yet. */
  Taken = 1,
  /** Has a key and blocks in the overlay, but no complete unit: not on disk yet. */
  Forming = 2,
  Live = 3,
  /** A hole slot: mask of 64 units. */
  Hole = 4,
  /** Freed, and not to be used again before R5 allows it. */
  Quarantined = 5,
  /** Free, and being given back to the device: not to be used before it is. */
  Discarding = 6,
}

export enum SlotFlag {
  None = 0,
  /** In the mover's queue. */
  Queued = 1,
  /** A damaged block is being rewritten in place: the mover keeps away. */
  Repairing = 2,
  /** Of a free unit: what it held is still allocated beneath. */
  Stale = 4,
  /** Every block of it is zero, and a hole says so too: it goes once that is in a checkpoint. */
  Emptied = 8,
}

/**
 * The memory of one data zone's slots: 34 B of key and state, and 160 B of checksums and versions per
 * block when the index is resident (3.3 GiB per TiB of units in all); else `IndexFrames` has those that
 * were used last. Made when the zone is used for the first time, so that an empty store costs nothing.
 */
export class SlotZone {
  /** Device offset of the zone (its index pages) and of unit 0. */
  readonly offset: number;
  readonly unitsOffset: number;
  readonly pageCount: number;
  opened = false;
  /** A slot of the zone may hold lost blocks: set with them, taken back by who finds none. */
  holdsLost = false;
  /** A free unit of the zone may be stale: set with them, taken back by who finds none. */
  holdsStale = false;
  freeUnits: number;
  freeHoles: number;

  state: Uint8Array = EMPTY_8;
  flags: Uint8Array = EMPTY_8;
  row: Uint16Array = EMPTY_16;
  layer: Uint32Array = EMPTY_32;
  unit: Uint32Array = EMPTY_32;
  snapSeq: Uint32Array = EMPTY_32;
  older: Uint32Array = EMPTY_32;
  /** The highest version of the blocks; of a freed slot: the index that freed it. */
  version: Float64Array = EMPTY_64;
  dataBits: Uint16Array = EMPTY_16;
  lostBits: Uint16Array = EMPTY_16;
  /** Blocks that live in the overlay. */
  overlayBits: Uint16Array = EMPTY_16;
  /** Of hole slots: which of their 64 units are zero, two words each. Empty until there is one. */
  holes: Uint32Array = EMPTY_32;
  /** The client's crc32 of each block; empty, as the two below, when the index is paged. */
  crcs: Uint32Array = EMPTY_32;
  versionLow: Uint32Array = EMPTY_32;
  versionHigh: Uint16Array = EMPTY_16;
  /** Per page: crc as written last (0: never), stamp, dirty and writing marks. */
  readonly pageCrc: Uint32Array;
  readonly pageDirty: Uint8Array;

  constructor(geometry: Geometry, offset: number) {
    this.offset = offset;
    this.unitsOffset = offset + geometry.unitsOffset;
    this.pageCount = geometry.pagesPerZone;
    this.freeUnits = geometry.unitsPerZone;
    this.freeHoles = geometry.slotsPerZone - geometry.unitsPerZone;
    this.pageCrc = new Uint32Array(this.pageCount);
    this.pageDirty = new Uint8Array(this.pageCount);
  }

  // cold: once per zone.
  /** Make the arrays; those of each block when the index is `resident`. */
  open(slots: number, resident: boolean): void {
    if (this.opened) return;
    this.state = new Uint8Array(slots);
    this.flags = new Uint8Array(slots);
    this.row = new Uint16Array(slots);
    this.layer = new Uint32Array(slots);
    this.unit = new Uint32Array(slots);
    this.snapSeq = new Uint32Array(slots);
    this.older = new Uint32Array(slots);
    this.version = new Float64Array(slots);
    this.dataBits = new Uint16Array(slots);
    this.lostBits = new Uint16Array(slots);
    this.overlayBits = new Uint16Array(slots);
    if (resident) {
      this.crcs = new Uint32Array(slots * BLOCKS_PER_UNIT);
      this.versionLow = new Uint32Array(slots * BLOCKS_PER_UNIT);
      this.versionHigh = new Uint16Array(slots * BLOCKS_PER_UNIT);
    }
    // Last: memory may have run out before, and what is written to an array that is none is lost.
    this.opened = true;
  }

  // cold: once per zone, when images have snapshots.
  /** Make room for the masks of holes. */
  openHoles(): void {
    if (this.holes.length === 0) this.holes = new Uint32Array(this.state.length * 2);
  }
}

const EMPTY_8: Uint8Array = new Uint8Array(0);
const EMPTY_16: Uint16Array = new Uint16Array(0);
const EMPTY_32: Uint32Array = new Uint32Array(0);
const EMPTY_64: Float64Array = new Float64Array(0);
