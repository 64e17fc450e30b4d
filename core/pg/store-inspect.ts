// cold path: inspect and fsck run by hand on a stopped store.
import { FastblockError, withDevice } from "../base/errors.ts";
import { FORMATS, type FormatRange } from "../base/formats.ts";
import { BLOCK_SIZE, BLOCKS_PER_UNIT, UNIT_SIZE } from "../base/units.ts";
import { Device, DeviceRegion, readOnce, readSurely } from "../device/device.ts";
import { EntryType, LogSpace, RecordView, type ScanResult, scanLog } from "../log/log.ts";
import type { Disk, World } from "../reactor/world.ts";
import {
  GroupHealth,
  type Geometry,
  geometryOf,
  type IndexScanResult,
  newestSuperblock,
  SlotState,
  SlotTable,
  type SlotZone,
  type Superblock,
  scanIndex,
  stampText,
  ZoneKind,
  type ZoneTable,
  zoneOffset,
  zonesOf,
} from "../store/store.ts";
import { DeviceEvents } from "./local-store-parts.ts";
import { PLACE_SECTIONS } from "./store-places.ts";
import {
  type Checkpoint,
  type CheckpointHalf,
  hex,
  isPassed,
  type MetaPlaces,
  metaArea,
  noStore,
  readCheckpoints,
  readSuperblocks,
  readZoneTables,
  refuseUnreadable,
  seedOf,
  type ZoneTables,
  zoneTableOffsets,
} from "./store-device.ts";

export interface StoreFinding {
  /** superblock, zone-table, checkpoint, log, index, data */
  readonly region: string;
  readonly offsetBytes: number;
  readonly text: string;
}

export interface FsckReport {
  /** Whose store it is. */
  readonly osd: number;
  /** True when nothing is damaged. */
  readonly clean: boolean;
  /** False when an osd refuses to start on it: only a format helps. */
  readonly startable: boolean;
  readonly findings: readonly StoreFinding[];
  /** What is not damage but worth knowing: torn ends of a power cut, copies that are one behind. */
  readonly notes: readonly string[];
  readonly blocksChecked: number;
  readonly batchesChecked: number;
  readonly slotsChecked: number;
}

/** Memory for reading: a window of the log, pages, units. */
const BUFFER_BYTES = 4 * 1024 * 1024;
const READS_PARALLEL = 8;
/** What to do before a store that can not be read is written over. */
const LOOK_FIRST = "look for errors of the device in the kernel's log before you format it";
/** A bit for each block of a unit. */
const ALL_BLOCKS = 2 ** BLOCKS_PER_UNIT - 1;

/** Everything that is read of one shard. */
interface ShardView {
  readonly shard: number;
  readonly halves: readonly CheckpointHalf[];
  readonly checkpoint: Checkpoint | undefined;
  readonly space: LogSpace;
  readonly slots: SlotTable;
  readonly scan: ScanResult | undefined;
  readonly index: IndexScanResult | undefined;
}

interface SuperblockView {
  readonly superblock: Superblock;
  readonly copies: { readonly a: boolean; readonly b: boolean };
}

interface StoreView extends SuperblockView {
  readonly geometry: Geometry;
  readonly tables: ZoneTables;
  readonly seed: number;
  readonly shards: readonly ShardView[];
}

class StoreReader {
  readonly world: World;
  readonly device: Device;
  readonly buffer: number;

  private readonly formats: FormatRange;

  constructor(world: World, disk: Disk, formats: FormatRange) {
    this.world = world;
    this.formats = formats;
    this.device = new Device(world, disk, new DeviceEvents());
    this.buffer = world.arena.allocate(BUFFER_BYTES);
  }

  /** The part that every format shares. Throws FB4001, FB4007, FB4009. */
  async superblock(): Promise<SuperblockView> {
    const { world, device, buffer } = this;
    const { a, b } = await readSuperblocks(world, device, buffer);
    const superblock = newestSuperblock(a, b);
    if (superblock === undefined) throw await noStore(world, device, buffer);
    return { superblock, copies: { a: a !== undefined, b: b !== undefined } };
  }

