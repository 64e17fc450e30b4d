// cold: the simulator
import { toBinary } from "@bufbuild/protobuf";
import { assert } from "../base/assert.ts";
import type { Checksum } from "../base/checksum.ts";
import type { Logger } from "../base/logger.ts";
import type { Prng } from "../base/prng.ts";
import { Client } from "../client/client.ts";
import { ClusterMap } from "../cluster/cluster.ts";
import { MemoryMetaStore, Monitor } from "../mon/mon.ts";
import { MonSession, OsdShard, type ShardReport } from "../osd/osd.ts";
import { formatStore } from "../pg/pg.ts";
import { Simulation, type SimWorld } from "../reactor/reactor.ts";
import { uuidBytes } from "../rpc/rpc.ts";
import { MapUpdateSchema } from "../../proto/gen/control_pb.ts";

/**
 * A whole cluster in one thread: monitor, osds and a client, each a simulated process.
 *
 * All of it is production code; only the worlds are simulated. A process that crashes loses its
 * memory and what its device had not made stable; started again it runs the same path as on a real
 * machine: open the store, replay the log, register, serve.
 */

const CLUSTER_ID = "11111111-2222-4333-8444-555555555555";
const MON_ADDRESS = "10.0.0.100";
const CLIENT_ADDRESS = "10.0.0.200";
const CONTROL_PORT = 7400;
const DATA_PORT = 7500;
const ARENA_BYTES = 192 * 1_048_576;
const DEVICE_BYTES = 512 * 1_048_576;
const LOG_BYTES = 96 * 1_048_576;
/** How long, in simulated time, a step of the set-up may take. */
const STEP_LIMIT_US = 60_000_000;

export interface SimClusterOptions {
  readonly osds: number;
  readonly replicas: number;
  readonly pgCount: number;
  readonly imageBytes: number;
  readonly checksum: Checksum;
  readonly logger?: Logger;
  readonly drainMicrotasks: () => void;
}

/** One osd of the simulated cluster. */
export interface SimOsd {
  readonly id: number;
  readonly address: string;
  readonly path: string;
  world: SimWorld | null;
  shard: OsdShard | null;
  session: MonSession | null;
}

export class SimCluster {
  readonly simulation: Simulation;
  readonly osds: SimOsd[] = [];
  readonly random: Prng;
  readonly client: Client;
  readonly clientWorld: SimWorld;
  private readonly options: SimClusterOptions;
  private readonly key = new Uint8Array(32).fill(7);
  private readonly monitor: Monitor;

  constructor(seed: number, options: SimClusterOptions) {
    this.options = options;
    this.simulation = new Simulation(seed, {
      drainMicrotasks: options.drainMicrotasks,
      checksum: options.checksum,
      arenaBytes: ARENA_BYTES,
      ...(options.logger === undefined ? {} : { logger: options.logger }),
    });
    this.random = this.simulation.newRandom(1);
    for (let id = 0; id < options.osds; id++) {
      const address = `10.0.0.${String(id + 1)}`;
      this.osds.push({
        id,
        address,
        path: `/osd.${String(id)}`,
        world: null,
        shard: null,
        session: null,
      });
    }
    const monWorld = this.simulation.createWorld("mon.a", MON_ADDRESS);
    this.monitor = new Monitor({
      world: monWorld,
      logger: monWorld.logger,
      store: new MemoryMetaStore(monWorld.timers),
      clusterId: CLUSTER_ID,
      clusterName: "sim",
      clusterKey: this.key,
      name: "mon.a",
      index: 0,
      monCount: 1,
      version: "sim",
      control: { kind: "tcp", host: MON_ADDRESS, port: CONTROL_PORT },
      restored: false,
      formatTime: String,
      onFatal: (error) => {
        throw error;
      },
    });
    monWorld.start();
    this.clientWorld = this.simulation.createWorld("client", CLIENT_ADDRESS);
    this.client = new Client({
      world: this.clientWorld,
      name: "client",
      clusterId: CLUSTER_ID,
      psk: this.key,
      mons: [{ host: MON_ADDRESS, port: CONTROL_PORT }],
      bind: CLIENT_ADDRESS,
    });
    this.clientWorld.start();
  }

  /** Let simulated time pass until the promise settles. */
  await<Value>(what: string, promise: Promise<Value>): Value {
    let outcome: { value: Value } | { error: unknown } | undefined;
    promise.then(
      (value) => {
        outcome = { value };
      },
      (error: unknown) => {
        outcome = { error };
      },
    );
    const done = this.simulation.run(() => outcome !== undefined, STEP_LIMIT_US);
    assert(done && outcome !== undefined, `SimCluster: ${what} did not end in time`);
    if ("error" in outcome) throw outcome.error;
    return outcome.value;
  }

