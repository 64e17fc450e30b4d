import { Counter, Gauge, Histogram, Registry } from "prom-client";
import { poolOfPg } from "../base/ids.ts";
import type { Monitor } from "./monitor.ts";

/** What the process says of itself. */
export interface ProcessUsage {
  readonly cpuSeconds: number;
  readonly residentBytes: number;
  readonly heapBytes: number;
}

/** Every request has one of these routes as its label; others count as `other`. */
const ROUTES_MAX = 64;

/**
 * `/metrics`: figures of the mon, of the cluster as it sees it, and the counters that osds
 * report, labelled with the osd. Nothing is counted on the data path; all is read when scraped.
 */
export class MonMetrics {
  private readonly monitor: Monitor;
  private readonly registry = new Registry();
  private readonly requests: Counter<"route" | "code">;
  private readonly durations: Histogram<"route">;
  private readonly routes = new Set<string>();

  constructor(monitor: Monitor, usage: () => ProcessUsage) {
    this.monitor = monitor;
    const registers = [this.registry];
    this.requests = new Counter({
      name: "fastblock_http_requests_total",
      help: "Requests answered",
      labelNames: ["route", "code"],
      registers,
    });
    this.durations = new Histogram({
      name: "fastblock_http_request_duration_seconds",
      help: "Time to answer a request",
      labelNames: ["route"],
      buckets: [0.001, 0.005, 0.02, 0.1, 0.5, 2],
      registers,
    });
    this.addBuild();
    this.addProcess(usage);
    this.addCluster();
    this.addPools();
    this.addOsds();
  }

  /** Count an answered request. `route`: the pattern, never the path. */
  noteRequest(route: string, method: string, code: number, seconds: number): void {
    let label = `${method} ${route}`;
    if (!this.routes.has(label)) {
      if (this.routes.size >= ROUTES_MAX) label = "other";
      this.routes.add(label);
    }
    this.requests.inc({ route: label, code: String(code) });
    this.durations.observe({ route: label }, seconds);
  }

  async render(): Promise<{ readonly type: string; readonly text: string }> {
    const own = await this.registry.metrics();
    return { type: this.registry.contentType, text: own + renderReported(this.monitor) };
  }

  private addBuild(): void {
    const gauge = new Gauge({
      name: "fastblock_build_info",
      help: "Version of the mon",
      labelNames: ["version"],
      registers: [this.registry],
    });
    gauge.set({ version: this.monitor.options.version }, 1);
  }

  private addProcess(usage: () => ProcessUsage): void {
    this.counter("process_cpu_seconds_total", "CPU time of the mon", () => usage().cpuSeconds);
    this.gauge("process_resident_bytes", "Memory of the mon", () => usage().residentBytes);
    this.gauge("js_heap_bytes", "JavaScript heap of the mon", () => usage().heapBytes);
  }

  private addCluster(): void {
    const { monitor } = this;
    const map = monitor.catalogue.map;
    this.gauge("mon_is_leader", "1 while this mon leads", () => 1);
    this.gauge("client_sessions", "Sessions that stand in the catalogue", () => {
      return monitor.catalogue.sessions.size;
    });
    this.gauge("map_epoch", "Epoch of the cluster map", () => map.epoch);
    this.gauge("operations_running", "Operations that run", () => monitor.operations.runningCount);
    this.gauge("health_status", "0 ok, 1 warn, 2 error", () => {
      return ["ok", "warn", "error"].indexOf(monitor.views.status().health.status);
    });
    this.labelled("health_check", "1 for each check that fails", ["code", "severity"], (set) => {
      for (const check of monitor.views.status().health.checks) {
        set({ code: check.code, severity: check.severity }, 1);
      }
    });
  }

