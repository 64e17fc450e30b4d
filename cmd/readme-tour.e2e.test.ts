import { expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Subprocess, spawn } from "bun";
import { command, waitFor } from "./e2e-harness.ts";

const ROOT = join(import.meta.dir, "..");

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

test("every command of the README's tour works as it is written", async () => {
  const scripts = tourScripts(readFileSync(join(ROOT, "README.md"), "utf8"));
  expect(scripts.length).toBeGreaterThan(0);
  const folder = mkdtempSync(join(tmpdir(), "fastblock tour "));
  const env = { CLUSTER_DIR: join(folder, "cluster"), HOME: folder, CHECKOUT: ROOT };
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
        stdout: "ignore",
        stderr: "ignore",
      });
      served.push(start);
      await waitFor("npm start to serve, its demo done", async () => {
        if (start.exitCode !== null) throw new Error(`npm start ended with ${start.exitCode}`);
        const status = await command([join(ROOT, "dist", "fastblock"), "image", "ls"], env);
        return status.code === 0 && status.stdout.includes("demo");
      });
    }
  } finally {
    for (const start of served) start.kill("SIGTERM");
    for (const start of served) await start.exited;
    await command([join(ROOT, "dist", "fastblock"), "dev", "down", "--dir", env.CLUSTER_DIR]);
    rmSync(folder, { recursive: true, force: true });
  }
});
