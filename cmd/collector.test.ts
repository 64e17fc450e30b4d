import { describe, expect, test } from "bun:test";
import { drainMicrotasks } from "bun:jsc";
import { Simulation } from "../core/reactor/reactor.ts";
import { collectAtRest, GrownHeap, ParkedGroups } from "./collector.ts";

const SECOND_US = 1_000_000;
const MIB = 1_048_576;

/** A process on simulated time that spends a share of a core, and has garbage. */
class Process {
  readonly collectedAt: number[] = [];
  share = 0;
  isDue = true;
  private readonly simulation = new Simulation(3, { drainMicrotasks });
  private spentUs = 0;

  constructor() {
    const world = this.simulation.createWorld("osd.0", "10.0.0.1");
    world.start();
    const garbage = {
      isDue: () => this.isDue,
      collect: () => void this.collectedAt.push(this.simulation.nowUs / SECOND_US),
    };
    collectAtRest(world, garbage, () => this.spentUs);
  }

  pass(seconds: number): number {
    const before = this.collectedAt.length;
    for (let tenth = 0; tenth < seconds * 10; tenth++) {
      this.spentUs += this.share * (SECOND_US / 10);
      this.simulation.run(this.simulation.nowUs + SECOND_US / 10);
    }
    return this.collectedAt.length - before;
  }
}

describe("a process at rest", () => {
  test("collects within ten seconds of the end of a load, and not during it", () => {
    const process = new Process();
    process.share = 0.3;
    expect(process.pass(60)).toBe(0);
    process.share = 0.02;
    expect(process.pass(10)).toBeGreaterThanOrEqual(1);
  });

  test("collects nothing while there is nothing to be collected", () => {
    const process = new Process();
    process.isDue = false;
    expect(process.pass(60)).toBe(0);
    process.isDue = true;
    expect(process.pass(6)).toBeGreaterThanOrEqual(1);
  });

  test("that is at work for a moment of each look does not rest", () => {
    const process = new Process();
    for (let look = 0; look < 12; look++) {
      process.share = 0.5;
      process.pass(1);
      process.share = 0;
      process.pass(4);
    }
    expect(process.collectedAt).toEqual([]);
  });
});

test("a heap is worth collecting when it has grown by 2 MiB since it was collected", () => {
  let bytes: number | undefined = 7 * MIB;
  const heap = new GrownHeap("all", () => bytes);
  const dueAt = (mib: number): boolean => {
    bytes = mib * MIB;
    return heap.isDue();
  };
  // What the start of the process left goes first.
  expect(dueAt(7)).toBe(true);
  expect([dueAt(7), dueAt(5), dueAt(6.9)]).toEqual([false, false, false]);
  expect(dueAt(7)).toBe(true);
  // A heap that does not shrink is not collected over and over.
  expect([dueAt(7), dueAt(7), dueAt(8.9)]).toEqual([false, false, false]);
  expect(dueAt(60)).toBe(true);
  expect([dueAt(60), dueAt(6), dueAt(7)]).toEqual([false, false, false]);
  bytes = undefined;
  expect(heap.isDue()).toBe(false);
  expect(dueAt(8)).toBe(true);
});

test("a heap gives back what is garbage in it", () => {
  const held: { rows: object[] } = { rows: [] };
  const fill = (): void => {
    for (let row = 0; row < 100_000; row++) held.rows.push({ row, text: `row ${row}` });
  };
  fill();
  Bun.gc(true);
  const before = process.memoryUsage().heapUsed;
  held.rows = [];
  new GrownHeap("young").collect();
  expect(before - process.memoryUsage().heapUsed).toBeLessThan(MIB);
  new GrownHeap("all").collect();
  expect(before - process.memoryUsage().heapUsed).toBeGreaterThan(3 * MIB);
});

test("parked groups are worth collecting once no more follow, however few at a time they were", () => {
  const parked = new ParkedGroups();
  for (let look = 0; look < 20; look++) {
    parked.add(40);
    expect(parked.isDue()).toBe(false);
  }
  expect(parked.isDue()).toBe(true);
  parked.collect();
  expect([parked.isDue(), parked.isDue()]).toEqual([false, false]);
  for (let wave = 0; wave < 15; wave++) {
    parked.add(17);
    expect([parked.isDue(), parked.isDue()]).toEqual([false, false]);
  }
  parked.add(1);
  expect([parked.isDue(), parked.isDue()]).toEqual([false, true]);
});
