// data path
import { assert } from "../base/assert.ts";
import { Status } from "../base/status.ts";
import { BLOCK_SIZE, BLOCKS_PER_UNIT, UNIT_SIZE } from "../base/units.ts";
import { type Device, DeviceOp, DeviceRegion } from "../device/device.ts";
import { DiskVerb, type World } from "../reactor/world.ts";
import {
  type Eras,
  NONE,
  PageHolds,
  type PageLoader,
  SlotState,
  type SlotTable,
} from "../store/store.ts";
import type { ObjectStore } from "./object-store.ts";
import { OverlayKind } from "./overlay.ts";
import type { LogPlaces } from "./reader.ts";
import { PieceKind, type SweepGuard, SweepPlan } from "./sweep-plan.ts";

/** What the mover asks of, and tells, the store. */
export interface MoverOwner extends SweepGuard {
  /** A block that is to be moved or copied does not match its checksum. */
  onBlockDamaged(row: number, layer: number, block: number, snapSeq: number, version: number): void;
}

/** What a sweep does: the awaiting pseudo-program is
 * `plan(); await holdRows(); await readLog(); await readBases(); await readSingly(); verify(); await write(); finish()`. */
enum Stage {
  Idle = 0,
  ReadLog = 1,
  ReadBases = 2,
  /** What lies beside a sector that can not be read: block by block. */
  ReadLogSingly = 3,
  ReadBasesSingly = 4,
  Write = 5,
  /** The rows of all pieces and bases are being loaded: they stay until the sweep has ended. */
  HoldRows = 6,
}

