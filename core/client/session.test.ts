import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import type { PgId } from "../base/ids.ts";
import { Part, PartList } from "./part.ts";
import { PgNumbers, WINDOW_OPEN_MAX } from "./session.ts";

describe("PgNumbers", () => {
  test("numbers are dense, and below is the lowest open one", () => {
    const numbers = new PgNumbers(1 as PgId);
    const parts = [new Part(), new Part(), new Part()];
    for (const part of parts) expect(numbers.take(part)).toBe(true);
    expect(parts.map((part) => part.number)).toEqual([1, 2, 3]);
    numbers.end(parts[1]!, false);
    expect(numbers.below).toBe(1);
    numbers.end(parts[0]!, false);
    expect(numbers.below).toBe(3);
    numbers.end(parts[2]!, false);
    expect(numbers.below).toBe(4);
  });

  test("the window is full until the oldest ends", () => {
    const numbers = new PgNumbers(1 as PgId);
    const parts = Array.from({ length: WINDOW_OPEN_MAX }, () => new Part());
    for (const part of parts) expect(numbers.take(part)).toBe(true);
    const late = new Part();
    for (const part of parts.slice(1)) numbers.end(part, false);
    expect(numbers.take(late)).toBe(false);
    numbers.end(parts[0]!, false);
    expect(numbers.below).toBe(WINDOW_OPEN_MAX + 1);
    expect(numbers.take(late)).toBe(true);
  });

  test("behind one that was given up none goes out until below tells of it", () => {
    const numbers = new PgNumbers(1 as PgId);
    const parts = [new Part(), new Part(), new Part()];
    for (const part of parts) numbers.take(part);
    numbers.end(parts[1]!, true);
    const next = new Part();
    expect(numbers.take(next)).toBe(false);
    numbers.end(parts[0]!, false);
    expect(numbers.take(next)).toBe(true);
    expect([next.number, numbers.below]).toEqual([4, 3]);
    // The lowest open one is told of at once.
    numbers.end(parts[2]!, true);
    expect(numbers.take(new Part())).toBe(true);
  });

  test("what was given up is uncertain until a change tells of it", () => {
    const numbers = new PgNumbers(1 as PgId);
    const parts = [new Part(), new Part()];
    for (const part of parts) numbers.take(part);
    expect(numbers.isUncertain).toBe(false);
    numbers.end(parts[0]!, true);
    // The other one was sent while the first was open.
    numbers.onTold(1);
    numbers.end(parts[1]!, false);
    expect(numbers.isUncertain).toBe(true);
    numbers.onTold(2);
    expect(numbers.isUncertain).toBe(false);
  });

  test("any order of ends keeps below ≤ every open number, and none is given twice", () => {
    fc.assert(
      fc.property(fc.array(fc.nat({ max: 1000 }), { maxLength: 600 }), (steps) => {
        const numbers = new PgNumbers(1 as PgId);
        const open: Part[] = [];
        const given = new Set<number>();
        for (const step of steps) {
          if (step % 3 > 0) {
            const part = new Part();
            if (numbers.take(part)) {
              expect(given.has(part.number)).toBe(false);
              given.add(part.number);
              open.push(part);
            } else {
              expect(numbers.next - numbers.below).toBe(WINDOW_OPEN_MAX);
            }
          } else if (open.length > 0) {
            numbers.end(open.splice(step % open.length, 1)[0]!, false);
          }
          const lowest = Math.min(numbers.next, ...open.map((part) => part.number));
          expect(numbers.below).toBe(lowest);
        }
      }),
    );
  });
});

describe("PartList", () => {
  test("removes from head, middle and tail, and refuses a part of another list", () => {
    const list = new PartList();
    const other = new PartList();
    const [a, b, c] = [new Part(), new Part(), new Part()];
    for (const part of [a, b, c]) list.push(part);
    expect(() => other.push(b)).toThrow();
    expect(() => other.remove(b)).toThrow();
    list.remove(b);
    expect([list.head, list.tail, list.count]).toEqual([a, c, 2]);
    list.remove(a);
    list.remove(c);
    expect([list.head, list.tail, list.count]).toEqual([null, null, 0]);
    list.push(b);
    expect(list.shift()).toBe(b);
    expect(list.shift()).toBeNull();
  });
});
