// data path
import { assert } from "../base/assert.ts";
import { Status } from "../base/status.ts";
import { BLOCK_SIZE, BLOCKS_PER_UNIT, UNIT_SIZE } from "../base/units.ts";
import { type Device, DeviceOp, DeviceRegion } from "../device/device.ts";
import { DiskVerb, type World } from "../reactor/world.ts";
import { type Eras, NONE, SlotFlag, SlotState, type SlotTable } from "../store/store.ts";
import type { ObjectStore } from "./object-store.ts";
import { OverlayKind } from "./overlay.ts";
import type { LogPlaces } from "./reader.ts";

export interface MoverOwner {
  /** R2: is version `version` of the row's group known to be committed, durably here? */
  mayWrite(row: number, version: number): boolean;
  /** A block that is to be moved or copied does not match its checksum. */
  onBlockDamaged(row: number, layer: number, block: number, snapSeq: number, version: number): void;
}

const PIECES_MAX = 64;
const BLOCKS_MAX = 128;
const BUFFER_BLOCKS = 256;
/** Log blocks between two wanted ones that are read along rather than split a read. */
const GAP_MAX = 4;
const SEGMENTS_MAX = BLOCKS_MAX;
/** Arena bytes that the mover needs: what it reads of the log, and what it writes. */
export const MOVER_BUFFER_BYTES: number = 2 * BUFFER_BLOCKS * BLOCK_SIZE;

/** What a sweep does: the awaiting pseudo-program is
 * `collect(); await readLog(); await readBases(); verify(); await write(); finish()`. */
enum Stage {
  Idle = 0,
  ReadLog = 1,
  ReadBases = 2,
  Write = 3,
}

enum PieceKind {
  /** Write the blocks in place: the slot is complete. */
  InPlace = 0,
  /** Copy what is below, merge, write the whole unit durably: then the slot is complete. */
  Copy = 1,
  /** Something of it is damaged: try again later. */
  Dropped = 2,
}

/**
 * Moves blocks from the log to their units (`store.md`, write path 7).
 *
 * A sweep takes the slots that have waited longest, at most 64 of them with 128 blocks, reads their
 * newest blocks from the log in the order of the log, neighbours merged, verifies them, and writes
 * them home in the order of the device, neighbours merged. Blocks move only when their version is
 * durably known to be committed (R2): after a crash redo then reaches every home write.
 *
 * In-place writes are plain: redo repairs them. A copied unit is written durably before its slot
 * becomes Live, because redo can not make the copied blocks again.
 *
 * One sweep at a time; a slot that changed meanwhile keeps what is newer in the overlay.
 */
export class Mover {
  blocksMoved = 0;
  unitsCopied = 0;
  bytesWritten = 0;
  failed = false;
  /**
   * Give up on blocks that stay damaged: their slot gets version and checksum without the bytes. A
   * read then finds the damage at home and heals it from a peer, and the log is not held.
   */
  adoptDamage = false;
  /** The last sweep moved nothing: what it tried is damaged, or was replaced meanwhile. */
  fruitless = false;
  private readonly world: World;
  private readonly device: Device;
  private readonly objects: ObjectStore;
  private readonly slots: SlotTable;
  private readonly eras: Eras;
  private readonly log: LogPlaces;
  private readonly owner: MoverOwner;
  private readonly depth: number;
  private readonly staging: number;
  private readonly output: number;

  private stage: Stage = Stage.Idle;
  private era = 0;
  private inFlight = 0;
  private submitAt = 0;
  private ioFree: MoverIo | null = null;

  private pieceCount = 0;
  private readonly pieceSlots = new Uint32Array(PIECES_MAX);
  private readonly pieceKinds = new Uint8Array(PIECES_MAX);
  private readonly pieceBits = new Uint16Array(PIECES_MAX);
  private readonly pieceDataBits = new Uint16Array(PIECES_MAX);
  /** Damaged blocks that are adopted: not written. */
  private readonly pieceSkips = new Uint16Array(PIECES_MAX);
  private readonly pieceBases = new Uint32Array(PIECES_MAX);
  private readonly pieceBuffers = new Uint32Array(PIECES_MAX);
  /** Pieces in the order of the device: offset · 64 + piece, sorted. */
  private readonly pieceOrder = new Float64Array(PIECES_MAX);

