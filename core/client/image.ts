// data path
//
// Step 2 of the life of a write: an operation on bytes is judged, cut into parts, and ends when
// all of them have ended.
//
// A change of a part of a block is three steps under a lock of that block (of this image, in this
// client):
//
//   do
//     block, version = await read(block)
//     merge our bytes into it
//     status = await write(block) if its version is still `version`
//   while status is Conflict                     # somebody else's sector got in between
//
// The lock only saves round trips: without it the parts of one client would conflict with each
// other all the time. What keeps two gateways apart is the version.
import { assert } from "../base/assert.ts";
import { Status, statusText } from "../base/status.ts";
import { BLOCK_SIZE } from "../base/units.ts";
import type { ReadReply } from "../../proto/gen/hot.ts";
import { objectToPg, type PoolInfo } from "../cluster/cluster.ts";
import type { World } from "../reactor/world.ts";
import type { Frame } from "../rpc/rpc.ts";
import { BlockState, type ImageOp, type ImageTarget, OpKind, STATE_BYTES } from "./image-op.ts";
import {
  fitsReply,
  mergeBlock,
  REPLY_WORDS,
  stampChecksums,
  stateOf,
  takeBlocks,
  Taken,
  takeStates,
  versionOf,
} from "./merge.ts";
import { endsOpen, type Part, PartList, type PartOwner, PartVerb, REFUSALS_MAX } from "./part.ts";
import type { Router } from "./router.ts";
import type { ImageSession, PgNumbers } from "./session.ts";
import { Cut, cutPart } from "./striper.ts";
import type { Uncertain } from "./uncertain.ts";

/** Parts of one operation that are open at once: 8 MiB. */
const OP_PARTS_MAX = 32;
/** Merges of one part that begin again without a pause. */
const CONFLICTS_AT_ONCE = 8;
const CONFLICT_PAUSE_US = 5_000;

/** What an image needs of the client. */
export interface ImageHost {
  readonly world: World;
  readonly router: Router;
  /** Changes that were given up and may be made yet. */
  readonly uncertain: Uncertain;
  /** Parts (or slots) ran out: clear `op.isStarved` and call `advance` when some came back. */
  starve(image: ImageCore, op: ImageOp): void;
  /** Call `op.onDone` in the next drain. */
  finishLater(op: ImageOp): void;
  /** Ask the mon to renew the session, or to open another one; `onRenewed` follows. */
  renew(image: ImageCore, isExpired: boolean): void;
}

/** The data path of an open image. */
export class ImageCore implements ImageTarget, PartOwner {
  session: ImageSession;
  readonly readOnly: boolean;
  readonly pool: PoolInfo;
  readonly objectBlocks: number;
  /** Operations between `submit` and `onDone`. */
  opsOpen = 0;
  /** Merges that began again because somebody else had changed the block. */
  conflicts = 0;
  isClosed = false;
  /** What everything is refused with from now on; Ok: nothing is. */
  private over: Status = Status.Ok;
  private isCancelled = false;
  private readonly host: ImageHost;
  private readonly world: World;
  private readonly router: Router;
  private readonly timeoutUs: number;
  private readonly cut: Cut = new Cut();
  /** A block of memory to merge from, owned for good. */
  readonly scratch: number;
  private submitting = 0;
  private orders = 0;
  /** Open changes in order of submission, and the flushes that wait for them. */
  private openHead: ImageOp | null = null;
  private openTail: ImageOp | null = null;
  private flushHead: ImageOp | null = null;
  private flushTail: ImageOp | null = null;
  /**
   * Of a change since the last flush that nobody knows the end of: the next one tells. A change that
   * was refused for want of space is none: whoever made it may repeat it, with space, and go on.
   */
  private changeError: Status = Status.Ok;
  /** By block: the partial change that holds its lock; others queue behind it (`lockNext`). */
  private readonly locks = new Map<number, Part>();
  /** Parts that wait for a renewed session. */
  private readonly stale: PartList = new PartList();
  private isRenewing = false;

