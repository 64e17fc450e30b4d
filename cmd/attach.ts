import type { AttachOptions } from "../core/cli/cli.ts";
import { Client, type Image } from "../core/client/client.ts";
import type { RunnableWorld } from "../core/reactor/reactor.ts";
import { readClusterFile, readKeyFile } from "./daemon.ts";
import { terminalLogger } from "./terminal-logger.ts";
import { createWorld } from "./world.ts";

/** The open images of a command: its reactor, its client. */
const ARENA_BYTES = 1024 * 1_048_576;

/** Open images of a cluster, run `body`, close them whatever comes of it. */
export async function withImages<T>(
  options: AttachOptions,
  body: (images: readonly Image[], world: RunnableWorld) => Promise<T>,
): Promise<T> {
  const cluster = readClusterFile(options.cluster);
  const world = createWorld({
    arenaBytes: ARENA_BYTES,
    logger: terminalLogger("error"),
    prefer: options.backend,
  });
  world.start();
  const client = new Client({
    world,
    name: `cli.${process.pid}`,
    clusterId: cluster.clusterId,
    psk: readKeyFile(options.cluster),
    mons: cluster.mons.map(({ control }) => control),
    encrypt: options.encrypt === true,
  });
  return await guest(world, async () => {
    try {
      await client.start();
      const images: Image[] = [];
      for (const path of options.paths) {
        const { readOnly, timeoutMs } = options;
        images.push(await client.openImage(path, { readOnly, timeoutMs }));
      }
      return await body(images, world);
    } finally {
      await client.stop();
      await world.stop();
    }
  });
}

/** The runtime's own timers and requests get their turns while `body` runs. */
async function guest<T>(world: RunnableWorld, body: () => Promise<T>): Promise<T> {
  world.holdGuest();
  try {
    return await body();
  } finally {
    world.releaseGuest();
  }
}
