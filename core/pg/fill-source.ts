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

/** What a leader has to do besides: LeaderLoad of `proto/fill.proto`. */
export enum LeaderLoad {
  None = 0,
  /** Clients keep its shard at work. */
  Clients = 1,
  /** This very group has something to commit, and commits nothing: a replica is missed. */
  Stalled = 2,
}

/** A page of the listing; `next` is the cursor of the page behind it, -1 at the end. */
export interface FillPage {
  readonly next: number;
  readonly units: readonly ListedUnit[];
  /** Units that the leader has in all. */
  readonly total: number;
  readonly load: LeaderLoad;
}

/** What some units are, all as of one applied index; in the order in which they were asked for. */
export interface FillUnits {
  readonly applied: number;
  readonly load: LeaderLoad;
  readonly units: readonly UnitState[];
}

/** What became of blocks that were asked for: a bit (1 << block) each; the rest were overwritten. */
export interface FetchedBits {
  /** Came in the version and checksum that were told. */
  readonly arrived: number;
  /** The leader can not read them now, or found out that they are lost. */
  readonly unreadable: number;
}

/** A leader, as the replica that it fills sees it. Every call may reject: then all starts over. */
export interface FillSource {
  begin(): Promise<FillBeginning>;
  list(cursor: number): Promise<FillPage>;
  units(keys: readonly UnitKey[]): Promise<FillUnits>;
  /**
   * Fetch `count` data blocks of a unit from block `first` on to the arena offset `to`, 4 KiB each.
   * The leader begins to heal what it can not read.
   */
  blocks(unit: UnitState, first: number, count: number, to: number): Promise<FetchedBits>;
}
