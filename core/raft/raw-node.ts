// data path
/**
 * One replica of one raft group: the face that `pg/` drives.
 *
 * Pure: no I/O, no clock, no randomness of its own, nothing allocated per entry. Where it stands in
 * the life of a write: the pg proposes (6), the log makes durable (7), followers do the same (8),
 * `step` and `onDurable` move commitIndex (9).
 *
 * One turn of the owner:
 *
 *   step(message) …, propose(kind) …, tick(), setPeerActive() …    keep payloads as told
 *   for (node = groups.takeDirty(); node !== null; node = groups.takeDirty()):
 *     node.ready(out)
 *       noopIndex, leaveIndex   keep entries for what raft itself appended
 *       hardState               queue a hardState record (term, vote)
 *       persist                 queue all entries up to lastIndex; once durable: onDurable()
 *       committed               answer clients up to commitIndex
 *       applyIndex              apply up to it: applyConfiguration(), onApplied()
 *       appends                 for each slot below peerSlots: peekAppend / appendSent
 *   send everything in groups.outbox
 *
 * There is one outbox, not two: votes, vote requests and acknowledgements that depend on stable
 * storage stay inside the node until `onDurable` covers them, so nothing can leave too early.
 *
 * Payloads: an index from `propose`, or a `step` that answers Appended or Replaced, makes the owner
 * keep an entry under that index. Its record on disk carries the commitIndex known when it was
 * appended (of the Append, or here): a replica that restarts must not know less of what is
 * committed than the leader did when it proposed the entry, or two configurations could be in
 * transit at once.
 *
 * The simpler design, the owner holding back an outbox of its own, was not enough: a completion of
 * a write whose entries were replaced meanwhile would have released acknowledgements of the new.
 */
import { assert, verifying } from "../base/assert.ts";
import type { Random } from "../base/prng.ts";
import type { Configuration } from "./conf-change.ts";
import {
  campaignDurable,
  campaignIfTold,
  leaderStopped,
  sendGrant,
  startCampaign,
  stepDown,
} from "./election.ts";
import { EntryLog } from "./entry-log.ts";
import { checkInvariants } from "./invariants.ts";
import { ENTRY_KIND_CONF, type RaftMessage } from "./message.ts";
import { ProgressState } from "./progress.ts";
import { quorumValue } from "./quorum.ts";
import { fillReady, type Ready, Refusal } from "./ready.ts";
import { endRestore, type RaftRestore } from "./restore.ts";
import {
  advanceCommit,
  appendWanted,
  fillAppend,
  isCaughtUp,
  leaderIsBusy,
  newVotersCaughtUp,
  rebuildProgress,
  sendTimeoutNow,
  startFilling,
  type StepResult,
  tickLeader,
} from "./replication.ts";
import { route } from "./routing.ts";
import {
  becomeFollower,
  isSole,
  leaderActive,
  markDirty,
  RAFT_OPTIONS_DEFAULT,
  RaftShared,
  RaftState,
  mayLead,
  mustAnnounce,
  quorumActive,
  resetTimer,
  Role,
} from "./state.ts";
import type { RaftHost, RaftOptions } from "./state.ts";
import { mayLeave } from "./witness.ts";

/** All groups of one shard: message pool, outbox, the list of groups that changed. */
export class RaftGroups extends RaftShared {
  constructor(random: Random, host: RaftHost, options: RaftOptions = RAFT_OPTIONS_DEFAULT) {
    super(random, host, options);
  }

  /** Take the oldest group that changed since its last `ready`, or null. */
  takeDirty(): RaftNode | null {
    const node = this.dirtyHead;
    if (node === null) return null;
    this.dirtyHead = node.dirtyNext;
    if (this.dirtyHead === null) this.dirtyTail = null;
    node.dirtyNext = null;
    node.dirty = false;
    // Only RaftNode constructs a RaftState.
    return node as RaftNode;
  }
}

/**
 * One replica. Fields of `RaftState` are for reading only.
 *
 * Invariants: base ≤ applied ≤ commit ≤ last; durable ≤ last; a leader's log only grows.
 */
