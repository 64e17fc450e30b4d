import { expect, test } from "bun:test";
import fc from "fast-check";
import {
  pgIdOf,
  type Epoch,
  type Generation,
  type LogIndex,
  type OsdId,
  type PoolId,
  type ReplicaId,
  type ShardIndex,
  type Term,
} from "../base/ids.ts";
import {
  ApplyResult,
  ClusterMap,
  firstReplicaOf,
  type MapDelta,
  objectToPg,
  type OsdInfo,
  pgStateOf,
  splitDelta,
  PgState,
  type PgInfo,
  type PoolInfo,
  RecoverySpeed,
} from "./cluster.ts";

const EMPTY: MapDelta = {
  generation: 1,
  fromEpoch: 0,
  epoch: 1,
  full: true,
  osds: [],
  pools: [],
  pgs: [],
  removedPools: [],
  part: 0,
  more: false,
};

function osd(id: number, over: Partial<OsdInfo> = {}): OsdInfo {
  return {
    id: id as OsdId,
    storeUuid: `store-${String(id)}`,
    host: "a",
    up: true,
    in: true,
    weight: 100,
    addresses: [{ host: "127.0.0.1", port: 7000 + id }],
    changeEpoch: 0 as Epoch,
    ...over,
  };
}

function pool(id: number, name: string): PoolInfo {
  return {
    id: id as PoolId,
    name,
    size: 3,
    pgCount: 4,
    objectBlocks: 1024,
    failureDomain: "osd",
    generation: 1 as Generation,
    changeEpoch: 0 as Epoch,
  };
}

function pg(poolId: number, index: number, over: Partial<PgInfo> = {}): PgInfo {
  return {
    id: pgIdOf(poolId as PoolId, index),
    lastChangeEpoch: 0 as Epoch,
    changeEpoch: 0 as Epoch,
    creating: true,
    replicas: [0, 1, 2].map((at) => ({
      replicaId: (at + 1) as ReplicaId,
      osd: at as OsdId,
      storeUuid: `store-${String(at)}`,
      shard: 0 as ShardIndex,
      leaving: false,
      witness: false,
    })),
    leader: 0 as ReplicaId,
    leaderTerm: 0 as Term,
    configuration: undefined,
    ...over,
  };
}

function newMap(): ClusterMap {
  const map = new ClusterMap();
  expect(map.apply(EMPTY)).toBe(ApplyResult.Applied);
  return map;
}

function contentOf(map: ClusterMap): unknown {
  const sort = <T extends { id: number }>(rows: Iterable<T>): T[] =>
    [...rows].sort((a, b) => a.id - b.id);
  return {
    generation: map.generation,
    epoch: map.epoch,
    osds: sort(map.osds.values()),
    pools: sort(map.pools.values()),
    pgs: sort(map.pgs.values()),
    removedPools: map.removedPools.rows,
  };
}

test("a lower generation or epoch is refused, and changes nothing", () => {
  const map = newMap();
  map.apply(map.next({ osds: [osd(0)] }));
  const before = contentOf(map);
  expect(map.apply({ ...EMPTY, epoch: 1 })).toBe(ApplyResult.Older);
  expect(map.apply({ ...EMPTY, epoch: 2 })).toBe(ApplyResult.Current);
  expect(contentOf(map)).toEqual(before);
  expect(map.apply({ ...EMPTY, generation: 2, epoch: 1 })).toBe(ApplyResult.Applied);
  expect(map.osds.size).toBe(0);
  expect(map.apply({ ...EMPTY, generation: 1, epoch: 900 })).toBe(ApplyResult.Older);
});

test("a delta with a gap, or of another generation, is not applied", () => {
  const map = newMap();
  const part = { ...EMPTY, full: false };
  expect(map.apply({ ...part, fromEpoch: 2, epoch: 3 })).toBe(ApplyResult.Gap);
  expect(map.apply({ ...part, generation: 2, fromEpoch: 1, epoch: 3 })).toBe(ApplyResult.Gap);
  expect(map.epoch).toBe(1 as Epoch);
});

test("malformed maps are refused whole", () => {
  const map = newMap();
  const rows = map.next({ osds: [osd(0)], pools: [pool(1, "p")], pgs: [pg(1, 0)] });
  const bad: MapDelta[] = [
    { ...rows, pools: [{ ...rows.pools[0]!, pgCount: 3 }] },
    { ...rows, pools: [{ ...rows.pools[0]!, name: "../x" }] },
    { ...rows, pools: [{ ...rows.pools[0]!, failureDomain: "moon" }] },
    { ...rows, pools: [{ ...rows.pools[0]!, size: 7 }] },
    { ...rows, removedPools: [{ first: 2, last: 1, generation: 1, changeEpoch: 1 }] },
    { ...rows, removedPools: [{ first: 1, last: 65_536, generation: 1, changeEpoch: 1 }] },
    { ...rows, osds: [{ ...rows.osds[0]!, weight: Number.NaN }] },
    { ...rows, osds: [{ ...rows.osds[0]!, weight: 2 ** 32 }] },
    {
      ...rows,
      pgs: [{ ...rows.pgs[0]!, replicas: [rows.pgs[0]!.replicas[0]!, rows.pgs[0]!.replicas[0]!] }],
    },
  ];
  for (const delta of bad) expect(() => map.apply(delta)).toThrow("malformed");
  expect(map.osds.size).toBe(0);
  expect(map.apply(rows)).toBe(ApplyResult.Applied);
});

