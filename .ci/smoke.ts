// Shows that dist/fastblock stands alone: copied to another folder, run from an empty directory while
// the checkout is out of sight, because a path baked in at build works on the machine of the build.
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { CheckResult } from "./checks.ts";
import { ROOT, type RunResult, run } from "./process.ts";
import { isCi } from "./tools.ts";

const COMMAND_LIMIT_MS = 60_000;
/** More subcommands than this are a loop in reading the help. */
const SUBCOMMANDS_MAX = 500;
const HELP_TOGETHER_MAX = 4;
/** Sections of a help text that list no subcommands. */
const OTHER_SECTIONS =
  /^(options|global options|arguments|usage|examples?|exit codes|environment)\b/i;

/** Mounts nothing over the checkout ($0), then becomes the command. */
const HIDE_SCRIPT = 'mount -t tmpfs none "$0" && exec "$@"';

class Sandbox {
  readonly folder: string;
  readonly emptyFolder: string;
  readonly executable: string;
  readonly problems: string[] = [];
  #prefix: readonly string[] = [];

  constructor() {
    this.folder = mkdtempSync(join(tmpdir(), "fastblock smoke "));
    this.emptyFolder = join(this.folder, "empty");
    this.executable = join(this.folder, "fastblock");
    mkdirSync(this.emptyFolder);
    copyFileSync(join(ROOT, "dist", "fastblock"), this.executable);
  }

  /** Find a way to put the checkout out of sight. False: this user may not. */
  async hide(): Promise<boolean> {
    const asUser = process.getuid?.() === 0 ? [] : ["--map-root-user"];
    const prefix = ["unshare", ...asUser, "--mount", "sh", "-c", HIDE_SCRIPT, ROOT];
    const trial = await run([...prefix, "sh", "-c", 'test ! -e "$0/package.json"', ROOT], {
      cwd: this.emptyFolder,
    });
    if (trial.code !== 0) return false;
    this.#prefix = prefix;
    return true;
  }

  fastblock(args: readonly string[], cwd: string = this.emptyFolder): Promise<RunResult> {
    return this.command([this.executable, ...args], cwd);
  }

