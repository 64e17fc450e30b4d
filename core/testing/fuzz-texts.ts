// cold: fuzzing of decoders
import { assert } from "../base/assert.ts";
import { FastblockError } from "../base/errors.ts";
import { formatPgId, parsePgId } from "../base/ids.ts";
import { uuidBytes, uuidText } from "../base/uuid.ts";
import { compareReports } from "../bench/bench.ts";
import {
  type CliPorts,
  CommandLine,
  parseDirectory,
  parseDurationMs,
  parseImagePath,
  parseOsdName,
  parseSize,
  parseUrl,
  parseWhole,
} from "../cli/cli.ts";
import { isName } from "../cluster/cluster.ts";
import { parseClusterFile, parseDevPlan, parseKeyFile, parsePorts } from "../dev/dev.ts";
import { formatPeerStarts, parsePeerStarts } from "../osd/osd.ts";
import type { FuzzTarget } from "./fuzz.ts";
import type { FuzzPorts } from "./fuzz-traffic.ts";

type Input = Uint8Array<ArrayBuffer>;

const MIB = 1_048_576;
const decoder = new TextDecoder();
const encoder = new TextEncoder();

/** What people and files say: sizes, times, names, the files of a cluster, the command line. */
export function textTargets(ports: FuzzPorts): FuzzTarget[] {
  return [wordsTarget(), filesTarget(), peersTarget(), new CommandLines(ports).target()];
}

function bytesOf(texts: readonly string[]): Uint8Array[] {
  return texts.map((text) => encoder.encode(text));
}

/** `undefined` when it is refused as it must be. */
function refusable<Value>(parse: () => Value): Value | undefined {
  try {
    return parse();
  } catch (error) {
    if (error instanceof FastblockError) return undefined;
    throw error;
  }
}

const NUMBERS = [
  "9".repeat(20),
  "0",
  "1",
  "-1",
  "1.5",
  "9007199254740993",
  "1e999",
  "00",
  "4294967296",
  "NaN",
];
const UNITS = ["KiB", "GiB", "TB", "ms", "us", "min", "h", "k", "%", "µs"];
const NAMES = ["osd.3", "demo", "disk1", "..", "~", "\u0000", "\ud83d\ude00", "a".repeat(80)];

/** One word, by every parser there is. */
function wordsTarget(): FuzzTarget {
  return {
    name: "words",
    seeds: bytesOf(["10GiB", "1.5MB", "30s", "250ms", "demo/disk1", "1.17", "65535", UUID]),
    sizeMax: 256,
    words: bytesOf([...NUMBERS, ...UNITS, ...NAMES]),
    bytesMax: MIB,
    run: (input) => {
      const text = decoder.decode(input);
      let taken = 0;
      for (const parse of [parseSize, parseDurationMs]) {
        const value = refusable(() => parse(text));
        if (value === undefined) continue;
        const fits = value >= 0 && value <= Number.MAX_SAFE_INTEGER;
        assert(fits, "words: no number came of it");
        taken += 1;
      }
      const whole = refusable(() => parseWhole(text, "a number", 1, 65_535));
      if (whole !== undefined) assert(whole >= 1 && whole <= 65_535, "words: out of bounds");
      const path = refusable(() => parseImagePath(text));
      if (path !== undefined)
        assert(`${path.pool}/${path.image}` === text, "words: a path changed");
      const pg = parsePgId(text);
      if (pg !== undefined) assert(parsePgId(formatPgId(pg)) === pg, "words: a group changed");
      const osd = refusable(() => parseOsdName(text));
      if (osd !== undefined)
        assert(Number.isSafeInteger(osd) && osd >= 0, "words: no osd's number");
      for (const parse of [parseUrl, parseDirectory]) {
        if (refusable(() => parse(text)) === "") assert(text === "", "words: nothing came of it");
      }
      if (isName(text)) assert(/^[ -~]{1,63}$/.test(text), "words: a name that is none");
      if (text === uuidText(refusable(() => uuidBytes(UUID))!)) taken += 1;
      return taken > 0 || whole !== undefined || path !== undefined || pg !== undefined;
    },
  };
}

const UUID = "0f0e0d0c-0b0a-0908-0706-050403020100";
const CLUSTER_TEXT = JSON.stringify({
  clusterId: UUID,
  name: "dev",
  mons: [
    {
      name: "mon.a",
      control: { host: "127.0.0.1", port: 7400 },
      http: { host: "127.0.0.1", port: 7480 },
    },
  ],
});
const REPORT_TEXT = JSON.stringify({
  iops: 1200,
  bytesPerSec: 5_000_000,
  latencyUs: { mean: 1, p50: 2, p99: 3, p999: 4, max: 5 },
  cpuUsPerIo: 12,
});

const PLAN_TEXT = JSON.stringify({
  version: 1,
  processes: [{ name: "osd.0", role: "osd", command: ["osd", "run"], ports: { data: 7500 } }],
});

/** `cluster.json`, `cluster.key`, `dev.json`, `NAME.ports`, a report of the load generator. */
function filesTarget(): FuzzTarget {
  const words = ["null", "[]", "{}", '""', "true", '"__proto__"', '"port"', '"mons"', ...NUMBERS];
  return {
    name: "files",
    seeds: bytesOf([CLUSTER_TEXT, "ab".repeat(32), `${"0F".repeat(32)}\n`, PLAN_TEXT, REPORT_TEXT]),
    sizeMax: 4096,
    words: bytesOf(words),
    bytesMax: MIB,
    run: (input) => {
      const text = decoder.decode(input);
      const file = refusable(() => parseClusterFile(text, "cluster.json"));
      if (file !== undefined) {
        const again = parseClusterFile(JSON.stringify(file), "cluster.json");
        assert(JSON.stringify(again) === JSON.stringify(file), "files: it changed");
      }
      const key = refusable(() => parseKeyFile(text, "cluster.key"));
      assert(key === undefined || key.length === 32, "files: a key of another length");
      const plan = refusable(() => parseDevPlan(text, "dev.json"));
      assert(plan === undefined || Array.isArray(plan.processes), "files: a plan of nothing");
      for (const value of Object.values(parsePorts(text))) {
        assert(typeof value === "string" || value >= 0, "files: a port below 0");
      }
      return file !== undefined || key !== undefined || plan !== undefined || compares(text);
    },
  };
}

