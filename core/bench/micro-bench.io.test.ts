import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { cpuTimes } from "../../ffi/libc/libc.ts";
import { silentLogger } from "../base/logger.ts";
import { sleep } from "../reactor/world.ts";
import { createUringWorld } from "../reactor/uring-world.ts";
import type { CpuClock } from "./bench-row.ts";
import { parseFio, runFioDisk, runFioEcho, runFioNull } from "./bun-fio.ts";
import { serveBareReplica } from "./bare-replica.ts";
import { fillDisk, runDiskBench } from "./disk-bench.ts";
import { DiskProbe } from "./disk-probe.ts";
import { runEchoBench, runTurnBench, serveEcho } from "./reactor-bench.ts";

const MIB = 1_048_576;

describe("micro-benchmarks count what they ran", () => {
  const directory = mkdtempSync(join(tmpdir(), "fastblock-bench-"));
  const world = createUringWorld({ arenaBytes: 256 * MIB, logger: silentLogger });
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

  test("a disk that is probed beside something else", async () => {
    const disk = world.disks.open(join(directory, "probed"), { createBytes: 4 * MIB });
    const probe = new DiskProbe(world, disk);
    probe.start();
    const startUs = world.clock.nowUs();
    while (probe.latency.count < 3) await sleep(world.timers, 10_000);
    expect(await probe.stop()).toBe(0);
    const { count } = probe.latency;
    expect(count).toBeLessThanOrEqual(1 + (world.clock.nowUs() - startUs) / 10_000);
    await sleep(world.timers, 50_000);
    expect(probe.latency.count).toBe(count);
    disk.close();
  });

  test("messages and turns", async () => {
    const listener = serveEcho(world, { kind: "tcp", host: "127.0.0.1", port: 0 });
    const options = { depth: 16, payloadBytes: 4096, durationMs: 50 };
    const row = await runEchoBench(world, listener.address, options, cpu);
    expect(row.operations).toBeGreaterThan(16);
    listener.close();
    const turns = await runTurnBench(world, 20, cpu);
    expect(turns.operations).toBeGreaterThan(0);
  });

  test("bare writes of three copies: in the log and in the places of all", async () => {
    const paths = ["a", "b", "c"].map((name) => join(directory, name));
    const disks = paths.map((path) => world.disks.open(path, { createBytes: 8 * MIB }));
    const local = { kind: "tcp", host: "127.0.0.1", port: 0 } as const;
    const [leader, ...others] = disks;
    const followers = others.map((disk) => serveBareReplica(world, local, disk, [], 2).address);
    const { address } = serveBareReplica(world, local, leader!, followers, 2);
    const options = { depth: 128, payloadBytes: 4096, durationMs: 300 };
    const row = await runEchoBench(world, address, options, cpu);
    expect(row.operations).toBeGreaterThan(128);
    for (const path of paths) {
      const bytes = new Uint8Array(await Bun.file(path).arrayBuffer());
      const used = (from: number, to: number): number =>
        Array.from({ length: (to - from) / 4096 }, (_, at) => from + at * 4096).filter((at) =>
          bytes.subarray(at, at + 4096).some((byte) => byte !== 0),
        ).length;
      expect(used(0, 2 * MIB)).toBeGreaterThan(100);
      expect(used(2 * MIB, 8 * MIB)).toBeGreaterThan(100);
    }
  });

  test("answers that are read from a disk", async () => {
    const disk = world.disks.open(join(directory, "read"), { createBytes: 4 * MIB });
    await fillDisk(world, disk);
    const listener = serveEcho(world, { kind: "tcp", host: "127.0.0.1", port: 0 }, disk);
    const base = { payloadBytes: 0, durationMs: 50 };
    const small = { ...base, depth: 16, answerBytes: 4096, diskBytes: disk.sizeBytes };
    const row = await runEchoBench(world, listener.address, small, cpu);
    expect(row.operations).toBeGreaterThan(16);
    expect(row.name).toBe("message of 0 bytes, answer of 4096 bytes read depth 16");
    const large = { ...base, depth: 40, answerBytes: 131_072, diskBytes: disk.sizeBytes };
    const rows = await runEchoBench(world, listener.address, large, cpu);
    expect(rows.operations).toBeGreaterThan(40);
    const unread = await runEchoBench(
      world,
      listener.address,
      { ...base, depth: 1, answerBytes: 8192 },
      cpu,
    );
    expect(unread.operations).toBeGreaterThan(1);
    listener.close();
    disk.close();
  });

  test("fio drives the same file, messages and nothing at all beside them", async () => {
    const path = join(directory, "fio");
    const one = { verb: "write", depth: 4, blockBytes: 4096, durationMs: 100 } as const;
    const echo = { messageBytes: 4160, depth: 1, durationMs: 100, cpuOf: "both" } as const;
    for (const row of [
      await runFioDisk(path, MIB, false, one),
      await runFioEcho(echo),
      await runFioNull(50),
    ]) {
      if (row === undefined || "note" in row) throw new Error(`no row of fio: ${row?.note}`);
      expect(row.operations).toBeGreaterThan(0);
      expect(row.opsPerSecond).toBeGreaterThan(0);
      expect(row.latencyUs.p50).toBeLessThanOrEqual(row.latencyUs.p99);
      expect(row.cpuUsPerOp.user + row.cpuUsPerOp.system).toBeGreaterThan(0);
    }
  }, 40_000);

  test("what fio does not measure is named with the reason", async () => {
    const echo = { messageBytes: 64, depth: 32, durationMs: 100, cpuOf: "sender" } as const;
    expect(await runFioEcho(echo)).toEqual({
      name: "fio net 64 bytes each way depth 32",
      note: "fio keeps one message on its way",
    });
    const one = { verb: "read", depth: 1, blockBytes: 4096, durationMs: 50 } as const;
    const row = await runFioDisk("/dev/null/file", MIB, false, one);
    expect(row).toMatchObject({ note: expect.stringMatching(/^fio ended with \d+, wanted 0: ./) });
  });

  test("fio's output is read, warnings before it are skipped", () => {
    const side = {
      iops: 1000,
      total_ios: 3000,
      clat_ns: { max: 9_000_000, percentile: { "50.000000": 70_000, "99.000000": 200_000 } },
    };
    const idle = { ...side, iops: 0 };
    const sender = { jobname: "sender", read: idle, write: side, usr_cpu: 1, sys_cpu: 5 };
    const receiver = { jobname: "receiver", read: side, write: idle, usr_cpu: 2, sys_cpu: 3 };
    const text = `fio: note\n${JSON.stringify({ jobs: [receiver, sender] })}`;
    const wanted = { name: "fio", side: "write", job: "sender" } as const;
    const row = parseFio(text, wanted);
    expect(row).toMatchObject({
      name: "fio",
      opsPerSecond: 1000,
      latencyUs: { p50: 70, p99: 200 },
    });
    expect(row).toMatchObject({ cpuUsPerOp: { user: 10, system: 50 } });
    const both = parseFio(text, { ...wanted, cpuOfAll: true });
    expect(both).toMatchObject({ cpuUsPerOp: { user: 30, system: 80 } });
    expect(parseFio("fio: nothing", wanted)).toEqual({
      name: "fio",
      note: "fio's report names no such job",
    });
  });
});
