/**
 * A cluster whose processes want encryption: what clients write crosses the wire as noise, whoever was
 * started without the option follows, and whoever can not encrypt is told so, and gets nothing.
 */
import { expect, test } from "bun:test";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Tap } from "../core/rpc/bun-tap-harness.ts";
import { TestClient } from "./client-harness.ts";
import {
  command,
  EXECUTABLE,
  succeed,
  type TestCluster,
  waitFor,
  withCluster,
} from "./e2e-harness.ts";

const IMAGE = "rbd/secret";
const SIZE = 1_048_576;
/** What nothing else on the wire looks like; long enough to be found in any piece. */
const WORDS = new TextEncoder().encode("for the tenant alone / ");
const CONTENT = Uint8Array.from({ length: SIZE }, (_, at) => WORDS[at % WORDS.length]!);

/** Write and read as a client does; answers what somebody sees between it and the osds. */
async function tapped(cluster: TestCluster, osds: number): Promise<Buffer> {
  const ports = Array.from({ length: osds }, (_, osd) => cluster.port(`osd.${osd}`, "data"));
  const taps = await Promise.all(ports.map((port) => Tap.to(port)));
  const ways = new Map(ports.map((port, osd) => [port, taps[osd]!.port]));
  const client = new TestClient(cluster, "tapped", ways);
  const image = await client.open(IMAGE);
  await image.write(0, CONTENT);
  const read = await image.read(0, SIZE);
  expect(Buffer.compare(read, CONTENT)).toBe(0);
  await client.stop();
  const wires = taps.map((tap) => tap.bytes);
  for (const tap of taps) tap.close();
  return Buffer.concat(wires);
}

/** The environment of a machine without the library: a file of its name that is none comes first. */
function withoutLibrary(cluster: TestCluster): Record<string, string> {
  const folder = cluster.path("no library");
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "libcrypto.so.3"), "");
  return { CLUSTER_DIR: cluster.directory, LD_LIBRARY_PATH: folder };
}

test("G18: connections-are-encrypted", async () => {
  await withCluster({ osds: 3, flags: ["--encrypt"] }, async (cluster) => {
    const uri = await cluster.image(IMAGE, "64MiB", 3);
    const wire = await tapped(cluster, 3);
    expect(wire.length).toBeGreaterThan(2 * SIZE);
    expect(wire.indexOf(WORDS.subarray(0, 12))).toBe(-1);

    const io = await succeed(["qemu-io", "-f", "raw", "-c", "write -P 0x5a 2M 256k", uri]);
    expect(io).toContain("wrote 262144/262144 bytes");
    const file = cluster.path("read");
    await cluster.run("client", "read", IMAGE, file, "--offset", "2MiB", "--length", "256KiB");
    expect(readFileSync(file).every((byte) => byte === 0x5a)).toBe(true);

    // An osd that was not told follows those that were.
    await cluster.kill("osd.2", "SIGTERM");
    const start = join(cluster.directory, "osd.2.start");
    const script = readFileSync(start, "utf8");
    expect(script).toContain(" '--encrypt'");
    writeFileSync(start, script.replace(" '--encrypt'", ""));
    await cluster.restart("osd.2");
    await waitFor("all copies to be whole", async () => {
      return (await cluster.attempt("health", "--check")).code === 0;
    });
    await cluster.run("image", "verify", IMAGE);
    expect((await tapped(cluster, 3)).indexOf(WORDS.subarray(0, 12))).toBe(-1);

    // Who can not encrypt is refused, and a process that is to encrypt does not start.
    const env = withoutLibrary(cluster);
    const read = await command([EXECUTABLE, "client", "read", IMAGE, "-"], env);
    expect([read.code, read.stdout]).toEqual([1, ""]);
    expect(read.stderr).toContain("error FB1018: connecting to the mon: ");
    expect(read.stderr).toContain("  why   no encryption: no cipher: ");
    expect(read.stderr).toContain("libcrypto.so.3: file too short");
    await cluster.kill("osd.2", "SIGTERM");
    const words = script.trim().split("\n").at(-1)!.replace("exec ", "");
    const osd = await command(["sh", "-c", words], env);
    expect(osd.code).toBe(1);
    expect(osd.stderr).toContain("error FB1018: encrypting connections of osd.2: no cipher: ");
    expect(osd.stderr).toContain("apt-get install libssl3");
  });
}, 240_000);

test("G18: a client alone may want it", async () => {
  await withCluster({ osds: 1 }, async (cluster) => {
    await cluster.image(IMAGE, "16MiB", 1);
    expect((await tapped(cluster, 1)).indexOf(WORDS.subarray(0, 12))).toBeGreaterThan(0);
    const file = cluster.path("read");
    const length = String(SIZE);
    await cluster.run("client", "read", IMAGE, file, "--length", length, "--encrypt");
    expect(Buffer.compare(readFileSync(file), CONTENT)).toBe(0);
    // Without the library all is as ever.
    const env = withoutLibrary(cluster);
    const words = ["client", "read", IMAGE, "-", "--length", length];
    expect((await command([EXECUTABLE, ...words], env)).stdout.length).toBe(SIZE);
    const { code, stderr } = await command([EXECUTABLE, ...words, "--encrypt"], env);
    expect(code).toBe(1);
    expect(stderr).toContain("error FB1018: encrypting connections of cli.");
  });
}, 120_000);
