// data path
import { assert } from "../base/assert.ts";
import { Status } from "../base/status.ts";
import { BLOCK_SIZE, BLOCKS_PER_UNIT, PAYLOAD_BLOCKS_MAX } from "../base/units.ts";
import { type Device, DeviceOp, DeviceRegion } from "../device/device.ts";
import { DiskVerb, type Drain, DrainOrder, type World } from "../reactor/world.ts";
import { type Eras, type PageLoader, PageWaiter, SlotFlag } from "../store/store.ts";
import { type ObjectStore, SourceKind } from "./object-store.ts";
import { BlockState, type StoreReadOp, type StoreRepairOp } from "./ops.ts";

/** Where log blocks lie on the device. */
export interface LogPlaces {
  deviceOffset(block: number): number;
}

/** Looking again is bounded: each try answers to a block that moved home meanwhile. */
const TRIES_MAX = 16;

/**
 * Reads blocks: overlay, else the slot; every byte that comes from the device is checked.
 *
 * A mismatch is not damage yet: the mover may have rewritten the place in between. The block is
 * looked up again; if it now lies elsewhere or has another version, it is read again. Only a block
 * that still has the same place and version is damaged.
 *
 * The era of a read keeps log blocks and units from being reused under it.
 *
 * When the index is paged, a block may lie in a unit whose row is not in memory: the op waits for it and
 * goes on with that block. What it found before stands: had that moved, it is looked up again as above.
 */
export class Reader implements Drain {
  checksumFailures = 0;
  blocksHealed = 0;
  bytesRead = 0;
  private readonly world: World;
  private readonly device: Device;
  private readonly objects: ObjectStore;
  private readonly eras: Eras;
  private readonly log: LogPlaces;
  private free: ReadIo | null = null;
  private repairFree: RepairIo | null = null;
  private refused: StoreRepairOp | null = null;
  private rowFree: RowWait | null = null;
  /** Null: the index is resident. */
  private readonly pages: PageLoader | null;

  constructor(
    world: World,
    device: Device,
    objects: ObjectStore,
    eras: Eras,
    log: LogPlaces,
    pages: PageLoader | null,
  ) {
    this.world = world;
    this.device = device;
    this.objects = objects;
    this.eras = eras;
    this.log = log;
    this.pages = pages;
    world.turns.addDrain(DrainOrder.Receive, this);
  }

  /** True: answered at once. False: `onDone` follows. */
  read(op: StoreReadOp): boolean {
    assert(op.blocks >= 1 && op.blocks <= PAYLOAD_BLOCKS_MAX, "Reader.read: block count");
    assert(op.pending === 0, "Reader.read: the op is under way");
    op.status = Status.Ok;
    op.tries = 0;
    op.dataBlocks = 0;
    op.damagedBlocks = 0;
    op.located = 0;
    op.lookedAgain = -1;
    if (!this.locate(op)) {
      op.era = this.eras.enter();
      this.awaitRow(op);
      return false;
    }
    if (op.statesOnly || op.dataBlocks === 0) return true;
    op.era = this.eras.enter();
    this.submitRuns(op);
    return false;
  }

  /**
   * Version of a block, 0 when nothing is known of it. -1: its row is not in memory, and will be in a
   * moment.
   */
  versionOf(layer: number, block: number, snapSeq: number): number {
    const unit = Math.floor(block / BLOCKS_PER_UNIT);
    const row = this.objects.rowOfUnit(layer, unit, snapSeq);
    this.objects.openUnit(layer, unit, snapSeq, row);
    this.objects.blockAt(block % BLOCKS_PER_UNIT);
    if (!this.objects.sourceAbsent) return this.objects.sourceVersion;
    this.waitFor(this.takeWait());
    return -1;
  }

