import { existsSync, readFileSync, realpathSync, statSync } from "node:fs";
import { basename, dirname } from "node:path";
import { allPids, type OwnProcess, ownProcess, readProc } from "./own-processes.ts";
import {
  type DiskCounts,
  type MachineTicks,
  parseDisk,
  parseMachine,
  parseProcessStat,
  TICK_US,
} from "./readings.ts";
import type { System } from "./settings.ts";

/** Everything that is counted, at one moment; all of it running totals. */
export interface Sample {
  readonly ms: number;
  /** CPU of each of our processes, in ticks; the key tells a process from a later one of its id. */
  readonly own: ReadonlyMap<string, { readonly process: OwnProcess; readonly ticks: number }>;
  /** CPU of all kernel threads, in ticks. */
  readonly kernelTicks: number;
  /** CPU of the harness itself, in ticks. */
  readonly harnessTicks: number;
  readonly machine: MachineTicks;
  readonly disk: DiskCounts;
}

const KTHREADD_PID = 2;

/** Reads /proc. A look takes some milliseconds of CPU: two in a second are enough. */
export class Meter {
  private readonly token: string;
  private readonly device: string;
  private readonly known = new Map<string, OwnProcess>();

  constructor(token: string, device: string) {
    this.token = token;
    this.device = device;
  }

  sample(): Sample {
    const own: [string, { process: OwnProcess; ticks: number }][] = [];
    let kernelTicks = 0;
    let harnessTicks = 0;
    for (const pid of allPids()) {
      const stat = parseProcessStat(readProc(pid, "stat"));
      if (stat === undefined) continue;
      const ticks = stat.cpuTicks;
      if (pid === KTHREADD_PID || stat.parentPid === KTHREADD_PID) kernelTicks += ticks;
      else if (pid === process.pid) harnessTicks += ticks;
      else {
        const key = `${pid}.${stat.startTicks}`;
        const found = this.known.get(key) ?? ownProcess(pid, this.token);
        if (found === undefined) continue;
        this.known.set(key, found);
        own.push([key, { process: found, ticks }]);
      }
    }
    return {
      ms: performance.now(),
      own: new Map(own),
      kernelTicks,
      harnessTicks,
      machine: parseMachine(readFileSync("/proc/stat", "utf8")),
      disk: parseDisk(readFileSync("/proc/diskstats", "utf8"), this.device),
    };
  }
}

/** What happened between two samples. */
export interface Span {
  readonly seconds: number;
  /** CPU by kind of process, in µs, of the one system and of the other ones. */
  readonly cpuUs: ReadonlyMap<System, ReadonlyMap<string, number>>;
  /** Kernel threads and interrupts: nobody is charged for them. */
  readonly kernelUs: number;
  /** Of processes that are neither of the clusters nor of the harness. */
  readonly foreignUs: number;
  readonly stolenUs: number;
  readonly disk: DiskCounts;
}

export function spanOf(from: Sample, to: Sample): Span {
  const cpuUs = new Map<System, Map<string, number>>();
  let ownUs = 0;
  for (const [key, { process, ticks }] of to.own) {
    const us = (ticks - (from.own.get(key)?.ticks ?? 0)) * TICK_US;
    const kinds = cpuUs.get(process.system) ?? new Map<string, number>();
    cpuUs.set(process.system, kinds.set(process.kind, (kinds.get(process.kind) ?? 0) + us));
    ownUs += us;
  }
  const machineUs = (pick: (one: MachineTicks) => number): number =>
    (pick(to.machine) - pick(from.machine)) * TICK_US;
  const threadsUs = (to.kernelTicks - from.kernelTicks) * TICK_US;
  const harnessUs = (to.harnessTicks - from.harnessTicks) * TICK_US;
  const diskCount = (pick: (one: DiskCounts) => number): number => pick(to.disk) - pick(from.disk);
  return {
    seconds: (to.ms - from.ms) / 1000,
    cpuUs,
    kernelUs: threadsUs + machineUs(({ interrupts }) => interrupts),
    foreignUs: Math.max(0, machineUs(({ tasks }) => tasks) - ownUs - threadsUs - harnessUs),
    stolenUs: machineUs(({ stolen }) => stolen),
    disk: {
      reads: diskCount(({ reads }) => reads),
      writes: diskCount(({ writes }) => writes),
      writtenBytes: diskCount(({ writtenBytes }) => writtenBytes),
      flushes: diskCount(({ flushes }) => flushes),
    },
  };
}

/** The disk beneath a directory, as /proc/diskstats names it: flushes count for whole disks alone. */
export function deviceOf(directory: string): string {
  const { dev } = statSync(directory);
  const [major, minor] = [(dev >> 8) & 0xfff, (dev & 0xff) | ((dev >> 12) & 0xfff00)];
  const link = `/sys/dev/block/${major}:${minor}`;
  if (!existsSync(link)) {
    const seen = `device ${major}:${minor} is no block device`;
    throw new Error(
      `looking for the disk of ${directory}: ${seen}, wanted a file system on a disk`,
    );
  }
  const path = realpathSync(link);
  return basename(existsSync(`${path}/partition`) ? dirname(path) : path);
}
