/**
 * Maps that travel without the monitor, in whole simulated clusters: a client and an osd that it can
 * not reach learn where replicas have moved to.
 */
import { expect, test } from "bun:test";
import { drainMicrotasks } from "bun:jsc";
import { BLOCK_SIZE } from "../base/units.ts";
import { SystemChecksum } from "../reactor/bun-system.ts";
import { groupsOf, MON_ADDRESS, SimCluster, type SimOsd } from "./sim-cluster.ts";

const CLIENT_ADDRESS = "10.0.0.200";
const LIMIT_US = 90_000_000;
/** A connection that carries nothing for so long is over. */
const SILENCE_US = 20_000_000;
/** By then a map has reached everybody. */
const TOLD_US = 100_000;
/** Far enough apart for every group to have some. */
const BLOCKS = 64;
const STRIDE_BYTES = 65_536;

function newCluster(osds: number): SimCluster {
  const cluster = new SimCluster(5, {
    osds,
    replicas: 3,
    pgCount: 4,
    imageBytes: BLOCKS * STRIDE_BYTES,
    checksum: new SystemChecksum(),
    drainMicrotasks,
  });
  cluster.start();
  until(cluster, "established", () => cluster.pgs.every((pg) => !pg.creating));
  return cluster;
}

function until(cluster: SimCluster, what: string, done: () => boolean): void {
  expect(`${what}: ${String(cluster.simulation.run(done, LIMIT_US))}`).toBe(`${what}: true`);
}

function pass(cluster: SimCluster, us: number): void {
  cluster.simulation.run(cluster.simulation.nowUs + us);
}

/** Neither hears the other any more. */
function separate({ simulation }: SimCluster, a: string, b: string): void {
  simulation.cut(a, b);
  simulation.cut(b, a);
}

function contentOf(value: number): Uint8Array {
  return new Uint8Array(BLOCK_SIZE).fill(value);
}

/** Move every replica of a group to osds that have none, one after the other. */
function moveGroup(cluster: SimCluster, pg: number): void {
  const before = cluster.pgs.find((one) => one.id === pg)!.replicas.map((one) => one.osd);
  const spares = cluster.osds.filter((osd) => !before.includes(osd.id as never));
  for (const [at, from] of before.entries()) {
    cluster.replaceReplica(pg, from, spares[at]!.id);
    until(cluster, "replaced", () => cluster.settled);
  }
  const isGone = (osd: SimOsd): boolean => groupsOf(osd).every((group) => group.pg !== pg);
  until(cluster, "the old ones are gone", () => before.every((id) => isGone(cluster.osds[id]!)));
}

test("G10: a client that the mon can not reach follows replicas by what osds tell it", () => {
  const cluster = newCluster(6);
  const image = cluster.await("open", cluster.client.openImage("pool/image"));
  for (let block = 0; block < BLOCKS; block++) {
    cluster.await("write", image.write(block * STRIDE_BYTES, contentOf(block)));
  }
  separate(cluster, MON_ADDRESS, CLIENT_ADDRESS);
  pass(cluster, SILENCE_US);
  const { client } = cluster;
  const { epoch } = client.map;
  for (const { id } of cluster.pgs) moveGroup(cluster, id);
  // The last map is on its way to the osds.
  pass(cluster, TOLD_US);
  separate(cluster, MON_ADDRESS, "*");
  expect(client.map.epoch).toBe(epoch);
  const { resends, mapsWanted } = client.counts;
  for (let block = 0; block < BLOCKS; block++) {
    const at = block * STRIDE_BYTES;
    if (block % 2 === 0) cluster.await("write", image.write(at, contentOf(100 + block)));
    const read = cluster.await("read", image.read(at, BLOCK_SIZE));
    expect([block, read[0]]).toEqual([block, block % 2 === 0 ? 100 + block : block]);
  }
  for (const pg of cluster.pgs) {
    expect(client.map.pgs.get(pg.id)?.replicas).toEqual(pg.replicas);
  }
  // The refusal found the newer map in front of it: nobody had to ask for one.
  expect(client.counts.resends).toBeGreaterThan(resends);
  expect(client.counts.mapsWanted).toBe(mapsWanted);
}, 60_000);

test("an osd that the mon can not reach has the map from its peers", () => {
  const cluster = newCluster(4);
  const { simulation } = cluster;
  const [behind, other] = [cluster.osds[0]!, cluster.osds[1]!];
  const epochOf = (osd: SimOsd): number => osd.shard!.report(true).epoch;
  separate(cluster, MON_ADDRESS, behind.address);
  pass(cluster, SILENCE_US);
  const pg = cluster.pgs.find((one) => one.replicas.some(({ osd }) => osd === other.id))!;
  const spare = cluster.osds.find((osd) => pg.replicas.every((one) => one.osd !== osd.id))!;
  cluster.replaceReplica(pg.id, other.id, spare.id);
  const moved = epochOf(other);
  until(cluster, "it has that", () => epochOf(behind) >= moved);
  // Nor does anybody else: what one has they all have, and nothing is lost when the mon is back.
  separate(cluster, MON_ADDRESS, "*");
  pass(cluster, SILENCE_US);
  expect(new Set(cluster.osds.map(epochOf)).size).toBe(1);
  simulation.heal();
  until(cluster, "replaced", () => cluster.settled);
  until(cluster, "all have one map", () => new Set(cluster.osds.map(epochOf)).size === 1);
}, 60_000);