  /**
   * All that lies behind the superblock. Throws FB4003, FB4006, FB4007, and FB4009 when no zone table is
   * valid and one can not be read; nothing else that can not be read ends it.
   */
  async view(found: SuperblockView): Promise<StoreView> {
    const { osd } = found.superblock;
    try {
      return await this.contentsOf(found);
    } catch (error) {
      throw withDevice(error, { path: this.device.disk.path, osd });
    }
  }

  private async contentsOf({ superblock, copies }: SuperblockView): Promise<StoreView> {
    const { world, device, buffer } = this;
    refuseUnreadable(device, superblock, this.formats);
    const seed = seedOf(superblock, world);
    const geometry = geometryOf(superblock.deviceBytes, superblock.zoneSize);
    const places = { geometry, seed, buffer, bufferBytes: BUFFER_BYTES };
    const tables = await readZoneTables(world, device, places);
    const shards: ShardView[] = [];
    for (let shard = 0; shard < superblock.shardCount; shard++) {
      shards.push(await this.shard(superblock, geometry, tables.table, seed, shard));
    }
    return { superblock, copies, geometry, tables, seed, shards };
  }

  private async shard(
    superblock: Superblock,
    geometry: Geometry,
    table: ZoneTable,
    seed: number,
    shard: number,
  ): Promise<ShardView> {
    const { world, device, buffer } = this;
    const offsets = (kind: ZoneKind): number[] =>
      zonesOf(table, kind, shard).map((zone) => zoneOffset(geometry, zone));
    const meta = metaArea(offsets(ZoneKind.Meta), geometry.zoneSize);
    const places: MetaPlaces = { meta, shard, seed, buffer };
    const halves = await readCheckpoints(world, device, places);
    const slots = new SlotTable(geometry, offsets(ZoneKind.Data));
    const space = new LogSpace(offsets(ZoneKind.Log), geometry.zoneSize);
    let checkpoint: Checkpoint | undefined;
    for (const { checkpoint: half } of halves) {
      if (half === undefined) continue;
      if (checkpoint === undefined || half.header.seq > checkpoint.header.seq) checkpoint = half;
    }
    const none = { shard, halves, checkpoint, space, slots, scan: undefined, index: undefined };
    if (checkpoint === undefined) return none;
    const { header, body } = checkpoint;
    const scan = await scanLog({
      world,
      device,
      space,
      shard,
      seed,
      incarnationMax: superblock.incarnation,
      tailPosition: header.tailPosition,
      tailSeq: header.tailSeq,
      tailPrevCrc: header.tailPrevCrc,
      tailIncarnation: header.tailIncarnation,
      headSeq: header.headSeq,
      distrustedBelow: header.distrustedBelow,
      groups: body.groups,
      tombstones: body.tombstones,
      buffer,
      bufferBytes: BUFFER_BYTES,
      isUnit: (slot) => slots.isUnit(slot),
      unitOffset: (slot) => slots.unitOffset(slot),
    });
    const index = await scanIndex({
      world,
      device,
      table: slots,
      shard,
      seed,
      pageStamp: header.pageStamp,
      pageCrcs: body.pageCrcs,
      buffer,
      bufferBytes: BUFFER_BYTES,
      rowOf: (pg) => scan.groups.findIndex((group) => group.pg === pg),
    });
    return { ...none, scan, index };
  }
}

/* ------------------------------------------------------------------- fsck */

class Checker {
  readonly findings: StoreFinding[] = [];
  readonly notes: string[] = [];
  startable = true;
  blocksChecked = 0;
  batchesChecked = 0;
  slotsChecked = 0;
  private readonly reader: StoreReader;

