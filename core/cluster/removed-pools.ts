import type { PoolId } from "../base/ids.ts";
import type { RemovedPoolsRow } from "./map-delta.ts";

/** Ids of replicas jump with the generation: a restored monitor must not hand one out twice. */
const REPLICA_JUMP = 65_536;

/** The lowest id of replicas that are made in a generation. */
export function firstReplicaOf(generation: number): number {
  return (generation - 1) * REPLICA_JUMP + 1;
}

/**
 * The pools that were removed, for good: the map never forgets one.
 *
 * Whoever has replicas of a pool that a map merely lacks can not know why. It was removed, or the map
 * comes of a monitor that was restored from a backup, and the pool is younger than that: then the
 * replicas are all that is left of it. So they go by what is told here, and by nothing else.
 *
 * A restored monitor lacks what was told after the backup: what it does not know stays. And it may
 * give the id of a pool that it has forgotten to a new one, if many were made after the backup. The ids
 * of replicas tell the two apart: those of a pool are of the generation in which it was created, or of a
 * later one, and a restored monitor begins a higher one.
 *
 * Ids of pools follow each other, so what is removed is a few runs, however much it is. Each knows its
 * epoch, as every row does: so a delta can begin anywhere, also where the teller was started later.
 */
export class RemovedPools {
  /** By generation and id; those of one generation neither overlap nor touch. */
  readonly rows: readonly RemovedPoolsRow[];

  /** Of runs in any order. */
  constructor(rows: readonly RemovedPoolsRow[] = []) {
    this.rows = joined(rows);
  }

  /** Whether a pool was removed. */
  has(pool: PoolId): boolean {
    return this.rows.some(({ first, last }) => first <= pool && pool <= last);
  }

  /** Whether a replica is of a pool that was removed. */
  covers(pool: PoolId, replica: number): boolean {
    return this.rows.some(
      ({ first, last, generation }) =>
        first <= pool && pool <= last && replica >= firstReplicaOf(generation),
    );
  }
}

function joined(rows: readonly RemovedPoolsRow[]): RemovedPoolsRow[] {
  const sorted = [...rows].sort((a, b) => a.generation - b.generation || a.first - b.first);
  const runs: RemovedPoolsRow[] = [];
  for (const { first, last, generation, changeEpoch } of sorted) {
    const before = runs[runs.length - 1];
    if (before?.generation !== generation || first > before.last + 1) {
      runs.push({ first, last, generation, changeEpoch });
      continue;
    }
    runs[runs.length - 1] = {
      ...before,
      last: Math.max(before.last, last),
      changeEpoch: Math.max(before.changeEpoch, changeEpoch),
    };
  }
  return runs;
}
