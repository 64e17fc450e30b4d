// data path
import { closeFile, setNoDelay } from "../../ffi/libc/libc.ts";
import { errnoText } from "../../ffi/libc/socket-address.ts";
import { type Ring, UringOp } from "../../ffi/uring/ring.ts";
import { assert } from "../base/assert.ts";
import {
  addressText,
  encodeAddress,
  isLiteral,
  type ListeningSocket,
  openListener,
  openOutgoing,
  peerText,
  removeSocketFile,
  resolveHost,
} from "./bun-sockets.ts";
import type { ReactorBase } from "./reactor-base.ts";
import { NO_HANDLER, StreamNetwork } from "./stream-base.ts";
import { NO_BUFFERS } from "./stream-buffers.ts";
import { prepareCancel, UserKind } from "./uring-kinds.ts";
import type { UringMemory } from "./uring-memory.ts";
import { UringStream, type UringStreamHost } from "./uring-stream.ts";
import {
  type Acceptor,
  type Address,
  type Listener,
  type Network,
  type Stream,
  type StreamHandler,
  type StreamOptions,
  Timer,
} from "./world.ts";

/** Descriptors ran out: accepting pauses this long. */
const ACCEPT_PAUSE_US = 100_000;
const EMFILE = 24;
const ENFILE = 23;
const NO_OPTIONS: Readonly<StreamOptions> = {};

/** Connections on the ring. */
export class UringNetwork extends StreamNetwork implements Network, UringStreamHost {
  readonly ring: Ring;
  readonly memory: UringMemory;
  private readonly streams: (UringStream | null)[] = [];
  private readonly freeIds: number[] = [];
  private readonly listeners: (UringListener | null)[] = [];
  private refusedCount = 0;

  constructor(ring: Ring, world: ReactorBase, memory: UringMemory) {
    super(world);
    this.ring = ring;
    this.memory = memory;
  }

  /** Open connections. */
  get streamCount(): number {
    return this.streams.length - this.freeIds.length;
  }

  /** cold: start-up */
  listen(address: Address, acceptor: Acceptor, options: StreamOptions = NO_OPTIONS): Listener {
    const socket = openListener(address);
    const listener = new UringListener(this, this.listeners.length, socket, acceptor, options);
    this.listeners.push(listener);
    listener.arm();
    return listener;
  }

  /** cold: once per connection */
  connect(target: Address, handler: StreamHandler, options: StreamOptions = NO_OPTIONS): Stream {
    const stream = this.newStream(addressText(target), handler, options);
    if (stream === null) {
      const refused = new UringStream(this, -1, addressText(target), handler, NO_BUFFERS);
      refused.fail("out of memory for buffers");
      return refused;
    }
    if (target.kind === "unix" || isLiteral(target.host)) {
      this.beginConnect(stream, target, options.bind);
      return stream;
    }
    const port = target.port;
    resolveHost(target.host).then(
      (host) => this.beginConnect(stream, { kind: "tcp", host, port }, options.bind),
      () => stream.fail("host name not found"),
    );
    return stream;
  }

  /** A stream for an accepted connection; null when there is no memory for its buffers. */
  adopt(fd: number, handler: StreamHandler, options: StreamOptions): UringStream | null {
    const stream = this.newStream(peerText(fd), handler, options);
    if (stream === null) {
      this.refusedCount += 1;
      if ((this.refusedCount & (this.refusedCount - 1)) === 0) {
        this.world.logger.warn("connections refused: no memory for buffers", {
          refused: this.refusedCount,
          open: this.streamCount,
        });
      }
      return null;
    }
    stream.opened(fd);
    return stream;
  }

  onCompletion(kind: UserKind, id: number, result: number): void {
    if (kind === UserKind.Accept) {
      this.listeners[id]!.onAccepted(result);
      return;
    }
    const stream = this.streams[id]!;
    assert(stream !== null, "UringNetwork: completion of no stream");
    if (kind === UserKind.Receive) stream.onReceived(result);
    else if (kind === UserKind.Send) stream.onSent(result);
    else stream.onConnected(result);
  }

