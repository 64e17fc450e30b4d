// cold path: for `verifying` runs, once per checkpoint.
import { assert } from "../base/assert.ts";
import { checkOverlay } from "../object/object.ts";
import { checkSlots, SlotState } from "../store/store.ts";
import type { StoreMachines, StoreParts, StoreState } from "./local-store-parts.ts";

/**
 * Check what the store's parts promise of themselves and of each other, in one turn:
 *
 *   units      free + of replicas + holes + taken + in quarantine + being discarded = all, as the
 *              counts have it; what is taken is named by one entry that is not applied
 *   quarantine holds nothing that the tail has passed (R5)
 *   log        batches between tail and head, queued blocks, units set aside: the sums of their owners
 *   overlay    what is applied and not home lies between tail and head
 */
export function checkStore(parts: StoreParts, machines: StoreMachines, state: StoreState): void {
  const { log, objects } = machines;
  const { slots, quarantine, batches } = parts;
  const { units } = checkSlots(slots, quarantine, state.checkpointSeq);
  let kept = 0;
  for (let row = 0; row < log.groups.length; row++) kept += slots.unitsOfRow(row);
  const unused = slots.freeUnits + slots.discarding + units[SlotState.Quarantined]!;
  const used = kept + units[SlotState.Hole]! + units[SlotState.Taken]!;
  assert(unused + used === slots.unitsTotal, "LocalStore: the sum of units is not all units");
  checkTaken(parts, machines, units[SlotState.Taken]!);
  assert(quarantine.oldestSeq > batches.tailSeq, "Quarantine: the tail passed what it still holds");
  const waiting = state.rows.reduce((sum, facts) => sum + (facts?.fills.length ?? 0), 0);
  log.invariants(waiting);
  checkOverlay(objects, log.headPosition - log.livingBlocks, log.headPosition, (row) => {
    const group = log.groups[row]!;
    return Math.max(group.applied, group.homeVersion);
  });
}

/** A unit that is taken and that no entry names would be used never again. */
function checkTaken({ slots }: StoreParts, { log }: StoreMachines, taken: number): void {
  const named = new Set<number>();
  let count = 0;
  for (const group of log.groups) {
    if (!group.alive) continue;
    for (let index = group.applied + 1; index <= group.last; index++) {
      for (let unit = 0; unit < group.unitCountAt(index); unit++) {
        const slot = group.unitAt(index, unit);
        if (slots.stateOf(slot) !== SlotState.Taken) continue;
        count += 1;
        named.add(slot);
      }
    }
  }
  assert(count === named.size, "LocalStore: two entries name one unit");
  assert(count <= taken, "LocalStore: an entry names a unit that is not taken");
  // Entries that were cut hold theirs until nothing is written into them any more.
  assert(log.writesDirectly || count === taken, "LocalStore: a unit is taken that no entry names");
}
