/**
 * The file system beneath the osds' sparse files has less than they promise. Writes are refused in
 * time, whatever else fills it; nobody dies of it, reads go on, and an image that is removed makes room.
 */
import { expect, test } from "bun:test";
import { closeSync, mkdirSync, openSync, rmSync, statfsSync, writeSync } from "node:fs";
import { join } from "node:path";
import { NbdCommand, NbdLink, type NbdReply } from "./campaign-nbd.ts";
import { command, succeed, TestCluster, waitFor } from "./e2e-harness.ts";

const NAMES = ["mon.a", "osd.0", "osd.1", "osd.2", "nbd.0"];
const SIZE = "600m";
const MIB = 1_048_576;
/** What the large image took of it, on three osds together, is more than that. */
const FILLED_MIN = 100 * MIB;
/** Changes of the catalogue until its file has to grow. */
const CHANGES_MAX = 200;
const NO_SPACE = "No space left on device";
const ENOSPC = 28;

const mayMount = process.getuid?.() === 0;
if (!mayMount && process.env["CI"] !== undefined) {
  throw new Error("this test mounts a file system: wanted root");
}

/** `qemu-io` on an export; answers what it said, whatever comes of it. */
async function qemuIo(uri: string, ...commands: readonly string[]): Promise<string> {
  const words = commands.flatMap((one) => ["-c", one]);
  const { stdout, stderr } = await command(["qemu-io", "-f", "raw", ...words, uri]);
  return `${stdout}\n${stderr}`;
}

function freeBytes(directory: string): number {
  const { bavail, bsize } = statfsSync(directory);
  return bavail * bsize;
}

/** Use up a file system to its last byte. */
function useUp(path: string): void {
  const file = openSync(path, "w");
  try {
    for (const chunk of [MIB, 4096]) writeAll(file, Buffer.alloc(chunk, 1));
  } finally {
    closeSync(file);
  }
}

function writeAll(file: number, chunk: Buffer): void {
  for (;;) {
    try {
      if (writeSync(file, chunk) < chunk.length) return;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOSPC") return;
      throw error;
    }
  }
}

async function onTmpfs(body: (cluster: TestCluster) => Promise<void>): Promise<void> {
  const cluster = new TestCluster();
  const { directory } = cluster;
  mkdirSync(directory);
  await succeed(["mount", "-t", "tmpfs", "-o", `size=${SIZE}`, "tmpfs", directory]);
  try {
    await cluster.up({ osds: 3, flags: ["--osd-size", "1GiB"] });
    await body(cluster);
  } catch (error) {
    console.error(cluster.logs());
    throw error;
  } finally {
    await cluster.attempt("dev", "down", "--dir", directory);
    // The kernel lets go of a ring's files a moment after its process.
    await waitFor("the file system to be let go", async () => {
      const { code } = await command(["umount", directory]);
      return code === 0;
    });
    await cluster.remove();
  }
}

function write(link: NbdLink, offset: number): Promise<NbdReply> {
  const data = new Uint8Array(MIB).fill(9);
  return link.ask({ command: NbdCommand.Write, offset, length: MIB, flags: 0, data });
}

async function expectSevens(link: NbdLink): Promise<void> {
  for (let at = 0; at < 32; at++) {
    const request = {
      command: NbdCommand.Read,
      offset: at * MIB,
      length: MIB,
      flags: 0,
      data: null,
    };
    const { error, data } = await link.ask(request);
    expect([error, data.every((byte) => byte === 7)]).toEqual([0, true]);
  }
}

/** The answer to one change of the catalogue. */
async function change(cluster: TestCluster, at: number): Promise<string> {
  const name = `rbd/small${at}`;
  const { code, stderr } = await cluster.attempt("image", "create", name, "--size", "4MiB");
  return code === 0 ? "" : `${code} ${stderr}`;
}

test.skipIf(!mayMount)(
  "G13: a host without space refuses writes and kills nobody",
  async () => {
    await onTmpfs(async (cluster) => {
      const pids = (): number[] =>
        NAMES.map((name) => (cluster.isRunning(name) ? cluster.pid(name) : 0));
      const before = pids();
      const kept = await cluster.image("rbd/kept", "32MiB", 3);
      await cluster.run("image", "create", "rbd/filling", "--size", "2GiB");
      const filling = cluster.uri("rbd/filling");
      expect(await qemuIo(kept, "write -P 7 0 32M")).toContain("wrote 33554432/33554432");

      // More than there is: what fits is taken, every other write is answered with an error.
      const writes = Array.from({ length: 64 }, (_, at) => `write -P 9 ${at * 8}M 8M`);
      const said = await qemuIo(filling, ...writes);
      expect(said).toContain("wrote 8388608/8388608");
      expect(said).toContain(NO_SPACE);
      expect(freeBytes(cluster.directory)).toBeGreaterThan(0);
      expect(pids()).toEqual(before);
      await waitFor("health to name what is full", async () => {
        const { code, stdout } = await cluster.attempt("health");
        return code === 0 && stdout.includes("error OSD_FILE_SYSTEM_FULL: 3 osds take no writes");
      });
      expect(await cluster.run("health")).toContain("osd.0.img, it takes no writes\n");
      expect(await cluster.run("osd", "ls")).toContain(" left, no writes");
      expect(await cluster.run("status")).toContain("; the file system beneath has ");

      // Somebody else takes the rest. Whoever is attached reads on.
      const attach = (name: string): Promise<NbdLink> =>
        NbdLink.attach("127.0.0.1", cluster.port("nbd.0", "nbd"), name);
      const [reader, writer] = await Promise.all([attach("rbd/kept"), attach("rbd/filling")]);
      const other = join(cluster.directory, "other");
      useUp(other);
      expect(freeBytes(cluster.directory)).toBe(0);
      await expectSevens(reader);
      expect((await write(writer, 1500 * MIB)).error).toBe(ENOSPC);
      let refused = "";
      for (let at = 0; at < CHANGES_MAX && refused === ""; at++)
        refused = await change(cluster, at);
      expect(refused).toStartWith("1 error FB4010");
      expect(refused).toContain("hint  make room");
      await cluster.run("status");
      await expectSevens(reader);
      expect(pids()).toEqual(before);

      // Only the osds fill it now. What they free goes back, and there is room again.
      rmSync(other);
      await waitFor(
        "the catalogue to take changes",
        async () => (await change(cluster, 999)) === "",
      );
      reader.close();
      writer.close();
      const free = freeBytes(cluster.directory);
      await waitFor("the large image to go", async () => {
        const { code } = await cluster.attempt("image", "rm", "rbd/filling", "--yes");
        return code === 0;
      });
      await waitFor(
        "the space of the removed image",
        () => freeBytes(cluster.directory) > free + FILLED_MIN,
        60_000,
      );
      await cluster.run("image", "create", "rbd/next", "--size", "2GiB");
      const next = cluster.uri("rbd/next");
      await waitFor("writes to be taken again", async () =>
        (await qemuIo(next, "write -P 5 1600M 32M")).includes("wrote 33554432/33554432"),
      );
      expect(await qemuIo(next, "read -P 5 1600M 32M")).not.toMatch(/error|failed|verification/i);
      await cluster.run("image", "verify", "rbd/kept");
      await cluster.run("image", "verify", "rbd/next");
      expect(pids()).toEqual(before);
    });
  },
  240_000,
);
