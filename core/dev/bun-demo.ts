import { spawn } from "node:child_process";
import { resolve } from "node:path";
import { quoteWord } from "../base/shell.ts";
import type { DevOutside } from "./bun-dev.ts";
import { childEnvironment, httpOf, nbdsOf } from "./bun-processes.ts";
import type { Interruption } from "./bun-start.ts";
import type { DevUpOptions } from "./dev.ts";
import type { DevPlan } from "./plan.ts";

const DEMO_POOL = "demo";
const DEMO_IMAGE = "demo/disk1";
const DEMO_SIZE = "1GiB";
const DEMO_SIZE_MAX = 3;
const DEMO_LOAD = "--rw rw --bs 16KiB --depth 16 --time 4s --ramp 500ms --verify --no-drain";

/** How a program ended, and what it wrote. */
export interface CommandEnd {
  readonly code: number;
  readonly text: string;
}

/**
 * Make demo/disk1, and run a short verified load on it. An image that is there belongs to its
 * users by now: nothing is written to it. Answers the exit code.
 */
export async function runDemo(
  outside: DevOutside,
  plan: DevPlan,
  directory: string,
  interruption: Interruption | undefined,
): Promise<number> {
  const at = ["--cluster", directory];
  const size = String(Math.min(DEMO_SIZE_MAX, plan.osds));
  if ((await runCommand(outside.program, ["image", "info", DEMO_IMAGE, ...at])).code === 0)
    return 0;
  const hasPool =
    (await runCommand(outside.program, ["pool", "info", DEMO_POOL, ...at])).code === 0;
  const steps = [
    ...(hasPool ? [] : [["pool", "create", DEMO_POOL, "--size", size]]),
    ["image", "create", DEMO_IMAGE, "--size", DEMO_SIZE],
  ];
  for (const step of steps) {
    const { code, text } = await runCommand(outside.program, [...step, ...at]);
    outside.err(text);
    if (code !== 0) return code;
  }
  if (interruption?.signal !== undefined) return 0;
  const words = `${size} replicas, writes and reads of 16 KiB, every block checked`;
  outside.err(`a short load on ${DEMO_IMAGE}: ${words}\n`);
  return await show(
    outside,
    ["bench", "image", DEMO_IMAGE, ...DEMO_LOAD.split(" "), ...at],
    interruption,
  );
}

/**
 * What the person reads when all of it serves: addresses, and commands that work as they stand.
 * `isNew`: nobody made anything in this cluster before.
 */
export function summaryOf(
  outside: DevOutside,
  plan: DevPlan,
  directory: string,
  options: Pick<DevUpOptions, "demo" | "detach"> & { readonly isNew: boolean },
): string {
  const program = outside.programShown;
  const isFound = directory === resolve(outside.directoryDefault);
  const nbds = nbdsOf(plan);
  const nbd = nbds[0];
  const lines = [
    "",
    `  web and REST  ${httpOf(plan)}`,
    ...nbds.map((one, at) => `  ${at === 0 ? "NBD" : "   "}           ${one}/POOL/IMAGE`),
    `  directory     ${directory}`,
    "",
    "Try next:",
    ...(isFound ? [] : [`  export CLUSTER_DIR=${quoteWord(directory)}`]),
    `  ${program} status`,
  ];
  if (options.demo) {
    lines.push(
      nbd !== undefined && Bun.which("qemu-io") !== null
        ? `  qemu-io -f raw -c 'write -P 0xaa 0 64k' -c 'read -P 0xaa 0 64k' ${nbd}/${DEMO_IMAGE}`
        : `  echo hello | ${program} client write ${DEMO_IMAGE} && ${program} client read ${DEMO_IMAGE} --length 6`,
      `  ${program} bench image ${DEMO_IMAGE} --rw randwrite --depth 32 --time 3s`,
    );
  } else if (!options.isNew) {
    lines.push(`  ${program} pool ls`, `  ${program} image ls`);
  } else {
    const size = Math.min(DEMO_SIZE_MAX, plan.osds);
    lines.push(
      `  ${program} pool create ${DEMO_POOL} --size ${size}`,
      `  ${program} image create ${DEMO_IMAGE} --size ${DEMO_SIZE}`,
    );
  }
  lines.push("", options.detach ? `Stop it: ${program} dev down` : "Ctrl-C stops it.", "");
  return lines.join("\n");
}

/** Run this program to its end, with its output kept. `settings` go to its environment. */
export function runCommand(
  program: readonly string[],
  words: readonly string[],
  settings: Readonly<Record<string, string>> = {},
): Promise<CommandEnd> {
  const [executable, ...first] = program;
  return new Promise((done, refuse) => {
    const child = spawn(executable!, [...first, ...words], {
      cwd: "/",
      stdio: ["ignore", "pipe", "pipe"],
      env: { ...childEnvironment(), ...settings },
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
function show(
  outside: DevOutside,
  words: readonly string[],
  interruption: Interruption | undefined,
): Promise<number> {
  const [executable, ...first] = outside.program;
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
