import { AF_INET, AF_INET6, AF_UNIX } from "./libc.ts";

/** A socket address in words: host is a literal IPv4 or IPv6 address. */
export type SocketName =
  | { readonly kind: "tcp"; readonly host: string; readonly port: number }
  | { readonly kind: "unix"; readonly path: string };

const PATH_MAX_BYTES = 107;

/** The family and the bytes that the kernel takes; undefined when the name is not usable. */
export function encodeSocketName(
  name: SocketName,
): { readonly family: number; readonly bytes: Uint8Array } | undefined {
  if (name.kind === "unix") {
    const path = new TextEncoder().encode(name.path);
    if (path.length === 0 || path.length > PATH_MAX_BYTES) return undefined;
    const bytes = new Uint8Array(2 + path.length + 1);
    bytes[0] = AF_UNIX;
    bytes.set(path, 2);
    return { family: AF_UNIX, bytes };
  }
  const four = parseIpv4(name.host);
  if (four !== undefined) {
    const bytes = new Uint8Array(16);
    bytes[0] = AF_INET;
    bytes.set([name.port >>> 8, name.port & 255], 2);
    bytes.set(four, 4);
    return { family: AF_INET, bytes };
  }
  const six = parseIpv6(name.host);
  if (six === undefined) return undefined;
  const bytes = new Uint8Array(28);
  bytes[0] = AF_INET6;
  bytes.set([name.port >>> 8, name.port & 255], 2);
  bytes.set(six, 8);
  return { family: AF_INET6, bytes };
}

/** The words for what the kernel answered; an unnamed unix socket has an empty path. */
export function decodeSocketName(bytes: Uint8Array): SocketName {
  const family = bytes[0] ?? 0;
  const port = ((bytes[2] ?? 0) << 8) | (bytes[3] ?? 0);
  if (family === AF_INET) return { kind: "tcp", host: bytes.slice(4, 8).join("."), port };
  if (family === AF_INET6) {
    const groups: string[] = [];
    for (let at = 8; at < 24; at += 2) {
      groups.push((((bytes[at] ?? 0) << 8) | (bytes[at + 1] ?? 0)).toString(16));
    }
    return { kind: "tcp", host: groups.join(":"), port };
  }
  const end = bytes.indexOf(0, 2);
  return {
    kind: "unix",
    path: new TextDecoder().decode(bytes.slice(2, end < 0 ? undefined : end)),
  };
}

/** Four bytes of `127.0.0.1`; undefined when it is something else. */
export function parseIpv4(text: string): Uint8Array | undefined {
  const parts = text.split(".");
  if (parts.length !== 4) return undefined;
  const bytes = new Uint8Array(4);
  for (let at = 0; at < 4; at++) {
    const part = parts[at]!;
    if (!/^\d{1,3}$/.test(part) || Number(part) > 255) return undefined;
    bytes[at] = Number(part);
  }
  return bytes;
}

/** Sixteen bytes of `::1`; undefined when it is something else. Zones are not supported. */
export function parseIpv6(text: string): Uint8Array | undefined {
  if (!/^[0-9a-fA-F:]+$/.test(text) || text.length > 39) return undefined;
  const halves = text.split("::");
  if (halves.length > 2) return undefined;
  const head = groupsOf(halves[0]!);
  const tail = groupsOf(halves[1] ?? "");
  if (head === undefined || tail === undefined) return undefined;
  const missing = 8 - head.length - tail.length;
  if (halves.length === 2 ? missing < 1 : missing !== 0) return undefined;
  const groups = [...head, ...new Array<number>(missing).fill(0), ...tail];
  const bytes = new Uint8Array(16);
  for (let at = 0; at < 8; at++) bytes.set([groups[at]! >>> 8, groups[at]! & 255], at * 2);
  return bytes;
}

function groupsOf(text: string): number[] | undefined {
  if (text === "") return [];
  const groups: number[] = [];
  for (const part of text.split(":")) {
    if (!/^[0-9a-fA-F]{1,4}$/.test(part)) return undefined;
    groups.push(Number.parseInt(part, 16));
  }
  return groups;
}

const ERRNO_TEXTS: Readonly<Record<number, string>> = {
  1: "not permitted",
  2: "no such file",
  4: "interrupted",
  5: "input/output error",
  11: "try again",
  12: "out of memory",
  13: "permission denied",
  16: "device is busy",
  20: "not a directory",
  21: "is a directory",
  22: "invalid argument",
  24: "too many open files",
  27: "file too large",
  28: "no space left",
  30: "read-only file system",
  32: "broken pipe",
  95: "not supported",
  98: "address in use",
  99: "address not available",
  101: "network unreachable",
  103: "connection aborted",
  104: "connection reset",
  110: "connection timed out",
  111: "connection refused",
  113: "host unreachable",
  125: "cancelled",
};

/** Words for a positive errno. */
export function errnoText(errno: number): string {
  return ERRNO_TEXTS[errno] ?? `errno ${errno}`;
}
