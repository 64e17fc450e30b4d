import { expect, test } from "bun:test";
import { existsSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { succeed, withCluster } from "./e2e-harness.ts";

const NAMES = ["mon.a", "osd.0", "osd.1", "osd.2", "nbd.0"];

test("a cluster directory names each process, and a process started again keeps its ports", async () => {
  await withCluster({ osds: 3 }, async (cluster) => {
    for (const name of NAMES) {
      for (const kind of ["pid", "ports", "addr", "start", "log"]) {
        expect(existsSync(join(cluster.directory, `${name}.${kind}`))).toBe(true);
      }
      expect(statSync(join(cluster.directory, `${name}.start`)).mode & 0o100).toBe(0o100);
      expect(cluster.isRunning(name)).toBe(true);
    }
    for (const name of ["osd.2", "nbd.0", "mon.a"]) {
      const ports = readFileSync(join(cluster.directory, `${name}.ports`), "utf8");
      await cluster.kill(name, "SIGTERM");
      await cluster.restart(name);
      expect(readFileSync(join(cluster.directory, `${name}.ports`), "utf8")).toBe(ports);
    }
    const more = ["dev", "up", "--dir", cluster.directory, "--osds", "4", "--nbd", "2", "--detach"];
    const grown = await cluster.attempt(...more);
    expect(grown.stderr).toMatch(/^serving after \d+\.\d s; started now: osd\.3, nbd\.1\n$/);
    for (const name of ["nbd.0", "nbd.1"]) {
      const uri = `nbd://127.0.0.1:${cluster.port(name, "nbd")}/POOL/IMAGE`;
      expect(grown.stdout).toContain(`  ${uri}\n`);
    }
    await cluster.image("rbd/a", "16MiB", 3);
    const http = `http://127.0.0.1:${cluster.port("mon.a", "http")}`;
    for (const path of ["/", "/openapi.json", "/metrics", "/healthz"]) {
      expect(`${path} ${(await fetch(http + path)).status}`).toBe(`${path} 200`);
    }
  });
});

test("data persists over down and up, and two clusters run side by side", async () => {
  await withCluster({ osds: 1 }, async (cluster) => {
    await withCluster({ osds: 1 }, async (other) => {
      const uri = await cluster.image("p/kept", "16MiB", 1);
      await other.image("p/kept", "16MiB", 1);
      await succeed(["qemu-io", "-f", "raw", "-c", "write -P 0x61 0 1M", "-c", "flush", uri]);
      await succeed(["qemu-io", "-f", "raw", "-c", "read -P 0 0 1M", other.uri("p/kept")]);
      await cluster.run("dev", "down", "--dir", cluster.directory);
      for (const name of ["mon.a", "osd.0", "nbd.0"]) {
        expect(existsSync(join(cluster.directory, `${name}.start`))).toBe(true);
      }
      await cluster.up({});
      await succeed(["qemu-io", "-f", "raw", "-c", "read -P 0x61 0 1M", cluster.uri("p/kept")]);
    });
  });
});

test("mistakes have documented exit codes, a code and a hint", async () => {
  await withCluster({ osds: 1 }, async (cluster) => {
    await cluster.image("p/a", "16MiB", 1);
    const cases: readonly (readonly [number, readonly string[]])[] = [
      [4, ["pool", "create", "p", "--size", "1"]],
      [4, ["image", "create", "p/a", "--size", "16MiB"]],
      [3, ["image", "create", "none/a", "--size", "16MiB"]],
      [3, ["image", "info", "p/none"]],
      [2, ["image", "create", "p/b", "--size", "many"]],
      [2, ["image", "crate", "p/b"]],
    ];
    for (const [code, words] of cases) {
      const result = await cluster.attempt(...words);
      expect(`${words.join(" ")}: ${result.code}`).toBe(`${words.join(" ")}: ${code}`);
      expect(result.stdout).toBe("");
      expect(result.stderr).toStartWith("error");
      if (code !== 2) expect(result.stderr).toMatch(/^error FB\d{4}: /);
    }
    const tooSmall = await cluster.attempt("pool", "create", "wide", "--size", "3");
    expect(tooSmall.code).not.toBe(0);
    expect(tooSmall.stderr).toMatch(/^error FB\d{4}: [\s\S]*\n {2}hint /);
  });
});
