import { FastblockError } from "../base/errors.ts";
import { BLOCK_SIZE, TWO_32, UNIT_SIZE } from "../base/units.ts";
import { formatStore, LocalStore } from "../pg/pg.ts";
import type { Disk, World } from "../reactor/world.ts";
import { type Geometry, geometryOf, shareZones, type ShardZones } from "../store/store.ts";
import { type BarReport, barOf } from "./bars.ts";
import type { FullStoreBenchOptions, MicroRow } from "./bench.ts";
import { FullDisk, type WrittenBytes } from "./full-disk.ts";
import { round } from "./spending.ts";
import { LOAD_BASE, LOAD_PG, StoreLoad } from "./store-load.ts";

/**
 * `fastblock bench store --full`: what 4 KiB writes cost the device when they hit an image of 1 TiB all
 * over, all of which has been written before.
 *
 * One store of one shard, as in `bench store`; the load is what differs. Each write is in another index
 * page than all those near it, and next to none of them, so nothing is merged: it costs itself in the
 * log and at home, nearly a whole index page, and its share of the header of its batch and of the crcs
 * of all pages, which each checkpoint tells. Bytes count from the first write on until the store is
 * closed: all that was written is home then, in its page and in a checkpoint.
 *
 * Two parts follow from log ÷ image: how many writes share a page between two checkpoints, and how many
 * share a checkpoint. So the log is a 1024th of the image, in whole zones: 1 GiB for 1 TiB, what
 * `osd format` gives to a shard. A smaller log beside 1 TiB would be another case.
 *
 * All writes that are open come back together, and are one batch: 32 share a header. In a cluster they
 * come a few at a time; with `--depth 8` eight share one.
 *
 * There is no TiB: the disk keeps log and checkpoints in its file, and drops the rest (`FullDisk`). So
 * rates are not told, and home writes are done at once; while a device takes its time the log gets
 * fuller, and more writes share a page. The index is in memory as always, and more of it while it is read.
 */
export const FULL_STORE_ROW = "store:randwrite:4KiB:32:1TiB";

const GIB = 1_073_741_824;
/** What is measured where nobody says anything else. */
export const FULL_STORE_LOAD = { imageBytes: 1024 * GIB, depth: 32, logTurns: 3 } as const;
const BYTES_WANTED = 3.1;
const IMAGE_TO_LOG = 1024;
const LAYER = 5;
/** Zones beside those of the image: index pages, and free units, or the store refuses writes. */
const SPARE_SHARE = 1.03;
const LOG_BYTES_MIN = 16 * 1_048_576;
const IMAGE_BYTES_MIN = GIB;
/** Of memory: 194 B a slot, 106 slots for 100 units, and what a start remembers of each. */
const UNIT_MEMORY_BYTES = 320;

const NO_RATES = { iops: null, bytesPerSec: null, latencyUs: null, cpuUsPerIo: null } as const;

interface FullGeometry {
  readonly geometry: Geometry;
  readonly zones: ShardZones;
  readonly logBytes: number;
}

/** Bytes of the disk, most of which are never written. */
export function fullStoreBytesOf({
  imageBytes,
}: Pick<FullStoreBenchOptions, "imageBytes">): number {
  const bytes = imageBytes * SPARE_SHARE + 3 * GIB;
  return Math.ceil(bytes / BLOCK_SIZE) * BLOCK_SIZE;
}

/** Bytes of memory that the process takes at most. */
export function fullStoreMemoryOf(imageBytes: number): number {
  return (imageBytes / UNIT_SIZE) * UNIT_MEMORY_BYTES + GIB / 2;
}

function divide(options: FullStoreBenchOptions, sizeBytes: number): FullGeometry {
  const { imageBytes } = options;
  if (imageBytes < IMAGE_BYTES_MIN || imageBytes % UNIT_SIZE !== 0) {
    const seen = `${imageBytes} bytes, at least 1 GiB in whole units of 64 KiB wanted`;
    throw new FastblockError("FB1001", `a full store for an image: ${seen}`);
  }
  const logBytes = Math.max(LOG_BYTES_MIN, imageBytes / IMAGE_TO_LOG);
  const geometry = geometryOf(sizeBytes);
  return { geometry, zones: shareZones(geometry, 1, logBytes), logBytes };
}