  constructor(
    host: ImageHost,
    session: ImageSession,
    pool: PoolInfo,
    scratch: number,
    readOnly: boolean,
    timeoutUs: number,
  ) {
    this.host = host;
    this.world = host.world;
    this.router = host.router;
    this.session = session;
    this.pool = pool;
    this.objectBlocks = session.header.objectBlocks;
    this.scratch = scratch;
    this.readOnly = readOnly;
    this.timeoutUs = timeoutUs;
  }

  get sizeBytes(): number {
    return this.session.header.sizeBytes;
  }

  /** The session has ended: the image is removed, or another holder has it alone. */
  get isOver(): boolean {
    return this.over !== Status.Ok;
  }

  // cold: once per image.
  /** The mon or an osd says that it is over: what comes from now on is refused here. */
  refuse(status: Status): void {
    if (this.isOver) return;
    this.over = status;
    this.world.logger.warn("the session of an image is over", {
      pool: this.pool.name,
      image: this.session.header.name,
      why: statusText(status),
    });
  }

  /* ---------------------------------------------------------------- operations */

  submit(op: ImageOp): void {
    op.order = ++this.orders;
    op.submittedUs = this.world.trace.sample === 0 ? 0 : this.world.clock.nowUs();
    op.cursor = op.offsetBytes;
    op.partsOpen = 0;
    op.isZero = op.kind === OpKind.Read;
    op.status = this.judge(op);
    op.dueUs = 0;
    op.waitNext = null;
    op.isStarved = false;
    this.opsOpen++;
    this.submitting++;
    if (op.status !== Status.Ok) this.finish(op);
    else if (op.kind === OpKind.Flush) this.startFlush(op);
    else this.start(op);
    this.submitting--;
  }

  private judge(op: ImageOp): Status {
    if (this.isClosed) return Status.Cancelled;
    if (this.isOver) return this.over;
    if (op.kind === OpKind.Flush) return Status.Ok;
    if (this.readOnly && isChange(op)) return Status.Denied;
    const isRange =
      Number.isSafeInteger(op.offsetBytes) &&
      op.offsetBytes >= 0 &&
      op.lengthBytes >= 0 &&
      op.offsetBytes + op.lengthBytes <= this.sizeBytes;
    if (!isRange) return Status.Invalid;
    if (op.kind === OpKind.Read || op.kind === OpKind.Write) {
      const isAligned = op.arenaOffset % BLOCK_SIZE === op.offsetBytes % BLOCK_SIZE;
      assert(isAligned, "Image.submit: memory and range differ modulo 4096");
    }
    return Status.Ok;
  }

  private start(op: ImageOp): void {
    if (isChange(op)) this.pushOpen(op);
    if (this.timeoutUs > 0) {
      op.dueUs = this.world.clock.turnUs + this.timeoutUs;
      this.router.countLimited(1);
    }
    this.advance(op);
  }

  /** Cut off as many parts as may be open; end the operation when nothing is left. */
  advance(op: ImageOp): void {
    // The client calls again when parts are free; until then the operation can not end.
    if (op.isStarved) return;
    if (this.isCancelled && op.status === Status.Ok) op.status = Status.Cancelled;
    const end = op.offsetBytes + op.lengthBytes;
    while (op.cursor < end && op.status === Status.Ok && op.partsOpen < OP_PARTS_MAX) {
      cutPart(this.cut, op.kind, op.cursor, end, this.objectBlocks);
      if (!this.cut.isSkipped && !this.startPart(op, this.cut)) {
        op.isStarved = true;
        this.host.starve(this, op);
        return;
      }
      op.cursor = this.cut.endByte;
    }
    const isCut = op.cursor >= end || op.status !== Status.Ok;
    if (isCut && op.partsOpen === 0) this.end(op);
  }

