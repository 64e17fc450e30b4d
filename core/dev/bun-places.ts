import { mkdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { FastblockError } from "../base/errors.ts";
import { SOCKET_PATH_BYTES_MAX } from "./plan.ts";

/** Below the range from which the kernel takes the ports of outgoing connections (32768 on). */
const PORT_FIRST = 10_000;
const PORT_COUNT = 20_000;
const TRIES_MAX = 1000;

/** Draws TCP ports that nobody listens on now, never the same twice. */
export class FreePorts {
  private readonly taken = new Set<number>();

  pick(host: string): number {
    for (let tries = 0; tries < TRIES_MAX; tries++) {
      const port = PORT_FIRST + this.below(PORT_COUNT);
      if (this.taken.has(port) || !isFree(host, port)) continue;
      this.taken.add(port);
      return port;
    }
    throw new FastblockError("FB4005", `choosing a port on ${host}: none is free`, {
      hint: "stop other clusters: fastblock dev down",
    });
  }

  below(bound: number): number {
    const draw = crypto.getRandomValues(new Uint32Array(1))[0]!;
    return Math.floor((draw / 4_294_967_296) * bound);
  }
}

function isFree(host: string, port: number): boolean {
  try {
    Bun.listen({ hostname: host, port, socket: { data() {} } }).stop(true);
    return true;
  } catch {
    return false;
  }
}

/**
 * The path of a gateway's unix socket: in the cluster directory, or, where that is too long for
 * the kernel, in a folder of its own under the runtime directory.
 */
export function findSocketPath(directory: string, name: string): string {
  const path = join(directory, `${name}.sock`);
  if (Buffer.byteLength(path) <= SOCKET_PATH_BYTES_MAX) return path;
  for (const folder of socketFolders(directory)) {
    const short = join(folder, `${name}.sock`);
    if (Buffer.byteLength(short) > SOCKET_PATH_BYTES_MAX) continue;
    try {
      mkdirSync(folder, { recursive: true, mode: 0o700 });
      return short;
    } catch {
      // Not ours to write to: the next one.
    }
  }
  throw new FastblockError("FB1001", `choosing a socket for ${directory}: its path is too long`, {
    hint: "set XDG_RUNTIME_DIR to a short path",
  });
}

/** Remove the folder that `findSocketPath` may have made. */
export function removeSocketFolder(directory: string): void {
  for (const folder of socketFolders(directory)) rmSync(folder, { recursive: true, force: true });
}

function socketFolders(directory: string): string[] {
  const name = `fastblock-${Bun.hash(directory).toString(16)}`;
  const runtime = process.env["XDG_RUNTIME_DIR"];
  const roots = [runtime, tmpdir(), "/tmp"].filter((root) => root !== undefined && root !== "");
  return roots.map((root) => join(root as string, name));
}