/**
 * Moves blocks from the log to their units (`store.md`, write path 7).
 *
 * A sweep takes the slots that have waited longest, at most 256 of them with 256 blocks, reads their
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
  /** Operations under way at a time, at most: its owner's to set, at any time. */
  depth: number;
  private readonly world: World;
  private readonly device: Device;
  private readonly objects: ObjectStore;
  private readonly slots: SlotTable;
  private readonly eras: Eras;
  private readonly owner: MoverOwner;
  private readonly plan: SweepPlan;

  private stage: Stage = Stage.Idle;
  private era = 0;
  private inFlight = 0;
  /** How far the stage is: segment or piece, and block of the piece. */
  private submitAt = 0;
  private writeBit = 0;
  private ioFree: MoverIo | null = null;
  /** Null: the index is resident. */
  private holds: PageHolds | null = null;

  constructor(
    world: World,
    device: Device,
    objects: ObjectStore,
    eras: Eras,
    log: LogPlaces,
    owner: MoverOwner,
    options: { depth: number; buffer: number; pages: PageLoader | null },
  ) {
    this.world = world;
    this.device = device;
    this.objects = objects;
    this.slots = objects.slots;
    this.eras = eras;
    this.owner = owner;
    this.depth = options.depth;
    if (options.pages !== null) this.holds = new PageHolds(this.slots, options.pages, this);
    this.plan = new SweepPlan(objects, log, owner, options.buffer);
  }

  get idle(): boolean {
    return this.stage === Stage.Idle;
  }

  /** Begin a sweep. False when there is nothing that can be moved now. Requires: idle. */
  start(): boolean {
    assert(this.stage === Stage.Idle, "Mover.start: a sweep is running");
    if (this.failed) return false;
    if (!this.plan.make()) return false;
    this.era = this.eras.enter();
    this.enter(Stage.HoldRows);
    this.holdRows();
    this.advance();
    return true;
  }

  /** Go on; called in each turn and after completions. */
  advance(): void {
    for (;;) {
      switch (this.stage) {
        case Stage.Idle:
          return;
        case Stage.HoldRows:
          if (this.holds !== null && this.holds.pending > 0) return;
          if (this.holds !== null && this.holds.failed) this.failed = true;
          this.enter(Stage.ReadLog);
          break;
        case Stage.ReadLog:
          if (!this.submitLogReads()) return;
          this.enter(Stage.ReadBases);
          break;
        case Stage.ReadBases:
          if (!this.submitBaseReads()) return;
          if (this.plan.failures === 0) this.beginWrites();
          else this.enter(Stage.ReadLogSingly);
          break;
        case Stage.ReadLogSingly:
          if (!this.submitSingleLogReads()) return;
          this.enter(Stage.ReadBasesSingly);
          break;
        case Stage.ReadBasesSingly:
          if (!this.submitSingleBaseReads()) return;
          this.beginWrites();
          break;
        case Stage.Write:
          if (!this.submitWrites()) return;
          this.finish();
          return;
      }
    }
  }

  /** What a sweep will look at and change of slots has to be in memory. */
  private holdRows(): void {
    const { holds, plan } = this;
    if (holds === null) return;
    for (let piece = 0; piece < plan.pieceCount; piece++) {
      holds.add(plan.pieceSlots[piece]!);
      const base = plan.pieceBases[piece]!;
      if (plan.pieceKinds[piece] === PieceKind.Copy && base !== NONE) holds.add(base);
    }
  }

  /** Called by `PageHolds` only. */
  onPagesHeld(): void {
    this.world.turns.again();
  }

  private beginWrites(): void {
    this.assemble();
    this.enter(Stage.Write);
  }

  private enter(stage: Stage): void {
    this.stage = stage;
    this.submitAt = 0;
    this.writeBit = 0;
  }

  /* ----------------------------------------------------------------- reads */

  /** True when all log reads are done. */
  private submitLogReads(): boolean {
    while (this.submitAt < this.plan.segmentCount && this.inFlight < this.depth) {
      const segment = this.submitAt;
      this.submitAt += 1;
      this.submit(
        DiskVerb.Read,
        DeviceRegion.Log,
        this.plan.segmentStaging[segment]!,
        this.plan.segmentOffsets[segment]!,
        this.plan.segmentBlocks[segment]! * BLOCK_SIZE,
        segment,
      );
    }
    return this.submitAt === this.plan.segmentCount && this.inFlight === 0;
  }

  private submitBaseReads(): boolean {
    while (this.submitAt < this.plan.pieceCount && this.inFlight < this.depth) {
      const piece = this.submitAt;
      this.submitAt += 1;
      const base = this.plan.pieceBases[piece]!;
      if (this.plan.pieceKinds[piece] !== PieceKind.Copy || base === NONE) continue;
      if (this.plan.wantedOfBase(piece) === 0) continue;
      const offset = this.slots.unitOffset(base);
      const buffer = this.plan.pieceBuffers[piece]!;
      this.submit(DiskVerb.Read, DeviceRegion.Data, buffer, offset, UNIT_SIZE, piece);
    }
    return this.submitAt === this.plan.pieceCount && this.inFlight === 0;
  }

  private submitSingleLogReads(): boolean {
    const { plan } = this;
    while (this.submitAt < plan.blockCount && this.inFlight < this.depth) {
      const block = this.submitAt;
      this.submitAt += 1;
      if (!plan.isBesideBadSector(block)) continue;
      const offset = plan.logOffset(block);
      const staging = plan.blockStaging[block]!;
      this.submit(DiskVerb.Read, DeviceRegion.Log, staging, offset, BLOCK_SIZE, block);
    }
    return this.submitAt === plan.blockCount && this.inFlight === 0;
  }

  private submitSingleBaseReads(): boolean {
    const { plan } = this;
    const last = plan.pieceCount * BLOCKS_PER_UNIT;
    while (this.submitAt < last && this.inFlight < this.depth) {
      const tag = this.submitAt;
      this.submitAt += 1;
      const piece = Math.floor(tag / BLOCKS_PER_UNIT);
      const bit = tag % BLOCKS_PER_UNIT;
      if (!plan.isBaseBad(piece) || ((plan.wantedOfBase(piece) >>> bit) & 1) === 0) continue;
      const within = bit * BLOCK_SIZE;
      const offset = this.slots.unitOffset(plan.pieceBases[piece]!) + within;
      const buffer = plan.pieceBuffers[piece]! + within;
      this.submit(DiskVerb.Read, DeviceRegion.Data, buffer, offset, BLOCK_SIZE, tag);
    }
    return this.submitAt === last && this.inFlight === 0;
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
    if (io.status !== Status.Ok) this.onFailed(io);
    io.moverNext = this.ioFree;
    this.ioFree = io;
    this.world.turns.again();
  }

  private onFailed({ verb, tag }: MoverIo): void {
    const { plan, stage } = this;
    if (verb !== DiskVerb.Read) this.failed = true;
    else if (stage === Stage.ReadLog) plan.segmentFailed(tag);
    else if (stage === Stage.ReadBases) plan.baseFailed(tag);
    else if (stage === Stage.ReadLogSingly) plan.blockFailed(tag);
    else plan.baseBlockFailed(Math.floor(tag / BLOCKS_PER_UNIT), tag % BLOCKS_PER_UNIT);
  }

  /* -------------------------------------------------------------- assemble */

  /** Verify everything that was read and lay the units out as they are to be written. */
  private assemble(): void {
    const plan = this.plan;
    for (let piece = 0; piece < plan.pieceCount; piece++) {
      if (plan.pieceKinds[piece] === PieceKind.Copy) this.assembleBase(piece);
    }
    const arena = this.world.arena;
    for (let block = 0; block < plan.blockCount; block++) {
      const piece = plan.blockPieces[block]!;
      const bit = plan.blockBits[block]!;
      const from = plan.blockStaging[block]!;
      const crc = plan.changeCrcs[piece * BLOCKS_PER_UNIT + bit]!;
      let good = plan.isBlockRead(block);
      if (good) good = this.world.checksum.crc32(arena.block(from), 0) === crc;
      if (good) {
        const to = plan.changeBuffers[piece * BLOCKS_PER_UNIT + bit]!;
        if (to !== from) arena.bytes.copyWithin(to, from, from + BLOCK_SIZE);
        continue;
      }
      this.reportOverlay(piece, bit);
      if (this.adoptDamage) plan.adoptBlock(piece, bit);
      else plan.dropBlock(piece, bit);
    }
  }

  private assembleBase(piece: number): void {
    const base = this.plan.pieceBases[piece]!;
    const wanted = this.plan.wantedOfBase(piece);
    const arena = this.world.arena;
    for (let bit = 0; bit < BLOCKS_PER_UNIT; bit++) {
      const at = this.plan.pieceBuffers[piece]! + bit * BLOCK_SIZE;
      if (((wanted >>> bit) & 1) === 0) {
        // What is not data stays unreadable: no byte of another owner may lie there.
        arena.bytes.fill(0, at, at + BLOCK_SIZE);
        continue;
      }
      let good = this.plan.isBaseBlockRead(piece, bit);
      if (good) {
        const crc = this.slots.crcOfBlock(base, bit);
        good = this.world.checksum.crc32(arena.block(at), 0) === crc;
      }
      if (good) continue;
      this.reportHome(base, bit);
      if (this.adoptDamage) arena.bytes.fill(0, at, at + BLOCK_SIZE);
      else this.plan.dropCopy(piece);
    }
  }

  private reportOverlay(piece: number, bit: number): void {
    const slot = this.plan.pieceSlots[piece]!;
    const at = this.objects.overlay.find(slot, bit);
    const version = this.plan.changeVersions[piece * BLOCKS_PER_UNIT + bit]!;
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

  /** Submit runs of blocks that are neighbours on the device and in the buffer. True: all done. */
  private submitWrites(): boolean {
    while (this.submitAt < this.plan.pieceCount && this.inFlight < this.depth) {
      const piece = this.plan.pieceAt(this.submitAt);
      const kind = this.plan.pieceKinds[piece]!;
      const slot = this.plan.pieceSlots[piece]!;
      if (kind === PieceKind.Copy) {
        const offset = this.slots.unitOffset(slot);
        const buffer = this.plan.pieceBuffers[piece]!;
        this.bytesWritten += UNIT_SIZE;
        this.submit(DiskVerb.WriteDurable, DeviceRegion.Data, buffer, offset, UNIT_SIZE, piece);
        this.submitAt += 1;
      } else if (kind === PieceKind.InPlace) this.submitInPlace();
      else this.submitAt += 1;
    }
    return this.submitAt >= this.plan.pieceCount && this.inFlight === 0;
  }

  /** One run from (submitAt, writeBit) on; it may go on into following complete units. */
  private submitInPlace(): void {
    const plan = this.plan;
    let piece = plan.pieceAt(this.submitAt);
    let bits = plan.bitsToWrite(piece);
    while (this.writeBit < BLOCKS_PER_UNIT && ((bits >>> this.writeBit) & 1) === 0) {
      this.writeBit += 1;
    }
    if (this.writeBit === BLOCKS_PER_UNIT) {
      this.nextPiece();
      return;
    }
    const offset = this.slots.unitOffset(plan.pieceSlots[piece]!) + this.writeBit * BLOCK_SIZE;
    const buffer = plan.changeBuffers[piece * BLOCKS_PER_UNIT + this.writeBit]!;
    let blocks = 0;
    while (((bits >>> this.writeBit) & 1) === 1) {
      blocks += 1;
      this.writeBit += 1;
      if (this.writeBit < BLOCKS_PER_UNIT) continue;
      this.nextPiece();
      if (this.submitAt === plan.pieceCount) break;
      piece = plan.pieceAt(this.submitAt);
      if (plan.pieceKinds[piece] !== PieceKind.InPlace) break;
      if (this.slots.unitOffset(plan.pieceSlots[piece]!) !== offset + blocks * BLOCK_SIZE) break;
      bits = plan.bitsToWrite(piece);
      // Of a run that goes on; bit 0 may have no data, then the loop ends by itself.
      const next = plan.changeBuffers[piece * BLOCKS_PER_UNIT]!;
      if ((bits & 1) === 1 && next !== buffer + blocks * BLOCK_SIZE) break;
    }
    const length = blocks * BLOCK_SIZE;
    this.bytesWritten += length;
    this.submit(DiskVerb.Write, DeviceRegion.Data, buffer, offset, length, piece);
  }

  private nextPiece(): void {
    this.submitAt += 1;
    this.writeBit = 0;
  }

  /* ---------------------------------------------------------------- finish */

  private finish(): void {
    const before = this.blocksMoved;
    for (let piece = 0; piece < this.plan.pieceCount; piece++) {
      if (!this.failed) this.finishPiece(piece);
    }
    this.fruitless = this.blocksMoved === before;
    if (this.holds !== null) this.holds.release();
    this.eras.leave(this.era);
    this.stage = Stage.Idle;
    this.world.turns.again();
  }

  private finishPiece(piece: number): void {
    const plan = this.plan;
    const slot = plan.pieceSlots[piece]!;
    const zone = this.slots.zoneOf(slot);
    const index = this.slots.indexOf(slot);
    const state = zone.state[index]!;
    // Freed or overwritten as a whole while it was written: the unit waits in quarantine.
    if (state !== SlotState.Live && state !== SlotState.Forming) return;
    let kind = plan.pieceKinds[piece]!;
    // A fill of what is below: the copy is of what is no more.
    const copied = kind === PieceKind.Copy;
    if (copied && this.objects.baseOf(slot) !== plan.pieceBases[piece]) kind = PieceKind.Dropped;
    if (kind === PieceKind.Dropped) {
      this.objects.queue(slot);
      return;
    }
    // Nothing of it is home yet, so there is no row to add to.
    if ((zone.dataBits[index]! | zone.lostBits[index]!) === 0) this.slots.makeRow(slot);
    if (kind === PieceKind.Copy) {
      this.takeOverBase(piece, slot);
      zone.state[index] = SlotState.Live;
      this.unitsCopied += 1;
    }
    for (let bit = 0; bit < BLOCKS_PER_UNIT; bit++) {
      if (((plan.pieceBits[piece]! >>> bit) & 1) === 1) this.finishBlock(piece, slot, bit);
    }
    this.slots.markDirty(slot);
    if (zone.overlayBits[index] !== 0) this.objects.queue(slot);
  }

  private takeOverBase(piece: number, slot: number): void {
    const base = this.plan.pieceBases[piece]!;
    if (base === NONE) return;
    const from = this.slots.zoneOf(base);
    const fromIndex = this.slots.indexOf(base);
    const zone = this.slots.zoneOf(slot);
    const index = this.slots.indexOf(slot);
    const kept = ~this.plan.pieceBits[piece]!;
    zone.dataBits[index] = from.dataBits[fromIndex]! & kept;
    zone.lostBits[index] = from.lostBits[fromIndex]! & kept;
    if (zone.lostBits[index] !== 0) zone.holdsLost = true;
    for (let bit = 0; bit < BLOCKS_PER_UNIT; bit++) {
      const version = this.slots.versionOfBlock(base, bit);
      this.slots.setBlock(slot, bit, version, this.slots.crcOfBlock(base, bit));
    }
  }

  private finishBlock(piece: number, slot: number, bit: number): void {
    const plan = this.plan;
    const version = plan.changeVersions[piece * BLOCKS_PER_UNIT + bit]!;
    const overlay = this.objects.overlay;
    const at = overlay.find(slot, bit);
    // Zeroed meanwhile: what was written is not data any more.
    if (at < 0) return;
    const zone = this.slots.zoneOf(slot);
    const index = this.slots.indexOf(slot);
    const position = plan.changePositions[piece * BLOCKS_PER_UNIT + bit]!;
    let kind = OverlayKind.Data;
    if (((plan.pieceDataBits[piece]! >>> bit) & 1) === 0) kind = OverlayKind.Zero;
    if (overlay.version(at) === version && overlay.position(at) === position) {
      kind = overlay.kind(at);
      overlay.removeAt(at);
      zone.overlayBits[index] = zone.overlayBits[index]! & ~(1 << bit);
    }
    const on = 1 << bit;
    const crc = kind === OverlayKind.Data ? plan.changeCrcs[piece * BLOCKS_PER_UNIT + bit]! : 0;
    if (kind === OverlayKind.Zero) this.slots.setZero(slot, bit, version);
    else this.slots.setBlock(slot, bit, version, crc);
    zone.dataBits[index] =
      kind === OverlayKind.Data ? zone.dataBits[index]! | on : zone.dataBits[index]! & ~on;
    zone.lostBits[index] =
      kind === OverlayKind.Lost ? zone.lostBits[index]! | on : zone.lostBits[index]! & ~on;
    this.blocksMoved += 1;
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
