/**
 * The face of `core/cluster`: the pure model of a cluster that every role shares.
 *
 * A `ClusterMap` says which osds exist, which pools, and which replicas each placement group
 * should have. Monitors change it, epoch by epoch; everybody else follows by deltas. Nothing here
 * does I/O, reads a clock or knows frames: `MapDelta` has the shape of the message `MapUpdate` of
 * `proto/control.proto`, so that a decoded message is a delta and a delta initialises a message.
 */
export { ApplyResult, ClusterMap, compareMapIdentity } from "./cluster-map.ts";
export type { MapChange } from "./cluster-map.ts";
export { splitDelta } from "./map-parts.ts";
export { MapTeller, TOLD_BYTES_MAX } from "./map-telling.ts";
export type {
  MapDelta,
  OsdRow,
  PgRow,
  PoolRow,
  RecoveryRow,
  RemovedPoolsRow,
} from "./map-delta.ts";
export type { OsdAddress, OsdInfo } from "./osd-map.ts";
export { osdWeightOf } from "./osd-map.ts";
export type { PgConfiguration, PgInfo, ReplicaInfo } from "./pg-map.ts";
export {
  holdersOf,
  isUp,
  missingOf,
  pgStateOf,
  PgState,
  replicaOf,
  replicaOnOsd,
} from "./pg-map.ts";
export {
  isFailureDomain,
  isName,
  objectToPg,
  OBJECT_BLOCKS_DEFAULT,
  OBJECT_BLOCKS_MAX,
  OBJECT_BLOCKS_MIN,
  PG_COUNT_DEFAULT,
  PG_COUNT_MAX,
  POOL_SIZE_MAX,
} from "./pool.ts";
export type { PoolInfo } from "./pool.ts";
export type { RecoverySettings } from "./recovery.ts";
export { firstReplicaOf } from "./removed-pools.ts";
export { RecoverySpeed } from "./recovery.ts";
export type { ImageHeader } from "./image.ts";
export { ImageRights, isImageSize, SNAP_SEQ_WRITABLE } from "./image.ts";
export { checkGrant, signGrant } from "./session-grant.ts";
export { place } from "./placement.ts";
export type {
  PlacedReplica,
  PlacementOsd,
  PlacementResult,
} from "./placement.ts";
