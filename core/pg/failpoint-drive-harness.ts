// cold path: drives one store and writes down what it acknowledged, for tests with fail points.
import { assert } from "../base/assert.ts";
import { Status } from "../base/status.ts";
import { BLOCKS_PER_UNIT } from "../base/units.ts";
import { EntryType } from "../log/log.ts";
import { CallRecorder, FailWay, Timeline } from "./failpoint-disk-harness.ts";
import { GroupHistory, groupStateOf } from "./failpoint-model-harness.ts";
import { BlockState, GroupHealth, type GroupState, type StoreTuning } from "./local-store.ts";
import type { Machine } from "./machine-harness.ts";
import {
  type RigEntry,
  type RigFillBlock,
  type RigKey,
  RigOwner,
  type StoreRig,
} from "./store-harness.ts";

/** Nothing moves home, is vouched for or checkpointed by itself; what is free is discarded. */
export const STILL: Partial<StoreTuning> = {
  moverStartPercent: 100,
  checkpointStartPercent: 100,
  idleMs: 1e9,
  vouchMs: 1e9,
  discardRestMs: 0,
  staleKeptPercent: 0,
};

/** A full log frees itself by then, also when one of its writes had to wait for space: 2 s. */
const BUSY_TRIES_MAX = 1_000;

/** The device has failed: the script ends here. */
export class DeviceDown extends Error {
  override readonly name = "DeviceDown";
}

/** What could not be read counts as damage: the replica is to be filled anew. */
export class Distrusted extends Error {
  override readonly name = "Distrusted";
}

/** Notes in the histories what the store tells. */
class NotingOwner extends RigOwner {
  readonly groups = new Map<number, GroupHistory>();
  acksAfterFailure = 0;

  private of(row: number): GroupHistory {
    if (this.failed !== "") this.acksAfterFailure += 1;
    return this.groups.get(row)!;
  }

  override onDurable(row: number, index: number, term = -1): void {
    super.onDurable(row, index);
    this.of(row).onDurable(index, term);
  }
  override onHardStateDurable(row: number): void {
    super.onHardStateDurable(row);
    this.of(row).onHardStateDurable();
  }
  override onReplicaCreated(row: number): void {
    const renewed = this.renewing.has(row);
    super.onReplicaCreated(row);
    this.of(row).onDone(renewed ? "renew" : "create");
  }
  override onFillBegun(row: number): void {
    super.onFillBegun(row);
    this.of(row).onDone("begin");
  }
  override onFillEnded(row: number): void {
    super.onFillEnded(row);
    this.of(row).onDone("end");
  }
  override onReplicaGone(row: number): void {
    super.onReplicaGone(row);
    this.of(row).onDone("remove");
  }
  override encodeState(row: number): GroupState {
    const { entries } = this.groups.get(row)!.standing;
    return groupStateOf(entries, this.applied.get(row)!, this.conf);
  }
}

/** What a script may leave out of an entry. */
export type DriveEntry = Partial<RigEntry>;

/** One run of a script on one store. */
export class Drive {
  readonly timeline = new Timeline();
  readonly groups: GroupHistory[] = [];
  readonly machine: Machine;
  readonly recorder: CallRecorder;
  owner = new NotingOwner();
  rig!: StoreRig;
  private stamp = 0;

  constructor(machine: Machine, failCall = -1, way: FailWay = FailWay.Eio) {
    this.machine = machine;
    const file = machine.simulation.disk("disk");
    this.recorder = new CallRecorder(file, this.timeline, failCall, way);
  }

  async open(tuning: Partial<StoreTuning> = {}): Promise<void> {
    await this.start(tuning);
    this.rig.store.finishRecovery();
  }

  private async start(tuning: Partial<StoreTuning>): Promise<void> {
    const { owner } = this;
    this.rig = await this.machine.open({ owner, tuning: { ...STILL, ...tuning } });
  }

  /** Stop in order, and start again. */
  async restart(tuning: Partial<StoreTuning> = {}): Promise<void> {
    await this.rig.await(this.rig.store.close(), "close");
    this.check();
    await this.startAgain(tuning);
  }

  /** The process is killed while the device rests, and starts again; the power stays. */
  async kill(tuning: Partial<StoreTuning> = {}): Promise<void> {
    await this.until(() => this.recorder.rests, "calls under way");
    await this.startAgain(tuning);
  }

