import { describe, expect, test } from "bun:test";
import type { ImageBenchReport } from "./bench.ts";
import type { BenchRow } from "./bench-row.ts";
import { parseSwitches } from "./bun-meter.ts";
import { compareReports } from "./compare.ts";
import { callCostsOf, callsPerIoOf, costsOf, cpuUsPerIoOf } from "./spending.ts";
import {
  BAR_ROWS,
  encryptionText,
  medianOf,
  parseSuiteRows,
  runSuite,
  SUITE_ROWS,
  type BareFigures,
  type SuiteOptions,
  type SuiteOutside,
  type SuiteRow,
} from "./suite.ts";

const sizeOf = (text: string): number => (text === "4KiB" ? 4096 : 131_072);
const LOG_BYTES = 65_536;
const OPTIONS: SuiteOptions = {
  directory: "",
  rows: parseSuiteRows(["randwrite:4KiB:32", "read:128KiB:16"], sizeOf),
  store: false,
  fullStore: false,
  timeMs: 1000,
  tailMs: 7000,
  rampMs: 0,
  warmMs: 0,
  repeat: 3,
  imageBytes: 1_048_576,
  judged: true,
  fio: true,
  backend: "auto",
  encrypt: false,
  shards: 1,
};

const WARM = ["image randwrite 10", "image write 10", "image randread 10"];

const BARE: BareFigures = { iops: 20, p50Us: 50, cpuUsPerIo: null, wholeP50Us: null };

/** Answers each run of a row with the next of its rates, and writes down what was asked for. */
class Machine implements SuiteOutside {
  readonly calls: string[] = [];
  readonly said: string[] = [];
  /** Of its CPU, run by run. */
  readonly compileShares: number[] = [];
  private readonly rates: Record<string, number[]>;
  private readonly error: string | undefined;

  constructor(rates: Record<string, number[]>, error?: string) {
    this.rates = rates;
    this.error = error;
  }

  image(row: SuiteRow, timeMs: number, opsPerSecond: number): Promise<ImageBenchReport> {
    const pace = opsPerSecond === 0 ? "" : ` at ${opsPerSecond}`;
    this.calls.push(`image ${row.name} ${timeMs}${pace}`);
    const iops = this.rates[row.name]?.shift() ?? 1;
    const compileUsPerIo = (iops * (this.compileShares.shift() ?? 0)) / 4;
    const cost = {
      ...{ userUsPerIo: iops / 10, systemUsPerIo: iops / 5, compileUsPerIo },
      switchesPerIo: 2,
    };
    const report = {
      iops,
      latencyUs: { mean: iops, p50: iops, p99: 2 * iops, p999: 3 * iops, max: 4 * iops },
      cpuUsPerIo: iops / 2,
      processes: [
        { kind: "osd", ...cost },
        { kind: "client", ...cost },
      ],
      systemCalls: [{ kind: "osd", perIo: iops / 10 }],
      systemCallsPerIo: iops / 10,
      collections: iops === 100 ? null : { count: 1, pauseUs: iops, pauseUsMax: iops / 2 },
      deviceBytesPerClientByte: row.rw === "read" ? null : 6,
      deviceWritesPerClientWrite: row.rw === "read" ? null : 4,
      flushesPerClientWrite: row.rw === "read" ? null : 1,
      writtenBytes: row.rw === "read" ? 0 : 131_072,
      errorTexts: this.error === undefined ? [] : [this.error],
      timeouts: 0,
      refusedForSpace: 0,
      verifyErrors: [],
      seconds: timeMs / 1000,
      ...(opsPerSecond === 0 ? {} : { probeUs: { p999: 7000, max: 66_000 } }),
      worst: opsPerSecond === 0 ? [] : [{ atSeconds: 1, wallMs: 2, latencyUs: 8400, lateUs: 100 }],
    };
    return Promise.resolve(report as unknown as ImageBenchReport);
  }

  raw(row: SuiteRow): Promise<BenchRow | undefined> {
    this.calls.push(`raw ${row.name}`);
    return Promise.resolve({
      name: row.name,
      operations: 1,
      opsPerSecond: 400,
      latencyUs: { p50: 1, p99: 2, p999: 3, max: 4 },
      cpuUsPerOp: { user: 1, system: 2 },
    });
  }

