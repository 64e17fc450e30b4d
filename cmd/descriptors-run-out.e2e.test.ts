import { expect, test } from "bun:test";
import { readdirSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { RawClient } from "../core/gateway/nbd/bun-raw-client.ts";
import { succeed, type TestCluster, waitFor, withCluster } from "./e2e-harness.ts";

/**
 * G15: strangers take all the file descriptors that a process may have. It takes nobody in any more,
 * serves who was there before, and takes others in as soon as there is room again.
 */

/** Long enough for everything that a process does by the clock. */
const LOOKS = 5;
const LOOK_MS = 500;
const SPARE = 8;
const STRANGERS = 200;
const [READ, WRITE] = [0, 1];

function openFiles(cluster: TestCluster, name: string): number {
  return readdirSync(`/proc/${cluster.pid(name)}/fd`).length;
}

async function limit(cluster: TestCluster, name: string, files: string): Promise<void> {
  await succeed(["prlimit", `--pid=${cluster.pid(name)}`, `--nofile=${files}:`]);
}

/** Somebody who was attached before writes, and reads it back. */
async function expectServed(client: RawClient, value: number): Promise<void> {
  client.request(WRITE, 1, 0, 65_536, 0, Buffer.alloc(65_536, value));
  expect(await client.simpleReply()).toEqual({ error: 0, cookie: 1 });
  client.request(READ, 2, 0, 65_536);
  expect(await client.simpleReply()).toEqual({ error: 0, cookie: 2 });
  expect(await client.need(65_536)).toEqual(Buffer.alloc(65_536, value));
}

/** Connect and say nothing. */
function strangers(port: number): readonly Socket[] {
  return Array.from({ length: STRANGERS }, () => {
    const socket = connect(port, "127.0.0.1");
    return socket.on("error", () => undefined).resume();
  });
}

async function runOut(
  cluster: TestCluster,
  name: string,
  role: string,
  body: () => Promise<void>,
): Promise<void> {
  const most = openFiles(cluster, name) + SPARE;
  await limit(cluster, name, String(most));
  const sockets = strangers(cluster.port(name, role));
  try {
    await waitFor(`${name} to have no room`, () => openFiles(cluster, name) >= most);
    await body();
    for (let look = 0; look < LOOKS; look++) {
      await Bun.sleep(LOOK_MS);
      expect(cluster.isRunning(name)).toBe(true);
    }
  } finally {
    for (const socket of sockets) socket.destroy();
    await limit(cluster, name, "4096");
  }
}

test("G15: a process whose descriptors run out serves on, and takes others in when there is room", async () => {
  await withCluster({ osds: 3 }, async (cluster) => {
    await cluster.image("rbd/a", "16MiB", 3);
    const port = cluster.port("nbd.0", "nbd");
    const client = await RawClient.attach(port, "rbd/a", false);
    await expectServed(client, 1);

    await runOut(cluster, "nbd.0", "nbd", () => expectServed(client, 2));
    const other = await waitFor("the gateway to take somebody in", () =>
      RawClient.attach(port, "rbd/a", false).catch(() => undefined),
    );
    await expectServed(other, 3);

    await runOut(cluster, "osd.0", "data", async () => {
      await expectServed(client, 4);
      // Its peers lose one of them, and it needs no descriptor to go on with the other.
      await cluster.kill("osd.1", "SIGKILL");
      await expectServed(client, 5);
    });
    await cluster.restart("osd.1");
    for (const role of ["control", "http"]) {
      await runOut(cluster, "mon.a", role, () => expectServed(client, 6));
    }
    await waitFor("the cluster to be well", async () => {
      const { stdout } = await cluster.attempt("health", "-o", "json");
      return stdout !== "" && (JSON.parse(stdout) as { readonly status: string }).status === "ok";
    });
    await expectServed(other, 7);
    await cluster.run("image", "verify", "rbd/a");
    client.close();
    other.close();
  });
}, 180_000);
