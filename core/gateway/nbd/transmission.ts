// data path
//
// The transmission phase of one NBD connection: steps 1 and 10 of the life of a write.
//
//   loop: header → request → (WRITE: data → pieces) → image operations, many at a time
//         operation done → reply, in any order
//
// WRITE data is received piece by piece (at most 256 KiB, ending at multiples of it) into slots of
// the arena, and each full piece is an image operation at once; READ data travels the other way,
// one chunk a piece. So a request of 32 MiB needs no buffer of 32 MiB. Three limits bound a
// connection: `REQUESTS_MAX` requests, `HELD_BYTES_MAX` bytes of pieces, and the stream's send
// buffer. At any of them the stream is paused: the client's socket fills, and it waits.
import { assert } from "../../base/assert.ts";
import { BLOCK_SIZE, TWO_32 } from "../../base/units.ts";
import { type ImageTarget, STATE_BYTES } from "../../client/client.ts";
import type { Stream, StreamHandler, World } from "../../reactor/world.ts";
import {
  Command,
  CommandFlag,
  NbdError,
  REQUEST_LENGTH_MAX,
  REQUEST_MAGIC,
  REQUEST_SIZE,
} from "./protocol.ts";
import { ReplyWriter } from "./replies.ts";
import { type ReplyHost, ReplyQueue } from "./reply-queue.ts";
import {
  coveringBytes,
  isIssued,
  kindOf,
  nbdErrorOf,
  type NbdPiece,
  type NbdPools,
  type NbdRequest,
  pieceEnd,
  type PieceOwner,
} from "./request.ts";

/** Requests of one connection that may be open. */
const REQUESTS_MAX = 256;
/** Bytes of slots that one connection may hold: 64 pieces. */
const HELD_BYTES_MAX = 16_777_216;
/** Refused WRITEs up to this length are read and dropped; beyond it the connection ends. */
const SKIP_BYTES_MAX = 67_108_864;
/** The largest READ with DF: one slot. */
const UNFRAGMENTED_BYTES_MAX = 1_048_576;
/** BLOCK_STATUS answers about this many blocks at most: one slot of 64 KiB. */
const STATUS_BLOCKS_MAX = 5461;
const OFFSET_HIGH_MAX = 0x1f_ffff;

enum Stage {
  Header = 0,
  /** Receiving the data of WRITE `current`. */
  Data = 1,
  /** Dropping `skipBytes` bytes of a refused WRITE, then answering it. */
  Skip = 2,
  /** DISC, or the gateway stops: no more requests. */
  Ending = 3,
}

/** What a connection needs of the server. */
export interface TransmissionHost {
  readonly world: World;
  readonly pools: NbdPools;
  /** Call `serve` in the next drain. */
  ready(connection: Transmission): void;
  /** Call `serve` in each drain while slots are short. */
  waitForMemory(connection: Transmission): void;
  /** A client broke the protocol: its connection ends. */
  onBroken(stream: Stream, reason: string): void;
  onTransmissionClosed(connection: Transmission, reason: string): void;
  /** The last piece of a closed connection is done. */
  onTransmissionDrained(connection: Transmission): void;
}

/** One connection after its handshake. */
export class Transmission implements StreamHandler, PieceOwner, ReplyHost {
  readonly stream: Stream;
  readonly target: ImageTarget;
  readonly name: string;
  /** Owned by the server: in its lists of ready and of waiting connections. */
  isReady = false;
  isWaiting = false;
  closed = false;
  requestsOpen = 0;
  heldBytes = 0;
  /** µs: the last time that a byte of data or reply moved. */
  progressUs: number;

  private readonly host: TransmissionHost;
  private readonly view: DataView;
  private readonly bytes: Uint8Array;
  private readonly structured: boolean;
  private readonly metaSelected: boolean;
  private readonly replies: ReplyQueue;
  private stage: Stage = Stage.Header;
  private endReason = "";
  private isPaused = false;
  private isClosing = false;
  private current: NbdRequest | null = null;
  private piece: NbdPiece | null = null;
  private skipBytes = 0;
  /** Requests whose pieces are not all issued, in order. */
  private issueHead: NbdRequest | null = null;
  private issueTail: NbdRequest | null = null;

