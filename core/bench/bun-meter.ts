import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { ClusterMeter } from "./image-bench.ts";
import { CounterSum, samplesOf } from "./metrics-text.ts";

/** Counters that osds report, on the monitor's metrics page. */
const DEVICE_METRIC = "fastblock_device_write_bytes_total";
/** `utime` and `stime` of /proc/PID/stat count in these. */
const TICK_US = 10_000;
const FETCH_MS_MAX = 3000;

/** Reads what the processes of a cluster directory and the bench itself spend. */
export class BunMeter implements ClusterMeter {
  private readonly directory: string;
  private readonly httpBase: string;
  private readonly cpu = new CounterSum();
  private readonly device = new CounterSum();

  /** `httpBase`: `http://127.0.0.1:7480` of a monitor; empty: device bytes are unknown. */
  constructor(directory: string, httpBase: string) {
    this.directory = directory;
    this.httpBase = httpBase;
  }

  cpuUs(): number | null {
    const samples = [this.sampleOf(process.pid)];
    for (const name of readdirSync(this.directory)) {
      if (!name.endsWith(".pid")) continue;
      const pid = Number(readText(join(this.directory, name)));
      if (isOfCluster(pid, this.directory)) samples.push(this.sampleOf(pid));
    }
    return this.cpu.take(samples.filter((sample) => sample !== undefined));
  }

  async deviceBytes(): Promise<number | null> {
    const text = await this.fetchText("/metrics");
    if (text === undefined) return null;
    const samples = samplesOf(text, DEVICE_METRIC);
    return samples.length === 0 ? null : this.device.take(samples);
  }

  async logBytes(): Promise<number | null> {
    const text = await this.fetchText("/api/v1/osds");
    if (text === undefined) return null;
    const body = JSON.parse(text) as { items?: { logUsedBytes?: number | string }[] };
    const osds = body.items ?? [];
    return osds.reduce((sum, osd) => sum + Number(osd.logUsedBytes ?? 0), 0);
  }

  private sampleOf(pid: number): { labels: string; value: number } | undefined {
    const stat = parseStat(readText(`/proc/${pid}/stat`));
    if (stat === undefined) return undefined;
    // A pid may come back for another process: the time of its start tells them apart.
    return { labels: `${pid}.${stat.startTicks}`, value: stat.cpuTicks * TICK_US };
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

/** CPU and start of a process out of the text of /proc/PID/stat, in clock ticks. */
export function parseStat(text: string): { cpuTicks: number; startTicks: number } | undefined {
  // The name in parentheses may hold anything: fields are counted from its end (field 3 on).
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  const user = Number(fields[11]);
  const system = Number(fields[12]);
  const startTicks = Number(fields[19]);
  if (fields.length < 20 || Number.isNaN(user + system + startTicks)) return undefined;
  return { cpuTicks: user + system, startTicks };
}

/** CPU that a process has used so far, in µs; undefined when it is gone. */
export function cpuUsOf(pid: number): number | undefined {
  const stat = parseStat(readText(`/proc/${pid}/stat`));
  return stat === undefined ? undefined : stat.cpuTicks * TICK_US;
}

/** Whether a process was started for this cluster: an old pid file may name a stranger's. */
function isOfCluster(pid: number, directory: string): boolean {
  if (!Number.isInteger(pid) || pid <= 0) return false;
  return readText(`/proc/${pid}/cmdline`).split("\0").includes(directory);
}

function readText(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}
