// cold: a checker
import { assert } from "../base/assert.ts";

/** What clients did to registers and saw of them, for `linearizable.ts`. */

/** What a block holds before anything was written. */
export const INITIAL_VALUE = 0;
const CAPACITY_FIRST = 1024;

/** Operations of many keys and clients, in columns: millions of them are kept. */
export class RegisterHistory {
  count = 0;
  private keys: Int32Array = new Int32Array(CAPACITY_FIRST);
  private clients: Int32Array = new Int32Array(CAPACITY_FIRST);
  private writes: Uint8Array = new Uint8Array(CAPACITY_FIRST);
  private values: Float64Array = new Float64Array(CAPACITY_FIRST);
  private calls: Float64Array = new Float64Array(CAPACITY_FIRST);
  private returns: Float64Array = new Float64Array(CAPACITY_FIRST);

  /**
   * Add an operation, in any order. Times are nanoseconds of one clock for all clients; a write
   * without an answer returns at Infinity. Two operations at the same moment overlap.
   */
  add(operation: RegisterOperation): void {
    const { key, client, isWrite, value, callNs, returnNs } = operation;
    assert(callNs <= returnNs, "RegisterHistory.add: it returns before it is called");
    assert(isWrite || returnNs !== Infinity, "RegisterHistory.add: a read without an answer");
    if (this.count === this.keys.length) this.grow();
    const at = this.count++;
    this.keys[at] = key;
    this.clients[at] = client;
    this.writes[at] = isWrite ? 1 : 0;
    this.values[at] = value;
    this.calls[at] = callNs;
    this.returns[at] = returnNs;
  }

  at(index: number): RegisterOperation {
    assert(index < this.count, "RegisterHistory.at: there is no such operation");
    return {
      key: this.keys[index]!,
      client: this.clients[index]!,
      isWrite: this.writes[index] === 1,
      value: this.values[index]!,
      callNs: this.calls[index]!,
      returnNs: this.returns[index]!,
    };
  }

  /** The operations of each key, by the time of their call; keys in ascending order. */
  *byKey(): Generator<readonly RegisterOperation[]> {
    const { keys, calls } = this;
    const order = Uint32Array.from({ length: this.count }, (_none, at) => at);
    order.sort((left, right) => keys[left]! - keys[right]! || calls[left]! - calls[right]!);
    for (let first = 0; first < order.length; ) {
      let end = first;
      while (end < order.length && keys[order[end]!] === keys[order[first]!]) end++;
      yield Array.from(order.subarray(first, end), (index) => this.at(index));
      first = end;
    }
  }

  private grow(): void {
    const capacity = this.keys.length * 2;
    const wider = <T extends { set(from: T): void }>(to: T, from: T): T => {
      to.set(from);
      return to;
    };
    this.keys = wider(new Int32Array(capacity), this.keys);
    this.clients = wider(new Int32Array(capacity), this.clients);
    this.writes = wider(new Uint8Array(capacity), this.writes);
    this.values = wider(new Float64Array(capacity), this.values);
    this.calls = wider(new Float64Array(capacity), this.calls);
    this.returns = wider(new Float64Array(capacity), this.returns);
  }
}

export interface RegisterOperation {
  /** The block. */
  readonly key: number;
  /** Who asked: for people, it decides nothing. */
  readonly client: number;
  readonly isWrite: boolean;
  /** Written or seen. */
  readonly value: number;
  readonly callNs: number;
  /** Infinity: a write without an answer. */
  readonly returnNs: number;
}

/** Read the lines of a history as `bench image --history` writes them. Throws on a malformed line. */
export function parseHistory(text: string, client: number, into: RegisterHistory): void {
  for (const line of text.split("\n")) {
    if (line === "") continue;
    const one = JSON.parse(line) as {
      readonly key: number;
      readonly kind: "read" | "write";
      readonly value: number | null;
      readonly call: number;
      readonly return: number | null;
      readonly ok: boolean;
    };
    const isWrite = one.kind === "write";
    const answered = one.ok && one.return !== null;
    if (one.value === null || !(isWrite || answered)) continue;
    into.add({
      key: one.key,
      client,
      isWrite,
      value: one.value,
      callNs: one.call,
      returnNs: answered ? one.return! : Infinity,
    });
  }
}

/** An operation as people read it. */
export function showOperation(operation: RegisterOperation): string {
  const { client, isWrite, value, callNs, returnNs } = operation;
  const kind = isWrite ? "write" : "read";
  const end = returnNs === Infinity ? "never answered" : milliseconds(returnNs);
  return `${kind} of ${String(value)} by client ${String(client)} [${milliseconds(callNs)} to ${end}]`;
}

function milliseconds(ns: number): string {
  return `${(ns / 1_000_000).toFixed(6)} ms`;
}
