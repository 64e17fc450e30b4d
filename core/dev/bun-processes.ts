import { chmodSync, existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { FastblockError } from "../base/errors.ts";
import { isHeld } from "./bun-lock.ts";
import { readClusterText } from "./bun-cluster-text.ts";
import { type DevProcessStatus, type DevStatus, STARTED_BY } from "./dev.ts";
import { DEV_FILE, type DevPlan, type DevProcess, parseDevPlan, parsePorts } from "./plan.ts";

/** What a dev cluster looks like from outside: its files, its processes, its monitor. */

/** From SIGTERM to the end. */
const STOP_MS_MAX = 40_000;
const LOOK_MS = 50;
const LOG_LINES_SHOWN = 5;

export function readPlan(directory: string): DevPlan {
  return parseDevPlan(readClusterText(directory, DEV_FILE), join(directory, DEV_FILE));
}

/**
 * The pid of a process of the plan when it runs, else 0. A pid file may be old, and its number
 * belong to a stranger by now: only who holds the lock runs.
 */
export function runningPid(one: Pick<DevProcess, "name">, directory: string): number {
  if (!isHeld(join(directory, `${one.name}.lock`))) return 0;
  const pid = Number(readText(join(directory, `${one.name}.pid`)));
  return Number.isInteger(pid) && pid > 0 && existsSync(`/proc/${pid}/exe`) ? pid : 0;
}

export async function stopOne(one: DevProcess, directory: string): Promise<void> {
  const pid = runningPid(one, directory);
  if (pid === 0) return;
  try {
    process.kill(pid, "SIGTERM");
  } catch {
    return;
  }
  const endMs = performance.now() + STOP_MS_MAX;
  while (runningPid(one, directory) === pid) {
    if (performance.now() > endMs) {
      throw new FastblockError("FB1006", `stopping ${one.name}: process ${pid} runs on`, {
        hint: `end it: kill -9 ${pid}`,
      });
    }
    await Bun.sleep(LOOK_MS);
  }
}

export function processStatus(one: DevProcess, directory: string): DevProcessStatus {
  const pid = runningPid(one, directory);
  const ports = parsePorts(readText(join(directory, `${one.name}.ports`)));
  return {
    name: one.name,
    role: one.role,
    running: pid !== 0,
    pid,
    address: one.bind,
    ports: Object.keys(ports).length > 0 ? ports : one.ports,
  };
}

/** What the mon tells of backends; undefined when it does not answer. */
export async function askBackends(
  http: string,
): Promise<Pick<Required<DevStatus>, "backend" | "backends"> | undefined> {
  const body = await askJson(`${http}/api/v1/status`);
  if (body === undefined) return undefined;
  const { backend, backends } = body as Required<DevStatus>;
  return { backend, backends };
}

export async function askJson(url: string): Promise<unknown> {
  try {
    const reply = await fetch(url, { signal: AbortSignal.timeout(2000) });
    return reply.ok ? await reply.json() : undefined;
  } catch {
    return undefined;
  }
}

export function httpOf(plan: DevPlan): string {
  const mon = plan.cluster.mons[0];
  return mon === undefined ? "" : `http://${mon.http.host}:${mon.http.port}`;
}

export function nbdsOf(plan: DevPlan): string[] {
  return plan.processes
    .filter((one) => one.role === "nbd")
    .map((one) => `nbd://${one.bind}:${String(one.ports["nbd"])}`);
}

/** Our environment without what would change how the program itself behaves. */
export function childEnvironment(): Record<string, string | undefined> {
  const { BUN_OPTIONS: _options, BUN_BE_BUN: _be, CLUSTER_DIR: _dir, ...rest } = process.env;
  delete rest[STARTED_BY];
  return rest;
}

/* ------------------------------------------------------------------ files */

/** Write a file so that a reader sees the old or the new text, never a part. */
export function writeWhole(path: string, text: string, mode: number): void {
  const temporary = `${path}.${process.pid}.new`;
  writeFileSync(temporary, text, { mode });
  chmodSync(temporary, mode);
  renameSync(temporary, path);
}

export function readText(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}

export function lastLines(text: string): string {
  return text.trimEnd().split("\n").slice(-LOG_LINES_SHOWN).join("\n        ");
}
