import { expect, test } from "bun:test";
import { infoRequest, RawClient } from "../core/gateway/nbd/bun-raw-client.ts";
import { TestClient } from "./client-harness.ts";
import { waitFor, withCluster } from "./e2e-harness.ts";
import { StallingProxy } from "./stall-harness.ts";

const BLOCK = 4096;
const STOPPED_MS = 7000;
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

interface Pg {
  readonly id: string;
  readonly state: string;
  readonly leaderOsd: number | null;
  readonly osds: readonly number[];
  readonly joining: readonly number[];
  readonly leaving: readonly number[];
}

test("a mon that was stopped for longer than any lease goes on", async () => {
  await withCluster({ osds: 3 }, async (cluster) => {
    await cluster.image("rbd/before", "16MiB", 3);
    const pid = cluster.pid("mon.a");
    process.kill(pid, "SIGSTOP");
    // Leases of mons that share a catalogue are of 5 s.
    await Bun.sleep(STOPPED_MS);
    process.kill(pid, "SIGCONT");
    await cluster.run("image", "create", "rbd/after", "--size", "16MiB");
    await waitFor("all osds to be up", async () => {
      const osds = await cluster.json<{ readonly up: boolean }[]>("osd", "ls");
      return osds.every((osd) => osd.up);
    });
    expect(cluster.pid("mon.a")).toBe(pid);
    process.kill(pid, 0);
  });
});

test("G10: a client that hears no mon follows a replica that moved, by what osds tell it", async () => {
  await withCluster({ osds: 4 }, async (cluster) => {
    await cluster.run("pool", "create", "rbd", "--size", "3", "--pgs", "1");
    await cluster.run("image", "create", "rbd/followed", "--size", "16MiB");
    const group = async (): Promise<Pg> => (await cluster.json<Pg[]>("pg", "ls", "rbd"))[0]!;
    const monPort = cluster.port("mon.a", "control");
    const toMon = await StallingProxy.to(monPort);
    const client = new TestClient(cluster, "cut-off", new Map([[monPort, toMon.port]]));
    try {
      const image = await client.open("rbd/followed");
      await image.write(0, new Uint8Array(BLOCK).fill(1));
      await waitFor("every founder to be seen", () =>
        [...client.client.map.pgs.values()].every((one) => !one.creating),
      );
      toMon.close();
      const { id, leaderOsd, osds } = await group();
      const spare = [0, 1, 2, 3].find((osd) => !osds.includes(osd))!;
      await cluster.run("pg", "replace", id, "--from", `osd.${leaderOsd!}`, "--to", `osd.${spare}`);
      await waitFor("the replica to have moved", async () => {
        const { state, joining, leaving, osds: now } = await group();
        return state === "active" && joining.length + leaving.length === 0 && now.includes(spare);
      });
      await cluster.kill("mon.a", "SIGKILL");
      const { epoch } = client.client.map;
      for (let block = 1; block < WRITES; block++) {
        await image.write(block * BLOCK, new Uint8Array(BLOCK).fill(block + 1));
      }
      for (let block = 0; block < WRITES; block++) {
        const read = await image.read(block * BLOCK, BLOCK);
        expect([block, ...new Set(read)]).toEqual([block, block + 1]);
      }
      expect(client.client.map.epoch).toBeGreaterThan(epoch);
      const [pg] = client.client.map.pgs.values();
      expect(pg!.replicas.map(({ osd }) => Number(osd))).not.toContain(leaderOsd!);
      await cluster.restart("mon.a");
    } finally {
      await client.stop();
      toMon.close();
    }
    await cluster.run("image", "verify", "rbd/followed");
  });
}, 120_000);

test("a pool that was removed goes from an osd that was away, also when the mon was since", async () => {
  await withCluster({ osds: 3 }, async (cluster) => {
    await cluster.image("gone/image", "16MiB", 3);
    const client = await RawClient.attach(cluster.port("nbd.0", "nbd"), "gone/image", false);
    try {
      for (let block = 0; block < WRITES; block++) await write(client, block);
    } finally {
      client.close();
    }
    interface Osd {
      readonly id: number;
      readonly up: boolean;
      readonly usedBytes: number;
      /** 0 before its first report. */
      readonly logCapacityBytes: number;
    }
    const away = async (): Promise<Osd> =>
      (await cluster.json<Osd[]>("osd", "ls")).find(({ id }) => id === 2)!;
    await waitFor("the data to be known", async () => (await away()).usedBytes > 0);
    await cluster.kill("osd.2", "SIGKILL");
    await cluster.run("image", "rm", "gone/image", "--yes");
    await cluster.run("pool", "rm", "gone", "--yes");
    await cluster.kill("mon.a", "SIGKILL");
    await cluster.restart("mon.a");
    await cluster.restart("osd.2");
    await waitFor("its space to be free", async () => {
      const { up, usedBytes, logCapacityBytes } = await away();
      return up && logCapacityBytes > 0 && usedBytes === 0;
    });
  });
}, 120_000);
