import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { toBinary } from "@bufbuild/protobuf";
import { silentLogger } from "../base/logger.ts";
import { uuidBytes } from "../base/uuid.ts";
import { Client, type Image } from "../client/client.ts";
import { ClusterMap } from "../cluster/cluster.ts";
import { MemoryMetaStore, Monitor } from "../mon/mon.ts";
import { Admission, MonSession, OsdShard } from "../osd/osd.ts";
import { formatStore } from "../pg/pg.ts";
import type { UringWorld } from "../reactor/uring-world.ts";
import { createUringWorld } from "../reactor/uring-world.ts";
import { sleep } from "../reactor/world.ts";
import { encodeStarts } from "../store/store.ts";
import { MapUpdateSchema } from "../../proto/gen/control_pb.ts";

const CLUSTER_ID = "11111111-2222-4333-8444-555555555555";
const HOST = "127.0.0.1";
const OSDS = 3;
const MIB = 1_048_576;
const ARENA_BYTES = 1024 * MIB;
const SLOTS_BYTES = 384 * MIB;
const OSD_BYTES = 512 * MIB;
/** More than a test writes: nothing is moved home while it counts. */
const LOG_BYTES = 128 * MIB;
const LOOK_US = 20_000;
const START_LOOKS_MAX = 1500;

/**
 * A cluster with real files and sockets in one thread: mon, three osds and a client on one reactor. All
 * that an operation costs anywhere is seen in one heap and one ring.
 */
export class RealCluster {
  readonly world: UringWorld;
  private readonly directory = mkdtempSync(join(tmpdir(), "fastblock-counts-"));
  private readonly key = new Uint8Array(32).fill(7);
  private readonly sessions: MonSession[] = [];
  private readonly shards: OsdShard[] = [];
  private readonly admissions: Admission[] = [];
  private monitor!: Monitor;
  private client!: Client;
  image!: Image;
  private error: Error | null = null;

  constructor() {
    this.world = createUringWorld({
      arenaBytes: ARENA_BYTES,
      slotsBytes: SLOTS_BYTES,
      logger: silentLogger,
      onFatal: (error) => this.fail(error),
    });
  }

  /** Format, start everything, make a pool and an image of so many bytes. */
  async start(imageBytes: number): Promise<void> {
    const { world } = this;
    world.start();
    this.monitor = this.newMonitor();
    const mon = { host: HOST, port: await this.monitor.start() };
    for (let osd = 0; osd < OSDS; osd++) await this.startOsd(osd, mon);
    const { osds } = this.monitor.catalogue.map;
    await this.until("osds", () => [...osds.values()].filter(({ up }) => up).length === OSDS);
    // One leader: how many there are, and where, decides what operations share.
    const pool = { name: "pool", size: OSDS, pgCount: 1, failureDomain: "osd" } as const;
    await this.monitor.pools.create(pool, false);
    await this.monitor.images.create("pool", "image", imageBytes, false);
    const { key } = this;
    this.client = new Client({
      world,
      name: "bench",
      clusterId: CLUSTER_ID,
      psk: key,
      mons: [mon],
    });
    await this.client.start();
    this.image = await this.client.openImage("pool/image");
  }

  async stop(): Promise<void> {
    await this.client.stop();
    for (const admission of this.admissions) admission.stop();
    for (const session of this.sessions) await session.stop();
    for (const shard of this.shards) await shard.stop();
    await this.monitor.stop();
    await this.world.stop();
    rmSync(this.directory, { recursive: true, force: true });
    if (this.error !== null) throw this.error;
  }

  async until(what: string, condition: () => boolean): Promise<void> {
    for (let look = 0; !condition(); look++) {
      if (this.error !== null) throw this.error;
      if (look > START_LOOKS_MAX) throw new Error(`waiting for ${what}: none, wanted it in 30 s`);
      await sleep(this.world.timers, LOOK_US);
    }
  }

