// Runs the real linter with the real configuration over a small tree of planted faults: each rule is
// shown to report what it must, where it must, and nothing on the good file beside it.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, relative } from "node:path";

interface Case {
  readonly name: string;
  readonly path: string;
  readonly code: string;
  /** `line rule text`, in order of lines; empty: the file is good. */
  readonly want: readonly string[];
}

interface Diagnostic {
  readonly code: string;
  readonly message: string;
  readonly filename: string;
  readonly labels: readonly { readonly span: { readonly line: number } }[];
}

const ROOT = dirname(dirname(import.meta.dir));

const LAYERS: readonly Case[] = [
  {
    name: "a lower rank's face, base and the world",
    path: "core/pg/good.ts",
    code: `import "../raft/raft.ts";\nimport "../base/ring.ts";\nimport "../reactor/world.ts";\nimport "./apply.ts";`,
    want: [],
  },
  {
    name: "an inside of another folder",
    path: "core/pg/inside.ts",
    code: `import { a } from "../raft/progress.ts";\nexport const b: unknown = a;`,
    want: ["1 layers inside of another folder"],
  },
  {
    name: "a type of an inside of another folder",
    path: "core/pg/inside-type.ts",
    code: `import type { A } from "../raft/progress.ts";\nexport type B = A;`,
    want: ["1 layers inside of another folder"],
  },
  {
    name: "a higher and an equal rank",
    path: "core/log/rank.ts",
    code: `// cold: a planted file of the tests\nimport "../object/object.ts";\nimport type {} from "../pg/pg.ts";\nexport * from "../osd/osd.ts";`,
    want: [
      "2 layers object (5) imported by log (5)",
      "3 layers pg (6) imported by log (5)",
      "4 layers osd (7) imported by log (5)",
    ],
  },
  {
    name: "import() and types by import()",
    path: "core/raft/dynamic.ts",
    code: `// cold: a planted file of the tests\nexport type T = import("../pg/pg.ts").T;\nexport const load = (): Promise<unknown> => import("../osd/osd.ts");`,
    want: ["2 layers pg (6)", "3 layers osd (7)"],
  },
  {
    name: "generated messages below and above rpc",
    path: "core/cluster/messages.ts",
    code: `import type {} from "../../proto/gen/raft_pb.ts";`,
    want: ["1 layers imported below core/rpc"],
  },
  {
    name: "generated messages in rpc",
    path: "core/rpc/messages.ts",
    code: `// cold: a planted file of the tests\nimport type {} from "../../proto/gen/raft_pb.ts";`,
    want: [],
  },
  {
    name: "an implementation imported by core",
    path: "core/mon/implementation.ts",
    code: `import "./store/bun-sqlite.ts";`,
    want: ["1 layers implementation is imported outside cmd/ and tests"],
  },
  {
    name: "an implementation imported by cmd and by another of its folder",
    path: "core/reactor/bun-other.ts",
    code: `import "./uring-world.ts";\nimport "../../ffi/uring/uring.ts";`,
    want: [],
  },
  {
    name: "wiring",
    path: "cmd/wiring.ts",
    code: `import "../core/reactor/bun-world.ts";`,
    want: [],
  },
  {
    name: "a binding imported by core",
    path: "core/device/binding.ts",
    code: `// cold: a planted file of the tests\nimport "../../ffi/uring/uring.ts";`,
    want: ["2 layers ffi/ is imported by"],
  },
  {
    name: "core imported by a binding",
    path: "ffi/libc/upward.ts",
    code: `import "../../core/base/assert.ts";\nimport "../../core/device/device.ts";`,
    want: ["2 layers ffi/ imports core/base only"],
  },
  {
    name: "a face of a protocol of the gateway",
    path: "cmd/gateway-face.ts",
    code: `import "../core/gateway/nbd/nbd.ts";\nimport "../core/gateway/nbd/options.ts";`,
    want: ["2 layers inside of another folder"],
  },
  {
    name: "a library below rank 7",
    path: "core/store/library.ts",
    code: `// cold: a planted file of the tests\nimport "zod";\nimport "@bufbuild/protobuf/wire";`,
    want: ["2 layers library below rank 7"],
  },
  {
    name: "a library from rank 7 up",
    path: "core/mon/library.ts",
    code: `import "zod";`,
    want: [],
  },
  {
    name: "an import without its extension",
    path: "core/pg/extension.ts",
    code: `import "./apply";`,
    want: ["1 layers import lacks its extension"],
  },
  {
    name: "a test of any rank that keeps to faces",
    path: "core/base/wide.test.ts",
    code: `import "../testing/testing.ts";\nimport "../reactor/bun-world.ts";\nimport "../raft/progress.ts";`,
    want: ["3 layers inside of another folder"],
  },
  {
    name: "a suite of tests imported by a test and by another",
    path: "core/mon/suite.ts",
    code: `import "./store-contract.ts";`,
    want: ["1 layers suite of tests is imported outside of tests"],
  },
  {
    name: "a suite of tests is a test",
    path: "core/mon/store-contract.ts",
    code: `import "bun:test";\nimport "./bun-store.ts";`,
    want: [],
  },
  {
    name: "a folder of core without a rank",
    path: "core/misc/misc.ts",
    code: `export const a = 1;`,
    want: ["1 layers has no rank"],
  },
  {
    name: "a barrel",
    path: "core/pg/index.ts",
    code: `export const a = 1;`,
    want: ["1 layers index.ts is not wanted"],
  },
];

