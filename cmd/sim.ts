import type { CommandUnknownOpts } from "@commander-js/extra-typings";
import { FastblockError } from "../core/base/errors.ts";
import { type CliContext, type Column, parseWhole } from "../core/cli/cli.ts";
import type { SimVerdict } from "../core/testing/testing.ts";

/** `fastblock sim`: whole clusters in one thread, under one seed each. */

const COLUMNS: readonly Column[] = [
  { name: "seed" },
  { name: "operations" },
  { name: "shared" },
  { name: "unanswered" },
  { name: "fills" },
  { name: "trace", path: "traceHash" },
];
const SEED_MAX = 2_147_483_647;
const JOBS_MAX = 256;

/** What to simulate. */
export interface SimChoice {
  readonly first: number;
  readonly last: number;
  /** Processes that share the seeds. */
  readonly jobs: number;
  /** Faults that are left out, by their number. */
  readonly without: readonly number[];
  /** Print what happens, as it happens. */
  readonly trace: boolean;
  /** Fail when no run met some rare situation. */
  readonly probes: boolean;
}

/**
 * `run` carries the seeds out and answers the runs in which all was right; it has told of the others,
 * and set the exit code.
 */
export function simCommand(
  root: CommandUnknownOpts,
  cli: CliContext,
  run: (choice: SimChoice) => Promise<SimVerdict[]>,
): void {
  root
    .command("sim")
    .description("Simulate clusters with faults of every kind; check every answer")
    .helpGroup("Measure:")
    .option("--seed <n>", "run one seed (default 1)")
    .option("--seeds <a..b>", "run a range of seeds")
    .option("--jobs <n>", "share the seeds among so many processes", "1")
    .option("--without <n,n>", "leave out faults, by their number")
    .option(
      "--trace",
      "tell on stderr what the processes log, and the faults, with simulated times",
    )
    .option("--trace-hash", "end with the trace hash of the last seed, alone on a line")
    .option("--probes", "fail when a rare situation was never met")
    .addHelpText("after", "\nExample:\n  fastblock sim --seeds 1..100 --jobs 2")
    .action(async (options) => {
      const [first, last] = rangeOf(options.seed, options.seeds);
      const verdicts = await run({
        first,
        last,
        jobs: parseWhole(options.jobs, "--jobs", 1, JOBS_MAX),
        without: (options.without ?? "")
          .split(",")
          .filter((word) => word !== "")
          .map((word) => parseWhole(word, "--without", 1, SEED_MAX)),
        trace: options.trace === true,
        probes: options.probes === true,
      });
      await cli.rows(
        () => Promise.resolve(verdicts.map((verdict) => ({ ...verdict }))),
        COLUMNS,
        (row) => String(row["seed"]),
      );
      const hash = verdicts.at(-1)?.traceHash;
      if (options.traceHash === true && hash !== undefined) cli.ports.out(`${hash}\n`);
    });
}

function rangeOf(seed: string | undefined, seeds: string | undefined): [number, number] {
  if (seed !== undefined && seeds !== undefined) {
    throw new FastblockError(
      "FB1001",
      `reading --seed ${seed} beside --seeds ${seeds}, wanted one of them`,
    );
  }
  if (seeds === undefined) {
    const one = parseWhole(seed ?? "1", "--seed", 0, SEED_MAX);
    return [one, one];
  }
  const match = /^(\d+)\.\.(\d+)$/.exec(seeds);
  if (match === null) {
    throw new FastblockError("FB1001", `reading --seeds: ${seeds}, wanted like 1..100`);
  }
  const first = parseWhole(match[1]!, "--seeds", 0, SEED_MAX);
  return [first, parseWhole(match[2]!, "--seeds", first, SEED_MAX)];
}
