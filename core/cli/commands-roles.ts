import {
  type Command,
  type CommandUnknownOpts,
  Option,
  type OptionValues,
} from "@commander-js/extra-typings";
import { FastblockError } from "../base/errors.ts";
import type { Image } from "../client/client.ts";
import { STORE_PLACE } from "./commands-osd.ts";
import { backendOf, type CliContext } from "./context.ts";
import { type Column, isRow, plainText, type Row } from "./output.ts";
import type { CopyProgress, CopyRange } from "./copy.ts";
import type { LogLevel, Outcome, RoleFlags } from "./ports.ts";
import {
  formatDurationUs,
  formatSize,
  parseImagePath,
  parseOsdName,
  parseSize,
  sizeOf,
  parseWhole,
} from "./units.ts";

/** A command that has neither arguments nor options yet: what is added to it is inferred. */
type FreshCommand = Command<[], {}, OptionValues>;

const LOG_LEVELS: readonly LogLevel[] = ["debug", "info", "warn", "error"];

const MON_COLUMNS: readonly Column[] = [
  { name: "mon", path: "name" },
  { name: "state" },
  { name: "leader" },
  { name: "control", show: placeText },
  { name: "http", show: placeText },
  { name: "uptime", path: "uptimeMs", show: uptimeText, right: true },
  { name: "version" },
  { name: "backend" },
  { name: "started", wide: true },
  { name: "id", right: true, wide: true },
];

function placeText(value: unknown): string {
  return isRow(value) ? `${plainText(value["host"])}:${plainText(value["port"])}` : "-";
}

function uptimeText(value: unknown): string {
  return typeof value === "number" ? formatDurationUs(value * 1000) : "-";
}

/** `mon run|ls|status`, `osd run`. */
export function roleCommands(
  root: CommandUnknownOpts,
  osd: CommandUnknownOpts,
  cli: CliContext,
): void {
  const programs = cli.ports.programs;
  const mon = root
    .command("mon")
    .description("The mon: catalogue, maps, REST")
    .helpGroup("Cluster:");
  roleFlags(mon.command("run").description("run a mon in the foreground"), "mon.a", MON_PLACE)
    .option("--control-port <port>", "for osds and clients; 0: any", port("--control-port"), 0)
    .option("--http-port <port>", "for REST and pages; 0: any", port("--http-port"), 0)
    .option("--restored", "the catalogue comes from a backup: raise the generation, jump all ids")
    .option("--no-scrub", "scrub placement groups only when asked to")
    .action(async (options) => {
      const flags = keeping(flagsOf(options, cli), "the directory of its catalogue");
      await serve(
        cli,
        programs.monRun({
          ...flags,
          controlPort: options.controlPort,
          httpPort: options.httpPort,
          restored: options.restored === true,
          scrub: options.scrub,
        }),
      );
    });
  mon
    .command("ls")
    .alias("list")
    .description("list the mons")
    .action(() =>
      cli.rows(
        () => cli.api().list("/monitors"),
        MON_COLUMNS,
        (row) => String(row["name"]),
      ),
    );
  mon
    .command("status")
    .description("show the mons")
    .action(() =>
      cli.object(
        async () => {
          const status = await cli.api().object("/status");
          return { mons: status["mons"], map: status["map"], version: status["version"] };
        },
        (one) => plainText((one["mons"] as Row)["leader"]),
      ),
    );
  osdRun(osd, cli);
}