  /** Format, start everything, make a pool and an image. */
  start(): void {
    this.await("monitor start", this.monitor.start());
    for (const osd of this.osds) this.await("format", this.format(osd));
    for (const osd of this.osds) this.startOsd(osd);
    this.simulation.run(
      () =>
        [...this.monitor.catalogue.map.osds.values()].filter((one) => one.up).length ===
        this.osds.length,
      STEP_LIMIT_US,
    );
    this.await(
      "pool create",
      this.monitor.pools.create(
        {
          name: "pool",
          size: this.options.replicas,
          pgCount: this.options.pgCount,
          failureDomain: "osd",
        },
        false,
      ),
    );
    this.await(
      "image create",
      this.monitor.images.create("pool", "image", this.options.imageBytes, false),
    );
    this.await("client start", this.client.start());
  }

  private async format(osd: SimOsd): Promise<void> {
    const world = this.simulation.createWorld(`osd.${String(osd.id)}`, osd.address);
    world.start();
    const disk = world.disks.open(osd.path, { createBytes: DEVICE_BYTES });
    await formatStore({
      world,
      disk,
      clusterId: uuidBytes(CLUSTER_ID),
      osd: osd.id,
      shardCount: 1,
      logBytes: LOG_BYTES,
    });
    disk.close();
    await world.stop();
  }

  /** Start (again) the process of an osd; it serves some time later. */
  startOsd(osd: SimOsd): void {
    assert(osd.world === null || !osd.world.alive, "SimCluster.startOsd: it runs");
    const world = this.simulation.createWorld(`osd.${String(osd.id)}`, osd.address);
    osd.world = world;
    const disk = world.disks.open(osd.path, {});
    const shard = new OsdShard({
      world,
      logger: world.logger,
      disk,
      clusterId: CLUSTER_ID,
      clusterKey: this.key,
      osd: osd.id,
      shard: 0,
      shardCount: 1,
      bind: osd.address,
      port: DATA_PORT,
      host: {
        onFatal: (reason) => {
          throw new Error(reason);
        },
      },
    });
    osd.shard = shard;
    world.start();
    shard.open().then(
      () => {
        if (world.alive) this.serve(osd, world, shard);
      },
      (error: unknown) => this.simulation.fail(world.name, error),
    );
  }

  private serve(osd: SimOsd, world: SimWorld, shard: OsdShard): void {
    const port = shard.listen();
    const map = new ClusterMap();
    osd.session = new MonSession({
      world,
      logger: world.logger,
      clusterId: CLUSTER_ID,
      clusterKey: this.key,
      bind: osd.address,
      mons: [{ host: MON_ADDRESS, port: CONTROL_PORT }],
      identity: {
        osd: osd.id,
        storeUuid: shard.identity.storeUuid,
        incarnation: shard.identity.incarnation,
        hostName: `host-${String(osd.id)}`,
        addresses: [{ host: osd.address, port }],
        capacityBytes: DEVICE_BYTES,
        version: "sim",
        backend: "memory",
      },
      map,
      host: {
        onMap: (update) => {
          shard.onMap(toBinary(MapUpdateSchema, update));
        },
        collect: (complete): Promise<readonly ShardReport[]> =>
          Promise.resolve([shard.report(complete)]),
        transferLeader: (pg, to) => shard.transferLeader(pg, to),
        onRefused: (error) => this.simulation.fail(world.name, error),
      },
    });
    osd.session.start();
  }

  /** Whether every group has a leader that serves. */
  get serving(): boolean {
    const groups = new Set<number>();
    for (const osd of this.osds) {
      if (osd.world?.alive !== true || osd.shard === null) continue;
      for (const group of osd.shard.pg.groups.values()) if (group.serving) groups.add(group.pg);
    }
    return groups.size === this.options.pgCount;
  }

  /** No two replicas of a group believe to lead in one term (election safety). */
  checkLeaders(leaders: Map<string, number>): void {
    for (const osd of this.osds) {
      if (osd.world?.alive !== true || osd.shard === null) continue;
      for (const group of osd.shard.pg.groups.values()) {
        if (!group.isLeader) continue;
        const key = `${String(group.pg)}/${String(group.node.term)}`;
        const before = leaders.get(key);
        assert(
          before === undefined || before === osd.id,
          `two leaders of group ${key}: osd.${String(before)} and osd.${String(osd.id)}`,
        );
        leaders.set(key, osd.id);
      }
    }
  }
}
