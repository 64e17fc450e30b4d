import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import {
  parseDisk,
  parseFioLoad,
  parseMachine,
  parseOurLoad,
  parseProcessStat,
} from "./readings.ts";

/** Taken while Ceph and fastblock ran on one machine. */
const sample = (name: string): string =>
  readFileSync(join(import.meta.dir, "testdata", name), "utf8");

test("a process is read out of /proc/PID/stat: an osd of Ceph", () => {
  expect(parseProcessStat(sample("ceph-osd-stat.txt"))).toEqual({
    name: "ceph-osd",
    parentPid: 1,
    cpuTicks: 1362 + 1241,
    startTicks: 2_838_603,
  });
});

test("a process whose name holds blanks and parentheses is read, and one that ended is not", () => {
  const rest = Array.from({ length: 49 }, (_, at) => at + 4).join(" ");
  const stat = parseProcessStat(`7 (a) R 1 (b) S ${rest}`);
  expect(stat).toEqual({ name: "a) R 1 (b", parentPid: 4, cpuTicks: 14 + 15, startTicks: 22 });
  expect(parseProcessStat("")).toBeUndefined();
});

test("the machine's CPU is read out of /proc/stat, with interrupts and what the host took apart", () => {
  expect(parseMachine(sample("proc-stat.txt"))).toEqual({
    tasks: 3_115_891 + 197_919 + 535_834,
    interrupts: 0 + 47_110,
    stolen: 32_905,
  });
  expect(() => parseMachine("intr 5\n")).toThrow('wanted a line "cpu" of 8 numbers');
});

test("a disk is read out of /proc/diskstats by its whole name", () => {
  expect(parseDisk(sample("diskstats.txt"), "vda")).toEqual({
    reads: 10_794_636,
    writes: 32_243_196,
    writtenBytes: 1_801_838_416 * 512,
    flushes: 6_086_105,
  });
  expect(() => parseDisk(sample("diskstats.txt"), "vd")).toThrow("no vd with 20 fields");
  const old = sample("diskstats.txt").replace(/( \d+){2}$/gm, "");
  expect(() => parseDisk(old, "vda")).toThrow("no vda with 20 fields");
});

test("a load is read out of fio's report, warnings before it or not", () => {
  const wanted = {
    iops: 467.131474,
    bytesPerSec: 1_925_609,
    latencyUs: { p50: 6128, p99: 30_278, max: 35_504 },
    errors: 0,
  };
  expect(parseFioLoad(sample("fio-rbd.json"), "write")).toEqual(wanted);
  expect(parseFioLoad(`fio: a {warning}\n${sample("fio-rbd.json")}`, "write")).toEqual(wanted);
  expect(parseFioLoad(sample("fio-rbd.json"), "read").iops).toBe(0);
  expect(() => parseFioLoad("fio: no such engine", "read")).toThrow("wanted JSON with a job");
});

test("a load is read out of the report of bench image, and out of no other one", () => {
  expect(parseOurLoad(sample("bench-image.json"))).toEqual({
    iops: 3342.568,
    bytesPerSec: 13_691_160,
    latencyUs: { p50: 287, p99: 11_775, max: 27_090 },
    errors: 0,
  });
  expect(() => parseOurLoad('{"kind":"suite"}')).toThrow("kind suite, wanted image");
});
