// data path
/**
 * Replication: a follower takes Appends and acknowledges what is durable; a leader learns from the
 * acknowledgements where the logs agree and what is committed.
 *
 *   leader    next ──Append(prev, entry, commit)──► matched (same as the leader's)
 *             match ◄──AppendReply(index)────────── min(matched, durable)
 *
 * An acknowledgement is sent once per durable batch, not per entry. It names what is durable
 * (`index`) and what arrived (`hintIndex`), so that a leader that starts over does not send again
 * what is merely not durable yet.
 *
 * Rules that the original broke, each a test: only entries of the leader's own term are committed by
 * counting; the leader counts itself only up to what is durable here; a refusal is not a success;
 * a follower that is being filled never counts.
 */
import { assert } from "../base/assert.ts";
import type { Configuration } from "./conf-change.ts";
import { MessageFlag, MessageType, type RaftMessage } from "./message.ts";
import { Progress, ProgressState } from "./progress.ts";
import { sendReadRound } from "./reading.ts";
import {
  becomeFollower,
  endTransfer,
  markDirty,
  quorumActive,
  type RaftState,
  Role,
  send,
  setCommit,
} from "./state.ts";
import { heldBy, sendableIndex, SILENT_RETRIES } from "./witness.ts";

/** What became of the entry of an Append. */
export enum StepResult {
  /** No entry, or it can not be placed: refused, or the message was dropped. */
  None = 0,
  /** New: keep it under `message.index + 1`. */
  Appended = 1,
  /** New in the place of others: drop own entries from `message.index + 1` on, then keep it. */
  Replaced = 2,
  /** Here already. */
  Duplicate = 3,
}

// ---- follower ------------------------------------------------------------------------------------

/** An Append of the leader of this term. */
export function handleAppend(node: RaftState, message: RaftMessage): StepResult {
  const log = node.log;
  const prev = message.index;
  const isEntry = message.entryKind !== 0;
  if (isEntry && !isConsistent(message)) {
    node.shared.malformed++;
    return StepResult.None;
  }
  const index = prev + 1;
  if (isEntry ? index <= node.commitIndex : prev < node.commitIndex) {
    // What is committed is the same in every leader's log.
    matchedTo(node, node.commitIndex, message.commit);
    acknowledge(node);
    return isEntry ? StepResult.Duplicate : StepResult.None;
  }
  if (!log.matches(prev, message.logTerm)) {
    refuseAppend(node, message);
    return StepResult.None;
  }
  if (!isEntry) {
    matchedTo(node, prev, message.commit);
    acknowledge(node);
    return StepResult.None;
  }
  let result = StepResult.Appended;
  if (index <= log.lastIndex) {
    if (log.matches(index, message.entryTerm)) {
      matchedTo(node, index, message.commit);
      acknowledge(node);
      return StepResult.Duplicate;
    }
    truncate(node, index);
    result = StepResult.Replaced;
  }
  log.append(message.entryTerm, message.entryKind);
  matchedTo(node, index, message.commit);
  markDirty(node);
  return result;
}

function isConsistent(message: RaftMessage): boolean {
  return (
    message.entryTerm <= message.term &&
    message.entryTerm >= message.logTerm &&
    message.entryKind > 0 &&
    message.entryKind < 256
  );
}

function truncate(node: RaftState, index: number): void {
  assert(index > node.commitIndex, "raft: committed entry would be cut");
  assert(index > node.matchedIndex, "raft: entry of this leader would be cut");
  node.log.truncateFrom(index);
  node.durableIndex = Math.min(node.durableIndex, index - 1);
  node.ackedIndex = Math.min(node.ackedIndex, index - 1);
  node.truncateVersion = ++node.version;
}

function matchedTo(node: RaftState, index: number, leaderCommit: number): void {
  if (index > node.matchedIndex) node.matchedIndex = index;
  const commit = Math.min(leaderCommit, node.matchedIndex);
  if (commit > node.commitIndex) setCommit(node, commit);
}

function acknowledge(node: RaftState): void {
  node.ackDue = true;
  markDirty(node);
}

function refuseAppend(node: RaftState, message: RaftMessage): void {
  const reply = send(node, message.from, MessageType.AppendReply, node.term);
  reply.index = message.index;
  reply.commit = node.commitIndex;
  reply.flags = MessageFlag.Reject | conditionOf(node);
  const hint = node.log.findConflict(message.index, message.logTerm);
  reply.hintIndex = hint;
  reply.hintTerm = Math.max(0, node.log.termAt(hint));
}

