// data path
/**
 * The placement groups of one shard: face of `core/pg`.
 *
 * Owns the local store, the raft groups and the links to other shards; the osd (rank 7) brings
 * requests and raft messages in, and takes answers and messages out through `PgHost`.
 *
 * One turn: completions of the store mark groups dirty (handlers) → raft: every dirty group's
 * `ready` is carried out, until none is dirty → log: the store's own drain submits one batch →
 * apply: committed entries move into the overlay, reads that waited start → send: reads whose
 * lease holds are answered.
 */
import { assert } from "../base/assert.ts";
import type { Logger } from "../base/logger.ts";
import { Status } from "../base/status.ts";
import { BLOCK_SIZE, PAYLOAD_BLOCKS_MAX } from "../base/units.ts";
import type { ClusterMap } from "../cluster/cluster.ts";
import { type Entry, EntryType } from "../log/log.ts";
import {
  ENTRY_KIND_CONF,
  ENTRY_KIND_NOOP,
  encodeConfiguration,
  MessageFlag,
  MessageType,
  RaftGroups,
  type RaftHost,
  type RaftMessage,
  ProgressState,
  RaftNode,
  type RaftRestore,
  Ready,
  StepResult,
} from "../raft/raft.ts";
import { CallbackDrain, CallbackTimer, DrainOrder, type World } from "../reactor/world.ts";
import { Fills } from "./fills.ts";
import type { FillSource } from "./fill-source.ts";
import { Group, type GroupPeer } from "./group.ts";
import { GroupHealth, type GroupState, LocalStore, type StoreOwner } from "./local-store.ts";
import { followConfiguration, followMap, onRenewed } from "./membership.ts";
import { PeerLink, PROMISE_US } from "./peer-link.ts";
import { Reconfigurer } from "./reconfigure.ts";
import { ReadAhead, ReadAheadBudget } from "./read-ahead.ts";
import { recoverGroup } from "./recover.ts";
import type { WriteRequestOp } from "./request.ts";
import type { ScrubPeer, ScrubReader } from "./scrub-peer.ts";
import { Scrubs } from "./scrubs.ts";

export type {
  FetchedBits,
  FillBeginning,
  FillPage,
  FillSource,
  FillUnits,
  ListedUnit,
  UnitKey,
} from "./fill-source.ts";
export { type FaultyEntry, Group, GroupPeer } from "./group.ts";
export * from "./local-store.ts";
export { HEARTBEAT_INTERVAL_US, PeerLink } from "./peer-link.ts";
export { isSettled } from "./reconfigure.ts";
export type { Scrub } from "./scrub.ts";
export { isWholeFollower, unitsAt, unitsOf } from "./scrub-hold.ts";
export type { BlockPlace, ScrubPeer, ScrubRead, ScrubReader } from "./scrub-peer.ts";
export * from "./store-tools.ts";
export { ReadRequestOp, WriteRequestOp } from "./request.ts";

/** One raft tick. */
const TICK_US = 10_000;

/** What the groups need of their osd. */
export interface PgHost {
  /** Send one Append; `entry` is null when it carries none. False: not now (full, or no link). */
  sendAppend(link: PeerLink, message: RaftMessage, entry: Entry | null): boolean;
  sendControl(link: PeerLink, message: RaftMessage): boolean;
  /** What was to be said can not be: the connection must end, so that a new generation begins. */
  dropLink(link: PeerLink): void;
  /** Role, leader or configuration of a group changed, or it came. */
  onGroupChanged(group: Group): void;
  /** A replica and its data are gone for good; another one of its group may come here from now on. */
  onReplicaGone(pg: number, replica: number): void;
  onDeviceFailed(reason: string, errno: number): void;
  /** An invariant broke in background work: the process must not go on. */
  onBroken(error: unknown): void;
  /** The leader of a group, to be filled from; null: none can be reached now. */
  fillSource(group: Group): FillSource | null;
  /** All other members of a group; null: one can not be reached now. */
  scrubPeers(group: Group): ScrubPeer[] | null;
  /** This replica, for reading all its data. */
  scrubSelf(group: Group): ScrubReader;
  /** The device answers late: leaders should go elsewhere. */
  onDeviceSlow(latencyUs: number): void;
  /** A block does not match its checksum: fetch it from a peer and repair it. */
  onDamaged(damaged: {
    readonly group: Group;
    readonly layer: number;
    readonly block: number;
    readonly snapSeq: number;
    readonly version: number;
  }): void;
}

