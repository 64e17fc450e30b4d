// data path
/** Face of the blocks of a shard: lookup, apply, read, move home. */
export { Mover, type MoverOwner, MOVER_BUFFER_BYTES } from "./mover.ts";
export { ObjectStore } from "./object-store.ts";
export { BlockState, SNAP_SEQ_HEAD, StoreReadOp, StoreRepairOp } from "./ops.ts";
export { Reader } from "./reader.ts";
