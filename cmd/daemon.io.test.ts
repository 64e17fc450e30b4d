import { afterEach, beforeEach, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Subprocess, spawn } from "bun";

const DAEMON = join(import.meta.dir, "daemon.ts");
const ERRORS = join(import.meta.dir, "..", "core", "base", "errors.ts");

let folder = "";
let children: Subprocess[] = [];

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "fastblock daemon "));
  writeFileSync(
    join(folder, "cluster.json"),
    JSON.stringify({
      clusterId: "01234567-89ab-cdef-0123-456789abcdef",
      name: "t",
      mons: [
        {
          name: "mon.a",
          control: { host: "127.0.0.1", port: 1 },
          http: { host: "127.0.0.1", port: 2 },
        },
      ],
    }),
  );
  writeFileSync(join(folder, "cluster.key"), `${"0a".repeat(32)}\n`);
});

afterEach(async () => {
  for (const child of children) child.kill("SIGKILL");
  for (const child of children) await child.exited;
  children = [];
  rmSync(folder, { recursive: true, force: true });
});

/** The program of a role whose body may use `daemon`. */
function role(body: string): string {
  const path = join(folder, "role.ts");
  writeFileSync(
    path,
    `import { serveAs } from ${JSON.stringify(DAEMON)};
import { FastblockError } from ${JSON.stringify(ERRORS)};
const flags = { cluster: ${JSON.stringify(folder)}, name: "osd.7", bind: "127.0.0.9",
  data: "", logLevel: "info" };
setInterval(() => {}, 1000);
await serveAs(flags, async (daemon) => {
${body}
});`,
  );
  return path;
}

function start(body: string, env: Readonly<Record<string, string>> = {}) {
  const child = spawn([process.execPath, role(body)], {
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
    env: { ...process.env, ...env },
  });
  children.push(child);
  return child;
}

async function firstLine(child: Subprocess<"ignore", "pipe", "pipe">): Promise<string> {
  let text = "";
  const decoder = new TextDecoder();
  for await (const bytes of child.stdout) {
    text += decoder.decode(bytes);
    if (text.includes("\n")) break;
  }
  return text;
}

function file(suffix: string): string {
  return readFileSync(join(folder, `osd.7.${suffix}`), "utf8");
}

test("a ready process has published itself, and stops cleanly at SIGTERM", async () => {
  const child = start(`
daemon.onStop(() => daemon.logger.info("second"));
daemon.onStop(async () => { await Bun.sleep(1); daemon.logger.info("first", { a: 1 }); });
daemon.ready({ data: 4711, "data.1": 4712, unix: "/x/y.sock" });`);
  expect(await firstLine(child)).toBe(
    "ready osd.7 127.0.0.9 data=4711 data.1=4712 unix=/x/y.sock\n",
  );
  expect(file("pid")).toBe(`${child.pid}\n`);
  expect(file("ports")).toBe("data=4711\ndata.1=4712\nunix=/x/y.sock\n");
  expect(file("addr")).toBe("127.0.0.9\n");
  child.kill("SIGTERM");
  expect(await child.exited).toBe(0);
  const messages = file("log")
    .trimEnd()
    .split("\n")
    .map((line) => (JSON.parse(line) as { msg: string }).msg);
  expect(messages).toEqual(["starting", "ready", "stopping", "first", "second", "stopped"]);
});

test.each([
  ["an exception nobody catches", `setTimeout(() => { throw new Error("boom"); }, 1);`],
  ["a rejection nobody handles", `Promise.reject(new Error("boom"));`],
  ["a failed stop", `daemon.onStop(() => { throw new Error("boom"); }); daemon.stop("test");`],
  ["a told failure", `daemon.fail(new Error("boom"));`],
])("%s is logged and ends the process with 1", async (_name, body) => {
  const child = start(body);
  expect(await child.exited).toBe(1);
  expect(await new Response(child.stderr).text()).toContain("osd.7: fatal: Error: boom");
  expect(file("log")).toContain("boom");
  expect(existsSync(join(folder, "osd.7.ports"))).toBe(false);
});

