// data path
/**
 * One placement group on this shard: where requests meet raft, log and store.
 *
 * In the life of a write: judges the request (window, fence, snapshot sequence, condition, space),
 * proposes it, hands its entry to the local store, answers it when a majority has it durable, and
 * applies it behind the answer. Everything is refused before the proposal; what is in the log is
 * applied unconditionally, the same on every replica.
 *
 *   store.appliedIndex ≤ commitIndex ≤ node's last index
 *   ring holds every entry in (appliedIndex, last] that was appended since the start, and for a
 *   leader those that a follower still needs, while there are few of them
 *
 * Applied is bounded by what is durable here, not by commitIndex alone: the overlay points into
 * this replica's own log, which may be behind the majority that committed. A read therefore waits
 * until the index that was committed when it came in is applied.
 */
import { assert, unreachable } from "../base/assert.ts";
import { Status } from "../base/status.ts";
import type { PgInfo } from "../cluster/cluster.ts";
import { type Entry, EntryType } from "../log/log.ts";
import {
  decodeConfiguration,
  encodeConfiguration,
  hasQuorum,
  type RaftNode,
  Role,
} from "../raft/raft.ts";
import { DurableMarks } from "./durable-marks.ts";
import { EntryRing } from "./entry-ring.ts";
import type { Fill } from "./fill.ts";
import type { FillBeginning } from "./fill-source.ts";
import { LayerTable } from "./layer-table.ts";
import { type GroupState, SNAP_SEQ_HEAD } from "./local-store-types.ts";
import type { PeerLink } from "./peer-link.ts";
import type { PgShard } from "./pg.ts";
import type { ReadAhead } from "./read-ahead.ts";
import type { ReadRequestOp, WriteRequestOp } from "./request.ts";
import { NumberState, SessionTable } from "./session-window.ts";

/** Applied entries that stay in memory for followers that are a little behind. */
const KEEP_ENTRIES_MAX = 256;

/** Raft's rows of entries that the store no longer holds are dropped so many at a time. */
const COMPACT_ENTRIES_MIN = 256;

/** One member of the group besides this replica, by slot of the configuration. */
export class GroupPeer {
  readonly replica: number;
  readonly link: PeerLink;
  /** Entries read back from the log for this peer; null until it was far behind. */
  ahead: ReadAhead | null = null;
  /** Stands in the list of its link that waits for room. */
  starved = false;

  constructor(replica: number, link: PeerLink) {
    this.replica = replica;
    this.link = link;
  }

  /** Give back what was read for it. */
  drop(): void {
    this.ahead?.drop();
  }
}

/** An entry that is known to be in the log, and whose payload there is damaged. */
export interface FaultyEntry {
  readonly index: number;
  readonly term: number;
  readonly layer: number;
  readonly firstBlock: number;
  readonly blocks: number;
  readonly snapSeq: number;
}

