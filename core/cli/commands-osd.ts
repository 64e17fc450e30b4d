import type { CommandUnknownOpts } from "@commander-js/extra-typings";
import { FastblockError } from "../base/errors.ts";
import { formatPgId, type PgId } from "../base/ids.ts";
import { shellWord } from "../base/shell.ts";
import { asRow } from "./commands-cluster.ts";
import { ageText, sizeText } from "./commands-pool.ts";
import { backendOf, type CliContext } from "./context.ts";
import { type Column, isRow, type Row } from "./output.ts";
import { counted, parseOsdName, parseSize, parseWhole } from "./units.ts";

const OSD_COLUMNS: readonly Column[] = [
  { name: "osd", path: "id", show: (value) => `osd.${String(value)}` },
  { name: "host" },
  { name: "up" },
  { name: "in" },
  { name: "size", path: "capacityBytes", show: sizeText, right: true },
  { name: "used", path: "usedBytes", show: sizeText, right: true },
  { name: "log", path: "logUsedBytes", show: sizeText, right: true },
  { name: "beneath", path: "beneath", show: beneathText },
  { name: "device", path: "device", show: deviceText, wide: true },
  { name: "log-size", path: "logCapacityBytes", show: sizeText, right: true, wide: true },
  { name: "replicas", right: true },
  { name: "witnesses", right: true },
  { name: "leaders", right: true },
  { name: "pgs", right: true, wide: true },
  { name: "backend" },
  { name: "addresses", path: "shards", show: addressesText, wide: true },
  { name: "age", path: "reportAgeMs", show: ageText, right: true, wide: true },
  { name: "version", wide: true },
  { name: "store", path: "storeUuid", wide: true },
  { name: "epoch", right: true, wide: true },
  { name: "weight", right: true, wide: true },
];

/** What `--data` of an osd is. */
export const STORE_PLACE =
  "regular file, block device, or directory (the store is the file `store` in it)";

/** What `osd inspect` shows of groups is `1.17` for people. */
const INSPECT_COLUMNS: readonly Column[] = ["groups", "units", "entries"].map((section) => ({
  name: "pg",
  path: `${section}[].pg`,
  show: (value) => formatPgId(Number(value) as PgId),
}));

/** `fastblock osd …` but `run`, which stands with the other roles. */
export function osdCommands(osd: CommandUnknownOpts, cli: CliContext): void {
  osd
    .command("ls")
    .alias("list")
    .description("list the osds")
    .action(() => cli.rows(() => cli.api().list("/osds"), OSD_COLUMNS, nameOf));
  osd
    .command("tree")
    .description("show the osds by host")
    .action(() =>
      cli.rows(async () => treeOf(await cli.api().list("/osds")), TREE_COLUMNS, nodeOf),
    );
  osd
    .command("info")
    .description("show one osd")
    .argument("<OSD>", "like 3 or osd.3")
    .action((name) =>
      cli.object(() => cli.api().object(`/osds/${parseOsdName(name)}`), nameOf, OSD_COLUMNS),
    );
  for (const direction of ["in", "out"] as const) {
    osd
      .command(direction)
      .description(
        direction === "in"
          ? "allow new replicas on an osd"
          : "stop new replicas on an osd; what it holds stays",
      )
      .argument("<OSD>", "like 3 or osd.3")
      .action(async (name) => {
        const id = parseOsdName(name);
        const reply = await cli.api().post(`/osds/${id}:${direction}`);
        await cli.changed(asRow(reply), `osd.${id}`, `osd.${id} is ${direction}`);
      });
  }
  deviceCommands(osd, cli);
}

/** Commands on the disk itself, while its osd is stopped. */
function deviceCommands(osd: CommandUnknownOpts, cli: CliContext): void {
  const programs = cli.ports.programs;
  osd
    .command("format")
    .description("make a store on a file or block device (its osd must not run)")
    .requiredOption("--data <path>", `${STORE_PLACE}; one that ends with / is made`)
    .requiredOption("--id <osd>", "the number of the osd", parseOsdName)
    .option("--size <size>", "make a regular file of this size", parseSize)
    .option(
      "--shards <count>",
      "reactors of the osd",
      (text) => parseWhole(text, "--shards", 1, 64),
      1,
    )
    .option(
      "--log-size <size>",
      "log of each shard (default: a sixteenth, at most 1GiB)",
      parseSize,
    )
    .option("--force", "write over whatever is there")
    .option("--backend <backend>", "auto, uring or file", "auto")
    .action(async (options) => {
      const report = await programs.osdFormat({
        cluster: cli.directory(),
        data: options.data,
        osd: options.id,
        shards: options.shards,
        sizeBytes: options.size ?? 0,
        logBytes: options.logSize ?? 0,
        force: options.force === true,
        backend: backendOf(options.backend),
      });
      await cli.changed(
        report,
        `osd.${options.id}`,
        `${options.data} is formatted for osd.${options.id}`,
      );
    });
  offlineLooks(osd, cli);
}

