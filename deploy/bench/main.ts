// Ceph and fastblock on one machine and one disk, measured in turns. README.md says how.
//
//   bun deploy/bench/main.ts up     make both clusters, their images written in full
//   bun deploy/bench/main.ts run    measure, row by row, both and the disk itself in turns
//   bun deploy/bench/main.ts report print what a run wrote
//   bun deploy/bench/main.ts down   end both, remove their directory
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { cpus, release, totalmem } from "node:os";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { Ceph, installCeph } from "./ceph.ts";
import { type Run, runOf, type Timing, watch } from "./measure.ts";
import { deviceOf, Meter } from "./meter.ts";
import { Ours } from "./ours.ts";
import {
  endForeground,
  output,
  ownerOf,
  ownProcesses,
  type RunningLoad,
  startLoad,
  stopOwn,
} from "./own-processes.ts";
import { parseFioLoad, parseOurLoad } from "./readings.ts";
import { type Report, reportText } from "./report.ts";
import {
  type CephProfile,
  GIB,
  isWrite,
  type Load,
  LOADS,
  readSettings,
  type Settings,
  type System,
  writeSettings,
} from "./settings.ts";

const ROOT = resolve(import.meta.dir, "..", "..");
/** Beside ramp and measured time: a client's start and end. */
const SPARE_MS = 60_000;
const FILL_MS = 600_000;
const INTERRUPTED_EXIT = 130;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    dir: { type: "string", default: "/var/tmp/fastblock-bench" },
    program: { type: "string", default: join(ROOT, "dist", "fastblock") },
    profile: { type: "string", default: "auto" },
    "osd-gib": { type: "string", default: "6" },
    "image-gib": { type: "string", default: "4" },
    "mon-port": { type: "string", default: "40700" },
    out: { type: "string", default: "ceph-beside-fastblock.json" },
    time: { type: "string", default: "20" },
    ramp: { type: "string", default: "3" },
    repeat: { type: "string", default: "3" },
    loads: { type: "string", default: "" },
  },
});
const directory = resolve(values.dir);

function say(text: string): void {
  process.stderr.write(`${new Date().toISOString().slice(11, 19)} ${text}\n`);
}

function numberOf(name: "osd-gib" | "image-gib" | "mon-port" | "time" | "ramp" | "repeat"): number {
  const value = Number(values[name]);
  if (Number.isFinite(value) && value > 0) return value;
  throw new Error(`reading --${name}: ${values[name]}, wanted a number above 0`);
}

async function up(): Promise<void> {
  const before = existsSync(directory) ? readSettings(directory) : undefined;
  if (before?.complete === true && ownProcesses(before.token).length > 0) {
    say(`${directory}: both clusters are up already`);
    return;
  }
  if (existsSync(directory) && readdirSync(directory).length > 0) {
    const way = before === undefined ? "name another one with --dir" : "run down first";
    throw new Error(`making ${directory}: it is not empty, wanted an empty directory; ${way}`);
  }
  const profile = values.profile as CephProfile;
  if (!["auto", "ssd", "hdd"].includes(profile)) {
    throw new Error(`reading --profile: ${profile}, wanted auto, ssd or hdd`);
  }
  const settings: Settings = {
    token: crypto.randomUUID(),
    profile,
    osdBytes: numberOf("osd-gib") * GIB,
    imageBytes: numberOf("image-gib") * GIB,
    monPort: numberOf("mon-port"),
    complete: false,
  };
  await installCeph(say);
  mkdirSync(directory, { recursive: true });
  writeSettings(directory, settings);
  await new Ceph(directory, settings).start(say);
  await new Ours(directory, settings, values.program).start(say);
  say("writing the file of raw fio in full");
  const fill = ["--rw=write", "--bs=1M", "--iodepth=8", "--end_fsync=1"];
  const { code, errors } = await startedRaw(settings, fill, FILL_MS).ended;
  if (code !== 0) throw new Error(`writing raw.img: exit code ${code} of fio, wanted 0: ${errors}`);
  writeSettings(directory, { ...settings, complete: true });
  say(`both clusters are up in ${directory}`);
}

/** Ends only what carries the directory's token, and removes only a directory that has one. */
async function down(): Promise<void> {
  const settings = existsSync(directory) ? readSettings(directory) : undefined;
  if (settings === undefined) {
    say(`${directory}: no clusters of ours`);
    return;
  }
  const count = await stopOwn(settings.token);
  rmSync(directory, { recursive: true });
  say(`${count} processes ended, ${directory} removed`);
}

function startedRaw(settings: Settings, more: readonly string[], limitMs: number): RunningLoad {
  const place = [`--filename=${join(directory, "raw.img")}`, `--size=${settings.imageBytes}`];
  const words = ["fio", "--name=raw", "--ioengine=io_uring", ...place, "--direct=1", "--thread"];
  const env = ownerOf(settings.token, "raw");
  return startLoad({ words: [...words, "--output-format=json", ...more], env, limitMs });
}

function fioTiming({ timeMs, rampMs }: Timing): string[] {
  const often = ["--time_based", `--runtime=${timeMs}ms`, `--ramp_time=${rampMs}ms`];
  return [...often, "--randrepeat=0", "--norandommap", "--percentile_list=50:99"];
}

