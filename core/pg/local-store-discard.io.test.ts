import { afterAll, describe, expect, test } from "bun:test";
import { statSync } from "node:fs";
import { silentLogger } from "../base/logger.ts";
import { Status } from "../base/status.ts";
import { PAYLOAD_BLOCKS_MAX, UNIT_SIZE } from "../base/units.ts";
import { EntryType } from "../log/log.ts";
import { RealHarness } from "../reactor/bun-real-harness.ts";
import { createBunWorld } from "../reactor/bun-world.ts";
import type { RunnableWorld, WorldOptions } from "../reactor/reactor.ts";
import { createUringWorld } from "../reactor/uring-world.ts";
import { BlockState } from "./local-store.ts";
import { RIG_CLUSTER, settle, StoreRig } from "./store-harness.ts";
import { formatStore, fsckStore } from "./store-tools.ts";

/** A sparse file gets smaller when an image in it does, by io_uring and by the portable fall-back. */
const MIB = 1024 * 1024;
const LAYER = 5;
const BLOCKS = PAYLOAD_BLOCKS_MAX;
const STAT_BLOCK_BYTES = 512;

const WORLDS: readonly [string, (options: WorldOptions) => RunnableWorld][] = [
  ["io_uring", (options) => createUringWorld(options)],
  ["the portable fall-back", (options) => createBunWorld(options)],
];

function allocated(path: string): number {
  return statSync(path).blocks * STAT_BLOCK_BYTES;
}

describe.each(WORLDS)("freed space of a store on %s", (_name, create) => {
  const harness = new RealHarness(create);
  afterAll(() => harness.close());

  test("what is freed is no longer allocated in the file, and the rest reads as before", async () => {
    const { world } = harness;
    const path = harness.newPath();
    let disk = world.disks.open(path, { createBytes: 256 * MIB });
    const format = { world, disk, clusterId: RIG_CLUSTER, osd: 1, shardCount: 1 };
    await settle(formatStore({ ...format, logBytes: 4 * MIB }), harness, "format");
    const rig = await StoreRig.open(world, disk, silentLogger, harness, {
      tuning: { idleMs: 50, staleKeptPercent: 0 },
    });
    const { store } = rig;
    const row = await rig.create(65_537);
    store.finishRecovery();
    const put = async (index: number, type: EntryType, piece: number, blocks: number) => {
      const place = { layer: LAYER, firstBlock: piece * BLOCKS, blocks };
      const entry = { index, term: 1, type, ...place, snapSeq: 0, stamp: index, data: null };
      expect(rig.append(row, entry)).toBe(Status.Ok);
      await rig.until(() => store.durableIndex(row) === index, "durable");
      store.setCommit(row, index);
      rig.apply(row, entry);
    };
    const empty = allocated(path);
    for (let index = 1; index <= 192; index++) {
      await put(index, EntryType.Write, index - 1, BLOCKS);
    }
    expect(allocated(path)).toBeGreaterThanOrEqual(empty + 48 * MIB);
    // Shrunk to its first 8 MiB.
    await put(193, EntryType.Zero, 32, 160 * BLOCKS);
    await rig.until(() => store.counters.bytesDiscarded >= 40 * MIB, "the discards");
    expect(allocated(path)).toBeLessThan(empty + 12 * MIB);
    expect(store.usage()).toMatchObject({ bytesUsed: 8 * 16 * UNIT_SIZE, bytesQuarantined: 0 });
    await put(194, EntryType.Write, 80, BLOCKS);
    for (const [piece, stamp] of [
      [0, 1],
      [31, 32],
      [80, 194],
    ] as const) {
      const found = await rig.read(row, LAYER, piece * BLOCKS, BLOCKS);
      expect(new Set(found.map((block) => block.stamp))).toEqual(new Set([stamp]));
    }
    const [gone] = await rig.read(row, LAYER, 36 * BLOCKS, 1);
    expect(gone?.state).not.toBe(BlockState.Data);
    await rig.await(store.close(), "close");
    disk = world.disks.open(path, { readOnly: true });
    const report = await settle(fsckStore(world, disk), harness, "fsck");
    expect(report).toMatchObject({ clean: true, findings: [], notes: [] });
    disk.close();
  }, 60_000);
});
