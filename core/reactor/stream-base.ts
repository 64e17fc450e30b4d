// data path
import { assert } from "../base/assert.ts";
import type { ReactorBase } from "./reactor-base.ts";
import {
  BufferPool,
  EMPTY_RECEIVE,
  EMPTY_SEND,
  ReceiveBuffer,
  SendBuffer,
  type StreamBuffers,
} from "./stream-buffers.ts";
import { type Stream, type StreamHandler, Timer } from "./world.ts";

/**
 * What the streams of all worlds have in common: their buffers, the calls of their owner, and how
 * they end. An implementation moves bytes in `pump` and calls the handler in `deliver`.
 *
 * Work found during a turn (space to receive into, bytes to send, a close to begin) marks the
 * stream; at the end of the turn `flush` pumps all marked ones, so everything of a turn leaves at
 * once. Calls to the handler that can not be made where their cause appears are deferred to the
 * handler phase of the next turn.
 */

/** A peer that reads nothing more holds a flushing close this long; then what is unsent is lost. */
const FLUSH_US_MAX = 5_000_000;
/** After the last byte the peer gets this long to close: an early close could destroy the bytes. */
const LINGER_US_MAX = 1_000_000;

/** Where a connection stands; it only moves down this list. */
export enum StreamStage {
  Connecting = 0,
  Open = 1,
  /** `close(…, true)`: sends what is committed; what arrives is dropped. */
  Flushing = 2,
  /** Everything is sent, our direction is shut down: waits for the peer's end. */
  Lingering = 3,
  /** Waits for the last operations of the kernel. */
  Ending = 4,
  Closed = 5,
}

/** What a stream needs of its network. */
export interface StreamHost {
  readonly world: ReactorBase;
  readonly buffers: BufferPool;
  /** Call `pump` at the end of the turn. */
  mark(stream: BufferedStream): void;
  /** Call `deliver` in the next handler phase. */
  defer(stream: BufferedStream): void;
  /** The stream is over. */
  remove(stream: BufferedStream): void;
}

/**
 * One connection over linear buffers.
 *
 * The buffers are given back in `finish`, right after `onClose`: whoever implements a stream calls
 * it only when the kernel holds no part of them any more.
 */
export abstract class BufferedStream extends Timer implements Stream {
  readonly peer: string;
  handler: StreamHandler;
  /** Owned by the network. */
  isMarked = false;
  nextMarked: BufferedStream | null = null;
  isDeferred = false;
  nextDeferred: BufferedStream | null = null;
  protected readonly host: StreamHost;
  protected receive: ReceiveBuffer;
  protected send: SendBuffer;
  protected stage: StreamStage = StreamStage.Connecting;
  protected paused = false;
  /** Bytes came that the handler has not been told of. */
  protected fresh = false;
  /** The peer ended its direction. */
  protected ended = false;
  /** Why it ends; what `onClose` is told. */
  protected reason = "";
  /** Length of the reservation that was refused; 0 when none waits. */
  private wantedBytes = 0;

  constructor(host: StreamHost, peer: string, handler: StreamHandler, at: StreamBuffers) {
    super();
    this.host = host;
    this.peer = peer;
    this.handler = handler;
    this.receive = new ReceiveBuffer(host.world.arena.bytes, at.receiveAt, at.receiveBytes);
    this.send = new SendBuffer(at.sendAt, at.sendBytes);
  }

  /** End of the turn: receive when there is room, send when there are bytes. */
  abstract pump(): void;
  /** Handler phase: the calls that were deferred. */
  abstract deliver(): void;
  /** Nothing is in flight: let go of the connection. */
  protected abstract releaseConnection(): void;
  /** It ends: stop what is in flight. `finish` follows when nothing is any more. */
  protected stopTransfers(): void {}

  get receiveOffset(): number {
    return this.receive.head;
  }

  get receiveLength(): number {
    return this.receive.length;
  }

  get unsentBytes(): number {
    return this.send.unsentBytes;
  }

  /** True from `close` or the first failure on. */
  get isClosing(): boolean {
    return this.stage > StreamStage.Open;
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
    if (this.receive.length > 0) this.fresh = true;
    this.host.mark(this);
    this.host.defer(this);
  }

  reserve(lengthBytes: number): number {
    if (this.stage > StreamStage.Open) return -1;
    const at = this.send.reserve(lengthBytes);
    if (at < 0) this.wantedBytes = lengthBytes;
    return at;
  }

  commit(lengthBytes: number): void {
    if (this.stage > StreamStage.Open) return;
    this.send.commit(lengthBytes);
    this.host.mark(this);
  }

  close(reason: string, flush = false): void {
    if (this.stage > StreamStage.Open) return;
    this.reason = reason;
    if (flush && this.stage === StreamStage.Open) {
      this.stage = StreamStage.Flushing;
      this.host.world.timers.arm(this, FLUSH_US_MAX);
      this.host.mark(this);
      return;
    }
    this.end();
  }

