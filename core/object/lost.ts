// cold path: once per report, and only where blocks are lost.
import { BLOCKS_PER_UNIT } from "../base/units.ts";
import { SlotState, type SlotZone } from "../store/store.ts";
import type { ObjectStore } from "./object-store.ts";
import { OverlayKind } from "./overlay.ts";

/** A block of which no replica has a whole copy, and that nobody wrote since. */
export interface LostBlock {
  readonly row: number;
  readonly layer: number;
  readonly block: number;
  readonly snapSeq: number;
}

/**
 * Count the lost blocks of a shard, and list the first `max` of them.
 *
 * Looks only at zones that may hold some: nothing is counted on the data path.
 */
export function findLost(
  objects: ObjectStore,
  max: number,
): { count: number; blocks: LostBlock[] } {
  const blocks: LostBlock[] = [];
  let count = 0;
  objects.slots.zones.forEach((zone, number) => {
    if (!zone.holdsLost) return;
    const before = count;
    for (let index = 0; index < objects.slots.geometry.unitsPerZone; index++) {
      const bits = lostBitsOf(objects, zone, objects.slots.slotAt(number, index), index);
      for (let bit = 0; bit < BLOCKS_PER_UNIT && bits !== 0; bit++) {
        if (((bits >>> bit) & 1) === 0) continue;
        count += 1;
        if (blocks.length < max) blocks.push(describe(objects, zone, index, bit));
      }
    }
    zone.holdsLost = count > before;
  });
  return { count, blocks };
}

/** What the overlay says of a block counts before what the unit says. */
function lostBitsOf(objects: ObjectStore, zone: SlotZone, slot: number, index: number): number {
  const state: SlotState = zone.state[index]!;
  if (state !== SlotState.Live && state !== SlotState.Forming) return 0;
  const newer = zone.overlayBits[index]!;
  let bits = zone.lostBits[index]! & ~newer;
  for (let bit = 0; bit < BLOCKS_PER_UNIT && newer !== 0; bit++) {
    if (((newer >>> bit) & 1) === 0) continue;
    const at = objects.overlay.find(slot, bit);
    if (at >= 0 && objects.overlay.kind(at) === OverlayKind.Lost) bits |= 1 << bit;
  }
  return bits;
}

function describe(objects: ObjectStore, zone: SlotZone, index: number, bit: number): LostBlock {
  return {
    row: zone.row[index]!,
    layer: objects.slots.layers.idOf(zone.layer[index]!),
    block: zone.unit[index]! * BLOCKS_PER_UNIT + bit,
    snapSeq: zone.snapSeq[index]!,
  };
}
