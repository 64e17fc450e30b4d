import { drainMicrotasks } from "bun:jsc";
import { describe, expect, test } from "bun:test";
import { Status } from "../base/status.ts";
import { BLOCK_SIZE, UNIT_SIZE } from "../base/units.ts";
import { EntryType } from "../log/log.ts";
import { SystemChecksum } from "../reactor/bun-system.ts";
import { BlockState } from "./local-store.ts";
import { Machine } from "./machine-harness.ts";
import type { RigEntry, RigFillBlock, StoreRig } from "./store-harness.ts";
import { fsckStore } from "./store-tools.ts";

/**
 * A unit over a snapshot that is zeroed bit by bit: it goes, and a hole takes its place. Both lie on
 * pages of their own, and a power cut may leave one of the two.
 */
const RUNTIME = { drainMicrotasks, checksum: new SystemChecksum() };
const MIB = 1024 * 1024;
const PG = 65_537;
const LAYER = 5;
const UNIT = { layer: LAYER, unit: 0, snapSeq: 1 };
const STILL = { moverStartPercent: 100, checkpointStartPercent: 100, idleMs: 1e9, vouchMs: 1e9 };
/** Of the devices made here: 256 MiB, one zone of 4 MiB for the log, two for checkpoints. */
const META_OFFSET = 65_536 + 4 * MIB;
const DATA_OFFSET = META_OFFSET + 8 * MIB;
/** Slots of the first units are on the first page; holes are behind all units, from the fourth on. */
const HOLE_PAGES = DATA_OFFSET + 3 * BLOCK_SIZE;
const HOLE_BYTES = 13 * BLOCK_SIZE;

function write(index: number, firstBlock: number, blocks: number, more = {}): RigEntry {
  return {
    index,
    term: 1,
    type: EntryType.Write,
    layer: LAYER,
    firstBlock,
    blocks,
    snapSeq: 1,
    stamp: index,
    data: null,
    ...more,
  };
}

function zero(index: number, firstBlock: number, blocks: number): RigEntry {
  return write(index, firstBlock, blocks, { type: EntryType.Zero });
}

function zeros(first: number, count: number): RigFillBlock[] {
  return Array.from({ length: count }, (_, at) => {
    return { bit: first + at, state: BlockState.Zero, version: 0, stamp: 0 };
  });
}

async function put(rig: StoreRig, row: number, entries: readonly RigEntry[]): Promise<void> {
  for (const entry of entries) expect(rig.append(row, entry)).toBe(Status.Ok);
  const last = entries.at(-1)!.index;
  await rig.until(() => rig.store.durableIndex(row) === last, "durable");
  for (const entry of entries) rig.apply(row, entry);
}

async function checkpoint(rig: StoreRig): Promise<void> {
  const before = rig.store.counters.checkpoints;
  rig.store.requestCheckpoint();
  await rig.until(() => rig.store.counters.checkpoints > before, "checkpoint");
}

async function stamps(rig: StoreRig, snapSeq?: number): Promise<number[]> {
  const found = await rig.read(0, LAYER, 0, 16, snapSeq);
  return found.map(({ state, stamp }) => (state === BlockState.Data ? stamp : 0 - state));
}

async function reopened(machine: Machine): Promise<StoreRig> {
  machine.crash();
  const rig = await machine.open({ tuning: STILL });
  for (const group of rig.store.recovered) rig.replay(group, group.lastIndex);
  rig.store.finishRecovery();
  return rig;
}

/** A unit of the snapshot with data, and one above it that shows data too. */
async function started(seed: number): Promise<{ machine: Machine; rig: StoreRig; row: number }> {
  const machine = await Machine.make(seed, RUNTIME, 256 * MIB, 4 * MIB);
  const rig = await machine.open({ tuning: STILL });
  const row = await rig.create(PG);
  rig.store.finishRecovery();
  await put(rig, row, [write(1, 0, 16, { snapSeq: 0 }), write(2, 0, 16)]);
  return { machine, rig, row };
}

/** The power fails in the midst of what `body` has written: of its pages those of the holes are lost. */
async function cutBehind(machine: Machine, body: () => Promise<void>): Promise<StoreRig> {
  const disk = machine.simulation.disk("disk");
  const checkpoints = disk.peek(META_OFFSET, 8 * MIB);
  const holes = disk.peek(HOLE_PAGES, HOLE_BYTES);
  await body();
  disk.poke(HOLE_PAGES, holes);
  disk.poke(META_OFFSET, checkpoints);
  return await reopened(machine);
}

async function clean(machine: Machine): Promise<void> {
  machine.crash();
  const report = await machine.tool((world, disk) => fsckStore(world, disk));
  expect(report.findings).toEqual([]);
}

const NOTHING: number[] = Array<number>(16).fill(0);
const OLD: number[] = Array<number>(16).fill(1);

