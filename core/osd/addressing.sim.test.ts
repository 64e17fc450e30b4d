/**
 * What was meant for another replica, or was asked by an old map: one real osd, which others speak to
 * frame by frame. It leads a group of its own, and follows in one whose other replicas are the test's.
 */
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { describe, expect, test } from "bun:test";
import { drainMicrotasks } from "bun:jsc";
import { assert } from "../base/assert.ts";
import type { PgId } from "../base/ids.ts";
import { Status } from "../base/status.ts";
import { BLOCK_SIZE } from "../base/units.ts";
import { uuidBytes, uuidText } from "../base/uuid.ts";
import { ApplyResult, ClusterMap, ImageRights, signGrant } from "../cluster/cluster.ts";
import { EntryType } from "../log/log.ts";
import { formatStore, type Group } from "../pg/pg.ts";
import { MessageType, Role as RaftRole } from "../raft/raft.ts";
import { SystemChecksum } from "../reactor/bun-system.ts";
import { Simulation, type SimWorld } from "../reactor/reactor.ts";
import { NotingHandler, NotingOp } from "../rpc/bun-test-ends.ts";
import {
  type Connection,
  type Frame,
  Method,
  Role,
  RpcEndpoint,
  type RpcIdentity,
  SHARD_NONE,
} from "../rpc/rpc.ts";
import {
  MapGetReplySchema,
  MapGetRequestSchema,
  type MapUpdate,
  MapUpdateSchema,
  SessionAttachReplySchema,
  SessionAttachRequestSchema,
  SessionGrantSchema,
} from "../../proto/gen/control_pb.ts";
import {
  Append,
  BlockFetchRequest,
  Control,
  decodeControl,
  decodeReadReply,
  decodeWriteReply,
  encodeAppend,
  encodeBlockFetchRequest,
  encodeControl,
  encodeReadRequest,
  encodeWriteRequest,
  ReadReply,
  ReadRequest,
  sizeOfAppend,
  sizeOfBlockFetchRequest,
  sizeOfControl,
  sizeOfReadRequest,
  sizeOfWriteRequest,
  WriteReply,
  WriteRequest,
} from "../../proto/gen/hot.ts";
import { Admission, OsdShard } from "./osd.ts";

const CLUSTER_ID = "11111111-2222-4333-8444-555555555555";
const STORES = ["", "aaaaaaaa-bbbb-4ccc-8ddd-000000000001", "aaaaaaaa-bbbb-4ccc-8ddd-000000000002"];
const KEY = new Uint8Array(32).fill(7);
const MIB = 1_048_576;
const PORT = 7500;
const LIMIT_US = 20_000_000;
/** Longer than any promise and any pause of an election. */
const QUIET_US = 3_000_000;

/** The map: its identity, the groups, and the osd's replica of each. */
const GENERATION = 3;
const EPOCH = 9;
const CHANGED = 5;
const ALONE = 65_536;
const SHARED = 65_537;
const ELSEWHERE = 65_538;
/** The osd is its witness. */
const WITNESSED = 65_539;
const NOWHERE = 65_600;
const OURS = 11;
const OURS_SHARED = 21;
const OURS_WITNESS = 43;
const SESSION = 77;
const LAYER = 5;

class PeerHandler extends NotingHandler {
  /** Raft messages that the osd sent to this peer. */
  readonly heard: Control[] = [];
  private readonly peerWorld: SimWorld;

  constructor(world: SimWorld) {
    super(world);
    this.peerWorld = world;
  }

  override onOneway(_connection?: Connection, frame?: Frame): void {
    assert(frame !== undefined, "PeerHandler: no frame");
    if (frame.method !== Method.RaftControl) return;
    const control = new Control();
    const { view } = this.peerWorld.arena;
    assert(
      decodeControl(control, view, frame.headerOffset, frame.headerSize),
      "PeerHandler: bytes",
    );
    this.heard.push(control);
  }
}

/** A client, and what it is told of the map, with the replies that it had before. */
class ClientHandler extends NotingHandler {
  readonly maps: MapUpdate[] = [];
  private readonly clientWorld: SimWorld;

  constructor(world: SimWorld) {
    super(world);
    this.clientWorld = world;
  }

