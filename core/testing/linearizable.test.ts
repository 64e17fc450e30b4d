import { describe, expect, test } from "bun:test";
import { Prng } from "../base/prng.ts";
import { checkRegisters } from "./linearizable.ts";
import {
  INITIAL_VALUE,
  parseHistory,
  RegisterHistory,
  type RegisterOperation,
} from "./linearizable-history.ts";

/** One register, as text: kind, value, call, return; `-` never returns. */
function operations(text: string): RegisterOperation[] {
  return text.split(",").map((line, client) => {
    const [kind, value, call, end] = line.trim().split(/\s+/);
    const returnNs = end === "-" ? Infinity : Number(end);
    const isWrite = kind === "w";
    return { key: 1, client, isWrite, value: Number(value), callNs: Number(call), returnNs };
  });
}

function historyOf(all: readonly RegisterOperation[]): RegisterHistory {
  const history = new RegisterHistory();
  for (const one of all) history.add(one);
  return history;
}

/** Try every order; the meaning of the word itself. */
function isRight(all: readonly RegisterOperation[], value = INITIAL_VALUE): boolean {
  if (all.every(({ returnNs }) => returnNs === Infinity)) return true;
  return all.some((first) => {
    if (all.some((other) => other.returnNs < first.callNs)) return false;
    if (!first.isWrite && first.value !== value) return false;
    const rest = all.filter((other) => other !== first);
    return isRight(rest, first.isWrite ? first.value : value);
  });
}

const TIMES = 14;

/** A history of a register that behaves: each operation has its moment between call and return. */
function behaving(random: Prng, repeats: boolean): RegisterOperation[] {
  const count = 1 + random.below(7);
  let written = 0;
  const moments = Array.from({ length: count }, (_none, client) => {
    const times = [random.below(TIMES), random.below(TIMES), random.below(TIMES)];
    const [callNs, moment, endNs] = times.sort((left, right) => left - right);
    const isWrite = random.below(2) === 0;
    const answered = !isWrite || random.below(4) > 0;
    written += 1;
    const value = !isWrite ? 0 : repeats ? random.below(3) : written;
    // Without an answer: it may have its moment at any time later, or none.
    const late = answered
      ? moment!
      : moment! + (random.below(3) === 0 ? 1000 : random.below(TIMES));
    const returnNs = answered ? endNs! : Infinity;
    return {
      client,
      isWrite,
      value,
      callNs: callNs!,
      returnNs,
      moment: late + random.below(9) / 10,
    };
  });
  moments.sort((left, right) => left.moment - right.moment);
  let value = INITIAL_VALUE;
  return moments.map(({ moment: _moment, ...one }) => {
    if (one.isWrite) value = one.value;
    return { ...one, key: 1, value };
  });
}

/** Change one thing: what was seen, or when. */
function disturbed(random: Prng, all: readonly RegisterOperation[]): RegisterOperation[] {
  const at = random.below(all.length);
  return all.map((one, index) => {
    if (index !== at) return one;
    if (!one.isWrite && random.below(3) > 0) return { ...one, value: random.below(5) };
    const shift = random.below(TIMES) - TIMES / 2;
    return { ...one, callNs: one.callNs + shift, returnNs: one.returnNs + shift };
  });
}