const SEAMS: readonly Case[] = [
  {
    name: "the runtime's modules",
    path: "core/mon/modules.ts",
    code: `import "bun:sqlite";\nimport "node:fs";\nimport "os";\nexport type A = import("bun").BunFile;`,
    want: ["1 seams bun:sqlite", "2 seams node:fs", "3 seams os is", "4 seams bun is"],
  },
  {
    name: "time, randomness, timers and processes",
    path: "core/mon/globals.ts",
    code: `export const a: number = Date.now();
export const b: number = performance.now();
export const c: number = Math.random();
setTimeout(main, 1);
globalThis.setInterval(main, 1);
export const d: string = process.argv.join();
export const e: Date = new Date(0);
export const f: string = import.meta.dir;
export function main(): void {}`,
    want: [
      "1 seams Date",
      "2 seams performance",
      "3 seams Math.random",
      "4 seams setTimeout",
      "5 seams setInterval",
      "6 seams process",
      "7 seams Date",
      "7 seams Date",
      "8 seams import.meta",
    ],
  },
  {
    name: "the same names when they are our own",
    path: "core/mon/own-names.ts",
    code: `export function run(process: { argv: number }, performance: number): number {
  return process.argv + performance + Math.floor(0.5);
}`,
    want: [],
  },
  {
    name: "the runtime in an implementation",
    path: "core/mon/bun-clock.ts",
    code: `import "node:fs";\nexport const now: number = Date.now();`,
    want: [],
  },
  {
    name: "pointers outside ffi/",
    path: "core/mon/bun-pointer.ts",
    code: `import "bun:ffi";`,
    want: ["1 seams bun:ffi is imported outside ffi/"],
  },
  {
    name: "pointers in cmd/",
    path: "cmd/pointer.ts",
    code: `import type { Pointer } from "bun:ffi";\nexport type A = Pointer;`,
    want: ["1 seams bun:ffi is imported outside ffi/"],
  },
  { name: "pointers in ffi/", path: "ffi/libc/pointer.ts", code: `import "bun:ffi";`, want: [] },
  {
    name: "state of a module",
    path: "core/mon/state.ts",
    code: `let count = 0;
export let shown = 0;
const byName = new Map<string, number>();
const names: string[] = [];
class Counter {
  static total = 0;
}
export function main(): void {
  count++;
  shown = count + byName.size + names.length + Counter.total++;
}`,
    want: [
      "1 seams module keeps state: let",
      "2 seams module keeps state: let",
      "3 seams module keeps state: an empty container",
      "4 seams module keeps state: an empty container",
      "6 seams static field can change",
    ],
  },
  {
    name: "constants of a module",
    path: "core/mon/constants.ts",
    code: `const NONE: readonly number[] = [];
const NAMES = new Map([["a", 1]]);
declare const VERIFY: boolean;
class Limits {
  static readonly rowsMax = 1;
}
export function main(): number {
  let count = NONE.length + NAMES.size + Limits.rowsMax;
  if (VERIFY) count++;
  return count;
}`,
    want: [],
  },
];

