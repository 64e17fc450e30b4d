import { type CommandUnknownOpts, Option } from "@commander-js/extra-typings";
import { FastblockError } from "../core/base/errors.ts";
import type {
  BenchPrograms,
  ImageBenchReport,
  LoadShape,
  MicroRow,
  SuiteReport,
} from "../core/bench/bench.ts";
import {
  backendOf,
  type CliContext,
  formatCount,
  formatSize,
  durationMsOf,
  parseDurationMs,
  parseImagePath,
  parseSize,
  parseWhole,
  sizeOf,
} from "../core/cli/cli.ts";
import {
  BAR_COLUMNS,
  barOf,
  COMPARE_COLUMNS,
  DUEL_COLUMNS,
  IDLE_COLUMNS,
  MICRO_COLUMNS,
  nameOf,
  PAUSES_COLUMNS,
  RECOVERY_COLUMNS,
  SUITE_COLUMNS,
  us,
} from "./bench-columns.ts";

const SHAPES = [
  "randwrite",
  "randread",
  "write",
  "read",
  "rw",
  "randrw",
] as const satisfies readonly LoadShape[];

const IMAGE_HELP = `
What a load writes replaces what the image holds. A range that has holes is written in full with
random data first; for a load that only reads, this is done only where nothing is written at all.

With --rate operations are due at that rate, each millisecond's together, and latency counts from then: a stall
counts for all that came during it. Those that are due while --depth are open wait.

CPU per I/O counts every process of the cluster directory and this one. Device bytes per client
byte count the run and the drain after it.

--history writes a JSON line for each operation and block of 4 KiB, for checkers of linearizable
registers: key (the block's number in the image), kind (write or read), value (the sequence written
or seen; 0: nothing of this run), call and return (nanoseconds of one clock; return null: it never
ended), ok (false: whether a write happened is unknown).

Examples:
  fastblock bench image demo/disk1 --rw randwrite --bs 4KiB --depth 32 --time 8s -o json > a.json
  fastblock bench image demo/disk1 --rw rw --time 5s --history ops.jsonl`;

const SUITE_HELP = `
Three replicas on three osds of this machine, one image, written in full before. Right before each
run fio drives a file of the same size beside the osds', direct, writes durable (dsync). Figures are
medians over the runs, max is the worst. CPU, context switches, and the devices' bytes, writes and
flushes (durable writes among them) are per I/O of the client, summed over all replicas and
processes, this one included; they count the run and the drain behind it. The directory is removed.
Processes compile what they run often, beside it: that is part of the CPU, and alone in COMPILE. The load of
--warm-up is repeated while it is more than 5 % of the CPU, eight times at most.
CALLS are system calls of the reactors of osds and client per I/O; what the runtime calls besides, and a
gateway's, is not known. GCS is how often collecting garbage stopped a thread of osds, mon and gateways in all runs, GC MAX
for how long at most; the client's are not known.

Processes prove the key to each other and sign their headers in all rows. Rows with encrypted: before run on
a cluster of their own whose connections are encrypted besides, and so do all rows with --encrypt.
Rows with nbd: before go through a gateway, driven by fio; rows with :steady behind run on a cluster of its
own whose logs are small: the run goes around them. Rows with :tail run there as well, as an open loop at
half of the rate that the closed loop has just reached: operations are due at that rate, whatever becomes of
those before, and latency counts from then. The worst moments are told, with what the logs of the cluster
(at level debug) say of them. Rows with :cold start all osds anew before each run, and count from the first
operation on. The row store:randwrite:4KiB:32:snapshots is \`bench store\`, store:randwrite:4KiB:32:1TiB is
\`bench store --full\` (JSON: \`store\`). With --bars
each figure stands beside what is aimed at. Most are ratios to what the same machine does in the same run
without fastblock: fio on the raw disk; a message between two processes, and a read or a durable write of the
file, by the same reactor. BARE is what processes of that reactor reach that do nothing but the messages and
device writes of three copies: a log of batches, and each block once more in its place.

Examples:
  fastblock bench suite -o json > a.json
  fastblock bench suite --rows randwrite:4KiB:32,randread:4KiB:32 --repeat 1 -o wide
  fastblock bench suite --rows randwrite:4KiB:128 --shards 2
  fastblock bench compare a.json b.json`;

