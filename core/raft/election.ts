// data path
/**
 * Elections: pre-vote, vote, transfer, stepping down.
 *
 *   Follower ── timeout, leader lost ──► PreCandidate ── quorum would vote ──► Candidate
 *      ▲            ▲      │ repeated every 4–8 ticks         │ own vote and whole log durable,
 *      │            └──────┘ while promises are in force      │ then the requests leave
 *      └─── higher term, leader heard, refused ───────────────┴── quorum voted ──► Leader
 *
 * Rules that the original broke, each a test:
 *  - a vote leaves only after term and vote are durable, the candidate's own included;
 *  - only an explicit yes counts: errors and silence do not;
 *  - no vote against a leader that holds this replica's promise, nor for 400 ms after the start.
 *
 * Vote requests wait for the candidate's whole log too. Story: a candidate asks with an entry that
 * is not durable, crashes, loses it, asks again in the same term, and is elected by a late answer
 * to the first request: without the entry that the voter had wanted to see.
 */
import { assert } from "../base/assert.ts";
import { MessageFlag, MessageType, type RaftMessage } from "./message.ts";
import { hasQuorum, quorumLost } from "./quorum.ts";
import { Progress } from "./progress.ts";
import { askPeer } from "./replication.ts";
import {
  becomeFollower,
  isSole,
  leaderActive,
  endTransfer,
  markDirty,
  mayLead,
  mustAnnounce,
  quorumActive,
  type RaftState,
  resetTimer,
  Role,
  send,
  setCommit,
  setTerm,
  tellLeaderGone,
  votesBlocked,
} from "./state.ts";
import { isWitness } from "./witness.ts";

/** A timeout, or a request to campaign: ask whether an election would succeed. */
export function startCampaign(node: RaftState): void {
  const options = node.shared.options;
  // Nobody answers: their replicas are not made yet, or they are too busy. Ask at longer intervals.
  if (node.role !== Role.PreCandidate || node.voteHeard) node.unheardRounds = 0;
  else node.unheardRounds++;
  const pauseTicks = options.preVoteTicks * 2 ** node.unheardRounds;
  resetTimer(node, Math.min(pauseTicks, options.electionTicks));
  if (!mayLead(node)) {
    if (node.role !== Role.Follower) becomeFollower(node, node.term, node.leader);
    resetTimer(node, options.electionTicks);
    if (mustAnnounce(node)) tellLeaderGone(node);
    return;
  }
  // A committed configuration that is not applied yet may have taken this replica's vote away.
  if (node.log.confCount(node.appliedIndex, node.commitIndex) > 0) return;
  // The own vote is a vote too.
  if (votesBlocked(node)) {
    doubt(node);
    return;
  }
  if (node.role !== Role.PreCandidate) node.stateChanged = true;
  node.role = Role.PreCandidate;
  node.voteHeard = false;
  node.campaignWaits = false;
  node.granted = node.selfBit;
  node.refused = 0;
  markDirty(node);
  if (isSole(node)) {
    startElection(node, false);
    return;
  }
  requestVotes(node, MessageType.PreVote, node.term + 1, 0);
}

function requestVotes(node: RaftState, type: MessageType, term: number, flags: number): void {
  const members = node.conf.members;
  const voters = node.conf.voters | node.conf.outgoing;
  for (let slot = 0; slot < members.length; slot++) {
    if (slot === node.selfSlot || (voters & (1 << slot)) === 0) continue;
    const message = send(node, members[slot]!.id, type, term);
    message.index = node.log.lastIndex;
    message.logTerm = node.log.lastTerm;
    message.flags = flags;
  }
}

/** Begin a new term with a vote for oneself; the requests leave once that is durable. */
function startElection(node: RaftState, transfer: boolean): void {
  assert(mayLead(node), "raft: election of a replica that may not lead");
  node.shared.elections++;
  node.role = Role.Candidate;
  node.leader = 0;
  node.granted = 0;
  node.refused = 0;
  node.campaignWaits = true;
  node.campaignTransfer = transfer;
  node.stateChanged = true;
  node.matchedIndex = node.commitIndex;
  node.ackedIndex = 0;
  node.ackDue = false;
  setTerm(node, node.term + 1, node.id);
  resetTimer(node, node.shared.options.electionTicks);
}

/** After progress of durability: count the own vote and ask for the others. */
export function campaignDurable(node: RaftState): void {
  if (!node.hardStateDurable || node.durableIndex < node.log.lastIndex) return;
  node.campaignWaits = false;
  node.granted |= node.selfBit;
  if (hasQuorum(node.granted, node.conf.voters, node.conf.outgoing)) {
    becomeLeader(node);
    return;
  }
  const flags = node.campaignTransfer ? MessageFlag.Transfer : 0;
  requestVotes(node, MessageType.Vote, node.term, flags);
}

