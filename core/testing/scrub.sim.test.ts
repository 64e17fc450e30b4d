/**
 * Scrub in whole simulated clusters (G6, G7): what nobody reads is found and put right, replicas that
 * have diverged become the same again, and nothing is found where nothing is wrong.
 */
import { describe, expect, test } from "bun:test";
import { drainMicrotasks } from "bun:jsc";
import { assert } from "../base/assert.ts";
import { Status } from "../base/status.ts";
import { BLOCK_SIZE, BLOCKS_PER_UNIT } from "../base/units.ts";
import { type Image, OpKind, PromisedOp } from "../client/client.ts";
import type { ObjectStore } from "../object/object.ts";
import { type Group, type ScrubState, SNAP_SEQ_HEAD, UnitListing } from "../pg/pg.ts";
import { SystemChecksum } from "../reactor/bun-system.ts";
import { SimCluster, type SimOsd } from "./sim-cluster.ts";

const LIMIT_US = 60_000_000;
const BLOCKS = 16 * BLOCKS_PER_UNIT;

function contentOf(stamp: number): Uint8Array<ArrayBuffer> {
  const words = new Uint32Array(BLOCK_SIZE / 4).fill(stamp);
  return new Uint8Array(words.buffer);
}

class Bench {
  readonly cluster: SimCluster;
  private readonly image: Image;
  private readonly buffer: number;
  private order = 0;
  private stamp = 1000;
  private loading = 0;

  constructor(seed: number, replicas = 3) {
    this.cluster = new SimCluster(seed, {
      osds: replicas,
      replicas,
      pgCount: 1,
      imageBytes: 16 * 1_048_576,
      tuning: { idleMs: 50 },
      checksum: new SystemChecksum(),
      errorsAllowed: true,
      drainMicrotasks,
    });
    this.cluster.start();
    this.image = this.cluster.await("open", this.cluster.client.openImage("pool/image"));
    this.buffer = this.cluster.clientWorld.arena.allocate(2 * BLOCKS_PER_UNIT * BLOCK_SIZE);
  }

  group(osd: SimOsd): Group {
    return [...osd.shard!.pg.groups.values()][0]!;
  }

  get leader(): SimOsd {
    const found = this.cluster.osds.find((osd) => this.group(osd).isLeader);
    assert(found !== undefined, "Bench: nobody leads");
    return found;
  }

  get followers(): SimOsd[] {
    const { leader } = this;
    return this.cluster.osds.filter((osd) => osd !== leader);
  }

  write(first: number, ...stamps: number[]): void {
    expect(this.cluster.await("write", this.begin(first, stamps, this.buffer))).toBe(Status.Ok);
  }

  read(block: number): number | string {
    const op = this.opOf(OpKind.Read, block, 1, this.buffer);
    const status = this.cluster.await("read", this.image.run(op));
    if (status !== Status.Ok) return Status[status]!;
    return this.cluster.clientWorld.arena.view.getUint32(this.buffer, true);
  }

  /** Write one block after another, here and there, until `stop`. */
  load(stop: () => boolean): void {
    this.loading += 1;
    const { random } = this.cluster;
    const next = (): void => {
      if (stop()) {
        this.loading -= 1;
        return;
      }
      this.stamp += 1;
      const at = this.buffer + BLOCKS_PER_UNIT * BLOCK_SIZE;
      // Without a promise to wait for: what fails here fails the comparison at the end.
      void this.begin(random.below(BLOCKS), [this.stamp], at).then(next);
    };
    next();
  }

  get isLoaded(): boolean {
    return this.loading > 0;
  }

  private begin(first: number, stamps: readonly number[], at: number): Promise<Status> {
    const { bytes } = this.cluster.clientWorld.arena;
    stamps.forEach((stamp, row) => bytes.set(contentOf(stamp), at + row * BLOCK_SIZE));
    return this.image.run(this.opOf(OpKind.Write, first, stamps.length, at));
  }

