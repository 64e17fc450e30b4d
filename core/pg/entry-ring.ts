// data path
import { assert } from "../base/assert.ts";
import type { Entry } from "../log/log.ts";

const CAPACITY_MIN = 16;

/**
 * The entries of one group that are in memory, by log index: a ring that grows by doubling.
 *
 * Holds nothing until the first entry: an idle group costs one small object.
 *
 * Invariant: a held entry e lies at slot `e.index mod capacity`, and first ≤ e.index ≤ last.
 */
export class EntryRing {
  private slots: (Entry | null)[] = [];
  private mask = -1;
  /** Lowest and highest index that may be held; last < first when empty. */
  first = 1;
  last = 0;

  /** The entry at `index`, or null when it is not in memory. */
  get(index: number): Entry | null {
    if (index < this.first || index > this.last) return null;
    return this.slots[index & this.mask]!;
  }

  /** Keep an entry at the end, or at a hole within. A gap in front of it reads as null. */
  put(entry: Entry): void {
    const index = entry.index;
    if (this.last < this.first) {
      this.first = index;
      this.last = index - 1;
    }
    assert(index >= this.first, "EntryRing.put: index below the ring");
    if (index - this.first >= this.slots.length) this.grow(index - this.first + 1);
    for (let gap = this.last + 1; gap < index; gap++) this.slots[gap & this.mask] = null;
    if (index > this.last) this.last = index;
    this.slots[index & this.mask] = entry;
  }

  /** Forget `index`, which leaves a hole. Answers what was there. */
  clear(index: number): Entry | null {
    const entry = this.get(index);
    if (entry !== null) this.slots[index & this.mask] = null;
    return entry;
  }

  /** Forget the lowest index. Requires first ≤ last. */
  shiftFirst(): Entry | null {
    assert(this.first <= this.last, "EntryRing.shiftFirst: empty");
    const entry = this.slots[this.first & this.mask]!;
    this.slots[this.first & this.mask] = null;
    this.first += 1;
    return entry;
  }

  /** Forget the highest index. Requires first ≤ last. */
  popLast(): Entry | null {
    assert(this.first <= this.last, "EntryRing.popLast: empty");
    const entry = this.slots[this.last & this.mask]!;
    this.slots[this.last & this.mask] = null;
    this.last -= 1;
    return entry;
  }

  // cold: by doubling.
  private grow(count: number): void {
    let capacity = this.slots.length === 0 ? CAPACITY_MIN : this.slots.length;
    while (capacity < count) capacity *= 2;
    const slots: (Entry | null)[] = new Array<Entry | null>(capacity).fill(null);
    for (let index = this.first; index <= this.last; index++) {
      slots[index & (capacity - 1)] = this.slots[index & this.mask]!;
    }
    this.slots = slots;
    this.mask = capacity - 1;
  }
}