  constructor(reader: StoreReader) {
    this.reader = reader;
  }

  find(region: string, offsetBytes: number, text: string): void {
    this.findings.push({ region, offsetBytes, text });
  }

  async check(view: StoreView): Promise<void> {
    const { copies, superblock, tables, geometry } = view;
    // One of each two is valid, or there would be no view.
    if (!copies.a) this.findCopy("superblock", 0, "copy A");
    if (!copies.b) this.findCopy("superblock", superblock.deviceBytes - BLOCK_SIZE, "copy B");
    for (const [copy, offset] of zoneTableOffsets(geometry).entries()) {
      if (tables.valid[copy] === true) continue;
      this.findCopy("zone-table", offset, `copy ${copy === 0 ? "A" : "B"} of the zone table`);
    }
    for (const shard of view.shards) await this.checkShard(shard);
  }

  private findCopy(region: string, offsetBytes: number, copy: string): void {
    const text = `${copy} is not valid; the other one serves, and the next start of the osd writes it anew`;
    this.find(region, offsetBytes, text);
  }

  private async checkShard(view: ShardView): Promise<void> {
    const name = `shard ${String(view.shard)}`;
    if (view.checkpoint === undefined || view.scan === undefined || view.index === undefined) {
      this.startable = false;
      this.find("checkpoint", 0, `${name}: both checkpoints are damaged`);
      return;
    }
    if (isPassed(view.halves, view.checkpoint)) {
      this.find("checkpoint", 0, `${name}: the newest checkpoint is damaged`);
    } else if (
      view.halves.some((half) => half.checkpoint === undefined) &&
      view.checkpoint.header.seq > 1
    ) {
      this.notes.push(`${name}: one checkpoint half is not valid`);
    }
    if (view.checkpoint.header.forgetful) {
      this.notes.push(`${name}: it may have forgotten replicas, and has not followed a map since`);
    }
    const { scan, index } = view;
    for (const note of scan.notes) this.notes.push(`${name}: ${note}`);
    this.batchesChecked += scan.batches.nextSeq - scan.batches.tailSeq;
    if (scan.damaged) {
      const offset = view.space.deviceOffset(scan.headPosition);
      this.find("log", offset, `${name}: a batch in the middle of the log is damaged`);
    }
    this.slotsChecked += index.slotsChecked;
    for (const { offsetBytes, text } of index.damage) this.find("index", offsetBytes, text);
    const lost = countLost(view.slots);
    if (lost > 0) this.notes.push(`${name}: ${String(lost)} blocks are marked as lost`);
    this.checkGroups(view, scan);
    await this.checkUnits(view, this.redone(scan));
  }

  private checkGroups(view: ShardView, scan: ScanResult): void {
    for (const group of scan.groups) {
      for (const index of group.faulty) {
        const entry = group.entries.find((one) => one.index === index);
        const block = entry === undefined ? 0 : entry.inlineBlock;
        const offset = view.space.deviceOffset(Math.max(0, block));
        const text = `pg ${String(group.pg)}: the payload of entry ${String(index)} is damaged`;
        this.find("log", offset, text);
      }
      if (group.health === GroupHealth.Ok || scan.damaged) continue;
      this.notes.push(`pg ${String(group.pg)}: ${GroupHealth[group.health]}`);
    }
  }

  /** Blocks that redo writes again: their homes may hold anything. Keyed layer/block. */
  private redone(scan: ScanResult): Set<string> {
    const blocks = new Set<string>();
    const record = new RecordView(this.reader.world.arena.view);
    for (const group of scan.groups) {
      for (const entry of group.entries) {
        if (entry.index <= group.state.applied) continue;
        if (entry.type !== EntryType.Write && entry.type !== EntryType.Zero) continue;
        record.load(entry.record, 0, entry.record.byteLength);
        for (let block = 0; block < record.blocks; block++) {
          blocks.add(`${String(record.layer)}/${String(record.firstBlock + block)}`);
        }
      }
      for (const fill of group.fills) {
        record.load(fill.record, 0, fill.record.byteLength);
        for (let block = 0; block < BLOCKS_PER_UNIT; block++) {
          blocks.add(`${String(record.layer)}/${String(record.firstBlock + block)}`);
        }
      }
    }
    return blocks;
  }

