// cold path: opens what a power cut left and compares it with what was acknowledged, for tests.
import { assert } from "../base/assert.ts";
import { Status } from "../base/status.ts";
import { BLOCKS_PER_UNIT, UNIT_SIZE } from "../base/units.ts";
import { EntryType } from "../log/log.ts";
import { STILL } from "./failpoint-drive-harness.ts";
import type { CallRecorder, Image } from "./failpoint-disk-harness.ts";
import {
  applySession,
  type GroupHistory,
  groupStateOf,
  keysOf,
  type ReplicaState,
  sessionsOf,
} from "./failpoint-model-harness.ts";
import {
  BlockState,
  GroupHealth,
  type GroupState,
  type RecoveredGroup,
  SNAP_SEQ_HEAD,
} from "./local-store.ts";
import { Machine, type MachineRuntime } from "./machine-harness.ts";
import { type RigEntry, type RigKey, RigOwner, type StoreRig } from "./store-harness.ts";
import { SessionTable } from "./session-window.ts";
import { same } from "./store-model-harness.ts";
import { fsckStore } from "./store-tools.ts";

const READ_BLOCKS_MAX = 64;

/** What has to be found of one group. */
export interface Wanted {
  readonly group: GroupHistory;
  /** Of the history. */
  readonly time: number;
  /** Any one of these. */
  readonly states: readonly ReplicaState[];
  readonly hard: readonly { readonly term: number; readonly vote: number }[];
  /** The commit index is between these; `commitMax` is what the group has committed by now. */
  readonly commitMin: (replicaId: number) => number;
  readonly commitMax: (replicaId: number) => number;
}

/** What the histories demand at a time. */
export function wantedAt(groups: readonly GroupHistory[], time: number): Wanted[] {
  return groups.map((group) => {
    const states = group.statesAt(time);
    const hard = states.flatMap(({ replicaId }) => group.hardAt(time, replicaId));
    const commitMin = (replicaId: number): number =>
      group.hardAt(time, replicaId).reduce((least, one) => Math.min(least, one.commit), 1e9);
    const commitMax = (replicaId: number): number => group.commitAt(time, replicaId);
    return { group, time, states, hard, commitMin, commitMax };
  });
}

/** Answers for a group with the state that was found. */
class CheckOwner extends RigOwner {
  readonly found = new Map<number, ReplicaState>();

  override encodeState(row: number): GroupState {
    return groupStateOf(this.found.get(row)!.entries, this.applied.get(row)!, this.conf);
  }
}

/** How far one state is looked into. */
export interface CheckDepth {
  /** Checkpoint it, and count its units. */
  readonly settle: boolean;
  readonly fsck: boolean;
  /** Go on: write one more entry of each group, which the next start has to find. */
  readonly grow: boolean;
}

/** What opening found. */
export interface Opened {
  /** Exactly this is to be found by every start from here on. */
  readonly wanted: readonly Wanted[];
  /** Stable after it. */
  readonly image: Image;
  /** Device calls until it was open. */
  readonly startCalls: number;
}

/** Opens one state after the other. */
export class StateChecker {
  /** Of the stores that are opened. */
  indexBytes = 0;
  private readonly runtime: MachineRuntime;
  private readonly memory: ArrayBuffer;

  constructor(runtime: MachineRuntime, memory: ArrayBuffer) {
    this.runtime = runtime;
    this.memory = memory;
  }

  machine(image: Image): Machine {
    const machine = Machine.over(7, this.runtime, image, this.memory);
    machine.indexBytes = this.indexBytes;
    return machine;
  }

  /**
   * Open an image; throws when it is not what is wanted. `recorder` is given the device before
   * anything is read of it.
   */
  async check(
    image: Image,
    wanted: readonly Wanted[],
    depth: CheckDepth,
    record?: (machine: Machine) => CallRecorder,
  ): Promise<Opened> {
    if (depth.fsck) await this.fsck(image);
    const machine = this.machine(image);
    const recorder = record?.(machine);
    const owner = new CheckOwner();
    const rig = await machine.open({ owner, tuning: STILL });
    const startCalls = recorder?.calls.length ?? 0;
    const visit = new Visit(rig, owner);
    const found = wanted.map((one) => visit.match(one));
    same("groups found", rig.store.recovered.length, found.filter((one) => one !== null).length);
    visit.finish();
    await visit.checkBlocks(found);
    if (depth.settle) await visit.settle(found);
    if (depth.grow) await visit.grow(found);
    same("failed", owner.failed, "");
    const left = machine.simulation.disk("disk").image();
    return { wanted: visit.again, image: left, startCalls };
  }

