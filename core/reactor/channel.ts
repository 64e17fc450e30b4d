// data path
import { assert } from "../base/assert.ts";

/**
 * Messages between the threads of one process: a queue with one producer and one consumer in
 * shared memory, and a way to wake the consumer when it sleeps.
 *
 *     word   0  tail: messages published so far (written by the producer only)
 *           16  head: messages taken so far (written by the consumer only)
 *           32  1 while the consumer sleeps or is about to (set by it, cleared by whoever wakes it)
 *           33  how to wake it: the descriptor of its ring
 *           34  identity of the channel within the process
 *           48  messages of 16 words, each a cache line
 *
 * Invariant: 0 ≤ tail − head ≤ capacity (both wrap at 2^32).
 *
 * No wake-up is lost: the consumer sets the flag and then looks at the tail; the producer moves
 * the tail and then looks at the flag. All four are sequentially consistent, so one of the two
 * sees the other.
 */

/** 32-bit words of a message: 64 bytes, one cache line. */
const CHANNEL_MESSAGE_WORDS = 16;
const TAIL = 0;
const HEAD = 16;
const SLEEPING = 32;
const WAKER = 33;
const IDENTITY = 34;
const FIRST_MESSAGE = 48;

/** What the receiving side implements. */
export interface ChannelReceiver {
  /** A message lies at `words[at]` to `words[at + 15]`; valid until the return. */
  onMessage(words: Int32Array, at: number): void;
}

/** The mail of one thread: part of every runnable world. */
export interface ShardMail {
  /** Take what arrives on a channel, in the handler phase; this thread is its consumer for good. */
  receive(channel: ShardChannel, receiver: ChannelReceiver): void;
  /** Hand over the message reserved last; wakes the other thread by the end of this turn. */
  publish(channel: ShardChannel): void;
}

/** One end of a channel. Make one object per thread over the same shared memory. */
export class ShardChannel {
  private readonly words: Int32Array;
  private readonly capacity: number;
  /** The producer's copy of its tail, the consumer's of its head. */
  private tail: number;
  private head: number;

  /** Shared memory for `capacity` messages, a power of two. `identity` is unique in the process. cold: start-up */
  static create(capacity: number, identity: number): SharedArrayBuffer {
    assert(capacity >= 1 && (capacity & (capacity - 1)) === 0, "ShardChannel: not a power of two");
    const words = FIRST_MESSAGE + capacity * CHANNEL_MESSAGE_WORDS;
    const memory = new SharedArrayBuffer(words * 4);
    new Int32Array(memory)[IDENTITY] = identity;
    return memory;
  }

  constructor(memory: SharedArrayBuffer) {
    this.words = new Int32Array(memory);
    this.capacity = (this.words.length - FIRST_MESSAGE) / CHANNEL_MESSAGE_WORDS;
    this.tail = Atomics.load(this.words, TAIL);
    this.head = Atomics.load(this.words, HEAD);
  }

  /** Unique in the process. */
  get identity(): number {
    return this.words[IDENTITY]!;
  }

  /** The memory in which `reserve` answers places. */
  get memory(): Int32Array {
    return this.words;
  }

  /** Producer: index of the first word of a free message, or -1 when the channel is full. */
  reserve(): number {
    const used = (this.tail - Atomics.load(this.words, HEAD)) >>> 0;
    if (used >= this.capacity) return -1;
    return this.place(this.tail);
  }

  /** Producer: publish the message reserved last. True when the consumer must be woken. */
  commit(): boolean {
    this.tail = (this.tail + 1) | 0;
    Atomics.store(this.words, TAIL, this.tail);
    if (Atomics.load(this.words, SLEEPING) === 0) return false;
    return Atomics.exchange(this.words, SLEEPING, 0) === 1;
  }

  /** Producer: how the consumer is woken. */
  get waker(): number {
    return Atomics.load(this.words, WAKER);
  }

  /** Consumer: say how to wake this thread. */
  setWaker(waker: number): void {
    Atomics.store(this.words, WAKER, waker);
  }

  /** Consumer: take every message there is; answers how many. */
  drain(receiver: ChannelReceiver): number {
    const tail = Atomics.load(this.words, TAIL);
    let count = 0;
    while (this.head !== tail) {
      receiver.onMessage(this.words, this.place(this.head));
      this.head = (this.head + 1) | 0;
      count += 1;
    }
    if (count > 0) Atomics.store(this.words, HEAD, this.head);
    return count;
  }

  /** Consumer: about to sleep. False when there are messages: then it must not. */
  prepareToSleep(): boolean {
    Atomics.store(this.words, SLEEPING, 1);
    if (Atomics.load(this.words, TAIL) === this.head) return true;
    Atomics.store(this.words, SLEEPING, 0);
    return false;
  }

  /** Consumer: awake again; saves the producers needless wake-ups. */
  wokeUp(): void {
    Atomics.store(this.words, SLEEPING, 0);
  }

  private place(count: number): number {
    return FIRST_MESSAGE + (count & (this.capacity - 1)) * CHANNEL_MESSAGE_WORDS;
  }
}

/** The channels that one thread consumes. */
export class Mailbox {
  private readonly channels: ShardChannel[] = [];
  private readonly receivers: ChannelReceiver[] = [];

  add(channel: ShardChannel, receiver: ChannelReceiver): void {
    this.channels.push(channel);
    this.receivers.push(receiver);
  }

  /** Deliver everything; answers how many messages. */
  drain(): number {
    let count = 0;
    for (let at = 0; at < this.channels.length; at++) {
      count += this.channels[at]!.drain(this.receivers[at]!);
    }
    return count;
  }

  /** False when there is mail: then the thread must not sleep. */
  prepareToSleep(): boolean {
    for (let at = 0; at < this.channels.length; at++) {
      if (!this.channels[at]!.prepareToSleep()) return false;
    }
    return true;
  }

  wokeUp(): void {
    for (let at = 0; at < this.channels.length; at++) this.channels[at]!.wokeUp();
  }
}
