import { FastblockError } from "../base/errors.ts";
import { counted, exactSize } from "../base/size-text.ts";
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
import { formatPgId, pgIdOf, POOL_ID_MAX, poolOfPg } from "../base/ids.ts";
import {
  firstReplicaOf,
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
import { PgRole } from "../../proto/gen/control_pb.ts";
import type { Catalogue, Change } from "./catalogue.ts";
import { newReplica, noReplica, type ReplicaReports, withReplacement } from "./replica-change.ts";

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

/** Pools and the groups in them. Errors: FB1001, FB1002, FB2001 to FB2004, FB2101, FB2201 to FB2203. */
export class PoolService {
  private readonly catalogue: Catalogue;
  private readonly reportsOf: (pg: PgInfo) => ReplicaReports;

  constructor(catalogue: Catalogue, reportsOf: (pg: PgInfo) => ReplicaReports) {
    this.catalogue = catalogue;
    this.reportsOf = reportsOf;
  }

  /** Find a pool by name. Throws FB2001. */
  poolOf(name: string): PoolInfo {
    const pool = this.catalogue.map.poolByName(name);
    if (pool !== undefined) return pool;
    const names = [...this.catalogue.map.pools.values()].map((one) => one.name).sort();
    const shown = names.slice(0, NAMES_SHOWN_MAX).join(", ");
    throw new FastblockError("FB2001", `pool ${name} does not exist`, {
      why: names.length === 0 ? "there are no pools" : `pools are: ${shown}`,
      ...(names.length === 0 ? { hint: `create it: fastblock pool create ${name} --size 3` } : {}),
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
      const { generation } = this.catalogue.map;
      const pool: PoolInfo = { ...shape, id: id as PoolId, generation, changeEpoch: 0 as Epoch };
      const ids = Array.from({ length: pool.pgCount }, (_, at) => pgIdOf(pool.id, at));
      const placement = this.placed(pool, ids);
      if (!placement.ok) throw tooSmall(pool, placement);
      this.checkRoom(pool, placement);
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
          `removing pool ${name}: it holds ${counted(images.length, "image")}`,
          { why: `its images are: ${names.join(", ")}` },
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
   *
   * `to` may be `from` when the osd has another store by now. Throws FB1001, FB2003, FB2101, FB2201,
   * FB2202, FB2203.
   */
  replaceReplica(text: string, from: OsdId, to: OsdId, dryRun: boolean): Promise<PgInfo> {
    return this.catalogue.change((change) => {
      const pg = this.pgOf(text);
      const pool = this.catalogue.map.pools.get(poolOfPg(pg.id))!;
      const old = pg.replicas.find((one) => one.osd === from && !one.leaving);
      if (old === undefined) throw noReplica(this.catalogue, pg, from);
      this.catalogue.osdOf(to);
      this.checkReplaceable(pg, old, to);
      const seat = this.seatFor(pg, pool, old, to);
      const added = newReplica(this.catalogue, change, pg.id, seat, old.witness);
      const next = withReplacement(pg, old, added);
      change.changeMap({ pgs: [next] });
      return next;
    }, dryRun);
  }

  /** Let a replica be the one that leads its group by preference. */
  preferLeader(id: PgId, replica: ReplicaId): Promise<void> {
    return this.catalogue.change((change) => {
      const pg = this.catalogue.map.pgs.get(id);
      const first = pg?.replicas.find((one) => one.replicaId === replica);
      if (pg === undefined || first === undefined || pg.replicas[0] === first) return;
      if (first.witness) return;
      const replicas = [first, ...pg.replicas.filter((one) => one !== first)];
      change.changeMap({ pgs: [{ ...pg, replicas }] });
    });
  }

  private checkReplaceable(pg: PgInfo, old: ReplicaInfo, to: OsdId): void {
    const text = `group ${formatPgId(pg.id)}`;
    const reports = this.reportsOf(pg);
    const unseen = pg.replicas.find((one) => one !== old && !reports.has(one.replicaId));
    if (pg.creating && (pg.leader === 0 || unseen !== undefined)) {
      throw new FastblockError("FB2202", `${text} is not established yet`, {
        why: unseen === undefined ? "" : `osd ${String(unseen.osd)} has not made its replica`,
      });
    }
    const target = this.catalogue.osdOf(to);
    const held = pg.replicas.find((one) => one.osd === to && one.storeUuid === target.storeUuid);
    if (held === old && reports.get(old.replicaId)?.role !== PgRole.DISTRUSTED) {
      throw new FastblockError("FB2203", `${text} has this replica on osd ${String(to)} already`, {
        why: "the store of the osd is the one that it was made on",
      });
    }
    if (held?.leaving !== true) return;
    throw new FastblockError("FB2203", `${text} still has a replica on osd ${String(to)}`, {
      why: `replica ${String(held.replicaId)} is leaving from there`,
      hint: `wait until it is gone: fastblock pg info ${formatPgId(pg.id)}`,
    });
  }

  /** Where the new replica goes. Those that stay do so, whatever became of their osds. */
  private seatFor(
    pg: PgInfo,
    pool: PoolInfo,
    old: ReplicaInfo,
    to: OsdId,
  ): { readonly osd: OsdId; readonly shard: ShardIndex } {
    const target = this.catalogue.map.osds.get(to)!;
    if (old.osd === to && old.storeUuid === target.storeUuid) return old;
    const seats = pg.replicas.filter((one) => one !== old && !one.leaving);
    const result = place({
      size: pool.size,
      failureDomain: pool.failureDomain,
      osds: this.placementOsds(pool.id).map((osd) => {
        if (osd.id === to) return osd;
        const stays = seats.some((one) => one.osd === osd.id);
        return { ...osd, in: stays, up: stays, weight: Math.max(osd.weight, 1) };
      }),
      groups: [{ id: pg.id, seats }],
    });
    const seat = result.rows[0]?.find(
      (one) => one.replicaId === 0 && one.osd === to && one.witness === old.witness,
    );
    if (seat !== undefined) return seat;
    const rule = result.rejected.find((one) => one.osd === to)?.rule;
    const isHost = pool.failureDomain === "host";
    const holder = seats.find(
      (one) =>
        one.osd === to || (isHost && this.catalogue.map.osds.get(one.osd)?.host === target.host),
    );
    throw misplaced(formatPgId(pg.id), to, rule, holder);
  }

  private checked(spec: PoolSpec): Omit<PoolInfo, "id" | "generation" | "changeEpoch"> {
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
        `objects of ${exactSize(spec.objectBytes ?? 0)}, wanted a power of two, 64 KiB to 64 MiB`,
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

  /** A shard carries so many replicas and no more. Throws FB2003. */
  private checkRoom(pool: PoolInfo, placement: PlacementResult): void {
    const counts = this.seats(pool.id, () => true);
    const before = Math.max(0, ...[...counts.values()].flat());
    for (const seat of placement.rows.flat()) raise(counts.get(seat.osd), seat.shard);
    const most = Math.max(0, ...[...counts.values()].flat());
    if (most <= SHARD_REPLICAS_MAX) return;
    const share = (SHARD_REPLICAS_MAX - before) / (most - before);
    const fitting = 2 ** Math.floor(Math.log2(Math.max(1, pool.pgCount * share)));
    throw new FastblockError(
      "FB2003",
      `creating pool ${pool.name}: ${String(most)} replicas on one shard, wanted at most ${String(SHARD_REPLICAS_MAX)}`,
      {
        why: `${String(pool.pgCount)} groups of ${String(pool.size)} are too many for these osds`,
        hint: `take fewer groups: --pgs ${String(fitting)}`,
      },
    );
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
    const replicas = this.seats(pool, (one) => !one.witness);
    const leaders = this.seats(pool, (_, at) => at === 0);
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

  /** Replicas of other pools by osd and shard, as far as they count. */
  private seats(
    pool: PoolId,
    counts: (one: ReplicaInfo, at: number) => boolean,
  ): Map<OsdId, number[]> {
    const { osds, pgs } = this.catalogue.map;
    const seats = new Map<OsdId, number[]>();
    for (const { id, addresses } of osds.values()) {
      seats.set(id, new Array<number>(addresses.length).fill(0));
    }
    for (const pg of pgs.values()) {
      if (poolOfPg(pg.id) === pool) continue;
      for (const [at, one] of pg.replicas.entries()) {
        if (counts(one, at)) raise(seats.get(one.osd), one.shard);
      }
    }
    return seats;
  }

  private newPg(change: Change, id: PgId, row: PlacementResult["rows"][number]): PgInfo {
    const first = firstReplicaOf(this.catalogue.map.generation);
    const replicas = row.map((seat, at): ReplicaInfo => {
      const { osd, shard, witness } = seat;
      const { storeUuid } = this.catalogue.map.osds.get(osd)!;
      const replicaId = (first + at) as ReplicaId;
      return { replicaId, osd, storeUuid, shard, leaving: false, witness };
    });
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
}

const NAMES_SHOWN_MAX = 8;
/** Each costs some kilobytes of memory and its share of every report and map. */
const SHARD_REPLICAS_MAX = 8192;

function tooSmall(pool: PoolInfo, placement: PlacementResult): FastblockError {
  const domain = pool.failureDomain === "osd" ? "osd" : "host";
  const rejected = placement.rejected.map((one) => `osd ${String(one.osd)} ${one.rule}`);
  return new FastblockError(
    "FB2003",
    `creating pool ${pool.name}: ${counted(placement.domainsUsable, domain)} can take replicas, wanted ${String(pool.size)}`,
    {
      why: rejected.length === 0 ? `there are no more ${domain}s` : rejected.join(", "),
      hint: hintFor(domain, placement),
    },
  );
}

function hintFor(domain: string, { domainsUsable, rejected }: PlacementResult): string {
  const out = rejected.find((one) => one.rule === "is out");
  if (out !== undefined) return `take it in again: fastblock osd in ${String(out.osd)}`;
  if (domainsUsable === 0) return "start osds, then look: fastblock osd ls";
  return `add ${domain}s, or create the pool with --size ${String(domainsUsable)}`;
}

/** `rule`: what keeps the osd from all replicas; `holder`: the member that has its failure domain. */
function misplaced(
  text: string,
  to: OsdId,
  rule: string | undefined,
  holder: ReplicaInfo | undefined,
): FastblockError {
  const osd = `osd ${String(to)}`;
  const what = `moving a replica of group ${text} to ${osd}`;
  const other = "choose another osd: fastblock osd ls";
  if (rule !== undefined || holder === undefined) {
    const why = rule === undefined ? "placement finds no seat for it there" : `${osd} ${rule}`;
    return new FastblockError("FB2003", `${what}: it can not take replicas`, { why, hint: other });
  }
  const from = String(holder.osd);
  const place = holder.osd === to ? "there" : `on the same host, on osd ${from}`;
  const member = holder.witness ? "the witness of the group" : "a replica of the group";
  return new FastblockError("FB2003", `${what}: ${member} is ${place}`, {
    why: `no two members of a group share a failure domain${holder.witness ? "; a witness is a member, though it holds no data" : ""}`,
    hint: holder.witness
      ? `${other}; or move the witness away first: fastblock pg replace ${text} --from ${from} --to OSD`
      : other,
  });
}

function notesOn(pool: PoolInfo, placement: PlacementResult): string[] {
  const notes: string[] = [];
  if (pool.size === 1)
    notes.push("size 1: there is nothing to heal from, a lost device loses data");
  if (pool.size === 2 && placement.witnessed < placement.rows.length) {
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
