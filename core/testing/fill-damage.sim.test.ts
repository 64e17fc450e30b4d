/**
 * Catch-up by difference from a leader whose own copy is not whole, in simulated clusters: what
 * comes at once, what waits, what is lost everywhere, and how much is asked for.
 */
import { expect, test } from "bun:test";
import { drainMicrotasks } from "bun:jsc";
import { assert } from "../base/assert.ts";
import { Status } from "../base/status.ts";
import { BLOCK_SIZE, BLOCKS_PER_UNIT } from "../base/units.ts";
import { type Image, OpKind, PromisedOp } from "../client/client.ts";
import { type Group, SNAP_SEQ_HEAD, UnitState } from "../pg/pg.ts";
import { SystemChecksum } from "../reactor/bun-system.ts";
import { SimCluster, type SimOsd } from "./sim-cluster.ts";

const LIMIT_US = 60_000_000;
/** Of a unit, one less than all: such writes go through the log. */
const PART = BLOCKS_PER_UNIT - 1;
/** Units that are written while the follower is away: more than the log keeps. */
const UNITS = 160;

function contentOf(stamp: number): Uint8Array<ArrayBuffer> {
  const words = new Uint32Array(BLOCK_SIZE / 4).fill(stamp);
  return new Uint8Array(words.buffer);
}

/** Three osds with one group; `away` missed the newest version of all units, `behind` tells which. */
class Bench {
  readonly cluster: SimCluster;
  readonly leader: SimOsd;
  readonly away: SimOsd;
  readonly third: SimOsd;
  private readonly image: Image;
  private readonly buffer: number;

  constructor(seed: number) {
    this.cluster = new SimCluster(seed, {
      osds: 3,
      replicas: 3,
      pgCount: 1,
      imageBytes: 64 * 1_048_576,
      logBytes: 8 * 1_048_576,
      tuning: { idleMs: 50 },
      checksum: new SystemChecksum(),
      errorsAllowed: true,
      drainMicrotasks,
    });
    this.cluster.start();
    this.image = this.cluster.await("open", this.cluster.client.openImage("pool/image"));
    this.buffer = this.cluster.clientWorld.arena.allocate(BLOCKS_PER_UNIT * BLOCK_SIZE);
    this.write(0, 100);
    const { osds } = this.cluster;
    this.leader = osds.find((osd) => groupOf(osd).isLeader)!;
    const [away, third] = osds.filter((osd) => osd !== this.leader);
    assert(away !== undefined && third !== undefined, "Bench: wanted three osds");
    this.away = away;
    this.third = third;
    this.settle(osds);
    away.world!.crash();
    for (let unit = 0; unit < UNITS; unit++) this.write(unit, (unit + 1) * 1000);
    this.settle([this.leader, third]);
    const { shard, row } = groupOf(this.leader);
    expect(shard.store.firstIndex(row)).toBeGreaterThan(10);
  }

  /** Write all but the last block of a unit with stamps from `stamp` on. */
  private write(unit: number, stamp: number): void {
    const { bytes } = this.cluster.clientWorld.arena;
    for (let at = 0; at < PART; at++) {
      bytes.set(contentOf(stamp + at), this.buffer + at * BLOCK_SIZE);
    }
    expect(this.run(OpKind.Write, unit * BLOCKS_PER_UNIT, PART)).toBe(Status.Ok);
  }

  /** A block's stamp, or what its reading ends with. */
  read(block: number): number | string {
    const status = this.run(OpKind.Read, block, 1);
    if (status !== Status.Ok) return Status[status]!;
    return this.cluster.clientWorld.arena.view.getUint32(this.buffer, true);
  }

  readOwn(replica: number, block: number): Status {
    return this.run(OpKind.Read, block, 1, replica);
  }

  private run(kind: OpKind, first: number, blocks: number, replica?: number): Status {
    const op = new PromisedOp();
    op.kind = kind;
    op.offsetBytes = first * BLOCK_SIZE;
    op.lengthBytes = blocks * BLOCK_SIZE;
    op.arenaOffset = this.buffer;
    if (replica !== undefined) op.replica = replica;
    return this.cluster.await("operation", this.image.run(op));
  }

  private settle(osds: readonly SimOsd[]): void {
    this.until("all at home", () =>
      osds.every((osd) => osd.shard!.pg.store.usage().overlayBlocks === 0),
    );
  }

  until(what: string, done: () => boolean): void {
    expect(`${what}: ${this.cluster.simulation.run(done, LIMIT_US)}`).toBe(`${what}: true`);
  }

