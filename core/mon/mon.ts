/**
 * The face of `core/mon`: the control plane.
 *
 * REST `/api/v1` (shapes: `schema.ts`): GET status health version monitors pools
 * pools/{p} pools/{p}:explain images?pool= pools/{p}/images pools/{p}/images/{i} osds osds/{id}
 * pgs?pool= pgs/{id} recovery operations operations/{id}?waitMs= · POST operations/{id}:cancel pools (PoolCreate → 201 Pool)
 * pools/{p}/images (ImageCreate → 201 Image) pools/{p}/images/{i}:resize (ImageResize → 200 or, when
 * it shrinks, 202 ImageResized) osds/{id}:in osds/{id}:out pgs/{id}:transferLeader (PgTransfer)
 * pgs/{id}:replaceReplica (PgReplace) · PATCH pools/{p}/images/{i} (ImageRename → Image) recovery (RecoverySet → Recovery) · DELETE
 * pools/{p} (200 Pool) pools/{p}/images/{i}?force=FB3005 (202 Operation). Lists are `{items: […]}`.
 * GET trace?slowest= (Trace) · POST trace (TraceStart → Trace) · DELETE trace (Trace).
 * `?fresh=true` on images asks the osds first what they hold now.
 * `?dryRun=true` on every change checks it and changes nothing. Errors are
 * `application/problem+json` (Problem).
 */
export { createApi } from "./api.ts";
export { Catalogue } from "./catalogue.ts";
export { MemoryMetaStore } from "./memory-store.ts";
export { Monitor, type MonitorOptions } from "./monitor.ts";
export type { ImageRecord, OperationRecord } from "./records.ts";
export type { TraceOpView, TraceView } from "./schema-trace.ts";
export type {
  ImageView,
  OperationView,
  OsdView,
  PgView,
  PoolView,
  RecoveryView,
  StatusView,
} from "./schema.ts";
