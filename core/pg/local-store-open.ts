// cold path: once per start.
import { FastblockError } from "../base/errors.ts";
import { FORMATS, type FormatRange } from "../base/formats.ts";
import { Device, DeviceRegion, runOnce } from "../device/device.ts";
import {
  Entry,
  EntryPool,
  LogSpace,
  RecordType,
  RecordView,
  type ScannedGroup,
  type ScanResult,
  type ShardLog,
  scanLog,
} from "../log/log.ts";
import { MOVER_BUFFER_BYTES } from "../object/object.ts";
import { DiskVerb } from "../reactor/world.ts";
import {
  type CheckpointBody,
  Eras,
  GroupHealth,
  geometryOf,
  type IndexScanResult,
  newestSuperblock,
  PAGE_BUFFER_BYTES,
  Quarantine,
  SlotState,
  SlotTable,
  type Superblock,
  scanIndex,
  ZoneKind,
  type ZoneTable,
  zoneOffset,
  zonesOf,
} from "../store/store.ts";
import {
  DeviceEvents,
  RowState,
  type StoreParts,
  StoreState,
  TUNING_DEFAULT,
} from "./local-store-parts.ts";
import type { RecoveredGroup, StoreIdentity, StoreOptions } from "./local-store-types.ts";
import {
  type Checkpoint,
  hex,
  type MetaPlaces,
  metaArea,
  noStore,
  readCheckpoint,
  readSuperblock,
  readSuperblocks,
  readZoneTables,
  refuseUnreadable,
  seedOf,
  type TablePlaces,
  writeCheckpoint,
  writeSuperblock,
  writeZoneTable,
} from "./store-device.ts";

const BATCH_BUFFER_BYTES = 2 * 1024 * 1024;

/** The store's own memory: offsets from its start. Start-up reads into all of it. */
export const BUFFERS = {
  batches: 0,
  mover: BATCH_BUFFER_BYTES,
  pages: BATCH_BUFFER_BYTES + MOVER_BUFFER_BYTES,
  total: BATCH_BUFFER_BYTES + MOVER_BUFFER_BYTES + PAGE_BUFFER_BYTES,
} as const;

/** Everything that a start found out, before the machines are built. */
export interface OpenedStore {
  readonly parts: StoreParts;
  readonly state: StoreState;
  readonly headPosition: number;
  readonly tailPosition: number;
  readonly lastCrc: number;
  readonly isVouched: boolean;
  readonly tailPrevCrc: number;
  readonly tailIncarnation: number;
  /** Put the recovered groups into the log; called once, by the store's constructor. */
  install(log: ShardLog): RecoveredGroup[];
}

