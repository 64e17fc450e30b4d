import type { Epoch, LogIndex, OsdId, PgId, ReplicaId, ShardIndex, Term } from "../base/ids.ts";
import type { OsdInfo } from "./osd-map.ts";

/** One member of a placement group. Immutable. */
export interface ReplicaInfo {
  /** ≥ 1, never reused within the group. */
  readonly replicaId: ReplicaId;
  readonly osd: OsdId;
  /** The store that may be this replica; a store with another uuid never is. */
  readonly storeUuid: string;
  readonly shard: ShardIndex;
  /** No longer wanted; stands here until a reported configuration is without it. */
  readonly leaving: boolean;
  /** Votes, and holds no data; it never leads. Never changes under one id. */
  readonly witness: boolean;
}

/** A configuration that a leader reported as applied. Raft's own is the truth. */
export interface PgConfiguration {
  readonly index: LogIndex;
  readonly voters: readonly ReplicaId[];
  /** Voters of the old half of a joint configuration; empty otherwise. */
  readonly outgoing: readonly ReplicaId[];
  readonly learners: readonly ReplicaId[];
}

/** One placement group: what it should be, and what its leader reported last. Immutable. */
export interface PgInfo {
  readonly id: PgId;
  /** Epoch of the last change of `replicas` or `creating`: older requests answer `MapStale`. */
  readonly lastChangeEpoch: Epoch;
  /** Epoch of the last change of anything in this row, leader hints included. */
  readonly changeEpoch: Epoch;
  /**
   * True from pool creation until the group serves and every replica was seen. Only while it is true
   * may a replica (of exactly the store named) bootstrap the group with `replicas` as voters.
   */
  readonly creating: boolean;
  /** Desired replicas, the preferred leader first and witnesses last, then leaving ones. */
  readonly replicas: readonly ReplicaInfo[];
  /** Hint: the leader reported last, 0 when none is known, and its term. */
  readonly leader: ReplicaId;
  readonly leaderTerm: Term;
  readonly configuration: PgConfiguration | undefined;
}

/** How many of `voters` must agree: ⌊n/2⌋ + 1. */
function majorityOf(voters: number): number {
  return Math.floor(voters / 2) + 1;
}

/** Find a replica of a group by its id. */
export function replicaOf(pg: PgInfo, replicaId: ReplicaId): ReplicaInfo | undefined {
  for (const replica of pg.replicas) {
    if (replica.replicaId === replicaId) return replica;
  }
  return undefined;
}

/** Find the replica of a group that lives on an osd (a wanted one before a leaving one). */
export function replicaOnOsd(pg: PgInfo, osd: OsdId): ReplicaInfo | undefined {
  for (const replica of pg.replicas) {
    if (replica.osd === osd) return replica;
  }
  return undefined;
}

/** Those of a group that hold its data, in the map's order. */
export function holdersOf(pg: PgInfo): readonly ReplicaInfo[] {
  return pg.replicas.filter((one) => !one.witness);
}

/** A group's condition, for people. */
export enum PgState {
  /** Not established yet. */
  Creating = 0,
  /** All wanted replicas are voters on osds that are up. */
  Active = 1,
  /** Serves, with fewer replicas than wanted. */
  Degraded = 2,
  /** No majority is up: writes wait. */
  Down = 3,
  /** A majority is up, but no leader was reported. */
  Leaderless = 4,
}

/** Judge a group by the osds that hold its replicas. */
export function pgStateOf(pg: PgInfo, osds: ReadonlyMap<OsdId, OsdInfo>): PgState {
  if (pg.creating && pg.leader === 0) return PgState.Creating;
  if (!hasMajority(pg, osds)) return PgState.Down;
  if (pg.leader === 0) return PgState.Leaderless;
  const leader = replicaOf(pg, pg.leader);
  if (leader === undefined || !isUp(leader, osds)) return PgState.Leaderless;
  return missingOf(pg, osds).length === 0 ? PgState.Active : PgState.Degraded;
}

/** Wanted replicas that do not count now: not up, of a store that was replaced, or no voters yet. */
export function missingOf(pg: PgInfo, osds: ReadonlyMap<OsdId, OsdInfo>): readonly ReplicaInfo[] {
  return pg.replicas.filter(
    (one) => !one.leaving && !(isUp(one, osds) && isVoter(pg, one.replicaId)),
  );
}

/** Whether the osd of a replica is up, with the store that the replica is made on. */
export function isUp(replica: ReplicaInfo, osds: ReadonlyMap<OsdId, OsdInfo>): boolean {
  const osd = osds.get(replica.osd);
  return osd !== undefined && osd.up && osd.storeUuid === replica.storeUuid;
}

function isVoter(pg: PgInfo, replicaId: ReplicaId): boolean {
  return pg.configuration === undefined || pg.configuration.voters.includes(replicaId);
}

function hasMajority(pg: PgInfo, osds: ReadonlyMap<OsdId, OsdInfo>): boolean {
  const configuration = pg.configuration;
  const voters =
    configuration?.voters ?? pg.replicas.filter((one) => !one.leaving).map((one) => one.replicaId);
  if (!votersUp(pg, voters, osds)) return false;
  const outgoing = configuration?.outgoing ?? [];
  return outgoing.length === 0 || votersUp(pg, outgoing, osds);
}

function votersUp(
  pg: PgInfo,
  voters: readonly ReplicaId[],
  osds: ReadonlyMap<OsdId, OsdInfo>,
): boolean {
  let up = 0;
  for (const id of voters) {
    const replica = replicaOf(pg, id);
    if (replica !== undefined && isUp(replica, osds)) up++;
  }
  return up >= majorityOf(voters.length);
}
