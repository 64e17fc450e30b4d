// cold path: once per start.
import { BLOCKS_PER_UNIT } from "../base/units.ts";
import {
  type CheckpointGroup,
  GroupHealth,
  type LayerParent,
  type Tombstone,
} from "../store/store.ts";
import { EntryType } from "./entry.ts";
import type {
  RawRecord,
  ScanInput,
  ScannedEntry,
  ScannedFill,
  ScannedGroup,
} from "./log-scan-types.ts";
import { RecordFlag, RecordType, RecordView } from "./record.ts";

/**
 * Builds the groups' logs from the records, in order (`store.md`, Start 4): each group begins as the
 * checkpoint has it.
 */
export class GroupBuilder {
  readonly tombstones: Tombstone[];
  readonly parents: LayerParent[] = [];
  readonly namedUnits = new Set<number>();
  readonly goneGroups = new Set<number>();
  private readonly input: ScanInput;
  private readonly groups = new Map<number, BuildingGroup>();
  private readonly record: RecordView;

  constructor(input: ScanInput) {
    this.input = input;
    this.tombstones = [...input.tombstones];
    this.record = new RecordView(input.world.arena.view);
    for (const known of input.groups) {
      const group = new BuildingGroup(known);
      if (input.distrustedBelow > 0) group.distrust();
      this.groups.set(known.pg, group);
    }
  }

  add(raw: RawRecord, seq: number): void {
    const record = this.record;
    record.load(raw.view, 0, raw.view.byteLength);
    if (record.type === RecordType.LayerParent) {
      const { layer, session: parent, snapSeq } = record;
      this.parents.push({ layer, parent, snapSeq });
      return;
    }
    if (record.type === RecordType.ReplicaCreated) {
      this.addReplica(record, seq);
      return;
    }
    if (record.type <= EntryType.Cut) this.nameUnits(record);
    const group = this.groups.get(record.pg);
    const isHere = group !== undefined && group.replicaId === record.replicaId;
    if (record.type === RecordType.ReplicaGone) {
      // It may tell of one that was here before, and that was forgotten.
      this.bury(record.pg, record.replicaId);
      if (!isHere) return;
      this.groups.delete(record.pg);
      this.goneGroups.add(record.pg);
      return;
    }
    if (!isHere) return;
    group.commit = Math.max(group.commit, record.commit);
    if (record.type <= EntryType.Cut) group.addEntry(raw, record, seq);
    else if (record.type === RecordType.Fill) group.addFill(raw, record, seq);
    else group.addFact(record, seq >= this.input.headSeq);
  }

  /**
   * A replica is made; or renewed: then it follows another one of its group, which is gone with this
   * record, and whose units stay.
   */
  private addReplica(record: RecordView, seq: number): void {
    const renews = (record.flags & RecordFlag.Renews) !== 0;
    const known = this.groups.get(record.pg);
    if (known !== undefined && (!renews || known.replicaId >= record.replicaId)) return;
    if (renews) this.bury(record.pg, record.session);
    const buried = this.tombstones.some(
      (stone) => stone.pg === record.pg && stone.replicaId >= record.replicaId,
    );
    if (buried) return;
    const created: CheckpointGroup = {
      pg: record.pg,
      replicaId: record.replicaId,
      health: renews ? GroupHealth.Filling : GroupHealth.Ok,
      term: 0,
      vote: 0,
      commit: record.index,
      baseIndex: record.index,
      baseTerm: record.term,
      fillIndex: 0,
      state: {
        applied: record.index,
        conf: record.copyData() ?? new Uint8Array(0),
        confIndex: record.index,
        expiredBelow: 0,
        sessions: [],
        fences: [],
      },
    };
    const group = new BuildingGroup(created);
    if (seq < this.input.distrustedBelow) group.distrust();
    this.groups.set(record.pg, group);
  }

  private bury(pg: number, replicaId: number): void {
    const known = this.tombstones.some((stone) => stone.pg === pg && stone.replicaId === replicaId);
    if (!known) this.tombstones.push({ pg, replicaId });
  }

  private nameUnits(record: RecordView): void {
    for (let run = 0; run < record.runs; run++) {
      for (let unit = 0; unit < record.runLength(run) && unit < BLOCKS_PER_UNIT; unit++) {
        const slot = record.runUnit(run) + unit;
        if (this.input.isUnit(slot)) this.namedUnits.add(slot);
      }
    }
  }

  finish(damaged: boolean): ScannedGroup[] {
    const groups: ScannedGroup[] = [];
    for (const building of this.groups.values()) {
      const group = building.finish();
      if (damaged) group.health = GroupHealth.Distrusted;
      groups.push(group);
    }
    return groups;
  }
}

