import { type CommandUnknownOpts, Option } from "@commander-js/extra-typings";
import { segment, recordOf } from "./api.ts";
import { type CliContext, SCRIPT_HELP } from "./context.ts";
import type { Column, Row } from "./output.ts";
import { counted, formatSize, parseSize, parseWhole } from "./units.ts";

const DOMAINS = ["osd", "host"] as const;

const POOL_COLUMNS: readonly Column[] = [
  { name: "name" },
  { name: "size", right: true },
  { name: "pgs", path: "pgCount", right: true },
  { name: "failure-domain", path: "failureDomain" },
  { name: "images", right: true },
  { name: "provisioned", path: "provisionedBytes", show: sizeText, right: true },
  { name: "used", path: "usedBytes", show: sizeText, right: true },
  { name: "object", path: "objectBytes", show: sizeText, right: true, wide: true },
  { name: "id", right: true, wide: true },
];

/** `fastblock pool …` */
export function poolCommands(root: CommandUnknownOpts, cli: CliContext): void {
  const pool = root
    .command("pool")
    .description("Pools: how images are replicated")
    .helpGroup("Cluster:");
  pool
    .command("create")
    .description("create a pool")
    .argument("<NAME>", "1 to 63 of a-z A-Z 0-9 . _ -")
    .requiredOption("--size <replicas>", "replicas of every block, 1 to 6", (text) =>
      parseWhole(text, "--size", 1, 6),
    )
    .option("--pgs <count>", "placement groups, a power of two (default 32)", (text) =>
      parseWhole(text, "--pgs", 1, 65_536),
    )
    .option(
      "--object-size <size>",
      "slice of an image that one group holds (default 4MiB)",
      parseSize,
    )
    .addOption(
      new Option("--failure-domain <domain>", "what two replicas never share").choices(DOMAINS),
    )
    .addHelpText("after", "\nExample:\n  fastblock pool create fast --size 3")
    .action(async (name, options) => {
      const body = {
        name,
        size: options.size,
        pgCount: options.pgs,
        objectBytes: options.objectSize,
        failureDomain: options.failureDomain,
      };
      const reply = recordOf(await cli.api().post("/pools", body), "pool");
      for (const note of notesOf(reply)) cli.say(`note: ${note}`);
      await cli.changed(
        reply,
        name,
        `pool ${name} is created, ${counted(options.size, "replica")}`,
      );
    });
  pool
    .command("ls")
    .alias("list")
    .description("list the pools")
    .action(() => cli.rows(() => cli.api().list("/pools"), POOL_COLUMNS, nameOf));
  pool
    .command("info")
    .description("show one pool")
    .argument("<POOL>")
    .action((name) =>
      cli.object(() => cli.api().object(`/pools/${segment(name)}`), nameOf, POOL_COLUMNS),
    );
  pool
    .command("explain")
    .description("show where a pool's groups were placed, and why")
    .argument("<POOL>")
    .action((name) =>
      cli.object(
        () => cli.api().object(`/pools/${segment(name)}:explain`),
        () => name,
      ),
    );
  removal(pool, cli);
}

function removal(pool: CommandUnknownOpts, cli: CliContext): void {
  pool
    .command("rm")
    .description("remove an empty pool")
    .argument("<POOL>")
    .addHelpText("after", `\nAsks for the pool's name. ${SCRIPT_HELP}`)
    .action(async (name) => {
      await cli.confirm(`removing pool ${name}`, name);
      await cli.api().delete(`/pools/${segment(name)}`);
      await cli.changed({ name, removed: true }, name, `pool ${name} is removed`);
    });
}

function nameOf(row: Row): string {
  return String(row["name"]);
}

/** Bytes for people. */
export function sizeText(value: unknown): string {
  const bytes = Number(value);
  return value === undefined || value === null || Number.isNaN(bytes) ? "-" : formatSize(bytes);
}

function notesOf(reply: Row): string[] {
  const notes = reply["notes"];
  return Array.isArray(notes) ? notes.map(String) : [];
}

/** How long ago something was reported. */
export function ageText(value: unknown): string {
  return typeof value === "number" ? `${(value / 1000).toFixed(1)} s` : "-";
}
