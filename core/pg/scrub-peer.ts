// cold path: a scrub works in rounds of milliseconds, in the background.
/** The seam between the leader that scrubs its group (`scrub.ts`) and the replicas that it asks. */
import type { FillPage, UnitKey } from "./fill-source.ts";
import type { UnitState } from "./local-store.ts";

/** A block of a layer. */
export interface BlockPlace {
  readonly layer: number;
  readonly block: number;
}

/** What reading a part of a replica's data against its checksums came to. */
export interface ScrubRead {
  /** Where to go on; -1: nothing is left. */
  readonly next: number;
  /** Blocks that were read, those that did not match, and those of them that do again. */
  readonly blocks: number;
  readonly damaged: number;
  readonly healed: number;
  /** The first of those that do not. */
  readonly left: readonly BlockPlace[];
}

/** A replica, this one or another, that reads all its data. */
export interface ScrubReader {
  readonly replica: number;
  /** Read its data from `cursor` (0: the beginning) on, and heal what does not match. May reject. */
  read(cursor: number): Promise<ScrubRead>;
}

/** One replica as the leader that scrubs asks it. Every call may reject: then it is asked anew. */
export interface ScrubPeer extends ScrubReader {
  /** Its units, in an order of its own, from `cursor` (0: the beginning) on. */
  list(cursor: number): Promise<FillPage>;
  /** What some units are there as of exactly `index`; null: it has applied more, or does not get there. */
  unitsAt(keys: readonly UnitKey[], index: number): Promise<readonly UnitState[] | null>;
  /** It is not what most replicas are: let it be filled by difference. */
  refill(): Promise<void>;
}
