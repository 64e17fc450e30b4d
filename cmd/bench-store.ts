import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { join } from "node:path";
import { FastblockError } from "../core/base/errors.ts";
import {
  type MicroRow,
  runStoreBench,
  type StoreBenchOptions,
  storeBytesOf,
} from "../core/bench/bench.ts";
import { inWorld } from "./bench-micro.ts";

/** `bench store`: on a file of its own, which is gone afterwards. Throws FB4008, FB5001. */
export async function storeBench(options: StoreBenchOptions): Promise<readonly MicroRow[]> {
  const given = options.path;
  checkNewStore(given);
  const folder = given === "" ? mkdtempSync(join(process.cwd(), "fastblock-bench-")) : "";
  const path = given === "" ? join(folder, "store") : given;
  try {
    return await inWorld(options.backend, async (world) => {
      const disk = world.disks.open(path, { createBytes: storeBytesOf(options) });
      // Open, it needs no name: however this ends, nothing is left.
      rmSync(path);
      return await runStoreBench(world, disk, options);
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