const RECOVERY_HELP = `
Three replicas on three osds of this machine, one image, written in full before. For each position of
the recovery dial the same load runs twice: while all replicas are whole, and while osd.2 is brought
back: on an empty disk (disk), or after it was stopped for a moment (away). The figure
is the ratio of the two p99. The directory is removed.

Example:
  fastblock bench recovery --speeds medium --causes disk -o json > a.json`;

const STORE_HELP = `
One local store without raft and network, on a file that is written in full before. Two images in it have their
turns, each as long as --snapshot-every, and until all that was written is in its place; when the turn of the
second begins, it gets a snapshot. What a snapshot costs follows from the bytes that are copied for it and
the writes until the next: 256 MiB with one every 3.75 s stand for 4 GiB with one every minute.

With --full: one image that fills the store, all of it written before, and writes all over it that go three
times around a log of a 1024th of it in whole zones; the figures are bytes written to the device per byte of them, until all is
in its place. Only log and checkpoints are in the file (2 GiB for 1 TiB), the index is in memory (5 GB), the rest
is counted and dropped.

With --paged: random 4 KiB reads of one image that is written in full, in turns with random reads of the file
itself; one row of the index in 32 may be in memory, so nearly each read loads an index page first.

Example:
  fastblock bench store --time 30s
  fastblock bench store --full
  fastblock bench store --paged`;

const IDLE_HELP = `
Three osds of this machine and groups of three replicas: each osd has one of every group. Their
memory is taken at rest without any group and with all of them, processor time and the bytes of the
connections between osds over --time while all rest. They rest when nobody was elected and each
process spent the same for 20 s; what does not come to rest is measured all the same, and says so.
Bytes are those of TCP's payload, by ss of iproute2. The directory
is removed.

Example:
  fastblock bench idle --groups 1024 --bars`;

const PAUSES_HELP = `
Three osds of this machine, groups of three replicas. Two writers of 4 KiB have one write open each: in a group
that the victim leads, and in one that it follows in. A pause is the longest time in which nothing of a writer's was
done, from the event until 4 s behind it: its leader is killed (kill -9) or frozen (SIGSTOP, for 5 s), an osd is
stopped in order, the mon is killed; and an osd that went is started again, until all replicas are whole. Osds have
their turns as victims. ELSEWHERE is the longest pause of the second writer. The directory is removed.

Example:
  fastblock bench pauses --times 10 --bars`;

const COMPARE_HELP = `
Columns: the figure in A, in B, B ÷ A, and whether B is better, worse or within 2 %.

Example:
  fastblock bench compare a.json b.json`;

const DUEL_HELP = `
OTHER is the executable of another build. Each of the two runs a cluster of its own: three osds of this machine,
three replicas, one image, written in full before. In each round a load of both runs at the same time, each
by the client of its build, so what disturbs the machine disturbs both: the ratio of a round says more than figures of
runs one after another. The columns are medians over the rounds; ratios are this build ÷ OTHER,
round by round, their median and quartiles. What a duel of a build with itself shows as well says nothing:
about 0.98 to 1.02 of CPU, 0.95 to 1.05 of IOPS. As the two clusters share the machine, IOPS are not what one alone reaches.
The load of --warm-up is repeated while the daemons of one spend more than 5 % of their CPU on compiling, eight
times at most. The directory is removed.

Examples:
  fastblock bench duel ~/old/fastblock
  fastblock bench duel ~/old/fastblock --rows randwrite:4KiB:128,randread:4KiB:32 --rounds 20 -o json`;

const FIO_HELP = `
Beside each row stands what fio measures, when it is installed: two of its jobs that send blocks of
that size to and fro over loopback (engine net, ping-pong), one on its way at a time; beside the empty
turn an operation that does nothing (engine null). CPU is that of both ends for rpc, of the sender
for messages of the reactor.`;

const RAMP_MS_DEFAULT = 3000;
const MEASURED_MS_MIN = 100;
const RATE_MAX = 10_000_000;
/** A mon places no more on a shard. */
const SHARD_GROUPS_MAX = 8192;

