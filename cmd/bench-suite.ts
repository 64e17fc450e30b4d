import { existsSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { assert } from "../core/base/assert.ts";
import { FastblockError } from "../core/base/errors.ts";
import { BLOCK_SIZE } from "../core/base/units.ts";
import { geometryOf, shareZones } from "../core/store/store.ts";
import {
  type BareFigures,
  type BenchOutside,
  type BenchProgress,
  type BenchRow,
  checkShape,
  costsOf,
  cpuUsPerIoOf,
  type DiskBenchCase,
  DiskProbe,
  drain,
  fillDisk,
  FULL_STORE_LOAD,
  FULL_STORE_ROW,
  type ImageBenchOptions,
  judgeFullStore,
  judgeRows,
  judgeStore,
  latencyReport,
  type MicroRow,
  runDiskBench,
  runEchoBench,
  runImageBench,
  runSuite,
  type SlowMoment,
  STORE_LOAD,
  STORE_ROW,
  type SuiteOptions,
  type SuiteOutside,
  type SuiteReport,
  type SuiteRow,
  type SuiteRowReport,
  type SuiteRun,
} from "../core/bench/bench.ts";
import { ranBetween, readLogs, type TimedSpan } from "../core/bench/bun-daemon-logs.ts";
import { runFioDisk, runFioNbd } from "../core/bench/bun-fio.ts";
import { type CliContext, Exit } from "../core/cli/cli.ts";
import { OSD_BYTES_DEFAULT, parsePorts } from "../core/dev/dev.ts";
import type { Address } from "../core/reactor/world.ts";
import { withImages } from "./attach.ts";
import { machineNow, makeImage, OSDS, REPLICAS, withBenchCluster } from "./bench-cluster.ts";
import { BenchControl } from "./bench-control.ts";
import { type BenchServer, CPU, startServer } from "./bench-micro.ts";
import { benchOutside } from "./bench-outside.ts";
import { checkNewStore, fullStoreBench, hasMemoryFor, storeBench } from "./bench-store.ts";

/** `bench suite`: a cluster of its own, all rows on one image of it, and nothing left behind. */
const IMAGE = "bench/suite";

/** Until fio is connected. */
const FIO_START_MS = 300;
/** What is not counted for a gateway: nobody is told the system calls of its reactor. */
const NOTHING_COUNTED = {
  systemCalls: [],
  systemCallsPerIo: null,
  deviceBytesPerClientByte: null,
  deviceWritesPerClientWrite: null,
  flushesPerClientWrite: null,
  writtenBytes: 0,
  errorTexts: [],
  verifyErrors: [],
  timeouts: 0,
  refusedForSpace: 0,
  worst: [],
} as const;
/** Of an open loop: its operations wait for nobody's end, so long as no stall lasts for seconds. */
const TAIL_OPEN_MAX = 1024;
/** One after the other. */
const CLUSTERS = [
  { steady: false, encrypt: false },
  { steady: true, encrypt: false },
  { steady: false, encrypt: true },
  { steady: true, encrypt: true },
] as const;
/** Of a cluster whose logs a run goes around: a sixteenth of this, in images, is a log. */
const STEADY_OSD_IMAGES = 2;

/**
 * Run the rows: those whose writes fit into the logs on a cluster with large ones, the others on one with
 * small ones. The clusters and their directory are gone afterwards. Throws FB1009, FB4008, FB5001.
 */
export async function suiteBench(
  cli: CliContext,
  program: readonly string[],
  progress: BenchProgress,
  options: SuiteOptions,
): Promise<SuiteReport> {
  for (const row of options.rows) checkRow(row, options.imageBytes);
  if (options.store || options.fullStore) checkNewStore(storePathOf(options));
  const wanted = withoutFio(cli, options.rows, options.fio);
  const rows: SuiteRowReport[] = [];
  let backend = "";
  for (const { steady, encrypt } of CLUSTERS) {
    const isOf = (row: SuiteRow): boolean =>
      row.steady === steady && (options.encrypt || row.encrypted) === encrypt;
    const some = wanted.filter(isOf);
    if (some.length === 0) continue;
    const osdBytes = steady ? STEADY_OSD_IMAGES * options.imageBytes : OSD_BYTES_DEFAULT;
    const gateways = some.some(({ nbd }) => nbd) ? 1 : 0;
    // Stalls are to be explained: daemons tell then what they do.
    const logLevel = some.some(({ tail }) => tail) ? "debug" : "info";
    const logBytes = logBytesOf(osdBytes, options.shards);
    const cluster = { osdBytes, gateways, logLevel, encrypt } as const;
    const here = { ...options, ...cluster, rows: some, logBytes };
    await withBenchCluster(program, here, async (directory) => {
      await makeImage(program, directory, IMAGE, options.imageBytes);
      const measured = await measure(cli, program, directory, progress, here);
      rows.push(...measured.rows);
      ({ backend } = measured);
    });
  }
  const store = options.store ? await storeRows(cli, options) : [];
  const fullStore = options.fullStore ? await fullStoreRows(cli, options) : [];
  return {
    kind: "suite",
    machine: machineNow(),
    version: cli.ports.versions["fastblock"] ?? "",
    osds: OSDS,
    replicas: REPLICAS,
    shards: options.shards,
    imageBytes: options.imageBytes,
    seconds: options.timeMs / 1000,
    repeat: options.repeat,
    backend,
    encrypted: options.encrypt,
    rows,
    store: [...store, ...fullStore],
    bars: [
      ...judgeRows(rows, REPLICAS),
      ...(options.store ? [judgeStore(store)] : []),
      ...(options.fullStore ? [judgeFullStore(fullStore[0])] : []),
    ],
  };
}

/** Beside the directory of the clusters, which is gone by then: on the same file system. */
function storePathOf({ directory }: SuiteOptions): string {
  return directory === "" ? "" : `${resolve(directory)}.store`;
}

async function storeRows(cli: CliContext, options: SuiteOptions): Promise<readonly MicroRow[]> {
  const { backend } = options;
  const load = { ...STORE_LOAD, path: storePathOf(options), backend };
  const rows = await unlessItFails(cli, STORE_ROW, () => storeBench(load));
  const rates = rows.map(({ name, iops }) => `${name} ${Math.round(iops ?? 0)} I/O per s`);
  if (rates.length > 0) cli.say(`${STORE_ROW}: ${rates.join(", ")}`);
  return rows;
}

/** Figures of clusters took half an hour: what fails behind them is told, and is not measured. */
async function unlessItFails(
  cli: CliContext,
  name: string,
  measure: () => Promise<readonly MicroRow[]>,
): Promise<readonly MicroRow[]> {
  try {
    return await measure();
  } catch (error) {
    if (!(error instanceof FastblockError)) throw error;
    cli.say(`left out: ${name}: ${error.code} ${error.message}`);
    cli.exitCode = Exit.Partly;
    return [];
  }
}

/** None where the memory does not suffice. */
async function fullStoreRows(cli: CliContext, options: SuiteOptions): Promise<readonly MicroRow[]> {
  if (!hasMemoryFor(FULL_STORE_LOAD.imageBytes)) {
    cli.say(`left out for want of memory: ${FULL_STORE_ROW}`);
    return [];
  }
  const { backend } = options;
  const load = { ...FULL_STORE_LOAD, path: storePathOf(options), backend };
  const rows = await unlessItFails(cli, FULL_STORE_ROW, () => fullStoreBench(load));
  if (rows.length > 0) cli.say(`${FULL_STORE_ROW}: ${rows[0]?.note ?? ""}`);
  return rows;
}

/** Gateways are driven by fio. */
function withoutFio(
  cli: CliContext,
  rows: readonly SuiteRow[],
  isWanted: boolean,
): readonly SuiteRow[] {
  if (isWanted && Bun.which("fio") !== null) return rows;
  const left = rows.filter(({ nbd }) => nbd);
  if (left.length > 0) cli.say(`left out without fio: ${left.map(({ name }) => name).join(" ")}`);
  return rows.filter(({ nbd }) => !nbd);
}

/** As `osd format` makes them, of all shards of an osd together. */
function logBytesOf(osdBytes: number, shards: number): number {
  const geometry = geometryOf(osdBytes);
  return shards * shareZones(geometry, shards).log * geometry.zoneSize;
}

/** Throws FB1001 for what no load can do. */
export function checkRow(row: SuiteRow, imageBytes: number): void {
  const { rw, blockBytes, depth } = row;
  const once = { jobs: 1, verify: false, history: false };
  checkShape({ rw, blockBytes, depth, rangeBytes: imageBytes, ...once });
}

async function measure(
  cli: CliContext,
  program: readonly string[],
  directory: string,
  progress: BenchProgress,
  options: SuiteOptions & { readonly logBytes: number },
): Promise<{ readonly rows: readonly SuiteRowReport[]; readonly backend: string }> {
  const { backend } = options;
  const { timeoutMs } = cli.globals;
  const attach = { cluster: directory, paths: [IMAGE], readOnly: false, backend, timeoutMs };
  return await withImages(attach, async ([image], world) => {
    if (image === undefined) throw new Error("no image was opened");
    // The cluster was started with the same choice on the same machine: one back end.
    const outside = benchOutside(directory, world, image, progress);
    const bench = new SuiteBench(cli, program, directory, outside, options);
    await bench.prepare();
    const rows = await runSuite(bench, options, options.logBytes);
    assert(image.isEncrypted === options.encrypt, "suite: connections are not as the report says");
    return { rows, backend: world.backend };
  });
}

/** What fio does for a row. */
function caseOf(
  { rw, depth, blockBytes }: SuiteRow,
  durationMs: number,
  write: "write" | "writeDurable",
): DiskBenchCase {
  const verb = rw === "read" || rw === "randread" ? "read" : write;
  return { verb, depth, blockBytes, durationMs, sequential: rw === "read" || rw === "write" };
}

/** One after another, and all of them; throws what the first said that did not end as it should. */
async function stopAll(servers: readonly BenchServer[]): Promise<void> {
  const ends: PromiseSettledResult<void>[] = [];
  for (const server of servers) ends.push(...(await Promise.allSettled([server.stop()])));
  for (const end of ends) if (end.status === "rejected") throw end.reason;
}

/** One image, and a file beside the osds' for fio. */
class SuiteBench implements SuiteOutside {
  private readonly cli: CliContext;
  private readonly program: readonly string[];
  private readonly directory: string;
  private readonly control: BenchControl;
  private readonly rawPath: string;
  private readonly outside: BenchOutside;
  private readonly options: SuiteOptions;
  private rawDirect = true;
  private filled = false;
  private slowProbes: readonly TimedSpan[] = [];

  constructor(
    cli: CliContext,
    program: readonly string[],
    directory: string,
    outside: BenchOutside,
    options: SuiteOptions,
  ) {
    this.cli = cli;
    this.program = program;
    this.directory = directory;
    this.control = new BenchControl(cli, program, directory);
    this.rawPath = join(directory, "raw.img");
    this.outside = outside;
    this.options = options;
  }

  /** Write the file in full: into holes a file system writes in another way. */
  async prepare(): Promise<void> {
    const { world } = this.outside;
    const disk = world.disks.open(this.rawPath, { createBytes: this.options.imageBytes });
    await fillDisk(world, disk);
    this.rawDirect = disk.direct;
    disk.close();
  }

  async image(row: SuiteRow, timeMs: number, opsPerSecond: number): Promise<SuiteRun> {
    if (opsPerSecond === 0) return await this.load(row, timeMs, 0);
    const { world } = this.outside;
    const disk = world.disks.open(this.rawPath, {});
    const probe = new DiskProbe(world, disk);
    probe.start();
    try {
      const run = await this.load(row, timeMs, opsPerSecond);
      return { ...run, probeUs: latencyReport(probe.latency) };
    } finally {
      const errno = await probe.stop();
      if (errno !== 0) this.say(`probing the raw disk: errno ${errno}, wanted 0`);
      disk.close();
      this.slowProbes = probe.slow.map((one) => ({ ...one, what: "raw disk: a durable write" }));
    }
  }

  private async load(row: SuiteRow, timeMs: number, opsPerSecond: number): Promise<SuiteRun> {
    const isPlain = !row.nbd && !row.cold;
    if (!isPlain && !this.filled) await this.load({ ...row, nbd: false, cold: false }, timeMs, 0);
    if (row.nbd) return await this.gateway(row, timeMs);
    if (row.cold) await this.control.restartOsds();
    const fill = this.filled ? "never" : "always";
    this.filled = true;
    const depth = opsPerSecond === 0 ? row.depth : TAIL_OPEN_MAX;
    const rampMs = row.cold ? 0 : this.options.rampMs;
    const load = { ...row, depth, opsPerSecond, rampMs, timeMs, fill } as const;
    return await runImageBench(this.outside, { ...this.baseOptions(), ...load });
  }

  ran(moments: readonly SlowMoment[]): readonly (readonly string[])[] {
    const spans = [...readLogs(this.directory), ...this.slowProbes];
    return moments.map(({ wallMs, latencyUs }) =>
      ranBetween(spans, wallMs, wallMs + latencyUs / 1000),
    );
  }

  /** By fio through the gateway. Of what it writes while it ramps up only the time is known. */
  private async gateway(row: SuiteRow, timeMs: number): Promise<SuiteRun> {
    const { meter } = this.outside;
    const { imageBytes, rampMs } = this.options;
    const load = runFioNbd(this.uri(), imageBytes, rampMs, caseOf(row, timeMs, "write"));
    await Bun.sleep(FIO_START_MS + rampMs);
    const atStart = meter.processes();
    meter.takeCollections();
    await Bun.sleep(timeMs);
    const atEnd = meter.processes();
    const fio = await load;
    if (fio === undefined || !("opsPerSecond" in fio)) {
      const message = `running ${row.name}: ${fio?.note ?? "fio is gone"}`;
      throw new FastblockError("FB5001", message);
    }
    await drain(this.outside);
    const windowOps = fio.operations;
    const totalOps = windowOps * (1 + rampMs / timeMs);
    const afterDrain = meter.processes();
    const collections = meter.takeCollections();
    const costs = costsOf({ atStart, atEnd, afterDrain, windowOps, totalOps });
    const { user, system } = fio.cpuUsPerOp;
    const ofFio = {
      kind: "fio",
      userUsPerIo: user,
      systemUsPerIo: system,
      compileUsPerIo: 0,
      switchesPerIo: 0,
    };
    const processes = [...costs.filter(({ kind }) => kind !== "client"), ofFio];
    return {
      ...NOTHING_COUNTED,
      seconds: timeMs / 1000,
      collections,
      iops: fio.opsPerSecond,
      latencyUs: { mean: (1_000_000 * row.depth) / fio.opsPerSecond, ...fio.latencyUs },
      cpuUsPerIo: cpuUsPerIoOf(processes),
      processes,
    };
  }

  private uri(): string {
    const { unix } = parsePorts(readFileSync(join(this.directory, "nbd.0.ports"), "utf8"));
    return `nbd+unix:///${IMAGE}?socket=${encodeURIComponent(String(unix))}`;
  }

  async raw(row: SuiteRow): Promise<BenchRow | undefined> {
    const { imageBytes, timeMs } = this.options;
    // Behind a log that is full, what counts is what the device takes.
    const one = caseOf(row, timeMs, row.steady ? "write" : "writeDurable");
    const raw = await runFioDisk(this.rawPath, imageBytes, this.rawDirect, one);
    if (raw === undefined || "opsPerSecond" in raw) return raw;
    this.say(`${raw.name}: ${raw.note}`);
    return undefined;
  }

  async bare(row: SuiteRow): Promise<BareFigures | null> {
    if (row.steady || row.nbd || row.cold || row.encrypted) return null;
    const { rw, blockBytes, depth } = row;
    if (rw === "randwrite") {
      if (depth === 1) return await this.bareWrite(blockBytes);
      return blockBytes === BLOCK_SIZE ? await this.bareReplicas(depth) : null;
    }
    if (rw === "write") return null;
    const isRandom = rw === "randread";
    return await this.withServer(isRandom ? this.rawPath : "", async (address) => {
      const { imageBytes, timeMs } = this.options;
      const load = { depth, payloadBytes: 0, answerBytes: blockBytes, durationMs: timeMs };
      const from = isRandom ? { diskBytes: imageBytes } : {};
      const one = await runEchoBench(this.outside.world, address, { ...load, ...from }, CPU);
      const p50Us = one.latencyUs.p50;
      return { iops: one.opsPerSecond, p50Us, cpuUsPerIo: null, wholeP50Us: null };
    });
  }

  /**
   * A durable write of the device, and two messages with the block that are answered; and what processes
   * take that do nothing but write three copies.
   */
  private async bareWrite(blockBytes: number): Promise<BareFigures> {
    const { world } = this.outside;
    const durationMs = this.options.timeMs / 2;
    const disk = world.disks.open(this.rawPath, {});
    const write = { verb: "writeDurable", depth: 1, blockBytes, durationMs } as const;
    const written = await runDiskBench(world, disk, write, CPU);
    disk.close();
    const sent = await this.withServer("", async (address) => {
      const message = { depth: 1, payloadBytes: blockBytes, durationMs };
      return await runEchoBench(world, address, message, CPU);
    });
    const p50Us = written.latencyUs.p50 + 2 * sent.latencyUs.p50;
    const { latencyUs } = await this.bareRun(1, 1);
    return { iops: 1_000_000 / p50Us, p50Us, cpuUsPerIo: null, wholeP50Us: latencyUs.p50 };
  }

  /**
   * The messages and device writes of three copies, by processes that do nothing else: the best that they
   * reach with one batch on its way to each log, and with two.
   */
  private async bareReplicas(depth: number): Promise<BareFigures> {
    const runs: BenchRow[] = [];
    for (const batches of [1, 2]) runs.push(await this.bareRun(depth, batches));
    return {
      iops: Math.max(...runs.map(({ opsPerSecond }) => opsPerSecond)),
      p50Us: Math.min(...runs.map(({ latencyUs }) => latencyUs.p50)),
      cpuUsPerIo: Math.min(...runs.map(({ cpuUsPerOp }) => cpuUsPerOp.user + cpuUsPerOp.system)),
      wholeP50Us: null,
    };
  }

  private async bareRun(depth: number, batches: number): Promise<BenchRow> {
    const { world } = this.outside;
    const { backend, timeMs, rampMs } = this.options;
    const servers: BenchServer[] = [];
    const start = async (disk: string, followers: string): Promise<void> => {
      const parts = { disk, followers, batches };
      servers.unshift(await startServer(this.program, "replica", backend, parts));
    };
    try {
      const [first, ...others] = await this.bareDisks();
      for (const disk of others) await start(disk, "");
      await start(first!, servers.map(({ port }) => port).join(","));
      const cpuUs = (): number => servers.reduce((sum, server) => sum + server.cpuUs(), 0);
      const load = { depth, payloadBytes: BLOCK_SIZE, durationMs: timeMs, rampMs };
      return await runEchoBench(world, servers[0]!.address, load, {
        read: () => {
          const { userUs, systemUs } = CPU.read();
          return { userUs: userUs + cpuUs(), systemUs };
        },
      });
    } finally {
      await stopAll(servers);
    }
  }

  /** One for each copy, beside fio's and as large, written in full once. */
  private async bareDisks(): Promise<readonly string[]> {
    const paths = Array.from({ length: REPLICAS }, (_, at) => `${this.rawPath}.${at}`);
    const { world } = this.outside;
    for (const path of paths.filter((one) => !existsSync(one))) {
      const disk = world.disks.open(path, { createBytes: this.options.imageBytes });
      await fillDisk(world, disk);
      disk.close();
    }
    return paths;
  }

  private async withServer<T>(disk: string, body: (address: Address) => Promise<T>): Promise<T> {
    const server = await startServer(this.program, "echo", this.options.backend, { disk });
    try {
      return await body(server.address);
    } finally {
      await server.stop();
    }
  }

  say(words: string): void {
    this.cli.say(words);
  }

  private baseOptions(): Omit<
    ImageBenchOptions,
    "rw" | "blockBytes" | "depth" | "opsPerSecond" | "rampMs" | "timeMs" | "fill"
  > {
    return {
      cluster: "",
      path: IMAGE,
      jobs: 1,
      readPercent: 0,
      verify: false,
      drain: true,
      rangeBytes: 0,
      seed: 1,
      historyPath: "",
      backend: this.options.backend,
      timeoutMs: this.cli.globals.timeoutMs,
      progress: this.cli.progress,
    };
  }
}