  constructor(
    host: TransmissionHost,
    stream: Stream,
    target: ImageTarget,
    name: string,
    structured: boolean,
    metaSelected: boolean,
  ) {
    this.host = host;
    this.stream = stream;
    this.target = target;
    this.name = name;
    this.structured = structured;
    this.metaSelected = metaSelected;
    const writer = new ReplyWriter(host.world.arena, stream, structured);
    this.replies = new ReplyQueue(this, writer, structured);
    this.view = host.world.arena.view;
    this.bytes = host.world.arena.bytes;
    this.progressUs = host.world.clock.turnUs;
  }

  onOpen(): void {}

  onReceive(): void {
    this.parse();
  }

  onWritable(): void {
    this.replies.send();
    this.parse();
  }

  onClose(_stream: Stream, reason: string): void {
    this.closed = true;
    this.dropAll();
    this.host.onTransmissionClosed(this, reason);
    this.checkDrained();
  }

  /** Go on with what waited for memory or for a free request; called in a drain. */
  serve(): void {
    if (this.isOver()) return;
    this.issue();
    this.replies.send();
    this.parse();
  }

  /** Take no more requests, answer the open ones, then end the connection. */
  finish(reason: string): void {
    if (this.isOver() || this.stage === Stage.Ending) return;
    this.stage = Stage.Ending;
    this.endReason = reason;
    this.dropPiece();
    const current = this.current;
    this.current = null;
    if (current !== null) {
      // Its data did not come in full: what was issued ends, no answer goes out.
      current.isAbandoned = true;
      current.cursor = current.offsetBytes + current.lengthBytes;
      if (current.piecesOpen === 0) this.free(current);
    }
    this.replies.send();
  }

  /** End the connection at once. */
  abort(reason: string): void {
    if (this.closed || this.isClosing) return;
    this.isClosing = true;
    this.stream.close(reason);
  }

  // cold: a client that does not speak the protocol
  /** End the connection of a client that broke the protocol, and say so. */
  private breakOff(reason: string): void {
    this.host.onBroken(this.stream, reason);
    this.abort(reason);
  }

  /** True when nothing moves because of this client: it does not read, or sent half a piece. */
  isStuckSince(beforeUs: number): boolean {
    if (this.isOver() || this.heldBytes === 0 || this.progressUs > beforeUs) return false;
    return this.piece !== null || this.replies.isWaiting;
  }

  private isOver(): boolean {
    return this.closed || this.isClosing;
  }

  /* ---------------------------------------------------------------- receiving */

  private parse(): void {
    let goesOn = true;
    while (goesOn && !this.isOver()) {
      switch (this.stage) {
        case Stage.Header:
          goesOn = this.parseHeader();
          break;
        case Stage.Data:
          goesOn = this.receiveData();
          break;
        case Stage.Skip:
          goesOn = this.receiveSkipped();
          break;
        case Stage.Ending:
          this.stream.consume(this.stream.receiveLength);
          goesOn = false;
          break;
      }
    }
  }

  private block(): false {
    if (!this.isPaused) {
      this.isPaused = true;
      this.stream.pause();
    }
    return false;
  }

  private unblock(): void {
    if (!this.isPaused) return;
    this.isPaused = false;
    this.stream.resume();
  }

  private parseHeader(): boolean {
    if (this.requestsOpen >= REQUESTS_MAX) return this.block();
    this.unblock();
    const stream = this.stream;
    if (stream.receiveLength < REQUEST_SIZE) return false;
    const at = stream.receiveOffset;
    const view = this.view;
    if (view.getUint32(at) !== REQUEST_MAGIC) {
      this.breakOff("bad request magic");
      return false;
    }
    const request = this.host.pools.takeRequest();
    this.requestsOpen++;
    request.owner = this;
    request.flags = view.getUint16(at + 4);
    request.command = view.getUint16(at + 6);
    request.cookieHigh = view.getUint32(at + 8);
    request.cookieLow = view.getUint32(at + 12);
    const offsetHigh = view.getUint32(at + 16);
    // Offsets of 2^53 and more are not numbers that we can hold: past the end of anything.
    request.offsetBytes =
      offsetHigh > OFFSET_HIGH_MAX
        ? Number.MAX_SAFE_INTEGER
        : offsetHigh * TWO_32 + view.getUint32(at + 20);
    request.lengthBytes = view.getUint32(at + 24);
    request.cursor = request.offsetBytes;
    stream.consume(REQUEST_SIZE);
    this.admit(request);
    return true;
  }

