import { describe, expect, test } from "bun:test";
import {
  type Column,
  type Format,
  renderObject,
  renderRows,
  type Renderers,
  type Row,
  type Shaping,
} from "./output.ts";
import { renderTable } from "./table.ts";

const COLUMNS: readonly Column[] = [
  { name: "name" },
  { name: "size", path: "sizeBytes", right: true, show: (value) => `${String(value)} B` },
  { name: "up", path: "state.up" },
  { name: "id", wide: true },
];

const ROWS: readonly Row[] = [
  { id: 2, name: "b", sizeBytes: 10, state: { up: true } },
  { id: 10, name: "a", sizeBytes: 9, state: { up: false } },
];

const RENDERERS: Renderers = {
  yaml: (value) => Bun.YAML.stringify(value, undefined, 2),
  table: (headings, rows, right) => Promise.resolve(renderTable(headings, rows, right)),
};

function render(format: Format, more: Partial<Shaping> = {}): Promise<string> {
  return renderRows(ROWS, COLUMNS, (row) => String(row["name"]), { format, ...more }, RENDERERS);
}

describe("rows", () => {
  test("a table has headings, aligned columns, no borders and no trailing space", async () => {
    expect(await render("table")).toBe("NAME  SIZE  UP\nb     10 B  yes\na      9 B  no\n");
  });

  test("wide shows more columns", async () => {
    expect(await render("wide")).toBe(
      "NAME  SIZE  UP   ID\nb     10 B  yes  2\na      9 B  no   10\n",
    );
  });

  test("json is what the mon said", async () => {
    expect(JSON.parse(await render("json"))).toEqual([...ROWS]);
  });

  test("jsonl is one object a line", async () => {
    const lines = (await render("jsonl")).trimEnd().split("\n");
    expect(lines.map((line) => JSON.parse(line) as unknown)).toEqual([...ROWS]);
  });

  test("yaml reads back as the same", async () => {
    expect(Bun.YAML.parse(await render("yaml"))).toEqual([...ROWS]);
  });

  test("name prints names alone", async () => {
    expect(await render("name")).toBe("b\na\n");
  });

  test("no rows leave the headings, and an empty list for machines", async () => {
    const none = (format: Format) => renderRows([], COLUMNS, () => "", { format }, RENDERERS);
    expect(await none("table")).toBe("NAME  SIZE  UP\n");
    expect(JSON.parse(await none("json"))).toEqual([]);
    expect(await none("name")).toBe("");
  });

  test("columns are chosen by name, for machines too", async () => {
    expect(await render("table", { columns: ["id", "name"] })).toBe("ID  NAME\n2   b\n10  a\n");
    expect(JSON.parse(await render("json", { columns: ["up"] }))).toEqual([
      { up: true },
      { up: false },
    ]);
  });

  test("rows sort by a column as numbers or text, upwards or downwards", async () => {
    expect(await render("name", { sort: "name" })).toBe("a\nb\n");
    expect(await render("name", { sort: "id" })).toBe("b\na\n");
    expect(await render("name", { sort: "-id" })).toBe("a\nb\n");
  });

  test("filters keep rows of that value, as it is or as it is shown", async () => {
    expect(await render("name", { filters: ["up=yes"] })).toBe("b\n");
    expect(await render("name", { filters: ["up=true"] })).toBe("b\n");
    expect(await render("name", { filters: ["size=9 B"] })).toBe("a\n");
    expect(await render("name", { filters: ["up=yes", "name=a"] })).toBe("");
  });

  test("an unknown column and a malformed filter are refused", async () => {
    expect(render("table", { columns: ["none"] })).rejects.toThrow("wanted one of name, size, up");
    expect(render("table", { filters: ["up"] })).rejects.toThrow("wanted KEY=VALUE");
  });
});

describe("one object", () => {
  const object = { name: "a", usage: { bytes: 1, none: null }, list: [1, 2], empty: [] };

  test("people see its fields, one a line", async () => {
    expect(await renderObject(object, "a", { format: "table" }, RENDERERS)).toBe(
      "name         a\nusage.bytes  1\nusage.none   -\nlist         1,2\nempty        -\n",
    );
  });

  test("of a list with one object its fields are indented below the key", async () => {
    const one = { id: 0, shards: [{ host: "h", ports: [1, 2] }], up: true };
    expect(await renderObject(one, "a", { format: "table" }, RENDERERS)).toBe(
      "id  0\nup  yes\nshards\n  host   h\n  ports  1,2\n",
    );
  });

  test("objects with plain fields are a table below the key, known columns shown as elsewhere", async () => {
    const columns = [
      { name: "osd", path: "at.replicas[].osd", show: (value: unknown) => `osd.${String(value)}` },
    ];
    const pg = {
      at: {
        replicas: [
          { osd: 2, appliedIndex: 7, role: "leader" },
          { osd: 10, appliedIndex: 12 },
        ],
      },
      id: "1.0",
    };
    expect(await renderObject(pg, "a", { format: "table" }, RENDERERS, columns)).toBe(
      "id  1.0\nat.replicas\n     OSD  APPLIED-INDEX  ROLE\n   osd.2              7  leader\n  osd.10             12  -\n",
    );
  });

  test("objects that hold others stand one behind the other", async () => {
    const layers = [
      { layer: 1, units: 2 },
      { layer: 12, units: 3 },
    ];
    const store = {
      objects: [
        { shard: 0, layers },
        { shard: 1, use: { units: 4 }, layers: [] },
      ],
    };
    expect(await renderObject(store, "a", { format: "table" }, RENDERERS)).toBe(
      "objects[0]\n  shard  0\n  layers\n    LAYER  UNITS\n        1      2\n       12      3\n" +
        "objects[1]\n  shard      1\n  use.units  4\n  layers     -\n",
    );
  });

  test("machines see it as it is", async () => {
    const json = await renderObject(object, "a", { format: "json" }, RENDERERS);
    expect(JSON.parse(json)).toEqual(object);
    expect(await renderObject(object, "a", { format: "name" }, RENDERERS)).toBe("a\n");
  });
});
