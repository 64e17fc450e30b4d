// data path
/** Face of the store's structures: superblock, zones, index slots, quarantine, checkpoint. */
export * from "./checkpoint-codec.ts";
export { fitU53, getU48, getU64, putU48, putU64 } from "./fixed.ts";
export * from "./geometry.ts";
export { NONE } from "./layer-table.ts";
export { FRAME_BYTES } from "./index-frames.ts";
export { type IndexScanResult, scanIndex } from "./index-scan.ts";
export {
  LOAD_BUFFER_BYTES,
  PageHolds,
  type PageHoldsOwner,
  PageLoader,
  type PageLoaderOwner,
  PageWaiter,
} from "./page-loader.ts";
export { PAGE_BUFFER_BYTES, PageWriter, type PageWriterOwner } from "./page-writer.ts";
export { Eras, Quarantine } from "./quarantine.ts";
export * from "./slot-codec.ts";
export { checkSlots } from "./slot-invariants.ts";
export { SlotTable, UNITS_PER_HOLE } from "./slot-table.ts";
export { SlotFlag, SlotState, SlotZone } from "./slot-zone.ts";
export { StaleUnits } from "./stale-units.ts";
export * from "./starts.ts";
export * from "./superblock.ts";
export * from "./zone-table.ts";
