// `npm test`: everything that must hold before a change lands. The last line is `N passed, N failed`,
// where each test case counts, and each other step as one.
//
//   npm test                        all of it
//   npm test -- types lint unit     some steps (see --list)
//   npm test -- --seed 7            the order of the tests of an earlier run
import { mkdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import {
  type CheckResult,
  checkBuild,
  checkDeadCode,
  checkFormat,
  checkGenerated,
  checkLint,
  checkTypes,
} from "./checks.ts";
import { checkGuest } from "./guest.ts";
import { countTests, type TestCounts } from "./junit.ts";
import { ROOT, type RunResult, run, SCRATCH } from "./process.ts";
import { checkExecutable } from "./smoke.ts";
import { ensureTools, isCi } from "./tools.ts";

interface Outcome {
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
  readonly summary: string;
  readonly output: string;
}

interface Step {
  readonly name: string;
  readonly run: () => Promise<Outcome>;
}

/** Cheap steps that share the cores; the steps behind them need the machine for themselves. */
const TOGETHER_MAX = 2;
const OUTPUT_LINES_MAX = 200;
const OUTPUT_LINES_HEAD = 40;
/** Of what a failed test said, the error and what follows it stand first. */
const ERROR_LINES = 12;
/** A test that takes so long is named. */
const LONG_S = 60;
const SEED_MAX = 2 ** 31;
/** Test files of a whole gate that may fail once and pass when they are run again. */
const UNSTABLE_MAX = 2;

interface TestKind {
  readonly files: readonly string[];
  /** Milliseconds for one test that names no limit of its own. */
  readonly timeoutMs: number;
  readonly limitMs: number;
  /** Files at a time. */
  readonly parallel: number;
  /** They wait for real disks, sockets and processes. */
  readonly isOnRealTime: boolean;
}

function testFiles(): readonly string[] {
  const found = new Bun.Glob("{cmd,core,deploy,ffi,proto,web,.ci}/**/*.test.{ts,tsx}").scanSync({
    cwd: ROOT,
    dot: true,
  });
  return [...found].sort((a, b) => a.localeCompare(b));
}

/** The kind of test that a file's name tells: unit, io, sim or e2e. */
function kindOf(file: string): string {
  return /\.(io|sim|e2e)\.test\.tsx?$/.exec(file)?.[1] ?? "unit";
}

function filesOf(kind: string): readonly string[] {
  return testFiles().filter((file) => kindOf(file) === kind);
}

function asOutcome(result: CheckResult): Outcome {
  return {
    passed: result.ok ? 1 : 0,
    failed: result.ok ? 0 : 1,
    skipped: 0,
    summary: result.summary,
    output: result.output,
  };
}

function check(name: string, inspect: () => Promise<CheckResult>): Step {
  return { name, run: async () => asOutcome(await inspect()) };
}

function tests(name: string, seed: number, limits: Omit<TestKind, "files">): Step {
  return { name, run: () => runTests(name, seed, { files: filesOf(name), ...limits }) };
}

async function runTests(name: string, seed: number, kind: TestKind): Promise<Outcome> {
  if (kind.files.length === 0) {
    return { passed: 0, failed: 1, skipped: 0, summary: `no ${name} test was found`, output: "" };
  }
  const { counts, result } = await runFiles(name, seed, kind);
  const output = testOutput(result, kind.files, counts.failures);
  const again = kind.isOnRealTime
    ? await secondChance(name, seed, kind, counts, result.output)
    : null;
  if (again !== null) unstable.push(`${again}\n${output}`);
  const { passed, failed } =
    again === null ? counts : { passed: counts.passed + counts.failed, failed: 0 };
  const skipped = counts.skipped > 0 ? `, ${counts.skipped} skipped` : "";
  const once = again === null ? "" : `, ${counts.failed} of them unstable`;
  const files = `${kind.files.length} files${longestOf(counts)}`;
  const summary = `${passed} passed${once}, ${failed} failed${skipped}, ${files}`;
  return { passed, failed, skipped: counts.skipped, summary, output };
}

/** The test that a step waits for, if it is for long. */
function longestOf({ longest }: TestCounts): string {
  if (longest === null || longest.seconds < LONG_S) return "";
  return `, longest ${longest.file} with ${Math.round(longest.seconds)} s`;
}

async function runFiles(
  name: string,
  seed: number,
  kind: TestKind,
): Promise<{ readonly counts: TestCounts; readonly result: RunResult }> {
  const report = join(SCRATCH, `${name}.xml`);
  rmSync(report, { force: true });
  const result = await run(
    [
      process.execPath,
      "test",
      // A cluster that was started with --detach outlives the command that started it.
      ...(name === "e2e" ? [] : ["--no-orphans"]),
      ...(name === "sim" ? ["--preload", "./core/testing/bun-collect.ts"] : []),
      `--parallel=${kind.parallel}`,
      "--isolate",
      "--randomize",
      `--seed=${seed}`,
      `--timeout=${kind.timeoutMs}`,
      "--reporter=junit",
      `--reporter-outfile=${report}`,
      ...kind.files.map((file) => `./${file}`),
    ],
    { limitMs: kind.limitMs },
  );
  return { counts: countTests(readReport(report), kind.files, result.code), result };
}

/**
 * A test that waits for real disks, sockets and processes may wait in vain on a machine that stands
 * still for seconds. Two files of a whole gate that failed by lateness alone are run again for themselves,
 * and what they said is told at the end. Whoever found wrong data, or anything else, has found a fault.
 * Answers the failed cases, null: nothing failed, or it stays failed.
 */
async function secondChance(
  name: string,
  seed: number,
  kind: TestKind,
  counts: TestCounts,
  output: string,
): Promise<string | null> {
  const files = kind.files.filter((file) => counts.failures.some((at) => at.startsWith(file)));
  const isLate = counts.late === counts.failed && !/^# Unhandled error/m.test(output);
  if (!isLate || files.length === 0 || unstableFiles + files.length > UNSTABLE_MAX) return null;
  const again = await runFiles(name, seed, { ...kind, files });
  if (again.counts.failed > 0) return null;
  unstableFiles += files.length;
  return counts.failures.join("\n");
}

/**
 * What a failed run said, without what passed. Who keeps only the head of a long record still sees what
 * failed: that comes first; of a run that hung, which files were not through.
 */
function testOutput(
  result: RunResult,
  files: readonly string[],
  failures: readonly string[],
): string {
  const lines = result.output.split("\n").filter((line) => !/^(\(pass\)|✓|$)/.test(line));
  const isHeader = (line: string | undefined): boolean =>
    line?.endsWith(":") === true && files.includes(line.slice(0, -1));
  const named = result.isTimedOut
    ? files.filter((file) => !lines.includes(`${file}:`)).map((file) => `hung    ${file}`)
    : failures.map((text) => `failed  ${text}`);
  const said = lines.filter((line, at) => !(isHeader(line) && isHeader(lines[at + 1])));
  const errors = said.flatMap((line, at) =>
    /^(\w*[eE]rror): |^FAILED /.test(line) ? said.slice(at, at + ERROR_LINES) : [],
  );
  return [...named, ...errors, ...said].join("\n");
}

function readReport(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}

/** Outside of continuous integration a missing tool is told, and only its tests are left out. */
async function tools(): Promise<Outcome> {
  const result = await ensureTools();
  const isFault = !result.ok && isCi;
  return {
    passed: result.ok ? 1 : 0,
    failed: isFault ? 1 : 0,
    skipped: result.ok || isFault ? 0 : 1,
    summary: result.text.split("\n").at(-1) ?? "",
    output: result.text,
  };
}

function plan(seed: number): {
  readonly together: readonly Step[];
  readonly alone: readonly Step[];
} {
  return {
    together: [
      { name: "tools", run: tools },
      check("build", checkBuild),
      check("format", checkFormat),
      check("generated", checkGenerated),
      check("types", checkTypes),
      check("lint", checkLint),
      check("dead-code", checkDeadCode),
    ],
    alone: [
      tests("unit", seed, {
        timeoutMs: 20_000,
        limitMs: 240_000,
        parallel: 2,
        isOnRealTime: false,
      }),
      tests("sim", seed, {
        timeoutMs: 800_000,
        limitMs: 1_800_000,
        parallel: 2,
        isOnRealTime: false,
      }),
      tests("io", seed, { timeoutMs: 60_000, limitMs: 300_000, parallel: 2, isOnRealTime: true }),
      check("executable", checkExecutable),
      tests("e2e", seed, {
        timeoutMs: 300_000,
        limitMs: 2_700_000,
        parallel: 1,
        isOnRealTime: true,
      }),
      check("guest", checkGuest),
    ],
  };
}

/* -------------------------------------------------------------------- main */

const outcomes: Outcome[] = [];
/** What failed once and passed when it was run again, with what it said. */
const unstable: string[] = [];
let unstableFiles = 0;

async function perform(step: Step): Promise<void> {
  const startedMs = performance.now();
  const outcome = await step.run().catch(crashed);
  const tookS = ((performance.now() - startedMs) / 1000).toFixed(1);
  const word =
    outcome.failed > 0 ? "FAILED" : outcome.skipped > 0 && outcome.passed === 0 ? "skip" : "ok";
  console.log(
    `${word.padEnd(7)}${step.name.padEnd(12)}${tookS.padStart(6)} s   ${outcome.summary}`,
  );
  if (outcome.failed > 0) console.log(indent(outcome.output));
  outcomes.push(outcome);
}

function crashed(error: unknown): Outcome {
  const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
  return { passed: 0, failed: 1, skipped: 0, summary: "the step itself failed", output: text };
}

function indent(output: string): string {
  const lines = output.trim().split("\n");
  const left = lines.length - OUTPUT_LINES_MAX;
  const head = lines.slice(0, OUTPUT_LINES_HEAD);
  const tail = lines.slice(OUTPUT_LINES_HEAD - OUTPUT_LINES_MAX);
  const shown = left > 0 ? [...head, `… ${left} lines left out`, ...tail] : lines;
  return shown.map((line) => `    ${line}`).join("\n");
}

async function performTogether(steps: readonly Step[]): Promise<void> {
  const waiting = [...steps];
  const worker = async (): Promise<void> => {
    for (let step = waiting.shift(); step !== undefined; step = waiting.shift()) {
      await perform(step);
    }
  };
  await Promise.all(Array.from({ length: TOGETHER_MAX }, worker));
}

function readArguments(args: readonly string[]): { seed: number; names: readonly string[] } {
  const at = args.indexOf("--seed");
  const seed = at >= 0 ? Number(args[at + 1]) : Math.floor(Math.random() * SEED_MAX);
  if (!Number.isSafeInteger(seed)) fail(`seed is no number: ${args[at + 1]}, wanted --seed 7`);
  const names = at >= 0 ? [...args.slice(0, at), ...args.slice(at + 2)] : args;
  return { seed, names };
}

function fail(text: string): never {
  console.error(`error: ${text}`);
  process.exit(2);
}

async function main(): Promise<void> {
  const { seed, names } = readArguments(process.argv.slice(2));
  const { together, alone } = plan(seed);
  const known = [...together, ...alone].map((step) => step.name);
  if (names.includes("--list")) return console.log(known.join("\n"));
  const unknown = names.filter((name) => !known.includes(name));
  if (unknown.length > 0) fail(`step is unknown: ${unknown.join(" ")}, wanted ${known.join(" ")}`);
  const isWanted = (step: Step): boolean => names.length === 0 || names.includes(step.name);
  const startedMs = performance.now();
  mkdirSync(SCRATCH, { recursive: true });
  console.log(`seed ${seed}`);
  await performTogether(together.filter(isWanted));
  for (const step of alone.filter(isWanted)) await perform(step);
  rmSync(SCRATCH, { recursive: true, force: true });
  const tookS = Math.round((performance.now() - startedMs) / 1000);
  const sum = (pick: (outcome: Outcome) => number): number =>
    outcomes.reduce((total, outcome) => total + pick(outcome), 0);
  const failed = sum((outcome) => outcome.failed);
  const skipped = sum((outcome) => outcome.skipped);
  for (const text of unstable) console.log(`unstable, passed when run again:\n${indent(text)}`);
  console.log(`took ${tookS} s${skipped > 0 ? `, ${skipped} skipped` : ""}`);
  console.log(`${sum((outcome) => outcome.passed)} passed, ${failed} failed`);
  process.exitCode = failed > 0 ? 1 : 0;
}

await main();
