import { expect, test } from "bun:test";
import {
  chmodSync,
  closeSync,
  existsSync,
  openSync,
  readFileSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { spawn } from "bun";
import { infoRequest, RawClient } from "../core/gateway/nbd/bun-raw-client.ts";
import {
  command,
  EXECUTABLE,
  randomBytes,
  type TestCluster,
  waitFor,
  withCluster,
} from "./e2e-harness.ts";

/** Small osds: made in a moment. */
const SMALL = ["--osd-size", "300MiB"];
const NAMES = ["mon.a", "osd.0", "nbd.0"];

interface ProblemLine {
  readonly error: { readonly code: string; readonly detail: string; readonly hint: string };
}

/** Run a command that must fail with this exit code. Answers the error that it told. */
async function refused(
  cluster: TestCluster,
  code: number,
  ...words: readonly string[]
): Promise<ProblemLine["error"]> {
  const result = await cluster.attempt(...words, "-o", "json");
  const seen = `${words.join(" ")}: ${result.code} ${result.stdout}`;
  expect(seen).toBe(`${words.join(" ")}: ${code} `);
  return (JSON.parse(result.stderr) as ProblemLine).error;
}

/** Run a command as a user who may not enter the cluster directory. Answers its exit code and words. */
async function asStranger(cluster: TestCluster, ...words: readonly string[]): Promise<string> {
  const { directory } = cluster;
  chmodSync(directory, 0o000);
  const isRoot = process.getuid?.() === 0;
  const stranger = isRoot
    ? ["setpriv", "--reuid", "65534", "--clear-groups", "--inh-caps=-all"]
    : [];
  // In a place that a stranger may enter: the one of the test belongs to its owner.
  if (isRoot) chmodSync(cluster.folder, 0o755);
  try {
    const result = await command([...stranger, EXECUTABLE, ...words], { CLUSTER_DIR: directory });
    return `${result.code} ${result.stderr}`;
  } finally {
    chmodSync(directory, 0o755);
  }
}

/** Type at the question of a command that runs at a terminal. Answers its exit code. */
async function atTerminal(cluster: TestCluster, words: string, typed: string): Promise<number> {
  const line = `'${EXECUTABLE}' --cluster '${cluster.directory}' ${words}`;
  const command = spawn(["script", "--quiet", "--return", "--command", line, "/dev/null"], {
    stdin: "pipe",
    stdout: "pipe",
    stderr: "ignore",
  });
  let seen = "";
  for await (const bytes of command.stdout) {
    const asked = seen.includes("to go on");
    seen += new TextDecoder().decode(bytes);
    if (asked || !seen.includes("to go on")) continue;
    await command.stdin.write(typed);
    await command.stdin.flush();
  }
  return await command.exited;
}

function leftOf(cluster: TestCluster, names: readonly string[] = NAMES): readonly string[] {
  return names.filter((name) => cluster.isRunning(name));
}

test("one directory is started twice at once, and one name twice", async () => {
  await withCluster({ osds: 1, flags: SMALL }, async (cluster) => {
    const { directory } = cluster;
    await cluster.run("dev", "reset", "--dir", directory, "--yes");
    const up = ["dev", "up", "--dir", directory, "--osds", "1", "--detach", ...SMALL];
    await Promise.all([cluster.run(...up), cluster.run(...up)]);
    expect(leftOf(cluster)).toEqual(NAMES);
    const pid = cluster.pid("osd.0");
    const data = join(directory, "osd.0.img");
    const twice = await refused(cluster, 4, "osd", "run", "--name", "osd.0", "--data", data);
    expect(twice).toMatchObject({ code: "FB4005", hint: `stop it first: kill ${pid}` });
    expect(cluster.pid("osd.0")).toBe(pid);
    const port = String(cluster.port("nbd.0", "nbd"));
    const taken = await refused(
      cluster,
      4,
      "client",
      "nbd",
      "serve",
      "--name",
      "x",
      "--port",
      port,
    );
    expect(taken.detail).toContain("address in use");
    const second = await refused(cluster, 4, "client", "nbd", "serve", "--name", "nbd.0");
    expect(second.hint).toStartWith("give this one another --name");
    expect((await refused(cluster, 2, "mon", "run")).detail).toContain("no --data");
    expect(await cluster.run("dev", "down", "--dir", directory)).toBe("");
    expect(leftOf(cluster)).toEqual([]);
  });
});

test("an osd that can not start says why on the terminal, and nothing is left running", async () => {
  await withCluster({ osds: 1, flags: SMALL }, async (cluster) => {
    const { directory } = cluster;
    await cluster.run("dev", "down", "--dir", directory);
    const path = join(directory, "osd.0.img");
    const file = openSync(path, "r+");
    for (const at of [0, statSync(path).size - 4096])
      writeSync(file, Buffer.alloc(4096), 0, 4096, at);
    closeSync(file);
    const up = ["dev", "up", "--dir", directory];
    for (const words of [[...up, "--detach"], up]) {
      const problem = await refused(cluster, 3, ...words);
      expect(problem.code).toBe("FB4001");
      expect(problem.hint).toContain(`fastblock osd format --data '${path}' --id 0`);
      expect(problem.detail).toStartWith("starting osd.0: ");
      expect(leftOf(cluster)).toEqual([]);
    }
    const wide = ["--osds", "64", "--osd-size", "16TiB", "--shards", "32"];
    const other = cluster.path("other");
    const full = await refused(cluster, 1, "dev", "up", "--dir", other, "--detach", ...wide);
    expect(full).toMatchObject({ code: "FB4010" });
    expect(full.hint).toContain("--osd-size 1GiB");
    // The hint can be followed: what could not be made was not planned for good.
    await cluster.run("dev", "up", "--dir", other, "--detach", "--osds", "1", ...SMALL);
    await cluster.run("dev", "reset", "--dir", other, "--yes");
    expect((await refused(cluster, 3, "dev", "reset", "--dir", other)).code).toBe("FB1005");
    expect((await refused(cluster, 2, "dev", "reset", "--dir", "", "--yes")).code).toBe("FB1001");
    const small = await cluster.attempt("dev", "up", "--dir", "/proc/none/dir", "--detach");
    expect(`${small.code} ${small.stderr}`).toStartWith("1 error FB1008: making the directory");
  });
});

test("a cluster serves with what starts, and tells what did not", async () => {
  await withCluster({ osds: 3, flags: SMALL }, async (cluster) => {
    const { directory } = cluster;
    await cluster.run("dev", "down", "--dir", directory);
    const lost = join(directory, "osd.2.img");
    const file = openSync(lost, "r+");
    writeSync(file, Buffer.alloc(16 * 4096), 0, 16 * 4096, 0);
    closeSync(file);
    const scratched = join(directory, "osd.1.img");
    const other = openSync(scratched, "r+");
    writeSync(other, Buffer.alloc(4096), 0, 4096, 0);
    closeSync(other);
    const found = await cluster.attempt("osd", "fsck", "--data", scratched);
    expect([found.code, found.stdout]).toEqual([1, expect.stringContaining("copy A is not valid")]);
    expect(found.stderr).toContain("start the osd");
    const checked = await cluster.attempt("osd", "fsck", "--data", lost);
    expect(checked.code).toBe(1);
    expect(checked.stderr).toContain(`fastblock osd format --data '${lost}' --id 2 --force`);
    const up = ["dev", "up", "--dir", directory, "--detach"];
    const { code, stderr } = await cluster.attempt(...up);
    expect([code, stderr]).toEqual([0, expect.stringContaining("error FB4006: starting osd.2: ")]);
    expect(stderr).toContain("serving without osd.2 after ");
    expect(cluster.isRunning("osd.2")).toBe(false);
    const shown = await cluster.attempt("dev", "status", "--dir", directory);
    expect(shown.stderr).toContain("\ndegraded, without osd.2  http://");
    await cluster.run("pool", "create", "p", "--size", "2");
    await cluster.run("osd", "format", "--data", lost, "--id", "2", "--force");
    expect((await cluster.attempt(...up)).stderr).toStartWith("serving after ");
    await cluster.run("dev", "down", "--dir", directory);
    await cluster.run("osd", "fsck", "--data", scratched);
    for (const osd of [1, 2]) truncateSync(join(directory, `osd.${osd}.img`), 0);
    for (const what of ["inspect", "fsck"]) {
      expect((await refused(cluster, 2, "osd", what, "--data", lost)).code).toBe("FB4007");
    }
    const none = await refused(cluster, 2, ...up);
    expect(none).toMatchObject({ code: "FB4007" });
    expect(none.detail).toStartWith("starting osd.1: ");
    const left = ["mon.a", "osd.0", "nbd.0"].filter((name) => cluster.isRunning(name));
    expect(left).toEqual([]);
    const nowhere = join(directory, "osd.9.img");
    for (const what of ["inspect", "fsck"]) {
      expect((await refused(cluster, 3, "osd", what, "--data", nowhere)).code).toBe("FB4011");
    }
    const odd = await refused(cluster, 1, "osd", "fsck", "--data", "/dev/null");
    expect(odd).toMatchObject({ code: "FB4009", hint: "name a regular file or a block device" });
    for (const words of [["status"], ["dev", "status"], ["osd", "run", "--data", lost]]) {
      const denied = await asStranger(cluster, ...words);
      expect(denied).toStartWith(`6 error FB1017: opening the cluster directory ${directory}: `);
    }
    const key = join(directory, "cluster.key");
    writeFileSync(key, "short");
    expect((await refused(cluster, 3, "osd", "run", "--data", lost)).hint).toContain("its copy");
  });
});

test("a cluster in the foreground ends with its terminal, its signal, or its own death", async () => {
  await withCluster({ osds: 1, flags: SMALL }, async (cluster) => {
    await cluster.run("dev", "down", "--dir", cluster.directory);
    let names = NAMES;
    for (const signal of ["SIGINT", "SIGTERM", "SIGHUP", "SIGKILL"] as const) {
      const up = spawn([EXECUTABLE, "dev", "up", "--dir", cluster.directory], {
        cwd: "/",
        stdin: "ignore",
        stdout: "pipe",
        stderr: "ignore",
      });
      let text = "";
      for await (const bytes of up.stdout) {
        text += new TextDecoder().decode(bytes);
        if (text.includes("Ctrl-C stops it.")) break;
      }
      expect(text).toContain(`  export CLUSTER_DIR='${cluster.directory}'\n`);
      expect(text).toContain(" image ls\n");
      expect(leftOf(cluster, names)).toEqual(names);
      if (signal === "SIGINT") {
        // What another command adds belongs to the cluster, and stops with it.
        await cluster.run("dev", "up", "--dir", cluster.directory, "--osds", "2", "--detach");
        names = [...NAMES, "osd.1"];
        expect(leftOf(cluster, names)).toEqual(names);
      }
      up.kill(signal);
      expect(`${signal} ${await up.exited}`).toBe(`${signal} ${signal === "SIGKILL" ? 137 : 0}`);
      await waitFor(`nothing to run after ${signal}`, () => leftOf(cluster, names).length === 0);
    }
  });
});

test("what is refused names its reason, and space and holders are told as they are", async () => {
  await withCluster({ osds: 1, flags: SMALL }, async (cluster) => {
    const uri = await cluster.image("p/a", "64MiB", 1);
    const many = await refused(cluster, 8, "pool", "create", "q", "--size", "1", "--pgs", "65536");
    expect(many.hint).toBe("take fewer groups: --pgs 4096");
    const nowhere = cluster.path("nowhere");
    for (const words of [
      ["client", "write", "p/a", nowhere],
      ["bench", "compare", nowhere, nowhere],
    ]) {
      expect((await refused(cluster, 3, ...words)).code).toBe("FB1014");
    }
    await cluster.run("osd", "out", "0");
    const out = await refused(cluster, 8, "pool", "create", "q", "--size", "1");
    expect(out.hint).toBe("take it in again: fastblock osd in 0");
    await cluster.run("osd", "in", "0");
    for (const words of [
      ["client", "read", "p/a", "/proc/none"],
      ["client", "write", "p/a", "/proc"],
    ]) {
      expect((await refused(cluster, 1, ...words)).code).toBe("FB1008");
    }
    for (const words of ["pool ls", "status -o json", "client read p/a", "help image"]) {
      const line = `'${EXECUTABLE}' ${words} >/dev/full`;
      const full = await command(["sh", "-c", line], { CLUSTER_DIR: cluster.directory });
      expect([full.code, full.stderr]).toEqual([1, expect.stringContaining("FB4010")]);
      expect(full.stderr).toContain("make room there, or choose another place");
    }
    const data = cluster.path("small.img");
    const format = ["osd", "format", "--id", "7", "--data", data];
    expect((await refused(cluster, 2, ...format, "--size", "10MiB")).code).toBe("FB4007");
    await cluster.run(...format, "--size", "300MiB");
    const other = await refused(cluster, 2, ...format, "--size", "400MiB", "--force");
    expect(other.hint).toContain("leave --size out");
    expect((await refused(cluster, 8, ...format)).code).toBe("FB4008");
    const qemu = spawn(["qemu-io", "-f", "raw", "-c", "write 0 1M", "-c", "sleep 60000", uri], {
      stdin: "ignore",
      stdout: "ignore",
      stderr: "ignore",
    });
    try {
      interface Image {
        readonly allocatedBytes: number;
        readonly usedBytes: number;
        readonly sessions: readonly { readonly client: string; readonly alive: boolean }[];
      }
      const image = (): Promise<Image> => cluster.json<Image>("image", "info", "p/a");
      const seen = await waitFor("its space to be told", async () => {
        const one = await image();
        return one.usedBytes === 1_048_576 ? one : undefined;
      });
      expect(seen).toMatchObject({ allocatedBytes: 1_048_576, usedBytes: 1_048_576 });
      expect(seen.sessions).toMatchObject([{ client: "nbd.0", alive: true }]);
      expect(await cluster.run("image", "du", "p/a", "--columns", "image,allocated,share")).toMatch(
        /\np\/a +1 MiB +1\.6 %\n$/,
      );
      await cluster.run("image", "create", "p/b", "--size", "64MiB");
      writeFileSync(cluster.path("block"), randomBytes(4096, 1));
      await cluster.run("client", "write", "p/b", cluster.path("block"), "--offset", "1MiB");
      // At once: the osds are asked.
      const [space] = await cluster.json<readonly Image[]>("image", "du", "p/b");
      expect(space).toMatchObject({ allocatedBytes: 65_536, usedBytes: 65_536 });
      const { stdout: yaml } = await cluster.attempt("image", "info", "p/b", "-o", "yaml");
      expect(yaml).toMatch(/^created: "\d{4}-\d\d-\d\dT[\d:.]+Z"$/m);
      await cluster.run("image", "rm", "p/b", "--yes");
      const pool = await cluster.json<{ readonly usedBytes: number }>("pool", "info", "p");
      expect(pool.usedBytes).toBe(1_048_576);
      const http = `http://127.0.0.1:${cluster.port("mon.a", "http")}/api/v1/pools`;
      const headers = { "content-type": "application/json" };
      const huge = { method: "POST", headers, body: " ".repeat(17 * 1_048_576) };
      const reply = await fetch(http, huge);
      const type = reply.headers.get("content-type");
      expect([reply.status, type]).toEqual([413, "application/problem+json"]);
      expect(await reply.json()).toMatchObject({ code: "FB1012", status: 413 });
      const range = ["--range", "2GiB", "--no-fill"];
      const wide = await refused(cluster, 2, "bench", "image", "p/a", ...range);
      expect(wide.detail).toBe("bench on p/a: --range 2 GiB, wanted at most its 64 MiB");
      const held = await refused(cluster, 8, "image", "rm", "p/a", "--yes");
      expect(held).toMatchObject({ code: "FB3005" });
      expect(held.hint).toContain("fastblock image rm p/a --force FB3005");
    } finally {
      qemu.kill("SIGKILL");
      await qemu.exited;
    }
    // At a terminal: Ctrl-D answers nothing, Ctrl-C ends the command.
    expect(await atTerminal(cluster, "image rm p/a --force FB3005", "\x04")).toBe(8);
    expect(await atTerminal(cluster, "image rm p/a --force FB3005", "\x03")).toBe(130);
    await cluster.run("image", "rm", "p/a", "--force", "FB3005", "--yes");
    expect((await refused(cluster, 8, "op", "cancel", "1")).code).toBe("FB6002");
    expect(await cluster.json("op", "show", "1")).toMatchObject({ id: 1, state: "done" });
    expect(await cluster.run("status", "-o", "name")).toBe("dev\n");
  });
});

test("two reports of a bench are compared by their ratios", async () => {
  await withCluster({ osds: 1, flags: SMALL }, async (cluster) => {
    await cluster.image("p/a", "16MiB", 1);
    const run = ["bench", "image", "p/a", "--bs", "4KiB", "--time", "300ms", "--ramp", "0s"];
    const history = cluster.path("history.jsonl");
    const paths: string[] = [];
    for (const depth of ["1", "16"]) {
      const words = [...run, "--no-drain", "--depth", depth, "--rw", "rw", "--history", history];
      paths.push(cluster.path(`${depth}.json`));
      writeFileSync(paths.at(-1)!, await cluster.run(...words, "-o", "json"));
    }
    const rows = await cluster.json<
      readonly {
        readonly figure: string;
        readonly a: number;
        readonly b: number;
        readonly ratio: number;
      }[]
    >("bench", "compare", ...paths);
    const [a, b] = paths.map((path) => JSON.parse(readFileSync(path, "utf8")) as { iops: number });
    const iops = rows.find(({ figure }) => figure === "iops");
    expect(iops).toMatchObject({ a: a!.iops, b: b!.iops });
    expect(iops!.ratio).toBeCloseTo(b!.iops / a!.iops, 2);
    const line = JSON.parse(readFileSync(history, "utf8").split("\n")[0]!) as object;
    expect(Object.keys(line)).toEqual(["key", "kind", "value", "call", "return", "ok"]);
  });
});

test("a gateway that is started by hand: for no image, for one that is held, in a cluster to be removed", async () => {
  await withCluster({ osds: 1, flags: SMALL }, async (cluster) => {
    const { directory } = cluster;
    await cluster.image("p/a", "16MiB", 1);
    const serve = ["client", "nbd", "serve", "--name", "nbd.7", "--port", "0", "--exclusive"];
    const none = await refused(cluster, 3, ...serve, "p/a", "p/none");
    expect(none).toMatchObject({ code: "FB3001" });
    expect(none.detail).toBe("starting nbd.7: no image is named p/none");
    const byHand = spawn([EXECUTABLE, ...serve, "p/a"], {
      env: { ...process.env, CLUSTER_DIR: directory },
      stdin: "ignore",
      stdout: "ignore",
      stderr: "ignore",
    });
    try {
      const ports = join(directory, "nbd.7.ports");
      await waitFor("nbd.7 to serve", () => existsSync(ports));
      const holder = await RawClient.attach(cluster.port("nbd.7", "nbd"), "p/a");
      const other = await RawClient.open(cluster.port("nbd.0", "nbd"));
      other.flags(3);
      other.option(7, infoRequest("p/a"));
      const text = (await other.expectReply(7, 0x8000_0002)).toString();
      expect(text).toContain("nbd.7 has it exclusively");
      other.close();
      holder.close();
      const strange = await refused(cluster, 4, "dev", "reset", "--dir", directory, "--yes");
      expect(strange).toMatchObject({
        code: "FB4005",
        hint: `stop it first: kill ${cluster.pid("nbd.7")}`,
      });
      expect(cluster.isRunning("osd.0")).toBe(true);
    } finally {
      byHand.kill("SIGTERM");
      await byHand.exited;
    }
    await cluster.run("dev", "reset", "--dir", directory, "--yes");
    expect(existsSync(directory)).toBe(false);
  });
});
