import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { Command } from "@commander-js/extra-typings";
import { hunt, type PlantedBug, ZOO } from "../core/testing/bun-zoo-hunt.ts";

/**
 * Campaign C2: every bug of the zoo is planted, and the simulator must find it.
 *
 *   npm run zoo                          each bug, up to 500 seeds; report in dist/zoo.json
 *   npm run zoo -- vote-not-durable      one of them
 *
 * Not in the executable.
 */

const REPORT = join(import.meta.dir, "..", "dist", "zoo.json");
const SEEDS_MAX = 500;

interface Row {
  readonly name: string;
  readonly breaks: string;
  readonly what: string;
  /** How many seeds ran; the last of them failed, if the bug was found. */
  readonly seeds: number;
  readonly found: boolean;
  /** What the checker said, first line. */
  readonly verdict: string;
  readonly seconds: number;
}

async function huntOne(bug: PlantedBug, first: number, seeds: number): Promise<Row> {
  const startMs = performance.now();
  const { runs, failure } = await hunt(bug.name, [`${first}..${first + seeds - 1}`]);
  const seconds = Math.round((performance.now() - startMs) / 1000);
  const { name, breaks, what } = bug;
  const verdict = failure === null ? "" : failure.message.split("\n")[0]!;
  return { name, breaks, what, seeds: runs, found: failure !== null, verdict, seconds };
}

function show(row: Row): string {
  const { name, breaks, seeds, found, verdict, seconds } = row;
  const count = found ? `${seeds} seeds` : `NOT FOUND in ${seeds} seeds`;
  return `${name.padEnd(32)} ${breaks.padEnd(3)} ${count.padEnd(10)} ${seconds} s  ${verdict}\n`;
}

/** A whole number from 1 on. Throws on anything else. */
function whole(text: string): number {
  const value = Number(text);
  if (Number.isSafeInteger(value) && value > 0) return value;
  throw new Error(`number is malformed: ${text}, wanted a whole one from 1 on`);
}

function bugsOf(names: readonly string[]): readonly PlantedBug[] {
  if (names.length === 0) return ZOO;
  return names.map((name) => {
    const bug = ZOO.find((one) => one.name === name);
    if (bug !== undefined) return bug;
    throw new Error(`bug is unknown: ${name}, wanted ${ZOO.map((one) => one.name).join(", ")}`);
  });
}

const command = new Command("zoo")
  .description("plant bugs in our own code, one at a time: the simulator must find each of them")
  .argument("[NAME...]", "some bugs only")
  .option("--seeds <count>", "give a bug up after so many", whole, SEEDS_MAX)
  .option("--from <seed>", "the first seed", whole, 1)
  .option("--report <file>", "JSON", REPORT)
  .action(async (names, options) => {
    const rows: Row[] = [];
    for (const bug of bugsOf(names)) {
      const row = await huntOne(bug, options.from, options.seeds);
      rows.push(row);
      process.stdout.write(show(row));
    }
    const path = resolve(options.report);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, `${JSON.stringify({ from: options.from, rows }, undefined, 1)}\n`);
    const missed = rows.filter((row) => !row.found);
    process.stdout.write(`${rows.length - missed.length} of ${rows.length} found; ${path}\n`);
    if (missed.length > 0) process.exitCode = 1;
  });

await command.parseAsync();
