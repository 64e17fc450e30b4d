import { afterAll, describe, test } from "bun:test";
import { RealHarness } from "./bun-real-harness.ts";
import { createBunWorld } from "./bun-world.ts";
import { DISK_CASES, NETWORK_CASES, RANDOM_CASES, TIMER_CASES } from "./conformance.ts";

describe("files and sockets of the runtime", () => {
  const harness = new RealHarness((options) => createBunWorld(options));
  afterAll(() => harness.close());
  for (const one of [...TIMER_CASES, ...DISK_CASES, ...NETWORK_CASES, ...RANDOM_CASES]) {
    test(one.name, () => one.run(harness), 20_000);
  }
});
