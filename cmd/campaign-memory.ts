import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const ROOT = "/sys/fs/cgroup";

/** Why this process can not limit memory by control groups; empty: it can. */
export function memoryGroupFault(): string {
  const controllers = join(ROOT, "cgroup.controllers");
  if (!existsSync(controllers)) return `left out: no control groups of version 2 in ${ROOT}`;
  if (!readFileSync(controllers, "utf8").split(/\s+/).includes("memory")) {
    return `left out: ${ROOT} offers no memory controller`;
  }
  try {
    new MemoryGroup().close();
    return "";
  } catch (error) {
    return `left out: no right to make control groups: ${String(error)}`;
  }
}

/** A control group of version 2 with too little memory, for one process at a time. */
export class MemoryGroup {
  private readonly folder = join(ROOT, `fastblock-test-${process.pid}`);

  constructor() {
    writeFileSync(join(ROOT, "cgroup.subtree_control"), "+memory");
    mkdirSync(this.folder);
  }

  /** What the process takes from now on counts; what it had does not. */
  take(pid: number): void {
    this.write("cgroup.procs", String(pid));
  }

  /** Above this the process is slowed down. */
  slowAbove(bytes: number | "max"): void {
    this.write("memory.high", String(bytes));
  }

  /** Above this the kernel ends it. */
  endAbove(bytes: number | "max"): void {
    this.write("memory.max", String(bytes));
  }

  /** How often the process was slowed down (`high`), or ended (`oom_kill`). */
  count(event: "high" | "oom_kill"): number {
    const text = readFileSync(join(this.folder, "memory.events"), "utf8");
    return Number(new RegExp(`^${event} (\\d+)$`, "m").exec(text)?.[1] ?? 0);
  }

  /** Take the group away; nobody is in it any more. */
  close(): void {
    rmdirSync(this.folder);
  }

  private write(name: string, text: string): void {
    writeFileSync(join(this.folder, name), text);
  }
}
