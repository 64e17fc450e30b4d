// cold path: what one store was told and what it acknowledged, for tests with fail points.
import { BLOCKS_PER_UNIT } from "../base/units.ts";
import { EntryType } from "../log/log.ts";
import { GroupHealth, type GroupState } from "./local-store.ts";
import type { Timeline } from "./failpoint-disk-harness.ts";
import { SessionTable } from "./session-window.ts";
import type { RigEntry, RigKey } from "./store-harness.ts";

/** Something that is to become durable: when it was handed over, when that was told. */
interface Step {
  readonly issued: number;
  /** Infinity: not told yet. */
  acked: number;
}

/** What changes a replica's life or log. The store does these in order, or not at all. */
export type ReplicaStep = Step &
  (
    | { readonly kind: "create"; readonly replicaId: number }
    | { readonly kind: "append"; readonly entry: RigEntry }
    | { readonly kind: "begin"; readonly index: number; readonly entries: readonly RigEntry[] }
    | { readonly kind: "renew"; readonly replicaId: number }
    | { readonly kind: "end" }
    | { readonly kind: "remove" }
  );

interface HardStep extends Step {
  readonly replicaId: number;
  readonly term: number;
  readonly vote: number;
  readonly commit: number;
}

interface FillStep extends Step {
  readonly replicaId: number;
  readonly key: RigKey;
}

interface LostStep extends Step {
  readonly layer: number;
  readonly block: number;
  readonly version: number;
}

/** A replica as the steps up to some point leave it. */
export interface ReplicaState {
  /** 0: there is none. */
  readonly replicaId: number;
  readonly health: GroupHealth;
  readonly fillIndex: number;
  /** From index 1 on, what lies before its log included. */
  readonly entries: readonly RigEntry[];
  /** It stands there without having applied what is before it. */
  readonly position: number;
  /** Replica ids that must never come back. */
  readonly buried: readonly number[];
}

/** What one block shows. */
export interface ModelBlock {
  /** Null: zero. */
  readonly entry: RigEntry | null;
  readonly mayBeLost: boolean;
  readonly mustBeLost: boolean;
}

const NOBODY: ReplicaState = {
  replicaId: 0,
  health: GroupHealth.Ok,
  fillIndex: 0,
  entries: [],
  position: 0,
  buried: [],
};

/** One placement group: everything in the order of the timeline. */
export class GroupHistory {
  readonly pg: number;
  row = -1;
  readonly steps: ReplicaStep[] = [];
  readonly hard: HardStep[] = [];
  readonly fills: FillStep[] = [];
  readonly lost: LostStep[] = [];
  /** Commit indexes told to the store, and applied ones. */
  readonly commits: { readonly at: number; readonly replicaId: number; readonly index: number }[] =
    [];
  private readonly timeline: Timeline;

  constructor(pg: number, timeline: Timeline) {
    this.pg = pg;
    this.timeline = timeline;
  }

  /* ----------------------------------------------------------------- told */

  step(): Step {
    return { issued: this.timeline.next(), acked: Number.POSITIVE_INFINITY };
  }

  /** As of now, all that was handed over included. */
  get present(): ReplicaState {
    return this.stateAfter(this.steps.length);
  }

  /** As of now, but the replica that another one is about to follow still stands. */
  get standing(): ReplicaState {
    const renews =
      this.steps.at(-1)?.kind === "renew" && this.steps.at(-1)!.acked > this.timeline.now;
    return this.stateAfter(this.steps.length - (renews ? 1 : 0));
  }

  commit(index: number): void {
    const { replicaId } = this.present;
    this.commits.push({ at: this.timeline.next(), replicaId, index });
  }

  onDurable(index: number, term: number): void {
    const last = this.steps.findLastIndex(
      (step) => step.kind === "append" && step.entry.index === index && step.entry.term === term,
    );
    this.ackTo(last);
  }

  /** The last step of a kind is durable, and so are all before it. */
  onDone(kind: ReplicaStep["kind"]): void {
    this.ackTo(this.steps.findLastIndex((step) => step.kind === kind));
  }

  private ackTo(last: number): void {
    const now = this.timeline.next();
    for (const step of this.steps.slice(0, last + 1)) step.acked = Math.min(step.acked, now);
  }

  onHardStateDurable(): void {
    const now = this.timeline.next();
    for (const hard of this.hard) hard.acked = Math.min(hard.acked, now);
  }

  /** A checkpoint began after everything up to `issued` and is complete. */
  onCheckpoint(issued: number): void {
    const now = this.timeline.next();
    for (const lost of this.lost) {
      if (lost.issued <= issued) lost.acked = Math.min(lost.acked, now);
    }
  }

  /* ---------------------------------------------------------------- asked */

  /** Steps handed over, and steps acknowledged, by a time. */
  countsAt(time: number): { issued: number; acked: number } {
    const issued = this.steps.filter((step) => step.issued <= time).length;
    const acked = this.steps.filter((step) => step.acked <= time).length;
    return { issued, acked };
  }

  /** Every state that a power cut at a time may leave; the oldest first. */
  statesAt(time: number): ReplicaState[] {
    const { issued, acked } = this.countsAt(time);
    const states: ReplicaState[] = [];
    for (let count = acked; count <= issued; count++) {
      const state = this.stateAfter(count);
      states.push(state);
      const next = this.steps[count];
      if (count === issued || next?.kind !== "append") continue;
      if (next.entry.index > state.entries.length) continue;
      // The entry that cut others is torn itself.
      states.push({ ...state, entries: state.entries.slice(0, next.entry.index - 1) });
    }
    return states;
  }

  stateAfter(count: number): ReplicaState {
    let state = NOBODY;
    for (const step of this.steps.slice(0, count)) state = after(state, step);
    return state;
  }

