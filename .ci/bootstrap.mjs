// Takes a fresh machine with nothing but Node and npm to a built executable: fetches the pinned Bun
// from npm, installs what bun.lock names, builds dist/fastblock when its sources changed, and then
// runs the verb. It uses no dependency, so it is the one program here that runs under Node.
//
//   node .ci/bootstrap.mjs build            build dist/fastblock
//   node .ci/bootstrap.mjs start [ARGS]     build, then `fastblock dev up --demo ARGS`
//   node .ci/bootstrap.mjs test [ARGS]      install, then the gate (.ci/gate.ts ARGS)
//   node .ci/bootstrap.mjs bench            build, then measure it against what is aimed at
//   node .ci/bootstrap.mjs bench ARGS       the same of `fastblock bench suite ARGS` alone
//   node .ci/bootstrap.mjs campaign [ARGS]  build, then attack it (cmd/campaign.ts ARGS)
//   node .ci/bootstrap.mjs zoo [ARGS]       install, then plant bugs for the simulator (cmd/zoo.ts ARGS)
//   node .ci/bootstrap.mjs run ARGS         build, then `fastblock ARGS`
import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  accessSync,
  constants,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { constants as osConstants } from "node:os";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = dirname(dirname(fileURLToPath(import.meta.url)));
const BOOTSTRAP = join(ROOT, "node_modules", ".bootstrap");
const DIST = join(ROOT, "dist");
const EXECUTABLE = join(DIST, "fastblock");
/** The same with the costly assertions on: what campaigns attack (core/base/assert.ts). */
const VERIFYING = join(DIST, "fastblock-verify");
const INSTALL_STAMP = join(BOOTSTRAP, "installed");
const NODE_MAJOR_MIN = 20;
/** What npm, Bun and the build may print before the child is killed. */
const OUTPUT_BYTES_MAX = 64 * 1024 * 1024;
const PARENT_LOOK_MS = 1000;
/** Entry points: the command and, beside it, each Worker's file (`cmd/main.ts` first). */
const WORKER_ENTRIES = ["shard.ts"];
const SOURCE_FOLDERS = ["cmd", "core", "ffi", "proto", "web"];
const BUILD_FILES = [
  "package.json",
  "bun.lock",
  "bunfig.toml",
  "tsconfig.json",
  ".ci/bootstrap.mjs",
];

/** A failure that is explained to the user instead of shown as a stack. */
class BootstrapError extends Error {
  constructor(what, hint) {
    super(what);
    this.hint = hint;
  }
}

const packageJson = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8"));
const bunVersion = packageJson.devDependencies.bun;

function say(text) {
  process.stderr.write(`${text}\n`);
}

/** The user's environment without what changes the behaviour of Bun itself. */
function plainEnvironment() {
  const environment = { ...process.env };
  delete environment.BUN_OPTIONS;
  delete environment.BUN_BE_BUN;
  return environment;
}

/** The environment of our tools: working caches even when HOME is missing or read-only. */
function childEnvironment() {
  const environment = plainEnvironment();
  // "production" would leave out the tools.
  delete environment.NODE_ENV;
  if (!isWritableFolder(environment.HOME)) {
    environment.HOME = join(BOOTSTRAP, "home");
    mkdirSync(environment.HOME, { recursive: true });
    // An npm above us hands down its folders, which are in the home that can not be written.
    for (const name of ["npm_config_cache", "npm_config_logs_dir"]) {
      if (!isWritableFolder(environment[name])) delete environment[name];
    }
  }
  return environment;
}

