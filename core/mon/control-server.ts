import { create } from "@bufbuild/protobuf";
import {
  ImageChangedSchema,
  ImageCloseReplySchema,
  ImageCloseRequestSchema,
  ImageListReplySchema,
  ImageListRequestSchema,
  ImageOpenMode,
  ImageOpenReplySchema,
  type ImageOpenRequest,
  ImageOpenRequestSchema,
  ImageRefreshReplySchema,
  ImageRefreshRequestSchema,
  MapGetReplySchema,
  MapGetRequestSchema,
  MapSubscribeReplySchema,
  MapSubscribeRequestSchema,
  MapUpdateSchema,
  type OsdCommand,
  OsdCommandSchema,
  OsdRegisterReplySchema,
  OsdRegisterRequestSchema,
  OsdReportReplySchema,
  OsdReportRequestSchema,
  type TraceOrder,
  TraceOrderSchema,
  TraceTellReplySchema,
  TraceTellRequestSchema,
} from "../../proto/gen/control_pb.ts";
import { FastblockError } from "../base/errors.ts";
import type { OsdId, SessionId } from "../base/ids.ts";
import {
  type ClusterMap,
  compareMapIdentity,
  type MapDelta,
  splitDelta,
} from "../cluster/cluster.ts";
import type { World } from "../reactor/world.ts";
import { type Connection, ControlService, Method, Role } from "../rpc/rpc.ts";
import type { Catalogue } from "./catalogue.ts";
import type { FormatService } from "./format-service.ts";
import type { ImageService } from "./image-service.ts";
import type { OldCopy, SeenMap } from "./old-copy.ts";
import { type OsdService, REPORT_INTERVAL_MS } from "./osd-service.ts";
import type { PoolService } from "./pool-service.ts";
import type { SessionMode } from "./records.ts";
import {
  type FormerSession,
  headerOf,
  type SessionHolder,
  type SessionService,
} from "./session-service.ts";
import type { TraceService } from "./trace-service.ts";

export interface ControlServerOptions {
  readonly world: World;
  readonly catalogue: Catalogue;
  readonly copies: OldCopy;
  readonly formats: FormatService;
  readonly osds: OsdService;
  readonly pools: PoolService;
  readonly images: ImageService;
  readonly sessions: SessionService;
  readonly traces: TraceService;
}

/**
 * Control RPC: what osds, gateways and clients ask of the monitor, and what it pushes to them.
 *
 * A subscriber's map advances without gaps: what it lacks is pushed before the reply to its
 * request, everything later after it, all in order. Carrying the update in the reply was not
 * enough: whoever awaits the reply takes the pushes that arrive with it first.
 */
export class ControlServer {
  readonly service: ControlService;
  private readonly options: ControlServerOptions;
  private readonly peers = new Map<Connection, ControlPeer>();

  constructor(options: ControlServerOptions) {
    this.options = options;
    this.service = new ControlService(options.world, {
      onClose: (connection) => this.onClose(connection),
    });
    this.serveOsds();
    this.serveMaps();
    this.serveImages();
    this.serveTraces();
  }

  /** The map moved: push the change to everybody who follows. */
  onMap(delta: MapDelta): void {
    let parts: MapDelta[] | undefined;
    for (const peer of this.peers.values()) {
      if (!peer.follows(delta)) continue;
      parts ??= splitDelta(delta);
      peer.send(parts);
    }
  }

  /** Tell the process of an osd something. False when it is not connected. */
  command(osd: OsdId, command: OsdCommand["command"]): boolean {
    for (const peer of this.peers.values()) {
      if (peer.osd !== osd) continue;
      const message = create(OsdCommandSchema, { command });
      return this.service.push(peer.connection, Method.OsdCommand, OsdCommandSchema, message);
    }
    return false;
  }

  /** Tell everybody who can take part what is to be traced. */
  orderTrace(order: TraceOrder): void {
    for (const peer of this.peers.values()) this.tellTrace(peer, order);
  }

  private tellTrace(peer: ControlPeer, order: TraceOrder): void {
    const { connection } = peer;
    if (peer.osd !== undefined) {
      const message = create(OsdCommandSchema, { command: { case: "trace", value: order } });
      this.service.push(connection, Method.OsdCommand, OsdCommandSchema, message);
    } else if (peer.backend !== "") {
      this.service.push(connection, Method.TraceOrder, TraceOrderSchema, order);
    }
  }

  /** Who comes while a trace is taken takes part. */
  private welcome(peer: ControlPeer): void {
    const { order } = this.options.traces;
    if (order !== undefined) this.tellTrace(peer, order);
  }

