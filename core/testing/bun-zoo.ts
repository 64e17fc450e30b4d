import { plugin } from "bun";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { plant, ZOO } from "./zoo.ts";

/**
 * Preloaded by a process that is to run with a planted bug, which the build constant `PLANTED` names:
 * the files of the bug are edited while they are loaded. Nothing on disk changes.
 */

declare const PLANTED: string;

const ROOT = join(import.meta.dir, "..", "..");
const name = typeof PLANTED === "undefined" ? "" : PLANTED;
const bug = ZOO.find((one) => one.name === name);
if (bug === undefined) throw new Error(`bug is unknown: ${name}, wanted one of the zoo`);

plugin({
  name: `zoo: ${name}`,
  setup(build) {
    for (const file of new Set(bug.edits.map((edit) => edit.file))) {
      const path = join(ROOT, file);
      const filter = new RegExp(`^${RegExp.escape(path)}$`);
      build.onLoad({ filter }, () => ({
        contents: plant(bug, file, readFileSync(path, "utf8")),
        loader: "ts",
      }));
    }
  },
});
