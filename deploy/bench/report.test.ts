import { expect, test } from "bun:test";
import type { Run } from "./measure.ts";
import { mediansOf, medianOf, type Report, reportText } from "./report.ts";

const RUN: Run = {
  load: "4 KiB random write, depth 32",
  system: "ceph",
  repetition: 1,
  startedAt: "2026-01-01T00:00:00Z",
  iops: 1000,
  bytesPerSec: 4_096_000,
  latencyUs: { p50: 25_000, p99: 70_000, max: 200_000 },
  errors: 0,
  cpuUsPerIo: 1500,
  drainCpuUsPerIo: 20,
  cpuUsPerIoByKind: {},
  kernelCpuUsPerIo: 100,
  disk: { reads: 0, writes: 8, bytes: 40_960, flushes: 2 },
  drainSeconds: 1,
  restingPercent: 1.5,
  foreignPercent: 3,
  stolenPercent: 0,
};

const OURS: Run = {
  ...RUN,
  system: "fastblock",
  iops: 21_000,
  latencyUs: { p50: 1900, p99: 4500, max: 20_000 },
  cpuUsPerIo: 60,
  disk: { reads: 0.5, writes: 3, bytes: 26_624, flushes: 0.33 },
};

const REPORT: Report = {
  kind: "ceph-beside-fastblock",
  machine: {
    cores: 2,
    processor: "EPYC",
    memoryBytes: 24 * 1024 ** 3,
    kernel: "6.1.0",
    device: "vda",
    fileSystem: "ext4",
  },
  versions: { Ceph: "16.2.15", fastblock: "0.1.0", fio: "3.33" },
  settings: {
    token: "",
    profile: "ssd",
    osdBytes: 6 * 1024 ** 3,
    imageBytes: 4 * 1024 ** 3,
    monPort: 1,
    complete: true,
  },
  ceph: { "disk says rotational": "1" },
  seconds: 20,
  rampSeconds: 3,
  repeat: 3,
  runs: [
    { ...RUN, system: "raw", iops: 60_000, cpuUsPerIo: 8 },
    ...[900, 1100, 1000].map((iops) => ({ ...RUN, iops })),
    OURS,
  ],
};

/** The cells of the line that begins with these. */
function cells(text: string, ...first: readonly string[]): string[] {
  const rows = text.split("\n").map((line) => line.split("|").map((cell) => cell.trim()));
  const row = rows.find((one) => first.every((cell, at) => one[at + 1] === cell));
  return row?.slice(1, -1) ?? [];
}

test("the median is the middle one, and of two their mean", () => {
  expect(medianOf([3, 1, 2])).toBe(2);
  expect(medianOf([4, 1])).toBe(2.5);
  expect(medianOf([])).toBeNaN();
  expect(mediansOf(REPORT.runs, RUN.load, "ceph")).toMatchObject({
    count: 3,
    iops: 1000,
    iopsMin: 900,
    iopsMax: 1100,
  });
  expect(mediansOf(REPORT.runs, "another load", "ceph")).toBeUndefined();
});

test("runs that strangers took part in count only where there are no others", () => {
  const loud = { ...RUN, iops: 100, foreignPercent: 90 };
  const runs = [loud, RUN, loud];
  expect(mediansOf(runs, RUN.load, "ceph")).toMatchObject({ count: 1, countAll: 3, iops: 1000 });
  expect(cells(reportText({ ...REPORT, runs }), RUN.load, "Ceph")[2]).toBe("1 of 3");
  expect(mediansOf([loud, loud], RUN.load, "ceph")).toMatchObject({ count: 2, iops: 100 });
});

test("a row has both systems, their ratios, and whether the bars are reached", () => {
  const text = reportText(REPORT);
  expect(cells(text, RUN.load, "60,000 IOPS")).toEqual([
    "4 KiB random write, depth 32",
    "60,000 IOPS",
    "1,000 IOPS",
    "21,000 IOPS",
    "21.0 ×",
    "1,500",
    "60",
    "25.0 ×",
    "IOPS ≥ 20: met; CPU ≥ 30: missed",
  ]);
  expect(cells(text, RUN.load, "fastblock")).toEqual([
    "4 KiB random write, depth 32",
    "fastblock",
    "1",
    "21,000 to 21,000",
    "1.9",
    "4.5",
    "20",
    "100",
    "26",
    "0.33",
    "0.5",
    "1.5",
    "3",
  ]);
});

test("a load that one system did not run has no ratio, and large blocks are told in bytes", () => {
  const load = "128 KiB sequential read, depth 16";
  const runs = [{ ...OURS, load, iops: 5000 }];
  const row = cells(reportText({ ...REPORT, runs }), load, "");
  expect(row).toEqual([load, "", "", "655 MB/s", "", "", "60", "", ""]);
});

test("the report says what two cores do to Ceph, who was there besides, and what failed", () => {
  const text = reportText(REPORT);
  expect(text).toContain("So few cores suit Ceph worst");
  expect(text).toContain("more than 15 % of a core in 0 of 5 runs;");
  expect(cells(text, "fastblock acknowledges")[1]).toContain("two of three");
  const runs = [{ ...RUN, foreignPercent: 40, errors: 2 }, OURS];
  const machine = { ...REPORT.machine, cores: 16 };
  const loud = reportText({ ...REPORT, machine, runs });
  expect(loud).toContain("more than 15 % of a core in 1 of 2 runs;");
  expect(cells(loud, RUN.load, "Ceph").at(-1)).toBe("40 (!)");
  expect(loud).toContain("- ceph, 4 KiB random write, depth 32: 2 errors.\n");
  expect(loud).not.toContain("suit Ceph worst");
});
