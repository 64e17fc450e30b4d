import { expect, test } from "bun:test";
import { Status } from "../base/status.ts";
import {
  PEERS_AT,
  ROW_WIDTH,
  Stage,
  TraceColumn,
  TraceKind,
  TraceSide,
} from "../metrics/metrics.ts";
import { TraceService } from "./trace-service.ts";
import type { TraceView } from "./schema-trace.ts";

type Stamps = Partial<Record<keyof typeof Stage, number>>;

/** A row as a process tells it. */
function rowOf(
  side: TraceSide,
  stamps: Stamps,
  more: {
    readonly number?: number;
    readonly replica?: number;
    readonly status?: Status;
    readonly kind?: TraceKind;
    readonly peers?: readonly number[];
  } = {},
): number[] {
  const row = new Array<number>(ROW_WIDTH).fill(0);
  row[TraceColumn.Side] = side;
  row[TraceColumn.Kind] = more.kind ?? TraceKind.Write;
  row[TraceColumn.Session] = 5;
  row[TraceColumn.Pg] = 65_536;
  row[TraceColumn.Number] = more.number ?? 1;
  row[TraceColumn.Replica] = more.replica ?? 0;
  row[TraceColumn.Status] = more.status ?? Status.Ok;
  for (const [stage, us] of Object.entries(stamps)) {
    row[TraceColumn.Stages + Stage[stage as keyof typeof Stage]] = us;
  }
  more.peers?.forEach((value, at) => {
    row[PEERS_AT + at] = value;
  });
  return row;
}

const CLIENT: Stamps = { Submitted: 1000, Sent: 1010, Answered: 1400, Done: 1405 };
const LEADER: Stamps = {
  ...{ Received: 1050, Proposed: 1070, Logged: 1080, Durable: 1300 },
  ...{ Committed: 1340, Replied: 1350, Applied: 1355 },
};
const FOLLOWER: Stamps = { Received: 1100, Logged: 1120, Durable: 1310, Acknowledged: 1320 };

class Bench {
  nowUs = 1_000_000;
  readonly orders: number[] = [];
  readonly service: TraceService = new TraceService({
    nowUs: () => this.nowUs,
    wallMs: () => 1_700_000_000_000.5,
    formatTime: (ms) => new Date(ms).toISOString(),
    order: ({ sample }) => this.orders.push(sample),
  });

  constructor() {
    this.service.start({ sample: 3 });
  }

  tell(
    process: string,
    rows: readonly number[],
    more: { width?: number; lost?: number; shard?: number } = {},
  ): boolean {
    return this.service.hear(process, process.startsWith("osd."), {
      $typeName: "fastblock.control.TraceTellRequest",
      id: this.id,
      shard: more.shard ?? 0,
      width: more.width ?? ROW_WIDTH,
      rows: [...rows],
      lost: BigInt(more.lost ?? 0),
    });
  }

  id = 1_700_000_000_000n;

  view(): TraceView {
    return this.service.view(10);
  }
}

test("an operation is shown when its client and its leader have told of it", () => {
  const bench = new Bench();
  expect(bench.orders).toEqual([3]);
  bench.tell("osd.0", rowOf(TraceSide.Leader, LEADER, { peers: [11, 1075, 1340] }));
  expect(bench.view()).toMatchObject({ writes: 0, partial: 1, typical: null });
  bench.tell("osd.1", rowOf(TraceSide.Follower, FOLLOWER, { replica: 11 }), { lost: 4 });
  bench.tell("nbd.0", rowOf(TraceSide.Client, CLIENT));
  const view = bench.view();
  expect(view).toMatchObject({ state: "on", writes: 1, partial: 0, rowsLost: 4 });
  expect(view.processes).toEqual(["nbd.0", "osd.0", "osd.1"]);
  expect(view.typical).toMatchObject({ pg: "1.0", totalUs: 405, slowestFollower: "osd.1" });
  expect(view.typical!.stagesUs).toEqual({
    ...{ client: 10, request: 40, admit: 20, replicate: 270 },
    ...{ answer: 10, reply: 50, finish: 5 },
  });
  const shares = view.stages.map(({ stage, share }) => [stage, share]);
  expect(shares).toContainEqual(["replicate", 0.6667]);
  expect(shares).toContainEqual(["follower-write", 0.4691]);
  expect(shares.slice(-2)).toEqual([
    ["total", 1],
    ["apply", 0.037],
  ]);
});

test("a process with another clock is put in the middle, and its stages stay as long as they were", () => {
  const bench = new Bench();
  const shifted = Object.fromEntries(
    Object.entries(LEADER).map(([stage, us]) => [stage, us + 5_000_000]),
  );
  const peers = [11, 5_001_075, 5_001_340];
  bench.tell("osd.0", rowOf(TraceSide.Leader, shifted, { peers }));
  const other = Object.fromEntries(
    Object.entries(FOLLOWER).map(([stage, us]) => [stage, us - 900]),
  );
  bench.tell("osd.1", rowOf(TraceSide.Follower, other, { replica: 11 }));
  bench.tell("nbd.0", rowOf(TraceSide.Client, CLIENT));
  const { typical } = bench.view();
  expect(typical!.lanes.map(({ isAligned }) => isAligned)).toEqual([false, true, true]);
  // 390 µs between the first word and the last, of which the leader had 300.
  expect(typical!.stagesUs).toMatchObject({ request: 45, replicate: 270, reply: 45 });
  const follower = typical!.bars.filter(({ lane }) => lane === 2);
  expect(follower.map(({ fromUs, toUs }) => toUs - fromUs)).toEqual([22.5, 20, 190, 32.5]);
});

