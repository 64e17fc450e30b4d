/**
 * The empty disk that voted: an osd that lost its disk forgot what it acknowledged, and its vote under
 * the old identity would elect a leader that lacks it. Told with whole clusters.
 */
import { describe, expect, test } from "bun:test";
import { drainMicrotasks } from "bun:jsc";
import { assert } from "../base/assert.ts";
import { BLOCK_SIZE } from "../base/units.ts";
import type { Image } from "../client/client.ts";
import { SystemChecksum } from "../reactor/bun-system.ts";
import { groupsOf, MON_ADDRESS, SimCluster, type SimOsd } from "./sim-cluster.ts";

const LIMIT_US = 60_000_000;
/** Many elections. */
const LONG_US = 20_000_000;

interface Scene {
  readonly cluster: SimCluster;
  readonly image: Image;
  /** Who leads and has everything; who does too; who missed the last write. */
  readonly leader: SimOsd;
  readonly witness: SimOsd;
  readonly behind: SimOsd;
}

function filled(value: number): Uint8Array {
  return new Uint8Array(BLOCK_SIZE).fill(value);
}

/** A write that the leader and one other have acknowledged, and the third never heard of; both die. */
function scene(seed: number): Scene {
  const cluster = new SimCluster(seed, {
    osds: 3,
    replicas: 3,
    pgCount: 1,
    imageBytes: 16 * 1_048_576,
    checksum: new SystemChecksum(),
    drainMicrotasks,
  });
  cluster.start();
  const { simulation } = cluster;
  const image = cluster.await("open", cluster.client.openImage("pool/image"));
  cluster.await("write", image.write(0, filled(1)));
  simulation.run(() => cluster.pgs.every((pg) => !pg.creating), LIMIT_US);
  const leader = cluster.osds.find((osd) => groupsOf(osd).some((group) => group.serving));
  assert(leader !== undefined, "scene: nobody leads");
  const [witness, behind] = cluster.osds.filter((osd) => osd !== leader);
  for (const osd of [leader, witness!]) {
    simulation.cut(osd.address, behind!.address);
    simulation.cut(behind!.address, osd.address);
  }
  cluster.await("the write of two", image.write(0, filled(2)));
  leader.world!.crash();
  witness!.world!.crash();
  simulation.heal();
  return { cluster, image, leader, witness: witness!, behind: behind! };
}

function mayLead({ cluster }: Scene, among: readonly SimOsd[]): boolean {
  const leads = (osd: SimOsd): boolean => groupsOf(osd).some((group) => group.isLeader);
  return cluster.simulation.run(() => among.some(leads), LONG_US);
}

describe("the witness of a write", () => {
  const seeds = [1, 2, 3, 4, 5, 6];
  test.each(seeds)("seed %d: with its disk it elects who has the write", (seed) => {
    const bench = scene(seed);
    bench.cluster.startOsd(bench.witness);
    expect(mayLead(bench, [bench.witness, bench.behind])).toBe(true);
    expect(bench.cluster.await("read", bench.image.read(0, 1))[0]).toBe(2);
  });

  test.each(seeds)(
    "seed %d: on an empty disk, asked under its old identity, it elects nobody",
    (seed) => {
      const bench = scene(seed);
      const { cluster, witness, behind, leader } = bench;
      const { simulation } = cluster;
      // In half of the seeds nobody tells the asking one that the store is another one.
      if (seed % 2 === 0) simulation.cut(MON_ADDRESS, behind.address);
      const elections = (): number => behind.shard!.report(true).figures!.raft.elections;
      const before = elections();
      simulation.run(() => !cluster.isUp(witness), LIMIT_US);
      cluster.replaceDisk(witness);
      cluster.startOsd(witness);
      expect(mayLead(bench, [witness, behind])).toBe(false);
      expect(elections()).toBe(before);
      simulation.heal();
      cluster.startOsd(leader);
      expect(cluster.await("read", bench.image.read(0, 1))[0]).toBe(2);
      expect(simulation.run(() => cluster.settled && cluster.serving, LIMIT_US)).toBe(true);
      expect(cluster.await("read", bench.image.read(0, 1))[0]).toBe(2);
    },
  );
});
