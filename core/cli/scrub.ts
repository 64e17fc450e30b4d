import { FastblockError } from "../base/errors.ts";
import { segment } from "./api.ts";
import type { CliContext } from "./context.ts";
import { type Column, type Row, valueAt } from "./output.ts";

const LOOK_MS = 500;

const SCRUB_COLUMNS: readonly Column[] = [
  { name: "pg", path: "id" },
  { name: "pool" },
  { name: "running", path: "scrub.running" },
  { name: "found", path: "scrub.found", right: true },
  { name: "healed", path: "scrub.healed", right: true },
  { name: "left", path: "scrub.left", right: true },
  { name: "last", path: "scrub.last" },
  { name: "last-deep", path: "scrub.lastDeep" },
];

/** What `pg scrub` is asked for. */
export interface ScrubWish {
  /** undefined: all groups. */
  readonly pg: string | undefined;
  readonly deep: boolean;
  readonly wait: boolean;
}

/** Order scrubs; with `wait`, show what came of them. Throws FB2204 when something is left. */
export async function scrub(cli: CliContext, wish: ScrubWish): Promise<void> {
  const api = cli.api();
  const ids =
    wish.pg === undefined ? (await api.list("/pgs")).map((row) => String(row["id"])) : [wish.pg];
  for (const id of ids) await api.post(`/pgs/${segment(id)}:scrub`, { deep: wish.deep });
  if (wish.wait && !cli.globals.dryRun) await waitFor(cli, ids);
  const rows = (await api.list("/pgs")).filter((row) => ids.includes(String(row["id"])));
  await cli.rows(
    () => Promise.resolve(rows),
    SCRUB_COLUMNS,
    (row) => String(row["id"]),
  );
  const left = rows.filter((row) => Number(valueAt(row, "scrub.left")) > 0);
  if (!wish.wait || left.length === 0) return;
  const names = left.map((row) => String(row["id"])).join(", ");
  throw new FastblockError("FB2204", `scrub left something in ${names}`);
}

/** However long it takes: a deep one reads everything. */
async function waitFor(cli: CliContext, ids: readonly string[]): Promise<void> {
  const isRunning = (row: Row): boolean =>
    ids.includes(String(row["id"])) && typeof valueAt(row, "scrub.running") === "string";
  for (;;) {
    const rows = await cli.api().list("/pgs");
    if (!rows.some(isRunning)) return;
    await cli.ports.sleep(LOOK_MS);
  }
}
