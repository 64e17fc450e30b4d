import { type Subprocess, spawn } from "bun";
import { closeSync, existsSync, mkdtempSync, openSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** A cluster of real processes for campaigns, driven by what any outside harness may rely on. */

const COMMAND_LIMIT_MS = 180_000;
const WAIT_LIMIT_MS = 60_000;
const POLL_MS = 20;
const LOG_CHARS_SHOWN = 2_000;

export interface CampaignClusterOptions {
  /** The words that start fastblock. */
  readonly program: readonly string[];
  readonly osds: number;
  readonly shards: number;
  readonly gateways: number;
}

interface PgRow {
  readonly id: string;
  readonly leaderOsd: number | null;
  readonly osds: readonly number[];
}

/** Wait until `check` answers something other than undefined or false. Throws after `limitMs`. */
export async function waitUntil<T>(
  what: string,
  check: () => T | undefined | false | Promise<T | undefined | false>,
  limitMs: number = WAIT_LIMIT_MS,
): Promise<T> {
  const endMs = performance.now() + limitMs;
  for (;;) {
    const value = await check();
    if (value !== undefined && value !== false) return value;
    if (performance.now() > endMs) throw new Error(`waited ${limitMs} ms in vain for: ${what}`);
    await Bun.sleep(POLL_MS);
  }
}

/** What is told for an hour after it was put right: nobody waits for its end. */
const TOLD_FOR_LONG: ReadonlySet<string> = new Set(["OSD_READ_ERRORS"]);

export class CampaignCluster {
  readonly folder: string = mkdtempSync(join(tmpdir(), "fastblock campaign "));
  /** The cluster directory. */
  readonly directory: string = join(this.folder, "cluster");
  readonly osds: readonly string[];
  readonly gateways: readonly string[];
  private readonly options: CampaignClusterOptions;
  private readonly children: Subprocess[] = [];

  constructor(options: CampaignClusterOptions) {
    this.options = options;
    this.osds = Array.from({ length: options.osds }, (_none, at) => `osd.${at}`);
    this.gateways = Array.from({ length: options.gateways }, (_none, at) => `nbd.${at}`);
  }

  /** Every process, the mon first. */
  get names(): readonly string[] {
    return ["mon.a", ...this.osds, ...this.gateways];
  }

  async up(): Promise<void> {
    const { shards } = this.options;
    await this.run(
      ...["dev", "up", "--dir", this.directory, "--detach", "--spread", "--osd-size", "1GiB"],
      ...["--osds", String(this.osds.length), "--shards", String(shards)],
      ...["--nbd", String(this.gateways.length)],
    );
  }

  /** Stop what runs. */
  async down(): Promise<void> {
    await this.run("dev", "down", "--dir", this.directory);
    for (const child of this.children) await child.exited;
  }

  remove(): void {
    rmSync(this.folder, { recursive: true, force: true });
  }

  /** Run `fastblock WORDS`, which must succeed. Answers its standard output. */
  async run(...words: readonly string[]): Promise<string> {
    const child = spawn([...this.options.program, ...words], {
      env: { ...process.env, CLUSTER_DIR: this.directory },
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
    const code = await child.exited;
    if (code === 0) return stdout;
    throw new Error(
      `fastblock ${words.join(" ")}: exit code ${code}, wanted 0\n${stdout}${stderr}`,
    );
  }

  /** Ask the mon; undefined while it does not answer. Throws when it does not know the question. */
  async ask<T>(path: string): Promise<T | undefined> {
    let reply: Response;
    try {
      reply = await fetch(`${this.api}${path}`, { signal: AbortSignal.timeout(2000) });
    } catch {
      return undefined;
    }
    if (reply.status < 400) return (await reply.json()) as T;
    if (reply.status >= 500) return undefined;
    throw new Error(`GET ${path}: ${reply.status}, wanted 200\n${await reply.text()}`);
  }

  /** Groups that an osd leads, by osd. */
  async leaders(): Promise<ReadonlyMap<string, number>> {
    const led = new Map<string, number>();
    for (const { leaderOsd } of await this.groups()) {
      const name = `osd.${leaderOsd}`;
      if (leaderOsd !== null) led.set(name, (led.get(name) ?? 0) + 1);
    }
    return led;
  }

  /** Make an osd lead every other of its groups, at least one. */
  async giveLeadership(name: string): Promise<void> {
    const osd = Number(name.slice("osd.".length));
    const groups = (await this.groups()).filter(({ osds }) => osds.includes(osd));
    for (const { id } of groups.filter((_group, at) => at % 2 === 0)) {
      await fetch(`${this.api}/pgs/${id}:transferLeader`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ osd }),
      });
    }
    const leads = async (): Promise<boolean> => ((await this.leaders()).get(name) ?? 0) > 0;
    await waitUntil(`${name} to lead`, leads);
  }

  private async groups(): Promise<readonly PgRow[]> {
    return (await this.ask<{ readonly items: readonly PgRow[] }>("/pgs"))?.items ?? [];
  }

  private get api(): string {
    return `http://${this.address("mon.a")}:${this.port("mon.a", "http")}/api/v1`;
  }

  /** Empty: the mon finds nothing wrong. */
  async complaints(): Promise<string> {
    const health = await this.ask<{
      readonly status: string;
      readonly checks: readonly { readonly code: string; readonly summary: string }[];
    }>("/health");
    if (health === undefined) return "the mon does not answer";
    return health.checks
      .filter(({ code }) => !TOLD_FOR_LONG.has(code))
      .map(({ code, summary }) => `${code} ${summary}`)
      .join("; ");
  }

  port(name: string, role: string): number {
    const text = readFileSync(join(this.directory, `${name}.ports`), "utf8");
    const line = text.split("\n").find((one) => one.startsWith(`${role}=`));
    if (line === undefined) throw new Error(`${name}.ports names no ${role}: ${text}`);
    return Number(line.slice(role.length + 1));
  }

  address(name: string): string {
    return readFileSync(join(this.directory, `${name}.addr`), "utf8").trim();
  }

  pid(name: string): number {
    return Number(readFileSync(join(this.directory, `${name}.pid`), "utf8"));
  }

  isRunning(name: string): boolean {
    return existsSync(`/proc/${this.pid(name)}/exe`);
  }

  signal(name: string, signal: NodeJS.Signals): void {
    process.kill(this.pid(name), signal);
  }

  /** Send a signal that ends the process, and wait until it is gone. */
  async end(name: string, signal: "SIGKILL" | "SIGTERM"): Promise<void> {
    const pid = this.pid(name);
    process.kill(pid, signal);
    await waitUntil(`${name} to end after ${signal}`, () => !existsSync(`/proc/${pid}/exe`));
  }

  /**
   * Start it again by its NAME.start. Answers the milliseconds until it serves. `env`: beside what
   * this process has.
   */
  async start(name: string, env: Readonly<Record<string, string>> = {}): Promise<number> {
    const startMs = performance.now();
    const path = join(this.folder, `${name}.out`);
    const output = openSync(path, "w");
    const child = spawn([join(this.directory, `${name}.start`)], {
      cwd: "/",
      env: { ...process.env, ...env },
      // An interrupted campaign stops it in order: the terminal's Ctrl-C is not for it.
      detached: true,
      stdin: "ignore",
      stdout: output,
      stderr: output,
    });
    closeSync(output);
    this.children.push(child);
    await waitUntil(`${name} to print its ready line`, () => {
      const text = readFileSync(path, "utf8");
      if (child.exitCode !== null) throw new Error(`${name} ended with ${child.exitCode}\n${text}`);
      return /\bready\b/.test(text);
    });
    return performance.now() - startMs;
  }

  /** The end of what a process said. */
  lastWords(name: string): string {
    const texts = [join(this.directory, `${name}.log`), join(this.folder, `${name}.out`)]
      .filter((path) => existsSync(path))
      .map((path) => readFileSync(path, "utf8").slice(-LOG_CHARS_SHOWN));
    return texts.join("\n");
  }
}