  /** Until all blocks are home, and no log holds them. */
  async drained(): Promise<void> {
    await this.until("blocks at home", () =>
      this.shards.every((shard) => shard.pg.store.usage().overlayBlocks === 0),
    );
  }

  private fail(error: unknown): void {
    this.error ??= error instanceof Error ? error : new Error(String(error));
  }

  private newMonitor(): Monitor {
    const { world } = this;
    return new Monitor({
      world,
      logger: silentLogger,
      store: new MemoryMetaStore(world.timers),
      clusterId: CLUSTER_ID,
      clusterName: "counts",
      clusterKey: this.key,
      name: "mon.a",
      index: 0,
      mons: [],
      version: "test",
      control: { kind: "tcp", host: HOST, port: 0 },
      restored: false,
      scrub: false,
      formatTime: String,
      onFatal: (error) => this.fail(error),
    });
  }

  private async startOsd(osd: number, mon: { host: string; port: number }): Promise<void> {
    const { world, key } = this;
    const path = join(this.directory, `osd.${osd}`);
    const disk = world.disks.open(path, { createBytes: OSD_BYTES });
    const clusterId = uuidBytes(CLUSTER_ID);
    await formatStore({ world, disk, clusterId, osd, shardCount: 1, logBytes: LOG_BYTES });
    const shard = new OsdShard({
      ...{ world, logger: silentLogger, disk, clusterId: CLUSTER_ID, clusterKey: key, osd },
      ...{ shard: 0, shardCount: 1, bind: HOST, port: 0, peerStarts: [] },
      tuning: { moverStartPercent: 100, checkpointStartPercent: 100 },
      host: {
        onFatal: (error) => this.fail(error),
        onNews: () => this.sessions[osd]?.hasten(),
        onParked: () => {},
        onVerdict: (from, verdict) => this.admissions[osd]?.hearPeer(from, verdict),
        onPeerStart: () => {},
        onMapWanted: () => this.sessions[osd]?.wantMap(),
        onPeerMap: (update) => this.sessions[osd]?.hear(update),
      },
    });
    this.shards[osd] = shard;
    await shard.open();
    this.serve(osd, shard, shard.listen(), mon);
  }

  private serve(
    osd: number,
    shard: OsdShard,
    port: number,
    mon: { host: string; port: number },
  ): void {
    const { world, key } = this;
    const { storeUuid, incarnation, starts, formatVersion } = shard.identity;
    const store = { starts: encodeStarts(starts), asking: true };
    const admission = new Admission(world, shard.identity, {
      record: (made) => shard.recordStarts(made),
      serve: (made) => {
        store.starts = encodeStarts(made);
        store.asking = false;
        shard.serve(made);
        session.tellStarts();
      },
      alone: () => shard.serveClients(),
      refuse: (error) => this.fail(error),
    });
    const session = new MonSession({
      ...{ world, logger: silentLogger, clusterId: CLUSTER_ID, clusterKey: key, bind: HOST },
      mons: [mon],
      identity: {
        ...{ osd, storeUuid, incarnation, hostName: `host-${osd}`, version: "test" },
        ...{ addresses: [{ host: HOST, port }], capacityBytes: OSD_BYTES, backend: "uring" },
      },
      map: new ClusterMap(),
      store,
      formats: {
        range: shard.options.formats ?? { min: formatVersion, max: formatVersion },
        wanted: formatVersion,
      },
      host: {
        onMap: (update) => void shard.onMap(toBinary(MapUpdateSchema, update)),
        askPeer: () => shard.askPeer(),
        collect: (complete) => Promise.resolve([shard.report(complete)]),
        transferLeader: (pg, to) => shard.transferLeader(pg, to),
        scrub: (pg, order, isDeep) => shard.scrub(pg, order, isDeep),
        trace: (order) => shard.trace(order),
        onRefused: (error) => this.fail(error),
        onVerdict: (verdict) => admission.hearMonitor(verdict),
      },
    });
    this.sessions[osd] = session;
    this.admissions[osd] = admission;
    admission.begin([]);
    session.start();
  }
}
