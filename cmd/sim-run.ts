import { drainMicrotasks, edenGC } from "bun:jsc";
import type { CliContext } from "../core/cli/cli.ts";
import { SystemChecksum, SystemCiphers } from "../core/reactor/bun-system.ts";
import {
  runSimulation,
  SHRINK_MS,
  SimFailure,
  SimMemory,
  type SimRunOptions,
  SimTally,
  type SimVerdict,
  tellFailure,
} from "../core/testing/testing.ts";
import type { SimChoice } from "./sim.ts";

/**
 * Run the seeds; `program` is this executable, for further processes. Tells of every seed that fails,
 * with the command that repeats it, and shrinks the first one's faults.
 */
export async function simulate(
  cli: CliContext,
  choice: SimChoice,
  program: readonly string[],
): Promise<SimVerdict[]> {
  const startMs = cli.ports.nowMs();
  const isShared = choice.jobs > 1 && choice.last > choice.first;
  const verdicts = isShared ? await share(cli, choice, program) : runAll(cli, choice);
  const tally = new SimTally();
  for (const verdict of verdicts) tally.add(verdict);
  if (choice.last > choice.first) {
    const seconds = (cli.ports.nowMs() - startMs) / 1000;
    cli.say(`${tally.seeds} seeds all right in ${seconds.toFixed(0)} s: ${JSON.stringify(tally)}`);
  }
  if (choice.probes && tally.missed.length > 0) {
    cli.say(`never met: ${tally.missed.join(", ")}`);
    cli.exitCode = 1;
  }
  return verdicts;
}

function runAll(cli: CliContext, choice: SimChoice): SimVerdict[] {
  const verdicts: SimVerdict[] = [];
  const memory = new SimMemory();
  let hasFailed = false;
  for (let seed = choice.first; seed <= choice.last; seed++) {
    const options: SimRunOptions = {
      seed,
      memory,
      checksum: new SystemChecksum(),
      ciphers: new SystemCiphers(),
      drainMicrotasks,
      collect: () => void edenGC(),
      without: new Set(choice.without),
    };
    const trace = (atUs: number, who: string, text: string): void =>
      cli.ports.err(`${(atUs / 1000).toFixed(3)} ms ${who} ${text}\n`);
    try {
      verdicts.push(runSimulation(choice.trace ? { ...options, trace } : options));
    } catch (error) {
      if (!(error instanceof SimFailure)) throw error;
      const endMs = cli.ports.nowMs() + (hasFailed ? 0 : SHRINK_MS);
      const isLate = (): boolean => cli.ports.nowMs() >= endMs;
      cli.ports.err(`FAILED  ${tellFailure(options, error, isLate)}\n`);
      hasFailed = true;
      cli.exitCode = 1;
    }
  }
  return verdicts;
}

/** Every process takes the next seeds in line. */
async function share(
  cli: CliContext,
  choice: SimChoice,
  program: readonly string[],
): Promise<SimVerdict[]> {
  const verdicts: SimVerdict[] = [];
  const count = choice.last - choice.first + 1;
  const size = Math.ceil(count / choice.jobs);
  const works: Promise<void>[] = [];
  for (let first = choice.first; first <= choice.last; first += size) {
    const last = Math.min(choice.last, first + size - 1);
    works.push(
      runElsewhere(cli, choice, [...program, "sim", `--seeds=${first}..${last}`], verdicts),
    );
  }
  await Promise.all(works);
  return verdicts.sort((one, other) => one.seed - other.seed);
}

async function runElsewhere(
  cli: CliContext,
  choice: SimChoice,
  command: readonly string[],
  verdicts: SimVerdict[],
): Promise<void> {
  const without = choice.without.length === 0 ? [] : [`--without=${choice.without.join(",")}`];
  const child = Bun.spawn([...command, ...without, "--quiet", "-o", "json"], {
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
  const [out, err] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ]);
  if (err !== "") cli.ports.err(err);
  if ((await child.exited) !== 0) cli.exitCode = 1;
  if (out !== "") verdicts.push(...(JSON.parse(out) as SimVerdict[]));
}
