/** For tests: a dialler and an acceptor that note what they hear. */
import type { Ciphers } from "../base/cipher.ts";
import { Status } from "../base/status.ts";
import type { World } from "../reactor/world.ts";
import { type MemoryWorld, Pair } from "./bun-pair.ts";
import {
  type Connection,
  type ConnectionHandler,
  type Frame,
  Method,
  RequestOp,
  Role,
  RpcEndpoint,
  type RpcIdentity,
  type RpcOptions,
  type RpcReceiver,
} from "./rpc.ts";

export const CLUSTER = "0f0e0d0c-0b0a-0908-0706-050403020100";
const STORE = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee";
export const KEY: Uint8Array = new Uint8Array(32).fill(7);

export const OSD: RpcIdentity = {
  clusterId: CLUSTER,
  role: Role.Osd,
  id: 3,
  shard: 1,
  name: "osd.3",
  storeUuid: STORE,
};
export const CLIENT: RpcIdentity = {
  clusterId: CLUSTER,
  role: Role.Client,
  id: 77,
  shard: 0,
  name: "nbd.0",
};
export const TO_OSD: RpcReceiver = { role: Role.Osd, id: 3, shard: 1, storeUuid: STORE };

/** A request that notes its end. */
export class NotingOp extends RequestOp {
  header: Uint8Array = new Uint8Array(0);
  payload: Uint8Array = new Uint8Array(0);
  status: Status | null = null;
  private readonly world: World;

  constructor(world: World) {
    super();
    this.world = world;
  }

  onReply(frame: Frame): void {
    const bytes = this.world.arena.bytes;
    this.header = bytes.slice(frame.headerOffset, frame.headerOffset + frame.headerSize);
    this.payload = bytes.slice(frame.payloadOffset, frame.payloadOffset + frame.payloadSize);
    this.status = Status.Ok;
  }

  onFail(status: Status): void {
    this.status = status;
  }
}

/** Notes everything; answers requests with what they carried unless `hold`. */
export class NotingHandler implements ConnectionHandler {
  readonly events: string[] = [];
  readonly held: { requestId: number; body: Uint8Array }[] = [];
  connection: Connection | null = null;
  hold = false;
  oneways = 0;
  requests = 0;
  private readonly world: World;

  constructor(world: World) {
    this.world = world;
  }

  onOpen(connection: Connection): void {
    this.connection = connection;
    this.events.push("open");
  }

  onRequest(connection: Connection, frame: Frame): void {
    this.requests += 1;
    const body = this.world.arena.bytes.slice(
      frame.headerOffset,
      frame.headerOffset + frame.headerSize,
    );
    if (this.hold) this.held.push({ requestId: frame.requestId, body });
    else this.answer(connection, frame.requestId, body);
  }

  answer(connection: Connection, requestId: number, body: Uint8Array): boolean {
    const at = connection.beginReply(requestId, Method.Echo, body.length, 0);
    if (at < 0) return false;
    this.world.arena.bytes.set(body, at);
    connection.finish();
    return true;
  }

  onOneway(): void {
    this.oneways += 1;
  }

  onWritable(): void {
    this.events.push("writable");
  }

  onClose(_connection: Connection, reason: string, opened: boolean): void {
    this.events.push(`${opened ? "close" : "failed"}: ${reason}`);
  }
}

export interface EndsOptions {
  readonly client?: RpcIdentity;
  readonly osd?: RpcIdentity;
  readonly to?: RpcReceiver;
  readonly clientKey?: Uint8Array;
  readonly clientOptions?: RpcOptions;
  readonly osdOptions?: RpcOptions;
  /** Memory of each process. Default 32 MiB. */
  readonly arenaBytes?: number;
  /** Of each process. Default: the system's. */
  readonly clientCiphers?: Ciphers;
  readonly osdCiphers?: Ciphers;
}

/** For tests that make hundreds of pairs. */
export const SMALL: EndsOptions = {
  clientOptions: { receiveBytes: 327_680, sendBytes: 327_680 },
  osdOptions: { receiveBytes: 327_680, sendBytes: 327_680 },
  arenaBytes: 1_507_328,
};

/** As `SMALL`, where the osd wants its connections encrypted. */
export const ENCRYPTED: EndsOptions = {
  ...SMALL,
  osdOptions: { ...SMALL.osdOptions, encrypt: true },
};

/** A client that dials an osd. */
export class Ends {
  readonly pair: Pair = new Pair();
  readonly clientWorld: MemoryWorld;
  readonly osdWorld: MemoryWorld;
  readonly client: RpcEndpoint;
  readonly osd: RpcEndpoint;
  readonly clientSide: NotingHandler;
  readonly osdSide: NotingHandler;
  readonly connection: Connection;

  constructor(options: EndsOptions = {}) {
    const key = options.clientKey ?? KEY;
    this.clientWorld = this.pair.createWorld(options.arenaBytes);
    this.osdWorld = this.pair.createWorld(options.arenaBytes);
    this.clientWorld.ciphers = options.clientCiphers ?? this.clientWorld.ciphers;
    this.osdWorld.ciphers = options.osdCiphers ?? this.osdWorld.ciphers;
    this.clientSide = new NotingHandler(this.clientWorld);
    this.osdSide = new NotingHandler(this.osdWorld);
    this.client = new RpcEndpoint(
      this.clientWorld,
      options.client ?? CLIENT,
      key,
      options.clientOptions,
    );
    this.osd = new RpcEndpoint(this.osdWorld, options.osd ?? OSD, KEY, options.osdOptions);
    const listener = this.osd.listen(
      { kind: "tcp", host: "127.0.0.1", port: 6800 },
      () => this.osdSide,
    );
    this.connection = this.client.dial(listener.address, options.to ?? TO_OSD, this.clientSide);
  }

  /** Send a request with this body; null when the connection refuses it. */
  request(body: Uint8Array, timeoutUs = 0, payload?: Uint8Array): NotingOp | null {
    const op = new NotingOp(this.clientWorld);
    const payloadBytes = payload?.length ?? 0;
    const connection = this.connection;
    const at = connection.beginRequest(op, Method.Echo, body.length, payloadBytes, timeoutUs);
    if (at < 0) return null;
    this.clientWorld.arena.bytes.set(body, at);
    if (payload !== undefined) this.clientWorld.arena.bytes.set(payload, connection.payloadOffset);
    connection.finish();
    return op;
  }

  /** All warnings of both processes. */
  get warnings(): string[] {
    return [...this.clientWorld.logger.lines, ...this.osdWorld.logger.lines];
  }
}