  private async fsck(image: Image): Promise<void> {
    const report = await this.machine(image).tool((world, disk) => fsckStore(world, disk));
    same("fsck", report.findings, []);
    same("fsck", report.startable, true);
  }
}

/** A replica that was found, and with which of the states it agrees. */
interface Found {
  readonly wanted: Wanted;
  readonly recovered: RecoveredGroup;
  readonly state: ReplicaState;
  readonly commit: number;
}

/** One start of one store. */
class Visit {
  readonly again: Wanted[] = [];
  private readonly rig: StoreRig;
  private readonly owner: CheckOwner;

  constructor(rig: StoreRig, owner: CheckOwner) {
    this.rig = rig;
    this.owner = owner;
  }

  /** Find the group among what was recovered, compare all but its blocks, replay it. */
  match(wanted: Wanted): Found | null {
    const { group, states } = wanted;
    const { recovered: all, tombstones } = this.rig.store;
    const recovered = all.find((one) => one.pg === group.pg);
    const state = states.find((one) => this.agrees(recovered, one));
    if (state === undefined) {
      const tried = states.map(describe).join(" or ");
      throw new Error(`pg ${group.pg}: found ${this.describe(recovered)}, wanted ${tried}`);
    }
    for (const replicaId of state.buried) {
      const buried = tombstones.some((one) => one.pg === group.pg && one.replicaId >= replicaId);
      assert(buried, `check: replica ${String(replicaId)} may come back`);
    }
    if (recovered === undefined) {
      this.again.push({ ...wanted, states: [state] });
      return null;
    }
    const { row, term, vote, commit } = recovered;
    const found = { term, vote };
    const hard = wanted.hard.some((one) => one.term === term && one.vote === vote);
    if (!hard) same(`pg ${group.pg}: term and vote`, found, wanted.hard);
    const most = Math.max(wanted.commitMax(state.replicaId), state.position);
    const least = wanted.commitMin(state.replicaId);
    if (commit < least || commit > most) same("commit", commit, [least, most]);
    assert(most <= state.entries.length, "check: a committed entry is cut");
    same(`pg ${group.pg}: faulty entries`, recovered.faulty, []);
    this.checkState(recovered, state);
    this.owner.found.set(row, state);
    this.owner.applied.set(row, this.rig.store.appliedIndex(row));
    this.rig.replay(recovered, most);
    this.checkSessions(recovered, state);
    // From here on everything that was found may be committed.
    const exact = { commitMin: () => commit, commitMax: () => recovered.lastIndex };
    this.again.push({ ...wanted, states: [state], hard: [found], ...exact });
    return { wanted, recovered, state, commit: most };
  }

  /** Is it this state, log and all? */
  private agrees(recovered: RecoveredGroup | undefined, state: ReplicaState): boolean {
    if (recovered === undefined) return state.replicaId === 0;
    const { row, replicaId, health, fillIndex, baseIndex, lastIndex } = recovered;
    if (replicaId !== state.replicaId || health !== state.health) return false;
    if (fillIndex !== state.fillIndex || lastIndex !== state.entries.length) return false;
    if (baseIndex > 0 && recovered.baseTerm !== state.entries[baseIndex - 1]!.term) return false;
    for (let index = baseIndex + 1; index <= lastIndex; index++) {
      if (this.rig.store.termAt(row, index) !== state.entries[index - 1]!.term) return false;
    }
    return true;
  }

  /** The replicated state of the checkpoint, and every entry behind it, word by word. */
  private checkState(recovered: RecoveredGroup, state: ReplicaState): void {
    const { row, baseIndex, lastIndex } = recovered;
    const { applied } = recovered.state;
    const of = groupStateOf(state.entries, applied, this.owner.conf);
    same(`pg ${recovered.pg}: state`, plain(recovered.state), plain(of));
    assert(applied >= state.position, "check: it stands before its position");
    const { entries } = this.rig.store;
    for (let index = baseIndex + 1; index <= lastIndex; index++) {
      const entry = entries.take();
      assert(this.rig.store.recoveredEntry(row, index, entry), "check: no recovered entry");
      const wanted = state.entries[index - 1]!;
      const { term, type, layer, firstBlock, blocks, snapSeq, session, number } = entry;
      same(
        `pg ${recovered.pg}: entry ${index}`,
        [term, type, layer, firstBlock, blocks, snapSeq, session, number],
        [
          wanted.term,
          wanted.type,
          wanted.layer,
          wanted.firstBlock,
          wanted.blocks,
          wanted.snapSeq,
          wanted.session ?? 11,
          index,
        ],
      );
      same("body of an entry", entry.data?.toHex() ?? "", wanted.data?.toHex() ?? "");
      entries.release(entry);
    }
  }

