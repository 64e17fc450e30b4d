/**
 * For tests: two processes in memory, with somebody in between who may change what passes.
 *
 * The simulator's network loses and delays; this one flips bytes, which the simulator's does not.
 */
import { GcmCipher, libcryptoFault } from "../../ffi/libcrypto/libcrypto.ts";
import { assert } from "../base/assert.ts";
import type { Checksum } from "../base/checksum.ts";
import type { Ciphers } from "../base/cipher.ts";
import type { LogFields, Logger } from "../base/logger.ts";
import { Prng } from "../base/prng.ts";
import { StageTrace } from "../metrics/metrics.ts";
import type {
  Acceptor,
  Address,
  Arena,
  Backend,
  Clock,
  Disks,
  Drain,
  Listener,
  Network,
  Slots,
  Stream,
  StreamHandler,
  StreamOptions,
  Timer,
  Timers,
  Turns,
  World,
} from "../reactor/world.ts";

/** CRC and HMAC of the runtime. */
const testChecksum: Checksum = {
  crc32: (bytes, seed) => Bun.hash.crc32(bytes, seed),
  hmacSha256: (key, data) => new Bun.CryptoHasher("sha256", key).update(data).digest(),
};

/** Those of the system. */
const testCiphers: Ciphers = {
  get missing() {
    return libcryptoFault();
  },
  create: (memory, key, use) => new GcmCipher(memory, key, use),
};

/** Remembers warnings and errors. */
export class NotingLogger implements Logger {
  readonly lines: string[] = [];
  debug(): void {}
  info(): void {}
  warn(message: string, fields?: LogFields): void {
    this.lines.push(`${message}: ${String(fields?.["reason"])}`);
  }
  error(message: string, fields?: LogFields): void {
    this.lines.push(`error: ${message}: ${String(fields?.["reason"])}`);
  }
  child(): Logger {
    return this;
  }
}

class MemoryArena implements Arena {
  readonly bytes: Uint8Array;
  readonly view: DataView;
  readonly words: Int32Array;
  readonly sizeBytes: number;
  private used = 4096;

  constructor(sizeBytes: number) {
    const buffer = new ArrayBuffer(sizeBytes);
    this.bytes = new Uint8Array(buffer);
    this.view = new DataView(buffer);
    this.words = new Int32Array(buffer);
    this.sizeBytes = sizeBytes;
  }

  allocate(sizeBytes: number): number {
    const at = this.used;
    this.used += Math.ceil(sizeBytes / 4096) * 4096;
    assert(this.used <= this.sizeBytes, "MemoryArena: exhausted");
    return at;
  }

  block(offset: number): Uint8Array {
    return this.bytes.subarray(offset, offset + 4096);
  }
}

/** Sees the bytes that one end sent before the other gets them; what it answers goes on. */
export type Tamper = (bytes: Uint8Array, fromDialler: boolean) => Uint8Array;

/** Both processes, one clock. */
export class Pair {
  nowUs = 1_000_000;
  tamper: Tamper = (bytes) => bytes;
  readonly worlds: MemoryWorld[] = [];
  readonly acceptors = new Map<number, { acceptor: Acceptor; options: StreamOptions }>();
  readonly streams: MemoryStream[] = [];
  private ports = 1;

  createWorld(arenaBytes = 33_554_432): MemoryWorld {
    const world = new MemoryWorld(this, this.worlds.length + 1, arenaBytes);
    this.worlds.push(world);
    return world;
  }

  nextPort(): number {
    this.ports += 1;
    return this.ports;
  }

  /** One turn of every process: events, timers, drains. True when something happened. */
  turn(): boolean {
    let busy = false;
    for (const stream of [...this.streams]) busy = stream.pump() || busy;
    for (const world of this.worlds) busy = world.turn() || busy;
    return busy;
  }

  /** Turns until nothing happens any more at this moment. */
  settle(): void {
    for (let turns = 0; turns < 10_000; turns++) if (!this.turn()) return;
    throw new Error("Pair.settle: still busy after 10,000 turns");
  }

  /** Let time pass, in steps of `stepUs`. */
  advance(us: number, stepUs = 1000): void {
    const end = this.nowUs + us;
    this.settle();
    while (this.nowUs < end) {
      this.nowUs = Math.min(end, this.nowUs + stepUs);
      this.settle();
    }
  }
}

