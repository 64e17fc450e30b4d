import { expect, test } from "bun:test";
import { makesGarbage } from "../base/bun-garbage-harness.ts";
import { STAGE_COUNT, StageTrace, TraceColumn, TraceKind, TraceSide } from "./metrics.ts";

const OPERATIONS = 64;
const TURNS = 8000;

test("operations that are looked at leave their times without garbage", () => {
  let us = 1_000_000;
  let number = 0;
  let seen = 0;
  const trace = new StageTrace({ nowUs: () => us });
  trace.obey({ id: 1, sample: 1, leftMs: 3_600_000_000 });
  const operation = (): void => {
    us += 1;
    number += 1;
    if (!trace.isSampled(5, 65_537, number)) return;
    seen += 1;
    const handle = trace.open(TraceSide.Leader, TraceKind.Write, 5, 65_537, number);
    for (let stage = 0; stage < STAGE_COUNT; stage++) trace.stamp(handle, stage);
    trace.sentTo(handle, 11);
    trace.acknowledgedBy(handle, 11);
    trace.note(handle, TraceColumn.Status, 0);
  };
  const place: unknown[] = [null];
  const turn = (): void => {
    for (let count = 0; count < OPERATIONS; count++) operation();
  };
  const control = (): void => {
    for (let count = 0; count < OPERATIONS; count++) {
      operation();
      if (count % 2 === 0) place[0] = { number };
    }
  };
  expect(makesGarbage(TURNS, turn, control)).toBe(false);
  expect(seen).toBeGreaterThan(OPERATIONS * TURNS);
});