  /** The windows of the checkpoint with what was replayed upon them. */
  private checkSessions(recovered: RecoveredGroup, state: ReplicaState): void {
    const table = new SessionTable();
    table.expiredBelow = recovered.state.expiredBelow;
    for (const { session, base, bits, lastIndex } of recovered.state.sessions) {
      table.restore(session, base, bits, lastIndex);
    }
    const applied = this.rig.store.appliedIndex(recovered.row);
    for (const entry of state.entries.slice(recovered.state.applied, applied)) {
      applySession(table, entry);
    }
    same("session windows", plain(table.list()), plain(sessionsOf(state.entries, applied).list()));
  }

  finish(): void {
    this.rig.store.finishRecovery();
  }

  /* --------------------------------------------------------------- blocks */

  /** As of what is committed, and then as if a leader committed all that was found. */
  async checkBlocks(found: readonly (Found | null)[]): Promise<void> {
    for (const one of found) {
      if (one === null) continue;
      const { recovered, state, commit } = one;
      await this.checkGroup(one, Math.max(commit, state.position));
      if (recovered.lastIndex <= commit) continue;
      this.rig.replay(recovered, recovered.lastIndex);
      await this.checkGroup(one, recovered.lastIndex);
    }
  }

  private async checkGroup(one: Found, applied: number): Promise<void> {
    const { state, wanted, recovered } = one;
    same(`pg ${recovered.pg}: applied`, this.rig.store.appliedIndex(recovered.row), applied);
    const filling = state.health === GroupHealth.Filling;
    const keys = filling
      ? wanted.group.filledAt(wanted.time, state.replicaId)
      : keysOf(state.entries, applied);
    const gone = goneLayers(state.entries, applied);
    for (const run of runsOf(keys.filter((key) => !gone.has(key.layer)))) {
      await this.checkRun(one, applied, run, run.snapSeq);
      if (!filling) await this.checkRun(one, applied, run, SNAP_SEQ_HEAD);
    }
  }

  private async checkRun(one: Found, applied: number, run: Run, snapSeq: number): Promise<void> {
    const { state, wanted, recovered } = one;
    const { layer, firstBlock, blocks } = run;
    const found = await this.rig.read(recovered.row, layer, firstBlock, blocks, snapSeq);
    found.forEach((block, at) => {
      const number = firstBlock + at;
      const { group, time } = wanted;
      const model = group.blockAt(state.entries, applied, layer, number, snapSeq, time);
      const where = `pg ${recovered.pg} at ${applied}: layer ${layer} block ${number} as of ${snapSeq}`;
      if (block.state === BlockState.Lost && model.mayBeLost) return;
      if (model.mustBeLost) same(where, block.state, BlockState.Lost);
      const { entry } = model;
      if (entry === null) same(where, block.state, BlockState.Zero);
      else {
        same(where, block, { state: BlockState.Data, version: entry.index, stamp: entry.stamp });
      }
    });
  }

  /* ---------------------------------------------------------------- space */

  /** A checkpoint brings all home: the units in use are those of the model, none waits. */
  async settle(found: readonly (Found | null)[]): Promise<void> {
    const { store } = this.rig;
    const { state, background } = store as unknown as Insides;
    const isBusy = (): boolean => state.changed || background.checkpointer.running;
    for (let round = 0; round < 2; round++) {
      const before = store.counters.checkpoints;
      store.requestCheckpoint();
      // One that the store began by itself may have ended meanwhile, and left nothing to do.
      const done = (): boolean => {
        const { bytesQuarantined, overlayBlocks } = store.usage();
        const isHome = bytesQuarantined === 0 && overlayBlocks === 0;
        return (isHome && !isBusy()) || store.counters.checkpoints > before || store.failed;
      };
      await this.rig.until(done, "checkpoint");
      if (round === 0)
        for (const one of found)
          if (one !== null) await this.checkGroup(one, one.recovered.lastIndex);
      if (store.usage().bytesQuarantined === 0) break;
    }
    const usage = store.usage();
    same("bytes in quarantine", usage.bytesQuarantined, 0);
    same("blocks in the overlay", usage.overlayBlocks, 0);
    const held = found.reduce(
      (sum, one) => (one === null ? sum : sum + store.bytesOf(one.recovered.row)),
      0,
    );
    same("bytes that no replica holds", usage.bytesUsed - held, 0);
    for (const one of found) {
      if (one === null || one.state.health !== GroupHealth.Ok) continue;
      const units = unitsOf(one.wanted.group, one.state.entries, one.wanted.time);
      same(`pg ${one.recovered.pg}: units`, store.bytesOf(one.recovered.row) / UNIT_SIZE, units);
    }
  }

