// data path
import { assert } from "../base/assert.ts";
import { BLOCK_SIZE, BLOCKS_PER_UNIT } from "../base/units.ts";
import { NONE, SlotFlag, SlotState, type SlotTable } from "../store/store.ts";
import type { ObjectStore } from "./object-store.ts";
import { OverlayKind } from "./overlay.ts";
import type { LogPlaces } from "./reader.ts";

/** Who knows what may be moved. */
export interface SweepGuard {
  /** R2: is version `version` of the row's group known to be committed, durably here? */
  mayWrite(row: number, version: number): boolean;
}

/**
 * Units in a sweep, and blocks. A sweep waits for its reads and then for its writes: with 64 units it
 * moved 16,000 blocks a second while 128 writes were open, as many as came in, and the log filled.
 */
const PIECES_MAX = 256;
const BLOCKS_MAX = 256;
const BUFFER_BLOCKS = 512;
/** Log blocks between two wanted ones that are read along rather than split a read. */
const GAP_MAX = 4;
const SEGMENTS_MAX = BLOCKS_MAX;
/** Arena bytes that a sweep needs: what it reads of the log, and what it writes. */
export const MOVER_BUFFER_BYTES: number = 2 * BUFFER_BLOCKS * BLOCK_SIZE;

export enum PieceKind {
  /** Write the blocks in place: the slot is complete. */
  InPlace = 0,
  /** Copy what is below, merge, write the whole unit durably: then the slot is complete. */
  Copy = 1,
  /** Something of it is damaged: try again later. */
  Dropped = 2,
}

/**
 * What one sweep of the mover moves, and where it lies meanwhile: made before its first read, in arrays
 * that are used again.
 *
 * A *piece* is one unit with the changes of it that may be moved; a *block* is one of them that has
 * data in the log; a *segment* is one read of the log, neighbours merged. The buffer's first half
 * takes the segments, its second the pieces as they are to be written: a copied unit whole, of others
 * the blocks with data without gaps, in the order of the device, so that neighbours can be written
 * as one. Neighbours that lie side by side in the first half already are written from there.
 */
export class SweepPlan {
  pieceCount = 0;
  readonly pieceSlots: Uint32Array = new Uint32Array(PIECES_MAX);
  readonly pieceKinds: Uint8Array = new Uint8Array(PIECES_MAX);
  readonly pieceBits: Uint16Array = new Uint16Array(PIECES_MAX);
  readonly pieceDataBits: Uint16Array = new Uint16Array(PIECES_MAX);
  readonly pieceBases: Uint32Array = new Uint32Array(PIECES_MAX);
  readonly pieceBuffers: Uint32Array = new Uint32Array(PIECES_MAX);
  /** Of each change of a piece. */
  readonly changeVersions: Float64Array = new Float64Array(PIECES_MAX * BLOCKS_PER_UNIT);
  /** With the version: which of several changes of a block is moved. */
  readonly changePositions: Float64Array = new Float64Array(PIECES_MAX * BLOCKS_PER_UNIT);
  readonly changeCrcs: Uint32Array = new Uint32Array(PIECES_MAX * BLOCKS_PER_UNIT);
  /** Of a block with data: what it is written from, an arena offset. */
  readonly changeBuffers: Uint32Array = new Uint32Array(PIECES_MAX * BLOCKS_PER_UNIT);

  blockCount = 0;
  readonly blockPieces: Uint8Array = new Uint8Array(BLOCKS_MAX);
  readonly blockBits: Uint8Array = new Uint8Array(BLOCKS_MAX);
  readonly blockStaging: Uint32Array = new Uint32Array(BLOCKS_MAX);

  /** Reads that failed: none, and nothing has to be read block by block. */
  failures = 0;

  segmentCount = 0;
  readonly segmentOffsets: Float64Array = new Float64Array(SEGMENTS_MAX);
  readonly segmentStaging: Uint32Array = new Uint32Array(SEGMENTS_MAX);
  readonly segmentBlocks: Uint32Array = new Uint32Array(SEGMENTS_MAX);

