// data path
/**
 * The placement groups of one shard: face of `core/pg`.
 *
 * Owns the local store and the raft groups; the osd (rank 7) brings requests in, raft messages by
 * way of `peers`, and takes answers and messages out through `PgHost`.
 *
 * One turn: completions of the store mark groups dirty (handlers) → raft: every dirty group's
 * `ready` is carried out, until none is dirty → log: the store's own drain submits one batch →
 * apply: committed entries move into the overlay, reads that waited start → send: reads whose
 * lease holds are answered.
 */
import { assert } from "../base/assert.ts";
import type { Logger } from "../base/logger.ts";
import { Status } from "../base/status.ts";
import { PAYLOAD_BLOCKS_MAX } from "../base/units.ts";
import type { ClusterMap } from "../cluster/cluster.ts";
import { type Entry, EntryType } from "../log/log.ts";
import {
  ENTRY_KIND_CONF,
  ENTRY_KIND_NOOP,
  encodeConfiguration,
  RaftGroups,
  type RaftHost,
  type RaftMessage,
  RaftNode,
  type RaftRestore,
  Ready,
} from "../raft/raft.ts";
import { CallbackDrain, CallbackTimer, DrainOrder, type World } from "../reactor/world.ts";
import { Fills } from "./fills.ts";
import type { FillSource } from "./fill-source.ts";
import type { Group } from "./group.ts";
import { Groups } from "./groups.ts";
import { GroupHealth, type GroupState, LocalStore, type StoreOwner } from "./local-store.ts";
import { type GroupLimits, LIMITS_DEFAULT } from "./limits.ts";
import { followConfiguration, followMap, onRenewed } from "./membership.ts";
import { Parking, PARK_LOOK_US } from "./parking.ts";
import { type PeerLink, PROMISE_US } from "./peer-link.ts";
import { Peers } from "./peers.ts";
import { Reconfigurer } from "./reconfigure.ts";
import { RecoveryPace } from "./recovery-pace.ts";
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
export { LeaderLoad } from "./fill-source.ts";
export { type FaultyEntry, Group, GroupPeer } from "./group.ts";
export * from "./local-store.ts";
export type { GroupLimits } from "./limits.ts";
export { PeerLink } from "./peer-link.ts";
export type { Parked } from "./parked-rows.ts";
export { isSettled } from "./reconfigure.ts";
export type { ScrubState } from "./scrubs.ts";
export { isWholeFollower, unitsAt, unitsOf } from "./scrub-hold.ts";
export type { BlockPlace, ScrubPeer, ScrubRead, ScrubReader } from "./scrub-peer.ts";
export * from "./store-tools.ts";
export { ReadRequestOp, WriteRequestOp } from "./request.ts";

/** One raft tick. */
const TICK_US = 10_000;

/** What the groups need of their osd. */
export interface PgHost {
  /**
   * Send one Append; `entry` is null when it carries none, and goes without its payload when `isBare`.
   * False: not now (full, or no link).
   */
  sendAppend(link: PeerLink, message: RaftMessage, entry: Entry | null, isBare: boolean): boolean;
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
  /** Writes wait for space beneath the device: leaders should go elsewhere. */
  onDeviceStarved(): void;
  /** So many groups fell quiet one after the other, and no more follow: their objects are gone. */
  onParked(parked: number): void;
  /** Entries of a group turned out to be damaged in the log: see to them. */
  onFaulty(group: Group): void;
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
  /** Between two looks for quiet groups, of which a few park a group. Default 2 s. */
  readonly parkLookUs?: number;
  /** Those that are not the default. */
  readonly limits?: Partial<GroupLimits>;
}

/** Between two looks at all groups for entries that they keep. */
const SHED_US = 10_000;

