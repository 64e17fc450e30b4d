// cold path: start, maps, reports and stop; requests go to client-requests.ts and raft-peers.ts.
/**
 * One shard of an osd: face of `core/osd`.
 *
 * Brings its groups (`core/pg`) and the network together: clients and other shards connect to the
 * shard's own port; requests, raft messages and heartbeats go straight to the groups, without a
 * hop. The osd's main thread holds the session with the monitor (`mon-session.ts`), hands maps
 * down and takes reports up; no request passes through it.
 */
import { fromBinary } from "@bufbuild/protobuf";
import type { PgId } from "../base/ids.ts";
import type { Logger } from "../base/logger.ts";
import { uuidBytes } from "../base/uuid.ts";
import { ApplyResult, ClusterMap } from "../cluster/cluster.ts";
import {
  type FillSource,
  type Group,
  LocalStore,
  type PeerLink,
  type PgHost,
  PgShard,
  type StoreClaim,
  type StoreIdentity,
  type StoreTuning,
} from "../pg/pg.ts";
import type { RaftMessage } from "../raft/raft.ts";
import { type Disk, type Listener, sleep, type World } from "../reactor/world.ts";
import type { Entry } from "../log/log.ts";
import {
  type Connection,
  type ConnectionHandler,
  ControlService,
  type Frame,
  Method,
  Role,
  RpcEndpoint,
} from "../rpc/rpc.ts";
import { MapUpdateSchema } from "../../proto/gen/control_pb.ts";
import { ClientRequests } from "./client-requests.ts";
import { serveAttach } from "./attach.ts";
import { PeerFillSource, serveFill } from "./fill-service.ts";
import { FaultyEntries } from "./faulty-entries.ts";
import { type DamagedBlock, Healer } from "./healer.ts";
import { MapIdentity } from "./map-identity.ts";
import { RaftPeers } from "./raft-peers.ts";
import {
  damageOf,
  FigureNews,
  SpaceNews,
  type GroupReport,
  reportOf,
  reportOfGone,
  reportOfMissing,
  type ShardReport,
} from "./report.ts";
import { ClientContext, SessionGrants } from "./session-grants.ts";

export { MonSession } from "./mon-session.ts";
export type { ShardReport } from "./report.ts";

/**
 * Buffers of one connection, each way: four of the largest frames. 256 connections take 512 MiB of
 * the arena's address space at most; what is not touched costs nothing.
 */
const STREAM_BYTES = 1_048_576;
const CONNECTIONS_MAX = 256;
/** Calls between shards: the state of a group with 1024 sessions is the largest, 60 KiB. */
const CALL_BYTES_MAX = 131_072;

export interface OsdShardOptions {
  readonly world: World;
  readonly logger: Logger;
  readonly disk: Disk;
  /** The cluster's uuid as text, and its 32-byte key. */
  readonly clusterId: string;
  readonly clusterKey: Uint8Array;
  readonly osd: number;
  readonly shard: number;
  readonly shardCount: number;
  readonly bind: string;
  /** 0: the system chooses. */
  readonly port: number;
  /** Of shard 0, for the others. */
  readonly claim?: StoreClaim;
  /** Limits of the store's background work other than the defaults: the simulator twists them. */
  readonly tuning?: Partial<StoreTuning>;
  readonly host: OsdShardHost;
}

/** What a shard tells its osd. */
export interface OsdShardHost {
  /** The device failed or an invariant broke: the process must not go on. */
  onFatal(reason: string): void;
  /** There is something to report before the next time. */
  onNews(): void;
}

export class OsdShard implements PgHost {
  readonly options: OsdShardOptions;
  readonly pg: PgShard;
  private readonly logger: Logger;
  private readonly map = new ClusterMap();
  private readonly mapIdentity = new MapIdentity();
  private store!: LocalStore;
  private endpoint!: RpcEndpoint;
  private peers!: RaftPeers;
  private requests!: ClientRequests;
  private healer!: Healer;
  private faulty!: FaultyEntries;
  /** Calls between shards off the data path; made when the shard listens. */
  private calls: ControlService | null = null;
  private listener: Listener | null = null;
  private changed = new Set<Group>();
  private readonly news = new FigureNews();
  private readonly space = new SpaceNews();
  private gone: GroupReport[] = [];
  private stopping = false;

