// data path
/**
 * Requests of clients on one shard: from the frame to the group and back.
 *
 * Step 5 of the life of a write: bounds, checksums, session and rights, the age of the map. What
 * passes is handed to the group, which judges the rest. Ops are pooled; a reply that finds the
 * connection full waits for room in the connection's own queue, which bounds what a peer that
 * never reads can make us hold: its requests in service.
 */
import { Status } from "../base/status.ts";
import { BLOCK_SIZE, PAYLOAD_BLOCKS_MAX } from "../base/units.ts";
import { ImageRights } from "../cluster/cluster.ts";
import { type Entry, EntryType } from "../log/log.ts";
import { Stage, TraceColumn, TraceKind, TraceSide } from "../metrics/metrics.ts";
import {
  BlockState,
  type Group,
  type PgShard,
  ReadRequestOp,
  SNAP_SEQ_HEAD,
  WriteRequestOp,
} from "../pg/pg.ts";
import type { World } from "../reactor/world.ts";
import { type Connection, type Frame, Method, type WritableWaiter } from "../rpc/rpc.ts";
import {
  BlockFetchRequest,
  decodeBlockFetchRequest,
  decodeReadRequest,
  decodeWriteRequest,
  encodeReadReply,
  encodeWriteReply,
  ReadReply,
  ReadRequest,
  sizeOfReadReply,
  sizeOfWriteReply,
  WriteReply,
  WriteRequest,
} from "../../proto/gen/hot.ts";
import { type DamagedBlock, type Healer, Healing } from "./healer.ts";
import type { MapIdentity } from "./map-identity.ts";
import type { MapSharing } from "./map-sharing.ts";
import type { SessionGrants } from "./session-grants.ts";

/** ReadRequest.flags */
const READ_OWN = 1;
const READ_STATES_ONLY = 2;
/** A read whose blocks are damaged is healed and read again so often. */
const HEAL_TRIES_MAX = 2;
/** A read without a buffer. */
const NO_SLOT = -1;

/** Grow for ever, per shard. */
export class RequestCounters {
  writes = 0;
  writeBytes = 0;
  reads = 0;
  readBytes = 0;
  refused = 0;
  fenced = 0;
}

export class ClientRequests {
  readonly counters: RequestCounters = new RequestCounters();
  readonly pg: PgShard;
  readonly world: World;
  readonly map: MapIdentity;
  private readonly grants: SessionGrants;
  private readonly maps: MapSharing;
  private readonly writeRequest = new WriteRequest();
  private readonly writeReply = new WriteReply();
  private readonly readRequest = new ReadRequest();
  private readonly fetchRequest = new BlockFetchRequest();
  private readonly readReply = new ReadReply();
  /** Set once the shard listens. */
  healer: Healer | null = null;
  private writeFree: ClientWrite | null = null;
  private readFree: ClientRead | null = null;

  constructor(
    pg: PgShard,
    world: World,
    map: MapIdentity,
    grants: SessionGrants,
    maps: MapSharing,
  ) {
    this.pg = pg;
    this.world = world;
    this.map = map;
    this.grants = grants;
    this.maps = maps;
  }

  /* --------------------------------------------------------------- writes */

  /** Take a Write request in; its reply follows, now or later. */
  onWrite(connection: Connection, frame: Frame): void {
    const request = this.writeRequest;
    const view = this.world.arena.view;
    if (!decodeWriteRequest(request, view, frame.headerOffset, frame.headerSize)) {
      connection.close("malformed write request");
      return;
    }
    const op = this.takeWrite(connection, frame.requestId, request.pg);
    op.generation = request.generation;
    op.epoch = request.epoch;
    op.trace = 0;
    if (this.world.trace.sample !== 0) {
      op.trace = this.trace(TraceKind.Write, request.session, request.pg, request.number);
    }
    const status = this.admitWrite(op, request, connection, frame);
    if (status === Status.Ok) return;
    if (op.entry !== null) this.pg.store.entries.release(op.entry);
    op.entry = null;
    op.status = status;
    op.version = 0;
    op.onDone();
  }

