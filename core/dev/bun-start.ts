import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, existsSync, openSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { type ErrorCode, ERRORS, FastblockError } from "../base/errors.ts";
import {
  askJson,
  childEnvironment,
  httpOf,
  lastLines,
  readText,
  runningPid,
  stopOne,
} from "./bun-processes.ts";
import { STARTED_BY } from "./dev.ts";
import { argumentsOf, type DevPlan, type DevProcess, SERVING_ENVIRONMENT } from "./plan.ts";

/** From the spawn of a process to its ready line. */
const READY_MS_MAX = 30_000;
const LOOK_MS = 50;

export interface StartOptions {
  readonly plan: DevPlan;
  readonly directory: string;
  /** The words that start this same program. */
  readonly program: readonly string[];
  /** Undefined: detached, the processes outlive us. */
  readonly interruption: Interruption | undefined;
}

/**
 * Starts the processes of a plan that do not run: the mon, then the osds together, then the
 * gateways. What does not start is told, and the others serve, as long as a majority of the osds
 * does; else none that was started here is left.
 */
export class Starter {
  private readonly options: StartOptions;
  private readonly started: Started[] = [];
  private readonly faults = new Map<string, FastblockError>();

  constructor(options: StartOptions) {
    this.options = options;
  }

  /**
   * Answers what did not start, with what it said of itself. Returns early when interrupted. Throws
   * the first fault when the mon or a majority of the osds does not serve.
   */
  async startAll(): Promise<readonly StartFault[]> {
    try {
      for (const role of ["mon", "osd", "nbd"] as const) {
        const { plan, directory } = this.options;
        const missing = plan.processes.filter(
          (one) => one.role === role && runningPid(one, directory) === 0,
        );
        await Promise.all(missing.map((one) => this.tryOne(one)));
        if (role === "osd") await this.waitForOsds();
        this.judge(role);
      }
    } catch (error) {
      await this.takeBack();
      throw error;
    }
    return [...this.faults].map(([name, error]) => ({ name, error }));
  }

  /** Throws the first fault when too little of a role serves. */
  private judge(role: DevProcess["role"]): void {
    const of = this.options.plan.processes.filter((one) => one.role === role);
    const faulty = of.filter(({ name }) => this.faults.has(name));
    const enough = role === "mon" ? of.length : role === "osd" ? Math.floor(of.length / 2) + 1 : 0;
    const first = faulty[0];
    if (first !== undefined && of.length - faulty.length < enough) {
      throw this.faults.get(first.name)!;
    }
  }

  private async tryOne(one: DevProcess): Promise<void> {
    try {
      await this.startOne(one);
    } catch (error) {
      if (!(error instanceof FastblockError)) throw error;
      this.faults.set(one.name, error);
    }
  }

  private async startOne(one: DevProcess): Promise<void> {
    const { plan, directory, program, interruption } = this.options;
    if (interruption?.signal !== undefined) return;
    const portsPath = join(directory, `${one.name}.ports`);
    const logPath = join(directory, `${one.name}.log`);
    rmSync(portsPath, { force: true });
    const log = openSync(logPath, "a");
    const logStart = statSync(logPath).size;
    const [executable, ...words] = [...program, ...argumentsOf(plan, one, directory)];
    // A session of its own: Ctrl-C in our terminal reaches us alone, and we stop it in order.
    const child = spawn(executable!, words, {
      cwd: "/",
      detached: true,
      stdio: ["ignore", log, log],
      env: {
        ...childEnvironment(),
        ...SERVING_ENVIRONMENT,
        ...(interruption === undefined ? {} : { [STARTED_BY]: String(process.pid) }),
      },
    });
    closeSync(log);
    const started = new Started(one, child, logPath, logStart);
    this.started.push(started);
    const endMs = performance.now() + READY_MS_MAX;
    while (!existsSync(portsPath)) {
      if (interruption?.signal !== undefined) {
        await started.end("SIGTERM");
        return;
      }
      if (started.ended !== undefined) throw started.failure();
      if (performance.now() > endMs) {
        await started.end("SIGKILL");
        throw started.failure(`not ready after ${READY_MS_MAX / 1000} s`);
      }
      await Bun.sleep(LOOK_MS);
    }
  }

