import { afterEach, describe, expect, test } from "bun:test";
import { drainMicrotasks } from "bun:jsc";
import { assert } from "../base/assert.ts";
import { Prng } from "../base/prng.ts";
import { Status } from "../base/status.ts";
import { BlockState, type ImageOp, OpKind, STATE_BYTES } from "../client/client.ts";
import { Simulation, type SimWorld } from "../reactor/reactor.ts";
import { CallbackTimer, type Drain, DrainOrder } from "../reactor/world.ts";
import { type BenchImage, runImageBench } from "./image-bench.ts";
import type { ImageBenchOptions } from "./bench.ts";

const IMAGE_BYTES = 1_048_576;
const SEED = 42;

/** What a broken store does to some operations. */
type Fault = "none" | "stale" | "torn" | "misplaced" | "lost" | "fails" | "silent";

const STATUS_OF: Readonly<Record<Fault, Status>> = {
  none: Status.Ok,
  stale: Status.Ok,
  torn: Status.Ok,
  misplaced: Status.Ok,
  lost: Status.Ok,
  fails: Status.NoSpace,
  silent: Status.TimedOut,
};

/** An image in memory that answers in any order, and cheats in one way. */
class MemoryImage implements BenchImage, Drain {
  readonly id = 5;
  readonly sizeBytes = IMAGE_BYTES;
  readonly readOnly = false;
  writtenBytes = 0;
  /** Of them: by operations larger than those of the load. */
  fillBytes = 0;
  depthMax = 0;
  readonly written = new Uint8Array(IMAGE_BYTES / 4096);
  private isStalled = false;
  private readonly bytes = new Uint8Array(IMAGE_BYTES);
  private readonly older = new Uint8Array(IMAGE_BYTES);
  private readonly queue: ImageOp[] = [];
  private readonly random = new Prng(SEED);
  private readonly world: SimWorld;
  private readonly fault: Fault;

  constructor(world: SimWorld, fault: Fault) {
    this.world = world;
    this.fault = fault;
    world.turns.addDrain(DrainOrder.Apply, this);
  }

  readonly isEncrypted: boolean = false;

  replicasAt(): readonly unknown[] {
    return [0, 1, 2];
  }

  submit(op: ImageOp): void {
    assert(op.offsetBytes + op.lengthBytes <= IMAGE_BYTES, "past the end of the image");
    assert(op.arenaOffset % 4096 === op.offsetBytes % 4096, "memory and offset do not agree");
    this.queue.push(op);
    this.depthMax = Math.max(this.depthMax, this.queue.length);
    this.world.turns.again();
  }

  /** Answer nothing for `lengthUs`, from `afterUs` on. */
  stall({ afterUs, lengthUs }: { readonly afterUs: number; readonly lengthUs: number }): void {
    const { timers, turns } = this.world;
    const turn = (isStalled: boolean): CallbackTimer =>
      new CallbackTimer(() => {
        this.isStalled = isStalled;
        turns.again();
      });
    timers.arm(turn(true), afterUs);
    timers.arm(turn(false), afterUs + lengthUs);
  }

  drain(): void {
    if (this.isStalled) return;
    for (let left = this.queue.length; left > 0 && this.random.below(4) !== 0; left--) {
      const at = this.random.below(this.queue.length);
      const op = this.queue[at]!;
      this.queue.splice(at, 1);
      this.perform(op);
      op.onDone();
    }
    if (this.queue.length > 0) this.world.turns.again();
  }

  private perform(op: ImageOp): void {
    if (op.kind === OpKind.States) return this.tellStates(op);
    const memory = this.world.arena.bytes.subarray(op.arenaOffset, op.arenaOffset + op.lengthBytes);
    const cheats = this.random.below(20) === 0;
    op.status = cheats ? STATUS_OF[this.fault] : Status.Ok;
    if (op.status !== Status.Ok) return;
    const place = this.bytes.subarray(op.offsetBytes, op.offsetBytes + op.lengthBytes);
    if (op.kind === OpKind.Write) {
      this.writtenBytes += op.lengthBytes;
      if (op.lengthBytes > OPTIONS.blockBytes) this.fillBytes += op.lengthBytes;
      this.written.fill(1, op.offsetBytes / 4096, (op.offsetBytes + op.lengthBytes) / 4096);
      this.older.set(place, op.offsetBytes);
      if (cheats && this.fault === "lost") return;
      place.set(cheats && this.fault === "torn" ? memory.subarray(0, 2048) : memory);
      return;
    }
    memory.set(place);
    if (!cheats) return;
    if (this.fault === "stale") {
      memory.set(this.older.subarray(op.offsetBytes, op.offsetBytes + op.lengthBytes));
    }
    if (this.fault === "misplaced") memory.set(this.bytes.subarray(0, op.lengthBytes));
  }

