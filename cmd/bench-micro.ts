import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { join } from "node:path";
import { FastblockError } from "../core/base/errors.ts";
import type {
  DiskBenchOptions,
  MicroRow,
  ReactorBenchOptions,
  RpcBenchOptions,
} from "../core/bench/bench.ts";
import {
  type BenchRow,
  type CpuClock,
  checkDiskShape,
  checkRpcShape,
  type DiskBenchCase,
  fillDisk,
  runDiskBench,
  runEchoBench,
  runRpcBench,
  runTurnBench,
  serveBareReplica,
  serveEcho,
  serveRpcBench,
} from "../core/bench/bench.ts";
import { type FioRow, runFioDisk, runFioEcho, runFioNull } from "../core/bench/bun-fio.ts";
import { cpuUsOf } from "../core/bench/bun-meter.ts";
import type { RunnableWorld } from "../core/reactor/reactor.ts";
import type { Address, Disk, Listener, World } from "../core/reactor/world.ts";
import { cpuTimes } from "../ffi/libc/libc.ts";
import { terminalLogger } from "./terminal-logger.ts";
import { createWorld } from "./world.ts";

/** `bench disk | reactor | rpc`: one layer at a time, the same load by fio beside it. */
const ARENA_BYTES = 512 * 1_048_576;
export const CPU: CpuClock = { read: () => cpuTimes("process") };
const KEY_VARIABLE = "FASTBLOCK_BENCH_KEY";
const BENCH_CLUSTER = "00000000-0000-0000-0000-000000000001";

/** Throws FB4005, FB4008, FB4009. */
export async function diskBench(options: DiskBenchOptions): Promise<readonly MicroRow[]> {
  const isRead = options.rw === "randread" || options.rw === "read";
  const given = options.path !== "";
  if (given && !isRead && existsSync(options.path) && !options.force) {
    const message = `driving ${options.path}: it exists, and its content would be lost`;
    throw new FastblockError("FB4008", message);
  }
  const folder = given ? "" : mkdtempSync(join(process.cwd(), "fastblock-bench-"));
  const path = given ? options.path : join(folder, "disk");
  try {
    return await diskRows(path, options, isRead);
  } finally {
    if (folder !== "") rmSync(folder, { recursive: true, force: true });
  }
}

async function diskRows(
  path: string,
  options: DiskBenchOptions,
  isRead: boolean,
): Promise<readonly MicroRow[]> {
  const rows: MicroRow[] = [];
  const fresh = !existsSync(path);
  const verbs = isRead ? (["read"] as const) : (["write", "writeDurable"] as const);
  const cases = verbs.map(
    (verb): DiskBenchCase => ({
      verb,
      depth: options.depth,
      blockBytes: options.blockBytes,
      durationMs: options.timeMs,
      sequential: options.rw === "write" || options.rw === "read",
    }),
  );
  let place = { sizeBytes: 0, direct: true };
  await inWorld(options.backend, async (world) => {
    const disk: Disk = world.disks.open(path, fresh ? { createBytes: options.sizeBytes } : {});
    checkDiskShape(disk.sizeBytes, options.blockBytes, options.depth);
    if (fresh) await fillDisk(world, disk);
    for (const one of cases) {
      rows.push(microRow(await runDiskBench(world, disk, one, CPU), one.blockBytes, disk.backend));
    }
    place = { sizeBytes: disk.sizeBytes, direct: disk.direct };
    disk.close();
  });
  for (const one of options.fio ? cases : []) {
    const row = await runFioDisk(path, place.sizeBytes, place.direct, one);
    rows.push(...fioRows(row, one.blockBytes));
  }
  return rows;
}

const ECHO_HEADER_BYTES = 64;
const ECHO_CASES = [
  { depth: 1, payloadBytes: 0 },
  { depth: 32, payloadBytes: 0 },
  { depth: 1, payloadBytes: 4096 },
  { depth: 32, payloadBytes: 4096 },
];

