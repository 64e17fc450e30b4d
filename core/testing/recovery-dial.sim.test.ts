/**
 * The recovery dial in simulated clusters: what it makes of the pace while clients write, and that a
 * pause holds back what is old, and nothing that is new.
 */
import { expect, test } from "bun:test";
import { drainMicrotasks } from "bun:jsc";
import { assert } from "../base/assert.ts";
import { Status } from "../base/status.ts";
import { BLOCK_SIZE, BLOCKS_PER_UNIT } from "../base/units.ts";
import { type Image, OpKind, PromisedOp } from "../client/client.ts";
import type { RecoveryView } from "../mon/mon.ts";
import type { Group } from "../pg/pg.ts";
import { SystemChecksum } from "../reactor/bun-system.ts";
import { ProgressState } from "../raft/raft.ts";
import { CallbackTimer } from "../reactor/world.ts";
import { SimCluster, type SimOsd } from "./sim-cluster.ts";

const LIMIT_US = 60_000_000;
/** Of a unit, one less than all: such writes go through the log. */
const PART = BLOCKS_PER_UNIT - 1;
/** Units that are written while the follower is away: more than a log of 8 MiB keeps. */
const UNITS = 160;
/** Of a log that keeps all of it; how often they are written then. */
const LOG_MIB_LARGE = 128;
const TIMES_LARGE = 3;
/** What memory for payloads is cut from. */
const PIECE = 1_048_576;
/** Between two writes of the client that goes on. */
const WRITE_US = 5000;

/** Three osds with one group; `away` has missed writes. */
class Bench {
  readonly cluster: SimCluster;
  readonly leader: SimOsd;
  readonly away: SimOsd;
  private readonly image: Image;
  private readonly buffer: number;
  private writing = false;

  constructor(seed: number, logMiB: number, slotsMiB = 96) {
    this.cluster = new SimCluster(seed, {
      osds: 3,
      replicas: 3,
      pgCount: 1,
      imageBytes: 64 * 1_048_576,
      logBytes: logMiB * 1_048_576,
      slotsBytes: slotsMiB * 1_048_576,
      tuning: { idleMs: 50 },
      checksum: new SystemChecksum(),
      drainMicrotasks,
    });
    this.cluster.start();
    this.image = this.cluster.await("open", this.cluster.client.openImage("pool/image"));
    this.buffer = this.cluster.clientWorld.arena.allocate(BLOCKS_PER_UNIT * BLOCK_SIZE);
    this.await(this.write(0));
    const { osds } = this.cluster;
    this.leader = osds.find((osd) => groupOf(osd).isLeader)!;
    const away = osds.find((osd) => osd !== this.leader);
    assert(away !== undefined, "Bench: wanted another osd than the leader");
    this.away = away;
    this.settle(osds);
    away.world!.crash();
    const times = logMiB === LOG_MIB_LARGE ? TIMES_LARGE : 1;
    for (let at = 0; at < UNITS * times; at++) this.await(this.write(at % UNITS));
    this.settle(osds.filter((osd) => osd !== away));
  }

  private write(unit: number): Promise<Status> {
    const op = new PromisedOp();
    op.kind = OpKind.Write;
    op.offsetBytes = unit * BLOCKS_PER_UNIT * BLOCK_SIZE;
    op.lengthBytes = PART * BLOCK_SIZE;
    op.arenaOffset = this.buffer;
    return this.image.run(op);
  }

  writeSome(count: number): void {
    for (let at = 0; at < count; at++) this.await(this.write(at));
  }

  private await(status: Promise<Status>): void {
    expect(this.cluster.await("write", status)).toBe(Status.Ok);
  }

  private settle(osds: readonly SimOsd[]): void {
    this.until("all at home", () =>
      osds.every((osd) => osd.shard!.pg.store.usage().overlayBlocks === 0),
    );
  }

  /** A client writes one block after the other from now on, until `stopWriting`. */
  keepWriting(): void {
    this.writing = true;
    const { timers } = this.cluster.clientWorld;
    const timer = new CallbackTimer(() => {
      if (!this.writing) return;
      this.write(0).then(
        (status) => {
          assert(status === Status.Ok, "Bench: a write failed");
          timers.arm(timer, WRITE_US);
        },
        (error: unknown) => {
          throw error;
        },
      );
      this.cluster.clientWorld.turns.again();
    });
    timers.arm(timer, WRITE_US);
  }

