/**
 * G9: how long requests stand still when one process, machine or disk of five fails, in simulated time:
 * the same on every machine, and free of what a busy one adds.
 *
 * Each group has a writer and a reader with one request open. Waits count from the fault until a while
 * after its end, so that the return of what failed is in them. Groups that the failed osd led may wait
 * for an election; others must not notice. `STALL_SEEDS=100` runs more seeds.
 */
import { expect, test } from "bun:test";
import { drainMicrotasks } from "bun:jsc";
import { assert } from "../base/assert.ts";
import { BLOCK_SIZE } from "../base/units.ts";
import type { Image } from "../client/client.ts";
import { objectToPg } from "../cluster/cluster.ts";
import { SystemChecksum } from "../reactor/bun-system.ts";
import { awakeOf, SimCluster, type SimOsd } from "./sim-cluster.ts";

const SEEDS = Number(process.env["STALL_SEEDS"] ?? "3");
const PG_COUNT = 16;
const OBJECT_BYTES = 131_072;
const OBJECTS = 256;
const THINK_US = 20_000;
const LIMIT_US = 90_000_000;
const AFTER_US = 4_000_000;
/** The length of faults that end by themselves. */
const FAULT_US = 4_000_000;
/** A slow disk is judged by what it did over some seconds. */
const SLOW_US = 10_000_000;

/** µs that requests may wait, of groups that the failed osd led at the time, and of others. */
interface Bounds {
  readonly p99Us: number;
  readonly maxUs: number;
  readonly othersUs: number;
}

const STOPPED: Bounds = { p99Us: 200_000, maxUs: 200_000, othersUs: 200_000 };
const KILLED: Bounds = { p99Us: 2_000_000, maxUs: 5_000_000, othersUs: 500_000 };
const PAUSED: Bounds = { p99Us: 3_000_000, maxUs: 5_000_000, othersUs: 500_000 };
const SLOW: Bounds = { p99Us: 10_000_000, maxUs: 10_000_000, othersUs: 500_000 };

/** Longest waits of all seeds, one of each group. */
class Waits {
  readonly led: number[] = [];
  readonly others: number[] = [];

  judge(what: string, bounds: Bounds): void {
    this.led.sort((left, right) => left - right);
    this.others.sort((left, right) => left - right);
    const ms = (us: number): string => `${(us / 1000).toFixed(0)} ms`;
    const at = (values: readonly number[], share: number): number =>
      values[Math.min(values.length - 1, Math.floor(values.length * share))] ?? 0;
    console.log(
      `${what}: ${String(this.led.length)} groups led there: median ${ms(at(this.led, 0.5))}, ` +
        `p99 ${ms(at(this.led, 0.99))}, max ${ms(at(this.led, 1))}; ` +
        `${String(this.others.length)} others: max ${ms(at(this.others, 1))}`,
    );
    expect(this.led.length).toBeGreaterThan(SEEDS);
    expect(this.others.length).toBeGreaterThan(this.led.length);
    expect(at(this.led, 0.99)).toBeLessThanOrEqual(bounds.p99Us);
    expect(at(this.led, 1)).toBeLessThanOrEqual(bounds.maxUs);
    expect(at(this.others, 1)).toBeLessThanOrEqual(bounds.othersUs);
  }
}

class Bench {
  readonly cluster: SimCluster;
  private readonly image: Image;
  private readonly waitsUs = new Map<number, number>();
  private readonly openSinceUs = new Map<string, number>();
  private stopped = false;

  constructor(seed: number) {
    this.cluster = new SimCluster(seed, {
      osds: 5,
      replicas: 3,
      pgCount: PG_COUNT,
      imageBytes: OBJECTS * OBJECT_BYTES,
      objectBytes: OBJECT_BYTES,
      checksum: new SystemChecksum(),
      errorsAllowed: true,
      drainMicrotasks,
    });
    this.cluster.start();
    this.image = this.cluster.await("open", this.cluster.client.openImage("pool/image"));
    this.until("established", () => this.cluster.pgs.every((pg) => !pg.creating));
    const seen = new Set<number>();
    for (let object = 0; object < OBJECTS; object++) {
      const pg = objectToPg(this.image.pool, this.image.session.header.familyId, object);
      if (seen.has(pg)) continue;
      seen.add(pg);
      const offset = object * OBJECT_BYTES;
      this.go(`write ${String(pg)}`, pg, () => this.image.write(offset, block(seed)));
      this.go(`read ${String(pg)}`, pg, () => this.image.read(offset, BLOCK_SIZE));
    }
    expect(seen.size).toBe(PG_COUNT);
  }

  until(what: string, done: () => boolean): void {
    expect(`${what}: ${this.cluster.simulation.run(done, LIMIT_US)}`).toBe(`${what}: true`);
  }

  pass(us: number): void {
    const { simulation } = this.cluster;
    simulation.run(simulation.nowUs + us);
  }

  /** One request after the other. */
  private go(name: string, pg: number, request: () => Promise<unknown>): void {
    const { simulation } = this.cluster;
    const loop = async (): Promise<void> => {
      while (!this.stopped) {
        const beganUs = simulation.nowUs;
        this.openSinceUs.set(name, beganUs);
        await request();
        this.openSinceUs.delete(name);
        this.waited(pg, simulation.nowUs - beganUs);
        await new Promise<void>((resolve) => simulation.after(THINK_US, resolve));
      }
    };
    loop().catch((error: unknown) => simulation.fail(name, error));
  }