  private blockCount = 0;
  private readonly blockPieces = new Uint8Array(BLOCKS_MAX);
  private readonly blockBits = new Uint8Array(BLOCKS_MAX);
  private readonly blockPositions = new Float64Array(BLOCKS_MAX);
  private readonly blockVersions = new Float64Array(PIECES_MAX * BLOCKS_PER_UNIT);
  private readonly blockCrcs = new Uint32Array(PIECES_MAX * BLOCKS_PER_UNIT);
  private readonly blockStaging = new Uint32Array(BLOCKS_MAX);
  private readonly blockOrder = new Float64Array(BLOCKS_MAX);

  private segmentCount = 0;
  private readonly segmentOffsets = new Float64Array(SEGMENTS_MAX);
  private readonly segmentStaging = new Uint32Array(SEGMENTS_MAX);
  private readonly segmentBlocks = new Uint32Array(SEGMENTS_MAX);
  private readonly segmentBad = new Uint8Array(SEGMENTS_MAX);
  private readonly blockSegments = new Uint8Array(BLOCKS_MAX);
  private readonly baseBad = new Uint8Array(PIECES_MAX);

  constructor(
    world: World,
    device: Device,
    objects: ObjectStore,
    eras: Eras,
    log: LogPlaces,
    owner: MoverOwner,
    options: { depth: number; buffer: number },
  ) {
    this.world = world;
    this.device = device;
    this.objects = objects;
    this.slots = objects.slots;
    this.eras = eras;
    this.log = log;
    this.owner = owner;
    this.depth = options.depth;
    this.staging = options.buffer;
    this.output = options.buffer + BUFFER_BLOCKS * BLOCK_SIZE;
  }

  get idle(): boolean {
    return this.stage === Stage.Idle;
  }

  /** Begin a sweep. False when there is nothing that can be moved now. Requires: idle. */
  start(): boolean {
    assert(this.stage === Stage.Idle, "Mover.start: a sweep is running");
    if (this.failed) return false;
    this.collect();
    if (this.pieceCount === 0) return false;
    this.era = this.eras.enter();
    this.planBuffers();
    this.planReads();
    this.enter(Stage.ReadLog);
    this.advance();
    return true;
  }

  /** Go on; called in each turn and after completions. */
  advance(): void {
    for (;;) {
      switch (this.stage) {
        case Stage.Idle:
          return;
        case Stage.ReadLog:
          if (!this.submitLogReads()) return;
          this.enter(Stage.ReadBases);
          break;
        case Stage.ReadBases:
          if (!this.submitBaseReads()) return;
          this.assemble();
          this.enter(Stage.Write);
          break;
        case Stage.Write:
          if (!this.submitWrites()) return;
          this.finish();
          return;
      }
    }
  }

  private enter(stage: Stage): void {
    this.stage = stage;
    this.submitAt = 0;
    this.writeBit = 0;
  }

  /* --------------------------------------------------------------- collect */

