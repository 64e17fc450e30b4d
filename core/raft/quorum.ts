// data path
/**
 * Majorities over the members of a configuration, as bit masks of member slots (at most 16).
 *
 * In a joint configuration both majorities must agree: `outgoing` is 0 otherwise.
 */
import { assert } from "../base/assert.ts";

/** Most members of one group, learners and both halves of a joint configuration included. */
export const MEMBERS_MAX = 16;

/** How many bits of a slot mask are set. */
export function popCount(mask: number): number {
  let rest = mask - ((mask >>> 1) & 0x5555_5555);
  rest = (rest & 0x3333_3333) + ((rest >>> 2) & 0x3333_3333);
  return Math.imul((rest + (rest >>> 4)) & 0x0f0f_0f0f, 0x0101_0101) >>> 24;
}

/** Whether `mask` holds a majority of `voters`. The empty set of voters is always satisfied. */
function hasMajority(mask: number, voters: number): boolean {
  return voters === 0 || popCount(mask & voters) * 2 > popCount(voters);
}

/** Whether the slots in `mask` form a quorum of both halves. False without any voter. */
export function hasQuorum(mask: number, voters: number, outgoing: number): boolean {
  if (voters === 0) return false;
  return hasMajority(mask, voters) && hasMajority(mask, outgoing);
}

/** Whether a quorum is out of reach once the slots in `refused` said no. */
export function quorumLost(refused: number, voters: number, outgoing: number): boolean {
  return !hasQuorum(~refused, voters, outgoing);
}

/** Scratch of `quorumValue`: one per shard, sorted in place. */
export class QuorumScratch {
  readonly values: Float64Array = new Float64Array(MEMBERS_MAX);
}

function majorityValue(values: Float64Array, voters: number, scratch: QuorumScratch): number {
  const sorted = scratch.values;
  let count = 0;
  for (let slot = 0; slot < MEMBERS_MAX; slot++) {
    if ((voters & (1 << slot)) === 0) continue;
    const value = values[slot]!;
    let at = count++;
    // Insertion sort, descending: at most 16 values, mostly 3.
    while (at > 0 && sorted[at - 1]! < value) {
      sorted[at] = sorted[at - 1]!;
      at--;
    }
    sorted[at] = value;
  }
  // 3 voters: the second largest; 4 voters: the third.
  return sorted[count >>> 1]!;
}

/**
 * The largest value that a quorum reaches: `values[slot]` per member, of any unit.
 *
 * With match indexes it is the index that may be committed; with the ends of lease promises it is
 * the end of the lease. Requires: at least one voter.
 */
export function quorumValue(
  values: Float64Array,
  voters: number,
  outgoing: number,
  scratch: QuorumScratch,
): number {
  assert(voters !== 0, "quorumValue: configuration without voters");
  const incoming = majorityValue(values, voters, scratch);
  if (outgoing === 0) return incoming;
  return Math.min(incoming, majorityValue(values, outgoing, scratch));
}
