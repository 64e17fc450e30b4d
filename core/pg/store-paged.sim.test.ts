import { drainMicrotasks } from "bun:jsc";
import { describe, expect, test } from "bun:test";
import { Status } from "../base/status.ts";
import { BLOCK_SIZE } from "../base/units.ts";
import { EntryType } from "../log/log.ts";
import { SystemChecksum } from "../reactor/bun-system.ts";
import { FRAME_BYTES } from "../store/store.ts";
import { BlockState, GroupHealth, SNAP_SEQ_HEAD } from "./local-store.ts";
import type { StoreParts } from "./local-store-parts.ts";
import { badSector, Machine } from "./machine-harness.ts";
import { type RigEntry, RigOwner, type StoreRig } from "./store-harness.ts";
import { fsckStore } from "./store-tools.ts";

/** An index of which not all is in memory: what waits for it, what memory it takes, what it survives. */
const RUNTIME = { drainMicrotasks, checksum: new SystemChecksum() };
const MIB = 1024 * 1024;
const PG = 65_537;
const LAYER = 5;
const STILL = {
  moverStartPercent: 100,
  checkpointStartPercent: 100,
  quarantinePercent: 100,
  idleMs: 1e9,
  vouchMs: 1e9,
};
/** Of the devices made here: 256 MiB, one zone of 16 MiB for the log, two for checkpoints. */
const DATA_OFFSET = 65_536 + 16 * MIB + 8 * MIB;
const FRAMES = 8;
/** Units of all index pages that are written: 16 a page. */
const UNITS = 320;

function write(index: number, firstBlock: number, blocks: number, more = {}): RigEntry {
  return {
    index,
    term: 1,
    type: EntryType.Write,
    layer: LAYER,
    firstBlock,
    blocks,
    snapSeq: 0,
    stamp: index,
    data: null,
    ...more,
  };
}

/** Does something whenever entries are durable. */
class PumpOwner extends RigOwner {
  pump: (() => void) | null = null;

  override onDurable(row: number, index: number): void {
    super.onDurable(row, index);
    this.pump?.();
  }
}

/** Append as soon as there is room, wait until durable, commit and apply. */
async function put(rig: StoreRig, row: number, entries: readonly RigEntry[]): Promise<void> {
  for (const entry of entries) {
    let status = rig.append(row, entry);
    await rig.until(() => {
      if (status === Status.Busy) status = rig.append(row, entry);
      return status !== Status.Busy;
    }, "room");
    expect(status).toBe(Status.Ok);
    await rig.until(() => rig.store.durableIndex(row) === entry.index, "durable");
    rig.store.setCommit(row, entry.index);
    rig.apply(row, entry);
  }
}

async function checkpoint(rig: StoreRig): Promise<void> {
  const before = rig.store.counters.checkpoints;
  rig.store.requestCheckpoint();
  await rig.until(() => rig.store.counters.checkpoints > before, "checkpoint");
}

async function started(seed: number): Promise<{ machine: Machine; rig: StoreRig; row: number }> {
  const machine = await Machine.make(seed, RUNTIME, 256 * MIB, 16 * MIB);
  machine.indexBytes = FRAMES * FRAME_BYTES;
  const rig = await machine.open({ tuning: STILL });
  const row = await rig.create(PG);
  rig.store.finishRecovery();
  return { machine, rig, row };
}

/** Whole units, four an entry. */
function direct(units: number): RigEntry[] {
  return Array.from({ length: units / 4 }, (_, at) => write(at + 1, at * 64, 64));
}

async function reopened(machine: Machine): Promise<StoreRig> {
  const rig = await machine.open({ tuning: STILL });
  for (const group of rig.store.recovered) rig.replay(group, group.commit);
  rig.store.finishRecovery();
  return rig;
}

/** The first block of every unit, in an order that finds no page in memory. */
async function stampsOf(rig: StoreRig, units: number): Promise<number[]> {
  const stamps: number[] = [];
  for (let at = 0; at < units; at++) {
    const unit = (at * 17) % units;
    const [block] = await rig.read(0, LAYER, unit * 16, 1);
    stamps[unit] = block!.state === BlockState.Data ? block!.stamp : 0;
  }
  return stamps;
}

const WANTED = Array.from({ length: UNITS }, (_, unit) => Math.floor(unit / 4) + 1);

