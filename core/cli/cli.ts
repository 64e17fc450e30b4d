import {
  Command,
  CommanderError,
  type CommandUnknownOpts,
  Option,
} from "@commander-js/extra-typings";
import { FastblockError } from "../base/errors.ts";
import { lookCommands, opCommands, pgCommands } from "./commands-cluster.ts";
import { recoveryCommands } from "./commands-recovery.ts";
import { imageCommands } from "./commands-image.ts";
import { osdCommands } from "./commands-osd.ts";
import { poolCommands } from "./commands-pool.ts";
import { clientCommands, roleCommands } from "./commands-roles.ts";
import { selfCommands } from "./commands-self.ts";
import { traceCommands } from "./commands-trace.ts";
import { CliContext } from "./context.ts";
import { Exit, exitOf, formatProblem, problemOf } from "./failure.ts";
import { FORMATS } from "./output.ts";
import type { CliPorts } from "./ports.ts";
import { parseUrl } from "./units.ts";

/**
 * The face of `core/cli`: `fastblock NOUN VERB …`.
 *
 * Data goes to standard output in the format that `-o` names, words for people to standard error.
 * Everything that the command line needs from outside comes in as `CliPorts`; programs that need
 * disks, sockets or processes are loaded by `cmd/` when they are called.
 */
export type {
  BackendChoice,
  CliPorts,
  AttachOptions,
  ByteSink,
  FsckReport,
  HttpReply,
  HttpRequest,
  MonRunOptions,
  NbdServeOptions,
  OsdFormatOptions,
  OsdFsckOptions,
  OsdInspectOptions,
  OsdRunOptions,
  Programs,
} from "./ports.ts";
export { backendOf } from "./context.ts";
export { Exit } from "./failure.ts";
export {
  counted,
  durationMsOf,
  formatCount,
  formatDurationUs,
  formatSize,
  parseDurationMs,
  parseImagePath,
  parseDirectory,
  parseOsdName,
  parseSize,
  parseUrl,
  parseWhole,
  sizeOf,
} from "./units.ts";
export { CliContext, SCRIPT_HELP } from "./context.ts";
export type { Column, Row } from "./output.ts";

/** Adds nouns to the tree: those that belong to other folders come in from `cmd/`. */
export interface MoreCommands {
  /** Before the others in the help. */
  first(root: CommandUnknownOpts, cli: CliContext): void;
  last(root: CommandUnknownOpts, cli: CliContext): void;
}

const NO_MORE: MoreCommands = { first() {}, last() {} };

/**
 * Run one command. `words`: after the executable's name. Answers the exit code, or "serving" when
 * a role runs in this process from here on. `more`: commands of other folders.
 */
export function runCli(
  words: readonly string[],
  ports: CliPorts,
  more: MoreCommands = NO_MORE,
): Promise<number | "serving"> {
  return new CommandLine(ports, more).run(words);
}

/** A command tree that runs one command after the other; what one was told, the next does not know. */
export class CommandLine {
  private readonly ports: CliPorts;
  private readonly root: CommandUnknownOpts = new Command("fastblock");
  private readonly cli: CliContext;
  private readonly complaint: Complaint = { text: "", command: this.root };

  constructor(ports: CliPorts, more: MoreCommands = NO_MORE) {
    this.ports = ports;
    this.cli = new CliContext(ports, this.root);
    buildTree(this.root, this.cli, more);
    prepare(this.root, ports, this.complaint);
  }

  /** As `runCli`; the command before has ended. */
  async run(words: readonly string[]): Promise<number | "serving"> {
    const { ports, root, cli, complaint } = this;
    cli.exitCode = 0;
    cli.serving = false;
    complaint.text = "";
    complaint.command = root;
    try {
      await root.parseAsync([...words], { from: "user" });
      return cli.serving ? "serving" : cli.exitCode;
    } catch (error) {
      if (error instanceof CommanderError) return endOfCommander(error, complaint, ports, words);
      complain(error, ports, words);
      return exitOf(error);
    }
  }
}

/**
 * Load the code that commands load when they are called. Who runs them without turns of the event
 * loop does this before: what is there comes in the same turn.
 */
export async function loadCommands(): Promise<void> {
  await Promise.all([
    import("./copy.ts"),
    import("./progress.ts"),
    import("./table.ts"),
    import("./trace-svg.ts"),
    import("./verify.ts"),
  ]);
}

/** The command tree, for `runCli` and for tests that walk it. */
export function buildTree(root: CommandUnknownOpts, cli: CliContext, more: MoreCommands): void {
  root
    .description("A distributed block store. Sizes are like 10GiB, times like 30s.")
    .version(cli.ports.versions["fastblock"] ?? "", "-V, --version", "show the version")
    .addOption(
      new Option("-o, --output <format>", "output format").choices(FORMATS).default("table"),
    )
    .addOption(new Option("--cluster <dir>", "cluster directory").env("CLUSTER_DIR"))
    .addOption(
      new Option("--api <url>", "the mon's address, instead of the directory's").argParser(
        parseUrl,
      ),
    )
    .option("--columns <names>", "columns to show, split by commas")
    .option("--sort <column>", "sort by a column; -column: downwards")
    .option("--filter <k=v>", "show only rows with this value; repeatable", collect)
    .option("--watch [time]", "show again and again (default every 2s)")
    .option("--dry-run", "check a change, and do not do it")
    .option("--yes", "do not ask")
    .option("--no-wait", "return at once from what takes long, and let it go on")
    .option("--timeout <time>", "the longest to wait for an answer", "30s")
    .option("-q, --quiet", "no words, only data")
    .option("-v, --verbose", "more words")
    .option("--no-color", "no colours")
    .commandsGroup("Self:")
    .helpCommand(false)
    .addHelpText("after", EXIT_TEXT);
  more.first(root, cli);
  lookCommands(root, cli);
  const osd = root.command("osd").description("Object storage daemons: one per device");
  osd.helpGroup("Cluster:");
  poolCommands(root, cli);
  osdCommands(osd, cli);
  roleCommands(root, osd, cli);
  pgCommands(root, cli);
  recoveryCommands(root, cli);
  imageCommands(root, cli);
  clientCommands(root, cli);
  more.last(root, cli);
  traceCommands(root, cli);
  opCommands(root, cli);
  selfCommands(root, cli);
}

