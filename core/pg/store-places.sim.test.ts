import { drainMicrotasks } from "bun:jsc";
import { expect, test } from "bun:test";
import { BLOCK_SIZE } from "../base/units.ts";
import { EntryType } from "../log/log.ts";
import { SystemChecksum } from "../reactor/bun-system.ts";
import { Machine } from "./machine-harness.ts";
import type { RigEntry, StoreRig } from "./store-harness.ts";
import { fsckStore, inspectStore } from "./store-tools.ts";

/** `osd inspect units | batches | entries`: what lies at the places that they name. */
const RUNTIME = { drainMicrotasks, checksum: new SystemChecksum() };
const MIB = 1024 * 1024;
const LAYER = 5;
const STILL = { moverStartPercent: 100, checkpointStartPercent: 100, idleMs: 1e9, vouchMs: 1e9 };

interface Place extends Record<string, unknown> {
  readonly offsetBytes: number;
  readonly pageOffsetBytes: number;
  readonly index: number;
  readonly inlineOffsetsBytes: number[];
  readonly unitOffsetsBytes: number[];
}

async function put(rig: StoreRig, row: number, index: number, first: number, blocks: number) {
  const entry: RigEntry = {
    index,
    term: 1,
    type: EntryType.Write,
    layer: LAYER,
    firstBlock: first,
    blocks,
    snapSeq: 0,
    stamp: index,
    data: null,
  };
  rig.append(row, entry);
  await rig.until(() => rig.store.durableIndex(row) === index, "durable");
  rig.apply(row, entry);
}

/** A store whose first entry is at home, and whose others are in the log. */
async function filled(seed: number): Promise<Machine> {
  const machine = await Machine.make(seed, RUNTIME, 256 * MIB, 4 * MIB);
  const rig = await machine.open({ tuning: STILL });
  const row = await rig.create(65_537);
  rig.store.finishRecovery();
  await put(rig, row, 1, 35, 2);
  rig.store.requestCheckpoint();
  await rig.until(() => rig.store.counters.checkpoints > 0, "checkpoint");
  // A part of a unit, a whole one, and a part of the next.
  await put(rig, row, 2, 110, 20);
  await put(rig, row, 3, 0, 1);
  await put(rig, row, 4, 1, 1);
  machine.crash();
  return machine;
}

async function places(machine: Machine, section: string): Promise<Place[]> {
  const told = await machine.tool((world, disk) => inspectStore(world, disk, section));
  return told[section] as Place[];
}

async function findings(machine: Machine): Promise<string[]> {
  const report = await machine.tool((world, disk) => fsckStore(world, disk));
  return report.findings.map((one) => `${one.region} at ${String(one.offsetBytes)}`);
}

test("units: a block and the page of its slot", async () => {
  const machine = await filled(1);
  const [unit] = await places(machine, "units");
  expect(unit).toMatchObject({ layer: LAYER, firstBlock: 32, version: 1, dataBits: 0b11000 });
  const block = unit!.offsetBytes + 3 * BLOCK_SIZE;
  machine.simulation.disk("disk").rot(block, 512);
  expect(await findings(machine)).toEqual([`data at ${String(block)}`]);
  machine.simulation.disk("disk").rot(unit!.pageOffsetBytes, 512);
  expect(await findings(machine)).toContain(`index at ${String(unit!.pageOffsetBytes)}`);
});

test("entries: the blocks of a payload, in the log and in units", async () => {
  const machine = await filled(2);
  const entries = await places(machine, "entries");
  const entry = entries.find((one) => one.index === 2)!;
  expect(entry).toMatchObject({ pg: 65_537, type: "Write", firstBlock: 110, applied: false });
  expect(entry.inlineOffsetsBytes).toHaveLength(4);
  expect(entry.unitOffsetsBytes).toHaveLength(1);
  machine.simulation.disk("disk").rot(entry.inlineOffsetsBytes[1]!, 512);
  expect(await findings(machine)).toEqual([`log at ${String(entry.inlineOffsetsBytes[0]!)}`]);
  const again = await places(machine, "entries");
  expect(again.filter((one) => one["faulty"] === true)).toMatchObject([{ index: 2 }]);
});

test("batches: a header in the middle of the log", async () => {
  const machine = await filled(3);
  const batches = await places(machine, "batches");
  expect(batches.length).toBeGreaterThan(2);
  const { offsetBytes } = batches.at(-3)!;
  machine.simulation.disk("disk").rot(offsetBytes, 512);
  expect((await findings(machine))[0]).toBe(`log at ${String(offsetBytes)}`);
});

test("a section that does not exist is refused, with the names of those that do", async () => {
  const machine = await filled(4);
  const told = machine.tool((world, disk) => inspectStore(world, disk, "unit"));
  const words = await told.then(String, String);
  expect(words).toMatch(/unit, wanted one of superblock, .*entries$/);
});

test("fsck tells of the block that can not be read, and not of those around it", async () => {
  const machine = await filled(6);
  const [unit] = await places(machine, "units");
  // Blocks 35 and 36 are the only ones of their unit.
  const bad = unit!.offsetBytes + 3 * BLOCK_SIZE;
  machine.simulation.disk("disk").spoil(bad, BLOCK_SIZE);
  const report = await machine.tool((world, disk) => fsckStore(world, disk));
  const text = "layer 5 block 35 version 1 can not be read";
  expect(report.findings).toEqual([{ region: "data", offsetBytes: bad, text }]);
});
