import { expect, test } from "bun:test";
import { DurableMarks } from "./durable-marks.ts";

test("entries settle in order, the newest is told", () => {
  const marks = new DurableMarks();
  marks.push(1, 5);
  marks.push(1, 8);
  marks.push(1, 9);
  expect(marks.settle()).toBe(false);
  marks.reach(8);
  expect(marks.settle()).toBe(true);
  expect(marks.index).toBe(8);
  marks.reach(9);
  expect(marks.settle()).toBe(true);
  expect(marks.index).toBe(9);
});

test("a hard state holds back what was handed over with and after it", () => {
  const marks = new DurableMarks();
  marks.issueHardState();
  marks.push(3, 4);
  marks.reach(4);
  expect(marks.settle()).toBe(false);
  marks.reachHardState();
  expect(marks.settle()).toBe(true);
  expect(marks.version).toBe(3);
});

test("a vote without entries waits for its record alone", () => {
  const marks = new DurableMarks();
  marks.reach(7);
  marks.issueHardState();
  marks.push(9, 7);
  expect(marks.settle()).toBe(false);
  marks.reachHardState();
  expect(marks.settle()).toBe(true);
});

test("what was replaced is not waited for, and its mark tells of no entry that took its place", () => {
  const marks = new DurableMarks();
  marks.push(1, 10);
  marks.cut(8);
  marks.push(2, 8);
  marks.reach(7);
  expect(marks.settle()).toBe(true);
  expect([marks.version, marks.index]).toEqual([1, 7]);
  marks.reach(8);
  expect(marks.settle()).toBe(true);
  expect([marks.version, marks.index]).toEqual([2, 8]);
});

test("what was durable where the log is cut does not vouch for what takes its place", () => {
  const marks = new DurableMarks();
  marks.reach(10);
  marks.cut(8);
  marks.push(2, 8);
  expect(marks.settle()).toBe(false);
  marks.reach(8);
  expect(marks.settle()).toBe(true);
});

test("many marks under way keep their order", () => {
  const marks = new DurableMarks();
  for (let index = 1; index <= 100; index++) marks.push(index, index);
  for (let index = 1; index <= 100; index++) {
    marks.reach(index);
    expect(marks.settle()).toBe(true);
    expect(marks.version).toBe(index);
  }
});