test("a request that came again, or to two leaders, is one operation", () => {
  const bench = new Bench();
  const { Replied: _, ...unanswered } = LEADER;
  const refused = { Received: 1020, Replied: 1030 };
  bench.tell("osd.2", rowOf(TraceSide.Leader, refused, { status: Status.NotLeader }));
  bench.tell("osd.0", rowOf(TraceSide.Leader, unanswered, { status: Status.Unknown }));
  bench.tell("osd.0", rowOf(TraceSide.Leader, { Received: 1200, Replied: 1350 }));
  bench.tell("nbd.0", rowOf(TraceSide.Client, CLIENT));
  const view = bench.view();
  expect(view).toMatchObject({ writes: 1, partial: 0 });
  expect(view.typical).toMatchObject({ leader: "osd.0", totalUs: 405 });
  expect(view.typical!.stagesUs).toMatchObject({ request: 40, admit: 20, answer: 10 });
});

test("what failed, or has no end yet, counts as in part", () => {
  const bench = new Bench();
  bench.tell("osd.0", rowOf(TraceSide.Leader, LEADER));
  bench.tell("nbd.0", rowOf(TraceSide.Client, CLIENT, { status: Status.TimedOut }));
  bench.tell("nbd.0", rowOf(TraceSide.Client, { Submitted: 5 }, { number: 2 }));
  expect(bench.view()).toMatchObject({ writes: 0, partial: 2, stages: [] });
});

test("rows with columns of a later program are read, shorter ones and broken ones are not", () => {
  const bench = new Bench();
  const wide = [...rowOf(TraceSide.Leader, LEADER), 7, 8];
  bench.tell("osd.0", [...wide, ...wide.slice(0, 9)], { width: ROW_WIDTH + 2 });
  bench.tell("nbd.0", rowOf(TraceSide.Client, CLIENT));
  expect(bench.view().writes).toBe(1);
  bench.tell("nbd.0", rowOf(TraceSide.Client, CLIENT, { number: 9 }).slice(2), {
    width: ROW_WIDTH - 2,
  });
  expect(bench.view().partial).toBe(0);
});

test("reads have stages of their own, and are drawn when there are no writes", () => {
  const bench = new Bench();
  const kind = TraceKind.Read;
  const leader = { Received: 1050, Looked: 1300, Replied: 1350 };
  bench.tell("osd.0", rowOf(TraceSide.Leader, leader, { kind }));
  bench.tell("nbd.0", rowOf(TraceSide.Client, CLIENT, { kind }));
  const { reads, typical } = bench.view();
  expect(reads).toBe(1);
  expect(typical!.stagesUs).toMatchObject({ request: 40, look: 250, answer: 50, reply: 50 });
});

test("rows of another order are not wanted; a new start forgets; the slowest come first", () => {
  const bench = new Bench();
  bench.id -= 1n;
  expect(bench.tell("nbd.0", rowOf(TraceSide.Client, CLIENT))).toBe(false);
  bench.id += 1n;
  for (let number = 1; number <= 5; number++) {
    bench.tell("osd.0", rowOf(TraceSide.Leader, LEADER, { number }));
    bench.tell("nbd.0", rowOf(TraceSide.Client, { ...CLIENT, Done: 1405 + number }, { number }));
  }
  expect(bench.service.view(2).slowest.map(({ number }) => number)).toEqual([5, 4]);
  expect(bench.view().typical!.number).toBe(3);
  bench.nowUs += 59_000_000;
  expect(bench.view()).toMatchObject({ state: "on", secondsLeft: 1 });
  bench.nowUs += 1_000_000;
  expect(bench.view()).toMatchObject({ state: "ended", secondsLeft: 0 });
  expect(bench.service.order).toBeUndefined();
  bench.service.start({});
  expect(bench.view()).toMatchObject({ state: "on", sample: 100, writes: 0, processes: [] });
  expect(bench.tell("nbd.0", rowOf(TraceSide.Client, CLIENT))).toBe(false);
});

test("a client tells of itself alone, and nobody more than a group has members", () => {
  const bench = new Bench();
  bench.tell("cli.7", rowOf(TraceSide.Leader, LEADER), { shard: 3 });
  expect(bench.view()).toMatchObject({ partial: 0, processes: ["cli.7"] });
  bench.tell("nbd.0", rowOf(TraceSide.Client, CLIENT));
  bench.tell("osd.0", rowOf(TraceSide.Leader, LEADER));
  for (let shard = 1; shard <= 100; shard++) {
    bench.tell("osd.1", rowOf(TraceSide.Follower, FOLLOWER, { replica: 11 }), { shard });
  }
  const view = bench.view();
  const followers = view.stages.find(({ stage }) => stage === "follower-write");
  expect([view.writes, (followers?.count ?? 0) <= 16]).toEqual([1, true]);
});
