// cold: listening and dialling
import { assert } from "../base/assert.ts";
import { FastblockError } from "../base/errors.ts";
import type { Logger } from "../base/logger.ts";
import { PAYLOAD_SIZE_MAX, TWO_32 } from "../base/units.ts";
import { uuidBytes } from "../base/uuid.ts";
import {
  type Acceptor,
  type Address,
  type Listener,
  type Stream,
  type StreamHandler,
  type StreamOptions,
  type World,
} from "../reactor/world.ts";
import { Connection } from "./connection.ts";
import type { Admission, ConnectionHandler, ConnectionOwner } from "./connection-types.ts";
import {
  FRAME_VERSION_MAX,
  type FrameLimits,
  frameSize,
  HEADER_SIZE_CONTROL_MAX,
  HEADER_SIZE_DATA_MAX,
} from "./frame.ts";
import type { HandshakeConfig } from "./handshake.ts";
import type { Link } from "./link.ts";
import { ID_ANY, type RpcIdentity, type RpcReceiver } from "./peer.ts";

/** Limits of an endpoint. The defaults suit a shard and a client of the data path. */
export interface RpcOptions {
  /** Control messages of up to 1 MiB pass, and no payload. Default: headers of 8 KiB, payloads. */
  readonly control?: boolean;
  /** Largest header taken beside data, where calls share the connections. Default 8 KiB. */
  readonly headerBytes?: number;
  /** Own requests that wait on one connection: a power of two. Default 1024. */
  readonly requestsMax?: number;
  /** Requests of a peer that are served at once on one connection. Default 1024. */
  readonly servingMax?: number;
  /** Accepted connections; one more is closed at once. Default 4096. */
  readonly connectionsMax?: number;
  /** Accepted connections that have not proved the key yet. Default 256. */
  readonly greetingsMax?: number;
  /** Send space of a connection. Default 2 MiB, and 4 MiB for control. */
  readonly sendBytes?: number;
  /** Receive buffer of a connection. Default 1 MiB, and 2 MiB for control. */
  readonly receiveBytes?: number;
  /** The newest version of frames that it speaks. Default: all; an older program knows fewer. */
  readonly versionMax?: number;
  /** Encrypt every connection, or have none. Default: where the other end wants it. */
  readonly encrypt?: boolean;
  /** Local address of dialled connections. */
  readonly bind?: string;
  /** Shortest and longest pause between two attempts to connect. Default 20 ms and 1 s. */
  readonly backoffMinUs?: number;
  readonly backoffMaxUs?: number;
}

/**
 * Where this thread's connections come from: one identity, one key, any number of listeners and
 * dialled peers.
 */
export class RpcEndpoint {
  readonly world: World;
  readonly identity: RpcIdentity;
  /** Random number of this endpoint's start, below 2^53; peers see it as `peer.boot`. */
  readonly boot: number;
  private readonly core: EndpointCore;

  /**
   * `psk`: 32 bytes. Throws when the identity is malformed, and FB1018 when connections are to be
   * encrypted and can not be.
   */
  constructor(world: World, identity: RpcIdentity, psk: Uint8Array, options: RpcOptions = {}) {
    assert(psk.length === 32, "RpcEndpoint: the key is not 32 bytes");
    assert(uuidBytes(identity.clusterId).length === 16, "RpcEndpoint: no cluster id");
    uuidBytes(identity.storeUuid);
    const encrypt = options.encrypt === true;
    if (encrypt) requireCiphers(world, identity);
    this.world = world;
    this.identity = identity;
    this.boot = world.random.below(0x20_0000) * TWO_32 + world.random.u32();
    this.core = new EndpointCore(world, options, {
      identity,
      boot: this.boot,
      psk: psk.slice(),
      checksum: world.checksum,
      random: world.random,
      limits: limitsOf(options),
      versionMax: options.versionMax ?? FRAME_VERSION_MAX,
      encrypt,
      ciphers: world.ciphers,
    });
  }

  /** Accepted connections and dialled ones, in whatever state. */
  get connections(): number {
    return this.core.all.size;
  }

  /** Listen; port 0 lets the system choose. Throws FB4005 when the address is in use. */
  listen(address: Address, admission: Admission): Listener {
    const acceptor = new RpcAcceptor(this.core, admission);
    return this.world.network.listen(address, acceptor, this.core.streamOptions);
  }

