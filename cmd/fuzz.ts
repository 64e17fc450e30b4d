import type { CommandUnknownOpts } from "@commander-js/extra-typings";
import { type CliContext, type Column, parseWhole } from "../core/cli/cli.ts";
import type { FuzzCounts } from "../core/testing/testing.ts";

/** `fastblock fuzz`: decoders on mutated input. */

const COLUMNS: readonly Column[] = [
  { name: "target" },
  { name: "inputs" },
  { name: "accepted" },
  { name: "rate", path: "inputsPerSecond" },
  { name: "most-bytes", path: "inputBytesMax" },
];
const SEED_MAX = 2_147_483_647;
const INPUTS_MAX = 1_000_000_000;

/** What to run; no target: all of them. */
export interface FuzzChoice {
  readonly target: string | undefined;
  readonly seed: number;
  readonly first: number;
  readonly inputs: number;
}

/** `run` throws with the input, and how to repeat it, when a decoder breaks a promise. */
export function fuzzCommand(
  root: CommandUnknownOpts,
  cli: CliContext,
  run: (choice: FuzzChoice) => Promise<FuzzCounts[]>,
): void {
  root
    .command("fuzz")
    .description("Run decoders on mutated input; check what they promise")
    .helpGroup("Measure:")
    .option("--target <name>", "only this one (default: all)")
    .option("--inputs <n>", "for each target (default 100000)")
    .option("--seed <n>", "of the inputs (default 1)")
    .option("--first <n>", "index of the first input (default 0)")
    .addHelpText("after", "\nExample:\n  fastblock fuzz --target nbd --inputs 1000000")
    .action(async (options) => {
      const counts = await run({
        target: options.target,
        seed: parseWhole(options.seed ?? "1", "--seed", 0, SEED_MAX),
        first: parseWhole(options.first ?? "0", "--first", 0, INPUTS_MAX),
        inputs: parseWhole(options.inputs ?? "100000", "--inputs", 1, INPUTS_MAX),
      });
      await cli.rows(
        () => Promise.resolve(counts.map((count) => ({ ...count }))),
        COLUMNS,
        (row) => String(row["target"]),
      );
    });
}
