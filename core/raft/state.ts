// data path
/**
 * State of one replica of one group, and what the groups of a shard share.
 *
 * `raw-node.ts` is the face of it, `election.ts` and `replication.ts` hold the rules.
 *
 *   applied ≤ commit ≤ last        base ≤ applied        durable ≤ last
 *
 * Durability is asked for and told by (version, index): `version` grows with each change of term or
 * vote and with each truncation, so that a late completion of a write whose entries were replaced
 * meanwhile can not vouch for the new ones.
 */
import { assert } from "../base/assert.ts";
import type { Random } from "../base/prng.ts";
import type { Configuration } from "./conf-change.ts";
import type { EntryLog } from "./entry-log.ts";
import {
  MessageFlag,
  MessagePool,
  MessageQueue,
  MessageType,
  type RaftMessage,
} from "./message.ts";
import type { Progress } from "./progress.ts";
import { hasQuorum, MEMBERS_MAX, QuorumScratch } from "./quorum.ts";
import { isWitness } from "./witness.ts";

export enum Role {
  Follower = 0,
  PreCandidate = 1,
  Candidate = 2,
  Leader = 3,
}

/** What raft asks of its owner. Called rarely: never per entry. */
export interface RaftHost {
  /**
   * Whether this replica must not vote against `leader` now (0: none known), for itself or another:
   * less than 400 ms since the shard started, or less than 400 ms since the last echo of a combined
   * heartbeat was sent to the shard of `leader`. `group` is the owner's row.
   */
  voteBlocked(group: number, leader: number): boolean;

  /**
   * How many combined heartbeats with an echo have arrived from the shard of a peer so far, in the
   * same ordered stream as its raft messages. See `RaftNode.leaseCounts`.
   */
  echoCount(group: number, id: number): number;

  /**
   * A peer does not have all that it had acknowledged as durable, up to `acknowledged`: its disk did
   * not keep it (a flush that lied, a write that went astray, rot at the log's end). It gets it again.
   */
  onForgotten(group: number, id: number, acknowledged: number): void;
}

/** Times in ticks of about 10 ms. Each timeout is drawn uniformly from [ticks, 2 · ticks). */
export interface RaftOptions {
  /** A follower without leader, or a candidate, waits this long for one. */
  readonly electionTicks: number;
  /** After the leader's shard was reported gone: 1 to this many ticks. */
  readonly lostTicks: number;
  /** A pre-vote that did not succeed (mostly: promises still in force) is repeated. */
  readonly preVoteTicks: number;
  /** A leader without an active quorum for this long steps down. */
  readonly quorumTicks: number;
  /** An unanswered Append, read probe or commit index is followed by a question. */
  readonly retryTicks: number;
  /** A transfer that takes longer is given up. */
  readonly transferTicks: number;
  /** Entries under way to one peer, a power of two, and their bytes. */
  readonly windowEntries: number;
  readonly windowBytes: number;
  /** A learner at most this many entries behind may become a voter. */
  readonly promoteLagMax: number;
}

/**
 * Sums: pre-vote every 40–80 ms finds the end of a 400 ms promise within 80 ms; 256 entries cover
 * depth 128 twice; 4 MiB is 16 frames of the largest payload.
 */
export const RAFT_OPTIONS_DEFAULT: RaftOptions = {
  electionTicks: 20,
  lostTicks: 5,
  preVoteTicks: 4,
  quorumTicks: 40,
  retryTicks: 30,
  transferTicks: 50,
  windowEntries: 256,
  windowBytes: 4_194_304,
  promoteLagMax: 64,
};

/** What all groups of one shard share: message pool, outbox, list of dirty groups. */
export class RaftShared {
  readonly random: Random;
  readonly host: RaftHost;
  readonly options: RaftOptions;
  readonly pool: MessagePool = new MessagePool();
  /** Messages that may be sent now. What depends on durability enters it only after `onDurable`. */
  readonly outbox: MessageQueue = new MessageQueue();
  readonly scratch: QuorumScratch = new QuorumScratch();
  readonly values: Float64Array = new Float64Array(MEMBERS_MAX);
  dirtyHead: RaftState | null = null;
  dirtyTail: RaftState | null = null;
  /** Elections begun and won, messages dropped because they contradict themselves. */
  elections = 0;
  electionsWon = 0;
  malformed = 0;
  /** Leadership that is handed to a replica here is refused: the device is slow. */
  reluctant = false;
  /** Rounds of read probes begun by any group: an answer to one is never taken for that of another. */
  readRounds = 0;

  constructor(random: Random, host: RaftHost, options: RaftOptions) {
    const window = options.windowEntries;
    assert(window > 0 && (window & (window - 1)) === 0, "RaftOptions: window is not 2^n");
    assert(options.electionTicks > 0, "RaftOptions: electionTicks is 0");
    assert(options.preVoteTicks > 0, "RaftOptions: preVoteTicks is 0");
    assert(options.lostTicks > 0, "RaftOptions: lostTicks is 0");
    this.random = random;
    this.host = host;
    this.options = options;
  }
}