export class Group {
  readonly shard: PgShard;
  readonly pg: number;
  readonly replica: number;
  /** Handle of the local store. */
  readonly row: number;
  node!: RaftNode;
  readonly ring: EntryRing = new EntryRing();
  sessions: SessionTable = new SessionTable();
  layers: LayerTable = new LayerTable();
  /** By slot of the node's configuration; null: this replica itself, or an osd not in the map. */
  peers: (GroupPeer | null)[] = [];
  /** The other replicas that the map names, members or not. */
  named: readonly GroupPeer[] = [];
  /** What the map wants of this group; null before the first map. */
  info: PgInfo | null = null;
  commitIndex = 0;
  appliedIndex = 0;
  /** Handed to the store up to here. */
  appendedIndex = 0;
  confIndex = 0;
  /** Requests with a map older than this are refused; with one as new they may go on. */
  lastChangeEpoch = 0;
  /** The replica that the map wants as leader. */
  preferred = 0;
  /** Leader: not before these times does leadership go to the preferred replica; to any other. */
  stayUntilUs = 0;
  transferAfterUs = 0;
  /** Leader: index of the configuration that was told as settled last, see `reconfigure.ts`; -1: none. */
  settledTold = -1;
  /** Taken off its shard: open requests are answered, nothing else is done with it. */
  gone = false;
  /** Set while `onReplicaCreated` is out: no vote, no acknowledgement. */
  creating = false;
  /** Its store lost something it had acknowledged: it says and answers nothing, see `recover.ts`. */
  silent = false;
  /** While its renewal is out: the id that takes its place, see `membership.ts`; 0: none. */
  renewedAs = 0;
  /** Found at start, see `recover.ts`; the osd fetches their blocks and empties the list. */
  faulty: readonly FaultyEntry[] = [];
  isLeader = false;
  /** On its way back by difference; null: not needed. */
  fill: Fill | null = null;
  /** Nothing above is applied for now: see `fill.ts`. */
  holdIndex: number = Number.POSITIVE_INFINITY;
  /** Takes no Appends: it is about to begin at another position. */
  deaf = false;
  /** Where it begins, until that is durable. */
  beginning: FillBeginning | null = null;
  /** The osd was told that this leader serves. */
  private servingTold = false;

  /* Proposed writes in index order. */
  private writeHead: WriteRequestOp | null = null;
  private writeTail: WriteRequestOp | null = null;
  /* Reads that wait for appliedIndex, in order of arrival (readIndex only grows). */
  private readHead: ReadRequestOp | null = null;
  private readTail: ReadRequestOp | null = null;
  /* Reads that are answered by the store and wait for the lease or a leadership check. */
  private leaseHead: ReadRequestOp | null = null;
  private leaseTail: ReadRequestOp | null = null;

  /** What raft waits for of the store's log. */
  readonly marks: DurableMarks = new DurableMarks();

  /* ------------------------------------------- whom this replica follows */

  /** Link to the leader that is followed; null: none, or itself. */
  followed: PeerLink | null = null;
  /** Promises given to leaders that are no longer followed run out here. */
  blockedUntilUs = 0;

  /** Owned by the shard's lists. */
  ticking = false;
  persistBlocked = false;
  /** Owned by the shard's list of groups with applied work. */
  applyQueued = false;
  applyNext: Group | null = null;
  /** Owned by the shard's list of groups with reads that wait for the lease. */
  leaseQueued = false;
  leaseNext: Group | null = null;

  constructor(shard: PgShard, pg: number, replica: number, row: number) {
    this.shard = shard;
    this.pg = pg;
    this.replica = replica;
    this.row = row;
  }

  /** True when this replica leads and has applied all that earlier leaders left. */
  get serving(): boolean {
    const node = this.node;
    return this.isLeader && node.ownIndex > 0 && this.appliedIndex >= node.ownIndex;
  }

  /** Not durable yet, or its store lost something: takes no part in its group. */
  get isMute(): boolean {
    return this.creating || this.silent;
  }

  /** The way to another replica, a member or one that the map names; null: none is known. */
  peerOf(replica: number): GroupPeer | null {
    const slot = this.node.conf.slotOf(replica);
    if (slot >= 0) return this.peers[slot] ?? null;
    for (let at = 0; at < this.named.length; at++) {
      if (this.named[at]!.replica === replica) return this.named[at]!;
    }
    return null;
  }

  /* ------------------------------------------------------------- requests */

  /** Judge and propose. Ok: `op.onDone` follows. Else the caller answers; the op stays his. */
  write(op: WriteRequestOp): Status {
    const entry = op.entry!;
    if (!this.serving) return Status.NotLeader;
    const judged = this.judgeFence(entry.layer, entry.lockEpoch);
    if (judged !== Status.Ok) return judged;
    const layer = this.layers.find(entry.layer);
    if (layer !== undefined && entry.snapSeq < layer.snapSeqProposed) return Status.SnapStale;
    if (entry.session !== 0) {
      const window = this.judgeNumber(op);
      if (window !== Status.Ok) return window;
      if (op.group !== null) return Status.Ok;
    }
    if (entry.ifVersion !== 0) {
      const version = this.versionAhead(entry.layer, entry.firstBlock);
      if (version + 1 !== entry.ifVersion) return Status.Conflict;
    }
    return this.propose(op);
  }

