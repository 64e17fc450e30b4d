/**
 * Images that are removed while clients are attached that the monitor can not tell, in whole
 * simulated clusters: the groups refuse them, whatever became of the osds since, and nothing of the
 * image takes space again.
 */
import { expect, test } from "bun:test";
import { drainMicrotasks } from "bun:jsc";
import { assert } from "../base/assert.ts";
import { Status } from "../base/status.ts";
import { BLOCK_SIZE, BLOCKS_PER_UNIT } from "../base/units.ts";
import type { Image } from "../client/client.ts";
import { EntryType } from "../log/log.ts";
import { type Group, WriteRequestOp } from "../pg/pg.ts";
import { SystemChecksum } from "../reactor/bun-system.ts";
import { awakeOf, groupsOf, MON_ADDRESS, SimCluster, type SimOsd } from "./sim-cluster.ts";

const LIMIT_US = 90_000_000;
/** Longer than a checkpoint of so little takes. */
const CHECKPOINT_US = 500_000;
const REPLICAS = 3;
const GROUPS = 4;
const UNIT_BYTES = BLOCKS_PER_UNIT * BLOCK_SIZE;
/** Of a unit, one block less than all: such writes go through the log. */
const PART_BYTES = UNIT_BYTES - BLOCK_SIZE;
/** Units that are written while an osd is away: more than the log keeps. */
const UNITS = 160;
/** Of the monitor, in operations. */
const SESSION = 1_000_000;
const CLIENT_ADDRESS = 200;

/** Three osds; some clients hold one image, the last one holds another. */
class Bench {
  readonly cluster: SimCluster;
  readonly holders: readonly Image[];
  readonly other: Image;
  /** Bytes in use on each osd without the image that all but one hold. */
  private readonly used: readonly number[];

  constructor(seed: number, holders: number, pgCount: number) {
    this.cluster = new SimCluster(seed, {
      osds: REPLICAS,
      replicas: REPLICAS,
      pgCount,
      clients: holders + 1,
      imageBytes: UNITS * UNIT_BYTES,
      logBytes: 8 * 1_048_576,
      parkLookUs: 100_000,
      checksum: new SystemChecksum(),
      drainMicrotasks,
    });
    this.cluster.start();
    this.cluster.createImage("other");
    const images = this.cluster.clients.map(({ client }, at) => {
      const name = at < holders ? "image" : "other";
      return this.cluster.await("open", client.openImage(`pool/${name}`));
    });
    this.other = images.at(-1)!;
    this.holders = images.slice(0, holders);
    for (let unit = 0; unit < UNITS; unit += 8) this.write(this.other, unit);
    this.settle();
    this.used = this.usedNow;
    for (const image of this.holders) {
      for (let unit = 0; unit < UNITS; unit += 8) this.write(image, unit);
    }
    this.settle();
    for (const [at, bytes] of this.usedNow.entries()) {
      expect(bytes).toBeGreaterThan(this.used[at]!);
    }
  }

  get osds(): readonly SimOsd[] {
    return this.cluster.osds.filter((osd) => osd.world?.alive === true);
  }

  get usedNow(): number[] {
    return this.osds.map((osd) => osd.shard!.report(true).figures!.usage.bytesUsed);
  }

  get checkpoints(): number[] {
    return this.osds.map((osd) => osd.shard!.pg.store.counters.checkpoints);
  }

  write(image: Image, unit: number): void {
    const data = new Uint8Array(PART_BYTES).fill(1 + (unit % 255));
    this.cluster.await("write", image.write(unit * UNIT_BYTES, data));
  }

  until(what: string, done: () => boolean): void {
    expect(`${what}: ${String(this.cluster.simulation.run(done, LIMIT_US))}`).toBe(`${what}: true`);
  }

  /** All is where it stays, and the checkpoint that brought it home is written. */
  settle(): void {
    const { simulation } = this.cluster;
    this.until("all at home", () =>
      this.osds.every((osd) => osd.shard!.pg.store.usage().overlayBlocks === 0),
    );
    simulation.run(simulation.nowUs + CHECKPOINT_US);
  }

