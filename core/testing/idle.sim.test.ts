/** What a cluster does when nobody asks anything of it: heartbeats and reports, whatever it holds. */
import { expect, test } from "bun:test";
import { drainMicrotasks } from "bun:jsc";
import { SystemChecksum } from "../reactor/bun-system.ts";
import type { SimWorld } from "../reactor/reactor.ts";
import type { Stream } from "../reactor/world.ts";
import { MON_ADDRESS, SimCluster } from "./sim-cluster.ts";

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
const PAIR_BYTES_MAX = 1_024;

interface Rest {
  /** A second, of each osd. */
  readonly turns: number[];
  readonly heartbeats: number[];
  /** A second, both ways, of each pair of shards. */
  readonly pairBytes: number[];
}

/** The longest time between the last words of two peers, of each osd. */
function spreadUs(cluster: SimCluster): number[] {
  return cluster.osds.map((osd) => {
    const heardUs = [...osd.shard!.pg.peers.links.values()].map((link) => link.heardUs);
    return Math.max(...heardUs) - Math.min(...heardUs);
  });
}

/** Adds up what passes between two shards, both ways, on the connections that either dials. */
class PairMeter {
  readonly bytes = new Map<string, number>();

  watch(world: SimWorld): void {
    const { network, address } = world;
    const connect = network.connect.bind(network);
    const tapped: Pick<typeof network, "connect"> = {
      connect: (target, handler, options) => {
        const stream = connect(target, handler, options);
        if (target.kind !== "tcp" || target.host === MON_ADDRESS) return stream;
        const pair = [address, target.host].toSorted().join(" ");
        return this.tap(stream, pair);
      },
    };
    Object.assign(network, tapped);
  }

  /** A second, of each pair. */
  rates(before: ReadonlyMap<string, number>): number[] {
    return [...this.bytes].map(([pair, bytes]) => (bytes - before.get(pair)!) / SECONDS);
  }

  private tap(stream: Stream, pair: string): Stream {
    const commit = stream.commit.bind(stream);
    const consume = stream.consume.bind(stream);
    const add = (bytes: number): void => {
      this.bytes.set(pair, (this.bytes.get(pair) ?? 0) + bytes);
    };
    const tapped: Pick<Stream, "commit" | "consume"> = {
      commit: (bytes) => {
        add(bytes);
        commit(bytes);
      },
      consume: (bytes) => {
        add(bytes);
        consume(bytes);
      },
    };
    return Object.assign(stream, tapped);
  }
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
  const meter = new PairMeter();
  const cluster = new SimCluster(7, {
    osds: OSDS,
    replicas: 3,
    pgCount: groups,
    imageBytes: MIB,
    checksum: new SystemChecksum(),
    drainMicrotasks,
    onWorld: (world) => {
      if (world.name.startsWith("osd.")) meter.watch(world);
    },
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
  const look = (): Omit<Rest, "pairBytes"> => ({
    turns: cluster.osds.map((osd) => osd.world!.stats.turns),
    heartbeats: cluster.osds.map((osd) => osd.shard!.report(true).figures!.raft.heartbeats),
  });
  const before = look();
  const bytesBefore = new Map(meter.bytes);
  pass(WINDOW_US);
  const pairBytes = meter.rates(bytesBefore);
  const after = look();
  // Not while a beat is on its way.
  expect(simulation.run(() => Math.max(...spreadUs(cluster)) < IN_STEP_US, 50_000)).toBe(true);
  const rate = (key: "turns" | "heartbeats"): number[] =>
    after[key].map((count, at) => (count - before[key][at]!) / SECONDS);
  return { turns: rate("turns"), heartbeats: rate("heartbeats"), pairBytes };
}

test("shards send one heartbeat to each other every 100 ms, in step, however many groups they share", () => {
  const few = restOf(FEW);
  const many = restOf(MANY);
  console.log(`turns a second: ${few.turns.join(" ")}; of ${MANY} groups: ${many.turns.join(" ")}`);
  console.log(`bytes a second: ${few.pairBytes.join(" ")}; ${many.pairBytes.join(" ")}`);
  for (const rest of [few, many]) {
    expect(rest.pairBytes.length).toBe((OSDS * (OSDS - 1)) / 2);
    for (const bytes of rest.pairBytes) {
      expect(bytes).toBeGreaterThan(PAIR_BYTES_MAX / 2);
      expect(bytes).toBeLessThanOrEqual(PAIR_BYTES_MAX);
    }
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
