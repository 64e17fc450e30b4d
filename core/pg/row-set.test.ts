import { expect, test } from "bun:test";
import { RowSet } from "./row-set.ts";

test("a set of rows holds what was added and not deleted", () => {
  const set = new RowSet();
  for (const row of [70, 0, 31, 32, 70, 4000]) set.add(row);
  expect(set.list()).toEqual([0, 31, 32, 70, 4000]);
  expect(set.size).toBe(5);
  for (const row of [31, 31, 5, 100_000]) set.delete(row);
  expect(set.list()).toEqual([0, 32, 70, 4000]);
  expect(set.size).toBe(4);
  expect([set.has(32), set.has(31), set.has(1_000_000)]).toEqual([true, false, false]);
});