/** cold: once per won election. */
function becomeLeader(node: RaftState): void {
  assert(node.role === Role.Candidate, "raft: leader without election");
  assert(node.vote === node.id, "raft: leader without its own vote");
  node.shared.electionsWon++;
  node.role = Role.Leader;
  node.leader = node.id;
  node.ledTerm = node.term;
  node.promisee = 0;
  node.granted = 0;
  node.refused = 0;
  node.stateChanged = true;
  node.noopDue = true;
  node.ownIndex = node.log.lastIndex + 1;
  // Conservative: a Conf entry anywhere in what is not applied counts as under way.
  const unapplied = node.log.confCount(node.appliedIndex, node.log.lastIndex);
  node.confPendingIndex = unapplied > 0 ? node.log.lastIndex : 0;
  node.quorumLostTicks = 0;
  node.leaseGivenUp = false;
  node.transferTo = 0;
  node.readConfirmed = node.readIssued;
  node.readRound = 0;
  const members = node.conf.members;
  const progress: Progress[] = [];
  for (let slot = 0; slot < members.length; slot++) {
    progress.push(new Progress(members[slot]!.id, node.log.lastIndex + 1));
  }
  node.progress = progress;
  markDirty(node);
}

/**
 * Drop the promise to a replica that shows by any message that it stopped leading where it had it.
 *
 * A promise outlives the term that it was given in, so this looks at messages of older terms too. A
 * granted PreVoteReply alone carries a term that need not exist.
 */
export function voidPromise(node: RaftState, message: RaftMessage): void {
  if (message.from !== node.promisee || message.type === MessageType.PreVoteReply) return;
  const gone = message.type === MessageType.LeaderGone && message.term >= node.promiseTerm;
  if (gone || message.term > node.promiseTerm) node.promisee = 0;
}

/** PreVote or Vote with a term not below ours. */
export function handleVoteRequest(node: RaftState, message: RaftMessage): void {
  const pre = message.type === MessageType.PreVote;
  const from = message.from;
  // A PreVote names the sender's term + 1: its sender leads nothing at or below ours.
  if (message.term > node.term && from === node.leader) leaderStopped(node);
  if (refusesNow(node, message)) {
    if (pre) replyToVote(node, message, MessageFlag.Reject | MessageFlag.Blocked);
    // Whoever leads may have to tell the sender so, or may lead no more without our knowledge.
    if (node.role === Role.Leader) askPeer(node, from);
    else doubt(node);
    return;
  }
  const upToDate = isUpToDate(node, message);
  if (pre) {
    const yes = upToDate && message.term > node.term;
    replyToVote(node, message, yes ? 0 : MessageFlag.Reject);
    // Of two that ask each other at once one gives way: else both stand, and neither wins the term.
    if (yes && node.role === Role.PreCandidate && from < node.id) {
      becomeFollower(node, node.term, node.leader);
    }
    return;
  }
  if (message.term > node.term) becomeFollower(node, message.term, 0);
  const free = node.vote === from || (node.vote === 0 && node.leader === 0);
  if (!free || !upToDate) {
    replyToVote(node, message, MessageFlag.Reject);
    return;
  }
  if (node.role !== Role.Follower) becomeFollower(node, node.term, 0);
  if (node.vote === 0) setTerm(node, node.term, from);
  resetTimer(node, node.shared.options.electionTicks);
  node.grantTo = from;
  if (node.hardStateDurable) sendGrant(node);
}

/**
 * Whether a candidate has all that may have been committed with the help of this voter.
 *
 * Story: A leads, C is filled and takes entries of A that B lacks, and A is gone for good. C does not
 * campaign, and by its log would vote for nobody else; but what it took then counted for nothing.
 *
 * Raft's proof asks of a voter no more than this: a candidate is at least as new as some (index, term)
 * of the voter's log at or behind every entry that counts its copy. Of a replica whose log began anew
 * at X that is its commitIndex, never below X:
 *
 *  - What it acknowledged before, and is ever committed, lies at or below X. X is committed: an entry
 *    above it that is committed too, before or after, lies in one log with X, and so this replica had
 *    X as well; but then its log would have been kept, and nothing changes for such a one.
 *  - What it acknowledged since said `Filling`, and a leader counts no more than what was last
 *    acknowledged without (`handleAppendReply`). A leader that has not heard of the fill yet counts
 *    what came before it.
 *  - The state ends with `Filling`: in the same step, and when that is durable, so that no start
 *    brings it back over acknowledgements that counted. A start that finds it finds X at least.
 *
 * None of this asks which configuration counts, or whether the replica was a learner meanwhile. The
 * wish to be filled alone (`setFilling`) is not enough: until `beginFill` its old log counts.
 */