  private end(op: ImageOp): void {
    if (op.dueUs > 0) this.router.countLimited(-1);
    op.dueUs = 0;
    if (isChange(op)) {
      this.removeOpen(op);
      if (op.status !== Status.Ok && op.status !== Status.NoSpace) this.changeError = op.status;
      this.finish(op);
      this.checkFlushes();
      return;
    }
    this.finish(op);
  }

  private finish(op: ImageOp): void {
    this.opsOpen--;
    if (this.submitting > 0) this.host.finishLater(op);
    else op.onDone();
  }

  /* ---------------------------------------------------------------- flushes */

  private startFlush(op: ImageOp): void {
    op.waitNext = null;
    if (this.flushTail === null) this.flushHead = op;
    else this.flushTail.waitNext = op;
    this.flushTail = op;
    this.checkFlushes();
  }

  private checkFlushes(): void {
    for (let flush = this.flushHead; flush !== null; flush = this.flushHead) {
      if (this.openHead !== null && this.openHead.order < flush.order) return;
      this.flushHead = flush.waitNext;
      if (flush.waitNext === null) this.flushTail = null;
      flush.waitNext = null;
      flush.status = this.changeError;
      this.changeError = Status.Ok;
      this.finish(flush);
    }
  }

  private pushOpen(op: ImageOp): void {
    op.opNext = null;
    op.opPrevious = this.openTail;
    if (this.openTail === null) this.openHead = op;
    else this.openTail.opNext = op;
    this.openTail = op;
  }

  private removeOpen(op: ImageOp): void {
    if (op.opPrevious === null) this.openHead = op.opNext;
    else op.opPrevious.opNext = op.opNext;
    if (op.opNext === null) this.openTail = op.opPrevious;
    else op.opNext.opPrevious = op.opPrevious;
    op.opNext = null;
    op.opPrevious = null;
  }

  /* ---------------------------------------------------------------- parts */

  /** Make a part of the cut and send it on its way. False: no part, or no memory for it. */
  private startPart(op: ImageOp, cut: Cut): boolean {
    const part = this.router.pool.take();
    if (part === null) return false;
    const needsMemory = cut.isPartial && op.kind === OpKind.Zero;
    let memory = -1;
    if (needsMemory) {
      memory = this.world.slots.take(BLOCK_SIZE);
      if (memory < 0) {
        this.router.pool.giveBack(part);
        return false;
      }
      this.world.arena.bytes.fill(0, memory, memory + BLOCK_SIZE);
    }
    part.op = op;
    part.owner = this;
    part.session = this.session;
    part.replica = op.replica;
    part.firstBlock = cut.firstBlock;
    part.blocks = cut.blocks;
    part.isPartial = cut.isPartial;
    part.fromByte = cut.fromByte;
    part.toByte = cut.toByte;
    part.ownsMemory = needsMemory;
    part.memory = needsMemory ? memory : memoryOf(op, cut.firstBlock);
    part.verb = verbOf(op.kind, cut.isPartial);
    const object = Math.floor(cut.firstBlock / this.objectBlocks);
    part.pg = objectToPg(this.pool, this.session.header.familyId, object);
    op.partsOpen++;
    if (part.verb === PartVerb.Write) stampChecksums(this.world, part);
    if (!part.isPartial || this.lock(part)) this.router.enter(part);
    return true;
  }

  private endPart(part: Part, status: Status): void {
    const op = part.op;
    assert(op !== null, "Image.endPart: the part has an operation");
    if (part.ownsMemory) this.world.slots.release(part.memory);
    if (part.isChange && part.numbers !== null) this.noteOutcome(part, part.numbers, status);
    if (status !== Status.Ok && op.status === Status.Ok) op.status = status;
    op.partsOpen--;
    this.router.release(part);
    this.advance(op);
  }

