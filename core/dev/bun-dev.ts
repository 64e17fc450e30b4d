import { spawn } from "node:child_process";
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  renameSync,
  rmdirSync,
  rmSync,
} from "node:fs";
import { join, resolve } from "node:path";
import { FastblockError } from "../base/errors.ts";
import { FreePorts, findSocketPath, removeSocketFolder } from "./bun-places.ts";
import {
  askBackend,
  askJson,
  childEnvironment,
  httpOf,
  lastLines,
  nbdsOf,
  processStatus,
  readPlan,
  readText,
  runningPid,
  stopOne,
  writeWhole,
} from "./bun-processes.ts";
import { CLUSTER_FILE, formatClusterFile, KEY_FILE } from "./cluster-file.ts";
import type { DevDirectory, DevPrograms, DevStatus, DevUpOptions } from "./dev.ts";
import {
  argumentsOf,
  DEV_FILE,
  type DevPlan,
  type DevProcess,
  formatDevPlan,
  growPlan,
  makePlan,
  OSD_BYTES_DEFAULT,
  OSDS_DEFAULT,
  type PlanOptions,
  startScript,
} from "./plan.ts";

/** What a dev cluster takes from the process that runs it. */
export interface DevOutside {
  /** The words that start this same program: the executable, or the runtime and `main.ts`. */
  readonly program: readonly string[];
  /** The program as a person would type it, for hints. */
  readonly programShown: string;
  readonly directoryDefault: string;
  out(text: string): void;
  err(text: string): void;
}

/** From the spawn of a process to its ready line. */
const READY_MS_MAX = 30_000;
const LOOK_MS = 10;
const DEMO_POOL = "demo";
const DEMO_IMAGE = "demo/disk1";
const DEMO_SIZE = "1GiB";
const DEMO_SIZE_MAX = 3;

/** The dev cluster with real files and processes. */
export class BunDev implements DevPrograms {
  private readonly outside: DevOutside;

  constructor(outside: DevOutside) {
    this.outside = outside;
  }

  async up(options: DevUpOptions): Promise<number> {
    const directory = resolve(options.directory);
    const startMs = performance.now();
    const interruption = options.detach ? undefined : new Interruption();
    const plan = this.prepare(directory, options);
    try {
      await this.format(plan, directory);
      await this.start(plan, directory, interruption);
    } catch (error) {
      if (interruption?.signal === undefined) throw error;
    }
    let code = 0;
    if (interruption?.signal === undefined) {
      const seconds = (performance.now() - startMs) / 1000;
      if (!options.quiet) this.say(`serving after ${seconds.toFixed(1)} s\n`);
      if (options.demo) code = await this.demo(plan, directory, interruption);
      if (!options.quiet) this.outside.out(this.summary(plan, directory, options));
    }
    if (interruption === undefined) return code;
    await this.watch(plan, directory, interruption);
    this.say("stopping\n");
    await this.stop(plan, directory);
    this.say(`stopped; the data stays in ${directory}\n`);
    return code;
  }

  async down(options: DevDirectory): Promise<number> {
    const directory = resolve(options.directory);
    return await this.stop(readPlan(directory), directory);
  }

  async status(options: DevDirectory): Promise<DevStatus> {
    const directory = resolve(options.directory);
    const plan = readPlan(directory);
    const processes = plan.processes.map((one) => processStatus(one, directory));
    const http = httpOf(plan);
    const backend = await askBackend(http);
    return {
      directory,
      clusterId: plan.cluster.clusterId,
      serving: backend !== undefined && processes.every((one) => one.running),
      ...(backend === undefined ? {} : { backend }),
      http,
      nbd: nbdsOf(plan),
      processes,
    };
  }

  async reset(options: DevDirectory): Promise<void> {
    const directory = resolve(options.directory);
    const plan = readPlan(directory);
    await this.stop(plan, directory);
    const names = plan.processes.map(({ name }) => name);
    for (const entry of readdirSync(directory)) {
      const ours = names.some((name) => entry === name || entry.startsWith(`${name}.`));
      if (ours || entry === CLUSTER_FILE || entry === KEY_FILE) {
        rmSync(join(directory, entry), { recursive: true, force: true });
      }
    }
    removeSocketFolder(directory);
    // Last: until here the directory is known as a cluster, so that a reset can be repeated.
    rmSync(join(directory, DEV_FILE), { force: true });
    if (readdirSync(directory).length === 0) rmdirSync(directory);
  }

