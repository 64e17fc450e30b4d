// cold path: for tests of what must make no garbage.
import { drainMicrotasks } from "bun:jsc";

/** Code that is not compiled yet makes garbage, and on a busy machine that lasts for rounds. */
const ROUNDS_MAX = 24;
const ROUNDS_OF_CONTROL = 3;
/** The more a process holds, the more garbage its collector waits for. */
const DOUBLINGS_MAX = 6;

/**
 * Whether `turn` makes garbage: as much as `control` does, or less. `control` is the same with one
 * small object more a unit of work; with it the measurement finds how many turns make garbage seen, from
 * `turns` on. Throws when none do.
 *
 * The collector comes by after some MiB of garbage, and so tells of garbage that the heap's size does
 * not show. Whoever makes none ends with the first round without.
 */
export function makesGarbage(turns: number, turn: () => void, control: () => void): boolean {
  for (let doublings = 0; doublings <= DOUBLINGS_MAX; doublings++) {
    const seenBy = turns * 2 ** doublings;
    if (isCollected(ROUNDS_OF_CONTROL, seenBy, control)) {
      return isCollected(ROUNDS_MAX, seenBy, turn);
    }
  }
  throw new Error("makesGarbage: the control's garbage was never collected");
}

/**
 * Whether the collector came by in each of `rounds` rounds of twice `turns` turns. The runtime's loop
 * collects by timers of its own: all between the mark and the question is one job, and what the loop
 * asked for before is done when `Bun.gc` returns.
 */
function isCollected(rounds: number, turns: number, turn: () => void): boolean {
  for (let round = 0; round < rounds; round++) {
    for (let count = 0; count < turns; count++) turn();
    Bun.gc(true);
    const young = youngObjects();
    // What a reference was made of stays until then.
    drainMicrotasks();
    for (let count = 0; count < turns; count++) turn();
    if (young.every((one) => one.deref() !== undefined)) return false;
  }
  return true;
}

/** The next collection takes them; but for one or the other that an old word on the stack looks like. */
function youngObjects(): WeakRef<object>[] {
  return Array.from({ length: 64 }, (_, at) => new WeakRef({ at }));
}
