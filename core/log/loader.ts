// data path
import { assert } from "../base/assert.ts";
import { Status } from "../base/status.ts";
import { BLOCK_SIZE, BLOCKS_PER_UNIT, UNIT_SIZE } from "../base/units.ts";
import { type Device, DeviceOp, DeviceRegion } from "../device/device.ts";
import { DiskVerb, type Drain, DrainOrder, type World } from "../reactor/world.ts";
import {
  type Eras,
  NONE,
  type PageLoader,
  PageWaiter,
  SlotState,
  type SlotTable,
} from "../store/store.ts";
import type { Entry } from "./entry.ts";
import type { StoreLoadOp } from "./load-op.ts";
import { headBlocks, RecordView } from "./record.ts";
import type { ShardLog } from "./shard-log.ts";

/** Stages of a load: `await readRecord(); await readPayload(); verify()`. */
enum LoadStage {
  Record = 0,
  Payload = 1,
  Done = 2,
}

/** A record straddles at most two header blocks. */
const RECORD_BUFFER_BYTES = 2 * BLOCK_SIZE;
const TRIES_MAX = 3;

/**
 * Reads entries back from the log, for followers that are behind and for R4.
 *
 * Inline payload lies in the log, direct payload in the units that the record names: R5 keeps a freed
 * unit untouched while the log names it. A block of a unit in use, though, may have been overwritten
 * in place by a *committed later* entry of the same layer and snapSeq. Then the old payload of that
 * block is dead: no state at or behind that entry shows it, and every later leader has that entry.
 * Such a block is sent as zeros, with the checksum of zeros.
 */
export class Loader implements Drain {
  private readonly world: World;
  private readonly device: Device;
  private readonly log: ShardLog;
  private readonly slots: SlotTable;
  private readonly eras: Eras;
  private readonly record: RecordView;
  private free: LoadIo | null = null;
  /** Null: the index is resident. */
  private readonly pages: PageLoader | null;
  /** `verify` wants the row of this unit, which is not in memory; NONE: it does not. */
  private rowWanted: number = NONE;
  /** Answered without a read: told in the next drain. */
  private doneHead: StoreLoadOp | null = null;

  constructor(
    world: World,
    device: Device,
    log: ShardLog,
    slots: SlotTable,
    eras: Eras,
    pages: PageLoader | null,
  ) {
    this.world = world;
    this.device = device;
    this.log = log;
    this.slots = slots;
    this.eras = eras;
    this.pages = pages;
    this.record = new RecordView(world.arena.view);
    world.turns.addDrain(DrainOrder.Receive, this);
  }

  load(op: StoreLoadOp): void {
    assert(op.pending === 0, "Loader.load: the op is under way");
    assert(op.entry !== null, "Loader.load: no entry to fill");
    const group = this.log.group(op.row);
    op.buffer = -1;
    op.tries = 0;
    op.replicaId = group.replicaId;
    op.status = Status.Ok;
    if (!group.holds(op.index)) op.status = Status.Invalid;
    else if (this.isUnderWay(group.seqAt(op.index))) op.status = Status.Busy;
    else {
      op.buffer = this.world.slots.take(RECORD_BUFFER_BYTES);
      if (op.buffer < 0) op.status = Status.Busy;
    }
    if (op.status !== Status.Ok) {
      op.loadNext = this.doneHead;
      this.doneHead = op;
      this.world.turns.again();
      return;
    }
    op.era = this.eras.enter();
    op.stage = LoadStage.Record;
    const batch = this.log.batches.positionOf(group.seqAt(op.index));
    const recordAt = group.recordAt(op.index);
    const block = batch + Math.floor(recordAt / BLOCK_SIZE);
    op.recordAt = op.buffer + (recordAt % BLOCK_SIZE);
    // The second block may be payload, or the end of the run: then the record does not reach it.
    const blocks = this.log.space.contiguous(block) > 1 ? 2 : 1;
    const offset = this.log.space.deviceOffset(block);
    this.submit(op, DeviceRegion.Log, op.buffer, offset, blocks * BLOCK_SIZE);
  }

