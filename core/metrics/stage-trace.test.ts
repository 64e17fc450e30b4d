import { expect, test } from "bun:test";
import {
  PEERS_AT,
  ROW_WIDTH,
  Stage,
  StageTrace,
  TraceColumn,
  TraceKind,
  TraceSide,
} from "./metrics.ts";

class TestClock {
  us = 1_000_000;

  nowUs(): number {
    return this.us;
  }
}

function newTrace(sample = 1): { clock: TestClock; trace: StageTrace } {
  const clock = new TestClock();
  const trace = new StageTrace(clock);
  trace.obey({ id: 7, sample, leftMs: 60_000 });
  return { clock, trace };
}

function openClient(trace: StageTrace, number: number): number {
  return trace.open(TraceSide.Client, TraceKind.Write, 5, 65_537, number);
}

function numbersOf(rows: readonly number[]): number[] {
  const numbers: number[] = [];
  for (let at = 0; at < rows.length; at += ROW_WIDTH) numbers.push(rows[at + TraceColumn.Number]!);
  return numbers;
}

test("a trace that is off takes no memory, keeps no row, and bears old handles", () => {
  const trace = new StageTrace(new TestClock());
  expect(openClient(trace, 1)).toBe(0);
  for (const handle of [0, 1, 4096]) {
    trace.stamp(handle, Stage.Sent);
    trace.sentTo(handle, 3);
    trace.acknowledgedBy(handle, 3);
  }
  expect(trace.take(100, true)).toEqual({ rows: [], lost: 0 });
  expect((trace as unknown as { rows: Float64Array }).rows.length).toBe(0);
});

test("a row has what was stamped, and is told once, when it has ended", () => {
  const { clock, trace } = newTrace();
  const handle = openClient(trace, 12);
  trace.stampAt(handle, Stage.Submitted, 999_000);
  trace.stamp(handle, Stage.Sent);
  expect(trace.take(100, false).rows).toEqual([]);
  clock.us += 40;
  trace.stamp(handle, Stage.Done);
  const { rows } = trace.take(100, false);
  expect(rows.length).toBe(ROW_WIDTH);
  expect(rows.slice(TraceColumn.Side, TraceColumn.Stages)).toEqual([0, 0, 5, 65_537, 12, 0, 0]);
  expect(rows[TraceColumn.Stages + Stage.Submitted]).toBe(999_000);
  expect(rows[TraceColumn.Stages + Stage.Sent]).toBe(1_000_000);
  expect(rows[TraceColumn.Stages + Stage.Done]).toBe(1_000_040);
  expect(trace.hasRows).toBe(false);
  expect(trace.take(100, true).rows).toEqual([]);
});

test("a leader's row waits a moment for who acknowledges late", () => {
  const { clock, trace } = newTrace();
  const handle = trace.open(TraceSide.Leader, TraceKind.Write, 5, 1, 2);
  for (const stage of [Stage.Received, Stage.Replied]) trace.stamp(handle, stage);
  for (const replica of [11, 12]) trace.sentTo(handle, replica);
  clock.us += 50_000;
  trace.acknowledgedBy(handle, 12);
  expect(trace.take(100, false).rows).toEqual([]);
  clock.us += 60_000;
  trace.acknowledgedBy(handle, 12);
  const { rows } = trace.take(100, false);
  expect(rows.slice(PEERS_AT, PEERS_AT + 6)).toEqual([11, 1_000_000, 0, 12, 1_000_000, 1_050_000]);
});

test("one that does not end is told all the same, after half a minute, or when somebody stops", () => {
  const { clock, trace } = newTrace();
  trace.stamp(openClient(trace, 1), Stage.Submitted);
  clock.us += 29_000_000;
  const late = openClient(trace, 2);
  trace.stamp(late, Stage.Submitted);
  trace.stamp(late, Stage.Done);
  expect(numbersOf(trace.take(100, false).rows)).toEqual([2]);
  clock.us += 2_000_000;
  trace.stamp(openClient(trace, 3), Stage.Submitted);
  expect(numbersOf(trace.take(100, false).rows)).toEqual([1]);
  expect(numbersOf(trace.take(100, true).rows)).toEqual([3]);
});

test("a full ring goes on with the newest, and counts what nobody was told of", () => {
  const { trace } = newTrace();
  const first = openClient(trace, 0);
  trace.stamp(first, Stage.Done);
  expect(numbersOf(trace.take(100, false).rows)).toEqual([0]);
  for (let number = 1; number <= 5000; number++) trace.stamp(openClient(trace, number), Stage.Done);
  trace.stamp(first, Stage.Answered);
  const told = trace.take(100, false);
  expect(told.lost).toBe(5000 - 4096);
  expect(numbersOf(told.rows)).toEqual(Array.from({ length: 100 }, (_, at) => 905 + at));
  expect(told.rows[TraceColumn.Stages + Stage.Answered]).toBe(0);
  expect(numbersOf(trace.take(10_000, false).rows).length).toBe(3996);
  expect(trace.hasRows).toBe(false);
});

test("a trace that is forgotten ends by itself, and an order to stop ends it at once", () => {
  const { clock, trace } = newTrace();
  clock.us = 61_000_000;
  expect(openClient(trace, 1)).toBe(0);
  expect(trace.sample).toBe(0);
  trace.obey({ id: 8, sample: 1, leftMs: 60_000 });
  const handle = openClient(trace, 2);
  trace.obey({ id: 8, sample: 0, leftMs: 0 });
  expect(openClient(trace, 3)).toBe(0);
  trace.stamp(handle, Stage.Done);
  expect(numbersOf(trace.take(100, false).rows)).toEqual([2]);
});

test("a new order forgets what the one before has left", () => {
  const { trace } = newTrace();
  openClient(trace, 1);
  trace.obey({ id: 9, sample: 1, leftMs: 1 });
  openClient(trace, 2);
  expect(numbersOf(trace.take(100, true).rows)).toEqual([2]);
});

test("one in so many is looked at, whatever the steps of the numbers are", () => {
  const { trace } = newTrace(100);
  for (const step of [1, 2, 100, 1024, 4096]) {
    let hits = 0;
    for (let at = 0; at < 20_000; at++) if (trace.isSampled(70_001, 65_540, at * step)) hits++;
    expect(hits).toBeGreaterThan(100);
    expect(hits).toBeLessThan(400);
  }
});

test("the end of an earlier order ends no later one, and the time ends without an operation", () => {
  const { clock, trace } = newTrace();
  trace.obey({ id: 8, sample: 1, leftMs: 1000 });
  trace.obey({ id: 7, sample: 0, leftMs: 0 });
  expect(trace.sample).toBe(1);
  clock.us += 1_000_000;
  trace.expire();
  expect(trace.sample).toBe(0);
  trace.obey({ id: 9, sample: 1, leftMs: 1000 });
  trace.obey({ id: 9, sample: 0, leftMs: 0 });
  expect(trace.sample).toBe(0);
});
