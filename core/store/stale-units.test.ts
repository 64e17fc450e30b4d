import { expect, test } from "bun:test";
import { geometryOf } from "./geometry.ts";
import { NONE } from "./layer-table.ts";
import { SlotTable } from "./slot-table.ts";
import { StaleUnits } from "./stale-units.ts";

const MIB = 1024 * 1024;

function table(zones: number): SlotTable {
  const geometry = geometryOf(256 * MIB);
  return new SlotTable(
    geometry,
    Array.from({ length: zones }, (_, zone) => zone * geometry.zoneSize),
  );
}

function takeAll(slots: SlotTable): number[] {
  const taken: number[] = [];
  for (let slot = slots.takeUnit(); slot !== NONE; slot = slots.takeUnit()) taken.push(slot);
  return taken;
}

function free(slots: SlotTable, slot: number): void {
  slots.quarantine(slot, 1);
  slots.release(slot);
}

test("a range is nobody's while it is discarded, and anybody's afterwards", () => {
  const slots = table(2);
  const stale = new StaleUnits(slots);
  const all = takeAll(slots);
  for (const slot of all) free(slots, slot);
  expect(stale.take(10)).toBe(true);
  const range = Array.from({ length: 10 }, (_, at) => stale.first + at);
  expect([slots.freeUnits, slots.discarding]).toEqual([all.length - 10, 10]);
  // Nor is it given to who asks for the neighbour of a unit.
  expect(range).not.toContain(slots.takeUnitAfter(stale.first));
  const others = takeAll(slots);
  expect(others.filter((slot) => range.includes(slot))).toEqual([]);
  expect(slots.freeUnits).toBe(0);
  stale.giveBack(false);
  expect([slots.freeUnits, slots.discarding]).toEqual([10, 0]);
  expect(takeAll(slots)).toEqual(range);
});

test("every stale unit is found once, in ranges of neighbours; one that is taken is stale no more", () => {
  const slots = table(3);
  const stale = new StaleUnits(slots);
  const all = takeAll(slots);
  expect(stale.take(1000)).toBe(false);
  const freed = all.filter((_, at) => at % 7 !== 0);
  for (const slot of freed) free(slots, slot);
  const taken = [slots.takeUnit(), slots.takeUnit()];
  const found: number[] = [];
  let ranges = 0;
  while (stale.take(4)) {
    expect(stale.count).toBeWithin(1, 5);
    for (let at = 0; at < stale.count; at++) found.push(stale.first + at);
    stale.giveBack(false);
    ranges += 1;
  }
  expect(found.toSorted((a, b) => a - b)).toEqual(freed.filter((slot) => !taken.includes(slot)));
  expect(ranges).toBeLessThan(found.length / 2);
  expect(slots.holdsStale).toBe(false);
});

test("what was not given back stays stale, and is found again", () => {
  const slots = table(1);
  const stale = new StaleUnits(slots);
  const unit = slots.takeUnit();
  free(slots, unit);
  for (const stays of [true, true, false]) {
    expect([stale.take(8), stale.first, stale.count]).toEqual([true, unit, 1]);
    stale.giveBack(stays);
  }
  expect(stale.take(8)).toBe(false);
});

test("at a start all free units are stale where the index was written, and no others", () => {
  const slots = table(2);
  const stale = new StaleUnits(slots);
  slots.zones[1]!.pageCrc[1] = 77;
  stale.begin();
  expect(slots.zones.map((zone) => zone.opened)).toEqual([false, true]);
  expect([stale.take(100), stale.first, stale.count]).toEqual([true, slots.slotAt(1, 16), 16]);
  stale.giveBack(false);
  expect(stale.take(100)).toBe(false);
});
