import { assert } from "../base/assert.ts";
import { pgIdOf, type Epoch, type Generation, type PgId, type PoolId } from "../base/ids.ts";
import { hashObject } from "./hash.ts";

/** What two replicas of a group must not share. */
export type FailureDomain = "osd" | "host";

/** Narrow a text to a failure domain. */
export function isFailureDomain(text: string): text is FailureDomain {
  return text === "osd" || text === "host";
}

/** Most replicas of a group. */
export const POOL_SIZE_MAX = 6;
export const PG_COUNT_DEFAULT = 32;
/** Group indexes have 16 bits (`PgId`). */
export const PG_COUNT_MAX = 65_536;
/** Blocks of 4 KiB per object: 64 KiB (one unit) to 64 MiB; 4 MiB by default. Powers of two. */
export const OBJECT_BLOCKS_MIN = 16;
export const OBJECT_BLOCKS_DEFAULT = 1024;
export const OBJECT_BLOCKS_MAX = 16_384;

/** One pool. Immutable. */
export interface PoolInfo {
  readonly id: PoolId;
  readonly name: string;
  /** Replicas per group, 1 to 6. */
  readonly size: number;
  /** A power of two. */
  readonly pgCount: number;
  /** 4 KiB blocks per object, a power of two. */
  readonly objectBlocks: number;
  readonly failureDomain: FailureDomain;
  /** In which it was created: ids of its replicas are of this one, or of a later one. */
  readonly generation: Generation;
  readonly changeEpoch: Epoch;
}

/**
 * The group that an object belongs to: the low bits of `hashObject`.
 *
 * `familyId`: id of the first image of the clone tree, so that parents and clones share groups.
 * `objectIndex`: block number within the layer divided by `objectBlocks`. Because pg counts are
 * powers of two, doubling the count splits each group in two and mixes none.
 */
export function objectToPg(pool: PoolInfo, familyId: number, objectIndex: number): PgId {
  assert(objectIndex >= 0, "objectToPg: negative object index");
  return pgIdOf(pool.id, (hashObject(familyId, objectIndex) & (pool.pgCount - 1)) >>> 0);
}

const NAME_LENGTH_MAX = 63;

/** True for names of pools and images: 1 to 63 of `a-z A-Z 0-9 . _ -`, a letter or digit first. */
export function isName(text: string): boolean {
  return text.length <= NAME_LENGTH_MAX && /^[a-zA-Z0-9][a-zA-Z0-9._-]*$/.test(text);
}