test("leader hints move the epoch but not the last change of a group", () => {
  const map = newMap();
  map.apply(map.next({ pools: [pool(1, "p")], pgs: [pg(1, 0)] }));
  const id = pgIdOf(1 as PoolId, 0);
  const created = map.pgs.get(id)!.lastChangeEpoch;
  map.apply(map.next({ pgs: [{ ...map.pgs.get(id)!, leader: 2 as ReplicaId }] }));
  expect(map.pgs.get(id)).toMatchObject({ leader: 2, lastChangeEpoch: created, changeEpoch: 3 });
  map.apply(map.next({ pgs: [{ ...map.pgs.get(id)!, creating: false }] }));
  expect(map.pgs.get(id)!.lastChangeEpoch).toBe(4 as Epoch);
});

test("a follower that applies deltas from anywhere equals the source", () => {
  const step = fc.oneof(
    fc.record({ kind: fc.constant("osd" as const), id: fc.nat(4), up: fc.boolean() }),
    fc.record({ kind: fc.constant("pool" as const) }),
    fc.record({ kind: fc.constant("remove" as const), at: fc.nat(5) }),
    fc.record({ kind: fc.constant("follow" as const) }),
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
      const source = newMap();
      const follower = new ClusterMap();
      let lastPool = 0;
      const follow = (): void => {
        const delta = source.deltaFrom(follower.generation, follower.epoch);
        if (delta !== undefined) expect(follower.apply(delta)).toBe(ApplyResult.Applied);
      };
      for (const one of steps) {
        if (one.kind === "follow") follow();
        else if (one.kind === "osd")
          source.apply(source.next({ osds: [osd(one.id, { up: one.up })] }));
        else if (one.kind === "remove") {
          const removedPools = [...source.pools.keys()].slice(one.at, one.at + 1);
          source.apply(source.next({ removedPools }));
        } else {
          lastPool += 1;
          const pgs = [pg(lastPool, 0), pg(lastPool, 1)];
          source.apply(source.next({ pools: [pool(lastPool, `p${String(lastPool)}`)], pgs }));
        }
      }
      follow();
      expect(contentOf(follower)).toEqual(contentOf(source));
      // What a follower passes on is as good as the source's.
      const second = new ClusterMap();
      second.apply(follower.deltaFrom(0, 0)!);
      expect(contentOf(second)).toEqual(contentOf(source));
    }),
    { numRuns: 300 },
  );
});

test("removals are never forgotten, and a few runs tell them all", () => {
  const source = newMap();
  source.apply(source.next({ osds: [osd(0)] }));
  const follower = new ClusterMap();
  follower.apply(source.deltaFrom(0, 0)!);
  for (let id = 1; id <= 3000; id++) {
    source.apply(source.next({ pools: [pool(id, "p")], pgs: [pg(id, 0)] }));
    if (id % 1000 > 0) source.apply(source.next({ removedPools: [id as PoolId] }));
    else source.apply(source.next({ pools: [pool(id, `kept${String(id)}`)] }));
  }
  expect(source.removedPools.rows.map(({ first, last }) => [first, last])).toEqual([
    [1, 999],
    [1001, 1999],
    [2001, 2999],
  ]);
  const delta = source.deltaFrom(follower.generation, follower.epoch)!;
  expect([delta.full, delta.removedPools.length]).toEqual([false, 3]);
  follower.apply(delta);
  expect(contentOf(follower)).toEqual(contentOf(source));
});

test("replicas of a removed pool are those of its own history", () => {
  const map = newMap();
  map.apply(map.next({ pools: [pool(3, "old")] }));
  map.apply({ ...map.deltaFrom(0, 0)!, generation: 2 });
  const young = { ...pool(4, "young"), generation: 2 as Generation };
  map.apply(map.next({ pools: [young], pgs: [pg(4, 0)] }));
  map.apply(map.next({ removedPools: [3 as PoolId, 4 as PoolId] }));
  const covers = (id: number, replica: number): boolean =>
    map.removedPools.covers(id as PoolId, replica);
  expect(map.removedPools.rows).toMatchObject([
    { first: 3, last: 3, generation: 1, changeEpoch: 4 },
    { first: 4, last: 4, generation: 2, changeEpoch: 4 },
  ]);
  // A replica that came later than its pool is of a later generation.
  expect([covers(3, 1), covers(3, firstReplicaOf(2)), covers(4, firstReplicaOf(2))]).toEqual([
    true,
    true,
    true,
  ]);
  expect([covers(4, firstReplicaOf(2) - 1), covers(4, 1), covers(2, 1), covers(5, 1)]).toEqual([
    false,
    false,
    false,
    false,
  ]);
});

