// data path
import { assert } from "../base/assert.ts";
import type { Slots } from "../reactor/world.ts";
import { Entry, EntryType } from "./entry.ts";

/**
 * The entries of one shard.
 *
 * An entry is taken with one reference. Whoever keeps it beyond the call in which it got it takes
 * another (`retain`); the last `release` gives the payload slot and the object back.
 */
export class EntryPool {
  private readonly slots: Slots;
  private free: Entry | null = null;
  /** Entries out of the pool: for metrics and leak checks. */
  taken = 0;

  constructor(slots: Slots) {
    this.slots = slots;
  }

  /** A cleared entry with one reference. */
  take(): Entry {
    let entry = this.free;
    if (entry === null) entry = makeEntry();
    else this.free = entry.entryNext;
    entry.entryNext = null;
    entry.references = 1;
    this.taken += 1;
    return entry;
  }

  retain(entry: Entry): void {
    assert(entry.references > 0, "EntryPool.retain: the entry is not taken");
    entry.references += 1;
  }

  release(entry: Entry): void {
    assert(entry.references > 0, "EntryPool.release: the entry is not taken");
    entry.references -= 1;
    if (entry.references > 0) return;
    assert(entry.reservedUnits === 0, "EntryPool.release: a space reservation is left");
    assert(entry.directPending === 0, "EntryPool.release: direct writes are under way");
    if (entry.payload >= 0) this.slots.release(entry.payload);
    clearEntry(entry);
    entry.entryNext = this.free;
    this.free = entry;
    this.taken -= 1;
  }

  // cold: when many groups fell quiet.
  /** Let go of all entries that are in the pool. */
  shrink(): void {
    this.free = null;
  }
}

function clearEntry(entry: Entry): void {
  entry.group = 0;
  entry.index = 0;
  entry.term = 0;
  entry.type = EntryType.Noop;
  entry.session = 0;
  entry.number = 0;
  entry.below = 0;
  entry.layer = 0;
  entry.firstBlock = 0;
  entry.blocks = 0;
  entry.snapSeq = 0;
  entry.lockEpoch = 0;
  entry.ifVersion = 0;
  entry.payload = -1;
  entry.data = null;
  entry.trace = 0;
  entry.unitCount = 0;
  entry.bare = false;
  entry.inlineBlock = -1;
  entry.batchSeq = 0;
  entry.truncates = false;
  entry.orphaned = false;
  entry.again = false;
  entry.reservedLogBlocks = 0;
  entry.reservedDirect = 0;
}

// cold: when the pool is empty.
function makeEntry(): Entry {
  return new Entry();
}
