// cold path: format, inspect and fsck run by hand, before or without a serving store.
import { FastblockError } from "../base/errors.ts";
import { FORMATS } from "../base/formats.ts";
import { BLOCK_SIZE } from "../base/units.ts";
import { Device, DeviceRegion, runOnce, writeOnce } from "../device/device.ts";
import { type Disk, DiskVerb, type World } from "../reactor/world.ts";
import {
  type Geometry,
  geometryOf,
  type ShardZones,
  type Superblock,
  shareZones,
  type ZoneEntry,
  ZoneKind,
  zoneOffset,
} from "../store/store.ts";
import { DeviceEvents } from "./local-store-parts.ts";
import {
  type CheckpointFacts,
  hex,
  metaArea,
  readSuperblocks,
  seedOf,
  writeCheckpoint,
  writeSuperblock,
  writeZoneTable,
} from "./store-device.ts";

export interface FormatOptions {
  readonly world: World;
  readonly disk: Disk;
  readonly clusterId: Uint8Array;
  readonly osd: number;
  readonly shardCount: number;
  /** Bytes of log per shard; default: 1/16 of the shard's share, at most 1 GiB. */
  readonly logBytes?: number;
  /** Write over a store that is there already. */
  readonly force?: boolean;
  /** Called with the share done, 0 to 1. */
  readonly onProgress?: (share: number) => void;
}

const ZERO_BYTES = 1024 * 1024;

/**
 * Format a device: zero the log and checkpoint zones (never sparse: holes and unwritten extents cost
 * a journal commit per durable write), lay out the zones, an empty checkpoint a shard, and last of
 * all the superblock. Throws FB4007 (too small), FB4008 (holds something, no force), FB4009.
 */
export async function formatStore(options: FormatOptions): Promise<{ storeUuid: string }> {
  const { world } = options;
  const geometry = geometryOf(options.disk.sizeBytes);
  const share = shareZones(geometry, options.shardCount, options.logBytes);
  const device = new Device(world, options.disk, new DeviceEvents());
  const buffer = world.slots.take(ZERO_BYTES);
  if (buffer < 0) throw new FastblockError("FB4009", "No memory to format with: 0 slots, 1 wanted");
  try {
    await refuseForeign(options, device, buffer);
    const superblock = newSuperblock(options, geometry);
    const seed = seedOf(superblock, world);
    await invalidate(world, device, geometry, buffer);
    await zeroZones(options, device, geometry, share, buffer);
    const zones = leases(geometry, options.shardCount, share);
    const tables = { geometry, seed, buffer, bufferBytes: ZERO_BYTES };
    await writeZoneTable(world, device, tables, { zones, generation: 2 }, 0);
    await writeZoneTable(world, device, tables, { zones, generation: 1 }, 1);
    for (let shard = 0; shard < options.shardCount; shard++) {
      await writeEmptyCheckpoint(world, device, geometry, share, { seed, shard, buffer });
    }
    await runOnce(device, { verb: DiskVerb.Flush, region: DeviceRegion.Super });
    await writeSuperblock(world, device, superblock, buffer);
    await writeSuperblock(world, device, { ...superblock, generation: 2 }, buffer);
    return { storeUuid: hex(superblock.storeUuid) };
  } finally {
    world.slots.release(buffer);
  }
}

async function refuseForeign(
  options: FormatOptions,
  device: Device,
  buffer: number,
): Promise<void> {
  if (options.force === true) return;
  const { a, b } = await readSuperblocks(options.world, device, buffer);
  const found = a ?? b;
  if (found === undefined) return;
  throw new FastblockError(
    "FB4008",
    `The device holds a store already: osd ${String(found.osd)} of cluster ${hex(found.clusterId)}, none wanted`,
  );
}

function newSuperblock(options: FormatOptions, geometry: Geometry): Superblock {
  const storeUuid = new Uint8Array(16);
  options.world.random.fill(storeUuid);
  return {
    clusterId: options.clusterId,
    storeUuid,
    osd: options.osd,
    shardCount: options.shardCount,
    generation: 1,
    deviceBytes: geometry.deviceBytes,
    zoneSize: geometry.zoneSize,
    zoneCount: geometry.zoneCount,
    unitsPerZone: geometry.unitsPerZone,
    slotsPerZone: geometry.slotsPerZone,
    format: FORMATS.min,
    incarnation: 0,
    clean: true,
    starts: [],
  };
}

