import type { Socket } from "bun";
import type { ReactorBase } from "./reactor-base.ts";
import { type BufferPool, ReceiveBuffer, SendBuffer } from "./stream-buffers.ts";
import { type Stream, type StreamHandler, Timer } from "./world.ts";

const FLUSH_US_MAX = 5_000_000;
const LINGER_US_MAX = 1_000_000;

/** What a stream needs of its network. */
export interface BunStreamHost {
  readonly world: ReactorBase;
  readonly buffers: BufferPool;
  /** Call `pump` at the end of the turn. */
  mark(stream: BunStream): void;
  /** Call `deliver` in the next handler phase. */
  defer(stream: BunStream): void;
  remove(stream: BunStream): void;
}

enum Stage {
  Connecting = 0,
  Open = 1,
  Flushing = 2,
  Lingering = 3,
  Ending = 4,
  Closed = 5,
}

/**
 * One connection on a socket of the runtime. Its callbacks only note what happened; the handler is
 * called in the handler phase of the world's turn, as on the ring.
 */
export class BunStream extends Timer implements Stream {
  readonly peer: string;
  handler: StreamHandler;
  isMarked = false;
  hasEvents = false;
  private readonly host: BunStreamHost;
  private readonly receive: ReceiveBuffer;
  private readonly send: SendBuffer;
  private socket: Socket<BunStream> | null = null;
  private stage = Stage.Connecting;
  /** Chunks for which the receive buffer had no room. */
  private overflow: Uint8Array[] = [];
  private openPending = false;
  private paused = false;
  private socketPaused = false;
  private fresh = false;
  private ended = false;
  private endReason = "";
  private blocked = false;
  private writablePending = false;
  private wantedBytes = 0;
  private reason = "";

  constructor(
    host: BunStreamHost,
    peer: string,
    handler: StreamHandler,
    receiveAt: number,
    receiveBytes: number,
    sendAt: number,
    sendBytes: number,
  ) {
    super();
    this.host = host;
    this.peer = peer;
    this.handler = handler;
    this.receive = new ReceiveBuffer(host.world.arena.bytes, receiveAt, receiveBytes);
    this.send = new SendBuffer(sendAt, sendBytes);
  }

  get receiveOffset(): number {
    return this.receive.head;
  }

  get receiveLength(): number {
    return this.receive.length;
  }

  get unsentBytes(): number {
    return this.send.unsentBytes;
  }

  get isClosing(): boolean {
    return this.stage > Stage.Open;
  }

  consume(lengthBytes: number): void {
    this.receive.consume(lengthBytes);
    this.host.mark(this);
  }

  pause(): void {
    this.paused = true;
    this.host.mark(this);
  }

  resume(): void {
    if (!this.paused) return;
    this.paused = false;
    this.fresh = this.receive.length > 0;
    this.host.mark(this);
    this.host.defer(this);
  }

  reserve(lengthBytes: number): number {
    if (this.stage > Stage.Open) return -1;
    const at = this.send.reserve(lengthBytes);
    if (at < 0) this.wantedBytes = lengthBytes;
    return at;
  }

  commit(lengthBytes: number): void {
    if (this.stage > Stage.Open) return;
    this.send.commit(lengthBytes);
    this.host.mark(this);
  }

  close(reason: string, flush = false): void {
    if (this.stage > Stage.Open) return;
    this.reason = reason;
    if (flush && this.stage === Stage.Open) {
      this.stage = Stage.Flushing;
      this.host.world.timers.arm(this, FLUSH_US_MAX);
      this.host.mark(this);
      return;
    }
    this.end();
  }

  fail(reason: string): void {
    if (this.stage >= Stage.Ending) return;
    this.reason = reason;
    this.end();
  }

  opened(socket: Socket<BunStream>, outgoing: boolean): void {
    if (this.stage > Stage.Open) {
      socket.terminate();
      return;
    }
    this.socket = socket;
    this.stage = Stage.Open;
    this.openPending = outgoing;
    this.host.mark(this);
    if (outgoing) this.host.defer(this);
  }

  onData(chunk: Uint8Array): void {
    if (this.stage > Stage.Open) return;
    // The chunk belongs to the runtime after the callback.
    this.overflow.push(new Uint8Array(chunk));
    this.takeIn();
    this.host.defer(this);
  }

  onDrain(): void {
    this.blocked = false;
    this.host.mark(this);
  }

  onSocketEnd(): void {
    this.noteEnd("closed by the peer");
  }

  onSocketClose(error: Error | undefined): void {
    this.socket = null;
    this.noteEnd(error === undefined ? "closed by the peer" : wordsFor(error));
  }

