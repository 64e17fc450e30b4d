import { lstatSync, mkdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { FastblockError } from "../base/errors.ts";
import { shellWord } from "../base/shell.ts";
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

/** Where the data of users without a home of their own goes. */
export function temporaryHome(): string {
  return join(tmpdir(), `fastblock-${process.getuid?.() ?? 0}`);
}

/**
 * Anybody may make a folder of that name in a directory that all share, and what lies in it is
 * trusted: keys, and the words that start processes. So it must be ours, and nobody else's to enter.
 * For a directory outside of `temporaryHome` nothing is checked. Throws FB1008.
 */
export function checkTemporaryHome(directory: string, home: string = temporaryHome()): void {
  if (directory !== home && !directory.startsWith(`${home}/`)) return;
  const status = lstatSync(home, { throwIfNoEntry: false });
  if (status === undefined) return;
  if (!status.isDirectory() || status.uid !== process.getuid?.()) {
    throw new FastblockError("FB1008", `using ${home}: it is not a directory of yours`, {
      hint: "set HOME, or name a directory of your own: fastblock dev up --dir DIR",
    });
  }
  const mode = status.mode & 0o777;
  if ((mode & 0o077) === 0) return;
  throw new FastblockError("FB1008", `using ${home}: mode ${mode.toString(8)}, wanted 700`, {
    hint: `look at what is in it, then close it to others: chmod 700 ${shellWord(home)}`,
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