  private waited(pg: number, us: number): void {
    this.waitsUs.set(pg, Math.max(this.waitsUs.get(pg) ?? 0, us));
  }

  /** Groups that an osd leads now. */
  ledBy(osd: SimOsd): Set<number> {
    const led = awakeOf(osd).filter((group) => group.serving);
    return new Set(led.map((group): number => group.pg));
  }

  /** Let `fail` and its end happen, and note how long each group waited meanwhile. */
  measure(osd: SimOsd, waits: Waits, fail: () => void, lengthUs: number, end: () => void): void {
    const led = this.ledBy(osd);
    assert(led.size > 0, "Bench.measure: the osd leads nothing");
    this.waitsUs.clear();
    fail();
    this.pass(lengthUs);
    end();
    this.pass(AFTER_US);
    this.stopped = true;
    this.until("all are answered", () => this.openSinceUs.size === 0);
    for (const [pg, us] of this.waitsUs) (led.has(pg) ? waits.led : waits.others).push(us);
    expect(this.waitsUs.size).toBe(PG_COUNT);
  }
}

function block(value: number): Uint8Array {
  return new Uint8Array(BLOCK_SIZE).fill(value);
}

/** Run `fault` on an osd of each seed's cluster, and judge the waits of all. */
function each(
  what: string,
  bounds: Bounds,
  fault: (bench: Bench, osd: SimOsd) => { fail: () => void; end: () => void; lengthUs?: number },
): void {
  test(
    `G9: ${what}`,
    () => {
      const waits = new Waits();
      for (let seed = 1; seed <= SEEDS; seed++) {
        const bench = new Bench(seed);
        bench.pass(2_000_000);
        const osds = bench.cluster.osds.filter((osd) => bench.ledBy(osd).size > 0);
        const osd = osds[seed % osds.length]!;
        const { fail, end, lengthUs = FAULT_US } = fault(bench, osd);
        bench.measure(osd, waits, fail, lengthUs, end);
      }
      waits.judge(what, bounds);
    },
    SEEDS * 30_000,
  );
}

each("a process is stopped and started again", STOPPED, ({ cluster }, osd) => ({
  fail: () => {
    cluster.stopOsd(osd).catch((error: unknown) => cluster.simulation.fail("stop", error));
  },
  end: () => cluster.startOsd(osd),
}));

each("a process is killed and started again", KILLED, ({ cluster }, osd) => ({
  fail: () => {
    osd.world!.crash();
    osd.session = null;
  },
  end: () => cluster.startOsd(osd),
}));

each("a machine loses its power and gets it back", PAUSED, ({ cluster }, osd) => ({
  fail: () => {
    osd.world!.powerCut();
    osd.session = null;
  },
  end: () => cluster.startOsd(osd),
}));

each("a process is paused", PAUSED, (_, osd) => ({
  fail: () => osd.world!.pause(),
  end: () => osd.world!.resume(),
}));

each("a machine is cut off", PAUSED, ({ cluster: { simulation } }, { address }) => ({
  fail: () => {
    simulation.cut("*", address);
    simulation.cut(address, "*");
  },
  end: () => simulation.heal(),
}));

each("nothing that a machine sends arrives", PAUSED, ({ cluster }, { address }) => ({
  fail: () => cluster.simulation.cut(address, "*"),
  end: () => cluster.simulation.heal(),
}));

each("nothing arrives at a machine", PAUSED, ({ cluster }, { address }) => ({
  fail: () => cluster.simulation.cut("*", address),
  end: () => cluster.simulation.heal(),
}));

each("a disk answers nothing for a while", PAUSED, ({ cluster }, { path }) => {
  const { faults } = cluster.simulation.disk(path);
  return {
    fail: () => {
      faults.stalled = true;
    },
    end: () => {
      faults.stalled = false;
    },
  };
});

each("a disk takes 200 ms for each operation", SLOW, (bench, osd) => {
  const { faults } = bench.cluster.simulation.disk(osd.path);
  const { latencyUsMin, latencyUsMax } = faults;
  return {
    fail: () => Object.assign(faults, { latencyUsMin: 190_000, latencyUsMax: 210_000 }),
    lengthUs: SLOW_US,
    end: () => {
      expect(bench.ledBy(osd).size).toBe(0);
      Object.assign(faults, { latencyUsMin, latencyUsMax });
    },
  };
});

/** One operation never ends, others do: whoever waits for it goes elsewhere as from a disk that stands. */
function hangs(what: string, hang: { hangReads: number } | { hangWrites: number }): void {
  each(`one ${what} of a disk never ends`, SLOW, (bench, osd) => {
    const { faults, strikes } = bench.cluster.simulation.disk(osd.path);
    return {
      fail: () => Object.assign(faults, hang),
      lengthUs: SLOW_US,
      end: () => {
        expect(strikes.hung).toBe(1);
        expect(bench.ledBy(osd).size).toBe(0);
        osd.world!.powerCut();
        osd.session = null;
        bench.cluster.startOsd(osd);
      },
    };
  });
}

hangs("read", { hangReads: 1 });
hangs("write", { hangWrites: 1 });

test("G9: the monitor dies and comes back: no request waits", () => {
  const bench = new Bench(1);
  const { cluster } = bench;
  bench.pass(2_000_000);
  const waits = new Waits();
  const back = (): void => cluster.startMonitor();
  bench.measure(cluster.osds[0]!, waits, () => cluster.crashMonitor(), FAULT_US, back);
  expect(Math.max(...waits.led, ...waits.others)).toBeLessThanOrEqual(500_000);
}, 60_000);