type Load = () => Promise<BenchPrograms>;

/** `fastblock bench …`; the programs are loaded when one is called. */
export function benchCommands(root: CommandUnknownOpts, cli: CliContext, load: Load): void {
  const bench = root.command("bench").description("Measure every layer").helpGroup("Measure:");
  imageBench(bench, cli, load);
  suiteBench(bench, cli, load);
  duelBench(bench, cli, load);
  recoveryBench(bench, cli, load);
  idleBench(bench, cli, load);
  pausesBench(bench, cli, load);
  microBenches(bench, cli, load);
  bench
    .command("compare")
    .description("compare two reports that `-o json` gave")
    .argument("<A>", "JSON file")
    .argument("<B>", "JSON file")
    .addHelpText("after", COMPARE_HELP)
    .action((a, b) =>
      cli.rows(
        async () => {
          const { compareReports, unlikeLoads } = await import("../core/bench/bench.ts");
          const programs = await load();
          const [first, second] = [await programs.readReport(a), await programs.readReport(b)];
          for (const unlike of unlikeLoads(first, second)) {
            cli.ports.err(`warning: unlike loads: ${unlike}\n`);
          }
          return compareReports(first, second).map((row) => ({ ...row }));
        },
        COMPARE_COLUMNS,
        (row) => String(row["figure"]),
      ),
    );
}

function imageBench(bench: CommandUnknownOpts, cli: CliContext, load: Load): void {
  bench
    .command("image")
    .description("drive an image: I/O per second, latencies, CPU, bytes on the devices")
    .argument("<POOL/IMAGE>")
    .addOption(
      new Option("--rw <shape>", "what to do").choices(SHAPES).default("randwrite" as const),
    )
    .option("--bs <size>", "bytes of each operation", "4KiB")
    .option("--depth <count>", "operations open at a time, of each job", count("--depth"), 32)
    .option("--jobs <count>", "jobs", count("--jobs"), 1)
    .option("--rate <count>", "an open loop: so many a second, at most --depth open", rateOf)
    .option("--time <time>", "measured time", "8s")
    .option("--ramp <time>", "time before it (default 3s, at most half of --time)", parseDurationMs)
    .option(
      "--read-percent <share>",
      "reads among `rw`",
      (text) => parseWhole(text, "--read-percent", 0, 100),
      50,
    )
    .option("--range <size>", "touch only the first bytes of the image", parseSize)
    .option(
      "--seed <number>",
      "of places and content",
      (text) => parseWhole(text, "--seed", 0, 2 ** 48),
      1,
    )
    .option("--verify", "stamp each block, check what is read, and read back all that was written")
    .option("--fill", "write the range in full with random data first, whatever it holds")
    .option("--no-fill", "leave the range as it is, holes and all")
    .option("--no-drain", "do not wait until the osds' logs are moved home")
    .option("--history <file>", "one JSON line per operation and 4 KiB block")
    .option("--backend <backend>", "auto, uring or file", "auto")
    .addHelpText("after", IMAGE_HELP)
    .action(async (path, options) => {
      parseImagePath(path);
      cli.refuseListFlags();
      const report = await (await load()).image({
        cluster: cli.directory(),
        path,
        rw: options.rw,
        blockBytes: sizeOf(options.bs, "--bs"),
        depth: options.depth,
        jobs: options.jobs,
        opsPerSecond: options.rate ?? 0,
        timeMs: measuredMs(options.time),
        rampMs: options.ramp ?? rampMsOf(options.time),
        readPercent: options.readPercent,
        verify: options.verify === true,
        fill: fillOf(options.fill),
        drain: options.drain,
        rangeBytes: options.range ?? 0,
        seed: options.seed,
        historyPath: options.history ?? "",
        backend: backendOf(options.backend),
        timeoutMs: cli.globals.timeoutMs,
        progress: cli.progress,
      });
      const people = cli.globals.output === "table" || cli.globals.output === "wide";
      if (people) cli.ports.out(imageText(report));
      else
        await cli.object(
          () => Promise.resolve({ ...report }),
          () => path,
        );
      await refuseErrors(report);
    });
}

