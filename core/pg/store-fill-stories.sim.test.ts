import { drainMicrotasks } from "bun:jsc";
import { describe, expect, test } from "bun:test";
import { Status } from "../base/status.ts";
import { BLOCK_SIZE } from "../base/units.ts";
import { EntryType } from "../log/log.ts";
import { SystemChecksum } from "../reactor/bun-system.ts";
import { SLOT_SIZE } from "../store/store.ts";
import { BlockState, GroupHealth, UnitListing } from "./local-store.ts";
import { Machine } from "./machine-harness.ts";
import type { RigEntry, RigFillBlock, RigKey, StoreRig } from "./store-harness.ts";
import { fsckStore } from "./store-tools.ts";

/** What a replica goes through on its way back: another position, fills, another id; damage before. */
const RUNTIME = { drainMicrotasks, checksum: new SystemChecksum() };
const MIB = 1024 * 1024;
const PG = 65_537;
const LAYER = 5;
const UNIT: RigKey = { layer: LAYER, unit: 0, snapSeq: 0 };
/** Nothing moves home or is vouched for by itself. */
const STILL = { moverStartPercent: 100, checkpointStartPercent: 100, idleMs: 1e9, vouchMs: 1e9 };
/** Of the devices made here: 256 MiB, one zone of 4 MiB for the log, two for checkpoints. */
const LOG_OFFSET = 65_536;
const DATA_OFFSET = LOG_OFFSET + 3 * 4 * MIB;

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

function zero(index: number, firstBlock: number, blocks: number, more = {}): RigEntry {
  return write(index, firstBlock, blocks, { type: EntryType.Zero, ...more });
}

function data(bit: number, version: number, stamp = version): RigFillBlock {
  return { bit, state: BlockState.Data, version, stamp };
}

function zeros(...bits: number[]): RigFillBlock[] {
  return bits.map((bit) => ({ bit, state: BlockState.Zero, version: 0, stamp: 0 }));
}

const ALL_ZERO = zeros(...Array.from({ length: 16 }, (_, bit) => bit));

async function started(seed: number): Promise<{ machine: Machine; rig: StoreRig; row: number }> {
  const machine = await Machine.make(seed, RUNTIME, 256 * MIB, 4 * MIB);
  const rig = await machine.open({ tuning: STILL });
  const row = await rig.create(PG);
  rig.store.finishRecovery();
  return { machine, rig, row };
}

/** After a power cut: open, replay what is known as committed, go on. */
async function restarted(machine: Machine): Promise<StoreRig> {
  machine.crash();
  const rig = await machine.open({ tuning: STILL });
  for (const group of rig.store.recovered) rig.replay(group, group.commit);
  rig.store.finishRecovery();
  return rig;
}

async function append(rig: StoreRig, row: number, entries: readonly RigEntry[]): Promise<void> {
  for (const entry of entries) expect(rig.append(row, entry)).toBe(Status.Ok);
  const last = entries.at(-1)!.index;
  await rig.until(() => rig.store.durableIndex(row) === last, "durable");
}

/** Append, wait until durable, commit and apply. */
async function put(rig: StoreRig, row: number, entries: readonly RigEntry[]): Promise<void> {
  await append(rig, row, entries);
  for (const entry of entries) rig.apply(row, entry);
}

async function checkpoint(rig: StoreRig): Promise<void> {
  const before = rig.store.counters.checkpoints;
  rig.store.requestCheckpoint();
  await rig.until(() => rig.store.counters.checkpoints > before, "checkpoint");
}

async function begin(rig: StoreRig, row: number, index: number, term: number): Promise<void> {
  rig.beginFill(row, index, term);
  await rig.until(() => rig.owner.begun.has(row), "begun");
}

async function renew(rig: StoreRig, row: number, replicaId: number): Promise<void> {
  rig.renew(row, replicaId);
  await rig.until(() => rig.owner.created.has(row), "renewed");
}

async function end(rig: StoreRig, row: number): Promise<void> {
  rig.store.endFill(row);
  await rig.until(() => rig.owner.ended.has(row), "ended");
}

async function stamps(rig: StoreRig, blocks: number, snapSeq?: number): Promise<number[]> {
  const found = await rig.read(0, LAYER, 0, blocks, snapSeq);
  return found.map((block) => (block.state === BlockState.Data ? block.stamp : 0 - block.state));
}