  /** Find the blocks from `op.located` on. False: the row of that one has to be loaded first. */
  private locate(op: StoreReadOp): boolean {
    let openUnit = -1;
    for (let at = op.located; at < op.blocks; at++) {
      const block = op.firstBlock + at;
      const unit = Math.floor(block / BLOCKS_PER_UNIT);
      if (unit !== openUnit) {
        this.objects.openUnit(op.layer, unit, op.snapSeq, op.row);
        openUnit = unit;
      }
      this.objects.blockAt(block % BLOCKS_PER_UNIT);
      if (this.objects.sourceAbsent) {
        op.located = at;
        return false;
      }
      this.take(op, at, block % BLOCKS_PER_UNIT);
    }
    op.located = op.blocks;
    return true;
  }

  /* ------------------------------------------------------------ rows to come */

  /** The op goes on when the row is there in which `blockAt` found its block. */
  private awaitRow(op: StoreReadOp): void {
    const wait = this.takeWait();
    wait.read = op;
    op.pending += 1;
    this.waitFor(wait);
  }

  private takeWait(): RowWait {
    let wait = this.rowFree;
    if (wait === null) wait = makeRowWait(this);
    else this.rowFree = wait.rowNext;
    wait.rowNext = null;
    return wait;
  }

  private waitFor(wait: RowWait): void {
    const { pages } = this;
    assert(pages !== null, "Reader: a row is not in memory, and the index is resident");
    pages.load(this.objects.sourceSlot, wait);
  }

  /** Called by `RowWait` only. */
  onRow(wait: RowWait, isLoaded: boolean): void {
    const { read, repair } = wait;
    wait.read = null;
    wait.repair = null;
    wait.rowNext = this.rowFree;
    this.rowFree = wait;
    if (read !== null) this.goOn(read, isLoaded);
    if (repair === null) return;
    if (isLoaded) this.repair(repair);
    else this.refuseRepair(repair, Status.DeviceFailed);
  }

  private goOn(op: StoreReadOp, isLoaded: boolean): void {
    op.pending -= 1;
    if (!isLoaded) {
      op.status = Status.DeviceFailed;
      if (op.pending > 0) return;
      this.eras.leave(op.era);
      op.onDone();
      return;
    }
    if (op.located === op.blocks) {
      if (op.pending === 0) this.settle(op);
      return;
    }
    if (!this.locate(op)) this.awaitRow(op);
    else if (op.statesOnly || op.dataBlocks === 0) {
      this.eras.leave(op.era);
      op.onDone();
    } else this.submitRuns(op);
  }

  /** Copy what `blockAt` found into the op. */
  private take(op: StoreReadOp, at: number, bit: number): void {
    const objects = this.objects;
    op.versions[at] = objects.sourceVersion;
    op.crcs[at] = objects.sourceCrc;
    op.sources[at] = -1;
    switch (objects.sourceKind) {
      case SourceKind.Zero:
        op.states[at] = BlockState.Zero;
        break;
      case SourceKind.Lost:
        op.states[at] = BlockState.Lost;
        break;
      case SourceKind.Log:
        op.states[at] = BlockState.Data;
        op.sources[at] = this.log.deviceOffset(objects.sourcePosition);
        op.dataBlocks += 1;
        break;
      case SourceKind.Home:
        op.states[at] = BlockState.Data;
        op.sources[at] = objects.slots.unitOffset(objects.sourceSlot) + bit * BLOCK_SIZE;
        op.dataBlocks += 1;
        break;
    }
  }

  /** One device read for blocks that are neighbours on the device too. */
  private submitRuns(op: StoreReadOp): void {
    let first = 0;
    while (first < op.blocks) {
      if (op.sources[first]! < 0) {
        first += 1;
        continue;
      }
      let count = 1;
      while (
        first + count < op.blocks &&
        op.sources[first + count] === op.sources[first]! + count * BLOCK_SIZE
      ) {
        count += 1;
      }
      this.submit(op, first, count);
      first += count;
    }
  }

  private submit(op: StoreReadOp, first: number, count: number): void {
    let io = this.free;
    if (io === null) io = makeReadIo(this);
    else this.free = io.readNext;
    io.readNext = null;
    io.op = op;
    io.first = first;
    io.count = count;
    io.verb = DiskVerb.Read;
    io.region = DeviceRegion.Data;
    io.arenaOffset = op.arenaOffset + first * BLOCK_SIZE;
    io.lengthBytes = count * BLOCK_SIZE;
    io.offsetBytes = op.sources[first]!;
    op.pending += 1;
    this.bytesRead += io.lengthBytes;
    this.device.submit(io);
  }

