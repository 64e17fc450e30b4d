// data path
import { closeFile, shutdownSocket } from "../../ffi/libc/libc.ts";
import { errnoText } from "../../ffi/libc/socket-address.ts";
import { type Ring, SQE_FIXED_FILE, UringOp } from "../../ffi/uring/ring.ts";
import { assert } from "../base/assert.ts";
import type { ReactorBase } from "./reactor-base.ts";
import { type BufferPool, ReceiveBuffer, SendBuffer } from "./stream-buffers.ts";
import { prepareCancel, UserKind } from "./uring-kinds.ts";
import type { UringMemory } from "./uring-memory.ts";
import { type Stream, type StreamHandler, Timer } from "./world.ts";

const MSG_WAITALL = 0x100;
const MSG_NOSIGNAL = 0x4000;
/** A peer that reads nothing more holds a flushing close this long; then what is unsent is lost. */
const FLUSH_US_MAX = 5_000_000;
/** After the last byte the peer gets this long to close: an early close could destroy the bytes. */
const LINGER_US_MAX = 1_000_000;
const EAGAIN = 11;
const EINTR = 4;

/** Where a connection stands; it only moves down this list. */
enum Stage {
  Connecting = 0,
  Open = 1,
  /** `close(…, true)`: sends what is committed; what arrives is dropped. */
  Flushing = 2,
  /** Everything is sent, our direction is shut down: waits for the peer's end. */
  Lingering = 3,
  /** Waits for the last completions. */
  Ending = 4,
  Closed = 5,
}

/** What a stream needs of its network. */
export interface StreamHost {
  readonly ring: Ring;
  readonly world: ReactorBase;
  readonly memory: UringMemory;
  readonly buffers: BufferPool;
  /** Call `pump` at the end of the turn. */
  mark(stream: UringStream): void;
  /** Call `runDeferred` in the next handler phase. */
  defer(stream: UringStream): void;
  /** The stream is over: its id is free. */
  remove(stream: UringStream): void;
}

/**
 * One connection on the ring.
 *
 * Its buffers and its descriptor are given back only when no operation is in flight any more:
 * the kernel may write into the receive buffer until the completion of the receive (or of its
 * cancellation) was seen. `onClose` is called at that moment.
 */
export class UringStream extends Timer implements Stream {
  readonly id: number;
  readonly peer: string;
  handler: StreamHandler;
  isMarked = false;
  nextMarked: UringStream | null = null;
  isDeferred = false;
  nextDeferred: UringStream | null = null;
  private readonly network: StreamHost;
  private stage = Stage.Connecting;
  private fd = -1;
  /** Place in the ring's file table, or -1. */
  private place = -1;
  private receive: ReceiveBuffer = NO_RECEIVE;
  private send: SendBuffer = NO_SEND;
  private receiving = false;
  private sending = false;
  private connecting = false;
  private paused = false;
  /** The peer ended its direction while paused. */
  private ended = false;
  /** Length of the reservation that was refused; 0 when none waits. */
  private wantedBytes = 0;
  private reason = "";

