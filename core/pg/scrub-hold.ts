// cold path: a scrub works in rounds of milliseconds, in the background.
/** What a replica does for the leader that scrubs: tell what units are as of one exact index. */
import { sleep } from "../reactor/world.ts";
import type { UnitKey } from "./fill-source.ts";
import type { Group } from "./group.ts";
import { GroupHealth, UnitState } from "./local-store.ts";

/** The index is a few entries ahead: it comes with the next Append or heartbeat, or not soon. */
const HOLD_US_MAX = 500_000;
const LOOK_US = 1000;

/** What units of a replica are, in the order of `keys`, all as of `applied`. */
export interface UnitsNow {
  readonly applied: number;
  readonly units: UnitState[];
}

/** What units of a replica are now; when the index is paged, as soon as that can be told. */
export async function unitsOf(group: Group, keys: readonly UnitKey[]): Promise<UnitsNow> {
  const { store } = group.shard;
  const look = (): UnitsNow => ({
    applied: group.appliedIndex,
    units: keys.map((key) => unitOf(group, key)),
  });
  return store.isPaged ? await store.withUnits(group.row, keys, look) : look();
}

function unitOf(group: Group, key: UnitKey): UnitState {
  const state = new UnitState();
  state.layer = key.layer;
  state.unit = key.unit;
  state.snapSeq = key.snapSeq;
  group.shard.store.unitState(group.row, state);
  return state;
}

/**
 * What units of a replica are once exactly `index` is applied: it applies nothing beyond until they
 * are told. Nobody waits for that, unless it leads: then it does not hold. Null: it has applied more,
 * or does not get there in time.
 */
export async function unitsAt(
  group: Group,
  keys: readonly UnitKey[],
  index: number,
): Promise<UnitState[] | null> {
  if (!isWholeFollower(group) || group.appliedIndex > index) return null;
  const { clock, timers } = group.shard.world;
  const untilUs = clock.nowUs() + HOLD_US_MAX;
  group.users += 1;
  hold(group, index);
  try {
    while (group.appliedIndex < index) {
      if (clock.nowUs() > untilUs) return null;
      await sleep(timers, LOOK_US);
      if (!isWholeFollower(group) || group.holdIndex !== index) return null;
    }
    const { applied, units } = await unitsOf(group, keys);
    return applied === index ? units : null;
  } finally {
    group.users -= 1;
    // A fill that began meanwhile took the hold away, and may hold at the same index.
    if (group.fill === null && group.holdIndex === index) release(group);
  }
}

function hold(group: Group, index: number): void {
  group.holdIndex = index;
  group.shard.queueApply(group);
  group.shard.world.turns.again();
}

/** Let a replica apply whatever is committed: a scrub that holds it looks again. */
export function release(group: Group): void {
  hold(group, Number.POSITIVE_INFINITY);
}

/** Whether the replica has data, follows, whole and counted, and nothing else holds it. */
export function isWholeFollower(group: Group): boolean {
  if (group.gone || group.isLeader || group.silent || group.creating || group.fill !== null) {
    return false;
  }
  if (group.witness) return false;
  return group.shard.store.healthOf(group.row) === GroupHealth.Ok;
}