  /* --------------------------------------------------------------- starting */

  /** Make or read the plan, and write what stands beside it. */
  private prepare(directory: string, options: DevUpOptions): DevPlan {
    mkdirSync(directory, { recursive: true });
    const before = existsSync(join(directory, DEV_FILE)) ? readPlan(directory) : undefined;
    if (before === undefined && existsSync(join(directory, CLUSTER_FILE))) {
      throw new FastblockError(
        "FB4008",
        `starting a cluster in ${directory}: it holds another one, wanted an empty directory`,
      );
    }
    const ports = new FreePorts();
    const wanted: PlanOptions = {
      clusterId: before?.cluster.clusterId ?? crypto.randomUUID(),
      osds: options.osds ?? before?.osds ?? OSDS_DEFAULT,
      shards: options.shards ?? before?.shards ?? 1,
      nbds: options.nbds ?? before?.nbds ?? 1,
      spread: options.spread ?? before?.spread ?? false,
      osdBytes: options.osdBytes ?? before?.osdBytes ?? OSD_BYTES_DEFAULT,
      backend: options.backend ?? before?.backend ?? "auto",
      logLevel: options.logLevel ?? before?.logLevel ?? "info",
      spreadFirst: before?.spreadFirst ?? 2 + ports.below(200),
      socketPath: (name) => findSocketPath(directory, name),
    };
    const pick = (host: string): number => ports.pick(host);
    const plan = before === undefined ? makePlan(wanted, pick) : growPlan(before, wanted, pick);
    if (!existsSync(join(directory, KEY_FILE))) {
      const key = crypto.getRandomValues(new Uint8Array(32)).toHex();
      writeWhole(join(directory, KEY_FILE), `${key}\n`, 0o600);
    }
    writeWhole(join(directory, CLUSTER_FILE), formatClusterFile(plan.cluster), 0o644);
    for (const one of plan.processes) {
      if (one.role === "mon") mkdirSync(join(directory, one.data), { recursive: true });
      const command = [...this.outside.program, ...argumentsOf(plan, one, directory)];
      writeWhole(join(directory, `${one.name}.start`), startScript(command), 0o755);
    }
    writeWhole(join(directory, DEV_FILE), formatDevPlan(plan), 0o644);
    return plan;
  }

  /** Format the devices of new osds. A device gets its name when it is whole. */
  private async format(plan: DevPlan, directory: string): Promise<void> {
    const fresh = plan.processes.filter(
      (one) => one.role === "osd" && !existsSync(join(directory, one.data)),
    );
    await Promise.all(
      fresh.map(async (one) => {
        const path = join(directory, one.data);
        const words = ["osd", "format", "--data", `${path}.new`, "--cluster", directory];
        const { code, text } = await this.command([
          ...words,
          "--id",
          one.name.slice("osd.".length),
          "--size",
          String(plan.osdBytes),
          "--shards",
          String(plan.shards),
          "--backend",
          plan.backend,
          "--force",
        ]);
        if (code !== 0) {
          throw new FastblockError(
            "FB2102",
            `formatting ${one.name}: exit code ${code}, wanted 0`,
            {
              why: lastLines(text),
            },
          );
        }
        renameSync(`${path}.new`, path);
      }),
    );
  }

  /** Start what does not run: the mon, then the osds together, then the gateways. */
  private async start(
    plan: DevPlan,
    directory: string,
    interruption: Interruption | undefined,
  ): Promise<void> {
    for (const role of ["mon", "osd", "nbd"] as const) {
      const missing = plan.processes.filter(
        (one) => one.role === role && runningPid(one, directory) === 0,
      );
      await Promise.all(missing.map((one) => this.startOne(plan, one, directory, interruption)));
      if (role === "osd") await waitForOsds(plan, interruption);
    }
  }

