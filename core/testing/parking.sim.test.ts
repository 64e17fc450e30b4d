/** Quiet groups keep no objects; whoever finds one meets what it was. */
import { beforeEach, describe, expect, test } from "bun:test";
import { drainMicrotasks } from "bun:jsc";
import { assert } from "../base/assert.ts";
import type { FastblockError } from "../base/errors.ts";
import { Status } from "../base/status.ts";
import { BLOCK_SIZE, UNIT_SIZE } from "../base/units.ts";
import type { Image } from "../client/client.ts";
import type { PgInfo } from "../cluster/cluster.ts";
import { type PgShard, SNAP_SEQ_HEAD } from "../pg/pg.ts";
import { SystemChecksum } from "../reactor/bun-system.ts";
import { LAYER, writeTo } from "./group-write-harness.ts";
import { awakeOf, groupsOf, SimCluster, type SimOsd } from "./sim-cluster.ts";

const GROUPS = 16;
const OSDS = 4;
const REPLICAS = 3;
const LOOK_US = 100_000;
const NEVER_US = 1e12;
const LIMIT_US = 120_000_000;
/** Longer than between two looks at the space of a file system. */
const SPACE_LOOK_US = 1_000_000;
/** A fence that no client of the cluster has. */
const EPOCH = 5;

class Bench {
  readonly cluster: SimCluster;
  readonly image: Image;

  constructor(seed: number, parkLookUs = LOOK_US, replicas = REPLICAS) {
    this.cluster = new SimCluster(seed, {
      osds: OSDS,
      replicas,
      pgCount: GROUPS,
      imageBytes: 16 * 1_048_576,
      tuning: { idleMs: 50 },
      parkLookUs,
      checksum: new SystemChecksum(),
      drainMicrotasks,
    });
    this.cluster.start();
    this.image = this.cluster.await("open", this.cluster.client.openImage("pool/image"));
    this.until("leaders are at home", () =>
      this.cluster.osds
        .flatMap(awakeOf)
        .every((group) => !group.isLeader || group.preferred === group.replica),
    );
  }

  get osds(): readonly SimOsd[] {
    return this.cluster.osds.filter((osd) => osd.world?.alive === true);
  }

  get parked(): number {
    return this.osds.reduce((sum, osd) => sum + osd.shard!.pg.parking.rows.count, 0);
  }

  get woken(): number {
    return this.osds.reduce((sum, osd) => sum + osd.shard!.pg.parking.woken, 0);
  }

  park(): void {
    this.until("all are parked", () => this.parked === GROUPS * REPLICAS);
    expect(this.osds.flatMap(awakeOf)).toEqual([]);
  }

  until(what: string, done: () => boolean): void {
    expect(`${what}: ${this.cluster.simulation.run(done, LIMIT_US)}`).toBe(`${what}: true`);
  }

  pass(us: number): void {
    const { simulation } = this.cluster;
    simulation.run(simulation.nowUs + us);
  }

  /** The osd that leads a group, and the others. */
  leaderOf(pg: number): SimOsd {
    const found = this.osds.find((osd) => seenOf(osd, pg)?.isLeader);
    assert(found !== undefined, "Bench: nobody leads");
    return found;
  }

  followersOf(pg: number): SimOsd[] {
    const leader = this.leaderOf(pg);
    return this.osds.filter((osd) => osd !== leader && seenOf(osd, pg) !== undefined);
  }

  /** Groups that are awake on an osd. */
  awake(osd: SimOsd): number[] {
    return awakeOf(osd).map((group) => group.pg);
  }
}

function shardOf(osd: SimOsd): PgShard {
  return osd.shard!.pg;
}

/** What an osd's replica of a group is, parked or not: looking changes nothing. */
interface Seen {
  readonly replica: number;
  readonly term: number;
  readonly leader: number;
  readonly isLeader: boolean;
  readonly serving: boolean;
  readonly appliedIndex: number;
}

function seenOf(osd: SimOsd, pg: number): Seen | undefined {
  const { groups, parking, store } = shardOf(osd);
  const row = groups.rowsOf().get(pg);
  if (row === undefined) return undefined;
  const group = groups.awakeAt(row);
  if (group === null) {
    const { replica, term, leader } = parking.rows.get(row);
    const isLeader = leader === replica;
    return {
      replica,
      term,
      leader,
      isLeader,
      serving: isLeader,
      appliedIndex: store.appliedIndex(row),
    };
  }
  const { replica, isLeader, serving, appliedIndex, node } = group;
  return { replica, term: node.term, leader: node.leader, isLeader, serving, appliedIndex };
}

