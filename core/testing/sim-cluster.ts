// cold: the simulator
import { toBinary } from "@bufbuild/protobuf";
import { assert } from "../base/assert.ts";
import type { Checksum } from "../base/checksum.ts";
import type { Ciphers } from "../base/cipher.ts";
import { FastblockError } from "../base/errors.ts";
import { FORMATS, type FormatRange } from "../base/formats.ts";
import { formatPgId, type OsdId, type PgId } from "../base/ids.ts";
import type { Logger } from "../base/logger.ts";
import type { Prng } from "../base/prng.ts";
import { Client } from "../client/client.ts";
import { ClusterMap, type PgInfo } from "../cluster/cluster.ts";
import { MemoryMetaStore, Monitor } from "../mon/mon.ts";
import { Admission, MonSession, OsdShard, type ShardReport } from "../osd/osd.ts";
import {
  formatStore,
  type Group,
  type GroupLimits,
  type StoreClaim,
  type StoreStart,
  type StoreTuning,
} from "../pg/pg.ts";
import { type LoggedError, type SimMemory, Simulation, type SimWorld } from "../reactor/reactor.ts";
import type { Disk } from "../reactor/world.ts";
import type { StoreCredentials } from "../rpc/rpc.ts";
import { encodeStarts } from "../store/store.ts";
import { SESSIONS_FEW } from "./sim-tunables.ts";
import { uuidBytes } from "../base/uuid.ts";
import { MapUpdateSchema } from "../../proto/gen/control_pb.ts";

/**
 * A whole cluster in one thread: monitor, osds and a client, each a simulated process.
 *
 * All of it is production code; only the worlds are simulated. A process that crashes loses its
 * memory and what its device had not made stable; started again it runs the same path as on a real
 * machine: open the store, replay the log, register, serve.
 */

const CLUSTER_ID = "11111111-2222-4333-8444-555555555555";
export const MON_ADDRESS = "10.0.0.100";
const CLIENT_NET = "10.0.0.";
const CLIENT_HOST = 200;
const CONTROL_PORT = 7400;
export const DATA_PORT = 7500;
const MIB = 1_048_576;
const ARENA_BYTES = 192 * MIB;
/** Of an osd, for payloads: for each of its shards, and at least. */
const SHARD_SLOTS_BYTES = 48 * MIB;
const SLOTS_BYTES_MIN = 96 * MIB;
/** What a shard's store has for itself, and the two buffers of a connection. */
const STORE_BYTES = 7 * MIB;
const STREAM_BYTES = 2 * MIB;
/** Connections of an osd: to any shard of so many others, there and back; of clients, to each shard. */
const OTHERS_MAX = 7;
const CLIENTS_MAX = 8;
const TOOL_ARENA_BYTES = 32 * MIB;
const DEVICE_BYTES = 512 * MIB;
const LOG_BYTES_DEFAULT = 96 * MIB;
/** How long, in simulated time, a step of the set-up may take. */
const STEP_LIMIT_US = 60_000_000;

