import { spawn } from "bun";
import { expect, test } from "bun:test";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { randomBytes, succeed, type TestCluster, waitFor, withCluster } from "./e2e-harness.ts";

const MIB = 1024 * 1024;

interface ExportInfo {
  readonly "export-size": number;
  readonly block_size_minimum?: number;
  readonly block_size_preferred?: number;
  readonly block_size_maximum?: number;
  readonly is_read_only: boolean;
  readonly can_fua: boolean;
  readonly can_trim: boolean;
  readonly can_zero: boolean;
  readonly can_cache: boolean;
  readonly can_multi_conn: boolean;
  readonly contexts: readonly string[];
}

/** A file with an ext4 file system that holds random files. */
async function makeFileSystem(cluster: TestCluster, sizeMib: number): Promise<string> {
  const folder = cluster.path("content");
  mkdirSync(folder);
  for (let index = 0; index < 8; index++) {
    writeFileSync(`${folder}/file-${index}`, randomBytes(2 * MIB, index + 1));
  }
  const path = cluster.path("fs.img");
  await succeed(["mkfs.ext4", "-q", "-d", folder, path, `${sizeMib}M`]);
  return path;
}

function expectSame(one: string, other: string): void {
  expect(readFileSync(one).equals(readFileSync(other))).toBe(true);
}

test("stock clients write, read, trim and describe images on three replicas", async () => {
  await withCluster({ osds: 3 }, async (cluster) => {
    const uri = await cluster.image("rbd/a", "64MiB", 3);
    const source = await makeFileSystem(cluster, 64);

    await succeed(["qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", source, uri]);
    const back = cluster.path("back.img");
    await succeed(["qemu-img", "convert", "-f", "raw", "-O", "raw", uri, back]);
    expectSame(source, back);
    await succeed(["e2fsck", "-fn", back]);

    await cluster.run("image", "create", "rbd/b", "--size", "64MiB");
    await succeed(["nbdcopy", source, cluster.uri("rbd/b")]);
    const copied = cluster.path("copied.img");
    await succeed(["nbdcopy", cluster.uri("rbd/b"), copied]);
    expectSame(source, copied);

    const info = JSON.parse(await succeed(["nbdinfo", "--json", uri])) as {
      readonly exports: readonly ExportInfo[];
    };
    expect(info.exports[0]).toMatchObject({
      "export-size": 64 * MIB,
      is_read_only: false,
      can_fua: true,
      can_trim: true,
      can_zero: true,
      can_cache: true,
      can_multi_conn: true,
      contexts: ["base:allocation"],
      block_size_minimum: 1,
      block_size_preferred: 4096,
      block_size_maximum: 32 * MIB,
    });
    const listed = await succeed([
      "nbdinfo",
      "--list",
      `nbd://127.0.0.1:${cluster.port("nbd.0", "nbd")}`,
    ]);
    expect(listed).toContain("rbd/a");
    expect(listed).toContain("rbd/b");

    await cluster.run("image", "create", "rbd/c", "--size", "64MiB");
    await succeed([
      "qemu-io",
      ...["-f", "raw"],
      ...["-c", "write -P 0xaa 0 1M", "-c", "write -z 64k 64k", "-c", "read -P 0 64k 64k"],
      ...[
        "-c",
        "read -P 0xaa 128k 896k",
        "-c",
        "write -P 0x55 4095 3",
        "-c",
        "read -P 0x55 4095 3",
      ],
      ...[
        "-c",
        "read -P 0xaa 0 4095",
        "-c",
        "discard 1M 1M",
        "-c",
        "read -P 0 1M 1M",
        "-c",
        "flush",
      ],
      cluster.uri("rbd/c"),
    ]);
    const map = await succeed(["nbdinfo", "--map", cluster.uri("rbd/c")]);
    expect(map).toContain("hole,zero");

    await succeed([
      "fio",
      ...["--name=v", "--ioengine=nbd", `--uri=${cluster.uri("rbd/c")}`, "--rw=randwrite"],
      ...["--bs=4k-64k", "--iodepth=16", "--size=48M", "--io_size=48M", "--verify=crc32c"],
      ...["--do_verify=1", "--verify_fatal=1", "--verify_state_save=0", "--output-format=terse"],
    ]);
    await cluster.run("image", "verify", "rbd/a");
    await cluster.run("image", "verify", "rbd/c");
  });
});

test("G1: an image that is converted while its only osd is killed arrives whole", async () => {
  await withCluster({ osds: 1 }, async (cluster) => {
    const uri = await cluster.image("one/a", "64MiB", 1);
    const source = cluster.path("random.img");
    writeFileSync(source, randomBytes(64 * MIB, 7));
    const words = ["qemu-img", "convert", "-n", "-W", "-f", "raw", "-O", "raw"];
    // At this rate it takes 4 s: each kill finds it at work.
    const converting = spawn([...words, "-r", "16M", source, uri], {
      stdin: "ignore",
      stdout: "ignore",
      stderr: "pipe",
    });
    for (const writtenMib of [8, 24]) {
      await waitFor("some of the image to be written", async () => {
        return (await allocatedBytes(uri)) > writtenMib * MIB;
      });
      const written = await allocatedBytes(uri);
      await cluster.kill("osd.0", "SIGKILL");
      expect([written < 56 * MIB, converting.exitCode]).toEqual([true, null]);
      await cluster.restart("osd.0");
    }
    const complaints = await new Response(converting.stderr).text();
    expect([await converting.exited, complaints]).toEqual([0, ""]);
    const back = cluster.path("back.img");
    await succeed(["qemu-img", "convert", "-f", "raw", "-O", "raw", uri, back]);
    expectSame(source, back);
  });
});

async function allocatedBytes(uri: string): Promise<number> {
  const map = JSON.parse(await succeed(["nbdinfo", "--map", "--json", uri])) as readonly {
    readonly length: number;
    readonly type: number;
  }[];
  return map.filter(({ type }) => type === 0).reduce((sum, { length }) => sum + length, 0);
}
