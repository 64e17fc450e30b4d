// data path
import { assert } from "../base/assert.ts";
import { BLOCK_SIZE } from "../base/units.ts";
import type { Arena } from "./world.ts";

const ARENA_SIZE_MAX = 4_294_967_296;
/** Views of so many neighbours are kept in one row. */
const ROW_BLOCKS = 256;

/**
 * An arena over one buffer, handed out from the front and never taken back.
 *
 * Invariant: 0 ≤ usedBytes ≤ sizeBytes, both multiples of 4 KiB. The buffer must be page-aligned
 * when the kernel is to read or write it directly; it arrives zeroed.
 */
export class LinearArena implements Arena {
  readonly bytes: Uint8Array;
  readonly view: DataView;
  readonly words: Int32Array;
  readonly sizeBytes: number;
  private usedBytes = 0;
  /** Views of blocks, made at first use, in rows of neighbours: only checksummed blocks have one. */
  private readonly rows: (Uint8Array | undefined)[][] = [];

  constructor(buffer: ArrayBufferLike) {
    assert(buffer.byteLength % BLOCK_SIZE === 0, "LinearArena: size is not a multiple of 4 KiB");
    assert(buffer.byteLength <= ARENA_SIZE_MAX, "LinearArena: size is above 4 GiB");
    this.bytes = new Uint8Array(buffer);
    this.view = new DataView(buffer);
    this.words = new Int32Array(buffer);
    this.sizeBytes = buffer.byteLength;
    const rows = Math.ceil(this.sizeBytes / BLOCK_SIZE / ROW_BLOCKS);
    for (let at = 0; at < rows; at++) this.rows.push([]);
  }

  allocate(sizeBytes: number): number {
    assert(Number.isSafeInteger(sizeBytes), "Arena.allocate: size is not an integer");
    assert(sizeBytes > 0, "Arena.allocate: size is not positive");
    const rounded = Math.ceil(sizeBytes / BLOCK_SIZE) * BLOCK_SIZE;
    assert(rounded <= this.sizeBytes - this.usedBytes, "Arena.allocate: arena exhausted");
    const offset = this.usedBytes;
    this.usedBytes += rounded;
    return offset;
  }

  /** Bytes that `allocate` can still hand out. */
  get freeBytes(): number {
    return this.sizeBytes - this.usedBytes;
  }

  /** The view of a block, kept from its first use on. */
  block(offset: number): Uint8Array {
    assert(offset % BLOCK_SIZE === 0, "Arena.block: offset is not aligned to 4 KiB");
    const index = offset / BLOCK_SIZE;
    const known = this.rows[Math.floor(index / ROW_BLOCKS)]?.[index % ROW_BLOCKS];
    return known === undefined ? this.makeBlock(offset, index) : known;
  }

  /** Drop the views of a range that nobody uses. cold: when its memory is given back */
  forgetBlocks(offset: number, sizeBytes: number): void {
    const end = (offset + sizeBytes) / BLOCK_SIZE;
    for (let index = offset / BLOCK_SIZE; index < end; index++) {
      const row = this.rows[Math.floor(index / ROW_BLOCKS)];
      if (row !== undefined && row.length > 0) row[index % ROW_BLOCKS] = undefined;
    }
  }

  /** cold: once per block of memory */
  private makeBlock(offset: number, index: number): Uint8Array {
    assert(offset >= 0, "Arena.block: offset is negative");
    assert(offset + BLOCK_SIZE <= this.sizeBytes, "Arena.block: offset past the end");
    const made = this.bytes.subarray(offset, offset + BLOCK_SIZE);
    const row = this.rows[Math.floor(index / ROW_BLOCKS)]!;
    // Holes would cost a search at each use.
    if (row.length === 0) for (let at = 0; at < ROW_BLOCKS; at++) row.push(undefined);
    row[index % ROW_BLOCKS] = made;
    return made;
  }
}
