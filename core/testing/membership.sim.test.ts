/**
 * Members of groups come and go under load in whole simulated clusters: replicas move to other osds,
 * disks are replaced, stores lose trust in themselves, leaders go home.
 */
import { describe, expect, test } from "bun:test";
import { drainMicrotasks } from "bun:jsc";
import { assert } from "../base/assert.ts";
import { Prng } from "../base/prng.ts";
import { BLOCK_SIZE } from "../base/units.ts";
import type { Image } from "../client/client.ts";
import { type Group, inspectStore } from "../pg/pg.ts";
import { formatConfiguration } from "../raft/raft.ts";
import { SystemChecksum } from "../reactor/bun-system.ts";
import { MON_ADDRESS, SimCluster, type SimOsd } from "./sim-cluster.ts";

const LIMIT_US = 90_000_000;
/** "FBLB": how a batch of the log begins. */
const BATCH_MAGIC = 0x424c_4246;
/** Blocks that the writers touch, by stride so that every group has some. */
const SPAN = 256;
const STRIDE_BYTES = 65_536;
const WRITERS = 4;
/** Of a writer between two writes. */
const THINK_US = 5_000;
const SEEDS = Number(process.env["MEMBERSHIP_SEEDS"] ?? "8");

const SMALL_LOG = {
  logBytes: 4 * 1_048_576,
  tuning: { moverStartPercent: 5, checkpointStartPercent: 10, retentionPercent: 2 },
};

interface BenchOptions {
  readonly osds?: number;
  readonly pgCount?: number;
  readonly errorsAllowed?: boolean;
  readonly idleMs?: number;
  /** A log so small that it is written over in no time: newcomers are filled by difference. */
  readonly smallLog?: boolean;
}

class Bench {
  readonly cluster: SimCluster;
  readonly image: Image;
  readonly random: Prng;
  /** Content of each block that was acknowledged last. */
  private readonly written = new Map<number, number>();
  private stamps = 0;
  private running = 0;
  private stopped = false;
  writes = 0;

  constructor(seed: number, options: BenchOptions = {}) {
    this.random = new Prng(seed * 7 + 3);
    this.cluster = new SimCluster(seed, {
      osds: options.osds ?? 4,
      replicas: 3,
      pgCount: options.pgCount ?? 2,
      imageBytes: SPAN * STRIDE_BYTES,
      ...(options.smallLog === true ? SMALL_LOG : {}),
      tuning: options.smallLog === true ? SMALL_LOG.tuning : { idleMs: options.idleMs ?? 50 },
      checksum: new SystemChecksum(),
      errorsAllowed: options.errorsAllowed === true,
      drainMicrotasks,
    });
    this.cluster.start();
    this.image = this.cluster.await("open", this.cluster.client.openImage("pool/image"));
    // Until every founder was seen nothing may be replaced.
    this.until("established", () => this.cluster.pgs.every((pg) => !pg.creating));
  }

  /** Stamp of the newest block that was written, or is about to be. */
  get lastStamp(): number {
    return this.stamps;
  }

  until(what: string, done: () => boolean): void {
    expect(`${what}: ${this.cluster.simulation.run(done, LIMIT_US)}`).toBe(`${what}: true`);
  }

  pass(us: number): void {
    const { simulation } = this.cluster;
    simulation.run(simulation.nowUs + us);
  }

  /** Writers that go on until `stop`, each on blocks of its own. */
  load(): void {
    for (let writer = 0; writer < WRITERS; writer++) {
      this.running += 1;
      this.write(writer).then(
        () => {
          this.running -= 1;
        },
        (error: unknown) => this.cluster.simulation.fail("writer", error),
      );
    }
  }

