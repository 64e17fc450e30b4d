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
import { assert, failOnBug } from "../base/assert.ts";
import { FastblockError } from "../base/errors.ts";
import { FORMATS, type FormatRange, type FormatState } from "../base/formats.ts";
import { type PgId, poolOfPg } from "../base/ids.ts";
import type { Logger } from "../base/logger.ts";
import { uuidBytes } from "../base/uuid.ts";
import { ApplyResult, ClusterMap, TOLD_BYTES_MAX } from "../cluster/cluster.ts";
import {
  type FillSource,
  type Group,
  type GroupLimits,
  LocalStore,
  type PeerLink,
  type PgHost,
  PgShard,
  type ScrubPeer,
  type ScrubReader,
  type StoreClaim,
  type StoreIdentity,
  type StoreStart,
  type StoreTuning,
} from "../pg/pg.ts";
import type { TraceOrder } from "../metrics/metrics.ts";
import type { RaftMessage } from "../raft/raft.ts";
import type { ReactorStats } from "../reactor/reactor.ts";
import { type Disk, type Listener, sleep, type World } from "../reactor/world.ts";
import type { Entry } from "../log/log.ts";
import {
  type Connection,
  type ConnectionHandler,
  ControlService,
  Method,
  Role,
  RpcEndpoint,
  type StoreCredentials,
} from "../rpc/rpc.ts";
import { encodeStarts } from "../store/store.ts";
import { MapUpdateSchema } from "../../proto/gen/control_pb.ts";
import { MarkedSchema, VerdictSchema } from "../../proto/gen/starts_pb.ts";
import { Asking, type Verdict, Vouching } from "./asking.ts";
import { ClientHandler } from "./client-handler.ts";
import { ClientRequests } from "./client-requests.ts";
import { PeerFillSource, serveFill } from "./fill-service.ts";
import { FaultyEntries } from "./faulty-entries.ts";
import { type DamagedBlock, Healer } from "./healer.ts";
import { MapIdentity } from "./map-identity.ts";
import { MapSharing, type MapSharingHost } from "./map-sharing.ts";
import { PeerStarts } from "./peer-starts.ts";
import { RaftPeers } from "./raft-peers.ts";
import {
  damageOf,
  FigureNews,
  SpaceNews,
  type GroupReport,
  isRecovering,
  reportOf,
  reportOfGone,
  reportOfMissing,
  type ShardReport,
  traceOf,
} from "./report.ts";
import { ScrubStoreReader } from "./scrub-reader.ts";
import { PeerScrub, serveScrub } from "./scrub-service.ts";
import { ClientContext, SessionGrants } from "./session-grants.ts";

export { Admission, peersOf } from "./admission.ts";
export type { Verdict } from "./asking.ts";
export { decodeKeys, decodeUnits, encodeKeys, encodeUnits, pageOf } from "./fill-service.ts";
export { type KeptMap, MapKeeper } from "./map-keeper.ts";
export { MonSession } from "./mon-session.ts";
export { formatPeerStarts, parsePeerStarts } from "./peer-starts.ts";
export type { ShardReport } from "./report.ts";

/**
 * Buffers of one connection, each way: four of the largest frames. 256 connections take 512 MiB of
 * the arena's address space at most; what is not touched costs nothing.
 */
const STREAM_BYTES = 1_048_576;
const CONNECTIONS_MAX = 256;
/** Calls between shards: what is told of the map is the largest, the state of a group has 60 KiB. */
const CALL_BYTES_MAX = TOLD_BYTES_MAX;

