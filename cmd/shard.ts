import { failOnBug } from "../core/base/assert.ts";
import { FastblockError } from "../core/base/errors.ts";
import { type ShardReport, OsdShard, type Verdict } from "../core/osd/osd.ts";
import type { TraceOrder } from "../core/metrics/metrics.ts";
import type { StoreClaim, StoreIdentity, StoreStart } from "../core/pg/pg.ts";
import type { RunnableWorld } from "../core/reactor/reactor.ts";
import { collectAtRest, GrownHeap, ParkedGroups, startCollector } from "./collector.ts";
import type { LogLevel } from "./daemon.ts";
import { openLogger } from "./daemon.ts";
import { memoryError } from "./memory.ts";
import { createWorld } from "./world.ts";

/**
 * One shard of an osd: a Worker with a reactor of its own.
 *
 * Lies beside `main.ts`, or the executable does not find it. The main thread (`osd.ts`) sends
 * `ShardCommand`s and receives `ShardEvent`s; nothing of a request passes between the threads.
 */

/** What a Worker is started with: plain values. */
export interface ShardStart {
  readonly name: string;
  readonly clusterId: string;
  readonly clusterKey: Uint8Array;
  readonly osd: number;
  readonly shard: number;
  readonly shardCount: number;
  readonly bind: string;
  readonly encrypt: boolean;
  readonly port: number;
  readonly data: string;
  readonly logPath: string;
  readonly logLevel: LogLevel;
  readonly backend: "auto" | "uring" | "file";
  readonly pinCpu: number | undefined;
  readonly claim: StoreClaim | undefined;
  readonly scrubBytesPerSecond: number | undefined;
  /** Of this shard, for rows of its index; 0: all of them are in memory. */
  readonly indexBytes: number;
  /** What the osd has kept of its peers' stores. */
  readonly peerStarts: readonly (readonly [string, StoreStart])[];
}

export type ShardCommand =
  | { readonly kind: "start"; readonly start: ShardStart }
  /** An encoded MapUpdate. */
  | { readonly kind: "map"; readonly update: Uint8Array }
  /** The mon can not be asked for a newer map: ask a peer. */
  | { readonly kind: "ask-peer" }
  | { readonly kind: "report"; readonly complete: boolean }
  | { readonly kind: "transfer"; readonly pg: number; readonly to: number }
  | {
      readonly kind: "scrub";
      readonly pg: number;
      readonly order: number;
      readonly deep: boolean;
    }
  | { readonly kind: "trace"; readonly order: TraceOrder }
  /** Nobody can be asked about this store: serve clients, but no peers. */
  | { readonly kind: "serve-clients" }
  /** Make the store's starts durable: the first shard. */
  | { readonly kind: "record"; readonly starts: readonly StoreStart[] }
  /** Serve, and show these starts. */
  | { readonly kind: "serve"; readonly starts: readonly StoreStart[] }
  | { readonly kind: "stop" };

export type ShardEvent =
  | {
      readonly kind: "ready";
      readonly port: number;
      readonly identity: StoreIdentity;
      readonly claim: StoreClaim;
      readonly backend: string;
      readonly capacityBytes: number;
    }
  | { readonly kind: "gap"; readonly shard: number }
  /** A client has a newer map. */
  | { readonly kind: "map-wanted" }
  /** A peer has one: an encoded MapUpdate. */
  | { readonly kind: "peer-map"; readonly update: Uint8Array }
  | { readonly kind: "report"; readonly report: ShardReport }
  /** A report would tell something new. */
  | { readonly kind: "news" }
  | { readonly kind: "recorded" }
  | { readonly kind: "verdict"; readonly osd: number; readonly verdict: Verdict }
  | { readonly kind: "peer-start"; readonly storeUuid: string; readonly start: StoreStart }
  | {
      readonly kind: "failed";
      /** Empty: a bug, and the reason is a stack. */
      readonly code: string;
      readonly reason: string;
      readonly why?: string | undefined;
      readonly hint?: string | undefined;
    }
  | { readonly kind: "stopped" };

/** Slots, and the rest for connections (`core/osd/osd.ts`); untouched memory costs nothing. */
const ARENA_BYTES = 1024 * 1_048_576;
const SLOTS_BYTES = 384 * 1_048_576;
/** An osd that was killed holds its device until its last write has ended. */
const LOCK_WAIT_US = 5_000_000;

