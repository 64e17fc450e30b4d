import { expect, test } from "bun:test";
import {
  type DuelOptions,
  type DuelOutside,
  type DuelRun,
  parseDuelRows,
  runDuel,
} from "./duel.ts";
import type { SuiteRow } from "./suite.ts";

const sizeOf = (text: string): number => (text === "4KiB" ? 4096 : 131_072);
const OPTIONS: DuelOptions = {
  other: "/old/fastblock",
  directory: "",
  rows: parseDuelRows(["randwrite:4KiB:32"], sizeOf),
  rounds: 4,
  timeMs: 1000,
  rampMs: 500,
  warmMs: 0,
  imageBytes: 1_048_576,
  backend: "auto",
};

/** µs of CPU per I/O, I/O per second; how much of the CPU of daemons goes to what compiles. */
type Run = readonly [cpu: number | null, iops: number, compileShare?: number];

/** Answers with the next pair of runs, and writes down what was asked for. */
class Machine implements DuelOutside {
  readonly calls: string[] = [];
  readonly said: string[] = [];
  private readonly runs: (readonly [ours: Run, other: Run])[];

  constructor(runs: readonly (readonly [ours: Run, other: Run])[]) {
    this.runs = [...runs];
  }

  load(row: SuiteRow, timeMs: number, rampMs: number): Promise<{ this: DuelRun; other: DuelRun }> {
    this.calls.push(`${row.name} ${timeMs} ${rampMs}`);
    const [ours, other] = this.runs.shift()!;
    return Promise.resolve({ this: runOf(ours), other: runOf(other) });
  }

  say(words: string): void {
    this.said.push(words);
  }
}

function runOf([cpuUsPerIo, iops, compileShare = 0]: Run): DuelRun {
  const half = (cpuUsPerIo ?? 0) / 2;
  const cost = { userUsPerIo: half, systemUsPerIo: 0, switchesPerIo: 0 };
  const processes = [
    { kind: "osd", ...cost, compileUsPerIo: compileShare * half },
    { kind: "client", ...cost, compileUsPerIo: half },
  ];
  return { iops, cpuUsPerIo, systemCallsPerIo: iops / 100, seconds: 1, processes };
}

test("each round is judged by itself: medians and quartiles of its ratios", async () => {
  // The machine slows down by and by: 1 µs of difference in the first round, 20 in the last.
  const machine = new Machine([
    [
      [99, 1000],
      [100, 800],
    ],
    [
      [208, 600],
      [200, 500],
    ],
    [
      [294, 300],
      [300, 400],
    ],
    [
      [420, 200],
      [400, 100],
    ],
  ]);
  const [row] = await runDuel(machine, OPTIONS);
  expect(row).toMatchObject({
    name: "randwrite:4KiB:32",
    this: { iops: 450, cpuUsPerIo: 251, systemCallsPerIo: 4.5 },
    other: { iops: 450, cpuUsPerIo: 250, systemCallsPerIo: 4.5 },
    // Of 0.98, 0.99, 1.04 and 1.05.
    cpuRatio: { low: 0.988, median: 1.015, high: 1.043 },
    // Of 0.75, 1.2, 1.25 and 2.
    iopsRatio: { low: 1.088, median: 1.225, high: 1.438 },
  });
  expect(row!.runs.map((run) => run.this.iops)).toEqual([1000, 600, 300, 200]);
  expect(machine.calls).toEqual(Array<string>(4).fill("randwrite:4KiB:32 1000 500"));
  expect(machine.said[0]).toBe(
    "round 1 of 4: randwrite:4KiB:32: 1000 and 800 I/O per s, CPU 99 and 100 µs per I/O",
  );
});

test("a single round is its own median and quartiles, and what is unknown has no ratio", async () => {
  const one = { ...OPTIONS, rounds: 1 };
  const [row] = await runDuel(
    new Machine([
      [
        [90, 10],
        [100, 20],
      ],
    ]),
    one,
  );
  expect(row!.cpuRatio).toEqual({ low: 0.9, median: 0.9, high: 0.9 });
  const [blind] = await runDuel(
    new Machine([
      [
        [null, 10],
        [100, 0],
      ],
    ]),
    one,
  );
  expect(blind).toMatchObject({ cpuRatio: null, iopsRatio: null, this: { cpuUsPerIo: null } });
});

test("both warm up until the daemons of neither compile much", async () => {
  const machine = new Machine([
    [
      [100, 10, 0.2],
      [100, 10, 0.01],
    ],
    [
      [100, 10, 0.01],
      [100, 10, 0.1],
    ],
    [
      [100, 10, 0.01],
      [100, 10, 0.04],
    ],
    [
      [100, 10],
      [100, 10],
    ],
  ]);
  await runDuel(machine, { ...OPTIONS, rounds: 1, warmMs: 3000 });
  const warm = "randwrite:4KiB:32 3000 0";
  expect(machine.calls).toEqual([warm, warm, warm, "randwrite:4KiB:32 1000 500"]);
  expect(machine.said.filter((words) => words.startsWith("compiling"))).toEqual([
    "compiling took 20 % of the CPU",
    "compiling took 10 % of the CPU",
  ]);
});

test("rows that only the suite knows are refused", () => {
  expect(parseDuelRows(["read:128KiB:16"], sizeOf)).toMatchObject([{ rw: "read", depth: 16 }]);
  for (const name of [
    "nbd:randwrite:4KiB:32",
    "randwrite:4KiB:32:steady",
    "randwrite:4KiB:32:tail",
    "randread:4KiB:32:cold",
    "store:randwrite:4KiB:32:snapshots",
  ]) {
    expect(() => parseDuelRows(["randwrite:4KiB:1", name], sizeOf)).toThrow(
      `reading --rows: ${name}, wanted SHAPE:SIZE:DEPTH`,
    );
  }
});
