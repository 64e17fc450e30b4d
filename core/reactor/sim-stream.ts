// cold: the simulator
import { type SimEngine, type SimHost, TraceKind } from "./sim-engine.ts";
import type { SimMemory } from "./sim-pages.ts";
import { BufferedStream, type StreamHost, StreamStage } from "./stream-base.ts";
import type { StreamBuffers } from "./stream-buffers.ts";
import type { StreamHandler } from "./world.ts";

/** What a simulated stream needs of its network. */
export interface SimStreamHost extends StreamHost {
  readonly host: SimHost;
  readonly fabric: SimWires;
}

/** The wires, as a stream sees them. */
export interface SimWires {
  readonly engine: SimEngine;
  readonly memory: SimMemory;
  readonly faults: {
    readonly latencyUsMin: number;
    readonly latencyUsMax: number;
    readonly spikeShare: number;
    readonly spikeUsMax: number;
    readonly resetShare: number;
    readonly shortReadShare: number;
    readonly shortWriteShare: number;
    readonly corruptShare: number;
  };
  readonly counts: { segmentsLate: number };
  readonly cutChanges: number;
  /** Whether a segment is lost. */
  loses(from: string, to: string): boolean;
  /** How late bytes arrive whose connection breaks off; 0: they do not. */
  drawLateUs(): number;
  isCut(from: string, to: string): boolean;
  /** Whether the machine at this address has no power. */
  isDark(address: string): boolean;
  add(connection: SimConnection): void;
  remove(connection: SimConnection): void;
}

/** Bytes that a direction carries at once: what socket buffers hold. */
const PIPE_BYTES_MAX = 262_144;
const SEGMENT_BYTES_MAX = 65_536;
/** What nobody acknowledges is sent again after this long, then after twice as long. */
const RETRANSMIT_US = 200_000;
const RETRANSMIT_US_MAX = 1_600_000;
/** Between two looks whether the last bytes of a connection that was given up have arrived. */
const TRAIL_LOOK_US = 1_000;

/** A piece of a stream on the wire; without bytes it is the end of the direction. */
class Segment {
  readonly buffer: Uint8Array | null;
  /** What is left of it. */
  from = 0;
  readonly end: number;

  constructor(buffer: Uint8Array | null, end: number) {
    this.buffer = buffer;
    this.end = end;
  }
}

/** One direction: in order, delayed, held while cut. */
class Pipe {
  /** Committed by the sender and not yet taken by the receiver. */
  bytes = 0;
  readonly arrived: Segment[] = [];
  /** Segments that are on the wire. */
  flying = 0;
  private readonly held: Segment[] = [];
  private lastUs = 0;
  /** The sender gave the connection up: what is on the wire arrives after this; 0: it did not. */
  private lateUntilUs = 0;
  private readonly wires: SimWires;
  private readonly from: SimStream;
  private readonly to: SimStream;
  dead = false;
  /** Whether it is cut, as of so many changes of cuts. */
  private cut = false;
  private cutChanges = -1;

  constructor(wires: SimWires, from: SimStream, to: SimStream) {
    this.wires = wires;
    this.from = from;
    this.to = to;
  }

  get isCut(): boolean {
    const { wires } = this;
    if (this.cutChanges !== wires.cutChanges) {
      this.cutChanges = wires.cutChanges;
      this.cut = wires.isCut(this.from.hostAddress, this.to.hostAddress);
    }
    return this.cut;
  }

  /** Send one segment. */
  put(segment: Segment): void {
    this.bytes += segment.end;
    this.flying += 1;
    this.travel(segment);
  }

  /** Nothing arrives for so long. */
  delay(us: number): void {
    this.lateUntilUs = this.wires.engine.nowUs + us;
  }

  /** The receiver took `count` bytes of the first segment that arrived. */
  take(segment: Segment, count: number): void {
    segment.from += count;
    if (segment.from === segment.end) {
      this.arrived.shift();
      this.wires.memory.giveBuffer(segment.buffer!);
    }
    this.took(count);
  }

  /** The cut may be over: what was held travels on. */
  kick(): void {
    for (const segment of this.held.splice(0)) this.travel(segment);
    this.acknowledge();
  }

  /** The receiver took `count` bytes: the sender hears of it. */
  private took(count: number): void {
    this.bytes -= count;
    this.acknowledge();
  }