describe("another position", () => {
  test("a power cut before its checkpoint finds the replica and its log as they were", async () => {
    const { machine, rig, row } = await started(1);
    await put(rig, row, [write(1, 0, 2), write(2, 1, 1)]);
    // Entries that never committed: at 5 the group has another one.
    await append(rig, row, [write(3, 4, 1), write(4, 5, 1), write(5, 6, 1), write(6, 7, 1)]);
    const disk = machine.simulation.disk("disk");
    disk.faults.latencyUsMin = 5000;
    disk.faults.latencyUsMax = 5000;
    rig.beginFill(row, 5, 3);
    expect([rig.store.appliedIndex(row), rig.store.lastIndex(row)]).toEqual([5, 5]);
    // A hard state may be put at any time; it must not commit the old log's entries.
    rig.store.putHardState(row, 3, 1, 5);
    await rig.until(() => rig.owner.hardStates.get(row) === 1, "hard state");
    expect(rig.owner.begun.has(row)).toBe(false);
    disk.faults.latencyUsMin = 30;
    disk.faults.latencyUsMax = 200;
    const again = await restarted(machine);
    expect(again.store.recovered[0]).toMatchObject({
      health: GroupHealth.Ok,
      term: 3,
      commit: 2,
      baseIndex: 0,
      lastIndex: 6,
    });
    expect(await stamps(again, 8)).toEqual([1, 2, 0, 0, 0, 0, 0, 0]);
  });

  test("is durable when it is told, with what the log held behind it", async () => {
    const { machine, rig, row } = await started(2);
    await put(rig, row, [write(1, 0, 2)]);
    await append(rig, row, [write(2, 4, 1), write(3, 5, 1), write(4, 6, 1)]);
    await begin(rig, row, 3, 1);
    expect([rig.store.firstIndex(row), rig.store.lastIndex(row)]).toEqual([4, 4]);
    const again = await restarted(machine);
    expect(again.store.recovered[0]).toMatchObject({
      health: GroupHealth.Filling,
      fillIndex: 3,
      commit: 3,
      baseIndex: 3,
      lastIndex: 4,
      state: { applied: 3 },
    });
    again.apply(0, write(4, 6, 1));
    expect(await stamps(again, 8)).toEqual([1, 1, 0, 0, 0, 0, 4, 0]);
  });

  test("entries of another term behind it are no more, wherever the tail stands", async () => {
    const { machine, rig, row } = await started(3);
    const other = await rig.create(PG + 1);
    await put(rig, row, [write(1, 0, 1)]);
    const old = [2, 3, 4, 5, 6].map((index) => write(index, index, 1));
    for (const entry of old) await append(rig, row, [entry]);
    // The other group holds the tail among them.
    await append(rig, other, [write(1, 6400, 1)]);
    await begin(rig, row, 3, 2);
    expect(rig.store.lastIndex(row)).toBe(3);
    await put(rig, row, [write(4, 8, 1, { term: 2, stamp: 40 })]);
    let again = await restarted(machine);
    expect(again.store.recovered[0]).toMatchObject({
      health: GroupHealth.Filling,
      baseIndex: 3,
      lastIndex: 4,
    });
    again.apply(0, write(4, 8, 1, { term: 2, stamp: 40 }));
    expect(await stamps(again, 9)).toEqual([1, 0, 0, 0, 0, 0, 0, 0, 40]);
    // The next checkpoint may take a part of the old entries out of the log.
    await checkpoint(again);
    again = await restarted(machine);
    expect(again.store.recovered[0]).toMatchObject({ health: GroupHealth.Filling, lastIndex: 4 });
  });

  test("entries behind it stay whole in the log until it is durable that they are no more", async () => {
    const { machine, rig, row } = await started(6);
    const other = await rig.create(PG + 1);
    await put(rig, row, [write(1, 0, 1)]);
    for (const index of [2, 3, 4]) await append(rig, row, [write(index, index, 1)]);
    // Not applied: without the entries of the first group, the tail would stand between 4 and 5.
    await append(rig, other, [write(1, 6400, 1)]);
    for (const index of [5, 6]) await append(rig, row, [write(index, index, 1)]);
    await begin(rig, row, 3, 2);
    // The power fails as soon as it is told, and once more.
    const wanted = { health: GroupHealth.Filling, baseIndex: 3, baseTerm: 2, lastIndex: 3 };
    let again = await restarted(machine);
    expect(again.store.recovered[0]).toMatchObject(wanted);
    await checkpoint(again);
    again = await restarted(machine);
    expect(again.store.recovered[0]).toMatchObject(wanted);
  });

  test("direct units of entries that it skips are free with the checkpoint", async () => {
    const { rig, row } = await started(4);
    await append(rig, row, [write(1, 0, 32), write(2, 32, 16)]);
    expect(rig.store.usage().bytesUsed).toBe(3 * 65_536);
    await begin(rig, row, 2, 1);
    expect(rig.store.usage()).toMatchObject({ bytesUsed: 0, bytesQuarantined: 0 });
  });

  test("one that begins again after it ended stays Filling", async () => {
    const { machine, rig, row } = await started(5);
    const other = await rig.create(PG + 1);
    // Holds the tail: the record of the end stays in the log.
    await append(rig, other, [write(1, 6400, 1)]);
    await begin(rig, row, 10, 2);
    await end(rig, row);
    expect(rig.store.healthOf(row)).toBe(GroupHealth.Ok);
    await begin(rig, row, 10, 2);
    let again = await restarted(machine);
    expect(again.store.recovered[0]).toMatchObject({ health: GroupHealth.Filling, fillIndex: 10 });
    await end(again, 0);
    again = await restarted(machine);
    expect(again.store.recovered[0]).toMatchObject({ health: GroupHealth.Ok, fillIndex: 0 });
  });
});

