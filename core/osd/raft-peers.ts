// data path
/**
 * Connections and heartbeats between this shard and the shards that it shares groups with.
 *
 * Each side dials the other and speaks on the connection that it dialled: all raft messages and
 * heartbeats of one direction travel in one order, on which leases rely (`PeerLink`). The link is
 * up while the peer's own connection to us is.
 *
 * Heartbeats to all peers go out together, every 100 ms. One that arrives when ours are due in less
 * than half of that brings them forward into this turn: shards that share groups fall into step
 * with the fastest clock among them, and an idle one wakes for its own heartbeats and those of its
 * peers at once. Timers alone were not enough: each shard then wakes for its own, and once more for
 * every peer's.
 */
import { create } from "@bufbuild/protobuf";
import type { Logger } from "../base/logger.ts";
import { Status } from "../base/status.ts";
import { BLOCK_SIZE } from "../base/units.ts";
import type { ClusterMap } from "../cluster/cluster.ts";
import { type Entry, EntryType } from "../log/log.ts";
import type { Group, PeerLink, PgShard } from "../pg/pg.ts";
import { Stage, TraceColumn, TraceKind, TraceSide } from "../metrics/metrics.ts";
import { MessageType, RaftMessage } from "../raft/raft.ts";
import { CallbackTimer, type Drain, DrainOrder, type World } from "../reactor/world.ts";
import {
  type Connection,
  type ConnectionHandler,
  type ControlService,
  type Frame,
  Method,
  Role,
  type RpcEndpoint,
} from "../rpc/rpc.ts";
import {
  Append,
  Control,
  decodeAppend,
  decodeControl,
  decodeHeartbeat,
  encodeAppend,
  encodeControl,
  encodeHeartbeat,
  Heartbeat,
  sizeOfAppend,
  sizeOfControl,
  sizeOfHeartbeat,
} from "../../proto/gen/hot.ts";
import { MarkedSchema } from "../../proto/gen/starts_pb.ts";
import type { ClientRequests } from "./client-requests.ts";

/** Our end of the pair of connections with one shard of another osd. */
class Peer {
  readonly link: PeerLink;
  /** The connection that we dialled; null until the map knows the address. */
  outbound: Connection | null = null;
  /** What was dialled: `host:port/storeUuid`, and its parts. */
  address = "";
  host = "";
  port = 0;
  storeUuid = "";
  /** The connection that the peer dialled. */
  inbound: Connection | null = null;
  /** When the peer was last heard before our connection to it was given up. */
  givenUpUs = 0;

  constructor(link: PeerLink) {
    this.link = link;
  }
}

/**
 * A connection to a peer that has been silent this long is dialled anew, once: the kernel repeats
 * what a cut has swallowed after ever longer pauses, up to as long as the cut has lasted.
 */
const GIVE_UP_US = 3_000_000;

export class RaftPeers implements ConnectionHandler, Drain {
  /** Combined heartbeats sent, for metrics. */
  heartbeats = 0;
  private readonly pg: PgShard;
  private readonly heartbeatUs: number;
  /** A heartbeat of a peer brings ours forward when they went out at least this long ago. */
  private readonly heartbeatEarlyUs: number;
  private readonly world: World;
  private readonly endpoint: RpcEndpoint;
  private readonly logger: Logger;
  private readonly peers = new Map<PeerLink, Peer>();
  private readonly list: Peer[] = [];
  private readonly append = new Append();
  private readonly control = new Control();
  private readonly heartbeat = new Heartbeat();
  private readonly message = new RaftMessage();
  private readonly timer: CallbackTimer;
  private readonly requests: ClientRequests;
  private readonly calls: ControlService;
  /** Heartbeats go out in this turn. */
  private beatDue = false;
  private beatUs = 0;

  constructor(
    pg: PgShard,
    world: World,
    endpoint: RpcEndpoint,
    logger: Logger,
    requests: ClientRequests,
    calls: ControlService,
  ) {
    this.pg = pg;
    this.heartbeatUs = pg.limits.heartbeatUs;
    this.heartbeatEarlyUs = this.heartbeatUs / 2;
    this.world = world;
    this.endpoint = endpoint;
    this.logger = logger;
    this.requests = requests;
    this.calls = calls;
    this.timer = new CallbackTimer(() => this.onTimer());
    world.turns.addDrain(DrainOrder.Receive, this);
  }

