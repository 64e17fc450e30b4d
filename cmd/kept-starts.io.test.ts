import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Logger } from "../core/base/logger.ts";
import { KeptStarts } from "./kept-starts.ts";

const START = { incarnation: 3, mark: 2, id: "0123456789abcdef" };

let folder: string;
let warnings: string[];
const note = (): void => {};
const logger: Logger = {
  debug: note,
  info: note,
  warn: (message) => warnings.push(message),
  error: (message) => warnings.push(message),
  child: () => logger,
};

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "kept-starts-"));
  warnings = [];
});
afterEach(() => rmSync(folder, { recursive: true }));

test("what was kept is there after a restart, the newest of each store", () => {
  const path = join(folder, "osd.0.peers");
  const kept = new KeptStarts(path, logger);
  expect(kept.entries).toEqual([]);
  kept.keep("a", START);
  kept.keep("a", { ...START, mark: 1 });
  kept.keep("b", START);
  kept.keep("b", { ...START, mark: 7 });
  kept.flush();
  expect(new KeptStarts(path, logger).entries).toEqual([
    ["a", START],
    ["b", { ...START, mark: 7 }],
  ]);
  expect(warnings).toEqual([]);
});

test("a damaged file is told and forgotten; what is no start in it is left out", () => {
  const path = join(folder, "osd.0.peers");
  writeFileSync(path, '{"a":{"incarna');
  expect(new KeptStarts(path, logger).entries).toEqual([]);
  expect(warnings).toEqual(["the kept starts of peers can not be read"]);
  writeFileSync(path, JSON.stringify({ a: START, b: { ...START, id: "x" }, c: 1, d: null }));
  const far = '"e":{"incarnation":1e999,"mark":1,"id":"0123456789abcdef"}}';
  writeFileSync(path, readFileSync(path, "utf8").replace(/}$/, `,${far}`));
  const kept = new KeptStarts(path, logger);
  expect(kept.entries).toEqual([["a", START]]);
  kept.keep("a", { ...START, incarnation: 4 });
  kept.flush();
  expect(JSON.parse(readFileSync(path, "utf8"))).toEqual({ a: { ...START, incarnation: 4 } });
});

test("a file that can not be written is told", () => {
  const kept = new KeptStarts(join(folder, "none", "osd.0.peers"), logger);
  kept.keep("a", START);
  kept.flush();
  expect(warnings).toEqual(["the starts of peers can not be kept"]);
});
