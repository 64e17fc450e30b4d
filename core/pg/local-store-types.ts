// data path
import type { FormatRange } from "../base/formats.ts";
import type { Logger } from "../base/logger.ts";
import type { Disk, World } from "../reactor/world.ts";
import type { GroupHealth, GroupState, StoreStart } from "../store/store.ts";

export { StoreFillOp, StoreLoadOp } from "../log/log.ts";
export {
  BlockState,
  SNAP_SEQ_HEAD,
  StoreReadOp,
  StoreRepairOp,
  UnitListing,
  UnitState,
} from "../object/object.ts";
export {
  GroupHealth,
  type GroupState,
  type StoreStart,
} from "../store/store.ts";

/** One replica as found at start: `baseIndex ≤ state.applied ≤ commit ≤ lastIndex`. */
export interface RecoveredGroup {
  /** Small handle of the replica on this shard; every call takes it. */
  readonly row: number;
  readonly pg: number;
  readonly replicaId: number;
  readonly health: GroupHealth;
  /** With Filling: the position X at which it began, 0 when it has not. */
  readonly fillIndex: number;
  readonly term: number;
  /** ReplicaId voted for in `term`, 0: none. */
  readonly vote: number;
  /** Highest commit index known durably; entries in (state.applied, commit] are to be replayed. */
  readonly commit: number;
  /** The log holds (baseIndex, lastIndex]; the entry at baseIndex had baseTerm. */
  readonly baseIndex: number;
  readonly baseTerm: number;
  readonly lastIndex: number;
  /** As of the checkpoint. */
  readonly state: GroupState;
  /** Indexes whose payload is damaged though it was durable: fetch from a peer, never cut. */
  readonly faulty: readonly number[];
}

/** What the owner of a store implements. Calls come in handler or drain phases, in log order. */
export interface StoreOwner {
  /** All entries of the group up to `index` (of `term`) are on stable storage. */
  onDurable(row: number, index: number, term: number): void;
  /** The newest `putHardState` of the group is on stable storage. */
  onHardStateDurable(row: number): void;
  /**
   * `createReplica` or `renewReplica` is on stable storage: only from here on the replica may vote
   * or acknowledge. A renewed one has an empty log at 0 and nothing applied from here on.
   */
  onReplicaCreated(row: number): void;
  /** `removeReplica` is on stable storage; the row is free for another replica. */
  onReplicaGone(row: number, pg: number, replicaId: number): void;
  /**
   * `beginFill` is durable: the replica stands at its new position. From here on `encodeState` is
   * asked for it again.
   */
  onFillBegun(row: number): void;
  /** `endFill` is durable: the replica counts again. */
  onFillEnded(row: number): void;
  /** A write or flush failed: nothing is durable any more, every call answers DeviceFailed. Once. */
  onDeviceFailed(reason: string, errno: number): void;
  /** The device answers late (`DeviceObserver`), and in time again. */
  onDeviceSlow(latencyUs: number): void;
  onDeviceRecovered(): void;
  /** Writes wait for space beneath the device: what this shard leads can not be applied here. */
  onDeviceStarved(): void;
  /**
   * Background work met a damaged block: fetch it from a peer and `repair` it, or `markLost` when no
   * replica has it. Told again until it is right.
   */
  onDamaged(row: number, layer: number, block: number, snapSeq: number, version: number): void;
  /** State of the group as of its last applied entry, for a checkpoint. Cold, synchronous. */
  encodeState(row: number): GroupState;
  /**
   * First entry of the group that another replica may ask this one for; Infinity: none. A checkpoint
   * keeps them, within the limits of R4: behind `firstIndex` they are there. Cold, synchronous.
   */
  neededFrom(row: number): number;
}

export interface StoreOptions {
  readonly world: World;
  readonly disk: Disk;
  readonly clusterId: Uint8Array;
  readonly osd: number;
  readonly shard: number;
  readonly shardCount: number;
  /** Of this program. Default: what it knows. */
  readonly formats?: FormatRange;
  readonly owner: StoreOwner;
  readonly logger: Logger;
  /**
   * With several shards: shard 0 opens without it and claims the device (a new incarnation); the
   * others get `store.claim` of shard 0 (plain numbers, may be posted between threads).
   */
  readonly claim?: StoreClaim;
  readonly tuning?: Partial<StoreTuning>;
  /** What rows of the index may take in memory (README, "The paged index"). 0, default: all are there. */
  readonly indexBytes?: number;
}

/** One start of the store: what shards have to agree on. */
export interface StoreClaim {
  readonly incarnation: number;
  readonly generation: number;
}

