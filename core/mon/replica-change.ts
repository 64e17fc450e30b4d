import { FastblockError } from "../base/errors.ts";
import { formatPgId, type OsdId, type PgId, type ReplicaId, type ShardIndex } from "../base/ids.ts";
import type { Logger } from "../base/logger.ts";
import { firstReplicaOf, type OsdInfo, type PgInfo, type ReplicaInfo } from "../cluster/cluster.ts";
import { PgRole, type PgReport } from "../../proto/gen/control_pb.ts";
import type { Catalogue, Change } from "./catalogue.ts";

/** The newest report of each replica of a group, by replica id. */
export type ReplicaReports = ReadonlyMap<ReplicaId, PgReport>;

/** What renewals of a group are judged by. */
export interface Told {
  readonly reports: ReplicaReports;
  /** The newest one of who leads. */
  readonly led: PgReport;
}

/** Why nothing can be done with the group's replica on an osd. Throws FB2101 when there is no such osd. */
export function noReplica(catalogue: Catalogue, pg: PgInfo, osd: OsdId): FastblockError {
  catalogue.osdOf(osd);
  const text = `group ${formatPgId(pg.id)} has no replica on osd ${String(osd)}`;
  return new FastblockError("FB1001", text, {
    why: `its replicas are on ${pg.replicas.map((one) => `osd ${String(one.osd)}`).join(", ")}`,
  });
}

/** A new member of an existing group, under an id that none of its members ever had. */
export function newReplica(
  catalogue: Catalogue,
  change: Change,
  id: PgId,
  seat: { readonly osd: OsdId; readonly shard: ShardIndex },
  witness: boolean,
): ReplicaInfo {
  const next = catalogue.pgs.get(id)?.nextReplicaId ?? 1;
  const replicaId = Math.max(next, firstReplicaOf(catalogue.map.generation)) as ReplicaId;
  change.putPg({ ...catalogue.pgs.get(id), id, nextReplicaId: replicaId + 1 });
  const storeUuid = catalogue.map.osds.get(seat.osd)!.storeUuid;
  return { replicaId, osd: seat.osd, storeUuid, shard: seat.shard, leaving: false, witness };
}

/**
 * The group with `added` wanted in the place of `old`, which leaves once a configuration is without
 * it. Nobody founds the group any more: `added` must not take itself for a founder.
 */
export function withReplacement(pg: PgInfo, old: ReplicaInfo, added: ReplicaInfo): PgInfo {
  const wanted = pg.replicas.map((one) => (one === old ? added : one));
  return { ...pg, creating: false, replicas: [...wanted, { ...old, leaving: true }] };
}

/**
 * Give replicas that are lost where they were a new id in the same place. Where their store no
 * longer trusts them, the osd keeps their blocks and the leader sends what differs; where the disk
 * was replaced, it sends all. So it does where their group went on without them: a leader whose map
 * was older took a new member for one that nobody wants, and no id is given out twice.
 *
 * A row whose osd holds another one of the group by now (a catalogue that was restored found it there)
 * is for people to move: two copies on one disk are one.
 *
 * Requires: the group has a leader that serves. Without one the old replicas may be all that is
 * left, and nothing is given up.
 */
export function withRenewals(
  pg: PgInfo,
  told: Told,
  catalogue: Catalogue,
  change: Change,
  logger: Logger,
): PgInfo {
  for (const old of pg.replicas) {
    const osd = catalogue.map.osds.get(old.osd);
    if (old.leaving || osd === undefined || isPlaceTaken(pg, old, told)) continue;
    const why = lossOf(old, osd, told);
    if (why === undefined || isFounding(pg, old, told.reports)) continue;
    // The new store may have fewer shards.
    const shard = (old.shard % osd.addresses.length) as ShardIndex;
    const added = newReplica(catalogue, change, pg.id, { osd: old.osd, shard }, old.witness);
    logger.warn(`a replica is renewed: ${why}`, {
      pg: formatPgId(pg.id),
      osd: old.osd,
      replica: old.replicaId,
      renewed: added.replicaId,
    });
    // One at a time: the allocation above is seen by the next change only.
    return withReplacement(pg, old, added);
  }
  return pg;
}

/** Whether the group lives on in another row of the same osd. */
function isPlaceTaken(pg: PgInfo, old: ReplicaInfo, { led }: Told): boolean {
  return pg.replicas.some(
    (one) => one !== old && one.osd === old.osd && !one.leaving && !isLeftOut(one, led),
  );
}

/** Why a replica is lost where it was, for people; undefined: it is not. */
function lossOf(one: ReplicaInfo, osd: OsdInfo, { reports, led }: Told): string | undefined {
  if (osd.storeUuid !== one.storeUuid) return osd.up ? "its disk was replaced" : undefined;
  const role = reports.get(one.replicaId)?.role;
  if (role === PgRole.DISTRUSTED) return "its store does not trust it";
  return isLeftOut(one, led) ? "its group went on without it" : undefined;
}

/** Whether the group gave the replica's id out and is without it: that is for good. */
function isLeftOut(one: ReplicaInfo, { configuration, nextReplicaId }: PgReport): boolean {
  if (configuration === undefined || one.replicaId >= nextReplicaId) return false;
  const { voters, outgoing, learners } = configuration;
  return ![...voters, ...outgoing, ...learners].includes(one.replicaId);
}

/** Whether a founder besides `old` is still to be made, which ends with the first replacement. */
function isFounding(pg: PgInfo, old: ReplicaInfo, reports: ReplicaReports): boolean {
  if (!pg.creating) return false;
  return pg.replicas.some((one) => one !== old && !one.leaving && !reports.has(one.replicaId));
}
