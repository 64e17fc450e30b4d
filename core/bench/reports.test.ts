import { describe, expect, test } from "bun:test";
import { parseStat } from "./bun-meter.ts";
import { compareReports, unlikeLoads } from "./compare.ts";
import { formatHistoryLine } from "./history.ts";
import { CounterSum, samplesOf } from "./metrics-text.ts";
import { checkDiskShape, checkRpcShape, checkShape, type ShapeLimits } from "./shape.ts";

describe("comparison", () => {
  const a = { iops: 1000, latencyUs: { p50: 100, p99: 0 }, cpuUsPerIo: 50, backend: "uring" };

  test("each figure has a ratio and a verdict by its own direction", () => {
    const b = { ...a, iops: 2000, latencyUs: { p50: 200, p99: 1 }, cpuUsPerIo: 50.5 };
    expect(compareReports(a, b)).toEqual([
      { figure: "iops", a: 1000, b: 2000, ratio: 2, verdict: "better" },
      { figure: "latencyUs.p50", a: 100, b: 200, ratio: 2, verdict: "worse" },
      { figure: "latencyUs.p99", a: 0, b: 1, ratio: null, verdict: "worse" },
      { figure: "cpuUsPerIo", a: 50, b: 50.5, ratio: 1.01, verdict: "same" },
    ]);
  });

  test("loads that differ are named, what only one tells is not", () => {
    const load = { ...a, rw: "randwrite", blockBytes: 4096, depth: 32 };
    expect(unlikeLoads(load, { ...load, iops: 7 })).toEqual([]);
    expect(unlikeLoads(load, { ...load, rw: "randread", depth: 1, jobs: 2 })).toEqual([
      "rw is randwrite in A, randread in B",
      "depth is 32 in A, 1 in B",
    ]);
    expect(unlikeLoads(load, null)).toEqual([]);
  });

  test("an image that was filled and one that was taken as it was are unlike", () => {
    const whole = { ...a, filled: null };
    const fresh = { ...a, filled: { bytes: 4096, seconds: 1 } };
    expect(unlikeLoads(fresh, { ...fresh, filled: { bytes: 4096, seconds: 2 } })).toEqual([]);
    expect(unlikeLoads(whole, whole)).toEqual([]);
    expect(unlikeLoads(a, fresh)).toEqual([]);
    expect(unlikeLoads(fresh, whole)).toEqual(["A filled its image first, B took it as it was"]);
    expect(unlikeLoads(whole, fresh)).toEqual(["B filled its image first, A took it as it was"]);
  });

  test("a figure that one report lacks is left out, nothing in common is refused", () => {
    expect(compareReports(a, { iops: 500, cpuUsPerIo: null })).toHaveLength(1);
    for (const other of [{}, null, "x", [], { iops: "1" }]) {
      expect(() => compareReports(a, other)).toThrow("no figure stands in both");
    }
  });
});

test("a call in the µs of a return is not behind it", () => {
  const ended = JSON.parse(formatHistoryLine(7, true, 3, 10, 20, true)) as { return: number };
  const begun = JSON.parse(formatHistoryLine(7, false, 0, 20, 30, true)) as { call: number };
  expect(begun.call).toBeLessThanOrEqual(ended.return);
});

test("a history line is JSON with nanoseconds; what never ended has no return", () => {
  expect(JSON.parse(formatHistoryLine(7, true, 3, 10.5, 20, true))).toEqual({
    key: 7,
    kind: "write",
    value: 3,
    call: 10_000,
    return: 20_999,
    ok: true,
  });
  const open: unknown = JSON.parse(formatHistoryLine(7, false, null, 10, -1, false));
  expect(open).toEqual({
    key: 7,
    kind: "read",
    value: null,
    call: 10_000,
    return: null,
    ok: false,
  });
});