  override onOneway(_connection?: Connection, frame?: Frame): void {
    assert(frame?.method === Method.MapUpdate, "ClientHandler: not a map");
    const { headerOffset, headerSize } = frame;
    const bytes = this.clientWorld.arena.bytes.slice(headerOffset, headerOffset + headerSize);
    this.maps.push(fromBinary(MapUpdateSchema, bytes));
  }
}

/** The osd, a client of it, and the osd that it shares a group with. */
class Scene {
  readonly simulation = new Simulation(7, {
    drainMicrotasks,
    checksum: new SystemChecksum(),
    arenaBytes: 96 * MIB,
  });
  readonly shard: OsdShard;
  client: Connection;
  clientSide: ClientHandler;
  readonly peer: Connection;
  readonly peerSide: PeerHandler;
  private readonly clientWorld: SimWorld;
  private readonly peerWorld: SimWorld;
  private storeUuid = "";
  private serves = false;
  private writes = 0;
  /** How often the osd was to fetch a map. */
  mapsWanted = 0;

  constructor() {
    this.wait(this.format());
    const world = this.simulation.createWorld("osd.0", "10.0.0.1");
    this.shard = this.newShard(world);
    world.start();
    this.wait(this.open(world));
    this.until("it serves", () => this.serves);
    this.clientWorld = this.simulation.createWorld("client", "10.0.0.9");
    this.clientWorld.start();
    this.peerWorld = this.simulation.createWorld("osd.1", "10.0.0.2");
    this.peerWorld.start();
    this.peerSide = new PeerHandler(this.peerWorld);
    this.clientSide = new ClientHandler(this.clientWorld);
    this.client = this.dialAsClient(this.clientSide);
    this.peer = this.dialAsPeer();
    this.until("the group of its own serves", () => this.group(ALONE).serving);
    this.attach();
    // Promises of the start are over, and the osd has asked for votes in vain.
    this.pass(QUIET_US);
  }

  group(pg: number): Group {
    const group = this.shard.pg.groups.get(pg);
    assert(group !== undefined, "Scene.group: none");
    return group;
  }

  pass(us: number): void {
    this.simulation.run(this.simulation.nowUs + us);
  }

  until(what: string, holds: () => boolean): void {
    if (!this.simulation.run(holds, LIMIT_US)) throw new Error(`in vain: ${what}`);
  }

  /** Write block 0 full of `value`, as if by this map. */
  write(value: number, to: Partial<WriteRequest>): WriteReply {
    this.writes += 1;
    const block = new Uint8Array(BLOCK_SIZE).fill(value);
    const request = Object.assign(new WriteRequest(), {
      pg: ALONE,
      replica: OURS,
      generation: GENERATION,
      epoch: EPOCH,
      session: SESSION,
      number: this.writes,
      below: this.writes,
      layer: LAYER,
      blocks: 1,
      type: EntryType.Write,
      crcsCount: 1,
      ...to,
    });
    request.crcs[0] = Bun.hash.crc32(block);
    const reply = new WriteReply();
    const op = this.ask(this.clientWorld, this.client, Method.Write, {
      size: sizeOfWriteRequest(request),
      encode: (view, at) => encodeWriteRequest(request, view, at),
      payload: block,
    });
    const view = new DataView(op.header.buffer);
    assert(decodeWriteReply(reply, view, 0, op.header.length), "Scene.write: malformed reply");
    // A refused one was no request: its number is used for another one.
    if (reply.status !== Status.Ok) this.writes -= 1;
    return reply;
  }

  read(to: Partial<ReadRequest>): { readonly reply: ReadReply; readonly first: number } {
    const request = Object.assign(new ReadRequest(), {
      pg: ALONE,
      replica: OURS,
      generation: GENERATION,
      epoch: EPOCH,
      session: SESSION,
      layer: LAYER,
      blocks: 1,
      snapSeq: 0xffff_ffff,
      ...to,
    });
    const op = this.ask(this.clientWorld, this.client, Method.Read, {
      size: sizeOfReadRequest(request),
      encode: (view, at) => encodeReadRequest(request, view, at),
    });
    return { reply: replyOf(op), first: op.payload[0] ?? -1 };
  }

  /** As its peer: ask for a block of the group of its own. */
  fetch(to: Partial<BlockFetchRequest>): ReadReply {
    const request = Object.assign(new BlockFetchRequest(), {
      pg: ALONE,
      replica: OURS,
      layer: LAYER,
      blocks: 1,
      snapSeq: 0xffff_ffff,
      ...to,
    });
    const op = this.ask(this.peerWorld, this.peer, Method.BlockFetch, {
      size: sizeOfBlockFetchRequest(request),
      encode: (view, at) => encodeBlockFetchRequest(request, view, at),
    });
    return replyOf(op);
  }