  private tellStates(op: ImageOp): void {
    const first = op.offsetBytes / 4096;
    for (let at = 0; at < op.lengthBytes / 4096; at++) {
      const state = this.written[first + at] === 1 ? BlockState.Data : BlockState.Zero;
      const place = op.arenaOffset + at * STATE_BYTES;
      this.world.arena.view.setUint32(place + 8, (state << 30) >>> 0, true);
    }
  }
}

const OPTIONS: ImageBenchOptions = {
  cluster: "",
  path: "p/a",
  rw: "rw",
  blockBytes: 4096,
  depth: 16,
  jobs: 2,
  opsPerSecond: 0,
  timeMs: 20,
  rampMs: 5,
  readPercent: 50,
  verify: true,
  fill: "never",
  drain: true,
  rangeBytes: 0,
  seed: SEED,
  historyPath: "",
  backend: "auto",
  timeoutMs: 1000,
  progress: false,
};

let simulation: Simulation | undefined;
afterEach(() => {
  simulation = undefined;
});

async function bench(
  change: Partial<ImageBenchOptions>,
  fault: Fault = "none",
  writtenBlocks: readonly [from: number, to: number] = [0, 0],
  freeBytes = 1e12,
  stall = { afterUs: 0, lengthUs: 0 },
) {
  simulation = new Simulation(SEED, { drainMicrotasks });
  const world = simulation.createWorld("bench", "10.0.0.1");
  const image = new MemoryImage(world, fault);
  image.written.fill(1, ...writtenBlocks);
  if (stall.lengthUs > 0) image.stall(stall);
  const lines: string[] = [];
  let userUs = 0;
  const running = runImageBench(
    {
      world,
      image,
      backend: "mixed",
      meter: {
        processes: () => [
          { kind: "osd", userUs: (userUs += 10), systemUs: 0, compileUs: 0, switches: 0 },
        ],
        // Written once to the log and once home.
        devices: () => Promise.resolve({ bytes: image.writtenBytes * 2, writes: 0, flushes: 0 }),
        ownCalls: () => image.writtenBytes / 2048,
        osdCalls: () => Promise.resolve(image.writtenBytes / 1024),
        takeCollections: () => null,
        logBytes: () => Promise.resolve(0),
        freeBytes: () => Promise.resolve(freeBytes),
      },
      progress: { begin() {}, at() {}, end() {} },
      log: change.historyPath === "h" ? { add: (line) => lines.push(line) } : null,
    },
    { ...OPTIONS, ...change },
  );
  world.start();
  let report: Awaited<typeof running> | undefined;
  let failure: unknown;
  running.then(
    (value) => {
      report = value;
    },
    (error: unknown) => {
      failure = error;
    },
  );
  simulation.run(() => report !== undefined || failure !== undefined);
  if (failure !== undefined) throw failure as Error;
  return { report: report!, image, lines };
}