  /** It can not begin, or broke. */
  fail(reason: string): void {
    if (this.stage >= StreamStage.Ending) return;
    this.reason = reason;
    this.end();
  }

  /** A flushing or lingering close took too long. */
  onTimer(): void {
    this.end();
  }

  /** Handler phase: tell the handler of bytes that it has not been told of. */
  protected deliverReceived(): void {
    if (this.stage !== StreamStage.Open || this.paused || !this.fresh) return;
    this.fresh = false;
    if (this.receive.length > 0) this.handler.onReceive(this);
    this.host.mark(this);
  }

  /** True, once, when the reservation that was refused would find its space now. */
  protected takeSpace(): boolean {
    if (this.wantedBytes === 0 || this.stage !== StreamStage.Open) return false;
    if (this.send.reserve(this.wantedBytes) < 0) return false;
    this.wantedBytes = 0;
    return true;
  }

  /** Everything of a flushing close is sent: true when our direction is to be shut down now. */
  protected beginLingering(): boolean {
    if (this.stage !== StreamStage.Flushing || this.send.unsentBytes > 0) return false;
    this.stage = StreamStage.Lingering;
    this.host.world.timers.arm(this, LINGER_US_MAX);
    return true;
  }

  /** Begin to end. Never calls the handler: `onClose` comes in the handler phase. */
  protected end(): void {
    if (this.stage >= StreamStage.Ending) return;
    this.stage = StreamStage.Ending;
    this.host.world.timers.disarm(this);
    this.stopTransfers();
    this.host.defer(this);
  }

  /** Handler phase, once, when the kernel holds nothing of this stream. */
  protected finish(): void {
    assert(this.stage === StreamStage.Ending, "BufferedStream.finish: it does not end");
    this.stage = StreamStage.Closed;
    this.releaseConnection();
    this.host.remove(this);
    this.handler.onClose(this, this.reason);
    const { receive, send } = this;
    this.receive = EMPTY_RECEIVE;
    this.send = EMPTY_SEND;
    if (receive.capacity === 0) return;
    this.host.buffers.release(receive.base, receive.capacity);
    this.host.buffers.release(send.base, send.capacity);
  }

  /** The world ends: let go of the connection and call nobody. */
  abandon(): void {
    this.stage = StreamStage.Closed;
    this.host.world.timers.disarm(this);
    this.releaseConnection();
  }
}

/** The streams of a network that have something to do at the end of this turn, and in the next. */
export abstract class StreamNetwork implements StreamHost {
  readonly world: ReactorBase;
  readonly buffers: BufferPool;
  private markedHead: BufferedStream | null = null;
  private markedTail: BufferedStream | null = null;
  private deferredHead: BufferedStream | null = null;
  private deferredTail: BufferedStream | null = null;

  constructor(world: ReactorBase) {
    this.world = world;
    this.buffers = new BufferPool(world.arena);
  }

  abstract remove(stream: BufferedStream): void;

  mark(stream: BufferedStream): void {
    // From outside of a turn, nobody else would ask for one.
    if (!this.world.clock.inTurn) this.world.turns.again();
    if (stream.isMarked) return;
    stream.isMarked = true;
    stream.nextMarked = null;
    if (this.markedTail === null) this.markedHead = stream;
    else this.markedTail.nextMarked = stream;
    this.markedTail = stream;
  }

  defer(stream: BufferedStream): void {
    this.world.turns.again();
    if (stream.isDeferred) return;
    stream.isDeferred = true;
    stream.nextDeferred = null;
    if (this.deferredTail === null) this.deferredHead = stream;
    else this.deferredTail.nextDeferred = stream;
    this.deferredTail = stream;
  }

  /** Handler phase: make the calls that were deferred before this turn. Answers for how many. */
  deliver(): number {
    let count = 0;
    let stream = this.deferredHead;
    this.deferredHead = null;
    this.deferredTail = null;
    while (stream !== null) {
      const next: BufferedStream | null = stream.nextDeferred;
      stream.nextDeferred = null;
      stream.isDeferred = false;
      stream.deliver();
      stream = next;
      count += 1;
    }
    return count;
  }

  /** End of the turn: let every marked stream receive and send. */
  flush(): void {
    let stream = this.markedHead;
    this.markedHead = null;
    this.markedTail = null;
    while (stream !== null) {
      const next: BufferedStream | null = stream.nextMarked;
      stream.nextMarked = null;
      stream.isMarked = false;
      stream.pump();
      stream = next;
    }
  }
}

/** The handler of an accepted connection until the acceptor has answered; nothing calls it. */
export const NO_HANDLER: StreamHandler = {
  onOpen() {},
  onReceive() {},
  onWritable() {},
  onClose() {},
};
