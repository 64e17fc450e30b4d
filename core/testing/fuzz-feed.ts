// cold: fuzzing of decoders
import type { Logger } from "../base/logger.ts";
import { Prng, type Random } from "../base/prng.ts";
import type { SimWorld } from "../reactor/reactor.ts";
import type {
  Acceptor,
  Address,
  Arena,
  Backend,
  Clock,
  Disks,
  Listener,
  Network,
  Slots,
  Stream,
  StreamHandler,
  StreamOptions,
  Timers,
  Turns,
  World,
} from "../reactor/world.ts";
import type { Checksum } from "../base/checksum.ts";
import type { Ciphers } from "../base/cipher.ts";
import { assert } from "../base/assert.ts";

/**
 * A world whose network is one stream at a time, fed by hand: what a peer sends arrives in the pieces
 * that a test chooses. Memory, timers and turns are those of a simulated world.
 */
export class FeedWorld implements World {
  readonly arena: Arena;
  readonly slots: Slots;
  readonly clock: Clock;
  readonly timers: Timers;
  readonly turns: Turns;
  readonly disks: Disks;
  readonly checksum: Checksum;
  readonly ciphers: Ciphers;
  readonly logger: Logger;
  readonly trace: World["trace"];
  readonly backend: Backend = "memory";
  readonly random: FixedRandom = new FixedRandom();
  readonly network: FeedNetwork;
  private readonly world: SimWorld;

  constructor(world: SimWorld) {
    this.world = world;
    this.arena = world.arena;
    this.slots = world.slots;
    this.clock = world.clock;
    this.timers = world.timers;
    this.turns = world.turns;
    this.disks = world.disks;
    this.checksum = world.checksum;
    this.ciphers = world.ciphers;
    this.logger = world.logger;
    this.trace = world.trace;
    this.network = new FeedNetwork(this.arena);
  }

  fail(error: unknown): void {
    this.world.fail(error);
  }
}

/** The same numbers after each `begin`: a handshake that is fed twice has the same nonces. */
export class FixedRandom implements Random {
  private inner: Prng = new Prng(1);

  begin(): void {
    this.inner = new Prng(1);
  }

  u32(): number {
    return this.inner.u32();
  }

  below(bound: number): number {
    return this.inner.below(bound);
  }

  fill(bytes: Uint8Array): void {
    this.inner.fill(bytes);
  }
}

export class FeedNetwork implements Network {
  private readonly arena: Arena;
  private acceptor: Acceptor | null = null;
  private options: StreamOptions = {};
  private stream: FeedStream | null = null;

  constructor(arena: Arena) {
    this.arena = arena;
  }

  listen(address: Address, acceptor: Acceptor, options: StreamOptions = {}): Listener {
    this.acceptor = acceptor;
    this.options = options;
    return { address, close: () => {} };
  }

  connect(_target: Address, handler: StreamHandler, options: StreamOptions = {}): Stream {
    const stream = this.renew(options);
    stream.handler = handler;
    return stream;
  }

  /** A connection comes in. */
  accept(): FeedStream {
    assert(this.acceptor !== null, "FeedNetwork.accept: nobody listens");
    const stream = this.renew(this.options);
    stream.handler = this.acceptor.onAccept(stream);
    return stream;
  }

  /** The stream that `connect` made. */
  get dialled(): FeedStream {
    assert(this.stream !== null, "FeedNetwork.dialled: there is no stream");
    return this.stream;
  }

  /** Streams take turns with the same memory. */
  private renew(options: StreamOptions): FeedStream {
    if (this.stream === null) this.stream = new FeedStream(this.arena, options);
    this.stream.renew();
    return this.stream;
  }
}

/** One end; the other is the test. */
export class FeedStream implements Stream {
  handler: StreamHandler = null as unknown as StreamHandler;
  readonly peer: string = "fuzz";
  isClosed = false;
  private readonly arena: Arena;
  private readonly receiveBase: number;
  private readonly receiveBytes: number;
  private readonly sendBase: number;
  private readonly sendBytes: number;
  private head = 0;
  private tail = 0;
  private sendTail = 0;
  private reserved = 0;
  private isPaused = false;
  private isStarved = false;
  private hasNews = false;
  private closing = "";
  private flushes = false;

  constructor(arena: Arena, options: StreamOptions) {
    this.arena = arena;
    this.receiveBytes = options.receiveBytes ?? 1_048_576;
    this.sendBytes = options.sendBytes ?? 2_097_152;
    this.receiveBase = arena.allocate(this.receiveBytes);
    this.sendBase = arena.allocate(this.sendBytes);
    this.renew();
  }

  renew(): void {
    this.head = this.receiveBase;
    this.tail = this.receiveBase;
    this.sendTail = this.sendBase;
    this.reserved = 0;
    this.isClosed = false;
    this.isPaused = false;
    this.isStarved = false;
    this.hasNews = false;
    this.closing = "";
    this.flushes = false;
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
    assert(lengthBytes >= 0, "FeedStream.consume: a negative length");
    assert(lengthBytes <= this.receiveLength, "FeedStream.consume: more than there is");
    this.head += lengthBytes;
  }

  pause(): void {
    this.isPaused = true;
  }

  resume(): void {
    if (this.isPaused && this.receiveLength > 0) this.hasNews = true;
    this.isPaused = false;
  }

  reserve(lengthBytes: number): number {
    if (this.closing !== "" || this.isClosed) return -1;
    if (this.unsentBytes + lengthBytes > this.sendBytes) {
      this.isStarved = true;
      return -1;
    }
    this.reserved = lengthBytes;
    return this.sendTail;
  }

  commit(lengthBytes: number): void {
    assert(lengthBytes <= this.reserved, "FeedStream.commit: more than was reserved");
    this.sendTail += lengthBytes;
    this.reserved = 0;
  }

  close(reason: string, flush = false): void {
    if (this.closing !== "") return;
    this.closing = reason;
    this.flushes = flush;
  }

  /** Whether the end asked for its close; `end` carries it out. */
  get isClosing(): boolean {
    return this.closing !== "";
  }

  /** Hand over bytes of the peer; answers how many there was room for. */
  feed(bytes: Uint8Array): number {
    if (this.head > this.receiveBase) {
      this.arena.bytes.copyWithin(this.receiveBase, this.head, this.tail);
      this.tail -= this.head - this.receiveBase;
      this.head = this.receiveBase;
    }
    const count = Math.min(bytes.length, this.receiveBase + this.receiveBytes - this.tail);
    this.arena.bytes.set(bytes.subarray(0, count), this.tail);
    this.tail += count;
    if (count > 0) this.hasNews = true;
    return count;
  }

  /** Tell the handler what there is to tell; true when there was something. */
  pump(): boolean {
    if (this.isClosed || this.closing !== "" || !this.hasNews || this.isPaused) return false;
    this.hasNews = false;
    this.handler.onReceive(this);
    return true;
  }

  /** The peer reads: what was sent since the last time, and the space comes back. */
  take(): Uint8Array {
    const dropped = this.closing !== "" && !this.flushes;
    const sent = dropped ? new Uint8Array(0) : this.arena.bytes.slice(this.sendBase, this.sendTail);
    this.sendTail = this.sendBase;
    if (this.isStarved && this.closing === "" && !this.isClosed) {
      this.isStarved = false;
      this.handler.onWritable(this);
    }
    return sent;
  }

  /** The stream is over, as the end or the peer wished. */
  end(): void {
    if (this.isClosed) return;
    this.isClosed = true;
    this.handler.onClose(this, this.closing === "" ? "closed by the peer" : this.closing);
  }
}
