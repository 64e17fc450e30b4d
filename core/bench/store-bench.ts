import { assert } from "../base/assert.ts";
import { FastblockError } from "../base/errors.ts";
import { Prng } from "../base/prng.ts";
import { Status } from "../base/status.ts";
import { BLOCK_SIZE, PAYLOAD_BLOCKS_MAX } from "../base/units.ts";
import { type Entry, EntryType } from "../log/log.ts";
import { LatencyHistogram } from "../metrics/metrics.ts";
import { formatStore, type GroupState, LocalStore, type StoreOwner } from "../pg/pg.ts";
import {
  CallbackTimer,
  type Disk,
  type Drain,
  DrainOrder,
  sleep,
  type World,
} from "../reactor/world.ts";
import { type BarReport, barOf } from "./bars.ts";
import type { MicroRow, StoreBenchOptions } from "./bench.ts";
import { fillDisk } from "./disk-bench.ts";
import { latencyReport } from "./latency.ts";
import { round } from "./spending.ts";

/**
 * `fastblock bench store`: random 4 KiB writes to a local store, with and without snapshots.
 *
 * One store of one shard on one file, one replica and two layers in it, no raft and no network: an entry is
 * committed as soon as it is durable. Both layers are written in turns of `snapshotMs`; when the turn of the
 * second one begins, its snapshot sequence grows by one, so the first write to each unit makes the store copy
 * that unit when it moves it home. A turn ends when all that it wrote is home, and that counts in its time:
 * else the copies would be paid in the other's turn.
 *
 * What a snapshot costs follows from the bytes that it makes be copied and the writes until the next one: an
 * image of 256 MiB with one every 3.75 s stands for one of 4 GiB with one every minute, and so does the log.
 */
export const STORE_ROW = "store:randwrite:4KiB:32:snapshots";

const MIB = 1_048_576;
/** What is measured where nobody says anything else. */
export const STORE_LOAD = {
  imageBytes: 256 * MIB,
  depth: 32,
  timeMs: 30_000,
  snapshotMs: 3750,
} as const;
const PG = 65_537;
const LAYERS = [5, 6] as const;
const LOG_BYTES = 64 * MIB;
/** Checkpoints, the index, zones that are used in part. */
const SPARE_BYTES = 256 * MIB;
const SPARE_SHARE = 1.1;
/** Not counted: code is compiled in it. */
const WARM_TURNS = 1;
const LOOK_US = 1000;
const RATIO_WANTED = 0.6;

/** How often each layer has its turn. */
function turnsOf({ timeMs, snapshotMs }: StoreBenchOptions): number {
  return Math.max(1, Math.round(timeMs / (2 * snapshotMs)));
}

/** Room for both layers, and for each unit of the second one once for every snapshot. */
export function storeBytesOf(options: StoreBenchOptions): number {
  const layers = LAYERS.length + WARM_TURNS + turnsOf(options);
  const bytes = LOG_BYTES + SPARE_BYTES + layers * options.imageBytes * SPARE_SHARE;
  return Math.ceil(bytes / MIB) * MIB;
}

/**
 * Format the disk, write both layers in full, measure. The world must be running; the disk is closed
 * afterwards. Answers the row without snapshots, then the one with. Throws FB4007, FB5001.
 */
