import { spawn } from "bun";
import { join } from "node:path";

export { type PlantedBug, ZOO } from "./zoo.ts";

/** What became of a hunt: how many seeds ran, and the one that failed; null: none did. */
export interface Hunt {
  readonly runs: number;
  readonly failure: { readonly seed: number; readonly message: string } | null;
}

/**
 * Run seeds (`7`, `1..500`) in a process of its own, with a bug planted (empty: with none), until one
 * fails. A bug is planted while modules are loaded, so each needs its own process.
 */
export async function hunt(bug: string, seeds: readonly string[]): Promise<Hunt> {
  const preload = ["--preload", join(import.meta.dir, "bun-zoo.ts")];
  const planted = ["--define", `PLANTED=${JSON.stringify(bug)}`];
  const child = spawn(
    [
      process.execPath,
      ...(bug === "" ? [] : [...preload, ...planted]),
      "--define",
      "VERIFY=true",
      join(import.meta.dir, "..", "..", "cmd", "zoo-seeds.ts"),
      ...seeds,
    ],
    { stdin: "ignore", stdout: "pipe", stderr: "pipe" },
  );
  const [out, err] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ]);
  const code = await child.exited;
  if (code !== 0) throw new Error(`hunting ${bug}: exit code ${code}, wanted 0\n${err}`);
  return JSON.parse(out) as Hunt;
}
