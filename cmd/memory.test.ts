import { describe, expect, test } from "bun:test";
import { FastblockError } from "../core/base/errors.ts";
import { MappingFailed } from "../ffi/libc/mapping-failed.ts";
import { allowedBytes, memoryError, shortLimit } from "./memory.ts";

const MIB = 1_048_576;
const STATUS =
  "Name:\tfastblock\nVmPeak:\t 9999999 kB\nVmSize:\t 4012176 kB\nVmData:\t 3773412 kB\n";

function limits(addresses: string, data: string): string {
  const head = "Limit                     Soft Limit           Hard Limit           Units     \n";
  const row = (what: string, soft: string): string =>
    `${what.padEnd(26)}${soft.padEnd(21)}unlimited\n`;
  return head + row("Max data size", data) + row("Max address space", addresses);
}

describe("a limit of the process", () => {
  test.each([
    ["that is none", "unlimited", "unlimited"],
    ["of addresses that leaves 128 MiB", String(4_012_176 * 1024 + 128 * MIB), "unlimited"],
    ["of data that leaves 128 MiB", "unlimited", String(3_773_412 * 1024 + 128 * MIB)],
  ])("%s is enough", (_, addresses, data) => {
    expect(shortLimit(STATUS, limits(addresses, data))).toBeUndefined();
  });

  test.each([
    [
      "address space",
      String(4_012_176 * 1024 + 128 * MIB - 1),
      "unlimited",
      "ulimit -v",
      "LimitAS=",
    ],
    ["data size", "unlimited", String(3800 * MIB), "ulimit -d", "LimitDATA="],
  ])("of %s that leaves less is told", (what, addresses, data, flag, setting) => {
    const { code, message, hint } = shortLimit(STATUS, limits(addresses, data))!;
    expect(code).toBe("FB4012");
    expect(message).toMatch(new RegExp(`limit of ${what}: \\d+ MiB left, wanted 128 MiB$`));
    expect(hint).toContain(flag);
    expect(hint).toContain(setting);
  });
});

describe("the memory that control groups leave", () => {
  const files = new Map([
    ["/sys/fs/cgroup/system.slice/osd/memory.max", "max\n"],
    ["/sys/fs/cgroup/system.slice/memory.max", `${512 * MIB}\n`],
  ]);
  const read = (path: string): string | undefined => files.get(path);

  test.each([
    ["the group above's, when its own has no limit", "0::/system.slice/osd\n", 512 * MIB],
    ["all, without files", "0::/other\n", Infinity],
    ["all, in the root", "0::/\n", Infinity],
    ["all, where none are told", "", Infinity],
    ["all, with groups of version 1", "4:memory:/system.slice/osd\n", Infinity],
  ])("is %s", (_, groups, wanted) => {
    expect(allowedBytes(groups, read)).toBe(wanted);
  });
});

test.each(["0::/\n", "0::/a/b\n"])("a container's own limit is that of its root: %s", (groups) => {
  const read = (path: string): string | undefined =>
    path === "/sys/fs/cgroup/memory.max" ? `${600 * MIB}\n` : undefined;
  expect(allowedBytes(groups, read)).toBe(600 * MIB);
});

test("a process that is told of no limits has none", () => {
  expect(shortLimit("", "")).toBeUndefined();
});

test.each([
  [
    "a mapping",
    new MappingFailed(1024 * MIB, 12),
    "mapping 1024 MiB of memory: errno 12, wanted all of it",
  ],
  [
    "an array",
    new RangeError("Out of memory"),
    "allocating memory: refused by the system, wanted it",
  ],
  [
    "compiled code",
    new Error("bun:ffi requires the JIT"),
    "allocating memory for compiled code: refused by the system, wanted it",
  ],
])("%s that gets no memory is told as that", (_, error, message) => {
  expect(memoryError(error)).toMatchObject({ code: "FB4012", message });
});

test("other errors stay as they are", () => {
  const coded = new FastblockError("FB4005", "x");
  const others = [new RangeError("Out of bounds"), new Error("Out of memory"), coded, "text"];
  expect(others.map((error) => memoryError(error))).toEqual(others);
});