  private async write(writer: number): Promise<void> {
    while (!this.stopped) {
      const block = this.random.below(SPAN / WRITERS) * WRITERS + writer;
      const stamp = ++this.stamps;
      await this.image.write(block * STRIDE_BYTES, contentOf(stamp));
      this.written.set(block, stamp);
      this.writes += 1;
      await new Promise<void>((resolve) => this.cluster.simulation.after(THINK_US, resolve));
    }
  }

  /** End the load; everything that was begun is acknowledged. */
  stop(): void {
    this.stopped = true;
    this.until("writers end", () => this.running === 0);
  }

  /** Every block is what was written last. */
  verify(): void {
    for (const [block, stamp] of this.written) {
      const bytes = this.cluster.await("read", this.image.read(block * STRIDE_BYTES, BLOCK_SIZE));
      expect([block, Buffer.compare(bytes, contentOf(stamp))]).toEqual([block, 0]);
    }
  }

  groupOn(osd: SimOsd, pg: number): Group | undefined {
    return osd.world?.alive === true ? osd.shard?.pg.groups.get(pg) : undefined;
  }

  leaderOf(pg: number): SimOsd {
    const found = this.cluster.osds.find((osd) => this.groupOn(osd, pg)?.serving === true);
    assert(found !== undefined, "Bench: nobody leads");
    return found;
  }

  /** Make the replica on `osd` lead, whatever the map prefers: reads then come from its store. */
  lead(osd: SimOsd, pg: number): void {
    this.until(`osd.${String(osd.id)} leads`, () => {
      const group = this.groupOn(osd, pg);
      if (group?.serving === true) return true;
      const leader = this.cluster.osds.find((one) => this.groupOn(one, pg)?.serving === true);
      if (leader !== undefined && group !== undefined) {
        leader.shard!.transferLeader(pg, group.replica);
      }
      return false;
    });
  }

  /** Groups that the map wants to be led by an osd; and those that it leads of them. */
  homesOf(osd: SimOsd): number {
    const count = this.cluster.pgs.filter((pg) => pg.replicas[0]!.osd === osd.id).length;
    assert(count > 0, "Bench.homesOf: nothing is at home there");
    return count;
  }

  leadersAtHome(osd: SimOsd): number {
    const groups = [...(osd.shard?.pg.groups.values() ?? [])];
    return groups.filter((group) => group.serving && group.preferred === group.replica).length;
  }

  /** Who is at home on an osd leads elsewhere, while it is back already. */
  sendAway(osd: SimOsd): void {
    const count = this.homesOf(osd);
    this.until("they are home at first", () => this.leadersAtHome(osd) === count);
    osd.world!.crash();
    this.pass(2_000_000);
    this.cluster.startOsd(osd);
    this.pass(8_000_000);
  }

  /** The osd that holds no replica of the group. */
  spare(pg: number): SimOsd {
    const info = this.cluster.pgs.find((one) => one.id === pg)!;
    return this.cluster.osds.find((osd) => !info.replicas.some((one) => one.osd === osd.id))!;
  }

  member(pg: number, at: number): SimOsd {
    const info = this.cluster.pgs.find((one) => one.id === pg)!;
    return this.cluster.osds[info.replicas[at]!.osd]!;
  }

  /** Nobody but the wanted replicas is left, and each holds everything. */
  verifyMembers(): void {
    this.until("only wanted replicas are left", () =>
      this.cluster.osds.every((osd) =>
        [...osd.shard!.pg.groups.values()].every((group) =>
          this.cluster.pgs
            .find((pg) => pg.id === group.pg)!
            .replicas.some((one) => one.replicaId === group.replica),
        ),
      ),
    );
    for (const pg of this.cluster.pgs) {
      for (const { osd } of pg.replicas) {
        this.lead(this.cluster.osds[osd]!, pg.id);
        this.verify();
      }
    }
  }
}

function contentOf(stamp: number): Uint8Array {
  return new Uint8Array(new Uint32Array(BLOCK_SIZE / 4).fill(stamp).buffer);
}

