import { drainMicrotasks, edenGC } from "bun:jsc";
import { SystemChecksum, SystemCiphers } from "../core/reactor/bun-system.ts";
import type { Hunt } from "../core/testing/bun-zoo-hunt.ts";
import { runSimulation, SimFailure, SimMemory } from "../core/testing/testing.ts";

/**
 * The process that `bun-zoo-hunt.ts` starts: runs the seeds that it is given until one fails, and
 * answers with one line of JSON. An argument is a seed, or a range like `1..500`.
 */

function* seedsOf(words: readonly string[]): Generator<number> {
  for (const word of words) {
    const [first, last = first] = word.split("..").map(Number);
    for (let seed = first!; seed <= last!; seed++) yield seed;
  }
}

/** Run them; answers how many ran, and the one that failed. */
function runSeeds(seeds: Iterable<number>): Hunt {
  const collect = (): void => void edenGC();
  const checksum = new SystemChecksum();
  const ciphers = new SystemCiphers();
  const options = { memory: new SimMemory(), checksum, ciphers, drainMicrotasks, collect };
  let runs = 0;
  for (const seed of seeds) {
    runs += 1;
    try {
      runSimulation({ ...options, seed });
    } catch (error) {
      if (!(error instanceof SimFailure)) throw error;
      return { runs, failure: { seed, message: error.message } };
    }
  }
  return { runs, failure: null };
}

process.stdout.write(`${JSON.stringify(runSeeds(seedsOf(process.argv.slice(2))))}\n`);