/** Open a formatted store and read everything that a start needs. Throws FB4001…FB4006, FB4009. */
export async function openStore(options: StoreOptions): Promise<OpenedStore> {
  const events = new DeviceEvents();
  const device = new Device(options.world, options.disk, events);
  const buffers = options.world.arena.allocate(BUFFERS.total);
  const superblock = await claimSuperblock(options, device, buffers);
  const seed = seedOf(superblock, options.world);
  const geometry = geometryOf(superblock.deviceBytes, superblock.zoneSize);
  const tables: TablePlaces = { geometry, seed, buffer: buffers, bufferBytes: BUFFERS.total };
  const table = await openZoneTable(options, device, tables);
  const offsets = (kind: ZoneKind): number[] =>
    zonesOf(table, kind, options.shard).map((zone) => zoneOffset(geometry, zone));
  const slots = new SlotTable(geometry, offsets(ZoneKind.Data), options.indexBytes ?? 0);
  const space = new LogSpace(offsets(ZoneKind.Log), geometry.zoneSize);
  const meta = metaArea(offsets(ZoneKind.Meta), geometry.zoneSize);
  const places: MetaPlaces = { meta, shard: options.shard, seed, buffer: buffers };
  const checkpoint = await readCheckpoint(options.world, device, places);
  const found = { device, space, slots, seed, buffers };
  const scan = await readLog(options, found, superblock, checkpoint);
  const parts: StoreParts = {
    world: options.world,
    device,
    events,
    owner: options.owner,
    logger: options.logger,
    tuning: { ...TUNING_DEFAULT, ...options.tuning },
    identity: identityOf(superblock),
    formats: formatsOf(options),
    claim: { incarnation: superblock.incarnation, generation: superblock.generation },
    claimed: options.claim === undefined,
    shard: options.shard,
    seed,
    geometry,
    meta,
    slots,
    quarantine: new Quarantine(slots),
    eras: new Eras(),
    space,
    batches: scan.batches,
    entries: new EntryPool(options.world.slots),
    tombstones: scan.tombstones,
    buffers,
  };
  const state = new StoreState();
  state.checkpointSeq = checkpoint.header.seq;
  state.forgetful = checkpoint.header.forgetful || scan.damaged || checkpoint.isPassed;
  const rows = rowsOf(scan, checkpoint.body);
  const index = await readIndex(parts, checkpoint, rows);
  takePlaces(parts, scan);
  for (const { layer, parent, snapSeq } of [...checkpoint.body.parents, ...scan.parents]) {
    slots.layers.setParent(layer, parent, snapSeq);
  }
  // What was read may lie in a volatile cache yet: nothing is vouched for before this.
  await runOnce(device, { verb: DiskVerb.Flush, region: DeviceRegion.Meta });
  const losses = lossesOf(checkpoint, scan, index);
  if (losses.length > 0) await distrust(parts, state, checkpoint, scan);
  report(options, checkpoint, scan, losses);
  return {
    parts,
    state,
    headPosition: scan.headPosition,
    tailPosition: checkpoint.header.tailPosition,
    lastCrc: scan.lastCrc,
    isVouched: scan.isVouched,
    tailPrevCrc: checkpoint.header.tailPrevCrc,
    tailIncarnation: checkpoint.header.tailIncarnation,
    install: (log) => installGroups(log, parts, state, scan, index.versions),
  };
}

/** What of the store is damaged so that acknowledged writes may be lost, for people. */
function lossesOf(
  checkpoint: Checkpoint & { readonly isPassed: boolean },
  scan: ScanResult,
  index: IndexScanResult,
): string[] {
  const losses: string[] = [];
  if (scan.damaged) losses.push("the log is damaged");
  if (index.damage.length > 0) losses.push("the index is damaged");
  // What was acknowledged since the one before is not known.
  if (checkpoint.isPassed) losses.push("the newest checkpoint is damaged");
  return losses;
}

/**
 * Trust no replica of the shard any more, durably, before anything else is written: the first batch
 * lies where the log is damaged, pages and checkpoints are written anew, and a start behind a power cut
 * would find nothing of it.
 *
 * The checkpoint that was read is written once more, as one that says so. It goes to the other half,
 * where the damaged or the older one is; until its header stands there, the damage is as it was.
 */
async function distrust(
  parts: StoreParts,
  state: StoreState,
  checkpoint: Checkpoint,
  scan: ScanResult,
): Promise<void> {
  for (const group of scan.groups) group.health = GroupHealth.Distrusted;
  const { world, device, meta, shard, seed } = parts;
  const facts = {
    ...checkpoint.header,
    incarnation: parts.claim.incarnation,
    seq: checkpoint.header.seq + 1,
    distrustedBelow: scan.batches.nextSeq,
    forgetful: state.forgetful,
  };
  const places = { meta, shard, seed, buffer: parts.buffers };
  await writeCheckpoint(world, device, places, facts, checkpoint.body);
  state.checkpointSeq = facts.seq;
}