  private admitWrite(
    op: ClientWrite,
    request: WriteRequest,
    connection: Connection,
    frame: Frame,
  ): Status {
    if (!isWellFormed(request, frame.payloadSize)) return Status.Invalid;
    const group = this.pg.groups.get(request.pg);
    const target = this.judgeTarget(group, request.replica, request.generation, request.epoch);
    if (target !== Status.Ok) return target;
    const right = request.type === EntryType.LayerGone ? ImageRights.Manage : ImageRights.Write;
    const granted = this.grants.judge(
      connection,
      request.session,
      request.layer,
      request.firstBlock + request.blocks,
      right,
    );
    if (granted !== Status.Ok) return granted;
    const entry = this.pg.store.entries.take();
    op.entry = entry;
    fillEntry(entry, request);
    entry.trace = op.trace;
    if (request.type === EntryType.Write) {
      const copied = this.copyPayload(entry, frame.payloadOffset);
      if (copied !== Status.Ok) return copied;
    }
    return group!.requests.write(op);
  }

  /** Whether the request reached the replica that it was meant for, with a map new enough. */
  private judgeTarget(
    group: Group | undefined,
    replica: number,
    generation: number,
    epoch: number,
  ): Status {
    if (group === undefined || group.replica !== replica) {
      return this.judgeAbsent(generation, epoch);
    }
    if (generation < this.map.generation) return Status.MapStale;
    if (generation === this.map.generation && epoch < group.lastChangeEpoch) {
      return Status.MapStale;
    }
    return Status.Ok;
  }

  // cold: replicas move rarely.
  /** The replica is not here; by a newer map than ours it may be on its way: we need that map first. */
  private judgeAbsent(generation: number, epoch: number): Status {
    if (!this.map.isNewer(generation, epoch)) return Status.WrongReceiver;
    this.maps.want();
    return Status.Busy;
  }

  /** Copy the payload once, to an aligned slot, and check it against the client's checksums. */
  copyPayload(entry: Entry, from: number): Status {
    const sizeBytes = entry.blocks * BLOCK_SIZE;
    const slot = this.world.slots.take(sizeBytes);
    if (slot < 0) return Status.Busy;
    entry.payload = slot;
    const arena = this.world.arena;
    arena.bytes.copyWithin(slot, from, from + sizeBytes);
    for (let at = 0; at < entry.blocks; at++) {
      const crc = this.world.checksum.crc32(arena.block(slot + at * BLOCK_SIZE), 0);
      if (crc !== entry.crcs[at]!) return Status.Damaged;
    }
    return Status.Ok;
  }

  // cold: the pool grows to the most ops in use at once.
  private takeWrite(connection: Connection, requestId: number, pg: number): ClientWrite {
    let op = this.writeFree;
    if (op === null) op = new ClientWrite(this);
    else this.writeFree = op.poolNext;
    op.poolNext = null;
    op.connection = connection;
    op.requestId = requestId;
    op.pg = pg;
    op.group = null;
    op.entry = null;
    return op;
  }

  /** Send the reply, or wait for room; then the op goes back to its pool. */
  replyWrite(op: ClientWrite): void {
    const reply = this.writeReply;
    reply.status = op.status;
    reply.pg = op.pg;
    reply.version = op.version;
    reply.generation = this.map.generation;
    reply.epoch = this.map.epoch;
    reply.leaderOsd = 0;
    reply.leaderShard = 0;
    const connection = op.connection!;
    if (isOfPlace(op.status)) this.direct(op, reply, connection);
    const at = connection.beginReply(op.requestId, Method.Write, sizeOfWriteReply(reply), 0);
    if (at < 0) {
      if (connection.refusal === Status.Busy) {
        connection.wait(op);
        return;
      }
    } else {
      encodeWriteReply(reply, this.world.arena.view, at);
      connection.finish();
    }
    if (op.trace !== 0) this.traceReplied(op.trace, op.status);
    this.count(op.status, 1, 0);
    op.connection = null;
    op.poolNext = this.writeFree;
    this.writeFree = op;
  }

  // cold: leaders and replicas move rarely.
  /** The client asked at the wrong place: it is told who leads, and what its map lacks. */
  private direct(
    op: ClientWrite | ClientRead,
    reply: WriteReply | ReadReply,
    connection: Connection,
  ): void {
    this.maps.tell(connection, op.generation, op.epoch);
    if (op.status === Status.NotLeader) this.nameLeader(op.pg, reply);
  }

