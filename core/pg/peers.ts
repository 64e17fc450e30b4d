// data path
/**
 * What the groups of a shard and their members on other shards say to each other.
 *
 * Owns the links; the osd brings raft messages in, and each is stepped at once. What raft has to say
 * goes out as far as the links have room: Appends by the window of each follower, with entries of
 * the ring or, for one that is far behind, read back from the log; all else from the outbox.
 */
import { assert } from "../base/assert.ts";
import { Status } from "../base/status.ts";
import { BLOCK_SIZE } from "../base/units.ts";
import type { Entry } from "../log/log.ts";
import { Stage, type StageTrace } from "../metrics/metrics.ts";
import {
  MessageFlag,
  MessageType,
  ProgressState,
  type RaftMessage,
  StepResult,
} from "../raft/raft.ts";
import type { Group, GroupPeer } from "./group.ts";
import { PeerLink } from "./peer-link.ts";
import type { PgHost, PgShard } from "./pg.ts";
import { ReadAhead, ReadAheadBudget } from "./read-ahead.ts";
import { noteFaulty } from "./recover.ts";

/**
 * A leader that lacks what a follower needs, and has committed nothing for so long, makes room. Until
 * then it may get on with the others, and has it from them as soon as it is applied.
 */
const RESIGN_US = 1_000_000;

/** The links of one shard, and the raft messages over them. */
export class Peers {
  /** By osd and shard, see `link`. */
  readonly links: Map<number, PeerLink> = new Map();
  private readonly shard: PgShard;
  private readonly host: PgHost;
  private readonly trace: StageTrace;
  /** Every Append is described in it. */
  private readonly message: RaftMessage;
  private readonly aheadBudget = new ReadAheadBudget();

  // cold: once per start.
  constructor(shard: PgShard, host: PgHost) {
    this.shard = shard;
    this.host = host;
    this.trace = shard.world.trace;
    this.message = shard.raft.pool.take();
  }

  /* --------------------------------------------------------------- links */

  // cold: made once per pair of shards.
  /** The link to a shard of another osd, made when it is new. */
  link(osd: number, shard: number): PeerLink {
    const key = osd * 4096 + shard;
    let link = this.links.get(key);
    if (link === undefined) {
      link = new PeerLink(osd, shard);
      // Not heard of yet is not silent yet.
      link.heardUs = this.shard.world.clock.nowUs();
      this.links.set(key, link);
    }
    return link;
  }

  /** A peer's connection came up, or went. Every group shared with it hears of it. */
  onLink(link: PeerLink, up: boolean): void {
    if (up) link.upSinceUs = this.shard.world.clock.turnUs;
    for (const row of link.groups.list()) {
      const group = this.shard.groups.at(row);
      for (const peer of group.peers) {
        if (peer === null || peer.link !== link) continue;
        group.node.setPeerActive(peer.replica, up);
        if (up) group.node.peerReset(peer.replica);
        this.shard.watch(group);
      }
    }
  }

