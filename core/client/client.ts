/**
 * The library that attaches images: gateways, load generator and CLI are its users.
 *
 * `Client` finds the cluster, `Image` is one attachment. The data path is `Image.submit(op)` with
 * pooled `ImageOp`s; the promise methods of `Image` are for those who do a few requests.
 */
import { failOnBug } from "../base/assert.ts";
import { create, fromBinary } from "@bufbuild/protobuf";
import { type ErrorCode, FastblockError } from "../base/errors.ts";
import { FORMATS, type FormatRange } from "../base/formats.ts";
import type { ImageId, LayerId, PoolId, SessionId } from "../base/ids.ts";
import { Status } from "../base/status.ts";
import { BLOCK_SIZE } from "../base/units.ts";
import {
  ImageCloseReplySchema,
  ImageCloseRequestSchema,
  type ImageHeader as HeaderMessage,
  ImageListReplySchema,
  ImageListRequestSchema,
  ImageOpenMode,
  type ImageOpenReply,
  ImageOpenReplySchema,
  ImageOpenRequestSchema,
  ImageRefreshReplySchema,
  ImageRefreshRequestSchema,
  MapUpdateSchema,
  SessionAttachReplySchema,
  SessionAttachRequestSchema,
  SessionGrantSchema,
} from "../../proto/gen/control_pb.ts";
import {
  ClusterMap,
  type ImageHeader,
  isName,
  type PoolInfo,
  TOLD_BYTES_MAX,
} from "../cluster/cluster.ts";
import { sleep, type World } from "../reactor/world.ts";
import {
  type Connection,
  ControlService,
  type Frame,
  Method,
  Role,
  RpcEndpoint,
  type RpcIdentity,
  SHARD_NONE,
} from "../rpc/rpc.ts";
import { ClientCore, type ClientServices } from "./client-core.ts";
import type { ImageCore } from "./image.ts";
import type { Link } from "./link.ts";
import { type MapCache, type MonAddress, MonSession } from "./mon-session.ts";
import { Image, type ImageKeeper, type OpenOptions } from "./open-image.ts";
import type { RouterCounts } from "./router.ts";
import { ImageSession } from "./session.ts";
import { TraceTeller } from "./trace-teller.ts";

export { BlockState, ImageOp, LEADER, OpKind, STATE_BYTES } from "./image-op.ts";
export type { ImageTarget } from "./image-op.ts";
export type { MapCache, MonAddress } from "./mon-session.ts";
export { Image, PromisedOp } from "./open-image.ts";
export type { OpenOptions, ReplicaPlace } from "./open-image.ts";
export type { RouterCounts } from "./router.ts";

export interface ClientOptions {
  readonly world: World;
  /** Of this process, for logs of its peers: `nbd.0`, `cli`. */
  readonly name: string;
  /** The cluster's uuid as text. */
  readonly clusterId: string;
  /** The 32-byte key of the cluster. */
  readonly psk: Uint8Array;
  readonly mons: readonly MonAddress[];
  /** Local address of outgoing connections. */
  readonly bind?: string;
  readonly cache?: MapCache;
  /** Encrypt all connections, or have none. Default: where the other end wants it. */
  readonly encrypt?: boolean;
  /** Of this program. Default: what it knows. */
  readonly formats?: FormatRange;
}

const CALL_MS = 10_000;
/** How often a session that the mon could not take back is offered again. */
const GIVE_BACK_US = 2_000_000;
/** The monitor can not be asked, or may not answer yet. */
const PASSING: readonly ErrorCode[] = ["FB1004", "FB1006", "FB1015"];
/** Pause between two tries to renew a session while no monitor answers. */
const RENEW_PAUSE_MS = 250;
const ATTACH_MS = 5000;
/** How often opening an image looks whether this client has closed it. */
const CLOSING_STEP_US = 5000;
/** A session that is kept: once for each time that an image was closed. */
interface Kept {
  readonly session: ImageSession;
}

/** A session with uncertain changes is kept for this long. */
const KEPT_US = 30_000_000;