  private propose(op: WriteRequestOp): Status {
    const entry = op.entry!;
    const short = this.shard.full || this.node.peerFull;
    const reserved = this.shard.store.reserve(this.row, entry, short);
    if (reserved !== Status.Ok) return reserved;
    if (short && this.shard.store.takesSpace(entry)) {
      this.shard.store.unreserve(entry);
      return this.shard.store.refuseFull(this.row, this.shard.full);
    }
    const index = this.node.propose(entry.type);
    if (index < 0) {
      this.shard.store.unreserve(entry);
      return Status.Busy;
    }
    if (entry.snapSeq > 0) this.layers.of(entry.layer).snapSeqProposed = entry.snapSeq;
    this.keep(entry, index, this.node.term);
    op.group = this;
    op.writeNext = null;
    if (this.writeTail === null) this.writeHead = op;
    else this.writeTail.writeNext = op;
    this.writeTail = op;
    return Status.Ok;
  }

  /** Take the reference that the caller holds; the ring owns it from here on. */
  keep(entry: Entry, index: number, term: number): void {
    entry.group = this.row;
    entry.index = index;
    entry.term = term;
    this.ring.put(entry);
  }

  /** A higher lock epoch goes into the log before anything that carries it; a lower one is out. */
  private judgeFence(layer: number, lockEpoch: number): Status {
    const state = this.layers.find(layer);
    const proposed = state === undefined ? 0 : state.lockEpochProposed;
    if (lockEpoch === proposed) return Status.Ok;
    if (lockEpoch < proposed) return Status.Fenced;
    const entry = this.shard.store.entries.take();
    entry.type = EntryType.Fence;
    entry.layer = layer;
    entry.lockEpoch = lockEpoch;
    const status = this.proposeOwn(entry);
    if (status === Status.Ok) this.layers.of(layer).lockEpochProposed = lockEpoch;
    return status;
  }

  /** Propose an entry of the osd's own making; takes the caller's reference. */
  proposeOwn(entry: Entry): Status {
    const reserved = this.shard.store.reserve(this.row, entry);
    if (reserved !== Status.Ok) {
      this.shard.store.entries.release(entry);
      return reserved;
    }
    const index = this.node.propose(entry.type);
    if (index < 0) {
      this.shard.store.unreserve(entry);
      this.shard.store.entries.release(entry);
      return Status.Busy;
    }
    this.keep(entry, index, this.node.term);
    return Status.Ok;
  }

  /**
   * Exactly once: an applied number is answered again, a proposed one gets the newer request as
   * its waiter. Sets `op.group` when the op was taken over.
   */
  private judgeNumber(op: WriteRequestOp): Status {
    const entry = op.entry!;
    if (!this.sessions.accepts(entry.session)) return Status.SessionExpired;
    const window = this.sessions.find(entry.session);
    const state =
      window === undefined ? NumberState.Fresh : window.stateOf(entry.number, entry.below);
    if (state === NumberState.TooFar) return Status.Busy;
    if (state === NumberState.Applied) {
      this.shard.finishDuplicate(op);
      op.group = this;
      return Status.Ok;
    }
    for (let other = this.writeHead; other !== null; other = other.writeNext) {
      const pending = other.entry!;
      if (pending.session !== entry.session || pending.number !== entry.number) continue;
      this.replaceWaiter(other, op);
      return Status.Ok;
    }
    return Status.Ok;
  }