function conditionOf(node: RaftState): number {
  return (node.filling ? MessageFlag.Filling : 0) | (node.full ? MessageFlag.Full : 0);
}

/** Tell the leader what is durable here. Requires: hard state durable. */
export function sendAck(node: RaftState): void {
  node.ackDue = false;
  if (node.role !== Role.Follower || node.leader === 0) return;
  const reply = send(node, node.leader, MessageType.AppendReply, node.term);
  reply.index = Math.min(node.matchedIndex, node.durableIndex);
  reply.commit = node.commitIndex;
  reply.flags = conditionOf(node);
  reply.hintIndex = node.matchedIndex;
  node.ackedIndex = reply.index;
}

/** See `RaftNode.beginFill`. */
export function startFilling(
  node: RaftState,
  index: number,
  term: number,
  conf: Configuration,
): void {
  if (term > node.term) becomeFollower(node, term, 0);
  assert(node.role !== Role.Leader, "raft: a leader is not filled");
  if (node.role !== Role.Follower) becomeFollower(node, node.term, node.leader);
  node.filling = true;
  if (index > node.appliedIndex) rebuildProgress(node, conf);
  if (node.log.matches(index, term)) {
    if (index > node.commitIndex) node.commitIndex = index;
    if (index > node.appliedIndex) node.appliedIndex = index;
    node.log.compactTo(index);
  } else if (index > node.log.baseIndex) {
    assert(index > node.commitIndex, "raft: fill contradicts what is committed here");
    node.log.reset(index, term);
    node.uncounted = true;
    node.truncateVersion = ++node.version;
    node.commitIndex = index;
    node.appliedIndex = index;
    node.durableIndex = index;
    node.matchedIndex = index;
    node.ackedIndex = 0;
  }
  if (node.matchedIndex < node.commitIndex) node.matchedIndex = node.commitIndex;
  node.ackDue = node.leader !== 0;
  markDirty(node);
}

// ---- leader --------------------------------------------------------------------------------------

/** Commit what a quorum holds, by counting entries of the own term only. */
export function advanceCommit(node: RaftState): void {
  const { voters, outgoing } = node.conf;
  let index = heldBy(node, voters);
  if (outgoing !== 0) index = Math.min(index, heldBy(node, outgoing));
  // Figure 8 of the Raft paper: an entry of an older term on a majority can still be replaced.
  if (index <= node.commitIndex || node.log.termAt(index) !== node.term) return;
  setCommit(node, index);
}

/** What a peer has, or why it refused. */
export function handleAppendReply(node: RaftState, message: RaftMessage): void {
  if (node.role !== Role.Leader) {
    // The sender follows a ghost. No commitIndex: it may belong to another term.
    const refusal = (message.flags & MessageFlag.Reject) !== 0;
    if (!refusal) send(node, message.from, MessageType.LeaderGone, node.term);
    return;
  }
  const slot = node.conf.slotOf(message.from);
  if (slot < 0 || slot === node.selfSlot) return;
  const progress = node.progress[slot]!;
  if (!progress.follows) {
    progress.follows = true;
    progress.echoAtAck = node.shared.host.echoCount(node.group, progress.id);
  }
  progress.silentTicks = 0;
  const wasFilling = progress.filling;
  const refusal = (message.flags & MessageFlag.Reject) !== 0;
  if (message.index >= progress.match) {
    // A refusal acknowledges nothing. One from before the fill, overtaken by what the replica took
    // since, must not make that count.
    if (!refusal) progress.filling = (message.flags & MessageFlag.Filling) !== 0;
    progress.full = (message.flags & MessageFlag.Full) !== 0;
  }
  if (message.commit > progress.commitKnown) progress.commitKnown = message.commit;
  if (refusal) handleReject(node, progress, message);
  else handleAck(node, progress, message);
  // What it acknowledged meanwhile counts from now on.
  if (wasFilling && !progress.filling) advanceCommit(node);
  markDirty(node);
}

function handleReject(node: RaftState, progress: Progress, message: RaftMessage): void {
  const rejected = message.index;
  const { state, match } = progress;
  // Nobody lacks what is before the first entry: that answers something else, of an older term.
  if (rejected === 0) return;
  if (state === ProgressState.Fill || rejected >= progress.next) return;
  // An answer to an earlier question.
  if (state === ProgressState.Probe && rejected !== progress.next - 1) return;
  if (rejected <= match) {
    if (state !== ProgressState.Probe) return;
    // Asked for the place where the logs agree, it refuses what it had acknowledged as durable.
    node.shared.host.onForgotten(node.group, progress.id, match);
    progress.forgotten();
  }
  const conflict = node.log.findConflict(message.hintIndex, message.hintTerm);
  const next = Math.min(rejected, conflict + 1);
  const lowest = node.log.baseIndex + 1;
  if (next >= lowest) {
    progress.toProbe(next);
  } else if (rejected >= lowest) {
    // The hint may be old. Only a peer that refuses the base itself must be filled.
    progress.toProbe(lowest);
  } else {
    progress.toFill();
    node.fillChanged = true;
  }
}

