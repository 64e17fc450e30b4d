import { closeSync, existsSync, openSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import pino from "pino";
import { ERRORS, FastblockError, formatError, withDevice } from "../core/base/errors.ts";
import type { LogFields, Logger } from "../core/base/logger.ts";
import { readClusterText } from "../core/dev/bun-cluster-text.ts";
import { FileLock } from "../core/dev/bun-lock.ts";
import {
  CLUSTER_FILE,
  type ClusterFile,
  KEY_FILE,
  parseClusterFile,
  parseKeyFile,
  STARTED_BY,
} from "../core/dev/dev.ts";
import { signalAtParentsEnd } from "../ffi/libc/parent.ts";
import { memoryError, ownShortLimit } from "./memory.ts";

/**
 * What every long-running role (`mon run`, `osd run`, `client nbd serve`) shares.
 *
 * The life of a process NAME in the cluster directory DIR:
 * `serveAs` reads DIR/cluster.json and DIR/cluster.key, takes DIR/NAME.lock, opens DIR/NAME.log,
 * writes DIR/NAME.pid → the role listens → `ready(ports)` writes DIR/NAME.ports and DIR/NAME.addr,
 * prints one `ready` line and tells systemd → SIGTERM or SIGINT runs the stop handlers, newest
 * first, and exits 0. What nobody catches is logged and ends the process: a violated invariant
 * never goes on. Nothing here starts a process again; that is systemd's work, or nobody's.
 */

/** Flags that each role takes besides its own; the command tree of `core/cli` declares them. */
export interface DaemonFlags {
  /** The cluster directory. */
  readonly cluster: string;
  /** `mon.a`, `osd.0`, `nbd.0` … */
  readonly name: string;
  /** Address to listen on and to connect from. */
  readonly bind: string;
  /** Its connections are encrypted, all of them; else those whose other end wants that. */
  readonly encrypt: boolean;
  /** As `data-path.ts` has it; empty when the role has none of its own. */
  readonly data: string;
  /** Of an osd: its number. */
  readonly osd?: number | undefined;
  readonly logLevel: LogLevel;
  /** Where the log goes: a file, or `-` for standard error. Default DIR/NAME.log. */
  readonly log?: string | undefined;
  /** `auto` takes io_uring when the kernel allows it. */
  readonly backend?: "auto" | "uring" | "file" | undefined;
}

export type LogLevel = "debug" | "info" | "warn" | "error";

export interface Daemon {
  readonly flags: DaemonFlags;
  /** Absolute path of the cluster directory. */
  readonly directory: string;
  readonly cluster: ClusterFile;
  /** The 32-byte pre-shared key of the cluster. */
  readonly key: Uint8Array;
  readonly logger: Logger;
  /** Where the log goes, for the loggers of Workers (`openLogger`). */
  readonly logPath: string;
  /** The role serves: publish its ports (role → port, or a path for a unix socket). Once. */
  ready(ports: Readonly<Record<string, number | string>>): void;
  /** Run `stop` on SIGTERM or SIGINT; the newest first, each awaited. */
  onStop(stop: () => void | Promise<void>): void;
  /** Begin the clean stop from inside (the exit code is 0). */
  stop(reason: string): void;
  /** Log the error and end the process with its exit code (for errors outside of an exception). */
  fail(error: unknown): never;
}

/** The longest a clean stop may take before the process ends with 1. */
const STOP_MS_MAX = 30_000;
/** A process that was killed holds its name until the kernel has taken it apart. */
const LOCK_MS_MAX = 5000;
const LOCK_LOOK_MS = 10;
const SIGTERM = 15;

/**
 * Run a role in its place in the cluster directory. Throws FB1005 when there is no cluster, FB4005
 * when a process of this name runs already; what `body` throws is logged first.
 */
export async function serveAs(
  flags: DaemonFlags,
  body: (daemon: Daemon) => Promise<void>,
): Promise<"serving"> {
  const directory = resolve(flags.cluster);
  const cluster = readClusterFile(directory);
  const key = readKeyFile(directory);
  takeName(directory, flags);
  const logPath = flags.log ?? join(directory, `${flags.name}.log`);
  const logger = openLogger(logPath, flags.name, flags.logLevel);
  const daemon = new RunningDaemon(flags, directory, cluster, key, logPath, logger);
  daemon.begin();
  try {
    await body(daemon);
  } catch (thrown) {
    const error = told(thrown, flags);
    daemon.logFatal(error);
    throw error;
  }
  return "serving";
}

/** An osd knows what the hints of errors about its device leave open. */
function told(thrown: unknown, { data, osd }: DaemonFlags): unknown {
  const error = memoryError(thrown);
  return osd === undefined ? error : withDevice(error, { path: data, osd });
}

/** One process of a name at a time: two would share its store, its ports and its files. */
function takeName(directory: string, { name, data }: DaemonFlags): void {
  const path = join(directory, `${name}.lock`);
  for (let waitedMs = 0; FileLock.take(path) === undefined; waitedMs += LOCK_LOOK_MS) {
    const pidPath = join(directory, `${name}.pid`);
    const pid = existsSync(pidPath) ? readFileSync(pidPath, "utf8").trim() : "?";
    if (!existsSync(`/proc/${pid}/exe`) && waitedMs < LOCK_MS_MAX) {
      Bun.sleepSync(LOCK_LOOK_MS);
      continue;
    }
    throw new FastblockError("FB4005", `starting ${name}: it runs already as process ${pid}`, {
      hint:
        data === ""
          ? `give this one another --name, or stop that one first: kill ${pid}`
          : `stop it first: kill ${pid}`,
    });
  }
}

/** Read DIR/cluster.json. Throws FB1005, FB1008, FB1017. */
export function readClusterFile(directory: string): ClusterFile {
  return parseClusterFile(readClusterText(directory, CLUSTER_FILE), join(directory, CLUSTER_FILE));
}

/** Read DIR/cluster.key. Throws FB1005, FB1008, FB1017. */
export function readKeyFile(directory: string): Uint8Array {
  return parseKeyFile(readClusterText(directory, KEY_FILE), join(directory, KEY_FILE));
}

/**
 * A logger that appends JSON lines to a file (`-`: standard error), written before the call
 * returns. Works in Workers too: each opens its own.
 */
export function openLogger(path: string, name: string, level: LogLevel): Logger {
  const destination = pino.destination({ dest: path === "-" ? 2 : path, sync: true, append: true });
  // A full disk must not stop an osd: what can not be logged is lost.
  destination.on("error", () => undefined);
  return new PinoLogger(
    pino(
      {
        base: { name },
        level,
        timestamp: pino.stdTimeFunctions.isoTime,
        formatters: { level: (label) => ({ level: label }) },
      },
      destination,
    ),
  );
}

class PinoLogger implements Logger {
  private readonly inner: pino.Logger;

  constructor(inner: pino.Logger) {
    this.inner = inner;
  }

  debug(message: string, fields?: LogFields): void {
    if (fields === undefined) this.inner.debug(message);
    else this.inner.debug(fields, message);
  }

  info(message: string, fields?: LogFields): void {
    if (fields === undefined) this.inner.info(message);
    else this.inner.info(fields, message);
  }

  warn(message: string, fields?: LogFields): void {
    if (fields === undefined) this.inner.warn(message);
    else this.inner.warn(fields, message);
  }

  error(message: string, fields?: LogFields): void {
    if (fields === undefined) this.inner.error(message);
    else this.inner.error(fields, message);
  }

  child(fields: LogFields): Logger {
    return new PinoLogger(this.inner.child(fields));
  }
}

class RunningDaemon implements Daemon {
  readonly flags: DaemonFlags;
  readonly directory: string;
  readonly cluster: ClusterFile;
  readonly key: Uint8Array;
  readonly logPath: string;
  readonly logger: Logger;
  private readonly stops: (() => void | Promise<void>)[] = [];
  private isReady = false;
  private isStopping = false;

  constructor(
    flags: DaemonFlags,
    directory: string,
    cluster: ClusterFile,
    key: Uint8Array,
    logPath: string,
    logger: Logger,
  ) {
    this.flags = flags;
    this.directory = directory;
    this.cluster = cluster;
    this.key = key;
    this.logPath = logPath;
    this.logger = logger;
  }

  begin(): void {
    process.on("uncaughtException", (error) => this.fail(error));
    process.on("unhandledRejection", (error) => this.fail(error));
    process.on("SIGTERM", () => this.stop("SIGTERM"));
    process.on("SIGINT", () => this.stop("SIGINT"));
    // The terminal may close under a foreground cluster; the processes go on until told to stop.
    process.on("SIGHUP", () => undefined);
    this.publish("pid", `${process.pid}\n`);
    const { bind, encrypt } = this.flags;
    this.logger.info("starting", { pid: process.pid, bind, encrypt });
    this.followStarter();
  }

  /** A cluster in the foreground ends with the process that started it, however that ends. */
  private followStarter(): void {
    const starter = process.env[STARTED_BY];
    if (starter === undefined) return;
    if (!signalAtParentsEnd(SIGTERM)) this.logger.warn("outlives its starter", { pid: starter });
    if (process.ppid !== Number(starter)) this.stop("the process that started it is gone");
  }

  ready(ports: Readonly<Record<string, number | string>>): void {
    if (this.isReady || this.isStopping) return;
    const short = ownShortLimit();
    if (short !== undefined) this.fail(short);
    this.isReady = true;
    const lines = Object.entries(ports).map(([role, port]) => `${role}=${port}`);
    this.publish("addr", `${this.flags.bind}\n`);
    this.publish("ports", `${lines.join("\n")}\n`);
    this.logger.info("ready", { ports: lines.join(" ") });
    process.stdout.write(`ready ${this.flags.name} ${this.flags.bind} ${lines.join(" ")}\n`);
    void this.notify("READY=1"); // Logs its own failure; nothing waits for it.
  }

  onStop(stop: () => void | Promise<void>): void {
    this.stops.push(stop);
  }

  stop(reason: string): void {
    if (this.isStopping) return;
    this.isStopping = true;
    this.logger.info("stopping", { reason });
    const told = this.notify("STOPPING=1");
    setTimeout(() => {
      this.fail(new Error(`the clean stop took longer than ${STOP_MS_MAX} ms`));
    }, STOP_MS_MAX).unref();
    Promise.all([told, this.runStops()]).then(
      () => this.exit(0),
      (error: unknown) => this.fail(error),
    );
  }

  fail(thrown: unknown): never {
    const error = told(thrown, this.flags);
    this.logFatal(error);
    if (this.logPath !== "-") process.stderr.write(this.textOf(error));
    return this.exit(error instanceof FastblockError ? ERRORS[error.code].exit : 1);
  }

  /** The line that says why the process ended. */
  logFatal(error: unknown): void {
    if (error instanceof FastblockError) {
      const { code, message, why, hint } = error;
      this.logger.error("fatal", { code, error: message, why: why ?? "", hint: hint ?? "" });
    } else {
      const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
      this.logger.error("fatal", { error: text });
    }
  }

  private textOf(error: unknown): string {
    if (error instanceof FastblockError) {
      const { code, message, why, hint } = error;
      return formatError({ head: `error ${code}`, message, why, hint, code });
    }
    const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
    return `${this.flags.name}: fatal: ${text}\n`;
  }

  private async runStops(): Promise<void> {
    for (let stop = this.stops.pop(); stop !== undefined; stop = this.stops.pop()) await stop();
  }

  private exit(code: number): never {
    if (code === 0) this.logger.info("stopped");
    process.exit(code);
  }

  /** Write DIR/NAME.suffix so that a reader sees the old or the new text, never a part. */
  private publish(suffix: string, text: string): void {
    const path = join(this.directory, `${this.flags.name}.${suffix}`);
    const temporary = `${path}.${process.pid}.new`;
    const file = openSync(temporary, "w", 0o644);
    try {
      writeFileSync(file, text);
    } finally {
      closeSync(file);
    }
    renameSync(temporary, path);
  }

  private notify(state: string): Promise<void> {
    const socket = process.env["NOTIFY_SOCKET"];
    if (socket === undefined || socket === "") return Promise.resolve();
    return import("../ffi/libc/notify.ts").then(
      ({ notifySystemd }) => {
        if (!notifySystemd(socket, state)) this.logger.warn("systemd not told", { socket, state });
      },
      (error: unknown) => this.logger.warn("systemd not told", { error: String(error) }),
    );
  }
}
