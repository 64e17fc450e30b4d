/**
 * What a leader wrote alone is replaced by what the one before it wrote alone: by an entry of an older
 * term, in the place of a newer one (figure 8 of the Raft paper), on whole simulated clusters.
 */
import { expect, test } from "bun:test";
import { drainMicrotasks } from "bun:jsc";
import { BLOCK_SIZE } from "../base/units.ts";
import type { Group } from "../pg/pg.ts";
import { SystemChecksum } from "../reactor/bun-system.ts";
import { groupsOf, isServing, SimCluster, type SimOsd } from "./sim-cluster.ts";

const LIMIT_US = 30_000_000;
/** Longer than any message takes. */
const SLOW_US = 20_000;

function newCluster(seed: number): SimCluster {
  const cluster = new SimCluster(seed, {
    osds: 3,
    replicas: 3,
    pgCount: 1,
    imageBytes: 1_048_576,
    checksum: new SystemChecksum(),
    drainMicrotasks,
  });
  cluster.start();
  return cluster;
}

/** The only group of an osd; undefined: it does not run. */
function groupOf(osd: SimOsd): Group | undefined {
  return isServing(osd) ? groupsOf(osd)[0] : undefined;
}

function durableAt(osd: SimOsd): number {
  const group = groupOf(osd);
  return group === undefined ? 0 : group.shard.store.durableIndex(group.row);
}

test("G1: an entry of an older term than the one in its place is acknowledged once it is durable", () => {
  const cluster = newCluster(1);
  const { simulation, osds } = cluster;
  const until = (what: string, done: () => boolean): void =>
    expect(`${what}: ${String(simulation.run(done, LIMIT_US))}`).toBe(`${what}: true`);
  const image = cluster.await("open", cluster.client.openImage("pool/image"));
  until("established", () => cluster.pgs.every((pg) => !pg.creating));
  cluster.await("a write", image.write(0, new Uint8Array(BLOCK_SIZE).fill(1)));
  const first = osds.find((osd) => groupOf(osd)?.serving === true)!;
  const others = osds.filter((osd) => osd !== first);
  const { term } = groupOf(first)!.node;
  until("all have all", () => others.every((osd) => durableAt(osd) === durableAt(first)));
  const index = durableAt(first) + 1;

  // The first leader has a write alone.
  for (const { address } of others) {
    simulation.cut(first.address, address);
    simulation.cut(address, first.address);
  }
  const written = image.write(0, new Uint8Array(BLOCK_SIZE).fill(2));
  until("the first one has it", () => durableAt(first) === index);

  // The next one has its own beginning there, alone: who elected it is gone before it hears of that.
  until("another one leads", () => others.some((osd) => groupOf(osd)?.isLeader === true));
  const second = others.find((osd) => groupOf(osd)!.isLeader)!;
  const third = others.find((osd) => osd !== second)!;
  third.world!.crash();
  until("it has its beginning", () => durableAt(second) >= index);
  expect(groupOf(second)!.node.log.termAt(index)).toBeGreaterThan(term);
  second.world!.crash();
  simulation.heal();
  cluster.startOsd(third);
  cluster.await("the write", written);
  expect(groupOf(first)!.serving).toBe(true);
  expect(groupOf(first)!.node.log.termAt(index)).toBe(term);

  // Whoever led in between gets that in the place of its own, and loses its power.
  cluster.startOsd(second);
  until("it is back", () => groupOf(second) !== undefined);
  expect(groupOf(second)!.node.log.termAt(index)).toBeGreaterThan(term);
  const { faults } = simulation.disk(second.path);
  const { latencyUsMin, latencyUsMax } = faults;
  Object.assign(faults, { latencyUsMin: SLOW_US, latencyUsMax: SLOW_US });
  until("it has told", () => {
    const node = groupOf(second)!.node;
    return node.ackedIndex >= index && node.log.termAt(index) === term;
  });
  expect(durableAt(second)).toBeGreaterThanOrEqual(index);
  second.world!.powerCut(() => false);
  Object.assign(faults, { latencyUsMin, latencyUsMax });
  cluster.startOsd(second);
  // Its leader would log that it has lost what it had acknowledged.
  until("all have all again", () => osds.every((osd) => durableAt(osd) === durableAt(first)));
  expect(groupOf(second)!.node.log.termAt(index)).toBe(term);
  simulation.dispose();
}, 60_000);
