import { existsSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { FileLock, isHeld } from "./bun-lock.ts";
import { readText, runningPid, writeWhole } from "./bun-processes.ts";
import { DEV_FILE, type DevPlan } from "./plan.ts";

/**
 * The one `dev up` that serves a directory in its terminal: what it serves ends with it.
 *
 * It holds `dev.up.lock`, and `dev.up.pid` names it. Whoever else stops the cluster takes the pid
 * file away before the first process ends: so it knows an order from a death.
 */
export class Foreground {
  private readonly directory: string;
  private readonly lock: FileLock;

  private constructor(directory: string, lock: FileLock) {
    this.directory = directory;
    this.lock = lock;
  }

  /** Undefined while another process is it, or has not seen yet that it no longer is. */
  static take(directory: string): Foreground | undefined {
    const lock = FileLock.take(join(directory, `${FOREGROUND.name}.lock`));
    if (lock === undefined) return undefined;
    writeWhole(pidPath(directory), `${process.pid}\n`, 0o644);
    return new Foreground(directory, lock);
  }

  /** Nobody else has stopped the cluster, or has begun to. */
  get isServing(): boolean {
    return Number(readText(pidPath(this.directory))) === process.pid;
  }

  /** Requires that another process stops the cluster. Waits for its end; answers its command. */
  async waitForOther(lockPath: string): Promise<"fastblock dev down" | "fastblock dev reset"> {
    while (isHeld(lockPath)) await Bun.sleep(LOOK_MS);
    return existsSync(join(this.directory, DEV_FILE))
      ? "fastblock dev down"
      : "fastblock dev reset";
  }

  release(): void {
    this.lock.release();
  }
}

const FOREGROUND = { name: "dev.up" } as const;
const LOOK_MS = 50;

function pidPath(directory: string): string {
  return join(directory, `${FOREGROUND.name}.pid`);
}

/** The cluster is about to be stopped, by order: from here on no `dev up` serves it. */
export function endForeground(directory: string): void {
  rmSync(pidPath(directory), { force: true });
}

/** Remove what is left of it in a directory that is removed. */
export function removeForeground(directory: string): void {
  for (const end of ["lock", "pid"])
    rmSync(join(directory, `${FOREGROUND.name}.${end}`), { force: true });
}

/** A cluster that runs. */
export interface Running {
  /** When its mon was started: milliseconds since 1970. */
  readonly sinceMs: number;
  /** Of the `dev up` that serves it in a terminal, else of its mon. */
  readonly pid: number;
  readonly isForeground: boolean;
}

/** Undefined when the mon does not run: then whoever starts it serves. */
export function findRunning(plan: DevPlan, directory: string): Running | undefined {
  const mon = plan.processes.find(({ role }) => role === "mon");
  const monPid = mon === undefined ? 0 : runningPid(mon, directory);
  if (mon === undefined || monPid === 0) return undefined;
  const sinceMs = statSync(join(directory, `${mon.name}.pid`)).mtimeMs;
  const pid = runningPid(FOREGROUND, directory);
  return { sinceMs, pid: pid === 0 ? monPid : pid, isForeground: pid !== 0 };
}