describe("a fill", () => {
  test("makes blocks data, zero and lost, in the log, after redo and at home", async () => {
    const { machine, rig, row } = await started(11);
    await put(rig, row, [write(1, 0, 16), write(2, 3, 1)]);
    await begin(rig, row, 9, 2);
    const lost: RigFillBlock = { bit: 5, state: BlockState.Lost, version: 4, stamp: 0 };
    const blocks = [data(0, 7), ...zeros(1, 3), lost, data(15, 1, 77)];
    expect(await rig.fill(row, UNIT, blocks)).toBe(Status.Ok);
    const wanted = [7, 0, 1, 0, 1, -BlockState.Lost, ...Array<number>(9).fill(1), 77];
    expect(await stamps(rig, 16)).toEqual(wanted);
    const versions = [7, 0, 1, 0, 1, 4, ...Array<number>(10).fill(1)];
    expect([...(await rig.unit(row, UNIT)).versions]).toEqual(versions);
    let again = await restarted(machine);
    expect(await stamps(again, 16)).toEqual(wanted);
    await checkpoint(again);
    expect(again.store.usage().overlayBlocks).toBe(0);
    expect(await stamps(again, 16)).toEqual(wanted);
    again = await restarted(machine);
    expect(await stamps(again, 16)).toEqual(wanted);
    expect([...(await again.unit(0, UNIT)).versions]).toEqual(versions);
    machine.crash();
    const report = await machine.tool((world, disk) => fsckStore(world, disk));
    expect(report.findings).toEqual([]);
  });

  test("takes its place between the entries of its unit, also in redo", async () => {
    const { machine, rig, row } = await started(12);
    await put(rig, row, [write(1, 0, 16)]);
    await begin(rig, row, 5, 2);
    await append(rig, row, [
      write(6, 0, 2, { term: 2 }),
      zero(7, 0, 16, { term: 2 }),
      write(8, 4, 1, { term: 2 }),
    ]);
    rig.apply(row, write(6, 0, 2, { term: 2 }));
    expect(await rig.fill(row, UNIT, [data(1, 5, 50), data(2, 4, 40)])).toBe(Status.Ok);
    expect(await stamps(rig, 4)).toEqual([6, 50, 40, 1]);
    rig.store.setCommit(row, 6);
    let again = await restarted(machine);
    expect(again.store.recovered[0]!.commit).toBe(6);
    expect(await stamps(again, 4)).toEqual([6, 50, 40, 1]);
    again.apply(0, zero(7, 0, 16, { term: 2 }));
    expect(await again.fill(0, UNIT, [data(3, 2, 20)])).toBe(Status.Ok);
    again.apply(0, write(8, 4, 1, { term: 2 }));
    expect(await stamps(again, 5)).toEqual([0, 0, 0, 20, 8]);
    // A checkpoint in between: what is before it is home, what is behind is done again.
    await checkpoint(again);
    expect(await again.fill(0, UNIT, [...zeros(3), data(0, 8, 80)])).toBe(Status.Ok);
    again = await restarted(machine);
    expect(await stamps(again, 5)).toEqual([80, 0, 0, 0, 8]);
  });

  test("of a whole unit with zeros frees it, or leaves a hole over what is older", async () => {
    const { machine, rig, row } = await started(13);
    await put(rig, row, [write(1, 0, 16), write(2, 0, 16, { snapSeq: 1 }), write(3, 16, 16)]);
    await begin(rig, row, 5, 2);
    const head = { ...UNIT, snapSeq: 1 };
    expect(await rig.fill(row, head, ALL_ZERO)).toBe(Status.Ok);
    expect(await rig.fill(row, { ...UNIT, unit: 1 }, zeros(2, 3))).toBe(Status.Ok);
    expect(await rig.fill(row, { ...UNIT, unit: 1 }, ALL_ZERO)).toBe(Status.Ok);
    expect(await rig.list(row)).toEqual([UNIT, head]);
    expect(await stamps(rig, 32)).toEqual(Array<number>(32).fill(0));
    expect(await stamps(rig, 2, 0)).toEqual([1, 1]);
    let again = await restarted(machine);
    expect(await again.list(0)).toEqual([UNIT, head]);
    expect(await stamps(again, 32)).toEqual(Array<number>(32).fill(0));
    await checkpoint(again);
    again = await restarted(machine);
    expect(await stamps(again, 32)).toEqual(Array<number>(32).fill(0));
    // Zeros until nothing is left of the unit: one of them is the last.
    const rest = ALL_ZERO.slice(1);
    expect(await again.fill(0, UNIT, rest)).toBe(Status.Ok);
    expect(await again.fill(0, UNIT, zeros(0))).toBe(Status.Ok);
    expect(await stamps(again, 2, 0)).toEqual([0, 0]);
    await checkpoint(again);
    expect(again.store.usage().bytesUsed).toBe(0);
  });

  test("of an older unit while a newer one is copied from it: the copy is made again", async () => {
    const { machine, rig, row } = await started(14);
    await put(rig, row, [write(1, 0, 16)]);
    await checkpoint(rig);
    await put(rig, row, [write(2, 5, 1, { snapSeq: 1 })]);
    await begin(rig, row, 5, 2);
    await put(rig, row, [write(6, 20, 1, { term: 2, snapSeq: 2 })]);
    const snapshot = { ...UNIT, snapSeq: 2 };
    await put(rig, row, [write(7, 7, 1, { term: 2, snapSeq: 2 })]);
    // The mover reads the unit below, slowly; meanwhile that becomes something else.
    const disk = machine.simulation.disk("disk");
    disk.faults.latencyUsMin = 3000;
    disk.faults.latencyUsMax = 3000;
    rig.store.requestCheckpoint();
    machine.simulation.run(machine.simulation.nowUs + 4000);
    const op = rig.startFill(row, { ...UNIT, snapSeq: 1 }, [data(0, 4, 44), ...zeros(1)]);
    await rig.until(() => op.done, "fill");
    expect(op.status).toBe(Status.Ok);
    disk.faults.latencyUsMin = 30;
    disk.faults.latencyUsMax = 200;
    await checkpoint(rig);
    const wanted = [44, 0, 1, 1, 1, 2, 1, 7];
    expect(await stamps(rig, 8)).toEqual(wanted);
    const { versions } = await rig.unit(row, snapshot);
    expect([...versions.subarray(0, 8)]).toEqual([4, 0, 1, 1, 1, 2, 1, 7]);
    await checkpoint(rig);
    const again = await restarted(machine);
    expect(await stamps(again, 8)).toEqual(wanted);
  });

  test("of a block that is on its way home, with the same version, is not taken for it", async () => {
    const { machine, rig, row } = await started(16);
    await put(rig, row, [write(1, 0, 3)]);
    rig.store.setCommit(row, 1);
    await begin(rig, row, 5, 2);
    expect(await rig.fill(row, UNIT, [data(0, 5, 50), data(1, 5, 51)])).toBe(Status.Ok);
    const disk = machine.simulation.disk("disk");
    disk.faults.latencyUsMin = 3000;
    disk.faults.latencyUsMax = 3000;
    rig.store.requestCheckpoint();
    machine.simulation.run(machine.simulation.nowUs + 1000);
    expect(await rig.fill(row, UNIT, [data(0, 5, 60)])).toBe(Status.Ok);
    disk.faults.latencyUsMin = 30;
    disk.faults.latencyUsMax = 200;
    await checkpoint(rig);
    expect(await stamps(rig, 3)).toEqual([60, 51, 1]);
    const again = await restarted(machine);
    expect(await stamps(again, 3)).toEqual([60, 51, 1]);
  });

  test("under way when a checkpoint begins is home or in the log when that ends", async () => {
    const { machine, rig, row } = await started(17);
    await begin(rig, row, 5, 2);
    await put(rig, row, [zero(6, 0, 1, { term: 2 })]);
    rig.store.setCommit(row, 6);
    const op = rig.startFill(row, UNIT, [data(0, 5, 50)]);
    await checkpoint(rig);
    expect(op.done).toBe(true);
    const again = await restarted(machine);
    expect(await stamps(again, 1)).toEqual([50]);
  });

  test("answers Invalid, Busy, Cancelled and DeviceFailed, never within the call", async () => {
    const { machine, rig, row } = await started(15);
    await begin(rig, row, 5, 2);
    const bad = rig.startFill(row, UNIT, [data(0, 4)]);
    expect(bad.done).toBe(false);
    await rig.until(() => bad.done, "answer");
    expect(bad.status).toBe(Status.Ok);
    // The payload is not what its checksum says.
    const at = rig.store.appliedIndex(row);
    const torn = rig.startFill(row, { ...UNIT, unit: 1 }, [data(1, 5)]);
    expect([torn.at, torn.done]).toEqual([at, false]);
    await rig.until(() => torn.done, "answer");
    torn.done = false;
    torn.arenaOffset = rig.world.slots.take(BLOCK_SIZE);
    torn.crcs[1] = torn.crcs[1]! ^ 1;
    rig.store.fill(torn);
    expect(torn.done).toBe(false);
    await rig.until(() => torn.done, "answer");
    expect(torn.status).toBe(Status.Invalid);
    // Half of the log is for clients.
    const all = Array.from({ length: 16 }, (_, bit) => data(bit, 3));
    let busy = 0;
    for (let unit = 2; busy === 0; unit++) {
      const status = await rig.fill(row, { ...UNIT, unit }, all);
      if (status === Status.Busy) busy = unit;
      else expect(status).toBe(Status.Ok);
    }
    expect(busy).toBeGreaterThan(500 / 17);
    expect(rig.append(row, write(6, 0, 1, { term: 2 }))).toBe(Status.Ok);
    await checkpoint(rig);
    expect(await rig.fill(row, { ...UNIT, unit: busy }, all)).toBe(Status.Ok);
    const cancelled = rig.startFill(row, UNIT, [data(2, 4)]);
    rig.store.removeReplica(row);
    await rig.until(() => cancelled.done, "answer");
    expect(cancelled.status).toBe(Status.Cancelled);
    expect(rig.store.counters.unitsFilled).toBe(busy + 1);
    const other = await rig.create(PG + 1);
    await begin(rig, other, 1, 1);
    machine.simulation.disk("disk").faults.flushErrorShare = 1;
    const failed = rig.startFill(other, { ...UNIT, layer: 9 }, [data(2, 1)]);
    await rig.until(() => failed.done, "answer");
    expect(failed.status).toBe(Status.DeviceFailed);
    await rig.await(rig.store.close(), "close");
  });
});

