// data path
//
// Where the time of an operation goes: time stamps of one operation in so many, at the stages of its
// way through client, leader and followers.
//
// Whether an operation is looked at follows from what identifies it in all of these processes: session,
// group and number (of a read: the id of its request), which requests, entries and Appends carry anyway.
// So nothing of it is on the wire, and each process keeps its own row. The mon puts rows of one
// operation together (`core/mon/trace-rows.ts`).
//
//   row, doubles: handle | told | side | kind | session | pg | number | replica | status
//                 | a time for each Stage | 4 × (replica, entry sent to it, acknowledged by it)
//
// Whoever has an operation in hand keeps the handle of its row, 0 when there is none: off, and for
// what is not looked at, a place costs the test of one field. Rows lie in a ring: who is older than the
// ring is long is overwritten, and its handle fits its row no more.
//
//   told ≤ every handle below `toldUpTo`;  last - TRACE_ROWS < handle of each row ≤ last
import { assert } from "../base/assert.ts";

/** Who keeps a row. */
export enum TraceSide {
  Client = 0,
  Leader = 1,
  Follower = 2,
}

export enum TraceKind {
  Write = 0,
  Read = 1,
}

/** What a row has a time of, in µs of the clock; 0: not reached. */
export enum Stage {
  /** Client: handed in; on a connection for the first time; the answer came; its owner knows. */
  Submitted = 0,
  Sent = 1,
  Answered = 2,
  Done = 3,
  /** Leader, follower: the frame was taken from its connection; raft has the entry. */
  Received = 4,
  Proposed = 5,
  /** The batch that holds it was handed to the device; is durable with all before it. */
  Logged = 6,
  Durable = 7,
  /** Follower: said so to its leader. */
  Acknowledged = 8,
  /** Leader: enough have it; the answer is on its connection. */
  Committed = 9,
  Replied = 10,
  Applied = 11,
  /** Of a read: the store has answered, what it had to wait for included. */
  Looked = 12,
}

/** Columns of a row. */
export enum TraceColumn {
  Handle = 0,
  Told = 1,
  Side = 2,
  Kind = 3,
  Session = 4,
  Pg = 5,
  Number = 6,
  Replica = 7,
  Status = 8,
  Stages = 9,
}

export const STAGE_COUNT = 13;
/** Members of a group besides its leader whose times are kept. */
export const TRACE_PEERS_MAX = 4;
/** Columns of each of them: replica, sent, acknowledged. */
export const PEER_WIDTH = 3;
export const PEERS_AT: number = TraceColumn.Stages + STAGE_COUNT;
export const ROW_WIDTH: number = PEERS_AT + TRACE_PEERS_MAX * PEER_WIDTH;

/** Rows of a reactor: 1.1 MB, taken when it is looked for the first time. */
export const TRACE_ROWS = 4096;
/** Rows in one message to the mon: 280 KB of the 1 MiB that it may have. */
export const TRACE_ROWS_TOLD_MAX = 1024;
const MASK = TRACE_ROWS - 1;
/** A row is told this long after its last stage: acknowledgements of others still come. */
const SETTLE_US = 100_000;
/** One that does not end is told after this, as far as it came. */
const OPEN_US_MAX = 30_000_000;

/** What people want to know: the times of one operation in `sample`, for so long; 0: no more. */
export interface TraceOrder {
  /** Raised with each start. */
  readonly id: number;
  readonly sample: number;
  readonly leftMs: number;
}

/** The rows that a process tells, one behind the other. */
export interface TraceRows {
  readonly rows: number[];
  /** Overwritten before they were told. */
  readonly lost: number;
}

const NO_ROWS = new Float64Array(0);

/** The time stamps of one reactor. */
export class StageTrace {
  /** One operation in so many; 0: none. The field that every place tests. */
  sample = 0;
  /** Of the order that `sample` comes from. */
  id = 0;
  private readonly clock: { nowUs(): number };
  private rows = NO_ROWS;
  /** The newest row; those up to `toldUpTo` are told. */
  private last = 0;
  private toldUpTo = 0;
  private lost = 0;
  /** When it ends by itself. */
  private untilUs = 0;

  constructor(clock: { nowUs(): number }) {
    this.clock = clock;
  }

  // cold: when people want it, and when they want it no more.
  /**
   * Look at one operation in `sample` from now on, for `leftMs`; 0: take no new rows under that order, a
   * later one goes on. What is under way is told.
   */
  obey({ id, sample, leftMs }: TraceOrder): void {
    assert(sample >= 0, "StageTrace.obey: one in less than none");
    if (sample === 0) {
      if (id === this.id) this.sample = 0;
      return;
    }
    if (this.rows.length === 0) this.rows = new Float64Array(TRACE_ROWS * ROW_WIDTH);
    if (this.id !== id) {
      // What an earlier order left is nobody's.
      this.toldUpTo = this.last;
      this.lost = 0;
    }
    this.id = id;
    this.sample = sample;
    this.untilUs = this.clock.nowUs() + leftMs * 1000;
  }

