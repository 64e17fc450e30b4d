import { AssertionError, failOnBug } from "../base/assert.ts";
import { silentLogger } from "../base/logger.ts";
import { createBunWorld } from "./bun-world.ts";
import { createUringWorld } from "./uring-world.ts";
import { DrainOrder, Timer } from "./world.ts";

/**
 * A process whose reactor meets a violated invariant; run by the tests with the backend's name, and with
 * `promise` where only a promise meets it.
 */
const options = { arenaBytes: 4 * 1_048_576, logger: silentLogger };
const world = process.argv[2] === "uring" ? createUringWorld(options) : createBunWorld(options);

class Violation extends Timer {
  fired = false;
  onTimer(): void {
    this.fired = true;
    if (process.argv[3] !== "promise") throw new Error("a violated invariant");
    const work = Promise.reject(new AssertionError("a violated invariant"));
    work.catch((error: unknown) => failOnBug(world, error));
  }
}

const violation = new Violation();
world.turns.addDrain(DrainOrder.Send, {
  drain() {
    if (violation.fired) process.stdout.write("acknowledged after the violation\n");
  },
});
world.timers.arm(violation, 2_000);
world.start();
setInterval(() => undefined, 1_000);
