/**
 * Damaged blocks and log payloads in whole simulated clusters (G6, G7, G8): what reads answer, what
 * is healed from whom, what is given up, and what the monitor says of it.
 */
import { describe, expect, test } from "bun:test";
import { drainMicrotasks } from "bun:jsc";
import { assert } from "../base/assert.ts";
import type { Logger } from "../base/logger.ts";
import { Status } from "../base/status.ts";
import { BLOCK_SIZE, BLOCKS_PER_UNIT } from "../base/units.ts";
import { type Image, OpKind, PromisedOp } from "../client/client.ts";
import type { Group } from "../pg/pg.ts";
import { SystemChecksum } from "../reactor/bun-system.ts";
import { MON_ADDRESS, SimCluster, type SimOsd } from "./sim-cluster.ts";

const LIMIT_US = 30_000_000;
/** For one operation, and for a unit that is being written. */
const BUFFER_BLOCKS = 2 * BLOCKS_PER_UNIT;

/** What a block holds: the stamp in every word, so that it is found on the devices. */
function contentOf(stamp: number): Uint8Array<ArrayBuffer> {
  const words = new Uint32Array(BLOCK_SIZE / 4).fill(stamp);
  return new Uint8Array(words.buffer);
}

/** Counts what is logged, by message. */
class CountingLogger implements Logger {
  readonly counts = new Map<string, number>();

  debug(): void {}

  info(message: string): void {
    this.counts.set(message, (this.counts.get(message) ?? 0) + 1);
  }

  warn(message: string): void {
    this.info(message);
  }

  error(message: string): void {
    this.info(message);
  }

  child(): this {
    return this;
  }
}

class DamageBench {
  readonly log = new CountingLogger();
  readonly cluster: SimCluster;
  readonly image: Image;
  private readonly buffer: number;

  /** `replicas` osds with one group. Nothing moves home while `inLog`. */
  constructor(seed: number, replicas: number, inLog: boolean) {
    this.cluster = new SimCluster(seed, {
      osds: replicas,
      replicas,
      pgCount: 1,
      imageBytes: 16 * 1_048_576,
      tuning: { idleMs: inLog ? 3_600_000 : 50 },
      checksum: new SystemChecksum(),
      errorsAllowed: true,
      logger: this.log,
      drainMicrotasks,
    });
    this.cluster.start();
    this.image = this.cluster.await("open", this.cluster.client.openImage("pool/image"));
    this.buffer = this.cluster.clientWorld.arena.allocate(BUFFER_BLOCKS * BLOCK_SIZE);
  }

  /** Write stamps, one a block, from `first` on. */
  write(first: number, ...stamps: number[]): void {
    const { bytes } = this.cluster.clientWorld.arena;
    stamps.forEach((stamp, at) => bytes.set(contentOf(stamp), this.buffer + at * BLOCK_SIZE));
    expect(this.run(OpKind.Write, first, stamps.length)).toBe(Status.Ok);
  }

  /** Begin to write stamps, one a block, as writes of their own that are under way together. */
  writeTogether(first: number, ...stamps: number[]): Promise<Status[]> {
    const { bytes } = this.cluster.clientWorld.arena;
    const done = stamps.map((stamp, at) => {
      const buffer = this.buffer + at * BLOCK_SIZE;
      bytes.set(contentOf(stamp), buffer);
      return this.begin(OpKind.Write, first + at, 1, buffer);
    });
    return Promise.all(done);
  }

  /** Begin to write the first unit, one stamp a block. */
  beginUnit(stamps: readonly number[]): Promise<Status> {
    const { bytes } = this.cluster.clientWorld.arena;
    const buffer = this.buffer + BLOCKS_PER_UNIT * BLOCK_SIZE;
    stamps.forEach((stamp, at) => bytes.set(contentOf(stamp), buffer + at * BLOCK_SIZE));
    return this.begin(OpKind.Write, 0, stamps.length, buffer);
  }

