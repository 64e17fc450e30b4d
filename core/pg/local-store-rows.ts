// cold path: work in the background that looks at many units at once.
import { FastblockError } from "../base/errors.ts";
import { BLOCKS_PER_UNIT } from "../base/units.ts";
import type { ObjectStore } from "../object/object.ts";
import { NONE, PageHolds, type PageHoldsOwner, type PageLoader } from "../store/store.ts";

/** Names a unit of a layer as a reader at `snapSeq` sees it. */
export interface UnitName {
  readonly layer: number;
  readonly unit: number;
  readonly snapSeq: number;
}

/**
 * Do something in one turn for which the rows of units have to be in memory, all at once. They are
 * loaded, and held until it is done: `used` frames may pass `capacity` by as many as there are units.
 *
 * Rejects with FB4009 when the device fails.
 */
export async function withUnits<T>(
  objects: ObjectStore,
  loader: PageLoader,
  row: number,
  units: readonly UnitName[],
  body: () => T,
): Promise<T> {
  const gathering = new Gathering(objects, loader);
  for (;;) {
    gathering.add(row, units);
    if (gathering.isReady) {
      try {
        return body();
      } finally {
        gathering.end();
      }
    }
    await gathering.wait();
    // What a unit shows may lie elsewhere by now.
  }
}

class Gathering implements PageHoldsOwner {
  private readonly objects: ObjectStore;
  private readonly holds: PageHolds;
  private wake: (() => void) | null = null;

  constructor(objects: ObjectStore, loader: PageLoader) {
    this.objects = objects;
    this.holds = new PageHolds(objects.slots, loader, this);
  }

  get isReady(): boolean {
    return this.holds.pending === 0;
  }

  add(row: number, units: readonly UnitName[]): void {
    let before: number = NONE;
    for (const { layer, unit, snapSeq } of units) {
      this.objects.openUnit(layer, unit, snapSeq, row);
      for (let bit = 0; bit < BLOCKS_PER_UNIT; bit++) {
        this.objects.blockAt(bit);
        const slot = this.objects.sourceSlot;
        if (slot === NONE || slot === before) continue;
        before = slot;
        this.holds.add(slot);
      }
    }
  }

  async wait(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.wake = resolve;
    });
    if (!this.holds.failed) return;
    this.holds.release();
    throw new FastblockError("FB4009", "reading the index failed: the device has failed");
  }

  onPagesHeld(): void {
    this.wake?.();
  }

  end(): void {
    this.holds.release();
  }
}
