import { FastblockError } from "../core/base/errors.ts";
import type { BenchOutside, BenchProgress } from "../core/bench/bench.ts";
import { BunMeter } from "../core/bench/bun-meter.ts";
import type { Image } from "../core/client/client.ts";
import type { RunnableWorld } from "../core/reactor/reactor.ts";
import { readClusterFile } from "./daemon.ts";

/** An answer that is longer away is none. */
const ANSWER_MS_MAX = 30_000;

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

/** Ask a mon's REST at `http`. Throws FB1003 when it refuses. */
export async function askMon(http: string, path: string): Promise<Response> {
  const reply = await fetch(http + path, { signal: AbortSignal.timeout(ANSWER_MS_MAX) });
  if (reply.ok) return reply;
  const message = `asking the mon: ${path} answered ${reply.status}, wanted 200`;
  throw new FastblockError("FB1003", message);
}
