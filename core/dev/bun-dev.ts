import {
  existsSync,
  mkdirSync,
  readdirSync,
  renameSync,
  rmdirSync,
  rmSync,
  statfsSync,
  statSync,
} from "node:fs";
import { join, resolve } from "node:path";
import { signalAtParentsEnd } from "../../ffi/libc/parent.ts";
import { type ErrorCode, ERRORS, FastblockError, formatError } from "../base/errors.ts";
import { quoteWord } from "../base/shell.ts";
import { geometryOf, shareZones } from "../store/store.ts";
import { runCommand, runDemo, summaryOf } from "./bun-demo.ts";
import {
  endForeground,
  findRunning,
  Foreground,
  removeForeground,
  type Running,
} from "./bun-foreground.ts";
import { FileLock } from "./bun-lock.ts";
import {
  checkTemporaryHome,
  FreePorts,
  findSocketPath,
  removeSocketFolder,
  temporaryHome,
} from "./bun-places.ts";
import {
  askBackends,
  httpOf,
  lastLines,
  nbdsOf,
  processStatus,
  readPlan,
  runningPid,
  stopOne,
  writeWhole,
} from "./bun-processes.ts";
import { Interruption, type StartFault, Starter } from "./bun-start.ts";
import { CLUSTER_FILE, formatClusterFile, KEY_FILE } from "./cluster-file.ts";
import {
  type DevDirectory,
  type DevPrograms,
  type DevStatus,
  type DevUpOptions,
  STARTED_BY,
} from "./dev.ts";
import {
  argumentsOf,
  DEV_FILE,
  type DevPlan,
  type DevProcess,
  formatDevPlan,
  growPlan,
  makePlan,
  OSD_BYTES_DEFAULT,
  OSDS_DEFAULT,
  type PlanOptions,
  startScript,
} from "./plan.ts";

/** What a dev cluster takes from the process that runs it. */
export interface DevOutside {
  /** The words that start this same program: the executable, or the runtime and `main.ts`. */
  readonly program: readonly string[];
  /** The program as a person would type it, for hints. */
  readonly programShown: string;
  readonly directoryDefault: string;
  out(text: string): void;
  err(text: string): void;
}

/** Held by whoever starts or stops processes of the directory. */
const LOCK_FILE = "dev.lock";
const LOCK_MS_MAX = 60_000;
const LOOK_MS = 50;
const WATCH_MS = 1000;
const SIGTERM = 15;

/** The dev cluster with real files and processes. */
export class BunDev implements DevPrograms {
  private readonly outside: DevOutside;

  constructor(outside: DevOutside) {
    this.outside = outside;
  }

  async up(options: DevUpOptions): Promise<number> {
    const directory = resolve(options.directory);
    const startMs = performance.now();
    const isNew = !existsSync(join(directory, DEV_FILE));
    makeDirectory(directory);
    const up = await this.alone(directory, () => this.start(directory, options));
    const { plan, faults, foreground, interruption } = up;
    for (const fault of faults) this.say(textOf(fault.error));
    let code = 0;
    if (interruption?.signal === undefined) {
      const seconds = (performance.now() - startMs) / 1000;
      if (!options.quiet) this.say(servingText(up, seconds, options.detach));
      if (options.demo) code = await runDemo(this.outside, plan, directory, interruption);
      const detach = foreground === undefined;
      if (!options.quiet)
        this.outside.out(
          summaryOf(this.outside, plan, directory, { demo: options.demo, detach, isNew }),
        );
    }
    if (foreground === undefined || interruption === undefined) return code;
    const gone = new Set(faults.map(({ name }) => name));
    await this.watch(plan, { directory, foreground, interruption, gone });
    await this.endServing(directory, foreground);
    return code;
  }

