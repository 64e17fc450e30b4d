import type { Generation, ImageId, LayerId, OsdId, PgId, PoolId, SessionId } from "../base/ids.ts";
import type { StoreStart } from "../store/store.ts";

/** What the catalogue keeps besides the rows of the cluster map. Stored as JSON: plain data. */
export interface ImageRecord {
  readonly id: ImageId;
  readonly name: string;
  readonly pool: PoolId;
  readonly family: ImageId;
  readonly layer: LayerId;
  readonly sizeBytes: number;
  readonly objectBlocks: number;
  readonly snapSeq: number;
  /** Raised by every exclusive open and every shrink: lower ones are fenced in each group. */
  readonly lockEpoch: number;
  readonly createdMs: number;
}

export type SessionMode = "shared" | "read-only" | "exclusive";

/** One attachment of an image; removed when it ends. Its id is never used again. */
export interface SessionRecord {
  readonly id: SessionId;
  readonly image: ImageId;
  readonly mode: SessionMode;
  /** For people: `nbd.0`. */
  readonly client: string;
  /** How often it was granted: an osd keeps the highest. */
  readonly serial: number;
  readonly openedMs: number;
}

/** By what an old copy of a store is known (`core/store/starts.ts`). */
export interface RememberedStart extends StoreStart {
  readonly storeUuid: string;
}

/** What the monitor remembers of an osd besides its row of the map. */
export interface OsdRecord {
  readonly id: OsdId;
  readonly capacityBytes: number;
  /** Of its store, when it registered last. */
  readonly incarnation: number;
  /** The newest start of each store that it has had, the present one first; absent: none yet. */
  readonly starts?: readonly RememberedStart[];
  readonly version: string;
  readonly backend: string;
  /** The highest format that it knows. Absent: the first. */
  readonly formatMax?: number;
  /** Taken out by the monitor after a long absence: comes in again by itself. */
  readonly autoOut: boolean;
  readonly firstSeenMs: number;
}

/** What the monitor remembers of a group besides its row of the map. */
export interface PgRecord {
  readonly id: PgId;
  /** The next replica id; never used before in this group. */
  readonly nextReplicaId: number;
  /** What came of its scrubs; absent: there was none. */
  readonly scrub?: ScrubRecord;
}

/** The last scrub of a group, and when it was scrubbed. */
export interface ScrubRecord {
  /** When the last one of either depth, and the last deep one, ended. */
  readonly lightMs: number;
  /** 0: none did. */
  readonly deepMs: number;
  readonly deep: boolean;
  /** Blocks that it found, those of them that it put right, and those that it did not. */
  readonly found: number;
  readonly healed: number;
  readonly left: number;
  /** The first of those that it did not. */
  readonly blocks: readonly {
    readonly layer: number;
    readonly block: number;
    /** No version of it is that of a majority. */
    readonly undecided: boolean;
  }[];
}

export type OperationState = "running" | "done" | "failed" | "cancelled";
export type OperationKind = "image.shrink" | "image.remove";

/**
 * Long work that goes on after a restart. Both kinds write one entry to every group of a pool.
 *
 * Groups done are not stored: a repeated entry carries the same session and number, so that each
 * group applies it once.
 */
export interface OperationRecord {
  readonly id: number;
  readonly kind: OperationKind;
  readonly state: OperationState;
  /** For people: `shrink demo/disk1 to 1073741824`. */
  readonly title: string;
  readonly pool: PoolId;
  readonly image: ImageId;
  readonly layer: LayerId;
  /** The session that its entries carry, number 0 in each group. */
  readonly session: SessionId;
  readonly lockEpoch: number;
  readonly snapSeq: number;
  /** Blocks that become zero (shrink), in 4 KiB blocks of the layer. */
  readonly firstBlock: number;
  readonly blocks: number;
  /** Groups to write to. */
  readonly groups: number;
  readonly startedMs: number;
  readonly endedMs: number | undefined;
  readonly error: string | undefined;
}

/** Last used number of each kind; persisted with what uses it, so that none comes twice. */
export interface Allocators {
  readonly pool: number;
  readonly image: number;
  readonly layer: number;
  readonly session: number;
  readonly operation: number;
}

export interface ClusterRecord {
  readonly clusterId: string;
  readonly generation: Generation;
  /** Version of the catalogue's own layout. */
  readonly format: number;
  /** It comes from a backup, and the generation was not raised yet. Absent: no. */
  readonly restored?: boolean;
}
