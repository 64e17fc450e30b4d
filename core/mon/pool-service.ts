import { FastblockError } from "../base/errors.ts";
import {
  parsePgId,
  type Epoch,
  type OsdId,
  type PgId,
  type PoolId,
  type ReplicaId,
  type ShardIndex,
  type Term,
} from "../base/ids.ts";
import { pgIdOf, poolOfPg } from "../base/ids.ts";
import {
  isFailureDomain,
  isName,
  OBJECT_BLOCKS_DEFAULT,
  OBJECT_BLOCKS_MAX,
  OBJECT_BLOCKS_MIN,
  PG_COUNT_DEFAULT,
  PG_COUNT_MAX,
  type PgInfo,
  place,
  type PlacementOsd,
  type PlacementResult,
  POOL_SIZE_MAX,
  type PoolInfo,
  type ReplicaInfo,
} from "../cluster/cluster.ts";
import { BLOCK_SIZE } from "../base/units.ts";
import type { Catalogue, Change } from "./catalogue.ts";

/** What somebody asks a pool to be. Absent: the default. */
export interface PoolSpec {
  readonly name: string;
  readonly size: number;
  readonly pgCount?: number | undefined;
  readonly objectBytes?: number | undefined;
  readonly failureDomain?: string | undefined;
}

export interface PoolCreated {
  readonly pool: PoolInfo;
  /** What the creator should know, for people. */
  readonly notes: readonly string[];
  readonly placement: PlacementResult;
}

/** Pools and the groups in them. Errors: FB1001, FB1002, FB2001 to FB2004, FB2201. */
export class PoolService {
  private readonly catalogue: Catalogue;

  constructor(catalogue: Catalogue) {
    this.catalogue = catalogue;
  }

  /** Find a pool by name. Throws FB2001. */
  poolOf(name: string): PoolInfo {
    const pool = this.catalogue.map.poolByName(name);
    if (pool !== undefined) return pool;
    const names = [...this.catalogue.map.pools.values()].map((one) => one.name).sort();
    const shown = names.slice(0, NAMES_SHOWN_MAX).join(", ");
    throw new FastblockError("FB2001", `pool ${name} does not exist`, {
      why: names.length === 0 ? "there are no pools" : `there are ${shown}`,
      ...(names.length === 0 ? { hint: `create it: fastblock pool create ${name}` } : {}),
    });
  }

  /** Create a pool with all of its groups. */
  create(spec: PoolSpec, dryRun: boolean): Promise<PoolCreated> {
    return this.catalogue.change((change) => {
      const shape = this.checked(spec);
      if (this.catalogue.map.poolByName(spec.name) !== undefined) {
        throw new FastblockError("FB2002", `creating pool ${spec.name}: there is one of this name`);
      }
      const id = change.allocate("pool");
      if (id > POOL_ID_MAX) throw new FastblockError("FB1001", "creating a pool: ids are used up");
      const pool: PoolInfo = { ...shape, id: id as PoolId, changeEpoch: 0 as Epoch };
      const ids = Array.from({ length: pool.pgCount }, (_, at) => pgIdOf(pool.id, at));
      const placement = this.placed(pool, ids);
      if (!placement.ok) throw tooSmall(pool, placement);
      const pgs = ids.map((pgId, at) => this.newPg(change, pgId, placement.rows[at]!));
      change.changeMap({ pools: [pool], pgs });
      return { pool, notes: notesOn(pool, placement), placement };
    }, dryRun);
  }

  /** Remove an empty pool: osds drop its groups. */
  remove(name: string, dryRun: boolean): Promise<PoolInfo> {
    return this.catalogue.change((change) => {
      const pool = this.poolOf(name);
      const images = [...this.catalogue.images.values()].filter((one) => one.pool === pool.id);
      if (images.length > 0) {
        const names = images.slice(0, NAMES_SHOWN_MAX).map((one) => one.name);
        throw new FastblockError(
          "FB2004",
          `removing pool ${name}: it holds ${String(images.length)} images`,
          { why: `there are ${names.join(", ")}` },
        );
      }
      change.changeMap({ removedPools: [pool.id] });
      return pool;
    }, dryRun);
  }

  /** Explain why the groups of a pool lie where they do: the present placement, judged. */
  explain(pool: PoolInfo): PlacementResult {
    const pgs = this.pgsOf(pool.id);
    return place({
      size: pool.size,
      failureDomain: pool.failureDomain,
      osds: this.placementOsds(pool.id),
      groups: pgs.map((pg) => ({ id: pg.id, seats: pg.replicas.filter((one) => !one.leaving) })),
    });
  }

  /** The groups of a pool, in order. */
  pgsOf(pool: PoolId): PgInfo[] {
    return [...this.catalogue.map.pgs.values()]
      .filter((pg) => poolOfPg(pg.id) === pool)
      .sort((a, b) => a.id - b.id);
  }

