import { afterAll, describe, test } from "bun:test";
import { DISK_CASES, NETWORK_CASES, RANDOM_CASES, TIMER_CASES } from "./conformance.ts";
import { RealHarness } from "./bun-real-harness.ts";
import { createUringWorld } from "./uring-world.ts";

describe("io_uring", () => {
  const harness = new RealHarness((options) => createUringWorld(options));
  afterAll(() => harness.close());
  for (const one of [...TIMER_CASES, ...DISK_CASES, ...NETWORK_CASES, ...RANDOM_CASES]) {
    test(one.name, () => one.run(harness), 20_000);
  }
});