  /** As its peer: ask for what a map lacks. */
  askMap(generation: number, epoch: number): MapUpdate | undefined {
    const request = create(MapGetRequestSchema, { generation, epoch });
    const header = toBinary(MapGetRequestSchema, request);
    const { bytes } = this.peerWorld.arena;
    const op = this.ask(this.peerWorld, this.peer, Method.MapGet, {
      size: header.length,
      encode: (_view, at) => bytes.set(header, at),
    });
    return fromBinary(MapGetReplySchema, op.header).update;
  }

  /** The osd's map, and `map`, which is as it, move on. */
  follow(map: ClusterMap, change: Parameters<ClusterMap["next"]>[0]): void {
    const delta = map.next(change);
    map.apply(delta);
    expect(this.shard.onMap(toBinary(MapUpdateSchema, create(MapUpdateSchema, delta)))).toBe(true);
    this.pass(QUIET_US);
  }

  /** As its peer: say something of the shared group; then let it be heard. */
  tell(fields: Partial<Control>): void {
    const control = Object.assign(new Control(), { pg: SHARED, from: 22, ...fields });
    const at = this.peer.beginOneway(Method.RaftControl, sizeOfControl(control), 0);
    assert(at >= 0, "Scene.tell: no room");
    encodeControl(control, this.peerWorld.arena.view, at);
    this.peer.finish();
    this.pass(100_000);
  }

  append(fields: Partial<Append>): void {
    const append = Object.assign(new Append(), { pg: SHARED, from: 22, ...fields });
    const at = this.peer.beginOneway(Method.RaftAppend, sizeOfAppend(append), 0);
    assert(at >= 0, "Scene.append: no room");
    encodeAppend(append, this.peerWorld.arena.view, at);
    this.peer.finish();
    this.pass(100_000);
  }

  heard(type: MessageType): Control[] {
    return this.peerSide.heard.filter((control) => control.type === type);
  }

  private ask(
    world: SimWorld,
    connection: Connection,
    method: Method,
    body: {
      readonly size: number;
      readonly encode: (view: DataView, at: number) => void;
      readonly payload?: Uint8Array;
    },
  ): NotingOp {
    const op = new NotingOp(world);
    const payload = body.payload ?? new Uint8Array(0);
    const at = connection.beginRequest(op, method, body.size, payload.length, 0);
    assert(at >= 0, "Scene.ask: no room");
    body.encode(world.arena.view, at);
    world.arena.bytes.set(payload, connection.payloadOffset);
    connection.finish();
    this.until("an answer", () => op.status !== null);
    expect(op.status).toBe(Status.Ok);
    return op;
  }

  private attach(): void {
    const grant = create(SessionGrantSchema, {
      session: BigInt(SESSION),
      layer: BigInt(LAYER),
      sizeBytes: BigInt(MIB),
      rights: ImageRights.Read | ImageRights.Write,
      serial: 1,
    });
    const bytes = toBinary(SessionGrantSchema, grant);
    const mac = signGrant(this.clientWorld.checksum, KEY, bytes);
    const request = create(SessionAttachRequestSchema, { grant: bytes, mac });
    const header = toBinary(SessionAttachRequestSchema, request);
    const { bytes: memory } = this.clientWorld.arena;
    const op = this.ask(this.clientWorld, this.client, Method.SessionAttach, {
      size: header.length,
      encode: (_view, at) => memory.set(header, at),
    });
    expect(fromBinary(SessionAttachReplySchema, op.header).status).toBe(Status.Ok);
  }

  private dialAsPeer(): Connection {
    const identity: RpcIdentity = {
      clusterId: CLUSTER_ID,
      role: Role.Osd,
      id: 1,
      shard: 0,
      name: "osd.1",
      storeUuid: STORES[1]!,
      store: { starts: new Uint8Array(0), asking: false },
    };
    const endpoint = new RpcEndpoint(this.peerWorld, identity, KEY, { bind: "10.0.0.2" });
    // What the osd says to its peer comes on the connection that the osd dials.
    endpoint.listen({ kind: "tcp", host: "10.0.0.2", port: PORT }, () => this.peerSide);
    return this.dialOsd(endpoint, new NotingHandler(this.peerWorld));
  }