  /** Remove the image while the monitor and those who hold it do not hear each other. */
  remove(): void {
    const { simulation, monitor } = this.cluster;
    for (const at of this.holders.keys()) {
      const address = `10.0.0.${String(CLIENT_ADDRESS + at)}`;
      simulation.cut(address, MON_ADDRESS);
      simulation.cut(MON_ADDRESS, address);
    }
    const removal = monitor.images.remove("pool", "image", true, false);
    const { id } = this.cluster.await("remove", removal);
    const isDone = (): boolean => monitor.catalogue.operations.get(id)?.state === "done";
    this.until("it is removed", isDone);
  }

  park(): void {
    this.until("all are parked", () => this.osds.every((osd) => awakeOf(osd).length === 0));
  }

  restart(osds: readonly SimOsd[]): void {
    for (const osd of osds) osd.world!.crash();
    for (const osd of osds) this.cluster.startOsd(osd);
    this.until("they serve", () => this.cluster.serving);
  }

  /** A holder that nobody has told yet is refused by the osds, in every group. */
  refused(holder: number, how: "read" | "write" | "zero"): void {
    const image = this.holders[holder]!;
    expect(image.isOver).toBe(false);
    const open: Promise<unknown>[] = [];
    for (let unit = 0; unit < UNITS; unit += 8) {
      const at = unit * UNIT_BYTES;
      if (how === "read") open.push(image.read(at, BLOCK_SIZE));
      else if (how === "zero") open.push(image.zero(at, BLOCK_SIZE));
      else open.push(image.write(at, new Uint8Array(BLOCK_SIZE).fill(9)));
    }
    const since = this.cluster.simulation.nowUs;
    for (const outcome of this.cluster.await("refusals", Promise.allSettled(open))) {
      const reason = outcome.status === "rejected" ? (outcome.reason as Error) : null;
      expect(reason?.message ?? "Ok").toContain("the image is removed (Removed)");
    }
    expect(this.cluster.simulation.nowUs - since).toBeLessThan(1_000_000);
    expect(image.isOver).toBe(true);
  }

  /** Nothing of the image takes space, and the other one is whole. */
  verify(): void {
    this.until("its space is given back", () => String(this.usedNow) === String(this.used));
    this.cluster.simulation.run(this.cluster.simulation.nowUs + 10_000_000);
    this.settle();
    expect(this.usedNow).toEqual([...this.used]);
    const data = this.cluster.await("read", this.other.read(0, UNIT_BYTES));
    expect(data.subarray(0, PART_BYTES).every((byte) => byte === 1)).toBe(true);
  }
}

function groupOf(osd: SimOsd): Group {
  const [group] = groupsOf(osd);
  assert(group !== undefined, "groupOf: the osd has no group");
  return group;
}

test("holders that the monitor can not tell are refused, also after restarts and by parked groups", () => {
  const bench = new Bench(7, 5, GROUPS);
  const before = bench.checkpoints;
  bench.remove();
  bench.refused(0, "write");
  // From the log alone.
  expect(bench.checkpoints).toEqual(before);
  bench.restart(bench.osds);
  bench.refused(1, "write");
  bench.refused(2, "read");
  bench.verify();
  bench.park();
  bench.refused(3, "write");
  bench.park();
  // From a checkpoint, in which one group is awake and the others are parked.
  const counts = bench.checkpoints;
  bench.write(bench.other, 0);
  for (const osd of bench.osds) {
    expect(awakeOf(osd).length).toBeLessThan(GROUPS);
    osd.shard!.pg.store.requestCheckpoint();
  }
  bench.until("checkpoints", () => bench.checkpoints.every((count, at) => count > counts[at]!));
  bench.restart(bench.osds);
  bench.refused(4, "zero");
  bench.verify();
}, 60_000);

