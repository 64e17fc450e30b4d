// cold path: read when something is made.
import { RAFT_OPTIONS_DEFAULT, type RaftOptions } from "../raft/raft.ts";
import { HEARTBEAT_INTERVAL_US } from "./peer-link.ts";
import { ROUND_UNITS_MAX } from "./recovery-pace.ts";
import { SESSIONS_MAX } from "./session-window.ts";

/** Limits of a shard's groups. Production has the defaults; the simulator twists them. */
export interface GroupLimits {
  readonly raft: RaftOptions;
  /** Sessions that a group remembers: the same at all replicas of a cluster, for ever. */
  readonly sessionsMax: number;
  /** Units that one round of a fill asks about at most. */
  readonly fillUnits: number;
  /** Between two heartbeats: no more than the default, which leases allow for. */
  readonly heartbeatUs: number;
}

export const LIMITS_DEFAULT: GroupLimits = {
  raft: RAFT_OPTIONS_DEFAULT,
  sessionsMax: SESSIONS_MAX,
  fillUnits: ROUND_UNITS_MAX,
  heartbeatUs: HEARTBEAT_INTERVAL_US,
};
