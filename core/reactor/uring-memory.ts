// data path
import { releasePages } from "../../ffi/libc/libc.ts";
import type { Ring } from "../../ffi/uring/ring.ts";
import type { Logger } from "../base/logger.ts";

/** The arena is pinned in pieces of this size; the slots, which begin it, divide it evenly. */
const PIECE_SHIFT = 20;
const PIECE_SIZE = 1_048_576;

/**
 * What the ring knows ahead: pieces of the arena, pinned when a disk first uses them (saves looking
 * up their pages for each operation). Without the right to lock memory they stay unpinned, with one
 * warning.
 *
 * Files are not registered: it saves less than can be measured (a reference per operation), and up
 * to Linux 6.12 a file leaves the table only after everything that was in flight before, be it an
 * idle connection's receive: a closed device stayed locked, a closed socket stayed.
 */
export class UringMemory {
  /** Address of the arena's first byte. */
  readonly address: number;
  private readonly ring: Ring;
  private readonly logger: Logger;
  /** 1: pinned, as the buffer of the same number. */
  private readonly pinned: Uint8Array;
  private pinning: boolean;
  private pinnedCount = 0;

  constructor(ring: Ring, address: number, sizeBytes: number, logger: Logger) {
    this.ring = ring;
    this.address = address;
    this.logger = logger;
    const pieces = Math.floor(sizeBytes / PIECE_SIZE);
    this.pinned = new Uint8Array(pieces);
    this.pinning = pieces > 0 && ring.registerBufferTable(pieces);
  }

  /** Index of the pinned buffer that holds the whole range, or -1. */
  bufferAt(arenaOffset: number, lengthBytes: number): number {
    const piece = arenaOffset >>> PIECE_SHIFT;
    if ((arenaOffset + lengthBytes - 1) >>> PIECE_SHIFT !== piece) return -1;
    if (this.pinned[piece] === 1) return piece;
    return this.pinning && piece < this.pinned.length ? this.pin(piece) : -1;
  }

  /**
   * Give the memory of a range back to the system; it reads zeros afterwards. Nothing of it may be
   * in use, by the kernel neither. A pinned piece is let go first: the ring would go on with the
   * pages that it had. What is pinned and not wholly in the range stays. cold: when at rest
   */
  giveBack(arenaOffset: number, sizeBytes: number): void {
    const end = arenaOffset + sizeBytes;
    let at = arenaOffset;
    while (at < end) {
      const piece = at >>> PIECE_SHIFT;
      const next = Math.min((piece + 1) * PIECE_SIZE, end);
      const isWhole = next - at === PIECE_SIZE;
      if (this.pinned[piece] !== 1 || (isWhole && this.unpin(piece))) {
        releasePages(this.address + at, next - at);
      }
      at = next;
    }
  }

  /** False: the ring still knows it. cold: once for each piece, when at rest */
  private unpin(piece: number): boolean {
    if (this.ring.updateBuffer(piece, 0, 0) !== 0) return false;
    this.pinned[piece] = 0;
    this.pinnedCount -= 1;
    return true;
  }

  /** cold: at its first use, and the first after a rest */
  private pin(piece: number): number {
    const result = this.ring.updateBuffer(piece, this.address + piece * PIECE_SIZE, PIECE_SIZE);
    if (result === 0) {
      this.pinned[piece] = 1;
      this.pinnedCount += 1;
      return piece;
    }
    this.pinning = false;
    this.logger.warn("buffers stay unregistered: I/O costs a little more", {
      errno: -result,
      registeredMiB: this.pinnedCount,
      hint: "raise the limit of locked memory (LimitMEMLOCK=infinity)",
    });
    return -1;
  }
}