  /** Start what does not run. Answers `foreground` when this process serves from now on. */
  private async start(directory: string, options: DevUpOptions): Promise<Up> {
    const plan = this.prepare(directory, options);
    const running = findRunning(plan, directory);
    const missing = plan.processes
      .filter((one) => runningPid(one, directory) === 0)
      .map(({ name }) => name);
    const foreground =
      options.detach || running !== undefined ? undefined : await takeForeground(directory);
    const interruption = foreground === undefined ? undefined : newInterruption();
    await this.format(plan, directory);
    const { program } = this.outside;
    const faults = await new Starter({ plan, directory, program, interruption }).startAll();
    return { plan, faults, running, missing, foreground, interruption };
  }

  /** Stop what this process serves, unless another one was told to. */
  private async endServing(directory: string, foreground: Foreground): Promise<void> {
    if (foreground.isServing) {
      this.say("stopping\n");
      await this.stopAll(directory, () => foreground.isServing);
      this.say(`stopped; the data stays in ${directory}\n`);
    } else {
      const order = await foreground.waitForOther(join(directory, LOCK_FILE));
      const done = order === "fastblock dev down" ? "stopped" : "removed";
      this.say(`${done} by \`${order}\` in another terminal\n`);
    }
    foreground.release();
  }

  async down(options: DevDirectory): Promise<number> {
    const directory = resolve(options.directory);
    readPlan(directory);
    return await this.stopAll(directory);
  }

  async status(options: DevDirectory): Promise<DevStatus> {
    const directory = resolve(options.directory);
    const plan = readPlan(directory);
    const processes = plan.processes.map((one) => processStatus(one, directory));
    const osds = processes.filter(({ role }) => role === "osd");
    const running = osds.filter((one) => one.running).length;
    const http = httpOf(plan);
    const told = await askBackends(http);
    return {
      directory,
      clusterId: plan.cluster.clusterId,
      serving: told !== undefined && running * 2 > osds.length,
      missing: processes.filter((one) => !one.running).map(({ name }) => name),
      ...told,
      http,
      nbd: nbdsOf(plan),
      processes,
    };
  }

  find(options: DevDirectory): void {
    readPlan(resolve(options.directory));
  }

  async reset(options: DevDirectory): Promise<void> {
    const directory = resolve(options.directory);
    const plan = readPlan(directory);
    await this.alone(directory, async () => {
      refuseStrangers(plan, directory);
      endForeground(directory);
      await this.stop(plan, directory);
      this.remove(directory);
    });
    if (readdirSync(directory).length === 0) rmdirSync(directory);
  }

  private remove(directory: string): void {
    for (const entry of readdirSync(directory)) {
      if (nameOf(entry) !== undefined || entry === CLUSTER_FILE || entry === KEY_FILE) {
        rmSync(join(directory, entry), { recursive: true, force: true });
      }
    }
    removeSocketFolder(directory);
    removeForeground(directory);
    // Last: until here the directory is known as a cluster, so that a reset can be repeated.
    rmSync(join(directory, DEV_FILE), { force: true });
    rmSync(join(directory, LOCK_FILE), { force: true });
  }

  /** One at a time starts, stops and removes what is in the directory. */
  private async alone<T>(directory: string, body: () => Promise<T>): Promise<T> {
    const endMs = performance.now() + LOCK_MS_MAX;
    let lock = FileLock.take(join(directory, LOCK_FILE));
    while (lock === undefined) {
      if (performance.now() > endMs) {
        throw new FastblockError("FB4005", `working on ${directory}: another process does`, {
          hint: "wait until it is through, or stop it",
        });
      }
      await Bun.sleep(LOOK_MS);
      lock = FileLock.take(join(directory, LOCK_FILE));
    }
    try {
      return await body();
    } finally {
      lock.release();
    }
  }

  /* --------------------------------------------------------------- starting */

