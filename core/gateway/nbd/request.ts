// data path
import { assert } from "../../base/assert.ts";
import { Status } from "../../base/status.ts";
import { BLOCK_SIZE } from "../../base/units.ts";
import { ImageOp, LEADER, OpKind } from "../../client/client.ts";
import type { Slots } from "../../reactor/world.ts";
import { Command, NbdError } from "./protocol.ts";

/** Data moves in pieces that end at multiples of this offset: one frame of the cluster each. */
const PIECE_SIZE = 262_144;

/** Who is told when a piece is done: the connection's transmission phase. */
export interface PieceOwner {
  onPieceDone(piece: NbdPiece): void;
}

/** One request of a client, from its header until its last reply byte is handed over. Pooled. */
export class NbdRequest {
  owner: PieceOwner | null = null;
  command: Command = Command.Read;
  flags = 0;
  cookieHigh = 0;
  cookieLow = 0;
  offsetBytes = 0;
  lengthBytes = 0;
  /** The next byte to be made a piece of; `offsetBytes + lengthBytes` when all are issued. */
  cursor = 0;
  /** Pieces submitted and not done. */
  piecesOpen = 0;
  /** The first error of any piece. */
  error: NbdError = NbdError.None;
  /** In the connection's queue of replies. */
  queued = false;
  /**
   * The header of a simple reply in several pieces is out: data must follow without a gap. Of other
   * requests: the reply is complete.
   */
  started = false;
  /** A WRITE whose data did not come in full: never answered. */
  isAbandoned = false;
  /** A streamed READ that failed before its header went out: answered like a short one. */
  isBroken = false;
  /** Pieces whose data is to be sent: in order of completion, or of offset for simple replies. */
  pieceHead: NbdPiece | null = null;
  pieceTail: NbdPiece | null = null;
  next: NbdRequest | null = null;
  streamNext: NbdRequest | null = null;
  issueNext: NbdRequest | null = null;

  pushPiece(piece: NbdPiece): void {
    piece.next = null;
    if (this.pieceTail === null) this.pieceHead = piece;
    else this.pieceTail.next = piece;
    this.pieceTail = piece;
  }

  shiftPiece(): NbdPiece {
    const piece = this.pieceHead;
    assert(piece !== null, "NbdRequest.shiftPiece: there is none");
    this.pieceHead = piece.next;
    if (piece.next === null) this.pieceTail = null;
    piece.next = null;
    return piece;
  }
}

/** One image operation of a request, with its memory. Pooled. */
export class NbdPiece extends ImageOp {
  request: NbdRequest | null = null;
  /** Offset of the slot that holds the data, or -1. */
  slot = -1;
  slotBytes = 0;
  /** Bytes of WRITE data received so far. */
  filledBytes = 0;
  isDone = false;
  next: NbdPiece | null = null;

  override onDone(): void {
    const owner = this.request!.owner;
    assert(owner !== null, "NbdPiece.onDone: the request has an owner");
    owner.onPieceDone(this);
  }
}

/** Of the slots, for the first piece of each connection: 256 KiB for 256 of them, of 256 MiB. */
const RESERVED_SHARE = 0.25;
const FIRST_BYTES_MAX = 262_144;

/** Free requests and pieces of a gateway; both grow to what its connections' limits allow. */
export class NbdPools {
  requestsUsed = 0;
  piecesUsed = 0;
  private requests: NbdRequest | null = null;
  private pieces: NbdPiece | null = null;
  private readonly slots: Slots;

  /** What those that hold something already leave free. */
  private readonly reservedBytes: number;

  constructor(slots: Slots) {
    this.slots = slots;
    this.reservedBytes = slots.sizeBytes * RESERVED_SHARE;
  }

  takeRequest(): NbdRequest {
    const request = this.requests ?? newRequest();
    this.requests = request.next;
    this.requestsUsed++;
    request.next = null;
    request.streamNext = null;
    request.piecesOpen = 0;
    request.error = NbdError.None;
    request.queued = false;
    request.started = false;
    request.isAbandoned = false;
    request.isBroken = false;
    return request;
  }

  releaseRequest(request: NbdRequest): void {
    assert(request.piecesOpen === 0, "NbdPools.releaseRequest: pieces are open");
    assert(request.pieceHead === null, "NbdPools.releaseRequest: pieces are held");
    request.owner = null;
    request.next = this.requests;
    this.requests = request;
    this.requestsUsed--;
  }

  /**
   * A piece with a slot of `slotBytes` (0: without), or null when there is no memory now. `isFirst`:
   * for a connection that holds none; there is one for each, whatever others hold and do not move.
   */
  takePiece(slotBytes: number, isFirst: boolean): NbdPiece | null {
    let slot = -1;
    if (slotBytes > 0) {
      if (!isFirst || slotBytes > FIRST_BYTES_MAX) {
        const freeBytes = this.slots.sizeBytes - this.slots.usedBytes;
        if (freeBytes - slotBytes < this.reservedBytes) return null;
      }
      slot = this.slots.take(slotBytes);
      if (slot < 0) return null;
    }
    const piece = this.pieces ?? newPiece();
    this.pieces = piece.next;
    this.piecesUsed++;
    piece.next = null;
    piece.slot = slot;
    piece.slotBytes = slotBytes;
    piece.filledBytes = 0;
    piece.isDone = false;
    piece.status = Status.Ok;
    piece.isZero = false;
    piece.replica = LEADER;
    return piece;
  }

  releasePiece(piece: NbdPiece): void {
    if (piece.slot >= 0) this.slots.release(piece.slot);
    piece.slot = -1;
    piece.request = null;
    piece.next = this.pieces;
    this.pieces = piece;
    this.piecesUsed--;
  }
}

/** True when all pieces of a request are on their way. */
export function isIssued(request: NbdRequest): boolean {
  return request.cursor === request.offsetBytes + request.lengthBytes;
}

/** Where the piece that begins at `cursor` ends. */
export function pieceEnd(cursor: number, end: number): number {
  const border = (Math.floor(cursor / PIECE_SIZE) + 1) * PIECE_SIZE;
  return border < end ? border : end;
}

/** Bytes of the whole blocks that [from, to) touches. */
export function coveringBytes(from: number, to: number): number {
  return Math.ceil(to / BLOCK_SIZE) * BLOCK_SIZE - Math.floor(from / BLOCK_SIZE) * BLOCK_SIZE;
}

/** What the image does for a command that carries no data. */
export function kindOf(command: Command): OpKind {
  switch (command) {
    case Command.Read:
      return OpKind.Read;
    case Command.Write:
      return OpKind.Write;
    case Command.Trim:
      return OpKind.Discard;
    case Command.WriteZeroes:
      return OpKind.Zero;
    case Command.BlockStatus:
      return OpKind.States;
    case Command.Disconnect:
    case Command.Flush:
    case Command.Cache:
      return OpKind.Flush;
  }
}

/** The error of a reply for what the cluster answered. */
export function nbdErrorOf(status: Status): NbdError {
  switch (status) {
    case Status.Ok:
      return NbdError.None;
    case Status.NoSpace:
      return NbdError.NoSpace;
    case Status.Invalid:
      return NbdError.Invalid;
    case Status.Denied:
      return NbdError.NotPermitted;
    case Status.Cancelled:
    case Status.Stopping:
      return NbdError.Shutdown;
    default:
      return NbdError.Io;
  }
}

// cold: the pool grows
function newRequest(): NbdRequest {
  return new NbdRequest();
}

// cold: the pool grows
function newPiece(): NbdPiece {
  return new NbdPiece();
}
