import { BLOCK_SIZE } from "../base/units.ts";
import { LatencyHistogram } from "../metrics/metrics.ts";
import { formatStore, LocalStore } from "../pg/pg.ts";
import { type Disk, sleep, type World } from "../reactor/world.ts";
import { type BarReport, barOf } from "./bars.ts";
import type { MicroRow, StoreBenchOptions } from "./bench.ts";
import type { CpuClock } from "./bench-row.ts";
import { fillDisk } from "./disk-bench.ts";
import { latencyReport } from "./latency.ts";
import { round } from "./spending.ts";
import { StoreLoad } from "./store-load.ts";

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
const LAYERS = [5, 6] as const;
const LOG_BYTES = 64 * MIB;
/** Checkpoints, the index, zones that are used in part. */
const SPARE_BYTES = 256 * MIB;
const SPARE_SHARE = 1.1;
/** Not counted: code is compiled in it. */
const WARM_TURNS = 1;
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
 * afterwards. CPU is that of each turn with what brings it home. Answers the row without snapshots, then the one with. Throws FB4007, FB5001.
 */
export async function runStoreBench(
  world: World,
  disk: Disk,
  options: StoreBenchOptions,
  cpu: CpuClock,
): Promise<readonly MicroRow[]> {
  const clusterId = new Uint8Array(16).fill(1);
  // Into holes a file system writes in another way, and copied units go where nothing was.
  await fillDisk(world, disk);
  const place = { world, disk, clusterId, osd: 0, shardCount: 1 };
  await formatStore({ ...place, logBytes: LOG_BYTES, force: true });
  const load = new StoreLoad(world, options);
  const { logger } = world;
  await load.begin(await LocalStore.open({ ...place, shard: 0, owner: load, logger }));
  for (const layer of LAYERS) await load.fill(layer);
  const halves = LAYERS.map(() => ({
    us: 0,
    userUs: 0,
    systemUs: 0,
    histogram: new LatencyHistogram(),
    unitsCopied: 0,
  }));
  for (let turn = 0; turn < WARM_TURNS + turnsOf(options); turn++) {
    for (const [at, layer] of LAYERS.entries()) {
      const target = { layer, snapSeq: at === 0 ? 0 : turn + 1 };
      const before = cpu.read();
      const done = await load.turn(target, () => sleep(world.timers, options.snapshotMs * 1000));
      const after = cpu.read();
      if (turn < WARM_TURNS) continue;
      halves[at]!.us += done.us;
      halves[at]!.userUs += after.userUs - before.userUs;
      halves[at]!.systemUs += after.systemUs - before.systemUs;
      halves[at]!.unitsCopied += done.unitsCopied;
      halves[at]!.histogram.merge(done.histogram);
    }
  }
  await load.end();
  const names = ["without snapshots", `a snapshot every ${options.snapshotMs / 1000} s`];
  return halves.map(({ us, userUs, systemUs, histogram, unitsCopied }, at) => {
    const perWrite = (spentUs: number): number => round(spentUs / histogram.count);
    const iops = round((histogram.count * 1_000_000) / us);
    const { mean: _, ...latencyUs } = latencyReport(histogram);
    return {
      name: names[at]!,
      iops,
      bytesPerSec: Math.round(iops * BLOCK_SIZE),
      latencyUs,
      cpuUsPerIo: perWrite(userUs + systemUs),
      systemUsPerIo: perWrite(systemUs),
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
