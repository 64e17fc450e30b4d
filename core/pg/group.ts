// data path
/**
 * One placement group on this shard: where raft, log and store meet.
 *
 * In the life of a write: hands its entry to the local store, tells raft what is durable here, has
 * it answered when it is committed, and applies it behind the answer. What clients ask is judged,
 * proposed and answered in `requests.ts`.
 *
 *   store.appliedIndex ≤ commitIndex ≤ node's last index
 *   ring holds every entry in (appliedIndex, last] that was appended since the start, and for a
 *   leader those that a follower is sent next, while there are few of them and memory is not scarce
 *
 * Applied is bounded by what is durable here, not by commitIndex alone: the overlay points into
 * this replica's own log, which may be behind the majority that committed. A read therefore waits
 * until the index that was committed when it came in is applied.
 */
import { assert, unreachable, verifying } from "../base/assert.ts";
import { Status } from "../base/status.ts";
import type { PgInfo } from "../cluster/cluster.ts";
import { type Entry, EntryType } from "../log/log.ts";
import { Stage } from "../metrics/metrics.ts";
import {
  decodeConfiguration,
  encodeConfiguration,
  hasQuorum,
  ProgressState,
  type RaftNode,
  Role,
} from "../raft/raft.ts";
import { DurableMarks } from "./durable-marks.ts";
import { EntryRing } from "./entry-ring.ts";
import type { Fill } from "./fill.ts";
import type { FillBeginning } from "./fill-source.ts";
import { LayerTable } from "./layer-table.ts";
import type { GroupState } from "./local-store-types.ts";
import type { PeerLink } from "./peer-link.ts";
import type { PgShard } from "./pg.ts";
import type { ReadAhead } from "./read-ahead.ts";
import { Requests } from "./requests.ts";
import { SessionTable } from "./session-window.ts";

/** Applied entries that stay in memory for followers that are a little behind. */
const KEEP_ENTRIES_MAX = 256;

/** Raft's rows of entries that the store no longer holds are dropped so many at a time. */
const COMPACT_ENTRIES_MIN = 256;

/** A member that can be reached again for so long has caught up, or is filled if its leader goes. */
const RETURNED_US = 30_000_000;

/** One member of the group besides this replica, by slot of the configuration. */
export class GroupPeer {
  readonly replica: number;
  readonly link: PeerLink;
  /** Entries read back from the log for this peer; null until it was far behind. */
  ahead: ReadAhead | null = null;
  /** Acknowledged by it up to here, as the trace of stages knows. */
  tracedIndex = 0;
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
  sessions: SessionTable;
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
  /** The map names this replica as a witness. */
  namedWitness = false;
  /** Leader: not before these times does leadership go to the preferred replica; to any other. */
  stayUntilUs = 0;
  transferAfterUs = 0;
  /** Leader: index of the configuration that was told as settled last, see `reconfigure.ts`; -1: none. */
  settledTold = -1;
  /** Leader: an entry behind this index makes its configuration a settled one, see `reconfigure.ts`. */
  settlesBehind = 0;
  /** Taken off its shard, or parked: open requests are answered, nothing else is done with it. */
  gone = false;
  /** Work that goes on over turns with this very object: it is not parked meanwhile. */
  users = 0;
  /** Acknowledged to its leader up to here, as the trace of stages knows. */
  tracedIndex = 0;
  /** How often it was looked at since it was found last, see `parking.ts`. */
  quietLooks = 0;
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

  /** What clients ask of it. */
  readonly requests: Requests = new Requests(this);
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
    this.sessions = new SessionTable(shard.limits.sessionsMax);
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

  /** Votes, and holds no data; by the map as long as its configuration does not name it. */
  get witness(): boolean {
    const { conf, selfBit } = this.node;
    return selfBit === 0 ? this.namedWitness : (conf.witnesses & selfBit) !== 0;
  }

