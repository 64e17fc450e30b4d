import { mkdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { FastblockError } from "../core/base/errors.ts";

/**
 * What `--data PATH` is to each role: the one place that knows.
 *
 * An osd keeps its store in a regular file or on a block device; given a directory, in the file
 * `store` inside of it. A mon and a gateway keep files of their own in a directory.
 */
const STORE_FILE = "store";

/** Where the store is. */
export function storeAt(path: string): string {
  return isDirectory(path) ? join(path, STORE_FILE) : path;
}

/** As `storeAt`, and a path that ends with `/` becomes a directory. Throws FB1008. */
export function newStoreAt(path: string): string {
  return storeAt(path.endsWith("/") ? directoryAt(path, "formatting") : path);
}

/** A directory, made when nothing is there. `what`: is done. Throws FB1008. */
export function directoryAt(path: string, what: string): string {
  if (isDirectory(path)) return path;
  try {
    mkdirSync(path, { recursive: true });
  } catch (error) {
    const isTaken = error instanceof Error && "code" in error && error.code === "EEXIST";
    const why = isTaken ? "it is none" : error instanceof Error ? error.message : String(error);
    throw new FastblockError("FB1008", `${what}: --data ${path}: ${why}, wanted a directory`);
  }
  return path;
}

/** What can not be looked at is no directory: whoever opens it says why. */
function isDirectory(path: string): boolean {
  try {
    return statSync(path, { throwIfNoEntry: false })?.isDirectory() === true;
  } catch {
    return false;
  }
}
