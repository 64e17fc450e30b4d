import type { Socket } from "bun";
import { BufferedStream, StreamStage } from "./stream-base.ts";

/**
 * One connection on a socket of the runtime. Its callbacks only note what happened; the handler is
 * called in the handler phase of the world's turn, as on the ring.
 */
export class BunStream extends BufferedStream {
  private socket: Socket<BunStream> | null = null;
  /** Chunks for which the receive buffer had no room. */
  private overflow: Uint8Array[] = [];
  private openPending = false;
  private socketPaused = false;
  private endReason = "";
  private blocked = false;
  private writablePending = false;

  opened(socket: Socket<BunStream>, outgoing: boolean): void {
    if (this.stage > StreamStage.Open) {
      socket.terminate();
      return;
    }
    this.socket = socket;
    this.stage = StreamStage.Open;
    this.openPending = outgoing;
    this.host.mark(this);
    if (outgoing) this.host.defer(this);
  }

  onData(chunk: Uint8Array): void {
    if (this.stage > StreamStage.Open) return;
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

  deliver(): void {
    if (this.stage === StreamStage.Ending) {
      this.finish();
      return;
    }
    if (this.stage === StreamStage.Flushing || this.stage === StreamStage.Lingering) {
      if (this.ended) this.end();
      return;
    }
    if (this.openPending) {
      this.openPending = false;
      this.handler.onOpen(this);
    }
    this.deliverReceived();
    if (this.writablePending && this.stage === StreamStage.Open) {
      this.writablePending = false;
      this.handler.onWritable(this);
    }
    this.deliverEnd();
  }

  pump(): void {
    if (this.stage === StreamStage.Connecting || this.stage >= StreamStage.Ending) return;
    if (this.takeIn()) this.host.defer(this);
    this.balance();
    this.write();
    if (this.beginLingering()) {
      this.socket?.shutdown(true);
      if (this.ended) this.end();
    }
  }

  protected releaseConnection(): void {
    this.socket?.terminate();
    this.socket = null;
    this.overflow = [];
  }

  /** The peer's end counts once everything before it was delivered. */
  private deliverEnd(): void {
    if (!this.ended || this.stage !== StreamStage.Open) return;
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
    const wanted = this.overflow.length === 0 && !(this.paused && this.stage === StreamStage.Open);
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
    if (this.takeSpace()) {
      this.writablePending = true;
      this.host.defer(this);
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