function rateOf(text: string): number {
  return parseWhole(text, "--rate", 1, RATE_MAX);
}

/** Unless it is given. */
function rampMsOf(time: string): number {
  return Math.min(RAMP_MS_DEFAULT, durationMsOf(time, "--time") / 2);
}

/** `--fill`, `--no-fill`, or neither. */
function fillOf(option: boolean | undefined): "always" | "holes" | "never" {
  if (option === undefined) return "holes";
  return option ? "always" : "never";
}

function suiteBench(bench: CommandUnknownOpts, cli: CliContext, load: Load): void {
  bench
    .command("suite")
    .description("start a cluster of its own, run all rows, show them beside the raw disk's")
    .option("--dir <dir>", "empty directory for the cluster (default: a temporary one here)")
    .option(
      "--rows <rows>",
      "[encrypted:][nbd:]SHAPE:SIZE:DEPTH[:steady|:tail|:cold], with commas (default: seven)",
    )
    .option("--bars", "show what is aimed at, and whether it is reached (default rows: twenty)")
    .option("--encrypt", "run all of them on clusters whose connections are encrypted")
    .option("--time <time>", "measured time of each run", "3s")
    .option("--tail-time <time>", "measured time of a row with :tail, which runs once", "10m")
    .option("--ramp <time>", "time before each, not counted", "3s")
    .option("--warm-up <time>", "load before the first run, again while much is compiled", "15s")
    .option("--repeat <count>", "runs of each row", count("--repeat"), 3)
    .option("--image-size <size>", "of the image, written in full first", "512MiB")
    .option("--shards <count>", "reactors of each osd", count("--shards"), 1)
    .option("--no-fio", "leave the raw disk out")
    .option("--backend <backend>", "auto, uring or file", "auto")
    .addHelpText("after", SUITE_HELP)
    .action(async (options) => {
      const people = cli.globals.output === "table" || cli.globals.output === "wide";
      if (!people) cli.refuseListFlags();
      const bench = await import("../core/bench/bench.ts");
      const { BAR_ROWS, FULL_STORE_ROW, parseSuiteRows, STORE_ROW, SUITE_ROWS } = bench;
      const isJudged = options.bars === true;
      const known = isJudged ? [...BAR_ROWS, STORE_ROW, FULL_STORE_ROW] : SUITE_ROWS;
      const names: readonly string[] = options.rows?.split(",") ?? known;
      const ofClusters = names.filter((name) => name !== STORE_ROW && name !== FULL_STORE_ROW);
      const rows = parseSuiteRows(ofClusters, (text) => sizeOf(text, "--rows"));
      const report = await (await load()).suite({
        directory: options.dir ?? "",
        rows,
        store: names.includes(STORE_ROW),
        fullStore: names.includes(FULL_STORE_ROW),
        timeMs: measuredMs(options.time),
        tailMs: measuredMs(options.tailTime, "--tail-time"),
        rampMs: durationMsOf(options.ramp, "--ramp"),
        warmMs: durationMsOf(options.warmUp, "--warm-up"),
        repeat: options.repeat,
        imageBytes: sizeOf(options.imageSize, "--image-size"),
        shards: options.shards,
        judged: isJudged,
        fio: options.fio,
        backend: backendOf(options.backend),
        encrypt: options.encrypt === true,
      });
      if (people) cli.say(suiteHeading(report, bench.encryptionText(report.rows)));
      if (people && isJudged)
        await cli.rows(() => Promise.resolve(report.bars), BAR_COLUMNS, barOf);
      else if (people) await cli.rows(() => Promise.resolve(report.rows), SUITE_COLUMNS, nameOf);
      else
        await cli.object(
          () => Promise.resolve({ ...report }),
          () => report.kind,
        );
    });
}

/** Under which conditions the table below it was measured, and what is told apart. */
function suiteHeading({ machine, backend, encrypted }: SuiteReport, apart: string): string {
  const signed = "handshakes and header tags of connections are on";
  const carried = `what they carry is ${encrypted ? "" : "not "}encrypted`;
  const heading = `${String(machine["cores"])} cores, ${backend}; ${signed}, ${carried}`;
  return apart === "" ? heading : `${heading}\napart: ${apart}`;
}