  /** Make or read the plan, and write what stands beside it. */
  private prepare(directory: string, options: DevUpOptions): DevPlan {
    const before = existsSync(join(directory, DEV_FILE)) ? readPlan(directory) : undefined;
    if (before === undefined && existsSync(join(directory, CLUSTER_FILE))) {
      throw new FastblockError(
        "FB4008",
        `starting a cluster in ${directory}: it holds another one, wanted an empty directory`,
      );
    }
    const ports = new FreePorts();
    const wanted: PlanOptions = {
      clusterId: before?.cluster.clusterId ?? crypto.randomUUID(),
      osds: options.osds ?? before?.osds ?? OSDS_DEFAULT,
      shards: options.shards ?? before?.shards ?? 1,
      nbds: options.nbds ?? before?.nbds ?? 1,
      spread: options.spread ?? before?.spread ?? false,
      osdBytes: options.osdBytes ?? before?.osdBytes ?? OSD_BYTES_DEFAULT,
      backend: options.backend ?? before?.backend ?? "auto",
      logLevel: options.logLevel ?? before?.logLevel ?? "info",
      encrypt: options.encrypt ?? before?.encrypt ?? false,
      spreadFirst: before?.spreadFirst ?? 2 + ports.below(200),
      socketPath: (name) => findSocketPath(directory, name),
    };
    const pick = (host: string): number => ports.pick(host);
    const running = before?.processes.some((one) => runningPid(one, directory) !== 0);
    const plan =
      before === undefined ? makePlan(wanted, pick) : growPlan(before, wanted, pick, running);
    // Before the plan is written: what can not be made now may be wanted smaller next.
    checkSpace(plan, directory, freshOsds(plan, directory).length);
    if (!existsSync(join(directory, KEY_FILE))) {
      const key = crypto.getRandomValues(new Uint8Array(32)).toHex();
      writeWhole(join(directory, KEY_FILE), `${key}\n`, 0o600);
    }
    writeWhole(join(directory, CLUSTER_FILE), formatClusterFile(plan.cluster), 0o644);
    for (const one of plan.processes) {
      if (one.role === "mon") mkdirSync(join(directory, one.data), { recursive: true });
      const command = [...this.outside.program, ...argumentsOf(plan, one, directory)];
      writeWhole(join(directory, `${one.name}.start`), startScript(command), 0o755);
    }
    writeWhole(join(directory, DEV_FILE), formatDevPlan(plan), 0o644);
    return plan;
  }

  /** Format the devices of new osds. A device gets its name when it is whole. */
  private async format(plan: DevPlan, directory: string): Promise<void> {
    const fresh = freshOsds(plan, directory);
    for (const { name, data } of fresh) {
      // Who has a log has served: the mon knows it, and others hold what it held.
      if (!existsSync(join(directory, `${name}.log`))) continue;
      this.say(
        `warning: ${data} is gone: ${name} gets a new, empty disk, to be filled from other osds; what had no other copy is lost\n`,
      );
    }
    const ends = await Promise.allSettled(fresh.map((one) => this.formatOne(plan, one, directory)));
    for (const end of ends) if (end.status === "rejected") throw end.reason;
  }

  private async formatOne(plan: DevPlan, one: DevProcess, directory: string): Promise<void> {
    const path = join(directory, one.data);
    // Left over from an earlier try, maybe of another size.
    rmSync(`${path}.new`, { force: true });
    const id = one.name.slice("osd.".length);
    const { code, text } = await runCommand(this.outside.program, [
      ...["osd", "format", "--data", `${path}.new`, "--cluster", directory, "--id", id],
      ...["--size", String(plan.osdBytes), "--shards", String(plan.shards)],
      ...["--backend", plan.backend, "--force", "-o", "json"],
    ]);
    if (code === 0) {
      renameSync(`${path}.new`, path);
      return;
    }
    rmSync(`${path}.new`, { force: true });
    throw formatFailure(one.name, text);
  }

  /* --------------------------------------------------------------- stopping */

  /**
   * Stop what the directory's plan names now: others may have added processes, or removed all.
   * `wanted`: asked once nobody else starts or stops some.
   */
  private async stopAll(directory: string, wanted: () => boolean = () => true): Promise<number> {
    const isThere = (): boolean => existsSync(join(directory, DEV_FILE));
    if (!isThere()) return 0;
    try {
      return await this.alone(directory, async () => {
        if (!isThere() || !wanted()) return 0;
        endForeground(directory);
        return await this.stop(readPlan(directory), directory);
      });
    } catch (error) {
      // Somebody removed the directory while we waited for our turn: then nothing runs there.
      if (!existsSync(directory)) return 0;
      throw error;
    }
  }

