import { drainMicrotasks } from "bun:jsc";
import { expect, test } from "bun:test";
import { Status } from "../base/status.ts";
import { EntryType } from "../log/log.ts";
import { SystemChecksum } from "../reactor/bun-system.ts";
import { BlockState } from "./local-store.ts";
import { Machine } from "./machine-harness.ts";
import { type RigEntry, StoreRig } from "./store-harness.ts";
import { fsckStore } from "./store-tools.ts";

/** A device without a free unit: what has its space already is still written, whole units too. */
const MIB = 1024 * 1024;
const RUNTIME = { drainMicrotasks, checksum: new SystemChecksum() };
const LAYER = 5;
const SOON = { checkpointStartPercent: 40, moverStartPercent: 25 };

function entry(index: number, firstBlock: number, blocks: number, type: EntryType): RigEntry {
  const more = { term: 1, layer: LAYER, snapSeq: 0, stamp: index, data: null };
  return { index, type, firstBlock, blocks, ...more };
}

/** One machine whose only replica has written until nothing was free. */
class Full {
  readonly machine: Machine;
  rig: StoreRig;
  readonly row: number;
  index = 0;

  private constructor(machine: Machine, rig: StoreRig, row: number) {
    this.machine = machine;
    this.rig = rig;
    this.row = row;
  }

  static async make(seed: number): Promise<Full> {
    const machine = await Machine.make(seed, RUNTIME, 256 * MIB, 4 * MIB);
    const rig = await machine.open({ tuning: SOON });
    const row = await rig.create(65_537);
    rig.store.finishRecovery();
    const full = new Full(machine, rig, row);
    let unit = 0;
    while ((await full.put(unit * 16, 16)) === Status.Ok) unit += 1;
    expect(unit).toBeGreaterThan(1000);
    return full;
  }

  /** One entry, until it is applied; waits where it is told to. */
  async put(firstBlock: number, blocks: number, type = EntryType.Write): Promise<Status> {
    const { machine, rig, row } = this;
    const next = entry(this.index + 1, firstBlock, blocks, type);
    let status = rig.append(row, next);
    while (status === Status.Busy) {
      machine.simulation.run(machine.simulation.nowUs + 5000);
      status = rig.append(row, next);
    }
    if (status !== Status.Ok) return status;
    this.index += 1;
    await rig.until(() => rig.store.durableIndex(row) === this.index, "durable");
    rig.apply(row, next);
    return Status.Ok;
  }

  /** Entries written last, as the blocks read now. */
  async stamps(firstBlock: number, blocks: number): Promise<(number | null)[]> {
    const found = await this.rig.read(this.row, LAYER, firstBlock, blocks);
    return found.map((block) => (block.state === BlockState.Data ? block.stamp : null));
  }
}

test("G13: a full device takes whole units over those that it has, and nothing new", async () => {
  const full = await Full.make(71);
  const free = full.rig.store.usage().bytesUsed;
  for (let at = 0; at < 100; at++) expect(await full.put(at * 64, 64)).toBe(Status.Ok);
  expect(full.rig.store.usage().bytesUsed).toBe(free);
  expect(await full.put(1_000_000, 16)).toBe(Status.NoSpace);
  expect(await full.put(1_000_000, 1)).toBe(Status.NoSpace);
  expect(await full.stamps(99 * 64, 64)).toEqual(new Array(64).fill(full.index));
}, 30_000);

test("whole units that went through the log are there after a power cut, and take no space", async () => {
  const full = await Full.make(72);
  for (let at = 0; at < 6; at++) expect(await full.put(at * 64, 64)).toBe(Status.Ok);
  const { machine } = full;
  machine.crash();
  const report = await machine.tool((world, tool) => fsckStore(world, tool));
  expect(report).toMatchObject({ clean: true });
  full.rig = await machine.open({ tuning: SOON });
  const { store } = full.rig;
  full.rig.replay(store.recovered[0]!, full.index);
  store.finishRecovery();
  for (let at = 0; at < 6; at++) {
    expect(await full.stamps(at * 64, 64)).toEqual(new Array(64).fill(full.index - 5 + at));
  }
  expect(await full.put(0, 64)).toBe(Status.Ok);
  expect(await full.put(1_000_000, 16)).toBe(Status.NoSpace);
}, 30_000);

test("over a discard that is not applied a write waits, and is not refused", async () => {
  const full = await Full.make(73);
  const { rig, row } = full;
  const zero = entry(full.index + 1, 0, 64, EntryType.Zero);
  expect(rig.append(row, zero)).toBe(Status.Ok);
  expect(rig.append(row, entry(full.index + 2, 0, 64, EntryType.Write))).toBe(Status.Busy);
  await rig.until(() => rig.store.durableIndex(row) === zero.index, "durable");
  rig.apply(row, zero);
  full.index = zero.index;
  expect(await full.put(0, 64)).toBe(Status.Ok);
}, 30_000);