  /** Terms and votes that may be found at a time; the oldest first. */
  hardAt(time: number, replicaId: number): { term: number; vote: number; commit: number }[] {
    const own = this.hard.filter((hard) => hard.replicaId === replicaId && hard.issued <= time);
    const acked = own.filter((hard) => hard.acked <= time).length;
    const none = { term: 0, vote: 0, commit: 0 };
    return acked === 0 ? [none, ...own] : own.slice(acked - 1);
  }

  /** The highest commit index that a replica heard of by a time. */
  commitAt(time: number, replicaId: number): number {
    let most = 0;
    for (const { at, replicaId: id, index } of this.commits) {
      if (id === replicaId && at <= time) most = Math.max(most, index);
    }
    return most;
  }

  /** Fills that were acknowledged by a time. */
  filledAt(time: number, replicaId: number): readonly RigKey[] {
    return this.fills
      .filter((fill) => fill.replicaId === replicaId && fill.acked <= time)
      .map((fill) => fill.key);
  }

  /** Does a time lie before anything that was acknowledged or handed over? For telling states apart. */
  keyAt(time: number): string {
    const { acked } = this.countsAt(time);
    const hard = this.hard.filter((one) => one.acked <= time).length;
    const fills = this.fills.filter((one) => one.acked <= time).length;
    const lost = this.lost.filter((one) => one.acked <= time).length;
    const commits = this.commits.filter((one) => one.at <= time).length;
    return [acked, hard, fills, lost, commits].join(".");
  }

  blockAt(
    entries: readonly RigEntry[],
    applied: number,
    layer: number,
    block: number,
    snapSeq: number,
    time: number,
  ): ModelBlock {
    const entry = newestOf(entries, applied, layer, block, snapSeq);
    const marks = this.lost.filter(
      (lost) =>
        lost.layer === layer &&
        lost.block === block &&
        lost.version === entry?.index &&
        lost.issued <= time,
    );
    const mustBeLost = marks.some((lost) => lost.acked <= time);
    return { entry, mayBeLost: marks.length > 0, mustBeLost };
  }
}

function after(state: ReplicaState, step: ReplicaStep): ReplicaState {
  switch (step.kind) {
    case "create":
      return { ...NOBODY, replicaId: step.replicaId, buried: state.buried };
    case "remove":
      return { ...NOBODY, buried: [...state.buried, state.replicaId] };
    case "append": {
      const entries = [...state.entries.slice(0, step.entry.index - 1), step.entry];
      return { ...state, entries };
    }
    case "begin": {
      const { index, entries } = step;
      const health = GroupHealth.Filling;
      return { ...state, health, fillIndex: index, position: index, entries };
    }
    case "end":
      return { ...state, health: GroupHealth.Ok, fillIndex: 0 };
    case "renew": {
      const buried = [...state.buried, state.replicaId];
      return { ...NOBODY, health: GroupHealth.Filling, replicaId: step.replicaId, buried };
    }
  }
}

/** The newest change of a block up to `applied`, as of a snapshot. */
function newestOf(
  entries: readonly RigEntry[],
  applied: number,
  layer: number,
  block: number,
  snapSeq: number,
): RigEntry | null {
  for (let index = applied; index > 0; index--) {
    const entry = entries[index - 1]!;
    if (entry.layer !== layer || entry.snapSeq > snapSeq) continue;
    if (entry.type === EntryType.LayerGone) return null;
    if (block < entry.firstBlock || block >= entry.firstBlock + entry.blocks) continue;
    if (entry.type === EntryType.Zero) return null;
    if (entry.type === EntryType.Write) return entry;
  }
  return null;
}

/** Session windows after the entries up to `applied`. */
export function sessionsOf(entries: readonly RigEntry[], applied: number): SessionTable {
  const table = new SessionTable();
  for (const entry of entries.slice(0, applied)) applySession(table, entry);
  return table;
}

/** What an entry does to the windows. */
export function applySession(table: SessionTable, entry: RigEntry): void {
  if (entry.type !== EntryType.Write && entry.type !== EntryType.Zero) return;
  table.apply(entry.session ?? 11, entry.index, 0, entry.index);
}

/** The replicated state after the entries up to `applied`. */
export function groupStateOf(
  entries: readonly RigEntry[],
  applied: number,
  conf: Uint8Array,
): GroupState {
  const table = sessionsOf(entries, applied);
  const confs = entries.slice(0, applied).filter((entry) => entry.type === EntryType.Conf);
  const fences = entries.slice(0, applied).filter((entry) => entry.type === EntryType.Fence);
  return {
    applied,
    conf: confs.at(-1)?.data ?? conf,
    confIndex: confs.at(-1)?.index ?? 0,
    expiredBelow: table.expiredBelow,
    sessions: table
      .list()
      .map(({ session, base, bits, lastIndex }) => ({ session, base, bits, lastIndex })),
    fences: fences.map(({ layer, snapSeq, index }) => ({ layer, lockEpoch: index, snapSeq })),
  };
}

/** Units of a group that hold something, or may: by layer, unit and snapSeq. */
export function keysOf(entries: readonly RigEntry[], applied: number): RigKey[] {
  const keys = new Map<string, RigKey>();
  for (const { type, layer, firstBlock, blocks, snapSeq } of entries.slice(0, applied)) {
    if (type !== EntryType.Write && type !== EntryType.Zero) continue;
    const last = Math.floor((firstBlock + blocks - 1) / BLOCKS_PER_UNIT);
    for (let unit = Math.floor(firstBlock / BLOCKS_PER_UNIT); unit <= last; unit++) {
      keys.set(`${layer}/${unit}/${snapSeq}`, { layer, unit, snapSeq });
    }
  }
  return [...keys.values()];
}
