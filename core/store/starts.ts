// cold path: read and written once per start, and every few minutes.
import { assert } from "../base/assert.ts";
import type { Random } from "../base/prng.ts";

/**
 * The starts of a store, by which an old copy of it is known.
 *
 * A store that was put back from a backup, a snapshot or a rolled back machine has forgotten what it
 * acknowledged since. Nothing on it tells; but those it spoke to remember. So every start that is to
 * serve draws an id, writes it into the store's history, and tells it to whomever it meets; whoever
 * remembers a start that is not in the history of a store refuses that store.
 *
 * Invariants: a start is in the history, durable, before anybody hears of it; a start that somebody
 * refuses writes nothing there. So the right disk always knows what is remembered of it, and an old
 * copy never comes to know it, however often it is started.
 *
 * A counter alone was not enough: starts of the copy raise it too, and the copy overtakes the disk
 * that it was made of. A mark counts within one start: a copy of a running store holds its start's
 * id, but an earlier mark.
 */
export interface StoreStart {
  /** Of the store when it was started; later starts have higher ones. */
  readonly incarnation: number;
  /** Grows while the start serves. */
  readonly mark: number;
  /** Random: 16 hex digits. */
  readonly id: string;
}

/** Starts that a store remembers, the newest ones. Older ones are known by their incarnation. */
export const STARTS_MAX = 32;
/** One start in bytes: incarnation u32 | mark u32 | id 8. */
export const START_SIZE = 16;

/** Begin a start: what a history becomes with it. */
export function withStart(
  starts: readonly StoreStart[],
  incarnation: number,
  random: Random,
): readonly StoreStart[] {
  const id =
    random.u32().toString(16).padStart(8, "0") + random.u32().toString(16).padStart(8, "0");
  return [...starts, { incarnation, mark: 1, id }].slice(-STARTS_MAX);
}

/** Count on within the newest start. */
export function withMark(starts: readonly StoreStart[]): readonly StoreStart[] {
  const newest = starts.at(-1);
  assert(newest !== undefined, "withMark: no start");
  return [...starts.slice(0, -1), { ...newest, mark: newest.mark + 1 }];
}

/** True when `seen` tells more of a store than what is remembered of it. */
export function isNewer(seen: StoreStart, remembered: StoreStart | undefined): boolean {
  if (remembered === undefined) return true;
  if (seen.incarnation !== remembered.incarnation) return seen.incarnation > remembered.incarnation;
  return seen.mark > remembered.mark;
}

/**
 * Compare a store's history with what is remembered of it. Answers why the store is an old copy:
 * the value seen and the value wanted; empty: it is not, as far as one can tell.
 */
export function judgeStarts(
  starts: readonly StoreStart[],
  remembered: StoreStart | undefined,
): string {
  if (remembered === undefined) return "";
  const same = starts.find(({ id }) => id === remembered.id);
  if (same !== undefined && same.mark >= remembered.mark) return "";
  const oldest = starts[0];
  const isFull = starts.length >= STARTS_MAX;
  // So long ago that the store itself has forgotten it.
  if (isFull && same === undefined && oldest!.incarnation > remembered.incarnation) return "";
  return `it knows ${describe(starts.at(-1))}, wanted ${describe(remembered)}`;
}

function describe(start: StoreStart | undefined): string {
  if (start === undefined) return "no start";
  return `start ${String(start.incarnation)} (${start.id}, mark ${String(start.mark)})`;
}

/** A history as bytes, the newest start last. */
export function encodeStarts(starts: readonly StoreStart[]): Uint8Array {
  assert(starts.length <= STARTS_MAX, "encodeStarts: too many");
  const bytes = new Uint8Array(starts.length * START_SIZE);
  const view = new DataView(bytes.buffer);
  starts.forEach(({ incarnation, mark, id }, at) => {
    view.setUint32(at * START_SIZE, incarnation, true);
    view.setUint32(at * START_SIZE + 4, mark, true);
    bytes.set(Uint8Array.fromHex(id), at * START_SIZE + 8);
  });
  return bytes;
}

/** Read a history back; undefined when it is none: a part of a start, too many, not in order. */
export function decodeStarts(bytes: Uint8Array): readonly StoreStart[] | undefined {
  const count = bytes.length / START_SIZE;
  if (!Number.isInteger(count) || count > STARTS_MAX) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const starts: StoreStart[] = [];
  for (let at = 0; at < bytes.length; at += START_SIZE) {
    const incarnation = view.getUint32(at, true);
    if (incarnation <= (starts.at(-1)?.incarnation ?? 0)) return undefined;
    const mark = view.getUint32(at + 4, true);
    starts.push({ incarnation, mark, id: bytes.slice(at + 8, at + START_SIZE).toHex() });
  }
  return starts;
}
