import { FastblockError } from "../base/errors.ts";

/**
 * Data on standard output: rows or one object, in the format that `-o` names.
 *
 * JSON is the REST schema (bytes, RFC 3339, enums), unless `--columns` cuts it; tables show the
 * same fields for people.
 */
export const FORMATS = ["table", "wide", "json", "jsonl", "yaml", "name"] as const;
export type Format = (typeof FORMATS)[number];

export type Row = Readonly<Record<string, unknown>>;

export interface Column {
  /** Heading, and the name for `--columns` and `--sort`: `size`. */
  readonly name: string;
  /**
   * Where the value stands in the row: `sizeBytes`, `usage.usedBytes`; of objects in a list of one
   * object: `replicas[].osd`. Default: the name.
   */
  readonly path?: string;
  /** Text for people. Default: the value as it is. */
  readonly show?: (value: unknown, row: Row) => string;
  /** Only with `-o wide`. */
  readonly wide?: boolean;
  readonly right?: boolean;
}

export interface Shaping {
  readonly format: Format;
  readonly columns?: readonly string[] | undefined;
  /** A column; `-size` sorts downwards. */
  readonly sort?: string | undefined;
  readonly filters?: readonly string[] | undefined;
}

/** Rendering that needs a library, loaded only when it is needed. */
export interface Renderers {
  yaml(value: unknown): Promise<string> | string;
  table(
    headings: readonly string[],
    rows: readonly string[][],
    right: readonly boolean[],
  ): Promise<string>;
}

/** Render rows; `nameColumn` is what `-o name` prints. */
export async function renderRows(
  rows: readonly Row[],
  columns: readonly Column[],
  nameOf: (row: Row) => string,
  shaping: Shaping,
  renderers: Renderers,
): Promise<string> {
  const shaped = sortRows(filterRows(rows, columns, shaping.filters ?? []), columns, shaping.sort);
  const chosen = shaping.columns?.map((name) => columnOf(columns, name));
  switch (shaping.format) {
    case "json":
      return `${JSON.stringify(cutRows(shaped, chosen), undefined, 2)}\n`;
    case "jsonl":
      return cutRows(shaped, chosen)
        .map((row) => `${JSON.stringify(row)}\n`)
        .join("");
    case "yaml":
      return endLine(await renderers.yaml(cutRows(shaped, chosen)));
    case "name":
      return shaped.map((row) => `${nameOf(row)}\n`).join("");
    case "table":
    case "wide": {
      const wide = shaping.format === "wide";
      const shown = chosen ?? columns.filter((column) => wide || column.wide !== true);
      return await renderers.table(
        shown.map((column) => column.name.toUpperCase()),
        shaped.map((row) => shown.map((column) => cellOf(row, column))),
        shown.map((column) => column.right === true),
      );
    }
  }
}

/** Render one object: a list of its fields for people. */
export async function renderObject(
  object: Row,
  name: string,
  shaping: Shaping,
  renderers: Renderers,
  columns: readonly Column[] = [],
): Promise<string> {
  switch (shaping.format) {
    case "json":
      return `${JSON.stringify(object, undefined, 2)}\n`;
    case "jsonl":
      return `${JSON.stringify(object)}\n`;
    case "yaml":
      return endLine(await renderers.yaml(object));
    case "name":
      return `${name}\n`;
    case "table":
    case "wide":
      return await fieldLines(object, columns, renderers);
  }
}

/**
 * `key  value` lines, known columns shown as in tables; then the lists of objects, indented below
 * their key: a table of those that have plain fields alone, else one behind the other.
 */
async function fieldLines(
  object: Row,
  columns: readonly Column[],
  renderers: Renderers,
): Promise<string> {
  const found: Fields = { lines: [], lists: [] };
  collectFields(object, "", found, columns);
  const width = Math.max(0, ...found.lines.map(([key]) => key.length));
  let text = found.lines
    .map(([key, value]) => `${key.padEnd(width)}  ${value}`.trimEnd())
    .join("\n");
  text = text === "" ? "" : `${text}\n`;
  for (const [path, rows] of found.lists) {
    text += await listLines(path, rows, columnsBelow(columns, path), renderers);
  }
  return text;
}

interface Fields {
  readonly lines: (readonly [key: string, value: string])[];
  readonly lists: (readonly [path: string, rows: readonly Row[]])[];
}

function collectFields(
  object: Row,
  prefix: string,
  found: Fields,
  columns: readonly Column[],
): void {
  for (const [key, value] of Object.entries(object)) {
    const path = prefix + key;
    const column = columnAt(columns, path);
    if (Array.isArray(value) && value.length > 0 && value.every(isRow)) {
      found.lists.push([path, value]);
    } else if (column?.show !== undefined) {
      found.lines.push([column.name, column.show(value, object)]);
    } else if (isRow(value)) collectFields(value, `${path}.`, found, columns);
    else found.lines.push([path, plainText(value)]);
  }
}