/** Everything of one shard that is about placement groups. */
export class PgShard implements StoreOwner, RaftHost {
  readonly world: World;
  readonly osd: number;
  readonly shardIndex: number;
  readonly limits: GroupLimits;
  readonly raft: RaftGroups;
  readonly groups: Groups;
  /** Keeps quiet groups without objects. */
  readonly parking: Parking;
  /** Replicas that this store must have and has lost all knowledge of: id by group. */
  readonly missing: Map<number, number> = new Map();
  /** Until the first map was followed: the store may have forgotten what that names. */
  forgetful = false;
  readonly logger: Logger;
  /** Members on other shards, and what is said to them. */
  readonly peers: Peers;
  /** How much of the shard's time bringing replicas back may take. */
  readonly pace: RecoveryPace;
  /** Groups that are being filled by difference. */
  readonly fills: Fills;
  /** Groups that are being compared. */
  readonly scrubs: Scrubs;
  /** What leaders do about configurations and leadership. */
  readonly reconfigurer: Reconfigurer;
  store!: LocalStore;
  /**
   * More than half of the memory for payloads is taken, or some was asked for in vain: none is kept for
   * followers.
   */
  isCrowded = false;
  private shedUs = 0;
  private shedRefusals = 0;
  private readonly host: PgHost;
  private readonly out = new Ready();
  private readonly tickTimer: CallbackTimer;
  private readonly tickers: Group[] = [];
  /** Requests that came again: they were applied already, or waited in the log. */
  duplicates = 0;
  /** Few units are free: leaders here and elsewhere propose nothing that takes any. */
  full = false;
  private applyHead: Group | null = null;
  private leaseHead: Group | null = null;
  /** Groups whose own entries found no room in the log, and the list they are tried from. */
  private persistBlocked: Group[] = [];
  private persistTried: Group[] = [];
  private duplicateHead: WriteRequestOp | null = null;
  private startUs = 0;
  private map: ClusterMap | null = null;

  // cold: once per start.
  constructor(options: PgShardOptions) {
    this.world = options.world;
    this.host = options.host;
    this.logger = options.logger;
    this.osd = options.osd;
    this.shardIndex = options.shard;
    this.parking = new Parking(this, options.parkLookUs ?? PARK_LOOK_US);
    this.groups = new Groups(this.parking);
    this.limits = { ...LIMITS_DEFAULT, ...options.limits };
    this.raft = new RaftGroups(options.world.random, this, this.limits.raft);
    this.pace = new RecoveryPace(this.limits.fillUnits);
    this.peers = new Peers(this, this.host);
    this.fills = new Fills(this);
    this.scrubs = new Scrubs(this);
    this.reconfigurer = new Reconfigurer(this);
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
    this.groups.put(group);
    this.parking.watch();
    if (this.store.healthOf(group.row) === GroupHealth.Filling) this.fills.want(group, false);
  }

  /* ----------------------------------------------------------------- map */

  /** Follow a new map: make and remove replicas, know where peers are. Cold. */
  onMap(map: ClusterMap): void {
    this.map = map;
    this.pace.follow(map.recovery);
    followMap(this, map);
  }

  // cold: when a group wakes.
  /** The map that was followed last. */
  followed(): ClusterMap {
    assert(this.map !== null, "PgShard.followed: there was no map yet");
    return this.map;
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
    this.groups.delete(group);
    group.end();
  }

