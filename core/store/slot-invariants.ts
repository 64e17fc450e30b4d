// cold path: for `verifying` runs, once per checkpoint.
import { assert } from "../base/assert.ts";
import { NONE } from "./layer-table.ts";
import type { Quarantine } from "./quarantine.ts";
import type { SlotTable } from "./slot-table.ts";
import { SlotFlag, SlotState, type SlotZone } from "./slot-zone.ts";

/** Of the slots that are in chains, one in so many is looked for there. */
const SAMPLE_STEP = 61;
const STATES: number = SlotState.Discarding + 1;

/** How many slots there are in each state (by `SlotState`), as the states themselves tell. */
export interface SlotCounts {
  readonly units: Uint32Array;
  /** Slots without a unit. */
  readonly holes: Uint32Array;
  stale: number;
}

/**
 * Check what `SlotTable` and `Quarantine` promise: every count is that of the slots in that state. Some
 * slots, others each time (`turn`), are looked for in their chains. Looks at every slot of the zones in
 * use.
 */
export function checkSlots(table: SlotTable, quarantine: Quarantine, turn: number): SlotCounts {
  const counts = emptyCounts();
  const ofRows = new Map<number, number>();
  for (const zone of table.zones) checkZone(table, zone, counts, ofRows);
  const { units, holes, stale } = counts;
  const quarantined = units[SlotState.Quarantined]! + holes[SlotState.Quarantined]!;
  assert(units[SlotState.Free] === table.freeUnits, "SlotTable: free units, wrong count");
  assert(holes[SlotState.Free] === table.freeHoles, "SlotTable: free holes, wrong count");
  assert(quarantined === table.quarantined, "SlotTable: in quarantine, wrong count");
  assert(units[SlotState.Discarding] === table.discarding, "SlotTable: discarded, wrong count");
  assert(stale === table.staleUnits, "SlotTable: stale units, wrong count");
  for (const [row, count] of ofRows) {
    assert(count === table.unitsOfRow(row), "SlotTable: units of a row, wrong count");
  }
  checkChains(table, turn % SAMPLE_STEP);
  quarantine.invariants();
  return counts;
}

function emptyCounts(): SlotCounts {
  return { units: new Uint32Array(STATES), holes: new Uint32Array(STATES), stale: 0 };
}

function checkZone(
  table: SlotTable,
  zone: SlotZone,
  all: SlotCounts,
  ofRows: Map<number, number>,
): void {
  const { unitsPerZone, slotsPerZone } = table.geometry;
  const { units, holes } = emptyCounts();
  let stale = 0;
  if (!zone.opened) {
    units[SlotState.Free] = unitsPerZone;
    holes[SlotState.Free] = slotsPerZone - unitsPerZone;
  }
  for (let index = 0; index < zone.state.length; index++) {
    const counts = index < unitsPerZone ? units : holes;
    const state = zone.state[index]!;
    counts[state] = counts[state]! + 1;
    const isStale = (zone.flags[index]! & SlotFlag.Stale) !== 0;
    if (state === SlotState.Free && isStale) stale += 1;
    if (state !== SlotState.Live && state !== SlotState.Forming) continue;
    assert(counts === units, "SlotZone: a slot without a unit has blocks");
    const row = zone.row[index]!;
    ofRows.set(row, (ofRows.get(row) ?? 0) + 1);
  }
  assert(units[SlotState.Free] === zone.freeUnits, "SlotZone: free units, wrong count");
  assert(holes[SlotState.Free] === zone.freeHoles, "SlotZone: free holes, wrong count");
  assert(stale === 0 || zone.holdsStale, "SlotZone: it has stale units, and denies it");
  all.stale += stale;
  units.forEach((count, state) => (all.units[state] = all.units[state]! + count));
  holes.forEach((count, state) => (all.holes[state] = all.holes[state]! + count));
}

/** Some of the slots that have a key are found under it, in a chain that falls strictly. */
function checkChains(table: SlotTable, first: number): void {
  for (let number = 0; number < table.zones.length; number++) {
    const zone = table.zones[number]!;
    for (let index = first; index < zone.state.length; index += SAMPLE_STEP) {
      const state = zone.state[index]!;
      const isHole = state === SlotState.Hole;
      if (!isHole && state !== SlotState.Live && state !== SlotState.Forming) continue;
      const slot = table.slotAt(number, index);
      const layer = zone.layer[index]!;
      const unit = zone.unit[index]!;
      const snapSeq = zone.snapSeq[index]!;
      const found = isHole
        ? table.exactHole(layer, unit, snapSeq, zone.row[index]!)
        : table.exact(layer, unit, snapSeq);
      assert(found === slot, "SlotTable: a slot is not where its key leads");
      const older = table.olderOf(slot);
      const falls = older === NONE || table.snapSeqOf(older) < snapSeq;
      assert(falls, "SlotTable: along a chain snapSeq does not fall");
    }
  }
}