function duelBench(bench: CommandUnknownOpts, cli: CliContext, load: Load): void {
  bench
    .command("duel")
    .description("start a cluster of this build and one of another, load both at the same time")
    .argument("<OTHER>", "executable of the other build")
    .option("--dir <dir>", "empty directory for the clusters (default: a temporary one here)")
    .option("--rows <rows>", "SHAPE:SIZE:DEPTH, with commas (default: randwrite:4KiB:32 and :128)")
    .option("--rounds <count>", "runs of each row", count("--rounds"), 8)
    .option("--time <time>", "measured time of each run; half of it, at most 3s, goes before", "4s")
    .option("--warm-up <time>", "load before the first run, again while much is compiled", "20s")
    .option("--image-size <size>", "of each image, written in full first", "512MiB")
    .option("--backend <backend>", "auto, uring or file", "auto")
    .addHelpText("after", DUEL_HELP)
    .action(async (other, options) => {
      const people = cli.globals.output === "table" || cli.globals.output === "wide";
      if (!people) cli.refuseListFlags();
      const { DUEL_HINT, DUEL_ROWS, parseDuelRows } = await import("../core/bench/bench.ts");
      const names: readonly string[] = options.rows?.split(",") ?? DUEL_ROWS;
      const report = await (await load()).duel({
        other,
        directory: options.dir ?? "",
        rows: parseDuelRows(names, (text) => sizeOf(text, "--rows")),
        rounds: options.rounds,
        timeMs: measuredMs(options.time),
        rampMs: rampMsOf(options.time),
        warmMs: durationMsOf(options.warmUp, "--warm-up"),
        imageBytes: sizeOf(options.imageSize, "--image-size"),
        backend: backendOf(options.backend),
      });
      if (people) {
        await cli.rows(() => Promise.resolve(report.rows), DUEL_COLUMNS, nameOf);
        cli.say(DUEL_HINT);
      } else
        await cli.object(
          () => Promise.resolve({ ...report }),
          () => report.kind,
        );
    });
}

function recoveryBench(bench: CommandUnknownOpts, cli: CliContext, load: Load): void {
  bench
    .command("recovery")
    .description("start a cluster of its own, show what clients feel of an osd that comes back")
    .option("--dir <dir>", "empty directory for the cluster (default: a temporary one here)")
    .option("--speeds <speeds>", "positions of the dial, with commas", "low,medium,high")
    .option("--causes <causes>", "disk, away, or both with a comma", "disk,away")
    .addOption(
      new Option("--rw <shape>", "what clients do")
        .choices(["randwrite", "randread", "rw", "randrw"] as const)
        .default("randwrite" as const),
    )
    .option("--bs <size>", "bytes of each operation", "4KiB")
    .option("--depth <count>", "operations open at a time", count("--depth"), 16)
    .option("--time <time>", "measured time of each load", "8s")
    .option("--ramp <time>", "time before each, not counted", "1s")
    .option("--warm-up <time>", "load before the first", "9s")
    .option("--image-size <size>", "of the image, written in full first", "512MiB")
    .option(
      "--osd-size <size>",
      "of each osd; a sixteenth is its log, which is filled once",
      "8GiB",
    )
    .option("--backend <backend>", "auto, uring or file", "auto")
    .addHelpText("after", RECOVERY_HELP)
    .action(async (options) => {
      const people = cli.globals.output === "table" || cli.globals.output === "wide";
      if (!people) cli.refuseListFlags();
      const report = await (await load()).recovery({
        directory: options.dir ?? "",
        speeds: wordsOf("--speeds", options.speeds, ["low", "medium", "high"]),
        causes: wordsOf("--causes", options.causes, ["disk", "away"]),
        rw: options.rw,
        blockBytes: parseSize(options.bs),
        depth: options.depth,
        timeMs: measuredMs(options.time),
        rampMs: parseDurationMs(options.ramp),
        warmMs: parseDurationMs(options.warmUp),
        imageBytes: parseSize(options.imageSize),
        osdBytes: parseSize(options.osdSize),
        backend: backendOf(options.backend),
      });
      if (people) await cli.rows(() => Promise.resolve(report.rows), RECOVERY_COLUMNS, nameOf);
      else
        await cli.object(
          () => Promise.resolve({ ...report }),
          () => report.kind,
        );
    });
}