  /** Called by `ReadIo` only. */
  onRead(io: ReadIo): void {
    const op = io.op;
    assert(op !== null, "Reader: read without op");
    if (io.status !== Status.Ok && io.count > 1) {
      // One sector can not be read: its neighbours can.
      for (let at = io.first; at < io.first + io.count; at++) this.submit(op, at, 1);
    } else this.verify(op, io);
    io.op = null;
    io.readNext = this.free;
    this.free = io;
    op.pending -= 1;
    if (op.pending === 0) this.settle(op);
  }

  /** Every read of the op has ended. */
  private settle(op: StoreReadOp): void {
    while (op.damagedBlocks > 0 && op.status === Status.Ok && this.lookAgain(op));
    if (op.pending > 0) return;
    op.dataBlocks -= op.damagedBlocks;
    this.checksumFailures += op.damagedBlocks;
    this.eras.leave(op.era);
    op.onDone();
  }

  private verify(op: StoreReadOp, io: ReadIo): void {
    for (let at = io.first; at < io.first + io.count; at++) {
      let good = io.status === Status.Ok;
      if (good) {
        const bytes = this.world.arena.block(op.arenaOffset + at * BLOCK_SIZE);
        good = this.world.checksum.crc32(bytes, 0) === op.crcs[at];
      }
      if (good) continue;
      op.states[at] = BlockState.Damaged;
      op.damagedBlocks += 1;
    }
  }

  /**
   * Read what moved meanwhile once more; the rest is damaged. True: what was read again has ended
   * already, so there is one more look.
   */
  private lookAgain(op: StoreReadOp): boolean {
    if (op.lookedAgain < 0) {
      op.tries += 1;
      op.lookedAgain = 0;
      op.readAgain = false;
    }
    if (op.tries > TRIES_MAX) return false;
    for (let at = op.lookedAgain; at < op.blocks; at++) {
      if (op.states[at] !== BlockState.Damaged) continue;
      const version = op.versions[at]!;
      const source = op.sources[at]!;
      const crc = op.crcs[at]!;
      const block = op.firstBlock + at;
      const unit = Math.floor(block / BLOCKS_PER_UNIT);
      this.objects.openUnit(op.layer, unit, op.snapSeq, op.row);
      this.objects.blockAt(block % BLOCKS_PER_UNIT);
      if (this.objects.sourceAbsent) {
        // It has moved home, and its page was written: this block and those behind it wait. Those before
        // it are not looked at anew: their rows may have gone for this one's.
        op.lookedAgain = at;
        this.awaitRow(op);
        return false;
      }
      op.dataBlocks -= 1;
      this.take(op, at, block % BLOCKS_PER_UNIT);
      const same = op.versions[at] === version && op.crcs[at] === crc;
      if (same && op.sources[at] === source) {
        op.states[at] = BlockState.Damaged;
        continue;
      }
      op.damagedBlocks -= 1;
      if (op.sources[at]! < 0) continue;
      op.readAgain = true;
      this.submit(op, at, 1);
    }
    op.lookedAgain = -1;
    return op.readAgain && op.pending === 0;
  }

  /** Rewrite a damaged block where it lies, in the log or at home. `onDone` follows. */
  repair(op: StoreRepairOp): void {
    const bit = op.block % BLOCKS_PER_UNIT;
    const objects = this.objects;
    objects.openUnit(op.layer, Math.floor(op.block / BLOCKS_PER_UNIT), op.snapSeq, op.row);
    objects.blockAt(bit);
    if (objects.sourceAbsent) {
      const wait = this.takeWait();
      wait.repair = op;
      this.waitFor(wait);
      return;
    }
    const home = objects.sourceKind === SourceKind.Home;
    op.status = this.judgeRepair(op, home);
    if (op.status !== Status.Ok) {
      this.refuseRepair(op, op.status);
      return;
    }
    let io = this.repairFree;
    if (io === null) io = makeRepairIo(this);
    else this.repairFree = io.repairNext;
    io.repairNext = null;
    io.op = op;
    io.era = this.eras.enter();
    io.slot = home ? objects.sourceSlot : -1;
    if (home) this.setRepairing(io.slot, true);
    io.verb = DiskVerb.WriteDurable;
    io.region = DeviceRegion.Data;
    io.offsetBytes = home
      ? objects.slots.unitOffset(io.slot) + bit * BLOCK_SIZE
      : this.log.deviceOffset(objects.sourcePosition);
    io.arenaOffset = op.arenaOffset;
    io.lengthBytes = BLOCK_SIZE;
    this.device.submit(io);
  }