describe("a unit that empties above a snapshot", () => {
  test("G12: shows nothing of it when the power fails before the hole is on the disk", async () => {
    const { machine, rig, row } = await started(1);
    await put(rig, row, [zero(3, 0, 15)]);
    await checkpoint(rig);
    const again = await cutBehind(machine, async () => {
      await put(rig, row, [zero(4, 15, 1)]);
      await checkpoint(rig);
    });
    expect(await stamps(again)).toEqual(NOTHING);
    expect(await stamps(again, 0)).toEqual(OLD);
    await checkpoint(again);
    await checkpoint(again);
    expect(await stamps(again)).toEqual(NOTHING);
    expect(again.store.usage()).toMatchObject({ bytesUsed: UNIT_SIZE, bytesQuarantined: 0 });
    await clean(machine);
  });

  test("G12: by fills as well", async () => {
    const { machine, rig, row } = await started(2);
    rig.beginFill(row, 5, 2);
    await rig.until(() => rig.owner.begun.has(row), "begun");
    expect(await rig.fill(row, UNIT, zeros(0, 15))).toBe(Status.Ok);
    await checkpoint(rig);
    const again = await cutBehind(machine, async () => {
      // The next entry: fills of the position itself would be home with the checkpoint.
      await put(rig, row, [write(6, 6400, 1, { term: 2 })]);
      expect(await rig.fill(row, UNIT, zeros(15, 1))).toBe(Status.Ok);
      rig.store.setCommit(row, 6);
      await checkpoint(rig);
    });
    expect(await stamps(again)).toEqual(NOTHING);
    expect(await stamps(again, 0)).toEqual(OLD);
  });

  test("goes one checkpoint later, once however often it is zeroed, also behind a start", async () => {
    const { machine, rig, row } = await started(3);
    await checkpoint(rig);
    for (let index = 3; index < 40; index++) await put(rig, row, [zero(index, index % 16, 1)]);
    expect(rig.store.usage().bytesUsed).toBe(2 * UNIT_SIZE);
    await checkpoint(rig);
    expect(rig.store.usage().bytesQuarantined).toBe(UNIT_SIZE);
    await checkpoint(rig);
    expect(rig.store.usage()).toMatchObject({ bytesUsed: UNIT_SIZE, bytesQuarantined: 0 });
    await put(rig, row, [write(40, 3, 1)]);
    await put(rig, row, [zero(41, 0, 8)]);
    expect(await stamps(rig)).toEqual(NOTHING);
    // It has emptied; the power fails before anything says so.
    const again = await reopened(machine);
    await checkpoint(again);
    await checkpoint(again);
    expect(again.store.usage()).toMatchObject({ bytesUsed: UNIT_SIZE, bytesQuarantined: 0 });
    expect(await stamps(again)).toEqual(NOTHING);
    await clean(machine);
  });

  test("is found by the next start, and goes", async () => {
    const { machine, rig, row } = await started(4);
    await checkpoint(rig);
    await put(rig, row, [zero(3, 0, 8), zero(4, 8, 8)]);
    await checkpoint(rig);
    const again = await reopened(machine);
    expect(again.store.usage().bytesUsed).toBe(2 * UNIT_SIZE);
    await checkpoint(again);
    await checkpoint(again);
    expect(again.store.usage()).toMatchObject({ bytesUsed: UNIT_SIZE, bytesQuarantined: 0 });
    expect(await stamps(again)).toEqual(NOTHING);
  });

  test("stays when it is written again, and who writes to it finds space when it went", async () => {
    const { machine, rig, row } = await started(5);
    await put(rig, row, [zero(3, 0, 8), zero(4, 8, 8)]);
    await put(rig, row, [write(5, 3, 1)]);
    await checkpoint(rig);
    expect(await stamps(rig)).toEqual([0, 0, 0, 5, ...Array<number>(12).fill(0)]);
    await put(rig, row, [zero(6, 3, 1)]);
    // Appended while the unit is there, applied when it is gone.
    const late = write(7, 4, 1);
    expect(rig.append(row, late)).toBe(Status.Ok);
    await rig.until(() => rig.store.durableIndex(row) === 7, "durable");
    await checkpoint(rig);
    expect(rig.store.usage().bytesQuarantined).toBe(UNIT_SIZE);
    const { bytesUsed } = rig.store.usage();
    rig.apply(row, late);
    // What was set aside for it is what it took.
    expect(rig.store.usage().bytesUsed).toBe(bytesUsed);
    expect(await stamps(rig)).toEqual([0, 0, 0, 0, 7, ...Array<number>(11).fill(0)]);
    await checkpoint(rig);
    const again = await reopened(machine);
    expect(await stamps(again)).toEqual([0, 0, 0, 0, 7, ...Array<number>(11).fill(0)]);
  });
});