  /** Whether the change may be made yet, or its group has heard of those that may. */
  private noteOutcome(part: Part, numbers: PgNumbers, status: Status): void {
    const { imageId, lockEpoch } = part.session!;
    if (endsOpen(part, status)) this.host.uncertain.add(imageId, numbers, lockEpoch);
    else if (numbers.isMarked && !numbers.isUncertain) this.host.uncertain.remove(imageId, numbers);
  }

  onPartData(part: Part, reply: ReadReply, frame: Frame): Status {
    if (part.verb === PartVerb.States) {
      if (reply.blocksCount !== part.blocks * REPLY_WORDS) return this.damaged(part);
      takeStates(this.world, reply, part.blocks, part.memory);
      return Status.Ok;
    }
    if (!fitsReply(reply, part.blocks, frame.payloadSize)) return this.damaged(part);
    const target = part.isPartial ? this.scratch : part.memory;
    const taken = takeBlocks(this.world, reply, part.blocks, frame.payloadOffset, target);
    switch (taken) {
      case Taken.Lost:
        // No copy is left: trying again helps nobody.
        part.refusals = REFUSALS_MAX;
        return Status.Damaged;
      case Taken.Damaged:
        return this.damaged(part);
      case Taken.Data:
        part.op!.isZero = false;
        break;
      case Taken.Zero:
        break;
    }
    if (part.isPartial) {
      part.stateRead = stateOf(reply, 0);
      part.ifVersion = versionOf(reply, 0) + 1;
      mergeBlock(this.world, part, this.scratch);
      stampChecksums(this.world, part);
    }
    return Status.Ok;
  }

  private damaged(part: Part): Status {
    this.router.counts.damaged++;
    this.world.logger.warn("a read reply does not match its checksums", {
      pg: part.pg,
      block: part.firstBlock,
    });
    return Status.Damaged;
  }

  onPartDone(part: Part, status: Status): void {
    // The osds say so, which may know it long before the mon can tell this client.
    if (status === Status.Removed) this.refuse(status);
    if (part.isPartial) {
      if (this.goesOn(part, status)) {
        part.sends = 0;
        part.sendsOpen = 0;
        // Somebody changes this block all the time, or his change is long in committing.
        if (part.conflicts > CONFLICTS_AT_ONCE && part.verb === PartVerb.Read) {
          this.router.delay(part, CONFLICT_PAUSE_US);
        } else {
          this.router.enter(part);
        }
        return;
      }
      this.unlock(part);
    }
    this.endPart(part, status);
  }

  /** The next step of a partial change, if there is one. */
  private goesOn(part: Part, status: Status): boolean {
    if (part.verb === PartVerb.Read) {
      if (status !== Status.Ok) return false;
      // Zeroing within a block of zeros: done, unless an earlier change may still come.
      const isZero = part.ownsMemory && part.stateRead === BlockState.Zero;
      if (isZero && !this.mayChangeLate(part)) return false;
      part.verb = PartVerb.Write;
      return true;
    }
    if (status !== Status.Conflict) return false;
    // Who answered may not be who has the first copy of it in his log.
    this.noteOutcome(part, part.numbers!, status);
    this.conflicts++;
    part.conflicts++;
    part.verb = PartVerb.Read;
    part.ifVersion = 0;
    return true;
  }

  /** Whether a change that was given up may come to the part's group yet. */
  private mayChangeLate(part: Part): boolean {
    const session = part.session!;
    // A fence that another session is to bring is in no group yet that this one speaks to.
    return session.numbersOf(part.pg).isUncertain || this.host.uncertain.has(session.imageId);
  }

  /** Take the lock of the part's block, or queue for it. */
  private lock(part: Part): boolean {
    const holder = this.locks.get(part.firstBlock);
    part.lockNext = null;
    if (holder === undefined) {
      this.locks.set(part.firstBlock, part);
      return true;
    }
    let last = holder;
    while (last.lockNext !== null) last = last.lockNext;
    last.lockNext = part;
    return false;
  }

