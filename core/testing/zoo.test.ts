import { Glob, Transpiler } from "bun";
import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { plant, ZOO } from "./zoo.ts";

const ROOT = join(import.meta.dir, "..", "..");
/** Who may import something of the zoo: each is a program of its own, or a test. */
const KEEPERS = [
  "cmd/zoo-seeds.ts",
  "cmd/zoo.ts",
  "core/testing/bun-zoo-hunt.ts",
  "core/testing/bun-zoo.ts",
  "core/testing/zoo.sim.test.ts",
  "core/testing/zoo.test.ts",
];

function sourceOf(file: string): string {
  return readFileSync(join(ROOT, file), "utf8");
}

describe("C2: planted bugs", () => {
  test("there are enough, each under a name of its own", () => {
    expect(ZOO.length).toBeGreaterThanOrEqual(15);
    expect(new Set(ZOO.map((bug) => bug.name)).size).toBe(ZOO.length);
    // Bugs that the first seeds find say little of the simulator's reach.
    expect(ZOO.filter((bug) => bug.seed > 20).length).toBeGreaterThanOrEqual(5);
  });

  test.each(ZOO.map((bug) => [bug.name, bug] as const))("%s fits the code as it is", (_, bug) => {
    const transpiler = new Transpiler({ loader: "ts" });
    const plain = (source: string): string => transpiler.transformSync(source);
    for (const file of new Set(bug.edits.map((edit) => edit.file))) {
      expect(plain(plant(bug, file, sourceOf(file)))).not.toBe(plain(sourceOf(file)));
    }
  });

  test("an edit that does not fit exactly once is refused", () => {
    const edit = { file: "a.ts", find: "one", replace: "two" };
    const bug = { name: "x", breaks: "G1", what: "", seed: 1, edits: [edit] };
    expect(plant(bug, "a.ts", "one, three")).toBe("two, three");
    expect(plant(bug, "b.ts", "three")).toBe("three");
    expect(() => plant(bug, "a.ts", "three")).toThrow("is not there");
    expect(() => plant(bug, "a.ts", "one, one")).toThrow("more than once");
  });

  test("nothing of it is imported by what is shipped", () => {
    const files = [...new Glob("{cmd,core,ffi,proto,web}/**/*.ts").scanSync({ cwd: ROOT })];
    const importers = files.filter((file) => /from "[^"]*\/(bun-)?zoo[^"]*"/.test(sourceOf(file)));
    expect(importers.sort()).toEqual(KEEPERS);
  });
});
