import { FastblockError } from "../base/errors.ts";
import { quoteWord } from "../base/shell.ts";
import { formatSize } from "../base/size-text.ts";
import type { ClusterFile } from "./cluster-file.ts";

/**
 * The plan of a dev cluster: its processes with their arguments and ports, chosen once.
 *
 * A process started again, by `dev up` or by its `NAME.start`, gets the same arguments. Addresses
 * and ports never change during the life of the directory, because peers remember them.
 */
export interface DevPlan {
  readonly version: 1;
  readonly cluster: ClusterFile;
  readonly osds: number;
  readonly shards: number;
  readonly nbds: number;
  readonly spread: boolean;
  readonly osdBytes: number;
  readonly backend: string;
  readonly logLevel: string;
  /** Every process wants its connections encrypted. Absent in plans of earlier programs: no. */
  readonly encrypt?: boolean;
  /** Last byte of the first address of a spread cluster. */
  readonly spreadFirst: number;
  /** In the order of starting: mon, osds, gateways. Stopping goes backwards. */
  readonly processes: readonly DevProcess[];
}

export interface DevProcess {
  /** `mon.a`, `osd.0`, `nbd.0` */
  readonly name: string;
  readonly role: "mon" | "osd" | "nbd";
  readonly bind: string;
  /** Role of the port → port, or the path of a unix socket. */
  readonly ports: Readonly<Record<string, number | string>>;
  /** Data path within the cluster directory; empty when the role keeps nothing. */
  readonly data: string;
}

export const DEV_FILE = "dev.json";
/** The most bytes of a unix socket's path (`sun_path` without its zero). */
export const SOCKET_PATH_BYTES_MAX = 107;
export const OSDS_DEFAULT = 3;
export const OSD_BYTES_DEFAULT = 8 * 1024 ** 3;
const OSDS_MAX = 64;
const SHARDS_MAX = 32;

export interface PlanOptions {
  readonly clusterId: string;
  readonly osds: number;
  readonly shards: number;
  readonly nbds: number;
  readonly spread: boolean;
  readonly osdBytes: number;
  readonly backend: string;
  readonly logLevel: string;
  readonly encrypt: boolean;
  /** Last byte of the first address when every process has its own 127.0.0.x. */
  readonly spreadFirst: number;
  /** Path of the unix socket of a gateway, at most 107 bytes. */
  readonly socketPath: (name: string) => string;
}

/** Choose a free TCP port on an address; never the same twice. */
export type PortPicker = (host: string) => number;

/** Draw up the plan of a new cluster. */
export function makePlan(options: PlanOptions, pick: PortPicker): DevPlan {
  check(options);
  const mon: DevProcess = {
    name: "mon.a",
    role: "mon",
    bind: bindOf(options, 0),
    ports: {},
    data: "mon.a",
  };
  const ports = { control: pick(mon.bind), http: pick(mon.bind) };
  const empty: DevPlan = {
    version: 1,
    cluster: {
      clusterId: options.clusterId,
      name: "dev",
      mons: [
        {
          name: mon.name,
          control: { host: mon.bind, port: ports.control },
          http: { host: mon.bind, port: ports.http },
        },
      ],
    },
    osds: 0,
    shards: options.shards,
    nbds: 0,
    spread: options.spread,
    osdBytes: options.osdBytes,
    backend: options.backend,
    logLevel: options.logLevel,
    encrypt: options.encrypt,
    spreadFirst: options.spreadFirst,
    processes: [{ ...mon, ports }],
  };
  return growPlan(empty, options, pick);
}

/**
 * Add osds and gateways to a plan until it has as many as wanted. What can not become so is refused:
 * fewer of them, another layout; with `running` processes another way to run them; another size of
 * osds when none is made. Throws FB1001.
 */
export function growPlan(
  plan: DevPlan,
  options: PlanOptions,
  pick: PortPicker,
  running = false,
): DevPlan {
  check(options);
  keep("--osds", plan.osds, options.osds, options.osds >= plan.osds);
  keep("--shards", plan.shards, options.shards);
  keep("--nbd", plan.nbds, options.nbds, options.nbds >= plan.nbds);
  keep("--spread", plan.spread ? "yes" : "no", options.spread ? "yes" : "no");
  if (options.osds === plan.osds) {
    keep("--osd-size", formatSize(plan.osdBytes), formatSize(options.osdBytes));
  }
  if (running) {
    const hint = "stop the cluster first: fastblock dev down";
    keep("--backend", plan.backend, options.backend, undefined, hint);
    keep("--log-level", plan.logLevel, options.logLevel, undefined, hint);
    const isEncrypted = plan.encrypt === true;
    keep("--encrypt", isEncrypted ? "yes" : "no", options.encrypt ? "yes" : "no", undefined, hint);
  }
  const processes = [...plan.processes];
  for (let osd = plan.osds; osd < options.osds; osd++) {
    const bind = bindOf(options, processes.length);
    const ports: Record<string, number> = {};
    for (let shard = 0; shard < options.shards; shard++) {
      ports[shard === 0 ? "data" : `data.${shard}`] = pick(bind);
    }
    processes.push({ name: `osd.${osd}`, role: "osd", bind, ports, data: `osd.${osd}.img` });
  }
  for (let nbd = plan.nbds; nbd < options.nbds; nbd++) {
    const name = `nbd.${nbd}`;
    const bind = bindOf(options, processes.length);
    const ports = { nbd: pick(bind), unix: options.socketPath(name) };
    processes.push({ name, role: "nbd", bind, ports, data: "" });
  }
  processes.sort((left, right) => rankOf(left) - rankOf(right));
  return {
    ...plan,
    osds: options.osds,
    nbds: options.nbds,
    // Of osds that are made from now on.
    osdBytes: options.osdBytes,
    backend: options.backend,
    logLevel: options.logLevel,
    encrypt: options.encrypt,
    processes,
  };
}