function start(system: System, settings: Settings, load: Load, timing: Timing): RunningLoad {
  const limitMs = timing.timeMs + timing.rampMs + SPARE_MS;
  if (system === "ceph") {
    return new Ceph(directory, settings).load(load, fioTiming(timing), limitMs);
  }
  if (system === "fastblock") {
    return new Ours(directory, settings, values.program).load(load, timing, limitMs);
  }
  const durable = isWrite(load) ? ["--sync=dsync"] : [];
  const shape = [`--rw=${load.rw}`, `--bs=${load.blockBytes}`, `--iodepth=${load.depth}`];
  return startedRaw(settings, [...shape, ...durable, ...fioTiming(timing)], limitMs);
}

/** Turns change places from one repetition to the next: nobody always goes behind the other. */
function turnsOf(repetition: number): readonly System[] {
  return repetition % 2 === 1 ? ["raw", "ceph", "fastblock"] : ["fastblock", "ceph", "raw"];
}

/** Caches and compiled code of both clusters as they are after a while at work; not measured. */
async function warmUp(settings: Settings, timing: Timing): Promise<void> {
  for (const load of LOADS.filter(({ depth }) => depth === 32)) {
    for (const system of ["ceph", "fastblock"] as const) {
      say(`warming up ${system}: ${load.name}`);
      const { code, errors } = await start(system, settings, load, timing).ended;
      if (code !== 0)
        throw new Error(`warming up ${system}: exit code ${code}, wanted 0: ${errors}`);
    }
  }
}

async function run(): Promise<void> {
  const settings = existsSync(directory) ? readSettings(directory) : undefined;
  if (settings?.complete !== true) {
    throw new Error(`looking into ${directory}: no clusters that up completed; run up first`);
  }
  const loads = LOADS.filter(({ name }) => name.includes(values.loads));
  if (loads.length === 0) throw new Error(`reading --loads: no load's name has ${values.loads}`);
  const timing = { timeMs: numberOf("time") * 1000, rampMs: numberOf("ramp") * 1000 };
  const repeat = numberOf("repeat");
  const meter = new Meter(settings.token, deviceOf(directory));
  const about = await reportWithout(settings, timing, repeat);
  const runs: Run[] = [];
  await warmUp(settings, timing);
  // A bad minute of the machine hits one repetition of some rows, not all of one row.
  for (let repetition = 1; repetition <= repeat; repetition++) {
    for (const load of loads) {
      for (const system of turnsOf(repetition)) {
        runs.push(await oneRun(meter, { load, system, repetition, settings, timing }));
        // After each run: who is interrupted keeps what there is.
        writeFileSync(values.out, `${JSON.stringify({ ...about, runs }, null, 1)}\n`);
      }
    }
  }
  process.stdout.write(reportText({ ...about, runs }));
}

async function oneRun(
  meter: Meter,
  turn: { load: Load; system: System; repetition: number; settings: Settings; timing: Timing },
): Promise<Run> {
  const { load, system, repetition, settings, timing } = turn;
  const startedAt = new Date().toISOString();
  const side = isWrite(load) ? "write" : "read";
  const read = system === "fastblock" ? parseOurLoad : (text: string) => parseFioLoad(text, side);
  const running = start(system, settings, load, timing);
  const one = runOf({ ...turn, startedAt }, await watch(meter, load, timing, running, read));
  const cost = `${one.cpuUsPerIo} µs of CPU per I/O, strangers ${one.foreignPercent} %`;
  say(`${load.name}, ${system}, ${repetition}: ${Math.round(one.iops)} IOPS, ${cost}`);
  return one;
}

async function reportWithout(
  settings: Settings,
  timing: Timing,
  repeat: number,
): Promise<Omit<Report, "runs">> {
  const ceph = new Ceph(directory, settings);
  const mount = execFileSync("df", ["--output=fstype,source", directory], { encoding: "utf8" });
  return {
    kind: "ceph-beside-fastblock",
    machine: {
      cores: cpus().length,
      processor: cpus()[0]?.model ?? "",
      memoryBytes: totalmem(),
      kernel: release(),
      device: deviceOf(directory),
      fileSystem: mount.trim().split("\n").at(-1)!.split(/ +/)[0]!,
    },
    versions: {
      Ceph: await ceph.version(),
      fastblock: await new Ours(directory, settings, values.program).version(),
      fio: (await output({ words: ["fio", "--version"], env: {} })).trim(),
    },
    settings,
    ceph: await ceph.conditions(),
    seconds: timing.timeMs / 1000,
    rampSeconds: timing.rampMs / 1000,
    repeat,
  };
}

function report(): void {
  const runs: Run[] = [];
  const paths = positionals.slice(1);
  const reports = (paths.length > 0 ? paths : [values.out]).map(
    (path) => JSON.parse(readFileSync(path, "utf8")) as Report,
  );
  for (const one of reports) runs.push(...one.runs);
  process.stdout.write(reportText({ ...reports[0]!, runs }));
}

async function command(name: string | undefined): Promise<void> {
  switch (name) {
    case "up":
      return await up();
    case "run":
      return await run();
    case "report":
      return report();
    case "down":
      return await down();
    default:
      throw new Error(`reading the command: ${name ?? "none"}, wanted up, run, report or down`);
  }
}

/** What was started and runs in the foreground ends with us; daemons are for `down`. */
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.on(signal, () => {
    say(`${signal}: stopping; run down to end what is up`);
    endForeground();
    process.exit(INTERRUPTED_EXIT);
  });
}

try {
  await command(positionals[0]);
} catch (error) {
  say(error instanceof Error ? error.message : String(error));
  process.exit(1);
}