  /** Answer in the next drain: `onDone` never runs within `repair`. */
  refuseRepair(op: StoreRepairOp, status: Status): void {
    op.status = status;
    op.repairNext = this.refused;
    this.refused = op;
    this.world.turns.again();
  }

  drain(): void {
    let op = this.refused;
    this.refused = null;
    while (op !== null) {
      const next: StoreRepairOp | null = op.repairNext;
      op.repairNext = null;
      op.onDone();
      op = next;
    }
  }

  private judgeRepair(op: StoreRepairOp, home: boolean): Status {
    const objects = this.objects;
    const bytes = this.world.arena.block(op.arenaOffset);
    if (this.world.checksum.crc32(bytes, 0) !== op.crc) return Status.Invalid;
    if (!home && objects.sourceKind !== SourceKind.Log) return Status.Conflict;
    if (objects.sourceVersion !== op.version) return Status.Conflict;
    if (objects.sourceCrc !== op.crc) return Status.Invalid;
    return Status.Ok;
  }

  private setRepairing(slot: number, on: boolean): void {
    const slots = this.objects.slots;
    const zone = slots.zoneOf(slot);
    const index = slots.indexOf(slot);
    const flags = zone.flags[index]!;
    zone.flags[index] = on ? flags | SlotFlag.Repairing : flags & ~SlotFlag.Repairing;
  }

  /** Called by `RepairIo` only. */
  onRepaired(io: RepairIo): void {
    const op = io.op;
    assert(op !== null, "Reader: repair without op");
    this.eras.leave(io.era);
    if (io.slot >= 0) this.setRepairing(io.slot, false);
    op.status = io.status;
    if (io.status === Status.Ok) this.blocksHealed += 1;
    io.op = null;
    io.repairNext = this.repairFree;
    this.repairFree = io;
    op.onDone();
  }
}

/** One run of neighbouring blocks. */
class ReadIo extends DeviceOp {
  readonly reader: Reader;
  op: StoreReadOp | null = null;
  first = 0;
  count = 0;
  readNext: ReadIo | null = null;

  constructor(reader: Reader) {
    super();
    this.reader = reader;
  }

  onComplete(): void {
    this.reader.onRead(this);
  }
}

class RepairIo extends DeviceOp {
  readonly reader: Reader;
  op: StoreRepairOp | null = null;
  slot = -1;
  era = 0;
  repairNext: RepairIo | null = null;

  constructor(reader: Reader) {
    super();
    this.reader = reader;
  }

  onComplete(): void {
    this.reader.onRepaired(this);
  }
}

/** Waits for a row: a read, a repair, or nobody, who asks again. */
class RowWait extends PageWaiter {
  readonly reader: Reader;
  read: StoreReadOp | null = null;
  repair: StoreRepairOp | null = null;
  rowNext: RowWait | null = null;

  constructor(reader: Reader) {
    super();
    this.reader = reader;
  }

  onPage(isLoaded: boolean): void {
    this.reader.onRow(this, isLoaded);
  }
}

// cold: when the pool is empty.
function makeRowWait(reader: Reader): RowWait {
  return new RowWait(reader);
}

// cold: when the pool is empty.
function makeReadIo(reader: Reader): ReadIo {
  return new ReadIo(reader);
}

// cold: when the pool is empty.
function makeRepairIo(reader: Reader): RepairIo {
  return new RepairIo(reader);
}
