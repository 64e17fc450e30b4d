import { afterAll, expect, test } from "bun:test";
import { RealHarness } from "../reactor/bun-real-harness.ts";
import { createUringWorld } from "../reactor/uring-world.ts";
import { runRpcBench, serveRpcBench } from "./rpc-bench.ts";

const harness = new RealHarness((options) => createUringWorld(options));
afterAll(() => harness.close());

const secret = {
  clusterId: "00000000-0000-0000-0000-000000000001",
  psk: new Uint8Array(32).fill(1),
};

test.each([
  [64, 1, false],
  [4096, 32, false],
  [4096, 32, true],
  [262_144, 16, false],
])("%d bytes at depth %d are counted, encrypted: %p", async (blockBytes, depth, encrypt) => {
  const { world } = harness;
  const server = serveRpcBench(world, { kind: "tcp", host: "127.0.0.1", port: 0 }, secret);
  let cpuUs = 0;
  const row = await runRpcBench({
    world,
    target: server.listener.address,
    secret,
    blockBytes,
    depth,
    timeMs: 50,
    encrypt,
    cpuUs: () => {
      cpuUs += 500;
      return cpuUs;
    },
  });
  server.close();
  expect(row.name).toBe(`rpc ${blockBytes} B depth ${depth}${encrypt ? " encrypted" : ""}`);
  expect(row.iops).toBeGreaterThan(0);
  expect(row.bytesPerSec).toBeGreaterThanOrEqual(row.iops! * blockBytes - blockBytes);
  expect(row.latencyUs!.p50).toBeGreaterThan(0);
  expect(row.cpuUsPerIo).not.toBeNull();
});

test("without a server the run fails", async () => {
  const target = { kind: "tcp", host: "127.0.0.1", port: 1 } as const;
  const failure = await runRpcBench({
    world: harness.world,
    target,
    secret,
    blockBytes: 64,
    depth: 1,
    timeMs: 10,
    encrypt: false,
    cpuUs: () => null,
  }).catch((error: unknown) => error);
  expect(String(failure)).toContain("no connection within 5 s");
}, 10_000);
