// data path
import { assert } from "../base/assert.ts";
import { Status } from "../base/status.ts";
import { BLOCK_SIZE, UNIT_SIZE } from "../base/units.ts";
import { type Device, DeviceOp, DeviceRegion } from "../device/device.ts";
import { DiskVerb } from "../reactor/world.ts";
import { NONE, type Quarantine, SlotState, type SlotTable } from "../store/store.ts";
import type { BatchTable } from "./batch-table.ts";
import { type Entry, EntryType } from "./entry.ts";
import type { EntryPool } from "./entry-pool.ts";
import type { GroupLog } from "./group-log.ts";
import type { LogRoom } from "./log-room.ts";
import { headBlocks } from "./record.ts";

/** Who is told of each direct write; handler phase. */
export interface DirectOwner {
  /** `entry.directPending` counts it out already; the entry is held until the call ends. */
  onDirectDone(entry: Entry, status: Status): void;
}

export interface DirectUnitsOptions {
  readonly device: Device;
  readonly slots: SlotTable;
  readonly quarantine: Quarantine;
  readonly batches: BatchTable;
  readonly entries: EntryPool;
}

/**
 * The whole aligned units of entries: written beside the log, each into a free unit of its own, from
 * `append` on. An entry holds a reference for every run of units under way. Units of an entry that
 * was cut wait in quarantine while the log may name them.
 */
export class DirectUnits {
  inFlight = 0;
  /** Grows for ever. */
  bytesWritten = 0;
  private readonly device: Device;
  private readonly slots: SlotTable;
  private readonly quarantine: Quarantine;
  private readonly batches: BatchTable;
  private readonly entries: EntryPool;
  private readonly room: LogRoom;
  private readonly owner: DirectOwner;
  private free: DirectIo | null = null;

  constructor(options: DirectUnitsOptions, room: LogRoom, owner: DirectOwner) {
    this.device = options.device;
    this.slots = options.slots;
    this.quarantine = options.quarantine;
    this.batches = options.batches;
    this.entries = options.entries;
    this.room = room;
    this.owner = owner;
  }

  /** Choose the units: new ones for each write. Space was reserved. */
  take(entry: Entry): void {
    entry.unitCount = 0;
    if (entry.type !== EntryType.Write || entry.bare) return;
    assert(entry.payload >= 0, "ShardLog.append: a write without payload");
    const whole = entry.reservedDirect;
    for (let unit = 0; unit < whole; unit++) {
      const slot =
        unit === 0 ? this.slots.takeUnit() : this.slots.takeUnitAfter(entry.units[unit - 1]!);
      assert(slot !== NONE, "ShardLog.append: reserved units are gone");
      entry.units[unit] = slot;
      entry.unitCount = unit + 1;
    }
    assert(entry.reservedUnits >= whole, "ShardLog.append: units were not reserved");
    entry.reservedUnits -= whole;
    this.room.reservedUnits -= whole;
  }

  /** Write the units, neighbours on the device as one. */
  submit(entry: Entry): void {
    const from = entry.payload + headBlocks(entry.firstBlock, entry.blocks) * BLOCK_SIZE;
    let unit = 0;
    while (unit < entry.unitCount) {
      let count = 1;
      while (
        unit + count < entry.unitCount &&
        entry.units[unit + count] === entry.units[unit]! + count
      ) {
        count += 1;
      }
      const io = this.takeIo();
      io.entry = entry;
      io.verb = DiskVerb.WriteDurable;
      io.region = DeviceRegion.Data;
      io.arenaOffset = from + unit * UNIT_SIZE;
      io.lengthBytes = count * UNIT_SIZE;
      io.offsetBytes = this.slots.unitOffset(entry.units[unit]!);
      this.entries.retain(entry);
      entry.directPending += 1;
      this.inFlight += 1;
      this.bytesWritten += io.lengthBytes;
      this.device.submit(io);
      unit += count;
    }
  }

  /** Called by `DirectIo` only. */
  onDone(io: DirectIo): void {
    const entry = io.entry;
    assert(entry !== null, "ShardLog: direct write without entry");
    io.entry = null;
    io.directNext = this.free;
    this.free = io;
    this.inFlight -= 1;
    entry.directPending -= 1;
    this.owner.onDirectDone(entry, io.status);
    this.entries.release(entry);
  }

  /** A durable entry will not be applied: free its units. */
  drop(group: GroupLog, index: number): void {
    for (let unit = 0; unit < group.unitCountAt(index); unit++) {
      const slot = group.unitAt(index, unit);
      // After a restart the unit may wait in quarantine already.
      if (this.slots.stateOf(slot) !== SlotState.Taken) continue;
      this.quarantine.put(slot, 0, this.batches.nextSeq);
    }
  }

  /** An entry that was cut before it was durable has no write under way any more: free its units. */
  dropOrphan(entry: Entry): void {
    for (let unit = 0; unit < entry.unitCount; unit++) {
      this.quarantine.put(entry.units[unit]!, 0, this.batches.nextSeq);
    }
    entry.unitCount = 0;
  }

  private takeIo(): DirectIo {
    const io = this.free;
    if (io === null) return makeDirect(this);
    this.free = io.directNext;
    io.directNext = null;
    return io;
  }
}

/** One run of whole units under way. */
class DirectIo extends DeviceOp {
  readonly units: DirectUnits;
  entry: Entry | null = null;
  directNext: DirectIo | null = null;

  constructor(units: DirectUnits) {
    super();
    this.units = units;
  }

  onComplete(): void {
    this.units.onDone(this);
  }
}

// cold: when the pool is empty.
function makeDirect(units: DirectUnits): DirectIo {
  return new DirectIo(units);
}
