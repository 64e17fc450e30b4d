import { expect, test } from "bun:test";
import { infoRequest, RawClient } from "../core/gateway/nbd/bun-raw-client.ts";
import { withCluster } from "./e2e-harness.ts";

const BLOCK = 4096;
const WRITES = 200;
const [LIST, GO, ACK, INFO, POLICY] = [3, 7, 1, 3, 0x8000_0002];
const [READ, WRITE] = [0, 1];

async function write(client: RawClient, block: number): Promise<void> {
  client.request(WRITE, block, block * BLOCK, BLOCK, 0, Buffer.alloc(BLOCK, block + 1));
  expect(await client.simpleReply()).toEqual({ error: 0, cookie: block });
}

test("G10: attached images go on being served, and an attach is refused in words and done later", async () => {
  await withCluster({ osds: 3 }, async (cluster) => {
    await cluster.image("rbd/attached", "16MiB", 3);
    await cluster.run("image", "create", "rbd/later", "--size", "16MiB");
    const port = cluster.port("nbd.0", "nbd");
    const attached = await RawClient.attach(port, "rbd/attached", false);
    const waiting = await RawClient.open(port);
    try {
      await write(attached, 0);
      await cluster.kill("mon.a", "SIGKILL");
      for (let block = 1; block < WRITES; block++) await write(attached, block);
      waiting.flags(3);
      for (const [option, data] of [
        [GO, infoRequest("rbd/later")],
        [LIST, Buffer.alloc(0)],
        [GO, infoRequest("rbd/later")],
      ] as const) {
        waiting.option(option, data);
        const text = (await waiting.expectReply(option, POLICY)).toString();
        expect(text).toBe("the mon does not answer");
      }
      await cluster.restart("mon.a");
      waiting.option(GO, infoRequest("rbd/later"));
      await waiting.expectReply(GO, INFO);
      await waiting.expectReply(GO, INFO);
      await waiting.expectReply(GO, ACK);
      await write(waiting, 7);
      attached.request(READ, 1, (WRITES - 1) * BLOCK, BLOCK);
      expect(await attached.simpleReply()).toEqual({ error: 0, cookie: 1 });
      expect(await attached.need(BLOCK)).toEqual(Buffer.alloc(BLOCK, WRITES));
    } finally {
      attached.close();
      waiting.close();
    }
    await cluster.run("image", "verify", "rbd/attached");
  });
});