  command(command: readonly string[], cwd: string = this.emptyFolder): Promise<RunResult> {
    const env = { CLUSTER_DIR: undefined, NODE_ENV: undefined, HOME: this.folder };
    return run([...this.#prefix, ...command], { cwd, env, limitMs: COMMAND_LIMIT_MS });
  }

  /** Keep a failure; true when it went well. */
  expect(what: string, isGood: boolean, detail: string): boolean {
    if (!isGood) this.problems.push(`${what}\n${detail}`);
    return isGood;
  }

  remove(): void {
    rmSync(this.folder, { recursive: true, force: true });
  }
}

export async function checkExecutable(): Promise<CheckResult> {
  if (!existsSync(join(ROOT, "dist", "fastblock"))) {
    return { ok: false, summary: "dist/fastblock is missing", output: "run: npm run build" };
  }
  const sandbox = new Sandbox();
  try {
    const isHidden = await sandbox.hide();
    const why = "unshare --mount is not allowed, and continuous integration leaves nothing out";
    sandbox.expect("checkout out of sight", isHidden || !isCi, why);
    checkPaths(sandbox);
    const helpCount = await checkHelp(sandbox);
    await checkPlanted(sandbox);
    await checkOneWrite(sandbox);
    const { problems } = sandbox;
    sandbox.expect("help", helpCount > 1, "no subcommand was found in the help");
    const sight = isHidden ? "checkout out of sight" : "checkout in sight: no right to hide it";
    return {
      ok: problems.length === 0,
      summary: `${helpCount} helps, 1 write, ${sight}, ${problems.length} problems`,
      output: problems.join("\n"),
    };
  } finally {
    sandbox.remove();
  }
}

function checkPaths(sandbox: Sandbox): void {
  const content = readFileSync(sandbox.executable);
  for (const name of ["cmd", "core", "ffi", "proto", "web", "node_modules"]) {
    const at = content.indexOf(`${ROOT}/${name}/`);
    const detail = at < 0 ? "" : content.subarray(at, at + 200).toString("latin1");
    sandbox.expect("path of the build in the executable", at < 0, detail);
  }
}

/* -------------------------------------------------------------------- help */

/** Ask every subcommand, at every level, for its help. Answers how many there are. */
async function checkHelp(sandbox: Sandbox): Promise<number> {
  let count = 0;
  for (let level: readonly string[][] = [[]]; level.length > 0; ) {
    count += level.length;
    if (count > SUBCOMMANDS_MAX) throw new Error(`subcommands have no end: ${level[0]?.join(" ")}`);
    const below: string[][] = [];
    for (let index = 0; index < level.length; index += HELP_TOGETHER_MAX) {
      const batch = level.slice(index, index + HELP_TOGETHER_MAX);
      const helps = await Promise.all(batch.map((path) => helpOf(sandbox, path)));
      batch.forEach((path, at) => {
        for (const name of subcommands(helps[at] ?? "")) below.push([...path, name]);
      });
    }
    level = below;
  }
  return count;
}

async function helpOf(sandbox: Sandbox, path: readonly string[]): Promise<string> {
  const result = await sandbox.fastblock([...path, "--help"]);
  const usage = `Usage: ${["fastblock", ...path].join(" ")}`;
  const isGood = result.code === 0 && result.stdout.includes(usage);
  const what = `fastblock ${path.join(" ")} --help: exit code ${result.code}, wanted 0 and "${usage}"`;
  sandbox.expect(what, isGood, result.output);
  return result.stdout;
}

/** Names of the subcommands that a help text lists. */
export function subcommands(help: string): readonly string[] {
  const names: string[] = [];
  let isCommands = false;
  for (const line of help.split("\n")) {
    const heading = /^(\S.*):\s*$/.exec(line)?.[1];
    if (heading !== undefined) isCommands = !OTHER_SECTIONS.test(heading);
    const name = /^ {2}([a-z][a-z0-9-]*)(?=[ |]|$)/.exec(line)?.[1];
    if (isCommands && name !== undefined && name !== "help") names.push(name);
  }
  return names;
}

/* ------------------------------------------------------------------ others */

/** A compiled program must not take settings from the folder it is started in. */
async function checkPlanted(sandbox: Sandbox): Promise<void> {
  const folder = join(sandbox.folder, "planted");
  const witness = join(folder, "witness");
  mkdirSync(folder);
  writeFileSync(join(folder, "bunfig.toml"), 'preload = ["./preload.ts"]\n');
  writeFileSync(
    join(folder, "preload.ts"),
    `require("node:fs").writeFileSync(${JSON.stringify(witness)}, "ran");`,
  );
  writeFileSync(join(folder, ".env"), "FASTBLOCK_CONFIG=/nonexistent\nCLUSTER_DIR=/nonexistent\n");
  const result = await sandbox.fastblock(["version"], folder);
  sandbox.expect("fastblock version beside planted files", result.code === 0, result.output);
  sandbox.expect("planted preload", !existsSync(witness), "bunfig.toml of the folder was obeyed");
}

/** One osd, one image, one write and its read back, all by the executable and a stock client. */
async function checkOneWrite(sandbox: Sandbox): Promise<void> {
  const dir = join(sandbox.folder, "cluster");
  const at = ["--cluster", dir];
  try {
    const isUp =
      (await step(sandbox, ["dev", "up", "--dir", dir, "--osds", "1", "--detach"])) &&
      (await step(sandbox, ["pool", "create", "smoke", "--size", "1", ...at])) &&
      (await step(sandbox, ["image", "create", "smoke/one", "--size", "64MiB", ...at]));
    if (!isUp) return;
    const status = await sandbox.fastblock(["dev", "status", "--dir", dir, "-o", "json"]);
    const isRing = isOnRing(status.stdout);
    sandbox.expect("dev status: wanted backend uring everywhere", isRing, status.output);
    const port = /^nbd=(\d+)$/m.exec(readFileSync(join(dir, "nbd.0.ports"), "utf8"))?.[1];
    const uri = `nbd://127.0.0.1:${port}/smoke/one`;
    const io = await sandbox.command([
      "qemu-io",
      ...["-f", "raw", "-c", "write -P 0xa5 0 64k", "-c", "flush", "-c", "read -P 0xa5 0 64k"],
      uri,
    ]);
    sandbox.expect("qemu-io: one write and its read", io.code === 0, io.output);
    const file = join(sandbox.folder, "read");
    const read = ["client", "read", "smoke/one", file, "--length", "64KiB", ...at];
    if (!(await step(sandbox, [...read, "--encrypt"]))) return;
    const isWritten = readFileSync(file).every((byte) => byte === 0xa5);
    sandbox.expect("a read over encrypted connections", isWritten, "it is not what was written");
  } finally {
    await step(sandbox, ["dev", "down", "--dir", dir]);
  }
}

/** Every backend of a data path that a status names is io_uring, and it names some. */
export function isOnRing(statusJson: string): boolean {
  return ["osds", "clients"].every((kind) =>
    new RegExp(`"${kind}"\\s*:\\s*\\{\\s*"uring"\\s*:\\s*\\d+\\s*\\}`).test(statusJson),
  );
}

async function step(sandbox: Sandbox, args: readonly string[]): Promise<boolean> {
  const result = await sandbox.fastblock(args);
  const what = `fastblock ${args.join(" ")}: exit code ${result.code}`;
  return sandbox.expect(what, result.code === 0, result.output);
}
