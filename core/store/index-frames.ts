// data path
import { assert } from "../base/assert.ts";
import { mix32 } from "../base/checksum.ts";
import { BLOCKS_PER_UNIT } from "../base/units.ts";
import { getU48, putU48 } from "./fixed.ts";
import { SLOTS_PER_PAGE } from "./slot-codec.ts";

/** Of a slot on disk: where its row begins, and how long it is (`slot-codec.ts`: crcs, versions). */
const ROW_AT = 64;
const ROW_BYTES = 160;
const ROW_WORDS: number = ROW_BYTES / 4;
const VERSIONS_AT = 64;
const SLOT_WORDS = 64;
/** Memory of one frame. */
export const FRAME_BYTES: number = SLOTS_PER_PAGE * ROW_BYTES;
const FRAME_WORDS: number = FRAME_BYTES / 4;
const CHUNK_FRAMES = 256;
const ALL_ROWS = 0xffff;
const NO_FRAME = -1;

enum Mark {
  None = 0,
  /** Used since the hand passed. */
  Referenced = 1,
  /** It has what no page on the device has. */
  Dirty = 2,
  /** Its page is being written. */
  Writing = 4,
}

/**
 * Rows of slots in memory when not all of them are (README, "The paged index"). A *row* is what of a
 * slot is not resident, checksum and version of each block, as it lies on disk; a *frame* is the rows of
 * one page.
 *
 * A frame may hold some rows of its page only: those that were made since. The others are on the device,
 * and come with a load. What was changed stays until its page is written; the rest goes when memory is
 * wanted, what was not used for longest first (a hand goes round). A frame is never waited for: when all
 * are held or changed there are more than `capacity` for a while.
 *
 * Invariants: a page has one frame at most; `used`, `dirty` and `idle` are the counts of frames in that
 * state; a frame that is dirty, being written or held stays, but for one of which no slot is in use.
 */
export class IndexFrames {
  /** Frames that there are to be at most. */
  readonly capacity: number;
  used = 0;
  dirty = 0;
  evictions = 0;
  /** Frames in use that may go. */
  private idle = 0;
  private readonly frameOf: Int32Array;
  private readonly views: DataView[] = [];
  private readonly words: Int32Array[] = [];
  private pageOf: Int32Array = new Int32Array(0);
  private known: Uint16Array = new Uint16Array(0);
  private marks: Uint8Array = new Uint8Array(0);
  private pins: Uint16Array = new Uint16Array(0);
  private free: Int32Array = new Int32Array(0);
  private freeCount = 0;
  private hand = 0;
  /** Frames that were ever used: the lowest are taken first. */
  private reached = 0;

  /** `pages`: of the shard; `sizeBytes`: what frames may take. */
  constructor(pages: number, sizeBytes: number) {
    this.capacity = Math.max(1, Math.floor(sizeBytes / FRAME_BYTES));
    this.frameOf = new Int32Array(pages).fill(NO_FRAME);
  }

  /** Many frames wait for their pages to be written: who makes more has to wait. */
  get isCrowded(): boolean {
    return this.dirty * 2 > this.capacity;
  }

  /** Enough of them do for a round of the page writer. */
  get wantsWriting(): boolean {
    return this.dirty * 4 > this.capacity;
  }

  /* ------------------------------------------------------------------ rows */

  /** Whether the row of slot `slot` (0 to 15) of a page is here. */
  knows(page: number, slot: number): boolean {
    const frame = this.frameOf[page]!;
    return frame !== NO_FRAME && ((this.known[frame]! >>> slot) & 1) === 1;
  }

  /**
   * The slot is out of use: nobody wants its row. A frame that has no other one goes, though its page
   * is still to be written: what that needs is loaded.
   */
  forget(page: number, slot: number): void {
    const frame = this.frameOf[page]!;
    // Whoever holds it may look at the row yet.
    if (frame === NO_FRAME || this.pins[frame] !== 0) return;
    this.known[frame] = this.known[frame]! & ~(1 << slot);
    const marks = this.marks[frame]!;
    if (this.known[frame] !== 0 || (marks & Mark.Writing) !== 0) return;
    if ((marks & Mark.Dirty) !== 0) this.dirty -= 1;
    this.setMarks(frame, Mark.None);
    this.drop(frame);
  }

