import { expect, test } from "bun:test";
import { drainMicrotasks } from "bun:jsc";
import { SystemChecksum, SystemCiphers } from "../reactor/bun-system.ts";
import { SimCluster } from "./sim-cluster.ts";

/** As many of both as a seed draws, with the osd that operators add. */
const OSDS = 8;
const SHARDS = 3;
/** So many that nearly all shards share some. */
const GROUPS = 256;
const LIMIT_US = 10_000_000;

test("osds have memory for connections to all others", () => {
  const cluster = new SimCluster(1, {
    osds: OSDS,
    shards: SHARDS,
    replicas: 3,
    pgCount: GROUPS,
    clients: 4,
    imageBytes: 1_048_576,
    checksum: new SystemChecksum(),
    drainMicrotasks,
  });
  cluster.start();
  const links = (): boolean[] =>
    cluster.osds.flatMap(({ shards }) =>
      shards.flatMap(({ pg }) => [...pg.peers.links.values()].map(({ up }) => up)),
    );
  cluster.simulation.run(() => !links().includes(false), LIMIT_US);
  const pairs = OSDS * SHARDS * (OSDS - 1) * SHARDS;
  expect(links().length).toBeGreaterThan(pairs * 0.9);
  expect(links().filter((up) => !up)).toHaveLength(0);
  cluster.simulation.dispose();
}, 60_000);

test("G18: a cluster with ciphers runs encrypted, where the mon or one of two osds wants it", () => {
  const system = new SystemCiphers();
  let made = 0;
  const cluster = new SimCluster(9, {
    osds: 3,
    replicas: 3,
    pgCount: 8,
    imageBytes: 1_048_576,
    checksum: new SystemChecksum(),
    ciphers: {
      missing: "",
      create(memory, key, use) {
        made += 1;
        return system.create(memory, key, use);
      },
    },
    drainMicrotasks,
  });
  cluster.start();
  const image = cluster.await("open", cluster.client.openImage("pool/image"));
  cluster.await("write", image.write(0, new Uint8Array(8192).fill(7)));
  const read = cluster.await("read", image.read(0, 8192));
  expect(read.every((byte) => byte === 7)).toBe(true);
  // Two at each end: the mon with three osds and the client, and two between any two osds.
  expect(made).toBeGreaterThanOrEqual(4 * (3 + 1 + 6));
  cluster.simulation.dispose();
});
