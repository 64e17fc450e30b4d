import { expect, test } from "bun:test";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Subprocess, spawn } from "bun";
import { command, reportsRing, waitFor } from "./e2e-harness.ts";

const ROOT = join(import.meta.dir, "..");
/** Beyond what the cluster itself gives a process for its end. */
const END_MS = 60_000;
const LOG_LINES = 20;

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

/** Processes of a cluster directory that still run, by the names that they have there. */
function running(directory: string): ReadonlyMap<string, number> {
  const found = new Map<string, number>();
  for (const file of readdirSync(directory)) {
    if (!file.endsWith(".pid")) continue;
    const pid = Number(textOf(join(directory, file)));
    const words = pid > 0 ? textOf(`/proc/${String(pid)}/cmdline`) : "";
    if (words.includes(directory)) found.set(file.slice(0, -".pid".length), pid);
  }
  return found;
}

/** Nothing, if the file, or the process that it tells of, has just gone. */
function textOf(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    if (["ENOENT", "ESRCH"].includes((error as NodeJS.ErrnoException).code ?? "")) return "";
    throw error;
  }
}

/** Wait until the cluster has stopped; what did not is killed, and what it logged last is told. */
async function stopped(directory: string): Promise<void> {
  if (!existsSync(directory)) return;
  try {
    await waitFor("nothing to be left", () => running(directory).size === 0, END_MS);
  } catch (error) {
    for (const [name, pid] of running(directory)) {
      const log = textOf(join(directory, `${name}.log`))
        .trimEnd()
        .split("\n");
      console.error(`${name} is left, and said last:\n${log.slice(-LOG_LINES).join("\n")}`);
      end(pid);
    }
    throw error;
  }
}

function end(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch (error) {
    // It has just gone by itself.
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
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
    await stopped(env.CLUSTER_DIR).finally(() => rmSync(folder, { recursive: true, force: true }));
  }
});
