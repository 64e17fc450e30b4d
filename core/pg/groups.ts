// data path
import { assert } from "../base/assert.ts";
import type { Group } from "./group.ts";

/** Makes objects of a parked group again, see `parking.ts`. */
export interface GroupWaker {
  wake(row: number): Group;
}

/**
 * The groups of a shard, by pg and by row of the store.
 *
 * One that is parked has no objects: whoever finds a group here wakes it, so that nobody else has to
 * know of parking. Only what asks for those that are awake does not wake.
 */
export class Groups {
  private readonly rowOf = new Map<number, number>();
  /** By row; null: none is there, or it is parked. */
  private readonly rows: (Group | null)[] = [];
  private readonly waker: GroupWaker;

  // cold: once per start.
  constructor(waker: GroupWaker) {
    this.waker = waker;
  }

  /** How many there are, parked ones included. */
  get size(): number {
    return this.rowOf.size;
  }

  get(pg: number): Group | undefined {
    const row = this.rowOf.get(pg);
    if (row === undefined) return undefined;
    const group = this.rows[row]!;
    if (group === null) return this.waker.wake(row);
    group.quietLooks = 0;
    return group;
  }

  /** The group in a row that is awake; null: none is there, or it is parked. */
  awakeAt(row: number): Group | null {
    return this.rows[row] ?? null;
  }

  // cold: for maps.
  /** The group if it is awake; null: it is parked, or not here. */
  awakeOf(pg: number): Group | null {
    const row = this.rowOf.get(pg);
    return row === undefined ? null : (this.rows[row] ?? null);
  }

  // cold: for what is rare.
  /** Row of a group that is parked; -1: it is awake, or not here. */
  parkedRowOf(pg: number): number {
    const row = this.rowOf.get(pg);
    return row === undefined || this.rows[row] !== null ? -1 : row;
  }

  // cold: for what is rare.
  /** The group that is in one of `rowsOf()`; one that is awake is as quiet as it was. */
  at(row: number): Group {
    return this.rows[row] ?? this.waker.wake(row);
  }

  // cold: for what is rare.
  /** Every group; all wake. */
  values(): Group[] {
    return Array.from(this.rowOf.values(), (row) => this.at(row));
  }

  // cold: for what is rare.
  /** Every group that is awake. */
  awake(): Group[] {
    return this.rows.filter((group) => group !== null);
  }

  // cold: for reports.
  /** Row by group. */
  rowsOf(): ReadonlyMap<number, number> {
    return this.rowOf;
  }

  // cold: once per replica, and when it wakes.
  /** Take a group in that is awake. */
  put(group: Group): void {
    const { pg, row } = group;
    const before = this.rowOf.get(pg);
    assert(before === undefined || before === row, "Groups.put: the group has another row");
    this.rowOf.set(pg, row);
    while (this.rows.length <= row) this.rows.push(null);
    assert(this.rows[row] === null, "Groups.put: the row is taken");
    this.rows[row] = group;
  }

  // cold: when it is parked.
  /** The objects of a group are let go. */
  park(group: Group): void {
    this.rows[group.row] = null;
  }

  // cold: once per replica.
  /** Forget a group. */
  delete(group: Group): void {
    this.rowOf.delete(group.pg);
    this.rows[group.row] = null;
  }
}