  private readonly objects: ObjectStore;
  private readonly slots: SlotTable;
  private readonly log: LogPlaces;
  private readonly guard: SweepGuard;
  private readonly staging: number;
  private readonly output: number;
  /** Damaged blocks that are adopted: not written. */
  private readonly pieceSkips = new Uint16Array(PIECES_MAX);
  /** Pieces in the order of the device: offset · 64 + piece, sorted. */
  private readonly pieceOrder = new Float64Array(PIECES_MAX);
  private readonly blockPositions = new Float64Array(BLOCKS_MAX);
  private readonly blockOrder = new Float64Array(BLOCKS_MAX);
  private readonly blockSegments = new Uint8Array(BLOCKS_MAX);
  /** What could not be read at once, and what not alone either. */
  private readonly segmentBad = new Uint8Array(SEGMENTS_MAX);
  private readonly blockBad = new Uint8Array(BLOCKS_MAX);
  private readonly baseBad = new Uint8Array(PIECES_MAX);
  private readonly baseBadBits = new Uint16Array(PIECES_MAX);

  /** `buffer`: arena offset of `MOVER_BUFFER_BYTES`. */
  constructor(objects: ObjectStore, log: LogPlaces, guard: SweepGuard, buffer: number) {
    this.objects = objects;
    this.slots = objects.slots;
    this.log = log;
    this.guard = guard;
    this.staging = buffer;
    this.output = buffer + BUFFER_BLOCKS * BLOCK_SIZE;
  }

  /** Plan the next sweep. False when there is nothing that can be moved now. */
  make(): boolean {
    this.collect();
    if (this.pieceCount === 0) return false;
    this.planBuffers();
    this.planReads();
    this.planSources();
    return true;
  }

  private collect(): void {
    this.pieceCount = 0;
    this.blockCount = 0;
    this.segmentCount = 0;
    this.failures = 0;
    let bufferBlocks = 0;
    let looked = this.objects.dirty.count;
    while (looked > 0 && this.pieceCount < PIECES_MAX) {
      if (this.blockCount + BLOCKS_PER_UNIT > BLOCKS_MAX) return;
      if (bufferBlocks + BLOCKS_PER_UNIT > BUFFER_BLOCKS) return;
      looked -= 1;
      const slot = this.objects.dirty.shift();
      const zone = this.slots.zoneOf(slot);
      const index = this.slots.indexOf(slot);
      zone.flags[index] = zone.flags[index]! & ~SlotFlag.Queued;
      const state = zone.state[index]!;
      if (state !== SlotState.Live && state !== SlotState.Forming) continue;
      if (zone.overlayBits[index] === 0) continue;
      if (!this.addPiece(slot, state, zone.row[index]!)) this.objects.queue(slot);
      else bufferBlocks += this.outputBlocks(this.pieceCount - 1);
    }
  }

  /** Take what may be moved of a slot. False: nothing now, it stays in the queue. */
  private addPiece(slot: number, state: SlotState, row: number): boolean {
    const zone = this.slots.zoneOf(slot);
    const index = this.slots.indexOf(slot);
    if ((zone.flags[index]! & SlotFlag.Repairing) !== 0) return false;
    let base: number = NONE;
    if (state === SlotState.Forming) {
      base = this.objects.baseOf(slot);
      if (base === -1) return false;
    }
    const overlay = this.objects.overlay;
    const piece = this.pieceCount;
    const firstBlock = this.blockCount;
    let bits = 0;
    let dataBits = 0;
    for (let bit = 0; bit < BLOCKS_PER_UNIT; bit++) {
      if (((zone.overlayBits[index]! >>> bit) & 1) === 0) continue;
      const at = overlay.find(slot, bit);
      const version = overlay.version(at);
      if (!this.guard.mayWrite(row, version)) continue;
      bits |= 1 << bit;
      this.changeVersions[piece * BLOCKS_PER_UNIT + bit] = version;
      this.changePositions[piece * BLOCKS_PER_UNIT + bit] = overlay.position(at);
      this.changeCrcs[piece * BLOCKS_PER_UNIT + bit] = overlay.crc(at);
      if (overlay.kind(at) !== OverlayKind.Data) continue;
      dataBits |= 1 << bit;
      this.blockPieces[this.blockCount] = piece;
      this.blockBits[this.blockCount] = bit;
      this.blockPositions[this.blockCount] = overlay.position(at);
      this.blockCount += 1;
    }
    if (bits === 0) {
      this.blockCount = firstBlock;
      return false;
    }
    this.pieceSlots[piece] = slot;
    this.pieceKinds[piece] = state === SlotState.Forming ? PieceKind.Copy : PieceKind.InPlace;
    this.pieceBits[piece] = bits;
    this.pieceDataBits[piece] = dataBits;
    this.pieceSkips[piece] = 0;
    this.pieceBases[piece] = base;
    this.baseBad[piece] = 0;
    this.baseBadBits[piece] = 0;
    this.pieceCount += 1;
    return true;
  }

