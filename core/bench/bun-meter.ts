import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { type Collections, collectionsIn, collectionsOf, tellsCollections } from "./collections.ts";
import type { ClusterMeter } from "./image-bench.ts";
import { CounterSum, samplesOf } from "./metrics-text.ts";
import type { DeviceUsage, ProcessUsage } from "./spending.ts";

/** Counters that osds report, on the monitor's metrics page. */
const BYTES_METRIC = "fastblock_device_write_bytes_total";
const WRITES_METRIC = "fastblock_device_writes_total";
const FLUSHES_METRIC = "fastblock_device_flushes_total";
const CALLS_METRIC = "fastblock_reactor_system_calls_total";
/** `utime` and `stime` of /proc/PID/stat count in these. */
const TICK_US = 10_000;
const FETCH_MS_MAX = 3000;
/** How `status` of a thread begins that compiles. They come and go; what one did after the last look is missed. */
const COMPILER = "Name:\tJITWorker\n";

/** Reads what the processes of a cluster directory and the bench itself spend. */
export class BunMeter implements ClusterMeter {
  private readonly directory: string;
  private readonly httpBase: string;
  private readonly readOwnCalls: () => number;
  private readonly kinds = new Map<string, KindSums>();
  private readonly bytes = new CounterSum();
  private readonly writes = new CounterSum();
  private readonly flushes = new CounterSum();
  private readonly calls = new CounterSum();
  private readonly logs = new Map<string, number>();

  /**
   * `httpBase`: `http://127.0.0.1:7480` of a monitor; empty: device bytes are unknown. `readOwnCalls`: system
   * calls of this process' reactor; 0: not known.
   */
  constructor(directory: string, httpBase: string, readOwnCalls: () => number) {
    this.directory = directory;
    this.httpBase = httpBase;
    this.readOwnCalls = readOwnCalls;
  }

  processes(): readonly ProcessUsage[] {
    const pids = new Map([["client", [process.pid]]]);
    for (const name of readdirSync(this.directory)) {
      if (!name.endsWith(".pid")) continue;
      const pid = Number(readText(join(this.directory, name)));
      if (!isOfCluster(pid, this.directory)) continue;
      const kind = name.slice(0, name.indexOf("."));
      // A terminal that serves the cluster has started it, and does no more.
      if (kind === "dev") continue;
      pids.set(kind, [...(pids.get(kind) ?? []), pid]);
    }
    for (const [kind, list] of pids) this.sumsOf(kind).take(list);
    return [...this.kinds].map(([kind, sums]) => ({ kind, ...sums.usage() }));
  }

  async devices(): Promise<DeviceUsage | null> {
    const text = await this.fetchText("/metrics");
    if (text === undefined) return null;
    const samples = samplesOf(text, BYTES_METRIC);
    if (samples.length === 0) return null;
    return {
      bytes: this.bytes.take(samples),
      writes: this.writes.take(samplesOf(text, WRITES_METRIC)),
      flushes: this.flushes.take(samplesOf(text, FLUSHES_METRIC)),
    };
  }

  ownCalls(): number | null {
    const calls = this.readOwnCalls();
    return calls === 0 ? null : calls;
  }

  async osdCalls(): Promise<number | null> {
    const text = await this.fetchText("/metrics");
    const samples = text === undefined ? [] : samplesOf(text, CALLS_METRIC);
    return samples.length === 0 ? null : this.calls.take(samples);
  }

  takeCollections(): Collections | null {
    const all: Collections[] = [];
    for (const name of readdirSync(this.directory)) {
      if (!name.endsWith(".log")) continue;
      const text = readText(join(this.directory, name));
      if (!tellsCollections(text)) continue;
      // A line may be in the making.
      const end = text.lastIndexOf("\n") + 1;
      all.push(collectionsIn(text.slice(this.logs.get(name) ?? 0, end)));
      this.logs.set(name, end);
    }
    return all.length === 0 ? null : collectionsOf(all);
  }

  async logBytes(): Promise<number | null> {
    const osds = await this.osds();
    return osds?.reduce((sum, osd) => sum + Number(osd.logUsedBytes ?? 0), 0) ?? null;
  }

  async freeBytes(): Promise<number | null> {
    const osds = await this.osds();
    const free = osds?.map((osd) => Number(osd.capacityBytes ?? 0) - Number(osd.usedBytes ?? 0));
    return free?.reduce((sum, bytes) => sum + bytes, 0) ?? null;
  }