describe("a replica is replaced under load", () => {
  for (const [name, at] of [
    ["the preferred leader's", 0],
    ["a follower's", 2],
  ] as const) {
    test(`${name}: the new one holds everything, the old one is gone`, () => {
      const bench = new Bench(11 + at);
      bench.load();
      bench.pass(300_000);
      const pg = bench.cluster.pgs[0]!.id;
      const [old, spare] = [bench.member(pg, at), bench.spare(pg)];
      const before = bench.writes;
      bench.cluster.replaceReplica(pg, old.id, spare.id);
      bench.until("replaced", () => bench.cluster.settled);
      bench.until("the old one is gone", () => bench.groupOn(old, pg) === undefined);
      expect(bench.writes).toBeGreaterThan(before);
      bench.stop();
      bench.verifyMembers();
      expect(bench.groupOn(spare, pg)?.node.conf.members.length).toBe(3);
      // Not even a restart brings it back.
      old.world!.crash();
      bench.cluster.startOsd(old);
      bench.until("it serves again", () => old.session !== null && bench.cluster.health.size === 0);
      expect(bench.groupOn(old, pg)).toBeUndefined();
      // A later replica may live there again, under another id.
      bench.cluster.replaceReplica(pg, spare.id, old.id);
      bench.until("moved back", () => bench.cluster.settled);
      bench.verifyMembers();
    }, 60_000);
  }

  test("G1: osds crash and are cut off in the middle of it, the leader's first of all", () => {
    let crashes = 0;
    for (let seed = 1; seed <= SEEDS; seed++) {
      const bench = new Bench(seed);
      const { cluster, random } = bench;
      bench.load();
      bench.pass(200_000);
      for (const pg of cluster.pgs) {
        cluster.replaceReplica(
          pg.id,
          bench.member(pg.id, random.below(3)).id,
          bench.spare(pg.id).id,
        );
      }
      for (let crash = 0; crash < 3; crash++) {
        bench.pass(random.below(400_000));
        const victim =
          crash === 0 ? cluster.osds.find((osd) => leadsAny(osd)) : cluster.osds[random.below(4)];
        if (victim?.world?.alive !== true) continue;
        const [from, to] = [cluster.osds[random.below(4)]!, cluster.osds[random.below(4)]!];
        if (from !== to) cluster.simulation.cut(from.address, to.address);
        crashes += 1;
        if (random.below(2) === 0) victim.world.crash();
        else victim.world.powerCut();
        bench.pass(100_000 + random.below(1_000_000));
        cluster.simulation.heal();
        cluster.startOsd(victim);
      }
      bench.until(`seed ${seed}: replaced`, () => cluster.settled);
      bench.stop();
      bench.verifyMembers();
    }
    expect(crashes).toBeGreaterThan(SEEDS);
  }, 300_000);
});

test("a newcomer is given up while it is filled, and another one comes", () => {
  let filling = 0;
  for (let seed = 1; seed <= SEEDS; seed++) {
    const bench = new Bench(seed, { osds: 5, pgCount: 1, smallLog: true });
    const { cluster, random } = bench;
    bench.load();
    bench.pass(3_000_000);
    const pg = cluster.pgs[0]!.id;
    const old = bench.member(pg, 2);
    const given = bench.spare(pg);
    // Slow enough to be filled still when its end comes.
    Object.assign(cluster.simulation.disk(given.path).faults, {
      latencyUsMin: 20_000,
      latencyUsMax: 100_000,
    });
    cluster.replaceReplica(pg, old.id, given.id);
    bench.until("it is filled", () => bench.groupOn(given, pg)?.fill != null);
    bench.pass(random.below(500_000));
    const other = cluster.osds.find((osd) =>
      cluster.pgs[0]!.replicas.every((one) => one.osd !== osd.id),
    )!;
    cluster.replaceReplica(pg, given.id, other.id);
    let isFilled = true;
    bench.until("the first one is gone", () => {
      const group = bench.groupOn(given, pg);
      if (group !== undefined) isFilled = group.fill === null;
      return group === undefined;
    });
    if (!isFilled) filling += 1;
    bench.until("another one is there", () => cluster.settled);
    bench.stop();
    bench.verifyMembers();
  }
  expect(filling).toBeGreaterThan(SEEDS / 2);
}, 300_000);

