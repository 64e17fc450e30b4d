import { readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { FastblockError } from "../core/base/errors.ts";
import type { NbdServeOptions } from "../core/cli/cli.ts";
import { Client, type MapCache } from "../core/client/client.ts";
import { ImageExports, NbdServer } from "../core/gateway/nbd/nbd.ts";
import { startCollector } from "./collector.ts";
import { type Daemon, serveAs } from "./daemon.ts";
import { directoryAt } from "./data-path.ts";
import { createWorld } from "./world.ts";

const MIB = 1_048_576;
/** Address space: stream buffers of 256 connections and of the links to osds, and the slots. */
const ARENA_BYTES = 3072 * MIB;
const SLOTS_BYTES = 256 * MIB;
const START_MS = 10_000;

/** Serve images over NBD: one reactor on this thread, no Worker. */
export function nbdServe(options: NbdServeOptions): Promise<"serving"> {
  return serveAs(options, (daemon) => serveNbd(daemon, options));
}

async function serveNbd(daemon: Daemon, options: NbdServeOptions): Promise<void> {
  const { cluster, logger } = daemon;
  const world = createWorld({
    arenaBytes: ARENA_BYTES,
    slotsBytes: SLOTS_BYTES,
    logger,
    prefer: options.backend,
    onFatal: (error) => daemon.fail(error),
  });
  world.start();
  startCollector(world);
  const client = new Client({
    world,
    name: options.name,
    clusterId: cluster.clusterId,
    psk: daemon.key,
    mons: cluster.mons.map(({ control }) => control),
    bind: options.bind,
    encrypt: options.encrypt,
    cache: fileCache(join(keptAt(daemon, options), `${options.name}.map`)),
  });
  const exports = new ImageExports({
    client,
    exclusive: options.exclusive,
    readOnly: options.readOnly,
    names: options.exports,
  });
  const server = new NbdServer(world, exports);
  const bound = server.listen({ kind: "tcp", host: options.bind, port: options.port });
  if (options.socket !== "") {
    // Left over from a killed process: the name is ours.
    rmSync(options.socket, { force: true });
    server.listen({ kind: "unix", path: options.socket });
  }
  daemon.onStop(async () => {
    await server.stop();
    await client.stop();
    await world.stop();
    if (options.socket !== "") rmSync(options.socket, { force: true });
  });
  await connect(client, daemon);
  await checkExports(client, options, daemon);
  const port = bound.kind === "tcp" ? bound.port : options.port;
  daemon.ready({ nbd: port, ...(options.socket === "" ? {} : { unix: options.socket }) });
}

/** Where the gateway keeps its last map. Throws FB1008. */
function keptAt({ directory }: Daemon, { data, name }: NbdServeOptions): string {
  return data === "" ? directory : directoryAt(data, `starting ${name}`);
}

/** Without a mon and a kept map there is nothing to serve: wait for one, and say so. */
async function connect(client: Client, daemon: Daemon): Promise<void> {
  for (;;) {
    try {
      await client.start(START_MS);
      return;
    } catch (error) {
      if (!(error instanceof FastblockError) || error.code !== "FB1004") throw error;
      daemon.logger.warn("waiting for a mon", { reason: error.message });
    }
  }
}

/** A name that no image has is a mistake in the command. Throws FB3001. */
async function checkExports(
  client: Client,
  { exports, name }: NbdServeOptions,
  daemon: Daemon,
): Promise<void> {
  if (exports.length === 0) return;
  let known: readonly string[];
  try {
    known = await client.listImages(START_MS);
  } catch (error) {
    const code = error instanceof FastblockError ? error.code : "";
    if (code !== "FB1004" && code !== "FB1006") throw error;
    daemon.logger.warn("names of exports are not checked: the mon does not answer");
    return;
  }
  const missing = exports.filter((path) => !known.includes(path));
  if (missing.length === 0) return;
  throw new FastblockError("FB3001", `starting ${name}: no image is named ${missing.join(", ")}`);
}

/** The last map as a file: old or new, never a part. */
function fileCache(path: string): MapCache {
  return {
    load() {
      try {
        return readFileSync(path);
      } catch {
        return null;
      }
    },
    save(bytes) {
      const temporary = `${path}.new`;
      writeFileSync(temporary, bytes);
      renameSync(temporary, path);
    },
  };
}
