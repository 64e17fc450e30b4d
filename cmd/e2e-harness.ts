import { type Subprocess, spawn } from "bun";
import {
  closeSync,
  existsSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/**
 * A cluster of the real executable in a folder of its own, for end-to-end tests.
 *
 * Every test runs on ports of its own, waits for conditions instead of times, and leaves nothing
 * behind. The folder's name holds a space, as users' folders do.
 */

const ROOT = join(import.meta.dir, "..");
export const EXECUTABLE: string = join(ROOT, "dist", "fastblock");
const COMMAND_LIMIT_MS = 120_000;
const WAIT_LIMIT_MS = 60_000;
const POLL_MS = 20;
/** What of each log is shown when a test fails. */
const LOG_BYTES_SHOWN = 4_000;

export interface ClusterOptions {
  readonly osds?: number;
  readonly shards?: number;
  /** More flags of `dev up`. */
  readonly flags?: readonly string[];
}

export interface CommandResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Start a cluster, run `body` on it, and take everything away again. */
export async function withCluster(
  options: ClusterOptions,
  body: (cluster: TestCluster) => Promise<void>,
): Promise<void> {
  const cluster = new TestCluster();
  try {
    await cluster.up(options);
    await body(cluster);
  } catch (error) {
    console.error(cluster.logs());
    throw error;
  } finally {
    await cluster.remove();
  }
}

/** Run a program to its end. Kills it after `COMMAND_LIMIT_MS`. */
export async function command(
  words: readonly string[],
  env: Readonly<Record<string, string | undefined>> = {},
): Promise<CommandResult> {
  const child = spawn([...words], {
    env: { ...process.env, CLUSTER_DIR: undefined, ...env },
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
    timeout: COMMAND_LIMIT_MS,
    killSignal: "SIGKILL",
  });
  const [stdout, stderr] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ]);
  return { code: await child.exited, stdout, stderr };
}

/** Run a program that must succeed. Answers its standard output. */
export async function succeed(words: readonly string[]): Promise<string> {
  const { code, stdout, stderr } = await command(words);
  if (code === 0) return stdout;
  throw new Error(`${words.join(" ")}: exit code ${code}, wanted 0\n${stdout}\n${stderr}`);
}

/** Wait until `check` answers something other than undefined or false. */
export async function waitFor<T>(
  what: string,
  check: () => T | undefined | false | Promise<T | undefined | false>,
  limitMs: number = WAIT_LIMIT_MS,
): Promise<T> {
  const endMs = performance.now() + limitMs;
  while (performance.now() < endMs) {
    const value = await check();
    if (value !== undefined && value !== false) return value;
    await Bun.sleep(POLL_MS);
  }
  throw new Error(`waited ${limitMs} ms in vain for: ${what}`);
}

/** What took `ms` was to take less than `limitMs`: it was late, and nothing else is said of it. */
export function expectWithin(what: string, ms: number, limitMs: number): void {
  if (ms < limitMs) return;
  throw new Error(`waited ${Math.round(ms)} ms for ${what}, wanted less than ${limitMs}`);
}

/**
 * All processes of a cluster directory run, and the mon must report io_uring for each of them but
 * itself: it has no data path.
 */
export async function reportsRing(directory: string): Promise<void> {
  const words = [EXECUTABLE, "dev", "status", "--dir", directory, "-o", "json"];
  const status = await waitFor("the mon to know every process", async () => {
    const told = JSON.parse(await succeed(words)) as RingStatus;
    const { backends, processes } = told;
    const countOf = (role: string): number => processes.filter((one) => one.role === role).length;
    if (backends === undefined) return false;
    const { mons, osds, clients } = backends;
    const isKnown = sum(osds) === countOf("osd") && sum(clients) >= countOf("nbd");
    return isKnown && sum(mons) === countOf("mon") && told;
  });
  const { osds, clients } = status.backends!;
  if (
    [osds, clients].every((counts) => Object.keys(counts).every((backend) => backend === "uring"))
  )
    return;
  throw new Error(`backends: ${JSON.stringify(status.backends)}, wanted uring everywhere`);
}

interface RingStatus {
  readonly backends?: Readonly<Record<"mons" | "osds" | "clients", Record<string, number>>>;
  readonly processes: readonly { readonly role: string }[];
}

function sum(counts: Readonly<Record<string, number>>): number {
  return Object.values(counts).reduce((left, right) => left + right, 0);
}

/** A file of random bytes, the same for the same seed. */
export function randomBytes(sizeBytes: number, seed: number): Uint8Array {
  const words = new Uint32Array(sizeBytes / 4);
  let state = seed | 1;
  for (let index = 0; index < words.length; index++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    words[index] = state;
  }
  return new Uint8Array(words.buffer);
}

export class TestCluster {
  readonly folder: string = mkdtempSync(join(tmpdir(), "fastblock e2e "));
  /** The cluster directory. */
  readonly directory: string = join(this.folder, "cluster dir");
  readonly #restarted: Subprocess[] = [];

  /** `dev up`; every process must run on io_uring. */
  async up(options: ClusterOptions): Promise<void> {
    const words = ["dev", "up", "--dir", this.directory, "--detach", ...(options.flags ?? [])];
    if (options.osds !== undefined) words.push("--osds", String(options.osds));
    if (options.shards !== undefined) words.push("--shards", String(options.shards));
    await this.run(...words);
    await reportsRing(this.directory);
  }

  /** The way to a file in the test's own folder. */
  path(name: string): string {
    return join(this.folder, name);
  }

  /** Run `fastblock WORDS` on this cluster whatever comes of it. */
  attempt(...words: readonly string[]): Promise<CommandResult> {
    return command([EXECUTABLE, ...words], { CLUSTER_DIR: this.directory });
  }