describe("metrics", () => {
  const page = `# HELP fastblock_device_write_bytes_total x
# TYPE fastblock_device_write_bytes_total counter
fastblock_device_write_bytes_total{osd="0",shard="0",region="log"} 4096
fastblock_device_write_bytes_total{osd="1",shard="0",region="log"} 1.5e6
fastblock_device_write_bytes_total_more 7
fastblock_up 1
`;

  test("samples of one name are read, and none of a longer one", () => {
    const samples = samplesOf(page, "fastblock_device_write_bytes_total");
    expect(samples.map(({ value }) => value)).toEqual([4096, 1_500_000]);
    expect(samples[0]!.labels).toBe('{osd="0",shard="0",region="log"}');
    expect(samplesOf(page, "fastblock_up").map(({ value }) => value)).toEqual([1]);
    expect(samplesOf("", "x")).toEqual([]);
  });

  test("a counter that begins again counts on; what came before the first look does not count", () => {
    const sum = new CounterSum();
    expect(sum.take([{ labels: "a", value: 100 }])).toBe(0);
    expect(sum.take([{ labels: "a", value: 150 }])).toBe(50);
    expect(sum.take([{ labels: "a", value: 30 }])).toBe(80);
    expect(sum.take([{ labels: "b", value: 1000 }])).toBe(80);
    expect(sum.take([])).toBe(80);
    expect(sum.take([{ labels: "b", value: 1001 }])).toBe(81);
    sum.begin("b");
    sum.begin("c");
    expect(sum.take([{ labels: "b", value: 1002 }])).toBe(82);
    expect(sum.take([{ labels: "c", value: 7 }])).toBe(89);
    expect([sum.knows("c"), sum.knows("d")]).toEqual([true, false]);
  });

  test("a process's CPU is read, whatever its name holds", () => {
    const tail = "S 1 1 1 0 -1 4194304 1 0 0 0 120 30 0 0 20 0 8 0 777 0 0";
    expect(parseStat(`42 (a) b (c d) ${tail}`)).toEqual({
      userTicks: 120,
      systemTicks: 30,
      startTicks: 777,
    });
    expect(parseStat("")).toBeUndefined();
    expect(parseStat("42 (x) S 1")).toBeUndefined();
  });
});

describe("loads that are refused", () => {
  const good: ShapeLimits = {
    rw: "randwrite",
    blockBytes: 4096,
    depth: 32,
    jobs: 1,
    verify: true,
    history: false,
    rangeBytes: 1_048_576,
  };

  test("a good one passes", () => {
    expect(() => checkShape(good)).not.toThrow();
    expect(() => checkShape({ ...good, verify: false, blockBytes: 512 })).not.toThrow();
  });

  test.each<[Partial<ShapeLimits>, string]>([
    [{ blockBytes: 0 }, "--bs is 0"],
    [{ blockBytes: 1000 }, "--bs is 1000"],
    [{ blockBytes: 2_097_152 }, "--bs is 2097152"],
    [{ blockBytes: 512 }, "a multiple of 4 KiB with --verify"],
    [{ depth: 0 }, "--depth × --jobs is 0"],
    [{ depth: 4096, jobs: 2 }, "--depth × --jobs is 8192"],
    [{ rangeBytes: 2048 }, "range is 2048"],
    [{ rangeBytes: 2 ** 40 }, "at most 256 GiB"],
  ])("%p", (change, why) => {
    expect(() => checkShape({ ...good, ...change })).toThrow(why);
  });

  test.each([
    [2 ** 28, 0, 32, "--bs is 0"],
    [2 ** 28, 5000, 32, "--bs is 5000"],
    [2 ** 28, 2 ** 30, 1, "--bs is 1073741824"],
    [2 ** 28, 2 ** 20, 65_536, "--depth × --bs is 68719476736"],
    [0, 4096, 32, "the disk is 0"],
  ])("on a disk of %d: %d B, depth %d", (sizeBytes, blockBytes, depth, why) => {
    expect(() => checkDiskShape(sizeBytes, blockBytes, depth)).toThrow(why);
    expect(() => checkDiskShape(2 ** 28, 4096, 32)).not.toThrow();
  });

  test("frames hold so much, connections so many", () => {
    expect(() => checkRpcShape(10 * 2 ** 20, 1)).toThrow("--bs is 10485760");
    expect(() => checkRpcShape(4096, 65_536)).toThrow("--depth is 65536");
    expect(() => checkRpcShape(0, 1024)).not.toThrow();
  });
});
