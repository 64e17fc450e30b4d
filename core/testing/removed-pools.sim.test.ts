/**
 * Pools that are removed while an osd hears nothing of it, in whole simulated clusters: their
 * replicas go when it does, and nothing goes because a catalogue has forgotten it (G10).
 */
import { expect, test } from "bun:test";
import { drainMicrotasks } from "bun:jsc";
import { type PoolId, poolOfPg } from "../base/ids.ts";
import { BLOCK_SIZE } from "../base/units.ts";
import { SystemChecksum } from "../reactor/bun-system.ts";
import { groupsOf, MON_ADDRESS, SimCluster, type SimOsd } from "./sim-cluster.ts";

const LIMIT_US = 90_000_000;
/** A connection that carries nothing for so long is over. */
const SILENCE_US = 20_000_000;
const BLOCKS = 64;
const STRIDE_BYTES = 65_536;
const POOL = 1 as PoolId;

/** With some data in pool 1; and pool 2 without any, which all osds go on sharing groups of. */
function newCluster(): SimCluster {
  const cluster = new SimCluster(5, {
    osds: 4,
    replicas: 3,
    pgCount: 4,
    imageBytes: BLOCKS * STRIDE_BYTES,
    checksum: new SystemChecksum(),
    drainMicrotasks,
  });
  cluster.start();
  createPool(cluster, "kept", 8);
  const image = cluster.await("open", cluster.client.openImage("pool/image"));
  for (let block = 0; block < BLOCKS; block++) {
    const data = new Uint8Array(BLOCK_SIZE).fill(1 + block);
    cluster.await("write", image.write(block * STRIDE_BYTES, data));
  }
  return cluster;
}

function until(cluster: SimCluster, what: string, done: () => boolean): void {
  expect(`${what}: ${String(cluster.simulation.run(done, LIMIT_US))}`).toBe(`${what}: true`);
}

function pass(cluster: SimCluster, us: number): void {
  cluster.simulation.run(cluster.simulation.nowUs + us);
}

/** Answers its id once all of its groups are there. */
function createPool(cluster: SimCluster, name: string, pgCount: number): PoolId {
  const spec = { name, size: 3, pgCount, failureDomain: "osd" };
  const { pool } = cluster.await("create", cluster.monitor.pools.create(spec, false));
  until(cluster, "established", () => cluster.pgs.every((pg) => !pg.creating));
  return pool.id;
}

/** With its image, as people do. */
function removePool(cluster: SimCluster): void {
  const { catalogue, images, pools } = cluster.monitor;
  const { id } = cluster.await("image remove", images.remove("pool", "image", true, false));
  const isDone = (): boolean => catalogue.operations.get(id)?.state === "done";
  until(cluster, "image removed", isDone);
  cluster.await("pool remove", pools.remove("pool", false));
}

function countOf(osd: SimOsd, pool: PoolId): number {
  return groupsOf(osd).filter((group) => poolOfPg(group.pg as never) === pool).length;
}

function bytesUsed(osd: SimOsd): number {
  return osd.shard!.report(true).figures!.usage.bytesUsed;
}

/** Neither hears the other any more. */
function separate({ simulation }: SimCluster, a: string, b: string): void {
  simulation.cut(a, b);
  simulation.cut(b, a);
}

/** Nothing is left of the pool, nor of its space. */
function expectGone(cluster: SimCluster, osd: SimOsd): void {
  until(cluster, "its replicas are gone", () => countOf(osd, POOL) === 0);
  until(cluster, "so is their space", () => bytesUsed(osd) === 0);
}

test("a pool that was removed goes from an osd that was down, though the mon was restarted", () => {
  const cluster = newCluster();
  const away = cluster.osds[0]!;
  expect([countOf(away, POOL) > 0, bytesUsed(away) > 0]).toEqual([true, true]);
  const pg = cluster.pgs.find(
    (one) => poolOfPg(one.id) !== POOL && one.replicas.some(({ osd }) => osd === away.id),
  )!;
  const spare = cluster.osds.find((osd) => pg.replicas.every((one) => one.osd !== osd.id))!;
  cluster.await("stop", cluster.stopOsd(away));
  removePool(cluster);
  cluster.replaceReplica(pg.id, away.id, spare.id);
  until(cluster, "replaced", () => cluster.settled);
  cluster.restartMonitor();
  cluster.startOsd(away);
  until(cluster, "it is up", () => cluster.isUp(away));
  expectGone(cluster, away);
  // A replica that left its group meanwhile goes by what the map says of the group.
  until(cluster, "the replaced one is gone", () => {
    return groupsOf(away).every((group) => group.pg !== pg.id);
  });
  expect(countOf(away, 2 as PoolId)).toBeGreaterThan(0);
}, 60_000);

test("a pool that was removed goes from an osd that was cut off, by what its peers tell", () => {
  const cluster = newCluster();
  const away = cluster.osds[0]!;
  separate(cluster, away.address, "*");
  pass(cluster, SILENCE_US);
  removePool(cluster);
  // The peers have it in full themselves, and tell it so.
  cluster.restartMonitor(cluster.copyCatalogue());
  pass(cluster, SILENCE_US);
  expect(countOf(away, POOL)).toBeGreaterThan(0);
  cluster.simulation.heal();
  separate(cluster, MON_ADDRESS, "*");
  expectGone(cluster, away);
  expect(countOf(away, 2 as PoolId)).toBeGreaterThan(0);
}, 60_000);

test("G10: a catalogue that was restored removes nothing that it does not know", () => {
  const cluster = newCluster();
  const backup = cluster.copyCatalogue();
  const late = createPool(cluster, "late", 4);
  const counts = (): number[] => cluster.osds.map((osd) => countOf(osd, late));
  const before = counts();
  const away = cluster.osds[0]!;
  cluster.await("stop", cluster.stopOsd(away));
  cluster.restartMonitor(backup);
  cluster.startOsd(away);
  until(cluster, "all are up", () => cluster.osds.every((osd) => cluster.isUp(osd)));
  pass(cluster, SILENCE_US);
  expect(counts()).toEqual(before);
  expect(cluster.monitor.catalogue.map.pools.has(late)).toBe(false);
  // What it does know, and removes, goes as ever.
  removePool(cluster);
  for (const osd of cluster.osds) expectGone(cluster, osd);
  expect(counts()).toEqual(before);
}, 60_000);

test("G10: a pool that has the id of one from another history goes alone", () => {
  const cluster = newCluster();
  const backup = cluster.copyCatalogue();
  // As many as a restored catalogue jumps over: the next one gets an id that it will give again.
  const skip = 64;
  cluster.await(
    "skip",
    cluster.monitor.catalogue.change((change) => {
      for (let at = 0; at < skip; at++) change.allocate("pool");
    }),
  );
  const late = createPool(cluster, "late", 4);
  const counts = (): number[] => cluster.osds.map((osd) => countOf(osd, late));
  const before = counts();
  cluster.restartMonitor(backup);
  until(cluster, "all are up", () => cluster.osds.every((osd) => cluster.isUp(osd)));
  until(cluster, "all are heard", () => cluster.monitor.catalogue.held === undefined);
  const spec = { name: "other", size: 3, pgCount: 4, failureDomain: "osd" };
  const { pools } = cluster.monitor;
  expect(cluster.await("create", pools.create(spec, false)).pool.id).toBe(late);
  pass(cluster, SILENCE_US);
  cluster.await("remove", pools.remove("other", false));
  cluster.restartMonitor();
  pass(cluster, SILENCE_US);
  expect(counts()).toEqual(before);
}, 60_000);
