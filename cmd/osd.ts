import { readFileSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { create, toBinary } from "@bufbuild/protobuf";
import { type ErrorCode, ERRORS, FastblockError } from "../core/base/errors.ts";
import { FORMATS } from "../core/base/formats.ts";
import type { OsdRunOptions } from "../core/cli/cli.ts";
import { ClusterMap } from "../core/cluster/cluster.ts";
import {
  Admission,
  type KeptMap,
  MapKeeper,
  MonSession,
  peersOf,
  type ShardReport,
  type Verdict,
} from "../core/osd/osd.ts";
import type { StoreClaim } from "../core/pg/pg.ts";
import type { RunnableWorld } from "../core/reactor/reactor.ts";
import type { World } from "../core/reactor/world.ts";
import type { StoreCredentials } from "../core/rpc/rpc.ts";
import { encodeStarts, type StoreStart } from "../core/store/store.ts";
import { MapUpdateSchema } from "../proto/gen/control_pb.ts";
import { collectAtRest, GrownHeap, startCollector } from "./collector.ts";
import { allowedCores, coreOf } from "./cores.ts";
import { type Daemon, serveAs } from "./daemon.ts";
import { storeAt } from "./data-path.ts";
import { replaceFile } from "./kept-file.ts";
import { KeptStarts } from "./kept-starts.ts";
import { ownAllowedBytes } from "./memory.ts";
import type { ShardCommand, ShardEvent } from "./shard.ts";
import { createWorld } from "./world.ts";

type Ready = Extract<ShardEvent, { kind: "ready" }>;

/** How long a shard may take for its part of a report. */
const COLLECT_MS = 1500;
const MIB = 1_048_576;
/** Slots and connections of the arena, and the heap, of a shard under floods. */
const SHARD_BYTES_MAX = (384 + 512 + 128) * MIB;

/** Run an osd: one Worker per shard, and the session with the mon on this thread. */
export function osdRun(options: OsdRunOptions): Promise<"serving"> {
  const placed = { ...options, data: storeAt(options.data) };
  return serveAs(placed, (daemon) => new Osd(daemon, placed).start());
}

class Osd {
  private readonly daemon: Daemon;
  private readonly options: OsdRunOptions;
  private readonly shards: ShardWorker[] = [];
  private readonly cores = allowedCores(readFileSync("/proc/self/status", "utf8"));
  private readonly mapPath: string;
  private readonly map = new ClusterMap();
  private readonly peerStarts: KeptStarts;
  private session: MonSession | undefined;
  private admission: Admission | undefined;
  private isReady = false;
  /** Whose turn it is to ask a peer for the map. */
  private askTurn = 0;

  constructor(daemon: Daemon, options: OsdRunOptions) {
    this.daemon = daemon;
    this.options = options;
    this.peerStarts = new KeptStarts(
      join(daemon.directory, `${options.name}.peers`),
      daemon.logger,
    );
    this.mapPath = join(daemon.directory, `${options.name}.map`);
  }

  async start(): Promise<void> {
    const { daemon, options } = this;
    const first = await this.startShard(0, undefined);
    const ready: Ready[] = [first];
    for (let shard = 1; shard < options.shards; shard++) {
      ready.push(await this.startShard(shard, first.claim));
    }
    if (first.identity.osd !== options.osd) {
      const text = `the store is of osd ${first.identity.osd}, wanted ${options.osd}`;
      throw new FastblockError("FB2103", `starting ${options.name}: ${text}`);
    }
    const world = this.startWorld();
    const credentials = { starts: encodeStarts(first.identity.starts), asking: true };
    const admission = this.newAdmission(world, ready, credentials);
    this.admission = admission;
    const keeper = this.loadMap(world);
    const session = new MonSession({
      world,
      logger: daemon.logger,
      clusterId: daemon.cluster.clusterId,
      clusterKey: daemon.key,
      bind: options.bind,
      encrypt: options.encrypt,
      mons: daemon.cluster.mons.map((mon) => mon.control),
      identity: {
        osd: options.osd,
        storeUuid: first.identity.storeUuid,
        incarnation: first.identity.incarnation,
        hostName: hostname(),
        addresses: ready.map(({ port }) => ({ host: options.bind, port })),
        capacityBytes: first.capacityBytes,
        version: "0.1.0",
        backend: first.backend,
      },
      map: this.map,
      store: credentials,
      formats: { range: FORMATS, wanted: first.identity.formatVersion },
      host: {
        onMap: (update) => {
          keeper.keep();
          this.tellAll({ kind: "map", update: toBinary(MapUpdateSchema, update) });
        },
        askPeer: () => this.askPeer(),
        collect: (complete) => this.collect(complete),
        transferLeader: (pg, to) => this.tellAll({ kind: "transfer", pg, to }),
        scrub: (pg, order, isDeep) => this.tellAll({ kind: "scrub", pg, order, deep: isDeep }),
        trace: (order) => this.tellAll({ kind: "trace", order }),
        onRefused: (error) => daemon.fail(error),
        onVerdict: (verdict) => admission.hearMonitor(verdict),
      },
    });
    daemon.onStop(async () => {
      admission.stop();
      await Promise.all(this.shards.map((shard) => shard.stop()));
      await session.stop();
      keeper.stop();
      await world.stop();
      this.peerStarts.flush();
    });
    this.session = session;
    session.start();
    admission.begin(peersOf(this.map, first.identity.storeUuid));
  }

  /** The main thread's own: it speaks to the mon, and touches no disk. */
  private startWorld(): RunnableWorld {
    const { daemon } = this;
    const world = createWorld({
      arenaBytes: 64 * 1_048_576,
      logger: daemon.logger,
      prefer: "file",
      onFatal: (error) => daemon.fail(error),
    });
    world.start();
    startCollector(world);
    collectAtRest(world, new GrownHeap("all"));
    return world;
  }

  /** Whether the store may serve, and what happens when it may. */
  private newAdmission(
    world: World,
    ready: readonly Ready[],
    credentials: StoreCredentials,
  ): Admission {
    const { daemon } = this;
    return new Admission(world, ready[0]!.identity, {
      record: (starts) => this.shards[0]!.record(starts),
      serve: (starts) => {
        credentials.starts = encodeStarts(starts);
        credentials.asking = false;
        this.tellAll({ kind: "serve", starts });
        this.session?.tellStarts();
        this.beReady(ready);
      },
      alone: () => {
        daemon.logger.warn("nobody vouches for this store yet: it serves no peers");
        this.tellAll({ kind: "serve-clients" });
        this.beReady(ready);
      },
      refuse: (error) => daemon.fail(error),
    });
  }

  private beReady(ready: readonly Ready[]): void {
    if (this.isReady) return;
    this.isReady = true;
    this.lookAtMemory();
    this.daemon.ready(portsOf(ready));
  }

  /** It serves with less; the kernel would end it when clients make it use what it may. */
  private lookAtMemory(): void {
    const allowedBytes = ownAllowedBytes();
    const wantedBytes = this.options.shards * SHARD_BYTES_MAX;
    if (allowedBytes >= wantedBytes) return;
    this.daemon.logger.warn("memory may run out: this osd may come to use more than there is", {
      allowedMiB: Math.floor(allowedBytes / MIB),
      wantedMiB: wantedBytes / MIB,
      hint: "raise MemoryMax of its unit, or give the machine more",
    });
  }

  private async startShard(shard: number, claim: StoreClaim | undefined): Promise<Ready> {
    const { daemon, options } = this;
    const worker = new ShardWorker({
      onFailed: (error) => daemon.fail(error),
      onGap: () => this.onGap(),
      onNews: () => this.session?.hasten(),
      onVerdict: (osd, verdict) => this.admission?.hearPeer(osd, verdict),
      onPeerStart: (storeUuid, start) => this.peerStarts.keep(storeUuid, start),
      onMapWanted: () => this.session?.wantMap(),
      onPeerMap: (update) => this.session?.hear(update),
    });
    this.shards.push(worker);
    return worker.start({
      name: options.name,
      clusterId: daemon.cluster.clusterId,
      clusterKey: daemon.key,
      osd: options.osd,
      shard,
      shardCount: options.shards,
      scrubBytesPerSecond: options.scrubBytesPerSecond,
      indexBytes: Math.ceil(options.indexBytes / options.shards),
      bind: options.bind,
      encrypt: options.encrypt,
      port: options.dataPorts[shard] ?? 0,
      data: options.data,
      logPath: daemon.logPath,
      logLevel: options.logLevel,
      backend: options.backend,
      pinCpu: coreOf({ osd: options.osd, shard, shards: options.shards }, this.cores),
      claim,
      peerStarts: this.peerStarts.entries,
    });
  }

  private tellAll(command: ShardCommand): void {
    for (const shard of this.shards) shard.tell(command);
  }

  /* ------------------------------------------------------------------ map */

  /** A shard missed a delta: give it everything. */
  private onGap(): void {
    const full = this.map.deltaFrom(0, 0);
    if (full === undefined) return;
    const update = toBinary(MapUpdateSchema, create(MapUpdateSchema, full));
    this.tellAll({ kind: "map", update });
  }

  /** One shard asks one of its peers: they have different ones. */
  private askPeer(): void {
    this.askTurn += 1;
    this.shards[this.askTurn % this.shards.length]?.tell({ kind: "ask-peer" });
  }

  /** The map of the last run lets the osd serve before, and without, a mon. */
  private loadMap(world: World): MapKeeper {
    const { daemon, map, mapPath } = this;
    const keeper = new MapKeeper(world, daemon.logger, map, keptMapAt(mapPath));
    const update = keeper.load();
    if (update !== null) this.tellAll({ kind: "map", update });
    return keeper;
  }

  private async collect(complete: boolean): Promise<readonly ShardReport[]> {
    return Promise.all(this.shards.map((shard) => shard.report(complete)));
  }
}

/** The kept map as a file. */
function keptMapAt(path: string): KeptMap {
  return {
    load() {
      try {
        return readFileSync(path);
      } catch {
        return null;
      }
    },
    save: (bytes) => replaceFile(path, bytes),
  };
}

function portsOf(ready: readonly Ready[]): Record<string, number> {
  const ports: Record<string, number> = {};
  ready.forEach(({ port }, shard) => {
    ports[shard === 0 ? "data" : `data.${shard}`] = port;
  });
  return ports;
}

/** What a shard tells its osd. */
interface ShardHost {
  onFailed(error: Error): void;
  /** It missed a delta of the map. */
  onGap(): void;
  /** A report would tell something new. */
  onNews(): void;
  /** What a peer says of this osd's store. */
  onVerdict(osd: number, verdict: Verdict): void;
  /** The newest start of a peer's store. */
  onPeerStart(storeUuid: string, start: StoreStart): void;
  /** A client has a newer map. */
  onMapWanted(): void;
  /** A peer has one: an encoded MapUpdate. */
  onPeerMap(update: Uint8Array): void;
}

/** The main thread's side of one shard. */
class ShardWorker {
  private readonly worker: Worker;
  private readonly host: ShardHost;
  private onReady: ((ready: Ready) => void) | undefined;
  private onStopped: (() => void) | undefined;
  private onRecorded: (() => void) | undefined;
  private readonly reports: ((report: ShardReport) => void)[] = [];

  constructor(host: ShardHost) {
    this.host = host;
    this.worker = new Worker(new URL("./shard.ts", import.meta.url).href);
    this.worker.onmessage = (event: MessageEvent<ShardEvent>) => this.onEvent(event.data);
    this.worker.onerror = (event) => this.host.onFailed(new Error(event.message));
  }

  tell(command: ShardCommand): void {
    this.worker.postMessage(command);
  }

  start(start: Extract<ShardCommand, { kind: "start" }>["start"]): Promise<Ready> {
    return new Promise((resolve) => {
      this.onReady = resolve;
      this.tell({ kind: "start", start });
    });
  }

  report(complete: boolean): Promise<ShardReport> {
    return new Promise((resolve, reject) => {
      const late = setTimeout(() => {
        reject(new Error(`a shard did not report within ${COLLECT_MS} ms`));
      }, COLLECT_MS);
      this.reports.push((report) => {
        clearTimeout(late);
        resolve(report);
      });
      this.tell({ kind: "report", complete });
    });
  }

  record(starts: readonly StoreStart[]): Promise<void> {
    return new Promise((resolve) => {
      this.onRecorded = resolve;
      this.tell({ kind: "record", starts });
    });
  }

  stop(): Promise<void> {
    return new Promise((resolve) => {
      this.onStopped = resolve;
      this.tell({ kind: "stop" });
    });
  }

  private onEvent(event: ShardEvent): void {
    switch (event.kind) {
      case "ready":
        this.onReady?.(event);
        break;
      case "report":
        this.reports.shift()?.(event.report);
        break;
      case "gap":
        this.host.onGap();
        break;
      case "map-wanted":
        this.host.onMapWanted();
        break;
      case "peer-map":
        this.host.onPeerMap(event.update);
        break;
      case "news":
        this.host.onNews();
        break;
      case "recorded":
        this.onRecorded?.();
        break;
      case "verdict":
        this.host.onVerdict(event.osd, event.verdict);
        break;
      case "peer-start":
        this.host.onPeerStart(event.storeUuid, event.start);
        break;
      case "stopped":
        this.onStopped?.();
        break;
      case "failed":
        this.host.onFailed(errorOf(event));
        break;
    }
  }
}

function errorOf(event: Extract<ShardEvent, { kind: "failed" }>): Error {
  const { code, reason, why, hint } = event;
  if (!Object.hasOwn(ERRORS, code)) return new Error(reason);
  return new FastblockError(code as ErrorCode, reason, {
    ...(why === undefined ? {} : { why }),
    ...(hint === undefined ? {} : { hint }),
  });
}