  onTimer(): void {
    this.end();
  }

  /** Handler phase. */
  deliver(): void {
    if (this.stage === Stage.Ending) {
      this.finish();
      return;
    }
    if (this.stage === Stage.Flushing || this.stage === Stage.Lingering) {
      if (this.ended) this.end();
      return;
    }
    if (this.openPending) {
      this.openPending = false;
      this.handler.onOpen(this);
    }
    this.deliverReceived();
    if (this.writablePending && this.stage === Stage.Open) {
      this.writablePending = false;
      this.handler.onWritable(this);
    }
    this.deliverEnd();
  }

  /** End of the turn: take in what overflowed, write what was committed. */
  pump(): void {
    if (this.stage === Stage.Connecting || this.stage >= Stage.Ending) return;
    if (this.takeIn()) this.host.defer(this);
    this.balance();
    this.write();
    if (this.stage === Stage.Flushing && this.send.unsentBytes === 0) {
      this.stage = Stage.Lingering;
      this.host.world.timers.arm(this, LINGER_US_MAX);
      this.socket?.shutdown(true);
      if (this.ended) this.end();
    }
  }

  abandon(): void {
    this.stage = Stage.Closed;
    this.host.world.timers.disarm(this);
    this.socket?.terminate();
    this.host.remove(this);
  }

  private deliverReceived(): void {
    if (this.stage !== Stage.Open || this.paused || !this.fresh) return;
    this.fresh = false;
    if (this.receive.length > 0) this.handler.onReceive(this);
    this.host.mark(this);
  }

  /** The peer's end counts once everything before it was delivered. */
  private deliverEnd(): void {
    if (!this.ended || this.stage !== Stage.Open) return;
    if (this.endReason === "closed by the peer") {
      if (this.paused || this.overflow.length > 0) return;
    }
    this.reason = this.endReason;
    this.end();
  }

  private noteEnd(reason: string): void {
    if (!this.ended) {
      this.ended = true;
      this.endReason = reason;
    }
    this.host.defer(this);
  }

  /** Move chunks into the receive buffer; true when something moved. */
  private takeIn(): boolean {
    let moved = false;
    while (this.overflow.length > 0) {
      const room = this.receive.makeRoom();
      if (room === 0) break;
      const chunk = this.overflow[0]!;
      const part = chunk.subarray(0, room);
      this.host.world.arena.bytes.set(part, this.receive.tail);
      this.receive.grow(part.length);
      if (part.length === chunk.length) this.overflow.shift();
      else this.overflow[0] = chunk.subarray(part.length);
      moved = true;
    }
    if (moved) this.fresh = true;
    return moved;
  }

  /** Stop the socket while nothing more is wanted or fits. */
  private balance(): void {
    const wanted = this.overflow.length === 0 && !(this.paused && this.stage === Stage.Open);
    if (wanted && this.socketPaused) {
      this.socketPaused = false;
      this.socket?.resume();
    } else if (!wanted && !this.socketPaused) {
      this.socketPaused = true;
      this.socket?.pause();
    }
  }

  private write(): void {
    const bytes = this.host.world.arena.bytes;
    while (!this.blocked && this.socket !== null && this.send.tail > this.send.head) {
      const wanted = this.send.tail - this.send.head;
      const written = this.socket.write(bytes, this.send.head, wanted);
      if (written < 0) {
        this.noteEnd("broken pipe");
        return;
      }
      if (written > 0) this.send.sent(written);
      if (written < wanted) this.blocked = true;
    }
    if (this.wantedBytes > 0 && this.send.reserve(this.wantedBytes) >= 0) {
      this.wantedBytes = 0;
      this.writablePending = true;
      this.host.defer(this);
    }
  }

  private end(): void {
    if (this.stage >= Stage.Ending) return;
    this.stage = Stage.Ending;
    this.host.world.timers.disarm(this);
    this.host.defer(this);
  }

  private finish(): void {
    this.stage = Stage.Closed;
    this.socket?.terminate();
    this.socket = null;
    this.overflow = [];
    this.host.remove(this);
    this.handler.onClose(this, this.reason);
    if (this.receive.capacity > 0) {
      this.host.buffers.release(this.receive.base, this.receive.capacity);
      this.host.buffers.release(this.send.base, this.send.capacity);
    }
  }
}

function wordsFor(error: Error): string {
  const code = (error as { readonly code?: string }).code;
  if (code === "ECONNRESET") return "connection reset";
  if (code === "ECONNREFUSED") return "connection refused";
  if (code === "EPIPE") return "broken pipe";
  if (code === "ETIMEDOUT") return "connection timed out";
  return code ?? error.message;
}