/**
 * A client of one cluster. One per thread: all images share its connections, one per (osd, shard).
 *
 * Open images go on being served with every mon down; opening one needs a mon.
 */
export class Client {
  private readonly inner: ClientSide;

  constructor(options: ClientOptions) {
    this.inner = new ClientSide(options);
  }

  /** The newest map. Read only. */
  get map(): ClusterMap {
    return this.inner.map;
  }

  /** Counters of the data path. */
  get counts(): RouterCounts {
    return this.inner.core.router.counts;
  }

  /**
   * Connect to the mon and wait for the first map; with a cached map, answer at once. After a
   * failure it goes on trying: call it again to wait again.
   * Throws FB1004 when no mon answers within `timeoutMs` and nothing is cached, FB1007 when they
   * refuse this client: its key is not the cluster's; FB1018 when it is a matter of encryption.
   */
  start(timeoutMs: number = CALL_MS): Promise<void> {
    return this.inner.start(timeoutMs);
  }

  /** Open `POOL/IMAGE`. Throws FB1001, FB1004, FB1006, FB2001, FB3001, FB3005. */
  openImage(path: string, options: OpenOptions = {}): Promise<Image> {
    return this.inner.openImage(path, options);
  }

  /** The paths (`POOL/IMAGE`) of all images, sorted. Throws FB1004, FB1006. */
  listImages(timeoutMs: number = CALL_MS): Promise<string[]> {
    return this.inner.listImages(timeoutMs);
  }

  /** Close all images and connections. */
  stop(): Promise<void> {
    return this.inner.stop();
  }
}

class ClientSide implements ClientServices, ImageKeeper {
  readonly map: ClusterMap = new ClusterMap();
  readonly core: ClientCore;
  private readonly options: ClientOptions;
  private readonly world: World;
  private readonly identity: RpcIdentity;
  private readonly endpoint: RpcEndpoint;
  private readonly control: ControlService;
  private readonly mon: MonSession;
  private readonly traces: TraceTeller;
  private readonly images = new Set<Image>();
  /** Sessions of closed images under which changes were given up that may be made yet. */
  private readonly kept = new Map<ImageId, Kept>();
  /** Blocks to merge in, given back by closed images. */
  private readonly scratches: number[] = [];
  private isStarted = false;
  private isStopped = false;

  constructor(options: ClientOptions) {
    this.options = options;
    this.world = options.world;
    this.identity = {
      clusterId: options.clusterId,
      role: Role.Client,
      id: options.world.random.below(0xffff_ffff),
      shard: SHARD_NONE,
      name: options.name,
      formats: { range: options.formats ?? FORMATS, wanted: 0 },
    };
    this.endpoint = new RpcEndpoint(options.world, this.identity, options.psk, {
      headerBytes: TOLD_BYTES_MAX,
      encrypt: options.encrypt === true,
      ...(options.bind === undefined ? {} : { bind: options.bind }),
    });
    this.control = new ControlService(options.world);
    this.control.take(Method.MapUpdate, MapUpdateSchema, (update) => this.mon.applyUpdate(update));
    this.core = new ClientCore(options.world, this.map, this);
    this.mon = new MonSession({
      world: options.world,
      identity: this.identity,
      psk: options.psk,
      mons: options.mons,
      bind: options.bind,
      encrypt: options.encrypt === true,
      cache: options.cache,
      map: this.map,
      events: {
        onMap: () => {
          this.endpoint.wantFormat(this.map.format);
          this.core.router.onMapChanged();
        },
        onMonReady: () => this.refreshAll(),
        onImageChanged: (session, removed) => this.onImageChanged(session, removed),
      },
    });
    this.traces = new TraceTeller(options.world, this.mon);
  }

  async start(timeoutMs: number): Promise<void> {
    if (!this.isStarted) this.mon.start();
    this.isStarted = true;
    this.world.turns.again();
    if (this.map.epoch === 0) await this.mon.whenReady(timeoutMs);
  }

