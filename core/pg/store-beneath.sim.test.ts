import { drainMicrotasks } from "bun:jsc";
import { expect, test } from "bun:test";
import { silentLogger } from "../base/logger.ts";
import { Status } from "../base/status.ts";
import { EntryType } from "../log/log.ts";
import { SystemChecksum } from "../reactor/bun-system.ts";
import { Machine } from "./machine-harness.ts";
import { Beneath, type SpaceBeneath } from "./local-store.ts";
import type { StoreRig } from "./store-harness.ts";

/** A sparse file on a file system that has less than the file promises. */
const MIB = 1024 * 1024;
const RUNTIME = { drainMicrotasks, checksum: new SystemChecksum() };
/** Longer than between two looks of a store that rests. */
const LOOK_US = 600_000;

/** Whether an entry may be proposed. */
function takes(rig: StoreRig, row: number, type: EntryType): boolean {
  const entry = rig.store.entries.take();
  entry.type = type;
  entry.layer = 5;
  entry.firstBlock = 0;
  entry.blocks = 1;
  const isFull = rig.store.isFull;
  expect(rig.store.reserve(row, entry, isFull)).toBe(Status.Ok);
  const takesSpace = rig.store.takesSpace(entry);
  rig.store.unreserve(entry);
  rig.store.entries.release(entry);
  return !(isFull && takesSpace);
}

test("G13: a store is full when the file system beneath is, and has space again with it", async () => {
  const machine = await Machine.make(1, RUNTIME, 256 * MIB, 4 * MIB);
  const rig = await machine.open({});
  const row = await rig.create(65_537);
  rig.store.finishRecovery();
  const file = machine.simulation.disk("disk");
  const look = (): boolean => {
    machine.simulation.run(machine.simulation.nowUs + LOOK_US);
    // The time of a turn is what counts.
    machine.world.turns.again();
    machine.simulation.run(machine.simulation.nowUs + LOOK_US);
    return rig.store.isFull;
  };
  const told = (): SpaceBeneath | null => rig.store.usage().beneath;
  expect([look(), told()]).toEqual([false, null]);
  file.bytesBeneath = 200 * MIB;
  expect([look(), takes(rig, row, EntryType.Write)]).toEqual([false, true]);
  expect(told()).toEqual({ state: Beneath.Enough, freeBytes: 192 * MIB, path: "disk" });
  file.bytesBeneath = 60 * MIB;
  expect([look(), told()?.state]).toEqual([false, Beneath.Near]);
  file.bytesBeneath = 30 * MIB;
  expect([look(), takes(rig, row, EntryType.Write)]).toEqual([true, false]);
  expect(told()).toEqual({ state: Beneath.Short, freeBytes: 30 * MIB, path: "disk" });
  // What gives space back goes on.
  expect(takes(rig, row, EntryType.Zero)).toBe(true);
  // A little more is not enough, or replicas would say both in turns.
  file.bytesBeneath = 40 * MIB;
  expect(look()).toBe(true);
  file.bytesBeneath = 60 * MIB;
  expect([look(), told()?.state]).toEqual([false, Beneath.Near]);
  file.bytesBeneath = 100 * MIB;
  expect([look(), takes(rig, row, EntryType.Write)]).toEqual([false, true]);
});

test("G13: a store that rests looks beneath it twice a second, and one that is written to at once", async () => {
  const machine = await Machine.make(3, RUNTIME, 256 * MIB, 4 * MIB);
  const rig = await machine.open({});
  const row = await rig.create(65_537);
  rig.store.finishRecovery();
  let looks = 0;
  const file = machine.simulation.disk("disk");
  let bytes = Number.POSITIVE_INFINITY;
  Object.defineProperty(file, "bytesBeneath", { get: () => ((looks += 1), bytes) });
  /** Wake up as often as a shard does for its heartbeats. Answers the looks of a second. */
  const second = (): number => {
    const before = looks;
    for (let turn = 0; turn < 10; turn++) {
      machine.world.turns.again();
      machine.simulation.run(machine.simulation.nowUs + 100_000);
      expect(rig.store.isFull).toBe(false);
    }
    return looks - before;
  };
  // Its first checkpoint writes, which asks as well.
  for (let at = 0; at < 5; at++) second();
  for (let at = 0; at < 3; at++) expect(second()).toBeWithin(1, 4);
  const place = { layer: 5, firstBlock: 0, blocks: 1, snapSeq: 0 };
  const entry = { index: 1, term: 1, type: EntryType.Zero, ...place, stamp: 1, data: null };
  expect(rig.append(row, entry)).toBe(Status.Ok);
  // Half of the second.
  expect(second()).toBeWithin(5, 12);
  for (let at = 0; at < 5; at++) second();
  expect(second()).toBeWithin(1, 4);
  // With little of it a store does not rest.
  bytes = 512 * MIB;
  second();
  expect(second()).toBeGreaterThan(8);
});

test("G13: a store is full while writes wait for space that is told to be there", async () => {
  const machine = await Machine.make(2, RUNTIME, 256 * MIB, 4 * MIB);
  const rig = await machine.open({ logger: silentLogger });
  const row = await rig.create(65_537);
  rig.store.finishRecovery();
  const file = machine.simulation.disk("disk");
  const pass = (): void => {
    machine.simulation.run(machine.simulation.nowUs + LOOK_US);
    machine.world.turns.again();
    machine.simulation.run(machine.simulation.nowUs + LOOK_US);
  };
  file.faults.noSpace = true;
  const place = { layer: 5, firstBlock: 0, blocks: 16, snapSeq: 0 };
  const entry = { index: 1, term: 1, type: EntryType.Write, ...place, stamp: 1, data: null };
  expect(rig.append(row, entry)).toBe(Status.Ok);
  for (let look = 0; look < 20; look++) {
    pass();
    expect([look, takes(rig, row, EntryType.Write)]).toEqual([look, false]);
  }
  expect(takes(rig, row, EntryType.Zero)).toBe(true);
  expect([rig.owner.starved, rig.owner.failed]).toEqual([1, ""]);
  expect(rig.store.durableIndex(row)).toBe(0);
  file.faults.noSpace = false;
  await rig.until(() => rig.store.durableIndex(row) === 1, "durable");
  for (let look = 0; look < 10; look++) pass();
  expect(takes(rig, row, EntryType.Write)).toBe(true);
});
