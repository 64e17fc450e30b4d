/**
 * For tests of the client: a mon and osds by script, that keep their promises in the simplest way
 * and answer what a test wants to see answered. Nothing about osds is shown with it: that a write
 * counts once, and that parts of blocks do not undo each other, is shown on whole clusters
 * (`core/testing/exactly-once.sim.test.ts`, `cmd/late-writes-apply-once.e2e.test.ts`).
 *
 * The groups are one shared state (what a majority would agree on); osds only decide who may speak
 * for it. A write commits some time after it arrived, even when its osd was deposed meanwhile, as
 * an entry in a log does.
 */
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { FastblockError } from "../base/errors.ts";
import type {
  Epoch,
  Generation,
  OsdId,
  PgId,
  PoolId,
  ReplicaId,
  ShardIndex,
  Term,
} from "../base/ids.ts";
import { pgIdOf } from "../base/ids.ts";
import { Status } from "../base/status.ts";
import { BLOCK_SIZE, TWO_32 } from "../base/units.ts";
import {
  ImageCloseReplySchema,
  ImageCloseRequestSchema,
  ImageChangedSchema,
  type ImageHeader,
  ImageHeaderSchema,
  ImageListReplySchema,
  ImageListRequestSchema,
  ImageOpenMode,
  ImageOpenReplySchema,
  ImageOpenRequestSchema,
  ImageRefreshReplySchema,
  ImageRefreshRequestSchema,
  MapGetReplySchema,
  MapGetRequestSchema,
  MapSubscribeReplySchema,
  MapSubscribeRequestSchema,
  MapUpdateSchema,
  SessionAttachReplySchema,
  SessionAttachRequestSchema,
  SessionGrantSchema,
} from "../../proto/gen/control_pb.ts";
import {
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
import { ClusterMap, MapTeller, type OsdInfo, type PgInfo } from "../cluster/cluster.ts";
import { EntryType } from "../log/log.ts";
import type { Simulation, SimWorld } from "../reactor/reactor.ts";
import { DrainOrder } from "../reactor/world.ts";
import {
  type Connection,
  type ConnectionHandler,
  ControlService,
  type Frame,
  Method,
  Role,
  RpcEndpoint,
  SHARD_NONE,
} from "../rpc/rpc.ts";

export const CLUSTER_ID = "0f0e0d0c-0b0a-0908-0706-050403020100";
export const PSK: Uint8Array = new Uint8Array(32).fill(9);
const POOL = 1 as PoolId;
const DATA_PORT = 7000;
export const MON = { host: "10.0.0.100", port: 6000 };

interface Block {
  readonly data: Uint8Array | null;
  readonly version: number;
  readonly crc: number;
}

/** What a group knows of one session: strictly what was applied. */
class Window {
  base = 0;
  readonly applied: Set<number> = new Set();

  mark(number: number, below: number): void {
    if (below > this.base) {
      this.base = below;
      for (const one of this.applied) if (one < below) this.applied.delete(one);
    }
    this.applied.add(number);
  }

  isApplied(number: number): boolean {
    return number < this.base || this.applied.has(number);
  }
}

/** The agreed state of one group. */
export class FakeGroup {
  readonly id: PgId;
  leader: number | null = null;
  index = 0;
  readonly blocks: Map<string, Block> = new Map();
  readonly windows: Map<number, Window> = new Map();
  expiredBelow = 0;
  lockEpoch = 0;
  /** Applied changes: session and number, for checks of "exactly once". */
  readonly history: { session: number; number: number; block: number }[] = [];
  /** Most numbers of one session that were ever proposed and not applied. */
  openMax = 0;
  readonly proposed: Set<string> = new Set();
  /** Blocks with changes that are not committed: how many. */
  readonly pending: Map<string, number> = new Map();

  constructor(id: PgId) {
    this.id = id;
  }
}

export class FakeCluster {
  readonly simulation: Simulation;
  readonly map: ClusterMap = new ClusterMap();
  readonly teller: MapTeller = new MapTeller(this.map);
  readonly groups: Map<PgId, FakeGroup> = new Map();
  readonly osds: FakeOsd[] = [];
  readonly mon: FakeMon;
  /** µs from the arrival of a write until it is committed. */
  commitUs = 300;
  /** The next writes of these numbers commit after this long, and their reply is lost. */
  readonly late: Map<number, number> = new Map();
  /** The next writes of these numbers arrive after this long, and nobody hears an answer. */
  readonly kept: Map<number, number> = new Map();
  objectBlocks = 16;
  /** Osds tell a client what its map lacks as they refuse it: as it is, garbled, or not at all. */
  telling: "whole" | "garbled" | "none" = "whole";

  constructor(simulation: Simulation, options: { osds?: number; pgs?: number } = {}) {
    this.simulation = simulation;
    const osdCount = options.osds ?? 3;
    const pgCount = options.pgs ?? 4;
    for (let osd = 0; osd < osdCount; osd++) this.osds.push(new FakeOsd(this, osd));
    this.mon = new FakeMon(this);
    const replicas = this.osds.slice(0, 3).map((one) => one.id);
    const pgs: PgInfo[] = [];
    for (let at = 0; at < pgCount; at++) {
      const id = pgIdOf(POOL, at);
      const order = replicas.map((_, turn) => replicas[(at + turn) % replicas.length]!);
      pgs.push(pgRow(id, order));
      const group = new FakeGroup(id);
      group.leader = order[0]!;
      this.groups.set(id, group);
    }
    const update = this.map.next({
      osds: this.osds.map((one) => one.row()),
      pools: [
        {
          id: POOL,
          name: "demo",
          size: 3,
          pgCount,
          objectBlocks: this.objectBlocks,
          failureDomain: "osd",
          generation: 1 as Generation,
          changeEpoch: 0 as Epoch,
        },
      ],
      pgs,
    });
    this.map.apply({ ...update, generation: 1, full: true });
    this.mon.start();
    for (const osd of this.osds) osd.start();
  }

  group(index: number): FakeGroup {
    return this.groups.get(pgIdOf(POOL, index))!;
  }

  /** The osd stops leading; another one leads its groups after `delayUs`. */
  depose(osd: number, delayUs: number): void {
    for (const group of this.groups.values()) {
      if (group.leader !== osd) continue;
      group.leader = null;
      this.simulation.after(delayUs, () => {
        if (group.leader !== null) return;
        const pg = this.map.pgs.get(group.id)!;
        for (const replica of pg.replicas) {
          if (replica.osd !== osd && this.osds[replica.osd]!.isServing) group.leader = replica.osd;
        }
      });
    }
  }

  /** Change the map and push it. */
  change(change: Parameters<ClusterMap["next"]>[0]): void {
    const delta = this.map.next(change);
    this.map.apply(delta);
    this.mon.push(delta);
  }
}

function pgRow(id: PgId, osds: readonly number[]): PgInfo {
  return {
    id,
    lastChangeEpoch: 0 as Epoch,
    changeEpoch: 0 as Epoch,
    creating: false,
    replicas: osds.map((osd) => ({
      replicaId: (osd + 1) as ReplicaId,
      osd: osd as OsdId,
      storeUuid: uuidOf(osd),
      shard: 0 as ShardIndex,
      leaving: false,
      witness: false,
    })),
    leader: 0 as ReplicaId,
    leaderTerm: 0 as Term,
    configuration: undefined,
  };
}

export function uuidOf(osd: number): string {
  return `aaaaaaaa-0000-0000-0000-${String(osd).padStart(12, "0")}`;
}

/** One osd with one shard. */
export class FakeOsd implements ConnectionHandler {
  readonly id: number;
  readonly cluster: FakeCluster;
  world: SimWorld;
  /** What it answers everything with, when set. */
  answer: Status | null = null;
  /** Flip a bit of the data of the next reads. */
  corruptReads = 0;
  /** Forget grants: the next request of each session is refused. */
  readonly grants: Map<Connection, Map<number, { layer: number; sizeBytes: number }>> = new Map();
  /** Grants of sessions with lower ids are refused. */
  refuseGrantsBelow = 0;
  writes = 0;
  reads = 0;
  private tasks: (() => void)[] = [];
  private control: ControlService;
  private readonly writeRequest = new WriteRequest();
  private readonly readRequest = new ReadRequest();

  constructor(cluster: FakeCluster, id: number) {
    this.cluster = cluster;
    this.id = id;
    this.world = this.newWorld();
    this.control = new ControlService(this.world);
  }

  get address(): string {
    return `10.0.0.${this.id + 1}`;
  }

  get isServing(): boolean {
    return this.world.alive;
  }

  row(): OsdInfo {
    return {
      id: this.id as OsdId,
      storeUuid: uuidOf(this.id),
      host: `host-${this.id}`,
      up: true,
      in: true,
      weight: 1,
      addresses: [{ host: this.address, port: DATA_PORT }],
      changeEpoch: 0 as Epoch,
    };
  }

  private newWorld(): SimWorld {
    return this.cluster.simulation.createWorld(`osd.${this.id}`, this.address);
  }

  /** Begin, or begin again after a crash. */
  start(): void {
    if (!this.world.alive) this.world = this.newWorld();
    const { world } = this;
    this.tasks = [];
    world.turns.addDrain(DrainOrder.Apply, this);
    this.grants.clear();
    this.control = new ControlService(world);
    this.control.serve(
      Method.SessionAttach,
      SessionAttachRequestSchema,
      SessionAttachReplySchema,
      (message, connection) => this.attach(message.grant, connection),
    );
    const identity = {
      clusterId: CLUSTER_ID,
      role: Role.Osd,
      id: this.id,
      shard: 0,
      name: `osd.${this.id}`,
      storeUuid: uuidOf(this.id),
    };
    const endpoint = new RpcEndpoint(world, identity, PSK);
    endpoint.listen({ kind: "tcp", host: this.address, port: DATA_PORT }, () => this);
    world.start();
  }

  private attach(bytes: Uint8Array, connection: Connection) {
    const grant = fromBinary(SessionGrantSchema, bytes);
    const isRefused = Number(grant.session) < this.refuseGrantsBelow;
    const status = isRefused ? Status.Denied : Status.Ok;
    let grants = this.grants.get(connection);
    if (grants === undefined) this.grants.set(connection, (grants = new Map()));
    grants.set(Number(grant.session), {
      layer: Number(grant.layer),
      sizeBytes: Number(grant.sizeBytes),
    });
    return create(SessionAttachReplySchema, { status });
  }

  onOpen(): void {}
  onWritable(): void {}

  onClose(connection: Connection): void {
    this.grants.delete(connection);
  }

  onOneway(): void {}

  onRequest(connection: Connection, frame: Frame): void {
    if (frame.method === Method.Write) this.onWrite(connection, frame);
    else if (frame.method === Method.Read) this.onRead(connection, frame);
    else this.control.onRequest(connection, frame);
  }

  private judge(
    connection: Connection,
    request: { pg: number; replica: number; epoch: number; session: number; lockEpoch: number },
    endBlock: number,
  ): Status {
    if (this.answer !== null) return this.answer;
    const group = this.cluster.groups.get(request.pg as PgId);
    const pg = this.cluster.map.pgs.get(request.pg as PgId);
    const replica = pg?.replicas.find((one) => one.osd === this.id);
    if (group === undefined || pg === undefined || replica === undefined) {
      return Status.WrongReceiver;
    }
    if (replica.replicaId !== request.replica) return Status.WrongReceiver;
    if (request.epoch < pg.lastChangeEpoch) return Status.MapStale;
    const grant = this.grants.get(connection)?.get(request.session);
    if (grant === undefined) return Status.Denied;
    if (endBlock * BLOCK_SIZE > grant.sizeBytes) return Status.Invalid;
    if (group.leader !== this.id) return Status.NotLeader;
    if (request.lockEpoch < group.lockEpoch) return Status.Fenced;
    return Status.Ok;
  }

  private onWrite(connection: Connection, frame: Frame): void {
    const request = this.writeRequest;
    const { view, bytes } = this.world.arena;
    if (!decodeWriteRequest(request, view, frame.headerOffset, frame.headerSize)) {
      throw new Error("FakeOsd: malformed write");
    }
    this.writes++;
    const id = frame.requestId;
    const generation = connection.generation;
    const { kept } = this.cluster;
    if (kept.has(request.number)) {
      const group = this.cluster.groups.get(request.pg as PgId)!;
      const entry = entryOf(request, bytes, frame);
      this.cluster.simulation.after(kept.get(request.number)!, () => arriveLate(group, entry));
      kept.delete(request.number);
      return;
    }
    let status = this.judge(connection, request, request.firstBlock + request.blocks);
    if (status === Status.Ok) status = this.admit(request);
    this.tellMap(connection, status, request);
    if (status !== Status.Ok) {
      this.replyWrite(connection, generation, id, request.pg, status, 0);
      return;
    }
    const group = this.cluster.groups.get(request.pg as PgId)!;
    const entry = entryOf(request, bytes, frame);
    for (let at = 0; at < request.crcsCount; at++) {
      const block = entry.data.subarray(at * BLOCK_SIZE, (at + 1) * BLOCK_SIZE);
      if (this.world.checksum.crc32(block, 0) !== entry.crcs[at]) {
        throw new Error("FakeOsd: a write came with a wrong checksum");
      }
    }
    const key = `${entry.session}.${entry.number}`;
    group.proposed.add(key);
    count(group, entry, 1);
    group.openMax = Math.max(group.openMax, group.proposed.size);
    const late = this.cluster.late.get(request.number);
    this.cluster.late.delete(request.number);
    this.cluster.simulation.after(late ?? this.cluster.commitUs, () => {
      group.proposed.delete(key);
      count(group, entry, -1);
      const version = apply(group, entry);
      if (late !== undefined || !this.world.alive) return;
      // As a leader does: it answers in a turn of its own, and one that is deposed says only that.
      const wanted = group.leader === this.id ? Status.Ok : Status.NotLeader;
      this.later(() => this.replyWrite(connection, generation, id, group.id, wanted, version));
    });
  }

  /** Window and condition, as a leader judges before the proposal. */
  private admit(request: WriteRequest): Status {
    const group = this.cluster.groups.get(request.pg as PgId)!;
    if (request.session < group.expiredBelow) return Status.SessionExpired;
    const window = group.windows.get(request.session);
    if (request.below > request.number) throw new Error("FakeOsd: below passes the number");
    if (window?.isApplied(request.number) === true) return Status.Ok;
    // All before `below` is answered: the window reaches from there, also where nothing of it was
    // applied (refused writes, writes whose sender gave up).
    if (request.number >= Math.max(window?.base ?? 0, request.below) + 256) {
      throw new Error(`FakeOsd: number ${request.number} past the window`);
    }
    if (request.ifVersion > 0) {
      const block = group.blocks.get(`${request.layer}:${request.firstBlock}`);
      if ((block?.version ?? 0) + 1 !== request.ifVersion) return Status.Conflict;
      // What is proposed and not committed counts too.
      if (group.pending.has(`${request.layer}:${request.firstBlock}`)) return Status.Conflict;
    }
    return Status.Ok;
  }

  /** Act in a turn of this osd: it may be paused until then. */
  private later(task: () => void): void {
    this.tasks.push(task);
    this.world.turns.again();
  }

  private replyWrite(
    connection: Connection,
    generation: number,
    id: number,
    pg: number,
    status: Status,
    version: number,
  ): void {
    if (!connection.isOpen || connection.generation !== generation) return;
    const reply = new WriteReply();
    reply.status = status;
    reply.pg = pg;
    reply.version = version;
    if (status === Status.NotLeader) this.nameLeader(reply, pg);
    const at = connection.beginReply(id, Method.Write, sizeOfWriteReply(reply), 0);
    if (at < 0) throw new Error("FakeOsd: no space for a reply");
    encodeWriteReply(reply, this.world.arena.view, at);
    connection.finish();
  }

  private tellMap(
    connection: Connection,
    status: Status,
    request: { readonly generation: number; readonly epoch: number },
  ): void {
    const { teller, telling } = this.cluster;
    if (telling === "none") return;
    if (status !== Status.MapStale && status !== Status.WrongReceiver) return;
    const delta = teller.lackOf(request.generation, request.epoch);
    if (delta === undefined) return;
    const bytes = toBinary(MapUpdateSchema, create(MapUpdateSchema, delta));
    for (let at = 0; telling === "garbled" && at < bytes.length; at += 3) bytes[at]! ^= 0x55;
    const at = connection.beginOneway(Method.MapUpdate, bytes.length, 0);
    if (at < 0) throw new Error("FakeOsd: no space for a map");
    this.world.arena.bytes.set(bytes, at);
    connection.finish();
  }

  private nameLeader(reply: WriteReply | ReadReply, pg: number): void {
    const leader = this.cluster.groups.get(pg as PgId)?.leader ?? null;
    reply.leaderOsd = leader === null ? 0 : leader + 1;
    reply.leaderShard = 0;
  }

  private onRead(connection: Connection, frame: Frame): void {
    const request = this.readRequest;
    if (!decodeReadRequest(request, this.world.arena.view, frame.headerOffset, frame.headerSize)) {
      throw new Error("FakeOsd: malformed read");
    }
    this.reads++;
    const reply = new ReadReply();
    let status = this.judge(connection, request, request.firstBlock + request.blocks);
    this.tellMap(connection, status, request);
    if ((request.flags & 1) !== 0 && status === Status.NotLeader) status = Status.Ok;
    reply.status = status;
    reply.pg = request.pg;
    if (status === Status.NotLeader) this.nameLeader(reply, request.pg);
    const data: Uint8Array[] = [];
    if (status === Status.Ok) this.fill(reply, request, data);
    const payload = (request.flags & 2) !== 0 ? 0 : data.length * BLOCK_SIZE;
    const size = sizeOfReadReply(reply);
    const at = connection.beginReply(frame.requestId, Method.Read, size, payload);
    if (at < 0) throw new Error("FakeOsd: no space for a reply");
    encodeReadReply(reply, this.world.arena.view, at);
    const to = connection.payloadOffset;
    if (payload > 0) {
      data.forEach((block, index) => this.world.arena.bytes.set(block, to + index * BLOCK_SIZE));
      if (this.corruptReads > 0) {
        this.corruptReads--;
        this.world.arena.bytes[to + 5]! ^= 1;
      }
    }
    connection.finish();
  }

  private fill(reply: ReadReply, request: ReadRequest, data: Uint8Array[]): void {
    const group = this.cluster.groups.get(request.pg as PgId)!;
    reply.blocksCount = request.blocks * 3;
    for (let at = 0; at < request.blocks; at++) {
      const block = group.blocks.get(`${request.layer}:${request.firstBlock + at}`);
      const state = block?.data == null ? 0 : 1;
      const version = block?.version ?? 0;
      reply.blocks[at * 3] = block?.crc ?? 0;
      reply.blocks[at * 3 + 1] = version >>> 0;
      reply.blocks[at * 3 + 2] = (Math.floor(version / TWO_32) | (state << 30)) >>> 0;
      if (block?.data != null) data.push(block.data);
    }
  }

  /** Run what `later` kept; the drain of this osd's world. */
  drain(): void {
    const tasks = this.tasks;
    this.tasks = [];
    for (const task of tasks) task();
  }
}

interface FakeEntry {
  readonly session: number;
  readonly number: number;
  readonly below: number;
  readonly lockEpoch: number;
  readonly layer: number;
  readonly firstBlock: number;
  readonly blocks: number;
  readonly isZero: boolean;
  readonly crcs: Uint32Array;
  readonly data: Uint8Array;
}

function entryOf(request: WriteRequest, bytes: Uint8Array, frame: Frame): FakeEntry {
  const from = frame.payloadOffset;
  return {
    session: request.session,
    number: request.number,
    below: request.below,
    lockEpoch: request.lockEpoch,
    layer: request.layer,
    firstBlock: request.firstBlock,
    blocks: request.blocks,
    isZero: request.type === EntryType.Zero,
    crcs: request.crcs.slice(0, request.crcsCount),
    data: bytes.slice(from, from + frame.payloadSize),
  };
}

/** What the network kept back comes to whoever leads: judged as it is then. */
function arriveLate(group: FakeGroup, entry: FakeEntry): void {
  if (entry.session < group.expiredBelow || entry.lockEpoch < group.lockEpoch) return;
  apply(group, entry);
}

function count(group: FakeGroup, entry: FakeEntry, change: number): void {
  for (let at = 0; at < entry.blocks; at++) {
    const key = `${entry.layer}:${entry.firstBlock + at}`;
    const left = (group.pending.get(key) ?? 0) + change;
    if (left === 0) group.pending.delete(key);
    else group.pending.set(key, left);
  }
}

function apply(group: FakeGroup, entry: FakeEntry): number {
  group.index++;
  let window = group.windows.get(entry.session);
  if (window === undefined) group.windows.set(entry.session, (window = new Window()));
  if (window.isApplied(entry.number)) return group.index;
  window.mark(entry.number, entry.below);
  group.history.push({ session: entry.session, number: entry.number, block: entry.firstBlock });
  for (let at = 0; at < entry.blocks; at++) {
    const key = `${entry.layer}:${entry.firstBlock + at}`;
    const data = entry.isZero ? null : entry.data.subarray(at * BLOCK_SIZE, (at + 1) * BLOCK_SIZE);
    group.blocks.set(key, { data, version: group.index, crc: entry.crcs[at] ?? 0 });
  }
  return group.index;
}

interface FakeImage {
  header: ImageHeader;
}

/** The monitor: images, sessions, map pushes. */
export class FakeMon {
  readonly images: Map<string, FakeImage> = new Map();
  /** Sessions that a refresh renews. */
  /** Nothing of the catalogue can be changed. */
  isFull = false;
  readonly sessions: Map<number, { image: string; serial: number; holder: Connection }> = new Map();
  world: SimWorld;
  opens = 0;
  refreshes = 0;
  private readonly cluster: FakeCluster;
  private readonly subscribers = new Set<Connection>();
  private control: ControlService;
  private nextSession = 100;
  private nextImage = 1;

  constructor(cluster: FakeCluster) {
    this.cluster = cluster;
    this.world = this.newWorld();
    this.control = new ControlService(this.world);
  }

  private newWorld(): SimWorld {
    return this.cluster.simulation.createWorld("mon.a", MON.host);
  }

  createImage(name: string, sizeBytes: number): void {
    const id = this.nextImage++;
    const header = create(ImageHeaderSchema, {
      image: BigInt(id),
      name,
      pool: POOL,
      family: BigInt(id),
      layer: BigInt(1000 + id),
      sizeBytes: BigInt(sizeBytes),
      objectBlocks: this.cluster.objectBlocks,
      snapSeq: 0,
      lockEpoch: 0,
    });
    this.images.set(`demo/${name}`, { header });
  }

  start(): void {
    if (!this.world.alive) this.world = this.newWorld();
    this.subscribers.clear();
    this.control = new ControlService(this.world, {
      onClose: (connection) => void this.subscribers.delete(connection),
    });
    this.serve(this.control);
    const identity = {
      clusterId: CLUSTER_ID,
      role: Role.Mon,
      id: 0,
      shard: SHARD_NONE,
      name: "mon.a",
    };
    const endpoint = new RpcEndpoint(this.world, identity, PSK, { control: true });
    endpoint.listen({ kind: "tcp", host: MON.host, port: MON.port }, () => this.control);
    this.world.start();
  }

  private serve(control: ControlService): void {
    const { map } = this.cluster;
    const since = (message: { generation: number; epoch: number }) => {
      const delta = map.deltaFrom(message.generation, message.epoch);
      return delta === undefined ? {} : { update: create(MapUpdateSchema, delta) };
    };
    control.serve(
      Method.MapSubscribe,
      MapSubscribeRequestSchema,
      MapSubscribeReplySchema,
      (message, connection) => {
        this.subscribers.add(connection);
        return create(MapSubscribeReplySchema, since(message));
      },
    );
    control.serve(Method.MapGet, MapGetRequestSchema, MapGetReplySchema, (message) =>
      create(MapGetReplySchema, since(message)),
    );
    control.serve(Method.ImageOpen, ImageOpenRequestSchema, ImageOpenReplySchema, (message, at) => {
      const path = `${message.pool}/${message.image}`;
      return create(ImageOpenReplySchema, this.open(path, message.mode, at));
    });
    control.serve(
      Method.ImageRefresh,
      ImageRefreshRequestSchema,
      ImageRefreshReplySchema,
      (message, at) => {
        this.refreshes++;
        const id = Number(message.session);
        const session = this.sessions.get(id);
        if (session === undefined) throw new FastblockError("FB3007", "refreshing: over");
        session.holder = at;
        return create(ImageRefreshReplySchema, this.signed(id));
      },
    );
    control.serve(Method.ImageClose, ImageCloseRequestSchema, ImageCloseReplySchema, (message) => {
      if (this.isFull) throw new FastblockError("FB4010", "closing: the disk is full");
      this.sessions.delete(Number(message.session));
      return create(ImageCloseReplySchema);
    });
    control.serve(Method.ImageList, ImageListRequestSchema, ImageListReplySchema, () =>
      create(ImageListReplySchema, {
        images: [...this.images.values()].map((one) => ({ pool: "demo", header: one.header })),
      }),
    );
  }

  private open(path: string, mode: ImageOpenMode, holder: Connection) {
    this.opens++;
    const image = this.images.get(path);
    if (image === undefined) throw new FastblockError("FB3001", `opening ${path}: it is missing`);
    if (mode === ImageOpenMode.EXCLUSIVE) {
      image.header = { ...image.header, lockEpoch: image.header.lockEpoch + 1 };
      for (const [id, session] of this.sessions)
        if (session.image === path) this.sessions.delete(id);
      // A leader that sees a higher epoch commits a fence; here all of them have.
      for (const group of this.cluster.groups.values()) group.lockEpoch = image.header.lockEpoch;
    }
    const id = this.nextSession++;
    this.sessions.set(id, { image: path, serial: 0, holder });
    return this.signed(id);
  }

  private signed(id: number) {
    const session = this.sessions.get(id)!;
    const { header } = this.images.get(session.image)!;
    session.serial++;
    const grant = create(SessionGrantSchema, {
      session: BigInt(id),
      image: header.image,
      layer: header.layer,
      sizeBytes: header.sizeBytes,
      rights: 3,
      lockEpoch: header.lockEpoch,
      snapSeq: 0,
      pool: POOL,
      serial: session.serial,
    });
    return { header, grant: toBinary(SessionGrantSchema, grant), mac: new Uint8Array(32) };
  }

  /** Change an image's size and tell its holders; nobody is fenced, and nothing zeroed. */
  resize(path: string, sizeBytes: number): void {
    const image = this.images.get(path)!;
    image.header = { ...image.header, sizeBytes: BigInt(sizeBytes) };
    this.notify(path, false);
  }

  /** Give an image another name; `told`: its holders learn of it. */
  rename(path: string, name: string, told: boolean): void {
    const image = this.images.get(path)!;
    image.header = { ...image.header, name };
    this.images.delete(path);
    this.images.set(`demo/${name}`, image);
    for (const session of this.sessions.values()) {
      if (session.image === path) session.image = `demo/${name}`;
    }
    if (told) this.notify(`demo/${name}`, false);
  }

  /** Remove an image and end its sessions; the groups go on taking what comes under them. */
  remove(path: string): void {
    this.notify(path, true);
    this.images.delete(path);
    for (const [id, session] of this.sessions) {
      if (session.image === path) this.sessions.delete(id);
    }
  }

  private notify(path: string, removed: boolean): void {
    for (const [id, session] of this.sessions) {
      if (session.image !== path) continue;
      const message = create(ImageChangedSchema, { session: BigInt(id), removed });
      this.control.push(session.holder, Method.ImageChanged, ImageChangedSchema, message);
    }
    this.world.turns.again();
  }

  push(delta: Parameters<ClusterMap["apply"]>[0]): void {
    for (const subscriber of this.subscribers) {
      this.control.push(
        subscriber,
        Method.MapUpdate,
        MapUpdateSchema,
        create(MapUpdateSchema, delta),
      );
    }
    this.world.turns.again();
  }
}