export interface SimClusterOptions {
  readonly osds: number;
  readonly replicas: number;
  readonly pgCount: number;
  readonly imageBytes: number;
  /** Shards of each osd: all in one process, each with a store and a port of its own. Default 1. */
  readonly shards?: number;
  /** Client processes. Default 1. */
  readonly clients?: number;
  /** Of the pool. Default: as for any pool. */
  readonly objectBytes?: number;
  /** Of each osd. Default 512 MiB. */
  readonly deviceBytes?: number;
  /** Log of each osd. Default 96 MiB, more than a run fills. */
  readonly logBytes?: number;
  readonly tuning?: Partial<StoreTuning>;
  /** What each shard has for rows of its index. Default: all are in memory. */
  readonly indexBytes?: number;
  /** Of the osds' groups, other than the defaults. */
  readonly limits?: Partial<GroupLimits>;
  /** Memory of an osd for payloads. Default: 96 MiB, or 48 MiB a shard. */
  readonly slotsBytes?: number;
  /** Between two looks for quiet groups. Default as in an osd. */
  readonly parkLookUs?: number;
  readonly checksum: Checksum;
  /** With them the mon and every second osd want their connections encrypted. Default: nobody does. */
  readonly ciphers?: Ciphers;
  readonly logger?: Logger;
  /** Faults are planted that must be logged as errors. */
  readonly errorsAllowed?: boolean;
  readonly drainMicrotasks: () => void;
  /** Where processes get their memory, and leave it. */
  readonly memory?: SimMemory;
  /** Clocks of machines run up to this share fast or slow. Default 0. */
  readonly clockDriftShare?: number;
  /** Of a message that is logged as an error: whether a fault that was planted explains it. */
  readonly isExcused?: (logged: LoggedError) => boolean;
  /** Formats that a program knows, each time a process of it starts. Default: as this one. */
  readonly formatsOf?: (who: "mon" | "osd" | "client") => FormatRange;
  /** Sees the world of each process before anything runs in it. */
  readonly onWorld?: (world: SimWorld) => void;
  /** Hears of an osd that ended because it was refused. Default: that fails the simulation. */
  readonly onRefused?: (osd: SimOsd, error: unknown) => void;
}

/** One osd of the simulated cluster. */
export interface SimOsd {
  readonly id: number;
  /** Of the program that it runs. */
  formats: FormatRange;
  /** Of the machine that its disk is in. */
  address: string;
  /** Its device: another one once the disk was replaced. */
  path: string;
  /** Its shards have its ports in turn, from this one on. */
  portTurn: number;
  world: SimWorld | null;
  /** Its first shard, and all of them; null and none before the first start. */
  shard: OsdShard | null;
  shards: readonly OsdShard[];
  session: MonSession | null;
  /** What decides whether its store may serve, and what it keeps of its peers' stores. */
  admission: Admission | null;
  readonly peerStarts: Map<string, StoreStart>;
}

function slotsBytesOf(shards: number): number {
  return Math.max(SLOTS_BYTES_MIN, shards * SHARD_SLOTS_BYTES);
}

/**
 * Memory of an osd's process: here all shards share it, so their connections grow with the square of
 * them. One for which there is none is never made, and its groups wait for ever.
 */
function arenaBytesOf(shards: number): number {
  const streams = 2 * OTHERS_MAX * shards * shards + CLIENTS_MAX * shards + 1;
  const wanted = slotsBytesOf(shards) + shards * STORE_BYTES + streams * STREAM_BYTES;
  return Math.max(ARENA_BYTES, wanted);
}

function newOsd(id: number): SimOsd {
  return {
    id,
    formats: FORMATS,
    address: `10.0.0.${String(id + 1)}`,
    path: `/osd.${String(id)}`,
    portTurn: 0,
    world: null,
    shard: null,
    shards: [],
    session: null,
    admission: null,
    peerStarts: new Map(),
  };
}

/** One client process. */
export interface SimClient {
  readonly client: Client;
  readonly world: SimWorld;
}

/** Whether an osd runs and has opened its stores: what is seen of its groups is so. */
export function isServing(osd: SimOsd): boolean {
  return osd.world?.alive === true && osd.session !== null;
}

/** The groups of all shards of an osd; those that are parked wake. */
export function groupsOf(osd: SimOsd): Group[] {
  return osd.shards.flatMap((shard) => shard.pg.groups.values());
}

/** The groups of all shards of an osd that are awake: for looks that are to change nothing. */
export function awakeOf(osd: SimOsd): Group[] {
  return osd.shards.flatMap((shard) => shard.pg.groups.awake());
}