export class MemoryWorld implements World {
  readonly arena: Arena;
  readonly slots: Slots = null as unknown as Slots;
  readonly disks: Disks = null as unknown as Disks;
  readonly clock: Clock;
  readonly random: Prng;
  readonly timers: Timers;
  readonly turns: Turns;
  readonly network: Network;
  readonly checksum: Checksum = testChecksum;
  /** Another one: of a machine without the library. */
  ciphers: Ciphers = testCiphers;
  readonly logger: NotingLogger = new NotingLogger();
  readonly trace: StageTrace;
  readonly backend: Backend = "memory";
  readonly pair: Pair;
  /** Buffers of ended streams, by size. */
  readonly buffers = new Map<number, number[]>();
  private readonly armed = new Map<Timer, number>();
  private readonly drains: { order: number; drain: Drain }[] = [];
  private wantsAgain = false;
  /** What ended this process, as a message. */
  failure = "";

  constructor(pair: Pair, seed: number, arenaBytes: number) {
    this.pair = pair;
    this.arena = new MemoryArena(arenaBytes);
    this.random = new Prng(seed);
    this.clock = {
      nowUs: () => pair.nowUs,
      get turnUs() {
        return pair.nowUs;
      },
      overrunUs: 0,
      wallMs: () => 0,
    };
    this.trace = new StageTrace(this.clock);
    this.timers = {
      arm: (timer, delayUs) => {
        timer.timerDueUs = pair.nowUs + delayUs;
        this.armed.set(timer, timer.timerDueUs);
      },
      armPeriod: (timer, periodUs) => {
        this.timers.arm(timer, periodUs - (pair.nowUs % periodUs));
      },
      disarm: (timer) => {
        timer.timerDueUs = -1;
        this.armed.delete(timer);
      },
    };
    this.turns = {
      addDrain: (order, drain) => {
        this.drains.push({ order, drain });
        this.drains.sort((a, b) => a.order - b.order);
      },
      again: () => {
        this.wantsAgain = true;
      },
    };
    this.network = {
      listen: (address, acceptor, options) => this.listen(address, acceptor, options ?? {}),
      connect: (target, handler, options) => this.connect(target, handler, options ?? {}),
    };
  }

  fail(error: unknown): void {
    this.failure = String(error);
  }

  turn(): boolean {
    if (this.failure !== "") return false;
    this.wantsAgain = false;
    let busy = false;
    for (const [timer, dueUs] of [...this.armed]) {
      if (dueUs > this.pair.nowUs || this.armed.get(timer) !== dueUs) continue;
      this.timers.disarm(timer);
      timer.onTimer();
      busy = true;
    }
    for (const { drain } of this.drains) drain.drain();
    return busy || this.wantsAgain;
  }

  takeBuffer(sizeBytes: number): number {
    return this.buffers.get(sizeBytes)?.pop() ?? this.arena.allocate(sizeBytes);
  }

  releaseBuffer(offset: number, sizeBytes: number): void {
    const free = this.buffers.get(sizeBytes) ?? [];
    free.push(offset);
    this.buffers.set(sizeBytes, free);
  }

  private listen(address: Address, acceptor: Acceptor, options: StreamOptions): Listener {
    assert(address.kind === "tcp", "MemoryWorld: tcp only");
    const port = address.port === 0 ? this.pair.nextPort() : address.port;
    this.pair.acceptors.set(port, { acceptor, options });
    Object.assign(acceptor, { world: this });
    return {
      address: { ...address, port },
      close: () => this.pair.acceptors.delete(port),
    };
  }

  private connect(target: Address, handler: StreamHandler, options: StreamOptions): Stream {
    assert(target.kind === "tcp", "MemoryWorld: tcp only");
    const stream = new MemoryStream(this, options, true);
    stream.handler = handler;
    stream.targetPort = target.port;
    this.pair.streams.push(stream);
    return stream;
  }
}

/** One end. Bytes go on in `pump`, one turn later. */
export class MemoryStream implements Stream {
  handler: StreamHandler = null as unknown as StreamHandler;
  readonly peer: string = "memory";
  readonly world: MemoryWorld;
  readonly isDialler: boolean;
  other: MemoryStream | null = null;
  targetPort = 0;
  /** Takes nothing from its peer: a process that hangs. */
  frozen = false;
  private readonly receiveBase: number;
  private readonly receiveBytes: number;
  private readonly sendBase: number;
  private readonly sendBytes: number;
  private head: number;
  private tail: number;
  private sendTail: number;
  private reserved = 0;
  private paused = false;
  private starved = false;
  private news = false;
  private opening = true;
  private closing = "";
  private closed = false;
  /** The peer sends nothing more. */
  private ended = false;