/** Read the log from the checkpoint's tail on. */
async function readLog(
  options: StoreOptions,
  places: {
    readonly device: Device;
    readonly space: LogSpace;
    readonly slots: SlotTable;
    readonly seed: number;
    readonly buffers: number;
  },
  superblock: Superblock,
  checkpoint: Checkpoint,
): Promise<ScanResult> {
  const { device, space, slots, seed, buffers } = places;
  return await scanLog({
    world: options.world,
    device,
    space,
    shard: options.shard,
    seed,
    incarnationMax: superblock.incarnation,
    tailPosition: checkpoint.header.tailPosition,
    tailSeq: checkpoint.header.tailSeq,
    tailPrevCrc: checkpoint.header.tailPrevCrc,
    tailIncarnation: checkpoint.header.tailIncarnation,
    headSeq: checkpoint.header.headSeq,
    distrustedBelow: checkpoint.header.distrustedBelow,
    groups: checkpoint.body.groups,
    tombstones: checkpoint.body.tombstones,
    buffer: buffers,
    bufferBytes: BATCH_BUFFER_BYTES + MOVER_BUFFER_BYTES,
    isUnit: (slot) => slots.isUnit(slot),
    unitOffset: (slot) => slots.unitOffset(slot),
  });
}

/* ------------------------------------------------------------- superblock */

/**
 * Claim the device for this start: an incarnation that no start had before, durably. A shard that is
 * given the claim looks whether it is the one.
 *
 * A start that finds both copies writes the older one, so the newest claim may be in one copy only. When
 * that one is damaged or can not be read, what is found is the store before it: the next incarnation was
 * claimed, and batches and pages may carry it. The one after that was not, or nothing was written under
 * it: a start that misses a copy works once it has written both. Writing the missing one alone was not
 * enough: a sector that takes writes and gives none back hides each claim from the next start.
 *
 * The two other facts that starts move go the same way: a clean mark may be older than a lost claim, and
 * a format that is raised is in both copies, or an older program would open the store by one of them.
 */
async function claimSuperblock(
  options: StoreOptions,
  device: Device,
  buffer: number,
): Promise<Superblock & { wasClean: boolean }> {
  const { world, claim, logger } = options;
  const { a, b } = await readSuperblocks(world, device, buffer);
  const found = newestSuperblock(a, b);
  if (found === undefined) throw await noStore(world, device, buffer);
  refuseUnreadable(device, found, options.formats);
  judgeSuperblock(options, found);
  if (claim !== undefined) {
    if (found.incarnation !== claim.incarnation) {
      throw new FastblockError(
        "FB4006",
        `The store was claimed by another start: incarnation ${String(found.incarnation)}, ${String(claim.incarnation)} wanted`,
      );
    }
    return { ...found, wasClean: found.clean };
  }
  const isWhole = areCopies(a, b);
  if (!isWhole) {
    logger.warn("a copy of the superblock is not valid, it is written anew", {
      copy: found === a ? "B" : "A",
    });
  }
  const incarnation = found.incarnation + (isWhole ? 1 : 2);
  const format = Math.max(found.format, formatsOf(options).min);
  const copies = isWhole && format === found.format ? 1 : 2;
  let claimed: Superblock = { ...found, incarnation, clean: false, format };
  for (let copy = 0; copy < copies; copy++) {
    claimed = { ...claimed, generation: claimed.generation + 1 };
    await writeSuperblock(world, device, claimed, buffer);
  }
  return { ...claimed, wasClean: isWhole && found.clean };
}

/** Whether both are there, of one store: a device that has grown may hold the end of an older one. */
function areCopies(a: Superblock | undefined, b: Superblock | undefined): boolean {
  if (a === undefined || b === undefined) return false;
  return a.storeUuid.every((byte, at) => byte === b.storeUuid[at]);
}

function formatsOf(options: StoreOptions): FormatRange {
  return options.formats ?? FORMATS;
}