function osdRun(osd: CommandUnknownOpts, cli: CliContext): void {
  roleFlags(osd.command("run").description("run an osd in the foreground"), "osd.0", STORE_PLACE)
    .option("--id <osd>", "the number of the osd (default: that of --name)", parseOsdName)
    .option("--shards <count>", "reactors", (text) => parseWhole(text, "--shards", 1, 64), 1)
    .option("--data-ports <ports>", "one per shard, split by commas; 0: any", parsePortList)
    .option("--scrub-rate <size>", "how fast each shard reads for scrubs, a second", parseRate)
    .option(
      "--index-memory <size>",
      "memory for versions and checksums of blocks, all shards together (default: for all of them)",
      parseIndexMemory,
    )
    .action(async (options) => {
      const flags = keeping(flagsOf(options, cli), "the place of its store");
      await serve(
        cli,
        cli.ports.programs.osdRun({
          ...flags,
          osd: options.id ?? parseOsdName(flags.name),
          shards: options.shards,
          dataPorts: options.dataPorts ?? [],
          scrubBytesPerSecond: options.scrubRate,
          indexBytes: options.indexMemory ?? 0,
        }),
      );
    });
}

function parseRate(text: string): number {
  const rate = sizeOf(text, "--scrub-rate");
  if (rate > 0) return rate;
  throw new FastblockError("FB1001", `--scrub-rate: ${text}, wanted more than 0`, {
    hint: "to scrub only when asked to: fastblock mon run --no-scrub",
  });
}

/** About what one sweep of blocks on their way home holds by itself. */
const INDEX_MEMORY_MIN = 1_048_576;

function parseIndexMemory(text: string): number {
  const size = sizeOf(text, "--index-memory");
  if (size >= INDEX_MEMORY_MIN) return size;
  throw new FastblockError("FB1001", `--index-memory: ${text}, wanted 1MiB or more`, {
    hint: "about 3 MiB a GiB of data hold all of it; leave the option out for that",
  });
}

/** `client nbd serve`, `client read|write|cp`. */
export function clientCommands(root: CommandUnknownOpts, cli: CliContext): void {
  const programs = cli.ports.programs;
  const client = root
    .command("client")
    .description("Attach images, and move their data")
    .helpGroup("Attach:");
  const nbd = client.command("nbd").description("Images as NBD exports named POOL/IMAGE");
  roleFlags(
    nbd.command("serve").description("run an NBD gateway in the foreground"),
    "nbd.0",
    NBD_PLACE,
  )
    .option("--port <port>", "TCP port; 0: any", port("--port"), 10_809)
    .option("--socket <path>", "serve on this unix socket too")
    .option("--exclusive", "take each image's lock: other clients are fenced")
    .option("--read-only", "refuse writes")
    .argument("[POOL/IMAGE...]", "export only these")
    .action(async (exports, options) => {
      for (const path of exports) parseImagePath(path);
      await serve(
        cli,
        programs.nbdServe({
          ...flagsOf(options, cli),
          port: options.port,
          socket: options.socket ?? "",
          exclusive: options.exclusive === true,
          readOnly: options.readOnly === true,
          exports,
        }),
      );
    });
  copyFlags(client.command("read"))
    .description("copy an image, or a range of it, to a file or standard output")
    .argument("<POOL/IMAGE>")
    .argument("[FILE]", "", "-")
    .action(async (path, file, options) => {
      const { readImage } = await import("./copy.ts");
      await copy(cli, "read", [path], true, options, async (images, range, at) =>
        readImage(images[0]!, await programs.writeBytes(file), range, at),
      );
    });
  copyFlags(client.command("write"))
    .description("copy a file or standard input to an image")
    .argument("<POOL/IMAGE>")
    .argument("[FILE]", "", "-")
    .action(async (path, file, options) => {
      const { writeImage } = await import("./copy.ts");
      await copy(cli, "write", [path], false, options, (images, range, at) =>
        writeImage(images[0]!, programs.readBytes(file), range, at),
      );
    });
  copyFlags(client.command("cp"))
    .description("copy one image onto another")
    .argument("<FROM>", "POOL/IMAGE")
    .argument("<TO>", "POOL/IMAGE, at least as large")
    .action(async (from, to, options) => {
      const { copyImage } = await import("./copy.ts");
      await copy(cli, "copy", [from, to], false, options, (images, range, at) =>
        copyImage(images[0]!, images[1]!, range, at),
      );
    });
}