  stopWriting(): void {
    this.writing = false;
  }

  until(what: string, done: () => boolean): void {
    expect(`${what}: ${this.cluster.simulation.run(done, LIMIT_US)}`).toBe(`${what}: true`);
  }

  pass(us: number): void {
    const { simulation } = this.cluster;
    simulation.run(simulation.nowUs + us);
  }

  turn(wish: Parameters<SimCluster["recovery"]["set"]>[0]): void {
    this.cluster.await("recovery", this.cluster.recovery.set(wish, false));
  }

  get view(): RecoveryView {
    return this.cluster.recovery.view();
  }

  get isFilled(): boolean {
    return this.away.shard?.pg.fills.counters.fillsEnded === 1;
  }

  get lag(): number {
    const group = groupOf(this.away);
    return groupOf(this.leader).node.log.lastIndex - group.node.log.lastIndex;
  }
}

function groupOf(osd: SimOsd): Group {
  return [...osd.shard!.pg.groups.values()][0]!;
}

/** Entries that an osd has in memory. */
function heldBy(osd: SimOsd): number {
  const { ring } = groupOf(osd);
  let held = 0;
  for (let index = ring.first; index <= ring.last; index++) if (ring.get(index) !== null) held += 1;
  return held;
}

/** Simulated time from the return of an osd until it is whole again. */
function usUntilWhole(speed: RecoveryView["speed"], logMiB: number, isWriting: boolean): number {
  const bench = new Bench(41, logMiB);
  const { cluster, away } = bench;
  const byLog = logMiB === LOG_MIB_LARGE;
  // What the log of a simulated osd holds is few.
  if (byLog)
    for (const { shard } of cluster.osds) if (shard !== null) shard.pg.pace.nearEntries = 0;
  bench.turn({ speed });
  if (isWriting) bench.keepWriting();
  cluster.startOsd(away);
  bench.until(
    "it is there",
    () => away.shard?.pg.groups.size === 1 && groupOf(away).followed !== null,
  );
  const beganUs = cluster.simulation.nowUs;
  const isWhole = (): boolean => (byLog ? bench.lag <= 1 : bench.isFilled);
  bench.until("it is whole", isWhole);
  expect(away.shard!.pg.fills.counters.fillsBegun).toBe(byLog ? 0 : 1);
  bench.stopWriting();
  return cluster.simulation.nowUs - beganUs;
}

test("the lower the dial, the longer a fill takes while a client writes; alone it is fast at any", () => {
  const [low, medium, high] = (["low", "medium", "high"] as const).map((speed) =>
    usUntilWhole(speed, 8, true),
  ) as [number, number, number];
  expect(low).toBeGreaterThan(medium * 1.5);
  expect(medium).toBeGreaterThan(high * 1.2);
  expect(usUntilWhole("low", 8, false)).toBeLessThan(low / 3);
}, 120_000);

test("old entries from the leader's log are sent at the dial's pace as well", () => {
  const low = usUntilWhole("low", LOG_MIB_LARGE, true);
  const high = usUntilWhole("high", LOG_MIB_LARGE, true);
  expect(low).toBeGreaterThan(high * 1.5);
  expect(usUntilWhole("low", LOG_MIB_LARGE, false)).toBeLessThan(low / 2);
}, 120_000);

test("a paused fill waits, over a restart of the monitor too; new entries come, and it goes on after", () => {
  const bench = new Bench(42, 8);
  const { cluster, away, leader } = bench;
  bench.turn({ paused: true });
  cluster.startOsd(away);
  const copied = (): number => away.shard!.pg.fills.counters.fillBlocksCopied;
  bench.until("it has begun", () => away.shard?.pg.fills.counters.fillsBegun === 1);
  bench.keepWriting();
  bench.pass(3_000_000);
  expect(copied()).toBe(0);
  const at = groupOf(away).appliedIndex;
  bench.pass(1_000_000);
  expect(groupOf(away).appliedIndex).toBeGreaterThan(at + 50);
  expect(groupOf(leader).appliedIndex - groupOf(away).appliedIndex).toBeLessThan(10);
  bench.until("the monitor tells", () => bench.view.replicas.length === 1);
  expect(bench.view).toMatchObject({ speed: "medium", paused: true });
  expect(bench.view.replicas[0]).toMatchObject({ osd: away.id, etaSeconds: null, bytesCopied: 0 });
  expect(cluster.health.get("RECOVERY_PAUSED")?.summary).toBe(
    "recovery is paused: 1 replica waits for it",
  );

  cluster.restartMonitor();
  bench.pass(3_000_000);
  expect(bench.view.paused).toBe(true);
  expect([copied(), bench.isFilled]).toEqual([0, false]);

  bench.turn({ paused: false });
  bench.until("it is filled", () => bench.isFilled);
  // What the client went on writing came as new entries.
  expect(copied()).toBe((UNITS - 1) * PART);
  bench.stopWriting();
  bench.until("the monitor is content", () => {
    return bench.view.replicas.length === 0 && !cluster.health.has("RECOVERY_PAUSED");
  });
}, 120_000);

