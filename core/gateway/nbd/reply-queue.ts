// data path
//
// The order of replies on one connection.
//
// Requests are answered as they are done. Simple replies (a client without structured replies)
// hold all data of a READ without a gap: READs of more than one piece are streamed then, strictly
// in the order in which they were issued, one at a time. Only the newest of them can be waiting for
// memory, and everything before it completes without more, so that streaming never waits for
// memory that waits for streaming.
import { assert } from "../../base/assert.ts";
import { Command, NbdError } from "./protocol.ts";
import type { ReplyWriter } from "./replies.ts";
import { isIssued, nbdErrorOf, type NbdPiece, type NbdRequest, pieceEnd } from "./request.ts";

/** What the queue needs of its connection. */
export interface ReplyHost {
  /** False when the stream is gone or ends: nothing is sent any more. */
  canSend(): boolean;
  /** A piece's memory is free. */
  release(piece: NbdPiece): void;
  /** The request is answered in full. */
  free(request: NbdRequest): void;
  /** No more pieces are to be issued for a request. */
  stopIssuing(request: NbdRequest): void;
  onProgress(): void;
  /** Nothing is left to be sent. */
  onSent(): void;
  abort(reason: string): void;
}

export class ReplyQueue {
  private readonly host: ReplyHost;
  private readonly replies: ReplyWriter;
  private readonly structured: boolean;
  /** Requests with something to send, in order. */
  private head: NbdRequest | null = null;
  private tail: NbdRequest | null = null;
  /** READs whose simple reply is streamed, in order of issue. */
  private streamHead: NbdRequest | null = null;
  private streamTail: NbdRequest | null = null;

  constructor(host: ReplyHost, replies: ReplyWriter, structured: boolean) {
    this.host = host;
    this.replies = replies;
    this.structured = structured;
  }

  /** True while a reply waits for the client to read. */
  get isWaiting(): boolean {
    return this.head !== null || this.streamHead?.started === true;
  }

  /** True when the reply of a READ is streamed. */
  isStreamed(request: NbdRequest): boolean {
    if (this.structured || request.command !== Command.Read || request.isBroken) return false;
    const end = request.offsetBytes + request.lengthBytes;
    return pieceEnd(request.offsetBytes, end) < end;
  }

  /** A READ that is streamed begins. */
  enterStream(request: NbdRequest): void {
    request.streamNext = null;
    if (this.streamTail === null) this.streamHead = request;
    else this.streamTail.streamNext = request;
    this.streamTail = request;
  }

  /** The request has something to send. */
  enqueue(request: NbdRequest): void {
    if (!request.queued) {
      request.queued = true;
      request.next = null;
      if (this.tail === null) this.head = request;
      else this.tail.next = request;
      this.tail = request;
    }
    this.send();
  }

  /** Send whatever can be sent, in order of completion. */
  send(): void {
    while (this.host.canSend()) {
      const streamed = this.streamHead;
      if (streamed !== null && streamed.pieceHead !== null && streamed.pieceHead.isDone) {
        if (!this.sendStreamed(streamed)) return;
        continue;
      }
      if (streamed !== null && streamed.started) return;
      const request = this.head;
      if (request === null) break;
      if (!this.sendRequest(request)) return;
    }
    this.host.onSent();
  }

  /** The connection is gone: hand every request over to `drop`. */
  takeAll(): NbdRequest | null {
    const streamed = this.streamHead;
    if (streamed !== null) {
      this.streamHead = streamed.streamNext;
      if (this.streamHead === null) this.streamTail = null;
      streamed.streamNext = null;
      return streamed;
    }
    const request = this.head;
    if (request !== null) this.shift(request);
    return request;
  }

  private shift(request: NbdRequest): void {
    this.head = request.next;
    if (request.next === null) this.tail = null;
    request.next = null;
    request.queued = false;
  }

  private shiftStream(request: NbdRequest): void {
    this.streamHead = request.streamNext;
    if (request.streamNext === null) this.streamTail = null;
    request.streamNext = null;
  }

  /** Send what a queued request has, then take it off the queue. False: no space. */
  private sendRequest(request: NbdRequest): boolean {
    while (request.pieceHead !== null) {
      if (!this.sendPiece(request, request.pieceHead)) return false;
      this.host.release(request.shiftPiece());
    }
    const isOver = request.piecesOpen === 0 && isIssued(request);
    if (isOver && !request.started && !this.replies.final(request)) return false;
    this.shift(request);
    if (isOver) this.host.free(request);
    return true;
  }

  /** One piece of a READ or BLOCK_STATUS. `request.started` says then that nothing follows. */
  private sendPiece(request: NbdRequest, piece: NbdPiece): boolean {
    const isEnd = request.piecesOpen === 0 && isIssued(request) && piece.next === null;
    const isDone = isEnd && request.error === NbdError.None;
    if (!this.replies.piece(request, piece, isDone)) return false;
    this.host.onProgress();
    if (isDone) request.started = true;
    return true;
  }

  /** Send the first piece of a streamed READ, its header before the very first. False: no space. */
  private sendStreamed(request: NbdRequest): boolean {
    const piece = request.pieceHead;
    assert(piece !== null, "ReplyQueue.sendStreamed: there is a piece");
    if (nbdErrorOf(piece.status) !== NbdError.None) return this.breakStream(request);
    if (!request.started) {
      if (!this.replies.simpleHeader(request, NbdError.None)) return false;
      request.started = true;
    }
    if (!this.replies.rawData(piece)) return false;
    this.host.onProgress();
    this.host.release(request.shiftPiece());
    if (request.pieceHead !== null || !isIssued(request)) return true;
    this.shiftStream(request);
    this.host.free(request);
    return true;
  }

  /** A streamed READ has failed. Before its header it gets an error; behind it there is no way. */
  private breakStream(request: NbdRequest): boolean {
    if (request.started) {
      this.host.abort("a READ failed in the middle of its simple reply");
      return false;
    }
    this.shiftStream(request);
    request.isBroken = true;
    this.host.stopIssuing(request);
    while (request.pieceHead !== null) {
      const piece = request.shiftPiece();
      // Open ones come back one by one.
      if (piece.isDone) this.host.release(piece);
    }
    if (request.piecesOpen === 0) this.enqueue(request);
    return true;
  }
}