function handleAck(node: RaftState, progress: Progress, message: RaftMessage): void {
  assert(message.index <= node.log.lastIndex, "raft: peer acknowledges what was never sent");
  const news = progress.acknowledged(message.index);
  const delivered = Math.min(
    Math.max(message.index, message.hintIndex),
    node.log.lastIndex,
    progress.match + node.shared.options.windowEntries,
  );
  if (progress.state === ProgressState.Probe) {
    progress.toReplicate(delivered + 1);
  } else if (progress.state === ProgressState.Fill && delivered >= node.log.baseIndex) {
    progress.toReplicate(delivered + 1);
  }
  if (!news) return;
  advanceCommit(node);
  if (node.transferTo === progress.id && progress.match === node.log.lastIndex) {
    sendTimeoutNow(node, progress.id);
  }
}

/** Let a peer that is in doubt hear from its leader. */
export function askPeer(node: RaftState, id: number): void {
  const slot = node.conf.slotOf(id);
  if (slot < 0 || slot === node.selfSlot) return;
  const progress = node.progress[slot]!;
  progress.probeSent = false;
  progress.emptyDue = true;
  markDirty(node);
}

/** Give the lease up and make `to` campaign. */
export function sendTimeoutNow(node: RaftState, to: number): void {
  node.leaseGivenUp = true;
  send(node, to, MessageType.TimeoutNow, node.term).commit = node.commitIndex;
}

/** Whether there is an Append for the member in `slot`; notes whether it carries an entry. */
export function appendWanted(node: RaftState, slot: number): boolean {
  if (slot === node.selfSlot || (node.inactive & (1 << slot)) !== 0) return false;
  const progress = node.progress[slot]!;
  if (progress.state === ProgressState.Fill) {
    // Only a word about who leads, and a question whether the base is there by now.
    progress.next = Math.max(progress.next, node.log.baseIndex + 1);
    progress.sendsEntry = false;
    return progress.emptyDue;
  }
  // The log was compacted past what is to be sent: ask whether the peer has the base at least.
  if (progress.next <= node.log.baseIndex) progress.toProbe(node.log.baseIndex + 1);
  const hasEntry = progress.next <= sendableIndex(node, slot);
  if (progress.state === ProgressState.Probe) {
    progress.sendsEntry = hasEntry;
    return !progress.probeSent;
  }
  const options = node.shared.options;
  const room =
    progress.inFlight < options.windowEntries && progress.bytesInFlight < options.windowBytes;
  // A question goes before further entries: if some were lost, those would be lost too.
  progress.sendsEntry = hasEntry && room && !progress.emptyDue;
  return progress.sendsEntry || progress.emptyDue;
}

/** Describe the Append that `appendWanted` found. */
export function fillAppend(node: RaftState, slot: number, message: RaftMessage): void {
  const progress = node.progress[slot]!;
  const prev = progress.next - 1;
  message.clear();
  message.pg = node.pg;
  message.from = node.id;
  message.to = progress.id;
  message.type = MessageType.Append;
  message.term = node.term;
  message.index = prev;
  message.logTerm = node.log.termAt(prev);
  message.commit = node.commitIndex;
  if (!progress.sendsEntry) return;
  message.entryTerm = node.log.termAt(prev + 1);
  message.entryKind = node.log.kindAt(prev + 1);
}

/** What the peer should know to be committed. */
function commitFor(node: RaftState, progress: Progress): number {
  return Math.min(node.commitIndex, progress.match);
}

/** Whether a reachable peer still owes an answer, or is owed something. */
function peerIsBusy(node: RaftState, progress: Progress): boolean {
  if (progress.state === ProgressState.Fill) return false;
  if (progress.state === ProgressState.Probe || progress.emptyDue) return true;
  if (progress.next - 1 > progress.match || progress.next <= node.log.lastIndex) return true;
  return progress.commitKnown < commitFor(node, progress);
}

/** Whether a leader needs ticks. */
export function leaderIsBusy(node: RaftState): boolean {
  if (node.transferTo !== 0 || node.readRound !== 0 || !quorumActive(node)) return true;
  for (let slot = 0; slot < node.progress.length; slot++) {
    if (slot === node.selfSlot || (node.inactive & (1 << slot)) !== 0) continue;
    if (peerIsBusy(node, node.progress[slot]!)) return true;
  }
  return false;
}