test("a replica that was filled by difference refuses them when it leads", () => {
  const bench = new Bench(8, 2, 1);
  const { cluster } = bench;
  const away = bench.osds.find((osd) => !groupOf(osd).isLeader)!;
  away.world!.crash();
  bench.remove();
  bench.refused(0, "write");
  for (let unit = 0; unit < UNITS; unit++) bench.write(bench.other, unit);
  bench.settle();
  for (let unit = 0; unit < UNITS; unit++) bench.write(bench.other, unit);
  bench.settle();
  cluster.startOsd(away);
  bench.until("it is filled", () => away.shard?.pg.fills.counters.fillsEnded === 1);
  bench.until("it leads", () => {
    const leader = bench.osds.find((osd) => groupOf(osd).serving);
    if (leader === away) return true;
    leader?.shard!.transferLeader(groupOf(leader).pg, groupOf(away).replica);
    return false;
  });
  bench.refused(1, "write");
  expect(groupOf(away).serving).toBe(true);
  bench.until("nothing of it is left", () =>
    bench.osds.every((osd) => osd.shard!.pg.store.layerBytes().size === 1),
  );
}, 60_000);

class Written extends WriteRequestOp {
  refused = Status.Ok;
  done = false;

  override onDone(): void {
    this.done = true;
  }
}

interface Asked {
  readonly number: number;
  readonly session?: number;
  readonly lockEpoch?: number;
}

/** Have a group judge a change of one block, or the removal, of a layer. */
function ask(group: Group, type: EntryType, layer: number, asked: Asked): Written {
  const op = new Written();
  const { store, world } = group.shard;
  const entry = store.entries.take();
  op.entry = entry;
  entry.type = type;
  entry.session = asked.session ?? SESSION;
  entry.number = asked.number;
  entry.layer = layer;
  entry.blocks = type === EntryType.LayerGone ? 0 : 1;
  entry.lockEpoch = asked.lockEpoch ?? 0;
  op.refused = group.requests.write(op);
  if (op.refused !== Status.Ok) store.entries.release(entry);
  world.turns.again();
  return op;
}

test("nothing of a layer is proposed behind its removal, which may come again", () => {
  const bench = new Bench(9, 1, 1);
  const group = groupOf(bench.osds.find((osd) => groupOf(osd).serving)!);
  const layer = 77;
  const before = ask(group, EntryType.Zero, layer, { number: 0, lockEpoch: 3 });
  // A removal is not judged by the lock epoch that it carries.
  const removal = ask(group, EntryType.LayerGone, layer, { number: 1 });
  expect([before.refused, removal.refused]).toEqual([Status.Ok, Status.Ok]);
  for (const lockEpoch of [0, 3, 4, 0xffff_ffff]) {
    // Neither while the removal is only proposed nor later.
    for (const isApplied of [false, true]) {
      if (isApplied) bench.until("it is applied", () => removal.done && group.requests.isQuiet);
      const { refused } = ask(group, EntryType.Zero, layer, { number: 2, lockEpoch });
      expect(refused).toBe(Status.Removed);
    }
  }
  // A late copy of what came before it is refused too; of the removal, it is answered again.
  expect(ask(group, EntryType.Zero, layer, { number: 0, lockEpoch: 3 }).refused).toBe(
    Status.Removed,
  );
  const last = group.node.log.lastIndex;
  const again = ask(group, EntryType.LayerGone, layer, { number: 1 });
  bench.until("the removal is answered again", () => again.done);
  expect(group.node.log.lastIndex).toBe(last);
  const renewed = ask(group, EntryType.LayerGone, layer, { number: 0, session: SESSION + 1 });
  bench.until("and under another session", () => renewed.done);
  expect([again.status, renewed.status]).toEqual([Status.Ok, Status.Ok]);
  // Nobody removes a layer by the lock epoch that he carries.
  const forged = ask(group, EntryType.Zero, layer + 1, { number: 3, lockEpoch: 0xffff_ffff });
  expect(forged.refused).toBe(Status.Invalid);
}, 60_000);

test("a number far beyond what its session may have open is refused, and ends no osd", () => {
  const bench = new Bench(9, 1, 1);
  const group = groupOf(bench.osds.find((osd) => groupOf(osd).serving)!);
  const last = group.node.log.lastIndex;
  for (const number of [256, 1000, 2 ** 40]) {
    expect(ask(group, EntryType.Zero, 77, { number }).refused).toBe(Status.Invalid);
  }
  expect(group.node.log.lastIndex).toBe(last);
  const farthest = ask(group, EntryType.Zero, 77, { number: 255 });
  bench.until("the farthest one is applied", () => farthest.done && group.requests.isQuiet);
  expect(farthest.status).toBe(Status.Ok);
}, 60_000);
