import { existsSync, rmSync, statSync } from "node:fs";
import { FastblockError, withDevice } from "../core/base/errors.ts";
import { formatSize } from "../core/base/size-text.ts";
import { uuidBytes } from "../core/base/uuid.ts";
import type {
  BackendChoice,
  FsckReport,
  OsdFormatOptions,
  OsdFsckOptions,
  OsdInspectOptions,
} from "../core/cli/cli.ts";
import { formatStore, fsckStore, inspectStore } from "../core/pg/pg.ts";
import type { Disk, World } from "../core/reactor/world.ts";
import { readClusterFile } from "./daemon.ts";
import { newStoreAt, storeAt } from "./data-path.ts";
import { terminalLogger } from "./terminal-logger.ts";
import { createWorld } from "./world.ts";

/** `osd format | inspect | fsck`: the device itself, while its osd is stopped. */
const ARENA_BYTES = 512 * 1_048_576;

/** Make a store. Throws FB1005, FB1008, FB4005, FB4007, FB4008, FB4009, FB4011. */
export async function osdFormat(options: OsdFormatOptions): Promise<Record<string, unknown>> {
  const { clusterId } = readClusterFile(options.cluster);
  const { sizeBytes } = options;
  const data = newStoreAt(options.data);
  const open = sizeBytes === 0 ? {} : { createBytes: sizeBytes };
  const isNew = !existsSync(data);
  if (!isNew) checkSize(data, sizeBytes);
  const format = async (world: World, disk: Disk): Promise<Record<string, unknown>> => {
    const made = await formatStore({
      world,
      disk,
      clusterId: uuidBytes(clusterId),
      osd: options.osd,
      shardCount: options.shards,
      force: options.force,
      ...(options.logBytes === 0 ? {} : { logBytes: options.logBytes }),
    });
    return {
      osd: options.osd,
      data,
      sizeBytes: disk.sizeBytes,
      shards: options.shards,
      backend: world.backend,
      ...made,
    };
  };
  const formatted = withDisk(data, options.backend, open, format, options.osd);
  return removeOnFailure(data, isNew, formatted);
}

/** Leave no file behind that only this format made. */
async function removeOnFailure<T>(path: string, isNew: boolean, made: Promise<T>): Promise<T> {
  try {
    return await made;
  } catch (error) {
    if (isNew) rmSync(path, { force: true });
    throw error;
  }
}

/** A file that is there keeps its size. Throws FB1001 when another one is wanted. */
function checkSize(path: string, sizeBytes: number): void {
  const status = statSync(path);
  if (sizeBytes === 0 || !status.isFile() || status.size === sizeBytes) return;
  const text = `${path} has ${formatSize(status.size)}, wanted --size ${formatSize(sizeBytes)}`;
  throw new FastblockError("FB1001", `formatting: ${text}`, {
    hint: "leave --size out, or remove the file first",
  });
}

/**
 * What a store says of itself, or one part of it. Throws FB1001, FB4001, FB4003, FB4005, FB4006, FB4007,
 * FB4009, FB4011.
 */
export async function osdInspect(options: OsdInspectOptions): Promise<Record<string, unknown>> {
  const open = { readOnly: true };
  const data = storeAt(options.data);
  return await withDisk(data, options.backend, open, async (world, disk) =>
    inspectStore(world, disk, options.what),
  );
}

/** Check a store read-only. Throws FB4001, FB4003, FB4005, FB4007, FB4009, FB4011. */
export async function osdFsck(options: OsdFsckOptions): Promise<FsckReport> {
  const open = { readOnly: true };
  const data = storeAt(options.data);
  return await withDisk(data, options.backend, open, async (world, disk) => ({
    data,
    ...(await fsckStore(world, disk)),
  }));
}

async function withDisk<T>(
  path: string,
  backend: BackendChoice,
  options: { readonly createBytes?: number; readonly readOnly?: boolean },
  body: (world: World, disk: Disk) => Promise<T>,
  osd?: number,
): Promise<T> {
  const logger = terminalLogger("warn");
  const world = createWorld({ arenaBytes: ARENA_BYTES, logger, prefer: backend });
  world.start();
  world.holdGuest();
  try {
    return await body(world, world.disks.open(path, options));
  } catch (error) {
    throw withDevice(error, { path, osd });
  } finally {
    world.releaseGuest();
    await world.stop();
  }
}
