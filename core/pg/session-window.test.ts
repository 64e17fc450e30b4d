import { describe, expect, test } from "bun:test";
import { Prng } from "../base/prng.ts";
import {
  NumberState,
  SESSIONS_MAX,
  SessionTable,
  SessionWindow,
  WINDOW_SIZE,
} from "./session-window.ts";

describe("SessionWindow", () => {
  test("a number is fresh once, applied afterwards, in any order", () => {
    const window = new SessionWindow(7);
    expect(window.stateOf(0, 0)).toBe(NumberState.Fresh);
    window.mark(3, 0);
    expect(window.stateOf(3, 0)).toBe(NumberState.Applied);
    expect(window.stateOf(2, 0)).toBe(NumberState.Fresh);
    window.mark(2, 0);
    expect(window.stateOf(2, 0)).toBe(NumberState.Applied);
  });

  test("numbers past the window wait until below moves it", () => {
    const window = new SessionWindow(7);
    expect(window.stateOf(WINDOW_SIZE - 1, 0)).toBe(NumberState.Fresh);
    expect(window.stateOf(WINDOW_SIZE, 0)).toBe(NumberState.TooFar);
    window.mark(9, 5);
    expect(window.base).toBe(5);
    expect(window.stateOf(4, 0)).toBe(NumberState.Applied);
    expect(window.stateOf(WINDOW_SIZE + 4, 0)).toBe(NumberState.Fresh);
    expect(window.stateOf(WINDOW_SIZE + 5, 0)).toBe(NumberState.TooFar);
  });

  test("moving the base clears what its bits meant before", () => {
    const window = new SessionWindow(7);
    for (let number = 0; number < WINDOW_SIZE; number++) window.mark(number, 0);
    window.mark(WINDOW_SIZE + 10, WINDOW_SIZE + 5);
    expect(window.stateOf(WINDOW_SIZE + 6, 0)).toBe(NumberState.Fresh);
    expect(window.stateOf(WINDOW_SIZE + 10, 0)).toBe(NumberState.Applied);
    window.mark(5 * WINDOW_SIZE, 5 * WINDOW_SIZE);
    expect(window.stateOf(5 * WINDOW_SIZE + 10, 0)).toBe(NumberState.Fresh);
  });

  test("agrees with a set of all applied numbers", () => {
    const random = new Prng(20_261_121);
    for (let round = 0; round < 50; round++) {
      const window = new SessionWindow(1);
      const applied = new Set<number>();
      let below = 0;
      for (let step = 0; step < 400; step++) {
        const number = window.base + random.below(WINDOW_SIZE);
        const wanted = applied.has(number) ? NumberState.Applied : NumberState.Fresh;
        expect(window.stateOf(number, 0)).toBe(wanted);
        if (wanted === NumberState.Applied) continue;
        applied.add(number);
        window.mark(number, Math.min(below, number));
        while (applied.has(below) && random.below(3) > 0) below++;
      }
    }
  });
});

test("numbers whose requests were given up do not close the window", () => {
  const window = new SessionWindow(7);
  expect(window.stateOf(300, 0)).toBe(NumberState.TooFar);
  expect(window.stateOf(300, 290)).toBe(NumberState.Fresh);
  window.mark(300, 290);
  expect(window.stateOf(300, 290)).toBe(NumberState.Applied);
});

test("a client with as many open numbers as the window has fits, whatever is applied first", () => {
  const random = new Prng(20_261_122);
  for (let round = 0; round < 20; round++) {
    const window = new SessionWindow(1);
    let next = 1;
    let below = 1;
    const sent: { number: number; below: number }[] = [];
    const applied = new Set<number>();
    const answered = new Set<number>();
    for (let step = 0; step < 4000; step++) {
      if (random.below(2) === 0 && next - below < WINDOW_SIZE) {
        sent.push({ number: next, below });
        next += 1;
        continue;
      }
      // Any request on its way arrives now, an old copy of one that was answered as well.
      const one = sent[random.below(sent.length)];
      if (one === undefined) continue;
      const state = window.stateOf(one.number, one.below);
      const isDone = applied.has(one.number) || one.number < window.base;
      expect(state).toBe(isDone ? NumberState.Applied : NumberState.Fresh);
      if (state === NumberState.Fresh) window.mark(one.number, one.below);
      applied.add(one.number);
      if (random.below(3) > 0) answered.add(one.number);
      while (answered.has(below)) below += 1;
      if (sent.length > 2 * WINDOW_SIZE) sent.splice(0, WINDOW_SIZE);
      // The client asks again for what it has no answer to, with what it knows by now.
      const open = below + random.below(Math.max(1, next - below));
      if (open < next && !answered.has(open)) sent.push({ number: open, below });
    }
    expect(next).toBeGreaterThan(WINDOW_SIZE * 2);
  }
});