  /** From here on the row is what `set` says of each block: nothing of what it was is wanted. */
  make(page: number, slot: number): void {
    let frame = this.frameOf[page]!;
    if (frame === NO_FRAME) frame = this.take(page);
    this.known[frame] = this.known[frame]! | (1 << slot);
    this.markDirty(frame);
  }

  /** Requires: the row is here. `block`: number in the layer. */
  set(
    page: number,
    slot: number,
    layer: number,
    block: number,
    version: number,
    crc: number,
  ): void {
    const frame = this.frameOf[page]!;
    assert(this.knows(page, slot), "IndexFrames.set: the row is not here");
    const bit = block % BLOCKS_PER_UNIT;
    const view = this.viewOf(frame);
    const at = rowAt(frame, slot);
    view.setUint32(at + bit * 4, (crc ^ mix32(layer, block)) >>> 0, true);
    putU48(view, at + VERSIONS_AT + bit * 6, version);
    this.markDirty(frame);
  }

  crc(page: number, slot: number, layer: number, block: number): number {
    const frame = this.read(page, slot);
    const bit = block % BLOCKS_PER_UNIT;
    const stored = this.viewOf(frame).getUint32(rowAt(frame, slot) + bit * 4, true);
    return (stored ^ mix32(layer, block)) >>> 0;
  }

  version(page: number, slot: number, bit: number): number {
    const frame = this.read(page, slot);
    return getU48(this.viewOf(frame), rowAt(frame, slot) + VERSIONS_AT + bit * 6);
  }

  private read(page: number, slot: number): number {
    assert(this.knows(page, slot), "IndexFrames: the row is not here");
    const frame = this.frameOf[page]!;
    this.marks[frame] = this.marks[frame]! | Mark.Referenced;
    return frame;
  }

  /** Lay the row out where a slot is made for the disk; blocks that are not in `bits` as nothing. */
  putRow(
    page: number,
    slot: number,
    bits: number,
    layer: number,
    firstBlock: number,
    view: DataView,
    at: number,
  ): void {
    assert(this.knows(page, slot), "IndexFrames.putRow: the row is not here");
    const frame = this.frameOf[page]!;
    const from = this.viewOf(frame);
    const row = rowAt(frame, slot);
    const to = at + ROW_AT;
    for (let bit = 0; bit < BLOCKS_PER_UNIT; bit++) {
      const has = ((bits >>> bit) & 1) === 1;
      const nothing = mix32(layer, firstBlock + bit) >>> 0;
      view.setUint32(to + bit * 4, has ? from.getUint32(row + bit * 4, true) : nothing, true);
      const version = has ? getU48(from, row + VERSIONS_AT + bit * 6) : 0;
      putU48(view, to + VERSIONS_AT + bit * 6, version);
    }
  }

  /** A page was loaded: take the rows that are not here. `from`: its words, from `at` on. */
  fill(page: number, from: Int32Array, at: number): void {
    let frame = this.frameOf[page]!;
    if (frame === NO_FRAME) frame = this.take(page);
    const known = this.known[frame]!;
    const to = this.words[Math.floor(frame / CHUNK_FRAMES)]!;
    const first = (frame % CHUNK_FRAMES) * FRAME_WORDS;
    for (let slot = 0; slot < SLOTS_PER_PAGE; slot++) {
      if (((known >>> slot) & 1) === 1) continue;
      const source = at + slot * SLOT_WORDS + ROW_AT / 4;
      const target = first + slot * ROW_WORDS;
      for (let word = 0; word < ROW_WORDS; word++) to[target + word] = from[source + word]!;
    }
    this.known[frame] = ALL_ROWS;
    this.marks[frame] = this.marks[frame]! | Mark.Referenced;
  }

  /* ----------------------------------------------------------------- pages */

  /** Keep the frame of a page, if there is one. True: then `release` has to follow. */
  hold(page: number): boolean {
    const frame = this.frameOf[page]!;
    if (frame === NO_FRAME) return false;
    if (this.mayGo(frame)) this.idle -= 1;
    this.pins[frame] = this.pins[frame]! + 1;
    assert(this.pins[frame]! > 0, "IndexFrames.hold: held too often");
    return true;
  }

  release(page: number): void {
    const frame = this.frameOf[page]!;
    assert(frame !== NO_FRAME && this.pins[frame]! > 0, "IndexFrames.release: it is not held");
    this.pins[frame] = this.pins[frame]! - 1;
    if (this.mayGo(frame)) this.idle += 1;
    this.dropSpare(frame);
  }

