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

/**
 * The text in which starts are kept: an object of them by the store's uuid. Undefined: it is none. What is
 * no start in it is left out: a number beyond all that a store counts to would refuse the right disk for
 * ever.
 */
export function parsePeerStarts(text: string): Map<string, StoreStart> | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) return undefined;
  const starts = new Map<string, StoreStart>();
  for (const [storeUuid, one] of Object.entries(value)) {
    const start = startOf(one);
    if (start !== undefined) starts.set(storeUuid, start);
  }
  return starts;
}

/** The text of all that is kept. */
export function formatPeerStarts(starts: ReadonlyMap<string, StoreStart>): string {
  return JSON.stringify(Object.fromEntries(starts));
}

function startOf(value: unknown): StoreStart | undefined {
  if (typeof value !== "object" || value === null) return undefined;
  const { incarnation, mark, id } = value as Record<string, unknown>;
  if (!isU32(incarnation) || !isU32(mark)) return undefined;
  if (typeof id !== "string" || !/^[0-9a-f]{16}$/.test(id)) return undefined;
  return { incarnation, mark, id };
}

function isU32(value: unknown): value is number {
  return Number.isInteger(value) && (value as number) >= 0 && (value as number) <= 0xffff_ffff;
}