  /** Whether `witness` is known to be right. */
  get knowsRole(): boolean {
    return this.info !== null || this.node.selfBit !== 0;
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

  /* ------------------------------------------------------- log and commit */

  /** Take the reference that the caller holds; the ring owns it from here on. */
  keep(entry: Entry, index: number, term: number): void {
    entry.group = this.row;
    entry.index = index;
    entry.term = term;
    this.ring.put(entry);
  }

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
      if (index <= store.lastIndex(this.row)) this.marks.cut(index);
      store.append(this.row, entry);
      this.appendedIndex = index;
    }
    this.marks.push(version, toIndex);
    this.settle();
    return true;
  }

  /** The store: entries up to `index` are durable. */
  onDurable(index: number): void {
    this.marks.reach(index);
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
    this.requests.onCommit(commitIndex);
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
    this.requests.onApplied();
    if (this.fill !== null) this.fill.onApplied();
  }

  private applyEntry(entry: Entry, index: number): void {
    this.shard.store.apply(this.row, entry);
    if (entry.trace !== 0) this.shard.world.trace.stamp(entry.trace, Stage.Applied);
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
        this.layers.remove(entry.layer);
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
    this.settlesBehind = this.isLeader ? this.node.log.lastIndex : 0;
    this.node.applyConfiguration(index, conf);
    this.shard.onConfiguration(this);
  }

  /**
   * Entries that are applied stay in memory only for followers a little behind, and while there is
   * enough of it.
   */
  releaseApplied(): void {
    const ring = this.ring;
    const isKeeping = this.isLeader && !this.shard.isCrowded;
    const keepFrom = isKeeping ? this.lowestMatch() + 1 : this.appliedIndex + 1;
    while (ring.first <= ring.last && ring.first <= this.appliedIndex) {
      if (ring.first >= keepFrom && this.appliedIndex - ring.first < KEEP_ENTRIES_MAX) break;
      const entry = ring.shiftFirst();
      if (entry !== null) this.shard.store.entries.release(entry);
    }
    // Raft's rows end where the store's log does; followers that need more are filled.
    const base = Math.min(this.appliedIndex, this.shard.store.firstIndex(this.row) - 1);
    if (base - this.node.log.baseIndex >= COMPACT_ENTRIES_MIN) this.node.compact(base);
  }

  /** Leader: the lowest index that a reachable peer has acknowledged that is sent entries. */
  private lowestMatch(): number {
    const node = this.node;
    let lowest = this.appliedIndex;
    for (let slot = 0; slot < node.progress.length; slot++) {
      if (slot === node.selfSlot || (node.inactive & (1 << slot)) !== 0) continue;
      const { match, state } = node.progress[slot]!;
      if (state !== ProgressState.Fill && match < lowest) lowest = match;
    }
    return lowest;
  }

  // cold: for checkpoints.
  /**
   * First entry that another member may ask this replica for, now or when it leads; Infinity: none.
   * A leader knows what each of them has. A follower knows who can not be reached, or not for long: those
   * may be behind, and whoever leads sends them what they lack. One that is behind for longer is filled
   * when its leader goes.
   */
  neededFrom(): number {
    // It leads nobody, so nobody is sent entries of its log.
    if (this.witness) return Number.POSITIVE_INFINITY;
    const { conf, progress, role, selfSlot } = this.node;
    const sinceUs = this.shard.world.clock.turnUs - RETURNED_US;
    let needed = Number.POSITIVE_INFINITY;
    for (let slot = 0; slot < conf.members.length; slot++) {
      if (slot === selfSlot) continue;
      // `isLeader` follows the node's role within the turn.
      if (role === Role.Leader) needed = Math.min(needed, progress[slot]!.match + 1);
      else if (this.peers[slot]?.link.isUpSince(sinceUs) !== true) return 1;
    }
    return needed;
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
    this.settlesBehind = 0;
    this.layers.dropProposed();
    this.sessions.dropProposed();
    if (leads) return;
    // What was read for followers is of a log that the next leader may cut.
    for (let at = 0; at < this.peers.length; at++) this.peers[at]?.drop();
    this.requests.fail(Status.NotLeader);
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

  // cold: once per replica.
  /** Answer everybody who waits and give back what is held: the shard has let go of this group. */
  end(): void {
    this.gone = true;
    this.isLeader = false;
    this.requests.fail(Status.NotLeader);
    for (let index = this.appendedIndex + 1; index <= this.ring.last; index++) {
      const entry = this.ring.get(index);
      if (entry !== null && entry.reservedLogBlocks > 0) this.shard.store.unreserve(entry);
    }
    this.truncate(0);
    for (let at = 0; at < this.peers.length; at++) this.peers[at]?.drop();
    for (let at = 0; at < this.peers.length; at++) this.peers[at]?.link.groups.delete(this.row);
    for (let at = 0; at < this.named.length; at++) this.named[at]!.link.groups.delete(this.row);
    this.peers = [];
    this.named = [];
  }

  // cold: when it is parked.
  /** Give back what is held: another object takes this one's place when the group wakes. */
  park(): void {
    assert(this.requests.isQuiet, "Group.park: somebody waits");
    this.gone = true;
    this.isLeader = false;
    this.truncate(0);
    for (let at = 0; at < this.peers.length; at++) this.peers[at]?.drop();
  }

  // cold: when it wakes.
  /** Go on as what `resume` made of the node. What a leader tells when it begins was told. */
  wake(): void {
    this.afterStep(false);
    this.servingTold = this.isLeader;
    if (this.isLeader) this.settledTold = this.confIndex;
  }

  // cold: at start, and when a fill begins.
  /** Take over the replicated state beside the blocks. */
  restoreState(state: GroupState): void {
    this.sessions = new SessionTable(this.shard.limits.sessionsMax);
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
    this.marks.cut(index + 1);
    this.marks.reach(index);
    this.beginning = null;
    this.deaf = false;
    this.shard.onConfiguration(this);
    if (this.fill !== null) this.fill.onBegun();
  }

  // cold: for checkpoints.
  /** State for a checkpoint, as of appliedIndex. */
  encodeState(): GroupState {
    if (verifying) this.sessions.invariants(this.appliedIndex);
    if (verifying && this.serving) this.requests.invariants();
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
