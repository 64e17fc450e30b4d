/** How much the file system beneath a disk can still give. */
import { afterAll, describe, expect, test } from "bun:test";
import { closeSync, openSync, statfsSync, writeFileSync } from "node:fs";
import { bytesBeneath } from "./bun-open-disk.ts";
import { createBunWorld } from "./bun-world.ts";
import { RealHarness } from "./bun-real-harness.ts";
import { createUringWorld } from "./uring-world.ts";

const harnesses = [
  ["io_uring", new RealHarness((options) => createUringWorld(options))],
  ["portable", new RealHarness((options) => createBunWorld(options))],
] as const;
const MIB = 1_048_576;
const TIB = 1024 * 1024 * MIB;

describe.each(harnesses)("%s", (_name, harness) => {
  afterAll(() => harness.close());

  test("a sparse file that promises more than there is, and files that have what they need", () => {
    const { disks } = harness.world;
    const { bavail, bsize } = statfsSync(harness.directory);
    const large = disks.open(harness.newPath(), { createBytes: 8 * TIB });
    // Others write beside us.
    expect(large.bytesBeneath()).toBeLessThan(8 * TIB);
    expect(large.bytesBeneath()).toBeGreaterThan((bavail * bsize) / 2);
    large.close();
    const small = disks.open(harness.newPath(), { createBytes: MIB });
    expect(small.bytesBeneath()).toBe(Number.POSITIVE_INFINITY);
    small.close();
    const path = harness.newPath();
    writeFileSync(path, new Uint8Array(MIB).fill(1));
    const whole = disks.open(path, {});
    expect(whole.bytesBeneath()).toBe(Number.POSITIVE_INFINITY);
    whole.close();
  });
});

test("a file system that tells nothing of its space is not a full one", () => {
  const fd = openSync("/proc/self/status", "r");
  try {
    expect(statfsSync("/proc").blocks).toBe(0);
    const facts = { path: "/proc/self/status", sizeBytes: MIB, direct: false, readOnly: true };
    expect(bytesBeneath({ ...facts, fd, isBlockDevice: false })).toBe(Number.POSITIVE_INFINITY);
  } finally {
    closeSync(fd);
  }
});
