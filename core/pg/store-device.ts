// cold path: reading and writing the fixed structures of a device, at start, format and inspection.
import { FastblockError } from "../base/errors.ts";
import { FORMATS, type FormatRange } from "../base/formats.ts";
import { exactSize } from "../base/size-text.ts";
import { BLOCK_SIZE } from "../base/units.ts";
import { type Device, DeviceRegion, readSurely, writeOnce } from "../device/device.ts";
import type { World } from "../reactor/world.ts";
import {
  type CheckpointBody,
  type CheckpointHeader,
  decodeBody,
  decodeCheckpointHeader,
  decodeSuperblock,
  decodeZoneTable,
  encodeBody,
  encodeCheckpointHeader,
  encodeSuperblock,
  encodeZoneTable,
  type Geometry,
  isSuperblock,
  newestSuperblock,
  type Superblock,
  superblockOffset,
  type ZoneTable,
} from "../store/store.ts";
import type { MetaArea } from "./local-store-parts.ts";

export function hex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Seed of every checksum of a store but the superblock's: bytes of another format never pass. */
export function seedOf(superblock: Superblock, world: World): number {
  return world.checksum.crc32(superblock.storeUuid, 0);
}

async function readBlock(
  world: World,
  device: Device,
  buffer: number,
  offset: number,
): Promise<Uint8Array | undefined> {
  const isRead = await readSurely(device, buffer, offset, BLOCK_SIZE, DeviceRegion.Super);
  return isRead ? world.arena.bytes.slice(buffer, buffer + BLOCK_SIZE) : undefined;
}

/** Of two copies one can not be read, and the other one is not valid. */
function unreadable(device: Device, what: string): FastblockError {
  const text = `Reading the ${what} of ${device.disk.path} failed each time: one of two copies wanted`;
  return new FastblockError("FB4009", text, {
    hint: `look for errors of the device in the kernel's log; when it stays so, ${UNREADABLE_HINT}`,
  });
}

/** What is to be done about a store that no program can read any more. */
const UNREADABLE_HINT =
  "its peers hold its replicas: replace the disk, or format it anew: fastblock osd format --data PATH --id OSD --force";

/** FB4001, of a device without a valid superblock. */
export async function noStore(
  world: World,
  device: Device,
  buffer: number,
): Promise<FastblockError> {
  const { path } = device.disk;
  const size = Math.floor(device.sizeBytes / BLOCK_SIZE) * BLOCK_SIZE;
  for (const offset of [0, size - BLOCK_SIZE]) {
    const block = await readBlock(world, device, buffer, offset);
    if (block === undefined || !isSuperblock(block)) continue;
    return new FastblockError(
      "FB4001",
      `The store on ${path} is lost: no valid superblock, but a damaged one; one of two wanted`,
      { hint: UNREADABLE_HINT },
    );
  }
  return new FastblockError(
    "FB4001",
    `No store on ${path}: no valid superblock, one of two wanted`,
  );
}

/**
 * Both copies, as far as they are valid. Throws FB4007 when the device has no room for them, FB4009 when
 * none is valid and one can not be read.
 */
export async function readSuperblocks(
  world: World,
  device: Device,
  buffer: number,
): Promise<{ a: Superblock | undefined; b: Superblock | undefined }> {
  const size = Math.floor(device.sizeBytes / BLOCK_SIZE) * BLOCK_SIZE;
  if (size < 2 * BLOCK_SIZE) {
    const seen = `${device.disk.path} has ${String(size / BLOCK_SIZE)} whole blocks of 4 KiB`;
    throw new FastblockError("FB4007", `No store fits: ${seen}, at least 256 MiB are wanted`);
  }
  let isUnreadable = false;
  const copyAt = async (offset: number): Promise<Superblock | undefined> => {
    const block = await readBlock(world, device, buffer, offset);
    isUnreadable ||= block === undefined;
    return block === undefined ? undefined : decodeSuperblock(block, world.checksum);
  };
  const a = await copyAt(0);
  const ends = [size - BLOCK_SIZE];
  if (a !== undefined && a.deviceBytes < size) ends.unshift(a.deviceBytes - BLOCK_SIZE);
  for (const end of ends) {
    if (end < BLOCK_SIZE) continue;
    const b = await copyAt(end);
    if (b !== undefined) return { a, b };
  }
  if (a === undefined && isUnreadable) throw unreadable(device, "superblock");
  return { a, b: undefined };
}

