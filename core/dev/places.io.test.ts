import { expect, test } from "bun:test";
import { chmodSync, existsSync, mkdirSync, mkdtempSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { checkTemporaryHome, FreePorts, findSocketPath, removeSocketFolder } from "./bun-places.ts";
import { SOCKET_PATH_BYTES_MAX } from "./plan.ts";

test("a picked port is free, below the kernel's own, and picked once", () => {
  const ports = new FreePorts();
  const picked = Array.from({ length: 20 }, () => ports.pick("127.0.0.1"));
  expect(new Set(picked).size).toBe(20);
  for (const port of picked) {
    expect(port).toBeGreaterThanOrEqual(10_000);
    expect(port).toBeLessThan(30_000);
    const socket = { data() {} };
    Bun.listen({ hostname: "127.0.0.1", port, socket }).stop(true);
  }
});

test("a socket lies in the cluster directory, or in a short folder when its path is too long", () => {
  const folder = mkdtempSync(join(tmpdir(), "fastblock-places-"));
  try {
    expect(findSocketPath(folder, "nbd.0")).toBe(join(folder, "nbd.0.sock"));
    const long = join(folder, "x".repeat(120));
    const path = findSocketPath(long, "nbd.0");
    expect(Buffer.byteLength(path)).toBeLessThanOrEqual(SOCKET_PATH_BYTES_MAX);
    expect(findSocketPath(long, "nbd.0")).toBe(path);
    const socket = { data() {} };
    Bun.listen({ unix: path, socket }).stop(true);
    removeSocketFolder(long);
    expect(existsSync(path)).toBe(false);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

test("a folder in a directory that all share is trusted when it is ours and closed to others", () => {
  const folder = mkdtempSync(join(tmpdir(), "fastblock-places-"));
  try {
    const home = join(folder, "fastblock-1");
    const dev = join(home, "dev");
    checkTemporaryHome(dev, home);
    mkdirSync(home, { mode: 0o700 });
    checkTemporaryHome(dev, home);
    chmodSync(home, 0o755);
    expect(() => checkTemporaryHome(dev, home)).toThrow("mode 755, wanted 700");
    checkTemporaryHome(join(folder, "fastblock-12"), home);
    const link = join(folder, "fastblock-2");
    symlinkSync(folder, link);
    expect(() => checkTemporaryHome(join(link, "dev"), link)).toThrow("not a directory of yours");
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