  private nameLeader(pg: number, reply: WriteReply | ReadReply): void {
    const group = this.pg.groups.get(pg);
    if (group === undefined) return;
    const slot = group.node.conf.slotOf(group.node.leader);
    const peer = slot < 0 ? null : (group.peers[slot] ?? null);
    if (peer === null) return;
    reply.leaderOsd = peer.link.osd + 1;
    reply.leaderShard = peer.link.shard;
  }

  private count(status: Status, writes: number, reads: number): void {
    if (status === Status.Ok) {
      this.counters.writes += writes;
      this.counters.reads += reads;
    } else {
      this.counters.refused += 1;
      if (status === Status.Fenced) this.counters.fenced += 1;
    }
  }

  /* ---------------------------------------------------------------- reads */

  /** Take a Read request in; its reply follows. */
  onRead(connection: Connection, frame: Frame): void {
    const request = this.readRequest;
    if (!decodeReadRequest(request, this.world.arena.view, frame.headerOffset, frame.headerSize)) {
      connection.close("malformed read request");
      return;
    }
    const op = this.takeRead(connection, frame.requestId, request.pg);
    op.generation = request.generation;
    op.epoch = request.epoch;
    op.trace = 0;
    // Who asks for states only looks for a leader, or verifies.
    if (this.world.trace.sample !== 0 && (request.flags & READ_STATES_ONLY) === 0) {
      op.trace = this.trace(TraceKind.Read, request.session, request.pg, frame.requestId);
    }
    const status = this.admitRead(op, request, connection);
    if (status === Status.Ok) return;
    op.status = status;
    op.onAnswer();
  }

  private admitRead(op: ClientRead, request: ReadRequest, connection: Connection): Status {
    if (request.blocks < 1 || request.blocks > PAYLOAD_BLOCKS_MAX) return Status.Invalid;
    const group = this.pg.groups.get(request.pg);
    const target = this.judgeTarget(group, request.replica, request.generation, request.epoch);
    if (target !== Status.Ok) return target;
    const granted = this.grants.judge(
      connection,
      request.session,
      request.layer,
      request.firstBlock + request.blocks,
      ImageRights.Read,
    );
    if (granted !== Status.Ok) return granted;
    op.layer = request.layer;
    op.firstBlock = request.firstBlock;
    op.blocks = request.blocks;
    op.snapSeq = request.snapSeq;
    op.lockEpoch = request.lockEpoch;
    op.own = (request.flags & READ_OWN) !== 0;
    if (op.own && group!.silent) return Status.Damaged;
    op.statesOnly = (request.flags & READ_STATES_ONLY) !== 0;
    if (!op.statesOnly) {
      op.arenaOffset = this.world.slots.take(request.blocks * BLOCK_SIZE);
      if (op.arenaOffset < 0) return Status.Busy;
    }
    return group!.requests.read(op);
  }

  // cold: the pool grows to the most ops in use at once.
  private takeRead(connection: Connection, requestId: number, pg: number): ClientRead {
    let op = this.readFree;
    if (op === null) op = new ClientRead(this);
    else this.readFree = op.poolNext;
    op.poolNext = null;
    op.connection = connection;
    op.requestId = requestId;
    op.pg = pg;
    op.group = null;
    op.blocks = 0;
    op.arenaOffset = NO_SLOT;
    op.snapSeq = SNAP_SEQ_HEAD;
    op.dataBlocks = 0;
    op.damagedBlocks = 0;
    op.healTries = 0;
    op.method = Method.Read;
    return op;
  }

  /** Send the reply, or wait for room; then slot and op go back to their pools. */
  replyRead(op: ClientRead): void {
    if (op.status === Status.Ok && op.damagedBlocks > 0) {
      if (op.own) this.meetDamage(op);
      else if (op.healTries < HEAL_TRIES_MAX) {
        op.healTries += 1;
        this.healRead(op);
        return;
      }
      // A peer asks what each block is; everybody else wants the blocks.
      if (op.method === Method.Read) op.status = Status.Damaged;
    }
    const reply = this.readReply;
    const connection = op.connection!;
    this.fillReadReply(reply, op);
    if (isOfPlace(op.status)) this.direct(op, reply, connection);
    const withPayload = op.status === Status.Ok && !op.statesOnly;
    const payloadBytes = withPayload ? op.dataBlocks * BLOCK_SIZE : 0;
    const headerBytes = sizeOfReadReply(reply);
    const at = connection.beginReply(op.requestId, op.method, headerBytes, payloadBytes);
    if (at < 0) {
      if (connection.refusal === Status.Busy) {
        connection.wait(op);
        return;
      }
    } else {
      encodeReadReply(reply, this.world.arena.view, at);
      if (payloadBytes > 0) this.copyData(op, connection.payloadOffset);
      connection.finish();
      this.counters.readBytes += payloadBytes;
    }
    if (op.trace !== 0) this.traceReplied(op.trace, op.status);
    this.count(op.status, 0, 1);
    if (op.arenaOffset >= 0) this.world.slots.release(op.arenaOffset);
    op.arenaOffset = NO_SLOT;
    op.connection = null;
    op.poolNext = this.readFree;
    this.readFree = op;
  }

