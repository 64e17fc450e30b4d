import type { Socket, TCPSocketConnectOptions } from "bun";
import { closeFile, connectOutcome, connectSocket, setNonBlocking } from "../../ffi/libc/libc.ts";
import { errnoText } from "../../ffi/libc/socket-address.ts";
import { FastblockError } from "../base/errors.ts";
import {
  addressText,
  encodeAddress,
  isLiteral,
  openOutgoing,
  removeSocketFile,
  removeStaleSocket,
  resolveHost,
} from "./bun-sockets.ts";
import { BunStream } from "./bun-stream.ts";
import { NO_HANDLER, StreamNetwork } from "./stream-base.ts";
import { NO_BUFFERS } from "./stream-buffers.ts";
import type {
  Acceptor,
  Address,
  Listener,
  Network,
  Stream,
  StreamHandler,
  StreamOptions,
} from "./world.ts";

/** How often a connection that is being made is looked at. */
const CONNECT_POLL_MS = 2;
const EINPROGRESS = 115;

/** The callbacks of the runtime for every stream; `socket.data` is the stream. */
const CALLBACKS = {
  data(socket: Socket<BunStream>, chunk: Uint8Array): void {
    socket.data.onData(chunk);
  },
  drain(socket: Socket<BunStream>): void {
    socket.data.onDrain();
  },
  close(socket: Socket<BunStream>, error?: Error): void {
    socket.data?.onSocketClose(error);
  },
  end(socket: Socket<BunStream>): void {
    socket.data.onSocketEnd();
  },
  error(socket: Socket<BunStream>, error: Error): void {
    socket.data?.onSocketClose(error);
  },
};

/** Connections on the runtime's own sockets. */
export class BunNetwork extends StreamNetwork implements Network {
  private readonly streams = new Set<BunStream>();
  private readonly listeners = new Set<BunListener>();
  private accepted: { stream: BunStream; acceptor: Acceptor }[] = [];

  listen(address: Address, acceptor: Acceptor, options: StreamOptions = {}): Listener {
    const listener = new BunListener(this, address, acceptor, options);
    this.listeners.add(listener);
    return listener;
  }

  connect(target: Address, handler: StreamHandler, options: StreamOptions = {}): Stream {
    const stream = this.newStream(addressText(target), handler, options);
    if (stream === null) {
      const refused = new BunStream(this, addressText(target), handler, NO_BUFFERS);
      refused.fail("out of memory for buffers");
      return refused;
    }
    if (target.kind === "unix" || isLiteral(target.host)) {
      this.beginConnect(stream, target, options.bind);
      return stream;
    }
    const { port } = target;
    resolveHost(target.host).then(
      (host) => this.beginConnect(stream, { kind: "tcp", host, port }, options.bind),
      () => stream.fail("host name not found"),
    );
    return stream;
  }

  /** A connection came in; its acceptor is asked in the handler phase. */
  adopt(socket: Socket<BunStream>, acceptor: Acceptor, options: StreamOptions): void {
    const host = socket.remoteAddress ?? "";
    const peer = host === "" ? "unix" : addressText({ kind: "tcp", host, port: socket.remotePort });
    const stream = this.newStream(peer, NO_HANDLER, options);
    if (stream === null) {
      this.world.logger.warn("connection refused: no memory for buffers", { peer });
      socket.terminate();
      return;
    }
    socket.data = stream;
    stream.opened(socket, false);
    this.accepted.push({ stream, acceptor });
    this.world.turns.again();
  }

  /** Also asks acceptors for the handlers of what came in. */
  override deliver(): number {
    const { accepted } = this;
    this.accepted = [];
    for (const { stream, acceptor } of accepted) stream.handler = acceptor.onAccept(stream);
    return accepted.length + super.deliver();
  }

  remove(stream: BunStream): void {
    this.streams.delete(stream);
  }

  removeListener(listener: BunListener): void {
    this.listeners.delete(listener);
  }

  closeAll(): void {
    for (const listener of [...this.listeners]) listener.close();
    for (const stream of [...this.streams]) stream.abandon();
  }

  private newStream(
    peer: string,
    handler: StreamHandler,
    options: StreamOptions,
  ): BunStream | null {
    const buffers = this.buffers.takeFor(options);
    if (buffers === null) return null;
    const stream = new BunStream(this, peer, handler, buffers);
    this.streams.add(stream);
    return stream;
  }

  /** The runtime can not bind an outgoing connection: connect by hand, then hand over. */
  private beginConnect(stream: BunStream, target: Address, bind: string | undefined): void {
    if (stream.isClosing) return;
    const encoded = encodeAddress(target);
    if (encoded === undefined) {
      stream.fail("address not usable");
      return;
    }
    const fd = openOutgoing(target, encoded.family, bind);
    if (fd < 0) {
      stream.fail(errnoText(-fd));
      return;
    }
    setNonBlocking(fd);
    const result = connectSocket(fd, encoded.bytes);
    if (result < 0 && result !== -EINPROGRESS) {
      closeFile(fd);
      stream.fail(errnoText(-result));
      return;
    }
    setImmediate(() => this.lookAtConnect(stream, fd));
  }

  private lookAtConnect(stream: BunStream, fd: number): void {
    const outcome = stream.isClosing ? -103 : connectOutcome(fd);
    if (outcome === 1) {
      setTimeout(() => this.lookAtConnect(stream, fd), CONNECT_POLL_MS);
      return;
    }
    if (outcome < 0) {
      closeFile(fd);
      stream.fail(errnoText(-outcome));
      return;
    }
    // The runtime takes a connected descriptor; its types know that for TLS upgrades only.
    const options = { fd, data: stream, socket: CALLBACKS } as unknown;
    Bun.connect<BunStream>(options as TCPSocketConnectOptions<BunStream>).then(
      (socket) => {
        socket.data = stream;
        stream.opened(socket, true);
      },
      (error: unknown) => stream.fail(String(error)),
    );
  }
}

class BunListener implements Listener {
  readonly address: Address;
  private readonly network: BunNetwork;
  private readonly server: { stop(closeActive?: boolean): void };
  private closed = false;

  constructor(network: BunNetwork, address: Address, acceptor: Acceptor, options: StreamOptions) {
    this.network = network;
    const socket = {
      ...CALLBACKS,
      open(accepted: Socket<BunStream>): void {
        accepted.setNoDelay(true);
        network.adopt(accepted, acceptor, options);
      },
    };
    try {
      if (address.kind === "unix") {
        removeStaleSocket(address.path);
        this.server = Bun.listen<BunStream>({ unix: address.path, socket });
        this.address = address;
      } else {
        const hostname = address.host === "localhost" ? "127.0.0.1" : address.host;
        const server = Bun.listen<BunStream>({ hostname, port: address.port, socket });
        this.server = server;
        this.address = { kind: "tcp", host: hostname, port: server.port };
      }
    } catch (error) {
      throw listenError(address, error);
    }
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    this.server.stop(false);
    if (this.address.kind === "unix") removeSocketFile(this.address.path);
    this.network.removeListener(this);
  }
}

function listenError(address: Address, error: unknown): FastblockError {
  const code = (error as { readonly code?: string }).code;
  const why = error instanceof Error ? error.message : String(error);
  if (code === "EADDRINUSE") {
    const hint = "stop the process that listens there, or choose another port";
    const message = `listening on ${addressText(address)}: address in use`;
    return new FastblockError("FB4005", message, { hint });
  }
  return new FastblockError("FB4009", `listening on ${addressText(address)}: ${why}`, {
    hint: "check the address and the rights",
  });
}
