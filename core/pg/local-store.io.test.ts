import { afterAll, describe, expect, test } from "bun:test";
import { silentLogger } from "../base/logger.ts";
import { Status } from "../base/status.ts";
import { EntryType } from "../log/log.ts";
import { RealHarness } from "../reactor/bun-real-harness.ts";
import { createBunWorld } from "../reactor/bun-world.ts";
import type { RunnableWorld, WorldOptions } from "../reactor/reactor.ts";
import { createUringWorld } from "../reactor/uring-world.ts";
import { RIG_CLUSTER, type RigEntry, settle, StoreRig } from "./store-harness.ts";
import { formatStore, fsckStore } from "./store-tools.ts";

/** The store on real files, by io_uring and by the portable fall-back. */
const MIB = 1024 * 1024;
const PG = 65_537;

function write(index: number, firstBlock: number, blocks: number): RigEntry {
  const stamp = index;
  const base = { index, term: 1, type: EntryType.Write, layer: 5, snapSeq: 0, data: null };
  return { ...base, firstBlock, blocks, stamp };
}

const WORLDS: readonly [string, (options: WorldOptions) => RunnableWorld][] = [
  ["io_uring", (options) => createUringWorld(options)],
  ["the portable fall-back", (options) => createBunWorld(options)],
];

describe.each(WORLDS)("local store on %s", (_name, create) => {
  const harness = new RealHarness(create);
  afterAll(() => harness.close());

  test("format, write, checkpoint, reopen, fsck", async () => {
    const { world } = harness;
    const path = harness.newPath();
    let disk = world.disks.open(path, { createBytes: 256 * MIB });
    const formatted = await settle(
      formatStore({
        world,
        disk,
        clusterId: RIG_CLUSTER,
        osd: 1,
        shardCount: 1,
        logBytes: 4 * MIB,
      }),
      harness,
      "format",
    );
    let rig = await StoreRig.open(world, disk, silentLogger, harness);
    expect(rig.store.identity.storeUuid).toBe(formatted.storeUuid);
    const row = await rig.create(PG);
    rig.store.finishRecovery();
    for (let index = 1; index <= 200; index++) {
      const entry = write(index, (index * 37) % 500, 1 + ((index * 7) % 40));
      let status = rig.append(row, entry);
      while (status === Status.Busy) {
        const checkpoints = rig.store.counters.checkpoints;
        await rig.until(() => rig.store.counters.checkpoints > checkpoints, "room in the log");
        status = rig.append(row, entry);
      }
      expect(status).toBe(Status.Ok);
      await rig.until(() => rig.store.durableIndex(row) === index, "durable");
      rig.apply(row, entry);
    }
    const before = [await rig.read(row, 5, 0, 64), await rig.read(row, 5, 400, 64)];
    expect(before[0]!.some((block) => block.version > 0)).toBe(true);
    rig.store.requestCheckpoint();
    await rig.until(() => rig.store.usage().overlayBlocks === 0, "everything is home");
    expect([await rig.read(row, 5, 0, 64), await rig.read(row, 5, 400, 64)]).toEqual(before);
    await rig.await(rig.store.close(), "close");

    disk = world.disks.open(path, {});
    rig = await StoreRig.open(world, disk, silentLogger, harness);
    expect(rig.store.identity.wasClean).toBe(true);
    const group = rig.store.recovered[0]!;
    expect(group).toMatchObject({ pg: PG, commit: 200, lastIndex: 200 });
    rig.replay(group, 200);
    rig.store.finishRecovery();
    expect([await rig.read(row, 5, 0, 64), await rig.read(row, 5, 400, 64)]).toEqual(before);
    await rig.await(rig.store.close(), "close");

    disk = world.disks.open(path, { readOnly: true });
    const report = await settle(fsckStore(world, disk), harness, "fsck");
    expect(report).toMatchObject({ clean: true, findings: [], notes: [] });
    expect(report.blocksChecked).toBeGreaterThan(100);
    disk.close();
  }, 60_000);
});
