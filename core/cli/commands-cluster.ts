import type { CommandUnknownOpts } from "@commander-js/extra-typings";
import { FastblockError } from "../base/errors.ts";
import { recordOf, segment } from "./api.ts";
import type { CliContext, Stage } from "./context.ts";
import { ageText, sizeText } from "./commands-pool.ts";
import { type Column, isRow, plainText, type Row, valueAt } from "./output.ts";
import { scrub } from "./scrub.ts";
import { counted, parseOsdName, parseWhole } from "./units.ts";

const PG_COLUMNS: readonly Column[] = [
  { name: "pg", path: "id" },
  { name: "pool" },
  { name: "state" },
  { name: "leader", path: "leaderOsd", show: osdText },
  { name: "osds", path: "osds" },
  { name: "witness", path: "witnesses" },
  { name: "joining", path: "joining" },
  { name: "leaving", path: "leaving" },
  { name: "filling", path: "filling", wide: true },
  { name: "scrubbed", path: "scrub.last", wide: true },
  { name: "deep-scrubbed", path: "scrub.lastDeep", wide: true },
  { name: "left", path: "scrub.left", right: true, wide: true },
  { name: "term", right: true, wide: true },
  { name: "changed", path: "lastChangeEpoch", right: true, wide: true },
];

/** `pg info` shows more. */
const PG_FIELDS: readonly Column[] = [
  { name: "leader", path: "leaderOsd", show: leaderText },
  ...PG_COLUMNS,
  { name: "replica", path: "replicas[].replicaId" },
  { name: "osd", path: "replicas[].osd", show: osdText },
  { name: "is-witness", path: "replicas[].witness" },
  { name: "store", path: "replicas[].storeUuid" },
  { name: "up", path: "replicas[].osdUp" },
  { name: "heard", path: "replicas[].reportAgeMs", show: ageText },
  { name: "told", path: "replicas[].toldAgeMs", show: ageText },
  { name: "role", path: "replicas[].role", show: roleText },
  { name: "commit", path: "replicas[].commitIndex" },
  { name: "applied", path: "replicas[].appliedIndex" },
  { name: "used", path: "replicas[].usedBytes", show: sizeText },
];

/** Details of a check that one page has room for. */
const PAGE_DETAILS = 3;

const OPERATION_COLUMNS: readonly Column[] = [
  { name: "id" },
  { name: "kind" },
  { name: "state" },
  { name: "title" },
  { name: "done", right: true },
  { name: "total", right: true },
  { name: "waiting-for", path: "waitingFor", wide: true },
  { name: "started", wide: true },
  { name: "ended", wide: true },
  { name: "error", wide: true },
];

/** `fastblock status`, `health`: exit codes of `health --check` as Nagios wants them. */
export function lookCommands(root: CommandUnknownOpts, cli: CliContext): void {
  root
    .command("status")
    .description("Show the whole cluster on one page")
    .helpGroup("Look:")
    .action(() =>
      cli.page(
        () => cli.api().object("/status"),
        statusText,
        (status) => plainText(valueAt(status, "cluster.name")),
      ),
    );
  root
    .command("health")
    .description("Show what is wrong, and what to do")
    .helpGroup("Look:")
    .option("--check", "one line, and exit with 0 ok, 1 warning, 2 error, 3 unknown")
    .action(async (options) => {
      let health: Row;
      try {
        health = await cli.api().object("/health");
      } catch (error) {
        if (options.check !== true) throw error;
        cli.say(error instanceof Error ? error.message : String(error));
        cli.exitCode = 3;
        return;
      }
      await cli.page(
        () => Promise.resolve(health),
        options.check === true ? healthLine : (one) => healthText(one),
        (one) => plainText(one["status"]),
      );
      if (options.check === true) cli.exitCode = nagiosCode(health["status"]);
    });
}

