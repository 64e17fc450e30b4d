// data path
import { assert } from "../base/assert.ts";
import type { PgId } from "../base/ids.ts";
import { Status } from "../base/status.ts";
import { PAYLOAD_BLOCKS_MAX } from "../base/units.ts";
import type { ReadReply } from "../../proto/gen/hot.ts";
import { type Frame, RequestOp } from "../rpc/rpc.ts";
import type { Link } from "./link.ts";
import { type ImageOp, LEADER } from "./image-op.ts";
import type { Route } from "./route.ts";
import type { ImageSession, PgNumbers } from "./session.ts";

/** Parts of one client that may exist. 4096 · 256 KiB is a GiB in flight: memory ends before. */
const PARTS_MAX = 4096;
/** How often a part that was refused as damaged or not attached is tried again. */
export const REFUSALS_MAX = 8;

/** What a part asks of the group. */
export enum PartVerb {
  Read = 0,
  Write = 1,
  Zero = 2,
  States = 3,
}

/** Who learns what became of a part: the image that it was split from. */
export interface PartOwner {
  /** Take the data of an `Ok` read: Ok, Damaged (try again), or what the part ends with. */
  onPartData(part: Part, reply: ReadReply, frame: Frame): Status;
  /** Over for the router: release the part, or change it and `enter` it again. */
  onPartDone(part: Part, status: Status): void;
  /**
   * Fenced, SnapStale, SessionExpired, Denied: renew the session, then `enter` the part again under
   * its old number, or `finish` it.
   */
  onPartStale(part: Part, status: Status): void;
}

/** Who hears from the connection about a part. */
export interface PartReplies {
  onPartReply(part: Part, frame: Frame): void;
  onPartFail(part: Part, status: Status): void;
}

/**
 * One frame's worth of an image operation: a run of blocks within one object. Pooled.
 *
 * Invariants: in exactly one list, or in none while its owner acts on it; `number ≥ 0` exactly for
 * a change whose outcome is open; `rpcRequestId > 0` exactly while a connection holds it;
 * `0 ≤ sendsOpen ≤ sends`.
 */
export class Part extends RequestOp {
  verb: PartVerb = PartVerb.Read;
  owner: PartOwner | null = null;
  replies: PartReplies | null = null;
  op: ImageOp | null = null;
  session: ImageSession | null = null;
  route: Route | null = null;
  numbers: PgNumbers | null = null;
  pg: PgId = 0 as PgId;
  /** Within the layer. */
  firstBlock = 0;
  blocks = 0;
  /** First byte of the memory of the first block (4 KiB-aligned); of States: of its words. -1: none. */
  memory = -1;
  /** The n-th replica of the group, or LEADER. */
  replica: number = LEADER;
  number = -1;
  /** `below` of the numbers when it was sent first; later sends carry the same, or a higher one. */
  below = 0;
  /** The version that the block must have, plus one; 0: unconditional. */
  ifVersion = 0;
  /** A change of [fromByte, toByte) of one block: read, merge, write on the same version. */
  isPartial = false;
  fromByte = 0;
  toByte = 0;
  /** What the merged block is written as: the part of a Zero has memory of its own then. */
  ownsMemory = false;
  /** checksum of each block of a Write, computed when the part was made or merged. */
  readonly crcs: Uint32Array = new Uint32Array(PAYLOAD_BLOCKS_MAX);
  /** µs: handed to the leader (or queued for it) last, and first of all. */
  sentUs = 0;
  startedUs = 0;
  /** µs: not to be tried before; in the router's list of delayed parts. */
  delayedUntilUs = 0;
  /** The router's `mapMoves` when it was put on the wire last. */
  mapMoves = 0;
  /** How often it was put on the wire; how often it was refused as damaged or not attached. */
  sends = 0;
  /** Sends that no answer has shown to be refused: a change may be made by each of them yet. */
  sendsOpen = 0;
  refusals = 0;
  /** How often it was put off for want of room: that alone ends nothing. */
  busies = 0;
  conflicts = 0;
  /** Row of the trace of stages, 0: none. */
  trace = 0;
  /** Why the session is to be renewed, while it waits for that. */
  staleStatus: Status = Status.Ok;
  /** State of the block that a partial change has read. */
  stateRead = 0;
  /** The link whose connection holds it; null while none does. */
  link: Link | null = null;
  list: PartList | null = null;
  next: Part | null = null;
  previous: Part | null = null;
  /** The queue for the lock of a block. */
  lockNext: Part | null = null;

