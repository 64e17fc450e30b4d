// data path
/**
 * What a leader knows of one peer, and what it may send to it.
 *
 *   Probe      one Append at a time, until the place where the logs agree is known
 *   Replicate  entries are streamed: `next` runs ahead of `match` by at most the window
 *   Fill       the peer needs entries below the leader's base: the owner fills it by difference
 *
 * Exists only while a replica leads. Invariants: match < next; in Replicate next − 1 − match ≤
 * window entries; `bytes[index & mask]` holds the size of each entry in flight.
 */
import { assert } from "../base/assert.ts";

export enum ProgressState {
  Probe = 0,
  Replicate = 1,
  Fill = 2,
}

const NO_BYTES = new Uint32Array(0);

export class Progress {
  readonly id: number;
  state: ProgressState = ProgressState.Probe;
  /** Durable at the peer and the same as here. */
  match = 0;
  /** The next entry to send. */
  next: number;
  /** The peer is being filled: its matches do not count for commit. */
  filling = false;
  /** The peer's store is nearly full. */
  full = false;
  /** Probe: one Append is under way, wait for its answer. */
  probeSent = false;
  /** An Append without entry is to be sent: commit index, or a question whether all arrived. */
  emptyDue = false;
  /** Highest commitIndex sent, and the highest that the peer confirmed. */
  commitSent = 0;
  commitKnown = 0;
  /** The last `peekAppend` described an entry. */
  sendsEntry = false;
  /** The peer acknowledged since the last doubt (election, reset), and the echoes seen until then. */
  follows = false;
  echoAtAck = 0;
  /** Something was sent since the last tick. */
  sentThisTick = false;
  /** Ticks without progress while something is under way. */
  retryTicks = 0;
  /** Ticks without any answer while something is under way. */
  silentTicks = 0;
  bytesInFlight = 0;
  private bytes: Uint32Array = NO_BYTES;

  constructor(id: number, next: number) {
    this.id = id;
    this.next = next;
  }

  /** Entries sent and not acknowledged. */
  get inFlight(): number {
    return this.state === ProgressState.Replicate ? this.next - 1 - this.match : 0;
  }

  /** Begin again from `next`, one Append at a time. */
  toProbe(next: number): void {
    this.state = ProgressState.Probe;
    this.next = Math.max(next, this.match + 1);
    this.probeSent = false;
    this.emptyDue = false;
    this.retryTicks = 0;
    this.bytesInFlight = 0;
    this.bytes.fill(0);
    this.commitSent = Math.min(this.commitSent, this.commitKnown);
  }

  /** Stream from `next`. */
  toReplicate(next: number): void {
    this.toProbe(next);
    this.state = ProgressState.Replicate;
  }

  /** Wait until the owner has filled the peer. */
  toFill(): void {
    this.toProbe(this.next);
    this.state = ProgressState.Fill;
  }

  /** Account for an entry sent in Replicate. `window` is a power of two ≥ entries in flight. */
  sent(bytes: number, window: number): void {
    assert(this.inFlight < window, "Progress: window is full");
    if (this.bytes.length === 0) this.makeRows(window);
    this.bytes[this.next % window] = bytes;
    this.bytesInFlight += bytes;
    this.next++;
  }

  /** cold: the first entry to a peer in a leadership. */
  private makeRows(window: number): void {
    this.bytes = new Uint32Array(window);
  }

  /** The peer has everything up to `index` durable. Returns whether that is news. */
  acknowledged(index: number): boolean {
    if (index <= this.match) return false;
    this.retryTicks = 0;
    if (this.state === ProgressState.Replicate && this.bytes.length > 0) {
      const last = Math.min(index, this.next - 1);
      for (let at = this.match + 1; at <= last; at++) {
        const row = at % this.bytes.length;
        this.bytesInFlight -= this.bytes[row]!;
        this.bytes[row] = 0;
      }
    }
    this.match = index;
    if (this.next <= index) this.next = index + 1;
    return true;
  }

  /** The peer does not have what it had acknowledged. */
  forgotten(): void {
    this.match = 0;
    this.commitSent = 0;
    this.commitKnown = 0;
  }

  /** Check what the file comment promises; for `verifying` runs. */
  invariants(window: number): void {
    assert(this.match < this.next, "Progress: match reached next");
    assert(this.inFlight <= window, "Progress: more in flight than the window");
    assert(this.bytesInFlight >= 0, "Progress: negative bytes in flight");
    assert(this.inFlight > 0 || this.bytesInFlight === 0, "Progress: bytes without entries");
  }
}