  constructor(options: OsdShardOptions) {
    this.options = options;
    this.logger = options.logger;
    this.pg = new PgShard({
      world: options.world,
      host: this,
      logger: options.logger,
      osd: options.osd,
      shard: options.shard,
    });
  }

  get identity(): StoreIdentity {
    return this.store.identity;
  }

  get claim(): StoreClaim {
    return this.store.claim;
  }

  /** Open the store and replay its log. Throws FB4001 to FB4009. Cold. */
  async open(): Promise<void> {
    const options = this.options;
    this.store = await LocalStore.open({
      world: options.world,
      disk: options.disk,
      clusterId: uuidBytes(options.clusterId),
      osd: options.osd,
      shard: options.shard,
      shardCount: options.shardCount,
      owner: this.pg,
      logger: options.logger,
      ...(options.claim === undefined ? {} : { claim: options.claim }),
      ...(options.tuning === undefined ? {} : { tuning: options.tuning }),
    });
    this.pg.start(this.store);
  }

  /** Listen; answers the port. Requires `open`. Cold. */
  listen(): number {
    const { world, clusterId, osd, shard, clusterKey, bind, port } = this.options;
    const storeUuid = this.store.identity.storeUuid;
    this.endpoint = new RpcEndpoint(
      world,
      { clusterId, role: Role.Osd, id: osd, shard, name: `osd.${String(osd)}`, storeUuid },
      clusterKey,
      {
        bind,
        receiveBytes: STREAM_BYTES,
        sendBytes: STREAM_BYTES,
        headerBytes: CALL_BYTES_MAX,
        connectionsMax: CONNECTIONS_MAX,
      },
    );
    const grants = new SessionGrants(world.checksum, clusterKey);
    this.requests = new ClientRequests(this.pg, world, this.mapIdentity, grants);
    this.calls = new ControlService(world);
    serveFill(this.pg, this.calls);
    this.peers = new RaftPeers(
      this.pg,
      world,
      this.endpoint,
      this.logger,
      this.requests,
      this.calls,
    );
    this.healer = new Healer(world, this.logger, (peer) => this.peers.connectionTo(peer.link));
    this.requests.healer = this.healer;
    this.faulty = new FaultyEntries(world, this.logger, this.healer);
    for (const group of this.pg.groups.values()) this.faulty.watch(group);
    const clients = new ClientHandler(this.requests, grants, world);
    this.listener = this.endpoint.listen(
      { kind: "tcp", host: bind, port },
      (connection: Connection): ConnectionHandler | null => {
        if (connection.peer!.role === Role.Osd) return this.peers.accept(connection);
        connection.context = new ClientContext();
        return clients;
      },
    );
    const address = this.listener.address;
    return address.kind === "tcp" ? address.port : 0;
  }

  /** Follow a map (an encoded MapUpdate). Answers false when deltas are missing in between. Cold. */
  onMap(encoded: Uint8Array): boolean {
    if (this.stopping) return true;
    const update = fromBinary(MapUpdateSchema, encoded);
    // A full map that lacks a group may come of a monitor that was restored: only removals count.
    const known = update.full ? [] : this.groupsInMap();
    const result = this.map.apply(update);
    if (result === ApplyResult.Gap) return false;
    if (result !== ApplyResult.Applied) return true;
    for (const group of known) if (!this.map.pgs.has(group.pg as PgId)) this.pg.remove(group);
    this.mapIdentity.generation = this.map.generation;
    this.mapIdentity.epoch = this.map.epoch;
    this.pg.onMap(this.map);
    this.peers.onMap(this.map);
    return true;
  }

  private groupsInMap(): Group[] {
    return [...this.pg.groups.values()].filter((group) => this.map.pgs.has(group.pg as PgId));
  }

  /** Groups that changed since the last report (or all), and figures. Cold. */
  report(complete: boolean): ShardReport {
    for (const group of this.space.groupsOf(this.store, this.pg.groups.values())) {
      this.changed.add(group);
    }
    const groups = complete ? [...this.pg.groups.values()] : [...this.changed];
    const pgs = groups
      .filter((group) => !group.creating && !group.gone)
      .map((group) => reportOf(group, this.store.bytesOf(group.row)));
    pgs.push(...this.gone);
    for (const [pg, replica] of this.pg.missing) pgs.push(reportOfMissing(pg, replica));
    this.changed.clear();
    this.gone = [];
    const figures = {
      usage: this.store.usage(),
      counters: { ...this.store.counters, ...this.pg.fills.counters },
      requests: Object.fromEntries(Object.entries(this.requests.counters)),
      damage: damageOf(this.store, this.healer, this.faulty),
      raft: {
        elections: this.pg.raft.elections,
        groups: this.pg.groups.size,
        leaders: [...this.pg.groups.values()].filter((group) => group.isLeader).length,
        heartbeats: this.peers.heartbeats,
      },
    };
    return {
      shard: this.options.shard,
      generation: this.mapIdentity.generation,
      epoch: this.mapIdentity.epoch,
      pgs,
      unreachable: this.peers.unreachable(),
      layers: this.space.layersOf(this.store, complete),
      figures: this.news.of(figures, complete),
    };
  }

