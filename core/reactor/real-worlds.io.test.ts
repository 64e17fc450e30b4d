import { afterAll, describe, expect, test } from "bun:test";
import { Ring, UringOp, UringUnavailable } from "../../ffi/uring/ring.ts";
import { RealHarness } from "./bun-real-harness.ts";
import { createBunWorld } from "./bun-world.ts";
import { createUringWorld } from "./uring-world.ts";
import { DrainOrder } from "./world.ts";

const IDLE_TURNS = 5;
const SLOT_BYTES = 1_048_576;

async function runChild(
  backend: string,
  place: string,
): Promise<{ code: number; output: string; errors: string }> {
  const script = Bun.fileURLToPath(new URL("./bun-fatal-child.ts", import.meta.url));
  const child = Bun.spawn([process.execPath, script, backend, place], {
    stdout: "pipe",
    stderr: "pipe",
  });
  const [output, errors] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ]);
  return { code: await child.exited, output, errors };
}

// G19: a violated invariant stops the process before it can acknowledge anything.
for (const place of ["handler", "promise"]) {
  describe(`an error in a ${place} ends the process`, () => {
    for (const backend of ["uring", "file"]) {
      test(backend, async () => {
        const { code, output, errors } = await runChild(backend, place);
        expect(errors).toContain("a violated invariant");
        expect(output).toBe("");
        expect(code).toBe(1);
      }, 20_000);
    }
  });
}

describe("the runtime's own loop as guest of the ring", () => {
  const harness = new RealHarness((options) => createUringWorld(options));
  afterAll(() => harness.close());

  test("HTTP, timers and child processes proceed", async () => {
    const server = Bun.serve({
      port: 0,
      hostname: "127.0.0.1",
      async fetch(request) {
        await Bun.sleep(1);
        return new Response(`got ${await request.text()}`);
      },
    });
    const url = `http://127.0.0.1:${server.port}/`;
    const answers = await Promise.all(
      [1, 2, 3].map(async (at) => (await fetch(url, { method: "POST", body: `${at}` })).text()),
    );
    expect(answers).toEqual(["got 1", "got 2", "got 3"]);
    const child = Bun.spawn(["true"]);
    expect(await child.exited).toBe(0);
    await server.stop(true);
    expect(harness.world.stats.guestTurns).toBeGreaterThan(0);
  });

  test("an idle reactor blocks", async () => {
    harness.world.releaseGuest();
    const startMs = performance.now();
    // Counted in the turns themselves: whoever looked from outside would wake the reactor.
    await new Promise<void>((resolve) => {
      let turns = 0;
      harness.world.turns.addDrain(DrainOrder.Apply, {
        drain: () => {
          turns += 1;
          if (turns === IDLE_TURNS) resolve();
        },
      });
    });
    harness.world.holdGuest();
    // A block lasts a second; what the runtime still had to do may end some of them early.
    expect(performance.now() - startMs).toBeGreaterThan(500);
  }, 20_000);
});

for (const [backend, create] of [
  ["uring", createUringWorld],
  ["file", createBunWorld],
] as const) {
  describe(`turns that take long, ${backend}`, () => {
    const harness = new RealHarness((options) => create(options));
    afterAll(() => harness.close());

    test("are told beyond what is fair", async () => {
      const { clock, turns } = harness.world;
      let isBusy = true;
      const beforeUs = clock.overrunUs;
      turns.addDrain(DrainOrder.Apply, {
        drain: () => {
          if (isBusy) Bun.sleepSync(120);
          isBusy = false;
        },
      });
      turns.again();
      // Other turns may be long on a busy machine.
      const isTold = (): boolean => clock.overrunUs - beforeUs >= 100_000;
      await harness.until(isTold, "the long turn to be over");
      expect(clock.overrunUs).toBeLessThan(clock.nowUs());
    });
  });
}

describe("slots at rest", () => {
  const harness = new RealHarness((options) => createUringWorld(options));
  afterAll(() => harness.close());

  test("their memory goes back, that of slots released later too", async () => {
    const { arena, slots } = harness.world;
    const take = (): number => {
      const offset = slots.take(SLOT_BYTES);
      arena.bytes.fill(1, offset, offset + SLOT_BYTES);
      return offset;
    };
    const isGone = (offset: number): boolean => arena.bytes[offset] === 0;
    const taken = Array.from({ length: 12 }, take);
    const late = taken.splice(6);
    for (const offset of taken) slots.release(offset);
    await harness.until(() => taken.every(isGone), "the first slots' memory");
    expect(late.some(isGone)).toBe(false);
    // Nothing is left to give back, at one look at least.
    await Bun.sleep(6000);
    for (const offset of late) slots.release(offset);
    await harness.until(() => late.every(isGone), "the late slots' memory");
  }, 40_000);
});

describe("ring", () => {
  test("more submissions than entries, more completions than fit", () => {
    const ring = new Ring({ entries: 8, completions: 16 });
    const seen = new Set<number>();
    const handler = {
      onCompletion(low: number, high: number, result: number): void {
        expect(high).toBe(9);
        expect(result).toBe(0);
        seen.add(low);
      },
    };
    for (let at = 0; at < 500; at++) ring.prepare(UringOp.Nop, -1, 0, 0, 0, 0, at, 9);
    for (let round = 0; round < 100 && seen.size < 500; round++) {
      ring.enter(0);
      ring.reap(handler);
    }
    expect(seen.size).toBe(500);
    ring.close();
    ring.close();
  });

  test("waits no longer than asked", () => {
    const ring = new Ring({ entries: 8, completions: 16, taskrun: "coop" });
    const start = performance.now();
    ring.enter(20_000);
    expect(performance.now() - start).toBeGreaterThanOrEqual(19);
    expect(ring.ready).toBe(false);
    ring.close();
  });

  test("what the kernel refuses is told apart", () => {
    let error: unknown;
    try {
      new Ring({ entries: 0, completions: 16 });
    } catch (caught) {
      error = caught;
    }
    expect(error).toBeInstanceOf(UringUnavailable);
    expect(String(error)).toContain("errno 22");
  });
});
