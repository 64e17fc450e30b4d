import type {
  Epoch,
  Generation,
  LogIndex,
  OsdId,
  PgId,
  PoolId,
  ReplicaId,
  ShardIndex,
  Term,
} from "../base/ids.ts";
import { POOL_ID_MAX, poolOfPg } from "../base/ids.ts";
import { FastblockError } from "../base/errors.ts";
import { FORMAT_FIRST } from "../base/formats.ts";
import type {
  ConfigurationRow,
  MapDelta,
  OsdRow,
  PgRow,
  PoolRow,
  RecoveryRow,
  RemovedPoolsRow,
} from "./map-delta.ts";
import { joinDeltas } from "./map-parts.ts";
import type { OsdInfo } from "./osd-map.ts";
import type { PgConfiguration, PgInfo, ReplicaInfo } from "./pg-map.ts";
import { isFailureDomain, isName, PG_COUNT_MAX, POOL_SIZE_MAX, type PoolInfo } from "./pool.ts";
import { RECOVERY_DEFAULT, type RecoverySettings, recoverySpeedOf } from "./recovery.ts";
import { RemovedPools } from "./removed-pools.ts";

/** What became of a delta. */
export enum ApplyResult {
  /** The map moved. */
  Applied = 0,
  /** The map had it already. */
  Current = 1,
  /** Its (generation, epoch) is lower than the map's: refused, nothing changed. */
  Older = 2,
  /** It begins after the map's epoch, or another generation: ask for a delta from here. */
  Gap = 3,
  /** Kept: a part of a large delta; the map moves with the last one. */
  Partial = 4,
}

/** A change to the next epoch, as the monitor makes it: whole rows, `changeEpoch` is filled in. */
export interface MapChange {
  readonly osds?: readonly OsdInfo[];
  readonly pools?: readonly PoolInfo[];
  /** `lastChangeEpoch` moves to the new epoch when replicas or `creating` differ from before. */
  readonly pgs?: readonly PgInfo[];
  /** With their groups. */
  readonly removedPools?: readonly PoolId[];
  readonly recovery?: RecoverySettings;
  readonly format?: number;
}

/** Compare (generation, epoch) pairs: negative when `a` is lower, 0 when equal. */
export function compareMapIdentity(
  a: { readonly generation: number; readonly epoch: number },
  b: { readonly generation: number; readonly epoch: number },
): number {
  return a.generation === b.generation ? a.epoch - b.epoch : a.generation - b.generation;
}

/** Lists of members that are offered to be shared. */
const SHARED_MAX = 1024;

/**
 * The cluster map of one (generation, epoch). Rows are immutable and replaced; the maps belong to
 * this class: read them, never change them.
 *
 * Invariant: (generation, epoch) never goes down.
 */
export class ClusterMap {
  /** 0 before the first map. */
  generation: Generation = 0 as Generation;
  epoch: Epoch = 0 as Epoch;
  /** Of the last change that is more than hints: who leads is told anew to whoever forgets it. */
  lastingEpoch: Epoch = 0 as Epoch;
  readonly osds: Map<OsdId, OsdInfo> = new Map();
  readonly pools: Map<PoolId, PoolInfo> = new Map();
  readonly pgs: Map<PgId, PgInfo> = new Map();
  removedPools: RemovedPools = new RemovedPools();
  recovery: RecoverySettings = RECOVERY_DEFAULT;
  /** Of the cluster: never goes down, whatever a restored catalogue says. */
  format: number = FORMAT_FIRST;
  /** Parts of a large delta so far. */
  private parts: MapDelta[] = [];
  private readonly shared = new SharedParts();

  /**
   * Move to the state that `delta` describes, or refuse it. All or nothing.
   *
   * Throws FB1001 when the delta breaks the rules of the model.
   */
  apply(delta: MapDelta): ApplyResult {
    const order = compareMapIdentity(delta, this);
    if (order < 0) return ApplyResult.Older;
    if (order === 0) return ApplyResult.Current;
    if (!delta.full && (delta.generation !== this.generation || delta.fromEpoch > this.epoch)) {
      return ApplyResult.Gap;
    }
    checkDelta(delta);
    if (delta.part === 0) this.parts = [];
    if (!continues(this.parts, delta)) return ApplyResult.Gap;
    if (delta.more) {
      this.parts.push(delta);
      return ApplyResult.Partial;
    }
    this.take(this.parts.length === 0 ? delta : joinDeltas([...this.parts, delta]));
    this.parts = [];
    return ApplyResult.Applied;
  }