export interface OsdShardOptions {
  readonly world: World;
  readonly logger: Logger;
  readonly disk: Disk;
  /** Counters of the reactor for the metrics page; none, and none are told. */
  readonly reactor?: ReactorStats;
  /** The cluster's uuid as text, and its 32-byte key. */
  readonly clusterId: string;
  readonly clusterKey: Uint8Array;
  readonly osd: number;
  readonly shard: number;
  readonly shardCount: number;
  readonly bind: string;
  /** Encrypt all connections, or have none. Default: where the other end wants it. */
  readonly encrypt?: boolean;
  /** 0: the system chooses. */
  readonly port: number;
  /** Of shard 0, for the others. */
  readonly claim?: StoreClaim;
  /** Of this program. Default: what it knows. */
  readonly formats?: FormatRange;
  /** Limits of the store's background work other than the defaults: the simulator twists them. */
  readonly tuning?: Partial<StoreTuning>;
  /** What rows of the store's index may take in memory; 0, default: all are there. */
  readonly indexBytes?: number;
  /** How fast deep scrubs read, in bytes/s, all groups together. Default 32 MiB/s. */
  readonly scrubBytesPerSecond?: number;
  /** Between two looks for quiet groups: see `PgShardOptions`. */
  readonly parkLookUs?: number;
  /** Limits of its groups other than the defaults. */
  readonly limits?: Partial<GroupLimits>;
  /** The newest starts of peers' stores that this osd has kept, by the store's uuid. */
  readonly peerStarts: Iterable<readonly [string, StoreStart]>;
  readonly host: OsdShardHost;
}

const ENOSPC = 28;
const HAND_OVER_US = 500_000;

function asError(error: unknown): Error {
  return error instanceof Error ? error : new Error(String(error));
}

/** The store takes no writes long before: somebody else has used up the rest. */
function fullBeneath(path: string): FastblockError {
  const text = `writing to ${path}: the file system of it is full, wanted space for its sparse file`;
  return new FastblockError("FB4010", text, { hint: "make room there, then start the osd again" });
}

/** What a shard tells its osd. */
export interface OsdShardHost extends MapSharingHost {
  /** The device failed or an invariant broke: the process must not go on. */
  onFatal(error: Error): void;
  /** There is something to report before the next time. */
  onNews(): void;
  /** So many groups fell quiet one after the other, and no more follow: their objects are gone. */
  onParked(parked: number): void;
  /** What a peer says of this osd's store: on being asked, and when it refuses later. */
  onVerdict(osd: number, verdict: Verdict): void;
  /** The newest start of a peer's store: to be kept. */
  onPeerStart(storeUuid: string, start: StoreStart): void;
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
  private maps!: MapSharing;
  private faulty!: FaultyEntries;
  private scrubReader!: ScrubStoreReader;
  /** Calls between shards off the data path; made when the shard listens. */
  private calls: ControlService | null = null;
  private asking!: Asking;
  private vouching!: Vouching;
  /** What the store shows in handshakes. */
  private readonly credentials: StoreCredentials = { starts: new Uint8Array(0), asking: true };
  /** The cluster's format, as the store and the map know it. */
  private readonly formats: FormatState;
  /** Peers may join their groups; clients may come. Neither before `serve`: peers are asked. */
  private serving = false;
  private servesClients = false;
  private listener: Listener | null = null;
  private changed = new Set<number>();
  /** Groups that were told to be on their way back: they are told again, until they are not. */
  private recovering = new Set<number>();
  private readonly news = new FigureNews();
  private readonly space = new SpaceNews();
  private gone: GroupReport[] = [];
  private stopping = false;

  constructor(options: OsdShardOptions) {
    this.options = options;
    this.logger = options.logger;
    this.formats = { range: options.formats ?? FORMATS, wanted: 0 };
    this.pg = new PgShard({
      world: options.world,
      host: this,
      logger: options.logger,
      osd: options.osd,
      shard: options.shard,
      ...(options.parkLookUs === undefined ? {} : { parkLookUs: options.parkLookUs }),
      ...(options.limits === undefined ? {} : { limits: options.limits }),
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
      formats: this.formats.range,
      owner: this.pg,
      logger: options.logger,
      ...(options.claim === undefined ? {} : { claim: options.claim }),
      ...(options.tuning === undefined ? {} : { tuning: options.tuning }),
      indexBytes: options.indexBytes ?? 0,
    });
    this.credentials.starts = encodeStarts(this.store.identity.starts);
    this.formats.wanted = this.store.identity.formatVersion;
    this.pg.start(this.store);
  }

