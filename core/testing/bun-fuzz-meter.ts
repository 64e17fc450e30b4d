import { fullGC, heapSize } from "bun:jsc";
import type { FuzzMeter } from "./fuzz.ts";

type Sized = new (...values: never[]) => { readonly byteLength: number };

const NAMES = [
  "ArrayBuffer",
  "Uint8Array",
  "Uint16Array",
  "Uint32Array",
  "Int32Array",
  "Float64Array",
] as const;

/**
 * Counts the memory that typed arrays and buffers are made with, by standing in front of their
 * constructors: the runtime tells of such memory only once it is touched, and a length that lies asks
 * for more than will ever be. What else there is (objects, texts, lists) is told by the heap, which counts
 * what the last collection left, and by what of the process lies in memory.
 */
export class BunFuzzMeter implements FuzzMeter {
  private allocated = 0;
  private readonly originals = new Map<string, Sized>();

  constructor() {
    const place = globalThis as unknown as Record<string, Sized>;
    for (const name of NAMES) {
      const original = place[name]!;
      this.originals.set(name, original);
      place[name] = new Proxy(original, {
        construct: (target, values, wanted: Sized): object => {
          const real = wanted === place[name] ? target : wanted;
          const made = Reflect.construct(target, values, real) as { readonly byteLength: number };
          // A view of memory that was there before is none.
          if (typeof values[0] !== "object") this.allocated += made.byteLength;
          return made;
        },
      });
    }
  }

  nowMs(): number {
    return performance.now();
  }

  takeAllocated(): number {
    const bytes = this.allocated;
    this.allocated = 0;
    return bytes;
  }

  heapBytes(): number {
    return heapSize();
  }

  residentBytes(): number {
    return process.memoryUsage.rss();
  }

  collect(): void {
    fullGC();
  }

  /** Put the constructors back. */
  close(): void {
    const place = globalThis as unknown as Record<string, Sized>;
    for (const [name, original] of this.originals) place[name] = original;
  }
}