  override onReply(frame: Frame): void {
    assert(this.replies !== null, "Part.onReply: nobody waits");
    this.replies.onPartReply(this, frame);
  }

  override onFail(status: Status): void {
    assert(this.replies !== null, "Part.onFail: nobody waits");
    this.replies.onPartFail(this, status);
  }

  get isChange(): boolean {
    return this.verb === PartVerb.Write || this.verb === PartVerb.Zero;
  }
}

/** True for a change that was sent and may be made yet, for all that is known here. */
export function endsOpen(part: Part, status: Status): boolean {
  return status !== Status.Ok && part.isChange && part.sendsOpen > 0;
}

/**
 * Whether an osd that answers this has put nothing of the request into its log, and never will: each
 * frame arrives once. An answer says nothing of earlier sends.
 */
export function isRefusal(status: Status): boolean {
  switch (status) {
    case Status.Busy:
    case Status.MapStale:
    case Status.WrongReceiver:
    case Status.Fenced:
    case Status.SnapStale:
    case Status.Conflict:
    case Status.NoSpace:
    case Status.Invalid:
    case Status.SessionExpired:
    case Status.Damaged:
    case Status.Denied:
    case Status.Removed:
      return true;
    // Who is deposed says so of what is in its log as well.
    case Status.NotLeader:
    case Status.DeviceFailed:
    case Status.Unknown:
    // There was no answer, or none that the request was refused.
    case Status.Unreachable:
    case Status.TimedOut:
    case Status.Stopping:
    case Status.Cancelled:
    case Status.Ok:
      return false;
  }
}

/** A doubly linked list of parts; a part knows the list that it is in. */
export class PartList {
  head: Part | null = null;
  tail: Part | null = null;
  count = 0;

  push(part: Part): void {
    assert(part.list === null, "PartList.push: the part is in a list");
    part.list = this;
    part.next = null;
    part.previous = this.tail;
    if (this.tail === null) this.head = part;
    else this.tail.next = part;
    this.tail = part;
    this.count++;
  }

  remove(part: Part): void {
    assert(part.list === this, "PartList.remove: the part is not in this list");
    if (part.previous === null) this.head = part.next;
    else part.previous.next = part.next;
    if (part.next === null) this.tail = part.previous;
    else part.next.previous = part.previous;
    part.list = null;
    part.next = null;
    part.previous = null;
    this.count--;
  }

  shift(): Part | null {
    const part = this.head;
    if (part !== null) this.remove(part);
    return part;
  }
}

/** The parts of one client. */
export class PartPool {
  /** Every part ever made, for the look at time limits. */
  readonly all: Part[] = [];
  used = 0;
  private free: Part | null = null;

  get hasFree(): boolean {
    return this.free !== null || this.all.length < PARTS_MAX;
  }

  /** A part in its first state, or null when all are in use. */
  take(): Part | null {
    const part = this.free ?? this.grow();
    if (part === null) return null;
    this.free = part.next;
    part.next = null;
    part.number = -1;
    part.numbers = null;
    part.ifVersion = 0;
    part.isPartial = false;
    part.ownsMemory = false;
    part.replica = LEADER;
    part.sends = 0;
    part.sendsOpen = 0;
    part.refusals = 0;
    part.busies = 0;
    part.conflicts = 0;
    part.trace = 0;
    part.stateRead = 0;
    part.startedUs = 0;
    part.link = null;
    part.lockNext = null;
    this.used++;
    return part;
  }

  // cold: the pool grows
  private grow(): Part | null {
    if (this.all.length === PARTS_MAX) return null;
    const part = new Part();
    this.all.push(part);
    return part;
  }

  /** A part that was taken and not used. */
  giveBack(part: Part): void {
    part.next = this.free;
    this.free = part;
    this.used--;
  }

  release(part: Part): void {
    assert(part.op !== null, "PartPool.release: the part is free");
    assert(part.list === null, "PartPool.release: the part is in a list");
    assert(part.number === -1, "PartPool.release: the part's number is open");
    assert(part.rpcRequestId === 0, "PartPool.release: a connection holds the part");
    part.op = null;
    part.owner = null;
    part.session = null;
    part.route = null;
    this.giveBack(part);
  }
}
