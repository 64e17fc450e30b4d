import { closeSync, openSync, readdirSync, readFileSync } from "node:fs";
import { parseProcessStat } from "./readings.ts";
import type { System } from "./settings.ts";

/**
 * Which processes are ours: each carries the token of its directory, and its system, in its
 * environment, and so do its children. No list of process ids has to be kept: what an interrupted
 * `up` left is found as well, and an id that went to somebody else's process is never taken.
 */
const VARIABLE = "FASTBLOCK_BENCH_OWNER";

export interface OwnProcess {
  readonly pid: number;
  readonly system: System;
  /** The program, and of fastblock its subcommand: `ceph-osd`, `fastblock osd`. */
  readonly kind: string;
}

const STOP_MS = 20_000;
const KILLED_MS = 5000;
const LOOK_MS = 50;

export function ownerOf(token: string, system: System): Record<string, string> {
  return { [VARIABLE]: `${token}:${system}` };
}

/** Undefined: somebody else's, or gone. */
export function ownProcess(pid: number, token: string): OwnProcess | undefined {
  const owner = readProc(pid, "environ")
    .split("\0")
    .find((line) => line.startsWith(`${VARIABLE}=${token}:`));
  if (owner === undefined) return undefined;
  const system = owner.slice(owner.lastIndexOf(":") + 1) as System;
  const [program = "", subcommand = ""] = readProc(pid, "cmdline").split("\0");
  const name = program.slice(program.lastIndexOf("/") + 1);
  return { pid, system, kind: system === "fastblock" ? `${name} ${subcommand}` : name };
}

export function ownProcesses(token: string): OwnProcess[] {
  return allPids()
    .filter((pid) => pid !== process.pid)
    .map((pid) => ownProcess(pid, token))
    .filter((one) => one !== undefined);
}

export function allPids(): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number);
}

/** Text of a file below /proc/PID; empty when the process has ended, or is not to be looked at. */
export function readProc(pid: number, name: string): string {
  try {
    return readFileSync(`/proc/${pid}/${name}`, "utf8");
  } catch {
    return "";
  }
}

/** End all processes of the token, first by SIGTERM; answers how many. Throws when some do not go. */
export async function stopOwn(token: string, patienceMs = STOP_MS): Promise<number> {
  const first = living(token);
  await signalUntilGone(token, "SIGTERM", patienceMs);
  await signalUntilGone(token, "SIGKILL", KILLED_MS);
  const left = living(token);
  if (left.length > 0) {
    const names = left.map(({ pid, kind }) => `${pid} (${kind})`).join(", ");
    throw new Error(`stopping processes: ${names} do not go, wanted none; run down again`);
  }
  return first.length;
}

/** A process that has ended and that nobody waits for has no environment: it counts as gone. */
function living(token: string): OwnProcess[] {
  return ownProcesses(token).filter(({ pid }) => parseProcessStat(readProc(pid, "stat")));
}

/** Signals once to each, those that appear meanwhile included. */
async function signalUntilGone(
  token: string,
  signal: "SIGTERM" | "SIGKILL",
  limitMs: number,
): Promise<void> {
  const told = new Set<number>();
  for (let waitedMs = 0; waitedMs < limitMs; waitedMs += LOOK_MS) {
    const left = living(token);
    if (left.length === 0) return;
    for (const { pid } of left) {
      if (told.has(pid)) continue;
      told.add(pid);
      signalTo(pid, signal);
    }
    await Bun.sleep(LOOK_MS);
  }
}

function signalTo(pid: number, signal: "SIGTERM" | "SIGKILL"): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    // It ended by itself since the look.
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}

export interface Command {
  readonly words: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly limitMs?: number;
}

const COMMAND_MS = 60_000;
const WORDS_MAX = 600;

/** Run a command to its end, and answer its standard output. Throws unless it ends with 0. */
export async function output(command: Command): Promise<string> {
  const child = startLoad(command);
  const { text, code, errors } = await child.ended;
  if (code === 0) return text;
  const said = `${errors}\n${text}`.trim().slice(-WORDS_MAX);
  throw new Error(`running ${command.words.join(" ")}: exit code ${code}, wanted 0: ${said}`);
}

export interface RunningLoad {
  readonly pid: number;
  readonly ended: Promise<{ text: string; errors: string; code: number }>;
}

/** Those that end with us. */
const FOREGROUND = new Set<number>();

export function endForeground(): void {
  for (const pid of FOREGROUND) signalTo(pid, "SIGTERM");
}

/** Start a command whose output is wanted; at its limit it is killed. */
export function startLoad({ words, env, limitMs = COMMAND_MS }: Command): RunningLoad {
  const child = Bun.spawn([...words], {
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
    env: { ...process.env, ...env },
    timeout: limitMs,
    killSignal: "SIGKILL",
  });
  FOREGROUND.add(child.pid);
  const ended = Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]).then(([text, errors, code]) => {
    FOREGROUND.delete(child.pid);
    return { text, errors, code };
  });
  return { pid: child.pid, ended };
}

/** Start a process that stays when we end, in a session of its own. */
export function startDaemon(
  words: readonly string[],
  env: Readonly<Record<string, string>>,
  logPath: string,
): void {
  const log = openSync(logPath, "a");
  const child = Bun.spawn([...words], {
    stdin: "ignore",
    stdout: log,
    stderr: log,
    env: { ...process.env, ...env },
    detached: true,
  });
  child.unref();
  closeSync(log);
}

/** Ask four times a second until it answers true. Throws behind the limit. */
export async function waitFor(
  what: string,
  limitMs: number,
  ask: () => Promise<boolean>,
): Promise<void> {
  const until = Date.now() + limitMs;
  while (!(await ask())) {
    if (Date.now() > until) {
      throw new Error(`waiting for ${what}: not there after ${limitMs / 1000} s; look at the logs`);
    }
    await Bun.sleep(250);
  }
}