  pass(us: number): void {
    const { simulation } = this.cluster;
    simulation.run(simulation.nowUs + us);
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

  lost(osd: SimOsd): number[] {
    return osd.shard!.pg.store.lost(100).blocks.map((one) => one.block);
  }

  get isFilled(): boolean {
    return this.away.shard?.pg.fills.counters.fillsEnded === 1;
  }

  /** Bits of the blocks of unit 0 that are the same on two osds. */
  same(one: SimOsd, other: SimOsd): number {
    const [first, second] = [this.unitOf(one), this.unitOf(other)];
    let bits = 0;
    for (let block = 0; block < BLOCKS_PER_UNIT; block++) {
      const same =
        first.states[block] === second.states[block] &&
        first.versions[block] === second.versions[block];
      if (same) bits |= 1 << block;
    }
    return bits;
  }

  private unitOf(osd: SimOsd): UnitState {
    const { shard, row } = groupOf(osd);
    const state = new UnitState();
    [state.layer] = [...shard.store.layerBytes().keys()] as [number];
    state.snapSeq = SNAP_SEQ_HEAD;
    shard.store.unitState(row, state);
    return state;
  }
}

function groupOf(osd: SimOsd): Group {
  return [...osd.shard!.pg.groups.values()][0]!;
}

test("a block that the leader can not read holds nothing else, and comes once it is healed", () => {
  const bench = new Bench(31);
  const { cluster, leader, away, third } = bench;
  bench.rot(leader, 1003);
  third.world!.crash();
  cluster.startOsd(away);
  const all = (1 << BLOCKS_PER_UNIT) - 1;
  bench.until("the rest is there", () => {
    const group = away.shard?.pg.groups.values()[0];
    return group !== undefined && bench.same(away, leader) === (all & ~(1 << 3));
  });
  bench.pass(3_000_000);
  expect(bench.isFilled).toBe(false);
  expect(bench.lost(leader)).toEqual([]);
  cluster.startOsd(third);
  bench.until("it is filled", () => bench.isFilled);
  bench.until("the group serves", () => cluster.serving);
  expect(bench.read(3)).toBe(1003);
  for (const replica of [0, 1, 2]) expect(bench.readOwn(replica, 3)).toBe(Status.Ok);
  for (const osd of [leader, away]) expect(bench.copies(osd, 1003)).toBeGreaterThan(0);
}, 60_000);

test("G8: a block that nobody has whole is lost on the filled replica too, and nothing else is", () => {
  const bench = new Bench(32);
  const { cluster, leader, away, third } = bench;
  for (const osd of [leader, third]) bench.rot(osd, 1005);
  const before = cluster.simulation.nowUs;
  cluster.startOsd(away);
  bench.until("it is filled", () => bench.isFilled);
  expect(cluster.simulation.nowUs - before).toBeLessThan(15_000_000);
  bench.until("all know", () => cluster.osds.every((osd) => bench.lost(osd).join() === "5"));
  expect(bench.same(away, leader)).toBe((1 << BLOCKS_PER_UNIT) - 1);
  expect(bench.read(5)).toBe("Damaged");
  expect(bench.read(4)).toBe(1004);
}, 60_000);

test("each unit is asked about once, and each block fetched once", () => {
  const bench = new Bench(33);
  bench.cluster.startOsd(bench.away);
  bench.until("it is filled", () => bench.isFilled);
  const { counters } = bench.away.shard!.pg.fills;
  expect(counters.fillUnitsDiffering).toBe(UNITS);
  expect(counters.fillUnitsAsked / UNITS).toBeLessThan(1.05);
  expect(counters.fillBlocksCopied).toBe(UNITS * PART);
  expect(counters.fillBlocksDiffering).toBe(UNITS * PART);
}, 60_000);

test("a replica whose device stands still as its fill ends is filled once", () => {
  const bench = new Bench(34);
  const { cluster, away } = bench;
  const { faults } = cluster.simulation.disk(away.path);
  cluster.startOsd(away);
  bench.until("its store is open", () => away.session !== null);
  const { store } = away.shard!.pg;
  let ends = 0;
  const endFill = store.endFill.bind(store);
  store.endFill = (row): void => {
    ends += 1;
    endFill(row);
    faults.stalled = true;
  };
  // Should it be compared anew, then the device goes on in the middle of that.
  const unitState = store.unitState.bind(store);
  store.unitState = (row, unit): void => {
    if (ends > 0) faults.stalled = false;
    unitState(row, unit);
  };
  bench.until("its end is on the way", () => ends > 0);
  Object.assign(cluster.simulation.network, { latencyUsMin: 5000, latencyUsMax: 5000 });
  bench.pass(4_000_000);
  faults.stalled = false;
  bench.until("it is filled", () => bench.isFilled);
  bench.until("the group serves", () => cluster.serving);
  expect(ends).toBe(1);
}, 60_000);
