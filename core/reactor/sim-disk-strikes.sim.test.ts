import { describe, expect, test } from "bun:test";
import { DiskBase } from "./disk-base.ts";
import type { SimDiskFile } from "./sim-disk.ts";
import { Simulation, type SimWorld } from "./sim-world.ts";
import { type Disk, DiskOp, DiskVerb } from "./world.ts";

const BLOCK = 4096;
const BLOCKS = 16;

class Op extends DiskOp {
  done = false;
  onDone(): void {
    this.done = true;
  }
}

/** A process with a device, whose blocks hold numbers. */
class Bench {
  readonly simulation: Simulation;
  readonly world: SimWorld;
  readonly disk: Disk;
  readonly file: SimDiskFile;
  private readonly memory: number;

  constructor(seed: number) {
    this.simulation = new Simulation(seed);
    this.world = this.simulation.createWorld("osd.0", "10.0.0.1");
    this.world.start();
    this.disk = this.world.disks.open("disk", { createBytes: 1_048_576 });
    this.file = this.simulation.disk("disk");
    this.memory = this.world.slots.take(BLOCKS * BLOCK);
  }

  submit(verb: DiskVerb, blocks = 1, disk = this.disk): Op {
    const op = new Op();
    const isFlush = verb === DiskVerb.Flush;
    op.verb = verb;
    op.arenaOffset = this.memory;
    op.lengthBytes = isFlush ? 0 : blocks * BLOCK;
    disk.submit(op);
    return op;
  }

  /** Do it; answers its errno. */
  run(verb: DiskVerb, blocks = 1, disk = this.disk): number {
    const op = this.submit(verb, blocks, disk);
    expect(this.simulation.run(() => op.done)).toBe(true);
    return op.errno;
  }

  write(value: number, blocks: number, verb = DiskVerb.Write): number {
    this.bytes(blocks).fill(value);
    return this.run(verb, blocks);
  }

  /** Memory of the blocks. */
  bytes(blocks: number): Uint8Array {
    return this.world.arena.bytes.subarray(this.memory, this.memory + blocks * BLOCK);
  }

  /** How many bytes of the blocks a read would see with a value. */
  count(value: number, blocks: number): number {
    return this.file.peek(0, blocks * BLOCK).filter((byte) => byte === value).length;
  }
}

describe("G5: a flush that fails", () => {
  test("drops some of what it covered, for good, and nothing of what was written later", () => {
    const few = 2;
    const seen = { all: 0, some: 0, none: 0 };
    for (let seed = 1; seed <= 200; seed++) {
      const bench = new Bench(seed);
      bench.write(1, few);
      expect(bench.run(DiskVerb.Flush)).toBe(0);
      bench.write(2, few);
      bench.file.faults.failFlushes = 1;
      const flush = bench.submit(DiskVerb.Flush);
      expect(bench.simulation.run(() => flush.done)).toBe(true);
      expect(flush.errno).toBe(5);
      const left = bench.count(2, few);
      expect(left + bench.count(1, few)).toBe(few * BLOCK);
      if (left === few * BLOCK) seen.all += 1;
      else if (left > 0) seen.some += 1;
      else seen.none += 1;
      // It works on, and the next flush knows nothing of that.
      expect(bench.run(DiskVerb.Flush)).toBe(0);
      expect(bench.run(DiskVerb.Read, few)).toBe(0);
      bench.world.powerCut();
      expect(bench.count(2, few)).toBe(left);
    }
    expect(Math.min(seen.all, seen.some, seen.none)).toBeGreaterThan(0);
  });

  test("what was written behind it is as it was", () => {
    for (let seed = 1; seed <= 20; seed++) {
      const bench = new Bench(seed);
      bench.write(1, 2);
      bench.file.faults.failFlushes = 1;
      // The device takes its time for the flush, and less for what comes then.
      Object.assign(bench.file.faults, { latencyUsMin: 1000, latencyUsMax: 1000 });
      const flush = bench.submit(DiskVerb.Flush);
      Object.assign(bench.file.faults, { latencyUsMin: 30, latencyUsMax: 30 });
      bench.write(2, 2);
      expect(flush.done).toBe(false);
      expect(bench.simulation.run(() => flush.done)).toBe(true);
      expect(bench.count(2, 2)).toBe(2 * BLOCK);
      expect(bench.run(DiskVerb.Flush)).toBe(0);
      expect(bench.file.peekDurable(0, 1)[0]).toBe(2);
    }
  });

  test("is told once to each who has the device open", () => {
    const bench = new Bench(1);
    const other = bench.world.disks.open("disk", { shard: 1 });
    bench.file.faults.failFlushes = 1;
    expect(bench.run(DiskVerb.Flush)).toBe(5);
    expect([bench.run(DiskVerb.Flush, 1, other), bench.run(DiskVerb.Flush, 1, other)]).toEqual([
      5, 0,
    ]);
    expect(bench.run(DiskVerb.Flush)).toBe(0);
  });
});

describe("one operation", () => {
  test.each([DiskVerb.Read, DiskVerb.Write, DiskVerb.WriteDurable, DiskVerb.Flush])(
    "never completes (verb %d), and the others do",
    (verb) => {
      const bench = new Bench(3);
      Object.assign(
        bench.file.faults,
        verb === DiskVerb.Read ? { hangReads: 1 } : { hangWrites: 1 },
      );
      const hung = bench.submit(verb);
      expect(bench.run(verb)).toBe(0);
      expect(bench.run(DiskVerb.Read)).toBe(0);
      expect(bench.simulation.run(() => hung.done, 60_000_000)).toBe(false);
      expect(bench.disk.inFlight).toBe(1);
      expect(bench.file.strikes.hung).toBe(1);
      bench.world.crash();
      expect(bench.file.owner).toBeNull();
    },
  );

  test("that moves less than it was to has failed, whatever it moved", () => {
    const lengths = new Set<number>();
    for (let seed = 1; seed <= 40; seed++) {
      const bench = new Bench(seed);
      expect(bench.disk).toBeInstanceOf(DiskBase);
      bench.write(1, 2, DiskVerb.WriteDurable);
      bench.file.faults.shortShare = 1;
      expect(bench.write(2, 2, seed % 2 === 0 ? DiskVerb.Write : DiskVerb.WriteDurable)).toBe(5);
      const moved = bench.count(2, 2);
      expect(moved).toBeLessThan(2 * BLOCK);
      expect(moved + bench.count(1, 2)).toBe(2 * BLOCK);
      // From the first sector on, without a gap.
      expect(bench.file.peek(0, moved).every((byte) => byte === 2)).toBe(true);
      lengths.add(moved / 512);
      bench.bytes(2).fill(9);
      expect(bench.run(DiskVerb.Read, 2)).toBe(5);
      const seen = bench.bytes(2);
      expect(seen.at(-1)).toBe(0xa5);
      expect(bench.file.strikes.short).toBe(2);
    }
    expect(lengths.size).toBeGreaterThan(8);
  });
});
