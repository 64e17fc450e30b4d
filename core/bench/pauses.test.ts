import { expect, test } from "bun:test";
import { judgePauses, type PauseEvent, type Pauses, runPauses } from "./pauses.ts";

/** Answers what it is told to, one after the other. */
class Script {
  readonly events: PauseEvent[] = [];
  readonly said: string[] = [];
  private readonly own: number[];

  constructor(own: readonly number[]) {
    this.own = [...own];
  }

  during(event: PauseEvent): Promise<Pauses> {
    this.events.push(event);
    return Promise.resolve({ ownMs: this.own.shift()!, elsewhereMs: this.events.length });
  }

  say(words: string): void {
    this.said.push(words);
  }
}

const ROUND: readonly PauseEvent[] = ["kill", "kill-back", "stop", "stop-back", "freeze", "mon"];

test("each event happens so often, in turns, and who went comes back before the next", async () => {
  const script = new Script([
    ...[410.04, 20, 30, 8, 1500, 3],
    ...[980, 21, 49, 9, 1990, 2],
    ...[505, 19, 31, 7, 1600, 5],
  ]);
  const rows = await runPauses(script, 3);
  expect(script.events).toEqual([...ROUND, ...ROUND, ...ROUND]);
  expect(script.said[6]).toBe("2 of 3: leader killed: 980 ms, elsewhere 7 ms");
  expect(rows[0]).toEqual({
    name: "leader killed",
    event: "kill",
    ownMs: [410.04, 980, 505],
    elsewhereMs: [1, 7, 13],
    p50Ms: 505,
    maxMs: 980,
    elsewhereMaxMs: 13,
  });
  const bars = judgePauses(rows).filter(({ verdict }) => verdict === "FAIL");
  expect(bars.map(({ row, figure, seen }) => [row, figure, seen])).toEqual([
    ["leader killed", "ms that a writer stands still, p50", 505],
  ]);
});

test("of two the shorter one is the median; a pause that is longer than the aim fails", async () => {
  const rows = await runPauses(new Script([400, 101, 50.1, 3, 2001, 1, 1001, 1, 1, 1, 1, 100]), 2);
  expect(rows[0]!.p50Ms).toBe(400);
  const failed = judgePauses(rows).filter(({ verdict }) => verdict === "FAIL");
  expect(failed.map(({ row, wanted }) => [row, wanted])).toEqual([
    ["leader killed", 1000],
    ["osd back after a kill", 100],
    ["osd stopped in order", 50],
    ["leader frozen", 2000],
  ]);
  expect(judgePauses(rows)).toHaveLength(13);
});
