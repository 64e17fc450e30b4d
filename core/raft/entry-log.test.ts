import { expect, test } from "bun:test";
import { Prng } from "../base/prng.ts";
import { EntryLog } from "./entry-log.ts";
import { ENTRY_KIND_CONF } from "./message.ts";

test("the log agrees with a plain list through appends, truncations and compactions", () => {
  for (let seed = 1; seed <= 40; seed++) {
    const random = new Prng(seed);
    const start = random.below(1000);
    const log = new EntryLog(start, 1);
    // Index → (term, kind); the base has a term only.
    const model: Map<number, [number, number]> = new Map();
    let base = start;
    let last = start;
    const terms: Map<number, number> = new Map([[start, 1]]);
    for (let step = 0; step < 600; step++) {
      const action = random.below(20);
      if (action < 15) {
        const term = (terms.get(last) ?? 0) + (random.below(8) === 0 ? 1 : 0);
        const kind = random.below(10) === 0 ? ENTRY_KIND_CONF : 2;
        last++;
        expect(log.append(term, kind)).toBe(last);
        model.set(last, [term, kind]);
        terms.set(last, term);
      } else if (action < 17 && last > base) {
        const from = base + 1 + random.below(last - base);
        log.truncateFrom(from);
        last = from - 1;
      } else if (last > base) {
        base += random.below(last - base + 1);
        log.compactTo(base);
      }
      log.invariants();
      expect([log.baseIndex, log.lastIndex, log.lastTerm]).toEqual([base, last, terms.get(last)!]);
    }
    let conf = 0;
    for (let index = base + 1; index <= last; index++) {
      const [term, kind] = model.get(index)!;
      expect([log.termAt(index), log.kindAt(index)]).toEqual([term, kind]);
      if (kind === ENTRY_KIND_CONF) conf++;
    }
    expect(log.confCount(0, last)).toBe(conf);
    expect(log.termAt(base - 1)).toBe(-1);
    expect(log.termAt(last + 1)).toBe(-1);
  }
});

test("an empty log holds no rows, and compaction gives memory back", () => {
  const log = new EntryLog(0, 0);
  for (let n = 0; n < 5000; n++) log.append(1, 2);
  log.compactTo(4990);
  for (let n = 0; n < 6; n++) log.append(2, 2);
  expect(log.termAt(4996)).toBe(1);
  expect(log.termAt(5001)).toBe(2);
  expect(Reflect.get(log, "terms")).toHaveLength(32);
  log.compactTo(log.lastIndex);
  expect(Reflect.get(log, "terms")).toHaveLength(0);
});

test("findConflict skips a whole term", () => {
  const log = new EntryLog(10, 1);
  for (const term of [2, 2, 2, 5, 5, 5]) log.append(term, 2);
  for (const [index, term, answer] of [
    [16, 5, 16],
    [16, 4, 13],
    [99, 4, 13],
    [14, 1, 10],
    [12, 9, 12],
    [7, 9, 7],
    [16, 0, 10],
  ] as const) {
    expect([index, term, log.findConflict(index, term)]).toEqual([index, term, answer]);
  }
});

test("indexes far above 2^32 work, as after force-quorum", () => {
  const start = 5 * 4_294_967_296 + 7;
  const log = new EntryLog(start, 3);
  for (let n = 1; n <= 100; n++) log.append(3 + (n >> 4), 2);
  expect(log.termAt(start + 33)).toBe(5);
  log.truncateFrom(start + 34);
  expect(log.lastIndex).toBe(start + 33);
});
