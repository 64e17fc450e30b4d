/**
 * The face of `core/dev`: the local cluster of `fastblock dev`, on one machine, without root.
 *
 * A cluster directory holds `cluster.json`, `cluster.key`, `dev.json` (the plan: which processes,
 * with which arguments), and for each process NAME its `.pid .ports .addr .start .log`. The plan
 * is pure (`plan.ts`); `bun-dev.ts` carries it out with real files and processes.
 */
export { CLUSTER_FILE, type ClusterFile, KEY_FILE } from "./cluster-file.ts";
export { parseClusterFile, parseKeyFile } from "./cluster-file.ts";
export { OSD_BYTES_DEFAULT, parseDevPlan, parsePorts } from "./plan.ts";

/**
 * Environment of a process that shall end with the one that started it: the starter's pid. A
 * cluster in the foreground sets it; `NAME.start` does not.
 */
export const STARTED_BY = "FASTBLOCK_STARTED_BY";

/** `undefined`: as the directory's plan says, or the default when there is none yet. */
export interface DevUpOptions {
  readonly directory: string;
  readonly osds: number | undefined;
  readonly shards: number | undefined;
  readonly nbds: number | undefined;
  readonly spread: boolean | undefined;
  readonly osdBytes: number | undefined;
  readonly backend: "auto" | "uring" | "file" | undefined;
  readonly logLevel: "debug" | "info" | "warn" | "error" | undefined;
  readonly encrypt: boolean | undefined;
  readonly demo: boolean;
  readonly detach: boolean;
  readonly quiet: boolean;
}

export interface DevDirectory {
  readonly directory: string;
}

/** One process as `dev status` shows it. */
export interface DevProcessStatus {
  readonly name: string;
  readonly role: string;
  readonly running: boolean;
  /** 0 when it does not run. */
  readonly pid: number;
  readonly address: string;
  readonly ports: Readonly<Record<string, number | string>>;
}

export interface DevStatus {
  readonly directory: string;
  readonly clusterId: string;
  /** The mon answers, and most of the osds run. */
  readonly serving: boolean;
  /** Processes of the plan that do not run. */
  readonly missing: readonly string[];
  /** What carries disk and network of the osds; absent when the mon does not answer. */
  readonly backend?: string;
  /** How many processes of each kind have which; clients are gateways and whoever is attached. */
  readonly backends?: Readonly<
    Record<"mons" | "osds" | "clients", Readonly<Record<string, number>>>
  >;
  /** Base address of REST and web pages. */
  readonly http: string;
  /** `nbd://127.0.0.1:PORT`, one per gateway; an export's name follows after a slash. */
  readonly nbd: readonly string[];
  readonly processes: readonly DevProcessStatus[];
}

/** What `fastblock dev` calls. */
export interface DevPrograms {
  /** Start what does not run. Detached: answers once it serves. Else: once it was stopped. */
  up(options: DevUpOptions): Promise<number>;
  /** Stop what runs, gateways first and the mon last. Answers how many processes it stopped. */
  down(options: DevDirectory): Promise<number>;
  status(options: DevDirectory): Promise<DevStatus>;
  /** Throws FB1005 when the directory holds no dev cluster. */
  find(options: DevDirectory): void;
  /** Stop everything and remove the cluster with its data. */
  reset(options: DevDirectory): Promise<void>;
}
