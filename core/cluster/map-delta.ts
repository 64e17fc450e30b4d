/**
 * A change of the cluster map as plain data: what travels and what is stored.
 *
 * The shape is that of `MapUpdate` in `proto/control.proto`: plain numbers, strings and lists, no
 * brands. `ClusterMap.apply` checks the values and brands them.
 *
 * Lists are mutable for the sake of the generated types alone; nobody changes them.
 *
 * A full map is a delta with `full: true`; otherwise rows are upserts, complete as of `epoch`. What
 * disappears is told by rows, too: pools do, and their groups with them.
 */
export interface MapDelta {
  readonly generation: number;
  /** The epoch that the receiver must have reached; 0 in a full map. */
  readonly fromEpoch: number;
  /** The epoch after the change. */
  readonly epoch: number;
  readonly full: boolean;
  readonly osds: OsdRow[];
  readonly pools: PoolRow[];
  readonly pgs: PgRow[];
  readonly removedPools: RemovedPoolsRow[];
  /** A large delta comes in parts, 0 first; they take effect together with the last one. */
  readonly part: number;
  readonly more: boolean;
  /** Absent: as before; in a full map: as every cluster begins. */
  readonly recovery?: RecoveryRow | undefined;
  /** The format of the cluster (core/base/formats.ts). Absent, 0: the first. */
  readonly format?: number;
}

export interface RecoveryRow {
  /** `RecoverySpeed`; others count as medium. */
  readonly speed: number;
  readonly paused: boolean;
  readonly changeEpoch: number;
}

export interface OsdRow {
  readonly id: number;
  /** Random uuid of the store, as text; another one is another disk. */
  readonly storeUuid: string;
  readonly host: string;
  readonly up: boolean;
  readonly in: boolean;
  /** Relative share of data; by default the device's size in MiB. */
  readonly weight: number;
  /** One data address per shard, by shard index. */
  readonly addresses: OsdAddressRow[];
  /** Epoch of the last change of this row. */
  readonly changeEpoch: number;
}

export interface OsdAddressRow {
  readonly host: string;
  readonly port: number;
}

export interface PoolRow {
  readonly id: number;
  readonly name: string;
  /** Replicas per group. */
  readonly size: number;
  /** A power of two. */
  readonly pgCount: number;
  /** 4 KiB blocks per object. */
  readonly objectBlocks: number;
  /** `osd` or `host`. */
  readonly failureDomain: string;
  readonly changeEpoch: number;
  /** In which it was created; absent or 0: the first one. */
  readonly generation?: number;
}

/** A run of pools that were created in one generation and do not exist any more. */
export interface RemovedPoolsRow {
  /** Ids, both included. */
  readonly first: number;
  readonly last: number;
  /** In which they were created. */
  readonly generation: number;
  /** Of the last removal in it. */
  readonly changeEpoch: number;
}

export interface PgRow {
  readonly id: number;
  /** Epoch of the last change of the replicas: requests with an older map are refused. */
  readonly lastChangeEpoch: number;
  /** Epoch of the last change of anything in this row. */
  readonly changeEpoch: number;
  readonly creating: boolean;
  readonly replicas: ReplicaRow[];
  /** Reported leader's replica id and term; 0: none known. */
  readonly leader: number;
  readonly leaderTerm: number;
  readonly configuration?: ConfigurationRow | undefined;
}

export interface ReplicaRow {
  readonly replicaId: number;
  readonly osd: number;
  readonly storeUuid: string;
  readonly shard: number;
  readonly leaving: boolean;
  /** Absent: no. */
  readonly witness?: boolean;
}

export interface ConfigurationRow {
  readonly index: number;
  readonly voters: number[];
  readonly outgoing: number[];
  readonly learners: number[];
}