test("logs keep what somebody lacks who is away, the leader's and the other follower's; else nothing", () => {
  const bench = new Bench(44, LOG_MIB_LARGE);
  const { cluster, away } = bench;
  const kept = ({ shard }: SimOsd): number => {
    const group = [...shard!.pg.groups.values()][0]!;
    return group.node.log.lastIndex + 1 - shard!.pg.store.firstIndex(group.row);
  };
  const others = cluster.osds.filter((osd) => osd !== away);
  for (const osd of others) {
    const { store } = osd.shard!.pg;
    const { checkpoints } = store.counters;
    store.requestCheckpoint();
    bench.until("a checkpoint is written", () => store.counters.checkpoints > checkpoints);
    expect(kept(osd)).toBeGreaterThanOrEqual(UNITS * TIMES_LARGE);
  }
  cluster.startOsd(away);
  bench.until("it has all", () => away.shard?.pg.groups.size === 1 && bench.lag === 0);
  expect(away.shard!.pg.fills.counters.fillsBegun).toBe(0);
  // Whether it has all by now is not known to the other follower.
  bench.pass(31_000_000);
  bench.keepWriting();
  bench.pass(20 * WRITE_US);
  bench.stopWriting();
  bench.until("nothing is kept", () => cluster.osds.every((osd) => kept(osd) === 0));
}, 120_000);

test("what is kept in memory for followers gives way: to a fill, to writes, to whoever finds none", () => {
  const bench = new Bench(46, LOG_MIB_LARGE, 16);
  const { leader, away } = bench;
  const { pg } = leader.shard!;
  bench.cluster.startOsd(away);
  bench.until("it has all", () => away.shard?.pg.groups.size === 1 && bench.lag === 0);
  // Its disk stands still from now on.
  bench.cluster.simulation.disk(away.path).faults.stalled = true;
  bench.keepWriting();
  bench.until("memory is scarce", () => pg.isCrowded);
  const at = groupOf(leader).appliedIndex;
  const { checkpoints } = pg.store.counters;
  pg.store.requestCheckpoint();
  bench.pass(2_000_000);
  expect(groupOf(leader).appliedIndex).toBeGreaterThan(at + 200);
  expect(pg.store.counters.checkpoints).toBeGreaterThan(checkpoints);
  bench.stopWriting();
  bench.pass(1_000_000);
  expect(bench.lag).toBeGreaterThan(200);

  bench.writeSome(10);
  expect(heldBy(leader)).toBeGreaterThanOrEqual(10);
  const { slots } = leader.world!;
  const taken: number[] = [];
  while (slots.usedBytes * 2 <= slots.sizeBytes) taken.push(slots.take(BLOCK_SIZE));
  bench.pass(50_000);
  expect(heldBy(leader)).toBe(0);

  for (const slot of taken.splice(0)) slots.release(slot);
  bench.writeSome(10);
  expect(heldBy(leader)).toBe(10);
  // One block of each piece that is left: most is free, and nothing large.
  for (let slot = slots.take(BLOCK_SIZE); slot >= 0; slot = slots.take(BLOCK_SIZE))
    taken.push(slot);
  for (const slot of taken) if (slot % PIECE !== taken[0]! % PIECE) slots.release(slot);
  bench.pass(50_000);
  expect(heldBy(leader)).toBe(0);

  for (const slot of taken) if (slot % PIECE === taken[0]! % PIECE) slots.release(slot);
  bench.keepWriting();
  // What it lacks has left the log: it gets nothing before its fill, for which it needs its disk.
  bench.until("it waits for a fill", () =>
    groupOf(leader).node.progress.some(({ state }) => state === ProgressState.Fill),
  );
  bench.pass(300_000);
  expect(heldBy(leader)).toBeLessThan(10);
}, 120_000);
