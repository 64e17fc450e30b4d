// cold: a checker
import {
  INITIAL_VALUE,
  type RegisterHistory,
  type RegisterOperation,
  showOperation,
} from "./linearizable-history.ts";
import { findContradiction } from "./linearizable-search.ts";

/**
 * Judges histories of registers: is there an order of all operations, each at one moment between
 * its call and its return, in which every read sees the write before it?
 *
 * Registers are independent, so each key is judged alone. Where no value is written twice, the
 * values decide (Gibbons and Korach 1997): an operation that ended before another one began puts
 * its value before the other's, and the history is right exactly if no two values are each before
 * the other. That takes n log n. Where values repeat (zeros), the orders are searched
 * (`linearizable-search.ts`).
 *
 * A write without an answer may take effect once at any time after its call, or never. A read
 * without an answer says nothing.
 */

export interface RegisterVerdict {
  readonly operations: number;
  /** Writes without an answer. */
  readonly unanswered: number;
  readonly keys: number;
  /** Of them, those in which values repeat. */
  readonly searched: number;
  /** One text per key that is not linearizable, the operations named; empty: all is right. */
  readonly violations: readonly string[];
}

/** Judge every key. `search`: search the orders even where the values would decide. */
export function checkRegisters(history: RegisterHistory, search = false): RegisterVerdict {
  const violations: string[] = [];
  let keys = 0;
  let searched = 0;
  let unanswered = 0;
  for (const operations of history.byKey()) {
    keys += 1;
    unanswered += operations.filter(({ returnNs }) => returnNs === Infinity).length;
    const repeats = search || valuesRepeat(operations);
    if (repeats) searched += 1;
    const text = repeats ? findContradiction(operations) : findCrossing(operations);
    if (text !== "") violations.push(`block ${String(operations[0]!.key)}: ${text}`);
  }
  return { operations: history.count, unanswered, keys, searched, violations };
}

function valuesRepeat(operations: readonly RegisterOperation[]): boolean {
  const seen = new Set([INITIAL_VALUE]);
  for (const { isWrite, value } of operations) {
    if (!isWrite) continue;
    if (seen.has(value)) return true;
    seen.add(value);
  }
  return false;
}

/* ------------------------------------------------------------------ values */

/** All operations of one value. What a value is before: `endedFirst` ended, then the other began. */
class Cluster {
  readonly value: number;
  write: RegisterOperation | null = null;
  reads = 0;
  /** The operation that returned first; null: the block began with this value. */
  endedFirst: RegisterOperation | null = null;
  endNs = Infinity;
  /** The operation that was called last. */
  beganLast: RegisterOperation | null = null;
  beginNs = -Infinity;

  constructor(value: number) {
    this.value = value;
    if (value === INITIAL_VALUE) this.endNs = -Infinity;
  }

  add(operation: RegisterOperation): void {
    if (operation.isWrite) this.write = operation;
    else this.reads += 1;
    if (operation.returnNs < this.endNs) {
      this.endNs = operation.returnNs;
      this.endedFirst = operation;
    }
    if (operation.callNs > this.beginNs) {
      this.beginNs = operation.callNs;
      this.beganLast = operation;
    }
  }

  /** Its operations do not all overlap: nothing else may have been there from end to begin. */
  get isForward(): boolean {
    return this.endNs < this.beginNs;
  }
}

/** Each of two values before the other; empty: none. */
function findCrossing(operations: readonly RegisterOperation[]): string {
  const clusters = new Map<number, Cluster>([[INITIAL_VALUE, new Cluster(INITIAL_VALUE)]]);
  for (const operation of operations) {
    const { value } = operation;
    const cluster = clusters.get(value) ?? new Cluster(value);
    clusters.set(value, cluster);
    cluster.add(operation);
  }
  const all = [...clusters.values()];
  for (const { value, write, endedFirst } of all) {
    if (value !== INITIAL_VALUE && write === null) {
      return `${showOperation(endedFirst!)}: nobody wrote that`;
    }
    if (write !== null && endedFirst !== null && endedFirst.returnNs < write.callNs) {
      return `${showOperation(endedFirst)}: it ended before ${showOperation(write)}`;
    }
  }
  // A write that nobody saw and nobody answered may as well not have happened.
  const counted = all.filter((one) => one.reads > 0 || one.endNs !== Infinity);
  const forward = counted.filter((one) => one.isForward).sort((a, b) => a.endNs - b.endNs);
  for (let at = 1; at < forward.length; at++) {
    // Until here none overlaps, so the one before is also the one that lasts longest.
    const [before, after] = [forward[at - 1]!, forward[at]!];
    if (after.endNs < before.beginNs) return showCrossing(before, after);
  }
  for (const one of counted) {
    if (one.isForward) continue;
    const around = lastBefore(forward, one.beginNs);
    if (around !== undefined && one.endNs < around.beginNs) return showCrossing(around, one);
  }
  return "";
}

/** Of clusters in the order of their ends, the last that ended before `timeNs`. */
function lastBefore(clusters: readonly Cluster[], timeNs: number): Cluster | undefined {
  let low = 0;
  let high = clusters.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (clusters[middle]!.endNs < timeNs) low = middle + 1;
    else high = middle;
  }
  return clusters[low - 1];
}

function showCrossing(one: Cluster, other: Cluster): string {
  return [
    `${String(one.value)} must come before ${String(other.value)} and after it`,
    showOrder(one, other),
    showOrder(other, one),
  ].join("\n");
}

function showOrder(first: Cluster, second: Cluster): string {
  const began = showOperation(second.beganLast!);
  const { endedFirst } = first;
  if (endedFirst === null) return `  the block began with ${String(first.value)}, then ${began}`;
  return `  ${showOperation(endedFirst)} ended before ${began}`;
}
