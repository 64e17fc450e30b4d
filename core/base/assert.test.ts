import { expect, test } from "bun:test";
import { AssertionError, failOnBug } from "./assert.ts";

test.each<[string, unknown, boolean]>([
  ["a broken invariant ends the process", new AssertionError("x"), true],
  ["memory that ran out ends the process", new RangeError("Out of memory"), true],
  ["another wrong range does not", new RangeError("Invalid array length"), false],
  ["an error of those words does not", new Error("Out of memory"), false],
  ["nothing does not", undefined, false],
])("%s", (_, error, ends) => {
  const failed: unknown[] = [];
  expect(failOnBug({ fail: (what) => void failed.push(what) }, error)).toBe(ends);
  expect(failed).toEqual(ends ? [error] : []);
});
