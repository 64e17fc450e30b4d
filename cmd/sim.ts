import type { CommandUnknownOpts } from "@commander-js/extra-typings";
import { FastblockError } from "../core/base/errors.ts";
import { type CliContext, type Column, parseWhole } from "../core/cli/cli.ts";
import type { SimVerdict } from "../core/testing/testing.ts";

/** `fastblock sim`: whole clusters in one thread, under one seed each. */

const COLUMNS: readonly Column[] = [
  { name: "seed" },
  { name: "operations" },
  { name: "crashes" },
  { name: "partitions" },
  { name: "pauses" },
  { name: "trace", path: "traceHash" },
];
const SEED_MAX = 2_147_483_647;

/** `run` carries seeds `first` to `last` out; it throws with the seed when a promise is broken. */
export function simCommand(
  root: CommandUnknownOpts,
  cli: CliContext,
  run: (first: number, last: number) => Promise<SimVerdict[]>,
): void {
  root
    .command("sim")
    .description("simulate a cluster with crashes, partitions and pauses; check every answer")
    .helpGroup("Measure:")
    .option("--seed <n>", "run one seed (default 1)")
    .option("--seeds <a..b>", "run a range of seeds")
    .option("--trace-hash", "end with the trace hash of the last seed, alone on a line")
    .addHelpText("after", "\nExample:\n  fastblock sim --seeds 1..100")
    .action(async (options) => {
      const [first, last] = rangeOf(options.seed, options.seeds);
      const verdicts = await run(first, last);
      await cli.rows(
        () => Promise.resolve(verdicts.map((verdict) => ({ ...verdict }))),
        COLUMNS,
        (row) => String(row["seed"]),
      );
      if (options.traceHash === true) cli.ports.out(`${verdicts.at(-1)!.traceHash}\n`);
    });
}

function rangeOf(seed: string | undefined, seeds: string | undefined): [number, number] {
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