/** Limits of background work; the defaults suit production. */
export interface StoreTuning {
  /** Start moving home when the log is this full (percent), or after `idleMs` without appends. */
  readonly moverStartPercent: number;
  /** And so many blocks wait; what are fewer goes home when a checkpoint wants it, or after `idleMs`. */
  readonly moverStartBlocks: number;
  /** Start a checkpoint when the log is this full (percent). */
  readonly checkpointStartPercent: number;
  readonly idleMs: number;
  /** R7: vouch for the last batch after this long without another. */
  readonly vouchMs: number;
  /** Device operations of the mover and of the page writer under way at a time. */
  readonly backgroundDepth: number;
  /** R4: how much of the log is kept at most for followers that are behind (percent). */
  readonly retentionPercent: number;
  /** R5: start a checkpoint when so many units came into quarantine (percent of all). */
  readonly quarantinePercent: number;
  /** Rest after each discard of freed units while clients write. */
  readonly discardRestMs: number;
  /** Freed units that are not discarded, for the next writes (percent of those in use). */
  readonly staleKeptPercent: number;
}

/** What `LocalStore.open` found out about itself. */
export interface StoreIdentity {
  readonly clusterId: Uint8Array;
  readonly osd: number;
  /** Random, one per format: 32 hex digits. */
  readonly storeUuid: string;
  readonly incarnation: number;
  readonly shardCount: number;
  /** True when the last stop was a clean one. */
  readonly wasClean: boolean;
  readonly formatVersion: number;
  /** Its starts that have served, without this one. */
  readonly starts: readonly StoreStart[];
}

/** How a store stands to the file system beneath it: BeneathState of `proto/control.proto`. */
export enum Beneath {
  Enough = 1,
  /** Little is left: writes are refused soon. */
  Near = 2,
  /** Writes are refused. */
  Short = 3,
}

/** The file system beneath a sparse file has less than the file promises. */
export interface SpaceBeneath {
  readonly state: Beneath;
  /** Rounded down, so that it is news only when it moved by an eighth. */
  readonly freeBytes: number;
  readonly path: string;
}

export interface StoreUsage {
  /** Bytes of units of this shard: total, holding data (with reserved ones), in quarantine. */
  readonly bytesTotal: number;
  readonly bytesUsed: number;
  readonly bytesQuarantined: number;
  /** Log: ring size, and bytes between tail and head. */
  readonly logBytesTotal: number;
  readonly logBytesUsed: number;
  /** Blocks that live in the log and are not moved home yet. */
  readonly overlayBlocks: number;
  /** Memory that rows of the index take, and of it what waits for its page to be written; 0: resident. */
  readonly indexBytesUsed: number;
  readonly indexBytesDirty: number;
  /** Null: a block device, or the file system beneath can give all that the store may take yet. */
  readonly beneath: SpaceBeneath | null;
  readonly device: DeviceState;
}

/** How the device does, since the store was opened. */
export interface DeviceState {
  /** Operations of this shard that failed. After a write or a flush the osd ends. */
  readonly readErrors: number;
  readonly writeErrors: number;
  readonly flushErrors: number;
  /** A read failed in the last hour. */
  readonly readsFail: boolean;
  /** Leaders go elsewhere; the latency that says so, in µs, else 0. */
  readonly slow: boolean;
  readonly latencyUs: number;
}

/** Grow for ever, per shard. */
export interface StoreCounters {
  /** Bytes written to the device: log batches, whole units beside them, moved and copied home,
   * index pages, checkpoints. */
  readonly bytesLog: number;
  readonly bytesDirect: number;
  readonly bytesHome: number;
  readonly bytesIndex: number;
  readonly bytesCheckpoint: number;
  /** Bytes read for clients. */
  readonly bytesRead: number;
  readonly batches: number;
  readonly entries: number;
  readonly entriesAppendedAgain: number;
  /** What the device was given: writes of any kind; flushes and durable writes. */
  readonly deviceWrites: number;
  readonly deviceFlushes: number;
  /** Discards that the device took, and bytes of units that were given back with them. */
  readonly deviceDiscards: number;
  readonly bytesDiscarded: number;
  readonly checkpoints: number;
  readonly checksumFailures: number;
  readonly blocksHealed: number;
  readonly blocksMoved: number;
  readonly unitsCopied: number;
  /** Index pages that were read for rows that were not in memory, and rows of pages that left it. */
  readonly pageLoads: number;
  readonly pageEvictions: number;
  /** Units that were made what they are at a leader (`fill`), redo included. */
  readonly unitsFilled: number;
}