  constructor(network: StreamHost, id: number, peer: string, handler: StreamHandler) {
    super();
    this.network = network;
    this.id = id;
    this.peer = peer;
    this.handler = handler;
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

  /** True from `close` or the first failure on. */
  get isClosing(): boolean {
    return this.stage > Stage.Open;
  }

  /** cold: once per connection */
  useBuffers(receiveAt: number, receiveBytes: number, sendAt: number, sendBytes: number): void {
    this.receive = new ReceiveBuffer(this.network.world.arena.bytes, receiveAt, receiveBytes);
    this.send = new SendBuffer(sendAt, sendBytes);
  }

  consume(lengthBytes: number): void {
    this.receive.consume(lengthBytes);
    if (!this.receiving) this.network.mark(this);
  }

  pause(): void {
    this.paused = true;
  }

  resume(): void {
    if (!this.paused) return;
    this.paused = false;
    this.network.mark(this);
    if (this.receive.length > 0 || this.ended) this.network.defer(this);
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
    this.network.mark(this);
  }

  close(reason: string, flush = false): void {
    if (this.stage > Stage.Open) return;
    this.reason = reason;
    if (flush && this.stage === Stage.Open) {
      this.stage = Stage.Flushing;
      this.network.world.timers.arm(this, FLUSH_US_MAX);
      this.network.mark(this);
      this.network.world.turns.again();
      return;
    }
    this.end();
  }

  /** Over before it began: no descriptor, or no address. */
  fail(reason: string): void {
    if (this.stage >= Stage.Ending) return;
    this.reason = reason;
    this.end();
  }

  /** The connection is up on `fd`. */
  opened(fd: number): void {
    this.fd = fd;
    this.place = this.network.memory.takeFile(fd);
    this.stage = Stage.Open;
    this.network.mark(this);
  }

  beginConnect(fd: number, address: Uint8Array): void {
    this.fd = fd;
    this.connecting = true;
    // The receive buffer is free until the connection is up: the address waits there.
    const world = this.network.world;
    const at = this.receive.base;
    world.arena.bytes.set(address, at);
    const pointer = this.network.memory.address + at;
    // Connect takes the length of the address in the offset.
    this.network.ring.prepare(
      UringOp.Connect,
      0,
      fd,
      pointer,
      0,
      address.length,
      0,
      this.id,
      UserKind.Connect,
    );
    world.turns.again();
  }

  onConnected(result: number): void {
    this.connecting = false;
    if (this.stage !== Stage.Connecting) {
      this.finishIfIdle();
      return;
    }
    if (result < 0) {
      this.fail(errnoText(-result));
      return;
    }
    this.opened(this.fd);
    this.handler.onOpen(this);
  }

  onReceived(result: number): void {
    this.receiving = false;
    if (this.stage >= Stage.Ending) {
      this.finishIfIdle();
      return;
    }
    if (result > 0) {
      this.receive.grow(result);
      if (this.stage !== Stage.Open) this.receive.consume(this.receive.length);
      else if (!this.paused) this.handler.onReceive(this);
      this.network.mark(this);
      return;
    }
    if (result === -EINTR || result === -EAGAIN) {
      this.network.mark(this);
      return;
    }
    if (this.stage === Stage.Open) {
      if (result === 0 && this.paused) {
        this.ended = true;
        return;
      }
      this.reason = result === 0 ? "closed by the peer" : errnoText(-result);
    }
    this.end();
  }

  onSent(result: number): void {
    this.sending = false;
    if (this.stage >= Stage.Ending) {
      this.finishIfIdle();
      return;
    }
    if (result < 0 && result !== -EINTR && result !== -EAGAIN) {
      if (this.stage === Stage.Open) this.reason = errnoText(-result);
      this.end();
      return;
    }
    if (result > 0) this.send.sent(result);
    if (this.wantedBytes > 0 && this.stage === Stage.Open) this.offerSpace();
    this.network.mark(this);
  }

  /** End of the turn: receive when there is room, send when there are bytes. */
  pump(): void {
    if (this.stage === Stage.Connecting || this.stage >= Stage.Ending) return;
    if (!this.receiving && !this.ended && (!this.paused || this.stage !== Stage.Open)) {
      const room = this.receive.makeRoom();
      if (room > 0) this.startReceive(room);
    }
    if (!this.sending && this.send.tail > this.send.head) this.startSend();
    if (this.stage === Stage.Flushing && this.send.unsentBytes === 0) {
      this.stage = Stage.Lingering;
      this.network.world.timers.arm(this, LINGER_US_MAX);
      shutdownSocket(this.fd, false);
    }
  }

  /** A flushing or lingering close took too long. */
  onTimer(): void {
    this.end();
  }

  /** Handler phase: what `resume`, `close` and failures left to do. */
  runDeferred(): void {
    if (this.stage === Stage.Ending) {
      this.finishIfIdle();
      return;
    }
    if (this.stage !== Stage.Open || this.paused) return;
    if (this.receive.length > 0) {
      this.handler.onReceive(this);
      this.network.mark(this);
    }
    if (this.ended && this.stage === Stage.Open && !this.paused) {
      this.reason = "closed by the peer";
      this.end();
    }
  }

  /** The world ends: close the descriptor and call nobody. */
  abandon(): void {
    this.stage = Stage.Closed;
    this.network.world.timers.disarm(this);
    if (this.fd >= 0) closeFile(this.fd);
    this.fd = -1;
  }

  private offerSpace(): void {
    if (this.send.reserve(this.wantedBytes) < 0) return;
    this.wantedBytes = 0;
    this.handler.onWritable(this);
  }

  private startReceive(room: number): void {
    this.receiving = true;
    const pointer = this.network.memory.address + this.receive.tail;
    this.prepare(UringOp.Receive, pointer, room, 0, UserKind.Receive);
  }

  private startSend(): void {
    this.sending = true;
    const pointer = this.network.memory.address + this.send.head;
    const length = this.send.tail - this.send.head;
    this.prepare(UringOp.Send, pointer, length, MSG_NOSIGNAL | MSG_WAITALL, UserKind.Send);
  }

  private prepare(
    op: UringOp,
    pointer: number,
    length: number,
    opFlags: number,
    kind: UserKind,
  ): void {
    const fixed = this.place >= 0;
    const fd = fixed ? this.place : this.fd;
    const flags = fixed ? SQE_FIXED_FILE : 0;
    this.network.ring.prepare(op, flags, fd, pointer, length, 0, opFlags, this.id, kind);
  }

  /** Stop both directions; the rest happens when the last completion is in. */
  private end(): void {
    if (this.stage >= Stage.Ending) return;
    this.stage = Stage.Ending;
    this.network.world.timers.disarm(this);
    if (this.fd >= 0) shutdownSocket(this.fd, true);
    const ring = this.network.ring;
    if (this.connecting) prepareCancel(ring, this.id, UserKind.Connect);
    if (this.receiving) prepareCancel(ring, this.id, UserKind.Receive);
    if (this.sending) prepareCancel(ring, this.id, UserKind.Send);
    // Never from within the caller: `onClose` comes in the handler phase.
    this.network.defer(this);
  }

  private finishIfIdle(): void {
    if (this.stage !== Stage.Ending || this.isDeferred) return;
    if (this.connecting || this.receiving || this.sending) return;
    this.stage = Stage.Closed;
    if (this.place >= 0) this.network.memory.releaseFile(this.place);
    if (this.fd >= 0) closeFile(this.fd);
    this.fd = -1;
    this.network.remove(this);
    this.handler.onClose(this, this.reason);
    this.releaseBuffers();
  }

  private releaseBuffers(): void {
    const buffers = this.network.buffers;
    assert(this.stage === Stage.Closed, "UringStream: buffers released before the end");
    if (this.receive !== NO_RECEIVE) {
      buffers.release(this.receive.base, this.receive.capacity);
      buffers.release(this.send.base, this.send.capacity);
    }
    this.receive = NO_RECEIVE;
    this.send = NO_SEND;
  }
}

const NO_RECEIVE: ReceiveBuffer = new ReceiveBuffer(new Uint8Array(0), 0, 0);
const NO_SEND: SendBuffer = new SendBuffer(0, 0);