export interface PgShardOptions {
  readonly world: World;
  readonly host: PgHost;
  readonly logger: Logger;
  readonly osd: number;
  readonly shard: number;
}

/** Everything of one shard that is about placement groups. */
export class PgShard implements StoreOwner, RaftHost {
  readonly world: World;
  readonly osd: number;
  readonly shardIndex: number;
  readonly raft: RaftGroups;
  readonly groups: Map<number, Group> = new Map();
  readonly links: Map<number, PeerLink> = new Map();
  /** Replicas that this store must have and has lost all knowledge of: id by group. */
  readonly missing: Map<number, number> = new Map();
  /** Until the first map was followed: the store may have forgotten what that names. */
  forgetful = false;
  readonly logger: Logger;
  /** Groups that are being filled by difference. */
  readonly fills: Fills;
  /** Groups that are being compared. */
  readonly scrubs: Scrubs;
  /** What leaders do about configurations and leadership. */
  readonly reconfigurer: Reconfigurer;
  store!: LocalStore;
  private readonly host: PgHost;
  private readonly rows: (Group | null)[] = [];
  private readonly out = new Ready();
  private readonly message: RaftMessage;
  private readonly tickTimer: CallbackTimer;
  private readonly tickers: Group[] = [];
  /** Few units are free: leaders here and elsewhere propose nothing that takes any. */
  full = false;
  private applyHead: Group | null = null;
  private leaseHead: Group | null = null;
  /** Groups whose own entries found no room in the log, and the list they are tried from. */
  private persistBlocked: Group[] = [];
  private persistTried: Group[] = [];
  private duplicateHead: WriteRequestOp | null = null;
  private readonly aheadBudget = new ReadAheadBudget();
  private startUs = 0;

  // cold: once per start.
  constructor(options: PgShardOptions) {
    this.world = options.world;
    this.host = options.host;
    this.logger = options.logger;
    this.osd = options.osd;
    this.shardIndex = options.shard;
    this.raft = new RaftGroups(options.world.random, this);
    this.fills = new Fills(this);
    this.scrubs = new Scrubs(this);
    this.reconfigurer = new Reconfigurer(this);
    this.message = this.raft.pool.take();
    this.tickTimer = new CallbackTimer(() => this.tick());
  }

  // cold: once per start.
  /**
   * Take over an opened store: rebuild every group as it was, apply what is known as committed.
   * Requires: the store was opened with this shard as its owner. Cold.
   */
  start(store: LocalStore): void {
    this.store = store;
    this.forgetful = store.forgetful;
    this.startUs = this.world.clock.nowUs();
    for (const recovered of store.recovered) this.adopt(recoverGroup(this, recovered));
    store.finishRecovery();
    const turns = this.world.turns;
    turns.addDrain(DrainOrder.Raft, new CallbackDrain(() => this.drainRaft()));
    turns.addDrain(DrainOrder.Apply, new CallbackDrain(() => this.drainApply()));
    turns.addDrain(DrainOrder.Send, new CallbackDrain(() => this.drainSend()));
  }

  /** Take a group in. */
  adopt(group: Group): void {
    this.groups.set(group.pg, group);
    while (this.rows.length <= group.row) this.rows.push(null);
    this.rows[group.row] = group;
    // Whoever leads next may have to catch a peer up: all keep what the log has room for (R4).
    this.store.setRetention(group.row, 1);
    if (this.store.healthOf(group.row) === GroupHealth.Filling) this.fills.want(group, false);
  }

  /* ----------------------------------------------------------------- map */

  /** Follow a new map: make and remove replicas, know where peers are. Cold. */
  onMap(map: ClusterMap): void {
    followMap(this, map);
  }

  // cold: once per replica.
  /** Remove a replica with its data; `onReplicaGone` follows. */
  remove(group: Group): void {
    this.release(group);
    this.store.removeReplica(group.row);
    this.world.turns.again();
  }

