import { expect, test } from "bun:test";
import type { ImageBenchReport } from "./bench.ts";
import {
  type RecoveryLook,
  type RecoveryOptions,
  type RecoveryOutside,
  runRecovery,
} from "./recovery.ts";

const OPTIONS: RecoveryOptions = {
  directory: "",
  speeds: ["low", "high"],
  causes: ["disk", "away"],
  rw: "randwrite",
  blockBytes: 4096,
  depth: 16,
  timeMs: 2000,
  rampMs: 0,
  warmMs: 0,
  imageBytes: 1_048_576,
  osdBytes: 1_048_576,
  backend: "auto",
};

/** Slower while something is brought back; writes down what was asked for. */
class Machine implements RecoveryOutside {
  readonly calls: string[] = [];
  private left = 0;
  private copied = 1000;
  private ms = 0;
  private speed = "";
  private readonly failure: string | undefined;

  constructor(failure?: string) {
    this.failure = failure;
  }

  turn(speed: string): Promise<void> {
    this.calls.push(speed);
    this.speed = speed;
    return Promise.resolve();
  }

  load(timeMs: number): Promise<ImageBenchReport> {
    this.calls.push(this.left > 0 ? "load during" : "load");
    this.ms += timeMs;
    const p99 = this.left === 0 ? 100 : this.speed === "low" ? 150 : 290;
    if (this.left > 0) this.copied += 6000;
    const latencyUs = { mean: 1, p50: 1, p99, p999: p99, max: p99 };
    const errorTexts = this.failure === undefined ? [] : [this.failure];
    const report = { iops: 1e6 / p99, latencyUs, errorTexts, timeouts: 0, verifyErrors: [] };
    return Promise.resolve(report as unknown as ImageBenchReport);
  }

  disturb(cause: string): Promise<void> {
    this.calls.push(`disturb ${cause}`);
    this.left = 4;
    return Promise.resolve();
  }

  bringBack(cause: string): Promise<void> {
    this.calls.push(`back ${cause}`);
    return Promise.resolve();
  }

  look(): Promise<RecoveryLook> {
    const { left, copied } = this;
    return Promise.resolve({ replicas: left, bytesCopied: copied, bytesDiffering: copied / 1.2 });
  }

  whole(): Promise<void> {
    this.left = 0;
    this.ms += 1000;
    return Promise.resolve();
  }

  nowMs(): number {
    return this.ms;
  }

  say(): void {
    // Only people want it.
  }
}

test("each position of the dial is measured without and during recovery, and compared", async () => {
  const machine = new Machine();
  const rows = await runRecovery(machine, OPTIONS);
  expect(machine.calls.slice(0, 5)).toEqual([
    "low",
    "load",
    "disturb disk",
    "load during",
    "back disk",
  ]);
  expect(rows.map((row) => [row.name, row.p99Ratio])).toEqual([
    ["low disk", 1.5],
    ["low away", 1.5],
    ["high disk", 2.9],
    ["high away", 2.9],
  ]);
  expect(rows[0]).toMatchObject({
    recoveringToEnd: true,
    bytesPerSecDuring: 3000,
    seconds: 3,
    amplification: 1.2,
  });
});

test("a load with failed operations is no figure", async () => {
  const run = runRecovery(new Machine("write: Timeout"), OPTIONS);
  expect(run).rejects.toMatchObject({ code: "FB5001" });
  await run.catch(() => undefined);
});
