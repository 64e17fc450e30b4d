import { expect, test } from "bun:test";
import { runOf, windowOf } from "./measure.ts";
import { type Sample, spanOf } from "./meter.ts";
import { LOADS } from "./settings.ts";

const NO_DISK = { reads: 0, writes: 0, writtenBytes: 0, flushes: 0 };
const NOTHING: Sample = {
  ms: 0,
  own: new Map(),
  kernelTicks: 0,
  harnessTicks: 0,
  machine: { tasks: 0, interrupts: 0, stolen: 0 },
  disk: NO_DISK,
};

function at(ms: number): Sample {
  return { ...NOTHING, ms };
}

function own(key: string, system: "ceph" | "fastblock", kind: string, ticks: number) {
  return [key, { process: { pid: 1, system, kind }, ticks }] as const;
}

test("a span has what each system used, and strangers get what nobody else did", () => {
  const from: Sample = {
    ...at(1000),
    own: new Map([own("1.1", "ceph", "ceph-osd", 100), own("2.1", "ceph", "ceph-osd", 50)]),
    kernelTicks: 10,
    harnessTicks: 5,
    machine: { tasks: 1000, interrupts: 20, stolen: 3 },
    disk: { reads: 1, writes: 2, writtenBytes: 4096, flushes: 3 },
  };
  const to: Sample = {
    ...at(3000),
    own: new Map([
      own("1.1", "ceph", "ceph-osd", 130),
      own("2.1", "ceph", "ceph-osd", 60),
      // Came meanwhile: all of it counts.
      own("3.9", "fastblock", "fastblock osd", 7),
    ]),
    kernelTicks: 14,
    harnessTicks: 6,
    machine: { tasks: 1060, interrupts: 25, stolen: 5 },
    disk: { reads: 2, writes: 12, writtenBytes: 12_288, flushes: 6 },
  };
  const span = spanOf(from, to);
  expect(span).toEqual({
    seconds: 2,
    cpuUs: new Map([
      ["ceph", new Map([["ceph-osd", 400_000]])],
      ["fastblock", new Map([["fastblock osd", 70_000]])],
    ]),
    kernelUs: 40_000 + 50_000,
    foreignUs: 600_000 - 470_000 - 40_000 - 10_000,
    stolenUs: 20_000,
    disk: { reads: 1, writes: 10, writtenBytes: 8192, flushes: 3 },
  });
});

test("the window lies inside the measured time, however long the client took to start and end", () => {
  const samples = Array.from({ length: 40 }, (_, index) => at(index * 500));
  const [from, to] = windowOf(samples, 18_100, 10_000);
  // Of a client that ends at once the measured time began at 8,100; of one that takes 1,250 ms to end
  // it was over at 16,850.
  expect([from.ms, to.ms]).toEqual([8500, 16_500]);
  expect(() => windowOf(samples.slice(0, 20), 18_100, 10_000)).toThrow("wanted half of it covered");
  expect(() => windowOf([], 18_100, 10_000)).toThrow("0 samples");
});

test("the drain is shared by all I/O since the start of the ramp, the window by its own", () => {
  const load = LOADS[1]!;
  const timing = { timeMs: 10_000, rampMs: 10_000 };
  const span = spanOf(NOTHING, NOTHING);
  const used = (osdUs: number, restingUs: number) =>
    new Map([
      ["fastblock", new Map([["fastblock osd", osdUs]])],
      ["ceph", new Map([["ceph-osd", restingUs]])],
    ] as const);
  const window = {
    ...span,
    seconds: 8,
    cpuUs: used(800_000, 160_000),
    kernelUs: 80_000,
    foreignUs: 400_000,
    stolenUs: 80_000,
    disk: { ...NO_DISK, writes: 16_000, writtenBytes: 8000 * 4096, flushes: 800 },
  };
  const drain = {
    ...span,
    seconds: 3,
    cpuUs: used(200_000, 50_000),
    disk: { ...NO_DISK, writtenBytes: 20_000 * 4096 },
  };
  const latencyUs = { p50: 1, p99: 2, max: 3 };
  const figures = { iops: 1000, bytesPerSec: 4_096_000, latencyUs, errors: 0 };
  const about = { load, system: "fastblock", repetition: 2, startedAt: "then", timing } as const;
  expect(runOf(about, { window, drain, drainSeconds: 3, figures })).toEqual({
    load: "4 KiB random write, depth 32",
    system: "fastblock",
    repetition: 2,
    startedAt: "then",
    iops: 1000,
    bytesPerSec: 4_096_000,
    latencyUs,
    errors: 0,
    // 800 ms over 8,000 I/O, and 200 ms over 20,000.
    cpuUsPerIo: 100 + 10,
    drainCpuUsPerIo: 10,
    cpuUsPerIoByKind: { "fastblock osd": 100 },
    kernelCpuUsPerIo: 10,
    disk: { reads: 0, writes: 2, bytes: 4096 + 4096, flushes: 0.1 },
    drainSeconds: 3,
    restingPercent: 2,
    foreignPercent: 5,
    stolenPercent: 1,
  });
});
