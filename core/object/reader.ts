// data path
import { assert } from "../base/assert.ts";
import { Status } from "../base/status.ts";
import { BLOCK_SIZE, BLOCKS_PER_UNIT, PAYLOAD_BLOCKS_MAX } from "../base/units.ts";
import { type Device, DeviceOp, DeviceRegion } from "../device/device.ts";
import { DiskVerb, type Drain, DrainOrder, type World } from "../reactor/world.ts";
import { type Eras, SlotFlag } from "../store/store.ts";
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

  constructor(world: World, device: Device, objects: ObjectStore, eras: Eras, log: LogPlaces) {
    this.world = world;
    this.device = device;
    this.objects = objects;
    this.eras = eras;
    this.log = log;
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
    this.locate(op);
    if (op.statesOnly || op.dataBlocks === 0) return true;
    op.era = this.eras.enter();
    this.submitRuns(op);
    return false;
  }

  /** Version of a block, 0 when nothing is known of it. */
  versionOf(layer: number, block: number, snapSeq: number): number {
    const unit = Math.floor(block / BLOCKS_PER_UNIT);
    const row = this.objects.rowOfUnit(layer, unit, snapSeq);
    this.objects.openUnit(layer, unit, snapSeq, row);
    this.objects.blockAt(block % BLOCKS_PER_UNIT);
    return this.objects.sourceVersion;
  }

  private locate(op: StoreReadOp): void {
    let openUnit = -1;
    for (let at = 0; at < op.blocks; at++) {
      const block = op.firstBlock + at;
      const unit = Math.floor(block / BLOCKS_PER_UNIT);
      if (unit !== openUnit) {
        this.objects.openUnit(op.layer, unit, op.snapSeq, op.row);
        openUnit = unit;
      }
      this.objects.blockAt(block % BLOCKS_PER_UNIT);
      this.take(op, at, block % BLOCKS_PER_UNIT);
    }
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
    if (op.pending > 0) return;
    if (op.damagedBlocks > 0) this.lookAgain(op);
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

  /** Read what moved meanwhile once more; the rest is damaged. */
  private lookAgain(op: StoreReadOp): void {
    op.tries += 1;
    if (op.tries > TRIES_MAX) return;
    for (let at = 0; at < op.blocks; at++) {
      if (op.states[at] !== BlockState.Damaged) continue;
      const version = op.versions[at]!;
      const source = op.sources[at]!;
      const crc = op.crcs[at]!;
      const block = op.firstBlock + at;
      const unit = Math.floor(block / BLOCKS_PER_UNIT);
      this.objects.openUnit(op.layer, unit, op.snapSeq, op.row);
      this.objects.blockAt(block % BLOCKS_PER_UNIT);
      op.dataBlocks -= 1;
      this.take(op, at, block % BLOCKS_PER_UNIT);
      const same = op.versions[at] === version && op.crcs[at] === crc;
      if (same && op.sources[at] === source) {
        op.states[at] = BlockState.Damaged;
        continue;
      }
      op.damagedBlocks -= 1;
      if (op.sources[at]! >= 0) this.submit(op, at, 1);
    }
  }

  /** Rewrite a damaged block where it lies, in the log or at home. `onDone` follows. */
  repair(op: StoreRepairOp): void {
    const bit = op.block % BLOCKS_PER_UNIT;
    const objects = this.objects;
    objects.openUnit(op.layer, Math.floor(op.block / BLOCKS_PER_UNIT), op.snapSeq, op.row);
    objects.blockAt(bit);
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

// cold: when the pool is empty.
function makeReadIo(reader: Reader): ReadIo {
  return new ReadIo(reader);
}

// cold: when the pool is empty.
function makeRepairIo(reader: Reader): RepairIo {
  return new RepairIo(reader);
}
