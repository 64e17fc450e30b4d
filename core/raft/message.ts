// data path
/**
 * Messages between the replicas of one group, and the pool that they come from.
 *
 * An `Append` carries at most one entry (`proto/raft.proto` Append); every other type is a
 * `Control`. Raft knows an entry's index, term and kind; its payload and the other replicated
 * fields are the owner's, who keeps entries by index.
 *
 *   field       Append                Control
 *   index       prevIndex             AppendReply: matching index, or the rejected prevIndex;
 *                                     PreVote, Vote: last index of the candidate's log;
 *                                     the answers to them: a committed index, at most that
 *   logTerm     prevTerm              PreVote, Vote and the answers: term of that entry
 *   commit      leader's commitIndex  AppendReply: the follower's; LeaderGone, TimeoutNow: leader's
 *   entryTerm   term of the entry     0
 *   entryKind   EntryType, 0: none    0
 *   flags       0                     bits of MessageFlag (`reject` on the wire)
 *   hintIndex   0                     AppendReply: index that arrived, maybe not durable yet;
 *                                     rejected: where the logs may still agree
 *   hintTerm    0                     rejected AppendReply: its term in the follower's log
 *   context     0                     ReadProbe and its reply: the round
 */
import { assert } from "../base/assert.ts";

/** Kind of a raft message. Numbers are wire format (`Control.type`); never reuse one. */
export enum MessageType {
  /** Leader to follower: one entry, or none (probe, commitIndex). Method of its own on the wire. */
  Append = 1,
  /** What is durable here, or why an Append was refused. */
  AppendReply = 2,
  /** Would you vote for me in `term` (the sender's term + 1)? Changes nothing at the receiver. */
  PreVote = 3,
  PreVoteReply = 4,
  Vote = 5,
  VoteReply = 6,
  /**
   * Leader to the replica that shall lead: campaign at once. The lease was given up before. With
   * Reject, back to the leader: this replica may not.
   */
  TimeoutNow = 7,
  /** The sender stopped leading in `term` of its own accord. */
  LeaderGone = 8,
  /** Leader: do you still follow me? Confirms reads of a round (`context`). */
  ReadProbe = 9,
  ReadProbeReply = 10,
  /** Leader: what you need is in my log no more. For the owner of the group, not for `step`. */
  FillNeeded = 11,
}

/** Bits of `RaftMessage.flags`; `Control.reject` on the wire. Never reuse one. */
export enum MessageFlag {
  /** A reply that says no. */
  Reject = 1,
  /** With Reject: only for now, because of a lease promise or an active leader. */
  Blocked = 2,
  /** AppendReply: the sender is being filled and does not count for commit. */
  Filling = 4,
  /** Vote: the candidate was told to campaign by a leader that gave its lease up. */
  Transfer = 8,
  /** AppendReply: the sender's store is nearly full, see `RaftNode.setFull`. */
  Full = 16,
}

/** EntryType.Noop of `core/log/entry.ts`: raft proposes it itself. */
export const ENTRY_KIND_NOOP = 1;
/** EntryType.Conf of `core/log/entry.ts`: raft knows where configurations are. */
export const ENTRY_KIND_CONF = 7;

/**
 * One message, pooled by `MessagePool`.
 *
 * Outgoing: belongs to whoever took it from `Ready.messages`, who releases it once encoded.
 * Incoming: belongs to the caller of `step`; raft keeps no reference to it. Terms, indexes and
 * ids are safe integers.
 */
export class RaftMessage {
  pg = 0;
  from = 0;
  to = 0;
  type: MessageType = MessageType.Append;
  term = 0;
  index = 0;
  logTerm = 0;
  commit = 0;
  entryTerm = 0;
  entryKind = 0;
  flags = 0;
  hintIndex = 0;
  hintTerm = 0;
  context = 0;
  /** True while it lies in the pool. */
  pooled = false;
  /** Owned by whichever queue holds the message. */
  messageNext: RaftMessage | null = null;

  /** Set every field to zero, so that a codec finds no rest of an earlier use. */
  clear(): void {
    this.pg = 0;
    this.from = 0;
    this.to = 0;
    this.type = MessageType.Append;
    this.term = 0;
    this.index = 0;
    this.logTerm = 0;
    this.commit = 0;
    this.entryTerm = 0;
    this.entryKind = 0;
    this.flags = 0;
    this.hintIndex = 0;
    this.hintTerm = 0;
    this.context = 0;
    this.messageNext = null;
  }
}

/**
 * Free list of messages. Grows to the largest number in use at once, which the outboxes bound: per
 * turn and group at most a few control messages a peer.
 */
export class MessagePool {
  private free: RaftMessage | null = null;
  /** Messages taken and not released yet. */
  taken = 0;

  /** Take a cleared message. */
  take(): RaftMessage {
    this.taken++;
    const message = this.free;
    if (message === null) return this.grow();
    this.free = message.messageNext;
    message.clear();
    message.pooled = false;
    return message;
  }

  /** cold: the pool grows to the largest number in use. */
  private grow(): RaftMessage {
    return new RaftMessage();
  }

  /** cold: when many groups fell quiet. Let go of all messages that are in the pool. */
  shrink(): void {
    this.free = null;
  }

  /** Give a message back; the caller keeps no reference. */
  release(message: RaftMessage): void {
    assert(!message.pooled, "MessagePool: message released twice");
    this.taken--;
    message.pooled = true;
    message.messageNext = this.free;
    this.free = message;
  }
}

/** First-in first-out queue through `messageNext`. */
export class MessageQueue {
  private head: RaftMessage | null = null;
  private tail: RaftMessage | null = null;

  /** Whether nothing is queued. */
  get empty(): boolean {
    return this.head === null;
  }

  /** Append a message that is in no other queue. */
  push(message: RaftMessage): void {
    message.messageNext = null;
    if (this.tail === null) this.head = message;
    else this.tail.messageNext = message;
    this.tail = message;
  }

  /** Take the oldest message, or null. */
  shift(): RaftMessage | null {
    const message = this.head;
    if (message === null) return null;
    this.head = message.messageNext;
    if (this.head === null) this.tail = null;
    message.messageNext = null;
    return message;
  }

  /** Move everything to the end of `other`. */
  drainTo(other: MessageQueue): void {
    for (let message = this.shift(); message !== null; message = this.shift()) other.push(message);
  }
}