  // cold: once per replica.
  /** Let go of a group: what follows is about another one of its row, or none. */
  release(group: Group): void {
    this.fills.forget(group);
    this.scrubs.forget(group);
    this.groups.delete(group.pg);
    this.rows[group.row] = null;
    group.end();
  }

  // cold: when a group is made or found.
  /** Give a group its raft node. */
  makeNode(group: Group, restore: RaftRestore): void {
    group.node = new RaftNode(this.raft, group.row, group.pg, group.replica, restore);
    group.node.setFull(this.full);
  }

  // cold: made once per pair of shards.
  /** The link to a shard of another osd, made when it is new. */
  link(osd: number, shard: number): PeerLink {
    const key = osd * 4096 + shard;
    let link = this.links.get(key);
    if (link === undefined) {
      link = new PeerLink(osd, shard);
      // Not heard of yet is not silent yet.
      link.heardUs = this.world.clock.nowUs();
      this.links.set(key, link);
    }
    return link;
  }

  /** The configuration of a group took effect: its slots moved. Cold. */
  onConfiguration(group: Group): void {
    followConfiguration(group);
    this.host.onGroupChanged(group);
    this.reconfigurer.look(group);
  }

  /** A leader has caught up with what its predecessors left. */
  onServing(group: Group): void {
    this.host.onGroupChanged(group);
    this.reconfigurer.onLeader(group);
  }

  /** What a leader reports of its group changed. */
  onSettled(group: Group): void {
    this.host.onGroupChanged(group);
  }

  /* --------------------------------------------------------------- links */

  /** A peer's connection came up, or went. Every group shared with it hears of it. */
  onLink(link: PeerLink, up: boolean): void {
    if (up) link.upSinceUs = this.world.clock.turnUs;
    for (const group of link.groups) {
      for (const peer of group.peers) {
        if (peer === null || peer.link !== link) continue;
        group.node.setPeerActive(peer.replica, up);
        if (up) group.node.peerReset(peer.replica);
        this.watch(group);
      }
    }
  }

  /** The process at the other end is a new one: what it had not made durable is forgotten. */
  onPeerRestarted(link: PeerLink): void {
    this.reconfigurer.onPeerRestarted(link);
    for (const group of link.groups) {
      for (let slot = 0; slot < group.peers.length; slot++) {
        const peer = group.peers[slot]!;
        if (peer !== null && peer.link === link) group.node.peerRestarted(peer.replica);
      }
    }
  }

  /** A connection has room again, or is new: go on where groups had to stop. */
  onLinkWritable(link: PeerLink): void {
    const waiting = link.starved;
    link.starved = link.starvedTried;
    link.starvedTried = waiting;
    for (let at = 0; at < waiting.length; at++) {
      const group = waiting[at]!;
      for (let slot = 0; slot < group.peers.length; slot++) {
        const peer = group.peers[slot] ?? null;
        if (peer === null || peer.link !== link) continue;
        peer.starved = false;
        if (group.isLeader) this.sendAppends(group, slot);
      }
    }
    waiting.length = 0;
  }

  voteBlocked(row: number, leader: number): boolean {
    const now = this.world.clock.nowUs();
    if (now < this.startUs + PROMISE_US) return true;
    const group = this.rows[row]!;
    if (group === null || isMute(group)) return true;
    if (now < group.blockedUntilUs) return true;
    if (leader === 0 || leader === group.replica) return false;
    return group.followed !== null && now < group.followed.promiseUntilUs;
  }

  echoCount(row: number, id: number): number {
    const group = this.rows[row]!;
    if (group === null) return 0;
    const slot = group.node.conf.slotOf(id);
    const peer = slot < 0 ? null : (group.peers[slot] ?? null);
    return peer === null ? 0 : peer.link.echoes;
  }

  /* ------------------------------------------------------------ messages */

  /**
   * Take a Control message of a peer. `message` stays the caller's. Answers false when no such
   * replica lives here.
   */
  stepControl(message: RaftMessage): boolean {
    const group = this.groups.get(message.pg);
    if (group === undefined || group.replica !== message.to || isMute(group)) return false;
    if (message.type === MessageType.FillNeeded) {
      const { node } = group;
      const current = message.term === node.term && message.from === node.leader;
      const reached =
        message.index <= node.commitIndex || node.log.matches(message.index, message.logTerm);
      if (current && !reached) this.fills.want(group, true);
      return true;
    }
    const leaving = message.type === MessageType.LeaderGone && message.from === group.node.leader;
    group.node.step(message);
    this.afterStep(group, leaving);
    return true;
  }

