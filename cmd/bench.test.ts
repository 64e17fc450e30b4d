import { expect, test } from "bun:test";
import type { ImageBenchReport } from "../core/bench/bench.ts";
import { imageText } from "./bench.ts";

const LATENCY = { mean: 1, p50: 1, p99: 1, p999: 1, max: 1 } as ImageBenchReport["latencyUs"];
const REPORT: ImageBenchReport = {
  kind: "image",
  path: "p/a",
  rw: "randwrite",
  blockBytes: 4096,
  depth: 32,
  jobs: 1,
  filled: null,
  seconds: 1,
  ops: 1,
  iops: 1,
  bytesPerSec: 4096,
  latencyUs: LATENCY,
  readLatencyUs: null,
  writeLatencyUs: LATENCY,
  pauseUsMax: 1,
  cpuUsPerIo: null,
  processes: [],
  systemCalls: [],
  systemCallsPerIo: null,
  collections: null,
  deviceBytesPerClientByte: null,
  deviceWritesPerClientWrite: null,
  flushesPerClientWrite: null,
  writtenBytes: 4096,
  drainSeconds: 0,
  backend: "uring",
  encrypted: false,
  errors: 0,
  errorTexts: [],
  timeouts: 0,
  refusedForSpace: 0,
  verifiedBlocks: 0,
  verifyErrors: [],
  seed: 1,
  opsPerSecond: 0,
  worst: [],
};

test("a report says whether the image was filled before the run, and how long that took", () => {
  expect(imageText(REPORT)).toContain("\nfilled         nothing: the image was taken as it was\n");
  const filled = { bytes: 1_073_741_824, seconds: 3.25 };
  expect(imageText({ ...REPORT, filled })).toContain(
    "\nfilled         1 GiB before the run, in 3.25 s\n",
  );
});

test("a report says at which rate an open loop ran", () => {
  expect(imageText(REPORT)).toContain("depth 32 × 1, 1 s\n");
  expect(imageText({ ...REPORT, opsPerSecond: 700 })).toContain(
    "open loop at 700 per s, at most 32 × 1 open, 1 s\n",
  );
});

test("a report names the system calls where they are known", () => {
  expect(imageText(REPORT)).not.toContain("system calls");
  const systemCalls = [
    { kind: "client", perIo: 2 },
    { kind: "osd", perIo: 6.5 },
  ];
  expect(imageText({ ...REPORT, systemCallsPerIo: 8.5, systemCalls })).toContain(
    "\nsystem calls   8.5 per I/O of the reactors: client 2, osd 6.5\n",
  );
});

test("a report names the collections of garbage where processes tell of them", () => {
  expect(imageText(REPORT)).not.toContain("collections");
  const collections = { count: 2, pauseUs: 3000, pauseUsMax: 2000 };
  expect(imageText({ ...REPORT, collections })).toContain(
    "\ncollections    2 pauses in osds, mon and gateways, 3 ms in all, 2 ms at most\n",
  );
});