/**
 * The valid superblock of the highest generation. Throws FB4003 when its format is newer than
 * `formats`, FB4006 when its device is larger than this one, FB4007 when there is no room for any,
 * FB4009 when none is valid and one can not be read.
 */
export async function readSuperblock(
  world: World,
  device: Device,
  buffer: number,
  formats: FormatRange = FORMATS,
): Promise<Superblock | undefined> {
  const { a, b } = await readSuperblocks(world, device, buffer);
  const newest = newestSuperblock(a, b);
  if (newest !== undefined) refuseUnreadable(device, newest, formats);
  return newest;
}

/**
 * Refuse a store of which nothing but the superblock may be read: FB4003 when its format is newer,
 * FB4006 when it was made on a larger device than this one.
 */
export function refuseUnreadable(
  device: Device,
  superblock: Superblock,
  formats: FormatRange = FORMATS,
): void {
  if (superblock.format > formats.max) {
    throw new FastblockError(
      "FB4003",
      `The store's format is newer: version ${String(superblock.format)}, at most ${String(formats.max)} wanted`,
    );
  }
  if (superblock.deviceBytes <= device.sizeBytes) return;
  throw new FastblockError(
    "FB4006",
    `The device has shrunk: ${exactSize(device.sizeBytes)}, ${exactSize(superblock.deviceBytes)} wanted`,
  );
}

export async function writeSuperblock(
  world: World,
  device: Device,
  superblock: Superblock,
  buffer: number,
): Promise<void> {
  world.arena.bytes.set(encodeSuperblock(superblock, world.checksum), buffer);
  const offset = superblockOffset(superblock.generation, superblock.deviceBytes);
  await writeOnce(device, buffer, offset, BLOCK_SIZE, DeviceRegion.Super);
}

/** Device offsets of the two zone tables. */
export function zoneTableOffsets(geometry: Geometry): [number, number] {
  return [BLOCK_SIZE, BLOCK_SIZE + geometry.tableBytes];
}

/** Where the zone tables are, and memory for one of them. */
export interface TablePlaces {
  readonly geometry: Geometry;
  readonly seed: number;
  /** Arena offset of `bufferBytes`. */
  readonly buffer: number;
  readonly bufferBytes: number;
}

/** Both zone tables. */
export interface ZoneTables {
  /** The valid one of the highest generation. */
  readonly table: ZoneTable;
  /** Which of them are valid: A, B. */
  readonly valid: readonly boolean[];
}

/** Read both zone tables. Throws FB4006 when both are damaged, FB4009 when none is valid and one can not be read. */
export async function readZoneTables(
  world: World,
  device: Device,
  places: TablePlaces,
): Promise<ZoneTables> {
  const { geometry, seed, buffer, bufferBytes } = places;
  const { tableBytes, zoneCount } = geometry;
  const valid: boolean[] = [];
  let newest: ZoneTable | undefined;
  let isUnreadable = false;
  for (const offset of zoneTableOffsets(geometry)) {
    if (tableBytes > bufferBytes) break;
    const isRead = await readSurely(device, buffer, offset, tableBytes, DeviceRegion.Super);
    isUnreadable ||= !isRead;
    const bytes = world.arena.bytes.slice(buffer, buffer + tableBytes);
    const table = isRead ? decodeZoneTable(bytes, zoneCount, seed, world.checksum) : undefined;
    valid.push(table !== undefined);
    if (table !== undefined && (newest === undefined || table.generation > newest.generation)) {
      newest = table;
    }
  }
  if (newest !== undefined) return { table: newest, valid };
  if (isUnreadable) throw unreadable(device, "zone table");
  throw new FastblockError("FB4006", "Both zone tables are damaged: 0 valid, 1 wanted", {
    hint: UNREADABLE_HINT,
  });
}

