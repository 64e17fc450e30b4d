import { drainMicrotasks } from "bun:jsc";
import type { CliContext } from "../core/cli/cli.ts";
import { SystemChecksum } from "../core/reactor/bun-system.ts";
import { runSimulation, type SimVerdict } from "../core/testing/testing.ts";

/** Run the seeds one after the other; ends with the error of the first that fails. */
export function simulate(cli: CliContext, first: number, last: number): Promise<SimVerdict[]> {
  const verdicts: SimVerdict[] = [];
  for (let seed = first; seed <= last; seed++) {
    const verdict = runSimulation({ seed, checksum: new SystemChecksum(), drainMicrotasks });
    verdicts.push(verdict);
    if (last > first) cli.say(`seed ${seed}: ${verdict.operations} operations, all right`);
  }
  return Promise.resolve(verdicts);
}