describe("a listing", () => {
  test("tells every unit and hole, in pages, with digests of what is seen alone", async () => {
    const one = await started(21);
    const other = await started(22);
    const another = await other.rig.create(PG + 9);
    await put(other.rig, another, [write(1, 64_000, 64, { layer: 8 })]);
    const history: RigEntry[] = [];
    for (let unit = 0; unit < 1100; unit++) history.push(write(unit + 1, unit * 16, 1));
    history.push(zero(1101, 16, 16, { snapSeq: 1 }), zero(1102, 1600, 16, { snapSeq: 1 }));
    for (const { rig, row } of [one, other]) {
      for (let from = 0; from < history.length; from += 50) {
        await put(rig, row, history.slice(from, from + 50));
        if (from % 300 === 0) await checkpoint(rig);
      }
    }
    await checkpoint(one.rig);
    const pages = [one, other].map(({ rig, row }) => {
      const digests = new Map<string, string>();
      const page = new UnitListing();
      const counts: number[] = [];
      for (let cursor = 0; cursor >= 0; ) {
        cursor = rig.store.listUnits(row, cursor, page);
        counts.push(page.count);
        for (let at = 0; at < page.count; at++) {
          const name = `${page.layers[at]}/${page.units[at]}/${page.snapSeqs[at]}`;
          digests.set(name, `${page.digestsLow[at]} ${page.digestsHigh[at]}`);
        }
      }
      expect(Math.max(...counts)).toBeLessThanOrEqual(1024);
      expect(counts.length).toBeGreaterThan(1);
      return digests;
    });
    expect(pages[0]!.size).toBe(1102);
    expect(Object.fromEntries(pages[1]!)).toEqual(Object.fromEntries(pages[0]!));
    expect(new Set(pages[0]!.values()).size).toBe(1101);
  });
});

