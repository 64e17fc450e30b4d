import { assert, AssertionError } from "../base/assert.ts";
import { FastblockError } from "../base/errors.ts";
import { FORMAT_FIRST, FORMATS, type FormatRange } from "../base/formats.ts";
import {
  poolOfPg,
  type ImageId,
  type OsdId,
  type PgId,
  type PoolId,
  type SessionId,
} from "../base/ids.ts";
import { type MapChange, type MapDelta, ClusterMap, type OsdInfo } from "../cluster/cluster.ts";
import type { OsdRow, PgRow, PoolRow, RecoveryRow, RemovedPoolsRow } from "../cluster/cluster.ts";
import type { MetaCompare, MetaRow, MetaStore, MetaWrite } from "./meta-store.ts";
import { checkGroups, damagedRow, readRow } from "./row-shapes.ts";
import type {
  Allocators,
  ClusterRecord,
  ImageRecord,
  OperationRecord,
  OsdRecord,
  PgRecord,
  SessionRecord,
} from "./records.ts";

/**
 * Everything that the monitor knows for good, in memory, with the store behind it.
 *
 * ```
 * cluster            ClusterRecord                   ids                Allocators
 * map                MapRow
 * map/osd/ID         OsdRow                          osd/ID             OsdRecord
 * map/pool/ID        PoolRow
 * map/pg/ID          PgRow                           pg/ID              PgRecord
 * map/removed/ID     RemovedPoolsRow of one pool: for good, ids never come twice
 * map/recovery       RecoveryRow, once it was touched
 * image/ID           ImageRecord                     session/ID         SessionRecord
 * operation/ID       OperationRecord
 * ```
 *
 * Every change is one transaction: `change` runs a function that checks the state as it is and
 * stages writes, commits them durably, and only then lets memory (and with it every reader and
 * subscriber) see them. Changes queue behind each other, so a check can not be overtaken. Each
 * commit compares the leader's election key: a monitor that lost it changes nothing any more.
 *
 * Ids come from allocators whose rows are written in the same transaction as what uses the id. A
 * catalogue that was restored from a backup jumps (`raiseGeneration`): what was handed out after
 * the backup is never handed out again.
 */
export class Catalogue {
  readonly map: ClusterMap = new ClusterMap();
  readonly images: Map<ImageId, ImageRecord> = new Map();
  readonly sessions: Map<SessionId, SessionRecord> = new Map();
  readonly osds: Map<OsdId, OsdRecord> = new Map();
  readonly pgs: Map<PgId, PgRecord> = new Map();
  readonly operations: Map<number, OperationRecord> = new Map();
  private readonly store: MetaStore;
  private readonly fence: () => MetaCompare;
  private readonly onMap: (delta: MapDelta) => void;
  private readonly formats: FormatRange;
  private readonly imageNames = new Map<string, ImageId>();
  private ids: Allocators = { pool: 0, image: 0, layer: 0, session: 0, operation: 0 };
  private queue: Promise<void> = Promise.resolve();
  private failed: Error | undefined;
  private cluster: ClusterRecord | undefined;
  /** Why nothing may be changed, and no map told, for now (`old-copy.ts`); undefined: it may. */
  held: FastblockError | undefined;

  /**
   * `fence`: the compare on the leader's election key. `onMap`: called after each new epoch. `formats`:
   * of this program.
   */
  constructor(
    store: MetaStore,
    fence: () => MetaCompare,
    onMap: (delta: MapDelta) => void,
    formats: FormatRange = FORMATS,
  ) {
    this.formats = formats;
    this.store = store;
    this.fence = fence;
    this.onMap = onMap;
  }

  /**
   * Read everything; the first start writes the cluster's identity. Throws FB4002, FB4003, FB4006 with the
   * key of a row that is damaged.
   */
  async load(clusterId: string): Promise<void> {
    const { rows } = await this.store.range("");
    const byKey = new Map(rows.map((row) => [row.key, row]));
    const cluster = parse<ClusterRecord>(byKey.get("cluster"));
    if (cluster === undefined) {
      await this.create(clusterId);
      return;
    }
    const identity = parse<MapRow>(byKey.get("map"));
    checkCluster(cluster, clusterId);
    this.checkFormat(identity?.format ?? FORMAT_FIRST);
    this.cluster = cluster;
    this.ids = parse<Allocators>(byKey.get("ids")) ?? this.ids;
    const recovery = parse<RecoveryRow>(byKey.get("map/recovery"));
    const delta = mapOf(rows, cluster.generation, identity);
    checkGroups(delta.pools, delta.pgs);
    this.applyLoaded(recovery === undefined ? delta : { ...delta, recovery });
    for (const row of rows) this.loadRow(row);
  }