  /** Who begins to send later finds the room that there is by then. */
  private acknowledge(): void {
    if (!this.from.waitsForSpace) return;
    const { engine, faults } = this.wires;
    engine.after(engine.between(faults.latencyUsMin, faults.latencyUsMax), () => {
      if (!this.dead && this.from.connection?.incoming(this.from).isCut === false) {
        this.from.onSpace();
      }
    });
  }

  private travel(segment: Segment): void {
    const { engine, faults } = this.wires;
    let delay = engine.between(faults.latencyUsMin, faults.latencyUsMax);
    if (engine.chance(faults.spikeShare)) delay += engine.random.below(faults.spikeUsMax);
    delay += this.stallUs();
    const atUs = Math.max(this.lastUs, engine.nowUs + delay);
    this.lastUs = atUs;
    engine.after(atUs - engine.nowUs, () => this.arrive(segment));
  }

  /** What is lost is sent again after a while, then after twice as long. */
  private stallUs(): number {
    const { wires } = this;
    let us = 0;
    let pauseUs = RETRANSMIT_US;
    while (wires.loses(this.from.hostAddress, this.to.hostAddress)) {
      us += pauseUs;
      pauseUs = Math.min(2 * pauseUs, RETRANSMIT_US_MAX);
    }
    return us;
  }

  private arrive(segment: Segment): void {
    if (this.dead) return;
    const { engine, faults } = this.wires;
    if (engine.nowUs < this.lateUntilUs) {
      engine.after(this.lateUntilUs - engine.nowUs, () => this.arrive(segment));
      return;
    }
    if (this.isCut || this.held.length > 0) {
      this.held.push(segment);
      return;
    }
    if (engine.chance(faults.resetShare)) {
      this.from.connection?.reset("connection reset");
      return;
    }
    const { buffer: bytes, end } = segment;
    engine.trace(TraceKind.Segment, this.to.hostId, bytes === null ? 0 : fingerprint(bytes, end));
    if (bytes !== null && engine.chance(faults.corruptShare)) {
      const at = engine.random.below(end);
      bytes[at] = bytes[at]! ^ (1 << engine.random.below(8));
    }
    this.arrived.push(segment);
    this.flying -= 1;
    if (this.lateUntilUs > 0) this.wires.counts.segmentsLate += 1;
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
  /** The end whose machine lost its power. */
  private forgottenBy: SimStream | null = null;
  private sendsAgain = false;
  /** One end gave it up, and what it had sent is still on its way. */
  private trails = false;

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
    return (isAt(one, a) && isAt(two, b)) || (isAt(one, b) && isAt(two, a));
  }

  kick(): void {
    this.forth.kick();
    this.back.kick();
  }

  /** Both ends learn that the connection broke; what was on its way is lost, or late. */
  reset(reason: string): void {
    if (this.trail(this.client, reason)) {
      this.client.onReset(reason);
      return;
    }
    this.end();
    this.client.onReset(reason);
    this.server.onReset(reason);
  }

  /** One end is gone: the other hears of it later, if it can. */
  breakOff(by: SimStream, reason: string): void {
    if (this.trail(by, reason)) return;
    const other = by === this.client ? this.server : this.client;
    const { engine, faults } = this.wires;
    this.end();
    const tell = (): void => {
      if (this.wires.isCut(by.hostAddress, other.hostAddress)) engine.after(200_000, tell);
      else other.onReset(reason);
    };
    engine.after(engine.between(faults.latencyUsMin, faults.latencyUsMax), tell);
  }

  /**
   * One end is gone, and what it had sent arrives all the same, late, behind whatever it sends on
   * another connection meanwhile; then the other end hears of it. False: that is lost.
   */
  private trail(by: SimStream, reason: string): boolean {
    const pipe = this.outgoing(by);
    if (this.trails || pipe.dead || pipe.flying === 0) return false;
    const { engine } = this.wires;
    const lateUs = this.wires.drawLateUs();
    if (lateUs === 0) return false;
    const other = by === this.client ? this.server : this.client;
    this.trails = true;
    this.incoming(by).dead = true;
    pipe.delay(lateUs);
    const look = (): void => {
      if (other.isOver) this.end();
      else if (pipe.flying > 0 && !pipe.dead) engine.after(TRAIL_LOOK_US, look);
      else {
        this.end();
        other.onReset(reason);
      }
    };
    engine.after(lateUs + TRAIL_LOOK_US, look);
    return true;
  }