  /**
   * A connection to `receiver`, made again whenever it is lost, until it is closed. The first
   * attempt starts now; `handler.onOpen` follows.
   */
  dial(target: Address, receiver: RpcReceiver, handler: ConnectionHandler): Connection {
    assert(receiver.id !== ID_ANY || receiver.role === 1, "RpcEndpoint.dial: only a mon is anyone");
    uuidBytes(receiver.storeUuid);
    const connection = new Connection(this.core, target, receiver, handler, null);
    this.core.all.add(connection);
    connection.start();
    return connection;
  }

  /**
   * The cluster's format, as far as it is known here, was raised (`identity.formats`): whoever does not
   * know it is gone, and comes back only when he does.
   */
  wantFormat(format: number): void {
    const { formats } = this.identity;
    assert(formats !== undefined, "RpcEndpoint.wantFormat: formats are not announced");
    if (format <= formats.wanted) return;
    formats.wanted = format;
    for (const connection of [...this.core.all]) {
      const { peer } = connection;
      if (peer !== null && peer.formats.range.max < format)
        connection.renew("too old: the cluster's format was raised");
    }
  }

  /** Close all connections. Listeners are closed by their owners. */
  close(reason: string): void {
    for (const connection of [...this.core.all]) connection.close(reason);
  }
}

function requireCiphers(world: World, { name }: RpcIdentity): void {
  const { missing } = world.ciphers;
  if (missing === "") return;
  throw new FastblockError("FB1018", `encrypting connections of ${name}: ${missing}, wanted one`);
}

function limitsOf(options: RpcOptions): FrameLimits {
  return options.control === true
    ? { headerBytes: HEADER_SIZE_CONTROL_MAX, payloadBytes: 0 }
    : { headerBytes: options.headerBytes ?? HEADER_SIZE_DATA_MAX, payloadBytes: PAYLOAD_SIZE_MAX };
}

/** What connections share. */
class EndpointCore implements ConnectionOwner {
  readonly world: World;
  readonly logger: Logger;
  readonly handshake: HandshakeConfig;
  readonly limits: Readonly<FrameLimits>;
  readonly requestsMax: number;
  readonly servingMax: number;
  readonly connectionsMax: number;
  readonly greetingsMax: number;
  readonly streamOptions: StreamOptions;
  readonly backoff: { readonly minUs: number; readonly maxUs: number };
  readonly all: Set<Connection> = new Set<Connection>();
  private accepted = 0;
  private greetings = 0;

  constructor(world: World, options: RpcOptions, handshake: HandshakeConfig) {
    const mib = options.control === true ? 2 : 1;
    this.world = world;
    this.logger = world.logger;
    this.handshake = handshake;
    this.limits = handshake.limits;
    this.requestsMax = options.requestsMax ?? 1024;
    this.servingMax = options.servingMax ?? 1024;
    this.connectionsMax = options.connectionsMax ?? 4096;
    this.greetingsMax = options.greetingsMax ?? 256;
    this.backoff = {
      minUs: options.backoffMinUs ?? 20_000,
      maxUs: options.backoffMaxUs ?? 1_000_000,
    };
    this.streamOptions = {
      receiveBytes: options.receiveBytes ?? mib * 1_048_576,
      sendBytes: options.sendBytes ?? mib * 2_097_152,
      ...(options.bind === undefined ? {} : { bind: options.bind }),
    };
    const largest = frameSize(this.limits.headerBytes, this.limits.payloadBytes);
    assert(this.streamOptions.receiveBytes! >= largest, "RpcEndpoint: receive buffer too small");
    assert(this.streamOptions.sendBytes! >= largest, "RpcEndpoint: send space too small");
  }

  /** An accepted connection begins. */
  enter(connection: Connection): void {
    this.all.add(connection);
    this.accepted += 1;
    this.greetings += 1;
  }

  onProved(): void {
    this.greetings -= 1;
  }

  onGone(link: Link): void {
    if (!this.all.delete(link as Connection) || link.isDialled) return;
    this.accepted -= 1;
    if (!link.hasProved) this.greetings -= 1;
  }

  /** True when another accepted connection has room. */
  hasRoom(): boolean {
    return this.accepted < this.connectionsMax && this.greetings < this.greetingsMax;
  }
}

class RpcAcceptor implements Acceptor {
  private readonly core: EndpointCore;
  private readonly admission: Admission;

  constructor(core: EndpointCore, admission: Admission) {
    this.core = core;
    this.admission = admission;
  }

  onAccept(stream: Stream): StreamHandler {
    const connection = new Connection(this.core, null, null, null, this.admission);
    const hasRoom = this.core.hasRoom();
    this.core.enter(connection);
    connection.accept(stream, hasRoom);
    return connection;
  }
}