export async function runStoreBench(
  world: World,
  disk: Disk,
  options: StoreBenchOptions,
): Promise<readonly MicroRow[]> {
  const clusterId = new Uint8Array(16).fill(1);
  // Into holes a file system writes in another way, and copied units go where nothing was.
  await fillDisk(world, disk);
  const place = { world, disk, clusterId, osd: 0, shardCount: 1 };
  await formatStore({ ...place, logBytes: LOG_BYTES, force: true });
  const load = new StoreLoad(world, options);
  const { logger } = world;
  load.begin(await LocalStore.open({ ...place, shard: 0, owner: load, logger }));
  await load.until(() => load.row >= 0);
  for (const layer of LAYERS) await load.fill(layer);
  const halves = LAYERS.map(() => ({ us: 0, histogram: new LatencyHistogram(), unitsCopied: 0 }));
  for (let turn = 0; turn < WARM_TURNS + turnsOf(options); turn++) {
    for (const [at, layer] of LAYERS.entries()) {
      const done = await load.turn(layer, at === 0 ? 0 : turn + 1);
      if (turn < WARM_TURNS) continue;
      halves[at]!.us += done.us;
      halves[at]!.unitsCopied += done.unitsCopied;
      halves[at]!.histogram.merge(done.histogram);
    }
  }
  await load.end();
  const names = ["without snapshots", `a snapshot every ${options.snapshotMs / 1000} s`];
  return halves.map(({ us, histogram, unitsCopied }, at) => {
    const iops = round((histogram.count * 1_000_000) / us);
    const { mean: _, ...latencyUs } = latencyReport(histogram);
    return {
      name: names[at]!,
      iops,
      bytesPerSec: Math.round(iops * BLOCK_SIZE),
      latencyUs,
      cpuUsPerIo: null,
      backend: disk.backend,
      note: `${unitsCopied} units copied`,
      unitsCopied,
    };
  });
}

/** What is aimed at: a part of the rate without snapshots. */
export function judgeStore(rows: readonly MicroRow[]): BarReport {
  const [without, withSnapshots] = rows.map(({ iops }) => iops ?? 0);
  const figure = "IOPS ÷ those without snapshots";
  const bar = { row: STORE_ROW, figure, wanted: RATIO_WANTED, isMost: false };
  return barOf(bar, (withSnapshots ?? 0) / (without ?? 0));
}

interface TurnDone {
  readonly us: number;
  readonly histogram: LatencyHistogram;
  readonly unitsCopied: number;
}

/** Stands where raft and the groups stand: what is durable is committed, and applied at once. */
class StoreLoad implements StoreOwner, Drain {
  row = -1;
  private readonly world: World;
  private readonly options: StoreBenchOptions;
  private readonly random = new Prng(1);
  private readonly retry: CallbackTimer;
  private readonly open: { readonly entry: Entry; readonly sinceUs: number }[] = [];
  private histogram = new LatencyHistogram();
  private store: LocalStore | null = null;
  private failure = "";
  private created = -1;
  private last = 0;
  private durable = 0;
  private applied = 0;
  /** What is written; null: nothing. */
  private target: { readonly layer: number; readonly snapSeq: number } | null = null;
  /** Next block of a layer that is written in full; -1: random places. */
  private fillBlock = -1;

  constructor(world: World, options: StoreBenchOptions) {
    this.world = world;
    this.options = options;
    this.retry = new CallbackTimer(() => undefined);
    // Before the log's: what follows on what has become durable is in the same turn's batch.
    world.turns.addDrain(DrainOrder.Receive, this);
  }

  begin(store: LocalStore): void {
    this.store = store;
    this.created = store.createReplica(PG, 1, new Uint8Array([1]), 0, 0);
    store.finishRecovery();
    this.world.turns.again();
  }

  async fill(layer: number): Promise<void> {
    this.fillBlock = 0;
    this.target = { layer, snapSeq: 0 };
    this.world.turns.again();
    await this.until(() => this.target === null && this.open.length === 0);
    this.fillBlock = -1;
    await this.home();
  }

  /** Write random blocks of a layer, then wait until all is home. */
  async turn(layer: number, snapSeq: number): Promise<TurnDone> {
    const { clock, timers } = this.world;
    const { unitsCopied } = this.counters();
    const fromUs = clock.nowUs();
    this.histogram = new LatencyHistogram();
    this.target = { layer, snapSeq };
    this.world.turns.again();
    await sleep(timers, this.options.snapshotMs * 1000);
    this.target = null;
    await this.until(() => this.open.length === 0);
    await this.home();
    const us = clock.nowUs() - fromUs;
    const { histogram } = this;
    return { us, histogram, unitsCopied: this.counters().unitsCopied - unitsCopied };
  }

  async end(): Promise<void> {
    await this.store!.close();
  }

