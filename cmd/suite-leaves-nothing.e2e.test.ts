import { expect, test } from "bun:test";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { DuelReport, MicroRow, SuiteReport } from "../core/bench/bench.ts";
import { command, EXECUTABLE, succeed, waitFor } from "./e2e-harness.ts";

const SHORT = ["--repeat", "1", "--time", "300ms", "--ramp", "100ms", "--warm-up", "0s"];

async function inFolder(body: (folder: string) => Promise<void>): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), "fastblock suite "));
  try {
    await body(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Command lines of processes that were given the folder. */
function processesOf(folder: string): string[] {
  const pids = readdirSync("/proc").filter((name) => /^\d+$/.test(name));
  return pids.map(commandLine).filter((line) => line.includes(folder));
}

function commandLine(pid: string): string {
  const { stdout } = Bun.spawnSync(["cat", `/proc/${pid}/cmdline`], { stderr: "ignore" });
  return stdout.toString().replaceAll("\0", " ").trim();
}

test("the suite measures a cluster of its own beside the raw disk, and takes it away", async () => {
  await inFolder(async (folder) => {
    const directory = join(folder, "cluster");
    const rows = "randwrite:4KiB:8,randread:4KiB:8";
    const words = ["bench", "suite", "--dir", directory, "--image-size", "64MiB", ...SHORT];
    const text = await succeed([EXECUTABLE, ...words, "--rows", rows, "-o", "json"]);
    const report = JSON.parse(text) as SuiteReport;
    expect(report).toMatchObject({ kind: "suite", osds: 3, replicas: 3, backend: "uring" });
    expect(report.rows.map(({ name }) => name).join(",")).toBe(rows);
    const [write, read] = report.rows;
    // Each of three replicas writes its log at least, durably, and later the block.
    expect(write!.deviceBytesPerClientByte!).toBeGreaterThan(3);
    expect(write!.flushesPerClientWrite!).toBeGreaterThan(0);
    expect(read!.deviceBytesPerClientByte).toBeNull();
    for (const row of report.rows) {
      expect(row.iops).toBeGreaterThan(0);
      expect(row.processes.map(({ kind }) => kind).toSorted()).toEqual(["client", "mon", "osd"]);
      expect(row.switchesPerIo).toBeGreaterThan(0);
      expect(row.systemCallsPerIo!).toBeGreaterThan(0);
      expect(row.collections!.count).toBeGreaterThanOrEqual(0);
      if (Bun.which("fio") !== null) expect(row.ratioToRaw!).toBeGreaterThan(0);
    }
    const path = join(folder, "a.json");
    writeFileSync(path, text);
    const compared = await succeed([EXECUTABLE, "bench", "compare", path, path, "-o", "json"]);
    const verdicts = JSON.parse(compared) as readonly { figure: string; verdict: string }[];
    expect(verdicts.map(({ figure }) => figure)).toContain("randwrite:4KiB:8 iops");
    expect(new Set(verdicts.map(({ verdict }) => verdict))).toEqual(new Set(["same"]));
    expect(existsSync(directory)).toBe(false);
    expect(processesOf(folder)).toEqual([]);
  });
}, 120_000);

test("each figure is judged beside what the machine does without fastblock", async () => {
  await inFolder(async (folder) => {
    const directory = join(folder, "cluster");
    const words = ["bench", "suite", "--dir", directory, "--image-size", "128MiB", ...SHORT];
    const rows =
      "randwrite:4KiB:32,randread:4KiB:32,nbd:randread:4KiB:32,randwrite:4KiB:1,randwrite:4KiB:1:steady";
    const text = await succeed([EXECUTABLE, ...words, "--bars", "--rows", rows]);
    const lines = text.trim().split("\n").slice(1);
    expect(lines.map((line) => line.split(/\s+/)[0])).toEqual([
      "randwrite:4KiB:32",
      "randwrite:4KiB:32",
      "randwrite:4KiB:32",
      "randwrite:4KiB:1:steady",
      "randwrite:4KiB:1",
      "randwrite:4KiB:1",
      "randread:4KiB:32",
      ...(Bun.which("fio") === null ? [] : ["nbd:randread:4KiB:32"]),
    ]);
    for (const line of lines)
      expect(line).toMatch(/\d\.?\d* +at (least|most) +[\d.]+ +(-|[\d.]+) +(pass|FAIL)$/);
    // Beside CPU per I/O: that of processes which do nothing but send and write.
    expect(lines[1]).toMatch(/CPU µs per I\/O +[\d.]+ +at most +42 +[\d.]+ +(pass|FAIL)$/);
    expect(existsSync(directory)).toBe(false);
    expect(processesOf(folder)).toEqual([]);
  });
}, 120_000);

test("rows run encrypted on a cluster of their own, or all of them do", async () => {
  await inFolder(async (folder) => {
    const directory = join(folder, "cluster");
    const words = ["bench", "suite", "--dir", directory, "--image-size", "64MiB", ...SHORT];
    const rows = "randwrite:4KiB:8,encrypted:randwrite:4KiB:8,encrypted:nbd:randread:4KiB:8";
    const text = await succeed([EXECUTABLE, ...words, "--rows", rows, "-o", "json"]);
    const report = JSON.parse(text) as SuiteReport;
    expect(report.encrypted).toBe(false);
    const gateway = Bun.which("fio") === null ? [] : [true];
    expect(report.rows.map(({ encrypted }) => encrypted)).toEqual([false, true, ...gateway]);
    for (const row of report.rows) expect(row.iops).toBeGreaterThan(0);
    const few = ["--no-fio", "--rows", "randwrite:4KiB:8", "--encrypt"];
    const { code, stdout, stderr } = await command([EXECUTABLE, ...words, ...few]);
    expect([code, stdout.trim().split("\n").length]).toEqual([0, 2]);
    expect(stderr).toContain("header tags of connections are on, what they carry is encrypted");
    expect(processesOf(folder)).toEqual([]);
  });
}, 120_000);

test("the tail of latencies is that of an open loop at half of the peak", async () => {
  await inFolder(async (folder) => {
    const directory = join(folder, "cluster");
    const words = ["bench", "suite", "--dir", directory, "--image-size", "128MiB", ...SHORT];
    words.push("--tail-time", "1s", "--rows", "randwrite:4KiB:8:tail", "-o", "json");
    const { rows, bars } = JSON.parse(await succeed([EXECUTABLE, ...words])) as SuiteReport;
    const { iops, latencyUs, tail } = rows[0]!;
    expect(tail!.seconds).toBeGreaterThanOrEqual(1);
    expect(tail!.opsPerSecond / tail!.peakIops).toBeCloseTo(0.5, 2);
    expect(iops / tail!.opsPerSecond).toBeGreaterThan(0.9);
    expect(iops / tail!.opsPerSecond).toBeLessThan(1.1);
    expect(tail!.worst[0]!.latencyUs).toBe(latencyUs.max);
    expect(tail!.worst[0]!.atSeconds).toBeLessThan(1.5);
    expect(tail!.probeUs!.max).toBeGreaterThan(0);
    expect(bars).toEqual([]);
  });
}, 120_000);

test("cold reads are those of osds that were just started", async () => {
  await inFolder(async (folder) => {
    const directory = join(folder, "cluster");
    const words = ["bench", "suite", "--dir", directory, "--image-size", "64MiB", ...SHORT];
    const suite = Bun.spawn(
      [EXECUTABLE, ...words, "--rows", "randread:4KiB:8:cold", "-o", "json"],
      {
        stdout: "pipe",
        stderr: "ignore",
      },
    );
    const pids = new Set<string>();
    const look = (): void => {
      const path = join(directory, "osd.0.pid");
      if (existsSync(path)) pids.add(readFileSync(path, "utf8").trim());
    };
    const looking = setInterval(look, 20);
    const { rows } = JSON.parse(await new Response(suite.stdout).text()) as SuiteReport;
    clearInterval(looking);
    pids.delete("");
    expect(await suite.exited).toBe(0);
    expect(pids.size).toBe(2);
    expect(rows[0]!.iops).toBeGreaterThan(0);
    expect(rows[0]!.bare).toBeNull();
    expect(processesOf(folder)).toEqual([]);
  });
}, 120_000);

test("two builds are loaded at once, each by its own client, and both clusters are taken away", async () => {
  await inFolder(async (folder) => {
    const directory = join(folder, "clusters");
    const words = ["bench", "duel", EXECUTABLE, "--dir", directory, "--image-size", "64MiB"];
    const short = ["--rounds", "1", "--time", "1s", "--warm-up", "0s", "-o", "json"];
    const name = "randwrite:4KiB:8";
    const text = await succeed([EXECUTABLE, ...words, ...short, "--rows", name]);
    const report = JSON.parse(text) as DuelReport;
    expect(report).toMatchObject({ kind: "duel", osds: 3, replicas: 3, rounds: 1, seconds: 1 });
    expect(report.other).toBe(EXECUTABLE);
    expect(report.builds.this).not.toBe("");
    expect(report.builds.this).toBe(report.builds.other);
    expect(report.versions.this).toBe(report.versions.other);
    expect(report.rows).toMatchObject([{ name }]);
    for (const row of report.rows) {
      expect(row.runs).toEqual([{ this: row.this, other: row.other }]);
      for (const side of [row.this, row.other]) {
        expect(side.iops).toBeGreaterThan(0);
        expect(side.cpuUsPerIo!).toBeGreaterThan(0);
        expect(side.systemCallsPerIo!).toBeGreaterThan(0);
      }
      expect(row.cpuRatio!.median).toBeCloseTo(row.this.cpuUsPerIo! / row.other.cpuUsPerIo!, 2);
      expect(row.iopsRatio!.median).toBeCloseTo(row.this.iops / row.other.iops, 2);
    }
    expect(existsSync(directory)).toBe(false);
    expect(processesOf(folder)).toEqual([]);
  });
}, 120_000);

test("a duel that is interrupted takes both clusters and their loads away", async () => {
  await inFolder(async (folder) => {
    const directory = join(folder, "clusters");
    const words = ["bench", "duel", EXECUTABLE, "--dir", directory, "--image-size", "16MiB"];
    const duel = Bun.spawn([EXECUTABLE, ...words, "--warm-up", "0s", "--time", "60s"], {
      stdout: "ignore",
      stderr: "ignore",
    });
    const clusters = ["this", "other"].map((side) => join(directory, side));
    try {
      await waitFor("a load on each", () => {
        const loads = processesOf(folder).filter((line) => line.includes("--no-fill"));
        return clusters.every((cluster) => loads.some((line) => line.includes(cluster)));
      });
    } finally {
      duel.kill("SIGTERM");
      await duel.exited;
    }
    expect(duel.exitCode).toBe(130);
    expect(existsSync(directory)).toBe(false);
    expect(processesOf(folder)).toEqual([]);
  });
}, 120_000);

test("what is no other build is refused before anything starts", async () => {
  await inFolder(async (folder) => {
    const directory = join(folder, "clusters");
    const plain = join(folder, "plain");
    writeFileSync(plain, "x");
    for (const [other, code, error] of [
      [join(folder, "none"), 3, "FB1014"],
      [plain, 1, "FB1008"],
      [folder, 1, "FB1008"],
      ["/bin/true", 2, "FB1001"],
    ] as const) {
      const end = await command([EXECUTABLE, "bench", "duel", other, "--dir", directory]);
      expect([other, end.code]).toEqual([other, code]);
      expect(end.stderr).toContain(error);
      expect(end.stderr).toContain(other);
    }
    expect(readdirSync(folder)).toEqual(["plain"]);
  });
});

test("a local store is driven with snapshots, without and full, and its file is gone", async () => {
  await inFolder(async (folder) => {
    const path = join(folder, "store");
    const words = ["--image-size", "4MiB", "--time", "400ms", "--snapshot-every", "100ms"];
    const rows = await succeed([EXECUTABLE, "bench", "store", path, ...words, "-o", "json"]);
    const [without, withSnapshots] = JSON.parse(rows) as readonly MicroRow[];
    expect(without!.iops!).toBeGreaterThan(0);
    expect(withSnapshots!.note).toMatch(/^[1-9]\d* units copied$/);
    const small = [EXECUTABLE, "bench", "store", path, "--full", "--image-size", "1GiB"];
    const [full] = JSON.parse(await succeed([...small, "-o", "json"])) as readonly MicroRow[];
    expect(full!.note).toMatch(/^[23]\.\d+ device bytes per client byte: log 1\.\d+, home [01]/);
    expect((await command([...small, "--time", "5s"])).stderr).toContain("FB1001");
    writeFileSync(path, "mine");
    const end = await command([EXECUTABLE, "bench", "store", path, ...words]);
    expect(end.code).toBe(8);
    expect(end.stderr).toContain("FB4008");
    expect(readdirSync(folder)).toEqual(["store"]);
  });
}, 120_000);

test("a directory that holds something is refused and left alone", async () => {
  await inFolder(async (folder) => {
    const directory = join(folder, "mine");
    mkdirSync(directory);
    writeFileSync(join(directory, "precious"), "x");
    const end = await command([EXECUTABLE, "bench", "suite", "--dir", directory, ...SHORT]);
    expect(end.code).toBe(8);
    expect(end.stderr).toContain("FB4008");
    expect(readdirSync(directory)).toEqual(["precious"]);
  });
});