describe("quiet groups", () => {
  let bench: Bench;
  let pg: number;

  beforeEach(() => {
    bench = new Bench(3);
    bench.park();
    pg = bench.cluster.pgs[0]!.id;
  });

  test("are parked, and are counted and reported as before", () => {
    let made = 0;
    for (const osd of bench.osds) {
      const shard = shardOf(osd);
      const makeNode = shard.makeNode.bind(shard);
      shard.makeNode = (group, restore) => {
        made++;
        makeNode(group, restore);
      };
    }
    const reports = bench.osds.map((osd) => osd.shard!.report(true));
    // The report makes no objects of them.
    expect(made).toBe(0);
    const sum = (of: "groups" | "leaders"): number =>
      reports.reduce((count, { figures }) => count + figures!.raft[of], 0);
    expect([sum("groups"), sum("leaders")]).toEqual([GROUPS * REPLICAS, GROUPS]);
    const before = reports.map(({ pgs }) => JSON.stringify(pgs));
    expect(bench.parked).toBe(GROUPS * REPLICAS);
    // The same is told of groups that are awake.
    bench.osds.flatMap(groupsOf);
    expect(bench.parked).toBe(0);
    const after = bench.osds.map((osd) => JSON.stringify(osd.shard!.report(true).pgs));
    expect(after).toEqual(before);
    bench.park();
  });

  test("wake by a request, and by the messages of their leader; not for checkpoints", () => {
    const counts = (): number[] => bench.osds.map((osd) => shardOf(osd).store.counters.checkpoints);
    const before = counts();
    const { woken } = bench;
    const written = bench.image.write(0, new Uint8Array(BLOCK_SIZE).fill(9));
    bench.cluster.await("write", written);
    bench.until("checkpoints", () => {
      return counts().filter((count, at) => count > before[at]!).length === REPLICAS;
    });
    // A write wakes its own group alone, on all replicas.
    expect(bench.woken - woken).toBe(REPLICAS);
    bench.park();
    expect(bench.woken - woken).toBe(REPLICAS);
    const read = bench.cluster.await("read", bench.image.read(0, BLOCK_SIZE));
    expect([read[0], bench.woken - woken]).toEqual([9, REPLICAS + 1]);
    bench.park();
  });

  test("wake by the order to lead elsewhere", () => {
    const from = bench.leaderOf(pg);
    const [to] = bench.followersOf(pg);
    from.shard!.transferLeader(pg, seenOf(to!, pg)!.replica);
    bench.until("another leads", () => seenOf(to!, pg)!.serving);
    expect(bench.awake(to!)).toEqual([pg]);
    // It goes home when a minute has passed, and only then has nothing more to do.
    bench.until("it is at home", () => seenOf(from, pg)!.serving);
    bench.park();
  });

  test("wake by the order to scrub", () => {
    const leader = bench.leaderOf(pg);
    leader.shard!.scrub(pg, 1, true);
    const scrubs = shardOf(leader).scrubs;
    bench.until("the scrub is done", () => {
      return scrubs.of({ pg })?.done === true;
    });
    expect(scrubs.counters.scrubsDeep).toBeGreaterThan(0);
    bench.park();
    // Its result is known without the group, and it is not carried out again.
    expect(scrubs.of({ pg })).toMatchObject({ order: 1, done: true });
    leader.shard!.scrub(pg, 1, true);
    expect(bench.awake(leader)).toEqual([pg]);
    expect(scrubs.isUnderWay(shardOf(leader).groups.get(pg)!)).toBe(false);
    bench.park();
  });

  test("wake by a map that wants something new of them, and by no other", () => {
    const { cluster, woken } = bench;
    const { epoch } = bench.osds[0]!.shard!.report(false);
    cluster.createImage("second");
    cluster.await("recovery", cluster.recovery.set({ speed: "low" }, false));
    bench.until("a newer map", () =>
      bench.osds.every((osd) => osd.shard!.report(false).epoch > epoch),
    );
    expect(bench.woken).toBe(woken);
    const from = bench.followersOf(pg)[0]!;
    const to = bench.osds.find((osd) => seenOf(osd, pg) === undefined)!;
    cluster.replaceReplica(pg, from.id, to.id);
    bench.until("it has moved", () => {
      return seenOf(from, pg) === undefined && cluster.settled;
    });
    expect(bench.woken).toBeGreaterThan(woken);
    bench.park();
    expect(seenOf(to, pg)!.leader).toBeGreaterThan(0);
  });

  test("wake when a store that has one of their replicas is replaced, and no other does", () => {
    const { cluster } = bench;
    const victim = cluster.osds[0]!;
    const named = cluster.pgs.filter((one) => one.replicas.some(({ osd }) => osd === victim.id));
    expect(named.length).toBeLessThan(GROUPS);
    const woken = new Set<number>();
    const watched = (done: () => boolean): boolean => {
      for (const osd of bench.osds) for (const one of bench.awake(osd)) woken.add(one);
      return done();
    };
    victim.world!.crash();
    bench.until("it is down", () => watched(() => !cluster.isUp(victim)));
    cluster.replaceDisk(victim);
    cluster.startOsd(victim);
    bench.until("its replicas are back", () =>
      watched(() => cluster.settled && bench.parked === GROUPS * REPLICAS),
    );
    const ids = named.map((one): number => one.id);
    expect([...woken].toSorted((a, b) => a - b)).toEqual(ids.toSorted((a, b) => a - b));
  });

  test("know after that which requests were applied, and who is fenced", () => {
    const leader = bench.leaderOf(pg);
    const first = writeTo(shardOf(leader).groups.get(pg)!, { number: 1, lockEpoch: EPOCH });
    bench.until("the write", () => first.done);
    expect([first.status, first.version > 0]).toEqual([Status.Ok, true]);
    const applied = (): number[] =>
      bench.osds.flatMap((osd) => seenOf(osd, pg)?.appliedIndex ?? []);
    bench.until("all have it", () => applied().every((index) => index === applied()[0]));
    bench.park();
    const last = applied();
    const again = writeTo(shardOf(leader).groups.get(pg)!, { number: 1, lockEpoch: EPOCH });
    bench.until("the retry", () => again.done);
    expect([again.status, again.version]).toEqual([Status.Ok, 0]);
    expect(applied()).toEqual(last);
    const fenced = writeTo(shardOf(leader).groups.get(pg)!, { number: 2, lockEpoch: EPOCH - 1 });
    expect([fenced.refused, fenced.done]).toEqual([Status.Fenced, false]);
    expect(shardOf(leader).store.versionOf(LAYER, 0, SNAP_SEQ_HEAD)).toBeGreaterThanOrEqual(0);
    bench.park();
    // Whoever leads next knows it too: followers were parked with it.
    const [heir] = bench.followersOf(pg);
    leader.shard!.transferLeader(pg, seenOf(heir!, pg)!.replica);
    bench.until("another leads", () => seenOf(heir!, pg)!.serving);
    const late = writeTo(shardOf(heir!).groups.get(pg)!, { number: 1, lockEpoch: EPOCH });
    bench.until("the late retry", () => late.done);
    expect([late.status, late.version]).toEqual([Status.Ok, 0]);
    bench.until("it is at home", () => seenOf(leader, pg)!.serving);
    bench.park();
  });

  test("honour the promise to their leader when they wake", () => {
    const [follower] = bench.followersOf(pg);
    const shard = shardOf(follower!);
    const { node, row, replica } = shard.groups.get(pg)!;
    const link = shard.groups.get(pg)!.followed!;
    expect(link.promiseUntilUs).toBeGreaterThan(shard.world.clock.nowUs());
    expect(node.promisee).toBe(node.leader);
    expect([shard.voteBlocked(row, node.leader), shard.voteBlocked(row, replica)]).toEqual([
      true,
      false,
    ]);
    const { term } = node;
    // It would campaign if it could.
    node.campaign();
    shard.world.turns.again();
    bench.pass(1_000_000);
    expect(seenOf(follower!, pg)!.term).toBe(term);
    bench.park();
  });

  test("are served again after their osds had no space, quiet as they were", () => {
    const { cluster } = bench;
    const leave = (bytes: number): void => {
      for (const osd of bench.osds) cluster.simulation.disk(osd.path).bytesBeneath = bytes;
    };
    const content = new Uint8Array(BLOCK_SIZE).fill(9);
    const write = (unit: number): string => {
      const written = bench.image.write(unit * UNIT_SIZE, content).then(
        () => "Ok",
        (error: unknown) => (error as FastblockError).code,
      );
      bench.pass(SPACE_LOOK_US);
      return cluster.await("write", written);
    };
    expect(write(0)).toBe("Ok");
    leave(BLOCK_SIZE);
    bench.until("nobody has space", () => write(0) === "FB5002");
    bench.pass(100 * LOOK_US);
    leave(Number.POSITIVE_INFINITY);
    bench.pass(100 * LOOK_US);
    // What needs a unit more needs space everywhere.
    expect(write(1)).toBe("Ok");
    bench.park();
  });

  test("are served after a restart of the whole cluster", () => {
    bench.cluster.await("write", bench.image.write(0, new Uint8Array(BLOCK_SIZE).fill(9)));
    const first = writeTo(shardOf(bench.leaderOf(pg)).groups.get(pg)!, {
      number: 1,
      lockEpoch: EPOCH,
    });
    bench.until("the write", () => first.done);
    bench.park();
    for (const osd of bench.cluster.osds) osd.world!.crash();
    for (const osd of bench.cluster.osds) bench.cluster.startOsd(osd);
    bench.until("it serves", () => bench.cluster.serving);
    const leader = bench.leaderOf(pg);
    const late = writeTo(shardOf(leader).groups.get(pg)!, { number: 1, lockEpoch: EPOCH });
    bench.until("the late retry", () => late.done);
    expect([late.status, late.version]).toEqual([Status.Ok, 0]);
    expect(bench.cluster.await("read", bench.image.read(0, 1))[0]).toBe(9);
    bench.park();
  }, 60_000);
});