test.each([
  ["told", "daemon.fail(error);"],
  ["thrown", "throw error;"],
])("a coded failure that is %s stands in the log with its hint", async (how, end) => {
  const child = start(
    `const error = new FastblockError("FB4005", "opening x: held", { why: "w", hint: "h" });\n${end}`,
  );
  const code = await child.exited;
  const line = file("log").trimEnd().split("\n").at(-1) ?? "";
  expect(JSON.parse(line)).toMatchObject({ msg: "fatal", code: "FB4005", why: "w", hint: "h" });
  if (how !== "told") return;
  expect(code).toBe(4);
  expect(await new Response(child.stderr).text()).toBe(
    "error FB4005: opening x: held\n  why   w\n  hint  h\n  more  fastblock explain FB4005\n",
  );
});

test("a name is one process's until it is gone, however it went", async () => {
  const first = start("daemon.ready({ data: 1 });");
  await firstLine(first);
  const second = start("daemon.ready({ data: 2 });");
  expect(await second.exited).toBe(1);
  expect(await new Response(second.stderr).text()).toContain(
    `starting osd.7: it runs already as process ${first.pid}`,
  );
  expect(file("pid")).toBe(`${first.pid}\n`);
  first.kill("SIGKILL");
  const third = start("daemon.ready({ data: 3 });");
  expect(await firstLine(third)).toContain("data=3");
  expect(file("pid")).toBe(`${third.pid}\n`);
});

test("a process of a cluster in the foreground ends cleanly when its starter is killed", async () => {
  const words = [process.execPath, role("daemon.ready({ data: 1 });")];
  const starter = spawn(["sh", "-c", `FASTBLOCK_STARTED_BY=$$ "$0" "$1"; true`, ...words], {
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
  children.push(starter);
  await firstLine(starter);
  const pid = Number(file("pid"));
  starter.kill("SIGKILL");
  while (existsSync(`/proc/${pid}/exe`)) await Bun.sleep(5);
  const last = file("log").trimEnd().split("\n").slice(-2);
  expect(last.map((line) => (JSON.parse(line) as { msg: string }).msg)).toEqual([
    "stopping",
    "stopped",
  ]);
});

test("a directory without a cluster, or with a bad key, is refused", async () => {
  writeFileSync(join(folder, "cluster.key"), "short\n");
  const bad = start("");
  expect(await bad.exited).toBe(1);
  expect(await new Response(bad.stderr).text()).toContain("not 64 hexadecimal digits");
  rmSync(join(folder, "cluster.json"));
  const none = start("");
  expect(await none.exited).toBe(1);
  expect(await new Response(none.stderr).text()).toContain("holds no cluster.json");
});

test.skipIf(Bun.which("python3") === null)("systemd is told about ready and stopping", async () => {
  const socket = join(folder, "notify");
  const listener = spawn(
    [
      "python3",
      "-c",
      `import socket,sys
s=socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM); s.bind(sys.argv[1]); print("bound",flush=True)
for _ in range(2): print(s.recv(100).decode(),flush=True)`,
      socket,
    ],
    { stdin: "ignore", stdout: "pipe", stderr: "pipe" },
  );
  children.push(listener);
  const chunks = listener.stdout.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  const nextLine = async (): Promise<string> => {
    while (!text.includes("\n")) {
      const { value, done } = await chunks.read();
      if (done) throw new Error(`the listener ended behind: ${text}`);
      text += value;
    }
    const end = text.indexOf("\n") + 1;
    const line = text.slice(0, end);
    text = text.slice(end);
    return line;
  };
  const untilLine = async (wanted: string): Promise<void> => {
    let line = await nextLine();
    while (line === "\n") line = await nextLine();
    expect(line).toBe(wanted);
  };
  await untilLine("bound\n");
  const child = start("daemon.ready({ data: 1 });", { NOTIFY_SOCKET: socket });
  await untilLine("READY=1\n");
  child.kill("SIGTERM");
  await untilLine("STOPPING=1\n");
  expect(await child.exited).toBe(0);
});
