import { accessSync, closeSync, constants, createReadStream, openSync, writeSync } from "node:fs";
import { homedir } from "node:os";
import { isAbsolute, join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { styleText } from "node:util";
import type { CommandUnknownOpts } from "@commander-js/extra-typings";
import { FastblockError } from "../core/base/errors.ts";
import { shellWord } from "../core/base/shell.ts";
import {
  backendOf,
  type ByteSink,
  type CliContext,
  type CliPorts,
  Exit,
  type HttpReply,
  type HttpRequest,
  type Programs,
  runCli,
} from "../core/cli/cli.ts";
import { readClusterText } from "../core/dev/bun-cluster-text.ts";
import { temporaryHome } from "../core/dev/bun-places.ts";
import { CLUSTER_FILE, parseClusterFile } from "../core/dev/dev.ts";
import { benchCommands } from "./bench.ts";
import { devCommands } from "./dev.ts";
import { unreadable } from "./input-file.ts";
import { fuzzCommand } from "./fuzz.ts";
import { memoryError } from "./memory.ts";
import { simCommand } from "./sim.ts";

/** The one executable: reads the subcommand and hands over. Heavy parts are loaded when used. */

declare const FASTBLOCK_VERSION: string | undefined;
declare const FASTBLOCK_BUILD: string | undefined;

const VERSION = typeof FASTBLOCK_VERSION === "string" ? FASTBLOCK_VERSION : "0.1.0";
const BUILD = typeof FASTBLOCK_BUILD === "string" ? FASTBLOCK_BUILD : "source";
/** How long to wait when the reader of a pipe is slow. */
const PIPE_PAUSE_MS = 1;
const READ_BYTES = 1_048_576;

const isCompiled = Bun.main.startsWith("/$bunfs/");
/** The words that start this same program. */
const program = isCompiled ? [process.execPath] : [process.execPath, resolve(Bun.main)];

/** Write all of it before going on; a reader that went away (`| head`) ends us quietly. */
function writeAll(file: number, data: Uint8Array): void {
  for (let at = 0; at < data.length; ) {
    try {
      at += writeSync(file, data, at);
    } catch (error) {
      const code = error instanceof Error && "code" in error ? error.code : "";
      if (code === "EPIPE") process.exit(0);
      if (code !== "EAGAIN") throw error;
      Bun.sleepSync(PIPE_PAUSE_MS);
    }
  }
}

function writeText(file: number, text: string): void {
  writeAll(file, new TextEncoder().encode(text));
}

/** The cluster's directory when neither `--cluster` nor CLUSTER_DIR says otherwise. */
function directoryDefault(): string {
  const { XDG_STATE_HOME, HOME } = process.env;
  if (XDG_STATE_HOME && isAbsolute(XDG_STATE_HOME)) return join(XDG_STATE_HOME, "fastblock", "dev");
  const home = HOME || homedir();
  if (isWritableFolder(home)) return join(home, ".local", "state", "fastblock", "dev");
  return join(temporaryHome(), "dev");
}

/** Users without a home of their own have `/` or a folder that does not exist. */
function isWritableFolder(path: string): boolean {
  if (path === "" || path === "/") return false;
  try {
    accessSync(path, constants.W_OK | constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

async function http(request: HttpRequest): Promise<HttpReply> {
  try {
    const reply = await fetch(request.url, {
      method: request.method,
      headers: request.headers,
      signal: AbortSignal.timeout(request.timeoutMs),
      ...(request.body === undefined ? {} : { body: request.body }),
    });
    return { status: reply.status, body: await reply.text() };
  } catch (error) {
    if (!(error instanceof Error) || error.name !== "TimeoutError") throw plainError(error);
    const message = `asking ${request.url}: no answer in ${request.timeoutMs} ms`;
    const hint = "give it more time: --timeout 30s; or look at the mon: fastblock dev status";
    throw new FastblockError("FB1006", message, request.method === "GET" ? { hint } : {});
  }
}

/** The runtime's own words ask whether this computer can reach the URL. */
function plainError(error: unknown): Error {
  const text = error instanceof Error ? error.message : String(error);
  const code = error instanceof Error && "code" in error ? String(error.code) : "";
  return /refused/i.test(`${code} ${text}`) ? new Error("connection refused") : new Error(text);
}

/** Ctrl-D is the empty answer, Ctrl-C ends the command as it does anywhere. */
function ask(question: string): Promise<string> {
  return new Promise((answered) => {
    const terminal = createInterface({ input: process.stdin, output: process.stderr });
    terminal.on("SIGINT", () => {
      process.stderr.write("\n");
      process.exit(Exit.Interrupted);
    });
    terminal.on("close", () => answered(""));
    terminal.question(question, (answer) => {
      answered(answer);
      terminal.close();
    });
  });
}

async function* readBytes(path: string): AsyncGenerator<Uint8Array> {
  const stream =
    path === "-" ? process.stdin : createReadStream(path, { highWaterMark: READ_BYTES });
  try {
    for await (const bytes of stream) yield bytes as Uint8Array;
  } catch (error) {
    throw unreadable(path, error);
  }
}

/** Opened before anything is read for it. */
function writeBytes(path: string): Promise<ByteSink> {
  let file = 1;
  try {
    if (path !== "-") file = openSync(path, "w");
  } catch (error) {
    throw unwritable(path, error);
  }
  return Promise.resolve({
    write(bytes) {
      try {
        writeAll(file, bytes);
        return Promise.resolve();
      } catch (error) {
        return Promise.reject(unwritable(path, error));
      }
    },
    close() {
      if (path !== "-") closeSync(file);
      return Promise.resolve();
    },
  });
}

function unwritable(path: string, error: unknown): FastblockError {
  const why = error instanceof Error ? error.message : String(error);
  const isFull = error instanceof Error && "code" in error && error.code === "ENOSPC";
  return new FastblockError(isFull ? "FB4010" : "FB1008", `writing ${path}: ${why}`);
}

/** Code that calls the system, when it is used. Without memory for compiled code there are no such calls. */
async function loaded<T>(part: Promise<T>): Promise<T> {
  try {
    return await part;
  } catch (error) {
    throw memoryError(error);
  }
}

const programs: Programs = {
  monRun: async (options) => (await loaded(import("./mon.ts"))).monRun(options),
  osdRun: async (options) => (await loaded(import("./osd.ts"))).osdRun(options),
  nbdServe: async (options) => (await loaded(import("./client.ts"))).nbdServe(options),
  osdFormat: async (options) => (await loaded(import("./store-tools.ts"))).osdFormat(options),
  osdInspect: async (options) => (await loaded(import("./store-tools.ts"))).osdInspect(options),
  osdFsck: async (options) => (await loaded(import("./store-tools.ts"))).osdFsck(options),
  withImages: async (options, body) =>
    (await loaded(import("./attach.ts"))).withImages(options, body),
  readBytes,
  writeBytes,
};

const colours = process.stderr.isTTY === true && !process.argv.includes("--no-color");

const ports: CliPorts = {
  out(text) {
    try {
      writeText(1, text);
    } catch (error) {
      throw unwritable("standard output", error);
    }
  },
  err: (text) => writeText(2, text),
  outIsTty: process.stdout.isTTY === true,
  errIsTty: process.stderr.isTTY === true,
  environment: process.env,
  directoryDefault: directoryDefault(),
  versions: {
    fastblock: VERSION,
    build: BUILD,
    bun: Bun.version,
    platform: `${process.platform} ${process.arch}`,
  },
  readMons: (directory) => readMons(directory),
  http,
  yaml: (value) => quotedTimes(Bun.YAML.stringify(value, undefined, 2)),
  style: (kind, text) => (colours && !process.env["NO_COLOR"] ? styleText(kind, text) : text),
  ask,
  sleep: (ms) => Bun.sleep(ms),
  nowMs: () => performance.now(),
  programs,
};

/** Readers of YAML 1.1 make a date of a time that is not quoted. No text of several lines is bare. */
function quotedTimes(text: string): string {
  return text.replace(/^( *(?:- )*(?:[^\s:"]+: )?)(\d{4}-\d\d-\d\d(?:T\S+)?)$/gm, '$1"$2"');
}

function readMons(directory: string): { host: string; port: number }[] {
  const text = readClusterText(directory, CLUSTER_FILE);
  return parseClusterFile(text, join(directory, CLUSTER_FILE)).mons.map(({ http: at }) => at);
}

/** How a person would call this program again, wherever he is. */
function shownProgram(): string {
  if (!isCompiled) return "fastblock";
  if (Bun.which("fastblock") === process.execPath) return "fastblock";
  return shellWord(process.execPath);
}

function devNouns(root: CommandUnknownOpts, cli: CliContext): void {
  devCommands(root, cli, async () => {
    const { BunDev } = await loaded(import("../core/dev/bun-dev.ts"));
    return new BunDev({
      program,
      programShown: shownProgram(),
      directoryDefault: ports.directoryDefault,
      out: (text) => ports.out(text),
      err: (text) => ports.err(text),
    });
  });
}

function benchNouns(root: CommandUnknownOpts, cli: CliContext): void {
  benchCommands(root, cli, async () => {
    const { benchPrograms } = await import("./bench-run.ts");
    return benchPrograms(cli, program);
  });
  simNoun(root, cli);
  root
    .command("__bench-serve", { hidden: true })
    .argument("<KIND>")
    .option("--backend <backend>", "", "auto")
    .option("--disk <path>", "", "")
    .option("--followers <ports>", "", "")
    .option("--batches <count>", "", Number, 1)
    .action(async (kind, { backend, disk, followers, batches }) => {
      const { benchServe } = await import("./bench-micro.ts");
      cli.exitCode = await benchServe(kind, backendOf(backend), {
        disk,
        followers,
        batches,
      });
    });
}

/** Loaded when used: the simulator brings every role with it. */
function simNoun(root: CommandUnknownOpts, cli: CliContext): void {
  simCommand(root, cli, async (choice) => {
    const { simulate } = await import("./sim-run.ts");
    return simulate(cli, choice, program);
  });
  fuzzCommand(root, cli, async (choice) => {
    const { fuzz } = await import("./fuzz-run.ts");
    return fuzz(cli, choice);
  });
}

const outcome = await runCli(process.argv.slice(2), ports, {
  first: devNouns,
  last: benchNouns,
});
if (outcome !== "serving") process.exit(outcome);