  /**
   * Whether the entry of an Append is wanted, so that the osd reads its payload: false for a
   * duplicate and for a message that raft will not take.
   */
  wantsEntry(message: RaftMessage): boolean {
    const group = this.groups.get(message.pg);
    if (group === undefined || group.replica !== message.to || isMute(group)) return false;
    if (message.term < group.node.term || group.deaf) return false;
    return group.node.log.termAt(message.index + 1) !== message.entryTerm;
  }

  /**
   * Take an Append. `entry`: its entry, filled but for group, index and term, when `wantsEntry`
   * said so; the reference that the caller holds passes to this call in any case.
   */
  stepAppend(message: RaftMessage, entry: Entry | null): void {
    const group = this.groups.get(message.pg);
    if (group === undefined || group.replica !== message.to || isMute(group)) {
      if (entry !== null) this.store.entries.release(entry);
      return;
    }
    if (entry !== null && this.store.reserve(group.row, entry) !== Status.Ok) {
      // No room: as if it were lost on the way. The leader asks again.
      this.store.entries.release(entry);
      return;
    }
    if (entry === null && message.entryKind !== 0 && (group.deaf || this.wantsEntry(message)))
      return;
    const result = group.node.step(message);
    const taken = result === StepResult.Appended || result === StepResult.Replaced;
    if (taken) {
      assert(entry !== null, "PgShard.stepAppend: raft took an entry that is not here");
      const index = message.index + 1;
      if (result === StepResult.Replaced) group.truncate(index);
      group.keep(entry, index, message.entryTerm);
    } else if (entry !== null) {
      this.store.unreserve(entry);
      this.store.entries.release(entry);
    }
    this.afterStep(group, false);
  }

  /** Look at what a step made of role and leader, at once: later steps rely on it. */
  private afterStep(group: Group, leaving: boolean): void {
    group.onRole();
    const node = group.node;
    let link: PeerLink | null = null;
    if (node.leader !== 0 && node.leader !== group.replica) {
      link = group.peerOf(node.leader)?.link ?? null;
    }
    const before = group.followed;
    group.followed = link;
    if (before === null || before === link) return;
    if (!leaving && before.promiseUntilUs > group.blockedUntilUs) {
      group.blockedUntilUs = before.promiseUntilUs;
    }
  }

  /* --------------------------------------------------------------- drains */

  /** Carry out what raft wants, until nothing is dirty. */
  drainRaft(): void {
    this.retryPersist();
    for (let node = this.raft.takeDirty(); node !== null; node = this.raft.takeDirty()) {
      const group = this.rows[node.group] ?? null;
      // A group that was released leaves its node behind.
      if (group !== null && group.node === node) this.processReady(group, node);
    }
    this.sendOutbox();
  }

  private processReady(group: Group, node: RaftNode): void {
    const out = this.out;
    node.ready(out);
    this.afterStep(group, false);
    if (out.noopIndex > 0) this.keepOwn(group, EntryType.Noop, out.noopIndex, null);
    if (out.leaveIndex > 0) {
      const body = encodeConfiguration(out.leaveConfiguration!);
      this.keepOwn(group, EntryType.Conf, out.leaveIndex, body);
    }
    const version = out.version;
    const lastIndex = out.lastIndex;
    if (out.hardState || out.persist) {
      if (!group.persist(version, lastIndex, out.hardState)) this.blockPersist(group);
    }
    if (out.committed) group.onCommit(out.commitIndex);
    if (out.appends) {
      for (let slot = 0; slot < node.peerSlots; slot++) this.sendAppends(group, slot);
    }
    if (out.fillChanged) this.tellFillNeeded(group);
    if (out.stateChanged) this.host.onGroupChanged(group);
    this.watch(group);
  }

