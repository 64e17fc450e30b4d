// The steps of the gate that are no tests. Each answers what it inspected: nothing is a failure.
import { existsSync, statSync } from "node:fs";
import { join } from "node:path";
import { ROOT, type RunResult, run, tool } from "./process.ts";

export interface CheckResult {
  readonly ok: boolean;
  /** One line: what was inspected, or what is wrong. */
  readonly summary: string;
  /** Shown when it failed. */
  readonly output: string;
}

/** Judge a finished tool: exit code 0 and something inspected. */
function judge(result: RunResult, inspectedCount: number, what: string): CheckResult {
  const isEmpty = result.code === 0 && inspectedCount <= 0;
  const summary = isEmpty ? `no ${what} were inspected` : `${inspectedCount} ${what}`;
  return { ok: result.code === 0 && !isEmpty, summary, output: result.output };
}

function numberIn(text: string, pattern: RegExp): number {
  return Number(pattern.exec(text)?.[1] ?? "0");
}

export async function checkFormat(): Promise<CheckResult> {
  const result = await run([tool("biome"), "format", "--max-diagnostics=none", "."]);
  const names = [...result.output.matchAll(/^(\S+) format ━/gm)].map((match) => match[1]);
  const output =
    names.length > 0 ? `run biome format --write on:\n${names.join("\n")}` : result.output;
  const count = numberIn(result.output, /Checked (\d+) files?/);
  return judge({ ...result, output }, count, "files");
}

/** Make the generated code again and compare it with what is committed. */
export async function checkGenerated(): Promise<CheckResult> {
  const result = await run([process.execPath, "proto/generate.ts", "--check"]);
  const generated = new Bun.Glob("proto/gen/*.ts").scanSync({ cwd: ROOT });
  return judge(result, [...generated].length, "files");
}

export async function checkTypes(): Promise<CheckResult> {
  const result = await run([tool("tsc"), "-p", ".", "--listFiles"]);
  const isSource = (line: string): boolean =>
    line.startsWith(`${ROOT}/`) && !line.includes("/node_modules/");
  const lines = result.output.split("\n");
  const files = lines.filter(isSource);
  const errors = lines.filter((line) => !line.startsWith("/")).join("\n");
  return judge({ ...result, output: errors }, files.length, "files");
}

export async function checkLint(): Promise<CheckResult> {
  const result = await run([
    tool("oxlint"),
    "--type-aware",
    "--deny-warnings",
    "--report-unused-disable-directives",
    "--format=unix",
    ".",
  ]);
  const files = await run([tool("oxlint"), "--debug=files", "."]);
  return judge(
    result,
    files.stdout.split("\n").filter((line) => /\.[a-z]+$/.test(line)).length,
    "files",
  );
}

export async function checkDeadCode(): Promise<CheckResult> {
  const result = await run([
    tool("knip"),
    "-c",
    ".ci/knip.json",
    "--no-progress",
    "--performance",
    "--treat-config-hints-as-errors",
  ]);
  const count = numberIn(result.output, /getImportsAndExports\s+(\d+)/);
  const report = result.output.replace(/^Name\s+size[\s\S]*$/m, "");
  return judge({ ...result, output: report }, count, "files");
}

/** Build the executable as `npm run build` does. */
export async function checkBuild(): Promise<CheckResult> {
  const result = await run(["node", ".ci/bootstrap.mjs", "build"]);
  const path = join(ROOT, "dist", "fastblock");
  const sizeBytes = existsSync(path) ? statSync(path).size : 0;
  return judge(result, Math.round(sizeBytes / 1e6), "MB");
}
