// data path
import { NONE, SlotState } from "../store/store.ts";
import type { ObjectStore } from "./object-store.ts";

/** Slots that one slice of the background scan looks at. */
const SCAN_SLICE = 8192;

/** A layer that is deleted in one group. */
interface Gone {
  readonly row: number;
  readonly layer: number;
  readonly version: number;
  next: number;
}

/** Layers that are deleted in a group: they show nothing, and are freed in the background. */
export class GoneLayers {
  private readonly tasks: Gone[] = [];

  get count(): number {
    return this.tasks.length;
  }

  // cold: once per deleted layer and group.
  /** A layer was deleted in a group: `scan` frees its slots. */
  add(row: number, layer: number, version: number): void {
    this.tasks.push({ row, layer, version, next: 0 });
  }

  /** Whether it is deleted, however far its slots are freed: the same on every replica. */
  has(row: number, layer: number): boolean {
    for (let at = 0; at < this.tasks.length; at++) {
      const task = this.tasks[at]!;
      if (task.row === row && task.layer === layer) return true;
    }
    return false;
  }

  /** The replica is removed, and all of it freed. */
  forget(row: number): void {
    for (let at = this.tasks.length - 1; at >= 0; at--) {
      if (this.tasks[at]!.row === row) this.tasks.splice(at, 1);
    }
  }

  /** One slice of the freeing. True while there is more to do. */
  scan(objects: ObjectStore): boolean {
    const task = this.tasks[0];
    if (task === undefined) return false;
    const { slots } = objects;
    const handle = slots.layers.find(task.layer);
    const perZone = slots.geometry.slotsPerZone;
    const end = handle === NONE ? 0 : slots.zones.length * perZone;
    const stop = Math.min(end, task.next + SCAN_SLICE);
    while (task.next < stop) {
      const zoneNumber = Math.floor(task.next / perZone);
      const zone = slots.zones[zoneNumber]!;
      if (!zone.opened) {
        task.next = (zoneNumber + 1) * perZone;
        continue;
      }
      const index = task.next % perZone;
      task.next += 1;
      if (!isKeyed(zone.state[index]!) || zone.row[index] !== task.row) continue;
      if (zone.layer[index] !== handle) continue;
      objects.free(slots.slotAt(zoneNumber, index), task.version);
      // The last slot of a layer gives its handle away: another layer may get it.
      if (slots.layers.find(task.layer) !== handle) task.next = end;
    }
    if (task.next >= end) {
      this.tasks.shift();
      slots.layers.dropParent(task.layer);
    }
    return this.tasks.length > 0;
  }
}

/** Whether a slot stands for something of a group: for a unit, or for holes. */
export function isKeyed(state: SlotState): boolean {
  return state === SlotState.Live || state === SlotState.Forming || state === SlotState.Hole;
}