  // cold: damage is rare.
  /** Put the damaged blocks of a read right, then read again. */
  private healRead(op: ClientRead): void {
    const healing: Promise<Healing>[] = [];
    for (let at = 0; at < op.blocks; at++) {
      if (op.states[at]! !== BlockState.Damaged) continue;
      healing.push(this.healer!.heal(damagedBlockOf(op, at)));
    }
    // No healing rejects. A block that is lost says so when it is read again.
    Promise.all(healing)
      .then((results) => {
        const mustWait = results.includes(Healing.Waiting);
        op.status = mustWait ? Status.Damaged : op.group!.requests.read(op);
        if (op.status !== Status.Ok) this.replyRead(op);
        this.world.turns.again();
      })
      .catch((error: unknown) => this.world.fail(error));
  }

  // cold: damage is rare.
  /** Who reads this replica's own store is told what it is; it is put right behind the answer. */
  private meetDamage(op: ClientRead): void {
    for (let at = 0; at < op.blocks; at++) {
      if (op.states[at]! !== BlockState.Damaged) continue;
      this.healer!.meet(damagedBlockOf(op, at));
    }
  }

  /** A peer wants a block at a version that is damaged there: answered from the own store. */
  onBlockFetch(connection: Connection, frame: Frame): void {
    const request = this.fetchRequest;
    const view = this.world.arena.view;
    if (!decodeBlockFetchRequest(request, view, frame.headerOffset, frame.headerSize)) {
      connection.close("malformed block fetch");
      return;
    }
    const op = this.takeRead(connection, frame.requestId, request.pg);
    op.method = Method.BlockFetch;
    op.trace = 0;
    const status = this.admitFetch(op, request);
    if (status === Status.Ok) return;
    op.status = status;
    op.onAnswer();
  }

  private admitFetch(op: ClientRead, request: BlockFetchRequest): Status {
    if (request.blocks < 1 || request.blocks > PAYLOAD_BLOCKS_MAX) return Status.Invalid;
    const group = this.pg.groups.get(request.pg);
    if (group === undefined || group.replica !== request.replica) return Status.WrongReceiver;
    // What it shows before it has applied that version says nothing about it.
    if (group.appliedIndex < request.version - 1) return Status.Busy;
    op.layer = request.layer;
    op.firstBlock = request.firstBlock;
    op.blocks = request.blocks;
    op.snapSeq = request.snapSeq;
    op.lockEpoch = 0;
    op.own = true;
    op.statesOnly = false;
    op.arenaOffset = this.world.slots.take(request.blocks * BLOCK_SIZE);
    return op.arenaOffset < 0 ? Status.Busy : group.requests.read(op);
  }

  // cold: while a trace is taken.
  private trace(kind: TraceKind, session: number, pg: number, number: number): number {
    const { trace } = this.world;
    if (session === 0 || !trace.isSampled(session, pg, number)) return 0;
    const handle = trace.open(TraceSide.Leader, kind, session, pg, number);
    trace.stamp(handle, Stage.Received);
    const group = this.pg.groups.get(pg);
    if (group !== undefined) trace.note(handle, TraceColumn.Replica, group.replica);
    return handle;
  }

  // cold: while a trace is taken.
  private traceReplied(handle: number, status: Status): void {
    this.world.trace.stamp(handle, Stage.Replied);
    this.world.trace.note(handle, TraceColumn.Status, status);
  }