/** An interrupted format must not leave an old superblock over new zones. */
async function invalidate(
  world: World,
  device: Device,
  geometry: Geometry,
  buffer: number,
): Promise<void> {
  world.arena.bytes.fill(0, buffer, buffer + ZERO_BYTES);
  for (const offset of [0, geometry.deviceBytes - BLOCK_SIZE]) {
    await writeOnce(device, buffer, offset, BLOCK_SIZE, DeviceRegion.Super);
  }
}

/** Zones of a shard follow each other: log, meta, data. */
function firstZone(geometry: Geometry, shardCount: number, shard: number): number {
  return shard * Math.floor(geometry.zoneCount / shardCount);
}

async function zeroZones(
  options: FormatOptions,
  device: Device,
  geometry: Geometry,
  share: ShardZones,
  buffer: number,
): Promise<void> {
  const bytes = (share.log + share.meta) * geometry.zoneSize;
  const total = bytes * options.shardCount;
  let done = 0;
  for (let shard = 0; shard < options.shardCount; shard++) {
    const from = zoneOffset(geometry, firstZone(geometry, options.shardCount, shard));
    for (let at = 0; at < bytes; at += ZERO_BYTES * 4) {
      const writes: Promise<void>[] = [];
      for (let piece = at; piece < Math.min(bytes, at + ZERO_BYTES * 4); piece += ZERO_BYTES) {
        const write = runOnce(device, {
          verb: DiskVerb.Write,
          region: DeviceRegion.Log,
          arenaOffset: buffer,
          offsetBytes: from + piece,
          lengthBytes: ZERO_BYTES,
        });
        writes.push(write);
      }
      await Promise.all(writes);
      done += Math.min(bytes - at, ZERO_BYTES * 4);
      options.onProgress?.(done / total);
    }
  }
}

function leases(geometry: Geometry, shardCount: number, share: ShardZones): ZoneEntry[] {
  const perShard = Math.floor(geometry.zoneCount / shardCount);
  const zones: ZoneEntry[] = [];
  for (let zone = 0; zone < geometry.zoneCount; zone++) {
    const shard = Math.floor(zone / perShard);
    if (shard >= shardCount) {
      zones.push({ kind: ZoneKind.Free, shard: 0, order: 0, generation: 1 });
      continue;
    }
    const at = zone - shard * perShard;
    if (at < share.log) zones.push({ kind: ZoneKind.Log, shard, order: at, generation: 1 });
    else if (at < share.log + share.meta) {
      zones.push({ kind: ZoneKind.Meta, shard, order: at - share.log, generation: 1 });
    } else {
      const order = at - share.log - share.meta;
      zones.push({ kind: ZoneKind.Data, shard, order, generation: 1 });
    }
  }
  return zones;
}

async function writeEmptyCheckpoint(
  world: World,
  device: Device,
  geometry: Geometry,
  share: ShardZones,
  { seed, shard, buffer }: { seed: number; shard: number; buffer: number },
): Promise<void> {
  const shardZones = share.log + share.meta + share.data;
  const zones: number[] = [];
  for (let at = 0; at < share.meta; at++) {
    zones.push(zoneOffset(geometry, shard * shardZones + share.log + at));
  }
  const meta = metaArea(zones, geometry.zoneSize);
  const pageCrcs = new Uint32Array(share.data * geometry.pagesPerZone);
  const body = { groups: [], tombstones: [], parents: [], pageCrcs };
  const facts: CheckpointFacts = {
    incarnation: 0,
    seq: 1,
    tailPosition: 0,
    tailSeq: 1,
    tailPrevCrc: 0,
    tailIncarnation: 0,
    pageStamp: 0,
    headSeq: 1,
    distrustedBelow: 0,
    forgetful: false,
  };
  await writeCheckpoint(world, device, { meta, shard, seed, buffer }, facts, body);
}

export { fsckStore, inspectStore } from "./store-inspect.ts";
