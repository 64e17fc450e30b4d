/** Pools of two replicas and a witness in whole simulated clusters: who may be away, come, go and be new. */
import { describe, expect, test } from "bun:test";
import { drainMicrotasks } from "bun:jsc";
import { assert } from "../base/assert.ts";
import { Prng } from "../base/prng.ts";
import { BLOCK_SIZE } from "../base/units.ts";
import type { Image } from "../client/client.ts";
import { type Group, inspectStore } from "../pg/pg.ts";
import { SystemChecksum } from "../reactor/bun-system.ts";
import { compareReplicas, describe as describeAll, unrest } from "./sim-check.ts";
import { groupsOf, SimCluster, type SimOsd } from "./sim-cluster.ts";

const LIMIT_US = 90_000_000;
/** "FBLB": how a batch of the log begins. */
const BATCH_MAGIC = 0x424c_4246;
const SPAN = 256;
const STRIDE_BYTES = 65_536;
const WRITERS = 4;
const THINK_US = 5_000;
const PG_COUNT = 4;
/** Two units: every group has some. */
const OBJECT_BYTES = 131_072;
/** Entries that a witness may lack: it is told of what is committed. */
const LAG_MAX = 16;
/** An election waits out promises of 400 ms; a dead peer is missed after some heartbeats. */
const PAUSE_US_MAX = 3_000_000;

const SMALL_LOG = {
  logBytes: 4 * 1_048_576,
  tuning: { moverStartPercent: 5, checkpointStartPercent: 10, retentionPercent: 2, idleMs: 20 },
};

class Bench {
  readonly cluster: SimCluster;
  readonly image: Image;
  readonly random: Prng;
  private readonly written = new Map<number, number>();
  private stamps = 0;
  private running = 0;
  private stopped = false;
  private lastUs = 0;
  /** Longest time between two writes that were acknowledged. */
  pauseUs = 0;
  writes = 0;

  constructor(seed: number, osds: number, store: Partial<typeof SMALL_LOG> = {}) {
    this.random = new Prng(seed * 7 + 3);
    this.cluster = new SimCluster(seed, {
      osds,
      replicas: 2,
      pgCount: PG_COUNT,
      imageBytes: SPAN * STRIDE_BYTES,
      objectBytes: OBJECT_BYTES,
      ...store,
      checksum: new SystemChecksum(),
      drainMicrotasks,
    });
    this.cluster.start();
    this.image = this.cluster.await("open", this.cluster.client.openImage("pool/image"));
    this.until("established", () => this.cluster.pgs.every((pg) => !pg.creating));
    expect(this.cluster.pgs.every((pg) => pg.replicas.map(isWitness).join() === "0,0,1")).toBe(
      true,
    );
  }

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

  load(): void {
    this.stopped = false;
    this.lastUs = this.cluster.simulation.nowUs;
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
    const { simulation } = this.cluster;
    while (!this.stopped) {
      const block = this.random.below(SPAN / WRITERS) * WRITERS + writer;
      const stamp = ++this.stamps;
      await this.image.write(block * STRIDE_BYTES, contentOf(stamp));
      this.written.set(block, stamp);
      this.writes += 1;
      this.pauseUs = Math.max(this.pauseUs, simulation.nowUs - this.lastUs);
      this.lastUs = simulation.nowUs;
      await new Promise<void>((resolve) => simulation.after(THINK_US, resolve));
    }
  }

  /** More writes, of every writer, so that no group stands still. */
  more(count: number): void {
    const wanted = this.writes + count;
    const { simulation } = this.cluster;
    const isDone = simulation.run(() => this.writes >= wanted, LIMIT_US);
    assert(isDone, `no more writes:\n${describeAll(this.cluster)}`);
  }

  /** Everything that was begun is acknowledged, is there, and is the same on both disks. */
  stop(): void {
    this.stopped = true;
    this.until("writers end", () => this.running === 0);
    this.whole();
    for (const [block, stamp] of this.written) {
      const bytes = this.cluster.await("read", this.image.read(block * STRIDE_BYTES, BLOCK_SIZE));
      expect([block, Buffer.compare(bytes, contentOf(stamp))]).toEqual([block, 0]);
    }
    this.whole();
    compareReplicas(this.cluster);
  }