  private take(delta: MapDelta): void {
    let isLasting = isMoreThanGroups(delta, this.format);
    if (delta.full) this.clear();
    if (delta.removedPools.length > 0) this.remove(delta.removedPools);
    for (const row of delta.osds) this.osds.set(row.id as OsdId, osdOf(row));
    for (const row of delta.pools) this.pools.set(row.id as PoolId, poolOf(row));
    for (const row of delta.pgs) {
      const before = this.pgs.get(row.id as PgId);
      const next = this.pgOf(row, before);
      this.pgs.set(next.id, next);
      if (!differsInHints(before, next)) isLasting = true;
    }
    if (delta.recovery !== undefined) this.recovery = recoveryOf(delta.recovery);
    this.format = Math.max(this.format, delta.format ?? 0);
    this.generation = delta.generation as Generation;
    this.epoch = delta.epoch as Epoch;
    if (isLasting) this.lastingEpoch = this.epoch;
  }

  /** What a holder of (generation, epoch) lacks; undefined when nothing. Full when it must be. */
  deltaFrom(generation: number, epoch: number): MapDelta | undefined {
    if (generation === this.generation && epoch >= this.epoch) return undefined;
    const from = this.fromOf(generation, epoch);
    const full = from < 0;
    return {
      generation: this.generation,
      fromEpoch: full ? 0 : epoch,
      epoch: this.epoch,
      full,
      osds: [...this.osds.values()].filter((row) => row.changeEpoch > from).map(osdRowOf),
      pools: [...this.pools.values()].filter((row) => row.changeEpoch > from).map(poolRowOf),
      pgs: [...this.pgs.values()].filter((row) => row.changeEpoch > from).map(pgRowOf),
      removedPools: this.removedPools.rows.filter((row) => row.changeEpoch > from),
      part: 0,
      more: false,
      ...formatRow(this.format),
      ...recoveryRow(this.recovery.changeEpoch > Math.max(from, 0) ? this.recovery : undefined),
    };
  }

  /** How many rows `deltaFrom` would tell: they are counted, nothing is made. */
  rowsFrom(generation: number, epoch: number): number {
    const from = this.fromOf(generation, epoch);
    return (
      changedAfter(from, this.osds.values()) +
      changedAfter(from, this.pools.values()) +
      changedAfter(from, this.pgs.values())
    );
  }

  /** Rows that changed after it are told to a holder of (generation, epoch). -1: all of them. */
  fromOf(generation: number, epoch: number): number {
    return generation !== this.generation || epoch === 0 ? -1 : epoch;
  }

  /**
   * The delta to the next epoch that makes `change`; the map itself stays until it is applied.
   *
   * It names each removed pool in a row of its own.
   */
  next(change: MapChange): MapDelta {
    const epoch = this.epoch + 1;
    return {
      generation: this.generation,
      fromEpoch: this.epoch,
      epoch,
      full: false,
      osds: (change.osds ?? []).map((osd) => ({ ...osdRowOf(osd), changeEpoch: epoch })),
      pools: (change.pools ?? []).map((pool) => ({ ...poolRowOf(pool), changeEpoch: epoch })),
      pgs: (change.pgs ?? []).map((pg) => this.nextPg(pg, epoch)),
      removedPools: (change.removedPools ?? []).map((id) => this.removalOf(id, epoch)),
      part: 0,
      more: false,
      ...formatRow(change.format ?? this.format),
      ...recoveryRow(
        change.recovery === undefined
          ? undefined
          : { ...change.recovery, changeEpoch: epoch as Epoch },
      ),
    };
  }

  /** Find a pool by its name. */
  poolByName(name: string): PoolInfo | undefined {
    for (const pool of this.pools.values()) {
      if (pool.name === name) return pool;
    }
    return undefined;
  }

  private nextPg(pg: PgInfo, epoch: number): PgRow {
    const before = this.pgs.get(pg.id);
    const same =
      before !== undefined &&
      before.creating === pg.creating &&
      sameReplicas(before.replicas, pg.replicas);
    const lastChangeEpoch = same ? before.lastChangeEpoch : epoch;
    return { ...pgRowOf(pg), changeEpoch: epoch, lastChangeEpoch };
  }

  private removalOf(id: PoolId, epoch: number): RemovedPoolsRow {
    const generation = this.pools.get(id)?.generation ?? this.generation;
    return { first: id, last: id, generation, changeEpoch: epoch };
  }

  private clear(): void {
    this.osds.clear();
    this.pools.clear();
    this.pgs.clear();
    this.removedPools = new RemovedPools();
    this.recovery = RECOVERY_DEFAULT;
  }

  private remove(rows: readonly RemovedPoolsRow[]): void {
    const removed = new RemovedPools(rows);
    for (const id of this.pools.keys()) if (removed.has(id)) this.pools.delete(id);
    for (const id of this.pgs.keys()) if (removed.has(poolOfPg(id))) this.pgs.delete(id);
    this.removedPools = new RemovedPools([...this.removedPools.rows, ...rows]);
  }