  private async checkUnits(view: ShardView, redone: Set<string>): Promise<void> {
    const { slots } = view;
    const units: number[] = [];
    slots.zones.forEach((zone, number) => {
      if (!zone.opened) return;
      for (let index = 0; index < slots.geometry.unitsPerZone; index++) {
        if (zone.state[index] !== SlotState.Live || zone.dataBits[index] === 0) continue;
        units.push(slots.slotAt(number, index));
      }
    });
    for (let from = 0; from < units.length; from += READS_PARALLEL) {
      const group = units.slice(from, from + READS_PARALLEL);
      const done = await Promise.allSettled(
        group.map((slot, at) =>
          readOnce(
            this.reader.device,
            this.reader.buffer + at * UNIT_SIZE,
            slots.unitOffset(slot),
            UNIT_SIZE,
            DeviceRegion.Data,
          ),
        ),
      );
      for (const [at, slot] of group.entries()) {
        const buffer = this.reader.buffer + at * UNIT_SIZE;
        const isRead = done[at]!.status === "fulfilled";
        const readable = isRead
          ? ALL_BLOCKS
          : await this.readSingly(slots.unitOffset(slot), buffer);
        this.checkUnit(slots, slot, buffer, readable, redone);
      }
    }
  }

  /** One bad sector must not hide the blocks around it. Answers a bit for each that could be read. */
  private async readSingly(offset: number, buffer: number): Promise<number> {
    const { device } = this.reader;
    let readable = 0;
    for (let bit = 0; bit < BLOCKS_PER_UNIT; bit++) {
      const at = bit * BLOCK_SIZE;
      if (await readSurely(device, buffer + at, offset + at, BLOCK_SIZE, DeviceRegion.Data)) {
        readable |= 1 << bit;
      }
    }
    return readable;
  }

  private checkUnit(
    slots: SlotTable,
    slot: number,
    buffer: number,
    readable: number,
    redone: Set<string>,
  ): void {
    const zone = slots.zoneOf(slot);
    const index = slots.indexOf(slot);
    const layer = slots.layers.idOf(zone.layer[index]!);
    for (let bit = 0; bit < BLOCKS_PER_UNIT; bit++) {
      if (((zone.dataBits[index]! >>> bit) & 1) === 0) continue;
      const block = zone.unit[index]! * BLOCKS_PER_UNIT + bit;
      if (redone.has(`${String(layer)}/${String(block)}`)) continue;
      this.blocksChecked += 1;
      const bytes = this.reader.world.arena.block(buffer + bit * BLOCK_SIZE);
      const crc = this.reader.world.checksum.crc32(bytes, 0);
      const isReadable = ((readable >>> bit) & 1) === 1;
      if (isReadable && crc === slots.crcOfBlock(slot, bit)) continue;
      const offset = slots.unitOffset(slot) + bit * BLOCK_SIZE;
      const what = isReadable ? "does not match its checksum" : "can not be read";
      const version = String(slots.versionOfBlock(slot, bit));
      const text = `layer ${String(layer)} block ${String(block)} version ${version} ${what}`;
      this.find("data", offset, text);
    }
  }
}

/**
 * Check a stopped store read-only: every structure, every checksum, every block. What a power cut
 * may leave (a torn end of the log, blocks and pages that redo writes again) is no damage.
 * Throws FB4001 when there is no store, FB4003 when it is of a newer format, FB4007 when there is no
 * room for one, FB4009 when no superblock is valid and one can not be read.
 */