  async stop(): Promise<void> {
    if (this.isStopped) return;
    await Promise.all([...this.images].map((image) => image.close()));
    const kept = [...this.kept.values()];
    this.kept.clear();
    await Promise.all(kept.map(({ session }) => this.end(session)));
    this.isStopped = true;
    await this.traces.stop();
    this.mon.stop();
    this.core.router.stop();
    this.endpoint.close("the client stops");
  }

  async listImages(timeoutMs: number): Promise<string[]> {
    const request = create(ImageListRequestSchema, { pool: "" });
    const reply = await this.mon.call(
      Method.ImageList,
      ImageListRequestSchema,
      request,
      ImageListReplySchema,
      timeoutMs,
    );
    return reply.images.map((item) => `${item.pool}/${item.header?.name ?? ""}`).sort();
  }

  async openImage(path: string, options: OpenOptions): Promise<Image> {
    const opened = this.newSession(await this.callOpen(path, options));
    const session = isShared(options) ? await this.goOn(opened) : opened;
    const pool = await this.poolOf(session.header.pool);
    const scratch = this.scratches.pop() ?? this.world.arena.allocate(BLOCK_SIZE);
    const image = new Image(this.core, this, session, pool, scratch, options);
    this.images.add(image);
    return image;
  }

  /** `former`: the session that the new one goes on with. */
  private async callOpen(
    path: string,
    options: OpenOptions,
    former?: ImageSession,
  ): Promise<ImageOpenReply> {
    const { pool, image } = parsePath(path);
    const request = create(ImageOpenRequestSchema, {
      pool,
      image,
      mode: modeOf(options),
      client: this.options.name,
      takeOver: options.takeOver === true,
      former: BigInt(former?.id ?? 0),
      formerLockEpoch: former?.lockEpoch ?? 0,
    });
    return this.mon.call(
      Method.ImageOpen,
      ImageOpenRequestSchema,
      request,
      ImageOpenReplySchema,
      options.openMs ?? CALL_MS,
    );
  }

  private newSession(reply: ImageOpenReply): ImageSession {
    const session = sessionOf(reply);
    this.core.uncertain.fence(session.imageId, session.lockEpoch);
    return session;
  }

  /** Whether this client is closing an image: it may give up changes yet. */
  private isClosing(id: ImageId): boolean {
    return [...this.images].some((one) => one.id === id && one.isClosed);
  }

  /**
   * Go on under the session that is kept of the image, or will be as soon as it is closed, which tells the
   * groups what was given up under it; or under the one that was opened, where there is none, or the mon
   * says that it is over.
   */
  private async goOn(opened: ImageSession): Promise<ImageSession> {
    const { imageId } = opened;
    const waits = this.isClosing(imageId);
    while (this.isClosing(imageId)) await sleep(this.world.timers, CLOSING_STEP_US);
    const kept = this.kept.get(imageId);
    if (kept === undefined && !waits) return opened;
    this.kept.delete(imageId);
    const session = kept?.session ?? opened;
    try {
      // What the mon told of the image meanwhile, nobody heard.
      await this.grantAnew(session, CALL_MS);
    } catch (error) {
      const isOver = error instanceof FastblockError && error.code === "FB3007";
      if (isOver && kept !== undefined) return opened;
      if (kept !== undefined) await this.keep(kept.session);
      // Why the image can not be opened is told at once.
      void this.end(opened);
      throw error;
    }
    // Nobody waits for that: requests go on at once.
    if (session !== opened) void this.end(opened);
    return session;
  }

  /** The pool of an image that was just opened; its map may still be on the way. */
  private async poolOf(id: PoolId): Promise<PoolInfo> {
    for (let waited = 0; waited < CALL_MS; waited += 10) {
      const pool = this.map.pools.get(id);
      if (pool !== undefined) return pool;
      this.mon.wantMap();
      await sleep(this.world.timers, 10_000);
    }
    throw new FastblockError("FB2001", `opening an image: pool ${id} is not in the map`);
  }

  /* ------------------------------------------------------------- for images */

  async refresh(image: Image, timeoutMs: number): Promise<void> {
    await this.grantAnew(image.session, timeoutMs);
  }