  constructor(world: MemoryWorld, options: StreamOptions, isDialler: boolean) {
    this.world = world;
    this.isDialler = isDialler;
    this.receiveBytes = options.receiveBytes ?? 1_048_576;
    this.sendBytes = options.sendBytes ?? 2_097_152;
    this.receiveBase = world.takeBuffer(this.receiveBytes);
    this.sendBase = world.takeBuffer(this.sendBytes);
    this.head = this.receiveBase;
    this.tail = this.receiveBase;
    this.sendTail = this.sendBase;
  }

  get receiveOffset(): number {
    return this.head;
  }
  get receiveLength(): number {
    return this.tail - this.head;
  }
  get unsentBytes(): number {
    return this.sendTail - this.sendBase;
  }
  consume(lengthBytes: number): void {
    assert(lengthBytes <= this.receiveLength, "MemoryStream.consume: too much");
    this.head += lengthBytes;
  }
  pause(): void {
    this.paused = true;
  }
  resume(): void {
    if (this.paused && this.receiveLength > 0) this.news = true;
    this.paused = false;
  }
  reserve(lengthBytes: number): number {
    if (this.closing !== "" || this.closed) return -1;
    if (this.unsentBytes + lengthBytes > this.sendBytes) {
      this.starved = true;
      return -1;
    }
    this.reserved = lengthBytes;
    return this.sendTail;
  }
  commit(lengthBytes: number): void {
    assert(lengthBytes <= this.reserved, "MemoryStream.commit: more than reserved");
    this.sendTail += lengthBytes;
    this.reserved = 0;
  }
  close(reason: string, flush = false): void {
    if (this.closing !== "") return;
    this.closing = reason;
    if (!flush) this.sendTail = this.sendBase;
  }
  /** The peer's process dies: both ends hear of it. */
  reset(): void {
    this.close("reset");
  }

  /** Send and receive; true when something happened. */
  pump(): boolean {
    if (this.closed) return false;
    if (this.opening) return this.open();
    let busy = this.transfer();
    if (this.news && !this.paused && this.closing === "") {
      this.news = false;
      this.handler.onReceive(this);
      busy = true;
    }
    // The peer's end comes behind everything it sent.
    if (this.ended && !this.news && this.closing === "") this.close("closed by the peer");
    if (this.closing !== "" && (this.unsentBytes === 0 || this.ended)) {
      if (this.other !== null) this.other.ended = true;
      this.end(this.closing);
      return true;
    }
    return busy;
  }

  private open(): boolean {
    this.opening = false;
    if (!this.isDialler) return true;
    if (this.closing !== "") {
      this.end(this.closing);
      return true;
    }
    const entry = this.world.pair.acceptors.get(this.targetPort);
    if (entry === undefined) {
      this.end("connection refused");
      return true;
    }
    const world = (entry.acceptor as unknown as { world: MemoryWorld }).world;
    const other = new MemoryStream(world, entry.options, false);
    other.other = this;
    this.other = other;
    this.world.pair.streams.push(other);
    other.handler = entry.acceptor.onAccept(other);
    this.handler.onOpen(this);
    return true;
  }

  private transfer(): boolean {
    const other = this.other;
    if (this.unsentBytes === 0 || other === null) return false;
    if (other.closed || other.closing !== "") {
      this.sendTail = this.sendBase;
      return true;
    }
    if (other.frozen || other.paused) return false;
    const sent = this.world.arena.bytes.slice(this.sendBase, this.sendTail);
    const room = other.room();
    const part = sent.subarray(0, Math.min(sent.length, room));
    if (part.length === 0) return false;
    const passed = this.world.pair.tamper(part, this.isDialler);
    if (passed.length > 0) other.arrive(passed.subarray(0, room));
    this.world.arena.bytes.copyWithin(this.sendBase, this.sendBase + part.length, this.sendTail);
    this.sendTail -= part.length;
    if (this.starved) {
      this.starved = false;
      this.handler.onWritable(this);
    }
    return true;
  }

  private room(): number {
    if (this.head > this.receiveBase) {
      this.world.arena.bytes.copyWithin(this.receiveBase, this.head, this.tail);
      this.tail -= this.head - this.receiveBase;
      this.head = this.receiveBase;
    }
    return this.receiveBase + this.receiveBytes - this.tail;
  }

  private arrive(bytes: Uint8Array): void {
    this.world.arena.bytes.set(bytes, this.tail);
    this.tail += bytes.length;
    this.news = true;
  }

  private end(reason: string): void {
    this.closed = true;
    const at = this.world.pair.streams.indexOf(this);
    if (at >= 0) this.world.pair.streams.splice(at, 1);
    this.handler.onClose(this, reason);
    this.world.releaseBuffer(this.receiveBase, this.receiveBytes);
    this.world.releaseBuffer(this.sendBase, this.sendBytes);
  }
}