describe("memory of rows", () => {
  test("G15: stays within its bound under writes, reads, redo and moves", async () => {
    const { machine, rig, row } = await started(1);
    let most = 0;
    let dirty = 0;
    const look = (store: StoreRig): void => {
      const { indexBytesUsed, indexBytesDirty } = store.store.usage();
      most = Math.max(most, indexBytesUsed / FRAME_BYTES);
      dirty = Math.max(dirty, indexBytesDirty / FRAME_BYTES);
    };
    for (const entry of direct(UNITS)) {
      await put(rig, row, [entry]);
      look(rig);
    }
    // Of the 21 pages half of the frames wait at most, and what one entry makes.
    expect(dirty).toBeLessThanOrEqual(FRAMES / 2 + 2);
    expect(most).toBeLessThanOrEqual(FRAMES);
    expect(await stampsOf(rig, UNITS)).toEqual(WANTED);
    look(rig);
    expect(most).toBeLessThanOrEqual(FRAMES);
    expect(rig.store.counters.pageLoads).toBeGreaterThan(UNITS / 2);
    expect(rig.store.counters.pageEvictions).toBeGreaterThan(UNITS / 2);
    // No checkpoint yet: redo finds most of the pages written, and needs no memory for those.
    machine.crash();
    const again = await machine.open({ tuning: STILL });
    again.replay(again.store.recovered[0]!, again.store.recovered[0]!.lastIndex);
    look(again);
    again.store.finishRecovery();
    expect(most).toBeLessThanOrEqual(FRAMES);
    expect(await stampsOf(again, UNITS)).toEqual(WANTED);
    // Blocks all over the units: each is moved to a page of which the rows have to be loaded.
    const stamps = [...WANTED];
    for (let at = 0; at < UNITS; at++) {
      const index = UNITS / 4 + 1 + at;
      const unit = (at * 17) % UNITS;
      await put(again, 0, [write(index, unit * 16, 1)]);
      stamps[unit] = index;
    }
    await checkpoint(again);
    look(again);
    // A sweep of the mover has its rows in memory at once: 21 pages are all there are.
    expect(most).toBeLessThanOrEqual(FRAMES + 21);
    expect(again.store.usage()).toMatchObject({ overlayBlocks: 0, indexBytesDirty: 0 });
    expect(again.store.usage().indexBytesUsed).toBeLessThanOrEqual(FRAMES * FRAME_BYTES);
    expect(await stampsOf(again, UNITS)).toEqual(stamps);
    machine.crash();
    expect(await stampsOf(await reopened(machine), UNITS)).toEqual(stamps);
    machine.crash();
    const report = await machine.tool((world, disk) => fsckStore(world, disk));
    expect(report.findings).toEqual([]);
  });

  test("an index is resident in one start and paged in the next, and the other way round", async () => {
    const { machine, rig, row } = await started(2);
    await put(rig, row, [...direct(UNITS), write(81, 3, 1), write(82, 1003, 4)]);
    const wanted = await rig.read(row, LAYER, 0, 16);
    for (const indexBytes of [0, FRAME_BYTES, 0, FRAMES * FRAME_BYTES]) {
      machine.crash();
      machine.indexBytes = indexBytes;
      const again = await reopened(machine);
      expect(again.store.isPaged).toBe(indexBytes > 0);
      expect(await stampsOf(again, UNITS)).toEqual(WANTED);
      expect(await again.read(0, LAYER, 0, 16)).toEqual(wanted);
      await checkpoint(again);
      expect(await again.read(0, LAYER, 0, 16)).toEqual(wanted);
    }
  });
});