  /** Order the pieces by device offset and give each its room in the output buffer. */
  private planBuffers(): void {
    for (let piece = 0; piece < this.pieceCount; piece++) {
      const offset = this.slots.unitOffset(this.pieceSlots[piece]!);
      this.pieceOrder[piece] = (offset / BLOCK_SIZE) * PIECES_MAX + piece;
    }
    sortFirst(this.pieceOrder, this.pieceCount);
    let at = this.output;
    for (let order = 0; order < this.pieceCount; order++) {
      const piece = this.pieceAt(order);
      this.pieceBuffers[piece] = at;
      at += this.outputBlocks(piece) * BLOCK_SIZE;
    }
    assert(
      at <= this.output + BUFFER_BLOCKS * BLOCK_SIZE,
      "SweepPlan: the output buffer is too small",
    );
  }

  /** Blocks of the output that a piece takes. */
  private outputBlocks(piece: number): number {
    if (this.pieceKinds[piece] === PieceKind.Copy) return BLOCKS_PER_UNIT;
    return bitCount(this.pieceDataBits[piece]!);
  }

  /** Merge the log reads: in the order of the log, small gaps read along. */
  private planReads(): void {
    for (let block = 0; block < this.blockCount; block++) {
      this.blockOrder[block] = this.blockPositions[block]! * BLOCKS_MAX + block;
    }
    sortFirst(this.blockOrder, this.blockCount);
    let used = 0;
    for (let order = 0; order < this.blockCount; order++) {
      const block = this.blockOrder[order]! % BLOCKS_MAX;
      const offset = this.log.deviceOffset(this.blockPositions[block]!);
      const left = this.blockCount - order;
      let gap = -1;
      if (this.segmentCount > 0) {
        const last = this.segmentCount - 1;
        const end = this.segmentOffsets[last]! + this.segmentBlocks[last]! * BLOCK_SIZE;
        gap = (offset - end) / BLOCK_SIZE;
      }
      if (gap >= 0 && gap <= GAP_MAX && used + gap + left <= BUFFER_BLOCKS) {
        const last = this.segmentCount - 1;
        this.segmentBlocks[last] = this.segmentBlocks[last]! + gap + 1;
        used += gap;
      } else {
        this.segmentOffsets[this.segmentCount] = offset;
        this.segmentStaging[this.segmentCount] = this.staging + used * BLOCK_SIZE;
        this.segmentBlocks[this.segmentCount] = 1;
        this.segmentBad[this.segmentCount] = 0;
        this.segmentCount += 1;
      }
      this.blockBad[block] = 0;
      this.blockSegments[block] = this.segmentCount - 1;
      this.blockStaging[block] = this.staging + used * BLOCK_SIZE;
      used += 1;
    }
  }

  /** Leave runs of blocks where they are read to, if their order there is that of the device. */
  private planSources(): void {
    let first = 0;
    while (first < this.blockCount) {
      const piece = this.blockPieces[first]!;
      let end = first + 1;
      let together = this.pieceKinds[piece] === PieceKind.InPlace;
      while (end < this.blockCount && this.followsInUnit(end)) {
        if (this.blockStaging[end] !== this.blockStaging[end - 1]! + BLOCK_SIZE) together = false;
        end += 1;
      }
      // At the border of its unit a run may go on in that of the next one.
      if (this.blockBits[first] === 0 || this.blockBits[end - 1] === BLOCKS_PER_UNIT - 1) {
        together = false;
      }
      for (let block = first; block < end; block++) {
        const bit = this.blockBits[block]!;
        const output = this.pieceBuffers[piece]! + this.bufferBlock(piece, bit) * BLOCK_SIZE;
        this.changeBuffers[piece * BLOCKS_PER_UNIT + bit] = together
          ? this.blockStaging[block]!
          : output;
      }
      first = end;
    }
  }