  /** Forget a stream whose operations are all over. */
  remove(stream: UringStream): void {
    if (stream.id < 0) return;
    this.streams[stream.id] = null;
    this.freeIds.push(stream.id);
  }

  /** Give back the memory of buffers that hold nothing. cold: when at rest */
  rest(): void {
    this.buffers.giveBack(this.memory);
    for (let id = 0; id < this.streams.length; id++) this.streams[id]?.rest();
  }

  removeListener(listener: UringListener): void {
    this.listeners[listener.id] = null;
  }

  /** The world ends: close every descriptor; no handler is called. */
  closeAll(): void {
    for (let id = 0; id < this.listeners.length; id++) this.listeners[id]?.abandon();
    for (let id = 0; id < this.streams.length; id++) this.streams[id]?.abandon();
  }

  /** cold: once per connection */
  private newStream(
    peer: string,
    handler: StreamHandler,
    options: StreamOptions,
  ): UringStream | null {
    const buffers = this.buffers.takeFor(options);
    if (buffers === null) return null;
    let id = this.freeIds.pop();
    if (id === undefined) {
      id = this.streams.length;
      this.streams.push(null);
    }
    const stream = new UringStream(this, id, peer, handler, buffers);
    this.streams[id] = stream;
    return stream;
  }

  private beginConnect(stream: UringStream, target: Address, bind: string | undefined): void {
    if (stream.isClosing) return;
    const encoded = encodeAddress(target);
    if (encoded === undefined) {
      stream.fail("address not usable");
      return;
    }
    const fd = openOutgoing(target, encoded.family, bind);
    if (fd < 0) stream.fail(errnoText(-fd));
    else stream.beginConnect(fd, encoded.bytes);
  }
}

/** Accepts one connection after the other; the next accept is armed when one arrived. */
export class UringListener extends Timer implements Listener {
  readonly id: number;
  readonly address: Address;
  private readonly network: UringNetwork;
  private readonly acceptor: Acceptor;
  private readonly options: StreamOptions;
  private readonly fd: number;
  private accepting = false;
  private closed = false;

  constructor(
    network: UringNetwork,
    id: number,
    socket: ListeningSocket,
    acceptor: Acceptor,
    options: StreamOptions,
  ) {
    super();
    this.network = network;
    this.id = id;
    this.fd = socket.fd;
    this.address = socket.address;
    this.acceptor = acceptor;
    this.options = options;
  }

  arm(): void {
    this.accepting = true;
    // The flags of accept4: close on exec.
    this.network.ring.prepare(
      UringOp.Accept,
      this.fd,
      0,
      0,
      0,
      0o2000000,
      this.id,
      UserKind.Accept,
    );
  }

  onAccepted(result: number): void {
    this.accepting = false;
    if (this.closed) {
      if (result >= 0) closeFile(result);
      this.finish();
      return;
    }
    if (result === -EMFILE || result === -ENFILE) {
      this.network.world.logger.warn("accepting pauses: too many open files", {
        address: addressText(this.address),
      });
      this.network.world.timers.arm(this, ACCEPT_PAUSE_US);
      return;
    }
    if (result >= 0) this.accept(result);
    if (!this.closed) this.arm();
    else this.finish();
  }

  onTimer(): void {
    if (!this.closed) this.arm();
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    if (this.address.kind === "unix") removeSocketFile(this.address.path);
    this.network.world.timers.disarm(this);
    if (!this.accepting) {
      this.finish();
      return;
    }
    prepareCancel(this.network.ring, this.id, UserKind.Accept);
    this.network.world.turns.again();
  }

  abandon(): void {
    if (this.address.kind === "unix" && !this.closed) removeSocketFile(this.address.path);
    this.closed = true;
    this.network.world.timers.disarm(this);
    closeFile(this.fd);
  }

  private accept(fd: number): void {
    if (this.address.kind === "tcp") setNoDelay(fd);
    const stream = this.network.adopt(fd, NO_HANDLER, this.options);
    if (stream === null) closeFile(fd);
    else stream.handler = this.acceptor.onAccept(stream);
  }

  private finish(): void {
    closeFile(this.fd);
    this.network.removeListener(this);
  }
}