  /** The same request came again: the newer op waits for the entry that is in the log. */
  private replaceWaiter(older: WriteRequestOp, newer: WriteRequestOp): void {
    const pool = this.shard.store.entries;
    pool.release(newer.entry!);
    newer.entry = older.entry;
    newer.group = this;
    newer.writeNext = older.writeNext;
    if (this.writeHead === older) {
      this.writeHead = newer;
    } else {
      let before = this.writeHead!;
      while (before.writeNext !== older) before = before.writeNext!;
      before.writeNext = newer;
    }
    if (this.writeTail === older) this.writeTail = newer;
    older.entry = null;
    older.writeNext = null;
    older.group = null;
    older.version = 0;
    older.status = Status.Unknown;
    older.onDone();
  }

  /** Version of a block once everything in this leader's log is applied. */
  private versionAhead(layer: number, block: number): number {
    let version = -1;
    for (let op = this.writeHead; op !== null; op = op.writeNext) {
      const entry = op.entry!;
      if (entry.layer !== layer || block < entry.firstBlock) continue;
      if (block < entry.firstBlock + entry.blocks) version = entry.index;
    }
    if (version >= 0) return version;
    // What is committed here and not applied yet has no waiter any more.
    for (let index = this.commitIndex; index > this.appliedIndex; index--) {
      const entry = this.ring.get(index);
      if (entry === null || entry.layer !== layer || block < entry.firstBlock) continue;
      if (block < entry.firstBlock + entry.blocks) return index;
    }
    return this.shard.store.versionOf(layer, block, SNAP_SEQ_HEAD);
  }

  /** Queue a read. Ok: `op.onAnswer` follows. Else the caller answers. */
  read(op: ReadRequestOp): Status {
    op.row = this.row;
    op.group = this;
    op.ticket = 0;
    op.readNext = null;
    if (op.own) {
      op.readIndex = this.appliedIndex;
      this.startRead(op);
      return Status.Ok;
    }
    if (!this.serving) return Status.NotLeader;
    const judged = this.judgeFence(op.layer, op.lockEpoch);
    if (judged !== Status.Ok) return judged;
    const fence = this.layers.find(op.layer);
    const fenceOpen = fence !== undefined && fence.lockEpochProposed > fence.lockEpoch;
    op.readIndex = fenceOpen ? this.node.log.lastIndex : this.commitIndex;
    if (op.readIndex <= this.appliedIndex) {
      this.startRead(op);
      return Status.Ok;
    }
    if (this.readTail === null) this.readHead = op;
    else this.readTail.readNext = op;
    this.readTail = op;
    return Status.Ok;
  }

  private startRead(op: ReadRequestOp): void {
    if (this.shard.store.read(op)) this.onStoreRead(op);
  }

  /** The store answered: the reply may leave while the lease holds, else after a check. */
  onStoreRead(op: ReadRequestOp): void {
    if (op.own || op.status !== Status.Ok) {
      op.onAnswer();
      return;
    }
    op.readNext = null;
    if (this.leaseTail === null) this.leaseHead = op;
    else this.leaseTail.readNext = op;
    this.leaseTail = op;
    this.shard.queueLease(this);
  }

  /**
   * Answer what the lease, or a leadership check that began after the read, allows. Called in the
   * send phase, with the clock read again. Answers true when reads are left.
   */
  answerReads(nowUs: number): boolean {
    if (this.leaseHead === null) return false;
    const holds = this.isLeader && this.leaseHolds(nowUs);
    while (this.leaseHead !== null) {
      const op: ReadRequestOp = this.leaseHead;
      if (!this.isLeader) {
        op.status = Status.NotLeader;
      } else if (!holds) {
        if (op.ticket === 0) op.ticket = this.node.readIndex();
        if (op.ticket === 0 || op.ticket > this.node.readConfirmed) return true;
      }
      this.leaseHead = op.readNext;
      if (this.leaseHead === null) this.leaseTail = null;
      op.readNext = null;
      op.onAnswer();
    }
    return false;
  }