  /**
   * The machine of one end lost its power. Once it is back it knows nothing of the connection: what the
   * other end sends, or had sent before, is answered with a reset.
   */
  forget(by: SimStream): void {
    this.forth.dead = true;
    this.back.dead = true;
    this.forgottenBy = by;
    if (this.incoming(by).bytes > 0) this.sendAgain(RETRANSMIT_US);
  }

  /** Something between the ends has lost them, or one: the one at `address` hears of it, the other not. */
  orphan(address: string): void {
    const by = isAt(this.server.hostAddress, address) ? this.server : this.client;
    if (this.forgottenBy !== null || by.isOver) return;
    this.forget(by);
    by.onReset("connection reset");
  }

  /** The end that is left has sent something. */
  sent(): void {
    if (this.forgottenBy !== null && !this.sendsAgain) this.sendAgain(0);
  }

  private sendAgain(delayUs: number): void {
    const { engine, faults } = this.wires;
    const by = this.forgottenBy!;
    const other = by === this.client ? this.server : this.client;
    this.sendsAgain = true;
    const wireUs = engine.between(2 * faults.latencyUsMin, 2 * faults.latencyUsMax);
    engine.after(delayUs + wireUs, () => {
      const [from, to] = [other.hostAddress, by.hostAddress];
      if (other.isOver) return;
      if (this.wires.isDark(to) || this.wires.isCut(from, to) || this.wires.isCut(to, from)) {
        this.sendAgain(Math.min(Math.max(2 * delayUs, RETRANSMIT_US), RETRANSMIT_US_MAX));
      } else this.reset("connection reset");
    });
  }

  /** Nothing arrives any more. */
  end(): void {
    this.forth.dead = true;
    this.back.dead = true;
    this.wires.remove(this);
  }
}

/** One end of a simulated connection. */
export class SimStream extends BufferedStream {
  /** False while an incoming connection waits for its handler. */
  accepted = true;
  connection: SimConnection | null = null;
  private readonly process: SimHost;
  private readonly wires: SimWires;
  private openPending = false;
  private writablePending = false;

  constructor(host: SimStreamHost, peer: string, handler: StreamHandler, at: StreamBuffers) {
    super(host, peer, handler, at);
    this.process = host.host;
    this.wires = host.fabric;
  }

  get hostAddress(): string {
    return this.process.address;
  }

  /** It has ended, or begun to. */
  get isOver(): boolean {
    return this.stage >= StreamStage.Ending;
  }

  get hostId(): number {
    return this.process.id;
  }

  /** The other end hears of it, unless everything is sent first. */
  override close(reason: string, flush = false): void {
    const atOnce = !flush || this.stage !== StreamStage.Open;
    if (atOnce && !this.isClosing) this.breakOff("closed by the peer");
    super.close(reason, flush);
  }

  override onTimer(): void {
    this.breakOff("connection reset");
    super.onTimer();
  }

  /** Kernel side: this end and `server` are connected now. */
  joinTo(server: SimStream): void {
    const connection = new SimConnection(this.wires, this, server);
    this.connection = connection;
    server.connection = connection;
    server.stage = StreamStage.Open;
    server.accepted = false;
    const { engine, faults } = this.wires;
    engine.after(engine.between(faults.latencyUsMin, faults.latencyUsMax), () => {
      if (this.stage !== StreamStage.Connecting) return;
      this.stage = StreamStage.Open;
      this.openPending = true;
      this.host.defer(this);
    });
  }

  /** Kernel side: a segment came in. */
  onArrival(): void {
    if (this.stage < StreamStage.Ending) this.host.defer(this);
  }

  /** Kernel side: the pipe has room again. */
  onSpace(): void {
    if (this.waitsForSpace) this.host.mark(this);
  }

  /** Whether something is left to send, or the end to be said. */
  get waitsForSpace(): boolean {
    return this.stage < StreamStage.Ending && (this.send.unsentBytes > 0 || this.isClosing);
  }

  /** Kernel side: the connection broke. */
  onReset(reason: string): void {
    if (this.stage >= StreamStage.Ending) return;
    if (!this.isClosing) this.reason = reason;
    this.end();
  }

  /** The process is gone. */
  die(silent: boolean): void {
    if (this.connection !== null && this.stage < StreamStage.Ending) {
      if (silent) this.connection.forget(this);
      else this.connection.breakOff(this, "connection reset");
    }
    this.stage = StreamStage.Closed;
  }