function judgeSuperblock(options: StoreOptions, found: Superblock): void {
  if (hex(found.clusterId) !== hex(options.clusterId)) {
    throw new FastblockError(
      "FB4002",
      `The device belongs to another cluster: ${hex(found.clusterId)}, ${hex(options.clusterId)} wanted`,
    );
  }
  if (found.osd !== options.osd) {
    throw new FastblockError(
      "FB4002",
      `The device belongs to another osd: ${String(found.osd)}, ${String(options.osd)} wanted`,
    );
  }
  if (found.shardCount !== options.shardCount) {
    throw new FastblockError(
      "FB4006",
      `The store was formatted for ${String(found.shardCount)} shards, ${String(options.shardCount)} wanted`,
      { hint: "start the osd with the shard count of its store, or format it again" },
    );
  }
}

function identityOf(superblock: Superblock & { wasClean: boolean }): StoreIdentity {
  return {
    clusterId: superblock.clusterId,
    osd: superblock.osd,
    storeUuid: hex(superblock.storeUuid),
    incarnation: superblock.incarnation,
    shardCount: superblock.shardCount,
    wasClean: superblock.wasClean,
    formatVersion: superblock.format,
    starts: superblock.starts,
  };
}

/** Write the clean flag; nothing is written behind it. */
export async function markClean(parts: StoreParts): Promise<void> {
  const found = await readSuperblock(parts.world, parts.device, parts.buffers, parts.formats);
  if (found === undefined || found.incarnation !== parts.claim.incarnation) return;
  const clean: Superblock = { ...found, generation: found.generation + 1, clean: true };
  await writeSuperblock(parts.world, parts.device, clean, parts.buffers);
}

/* -------------------------------------------------------------- zone table */

/**
 * The zone table. A copy that is not valid is written anew by the shard that claims the device: nothing
 * else writes them, and without the other one the store is lost.
 */
async function openZoneTable(
  options: StoreOptions,
  device: Device,
  places: TablePlaces,
): Promise<ZoneTable> {
  const { world, claim, logger } = options;
  const { table, valid } = await readZoneTables(world, device, places);
  const lost = valid.indexOf(false);
  if (lost < 0 || claim !== undefined) return table;
  logger.warn("a copy of the zone table is not valid, it is written anew", { copy: "AB"[lost] });
  await writeZoneTable(world, device, places, { ...table, generation: table.generation + 1 }, lost);
  return table;
}

/* ---------------------------------------------------------- index, places */

/** Rows are given in the order of the scan. */
function rowsOf(scan: ScanResult, body: CheckpointBody): Map<number, number> {
  const rows = new Map<number, number>();
  const known = new Set(
    body.groups.map((group) => `${String(group.pg)}/${String(group.replicaId)}`),
  );
  scan.groups.forEach((group, row) => {
    // A replica made in this log after another one of its pg was removed in it: what the pages hold
    // is the removed one's, or will be redone.
    const old = known.has(`${String(group.pg)}/${String(group.replicaId)}`);
    if (old || !scan.goneGroups.has(group.pg)) rows.set(group.pg, row);
  });
  return rows;
}

/** Read all index pages. */
async function readIndex(
  parts: StoreParts,
  checkpoint: Checkpoint,
  rows: Map<number, number>,
): Promise<IndexScanResult> {
  const found = await scanIndex({
    world: parts.world,
    device: parts.device,
    table: parts.slots,
    shard: parts.shard,
    seed: parts.seed,
    pageStamp: checkpoint.header.pageStamp,
    pageCrcs: checkpoint.body.pageCrcs,
    buffer: parts.buffers,
    bufferBytes: BATCH_BUFFER_BYTES + MOVER_BUFFER_BYTES,
    rowOf: (pg) => rows.get(pg) ?? -1,
  });
  for (const { offsetBytes, text } of found.damage) {
    parts.logger.warn("index page damaged", { offsetBytes, text });
  }
  return found;
}