  // cold: for followers that were away for long.
  /** Peers that need what the log no longer holds are told to come and be filled. */
  private tellFillNeeded(group: Group): void {
    const { node } = group;
    for (let slot = 0; slot < node.peerSlots; slot++) {
      const peer = group.peers[slot] ?? null;
      if (peer === null || node.peerState(slot) !== ProgressState.Fill) continue;
      const message = this.raft.pool.take();
      message.pg = group.pg;
      message.from = node.id;
      message.to = peer.replica;
      message.type = MessageType.FillNeeded;
      message.term = node.term;
      message.index = node.log.baseIndex;
      message.logTerm = node.log.baseTerm;
      // Lost with the connection: then the question begins anew, and with it this word.
      this.host.sendControl(peer.link, message);
      this.raft.pool.release(message);
    }
  }

  /** An entry that raft itself appended. */
  private keepOwn(group: Group, type: EntryType, index: number, data: Uint8Array | null): void {
    const entry = this.store.entries.take();
    entry.type = type;
    entry.data = data;
    group.keep(entry, index, group.node.term);
  }

  private blockPersist(group: Group): void {
    if (group.persistBlocked) return;
    group.persistBlocked = true;
    this.persistBlocked.push(group);
  }

  private retryPersist(): void {
    if (this.persistBlocked.length === 0) return;
    const waiting = this.persistBlocked;
    this.persistBlocked = this.persistTried;
    this.persistTried = waiting;
    for (let at = 0; at < waiting.length; at++) {
      const group = waiting[at]!;
      if (group.gone) continue;
      group.persistBlocked = false;
      const last = group.node.log.lastIndex;
      if (!group.persist(group.node.version, last, false)) {
        this.blockPersist(group);
      }
    }
    waiting.length = 0;
  }

  /** Send what raft has to say; before heartbeats too, so that they never overtake it. */
  sendOutbox(): void {
    const outbox = this.raft.outbox;
    for (let message = outbox.shift(); message !== null; message = outbox.shift()) {
      const group = this.groups.get(message.pg);
      const peer = group === undefined ? null : group.peerOf(message.to);
      if (peer !== null && !this.sendMessage(peer.link, message)) {
        // Lost, as on any network: raft asks again. But a leader that is no longer followed must
        // hear of it before any later heartbeat of ours: then a new connection has to begin.
        if (
          message.type === MessageType.AppendReply &&
          (message.flags & MessageFlag.Reject) !== 0
        ) {
          this.host.dropLink(peer.link);
        }
      }
      this.raft.pool.release(message);
    }
  }

  private sendMessage(link: PeerLink, message: RaftMessage): boolean {
    // The farewell to a member that was removed: the last commit index.
    if (message.type === MessageType.Append) return this.host.sendAppend(link, message, null);
    return this.host.sendControl(link, message);
  }

  /** Send a peer all that its window takes. */
  private sendAppends(group: Group, slot: number): void {
    const node = group.node;
    const peer = group.peers[slot] ?? null;
    if (peer === null) return;
    const message = this.message;
    message.clear();
    while (node.peekAppend(slot, message)) {
      let entry: Entry | null = null;
      let bytes = 0;
      if (message.entryKind !== 0) {
        const index = message.index + 1;
        entry = group.ring.get(index);
        if (entry === null && peer.ahead !== null) entry = peer.ahead.get(index);
        if (entry === null) {
          this.readAhead(group, peer, index);
          return;
        }
        assert(entry.term === message.entryTerm, "PgShard: another entry than raft's");
        bytes = entry.payload >= 0 ? entry.blocks * BLOCK_SIZE : 0;
      }
      if (!this.host.sendAppend(peer.link, message, entry)) {
        if (!peer.starved) peer.link.starved.push(group);
        peer.starved = true;
        return;
      }
      node.appendSent(slot, bytes);
      if (entry !== null && peer.ahead !== null) peer.ahead.sent(entry.index);
    }
  }

  // cold: only for a follower that is far behind.
  /** Read entries back for a follower that is behind. */
  private readAhead(group: Group, peer: GroupPeer, index: number): void {
    peer.ahead ??= new ReadAhead(this.aheadBudget);
    const last = Math.min(group.node.log.lastIndex, group.ring.first - 1);
    peer.ahead.read(this.store, group.row, index, Math.max(index, last), {
      onReadAhead: (status, wanted) => this.onReadAhead(group, peer, status, wanted),
    });
  }

