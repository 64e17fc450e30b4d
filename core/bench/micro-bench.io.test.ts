import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { cpuTimes } from "../../ffi/libc/libc.ts";
import { silentLogger } from "../base/logger.ts";
import { createUringWorld } from "../reactor/uring-world.ts";
import type { CpuClock } from "./bench-row.ts";
import { parseFio } from "./bun-fio.ts";
import { fillDisk, runDiskBench } from "./disk-bench.ts";
import { runEchoBench, runTurnBench, serveEcho } from "./reactor-bench.ts";

const MIB = 1_048_576;

describe("micro-benchmarks count what they ran", () => {
  const directory = mkdtempSync(join(tmpdir(), "fastblock-bench-"));
  const world = createUringWorld({ arenaBytes: 64 * MIB, logger: silentLogger });
  const cpu: CpuClock = { read: () => cpuTimes("process") };
  world.start();
  afterAll(async () => {
    await world.stop();
    rmSync(directory, { recursive: true, force: true });
  });

  test("disk", async () => {
    const disk = world.disks.open(join(directory, "disk"), { createBytes: 16 * MIB });
    await fillDisk(world, disk);
    for (const verb of ["write", "writeDurable", "read"] as const) {
      const one = { verb, depth: 8, blockBytes: 4096, durationMs: 50 };
      const row = await runDiskBench(world, disk, one, cpu);
      expect(row.operations).toBeGreaterThan(0);
      expect(row.latencyUs.p50).toBeLessThanOrEqual(row.latencyUs.p99);
      expect(row.latencyUs.p999).toBeLessThanOrEqual(row.latencyUs.max);
      expect(row.cpuUsPerOp.user + row.cpuUsPerOp.system).toBeGreaterThan(0);
    }
    disk.close();
  });

  test("messages and turns", async () => {
    const listener = serveEcho(world, { kind: "tcp", host: "127.0.0.1", port: 0 });
    const options = { depth: 16, payloadBytes: 4096, durationMs: 50 };
    const row = await runEchoBench(world, listener.address, options, cpu);
    expect(row.operations).toBeGreaterThan(16);
    listener.close();
    const turns = await runTurnBench(world, 20, cpu);
    expect(turns.operations).toBeGreaterThan(100);
  });

  test("fio's output is read, warnings before it are skipped", () => {
    const side = {
      iops: 1000,
      total_ios: 3000,
      clat_ns: { max: 9_000_000, percentile: { "50.000000": 70_000, "99.000000": 200_000 } },
    };
    const text = `fio: note\n${JSON.stringify({
      jobs: [{ read: side, write: side, usr_cpu: 1, sys_cpu: 5, job_runtime: 3000 }],
    })}`;
    const one = { verb: "write", depth: 4, blockBytes: 4096, durationMs: 3000 } as const;
    const row = parseFio(text, false, one);
    expect(row?.opsPerSecond).toBe(1000);
    expect(row?.latencyUs.p50).toBe(70);
    expect(row?.cpuUsPerOp.system).toBe(50);
  });
});