  private fillReadReply(reply: ReadReply, op: ClientRead): void {
    reply.status = op.status;
    reply.pg = op.pg;
    reply.generation = this.map.generation;
    reply.epoch = this.map.epoch;
    reply.leaderOsd = 0;
    reply.leaderShard = 0;
    reply.blocksCount = 0;
    if (op.status !== Status.Ok) return;
    for (let at = 0; at < op.blocks; at++) {
      const version = op.versions[at]!;
      const high = Math.floor(version / 4_294_967_296);
      reply.blocks[at * 3] = op.crcs[at]!;
      reply.blocks[at * 3 + 1] = version - high * 4_294_967_296;
      reply.blocks[at * 3 + 2] = (high | (op.states[at]! << 30)) >>> 0;
    }
    reply.blocksCount = op.blocks * 3;
  }

  /** The blocks of state data, in order, neighbours in one copy. */
  private copyData(op: ClientRead, to: number): void {
    const bytes = this.world.arena.bytes;
    let target = to;
    let at = 0;
    while (at < op.blocks) {
      if (op.states[at]! !== BlockState.Data) {
        at += 1;
        continue;
      }
      const first = at;
      while (at < op.blocks && op.states[at]! === BlockState.Data) at += 1;
      const from = op.arenaOffset + first * BLOCK_SIZE;
      bytes.copyWithin(target, from, op.arenaOffset + at * BLOCK_SIZE);
      target += (at - first) * BLOCK_SIZE;
    }
  }
}

/** A client's write on its way through this shard. */
export class ClientWrite extends WriteRequestOp implements WritableWaiter {
  connection: Connection | null = null;
  requestId = 0;
  pg = 0;
  /** The map that the client had. */
  generation = 0;
  epoch = 0;
  poolNext: ClientWrite | null = null;
  writableNext: WritableWaiter | null = null;
  private readonly requests: ClientRequests;

  constructor(requests: ClientRequests) {
    super();
    this.requests = requests;
  }

  override onDone(): void {
    this.requests.replyWrite(this);
  }

  onWritable(_connection: Connection): void {
    this.requests.replyWrite(this);
  }
}

/** A client's read on its way through this shard. */
export class ClientRead extends ReadRequestOp implements WritableWaiter {
  connection: Connection | null = null;
  requestId = 0;
  method: Method = Method.Read;
  pg = 0;
  /** The map that the client had. */
  generation = 0;
  epoch = 0;
  healTries = 0;
  poolNext: ClientRead | null = null;
  writableNext: WritableWaiter | null = null;
  private readonly requests: ClientRequests;

  constructor(requests: ClientRequests) {
    super();
    this.requests = requests;
  }

  override onAnswer(): void {
    this.requests.replyRead(this);
  }

  onWritable(_connection: Connection): void {
    this.requests.replyRead(this);
  }
}

// cold: damage is rare.
function damagedBlockOf(op: ClientRead, at: number): DamagedBlock {
  return {
    group: op.group!,
    layer: op.layer,
    block: op.firstBlock + at,
    snapSeq: op.snapSeq,
    version: op.versions[at]!,
  };
}

/** Whether the request came to the wrong replica, or by a map that leads there. */
function isOfPlace(status: Status): boolean {
  return (
    status === Status.NotLeader || status === Status.MapStale || status === Status.WrongReceiver
  );
}

function isWellFormed(request: WriteRequest, payloadSize: number): boolean {
  if (request.below > request.number) return false;
  switch (request.type) {
    case EntryType.Write:
      if (request.blocks < 1 || request.blocks > PAYLOAD_BLOCKS_MAX) return false;
      if (request.crcsCount !== request.blocks) return false;
      if (request.ifVersion !== 0 && request.blocks !== 1) return false;
      return payloadSize === request.blocks * BLOCK_SIZE;
    case EntryType.Zero:
      return request.blocks >= 1 && payloadSize === 0 && request.ifVersion === 0;
    case EntryType.LayerGone:
      return payloadSize === 0 && request.ifVersion === 0;
    default:
      return false;
  }
}

function fillEntry(entry: Entry, request: WriteRequest): void {
  entry.type = request.type;
  entry.session = request.session;
  entry.number = request.number;
  entry.below = request.below;
  entry.layer = request.layer;
  entry.firstBlock = request.firstBlock;
  entry.blocks = request.blocks;
  entry.snapSeq = request.snapSeq;
  entry.lockEpoch = request.lockEpoch;
  entry.ifVersion = request.ifVersion;
  for (let at = 0; at < request.crcsCount; at++) entry.crcs[at] = request.crcs[at]!;
}