  private async startOne(
    plan: DevPlan,
    one: DevProcess,
    directory: string,
    interruption: Interruption | undefined,
  ): Promise<void> {
    const portsPath = join(directory, `${one.name}.ports`);
    rmSync(portsPath, { force: true });
    const log = openSync(join(directory, `${one.name}.log`), "a");
    const [executable, ...words] = [...this.outside.program, ...argumentsOf(plan, one, directory)];
    // A session of its own: Ctrl-C in our terminal reaches us alone, and we stop it in order.
    const child = spawn(executable!, words, {
      cwd: "/",
      detached: true,
      stdio: ["ignore", log, log],
      env: childEnvironment(),
    });
    closeSync(log);
    let ended: string | undefined;
    child.on("error", (error) => {
      ended = error.message;
    });
    child.on("exit", (code, signal) => {
      ended = signal ?? `exit code ${String(code)}`;
    });
    child.unref();
    const endMs = performance.now() + READY_MS_MAX;
    while (!existsSync(portsPath)) {
      if (interruption?.signal !== undefined) return;
      if (ended !== undefined || performance.now() > endMs) {
        const seen = ended ?? `not ready after ${READY_MS_MAX / 1000} s`;
        throw new FastblockError("FB1004", `starting ${one.name}: ${seen}, wanted its ready line`, {
          why: lastLines(readText(join(directory, `${one.name}.log`))),
          hint: `read ${join(directory, `${one.name}.log`)}`,
        });
      }
      await Bun.sleep(LOOK_MS);
    }
  }

  /* --------------------------------------------------------------- stopping */

  /** Stop what runs, backwards, role by role. Answers how many processes ran. */
  private async stop(plan: DevPlan, directory: string): Promise<number> {
    let stopped = 0;
    for (const role of ["nbd", "osd", "mon"] as const) {
      const running = plan.processes.filter(
        (one) => one.role === role && runningPid(one, directory) !== 0,
      );
      await Promise.all(running.map((one) => stopOne(one, directory)));
      stopped += running.length;
    }
    return stopped;
  }

  /** Serve until a signal; say when a process is gone, and never start one again. */
  private async watch(plan: DevPlan, directory: string, interruption: Interruption): Promise<void> {
    const gone = new Set<string>();
    while (interruption.signal === undefined) {
      for (const one of plan.processes) {
        const running = runningPid(one, directory) !== 0;
        if (running && gone.delete(one.name)) this.say(`${one.name} runs again\n`);
        if (!running && !gone.has(one.name)) {
          gone.add(one.name);
          this.say(`${one.name} is gone; start it again by ${join(directory, one.name)}.start\n`);
        }
      }
      await interruption.wait(1000);
    }
  }

  /* ------------------------------------------------------------------- demo */

  /** Make demo/disk1 unless it is there, and run a short verified load on it. */
  private async demo(
    plan: DevPlan,
    directory: string,
    interruption: Interruption | undefined,
  ): Promise<number> {
    const at = ["--cluster", directory];
    const size = String(Math.min(DEMO_SIZE_MAX, plan.osds));
    const steps = [
      { look: ["pool", "info", DEMO_POOL], make: ["pool", "create", DEMO_POOL, "--size", size] },
      {
        look: ["image", "info", DEMO_IMAGE],
        make: ["image", "create", DEMO_IMAGE, "--size", DEMO_SIZE],
      },
    ];
    for (const { look, make } of steps) {
      if ((await this.command([...look, ...at])).code === 0) continue;
      const { code, text } = await this.command([...make, ...at]);
      this.say(text);
      if (code !== 0) return code;
    }
    if (interruption?.signal !== undefined) return 0;
    const words = `${size} replicas, writes and reads of 16 KiB, every block checked`;
    this.say(`a short load on ${DEMO_IMAGE}: ${words}\n`);
    const load = [
      "--rw",
      "rw",
      "--bs",
      "16KiB",
      "--depth",
      "16",
      "--time",
      "4s",
      "--ramp",
      "500ms",
    ];
    return await this.show(
      ["bench", "image", DEMO_IMAGE, ...load, "--verify", "--no-drain", ...at],
      interruption,
    );
  }