/** One group while its records are read. */
class BuildingGroup {
  readonly replicaId: number;
  commit: number;
  private readonly from: CheckpointGroup;
  private readonly entries = new Map<number, ScannedEntry>();
  private readonly fills: ScannedFill[] = [];
  private highest = 0;
  private contradiction = false;
  private health: GroupHealth;
  private fillIndex: number;
  private term: number;
  private vote: number;
  private baseIndex: number;
  private baseTerm: number;

  constructor(from: CheckpointGroup) {
    this.from = from;
    this.replicaId = from.replicaId;
    this.commit = Math.max(from.commit, from.state.applied);
    this.health = from.health;
    this.fillIndex = from.fillIndex;
    this.term = from.term;
    this.vote = from.vote;
    this.baseIndex = from.baseIndex;
    this.baseTerm = from.baseTerm;
  }

  /** Raft's rule: a record cuts what follows only when it says so; the same term is a second copy. */
  addEntry(raw: RawRecord, record: RecordView, seq: number): void {
    const index = record.index;
    // Also below the base: a beginning may have put it behind entries that were cut before.
    if ((record.flags & RecordFlag.Truncates) !== 0) this.cut(index);
    if (index <= this.baseIndex) return;
    const known = this.entries.get(index);
    if (known !== undefined && known.term !== record.term) this.contradiction = true;
    this.entries.set(index, {
      index,
      term: record.term,
      type: record.type,
      seq,
      recordAt: raw.recordAt,
      inlineBlock: raw.inlineBlock,
      record: raw.view,
      bad: raw.bad,
    });
    this.highest = Math.max(this.highest, index);
  }

  addFill(raw: RawRecord, record: RecordView, seq: number): void {
    // What was applied before the checkpoint is home (R3).
    if (record.index < this.from.state.applied) return;
    const { inlineBlock, view } = raw;
    this.fills.push({ at: record.index, seq, inlineBlock, record: view });
  }

  /** `isNew`: the checkpoint can not know it. */
  addFact(record: RecordView, isNew: boolean): void {
    switch (record.type) {
      case RecordType.HardState:
        if (record.term < this.term) return;
        this.term = record.term;
        this.vote = record.session;
        return;
      case RecordType.LogBase:
        if (record.index <= this.baseIndex) return;
        this.baseIndex = record.index;
        this.baseTerm = record.term;
        for (const index of this.entries.keys()) {
          if (index <= record.index) this.entries.delete(index);
        }
        return;
      case RecordType.Filling:
        // It has ended; not if it began again since, which a checkpoint tells. A replica that was
        // distrusted stays so: only another id may follow it.
        if (!isNew) return;
        this.fillIndex = 0;
        if (this.health === GroupHealth.Filling) this.health = GroupHealth.Ok;
        return;
      case RecordType.Truncated:
        this.cut(record.index);
        return;
      case RecordType.Distrusted:
        this.distrust();
        return;
    }
  }

  distrust(): void {
    this.health = GroupHealth.Distrusted;
  }

  private cut(index: number): void {
    for (let at = index; at <= this.highest; at++) this.entries.delete(at);
    this.highest = Math.min(this.highest, index - 1);
  }

  /**
   * A power cut between the checkpoint with another position and the record that cuts what was
   * dropped for it leaves entries of older terms behind the position. Answers where, 0: nowhere.
   */
  private cutDropped(): number {
    const first = this.baseIndex + 1;
    const entry = this.entries.get(first);
    if (entry === undefined || entry.term >= this.baseTerm) return 0;
    this.cut(first);
    return first;
  }

  finish(): ScannedGroup {
    const { applied } = this.from.state;
    const truncatedAt = this.cutDropped();
    let entries: ScannedEntry[] = [];
    for (let index = this.baseIndex + 1; ; index++) {
      const entry = this.entries.get(index);
      if (entry === undefined) break;
      entries.push(entry);
    }
    let { baseIndex, baseTerm } = this;
    const whole = entries.length === this.entries.size && baseIndex + entries.length >= applied;
    if (baseIndex + entries.length < applied) {
      // What is left of the log ends below what is applied: it says nothing any more.
      entries = [];
      baseIndex = applied;
      baseTerm = 0;
    }
    const trusted = whole && !this.contradiction;
    return {
      pg: this.from.pg,
      replicaId: this.replicaId,
      health: trusted ? this.health : GroupHealth.Distrusted,
      fillIndex: this.fillIndex,
      term: this.term,
      vote: this.vote,
      commit: Math.min(this.commit, baseIndex + entries.length),
      baseIndex,
      baseTerm,
      state: this.from.state,
      entries,
      fills: this.fills.sort((one, other) => one.at - other.at),
      faulty: entries.filter((one) => one.bad && one.index > applied).map((one) => one.index),
      truncatedAt,
    };
  }
}
