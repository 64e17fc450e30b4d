// data path
import { BLOCK_SIZE, TWO_32 } from "../../base/units.ts";
import { BlockState, STATE_BYTES } from "../../client/client.ts";
import type { Arena, Stream } from "../../reactor/world.ts";
import {
  BASE_ALLOCATION_ID,
  Chunk,
  CHUNK_DONE,
  CHUNK_HEADER_SIZE,
  CHUNK_MAGIC,
  Command,
  CommandFlag,
  NbdError,
  SIMPLE_REPLY_MAGIC,
  SIMPLE_REPLY_SIZE,
  STATE_HOLE,
  STATE_ZERO,
} from "./protocol.ts";
import type { NbdPiece, NbdRequest } from "./request.ts";

/** Body sizes of chunks. */
const OFFSET_SIZE = 8;
const HOLE_BODY_SIZE = 12;
const ERROR_BODY_SIZE = 6;
const EXTENT_SIZE = 8;

/** Writes the replies of one connection. Each method answers false when there is no send space. */
export class ReplyWriter {
  private readonly view: DataView;
  private readonly bytes: Uint8Array;
  private readonly stream: Stream;
  private readonly structured: boolean;

  constructor(arena: Arena, stream: Stream, structured: boolean) {
    this.view = arena.view;
    this.bytes = arena.bytes;
    this.stream = stream;
    this.structured = structured;
  }

  /** The data, hole or extents of one piece. `isLast`: the reply ends with it. */
  piece(request: NbdRequest, piece: NbdPiece, isLast: boolean): boolean {
    const flags = isLast ? CHUNK_DONE : 0;
    if (request.command === Command.BlockStatus) return this.extents(request, piece, flags);
    if (!this.structured) return this.simpleData(request, piece);
    if (piece.isZero) return this.hole(request, piece, flags);
    return this.data(request, piece, flags);
  }

  /** The last word on a request that no data has ended. */
  final(request: NbdRequest): boolean {
    const isChunk =
      this.structured &&
      (request.command === Command.Read || request.command === Command.BlockStatus);
    if (!isChunk) return this.simpleHeader(request, request.error);
    const isError = request.error !== NbdError.None;
    const bodyBytes = isError ? ERROR_BODY_SIZE : 0;
    const at = this.stream.reserve(CHUNK_HEADER_SIZE + bodyBytes);
    if (at < 0) return false;
    this.putChunk(at, request, CHUNK_DONE, isError ? Chunk.Error : Chunk.None, bodyBytes);
    if (isError) {
      this.view.setUint32(at + CHUNK_HEADER_SIZE, request.error);
      // No text behind the number.
      this.view.setUint16(at + CHUNK_HEADER_SIZE + 4, 0);
    }
    this.stream.commit(CHUNK_HEADER_SIZE + bodyBytes);
    return true;
  }

  simpleHeader(request: NbdRequest, error: NbdError): boolean {
    const at = this.stream.reserve(SIMPLE_REPLY_SIZE);
    if (at < 0) return false;
    this.putSimple(at, request, error);
    this.stream.commit(SIMPLE_REPLY_SIZE);
    return true;
  }

  /** Data that continues a simple reply. */
  rawData(piece: NbdPiece): boolean {
    const at = this.stream.reserve(piece.lengthBytes);
    if (at < 0) return false;
    this.copy(at, piece);
    this.stream.commit(piece.lengthBytes);
    return true;
  }

  private simpleData(request: NbdRequest, piece: NbdPiece): boolean {
    const at = this.stream.reserve(SIMPLE_REPLY_SIZE + piece.lengthBytes);
    if (at < 0) return false;
    this.putSimple(at, request, NbdError.None);
    this.copy(at + SIMPLE_REPLY_SIZE, piece);
    this.stream.commit(SIMPLE_REPLY_SIZE + piece.lengthBytes);
    return true;
  }

  private data(request: NbdRequest, piece: NbdPiece, flags: number): boolean {
    const bodyBytes = OFFSET_SIZE + piece.lengthBytes;
    const at = this.stream.reserve(CHUNK_HEADER_SIZE + bodyBytes);
    if (at < 0) return false;
    this.putChunk(at, request, flags, Chunk.OffsetData, bodyBytes);
    this.putOffset(at + CHUNK_HEADER_SIZE, piece.offsetBytes);
    this.copy(at + CHUNK_HEADER_SIZE + OFFSET_SIZE, piece);
    this.stream.commit(CHUNK_HEADER_SIZE + bodyBytes);
    return true;
  }

