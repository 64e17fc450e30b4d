import { expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Database } from "bun:sqlite";
import type { Timer, Timers } from "../reactor/world.ts";
import { openBunSqlite } from "./bun-sqlite.ts";
import { MemoryMetaStore } from "./memory-store.ts";
import { testMetaStore } from "./meta-store-contract.ts";

const folders: string[] = [];

function newFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), "fastblock meta-"));
  folders.push(folder);
  return folder;
}

function clean(): Promise<void> {
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true });
  return Promise.resolve();
}

testMetaStore("bun-sqlite", {
  open: () => Promise.resolve(openBunSqlite(join(newFolder(), "a/meta.db"), { changesMax: 150 })),
  reopen: async (store) => {
    await store.close();
    return openBunSqlite(join(folders[folders.length - 1]!, "a/meta.db"), { changesMax: 150 });
  },
  pass: (ms) => Bun.sleep(ms),
  clean,
});

/** Timers that fire when the test lets time pass. */
class StepTimers implements Timers {
  private nowUs = 0;
  private readonly armed = new Set<Timer>();

  arm(timer: Timer, delayUs: number): void {
    timer.timerDueUs = this.nowUs + delayUs;
    this.armed.add(timer);
  }

  armPeriod(timer: Timer, periodUs: number): void {
    this.arm(timer, periodUs - (this.nowUs % periodUs));
  }

  disarm(timer: Timer): void {
    timer.timerDueUs = -1;
    this.armed.delete(timer);
  }

  pass(us: number): void {
    this.nowUs += us;
    for (const timer of [...this.armed]) {
      if (timer.timerDueUs > this.nowUs) continue;
      this.disarm(timer);
      timer.onTimer();
    }
  }
}

const timers = new StepTimers();
testMetaStore("memory", {
  open: () => Promise.resolve(new MemoryMetaStore(timers, 150)),
  reopen: async (store) => {
    await store.close();
    return store;
  },
  pass: (ms) => Promise.resolve(timers.pass(ms * 1000)),
  clean: () => Promise.resolve(),
});

test("a second monitor on the same catalogue is refused", async () => {
  const path = join(newFolder(), "meta.db");
  const store = openBunSqlite(path);
  await store.commit({ compares: [], writes: [{ key: "a", value: "1" }] });
  const script = `import { openBunSqlite } from ${JSON.stringify(join(import.meta.dir, "bun-sqlite.ts"))};
    try { openBunSqlite(${JSON.stringify(path)}); console.log("opened"); } catch (e) { console.log(e.code); }`;
  const other = Bun.spawnSync([process.execPath, "-e", script]);
  expect(other.stdout.toString()).toBe("FB4005\n");
  await store.close();
  expect((await openBunSqlite(path).get("a"))!.value).toBe("1");
  await clean();
});

test("a commit survives kill -9 of its process", async () => {
  const path = join(newFolder(), "meta.db");
  const script = `import { openBunSqlite } from ${JSON.stringify(join(import.meta.dir, "bun-sqlite.ts"))};
    const store = openBunSqlite(${JSON.stringify(path)});
    for (let at = 0; at < 50; at++) await store.commit({ compares: [], writes: [{ key: "k", value: String(at) }] });
    process.kill(process.pid, "SIGKILL");`;
  const child = Bun.spawnSync([process.execPath, "-e", script]);
  expect(child.signalCode).toBe("SIGKILL");
  const store = openBunSqlite(path);
  expect(await store.get("k")).toMatchObject({ value: "49", modRevision: 50 });
  await store.close();
  await clean();
});

test("a newer format and a file of something else are refused", async () => {
  const folder = newFolder();
  const path = join(folder, "meta.db");
  await openBunSqlite(path).close();
  const database = new Database(path);
  database.run("UPDATE meta SET value = 2 WHERE name = 'format'");
  database.close();
  expect(() => openBunSqlite(path)).toThrow("format 2, this program knows 1");
  writeFileSync(join(folder, "junk.db"), "not a database, but long enough to look at".repeat(40));
  expect(() => openBunSqlite(join(folder, "junk.db"))).toThrow("opening the catalogue");
  await clean();
});

test.skipIf(process.getuid?.() !== 0)(
  "G13: a full disk is told, nothing of the commit happens, and room mends it",
  async () => {
    const folder = newFolder();
    const script = `
import { rmSync, writeFileSync } from "node:fs";
import { openBunSqlite } from ${JSON.stringify(join(import.meta.dir, "bun-sqlite.ts"))};
const store = openBunSqlite("disk/meta.db");
const put = (key, size) =>
  store.commit({ compares: [], writes: [{ key, value: "x".repeat(size) }] })
    .then(() => "ok", ({ code }) => code);
console.log(await put("first", 10));
for (let at = 0, room = 65536; room > 0; at++) {
  try { writeFileSync("disk/filler" + at, new Uint8Array(room)); } catch { room = Math.floor(room / 2); }
}
console.log(await put("second", 65536));
console.log(await store.get("second"), (await store.get("first")).value.length);
rmSync("disk/filler0");
console.log(await put("third", 4096));
await store.close();`;
    writeFileSync(join(folder, "script.ts"), script);
    const shell = 'mkdir disk && mount -t tmpfs -o size=1m none disk && exec "$0" script.ts';
    const child = Bun.spawn(["unshare", "-m", "sh", "-c", shell, process.execPath], {
      cwd: folder,
      stdout: "pipe",
      stderr: "pipe",
    });
    const [output, errors] = await Promise.all([
      new Response(child.stdout).text(),
      new Response(child.stderr).text(),
    ]);
    expect(`${output}${errors}`).toBe("ok\nFB4010\nundefined 10\nok\n");
    await clean();
  },
);
