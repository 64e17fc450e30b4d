import { drainMicrotasks } from "bun:jsc";
import { FastblockError } from "../core/base/errors.ts";
import { Prng } from "../core/base/prng.ts";
import { type CliContext, loadCommands } from "../core/cli/cli.ts";
import { SystemChecksum } from "../core/reactor/bun-system.ts";
import { BunFuzzMeter } from "../core/testing/bun-fuzz-meter.ts";
import { checkSeeds, type FuzzCounts, fuzzTargets, runFuzz } from "../core/testing/testing.ts";
import type { FuzzChoice } from "./fuzz.ts";

/** Run the targets one after the other; ends with the first input that breaks a promise. */
export async function fuzz(cli: CliContext, choice: FuzzChoice): Promise<FuzzCounts[]> {
  const { seed, first, inputs } = choice;
  const all = fuzzTargets({ checksum: new SystemChecksum(), drainMicrotasks });
  const targets = all.filter(({ name }) => choice.target === undefined || name === choice.target);
  if (targets.length === 0) {
    const names = all.map(({ name }) => name).join(", ");
    throw new FastblockError("FB1001", `reading --target: ${choice.target}, wanted ${names}`);
  }
  await loadCommands();
  const meter = new BunFuzzMeter();
  const counts: FuzzCounts[] = [];
  try {
    for (const target of targets) {
      checkSeeds(target, new Prng(1));
      const onProgress = (next: number): void => cli.say(`${target.name}: ${next}`);
      counts.push(runFuzz(target, { seed, first, inputs, meter, onProgress }));
    }
  } finally {
    meter.close();
  }
  return counts;
}
