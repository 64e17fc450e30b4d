import Table from "cli-table3";

/** Plain columns for people and for `awk`: no borders, two spaces apart, no trailing space. */
export function renderTable(
  headings: readonly string[],
  rows: readonly string[][],
  right: readonly boolean[],
): string {
  const table = new Table({
    head: [...headings],
    colAligns: right.map((one) => (one ? "right" : "left")),
    chars: {
      top: "",
      "top-mid": "",
      "top-left": "",
      "top-right": "",
      bottom: "",
      "bottom-mid": "",
      "bottom-left": "",
      "bottom-right": "",
      left: "",
      "left-mid": "",
      mid: "",
      "mid-mid": "",
      right: "",
      "right-mid": "",
      middle: "  ",
    },
    style: { head: [], border: [], "padding-left": 0, "padding-right": 0, compact: true },
  });
  for (const row of rows) table.push(row);
  const lines = table.toString().split("\n");
  return lines.map((line) => `${line.trimEnd()}\n`).join("");
}
