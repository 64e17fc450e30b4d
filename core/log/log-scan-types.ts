// cold path: once per start.
import type { Device } from "../device/device.ts";
import type { World } from "../reactor/world.ts";
import type {
  CheckpointGroup,
  GroupHealth,
  GroupState,
  LayerParent,
  Tombstone,
} from "../store/store.ts";
import type { BatchTable } from "./batch-table.ts";
import type { LogSpace } from "./log-space.ts";

/** What start-up's reading of the log is given: the checkpoint's word, and memory. */
export interface ScanInput {
  readonly world: World;
  readonly device: Device;
  readonly space: LogSpace;
  readonly shard: number;
  readonly seed: number;
  /** Of this start: no batch may be newer. */
  readonly incarnationMax: number;
  readonly tailPosition: number;
  readonly tailSeq: number;
  readonly tailPrevCrc: number;
  readonly tailIncarnation: number;
  /** Local facts before this batch are in the checkpoint. */
  readonly headSeq: number;
  /** Replicas that the checkpoint and batches below it tell of are distrusted; 0: none are. */
  readonly distrustedBelow: number;
  readonly groups: readonly CheckpointGroup[];
  readonly tombstones: readonly Tombstone[];
  /** Arena memory to read into, a multiple of 1 MiB, at least 2 MiB. */
  readonly buffer: number;
  readonly bufferBytes: number;
  isUnit(slot: number): boolean;
  unitOffset(slot: number): number;
}

/** One entry as the log holds it. */
export interface ScannedEntry {
  readonly index: number;
  readonly term: number;
  readonly type: number;
  readonly seq: number;
  /** Byte offset in its batch; log block of its first inline block, or -1. */
  readonly recordAt: number;
  readonly inlineBlock: number;
  readonly record: DataView;
  /** Its inline payload does not match. */
  readonly bad: boolean;
}

/** One fill as the log holds it. */
export interface ScannedFill {
  /** The index behind which it is applied. */
  readonly at: number;
  readonly seq: number;
  /** Log block of its first data block, or -1. */
  readonly inlineBlock: number;
  readonly record: DataView;
}

export interface ScannedGroup {
  readonly pg: number;
  readonly replicaId: number;
  health: GroupHealth;
  fillIndex: number;
  term: number;
  vote: number;
  commit: number;
  baseIndex: number;
  baseTerm: number;
  state: GroupState;
  /** base + 1 … last, without gaps. */
  entries: ScannedEntry[];
  /** Those that redo repeats: at ≥ state.applied, in the order in which they are applied. */
  fills: ScannedFill[];
  faulty: number[];
  /** First index that was cut: its direct payload is torn, or another position dropped it; 0: none. */
  truncatedAt: number;
}

export interface ScanResult {
  readonly batches: BatchTable;
  readonly headPosition: number;
  readonly lastCrc: number;
  /** A batch vouches for all before it that hold anything, their direct payloads too. */
  readonly isVouched: boolean;
  readonly groups: ScannedGroup[];
  readonly tombstones: Tombstone[];
  readonly parents: LayerParent[];
  /** Units that any record of the log names. */
  readonly namedUnits: Set<number>;
  /** Groups whose replica of the checkpoint, or of this log, was removed in this log. */
  readonly goneGroups: Set<number>;
  /** The log is damaged in its middle. */
  readonly damaged: boolean;
  /** For people. */
  readonly notes: string[];
}

/** One batch of the chain. */
export interface RawBatch {
  readonly seq: number;
  readonly position: number;
  readonly blocks: number;
  readonly crc: number;
  readonly incarnation: number;
  readonly durableSeq: number;
  readonly directSeq: number;
  readonly records: RawRecord[];
  bad: boolean;
}

/** One record, copied out of its batch. */
export interface RawRecord {
  readonly view: DataView;
  readonly recordAt: number;
  readonly inlineBlock: number;
  readonly bad: boolean;
}
