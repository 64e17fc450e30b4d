// data path
/** What entries may take of the space before they are applied, and zeroing of whole ranges. */
import { BLOCKS_PER_UNIT } from "../base/units.ts";
import { NONE, SlotState, UNITS_PER_HOLE } from "../store/store.ts";
import type { ObjectStore } from "./object-store.ts";

const ALL_BITS = 0xffff;
/** So many slots in a row are looked at in the time of one unit that is looked up. */
const SLOTS_PER_LOOKUP = 8;

/**
 * Units that a write of these blocks may take: one where there is none, or where what there is may
 * be freed before the write is applied (`freeing`, or because it is empty); with `direct` also one for each whole unit,
 * which is written into another one than it has.
 */
export function unitsForWrite(
  objects: ObjectStore,
  layer: number,
  firstBlock: number,
  blocks: number,
  snapSeq: number,
  freeing: boolean,
  direct: boolean,
): number {
  const handle = objects.slots.layers.find(layer);
  let units = 0;
  let block = firstBlock;
  const end = firstBlock + blocks;
  while (block < end) {
    const unit = Math.floor(block / BLOCKS_PER_UNIT);
    const next = Math.min(end, (unit + 1) * BLOCKS_PER_UNIT);
    const sure = freeing || (direct && next - block === BLOCKS_PER_UNIT);
    const slot = sure || handle === NONE ? NONE : objects.slots.exact(handle, unit, snapSeq);
    if (slot === NONE || objects.mayGo(slot)) units += 1;
    block = next;
  }
  return units;
}

/** Units that zeroing these blocks may take: for holes, and for partly zeroed older versions. */
export function unitsForZero(
  objects: ObjectStore,
  layer: number,
  firstBlock: number,
  blocks: number,
  snapSeq: number,
  row: number,
): number {
  const handle = objects.slots.layers.find(layer);
  if (handle === NONE) return 0;
  // Without snapshots and parents nothing shows through: what was zeroed takes no hole.
  if (snapSeq === 0 && objects.slots.layers.parentOf(handle) === NONE) return 0;
  let units = 0;
  let holeGroup = -1;
  let block = firstBlock;
  const end = firstBlock + blocks;
  while (block < end) {
    const unit = Math.floor(block / BLOCKS_PER_UNIT);
    const next = Math.min(end, (unit + 1) * BLOCKS_PER_UNIT);
    if (objects.isOthers(handle, unit, row)) {
      block = next;
      continue;
    }
    const exact = objects.slots.exact(handle, unit, snapSeq) !== NONE;
    if (next - block === BLOCKS_PER_UNIT || exact) {
      // Whole units, and units that empty by this zero, may become hole bits.
      const group = Math.floor(unit / UNITS_PER_HOLE);
      if (group !== holeGroup && mayNeedHole(objects, handle, unit, snapSeq, row)) {
        holeGroup = group;
        units += 1;
      }
    } else if (objects.showsThrough(handle, unit, snapSeq, row)) units += 1;
    block = next;
  }
  return units;
}

function mayNeedHole(
  objects: ObjectStore,
  handle: number,
  unit: number,
  snapSeq: number,
  row: number,
): boolean {
  if (objects.slots.exactHole(handle, unit, snapSeq, row) !== NONE) return false;
  return snapSeq > 0
    ? objects.showsThrough(handle, unit, snapSeq - 1, row)
    : objects.slots.layers.parentOf(handle) !== NONE;
}

/**
 * A range of blocks becomes zero; the other parameters: as of `ObjectStore.zero`.
 *
 * When an image shrinks, each of its groups is told the whole range, which may be far larger than
 * what there is: then the slots are gone through, and not the range.
 */
export function zeroRange(
  objects: ObjectStore,
  row: number,
  layer: number,
  firstBlock: number,
  blocks: number,
  snapSeq: number,
  version: number,
  position: number,
): void {
  const end = firstBlock + blocks;
  let block = firstBlock;
  while (block < end) {
    const unit = Math.floor(block / BLOCKS_PER_UNIT);
    const bit = block % BLOCKS_PER_UNIT;
    const count = Math.min(BLOCKS_PER_UNIT - bit, end - block);
    const units = Math.floor((end - block) / BLOCKS_PER_UNIT);
    if (bit === 0 && units > 0 && isWide(objects, layer, units)) {
      zeroSlots(objects, row, layer, unit, unit + units, snapSeq, version, position);
      block += units * BLOCKS_PER_UNIT;
      continue;
    }
    const mask = count === BLOCKS_PER_UNIT ? ALL_BITS : ((1 << count) - 1) << bit;
    objects.zero(row, layer, unit, mask, snapSeq, version, position);
    block += count;
  }
}

/** Whether going through the slots is quicker; a parent's units are not among them. */
function isWide({ slots }: ObjectStore, layer: number, units: number): boolean {
  const handle = slots.layers.find(layer);
  if (handle === NONE) return true;
  if (slots.layers.parentOf(handle) !== NONE) return false;
  return units * SLOTS_PER_LOOKUP > slots.unitsTotal;
}

/** Zero the units in [unit, end) that the group has something of, at any snapshot. */
function zeroSlots(
  objects: ObjectStore,
  row: number,
  layer: number,
  unit: number,
  end: number,
  snapSeq: number,
  version: number,
  position: number,
): void {
  const { slots } = objects;
  const handle = slots.layers.find(layer);
  let left = handle === NONE ? 0 : slots.unitsOfRow(row);
  const perZone = slots.geometry.unitsPerZone;
  for (let number = 0; number < slots.zones.length && left > 0; number++) {
    const zone = slots.zones[number]!;
    if (!zone.opened) continue;
    for (let index = 0; index < perZone && left > 0; index++) {
      if (zone.row[index] !== row) continue;
      const state = zone.state[index]!;
      if (state !== SlotState.Live && state !== SlotState.Forming) continue;
      left -= 1;
      const at = zone.unit[index]!;
      if (zone.layer[index] !== handle || at < unit || at >= end) continue;
      objects.zero(row, layer, at, ALL_BITS, snapSeq, version, position);
    }
  }
}
