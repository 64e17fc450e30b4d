import type { Epoch, OsdId } from "../base/ids.ts";

/** Where one shard of an osd listens. */
export interface OsdAddress {
  readonly host: string;
  readonly port: number;
}

/** One osd, as the map knows it. Immutable: a change makes a new row. */
export interface OsdInfo {
  readonly id: OsdId;
  /** Random uuid of the store, as text. Another uuid under the same id is another disk. */
  readonly storeUuid: string;
  readonly host: string;
  /** The monitor hears it and its peers do not say otherwise. Advice for routing, never safety. */
  readonly up: boolean;
  /** May receive new replicas. */
  readonly in: boolean;
  /** Relative share of data; by default the device's size in MiB. 0: receives nothing. */
  readonly weight: number;
  /** One per shard, by shard index; its length is the shard count. */
  readonly addresses: readonly OsdAddress[];
  readonly changeEpoch: Epoch;
}

const MIB = 1_048_576;

/** The default weight of a device of `capacityBytes`: its size in whole MiB, at least 1. */
export function osdWeightOf(capacityBytes: number): number {
  return Math.max(1, Math.floor(capacityBytes / MIB));
}
