import { existsSync } from "node:fs";
import {
  ImageLoad,
  judgePauses,
  loadError,
  type PauseEvent,
  type Pauses,
  type PausesOptions,
  type PausesOutside,
  type PausesReport,
  runPauses,
} from "../core/bench/bench.ts";
import type { CliContext } from "../core/cli/cli.ts";
import type { Image } from "../core/client/client.ts";
import { readPlan, runningPid, stopOne } from "../core/dev/bun-processes.ts";
import { sleep, type World } from "../core/reactor/world.ts";
import { withImages } from "./attach.ts";
import { machineNow, makeImage, OSDS, REPLICAS, withBenchCluster } from "./bench-cluster.ts";
import { BenchControl } from "./bench-control.ts";

/** `bench pauses`: a cluster of its own, images of one group each, and processes that go and come back. */
const MIB = 1_048_576;
const IMAGE_BYTES = 16 * MIB;
/** Each osd leads one of them, as a rule. */
const POOLS = Array.from({ length: OSDS }, (_, at) => `pauses${at}`);
const PATHS = POOLS.map((pool) => `${pool}/disk`);
const WARM_DEPTH = 4;
/** Both write so long before an event, and behind it. */
const BEFORE_MS = 1000;
const AFTER_MS = 4000;
const FREEZE_MS = 5000;
const MON = "mon.a";
const RUN_DEFAULT = {
  rw: "randwrite",
  blockBytes: 4096,
  depth: 1,
  jobs: 1,
  rangeBytes: IMAGE_BYTES,
  readPercent: 0,
  seed: 1,
  verify: false,
  log: null,
  run: 1,
  imageTag: 0,
  book: null,
  once: false,
  pace: null,
  worst: null,
} as const;

/** Run it; the cluster and its directory are gone afterwards. Throws FB1006, FB1009, FB4008, FB5001. */
export async function pausesBench(
  cli: CliContext,
  program: readonly string[],
  options: PausesOptions,
): Promise<PausesReport> {
  const { backend, times } = options;
  return await withBenchCluster(program, options, async (directory) => {
    for (const path of PATHS) await makeImage(program, directory, path, IMAGE_BYTES, 1);
    const { timeoutMs } = cli.globals;
    const attach = { cluster: directory, paths: PATHS, readOnly: false, backend, timeoutMs };
    return await withImages(attach, async (images, world) => {
      const bench = new PausesBench(cli, program, directory, world, images);
      await bench.prepare(options.warmMs);
      const rows = await runPauses(bench, times);
      return {
        kind: "pauses",
        machine: machineNow(),
        version: cli.ports.versions["fastblock"] ?? "",
        osds: OSDS,
        replicas: REPLICAS,
        times,
        backend: world.backend,
        rows,
        bars: judgePauses(rows),
      };
    });
  });
}

interface PgAnswer {
  readonly pool: string;
  readonly leaderOsd: number | null;
}

class PausesBench implements PausesOutside {
  private readonly cli: CliContext;
  private readonly control: BenchControl;
  private readonly directory: string;
  private readonly world: World;
  private readonly images: readonly Image[];
  /** The osd that went last, and the images that both wrote to then. */
  private victim = "";
  private own = 0;
  private elsewhere = 0;

  constructor(
    cli: CliContext,
    program: readonly string[],
    directory: string,
    world: World,
    images: readonly Image[],
  ) {
    this.cli = cli;
    this.control = new BenchControl(cli, program, directory);
    this.directory = directory;
    this.world = world;
    this.images = images;
  }

  /** Write the images in full, and let the processes compile what they run often. */
  async prepare(warmMs: number): Promise<void> {
    this.say("filling the images, warming up");
    for (const rw of ["write", "randwrite"] as const) {
      const loads = this.images.map((image) => this.load(image, WARM_DEPTH, rw));
      for (const load of loads) load.start();
      await sleep(this.world.timers, (warmMs * 1000) / 2);
      for (const load of loads) await this.end(load);
    }
  }

  async during(event: PauseEvent): Promise<Pauses> {
    // Who comes back is met by those that it left.
    if (!event.endsWith("-back")) {
      await this.control.whole();
      await this.choose();
    }
    const loads = [this.own, this.elsewhere].map((at) => this.load(this.images[at]!, 1));
    for (const load of loads) load.start();
    await this.sleep(BEFORE_MS);
    for (const load of loads) load.resetWindow();
    await this.happen(event);
    await this.sleep(AFTER_MS);
    const [ownMs, elsewhereMs] = loads.map((load) => load.pauseUsNow() / 1000);
    for (const load of loads) await this.end(load);
    if (event === "mon") await this.control.up();
    return { ownMs: ownMs!, elsewhereMs: elsewhereMs! };
  }

  say(words: string): void {
    this.cli.say(words);
  }

  /** A group that an osd leads, and one that another one leads. */
  private async choose(): Promise<void> {
    await this.control.until("groups that two osds lead", async () => {
      const { items } = (await this.control.ask("/api/v1/pgs")) as { items: readonly PgAnswer[] };
      const leaders = POOLS.map((name) => items.find(({ pool }) => pool === name)?.leaderOsd);
      // By turns: each osd goes as often as the others.
      const own = (this.own + 1) % POOLS.length;
      const elsewhere = leaders.findIndex((leader) => leader !== leaders[own]);
      if (leaders.some((leader) => leader == null) || elsewhere < 0) return false;
      this.own = own;
      this.elsewhere = elsewhere;
      this.victim = `osd.${leaders[own]!}`;
      return true;
    });
  }

  private async happen(event: PauseEvent): Promise<void> {
    const victim = this.process(event === "mon" ? MON : this.victim);
    switch (event) {
      case "kill":
      case "mon":
        await this.kill(victim);
        return;
      case "stop":
        await stopOne(victim, this.directory);
        return;
      case "freeze":
        process.kill(runningPid(victim, this.directory), "SIGSTOP");
        await this.sleep(FREEZE_MS);
        process.kill(runningPid(victim, this.directory), "SIGCONT");
        return;
      case "kill-back":
      case "stop-back":
        await this.control.up();
        await this.control.whole();
    }
  }

  private async kill(victim: ReturnType<PausesBench["process"]>): Promise<void> {
    const pid = runningPid(victim, this.directory);
    process.kill(pid, "SIGKILL");
    await this.control.until(`${victim.name} to end`, () =>
      Promise.resolve(!existsSync(`/proc/${pid}/exe`)),
    );
  }

  private process(name: string): ReturnType<typeof readPlan>["processes"][number] {
    return readPlan(this.directory).processes.find((one) => one.name === name)!;
  }

  private load(image: Image, depth: number, rw: "write" | "randwrite" = "randwrite"): ImageLoad {
    const { arena, checksum, clock } = this.world;
    return new ImageLoad({ ...RUN_DEFAULT, image, arena, checksum, clock, depth, rw });
  }

  /** Throws FB1006, FB5001 or FB5002 when an operation failed. */
  private async end(load: ImageLoad): Promise<void> {
    load.stop();
    while (!load.isOver) await this.sleep(1);
    const failure = load.failures.statusTexts[0];
    if (failure !== undefined) throw loadError("measuring pauses", failure, load.failures);
  }

  private sleep(ms: number): Promise<void> {
    return sleep(this.world.timers, ms * 1000);
  }
}