  /** Whether a majority has promised not to vote against this leader until after `nowUs`. */
  leaseHolds(nowUs: number): boolean {
    const node = this.node;
    if (node.leaseGivenUp) return false;
    let granted = node.selfBit;
    for (let slot = 0; slot < this.peers.length; slot++) {
      const peer = this.peers[slot]!;
      if (peer === null || !node.leaseCounts(slot)) continue;
      if (peer.link.leaseUntilUs > nowUs) granted |= 1 << slot;
    }
    return hasQuorum(granted, node.conf.voters, node.conf.outgoing);
  }

  /* ------------------------------------------------------- log and commit */

  /**
   * Hand what raft wants on stable storage to the store, and remember what it waits for.
   *
   * Answers false when the log had no room for an entry of our own making: call again next turn.
   */
  persist(version: number, toIndex: number, hardState: boolean): boolean {
    const store = this.shard.store;
    const node = this.node;
    if (hardState) {
      store.putHardState(this.row, node.term, node.vote, node.commitIndex);
      this.marks.issueHardState();
    }
    for (let index = this.appendedIndex + 1; index <= toIndex; index++) {
      const entry = this.ring.get(index);
      assert(entry !== null, "Group.persist: an entry to append is not in memory");
      if (entry.reservedLogBlocks === 0 && store.reserve(this.row, entry) !== Status.Ok)
        return false;
      store.append(this.row, entry);
      this.appendedIndex = index;
    }
    this.marks.push(version, toIndex, node.log.termAt(toIndex));
    this.settle();
    return true;
  }

  /** The store: entries up to `index` of `term` are durable. */
  onDurable(index: number, term: number): void {
    this.marks.reach(index, term);
    this.settle();
    this.shard.queueApply(this);
  }

  onHardStateDurable(): void {
    this.marks.reachHardState();
    this.settle();
    this.shard.queueApply(this);
  }

  private settle(): void {
    if (this.marks.settle()) this.node.onDurable(this.marks.version, this.marks.index);
  }

  /** commitIndex moved: answer the writes that it covers, apply them behind. */
  onCommit(commitIndex: number): void {
    this.commitIndex = commitIndex;
    this.shard.store.setCommit(this.row, commitIndex);
    while (this.writeHead !== null && this.writeHead.entry!.index <= commitIndex) {
      const op: WriteRequestOp = this.writeHead;
      this.writeHead = op.writeNext;
      if (this.writeHead === null) this.writeTail = null;
      op.writeNext = null;
      op.group = null;
      op.version = op.entry!.index;
      op.entry = null;
      op.status = Status.Ok;
      op.onDone();
    }
    this.shard.queueApply(this);
  }

  /** Apply what is committed and durable here, in index order; then wake the reads that waited. */
  applyCommitted(): void {
    const store = this.shard.store;
    let until = this.commitIndex;
    // Raft counts on what is durable; the store may be writing entries again at the log's head.
    const durable = Math.min(this.node.durableIndex, store.durableIndex(this.row));
    if (durable < until) until = durable;
    if (this.holdIndex < until) until = this.holdIndex;
    while (this.appliedIndex < until) {
      const index = this.appliedIndex + 1;
      let entry = this.ring.get(index);
      if (entry === null) {
        entry = store.entries.take();
        assert(store.recoveredEntry(this.row, index, entry), "Group: committed entry is missing");
        this.applyEntry(entry, index);
        store.entries.release(entry);
      } else {
        this.applyEntry(entry, index);
      }
    }
    this.releaseApplied();
    if (!this.servingTold && this.serving) {
      this.servingTold = true;
      this.shard.onServing(this);
    }
    while (this.readHead !== null && this.readHead.readIndex <= this.appliedIndex) {
      const op: ReadRequestOp = this.readHead;
      this.readHead = op.readNext;
      if (this.readHead === null) this.readTail = null;
      this.startRead(op);
    }
    if (this.fill !== null) this.fill.onApplied();
  }

