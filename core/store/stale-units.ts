// data path
import { SLOTS_PER_PAGE } from "./slot-codec.ts";
import type { SlotTable } from "./slot-table.ts";
import { SlotFlag, SlotState, type SlotZone } from "./slot-zone.ts";

/**
 * Free units that still hold space beneath, and the one range of them that is being given back.
 *
 * What is free nobody can need the content of: it may be overwritten, and so it may be discarded.
 * Whoever takes a stale unit makes it one in use, and it is no longer looked at; a unit that is being
 * discarded is not free, so nobody takes it. Nothing of this is on disk.
 */
export class StaleUnits {
  /** The range: a slot, and how many units from it on; 0: none. */
  first = 0;
  count = 0;
  private readonly table: SlotTable;
  private zoneNumber = 0;
  private index = 0;

  constructor(table: SlotTable) {
    this.table = table;
  }

  // cold: once per start.
  /**
   * What was freed by earlier starts is free and nothing more: all that is free now counts as stale,
   * but where the index was never written, and so no unit was used.
   */
  begin(): void {
    for (const zone of this.table.zones) this.beginZone(zone);
  }

  // cold: once per zone and start.
  private beginZone(zone: SlotZone): void {
    const { unitsPerZone } = this.table.geometry;
    for (let page = 0; page < zone.pageCount; page++) {
      if (zone.pageCrc[page] === 0) continue;
      this.table.openZone(zone);
      const end = Math.min(unitsPerZone, (page + 1) * SLOTS_PER_PAGE);
      for (let index = page * SLOTS_PER_PAGE; index < end; index++) {
        if (zone.state[index] === SlotState.Free) this.table.markStale(zone, index);
      }
    }
  }

  /**
   * Make the next range of at most `max` neighbours, and keep it from being used. False when there is
   * none. Requires: no range, `max` ≥ 1.
   */
  take(max: number): boolean {
    const { zones } = this.table;
    for (let step = 0; step <= zones.length; step++) {
      const zone = zones[this.zoneNumber]!;
      if (zone.holdsStale && this.takeOf(zone, max)) return true;
      this.zoneNumber = (this.zoneNumber + 1) % zones.length;
      this.index = 0;
    }
    // The zone at which this began was gone through as the last one too, from its beginning on.
    this.table.holdsStale = false;
    return false;
  }

  private takeOf(zone: SlotZone, max: number): boolean {
    const end = this.table.geometry.unitsPerZone;
    const from = this.index;
    let index = from;
    while (index < end && !isStale(zone, index)) index += 1;
    if (index === end) {
      if (from === 0) zone.holdsStale = false;
      return false;
    }
    this.first = this.table.slotAt(this.zoneNumber, index);
    while (index < end && this.count < max && isStale(zone, index)) {
      this.table.beginDiscard(zone, index);
      this.count += 1;
      index += 1;
    }
    this.index = index;
    return true;
  }

  /** The range may be used again; `stays`: it is stale as before. */
  giveBack(stays: boolean): void {
    const zone = this.table.zoneOf(this.first);
    const index = this.table.indexOf(this.first);
    for (let at = index; at < index + this.count; at++) {
      this.table.endDiscard(zone, at);
      if (stays) this.table.markStale(zone, at);
    }
    this.count = 0;
  }
}

function isStale(zone: SlotZone, index: number): boolean {
  return zone.state[index] === SlotState.Free && (zone.flags[index]! & SlotFlag.Stale) !== 0;
}
