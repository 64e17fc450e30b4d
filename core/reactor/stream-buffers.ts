// data path
import { assert } from "../base/assert.ts";
import { BLOCK_SIZE } from "../base/units.ts";
import type { LinearArena } from "./arena.ts";
import type { StreamOptions } from "./world.ts";

/** What a stream gets when its options name nothing. */
const RECEIVE_BYTES_DEFAULT = 1_048_576;
const SEND_BYTES_DEFAULT = 2_097_152;

/** Where the two buffers of a stream lie in the arena. */
export interface StreamBuffers {
  readonly receiveAt: number;
  readonly receiveBytes: number;
  readonly sendAt: number;
  readonly sendBytes: number;
}

/** Of a stream that is over before it began. */
export const NO_BUFFERS: StreamBuffers = {
  receiveAt: 0,
  receiveBytes: 0,
  sendAt: 0,
  sendBytes: 0,
};

/**
 * Buffers of connections, kept by size when a connection ends: the arena never takes memory back.
 */
export class BufferPool {
  private readonly arena: LinearArena;
  /** Sizes seen, and the free offsets of each: a handful of sizes in a process. */
  private readonly sizes: number[] = [];
  private readonly free: number[][] = [];

  constructor(arena: LinearArena) {
    this.arena = arena;
  }

  /** The buffers of a stream; null when the arena is exhausted. cold: once per connection */
  takeFor(options: StreamOptions): StreamBuffers | null {
    const receiveBytes = options.receiveBytes ?? RECEIVE_BYTES_DEFAULT;
    const sendBytes = options.sendBytes ?? SEND_BYTES_DEFAULT;
    const receiveAt = this.take(receiveBytes);
    if (receiveAt < 0) return null;
    const sendAt = this.take(sendBytes);
    if (sendAt < 0) {
      this.release(receiveAt, receiveBytes);
      return null;
    }
    return { receiveAt, receiveBytes, sendAt, sendBytes };
  }

  /** An offset of `sizeBytes` (rounded up to 4 KiB), or -1 when the arena is exhausted. */
  take(sizeBytes: number): number {
    const rounded = roundUp(sizeBytes);
    const row = this.sizes.indexOf(rounded);
    if (row >= 0 && this.free[row]!.length > 0) return this.free[row]!.pop()!;
    if (this.arena.freeBytes < rounded) return -1;
    return this.arena.allocate(rounded);
  }

  /** Keep a buffer for the next connection. cold: once per connection */
  release(offset: number, sizeBytes: number): void {
    const rounded = roundUp(sizeBytes);
    let row = this.sizes.indexOf(rounded);
    if (row < 0) {
      row = this.sizes.length;
      this.sizes.push(rounded);
      this.free.push([]);
    }
    this.free[row]!.push(offset);
  }

  /** Let go of the memory of all buffers that no connection has. cold: when at rest */
  giveBack(memory: IdleMemory): void {
    for (let row = 0; row < this.sizes.length; row++) {
      for (const offset of this.free[row]!) memory.giveBack(offset, this.sizes[row]!);
    }
  }
}

/** Takes memory that nobody uses back for the system: it reads zeros afterwards. */
export interface IdleMemory {
  giveBack(arenaOffset: number, sizeBytes: number): void;
}

function roundUp(sizeBytes: number): number {
  return Math.ceil(sizeBytes / BLOCK_SIZE) * BLOCK_SIZE;
}

/**
 * Received bytes in one linear piece, so that frames are parsed in place.
 *
 *     base ........ head ======== tail ........ base + capacity
 *            used         unread         room for the next receive
 *
 * Invariant: base ≤ head ≤ tail ≤ base + capacity. While the kernel fills [tail, end) only `head`
 * moves. Between receives the unread rest moves to the front when the room got small; it is less
 * than a frame, as everything whole was parsed.
 */
export class ReceiveBuffer {
  readonly base: number;
  readonly capacity: number;
  head: number;
  tail: number;
  private readonly bytes: Uint8Array;

  constructor(bytes: Uint8Array, base: number, capacity: number) {
    this.bytes = bytes;
    this.base = base;
    this.capacity = capacity;
    this.head = base;
    this.tail = base;
  }

  get length(): number {
    return this.tail - this.head;
  }