  /** Stop what runs, backwards, role by role. Answers how many processes ran. */
  private async stop(plan: DevPlan, directory: string): Promise<number> {
    let stopped = 0;
    for (const role of ["nbd", "osd", "mon"] as const) {
      const running = plan.processes.filter(
        (one) => one.role === role && runningPid(one, directory) !== 0,
      );
      await Promise.all(running.map((one) => stopOne(one, directory)));
      stopped += running.length;
    }
    return stopped;
  }

  /**
   * Serve until a signal, until nothing is left, or until another process stops the cluster; say
   * when a process is `gone` that was not.
   */
  private async watch(plan: DevPlan, serving: Serving): Promise<void> {
    const { directory, foreground, interruption, gone } = serving;
    while (interruption.signal === undefined && gone.size < plan.processes.length) {
      for (const one of plan.processes) {
        const running = runningPid(one, directory) !== 0;
        if (running && gone.delete(one.name)) this.say(`${one.name} runs again\n`);
        if (running || gone.has(one.name)) continue;
        if (!foreground.isServing) return;
        gone.add(one.name);
        const script = join(directory, `${one.name}.start`);
        this.say(`${one.name} is gone; start it again by ${quoteWord(script)}\n`);
      }
      if (!foreground.isServing) return;
      await interruption.wait(WATCH_MS);
    }
  }

  private say(words: string): void {
    if (words !== "") this.outside.err(words);
  }
}

/** What a start came to. */
interface Up {
  readonly plan: DevPlan;
  readonly faults: readonly StartFault[];
  /** As it was before; undefined: nothing served. */
  readonly running: Running | undefined;
  /** What did not run before. */
  readonly missing: readonly string[];
  /** Both undefined: what runs outlives this process. */
  readonly foreground: Foreground | undefined;
  readonly interruption: Interruption | undefined;
}

/** What a `dev up` in the foreground looks after. */
interface Serving {
  readonly directory: string;
  readonly foreground: Foreground;
  readonly interruption: Interruption;
  readonly gone: Set<string>;
}

/** `serving after 2.1 s`, or that it did already. */
function servingText(up: Up, seconds: number, detach: boolean): string {
  const { running, missing, faults } = up;
  const without = faults.map(({ name }) => name).join(", ");
  const partly = without === "" ? "" : ` without ${without}`;
  const served = `serving${partly} after ${seconds.toFixed(1)} s`;
  if (running === undefined) return `${served}\n`;
  const started = missing.filter((name) => !faults.some((fault) => fault.name === name));
  const more = started.length === 0 ? "" : `; started now: ${started.join(", ")}`;
  if (detach && missing.length > 0) return `${served}${more}\n`;
  const by = running.isForeground
    ? `served by "dev up" in another terminal (process ${running.pid})`
    : `without a terminal (its mon is process ${running.pid})`;
  return `it runs already, since ${timeText(running.sinceMs)}, ${by}${more}${partly}\n`;
}

/** `2026-01-31 17:40:03` of this machine's clock. */
function timeText(ms: number): string {
  const local = new Date(ms - new Date(ms).getTimezoneOffset() * 60_000);
  return local.toISOString().slice(0, 19).replace("T", " ");
}

/** Whoever served last may not have seen yet that another process stopped the cluster. */
async function takeForeground(directory: string): Promise<Foreground> {
  for (;;) {
    const foreground = Foreground.take(directory);
    if (foreground !== undefined) return foreground;
    await Bun.sleep(LOOK_MS);
  }
}

/** The process that a file of a cluster directory belongs to: `osd.1` of `osd.1.log`. */
function nameOf(entry: string): string | undefined {
  return /^(?:mon|osd|nbd)\.[^.]+/.exec(entry)?.[0];
}