function isWritableFolder(path) {
  if (!path) return false;
  try {
    accessSync(path, constants.W_OK | constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** Run a program to its end with its output kept; answers {ok, output}. */
function attempt(program, args, options = {}) {
  const result = spawnSync(program, args, {
    cwd: ROOT,
    encoding: "utf8",
    env: childEnvironment(),
    maxBuffer: OUTPUT_BYTES_MAX,
    stdio: ["ignore", "pipe", "pipe"],
    ...options,
  });
  const output = `${result.stdout ?? ""}${result.stderr ?? ""}${result.error?.message ?? ""}`;
  return { ok: result.status === 0, output: output.trim() };
}

function indent(text) {
  return text.replace(/^/gm, "    ");
}

function checkNode() {
  const major = Number.parseInt(process.versions.node, 10);
  if (major >= NODE_MAJOR_MIN) return;
  throw new BootstrapError(
    `Node is too old: ${process.versions.node}, wanted ${NODE_MAJOR_MIN} or newer`,
    "install Node 20 (Debian: nodejs from NodeSource or a newer release) and run the command again",
  );
}

function checkPlatform() {
  const supported = process.platform === "linux" && ["x64", "arm64"].includes(process.arch);
  if (supported) return;
  throw new BootstrapError(
    `platform is not supported: ${process.platform} ${process.arch}, wanted linux x64 or arm64`,
    "run it on Linux, or in a Linux virtual machine",
  );
}

/* --------------------------------------------------------------------- Bun */

function bunIn(folder) {
  return join(folder, "node_modules", "bun", "bin", "bun.exe");
}

function isPinnedBun(path) {
  return existsSync(path) && attempt(path, ["--version"]).output === bunVersion;
}

/** The pinned Bun: the installed one, else the bootstrap's own, else fetched now. */
function ensureBun() {
  for (const path of [bunIn(ROOT), bunIn(BOOTSTRAP)]) if (isPinnedBun(path)) return path;
  say(`fetching Bun ${bunVersion} from npm`);
  rmSync(join(BOOTSTRAP, "node_modules"), { recursive: true, force: true });
  mkdirSync(BOOTSTRAP, { recursive: true });
  // Every setting that a user's npmrc could turn against us is named.
  const install = attempt("npm", [
    "install",
    "--prefix",
    BOOTSTRAP,
    "--no-save",
    "--no-package-lock",
    "--ignore-scripts",
    "--location=project",
    "--global=false",
    "--dry-run=false",
    "--include=optional",
    "--install-strategy=hoisted",
    "--workspaces=false",
    "--engine-strict=false",
    "--no-audit",
    "--no-fund",
    "--no-progress",
    "--no-update-notifier",
    "--loglevel=error",
    `bun@${bunVersion}`,
  ]);
  if (!install.ok) {
    throw new BootstrapError(
      `Bun ${bunVersion} could not be fetched from npm:\n${indent(install.output)}`,
      "check that npm reaches its registry (`npm ping`); a proxy belongs in npmrc",
    );
  }
  // npm ran no scripts: this one only puts the right binary of the fetched ones in place.
  const placed = attempt(process.execPath, [join(BOOTSTRAP, "node_modules", "bun", "install.js")]);
  const bun = bunIn(BOOTSTRAP);
  if (isPinnedBun(bun)) return bun;
  throw new BootstrapError(
    `Bun ${bunVersion} does not start:\n${indent(placed.output)}\n${indent(attempt(bun, ["--version"]).output)}`,
    "remove node_modules/.bootstrap and try again; Bun needs glibc 2.17 and a 64-bit CPU",
  );
}

/* ------------------------------------------------------------ dependencies */

function lockedPackages() {
  return Object.entries({ ...packageJson.dependencies, ...packageJson.devDependencies });
}

function missingPackages() {
  return lockedPackages()
    .filter(([name, version]) => {
      const path = join(ROOT, "node_modules", name, "package.json");
      return !existsSync(path) || JSON.parse(readFileSync(path, "utf8")).version !== version;
    })
    .map(([name, version]) => `${name}@${version}`);
}

function ensureDependencies(bun) {
  const wanted = createHash("sha256");
  for (const name of ["package.json", "bun.lock", "bunfig.toml"]) {
    wanted.update(readFileSync(join(ROOT, name)));
  }
  const stamp = wanted.digest("hex");
  if (readIfThere(INSTALL_STAMP) === stamp && missingPackages().length === 0) return;
  say("installing dependencies");
  const install = attempt(bun, ["install", "--frozen-lockfile", "--no-progress"]);
  if (!install.ok) {
    throw new BootstrapError(
      `dependencies could not be installed:\n${indent(install.output)}`,
      "check that npm reaches its registry (`npm ping`); after an edit of package.json run " +
        "node_modules/.bin/bun install",
    );
  }
  const missing = missingPackages();
  if (missing.length > 0) {
    throw new BootstrapError(
      `packages are missing after the installation: ${missing.join(" ")}`,
      "look for `omit`, `only` or `production` in npmrc and in ~/.bunfig.toml",
    );
  }
  mkdirSync(BOOTSTRAP, { recursive: true });
  writeFileSync(INSTALL_STAMP, stamp);
}

function readIfThere(path) {
  return existsSync(path) ? readFileSync(path, "utf8") : "";
}

/* ------------------------------------------------------------------- build */

/** Every file that decides what the executable is: sources without their tests. */
function buildInputs() {
  const files = BUILD_FILES.filter((name) => existsSync(join(ROOT, name)));
  for (const folder of SOURCE_FOLDERS) {
    if (!existsSync(join(ROOT, folder))) continue;
    for (const entry of readdirSync(join(ROOT, folder), { recursive: true, withFileTypes: true })) {
      const path = join(entry.parentPath ?? entry.path, entry.name).slice(ROOT.length + 1);
      const isSource = entry.isFile() && !/\.test\.tsx?$|\/testdata\/|\.md$/.test(path);
      if (isSource) files.push(path);
    }
  }
  return files.sort();
}

function buildHash() {
  const hash = createHash("sha256");
  for (const file of buildInputs()) {
    const content = readFileSync(join(ROOT, file));
    hash.update(`${file}\0${content.length}\0`).update(content);
  }
  return hash.digest("hex");
}

/** Build an executable unless it was built from exactly these sources. */
function ensureExecutable(bun, target = EXECUTABLE) {
  const hash = buildHash();
  const name = basename(target);
  const stamp = join(DIST, `${name}.inputs`);
  if (existsSync(target) && readIfThere(stamp) === hash) return;
  say(`building dist/${name}`);
  mkdirSync(DIST, { recursive: true });
  // Built elsewhere and renamed: a running cluster keeps the file that it started from. The name
  // itself is the executable's idea of what it is called.
  const folder = join(DIST, `.build-${process.pid}`);
  const fresh = join(folder, name);
  const entries = ["main.ts", ...WORKER_ENTRIES].map((name) => join("cmd", name));
  // Every define is passed: the build would else take those of bunfig.toml, which are the tests'.
  const build = attempt(bun, [
    "build",
    "--compile",
    "--no-compile-autoload-dotenv",
    "--no-compile-autoload-bunfig",
    "--minify-syntax",
    "--keep-names",
    "--sourcemap=inline",
    // Parsed at build, and only what a subcommand imports is loaded: starts in a third of the time.
    "--format=esm",
    "--splitting",
    "--bytecode",
    "--define",
    `VERIFY=${String(target === VERIFYING)}`,
    // A library's folder on the machine of the build: means nothing where the executable runs.
    "--define",
    '__dirname="/"',
    "--define",
    '__filename="/fastblock"',
    "--define",
    `FASTBLOCK_VERSION=${JSON.stringify(packageJson.version)}`,
    "--define",
    `FASTBLOCK_BUILD=${JSON.stringify(hash.slice(0, 12) + (target === VERIFYING ? "+verify" : ""))}`,
    ...entries,
    "--outfile",
    fresh,
  ]);
  if (!build.ok || !existsSync(fresh)) {
    rmSync(folder, { recursive: true, force: true });
    throw new BootstrapError(
      `dist/${name} could not be built:\n${indent(build.output)}`,
      "mend the sources named above",
    );
  }
  rmSync(stamp, { force: true });
  renameSync(fresh, target);
  rmSync(folder, { recursive: true, force: true });
  writeFileSync(stamp, hash);
}

/* -------------------------------------------------------------------- verbs */

/**
 * Run a program in the foreground in our place: its signals, its output, its exit code. Where it did well
 * and `next` is given, that goes on.
 */
function become(program, args, env, next) {
  const child = spawn(program, args, { stdio: "inherit", env });
  // On Ctrl-C the terminal tells the child too: staying alive until it has ended is all we do then.
  const forwarded = ["SIGTERM", "SIGHUP", "SIGINT", "SIGUSR1", "SIGUSR2"];
  for (const signal of forwarded) {
    process.on(signal, () => {
      const terminalTold = signal === "SIGINT" && process.stdin.isTTY;
      if (!terminalTold) child.kill(signal);
    });
  }
  // npm may be killed without a word to us: nobody could end the child then.
  const starter = process.ppid;
  setInterval(() => {
    if (process.ppid !== starter) child.kill("SIGTERM");
  }, PARENT_LOOK_MS).unref();
  child.on("error", (error) => {
    fail(new BootstrapError(`${program} could not be started: ${error.message}`, "build it again"));
  });
  child.on("exit", (code, signal) => {
    if (code === 0 && next !== undefined) next();
    else process.exit(signal ? 128 + (osConstants.signals[signal] ?? 0) : code);
  });
}

function fail(error) {
  if (!(error instanceof BootstrapError)) throw error;
  say(`error: ${error.message}`);
  say(`  hint  ${error.hint}`);
  process.exit(1);
}

function prepared() {
  const bun = ensureBun();
  ensureDependencies(bun);
  return bun;
}

/** `npm run build -- --verify` builds the other one. */
function buildTarget(args) {
  if (args.length === 0) return EXECUTABLE;
  if (args.length === 1 && args[0] === "--verify") return VERIFYING;
  throw new BootstrapError(
    `arguments of build: ${args.join(" ")}, wanted none or --verify`,
    "npm run build",
  );
}

const VERBS = {
  build: (args) => ensureExecutable(prepared(), buildTarget(args)),
  start: (args) => {
    ensureExecutable(prepared());
    // The cluster in the foreground ends with us, however we end (core/dev/dev.ts).
    const environment = { ...plainEnvironment(), FASTBLOCK_STARTED_BY: String(process.pid) };
    become(EXECUTABLE, ["dev", "up", "--demo", ...args], environment);
  },
  test: (args) => become(prepared(), [join(ROOT, ".ci", "gate.ts"), ...args], childEnvironment()),
  campaign: (args) => {
    const bun = prepared();
    ensureExecutable(bun, VERIFYING);
    become(bun, [join(ROOT, "cmd", "campaign.ts"), ...args], childEnvironment());
  },
  bench: (args) => {
    ensureExecutable(prepared());
    const measure = (what, next) =>
      become(EXECUTABLE, ["bench", ...what, "--bars", ...args], plainEnvironment(), next);
    // What options say is of the suite.
    const others = () => measure(["pauses"], () => measure(["idle"]));
    measure(["suite", "--tail-time", "60s"], args.length === 0 ? others : undefined);
  },
  zoo: (args) => become(prepared(), [join(ROOT, "cmd", "zoo.ts"), ...args], childEnvironment()),
  run: (args) => {
    ensureExecutable(prepared());
    become(EXECUTABLE, args, plainEnvironment());
  },
};

function main() {
  const [verb, ...args] = process.argv.slice(2);
  if (!Object.hasOwn(VERBS, verb ?? "")) {
    throw new BootstrapError(
      `verb is unknown: ${verb ?? "none"}, wanted ${Object.keys(VERBS).join(", ")}`,
      "npm start, npm test and npm run build call it with the right one",
    );
  }
  checkNode();
  checkPlatform();
  VERBS[verb](args);
}

try {
  main();
} catch (error) {
  fail(error);
}
