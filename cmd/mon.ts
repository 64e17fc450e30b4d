import { join } from "node:path";
import { heapStats } from "bun:jsc";
import { FastblockError } from "../core/base/errors.ts";
import type { MonRunOptions } from "../core/cli/cli.ts";
import { openBunSqlite } from "../core/mon/bun-sqlite.ts";
import { createApi, Monitor } from "../core/mon/mon.ts";
import page from "../web/status.html" with { type: "text" };
import { collectAtRest, GrownHeap, startCollector } from "./collector.ts";
import { type Daemon, serveAs } from "./daemon.ts";
import { directoryAt } from "./data-path.ts";
import { createWorld } from "./world.ts";

const MIB = 1_048_576;
/** Address space only: what connections do not touch costs nothing. */
const ARENA_BYTES = 1024 * MIB;
const SLOTS_BYTES = 4 * MIB;
/**
 * No bound: what REST takes is bounded there, before it is read, and the refusal is REST's own. The
 * server's would have no body.
 */
const HTTP_BODY_BYTES_MAX = Number.MAX_SAFE_INTEGER;
/** A waiting `operations/{id}?waitMs=` must not be cut off. */
const HTTP_IDLE_S = 60;

/** Run a mon: control RPC, REST, and the catalogue below `--data`. */
export function monRun(options: MonRunOptions): Promise<"serving"> {
  return serveAs(options, (daemon) => serveMon(daemon, options));
}

async function serveMon(daemon: Daemon, options: MonRunOptions): Promise<void> {
  const { cluster, logger, key } = daemon;
  const data = directoryAt(options.data, `starting ${options.name}`);
  const index = cluster.mons.findIndex((mon) => mon.name === options.name);
  if (index < 0) {
    const names = cluster.mons.map((mon) => mon.name).join(", ");
    throw new FastblockError("FB1001", `the cluster has no mon ${options.name}, wanted ${names}`);
  }
  // The runtime's own loop: a mon has hardly any I/O, and HTTP lives there anyway.
  const world = createWorld({
    arenaBytes: ARENA_BYTES,
    slotsBytes: SLOTS_BYTES,
    logger,
    prefer: "file",
    onFatal: (error) => daemon.fail(error),
  });
  world.start();
  startCollector(world);
  collectAtRest(world, new GrownHeap("all"));
  const store = openBunSqlite(join(data, "catalogue.db"));
  const monitor = new Monitor({
    world,
    logger,
    store,
    clusterId: cluster.clusterId,
    clusterName: cluster.name,
    clusterKey: key,
    name: options.name,
    index,
    mons: cluster.mons,
    version: "0.1.0",
    control: { kind: "tcp", host: options.bind, port: options.controlPort },
    encrypt: options.encrypt,
    restored: options.restored,
    scrub: options.scrub,
    formatTime: (ms) => new Date(ms).toISOString(),
    onFatal: (error) => daemon.fail(error),
  });
  daemon.onStop(async () => {
    await monitor.stop();
    await world.stop();
    await store.close();
  });
  const controlPort = await monitor.start();
  // The import's type is that of a page for the bundler; as text it is a string.
  const text = page as unknown as string;
  const api = createApi({ monitor, page: text, usage: processUsage });
  const server = listenHttp(loopbackOf(options.bind), options.httpPort, (request) =>
    api.fetch(request),
  );
  daemon.onStop(() => server.stop(true));
  daemon.ready({ control: controlPort, http: server.port ?? options.httpPort });
}

/** Serve HTTP. Throws FB4005 when the port is taken. */
function listenHttp(
  hostname: string,
  port: number,
  answer: (request: Request) => Promise<Response>,
): ReturnType<typeof Bun.serve> {
  try {
    return Bun.serve({
      hostname,
      port,
      maxRequestBodySize: HTTP_BODY_BYTES_MAX,
      idleTimeout: HTTP_IDLE_S,
      development: false,
      fetch: answer,
    });
  } catch (error) {
    const isTaken = error instanceof Error && "code" in error && error.code === "EADDRINUSE";
    const why = isTaken ? "address in use" : String(error);
    throw new FastblockError("FB4005", `listening on ${hostname}:${port} for HTTP: ${why}`, {
      hint: "stop the process that listens there, or choose another port",
    });
  }
}

/** HTTP has no login yet: it never listens beyond this machine. */
function loopbackOf(bind: string): string {
  return bind.startsWith("127.") || bind === "::1" ? bind : "127.0.0.1";
}

function processUsage(): { cpuSeconds: number; residentBytes: number; heapBytes: number } {
  const { user, system } = process.cpuUsage();
  return {
    cpuSeconds: (user + system) / 1e6,
    residentBytes: process.memoryUsage.rss(),
    heapBytes: heapStats().heapSize,
  };
}