  bare(row: SuiteRow): Promise<BareFigures | null> {
    this.calls.push(`bare ${row.name}`);
    return Promise.resolve(row.rw === "read" ? BARE : null);
  }

  ran(moments: readonly unknown[]): string[][] {
    return moments.map(() => ["a", "b", "c", "d", "e", "f"].map((daemon) => `${daemon}: worked`));
  }

  say(words: string): void {
    this.said.push(words);
  }
}

describe("the suite", () => {
  test("rows are named by shape, size and depth; others are refused", () => {
    expect(parseSuiteRows(["randwrite:4KiB:32"], sizeOf)).toEqual([
      {
        name: "randwrite:4KiB:32",
        rw: "randwrite",
        blockBytes: 4096,
        depth: 32,
        nbd: false,
        steady: false,
        tail: false,
        cold: false,
        encrypted: false,
      },
    ]);
    const both = parseSuiteRows(["encrypted:nbd:read:4KiB:2:steady"], sizeOf)[0];
    expect(both).toMatchObject({ encrypted: true, nbd: true, steady: true, rw: "read", depth: 2 });
    expect(() => parseSuiteRows(["nbd:encrypted:read:4KiB:2"], sizeOf)).toThrow("reading --rows");
    expect(parseSuiteRows(["write:4KiB:2:steady"], sizeOf)[0]).toMatchObject({ steady: true });
    expect(parseSuiteRows(["nbd:read:4KiB:2"], sizeOf)[0]).toMatchObject({ rw: "read", nbd: true });
    expect(parseSuiteRows(["write:4KiB:2:tail"], sizeOf)[0]).toMatchObject({
      steady: true,
      tail: true,
      cold: false,
    });
    const cold = parseSuiteRows(["read:4KiB:2:cold"], sizeOf)[0];
    expect(cold).toMatchObject({ steady: false, tail: false, cold: true });
    const nbd = (): unknown => parseSuiteRows(["nbd:read:4KiB:2:cold"], sizeOf);
    expect(nbd).toThrow("wanted nbd: before or :cold behind, not both");
    const tailed = (): unknown => parseSuiteRows(["nbd:write:4KiB:2:tail"], sizeOf);
    expect(tailed).toThrow("wanted nbd: before or :tail behind, not both");
    expect(parseSuiteRows(BAR_ROWS, sizeOf)).toHaveLength(18);
    expect(parseSuiteRows(SUITE_ROWS, sizeOf)).toHaveLength(7);
    for (const name of [
      "",
      "rw:4KiB:1",
      "read:4KiB",
      "read:4KiB:0",
      "read:4KiB:x",
      "read::1",
      "read:4KiB:1:steadily",
    ]) {
      expect(() => parseSuiteRows([name], sizeOf)).toThrow("wanted SHAPE:SIZE:DEPTH");
    }
  });

  test("rows say whether they ran encrypted, and that one is told beside its signed twin", async () => {
    const names = ["randwrite:4KiB:32", "encrypted:randwrite:4KiB:32"];
    const options = { ...OPTIONS, rows: parseSuiteRows(names, sizeOf), repeat: 1 };
    const rates = { [names[0]!]: [5000], [names[1]!]: [4000] };
    const rows = await runSuite(new Machine({ ...rates }), options, LOG_BYTES);
    expect(rows.map(({ encrypted }) => encrypted)).toEqual([false, true]);
    const [signedUs, encryptedUs] = rows.map(({ cpuUsPerIo }) => cpuUsPerIo);
    expect(encryptionText(rows)).toBe(
      `encrypted:randwrite:4KiB:32: 4000 I/O per s, ${encryptedUs} µs of CPU each; ` +
        `signed: 5000 I/O per s, ${signedUs} µs of CPU each`,
    );
    expect(encryptionText(rows.slice(0, 1))).toBe("");
    const all = await runSuite(new Machine({}), { ...options, encrypt: true }, LOG_BYTES);
    expect(all.map(({ encrypted }) => encrypted)).toEqual([true, true]);
  });

  test("every run stands beside the raw disk's, row by row, again and again", async () => {
    const machine = new Machine({});
    await runSuite(machine, { ...OPTIONS, repeat: 2, warmMs: 30 }, LOG_BYTES);
    const once = [
      "bare randwrite:4KiB:32",
      "raw randwrite:4KiB:32",
      "image randwrite:4KiB:32 1000",
      "bare read:128KiB:16",
      "raw read:128KiB:16",
      "image read:128KiB:16 1000",
    ];
    expect(machine.calls).toEqual([...WARM, ...once, ...once]);
  });

  test("the load before it is made again while more than a twentieth of the CPU compiles", async () => {
    const machine = new Machine({});
    machine.compileShares.push(0.2, 0.1, 0, 0.06, 0.05, 0.03);
    await runSuite(machine, { ...OPTIONS, rows: [], warmMs: 30 }, LOG_BYTES);
    expect(machine.calls).toEqual([...WARM, ...WARM]);
    expect(machine.said.at(3)).toBe("compiling took 10 % of the CPU");

    const restless = new Machine({});
    restless.compileShares.push(...Array.from({ length: 100 }, () => 1));
    await runSuite(restless, { ...OPTIONS, rows: [], warmMs: 30 }, LOG_BYTES);
    expect(restless.calls).toHaveLength(8 * WARM.length);
  });

  test("figures are medians, max the worst; without fio there is no ratio", async () => {
    const rates = { "randwrite:4KiB:32": [100, 900, 200], "read:128KiB:16": [1, 2, 3] };
    const [write, read] = await runSuite(new Machine(rates), OPTIONS, LOG_BYTES);
    expect(write).toMatchObject({
      name: "randwrite:4KiB:32",
      iops: 200,
      bytesPerSec: 200 * 4096,
      latencyUs: { p50: 200, p99: 400, p999: 600, max: 3600 },
      cpuUsPerIo: 100,
      switchesPerIo: 4,
      systemCallsPerIo: 20,
      systemCalls: [{ kind: "osd", perIo: 20 }],
      collections: { count: 2, pauseUs: 1100, pauseUsMax: 450 },
      deviceBytesPerClientByte: 6,
      ratioToRaw: 0.5,
      bare: null,
      logTurns: 2,
      runs: [100, 900, 200],
      rawRuns: [400, 400, 400],
    });
    expect(write!.processes[0]).toEqual({
      kind: "osd",
      userUsPerIo: 20,
      systemUsPerIo: 40,
      compileUsPerIo: 0,
      switchesPerIo: 2,
    });
    expect(read).toMatchObject({ deviceBytesPerClientByte: null, raw: { cpuUsPerIo: 3 } });
    expect(read).toMatchObject({ bare: BARE, logTurns: null });
    const alone = await runSuite(new Machine({}), { ...OPTIONS, fio: false }, LOG_BYTES);
    expect(alone[0]).toMatchObject({ raw: null, ratioToRaw: null });
    const unjudged = new Machine({});
    await runSuite(unjudged, { ...OPTIONS, judged: false }, LOG_BYTES);
    expect(unjudged.calls.filter((call) => call.startsWith("bare"))).toEqual([]);
  });

  test("a tail is that of an open loop at half of the peak right before, once", async () => {
    const name = "randwrite:4KiB:128:tail";
    const machine = new Machine({ [name]: [900, 449], "read:128KiB:16": [1, 2, 3] });
    const rows = parseSuiteRows([name, "read:128KiB:16"], sizeOf);
    const [tail, read] = await runSuite(machine, { ...OPTIONS, rows, repeat: 2 }, LOG_BYTES);
    const about = machine.calls.filter((call) => call.includes("tail"));
    expect(about).toEqual([`image ${name} 1000`, `image ${name} 7000 at 450`]);
    expect(machine.calls.filter((call) => call.startsWith("image read"))).toHaveLength(2);
    expect(tail).toMatchObject({ iops: 449, runs: [449], logTurns: 2, raw: null });
    expect(tail!.tail).toMatchObject({ peakIops: 900, opsPerSecond: 450, seconds: 7 });
    expect(tail!.tail!.worst[0]).toMatchObject({ latencyUs: 8400, ran: { length: 6 } });
    expect(machine.said).toContain(
      `${name}: at 1 s: 8.4 ms, submitted 0.1 ms late; a: worked; b: worked; c: worked; d: worked; and 2 more`,
    );
    expect(machine.said).toContain(
      `${name}: durable writes to the raw disk meanwhile: p99.9 7.0 ms, longest 66.0 ms`,
    );
    expect(read!.tail).toBeNull();
  });

  test("an operation that failed fails the suite", async () => {
    const failing = runSuite(new Machine({}, "a write failed"), OPTIONS, LOG_BYTES);
    expect(failing).rejects.toThrow("running randwrite:4KiB:32: a write failed");
  });

  test("two suites are compared row by row", async () => {
    const a = {
      rows: await runSuite(new Machine({ "read:128KiB:16": [10, 10, 10] }), OPTIONS, LOG_BYTES),
    };
    const b = {
      rows: await runSuite(new Machine({ "read:128KiB:16": [20, 20, 20] }), OPTIONS, LOG_BYTES),
    };
    const iops = compareReports(a, b).filter(({ figure }) => figure.endsWith(" iops"));
    expect(iops).toEqual([
      { figure: "randwrite:4KiB:32 iops", a: 1, b: 1, ratio: 1, verdict: "same" },
      { figure: "read:128KiB:16 iops", a: 10, b: 20, ratio: 2, verdict: "better" },
    ]);
  });

  test.each([
    [[], null],
    [[3], 3],
    [[9, 1, 5], 5],
    [[4, 1, 2, 9], 3],
  ])("median of %p", (values, median) => {
    expect(medianOf(values)).toBe(median);
  });
});