  /** The monitor wants another leader. Cold. */
  transferLeader(pg: number, to: number): void {
    const group = this.pg.groups.get(pg);
    if (group !== undefined && group.isLeader) this.pg.transfer(group, to);
  }

  /** Clean stop: leaders go elsewhere first, so that no client waits for an election. Cold. */
  async stop(): Promise<void> {
    this.stopping = true;
    this.pg.fills.stop();
    this.pg.reconfigurer.stop();
    await this.handOver();
    this.listener?.close();
    this.faulty.stop();
    this.healer.stop();
    this.peers.stop();
    this.endpoint.close("stopping");
    await this.store.close();
  }

  /** Give leadership away, for at most half a second. */
  private async handOver(): Promise<void> {
    const until = this.options.world.clock.nowUs() + 500_000;
    while (this.pg.transferAll() > 0 && this.options.world.clock.nowUs() < until) {
      await sleep(this.options.world.timers, 5000);
    }
  }

  /* ---------------------------------------------------------------- PgHost */

  sendAppend(link: PeerLink, message: RaftMessage, entry: Entry | null): boolean {
    return this.peers.sendAppend(link, message, entry);
  }

  sendControl(link: PeerLink, message: RaftMessage): boolean {
    return this.peers.sendControl(link, message);
  }

  dropLink(link: PeerLink): void {
    this.peers.drop(link);
  }

  onGroupChanged(group: Group): void {
    if (this.changed.size === 0) this.options.host.onNews();
    this.changed.add(group);
  }

  onReplicaGone(pg: number, replica: number): void {
    this.gone.push(reportOfGone(pg, replica));
    if (this.stopping) return;
    this.pg.onMap(this.map);
    this.peers.onMap(this.map);
  }

  onDamaged(damaged: DamagedBlock): void {
    this.healer.meet(damaged);
  }

  onBroken(error: unknown): void {
    const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
    this.options.host.onFatal(text);
  }

  fillSource(group: Group): FillSource | null {
    const { node } = group;
    if (this.calls === null || this.stopping || node.leader === 0) return null;
    const peer = group.peerOf(node.leader);
    const connection = peer === null ? null : this.peers.connectionTo(peer.link);
    if (peer === null || connection === null || !connection.isOpen) return null;
    const { world } = this.options;
    return new PeerFillSource(world, this.calls, connection, group.pg, peer.replica);
  }

  onDeviceSlow(latencyUs: number): void {
    this.logger.warn("the device is slow: leaders go elsewhere", { latencyUs });
    this.pg.transferAll();
  }

  onDeviceFailed(reason: string): void {
    this.options.host.onFatal(`device failed: ${reason}`);
  }
}

/** Serves clients: gateways, the CLI, the monitor's own operations. */
class ClientHandler implements ConnectionHandler {
  private readonly requests: ClientRequests;
  private readonly grants: SessionGrants;
  private readonly world: World;

  constructor(requests: ClientRequests, grants: SessionGrants, world: World) {
    this.requests = requests;
    this.grants = grants;
    this.world = world;
  }

  onRequest(connection: Connection, frame: Frame): void {
    switch (frame.method) {
      case Method.Write:
        this.requests.onWrite(connection, frame);
        break;
      case Method.Read:
        this.requests.onRead(connection, frame);
        break;
      case Method.SessionAttach:
        serveAttach(connection, frame, this.grants, this.world);
        break;
      default:
        connection.close("unexpected request, method " + String(frame.method));
    }
  }

  onOpen(_connection: Connection): void {}

  onOneway(connection: Connection, frame: Frame): void {
    connection.close("unexpected one-way frame, method " + String(frame.method));
  }

  onWritable(_connection: Connection): void {}

  onClose(_connection: Connection, _reason: string, _opened: boolean): void {}
}
