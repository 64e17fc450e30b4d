import { expect, test } from "bun:test";
import { DurableMarks } from "./durable-marks.ts";

test("entries settle in order, the newest is told", () => {
  const marks = new DurableMarks();
  marks.push(1, 5, 2);
  marks.push(1, 8, 2);
  marks.push(1, 9, 2);
  expect(marks.settle()).toBe(false);
  marks.reach(8, 2);
  expect(marks.settle()).toBe(true);
  expect(marks.index).toBe(8);
  marks.reach(9, 2);
  expect(marks.settle()).toBe(true);
  expect(marks.index).toBe(9);
});

test("a hard state holds back what was handed over with and after it", () => {
  const marks = new DurableMarks();
  marks.issueHardState();
  marks.push(3, 4, 1);
  marks.reach(4, 1);
  expect(marks.settle()).toBe(false);
  marks.reachHardState();
  expect(marks.settle()).toBe(true);
  expect(marks.version).toBe(3);
});

test("a vote without entries waits for its record alone", () => {
  const marks = new DurableMarks();
  marks.reach(7, 1);
  marks.issueHardState();
  marks.push(9, 7, 1);
  expect(marks.settle()).toBe(false);
  marks.reachHardState();
  expect(marks.settle()).toBe(true);
});

test("a later term at a lower index vouches for what it replaced", () => {
  const marks = new DurableMarks();
  marks.push(1, 10, 2);
  marks.push(2, 8, 3);
  marks.reach(8, 3);
  expect(marks.settle()).toBe(true);
  expect(marks.version).toBe(2);
  expect(marks.index).toBe(8);
});

test("an old completion does not vouch for a replaced suffix", () => {
  const marks = new DurableMarks();
  marks.push(2, 8, 3);
  marks.reach(10, 2);
  expect(marks.settle()).toBe(false);
});

test("many marks under way keep their order", () => {
  const marks = new DurableMarks();
  for (let index = 1; index <= 100; index++) marks.push(index, index, 1);
  for (let index = 1; index <= 100; index++) {
    marks.reach(index, 1);
    expect(marks.settle()).toBe(true);
    expect(marks.version).toBe(index);
  }
});