/**
 * Format the disk, start a full store on it, write, close it. The world must be running; the disk is closed
 * afterwards. Throws FB1001, FB4007, FB5001.
 */
export async function runFullStoreBench(
  world: World,
  beneath: Disk,
  options: FullStoreBenchOptions,
): Promise<MicroRow> {
  const { geometry, zones, logBytes } = divide(options, beneath.sizeBytes);
  const disk = new FullDisk(world, beneath, geometry, zones);
  const load = new StoreLoad(world, options);
  await open(world, disk, load, { options, logBytes });
  refuseOther(load, options);
  const from = { ...disk.written };
  const logBytesWanted = options.logTurns * zones.log * geometry.zoneSize;
  const enough = (): Promise<void> =>
    load.until(() => disk.written.log - from.log >= logBytesWanted);
  const { histogram } = await load.turn({ layer: LAYER, snapSeq: 0 }, enough);
  refuseOther(load, options);
  const { batches, checkpoints } = load.counters;
  await load.end();
  const bytes = (key: keyof WrittenBytes): number => disk.written[key] - from[key];
  const share = (key: keyof WrittenBytes): number =>
    round(bytes(key) / (histogram.count * BLOCK_SIZE));
  const parts = {
    log: share("log"),
    home: share("home"),
    index: share("index"),
    checkpoints: share("checkpoints"),
  };
  const sum = round(parts.log + parts.home + parts.index + parts.checkpoints);
  const writesPerBatch = round(histogram.count / batches);
  const list = Object.entries(parts).map(([name, value]) => `${name} ${value}`);
  return {
    name: "all over a full store",
    ...NO_RATES,
    backend: beneath.backend,
    note: `${sum} device bytes per client byte: ${list.join(", ")}; ${writesPerBatch} writes a batch`,
    deviceBytesPerClientByte: sum,
    parts,
    imageBytes: options.imageBytes,
    logTurns: round(bytes("log") / (zones.log * geometry.zoneSize)),
    writes: histogram.count,
    writesPerBatch,
    checkpoints,
  };
}

/** Throws FB5001 when the store is not full of the image, and of nothing else: it would be another case. */
function refuseOther(load: StoreLoad, { imageBytes }: FullStoreBenchOptions): void {
  const { bytesUsed, bytesQuarantined } = load.usage;
  if (bytesUsed === imageBytes && bytesQuarantined === 0) return;
  const seen = `${bytesUsed} bytes of units in use, ${bytesQuarantined} in quarantine`;
  throw new FastblockError("FB5001", `a full store: ${seen}; ${imageBytes} and none wanted`);
}

/** Twice: a replica is made in an empty store, and found with all that it has in a full one. */
async function open(
  world: World,
  disk: FullDisk,
  load: StoreLoad,
  { options, logBytes }: { options: FullStoreBenchOptions; logBytes: number },
): Promise<void> {
  const clusterId = new Uint8Array(16).fill(1);
  const place = { world, disk, clusterId, osd: 0, shardCount: 1 };
  const { storeUuid } = await formatStore({ ...place, logBytes, force: true });
  const opening = { ...place, shard: 0, owner: load, logger: world.logger };
  const empty = await LocalStore.open(opening);
  await load.begin(empty);
  await load.end();
  disk.fill({
    seed: world.checksum.crc32(Uint8Array.fromHex(storeUuid), 0),
    pg: LOAD_PG,
    layer: LAYER,
    count: options.imageBytes / UNIT_SIZE,
    version: LOAD_BASE,
    // Behind the last checkpoint of the first start: that one knows none of these pages.
    pageStamp: empty.claim.incarnation * TWO_32 + TWO_32 / 2,
  });
  load.goOn(await LocalStore.open(opening));
}

/** What is aimed at: the bytes that a device takes for one of a client. */
export function judgeFullStore(row: MicroRow | undefined): BarReport {
  const figure = "device bytes per client byte and replica";
  const bar = { row: FULL_STORE_ROW, figure, wanted: BYTES_WANTED, isMost: true };
  const seen = row?.["deviceBytesPerClientByte"];
  return barOf(bar, typeof seen === "number" ? seen : null);
}
