import { describe, expect, test } from "bun:test";
import type { FaultNote } from "./sim-faults.ts";
import { formatFaults, type Rerun, shrinkFaults } from "./sim-shrink.ts";
import { SimFailure } from "./testing.ts";

function notes(numbers: readonly number[]): FaultNote[] {
  return numbers.map((number) => ({ number, atUs: number * 1000, name: "crash", osd: 1 }));
}

/** Fails as long as none of the faults that it needs is left out. */
function needing(needed: readonly number[], all: readonly number[]): Rerun {
  return (without) => {
    if (needed.some((number) => without.has(number))) return null;
    return new SimFailure("it failed", notes(all.filter((number) => !without.has(number))));
  };
}

const ALL = Array.from({ length: 23 }, (_none, at) => at + 1);

describe("shrinkFaults", () => {
  test.each([[[]], [[7]], [[1, 23]], [[3, 4, 5, 19]], [ALL]])(
    "keeps what is needed: %p",
    (needed) => {
      const rerun = needing(needed, ALL);
      const { faults, without } = shrinkFaults(
        new SimFailure("it failed", notes(ALL)),
        rerun,
        () => false,
      );
      expect(faults.map(({ number }) => number)).toEqual(needed);
      expect(without.length).toBe(ALL.length - needed.length);
      expect(rerun(new Set(without))).not.toBeNull();
    },
  );

  test("ends when it is late, with what it has", () => {
    let runs = 0;
    const rerun = needing([7], ALL);
    const counted: Rerun = (without) => {
      runs += 1;
      return rerun(without);
    };
    const all = new SimFailure("it failed", notes(ALL));
    const { faults, without } = shrinkFaults(all, counted, () => runs >= 2);
    expect(runs).toBe(2);
    expect(faults.map(({ number }) => number)).toContain(7);
    expect(faults.length).toBe(ALL.length - without.length);
  });

  test("a schedule names time, number, kind and osd", () => {
    expect(formatFaults(notes([4]))).toBe("  4.000 ms: fault 4, crash (osd.1)");
    const ofNone = { number: 100_002, atUs: 1500, name: "image shrunk", osd: -1 };
    expect(formatFaults([ofNone])).toBe("  1.500 ms: fault 100002, image shrunk");
  });
});
