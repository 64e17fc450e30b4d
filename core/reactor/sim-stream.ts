// cold: the simulator
import type { ReactorBase } from "./reactor-base.ts";
import { type SimEngine, type SimHost, TraceKind } from "./sim-engine.ts";
import { type BufferPool, ReceiveBuffer, SendBuffer } from "./stream-buffers.ts";
import type { Stream, StreamHandler } from "./world.ts";

/** What a simulated stream needs of its network. */
export interface SimStreamHost {
  readonly world: ReactorBase;
  readonly host: SimHost;
  readonly buffers: BufferPool;
  readonly fabric: SimWires;
  /** Call `deliver` in the next handler phase. */
  defer(stream: SimStream): void;
  /** Call `pump` at the end of the turn. */
  mark(stream: SimStream): void;
  remove(stream: SimStream): void;
}

/** The wires, as a stream sees them. */
export interface SimWires {
  readonly engine: SimEngine;
  readonly faults: {
    readonly latencyUsMin: number;
    readonly latencyUsMax: number;
    readonly spikeShare: number;
    readonly spikeUsMax: number;
    readonly resetShare: number;
    readonly shortReadShare: number;
    readonly corruptShare: number;
  };
  isCut(from: string, to: string): boolean;
  add(connection: SimConnection): void;
  remove(connection: SimConnection): void;
}

/** Bytes that a direction carries at once: what socket buffers hold. */
const PIPE_BYTES_MAX = 262_144;
const SEGMENT_BYTES_MAX = 65_536;

/** A piece of a stream on the wire; without bytes it is the end of the direction. */
interface Segment {
  readonly bytes: Uint8Array | null;
}

/** One direction: in order, delayed, held while cut. */
class Pipe {
  /** Committed by the sender and not yet taken by the receiver. */
  bytes = 0;
  readonly arrived: Segment[] = [];
  private readonly held: Segment[] = [];
  private lastUs = 0;
  private readonly wires: SimWires;
  private readonly from: SimStream;
  private readonly to: SimStream;
  dead = false;

  constructor(wires: SimWires, from: SimStream, to: SimStream) {
    this.wires = wires;
    this.from = from;
    this.to = to;
  }

  /** Send one segment. */
  put(segment: Segment): void {
    this.bytes += segment.bytes === null ? 0 : segment.bytes.length;
    this.travel(segment);
  }

  /** The cut may be over: what was held travels on. */
  kick(): void {
    for (const segment of this.held.splice(0)) this.travel(segment);
    this.acknowledge();
  }

  /** The receiver took `count` bytes: the sender hears of it. */
  took(count: number): void {
    this.bytes -= count;
    this.acknowledge();
  }

  private acknowledge(): void {
    const { engine, faults } = this.wires;
    engine.after(engine.between(faults.latencyUsMin, faults.latencyUsMax), () => {
      if (!this.dead && !this.wires.isCut(this.to.hostAddress, this.from.hostAddress)) {
        this.from.onSpace();
      }
    });
  }

  private travel(segment: Segment): void {
    const { engine, faults } = this.wires;
    let delay = engine.between(faults.latencyUsMin, faults.latencyUsMax);
    if (engine.chance(faults.spikeShare)) delay += engine.random.below(faults.spikeUsMax);
    const atUs = Math.max(this.lastUs, engine.nowUs + delay);
    this.lastUs = atUs;
    engine.after(atUs - engine.nowUs, () => this.arrive(segment));
  }

  private arrive(segment: Segment): void {
    if (this.dead) return;
    const { engine, faults } = this.wires;
    const cut = this.wires.isCut(this.from.hostAddress, this.to.hostAddress);
    if (cut || this.held.length > 0) {
      this.held.push(segment);
      return;
    }
    if (engine.chance(faults.resetShare)) {
      this.from.connection?.reset("connection reset");
      return;
    }
    const bytes = segment.bytes;
    engine.trace(TraceKind.Segment, this.to.hostId, bytes === null ? 0 : fingerprint(bytes));
    if (bytes !== null && engine.chance(faults.corruptShare)) {
      const at = engine.random.below(bytes.length);
      bytes[at] = bytes[at]! ^ (1 << engine.random.below(8));
    }
    this.arrived.push(segment);
    this.to.onArrival();
  }
}

/** Two streams and the pipes between them. */
export class SimConnection {
  readonly forth: Pipe;
  readonly back: Pipe;
  private readonly wires: SimWires;
  private readonly client: SimStream;
  private readonly server: SimStream;

  constructor(wires: SimWires, client: SimStream, server: SimStream) {
    this.wires = wires;
    this.client = client;
    this.server = server;
    this.forth = new Pipe(wires, client, server);
    this.back = new Pipe(wires, server, client);
    wires.add(this);
  }

