import { FastblockError } from "../base/errors.ts";
import { segment } from "./api.ts";
import type { CliContext } from "./context.ts";
import { type Column, type Row, valueAt } from "./output.ts";

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
}

/**
 * Order scrubs, wait for them unless `--no-wait`, and show what came of them. Throws FB2204 when
 * something is left, FB1006 when it takes longer than a `--timeout` that was given.
 */
export async function scrub(cli: CliContext, wish: ScrubWish): Promise<void> {
  const api = cli.api();
  const ids =
    wish.pg === undefined ? (await api.list("/pgs")).map((row) => String(row["id"])) : [wish.pg];
  for (const id of ids) await api.post(`/pgs/${segment(id)}:scrub`, { deep: wish.deep });
  await cli.until("scrub", async () => {
    const running = (await api.list("/pgs")).filter((row) => isRunning(row, ids));
    const names = running.map((row) => String(row["id"])).join(", ");
    const total = ids.length;
    return { done: total - running.length, total, note: names, goesOn: "fastblock pg ls -o wide" };
  });
  const rows = (await api.list("/pgs")).filter((row) => ids.includes(String(row["id"])));
  await cli.rows(
    () => Promise.resolve(rows),
    SCRUB_COLUMNS,
    (row) => String(row["id"]),
  );
  const left = rows.filter((row) => Number(valueAt(row, "scrub.left")) > 0);
  if (!cli.globals.wait || left.length === 0) return;
  const names = left.map((row) => String(row["id"])).join(", ");
  throw new FastblockError("FB2204", `scrub left something in ${names}`);
}

function isRunning(row: Row, ids: readonly string[]): boolean {
  return ids.includes(String(row["id"])) && typeof valueAt(row, "scrub.running") === "string";
}
