// cold path: a scrub works in rounds of milliseconds, in the background.
/** Who is right among replicas that differ, and what a scrub has found. */
import { BLOCKS_PER_UNIT } from "../base/units.ts";
import type { UnitKey } from "./fill-source.ts";
import { BlockState, type UnitState } from "./local-store.ts";
import type { BlockPlace, ScrubRead } from "./scrub-peer.ts";

/** Blocks that are named in a report. */
const NAMED_MAX = 16;

/** A block that was found and is not right. */
export interface ScrubLeft extends BlockPlace {
  /** No version of it is that of a majority; else it waits for a replica, or is lost. */
  readonly undecided: boolean;
}

/** How the replicas of one unit differ. */
export interface UnitJudgement {
  /** By block: the replicas that do not have what the majority has (a bit each); all when undecided. */
  readonly differing: Uint32Array;
  /** Blocks of which no majority has the same (a bit each). */
  readonly undecided: number;
}

/** Judge what one unit is on all replicas of a group at the same index. */
export function judgeUnit(units: readonly UnitState[]): UnitJudgement {
  const differing = new Uint32Array(BLOCKS_PER_UNIT);
  let undecided = 0;
  for (let bit = 0; bit < BLOCKS_PER_UNIT; bit++) {
    if (units.every((one) => isSame(one, units[0]!, bit))) continue;
    const right = units.find((one) => {
      const count = units.filter((other) => isSame(one, other, bit)).length;
      return count * 2 > units.length;
    });
    units.forEach((one, at) => {
      if (right === undefined || !isSame(one, right, bit)) differing[bit]! |= 1 << at;
    });
    if (right === undefined) undecided |= 1 << bit;
  }
  return { differing, undecided };
}

/** Lost is no content: it is the same as what is lost there. */
function isSame(one: UnitState, other: UnitState, bit: number): boolean {
  if (one.versions[bit] !== other.versions[bit]) return false;
  const isLost = (unit: UnitState): boolean => unit.states[bit] === BlockState.Lost;
  if (isLost(one) || isLost(other)) return true;
  return one.states[bit] === other.states[bit] && one.crcs[bit] === other.crcs[bit];
}

/** The place of a block of a unit. */
export function blockOf({ layer, unit }: UnitKey, bit: number): BlockPlace {
  return { layer, block: unit * BLOCKS_PER_UNIT + bit };
}

/** What a scrub has found so far. */
export class ScrubTally {
  /** Blocks read, in all replicas. */
  blocksRead = 0;
  private damaged = 0;
  private damagedLeft = 0;
  private readonly named: ScrubLeft[] = [];
  private readonly differed = new Set<string>();
  private readonly differing = new Map<string, ScrubLeft>();

  /** Blocks that were damaged, or not the same on all replicas. */
  get found(): number {
    return this.damaged + this.differed.size;
  }

  /** Those of them that are not right yet. */
  get left(): number {
    return this.damagedLeft + this.differing.size;
  }

  /** The first of those that are not right. */
  get blocks(): ScrubLeft[] {
    return [...this.differing.values(), ...this.named].slice(0, NAMED_MAX);
  }

  addRead(read: ScrubRead): void {
    this.blocksRead += read.blocks;
    this.damaged += read.damaged;
    this.damagedLeft += read.damaged - read.healed;
    for (const place of read.left) {
      if (this.named.length < NAMED_MAX) this.named.push({ ...place, undecided: false });
    }
  }

  /** All is compared anew. */
  beginPass(): void {
    this.differing.clear();
  }

  /** A block differs. True: it was not known. */
  note(place: BlockPlace, isUndecided: boolean): boolean {
    const key = `${String(place.layer)}/${String(place.block)}`;
    const isNew = !this.differed.has(key);
    this.differed.add(key);
    this.differing.set(key, { ...place, undecided: isUndecided });
    return isNew;
  }
}