  /** Run `fastblock WORDS`, which must succeed. Answers its standard output. */
  async run(...words: readonly string[]): Promise<string> {
    const { code, stdout, stderr } = await this.attempt(...words);
    if (code === 0) return stdout;
    throw new Error(
      `fastblock ${words.join(" ")}: exit code ${code}, wanted 0\n${stdout}\n${stderr}`,
    );
  }

  /** Run `fastblock WORDS -o json` and read what it says. */
  async json<T>(...words: readonly string[]): Promise<T> {
    return JSON.parse(await this.run(...words, "-o", "json")) as T;
  }

  /** A pool of `replicas` and in it an image. Answers the image's address. */
  async image(name: string, size: string, replicas: number): Promise<string> {
    const pool = name.split("/")[0] ?? "";
    await this.run("pool", "create", pool, "--size", String(replicas));
    await this.run("image", "create", name, "--size", size);
    return this.uri(name);
  }

  uri(image: string): string {
    return `nbd://127.0.0.1:${this.port("nbd.0", "nbd")}/${image}`;
  }

  port(name: string, role: string): number {
    const text = readFileSync(join(this.directory, `${name}.ports`), "utf8");
    const port = new RegExp(`^${role.replaceAll(".", "\\.")}=(\\d+)$`, "m").exec(text)?.[1];
    if (port === undefined) throw new Error(`${name}.ports names no ${role}:\n${text}`);
    return Number(port);
  }

  pid(name: string): number {
    return Number(readFileSync(join(this.directory, `${name}.pid`), "utf8"));
  }

  isRunning(name: string): boolean {
    return existsSync(`/proc/${this.pid(name)}/exe`);
  }

  /** Send a signal that ends the process, and wait until it is gone. */
  async kill(name: string, signal: "SIGKILL" | "SIGTERM"): Promise<void> {
    const pid = this.pid(name);
    process.kill(pid, signal);
    await waitFor(`${name} (${pid}) to end after ${signal}`, () => !existsSync(`/proc/${pid}/exe`));
  }

  /** Start a process again by its NAME.start, as an administrator would, and wait until it serves. */
  async restart(name: string): Promise<void> {
    const log = join(this.directory, `${name}.log`);
    const loggedBytes = statSync(log).size;
    const output = openSync(this.path(`${name}.out`), "w");
    const child = spawn([join(this.directory, `${name}.start`)], {
      cwd: "/",
      stdin: "ignore",
      stdout: output,
      stderr: output,
    });
    closeSync(output);
    this.#restarted.push(child);
    await waitFor(`${name} to print its ready line`, () => {
      const text = readFileSync(this.path(`${name}.out`), "utf8");
      if (child.exitCode !== null) throw new Error(`${name} ended with ${child.exitCode}\n${text}`);
      return /\bready\b/.test(text);
    });
    // What it says itself: its mon may be away. A mon has no data path.
    const logged = readFileSync(log).subarray(loggedBytes).toString();
    const backends = [...logged.matchAll(/"backend":"([^"]*)"/g)].map((match) => match[1]);
    const isOnRing = backends.length > 0 && backends.every((backend) => backend === "uring");
    if (!isOnRing && !name.startsWith("mon")) {
      throw new Error(`${name}'s backend: ${backends.join(" ")}, wanted uring\n${logged}`);
    }
  }

  /** Bytes of memory that a process has for itself, in no file. */
  anonymousBytes(name: string): number {
    const text = readFileSync(`/proc/${this.pid(name)}/smaps_rollup`, "utf8");
    return Number(/^Anonymous:\s+(\d+) kB/m.exec(text)?.[1]) * 1024;
  }

  /** The ends of all logs. */
  logs(): string {
    if (!existsSync(this.directory)) return "";
    const names = readdirSync(this.directory).filter((name) => name.endsWith(".log"));
    return names
      .map((name) => {
        const text = readFileSync(join(this.directory, name), "utf8");
        return `--- ${name}\n${text.slice(-LOG_BYTES_SHOWN)}`;
      })
      .join("\n");
  }

  /** Stop everything and take the folder away. */
  async remove(): Promise<void> {
    for (const child of this.#restarted) child.kill("SIGTERM");
    await this.attempt("dev", "down", "--dir", this.directory);
    for (const child of this.#restarted) await child.exited;
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** What an osd tells of itself is at most this old. */
const REPORTS_MS = 1500;

/** Counts the writes that osds acknowledge; a counter that begins anew belongs to a new process. */
export class WriteCounter {
  private readonly cluster: TestCluster;
  private last = new Map<string, number>();
  private count = 0;

  constructor(cluster: TestCluster) {
    this.cluster = cluster;
  }

  /** Wait until `count` more writes were acknowledged than when it was called. */
  async more(count: number): Promise<void> {
    const wanted = (await this.look()) + count;
    await waitFor(`${count} more writes`, async () => (await this.look()) >= wanted);
  }

  /** Wait until osds have told of all that was written before: they do so once a second. */
  async rest(): Promise<void> {
    let last = -1;
    let sinceMs = 0;
    await waitFor("no more writes to be told of", async () => {
      const now = await this.look();
      if (now !== last) sinceMs = performance.now();
      last = now;
      return performance.now() - sinceMs > REPORTS_MS;
    });
  }

  private async look(): Promise<number> {
    const reply = await fetch(`http://127.0.0.1:${this.cluster.port("mon.a", "http")}/metrics`);
    const text = await reply.text();
    for (const match of text.matchAll(/^(fastblock_osd_writes_acknowledged_total\S*)\s+(\d+)/gm)) {
      const value = Number(match[2]);
      const before = this.last.get(match[1]!) ?? 0;
      this.count += value >= before ? value - before : value;
      this.last.set(match[1]!, value);
    }
    return this.count;
  }
}