  private collect(): void {
    this.pieceCount = 0;
    this.blockCount = 0;
    this.segmentCount = 0;
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
      else bufferBlocks += BLOCKS_PER_UNIT;
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
      if (!this.owner.mayWrite(row, version)) continue;
      bits |= 1 << bit;
      this.blockVersions[piece * BLOCKS_PER_UNIT + bit] = version;
      this.blockCrcs[piece * BLOCKS_PER_UNIT + bit] = overlay.crc(at);
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
      const piece = this.pieceOrder[order]! % PIECES_MAX;
      this.pieceBuffers[piece] = at;
      const copy = this.pieceKinds[piece] === PieceKind.Copy;
      at += copy ? UNIT_SIZE : bitCount(this.pieceDataBits[piece]!) * BLOCK_SIZE;
    }
    assert(at <= this.output + BUFFER_BLOCKS * BLOCK_SIZE, "Mover: the output buffer is too small");
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
      this.blockSegments[block] = this.segmentCount - 1;
      this.blockStaging[block] = this.staging + used * BLOCK_SIZE;
      used += 1;
    }
  }

  /* ----------------------------------------------------------------- reads */

  /** True when all log reads are done. */
  private submitLogReads(): boolean {
    while (this.submitAt < this.segmentCount && this.inFlight < this.depth) {
      const segment = this.submitAt;
      this.submitAt += 1;
      this.submit(
        DiskVerb.Read,
        DeviceRegion.Log,
        this.segmentStaging[segment]!,
        this.segmentOffsets[segment]!,
        this.segmentBlocks[segment]! * BLOCK_SIZE,
        segment,
      );
    }
    return this.submitAt === this.segmentCount && this.inFlight === 0;
  }

  private submitBaseReads(): boolean {
    while (this.submitAt < this.pieceCount && this.inFlight < this.depth) {
      const piece = this.submitAt;
      this.submitAt += 1;
      const base = this.pieceBases[piece]!;
      if (this.pieceKinds[piece] !== PieceKind.Copy || base === NONE) continue;
      if (this.wantedOfBase(piece) === 0) continue;
      const offset = this.slots.unitOffset(base);
      const buffer = this.pieceBuffers[piece]!;
      this.submit(DiskVerb.Read, DeviceRegion.Data, buffer, offset, UNIT_SIZE, piece);
    }
    return this.submitAt === this.pieceCount && this.inFlight === 0;
  }

  /** Data blocks of the base that no newer block replaces. */
  private wantedOfBase(piece: number): number {
    const base = this.pieceBases[piece]!;
    if (base === NONE) return 0;
    const bits = this.slots.zoneOf(base).dataBits[this.slots.indexOf(base)]!;
    return bits & ~this.pieceBits[piece]!;
  }

  private submit(
    verb: DiskVerb,
    region: DeviceRegion,
    arenaOffset: number,
    offsetBytes: number,
    lengthBytes: number,
    tag: number,
  ): void {
    let io = this.ioFree;
    if (io === null) io = makeMoverIo(this);
    else this.ioFree = io.moverNext;
    io.moverNext = null;
    io.verb = verb;
    io.region = region;
    io.arenaOffset = arenaOffset;
    io.offsetBytes = offsetBytes;
    io.lengthBytes = lengthBytes;
    io.tag = tag;
    this.inFlight += 1;
    this.device.submit(io);
  }

  /** Called by `MoverIo` only. */
  onIo(io: MoverIo): void {
    this.inFlight -= 1;
    if (io.status !== Status.Ok) {
      if (io.verb !== DiskVerb.Read) this.failed = true;
      else if (this.stage === Stage.ReadLog) this.segmentBad[io.tag] = 1;
      else this.baseBad[io.tag] = 1;
    }
    io.moverNext = this.ioFree;
    this.ioFree = io;
    this.world.turns.again();
  }

  /* -------------------------------------------------------------- assemble */

  /** Verify everything that was read and lay the units out as they are to be written. */
  private assemble(): void {
    for (let piece = 0; piece < this.pieceCount; piece++) {
      if (this.pieceKinds[piece] === PieceKind.Copy) this.assembleBase(piece);
    }
    const arena = this.world.arena;
    for (let block = 0; block < this.blockCount; block++) {
      const piece = this.blockPieces[block]!;
      const bit = this.blockBits[block]!;
      const from = this.blockStaging[block]!;
      const crc = this.blockCrcs[piece * BLOCKS_PER_UNIT + bit]!;
      let good = this.segmentBad[this.blockSegments[block]!] === 0;
      if (good) good = this.world.checksum.crc32(arena.block(from), 0) === crc;
      if (good) {
        const to = this.pieceBuffers[piece]! + this.bufferBlock(piece, bit) * BLOCK_SIZE;
        arena.bytes.copyWithin(to, from, from + BLOCK_SIZE);
        continue;
      }
      this.reportOverlay(piece, bit);
      this.dropBit(piece, bit);
    }
  }

  /** Where a block of a piece lies in its buffer. */
  private bufferBlock(piece: number, bit: number): number {
    if (this.pieceKinds[piece] === PieceKind.Copy) return bit;
    return bitCount(this.pieceDataBits[piece]! & ((1 << bit) - 1));
  }

  /** A block is damaged in the log: it stays in the overlay, a copied unit as a whole. */
  private dropBit(piece: number, bit: number): void {
    if (this.adoptDamage) {
      this.pieceSkips[piece] = this.pieceSkips[piece]! | (1 << bit);
      return;
    }
    if (this.pieceKinds[piece] === PieceKind.Copy) this.pieceKinds[piece] = PieceKind.Dropped;
    // In-place pieces keep the room of the block, which is not written.
    this.pieceBits[piece] = this.pieceBits[piece]! & ~(1 << bit);
  }

  private assembleBase(piece: number): void {
    const base = this.pieceBases[piece]!;
    const wanted = this.wantedOfBase(piece);
    const arena = this.world.arena;
    for (let bit = 0; bit < BLOCKS_PER_UNIT; bit++) {
      const at = this.pieceBuffers[piece]! + bit * BLOCK_SIZE;
      if (((wanted >>> bit) & 1) === 0) {
        // What is not data stays unreadable: no byte of another owner may lie there.
        arena.bytes.fill(0, at, at + BLOCK_SIZE);
        continue;
      }
      let good = this.baseBad[piece] === 0;
      if (good) {
        const crc = this.slots.crcOfBlock(base, bit);
        good = this.world.checksum.crc32(arena.block(at), 0) === crc;
      }
      if (good) continue;
      this.reportHome(base, bit);
      if (this.adoptDamage) arena.bytes.fill(0, at, at + BLOCK_SIZE);
      else this.pieceKinds[piece] = PieceKind.Dropped;
    }
  }

  private reportOverlay(piece: number, bit: number): void {
    const slot = this.pieceSlots[piece]!;
    const at = this.objects.overlay.find(slot, bit);
    const version = this.blockVersions[piece * BLOCKS_PER_UNIT + bit]!;
    if (at < 0 || this.objects.overlay.version(at) !== version) return;
    this.report(slot, bit, version);
  }

  private reportHome(slot: number, bit: number): void {
    this.report(slot, bit, this.slots.versionOfBlock(slot, bit));
  }

  private report(slot: number, bit: number, version: number): void {
    const zone = this.slots.zoneOf(slot);
    const index = this.slots.indexOf(slot);
    const state = zone.state[index]!;
    if (state !== SlotState.Live && state !== SlotState.Forming) return;
    const layer = this.slots.layers.idOf(zone.layer[index]!);
    const block = zone.unit[index]! * BLOCKS_PER_UNIT + bit;
    this.owner.onBlockDamaged(zone.row[index]!, layer, block, zone.snapSeq[index]!, version);
  }

  /* ---------------------------------------------------------------- writes */

  private writeBit = 0;

  /** Submit runs of blocks that are neighbours on the device and in the buffer. True: all done. */
  private submitWrites(): boolean {
    while (this.submitAt < this.pieceCount && this.inFlight < this.depth) {
      const piece = this.pieceOrder[this.submitAt]! % PIECES_MAX;
      const kind = this.pieceKinds[piece]!;
      const slot = this.pieceSlots[piece]!;
      if (kind === PieceKind.Copy) {
        const offset = this.slots.unitOffset(slot);
        const buffer = this.pieceBuffers[piece]!;
        this.bytesWritten += UNIT_SIZE;
        this.submit(DiskVerb.WriteDurable, DeviceRegion.Data, buffer, offset, UNIT_SIZE, piece);
        this.submitAt += 1;
      } else if (kind === PieceKind.InPlace) this.submitInPlace();
      else this.submitAt += 1;
    }
    return this.submitAt >= this.pieceCount && this.inFlight === 0;
  }

  /** One run from (submitAt, writeBit) on; it may go on into following complete units. */
  private submitInPlace(): void {
    let piece = this.pieceOrder[this.submitAt]! % PIECES_MAX;
    let bits = this.bitsToWrite(piece);
    while (this.writeBit < BLOCKS_PER_UNIT && ((bits >>> this.writeBit) & 1) === 0) {
      this.writeBit += 1;
    }
    if (this.writeBit === BLOCKS_PER_UNIT) {
      this.nextPiece();
      return;
    }
    const offset = this.slots.unitOffset(this.pieceSlots[piece]!) + this.writeBit * BLOCK_SIZE;
    const buffer = this.pieceBuffers[piece]! + this.bufferBlock(piece, this.writeBit) * BLOCK_SIZE;
    let blocks = 0;
    while (((bits >>> this.writeBit) & 1) === 1) {
      blocks += 1;
      this.writeBit += 1;
      if (this.writeBit < BLOCKS_PER_UNIT) continue;
      this.nextPiece();
      if (this.submitAt === this.pieceCount) break;
      piece = this.pieceOrder[this.submitAt]! % PIECES_MAX;
      if (this.pieceKinds[piece] !== PieceKind.InPlace) break;
      if (this.slots.unitOffset(this.pieceSlots[piece]!) !== offset + blocks * BLOCK_SIZE) break;
      if (this.pieceBuffers[piece] !== buffer + blocks * BLOCK_SIZE) break;
      bits = this.bitsToWrite(piece);
    }
    const length = blocks * BLOCK_SIZE;
    this.bytesWritten += length;
    this.submit(DiskVerb.Write, DeviceRegion.Data, buffer, offset, length, piece);
  }

  private bitsToWrite(piece: number): number {
    return this.pieceBits[piece]! & this.pieceDataBits[piece]! & ~this.pieceSkips[piece]!;
  }

  private nextPiece(): void {
    this.submitAt += 1;
    this.writeBit = 0;
  }

  /* ---------------------------------------------------------------- finish */

  private finish(): void {
    const before = this.blocksMoved;
    for (let piece = 0; piece < this.pieceCount; piece++) {
      if (!this.failed) this.finishPiece(piece);
    }
    this.fruitless = this.blocksMoved === before;
    this.eras.leave(this.era);
    this.stage = Stage.Idle;
    this.pieceCount = 0;
    this.world.turns.again();
  }

  private finishPiece(piece: number): void {
    const slot = this.pieceSlots[piece]!;
    const zone = this.slots.zoneOf(slot);
    const index = this.slots.indexOf(slot);
    const state = zone.state[index]!;
    // Freed or overwritten as a whole while it was written: the unit waits in quarantine.
    if (state !== SlotState.Live && state !== SlotState.Forming) return;
    const kind = this.pieceKinds[piece]!;
    if (kind === PieceKind.Dropped) {
      this.objects.queue(slot);
      return;
    }
    if (kind === PieceKind.Copy) {
      this.takeOverBase(piece, slot);
      zone.state[index] = SlotState.Live;
      this.unitsCopied += 1;
    }
    for (let bit = 0; bit < BLOCKS_PER_UNIT; bit++) {
      if (((this.pieceBits[piece]! >>> bit) & 1) === 1) this.finishBlock(piece, slot, bit);
    }
    this.slots.markDirty(slot);
    if (zone.overlayBits[index] !== 0) this.objects.queue(slot);
  }

  private takeOverBase(piece: number, slot: number): void {
    const base = this.pieceBases[piece]!;
    if (base === NONE) return;
    const from = this.slots.zoneOf(base);
    const fromIndex = this.slots.indexOf(base);
    const zone = this.slots.zoneOf(slot);
    const index = this.slots.indexOf(slot);
    const kept = ~this.pieceBits[piece]!;
    zone.dataBits[index] = from.dataBits[fromIndex]! & kept;
    zone.lostBits[index] = from.lostBits[fromIndex]! & kept;
    for (let bit = 0; bit < BLOCKS_PER_UNIT; bit++) {
      const version = this.slots.versionOfBlock(base, bit);
      this.slots.setBlock(slot, bit, version, this.slots.crcOfBlock(base, bit));
    }
  }

  private finishBlock(piece: number, slot: number, bit: number): void {
    const version = this.blockVersions[piece * BLOCKS_PER_UNIT + bit]!;
    const overlay = this.objects.overlay;
    const at = overlay.find(slot, bit);
    const zone = this.slots.zoneOf(slot);
    const index = this.slots.indexOf(slot);
    let kind = OverlayKind.Data;
    if (((this.pieceDataBits[piece]! >>> bit) & 1) === 0) kind = OverlayKind.Zero;
    if (at >= 0 && overlay.version(at) === version) {
      kind = overlay.kind(at);
      overlay.remove(slot, bit);
      zone.overlayBits[index] = zone.overlayBits[index]! & ~(1 << bit);
    } else if (this.slots.versionOfBlock(slot, bit) > version) {
      // Zeroed meanwhile: what was written is not data any more.
      return;
    }
    const on = 1 << bit;
    const crc = kind === OverlayKind.Data ? this.blockCrcs[piece * BLOCKS_PER_UNIT + bit]! : 0;
    this.slots.setBlock(slot, bit, version, crc);
    zone.dataBits[index] =
      kind === OverlayKind.Data ? zone.dataBits[index]! | on : zone.dataBits[index]! & ~on;
    zone.lostBits[index] =
      kind === OverlayKind.Lost ? zone.lostBits[index]! | on : zone.lostBits[index]! & ~on;
    this.blocksMoved += 1;
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

class MoverIo extends DeviceOp {
  readonly mover: Mover;
  tag = 0;
  moverNext: MoverIo | null = null;

  constructor(mover: Mover) {
    super();
    this.mover = mover;
  }

  onComplete(): void {
    this.mover.onIo(this);
  }
}

// cold: when the pool is empty.
function makeMoverIo(mover: Mover): MoverIo {
  return new MoverIo(mover);
}
