import { assert } from "../base/assert.ts";
import { Status } from "../base/status.ts";
import { BLOCK_SIZE } from "../base/units.ts";
import {
  type Backend,
  type Disk,
  type DiskOp,
  DiskVerb,
  DrainOrder,
  type World,
} from "../reactor/world.ts";
import {
  encodeSlot,
  type Geometry,
  type ShardZones,
  SLOT_SIZE,
  SLOTS_PER_PAGE,
  SlotState,
  SlotZone,
  slotSeed,
  zoneOffset,
} from "../store/store.ts";

/** What the units of a full disk hold: the first ones of a layer, in their order, all blocks written. */
export interface FullUnits {
  /** Of the store: what its checksums begin with. */
  readonly seed: number;
  readonly pg: number;
  readonly layer: number;
  readonly count: number;
  /** Of all blocks. */
  readonly version: number;
  /** Of all pages. */
  readonly pageStamp: number;
}

/** Bytes that were written, by what they are. */
export interface WrittenBytes {
  log: number;
  home: number;
  index: number;
  /** Checkpoints, and the few of superblock and zone table. */
  checkpoints: number;
}

const ALL_BLOCKS = 0xffff;
const EIO = 5;

/**
 * A disk for a store of one shard, of which only the log and the checkpoints exist, on a disk beneath.
 * What is written to data zones is counted and dropped. What is read of their index pages is made up:
 * nothing, and from `fill` on that all units are in use. Units themselves can not be read.
 *
 * So an index of any size is met by a store that starts, by its own way, without the years that it takes
 * to write one; and the home writes of a TiB need no TiB.
 */
export class FullDisk implements Disk {
  readonly written: WrittenBytes = { log: 0, home: 0, index: 0, checkpoints: 0 };
  private readonly world: World;
  private readonly beneath: Disk;
  private readonly geometry: Geometry;
  private readonly metaOffset: number;
  private readonly dataOffset: number;
  private pages: FullPages | null = null;
  private done: DiskOp[] = [];

  constructor(world: World, beneath: Disk, geometry: Geometry, zones: ShardZones) {
    this.world = world;
    this.beneath = beneath;
    this.geometry = geometry;
    this.metaOffset = zoneOffset(geometry, zones.log);
    this.dataOffset = zoneOffset(geometry, zones.log + zones.meta);
    world.turns.addDrain(DrainOrder.Receive, this);
  }

  get sizeBytes(): number {
    return this.beneath.sizeBytes;
  }

  get path(): string {
    return this.beneath.path;
  }

  get backend(): Backend {
    return this.beneath.backend;
  }

  get direct(): boolean {
    return this.beneath.direct;
  }

  get inFlight(): number {
    return this.beneath.inFlight + this.done.length;
  }

  /** From here on index pages are those of a full store. */
  fill(units: FullUnits): void {
    this.pages = new FullPages(this.world, this.geometry, units);
  }

  submit(op: DiskOp): void {
    const { verb, offsetBytes } = op;
    if (verb === DiskVerb.Write || verb === DiskVerb.WriteDurable) this.count(op);
    if (verb === DiskVerb.Flush || !this.isData(offsetBytes)) {
      this.beneath.submit(op);
      return;
    }
    op.status = Status.Ok;
    op.errno = 0;
    if (verb === DiskVerb.Read) this.read(op);
    this.done.push(op);
    this.world.turns.again();
  }

  drain(): void {
    if (this.done.length === 0) return;
    const { done } = this;
    this.done = [];
    for (const op of done) op.onDone();
  }

  /** What is dropped takes no space. */
  bytesBeneath(): number {
    return Number.POSITIVE_INFINITY;
  }

  /** Stays open for a start after `fill`. */
  close(): void {
    if (this.pages !== null) this.beneath.close();
  }

  private count({ offsetBytes, lengthBytes }: DiskOp): void {
    const { written, geometry } = this;
    if (this.isData(offsetBytes)) {
      if (this.withinZone(offsetBytes) < geometry.unitsOffset) written.index += lengthBytes;
      else written.home += lengthBytes;
    } else if (offsetBytes >= geometry.zonesOffset && offsetBytes < this.metaOffset) {
      written.log += lengthBytes;
    } else written.checkpoints += lengthBytes;
  }

  private isData(offsetBytes: number): boolean {
    const { zonesOffset, zoneCount, zoneSize } = this.geometry;
    return offsetBytes >= this.dataOffset && offsetBytes < zonesOffset + zoneCount * zoneSize;
  }

  private withinZone(offsetBytes: number): number {
    return (offsetBytes - this.dataOffset) % this.geometry.zoneSize;
  }

  private read(op: DiskOp): void {
    const { geometry, world } = this;
    const within = this.withinZone(op.offsetBytes);
    if (within >= geometry.unitsOffset) {
      op.status = Status.DeviceFailed;
      op.errno = EIO;
      return;
    }
    if (this.pages === null) {
      world.arena.bytes.fill(0, op.arenaOffset, op.arenaOffset + op.lengthBytes);
      return;
    }
    const zone = Math.floor((op.offsetBytes - this.dataOffset) / geometry.zoneSize);
    for (let at = 0; at < op.lengthBytes; at += BLOCK_SIZE) {
      this.pages.encode(zone, (within + at) / BLOCK_SIZE, op.arenaOffset + at);
    }
  }
}

/** Index pages of units that are in use, as the page writer lays them out. */
class FullPages {
  private readonly world: World;
  private readonly geometry: Geometry;
  private readonly units: FullUnits;
  /** The slots of one page. */
  private readonly slots: SlotZone;

  constructor(world: World, geometry: Geometry, units: FullUnits) {
    assert(units.version > 0, "FullPages: blocks without a version");
    this.world = world;
    this.geometry = geometry;
    this.units = units;
    this.slots = new SlotZone(geometry, 0);
    this.slots.open(SLOTS_PER_PAGE, true);
    this.slots.version.fill(units.version);
    this.slots.versionLow.fill(units.version);
    this.slots.dataBits.fill(ALL_BLOCKS);
  }

  encode(zone: number, page: number, at: number): void {
    const { arena, checksum } = this.world;
    const { unitsPerZone, slotShift } = this.geometry;
    const { seed, pg, layer, count, pageStamp } = this.units;
    for (let index = 0; index < SLOTS_PER_PAGE; index++) {
      const ofZone = page * SLOTS_PER_PAGE + index;
      const unit = zone * unitsPerZone + ofZone;
      const isUsed = ofZone < unitsPerZone && unit < count;
      this.slots.state[index] = isUsed ? SlotState.Live : SlotState.Free;
      this.slots.unit[index] = unit;
      this.slots.version[index] = isUsed ? this.units.version : 0;
      const to = at + index * SLOT_SIZE;
      const bytes = arena.bytes.subarray(to, to + SLOT_SIZE);
      const slot = ((zone << slotShift) | ofZone) >>> 0;
      const crcSeed = slotSeed(seed, 0, slot);
      const { slots } = this;
      encodeSlot(arena.view, to, bytes, slots, index, layer, pg, pageStamp, crcSeed, checksum);
    }
  }
}
