// data path
/** Face of the shard's log. */
export * from "./batch.ts";
export { BatchTable } from "./batch-table.ts";
export { Entry, EntryType } from "./entry.ts";
export { EntryPool } from "./entry-pool.ts";
export { StoreFillOp } from "./fill-op.ts";
export { GroupLog } from "./group-log.ts";
export { StoreLoadOp } from "./load-op.ts";
export { Loader } from "./loader.ts";
export {
  type ScannedEntry,
  type ScannedFill,
  type ScannedGroup,
  type ScanResult,
  scanLog,
} from "./log-scan.ts";
export { LogSpace } from "./log-space.ts";
export * from "./record.ts";
export { type LogOwner, ShardLog } from "./shard-log.ts";