  /** Another connection of the client takes the place of the first one. */
  connectAgain(): void {
    this.client.close("again");
    this.clientSide = new ClientHandler(this.clientWorld);
    this.client = this.dialAsClient(this.clientSide);
    this.attach();
  }

  private dialAsClient(handler: ClientHandler): Connection {
    const world = this.clientWorld;
    const name = "client";
    const identity: RpcIdentity = {
      clusterId: CLUSTER_ID,
      role: Role.Client,
      id: 4,
      shard: SHARD_NONE,
      name,
    };
    return this.dialOsd(new RpcEndpoint(world, identity, KEY, { bind: world.address }), handler);
  }

  private dialOsd(endpoint: RpcEndpoint, handler: NotingHandler): Connection {
    const to = { role: Role.Osd, id: 0, shard: 0, storeUuid: this.storeUuid };
    const connection = endpoint.dial({ kind: "tcp", host: "10.0.0.1", port: PORT }, to, handler);
    this.until("a connection", () => connection.isOpen);
    return connection;
  }

  private wait(promise: Promise<unknown>): void {
    let isDone = false;
    promise.then(
      () => (isDone = true),
      (error: unknown) => this.simulation.fail("set-up", error),
    );
    this.until("the set-up", () => isDone);
  }

  private async format(): Promise<void> {
    const world = this.simulation.createWorld("osd.0", "10.0.0.1");
    world.start();
    const disk = world.disks.open("/osd.0", { createBytes: 256 * MIB });
    const { storeUuid } = await formatStore({
      world,
      disk,
      clusterId: uuidBytes(CLUSTER_ID),
      osd: 0,
      shardCount: 1,
      logBytes: 16 * MIB,
    });
    this.storeUuid = uuidText(uuidBytes(storeUuid));
    disk.close();
    await world.stop();
  }

  private newShard(world: SimWorld): OsdShard {
    return new OsdShard({
      world,
      logger: world.logger,
      disk: world.disks.open("/osd.0", { shard: 0 }),
      clusterId: CLUSTER_ID,
      clusterKey: KEY,
      osd: 0,
      shard: 0,
      shardCount: 1,
      bind: "10.0.0.1",
      port: PORT,
      peerStarts: [],
      host: {
        onFatal: (error) => this.simulation.fail(world.name, error),
        onNews: () => {},
        onParked: () => {},
        onVerdict: () => {},
        onPeerStart: () => {},
        onMapWanted: () => (this.mapsWanted += 1),
        onPeerMap: () => {},
      },
    });
  }

  private async open(world: SimWorld): Promise<void> {
    const { shard } = this;
    await shard.open();
    shard.listen();
    shard.onMap(this.mapOf());
    const admission = new Admission(world, shard.identity, {
      record: (starts) => shard.recordStarts(starts),
      serve: (starts) => {
        this.serves = true;
        shard.serve(starts);
      },
      alone: () => this.simulation.fail("set-up", new Error("the monitor vouched")),
      refuse: (error) => this.simulation.fail("set-up", error),
    });
    admission.begin([]);
    admission.hearMonitor({ kind: "fine" });
  }

  /** The map that it begins with, encoded. */
  mapOf(): Uint8Array {
    const storeOf = (osd: number): string => (osd === 0 ? this.storeUuid : STORES[osd]!);
    const osds = [0, 1, 2].map((id) => ({
      id,
      storeUuid: storeOf(id),
      host: `host-${String(id)}`,
      up: true,
      in: true,
      weight: 1,
      addresses: [{ host: `10.0.0.${String(id + 1)}`, port: PORT }],
    }));
    const pgOf = (id: number, first: number, members: readonly number[]): object => ({
      id,
      lastChangeEpoch: CHANGED,
      changeEpoch: CHANGED,
      creating: true,
      replicas: members.map((osd, at) => ({
        replicaId: first + at,
        osd,
        storeUuid: storeOf(osd),
        shard: 0,
        witness: id === WITNESSED && at === 2,
      })),
    });
    const pool = { size: 3, pgCount: 4, objectBlocks: 1024, failureDomain: "osd" };
    const update = {
      generation: GENERATION,
      fromEpoch: 0,
      epoch: EPOCH,
      full: true,
      osds,
      pools: [{ id: 1, name: "pool", ...pool }],
      pgs: [
        pgOf(ALONE, OURS, [0]),
        pgOf(SHARED, OURS_SHARED, [0, 1, 2]),
        pgOf(ELSEWHERE, 31, [1]),
        pgOf(WITNESSED, 41, [1, 2, 0]),
      ],
    };
    return toBinary(MapUpdateSchema, create(MapUpdateSchema, update));
  }
}