describe("redo", () => {
  /** What a start finds that has `entries` behind its checkpoint, and memory for `FRAMES` pages. */
  async function redone(seed: number, entries: readonly RigEntry[], wanted: readonly number[]) {
    const { machine, rig, row } = await started(seed);
    await put(rig, row, entries);
    // All of it is redone.
    expect(rig.store.counters.checkpoints).toBe(0);
    machine.crash();
    const again = await machine.open({ tuning: STILL });
    const group = again.store.recovered[0]!;
    again.replay(group, group.lastIndex);
    const frames = again.store.usage().indexBytesUsed / FRAME_BYTES;
    again.store.finishRecovery();
    expect(await stampsOf(again, wanted.length)).toEqual([...wanted]);
    await checkpoint(again);
    expect(again.store.usage().indexBytesDirty).toBe(0);
    machine.crash();
    const report = await machine.tool((world, disk) => fsckStore(world, disk));
    expect(report.findings).toEqual([]);
    return frames;
  }

  test.each([2, 4])("G15: of units that were written %d times takes no memory", async (times) => {
    const entries: RigEntry[] = [];
    for (let at = 0; at < (UNITS / 4) * times; at++) {
      entries.push(write(at + 1, (at * 64) % (UNITS * 16), 64));
    }
    const wanted = WANTED.map((stamp) => stamp + (UNITS / 4) * (times - 1));
    expect(await redone(31, entries, wanted)).toBeLessThanOrEqual(FRAMES);
  });

  test("G15: neither of units that were zeroed and written again, nor of those that are gone", async () => {
    const entries: RigEntry[] = [];
    const wanted: number[] = [];
    for (let unit = 0; unit < UNITS; unit++) {
      const first = unit * 16;
      const next = (): number => entries.length + 1;
      entries.push(write(next(), first, 16));
      entries.push(write(next(), first + 3, 2));
      entries.push(write(next(), first, 16, { type: EntryType.Zero }));
      wanted.push(0);
      if (unit % 2 === 0) continue;
      wanted[unit] = next();
      entries.push(write(next(), first, 16));
      entries.push(write(next(), first + 5, 1, { type: EntryType.Zero }));
    }
    expect(await redone(32, entries, wanted)).toBeLessThanOrEqual(FRAMES);
  });

  test("G15: nor of units that were emptied in parts and written again", async () => {
    const entries: RigEntry[] = [];
    const next = (): number => entries.length + 1;
    for (let unit = 0; unit < UNITS; unit += 4) entries.push(write(next(), unit * 16, 64));
    for (const half of [0, 8]) {
      for (let unit = 0; unit < UNITS; unit++) {
        entries.push(write(next(), unit * 16 + half, 8, { type: EntryType.Zero }));
      }
    }
    const wanted: number[] = [];
    for (let unit = 0; unit < UNITS; unit += 4) {
      wanted.push(next(), next(), next(), next());
      entries.push(write(next(), unit * 16, 64));
    }
    expect(await redone(34, entries, wanted)).toBeLessThanOrEqual(FRAMES);
  });

  test("a mark of loss that no entry says is gone, as when all of the index is in memory", async () => {
    const marks: unknown[] = [];
    for (const indexBytes of [0, FRAMES * FRAME_BYTES]) {
      const machine = await Machine.make(33, RUNTIME, 256 * MIB, 16 * MIB);
      machine.indexBytes = indexBytes;
      const rig = await machine.open({ tuning: STILL });
      const row = await rig.create(PG);
      rig.store.finishRecovery();
      await checkpoint(rig);
      const disk = machine.simulation.disk("disk");
      const checkpoints = disk.peek(DATA_OFFSET - 8 * MIB, 8 * MIB);
      await put(rig, row, [write(1, 0, 16)]);
      expect(rig.store.markLost(row, LAYER, 3, SNAP_SEQ_HEAD, 1)).toBe(true);
      await put(rig, row, [write(2, 5, 1)]);
      await checkpoint(rig);
      // The power fails before the checkpoint is there, and behind its pages.
      disk.poke(DATA_OFFSET - 8 * MIB, checkpoints);
      machine.crash();
      const again = await reopened(machine);
      marks.push((await again.read(0, LAYER, 0, 16)).map(({ state, stamp }) => [state, stamp]));
    }
    expect(marks[1]).toEqual(marks[0]);
    expect((marks[1] as number[][])[3]).toEqual([BlockState.Data, 1]);
  });
});

test("blocks of one read that are damaged, in units of two pages, are told with memory for one", async () => {
  const machine = await Machine.make(41, RUNTIME, 256 * MIB, 16 * MIB);
  machine.indexBytes = FRAME_BYTES;
  const rig = await machine.open({ tuning: STILL });
  const row = await rig.create(PG);
  rig.store.finishRecovery();
  await put(rig, row, direct(64));
  await checkpoint(rig);
  const { slots } = (rig.store as unknown as { parts: StoreParts }).parts;
  const places = [15, 16].map((unit) => slots.exact(slots.layers.find(LAYER), unit, 0));
  expect(slots.pageOf(places[0]!)).not.toBe(slots.pageOf(places[1]!));
  for (const slot of places) {
    const rot = new Uint8Array(16 * BLOCK_SIZE).fill(9);
    machine.simulation.disk("disk").poke(slots.unitOffset(slot), rot);
  }
  const states = (await rig.read(row, LAYER, 255, 2)).map(({ state }) => state);
  expect(states).toEqual([BlockState.Damaged, BlockState.Damaged]);
});

test("a version is told in a moment when its row has to be loaded", async () => {
  const { machine, rig, row } = await started(3);
  await put(rig, row, direct(UNITS));
  await checkpoint(rig);
  for (let unit = 32; unit < UNITS; unit += 8) await rig.read(row, LAYER, unit * 16, 1);
  expect(rig.store.versionOf(LAYER, 18, SNAP_SEQ_HEAD)).toBe(-1);
  machine.simulation.run(machine.simulation.nowUs + 5000);
  expect(rig.store.versionOf(LAYER, 18, SNAP_SEQ_HEAD)).toBe(1);
  expect(rig.store.versionOf(LAYER, UNITS * 16, SNAP_SEQ_HEAD)).toBe(0);
});

