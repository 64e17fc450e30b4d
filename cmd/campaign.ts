import { spawn } from "bun";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { dirname, join, resolve } from "node:path";
import { drainMicrotasks, edenGC } from "bun:jsc";
import { Command } from "@commander-js/extra-typings";
import { SystemChecksum, SystemCiphers } from "../core/reactor/bun-system.ts";
import {
  checkRegisters,
  parseHistory,
  RegisterHistory,
  runSimulation,
  SHRINK_MS,
  SimFailure,
  SimMemory,
  SimTally,
  tellFailure,
} from "../core/testing/testing.ts";
import { formatKillReport, type KillOptions, runKillCampaign } from "./campaign-kill.ts";

/**
 * Campaigns against our own promises, for as long as wanted.
 *
 *   npm run campaign -- --minutes 60            all parts by turns, report in dist/campaign.json
 *   npm run campaign -- kill --kills 60         real processes alone
 *   npm run campaign -- check ops.jsonl         judge histories of `bench image --history`
 *
 * Not in the executable: it drives the one in dist/ as any outside harness would.
 */

const ROOT = join(import.meta.dir, "..");
/** Built with the costly assertions on. */
const PROGRAM = [join(ROOT, "dist", "fastblock-verify")];
const REPORT = join(ROOT, "dist", "campaign.json");
const KILLS_PER_TURN = 12;
const SEEDS_PER_TURN = 100;
const FUZZ_INPUTS_PER_TURN = 100_000;
const FAILPOINTS = "./core/pg/store-failpoints.sim.test.ts";
const ZOO = "./core/testing/zoo.sim.test.ts";
/** What a report keeps of a program's output. */
const OUTPUT_CHARS_MAX = 4_000;
const SEED_MAX = 2 ** 31;

/** What a turn of a part came to. */
interface Outcome {
  /** What a person reads. */
  readonly text: string;
  readonly failures: readonly string[];
  /** What the report keeps. */
  readonly data: unknown;
}

/** A part of the campaign: each of its turns takes a minute or two, and all that it draws from a seed. */
interface Part {
  readonly name: string;
  turn(seed: number): Promise<Outcome>;
}

const PARTS: readonly Part[] = [
  { name: "kill", turn: (seed) => killTurn(seed) },
  { name: "sim", turn: (seed) => Promise.resolve(simTurn(seed)) },
  {
    name: "failpoints",
    turn: (seed) => programTurn([process.execPath, "test", FAILPOINTS], { FAILPOINT_SEEDS: seed }),
  },
  {
    name: "fuzz",
    turn: (seed) => {
      const inputs = String(FUZZ_INPUTS_PER_TURN);
      return programTurn([...PROGRAM, "fuzz", "--seed", String(seed), "--inputs", inputs], {});
    },
  },
  { name: "zoo", turn: () => programTurn([process.execPath, "test", ZOO], {}) },
];

function say(text: string): void {
  process.stderr.write(`${text}\n`);
}

/** The first Ctrl-C asks for the end: what was done is judged, and all is taken away again. */
const interruption = new AbortController();
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.once(signal, () => interruption.abort());
}

function killOptions(seed: number): KillOptions {
  return {
    program: PROGRAM,
    seed,
    osds: [3, 3, 4, 5][seed % 4]!,
    shards: seed % 5 === 0 ? 2 : 1,
    gateways: 2,
    kills: KILLS_PER_TURN,
    timeMs: Infinity,
    only: "",
    pace: 1,
    historyPath: join(ROOT, "dist", `campaign-${seed}.jsonl`),
    keepHistory: false,
    interruption: interruption.signal,
    say,
  };
}

async function killTurn(seed: number): Promise<Outcome> {
  const report = await runKillCampaign(killOptions(seed));
  const again = `repeat: npm run campaign -- kill --seed ${seed}`;
  const failures = [...report.failures, ...report.late].map((text) => `${text}\n${again}`);
  return { text: formatKillReport(report), failures, data: report };
}

/** Of all turns: rare situations are met by many seeds together. */
const tally = new SimTally();

function simTurn(seed: number): Outcome {
  const failures: string[] = [];
  const startMs = performance.now();
  const before = tally.operations;
  const collect = (): void => void edenGC();
  const checksum = new SystemChecksum();
  const ciphers = new SystemCiphers();
  const runtime = { memory: new SimMemory(), checksum, ciphers, drainMicrotasks, collect };
  for (let at = seed; at < seed + SEEDS_PER_TURN; at++) {
    const options = { ...runtime, seed: at };
    try {
      tally.add(runSimulation(options));
    } catch (error) {
      if (!(error instanceof SimFailure)) throw error;
      const endMs = performance.now() + SHRINK_MS;
      failures.push(tellFailure(options, error, () => performance.now() >= endMs));
    }
  }
  const seconds = (performance.now() - startMs) / 1000;
  const operations = tally.operations - before;
  return {
    text: `seeds ${seed} to ${seed + SEEDS_PER_TURN - 1}: ${operations} operations in ${seconds.toFixed(0)} s, ${failures.length} failed`,
    failures,
    data: { first: seed, seeds: SEEDS_PER_TURN, operations, seconds },
  };
}

