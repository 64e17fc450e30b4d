import { describe, expect, test } from "bun:test";
import { pairsOf } from "./bun-links.ts";
import {
  type IdleOptions,
  type IdleOutside,
  type IdleRow,
  judgeIdle,
  poolsFor,
  runIdle,
} from "./idle.ts";

const OPTIONS: IdleOptions = {
  directory: "",
  groups: 100,
  shards: 1,
  timeMs: 10_000,
  restMs: 600_000,
  backend: "auto",
};

/** A cluster that spends more until some time after its groups were made. */
class Machine implements IdleOutside {
  readonly said: string[] = [];
  private atMs = 0;
  private cpuUs = 0;
  private madeMs = Number.POSITIVE_INFINITY;
  private readonly busyMs: number;
  private readonly electionsMs: number;

  constructor(busyMs: number, electionsMs: number) {
    this.busyMs = busyMs;
    this.electionsMs = electionsMs;
  }

  async makeGroups(): Promise<void> {
    await this.sleep(2000);
    this.madeMs = this.atMs;
  }

  usage(): { name: string; cpuUs: number }[] {
    return [
      { name: "mon.a", cpuUs: 0 },
      { name: "osd.0", cpuUs: this.cpuUs },
    ];
  }

  pairs(): { name: string; bytes: number; shardPairs: number }[] {
    return [
      { name: "osd.0 osd.1", bytes: this.atMs * 2, shardPairs: 4 },
      { name: "osd.1 osd.2", bytes: this.atMs * 9, shardPairs: 4 },
    ];
  }

  memory(): Map<string, number> {
    const bytes = 1_000_000 + (this.atMs >= this.madeMs ? 204_800 : 0);
    return new Map([["osd.0", bytes]]);
  }

  replicas(): Promise<Map<string, number>> {
    return Promise.resolve(new Map([["osd.0", 100]]));
  }

  elections(): Promise<number> {
    const since = this.atMs - this.madeMs;
    return Promise.resolve(Math.max(0, Math.min(since, this.electionsMs)));
  }

  sleep(ms: number): Promise<void> {
    for (let slept = 0; slept < ms; slept += 100) {
      this.atMs += 100;
      const since = this.atMs - this.madeMs;
      const share = since > 0 && since < this.busyMs ? 1 - since / this.busyMs : 0.01;
      this.cpuUs += share * 100_000;
    }
    return Promise.resolve();
  }

  nowMs(): number {
    return this.atMs;
  }

  say(words: string): void {
    this.said.push(words);
  }
}

function rowOf(figures: Partial<IdleRow>): IdleRow {
  return {
    name: "osd.0",
    cpuShare: 0.01,
    replicas: 10,
    pairBytesPerSec: 1024,
    anonymousBytesBare: 0,
    anonymousBytes: 40_960,
    bytesPerReplica: 4096,
    ...figures,
  };
}

const verdicts = (...rows: readonly IdleRow[]): (string | number | null)[][] =>
  judgeIdle(rows, 10).map(({ seen, verdict }) => [seen, verdict]);

describe("idle groups", () => {
  test("what all rest at is measured, and memory beside the cluster without groups", async () => {
    const machine = new Machine(60_000, 0);
    const { rows, rested, makeSeconds, restSeconds } = await runIdle(machine, OPTIONS);
    expect([rested, makeSeconds]).toEqual([true, 2]);
    expect(restSeconds).toBeGreaterThanOrEqual(60);
    expect(restSeconds).toBeLessThan(100);
    expect(rows).toEqual([
      {
        ...{ name: "mon.a", cpuShare: 0, replicas: 0, pairBytesPerSec: null },
        ...{ anonymousBytesBare: 0, anonymousBytes: 0, bytesPerReplica: null },
      },
      {
        ...{ name: "osd.0", cpuShare: 0.01, replicas: 100, pairBytesPerSec: 500 },
        ...{ anonymousBytesBare: 1_000_000, anonymousBytes: 1_204_800, bytesPerReplica: 2048 },
      },
    ]);
  });

  test("groups whose leaders still go home do not rest, though nobody spends anything", async () => {
    const { restSeconds, rested } = await runIdle(new Machine(0, 100_000), OPTIONS);
    expect(rested).toBe(true);
    expect(restSeconds).toBeGreaterThan(100);
  });

  test("what never rests is measured all the same, and says so", async () => {
    const machine = new Machine(0, 1_000_000);
    const { rested } = await runIdle(machine, OPTIONS);
    expect(rested).toBe(false);
    expect(machine.said.at(-1)).toContain("not at rest within 600 s");
  });

  test("a figure on the bar passes, one beyond it fails, and the worst osd counts", () => {
    const good = rowOf({});
    expect(verdicts(good)).toEqual([
      [1, "pass"],
      [1024, "pass"],
      [4096, "pass"],
    ]);
    const bad = rowOf({ cpuShare: 0.01001, pairBytesPerSec: 1025, bytesPerReplica: 4097 });
    expect(verdicts(good, bad)).toEqual([
      [1.001, "FAIL"],
      [1025, "FAIL"],
      [4097, "FAIL"],
    ]);
  });

  test("a mon is not judged, and what the system does not tell is not measured", () => {
    const mon = rowOf({ name: "mon.a", cpuShare: 1, replicas: 0 });
    expect(verdicts(mon, rowOf({ pairBytesPerSec: null }))).toEqual([
      [1, "pass"],
      [null, "not measured"],
      [4096, "pass"],
    ]);
  });

  test("any count of groups is made of pools with a power of two", () => {
    expect(poolsFor(10_000)).toEqual([8192, 1024, 512, 256, 16]);
    expect(poolsFor(64)).toEqual([64]);
    expect(poolsFor(1)).toEqual([1]);
  });
});

test("connections between osds are counted at the end that dialled, both ways", () => {
  const line = (from: number, to: number, pid: number, sent: number, received: string): string =>
    `ESTAB 0      0         127.0.0.1:${from}     127.0.0.1:${to} users:(("bun.exe",pid=${pid},fd=20)) bbr rto:204 bytes_sent:${sent} bytes_retrans:96 bytes_acked:11193${received} segs_out:62`;
  const text = [
    line(50_000, 8001, 10, 1000, " bytes_received:40"),
    line(8001, 50_000, 11, 40, " bytes_received:1000"),
    line(50_001, 8000, 11, 500, ""),
    // A client, the mon, and something that has no process.
    line(50_002, 8000, 99, 7777, ""),
    line(50_003, 7000, 10, 7777, ""),
    "ESTAB 0      0         127.0.0.1:1     127.0.0.1:8000 bbr bytes_sent:9",
  ].join("\n");
  const ends = [
    { name: "osd.1", pid: 11, ports: [8001] },
    { name: "osd.0", pid: 10, ports: [8000] },
  ];
  expect(pairsOf(text, ends)).toEqual([{ name: "osd.0 osd.1", bytes: 1540, shardPairs: 1 }]);
});