export class SimCluster {
  readonly simulation: Simulation;
  readonly osds: SimOsd[] = [];
  readonly random: Prng;
  readonly clients: SimClient[] = [];
  private readonly options: SimClusterOptions;
  private readonly key = new Uint8Array(32).fill(7);
  private catalogueStore: MemoryMetaStore;
  monitor: Monitor;
  monWorld: SimWorld;
  /** What is in the catalogue comes from a backup; a monitor that starts is told so. */
  private isRestored = false;
  /** Of the monitor that has what is in the catalogue. */
  private servingWorld: SimWorld | null = null;
  /** Who asked the monitor for something: told when it dies. */
  private readonly askers = new Set<(error: Error) => void>();
  /**
   * An osd can not go on: true when a fault that was planted explains it; it is taken down then, as
   * a process that ends.
   */
  onFatal: (osd: SimOsd, error: unknown) => boolean = () => false;
  /** The process of an osd is about to start. */
  onStarting: (osd: SimOsd) => void = () => {};
  /** An osd has opened its stores, and heard of nobody yet. */
  onOpened: (osd: SimOsd) => void = () => {};

  constructor(seed: number, options: SimClusterOptions) {
    this.options = options;
    this.simulation = new Simulation(seed, {
      drainMicrotasks: options.drainMicrotasks,
      checksum: options.checksum,
      arenaBytes: ARENA_BYTES,
      errorsAllowed: options.errorsAllowed === true,
      clockDriftShare: options.clockDriftShare ?? 0,
      ...(options.ciphers === undefined ? {} : { ciphers: options.ciphers }),
      ...(options.memory === undefined ? {} : { memory: options.memory }),
      ...(options.isExcused === undefined ? {} : { isExcused: options.isExcused }),
      ...(options.logger === undefined ? {} : { logger: options.logger }),
    });
    this.random = this.simulation.newRandom(1);
    for (let id = 0; id < options.osds; id++) this.osds.push(newOsd(id));
    this.monWorld = this.newMonWorld();
    this.catalogueStore = new MemoryMetaStore(this.monWorld.timers);
    this.monitor = this.newMonitor();
    this.monWorld.start();
    for (let at = 0; at < (options.clients ?? 1); at++) this.clients.push(this.newClient(at));
  }

  private newMonWorld(): SimWorld {
    const world = this.simulation.createWorld("mon.a", MON_ADDRESS);
    this.options.onWorld?.(world);
    return world;
  }

  /** Every second osd wants it: the others, and clients, follow. */
  private wantsEncryption({ id }: SimOsd): boolean {
    return this.options.ciphers !== undefined && id % 2 === 0;
  }

  private formatsOf(who: "mon" | "osd" | "client"): FormatRange {
    return this.options.formatsOf?.(who) ?? FORMATS;
  }

  private newMonitor(): Monitor {
    const { monWorld } = this;
    return new Monitor({
      world: monWorld,
      logger: monWorld.logger,
      store: this.catalogueStore,
      clusterId: CLUSTER_ID,
      clusterName: "sim",
      clusterKey: this.key,
      name: "mon.a",
      index: 0,
      mons: [],
      version: "sim",
      formats: this.formatsOf("mon"),
      control: { kind: "tcp", host: MON_ADDRESS, port: CONTROL_PORT },
      encrypt: this.options.ciphers !== undefined,
      restored: this.isRestored,
      formatTime: String,
      onFatal: (error) => {
        throw error;
      },
    });
  }

  /** Stop the monitor; another one takes its place, with what is in the catalogue, or in a backup. */
  restartMonitor(backup?: MemoryMetaStore): void {
    this.await("monitor stop", this.monitor.stop());
    if (backup !== undefined) this.catalogueStore = backup;
    this.isRestored = backup !== undefined;
    this.monitor = this.newMonitor();
    this.await("monitor start", this.monitor.start());
    this.isRestored = false;
  }

  /** The monitor's process dies; `startMonitor` starts another one. What it knew can be asked until then. */
  crashMonitor(): void {
    this.monWorld.crash();
    const error = new FastblockError("FB1003", "asking the monitor: it died");
    for (const fail of this.askers) fail(error);
    this.askers.clear();
  }