  /** Judge a request, then begin it or refuse it. */
  private admit(request: NbdRequest): void {
    if (request.command === Command.Disconnect) {
      this.free(request);
      this.finish("disconnected by the client");
      return;
    }
    request.error = this.judge(request);
    if (request.error !== NbdError.None) {
      this.refuse(request);
      return;
    }
    switch (request.command) {
      case Command.Write:
        if (request.lengthBytes === 0) break;
        this.current = request;
        this.stage = Stage.Data;
        return;
      case Command.Read:
        if (request.lengthBytes === 0) break;
        this.startRead(request);
        return;
      case Command.Trim:
      case Command.WriteZeroes:
        if (request.lengthBytes === 0) break;
        this.startWhole(request);
        return;
      case Command.Flush:
        this.startWhole(request);
        return;
      case Command.BlockStatus:
        this.pushIssue(request);
        this.issue();
        return;
      case Command.Cache:
        break;
    }
    request.cursor = request.offsetBytes + request.lengthBytes;
    this.replies.enqueue(request);
  }

  private judge(request: NbdRequest): NbdError {
    const target = this.target;
    const isPast = request.offsetBytes + request.lengthBytes > target.sizeBytes;
    let allowed: number = CommandFlag.Fua;
    switch (request.command) {
      case Command.Read:
        if (this.structured) allowed |= CommandFlag.DontFragment;
        if (request.lengthBytes > REQUEST_LENGTH_MAX || isPast) return NbdError.Invalid;
        if ((request.flags & CommandFlag.DontFragment) !== 0 && !fitsOneSlot(request)) {
          return this.structured ? NbdError.Overflow : NbdError.Invalid;
        }
        break;
      case Command.Write:
        if (request.lengthBytes > REQUEST_LENGTH_MAX) return NbdError.Invalid;
        if (target.readOnly) return NbdError.NotPermitted;
        if (isPast) return NbdError.NoSpace;
        break;
      case Command.Trim:
      case Command.WriteZeroes:
        if (request.command === Command.WriteZeroes) {
          allowed |= CommandFlag.NoHole | CommandFlag.FastZero;
        }
        if (target.readOnly) return NbdError.NotPermitted;
        if (isPast) return request.command === Command.Trim ? NbdError.Invalid : NbdError.NoSpace;
        break;
      case Command.Flush:
        if (request.offsetBytes !== 0 || request.lengthBytes !== 0) return NbdError.Invalid;
        break;
      case Command.Cache:
        if (isPast) return NbdError.Invalid;
        break;
      case Command.BlockStatus:
        allowed |= CommandFlag.OneExtent;
        if (!this.metaSelected || request.lengthBytes === 0 || isPast) return NbdError.Invalid;
        break;
      default:
        return NbdError.Invalid;
    }
    return (request.flags & ~allowed) === 0 ? NbdError.None : NbdError.Invalid;
  }

  /** Answer an error; the data of a WRITE is read and dropped first. */
  private refuse(request: NbdRequest): void {
    if (request.command !== Command.Write || request.lengthBytes === 0) {
      request.cursor = request.offsetBytes + request.lengthBytes;
      this.replies.enqueue(request);
      return;
    }
    if (request.lengthBytes > SKIP_BYTES_MAX) {
      this.free(request);
      this.breakOff("WRITE longer than 64 MiB");
      return;
    }
    this.current = request;
    this.skipBytes = request.lengthBytes;
    this.stage = Stage.Skip;
  }

  private receiveSkipped(): boolean {
    const count = Math.min(this.skipBytes, this.stream.receiveLength);
    this.stream.consume(count);
    this.skipBytes -= count;
    if (this.skipBytes > 0) return false;
    const request = this.current;
    assert(request !== null, "Transmission.receiveSkipped: there is a request");
    this.current = null;
    this.stage = Stage.Header;
    request.cursor = request.offsetBytes + request.lengthBytes;
    this.replies.enqueue(request);
    return true;
  }

  private receiveData(): boolean {
    const request = this.current;
    assert(request !== null, "Transmission.receiveData: there is a request");
    let piece = this.piece;
    if (piece === null) {
      const end = pieceEnd(request.cursor, request.offsetBytes + request.lengthBytes);
      piece = this.take(request, end);
      if (piece === null) return this.block();
      this.unblock();
      this.piece = piece;
    }
    const stream = this.stream;
    const count = Math.min(piece.lengthBytes - piece.filledBytes, stream.receiveLength);
    if (count === 0) return false;
    const from = stream.receiveOffset;
    this.bytes.copyWithin(piece.arenaOffset + piece.filledBytes, from, from + count);
    stream.consume(count);
    piece.filledBytes += count;
    this.progressUs = this.host.world.clock.turnUs;
    if (piece.filledBytes < piece.lengthBytes) return false;
    this.piece = null;
    if (request.cursor === request.offsetBytes + request.lengthBytes) {
      this.current = null;
      this.stage = Stage.Header;
    }
    this.target.submit(piece);
    return true;
  }