function replyOf(op: NotingOp): ReadReply {
  const reply = new ReadReply();
  const view = new DataView(op.header.buffer);
  assert(decodeReadReply(reply, view, 0, op.header.length), "replyOf: malformed reply");
  return reply;
}

const ADDRESSES: readonly (readonly [string, Partial<ReadRequest>, Status])[] = [
  ["by this map", {}, Status.Ok],
  ["by a map from before, which the group has not changed since", { epoch: CHANGED }, Status.Ok],
  ["by a newer map", { epoch: EPOCH + 1 }, Status.Ok],
  ["by a map of the next generation", { generation: GENERATION + 1, epoch: 1 }, Status.Ok],
  ["by a map from before the group's last change", { epoch: CHANGED - 1 }, Status.MapStale],
  ["of an older generation", { generation: GENERATION - 1, epoch: EPOCH }, Status.MapStale],
  ["for the replica that was here before", { replica: OURS - 1 }, Status.WrongReceiver],
  ["for one that is to come", { replica: OURS + 1 }, Status.WrongReceiver],
  ["for the replica of another group", { replica: OURS_SHARED }, Status.WrongReceiver],
  ["for another replica, by a newer map", { replica: OURS + 1, epoch: EPOCH + 1 }, Status.Busy],
  ["for a group that is elsewhere", { pg: ELSEWHERE, replica: 31 }, Status.WrongReceiver],
  ["for a group that is nowhere", { pg: NOWHERE }, Status.WrongReceiver],
  ["for a group of a newer map", { pg: NOWHERE, epoch: EPOCH + 1 }, Status.Busy],
];

describe("N11: a request of a client", () => {
  test("reaches the replica that it was meant for, or none: writes", () => {
    const scene = new Scene();
    let last = 0;
    for (const [at, [name, to, wanted]] of ADDRESSES.entries()) {
      const { status, generation, epoch } = scene.write(at + 1, to);
      expect([name, Status[status]]).toEqual([name, Status[wanted]]);
      // The reply tells which map the osd has.
      expect([generation, epoch]).toEqual([GENERATION, EPOCH]);
      if (wanted === Status.Ok) last = at + 1;
      expect([name, scene.read({}).first]).toEqual([name, last]);
    }
  });

  test("reaches the replica that it was meant for, or none: reads", () => {
    const scene = new Scene();
    expect(scene.write(0xab, {}).status).toBe(Status.Ok);
    for (const [name, to, wanted] of ADDRESSES) {
      const { reply, first } = scene.read(to);
      expect([name, Status[reply.status]]).toEqual([name, Status[wanted]]);
      expect([name, first]).toEqual([name, wanted === Status.Ok ? 0xab : -1]);
    }
  });
});

