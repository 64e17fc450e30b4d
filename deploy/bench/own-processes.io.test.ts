import { afterAll, afterEach, expect, test } from "bun:test";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { output, ownerOf, ownProcesses, startDaemon, stopOwn } from "./own-processes.ts";
import { readSettings, writeSettings } from "./settings.ts";

const MAIN = join(import.meta.dir, "main.ts");
const folder = mkdtempSync(join(tmpdir(), "fastblock-own-"));
const tokens = [crypto.randomUUID(), crypto.randomUUID()] as const;

afterEach(async () => {
  for (const token of tokens) await stopOwn(token);
});

afterAll(() => rmSync(folder, { recursive: true }));

function sleeper(token: string): void {
  startDaemon(["sleep", "600"], ownerOf(token, "ceph"), join(folder, "log"));
}

test("what carries a token is ended, children too, and nothing else is", async () => {
  const [ours, theirs] = tokens;
  sleeper(theirs);
  // One that does not go by itself, with a child.
  const stubborn = "trap '' TERM; sleep 600 & echo up; wait; wait; sleep 600";
  startDaemon(["sh", "-c", stubborn], ownerOf(ours, "ceph"), join(folder, "stubborn"));
  while (ownProcesses(ours).length < 2 || ownProcesses(theirs).length < 1) await Bun.sleep(10);
  expect(ownProcesses(theirs).map(({ system, kind }) => [system, kind])).toEqual([
    ["ceph", "sleep"],
  ]);
  expect(await stopOwn(ours, 500)).toBe(2);
  expect(ownProcesses(ours)).toEqual([]);
  expect(ownProcesses(theirs)).toHaveLength(1);
  expect(await stopOwn(ours)).toBe(0);
}, 60_000);

test("down removes a directory that up made, once or twice, and no other one", async () => {
  const strange = join(folder, "strange");
  const made = join(folder, "made");
  await output({ words: ["mkdir", strange, made], env: {} });
  writeFileSync(join(strange, "precious"), "");
  const settings = { profile: "auto", osdBytes: 1, imageBytes: 1, monPort: 1 } as const;
  writeSettings(made, { ...settings, token: tokens[0], complete: false });
  sleeper(tokens[0]);
  for (const dir of [strange, made, made, join(folder, "none")]) {
    await output({ words: [process.execPath, MAIN, "down", "--dir", dir], env: {} });
  }
  expect(existsSync(join(strange, "precious"))).toBe(true);
  expect(existsSync(made)).toBe(false);
  expect(ownProcesses(tokens[0])).toEqual([]);
}, 60_000);

test("a mark without its token is refused: nobody knows what it stands for", () => {
  const odd = mkdtempSync(join(folder, "odd-"));
  writeFileSync(join(odd, "fastblock-bench.json"), "{}");
  expect(() => readSettings(odd)).toThrow("no token, wanted the file that up wrote");
});

test("up refuses a directory that holds something else, and starts nothing", async () => {
  const odd = mkdtempSync(join(folder, "odd-"));
  writeFileSync(join(odd, "precious"), "");
  const words = [process.execPath, MAIN, "up", "--dir", odd];
  const refusal = await output({ words, env: {} }).catch(String);
  expect(refusal).toContain("it is not empty, wanted an empty directory");
  await output({ words: [process.execPath, MAIN, "down", "--dir", odd], env: {} });
  expect(existsSync(join(odd, "precious"))).toBe(true);
});