  /** What carries disk and network of each gateway and client that follows the map. */
  clientBackends(): readonly string[] {
    return [...this.peers.values()].map((peer) => peer.backend).filter((one) => one !== "");
  }

  /** Gateways and clients that follow the map, with the highest format that each knows. */
  *clientFormats(): Iterable<readonly [string, number]> {
    for (const { backend, connection } of this.peers.values()) {
      const { peer } = connection;
      if (backend !== "" && peer !== null) yield [peer.name, peer.formats.range.max];
    }
  }

  private serveOsds(): void {
    const { osds, catalogue } = this.options;
    this.service.serve(
      Method.OsdRegister,
      OsdRegisterRequestSchema,
      OsdRegisterReplySchema,
      async (request, connection) => {
        checkOsd(connection, request.osd, request.storeUuid);
        const formats = connection.peer!.formats;
        this.options.formats.judge(`osd.${String(request.osd)}`, formats);
        if (request.startsOnly) {
          await osds.noteStarts(request);
          return create(OsdRegisterReplySchema);
        }
        await osds.register(request, formats);
        // A connection that died with the osd's host may still stand here.
        for (const other of this.peers.values()) {
          if (other.osd === (request.osd as OsdId)) other.osd = undefined;
        }
        const peer = this.peerOf(connection);
        peer.osd = request.osd as OsdId;
        peer.subscribe(request.generation, request.epoch);
        this.welcome(peer);
        return create(OsdRegisterReplySchema, {
          reportIntervalMs: REPORT_INTERVAL_MS,
        });
      },
    );
    this.service.serve(
      Method.OsdReport,
      OsdReportRequestSchema,
      OsdReportReplySchema,
      (request, connection) => {
        checkOsd(connection, request.osd, undefined);
        const isKnown =
          this.peerOf(connection).osd === (request.osd as OsdId) && osds.report(request);
        return create(OsdReportReplySchema, {
          generation: catalogue.map.generation,
          epoch: catalogue.map.epoch,
          register: !isKnown,
        });
      },
    );
  }

  private serveMaps(): void {
    this.service.serve(
      Method.MapSubscribe,
      MapSubscribeRequestSchema,
      MapSubscribeReplySchema,
      (request, connection) => {
        this.checkTellable(request);
        const { name, formats } = connection.peer!;
        this.options.formats.judge(name, formats);
        const peer = this.peerOf(connection);
        peer.backend = request.backend;
        peer.subscribe(request.generation, request.epoch);
        this.welcome(peer);
        return create(MapSubscribeReplySchema);
      },
    );
    this.service.serve(
      Method.MapGet,
      MapGetRequestSchema,
      MapGetReplySchema,
      (request, connection) => {
        this.checkTellable(request);
        this.peerOf(connection).catchUp(request.generation, request.epoch);
        return create(MapGetReplySchema);
      },
    );
  }

  /** Throws FB1015 while the catalogue is held: its map may be one that nobody is to follow. */
  private checkTellable(seen: SeenMap): void {
    const { copies, catalogue } = this.options;
    copies.note(seen);
    if (catalogue.held !== undefined) throw catalogue.held;
  }

  private serveImages(): void {
    const { images, sessions, pools, catalogue } = this.options;
    this.service.serve(
      Method.ImageOpen,
      ImageOpenRequestSchema,
      ImageOpenReplySchema,
      async (request, connection) => {
        const signed = await sessions.open(
          () => images.imageOf(request.pool, request.image),
          modeOf(request.mode),
          request.client === "" ? (connection.peer?.name ?? "?") : request.client,
          request.takeOver,
          this.peerOf(connection),
          formerOf(request),
        );
        return create(ImageOpenReplySchema, signed);
      },
    );
    this.service.serve(
      Method.ImageRefresh,
      ImageRefreshRequestSchema,
      ImageRefreshReplySchema,
      async (request, connection) => {
        const id = Number(request.session) as SessionId;
        const signed = await sessions.refresh(id, this.peerOf(connection));
        return create(ImageRefreshReplySchema, signed);
      },
    );
    this.service.serve(
      Method.ImageClose,
      ImageCloseRequestSchema,
      ImageCloseReplySchema,
      async (request) => {
        await sessions.close(Number(request.session) as SessionId);
        return create(ImageCloseReplySchema);
      },
    );
    this.service.serve(
      Method.ImageList,
      ImageListRequestSchema,
      ImageListReplySchema,
      (request) => {
        const pool = request.pool === "" ? undefined : pools.poolOf(request.pool).id;
        return create(ImageListReplySchema, {
          images: images.list(pool).map((image) => ({
            pool: catalogue.map.pools.get(image.pool)?.name ?? "",
            header: headerOf(image),
          })),
        });
      },
    );
  }

