// data path
import { closeFile, shutdownSocket } from "../../ffi/libc/libc.ts";
import { errnoText } from "../../ffi/libc/socket-address.ts";
import { type Ring, UringOp } from "../../ffi/uring/ring.ts";
import { BufferedStream, type StreamHost, StreamStage } from "./stream-base.ts";
import type { StreamBuffers } from "./stream-buffers.ts";
import { prepareCancel, UserKind } from "./uring-kinds.ts";
import type { UringMemory } from "./uring-memory.ts";
import type { StreamHandler } from "./world.ts";

const MSG_WAITALL = 0x100;
const MSG_NOSIGNAL = 0x4000;
const EAGAIN = 11;
const EINTR = 4;

/** What a stream needs of its network. */
export interface UringStreamHost extends StreamHost {
  readonly ring: Ring;
  readonly memory: UringMemory;
}

/**
 * One connection on the ring: at most one receive and one send in flight.
 *
 * Its buffers and its descriptor are given back only when no operation is in flight any more:
 * the kernel may write into the receive buffer until the completion of the receive (or of its
 * cancellation) was seen. `onClose` is called at that moment.
 */
export class UringStream extends BufferedStream {
  readonly id: number;
  private readonly ring: Ring;
  private readonly memory: UringMemory;
  private fd = -1;
  private receiving = false;
  private sending = false;
  private connecting = false;

  constructor(
    network: UringStreamHost,
    id: number,
    peer: string,
    handler: StreamHandler,
    at: StreamBuffers,
  ) {
    super(network, peer, handler, at);
    this.id = id;
    this.ring = network.ring;
    this.memory = network.memory;
  }

  /** The connection is up on `fd`. */
  opened(fd: number): void {
    this.fd = fd;
    this.stage = StreamStage.Open;
    this.host.mark(this);
  }

  beginConnect(fd: number, address: Uint8Array): void {
    this.fd = fd;
    this.connecting = true;
    // The receive buffer is free until the connection is up: the address waits there.
    const { world } = this.host;
    const at = this.receive.base;
    world.arena.bytes.set(address, at);
    const pointer = this.memory.address + at;
    const kind = UserKind.Connect;
    // Connect takes the length of the address in the offset.
    this.ring.prepare(UringOp.Connect, fd, pointer, 0, address.length, 0, this.id, kind);
    world.turns.again();
  }

  onConnected(result: number): void {
    this.connecting = false;
    if (this.stage !== StreamStage.Connecting) {
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
    if (this.stage >= StreamStage.Ending) {
      this.finishIfIdle();
      return;
    }
    if (result > 0) {
      this.receive.grow(result);
      this.fresh = true;
      if (this.stage !== StreamStage.Open) this.receive.consume(this.receive.length);
      else this.deliverReceived();
      this.host.mark(this);
      return;
    }
    if (result === -EINTR || result === -EAGAIN) {
      this.host.mark(this);
      return;
    }
    if (this.stage === StreamStage.Open) {
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
    if (this.stage >= StreamStage.Ending) {
      this.finishIfIdle();
      return;
    }
    if (result < 0 && result !== -EINTR && result !== -EAGAIN) {
      if (this.stage === StreamStage.Open) this.reason = errnoText(-result);
      this.end();
      return;
    }
    if (result > 0) this.send.sent(result);
    if (this.takeSpace()) this.handler.onWritable(this);
    this.host.mark(this);
  }

  pump(): void {
    if (this.stage === StreamStage.Connecting || this.stage >= StreamStage.Ending) return;
    if (!this.receiving && !this.ended && (!this.paused || this.stage !== StreamStage.Open)) {
      const room = this.receive.makeRoom();
      if (room > 0) this.startReceive(room);
    }
    if (!this.sending && this.send.tail > this.send.head) this.startSend();
    if (this.beginLingering()) shutdownSocket(this.fd, false);
  }

  deliver(): void {
    if (this.stage === StreamStage.Ending) {
      this.finishIfIdle();
      return;
    }
    this.deliverReceived();
    if (this.ended && this.stage === StreamStage.Open && !this.paused) {
      this.reason = "closed by the peer";
      this.end();
    }
  }

  /** The send buffer's memory, when nothing of it waits. cold: when at rest */
  rest(): void {
    // The receive that is in flight may have ended, unseen yet: its buffer stays.
    if (this.send.capacity === 0 || this.send.unsentBytes > 0) return;
    this.memory.giveBack(this.send.base, this.send.capacity);
  }

  protected override stopTransfers(): void {
    if (this.fd >= 0) shutdownSocket(this.fd, true);
    if (this.connecting) prepareCancel(this.ring, this.id, UserKind.Connect);
    if (this.receiving) prepareCancel(this.ring, this.id, UserKind.Receive);
    if (this.sending) prepareCancel(this.ring, this.id, UserKind.Send);
  }

  protected releaseConnection(): void {
    if (this.fd >= 0) closeFile(this.fd);
    this.fd = -1;
  }

  private startReceive(room: number): void {
    this.receiving = true;
    const pointer = this.memory.address + this.receive.tail;
    const kind = UserKind.Receive;
    this.ring.prepare(UringOp.Receive, this.fd, pointer, room, 0, 0, this.id, kind);
  }

  private startSend(): void {
    this.sending = true;
    const pointer = this.memory.address + this.send.head;
    const length = this.send.tail - this.send.head;
    const flags = MSG_NOSIGNAL | MSG_WAITALL;
    this.ring.prepare(UringOp.Send, this.fd, pointer, length, 0, flags, this.id, UserKind.Send);
  }

  private finishIfIdle(): void {
    if (this.stage !== StreamStage.Ending || this.isDeferred) return;
    if (!this.connecting && !this.receiving && !this.sending) this.finish();
  }
}
