// data path
/**
 * Routing: which part of raft takes a message, and what its term says before.
 *
 * An older term is answered, and goes no further. A newer one ends the own role, but for a vote
 * request, which judges that itself, and a granted PreVoteReply, whose term need not exist. Only the
 * leader of a term sends Append and ReadProbe in it.
 */
import { assert } from "../base/assert.ts";
import {
  handleLeaderGone,
  handlePreVoteReply,
  handleTimeoutNow,
  handleVoteReply,
  handleVoteRequest,
  refuseStale,
  voidPromise,
} from "./election.ts";
import { MessageFlag, MessageType, type RaftMessage } from "./message.ts";
import { handleReadProbe, handleReadProbeReply } from "./reading.ts";
import { handleAppend, handleAppendReply, StepResult } from "./replication.ts";
import { becomeFollower, type RaftState, Role } from "./state.ts";

/** Take a message of this group. Answers as `RaftNode.step` does. */
export function route(node: RaftState, message: RaftMessage): StepResult {
  const type = message.type;
  voidPromise(node, message);
  if (message.term < node.term) {
    refuseStale(node, message);
    return StepResult.None;
  }
  if (type === MessageType.PreVote || type === MessageType.Vote) {
    handleVoteRequest(node, message);
    return StepResult.None;
  }
  if (type === MessageType.PreVoteReply && (message.flags & MessageFlag.Reject) === 0) {
    // Carries the term that the candidate asked for, not one that exists.
    handlePreVoteReply(node, message);
    return StepResult.None;
  }
  const fromLeader = type === MessageType.Append || type === MessageType.ReadProbe;
  if (message.term > node.term) becomeFollower(node, message.term, fromLeader ? message.from : 0);
  if (fromLeader) follow(node, message.from);
  switch (type) {
    case MessageType.Append:
      return handleAppend(node, message);
    case MessageType.AppendReply:
      handleAppendReply(node, message);
      break;
    case MessageType.PreVoteReply:
      handlePreVoteReply(node, message);
      break;
    case MessageType.VoteReply:
      handleVoteReply(node, message);
      break;
    case MessageType.TimeoutNow:
      handleTimeoutNow(node, message);
      break;
    case MessageType.LeaderGone:
      handleLeaderGone(node, message);
      break;
    case MessageType.ReadProbe:
      handleReadProbe(node, message);
      break;
    case MessageType.ReadProbeReply:
      handleReadProbeReply(node, message);
      break;
    default:
      node.shared.malformed++;
  }
  return StepResult.None;
}

/** Accept `from` as the leader of this term. */
function follow(node: RaftState, from: number): void {
  assert(node.role !== Role.Leader, "raft: two leaders in one term");
  assert(node.leader === 0 || node.leader === from, "raft: two leaders in one term");
  if (node.role !== Role.Follower || node.leader !== from) becomeFollower(node, node.term, from);
  node.promisee = from;
  node.promiseTerm = node.term;
  node.elapsedTicks = 0;
}