/** Write copy A (0) or B (1) of the zone table. Throws FB4009. */
export async function writeZoneTable(
  world: World,
  device: Device,
  places: TablePlaces,
  table: ZoneTable,
  copy: number,
): Promise<void> {
  const { geometry, seed, buffer, bufferBytes } = places;
  const { zones, generation } = table;
  const bytes = encodeZoneTable(zones, generation, geometry.tableBytes, seed, world.checksum);
  const offset = zoneTableOffsets(geometry)[copy]!;
  for (let at = 0; at < bytes.length; at += bufferBytes) {
    const chunk = bytes.subarray(at, at + bufferBytes);
    world.arena.bytes.set(chunk, buffer);
    await writeOnce(device, buffer, offset + at, chunk.length, DeviceRegion.Super);
  }
}

/** The meta zones of a shard as two halves. They follow each other on the device. */
export function metaArea(zoneOffsets: readonly number[], zoneSize: number): MetaArea {
  const first = zoneOffsets[0];
  const gap = zoneOffsets.some((offset, at) => offset !== first! + at * zoneSize);
  if (first === undefined || gap) {
    throw new FastblockError("FB4006", "The checkpoint zones are scattered: one run wanted");
  }
  const half = Math.floor((zoneOffsets.length * zoneSize) / 2 / BLOCK_SIZE) * BLOCK_SIZE;
  return { offset: first, halfBytes: half };
}

export interface MetaPlaces {
  readonly meta: MetaArea;
  readonly shard: number;
  readonly seed: number;
  /** Arena offset of at least 1 MiB; of 256 KiB to write. */
  readonly buffer: number;
}

export interface Checkpoint {
  readonly header: CheckpointHeader;
  readonly body: CheckpointBody;
}

/** One of the two places of checkpoints. */
export interface CheckpointHalf {
  /** Undefined: not valid. */
  readonly checkpoint: Checkpoint | undefined;
  /** Of what stands there, valid or not. 0: nothing ever did; Infinity: its header is not known. */
  readonly seq: number;
}

/** Both halves. */
export async function readCheckpoints(
  world: World,
  device: Device,
  places: MetaPlaces,
): Promise<CheckpointHalf[]> {
  const found: CheckpointHalf[] = [];
  for (let half = 0; half < 2; half++) found.push(await readHalf(world, device, places, half));
  return found;
}

/** The newest valid checkpoint. Throws FB4006 when there is none. */
export async function readCheckpoint(
  world: World,
  device: Device,
  places: MetaPlaces,
): Promise<Checkpoint & { readonly isPassed: boolean }> {
  const halves = await readCheckpoints(world, device, places);
  let newest: Checkpoint | undefined;
  for (const { checkpoint } of halves) {
    if (checkpoint === undefined) continue;
    if (newest === undefined || checkpoint.header.seq > newest.header.seq) newest = checkpoint;
  }
  if (newest !== undefined) return { ...newest, isPassed: isPassed(halves, newest) };
  throw new FastblockError("FB4006", "Both checkpoints are damaged: 0 valid, 1 wanted", {
    hint: UNREADABLE_HINT,
  });
}

/**
 * Was there a newer one, complete once and damaged since? Tail and units have moved on with it, so the
 * older one is no base for redo. A power cut never leaves this: the header, within one sector, is
 * written when the body is durable.
 */
export function isPassed(halves: readonly CheckpointHalf[], by: Checkpoint): boolean {
  return halves.some((half) => half.checkpoint === undefined && half.seq > by.header.seq);
}

/** What a checkpoint's header tells beside what the body decides. */
export type CheckpointFacts = Omit<
  CheckpointHeader,
  "shard" | "bodyBytes" | "bodyCrc" | "groups" | "pages" | "tombstones" | "parents"
>;

/** Write of the body at a time; the buffer is as large. */
export const CHECKPOINT_WRITE_BYTES = 256 * 1024;

/**
 * Write a checkpoint in the place of the one before the last: body first, header last, durably.
 * Answers the bytes written. Throws FB4006 when it does not fit, FB4009.
 */
