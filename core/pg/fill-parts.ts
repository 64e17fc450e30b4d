// cold path: a replica is filled in rounds of milliseconds.
/** What `fill.ts` works with: a unit on its way into the store, the slots that were seen, bits. */
import type { Status } from "../base/status.ts";
import { BLOCK_SIZE, BLOCKS_PER_UNIT } from "../base/units.ts";
import type { World } from "../reactor/world.ts";
import { BlockState, type LocalStore, StoreFillOp, type UnitState } from "./local-store.ts";

/** The blocks of one unit on their way into the store. */
export class UnitFillOp extends StoreFillOp {
  private readonly world: World;
  private readonly store: LocalStore;
  private resolve: ((status: Status) => void) | null = null;

  /** `theirs`: what the unit is at the leader as of index `at`. */
  constructor(world: World, store: LocalStore, theirs: UnitState, row: number, at: number) {
    super();
    this.world = world;
    this.store = store;
    this.row = row;
    this.layer = theirs.layer;
    this.unit = theirs.unit;
    this.snapSeq = theirs.snapSeq;
    this.at = at;
    this.states.set(theirs.states);
    this.versions.set(theirs.versions);
    this.crcs.set(theirs.crcs);
  }

  /** Take the blocks `gone` out; `data` says which blocks the slot holds, packed. */
  drop(gone: number, data: number): void {
    if (gone === 0) return;
    const { bytes } = this.world.arena;
    let from = this.arenaOffset;
    let to = from;
    for (let block = 0; block < BLOCKS_PER_UNIT; block++) {
      if ((data & (1 << block)) === 0) continue;
      if ((gone & (1 << block)) === 0) {
        if (to !== from) bytes.copyWithin(to, from, from + BLOCK_SIZE);
        to += BLOCK_SIZE;
      }
      from += BLOCK_SIZE;
    }
    this.mask &= ~gone;
  }

  /** Log the blocks and put them in place; the slot must stay until this resolves. */
  place(): Promise<Status> {
    return new Promise((resolve) => {
      this.resolve = resolve;
      this.store.fill(this);
    });
  }

  override onDone(): void {
    this.resolve!(this.status);
  }

  /** Give the slot back. */
  release(): void {
    if (this.arenaOffset < 0) return;
    this.world.slots.release(this.arenaOffset);
    this.arenaOffset = -1;
  }
}

/** A set of slot ids: one bit each. */
export class SlotSet {
  private words = new Uint32Array(1024);

  add(slot: number): void {
    const word = slot >>> 5;
    if (word >= this.words.length) {
      const grown = new Uint32Array(Math.max(this.words.length * 2, word + 1));
      grown.set(this.words);
      this.words = grown;
    }
    this.words[word] = this.words[word]! | (1 << (slot & 31));
  }

  has(slot: number): boolean {
    const word = slot >>> 5;
    return word < this.words.length && ((this.words[word]! >>> (slot & 31)) & 1) === 1;
  }

  clear(): void {
    this.words.fill(0);
  }
}

/** The blocks of a unit that hold data. */
export function dataBits(unit: UnitState): number {
  let bits = 0;
  for (let block = 0; block < BLOCKS_PER_UNIT; block++) {
    if (unit.states[block]! === BlockState.Data) bits |= 1 << block;
  }
  return bits;
}

/** How many bits are set. */
export function bitCount(bits: number): number {
  let count = 0;
  for (let rest = bits; rest !== 0; rest &= rest - 1) count += 1;
  return count;
}
