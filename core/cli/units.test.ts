import { describe, expect, test } from "bun:test";
import { FastblockError } from "../base/errors.ts";
import {
  counted,
  formatCount,
  formatDurationUs,
  formatSize,
  parseDurationMs,
  parseImagePath,
  parseOsdName,
  parseSize,
  parseWhole,
} from "./units.ts";

describe("sizes", () => {
  test.each([
    ["4096", 4096],
    ["4KiB", 4096],
    ["4k", 4096],
    ["4K", 4096],
    ["256MiB", 268_435_456],
    ["1.5GiB", 1_610_612_736],
    ["10 GiB", 10_737_418_240],
    ["2TiB", 2_199_023_255_552],
    ["1MB", 1_000_000],
    ["0", 0],
  ])("%s is %d bytes", (text, bytes) => {
    expect(parseSize(text)).toBe(bytes);
  });

  test.each(["", "many", "-1", "1.1", "4 XiB", "0x10", "1e3", "99999999999TiB", "1,5GiB"])(
    "%p is refused",
    (text) => {
      expect(() => parseSize(text)).toThrow(FastblockError);
    },
  );

  test.each([
    [0, "0 B"],
    [1023, "1023 B"],
    [1024, "1 KiB"],
    [1_610_612_736, "1.5 GiB"],
    [2 ** 50 * 5000, "5000 PiB"],
  ])("%d is shown as %s", (bytes, text) => {
    expect(formatSize(bytes)).toBe(text);
  });
});

describe("times", () => {
  test.each([
    ["30s", 30_000],
    ["250ms", 250],
    ["2m", 120_000],
    ["1.5h", 5_400_000],
    ["8", 8000],
    ["100us", 0.1],
  ])("%s is %d ms", (text, ms) => {
    expect(parseDurationMs(text)).toBe(ms);
  });

  test.each(["", "soon", "-1s", "3 days", "1S", `1${"0".repeat(20)}s`])("%p is refused", (text) => {
    expect(() => parseDurationMs(text)).toThrow(FastblockError);
  });

  test.each([
    [835, "835 µs"],
    [1250, "1.25 ms"],
    [3_200_000, "3.2 s"],
    [125_000_000, "2 min 5 s"],
    [18_180_000_000, "5 h 3 min"],
    [795_600_000_000, "9 d 5 h"],
  ])("%d µs is shown as %s", (us, text) => {
    expect(formatDurationUs(us)).toBe(text);
  });

  test("counts are shown shortly", () => {
    expect(formatCount(950)).toBe("950");
    expect(formatCount(18_432)).toBe("18.4 k");
    expect(formatCount(12_345_678)).toBe("12.3 M");
  });
});

describe("names", () => {
  test("an image's path has two parts", () => {
    expect(parseImagePath("demo/disk1")).toEqual({ pool: "demo", image: "disk1" });
    for (const text of ["demo", "/disk1", "demo/", "a/b/c", ""]) {
      expect(() => parseImagePath(text)).toThrow("wanted POOL/IMAGE");
    }
  });

  test("an osd is named by number, with or without its kind", () => {
    expect(parseOsdName("3")).toBe(3);
    expect(parseOsdName("osd.12")).toBe(12);
    for (const text of ["osd.", "osd.x", "mon.1", "-1", "70000"]) {
      expect(() => parseOsdName(text)).toThrow(FastblockError);
    }
  });

  test("whole numbers keep their limits", () => {
    expect(parseWhole("6", "--size", 1, 6)).toBe(6);
    expect(() => parseWhole("7", "--size", 1, 6)).toThrow("reading --size: 7, wanted 1 to 6");
    expect(() => parseWhole("1.5", "--size", 1, 6)).toThrow(FastblockError);
  });
});

test("one of something is not several", () => {
  expect([0, 1, 2].map((count) => counted(count, "replica"))).toEqual([
    "0 replicas",
    "1 replica",
    "2 replicas",
  ]);
});