  private async osds(): Promise<readonly Partial<Record<string, number | string>>[] | undefined> {
    const text = await this.fetchText("/api/v1/osds");
    if (text === undefined) return undefined;
    const body = JSON.parse(text) as { items?: Partial<Record<string, number | string>>[] };
    return body.items ?? [];
  }

  private sumsOf(kind: string): KindSums {
    const known = this.kinds.get(kind);
    if (known !== undefined) return known;
    const sums = new KindSums();
    this.kinds.set(kind, sums);
    return sums;
  }

  private async fetchText(path: string): Promise<string | undefined> {
    if (this.httpBase === "") return undefined;
    try {
      const reply = await fetch(this.httpBase + path, {
        signal: AbortSignal.timeout(FETCH_MS_MAX),
      });
      return reply.ok ? await reply.text() : undefined;
    } catch {
      return undefined;
    }
  }
}

/** Sums over the processes of a kind, which may end and come back. */
class KindSums {
  private readonly user = new CounterSum();
  private readonly system = new CounterSum();
  private readonly compile = new CounterSum();
  private readonly switches = new CounterSum();

  take(pids: readonly number[]): void {
    const user = [];
    const system = [];
    const compile = [];
    const switches = [];
    for (const pid of pids) {
      const stat = parseStat(readText(`/proc/${pid}/stat`));
      if (stat === undefined) continue;
      // A pid may come back for another process: the time of its start tells them apart.
      const labels = `${pid}.${stat.startTicks}`;
      user.push({ labels, value: stat.userTicks * TICK_US });
      system.push({ labels, value: stat.systemTicks * TICK_US });
      for (const task of tasksOf(pid)) {
        const text = readText(`/proc/${pid}/task/${task}/status`);
        switches.push({ labels: `${labels}.${task}`, value: parseSwitches(text) });
        if (!text.startsWith(COMPILER)) continue;
        const thread = parseStat(readText(`/proc/${pid}/task/${task}/stat`));
        if (thread === undefined) continue;
        const one = `${labels}.${task}.${thread.startTicks}`;
        if (this.user.knows(labels)) this.compile.begin(one);
        compile.push({ labels: one, value: (thread.userTicks + thread.systemTicks) * TICK_US });
      }
    }
    this.user.take(user);
    this.system.take(system);
    this.compile.take(compile);
    this.switches.take(switches);
  }

  usage(): Omit<ProcessUsage, "kind"> {
    return {
      userUs: this.user.take([]),
      systemUs: this.system.take([]),
      compileUs: this.compile.take([]),
      switches: this.switches.take([]),
    };
  }
}

/** CPU and start of a process or thread out of the text of its `stat` below /proc, in clock ticks. */
export function parseStat(
  text: string,
): { userTicks: number; systemTicks: number; startTicks: number } | undefined {
  // The name in parentheses may hold anything: fields are counted from its end (field 3 on).
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  const userTicks = Number(fields[11]);
  const systemTicks = Number(fields[12]);
  const startTicks = Number(fields[19]);
  if (fields.length < 20 || Number.isNaN(userTicks + systemTicks + startTicks)) return undefined;
  return { userTicks, systemTicks, startTicks };
}

/** Context switches of a thread out of the text of /proc/PID/task/TID/status. */
export function parseSwitches(text: string): number {
  let sum = 0;
  for (const match of text.matchAll(/^(?:non)?voluntary_ctxt_switches:\s+(\d+)$/gm)) {
    sum += Number(match[1]);
  }
  return sum;
}

/** CPU that a process has used so far, in µs; undefined when it is gone. */
export function cpuUsOf(pid: number): number | undefined {
  const stat = parseStat(readText(`/proc/${pid}/stat`));
  return stat === undefined ? undefined : (stat.userTicks + stat.systemTicks) * TICK_US;
}

/** Memory of a process that no file is behind: all that is its own. Undefined when it is gone. */
export function anonymousBytesOf(pid: number): number | undefined {
  const text = readText(`/proc/${pid}/smaps_rollup`);
  const match = /^Anonymous:\s+(\d+) kB/m.exec(text);
  return match === null ? undefined : Number(match[1]) * 1024;
}

/** Whether a process was started for this cluster: an old pid file may name a stranger's. */
function isOfCluster(pid: number, directory: string): boolean {
  if (!Number.isInteger(pid) || pid <= 0) return false;
  return readText(`/proc/${pid}/cmdline`).split("\0").includes(directory);
}

function tasksOf(pid: number): string[] {
  try {
    return readdirSync(`/proc/${pid}/task`);
  } catch {
    return [];
  }
}

function readText(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}