  // cold: as `readAhead`.
  private onReadAhead(group: Group, peer: GroupPeer, status: Status, index: number): void {
    if (group.gone || group.peerOf(peer.replica) !== peer) {
      peer.drop();
      return;
    }
    if (status === Status.Invalid) {
      // The log holds it no more: raft finds out, and the follower is filled.
      group.node.compact(Math.min(group.appliedIndex, this.store.firstIndex(group.row) - 1));
    } else if (status !== Status.Ok && status !== Status.Busy) {
      const { pg } = group;
      this.logger.warn("entry for a follower can not be read", { pg, index, status });
    }
    if (status === Status.Damaged) {
      // Not applied: raft asks again after a while, when a peer may have made it whole.
      if (index > group.appliedIndex) return;
      // Applied: the follower gets what became of the entry, by difference.
      group.node.compact(index);
    }
    const slot = group.node.conf.slotOf(peer.replica);
    if (group.isLeader && slot >= 0) this.sendAppends(group, slot);
  }

  drainApply(): void {
    const full = this.store.isFull;
    if (full !== this.full) this.tellFull(full);
    while (this.applyHead !== null) {
      const group: Group = this.applyHead;
      this.applyHead = group.applyNext;
      group.applyNext = null;
      group.applyQueued = false;
      if (!group.gone) group.applyCommitted();
    }
  }

  drainSend(): void {
    while (this.duplicateHead !== null) {
      const op: WriteRequestOp = this.duplicateHead;
      this.duplicateHead = op.writeNext;
      op.writeNext = null;
      op.group = null;
      op.status = Status.Ok;
      op.onDone();
    }
    if (this.leaseHead === null) return;
    const now = this.world.clock.nowUs();
    let group: Group | null = this.leaseHead;
    this.leaseHead = null;
    while (group !== null) {
      const next: Group | null = group.leaseNext;
      group.leaseNext = null;
      group.leaseQueued = false;
      if (group.answerReads(now)) this.queueLease(group);
      group = next;
    }
  }

  // cold: when space runs out, and when there is some again.
  private tellFull(full: boolean): void {
    this.full = full;
    this.logger.warn(full ? "the store is nearly full" : "the store has space again");
    for (const group of this.groups.values()) group.node.setFull(full);
    this.world.turns.again();
  }

  queueApply(group: Group): void {
    if (group.applyQueued) return;
    group.applyQueued = true;
    group.applyNext = this.applyHead;
    this.applyHead = group;
  }

  queueLease(group: Group): void {
    if (group.leaseQueued) return;
    group.leaseQueued = true;
    group.leaseNext = this.leaseHead;
    this.leaseHead = group;
  }

  /** A request that was applied before: answered in the send phase, never within the call. */
  finishDuplicate(op: WriteRequestOp): void {
    this.store.entries.release(op.entry!);
    op.entry = null;
    op.version = 0;
    op.writeNext = this.duplicateHead;
    this.duplicateHead = op;
    this.world.turns.again();
  }

  /* ---------------------------------------------------------------- ticks */

  /** Let the group have ticks while it needs them. */
  watch(group: Group): void {
    if (group.ticking || group.silent || group.gone || !group.node.needsTick) return;
    group.ticking = true;
    this.tickers.push(group);
    if (this.tickTimer.timerDueUs < 0) this.world.timers.arm(this.tickTimer, TICK_US);
  }

  tick(): void {
    const tickers = this.tickers;
    let kept = 0;
    for (let at = 0; at < tickers.length; at++) {
      const group = tickers[at]!;
      if (group.gone) continue;
      group.node.tick();
      this.afterStep(group, false);
      if (group.node.needsTick) {
        tickers[kept] = group;
        kept += 1;
      } else {
        group.ticking = false;
      }
    }
    tickers.length = kept;
    if (kept > 0) this.world.timers.arm(this.tickTimer, TICK_US);
  }

  /* ---------------------------------------------------------------- store */

  onDurable(row: number, index: number, term: number): void {
    this.rows[row]?.onDurable(index, term);
  }

  onHardStateDurable(row: number): void {
    this.rows[row]?.onHardStateDurable();
  }