interface CopyFlags {
  readonly encrypt?: true | undefined;
  readonly offset?: number | undefined;
  readonly length?: number | undefined;
  readonly backend: string;
}

/** Open the images, copy, and say how much and how fast. */
async function copy(
  cli: CliContext,
  label: string,
  paths: readonly string[],
  readOnly: boolean,
  options: CopyFlags,
  body: (images: readonly Image[], range: CopyRange, at: CopyProgress) => Promise<number>,
): Promise<void> {
  for (const path of paths) parseImagePath(path);
  const range = { offsetBytes: options.offset ?? 0, lengthBytes: options.length };
  const attach = {
    cluster: cli.directory(),
    paths,
    readOnly,
    backend: backendOf(options.backend),
    timeoutMs: cli.globals.timeoutMs,
    encrypt: options.encrypt === true,
  };
  const bar = await cli.bar(label);
  const startMs = cli.ports.nowMs();
  const bytes = await cli.ports.programs
    .withImages(attach, (images) => {
      const total = range.lengthBytes ?? images[0]!.sizeBytes - range.offsetBytes;
      return body(images, range, (done) => bar.at(done, total, formatSize(done)));
    })
    .finally(() => bar.end());
  const seconds = Math.max(0.001, (cli.ports.nowMs() - startMs) / 1000);
  cli.say(`${formatSize(bytes)} in ${seconds.toFixed(1)} s, ${formatSize(bytes / seconds)}/s`);
}

function copyFlags(command: FreshCommand) {
  return command
    .option("--offset <bytes>", "where in the image to begin", parseSize)
    .option("--length <bytes>", "how much (default: all)", parseSize)
    .option("--encrypt", ENCRYPT)
    .option("--backend <backend>", "auto, uring or file", "auto");
}

const MON_PLACE = "directory of the catalogue, made when it is missing";
const ENCRYPT = "encrypt every connection, or have none (default: those whose other end wants it)";
const NBD_PLACE = "directory of the last map, NAME.map (default: the cluster directory)";

/** `place`: what --data is to the role. */
function roleFlags(command: FreshCommand, name: string, place: string) {
  return command
    .option("--name <name>", "of this process, in the cluster directory", name)
    .option("--bind <address>", "listen here, and connect from here", "127.0.0.1")
    .option("--data <path>", place)
    .addOption(
      new Option("--log-level <level>", "least to log").choices(LOG_LEVELS).default("info"),
    )
    .option("--log <file>", "where to log, `-`: standard error (default: NAME.log)")
    .option("--encrypt", ENCRYPT)
    .option("--backend <backend>", "auto, uring or file", "auto");
}

interface RawFlags {
  readonly name: string;
  readonly bind: string;
  readonly data?: string | undefined;
  readonly logLevel: string;
  readonly log?: string | undefined;
  readonly encrypt?: true | undefined;
  readonly backend: string;
}

function flagsOf(options: RawFlags, cli: CliContext): RoleFlags {
  return {
    cluster: cli.directory(),
    name: options.name,
    bind: options.bind,
    data: options.data ?? "",
    logLevel: LOG_LEVELS.find((level) => level === options.logLevel) ?? "info",
    log: options.log,
    backend: backendOf(options.backend),
    encrypt: options.encrypt === true,
  };
}

/** The role keeps data: it must be told where. Throws FB1001. */
function keeping(flags: RoleFlags, what: string): RoleFlags {
  if (flags.data !== "") return flags;
  throw new FastblockError("FB1001", `starting ${flags.name}: no --data, wanted ${what}`);
}

async function serve(cli: CliContext, running: Promise<Outcome>): Promise<void> {
  const outcome = await running;
  if (outcome === "serving") cli.serving = true;
  else cli.exitCode = outcome;
}

function port(flag: string): (text: string) => number {
  return (text) => parseWhole(text, flag, 0, 65_535);
}

function parsePortList(text: string): number[] {
  return text.split(",").map((one) => parseWhole(one, "--data-ports", 0, 65_535));
}
