/**
 * The trace of stages in a simulated cluster, whose machines each have a clock of their own: what it
 * shows of an operation is complete, in order, and as long as the operation was.
 */
import { expect, test } from "bun:test";
import { drainMicrotasks } from "bun:jsc";
import type { Image } from "../client/client.ts";
import type { TraceOpView, TraceView } from "../mon/mon.ts";
import { SystemChecksum } from "../reactor/bun-system.ts";
import type { SimWorld } from "../reactor/reactor.ts";
import { SimCluster } from "./sim-cluster.ts";

const BLOCK_BYTES = 4096;
const SECOND_US = 1_000_000;
const WRITE_STAGES = ["client", "request", "admit", "replicate", "answer", "reply", "finish"];
const READ_STAGES = ["client", "request", "look", "answer", "reply", "finish"];

class Bench {
  readonly cluster: SimCluster;
  readonly image: Image;

  constructor(seed: number) {
    this.cluster = new SimCluster(seed, {
      osds: 3,
      replicas: 3,
      pgCount: 4,
      imageBytes: 64 * 1_048_576,
      checksum: new SystemChecksum(),
      drainMicrotasks,
      clockDriftShare: 0,
    });
    this.cluster.start();
    this.image = this.cluster.await("open", this.cluster.client.openImage("pool/image"));
    this.write(0);
  }

  /** How long it took, by the clock of the client. */
  write(block: number, fill = 1): number {
    const data = new Uint8Array(BLOCK_BYTES).fill(fill);
    return this.timed(() => this.image.write(block * BLOCK_BYTES, data));
  }

  read(block: number): number {
    return this.timed(() => this.image.read(block * BLOCK_BYTES, BLOCK_BYTES));
  }

  private timed(start: () => Promise<unknown>): number {
    const { clock } = this.cluster.clientWorld;
    const fromUs = clock.nowUs();
    let endUs = 0;
    const done = start().then(() => {
      endUs = clock.nowUs();
    });
    this.cluster.clientWorld.turns.again();
    this.cluster.await("operation", done);
    return endUs - fromUs;
  }

  pass(us: number): void {
    const { simulation } = this.cluster;
    simulation.run(simulation.nowUs + us);
  }

  start(timeMs = 60_000): void {
    this.cluster.monitor.traces.start({ sample: 1, timeMs });
    this.pass(SECOND_US / 10);
  }

  view(slowest = 100): TraceView {
    return this.cluster.monitor.traces.view(slowest);
  }

  /** Worlds of all processes that take part. */
  get worlds(): SimWorld[] {
    return [this.cluster.clientWorld, ...this.cluster.osds.map((osd) => osd.world!)];
  }
}

/** Those of the whole, one behind the other from 0 to the end. */
function checkWhole(op: TraceOpView, stages: readonly string[]): void {
  let atUs = 0;
  for (const stage of stages) {
    const bar = op.bars.find((one) => one.stage === stage);
    expect([stage, bar?.fromUs]).toEqual([stage, atUs]);
    expect(bar!.toUs).toBeGreaterThanOrEqual(atUs);
    atUs = bar!.toUs;
  }
  expect(atUs).toBe(op.totalUs);
  const sumUs = Object.values(op.stagesUs).reduce((sum, us) => sum + us, 0);
  expect(sumUs).toBeCloseTo(op.totalUs, 3);
}

/** Each follower's, in order, and within the time of the leader's replication but for the slowest. */
function checkFollowers(op: TraceOpView): void {
  const replicate = op.bars.find(({ stage }) => stage === "replicate")!;
  const ends: number[] = [];
  for (const lane of [2, 3]) {
    const bars = op.bars.filter((bar) => bar.lane === lane);
    expect(bars.map(({ stage }) => stage)).toEqual([
      "append",
      "follower-wait",
      "follower-write",
      "acknowledge",
    ]);
    let atUs = bars[0]!.fromUs;
    expect(atUs).toBeGreaterThanOrEqual(replicate.fromUs);
    for (const bar of bars) {
      expect(bar.fromUs).toBe(atUs);
      expect(bar.toUs).toBeGreaterThanOrEqual(atUs);
      atUs = bar.toUs;
    }
    ends.push(atUs);
  }
  const durableUs = op.bars.find(({ stage }) => stage === "log-write")!.toUs;
  // Two of three: the second of those who have it commits it.
  const secondUs = [durableUs, ...ends].sort((a, b) => a - b)[1]!;
  expect(Math.abs(replicate.toUs - secondUs)).toBeLessThanOrEqual(1000);
}

test("nothing is kept while no trace is taken", () => {
  const bench = new Bench(1);
  for (let block = 0; block < 20; block++) bench.write(block);
  bench.read(3);
  expect(bench.view()).toMatchObject({ state: "never", writes: 0, reads: 0, stages: [] });
  for (const { trace } of bench.worlds) {
    expect([trace.sample, trace.hasRows]).toEqual([0, false]);
    expect((trace as unknown as { rows: Float64Array }).rows.length).toBe(0);
  }
});