/** Turns that do nothing, then messages to a server in a process of its own. */
export async function reactorBench(
  options: ReactorBenchOptions,
  program: readonly string[],
): Promise<readonly MicroRow[]> {
  const durationMs = options.timeMs;
  const rows = await inWorld(options.backend, async (world) => {
    const made = [microRow(await runTurnBench(world, durationMs, CPU), 0, world.backend)];
    const server = await startServer(program, "echo", options.backend);
    try {
      for (const one of ECHO_CASES) {
        const row = await runEchoBench(world, server.address, { ...one, durationMs }, CPU);
        made.push(microRow(row, one.payloadBytes, world.backend));
      }
    } finally {
      await server.stop();
    }
    return made;
  });
  if (!options.fio) return rows;
  const beside = [fioRows(await runFioNull(durationMs), 0)];
  for (const { depth, payloadBytes } of ECHO_CASES) {
    const messageBytes = ECHO_HEADER_BYTES + payloadBytes;
    const row = await runFioEcho({ messageBytes, depth, durationMs, cpuOf: "sender" });
    beside.push(fioRows(row, payloadBytes));
  }
  return rows.flatMap((row, at) => [row, ...beside[at]!]);
}

/** Requests with payload to a server in a process of its own. Throws FB5001. */
export async function rpcBench(
  options: RpcBenchOptions,
  program: readonly string[],
): Promise<readonly MicroRow[]> {
  checkRpcShape(options.blockBytes, options.depth);
  const psk = crypto.getRandomValues(new Uint8Array(32));
  const { blockBytes, timeMs, encrypt } = options;
  const depths = options.depth === 1 ? [1] : [1, options.depth];
  const rows = await inWorld(options.backend, async (world) => {
    const server = await startServer(program, "rpc", options.backend, { key: psk.toHex() });
    const run = {
      world,
      target: server.address,
      secret: { clusterId: BENCH_CLUSTER, psk },
      blockBytes,
      timeMs,
      encrypt,
      cpuUs: () => ownCpuUs() + server.cpuUs(),
    };
    try {
      const made: MicroRow[] = [];
      for (const depth of depths) made.push(await runRpcBench({ ...run, depth }));
      return made;
    } finally {
      await server.stop();
    }
  });
  if (!options.fio) return rows;
  const beside: (readonly MicroRow[])[] = [];
  for (const depth of depths) {
    const load = { messageBytes: blockBytes, depth, durationMs: timeMs, cpuOf: "both" } as const;
    beside.push(fioRows(await runFioEcho(load), blockBytes));
  }
  return rows.flatMap((row, at) => [row, ...beside[at]!]);
}

/* ---------------------------------------------------------------- the server */

/** What a server serves from. */
interface ServerParts {
  /** Path of the disk that `echo` reads answers from, and that `replica` writes to; empty: none. */
  readonly disk: string;
  /** Ports of the followers of `replica`: `4711,4712`; empty: it follows. */
  readonly followers: string;
  /** Batches that `replica` has on their way to its log. */
  readonly batches: number;
}

/** The other end of `bench reactor`, `bench rpc` and what the suite compares with; ends with its standard input. */
export async function benchServe(
  kind: string,
  backend: "auto" | "uring" | "file",
  parts: ServerParts,
): Promise<number> {
  const world = createWorld({
    arenaBytes: ARENA_BYTES,
    logger: terminalLogger("warn"),
    prefer: backend,
  });
  world.start();
  world.holdGuest();
  const listener = listenAs(world, kind, parts);
  const port = listener.address.kind === "tcp" ? listener.address.port : 0;
  process.stdout.write(`${port}\n`);
  await new Promise<void>((resolve) => {
    process.stdin.on("end", resolve);
    process.stdin.on("close", resolve);
    process.stdin.resume();
  });
  await world.stop();
  return 0;
}