/** A part that is a program: its exit code is the verdict. */
async function programTurn(
  words: readonly string[],
  settings: Readonly<Record<string, number>>,
): Promise<Outcome> {
  const values = Object.entries(settings).map(([key, value]) => [key, String(value)]);
  const startMs = performance.now();
  const child = spawn([...words], {
    cwd: ROOT,
    env: { ...process.env, ...Object.fromEntries(values) },
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
  const texts = [new Response(child.stdout).text(), new Response(child.stderr).text()];
  const output = (await Promise.all(texts)).join("").trim().slice(-OUTPUT_CHARS_MAX);
  const code = await child.exited;
  const seconds = Math.round((performance.now() - startMs) / 1000);
  const again = [...values.map((pair) => pair.join("=")), ...words].join(" ");
  return {
    text: `${code === 0 ? "passed" : "failed"} in ${seconds} s: ${again}`,
    failures: code === 0 ? [] : [`${again}: exit code ${code}\n${output}`],
    data: { seconds, output },
  };
}

async function allParts(minutes: number, names: string, seed: number, path: string): Promise<void> {
  const wanted = names === "" ? PARTS.map(({ name }) => name) : names.split(",");
  const parts = wanted.map((name) => {
    const part = PARTS.find((one) => one.name === name);
    if (part !== undefined) return part;
    throw new Error(`part is unknown: ${name}, wanted ${PARTS.map((one) => one.name).join(", ")}`);
  });
  const endMs = performance.now() + minutes * 60_000;
  const turns: unknown[] = [];
  const failures: string[] = [];
  const isOver = (): boolean => performance.now() > endMs || interruption.signal.aborted;
  for (let turn = 0; turn === 0 || !isOver(); turn++) {
    for (const part of parts) {
      if (isOver() && turn > 0) break;
      const outcome = await part.turn(seed + turn * SEEDS_PER_TURN);
      say(`${part.name}: ${outcome.text}`);
      turns.push({ part: part.name, failures: outcome.failures, data: outcome.data });
      failures.push(...outcome.failures.map((text) => `${part.name}: ${text}`));
      writeReport(path, { seed, cores: availableParallelism(), failures, sim: tally, turns });
    }
  }
  failures.push(...tally.unmet.map((name) => `sim: never met in ${tally.seeds} seeds: ${name}`));
  writeReport(path, { seed, cores: availableParallelism(), failures, sim: tally, turns });
  say(`${turns.length} turns, ${failures.length} failures; report in ${path}`);
  for (const text of failures) say(`FAILED  ${text}`);
  if (failures.length > 0) process.exitCode = 1;
}

function writeReport(path: string, report: unknown): void {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, `${JSON.stringify(report, undefined, 1)}\n`);
}

function checkFiles(paths: readonly string[]): void {
  const history = new RegisterHistory();
  paths.forEach((path, client) => parseHistory(readFileSync(path, "utf8"), client, history));
  const verdict = checkRegisters(history);
  for (const text of verdict.violations) say(`FAILED  ${text}`);
  say(`${verdict.operations} operations on ${verdict.keys} blocks judged`);
  if (verdict.operations === 0 || verdict.violations.length > 0) process.exitCode = 1;
}

/** A whole number. Throws on anything else. */
function whole(text: string): number {
  const value = Number(text);
  if (Number.isSafeInteger(value) && value >= 0) return value;
  throw new Error(`number is malformed: ${text}, wanted a whole one`);
}

function commands(): Command {
  const drawn = Math.floor(Math.random() * SEED_MAX);
  const root = new Command("campaign")
    .enablePositionalOptions()
    .description("attack what fastblock promises, for as long as wanted")
    .option("--minutes <count>", "how long", Number, 10)
    .option("--parts <names>", `some of ${PARTS.map(({ name }) => name).join(",")}`, "")
    .option("--seed <number>", "of everything", whole, drawn)
    .option("--report <file>", "JSON", REPORT)
    .action((options) =>
      allParts(options.minutes, options.parts, options.seed, resolve(options.report)),
    );
  root
    .command("kill")
    .description("real processes: kill, stop, pause and cut them under a recorded load")
    .option("--kills <count>", "end after so many kills", whole, 60)
    .option("--time <seconds>", "end after this time", whole, 86_400)
    .option("--osds <count>", "osds (default: 3 to 5, by the seed)", whole)
    .option("--shards <count>", "reactors of each osd (default: 1 or 2, by the seed)", whole)
    .option("--seed <number>", "of everything but the cluster's own timing", whole, drawn)
    .option("--only <words>", "only faults whose name holds one of these, split by commas", "")
    .option("--history <file>", "keep the history there")
    .option("--report <file>", "JSON", REPORT)
    .action(async (options) => {
      const base = killOptions(options.seed);
      const report = await runKillCampaign({
        ...base,
        kills: options.kills,
        timeMs: options.time * 1000,
        osds: options.osds ?? base.osds,
        shards: options.shards ?? base.shards,
        only: options.only,
        historyPath: resolve(options.history ?? base.historyPath),
        keepHistory: options.history !== undefined,
      });
      writeReport(resolve(options.report), report);
      process.stdout.write(`${formatKillReport(report)}\n`);
      if (report.failures.length + report.late.length > 0) process.exitCode = 1;
    });
  root
    .command("check")
    .description("judge histories that `bench image --history` wrote")
    .argument("<FILE...>")
    .action((paths) => checkFiles(paths));
  return root;
}

await commands().parseAsync();
