import { readFileSync } from "node:fs";
import { isOutOfMemory } from "../core/base/assert.ts";
import { FastblockError } from "../core/base/errors.ts";
import { MappingFailed } from "../ffi/libc/mapping-failed.ts";

/** How much memory a process may have, and what it says when that is too little. */

const MIB = 1_048_576;
/** What a process may come to need beside its arena, which is mapped whole when it serves. */
const SPARE_BYTES = 128 * MIB;

/** The error of lacking memory for what stands for it, any other as it is. */
export function memoryError(error: unknown): unknown {
  if (error instanceof FastblockError || !(error instanceof Error)) return error;
  if (error instanceof MappingFailed) return new FastblockError("FB4012", error.message);
  const refused = "refused by the system, wanted it";
  if (isOutOfMemory(error)) return new FastblockError("FB4012", `allocating memory: ${refused}`);
  // The engine takes the addresses for compiled code first, and goes on without them.
  if (!error.message.endsWith("requires the JIT")) return error;
  return new FastblockError("FB4012", `allocating memory for compiled code: ${refused}`);
}

/** A limit that leaves too little, of the texts of `/proc/PID/status` and `/proc/PID/limits`. */
export function shortLimit(status: string, limits: string): FastblockError | undefined {
  for (const [limit, field, flag, setting] of [
    ["address space", "VmSize", "-v", "LimitAS"],
    ["data size", "VmData", "-d", "LimitDATA"],
  ] as const) {
    const most = Number(new RegExp(`^Max ${limit}\\s+(\\d+)`, "m").exec(limits)?.[1] ?? Infinity);
    const taken = Number(new RegExp(`^${field}:\\s+(\\d+) kB`, "m").exec(status)?.[1] ?? 0) * 1024;
    if (most - taken >= SPARE_BYTES) continue;
    const left = `${mib(most - taken)} MiB left, wanted ${mib(SPARE_BYTES)} MiB`;
    return new FastblockError("FB4012", `looking at the limit of ${limit}: ${left}`, {
      why: `the limit is ${mib(most)} MiB, ${mib(taken)} MiB are taken`,
      hint: `raise it: ulimit ${flag} unlimited, or ${setting}=infinity in its unit`,
    });
  }
  return undefined;
}

/** The error of a process that would end later for want of addresses. */
export function ownShortLimit(): FastblockError | undefined {
  return shortLimit(textOf("/proc/self/status") ?? "", textOf("/proc/self/limits") ?? "");
}

/**
 * The most memory that the control groups of a process (`/proc/PID/cgroup`) leave it; Infinity: as
 * much as there is. A container sees its own group as the root. `read` answers the text of a file,
 * undefined where there is none.
 */
export function allowedBytes(groups: string, read: (path: string) => string | undefined): number {
  const group = /^0::(\/.*)$/m.exec(groups)?.[1];
  if (group === undefined) return Infinity;
  let least = Infinity;
  for (let path = group === "/" ? "" : group; ; path = path.slice(0, path.lastIndexOf("/"))) {
    const most = Number(read(`/sys/fs/cgroup${path}/memory.max`)?.trim());
    if (most < least) least = most;
    if (path === "") return least;
  }
}

/** The memory that this process may have: of its control groups, or all of the machine. */
export function ownAllowedBytes(): number {
  const total = /^MemTotal:\s+(\d+) kB/m.exec(textOf("/proc/meminfo") ?? "")?.[1];
  const totalBytes = total === undefined ? Infinity : Number(total) * 1024;
  return Math.min(allowedBytes(textOf("/proc/self/cgroup") ?? "", textOf), totalBytes);
}

/** Undefined where there is none, or a sandbox hides it: then it tells of no limit. */
function textOf(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return undefined;
  }
}

function mib(bytes: number): number {
  return Math.floor(bytes / MIB);
}