  /** Start a monitor with what is in the catalogue, after `crashMonitor`. */
  startMonitor(): void {
    assert(!this.monWorld.alive, "SimCluster.startMonitor: it runs");
    this.monWorld = this.newMonWorld();
    this.catalogueStore = this.catalogueStore.reopen(this.monWorld.timers);
    const monitor = this.newMonitor();
    this.monWorld.start();
    const { monWorld } = this;
    monitor.start().then(
      () => {
        if (!monWorld.alive) return;
        this.monitor = monitor;
        this.servingWorld = monWorld;
        this.isRestored = false;
      },
      (error: unknown) => this.simulation.fail("mon.a", error),
    );
  }

  /** A backup of the catalogue as it is. */
  copyCatalogue(): MemoryMetaStore {
    return this.catalogueStore.copy(this.monWorld.timers);
  }

  /**
   * The catalogue is lost, and the monitor with it: `startMonitor` starts one with the backup. False:
   * nobody tells it so.
   */
  restoreMonitor(backup: MemoryMetaStore, isTold = true): void {
    if (this.monWorld.alive) this.crashMonitor();
    this.catalogueStore = backup.copy(this.monWorld.timers);
    this.isRestored = isTold;
  }

  /** The recovery dial, as people have it. */
  get recovery(): Monitor["recovery"] {
    return this.monitor.recovery;
  }

  private newClient(at: number): SimClient {
    const name = at === 0 ? "client" : `client.${String(at)}`;
    const address = `${CLIENT_NET}${String(CLIENT_HOST + at)}`;
    const world = this.simulation.createWorld(name, address);
    this.options.onWorld?.(world);
    const client = new Client({
      world,
      name,
      clusterId: CLUSTER_ID,
      psk: this.key,
      mons: [{ host: MON_ADDRESS, port: CONTROL_PORT }],
      bind: address,
      formats: this.formatsOf("client"),
    });
    world.start();
    return { client, world };
  }

  /** A client's process dies; another one takes its place, to be started by the caller. */
  renewClient(at: number): SimClient {
    this.clients[at]!.world.crash();
    const fresh = this.newClient(at);
    this.clients[at] = fresh;
    return fresh;
  }

  /** The first client, and its process. */
  get client(): Client {
    return this.clients[0]!.client;
  }