  /** Listen; answers the port. Requires `open`. Cold. */
  listen(): number {
    const { world, clusterId, osd, shard, clusterKey, bind, port } = this.options;
    const encrypt = this.options.encrypt === true;
    const storeUuid = this.store.identity.storeUuid;
    this.endpoint = new RpcEndpoint(
      world,
      {
        clusterId,
        role: Role.Osd,
        id: osd,
        shard,
        name: `osd.${String(osd)}`,
        storeUuid,
        store: this.credentials,
        formats: this.formats,
      },
      clusterKey,
      {
        bind,
        encrypt,
        receiveBytes: STREAM_BYTES,
        sendBytes: STREAM_BYTES,
        headerBytes: CALL_BYTES_MAX,
        connectionsMax: CONNECTIONS_MAX,
      },
    );
    const grants = new SessionGrants(world.checksum, clusterKey);
    this.calls = new ControlService(world);
    this.maps = new MapSharing(world, this.logger, this.map, this.calls, this.options.host);
    this.requests = new ClientRequests(this.pg, world, this.mapIdentity, grants, this.maps);
    serveFill(this.pg, this.calls);
    this.judgeStores(this.calls);
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
    this.scrubReader = new ScrubStoreReader(world, this.healer, this.options.scrubBytesPerSecond);
    serveScrub(this.pg, this.calls, this.scrubReader);
    this.faulty = new FaultyEntries(world, this.logger, this.healer);
    for (const group of this.pg.groups.awake()) this.faulty.watch(group);
    const clients = new ClientHandler(this.requests, grants, world);
    this.listener = this.endpoint.listen(
      { kind: "tcp", host: bind, port },
      (connection: Connection): ConnectionHandler | null => {
        if (connection.peer!.role === Role.Osd) {
          return this.vouching.accept(connection, this.serving) ?? this.peers.accept(connection);
        }
        if (!this.servesClients) return null;
        connection.context = new ClientContext();
        return clients;
      },
    );
    const address = this.listener.address;
    return address.kind === "tcp" ? address.port : 0;
  }

  /** What shards tell each other of their stores' starts. */
  private judgeStores(calls: ControlService): void {
    const { host, peerStarts } = this.options;
    const starts = new PeerStarts(peerStarts, (uuid, start) => host.onPeerStart(uuid, start));
    this.vouching = new Vouching(starts, calls, this.logger);
    this.asking = new Asking(this.endpoint, calls, (osd) =>
      host.onVerdict(osd, { kind: "absent" }),
    );
    calls.take(Method.StartsVerdict, VerdictSchema, ({ refusal }, connection) => {
      const verdict: Verdict =
        refusal === "" ? { kind: "fine" } : { kind: "refused", why: refusal };
      host.onVerdict(connection.peer!.id, verdict);
    });
    calls.take(Method.StartsMarked, MarkedSchema, (marked, connection) => {
      const refusal = starts.meet(connection.peer!.storeUuid, marked.starts);
      if (refusal !== "") connection.close(`an old copy of its store: ${refusal}`);
    });
  }

  /** Make the history of the store's starts durable: on the first shard. Cold. */
  recordStarts(starts: readonly StoreStart[]): Promise<void> {
    return this.store.recordStarts(starts);
  }

  /** Serve clients, before it is known whether peers take this store: alone. Cold. */
  serveClients(): void {
    this.servesClients = true;
  }

  /** Serve, and show these starts, which are durable, from now on. Again with each mark. Cold. */
  serve(starts: readonly StoreStart[]): void {
    if (this.stopping) return;
    assert(starts.length > 0, "OsdShard.serve: no start");
    const encoded = encodeStarts(starts);
    this.credentials.starts = encoded;
    this.credentials.asking = false;
    this.servesClients = true;
    if (this.serving) {
      this.peers.tellMarked(encoded);
      return;
    }
    this.serving = true;
    this.asking.end();
    this.vouching.serve();
    this.dialPeers();
  }

  private dialPeers(): void {
    if (this.serving) this.peers.onMap(this.map);
    else this.asking.ask(this.map, this.pg.peers.links.values());
  }

  /** Follow a map (an encoded MapUpdate). Answers false when deltas are missing in between. Cold. */
  onMap(encoded: Uint8Array): boolean {
    if (this.stopping) return true;
    const update = fromBinary(MapUpdateSchema, encoded);
    if (!this.knowsFormat(update.format)) return true;
    const result = this.map.apply(update);
    if (result === ApplyResult.Gap) return false;
    if (result !== ApplyResult.Applied) return true;
    this.removeGone();
    this.mapIdentity.generation = this.map.generation;
    this.mapIdentity.epoch = this.map.epoch;
    this.raiseFormat(this.map.format);
    this.pg.onMap(this.map);
    this.dialPeers();
    return true;
  }