export class RaftNode extends RaftState {
  /**
   * Make a replica that starts from `restore`, or a member of a new group from `freshRestore`.
   *
   * `group`: the owner's row, passed back to the host. `id`: the ReplicaId. Entries above the base
   * follow by `restoreEntry`, then `restored()`; no other call before that.
   */
  constructor(groups: RaftGroups, group: number, pg: number, id: number, restore: RaftRestore) {
    const log = new EntryLog(restore.baseIndex, restore.baseTerm);
    super(groups, group, pg, id, log, restore.conf);
    assert(id > 0, "RaftNode: replica id is 0");
    this.term = restore.term;
    this.vote = restore.vote;
    this.appliedIndex = Math.max(restore.appliedIndex, restore.baseIndex);
    this.commitIndex = Math.max(restore.commitIndex, this.appliedIndex);
    resetTimer(this, groups.options.electionTicks);
  }

  /** Add the next entry that the log on disk holds, in order. */
  restoreEntry(term: number, kind: number): void {
    this.log.append(term, kind);
  }

  /** End of restoring: everything so far is durable. */
  restored(): void {
    endRestore(this);
    this.check();
  }

  /**
   * Take a message of this group that is meant for this replica. The message stays the caller's.
   *
   * Answers what became of an Append's entry, index `message.index + 1`: Appended and Replaced make
   * the owner keep it (Replaced: drop own entries from there on first). None for everything else.
   */
  step(message: RaftMessage): StepResult {
    assert(message.to === this.id, "raft: message for another replica");
    assert(message.from !== this.id, "raft: message from itself");
    const result = route(this, message);
    this.check();
    return result;
  }

  /** Let about 10 ms pass. Only needed while `needsTick`; harmless otherwise. */
  tick(): void {
    if (this.role === Role.Leader) {
      if (tickLeader(this)) stepDown(this);
    } else if (this.needsTick) {
      this.elapsedTicks++;
      if (this.elapsedTicks >= this.timeoutTicks) startCampaign(this);
    }
    this.check();
  }

  /**
   * Whether time matters to this group now. A quiet group (leader known and reachable; or leading
   * with everything acknowledged and known everywhere; or without a leader and a quorum in reach)
   * needs none. Ask after `ready`, `tick` and `setPeerActive`.
   */
  get needsTick(): boolean {
    if (this.role === Role.Leader) return leaderIsBusy(this);
    if (this.role === Role.Follower && !mayLead(this)) return mustAnnounce(this);
    // Without a quorum in reach nothing comes of asking: `setPeerActive` ends the wait.
    return quorumActive(this) && (this.role !== Role.Follower || !leaderActive(this));
  }

  /** Whether no leader is known that is reported reachable. */
  get leaderless(): boolean {
    return !leaderActive(this);
  }

  /** Start a pre-vote now, e.g. for the first replica of a new group. Nothing if it must not. */
  campaign(): void {
    if (this.role !== Role.Leader) startCampaign(this);
    this.check();
  }

  /**
   * Tell that the shard of a peer was found unreachable (reset connection, missed heartbeats) or
   * reachable again. For every peer of the group, whatever the role. Unknown ids are ignored, and
   * a member is taken as reachable until told otherwise, so repeat it after `applyConfiguration`.
   *
   * When it is the leader's, a pre-vote starts within a few ticks. When it is back, its leadership
   * is believed again. A leader sends nothing to unreachable peers.
   */
  setPeerActive(id: number, active: boolean): void {
    const slot = this.conf.slotOf(id);
    if (slot < 0 || id === this.id) return;
    const bit = 1 << slot;
    if (((this.inactive & bit) === 0) === active) return;
    this.inactive = active ? this.inactive & ~bit : this.inactive | bit;
    if (this.role === Role.Leader) {
      this.peerReset(id);
      // A witness may count from now on.
      advanceCommit(this);
    } else if (id === this.leader) this.leaderReported(active);
    this.check();
  }

  private leaderReported(active: boolean): void {
    if (!active) {
      this.elapsedTicks = 0;
      this.timeoutTicks = 1 + this.shared.random.below(this.shared.options.lostTicks);
    } else if (this.role === Role.PreCandidate) {
      becomeFollower(this, this.term, this.leader);
    }
    markDirty(this);
  }