/** Shared by all replicas that do not lead. */
const NO_PROGRESS: readonly Progress[] = [];

/** Fields of one replica; see the file comment for their order. */
export class RaftState {
  readonly shared: RaftShared;
  /** The owner's row, and the group's id on the wire. */
  readonly group: number;
  readonly pg: number;
  /** ReplicaId. */
  readonly id: number;
  readonly log: EntryLog;

  role: Role = Role.Follower;
  term = 0;
  vote = 0;
  /** ReplicaId of the leader of `term`, 0 while unknown. */
  leader = 0;
  /**
   * The leader that this replica followed last, and in which term. Echoes to its shard promise not
   * to vote against it, also after this replica moved to a later term, until it is known to have
   * stopped leading there or another leader is followed. 0: nobody.
   */
  promisee = 0;
  promiseTerm = 0;

  conf: Configuration;
  /** Own slot in `conf`, -1: no member (any more, or not yet). */
  selfSlot = -1;
  /** Slots whose shard is reported unreachable. */
  inactive = 0;

  commitIndex = 0;
  appliedIndex = 0;
  durableIndex = 0;
  /** Follower: up to here the log is known to be the leader's. */
  matchedIndex = 0;
  /** Follower: the highest index acknowledged to this leader. */
  ackedIndex = 0;
  ackDue = false;

  version = 1;
  hardStateVersion = 0;
  truncateVersion = 0;
  durableVersion = 0;
  /** What `ready` handed out last. */
  handedVersion = 0;
  handedIndex = 0;
  handedCommit = 0;
  handedHardState = 0;

  filling = false;
  /**
   * Implies `filling`: no leader ever counted, or will count, that this replica has an entry above
   * its commitIndex. `election.ts`, `isUpToDate`, says why.
   */
  uncounted = false;
  /** The store of this replica is nearly full: its leader hears of it. */
  full = false;
  faulty = false;

  elapsedTicks = 0;
  timeoutTicks = 0;

  /** Candidate of either kind: slots that said yes, and no. */
  granted = 0;
  refused = 0;
  /** PreCandidate: whether anybody answered this round, and rounds in a row that nobody answered. */
  voteHeard = false;
  unheardRounds = 0;
  /** Candidate: own vote and log are not durable yet, the requests wait for it. */
  campaignWaits = false;
  campaignTransfer = false;
  /** The term in which its leader told this replica to campaign. */
  campaignOnApply = -1;
  /** Voter: the candidate that gets the vote once it is durable, 0: none. */
  grantTo = 0;

  /** Leader only. By slot of `conf`; the own row is unused. */
  progress: readonly Progress[] = NO_PROGRESS;
  /** The last term that this replica led since its start. */
  ledTerm = 0;
  /** Index of the first entry of this leadership; entries up to it are not its own. */
  ownIndex = 0;
  noopDue = false;
  /** The newest Conf entry that may not be applied yet. */
  confPendingIndex = 0;
  quorumLostTicks = 0;
  transferTo = 0;
  transferTicks = 0;
  /** TimeoutNow was sent in this term: promises no longer protect reads. */
  leaseGivenUp = false;
  fillChanged = false;

  readIssued = 0;
  readConfirmed = 0;
  readHanded = 0;
  /** Round under way: its number (0: none), the highest ticket it covers, who answered. */
  readRound = 0;
  readRoundTicket = 0;
  readAnswers = 0;
  readTicks = 0;

  stateChanged = false;
  dirty = false;
  dirtyNext: RaftState | null = null;

  constructor(
    shared: RaftShared,
    group: number,
    pg: number,
    id: number,
    log: EntryLog,
    conf: Configuration,
  ) {
    this.shared = shared;
    this.group = group;
    this.pg = pg;
    this.id = id;
    this.log = log;
    this.conf = conf;
    this.selfSlot = conf.slotOf(id);
  }

  /** Bit of the own slot, 0 when no member. */
  get selfBit(): number {
    return this.selfSlot < 0 ? 0 : 1 << this.selfSlot;
  }

  /** Whether term and vote as they are now lie on stable storage. */
  get hardStateDurable(): boolean {
    return this.durableVersion >= this.hardStateVersion;
  }
}

/** Put the group on the list of those that `ready` must visit. */
export function markDirty(node: RaftState): void {
  if (node.dirty) return;
  node.dirty = true;
  const shared = node.shared;
  if (shared.dirtyTail === null) shared.dirtyHead = node;
  else shared.dirtyTail.dirtyNext = node;
  shared.dirtyTail = node;
}

/** Take a message with envelope from the pool and queue it for sending. */
export function send(node: RaftState, to: number, type: MessageType, term: number): RaftMessage {
  const message = node.shared.pool.take();
  message.pg = node.pg;
  message.from = node.id;
  message.to = to;
  message.type = type;
  message.term = term;
  node.shared.outbox.push(message);
  return message;
}

