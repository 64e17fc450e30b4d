/** G9, as the monitor tells it: an osd whose device is slow is named, until the device is well again. */
import { expect, test } from "bun:test";
import { drainMicrotasks } from "bun:jsc";
import { type Device, readOnce } from "../device/device.ts";
import { SystemChecksum } from "../reactor/bun-system.ts";
import { SimCluster } from "./sim-cluster.ts";

const LIMIT_US = 20_000_000;

test("health names a device that is slow, or fails reads, until it is well again", () => {
  const cluster = new SimCluster(1, {
    osds: 3,
    replicas: 3,
    pgCount: 1,
    imageBytes: 1_048_576,
    checksum: new SystemChecksum(),
    drainMicrotasks,
  });
  cluster.start();
  const { simulation, osds } = cluster;
  const until = (what: string, holds: () => boolean): void => {
    if (!simulation.run(holds, LIMIT_US)) throw new Error(`in vain: ${what}`);
  };
  const [osd] = osds;
  const { faults } = simulation.disk(osd!.path);
  until("all is well", () => cluster.settled && cluster.health.size === 0);
  faults.stalled = true;
  osd!.shard!.pg.store.requestCheckpoint();
  until("the monitor tells", () => cluster.health.has("OSD_SLOW"));
  expect(cluster.health.get("OSD_SLOW")!.details).toHaveLength(1);
  faults.stalled = false;
  until("the monitor is content", () => cluster.health.size === 0);
  faults.readErrorShare = 1;
  const { parts } = osd!.shard!.pg.store as unknown as { parts: { device: Device } };
  readOnce(parts.device, osd!.world!.arena.allocate(4096), 0, 4096).catch(() => undefined);
  until("the monitor tells", () => cluster.health.has("OSD_READ_ERRORS"));
  expect(cluster.health.get("OSD_READ_ERRORS")!.details[0]).toEndWith(
    "1 read failed since it started",
  );
  faults.readErrorShare = 0;
  // It counts for an hour, or until the osd starts again.
  simulation.run(simulation.nowUs + 5_000_000);
  expect(cluster.health.has("OSD_READ_ERRORS")).toBe(true);
  osd!.world!.crash();
  cluster.startOsd(osd!);
  until("the monitor is content", () => cluster.health.size === 0);
  simulation.dispose();
});