  /* ---------------------------------------------------------- connections */

  /** Dial the shards that share a group with this one, at the addresses of the map. Cold. */
  onMap(map: ClusterMap): void {
    for (const link of this.pg.peers.links.values()) {
      const osd = map.osds.get(link.osd as never);
      const address = osd?.addresses[link.shard];
      if (link.groups.size === 0) this.hangUp(link);
      if (osd === undefined || address === undefined || link.groups.size === 0) continue;
      this.dial(this.peerOf(link), address.host, address.port, osd.storeUuid);
    }
    if (this.list.length > 0 && this.timer.timerDueUs < 0) {
      this.world.timers.arm(this.timer, this.heartbeatUs);
    }
  }

  // cold: when the map names a new address.
  private dial(peer: Peer, host: string, port: number, storeUuid: string): void {
    const address = host + ":" + String(port) + "/" + storeUuid;
    if (peer.address === address) return;
    peer.address = address;
    peer.host = host;
    peer.port = port;
    peer.storeUuid = storeUuid;
    if (peer.outbound !== null) peer.outbound.close("dialled anew");
    // Not heard of there yet is not silent yet.
    if (!peer.link.up) peer.link.heardUs = this.world.clock.nowUs();
    peer.outbound = this.endpoint.dial(
      { kind: "tcp", host, port },
      { role: Role.Osd, id: peer.link.osd, shard: peer.link.shard, storeUuid },
      this,
    );
    peer.outbound.context = peer;
  }

  // cold: when the last group in common is gone.
  /** Its osd may have another store by now, which nobody here would ask for. */
  private hangUp(link: PeerLink): void {
    const peer = this.peers.get(link);
    if (peer === undefined || peer.outbound === null) return;
    const { outbound } = peer;
    peer.outbound = null;
    peer.address = "";
    outbound.close("no group in common");
  }

  // cold: made once per pair of shards.
  private peerOf(link: PeerLink): Peer {
    let peer = this.peers.get(link);
    if (peer === undefined) {
      peer = new Peer(link);
      this.peers.set(link, peer);
      this.list.push(peer);
    }
    return peer;
  }

  /** A shard of another osd connected to us. */
  accept(connection: Connection): ConnectionHandler {
    const who = connection.peer!;
    const link = this.pg.peers.link(who.id, who.shard);
    const peer = this.peerOf(link);
    const before = peer.inbound;
    connection.context = peer;
    peer.inbound = connection;
    if (before !== null) before.close("replaced by a newer connection of the same peer");
    if (link.boot !== 0 && link.boot !== who.boot) this.pg.peers.onPeerRestarted(link);
    link.boot = who.boot;
    link.onConnected(this.world.clock.turnUs);
    // Whoever leads next needs both directions.
    peer.outbound?.hurry();
    this.pg.peers.onLink(link, true);
    return this;
  }

  onOpen(connection: Connection): void {
    const peer = connection.context as Peer;
    if (connection !== peer.outbound) return;
    this.sendHeartbeat(peer, this.world.clock.nowUs());
    // What was said on an earlier connection may be lost: ask anew where the logs agree.
    this.pg.peers.onLink(peer.link, peer.link.up);
    this.pg.peers.onLinkWritable(peer.link);
  }

  onClose(connection: Connection, reason: string, opened: boolean): void {
    this.calls.onClose(connection, reason, opened);
    const peer = connection.context as Peer;
    if (connection !== peer.inbound) return;
    peer.inbound = null;
    if (!opened || !peer.link.onDisconnected()) return;
    this.logger.info("peer is gone", { osd: peer.link.osd, shard: peer.link.shard, reason });
    this.pg.peers.onLink(peer.link, false);
  }

  onWritable(connection: Connection): void {
    const peer = connection.context as Peer;
    if (connection === peer.outbound) this.pg.peers.onLinkWritable(peer.link);
  }

  onRequest(connection: Connection, frame: Frame): void {
    if (frame.method === Method.BlockFetch) this.requests.onBlockFetch(connection, frame);
    else this.calls.onRequest(connection, frame);
  }

