/** G10: a monitor whose catalogue is an old copy, in a whole cluster (`core/mon/old-copy.ts`). */
import { expect, test } from "bun:test";
import { drainMicrotasks } from "bun:jsc";
import { FastblockError } from "../base/errors.ts";
import { SystemChecksum } from "../reactor/bun-system.ts";
import { SimCluster } from "./sim-cluster.ts";

const MIB = 1_048_576;
const SECOND_US = 1_000_000;
const LIMIT_US = 60 * SECOND_US;

function newCluster(seed: number, osds = 3): SimCluster {
  const cluster = new SimCluster(seed, {
    osds,
    replicas: 3,
    pgCount: 4,
    imageBytes: MIB,
    checksum: new SystemChecksum(),
    drainMicrotasks,
    isExcused: ({ message }) => message.startsWith("somebody has a newer map"),
  });
  cluster.start();
  return cluster;
}

function until(cluster: SimCluster, what: string, holds: () => boolean): void {
  if (!cluster.simulation.run(holds, LIMIT_US)) throw new Error(`in vain: ${what}`);
}

/** An osd dies and comes back: that is in the map. */
function makeEpochs(cluster: SimCluster): void {
  const [osd] = cluster.osds;
  osd!.world!.crash();
  until(cluster, "it is down", () => !cluster.isUp(osd!));
  cluster.startOsd(osd!);
  until(cluster, "it is up", () => cluster.isUp(osd!) && cluster.serving);
}

test("nobody follows a catalogue that went back, until people say what it is", () => {
  const cluster = newCluster(1);
  const { simulation, client } = cluster;
  const image = cluster.await("open", client.openImage("pool/image"));
  const backup = cluster.copyCatalogue();
  makeEpochs(cluster);
  const { map } = client;
  const [generation, epoch] = [map.generation, map.epoch];
  cluster.restoreMonitor(backup, false);
  cluster.startMonitor();
  until(cluster, "health tells", () => cluster.health.has("MAP_BEHIND"));
  // Long enough for every lease and every report.
  simulation.run(simulation.nowUs + 20 * SECOND_US);
  expect(() => cluster.createImage("new")).toThrow(FastblockError);
  for (const osd of cluster.osds) expect(osd.world!.alive).toBe(true);
  cluster.await("write", image.write(0, new Uint8Array(4096).fill(1)));
  expect([map.generation, map.epoch]).toEqual([generation, epoch]);
  cluster.restoreMonitor(cluster.copyCatalogue());
  cluster.startMonitor();
  until(cluster, "the client follows", () => map.generation > generation);
  until(cluster, "health is good", () => cluster.health.size === 0);
  cluster.createImage("new");
  const other = cluster.await("open", client.openImage("pool/new"));
  expect(other.sessionId - image.sessionId).toBeGreaterThan(4_294_967_295);
  cluster.await("write", other.write(0, new Uint8Array(4096).fill(2)));
  expect(cluster.await("read", image.read(0, 4096))).toEqual(new Uint8Array(4096).fill(1));
}, 60_000);

test("a holder that a restored catalogue has forgotten is fenced by the next one", () => {
  const cluster = newCluster(2);
  const { client } = cluster;
  const backup = cluster.copyCatalogue();
  const open = { exclusive: true, takeOver: true };
  const forgotten = cluster.await("open", client.openImage("pool/image", open));
  cluster.await("write", forgotten.write(0, new Uint8Array(4096).fill(1)));
  cluster.restoreMonitor(backup);
  cluster.startMonitor();
  until(cluster, "it serves", () => client.map.generation === (2 as never));
  const next = cluster.await("open", client.openImage("pool/image", open));
  cluster.await("write", next.write(0, new Uint8Array(4096).fill(2)));
  expect(() => cluster.await("late", forgotten.write(0, new Uint8Array(4096)))).toThrow(
    FastblockError,
  );
  expect(cluster.await("read", next.read(0, 4096))).toEqual(new Uint8Array(4096).fill(2));
}, 60_000);

test("a group goes on with members that a restored catalogue has forgotten, found or not", () => {
  const cluster = newCluster(3, 4);
  const { simulation } = cluster;
  const image = cluster.await("open", cluster.client.openImage("pool/image"));
  cluster.await("write", image.write(0, new Uint8Array(4096).fill(1)));
  until(cluster, "all is established", () => cluster.settled);
  const backup = cluster.copyCatalogue();
  const [pg] = cluster.pgs;
  const before = pg!.replicas.map(({ osd }) => osd as number);
  const to = cluster.osds.find(({ id }) => !before.includes(id))!;
  cluster.replaceReplica(pg!.id, before[1]!, to.id);
  until(cluster, "it has moved", () => cluster.settled);
  // Without one of the others the one that was forgotten is needed, and nobody knows where it is.
  const away = cluster.osds[before[2]!]!;
  away.world!.crash();
  for (const osd of cluster.osds) {
    if (osd === away) continue;
    osd.world!.crash();
    cluster.startOsd(osd);
  }
  cluster.restoreMonitor(backup);
  cluster.startMonitor();
  until(cluster, "the group serves", () => cluster.serving);
  cluster.await("write", image.write(0, new Uint8Array(4096).fill(2)));
  cluster.startOsd(away);
  until(cluster, "health is good", () => cluster.health.size === 0 && cluster.settled);
  const after = cluster.pgs
    .find(({ id }) => id === pg!.id)!
    .replicas.map(({ osd }) => osd as number);
  expect(new Set(after)).toEqual(new Set([before[0]!, before[2]!, to.id]));
  expect(cluster.await("read", image.read(0, 4096))).toEqual(new Uint8Array(4096).fill(2));
  expect(simulation.nowUs).toBeLessThan(LIMIT_US);
}, 60_000);
