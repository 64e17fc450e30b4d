import { describe, expect, test } from "bun:test";
import { type Logger, silentLogger } from "../core/base/logger.ts";
import { createWorld } from "./world.ts";

const MIB = 1_048_576;

function collect(lines: string[]): Logger {
  return {
    ...silentLogger,
    info: (message) => void lines.push(`info ${message}`),
    warn: (message) => void lines.push(`warn ${message}`),
  };
}

describe("world of a process", () => {
  test("io_uring where it is allowed, and the log says so", async () => {
    const lines: string[] = [];
    const world = createWorld({ arenaBytes: 4 * MIB, logger: collect(lines) });
    expect(world.backend).toBe("uring");
    expect(lines).toEqual(["info reactor"]);
    await world.stop();
  });

  test("the fall-back on demand, and when io_uring can not be had, with one warning", async () => {
    const lines: string[] = [];
    const logger = collect(lines);
    const asked = createWorld({ arenaBytes: 4 * MIB, logger, prefer: "file" });
    expect(asked.backend).toBe("file");
    expect(lines).toEqual([]);
    await asked.stop();
    // No kernel gives a ring without entries.
    const forced = createWorld({ arenaBytes: 4 * MIB, logger, entries: 0 });
    expect(forced.backend).toBe("file");
    expect(lines.length).toBe(1);
    expect(lines[0]).toStartWith("warn io_uring is not available");
    await forced.stop();
    expect(() => createWorld({ arenaBytes: 4 * MIB, logger, entries: 0, prefer: "uring" })).toThrow(
      "io_uring_setup",
    );
  });
});
