// cold path: for tests of what must make no garbage.
const ROUNDS = 4;

/**
 * Whether the collector came by in each of some rounds of twice `turns` turns: it does after some MiB of
 * garbage, and so tells of garbage that the heap's size does not show. Code that is not compiled yet
 * makes some. The runtime also collects by a timer of its own, once a second: what is due of that
 * comes before the mark is made, and nothing waits between the turns and the question.
 */
export async function isCollected(turns: number, turn: () => void): Promise<boolean> {
  for (let round = 0; round < ROUNDS; round++) {
    for (let count = 0; count < turns; count++) turn();
    await Bun.sleep(0);
    Bun.gc(true);
    const young = new WeakRef({ name: "collected by the next collection" });
    // What a reference was made of stays until the end of that job.
    await Bun.sleep(0);
    for (let count = 0; count < turns; count++) turn();
    if (young.deref() !== undefined) return false;
  }
  return true;
}