  /** Read blocks: their stamps, or what the read ends with. */
  read(first: number, blocks = 1): number[] | Status {
    const status = this.run(OpKind.Read, first, blocks);
    if (status !== Status.Ok) return status;
    const { bytes, view } = this.cluster.clientWorld.arena;
    const stamps: number[] = [];
    for (let at = 0; at < blocks; at++) {
      const from = this.buffer + at * BLOCK_SIZE;
      const stamp = view.getUint32(from, true);
      expect(bytes.slice(from, from + BLOCK_SIZE)).toEqual(contentOf(stamp));
      stamps.push(stamp);
    }
    return stamps;
  }

  /** Read one replica's own store, leader or not. */
  readOwn(replica: number, first: number): Status {
    return this.run(OpKind.Read, first, 1, replica);
  }

  private run(kind: OpKind, first: number, blocks: number, replica?: number): Status {
    return this.cluster.await("operation", this.begin(kind, first, blocks, this.buffer, replica));
  }

  private begin(
    kind: OpKind,
    first: number,
    blocks: number,
    buffer: number,
    replica?: number,
  ): Promise<Status> {
    const op = new PromisedOp();
    op.kind = kind;
    op.offsetBytes = first * BLOCK_SIZE;
    op.lengthBytes = blocks * BLOCK_SIZE;
    op.arenaOffset = buffer;
    if (replica !== undefined) op.replica = replica;
    return this.image.run(op);
  }

  group(osd: SimOsd): Group {
    return [...osd.shard!.pg.groups.values()][0]!;
  }

  get leader(): SimOsd {
    const found = this.cluster.osds.find(
      (osd) => osd.world?.alive === true && this.group(osd)?.isLeader,
    );
    assert(found !== undefined, "DamageBench: nobody leads");
    return found;
  }

  get followers(): SimOsd[] {
    const { leader } = this;
    return this.cluster.osds.filter((osd) => osd !== leader);
  }

  until(what: string, done: () => boolean): void {
    expect(`${what}: ${this.cluster.simulation.run(done, LIMIT_US)}`).toBe(`${what}: true`);
  }

  pass(us: number): void {
    const { simulation } = this.cluster;
    simulation.run(simulation.nowUs + us);
  }

  /** Wait until every replica has moved everything home. */
  settle(): void {
    this.until("all at home", () =>
      this.cluster.osds.every((osd) => {
        const { overlayBlocks, logBytesUsed } = osd.shard!.pg.store.usage();
        return overlayBlocks === 0 && logBytesUsed < 65_536;
      }),
    );
  }

  /** Damage every copy of what has this stamp on the device of an osd. Answers how many. */
  rot(osd: SimOsd, stamp: number): number {
    const file = this.cluster.simulation.disk(osd.path);
    const places = file.find(contentOf(stamp));
    for (const place of places) file.rot(place, BLOCK_SIZE);
    return places.length;
  }

  copies(osd: SimOsd, stamp: number): number {
    return this.cluster.simulation.disk(osd.path).find(contentOf(stamp)).length;
  }

  lost(osd: SimOsd): number[] {
    return osd.shard!.pg.store.lost(100).blocks.map((one) => one.block);
  }

  /** Crash osds after the last batch was vouched for, as the damage to be planted wants it. */
  crash(osds: readonly SimOsd[]): void {
    this.pass(200_000);
    for (const osd of osds) osd.world!.crash();
  }

  start(osds: readonly SimOsd[]): void {
    for (const osd of osds) this.cluster.startOsd(osd);
  }

  serves(): void {
    this.until("the group serves", () => this.cluster.serving);
  }
}