function idleBench(bench: CommandUnknownOpts, cli: CliContext, load: Load): void {
  bench
    .command("idle")
    .description("start a cluster of its own, show what groups cost that nobody uses")
    .option("--dir <dir>", "empty directory for the cluster (default: a temporary one here)")
    .option("--groups <count>", "groups, in as many pools as that takes", count("--groups"), 10_000)
    .option("--shards <count>", "reactors of each osd (default: as few as can)", count("--shards"))
    .option("--bars", "show what is aimed at, and whether it is reached")
    .option("--time <time>", "measured time", "30s")
    .option("--rest <time>", "what coming to rest may take", "10m")
    .option("--backend <backend>", "auto, uring or file", "auto")
    .addHelpText("after", IDLE_HELP)
    .action(async (options) => {
      const people = cli.globals.output === "table" || cli.globals.output === "wide";
      if (!people) cli.refuseListFlags();
      const report = await (await load()).idle({
        directory: options.dir ?? "",
        groups: options.groups,
        shards: options.shards ?? Math.ceil(options.groups / SHARD_GROUPS_MAX),
        timeMs: measuredMs(options.time),
        restMs: durationMsOf(options.rest, "--rest"),
        backend: backendOf(options.backend),
      });
      if (people && options.bars === true)
        await cli.rows(() => Promise.resolve(report.bars), BAR_COLUMNS, barOf);
      else if (people) await cli.rows(() => Promise.resolve(report.rows), IDLE_COLUMNS, nameOf);
      else
        await cli.object(
          () => Promise.resolve({ ...report }),
          () => report.kind,
        );
    });
}

function pausesBench(bench: CommandUnknownOpts, cli: CliContext, load: Load): void {
  bench
    .command("pauses")
    .description("start a cluster of its own, show how long writers stand still as processes go")
    .option("--dir <dir>", "empty directory for the cluster (default: a temporary one here)")
    .option("--times <count>", "how often each event happens", count("--times"), 5)
    .option("--bars", "show what is aimed at, and whether it is reached")
    .option("--warm-up <time>", "load before the first event", "15s")
    .option("--backend <backend>", "auto, uring or file", "auto")
    .addHelpText("after", PAUSES_HELP)
    .action(async (options) => {
      const people = cli.globals.output === "table" || cli.globals.output === "wide";
      if (!people) cli.refuseListFlags();
      const report = await (await load()).pauses({
        directory: options.dir ?? "",
        times: options.times,
        warmMs: durationMsOf(options.warmUp, "--warm-up"),
        backend: backendOf(options.backend),
      });
      if (people && options.bars === true)
        await cli.rows(() => Promise.resolve(report.bars), BAR_COLUMNS, barOf);
      else if (people) await cli.rows(() => Promise.resolve(report.rows), PAUSES_COLUMNS, nameOf);
      else
        await cli.object(
          () => Promise.resolve({ ...report }),
          () => report.kind,
        );
    });
}

/** Some of `known`, split by commas. Throws FB1001. */
function wordsOf<Word extends string>(flag: string, text: string, known: readonly Word[]): Word[] {
  return text.split(",").map((one) => {
    const word = known.find((name) => name === one.trim());
    if (word !== undefined) return word;
    throw new FastblockError("FB1001", `reading ${flag}: ${one}, wanted ${known.join(", ")}`);
  });
}

function measuredMs(text: string, flag = "--time"): number {
  const ms = durationMsOf(text, flag);
  if (ms >= MEASURED_MS_MIN) return ms;
  throw new FastblockError("FB1001", `reading ${flag}: ${text}, wanted 100ms or more`);
}

/** A run with wrong blocks or failed operations has failed, whatever its figures say. */
async function refuseErrors(report: ImageBenchReport): Promise<void> {
  const wrong = report.verifyErrors[0];
  if (wrong !== undefined) {
    throw new FastblockError("FB5001", `verifying ${report.path}: ${wrong}`, {
      hint: "keep the cluster as it is: a read was wrong",
    });
  }
  const failed = report.errorTexts[0];
  if (failed === undefined) return;
  const { loadError } = await import("../core/bench/bench.ts");
  throw loadError(`driving ${report.path}: ${report.errors} errors`, failed, report);
}