  /** Find a group by its text form, `3.17`. Throws FB2201. */
  pgOf(text: string): PgInfo {
    const id = parsePgId(text);
    const pg = id === undefined ? undefined : this.catalogue.map.pgs.get(id);
    if (pg !== undefined) return pg;
    throw new FastblockError("FB2201", `placement group ${text} does not exist`, {
      why: "a group is written POOL_ID.INDEX, like 1.17",
    });
  }

  /**
   * Give a group a new replica on `to` in place of the one on `from`; the leader adds it, lets it
   * catch up, and removes the old one. Its data moves; nothing else does.
   */
  replaceReplica(text: string, from: OsdId, to: OsdId, dryRun: boolean): Promise<PgInfo> {
    return this.catalogue.change((change) => {
      const pg = this.pgOf(text);
      const pool = this.catalogue.map.pools.get(poolOfPg(pg.id))!;
      const old = pg.replicas.find((one) => one.osd === from && !one.leaving);
      if (old === undefined) {
        throw new FastblockError("FB1001", `group ${text} has no replica on osd ${String(from)}`, {
          why: `its replicas are on ${pg.replicas.map((one) => `osd ${String(one.osd)}`).join(", ")}`,
        });
      }
      const target = this.placementOsds(pool.id).find((osd) => osd.id === to);
      if (target === undefined) {
        throw new FastblockError("FB2101", `osd ${String(to)} does not exist`);
      }
      const kept = pg.replicas.filter((one) => one !== old);
      const result = place({
        size: pool.size,
        failureDomain: pool.failureDomain,
        osds: this.placementOsds(pool.id).map((osd) =>
          osd.id === to || kept.some((one) => one.osd === osd.id) ? osd : { ...osd, in: false },
        ),
        groups: [{ id: pg.id, seats: kept.filter((one) => !one.leaving) }],
      });
      const seat = result.rows[0]?.find((one) => one.replicaId === 0 && one.osd === to);
      if (seat === undefined) throw misplaced(text, to, pool, result);
      const added = this.newReplica(change, pg.id, seat);
      const wanted = pg.replicas.map((one) => (one === old ? added : one));
      const next = { ...pg, replicas: [...wanted, { ...old, leaving: true }] };
      change.changeMap({ pgs: [next] });
      return next;
    }, dryRun);
  }

  private checked(spec: PoolSpec): Omit<PoolInfo, "id" | "changeEpoch"> {
    if (!isName(spec.name))
      throw new FastblockError("FB1002", `pool name ${spec.name} is malformed`);
    const pgCount = spec.pgCount ?? PG_COUNT_DEFAULT;
    const objectBlocks =
      spec.objectBytes === undefined ? OBJECT_BLOCKS_DEFAULT : spec.objectBytes / BLOCK_SIZE;
    const failureDomain = spec.failureDomain ?? this.defaultDomain();
    const refuse = (what: string, hint: string): FastblockError =>
      new FastblockError("FB1001", `creating pool ${spec.name}: ${what}`, { hint });
    if (!Number.isInteger(spec.size) || spec.size < 1 || spec.size > POOL_SIZE_MAX) {
      throw refuse(`size ${String(spec.size)}, wanted 1 to 6`, "--size 3 survives one failure");
    }
    if (!isPowerOfTwo(pgCount) || pgCount > PG_COUNT_MAX) {
      throw refuse(`${String(pgCount)} groups, wanted a power of two`, "give --pgs 32, 64, 128 …");
    }
    if (
      !isPowerOfTwo(objectBlocks) ||
      objectBlocks < OBJECT_BLOCKS_MIN ||
      objectBlocks > OBJECT_BLOCKS_MAX
    ) {
      throw refuse(
        `objects of ${String(spec.objectBytes)} bytes, wanted a power of two, 64 KiB to 64 MiB`,
        "4MiB suits most pools",
      );
    }
    if (!isFailureDomain(failureDomain)) {
      throw refuse(
        `failure domain ${failureDomain}, wanted osd or host`,
        "host suits most clusters",
      );
    }
    return { name: spec.name, size: spec.size, pgCount, objectBlocks, failureDomain };
  }

  /** Hosts fail as a whole; only a cluster on one host has nothing but osds to tell apart. */
  private defaultDomain(): string {
    const hosts = new Set([...this.catalogue.map.osds.values()].map((osd) => osd.host));
    return hosts.size > 1 ? "host" : "osd";
  }

  private placed(pool: PoolInfo, ids: readonly PgId[]): PlacementResult {
    return place({
      size: pool.size,
      failureDomain: pool.failureDomain,
      osds: this.placementOsds(pool.id),
      groups: ids.map((id) => ({ id, seats: [] })),
    });
  }