  /** Share the osd's uuid string: at 100,000 groups three copies each would cost 20 MiB. */
  private pgOf(row: PgRow, before: PgInfo | undefined): PgInfo {
    const replicas: ReplicaInfo[] = row.replicas.map((replica) => {
      const known = this.osds.get(replica.osd as OsdId)?.storeUuid;
      return {
        replicaId: replica.replicaId as ReplicaId,
        osd: replica.osd as OsdId,
        storeUuid: known === replica.storeUuid ? known : replica.storeUuid,
        shard: replica.shard as ShardIndex,
        leaving: replica.leaving,
        witness: replica.witness === true,
      };
    });
    return {
      id: row.id as PgId,
      lastChangeEpoch: row.lastChangeEpoch as Epoch,
      changeEpoch: row.changeEpoch as Epoch,
      creating: row.creating,
      replicas: this.shared.of(replicas, before?.replicas),
      leader: row.leader as ReplicaId,
      leaderTerm: row.leaderTerm as Term,
      configuration:
        row.configuration === undefined
          ? undefined
          : this.shared.of(configurationOf(row.configuration), before?.configuration),
    };
  }
}

function changedAfter(epoch: number, rows: Iterable<{ readonly changeEpoch: Epoch }>): number {
  let count = 0;
  for (const row of rows) if (row.changeEpoch > epoch) count += 1;
  return count;
}

/**
 * What many groups have alike is one object, 400 bytes a group: most groups of a pool lie on the same
 * few osds. What a row had before is kept where it is the same; of others the last ones are known.
 */
class SharedParts {
  private readonly known = new Map<string, unknown>();

  /** The same as `part`: `before`, one that was asked for before, or itself. */
  of<Part>(part: Part, before: Part | undefined): Part {
    const key = JSON.stringify(part);
    if (before !== undefined && JSON.stringify(before) === key) return before;
    const known = this.known.get(key);
    // The key tells the kind: one is a list, the other is not.
    if (known !== undefined) return known as Part;
    if (this.known.size >= SHARED_MAX) this.known.clear();
    this.known.set(key, part);
    return part;
  }
}

/** True when `delta` is the next part after `parts`. */
function continues(parts: readonly MapDelta[], delta: MapDelta): boolean {
  if (delta.part !== parts.length) return false;
  const first = parts[0];
  return (
    first === undefined ||
    (compareMapIdentity(first, delta) === 0 &&
      first.fromEpoch === delta.fromEpoch &&
      first.full === delta.full)
  );
}

function recoveryOf(row: RecoveryRow): RecoverySettings {
  const { speed, paused, changeEpoch } = row;
  return { speed: recoverySpeedOf(speed), paused, changeEpoch: changeEpoch as Epoch };
}

/** Whether a delta changes anything but rows of groups. */
function isMoreThanGroups(delta: MapDelta, format: number): boolean {
  const { full, osds, pools, removedPools, recovery } = delta;
  if (full || recovery !== undefined || (delta.format ?? 0) > format) return true;
  return osds.length > 0 || pools.length > 0 || removedPools.length > 0;
}

/** Whether a row tells another leader or term than before, and nothing else. Equal parts are one object. */
function differsInHints(before: PgInfo | undefined, next: PgInfo): boolean {
  return (
    before !== undefined &&
    before.creating === next.creating &&
    before.lastChangeEpoch === next.lastChangeEpoch &&
    before.replicas === next.replicas &&
    before.configuration === next.configuration
  );
}

/** For a delta: the settings, if they are to be told. */
function recoveryRow(settings: RecoverySettings | undefined): Pick<MapDelta, "recovery"> {
  return settings === undefined ? {} : { recovery: { ...settings } };
}

/** For a delta: the format, once it was raised. */
function formatRow(format: number): Pick<MapDelta, "format"> {
  return format === FORMAT_FIRST ? {} : { format };
}

function sameReplicas(a: readonly ReplicaInfo[], b: readonly ReplicaInfo[]): boolean {
  if (a.length !== b.length) return false;
  return a.every((left, at) => {
    const right = b[at]!;
    return (
      left.replicaId === right.replicaId &&
      left.osd === right.osd &&
      left.storeUuid === right.storeUuid &&
      left.shard === right.shard &&
      left.leaving === right.leaving &&
      left.witness === right.witness
    );
  });
}

function osdOf(row: OsdRow): OsdInfo {
  return {
    id: row.id as OsdId,
    storeUuid: row.storeUuid,
    host: row.host,
    up: row.up,
    in: row.in,
    weight: row.weight,
    addresses: row.addresses.map(({ host, port }) => ({ host, port })),
    changeEpoch: row.changeEpoch as Epoch,
  };
}