const PEERS_TEXT = JSON.stringify({
  [UUID]: { incarnation: 3, mark: 7, id: "0123456789abcdef" },
  other: { incarnation: 4_294_967_295, mark: 0, id: "f".repeat(16) },
});

/** `osd.N.peers`: what an osd remembers of its peers' stores. */
function peersTarget(): FuzzTarget {
  return {
    name: "peers",
    seeds: bytesOf([PEERS_TEXT, "{}"]),
    sizeMax: 2048,
    words: bytesOf([
      "null",
      "[]",
      "{}",
      '""',
      '"__proto__"',
      '"mark"',
      '"incarnation"',
      ...NUMBERS,
    ]),
    bytesMax: 65_536,
    run: (input) => {
      const starts = parsePeerStarts(decoder.decode(input));
      if (starts === undefined) return false;
      for (const { incarnation, mark, id } of starts.values()) {
        const isWhole = [incarnation, mark].every((one) => one === one >>> 0);
        assert(isWhole && id.length === 16, "peers: a start that is none");
      }
      const again = parsePeerStarts(formatPeerStarts(starts));
      assert(JSON.stringify([...again!]) === JSON.stringify([...starts]), "peers: they changed");
      return true;
    },
  };
}

function compares(text: string): boolean {
  let report: unknown;
  try {
    report = JSON.parse(text);
  } catch {
    return false;
  }
  const rows = refusable(() => compareReports(report, JSON.parse(REPORT_TEXT)));
  return rows !== undefined && rows.length > 0;
}

const COMMANDS = [
  "status -o json",
  "pool create demo --size 3 --pgs 32 --failure-domain host",
  "pool ls -o name",
  "image create demo/disk1 --size 1GiB",
  "image resize demo/disk1 --size 512MiB --yes",
  "image rm demo/disk1 --yes",
  "client read demo/disk1 --offset 0 --length 16 -",
  "osd format --data /x --id 3 --size 10GiB --shards 2",
  "osd run --name osd.3 --data /x --shards 2",
  "mon run --name mon.a --http-port 0 --data /x",
  "client nbd serve --data /x --port 10809 --exclusive demo/disk1",
  "pg ls demo",
  "explain FB2001",
  "op ls -o yaml",
  "completion bash",
];

/** Building a command tree takes as long as parsing some lines: so many share one. */
const LINES_PER_TREE = 64;

/** Whole command lines, words apart by spaces, with programs and mons that refuse everything. */
class CommandLines {
  private readonly drainMicrotasks: () => void;
  private commandLine: CommandLine;
  private said = "";
  private calls = 0;

  constructor({ drainMicrotasks }: FuzzPorts) {
    this.drainMicrotasks = drainMicrotasks;
    this.commandLine = new CommandLine(this.ports());
  }

  target(): FuzzTarget {
    const words = COMMANDS.flatMap((line) => line.split(" "));
    return {
      name: "command-line",
      seeds: bytesOf(COMMANDS),
      sizeMax: 512,
      words: bytesOf([
        ...new Set([...words, ...NUMBERS, ...NAMES, "--help", "--", "-", "--size="]),
      ]),
      bytesMax: 4 * MIB,
      period: LINES_PER_TREE,
      begin: () => {
        this.commandLine = new CommandLine(this.ports());
      },
      run: (input) => this.run(input),
    };
  }

  /** True when it came as far as to a mon or a program. `loadCommands` was called before. */
  private run(input: Input): boolean {
    this.said = "";
    this.calls = 0;
    let outcome: number | "serving" | undefined;
    let failure: unknown;
    const line = decoder.decode(input);
    this.commandLine.run(line.split(" ")).then(
      (code) => {
        outcome = code;
      },
      (error: unknown) => {
        failure = error;
      },
    );
    this.drainMicrotasks();
    assert(failure === undefined, `command-line: it throws ${String(failure)}`);
    assert(outcome !== undefined, "command-line: it does not end");
    assert(!this.said.includes("invariant is broken"), `command-line: ${this.said}`);
    assert(!/FB0000|TypeError|RangeError|is not a function/.test(this.said), this.said);
    return this.calls > 0 || outcome === 0;
  }

  private ports(): CliPorts {
    const refuse = (): Promise<never> => {
      this.calls += 1;
      return Promise.reject(new FastblockError("FB1004", "asking the mon: nobody is there"));
    };
    const programs = new Proxy({} as CliPorts["programs"], { get: () => refuse });
    let nowMs = 0;
    return {
      out: (text) => {
        this.said += text;
      },
      err: (text) => {
        this.said += text;
      },
      outIsTty: false,
      errIsTty: false,
      environment: {},
      directoryDefault: "/nowhere",
      versions: { fastblock: "1.2.3" },
      readMons: () => [{ host: "127.0.0.1", port: 7480 }],
      http: refuse,
      yaml: (value) => JSON.stringify(value),
      style: (_, text) => text,
      ask: () => Promise.resolve(""),
      sleep: (ms) => {
        nowMs += ms;
        return Promise.resolve();
      },
      nowMs: () => nowMs,
      programs,
    };
  }
}
