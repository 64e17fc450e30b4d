import { expect, test } from "bun:test";
import { RawClient } from "../core/gateway/nbd/bun-raw-client.ts";
import { type TestCluster, waitFor, withCluster } from "./e2e-harness.ts";

const READ = 0;
const WRITE = 1;
const BLOCK = 4096;
/** `NBD_EIO`. */
const REFUSED = 5;

async function attach(cluster: TestCluster, name: string): Promise<RawClient> {
  return await RawClient.attach(cluster.port("nbd.0", "nbd"), name, false);
}

/** Write the first block full of one byte. Answers the error. */
async function write(client: RawClient, byte: number): Promise<number> {
  client.request(WRITE, 1, 0, BLOCK, 0, Buffer.alloc(BLOCK, byte));
  return (await client.simpleReply()).error;
}

/** The first byte; -1: refused. */
async function read(client: RawClient): Promise<number> {
  client.request(READ, 2, 0, BLOCK);
  const { error } = await client.simpleReply();
  return error === 0 ? (await client.need(BLOCK))[0]! : -1;
}

test("a name goes to another image while clients are attached under it", async () => {
  await withCluster({ osds: 1, flags: ["--osd-size", "300MiB"] }, async (cluster) => {
    await cluster.image("p/a", "16MiB", 1);
    const before = await attach(cluster, "p/a");
    expect(await write(before, 1)).toBe(0);

    await cluster.run("image", "rename", "p/a", "b");
    await cluster.run("image", "create", "p/a", "--size", "16MiB");
    const after = await attach(cluster, "p/a");
    expect(await read(after)).toBe(0);
    expect(await write(after, 2)).toBe(0);
    // Who was there before keeps what he had, under its new name.
    expect(await read(before)).toBe(1);
    const renamed = await attach(cluster, "p/b");
    expect(await read(renamed)).toBe(1);

    await cluster.run("image", "rm", "p/a", "--force", "FB3005", "--yes");
    await waitFor("the client to be cut off", async () => (await write(after, 3)) === REFUSED);
    expect(await read(after)).toBe(-1);
    await cluster.run("image", "create", "p/a", "--size", "16MiB");
    const anew = await attach(cluster, "p/a");
    expect(await read(anew)).toBe(0);
    expect(await write(after, 4)).toBe(REFUSED);
    expect(await read(anew)).toBe(0);
    for (const client of [before, after, renamed, anew]) client.close();
  });
});