  private async grantAnew(session: ImageSession, timeoutMs: number): Promise<void> {
    const request = create(ImageRefreshRequestSchema, { session: BigInt(session.id) });
    const reply = await this.mon.call(
      Method.ImageRefresh,
      ImageRefreshRequestSchema,
      request,
      ImageRefreshReplySchema,
      timeoutMs,
    );
    session.renew(headerOf(reply.header), reply.grant, reply.mac);
    this.core.uncertain.fence(session.imageId, session.lockEpoch);
  }

  async forget(image: Image): Promise<void> {
    if (!this.images.delete(image)) return;
    this.scratches.push(image.scratch);
    if (isShared(image.options) && image.session.isUncertain) await this.keep(image.session);
    else await this.end(image.session);
  }

  // cold: an image is closed of which a change was given up.
  /**
   * A change that was given up may be made yet, and only this session's numbers tell its group that
   * nobody waits for it: whoever opens the image here again goes on with them (G4). It counts as in use
   * meanwhile, half a minute at most: people who detach an image of a full cluster want to remove it.
   */
  private async keep(session: ImageSession): Promise<void> {
    const kept: Kept = { session };
    const before = this.kept.get(session.imageId);
    this.kept.set(session.imageId, kept);
    if (before !== undefined) await this.end(before.session);
    // Ends with the client, which gives it back.
    void this.keepFor(kept);
  }

  private async keepFor(kept: Kept): Promise<void> {
    await sleep(this.world.timers, KEPT_US);
    const { session } = kept;
    if (this.isStopped || this.kept.get(session.imageId) !== kept) return;
    this.kept.delete(session.imageId);
    await this.end(session);
  }

  private async end(session: ImageSession): Promise<void> {
    if (await this.giveBack(session, true)) return;
    // Ends with the client, whose connection the mon forgets all sessions of.
    void this.giveBackLater(session);
  }

  /** Answers whether nothing is left to be done. */
  private async giveBack(session: ImageSession, isFirst: boolean): Promise<boolean> {
    const request = create(ImageCloseRequestSchema, { session: BigInt(session.id) });
    try {
      await this.mon.call(
        Method.ImageClose,
        ImageCloseRequestSchema,
        request,
        ImageCloseReplySchema,
        this.mon.isReady ? 2000 : 0,
      );
      return true;
    } catch (error) {
      if (failOnBug(this.world, error)) return true;
      if (isFirst) this.warn("a session was not given back", error);
      return false;
    }
  }

  // cold: the mon could not take a session back.
  /** As long as it is not given back, the image counts as in use: its disk may have been full. */
  private async giveBackLater(session: ImageSession): Promise<void> {
    do {
      await sleep(this.world.timers, GIVE_BACK_US);
    } while (!this.isStopped && !(await this.giveBack(session, false)));
  }

  renew(image: ImageCore, isExpired: boolean): void {
    this.renewing(image as Image, isExpired).then(
      (session) => image.onRenewed(session),
      (error: unknown) => {
        if (failOnBug(this.world, error)) return;
        this.warn("a session is over", error);
        image.onRenewed(null);
      },
    );
  }

  /** The renewed session; rejects when the monitor says that it is over. */
  private async renewing(image: Image, isExpired: boolean): Promise<ImageSession> {
    for (;;) {
      try {
        if (isExpired) return await this.reopen(image);
        await this.refresh(image, CALL_MS);
        return image.session;
      } catch (error) {
        const isPassing = error instanceof FastblockError && PASSING.includes(error.code);
        if (!isPassing || image.isClosed) throw error;
      }
      await sleep(this.world.timers, RENEW_PAUSE_MS * 1000);
    }
  }

  /**
   * Another session of the same image, whatever is called by the name that it had. It fences nobody else:
   * an exclusive holder that others have taken the image from does not take it back.
   */
  private async reopen(image: Image): Promise<ImageSession> {
    const former = image.session;
    const session = this.newSession(await this.callOpen(image.path, image.options, former));
    const isSame = session.imageId === image.id;
    // Its session was kept, or given back, when it was closed.
    if (image.isClosed) {
      await this.end(session);
      throw new FastblockError("FB3007", `opening ${image.path} again: it is closed`);
    }
    // Nobody waits for that: requests go on at once.
    void this.end(isSame ? former : session);
    if (isSame) return session;
    throw new FastblockError("FB3007", `opening ${image.path} again: it is another image now`);
  }