function microBenches(bench: CommandUnknownOpts, cli: CliContext, load: Load): void {
  const show: Show = (run) =>
    cli.rows(
      async () => (await run(await load())).map((row) => ({ ...row })),
      MICRO_COLUMNS,
      nameOf,
    );
  storeBench(bench, show);
  diskBench(bench, show);
  messageBenches(bench, show);
}

type Show = (run: (programs: BenchPrograms) => Promise<readonly MicroRow[]>) => Promise<void>;

/** `bench store --full` goes around its log so often. */
const FULL_LOG_TURNS = 3;

function storeBench(bench: CommandUnknownOpts, show: Show): void {
  bench
    .command("store")
    .description(
      "drive a local store: random 4 KiB writes, with snapshots and without, or to a full one",
    )
    .argument("[PATH]", "file that is made, and gone afterwards (default: a temporary file here)")
    .option("--image-size <size>", "of each of two images (default: 256MiB), or the one (1TiB)")
    .addOption(
      new Option("--full", "write all over one image that is full").conflicts([
        "time",
        "snapshotEvery",
        "paged",
      ]),
    )
    .addOption(
      new Option("--paged", "read an image of whose index next to nothing is in memory").conflicts([
        "snapshotEvery",
        "full",
      ]),
    )
    .option("--depth <count>", "writes open at a time", count("--depth"), 32)
    .option("--time <time>", "measured time, of both together", "30s")
    .option("--snapshot-every <time>", "between two snapshots", "3750ms")
    .option("--backend <backend>", "auto, uring or file", "auto")
    .addHelpText("after", STORE_HELP)
    .action((path = "", options) => {
      const { full: isFull, imageSize: size, depth } = options;
      const load = { path, depth, backend: backendOf(options.backend) };
      const bytes = (standard: string): number => sizeOf(size ?? standard, "--image-size");
      if (isFull === true) {
        const full = { ...load, imageBytes: bytes("1TiB"), logTurns: FULL_LOG_TURNS };
        return show((programs) => programs.fullStore(full));
      }
      if (options.paged === true) {
        const timeMs = measuredMs(options.time);
        const paged = { ...load, imageBytes: bytes("512MiB"), timeMs };
        return show((programs) => programs.pagedStore(paged));
      }
      const withSnapshots = {
        ...load,
        imageBytes: bytes("256MiB"),
        timeMs: measuredMs(options.time),
        snapshotMs: measuredMs(options.snapshotEvery, "--snapshot-every"),
      };
      return show((programs) => programs.store(withSnapshots));
    });
}

function diskBench(bench: CommandUnknownOpts, show: Show): void {
  bench
    .command("disk")
    .description("drive the reactor's disk seam; the same load by fio beside it when it is there")
    .argument("[PATH]", "file or block device, WRITTEN TO (default: a temporary file here)")
    .option("--size <size>", "of a new file", "256MiB")
    .addOption(
      new Option("--rw <shape>", "what to do")
        .choices(["randwrite", "randread", "write", "read"] as const)
        .default("randwrite" as const),
    )
    .option("--bs <size>", "bytes of each operation", "4KiB")
    .option("--depth <count>", "operations open at a time", count("--depth"), 32)
    .option("--time <time>", "measured time", "4s")
    .option("--no-fio", "leave fio out")
    .option("--force", "write over what is there")
    .option("--backend <backend>", "auto, uring or file", "auto")
    .action((path, options) =>
      show((programs) =>
        programs.disk({
          path: path ?? "",
          sizeBytes: sizeOf(options.size, "--size"),
          blockBytes: sizeOf(options.bs, "--bs"),
          depth: options.depth,
          timeMs: measuredMs(options.time),
          rw: options.rw,
          fio: options.fio,
          force: options.force === true,
          backend: backendOf(options.backend),
        }),
      ),
    );
}

