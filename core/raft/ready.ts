// data path
import { assert } from "../base/assert.ts";
import { type Configuration, leaveJoint } from "./conf-change.ts";
import { ENTRY_KIND_CONF, ENTRY_KIND_NOOP } from "./message.ts";
import { startReadRound } from "./reading.ts";
import { sendAck } from "./replication.ts";
import { type RaftState, Role } from "./state.ts";

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
  /** A configuration under way may take this leader's vote, beside witnesses: until it is applied. */
  MayLeave = -6,
}

/** Fill `out` with what `node` wants done, and note that it was told. */
export function fillReady(node: RaftState, out: Ready): void {
  originate(node, out);
  if (node.ackDue && node.hardStateDurable) sendAck(node);
  if (node.role === Role.Leader) startReadRound(node);
  out.hardState = node.hardStateVersion > node.handedHardState;
  out.term = node.term;
  out.vote = node.vote;
  out.version = node.version;
  out.lastIndex = node.log.lastIndex;
  out.persist = out.version !== node.handedVersion || out.lastIndex !== node.handedIndex;
  out.committed = node.commitIndex > node.handedCommit;
  out.commitIndex = node.commitIndex;
  out.applyIndex = Math.min(node.commitIndex, node.durableIndex);
  out.stateChanged = node.stateChanged;
  out.role = node.role;
  out.leader = node.leader;
  out.appends = node.role === Role.Leader;
  out.fillChanged = node.fillChanged;
  out.readConfirmed = node.readConfirmed;
  node.handedHardState = node.hardStateVersion;
  node.handedVersion = node.version;
  node.handedIndex = node.log.lastIndex;
  node.handedCommit = node.commitIndex;
  node.stateChanged = false;
  node.fillChanged = false;
}

/** Append what raft itself proposes: only here, so that indexes come to the owner in order. */
function originate(node: RaftState, out: Ready): void {
  out.noopIndex = 0;
  out.leaveIndex = 0;
  out.leaveConfiguration = null;
  if (node.role !== Role.Leader) return;
  if (node.noopDue) {
    node.noopDue = false;
    out.noopIndex = node.log.append(node.term, ENTRY_KIND_NOOP);
    assert(out.noopIndex === node.ownIndex, "raft: entry before the Noop of a leadership");
  }
  if (!node.conf.joint || node.transferTo !== 0) return;
  if (node.confPendingIndex > node.appliedIndex) return;
  out.leaveConfiguration = leaveJoint(node.conf);
  out.leaveIndex = node.log.append(node.term, ENTRY_KIND_CONF);
  node.confPendingIndex = out.leaveIndex;
}