describe("a page that can not be read", () => {
  /** Of units 0 to 15; all else was looked at since. */
  async function withoutFirstPage(seed: number) {
    const { machine, rig, row } = await started(seed);
    await put(rig, row, direct(UNITS));
    await checkpoint(rig);
    for (let unit = 32; unit < UNITS; unit += 8) await rig.read(row, LAYER, unit * 16, 1);
    const disk = machine.simulation.disk("disk");
    let reads = 0;
    const bad = badSector(DATA_OFFSET);
    disk.watcher = {
      onSubmit: () => undefined,
      onLand: (op) => {
        const isHit = bad.onLand(op);
        if (isHit) reads += 1;
        return isHit;
      },
    };
    return { machine, rig, row, disk, reads: () => reads };
  }

  test("is tried again with rests, and what waits for it is answered when it can be", async () => {
    const { machine, rig, row, disk, reads } = await withoutFirstPage(11);
    const { simulation } = machine;
    const begunUs = simulation.nowUs;
    let asked = 0;
    const { watcher } = disk;
    disk.watcher = {
      onSubmit: () => undefined,
      onLand: (op) => {
        if (asked < 3 && watcher!.onLand(op)) asked += 1;
        else return false;
        return true;
      },
    };
    expect((await rig.read(row, LAYER, 16, 1))[0]!.stamp).toBe(1);
    expect(reads()).toBe(3);
    // Behind rests of 10, 40 and 160 ms.
    expect(simulation.nowUs - begunUs).toBeGreaterThan(200_000);
    expect(simulation.nowUs - begunUs).toBeLessThan(300_000);
    expect(rig.owner.failed).toBe("");
  });

  test("ends the store, and the next start does not trust it", async () => {
    const { machine, rig, row, reads } = await withoutFirstPage(12);
    const { simulation } = machine;
    const begunUs = simulation.nowUs;
    // It is never answered: the store ends.
    void rig.read(row, LAYER, 16, 1).catch(() => undefined);
    await rig.until(() => rig.owner.failed !== "", "failed");
    expect(rig.owner.failed).toContain(`an index page can not be read, at byte ${DATA_OFFSET}`);
    expect(reads()).toBe(6);
    expect(simulation.nowUs - begunUs).toBeGreaterThan(3_000_000);
    machine.crash();
    const again = await machine.open({ tuning: STILL });
    expect(again.store.recovered[0]!.health).toBe(GroupHealth.Distrusted);
  });

  test("a page that the device lost is told from what was written, and ends the store too", async () => {
    const { machine, rig, row } = await started(13);
    const disk = machine.simulation.disk("disk");
    await put(rig, row, direct(UNITS));
    await checkpoint(rig);
    const older = disk.peek(DATA_OFFSET, BLOCK_SIZE);
    await put(rig, row, [write(81, 0, 64)]);
    await checkpoint(rig);
    disk.poke(DATA_OFFSET, older);
    for (let unit = 32; unit < UNITS; unit += 8) await rig.read(row, LAYER, unit * 16, 1);
    // It is never answered: the store ends.
    void rig.read(row, LAYER, 128, 1).catch(() => undefined);
    await rig.until(() => rig.owner.failed !== "", "failed");
    machine.crash();
    const again = await machine.open({ tuning: STILL });
    expect(again.store.recovered[0]!.health).toBe(GroupHealth.Distrusted);
  });
});

describe("a checkpoint", () => {
  test.each([0, FRAME_BYTES])(
    "ends though a page changes all the time, index bytes %d",
    async (bytes) => {
      const machine = await Machine.make(21, RUNTIME, 256 * MIB, 16 * MIB);
      machine.indexBytes = bytes;
      const owner = new PumpOwner();
      const rig = await machine.open({ tuning: STILL, owner });
      const row = await rig.create(PG);
      rig.store.finishRecovery();
      await put(rig, row, [write(1, 0, 64)]);
      let last = 1;
      let refused = 0;
      const pump = (): void => {
        if (rig.store.durableIndex(row) < last) return;
        rig.store.setCommit(row, last);
        const at = { type: EntryType.Zero };
        if (rig.store.appliedIndex(row) < last) rig.apply(row, write(last, last % 3, 1, at));
        const status = rig.append(row, write(last + 1, (last + 1) % 3, 1, at));
        if (status === Status.Ok) last += 1;
        else refused += 1;
      };
      const { simulation } = machine;
      const begunUs = simulation.nowUs;
      // As soon as an entry is durable it is applied, and the next one follows.
      owner.pump = pump;
      pump();
      rig.store.requestCheckpoint();
      await rig.until(() => {
        if (refused > 0) pump();
        return rig.store.counters.checkpoints > 0 || simulation.nowUs > begunUs + 5_000_000;
      }, "checkpoint");
      expect(rig.store.counters.checkpoints).toBe(1);
      expect(simulation.nowUs - begunUs).toBeLessThan(100_000);
    },
  );
});
