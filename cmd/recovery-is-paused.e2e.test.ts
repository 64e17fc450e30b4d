import { expect, test } from "bun:test";
import { type TestCluster, waitFor, withCluster } from "./e2e-harness.ts";

/**
 * An osd comes back while recovery is paused: it waits, and health says so, also after the mon was
 * killed; on `resume` it gets what differs.
 */

/** Of each osd: a sixteenth of its 512 MiB. */
const LOG_MIB = 32;

interface Recovery {
  readonly speed: string;
  readonly paused: boolean;
  readonly replicas: readonly {
    readonly osd: number;
    readonly stage: string;
    readonly bytesCopied: number;
  }[];
}

/** A counter of one osd, all shards and lines whose labels hold `label`. */
async function counter(
  cluster: TestCluster,
  osd: number,
  name: string,
  label = "",
): Promise<number> {
  const reply = await fetch(`http://127.0.0.1:${cluster.port("mon.a", "http")}/metrics`);
  let sum = 0;
  for (const line of (await reply.text()).split("\n")) {
    if (!line.startsWith(`fastblock_${name}{`) || !line.includes(`osd="${osd}"`)) continue;
    if (line.includes(label)) sum += Number(line.slice(line.lastIndexOf(" ")));
  }
  return sum;
}

/** Write everywhere until the logs have gone round twice: what the osd that is away missed is in none of them. */
async function writeMoreThanLogsHold(cluster: TestCluster): Promise<void> {
  const logged = (): Promise<number> =>
    counter(cluster, 0, "device_write_bytes_total", 'region="log"');
  const wanted = (await logged()) + 2 * LOG_MIB * 1024 * 1024;
  const load = [
    "bench",
    "image",
    "rbd/disk",
    "--rw",
    "randwrite",
    "--bs",
    "32KiB",
    "--ramp",
    "0s",
    "--no-fill",
  ];
  while ((await logged()) < wanted) await cluster.run(...load, "--time", "1s");
}

test("G7: recovery that is paused waits, over a restart of the mon, and goes on", async () => {
  await withCluster({ osds: 3, flags: ["--osd-size", "512MiB"] }, async (cluster) => {
    const status = (): Promise<Recovery> => cluster.json<Recovery>("recovery", "status");
    await cluster.run("pool", "create", "rbd", "--size", "3", "--pgs", "4");
    await cluster.run("image", "create", "rbd/disk", "--size", "64MiB");
    expect(await status()).toEqual({ speed: "medium", paused: false, replicas: [] });
    await cluster.kill("osd.2", "SIGKILL");
    await writeMoreThanLogsHold(cluster);

    await cluster.run("recovery", "pause");
    await cluster.restart("osd.2");
    await waitFor("osd.2 to wait", async () => {
      const { replicas } = await status();
      return replicas.length === 4 && replicas.every((one) => one.osd === 2);
    });
    await cluster.kill("mon.a", "SIGKILL");
    await cluster.restart("mon.a");
    await waitFor("the mon to hear of osd.2", async () => (await status()).replicas.length === 4);
    expect((await status()).paused).toBe(true);
    const health = await cluster.attempt("health", "--check");
    expect(health.code).toBe(1);
    expect(health.stdout).toContain("RECOVERY_PAUSED: recovery is paused: 4 replicas wait for it");
    expect(health.stdout).toContain("warn  PG_FILLING: ");
    // What it got before it heard of the pause is little: nothing of it was the end.
    expect(await counter(cluster, 2, "recovery_fills_total", 'stage="ended"')).toBe(0);

    await cluster.run("recovery", "speed", "low");
    await cluster.run("recovery", "resume");
    const isHealthy = async (): Promise<boolean> =>
      (await cluster.attempt("health", "--check")).code === 0;
    await waitFor("all to be whole", async () => {
      const { replicas } = await status();
      const ended = await counter(cluster, 2, "recovery_fills_total", 'stage="ended"');
      return replicas.length === 0 && ended === 4 && (await isHealthy());
    });
    expect(await status()).toEqual({ speed: "low", paused: false, replicas: [] });
    expect(await counter(cluster, 2, "recovery_bytes_total")).toBeGreaterThan(0);
    await cluster.run("image", "verify", "rbd/disk");
  });
}, 240_000);
