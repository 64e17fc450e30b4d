import { assert } from "../base/assert.ts";
import { FastblockError } from "../base/errors.ts";
import { Status } from "../base/status.ts";
import { BLOCK_SIZE } from "../base/units.ts";
import { LatencyHistogram } from "../metrics/metrics.ts";
import {
  type Acceptor,
  type Address,
  type Disk,
  DiskOp,
  DiskVerb,
  type Drain,
  DrainOrder,
  type Listener,
  type Stream,
  type StreamHandler,
  Timer,
  type World,
} from "../reactor/world.ts";
import { type BenchRow, type CpuClock, rowOf } from "./bench-row.ts";

/**
 * Micro-benchmarks of the reactor: an empty turn, and messages of the shape of a replicated write
 * (64-byte header and payload one way, 64 bytes back) or of a read (the other way round) over a stream.
 *
 * Header of a message, 64 bytes: word 0 payload length, word 1 place in the sender's window, word 2 payload
 * length of the answer, word 3 the 4 KiB block of the disk that it is read from, plus 1; 0: from none.
 */
export interface EchoBenchOptions {
  /** Messages on their way at once. */
  readonly depth: number;
  /** Payload behind each header, a multiple of 8. */
  readonly payloadBytes: number;
  /** Payload of each answer. Default 0. */
  readonly answerBytes?: number;
  /** Answers are read from random places of so many bytes of the server's disk. Default: from none. */
  readonly diskBytes?: number;
  readonly durationMs: number;
  /** Time before that, not counted. Default 300. */
  readonly rampMs?: number;
  /** Local address of the connection. */
  readonly bind?: string;
}

export const ECHO_HEADER_BYTES = 64;
const RAMP_MS = 300;

/**
 * Answer every message of every connection with 64 bytes and what it asks for, until the listener is
 * closed. `disk`: what answers are read from.
 */
export function serveEcho(world: World, address: Address, disk: Disk | null = null): Listener {
  const acceptor: Acceptor = { onAccept: () => new EchoServer(world, disk) };
  return world.network.listen(address, acceptor);
}

/** Send messages to an echo server for a while and measure the round trips. */
export function runEchoBench(
  world: World,
  target: Address,
  options: EchoBenchOptions,
  cpu: CpuClock,
): Promise<BenchRow> {
  return new Promise((resolve, reject) => {
    new EchoClient(world, options, cpu, resolve, reject).begin(target);
  });
}

/** Measure turns that do nothing, one behind the other. */
export function runTurnBench(world: World, durationMs: number, cpu: CpuClock): Promise<BenchRow> {
  return new Promise((resolve) => {
    const load = new TurnLoad(world, durationMs, cpu, resolve);
    world.turns.addDrain(DrainOrder.Receive, load);
    world.turns.again();
  });
}

class TurnLoad implements Drain {
  private readonly world: World;
  private readonly durationUs: number;
  private readonly cpu: CpuClock;
  private readonly resolve: (row: BenchRow) => void;
  private readonly histogram = new LatencyHistogram();
  private startUs = -1;
  private lastUs = 0;
  private cpuBefore = { userUs: 0, systemUs: 0 };
  private over = false;

  constructor(world: World, durationMs: number, cpu: CpuClock, resolve: (row: BenchRow) => void) {
    this.world = world;
    this.durationUs = durationMs * 1000;
    this.cpu = cpu;
    this.resolve = resolve;
  }

  drain(): void {
    if (this.over) return;
    const nowUs = this.world.clock.turnUs;
    if (this.startUs < 0) {
      this.startUs = nowUs;
      this.cpuBefore = this.cpu.read();
    } else this.histogram.record(nowUs - this.lastUs);
    this.lastUs = nowUs;
    if (nowUs - this.startUs < this.durationUs) {
      this.world.turns.again();
      return;
    }
    this.over = true;
    const { startUs, cpuBefore } = this;
    const cpuAfter = this.cpu.read();
    const span = { startUs, endUs: nowUs, cpuBefore, cpuAfter };
    this.resolve(rowOf("empty turn", this.histogram, span));
  }
}