  /** Its page was laid out and is being written. */
  writing(page: number): void {
    const frame = this.frameOf[page]!;
    if (frame === NO_FRAME) return;
    const marks = this.marks[frame]!;
    if ((marks & Mark.Dirty) !== 0) this.dirty -= 1;
    this.setMarks(frame, (marks & ~Mark.Dirty) | Mark.Writing);
  }

  written(page: number): void {
    const frame = this.frameOf[page]!;
    if (frame === NO_FRAME) return;
    this.setMarks(frame, this.marks[frame]! & ~Mark.Writing);
    this.dropSpare(frame);
  }

  private markDirty(frame: number): void {
    const marks = this.marks[frame]!;
    if ((marks & Mark.Dirty) === 0) this.dirty += 1;
    this.setMarks(frame, marks | Mark.Dirty | Mark.Referenced);
  }

  private setMarks(frame: number, marks: number): void {
    const could = this.mayGo(frame);
    this.marks[frame] = marks;
    const can = this.mayGo(frame);
    if (can !== could) this.idle += can ? 1 : -1;
  }

  /* ---------------------------------------------------------------- frames */

  private take(page: number): number {
    if (this.used >= this.capacity) this.evict();
    if (this.freeCount === 0) this.grow();
    this.freeCount -= 1;
    const frame = this.free[this.freeCount]!;
    if (frame >= this.reached) this.reached = frame + 1;
    this.pageOf[frame] = page;
    this.known[frame] = 0;
    this.marks[frame] = Mark.Referenced;
    this.pins[frame] = 0;
    this.frameOf[page] = frame;
    this.used += 1;
    this.idle += 1;
    return frame;
  }

  private mayGo(frame: number): boolean {
    return (this.marks[frame]! & (Mark.Dirty | Mark.Writing)) === 0 && this.pins[frame] === 0;
  }

  /** Drop a frame that was not used since the hand passed it, if any may go: twice round at most. */
  private evict(): void {
    if (this.idle === 0) return;
    const size = this.reached;
    for (let step = 0; step < size * 2; step++) {
      const frame = this.hand;
      this.hand = frame + 1 < size ? frame + 1 : 0;
      if (this.pageOf[frame]! < 0 || !this.mayGo(frame)) continue;
      const marks = this.marks[frame]!;
      if ((marks & Mark.Referenced) === 0) {
        this.drop(frame);
        this.evictions += 1;
        return;
      }
      this.marks[frame] = marks & ~Mark.Referenced;
    }
  }

  /** There are more than there may be, and this one is not wanted any more. */
  private dropSpare(frame: number): void {
    if (this.used <= this.capacity || !this.mayGo(frame)) return;
    this.drop(frame);
    this.evictions += 1;
  }

  private drop(frame: number): void {
    this.frameOf[this.pageOf[frame]!] = NO_FRAME;
    this.pageOf[frame] = -1;
    this.free[this.freeCount] = frame;
    this.freeCount += 1;
    this.used -= 1;
    this.idle -= 1;
  }

  // cold: until there are as many as there may be, and beyond when all of them are held.
  private grow(): void {
    const before = this.pageOf.length;
    const size = before + CHUNK_FRAMES;
    const memory = new ArrayBuffer(CHUNK_FRAMES * FRAME_BYTES);
    this.views.push(new DataView(memory));
    this.words.push(new Int32Array(memory));
    this.known = grown(new Uint16Array(size), this.known);
    this.marks = grown(new Uint8Array(size), this.marks);
    this.pins = grown(new Uint16Array(size), this.pins);
    this.free = grown(new Int32Array(size), this.free);
    this.pageOf = grown(new Int32Array(size).fill(-1), this.pageOf);
    for (let frame = size - 1; frame >= before; frame--) {
      this.free[this.freeCount] = frame;
      this.freeCount += 1;
    }
  }

  private viewOf(frame: number): DataView {
    return this.views[Math.floor(frame / CHUNK_FRAMES)]!;
  }
}

function rowAt(frame: number, slot: number): number {
  return (frame % CHUNK_FRAMES) * FRAME_BYTES + slot * ROW_BYTES;
}

function grown<T extends Uint8Array | Uint16Array | Int32Array>(to: T, from: T): T {
  to.set(from);
  return to;
}