  /** Throws FB5001 when the store has failed meanwhile. */
  async until(done: () => boolean): Promise<void> {
    while (!done()) {
      await sleep(this.world.timers, LOOK_US);
      if (this.failure === "") continue;
      throw new FastblockError("FB5001", `writing to the store: ${this.failure}`);
    }
  }

  private async home(): Promise<void> {
    const store = this.store!;
    store.requestCheckpoint();
    await this.until(() => store.usage().overlayBlocks === 0);
  }

  private counters(): { readonly unitsCopied: number } {
    return this.store!.counters;
  }

  drain(): void {
    const { store } = this;
    if (store === null || this.row < 0 || this.failure !== "") return;
    if (this.durable > this.applied) store.setCommit(this.row, this.durable);
    const nowUs = this.world.clock.nowUs();
    for (let count = this.durable - this.applied; count > 0; count--) {
      const { entry, sinceUs } = this.open.shift()!;
      store.apply(this.row, entry);
      this.applied = entry.index;
      store.entries.release(entry);
      this.histogram.record(nowUs - sinceUs);
    }
    while (this.target !== null && this.open.length < this.options.depth) {
      if (!this.submit(store, nowUs)) return;
    }
  }

  /** False: not now. */
  private submit(store: LocalStore, nowUs: number): boolean {
    const { imageBytes } = this.options;
    const blocks = this.fillBlock < 0 ? 1 : PAYLOAD_BLOCKS_MAX;
    const imageBlocks = imageBytes / BLOCK_SIZE;
    const entry = store.entries.take();
    this.describe(
      entry,
      this.fillBlock < 0 ? this.random.below(imageBlocks) : this.fillBlock,
      blocks,
    );
    const status = entry.payload < 0 ? Status.Busy : store.reserve(this.row, entry);
    if (status !== Status.Ok) {
      store.entries.release(entry);
      if (status !== Status.Busy) this.failure = `status ${Status[status]}, wanted Ok`;
      else this.world.timers.arm(this.retry, LOOK_US);
      return false;
    }
    this.last = entry.index;
    this.open.push({ entry, sinceUs: nowUs });
    store.append(this.row, entry);
    if (this.fillBlock < 0) return true;
    this.fillBlock += blocks;
    if (this.fillBlock >= imageBlocks) this.target = null;
    return true;
  }

  private describe(entry: Entry, firstBlock: number, blocks: number): void {
    const { target, world } = this;
    assert(target !== null, "StoreLoad: nothing is written");
    const { arena, checksum, slots } = world;
    entry.index = this.last + 1;
    entry.term = 1;
    entry.type = EntryType.Write;
    entry.layer = target.layer;
    entry.snapSeq = target.snapSeq;
    entry.firstBlock = firstBlock;
    entry.blocks = blocks;
    entry.session = 1;
    entry.number = entry.index;
    entry.payload = slots.take(blocks * BLOCK_SIZE);
    if (entry.payload < 0) return;
    for (let block = 0; block < blocks; block++) {
      const at = entry.payload + block * BLOCK_SIZE;
      arena.words[at >>> 2] = this.random.u32();
      entry.crcs[block] = checksum.crc32(arena.block(at), 0);
    }
  }

  /* ------------------------------------------------------------ of the store */

  onDurable(_row: number, index: number): void {
    this.durable = index;
  }

  onReplicaCreated(): void {
    this.row = this.created;
  }

  onDeviceFailed(reason: string): void {
    this.failure = reason;
  }

  onDamaged(_row: number, layer: number, block: number): void {
    this.failure = `block ${block} of layer ${layer} does not match its checksum`;
  }

  encodeState(): GroupState {
    const conf = new Uint8Array([1]);
    return { applied: this.applied, conf, confIndex: 0, expiredBelow: 0, sessions: [], fences: [] };
  }

  onHardStateDurable(): void {}
  onReplicaGone(): void {}
  onFillBegun(): void {}
  onFillEnded(): void {}
  onDeviceSlow(): void {}
  onDeviceRecovered(): void {}
  onDeviceStarved(): void {}
}