/** `fastblock pg …` */
export function pgCommands(root: CommandUnknownOpts, cli: CliContext): void {
  const pg = root
    .command("pg")
    .description("Placement groups: one raft group each")
    .helpGroup("Cluster:");
  pg.command("ls")
    .alias("list")
    .description("list the placement groups")
    .argument("[POOL]", "only of this pool")
    .action((pool) =>
      cli.rows(
        () => cli.api().list(pool === undefined ? "/pgs" : `/pgs?pool=${segment(pool)}`),
        PG_COLUMNS,
        idOf,
      ),
    );
  pg.command("info")
    .description("show one placement group")
    .argument("<PG>", "like 1.17")
    .action((id) => cli.object(() => cli.api().object(`/pgs/${segment(id)}`), idOf, PG_FIELDS));
  pg.command("scrub")
    .description("compare the replicas of groups, and put right what differs")
    .argument("[PG]", "like 1.17")
    .option("--all", "all groups")
    .option("--deep", "read all data against its checksums, too")
    .addHelpText("after", WAIT_HELP)
    .action(async (id, options) => {
      if ((id === undefined) !== (options.all === true)) {
        throw new FastblockError("FB1001", "pg scrub wants a group or --all", {
          hint: "fastblock pg ls shows the groups",
        });
      }
      await scrub(cli, { pg: id, deep: options.deep === true });
    });
  pg.command("transfer-leader")
    .description("give the leadership of a group to another replica")
    .argument("<PG>", "like 1.17")
    .requiredOption("--to <osd>", "the osd that shall lead", parseOsdName)
    .addHelpText("after", TRANSFER_HELP)
    .action(async (id, options) => {
      const now = await transferLeader(cli, id, options.to);
      const words = !cli.globals.wait
        ? `group ${id} is asked to move its leader to osd.${options.to}`
        : `osd.${options.to} leads group ${id}`;
      await cli.changed(
        now,
        id,
        cli.globals.dryRun ? `osd.${options.to} may lead group ${id}` : words,
      );
    });
  replaceCommand(pg, cli);
}

function replaceCommand(pg: CommandUnknownOpts, cli: CliContext): void {
  pg.command("replace")
    .description("move one replica of a group to another osd, under load")
    .argument("<PG>", "like 1.17")
    .requiredOption("--from <osd>", "the osd that shall no longer hold it", parseOsdName)
    .requiredOption("--to <osd>", "the osd that shall hold it", parseOsdName)
    .addHelpText("after", WAIT_HELP)
    .action(async (id, options) => {
      const body = { fromOsd: options.from, toOsd: options.to };
      let group = asRow(await cli.api().post(`/pgs/${segment(id)}:replaceReplica`, body));
      await cli.until("replace", async () => {
        group = await cli.api().object(`/pgs/${segment(id)}`);
        return moveOf(group);
      });
      const verb = cli.globals.wait ? "has moved" : "moves";
      await cli.changed(
        group,
        id,
        `group ${id} ${verb} from osd.${options.from} to osd.${options.to}`,
      );
    });
}

const WAIT_HELP = `
Waits until it is done; with --timeout TIME no longer than that. --no-wait returns at once. It goes
on in any case.`;

/** How far a group is whose replica moves: the new one joins, then the old one leaves. */
function moveOf(group: Row): Stage {
  const joining = listAt(group, "joining");
  const leaving = listAt(group, "leaving");
  const names = (osds: readonly unknown[]): string => osds.map(osdText).join(", ");
  const done = joining.length > 0 ? 0 : leaving.length > 0 ? 1 : 2;
  const note = done === 0 ? `${names(joining)} is filled` : `${names(leaving)} leaves`;
  return { done, total: 2, note, goesOn: `fastblock pg info ${idOf(group)}` };
}

/** What one request may wait; the mon cuts off what is longer. */
const TRANSFER_WAIT_MS_MAX = 30_000;
/** Beyond the time that the mon waits, for its answer. */
const ANSWER_MS = 5000;