test("G7: a newcomer that a leader with an older map takes for a stray comes under another id", () => {
  const bench = new Bench(7, { pgCount: 1 });
  const { cluster } = bench;
  const { simulation } = cluster;
  const pg = cluster.pgs[0]!.id;
  bench.load();
  const [old, behind, spare] = [bench.member(pg, 2), bench.member(pg, 1), bench.spare(pg)];
  bench.lead(bench.member(pg, 0), pg);
  // It does not know yet that it misses maps, so it asks nobody.
  simulation.cut(MON_ADDRESS, behind.address);
  // A learner that lacks something does not become a voter.
  for (const { address } of cluster.osds) simulation.cut(address, spare.address);
  cluster.replaceReplica(pg, old.id, spare.id);
  const first = cluster.pgs[0]!.replicas.find((one) => one.osd === spare.id)!.replicaId;
  const isLearner = (): boolean => (bench.groupOn(behind, pg)?.node.conf.slotOf(first) ?? -1) >= 0;
  bench.until("the newcomer is a learner", isLearner);
  bench.lead(behind, pg);
  bench.until("the older map has none", () => !isLearner());
  simulation.heal();
  bench.until("replaced", () => cluster.settled);
  const second = cluster.pgs[0]!.replicas.find((one) => one.osd === spare.id)!.replicaId;
  expect(second).toBeGreaterThan(first);
  bench.stop();
  bench.verifyMembers();
}, 60_000);

/**
 * All that a short log holds is less than what a newcomer may be behind when it becomes a voter: what
 * keeps the group from giving up a good copy for a disk that answers nothing is that it must have the
 * configuration that made it a learner. It says from memory that it knows of that as committed.
 */
test("G1: a newcomer whose disk answers nothing takes nobody's place until it does", () => {
  // No checkpoint at rest: the log holds all that the newcomer is sent.
  const bench = new Bench(17, { pgCount: 1, idleMs: 1e9 });
  const { cluster } = bench;
  const pg = cluster.pgs[0]!.id;
  bench.load();
  bench.until("something is written", () => bench.writes >= 20);
  bench.stop();
  const [old, spare] = [bench.member(pg, 2), bench.spare(pg)];
  cluster.replaceReplica(pg, old.id, spare.id);
  const { faults } = cluster.simulation.disk(spare.path);
  const newcomer = (): Group | undefined => bench.groupOn(spare, pg);
  bench.until("it has begun", () => (newcomer()?.node.durableIndex ?? 0) > 0);
  faults.stalled = true;
  bench.pass(2_000_000);
  const leader = bench.groupOn(bench.leaderOf(pg), pg)!;
  const { conf } = leader.node;
  expect(newcomer()!.node.durableIndex).toBeLessThan(leader.confIndex);
  expect(newcomer()!.commitIndex).toBeGreaterThanOrEqual(leader.confIndex);
  expect(formatConfiguration(conf)).toBe("voters 1,2,3 learners 4");
  faults.stalled = false;
  bench.until("replaced", () => cluster.settled);
  bench.verifyMembers();
}, 60_000);