  private opOf(kind: OpKind, first: number, blocks: number, at: number): PromisedOp {
    const op = new PromisedOp();
    op.kind = kind;
    op.offsetBytes = first * BLOCK_SIZE;
    op.lengthBytes = blocks * BLOCK_SIZE;
    op.arenaOffset = at;
    return op;
  }

  until(what: string, done: () => boolean): void {
    expect(`${what}: ${this.cluster.simulation.run(done, LIMIT_US)}`).toBe(`${what}: true`);
  }

  pass(us: number): void {
    const { simulation } = this.cluster;
    simulation.run(simulation.nowUs + us);
  }

  settle(): void {
    // Followers apply in a moment.
    this.pass(100_000);
    this.until("all at home", () =>
      this.cluster.osds.every((osd) => osd.shard!.pg.store.usage().overlayBlocks === 0),
    );
  }

  /** Order a scrub, of whoever leads, as the monitor does, until it is done. */
  scrub(isDeep: boolean): ScrubState {
    this.order += 1;
    const { order } = this;
    let done: ScrubState | undefined;
    this.until("the scrub is done", () => {
      for (const osd of this.cluster.osds) {
        if (osd.world?.alive !== true || osd.shard === null) continue;
        const group = this.group(osd);
        if (group === undefined || !group.isLeader) continue;
        osd.shard.scrub(group.pg, order, isDeep);
        const scrub = osd.shard.pg.scrubs.of(group);
        if (scrub?.order === order && scrub.done) done = scrub;
      }
      return done !== undefined;
    });
    return done!;
  }

  rot(osd: SimOsd, stamp: number): void {
    const file = this.cluster.simulation.disk(osd.path);
    const places = file.find(contentOf(stamp));
    expect(places.length).toBeGreaterThan(0);
    for (const place of places) file.rot(place, BLOCK_SIZE);
  }

  copies(osd: SimOsd, stamp: number): number {
    return this.cluster.simulation.disk(osd.path).find(contentOf(stamp)).length;
  }

  /** Let a block of a replica be what it was before: data, checksum and version, none of it damaged. */
  forget(osd: SimOsd, block: number, stamp: number, version: number): void {
    const { shard } = this.group(osd);
    const store = shard.store as unknown as { machines: { objects: ObjectStore } };
    const { slots } = store.machines.objects;
    const [layer] = [...shard.store.layerBytes().keys()] as [number];
    const handle = slots.layers.find(layer);
    const slot = slots.newestUpTo(handle, Math.floor(block / BLOCKS_PER_UNIT), SNAP_SEQ_HEAD);
    const bit = block % BLOCKS_PER_UNIT;
    const crc = shard.world.checksum.crc32(contentOf(stamp), 0);
    slots.setBlock(slot, bit, version, crc);
    const place = slots.unitOffset(slot) + bit * BLOCK_SIZE;
    this.cluster.simulation.disk(osd.path).poke(place, contentOf(stamp));
  }

  /** All units of a replica, as text: the same on all of them when they are the same. */
  picture(osd: SimOsd): string {
    const { shard, row } = this.group(osd);
    const listing = new UnitListing();
    const lines: string[] = [];
    for (let cursor = 0; cursor >= 0; ) {
      cursor = shard.store.listUnits(row, cursor, listing);
      for (let at = 0; at < listing.count; at++) {
        const { layers, units, snapSeqs, digestsLow, digestsHigh } = listing;
        lines.push([layers, units, snapSeqs, digestsLow, digestsHigh].map((one) => one[at]).join());
      }
    }
    return lines.sort().join("\n");
  }

  same(): void {
    this.until("no replica is being filled", () =>
      this.cluster.osds.every((osd) => osd.shard!.pg.fills.count === 0),
    );
    this.settle();
    const pictures = this.cluster.osds.map((osd) => this.picture(osd));
    expect(pictures[0]).not.toBe("");
    expect(new Set(pictures).size).toBe(1);
  }
}

