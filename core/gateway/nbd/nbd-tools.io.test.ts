import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createBunWorld } from "../../reactor/bun-world.ts";
import type { RunnableWorld, WorldOptions } from "../../reactor/reactor.ts";
import { createUringWorld } from "../../reactor/uring-world.ts";
import { Prng } from "../../base/prng.ts";
import { NbdHarness } from "./nbd-harness.ts";

const MIB = 1_048_576;
setDefaultTimeout(60_000);
const directory = mkdtempSync(join(tmpdir(), "fastblock-nbd-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

interface Result {
  readonly code: number;
  readonly out: string;
}

/** Run a real client; its output, or an error with all it said. */
async function run(...command: string[]): Promise<string> {
  const result = await tryRun(...command);
  if (result.code !== 0)
    throw new Error(`${command.join(" ")}: exit ${result.code}\n${result.out}`);
  return result.out;
}

async function tryRun(...command: string[]): Promise<Result> {
  const child = Bun.spawn(command, { stdout: "pipe", stderr: "pipe", cwd: directory });
  const [out, err, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  return { code, out: out + err };
}

const worlds: readonly (readonly [string, (options: WorldOptions) => RunnableWorld])[] = [
  ["uring", createUringWorld],
  ["bun", createBunWorld],
];

describe.each(worlds)("nbd gateway on the %s world, real clients", (_name, create) => {
  let harness: NbdHarness;
  beforeAll(() => {
    harness = new NbdHarness(create);
  });
  afterAll(() => harness.close());

  test("nbdinfo sees size, flags and block sizes", async () => {
    harness.addImage("demo/info", 64 * MIB);
    const text = await run("nbdinfo", "--json", harness.url("demo/info"));
    const found = JSON.parse(text).exports[0];
    expect(found["export-size"]).toBe(64 * MIB);
    expect(found.is_read_only).toBe(false);
    for (const flag of ["can_flush", "can_fua", "can_trim", "can_zero", "can_cache", "can_df"]) {
      expect(found[flag], flag).toBe(true);
    }
    expect(found.can_multi_conn).toBe(true);
    expect(found.can_fast_zero).toBe(true);
    expect(found.contexts).toEqual(["base:allocation"]);
    expect(found.block_size_minimum).toBe(1);
    expect(found.block_size_preferred).toBe(4096);
    expect(found.block_size_maximum).toBe(32 * MIB);
  });

  test("nbdinfo lists every export and refuses an unknown one", async () => {
    harness.addImage("demo/a", MIB);
    harness.addImage("demo/b", MIB);
    const list = await run("nbdinfo", "--list", "--json", `nbd://127.0.0.1:${harness.port}`);
    const names = JSON.parse(list).exports.map(
      (one: Record<string, unknown>) => one["export-name"],
    );
    expect(names).toContain("demo/a");
    expect(names).toContain("demo/b");
    const refused = await tryRun("nbdinfo", harness.url("demo/missing"));
    expect(refused.code).not.toBe(0);
  });

  test("a read-only image refuses writes", async () => {
    harness.addImage("demo/fixed", MIB).readOnly = true;
    const info = await run("nbdinfo", "--json", harness.url("demo/fixed"));
    expect(JSON.parse(info).exports[0].is_read_only).toBe(true);
    const write = await tryRun(
      "qemu-io",
      "-f",
      "raw",
      "-c",
      "write 0 4k",
      harness.url("demo/fixed"),
    );
    expect(write.code === 0 && !write.out.includes("read-only")).toBe(false);
  });

  test("nbdcopy brings random data in and out unchanged, over several connections", async () => {
    const size = 24 * MIB + 4096;
    const image = harness.addImage("demo/copy", size);
    const data = new Uint8Array(size);
    new Prng(7).fill(data.subarray(0, 9 * MIB));
    new Prng(8).fill(data.subarray(17 * MIB + 512, size));
    writeFileSync(join(directory, "in"), data);
    const url = harness.url("demo/copy");
    await run("nbdcopy", "--connections=4", "in", url);
    await run("nbdcopy", "--connections=4", url, "out");
    expect(readFileSync(join(directory, "out")).equals(Buffer.from(data))).toBe(true);
    // nbdcopy writes zeroes where the file has none: they take no blocks.
    expect(image.blocks.size).toBeLessThan(size / 4096 - 1000);
    const map = JSON.parse(await run("nbdinfo", "--map", "--json", url));
    let cursor = 0;
    for (const extent of map) {
      expect(extent.offset).toBe(cursor);
      cursor += extent.length;
    }
    expect(cursor).toBe(size);
    expect(map.some((one: { type: number }) => one.type === 3)).toBe(true);
    expect(map.some((one: { type: number }) => one.type === 0)).toBe(true);
  });

  test("qemu-io patterns, unaligned ranges, zeroes and discards", async () => {
    harness.addImage("demo/qemu", 64 * MIB);
    const script = [
      "write -P 0xaa 0 1M",
      "write -z 64k 64k",
      "read -P 0xaa 0 64k",
      "read -P 0 64k 64k",
      "read -P 0xaa 128k 896k",
      "write -P 0x11 4097 511",
      "read -P 0xaa 4096 1",
      "read -P 0x11 4097 511",
      "read -P 0xaa 4608 3584",
      "write -P 0x22 3000 300000",
      "read -P 0x22 3000 300000",
      "write -f -P 0x33 10M 32M",
      "read -P 0x33 10M 32M",
      "read -P 0x33 10485761 33554430",
      "write -z -u 12M 3M",
      "read -P 0 12M 3M",
      "discard 1M 1M",
      "flush",
    ];
    const commands = script.flatMap((line) => ["-c", line]);
    const out = await run("qemu-io", "-f", "raw", ...commands, harness.url("demo/qemu"));
    expect(out).not.toContain("Pattern verification failed");
    expect(out).not.toContain("failed");
  });

  test("qemu-img convert, compare and map agree with the source", async () => {
    const size = 32 * MIB;
    harness.addImage("demo/img", size);
    const data = new Uint8Array(size);
    new Prng(3).fill(data.subarray(5 * MIB, 11 * MIB));
    writeFileSync(join(directory, "img"), data);
    const url = harness.url("demo/img");
    await run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", "img", url);
    expect(await run("qemu-img", "compare", "-f", "raw", "-F", "raw", "img", url)).toContain(
      "identical",
    );
    await run("qemu-img", "convert", "-f", "raw", "-O", "raw", url, "back");
    expect(readFileSync(join(directory, "back")).equals(Buffer.from(data))).toBe(true);
    const map = JSON.parse(await run("qemu-img", "map", "--output=json", "-f", "raw", url));
    const dataBytes = map
      .filter((one: { data: boolean }) => one.data)
      .reduce((sum: number, one: { length: number }) => sum + one.length, 0);
    expect(dataBytes).toBe(6 * MIB);
  });

  test("fio verifies random writes of 4k to 64k", async () => {
    const image = harness.addImage("demo/fio", 64 * MIB);
    // Nothing is answered before fio has several requests open, however the two are scheduled.
    image.isHeld = true;
    const running = run(
      "fio",
      "--name=v",
      "--ioengine=nbd",
      `--uri=${harness.url("demo/fio")}`,
      "--rw=randwrite",
      "--bs=4k-64k",
      "--iodepth=16",
      "--size=64M",
      "--io_size=32M",
      "--verify=crc32c",
      "--do_verify=1",
      "--verify_fatal=1",
    );
    const end = Date.now() + 30_000;
    while (image.openCount <= 4 && Date.now() < end) await Bun.sleep(1);
    expect(image.openCount).toBeGreaterThan(4);
    image.isHeld = false;
    harness.world.turns.again();
    expect(await running).toContain("err= 0");
  });

  test("a unix socket serves the same exports", async () => {
    const image = harness.addImage("demo/unix", 4 * MIB);
    const path = join(directory, `${_name}.sock`);
    harness.server.listen({ kind: "unix", path });
    const url = `nbd+unix:///demo/unix?socket=${path}`;
    await run("qemu-io", "-f", "raw", "-c", "write -P 0x5a 1M 64k", "-c", "flush", url);
    expect(image.blocks.get(256)?.[0]).toBe(0x5a);
    expect(image.blocks.size).toBe(16);
  });
});
