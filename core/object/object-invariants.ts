// cold path: for `verifying` runs, once per checkpoint.
import { assert } from "../base/assert.ts";
import { BLOCKS_PER_UNIT } from "../base/units.ts";
import { SlotState } from "../store/store.ts";
import type { ObjectStore } from "./object-store.ts";
import { OverlayKind } from "./overlay.ts";

/**
 * Check what `Overlay` promises: its entries and the bits of the slots are the same blocks, each of a
 * unit in use, of an index that is applied (`appliedOf` its row), with its bytes in log blocks
 * [`from`, `to`).
 */
export function checkOverlay(
  objects: ObjectStore,
  from: number,
  to: number,
  appliedOf: (row: number) => number,
): void {
  const { overlay, slots } = objects;
  let count = 0;
  for (let at = 0; at < overlay.capacity; at++) {
    const key = overlay.keyAt(at);
    if (key < 0) continue;
    count += 1;
    const slot = Math.floor(key / BLOCKS_PER_UNIT);
    const bit = key % BLOCKS_PER_UNIT;
    const zone = slots.zoneOf(slot);
    const index = slots.indexOf(slot);
    const state = slots.stateOf(slot);
    const isKept = state === SlotState.Live || state === SlotState.Forming;
    assert(isKept, "Overlay: a block of a unit that is not in use");
    assert(
      ((zone.overlayBits[index]! >>> bit) & 1) === 1,
      "Overlay: a block that no slot knows of",
    );
    assert(overlay.find(slot, bit) === at, "Overlay: an entry is not where its key leads");
    const isApplied = overlay.version(at) <= appliedOf(zone.row[index]!);
    assert(isApplied, "Overlay: a block of an entry that is not applied");
    const position = overlay.position(at);
    assert(position >= from, "Overlay: the tail passed a block that is not home");
    const isData = overlay.kind(at) === OverlayKind.Data;
    assert(!isData || position < to, "Overlay: a block past the head of the log");
  }
  assert(count === overlay.count, "Overlay: the count is wrong");
  assert(count === bitsOf(objects), "Overlay: a slot knows of a block that is not there");
}

/** Blocks of the overlay, as the slots have it. */
function bitsOf({ slots }: ObjectStore): number {
  let count = 0;
  for (const zone of slots.zones) {
    for (let index = 0; index < zone.state.length; index++) {
      const state = zone.state[index];
      if (state !== SlotState.Live && state !== SlotState.Forming) continue;
      for (let bits = zone.overlayBits[index]!; bits !== 0; bits &= bits - 1) count += 1;
    }
  }
  return count;
}