  onReplicaCreated(row: number): void {
    const group = this.rows[row];
    if (group === null || group === undefined) return;
    if (group.renewedAs > 0) {
      onRenewed(this, group);
      this.host.onReplicaGone(group.pg, group.replica);
      return;
    }
    group.creating = false;
    this.host.onGroupChanged(group);
    if (group.preferred === group.replica || group.node.conf.members.length === 1) {
      group.node.campaign();
    }
    this.watch(group);
  }

  onFillBegun(row: number): void {
    this.rows[row]?.onFillBegun();
  }

  onFillEnded(row: number): void {
    const group = this.rows[row] ?? null;
    if (group === null) return;
    group.node.setFilling(false);
    this.host.onGroupChanged(group);
  }

  /** The leader that can fill a group now; null: none. */
  fillSource(group: Group): FillSource | null {
    return this.host.fillSource(group);
  }

  /** All other members of a group; null: one can not be reached now. */
  scrubPeers(group: Group): ScrubPeer[] | null {
    return this.host.scrubPeers(group);
  }

  /** This replica, for reading all its data. */
  scrubSelf(group: Group): ScrubReader {
    return this.host.scrubSelf(group);
  }

  /** A scrub is done: it is time to report. */
  onScrubbed(group: Group): void {
    this.host.onGroupChanged(group);
  }

  onBroken(error: unknown): void {
    this.host.onBroken(error);
  }

  onReplicaGone(_row: number, pg: number, replicaId: number): void {
    this.host.onReplicaGone(pg, replicaId);
  }

  onDeviceFailed(reason: string, errno: number): void {
    for (const group of this.groups.values()) {
      group.failWrites(Status.DeviceFailed);
      group.failReads(Status.DeviceFailed);
    }
    this.host.onDeviceFailed(reason, errno);
  }

  onDeviceSlow(latencyUs: number): void {
    this.host.onDeviceSlow(latencyUs);
  }

  onDeviceRecovered(): void {
    this.logger.info("the device answers in time again");
  }

  // cold: damage is rare.
  onDamaged(row: number, layer: number, block: number, snapSeq: number, version: number): void {
    const group = this.rows[row];
    if (group === null || group === undefined) return;
    this.host.onDamaged({ group, layer, block, snapSeq, version });
  }

  encodeState(row: number): GroupState {
    const group = this.rows[row];
    assert(group !== null && group !== undefined, "PgShard.encodeState: no group in this row");
    return group.encodeState();
  }

  /* ----------------------------------------------------------------- stop */

  // cold: once per stop, or slow device.
  /** Groups that are led here and could be led elsewhere. */
  ledGroups(): Group[] {
    return [...this.groups.values()].filter(
      (group) => group.isLeader && group.node.conf.members.length > 1,
    );
  }

  /** Begin to hand every leadership over that another replica can take. */
  transferAll(): void {
    for (const group of this.ledGroups()) this.transfer(group, 0);
  }

  /** Begin a transfer to `to`, or to the peer that is furthest (0). Answers whether it began. */
  transfer(group: Group, to: number): boolean {
    if (to !== 0) return group.node.transferLeadership(to);
    let best = 0;
    let bestMatch = -1;
    for (let slot = 0; slot < group.node.progress.length; slot++) {
      const progress = group.node.progress[slot]!;
      const peer = group.peers[slot] ?? null;
      if (peer === null || !peer.link.up || progress.match <= bestMatch) continue;
      if (!group.node.conf.isVoter(peer.replica)) continue;
      best = peer.replica;
      bestMatch = progress.match;
    }
    return best !== 0 && group.node.transferLeadership(best);
  }
}

/** A replica that is not durable yet, or whose store lost something, takes no part in its group. */
function isMute(group: Group): boolean {
  return group.creating || group.silent;
}

// Raft can not import the log's types: it knows two of them by number.
assert(Number(ENTRY_KIND_NOOP) === Number(EntryType.Noop), "core/pg: raft's kind of a Noop");
assert(Number(ENTRY_KIND_CONF) === Number(EntryType.Conf), "core/pg: raft's kind of a Conf");
// The widest write must fit the store's read op: one reply answers it.
assert(PAYLOAD_BLOCKS_MAX === 64, "core/pg: frames and store ops agree on 64 blocks");