  /** The process at the other end is a new one: what it had not made durable is forgotten. */
  onPeerRestarted(link: PeerLink): void {
    this.shard.reconfigurer.onPeerRestarted(link);
    for (const row of link.groups.list()) {
      const group = this.shard.groups.at(row);
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

  /* ------------------------------------------------------------------ in */

  /**
   * Take a Control message of a peer. `message` stays the caller's. Answers false when no such
   * replica lives here.
   */
  stepControl(message: RaftMessage): boolean {
    const group = this.shard.groups.get(message.pg);
    if (group === undefined || group.replica !== message.to || group.isMute) return false;
    if (message.type === MessageType.FillNeeded) {
      const { node } = group;
      const current = message.term === node.term && message.from === node.leader;
      const reached =
        message.index <= node.commitIndex || node.log.matches(message.index, message.logTerm);
      if (current && !reached) this.shard.fills.want(group, true);
      return true;
    }
    if (this.trace.sample !== 0 && message.type === MessageType.AppendReply) {
      this.traceReply(group, message);
    }
    const leaving = message.type === MessageType.LeaderGone && message.from === group.node.leader;
    group.node.step(message);
    group.afterStep(leaving);
    return true;
  }

  /**
   * Who wants the entry of an Append, so that the osd reads its payload: null for a duplicate and for
   * a message that raft will not take.
   */
  taker(message: RaftMessage): Group | null {
    const group = this.shard.groups.get(message.pg);
    if (group === undefined || group.replica !== message.to || group.isMute) return null;
    if (message.term < group.node.term || group.deaf) return null;
    return group.node.log.termAt(message.index + 1) === message.entryTerm ? null : group;
  }

  /**
   * Take an Append. `entry`: its entry, filled but for group, index and term, when there is a
   * `taker`; the reference that the caller holds passes to this call in any case.
   */
  stepAppend(message: RaftMessage, entry: Entry | null): void {
    const store = this.shard.store;
    const group = this.shard.groups.get(message.pg);
    if (group === undefined || group.replica !== message.to || group.isMute) {
      if (entry !== null) store.entries.release(entry);
      return;
    }
    if (entry !== null && store.reserve(group.row, entry) !== Status.Ok) {
      // No room: as if it were lost on the way. The leader asks again.
      store.entries.release(entry);
      return;
    }
    if (entry === null && message.entryKind !== 0 && (group.deaf || this.taker(message) !== null))
      return;
    const result = group.node.step(message);
    const taken = result === StepResult.Appended || result === StepResult.Replaced;
    if (taken) {
      assert(entry !== null, "Peers.stepAppend: raft took an entry that is not here");
      const index = message.index + 1;
      if (result === StepResult.Replaced) group.truncate(index);
      group.keep(entry, index, message.entryTerm);
      if (entry.trace !== 0) this.trace.stamp(entry.trace, Stage.Proposed);
      // What was committed before it came is catch-up.
      if (index > message.commit) this.shard.noteClient();
    } else if (entry !== null) {
      store.unreserve(entry);
      store.entries.release(entry);
    }
    group.afterStep(false);
  }

  /* ----------------------------------------------------------------- out */

  /** Send what raft has to say; before heartbeats too, so that they never overtake it. */
  sendOutbox(): void {
    const raft = this.shard.raft;
    const outbox = raft.outbox;
    for (let message = outbox.shift(); message !== null; message = outbox.shift()) {
      const group = this.shard.groups.get(message.pg);
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
      } else if (this.trace.sample !== 0 && message.type === MessageType.AppendReply) {
        if (group !== undefined) this.traceReplySent(group, message);
      }
      raft.pool.release(message);
    }
  }

  private sendMessage(link: PeerLink, message: RaftMessage): boolean {
    // The farewell to a member that was removed: the last commit index.
    if (message.type === MessageType.Append)
      return this.host.sendAppend(link, message, null, false);
    return this.host.sendControl(link, message);
  }

  /** Send a peer all that its window takes. */
  sendAppends(group: Group, slot: number): void {
    const node = group.node;
    const peer = group.peers[slot] ?? null;
    if (peer === null) return;
    const isWitness = (node.conf.witnesses & (1 << slot)) !== 0;
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
        assert(entry.term === message.entryTerm, "Peers: another entry than raft's");
        bytes = entry.payload >= 0 && !isWitness ? entry.blocks * BLOCK_SIZE : 0;
      }
      if (!this.host.sendAppend(peer.link, message, entry, isWitness)) {
        if (!peer.starved) peer.link.starved.push(group);
        peer.starved = true;
        return;
      }
      node.appendSent(slot, bytes);
      if (entry !== null && entry.trace !== 0) this.trace.sentTo(entry.trace, peer.replica);
      if (entry !== null && peer.ahead !== null) peer.ahead.sent(entry.index);
    }
  }

  // cold: while a trace is taken.
  /** Leader: a follower says what it has. */
  private traceReply(group: Group, message: RaftMessage): void {
    const peer = group.peerOf(message.from);
    if (peer === null || !group.isLeader || (message.flags & MessageFlag.Reject) !== 0) return;
    const { ring } = group;
    const last = Math.min(message.index, ring.last);
    for (let index = Math.max(peer.tracedIndex + 1, ring.first); index <= last; index++) {
      const entry = ring.get(index);
      if (entry !== null && entry.trace !== 0) {
        this.trace.acknowledgedBy(entry.trace, peer.replica);
      }
    }
    peer.tracedIndex = last;
  }

  // cold: while a trace is taken.
  /** Follower: it said what it has. */
  private traceReplySent(group: Group, message: RaftMessage): void {
    if ((message.flags & MessageFlag.Reject) !== 0) return;
    const { ring } = group;
    const last = Math.min(message.index, ring.last);
    for (let index = Math.max(group.tracedIndex + 1, ring.first); index <= last; index++) {
      const entry = ring.get(index);
      if (entry !== null && entry.trace !== 0) this.trace.stamp(entry.trace, Stage.Acknowledged);
    }
    group.tracedIndex = last;
  }

  // cold: only for a follower that is far behind.
  /** Read entries back for a follower that is behind, unless it is clients' turn. */
  private readAhead(group: Group, peer: GroupPeer, index: number): void {
    const { witnesses } = group.node.conf;
    const isWitness = (witnesses & (1 << group.node.conf.slotOf(peer.replica))) !== 0;
    peer.ahead ??= new ReadAhead(this.shard, this.aheadBudget, isWitness);
    const { term } = group.node;
    const { lastIndex } = group.node.log;
    const { commitIndex } = group;
    const log = { term, lastIndex, commitIndex };
    if (peer.ahead.rests(index, log, () => this.goOn(group, peer))) return;
    const last = Math.min(lastIndex, group.ring.first - 1);
    peer.ahead.read(group, index, Math.max(index, last), {
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
      group.node.compact(Math.min(group.appliedIndex, this.shard.store.firstIndex(group.row) - 1));
    } else if (status !== Status.Ok && status !== Status.Busy) {
      const { pg } = group;
      this.shard.logger.warn("entry for a follower can not be read", { pg, index, status });
    }
    if (status === Status.Damaged) {
      if (index > group.appliedIndex) {
        // Raft asks again after a while: by then others may have committed it, and made it whole.
        if (this.isStalled(group, peer)) this.resign(group, index);
        return;
      }
      // Applied: the follower gets what became of the entry, by difference.
      group.node.compact(index);
    }
    this.goOn(group, peer);
  }

  // cold: damage is rare.
  private isStalled(group: Group, peer: GroupPeer): boolean {
    const { isLeader, commitIndex, node } = group;
    if (!isLeader || peer.ahead === null) return false;
    const log = { term: node.term, lastIndex: node.log.lastIndex, commitIndex };
    return peer.ahead.stalledUs(log, this.shard.world.clock.nowUs()) >= RESIGN_US;
  }

  // cold: damage is rare.
  /**
   * Let somebody else lead: the entry counts by this replica's log alone, or others have it and this
   * one does not get to know, and it can send it to nobody.
   */
  private resign(group: Group, index: number): void {
    const { pg } = group;
    this.shard.logger.warn("a leader lacks what followers need: another one may lead", {
      pg,
      index,
    });
    noteFaulty(group, index);
    group.node.resign();
    group.afterStep(false);
    this.shard.watch(group);
    this.host.onFaulty(group);
    this.shard.world.turns.again();
  }

  // cold: as `readAhead`.
  private goOn(group: Group, peer: GroupPeer): void {
    if (group.gone || group.peerOf(peer.replica) !== peer) return;
    const slot = group.node.conf.slotOf(peer.replica);
    if (group.isLeader && slot >= 0) this.sendAppends(group, slot);
  }

  // cold: for reports.
  /** How many entries the follower in `slot` lacks, while it is sent some that are not in memory. */
  private entriesLeft(group: Group, slot: number): number {
    const { node, ring } = group;
    const progress = node.progress[slot];
    const ahead = group.peers[slot]?.ahead ?? null;
    if (ahead === null || progress === undefined) return 0;
    // A witness is sent nothing that takes time.
    if ((node.conf.witnesses & (1 << slot)) !== 0) return 0;
    if ((node.inactive & (1 << slot)) !== 0 || progress.state !== ProgressState.Replicate) return 0;
    return progress.next < ring.first ? node.log.lastIndex - progress.match : 0;
  }

  // cold: for reports.
  /** Leader: whether followers are sent entries that are no longer in memory. */
  isBehind(group: Group): boolean {
    for (let slot = 0; slot < group.peers.length; slot++) {
      if (this.entriesLeft(group, slot) > 0) return true;
    }
    return false;
  }

  // cold: for reports.
  /** Leader: these followers, and how many entries each lacks. */
  behind(group: Group): readonly { readonly replica: number; readonly entriesLeft: number }[] {
    const found = [];
    for (let slot = 0; slot < group.peers.length; slot++) {
      const entriesLeft = this.entriesLeft(group, slot);
      if (entriesLeft > 0) found.push({ replica: group.peers[slot]!.replica, entriesLeft });
    }
    return found;
  }

  // cold: for followers that were away for long.
  /** Peers that need what the log no longer holds are told to come and be filled. */
  tellFillNeeded(group: Group): void {
    const { node } = group;
    for (let slot = 0; slot < node.peerSlots; slot++) {
      const peer = group.peers[slot] ?? null;
      if (peer === null || node.peerState(slot) !== ProgressState.Fill) continue;
      const message = this.shard.raft.pool.take();
      message.pg = group.pg;
      message.from = node.id;
      message.to = peer.replica;
      message.type = MessageType.FillNeeded;
      message.term = node.term;
      message.index = node.log.baseIndex;
      message.logTerm = node.log.baseTerm;
      // Lost with the connection: then the question begins anew, and with it this word.
      this.host.sendControl(peer.link, message);
      this.shard.raft.pool.release(message);
    }
  }
}
