import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { join } from "node:path";
import { RawClient } from "../core/gateway/nbd/bun-raw-client.ts";
import { type TestCluster, waitFor, withCluster } from "./e2e-harness.ts";

/**
 * G15, N14, N23: clients that ask and do not read, that begin and do not go on, and strangers, in
 * numbers. Every process stays within its figure of the README, and others are served meanwhile,
 * before those that hold memory without moving are cut off, after 10 s.
 */

const MIB = 1_048_576;
const CLIENTS = 256;
const STRANGERS = 600;
const READ_BYTES = 262_144;
const READS = 100;
/** Of 256 MiB of memory, what is kept for who holds none is not given to who asks for more. */
const CUT_OFF = "it holds memory and does not move";
const [READ, WRITE] = [0, 1];
/** Slots and connections of the arena, and 128 MiB for everything beside it. */
const BOUND_MIB: Readonly<Record<string, number>> = {
  "mon.a": 4 + 640 + 128,
  "osd.0": 384 + 512 + 128,
  "nbd.0": 256 + 640 + 128,
};

/** Every process is within its bound, and somebody who behaves is answered. */
async function expectServed(cluster: TestCluster, client: RawClient, what: string): Promise<void> {
  client.request(WRITE, 1, 0, 4096, 0, Buffer.alloc(4096, 7));
  expect(await client.simpleReply()).toEqual({ error: 0, cookie: 1 });
  client.request(READ, 2, 0, 4096);
  expect(await client.simpleReply()).toEqual({ error: 0, cookie: 2 });
  expect(await client.need(4096)).toEqual(Buffer.alloc(4096, 7));
  const seen = Object.keys(BOUND_MIB).map((name) => ({
    name,
    mib: cluster.anonymousBytes(name) / MIB,
  }));
  console.log(
    `${what}: ${seen.map(({ name, mib }) => `${name} ${mib.toFixed(0)} MiB`).join(", ")}`,
  );
  for (const { name, mib } of seen) expect(mib).toBeLessThan(BOUND_MIB[name]!);
}

async function clientsOf(port: number, count: number): Promise<RawClient[]> {
  const clients: RawClient[] = [];
  for (let at = 0; at < count; at++) clients.push(await RawClient.attach(port, "rbd/a", false));
  return clients;
}

/** Connect, send what is no handshake, and wait until the other side has hung up. */
function strangers(port: number): readonly Socket[] {
  return Array.from({ length: STRANGERS }, (_, at) => {
    const socket = connect(port, "127.0.0.1");
    socket.on("error", () => undefined).resume();
    socket.write(Buffer.alloc(900, at));
    return socket;
  });
}

test("a flood of clients and of strangers is bounded, and others are served", async () => {
  await withCluster({ osds: 3 }, async (cluster) => {
    await cluster.image("rbd/a", "64MiB", 3);
    const port = cluster.port("nbd.0", "nbd");
    const other = await RawClient.attach(port, "rbd/a", false);
    await expectServed(cluster, other, "at rest");

    const deaf = await clientsOf(port, CLIENTS - 1);
    // There is room for no more: who comes now is not kept waiting.
    const more = RawClient.attach(port, "rbd/a", false).then(
      () => "served",
      () => "refused",
    );
    expect(await more).toBe("refused");
    for (const client of deaf) client.pause();
    for (const client of deaf) {
      for (let at = 0; at < READS; at++) client.request(READ, at, at * READ_BYTES, READ_BYTES);
    }
    await expectServed(cluster, other, `${deaf.length} clients that do not read`);
    expect(readFileSync(join(cluster.directory, "nbd.0.log"), "utf8")).not.toContain(CUT_OFF);
    for (const client of deaf) client.close();

    const slow: RawClient[] = [];
    await waitFor("room for clients again", async () => {
      // Refused while the gateway still holds some of those that have left.
      const client = await RawClient.attach(port, "rbd/a", false).catch(() => undefined);
      if (client !== undefined) slow.push(client);
      return slow.length === CLIENTS / 2;
    });
    for (const client of slow)
      client.request(WRITE, 1, 32 * MIB, 32 * MIB, 0, Buffer.alloc(2 * MIB));
    await expectServed(cluster, other, `${slow.length} clients that stop in a write`);
    for (const client of slow) client.close();

    for (const [name, role] of [
      ["osd.0", "data"],
      ["mon.a", "control"],
      ["nbd.0", "nbd"],
    ] as const) {
      const sockets = strangers(cluster.port(name, role));
      await waitFor("strangers to be closed", () => sockets.every((socket) => socket.closed));
      await expectServed(cluster, other, `${STRANGERS} strangers at ${name}`);
    }
    other.close();
  });
});