  private async startAgain(tuning: Partial<StoreTuning>): Promise<void> {
    this.machine.restart();
    this.owner = new NotingOwner();
    await this.start(tuning);
    for (const recovered of this.rig.store.recovered) {
      if (recovered.health !== GroupHealth.Ok) throw new Distrusted();
      const group = this.groups.find((one) => one.pg === recovered.pg)!;
      group.row = recovered.row;
      this.owner.groups.set(group.row, group);
      this.rig.replay(recovered, recovered.commit);
    }
    this.rig.store.finishRecovery();
  }

  /* ------------------------------------------------------------- waiting */

  until(done: () => boolean, what: string): Promise<void> {
    return this.rig.until(() => done() || this.owner.failed !== "", what).then(() => this.check());
  }

  pass(us: number): void {
    this.machine.simulation.run(this.machine.simulation.nowUs + us);
    this.check();
  }

  private check(): void {
    if (this.owner.failed !== "") throw new DeviceDown(this.owner.failed);
  }

  /** All that was appended is durable. */
  async durable(...groups: readonly GroupHistory[]): Promise<void> {
    const { store } = this.rig;
    const isDone = (group: GroupHistory): boolean =>
      store.durableIndex(group.row) === store.lastIndex(group.row);
    await this.until(() => groups.every(isDone), "durable");
  }

  async checkpoint(): Promise<void> {
    const issued = this.timeline.now;
    const before = this.rig.store.counters.checkpoints;
    this.rig.store.requestCheckpoint();
    await this.until(() => this.rig.store.counters.checkpoints > before, "checkpoint");
    for (const group of this.groups) group.onCheckpoint(issued);
  }

  /* ------------------------------------------------------------- replicas */

  async create(pg: number, replicaId = 1): Promise<GroupHistory> {
    let group = this.groups.find((one) => one.pg === pg);
    if (group === undefined) {
      group = new GroupHistory(pg, this.timeline);
      this.groups.push(group);
    }
    group.steps.push({ ...group.step(), kind: "create", replicaId });
    const row = this.rig.store.createReplica(pg, replicaId, this.owner.conf, 0, 0);
    if (row < 0) this.check();
    assert(row >= 0, "drive: the replica was refused");
    group.row = row;
    this.owner.groups.set(row, group);
    this.owner.created.delete(row);
    this.owner.applied.set(row, 0);
    await this.until(() => this.owner.created.has(row), "created");
    return group;
  }

  async remove(group: GroupHistory): Promise<void> {
    group.steps.push({ ...group.step(), kind: "remove" });
    this.owner.gone.delete(group.row);
    this.rig.store.removeReplica(group.row);
    await this.until(() => this.owner.gone.has(group.row), "gone");
  }

  /* ------------------------------------------------------------- entries */

  /** Hand an entry over; without an index it follows the last one. */
  append(group: GroupHistory, what: DriveEntry): RigEntry {
    this.stamp += 1;
    const { entries } = group.present;
    const entry: RigEntry = {
      index: entries.length + 1,
      term: entries.at(-1)?.term ?? 1,
      type: EntryType.Write,
      layer: group.pg,
      firstBlock: 0,
      blocks: 1,
      snapSeq: 0,
      stamp: this.stamp,
      data: null,
      session: 11 + (this.stamp % 3),
      ...what,
    };
    for (let tries = 0; ; tries++) {
      group.steps.push({ ...group.step(), kind: "append", entry });
      const status = this.rig.append(group.row, entry);
      if (status === Status.Ok) return entry;
      group.steps.pop();
      this.check();
      assert(
        status === Status.Busy && tries < BUSY_TRIES_MAX,
        `drive: an entry was refused: ${Status[status]}, ${JSON.stringify(this.rig.store.usage())}`,
      );
      this.pass(2_000);
    }
  }

  write(group: GroupHistory, firstBlock: number, blocks: number, more: DriveEntry = {}): RigEntry {
    return this.append(group, { firstBlock, blocks, ...more });
  }

  zero(group: GroupHistory, firstBlock: number, blocks: number, more: DriveEntry = {}): RigEntry {
    return this.append(group, { type: EntryType.Zero, firstBlock, blocks, ...more });
  }

  /** An entry without blocks. */
  plain(group: GroupHistory, type: EntryType, more: DriveEntry = {}): RigEntry {
    return this.append(group, { type, layer: 0, firstBlock: 0, blocks: 0, ...more });
  }

  /** Commit and apply what is durable up to `index`. */
  commit(group: GroupHistory, index: number = this.rig.store.durableIndex(group.row)): void {
    const { entries } = group.present;
    group.commit(index);
    this.rig.store.setCommit(group.row, index);
    for (let at = this.rig.store.appliedIndex(group.row) + 1; at <= index; at++) {
      this.rig.apply(group.row, entries[at - 1]!);
    }
  }