describe("a load on an honest image", () => {
  test("counts what it did, and finds nothing", async () => {
    const { report, image } = await bench({});
    expect(report.errors).toBe(0);
    expect(report.verifyErrors).toEqual([]);
    expect(report.verifiedBlocks).toBeGreaterThan(100);
    expect(report.ops).toBeGreaterThan(200);
    expect(report.iops / (report.ops / report.seconds)).toBeCloseTo(1, 1);
    expect(report.bytesPerSec / (report.iops * 4096)).toBeCloseTo(1, 3);
    expect(report.readLatencyUs!.p50).toBeLessThanOrEqual(report.readLatencyUs!.max);
    expect(report.latencyUs.p99).toBeLessThanOrEqual(report.latencyUs.p999);
    expect(image.depthMax).toBe(32);
    expect(report.backend).toBe("mixed");
    expect(report.cpuUsPerIo).toBeGreaterThan(0);
  });

  test("device bytes and system calls count everything from the ramp to the drain", async () => {
    const { report } = await bench({ rw: "randwrite" });
    expect(report.deviceBytesPerClientByte).toBe(2);
    expect(report.systemCalls).toEqual([
      { kind: "client", perIo: 2 },
      { kind: "osd", perIo: 4 },
    ]);
    expect(report.systemCallsPerIo).toBe(6);
    const read = (await bench({ rw: "randread" })).report;
    expect(read.deviceBytesPerClientByte).toBeNull();
    expect(read.systemCallsPerIo).toBe(0);
    const undrained = (await bench({ rw: "randwrite", drain: false })).report;
    expect(undrained.systemCallsPerIo).toBeNull();
  });

  test("a fill writes every block once before the load", async () => {
    const { image, report } = await bench({
      fill: "always",
      rw: "randread",
      timeMs: 10,
      rampMs: 1,
    });
    expect(image.writtenBytes).toBe(IMAGE_BYTES);
    expect(report.filled!.bytes).toBe(IMAGE_BYTES);
    expect(report.filled!.seconds).toBeGreaterThan(0);
    expect(image.written.every((one) => one === 1)).toBe(true);
  });

  const ALL = IMAGE_BYTES / 4096;
  test.each([
    ["a load that writes fills an image with one hole", "randwrite", [1, ALL], IMAGE_BYTES],
    ["a load that writes leaves a whole image", "randwrite", [0, ALL], 0],
    ["a load that reads fills an empty image", "randread", [0, 0], IMAGE_BYTES],
    ["a load that reads keeps what there is", "randread", [ALL - 1, ALL], 0],
  ] as const)("%s", async (_name, rw, written, filled) => {
    const options = { verify: false, timeMs: 1, rampMs: 0, drain: false };
    const without = await bench({ ...options, rw, fill: "never" }, "none", written);
    const { image, report } = await bench({ ...options, rw, fill: "holes" }, "none", written);
    expect([image.fillBytes, report.filled?.bytes ?? 0]).toEqual([filled, filled]);
    expect([without.image.fillBytes, without.report.filled]).toEqual([0, null]);
  });

  test("a fill that nobody asked for is refused where it takes most of what is free", async () => {
    const free = 3.5 * IMAGE_BYTES;
    expect(bench({ rw: "randread", fill: "holes" }, "none", [0, 0], free)).rejects.toMatchObject({
      code: "FB5002",
    });
    const { image } = await bench({ rw: "randread", fill: "always" }, "none", [0, 0], free);
    expect(image.fillBytes).toBe(IMAGE_BYTES);
  });

  test("a sequential load walks over the whole range and stays in it", async () => {
    const range = 262_144;
    const { image } = await bench({ rw: "write", rangeBytes: range, depth: 1, jobs: 3 });
    expect(image.written.subarray(0, range / 4096).every((one) => one === 1)).toBe(true);
    expect(image.written.subarray(range / 4096).every((one) => one === 0)).toBe(true);
  });

  test("blocks of any size are driven", async () => {
    for (const blockBytes of [512, 1536, 65_536]) {
      const { report } = await bench({ blockBytes, verify: false, timeMs: 5, rampMs: 1 });
      expect(report.errors).toBe(0);
      expect(report.ops).toBeGreaterThan(10);
    }
  });

  test("a history holds every operation, blocks by blocks, in the order of completion", async () => {
    const { report, lines } = await bench({
      historyPath: "h",
      verify: false,
      rampMs: 1,
      rangeBytes: 32_768,
      blockBytes: 8192,
    });
    expect(lines.length).toBeGreaterThanOrEqual(report.ops * 2);
    const written = new Map<number, Set<number>>();
    let before = 0;
    for (const line of lines) {
      const op = JSON.parse(line) as Record<string, number> & { kind: string; ok: boolean };
      expect(op["return"]!).toBeGreaterThanOrEqual(op["call"]!);
      expect(op["return"]!).toBeGreaterThanOrEqual(before);
      before = op["return"]!;
      expect(op.ok).toBe(true);
      const values = written.get(op["key"]!) ?? new Set([0]);
      written.set(op["key"]!, values);
      if (op.kind === "write") {
        expect(values.has(op["value"]!)).toBe(false);
        values.add(op["value"]!);
      }
    }
    expect(written.size).toBe(8);
  });
});