  private serveTraces(): void {
    this.service.serve(
      Method.TraceTell,
      TraceTellRequestSchema,
      TraceTellReplySchema,
      (request, connection) => {
        const { peer } = connection;
        const isOsd = peer?.role === Role.Osd;
        const known = this.options.traces.hear(peer?.name ?? "?", isOsd, request);
        return create(TraceTellReplySchema, { known });
      },
    );
  }

  private peerOf(connection: Connection): ControlPeer {
    const known = this.peers.get(connection);
    if (known !== undefined) return known;
    // An answer that took long may find its connection gone: such a peer holds nothing.
    const peer = new ControlPeer(this.options, this.service, connection);
    if (connection.isOpen) this.peers.set(connection, peer);
    return peer;
  }

  private onClose(connection: Connection): void {
    const peer = this.peers.get(connection);
    if (peer === undefined) return;
    this.peers.delete(connection);
    peer.end();
    this.options.sessions.unbind(peer);
  }
}

/** One connected osd, gateway or client. */
class ControlPeer implements SessionHolder {
  readonly connection: Connection;
  osd: OsdId | undefined;
  /** Of a gateway or a client, as it told. */
  backend = "";
  private readonly map: ClusterMap;
  private readonly service: ControlService;
  private isSubscribed = false;
  /** The map that the peer has once everything sent has arrived. */
  private sentGeneration = 0;
  private sentEpoch = 0;

  constructor(options: ControlServerOptions, service: ControlService, connection: Connection) {
    this.map = options.catalogue.map;
    this.service = service;
    this.connection = connection;
  }

  /** Bring the peer from what it has to the present map, and keep it there. */
  subscribe(generation: number, epoch: number): void {
    this.catchUp(generation, epoch);
    this.sentGeneration = this.map.generation;
    this.sentEpoch = this.map.epoch;
    this.isSubscribed = true;
  }

  /** Push what the peer lacks now. */
  catchUp(generation: number, epoch: number): void {
    if (compareMapIdentity({ generation, epoch }, this.map) >= 0) return;
    const delta = this.map.deltaFrom(generation, epoch);
    if (delta !== undefined) this.send(splitDelta(delta));
  }

  /** True when the peer follows and has everything before `delta`. */
  follows(delta: MapDelta): boolean {
    if (!this.isSubscribed) return false;
    if (delta.full) return true;
    return delta.fromEpoch === this.sentEpoch && delta.generation === this.sentGeneration;
  }

  send(parts: readonly MapDelta[]): void {
    for (const part of parts) {
      this.sentGeneration = part.generation;
      this.sentEpoch = part.epoch;
      const message = create(MapUpdateSchema, part);
      this.service.push(this.connection, Method.MapUpdate, MapUpdateSchema, message);
    }
  }

  notifyImage(session: SessionId, removed: boolean): void {
    const message = create(ImageChangedSchema, { session: BigInt(session), removed });
    this.service.push(this.connection, Method.ImageChanged, ImageChangedSchema, message);
  }

  end(): void {
    this.isSubscribed = false;
  }
}

/** An osd speaks for itself alone. */
function checkOsd(connection: Connection, osd: number, storeUuid: string | undefined): void {
  const peer = connection.peer;
  if (peer?.role === Role.Osd && peer.id === osd) {
    if (storeUuid === undefined || peer.storeUuid === "" || peer.storeUuid === storeUuid) return;
  }
  throw new FastblockError("FB1007", `a peer speaks as osd ${String(osd)} and is not`, {
    why: `it proved to be ${peer?.name ?? "nobody"}`,
  });
}

function formerOf(request: ImageOpenRequest): FormerSession | undefined {
  if (request.former === 0n) return undefined;
  return { id: Number(request.former) as SessionId, lockEpoch: request.formerLockEpoch };
}

function modeOf(mode: ImageOpenMode): SessionMode {
  switch (mode) {
    case ImageOpenMode.SHARED:
      return "shared";
    case ImageOpenMode.READ_ONLY:
      return "read-only";
    case ImageOpenMode.EXCLUSIVE:
      return "exclusive";
    case ImageOpenMode.UNSPECIFIED:
      throw new FastblockError("FB1001", "opening an image: no mode given");
  }
}