class EchoServer implements StreamHandler {
  private readonly world: World;
  private readonly disk: Disk | null;
  private readonly spare: ReadOp[] = [];
  /** Read, and waiting for space to send. */
  private readonly ready: ReadOp[] = [];
  private stream: Stream | null = null;

  constructor(world: World, disk: Disk | null) {
    this.world = world;
    this.disk = disk;
  }

  onOpen(stream: Stream): void {
    this.stream = stream;
  }

  onReceive(stream: Stream): void {
    const { words, bytes } = this.world.arena;
    this.stream = stream;
    while (stream.receiveLength >= ECHO_HEADER_BYTES) {
      const at = stream.receiveOffset;
      const header = at >>> 2;
      const length = ECHO_HEADER_BYTES + words[header]!;
      if (stream.receiveLength < length) return;
      const answer = words[header + 2]!;
      const block = words[header + 3]!;
      if (block > 0) {
        this.read(words[header + 1]!, block - 1, answer);
        stream.consume(length);
        continue;
      }
      const reply = stream.reserve(ECHO_HEADER_BYTES + answer);
      // No space: go on when the peer has read some.
      if (reply < 0) return;
      bytes.copyWithin(reply, at, at + ECHO_HEADER_BYTES);
      words[reply >>> 2] = answer;
      stream.commit(ECHO_HEADER_BYTES + answer);
      stream.consume(length);
    }
  }

  onWritable(stream: Stream): void {
    while (this.ready.length > 0 && this.send(this.ready[0]!)) this.ready.shift();
    this.onReceive(stream);
  }

  onClose(): void {
    this.stream = null;
  }

  /** By a read that ended. */
  onRead(op: ReadOp): void {
    assert(op.status === Status.Ok, "bench server: a read failed");
    if (this.ready.length > 0 || !this.send(op)) this.ready.push(op);
  }

  private read(place: number, block: number, lengthBytes: number): void {
    assert(this.disk !== null, "bench server: asked to read without a disk");
    const op = this.spare.pop() ?? new ReadOp(this, this.world.arena.allocate(lengthBytes));
    op.place = place;
    op.offsetBytes = block * BLOCK_SIZE;
    op.lengthBytes = lengthBytes;
    this.disk.submit(op);
  }

  private send(op: ReadOp): boolean {
    const { stream } = this;
    if (stream !== null) {
      const reply = stream.reserve(ECHO_HEADER_BYTES + op.lengthBytes);
      if (reply < 0) return false;
      const { words, bytes } = this.world.arena;
      words[reply >>> 2] = op.lengthBytes;
      words[(reply >>> 2) + 1] = op.place;
      const { arenaOffset, lengthBytes } = op;
      bytes.copyWithin(reply + ECHO_HEADER_BYTES, arenaOffset, arenaOffset + lengthBytes);
      stream.commit(ECHO_HEADER_BYTES + lengthBytes);
    }
    this.spare.push(op);
    return true;
  }
}

class ReadOp extends DiskOp {
  place = 0;
  private readonly server: EchoServer;

  constructor(server: EchoServer, arenaOffset: number) {
    super();
    this.server = server;
    this.verb = DiskVerb.Read;
    this.arenaOffset = arenaOffset;
  }

  onDone(): void {
    this.server.onRead(this);
  }
}

class EchoClient extends Timer implements StreamHandler {
  private readonly world: World;
  private readonly options: EchoBenchOptions;
  private readonly cpu: CpuClock;
  private readonly resolve: (row: BenchRow) => void;
  private readonly reject: (error: unknown) => void;
  private readonly histogram = new LatencyHistogram();
  private readonly sentUs: Float64Array;
  private stream: Stream | null = null;
  private measured = false;
  private startUs = 0;
  private cpuBefore = { userUs: 0, systemUs: 0 };
  private row: BenchRow | null = null;
  /** What is sent, over and over: a device may know zeros for what they are. */
  private readonly payload: number;

