// data path
import type { Ring } from "../../ffi/uring/ring.ts";
import type { Logger } from "../base/logger.ts";
import { SLAB_SIZE, type SlabObserver, type SlotPool } from "./slots.ts";

const FILES_MAX = 1024;
/** The kernel's bound of buffers in one table. */
const BUFFERS_MAX = 16_384;

/**
 * What the ring knows ahead: descriptors in a table (saves taking a reference per operation), and
 * slabs of slots pinned when first used (saves looking up their pages). Both are optional: without
 * the right to lock memory the slabs stay unpinned, with one warning.
 */
export class UringMemory implements SlabObserver {
  /** Address of the arena's first byte. */
  readonly address: number;
  private readonly ring: Ring;
  private readonly slots: SlotPool;
  private readonly logger: Logger;
  private readonly pinned: Uint8Array;
  private readonly freeFiles: number[] = [];
  private pinning: boolean;
  /** Slabs pinned so far, for metrics. */
  pinnedCount = 0;

  constructor(ring: Ring, address: number, slots: SlotPool, logger: Logger) {
    this.ring = ring;
    this.address = address;
    this.slots = slots;
    this.logger = logger;
    this.pinned = new Uint8Array(slots.slabCount);
    if (ring.registerFileTable(FILES_MAX)) {
      for (let place = FILES_MAX - 1; place >= 0; place--) this.freeFiles.push(place);
    }
    this.pinning = ring.registerBufferTable(Math.min(BUFFERS_MAX, slots.slabCount));
    slots.observe(this);
  }

  onSlab(slab: number, arenaOffset: number): void {
    if (!this.pinning || slab >= BUFFERS_MAX) return;
    const result = this.ring.updateBuffer(slab, this.address + arenaOffset, SLAB_SIZE);
    if (result === 0) {
      this.pinned[slab] = 1;
      this.pinnedCount += 1;
      return;
    }
    this.pinning = false;
    this.logger.warn("buffers stay unregistered: I/O costs a little more", {
      errno: -result,
      registeredMiB: this.pinnedCount,
      hint: "raise the limit of locked memory (LimitMEMLOCK=infinity)",
    });
  }

  /** Index of the pinned buffer that holds the whole range, or -1. */
  bufferAt(arenaOffset: number, lengthBytes: number): number {
    const slab = this.slots.slabAt(arenaOffset);
    if (slab < 0 || this.pinned[slab] === 0) return -1;
    return this.slots.slabAt(arenaOffset + lengthBytes - 1) === slab ? slab : -1;
  }

  /** A place for a descriptor in the ring's table, or -1: use the descriptor itself. */
  takeFile(fd: number): number {
    const place = this.freeFiles.pop();
    if (place === undefined) return -1;
    if (this.ring.updateFile(place, fd)) return place;
    this.freeFiles.push(place);
    return -1;
  }

  releaseFile(place: number): void {
    this.ring.updateFile(place, -1);
    this.freeFiles.push(place);
  }
}