  /** Sessions belong to connections: tell the new one of ours. */
  private refreshAll(): void {
    for (const image of this.images) this.refreshQuietly(image);
  }

  private onImageChanged(session: SessionId, removed: boolean): void {
    for (const image of this.images) {
      if (image.session.id !== session) continue;
      if (removed) image.refuse(Status.Fenced);
      else this.refreshQuietly(image);
    }
  }

  private refreshQuietly(image: Image): void {
    this.refresh(image, CALL_MS).catch((error: unknown) =>
      this.warn("a session was not refreshed", error),
    );
  }

  /* ------------------------------------------------------------- for links */

  wantMap(): void {
    this.mon.wantMap();
  }

  onLinkMessage(connection: Connection, frame: Frame): void {
    this.control.onOneway(connection, frame);
  }

  dial(link: Link): void {
    link.connection = this.endpoint.dial(
      { kind: "tcp", host: link.host, port: link.port },
      { role: Role.Osd, id: link.osd, shard: link.shard, storeUuid: link.storeUuid },
      link,
    );
  }

  attach(link: Link, session: ImageSession): void {
    const connection = link.connection;
    if (connection === null) return;
    const { generation } = connection;
    const { grantVersion } = session;
    const router = this.core.router;
    const request = create(SessionAttachRequestSchema, { grant: session.grant, mac: session.mac });
    this.control
      .call(
        connection,
        Method.SessionAttach,
        SessionAttachRequestSchema,
        request,
        SessionAttachReplySchema,
        { timeoutMs: ATTACH_MS },
      )
      .then(
        (reply) => {
          const status: Status = reply.status;
          if (status === Status.Ok) router.onAttached(link, session, generation, grantVersion);
          else router.onAttachFailed(link, session, status === Status.Denied);
          this.world.turns.again();
        },
        (error: unknown) => {
          if (failOnBug(this.world, error)) return;
          router.onAttachFailed(link, session, false);
          this.world.turns.again();
        },
      );
  }

  private warn(text: string, error: unknown): void {
    if (failOnBug(this.world, error)) return;
    if (this.isStopped) return;
    const reason = error instanceof Error ? error.message : String(error);
    this.world.logger.warn(text, { reason });
  }
}

/** Split `POOL/IMAGE`. Throws FB1001. */
function parsePath(path: string): { readonly pool: string; readonly image: string } {
  const at = path.indexOf("/");
  const pool = path.slice(0, at);
  const image = path.slice(at + 1);
  if (at < 0 || !isName(pool) || !isName(image)) {
    throw new FastblockError("FB1001", `image path: ${JSON.stringify(path)}, wanted POOL/IMAGE`);
  }
  return { pool, image };
}

function modeOf(options: OpenOptions): ImageOpenMode {
  if (options.exclusive === true) return ImageOpenMode.EXCLUSIVE;
  return options.readOnly === true ? ImageOpenMode.READ_ONLY : ImageOpenMode.SHARED;
}

function isShared(options: OpenOptions): boolean {
  return modeOf(options) === ImageOpenMode.SHARED;
}

function sessionOf(reply: ImageOpenReply): ImageSession {
  const grant = fromBinary(SessionGrantSchema, reply.grant);
  const id = Number(grant.session) as SessionId;
  return new ImageSession(id, headerOf(reply.header), reply.grant, reply.mac);
}

function headerOf(message: HeaderMessage | undefined): ImageHeader {
  if (message === undefined) throw new FastblockError("FB1001", "image header: absent, wanted one");
  return {
    id: Number(message.image) as ImageId,
    name: message.name,
    pool: message.pool as PoolId,
    familyId: Number(message.family) as ImageId,
    layer: Number(message.layer) as LayerId,
    sizeBytes: Number(message.sizeBytes),
    objectBlocks: message.objectBlocks,
    snapSeq: message.snapSeq,
    lockEpoch: message.lockEpoch,
  };
}