function isUpToDate(node: RaftState, message: RaftMessage): boolean {
  const { log, commitIndex } = node;
  if (!node.uncounted) return log.isUpToDate(message.index, message.logTerm);
  const term = log.termAt(commitIndex);
  return message.logTerm > term || (message.logTerm === term && message.index >= commitIndex);
}

/**
 * Ask the leader that holds the promise of this replica whether it still leads: it answers with
 * LeaderGone if not. Without that, a promise to a live shard whose replica stopped leading, and
 * whose word about it was lost, would block votes for ever.
 */
function doubt(node: RaftState): void {
  if (node.promisee === 0) return;
  if (node.role === Role.Follower && node.leader === node.promisee) {
    node.ackDue = true;
    markDirty(node);
    return;
  }
  send(node, node.promisee, MessageType.AppendReply, node.term);
}

function refusesNow(node: RaftState, message: RaftMessage): boolean {
  if ((message.flags & MessageFlag.Transfer) !== 0) return false;
  if (node.role === Role.Leader) return quorumActive(node);
  if (leaderActive(node)) return true;
  return votesBlocked(node);
}

function replyToVote(node: RaftState, message: RaftMessage, flags: number): void {
  const pre = message.type === MessageType.PreVote;
  const term = flags === 0 ? message.term : node.term;
  const type = pre ? MessageType.PreVoteReply : MessageType.VoteReply;
  const reply = send(node, message.from, type, term);
  reply.flags = flags;
  const index = Math.min(node.commitIndex, message.index);
  const logTerm = node.log.termAt(index);
  if (logTerm < 0) return;
  reply.index = index;
  reply.logTerm = logTerm;
}

/**
 * An answer names a committed entry: if it is here too, everything up to it is committed.
 *
 * Story of a refusal: of voters A and B, A leads, makes itself a learner, and dies before B hears
 * that this is committed. A may not campaign; B needs A's vote by what it knows, and A's log is the
 * longer one.
 *
 * Story of a yes: A is replaced by D and gone for good. B, the leader, told D that this is committed,
 * and dies. C needs a vote of A or B by what it knows, and has the longest log: D says yes to C, and
 * C must learn from it that A counts no more.
 */
function learnCommit(node: RaftState, message: RaftMessage): void {
  if (message.index <= node.commitIndex) return;
  if (node.log.matches(message.index, message.logTerm)) setCommit(node, message.index);
}

/** The vote is durable: tell the candidate. */
export function sendGrant(node: RaftState): void {
  assert(node.hardStateDurable, "raft: vote sent before it is durable");
  assert(node.vote === node.grantTo, "raft: grant without vote");
  send(node, node.grantTo, MessageType.VoteReply, node.term);
  node.grantTo = 0;
}

function tally(node: RaftState, message: RaftMessage): void {
  const slot = node.conf.slotOf(message.from);
  if (slot < 0) return;
  if ((message.flags & MessageFlag.Reject) === 0) node.granted |= 1 << slot;
  else if ((message.flags & MessageFlag.Blocked) === 0) node.refused |= 1 << slot;
}

/** Yes carries the term that was asked for; no carries the voter's (adopted by `step`). */
export function handlePreVoteReply(node: RaftState, message: RaftMessage): void {
  learnCommit(node, message);
  if (node.role !== Role.PreCandidate) return;
  node.voteHeard = true;
  const yes = (message.flags & MessageFlag.Reject) === 0;
  if (yes && message.term !== node.term + 1) return;
  tally(node, message);
  if (hasQuorum(node.granted, node.conf.voters, node.conf.outgoing)) {
    // Promises may have been renewed, and payloads found missing, since the question.
    if (mayLead(node) && !votesBlocked(node)) startElection(node, false);
  } else if (quorumLost(node.refused, node.conf.voters, node.conf.outgoing)) {
    becomeFollower(node, node.term, node.leader);
  }
}

/** An answer of this term. */
export function handleVoteReply(node: RaftState, message: RaftMessage): void {
  learnCommit(node, message);
  if (node.role !== Role.Candidate) return;
  tally(node, message);
  if (hasQuorum(node.granted, node.conf.voters, node.conf.outgoing)) {
    // Only a campaign whose own vote is durable has asked anyone.
    assert(!node.campaignWaits, "raft: votes before the own one");
    becomeLeader(node);
  } else if (quorumLost(node.refused, node.conf.voters, node.conf.outgoing)) {
    becomeFollower(node, node.term, 0);
  }
}

