import { describe, expect, test } from "bun:test";
import { judgeRows } from "./bars.ts";
import { BAR_ROWS, type SuiteRowReport } from "./suite.ts";

const RAW = { iops: 1000, latencyUs: { p50: 1, p99: 2, p999: 3, max: 4 }, cpuUsPerIo: 5 };

function rowOf(name: string, figures: Partial<SuiteRowReport>): SuiteRowReport {
  return {
    name,
    encrypted: false,
    iops: 750,
    bytesPerSec: 0,
    latencyUs: { mean: 10, p50: 10, p99: 30, p999: 40, max: 50 },
    cpuUsPerIo: 27,
    processes: [],
    compileUsPerIo: 1,
    switchesPerIo: 1,
    systemCalls: [],
    systemCallsPerIo: null,
    collections: null,
    deviceBytesPerClientByte: 3,
    deviceWritesPerClientWrite: 2,
    flushesPerClientWrite: 0.36,
    raw: RAW,
    ratioToRaw: 0.75,
    bare: { iops: 800, p50Us: 8, cpuUsPerIo: 25, wholeP50Us: 9 },
    tail: null,
    logTurns: 3,
    runs: [],
    rawRuns: [],
    ...figures,
  };
}

const seenOf = (name: string, figures: Partial<SuiteRowReport> = {}) =>
  judgeRows([rowOf(name, figures)], 3).map(({ figure, seen, verdict }) => [figure, seen, verdict]);

describe("bars", () => {
  test("each row that bars are about is judged, and no other", () => {
    const all = judgeRows(
      BAR_ROWS.map((name) => rowOf(name, {})),
      3,
    );
    // Of a gateway at depth 128, and of encrypted connections, the processor time is reported, and
    // nothing is aimed at.
    const apart = ["nbd:randwrite:4KiB:128", "encrypted:randwrite:4KiB:32"];
    const judged = BAR_ROWS.filter((name) => !apart.includes(name));
    expect(new Set(all.map(({ row }) => row))).toEqual(new Set(judged));
    expect(judgeRows([rowOf("read:4KiB:7", {})], 3)).toEqual([]);
  });

  test("a figure on the bar passes, one beyond it fails", () => {
    expect(seenOf("randwrite:4KiB:128")).toEqual([
      ["IOPS ÷ raw durable IOPS", 0.75, "pass"],
      ["CPU µs per I/O", 27, "pass"],
      ["durable writes ÷ (client writes × replicas)", 0.12, "pass"],
    ]);
    const worse = { ratioToRaw: 0.74, cpuUsPerIo: 27.1, flushesPerClientWrite: 0.37 };
    const verdicts = seenOf("randwrite:4KiB:128", worse).map(([, , verdict]) => verdict);
    expect(verdicts).toEqual(["FAIL", "FAIL", "FAIL"]);
  });

  test("what stands beside it is what the machine does without fastblock", () => {
    expect(seenOf("randwrite:4KiB:1")).toEqual([
      ["p50 ÷ (durable device write + 2 round trips)", 1.25, "pass"],
      ["p99 ÷ p50", 3, "pass"],
    ]);
    const bareOf = (figures: Partial<SuiteRowReport>, row = "randwrite:4KiB:32") =>
      judgeRows([rowOf(row, figures)], 3).map(({ bare }) => bare);
    expect(bareOf({})).toEqual([0.8, 25, null]);
    expect(bareOf({ bare: null })).toEqual([null, null, null]);
    expect(bareOf({}, "randwrite:4KiB:1")).toEqual([1.125, null]);
    expect(bareOf({ bare: null }, "randwrite:4KiB:1")).toEqual([null, null]);
    expect(seenOf("randread:4KiB:1")).toEqual([
      ["IOPS ÷ bare message and device read", 0.938, "pass"],
    ]);
    expect(seenOf("read:128KiB:16", { iops: 640 })).toEqual([
      ["rate ÷ the lower of raw device and loopback", 0.8, "pass"],
    ]);
    expect(seenOf("write:128KiB:16", { ratioToRaw: 0.2 }).at(-1)).toEqual([
      "rate ÷ (raw device ÷ replicas)",
      0.6,
      "pass",
    ]);
  });

  test("a gateway stands beside the native client", () => {
    const native = rowOf("randread:4KiB:32", { iops: 1000 });
    const rows = [native, rowOf("nbd:randread:4KiB:32", { iops: 700 })];
    const judged = judgeRows(rows, 3).find(({ row }) => row.startsWith("nbd:"));
    expect(judged).toMatchObject({ seen: 0.7, verdict: "pass" });
    expect(seenOf("nbd:randread:4KiB:32")).toEqual([
      ["IOPS ÷ the native client's", null, "not measured"],
    ]);
  });

  test("a steady run counts from three turns of the log on", () => {
    expect(seenOf("randwrite:4KiB:32:steady", { iops: 375 })).toEqual([
      ["IOPS ÷ (raw IOPS ÷ device writes per client write)", 0.75, "pass"],
      ["device bytes per client byte and replica", 1, "pass"],
    ]);
    const short = seenOf("randwrite:4KiB:32:steady", { logTurns: 2.9 });
    expect(short.map(([, seen, verdict]) => [seen, verdict])).toEqual([
      [null, "not measured"],
      [null, "not measured"],
    ]);
  });

  test("a tail is judged by what is slowest, from three turns of the log on", () => {
    const latencyUs = { mean: 9, p50: 2000, p99: 9000, p999: 20_000, max: 100_000 };
    expect(seenOf("randwrite:4KiB:128:tail", { latencyUs })).toEqual([
      ["p99.9 ÷ p50 at half of the peak", 10, "pass"],
      ["longest ms at half of the peak", 100, "pass"],
    ]);
    const worse = { latencyUs: { ...latencyUs, p999: 20_100, max: 100_100 } };
    const verdicts = seenOf("randwrite:4KiB:128:tail", worse).map(([, , verdict]) => verdict);
    expect(verdicts).toEqual(["FAIL", "FAIL"]);
    const short = seenOf("randwrite:4KiB:128:tail", { ...worse, logTurns: 2.9 });
    expect(short.map(([, , verdict]) => verdict)).toEqual(["not measured", "not measured"]);
  });

  test("reads from a start on stand beside the raw disk", () => {
    const judged = (ratioToRaw: number) => seenOf("randread:4KiB:32:cold", { ratioToRaw })[0];
    expect(judged(0.45)!.slice(1)).toEqual([0.45, "pass"]);
    expect(judged(0.44)!.slice(1)).toEqual([0.44, "FAIL"]);
  });

  test("without fio, counters or anything beside it, nothing is said", () => {
    const none = { raw: null, ratioToRaw: null, bare: null, cpuUsPerIo: 0 };
    const uncounted = { deviceBytesPerClientByte: null, deviceWritesPerClientWrite: null };
    const rows = BAR_ROWS.map((name) =>
      rowOf(name, { ...none, ...uncounted, flushesPerClientWrite: null }),
    );
    const judged = judgeRows(rows, 3).filter(({ verdict }) => verdict !== "not measured");
    expect(new Set(judged.map(({ figure }) => figure))).toEqual(
      new Set([
        "p99 ÷ p50",
        "IOPS ÷ the native client's",
        "p99.9 ÷ p50 at half of the peak",
        "longest ms at half of the peak",
      ]),
    );
  });
});
