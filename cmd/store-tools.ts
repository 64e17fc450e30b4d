import { FastblockError } from "../core/base/errors.ts";
import type {
  BackendChoice,
  FsckReport,
  OsdFormatOptions,
  OsdFsckOptions,
  OsdInspectOptions,
} from "../core/cli/cli.ts";
import { formatStore, fsckStore, inspectStore } from "../core/pg/pg.ts";
import type { Disk, World } from "../core/reactor/world.ts";
import { openLogger, readClusterFile } from "./daemon.ts";
import { createWorld } from "./world.ts";

/** `osd format | inspect | fsck`: the device itself, while its osd is stopped. */
const ARENA_BYTES = 512 * 1_048_576;

/** Make a store. Throws FB1005, FB4005, FB4007, FB4008, FB4009. */
export async function osdFormat(options: OsdFormatOptions): Promise<Record<string, unknown>> {
  const { clusterId } = readClusterFile(options.cluster);
  const { sizeBytes } = options;
  const open = sizeBytes === 0 ? {} : { createBytes: sizeBytes };
  return await withDisk(options.data, options.backend, open, async (world, disk) => {
    const made = await formatStore({
      world,
      disk,
      clusterId: Uint8Array.fromHex(clusterId.replaceAll("-", "")),
      osd: options.osd,
      shardCount: options.shards,
      force: options.force,
      ...(options.logBytes === 0 ? {} : { logBytes: options.logBytes }),
    });
    return {
      osd: options.osd,
      data: options.data,
      sizeBytes: disk.sizeBytes,
      shards: options.shards,
      backend: world.backend,
      ...made,
    };
  });
}

/** What a store says of itself, or one part of it. Throws FB1001, FB4001, FB4005. */
export async function osdInspect(options: OsdInspectOptions): Promise<Record<string, unknown>> {
  const open = { readOnly: true };
  return await withDisk(options.data, options.backend, open, async (world, disk) => {
    const whole = await inspectStore(world, disk);
    if (options.what === "") return whole;
    const part = whole[options.what];
    if (part === undefined) {
      const parts = Object.keys(whole).join(", ");
      const message = `inspecting ${options.data}: ${options.what}, wanted one of ${parts}`;
      throw new FastblockError("FB1001", message);
    }
    return { [options.what]: part };
  });
}

/** Check a store read-only. Throws FB4001, FB4005. */
export async function osdFsck(options: OsdFsckOptions): Promise<FsckReport> {
  const open = { readOnly: true };
  return await withDisk(options.data, options.backend, open, async (world, disk) => ({
    data: options.data,
    ...(await fsckStore(world, disk)),
  }));
}

async function withDisk<T>(
  path: string,
  backend: BackendChoice,
  options: { readonly createBytes?: number; readonly readOnly?: boolean },
  body: (world: World, disk: Disk) => Promise<T>,
): Promise<T> {
  const logger = openLogger("-", "osd", "warn");
  const world = createWorld({ arenaBytes: ARENA_BYTES, logger, prefer: backend });
  world.start();
  world.holdGuest();
  try {
    return await body(world, world.disks.open(path, options));
  } finally {
    world.releaseGuest();
    await world.stop();
  }
}
