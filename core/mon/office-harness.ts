import { expect } from "bun:test";
import type { MapDelta } from "../cluster/cluster.ts";
import type { Timer, Timers } from "../reactor/world.ts";
import { Catalogue } from "./catalogue.ts";
import { Leadership } from "./leadership.ts";
import type { MetaStore } from "./meta-store.ts";

/** Timers that never fire. */
export const stoppedTimers: Timers = {
  arm: (timer: Timer) => {
    timer.timerDueUs = 0;
  },
  armPeriod: (timer: Timer) => {
    timer.timerDueUs = 0;
  },
  disarm: (timer: Timer) => {
    timer.timerDueUs = -1;
  },
};

export const CLUSTER = "7d0b1f0a-1111-4222-8333-444455556666";

/** What a monitor that leads has of the catalogue. */
export interface Office {
  readonly catalogue: Catalogue;
  readonly leadership: Leadership;
  /** What it told of changes of the map. */
  readonly deltas: MapDelta[];
}

/** A monitor begins to lead with what is in the store. */
export async function takeOffice(store: MetaStore, name: string): Promise<Office> {
  const leadership = new Leadership(store, name);
  expect(await leadership.campaign()).toBe(true);
  const deltas: MapDelta[] = [];
  const catalogue = new Catalogue(
    store,
    () => leadership.fence(),
    (delta) => deltas.push(delta),
  );
  await catalogue.load(CLUSTER);
  return { catalogue, leadership, deltas };
}