export async function writeCheckpoint(
  world: World,
  device: Device,
  places: MetaPlaces,
  facts: CheckpointFacts,
  body: CheckpointBody,
): Promise<number> {
  const { meta, seed, shard, buffer } = places;
  const bytes = encodeBody(body);
  // Counted at once: a replica may leave its tombstone in the body's list while the body is written.
  const counts = {
    bodyBytes: bytes.length,
    groups: body.groups.length,
    pages: body.pageCrcs.length,
    tombstones: body.tombstones.length,
    parents: body.parents.length,
  };
  if (BLOCK_SIZE + bytes.length > meta.halfBytes) {
    throw new FastblockError(
      "FB4006",
      `The checkpoint does not fit: ${String(bytes.length)} bytes, at most ${String(meta.halfBytes - BLOCK_SIZE)} wanted`,
    );
  }
  const offset = meta.offset + (facts.seq % 2) * meta.halfBytes;
  let written = BLOCK_SIZE;
  let bodyCrc = seed;
  for (let at = 0; at < bytes.length; at += CHECKPOINT_WRITE_BYTES) {
    const chunk = bytes.subarray(at, at + CHECKPOINT_WRITE_BYTES);
    bodyCrc = world.checksum.crc32(chunk, bodyCrc);
    const length = Math.ceil(chunk.length / BLOCK_SIZE) * BLOCK_SIZE;
    world.arena.bytes.fill(0, buffer, buffer + length);
    world.arena.bytes.set(chunk, buffer);
    await writeOnce(device, buffer, offset + BLOCK_SIZE + at, length);
    written += length;
  }
  const header: CheckpointHeader = { ...facts, ...counts, shard, bodyCrc };
  world.arena.bytes.set(encodeCheckpointHeader(header, seed, world.checksum), buffer);
  await writeOnce(device, buffer, offset, BLOCK_SIZE);
  return written;
}

const CHUNK_BYTES = 1024 * 1024;

async function readHalf(
  world: World,
  device: Device,
  places: MetaPlaces,
  half: number,
): Promise<CheckpointHalf> {
  const { meta, shard, seed, buffer } = places;
  const offset = meta.offset + half * meta.halfBytes;
  const { checksum, arena } = world;
  const isRead = await readSurely(device, buffer, offset, BLOCK_SIZE, DeviceRegion.Meta);
  const bytes = arena.bytes.slice(buffer, buffer + BLOCK_SIZE);
  const header = isRead ? decodeCheckpointHeader(bytes, shard, seed, checksum) : undefined;
  if (header === undefined || header.seq % 2 !== half) {
    const isEmpty = isRead && bytes.every((byte) => byte === 0);
    return { checkpoint: undefined, seq: isEmpty ? 0 : Number.POSITIVE_INFINITY };
  }
  const body = await readBody(world, device, places, offset + BLOCK_SIZE, header);
  const checkpoint = body === undefined ? undefined : { header, body };
  return { checkpoint, seq: header.seq };
}

/** Undefined: not what the header tells, or not to be read. */
async function readBody(
  world: World,
  device: Device,
  places: MetaPlaces,
  offset: number,
  header: CheckpointHeader,
): Promise<CheckpointBody | undefined> {
  const { meta, seed, buffer } = places;
  if (header.bodyBytes > meta.halfBytes - BLOCK_SIZE) return undefined;
  const bytes = new Uint8Array(header.bodyBytes);
  for (let at = 0; at < bytes.length; at += CHUNK_BYTES) {
    const length = Math.min(CHUNK_BYTES, bytes.length - at);
    const aligned = Math.ceil(length / BLOCK_SIZE) * BLOCK_SIZE;
    if (!(await readSurely(device, buffer, offset + at, aligned, DeviceRegion.Meta)))
      return undefined;
    bytes.set(world.arena.bytes.subarray(buffer, buffer + length), at);
  }
  if (world.checksum.crc32(bytes, seed) !== header.bodyCrc) return undefined;
  return decodeBody(bytes, header);
}
