import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { freemem } from "node:os";
import { join } from "node:path";
import { FastblockError } from "../core/base/errors.ts";
import { formatSize } from "../core/base/size-text.ts";
import {
  type FullStoreBenchOptions,
  fullStoreBytesOf,
  fullStoreMemoryOf,
  type MicroRow,
  type PagedStoreBenchOptions,
  pagedStoreBytesOf,
  runFullStoreBench,
  runPagedStoreBench,
  runStoreBench,
  type StoreBenchOptions,
  storeBytesOf,
} from "../core/bench/bench.ts";
import type { Disk, World } from "../core/reactor/world.ts";
import { CPU, inWorld } from "./bench-micro.ts";

/** `bench store`: on a file of its own, which is gone afterwards. Throws FB4008, FB5001. */
export function storeBench(options: StoreBenchOptions): Promise<readonly MicroRow[]> {
  return onNewDisk(options, storeBytesOf(options), (world, disk) =>
    runStoreBench(world, disk, options, CPU),
  );
}

/** `bench store --paged`: likewise. Throws FB4008, FB4009, FB5001. */
export function pagedStoreBench(options: PagedStoreBenchOptions): Promise<readonly MicroRow[]> {
  return onNewDisk(options, pagedStoreBytesOf(options), (world, disk) =>
    runPagedStoreBench(world, disk, options, CPU),
  );
}

/** `bench store --full`: likewise. Throws FB1001, FB4008, FB5001. */
export function fullStoreBench(options: FullStoreBenchOptions): Promise<readonly MicroRow[]> {
  const { imageBytes } = options;
  if (!hasMemoryFor(imageBytes)) {
    const wanted = `at least ${formatSize(fullStoreMemoryOf(imageBytes))} wanted`;
    const message = `a full store of ${formatSize(imageBytes)}: ${formatSize(freemem())} of memory can be had, ${wanted}`;
    throw new FastblockError("FB1001", message, { hint: "take a smaller --image-size" });
  }
  return onNewDisk(options, fullStoreBytesOf(options), async (world, disk) => [
    await runFullStoreBench(world, disk, options),
  ]);
}

/** Whether this machine can hold the index of a full store just now. */
export function hasMemoryFor(imageBytes: number): boolean {
  return freemem() >= fullStoreMemoryOf(imageBytes);
}

async function onNewDisk(
  { path: given, backend }: Pick<StoreBenchOptions, "path" | "backend">,
  createBytes: number,
  body: (world: World, disk: Disk) => Promise<readonly MicroRow[]>,
): Promise<readonly MicroRow[]> {
  checkNewStore(given);
  const folder = given === "" ? mkdtempSync(join(process.cwd(), "fastblock-bench-")) : "";
  const path = given === "" ? join(folder, "store") : given;
  try {
    return await inWorld(backend, async (world) => {
      const disk = world.disks.open(path, { createBytes });
      // Open, it needs no name: however this ends, nothing is left.
      rmSync(path);
      return await body(world, disk);
    });
  } finally {
    rmSync(folder === "" ? path : folder, { recursive: true, force: true });
  }
}

/** Throws FB4008 when something has the name; empty: a temporary one, which is free. */
export function checkNewStore(path: string): void {
  if (path === "" || !existsSync(path)) return;
  const message = `making a store in ${path}: it exists, wanted the name of a new file`;
  throw new FastblockError("FB4008", message);
}