  private isUnderWay(seq: number): boolean {
    return seq === 0 || seq > this.log.completedSeq;
  }

  drain(): void {
    let op = this.doneHead;
    this.doneHead = null;
    while (op !== null) {
      const next: StoreLoadOp | null = op.loadNext;
      op.loadNext = null;
      op.onDone();
      op = next;
    }
  }

  private submit(
    op: StoreLoadOp,
    region: DeviceRegion,
    arenaOffset: number,
    offsetBytes: number,
    lengthBytes: number,
  ): void {
    let io = this.free;
    if (io === null) io = makeLoadIo(this);
    else this.free = io.loadNext;
    io.loadNext = null;
    io.op = op;
    io.verb = DiskVerb.Read;
    io.region = region;
    io.arenaOffset = arenaOffset;
    io.offsetBytes = offsetBytes;
    io.lengthBytes = lengthBytes;
    op.pending += 1;
    this.device.submit(io);
  }

  /** Called by `LoadIo` only. */
  onRead(io: LoadIo): void {
    const op = io.op;
    assert(op !== null, "Loader: read without op");
    if (io.status !== Status.Ok) op.status = Status.Damaged;
    io.op = null;
    io.loadNext = this.free;
    this.free = io;
    op.pending -= 1;
    if (op.pending > 0) return;
    this.advance(op);
  }

  /** Called by `RowWait` only: the row is here that `verify` wanted. */
  onRow(op: StoreLoadOp, isLoaded: boolean): void {
    if (!isLoaded) op.status = Status.DeviceFailed;
    this.advance(op);
  }

  private advance(op: StoreLoadOp): void {
    const entry = op.entry!;
    // The replica may have been removed meanwhile, and its row given to another.
    const group = this.log.groups[op.row]!;
    if (!group.alive || group.replicaId !== op.replicaId) op.status = Status.Invalid;
    if (op.status === Status.Ok && op.stage === LoadStage.Record) {
      if (this.readRecord(op, entry)) return;
    } else if (op.status === Status.Ok && op.stage === LoadStage.Payload) {
      if (!this.verify(entry)) {
        if (this.rowWanted !== NONE) {
          this.pages!.load(this.rowWanted, makeRowWait(this, op));
          return;
        }
        op.tries += 1;
        if (op.tries < TRIES_MAX && group.holds(op.index)) {
          this.readPayload(op, entry);
          return;
        }
        op.status = Status.Damaged;
      }
    }
    this.finish(op);
  }

  /** Parse the record, start reading the payload. False: there is none, or an error. */
  private readRecord(op: StoreLoadOp, entry: Entry): boolean {
    const record = this.record;
    const left = op.buffer + RECORD_BUFFER_BYTES - op.recordAt;
    const group = this.log.group(op.row);
    if (
      !record.load(this.world.arena.view, op.recordAt, left) ||
      record.index !== op.index ||
      record.pg !== group.pg ||
      record.replicaId !== group.replicaId
    ) {
      op.status = Status.Damaged;
      return false;
    }
    record.fill(entry);
    entry.group = op.row;
    op.inlineCount = record.inlineCount;
    if (op.isBare || record.inlineCount + entry.unitCount === 0) return false;
    if (!group.holds(op.index)) {
      // The tail has passed it meanwhile: nothing tells where its payload lies.
      op.status = Status.Invalid;
      return false;
    }
    entry.payload = this.world.slots.take(entry.blocks * BLOCK_SIZE);
    if (entry.payload < 0) {
      op.status = Status.Busy;
      return false;
    }
    op.stage = LoadStage.Payload;
    this.readPayload(op, entry);
    return true;
  }