/** One tick of a leader. Answers whether it must step down: no active quorum for too long. */
export function tickLeader(node: RaftState): boolean {
  const options = node.shared.options;
  if (quorumActive(node)) node.quorumLostTicks = 0;
  else if (++node.quorumLostTicks >= options.quorumTicks) return true;
  if (node.transferTo !== 0 && ++node.transferTicks >= options.transferTicks) {
    endTransfer(node);
  }
  if (node.readRound !== 0 && ++node.readTicks >= options.retryTicks) sendReadRound(node);
  for (let slot = 0; slot < node.progress.length; slot++) {
    if (slot === node.selfSlot || (node.inactive & (1 << slot)) !== 0) continue;
    if (tickPeer(node, node.progress[slot]!)) advanceCommit(node);
  }
  return false;
}

/** Answers whether the peer counts as silent from now on. */
function tickPeer(node: RaftState, progress: Progress): boolean {
  const quietTick = !progress.sentThisTick;
  progress.sentThisTick = false;
  if (!peerIsBusy(node, progress)) {
    progress.retryTicks = 0;
    progress.silentTicks = 0;
    return false;
  }
  // The last commitIndex of a burst has no entry to travel with: one empty Append.
  if (quietTick && progress.commitSent < commitFor(node, progress)) progress.emptyDue = true;
  const { retryTicks } = node.shared.options;
  if (++progress.retryTicks >= retryTicks) {
    progress.retryTicks = 0;
    progress.probeSent = false;
    progress.emptyDue = true;
  }
  if (progress.emptyDue) markDirty(node);
  if (++progress.silentTicks !== SILENT_RETRIES * retryTicks) return false;
  markDirty(node);
  return true;
}

/** Whether every voter that `next` adds is a caught-up learner. */
export function newVotersCaughtUp(node: RaftState, next: Configuration): boolean {
  for (let slot = 0; slot < next.members.length; slot++) {
    const id = next.members[slot]!.id;
    if ((next.voters & (1 << slot)) === 0 || node.conf.isVoter(id)) continue;
    const now = node.conf.slotOf(id);
    if (now < 0 || !isCaughtUp(node, now)) return false;
  }
  return true;
}

/** Leader: whether the member in `slot` is reachable, whole and nearly caught up. */
export function isCaughtUp(node: RaftState, slot: number): boolean {
  if (slot === node.selfSlot) return true;
  if ((node.inactive & (1 << slot)) !== 0) return false;
  const progress = node.progress[slot]!;
  if (progress.filling || progress.state !== ProgressState.Replicate) return false;
  return sendableIndex(node, slot) - progress.match <= node.shared.options.promoteLagMax;
}

/**
 * Move to the slots of `conf`; what is known of members that stay is kept.
 *
 * cold: a configuration changes once in weeks.
 */
export function rebuildProgress(node: RaftState, conf: Configuration): void {
  const before = node.conf;
  const progressBefore = node.progress;
  const leading = node.role === Role.Leader;
  const progress: Progress[] = [];
  let inactive = 0;
  for (let slot = 0; slot < conf.members.length; slot++) {
    const id = conf.members[slot]!.id;
    const was = before.slotOf(id);
    if (was >= 0 && (node.inactive & (1 << was)) !== 0) inactive |= 1 << slot;
    if (!leading) continue;
    if (was >= 0) progress.push(progressBefore[was]!);
    else progress.push(new Progress(id, node.log.lastIndex + 1));
  }
  if (leading) {
    sayFarewell(node, conf);
    if (conf.slotOf(node.transferTo) < 0) node.transferTo = 0;
    node.progress = progress;
    node.readAnswers = 0;
    node.readRound = 0;
  }
  node.conf = conf;
  node.selfSlot = conf.slotOf(node.id);
  node.inactive = inactive;
  node.stateChanged = true;
}

/** Tell members that are removed what is committed: their removal, for most. */
function sayFarewell(node: RaftState, conf: Configuration): void {
  for (let slot = 0; slot < node.progress.length; slot++) {
    const progress = node.progress[slot]!;
    if (slot === node.selfSlot || conf.slotOf(progress.id) >= 0) continue;
    if (progress.match < node.log.baseIndex) continue;
    const message = send(node, progress.id, MessageType.Append, node.term);
    message.index = progress.match;
    message.logTerm = node.log.termAt(progress.match);
    message.commit = node.commitIndex;
  }
}