const GLOBAL_TEXT = "\nOptions of every command, and exit codes: fastblock --help";

const EXIT_TEXT = `
Exit codes: 0 ok, 1 failed, 2 usage, 3 not found (a file to read, too), 4 exists,
5 unreachable or no quorum, 6 denied, 7 timed out, 8 refused by a safety check, 9 partly done,
130 interrupted.

Examples:
  fastblock dev up
  fastblock pool create demo --size 3
  fastblock image create demo/disk1 --size 1GiB`;

/** What commander said of a command line that it can not read, and the command that it is about. */
interface Complaint {
  text: string;
  command: CommandUnknownOpts;
}

/** Every command throws instead of exiting, and writes where the ports say. */
function prepare(command: CommandUnknownOpts, ports: CliPorts, complaint: Complaint): void {
  command
    .exitOverride()
    .showSuggestionAfterError(true)
    .configureHelp({ showGlobalOptions: false })
    .configureOutput({
      writeOut: (text) => ports.out(text),
      writeErr: (text) => ports.err(text),
      outputError: (text) => {
        complaint.text += text;
        complaint.command = command;
      },
      getOutHasColors: () => false,
      getErrHasColors: () => false,
    });
  for (const option of command.options) {
    const parse = option.parseArg;
    if (parse !== undefined)
      option.parseArg = (text, previous) => underName(option, () => parse(text, previous));
  }
  for (const child of command.commands) {
    child.addHelpText("after", GLOBAL_TEXT);
    prepare(child, ports, complaint);
  }
}

/** A value that can not be read is told with the option that it was given to. */
function underName<T>(option: Option, parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    if (!(error instanceof FastblockError) || error.code !== "FB1001") throw error;
    const message = error.message.replace(/^reading [^:]*:/, `reading ${option.long ?? "it"}:`);
    const { hint } = error;
    throw new FastblockError("FB1001", message, hint === undefined ? {} : { hint });
  }
}

function endOfCommander(
  error: CommanderError,
  complaint: Complaint,
  ports: CliPorts,
  words: readonly string[],
): number {
  if (error.exitCode === 0) return Exit.Ok;
  // A noun without a verb: its help was shown.
  if (error.code === "commander.help") return Exit.Usage;
  const lines = (complaint.text || error.message).trim().split("\n");
  const what = (lines[0] ?? "").replace(/^error: /, "");
  const isVerb = error.code === "commander.unknownCommand";
  const suggestion = lines
    .slice(1)
    .join(" ")
    .trim()
    .replace(/^\(|\)$/g, "");
  const hint = isVerb ? verbHint(complaint.command, suggestion) : suggestion;
  complain(
    new FastblockError("FB1001", `reading the command line: ${what}`, {
      hint: hint === "" ? "add --help to see what is understood" : hint,
    }),
    ports,
    words,
  );
  return Exit.Usage;
}

/** What may have been meant by a word that is no command of `noun`: what begins like it. */
function verbHint(noun: CommandUnknownOpts, suggestion: string): string {
  const guesses = /^Did you mean (?:one of )?(.*)\?$/.exec(suggestion)?.[1]?.split(", ") ?? [];
  const near = guesses.filter((guess) => guess[0] === noun.args[0]?.[0]);
  const guess = near.length === 0 ? "" : `Did you mean ${near.join(" or ")}?`;
  if (noun.parent === null) return guess;
  const verbs = noun.createHelp().visibleCommands(noun);
  const names = verbs.map((verb) => verb.name()).filter((name) => name !== "help");
  return `${guess} ${noun.name()} knows ${names.join(", ")}`.trim();
}

function complain(error: unknown, ports: CliPorts, words: readonly string[]): void {
  const problem = problemOf(error);
  const format = formatOf(words);
  if (format === "json" || format === "jsonl") {
    ports.err(`${JSON.stringify({ error: problem })}\n`);
    return;
  }
  if (format === "yaml") {
    const known = Object.entries(problem).filter(([, value]) => value !== undefined);
    ports.err(`${ports.yaml({ error: Object.fromEntries(known) }).trimEnd()}\n`);
    return;
  }
  ports.err(formatProblem(problem, (text) => ports.style("red", text)));
  if (problem.code === "FB0000" && error instanceof Error && words.includes("--verbose")) {
    ports.err(`${error.stack ?? ""}\n`);
  }
}

/** Read from the words themselves: the error may be about how they were read. */
function formatOf(words: readonly string[]): string | undefined {
  let format: string | undefined;
  for (const [at, word] of words.entries()) {
    const joined = /^(?:-o|--output=)(.+)$/.exec(word);
    if (/^(-o|--output)$/.test(word)) format = words[at + 1];
    else if (joined !== null) format = joined[1];
  }
  return format;
}

function collect(value: string, before: string[] | undefined): string[] {
  return [...(before ?? []), value];
}
