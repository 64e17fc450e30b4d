/** Old copies of a store in a whole cluster: what the monitor remembers (`core/store/starts.ts`). */
import { expect, test } from "bun:test";
import { drainMicrotasks } from "bun:jsc";
import { FastblockError } from "../base/errors.ts";
import { SystemChecksum } from "../reactor/bun-system.ts";
import { MON_ADDRESS, SimCluster, type SimOsd } from "./sim-cluster.ts";

const MIB = 1_048_576;
const SECOND_US = 1_000_000;
const LIMIT_US = 60 * SECOND_US;
/** A store that serves has counted on by then. */
const MARK_US = 310 * SECOND_US;

interface Scene {
  readonly cluster: SimCluster;
  readonly victim: SimOsd;
  /** Why osds were refused, in order. */
  readonly refusals: string[];
  readonly pass: (us: number) => void;
  readonly until: (what: string, holds: () => boolean) => void;
}

function scene(seed: number): Scene {
  const refusals: string[] = [];
  const cluster = new SimCluster(seed, {
    osds: 3,
    replicas: 3,
    pgCount: 4,
    imageBytes: MIB,
    checksum: new SystemChecksum(),
    drainMicrotasks,
    onRefused: (_osd, error) => {
      if (!(error instanceof FastblockError)) throw error;
      refusals.push(`${error.code} ${error.why ?? ""}`);
    },
  });
  cluster.start();
  const { simulation } = cluster;
  const until = (what: string, holds: () => boolean): void => {
    if (!simulation.run(holds, LIMIT_US)) throw new Error(`in vain: ${what}`);
  };
  until("all groups serve", () => cluster.serving);
  const pass = (us: number): void => {
    simulation.run(simulation.nowUs + us);
  };
  return { cluster, victim: cluster.osds[2]!, refusals, pass, until };
}

test("N22: the monitor refuses an old copy as often as it starts, and takes the right disk then", () => {
  const { cluster, victim, refusals, pass, until } = scene(1);
  const disk = cluster.simulation.disk(victim.path);
  pass(SECOND_US);
  const running = disk.image();
  pass(MARK_US);
  victim.world!.crash();
  const stopped = disk.image();
  until("it is down", () => !cluster.isUp(victim));
  cluster.startOsd(victim);
  until("it is up", () => cluster.isUp(victim));
  victim.world!.crash();
  const right = disk.image();
  // Copies of an osd that ran before its last mark, and of one that had stopped.
  for (const old of [running, stopped]) {
    disk.restore(old);
    for (let times = 0; times < 5; times++) {
      cluster.startOsd(victim);
      until("it is refused", () => victim.world?.alive === false);
    }
  }
  expect(refusals.length).toBe(10);
  for (const one of refusals) expect(one).toStartWith("FB4004 the mon remembers more of it");
  disk.restore(right);
  until("it is down", () => !cluster.isUp(victim));
  cluster.startOsd(victim);
  until("it is up", () => cluster.isUp(victim));
  until("all groups serve", () => cluster.serving);
  expect(refusals.length).toBe(10);
}, 60_000);

test("answers of the monitor that are lost lock nobody out", () => {
  const { cluster, victim, refusals, until } = scene(2);
  const { simulation } = cluster;
  // The first answer is lost, again and again: the store has served its start on disk alone.
  for (let times = 0; times < 10; times++) {
    victim.world!.crash();
    cluster.startOsd(victim);
    until("it has opened its store", () => victim.admission !== null);
    simulation.cut(MON_ADDRESS, victim.address);
    simulation.run(simulation.nowUs + simulation.newRandom(times).below(2 * SECOND_US));
    simulation.heal();
  }
  until("it is up", () => cluster.isUp(victim) && cluster.serving);
  expect(refusals).toEqual([]);
}, 60_000);