  consume(lengthBytes: number): void {
    assert(lengthBytes >= 0, "Stream.consume: length is negative");
    assert(
      lengthBytes <= this.tail - this.head,
      "Stream.consume: length is above what was received",
    );
    this.head += lengthBytes;
  }

  /** Make room for the next receive; call only when the kernel holds no part. Answers the room. */
  makeRoom(): number {
    if (this.head === this.tail) {
      this.head = this.base;
      this.tail = this.base;
      return this.capacity;
    }
    const end = this.base + this.capacity;
    if (this.head > this.base && end - this.tail < this.capacity / 2) {
      this.bytes.copyWithin(this.base, this.head, this.tail);
      this.tail -= this.head - this.base;
      this.head = this.base;
    }
    return end - this.tail;
  }

  /** `lengthBytes` more were written at `tail`. */
  grow(lengthBytes: number): void {
    assert(
      this.tail + lengthBytes <= this.base + this.capacity,
      "ReceiveBuffer: grown past the end",
    );
    this.tail += lengthBytes;
  }
}

/**
 * Bytes to send, in at most two pieces, so that each reservation is contiguous and nothing moves
 * while the kernel reads it.
 *
 *     base [===second===)....[=======first=======).... base + capacity
 *          0            secondEnd  head          tail
 *
 * New bytes go behind `tail`; when they do not fit there, a second piece begins at the front and
 * grows towards `head`. When the first piece is sent the second takes its place.
 *
 * Invariant: base ≤ secondEnd ≤ head ≤ tail ≤ base + capacity while a second piece exists.
 */
export class SendBuffer {
  readonly base: number;
  readonly capacity: number;
  /** Start and end of the piece that is sent next. */
  head: number;
  tail: number;
  /** End of the second piece; `base` when there is none. */
  private secondEnd: number;
  private reservedAt = -1;
  private reservedBytes = 0;

  constructor(base: number, capacity: number) {
    this.base = base;
    this.capacity = capacity;
    this.head = base;
    this.tail = base;
    this.secondEnd = base;
  }

  /** Committed and not yet sent. */
  get unsentBytes(): number {
    return this.tail - this.head + (this.secondEnd - this.base);
  }

  /** Where `lengthBytes` may be written, or -1. */
  reserve(lengthBytes: number): number {
    assert(lengthBytes > 0, "Stream.reserve: length is not positive");
    assert(lengthBytes <= this.capacity, "Stream.reserve: length is above the send buffer");
    const at = this.place(lengthBytes);
    this.reservedAt = at;
    this.reservedBytes = lengthBytes;
    return at;
  }

  /** Take over the first `lengthBytes` of what was reserved last. */
  commit(lengthBytes: number): void {
    assert(this.reservedAt >= 0, "Stream.commit: nothing is reserved");
    assert(lengthBytes <= this.reservedBytes, "Stream.commit: length is above what was reserved");
    assert(lengthBytes >= 0, "Stream.commit: length is negative");
    if (this.secondEnd === this.base && this.reservedAt === this.tail) this.tail += lengthBytes;
    else this.secondEnd = this.reservedAt + lengthBytes;
    this.reservedAt = -1;
  }

  /** The first `lengthBytes` of the first piece are sent. */
  sent(lengthBytes: number): void {
    assert(lengthBytes <= this.tail - this.head, "SendBuffer: more sent than there was");
    // A reservation that was never committed ends here: what is free changes below.
    this.reservedAt = -1;
    this.head += lengthBytes;
    if (this.head < this.tail) return;
    this.head = this.base;
    this.tail = this.secondEnd;
    this.secondEnd = this.base;
  }

  /**
   * The first piece must stay where it is while the kernel reads it; an empty buffer begins at the
   * front again.
   */
  private place(lengthBytes: number): number {
    if (this.secondEnd === this.base) {
      if (this.tail + lengthBytes <= this.base + this.capacity) return this.tail;
      return this.base + lengthBytes <= this.head ? this.base : -1;
    }
    return this.secondEnd + lengthBytes <= this.head ? this.secondEnd : -1;
  }
}

/** What a stream that is over is left with. */
export const EMPTY_RECEIVE: ReceiveBuffer = new ReceiveBuffer(new Uint8Array(0), 0, 0);
export const EMPTY_SEND: SendBuffer = new SendBuffer(0, 0);