  /* ---------------------------------------------------------------- issuing */

  /** A piece for [cursor, end) with memory for its blocks; moves the cursor. Null: no memory. */
  private take(request: NbdRequest, end: number): NbdPiece | null {
    const slotBytes = coveringBytes(request.cursor, end);
    const isOverBudget = this.heldBytes > 0 && this.heldBytes + slotBytes > HELD_BYTES_MAX;
    if (isOverBudget) return null;
    const piece = this.host.pools.takePiece(slotBytes, this.heldBytes === 0);
    if (piece === null) {
      this.host.waitForMemory(this);
      return null;
    }
    this.heldBytes += slotBytes;
    piece.request = request;
    piece.kind = kindOf(request.command);
    piece.offsetBytes = request.cursor;
    piece.lengthBytes = end - request.cursor;
    piece.arenaOffset = piece.slot + (request.cursor % BLOCK_SIZE);
    request.cursor = end;
    // From here on, not from `submit`: a WRITE must not end while its last piece is being received.
    request.piecesOpen++;
    return piece;
  }

  /** Trim, zeroes, flush: one operation without memory. */
  private startWhole(request: NbdRequest): void {
    const piece = this.host.pools.takePiece(0, true);
    assert(piece !== null, "Transmission.startWhole: a piece without memory");
    piece.request = request;
    piece.kind = kindOf(request.command);
    piece.offsetBytes = request.offsetBytes;
    piece.lengthBytes = request.lengthBytes;
    piece.arenaOffset = 0;
    request.cursor = request.offsetBytes + request.lengthBytes;
    request.piecesOpen = 1;
    this.target.submit(piece);
  }

  private startRead(request: NbdRequest): void {
    if (this.replies.isStreamed(request)) this.replies.enterStream(request);
    this.pushIssue(request);
    this.issue();
  }

  private pushIssue(request: NbdRequest): void {
    request.issueNext = null;
    if (this.issueTail === null) this.issueHead = request;
    else this.issueTail.issueNext = request;
    this.issueTail = request;
  }

  private issue(): void {
    for (let request = this.issueHead; request !== null; request = this.issueHead) {
      if (!this.issueOne(request)) return;
    }
  }

  /** Issue what is left of a request. Answers false when memory ran out. */
  private issueOne(request: NbdRequest): boolean {
    const end = request.offsetBytes + request.lengthBytes;
    while (request.cursor < end) {
      const piece =
        request.command === Command.BlockStatus
          ? this.takeStatus(request)
          : this.take(request, unitEnd(request, end));
      if (piece === null) return false;
      if (request.cursor === end) this.shiftIssue(request);
      if (this.replies.isStreamed(request)) request.pushPiece(piece);
      this.target.submit(piece);
    }
    return true;
  }

  private shiftIssue(request: NbdRequest): void {
    assert(this.issueHead === request, "Transmission.shiftIssue: not the head");
    this.issueHead = request.issueNext;
    if (request.issueNext === null) this.issueTail = null;
    request.issueNext = null;
  }

  private takeStatus(request: NbdRequest): NbdPiece | null {
    const from = request.offsetBytes;
    const start = from - (from % BLOCK_SIZE);
    const length = Math.min(request.lengthBytes, start + STATUS_BLOCKS_MAX * BLOCK_SIZE - from);
    const blocks = coveringBytes(from, from + length) / BLOCK_SIZE;
    const piece = this.host.pools.takePiece(blocks * STATE_BYTES, this.heldBytes === 0);
    if (piece === null) {
      this.host.waitForMemory(this);
      return null;
    }
    this.heldBytes += piece.slotBytes;
    piece.request = request;
    piece.kind = kindOf(request.command);
    piece.offsetBytes = from;
    piece.lengthBytes = length;
    piece.arenaOffset = piece.slot;
    request.cursor = from + request.lengthBytes;
    request.piecesOpen++;
    return piece;
  }

  /* ---------------------------------------------------------------- completing */

