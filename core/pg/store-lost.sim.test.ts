import { drainMicrotasks } from "bun:jsc";
import { expect, test } from "bun:test";
import { EntryType } from "../log/log.ts";
import { SystemChecksum } from "../reactor/bun-system.ts";
import { SNAP_SEQ_HEAD } from "./local-store.ts";
import { Machine } from "./machine-harness.ts";
import type { RigEntry, StoreRig } from "./store-harness.ts";
import { fsckStore } from "./store-tools.ts";

/** `LocalStore.lost`: lost blocks are counted wherever their mark is, and no longer than it is. */
const RUNTIME = { drainMicrotasks, checksum: new SystemChecksum() };
const MIB = 1024 * 1024;
const LAYER = 5;
/** What is marked moves home soon, and not before it was looked at. */
const TUNING = { idleMs: 100 };

async function put(
  rig: StoreRig,
  row: number,
  index: number,
  firstBlock: number,
  blocks: number,
  more: Partial<RigEntry> = {},
): Promise<void> {
  const entry: RigEntry = {
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
  rig.append(row, entry);
  await rig.until(() => rig.store.durableIndex(row) === index, "durable");
  rig.apply(row, entry);
}

async function checkpoint(rig: StoreRig): Promise<void> {
  const before = rig.store.counters.checkpoints;
  rig.store.requestCheckpoint();
  await rig.until(() => rig.store.counters.checkpoints > before, "checkpoint");
}

async function started(
  seed: number,
): Promise<{ machine: Machine; rig: StoreRig; row: number; lost: (from?: StoreRig) => string }> {
  const machine = await Machine.make(seed, RUNTIME, 256 * MIB, 4 * MIB);
  const rig = await machine.open({ tuning: TUNING });
  const row = await rig.create(65_537);
  rig.store.finishRecovery();
  await put(rig, row, 1, 0, 16);
  const lost = (from: StoreRig = rig): string => {
    const { count, blocks } = from.store.lost(2);
    const list = blocks.map((one) => `${String(one.block)}@${String(one.snapSeq)}`);
    return `${String(count)}: ${list.join(" ")}`;
  };
  return { machine, rig, row, lost };
}

test("G8: lost blocks: in memory, at home, after a start, and listed up to a limit", async () => {
  const { machine, rig, row, lost } = await started(1);
  expect(lost()).toBe("0: ");
  for (const block of [3, 7, 9]) {
    expect(rig.store.markLost(row, LAYER, block, SNAP_SEQ_HEAD, 1)).toBe(true);
  }
  expect(lost()).toBe("3: 3@0 7@0");
  await rig.until(() => rig.store.usage().overlayBlocks === 0, "moved home");
  expect(lost()).toBe("3: 3@0 7@0");
  await put(rig, row, 2, 100, 1);
  await checkpoint(rig);
  machine.crash();
  const again = await machine.open({ tuning: TUNING });
  again.replay(again.store.recovered[0]!, 2);
  again.store.finishRecovery();
  expect(lost(again)).toBe("3: 3@0 7@0");
  machine.crash();
  const report = await machine.tool((world, disk) => fsckStore(world, disk));
  expect(report).toMatchObject({ clean: true, notes: ["shard 0: 3 blocks are marked as lost"] });
});

test("lost blocks: gone once written again or zeroed", async () => {
  const { rig, row, lost } = await started(2);
  for (const block of [3, 7, 9]) rig.store.markLost(row, LAYER, block, SNAP_SEQ_HEAD, 1);
  await put(rig, row, 2, 3, 1);
  expect(lost()).toBe("2: 7@0 9@0");
  await rig.until(() => rig.store.usage().overlayBlocks === 0, "moved home");
  expect(lost()).toBe("2: 7@0 9@0");
  await put(rig, row, 3, 7, 1, { type: EntryType.Zero });
  expect(lost()).toBe("1: 9@0");
  await put(rig, row, 4, 0, 16);
  expect(lost()).toBe("0: ");
  rig.store.markLost(row, LAYER, 5, SNAP_SEQ_HEAD, 4);
  expect(lost()).toBe("1: 5@0");
});

test("lost blocks: a snapshot's unit and the copy that stands upon it each have theirs", async () => {
  const { rig, row, lost } = await started(3);
  rig.store.markLost(row, LAYER, 3, SNAP_SEQ_HEAD, 1);
  await rig.until(() => rig.store.usage().overlayBlocks === 0, "moved home");
  await put(rig, row, 2, 5, 1, { snapSeq: 1 });
  await checkpoint(rig);
  expect(rig.store.counters.unitsCopied).toBe(1);
  expect(lost()).toBe("2: 3@0 3@1");
});
