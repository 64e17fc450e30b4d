// data path
import { assert } from "../base/assert.ts";
import { Status } from "../base/status.ts";
import type { RequestOp } from "./request.ts";

/**
 * The requests of one connection that wait for replies.
 *
 * A request id is `sequence · capacity + slot`: it finds its row without a map, and is never used
 * twice in the life of the table, so that a late reply is told from a foreign one.
 * Invariant: `waiting` rows hold an op whose `rpcRequestId` names the row.
 */
export class PendingTable {
  private readonly rows: (RequestOp | null)[];
  private readonly free: Int32Array;
  private freeCount: number;
  private sequence = 1;
  private readonly capacity: number;
  /** Of the waiting requests, those with a time limit. */
  timed = 0;

  /** `capacity` is a power of two. */
  constructor(capacity: number) {
    assert(capacity > 0 && (capacity & (capacity - 1)) === 0, "PendingTable: not a power of two");
    this.capacity = capacity;
    this.rows = new Array<RequestOp | null>(capacity).fill(null);
    this.free = new Int32Array(capacity);
    this.freeCount = capacity;
    for (let row = 0; row < capacity; row++) this.free[row] = capacity - 1 - row;
  }

  get waiting(): number {
    return this.capacity - this.freeCount;
  }

  get isFull(): boolean {
    return this.freeCount === 0;
  }

  /** The id that the next `add` gives. Requires a free row. */
  nextId(): number {
    assert(this.freeCount > 0, "PendingTable.nextId: table full");
    return this.sequence * this.capacity + this.free[this.freeCount - 1]!;
  }

  /** Enter `op` under `nextId()`. */
  add(op: RequestOp): void {
    assert(op.rpcRequestId === 0, "PendingTable.add: op waits already");
    op.rpcRequestId = this.nextId();
    this.freeCount -= 1;
    this.sequence += 1;
    this.rows[this.rowOf(op.rpcRequestId)] = op;
    if (op.rpcDueUs > 0) this.timed += 1;
  }

  /** Remove and answer the op that waits under this id; null when none does. */
  take(requestId: number): RequestOp | null {
    const op = this.rows[this.rowOf(requestId)]!;
    if (op === null || op.rpcRequestId !== requestId) return null;
    this.remove(op);
    return op;
  }

  /** True when this id was given out once: its reply is late, not foreign. */
  wasGiven(requestId: number): boolean {
    return requestId >= this.capacity && requestId < this.sequence * this.capacity;
  }

  /** Fail what is due at `nowUs` with `TimedOut`. Answers when the next is due; Infinity: none. */
  expire(nowUs: number): number {
    let nextUs = Number.POSITIVE_INFINITY;
    for (let row = 0; row < this.capacity && this.timed > 0; row++) {
      const op = this.rows[row]!;
      if (op === null || op.rpcDueUs === 0) continue;
      if (op.rpcDueUs > nowUs) {
        if (op.rpcDueUs < nextUs) nextUs = op.rpcDueUs;
        continue;
      }
      this.remove(op);
      op.onFail(Status.TimedOut);
    }
    return nextUs;
  }

  /** Fail everything that waits now; what the callbacks add stays. */
  failAll(status: Status): void {
    const limit = this.sequence * this.capacity;
    for (let row = 0; row < this.capacity && this.freeCount < this.capacity; row++) {
      const op = this.rows[row]!;
      if (op === null || op.rpcRequestId >= limit) continue;
      this.remove(op);
      op.onFail(status);
    }
  }

  private remove(op: RequestOp): void {
    const row = this.rowOf(op.rpcRequestId);
    assert(this.rows[row] === op, "PendingTable.remove: op is not in its row");
    this.rows[row] = null;
    this.free[this.freeCount] = row;
    this.freeCount += 1;
    if (op.rpcDueUs > 0) this.timed -= 1;
    op.rpcRequestId = 0;
  }

  private rowOf(requestId: number): number {
    return (requestId >>> 0) & (this.capacity - 1);
  }
}