function listenAs(world: World, kind: string, parts: ServerParts): Listener {
  const { disk, followers, batches } = parts;
  const address = (port: number): Address => ({ kind: "tcp", host: "127.0.0.1", port });
  const opened = disk === "" ? null : world.disks.open(disk, {});
  if (kind === "echo") return serveEcho(world, address(0), opened);
  if (kind === "replica") {
    const ports = followers === "" ? [] : followers.split(",").map(Number);
    return serveBareReplica(world, address(0), opened!, ports.map(address), batches);
  }
  const psk = Uint8Array.fromHex(process.env[KEY_VARIABLE] ?? "");
  return serveRpcBench(world, address(0), { clusterId: BENCH_CLUSTER, psk }).listener;
}

export interface BenchServer {
  readonly address: Address;
  readonly port: number;
  cpuUs(): number;
  /** Resolves when it has ended, and its disk is free. Throws FB5001 when it did not end as it should. */
  stop(): Promise<void>;
}

/** `key`: of the connections of `rpc`. */
export function startServer(
  program: readonly string[],
  kind: "echo" | "replica" | "rpc",
  backend: string,
  given: Partial<ServerParts & { readonly key: string }> = {},
): Promise<BenchServer> {
  const { key = "", disk = "", followers = "", batches = 1 } = given;
  const [executable, ...words] = program;
  const parts = ["--disk", disk, "--followers", followers, "--batches", String(batches)];
  const args = [...words, "__bench-serve", kind, "--backend", backend, ...parts];
  const child = spawn(executable!, args, {
    stdio: ["pipe", "pipe", "inherit"],
    env: { ...process.env, [KEY_VARIABLE]: key },
  });
  const ended = new Promise<number | null>((resolve) => child.on("exit", resolve));
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("exit", (code) => {
      reject(new FastblockError("FB5001", `starting the bench's server: exit code ${code}`));
    });
    child.stdout.once("data", (bytes: Buffer) => {
      const { pid } = child;
      const port = Number(bytes.toString());
      resolve({
        address: { kind: "tcp", host: "127.0.0.1", port },
        port,
        cpuUs: () => cpuUsOf(pid ?? 0) ?? 0,
        stop: async () => {
          child.stdin.end();
          const code = await ended;
          if (code === 0) return;
          throw new FastblockError("FB5001", `a ${kind} of the bench ended with ${code}, wanted 0`);
        },
      });
    });
  });
}

function ownCpuUs(): number {
  const { userUs, systemUs } = CPU.read();
  return userUs + systemUs;
}

/* -------------------------------------------------------------------- helpers */

/** A reactor of its own for `body`. */
export async function inWorld<T>(
  backend: "auto" | "uring" | "file",
  body: (world: RunnableWorld) => Promise<T>,
): Promise<T> {
  const logger = terminalLogger("warn");
  const world = createWorld({ arenaBytes: ARENA_BYTES, logger, prefer: backend });
  world.start();
  try {
    return await body(world);
  } finally {
    await world.stop();
  }
}

function microRow(row: BenchRow, blockBytes: number, backend: string): MicroRow {
  return {
    name: row.name,
    iops: Math.round(row.opsPerSecond),
    bytesPerSec: Math.round(row.opsPerSecond * blockBytes),
    latencyUs: row.latencyUs,
    cpuUsPerIo: Math.round((row.cpuUsPerOp.user + row.cpuUsPerOp.system) * 1000) / 1000,
    backend,
  };
}

/** The row of fio, if there is one; without figures when fio gave none. */
function fioRows(row: FioRow, blockBytes: number): readonly MicroRow[] {
  if (row === undefined) return [];
  if ("opsPerSecond" in row) return [microRow(row, blockBytes, "fio")];
  const { name, note } = row;
  const none = { iops: null, bytesPerSec: null, latencyUs: null, cpuUsPerIo: null };
  return [{ name, ...none, backend: "fio", note }];
}
