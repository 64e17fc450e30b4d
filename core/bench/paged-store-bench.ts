import { FastblockError } from "../base/errors.ts";
import { Prng } from "../base/prng.ts";
import { Status, statusName } from "../base/status.ts";
import { BLOCK_SIZE, UNIT_SIZE } from "../base/units.ts";
import { LatencyHistogram } from "../metrics/metrics.ts";
import { BlockState, formatStore, LocalStore, StoreReadOp } from "../pg/pg.ts";
import { type Disk, type World } from "../reactor/world.ts";
import { FRAME_BYTES, SLOTS_PER_PAGE } from "../store/store.ts";
import { type BarReport, barOf } from "./bars.ts";
import type { CpuClock } from "./bench-row.ts";
import type { MicroRow, PagedStoreBenchOptions } from "./bench.ts";
import { fillDisk, runDiskBench } from "./disk-bench.ts";
import { latencyReport } from "./latency.ts";
import { round } from "./spending.ts";
import { StoreLoad } from "./store-load.ts";

/**
 * `fastblock bench store --paged`: random 4 KiB reads of a store of whose index next to nothing is in
 * memory, in turns with random reads of the bare file, by the same reactor at the same depth.
 *
 * Nearly every read loads an index page first, so half of the bare file's rate is the most there can be.
 */
const PAGED_STORE_ROW = "store:randread:4KiB:32:paged";

const MIB = 1_048_576;
const LAYER = 5;
const LOG_BYTES = 64 * MIB;
const SPARE_BYTES = 256 * MIB;
const SPARE_SHARE = 1.1;
/** Of the rows of all units one in so many may be in memory. */
const ROWS_SHARE = 32;
/** Not counted: code is compiled in it. */
const WARM_TURNS = 1;
const TURNS = 4;
const RATIO_WANTED = 0.45;

export function pagedStoreBytesOf({ imageBytes }: PagedStoreBenchOptions): number {
  return Math.ceil((LOG_BYTES + SPARE_BYTES + imageBytes * SPARE_SHARE) / MIB) * MIB;
}

/**
 * Format the disk, write an image in full, read. The world must be running; the disk is closed afterwards.
 * Answers the row of the bare file, then that of the store. Throws FB4007, FB4009, FB5001.
 */
export async function runPagedStoreBench(
  world: World,
  disk: Disk,
  options: PagedStoreBenchOptions,
  cpu: CpuClock,
): Promise<readonly MicroRow[]> {
  const { imageBytes, depth } = options;
  await fillDisk(world, disk);
  const place = { world, disk, clusterId: new Uint8Array(16).fill(1), osd: 0, shardCount: 1 };
  await formatStore({ ...place, logBytes: LOG_BYTES, force: true });
  const pages = imageBytes / UNIT_SIZE / SLOTS_PER_PAGE;
  const indexBytes = Math.ceil((pages * FRAME_BYTES) / ROWS_SHARE);
  const load = new StoreLoad(world, { imageBytes, depth });
  const { logger } = world;
  const store = await LocalStore.open({ ...place, shard: 0, owner: load, logger, indexBytes });
  await load.begin(store);
  await load.fill(LAYER);
  const reads = new StoreReads(world, store, load.row, options);
  const turnMs = options.timeMs / (2 * TURNS);
  const bare = { operations: 0, us: 0, cpuUs: 0 };
  for (let turn = 0; turn < WARM_TURNS + TURNS; turn++) {
    const one = { verb: "read", depth, blockBytes: BLOCK_SIZE, durationMs: turnMs } as const;
    const row = await runDiskBench(world, disk, one, cpu);
    const cpuUs = cpuUsOf(cpu);
    const us = await reads.turn(turnMs * 1000);
    if (turn < WARM_TURNS) {
      reads.reset();
      continue;
    }
    bare.operations += (row.opsPerSecond * turnMs) / 1000;
    bare.us += turnMs * 1000;
    bare.cpuUs += (row.cpuUsPerOp.user + row.cpuUsPerOp.system) * row.operations;
    reads.us += us;
    reads.cpuUs += cpuUsOf(cpu) - cpuUs;
  }
  const { pageLoads } = store.counters;
  await load.end();
  return rowsOf(disk, bare, reads, pageLoads);
}

function cpuUsOf(cpu: CpuClock): number {
  const { userUs, systemUs } = cpu.read();
  return userUs + systemUs;
}

