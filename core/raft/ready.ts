// data path
import type { Configuration } from "./conf-change.ts";
import { Role } from "./state.ts";

/**
 * What a node wants of its owner: filled by `RaftNode.ready`, one instance a shard, valid until the
 * next call. Every field is set on every call.
 */
export class Ready {
  /** The hard state changed: queue a record of `term` and `vote` before anything else. */
  hardState = false;
  term = 0;
  vote = 0;
  /**
   * Something awaits durability: when the hard state (if told) and all entries up to `lastIndex`,
   * and everything queued before, lie on stable storage, call `onDurable(version, lastIndex)`.
   * One call for the newest of several readies in one batch is enough.
   */
  persist = false;
  version = 0;
  lastIndex = 0;
  /** Index of the Noop entry that raft appended for this leadership, 0: none. */
  noopIndex = 0;
  /** Index of the Conf entry (body: `leaveConfiguration`) that raft appended, 0: none. */
  leaveIndex = 0;
  leaveConfiguration: Configuration | null = null;
  /** commitIndex moved: writes up to it may be answered, whether durable here or not. */
  committed = false;
  commitIndex = 0;
  /** Entries up to here are committed and durable here: apply those above appliedIndex, in order. */
  applyIndex = 0;
  /** Role, term or leader changed since the last ready. */
  stateChanged = false;
  role: Role = Role.Follower;
  /** ReplicaId of the leader, 0: unknown. */
  leader = 0;
  /** Leader: visit the peers with `peekAppend`. */
  appends = false;
  /** Leader: a peer came to need filling, see `peerState`. */
  fillChanged = false;
  /** Leader: read tickets up to this one are confirmed. */
  readConfirmed = 0;
}

/** Why `propose` or `proposeConfiguration` appended nothing. All below zero. */
export enum Refusal {
  NotLeader = -1,
  /** The Noop of this leadership is not appended yet: next turn. */
  NotReady = -2,
  /** Leadership is being transferred: retry at the next leader. */
  Transferring = -3,
  /** A configuration is not applied yet, or a joint one not left yet. */
  ConfPending = -4,
  /** A learner is too far behind, unreachable or being filled. */
  NotCaughtUp = -5,
}