const DATA_PATH: readonly Case[] = [
  {
    name: "a face without the mark",
    path: "core/store/store.ts",
    code: `// cold: a reason is not enough for a face\nexport const a = 1;`,
    want: ["1 data-path mark is missing"],
  },
  {
    name: "a file of a marked folder without a mark",
    path: "core/rpc/unmarked.ts",
    code: `export const a = 1;`,
    want: ["1 data-path mark is missing"],
  },
  {
    name: "a cold file with a reason",
    path: "core/rpc/cold.ts",
    code: `// cold: runs once per connection\nexport const a: number[] = [1].map((x) => x);`,
    want: [],
  },
  {
    name: "a cold file with no reason",
    path: "core/rpc/cold-why.ts",
    code: `// cold: rare\nexport const a = 1;`,
    want: ["1 data-path mark is missing"],
  },
  {
    name: "each ban",
    path: "core/device/bans.ts",
    code: `// data path
export async function bad(list: number[], ...rest: number[]): Promise<void> {
  const later = (): number => 1;
  await Promise.resolve();
  const [first] = list;
  const copy = later.call(null, ...rest);
  const text = \`\${first}\${copy}\`;
  const object = { text };
  const array = [object, /x/, 1n];
  const view = new Uint8Array(1).subarray(0);
  const big = BigInt(1);
  if (array.length > 0) throw new Error("no");
  delete (object as { text?: string }).text;
  list.values?.();
  for (const x of list.map(leaf)) leaf(x + view.length + Number(big));
}
function* produce(): Generator<number> {
  yield 1;
}
export function leaf(x: number): number {
  return x + produce().next().value;
}`,
    want: [
      "2 data-path async function",
      "2 data-path rest parameter",
      "3 data-path closure",
      "4 data-path await",
      "4 data-path promise",
      "5 data-path array destructuring",
      "6 data-path spread",
      "7 data-path template string",
      "8 data-path new object",
      "9 data-path BigInt",
      "9 data-path new array",
      "9 data-path regular expression",
      "10 data-path new object by subarray()",
      "10 data-path new object on",
      "11 data-path BigInt",
      "12 data-path new object",
      "12 data-path throw instead of a status",
      "13 data-path deleted field",
      "14 data-path optional method",
      "15 data-path new object by map()",
      "17 data-path generator",
      "18 data-path generator",
    ],
  },
  {
    name: "what runs once",
    path: "core/device/once-only.ts",
    code: `// data path
const TABLE = [1, 2].map((x) => x + 1);
export class Op {
  readonly rows: number[] = [...TABLE];
  readonly done: () => number;
  constructor() {
    this.done = Op.finish;
    const { length } = \`\${this.rows.length}\`;
    this.rows.push(length);
  }
  static finish(): number {
    return 1;
  }
  /** Fill the pool. cold: runs at start-up only. */
  static fill(count: number): Op[] {
    return Array.from({ length: count }, () => new Op());
  }
}
// cold: a new pool is made with its shard
export function make(): Op {
  return new Op();
}
export interface Opener {
  open(): Promise<Op>;
}`,
    want: [],
  },
  {
    name: "a closure in a constructor that allocates",
    path: "core/device/constructor-closure.ts",
    code: `// data path
export class Op {
  readonly done: () => number[];
  constructor() {
    this.done = (): number[] => [1];
  }
}`,
    want: ["5 data-path new array"],
  },
  {
    name: "fields of a line of the logger, which is not written per I/O",
    path: "core/device/logging.ts",
    code: `// data path
export function onGone(logger: { info: unknown; debug: unknown }, osd: number): void {
  logger.info("gone", { osd, name: \`osd.\${osd}\` });
  logger.debug("gone", { osd });
}`,
    want: ["4 data-path new object"],
  },
  {
    name: "a mark in a test",
    path: "core/device/marked.test.ts",
    code: `// data path\nexport const a = (): number[] => [1];`,
    want: [],
  },
];

