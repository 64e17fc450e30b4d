import type { OsdId } from "../base/ids.ts";
import { type OsdInfo, type PgInfo, pgStateOf, PgState } from "../cluster/cluster.ts";
import { PgRole } from "../../proto/gen/control_pb.ts";
import type { ReplicaReports } from "./replica-change.ts";

/** The state of a group as people are shown it: what the map tells, and what its replicas know better. */
export function groupStateOf(
  pg: PgInfo,
  osds: ReadonlyMap<OsdId, OsdInfo>,
  reports: ReplicaReports,
): PgState {
  const state = pgStateOf(pg, osds);
  const seemsLed = state === PgState.Active || state === PgState.Degraded;
  return seemsLed && isGivenUp(pg, reports) ? PgState.Leaderless : state;
}

/**
 * The leader that the map has is up, and leads no more; nobody that reports knows of another one. So it
 * stays when most replicas lost what they had to vote with.
 */
function isGivenUp(pg: PgInfo, reports: ReplicaReports): boolean {
  if (pg.leader === 0) return false;
  if (!reports.has(pg.leader)) return false;
  for (const { role, leader } of reports.values()) {
    if (role === PgRole.LEADER || leader !== 0) return false;
  }
  return true;
}