test.each([1, 2, 3])(
  "seed %d: the stages of an operation are complete, in order, and make up its time",
  (seed) => {
    const bench = new Bench(seed);
    bench.start();
    const tookUs: number[] = [];
    for (let block = 0; block < 20; block++) tookUs.push(bench.write(block, 2 + block));
    const readUs = bench.read(7);
    bench.pass(3 * SECOND_US);
    const view = bench.view();
    expect(view).toMatchObject({ state: "on", sample: 1, writes: 20, reads: 1, rowsLost: 0 });
    expect(view.partial).toBe(0);
    expect(view.processes).toEqual(["client", "osd.0", "osd.1", "osd.2"]);
    for (const op of view.slowest) {
      checkWhole(op, WRITE_STAGES);
      checkFollowers(op);
      expect(op.lanes.map(({ role }) => role)).toEqual([
        "client",
        "leader",
        "follower",
        "follower",
      ]);
    }
    // What its user saw, which is some µs more than what the client did.
    const totals = view.slowest.map(({ totalUs }) => totalUs).sort((a, b) => a - b);
    tookUs.sort((a, b) => a - b);
    totals.forEach((us, at) => expect(Math.abs(us - tookUs[at]!)).toBeLessThanOrEqual(50));
    const stages = view.stages.filter(({ kind }) => kind === "write");
    const whole = stages.filter(({ within, stage }) => within === null && stage !== "total");
    expect(whole.map(({ stage }) => stage)).toEqual(WRITE_STAGES);
    expect(whole.reduce((sum, { share }) => sum + share, 0)).toBeCloseTo(1, 2);
    expect(stages.find(({ stage }) => stage === "follower-write")!.count).toBe(40);
    const read = view.stages.filter(({ kind, stage }) => kind === "read" && stage !== "total");
    expect(read.map(({ stage }) => stage)).toEqual(READ_STAGES);
    const total = view.stages.find(({ kind, stage }) => kind === "read" && stage === "total")!;
    expect(Math.abs(total.maxUs - readUs)).toBeLessThanOrEqual(50);
  },
);

test("clocks of machines differ, and are put in the middle of request and answer", () => {
  const bench = new Bench(4);
  bench.start();
  const offsets = new Set(bench.worlds.map(({ clock }) => Math.round(clock.nowUs() / 1000)));
  expect(offsets.size).toBeGreaterThan(1);
  for (let block = 0; block < 5; block++) bench.write(block);
  bench.pass(3 * SECOND_US);
  const { typical } = bench.view();
  expect(typical!.lanes.some(({ isAligned }) => isAligned)).toBe(true);
  const { request, reply } = typical!.stagesUs;
  expect(request).toBeCloseTo(reply!, 3);
});

test("one in many is looked at, and all processes agree on which", () => {
  const bench = new Bench(5);
  bench.cluster.monitor.traces.start({ sample: 10 });
  bench.pass(SECOND_US / 10);
  for (let at = 0; at < 200; at++) bench.write(at % 50);
  bench.pass(3 * SECOND_US);
  const view = bench.view();
  expect(view.writes).toBeGreaterThan(5);
  expect(view.writes).toBeLessThan(50);
  expect(view.partial).toBe(0);
  // Entries, parts and ops are pooled: those that were looked at before leave no times in others.
  for (const op of view.slowest) {
    checkWhole(op, WRITE_STAGES);
    checkFollowers(op);
  }
});

test("a trace that everybody forgot ends by itself, also without a mon", () => {
  const bench = new Bench(6);
  bench.start(5000);
  bench.write(1);
  expect(bench.worlds.map(({ trace }) => trace.sample)).toEqual([1, 1, 1, 1]);
  bench.cluster.crashMonitor();
  bench.pass(6 * SECOND_US);
  bench.write(2);
  expect(bench.worlds.map(({ trace }) => trace.sample)).toEqual([0, 0, 0, 0]);
});

test("it ends when people want no more, and what was seen can be shown on", () => {
  const bench = new Bench(7);
  bench.start();
  bench.write(1);
  bench.cluster.monitor.traces.stop();
  bench.pass(SECOND_US / 10);
  bench.write(2);
  bench.pass(3 * SECOND_US);
  expect(bench.view()).toMatchObject({ state: "ended", writes: 1, partial: 0, secondsLeft: 0 });
  expect(bench.worlds.map(({ trace }) => trace.sample)).toEqual([0, 0, 0, 0]);
});

test("who comes while it is taken takes part, and a mon that knows of none ends it", () => {
  const bench = new Bench(8);
  bench.start();
  const [osd] = bench.cluster.osds;
  osd!.world!.crash();
  bench.cluster.startOsd(osd!);
  bench.pass(5 * SECOND_US);
  expect(osd!.world!.trace.sample).toBe(1);
  bench.cluster.restartMonitor();
  bench.pass(2 * SECOND_US);
  for (let block = 0; block < 10; block++) bench.write(block);
  bench.pass(3 * SECOND_US);
  expect(bench.worlds.map(({ trace }) => trace.sample)).toEqual([0, 0, 0, 0]);
  expect(bench.view()).toMatchObject({ state: "never", writes: 0 });
});