test.each([
  ["who leads", 0],
  ["a follower", 1],
] as const)(
  "G11: power fails when a replica has just left, and %s does not come back: the others serve",
  (_, at) => {
    const bench = new Bench(21, { pgCount: 1, idleMs: 1e9 });
    const { cluster } = bench;
    const pg = cluster.pgs[0]!.id;
    const [old, spare, lost] = [bench.member(pg, 2), bench.spare(pg), bench.member(pg, at)];
    cluster.replaceReplica(pg, old.id, spare.id);
    bench.until("it has left", () => cluster.settled && bench.groupOn(old, pg) === undefined);
    for (const osd of cluster.osds) osd.world!.powerCut();
    for (const osd of cluster.osds) if (osd !== lost) cluster.startOsd(osd);
    bench.until("the others serve", () => cluster.serving);
    cluster.startOsd(lost);
    bench.verifyMembers();
  },
  60_000,
);

test("G7: a replica of a higher term than its group ever has goes when its group is without it", () => {
  const bench = new Bench(13, { pgCount: 1 });
  const { cluster } = bench;
  const { simulation } = cluster;
  const pg = cluster.pgs[0]!.id;
  const spare = bench.spare(pg);
  const leader = bench.leaderOf(pg);
  const [old, other] = cluster.osds.filter((osd) => osd !== leader && osd !== spare);
  const { term } = bench.groupOn(leader, pg)!.node;
  leader.world!.crash();
  // Of two that campaign one makes nothing durable: what the other hears of its terms is forgotten.
  const { faults } = simulation.disk(other!.path);
  const { latencyUsMin, latencyUsMax } = faults;
  Object.assign(faults, { latencyUsMin: LIMIT_US, latencyUsMax: LIMIT_US });
  bench.until("it has a higher term", () => bench.groupOn(old!, pg)!.node.term > term + 2);
  for (const address of [MON_ADDRESS, ...cluster.osds.map((osd) => osd.address)]) {
    if (address !== old!.address) simulation.cut(address, old!.address);
  }
  other!.world!.powerCut();
  Object.assign(faults, { latencyUsMin, latencyUsMax });
  for (const osd of [leader, other!]) cluster.startOsd(osd);
  bench.load();
  bench.until("the others have a leader", () => cluster.serving);
  cluster.replaceReplica(pg, old!.id, spare.id);
  bench.until("replaced", () => cluster.settled);
  const left = bench.groupOn(old!, pg)!;
  expect(left.node.term).toBeGreaterThan(bench.groupOn(bench.leaderOf(pg), pg)!.node.term);
  simulation.heal();
  bench.until("the old one is gone", () => bench.groupOn(old!, pg) === undefined);
  bench.stop();
  bench.verifyMembers();
}, 60_000);

function leadsAny(osd: SimOsd): boolean {
  if (osd.world?.alive !== true) return false;
  return [...osd.shard!.pg.groups.values()].some((group) => group.serving);
}

test("G7: a replaced disk gets new replicas in the place of those that it lost", () => {
  const bench = new Bench(5, { osds: 3 });
  const { cluster } = bench;
  bench.load();
  bench.pass(300_000);
  const osd = cluster.osds[1]!;
  const before = cluster.storeOf(osd);
  osd.world!.crash();
  // The monitor takes another store under this id only once the old one is down.
  bench.until("it is down", () => cluster.health.has("OSD_DOWN"));
  cluster.replaceDisk(osd);
  cluster.startOsd(osd);
  bench.until("the monitor knows", () => cluster.storeOf(osd) !== before);
  bench.until("whole again", () => !cluster.health.has("STORE_REPLACED") && cluster.settled);
  bench.stop();
  bench.verifyMembers();
  expect(cluster.health.has("STORE_REPLACED")).toBe(false);
}, 60_000);

test("leaders go home once the preferred replica was reachable for a while", () => {
  const bench = new Bench(6, { osds: 3, pgCount: 8 });
  const { cluster } = bench;
  bench.load();
  const osd = cluster.osds[0]!;
  const count = bench.homesOf(osd);
  const home = (): number => bench.leadersAtHome(osd);
  bench.sendAway(osd);
  expect(home()).toBe(0);
  bench.until("they are home", () => home() === count);
  bench.stop();
  bench.verify();
}, 60_000);

