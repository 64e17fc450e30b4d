import { afterAll, describe, expect, test } from "bun:test";
import { closeSync, constants, existsSync, mkdtempSync, openSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { closeFile } from "../../ffi/libc/libc.ts";
import { openDiskFile } from "./bun-open-disk.ts";
import type { DiskOpenOptions } from "./world.ts";

const MIB = 1_048_576;
/** Has no O_DIRECT before Linux 6.6. */
const SHARED_MEMORY = "/dev/shm";
const folders: string[] = [];

afterAll(() => {
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
});

function newDevice(parent: string = tmpdir()): string {
  const folder = mkdtempSync(join(parent, "fastblock-open-"));
  folders.push(folder);
  const path = join(folder, "device");
  closeFile(openDiskFile(path, { createBytes: MIB }).fd);
  return path;
}

/** The code of the refusal; empty when it was opened. */
function refusal(path: string, options: DiskOpenOptions): string {
  try {
    closeFile(openDiskFile(path, options).fd);
    return "";
  } catch (error) {
    return (error as { readonly code?: string }).code ?? String(error);
  }
}

describe("the lock of a device", () => {
  test("each shard holds a part: another process needs them all", () => {
    const path = newDevice();
    const shards = [0, 1, 2].map((shard) => openDiskFile(path, { shard }).fd);
    expect(refusal(path, {})).toBe("FB4005");
    expect(refusal(path, { readOnly: true })).toBe("FB4005");
    expect(refusal(path, { shard: 2 })).toBe("FB4005");
    // In the order of their opening, the last one outlives the first.
    for (const fd of shards) {
      expect(refusal(path, {})).toBe("FB4005");
      expect(refusal(path, { readOnly: true })).toBe("FB4005");
      closeFile(fd);
    }
    expect(refusal(path, {})).toBe("");
  });

  test("a pipe is refused at once, whoever is at its other end", () => {
    const path = join(newDevice(), "..", "pipe");
    expect(Bun.spawnSync(["mkfifo", path]).exitCode).toBe(0);
    expect(refusal(path, {})).toBe("FB4009");
    expect(refusal(path, { readOnly: true })).toBe("FB4009");
  });

  test("a directory that is not there is told, not the file that is to be made", () => {
    const path = join(newDevice(), "..", "none", "device");
    expect(() => openDiskFile(path, { createBytes: MIB })).toThrow(
      /creating .*: no such directory/,
    );
  });

  test("readers share it", () => {
    const path = newDevice();
    const reader = openDiskFile(path, { readOnly: true }).fd;
    expect(refusal(path, { readOnly: true })).toBe("");
    expect(refusal(path, {})).toBe("FB4005");
    closeFile(reader);
    expect(refusal(path, {})).toBe("");
  });

  test("whoever may wait gets it when its holder ends", async () => {
    const path = newDevice();
    const script = Bun.fileURLToPath(new URL("./bun-lock-child.ts", import.meta.url));
    const child = Bun.spawn([process.execPath, script, path], { stdin: "pipe", stdout: "pipe" });
    const { value } = await child.stdout.getReader().read();
    expect(new TextDecoder().decode(value)).toBe("held\n");
    expect(refusal(path, {})).toBe("FB4005");
    expect(refusal(path, { lockWaitUs: 20_000 })).toBe("FB4005");
    await child.stdin.end();
    expect(refusal(path, { lockWaitUs: 20_000_000 })).toBe("");
    await child.exited;
  });
});

/** An empty block device that this process may write: the gate's guest has one. */
const GIVEN_DEVICE = process.env["FASTBLOCK_TEST_DEVICE"] ?? "";
const isRoot = process.getuid?.() === 0;

/** A file as a block device; root alone may do that. */
function loopDevice(): string {
  const { stdout, stderr, success } = Bun.spawnSync(["losetup", "--find", "--show", newDevice()]);
  if (!success) throw new Error(`losetup: ${stderr.toString()}`);
  return stdout.toString().trim();
}

test.skipIf(GIVEN_DEVICE === "" && !isRoot)(
  "a block device is held, and free after a close",
  () => {
    if (GIVEN_DEVICE !== "") {
      expectHeld(GIVEN_DEVICE);
      return;
    }
    const device = loopDevice();
    try {
      expectHeld(device);
    } finally {
      expect(Bun.spawnSync(["losetup", "--detach", device]).success).toBe(true);
    }
  },
);

function expectHeld(blockDevice: string): void {
  const first = openDiskFile(blockDevice, {});
  const second = openDiskFile(blockDevice, { shard: 1 });
  expect(first.isBlockDevice).toBe(true);
  expect(first.direct).toBe(true);
  expect(first.sizeBytes).toBeGreaterThan(0);
  expect(refusal(blockDevice, {})).toBe("FB4005");
  closeFile(first.fd);
  expect(refusal(blockDevice, { readOnly: true })).toBe("FB4005");
  closeFile(second.fd);
  expect(refusal(blockDevice, { readOnly: true })).toBe("");
  expect(refusal(blockDevice, {})).toBe("");
}

describe("O_DIRECT", () => {
  for (const parent of [tmpdir(), SHARED_MEMORY]) {
    test.skipIf(!existsSync(parent))(`is taken where the file system has it: ${parent}`, () => {
      const path = newDevice(parent);
      const opened = openDiskFile(path, {});
      closeFile(opened.fd);
      expect(opened.direct).toBe(hasDirect(path));
      expect(opened.sizeBytes).toBe(MIB);
    });
  }
});

/** Asked of the kernel by the runtime's own means. */
function hasDirect(path: string): boolean {
  try {
    closeSync(openSync(path, constants.O_RDWR | constants.O_DIRECT));
    return true;
  } catch {
    return false;
  }
}