/** Processes that were started here by hand are somebody's: their files are not taken from them. */
function refuseStrangers(plan: DevPlan, directory: string): void {
  const known = new Set(plan.processes.map(({ name }) => name));
  for (const entry of readdirSync(directory)) {
    const name = nameOf(entry);
    if (name === undefined || known.has(name) || entry !== `${name}.pid`) continue;
    const pid = runningPid({ name }, directory);
    if (pid === 0) continue;
    const text = `${name}, which is not of dev, runs as process ${pid}`;
    throw new FastblockError("FB4005", `removing the cluster in ${directory}: ${text}`, {
      hint: `stop it first: kill ${pid}`,
    });
  }
}

function textOf({ code, message, why, hint }: FastblockError): string {
  return formatError({ head: `error ${code}`, message, why, hint, code });
}

/** In the foreground we end with whoever started us to serve for him (`npm start`). */
function newInterruption(): Interruption {
  const interruption = new Interruption();
  const starter = process.env[STARTED_BY];
  if (starter === undefined) return interruption;
  signalAtParentsEnd(SIGTERM);
  if (process.ppid !== Number(starter)) interruption.signal = "SIGTERM";
  return interruption;
}

function makeDirectory(directory: string): void {
  try {
    makeTemporaryHome(directory);
    mkdirSync(directory, { recursive: true, mode: 0o755 });
    if (statSync(directory).uid === process.getuid?.() || process.getuid?.() === 0) return;
  } catch (error) {
    if (error instanceof FastblockError) throw error;
    const why = error instanceof Error ? error.message : String(error);
    throw new FastblockError("FB1008", `making the directory ${directory}: ${why}`, {
      hint: "name one that you may write to: fastblock dev up --dir DIR",
    });
  }
  throw new FastblockError("FB1008", `using the directory ${directory}: it is somebody else's`, {
    hint: "name one of your own: fastblock dev up --dir DIR",
  });
}

/** The folder above a cluster of a user without a home is nobody else's to enter. */
function makeTemporaryHome(directory: string): void {
  const home = temporaryHome();
  if (!directory.startsWith(`${home}/`)) return;
  mkdirSync(home, { recursive: true, mode: 0o700 });
  checkTemporaryHome(directory);
}

/** The osds whose devices are to be made. */
function freshOsds(plan: DevPlan, directory: string): readonly DevProcess[] {
  return plan.processes.filter(
    (one) => one.role === "osd" && !existsSync(join(directory, one.data)),
  );
}

/** Logs and checkpoints are written in full at format, so their space must be there. */
function checkSpace(plan: DevPlan, directory: string, osds: number): void {
  if (osds === 0) return;
  const { bavail, bsize } = statfsSync(directory);
  const geometry = geometryOf(plan.osdBytes);
  const zones = shareZones(geometry, plan.shards);
  const wanted = osds * plan.shards * (zones.log + zones.meta) * geometry.zoneSize;
  const free = bavail * bsize;
  if (free >= wanted) return;
  const mebibytes = (bytes: number): string => `${Math.ceil(bytes / 1024 ** 2)} MiB`;
  throw new FastblockError(
    "FB4010",
    `formatting ${osds} osds in ${directory}: ${mebibytes(free)} are free, wanted ${mebibytes(wanted)}`,
    {
      why: "the logs of the osds are written in full when they are made",
      hint: "make room, take another --dir, or smaller osds: fastblock dev up --osd-size 1GiB",
    },
  );
}

/** The error that `osd format -o json` ended with, under the name of the osd. */
function formatFailure(name: string, text: string): FastblockError {
  const line = text.split("\n").find((one) => one.startsWith('{"error":'));
  if (line === undefined) {
    return new FastblockError("FB1009", `formatting ${name}: it failed`, { why: lastLines(text) });
  }
  const { error } = JSON.parse(line) as { error: Readonly<Record<string, string | undefined>> };
  const { code = "", detail = "", why, hint } = error;
  return new FastblockError(
    Object.hasOwn(ERRORS, code) ? (code as ErrorCode) : "FB1009",
    `formatting ${name}: ${detail}`,
    { ...(why === undefined ? {} : { why }), ...(hint === undefined ? {} : { hint }) },
  );
}
