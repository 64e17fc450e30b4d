// data path
/**
 * Witnesses: voters that keep entries and none of their data. A pool of two replicas has one, so that
 * one failure of three leaves a quorum.
 *
 * For votes, leases and the question who leads a witness is a voter like any other; it never leads.
 * What differs is what its copy of an entry is worth:
 *
 *  - **It counts for a commit only while a voter with data of the same half is away.** In good times
 *    an acknowledged write is on both disks. Else one disk and a header would do, always the two
 *    that are fastest, and one failure would lose what was acknowledged.
 *  - **It is sent no more than what is committed, unless its copy counts.** Otherwise a witness has
 *    headers of entries that the follower lacks when the leader dies: it refuses the follower its
 *    vote, and waits for a leader that nobody needs, whose entries nobody was told of.
 *  - **Then it is sent what is durable at the leader.** Otherwise a leader that is alone with it and
 *    starts anew may lack what the witness has, for good: nobody with data could lead any more.
 *  - **A leader that may lose its vote proposes nothing behind that configuration.** A quorum that
 *    commits it holds all of the leader's log then, and somebody with data is in each.
 *
 * Story of the last: 2 leads {1,2,W} → {1,4,W}, 1 is away, W and 4 are sent everything. 4 is slower.
 * The new half is entered with what W and 4 have, 2 leaves, and W has what came behind: it does not
 * vote for 4. A leader that finds such a configuration in its log does not know what is in it, so that
 * each counts.
 *
 * Leaving a copy out asks for more copies than raft does, and not sending delays: both are safe in any
 * configuration, whatever a leader takes for true. In a joint one each half is judged by itself.
 *
 * *Away* is a voter that is unreachable, is filled, has not answered for some time though asked, or
 * lacks committed entries. The last is what makes returning smooth: the follower takes what it
 * missed while writes go on with the witness; where it lacks little, commits wait for it once, and
 * from there on none passes it. A follower that is slow, but answers, is waited for.
 *
 * Voters with data are a majority of each half (`conf-change.ts`): without that, leaving witnesses out
 * would leave no quorum, and nobody could lead after a leader that has to go.
 *
 * Story: D leads, the follower F is away, D and the witness W commit; D dies, F returns. W has newer
 * entries and does not vote for F: the group waits for D, the one copy of what was acknowledged.
 */
import { ProgressState } from "./progress.ts";
import { quorumValue } from "./quorum.ts";
import type { RaftState } from "./state.ts";

/** A peer that left so many questions in a row without an answer counts as silent. */
export const SILENT_RETRIES = 2;

/** Whether this replica has no data of its group: it votes, and never leads. */
export function isWitness(node: RaftState): boolean {
  return (node.conf.witnesses & node.selfBit) !== 0;
}

/** Leader: whether a configuration under way may take its vote, beside witnesses. */
export function mayLeave(node: RaftState): boolean {
  return node.conf.witnesses !== 0 && node.confPendingIndex > node.appliedIndex;
}

/** Leader: up to where a quorum of a half of the configuration holds the log. */
export function heldBy(node: RaftState, voters: number): number {
  const { values, scratch } = node.shared;
  const { witnesses } = node.conf;
  const left = witnesses !== 0 && !lacksData(node, voters) ? witnesses : 0;
  for (let slot = 0; slot < node.progress.length; slot++) {
    const progress = node.progress[slot]!;
    const counts = !progress.filling && (left & (1 << slot)) === 0;
    values[slot] = counts ? progress.match : 0;
  }
  // Itself like anyone else: only what is durable.
  if (node.selfSlot >= 0) values[node.selfSlot] = node.durableIndex;
  return quorumValue(values, voters, 0, scratch);
}

/** Leader: the last entry that the member in `slot` may be sent now. */
export function sendableIndex(node: RaftState, slot: number): number {
  const { voters, outgoing, witnesses } = node.conf;
  const bit = 1 << slot;
  if ((witnesses & bit) === 0) return node.log.lastIndex;
  const counts =
    ((voters & bit) !== 0 && lacksData(node, voters)) ||
    ((outgoing & bit) !== 0 && lacksData(node, outgoing));
  return counts ? node.durableIndex : node.commitIndex;
}

/** Whether a voter with data of this half is away. */
function lacksData(node: RaftState, voters: number): boolean {
  const asked = voters & ~node.conf.witnesses & ~node.selfBit;
  for (let slot = 0; slot < node.progress.length; slot++) {
    if ((asked & (1 << slot)) !== 0 && isAway(node, slot)) return true;
  }
  return false;
}

function isAway(node: RaftState, slot: number): boolean {
  if ((node.inactive & (1 << slot)) !== 0) return true;
  const progress = node.progress[slot]!;
  const { retryTicks, promoteLagMax } = node.shared.options;
  if (progress.filling || progress.state === ProgressState.Fill) return true;
  if (progress.silentTicks >= SILENT_RETRIES * retryTicks) return true;
  // 0: not heard of yet.
  return progress.match > 0 && progress.match + promoteLagMax < node.commitIndex;
}