describe("a damaged block", () => {
  test("is healed at the first read, which answers within a second", () => {
    const bench = new DamageBench(1, 3, false);
    bench.write(0, 11, 12, 13, 14);
    bench.settle();
    expect(bench.rot(bench.leader, 12)).toBeGreaterThan(0);
    const before = bench.cluster.simulation.nowUs;
    expect(bench.read(0, 4)).toEqual([11, 12, 13, 14]);
    expect(bench.cluster.simulation.nowUs - before).toBeLessThan(1_000_000);
    expect(bench.copies(bench.leader, 12)).toBe(1);
    expect(bench.leader.shard!.pg.store.counters.blocksHealed).toBe(1);
  });

  test("of a follower is healed when its own store is read", () => {
    const bench = new DamageBench(2, 3, false);
    bench.write(5, 21);
    bench.settle();
    for (const osd of bench.followers) bench.rot(osd, 21);
    for (const osd of bench.followers) expect(bench.copies(osd, 21)).toBe(0);
    for (const replica of [0, 1, 2]) expect(bench.readOwn(replica, 5)).toBe(Status.Ok);
    for (const osd of bench.followers) expect(bench.copies(osd, 21)).toBe(1);
  });

  test("is healed in the log as well, before it is moved", () => {
    const bench = new DamageBench(3, 3, true);
    bench.write(0, 31, 32);
    expect(bench.rot(bench.leader, 31)).toBe(1);
    expect(bench.read(0, 2)).toEqual([31, 32]);
    expect(bench.copies(bench.leader, 31)).toBe(1);
  });

  test("that nobody has whole is lost: refused, named, and whole again once it is written", () => {
    const bench = new DamageBench(4, 3, false);
    bench.write(0, 41, 42, 43);
    bench.settle();
    for (const osd of bench.cluster.osds) expect(bench.rot(osd, 42)).toBeGreaterThan(0);
    expect(bench.read(0, 3)).toBe(Status.Damaged);
    expect(bench.read(0)).toEqual([41]);
    expect(bench.read(2)).toEqual([43]);
    bench.until("all replicas know", () =>
      bench.cluster.osds.every((osd) => bench.lost(osd).join() === "1"),
    );
    bench.until("the monitor tells", () => bench.cluster.health.has("BLOCKS_LOST"));
    const check = bench.cluster.health.get("BLOCKS_LOST")!;
    expect(check.summary).toBe("1 block is lost in pool/image");
    expect(check.details.join()).toMatch(/^pool\/image at 4096: block 1, 1\.0 on osd/);
    // It is answered at once now, and stays so over restarts.
    const before = bench.cluster.simulation.nowUs;
    expect(bench.read(1)).toBe(Status.Damaged);
    expect(bench.cluster.simulation.nowUs - before).toBeLessThan(50_000);
    bench.settle();
    bench.crash(bench.cluster.osds);
    bench.start(bench.cluster.osds);
    bench.serves();
    expect(bench.read(1)).toBe(Status.Damaged);
    bench.write(1, 44);
    expect(bench.read(0, 3)).toEqual([41, 44, 43]);
    bench.until("no replica lacks it", () =>
      bench.cluster.osds.every((osd) => bench.lost(osd).length === 0),
    );
    bench.until("the monitor is content", () => !bench.cluster.health.has("BLOCKS_LOST"));
  });

  test("is not given up while a replica that may have it is away", () => {
    const bench = new DamageBench(5, 3, false);
    bench.write(0, 51, 52);
    bench.settle();
    const away = bench.followers[0]!;
    bench.crash([away]);
    const others = bench.cluster.osds.filter((osd) => osd !== away);
    for (const osd of others) bench.rot(osd, 52);
    expect(bench.read(1)).toBe(Status.Damaged);
    bench.pass(10_000_000);
    expect(bench.read(1)).toBe(Status.Damaged);
    for (const osd of others) expect(bench.lost(osd)).toEqual([]);
    bench.until("the monitor tells", () => bench.cluster.health.has("BLOCKS_DAMAGED"));
    bench.start([away]);
    const before = bench.cluster.simulation.nowUs;
    bench.until("it is healed", () => others.every((osd) => bench.copies(osd, 52) === 1));
    expect(bench.cluster.simulation.nowUs - before).toBeLessThan(2_500_000);
    expect(bench.read(0, 2)).toEqual([51, 52]);
    bench.until("the monitor is content", () => !bench.cluster.health.has("BLOCKS_DAMAGED"));
  });

  test("is not given up while a replica has not applied what wrote it", () => {
    const bench = new DamageBench(8, 3, true);
    bench.write(0, 80);
    const [slow, other] = bench.followers as [SimOsd, SimOsd];
    bench.pass(100_000);
    const group = bench.group(slow);
    group.holdIndex = group.appliedIndex;
    bench.write(0, 81);
    bench.pass(100_000);
    for (const osd of [bench.leader, other]) expect(bench.rot(osd, 81)).toBe(1);
    expect(bench.read(0)).toBe(Status.Damaged);
    expect(bench.lost(bench.leader)).toEqual([]);
    group.holdIndex = Number.POSITIVE_INFINITY;
    bench.write(1, 82);
    bench.until("it is healed", () => bench.copies(bench.leader, 81) === 1);
    expect(bench.read(0, 2)).toEqual([81, 82]);
  });

  test("is not given up because devices fail to read it for once", () => {
    const bench = new DamageBench(6, 3, false);
    bench.write(0, 61);
    bench.settle();
    const faults = bench.cluster.osds.map((osd) => bench.cluster.simulation.disk(osd.path).faults);
    for (const one of faults) one.readErrorShare = 0.2;
    let failed = 0;
    for (let read = 0; read < 200; read++) if (bench.read(0) === Status.Damaged) failed += 1;
    for (const one of faults) one.readErrorShare = 0;
    expect(failed).toBeLessThan(5);
    expect(bench.read(0)).toEqual([61]);
    for (const osd of bench.cluster.osds) expect(bench.lost(osd)).toEqual([]);
  });

  test("of the only replica is lost at once", () => {
    const bench = new DamageBench(7, 1, false);
    bench.write(0, 71, 72);
    bench.settle();
    bench.rot(bench.leader, 71);
    const before = bench.cluster.simulation.nowUs;
    expect(bench.read(0)).toBe(Status.Damaged);
    expect(bench.cluster.simulation.nowUs - before).toBeLessThan(1_000_000);
    expect(bench.lost(bench.leader)).toEqual([0]);
    expect(bench.read(1)).toEqual([72]);
    bench.write(0, 73);
    expect(bench.read(0, 2)).toEqual([73, 72]);
  });
});

