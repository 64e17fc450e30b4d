import { expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { randomBytes, type TestCluster, withCluster } from "./e2e-harness.ts";

/** Commands that move data end with a coded error when a majority of the osds is away. */
const TIMED_OUT = 7;

async function endsInTime(cluster: TestCluster, ...words: readonly string[]): Promise<string> {
  const { code, stderr } = await cluster.attempt(...words, "--timeout", "1500ms");
  expect(`${words.join(" ")}: ${code} ${stderr}`).toStartWith(
    `${words.join(" ")}: ${TIMED_OUT} error FB1006: `,
  );
  expect(stderr).toContain("fastblock health");
  return stderr;
}

test("G11: data commands end when two of three osds are away, and work again when they are back", async () => {
  await withCluster({ osds: 3, flags: ["--osd-size", "300MiB"] }, async (cluster) => {
    await cluster.image("p/a", "16MiB", 3);
    await cluster.run("image", "create", "p/b", "--size", "16MiB");
    const file = cluster.path("data");
    writeFileSync(file, randomBytes(4_194_304, 1));
    await cluster.run("client", "write", "p/a", file);
    for (const name of ["osd.1", "osd.2"]) await cluster.kill(name, "SIGKILL");
    const written = await endsInTime(cluster, "client", "write", "p/a", file);
    expect(written).toContain("Write of p/a, 1 MiB at ");
    expect(written).toMatch(
      /why +byte \d+ lies in group \d+\.[\da-f]+ on osd\.\d, osd\.\d, osd\.\d/,
    );
    await endsInTime(cluster, "client", "read", "p/a", cluster.path("none"));
    await endsInTime(cluster, "client", "cp", "p/a", "p/b");
    const bench = ["bench", "image", "p/a", "--time", "60s", "--ramp", "0s", "--no-fill"];
    await endsInTime(cluster, ...bench);
    await endsInTime(cluster, ...bench.slice(0, -1));
    await endsInTime(cluster, ...bench.slice(0, -1), "--fill");
    for (const name of ["osd.1", "osd.2"]) await cluster.restart(name);
    await cluster.run("client", "write", "p/a", file);
    await cluster.run(
      ...bench.slice(0, 3),
      "--time",
      "300ms",
      "--ramp",
      "0s",
      "--no-fill",
      "--verify",
    );
  });
});
