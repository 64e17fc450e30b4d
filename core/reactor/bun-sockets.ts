import { lookup } from "node:dns/promises";
import { existsSync, unlinkSync } from "node:fs";
import {
  bindSocket,
  closeFile,
  connectSocket,
  listenSocket,
  openSocket,
  setNoDelay,
  setReuseAddress,
  socketAddress,
} from "../../ffi/libc/libc.ts";
import {
  decodeSocketName,
  encodeSocketName,
  errnoText,
  parseIpv4,
  parseIpv6,
} from "../../ffi/libc/socket-address.ts";
import { FastblockError } from "../base/errors.ts";
import type { Address } from "./world.ts";

/** Opening sockets: the part of the network that runs once per connection or listener. */

const BACKLOG = 1024;
const EADDRINUSE = 98;
const ECONNREFUSED = 111;

/** `127.0.0.1:4711`, `[::1]:4711` or the path of a unix socket. */
export function addressText(address: Address): string {
  if (address.kind === "unix") return address.path;
  return address.host.includes(":")
    ? `[${address.host}]:${address.port}`
    : `${address.host}:${address.port}`;
}

/** True when the host needs no name service. */
export function isLiteral(host: string): boolean {
  return host === "localhost" || parseIpv4(host) !== undefined || parseIpv6(host) !== undefined;
}

/** The first address of a host name. */
export async function resolveHost(host: string): Promise<string> {
  const found = await lookup(host);
  return found.address;
}

function withoutNames(address: Address): Address {
  if (address.kind === "tcp" && address.host === "localhost") {
    return { kind: "tcp", host: "127.0.0.1", port: address.port };
  }
  return address;
}

/** What the kernel takes for an address; undefined for a path that is too long or a name. */
export function encodeAddress(
  address: Address,
): { readonly family: number; readonly bytes: Uint8Array } | undefined {
  return encodeSocketName(withoutNames(address));
}

/** A bound, listening socket. */
export interface ListeningSocket {
  readonly fd: number;
  /** With the port that was chosen. */
  readonly address: Address;
}

/** Listen; a unix socket that nobody serves any more is replaced. Throws FB4005, FB1001 or FB4009. */
export function openListener(address: Address): ListeningSocket {
  const encoded = encodeAddress(address);
  if (encoded === undefined) {
    throw new FastblockError(
      "FB1001",
      `listening on ${addressText(address)}: not usable, wanted a literal address or a path of at most 107 bytes`,
    );
  }
  if (address.kind === "unix") removeStaleSocket(address.path);
  const fd = openSocket(encoded.family);
  if (fd < 0) throw listenError(address, fd);
  setReuseAddress(fd);
  let result = bindSocket(fd, encoded.bytes);
  if (result >= 0) result = listenSocket(fd, BACKLOG);
  if (result < 0) {
    closeFile(fd);
    throw listenError(address, result);
  }
  const bound = address.kind === "unix" ? address : decodeSocketName(socketAddress(fd, "own"));
  return { fd, address: bound };
}

/** A socket for an outgoing connection, bound when asked; -errno when that fails. */
export function openOutgoing(target: Address, family: number, bind: string | undefined): number {
  const fd = openSocket(family);
  if (fd < 0 || target.kind === "unix") return fd;
  setNoDelay(fd);
  if (bind === undefined || bind === "" || bind === "0.0.0.0" || bind === "::") return fd;
  const local = encodeAddress({ kind: "tcp", host: bind, port: 0 });
  const result = local === undefined ? -99 : bindSocket(fd, local.bytes);
  if (result >= 0) return fd;
  closeFile(fd);
  return result;
}

/** Who is at the other end, for logs. */
export function peerText(fd: number): string {
  const name = decodeSocketName(socketAddress(fd, "peer"));
  return name.kind === "unix" ? (name.path === "" ? "unix" : name.path) : addressText(name);
}

/** Remove the file of a unix listener. */
export function removeSocketFile(path: string): void {
  try {
    unlinkSync(path);
  } catch {
    // Somebody else removed it: that is what was wanted.
  }
}

/** Remove the file of a unix listener that nobody serves any more. */
export function removeStaleSocket(path: string): void {
  const encoded = encodeAddress({ kind: "unix", path });
  if (encoded === undefined || !existsSync(path)) return;
  const probe = openSocket(encoded.family);
  if (probe < 0) return;
  const result = connectSocket(probe, encoded.bytes);
  closeFile(probe);
  if (result === -ECONNREFUSED) removeSocketFile(path);
}

function listenError(address: Address, result: number): FastblockError {
  const message = `listening on ${addressText(address)}: ${errnoText(-result)}`;
  if (result === -EADDRINUSE) {
    const hint = "stop the process that listens there, or choose another port";
    return new FastblockError("FB4005", message, { hint });
  }
  return new FastblockError("FB4009", message, { hint: "check the address and the rights" });
}