describe("a client that is refused", () => {
  const OLD = CHANGED - 1;
  type Change = Parameters<ClusterMap["next"]>[0];

  /** The osd, and a map as it has it, moved on by `change`. */
  function sceneOf(change: (map: ClusterMap) => Change): { scene: Scene; map: ClusterMap } {
    const scene = new Scene();
    const map = new ClusterMap();
    map.apply(fromBinary(MapUpdateSchema, scene.mapOf()));
    scene.follow(map, change(map));
    return { scene, map };
  }

  function moved(map: ClusterMap, pg: number): Change {
    return { pgs: [{ ...map.pgs.get(pg as PgId)!, replicas: [] }] };
  }

  test.each([
    ["a write, by a map from before the group's last change", true, { epoch: OLD }],
    ["a read, by a map from before the group's last change", false, { epoch: OLD }],
    ["a write of an older generation", true, { generation: GENERATION - 1, epoch: 99 }],
    ["a read for a replica that was here before", false, { replica: OURS - 1 }],
    ["a write for a group that is elsewhere", true, { pg: ELSEWHERE, replica: 31 }],
    ["a read of a group that another one leads", false, { pg: SHARED, replica: OURS_SHARED }],
  ] as const)("is told first what its map lacks: %s", (_name, isWrite, to) => {
    const { scene, map } = sceneOf((before) => moved(before, ELSEWHERE));
    const { maps } = scene.clientSide;
    if (isWrite) scene.write(1, to);
    else scene.read(to);
    expect(maps).toMatchObject([
      { generation: GENERATION, epoch: EPOCH + 1, part: 0, more: false },
    ]);
    // All of it to another generation; else what changed.
    const { full, pgs } = maps[0]!;
    const isFull = "generation" in to;
    expect([full, pgs.length]).toEqual([isFull, isFull || "epoch" in to ? 4 : 1]);
    const client = new ClusterMap();
    if (!isFull) client.apply(fromBinary(MapUpdateSchema, scene.mapOf()));
    expect(client.apply(maps[0]!)).toBe(ApplyResult.Applied);
    expect(client.pgs).toEqual(map.pgs);
  });

  test("is told once per connection and map", () => {
    const { scene, map } = sceneOf((before) => moved(before, ELSEWHERE));
    const epochs = (): number[] => scene.clientSide.maps.map(({ epoch }) => epoch);
    for (let turn = 0; turn < 5; turn++) {
      expect(scene.write(1, { epoch: OLD }).status).toBe(Status.MapStale);
      expect(scene.read({ epoch: OLD }).reply.status).toBe(Status.MapStale);
    }
    expect(epochs()).toEqual([EPOCH + 1]);
    scene.follow(map, moved(map, SHARED));
    for (let turn = 0; turn < 5; turn++) scene.read({ epoch: OLD });
    expect(epochs()).toEqual([EPOCH + 1, EPOCH + 2]);
    scene.connectAgain();
    for (let turn = 0; turn < 5; turn++) scene.read({ epoch: OLD });
    expect(epochs()).toEqual([EPOCH + 2]);
  });

  test("is told nothing when it has the map, a newer one, or is served", () => {
    const { scene } = sceneOf((before) => moved(before, ELSEWHERE));
    expect(scene.write(1, { epoch: EPOCH }).status).toBe(Status.Ok);
    expect(scene.write(1, { replica: OURS + 1, epoch: EPOCH + 1 }).status).toBe(
      Status.WrongReceiver,
    );
    expect(scene.write(1, { replica: OURS + 1, epoch: EPOCH + 2 }).status).toBe(Status.Busy);
    const next = { pg: NOWHERE, generation: GENERATION + 1, epoch: 1 };
    expect(scene.read(next).reply.status).toBe(Status.Busy);
    expect(scene.clientSide.maps).toEqual([]);
  });

  test("and knows a newer map makes the osd fetch it at once, and not for each request", () => {
    const { scene } = sceneOf((before) => moved(before, ELSEWHERE));
    scene.read({ pg: NOWHERE });
    scene.read({ epoch: EPOCH + 2 });
    expect(scene.mapsWanted).toBe(0);
    const fromUs = scene.simulation.nowUs;
    for (let turn = 0; turn < 20; turn++) scene.read({ pg: NOWHERE, epoch: EPOCH + 2 });
    expect(scene.simulation.nowUs - fromUs).toBeLessThan(100_000);
    expect(scene.mapsWanted).toBe(1);
    scene.pass(200_000);
    scene.write(1, { replica: OURS + 1, epoch: EPOCH + 2 });
    expect(scene.mapsWanted).toBe(2);
  });
});

test("an osd tells a peer that asks what its map lacks", () => {
  const scene = new Scene();
  expect(scene.askMap(GENERATION, EPOCH)).toBeUndefined();
  expect(scene.askMap(GENERATION + 1, 1)).toBeUndefined();
  expect(scene.askMap(0, 0)).toMatchObject({ full: true, generation: GENERATION, epoch: EPOCH });
});

test("N11: a peer that asks another replica for a block gets none", () => {
  const scene = new Scene();
  expect(scene.write(0xab, {}).status).toBe(Status.Ok);
  expect(scene.fetch({}).status).toBe(Status.Ok);
  for (const to of [{ replica: OURS - 1 }, { replica: OURS_SHARED }, { pg: ELSEWHERE }]) {
    expect(scene.fetch(to).status).toBe(Status.WrongReceiver);
  }
});