  /** Wait until the mon counts every osd of the plan as up, but those that did not start. */
  private async waitForOsds(): Promise<void> {
    const { plan, interruption } = this.options;
    const endMs = performance.now() + READY_MS_MAX;
    for (;;) {
      if (interruption?.signal !== undefined) return;
      const body = await askJson(`${httpOf(plan)}/api/v1/osds`);
      const osds = (body as { items?: { id?: number; up?: boolean }[] } | undefined)?.items ?? [];
      const up = new Set(osds.filter((osd) => osd.up === true).map((osd) => `osd.${osd.id}`));
      for (const one of this.started) {
        if (one.ended !== undefined) this.faults.set(one.process.name, one.failure());
      }
      const late = plan.processes.filter(
        ({ role, name }) => role === "osd" && !up.has(name) && !this.faults.has(name),
      );
      if (late.length === 0) return;
      if (performance.now() > endMs) {
        for (const { name } of late) {
          const text = `starting ${name}: the mon does not see it up, wanted it to`;
          this.faults.set(name, new FastblockError("FB1009", text));
        }
        return;
      }
      await Bun.sleep(LOOK_MS);
    }
  }

  private async takeBack(): Promise<void> {
    for (const one of this.started.toReversed()) {
      if (one.ended === undefined) await stopOne(one.process, this.options.directory);
      await one.end("SIGKILL");
    }
  }
}

/** A process that did not start, and why. */
export interface StartFault {
  readonly name: string;
  readonly error: FastblockError;
}

/** A process that was started here. */
class Started {
  readonly process: DevProcess;
  /** How it ended; undefined while it runs. */
  ended: string | undefined;
  private readonly child: ChildProcess;
  private readonly logPath: string;
  private readonly logStart: number;

  constructor(process: DevProcess, child: ChildProcess, logPath: string, logStart: number) {
    this.process = process;
    this.child = child;
    this.logPath = logPath;
    this.logStart = logStart;
    child.on("error", (error) => {
      this.ended = error.message;
    });
    child.on("exit", (code, signal) => {
      this.ended = signal ?? `exit code ${String(code)}`;
    });
    child.unref();
  }

  /** Send a signal that ends it, and wait for that. */
  async end(signal: NodeJS.Signals): Promise<void> {
    while (this.ended === undefined) {
      this.child.kill(signal);
      await Bun.sleep(LOOK_MS);
    }
  }

  /** What it said of its end, in its log; else how it ended. */
  failure(seen: string | undefined = this.ended): FastblockError {
    const { name } = this.process;
    const text = Buffer.from(readText(this.logPath)).subarray(this.logStart).toString();
    const told = fatalOf(text);
    if (told !== undefined) {
      const { why, hint } = told;
      return new FastblockError(told.code, `starting ${name}: ${told.error}`, {
        ...(why === "" ? {} : { why }),
        ...(hint === "" ? {} : { hint }),
      });
    }
    return new FastblockError("FB1009", `starting ${name}: ${seen ?? "?"}, wanted it to serve`, {
      why: lastLines(text),
      hint: `read ${this.logPath}`,
    });
  }
}

interface Fatal {
  readonly code: ErrorCode;
  readonly error: string;
  readonly why: string;
  readonly hint: string;
}

/** The coded error with which a process ended, by its log. */
function fatalOf(log: string): Fatal | undefined {
  for (const line of log.split("\n").toReversed()) {
    if (!line.includes('"msg":"fatal"')) continue;
    const { code, error, why, hint } = JSON.parse(line) as Record<string, unknown>;
    if (typeof code !== "string" || !Object.hasOwn(ERRORS, code)) return undefined;
    const text = (value: unknown): string => (typeof value === "string" ? value : "");
    return { code: code as ErrorCode, error: text(error), why: text(why), hint: text(hint) };
  }
  return undefined;
}

/** The first SIGINT, SIGTERM or SIGHUP asks for the end; the program goes on until it is reached. */
export class Interruption {
  signal: string | undefined;
  private readonly told = new Set<() => void>();

  constructor() {
    for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
      process.on(signal, () => {
        this.signal ??= signal;
        for (const tell of this.told) tell();
        this.told.clear();
      });
    }
  }

  /** Call `stop` when the end is asked for. */
  tell(stop: () => void): void {
    if (this.signal === undefined) this.told.add(stop);
    else stop();
  }

  /** Wait, but no longer than until the end is asked for. */
  wait(ms: number): Promise<void> {
    return new Promise((done) => {
      const end = (): void => {
        clearTimeout(timer);
        this.told.delete(end);
        done();
      };
      const timer = setTimeout(end, ms);
      this.tell(end);
    });
  }
}
