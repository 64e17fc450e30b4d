/**
 * A write that the network keeps past its client's retry, and past what another client wrote there
 * since, applies once: when it arrives at last, and again, nothing changes.
 */
import { expect, test } from "bun:test";
import { BLOCK_SIZE } from "../core/base/units.ts";
import { type Image, LEADER, OpKind, PromisedOp } from "../core/client/client.ts";
import type { RunnableWorld } from "../core/reactor/reactor.ts";
import { Status } from "../core/base/status.ts";
import { TestClient } from "./client-harness.ts";
import { type TestCluster, waitFor, withCluster } from "./e2e-harness.ts";
import { type StalledLine, StallingProxy } from "./stall-harness.ts";

const OSDS = [0, 1, 2];
const IMAGE = "rbd/late";

interface Pg {
  readonly id: string;
  readonly leaderOsd: number | null;
  readonly osds: readonly number[];
}

class Bench {
  readonly cluster: TestCluster;
  readonly proxies: readonly StallingProxy[];
  readonly slow: TestClient;
  readonly other: TestClient;

  constructor(cluster: TestCluster, proxies: readonly StallingProxy[]) {
    this.cluster = cluster;
    this.proxies = proxies;
    const ports = OSDS.map(
      (osd) => [cluster.port(`osd.${osd}`, "data"), proxies[osd]!.port] as const,
    );
    this.slow = new TestClient(cluster, "slow", new Map(ports));
    this.other = new TestClient(cluster, "other", new Map());
  }

  async group(): Promise<Pg> {
    const [pg] = await this.cluster.json<Pg[]>("pg", "ls", "rbd");
    return pg!;
  }

  async lead(pg: Pg, osd: number): Promise<void> {
    await this.cluster.run("pg", "transfer-leader", pg.id, "--to", `osd.${osd}`);
  }

  /** The connection of the slow client that leads to an osd now. */
  lineTo(osd: number): StalledLine {
    return this.proxies[osd]!.lines.findLast((line) => !line.ended)!;
  }

  /** Keep the next write of the slow client to `osd` on its way. Answers its line and its end. */
  async keepWrite(image: Image, osd: number, value: number): Promise<[StalledLine, Promise<void>]> {
    const line = this.lineTo(osd);
    line.stall();
    const written = image.write(0, filled(value));
    await waitFor("the write to be on its way", () => line.keeps.length > 0);
    return [line, written];
  }

  /** The write arrives, is answered, and arrives again: that ends its connection. */
  async arriveTwice(line: StalledLine, wanted: Status): Promise<void> {
    const [write] = line.keeps;
    line.deliver();
    await waitFor("the late write to be answered", () => line.answerTo(write!) !== undefined);
    expect(line.answerTo(write!)).toBe(wanted);
    line.repeat(write!);
    await waitFor("the osd to end the connection", () => line.ended);
  }
}

function filled(value: number): Uint8Array {
  return new Uint8Array(BLOCK_SIZE).fill(value);
}

/** What one replica has in the block, LEADER: whoever leads; -1 when its bytes differ. */
async function valueAt(world: RunnableWorld, image: Image, replica: number): Promise<number> {
  const slot = world.slots.take(BLOCK_SIZE);
  const op = new PromisedOp();
  op.kind = OpKind.Read;
  op.lengthBytes = BLOCK_SIZE;
  op.arenaOffset = slot;
  op.replica = replica;
  expect(await image.run(op)).toBe(Status.Ok);
  const block = world.arena.bytes.slice(slot, slot + BLOCK_SIZE);
  world.slots.release(slot);
  return block.every((byte) => byte === block[0]) ? block[0]! : -1;
}

/** The leader has it at once, the others as soon as they hear what is committed. */
async function expectEverywhere(bench: Bench, image: Image, value: number): Promise<void> {
  const { world } = bench.other;
  expect(await valueAt(world, image, LEADER)).toBe(value);
  for (const replica of OSDS) {
    await waitFor(
      `replica ${replica} to have ${value}`,
      async () => (await valueAt(world, image, replica)) === value,
    );
  }
  expect(await valueAt(world, image, LEADER)).toBe(value);
}

async function withBench(
  body: (bench: Bench, slow: Image, other: Image) => Promise<void>,
): Promise<void> {
  await withCluster({ osds: 3 }, async (cluster) => {
    await cluster.run("pool", "create", "rbd", "--size", "3", "--pgs", "1");
    await cluster.run("image", "create", IMAGE, "--size", "16MiB");
    const proxies = await Promise.all(
      OSDS.map((osd) => StallingProxy.to(cluster.port(`osd.${osd}`, "data"))),
    );
    const bench = new Bench(cluster, proxies);
    try {
      await body(bench, await bench.slow.open(IMAGE), await bench.other.open(IMAGE));
      await cluster.run("image", "verify", IMAGE);
    } finally {
      for (const osd of OSDS) process.kill(cluster.pid(`osd.${osd}`), "SIGCONT");
      await bench.slow.stop();
      await bench.other.stop();
      for (const proxy of proxies) proxy.close();
    }
  });
}

test("G4: a write that arrives long after its retry, and twice, changes nothing", async () => {
  await withBench(async (bench, slow, other) => {
    await slow.write(0, filled(1));
    // A change of the map in between would refuse whatever is late.
    await waitFor("every founder to be seen", () =>
      [...bench.slow.client.map.pgs.values()].every((one) => !one.creating),
    );
    const pg = await bench.group();
    // Who leads away from home does not come back there.
    const first = pg.osds[0]!;
    const isHome = async (): Promise<boolean> => (await bench.group()).leaderOsd === first;
    await waitFor("the leader to be at home", isHome);
    const second = pg.osds.find((osd) => osd !== first)!;

    // The retry goes to another leader; the late one arrives when the first leads again.
    let [line, written] = await bench.keepWrite(slow, first, 2);
    process.kill(bench.cluster.pid(`osd.${first}`), "SIGSTOP");
    await written;
    expect(bench.slow.client.counts.resends).toBeGreaterThan(0);
    expect((await other.read(0, 1))[0]).toBe(2);
    await other.write(0, filled(3));
    process.kill(bench.cluster.pid(`osd.${first}`), "SIGCONT");
    await waitFor("the leader to be at home again", isHome);
    await bench.arriveTwice(line, Status.Ok);
    await expectEverywhere(bench, other, 3);

    // The retry goes to the same leader, on another connection.
    await slow.write(0, filled(4));
    [line, written] = await bench.keepWrite(slow, first, 5);
    line.loseClient();
    await written;
    expect(bench.lineTo(first)).not.toBe(line);
    expect((await other.read(0, 1))[0]).toBe(5);
    await other.write(0, filled(6));
    await bench.arriveTwice(line, Status.Ok);
    await expectEverywhere(bench, other, 6);

    // Nor does one count that was sent by a map of before the leader was moved.
    await slow.write(0, filled(7));
    [line, written] = await bench.keepWrite(slow, first, 8);
    await bench.lead(pg, second);
    await written;
    await other.write(0, filled(9));
    await bench.arriveTwice(line, Status.MapStale);
    await expectEverywhere(bench, other, 9);
    await slow.write(0, filled(10));
    await expectEverywhere(bench, other, 10);
  });
}, 120_000);
