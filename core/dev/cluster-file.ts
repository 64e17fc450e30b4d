import { FastblockError } from "../base/errors.ts";

/**
 * `cluster.json`, which every process of a cluster directory reads first.
 *
 * It names the mons; nothing in it is secret and nothing changes after it was made. The key
 * lies beside it in `cluster.key`: 64 hexadecimal digits, readable by its owner alone.
 */
export interface ClusterFile {
  /** The cluster's id as uuid text. */
  readonly clusterId: string;
  readonly name: string;
  readonly mons: readonly MonAddress[];
}

export interface MonAddress {
  /** `mon.a` */
  readonly name: string;
  readonly control: HostPort;
  readonly http: HostPort;
}

export interface HostPort {
  readonly host: string;
  readonly port: number;
}

export const CLUSTER_FILE = "cluster.json";
export const KEY_FILE = "cluster.key";

/** The text of `cluster.json`. */
export function formatClusterFile(file: ClusterFile): string {
  return `${JSON.stringify(file, undefined, 2)}\n`;
}

/** Check and read the text of `cluster.json`; `path` is for the error only. Throws FB1005. */
export function parseClusterFile(text: string, path: string): ClusterFile {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw malformed(path, error instanceof Error ? error.message : "not JSON");
  }
  if (!isRecord(value)) throw malformed(path, "not an object");
  const { clusterId, name, mons } = value;
  if (typeof clusterId !== "string" || !UUID.test(clusterId)) {
    throw malformed(path, "clusterId is not a uuid");
  }
  if (typeof name !== "string" || name === "") throw malformed(path, "name is missing");
  if (!Array.isArray(mons) || mons.length === 0) throw malformed(path, "mons is empty");
  return { clusterId, name, mons: mons.map((mon: unknown) => parseMon(mon, path)) };
}

/** Read the text of `cluster.key`: 64 hexadecimal digits. Throws FB1005. */
export function parseKeyFile(text: string, path: string): Uint8Array {
  const digits = text.trim();
  if (!/^[0-9a-fA-F]{64}$/.test(digits)) {
    throw malformed(
      path,
      "not 64 hexadecimal digits",
      "put its copy back; of a dev cluster that is down, remove it, and dev up makes another",
    );
  }
  return Uint8Array.fromHex(digits);
}

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

function parseMon(value: unknown, path: string): MonAddress {
  if (!isRecord(value) || typeof value["name"] !== "string") {
    throw malformed(path, "a mon has no name");
  }
  return {
    name: value["name"],
    control: parseHostPort(value["control"], path),
    http: parseHostPort(value["http"], path),
  };
}

function parseHostPort(value: unknown, path: string): HostPort {
  if (!isRecord(value)) throw malformed(path, "a mon's address is missing");
  const { host, port } = value;
  if (typeof host !== "string" || host === "") throw malformed(path, "a mon's host is missing");
  if (typeof port !== "number" || !Number.isInteger(port) || port < 1 || port > 65_535) {
    throw malformed(path, "a mon's port is not between 1 and 65535");
  }
  return { host, port };
}

function malformed(
  path: string,
  why: string,
  hint = "put its copy back; that of a dev cluster is written again by dev up",
): FastblockError {
  return new FastblockError("FB1005", `reading ${path}: ${why}`, { hint });
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
