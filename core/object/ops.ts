// data path
import { Status } from "../base/status.ts";
import { PAYLOAD_BLOCKS_MAX } from "../base/units.ts";

/** Read the writable state of a layer rather than one of its snapshots. */
export const SNAP_SEQ_HEAD = 0xffff_ffff;

/** What a block is on this replica. Zero, Data and Lost are wire and disk format. */
export enum BlockState {
  /** Never written, or zeroed: no payload. */
  Zero = 0,
  Data = 1,
  /** Lost on all replicas, for good: refused until it is written again. */
  Lost = 2,
  /** The bytes read do not match the checksum: fetch it at `versions[i]` from a peer, `repair`. */
  Damaged = 3,
}

/**
 * Read blocks of a layer. Pooled and extended by its owner.
 *
 * Set the request fields, then `LocalStore.read`. Results are valid in `onDone` (or at once when
 * `read` answers true) and until the op is used again.
 */
export abstract class StoreReadOp {
  /* Request. */
  row = 0;
  layer = 0;
  firstBlock = 0;
  /** 1 to 64. */
  blocks = 0;
  /** Snapshot to read, or `SNAP_SEQ_HEAD`. */
  snapSeq: number = SNAP_SEQ_HEAD;
  /** Answer states, versions and checksums only; no payload is read, nothing is verified. */
  statesOnly = false;
  /** Where the payload goes: block i at arenaOffset + i · 4096. Zero blocks are left untouched. */
  arenaOffset = -1;

  /* Answer. */
  /** Ok (look at `damaged` then), DeviceFailed. */
  status: Status = Status.Ok;
  /** `BlockState` of each block. */
  readonly states: Uint8Array = new Uint8Array(PAYLOAD_BLOCKS_MAX);
  /** Raft index that wrote the block; 0 when it never was, or nothing is known any more. */
  readonly versions: Float64Array = new Float64Array(PAYLOAD_BLOCKS_MAX);
  /** The client's crc32 of each data block. */
  readonly crcs: Uint32Array = new Uint32Array(PAYLOAD_BLOCKS_MAX);
  /** How many blocks are Data, and how many Damaged. */
  dataBlocks = 0;
  damagedBlocks = 0;

  /* Owned by the store while it is under way. */
  readonly sources: Float64Array = new Float64Array(PAYLOAD_BLOCKS_MAX);
  pending = 0;
  tries = 0;
  era = 0;
  /** Blocks that are found; all of them but while rows are awaited. */
  located = 0;
  /** Damaged blocks before this one were looked at again, and a row is awaited; -1: not under way. */
  lookedAgain = -1;
  /** Some of them are read again. */
  readAgain = false;

  /** Every block is answered. Handler phase. */
  abstract onDone(): void;
}

/** Put a block right that a read reported Damaged. Pooled by its owner. */
export abstract class StoreRepairOp {
  row = 0;
  layer = 0;
  block = 0;
  snapSeq: number = SNAP_SEQ_HEAD;
  /** The version that was damaged, and the payload of exactly that version with its crc32. */
  version = 0;
  crc = 0;
  arenaOffset = -1;
  /** Ok; Conflict: the block has another version by now; Invalid: the payload does not match. */
  status: Status = Status.Ok;
  /** Owned by the store while it is under way. */
  repairNext: StoreRepairOp | null = null;
  abstract onDone(): void;
}
