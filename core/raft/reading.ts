// data path
/**
 * Read-index: a leader proves that it still led when a read arrived.
 *
 * One round of ReadProbe at a time; reads that arrive meanwhile share the next one. A round covers
 * the tickets issued before it began. Used when the lease does not hold.
 */
import { MessageType, type RaftMessage } from "./message.ts";
import { hasQuorum } from "./quorum.ts";
import { markDirty, type RaftState, Role, send } from "./state.ts";

/** Begin a round if reads wait and none is under way. */
export function startReadRound(node: RaftState): void {
  if (node.readRound !== 0 || node.readIssued <= node.readConfirmed) return;
  node.readRound = ++node.shared.readRounds;
  node.readRoundTicket = node.readIssued;
  node.readAnswers = node.selfBit;
  sendReadRound(node);
}

/** Ask every voter that has not answered. */
export function sendReadRound(node: RaftState): void {
  node.readTicks = 0;
  const members = node.conf.members;
  const missing = (node.conf.voters | node.conf.outgoing) & ~node.readAnswers;
  for (let slot = 0; slot < members.length; slot++) {
    if ((missing & (1 << slot)) === 0) continue;
    send(node, members[slot]!.id, MessageType.ReadProbe, node.term).context = node.readRound;
  }
}

/** Follower: the sender leads this term, or `step` would not have come here. */
export function handleReadProbe(node: RaftState, message: RaftMessage): void {
  const reply = send(node, message.from, MessageType.ReadProbeReply, node.term);
  reply.context = message.context;
}

/** Leader: count an answer. */
export function handleReadProbeReply(node: RaftState, message: RaftMessage): void {
  if (node.role !== Role.Leader || node.readRound === 0) return;
  const slot = node.conf.slotOf(message.from);
  if (slot < 0 || message.context !== node.readRound) return;
  node.readAnswers |= 1 << slot;
  if (!hasQuorum(node.readAnswers, node.conf.voters, node.conf.outgoing)) return;
  node.readConfirmed = node.readRoundTicket;
  node.readRound = 0;
  markDirty(node);
}