function osdRowOf(osd: OsdInfo): OsdRow {
  return {
    id: osd.id,
    storeUuid: osd.storeUuid,
    host: osd.host,
    up: osd.up,
    in: osd.in,
    weight: osd.weight,
    addresses: osd.addresses.map(({ host, port }) => ({ host, port })),
    changeEpoch: osd.changeEpoch,
  };
}

function poolOf(row: PoolRow): PoolInfo {
  const failureDomain = row.failureDomain;
  if (!isFailureDomain(failureDomain)) throw malformed(`failure domain ${failureDomain}`);
  return {
    id: row.id as PoolId,
    name: row.name,
    size: row.size,
    pgCount: row.pgCount,
    objectBlocks: row.objectBlocks,
    failureDomain,
    generation: Math.max(1, row.generation ?? 0) as Generation,
    changeEpoch: row.changeEpoch as Epoch,
  };
}

function poolRowOf(pool: PoolInfo): PoolRow {
  return {
    id: pool.id,
    name: pool.name,
    size: pool.size,
    pgCount: pool.pgCount,
    objectBlocks: pool.objectBlocks,
    failureDomain: pool.failureDomain,
    changeEpoch: pool.changeEpoch,
    generation: pool.generation,
  };
}

function pgRowOf(pg: PgInfo): PgRow {
  return {
    id: pg.id,
    lastChangeEpoch: pg.lastChangeEpoch,
    changeEpoch: pg.changeEpoch,
    creating: pg.creating,
    replicas: pg.replicas.map((one) => ({
      replicaId: one.replicaId,
      osd: one.osd,
      storeUuid: one.storeUuid,
      shard: one.shard,
      leaving: one.leaving,
      ...(one.witness ? { witness: true } : {}),
    })),
    leader: pg.leader,
    leaderTerm: pg.leaderTerm,
    configuration:
      pg.configuration === undefined ? undefined : rowOfConfiguration(pg.configuration),
  };
}

function rowOfConfiguration(conf: PgConfiguration): ConfigurationRow {
  return {
    index: conf.index,
    voters: [...conf.voters],
    outgoing: [...conf.outgoing],
    learners: [...conf.learners],
  };
}

function configurationOf(row: ConfigurationRow): PgConfiguration {
  return {
    index: row.index as LogIndex,
    voters: row.voters.map((id) => id as ReplicaId),
    outgoing: row.outgoing.map((id) => id as ReplicaId),
    learners: row.learners.map((id) => id as ReplicaId),
  };
}

function malformed(what: string): FastblockError {
  return new FastblockError("FB1001", `the cluster map is malformed: ${what}`);
}

/** Refuse what would break the code that trusts a map. */
function checkDelta(delta: MapDelta): void {
  if (delta.epoch < 1 || delta.generation < 1) {
    throw malformed(`generation ${String(delta.generation)}, epoch ${String(delta.epoch)}`);
  }
  for (const osd of delta.osds) {
    if (!isU32(osd.weight) || !isU32(osd.id)) throw malformed(`osd ${String(osd.id)}`);
  }
  for (const pool of delta.pools) {
    if (!isPowerOfTwo(pool.pgCount) || pool.pgCount > PG_COUNT_MAX) {
      throw malformed(`pool ${pool.name} has ${String(pool.pgCount)} groups`);
    }
    if (!isPowerOfTwo(pool.objectBlocks) || !isName(pool.name))
      throw malformed(`pool ${pool.name}`);
    if (pool.size < 1 || pool.size > POOL_SIZE_MAX) throw malformed(`pool ${pool.name}: size`);
    if (!isFailureDomain(pool.failureDomain)) throw malformed(`pool ${pool.name}: failure domain`);
  }
  for (const { first, last, generation } of delta.removedPools) {
    if (first < 1 || last < first || last > POOL_ID_MAX || generation < 1) {
      throw malformed(`removed pools ${String(first)} to ${String(last)}`);
    }
  }
  for (const pg of delta.pgs) {
    const seen = new Set<number>();
    for (const replica of pg.replicas) {
      if (replica.replicaId < 1 || seen.has(replica.replicaId)) {
        throw malformed(`group ${String(pg.id)} has replica ${String(replica.replicaId)} twice`);
      }
      seen.add(replica.replicaId);
    }
  }
}

function isU32(value: number): boolean {
  return Number.isInteger(value) && value >= 0 && value <= 0xffff_ffff;
}

function isPowerOfTwo(value: number): boolean {
  return Number.isInteger(value) && value >= 1 && (value & (value - 1)) === 0;
}