describe("checkRegisters", () => {
  test("judges thousands of small histories as trying every order does", () => {
    const random = new Prng(20_261_121);
    const seen = { right: 0, wrong: 0, unanswered: 0, repeated: 0 };
    for (let round = 0; round < 12_000; round++) {
      const repeats = random.below(2) === 0;
      let all = behaving(random, repeats);
      for (let left = random.below(3); left > 0; left--) all = disturbed(random, all);
      const wanted = isRight(all);
      const { violations, searched, unanswered } = checkRegisters(historyOf(all));
      const told = `round ${String(round)}: ${JSON.stringify(all)}\n${violations.join("\n")}`;
      expect(violations.length === 0, told).toBe(wanted);
      // Both ways must agree where the values alone decide.
      expect(checkRegisters(historyOf(all), true).violations.length === 0, told).toBe(wanted);
      seen[wanted ? "right" : "wrong"] += 1;
      seen.unanswered += unanswered;
      seen.repeated += searched;
    }
    expect(Math.min(seen.right, seen.wrong, seen.unanswered, seen.repeated)).toBeGreaterThan(2000);
  });

  test.each([
    ["a stale read", "w 1 0 1, w 2 2 3, r 1 4 5", "1 must come before 2 and after it"],
    ["a read of what nobody wrote", "w 1 0 1, r 7 2 3", "nobody wrote that"],
    ["a read of the future", "r 1 0 1, w 1 2 3", "it ended before write of 1"],
    ["new, then old", "w 1 0 1, w 2 2 9, r 2 3 4, r 1 5 6", "1 must come before 2"],
    ["a lost write", "w 1 0 1, r 0 2 3", "the block began with 0"],
    ["an unanswered write undone", "w 1 0 1, w 2 2 -, r 2 3 4, r 1 5 6", "1 must come before 2"],
    ["zeros that come back", "w 0 0 1, w 5 2 3, r 5 4 5, r 0 6 7", "fits into no order"],
    ["one unanswered zero seen twice", "w 0 0 -, w 1 1 2, r 0 3 4, w 1 5 6, r 0 7 8", "no order"],
  ])("tells of %s", (_what, text, wanted) => {
    const { violations } = checkRegisters(historyOf(operations(text)));
    expect(violations).toHaveLength(1);
    expect(violations[0]).toStartWith("block 1: ");
    expect(violations[0]).toContain(wanted);
  });

  test.each([
    ["nothing but the beginning", "r 0 0 1"],
    ["touching operations overlap", "w 1 0 2, r 0 2 3"],
    ["an unanswered write seen late", "w 1 0 -, w 2 1 2, r 2 3 4, r 1 5 6"],
    ["an unanswered write never seen", "w 1 0 -, w 2 1 2, r 2 3 4"],
    ["two unanswered zeros", "w 0 0 -, w 0 0 -, w 1 1 2, r 0 3 4, w 1 5 6, r 0 7 8"],
    ["reads of an open write in both orders", "w 1 0 9, r 0 1 2, r 1 3 4"],
  ])("accepts %s", (_what, text) => {
    expect(checkRegisters(historyOf(operations(text))).violations).toEqual([]);
  });

  test("judges each key alone, in the order of the keys", () => {
    const stale = operations("w 1 0 1, w 2 2 3, r 1 4 5");
    const history = historyOf([
      ...stale.map((one) => ({ ...one, key: 9 })),
      ...operations("w 1 0 1, r 1 2 3").map((one) => ({ ...one, key: 5 })),
      ...stale.map((one) => ({ ...one, key: 2 })),
    ]);
    const { violations, keys, operations: count } = checkRegisters(history);
    expect({ keys, count }).toEqual({ keys: 3, count: 8 });
    expect(violations.map((text) => text.slice(0, 8))).toEqual(["block 2:", "block 9:"]);
  });

  test("judges a hundred thousand operations of clients that overlap", () => {
    const history = manyClients(new Prng(3), 100_000);
    const verdict = checkRegisters(history);
    expect(verdict.violations).toEqual([]);
    expect(verdict.searched).toBeGreaterThan(0);
    expect(verdict.searched).toBeLessThan(verdict.keys);
    const { value } = history.at(history.count - 1);
    history.add({ ...history.at(0), isWrite: false, callNs: 1e12, returnNs: 1e12, value: -value });
    expect(checkRegisters(history).violations).toHaveLength(1);
  });
});

/** Twelve clients on eight registers, one operation each at a time; half of the keys get zeros. */
function manyClients(random: Prng, count: number): RegisterHistory {
  const history = new RegisterHistory();
  const values = new Float64Array(8);
  const freeNs = new Float64Array(12);
  for (let at = 1; at <= count; at++) {
    // Moments come in the order of `at`; calls and returns reach around them.
    const client = at % 12;
    const key = random.below(8);
    const isWrite = random.below(2) === 0;
    if (isWrite) values[key] = key < 4 && random.below(5) === 0 ? 0 : at;
    const callNs = Math.max(freeNs[client]!, at * 10 - random.below(60));
    const answered = !isWrite || random.below(500) > 0;
    freeNs[client] = at * 10 + random.below(60);
    const returnNs = answered ? freeNs[client] : Infinity;
    history.add({ key, client, isWrite, value: values[key]!, callNs, returnNs });
  }
  return history;
}

test("a history of the load generator becomes operations", () => {
  const history = new RegisterHistory();
  parseHistory(
    [
      '{"key":3,"kind":"write","value":7,"call":10,"return":20,"ok":true}',
      '{"key":3,"kind":"write","value":8,"call":30,"return":40,"ok":false}',
      '{"key":3,"kind":"read","value":null,"call":30,"return":40,"ok":false}',
      '{"key":4,"kind":"read","value":0,"call":50,"return":60,"ok":true}',
      "",
    ].join("\n"),
    2,
    history,
  );
  const common = { client: 2, key: 3 };
  expect([0, 1, 2].map((at) => history.at(at))).toEqual([
    { ...common, isWrite: true, value: 7, callNs: 10, returnNs: 20 },
    { ...common, isWrite: true, value: 8, callNs: 30, returnNs: Infinity },
    { ...common, key: 4, isWrite: false, value: 0, callNs: 50, returnNs: 60 },
  ]);
  expect(history.count).toBe(3);
});