test("leaders of many groups do not go home one by one", () => {
  const bench = new Bench(7, { osds: 3, pgCount: 512 });
  const { cluster } = bench;
  const osd = cluster.osds[0]!;
  const count = bench.homesOf(osd);
  const home = (): number => bench.leadersAtHome(osd);
  bench.sendAway(osd);
  const upUs = cluster.simulation.nowUs;
  bench.until("they are home", () => home() === count);
  // Each of two shards had half of them. Some go each second, or every second and a half: looks are half
  // a second apart.
  const oneByOneUs = (count / 2) * 1_000_000;
  expect(cluster.simulation.nowUs - upUs).toBeLessThan(oneByOneUs * 0.9);
}, 60_000);

test("G9: a slow device loses its leaders, and gets them back a minute later, not before", () => {
  const bench = new Bench(8, { osds: 3, pgCount: 4 });
  const { cluster } = bench;
  bench.load();
  const osd = cluster.osds[0]!;
  const count = bench.homesOf(osd);
  const home = (): number => bench.leadersAtHome(osd);
  bench.until("they are home at first", () => home() === count);
  const { faults } = cluster.simulation.disk(osd.path);
  const { latencyUsMin, latencyUsMax } = faults;
  faults.latencyUsMin = 1_500_000;
  faults.latencyUsMax = 2_000_000;
  bench.until("they left", () => !leadsAny(osd));
  const leftUs = cluster.simulation.nowUs;
  bench.stop();
  Object.assign(faults, { latencyUsMin, latencyUsMax });
  bench.until("they are home", () => home() === count);
  expect(cluster.simulation.nowUs - leftUs).toBeGreaterThan(50_000_000);
  bench.verify();
}, 60_000);

test("G9, G13: a store that waits for space beneath loses its leaders: reads go on", () => {
  const bench = new Bench(9, { osds: 3, pgCount: 1, errorsAllowed: true });
  const { cluster, image } = bench;
  bench.pass(500_000);
  const osd = bench.leaderOf(cluster.pgs[0]!.id);
  // Somebody else takes the last of it while a write of a whole unit is on its way.
  const content = new Uint8Array(STRIDE_BYTES).fill(7);
  const file = cluster.simulation.disk(osd.path);
  file.watcher = {
    onSubmit: ({ lengthBytes }) => {
      if (lengthBytes === STRIDE_BYTES) file.bytesBeneath = 0;
    },
    onLand: () => false,
  };
  cluster.await("the others acknowledge it", image.write(0, content));
  expect(file.bytesBeneath).toBe(0);
  expect(osd.shard!.pg.store.failed).toBe(false);
  const beganUs = cluster.simulation.nowUs;
  expect(cluster.await("read", image.read(0, STRIDE_BYTES))).toEqual(content);
  expect(cluster.simulation.nowUs - beganUs).toBeLessThan(2_000_000);
  expect(leadsAny(osd)).toBe(false);
  file.watcher = null;
  file.bytesBeneath = Number.POSITIVE_INFINITY;
  bench.lead(osd, cluster.pgs[0]!.id);
  expect(cluster.await("read", image.read(0, STRIDE_BYTES))).toEqual(content);
}, 60_000);

/** Let an osd's store lose a batch, and its replicas be renewed. Answers the osd. */
function renewReplicas(bench: Bench): SimOsd {
  const { cluster } = bench;
  bench.load();
  bench.pass(500_000);
  const osd = cluster.osds[2]!;
  const before = replicasOf(osd);
  // The header of a batch in the middle of the log goes bad; later ones vouched for it.
  const middle = bench.lastStamp - 20;
  bench.pass(300_000);
  osd.world!.crash();
  const file = cluster.simulation.disk(osd.path);
  let [place] = file.find(contentOf(middle));
  while (new DataView(file.peek(place!, 4).buffer).getUint32(0, true) !== BATCH_MAGIC) {
    place! -= BLOCK_SIZE;
  }
  file.rot(place!, BLOCK_SIZE);
  cluster.startOsd(osd);
  bench.until("it is silent", () =>
    [...osd.shard!.pg.groups.values()].some((group) => group.silent),
  );
  bench.until("it has new replicas", () =>
    [...osd.shard!.pg.groups.values()].every((group) => group.replica > before.get(group.pg)!),
  );
  return osd;
}