  // cold: when a group is made or found.
  /** Give a group its raft node. */
  makeNode(group: Group, restore: RaftRestore): void {
    group.node = new RaftNode(this.raft, group.row, group.pg, group.replica, restore);
    group.node.setFull(this.full);
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

  voteBlocked(row: number, leader: number): boolean {
    const now = this.world.clock.nowUs();
    if (now < this.startUs + PROMISE_US) return true;
    const group = this.groups.awakeAt(row);
    if (group === null || group.isMute) return true;
    if (now < group.blockedUntilUs) return true;
    if (leader === 0 || leader === group.replica) return false;
    return group.followed !== null && now < group.followed.promiseUntilUs;
  }

  echoCount(row: number, id: number): number {
    const group = this.groups.awakeAt(row);
    if (group === null) return 0;
    const slot = group.node.conf.slotOf(id);
    const peer = slot < 0 ? null : (group.peers[slot] ?? null);
    return peer === null ? 0 : peer.link.echoes;
  }

  onForgotten(row: number, id: number, acknowledged: number): void {
    const group = this.groups.awakeAt(row);
    const peer = group?.peerOf(id) ?? null;
    this.logger.error(
      "a replica lost what it had acknowledged: its disk did not keep what it called durable",
      {
        pg: group?.pg ?? 0,
        replica: id,
        osd: peer?.link.osd ?? -1,
        acknowledged,
      },
    );
  }

  /* --------------------------------------------------------------- drains */

  /** Carry out what raft wants, until nothing is dirty. */
  drainRaft(): void {
    this.retryPersist();
    for (let node = this.raft.takeDirty(); node !== null; node = this.raft.takeDirty()) {
      const group = this.groups.awakeAt(node.group);
      // A group that was released leaves its node behind.
      if (group !== null && group.node === node) this.processReady(group, node);
    }
    this.peers.sendOutbox();
  }

  private processReady(group: Group, node: RaftNode): void {
    const out = this.out;
    node.ready(out);
    group.afterStep(false);
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
      for (let slot = 0; slot < node.peerSlots; slot++) this.peers.sendAppends(group, slot);
    }
    if (out.fillChanged) this.peers.tellFillNeeded(group);
    if (out.stateChanged) this.host.onGroupChanged(group);
    this.watch(group);
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

  drainApply(): void {
    const full = this.store.isFull;
    if (full !== this.full) this.tellFull(full);
    const { usedBytes, sizeBytes, refusals } = this.world.slots;
    this.isCrowded = usedBytes * 2 > sizeBytes || refusals !== this.shedRefusals;
    while (this.applyHead !== null) {
      const group: Group = this.applyHead;
      this.applyHead = group.applyNext;
      group.applyNext = null;
      group.applyQueued = false;
      if (!group.gone) group.applyCommitted();
    }
    if (this.isCrowded) this.shed();
  }

  // cold: memory is scarce.
  /** Groups in which nothing happens let go of what they keep: without memory nothing might any more. */
  private shed(): void {
    const now = this.world.clock.turnUs;
    if (now - this.shedUs < SHED_US) return;
    this.shedUs = now;
    this.shedRefusals = this.world.slots.refusals;
    for (const group of this.groups.awake()) group.releaseApplied();
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
      if (group.requests.answerReads(now)) this.queueLease(group);
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

  // cold: when no more groups fall quiet.
  /** So many groups were parked one after the other: give back what they needed all at once. */
  onParked(parked: number): void {
    this.store.shrink();
    this.raft.pool.shrink();
    this.host.onParked(parked);
  }

  /** A client's request came to its end here, or a new entry of one arrived. */
  noteClient(): void {
    this.pace.clientUs = this.world.clock.turnUs;
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
    this.duplicates += 1;
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
      group.afterStep(false);
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

  onDurable(row: number, index: number): void {
    this.groups.awakeAt(row)?.onDurable(index);
  }

  onHardStateDurable(row: number): void {
    this.groups.awakeAt(row)?.onHardStateDurable();
  }

  onReplicaCreated(row: number): void {
    const group = this.groups.awakeAt(row);
    if (group === null) return;
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
    this.groups.awakeAt(row)?.onFillBegun();
  }

  onFillEnded(row: number): void {
    const group = this.groups.awakeAt(row);
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
    for (const group of this.groups.awake()) {
      group.requests.fail(Status.DeviceFailed);
    }
    this.host.onDeviceFailed(reason, errno);
  }

  onDeviceSlow(latencyUs: number): void {
    this.logger.warn("the device is slow: leaders go elsewhere", { latencyUs });
    this.raft.reluctant = true;
    this.reconfigurer.transferAll();
  }

  onDeviceStarved(): void {
    this.host.onDeviceStarved();
  }

  onDeviceRecovered(): void {
    this.raft.reluctant = false;
    this.logger.info("the device answers in time again");
  }

  // cold: damage is rare.
  onDamaged(row: number, layer: number, block: number, snapSeq: number, version: number): void {
    const group = this.groups.get(this.store.pgOf(row));
    if (group === undefined || group.row !== row) return;
    this.host.onDamaged({ group, layer, block, snapSeq, version });
  }

  encodeState(row: number): GroupState {
    const group = this.groups.awakeAt(row);
    return group === null ? this.parking.stateOf(row) : group.encodeState();
  }

  neededFrom(row: number): number {
    const group = this.groups.awakeAt(row);
    // Of a group that is parked all was acknowledged; who goes or comes back wakes it.
    return group === null ? Number.POSITIVE_INFINITY : group.neededFrom();
  }
}

// Raft can not import the log's types: it knows two of them by number.
assert(Number(ENTRY_KIND_NOOP) === Number(EntryType.Noop), "core/pg: raft's kind of a Noop");
assert(Number(ENTRY_KIND_CONF) === Number(EntryType.Conf), "core/pg: raft's kind of a Conf");
// The widest write must fit the store's read op: one reply answers it.
assert(PAYLOAD_BLOCKS_MAX === 64, "core/pg: frames and store ops agree on 64 blocks");
