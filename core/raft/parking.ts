// cold path: a replica is parked or wakes when it has been quiet, or no longer is.
/**
 * When all that raft knows of a replica follows from its log, its term and vote, and who leads.
 *
 * Then its objects may go. A follower has acknowledged all to its leader, which it has promised its
 * vote to; a leader knows that everybody has all, and that all is committed, and counts every peer's
 * echoes as promises. Whatever could change that (a message, a connection that is lost or renewed, a
 * configuration) has to wake the replica first: `resume` makes it what it was.
 */
import { Progress, ProgressState } from "./progress.ts";
import { leaderIsBusy } from "./replication.ts";
import { leaderActive, type RaftState, Role } from "./state.ts";

/** Whether `resume` could restore all that is known. Beside that nothing may be under way in the owner. */
export function mayPark(node: RaftState): boolean {
  const last = node.log.lastIndex;
  if (node.dirty || node.inactive !== 0 || node.selfSlot < 0 || node.conf.joint) return false;
  if (node.commitIndex !== last || node.appliedIndex !== last) return false;
  if (node.durableIndex !== last || node.durableVersion !== node.version) return false;
  if (node.filling || node.uncounted || node.faulty) return false;
  if (node.grantTo !== 0 || node.campaignOnApply === node.term) return false;
  return node.role === Role.Leader ? leaderMayPark(node) : followerMayPark(node);
}

function followerMayPark(node: RaftState): boolean {
  if (node.role !== Role.Follower || !leaderActive(node) || node.ackDue) return false;
  // Its leader waits to hear that there is space again; who wakes does not know that.
  if (node.full) return false;
  if (node.promisee !== node.leader || node.promiseTerm !== node.term) return false;
  return node.matchedIndex === node.log.lastIndex && node.ackedIndex === node.log.lastIndex;
}

function leaderMayPark(node: RaftState): boolean {
  if (node.noopDue || node.ownIndex === 0 || node.leaseGivenUp || leaderIsBusy(node)) return false;
  if (node.readIssued !== node.readConfirmed || node.fillChanged) return false;
  if (node.confPendingIndex > node.appliedIndex) return false;
  for (let slot = 0; slot < node.progress.length; slot++) {
    if (slot !== node.selfSlot && !peerMayPark(node, node.progress[slot]!)) return false;
  }
  return true;
}

function peerMayPark(node: RaftState, progress: Progress): boolean {
  const last = node.log.lastIndex;
  if (progress.state !== ProgressState.Replicate || progress.filling || progress.full) return false;
  if (progress.emptyDue || progress.match !== last || progress.commitKnown !== last) return false;
  const { host } = node.shared;
  return progress.follows && host.echoCount(node.group, progress.id) > progress.echoAtAck;
}

/**
 * Make a restored replica what it was when it was parked, in its present term. Requires: its log is
 * applied to the end. `ownIndex`: of a leader, the first entry of its leadership.
 */
export function resume(node: RaftState, leader: number, ownIndex: number): void {
  const last = node.log.lastIndex;
  node.leader = leader;
  if (leader !== node.id) {
    node.promisee = leader;
    node.promiseTerm = node.term;
    node.matchedIndex = last;
    node.ackedIndex = last;
    return;
  }
  node.role = Role.Leader;
  node.ledTerm = node.term;
  node.ownIndex = ownIndex;
  node.progress = node.conf.members.map((member, slot) => {
    const progress = new Progress(member.id, last + 1);
    if (slot === node.selfSlot) return progress;
    progress.state = ProgressState.Replicate;
    progress.match = last;
    progress.commitSent = last;
    progress.commitKnown = last;
    // Echoes that counted then count now: they only become more.
    progress.follows = true;
    return progress;
  });
}