/** By their groups. */
function replicasOf(osd: SimOsd): Map<number, number> {
  return new Map([...osd.shard!.pg.groups.values()].map((one) => [one.pg, one.replica]));
}

/** Where the oldest batch of a stopped osd's log lies. */
function firstBatchOf({ cluster }: Bench, osd: SimOsd): number {
  const { batches } = cluster.await(
    "inspect",
    cluster.withDevice(osd, (world, disk) => inspectStore(world, disk, "batches")),
  ) as { readonly batches: readonly { readonly offsetBytes: number }[] };
  return batches[0]!.offsetBytes;
}

test("a replica that its store distrusts is renewed by itself, from the blocks that it has", () => {
  const bench = new Bench(7, { osds: 3, errorsAllowed: true, idleMs: 3_600_000 });
  renewReplicas(bench);
  bench.until("they are voters", () => bench.cluster.settled);
  bench.stop();
  bench.verifyMembers();
}, 60_000);

test("G6: a renewed replica that its store forgets is not renewed under the same id", () => {
  const bench = new Bench(7, { osds: 3, pgCount: 1, errorsAllowed: true, idleMs: 3_600_000 });
  const { cluster } = bench;
  const osd = renewReplicas(bench);
  const renewed = replicasOf(osd);
  // Before the group goes on without the one that it follows.
  bench.pass(20_000);
  osd.world!.crash();
  // The first batch of the log goes bad. The checkpoint knows only the one before.
  cluster.simulation.disk(osd.path).rot(firstBatchOf(bench, osd), BLOCK_SIZE);
  cluster.startOsd(osd);
  const groups = (): Group[] => [...osd.shard!.pg.groups.values()];
  bench.until("it is missed", () => osd.shard!.pg.missing.size === 1);
  // What it is by then is the one before, which nobody asks any more.
  expect(groups().length).toBe(1);
  expect(groups().every((group) => group.silent && group.replica < renewed.get(group.pg)!)).toBe(
    true,
  );
  bench.until("it has a new replica", () =>
    groups().every((group) => group.replica > renewed.get(group.pg)!),
  );
  bench.until("it is a voter", () => cluster.settled);
  bench.stop();
  bench.verifyMembers();
}, 60_000);

test("a replica that its store has forgotten altogether gets a successor", () => {
  const bench = new Bench(9, { osds: 3, idleMs: 3_600_000 });
  const { cluster } = bench;
  bench.load();
  bench.pass(500_000);
  const osd = cluster.osds[2]!;
  const before = replicasOf(osd);
  expect(before.size).toBe(2);
  osd.world!.crash();
  // The first batch of the log goes bad: it says that there are replicas.
  cluster.simulation.disk(osd.path).rot(firstBatchOf(bench, osd), BLOCK_SIZE);
  for (const again of [false, true]) {
    cluster.startOsd(osd);
    bench.until("it follows a map", () => osd.shard!.pg.missing.size === before.size);
    // It does not begin anew under the old ids, after another start neither.
    if (again) break;
    bench.until("it remembers", () => osd.shard!.pg.store.tombstones.length === before.size);
    osd.world!.crash();
  }
  bench.until("it has new replicas", () => {
    const groups = [...osd.shard!.pg.groups.values()];
    const isNew = groups.every((group) => group.replica > before.get(group.pg)!);
    return groups.length === before.size && isNew;
  });
  bench.until("they are voters", () => cluster.settled);
  bench.stop();
  bench.verifyMembers();
}, 60_000);