  /** A map of a cluster that has gone on to what this program does not know: it must not go on. Cold. */
  private knowsFormat(format: number): boolean {
    const { max } = this.formats.range;
    if (format <= max) return true;
    const text = `osd.${String(this.options.osd)} knows formats up to ${String(max)}, the cluster has ${String(format)}`;
    this.options.host.onFatal(new FastblockError("FB1016", text));
    return false;
  }

  /** The cluster's format: peers that do not know it go, and no older program opens the store. Cold. */
  private raiseFormat(format: number): void {
    if (format <= this.formats.wanted) return;
    this.endpoint.wantFormat(format);
    if (this.options.claim !== undefined) return;
    this.store.raiseFormat(format).then(
      () => this.logger.info("the store's format is raised", { format }),
      (error: unknown) => this.onBroken(error),
    );
  }

  /** The monitor can not be asked for a newer map: ask a peer, another one each time. Cold. */
  askPeer(): void {
    if (!this.serving || this.stopping) return;
    const links = [...this.pg.peers.links.values()];
    const connections = links.map((link) => this.peers.connectionTo(link));
    this.maps.ask(connections.filter((one) => one !== null && one.isOpen) as Connection[]);
  }

  /** Replicas of pools that were removed; what a map merely lacks stays (`RemovedPools` has the why). */
  private removeGone(): void {
    const { groups, parking } = this.pg;
    const { pgs, removedPools } = this.map;
    for (const [id, row] of [...groups.rowsOf()]) {
      const pg = id as PgId;
      if (pgs.has(pg)) continue;
      const { replica } = groups.awakeAt(row) ?? parking.rows.get(row);
      if (!removedPools.covers(poolOfPg(pg), replica)) continue;
      this.logger.info("removing a replica of a pool that was removed", { pg });
      this.pg.remove(groups.get(pg)!);
    }
  }

  /** Groups that changed since the last report (or all), and figures. Cold. */
  report(complete: boolean): ShardReport {
    const { groups } = this.pg;
    for (const pg of this.space.groupsOf(this.store, groups.rowsOf())) this.changed.add(pg);
    this.noteRecovering();
    const told = complete ? groups.rowsOf().keys() : this.changed;
    const pgs = Array.from(told, (pg) => reportOf(this.pg, pg)).filter((one) => one !== undefined);
    pgs.push(...this.gone);
    for (const [pg, replica] of this.pg.missing) pgs.push(reportOfMissing(pg, replica));
    this.changed.clear();
    this.gone = [];
    const figures = {
      usage: this.store.usage(),
      counters: {
        ...this.store.counters,
        ...this.pg.fills.counters,
        ...this.pg.scrubs.counters,
        scrubBlocksRead: this.scrubReader.blocksRead,
        scrubBlocksDamaged: this.scrubReader.blocksDamaged,
      },
      requests: Object.fromEntries(Object.entries(this.requests.counters)),
      damage: damageOf(this.store, this.healer, this.faulty),
      recoveryUnitsLeft: this.pg.fills.unitsLeft,
      raft: {
        elections: this.pg.raft.elections,
        groups: groups.size,
        leaders:
          groups.awake().filter((group) => group.isLeader).length + this.pg.parking.rows.leaders,
        heartbeats: this.peers.heartbeats,
      },
      reactor: Object.fromEntries(Object.entries(this.options.reactor ?? {})),
    };
    return {
      shard: this.options.shard,
      generation: this.mapIdentity.generation,
      epoch: this.mapIdentity.epoch,
      pgs,
      unreachable: this.peers.unreachable(),
      layers: this.space.layersOf(this.store, complete),
      figures: this.news.of(figures, complete),
      trace: traceOf(this.options.world),
    };
  }

  /** How far replicas are on their way back is news in every report. */
  private noteRecovering(): void {
    const before = this.recovering;
    this.recovering = new Set();
    // Whatever recovers is awake.
    for (const group of this.pg.groups.awake()) {
      if (isRecovering(group)) this.recovering.add(group.pg);
    }
    for (const pg of [...before, ...this.recovering]) this.changed.add(pg);
  }