test("groups of two replicas and a witness are parked too, and go on without one of the three", () => {
  const bench = new Bench(5, LOOK_US, 2);
  const { cluster } = bench;
  const hasWitness = (pg: PgInfo): boolean =>
    pg.replicas.some((one) => one.witness) && pg.configuration?.voters.length === REPLICAS;
  bench.until("each has a witness", () => cluster.pgs.every(hasWitness));
  bench.park();
  cluster.await("write", bench.image.write(0, new Uint8Array(BLOCK_SIZE).fill(4)));
  bench.park();
  const [victim] = cluster.osds;
  victim!.world!.crash();
  bench.until("the others serve", () => cluster.serving);
  cluster.await("write", bench.image.write(BLOCK_SIZE, new Uint8Array(BLOCK_SIZE).fill(5)));
  cluster.startOsd(victim!);
  bench.until("it serves", () => cluster.serving);
  bench.park();
  const read = cluster.await("read", bench.image.read(0, 2 * BLOCK_SIZE));
  expect([read[0], read[BLOCK_SIZE]]).toEqual([4, 5]);
}, 60_000);

test("awake groups follow what a map tells of them, and nothing else", () => {
  const bench = new Bench(4, NEVER_US);
  const { cluster } = bench;
  bench.pass(20_000_000);
  const groups = bench.osds.flatMap(awakeOf);
  const named = groups.map((group) => group.named);
  // Each following makes lists, and thousands are awake when many are made.
  const followed = (): number => groups.filter((group, at) => group.named !== named[at]).length;
  const epochs = bench.osds.map((osd) => shardOf(osd).followed().epoch);
  cluster.await("recovery", cluster.recovery.set({ speed: "low" }, false));
  bench.until("all follow", () =>
    bench.osds.every((osd, at) => shardOf(osd).followed().epoch > epochs[at]!),
  );
  expect([groups.length, followed()]).toEqual([GROUPS * REPLICAS, 0]);
  const pg = cluster.pgs[0]!;
  const spare = cluster.osds.find((osd) => pg.replicas.every((one) => one.osd !== osd.id))!;
  cluster.replaceReplica(pg.id, pg.replicas[1]!.osd, spare.id);
  bench.until("its replicas follow", () => followed() >= REPLICAS - 1);
  bench.until("replaced", () => cluster.settled);
  expect(followed()).toBeLessThanOrEqual(REPLICAS);
}, 60_000);

