/** G10: a catalogue that comes from a backup. */
import { expect, test } from "bun:test";
import type { Epoch, OsdId } from "../base/ids.ts";
import { silentLogger } from "../base/logger.ts";
import type { OsdInfo } from "../cluster/cluster.ts";
import type { Catalogue } from "./catalogue.ts";
import { MemoryMetaStore } from "./memory-store.ts";
import { stoppedTimers, takeOffice } from "./office-harness.ts";
import { OldCopy } from "./old-copy.ts";

const [A, B] = [1 as OsdId, 2 as OsdId];

interface Begun {
  readonly catalogue: Catalogue;
  readonly copies: OldCopy;
  readonly clock: { us: number };
}

/** A monitor begins with what is in the store. */
async function begin(store: MemoryMetaStore, restored: boolean): Promise<Begun> {
  const { catalogue } = await takeOffice(store, "mon.a");
  const clock = { us: 0 };
  const options = { catalogue, logger: silentLogger, nowUs: () => clock.us, onRaised: () => {} };
  const copies = new OldCopy(options);
  await copies.begin(restored);
  return { catalogue, copies, clock };
}

function osd(id: OsdId, up: boolean): OsdInfo {
  const changeEpoch = 0 as Epoch;
  const place = { storeUuid: `store-${String(id)}`, host: "a", addresses: [] };
  return { id, ...place, up, in: true, weight: 1, changeEpoch };
}

/** A store with two osds that are up, and one that is down. */
async function backup(): Promise<MemoryMetaStore> {
  const store = new MemoryMetaStore(stoppedTimers);
  const { catalogue } = await begin(store, false);
  const osds = [osd(A, true), osd(B, true), osd(3 as OsdId, false)];
  await catalogue.change((change) => change.changeMap({ osds }));
  return store.copy(stoppedTimers);
}

function allocate({ catalogue }: Begun): Promise<number> {
  return catalogue.change((change) => change.allocate("session"));
}

const HELD = { code: "FB1015" };
const reasonOf = (error: unknown): unknown => error;

test("whoever shows a newer map holds the catalogue; an older one, or the same, does not", async () => {
  const office = await begin(await backup(), false);
  await office.copies.hear(A, { generation: 1, epoch: 2 });
  office.copies.note({ generation: 0, epoch: 0 });
  expect(await allocate(office)).toBe(1);
  office.copies.note({ generation: 1, epoch: 3 });
  expect(office.copies.ahead).toEqual({ generation: 1, epoch: 3 });
  expect(await allocate(office).catch(reasonOf)).toMatchObject(HELD);
});

test("a restored catalogue hears all osds that are up, then passes them all", async () => {
  const office = await begin(await backup(), true);
  expect(await allocate(office).catch(reasonOf)).toMatchObject(HELD);
  await office.copies.hear(A, { generation: 4, epoch: 7 });
  expect(office.copies.waitsFor).toEqual([B]);
  expect(await allocate(office).catch(reasonOf)).toMatchObject(HELD);
  await office.copies.hear(B, { generation: 1, epoch: 9 });
  expect(office.catalogue.map.generation).toBe(5 as never);
  expect(office.copies.ahead).toBeUndefined();
  expect(await allocate(office)).toBeGreaterThan(4 * 4_294_967_296);
});

test("osds that do not come are waited for 10 s", async () => {
  const office = await begin(await backup(), true);
  office.clock.us = 9_000_000;
  await office.copies.tick();
  expect(await allocate(office).catch(reasonOf)).toMatchObject(HELD);
  office.clock.us = 10_000_000;
  await office.copies.tick();
  expect(office.catalogue.map.generation).toBe(2 as never);
});

test("the same backup restored twice gives out no id twice, however often it did before", async () => {
  const store = await backup();
  const given = new Set<number>();
  let generation = 1;
  for (let times = 1; times <= 4; times++) {
    const office = await begin(store.copy(stoppedTimers), true);
    for (const id of [A, B]) await office.copies.hear(id, { generation, epoch: 99 });
    for (let count = 0; count < 3; count++) given.add(await allocate(office));
    expect(given.size).toBe(3 * times);
    generation = office.catalogue.map.generation;
    expect(generation).toBe(times + 1);
  }
});

test("a monitor that dies before it was heard goes on with it, without being told again", async () => {
  const store = await backup();
  await begin(store, true);
  const again = store.copy(stoppedTimers);
  const office = await begin(again, false);
  expect(await allocate(office).catch(reasonOf)).toMatchObject(HELD);
  for (const id of [A, B]) await office.copies.hear(id, { generation: 1, epoch: 9 });
  expect(office.catalogue.map.generation).toBe(2 as never);
  const next = await begin(again.copy(stoppedTimers), false);
  expect(next.catalogue.map.generation).toBe(2 as never);
  expect(await allocate(next)).toBeGreaterThan(4_294_967_296);
});

test("lock epochs jump too: a holder that was forgotten is fenced by the next one", async () => {
  const office = await begin(await backup(), true);
  for (const id of [A, B]) await office.copies.hear(id, { generation: 1, epoch: 9 });
  const next = office.catalogue.nextLockEpoch({ lockEpoch: 3 } as never);
  expect(next).toBeGreaterThan(65_536);
});
