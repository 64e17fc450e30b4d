import { expect, test } from "bun:test";
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { randomBytes, succeed, type TestCluster, waitFor, withCluster } from "./e2e-harness.ts";

/**
 * The disk of an osd is lost for good, and it starts again on an empty one (G7): full redundancy
 * returns by itself, though there is no other osd to go to.
 */

const MIB = 1024 * 1024;
const SIZE = 32 * MIB;
const VICTIM = 2;

interface Pg {
  readonly state: string;
  readonly osds: readonly number[];
  readonly joining: readonly number[];
  readonly leaving: readonly number[];
  readonly replicas: readonly { readonly osd: number; readonly replicaId: number }[];
  readonly configuration: { readonly voters: readonly number[] } | null;
}

function replicaOn(pg: Pg, osd: number): number | undefined {
  return pg.replicas.find((one) => one.osd === osd)?.replicaId;
}

/** Every group has three voters, nobody joins, leaves or is filled, and health says so. */
async function whole(cluster: TestCluster): Promise<Pg[] | undefined> {
  const pgs = await cluster.json<Pg[]>("pg", "ls", "rbd");
  const isWhole = pgs.every(
    ({ state, joining, leaving, configuration }) =>
      state === "active" &&
      joining.length + leaving.length === 0 &&
      configuration?.voters.length === 3,
  );
  if (!isWhole || (await cluster.attempt("health", "--check")).code !== 0) return undefined;
  return pgs;
}

async function isUp(cluster: TestCluster): Promise<boolean> {
  const osds = await cluster.json<{ id: number; up: boolean }[]>("osd", "ls");
  return osds.some((osd) => osd.id === VICTIM && osd.up);
}

test("an osd whose disk was lost gets all its replicas back on an empty one", async () => {
  await withCluster({ osds: 3 }, async (cluster) => {
    await cluster.run("pool", "create", "rbd", "--size", "3", "--pgs", "16");
    await cluster.run("image", "create", "rbd/disk", "--size", `${SIZE}`);
    const uri = cluster.uri("rbd/disk");
    const content = randomBytes(SIZE, 7);
    writeFileSync(cluster.path("disk.raw"), content);
    await succeed(["nbdcopy", cluster.path("disk.raw"), uri]);
    const before = await waitFor("all groups to be whole", () => whole(cluster));

    await cluster.kill(`osd.${VICTIM}`, "SIGKILL");
    rmSync(join(cluster.directory, `osd.${VICTIM}.img`));
    const { code, stderr } = await cluster.attempt(
      ...["dev", "up", "--dir", cluster.directory, "--detach"],
    );
    expect(code).toBe(0);
    const warnings = stderr.split("\n").filter((line) => line.startsWith("warning: "));
    expect(warnings.map((line) => line.includes(`osd.${VICTIM} gets a new, empty disk`))).toEqual([
      true,
    ]);

    await waitFor(`osd.${VICTIM} to be up`, () => isUp(cluster));
    const after = await waitFor("all groups to be whole again", () => whole(cluster));
    expect(await isUp(cluster)).toBe(true);
    for (const [at, pg] of after.entries()) {
      expect(replicaOn(pg, VICTIM)).toBeGreaterThan(replicaOn(before[at]!, VICTIM)!);
    }
    const report = await cluster.json("image", "verify", "rbd/disk");
    expect(report).toMatchObject({ equal: true, replicas: 3, dataBlocks: SIZE / 4096 });

    // The new disk is as good as any: it serves on when another osd is gone.
    await cluster.kill("osd.0", "SIGKILL");
    await succeed(["nbdcopy", uri, cluster.path("read.raw")]);
    expect(Buffer.compare(await readBytes(cluster.path("read.raw")), content)).toBe(0);
  });
}, 60_000);

async function readBytes(path: string): Promise<Uint8Array> {
  return await Bun.file(path).bytes();
}