  private placementOsds(pool: PoolId): PlacementOsd[] {
    const replicas = new Map<OsdId, number[]>();
    const leaders = new Map<OsdId, number[]>();
    for (const osd of this.catalogue.map.osds.values()) {
      replicas.set(osd.id, new Array<number>(osd.addresses.length).fill(0));
      leaders.set(osd.id, new Array<number>(osd.addresses.length).fill(0));
    }
    for (const pg of this.catalogue.map.pgs.values()) {
      if (poolOfPg(pg.id) === pool) continue;
      for (const [at, one] of pg.replicas.entries()) {
        raise(replicas.get(one.osd), one.shard);
        if (at === 0) raise(leaders.get(one.osd), one.shard);
      }
    }
    return [...this.catalogue.map.osds.values()].map((osd) => ({
      id: osd.id,
      host: osd.host,
      up: osd.up,
      in: osd.in,
      weight: osd.weight,
      shardCount: osd.addresses.length,
      otherReplicas: replicas.get(osd.id)!,
      otherLeaders: leaders.get(osd.id)!,
    }));
  }

  private newPg(change: Change, id: PgId, row: PlacementResult["rows"][number]): PgInfo {
    // Replica ids jump with the generation: a restored monitor must not hand one out twice.
    const first = (this.catalogue.map.generation - 1) * REPLICA_JUMP + 1;
    const replicas = row.map((seat, at) =>
      this.replicaOf(seat.osd, seat.shard, (first + at) as ReplicaId),
    );
    change.putPg({ id, nextReplicaId: first + row.length });
    return {
      id,
      lastChangeEpoch: 0 as Epoch,
      changeEpoch: 0 as Epoch,
      creating: true,
      replicas,
      leader: 0 as ReplicaId,
      leaderTerm: 0 as Term,
      configuration: undefined,
    };
  }

  private newReplica(
    change: Change,
    id: PgId,
    seat: { readonly osd: OsdId; readonly shard: ShardIndex },
  ): ReplicaInfo {
    const first = (this.catalogue.map.generation - 1) * REPLICA_JUMP + 1;
    const replicaId = Math.max(this.catalogue.pgs.get(id)?.nextReplicaId ?? 1, first);
    change.putPg({ id, nextReplicaId: replicaId + 1 });
    return this.replicaOf(seat.osd, seat.shard, replicaId as ReplicaId);
  }

  private replicaOf(osd: OsdId, shard: ShardIndex, replicaId: ReplicaId): ReplicaInfo {
    const storeUuid = this.catalogue.map.osds.get(osd)!.storeUuid;
    return { replicaId, osd, storeUuid, shard, leaving: false };
  }
}

const NAMES_SHOWN_MAX = 8;
const POOL_ID_MAX = 65_535;
const REPLICA_JUMP = 65_536;

function tooSmall(pool: PoolInfo, placement: PlacementResult): FastblockError {
  const domain = pool.failureDomain === "osd" ? "osds" : "hosts";
  const rejected = placement.rejected.map((one) => `osd ${String(one.osd)} ${one.rule}`);
  return new FastblockError(
    "FB2003",
    `creating pool ${pool.name}: ${String(placement.domainsUsable)} ${domain} can take replicas, wanted ${String(pool.size)}`,
    {
      why: rejected.length === 0 ? `there are no more ${domain}` : rejected.join(", "),
      hint:
        placement.domainsUsable === 0
          ? "start osds: fastblock osd run"
          : `add ${domain}, or create the pool with --size ${String(placement.domainsUsable)}`,
    },
  );
}

function misplaced(
  text: string,
  to: OsdId,
  pool: PoolInfo,
  result: PlacementResult,
): FastblockError {
  const rule = result.rejected.find((one) => one.osd === to)?.rule;
  return new FastblockError("FB2003", `group ${text} can not use osd ${String(to)}`, {
    why:
      rule === undefined
        ? `it shares its ${pool.failureDomain} with another replica of the group`
        : `osd ${String(to)} ${rule}`,
    hint: "choose another osd: fastblock osd ls",
  });
}

function notesOn(pool: PoolInfo, placement: PlacementResult): string[] {
  const notes: string[] = [];
  if (pool.size === 1)
    notes.push("size 1: there is nothing to heal from, a lost device loses data");
  if (pool.size === 2) {
    notes.push("size 2: one failure stops writes until the osd is back; size 3 goes on");
  }
  if (pool.failureDomain === "osd" && pool.size > 1) {
    notes.push("failure domain osd: replicas of a group may share a host");
  }
  const spare = placement.domainsUsable - pool.size;
  if (pool.size > 2 && spare === 0) {
    notes.push(`no spare ${pool.failureDomain} to rebuild a lost replica on`);
  }
  return notes;
}

function raise(counts: number[] | undefined, at: number): void {
  if (counts !== undefined && at < counts.length) counts[at]!++;
}

function isPowerOfTwo(value: number): boolean {
  return Number.isInteger(value) && value >= 1 && (value & (value - 1)) === 0;
}