describe("N11: raft messages for another replica are dropped", () => {
  const OTHERS: readonly (readonly [string, Partial<Control>])[] = [
    ["the one that was here before", { to: OURS_SHARED - 1 }],
    ["one that is to come", { to: 99 }],
    ["that of another group", { to: OURS }],
    ["one of a group that is not here", { pg: ELSEWHERE, to: OURS_SHARED }],
  ];

  test("votes", () => {
    const scene = new Scene();
    const { node } = scene.group(SHARED);
    const vote = { type: MessageType.Vote, index: 100, logTerm: 8, flags: 0 };
    let term = node.term + 10;
    for (const [name, to] of OTHERS) {
      const before = node.term;
      scene.tell({ ...vote, term, ...to });
      expect([name, node.term, scene.heard(MessageType.VoteReply)]).toEqual([name, before, []]);
      term += 1;
    }
    // The same, rightly addressed, is heard and answered.
    scene.tell({ ...vote, term, to: OURS_SHARED });
    expect(node.term).toBe(term);
    expect(node.vote).toBe(22);
    expect(scene.heard(MessageType.VoteReply)).toMatchObject([
      { pg: SHARED, from: OURS_SHARED, to: 22, term, reject: 0 },
    ]);
  });

  test("entries to a witness: it keeps what they say, and nothing of what they carry", () => {
    const scene = new Scene();
    const group = scene.group(WITNESSED);
    const { node } = group;
    // Nobody leads: it waits, and does not ask for votes.
    expect([group.witness, node.role, node.term]).toEqual([true, RaftRole.Follower, 0]);
    const to = { pg: WITNESSED, from: 41, to: OURS_WITNESS };
    const term = 7;
    const entry = { ...to, term, entryTerm: term, layer: LAYER, firstBlock: 3 };
    const write = { ...entry, entryType: EntryType.Write, blocks: 2, crcsCount: 2 };
    scene.append({ ...write, prevIndex: 0, prevTerm: 0 });
    const zero = { ...entry, entryType: EntryType.Zero, blocks: 1000 };
    scene.append({ ...zero, prevIndex: 1, prevTerm: term, commit: 1 });
    scene.append({ ...to, term, prevIndex: 2, prevTerm: term, commit: 2 });
    scene.until("it is applied", () => group.appliedIndex === 2);
    const { store } = group.shard;
    expect([store.bytesOf(group.row), store.versionOf(LAYER, 3, 0xffff_ffff)]).toEqual([0, 0]);
    const asked = { pg: WITNESSED, replica: OURS_WITNESS, firstBlock: 3 };
    expect(scene.fetch(asked).status).toBe(Status.WrongReceiver);
  });

  test("entries", () => {
    const scene = new Scene();
    const group = scene.group(SHARED);
    const { node } = group;
    const term = node.term + 10;
    const last = node.log.lastIndex;
    const entry = {
      term,
      prevIndex: last,
      prevTerm: node.log.lastTerm,
      entryTerm: term,
      entryType: EntryType.Noop,
    };
    for (const [name, to] of OTHERS) {
      scene.append({ ...entry, ...to });
      expect([name, node.log.lastIndex, node.term < term]).toEqual([name, last, true]);
    }
    expect(scene.heard(MessageType.AppendReply)).toEqual([]);
    scene.append({ ...entry, to: OURS_SHARED });
    expect([node.log.lastIndex, node.term, node.leader]).toEqual([last + 1, term, 22]);
    expect(node.role).toBe(RaftRole.Follower);
    scene.until("it is durable", () =>
      scene.heard(MessageType.AppendReply).some((reply) => reply.index === last + 1),
    );
    // A replica with data takes no blocks without their payload.
    const write = { ...entry, entryType: EntryType.Write, blocks: 1, crcsCount: 1 };
    const next = { prevIndex: last + 1, prevTerm: term, entryTerm: term };
    scene.append({ ...write, ...next, to: OURS_SHARED });
    expect(node.log.lastIndex).toBe(last + 1);
    // It follows; what is to end that, and is meant for another one, does not.
    for (const [, to] of OTHERS) {
      scene.tell({ type: MessageType.LeaderGone, term, ...to });
      scene.tell({ type: MessageType.TimeoutNow, term, ...to });
    }
    expect([node.leader, node.term, node.role]).toEqual([22, term, RaftRole.Follower]);
  });
});