describe("entries whose payload is damaged in the log", () => {
  test("are fetched from peers, and the replica may lead again", () => {
    const bench = new DamageBench(11, 3, true);
    for (let block = 0; block < 6; block++) bench.write(block, 110 + block);
    // Overwritten behind it: needs nothing.
    bench.write(5, 119);
    const victim = bench.leader;
    bench.crash([victim]);
    for (const stamp of [111, 114, 115]) expect(bench.rot(victim, stamp)).toBe(1);
    bench.serves();
    bench.start([victim]);
    bench.until("it opened", () => victim.shard!.pg.groups.size === 1);
    expect(bench.group(victim).faulty).toHaveLength(3);
    expect(bench.group(victim).node.faulty).toBe(true);
    bench.until("its payloads are whole", () => bench.group(victim).faulty.length === 0);
    expect(bench.group(victim).node.faulty).toBe(false);
    expect([111, 114, 115].map((stamp) => bench.copies(victim, stamp))).toEqual([1, 1, 0]);
    expect(bench.read(0, 6)).toEqual([110, 111, 112, 113, 114, 119]);
  });

  test("wait for peers that are away", () => {
    const bench = new DamageBench(12, 3, true);
    for (let block = 0; block < 4; block++) bench.write(block, 120 + block);
    bench.crash(bench.cluster.osds);
    const [victim, ...others] = bench.cluster.osds as [SimOsd, SimOsd, SimOsd];
    expect(bench.rot(victim, 121)).toBe(1);
    bench.start([victim]);
    bench.pass(5_000_000);
    expect(bench.group(victim).faulty).toHaveLength(1);
    bench.start(others);
    bench.serves();
    bench.until("its payloads are whole", () => bench.group(victim).faulty.length === 0);
    expect(bench.copies(victim, 121)).toBe(1);
    expect(bench.read(0, 4)).toEqual([120, 121, 122, 123]);
  });

  test("are not given up by an osd that has no map yet", () => {
    const bench = new DamageBench(17, 3, true);
    const { simulation } = bench.cluster;
    for (let block = 0; block < 4; block++) bench.write(block, 170 + block);
    const victim = bench.leader;
    bench.crash([victim]);
    expect(bench.rot(victim, 171)).toBe(1);
    simulation.cut(victim.address, MON_ADDRESS);
    bench.start([victim]);
    bench.pass(2_000_000);
    expect(bench.group(victim).peers).toEqual([]);
    expect(bench.lost(victim)).toEqual([]);
    simulation.heal();
    bench.until("its payloads are whole", () => bench.group(victim).faulty.length === 0);
    expect(bench.copies(victim, 171)).toBe(1);
  });

  test("on every replica leave the group with a leader, and are healed from each other", () => {
    const bench = new DamageBench(13, 3, true);
    const { simulation } = bench.cluster;
    bench.write(0, 130);
    bench.pass(200_000);
    const { leader, followers } = bench;
    const last = bench.group(leader).commitIndex + 5;
    const wrote = bench.writeTogether(1, 131, 132, 133, 134, 135);
    // The followers have all five entries, and never hear that they are committed.
    bench.until("all have them", () =>
      followers.every((osd) => {
        const { shard, row } = bench.group(osd);
        return shard.store.durableIndex(row) === last;
      }),
    );
    for (const osd of followers) simulation.cut(leader.address, osd.address);
    expect(bench.cluster.await("writes", wrote)).toEqual(Array<Status>(5).fill(Status.Ok));
    for (const osd of followers) expect(bench.group(osd).commitIndex).toBeLessThan(last);
    bench.crash(bench.cluster.osds);
    simulation.heal();
    bench.cluster.osds.forEach((osd, at) => expect(bench.rot(osd, 131 + at)).toBe(1));
    const before = bench.cluster.simulation.nowUs;
    bench.start(bench.cluster.osds);
    bench.pass(1_000_000);
    for (const osd of bench.cluster.osds) expect(bench.group(osd).node.faulty).toBe(true);
    bench.serves();
    expect(bench.cluster.simulation.nowUs - before).toBeLessThan(10_000_000);
    expect(bench.read(0, 6)).toEqual([130, 131, 132, 133, 134, 135]);
    bench.until("all payloads are whole", () =>
      bench.cluster.osds.every((osd) => bench.group(osd).faulty.length === 0),
    );
    for (const osd of bench.cluster.osds) {
      for (const stamp of [131, 132, 133]) expect(bench.copies(osd, stamp)).toBe(1);
    }
  });

  test("without a whole copy anywhere are lost blocks, and nothing else is", () => {
    const bench = new DamageBench(14, 3, true);
    for (let block = 0; block < 6; block++) bench.write(block, 140 + block);
    bench.crash(bench.cluster.osds);
    for (const osd of bench.cluster.osds) expect(bench.rot(osd, 142)).toBe(1);
    bench.start(bench.cluster.osds);
    bench.serves();
    bench.until("all replicas know", () =>
      bench.cluster.osds.every((osd) => bench.lost(osd).join() === "2"),
    );
    expect(bench.read(2)).toBe(Status.Damaged);
    expect(bench.read(0, 2)).toEqual([140, 141]);
    expect(bench.read(3, 3)).toEqual([143, 144, 145]);
    bench.write(2, 149);
    expect(bench.read(2)).toEqual([149]);
  });

  test("of the only replica do not keep it from leading", () => {
    const bench = new DamageBench(15, 1, true);
    for (let block = 0; block < 3; block++) bench.write(block, 150 + block);
    const [osd] = bench.cluster.osds as [SimOsd];
    bench.crash([osd]);
    expect(bench.rot(osd, 151)).toBe(1);
    bench.start([osd]);
    const before = bench.cluster.simulation.nowUs;
    bench.serves();
    expect(bench.cluster.simulation.nowUs - before).toBeLessThan(2_000_000);
    expect(bench.read(0)).toEqual([150]);
    expect(bench.read(1)).toBe(Status.Damaged);
    expect(bench.read(2)).toEqual([152]);
    expect(bench.lost(osd)).toEqual([1]);
  });

  test("are not sent to a follower: it gets what became of them by difference", () => {
    const bench = new DamageBench(16, 3, true);
    bench.write(0, 160);
    const behind = bench.followers[0]!;
    bench.crash([behind]);
    for (let block = 0; block < 400; block++) bench.write(block % 4, 1600 + block);
    const { leader } = bench;
    expect(bench.rot(leader, 1650)).toBe(1);
    bench.start([behind]);
    bench.until("it is filled", () => behind.shard!.pg.fills.counters.fillsEnded === 1);
    expect(bench.log.counts.get("entry for a follower can not be read")).toBe(1);
    expect(bench.read(0, 4)).toEqual([1996, 1997, 1998, 1999]);
    for (const replica of [0, 1, 2]) expect(bench.readOwn(replica, 3)).toBe(Status.Ok);
  });

  test("and that only the leader has let somebody lead who lacks them", () => {
    const bench = new DamageBench(18, 3, true);
    const stamps = Array.from({ length: BLOCKS_PER_UNIT }, (_, at) => 1800 + at);
    bench.write(0, ...stamps);
    bench.pass(200_000);
    const { leader } = bench;
    const [near, far] = bench.followers as [SimOsd, SimOsd];
    // Two more are in its log alone. The first one, a whole unit, lies beside the log, and the second
    // one vouches for it, so that its next start does not look at it.
    for (const osd of [near, far]) osd.world!.crash();
    const durable = (): number => {
      const { shard, row } = bench.group(leader);
      return shard.store.durableIndex(row);
    };
    const last = durable();
    const first = bench.beginUnit(stamps.map((stamp) => stamp + 100));
    bench.until("it has the first one", () => durable() === last + 1);
    const second = bench.writeTogether(20, 1820);
    bench.until("it has the second one", () => durable() === last + 2);
    bench.crash([leader]);
    expect(bench.rot(leader, 1905)).toBe(1);

    // It leads, for who else is there has less, and can not send the first one.
    bench.start([leader, near]);
    const told = "entry for a follower can not be read";
    bench.until("it leads", () => bench.log.counts.has(told));
    expect(bench.group(leader).node.log.lastIndex).toBeGreaterThan(last + 2);
    bench.start([far]);
    bench.serves();
    // The clients send again what was cut.
    expect(bench.cluster.await("the first write", first)).toBe(Status.Ok);
    expect(bench.cluster.await("the second write", second)).toEqual([Status.Ok]);
    expect(bench.read(0, BLOCKS_PER_UNIT)).toEqual(stamps.map((stamp) => stamp + 100));
    expect(bench.read(20)).toEqual([1820]);
    bench.until("no payload is missing", () => bench.group(leader).faulty.length === 0);
    expect(bench.group(leader).node.faulty).toBe(false);
    for (const replica of [0, 1, 2]) expect(bench.readOwn(replica, 5)).toBe(Status.Ok);
  });
});
