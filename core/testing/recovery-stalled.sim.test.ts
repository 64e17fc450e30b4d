/**
 * A group that waits for the very replica that is brought back, while clients of another group keep
 * its osds at work: it is not made to wait for them.
 */
import { expect, test } from "bun:test";
import { drainMicrotasks } from "bun:jsc";
import { assert } from "../base/assert.ts";
import { Status } from "../base/status.ts";
import { BLOCK_SIZE, BLOCKS_PER_UNIT } from "../base/units.ts";
import { type Image, OpKind, PromisedOp } from "../client/client.ts";
import type { Group } from "../pg/pg.ts";
import { SystemChecksum } from "../reactor/bun-system.ts";
import { CallbackTimer } from "../reactor/world.ts";
import { groupsOf, SimCluster, type SimOsd } from "./sim-cluster.ts";

const LIMIT_US = 60_000_000;
/** Of a unit, one less than all: such writes go through the log. */
const PART = BLOCKS_PER_UNIT - 1;
const IMAGE_UNITS = 2048;
/** Units that are written while the follower is away: more than the log keeps. */
const UNITS = 480;
const WRITE_US = 5000;

/**
 * Four osds, groups of three. `one` is the group whose `away` is brought back, and whose `third` may
 * go; `other` goes on without either.
 */
class Bench {
  readonly cluster: SimCluster;
  readonly away: SimOsd;
  readonly third: SimOsd;
  private readonly image: Image;
  private readonly buffer: number;
  /** Units of the image that lie in either group. */
  private readonly unitsOfOne: readonly number[];
  private readonly unitsOfOther: readonly number[];
  private readonly one: number;

  constructor(seed: number) {
    this.cluster = new SimCluster(seed, {
      osds: 4,
      replicas: 3,
      pgCount: 4,
      imageBytes: IMAGE_UNITS * BLOCKS_PER_UNIT * BLOCK_SIZE,
      objectBytes: BLOCKS_PER_UNIT * BLOCK_SIZE,
      logBytes: 8 * 1_048_576,
      tuning: { idleMs: 50 },
      checksum: new SystemChecksum(),
      drainMicrotasks,
    });
    this.cluster.start();
    this.image = this.cluster.await("open", this.cluster.client.openImage("pool/image"));
    this.buffer = this.cluster.clientWorld.arena.allocate(BLOCKS_PER_UNIT * BLOCK_SIZE);
    this.until("it serves", () => this.cluster.serving);
    const { osds, pgs } = this.cluster;
    const one = pgs[0]!;
    const leader = one.replicas[0]!.osd;
    const other = pgs.find(({ replicas }) => {
      const members = replicas.map(({ osd }) => osd);
      return members.includes(leader) && one.replicas.some(({ osd }) => !members.includes(osd));
    });
    assert(other !== undefined, "Bench: wanted a group on the leader and on the fourth osd");
    const members = other.replicas.map(({ osd }) => osd);
    const followers = one.replicas.map(({ osd }) => osd).filter((osd) => osd !== leader);
    this.away = osds[followers.find((osd) => !members.includes(osd))!]!;
    this.third = osds[followers.find((osd) => members.includes(osd))!]!;
    this.one = one.id;
    const units = this.unitsByGroup();
    this.unitsOfOne = units.get(one.id)!;
    this.unitsOfOther = units.get(other.id)!;
    this.settle();
    this.away.world!.crash();
    for (const unit of this.unitsOfOne.slice(0, UNITS)) this.await(this.write(unit));
    this.settle();
  }

  /** Write each unit of the image once, and see whose log grew. */
  private unitsByGroup(): Map<number, number[]> {
    const units = new Map<number, number[]>();
    const lastOf = (): Map<number, number> => {
      const last = new Map<number, number>();
      for (const osd of this.cluster.osds) {
        for (const group of groupsOf(osd)) {
          if (group.isLeader) last.set(group.pg, group.node.log.lastIndex);
        }
      }
      return last;
    };
    for (let unit = 0; unit < IMAGE_UNITS; unit++) {
      const before = lastOf();
      this.await(this.write(unit, 1));
      for (const [pg, last] of lastOf()) {
        if (before.get(pg) === last) continue;
        const list = units.get(pg);
        if (list === undefined) units.set(pg, [unit]);
        else list.push(unit);
      }
    }
    return units;
  }

  private write(unit: number, blocks = PART): Promise<Status> {
    const op = new PromisedOp();
    op.kind = OpKind.Write;
    op.offsetBytes = unit * BLOCKS_PER_UNIT * BLOCK_SIZE;
    op.lengthBytes = blocks * BLOCK_SIZE;
    op.arenaOffset = this.buffer;
    return this.image.run(op);
  }

  private await(status: Promise<Status>): void {
    expect(this.cluster.await("write", status)).toBe(Status.Ok);
  }

  private settle(): void {
    this.until("all at home", () =>
      this.cluster.osds
        .filter((osd) => osd.world?.alive === true)
        .every((osd) => osd.shard!.pg.store.usage().overlayBlocks === 0),
    );
  }

  /** A client writes to the other group one after the other from now on. */
  keepWriting(): void {
    const { timers, turns } = this.cluster.clientWorld;
    const timer = new CallbackTimer(() => {
      this.write(this.unitsOfOther[0]!, 1).then(
        (status) => {
          assert(status === Status.Ok, "Bench: a write failed");
          timers.arm(timer, WRITE_US);
        },
        (error: unknown) => {
          throw error;
        },
      );
      turns.again();
    });
    timers.arm(timer, WRITE_US);
  }

  /** A write that waits until the group has a majority again. */
  writeToOne(): Promise<Status> {
    const written = this.write(this.unitsOfOne[0]!, 1);
    this.cluster.clientWorld.turns.again();
    return written;
  }

  until(what: string, done: () => boolean): void {
    expect(`${what}: ${this.cluster.simulation.run(done, LIMIT_US)}`).toBe(`${what}: true`);
  }

  pass(us: number): void {
    const { simulation } = this.cluster;
    simulation.run(simulation.nowUs + us);
  }

  get group(): Group | undefined {
    return this.away.shard?.pg.groups.get(this.one);
  }

  turn(wish: Parameters<SimCluster["recovery"]["set"]>[0]): void {
    this.cluster.await("recovery", this.cluster.recovery.set(wish, false));
  }
}

/** Simulated time of a fill at the lowest dial, of a group that has a majority without it, or none. */
function usToFill(isStalled: boolean): number {
  const bench = new Bench(43);
  const { cluster, away, third } = bench;
  bench.turn({ speed: "low", paused: true });
  cluster.startOsd(away);
  bench.until("it has begun", () => bench.group?.node.filling === true);
  bench.keepWriting();
  bench.pass(500_000);
  if (isStalled) third.world!.crash();
  bench.pass(3_000_000);
  const written = bench.writeToOne();
  bench.pass(2_000_000);
  expect(bench.group?.node.filling).toBe(true);
  bench.turn({ paused: false });
  const beganUs = cluster.simulation.nowUs;
  bench.until("it is filled", () => bench.group?.node.filling === false);
  const us = cluster.simulation.nowUs - beganUs;
  expect(cluster.await("write", written)).toBe(Status.Ok);
  return us;
}

test("a group that can commit nothing without the replica is hurried, whatever others do", () => {
  expect(usToFill(true)).toBeLessThan(usToFill(false) / 2);
}, 120_000);