test("a large delta in parts takes effect as a whole, in order only", () => {
  const source = newMap();
  const pgs = Array.from({ length: 4 }, (_, at) => pg(1, at));
  source.apply(source.next({ osds: [osd(0), osd(1)], pools: [pool(1, "p"), pool(2, "q")], pgs }));
  source.apply(source.next({ removedPools: [2 as PoolId] }));
  const delta = source.deltaFrom(0, 0)!;
  const parts = splitDelta(delta, 300);
  expect(parts.length).toBeGreaterThan(3);
  expect(splitDelta(delta)).toEqual([delta]);
  const follower = new ClusterMap();
  for (const part of parts.slice(0, -1)) {
    expect(follower.apply(part)).toBe(ApplyResult.Partial);
    expect(follower.epoch).toBe(0 as Epoch);
  }
  expect(follower.apply(parts[1]!)).toBe(ApplyResult.Gap);
  expect(follower.apply(parts[parts.length - 1]!)).toBe(ApplyResult.Applied);
  expect(contentOf(follower)).toEqual(contentOf(source));
  // A beginning that is never finished does not harm what comes after it.
  const second = new ClusterMap();
  second.apply(parts[0]!);
  expect(second.apply({ ...parts[1]!, epoch: 9 })).toBe(ApplyResult.Gap);
  expect(second.apply(delta)).toBe(ApplyResult.Applied);
  expect(contentOf(second)).toEqual(contentOf(source));
});

test("objects of images with numbers that concatenate alike are told apart", () => {
  const big = { ...pool(1, "p"), pgCount: 65_536 };
  expect(objectToPg(big, 1, 11)).not.toBe(objectToPg(big, 11, 1));
});

test("doubling a pool's groups splits each group and mixes none", () => {
  const small = { ...pool(1, "p"), pgCount: 32 };
  const large = { ...small, pgCount: 64 };
  for (let object = 0; object < 1000; object++) {
    expect(objectToPg(large, 7, object) % 32).toBe(objectToPg(small, 7, object) % 32);
  }
});

test("a group's state follows its osds and its leader", () => {
  const osds = new Map([0, 1, 2].map((id) => [id as OsdId, osd(id)]));
  const down = (...ids: number[]): ReadonlyMap<OsdId, OsdInfo> =>
    new Map([...osds].map(([id, one]) => [id, { ...one, up: !ids.includes(id) }]));
  const group = pg(1, 0, { creating: false, leader: 1 as ReplicaId });
  expect(pgStateOf(pg(1, 0), osds)).toBe(PgState.Creating);
  expect(pgStateOf(group, osds)).toBe(PgState.Active);
  expect(pgStateOf(group, down(2))).toBe(PgState.Degraded);
  expect(pgStateOf(group, down(0))).toBe(PgState.Leaderless);
  expect(pgStateOf(group, down(1, 2))).toBe(PgState.Down);
  expect(pgStateOf({ ...group, leader: 0 as ReplicaId }, osds)).toBe(PgState.Leaderless);
  // Another disk under the same osd id is not the replica.
  const replaced = new Map([...osds, [2 as OsdId, osd(2, { storeUuid: "other" })]]);
  expect(pgStateOf(group, replaced)).toBe(PgState.Degraded);
  // A joint configuration needs both majorities.
  const joint = {
    index: 5 as LogIndex,
    voters: [1, 2, 3].map((id) => id as ReplicaId),
    outgoing: [3 as ReplicaId],
    learners: [],
  };
  expect(pgStateOf({ ...group, configuration: joint }, down(2))).toBe(PgState.Down);
});

test("the recovery dial travels in deltas, stays when they do not tell it, and goes with another map", () => {
  const map = new ClusterMap();
  map.apply(EMPTY);
  expect(map.recovery).toMatchObject({ speed: RecoverySpeed.Medium, paused: false });
  expect(map.deltaFrom(0, 0)).not.toHaveProperty("recovery");
  const behind = new ClusterMap();
  behind.apply(map.deltaFrom(0, 0)!);
  map.apply(map.next({ recovery: { ...map.recovery, speed: RecoverySpeed.Low, paused: true } }));
  map.apply(map.next({ pools: [pool(1, "a")] }));
  const told = { speed: RecoverySpeed.Low, paused: true, changeEpoch: 2 };
  expect(map.recovery).toEqual(told as typeof map.recovery);
  expect(map.deltaFrom(1, 2)).not.toHaveProperty("recovery");
  for (const part of splitDelta(map.deltaFrom(1, 1)!, 1)) behind.apply(part);
  expect(behind.recovery).toEqual(map.recovery);
  const fresh = new ClusterMap();
  fresh.apply(map.deltaFrom(0, 0)!);
  expect(fresh.recovery).toEqual(map.recovery);
  fresh.apply({ ...EMPTY, generation: 2 });
  expect(fresh.recovery).toMatchObject({ speed: RecoverySpeed.Medium, paused: false });
  fresh.apply({ ...EMPTY, generation: 3, recovery: { speed: 9, paused: false, changeEpoch: 1 } });
  expect(fresh.recovery.speed).toBe(RecoverySpeed.Medium);
});
