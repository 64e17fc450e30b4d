/** What a cluster does when nobody asks anything of it: heartbeats and reports, whatever it holds. */
import { expect, test } from "bun:test";
import { drainMicrotasks } from "bun:jsc";
import { SystemChecksum } from "../reactor/bun-system.ts";
import { SimCluster } from "./sim-cluster.ts";

const OSDS = 3;
const MIB = 1_048_576;
const FEW = 8;
const MANY = 512;
/** Leaders go home one a second; what the last of them wrote is moved home after that. */
const HOME_LIMIT_US = 300_000_000;
const SETTLE_US = 10_000_000;
const WINDOW_US = 20_000_000;
const SECONDS = WINDOW_US / 1e6;
/** Some messages on their way, of 100 ms. */
const IN_STEP_US = 5_000;

interface Rest {
  /** A second, of each osd. */
  readonly turns: number[];
  readonly heartbeats: number[];
}

/** The longest time between the last words of two peers, of each osd. */
function spreadUs(cluster: SimCluster): number[] {
  return cluster.osds.map((osd) => {
    const heardUs = [...osd.shard!.pg.peers.links.values()].map((link) => link.heardUs);
    return Math.max(...heardUs) - Math.min(...heardUs);
  });
}

/** Parked leaders are. */
function isAtHome(cluster: SimCluster): boolean {
  return cluster.osds.every((osd) =>
    osd
      .shard!.pg.groups.awake()
      .every((group) => !group.isLeader || group.preferred === group.replica),
  );
}

/** All started at the same moment: one begins anew at another. */
function restartOne(cluster: SimCluster, pass: (us: number) => void): void {
  const osd = cluster.osds[1]!;
  pass(1_000_000);
  osd.world!.crash();
  pass(1_033_000);
  cluster.startOsd(osd);
  pass(1_000_000);
}

function restOf(groups: number): Rest {
  const cluster = new SimCluster(7, {
    osds: OSDS,
    replicas: 3,
    pgCount: groups,
    imageBytes: MIB,
    checksum: new SystemChecksum(),
    drainMicrotasks,
  });
  cluster.start();
  const { simulation } = cluster;
  const pass = (us: number): void => {
    const endUs = simulation.nowUs + us;
    simulation.run(() => simulation.nowUs >= endUs, us * 2);
  };
  if (groups === FEW) restartOne(cluster, pass);
  expect(simulation.run(() => cluster.serving && isAtHome(cluster), HOME_LIMIT_US)).toBe(true);
  pass(SETTLE_US);
  const look = (): Rest => ({
    turns: cluster.osds.map((osd) => osd.world!.stats.turns),
    heartbeats: cluster.osds.map((osd) => osd.shard!.report(true).figures!.raft.heartbeats),
  });
  const before = look();
  pass(WINDOW_US);
  const after = look();
  // Not while a beat is on its way.
  expect(simulation.run(() => Math.max(...spreadUs(cluster)) < IN_STEP_US, 50_000)).toBe(true);
  const rate = (key: keyof Rest): number[] =>
    after[key].map((count, at) => (count - before[key][at]!) / SECONDS);
  return { turns: rate("turns"), heartbeats: rate("heartbeats") };
}

test("shards send one heartbeat to each other every 100 ms, in step, however many groups they share", () => {
  const few = restOf(FEW);
  const many = restOf(MANY);
  console.log(`turns a second: ${few.turns.join(" ")}; of ${MANY} groups: ${many.turns.join(" ")}`);
  for (const rest of [few, many]) {
    for (const rate of rest.heartbeats) {
      // Timers have a grain of 1 ms; a shard out of step would add to the rate of the others.
      expect(rate / (OSDS - 1)).toBeGreaterThan(9.7);
      expect(rate / (OSDS - 1)).toBeLessThan(10.3);
    }
  }
  for (const [at, rate] of many.turns.entries()) {
    expect(rate).toBeLessThan(45);
    expect(rate).toBeLessThan(few.turns[at]! * 1.1);
  }
}, 60_000);
