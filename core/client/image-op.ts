// data path
import { Status } from "../base/status.ts";

/** What an `ImageOp` does. */
export enum OpKind {
  Read = 0,
  Write = 1,
  /** The range reads as zeros afterwards; nothing is stored for whole blocks. */
  Zero = 2,
  /** As `Zero` for the whole blocks within the range; partial blocks at its ends stay. A hint. */
  Discard = 3,
  /** Done when every write, zero and discard submitted before it is done. */
  Flush = 4,
  /** Three words a block about each block that the range touches, without its data. */
  States = 5,
}

/** The state of a block, as in the third word of `States` (`word >>> 30`). */
export enum BlockState {
  Zero = 0,
  Data = 1,
  /** Damaged on every copy: reads of it answer `Damaged`. */
  Lost = 2,
}

/** Bytes that `OpKind.States` writes for each block. */
export const STATE_BYTES = 12;

/** `ImageOp.replica`: whoever leads the group answers. The only right value but for verification. */
export const LEADER = -1;

/**
 * One operation on an image; extended and pooled by its owner (gateway, bench).
 *
 * Fill `kind`, `offsetBytes`, `lengthBytes`, `arenaOffset`, then `Image.submit`. From then on op
 * and memory belong to the client until `onDone`, which runs in the handler or drain phase of a
 * later turn, never within `submit`, and may submit again.
 *
 * Memory of Read and Write: `arenaOffset ≡ offsetBytes (mod 4096)`, and all blocks of 4 KiB of the
 * arena that the range touches belong to the op. (The client reads and merges whole blocks in
 * place: bytes of the first and the last block outside of the range are overwritten.) `States`
 * writes 12 bytes a block (crc32; version, low half; version, high 16 bits | state << 30) at
 * `arenaOffset`, a multiple of 4. Zero, Discard and Flush use no memory.
 */
export abstract class ImageOp {
  kind: OpKind = OpKind.Read;
  offsetBytes = 0;
  lengthBytes = 0;
  arenaOffset = 0;
  /** Read and States only: the n-th replica of each group answers out of its own store. */
  replica: number = LEADER;
  /**
   * Valid in `onDone`: Ok, Invalid (out of range), Denied (read-only), NoSpace, Damaged, Fenced, Removed,
   * SnapStale, SessionExpired (the outcome of a write is unknown), TimedOut, Cancelled (image closed).
   */
  status: Status = Status.Ok;
  /** Valid in `onDone` of a Read: no block of the range holds data, all bytes are zero. */
  isZero = false;

  /** For whoever holds the op outside of the client: pool or queue. */
  ownerNext: ImageOp | null = null;

  /* Owned by the client from `submit` to `onDone`. */
  /** Order of submission within the image, which flushes compare. */
  order = 0;
  /** While a trace is taken: when it was handed in, in µs of the clock; else 0. */
  submittedUs = 0;
  /** The next byte to be split off. */
  cursor = 0;
  /** Parts split off and not done. */
  partsOpen = 0;
  /** When the op fails with TimedOut, in µs of the clock; 0: never. */
  dueUs = 0;
  /** Waits until the client has parts again. */
  isStarved = false;
  /** Open writes of the image, in order of submission. */
  opNext: ImageOp | null = null;
  opPrevious: ImageOp | null = null;
  /** The queue of flushes, of ops without parts, or of finished ops. */
  waitNext: ImageOp | null = null;

  abstract onDone(): void;
}

/** What takes image operations: an open image, or a stand-in for it in tests of gateways. */
export interface ImageTarget {
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  /** Start an operation. Any number may be open; they are done in any order. */
  submit(op: ImageOp): void;
}
