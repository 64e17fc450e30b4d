import { expect, test } from "bun:test";
import { drainMicrotasks } from "bun:jsc";
import { Simulation } from "../reactor/reactor.ts";
import { EntryPool } from "./entry-pool.ts";
import { LogQueue } from "./log-queue.ts";
import { RecordType } from "./record.ts";

test("records that many replicas took when they were made are let go", () => {
  const world = new Simulation(1, { drainMicrotasks }).createWorld("osd.0", "10.0.0.1");
  const queue = new LogQueue(world, new EntryPool(world.slots), []);
  const records = [1, 2, 3].map(() => queue.takeControl(RecordType.ReplicaCreated));
  for (const record of records) queue.recycle(record);
  expect(records).toContain(queue.takeControl(RecordType.ReplicaCreated));
  queue.shrink();
  expect(records).not.toContain(queue.takeControl(RecordType.ReplicaCreated));
});
