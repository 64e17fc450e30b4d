import { describe, expect, test } from "bun:test";
import { BunFuzzMeter } from "./bun-fuzz-meter.ts";
import { type FuzzMeter, type FuzzTarget, runFuzz } from "./fuzz.ts";
import { FuzzMutator } from "./fuzz-mutator.ts";

const STILL: FuzzMeter = {
  nowMs: () => 0,
  takeAllocated: () => 0,
  heapBytes: () => 0,
  residentBytes: () => 0,
  collect: () => {},
};

/** `length u16 | crc u16 | that many bytes`; `defect` is what is wrong with the decoder. */
function targetWith(defect: (view: DataView) => void): FuzzTarget {
  const seed = new Uint8Array(40);
  const sum = (bytes: Uint8Array): number =>
    bytes.subarray(4).reduce((a, b) => (a + b) & 0xffff, 0);
  seed[0] = 36;
  return {
    name: "planted",
    seeds: [seed],
    sizeMax: 64,
    bytesMax: 1024,
    repair: (input) => {
      if (input.length >= 4) new DataView(input.buffer).setUint16(2, sum(input), true);
    },
    run: (input) => {
      if (input.length < 4) return false;
      const view = new DataView(input.buffer);
      if (view.getUint16(2, true) !== sum(input)) return false;
      defect(view);
      return view.getUint16(0, true) + 4 <= input.length;
    },
  };
}

describe("mutator", () => {
  test("an input depends on its seed and index alone", () => {
    const target = targetWith(() => {});
    const one = new FuzzMutator(target, 1);
    const row = Array.from({ length: 500 }, (_, index) => one.input(index).bytes.toHex());
    const again = new FuzzMutator(target, 1);
    for (const index of [499, 3, 250]) {
      expect(again.input(index).bytes.toHex()).toBe(row[index]!);
    }
    const other = new FuzzMutator(target, 2);
    expect(other.input(7).bytes.toHex()).not.toBe(row[7]!);
    expect(new Set(row).size).toBeGreaterThan(400);
  });

  test("most inputs are repaired, some are left broken, sizes vary up to the largest", () => {
    const target = targetWith(() => {});
    const mutator = new FuzzMutator(target, 1);
    const sizes = new Set<number>();
    for (let index = 0; index < 5000; index++) sizes.add(mutator.input(index).bytes.length);
    expect(Math.max(...sizes)).toBe(64);
    expect(Math.min(...sizes)).toBe(0);
    const counts = runFuzz(target, { seed: 1, inputs: 5000, meter: STILL });
    expect(counts.accepted).toBeGreaterThan(1000);
    expect(counts.refused).toBeGreaterThan(1000);
  });
});

describe("a planted defect is found, and told with what repeats it", () => {
  const defects: readonly (readonly [string, (view: DataView) => void, string])[] = [
    [
      "a length that is believed",
      (view) => void view.getUint8(view.getUint16(0, true) + 3),
      "RangeError",
    ],
    [
      "a count that is off by one",
      (view) => {
        if (view.getUint16(0, true) === 35) throw new Error("one too few");
      },
      "one too few",
    ],
  ];
  test.each(defects)("%s", (_, defect, words) => {
    let text = "";
    try {
      runFuzz(targetWith(defect), { seed: 1, inputs: 20_000, meter: STILL });
    } catch (error) {
      text = String(error);
    }
    expect(text).toContain(words);
    const [, index] = /--seed 1 --first (\d+) --inputs 1/.exec(text)!;
    const one = { seed: 1, first: Number(index), inputs: 1, meter: STILL };
    expect(() => runFuzz(targetWith(defect), one)).toThrow(words);
    // As small as it can be: the length, the sum, and what the defect needs.
    const hex = /minimized to (\d+)/.exec(text)!;
    expect(Number(hex[1])).toBeLessThan(12);
  });

  test("memory that a length asks for", () => {
    const meter = new BunFuzzMeter();
    try {
      const defect = (view: DataView): void => void new Uint8Array(view.getUint16(0, true));
      const run = (): unknown => runFuzz(targetWith(defect), { seed: 1, inputs: 20_000, meter });
      expect(run).toThrow("bytes, at most 1024 wanted");
    } finally {
      meter.close();
    }
    expect(new Uint8Array(4)).toBeInstanceOf(Uint8Array);
  });

  test("objects that a count asks for, and what inputs leave behind", () => {
    const meter = new BunFuzzMeter();
    let held: object[] = [];
    const run = (defect: (view: DataView) => void, inputs: number): void =>
      void runFuzz(targetWith(defect), { seed: 1, inputs, meter });
    try {
      const asked = (view: DataView): void => {
        held = [];
        const count = view.getUint16(0, true) === 0xffff ? 3_000_000 : 1;
        for (let at = 0; at < count; at++) held.push({ at });
      };
      expect(() => run(asked, 20_000)).toThrow("bytes of heap, at most 16777216 wanted");
      held = [];
      const left = (): void => {
        for (let at = 0; at < 20; at++) held.push({ at, text: [at] });
      };
      expect(() => run(left, 40_000)).toThrow("bytes behind, at most 33554432 wanted");
      held = [];
      expect(() => run(() => void (held = [{}]), 5000)).not.toThrow();
    } finally {
      meter.close();
    }
  }, 30_000);

  test("a hang, not a stall of the machine", () => {
    let nowMs = 0;
    const meter: FuzzMeter = { ...STILL, nowMs: () => nowMs };
    const slow = targetWith((view) => {
      if (view.getUint16(0, true) === 0xffff) nowMs += 1500;
    });
    const run = (target: FuzzTarget): unknown =>
      runFuzz(target, { seed: 1, inputs: 20_000, meter });
    expect(() => run(slow)).toThrow("it takes 1500 ms");
    let stalls = 1;
    const stalled = targetWith(() => {
      if (stalls-- === 1) nowMs += 1500;
    });
    expect(() => run(stalled)).not.toThrow();
  });

  test("inputs that share state begin where their period does", () => {
    let sum = 0;
    const target: FuzzTarget = {
      ...targetWith(() => {}),
      period: 10,
      begin: () => {
        sum = 0;
      },
      run: () => {
        sum += 1;
        if (sum === 7) throw new Error("the seventh");
        return true;
      },
    };
    expect(() => runFuzz(target, { seed: 1, inputs: 5, meter: STILL })).not.toThrow();
    const from = { seed: 1, first: 36, inputs: 1, meter: STILL };
    expect(() => runFuzz(target, from)).toThrow("input 36 of seed 1");
  });
});
