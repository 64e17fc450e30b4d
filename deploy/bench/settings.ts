import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

/** What `up` makes and `run` drives: one directory that holds both clusters. */
export interface Settings {
  /** In the environment of every process of the two clusters: what `down` knows them by. */
  readonly token: string;
  /** BlueStore's settings: `auto` as it chooses by what the kernel says of the disk, or forced. */
  readonly profile: CephProfile;
  readonly osdBytes: number;
  readonly imageBytes: number;
  readonly monPort: number;
  /** `up` came to its end. */
  readonly complete: boolean;
}

export type CephProfile = "auto" | "ssd" | "hdd";

/** Ours, Ceph, or the disk itself. */
export type System = "raw" | "ceph" | "fastblock";

export const OSDS = 3;
export const GIB = 1024 ** 3;
export const MIB = 1024 ** 2;
export const POOL = "bench";
export const IMAGE = "disk";
/** A directory without this file is not ours, and stays as it is. */
const MARK = "fastblock-bench.json";

/** Undefined: the directory is not one of ours. */
export function readSettings(directory: string): Settings | undefined {
  const path = join(directory, MARK);
  if (!existsSync(path)) return undefined;
  const settings = JSON.parse(readFileSync(path, "utf8")) as Settings;
  if (typeof settings.token !== "string" || settings.token.length < 32) {
    throw new Error(`reading ${path}: no token, wanted the file that up wrote; look at it by hand`);
  }
  return settings;
}

export function writeSettings(directory: string, settings: Settings): void {
  writeFileSync(join(directory, MARK), `${JSON.stringify(settings, null, 2)}\n`);
}

/** One kind of load. */
export interface Load {
  readonly name: string;
  readonly rw: "randwrite" | "randread" | "write" | "read";
  readonly blockBytes: number;
  readonly depth: number;
}

export const LOADS: readonly Load[] = [
  ...[1, 32, 128].map((depth) => load("randwrite", 4096, depth)),
  ...[1, 32].map((depth) => load("randread", 4096, depth)),
  load("write", 131_072, 16),
  load("read", 131_072, 16),
];

function load(rw: Load["rw"], blockBytes: number, depth: number): Load {
  const order = rw.startsWith("rand") ? "random" : "sequential";
  const verb = rw.endsWith("read") ? "read" : "write";
  return {
    name: `${blockBytes / 1024} KiB ${order} ${verb}, depth ${depth}`,
    rw,
    blockBytes,
    depth,
  };
}

export function isWrite(one: Load): boolean {
  return one.rw === "write" || one.rw === "randwrite";
}
