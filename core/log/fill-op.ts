// data path
import { Status } from "../base/status.ts";
import { BLOCKS_PER_UNIT } from "../base/units.ts";

/**
 * Make blocks of one unit what another replica has (`LocalStore.fill`). Pooled by its owner.
 *
 * The payload belongs to the log until `onDone`. Invariant: every version is ≤ `at`.
 */
export abstract class StoreFillOp {
  /* Request. */
  row = 0;
  layer = 0;
  unit = 0;
  snapSeq = 0;
  /** The applied index as of which the blocks are what is told here. */
  at = 0;
  /** Bit i: block i of the unit changes. The other blocks are left as they are. */
  mask = 0;
  /** `BlockState` of each block of the mask: Zero, Data or Lost. */
  readonly states: Uint8Array = new Uint8Array(BLOCKS_PER_UNIT);
  /** Of Data and Lost blocks. */
  readonly versions: Float64Array = new Float64Array(BLOCKS_PER_UNIT);
  /** Of Data blocks. */
  readonly crcs: Uint32Array = new Uint32Array(BLOCKS_PER_UNIT);
  /** The payload of the mask's Data blocks, 4 KiB each, ascending, without gaps; -1 without any. */
  arenaOffset = -1;

  /* Answer. */
  /**
   * Ok: durable and applied. Busy: no room in the log now, or space is about to be freed. NoSpace.
   * Invalid: a block of the payload does not match its crc32. Cancelled: the replica was removed.
   * DeviceFailed.
   */
  status: Status = Status.Ok;

  /* Owned by the log while it is under way. */
  /** The mask by state; disjoint. */
  dataBits = 0;
  zeroBits = 0;
  lostBits = 0;
  reservedUnits = 0;
  reservedLogBlocks = 0;
  /** Where it lies: sequence of the batch, log block of the first Data block (-1: none). */
  batchSeq = 0;
  inlineBlock = -1;
  /** Its replica is gone: it is not applied. */
  orphaned = false;
  fillNext: StoreFillOp | null = null;

  /** Handler or drain phase, never within `fill`. */
  abstract onDone(): void;
}
