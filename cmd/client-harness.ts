import { silentLogger } from "../core/base/logger.ts";
import { Client, type Image } from "../core/client/client.ts";
import { createBunWorld } from "../core/reactor/bun-world.ts";
import type { RunnableWorld } from "../core/reactor/reactor.ts";
import type { Network, World } from "../core/reactor/world.ts";
import { readClusterFile, readKeyFile } from "./daemon.ts";
import type { TestCluster } from "./e2e-harness.ts";

const ARENA_BYTES = 256 * 1_048_576;

/** A world whose connections to some ports lead elsewhere. */
function rerouted(world: World, ports: ReadonlyMap<number, number>): World {
  const { arena, slots, clock, random, timers, turns, disks, checksum, ciphers, logger } = world;
  const { backend, trace } = world;
  const network: Network = {
    listen: (address, acceptor, options) => world.network.listen(address, acceptor, options),
    connect: (target, handler, options) => {
      const port = target.kind === "tcp" ? ports.get(target.port) : undefined;
      const way = port === undefined ? target : { kind: "tcp" as const, host: "127.0.0.1", port };
      return world.network.connect(way, handler, options);
    },
  };
  const fail = (error: unknown): void => world.fail(error);
  return {
    ...{ arena, slots, clock, random, timers, turns, disks, network, checksum, logger, backend },
    ciphers,
    trace,
    fail,
  };
}

/** A client in this process, which reaches some ports of the cluster by another way. */
export class TestClient {
  readonly world: RunnableWorld = createBunWorld({ arenaBytes: ARENA_BYTES, logger: silentLogger });
  readonly client: Client;

  constructor(cluster: TestCluster, name: string, ports: ReadonlyMap<number, number>) {
    const file = readClusterFile(cluster.directory);
    this.client = new Client({
      world: rerouted(this.world, ports),
      name,
      clusterId: file.clusterId,
      psk: readKeyFile(cluster.directory),
      mons: file.mons.map(({ control }) => control),
    });
  }

  async open(image: string): Promise<Image> {
    this.world.holdGuest();
    this.world.start();
    await this.client.start();
    return this.client.openImage(image);
  }

  async stop(): Promise<void> {
    await this.client.stop();
    await this.world.stop();
  }
}
