import { formatPgId, type OsdId, type ReplicaId, type ShardIndex } from "../base/ids.ts";
import type { Logger } from "../base/logger.ts";
import type { OsdInfo, PgInfo, ReplicaInfo } from "../cluster/cluster.ts";
import { type MapConfiguration, PgRole, type PgReport } from "../../proto/gen/control_pb.ts";

/** Of a group. */
const WITNESSES_MAX = 1;

/** Where replicas of a group were seen: every report of it, whatever the map says. */
export interface SeenReplica {
  readonly osd: OsdInfo;
  readonly report: PgReport;
}

/** What the map of a group is judged by. */
export interface Adoption {
  readonly seen: readonly SeenReplica[];
  /** Rows of lower ids are from before the catalogue was restored. */
  readonly firstId: number;
  /** Replicas with data that the pool wants. */
  readonly size: number;
  readonly logger: Logger;
}

/**
 * A group as it was found, where a restored catalogue has forgotten a change of its members: voters that
 * the map does not know, or that it believes to leave, take the place of rows that the group is without
 * for good. What was wanted since the restore stays wanted. Who leads is not asked: a group whose
 * members do not find each other has nobody.
 *
 * Undefined: somebody votes who was not seen yet. Until he is, the map says nothing of this group that
 * may be acted on: a replica that is gone would be renewed beside the one that came for it.
 */
export function withAdopted(pg: PgInfo, adoption: Adoption): PgInfo | undefined {
  const newest = newestConfiguration(adoption.seen);
  if (newest === undefined) return pg;
  const { voters, learners, outgoing } = newest;
  const unknown = voters.filter((id) => !pg.replicas.some((one) => one.replicaId === id));
  const last = Math.max(...voters.filter((id) => id < adoption.firstId));
  const isMember = (id: number): boolean => [...voters, ...learners, ...outgoing].includes(id);
  // Ids are given out in their order: one below a voter's has been a member, or never comes.
  const gone = pg.replicas.filter((one) => one.replicaId < last && !isMember(one.replicaId));
  if (unknown.length === 0 && gone.every((one) => one.leaving)) return pg;
  const adopted: ReplicaInfo[] = [];
  for (const id of unknown) {
    const found = rowOf(id as ReplicaId, adoption);
    if (found === undefined) return undefined;
    adopted.push(found);
  }
  const stay: ReplicaInfo[] = [];
  for (const one of pg.replicas) {
    if (gone.includes(one)) continue;
    const goes =
      outgoing.includes(one.replicaId) && ![...voters, ...learners].includes(one.replicaId);
    stay.push(goes ? { ...one, leaving: true } : one);
  }
  const replicas = fitted([...stay, ...adopted], gone, newest, adoption);
  if (sameRows(replicas, pg.replicas)) return pg;
  adoption.logger.warn("a group has other members than the restored catalogue says: taken over", {
    pg: formatPgId(pg.id),
    voters: String(voters),
    osds: String(adopted.map(({ osd }) => osd)),
  });
  return { ...pg, creating: false, replicas };
}

/**
 * As many that stay as the pool wants: who was replaced since the restore leaves once the new replica
 * counts, who votes and was to leave stays where nobody came for it, and where there are too few rows
 * that are gone stay: their leader tells that it is without them, and they are renewed (`withRenewals`).
 */
function fitted(
  rows: readonly ReplicaInfo[],
  gone: readonly ReplicaInfo[],
  { voters }: MapConfiguration,
  { firstId, size }: Adoption,
): ReplicaInfo[] {
  // The higher the rank, the sooner it leaves.
  const rankOf = (one: ReplicaInfo): number => {
    if (one.replicaId >= firstId) return one.leaving ? 5 : 0;
    if (one.leaving) return voters.includes(one.replicaId) ? 3 : 4;
    return 1;
  };
  const ranked = rows.toSorted((a, b) => rankOf(a) - rankOf(b));
  const stay = (isWitness: boolean, count: number): ReplicaInfo[] =>
    ranked.filter((one) => one.witness === isWitness && rankOf(one) <= 3).slice(0, count);
  const staying = new Set([...stay(false, size), ...stay(true, WITNESSES_MAX)]);
  const kept = rows.map((one) =>
    one.leaving === staying.has(one) ? { ...one, leaving: !one.leaving } : one,
  );
  const missing = size - kept.filter(isData).length;
  const all = [...kept, ...gone.filter(isData).slice(0, Math.max(0, missing))];
  const placeOf = (one: ReplicaInfo): number => (one.leaving ? 2 : one.witness ? 1 : 0);
  return all.sort((a, b) => placeOf(a) - placeOf(b));
}

/** What was applied last, as far as anybody has told. */
function newestConfiguration(seen: readonly SeenReplica[]): MapConfiguration | undefined {
  let newest: MapConfiguration | undefined;
  for (const { configuration } of seen.map(({ report }) => report)) {
    if (configuration === undefined) continue;
    if (newest === undefined || configuration.index > newest.index) newest = configuration;
  }
  return newest;
}

function sameRows(a: readonly ReplicaInfo[], b: readonly ReplicaInfo[]): boolean {
  const key = (rows: readonly ReplicaInfo[]): string =>
    String(rows.map(({ replicaId, leaving }) => `${String(replicaId)} ${String(leaving)}`).sort());
  return key(a) === key(b);
}

function isData(one: ReplicaInfo): boolean {
  return !one.leaving && !one.witness;
}

function rowOf(id: ReplicaId, { seen }: Adoption): ReplicaInfo | undefined {
  const found = seen.find(({ report }) => report.replica === id && report.role !== PgRole.REMOVED);
  if (found === undefined) return undefined;
  const { osd, report } = found;
  return {
    replicaId: id,
    osd: osd.id as OsdId,
    storeUuid: osd.storeUuid,
    shard: report.shard as ShardIndex,
    leaving: false,
    witness: report.witness,
  };
}