  /** What the person reads when all of it serves. */
  private summary(plan: DevPlan, directory: string, options: DevUpOptions): string {
    const { programShown: program } = this.outside;
    const found = directory === resolve(this.outside.directoryDefault);
    const nbd = nbdsOf(plan)[0];
    const lines = [
      "",
      `  web and REST  ${httpOf(plan)}`,
      ...(nbd === undefined ? [] : [`  NBD           ${nbd}/POOL/IMAGE`]),
      `  directory     ${directory}`,
      "",
      "Try next:",
      ...(found ? [] : [`  export CLUSTER_DIR='${directory.replaceAll("'", `'\\''`)}'`]),
      `  ${program} status`,
    ];
    if (options.demo && nbd !== undefined) {
      lines.push(
        `  qemu-io -f raw -c 'write -P 0xaa 0 64k' -c 'read -P 0xaa 0 64k' ${nbd}/${DEMO_IMAGE}`,
        `  ${program} bench image ${DEMO_IMAGE} --rw randwrite --depth 32 --time 8s`,
      );
    } else {
      lines.push(
        `  ${program} pool create demo --size ${Math.min(DEMO_SIZE_MAX, plan.osds)}`,
        `  ${program} image create ${DEMO_IMAGE} --size ${DEMO_SIZE}`,
      );
    }
    lines.push("", options.detach ? `Stop it: ${program} dev down` : "Ctrl-C stops it.", "");
    return `${lines.join("\n")}`;
  }

  private say(words: string): void {
    if (words !== "") this.outside.err(words);
  }

  /** Run this program to its end, with its output kept. */
  private command(words: readonly string[]): Promise<{ code: number; text: string }> {
    const [executable, ...first] = this.outside.program;
    return new Promise((done, refuse) => {
      const child = spawn(executable!, [...first, ...words], {
        cwd: "/",
        stdio: ["ignore", "pipe", "pipe"],
        env: childEnvironment(),
      });
      let text = "";
      const take = (bytes: Buffer): void => {
        text += bytes.toString();
      };
      child.stdout.on("data", take);
      child.stderr.on("data", take);
      child.on("error", refuse);
      child.on("close", (code) => done({ code: code ?? 1, text }));
    });
  }

  /** Run this program with our own terminal. */
  private show(words: readonly string[], interruption: Interruption | undefined): Promise<number> {
    const [executable, ...first] = this.outside.program;
    return new Promise((done, refuse) => {
      const child = spawn(executable!, [...first, ...words], {
        cwd: "/",
        stdio: ["ignore", "inherit", "inherit"],
        env: childEnvironment(),
      });
      interruption?.tell(() => child.kill("SIGTERM"));
      child.on("error", refuse);
      child.on("close", (code) => done(interruption?.signal === undefined ? (code ?? 1) : 0));
    });
  }
}

/** The first SIGINT, SIGTERM or SIGHUP asks for the end; the program goes on until it is reached. */
class Interruption {
  signal: string | undefined;
  private readonly told: (() => void)[] = [];

  constructor() {
    for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
      process.on(signal, () => {
        this.signal ??= signal;
        for (const tell of this.told.splice(0)) tell();
      });
    }
  }

  /** Call `stop` when the end is asked for. */
  tell(stop: () => void): void {
    if (this.signal === undefined) this.told.push(stop);
    else stop();
  }

  /** Wait, but no longer than until the end is asked for. */
  wait(ms: number): Promise<void> {
    return new Promise((done) => {
      const timer = setTimeout(done, ms);
      this.tell(() => {
        clearTimeout(timer);
        done();
      });
    });
  }
}

/** Wait until the mon counts every osd of the plan as up. */
async function waitForOsds(plan: DevPlan, interruption: Interruption | undefined): Promise<void> {
  const endMs = performance.now() + READY_MS_MAX;
  for (;;) {
    if (interruption?.signal !== undefined) return;
    const body = await askJson(`${httpOf(plan)}/api/v1/osds`);
    const osds = (body as { items?: { up?: boolean }[] } | undefined)?.items ?? [];
    const up = osds.filter((osd) => osd.up === true).length;
    if (up >= plan.osds) return;
    if (performance.now() > endMs) {
      throw new FastblockError(
        "FB1004",
        `starting the osds: the monitor sees ${up} up, wanted ${plan.osds}`,
      );
    }
    await Bun.sleep(LOOK_MS);
  }
}
