/** Clients that take an image from each other (`sim-locks.ts`), for more than one round. */
import { expect, test } from "bun:test";
import { drainMicrotasks } from "bun:jsc";
import { SystemChecksum } from "../reactor/bun-system.ts";
import { SimCluster } from "./sim-cluster.ts";
import { LOCKED_IMAGE, SimLocks } from "./sim-locks.ts";

const ROUNDS = 3;
const ROUND_US = 3_000_000;
/** No monitor, so nobody takes the image from the one who has read all. */
const ALONE_US = 500_000;
const THINKING = { times: 4, livelyOperations: 400 };

test("a round begins right after all was read: each operation is open once, and all are answered", () => {
  const cluster = new SimCluster(6, {
    osds: 3,
    replicas: 3,
    pgCount: 2,
    clients: 2,
    imageBytes: 1_048_576,
    checksum: new SystemChecksum(),
    drainMicrotasks,
  });
  const { simulation, clients } = cluster;
  cluster.start();
  cluster.createImage(LOCKED_IMAGE);
  const locks = new SimLocks(cluster, clients, THINKING);
  let operations = 0;
  for (let round = 0; round < ROUNDS; round++) {
    cluster.crashMonitor();
    simulation.after(ALONE_US, () => cluster.startMonitor());
    locks.start();
    simulation.run(simulation.nowUs + ROUND_US);
    locks.stop();
    expect(simulation.run(() => locks.idle)).toBe(true);
    locks.verify();
    expect(locks.operations).toBeGreaterThan(operations + 50);
    operations = locks.operations;
  }
  simulation.dispose();
});