  /**
   * Make a change. `build` runs synchronously against the present state and stages writes; what
   * it throws changes nothing. Answers its result once everything is durable and visible.
   *
   * With `dryRun` everything is checked and nothing written.
   */
  change<T>(build: (change: Change) => T, dryRun = false): Promise<T> {
    const result = this.queue.then(() => this.changeNow(build, dryRun));
    this.queue = result.then(
      () => undefined,
      () => undefined,
    );
    return result;
  }

  /** Why nothing can be changed any more: the monitor must start again. */
  get failure(): Error | undefined {
    return this.failed;
  }

  /** Find an osd. Throws FB2101. */
  osdOf(id: OsdId): OsdInfo {
    const osd = this.map.osds.get(id);
    if (osd !== undefined) return osd;
    const known = [...this.map.osds.keys()].sort((a, b) => a - b);
    throw new FastblockError("FB2101", `osd ${String(id)} does not exist`, {
      why: known.length === 0 ? "no osd has registered" : `osds are: ${known.join(", ")}`,
    });
  }

  /** Wait until every change begun so far is done. */
  idle(): Promise<void> {
    return this.queue;
  }

  /** Find an image by pool and name. */
  imageByName(pool: PoolId, name: string): ImageRecord | undefined {
    const id = this.imageNames.get(nameKey(pool, name));
    return id === undefined ? undefined : this.images.get(id);
  }

  /**
   * The lock epoch that ends whoever holds the image. They jump with the generation: a restored
   * catalogue must not give one to a second holder.
   */
  nextLockEpoch(image: ImageRecord): number {
    return Math.max(image.lockEpoch, (this.map.generation - 1) * LOCK_JUMP) + 1;
  }

  /** Whether the catalogue comes from a backup, and the generation was not raised yet. */
  get isRestored(): boolean {
    return this.cluster?.restored === true;
  }

  /** The catalogue comes from a backup: the generation is raised before anything is changed. */
  async noteRestored(): Promise<void> {
    await this.putCluster({ restored: true }, []);
  }

  /**
   * After a restore from a backup: raise the generation above `seen`, so that the maps of this monitor
   * pass for newer than any that were handed out before, and jump every allocator as often.
   */
  async raiseGeneration(seen: number): Promise<void> {
    const before = this.map.generation;
    const generation = (Math.max(before, seen) + 1) as ClusterRecord["generation"];
    const jumps = generation - before;
    const ids: Allocators = {
      pool: this.ids.pool + jumps * POOL_JUMP,
      image: this.ids.image + jumps * ID_JUMP,
      layer: this.ids.layer + jumps * ID_JUMP,
      session: this.ids.session + jumps * SESSION_JUMP,
      operation: this.ids.operation + jumps * ID_JUMP,
    };
    const write = { key: "ids", value: JSON.stringify(ids) };
    await this.putCluster({ generation, restored: false }, [write]);
    this.ids = ids;
    const full = this.map.deltaFrom(0, 0);
    assert(full !== undefined, "raiseGeneration: no map");
    const delta = { ...full, generation };
    this.map.apply(delta);
    this.onMap(delta);
  }

  /** Rows that are good each by itself may still make no map. Throws FB4006. */
  private applyLoaded(delta: MapDelta): void {
    try {
      this.map.apply(delta);
    } catch (error) {
      if (!(error instanceof FastblockError)) throw error;
      throw damagedRow("map", error.message);
    }
  }

  private checkFormat(format: number): void {
    const { max } = this.formats;
    if (format <= max) return;
    throw new FastblockError(
      "FB4003",
      `opening the catalogue: the cluster has format ${String(format)}, this program knows up to ${String(max)}`,
    );
  }

  private async putCluster(over: Partial<ClusterRecord>, writes: MetaWrite[]): Promise<void> {
    assert(this.cluster !== undefined, "Catalogue.putCluster: nothing is loaded");
    const cluster = { ...this.cluster, ...over };
    await this.commit([{ key: "cluster", value: JSON.stringify(cluster) }, ...writes]);
    this.cluster = cluster;
  }

  private async create(clusterId: string): Promise<void> {
    const cluster: ClusterRecord = {
      clusterId,
      generation: 1 as ClusterRecord["generation"],
      format: FORMAT,
    };
    await this.commit([
      { key: "cluster", value: JSON.stringify(cluster) },
      { key: "map", value: JSON.stringify({ epoch: 1 }) },
    ]);
    this.cluster = cluster;
    this.map.apply(mapOf([], 1, { epoch: 1 }));
  }