  /** Batches of this start lie where torn ones of the last start were, and must not join the rest. */
  async grow(found: readonly (Found | null)[]): Promise<void> {
    for (const one of found) {
      if (one === null || one.state.health !== GroupHealth.Ok) continue;
      const { recovered, state, wanted } = one;
      const index = state.entries.length + 1;
      const entry: RigEntry = {
        index,
        term: (state.entries.at(-1)?.term ?? 0) + 1,
        type: EntryType.Write,
        layer: recovered.pg,
        firstBlock: 2,
        blocks: 1,
        snapSeq: state.entries.at(-1)?.snapSeq ?? 0,
        stamp: 1_000_000 + index,
        data: null,
      };
      same("append", this.rig.append(recovered.row, entry), Status.Ok);
      const { store } = this.rig;
      await this.rig.until(() => store.durableIndex(recovered.row) === index, "durable");
      const at = this.again.findIndex((other) => other.group === wanted.group);
      const states = [{ ...state, entries: [...state.entries, entry] }];
      this.again[at] = { ...this.again[at]!, states };
    }
  }

  private describe(recovered: RecoveredGroup | undefined): string {
    if (recovered === undefined) return "nothing";
    const { row, replicaId, health, fillIndex, baseIndex, lastIndex, commit } = recovered;
    const terms: number[] = [];
    for (let index = baseIndex + 1; index <= lastIndex; index++) {
      terms.push(this.rig.store.termAt(row, index));
    }
    const log = `(${baseIndex}, ${lastIndex}] of terms ${terms.join(" ")}`;
    return `replica ${replicaId} ${GroupHealth[health]}/${fillIndex} ${log} commit ${commit}`;
  }
}

function describe(state: ReplicaState): string {
  if (state.replicaId === 0) return "nothing";
  const terms = state.entries.map((entry) => entry.term).join(" ");
  const { replicaId, health, fillIndex } = state;
  return `replica ${replicaId} ${GroupHealth[health]}/${fillIndex} 1..${state.entries.length} of terms ${terms}`;
}

/** Comparable: typed arrays as plain ones, keys in order. */
function plain(value: unknown): unknown {
  return JSON.parse(
    JSON.stringify(value, (_, of: unknown) => {
      if (ArrayBuffer.isView(of)) return [...(of as Uint8Array)];
      if (of === null || typeof of !== "object" || Array.isArray(of)) return of;
      return Object.fromEntries(
        Object.entries(of).sort(([one], [other]) => (one < other ? -1 : 1)),
      );
    }),
  );
}

function goneLayers(entries: readonly RigEntry[], applied: number): Set<number> {
  const gone = entries.slice(0, applied).filter((entry) => entry.type === EntryType.LayerGone);
  return new Set(gone.map((entry) => entry.layer));
}

/** What a store has to do yet. */
interface Insides {
  readonly state: { readonly changed: boolean };
  readonly background: { readonly checkpointer: { readonly running: boolean } };
}

interface Run {
  readonly layer: number;
  readonly snapSeq: number;
  readonly firstBlock: number;
  readonly blocks: number;
}

/** Units of a layer that follow each other are read together. */
function runsOf(keys: readonly RigKey[]): Run[] {
  const sorted = [...keys].sort(
    (one, other) => one.layer - other.layer || one.snapSeq - other.snapSeq || one.unit - other.unit,
  );
  const runs: Run[] = [];
  for (const { layer, unit, snapSeq } of sorted) {
    const firstBlock = unit * BLOCKS_PER_UNIT;
    const last = runs.at(-1);
    const joins =
      last !== undefined &&
      last.layer === layer &&
      last.snapSeq === snapSeq &&
      last.firstBlock + last.blocks === firstBlock &&
      last.blocks < READ_BLOCKS_MAX;
    if (joins) runs[runs.length - 1] = { ...last, blocks: last.blocks + BLOCKS_PER_UNIT };
    else runs.push({ layer, snapSeq, firstBlock, blocks: BLOCKS_PER_UNIT });
  }
  return runs;
}

/** Units that hold data once all is home: what was touched at a snapshot and is not all zero there. */
function unitsOf(group: GroupHistory, entries: readonly RigEntry[], time: number): number {
  const applied = entries.length;
  const gone = goneLayers(entries, applied);
  let units = 0;
  for (const { layer, unit, snapSeq } of keysOf(entries, applied)) {
    if (gone.has(layer)) continue;
    let holds = false;
    for (let bit = 0; bit < BLOCKS_PER_UNIT; bit++) {
      const block = unit * BLOCKS_PER_UNIT + bit;
      const { entry } = group.blockAt(entries, applied, layer, block, snapSeq, time);
      if (entry !== null) holds = true;
    }
    if (holds) units += 1;
  }
  return units;
}