const OTHERS: readonly Case[] = [
  {
    name: "suppressions and void without reasons",
    path: "core/mon/reasons.ts",
    code: `async function work(): Promise<void> {}
// oxlint-disable-next-line typescript/no-floating-promises
work();
void work();
// The caller waits for its effect.
void work();
// oxlint-disable-next-line typescript/no-floating-promises -- awaited by the test below
work();`,
    want: ["2 reasons suppression has no reason", "4 reasons void has no comment"],
  },
  {
    name: "floating promises",
    path: "core/mon/floating.ts",
    code: `async function work(): Promise<void> {}\nwork();`,
    want: ["2 no-floating-promises "],
  },
  {
    name: "misused promises",
    path: "core/mon/misused.ts",
    code: `async function work(): Promise<boolean> {
  return true;
}
if (work()) [1].forEach(async () => void (await work()));`,
    want: ["4 no-misused-promises ", "4 no-misused-promises "],
  },
  {
    name: "a switch that forgets a member",
    path: "core/mon/switch.ts",
    code: `enum Stage {
  One = 1,
  Two = 2,
}
export function name(stage: Stage): string {
  switch (stage) {
    case Stage.One:
      return "one";
  }
  return "";
}`,
    want: ["6 switch-exhaustiveness-check "],
  },
  {
    name: "throwing what is no error",
    path: "core/mon/throw.ts",
    code: `export function main(): void {\n  throw "text";\n}`,
    want: ["2 only-throw-error "],
  },
  {
    name: "an export without its types",
    path: "core/mon/export-types.ts",
    code: `export function main() {\n  return 1;\n}`,
    want: ["1 explicit-module-boundary-types "],
  },
  {
    name: "a cycle",
    path: "core/mon/cycle-a.ts",
    code: `import { b } from "./cycle-b.ts";\nexport const a: () => number = () => b();`,
    want: ["1 no-cycle "],
  },
  {
    name: "the cycle's other half",
    path: "core/mon/cycle-b.ts",
    code: `import { a } from "./cycle-a.ts";\nexport const b: () => number = () => a();`,
    want: ["1 no-cycle "],
  },
  {
    name: "a long function",
    path: "core/mon/long.ts",
    code: `export function main(): void {\n${"  main();\n".repeat(69)}}`,
    want: ["1 max-lines-per-function "],
  },
  {
    name: "a function of 70 lines",
    path: "core/mon/not-long.ts",
    code: `export function main(): void {\n${"  main();\n".repeat(68)}}`,
    want: [],
  },
  {
    name: "a deep function",
    path: "core/mon/deep.ts",
    code: `export function main(a: number): void {
  if (a > 1) {
    if (a > 2) {
      if (a > 3) {
        if (a > 4) {
          if (a > 5) main(a);
        }
      }
    }
  }
}`,
    want: ["6 max-depth "],
  },
];

const ALL = { layers: LAYERS, seams: SEAMS, "data-path": DATA_PATH, others: OTHERS };
const found = new Map<string, string[]>();
let folder = "";

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "fastblock lint "));
  for (const name of ["tsconfig.json", ".oxlintrc.json", ".ci/lint"]) {
    cpSync(join(ROOT, name), join(folder, name), { recursive: true });
  }
  symlinkSync(join(ROOT, "node_modules"), join(folder, "node_modules"));
  for (const planted of Object.values(ALL).flat()) {
    const path = join(folder, planted.path);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, `${planted.code}\n`);
  }
  for (const diagnostic of lint()) {
    const path = relative(folder, join(folder, diagnostic.filename));
    const line = diagnostic.labels[0]?.span.line ?? 0;
    const rule = /\(([^)]*)\)$/.exec(diagnostic.code)?.[1] ?? diagnostic.code;
    found.set(path, [...(found.get(path) ?? []), `${line} ${rule} ${diagnostic.message}`]);
  }
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

function lint(): Diagnostic[] {
  const config = join(folder, ".oxlintrc.json");
  const run = spawnSync(
    join(ROOT, "node_modules", ".bin", "oxlint"),
    ["-c", config, "-f", "json", "--type-aware", "cmd", "core", "ffi"],
    { cwd: folder, encoding: "utf8" },
  );
  expect(run.stdout).toStartWith("{");
  return (JSON.parse(run.stdout) as { diagnostics: Diagnostic[] }).diagnostics;
}

/** What the rules under test said; the planted code breaks others by the way. */
function reports(path: string): string[] {
  const tested =
    /^\d+ (layers|seams|data-path|reasons|no-floating|no-misused|switch-ex|only-throw|explicit-|no-cycle|max-)/;
  return (found.get(path) ?? [])
    .filter((text) => tested.test(text))
    .sort((a, b) => Number.parseInt(a, 10) - Number.parseInt(b, 10) || a.localeCompare(b));
}

for (const [rule, cases] of Object.entries(ALL)) {
  describe(rule, () => {
    for (const { name, path, want } of cases) {
      test(name, () => {
        const got = reports(path);
        expect(got.map((text, index) => short(text, want[index] ?? ""))).toEqual([...want]);
      });
    }
  });
}

/** The report, or just the wanted part of it when that is in it. */
function short(report: string, want: string): string {
  const [line = "", rule = "", ...words] = want.split(" ");
  const isWanted = report.startsWith(`${line} ${rule} `) && report.includes(words.join(" "));
  return isWanted ? want : report;
}
