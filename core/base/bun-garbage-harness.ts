// cold path: for tests of what must make no garbage.
import { drainMicrotasks } from "bun:jsc";

/**
 * Whether the collector came by in each of `rounds` rounds of twice `turns` turns: it does after some
 * MiB of garbage, and so tells of garbage that the heap's size does not show. Code that is not compiled
 * yet makes some, and on a busy machine that lasts for rounds; whoever makes none ends with the first
 * round without. The runtime's loop collects by timers of its own: all between the mark and the question
 * is one job, and what the loop asked for before is done when `Bun.gc` returns.
 */
export function isCollected(rounds: number, turns: number, turn: () => void): boolean {
  for (let round = 0; round < rounds; round++) {
    for (let count = 0; count < turns; count++) turn();
    Bun.gc(true);
    const young = new WeakRef({ name: "collected by the next collection" });
    // What a reference was made of stays until then.
    drainMicrotasks();
    for (let count = 0; count < turns; count++) turn();
    if (young.deref() !== undefined) return false;
  }
  return true;
}