/** The arguments after the executable that start a process of the plan. */
export function argumentsOf(plan: DevPlan, process: DevProcess, directory: string): string[] {
  const common = [
    "--cluster",
    directory,
    "--name",
    process.name,
    "--bind",
    process.bind,
    "--log-level",
    plan.logLevel,
  ];
  if (process.data !== "") common.push("--data", `${directory}/${process.data}`);
  common.push("--backend", plan.backend);
  if (plan.encrypt === true) common.push("--encrypt");
  switch (process.role) {
    case "mon":
      return [
        "mon",
        "run",
        ...common,
        "--control-port",
        String(process.ports["control"]),
        "--http-port",
        String(process.ports["http"]),
      ];
    case "osd":
      return [
        "osd",
        "run",
        ...common,
        "--id",
        process.name.slice("osd.".length),
        "--shards",
        String(plan.shards),
        "--data-ports",
        Object.values(process.ports).join(","),
      ];
    case "nbd":
      return [
        "client",
        "nbd",
        "serve",
        ...common,
        "--port",
        String(process.ports["nbd"]),
        "--socket",
        String(process.ports["unix"]),
      ];
  }
}

/**
 * What the runtime of a process that serves reads from its environment: it does not collect garbage
 * by the clock, as the process does it when it has grown (`cmd/collector.ts`).
 */
export const SERVING_ENVIRONMENT: Readonly<Record<string, string>> = { BUN_GC_TIMER_DISABLE: "1" };

/** The text of `NAME.start`. */
export function startScript(command: readonly string[]): string {
  const settings = Object.entries(SERVING_ENVIRONMENT).map(([key, value]) => `${key}=${value}`);
  return `#!/bin/sh\nexport ${settings.join(" ")}\nexec ${command.map(quoteWord).join(" ")}\n`;
}

/** The text of `dev.json`. */
export function formatDevPlan(plan: DevPlan): string {
  return `${JSON.stringify(plan, undefined, 2)}\n`;
}

/** Read `dev.json`, as `formatDevPlan` wrote it. Throws FB1005. */
export function parseDevPlan(text: string, path: string): DevPlan {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw malformed(path, "not JSON");
  }
  const plan = value as Partial<DevPlan> | null;
  if (plan?.version !== 1 || !Array.isArray(plan.processes)) {
    throw malformed(path, "not a plan of version 1");
  }
  return plan as DevPlan;
}

function malformed(path: string, why: string): FastblockError {
  return new FastblockError("FB1005", `reading ${path}: ${why}`, {
    hint: "put its copy back, or begin in another directory: fastblock dev up --dir DIR",
  });
}

/** Read the lines `role=port` of `NAME.ports`. */
export function parsePorts(text: string): Record<string, number | string> {
  const ports: Record<string, number | string> = {};
  for (const line of text.split("\n")) {
    const at = line.indexOf("=");
    if (at < 1) continue;
    const value = line.slice(at + 1);
    ports[line.slice(0, at)] = /^\d+$/.test(value) ? Number(value) : value;
  }
  return ports;
}

function check(options: PlanOptions): void {
  if (options.osds < 1 || options.osds > OSDS_MAX) {
    throw new FastblockError("FB1001", `counting osds: ${options.osds}, wanted 1 to ${OSDS_MAX}`);
  }
  if (options.shards < 1 || options.shards > SHARDS_MAX) {
    throw new FastblockError(
      "FB1001",
      `counting shards: ${options.shards}, wanted 1 to ${SHARDS_MAX}`,
    );
  }
}

/** Refuse what a cluster that is there can not become. */
function keep(
  flag: string,
  now: string | number,
  wanted: string | number,
  allowed = now === wanted,
  hint = "take another --dir, or remove this cluster with its data: fastblock dev reset",
): void {
  if (allowed) return;
  throw new FastblockError(
    "FB1001",
    `starting the cluster: its ${flag} is ${now}, wanted ${wanted}`,
    { hint },
  );
}

function bindOf(options: PlanOptions, index: number): string {
  return options.spread ? `127.0.0.${2 + ((options.spreadFirst - 2 + index) % 252)}` : "127.0.0.1";
}

function rankOf(process: DevProcess): number {
  return process.role === "mon" ? 0 : process.role === "osd" ? 1 : 2;
}
