// cold path: once per connection between shards.
import { decodeStarts, isNewer, judgeStarts, type StoreStart } from "../store/store.ts";

/** Stores of other osds that are remembered; the one that was heard of first is forgotten first. */
const STORES_MAX = 4096;

/**
 * What a shard remembers of its peers' stores: the newest start of each that it has met.
 *
 * Kept by the osd beside its map (`onLearned`), so that a cluster that was off as a whole still
 * knows. What is remembered only ever grows: a start that was seen has served.
 */
export class PeerStarts {
  private readonly known: Map<string, StoreStart>;
  private readonly onLearned: (storeUuid: string, start: StoreStart) => void;

  constructor(
    known: Iterable<readonly [string, StoreStart]>,
    onLearned: (storeUuid: string, start: StoreStart) => void,
  ) {
    this.known = new Map(known);
    this.onLearned = onLearned;
  }

  /** A store shows its starts. Answers why it is an old copy; empty: it is not, and is remembered. */
  meet(storeUuid: string, encoded: Uint8Array): string {
    const starts = decodeStarts(encoded);
    if (starts === undefined) return `its starts are malformed: ${encoded.length} bytes`;
    const remembered = this.known.get(storeUuid);
    const refusal = judgeStarts(starts, remembered);
    const newest = starts.at(-1);
    if (refusal !== "" || newest === undefined || !isNewer(newest, remembered)) return refusal;
    this.known.set(storeUuid, newest);
    if (this.known.size > STORES_MAX) {
      for (const oldest of this.known.keys()) {
        this.known.delete(oldest);
        break;
      }
    }
    this.onLearned(storeUuid, newest);
    return "";
  }
}
