/** For tests: a world under limits that are the process's own. Tells what it met, as JSON. */
import { readFileSync } from "node:fs";
import type { FastblockError } from "../core/base/errors.ts";
import { silentLogger } from "../core/base/logger.ts";
import { Status, statusName } from "../core/base/status.ts";
import { DiskOp, DiskVerb } from "../core/reactor/world.ts";
import { mapMemory } from "../ffi/libc/libc.ts";
import { memoryError } from "./memory.ts";
import { createWorld } from "./world.ts";

const MIB = 1_048_576;
const [what, argument, backend] = process.argv.slice(2);
const warnings: { message: string; fields: unknown }[] = [];
const logger = {
  ...silentLogger,
  warn: (message: string, fields?: unknown) => void warnings.push({ message, fields }),
};

/** A thread that is bound to a core; where it may run is asked in the thread itself. */
async function pinned(cpu: number): Promise<unknown> {
  const world = createWorld({ arenaBytes: 4 * MIB, logger, cpu });
  const status = readFileSync("/proc/thread-self/status", "utf8");
  await world.stop();
  return { allowed: /^Cpus_allowed_list:\s*(\S+)$/m.exec(status)?.[1], warnings };
}

class Op extends DiskOp {
  isDone = false;
  onDone(): void {
    this.isDone = true;
  }
}

/** Write and read back 24 pieces of the arena: more than may be locked, or than a file may hold. */
async function written(path: string, prefer: "uring" | "file"): Promise<unknown> {
  const world = createWorld({
    arenaBytes: 64 * MIB,
    slotsBytes: 32 * MIB,
    logger,
    prefer,
  });
  world.holdGuest();
  world.start();
  const disk = world.disks.open(path, { createBytes: 32 * MIB });
  const { bytes } = world.arena;
  const failures: string[] = [];
  let right = 0;
  for (let piece = 0; piece < 24; piece++) {
    const slot = world.slots.take(MIB);
    bytes.fill(piece + 1, slot, slot + MIB);
    for (const verb of [DiskVerb.WriteDurable, DiskVerb.Read]) {
      if (verb === DiskVerb.Read) bytes.fill(0, slot, slot + MIB);
      const op = new Op();
      Object.assign(op, { verb, arenaOffset: slot, offsetBytes: piece * MIB, lengthBytes: MIB });
      disk.submit(op);
      while (!op.isDone) await Bun.sleep(1);
      if (op.status !== Status.Ok) {
        failures.push(`${DiskVerb[verb]} ${piece}: ${statusName(op.status)} ${op.errno}`);
      }
    }
    if (bytes.subarray(slot, slot + MIB).every((byte) => byte === piece + 1)) right += 1;
  }
  disk.close();
  await world.stop();
  return { right, failures, warnings };
}

/** Memory as a process takes it in the two ways that there are; what it meets, as people read it. */
function allocated(bytes: number): readonly unknown[] {
  const ways = [(): unknown => new Uint8Array(bytes), (): unknown => mapMemory(bytes)];
  return ways.map((way) => {
    try {
      return way() !== undefined;
    } catch (error) {
      const { code, message } = memoryError(error) as FastblockError;
      return [code, message];
    }
  });
}

async function met(): Promise<unknown> {
  if (what === "pin") return await pinned(Number(argument));
  if (what === "allocate") return allocated(Number(argument));
  return await written(argument ?? "", backend === "file" ? "file" : "uring");
}

const told = await met();
process.stdout.write(JSON.stringify(told));
process.exit(0);
