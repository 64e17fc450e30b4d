import { expect, test } from "bun:test";
import {
  pgIdOf,
  type Epoch,
  type ImageId,
  type LayerId,
  type OsdId,
  type PoolId,
  type ReplicaId,
  type Term,
} from "../base/ids.ts";
import { firstReplicaOf, type OsdInfo, type PgInfo, type PoolInfo } from "../cluster/cluster.ts";
import { Catalogue } from "./catalogue.ts";
import { Leadership } from "./leadership.ts";
import { MemoryMetaStore } from "./memory-store.ts";
import { CLUSTER, type Office, stoppedTimers, takeOffice } from "./office-harness.ts";
import type { ImageRecord } from "./records.ts";

function image(id: number, name: string): ImageRecord {
  return {
    id: id as ImageId,
    name,
    pool: 1 as PoolId,
    family: id as ImageId,
    layer: id as LayerId,
    sizeBytes: 4096,
    objectBlocks: 1024,
    snapSeq: 0,
    lockEpoch: 0,
    createdMs: 0,
  };
}

const POOL: Omit<PoolInfo, "id" | "generation" | "name"> = {
  size: 3,
  pgCount: 1,
  objectBlocks: 1024,
  failureDomain: "osd",
  changeEpoch: 0 as Epoch,
};

const GROUP: Omit<PgInfo, "id"> = {
  lastChangeEpoch: 0 as Epoch,
  changeEpoch: 0 as Epoch,
  creating: true,
  replicas: [],
  leader: 0 as ReplicaId,
  leaderTerm: 0 as Term,
  configuration: undefined,
};

function osd(id: number): OsdInfo {
  return {
    id: id as OsdId,
    storeUuid: `store-${String(id)}`,
    host: "a",
    up: true,
    in: true,
    weight: 1,
    addresses: [],
    changeEpoch: 0 as Epoch,
  };
}

test("a former leader changes nothing, neither in the store nor in its own memory", async () => {
  const store = new MemoryMetaStore(stoppedTimers);
  const first = await takeOffice(store, "mon.a");
  await first.catalogue.change((change) => change.putImage(image(1, "kept")));
  expect(await new Leadership(store, "mon.b").campaign()).toBe(false);
  await first.leadership.resign();
  const second = await takeOffice(store, "mon.b");
  const late = first.catalogue.change((change) => {
    change.putImage(image(2, "late"));
    change.changeMap({ osds: [osd(1)] });
  });
  expect(await late.catch((error: unknown) => error)).toMatchObject({ code: "FB1004" });
  expect([...first.catalogue.images.keys()]).toEqual([1 as ImageId]);
  expect(first.catalogue.map.osds.size).toBe(0);
  expect((await store.range("image/")).rows.length).toBe(1);
  // It stays refused, also for what would write nothing harmful.
  const again = first.catalogue.change((change) => change.putImage(image(3, "again")));
  expect(await again.catch((error: unknown) => error)).toMatchObject({ code: "FB1004" });
  expect(second.catalogue.imageByName(1 as PoolId, "kept")?.id).toBe(1 as ImageId);
});

test("what a refused change staged and allocated never was", async () => {
  const store = new MemoryMetaStore(stoppedTimers);
  const { catalogue, deltas } = await takeOffice(store, "mon.a");
  const refused = catalogue.change((change) => {
    change.allocate("image");
    change.putImage(image(1, "a"));
    change.changeMap({ osds: [osd(1)] });
    throw new Error("no");
  });
  expect(await refused.catch((error: unknown) => String(error))).toBe("Error: no");
  await catalogue.change((change) => change.putImage(image(1, "dry")), true);
  expect(catalogue.images.size + catalogue.map.osds.size + deltas.length).toBe(0);
  expect((await store.range("image/")).rows).toEqual([]);
  expect(await catalogue.change((change) => change.allocate("image"))).toBe(1);
});

test("changes queue: each sees what the one before it did", async () => {
  const { catalogue } = await takeOffice(new MemoryMetaStore(stoppedTimers), "mon.a");
  const claims = Array.from({ length: 10 }, () =>
    catalogue.change((change) => {
      if (catalogue.imageByName(1 as PoolId, "one") !== undefined) return false;
      change.putImage(image(change.allocate("image"), "one"));
      return true;
    }),
  );
  expect((await Promise.all(claims)).filter((won) => won).length).toBe(1);
});