  private async changeNow<T>(build: (change: Change) => T, dryRun: boolean): Promise<T> {
    if (this.failed !== undefined) throw this.failed;
    if (this.held !== undefined) throw this.held;
    const change = new Change(this, this.ids);
    const result = build(change);
    if (dryRun) return result;
    const delta = change.delta();
    const writes = change.writes(delta);
    if (writes.length === 0) return result;
    await this.commit(writes);
    this.ids = change.ids;
    change.applyTo(this);
    if (delta !== undefined) {
      this.map.apply(delta);
      this.onMap(delta);
    }
    return result;
  }

  /**
   * Any doubt about a commit makes memory and store differ: the monitor must start again. There is
   * none when the store has no space (FB4010): nothing was changed, and the next one may pass.
   */
  private async commit(writes: MetaWrite[]): Promise<void> {
    let ok: boolean;
    try {
      ok = (await this.store.commit({ compares: [this.fence()], writes })).ok;
    } catch (error) {
      if (isPassing(error) || error instanceof AssertionError) throw error;
      this.failed = new FastblockError("FB1003", "the catalogue failed", {
        why: error instanceof Error ? error.message : String(error),
      });
      throw this.failed;
    }
    if (ok) return;
    this.failed = new FastblockError("FB1004", "this mon no longer leads");
    throw this.failed;
  }

  private loadRow(row: MetaRow): void {
    const [kind, id] = row.key.split("/");
    if (id === undefined) return;
    if (kind === "image") this.putImage(readRow<ImageRecord>(row));
    else if (kind === "session") put(this.sessions, readRow<SessionRecord>(row));
    else if (kind === "osd") put(this.osds, readRow<OsdRecord>(row));
    else if (kind === "pg") put(this.pgs, readRow<PgRecord>(row));
    else if (kind === "operation") put(this.operations, readRow<OperationRecord>(row));
  }

  /** For `Change` and `load` alone. */
  putImage(image: ImageRecord): void {
    this.dropImage(image.id);
    this.images.set(image.id, image);
    this.imageNames.set(nameKey(image.pool, image.name), image.id);
  }

  /** For `Change` and `load` alone. */
  dropImage(id: ImageId): void {
    const before = this.images.get(id);
    if (before === undefined) return;
    this.images.delete(id);
    this.imageNames.delete(nameKey(before.pool, before.name));
  }
}

/** Whether a change was refused for now, and changed nothing: for want of space, or held. */
export function isPassing(error: unknown): boolean {
  return error instanceof FastblockError && (error.code === "FB4010" || error.code === "FB1015");
}

const FORMAT = 1;
const POOL_JUMP = 64;
const ID_JUMP = 1_048_576;
const LOCK_JUMP = 65_536;
/** Sessions are handed out fastest: one per attachment. */
const SESSION_JUMP = 4_294_967_296;

/** The writes of one transaction, staged. Use it within `build` only. */
export class Change {
  ids: Allocators;
  private readonly catalogue: Catalogue;
  private readonly staged = new Map<string, string | undefined>();
  private readonly applies: ((catalogue: Catalogue) => void)[] = [];
  private mapChange: MapChange | undefined;
  private hasIds = false;

  constructor(catalogue: Catalogue, ids: Allocators) {
    this.catalogue = catalogue;
    this.ids = ids;
  }

  /** Take the next id of a kind. */
  allocate(kind: keyof Allocators): number {
    const id = this.ids[kind] + 1;
    this.ids = { ...this.ids, [kind]: id };
    this.hasIds = true;
    return id;
  }

  /** Make the next epoch of the map. Once a transaction. */
  changeMap(change: MapChange): void {
    assert(this.mapChange === undefined, "Change.changeMap: called twice");
    this.mapChange = change;
  }

  putImage(image: ImageRecord): void {
    this.stage(`image/${String(image.id)}`, image);
    this.applies.push((catalogue) => catalogue.putImage(image));
  }

  removeImage(id: ImageId): void {
    this.stage(`image/${String(id)}`, undefined);
    this.applies.push((catalogue) => catalogue.dropImage(id));
  }

  putSession(session: SessionRecord): void {
    this.stage(`session/${String(session.id)}`, session);
    this.applies.push((catalogue) => put(catalogue.sessions, session));
  }

  removeSession(id: SessionId): void {
    this.stage(`session/${String(id)}`, undefined);
    this.applies.push((catalogue) => catalogue.sessions.delete(id));
  }

  putOsd(osd: OsdRecord): void {
    this.stage(`osd/${String(osd.id)}`, osd);
    this.applies.push((catalogue) => put(catalogue.osds, osd));
  }

