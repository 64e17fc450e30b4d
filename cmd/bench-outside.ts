import type { BenchOutside, BenchProgress } from "../core/bench/bench.ts";
import { BunMeter } from "../core/bench/bun-meter.ts";
import type { Image } from "../core/client/client.ts";
import type { RunnableWorld } from "../core/reactor/reactor.ts";
import { readClusterFile } from "./daemon.ts";

/** What loads on an image of the cluster in `directory` run in, all on one back end and unlogged. */
export function benchOutside(
  directory: string,
  world: RunnableWorld,
  image: Image,
  progress: BenchProgress,
): BenchOutside {
  const meter = new BunMeter(directory, monUrl(directory), () => world.stats.systemCalls);
  return { world, image, meter, backend: world.backend, progress, log: null };
}

/** Where REST of the cluster's mon is; empty when the cluster file names none. */
export function monUrl(directory: string): string {
  const mon = readClusterFile(directory).mons[0];
  return mon === undefined ? "" : `http://${mon.http.host}:${mon.http.port}`;
}