declare const self: Worker;

let shard: OsdShard | undefined;
let world: RunnableWorld | undefined;

function tell(event: ShardEvent): void {
  self.postMessage(event);
}

function fail(thrown: unknown): void {
  const error = memoryError(thrown);
  if (error instanceof FastblockError) {
    const { code, message, why, hint } = error;
    tell({ kind: "failed", code, reason: message, why, hint });
  } else {
    const reason = error instanceof Error ? (error.stack ?? error.message) : String(error);
    tell({ kind: "failed", code: "", reason });
  }
}

async function start(options: ShardStart): Promise<void> {
  const logger = openLogger(options.logPath, `${options.name}/${options.shard}`, options.logLevel);
  world = createWorld({
    arenaBytes: ARENA_BYTES,
    slotsBytes: SLOTS_BYTES,
    logger,
    prefer: options.backend,
    ...(options.pinCpu === undefined ? {} : { cpu: options.pinCpu }),
    onFatal: fail,
  });
  const { shard: place } = options;
  const parked = new ParkedGroups();
  const disk = world.disks.open(options.data, { shard: place, lockWaitUs: LOCK_WAIT_US });
  shard = new OsdShard({
    world,
    logger,
    disk,
    reactor: world.stats,
    clusterId: options.clusterId,
    clusterKey: options.clusterKey,
    osd: options.osd,
    shard: options.shard,
    shardCount: options.shardCount,
    ...(options.scrubBytesPerSecond === undefined
      ? {}
      : { scrubBytesPerSecond: options.scrubBytesPerSecond }),
    indexBytes: options.indexBytes,
    bind: options.bind,
    encrypt: options.encrypt,
    port: options.port,
    ...(options.claim === undefined ? {} : { claim: options.claim }),
    peerStarts: options.peerStarts,
    host: {
      onFatal: fail,
      onNews: () => tell({ kind: "news" }),
      onParked: (count) => parked.add(count),
      onVerdict: (osd, verdict) => tell({ kind: "verdict", osd, verdict }),
      onPeerStart: (storeUuid, peer) => tell({ kind: "peer-start", storeUuid, start: peer }),
      onMapWanted: () => tell({ kind: "map-wanted" }),
      onPeerMap: (update) => tell({ kind: "peer-map", update }),
    },
  });
  world.start();
  startCollector(world);
  collectAtRest(world, parked);
  collectAtRest(world, new GrownHeap("young"));
  await shard.open();
  const port = shard.listen();
  tell({
    kind: "ready",
    port,
    identity: shard.identity,
    claim: shard.claim,
    backend: world.backend,
    capacityBytes: disk.sizeBytes,
  });
}

async function obey(command: ShardCommand): Promise<void> {
  switch (command.kind) {
    case "start":
      await start(command.start);
      break;
    case "map":
      if (shard !== undefined && !shard.onMap(command.update)) {
        tell({ kind: "gap", shard: shard.options.shard });
      }
      break;
    case "ask-peer":
      shard?.askPeer();
      break;
    case "report":
      if (shard !== undefined) tell({ kind: "report", report: shard.report(command.complete) });
      break;
    case "transfer":
      shard?.transferLeader(command.pg, command.to);
      break;
    case "scrub":
      shard?.scrub(command.pg, command.order, command.deep);
      break;
    case "trace":
      shard?.trace(command.order);
      break;
    case "serve-clients":
      shard?.serveClients();
      break;
    case "record":
      await shard?.recordStarts(command.starts);
      tell({ kind: "recorded" });
      break;
    case "serve":
      shard?.serve(command.starts);
      break;
    case "stop":
      await shard?.stop();
      tell({ kind: "stopped" });
      await world?.stop();
      break;
  }
}

/** A bug ends this thread's turns at once: nothing is acknowledged until the process is gone. */
function end(error: unknown): void {
  if (world === undefined || !failOnBug(world, error)) fail(error);
}

self.onmessage = (event: MessageEvent<ShardCommand>) => {
  obey(event.data).catch(end);
};
// What no promise caught: the runtime would end this thread some turns later.
process.on("unhandledRejection", (error) =>
  world === undefined ? fail(error) : world.fail(error),
);