describe("SessionTable", () => {
  test("an ended session's late request is refused, a newer session is not", () => {
    const table = new SessionTable();
    table.apply(10, 0, 0, 1);
    table.apply(12, 0, 0, 2);
    table.end(12);
    expect(table.accepts(10)).toBe(true);
    expect(table.accepts(12)).toBe(false);
    expect(table.accepts(13)).toBe(true);
  });

  test("the session used longest ago is forgotten, and refused from then on", () => {
    const table = new SessionTable();
    for (let session = 1; session <= SESSIONS_MAX; session++) table.apply(session, 0, 0, session);
    table.apply(1, 1, 1, SESSIONS_MAX + 1);
    table.apply(SESSIONS_MAX + 1, 0, 0, SESSIONS_MAX + 2);
    expect(table.size).toBe(SESSIONS_MAX);
    expect(table.find(2)).toBeUndefined();
    expect(table.accepts(2)).toBe(false);
    expect(table.accepts(1)).toBe(true);
  });

  test("G4: an entry of a session that was forgotten meanwhile brings no window back", () => {
    const table = new SessionTable(2);
    // Number 0 was applied; its answer is lost, and it comes again.
    table.apply(1, 0, 0, 1);
    table.apply(2, 0, 0, 2);
    table.apply(3, 0, 0, 3);
    expect(table.accepts(1)).toBe(false);
    // Number 1 was proposed before that.
    table.apply(1, 1, 0, 4);
    expect(table.accepts(1)).toBe(false);
    expect(table.list().map(({ session }) => session)).toEqual([2, 3]);
  });

  test("what is proposed is told as by a look at each entry that is not applied", () => {
    const random = new Prng(20_261_123);
    for (let round = 0; round < 20; round++) {
      const table = new SessionTable(4);
      const log: { session: number; number: number; below: number }[] = [];
      let applied = 0;
      let old = 0;
      const next = new Map<number, number>();
      for (let step = 0; step < 3000; step++) {
        const session = 1 + random.below(3);
        const newest = next.get(session) ?? 1;
        const number = Math.max(1, newest - random.below(3) * random.below(120));
        const below = Math.max(0, number - random.below(3) * random.below(100));
        if (random.below(8) === 0 && applied < log.length) {
          const one = log[applied]!;
          applied += 1;
          table.apply(one.session, one.number, one.below, applied);
        }
        // A new leader begins with a log that is applied.
        if (random.below(200) === 0) {
          log.length = applied;
          table.dropProposed();
        }
        const state = table.find(session)?.stateOf(number, below) ?? NumberState.Fresh;
        if (state !== NumberState.Fresh || number >= newest + WINDOW_SIZE) continue;
        const isOld = log
          .slice(applied)
          .some((one) => one.session === session && (one.number === number || one.below > number));
        expect(table.isProposed(session, number, below, applied)).toBe(isOld);
        if (isOld) old += 1;
        if (isOld || (table.find(session) === undefined && number >= below + WINDOW_SIZE)) continue;
        log.push({ session, number, below });
        table.propose(session, number, below, log.length, applied);
        next.set(session, Math.max(newest, number + 1));
      }
      expect(old).toBeGreaterThan(100);
    }
  });

  test("sessions of which everything is applied make room for what is proposed", () => {
    const table = new SessionTable(2);
    table.propose(1, 1, 1, 1, 0);
    table.propose(2, 1, 1, 2, 0);
    table.apply(1, 1, 1, 1);
    table.propose(3, 1, 1, 3, 1);
    const known = [1, 2, 3].map((session) => table.isProposed(session, 1, 1, 0));
    expect(known).toEqual([false, true, true]);
  });

  test("what is restored classifies as before", () => {
    const table = new SessionTable();
    table.apply(5, 300, 290, 1);
    const window = table.find(5)!;
    const copy = new SessionTable();
    copy.restore(5, window.base, window.bits, window.lastIndex);
    for (let number = 0; number < 700; number++) {
      expect(copy.find(5)!.stateOf(number, 0)).toBe(window.stateOf(number, 0));
    }
  });
});