describe("another id", () => {
  test("keeps the units, and nothing else, after a power cut too", async () => {
    const { machine, rig, row } = await started(31);
    await put(rig, row, [write(1, 0, 16), write(2, 3, 2)]);
    await append(rig, row, [write(3, 32, 32)]);
    rig.store.putHardState(row, 4, 1, 2);
    await renew(rig, row, 7);
    const found = {
      health: GroupHealth.Filling,
      fillIndex: 0,
      replicaId: 7,
      term: 0,
      vote: 0,
      commit: 0,
      baseIndex: 0,
      lastIndex: 0,
      state: { applied: 0, conf: rig.owner.conf },
    };
    expect(rig.store.healthOf(row)).toBe(GroupHealth.Filling);
    expect([rig.store.appliedIndex(row), rig.store.lastIndex(row)]).toEqual([0, 0]);
    const wanted = [1, 1, 1, 2, 2, 1];
    expect(await stamps(rig, 6)).toEqual(wanted);
    let again = await restarted(machine);
    expect(again.store.recovered[0]).toMatchObject(found);
    expect(again.store.tombstones).toEqual([{ pg: PG, replicaId: 1 }]);
    expect(await stamps(again, 6)).toEqual(wanted);
    await checkpoint(again);
    again = await restarted(machine);
    expect(again.store.recovered[0]).toMatchObject(found);
    expect(again.store.tombstones).toEqual([{ pg: PG, replicaId: 1 }]);
    // Only what differs is copied.
    await begin(again, 0, 2, 4);
    expect(await again.fill(0, UNIT, [data(0, 2, 99)])).toBe(Status.Ok);
    await end(again, 0);
    again = await restarted(machine);
    expect(again.store.recovered[0]).toMatchObject({ health: GroupHealth.Ok, replicaId: 7 });
    expect(await stamps(again, 6)).toEqual([99, 1, 1, 2, 2, 1]);
    again.store.removeReplica(0);
    await again.until(() => again.owner.gone.has(0), "gone");
    expect(again.store.createReplica(PG, 7, again.owner.conf, 0, 0)).toBe(-1);
    expect(again.store.tombstones.length).toBe(2);
  });

  test("a power cut before it is durable finds the old replica", async () => {
    const { machine, rig, row } = await started(32);
    await put(rig, row, [write(1, 0, 16)]);
    // That the entry is committed is durable; of what follows anything may be lost.
    rig.store.requestCheckpoint();
    await rig.until(() => rig.store.counters.checkpoints > 0, "the checkpoint");
    rig.renew(row, 2);
    machine.simulation.run(machine.simulation.nowUs + 100);
    expect(rig.owner.created.has(row)).toBe(false);
    const again = await restarted(machine);
    expect(again.store.recovered[0]).toMatchObject({ replicaId: 1, commit: 1 });
    expect(again.store.tombstones).toEqual([]);
    expect(await stamps(again, 2)).toEqual([1, 1]);
  });
});