/** Start the timer anew with a random length of [ticks, 2 · ticks). */
export function resetTimer(node: RaftState, ticks: number): void {
  node.elapsedTicks = 0;
  node.timeoutTicks = ticks + node.shared.random.below(ticks);
}

/**
 * Change term or vote, to be made durable.
 *
 * Leaving the term of the leader that was followed tells it so, before any later echo in the same
 * stream could be taken for a promise. Story: A leads, B moves to the next term and votes for C,
 * heartbeats between A and B go on; without the word A would count B's echoes and serve stale reads.
 */
export function setTerm(node: RaftState, term: number, vote: number): void {
  assert(term >= node.term, "raft: the term must not fall");
  assert(term > node.term || node.vote === 0 || node.vote === vote, "raft: second vote in a term");
  if (term > node.term && node.promisee !== 0 && node.promiseTerm === node.term) {
    send(node, node.promisee, MessageType.AppendReply, term).flags = MessageFlag.Reject;
  }
  node.term = term;
  node.vote = vote;
  node.hardStateVersion = ++node.version;
  node.grantTo = 0;
  markDirty(node);
}

/** Leave whatever role for that of a follower of `leader` (0: unknown) in `term`. */
export function becomeFollower(node: RaftState, term: number, leader: number): void {
  if (node.role === Role.Leader) tellLeaderGone(node);
  const same = term === node.term && leader === node.leader && node.role === Role.Follower;
  if (term > node.term) {
    setTerm(node, term, 0);
    // Conservative: what is committed is in every later leader's log.
    node.matchedIndex = node.commitIndex;
  }
  assert(term === node.term, "raft: follower of an older term");
  if (!same) {
    node.ackedIndex = 0;
    node.ackDue = false;
    node.stateChanged = true;
  }
  node.role = Role.Follower;
  node.leader = leader;
  node.granted = 0;
  node.refused = 0;
  node.campaignWaits = false;
  dropLeadership(node);
  resetTimer(node, node.shared.options.electionTicks);
  markDirty(node);
}

/** Tell every peer that this replica stops leading in the present term. */
export function tellLeaderGone(node: RaftState): void {
  const members = node.conf.members;
  for (let slot = 0; slot < members.length; slot++) {
    const id = members[slot]!.id;
    if (id === node.id) continue;
    send(node, id, MessageType.LeaderGone, node.term).commit =
      node.role === Role.Leader ? node.commitIndex : 0;
  }
}

/** A leader goes on leading; without its lease, if the order to campaign was sent. */
export function endTransfer(node: RaftState): void {
  node.transferTo = 0;
  markDirty(node);
}

/** Forget everything that only a leader has. */
function dropLeadership(node: RaftState): void {
  node.progress = NO_PROGRESS;
  node.noopDue = false;
  node.ownIndex = 0;
  node.confPendingIndex = 0;
  node.transferTo = 0;
  node.leaseGivenUp = false;
  node.quorumLostTicks = 0;
  node.readIssued = node.readConfirmed;
  node.readRound = 0;
}

/** Whether a quorum of the voters, this replica included, is reported reachable. */
export function quorumActive(node: RaftState): boolean {
  return hasQuorum(~node.inactive | node.selfBit, node.conf.voters, node.conf.outgoing);
}

/** Whether the known leader's shard is reported reachable. A leader outside of conf is not. */
export function leaderActive(node: RaftState): boolean {
  if (node.leader === 0) return false;
  if (node.leader === node.id) return true;
  const slot = node.conf.slotOf(node.leader);
  return slot >= 0 && (node.inactive & (1 << slot)) === 0;
}

/** Whether this replica alone is a quorum. */
export function isSole(node: RaftState): boolean {
  return hasQuorum(node.selfBit, node.conf.voters, node.conf.outgoing);
}

/** Whether this replica is a voter that may become leader: with data, whole log, whole payloads. */
export function mayLead(node: RaftState): boolean {
  const voters = node.conf.voters | node.conf.outgoing;
  return (voters & node.selfBit) !== 0 && !node.filling && !node.faulty && !isWitness(node);
}

/**
 * Whether a replica that may not campaign must say from time to time that it does not lead: others
 * may still believe in it, because the word about it was lost.
 */
export function mustAnnounce(node: RaftState): boolean {
  if (node.leader !== 0) return false;
  return node.selfSlot >= 0 || (node.ledTerm !== 0 && node.ledTerm === node.term);
}

/** Whether a promise to a leader, or a start just now, forbids to vote for another. */
export function votesBlocked(node: RaftState): boolean {
  return !isSole(node) && node.shared.host.voteBlocked(node.group, node.promisee);
}

/** Raise commitIndex. */
export function setCommit(node: RaftState, index: number): void {
  assert(index >= node.commitIndex, "raft: commitIndex must not fall");
  assert(index <= node.log.lastIndex, "raft: commitIndex passes the log");
  node.commitIndex = index;
  markDirty(node);
}
