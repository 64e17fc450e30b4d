// cold: the simulator
import { verifying } from "../base/assert.ts";
import type { FaultNote } from "./sim-faults.ts";
import { runSimulation, SimFailure, type SimRunOptions } from "./sim-run.ts";

/** Costly assertions find what they find in a build with them: `npm run build -- --verify`. */
const PROGRAM = verifying ? "dist/fastblock-verify" : "fastblock";
/** How long a schedule is shrunk before a person has waited enough. */
export const SHRINK_MS = 60_000;

/** A failing run with as few faults as were found to be needed. */
export interface Shrunk {
  readonly faults: readonly FaultNote[];
  /** Numbers of the faults that are left out. */
  readonly without: readonly number[];
  /** Of the smallest run that still fails. */
  readonly message: string;
}

/** A run without some faults, or parts (`sim-parts.ts`): how it failed, or null. */
export type Rerun = (without: ReadonlySet<number>) => SimFailure | null;

/**
 * Leave out faults, in groups that grow smaller, while the run still fails in whatever way. Stops
 * between two runs when `isLate`, with the best so far.
 */
export function shrinkFaults(failure: SimFailure, rerun: Rerun, isLate: () => boolean): Shrunk {
  let best = failure;
  const without = new Set<number>();
  for (let size = Math.ceil(best.faults.length / 2); size >= 1; size = Math.floor(size / 2)) {
    const numbers = best.faults.map(({ number }) => number);
    for (let at = 0; at < numbers.length && !isLate(); at += size) {
      const group = numbers.slice(at, at + size);
      const failed = rerun(new Set([...without, ...group]));
      if (failed === null) continue;
      best = failed;
      for (const number of group) without.add(number);
    }
  }
  return { faults: best.faults, without: [...without], message: best.message };
}

/** Runs a seed again and again. */
function rerunOf(options: SimRunOptions): Rerun {
  return (without) => {
    try {
      runSimulation({ ...options, without: new Set([...(options.without ?? []), ...without]) });
      return null;
    } catch (error) {
      if (error instanceof SimFailure) return error;
      throw error;
    }
  };
}

/** A schedule, as people read it. */
export function formatFaults(faults: readonly FaultNote[]): string {
  return faults
    .map(({ number, atUs, name, osd }) => {
      const where = osd < 0 ? "" : ` (osd.${String(osd)})`;
      return `  ${(atUs / 1000).toFixed(3)} ms: fault ${String(number)}, ${name}${where}`;
    })
    .join("\n");
}

/**
 * What a person is told of a seed that failed: why, with which faults (as few as were found to be
 * needed before `isLate`), and how to repeat it.
 */
export function tellFailure(
  options: SimRunOptions,
  failure: SimFailure,
  isLate: () => boolean,
): string {
  const { faults, without, message } = shrinkFaults(failure, rerunOf(options), isLate);
  const leftOut = [...(options.without ?? []), ...without];
  const left = leftOut.length === 0 ? "" : ` --without ${leftOut.join(",")}`;
  return [
    failure.message,
    message === failure.message ? "" : `with fewer faults: ${message}`,
    `faults:\n${formatFaults(faults)}`,
    `repeat: ${PROGRAM} sim --seed ${String(options.seed)}${left} --trace`,
  ]
    .filter((line) => line !== "")
    .join("\n");
}