  private addPools(): void {
    const { catalogue, views } = this.monitor;
    this.labelled("pg_count", "Placement groups", ["pool", "state"], (set) => {
      const counts = new Map<string, number>();
      for (const pg of catalogue.map.pgs.values()) {
        const pool = catalogue.map.pools.get(poolOfPg(pg.id))?.name ?? "?";
        const key = `${pool}\n${views.pg(pg).state}`;
        counts.set(key, (counts.get(key) ?? 0) + 1);
      }
      for (const [key, count] of counts) {
        const at = key.indexOf("\n");
        set({ pool: key.slice(0, at), state: key.slice(at + 1) }, count);
      }
    });
    this.labelled("pool_images", "Images of a pool", ["pool"], (set) => {
      for (const pool of catalogue.map.pools.values()) {
        set({ pool: pool.name }, views.pool(pool).images);
      }
    });
    this.labelled("pool_used_bytes", "Bytes on all replicas of a pool", ["pool"], (set) => {
      for (const pool of catalogue.map.pools.values()) {
        set({ pool: pool.name }, Number(views.pool(pool).usedBytes));
      }
    });
  }

  private addOsds(): void {
    const { views } = this.monitor;
    const names = ["osd", "host"] as const;
    this.labelled("osd_up", "1 while the osd is up", names, (set) => {
      for (const osd of views.osds()) set({ osd: String(osd.id), host: osd.host }, osd.up ? 1 : 0);
    });
    this.labelled("osd_in", "1 while the osd may receive replicas", names, (set) => {
      for (const osd of views.osds()) set({ osd: String(osd.id), host: osd.host }, osd.in ? 1 : 0);
    });
    this.labelled("osd_capacity_bytes", "Size of the osd's device", names, (set) => {
      for (const osd of views.osds()) {
        set({ osd: String(osd.id), host: osd.host }, Number(osd.capacityBytes));
      }
    });
    this.labelled("osd_used_bytes", "Bytes in use on the osd's device", names, (set) => {
      for (const osd of views.osds()) {
        set({ osd: String(osd.id), host: osd.host }, Number(osd.usedBytes));
      }
    });
  }

  private gauge(name: string, help: string, read: () => number): void {
    new Gauge({
      name: `fastblock_${name}`,
      help,
      registers: [this.registry],
      collect(): void {
        this.set(read());
      },
    });
  }

  /** A counter whose value somebody else counts. */
  private counter(name: string, help: string, read: () => number): void {
    new Counter({
      name: `fastblock_${name}`,
      help,
      registers: [this.registry],
      collect(): void {
        this.reset();
        this.inc(read());
      },
    });
  }

  private labelled<Label extends string>(
    name: string,
    help: string,
    labelNames: readonly Label[],
    fill: (set: (labels: Record<Label, string>, value: number) => void) => void,
  ): void {
    new Gauge<Label>({
      name: `fastblock_${name}`,
      help,
      labelNames: [...labelNames],
      registers: [this.registry],
      collect(): void {
        this.reset();
        fill((labels, value) => this.set(labels, value));
      },
    });
  }
}

const METRIC_NAME = /^fastblock_[a-z][a-z0-9_]*$/;
const LABEL = /^([a-z][a-z0-9_]*)=(.*)$/s;

/** Counters as osds reported them: one block of lines per name, as the format demands. */
function renderReported(monitor: Monitor): string {
  const families = new Map<string, string[]>();
  for (const live of monitor.osds.live.values()) {
    for (const counter of live.counters) {
      if (!METRIC_NAME.test(counter.name)) continue;
      const labels = [`osd="${String(live.id)}"`];
      for (const text of counter.labels) {
        const match = LABEL.exec(text);
        if (match !== null) labels.push(`${match[1]!}="${escapeLabel(match[2]!)}"`);
      }
      const line = `${counter.name}{${labels.join(",")}} ${String(counter.value)}`;
      const family = families.get(counter.name);
      if (family === undefined) families.set(counter.name, [line]);
      else family.push(line);
    }
  }
  let text = "";
  for (const [name, lines] of [...families].sort(([a], [b]) => (a < b ? -1 : 1))) {
    const type = name.endsWith("_total") ? "counter" : "gauge";
    text += `# HELP ${name} As reported by the osds\n# TYPE ${name} ${type}\n${lines.join("\n")}\n`;
  }
  return text;
}

function escapeLabel(text: string): string {
  return text.replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n");
}
