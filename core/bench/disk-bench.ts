import { assert } from "../base/assert.ts";
import { FastblockError } from "../base/errors.ts";
import { Status } from "../base/status.ts";
import { LatencyHistogram } from "../metrics/metrics.ts";
import { type Disk, DiskOp, DiskVerb, Timer, type World } from "../reactor/world.ts";
import { type BenchRow, type BenchSpan, type CpuClock, rowOf } from "./bench-row.ts";

/** One case of `fastblock bench disk`. */
export interface DiskBenchCase {
  readonly verb: "read" | "write" | "writeDurable";
  readonly depth: number;
  /** Bytes of an operation, a multiple of 4096. */
  readonly blockBytes: number;
  readonly durationMs: number;
  /** Random places (default) or one after the other. */
  readonly sequential?: boolean;
}

const RAMP_US = 300_000;
const VERBS = {
  read: DiskVerb.Read,
  write: DiskVerb.Write,
  writeDurable: DiskVerb.WriteDurable,
} as const;

/**
 * Keep `depth` operations in flight on a disk and measure them. The world must be running; the
 * disk's content is overwritten by the writing cases. Rejects with FB4009 when an operation fails.
 */
export function runDiskBench(
  world: World,
  disk: Disk,
  one: DiskBenchCase,
  cpu: CpuClock,
): Promise<BenchRow> {
  return new Promise((resolve, reject) => {
    new DiskLoad(world, disk, one, cpu, resolve, reject).begin();
  });
}

/** Write the whole disk once, so that later cases meet blocks that exist. */
export async function fillDisk(world: World, disk: Disk): Promise<void> {
  const pieceBytes = 1_048_576;
  const memory = world.slots.take(pieceBytes);
  assert(memory >= 0, "fillDisk: no slot of 1 MiB");
  world.random.fill(world.arena.bytes.subarray(memory, memory + pieceBytes));
  for (let at = 0; at < disk.sizeBytes; at += pieceBytes) {
    await runOne(disk, DiskVerb.Write, memory, at, Math.min(pieceBytes, disk.sizeBytes - at));
  }
  await runOne(disk, DiskVerb.Flush, 0, 0, 0);
  world.slots.release(memory);
}

function runOne(
  disk: Disk,
  verb: DiskVerb,
  arenaOffset: number,
  offsetBytes: number,
  lengthBytes: number,
): Promise<void> {
  return new Promise((resolve, reject) => {
    const op = new (class extends DiskOp {
      onDone(): void {
        if (this.status === Status.Ok) resolve();
        else reject(diskFailure(disk, this.errno));
      }
    })();
    op.verb = verb;
    op.arenaOffset = arenaOffset;
    op.offsetBytes = offsetBytes;
    op.lengthBytes = lengthBytes;
    disk.submit(op);
  });
}

function diskFailure(disk: Disk, errno: number): FastblockError {
  return new FastblockError("FB4009", `bench on ${disk.path}: errno ${errno}, wanted 0`);
}

class LoadOp extends DiskOp {
  startedUs = 0;
  private readonly load: DiskLoad;

  constructor(load: DiskLoad) {
    super();
    this.load = load;
  }

  onDone(): void {
    this.load.onDone(this);
  }
}

enum Phase {
  Ramp = 0,
  Measured = 1,
  Ending = 2,
}

class DiskLoad extends Timer {
  private readonly world: World;
  private readonly disk: Disk;
  private readonly one: DiskBenchCase;
  private readonly cpu: CpuClock;
  private readonly resolve: (row: BenchRow) => void;
  private readonly reject: (error: unknown) => void;
  private readonly histogram = new LatencyHistogram();
  private readonly memory: number;
  private readonly places: number;
  private next = 0;
  private phase = Phase.Ramp;
  private inFlight = 0;
  private startUs = 0;
  private span: BenchSpan | null = null;
  private cpuBefore = { userUs: 0, systemUs: 0 };
  private failure: unknown = null;

  constructor(
    world: World,
    disk: Disk,
    one: DiskBenchCase,
    cpu: CpuClock,
    resolve: (row: BenchRow) => void,
    reject: (error: unknown) => void,
  ) {
    super();
    this.world = world;
    this.disk = disk;
    this.one = one;
    this.cpu = cpu;
    this.resolve = resolve;
    this.reject = reject;
    this.memory = world.arena.allocate(one.depth * one.blockBytes);
    const bytes = one.depth * one.blockBytes;
    world.random.fill(world.arena.bytes.subarray(this.memory, this.memory + bytes));
    this.places = Math.floor(disk.sizeBytes / one.blockBytes);
    assert(this.places > 0, "bench disk: the disk is smaller than one operation");
  }

  begin(): void {
    for (let at = 0; at < this.one.depth; at++) {
      const op = new LoadOp(this);
      op.verb = VERBS[this.one.verb];
      op.arenaOffset = this.memory + at * this.one.blockBytes;
      op.lengthBytes = this.one.blockBytes;
      this.start(op);
    }
    this.world.timers.arm(this, RAMP_US);
    this.world.turns.again();
  }

  onTimer(): void {
    if (this.phase === Phase.Ramp) {
      this.phase = Phase.Measured;
      this.histogram.reset();
      this.cpuBefore = this.cpu.read();
      this.startUs = this.world.clock.nowUs();
      this.world.timers.arm(this, this.one.durationMs * 1000);
      return;
    }
    this.phase = Phase.Ending;
    this.span = {
      startUs: this.startUs,
      endUs: this.world.clock.nowUs(),
      cpuBefore: this.cpuBefore,
      cpuAfter: this.cpu.read(),
    };
  }

  onDone(op: LoadOp): void {
    this.inFlight -= 1;
    if (op.status !== Status.Ok) {
      this.failure ??= diskFailure(this.disk, op.errno);
      this.phase = Phase.Ending;
    }
    if (this.phase !== Phase.Ending) {
      this.histogram.record(this.world.clock.turnUs - op.startedUs);
      this.start(op);
    } else if (this.inFlight === 0) this.finish();
  }

  private start(op: LoadOp): void {
    this.inFlight += 1;
    const place =
      this.one.sequential === true
        ? this.next++ % this.places
        : this.world.random.below(this.places);
    op.offsetBytes = place * this.one.blockBytes;
    op.startedUs = this.world.clock.turnUs;
    this.disk.submit(op);
  }

  private finish(): void {
    this.world.timers.disarm(this);
    if (this.failure !== null || this.span === null) {
      this.reject(this.failure);
      return;
    }
    const { verb, depth } = this.one;
    this.resolve(rowOf(`${verb} depth ${depth}`, this.histogram, this.span));
  }
}