  get clientWorld(): SimWorld {
    return this.clients[0]!.world;
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
    this.servingWorld = this.monWorld;
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
          ...(this.options.objectBytes === undefined
            ? {}
            : { objectBytes: this.options.objectBytes }),
        },
        false,
      ),
    );
    this.createImage("image");
    for (const { client } of this.clients) this.await("client start", client.start());
  }

  /** Make another image in the pool. */
  createImage(name: string): void {
    const { imageBytes } = this.options;
    this.await("image create", this.monitor.images.create("pool", name, imageBytes, false));
  }

  private get deviceBytes(): number {
    return this.options.deviceBytes ?? DEVICE_BYTES;
  }

  /** Groups may forget the sessions of clients that still work. */
  get remembersFew(): boolean {
    const { limits } = this.options;
    return limits?.sessionsMax !== undefined && limits.sessionsMax <= SESSIONS_FEW;
  }

  get shardCount(): number {
    return this.options.shards ?? 1;
  }

  private async format(osd: SimOsd): Promise<void> {
    const world = this.simulation.createWorld(`osd.${String(osd.id)}`, osd.address);
    world.start();
    const disk = world.disks.open(osd.path, { createBytes: this.deviceBytes });
    await formatStore({
      world,
      disk,
      clusterId: uuidBytes(CLUSTER_ID),
      osd: osd.id,
      shardCount: this.shardCount,
      logBytes: this.options.logBytes ?? LOG_BYTES_DEFAULT,
    });
    disk.close();
    await world.stop();
  }

  /** Start (again) the process of an osd; it serves some time later. */
  startOsd(osd: SimOsd): void {
    assert(osd.world === null || !osd.world.alive, "SimCluster.startOsd: it runs");
    this.onStarting(osd);
    const name = `osd.${String(osd.id)}`;
    const slotsBytes = this.options.slotsBytes ?? slotsBytesOf(this.shardCount);
    const world = this.simulation.createWorld(name, osd.address, {
      arenaBytes: arenaBytesOf(this.shardCount),
      slotsBytes,
    });
    this.options.onWorld?.(world);
    osd.world = world;
    osd.formats = this.formatsOf("osd");
    const first = this.newShard(osd, world, 0);
    osd.shard = first;
    osd.shards = [first];
    osd.session = null;
    osd.admission = null;
    world.start();
    this.open(osd, world).then(
      (ports) => {
        if (!world.alive) return;
        try {
          this.onOpened(osd);
        } catch (error) {
          this.simulation.fail(world.name, error);
        }
        this.serve(osd, world, ports);
      },
      (error: unknown) => this.end(osd, world, error),
    );
  }

  /** A process that can not go on ends. */
  private end(osd: SimOsd, world: SimWorld, error: unknown): void {
    if (!world.alive || osd.world !== world) return;
    if (!this.onFatal(osd, error)) this.simulation.fail(world.name, error);
  }

  /** The first shard claims the device, the others follow. Answers their ports. */
  private async open(osd: SimOsd, world: SimWorld): Promise<number[]> {
    const first = osd.shard!;
    await first.open();
    const ports = [first.listen()];
    for (let shard = 1; shard < this.shardCount; shard++) {
      const next = this.newShard(osd, world, shard, first.claim);
      await next.open();
      if (!world.alive) break;
      ports.push(next.listen());
      osd.shards = [...osd.shards, next];
    }
    return ports;
  }

  private newShard(osd: SimOsd, world: SimWorld, shard: number, claim?: StoreClaim): OsdShard {
    return new OsdShard({
      world,
      logger: world.logger,
      disk: world.disks.open(osd.path, { shard }),
      clusterId: CLUSTER_ID,
      clusterKey: this.key,
      osd: osd.id,
      shard,
      shardCount: this.shardCount,
      bind: osd.address,
      encrypt: this.wantsEncryption(osd),
      port: DATA_PORT + ((osd.portTurn + shard) % this.shardCount),
      formats: osd.formats,
      ...(claim === undefined ? {} : { claim }),
      ...(this.options.tuning === undefined ? {} : { tuning: this.options.tuning }),
      indexBytes: this.options.indexBytes ?? 0,
      ...(this.options.limits === undefined ? {} : { limits: this.options.limits }),
      ...(this.options.parkLookUs === undefined ? {} : { parkLookUs: this.options.parkLookUs }),
      peerStarts: osd.peerStarts,
      host: {
        onFatal: (error) => this.end(osd, world, error),
        onNews: () => osd.session?.hasten(),
        onParked: () => {},
        onVerdict: (from, verdict) => osd.admission?.hearPeer(from, verdict),
        onPeerStart: (storeUuid, start) => osd.peerStarts.set(storeUuid, start),
        onMapWanted: () => osd.session?.wantMap(),
        onPeerMap: (update) => osd.session?.hear(update),
      },
    });
  }

  private serve(osd: SimOsd, world: SimWorld, ports: readonly number[]): void {
    const { shards } = osd;
    const { storeUuid, incarnation, starts, formatVersion } = shards[0]!.identity;
    const map = new ClusterMap();
    const store = { starts: encodeStarts(starts), asking: true };
    let askTurn = 0;
    osd.session = new MonSession({
      world,
      logger: world.logger,
      clusterId: CLUSTER_ID,
      clusterKey: this.key,
      bind: osd.address,
      encrypt: this.wantsEncryption(osd),
      mons: [{ host: MON_ADDRESS, port: CONTROL_PORT }],
      identity: {
        osd: osd.id,
        storeUuid,
        incarnation,
        hostName: `host-${String(osd.id)}`,
        addresses: ports.map((port) => ({ host: osd.address, port })),
        capacityBytes: this.deviceBytes,
        version: "sim",
        backend: "memory",
      },
      map,
      store,
      formats: { range: osd.formats, wanted: formatVersion },
      host: {
        onMap: (update) => {
          const encoded = toBinary(MapUpdateSchema, update);
          for (const shard of shards) shard.onMap(encoded);
        },
        askPeer: () => {
          askTurn += 1;
          shards[askTurn % shards.length]!.askPeer();
        },
        collect: (complete): Promise<readonly ShardReport[]> =>
          Promise.resolve(shards.map((shard) => shard.report(complete))),
        transferLeader: (pg, to) => {
          for (const shard of shards) shard.transferLeader(pg, to);
        },
        scrub: (pg, order, isDeep) => {
          for (const shard of shards) shard.scrub(pg, order, isDeep);
        },
        trace: (order) => {
          for (const shard of shards) shard.trace(order);
        },
        onRefused: (error) => this.refuse(osd, world, error),
        onVerdict: (verdict) => osd.admission?.hearMonitor(verdict),
      },
    });
    this.admit(osd, world, store);
    osd.session.start();
  }

  private admit(osd: SimOsd, world: SimWorld, store: StoreCredentials): void {
    const { shards, session } = osd;
    osd.admission = new Admission(world, shards[0]!.identity, {
      record: (starts) => shards[0]!.recordStarts(starts),
      serve: (starts) => {
        store.starts = encodeStarts(starts);
        store.asking = false;
        for (const shard of shards) shard.serve(starts);
        session?.tellStarts();
      },
      alone: () => {
        for (const shard of shards) shard.serveClients();
      },
      refuse: (error) => this.refuse(osd, world, error),
    });
    osd.admission.begin([]);
  }

  private refuse(osd: SimOsd, world: SimWorld, error: unknown): void {
    if (!world.alive || this.onFatal(osd, error)) return;
    if (this.options.onRefused === undefined) this.simulation.fail(world.name, error);
    else {
      world.crash();
      this.options.onRefused(osd, error);
    }
  }

  /** One more osd, on an empty device, for whoever may not let time pass. */
  async addOsd(): Promise<SimOsd> {
    const osd = newOsd(this.osds.length);
    await this.format(osd);
    this.osds.push(osd);
    this.startOsd(osd);
    return osd;
  }

  /** Stop an osd in order, as SIGTERM does. */
  async stopOsd(osd: SimOsd): Promise<void> {
    const { world, session, shards } = osd;
    osd.admission?.stop();
    assert(world?.alive === true, "SimCluster.stopOsd: it does not run");
    await session?.stop();
    osd.session = null;
    for (const shard of shards) await shard.stop();
    await world.stop();
  }

  /** Every group as the monitor's map has it. */
  get pgs(): readonly PgInfo[] {
    return [...this.monitor.catalogue.map.pgs.values()];
  }

  /** `pg replace`: the leader carries it out while simulated time passes. */
  replaceReplica(pg: number, from: number, to: number): void {
    this.await("replace", this.moveReplica(pg, from, to));
  }

  /** As `replaceReplica`, for whoever may not let time pass: rejects as the monitor refuses. */
  async moveReplica(pg: number, from: number, to: number): Promise<void> {
    const name = formatPgId(pg as PgId);
    await this.asked(({ pools }) => pools.replaceReplica(name, from as OsdId, to as OsdId, false));
  }

  /** Raise the cluster's format: rejects as the monitor refuses. */
  async raiseFormat(): Promise<void> {
    await this.asked(({ formats }) => formats.raise(false));
  }

  /** The cluster's format, as the monitor has it. */
  get clusterFormat(): number {
    return this.monitor.catalogue.map.format;
  }

  /** Whether a monitor runs that has loaded its catalogue: others can not be asked. */
  get monitorServes(): boolean {
    return this.monWorld.alive && this.servingWorld === this.monWorld;
  }

  /** Change images as people do: rejects as the monitor refuses, and with FB1003 when it dies. */
  async changeImages(change: (images: Monitor["images"]) => Promise<unknown>): Promise<void> {
    await this.asked(({ images }) => change(images));
  }

  /** Ask the monitor for something, and wait for it: rejects as it refuses, and when it dies. */
  async asked(ask: (monitor: Monitor) => Promise<unknown>): Promise<void> {
    if (!this.monitorServes) throw new FastblockError("FB1003", "asking the monitor: it is dead");
    await new Promise<void>((resolve, reject) => {
      this.askers.add(reject);
      ask(this.monitor)
        .then(() => resolve(), reject)
        .finally(() => this.askers.delete(reject));
    });
  }

  /** Whether the monitor takes an osd for up; and the store that it knows under its id. */
  isUp(osd: SimOsd): boolean {
    return this.monitor.catalogue.map.osds.get(osd.id as OsdId)?.up === true;
  }

  storeOf(osd: SimOsd): string | undefined {
    return this.monitor.catalogue.map.osds.get(osd.id as OsdId)?.storeUuid;
  }

  /** Whether the voters of every group are those that the map wants, and nobody leaves. */
  get settled(): boolean {
    return this.pgs.every((pg) => {
      const wanted = pg.replicas.map((one) => one.replicaId).sort((a, b) => a - b);
      const { configuration } = pg;
      if (configuration === undefined || pg.replicas.some((one) => one.leaving)) return false;
      if (configuration.outgoing.length + configuration.learners.length > 0) return false;
      return String(configuration.voters) === String(wanted);
    });
  }

  /** Give an osd that does not run an empty device. Its id and address stay. */
  replaceDisk(osd: SimOsd): void {
    this.await("format", this.renewDisk(osd));
  }

  /** As `replaceDisk`, for whoever may not let time pass. */
  async renewDisk(osd: SimOsd): Promise<void> {
    assert(osd.world?.alive !== true, "SimCluster.renewDisk: it runs");
    osd.path += "'";
    await this.format(osd);
  }

  /** Run something on the device of an osd that does not run, as a tool would. */
  async withDevice<Value>(
    osd: SimOsd,
    use: (world: SimWorld, disk: Disk) => Promise<Value>,
  ): Promise<Value> {
    assert(osd.world?.alive !== true, "SimCluster.withDevice: the osd runs");
    const name = `tool.${String(osd.id)}`;
    const world = this.simulation.createWorld(name, osd.address, { arenaBytes: TOOL_ARENA_BYTES });
    world.start();
    const disk = world.disks.open(osd.path, { readOnly: true });
    try {
      return await use(world, disk);
    } finally {
      disk.close();
      await world.stop();
    }
  }

  /** Codes of the monitor's checks that fail, with what they say. */
  get health(): Map<string, { readonly summary: string; readonly details: readonly string[] }> {
    const { checks } = this.monitor.views.status().health;
    return new Map(checks.map((check) => [check.code, check]));
  }

  /** Whether every group has a leader that serves. */
  get serving(): boolean {
    const groups = new Set<number>();
    for (const osd of this.osds) {
      if (osd.world?.alive !== true || osd.shard === null) continue;
      for (const group of awakeOf(osd)) if (group.serving) groups.add(group.pg);
      for (const { pg } of osd.shards) {
        for (const row of pg.parking.rows.ledRows()) groups.add(pg.store.pgOf(row));
      }
    }
    return groups.size === this.options.pgCount;
  }
}