/** Units that the log names are taken; those that nothing will apply any more wait in quarantine. */
function takePlaces(parts: StoreParts, scan: ScanResult): void {
  const { slots } = parts;
  const wanted = slots.frames === null ? new Map<number, number>() : slots.redoUnits;
  const record = new RecordView(parts.world.arena.view);
  const scratch = new Entry();
  for (const group of scan.groups) {
    for (const entry of group.entries) {
      if (entry.index <= group.state.applied) continue;
      record.load(entry.record, 0, entry.record.byteLength);
      if (record.runs === 0) continue;
      record.fill(scratch);
      for (let unit = 0; unit < scratch.unitCount; unit++) {
        wanted.set(scratch.units[unit]!, entry.index);
      }
    }
  }
  for (const slot of scan.namedUnits) {
    if (slots.stateOf(slot) !== SlotState.Free) continue;
    slots.takeNamed(slot);
    if (!wanted.has(slot)) slots.quarantine(slot, 0);
  }
}

/* ----------------------------------------------------------------- install */

function installGroups(
  log: ShardLog,
  parts: StoreParts,
  state: StoreState,
  scan: ScanResult,
  versions: ReadonlyMap<number, number>,
): RecoveredGroup[] {
  const recovered = scan.groups.map((group) => installGroup(log, parts, state, group));
  scan.groups.forEach((group, row) => {
    log.group(row).homeVersion = versions.get(row) ?? 0;
    if (group.truncatedAt > 0) putTruncated(log, row, group.truncatedAt);
  });
  return recovered;
}

/** Start-up cut the group's log: durable with the first batch of this start. */
function putTruncated(log: ShardLog, row: number, index: number): void {
  const group = log.group(row);
  const record = log.takeControl(RecordType.Truncated);
  record.row = row;
  record.pg = group.pg;
  record.replicaId = group.replicaId;
  record.index = index;
  log.putControl(record);
}

function installGroup(
  log: ShardLog,
  parts: StoreParts,
  state: StoreState,
  group: ScannedGroup,
): RecoveredGroup {
  const rows = log.openGroup(group.pg, group.replicaId, group.baseIndex, group.baseTerm);
  const facts = new RowState(group.health, group.fillIndex);
  facts.recovered = group.entries;
  facts.fills = group.fills;
  state.rows[rows.row] = facts;
  const record = new RecordView(parts.world.arena.view);
  const scratch = new Entry();
  for (const entry of group.entries) {
    record.load(entry.record, 0, entry.record.byteLength);
    record.fill(scratch);
    rows.push(scratch, record.inlineCount, 0);
    rows.place(entry.index, entry.seq, entry.recordAt, entry.inlineBlock);
  }
  rows.durable = rows.last;
  const applied = Math.max(group.baseIndex, Math.min(group.state.applied, rows.last));
  rows.installApplied(applied);
  rows.term = group.term;
  rows.vote = group.vote;
  const commit = Math.max(group.commit, applied);
  rows.commit = commit;
  rows.commitLogged = commit;
  rows.commitDurable = commit;
  return {
    row: rows.row,
    pg: group.pg,
    replicaId: group.replicaId,
    health: group.health,
    fillIndex: group.fillIndex,
    term: group.term,
    vote: group.vote,
    commit,
    baseIndex: group.baseIndex,
    baseTerm: group.baseTerm,
    lastIndex: rows.last,
    state: group.state,
    faulty: group.faulty,
  };
}

function report(
  options: StoreOptions,
  checkpoint: Checkpoint,
  scan: ScanResult,
  losses: readonly string[],
): void {
  for (const note of scan.notes) options.logger.warn("store recovery", { note });
  const wasFound = checkpoint.header.distrustedBelow > 0 && losses.length === 0;
  for (const loss of wasFound ? ["an earlier start found damage"] : losses) {
    options.logger.warn(`${loss}, all replicas of the shard are distrusted`);
  }
}