  /** The monitor wants another leader. Cold. */
  transferLeader(pg: number, to: number): void {
    const group = this.pg.groups.get(pg);
    if (group !== undefined && group.isLeader) this.pg.reconfigurer.transfer(group, to);
  }

  /** The monitor wants a group that is led here to be scrubbed. Cold. */
  scrub(pg: number, order: number, isDeep: boolean): void {
    const group = this.pg.groups.get(pg);
    if (group !== undefined) this.pg.scrubs.order(group, order, isDeep);
  }

  /** The monitor wants to know where the time of operations goes, or wants that no more. Cold. */
  trace(order: TraceOrder): void {
    this.options.world.trace.obey(order);
  }

  /** Clean stop: leaders go elsewhere first, so that no client waits for an election. Cold. */
  async stop(): Promise<void> {
    this.stopping = true;
    this.pg.scrubs.stop();
    this.pg.fills.stop();
    this.pg.reconfigurer.stop();
    this.pg.parking.stop();
    await this.handOver();
    this.listener?.close();
    this.faulty.stop();
    this.healer.stop();
    this.asking.end();
    this.peers.stop();
    this.endpoint.close("stopping");
    await this.store.close();
  }

  /**
   * Give leadership away, for at most half a second: until others lead, not only until this osd does
   * not. Until then they may need its vote, and clients are told by it who leads.
   */
  private async handOver(): Promise<void> {
    const { clock, timers } = this.options.world;
    const until = clock.nowUs() + HAND_OVER_US;
    const led = this.pg.reconfigurer.ledGroups();
    this.pg.reconfigurer.transferAll();
    while (!led.every(isLedElsewhere) && clock.nowUs() < until) {
      await sleep(timers, 2000);
      this.pg.reconfigurer.transferAll();
    }
  }

  /* ---------------------------------------------------------------- PgHost */

  sendAppend(link: PeerLink, message: RaftMessage, entry: Entry | null, isBare: boolean): boolean {
    return this.peers.sendAppend(link, message, entry, isBare);
  }

  sendControl(link: PeerLink, message: RaftMessage): boolean {
    return this.peers.sendControl(link, message);
  }

  dropLink(link: PeerLink): void {
    this.peers.drop(link);
  }

  onGroupChanged(group: Group): void {
    if (this.changed.size === 0) this.options.host.onNews();
    this.changed.add(group.pg);
  }

  onParked(parked: number): void {
    this.options.host.onParked(parked);
  }

  onReplicaGone(pg: number, replica: number): void {
    this.gone.push(reportOfGone(pg, replica));
    if (this.stopping) return;
    this.pg.onMap(this.map);
    this.dialPeers();
  }

  onFaulty(group: Group): void {
    this.faulty.watch(group);
  }

  onDamaged(damaged: DamagedBlock): void {
    this.healer.meet(damaged);
  }

  onBroken(error: unknown): void {
    if (!failOnBug(this.options.world, error)) this.options.host.onFatal(asError(error));
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

  scrubPeers(group: Group): ScrubPeer[] | null {
    if (this.calls === null || this.stopping) return null;
    const peers: ScrubPeer[] = [];
    for (const { id, witness } of group.node.conf.members) {
      if (id === group.replica || witness === true) continue;
      const peer = group.peerOf(id);
      const connection = peer === null ? null : this.peers.connectionTo(peer.link);
      if (connection === null || !connection.isOpen) return null;
      peers.push(new PeerScrub(this.calls, connection, group.pg, id));
    }
    return peers;
  }

  scrubSelf(group: Group): ScrubReader {
    const { scrubReader } = this;
    return { replica: group.replica, read: (cursor) => scrubReader.read(group, cursor) };
  }

  /** A leader whose own disk does not take an entry can not apply it, and reads would wait for that. */
  onDeviceStarved(): void {
    this.pg.reconfigurer.transferAll();
  }

  onDeviceFailed(reason: string, errno: number): void {
    const { disk, host } = this.options;
    host.onFatal(errno === ENOSPC ? fullBeneath(disk.path) : new Error(`device failed: ${reason}`));
  }
}

function isLedElsewhere(group: Group): boolean {
  return !group.isLeader && group.node.leader !== 0;
}
