import type { OsdId, ReplicaId } from "../base/ids.ts";
import { type OsdInfo, type PgInfo, pgStateOf, PgState } from "../cluster/cluster.ts";
import { type PgReport, PgRole } from "../../proto/gen/control_pb.ts";

/** What replicas of a group reported last, of osds that report. */
export type GroupReports = ReadonlyMap<ReplicaId, PgReport>;

/** The state of a group as people are shown it: what the map tells, and what its replicas know better. */
export function groupStateOf(
  pg: PgInfo,
  osds: ReadonlyMap<OsdId, OsdInfo>,
  reports: GroupReports,
): PgState {
  const state = pgStateOf(pg, osds);
  const seemsLed = state === PgState.Active || state === PgState.Degraded;
  return seemsLed && isGivenUp(pg, reports) ? PgState.Leaderless : state;
}

/**
 * The leader that the map has is up, and leads no more; nobody that reports knows of another one. So it
 * stays when most replicas lost what they had to vote with.
 */
function isGivenUp(pg: PgInfo, reports: GroupReports): boolean {
  if (pg.leader === 0) return false;
  if (!reports.has(pg.leader)) return false;
  for (const { role, leader } of reports.values()) {
    if (role === PgRole.LEADER || leader !== 0) return false;
  }
  return true;
}
