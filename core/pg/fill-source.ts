// cold path: a replica is filled in rounds of milliseconds.
/** The seam between a replica that is filled (`fill.ts`) and the leader that it asks. */
import type { GroupState, UnitState } from "./local-store.ts";

/** Names a unit of a layer as a reader at `snapSeq` sees it. */
export interface UnitKey {
  readonly layer: number;
  readonly unit: number;
  readonly snapSeq: number;
}

/** A unit that the leader has, and the digest of its blocks. */
export interface ListedUnit extends UnitKey {
  readonly digestLow: number;
  readonly digestHigh: number;
}

/** What a replica begins with: the leader's position and its group's state there. */
export interface FillBeginning {
  readonly index: number;
  readonly term: number;
  readonly state: GroupState;
}

/** A page of the listing; `next` is the cursor of the page behind it, -1 at the end. */
export interface FillPage {
  readonly next: number;
  readonly units: readonly ListedUnit[];
}

/** What some units are, all as of one applied index; in the order in which they were asked for. */
export interface FillUnits {
  readonly applied: number;
  readonly units: readonly UnitState[];
}

/** A leader, as the replica that it fills sees it. Every call may reject: then all starts over. */
export interface FillSource {
  begin(): Promise<FillBeginning>;
  list(cursor: number): Promise<FillPage>;
  units(keys: readonly UnitKey[]): Promise<FillUnits>;
  /**
   * Fetch `count` data blocks of a unit from block `first` on to the arena offset `to`, 4 KiB each.
   * Answers the bits (1 << block) of those that came in the version and checksum that `unit` says;
   * the others were overwritten. Answers -1 when the leader can not read them now.
   */
  blocks(unit: UnitState, first: number, count: number, to: number): Promise<number>;
}