function rowsOf(
  disk: Disk,
  bare: { readonly operations: number; readonly us: number; readonly cpuUs: number },
  reads: StoreReads,
  pageLoads: number,
): readonly MicroRow[] {
  const bareIops = round((bare.operations * 1_000_000) / bare.us);
  const iops = round((reads.histogram.count * 1_000_000) / reads.us);
  const { mean: _, ...latencyUs } = latencyReport(reads.histogram);
  const loadsPerRead = round((pageLoads - reads.loadsBefore) / reads.histogram.count);
  const { seen, verdict, wanted } = judgePagedStore([{ iops: bareIops }, { iops }]);
  const { backend } = disk;
  const rate = (value: number) => ({ iops: value, bytesPerSec: Math.round(value * BLOCK_SIZE) });
  const cpu = (us: number, count: number) => ({ cpuUsPerIo: round(us / count) });
  return [
    {
      name: "bare file",
      ...rate(bareIops),
      latencyUs: null,
      ...cpu(bare.cpuUs, bare.operations),
      backend,
      note: "",
    },
    {
      name: "index paged",
      ...rate(iops),
      latencyUs,
      ...cpu(reads.cpuUs, reads.histogram.count),
      backend,
      note: `${seen} of the bare file's reads (at least ${wanted}: ${verdict}), ${loadsPerRead} index pages a read`,
      ratio: seen,
      loadsPerRead,
    },
  ];
}

/** What is aimed at: a part of the bare file's rate. */
export function judgePagedStore(rows: readonly Pick<MicroRow, "iops">[]): BarReport {
  const figure = "IOPS ÷ the bare file's";
  const bar = { row: PAGED_STORE_ROW, figure, wanted: RATIO_WANTED, isMost: false };
  return barOf(bar, (rows[1]?.iops ?? 0) / (rows[0]?.iops ?? 0));
}

/** Keeps reads of random blocks open while a turn goes on. */
class StoreReads {
  histogram = new LatencyHistogram();
  us = 0;
  cpuUs = 0;
  loadsBefore = 0;
  open = 0;
  private readonly world: World;
  private readonly store: LocalStore;
  private readonly random = new Prng(2);
  private readonly blocks: number;
  private readonly ops: BlockRead[] = [];
  private untilUs = 0;
  private failure = "";
  private ended: (() => void) | null = null;

  constructor(
    world: World,
    store: LocalStore,
    row: number,
    { imageBytes, depth }: PagedStoreBenchOptions,
  ) {
    this.world = world;
    this.store = store;
    this.blocks = imageBytes / BLOCK_SIZE;
    const memory = world.arena.allocate(depth * BLOCK_SIZE);
    for (let at = 0; at < depth; at++) {
      const op = new BlockRead(this);
      op.row = row;
      op.layer = LAYER;
      op.blocks = 1;
      op.arenaOffset = memory + at * BLOCK_SIZE;
      this.ops.push(op);
    }
  }

  /** What was counted does not count. */
  reset(): void {
    this.histogram = new LatencyHistogram();
    this.loadsBefore = this.store.counters.pageLoads;
  }

  /** Read for so long; answers how long it took. Throws FB5001 when a block is not what was written. */
  async turn(forUs: number): Promise<number> {
    const { clock } = this.world;
    const beganUs = clock.nowUs();
    this.untilUs = beganUs + forUs;
    const ended = new Promise<void>((resolve) => {
      this.ended = resolve;
    });
    for (const op of this.ops) this.start(op);
    this.world.turns.again();
    await ended;
    if (this.failure === "") return clock.nowUs() - beganUs;
    throw new FastblockError("FB5001", `reading from the store: ${this.failure}`);
  }

  private start(op: BlockRead): void {
    op.firstBlock = this.random.below(this.blocks);
    op.startedUs = this.world.clock.turnUs;
    this.open += 1;
    // Every block has data: none is answered at once.
    if (this.store.read(op)) this.onRead(op);
  }

  onRead(op: BlockRead): void {
    this.open -= 1;
    const { turnUs } = this.world.clock;
    if (op.status !== Status.Ok) this.failure = statusName(op.status);
    else if (op.states[0] !== BlockState.Data) this.failure = `block ${op.firstBlock} has no data`;
    else this.histogram.record(turnUs - op.startedUs);
    if (turnUs < this.untilUs && this.failure === "") this.start(op);
    else if (this.open === 0) this.ended?.();
  }
}

class BlockRead extends StoreReadOp {
  startedUs = 0;
  private readonly reads: StoreReads;

  constructor(reads: StoreReads) {
    super();
    this.reads = reads;
  }

  onDone(): void {
    this.reads.onRead(this);
  }
}