function messageBenches(bench: CommandUnknownOpts, show: Show): void {
  bench
    .command("reactor")
    .description("drive an empty reactor: turns, timers, messages")
    .option("--time <time>", "measured time of each case", "2s")
    .option("--no-fio", "leave fio out")
    .option("--backend <backend>", "auto, uring or file", "auto")
    .addHelpText("after", FIO_HELP)
    .action((options) =>
      show((programs) =>
        programs.reactor({
          timeMs: measuredMs(options.time),
          fio: options.fio,
          backend: backendOf(options.backend),
        }),
      ),
    );
  bench
    .command("rpc")
    .description("drive frames between two reactors over loopback")
    .option("--bs <size>", "payload of each request", "4KiB")
    .option("--depth <count>", "requests open at a time", count("--depth"), 32)
    .option("--time <time>", "measured time of each case", "2s")
    .option("--encrypt", "over an encrypted connection")
    .option("--no-fio", "leave fio out")
    .option("--backend <backend>", "auto, uring or file", "auto")
    .addHelpText("after", FIO_HELP)
    .action((options) =>
      show((programs) =>
        programs.rpc({
          fio: options.fio,
          blockBytes: sizeOf(options.bs, "--bs"),
          depth: options.depth,
          encrypt: options.encrypt === true,
          timeMs: measuredMs(options.time),
          backend: backendOf(options.backend),
        }),
      ),
    );
}

/** A report of `bench image` for people. */
export function imageText(report: ImageBenchReport): string {
  const { latencyUs } = report;
  const lines: [string, string][] = [
    [
      "load",
      `${report.rw} ${formatSize(report.blockBytes)}, ${loopText(report)}, ${report.seconds} s`,
    ],
    ["rate", `${formatCount(report.iops)} I/O per s, ${formatSize(report.bytesPerSec)}/s`],
    [
      "latency",
      `mean ${us(latencyUs.mean)}, p50 ${us(latencyUs.p50)}, p99 ${us(latencyUs.p99)}, p99.9 ${us(latencyUs.p999)}, max ${us(latencyUs.max)}`,
    ],
    ["longest pause", us(report.pauseUsMax)],
    [
      "cpu",
      report.cpuUsPerIo === null ? "unknown" : `${us(report.cpuUsPerIo)} per I/O, all processes`,
    ],
  ];
  if (report.systemCallsPerIo !== null) {
    const kinds = report.systemCalls.map(({ kind, perIo }) => `${kind} ${perIo}`).join(", ");
    lines.push(["system calls", `${report.systemCallsPerIo} per I/O of the reactors: ${kinds}`]);
  }
  const { collections } = report;
  if (collections !== null) {
    const { count, pauseUs, pauseUsMax } = collections;
    const pauses = count === 0 ? "" : `, ${us(pauseUs)} in all, ${us(pauseUsMax)} at most`;
    lines.push(["collections", `${count} pauses in osds, mon and gateways${pauses}`]);
  }
  if (report.deviceBytesPerClientByte !== null) {
    lines.push([
      "written",
      `${report.deviceBytesPerClientByte} bytes to devices per client byte, drained in ${report.drainSeconds} s`,
    ]);
  }
  const { filled } = report;
  lines.push([
    "filled",
    filled === null
      ? "nothing: the image was taken as it was"
      : `${formatSize(filled.bytes)} before the run, in ${filled.seconds} s`,
  ]);
  lines.push(["connections", `signed${report.encrypted ? ", encrypted" : ""}`]);
  lines.push(["backend", report.backend], ["errors", String(report.errors)]);
  if (report.verifiedBlocks > 0) lines.push(["verified", `${report.verifiedBlocks} blocks`]);
  return lines.map(([key, value]) => `${key.padEnd(14)} ${value}\n`).join("");
}

function loopText({ depth, jobs, opsPerSecond }: ImageBenchReport): string {
  if (opsPerSecond === 0) return `depth ${depth} × ${jobs}`;
  return `open loop at ${formatCount(opsPerSecond)} per s, at most ${depth} × ${jobs} open`;
}

function count(flag: string): (text: string) => number {
  return (text) => parseWhole(text, flag, 1, 65_536);
}