/** Ask until the osd leads or `--timeout` is over. Answers the group; throws what the mon says. */
async function transferLeader(cli: CliContext, id: string, osd: number): Promise<Row> {
  const { wait, timeoutMs } = cli.globals;
  const endMs = cli.ports.nowMs() + timeoutMs;
  for (;;) {
    const leftMs = wait ? Math.max(0, Math.round(endMs - cli.ports.nowMs())) : 0;
    const waitMs = Math.min(leftMs, TRANSFER_WAIT_MS_MAX);
    try {
      const api = cli.api(waitMs + ANSWER_MS);
      return asRow(await api.post(`/pgs/${segment(id)}:transferLeader`, { osd, waitMs }));
    } catch (error) {
      const isLate = error instanceof FastblockError && error.code === "FB1006";
      if (!isLate || leftMs <= TRANSFER_WAIT_MS_MAX) throw error;
    }
  }
}

const TRANSFER_HELP = `
Waits until that osd leads, for --timeout at most, and fails with the reason when it does not; with
--no-wait it only asks. The leadership is to stay there from then on.

Example:
  fastblock pg transfer-leader 1.17 --to osd.2`;

/** `fastblock op …` */
export function opCommands(root: CommandUnknownOpts, cli: CliContext): void {
  const op = root.command("op").description("Operations that take long").helpGroup("Operate:");
  op.command("ls")
    .alias("list")
    .description("list the operations")
    .action(() => cli.rows(() => cli.api().list("/operations"), OPERATION_COLUMNS, idOf));
  op.command("info")
    .alias("show")
    .description("show one operation")
    .argument("<OPERATION>", "its number", parseOperation)
    .action((id) => cli.object(() => cli.api().object(`/operations/${id}`), idOf));
  op.command("wait")
    .description("wait until an operation is done")
    .argument("<OPERATION>", "its number", parseOperation)
    .action(async (id) => {
      cli.refuseListFlags();
      const done = await cli.waitOperation(String(id));
      await cli.object(() => Promise.resolve(done), idOf);
    });
  op.command("cancel")
    .description("take an operation back, if its kind allows that")
    .argument("<OPERATION>", "its number", parseOperation)
    .addHelpText("after", CANCEL_HELP)
    .action(async (id) => {
      const reply = await cli.api().post(`/operations/${id}:cancel`);
      await cli.changed(asRow(reply), String(id), `operation ${id} is cancelled`);
    });
}

const CANCEL_HELP = `
Removing or shrinking an image takes effect when it is begun; what runs on gives the space back.
It can not be cancelled: exits with 8, and says what the operation waits for.`;

function parseOperation(text: string): number {
  return parseWhole(text, "an operation's number", 1, Number.MAX_SAFE_INTEGER);
}

/** Narrow a reply to an object; an empty reply is an empty object. */
export function asRow(reply: unknown): Row {
  return reply === undefined || reply === null ? {} : recordOf(reply, "the answer");
}

function idOf(row: Row): string {
  return String(row["id"]);
}

function osdText(value: unknown): string {
  return typeof value === "number" ? `osd.${value}` : typeof value === "string" ? value : "-";
}

/** Who leads; when nobody does because its osd is down, since when. */
function leaderText(value: unknown, group: Row): string {
  if (typeof value === "number") return osdText(value);
  const last = listAt(group, "replicas")
    .filter(isRow)
    .find((one) => one["replicaId"] === group["leaderReplica"]);
  if (last?.["osdUp"] !== false) return "-";
  const age = last["reportAgeMs"];
  const heard =
    typeof age === "number" ? `heard ${ageText(age)} ago` : "not heard since the mon runs";
  return `none: ${osdText(last["osd"])}, which led last, is down (${heard})`;
}

/** What a replica was, when nobody hears of it now. */
function roleText(value: unknown, replica: Row): string {
  const role = plainText(value);
  return replica["osdUp"] === false && role !== "unknown" ? `was ${role}` : role;
}

