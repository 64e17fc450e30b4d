import { expect, test } from "bun:test";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Subprocess, spawn } from "bun";
import { command, reportsRing, waitFor } from "./e2e-harness.ts";

const ROOT = join(import.meta.dir, "..");
const END_MS = 30_000;

/** The commands of the README's tour: every line of its `sh` blocks, in order. */
function tourScripts(readme: string): readonly string[] {
  const section = /^## [^\n]*tour[^\n]*\n([\s\S]*?)(?=^## |(?![\s\S]))/im.exec(readme)?.[1] ?? "";
  return [...section.matchAll(/^```sh\n([\s\S]*?)^```/gm)].map((match) => match[1] ?? "");
}

/** Run one block in a shell of its own, as a reader would type it in the checkout. */
async function play(script: string, env: Readonly<Record<string, string>>): Promise<void> {
  const result = await command(
    ["bash", "-c", `cd "$CHECKOUT"\nset -euxo pipefail\n${script}`],
    env,
  );
  const output = result.code === 0 ? "" : `${result.stdout}\n${result.stderr}`;
  expect(output).toBe("");
}

/** Processes of a cluster directory that still run. */
function runningPids(directory: string): readonly number[] {
  if (!existsSync(directory)) return [];
  return readdirSync(directory)
    .filter((name) => name.endsWith(".pid"))
    .map((name) => Number(readFileSync(join(directory, name), "utf8")))
    .filter((pid) => {
      const words = existsSync(`/proc/${pid}/exe`) ? `/proc/${pid}/cmdline` : "";
      return words !== "" && readFileSync(words, "utf8").includes(directory);
    });
}

test("every command of the README's tour, and of what npm start tells, works as it is written", async () => {
  const scripts = tourScripts(readFileSync(join(ROOT, "README.md"), "utf8"));
  expect(scripts.length).toBeGreaterThan(0);
  const folder = mkdtempSync(join(tmpdir(), "fastblock tour "));
  const env = { CLUSTER_DIR: join(folder, "cluster"), HOME: folder, CHECKOUT: ROOT };
  const output = join(folder, "npm-start.out");
  writeFileSync(output, "");
  const served: Subprocess[] = [];
  try {
    for (const script of scripts) {
      if (!/^npm start$/m.test(script)) {
        await play(script, env);
        continue;
      }
      // Its place is a terminal of its own, where it serves until Ctrl-C.
      const start = spawn(["npm", "start"], {
        cwd: ROOT,
        env: { ...process.env, ...env },
        stdin: "ignore",
        stdout: Bun.file(output),
        stderr: Bun.file(output),
      });
      served.push(start);
      const text = await waitFor("npm start to serve, its demo done", () => {
        if (start.exitCode !== null) throw new Error(`npm start ended with ${start.exitCode}`);
        const told = readFileSync(output, "utf8");
        return told.includes("Ctrl-C stops it.") ? told : undefined;
      });
      expect(text).toMatch(/^latency +mean .* p99 /m);
      const next = /^Try next:\n((?: {2}.*\n)+)/m.exec(text)?.[1] ?? "";
      expect(next.trimEnd().split("\n")).toHaveLength(4);
      await play(next, env);
      await reportsRing(env.CLUSTER_DIR);
    }
    // An osd was started again in between.
    await reportsRing(env.CLUSTER_DIR);
  } finally {
    for (const start of served) start.kill("SIGTERM");
    for (const start of served) await start.exited;
    // npm ends before what it started: the cluster notices that, and stops in order.
    try {
      await waitFor("nothing to be left", () => runningPids(env.CLUSTER_DIR).length === 0, END_MS);
    } finally {
      for (const pid of runningPids(env.CLUSTER_DIR)) process.kill(pid, "SIGKILL");
      rmSync(folder, { recursive: true, force: true });
    }
  }
});