  outgoing(stream: SimStream): Pipe {
    return stream === this.client ? this.forth : this.back;
  }

  incoming(stream: SimStream): Pipe {
    return stream === this.client ? this.back : this.forth;
  }

  joins(a: string, b: string): boolean {
    const one = this.client.hostAddress;
    const two = this.server.hostAddress;
    return (one === a && two === b) || (one === b && two === a);
  }

  kick(): void {
    this.forth.kick();
    this.back.kick();
  }

  /** Both ends learn that the connection broke; what was on its way is lost. */
  reset(reason: string): void {
    this.end();
    this.client.onReset(reason);
    this.server.onReset(reason);
  }

  /** One end is gone: the other hears of it later, if it can. */
  breakOff(by: SimStream, reason: string): void {
    const other = by === this.client ? this.server : this.client;
    const { engine, faults } = this.wires;
    this.end();
    const tell = (): void => {
      if (this.wires.isCut(by.hostAddress, other.hostAddress)) engine.after(200_000, tell);
      else other.onReset(reason);
    };
    engine.after(engine.between(faults.latencyUsMin, faults.latencyUsMax), tell);
  }

  /** Nothing arrives any more. */
  end(): void {
    this.forth.dead = true;
    this.back.dead = true;
    this.wires.remove(this);
  }
}

enum Stage {
  Connecting = 0,
  Open = 1,
  Flushing = 2,
  Ending = 3,
  Closed = 4,
}

/** Where the buffers of a stream lie. */
export interface SimStreamBuffers {
  readonly receiveAt: number;
  readonly receiveBytes: number;
  readonly sendAt: number;
  readonly sendBytes: number;
}

/** One end of a simulated connection. */
export class SimStream implements Stream {
  readonly peer: string;
  handler: StreamHandler;
  hasEvents = false;
  isMarked = false;
  /** False while an incoming connection waits for its handler. */
  accepted = true;
  connection: SimConnection | null = null;
  private readonly host: SimStreamHost;
  private readonly receive: ReceiveBuffer;
  private readonly send: SendBuffer;
  private stage = Stage.Connecting;
  private openPending = false;
  private paused = false;
  private fresh = false;
  private ended = false;
  private endSent = false;
  private wantedBytes = 0;
  private writablePending = false;
  private reason = "";

  constructor(host: SimStreamHost, peer: string, handler: StreamHandler, at: SimStreamBuffers) {
    this.host = host;
    this.peer = peer;
    this.handler = handler;
    this.receive = new ReceiveBuffer(host.world.arena.bytes, at.receiveAt, at.receiveBytes);
    this.send = new SendBuffer(at.sendAt, at.sendBytes);
  }

  get hostAddress(): string {
    return this.host.host.address;
  }

  get hostId(): number {
    return this.host.host.id;
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
  }