  deliver(): void {
    if (!this.accepted) return;
    if (this.stage === StreamStage.Ending) {
      this.finish();
      return;
    }
    if (this.openPending) {
      this.openPending = false;
      this.handler.onOpen(this);
      this.host.mark(this);
    }
    this.takeIn();
    if (this.isClosing) this.receive.consume(this.receive.length);
    else this.deliverReceived();
    this.takeInRest();
    if (this.writablePending && this.stage === StreamStage.Open) {
      this.writablePending = false;
      this.handler.onWritable(this);
    }
    this.deliverEnd();
  }

  pump(): void {
    if (this.stage === StreamStage.Connecting || this.stage >= StreamStage.Ending) return;
    const { connection } = this;
    if (connection === null) return;
    if (connection.incoming(this).arrived.length > 0 && this.hasRoom()) this.host.defer(this);
    const pipe = connection.outgoing(this);
    const bytes = this.host.world.arena.bytes;
    while (this.send.tail > this.send.head && pipe.bytes < PIPE_BYTES_MAX) {
      const room = Math.min(PIPE_BYTES_MAX - pipe.bytes, SEGMENT_BYTES_MAX);
      const all = Math.min(this.send.tail - this.send.head, room);
      const { engine, faults } = this.wires;
      const count = engine.chance(faults.shortWriteShare) ? 1 + engine.random.below(all) : all;
      const buffer = this.wires.memory.takeBuffer(count);
      buffer.set(bytes.subarray(this.send.head, this.send.head + count));
      pipe.put(new Segment(buffer, count));
      connection.sent();
      this.send.sent(count);
    }
    if (this.takeSpace()) {
      this.writablePending = true;
      this.host.defer(this);
    }
    if (this.beginLingering()) pipe.put(new Segment(null, 0));
    // Our end is on the wire and everything before it was taken: nothing is left to wait for.
    if (this.stage === StreamStage.Lingering && pipe.bytes === 0) this.end();
  }

  protected releaseConnection(): void {
    this.wires.engine.trace(TraceKind.Close, this.hostId, this.reason.length);
  }

  private hasRoom(): boolean {
    return !this.paused && this.receive.makeRoom() > 0;
  }

  /** Move what arrived into the receive buffer, sometimes only a part. */
  private takeIn(): void {
    const { connection } = this;
    if (connection === null || (this.paused && this.stage === StreamStage.Open)) return;
    const pipe = connection.incoming(this);
    const { engine, faults } = this.wires;
    while (pipe.arrived.length > 0) {
      const segment = pipe.arrived[0]!;
      if (segment.buffer === null) {
        this.ended = true;
        pipe.arrived.shift();
        return;
      }
      const { buffer, from } = segment;
      let room = Math.min(this.receive.makeRoom(), segment.end - from);
      if (room === 0) return;
      const short = engine.chance(faults.shortReadShare);
      if (short) room = 1 + engine.random.below(room);
      // Most segments are short and taken at once: a view of each would cost more than its bytes.
      const all =
        from === 0 && room === buffer.length ? buffer : buffer.subarray(from, from + room);
      this.host.world.arena.bytes.set(all, this.receive.tail);
      this.receive.grow(room);
      this.fresh = true;
      pipe.take(segment, room);
      if (short) return;
    }
  }

  /** Bytes or the end may still wait behind a short read or a full buffer that was emptied. */
  private takeInRest(): void {
    const { connection } = this;
    if (connection === null || this.stage >= StreamStage.Ending) return;
    if (connection.incoming(this).arrived.length > 0 && this.hasRoom()) this.host.defer(this);
  }

  private deliverEnd(): void {
    if (!this.ended || this.stage >= StreamStage.Ending) return;
    if (this.stage === StreamStage.Open) {
      if (this.paused || this.fresh) return;
      this.reason = "closed by the peer";
    }
    this.breakOff("closed by the peer");
    this.end();
  }

  private breakOff(reason: string): void {
    this.connection?.breakOff(this, reason);
  }
}

/** A number that depends on the bytes, cheaply. */
function fingerprint(bytes: Uint8Array, count: number): number {
  let hash = count;
  const step = count > 256 ? 37 : 1;
  for (let at = 0; at < count; at += step) hash = Math.imul(hash ^ bytes[at]!, 0x0100_0193);
  return hash >>> 0;
}

/** `*` is every address. */
function isAt(address: string, wanted: string): boolean {
  return wanted === "*" || wanted === address;
}
