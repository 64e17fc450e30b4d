// cold: a checker
import { INITIAL_VALUE, type RegisterOperation, showOperation } from "./linearizable-history.ts";

/**
 * The search for an order of the operations of one register, for histories in which values repeat.
 *
 * It walks through the calls and returns in time and keeps every state that some order leads to:
 * the register's value, which of the open operations have had their moment, and how many of the
 * unanswered writes of each value were taken. An operation is given its moment as late as can be:
 * when one returns that had none, all orders of open writes that end with it are tried. Reads of
 * the present value get theirs at once, which costs nothing. No state left: a contradiction.
 *
 * Unanswered writes would never close. Two rules keep them few: such a write is taken only where a
 * read follows that sees it, and of two states that differ in how many were taken alone, the one
 * that took fewer can do all that the other can.
 */
interface State {
  readonly value: number;
  /** Bit per open operation: it had its moment. */
  readonly done: number;
  /** Unanswered writes taken, by the place of their value in `Search.lateValues`. */
  readonly taken: readonly number[];
}

/** Open operations at a time: bits of `State.done`. */
const OPEN_MAX = 30;
const STATES_MAX = 100_000;
/** What a contradiction shows. */
const SHOWN_MAX = 12;

/** What is wrong with the operations of one key, in the order of their calls; empty: nothing. */
export function findContradiction(operations: readonly RegisterOperation[]): string {
  return new Search(operations).run();
}

class Search {
  private readonly operations: readonly RegisterOperation[];
  /** Operation of each bit; undefined: free. */
  private readonly open: (RegisterOperation | undefined)[] = [];
  /** Values of unanswered writes that were called, and how many of each there are. */
  private readonly lateValues: number[] = [];
  private readonly lateCounts: number[] = [];
  private states = new StateSet();

  constructor(operations: readonly RegisterOperation[]) {
    this.operations = operations;
    this.states.add({ value: INITIAL_VALUE, done: 0, taken: [] });
  }

  run(): string {
    const ended = this.operations
      .filter(({ returnNs }) => returnNs !== Infinity)
      .sort((left, right) => left.returnNs - right.returnNs);
    let next = 0;
    for (const one of ended) {
      // At the same moment calls come first: what touches, overlaps.
      for (; (this.operations[next]?.callNs ?? Infinity) <= one.returnNs; next++) {
        if (!this.call(this.operations[next]!)) return "not judged: too many operations overlap";
      }
      const before = this.states;
      this.finish(one);
      if (this.states.size > STATES_MAX) return "not judged: too many orders are possible";
      if (this.states.size === 0) return this.show(one, before);
    }
    return "";
  }

  /** False: more are open than bits. */
  private call(operation: RegisterOperation): boolean {
    if (operation.returnNs === Infinity) {
      const at = this.lateValues.indexOf(operation.value);
      if (at >= 0) this.lateCounts[at]! += 1;
      else {
        this.lateValues.push(operation.value);
        this.lateCounts.push(1);
      }
      return true;
    }
    let bit = this.open.indexOf(undefined);
    if (bit < 0) bit = this.open.length;
    if (bit >= OPEN_MAX) return false;
    this.open[bit] = operation;
    if (operation.isWrite) return true;
    const states = new StateSet();
    for (const state of this.states.all()) states.add(this.withReads(state));
    this.states = states;
    return true;
  }

  /** Keep the states in which it had its moment, and make those that can give it one now. */
  private finish(operation: RegisterOperation): void {
    const bit = this.open.indexOf(operation);
    const states = new StateSet();
    const seen = new Set<string>();
    const waiting = [...this.states.all()];
    for (let state = waiting.pop(); state !== undefined; state = waiting.pop()) {
      if ((state.done & (1 << bit)) !== 0) {
        states.add({ ...state, done: state.done & ~(1 << bit) });
        if (states.size > STATES_MAX) break;
        continue;
      }
      for (const following of this.followers(state)) {
        const key = `${String(following.value)} ${String(following.done)} ${following.taken.join()}`;
        if (seen.has(key)) continue;
        seen.add(key);
        waiting.push(following);
      }
    }
    this.open[bit] = undefined;
    this.states = states;
  }

  /** The states after one more write. */
  private *followers(state: State): Generator<State> {
    for (let bit = 0; bit < this.open.length; bit++) {
      const write = this.open[bit];
      if (write?.isWrite !== true || (state.done & (1 << bit)) !== 0) continue;
      yield this.withReads({ ...state, value: write.value, done: state.done | (1 << bit) });
    }
    for (let at = 0; at < this.lateValues.length; at++) {
      const value = this.lateValues[at]!;
      const taken = state.taken[at] ?? 0;
      if (taken === this.lateCounts[at] || value === state.value) continue;
      const seen = this.withReads({ ...state, value });
      if (seen.done === state.done) continue;
      const counts = this.lateValues.map((_value, index) => state.taken[index] ?? 0);
      counts[at] = taken + 1;
      yield { ...seen, taken: counts };
    }
  }

  /** Open reads of the present value have their moment now. */
  private withReads(state: State): State {
    let { done } = state;
    for (let bit = 0; bit < this.open.length; bit++) {
      const read = this.open[bit];
      if (read?.isWrite === false && read.value === state.value) done |= 1 << bit;
    }
    return done === state.done ? state : { ...state, done };
  }

  private show(failed: RegisterOperation, before: StateSet): string {
    const values = [...new Set([...before.all()].map(({ value }) => value))];
    const overlapping = this.operations.filter(
      (one) => one !== failed && one.callNs <= failed.returnNs && one.returnNs >= failed.callNs,
    );
    const earlier = this.operations.filter((one) => one.isWrite && one.returnNs < failed.callNs);
    const lines = [...earlier.slice(-2), ...overlapping.slice(-SHOWN_MAX)].map(
      (one) => `  ${showOperation(one)}`,
    );
    return [
      `${showOperation(failed)} fits into no order; before it ended the block could hold ${values.join(", ")}`,
      ...lines,
    ].join("\n");
  }
}

/** States, without those that another one of the set covers. */
class StateSet {
  size = 0;
  private readonly groups = new Map<string, State[]>();

  add(state: State): void {
    const key = `${String(state.value)} ${String(state.done)}`;
    const group = this.groups.get(key) ?? [];
    if (group.some((other) => covers(other, state))) return;
    const left = group.filter((other) => !covers(state, other));
    left.push(state);
    this.size += left.length - group.length;
    this.groups.set(key, left);
  }

  *all(): Generator<State> {
    for (const group of this.groups.values()) yield* group;
  }
}

/** It took no more unanswered writes of any value. */
function covers(one: State, other: State): boolean {
  return one.taken.every((count, at) => count <= (other.taken[at] ?? 0));
}