describe("deep scrub", () => {
  test("finds and heals what has rotted on a follower, and nobody has read", () => {
    const bench = new Bench(1);
    bench.write(0, 11, 12, 13, 14);
    bench.settle();
    const [rotten] = bench.followers as [SimOsd];
    bench.rot(rotten, 12);
    bench.rot(rotten, 14);
    expect(bench.scrub(false).tally.found).toBe(0);
    const { tally } = bench.scrub(true);
    expect([tally.found, tally.left]).toEqual([2, 0]);
    expect(tally.blocksRead).toBeGreaterThanOrEqual(12);
    for (const stamp of [12, 14]) expect(bench.copies(rotten, stamp)).toBe(1);
    expect(rotten.shard!.pg.store.counters.blocksHealed).toBe(2);
    expect(bench.scrub(true).tally.found).toBe(0);
  });

  test("finds a write that the device of one replica lost, the leader's too", () => {
    for (const seed of [2, 3]) {
      const bench = new Bench(seed);
      bench.write(0, 21);
      bench.settle();
      const victim = seed === 2 ? bench.leader : bench.followers[0]!;
      const { faults } = bench.cluster.simulation.disk(victim.path);
      faults.lostWriteShare = 1;
      bench.write(0, 22);
      bench.pass(100_000);
      faults.lostWriteShare = 0;
      bench.settle();
      expect(bench.copies(victim, 22)).toBeLessThan(bench.copies(bench.followers[1]!, 22));
      const { tally } = bench.scrub(true);
      expect([tally.found, tally.left]).toEqual([1, 0]);
      expect(bench.read(0)).toBe(22);
      bench.same();
    }
  });

  test("names what nobody has whole, and goes on", () => {
    const bench = new Bench(4);
    bench.write(0, 41, 42, 43);
    bench.settle();
    for (const osd of bench.cluster.osds) bench.rot(osd, 42);
    const { tally } = bench.scrub(true);
    expect(tally.left).toBeGreaterThan(0);
    expect(tally.blocks.every((one) => one.block === 1 && !one.undecided)).toBe(true);
    expect([bench.read(0), bench.read(1), bench.read(2)]).toEqual([41, "Damaged", 43]);
  });
});

test("a deep scrub reads no faster than its rate, whatever the device can", () => {
  const bench = new Bench(5);
  const units = 60;
  const stamps = Array.from({ length: BLOCKS_PER_UNIT }, (_, at) => 500 + at);
  for (let unit = 0; unit < units; unit++) bench.write(unit * BLOCKS_PER_UNIT, ...stamps);
  bench.settle();
  const before = bench.cluster.simulation.nowUs;
  const { tally } = bench.scrub(true);
  const seconds = (bench.cluster.simulation.nowUs - before) / 1e6;
  expect(tally.blocksRead).toBe(3 * units * BLOCKS_PER_UNIT);
  // 32 MiB/s; the last page of a replica takes its share after its answer.
  const bytes = (units - 16) * BLOCKS_PER_UNIT * BLOCK_SIZE;
  expect(seconds).toBeGreaterThan(bytes / (32 * 1_048_576));
  expect(seconds).toBeLessThan(5);
});