  /**
   * Tell that messages to and from a peer may have been lost: a connection was replaced, the peer
   * restarted. The leader asks anew where the logs agree.
   */
  peerReset(id: number): void {
    const slot = this.conf.slotOf(id);
    if (this.role !== Role.Leader || slot < 0 || id === this.id) return;
    const progress = this.progress[slot]!;
    // Most probably everything arrived; if not, the refusal says where to go on.
    progress.toProbe(progress.next);
    progress.follows = false;
    markDirty(this);
  }

  /**
   * Tell that the process of a peer started anew (another boot number): it leads nothing, and what
   * it promised before counts no more.
   */
  peerRestarted(id: number): void {
    this.peerReset(id);
    if (id === this.promisee) this.promisee = 0;
    if (id === this.leader && this.role !== Role.Leader) leaderStopped(this);
    this.check();
  }

  /**
   * Append an entry of `kind` (EntryType, not Conf) to this leader's log.
   *
   * Answers its index, which the owner keeps the payload under, or a Refusal (< 0).
   */
  propose(kind: number): number {
    assert(kind !== ENTRY_KIND_CONF, "raft: configurations have a call of their own");
    if (this.role !== Role.Leader) return Refusal.NotLeader;
    if (this.noopDue) return Refusal.NotReady;
    if (this.transferTo !== 0) return Refusal.Transferring;
    if (mayLeave(this)) return Refusal.MayLeave;
    const index = this.log.append(this.term, kind);
    markDirty(this);
    return index;
  }

  /**
   * Append a Conf entry whose body is `encodeConfiguration(next)`, made from the present `conf` by
   * `changeConfiguration`. A joint configuration is left by raft itself (`Ready.leaveIndex`).
   *
   * Answers the index or a Refusal.
   */
  proposeConfiguration(next: Configuration): number {
    if (this.role !== Role.Leader) return Refusal.NotLeader;
    if (this.noopDue) return Refusal.NotReady;
    if (this.transferTo !== 0) return Refusal.Transferring;
    if (this.conf.joint || this.confPendingIndex > this.appliedIndex) return Refusal.ConfPending;
    if (!newVotersCaughtUp(this, next)) return Refusal.NotCaughtUp;
    const index = this.log.append(this.term, ENTRY_KIND_CONF);
    this.confPendingIndex = index;
    markDirty(this);
    this.check();
    return index;
  }

  /** Leader: whether the member in `slot` is reachable, whole, and at most a little behind. */
  caughtUp(slot: number): boolean {
    return this.role === Role.Leader && isCaughtUp(this, slot);
  }

  /**
   * Hand leadership to a voter with data: it catches up, this leader gives its lease up (`leaseGivenUp`, for
   * the rest of the term) and tells it to campaign. Proposals are refused meanwhile; given up when
   * it may not lead, and after `transferTicks`. Answers whether it began.
   */
  transferLeadership(to: number): boolean {
    const slot = this.conf.slotOf(to);
    if (this.role !== Role.Leader || to === this.id || slot < 0) return false;
    if (this.noopDue || this.transferTo !== 0) return false;
    const bit = 1 << slot;
    if ((this.conf.voters & bit) === 0 || (this.inactive & bit) !== 0) return false;
    if ((this.conf.witnesses & bit) !== 0) return false;
    const progress = this.progress[slot]!;
    if (progress.filling || progress.state === ProgressState.Fill) return false;
    this.transferTo = to;
    this.transferTicks = 0;
    if (progress.match === this.log.lastIndex) sendTimeoutNow(this, to);
    markDirty(this);
    this.check();
    return true;
  }

  /**
   * Ask whether this replica still leads, for a read without lease. The read sees what is committed
   * at the time of the call: note `commitIndex`, wait for `Ready.readConfirmed` ≥ ticket and for
   * appliedIndex ≥ the noted index. All tickets die with the leadership (`Ready.stateChanged`).
   *
   * Answers the ticket; 0 when not leading, or no entry of this term is committed yet.
   */
  readIndex(): number {
    if (this.role !== Role.Leader || !this.leaderReady) return 0;
    this.readIssued++;
    if (isSole(this)) this.readConfirmed = this.readIssued;
    markDirty(this);
    return this.readIssued;
  }