/**
 * The leader wants this replica to lead, and gave its lease up for that. One that is filled, lacks
 * payloads or has a slow device says so at once: proposals wait for it. One that is no voter yet may
 * become one.
 */
export function handleTimeoutNow(node: RaftState, message: RaftMessage): void {
  if ((message.flags & MessageFlag.Reject) !== 0) {
    if (node.role === Role.Leader && node.transferTo === message.from) endTransfer(node);
    return;
  }
  if (node.role === Role.Leader || (node.leader !== 0 && node.leader !== message.from)) return;
  const commit = Math.min(message.commit, node.matchedIndex);
  if (node.leader === message.from && commit > node.commitIndex) setCommit(node, commit);
  if (node.filling || node.faulty || node.shared.reluctant || isWitness(node)) {
    const refusal = send(node, message.from, MessageType.TimeoutNow, node.term);
    refusal.flags = MessageFlag.Reject;
    return;
  }
  node.campaignOnApply = node.term;
  campaignIfTold(node);
}

/**
 * Campaign as the leader asked, once no committed configuration waits to be applied: a leader that
 * removed itself hands over in the same breath in which it tells that this is committed.
 */
export function campaignIfTold(node: RaftState): void {
  if (node.campaignOnApply !== node.term || node.role === Role.Leader || !mayLead(node)) return;
  if (node.log.confCount(node.appliedIndex, node.commitIndex) > 0) return;
  startElection(node, true);
}

/** The leader of the present term is known to lead no more: wait for another, not for long. */
export function leaderStopped(node: RaftState): void {
  assert(node.role !== Role.Leader, "raft: leader told that it stopped");
  node.promisee = 0;
  node.leader = 0;
  node.ackDue = false;
  node.stateChanged = true;
  node.elapsedTicks = 0;
  node.timeoutTicks = 1 + node.shared.random.below(node.shared.options.lostTicks);
  markDirty(node);
}

/** LeaderGone of this term: from its leader, or from a replica that knows of no leader. */
export function handleLeaderGone(node: RaftState, message: RaftMessage): void {
  if (node.role === Role.Leader) {
    askPeer(node, message.from);
    return;
  }
  if (message.from !== node.leader) return;
  const commit = Math.min(message.commit, node.matchedIndex);
  if (commit > node.commitIndex) setCommit(node, commit);
  leaderStopped(node);
}

/** A message of an older term: tell its sender of the newer one where that helps it. */
export function refuseStale(node: RaftState, message: RaftMessage): void {
  const from = message.from;
  switch (message.type) {
    case MessageType.Append:
    case MessageType.ReadProbe:
      send(node, from, MessageType.AppendReply, node.term).flags = MessageFlag.Reject;
      break;
    case MessageType.PreVote:
    case MessageType.Vote:
      replyToVote(node, message, MessageFlag.Reject);
      break;
    case MessageType.LeaderGone:
      // Ends the announcements of a removed leader.
      send(node, from, MessageType.AppendReply, node.term).flags = MessageFlag.Reject;
      break;
    case MessageType.AppendReply:
      if (node.role !== Role.Leader) send(node, from, MessageType.LeaderGone, message.term);
      break;
    default:
      return;
  }
  if (node.role === Role.Leader) askPeer(node, from);
}

/** A leader ends its leadership of its own accord: no quorum, or no vote any more. */
export function stepDown(node: RaftState): void {
  assert(node.role === Role.Leader, "raft: only a leader steps down");
  const heir = bestHeir(node);
  if (heir !== 0) send(node, heir, MessageType.TimeoutNow, node.term).commit = node.commitIndex;
  becomeFollower(node, node.term, 0);
}

/** The reachable voter with the longest log, if it has all that is committed. */
function bestHeir(node: RaftState): number {
  if (!quorumActive(node)) return 0;
  let best = 0;
  let bestMatch = node.commitIndex - 1;
  for (let slot = 0; slot < node.progress.length; slot++) {
    const progress = node.progress[slot]!;
    const bit = 1 << slot;
    if ((node.conf.voters & bit) === 0 || (node.inactive & bit) !== 0) continue;
    if ((node.conf.witnesses & bit) !== 0) continue;
    if (slot === node.selfSlot || progress.filling || progress.match <= bestMatch) continue;
    best = progress.id;
    bestMatch = progress.match;
  }
  return best;
}