  private applyEntry(entry: Entry, index: number): void {
    this.shard.store.apply(this.row, entry);
    this.appliedIndex = index;
    if (entry.session !== 0 && entry.type !== EntryType.Session) {
      this.sessions.apply(entry.session, entry.number, entry.below, index);
    }
    switch (entry.type) {
      case EntryType.Write:
      case EntryType.Zero:
      case EntryType.Fence:
        this.layers.apply(entry.layer, entry.lockEpoch, entry.snapSeq);
        break;
      case EntryType.LayerGone:
        this.layers.forget(entry.layer);
        break;
      case EntryType.Session:
        this.sessions.end(entry.session);
        break;
      case EntryType.Conf:
        this.applyConfiguration(entry, index);
        return;
      case EntryType.Noop:
      case EntryType.Cut:
        break;
      default:
        unreachable("Group.applyEntry: unknown entry type");
    }
    this.node.onApplied(index);
  }

  private applyConfiguration(entry: Entry, index: number): void {
    assert(entry.data !== null, "Group: a configuration without body");
    const conf = decodeConfiguration(entry.data);
    assert(conf !== null, "Group: a configuration that can not be read");
    this.confIndex = index;
    this.node.applyConfiguration(index, conf);
    this.shard.onConfiguration(this);
  }

  /** Entries that are applied stay in memory only for followers a little behind. */
  private releaseApplied(): void {
    const ring = this.ring;
    const keepFrom = this.isLeader ? this.lowestMatch() + 1 : this.appliedIndex + 1;
    while (ring.first <= ring.last && ring.first <= this.appliedIndex) {
      if (ring.first >= keepFrom && this.appliedIndex - ring.first < KEEP_ENTRIES_MAX) break;
      const entry = ring.shiftFirst();
      if (entry !== null) this.shard.store.entries.release(entry);
    }
    // Raft's rows end where the store's log does; followers that need more are filled.
    const base = Math.min(this.appliedIndex, this.shard.store.firstIndex(this.row) - 1);
    if (base - this.node.log.baseIndex >= COMPACT_ENTRIES_MIN) this.node.compact(base);
  }

  /** Leader: the lowest index that a reachable peer has acknowledged. */
  private lowestMatch(): number {
    const node = this.node;
    let lowest = this.appliedIndex;
    for (let slot = 0; slot < node.progress.length; slot++) {
      if (slot === node.selfSlot || (node.inactive & (1 << slot)) !== 0) continue;
      const match = node.progress[slot]!.match;
      if (match < lowest) lowest = match;
    }
    return lowest;
  }

  /** Forget the entries from `index` on: a new leader's log replaces them. */
  truncate(index: number): void {
    while (this.ring.last >= index && this.ring.first <= this.ring.last) {
      const entry = this.ring.popLast();
      if (entry !== null) this.shard.store.entries.release(entry);
    }
    if (this.appendedIndex >= index) this.appendedIndex = index - 1;
  }

  /* ------------------------------------------------------------ leadership */

  /** Look at what a step made of role and leader, at once: later steps rely on it. */
  afterStep(leaving: boolean): void {
    this.onRole();
    const node = this.node;
    let link: PeerLink | null = null;
    if (node.leader !== 0 && node.leader !== this.replica) {
      link = this.peerOf(node.leader)?.link ?? null;
    }
    const before = this.followed;
    this.followed = link;
    if (before === null || before === link) return;
    if (!leaving && before.promiseUntilUs > this.blockedUntilUs) {
      this.blockedUntilUs = before.promiseUntilUs;
    }
  }

  /** Role or leader changed. A replica that stops leading answers everybody who waits. */
  private onRole(): void {
    const leads = this.node.role === Role.Leader;
    if (leads === this.isLeader) return;
    this.isLeader = leads;
    this.servingTold = false;
    this.layers.dropProposed();
    if (leads) return;
    // What was read for followers is of a log that the next leader may cut.
    for (let at = 0; at < this.peers.length; at++) this.peers[at]?.drop();
    this.failWrites(Status.NotLeader);
    this.failReads(Status.NotLeader);
    if (this.leaseHead !== null) this.shard.queueLease(this);
  }