  /** Write, wait, commit, apply. */
  async put(group: GroupHistory, firstBlock: number, blocks: number, more: DriveEntry = {}) {
    this.write(group, firstBlock, blocks, more);
    await this.durable(group);
    this.commit(group);
  }

  /** Cast a vote; waits for nothing. */
  vote(group: GroupHistory, term: number, vote: number): void {
    const { replicaId } = group.present;
    const commit = this.rig.store.appliedIndex(group.row);
    group.hard.push({ ...group.step(), replicaId, term, vote, commit });
    this.rig.store.putHardState(group.row, term, vote, commit);
  }

  async voted(group: GroupHistory): Promise<void> {
    await this.until(() => group.hard.every((hard) => Number.isFinite(hard.acked)), "voted");
  }

  lose(group: GroupHistory, layer: number, block: number, version: number): void {
    group.lost.push({ ...group.step(), layer, block, version });
    const row = group.row;
    const marked = this.rig.store.markLost(row, layer, block, 0xffff_ffff, version);
    assert(marked, "drive: a block that can not be lost");
  }

  /* ------------------------------------------------- catch-up by difference */

  /** The group went on without this replica by `missed`; it takes over the position behind them. */
  async begin(group: GroupHistory, missed: readonly DriveEntry[]): Promise<void> {
    const { store } = this.rig;
    const { present } = group;
    const entries = present.entries.slice(0, store.appliedIndex(group.row));
    for (const what of missed) {
      this.stamp += 1;
      const term = (entries.at(-1)?.term ?? 1) + (what === missed[0] ? 1 : 0);
      entries.push({
        index: entries.length + 1,
        term,
        type: EntryType.Write,
        layer: group.pg,
        firstBlock: 0,
        blocks: 1,
        snapSeq: 0,
        stamp: this.stamp,
        data: null,
        ...what,
      });
    }
    const index = entries.length;
    group.steps.push({ ...group.step(), kind: "begin", index, entries });
    this.owner.begun.delete(group.row);
    this.owner.beginning.set(group.row, index);
    const state = groupStateOf(entries, index, this.owner.conf);
    store.beginFill(group.row, index, entries.at(-1)!.term, state);
    await this.until(() => this.owner.begun.has(group.row), "begun");
  }

  /** Make units what they are at the leader, as of what is applied. */
  async fill(group: GroupHistory, ...keys: readonly RigKey[]): Promise<void> {
    const { replicaId } = group.present;
    const ops = keys.map((key) => {
      const step = { ...group.step(), replicaId, key };
      return { step, op: this.rig.startFill(group.row, key, this.wanted(group, key)) };
    });
    const noteDone = (): boolean => {
      for (const { step, op } of ops) {
        if (!op.done || op.status !== Status.Ok || Number.isFinite(step.acked)) continue;
        step.acked = this.timeline.next();
        group.fills.push(step);
      }
      return ops.every(({ op }) => op.done);
    };
    await this.until(noteDone, "fills");
    for (const { op } of ops) assert(op.status === Status.Ok, "drive: a fill was refused");
  }

  private wanted(group: GroupHistory, key: RigKey): RigFillBlock[] {
    const { entries } = group.present;
    const applied = this.rig.store.appliedIndex(group.row);
    return Array.from({ length: BLOCKS_PER_UNIT }, (_, bit) => {
      const block = key.unit * BLOCKS_PER_UNIT + bit;
      const { now } = this.timeline;
      const { entry } = group.blockAt(entries, applied, key.layer, block, key.snapSeq, now);
      if (entry === null) return { bit, state: BlockState.Zero, version: 0, stamp: 0 };
      return { bit, state: BlockState.Data, version: entry.index, stamp: entry.stamp };
    });
  }

  async endFill(group: GroupHistory): Promise<void> {
    group.steps.push({ ...group.step(), kind: "end" });
    this.owner.ended.delete(group.row);
    this.rig.store.endFill(group.row);
    await this.until(() => this.owner.ended.has(group.row), "ended");
    assert(this.rig.store.healthOf(group.row) === GroupHealth.Ok, "drive: the fill has not ended");
  }

  async renew(group: GroupHistory, replicaId: number): Promise<void> {
    group.steps.push({ ...group.step(), kind: "renew", replicaId });
    this.rig.renew(group.row, replicaId);
    await this.until(() => this.owner.created.has(group.row), "renewed");
  }
}