describe("an open loop", () => {
  const open = { rw: "randwrite", opsPerSecond: 1000, jobs: 1, depth: 4, timeMs: 200 } as const;
  const paced = (change: Partial<ImageBenchOptions>, afterUs = 0, lengthUs = 0) =>
    bench({ ...open, rampMs: 0, ...change }, "none", [0, 0], 1e12, { afterUs, lengthUs });

  test("does so many operations a second, however fast the image is", async () => {
    const { report, image } = await paced({ opsPerSecond: 700, timeMs: 1000, rampMs: 100 });
    expect(report.ops).toBeGreaterThanOrEqual(699);
    expect(report.ops).toBeLessThanOrEqual(701);
    expect(report).toMatchObject({ opsPerSecond: 700, errors: 0, verifyErrors: [] });
    expect(report.verifiedBlocks).toBeGreaterThan(100);
    expect(image.depthMax).toBeLessThanOrEqual(4);
    expect(report.latencyUs.max).toBeLessThan(1500);
  });

  test("a stall counts for all that were due during it, though few can be open", async () => {
    const { report } = await paced({}, 100_000, 50_000);
    expect(report.ops).toBeGreaterThanOrEqual(199);
    // 50 of 200 operations waited, 25 ms in the mean; the first of them for all of it.
    expect(report.latencyUs.mean).toBeGreaterThan(5000);
    expect(report.latencyUs.max).toBeGreaterThan(48_000);
    const [worst, ...others] = report.worst;
    expect(worst!.atSeconds).toBeCloseTo(0.1, 1);
    expect(worst!.latencyUs).toBe(report.latencyUs.max);
    expect(others.every(({ latencyUs }) => latencyUs < 2000)).toBe(true);
    const closed = await paced({ opsPerSecond: 0, verify: false }, 100_000, 50_000);
    expect(closed.report.latencyUs.mean).toBeLessThan(1000);
  });

  test("what is due belongs to its window, when it ends late as well", async () => {
    const atEnd = await paced({}, 180_000, 100_000);
    expect(atEnd.report.ops).toBeGreaterThanOrEqual(199);
    expect(atEnd.report.latencyUs.max).toBeGreaterThan(98_000);
    expect(atEnd.report.seconds).toBeCloseTo(0.2, 2);
    const inRamp = await paced({ rampMs: 50 }, 20_000, 31_000);
    expect(inRamp.report.latencyUs.max).toBeLessThan(3000);
    expect(inRamp.report.ops).toBeGreaterThanOrEqual(198);
  });

  test("failed operations end it; what would have been due is not submitted", async () => {
    const { report } = await bench({ ...open, rampMs: 0, timeMs: 10_000 }, "fails");
    expect(report.errors).toBe(100);
    expect(report.seconds).toBeLessThan(5);
    const { report: silent } = await bench({ ...open, rampMs: 0, timeMs: 10_000 }, "silent");
    expect(silent.timeouts).toBeLessThanOrEqual(4);
  });
});

describe("a load on a broken image", () => {
  test.each<[Fault, RegExp]>([
    ["stale", /is stale/],
    ["lost", /is stale/],
    ["torn", /is torn/],
    ["misplaced", /is misplaced/],
  ])("%s blocks are found", async (fault, what) => {
    const { report } = await bench({ rangeBytes: 65_536 }, fault);
    expect(report.errors).toBeGreaterThan(0);
    expect(report.verifyErrors[0]).toMatch(what);
  });

  test("what a load only wrote is read back, once and no more", async () => {
    const honest = await bench({ rw: "randwrite" });
    const written = honest.image.written.reduce((sum, one) => sum + one, 0);
    expect(honest.report.verifiedBlocks).toBe(written);
    expect(honest.report.errors).toBe(0);
    const unjudged = await bench({ rw: "randwrite", verify: false });
    expect(unjudged.report.verifiedBlocks).toBe(0);
    for (const fault of ["stale", "lost", "torn", "misplaced"] as const) {
      const { report } = await bench({ rw: "write", rangeBytes: 262_144, blockBytes: 8192 }, fault);
      expect(report.errors).toBeGreaterThan(0);
      expect(report.verifyErrors[0]).toContain(fault === "lost" ? "stale" : fault);
    }
  }, 30_000);

  test("failed operations are counted and told, and end the run when there are many", async () => {
    const { report } = await bench({ rw: "randwrite", timeMs: 1000 }, "fails");
    expect(report.errors).toBeGreaterThanOrEqual(100);
    expect(report.errorTexts[0]).toMatch(/^writing at \d+: no space is left for it \(NoSpace\)$/);
  });

  test("an operation without an answer ends the run at once", async () => {
    const { report } = await bench({ rw: "randwrite", timeMs: 1000 }, "silent");
    expect(report.seconds).toBeLessThan(0.5);
    expect(report.errorTexts[0]).toMatch(/^writing at \d+: no answer in time \(TimedOut\)$/);
    expect(report.timeouts).toBe(report.errors);
    expect(report.errors).toBeLessThanOrEqual(32);
  });

  test("a fill that fails ends the run", async () => {
    expect(bench({ fill: "always" }, "fails")).rejects.toMatchObject({ code: "FB5002" });
    expect(bench({ fill: "always" }, "silent")).rejects.toMatchObject({ code: "FB1006" });
  });
});