  /** Everybody has everything. */
  whole(): void {
    let what = "";
    const isWhole = (): boolean => {
      what = unrest(this.cluster);
      return what === "";
    };
    assert(this.cluster.simulation.run(isWhole, LIMIT_US), `not whole: ${what}`);
  }

  /** The same while writers are at work: what is committed is on both disks again. */
  caughtUp(): void {
    this.until("all have caught up", () => {
      const groups = this.groups();
      const isUp = ({ pg, isMute, fill, witness, row, shard }: Group): boolean => {
        const commits = groups.map((one) => (one.pg === pg ? one.commitIndex : 0));
        const index = shard.store.durableIndex(row) + (witness ? LAG_MAX : 0);
        return !isMute && fill === null && index >= Math.max(...commits);
      };
      return this.cluster.settled && groups.length === PG_COUNT * 3 && groups.every(isUp);
    });
  }

  groups(): Group[] {
    return this.cluster.osds.filter((osd) => osd.world?.alive === true).flatMap(groupsOf);
  }

  kill(osd: SimOsd): void {
    if (this.random.below(2) === 0) osd.world!.crash();
    else osd.world!.powerCut();
  }
}

function isWitness(one: { readonly witness: boolean }): number {
  return one.witness ? 1 : 0;
}

function contentOf(stamp: number): Uint8Array {
  return new Uint8Array(new Uint32Array(BLOCK_SIZE / 4).fill(stamp).buffer);
}

function fillsOf(osd: SimOsd): { begun: number; blocks: number } {
  const { fillsBegun, fillBlocksCopied } = osd.shard!.pg.fills.counters;
  return { begun: fillsBegun, blocks: fillBlocksCopied };
}

describe("one of three osds is away at any time", () => {
  test("G1, G9: writes go on whoever dies, as long as the others have caught up", () => {
    for (let seed = 1; seed <= 2; seed++) {
      const bench = new Bench(seed, 3);
      const { cluster } = bench;
      bench.load();
      bench.more(100);
      for (const osd of [...cluster.osds, ...cluster.osds]) {
        bench.caughtUp();
        bench.kill(osd);
        bench.more(300);
        for (const group of bench.groups()) assert(!group.isLeader || !group.witness, "it leads");
        cluster.startOsd(osd);
      }
      bench.stop();
      expect(bench.pauseUs).toBeLessThan(PAUSE_US_MAX);
    }
  }, 120_000);

  test("who was away for long comes back by difference, a witness by a position alone", () => {
    const bench = new Bench(9, 3, SMALL_LOG);
    const { cluster } = bench;
    bench.load();
    for (const osd of cluster.osds) {
      bench.caughtUp();
      // A machine without power says no goodbye: whoever spoke to it before learns of that in some seconds.
      osd.world!.crash();
      bench.pass(12_000_000);
      cluster.startOsd(osd);
      const isFilled = (group: Group): boolean => group.witness && group.fill !== null;
      bench.until("its witness is filled", () => groupsOf(osd).some(isFilled));
      bench.caughtUp();
      expect(fillsOf(osd).blocks).toBeGreaterThan(0);
      for (const group of groupsOf(osd).filter((one) => one.witness)) {
        expect(group.shard.store.bytesOf(group.row)).toBe(0);
      }
    }
    bench.stop();
    expect(bench.pauseUs).toBeLessThan(PAUSE_US_MAX);
  }, 120_000);

  test("the one that has everything dies while the other is away: the group waits for it", () => {
    const bench = new Bench(12, 3);
    const { cluster } = bench;
    bench.load();
    bench.more(100);
    const pg = cluster.pgs[0]!;
    const [first, second] = pg.replicas.map((one) => cluster.osds[one.osd]!);
    bench.kill(second!);
    bench.more(200);
    first!.world!.powerCut();
    cluster.startOsd(second!);
    // Two of three are there, and what was acknowledged is on neither.
    bench.pass(5_000_000);
    expect(bench.groups().some((group) => group.pg === pg.id && group.isLeader)).toBe(false);
    cluster.startOsd(first!);
    bench.more(100);
    bench.stop();
  }, 60_000);
});