  constructor(
    world: World,
    options: EchoBenchOptions,
    cpu: CpuClock,
    resolve: (row: BenchRow) => void,
    reject: (error: unknown) => void,
  ) {
    super();
    this.world = world;
    this.options = options;
    this.cpu = cpu;
    this.resolve = resolve;
    this.reject = reject;
    this.sentUs = new Float64Array(options.depth);
    const { payloadBytes } = options;
    this.payload = world.arena.allocate(Math.max(1, payloadBytes));
    world.random.fill(world.arena.bytes.subarray(this.payload, this.payload + payloadBytes));
  }

  begin(target: Address): void {
    const { bind } = this.options;
    this.world.network.connect(target, this, bind === undefined ? {} : { bind });
    this.world.turns.again();
  }

  onOpen(stream: Stream): void {
    this.stream = stream;
    for (let place = 0; place < this.options.depth; place++) this.send(stream, place);
    this.world.timers.arm(this, 1000 * (this.options.rampMs ?? RAMP_MS));
  }

  onReceive(stream: Stream): void {
    const { words } = this.world.arena;
    while (stream.receiveLength >= ECHO_HEADER_BYTES) {
      const header = stream.receiveOffset >>> 2;
      const length = ECHO_HEADER_BYTES + words[header]!;
      if (stream.receiveLength < length) return;
      const place = words[header + 1]!;
      stream.consume(length);
      this.histogram.record(this.world.clock.turnUs - this.sentUs[place]!);
      this.send(stream, place);
    }
  }

  onTimer(): void {
    if (!this.measured) {
      this.measured = true;
      this.histogram.reset();
      this.cpuBefore = this.cpu.read();
      this.startUs = this.world.clock.nowUs();
      this.world.timers.arm(this, this.options.durationMs * 1000);
      return;
    }
    const { startUs, cpuBefore } = this;
    const endUs = this.world.clock.nowUs();
    const cpuAfter = this.cpu.read();
    const { depth, payloadBytes, answerBytes = 0, diskBytes } = this.options;
    const from = diskBytes === undefined ? "" : " read";
    const answer = answerBytes === 0 ? "" : `, answer of ${answerBytes} bytes${from}`;
    const name = `message of ${payloadBytes} bytes${answer} depth ${depth}`;
    this.row = rowOf(name, this.histogram, { startUs, endUs, cpuBefore, cpuAfter });
    this.stream?.close("measured");
  }

  onWritable(): void {}

  onClose(_stream: Stream, reason: string): void {
    this.world.timers.disarm(this);
    if (this.row !== null) this.resolve(this.row);
    else {
      const message = `measuring messages: the connection ended early: ${reason}`;
      this.reject(new FastblockError("FB5001", message));
    }
  }

  private send(stream: Stream, place: number): void {
    const { payloadBytes, answerBytes = 0, diskBytes } = this.options;
    const at = stream.reserve(ECHO_HEADER_BYTES + payloadBytes);
    if (at < 0) return;
    const { words, bytes } = this.world.arena;
    const from = this.payload;
    bytes.copyWithin(at + ECHO_HEADER_BYTES, from, from + payloadBytes);
    words[at >>> 2] = payloadBytes;
    words[(at >>> 2) + 1] = place;
    words[(at >>> 2) + 2] = answerBytes;
    words[(at >>> 2) + 3] = diskBytes === undefined ? 0 : 1 + this.draw(diskBytes, answerBytes);
    this.sentUs[place] = this.world.clock.turnUs;
    stream.commit(ECHO_HEADER_BYTES + payloadBytes);
  }

  /** The first block of a random answer. */
  private draw(diskBytes: number, answerBytes: number): number {
    const places = Math.floor(diskBytes / answerBytes);
    return (this.world.random.below(places) * answerBytes) / BLOCK_SIZE;
  }
}