  private hole(request: NbdRequest, piece: NbdPiece, flags: number): boolean {
    const at = this.stream.reserve(CHUNK_HEADER_SIZE + HOLE_BODY_SIZE);
    if (at < 0) return false;
    this.putChunk(at, request, flags, Chunk.OffsetHole, HOLE_BODY_SIZE);
    this.putOffset(at + CHUNK_HEADER_SIZE, piece.offsetBytes);
    this.view.setUint32(at + CHUNK_HEADER_SIZE + OFFSET_SIZE, piece.lengthBytes);
    this.stream.commit(CHUNK_HEADER_SIZE + HOLE_BODY_SIZE);
    return true;
  }

  private extents(request: NbdRequest, piece: NbdPiece, flags: number): boolean {
    const skip = piece.offsetBytes % BLOCK_SIZE;
    const blocks = Math.ceil((skip + piece.lengthBytes) / BLOCK_SIZE);
    const runsMax = (request.flags & CommandFlag.OneExtent) !== 0 ? 1 : blocks;
    const runs = countRuns(this.view, piece.arenaOffset, blocks, runsMax);
    const bodyBytes = 4 + runs * EXTENT_SIZE;
    const at = this.stream.reserve(CHUNK_HEADER_SIZE + bodyBytes);
    if (at < 0) return false;
    this.putChunk(at, request, flags, Chunk.BlockStatus, bodyBytes);
    this.view.setUint32(at + CHUNK_HEADER_SIZE, BASE_ALLOCATION_ID);
    putRuns(
      this.view,
      at + CHUNK_HEADER_SIZE + 4,
      piece.arenaOffset,
      runs,
      skip,
      piece.lengthBytes,
    );
    this.stream.commit(CHUNK_HEADER_SIZE + bodyBytes);
    return true;
  }

  private copy(at: number, piece: NbdPiece): void {
    this.bytes.copyWithin(at, piece.arenaOffset, piece.arenaOffset + piece.lengthBytes);
  }

  private putSimple(at: number, request: NbdRequest, error: NbdError): void {
    this.view.setUint32(at, SIMPLE_REPLY_MAGIC);
    this.view.setUint32(at + 4, error);
    this.view.setUint32(at + 8, request.cookieHigh);
    this.view.setUint32(at + 12, request.cookieLow);
  }

  private putChunk(
    at: number,
    request: NbdRequest,
    flags: number,
    type: Chunk,
    bodyBytes: number,
  ): void {
    this.view.setUint32(at, CHUNK_MAGIC);
    this.view.setUint16(at + 4, flags);
    this.view.setUint16(at + 6, type);
    this.view.setUint32(at + 8, request.cookieHigh);
    this.view.setUint32(at + 12, request.cookieLow);
    this.view.setUint32(at + 16, bodyBytes);
  }

  private putOffset(at: number, value: number): void {
    this.view.setUint32(at, Math.floor(value / TWO_32));
    this.view.setUint32(at + 4, value >>> 0);
  }
}

/** How many runs of equal allocation the block states at `words` form; at most `runsMax`. */
function countRuns(view: DataView, words: number, blocks: number, runsMax: number): number {
  let runs = 0;
  let last = -1;
  for (let block = 0; block < blocks; block++) {
    const flags = allocationOf(view, words, block);
    if (flags === last) continue;
    if (runs === runsMax) return runs;
    runs++;
    last = flags;
  }
  return runs;
}

/**
 * Write `runs` descriptors (length 4, flags 4) for the block states at `words`.
 *
 * The first block begins `skipBytes` before the range; the range has `lengthBytes` bytes.
 */
function putRuns(
  view: DataView,
  at: number,
  words: number,
  runs: number,
  skipBytes: number,
  lengthBytes: number,
): void {
  const blocks = Math.ceil((skipBytes + lengthBytes) / BLOCK_SIZE);
  let start = 0;
  let block = 0;
  for (let run = 0; run < runs; run++) {
    const flags = allocationOf(view, words, block);
    while (block < blocks && allocationOf(view, words, block) === flags) block++;
    const end = Math.min(block * BLOCK_SIZE - skipBytes, lengthBytes);
    view.setUint32(at + run * EXTENT_SIZE, end - start);
    view.setUint32(at + run * EXTENT_SIZE + 4, flags);
    start = end;
  }
}

function allocationOf(view: DataView, words: number, block: number): number {
  const state = view.getUint32(words + block * STATE_BYTES + 8, true) >>> 30;
  return state === BlockState.Zero ? STATE_HOLE | STATE_ZERO : 0;
}
