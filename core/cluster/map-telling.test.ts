import { create, toBinary } from "@bufbuild/protobuf";
import { expect, test } from "bun:test";
import {
  type Epoch,
  type OsdId,
  pgIdOf,
  type PoolId,
  type ReplicaId,
  type ShardIndex,
  type Term,
} from "../base/ids.ts";
import { MapUpdateSchema } from "../../proto/gen/control_pb.ts";
import {
  ApplyResult,
  ClusterMap,
  type MapDelta,
  MapTeller,
  type PgInfo,
  TOLD_BYTES_MAX,
} from "./cluster.ts";

const POOL = 1 as PoolId;
const UUID = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee";

function pg(index: number, first = 1): PgInfo {
  return {
    id: pgIdOf(POOL, index),
    lastChangeEpoch: 0 as Epoch,
    changeEpoch: 0 as Epoch,
    creating: false,
    replicas: [0, 1, 2].map((at) => ({
      replicaId: (first + at) as ReplicaId,
      osd: at as OsdId,
      storeUuid: UUID,
      shard: 0 as ShardIndex,
      leaving: false,
      witness: false,
    })),
    leader: 0xffff_ffff as ReplicaId,
    leaderTerm: 1e15 as Term,
    configuration: undefined,
  };
}

/** At epoch 2 of generation 3, with so many groups. */
function mapOf(pgCount: number): ClusterMap {
  const map = new ClusterMap();
  const nothing = map.next({});
  map.apply({ ...nothing, generation: 3, full: true });
  map.apply(map.next({ pgs: Array.from({ length: pgCount }, (_, index) => pg(index)) }));
  return map;
}

/** Asked for the first time. */
function deltaToTell(map: ClusterMap, generation: number, epoch: number): MapDelta | undefined {
  return new MapTeller(map).lackOf(generation, epoch);
}

function copyOf(map: ClusterMap): ClusterMap {
  const copy = new ClusterMap();
  copy.apply(map.deltaFrom(0, 0)!);
  return copy;
}

function tell(map: ClusterMap, to: ClusterMap): ApplyResult | undefined {
  const delta = deltaToTell(map, to.generation, to.epoch);
  return delta === undefined ? undefined : to.apply(delta);
}

test("who lacks some epochs is told them in one, whatever came in between", () => {
  const map = mapOf(500);
  const old = copyOf(map);
  for (let step = 1; step <= 40; step++) map.apply(map.next({ pgs: [pg(step % 7, 10 * step)] }));
  const delta = deltaToTell(map, old.generation, old.epoch)!;
  expect([delta.full, delta.fromEpoch, delta.epoch, delta.pgs.length]).toEqual([false, 2, 42, 7]);
  expect(old.apply(delta)).toBe(ApplyResult.Applied);
  expect(old.deltaFrom(0, 0)).toEqual(map.deltaFrom(0, 0));
});

test("nothing is told to who has as much, or more", () => {
  const map = mapOf(4);
  expect(deltaToTell(map, 3, 2)).toBeUndefined();
  expect(deltaToTell(map, 3, 3)).toBeUndefined();
  expect(deltaToTell(map, 4, 1)).toBeUndefined();
});

test("all is told, if it is little, to who has an older generation", () => {
  const map = mapOf(4);
  expect(deltaToTell(map, 2, 900)).toMatchObject({ full: true, generation: 3, epoch: 2 });
  // What was read from a file, or told in full, is as good as what was heard bit by bit.
  const kept = copyOf(map);
  kept.apply(kept.next({ pgs: [pg(1, 20)] }));
  expect(deltaToTell(kept, 3, 1)).toMatchObject({ full: false, fromEpoch: 1, epoch: 3 });
  expect(deltaToTell(kept, 3, 2)!.pgs.length).toBe(1);
  const empty = new ClusterMap();
  expect(tell(map, empty)).toBe(ApplyResult.Applied);
  expect(empty.deltaFrom(0, 0)).toEqual(map.deltaFrom(0, 0));
});

test("more than one message holds is not told", () => {
  let largest = 0;
  for (const pgCount of [512, 768, 1024, 4096, 4097, 20_000]) {
    const delta = deltaToTell(mapOf(pgCount), 0, 0);
    if (delta === undefined) continue;
    expect(delta.pgs.length).toBe(pgCount);
    largest = toBinary(MapUpdateSchema, create(MapUpdateSchema, delta)).length;
    expect(largest).toBeLessThan(TOLD_BYTES_MAX - 1024);
  }
  expect(largest).toBeGreaterThan(TOLD_BYTES_MAX / 3);
  expect(deltaToTell(mapOf(4096), 0, 0)).toBeUndefined();
  // Its few changes are.
  const map = mapOf(4096);
  map.apply(map.next({ pgs: [pg(9, 20)] }));
  expect(deltaToTell(map, 3, 2)?.pgs.length).toBe(1);
});

/** Counts how often its rows are looked at. */
class CountedMap extends ClusterMap {
  counted = 0;

  override rowsFrom(generation: number, epoch: number): number {
    this.counted++;
    return super.rowsFrom(generation, epoch);
  }
}

test("that something is too much is found out once for each map and place in its history", () => {
  const map = new CountedMap();
  map.apply(mapOf(5000).deltaFrom(0, 0)!);
  const first = Array.from({ length: 4500 }, (_, index) => pg(index, 20));
  map.apply(map.next({ pgs: first }));
  const teller = new MapTeller(map);
  const asked = (generation: number, epoch: number): boolean => {
    return teller.lackOf(generation, epoch) !== undefined;
  };
  for (let times = 0; times < 5; times++) expect(asked(3, 2)).toBe(false);
  expect(map.counted).toBe(1);
  // All that want all of it are one.
  for (const [generation, epoch] of [
    [2, 7],
    [1, 1],
    [3, 0],
  ] as const) {
    expect(asked(generation, epoch)).toBe(false);
  }
  expect(map.counted).toBe(2);
  // Another map is another answer, in both directions.
  map.apply(map.next({ pgs: [pg(9, 30)] }));
  expect([asked(3, 3), asked(3, 3), asked(3, 2)]).toEqual([true, true, false]);
  const small = mapOf(4).deltaFrom(0, 0)!;
  map.apply({ ...small, generation: 4 });
  expect([asked(3, 2), asked(3, 4)]).toEqual([true, true]);
});

test("rows are counted as they are told", () => {
  const map = mapOf(20);
  map.apply(map.next({ pgs: [pg(1, 9), pg(2, 9)] }));
  expect([map.rowsFrom(3, 0), map.rowsFrom(2, 3), map.rowsFrom(3, 2)]).toEqual([20, 20, 2]);
});
