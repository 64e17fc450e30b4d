// data path
import type { FormatRange } from "../base/formats.ts";
import type { StoreClaim, StoreIdentity, StoreOwner, StoreTuning } from "./local-store-types.ts";
import type { Logger } from "../base/logger.ts";
import { type Device, type DeviceObserver } from "../device/device.ts";
import type {
  BatchTable,
  EntryPool,
  Loader,
  LogSpace,
  ScannedEntry,
  ScannedFill,
  ShardLog,
} from "../log/log.ts";
import type { Mover, ObjectStore, Reader } from "../object/object.ts";
import type { World } from "../reactor/world.ts";
import type {
  Eras,
  Geometry,
  GroupHealth,
  GroupState,
  PageLoader,
  PageWriter,
  Quarantine,
  SlotTable,
  Tombstone,
} from "../store/store.ts";

export const TUNING_DEFAULT: StoreTuning = {
  // Well before a checkpoint, which waits until all is home that came before it: when half of that is left
  // under a load that fills the log as fast as blocks go home, entries find no room before it ends.
  moverStartPercent: 10,
  // What the log keeps for followers that are behind is more than that: blocks went home one by one as
  // they came, each behind a batch that said that it is committed.
  moverStartBlocks: 256,
  // Each writes a page for every MiB that was touched since the one before, so they are to be rare; the
  // rest up to 70 %, where entries find no room, is for clients while it is written.
  checkpointStartPercent: 48,
  idleMs: 1000,
  vouchMs: 50,
  // 4 KiB writes at depth 64 fill a log of 128 MiB: they paused for 1.4 to 3.1 s with 16, with this
  // for half of that.
  backgroundDepth: 64,
  // Well below where checkpoints begin, and the half from which copies find no room: what is kept would
  // hold them up for ever.
  retentionPercent: 30,
  quarantinePercent: 1,
  // At most 64 MiB/s: a file system keeps writes waiting while it makes a hole.
  discardRestMs: 250,
  // A write into a hole has the file system allocate and commit its journal: sequential writes that
  // reuse units are 1.6 times as fast.
  staleKeptPercent: 50,
};

/** Local facts of one row beside its log. */
export class RowState {
  health: GroupHealth;
  fillIndex: number;
  /** Entries found at start that are not applied yet; empty when there are none. */
  recovered: readonly ScannedEntry[] = NO_ENTRIES;
  /** Fills found at start that wait for their index, in order; empty when there are none. */
  fills: readonly ScannedFill[] = NO_FILLS;
  /** Fills under way: nothing is applied meanwhile. */
  fillsPending = 0;
  /** The replica takes another position: the group's state there, until a checkpoint has it. */
  beginning: GroupState | null = null;
  /** First batch with an entry behind the new position that is no more; Infinity: there is none. */
  droppedSeq: number = Number.POSITIVE_INFINITY;
  /** The replica is to get another id, as soon as a checkpoint has what is its own. */
  renewal: Renewal | null = null;

  constructor(health: GroupHealth, fillIndex: number) {
    this.health = health;
    this.fillIndex = fillIndex;
  }
}

const NO_ENTRIES: readonly ScannedEntry[] = [];
const NO_FILLS: readonly ScannedFill[] = [];

/** The replica that follows another one in its row. */
export interface Renewal {
  readonly replicaId: number;
  readonly conf: Uint8Array;
}

/** Where the shard's checkpoints lie: two halves. */
export interface MetaArea {
  readonly offset: number;
  readonly halfBytes: number;
}

/** The device's events, passed on to whoever is there by then. */
export class DeviceEvents implements DeviceObserver {
  target: DeviceObserver | null = null;

  onDeviceFailed(errno: number): void {
    this.target?.onDeviceFailed(errno);
  }

  onDeviceSlow(latencyUs: number): void {
    this.target?.onDeviceSlow(latencyUs);
  }

  onDeviceRecovered(): void {
    this.target?.onDeviceRecovered();
  }

  onDeviceStarved(): void {
    this.target?.onDeviceStarved();
  }
}

/** What an opened store is made of. */
export interface StoreParts {
  readonly world: World;
  readonly device: Device;
  readonly events: DeviceEvents;
  readonly owner: StoreOwner;
  readonly logger: Logger;
  readonly tuning: StoreTuning;
  readonly identity: StoreIdentity;
  /** Of this program. */
  readonly formats: FormatRange;
  readonly claim: StoreClaim;
  /** True when this shard claimed the device, and marks it clean at the end. */
  readonly claimed: boolean;
  readonly shard: number;
  readonly seed: number;
  readonly geometry: Geometry;
  readonly meta: MetaArea;
  readonly slots: SlotTable;
  readonly quarantine: Quarantine;
  readonly eras: Eras;
  readonly space: LogSpace;
  readonly batches: BatchTable;
  readonly entries: EntryPool;
  readonly tombstones: Tombstone[];
  /** Arena offset of the store's own memory, laid out by `BUFFERS`. */
  readonly buffers: number;
}

/** The components that need the store as their owner. */
export interface StoreMachines {
  readonly log: ShardLog;
  readonly objects: ObjectStore;
  readonly reader: Reader;
  readonly mover: Mover;
  readonly pages: PageWriter;
  /** Null: the index is resident. */
  readonly rows: PageLoader | null;
  readonly loader: Loader;
}

/** Checkpoint sequence and the rows' facts, shared by the store and its checkpointer. */
export class StoreState {
  readonly rows: (RowState | undefined)[] = [];
  checkpointSeq = 0;
  checkpoints = 0;
  checkpointBytes = 0;
  /**
   * Log blocks in use when the last checkpoint had ended, and slots that were in quarantine when it
   * began and still are.
   */
  usedAfter = 0;
  quarantinedAfter = 0;
  /** Grows when a group takes another position: what was captured before is not to be written. */
  rebases = 0;
  /** There may have been replicas that nothing tells of, not even a tombstone: checkpoints say so. */
  forgetful = false;
  /** Something was applied or freed since the last checkpoint began. */
  changed = false;
  /** A checkpoint can not write a page that changes all the time: nothing new is accepted. */
  settling = false;
  failed = false;
  closing = false;
}