export async function fsckStore(
  world: World,
  disk: Disk,
  formats: FormatRange = FORMATS,
): Promise<FsckReport> {
  const reader = new StoreReader(world, disk, formats);
  const checker = new Checker(reader);
  const found = await reader.superblock();
  try {
    await checker.check(await reader.view(found));
  } catch (error) {
    const text = lossOf(error);
    if (text === undefined) throw error;
    checker.startable = false;
    checker.find("zone-table", BLOCK_SIZE, text);
  }
  return {
    osd: found.superblock.osd,
    clean: checker.findings.length === 0,
    startable: checker.startable,
    findings: checker.findings,
    notes: checker.notes,
    blocksChecked: checker.blocksChecked,
    batchesChecked: checker.batchesChecked,
    slotsChecked: checker.slotsChecked,
  };
}

/** Why nothing behind the superblock can be looked at; undefined: it is another error. */
function lossOf(error: unknown): string | undefined {
  if (!(error instanceof FastblockError)) return undefined;
  if (error.code === "FB4006") return error.message;
  // A cable may be why: what is there may be whole.
  if (error.code === "FB4009") return `${error.message}; ${LOOK_FIRST}`;
  return undefined;
}

/* ---------------------------------------------------------------- inspect */

/**
 * Everything about a store that can be told without its data, as plain JSON-able values: superblock,
 * zones, checkpoint, log, groups, objects; or one `section`, these or one of places (units, batches,
 * entries). The superblock can be told of a newer format too. Throws FB1001 (no such section),
 * FB4001, FB4003, FB4006, FB4007, and FB4009 when no superblock or no zone table is valid and one can
 * not be read.
 */
export async function inspectStore(
  world: World,
  disk: Disk,
  section = "",
  formats: FormatRange = FORMATS,
): Promise<Record<string, unknown>> {
  const reader = new StoreReader(world, disk, formats);
  const found = await reader.superblock();
  if (section === "superblock") return { superblock: inspectSuperblock(found) };
  const view = await reader.view(found);
  const places = PLACE_SECTIONS[section];
  if (places !== undefined) return { [section]: view.shards.flatMap(places) };
  const whole = inspectView(view);
  if (section === "") return whole;
  const part = whole[section];
  if (part !== undefined) return { [section]: part };
  const names = [...Object.keys(whole), ...Object.keys(PLACE_SECTIONS)].join(", ");
  const message = `inspecting ${disk.path}: ${section}, wanted one of ${names}`;
  throw new FastblockError("FB1001", message);
}

function inspectSuperblock({ superblock, copies }: SuperblockView): Record<string, unknown> {
  return {
    clusterId: hex(superblock.clusterId),
    storeUuid: hex(superblock.storeUuid),
    osd: superblock.osd,
    shards: superblock.shardCount,
    format: superblock.format,
    generation: superblock.generation,
    incarnation: superblock.incarnation,
    clean: superblock.clean,
    deviceBytes: superblock.deviceBytes,
    copyA: copies.a,
    copyB: copies.b,
  };
}

function inspectView(view: StoreView): Record<string, unknown> {
  const { geometry } = view;
  return {
    superblock: inspectSuperblock(view),
    zones: {
      sizeBytes: geometry.zoneSize,
      count: geometry.zoneCount,
      unitsPerZone: geometry.unitsPerZone,
      slotsPerZone: geometry.slotsPerZone,
      log: countZones(view.tables.table, ZoneKind.Log),
      meta: countZones(view.tables.table, ZoneKind.Meta),
      data: countZones(view.tables.table, ZoneKind.Data),
      free: countZones(view.tables.table, ZoneKind.Free),
    },
    checkpoint: view.shards.map(inspectCheckpoint),
    log: view.shards.map(inspectLog),
    groups: view.shards.flatMap(inspectGroups),
    objects: view.shards.map(inspectObjects),
  };
}

function countZones(table: ZoneTable, kind: ZoneKind): number {
  return table.zones.filter((zone) => zone.kind === kind).length;
}

