import { expect, test } from "bun:test";
import { command, waitFor, withCluster } from "./e2e-harness.ts";

/** `qemu-io` on an export; answers what it said, whatever comes of it. */
async function qemuIo(uri: string, ...commands: readonly string[]): Promise<string> {
  const words = commands.flatMap((one) => ["-c", one]);
  const { stdout, stderr } = await command(["qemu-io", "-f", "raw", ...words, uri]);
  return `${stdout}\n${stderr}`;
}

/** Writes of `sizeKiB` that cover `lengthMiB` from `fromMiB` on. */
function pieces(pattern: number, fromMiB: number, lengthMiB: number, sizeKiB: number): string[] {
  const count = (lengthMiB * 1024) / sizeKiB;
  return Array.from(
    { length: count },
    (_, at) => `write -P ${pattern} ${fromMiB * 1024 + at * sizeKiB}k ${sizeKiB}k`,
  );
}

test("G13: a full cluster refuses writes that need space, and goes on with everything else", async () => {
  await withCluster({ osds: 3, flags: ["--osd-size", "320MiB"] }, async (cluster) => {
    const uri = await cluster.image("rbd/kept", "32MiB", 3);
    await cluster.run("image", "create", "rbd/filling", "--size", "2GiB");
    const filling = cluster.uri("rbd/filling");
    expect(await qemuIo(uri, "write -P 7 0 32M")).toContain("wrote 33554432/33554432");
    // Every write is answered, sooner or later with an error; none waits for ever.
    const said = await qemuIo(
      filling,
      ...Array.from({ length: 64 }, (_, at) => `write -P 9 ${at * 8}M 8M`),
    );
    expect(said).toContain("wrote 8388608/8388608");
    expect(said).toContain("No space left on device");
    // Reads go on, and writes within what has its space already.
    expect(
      await qemuIo(uri, "read -P 7 0 32M", "write -P 8 1M 48k", "read -P 8 1M 48k"),
    ).not.toMatch(/error|failed|No space/i);
    // So do writes of whole units over all that has been written, which take no space either.
    expect(await qemuIo(uri, ...pieces(3, 0, 16, 64), ...pieces(4, 16, 16, 128))).not.toMatch(
      /error|failed|No space/i,
    );
    expect(await qemuIo(uri, "read -P 3 0 16M", "read -P 4 16M 16M")).not.toMatch(/error|failed/i);
    expect(await qemuIo(filling, "write -P 9 2047M 1M")).toContain("No space left on device");
    // What is given up comes back, and the cluster is the same as before.
    await cluster.run("image", "rm", "rbd/filling", "--yes");
    await cluster.run("image", "create", "rbd/again", "--size", "64MiB");
    const again = cluster.uri("rbd/again");
    await waitFor("space to come back", async () =>
      (await qemuIo(again, "write -P 5 0 48M")).includes("wrote 50331648/50331648"),
    );
    expect(await qemuIo(again, "read -P 5 0 48M")).not.toMatch(/error|failed/i);
    await cluster.run("image", "verify", "rbd/kept");
    await cluster.run("image", "verify", "rbd/again");
  });
}, 180_000);