  resume(): void {
    if (!this.paused) return;
    this.paused = false;
    if (this.receive.length > 0) this.fresh = true;
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
      this.host.mark(this);
      return;
    }
    this.breakOff("closed by the peer");
    this.end();
  }

  fail(reason: string): void {
    if (this.stage >= Stage.Ending) return;
    this.reason = reason;
    this.end();
  }

  /** Kernel side: this end and `server` are connected now. */
  joinTo(server: SimStream): void {
    const connection = new SimConnection(this.host.fabric, this, server);
    this.connection = connection;
    server.connection = connection;
    server.stage = Stage.Open;
    server.accepted = false;
    const { engine, faults } = this.host.fabric;
    engine.after(engine.between(faults.latencyUsMin, faults.latencyUsMax), () => {
      if (this.stage !== Stage.Connecting) return;
      this.stage = Stage.Open;
      this.openPending = true;
      this.host.defer(this);
    });
  }

  /** Kernel side: a segment came in. */
  onArrival(): void {
    if (this.stage < Stage.Ending) this.host.defer(this);
  }

  /** Kernel side: the pipe has room again. */
  onSpace(): void {
    if (this.stage >= Stage.Ending) return;
    if (this.send.unsentBytes > 0 || this.stage === Stage.Flushing) this.host.mark(this);
  }

  /** Kernel side: the connection broke. */
  onReset(reason: string): void {
    if (this.stage >= Stage.Ending) return;
    if (this.stage !== Stage.Flushing) this.reason = reason;
    this.end();
  }

  /** The process is gone. */
  die(silent: boolean): void {
    if (this.connection !== null && this.stage < Stage.Ending) {
      if (silent) this.connection.end();
      else this.connection.breakOff(this, "connection reset");
    }
    this.stage = Stage.Closed;
  }

  /** Handler phase. */
  deliver(): void {
    if (!this.accepted) return;
    if (this.stage === Stage.Ending) {
      this.finish();
      return;
    }
    if (this.openPending) {
      this.openPending = false;
      this.handler.onOpen(this);
      this.host.mark(this);
    }
    this.takeIn();
    if (this.stage === Stage.Flushing) {
      this.receive.consume(this.receive.length);
    } else if (this.stage === Stage.Open && this.fresh && !this.paused) {
      this.fresh = false;
      if (this.receive.length > 0) this.handler.onReceive(this);
    }
    this.takeInRest();
    if (this.writablePending && this.stage === Stage.Open) {
      this.writablePending = false;
      this.handler.onWritable(this);
    }
    this.deliverEnd();
  }

  /** End of the turn: put committed bytes on the wire. */
  pump(): void {
    if (this.stage === Stage.Connecting || this.stage >= Stage.Ending) return;
    const { connection } = this;
    if (connection === null) return;
    if (connection.incoming(this).arrived.length > 0 && this.hasRoom()) this.host.defer(this);
    const pipe = connection.outgoing(this);
    const bytes = this.host.world.arena.bytes;
    while (this.send.tail > this.send.head && pipe.bytes < PIPE_BYTES_MAX) {
      const room = Math.min(PIPE_BYTES_MAX - pipe.bytes, SEGMENT_BYTES_MAX);
      const count = Math.min(this.send.tail - this.send.head, room);
      pipe.put({ bytes: bytes.slice(this.send.head, this.send.head + count) });
      this.send.sent(count);
    }
    if (this.wantedBytes > 0 && this.send.reserve(this.wantedBytes) >= 0) {
      this.wantedBytes = 0;
      this.writablePending = true;
      this.host.defer(this);
    }
    if (this.stage === Stage.Flushing && this.send.unsentBytes === 0 && !this.endSent) {
      this.endSent = true;
      pipe.put({ bytes: null });
    }
    // Our end is on the wire and everything before it was taken: nothing is left to wait for.
    if (this.endSent && pipe.bytes === 0) this.end();
  }

  private hasRoom(): boolean {
    return !this.paused && this.receive.makeRoom() > 0;
  }

  /** Move what arrived into the receive buffer, sometimes only a part. */
  private takeIn(): void {
    const { connection } = this;
    if (connection === null || (this.paused && this.stage === Stage.Open)) return;
    const pipe = connection.incoming(this);
    const { engine, faults } = this.host.fabric;
    while (pipe.arrived.length > 0) {
      const segment = pipe.arrived[0]!;
      if (segment.bytes === null) {
        this.ended = true;
        pipe.arrived.shift();
        return;
      }
      let room = Math.min(this.receive.makeRoom(), segment.bytes.length);
      if (room === 0) return;
      const short = engine.chance(faults.shortReadShare);
      if (short) room = 1 + engine.random.below(room);
      this.host.world.arena.bytes.set(segment.bytes.subarray(0, room), this.receive.tail);
      this.receive.grow(room);
      this.fresh = true;
      if (room === segment.bytes.length) pipe.arrived.shift();
      else pipe.arrived[0] = { bytes: segment.bytes.subarray(room) };
      pipe.took(room);
      if (short) return;
    }
  }

  /** Bytes or the end may still wait behind a short read or a full buffer that was emptied. */
  private takeInRest(): void {
    const { connection } = this;
    if (connection === null || this.stage > Stage.Flushing) return;
    if (connection.incoming(this).arrived.length > 0 && this.hasRoom()) this.host.defer(this);
  }

  private deliverEnd(): void {
    if (!this.ended || this.stage >= Stage.Ending) return;
    if (this.stage === Stage.Open) {
      if (this.paused || this.fresh) return;
      this.reason = "closed by the peer";
    }
    this.breakOff("closed by the peer");
    this.end();
  }

  private breakOff(reason: string): void {
    this.connection?.breakOff(this, reason);
  }

  private end(): void {
    if (this.stage >= Stage.Ending) return;
    this.stage = Stage.Ending;
    this.host.defer(this);
  }

  private finish(): void {
    this.stage = Stage.Closed;
    const { fabric } = this.host;
    fabric.engine.trace(TraceKind.Close, this.hostId, this.reason.length);
    this.host.remove(this);
    this.handler.onClose(this, this.reason);
    this.host.buffers.release(this.receive.base, this.receive.capacity);
    this.host.buffers.release(this.send.base, this.send.capacity);
  }
}

/** A number that depends on the bytes, cheaply. */
function fingerprint(bytes: Uint8Array): number {
  let hash = bytes.length;
  const step = bytes.length > 256 ? 37 : 1;
  for (let at = 0; at < bytes.length; at += step) hash = Math.imul(hash ^ bytes[at]!, 0x0100_0193);
  return hash >>> 0;
}