describe("damage at start", () => {
  test("a damaged index page: the start succeeds, another id and fills make it right", async () => {
    const { machine, rig, row } = await started(41);
    const other = await rig.create(PG + 1);
    await put(rig, row, [write(1, 0, 16), write(2, 16, 3), write(3, 320, 16)]);
    await put(rig, other, [write(1, 6400, 20, { layer: 6 })]);
    await checkpoint(rig);
    machine.simulation.disk("disk").rot(DATA_OFFSET + 2 * SLOT_SIZE, 512);
    let again = await restarted(machine);
    expect(again.store.recovered.map((group) => group.health)).toEqual([
      GroupHealth.Distrusted,
      GroupHealth.Distrusted,
    ]);
    expect(again.owner.failed).toBe("");
    await renew(again, 0, 5);
    await renew(again, 1, 6);
    await begin(again, 0, 3, 1);
    await begin(again, 1, 1, 1);
    const whole = (version: number, count: number): RigFillBlock[] =>
      Array.from({ length: count }, (_, bit) => data(bit, version));
    expect(await again.fill(0, UNIT, whole(1, 16))).toBe(Status.Ok);
    expect(await again.fill(0, { ...UNIT, unit: 1 }, whole(2, 3))).toBe(Status.Ok);
    expect(await again.fill(0, { ...UNIT, unit: 20 }, whole(3, 16))).toBe(Status.Ok);
    await end(again, 0);
    again = await restarted(machine);
    expect(again.store.recovered.map((group) => group.health)).toEqual([
      GroupHealth.Ok,
      GroupHealth.Filling,
    ]);
    const first = [...Array<number>(16).fill(1), 2, 2, 2, 0];
    expect(await stamps(again, 20)).toEqual(first);
    await checkpoint(again);
    again = await restarted(machine);
    expect(await stamps(again, 20)).toEqual(first);
    machine.crash();
    const report = await machine.tool((world, disk) => fsckStore(world, disk));
    expect(report.findings).toEqual([]);
  });

  test("a log that ends below what is applied: the replica is renewed all the same", async () => {
    const { machine, rig, row } = await started(42);
    rig.owner.needed.set(row, 1);
    for (let index = 1; index <= 8; index++) await put(rig, row, [write(index, index, 1)]);
    await checkpoint(rig);
    expect(rig.store.firstIndex(row)).toBe(1);
    const before = await stamps(rig, 10);
    // Everything that is applied is home; the log is kept for others, and loses its third batch.
    const disk = machine.simulation.disk("disk");
    disk.poke(LOG_OFFSET + 5 * BLOCK_SIZE, new Uint8Array(BLOCK_SIZE));
    let again = await restarted(machine);
    expect(again.store.recovered[0]).toMatchObject({
      health: GroupHealth.Distrusted,
      baseIndex: 8,
      lastIndex: 8,
      commit: 8,
      state: { applied: 8 },
    });
    expect(await stamps(again, 10)).toEqual(before);
    await renew(again, 0, 2);
    await begin(again, 0, 8, 1);
    await end(again, 0);
    again = await restarted(machine);
    expect(again.store.recovered[0]).toMatchObject({ health: GroupHealth.Ok, replicaId: 2 });
    expect(await stamps(again, 10)).toEqual(before);
  });

  test("a faulty entry is applied: its blocks read as Damaged until they are repaired", async () => {
    const { machine, rig, row } = await started(43);
    for (let index = 1; index <= 4; index++) await append(rig, row, [write(index, index, 2)]);
    rig.store.setCommit(row, 4);
    rig.store.putHardState(row, 1, 1, 4);
    await rig.until(() => rig.owner.hardStates.get(row) === 1, "hard state");
    // Batches of a header and two blocks, from 2 on: the second block of entry 3.
    machine.simulation.disk("disk").rot(LOG_OFFSET + (1 + 2 * 3 + 2) * BLOCK_SIZE, 512);
    let again = await restarted(machine);
    expect(again.store.recovered[0]).toMatchObject({ commit: 4, faulty: [3] });
    const damaged = [0, 1, 2, 3, 4, 4];
    expect(await stamps(again, 6)).toEqual(damaged);
    expect((await again.load(0, 3)).status).toBe(Status.Damaged);
    await checkpoint(again);
    again = await restarted(machine);
    expect(again.store.recovered[0]!.faulty).toEqual([]);
    expect(await stamps(again, 6)).toEqual(damaged);
  });
});
