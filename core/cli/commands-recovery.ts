import { Argument, type CommandUnknownOpts } from "@commander-js/extra-typings";
import { asRow } from "./commands-cluster.ts";
import { sizeText } from "./commands-pool.ts";
import type { CliContext } from "./context.ts";
import { type Column, isRow, plainText, type Row } from "./output.ts";
import { formatDurationUs } from "./units.ts";

const RECOVERY_COLUMNS: readonly Column[] = [
  { name: "pg" },
  { name: "pool" },
  { name: "osd", show: (osd) => `osd.${plainText(osd)}` },
  { name: "stage" },
  { name: "done", path: "unitsDone", right: true, show: ofDifference(plainText) },
  { name: "left", path: "bytesLeft", right: true, show: ofDifference(sizeText) },
  { name: "entries", path: "entriesLeft", right: true, show: ofLog },
  { name: "differing", path: "bytesDiffering", right: true, show: ofDifference(sizeText) },
  { name: "copied", path: "bytesCopied", right: true, show: ofDifference(sizeText) },
  { name: "ratio", path: "amplification", right: true },
  { name: "eta", path: "etaSeconds", right: true, show: etaText },
  { name: "pass", right: true, wide: true },
];

const SPEED_HELP = `
While clients are at work recovery takes a share of each osd's time: low 5 %, medium 20 %, high
50 %. While none is, it takes all that there is.`;

const PAUSE_HELP = `
What clients write reaches every replica that is there, as ever. Replicas that were away for too long,
or have a new disk, do not come back before: health says so.`;

/** `fastblock recovery …` */
export function recoveryCommands(root: CommandUnknownOpts, cli: CliContext): void {
  const recovery = root
    .command("recovery")
    .description("How replicas that were away or are new get their data")
    .helpGroup("Cluster:");
  recovery
    .command("status")
    .description("show the dial, and the replicas that are on their way back: done, left, when")
    .action(async () => {
      const { output } = cli.globals;
      if (output !== "table" && output !== "wide") {
        await cli.object(() => cli.api().object("/recovery"), speedOf);
        return;
      }
      await cli.rows(
        async () => {
          const status = await cli.api().object("/recovery");
          cli.say(dialText(status));
          return replicasOf(status);
        },
        RECOVERY_COLUMNS,
        (row) => plainText(row["pg"]),
      );
    });
  const turn = async (wish: Row, words: string): Promise<void> => {
    const reply = asRow(await cli.api().patch("/recovery", wish));
    await cli.changed(reply, speedOf(reply), words);
  };
  recovery
    .command("pause")
    .description("compare and copy nothing until resume")
    .addHelpText("after", PAUSE_HELP)
    .action(() => turn({ paused: true }, "recovery is paused: fastblock recovery resume"));
  recovery
    .command("resume")
    .description("go on after pause")
    .action(() => turn({ paused: false }, "recovery goes on"));
  recovery
    .command("speed")
    .description("how much clients leave to recovery")
    .addArgument(
      new Argument("<SPEED>", "the share of recovery").choices(["low", "medium", "high"] as const),
    )
    .addHelpText("after", SPEED_HELP)
    .action((speed) => turn({ speed }, `recovery speed is ${speed}`));
}

function speedOf(status: Row): string {
  return plainText(status["speed"]);
}

function replicasOf(status: Row): Row[] {
  const { replicas } = status;
  return Array.isArray(replicas) ? replicas.filter(isRow) : [];
}

/** `speed medium, paused: 4 replicas on their way back` */
function dialText(status: Row): string {
  const count = replicasOf(status).length;
  const replicas =
    count === 0 ? "no replica is" : count === 1 ? "1 replica is" : `${count} replicas are`;
  const paused = status["paused"] === true ? ", paused" : "";
  return `speed ${speedOf(status)}${paused}: ${replicas} on the way back`;
}

/** A figure of catch-up by difference; others have none. */
function ofDifference(show: (value: unknown) => string): (value: unknown, row: Row) => string {
  return (value, row) => (row["stage"] === "difference" ? show(value) : "-");
}

function ofLog(value: unknown, row: Row): string {
  return row["stage"] === "log" ? plainText(value) : "-";
}

function etaText(value: unknown): string {
  return typeof value === "number" ? formatDurationUs(value * 1_000_000) : "-";
}
