import { describe, expect, test } from "bun:test";
import { Prng } from "../base/prng.ts";
import { Counters, LatencyHistogram } from "./metrics.ts";

describe("latency histogram", () => {
  test("percentiles lie within 3.2 % above the truth", () => {
    const random = new Prng(1);
    const histogram = new LatencyHistogram();
    const values: number[] = [];
    for (let at = 0; at < 20_000; at++) {
      const value = Math.floor(2 ** (random.u32() / 134_217_728));
      values.push(Math.min(value, 4_294_967_295));
      histogram.record(value);
    }
    values.sort((a, b) => a - b);
    for (const share of [0, 0.01, 0.5, 0.9, 0.99, 0.999, 1]) {
      const truth = values[Math.max(0, Math.ceil(values.length * share) - 1)]!;
      const seen = histogram.percentile(share);
      expect(seen).toBeGreaterThanOrEqual(truth);
      expect(seen).toBeLessThanOrEqual(truth * 1.032 + 1);
    }
    expect(histogram.count).toBe(20_000);
    expect(histogram.maxUs).toBe(values[values.length - 1]!);
  });

  test("borders: empty, zero, negative, fraction, largest", () => {
    const histogram = new LatencyHistogram();
    expect(histogram.percentile(0.5)).toBe(0);
    expect(histogram.meanUs()).toBe(0);
    for (const value of [0, -3, 0.7, 63, 64, 1e12]) histogram.record(value);
    expect(histogram.countUpTo(0)).toBe(3);
    expect(histogram.countUpTo(63)).toBe(4);
    expect(histogram.percentile(1)).toBe(4_294_967_295);
  });

  test("merge adds, reset forgets", () => {
    const one = new LatencyHistogram();
    const two = new LatencyHistogram();
    one.record(10);
    two.record(1000);
    one.merge(two);
    expect(one.count).toBe(2);
    expect(one.maxUs).toBe(1000);
    one.reset();
    expect(one.count).toBe(0);
    expect(one.percentile(1)).toBe(0);
  });
});

test("counters add by index and read by index", () => {
  const counters = new Counters(["a", "b"]);
  counters.add(1, 5);
  counters.add(1, 2);
  expect(counters.get(0)).toBe(0);
  expect(counters.get(1)).toBe(7);
  expect(() => counters.get(2)).toThrow("out of range");
});