  /** Whether this leader has committed an entry of its own term: before, its commitIndex lags. */
  get leaderReady(): boolean {
    return this.role === Role.Leader && !this.noopDue && this.commitIndex >= this.ownIndex;
  }

  /** Tell what this node wants done; see `Ready`. Takes nothing back: each change is told once. */
  ready(out: Ready): void {
    fillReady(this, out);
    this.check();
  }

  /**
   * Tell that everything handed out by the `ready` with this version and index, and before, lies on
   * stable storage. In the order of the readies; the newest of a batch is enough.
   */
  onDurable(version: number, index: number): void {
    if (version > this.durableVersion) this.durableVersion = version;
    // A truncation since then: what was written at these indexes may be gone, wait for the new.
    if (version >= this.truncateVersion && index > this.durableIndex) {
      assert(index <= this.log.lastIndex, "raft: durable beyond the log");
      this.durableIndex = index;
    }
    if (this.campaignWaits) campaignDurable(this);
    if (this.grantTo !== 0 && this.hardStateDurable) sendGrant(this);
    if (this.role === Role.Leader) {
      advanceCommit(this);
      // A witness gets what is durable here.
      if (this.conf.witnesses !== 0) markDirty(this);
    } else this.ackIfNews();
    if (this.ackDue || Math.min(this.commitIndex, index) > this.appliedIndex) markDirty(this);
    this.check();
  }

  private ackIfNews(): void {
    const index = Math.min(this.matchedIndex, this.durableIndex);
    if (this.leader !== 0 && index > this.ackedIndex) this.ackDue = true;
  }

  /**
   * Let a configuration take effect: the owner applied the Conf entry at `index`. Before
   * `onApplied(index)`. A leader that no longer votes hands over and steps down.
   */
  applyConfiguration(index: number, conf: Configuration): void {
    assert(index > this.appliedIndex, "raft: configuration applied twice");
    assert(index <= this.commitIndex, "raft: configuration applied before its commit");
    rebuildProgress(this, conf);
    this.appliedIndex = index;
    if (this.role === Role.Leader) {
      if (((conf.voters | conf.outgoing) & this.selfBit) === 0) stepDown(this);
      else advanceCommit(this);
    } else if (this.role !== Role.Follower) {
      becomeFollower(this, this.term, this.leader);
    }
    markDirty(this);
    this.check();
  }

  // cold: a leader lacks what followers need.
  /** Stop leading, as a leader without quorum does: who has most is asked to campaign. */
  resign(): void {
    if (this.role === Role.Leader) stepDown(this);
    this.check();
  }

  /** Tell that entries up to `index` are applied, in order. */
  onApplied(index: number): void {
    assert(index <= this.commitIndex, "raft: applied beyond the commit");
    assert(index <= this.durableIndex, "raft: applied before it is durable");
    if (index > this.appliedIndex) this.appliedIndex = index;
    if (this.role === Role.Leader && this.conf.joint) markDirty(this);
    if (this.campaignOnApply === this.term) campaignIfTold(this);
    this.check();
  }

  /** Forget rows up to `index` ≤ applied: peers that need them will be filled. */
  compact(index: number): void {
    assert(index <= this.appliedIndex, "raft: compaction beyond what is applied");
    if (index > this.log.baseIndex) this.log.compactTo(index);
    this.check();
  }

  /** How many slots of `conf.members` there are to visit with `peekAppend`. */
  get peerSlots(): number {
    return this.role === Role.Leader ? this.conf.members.length : 0;
  }

  /**
   * Describe the next Append for the member in `slot` in `message` (the caller's): envelope,
   * index, logTerm, commit, and entryTerm and entryKind of the entry at `index + 1`, or 0.
   *
   * Changes nothing: when the entry must be read from disk first, call again later. False when the
   * window is full or there is nothing to say.
   */
  peekAppend(slot: number, message: RaftMessage): boolean {
    if (this.role !== Role.Leader || !appendWanted(this, slot)) return false;
    fillAppend(this, slot, message);
    return true;
  }