  /** Whether a block comes behind the block before it in the same unit. */
  private followsInUnit(block: number): boolean {
    if (this.blockPieces[block] !== this.blockPieces[block - 1]) return false;
    return this.blockBits[block] === this.blockBits[block - 1]! + 1;
  }

  /* ------------------------------------------------------- while it is done */

  /** The piece that comes `order`th on the device. */
  pieceAt(order: number): number {
    return this.pieceOrder[order]! % PIECES_MAX;
  }

  /** Data blocks of the base that no newer block replaces. */
  wantedOfBase(piece: number): number {
    const base = this.pieceBases[piece]!;
    if (base === NONE) return 0;
    const bits = this.slots.zoneOf(base).dataBits[this.slots.indexOf(base)]!;
    return bits & ~this.pieceBits[piece]!;
  }

  /** Where a block of a piece lies in its buffer. */
  private bufferBlock(piece: number, bit: number): number {
    if (this.pieceKinds[piece] === PieceKind.Copy) return bit;
    return bitCount(this.pieceDataBits[piece]! & ((1 << bit) - 1));
  }

  bitsToWrite(piece: number): number {
    return this.pieceBits[piece]! & this.pieceDataBits[piece]! & ~this.pieceSkips[piece]!;
  }

  /** A read of the log failed. */
  segmentFailed(segment: number): void {
    this.segmentBad[segment] = 1;
    this.failures += 1;
  }

  /** The read of a piece's base failed. */
  baseFailed(piece: number): void {
    this.baseBad[piece] = 1;
    this.failures += 1;
  }

  /** A block of a segment that failed could not be read alone either. */
  blockFailed(block: number): void {
    this.blockBad[block] = 1;
  }

  /** A block of a base that failed could not be read alone either. */
  baseBlockFailed(piece: number, bit: number): void {
    this.baseBadBits[piece] = this.baseBadBits[piece]! | (1 << bit);
  }

  /** Whether a block's segment failed: something in it, the block or a neighbour. */
  isBesideBadSector(block: number): boolean {
    return this.segmentBad[this.blockSegments[block]!] === 1;
  }

  isBaseBad(piece: number): boolean {
    return this.baseBad[piece] === 1;
  }

  isBlockRead(block: number): boolean {
    return this.blockBad[block] === 0;
  }

  isBaseBlockRead(piece: number, bit: number): boolean {
    return ((this.baseBadBits[piece]! >>> bit) & 1) === 0;
  }

  logOffset(block: number): number {
    return this.log.deviceOffset(this.blockPositions[block]!);
  }

  /** A damaged block gets version and checksum without the bytes: it is not written. */
  adoptBlock(piece: number, bit: number): void {
    this.pieceSkips[piece] = this.pieceSkips[piece]! | (1 << bit);
  }

  /** A block is damaged in the log: it stays in the overlay, a copied unit as a whole. */
  dropBlock(piece: number, bit: number): void {
    this.dropCopy(piece);
    // In-place pieces keep the room of the block, which is not written.
    this.pieceBits[piece] = this.pieceBits[piece]! & ~(1 << bit);
  }

  /** A copied unit can not be made now. */
  dropCopy(piece: number): void {
    if (this.pieceKinds[piece] === PieceKind.Copy) this.pieceKinds[piece] = PieceKind.Dropped;
  }
}

function bitCount(bits: number): number {
  let left = bits - ((bits >>> 1) & 0x5555);
  left = (left & 0x3333) + ((left >>> 2) & 0x3333);
  left = (left + (left >>> 4)) & 0x0f0f;
  return (left + (left >>> 8)) & 0x1f;
}

/** Sort the first `count` numbers; insertion sort: short, nearly sorted, no view to make. */
function sortFirst(values: Float64Array, count: number): void {
  for (let at = 1; at < count; at++) {
    const value = values[at]!;
    let to = at;
    while (to > 0 && values[to - 1]! > value) {
      values[to] = values[to - 1]!;
      to -= 1;
    }
    values[to] = value;
  }
}