  // cold: every few minutes.
  /** Tell all peers how far this shard's store has come. */
  tellMarked(starts: Uint8Array): void {
    const message = create(MarkedSchema, { starts });
    for (const { outbound } of this.list) {
      if (outbound === null || !outbound.isOpen) continue;
      this.calls.push(outbound, Method.StartsMarked, MarkedSchema, message);
    }
  }

  /** The connection that this shard dialled to a peer, for requests of its own. */
  connectionTo(link: PeerLink): Connection | null {
    return this.peers.get(link)?.outbound ?? null;
  }

  /** End both directions with a peer that missed something it must know. */
  drop(link: PeerLink): void {
    const peer = this.peers.get(link);
    if (peer === undefined || peer.outbound === null || !peer.outbound.isOpen) return;
    const { host, port, storeUuid } = peer;
    peer.address = "";
    this.dial(peer, host, port, storeUuid);
  }

  /* ----------------------------------------------------------------- send */

  sendAppend(link: PeerLink, message: RaftMessage, entry: Entry | null, isBare: boolean): boolean {
    const peer = this.peers.get(link);
    if (peer === undefined || peer.outbound === null) return false;
    const append = this.append;
    fillAppend(append, message, entry);
    let payloadBytes = 0;
    if (entry !== null) {
      if (entry.data !== null) payloadBytes = entry.data.length;
      else if (entry.payload >= 0 && !isBare) payloadBytes = entry.blocks * BLOCK_SIZE;
    }
    const connection = peer.outbound;
    const at = connection.beginOneway(Method.RaftAppend, sizeOfAppend(append), payloadBytes);
    if (at < 0) return false;
    const arena = this.world.arena;
    encodeAppend(append, arena.view, at);
    if (payloadBytes > 0) {
      if (entry!.data !== null) arena.bytes.set(entry!.data, connection.payloadOffset);
      else {
        const from = entry!.payload;
        arena.bytes.copyWithin(connection.payloadOffset, from, from + payloadBytes);
      }
    }
    connection.finish();
    return true;
  }

  sendControl(link: PeerLink, message: RaftMessage): boolean {
    const peer = this.peers.get(link);
    if (peer === undefined || peer.outbound === null) return false;
    const control = this.control;
    control.pg = message.pg;
    control.from = message.from;
    control.to = message.to;
    control.type = message.type;
    control.term = message.term;
    control.index = message.index;
    control.logTerm = message.logTerm;
    control.commit = message.commit;
    control.reject = message.flags;
    control.hintIndex = message.hintIndex;
    control.hintTerm = message.hintTerm;
    control.context = message.context;
    const connection = peer.outbound;
    const at = connection.beginOneway(Method.RaftControl, sizeOfControl(control), 0);
    if (at < 0) return false;
    encodeControl(control, this.world.arena.view, at);
    connection.finish();
    return true;
  }

  private sendHeartbeat(peer: Peer, nowUs: number): void {
    const connection = peer.outbound;
    if (connection === null) return;
    const heartbeat = this.heartbeat;
    const at = connection.beginShort(Method.RaftHeartbeat, sizeOfHeartbeat(heartbeat));
    if (at < 0) return;
    heartbeat.sentUs = Math.floor(nowUs);
    heartbeat.echoUs = peer.link.echo(nowUs);
    encodeHeartbeat(heartbeat, this.world.arena.view, at);
    connection.finish();
    this.heartbeats += 1;
  }

  /** The timer: 100 ms since the last heartbeats. */
  onTimer(): void {
    this.beatDue = true;
  }

  /** Heartbeats to all, and who fell silent: before the groups' drain, which acts on that. */
  drain(): void {
    if (!this.beatDue) return;
    this.beatDue = false;
    this.pg.peers.sendOutbox();
    const now = this.world.clock.nowUs();
    this.beatUs = now;
    for (let at = 0; at < this.list.length; at++) {
      const peer = this.list[at]!;
      this.sendHeartbeat(peer, now);
      if (peer.link.up && peer.link.isSilent(now)) {
        peer.link.up = false;
        this.pg.peers.onLink(peer.link, false);
      }
      if (!peer.link.up && now - peer.link.heardUs > GIVE_UP_US) this.giveUp(peer);
    }
    this.world.timers.arm(this.timer, this.heartbeatUs);
  }

