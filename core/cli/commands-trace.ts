import type { CommandUnknownOpts } from "@commander-js/extra-typings";
import { FastblockError } from "../base/errors.ts";
import type { TraceView } from "../mon/mon.ts";
import { asRow } from "./commands-cluster.ts";
import type { CliContext } from "./context.ts";
import { type Column, isRow, plainText, type Row } from "./output.ts";
import { counted, durationMsOf, formatDurationUs, parseWhole } from "./units.ts";

const SAMPLE_MAX = 1_000_000;
const SLOWEST_MAX = 100;

const STAGE_COLUMNS: readonly Column[] = [
  { name: "op", path: "kind" },
  { name: "stage", show: (stage, row) => (row["within"] === null ? "" : "  ") + plainText(stage) },
  { name: "who" },
  { name: "count", right: true },
  { name: "p50", path: "p50Us", show: timeText, right: true },
  { name: "p99", path: "p99Us", show: timeText, right: true },
  { name: "max", path: "maxUs", show: timeText, right: true },
  { name: "share", show: shareText, right: true },
  { name: "mean", path: "meanUs", show: timeText, right: true, wide: true },
  { name: "what", wide: true },
];

const OP_COLUMNS: readonly Column[] = [
  { name: "op", path: "kind" },
  { name: "pg" },
  { name: "total", path: "totalUs", show: timeText, right: true },
  { name: "client", path: "stagesUs.client", show: timeText, right: true, wide: true },
  { name: "request", path: "stagesUs.request", show: timeText, right: true },
  { name: "admit", path: "stagesUs.admit", show: timeText, right: true, wide: true },
  { name: "replicate", path: "stagesUs.replicate", show: timeText, right: true },
  { name: "look", path: "stagesUs.look", show: timeText, right: true, wide: true },
  { name: "answer", path: "stagesUs.answer", show: timeText, right: true, wide: true },
  { name: "reply", path: "stagesUs.reply", show: timeText, right: true },
  { name: "leader" },
  { name: "last-follower", path: "slowestFollower" },
  { name: "number", right: true, wide: true },
  { name: "session", right: true, wide: true },
];

const START_HELP = `
Forgets the trace before. Osds, gateways and clients take part as soon as the mon reaches them, also
those that come later. It ends by itself. An operation that is looked at costs some µs more; with one
in 100 no difference was measured.

Example:
  fastblock trace start --sample 100 --time 60s`;

const SHOW_HELP = `
Stages of one kind that are not indented follow each other, and make up the total. Indented ones go on
beside each other within the one above; there is one of each follower. Shares are of the mean time.
  client         until it is on the connection: cut up, checksummed, waits for its leader
  request reply  on the way, the time until the other side reads it included
  admit          the leader checks, copies and proposes it
  replicate      until enough replicas have it durably
    log-wait log-write              the leader's log: for its next batch; durable write of it
    append acknowledge              on the way to a follower, and its word back
    follower-wait follower-write    the same in the follower's log
  look           a read waits for what is to be applied, and for the store
  apply          behind the answer: until the leader has applied it
  answer finish  the leader makes the answer; the client tells its user
What the mon has is shown, some seconds late while a trace is taken. -o wide explains each row.

Examples:
  fastblock trace show
  fastblock trace show --slowest 10
  fastblock trace show --svg trace.svg`;