function inspectCheckpoint(view: ShardView): Record<string, unknown> {
  const { checkpoint, shard } = view;
  if (checkpoint === undefined) return { shard, valid: false };
  const { header, body } = checkpoint;
  return {
    shard,
    valid: true,
    validHalves: view.halves.filter((half) => half.checkpoint !== undefined).length,
    seq: header.seq,
    incarnation: header.incarnation,
    bodyBytes: header.bodyBytes,
    pageStamp: stampText(header.pageStamp),
    tailSeq: header.tailSeq,
    distrustedBelow: header.distrustedBelow,
    forgetful: header.forgetful,
    groups: header.groups,
    pagesWritten: body.pageCrcs.reduce((count, crc) => count + (crc === 0 ? 0 : 1), 0),
    tombstones: body.tombstones,
    parents: body.parents,
  };
}

function inspectLog(view: ShardView): Record<string, unknown> {
  const { scan, space, shard, checkpoint } = view;
  const sizeBytes = space.ringBlocks * BLOCK_SIZE;
  if (scan === undefined || checkpoint === undefined) return { shard, sizeBytes, valid: false };
  const usedBlocks = scan.headPosition - checkpoint.header.tailPosition;
  return {
    shard,
    sizeBytes,
    usedBytes: usedBlocks * BLOCK_SIZE,
    tailSeq: scan.batches.tailSeq,
    nextSeq: scan.batches.nextSeq,
    damaged: scan.damaged,
    notes: scan.notes,
  };
}

function inspectGroups(view: ShardView): Record<string, unknown>[] {
  if (view.scan === undefined) return [];
  return view.scan.groups.map((group) => ({
    shard: view.shard,
    pg: group.pg,
    replica: group.replicaId,
    health: GroupHealth[group.health],
    term: group.term,
    vote: group.vote,
    base: group.baseIndex,
    last: group.baseIndex + group.entries.length,
    commit: group.commit,
    appliedAtCheckpoint: group.state.applied,
    fillIndex: group.fillIndex,
    fills: group.fills.length,
    faulty: group.faulty,
    sessions: group.state.sessions.length,
    fences: group.state.fences.length,
  }));
}

function inspectObjects(view: ShardView): Record<string, unknown> {
  const { slots } = view;
  const layers = new Map<number, { units: number; blocks: number; holes: number }>();
  let units = 0;
  for (const zone of slots.zones) {
    if (!zone.opened) continue;
    for (let index = 0; index < slots.geometry.slotsPerZone; index++) {
      const state = zone.state[index]!;
      if (state !== SlotState.Live && state !== SlotState.Hole) continue;
      const layer = slots.layers.idOf(zone.layer[index]!);
      const sum = layers.get(layer) ?? { units: 0, blocks: 0, holes: 0 };
      if (state === SlotState.Hole) sum.holes += 1;
      else {
        units += 1;
        sum.units += 1;
        sum.blocks += bitsOf(zone, index);
      }
      layers.set(layer, sum);
    }
  }
  return {
    shard: view.shard,
    unitsTotal: slots.unitsTotal,
    unitsUsed: units,
    damagedPages: view.index?.damage ?? [],
    layers: Array.from(layers, ([layer, sum]) => ({ layer, ...sum })),
  };
}

/** Blocks that the group gave up: refused, which is no damage of this store. */
function countLost(slots: SlotTable): number {
  let count = 0;
  for (const zone of slots.zones) {
    if (!zone.holdsLost) continue;
    for (const bits of zone.lostBits) count += bitCount(bits);
  }
  return count;
}

function bitsOf(zone: SlotZone, index: number): number {
  return bitCount(zone.dataBits[index]!);
}

function bitCount(of: number): number {
  let bits = of;
  let count = 0;
  for (; bits !== 0; bits &= bits - 1) count += 1;
  return count;
}