describe("light scrub", () => {
  for (const who of ["follower", "leader"]) {
    test(`a ${who} whose block is an old one becomes what the majority is`, () => {
      const bench = new Bench(who === "leader" ? 11 : 12);
      bench.write(3, 31);
      bench.write(4, 32);
      bench.settle();
      const victim = who === "leader" ? bench.leader : bench.followers[0]!;
      bench.forget(victim, 3, 30, 1);
      if (who === "leader") expect(bench.read(3)).toBe(30);
      const { tally } = bench.scrub(false);
      expect(tally.left).toBe(0);
      expect(tally.found).toBe(1);
      expect([bench.read(3), bench.read(4)]).toEqual([31, 32]);
      bench.same();
      const fills = bench.cluster.osds.map((osd) => osd.shard!.pg.fills.counters.fillsEnded);
      expect(fills.reduce((sum, one) => sum + one, 0)).toBe(1);
      expect(victim.shard!.pg.fills.counters.fillBlocksCopied).toBe(1);
    });
  }

  test("with two replicas nobody is right: both stay, and the block is named", () => {
    const bench = new Bench(13, 2);
    bench.write(3, 31);
    bench.settle();
    const [victim] = bench.followers as [SimOsd];
    bench.forget(victim, 3, 30, 1);
    const { tally } = bench.scrub(false);
    expect([tally.found, tally.left]).toEqual([1, 1]);
    expect(tally.blocks).toMatchObject([{ block: 3, undecided: true }]);
    expect(bench.copies(victim, 30)).toBe(1);
    expect(bench.read(3)).toBe(31);
  });

  test("heals while clients write, and over a change of the leader", () => {
    const bench = new Bench(14);
    bench.write(0, ...Array.from({ length: 16 }, (_, at) => 100 + at));
    bench.settle();
    let over = false;
    bench.load(() => over);
    const [victim, heir] = bench.followers as [SimOsd, SimOsd];
    const { group } = { group: bench.group(bench.leader) };
    bench.forget(victim, 5, 50, 1);
    bench.leader.shard!.scrub(group.pg, 1, true);
    bench.pass(3000);
    expect(group.shard.scrubs.of(group)?.done).toBe(false);
    bench.leader.shard!.transferLeader(group.pg, bench.group(heir).replica);
    bench.until("another leads", () => bench.group(heir).serving);
    const { tally } = bench.scrub(true);
    expect(tally.left).toBe(0);
    over = true;
    bench.until("the load has ended", () => !bench.isLoaded);
    bench.same();
    expect(bench.read(5)).not.toBe(50);
  }, 60_000);
});

test("waits for a replica that crashes meanwhile, and goes on where it was", () => {
  for (const seed of [21, 22, 23]) {
    const bench = new Bench(seed);
    const stamps = Array.from({ length: BLOCKS_PER_UNIT }, (_, at) => 700 + at);
    for (let unit = 0; unit < 60; unit++) bench.write(unit * BLOCKS_PER_UNIT, ...stamps);
    let over = false;
    bench.load(() => over);
    const [away] = bench.followers as [SimOsd];
    const { shard } = bench.leader;
    const group = bench.group(bench.leader);
    shard!.scrub(group.pg, 1, true);
    bench.pass(60_000);
    away.world!.crash();
    bench.pass(4_000_000);
    expect(shard!.pg.scrubs.of(group)?.done).toBe(false);
    bench.cluster.startOsd(away);
    bench.until("the scrub is done", () => shard!.pg.scrubs.of(group)?.done === true);
    const { tally } = shard!.pg.scrubs.of(group)!;
    expect([tally.found, tally.left]).toEqual([0, 0]);
    // Not all of it twice: only a page that was under way is read again.
    expect(tally.blocksRead).toBeLessThan(3 * 62 * BLOCKS_PER_UNIT);
    over = true;
    bench.until("the load has ended", () => !bench.isLoaded);
    bench.same();
  }
}, 60_000);

test("nothing is found where nothing is wrong, while clients write", () => {
  for (let seed = 100; seed < 106; seed++) {
    const bench = new Bench(seed);
    let over = false;
    bench.load(() => over);
    bench.pass(200_000);
    for (const isDeep of [false, true]) {
      const { tally } = bench.scrub(isDeep);
      expect(`seed ${seed}: ${tally.found} found`).toBe(`seed ${seed}: 0 found`);
    }
    over = true;
    bench.until("the load has ended", () => !bench.isLoaded);
    const compared = bench.cluster.osds.map((osd) => osd.shard!.pg.scrubs.counters);
    expect(compared.some((one) => one.scrubUnitsAsked > 0)).toBe(true);
  }
}, 120_000);