/** The cluster on one page, for people. */
function statusText(status: Row): string {
  const at = (path: string): string => plainText(valueAt(status, path));
  const health = valueAt(status, "health");
  const states = valueAt(status, "pgs.byState");
  const groups = Object.entries(isRow(states) ? states : {})
    .filter(([, count]) => count !== 0)
    .map(([state, count]) => `${String(count)} ${state}`);
  const lines: [string, string][] = [
    ["cluster", `${at("cluster.name")} (${at("cluster.id")})`],
    ["mons", `${at("mons.total")}, leader ${at("mons.leader")}`],
    ["osds", `${at("osds.total")}: ${at("osds.up")} up, ${at("osds.in")} in`],
    ["pgs", groups.length === 0 ? "none" : groups.join(", ")],
    ["data", ["pool", "image", "session"].map((one) => counted(at(`${one}s`), one)).join(", ")],
    ["capacity", capacityText(status)],
    ["operations", `${at("operations")} running`],
    ["backend", backendText(valueAt(status, "backends"))],
    ["version", at("version")],
  ];
  const text = lines.map(([key, value]) => `${key.padEnd(11)} ${value}\n`).join("");
  return text + (isRow(health) ? healthText(health, PAGE_DETAILS) : "");
}

/**
 * Of who has a data path, which a mon has not: one word when all agree, else `osds 2 uring 1 file,
 * clients 1 uring`.
 */
function backendText(backends: unknown): string {
  const kinds = Object.entries(isRow(backends) ? backends : {})
    .filter(([kind]) => kind !== "mons")
    .map(([kind, counts]) => [kind, Object.entries(isRow(counts) ? counts : {})] as const);
  const words = new Set(kinds.flatMap(([, counts]) => counts.map(([word]) => word)));
  if (words.size < 2) return [...words].join("") || "-";
  return kinds
    .filter(([, counts]) => counts.length > 0)
    .map(
      ([kind, counts]) =>
        `${kind} ${counts.map(([word, many]) => `${plainText(many)} ${word}`).join(" ")}`,
    )
    .join(", ");
}

/** What osds promise and use; and what the file systems beneath have, where that is less. */
function capacityText(status: Row): string {
  const at = (key: string): string => sizeText(valueAt(status, `capacity.${key}`));
  const text = `${at("usedBytes")} used of ${at("totalBytes")}`;
  const beneath = at("freeBytesBeneath");
  return beneath === "-" ? text : `${text}; the file system beneath has ${beneath} left`;
}

function listAt(row: Row, key: string): readonly unknown[] {
  const value = row[key];
  return Array.isArray(value) ? value : [];
}

/** `warn  OSD_DOWN: 1 of 3 osds is down; …` */
function healthLine(health: Row): string {
  const checks = listAt(health, "checks").filter(isRow);
  const texts = checks.map((one) => `${plainText(one["code"])}: ${plainText(one["summary"])}`);
  return `${`${plainText(health["status"])}  ${texts.join("; ")}`.trim()}\n`;
}

/** What is wrong and what to do, for people; of each check so many details at most. */
function healthText(health: Row, detailsMax = Number.POSITIVE_INFINITY): string {
  const lines = [`${"health".padEnd(11)} ${plainText(health["status"])}`];
  for (const check of listAt(health, "checks").filter(isRow)) {
    lines.push(
      `  ${plainText(check["severity"])} ${plainText(check["code"])}: ${plainText(check["summary"])}`,
    );
    const details = listAt(check, "details");
    for (const detail of details.slice(0, detailsMax)) lines.push(`    ${String(detail)}`);
    if (details.length > detailsMax) lines.push("    and more: fastblock health");
    if (typeof check["hint"] === "string") lines.push(`    hint  ${check["hint"]}`);
  }
  return `${lines.join("\n")}\n`;
}

function nagiosCode(status: unknown): number {
  switch (String(status).toLowerCase()) {
    case "ok":
      return 0;
    case "warn":
      return 1;
    case "error":
      return 2;
    default:
      return 3;
  }
}
