// cold: the simulator
import { assert } from "../base/assert.ts";
import { BLOCK_SIZE } from "../base/units.ts";

/**
 * The content of one 4 KiB block. Nobody changes it while somebody holds it, so it can be shared: by the
 * log and by the home of a block, by what is stable and what is not yet.
 */
export class SimPage {
  readonly bytes: Uint8Array;
  /** The same memory. */
  readonly words: Int32Array;
  /** Infinity: it is never free again. */
  holders = 0;

  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
    this.words = new Int32Array(bytes.buffer, bytes.byteOffset, BLOCK_SIZE / 4);
  }
}

/** A page that is never free again. */
export function keptPage(bytes: Uint8Array): SimPage {
  const page = new SimPage(bytes);
  page.holders = Number.POSITIVE_INFINITY;
  return page;
}

const SLAB_PAGES = 256;
const BUFFER_BYTES_MIN = 1024;
const BUFFER_BYTES_MAX = 65_536;

/**
 * Memory of simulated worlds, devices and wires, kept from run to run: making new pages takes half
 * of the time of short runs, and leaving them to the collector as much again. What is in it is
 * rubbish, which nobody may rely on anyway.
 */
export class SimMemory {
  private readonly arenas: ArrayBuffer[] = [];
  private readonly pages: SimPage[] = [];
  /** Buffers of segments on the wire, by size: 1 KiB, 2 KiB and so on. */
  private readonly buffers: Uint8Array[][] = [];

  takeArena(sizeBytes: number): ArrayBuffer {
    // What was used last has its pages.
    const at = this.arenas.findLastIndex((one) => one.byteLength === sizeBytes);
    return at < 0 ? new ArrayBuffer(sizeBytes) : this.arenas.splice(at, 1)[0]!;
  }

  giveArena(memory: ArrayBuffer): void {
    this.arenas.push(memory);
  }

  /** A page with this content, which nobody holds yet. */
  takePage(content: Uint8Array): SimPage {
    if (this.pages.length === 0) this.addSlab();
    const page = this.pages.pop()!;
    page.bytes.set(content);
    return page;
  }

  /** One holder less. */
  release(page: SimPage): void {
    page.holders -= 1;
    assert(page.holders >= 0, "SimMemory.release: nobody holds the page");
    if (page.holders === 0) this.pages.push(page);
  }

  /** At least `count` bytes: what is longer than 64 KiB is made anew each time, and what is short. */
  takeBuffer(count: number): Uint8Array {
    const at = classOf(count);
    return this.buffers[at]?.pop() ?? new Uint8Array(at < 0 ? count : BUFFER_BYTES_MIN << at);
  }

  giveBuffer(buffer: Uint8Array): void {
    const at = classOf(buffer.length);
    if (at >= 0) (this.buffers[at] ??= []).push(buffer);
  }

  private addSlab(): void {
    const slab = new Uint8Array(SLAB_PAGES * BLOCK_SIZE);
    for (let at = 0; at < slab.length; at += BLOCK_SIZE) {
      this.pages.push(new SimPage(slab.subarray(at, at + BLOCK_SIZE)));
    }
  }
}

/** The list of buffers that hold so many bytes; -1: none. */
function classOf(count: number): number {
  if (count < BUFFER_BYTES_MIN / 2 || count > BUFFER_BYTES_MAX) return -1;
  return Math.max(0, 32 - Math.clz32(count - 1) - 10);
}
