import { assert } from "./assert.ts";

/**
 * Branded identifiers: two kinds must not mix. All are non-negative safe integers; on the wire and
 * on disk they are little-endian u32 or u64. None is ever reused.
 */
declare const brand: unique symbol;
type Id<Name extends string> = number & { readonly [brand]: Name };

/** u32 below 2^16; pools are rare. */
export type PoolId = Id<"PoolId">;
/** u32: pool · 2^16 + index of the group in its pool. Written `pool.index` for people. */
export type PgId = Id<"PgId">;
/** u32. */
export type OsdId = Id<"OsdId">;
/** Index of a reactor within its osd. */
export type ShardIndex = Id<"ShardIndex">;
/** u32, ≥ 1: a member of a group, never reused within it; handed out by the change that adds it. */
export type ReplicaId = Id<"ReplicaId">;
/** u64: what users attach. */
export type ImageId = Id<"ImageId">;
/** u64: the writable state of an image (`store.md`, LAYER). */
export type LayerId = Id<"LayerId">;
/** u64: one attachment of an image; request numbers are dense per (session, pg). */
export type SessionId = Id<"SessionId">;
/** u32: version of a cluster map within one generation. */
export type Epoch = Id<"Epoch">;
/** u32: raised when a monitor is restored from a backup. */
export type Generation = Id<"Generation">;
/** u64 raft term, 0 before the first election. */
export type Term = Id<"Term">;
/** u64 raft log index, 0 before the first entry. */
export type LogIndex = Id<"LogIndex">;

/** The highest pool id. */
export const POOL_ID_MAX = 65_535;
const PG_INDEX_MAX = 65_535;

/** Compose the id of a placement group. */
export function pgIdOf(pool: PoolId, index: number): PgId {
  assert(pool >= 1 && pool <= POOL_ID_MAX, "pgIdOf: pool id out of range");
  assert(index >= 0 && index <= PG_INDEX_MAX, "pgIdOf: group index out of range");
  return (pool * 65_536 + index) as PgId;
}

/** The pool that a placement group belongs to. */
export function poolOfPg(pg: PgId): PoolId {
  return Math.floor(pg / 65_536) as PoolId;
}

/** The index of a placement group within its pool. */
function indexOfPg(pg: PgId): number {
  return pg % 65_536;
}

/** `3.17` for people. */
export function formatPgId(pg: PgId): string {
  return `${poolOfPg(pg)}.${indexOfPg(pg)}`;
}

/** Parse `3.17`; undefined when malformed. */
export function parsePgId(text: string): PgId | undefined {
  const match = /^([1-9]\d{0,4})\.(0|[1-9]\d{0,4})$/.exec(text);
  if (match === null) return undefined;
  const pool = Number(match[1]);
  const index = Number(match[2]);
  if (pool > POOL_ID_MAX || index > PG_INDEX_MAX) return undefined;
  return pgIdOf(pool as PoolId, index);
}