  putPg(pg: PgRecord): void {
    this.stage(`pg/${String(pg.id)}`, pg);
    this.applies.push((catalogue) => put(catalogue.pgs, pg));
  }

  putOperation(operation: OperationRecord): void {
    this.stage(`operation/${String(operation.id)}`, operation);
    this.applies.push((catalogue) => put(catalogue.operations, operation));
  }

  removeOperation(id: number): void {
    this.stage(`operation/${String(id)}`, undefined);
    this.applies.push((catalogue) => catalogue.operations.delete(id));
  }

  /** For the catalogue: the map's delta, if the change makes one. */
  delta(): MapDelta | undefined {
    return this.mapChange === undefined ? undefined : this.catalogue.map.next(this.mapChange);
  }

  /** For the catalogue: everything staged, as rows of the store. */
  writes(delta: MapDelta | undefined): MetaWrite[] {
    const all = new Map(this.staged);
    if (this.hasIds) all.set("ids", JSON.stringify(this.ids));
    if (delta !== undefined) stageDelta(all, delta);
    for (const { first: pool } of delta?.removedPools ?? []) this.removeGroups(all, pool);
    return [...all].map(([key, value]) => ({ key, value }));
  }

  private removeGroups(all: Map<string, string | undefined>, pool: number): void {
    for (const id of this.catalogue.map.pgs.keys()) {
      if (poolOfPg(id) !== pool) continue;
      all.set(`map/pg/${String(id)}`, undefined);
      all.set(`pg/${String(id)}`, undefined);
      this.applies.push((catalogue) => catalogue.pgs.delete(id));
    }
  }

  /** For the catalogue: let memory see the change. */
  applyTo(catalogue: Catalogue): void {
    for (const apply of this.applies) apply(catalogue);
  }

  private stage(key: string, value: object | undefined): void {
    this.staged.set(key, value === undefined ? undefined : JSON.stringify(value));
  }
}

/** Epoch of the map, and the format of the cluster once it was raised. */
interface MapRow {
  readonly epoch: number;
  readonly format?: number;
}

function stageDelta(all: Map<string, string | undefined>, delta: MapDelta): void {
  const { epoch, format } = delta;
  const row: MapRow = format === undefined ? { epoch } : { epoch, format };
  all.set("map", JSON.stringify(row));
  if (delta.recovery !== undefined) all.set("map/recovery", JSON.stringify(delta.recovery));
  for (const row of delta.osds) all.set(`map/osd/${String(row.id)}`, JSON.stringify(row));
  for (const row of delta.pools) all.set(`map/pool/${String(row.id)}`, JSON.stringify(row));
  for (const row of delta.pgs) all.set(`map/pg/${String(row.id)}`, JSON.stringify(row));
  for (const row of delta.removedPools) {
    all.set(`map/pool/${String(row.first)}`, undefined);
    all.set(`map/removed/${String(row.first)}`, JSON.stringify(row));
  }
}

function mapOf(
  rows: readonly MetaRow[],
  generation: number,
  identity: MapRow | undefined,
): MapDelta {
  const of = <T>(kind: string): T[] =>
    rows.filter((row) => row.key.startsWith(`map/${kind}/`)).map((row) => readRow<T>(row));
  return {
    generation,
    fromEpoch: 0,
    epoch: identity?.epoch ?? 1,
    ...(identity?.format === undefined ? {} : { format: identity.format }),
    full: true,
    osds: of<OsdRow>("osd"),
    pools: of<PoolRow>("pool"),
    pgs: of<PgRow>("pg"),
    removedPools: of<RemovedPoolsRow>("removed"),
    part: 0,
    more: false,
  };
}

function checkCluster(cluster: ClusterRecord, clusterId: string): void {
  if (cluster.format > FORMAT) {
    throw new FastblockError(
      "FB4003",
      `opening the catalogue: layout ${String(cluster.format)}, this program knows ${String(FORMAT)}`,
    );
  }
  if (cluster.clusterId !== clusterId) {
    throw new FastblockError(
      "FB4002",
      `opening the catalogue: it belongs to cluster ${cluster.clusterId}, this one is ${clusterId}`,
      { hint: "give the mon the data directory of its own cluster" },
    );
  }
}

function parse<T>(row: MetaRow | undefined): T | undefined {
  return row === undefined ? undefined : readRow<T>(row);
}

function put<K extends number, V extends { readonly id: K }>(map: Map<K, V>, value: V): void {
  map.set(value.id, value);
}

function nameKey(pool: PoolId, name: string): string {
  return `${String(pool)}/${name}`;
}