  onPieceDone(piece: NbdPiece): void {
    const request = piece.request;
    assert(request !== null, "Transmission.onPieceDone: the piece has a request");
    request.piecesOpen--;
    piece.isDone = true;
    const error = nbdErrorOf(piece.status);
    if (error !== NbdError.None && request.error === NbdError.None) request.error = error;
    if (this.closed) {
      this.onLatePiece(request, piece);
      return;
    }
    if (this.replies.isStreamed(request)) {
      this.replies.send();
      return;
    }
    const hasData = request.command === Command.Read || request.command === Command.BlockStatus;
    if (hasData && error === NbdError.None && !request.isBroken) request.pushPiece(piece);
    else this.release(piece);
    const isLast = request.piecesOpen === 0 && isIssued(request);
    // Structured data goes out piece by piece, everything else when the last one is done.
    if (isLast && request.isAbandoned) this.free(request);
    else if (isLast || request.pieceHead !== null) this.replies.enqueue(request);
    if (this.stage === Stage.Ending) this.replies.send();
  }

  /** The connection is gone: give everything back. */
  private onLatePiece(request: NbdRequest, piece: NbdPiece): void {
    // Streamed pieces were taken off their request's list when the connection closed.
    this.release(piece);
    if (request.piecesOpen === 0) this.free(request);
    this.checkDrained();
  }

  canSend(): boolean {
    return !this.isOver();
  }

  onProgress(): void {
    this.progressUs = this.host.world.clock.turnUs;
  }

  /** All that was done is sent: the end, if it was waited for. */
  onSent(): void {
    if (this.stage !== Stage.Ending || this.requestsOpen > 0 || this.isOver()) return;
    this.isClosing = true;
    this.stream.close(this.endReason, true);
  }

  /** Only the head of the queue is issued in part. */
  stopIssuing(request: NbdRequest): void {
    if (isIssued(request)) return;
    this.shiftIssue(request);
    request.cursor = request.offsetBytes + request.lengthBytes;
  }

  release(piece: NbdPiece): void {
    if (piece.slot >= 0) this.heldBytes -= piece.slotBytes;
    this.host.pools.releasePiece(piece);
    if (this.issueHead !== null || this.isPaused) this.host.ready(this);
  }

  free(request: NbdRequest): void {
    this.host.pools.releaseRequest(request);
    this.requestsOpen--;
    if (this.isPaused) this.host.ready(this);
  }

  private checkDrained(): void {
    if (this.closed && this.requestsOpen === 0) this.host.onTransmissionDrained(this);
  }

  /* ---------------------------------------------------------------- the end */

  /** The stream is gone: drop all that is not in the image's hands. */
  private dropAll(): void {
    this.stage = Stage.Ending;
    this.dropPiece();
    if (this.current !== null) {
      this.current.cursor = this.current.offsetBytes + this.current.lengthBytes;
      if (this.current.piecesOpen === 0) this.free(this.current);
    }
    this.current = null;
    let request = this.replies.takeAll();
    while (request !== null) {
      this.dropRequest(request);
      request = this.replies.takeAll();
    }
    this.dropUnissued();
  }

  /** The piece that is being received never comes to its end. */
  private dropPiece(): void {
    const piece = this.piece;
    if (piece === null) return;
    this.piece = null;
    piece.request!.piecesOpen--;
    this.release(piece);
  }

  private dropUnissued(): void {
    while (this.issueHead !== null) {
      const request = this.issueHead;
      this.shiftIssue(request);
      request.cursor = request.offsetBytes + request.lengthBytes;
      if (request.piecesOpen === 0 && request.owner !== null) this.free(request);
    }
  }

  /** Free done pieces, forget open ones (they come back one by one), free the request if it can. */
  private dropRequest(request: NbdRequest): void {
    while (request.pieceHead !== null) {
      const piece = request.shiftPiece();
      if (piece.isDone) this.release(piece);
    }
    if (request.piecesOpen === 0 && isIssued(request)) this.free(request);
  }
}

function fitsOneSlot(request: NbdRequest): boolean {
  const end = request.offsetBytes + request.lengthBytes;
  return coveringBytes(request.offsetBytes, end) <= UNFRAGMENTED_BYTES_MAX;
}

/** With DF all is one piece. */
function unitEnd(request: NbdRequest, end: number): number {
  if ((request.flags & CommandFlag.DontFragment) !== 0) return end;
  return pieceEnd(request.cursor, end);
}
