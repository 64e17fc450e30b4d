import { drainMicrotasks } from "bun:jsc";
import { describe, expect, test } from "bun:test";
import { Status } from "../base/status.ts";
import { EntryType } from "../log/log.ts";
import { SystemChecksum } from "../reactor/bun-system.ts";
import { BlockState } from "./local-store.ts";
import { Machine } from "./machine-harness.ts";
import type { RigEntry } from "./store-harness.ts";

const RUNTIME = { drainMicrotasks, checksum: new SystemChecksum() };

function write(
  index: number,
  firstBlock: number,
  blocks: number,
  more: Partial<RigEntry> = {},
): RigEntry {
  return {
    index,
    term: 1,
    type: EntryType.Write,
    layer: 5,
    firstBlock,
    blocks,
    snapSeq: 0,
    stamp: index,
    data: null,
    ...more,
  };
}

describe("local store", () => {
  test("the clean mark has its memory for itself, whenever the last batch is vouched for", async () => {
    const bad: number[] = [];
    for (let seed = 1; seed <= 40; seed++) {
      const machine = await Machine.make(seed, RUNTIME);
      let rig = await machine.open({ tuning: { vouchMs: 0.1, idleMs: 1e9 } });
      const row = await rig.create(65_537);
      rig.store.finishRecovery();
      rig.append(row, write(1, 3, 5));
      await rig.until(() => rig.store.durableIndex(row) === 1, "durable");
      rig.apply(row, write(1, 3, 5));
      await rig.await(rig.store.close(), "close");
      rig = await machine.open();
      if (!rig.store.identity.wasClean) bad.push(seed);
      expect(rig.store.recovered[0]!).toMatchObject({ lastIndex: 1, commit: 1 });
    }
    expect(bad).toEqual([]);
  });

  test("an appended entry is durable, applied, read, and there after a power cut", async () => {
    const machine = await Machine.make(1, RUNTIME);
    let rig = await machine.open();
    const row = await rig.create(65_537);
    rig.store.finishRecovery();
    const entries = [write(1, 3, 5), write(2, 16, 32), write(3, 20, 40)];
    for (const entry of entries) expect(rig.append(row, entry)).toBe(Status.Ok);
    await rig.until(() => rig.owner.durable.get(row) === 3, "durable");
    for (const entry of entries) rig.apply(row, entry);
    rig.store.putHardState(row, 1, 1, 3);
    await rig.until(() => rig.owner.hardStates.get(row) === 1, "hard state");
    const check = async (): Promise<void> => {
      const blocks = await rig.read(row, 5, 0, 64);
      blocks.forEach((block, at) => {
        const version =
          at >= 20 && at < 60 ? 3 : at >= 16 && at < 48 ? 2 : at >= 3 && at < 8 ? 1 : 0;
        expect(block).toEqual({
          state: version === 0 ? BlockState.Zero : BlockState.Data,
          version,
          stamp: version,
        });
      });
    };
    await check();
    machine.crash();
    rig = await machine.open();
    const group = rig.store.recovered[0]!;
    expect(group).toMatchObject({
      pg: 65_537,
      replicaId: 1,
      term: 1,
      vote: 1,
      commit: 3,
      lastIndex: 3,
    });
    rig.replay(group, 3);
    rig.store.finishRecovery();
    await check();
    await rig.await(rig.store.close(), "close");
    rig = await machine.open();
    expect(rig.store.identity.wasClean).toBe(true);
    expect(rig.store.recovered[0]!).toMatchObject({ baseIndex: 3, lastIndex: 3, commit: 3 });
    expect(rig.store.recovered[0]!.state).toEqual(
      rig.owner.encodeState(-1) && {
        applied: 3,
        conf: new Uint8Array([1, 2, 3]),
        confIndex: 0,
        expiredBelow: 3,
        sessions: [
          { session: 11, base: 4, bits: new Uint32Array([5, 0, 0, 0, 0, 0, 0, 0]), lastIndex: 2 },
        ],
        fences: [{ layer: 9, lockEpoch: 2, snapSeq: 1 }],
      },
    );
    rig.owner.applied.set(0, 3);
    rig.store.finishRecovery();
    await check();
  });
});