  private readPayload(op: StoreLoadOp, entry: Entry): void {
    const group = this.log.group(op.row);
    const head = entry.unitCount === 0 ? entry.blocks : headBlocks(entry.firstBlock, entry.blocks);
    const tail = op.inlineCount - head;
    const inline = group.inlineAt(op.index);
    const region = DeviceRegion.Log;
    if (head > 0) {
      const offset = this.log.space.deviceOffset(inline);
      this.submit(op, region, entry.payload, offset, head * BLOCK_SIZE);
    }
    for (let unit = 0; unit < entry.unitCount; unit++) {
      const to = entry.payload + (head + unit * BLOCKS_PER_UNIT) * BLOCK_SIZE;
      const offset = this.slots.unitOffset(entry.units[unit]!);
      this.submit(op, DeviceRegion.Data, to, offset, UNIT_SIZE);
    }
    if (tail <= 0) return;
    const to = entry.payload + (entry.blocks - tail) * BLOCK_SIZE;
    const offset = this.log.space.deviceOffset(inline + head);
    this.submit(op, region, to, offset, tail * BLOCK_SIZE);
  }

  /** Verify the payload; dead blocks that do not match any more become zeros. */
  private verify(entry: Entry): boolean {
    const head = headBlocks(entry.firstBlock, entry.blocks);
    const direct = entry.unitCount * BLOCKS_PER_UNIT;
    const arena = this.world.arena;
    this.rowWanted = NONE;
    for (let block = 0; block < entry.blocks; block++) {
      const at = entry.payload + block * BLOCK_SIZE;
      const crc = this.world.checksum.crc32(arena.block(at), 0);
      if (crc === entry.crcs[block]) continue;
      if (block < head || block >= head + direct) return false;
      const unit = entry.units[Math.floor((block - head) / BLOCKS_PER_UNIT)]!;
      if (!this.isDead(unit, (block - head) % BLOCKS_PER_UNIT, entry.index)) return false;
      arena.bytes.fill(0, at, at + BLOCK_SIZE);
      entry.crcs[block] = this.world.checksum.crc32(arena.block(at), 0);
    }
    return true;
  }

  /** Has an applied entry behind `index`, or a fill, replaced the block, or the whole unit? */
  private isDead(unit: number, bit: number, index: number): boolean {
    const state = this.slots.stateOf(unit);
    if (state === SlotState.Quarantined) return true;
    if (state !== SlotState.Live) return false;
    if (this.slots.isAbsent(unit)) {
      this.rowWanted = unit;
      return false;
    }
    if (this.slots.versionOfBlock(unit, bit) !== index) return true;
    const overlayBits = this.slots.zoneOf(unit).overlayBits[this.slots.indexOf(unit)]!;
    return ((overlayBits >>> bit) & 1) === 1;
  }

  private finish(op: StoreLoadOp): void {
    this.world.slots.release(op.buffer);
    op.buffer = -1;
    op.stage = LoadStage.Done;
    this.eras.leave(op.era);
    op.onDone();
  }
}

class RowWait extends PageWaiter {
  private readonly loader: Loader;
  private readonly op: StoreLoadOp;

  constructor(loader: Loader, op: StoreLoadOp) {
    super();
    this.loader = loader;
    this.op = op;
  }

  onPage(isLoaded: boolean): void {
    this.loader.onRow(this.op, isLoaded);
  }
}

// cold: an entry whose unit changed since.
function makeRowWait(loader: Loader, op: StoreLoadOp): RowWait {
  return new RowWait(loader, op);
}

class LoadIo extends DeviceOp {
  readonly loader: Loader;
  op: StoreLoadOp | null = null;
  loadNext: LoadIo | null = null;

  constructor(loader: Loader) {
    super();
    this.loader = loader;
  }

  onComplete(): void {
    this.loader.onRead(this);
  }
}

// cold: when the pool is empty.
function makeLoadIo(loader: Loader): LoadIo {
  return new LoadIo(loader);
}