  // cold: a peer is cut off.
  private giveUp(peer: Peer): void {
    const { heardUs } = peer.link;
    if (peer.outbound === null || !peer.outbound.isOpen || peer.givenUpUs === heardUs) return;
    peer.givenUpUs = heardUs;
    peer.outbound.renew("the peer is silent");
  }

  stop(): void {
    this.world.timers.disarm(this.timer);
    this.beatDue = false;
    for (let at = 0; at < this.list.length; at++) {
      const peer = this.list[at]!;
      if (peer.outbound !== null) peer.outbound.close("stopping");
      if (peer.inbound !== null) peer.inbound.close("stopping");
    }
  }

  // cold: for the report to the monitor.
  /** Osds whose heartbeats are missed, for the report to the monitor. Cold. */
  unreachable(): number[] {
    const osds = new Set<number>();
    const now = this.world.clock.nowUs();
    for (const { link } of this.list) {
      if (link.groups.size > 0 && !link.up && link.isSilent(now)) osds.add(link.osd);
    }
    return [...osds];
  }

  /* -------------------------------------------------------------- receive */

  onOneway(connection: Connection, frame: Frame): void {
    const peer = connection.context as Peer;
    if (connection !== peer.inbound) {
      if (frame.method === Method.StartsVerdict) this.calls.onOneway(connection, frame);
      return;
    }
    const link = peer.link;
    link.heardUs = this.world.clock.turnUs;
    if (!link.up) {
      link.up = true;
      this.pg.peers.onLink(link, true);
    }
    switch (frame.method) {
      case Method.RaftAppend:
        this.onAppend(connection, frame);
        break;
      case Method.RaftControl:
        this.onControl(connection, frame);
        break;
      case Method.RaftHeartbeat:
        this.onHeartbeat(link, connection, frame);
        break;
      case Method.StartsMarked:
        this.calls.onOneway(connection, frame);
        break;
      default:
        connection.close("unexpected one-way frame, method " + String(frame.method));
    }
  }

  private onHeartbeat(link: PeerLink, connection: Connection, frame: Frame): void {
    const heartbeat = this.heartbeat;
    const view = this.world.arena.view;
    if (!decodeHeartbeat(heartbeat, view, frame.headerOffset, frame.headerSize)) {
      connection.close("malformed heartbeat");
      return;
    }
    const now = this.world.clock.turnUs;
    link.onHeartbeat(heartbeat.sentUs, heartbeat.echoUs, now);
    if (now - this.beatUs >= this.heartbeatEarlyUs) this.beatDue = true;
  }

  private onControl(connection: Connection, frame: Frame): void {
    const control = this.control;
    const view = this.world.arena.view;
    if (!decodeControl(control, view, frame.headerOffset, frame.headerSize)) {
      connection.close("malformed raft message");
      return;
    }
    const message = this.message;
    message.clear();
    message.pg = control.pg;
    message.from = control.from;
    message.to = control.to;
    message.type = control.type;
    message.term = control.term;
    message.index = control.index;
    message.logTerm = control.logTerm;
    message.commit = control.commit;
    message.flags = control.reject;
    message.hintIndex = control.hintIndex;
    message.hintTerm = control.hintTerm;
    message.context = control.context;
    if (message.from === message.to || message.type === MessageType.Append) {
      connection.close("malformed raft message");
      return;
    }
    this.pg.peers.stepControl(message);
  }

  private onAppend(connection: Connection, frame: Frame): void {
    const append = this.append;
    const view = this.world.arena.view;
    if (!decodeAppend(append, view, frame.headerOffset, frame.headerSize)) {
      connection.close("malformed append");
      return;
    }
    const message = this.message;
    message.clear();
    message.pg = append.pg;
    message.from = append.from;
    message.to = append.to;
    message.type = MessageType.Append;
    message.term = append.term;
    message.index = append.prevIndex;
    message.logTerm = append.prevTerm;
    message.commit = append.commit;
    message.entryTerm = append.entryTerm;
    message.entryKind = append.entryType;
    if (message.from === message.to || !isPayloadRight(append, frame.payloadSize)) {
      connection.close("malformed append");
      return;
    }
    let entry: Entry | null = null;
    const taker = append.entryType === 0 ? null : this.pg.peers.taker(message);
    if (taker !== null) {
      entry = this.takeEntry(taker, append, frame);
      if (entry === null) return;
    }
    this.pg.peers.stepAppend(message, entry);
  }