  /** Whether an operation is looked at. Only while `sample` is not 0. */
  isSampled(session: number, pg: number, number: number): boolean {
    const mixed = Math.imul((session + pg * 31 + number) | 0, 0x9e37_79b1);
    return ((mixed ^ (mixed >>> 15)) >>> 0) % this.sample === 0;
  }

  /** A row for an operation that is looked at; its handle, 0 when the time is over. */
  open(side: TraceSide, kind: TraceKind, session: number, pg: number, number: number): number {
    if (this.sample === 0 || this.clock.nowUs() >= this.untilUs) {
      this.sample = 0;
      return 0;
    }
    this.last += 1;
    const at = (this.last & MASK) * ROW_WIDTH;
    const rows = this.rows;
    if (rows[at]! > this.toldUpTo && rows[at + TraceColumn.Told]! === 0) this.lost += 1;
    rows.fill(0, at, at + ROW_WIDTH);
    rows[at] = this.last;
    rows[at + TraceColumn.Side] = side;
    rows[at + TraceColumn.Kind] = kind;
    rows[at + TraceColumn.Session] = session;
    rows[at + TraceColumn.Pg] = pg;
    rows[at + TraceColumn.Number] = number;
    return this.last;
  }

  /** The operation has come to a stage now. */
  stamp(handle: number, stage: Stage): void {
    this.stampAt(handle, stage, this.clock.nowUs());
  }

  stampAt(handle: number, stage: Stage, us: number): void {
    const at = this.find(handle);
    if (at >= 0) this.rows[at + TraceColumn.Stages + stage] = us;
  }

  /** Whom the row is of, and what became of it. */
  note(handle: number, column: TraceColumn.Replica | TraceColumn.Status, value: number): void {
    const at = this.find(handle);
    if (at >= 0) this.rows[at + column] = value;
  }

  /** The leader sent the entry to a member. */
  sentTo(handle: number, replica: number): void {
    const at = this.peerAt(handle, replica);
    if (at >= 0) this.rows[at + 1] = this.clock.nowUs();
  }

  /** A member acknowledged it. */
  acknowledgedBy(handle: number, replica: number): void {
    const at = this.peerAt(handle, replica);
    if (at >= 0 && this.rows[at + 2] === 0) this.rows[at + 2] = this.clock.nowUs();
  }

  private find(handle: number): number {
    const at = (handle & MASK) * ROW_WIDTH;
    return handle !== 0 && this.rows[at] === handle ? at : -1;
  }

  /** Where the columns of a member are; -1: no row, or no room. */
  private peerAt(handle: number, replica: number): number {
    const row = this.find(handle);
    if (row < 0) return -1;
    for (let peer = 0; peer < TRACE_PEERS_MAX; peer++) {
      const at = row + PEERS_AT + peer * PEER_WIDTH;
      const known = this.rows[at]!;
      if (known !== 0 && known !== replica) continue;
      this.rows[at] = replica;
      return at;
    }
    return -1;
  }

  // cold: once a second while it is on.
  /** End it when its time is over. */
  expire(): void {
    if (this.clock.nowUs() >= this.untilUs) this.sample = 0;
  }

  // cold: once a second while it is on.
  /**
   * Rows that nobody was told of yet, the oldest first, `max` at most: those that have ended, and
   * with `all` those under way as well.
   */
  take(max: number, all: boolean): TraceRows {
    const told: number[] = [];
    const nowUs = this.clock.nowUs();
    this.expire();
    this.toldUpTo = Math.max(this.toldUpTo, this.last - TRACE_ROWS);
    let isGapless = true;
    for (let handle = this.toldUpTo + 1; handle <= this.last; handle++) {
      const at = (handle & MASK) * ROW_WIDTH;
      if (this.rows[at + TraceColumn.Told] === 0) {
        if (told.length >= max * ROW_WIDTH) break;
        if (all || this.hasEnded(at, nowUs)) {
          this.rows[at + TraceColumn.Told] = 1;
          for (let column = 0; column < ROW_WIDTH; column++) told.push(this.rows[at + column]!);
        } else isGapless = false;
      }
      if (isGapless) this.toldUpTo = handle;
    }
    const { lost } = this;
    this.lost = 0;
    return { rows: told, lost };
  }

  // cold: as `take`.
  /** Whether rows are left to be told. */
  get hasRows(): boolean {
    return this.last > this.toldUpTo;
  }

  // cold: as `take`.
  private hasEnded(at: number, nowUs: number): boolean {
    const stages = at + TraceColumn.Stages;
    const first = this.rows[stages + Stage.Submitted]! || this.rows[stages + Stage.Received]!;
    if (nowUs - first > OPEN_US_MAX) return true;
    switch (this.rows[at + TraceColumn.Side]) {
      case TraceSide.Client:
        return this.rows[stages + Stage.Done]! > 0;
      case TraceSide.Leader:
        return hasSettled(this.rows[stages + Stage.Replied]!, nowUs);
      default:
        return hasSettled(this.rows[stages + Stage.Acknowledged]!, nowUs);
    }
  }
}

// cold: as `take`.
function hasSettled(atUs: number, nowUs: number): boolean {
  return atUs > 0 && nowUs - atUs > SETTLE_US;
}