  failWrites(status: Status): void {
    while (this.writeHead !== null) {
      const op: WriteRequestOp = this.writeHead;
      this.writeHead = op.writeNext;
      op.writeNext = null;
      op.group = null;
      op.entry = null;
      op.version = 0;
      op.status = status;
      op.onDone();
    }
    this.writeTail = null;
  }

  failReads(status: Status): void {
    while (this.readHead !== null) {
      const op: ReadRequestOp = this.readHead;
      this.readHead = op.readNext;
      op.readNext = null;
      op.status = status;
      op.onAnswer();
    }
    this.readTail = null;
  }

  // cold: once per replica.
  /** Answer everybody who waits and give back what is held: the shard has let go of this group. */
  end(): void {
    this.gone = true;
    this.isLeader = false;
    this.failWrites(Status.NotLeader);
    this.failReads(Status.NotLeader);
    if (this.leaseHead !== null) this.shard.queueLease(this);
    for (let index = this.appendedIndex + 1; index <= this.ring.last; index++) {
      const entry = this.ring.get(index);
      if (entry !== null && entry.reservedLogBlocks > 0) this.shard.store.unreserve(entry);
    }
    this.truncate(0);
    for (let at = 0; at < this.peers.length; at++) this.peers[at]?.drop();
    for (let at = 0; at < this.peers.length; at++) this.peers[at]?.link.groups.delete(this);
    for (let at = 0; at < this.named.length; at++) this.named[at]!.link.groups.delete(this);
    this.peers = [];
    this.named = [];
  }

  // cold: at start, and when a fill begins.
  /** Take over the replicated state beside the blocks. */
  restoreState(state: GroupState): void {
    this.sessions = new SessionTable();
    this.layers = new LayerTable();
    this.sessions.expiredBelow = state.expiredBelow;
    for (const one of state.sessions) {
      this.sessions.restore(one.session, one.base, one.bits, one.lastIndex);
    }
    for (const one of state.fences) this.layers.apply(one.layer, one.lockEpoch, one.snapSeq);
    this.confIndex = state.confIndex;
  }

  /** True when nothing of this replica is under way: all is durable, and applied as far as known. */
  get isQuiet(): boolean {
    const store = this.shard.store;
    const last = this.node.log.lastIndex;
    if (this.isLeader || this.appendedIndex !== last || this.persistBlocked) return false;
    if (this.node.durableIndex !== last || store.durableIndex(this.row) !== last) return false;
    return this.appliedIndex === Math.min(this.commitIndex, last) && !this.marks.pending;
  }

  // cold: once per fill.
  /** The beginning is durable: this replica now stands where its leader stood. */
  onFillBegun(): void {
    const { index, term, state } = this.beginning!;
    const conf = decodeConfiguration(state.conf);
    assert(conf !== null, "Group: the configuration of a beginning can not be read");
    this.truncate(0);
    this.ring.first = index + 1;
    this.ring.last = index;
    this.restoreState(state);
    this.node.beginFill(index, term, conf);
    this.appliedIndex = index;
    this.commitIndex = index;
    this.appendedIndex = index;
    this.marks.reach(index, term);
    this.beginning = null;
    this.deaf = false;
    this.shard.onConfiguration(this);
    if (this.fill !== null) this.fill.onBegun();
  }

  // cold: for checkpoints.
  /** State for a checkpoint, as of appliedIndex. */
  encodeState(): GroupState {
    return {
      applied: this.appliedIndex,
      conf: encodeConfiguration(this.node.conf),
      confIndex: this.confIndex,
      expiredBelow: this.sessions.expiredBelow,
      sessions: this.sessions.list().map((window) => ({
        session: window.session,
        base: window.base,
        bits: window.bits,
        lastIndex: window.lastIndex,
      })),
      fences: this.layers.list().map((state) => ({
        layer: state.layer,
        lockEpoch: state.lockEpoch,
        snapSeq: state.snapSeq,
      })),
    };
  }
}