  // cold: copies bodies of configurations; payloads go to slots.
  /** The entry of an Append with its payload; null when there is no room, as if it were lost. */
  private takeEntry(group: Group, append: Append, frame: Frame): Entry | null {
    // A configuration tells the leader who is a witness, and a replica with data takes nothing less.
    const lacksPayload = append.entryType === EntryType.Write && frame.payloadSize === 0;
    if (!group.knowsRole || (lacksPayload && !group.witness)) return null;
    const entry = this.pg.store.entries.take();
    if (this.world.trace.sample !== 0) this.trace(entry, group, append);
    entry.bare = group.witness;
    entry.type = append.entryType;
    entry.session = append.session;
    entry.number = append.number;
    entry.below = append.below;
    entry.layer = append.layer;
    entry.firstBlock = append.firstBlock;
    entry.blocks = append.blocks;
    entry.snapSeq = append.snapSeq;
    entry.lockEpoch = append.lockEpoch;
    entry.ifVersion = append.ifVersion;
    for (let at = 0; at < append.crcsCount; at++) entry.crcs[at] = append.crcs[at]!;
    if (entry.type === EntryType.Write) {
      if (!entry.bare && this.requests.copyPayload(entry, frame.payloadOffset) !== Status.Ok) {
        this.pg.store.entries.release(entry);
        return null;
      }
    } else if (frame.payloadSize > 0) {
      const from = frame.payloadOffset;
      entry.data = this.world.arena.bytes.slice(from, from + frame.payloadSize);
    }
    return entry;
  }

  // cold: while a trace is taken.
  private trace(entry: Entry, group: Group, append: Append): void {
    const { trace } = this.world;
    const { session, number, pg } = append;
    if (session === 0 || !trace.isSampled(session, pg, number)) return;
    entry.trace = trace.open(TraceSide.Follower, TraceKind.Write, session, pg, number);
    trace.stamp(entry.trace, Stage.Received);
    trace.note(entry.trace, TraceColumn.Replica, group.replica);
  }
}

function isPayloadRight(append: Append, payloadSize: number): boolean {
  if (append.below > append.number) return false;
  switch (append.entryType) {
    case EntryType.Write:
      // Nothing: for a witness.
      if (payloadSize !== 0 && payloadSize !== append.blocks * BLOCK_SIZE) return false;
      return append.blocks > 0 && append.crcsCount === append.blocks;
    case EntryType.Conf:
    case EntryType.Session:
      return payloadSize > 0 && payloadSize <= 3072;
    case 0:
    case EntryType.Noop:
    case EntryType.Zero:
    case EntryType.LayerGone:
    case EntryType.Fence:
    case EntryType.Cut:
      return payloadSize === 0;
    default:
      return false;
  }
}

function fillAppend(append: Append, message: RaftMessage, entry: Entry | null): void {
  append.pg = message.pg;
  append.from = message.from;
  append.to = message.to;
  append.term = message.term;
  append.prevIndex = message.index;
  append.prevTerm = message.logTerm;
  append.commit = message.commit;
  append.entryTerm = message.entryTerm;
  append.entryType = message.entryKind;
  append.session = entry === null ? 0 : entry.session;
  append.number = entry === null ? 0 : entry.number;
  append.below = entry === null ? 0 : entry.below;
  append.layer = entry === null ? 0 : entry.layer;
  append.firstBlock = entry === null ? 0 : entry.firstBlock;
  append.blocks = entry === null ? 0 : entry.blocks;
  append.snapSeq = entry === null ? 0 : entry.snapSeq;
  append.lockEpoch = entry === null ? 0 : entry.lockEpoch;
  append.ifVersion = entry === null ? 0 : entry.ifVersion;
  append.crcsCount = 0;
  if (entry === null || entry.type !== EntryType.Write) return;
  for (let at = 0; at < entry.blocks; at++) append.crcs[at] = entry.crcs[at]!;
  append.crcsCount = entry.blocks;
}