  /** Count the Append of the last `peekAppend(slot)` as sent. `bytes`: of the frame's payload. */
  appendSent(slot: number, bytes: number): void {
    const progress = this.progress[slot]!;
    progress.commitSent = this.commitIndex;
    progress.sentThisTick = true;
    progress.emptyDue = false;
    if (progress.state === ProgressState.Probe) progress.probeSent = true;
    else if (progress.sendsEntry) progress.sent(bytes, this.shared.options.windowEntries);
    progress.sendsEntry = false;
    this.check();
  }

  /** Progress of the member in `slot`: Fill means that the owner must fill it by difference. */
  peerState(slot: number): ProgressState {
    return this.progress[slot]!.state;
  }

  /**
   * Follower: begin to be filled. `index`, `term`: the leader's applied position X, `conf`: the
   * configuration applied there. Call once the `filling` record is durable and no write of this
   * group is under way. The log is kept behind X if it agrees there, else it restarts at X, and what
   * comes behind X is `uncounted`. From here on this replica votes, but neither campaigns nor counts
   * for commit.
   */
  beginFill(index: number, term: number, conf: Configuration): void {
    startFilling(this, index, term, conf);
    this.check();
  }

  /** Begin to wait for a fill (its log may count yet), or end it once that is durable. */
  setFilling(filling: boolean): void {
    this.filling = filling;
    if (!filling) this.uncounted = false;
    // Votes that are on their way must not make it lead any more.
    else if (isCandidate(this)) becomeFollower(this, this.term, this.leader);
    this.ackDue = this.role === Role.Follower && this.leader !== 0;
    markDirty(this);
  }

  /**
   * Restore the state `filling` of a replica whose log began anew for its fill (`beginFill` is
   * durable), or with the replica itself.
   */
  setUncounted(): void {
    this.uncounted = true;
    this.setFilling(true);
  }

  /**
   * Tell whether the store of this replica is nearly full. A follower says so to its leader, at once:
   * what the leader proposes must fit everywhere, or it would stay in the log for ever, neither
   * committed nor taken back, and what frees space would wait behind it.
   */
  setFull(full: boolean): void {
    if (full === this.full) return;
    this.full = full;
    this.ackDue = this.role === Role.Follower && this.leader !== 0;
    markDirty(this);
  }

  /** Leader: whether a voter with data that can be reached said that its store is nearly full. */
  get peerFull(): boolean {
    for (let slot = 0; slot < this.progress.length; slot++) {
      if (slot === this.selfSlot || (this.inactive & (1 << slot)) !== 0) continue;
      const { voters, outgoing, witnesses } = this.conf;
      const votes = ((voters | outgoing) & ~witnesses & (1 << slot)) !== 0;
      if (votes && this.progress[slot]!.full) return true;
    }
    return false;
  }

  /**
   * Tell whether known entries lack their payload here (damaged log): no campaign meanwhile. Voting
   * and acknowledging go on: the entries themselves are known. The owner takes it back when they
   * were fetched from a peer, and also when nobody else comes to lead: a leader without some
   * payloads is better than none.
   */
  setFaulty(faulty: boolean): void {
    this.faulty = faulty;
    markDirty(this);
  }

  /**
   * The largest value that a quorum reaches, `values[slot]` by member: with the ends of lease
   * promises (own slot: Infinity) the end of this leader's lease.
   */
  quorumValue(values: Float64Array): number {
    return quorumValue(values, this.conf.voters, this.conf.outgoing, this.shared.scratch);
  }

  /**
   * Whether the echoes of a member's shard are promises to this leader. Only those are that came
   * after the member acknowledged this leader since it was elected and since the connection or the
   * member's process was new: before, the member may not know, or may have voted for another.
   */
  leaseCounts(slot: number): boolean {
    if (this.role !== Role.Leader || this.leaseGivenUp) return false;
    if (slot === this.selfSlot) return true;
    const progress = this.progress[slot]!;
    if (!progress.follows) return false;
    return this.shared.host.echoCount(this.group, progress.id) > progress.echoAtAck;
  }

  private check(): void {
    if (verifying) checkInvariants(this);
  }
}

function isCandidate(node: RaftState): boolean {
  return node.role === Role.PreCandidate || node.role === Role.Candidate;
}
