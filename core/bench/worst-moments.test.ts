import { expect, test } from "bun:test";
import { parseLog, ranBetween } from "./bun-daemon-logs.ts";
import { WorstMoments } from "./worst-moments.ts";

const FROM_US = 5_000_000;

function momentsOf(ops: readonly (readonly [dueMs: number, latencyMs: number])[]): WorstMoments {
  const worst = new WorstMoments(1000);
  worst.note(FROM_US - 10_000, 9_000_000, 0);
  worst.reset(FROM_US);
  for (const [dueMs, ms] of ops) worst.note(FROM_US + dueMs * 1000, ms * 1000, ms);
  return worst;
}

test("the worst moments are told worst first, neighbours as one", () => {
  const worst = momentsOf([
    [10, 1],
    [150, 80],
    [199, 31],
    [210, 20],
    [350, 60],
    [820, 70],
    [1700, 5],
  ]);
  const dues = (most: number): number[] =>
    worst.list(most).map(({ dueUs }) => (dueUs - FROM_US) / 1000);
  // 10 and 210 lie beside 150, and 350 beside 210; 1700 is behind the end, and counts in the last.
  expect(dues(9)).toEqual([150, 820, 350, 1700]);
  expect(dues(2)).toEqual([150, 820]);
  expect(worst.list(1)).toEqual([{ dueUs: FROM_US + 150_000, latencyUs: 80_000, lateUs: 80 }]);
  expect(momentsOf([]).list(3)).toEqual([]);
});

test("logs tell what went on at a moment, the shortest first", () => {
  const line = (second: number, fields: object): string =>
    JSON.stringify({ level: "debug", time: `2026-01-02T03:04:0${second}.500Z`, ...fields });
  const logs = parseLog(
    [
      "not a line",
      '{"time":"x"}',
      line(5, { name: "osd.1/0", msg: "checkpoint written", ms: 2000, logTurns: 3.5 }),
      line(4, { name: "osd.2/0", msg: "long turn", ms: 31 }),
      line(4, { name: "osd.2/0", msg: "long turn", ms: 12 }),
      line(9, { name: "mon", msg: "map", epoch: 7 }),
      '{"time":"2026-01',
    ].join("\n"),
  );
  const at = (text: string): number => Date.parse(`2026-01-02T03:04:${text}Z`);
  expect(ranBetween(logs, at("04.490"), at("04.600"))).toEqual([
    "osd.2/0: long turn, 2 times, at most 31 ms",
    "osd.1/0: checkpoint written (logTurns 3.5), 2000 ms",
  ]);
  expect(ranBetween(logs, at("09.400"), at("09.501"))).toEqual(["mon: map (epoch 7)"]);
  expect(ranBetween(logs, at("05.501"), at("09.499"))).toEqual([]);
});