  private unlock(part: Part): void {
    assert(this.locks.get(part.firstBlock) === part, "Image.unlock: the part has no lock");
    const next = part.lockNext;
    part.lockNext = null;
    if (next === null) {
      this.locks.delete(part.firstBlock);
      return;
    }
    this.locks.set(part.firstBlock, next);
    this.router.enter(next);
  }

  /* ---------------------------------------------------------------- sessions */

  onPartStale(part: Part, status: Status): void {
    part.refusals++;
    if (part.refusals > REFUSALS_MAX || this.isClosed) {
      this.router.finish(part, status);
      return;
    }
    if (part.session !== this.session) {
      this.rebind(part);
      return;
    }
    part.staleStatus = status;
    this.stale.push(part);
    if (this.isRenewing) return;
    this.isRenewing = true;
    this.host.renew(this, status === Status.SessionExpired);
  }

  /**
   * The mon has renewed the session, or made another one (null), or says that it is over.
   * Parts with it go on, or end with what they were refused for.
   */
  onRenewed(session: ImageSession | null): void {
    this.isRenewing = false;
    if (session !== null) this.session = session;
    for (let part = this.stale.shift(); part !== null; part = this.stale.shift()) {
      if (session === null) this.router.finish(part, part.staleStatus);
      else if (part.session === session) this.router.enter(part);
      else this.rebind(part);
    }
  }

  /**
   * Move a part to the present session. A change that may have been made under the former one, for all
   * that its answers tell, does not come again: its outcome is unknown, and stays so.
   */
  private rebind(part: Part): void {
    const { numbers } = part;
    if (part.number >= 0 && numbers !== null) {
      // The former session gives no more numbers in this group.
      this.moveWaiting(numbers);
      if (part.sendsOpen > 0) {
        this.router.finish(part, Status.SessionExpired);
        return;
      }
      numbers.end(part, false);
      part.numbers = null;
    }
    part.session = this.session;
    this.router.enter(part);
  }

  /** Who waits for a number of a former session gets one of the present session, or waits for that. */
  private moveWaiting(former: PgNumbers): void {
    for (let part = former.waiting.shift(); part !== null; part = former.waiting.shift()) {
      part.session = this.session;
      this.router.enter(part);
    }
  }

  /**
   * End what is open with Cancelled. One call may not reach parts that others released from their
   * locks meanwhile: call again while `opsOpen > 0`.
   */
  cancelAll(): void {
    this.isCancelled = true;
    for (let part = this.stale.shift(); part !== null; part = this.stale.shift()) {
      this.router.finish(part, Status.Cancelled);
    }
    this.router.abandon(this, Status.Cancelled);
  }
}

/** True for operations that change the image. */
function isChange(op: ImageOp): boolean {
  return op.kind === OpKind.Write || op.kind === OpKind.Zero || op.kind === OpKind.Discard;
}

function verbOf(kind: OpKind, isPartial: boolean): PartVerb {
  if (isPartial) return PartVerb.Read;
  switch (kind) {
    case OpKind.Write:
      return PartVerb.Write;
    case OpKind.Zero:
    case OpKind.Discard:
      return PartVerb.Zero;
    case OpKind.States:
      return PartVerb.States;
    case OpKind.Read:
    case OpKind.Flush:
      return PartVerb.Read;
  }
}

/** Where a block's data (or words) of an operation lie. */
function memoryOf(op: ImageOp, block: number): number {
  const index = block - Math.floor(op.offsetBytes / BLOCK_SIZE);
  switch (op.kind) {
    case OpKind.Read:
    case OpKind.Write:
      return op.arenaOffset - (op.offsetBytes % BLOCK_SIZE) + index * BLOCK_SIZE;
    case OpKind.States:
      return op.arenaOffset + index * STATE_BYTES;
    case OpKind.Zero:
    case OpKind.Discard:
    case OpKind.Flush:
      return -1;
  }
}
