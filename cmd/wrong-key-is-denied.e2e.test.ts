/** Whoever comes with the key of another cluster hears that, and not that nobody answers. */
import { expect, test } from "bun:test";
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { CLUSTER_FILE, KEY_FILE } from "../core/dev/dev.ts";
import { waitFor, withCluster } from "./e2e-harness.ts";

test("G18, N2: a key of another cluster is denied: to commands, gateways and osds", async () => {
  await withCluster({ osds: 2, flags: ["--osd-size", "300MiB"] }, async (cluster) => {
    await cluster.image("rbd/image", "16MiB", 1);
    const strange = cluster.path("strange");
    mkdirSync(strange);
    copyFileSync(join(cluster.directory, CLUSTER_FILE), join(strange, CLUSTER_FILE));
    const key = readFileSync(join(cluster.directory, KEY_FILE), "utf8");
    writeFileSync(
      join(strange, KEY_FILE),
      key.replace(/[0-9a-f]/, (at) => (at === "0" ? "1" : "0")),
    );
    await cluster.kill("osd.1", "SIGKILL");
    const data = join(cluster.directory, "osd.1.img");
    for (const words of [
      ["bench", "image", "rbd/image", "--rw", "randread", "--time", "1s"],
      ["client", "read", "rbd/image", "-"],
      ["client", "nbd", "serve", "--name", "nbd.9"],
      ["osd", "run", "--name", "osd.1", "--data", data],
    ]) {
      const { code, stdout, stderr } = await cluster.attempt(...words, "--cluster", strange);
      expect([words[1], code, stdout]).toEqual([words[1], 6, ""]);
      expect(stderr).toContain("error FB1007: connecting to the mon: ");
      expect(stderr).toContain("  why   refused by the peer: wrong key");
      expect(stderr).toContain("  hint  use the key file of this cluster");
    }
    // Whoever has the right one is not kept out by that.
    await cluster.restart("osd.1");
    await waitFor("osd.1 to be up", async () => {
      const osds = await cluster.json<{ id: number; up: boolean }[]>("osd", "ls");
      return osds.every((osd) => osd.up);
    });
    await cluster.run("bench", "image", "rbd/image", "--rw", "randread", "--time", "1s");
  });
}, 120_000);
