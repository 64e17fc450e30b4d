import { expect, test } from "bun:test";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { spawn } from "bun";
import { EXECUTABLE, type TestCluster, waitFor, withCluster } from "./e2e-harness.ts";

/** Run a role by hand until it serves and `look` is through. */
async function byHand(
  cluster: TestCluster,
  name: string,
  words: readonly string[],
  look: () => Promise<void>,
): Promise<void> {
  const child = spawn([EXECUTABLE, ...words, "--name", name], {
    env: { ...process.env, CLUSTER_DIR: cluster.directory },
    stdin: "ignore",
    stdout: "ignore",
    stderr: "ignore",
  });
  try {
    const ports = join(cluster.directory, `${name}.ports`);
    await waitFor(`${name} to serve`, () => existsSync(ports));
    await look();
  } finally {
    child.kill("SIGTERM");
    await child.exited;
  }
  expect(child.exitCode).toBe(0);
}

test("--data of every process may be a directory", async () => {
  await withCluster({ osds: 1, flags: ["--osd-size", "300MiB"] }, async (cluster) => {
    const place = cluster.path("disk");
    const store = join(place, "store");
    const missing = await cluster.attempt("osd", "run", "--name", "osd.7", "--data", `${place}/`);
    expect([missing.code, missing.stderr]).toEqual([3, expect.stringContaining("FB4011")]);
    const made = ["osd", "format", "--id", "7", "--size", "300MiB", "--data", `${place}/`];
    expect(await cluster.json<object>(...made)).toMatchObject({ data: store });
    expect((await cluster.attempt(...made)).stderr).toContain("FB4008");
    for (const path of [place, store]) {
      const checked = await cluster.json<object>("osd", "fsck", "--data", path);
      expect(checked).toMatchObject({ data: store, clean: true });
      await cluster.run("osd", "inspect", "superblock", "--data", path);
    }
    await byHand(cluster, "osd.7", ["osd", "run", "--data", place], async () => {
      const running = await cluster.attempt("osd", "fsck", "--data", place);
      expect([running.code, running.stderr]).toEqual([4, expect.stringContaining("FB4005")]);
    });
    const kept = cluster.path("kept");
    const serve = ["client", "nbd", "serve", "--port", "0", "--data", kept];
    await byHand(cluster, "nbd.7", serve, async () => {
      await waitFor("the gateway to keep its map", () => existsSync(join(kept, "nbd.7.map")));
    });
    expect(existsSync(join(cluster.directory, "nbd.7.map"))).toBe(false);
    await cluster.run("dev", "down", "--dir", cluster.directory);
    const file = cluster.path("file");
    writeFileSync(file, "mine");
    for (const words of [["mon", "run"], serve.slice(0, -2)]) {
      const { code, stderr } = await cluster.attempt(...words, "--data", file);
      expect([code, stderr]).toEqual([
        1,
        expect.stringContaining("it is none, wanted a directory"),
      ]);
    }
    expect(readFileSync(file, "utf8")).toBe("mine");
    const empty = cluster.path("empty");
    mkdirSync(empty);
    const none = await cluster.attempt("osd", "fsck", "--data", empty);
    expect([none.code, none.stderr]).toEqual([3, expect.stringContaining(join(empty, "store"))]);
  });
});