test("G10: after a restart nothing is handed out twice; after a restore ids jump", async () => {
  const store = new MemoryMetaStore(stoppedTimers);
  const kinds = ["pool", "image", "layer", "session", "operation"] as const;
  const first = await takeOffice(store, "mon.a");
  const used = await first.catalogue.change((change) => {
    change.changeMap({ osds: [osd(1)] });
    return kinds.map((kind) => change.allocate(kind));
  });
  expect(used).toEqual([1, 1, 1, 1, 1]);
  await first.leadership.resign();
  const second = await takeOffice(store, "mon.a");
  expect(await second.catalogue.change((change) => change.allocate("session"))).toBe(2);
  expect(second.catalogue.map).toMatchObject({ generation: 1, epoch: 2 });
  await second.catalogue.raiseGeneration(4);
  expect(second.deltas[0]).toMatchObject({ generation: 5, full: true });
  const after = await second.catalogue.change((change) =>
    kinds.map((kind) => change.allocate(kind)),
  );
  for (const [at, kind] of kinds.entries()) expect([kind, after[at]! > 60]).toEqual([kind, true]);
  await second.leadership.resign();
  const third = await takeOffice(store, "mon.a");
  expect(third.catalogue.map.generation).toBe(5 as never);
  expect(third.catalogue.map.osds.size).toBe(1);
});

test("pools that were removed are known for good, and a restored catalogue knows what it did", async () => {
  const store = new MemoryMetaStore(stoppedTimers);
  const first = await takeOffice(store, "mon.a");
  const makePool = (office: Office): Promise<PoolId> =>
    office.catalogue.change((change) => {
      const id = change.allocate("pool") as PoolId;
      const { generation } = office.catalogue.map;
      const pool = { ...POOL, id, generation, name: `p${String(id)}` };
      const group = pgIdOf(id, 0);
      change.putPg({ id: group, nextReplicaId: 4 });
      change.changeMap({ pools: [pool], pgs: [{ ...GROUP, id: group }] });
      return id;
    });
  const remove = (office: Office, id: PoolId): Promise<void> =>
    office.catalogue.change((change) => change.changeMap({ removedPools: [id] }));
  for (let at = 0; at < 3; at++) await makePool(first);
  await remove(first, 1 as PoolId);
  const backup = store.copy(stoppedTimers);
  await remove(first, 2 as PoolId);
  const rows = (await store.range("")).rows.map(({ key }) => key);
  expect(rows.filter((key) => key.includes("p"))).toEqual([
    "map",
    `map/pg/${String(pgIdOf(3 as PoolId, 0))}`,
    "map/pool/3",
    "map/removed/1",
    "map/removed/2",
    `pg/${String(pgIdOf(3 as PoolId, 0))}`,
  ]);
  await first.leadership.resign();
  const second = await takeOffice(store, "mon.a");
  expect(second.catalogue.map.removedPools.rows).toMatchObject([
    { first: 1, last: 2, generation: 1, changeEpoch: first.catalogue.map.epoch },
  ]);
  expect([...second.catalogue.pgs.keys()]).toEqual([pgIdOf(3 as PoolId, 0)]);
  const restored = await takeOffice(backup, "mon.a");
  await restored.catalogue.raiseGeneration(0);
  expect(restored.deltas[0]!.removedPools).toMatchObject([{ first: 1, last: 1, generation: 1 }]);
  const late = await makePool(restored);
  await remove(restored, late);
  expect(restored.catalogue.map.removedPools.covers(late, 3)).toBe(false);
  expect(restored.catalogue.map.removedPools.covers(late, firstReplicaOf(2))).toBe(true);
});

test("G19: a store that fails ends the monitor: memory and store could differ", async () => {
  const store = new MemoryMetaStore(stoppedTimers);
  const { catalogue } = await takeOffice(store, "mon.a");
  store.commit = () => Promise.reject(new Error("disk full"));
  const failed = catalogue.change((change) => change.putImage(image(1, "a")));
  expect(await failed.catch((error: unknown) => error)).toMatchObject({
    code: "FB1003",
    why: "disk full",
  });
  expect(catalogue.images.size).toBe(0);
});

test("a catalogue of another cluster, or of a newer layout, is refused", async () => {
  const store = new MemoryMetaStore(stoppedTimers);
  const { leadership } = await takeOffice(store, "mon.a");
  const open = (id: string): Promise<unknown> =>
    new Catalogue(
      store,
      () => leadership.fence(),
      () => undefined,
    )
      .load(id)
      .then(
        () => "loaded",
        (error: unknown) => (error as { code: string }).code,
      );
  expect(await open(CLUSTER)).toBe("loaded");
  expect(await open(CLUSTER.replace("7", "8"))).toBe("FB4002");
  const value = JSON.stringify({ clusterId: CLUSTER, generation: 1, format: 2 });
  await store.commit({ compares: [], writes: [{ key: "cluster", value }] });
  expect(await open(CLUSTER)).toBe("FB4003");
});