/** `fastblock trace …` */
export function traceCommands(root: CommandUnknownOpts, cli: CliContext): void {
  const trace = root
    .command("trace")
    .description("Where the time of writes and reads goes, stage by stage")
    .helpGroup("Measure:");
  trace
    .command("start")
    .description("look at one operation in so many, on all processes")
    .option("--sample <count>", "one operation in so many", wholeOf("--sample", SAMPLE_MAX), 100)
    .option("--time <time>", "it ends by itself after this", "60s")
    .addHelpText("after", START_HELP)
    .action(async ({ sample, time }) => {
      const timeMs = durationMsOf(time, "--time");
      const reply = asRow(await cli.api().post("/trace", { sample, timeMs }));
      const until = `for ${formatDurationUs(timeMs * 1000)}`;
      await cli.changed(
        reply,
        stateOf(reply),
        `1 operation in ${sample} is traced ${until}: fastblock trace show`,
      );
    });
  trace
    .command("stop")
    .description("look at no more operations; show tells on what was seen")
    .action(async () => {
      const reply = asRow(await cli.api().delete("/trace"));
      await cli.changed(reply, stateOf(reply), "no trace is taken: fastblock trace show");
    });
  trace
    .command("show")
    .description("show the trace that is taken, or was taken last")
    .option("--svg <FILE>", "draw the typical and the slowest operations to a file")
    .option(
      "--slowest <count>",
      "list the slowest operations instead",
      wholeOf("--slowest", SLOWEST_MAX),
    )
    .addHelpText("after", SHOW_HELP)
    .action(({ svg, slowest }) => show(cli, svg, slowest));
}

function wholeOf(name: string, max: number): (text: string) => number {
  return (text) => parseWhole(text, name, 1, max);
}

async function show(
  cli: CliContext,
  svg: string | undefined,
  slowest: number | undefined,
): Promise<void> {
  const ask = (): Promise<Row> => cli.api().object(`/trace?slowest=${slowest ?? 1}`);
  if (svg !== undefined) await draw(cli, traceOf(await ask()), svg);
  const { output } = cli.globals;
  if (output !== "table" && output !== "wide") {
    await cli.object(ask, stateOf);
    return;
  }
  const isList = slowest !== undefined;
  await cli.rows(
    async () => {
      const trace = await ask();
      cli.say(traceText(traceOf(trace)));
      return rowsOf(trace, isList ? "slowest" : "stages");
    },
    isList ? OP_COLUMNS : STAGE_COLUMNS,
    (row) => plainText(row["stage"] ?? row["number"]),
  );
}

async function draw(cli: CliContext, trace: TraceView, path: string): Promise<void> {
  if (trace.typical === null) {
    throw new FastblockError(
      "FB6003",
      `drawing a trace: ${counted(0, "operation")} with all stages, wanted one`,
    );
  }
  const { traceSvg } = await import("./trace-svg.ts");
  const sink = await cli.ports.programs.writeBytes(path);
  await sink.write(new TextEncoder().encode(traceSvg(trace)));
  await sink.close();
  cli.say(`${path} is drawn`);
}

/** What the mon answers, by its schema. */
function traceOf(row: Row): TraceView {
  return row as unknown as TraceView;
}

function stateOf(trace: Row): string {
  return plainText(trace["state"]);
}

function rowsOf(trace: Row, name: string): Row[] {
  const rows = trace[name];
  return Array.isArray(rows) ? rows.filter(isRow) : [];
}

/** Two lines: what is there, and where most of the time goes. */
function traceText(trace: TraceView): string {
  const { state, sample, writes, reads, secondsLeft, rowsLost } = trace;
  if (state === "never") return "no trace was taken: fastblock trace start";
  const goes = state === "on" ? `goes on for ${secondsLeft} s` : "has ended";
  const lost =
    rowsLost === 0 ? "" : `, ${counted(rowsLost, "row")} lost: a higher --sample keeps up`;
  const seen = `${counted(writes, "write")}, ${counted(reads, "read")}${lost}`;
  const head = `the trace of 1 in ${sample} ${goes}: ${seen}`;
  const { stages } = trace;
  const total = stages.find(({ stage }) => stage === "total");
  if (total === undefined) return head;
  const largest = stages
    .filter(
      ({ kind, within, stage }) => kind === total.kind && within === null && stage !== "total",
    )
    .sort((a, b) => b.share - a.share)
    .slice(0, 3)
    .map(({ stage, share }) => `${stage} ${shareText(share)}`);
  return `${head}\na ${total.kind} takes ${timeText(total.meanUs)} in the mean: ${largest.join(", ")}`;
}

function timeText(us: unknown): string {
  return typeof us === "number" ? formatDurationUs(us) : "-";
}

function shareText(share: unknown): string {
  return typeof share === "number" ? `${(share * 100).toFixed(1)} %` : "-";
}