describe("what a load costs", () => {
  const at = (userUs: number, switches: number) => [
    { kind: "osd", userUs, systemUs: 10 * userUs, compileUs: userUs / 2, switches },
  ];

  test("the window's share is by its own I/O, the drain's by all", () => {
    const costs = costsOf({
      atStart: at(100, 5),
      atEnd: at(300, 25),
      afterDrain: at(340, 65),
      windowOps: 10,
      totalOps: 20,
    });
    const ofOsd = { userUsPerIo: 22, systemUsPerIo: 220, compileUsPerIo: 11, switchesPerIo: 4 };
    expect(costs).toEqual([{ kind: "osd", ...ofOsd }]);
    expect(cpuUsPerIoOf(costs)).toBe(242);
  });

  test("nothing done costs nothing that is known; a process that came later counts from 0", () => {
    const none = { atStart: [], atEnd: at(1, 1), afterDrain: at(1, 1), windowOps: 0, totalOps: 0 };
    expect(costsOf(none)).toEqual([]);
    expect(cpuUsPerIoOf([])).toBeNull();
    expect(costsOf({ ...none, windowOps: 1, totalOps: 1 })[0]!.userUsPerIo).toBe(1);
  });

  test("system calls are of all I/O, and unknown unless they are known before and after", () => {
    const costs = callCostsOf({ client: [10, 50], osd: [100, 160] }, 20);
    expect(costs).toEqual([
      { kind: "client", perIo: 2 },
      { kind: "osd", perIo: 3 },
    ]);
    expect(callsPerIoOf(costs)).toBe(5);
    expect(callCostsOf({ client: [10, 50], osd: [100, null] }, 20)).toEqual([]);
    expect(callsPerIoOf(callCostsOf({ client: [null, null] }, 20))).toBeNull();
    expect(callCostsOf({ client: [10, 50] }, 0)).toEqual([]);
  });

  test("wanted and forced switches of a thread are summed", () => {
    const text = "Threads:\t3\nvoluntary_ctxt_switches:\t40\nnonvoluntary_ctxt_switches:\t2\n";
    expect(parseSwitches(text)).toBe(42);
    expect(parseSwitches("")).toBe(0);
  });
});
