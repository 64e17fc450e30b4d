// data path
/** Face of the blocks of a shard: lookup, apply, read, move home. */
export { Mover, type MoverOwner } from "./mover.ts";
export { findLost, type LostBlock } from "./lost.ts";
export { checkOverlay } from "./object-invariants.ts";
export { ObjectStore, SourceKind } from "./object-store.ts";
export { BlockState, SNAP_SEQ_HEAD, StoreReadOp, StoreRepairOp } from "./ops.ts";
export { Reader } from "./reader.ts";
export { MOVER_BUFFER_BYTES } from "./sweep-plan.ts";
export { unitsForWrite, unitsForZero, zeroRange } from "./unit-space.ts";
export {
  digestListed,
  digestOf,
  listUnits,
  readUnit,
  UnitListing,
  UnitState,
  unitSlot,
} from "./unit-state.ts";
