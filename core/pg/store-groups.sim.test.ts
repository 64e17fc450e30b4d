import { drainMicrotasks } from "bun:jsc";
import { expect, test } from "bun:test";
import { Status } from "../base/status.ts";
import { EntryType } from "../log/log.ts";
import { SystemChecksum } from "../reactor/bun-system.ts";
import { BlockState } from "./local-store.ts";
import { Machine } from "./machine-harness.ts";

const MIB = 1024 * 1024;
const OBJECT_BLOCKS = 1024;
const RUNTIME = { drainMicrotasks, checksum: new SystemChecksum() };

/**
 * Two groups of one layer. One holds the first unit; then the other, whose log is `index` long, takes
 * the zero of a range that holds this unit: as when an image shrinks.
 */
async function shrunk(index: number): Promise<{ state: number; checkpoints: number }> {
  const machine = await Machine.make(1, RUNTIME, 256 * MIB, 4 * MIB);
  const rig = await machine.open({});
  const other = await rig.create(65_537);
  const owner = await rig.create(65_538);
  rig.store.finishRecovery();
  const put = async (row: number, fields: object, at: number): Promise<void> => {
    const common = { term: 1, layer: 5, snapSeq: 0, stamp: 1, data: null };
    const entry = { ...common, ...fields, index: at } as never;
    expect(rig.append(row, entry)).toBe(Status.Ok);
    await rig.until(() => rig.store.durableIndex(row) >= at, "durable");
    rig.apply(row, entry);
  };
  await put(owner, { type: EntryType.Write, firstBlock: 0, blocks: 16 }, 1);
  for (let at = 1; at < index; at++) {
    await put(other, { type: EntryType.Write, firstBlock: OBJECT_BLOCKS, blocks: 1 }, at);
  }
  await put(other, { type: EntryType.Zero, firstBlock: 0, blocks: 2 * OBJECT_BLOCKS }, index);
  const [block] = await rig.read(owner, 5, 0, 1);
  const [gone] = await rig.read(other, 5, OBJECT_BLOCKS, 1);
  expect(gone!.state).toBe(BlockState.Zero);
  const before = rig.store.counters.checkpoints;
  rig.store.requestCheckpoint();
  await rig.until(() => rig.store.counters.checkpoints > before, "checkpoint");
  return { state: block!.state, checkpoints: rig.store.counters.checkpoints - before };
}

test("a zero leaves the units of other groups within its range alone", async () => {
  expect((await shrunk(1)).state).toBe(BlockState.Data);
});

test("a zero over units of other groups does not hold up checkpoints", async () => {
  const { state, checkpoints } = await shrunk(20);
  expect(state).toBe(BlockState.Data);
  expect(checkpoints).toBeGreaterThan(0);
});
