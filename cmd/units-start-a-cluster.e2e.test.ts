import { afterAll, beforeAll, expect, test } from "bun:test";
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Subprocess, spawn } from "bun";
import { command, EXECUTABLE, succeed, waitFor } from "./e2e-harness.ts";

/**
 * `deploy/`: the commands of its README, and the command lines of its units, in a folder instead of
 * a machine's own. systemd itself reads the units (`systemd-analyze verify`); it does not run them.
 */

const DEPLOY = join(import.meta.dir, "..", "deploy");
const UNITS = readdirSync(join(DEPLOY, "systemd"));
const STATE = "/var/lib/fastblock";
const SETTINGS = "/etc/fastblock";
const INSTALLED = "/usr/local/bin/fastblock";
const README = readFileSync(join(DEPLOY, "README.md"), "utf8");

let folder: string;
const running: Subprocess[] = [];

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "fastblock-units-"));
  mkdirSync(join(folder, "state"));
  mkdirSync(join(folder, "settings"));
  // A unit can not name a place with spaces, as a checkout may have.
  symlinkSync(EXECUTABLE, join(folder, "fastblock"));
});

afterAll(async () => {
  for (const child of running.toReversed()) {
    child.kill("SIGTERM");
    await child.exited;
  }
  rmSync(folder, { recursive: true, force: true });
});

/** A machine's own places become places of the test. */
function moved(text: string): string {
  return text
    .replaceAll(STATE, join(folder, "state"))
    .replaceAll(SETTINGS, join(folder, "settings"))
    .replaceAll(INSTALLED, join(folder, "fastblock"))
    .replaceAll("10.0.0.1", "127.0.0.1");
}

/** The `sh` blocks of the README below a heading that contains `title`. */
function commandsOf(title: string): string {
  const section = README.split(/^## /m).find((part) => part.split("\n")[0]?.includes(title));
  const blocks = [...(section ?? "").matchAll(/^```sh\n([\s\S]*?)^```/gm)];
  if (blocks.length === 0) throw new Error(`deploy/README.md has no commands for ${title}`);
  return moved(blocks.map((match) => match[1]).join(""));
}

/** Type them into a shell that has this executable, and no systemd nor other users. */
async function type(script: string): Promise<string> {
  const setting = [
    "set -euo pipefail",
    "systemctl() { :; }; chown() { :; }",
    `fastblock() { "${EXECUTABLE}" "$@"; }`,
  ];
  return await succeed(["bash", "-c", `${setting.join("\n")}\n${script}`]);
}

/** Start `ExecStart` of an instance as systemd would: its environment file, `%i`, `${…}`. */
async function startUnit(role: string, instance: string): Promise<string> {
  const unit = moved(readFileSync(join(DEPLOY, "systemd", `fastblock-${role}@.service`), "utf8"));
  const wordsOf = (key: string): string[] =>
    (new RegExp(`^${key}=(.*)$`, "m").exec(unit)?.[1] ?? "").replaceAll("%i", instance).split(" ");
  const settings = Object.fromEntries(
    [
      ...readFileSync(wordsOf("EnvironmentFile")[0]!, "utf8").trim().split("\n"),
      ...wordsOf("Environment"),
    ].map((line) => line.split("=", 2) as [string, string]),
  );
  const words = wordsOf("ExecStart").map((word) =>
    word.replaceAll(/\$\{(\w+)\}/g, (_all, name: string) => settings[name] ?? `no ${name}`),
  );
  const path = join(folder, `${role}.${instance}.out`);
  const output = openSync(path, "w");
  const child = spawn(words, {
    cwd: wordsOf("WorkingDirectory")[0]!,
    env: settings,
    stdin: "ignore",
    stdout: output,
    stderr: output,
  });
  running.push(child);
  return await waitFor(`${role}.${instance} to serve`, () => {
    const text = readFileSync(path, "utf8");
    if (child.exitCode !== null) throw new Error(`ended with ${child.exitCode}\n${text}`);
    return /^ready .*$/m.exec(text)?.[0];
  });
}

/** Two ports that nobody has now. */
function freePorts(): readonly [number, number] {
  const listeners = [0, 0].map(() =>
    Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } }),
  );
  const [first, second] = listeners.map(({ port }) => port);
  for (const listener of listeners) listener.stop();
  return [first!, second!];
}

test.skipIf(Bun.which("systemd-analyze") === null)(
  "systemd finds nothing wrong in a unit",
  async () => {
    expect(UNITS.length).toBe(3);
    const place = join(folder, "units");
    cpSync(join(DEPLOY, "systemd"), place, { recursive: true });
    for (const name of UNITS) {
      const path = join(place, name.replace("@.", "@0."));
      await Bun.write(path, moved(readFileSync(join(place, name), "utf8")));
      const { stdout, stderr } = await command(["systemd-analyze", "verify", path]);
      const said = `${stdout}${stderr}`.split("\n").filter((line) => line.includes("fastblock"));
      expect(said).toEqual([]);
    }
  },
);

test("the units, started with what deploy/README.md says, are a cluster that serves", async () => {
  const [control, http] = freePorts();
  const withPorts = (text: string): string =>
    text.replaceAll("7400", String(control)).replaceAll("7480", String(http));
  await type(withPorts(commandsOf("identity")));
  await type(withPorts(commandsOf("The mon")));
  await startUnit("mon", "a");
  for (const osd of ["0", "1", "2"]) {
    const disk = join(folder, `disk.${osd}`);
    await succeed(["truncate", "--size=512M", disk]);
    const script = commandsOf("An osd")
      .replaceAll("osd.0", `osd.${osd}`)
      .replaceAll("--id 0", `--id ${osd}`)
      .replaceAll("7410", "0")
      .replaceAll(/DATA=\/dev\S*/g, `DATA=${disk}`);
    await type(script);
    await startUnit("osd", osd);
  }
  await type(commandsOf("A gateway").replaceAll("10809", "0"));
  const ready = await startUnit("nbd", "0");
  // All osds of this test are on one host.
  const look = commandsOf("A look").replaceAll("--failure-domain host", "--failure-domain osd");
  expect(await type(look)).toContain("3: 3 up, 3 in");
  const uri = `nbd://127.0.0.1:${/ nbd=(\d+)/.exec(ready)?.[1]}/fast/disk1`;
  await succeed(["qemu-io", "-f", "raw", "-c", "write -P 7 0 1M", "-c", "read -P 7 0 1M", uri]);
});