describe("witnesses come and go under load", () => {
  test("they and data move to a fourth osd, each in its role", () => {
    for (let seed = 1; seed <= 2; seed++) {
      const bench = new Bench(seed * 5, 4);
      const { cluster, random } = bench;
      bench.load();
      for (let turn = 0; turn < 6; turn++) {
        bench.more(50);
        const pg = cluster.pgs[turn % 4]!;
        const old = pg.replicas[random.below(3)]!;
        const to = cluster.osds.find((osd) => pg.replicas.every((one) => one.osd !== osd.id))!;
        cluster.replaceReplica(pg.id, old.osd, to.id);
        const victim = cluster.osds[random.below(4)]!;
        bench.pass(random.below(300_000));
        bench.kill(victim);
        bench.pass(random.below(1_000_000));
        cluster.startOsd(victim);
        bench.until("it has moved", () => cluster.settled);
        bench.caughtUp();
        const now = cluster.pgs.find((one) => one.id === pg.id)!;
        const at = now.replicas.find((one) => one.osd === to.id);
        expect([at?.witness, now.replicas.filter((one) => one.witness).length]).toEqual([
          old.witness,
          1,
        ]);
      }
      bench.stop();
    }
  }, 240_000);

  test("G7: an empty disk gets its data and its witnesses back", () => {
    const bench = new Bench(21, 3);
    const { cluster } = bench;
    bench.load();
    bench.more(200);
    bench.caughtUp();
    const osd = cluster.osds[1]!;
    const before = cluster.storeOf(osd);
    osd.world!.crash();
    bench.until("it is down", () => cluster.health.has("OSD_DOWN"));
    cluster.replaceDisk(osd);
    cluster.startOsd(osd);
    bench.until("the monitor knows", () => cluster.storeOf(osd) !== before);
    bench.until("whole again", () => !cluster.health.has("STORE_REPLACED") && cluster.settled);
    bench.stop();
    expect(bench.pauseUs).toBeLessThan(PAUSE_US_MAX);
  }, 60_000);

  test("G6: a store that lost a batch gets both back under new ids", () => {
    const bench = new Bench(33, 3);
    const { cluster } = bench;
    bench.load();
    bench.more(200);
    bench.caughtUp();
    const osd = cluster.osds[2]!;
    const before = new Map(groupsOf(osd).map((one) => [one.pg, one]));
    const file = cluster.simulation.disk(osd.path);
    const middle = bench.lastStamp - 20;
    bench.more(100);
    osd.world!.crash();
    let place = -1;
    for (let stamp = middle; place < 0; stamp--) place = file.find(contentOf(stamp))[0] ?? -1;
    while (new DataView(file.peek(place, 4).buffer).getUint32(0, true) !== BATCH_MAGIC) {
      place -= BLOCK_SIZE;
    }
    file.rot(place, BLOCK_SIZE);
    cluster.startOsd(osd);
    bench.until("it has new replicas", () => {
      const groups = groupsOf(osd);
      return (
        groups.length === 4 && groups.every((one) => one.replica > before.get(one.pg)!.replica)
      );
    });
    bench.until("they vote", () => cluster.settled);
    for (const group of groupsOf(osd)) expect(group.witness).toBe(before.get(group.pg)!.witness);
    bench.stop();
    expect(bench.pauseUs).toBeLessThan(PAUSE_US_MAX);
  }, 60_000);
});

test("a stopped store holds no block of a witness, and says so", () => {
  const bench = new Bench(41, 3);
  const { cluster } = bench;
  bench.load();
  bench.more(400);
  bench.stop();
  for (const osd of cluster.osds) {
    const witnessed = new Set(groupsOf(osd).flatMap((one) => (one.witness ? [one.pg] : [])));
    cluster.await("stop", cluster.stopOsd(osd));
    const { entries } = cluster.await(
      "inspect",
      cluster.withDevice(osd, (world, disk) => inspectStore(world, disk, "entries")),
    ) as { entries: readonly { pg: string; type: string; inlineOffsetsBytes: number[] }[] };
    const writes = entries.filter((one) => one.type === "Write");
    expect(writes.length).toBeGreaterThan(50);
    for (const { pg, inlineOffsetsBytes } of writes) {
      expect(inlineOffsetsBytes.length).toBe(witnessed.has(Number(pg)) ? 0 : 1);
    }
  }
}, 60_000);