async function listLines(
  path: string,
  rows: readonly Row[],
  columns: readonly Column[],
  renderers: Renderers,
): Promise<string> {
  const one = rows.length === 1;
  if (one || !rows.every(isFlat)) {
    const blocks: string[] = [];
    for (const [at, row] of rows.entries()) {
      const heading = one ? path : `${path}[${at}]`;
      blocks.push(`${heading}\n${indented(await fieldLines(row, columns, renderers))}`);
    }
    return blocks.join("");
  }
  const keys = [...new Set(rows.flatMap((row) => Object.keys(row)))];
  const shown = keys.map((key) => columnAt(columns, key) ?? { name: headingOf(key), path: key });
  const table = await renderers.table(
    shown.map((column) => column.name.toUpperCase()),
    rows.map((row) => shown.map((column) => cellOf(row, column))),
    keys.map((key) => rows.every((row) => typeof row[key] === "number")),
  );
  return `${path}\n${indented(table)}`;
}

function columnAt(columns: readonly Column[], path: string): Column | undefined {
  return columns.find((one) => (one.path ?? one.name) === path);
}

/** Columns of the objects in a list: those whose path goes through it, `replicas[].osd`. */
function columnsBelow(columns: readonly Column[], list: string): readonly Column[] {
  const prefix = `${list}[].`;
  return columns
    .filter((one) => one.path?.startsWith(prefix) === true)
    .map((one) => ({ ...one, path: one.path!.slice(prefix.length) }));
}

function isFlat(row: Row): boolean {
  return Object.values(row).every(
    (value) => !isRow(value) && !(Array.isArray(value) && value.some(isRow)),
  );
}

/** `appliedIndex` → `applied-index`. */
function headingOf(key: string): string {
  return key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}

function indented(text: string): string {
  return text.replace(/^(?=.)/gm, "  ");
}

/** The value at a dotted path, or undefined. */
export function valueAt(row: Row, path: string): unknown {
  let value: unknown = row;
  for (const key of path.split(".")) {
    if (!isRow(value)) return undefined;
    value = value[key];
  }
  return value;
}

/** One line of text for any JSON value. */
export function plainText(value: unknown): string {
  if (value === undefined || value === null) return "-";
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value === "string" || typeof value === "number") return String(value);
  if (Array.isArray(value)) {
    if (value.length === 0) return "-";
    return value
      .map((one: unknown) => (isRow(one) ? JSON.stringify(one) : plainText(one)))
      .join(",");
  }
  return JSON.stringify(value);
}

function cellOf(row: Row, column: Column): string {
  const value = valueAt(row, column.path ?? column.name);
  return column.show === undefined ? plainText(value) : column.show(value, row);
}

function filterRows(
  rows: readonly Row[],
  columns: readonly Column[],
  filters: readonly string[],
): readonly Row[] {
  let kept = rows;
  for (const filter of filters) {
    const at = filter.indexOf("=");
    if (at < 1) throw new FastblockError("FB1001", `reading a filter: ${filter}, wanted KEY=VALUE`);
    const column = columnOf(columns, filter.slice(0, at));
    const wanted = filter.slice(at + 1);
    kept = kept.filter((row) => {
      const value = valueAt(row, column.path ?? column.name);
      return (
        plainText(value) === wanted || String(value) === wanted || cellOf(row, column) === wanted
      );
    });
  }
  return kept;
}

function sortRows(
  rows: readonly Row[],
  columns: readonly Column[],
  sort: string | undefined,
): readonly Row[] {
  if (sort === undefined) return rows;
  const down = sort.startsWith("-");
  const column = columnOf(columns, down ? sort.slice(1) : sort);
  const sign = down ? -1 : 1;
  return rows.toSorted((left, right) => {
    const a = valueAt(left, column.path ?? column.name);
    const b = valueAt(right, column.path ?? column.name);
    if (typeof a === "number" && typeof b === "number") return sign * (a - b);
    return sign * plainText(a).localeCompare(plainText(b), "en", { numeric: true });
  });
}

function columnOf(columns: readonly Column[], name: string): Column {
  const column = columns.find((one) => one.name === name || one.path === name);
  if (column === undefined) {
    const names = columns.map((one) => one.name).join(", ");
    throw new FastblockError("FB1001", `choosing a column: ${name}, wanted one of ${names}`);
  }
  return column;
}

function cutRows(rows: readonly Row[], columns: readonly Column[] | undefined): readonly Row[] {
  if (columns === undefined) return rows;
  return rows.map((row) =>
    Object.fromEntries(
      columns.map((column) => [column.name, valueAt(row, column.path ?? column.name)]),
    ),
  );
}

function endLine(text: string): string {
  return text.endsWith("\n") ? text : `${text}\n`;
}

/** Narrow a value to an object. */
export function isRow(value: unknown): value is Row {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
