import { expect, test } from "bun:test";
import { BLOCKS_PER_UNIT } from "../base/units.ts";
import { geometryOf, Quarantine, SlotTable } from "../store/store.ts";
import { ObjectStore, unitsForZero, zeroRange } from "./object.ts";

const MIB = 1024 * 1024;
const LAYER = 7;
const OWN = 1;
const OTHER = 2;
/** 1 TiB of blocks. */
const WIDE = 2 ** 28;

/** Counts what is looked up. */
class CountingTable extends SlotTable {
  lookups = 0;

  override newestUpTo(layer: number, unit: number, snapSeq: number): number {
    this.lookups += 1;
    return super.newestUpTo(layer, unit, snapSeq);
  }
}

function objectsWith(units: ReadonlyMap<number, number>): ObjectStore {
  const geometry = geometryOf(256 * MIB);
  const offsets = Array.from({ length: 8 }, (_, at) => geometry.zonesOffset + at * 4 * MIB);
  const slots = new CountingTable(geometry, offsets);
  const objects = new ObjectStore(slots, new Quarantine(slots), { nextSeq: 1 }, 1024);
  for (const [unit, row] of units) {
    const slot = objects.slotForWrite(row, LAYER, unit, 0, 1);
    objects.putBlock(slot, 0, unit, 1, 5);
  }
  return objects;
}

/** The units that are left, of both groups. */
function left(objects: ObjectStore, units: Iterable<number>): number[] {
  const handle = objects.slots.layers.find(LAYER);
  return [...units].filter((unit) => objects.slots.exact(handle, unit, 0) !== 0xffff_ffff);
}

/** Every third unit is the other group's. */
const UNITS = new Map(
  Array.from({ length: 90 }, (_, at) => [at * 1000, at % 3 === 0 ? OTHER : OWN]),
);

test("a zero over a wide range looks at what the group has, and at nothing else", () => {
  const objects = objectsWith(UNITS);
  const slots = objects.slots as CountingTable;
  const before = slots.lookups;
  // From within unit 10,000 on: its first block stays.
  const first = 10_000 * BLOCKS_PER_UNIT + 1;
  expect(unitsForZero(objects, LAYER, first, WIDE, 0, OWN)).toBe(0);
  zeroRange(objects, OWN, LAYER, first, WIDE, 0, 2, 0);
  expect(slots.lookups - before).toBeLessThan(1000);
  const kept = [...UNITS].filter(([unit, row]) => row === OTHER || unit <= 10_000);
  expect(left(objects, UNITS.keys())).toEqual(kept.map(([unit]) => unit));
});

test("a zero over a few units, and one over many, leave the same", () => {
  for (const blocks of [64 * BLOCKS_PER_UNIT, 70_000 * BLOCKS_PER_UNIT + 3]) {
    const one = objectsWith(UNITS);
    const other = objectsWith(UNITS);
    zeroRange(one, OWN, LAYER, 5, blocks, 0, 2, 0);
    let block = 5;
    while (block < 5 + blocks) {
      const next = Math.min(
        5 + blocks,
        (Math.floor(block / BLOCKS_PER_UNIT) + 1) * BLOCKS_PER_UNIT,
      );
      zeroRange(other, OWN, LAYER, block, next - block, 0, 2, 0);
      block = next;
    }
    expect(left(one, UNITS.keys())).toEqual(left(other, UNITS.keys()));
    expect(one.slots.quarantined).toBe(other.slots.quarantined);
  }
});