/** Simulated time from the crash of an osd until all groups are served again, and how many woke. */
function gapOf(seed: number, parkLookUs: number): { us: number; woken: number } {
  const bench = new Bench(seed, parkLookUs);
  if (parkLookUs === NEVER_US) bench.pass(20_000_000);
  else bench.park();
  const { cluster } = bench;
  const [victim, ...others] = cluster.osds;
  const woken = (): number => others.reduce((sum, osd) => sum + shardOf(osd).parking.woken, 0);
  const before = woken();
  victim!.world!.crash();
  const beganUs = cluster.simulation.nowUs;
  bench.until("the others serve", () => cluster.serving);
  const us = cluster.simulation.nowUs - beganUs;
  // Back, it is told what it missed, and all are quiet again.
  cluster.startOsd(victim!);
  bench.until("it serves", () => cluster.serving);
  if (parkLookUs !== NEVER_US) bench.park();
  return { us, woken: woken() - before };
}

test("after the crash of an osd groups that were parked elect others as fast as ever", () => {
  const seeds = [1, 2, 3];
  const parked = seeds.map((seed) => gapOf(seed, LOOK_US));
  const awake = seeds.map((seed) => gapOf(seed, NEVER_US));
  for (const { woken } of parked) expect(woken).toBeGreaterThan(GROUPS);
  for (const { woken } of awake) expect(woken).toBe(0);
  const slowest = (gaps: readonly { us: number }[]): number =>
    Math.max(...gaps.map(({ us }) => us));
  console.log(`leaderless for ${slowest(parked)} us, never parked ${slowest(awake)} us`);
  expect(slowest(parked)).toBeLessThan(slowest(awake) * 1.5);
}, 120_000);