function offlineLooks(osd: CommandUnknownOpts, cli: CliContext): void {
  const programs = cli.ports.programs;
  osd
    .command("inspect")
    .description("show what a stopped osd's store says of itself")
    .argument(
      "[SECTION]",
      "only this part: superblock, zones, checkpoint, log, groups, objects; or places on the device: units, batches, entries",
    )
    .requiredOption("--data <path>", STORE_PLACE)
    .option("--backend <backend>", "auto, uring or file", "auto")
    .action((what, options) =>
      cli.object(
        () =>
          programs.osdInspect({
            data: options.data,
            what: what ?? "",
            backend: backendOf(options.backend),
          }),
        () => options.data,
        INSPECT_COLUMNS,
      ),
    );
  osd
    .command("fsck")
    .description("check every structure and every block of a stopped osd, read-only")
    .requiredOption("--data <path>", STORE_PLACE)
    .option("--backend <backend>", "auto, uring or file", "auto")
    .addHelpText(
      "after",
      "\nExits with 0 when the store is clean, with 1 when it is damaged or can not be read, with 3\nwhen there is none.",
    )
    .action(async (options) => {
      const report = await programs.osdFsck({
        data: options.data,
        backend: backendOf(options.backend),
      });
      await cli.object(
        () => Promise.resolve(report),
        () => options.data,
      );
      if (report.clean) return;
      const data = shellWord(options.data);
      throw new FastblockError(
        "FB4006",
        `checking ${options.data}: ${counted(report.findings.length, "finding")}, wanted none`,
        {
          hint: report.startable
            ? "start the osd: it refills from its peers what it distrusts"
            : `format it anew, then its replicas are made anew: fastblock osd format --data ${data} --id ${report.osd} --force`,
        },
      );
    });
}

const TREE_COLUMNS: readonly Column[] = [
  { name: "node" },
  { name: "up" },
  { name: "in" },
  { name: "size", path: "capacityBytes", show: sizeText, right: true },
  { name: "used", path: "usedBytes", show: sizeText, right: true },
  { name: "replicas", right: true },
  { name: "witnesses", right: true },
  { name: "leaders", right: true },
  { name: "pgs", right: true, wide: true },
];

/** Hosts with their osds below them, as rows. */
function treeOf(osds: readonly Row[]): Row[] {
  const hosts = new Map<string, Row[]>();
  for (const osd of osds) {
    const host = String(osd["host"]);
    const below = hosts.get(host);
    if (below === undefined) hosts.set(host, [osd]);
    else below.push(osd);
  }
  const rows: Row[] = [];
  for (const [host, below] of [...hosts].toSorted(([a], [b]) => a.localeCompare(b))) {
    rows.push({
      node: host,
      host,
      up: `${below.filter((osd) => osd["up"] === true).length}/${below.length}`,
      in: `${below.filter((osd) => osd["in"] === true).length}/${below.length}`,
      capacityBytes: sumOf(below, "capacityBytes"),
      usedBytes: sumOf(below, "usedBytes"),
      replicas: sumOf(below, "replicas"),
      witnesses: sumOf(below, "witnesses"),
      leaders: sumOf(below, "leaders"),
      pgs: sumOf(below, "pgs"),
    });
    for (const osd of below) rows.push({ ...osd, node: `  osd.${String(osd["id"])}` });
  }
  return rows;
}

function sumOf(rows: readonly Row[], key: string): number {
  return rows.reduce((sum, row) => sum + Number(row[key] ?? 0), 0);
}

function nodeOf(row: Row): string {
  return String(row["node"]).trim();
}

function nameOf(row: Row): string {
  return `osd.${String(row["id"])}`;
}

function addressesText(value: unknown): string {
  if (!Array.isArray(value)) return "-";
  return value.map((one: Row) => `${String(one["host"])}:${String(one["port"])}`).join(",");
}

/** What is wrong with the device; `-`: nothing, or not heard of. */
function deviceText(value: unknown): string {
  if (!isRow(value)) return "-";
  const errors = sumOf([value], "readErrors");
  const facts: string[] = [];
  if (value["slow"] === true) facts.push(`slow (${String(value["latencyMs"])} ms)`);
  if (errors > 0) facts.push(counted(errors, "read error"));
  return facts.length === 0 ? "-" : facts.join(", ");
}

/** What the file system beneath has left; `-`: all that the store may take. */
function beneathText(value: unknown): string {
  if (!isRow(value)) return "-";
  const free = `${sizeText(value["freeBytes"])} left`;
  return value["state"] === "short" ? `${free}, no writes` : free;
}
