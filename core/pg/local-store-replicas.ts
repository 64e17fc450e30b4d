// cold path: once per replica.
import { assert } from "../base/assert.ts";
import { type ControlRecord, RECORD_DATA_MAX, RecordType, type ShardLog } from "../log/log.ts";
import type { ObjectStore } from "../object/object.ts";
import { GroupHealth } from "../store/store.ts";
import type { Filler } from "./local-store-fill.ts";
import {
  RowState,
  type StoreMachines,
  type StoreParts,
  type StoreState,
} from "./local-store-parts.ts";

/** Of a replica that is buried without having been found. */
const NO_ROW = -1;

/**
 * The replicas of a shard come and go: each by a local record, which is durable before the owner hears
 * of it. A tombstone keeps a removed one from coming back.
 */
export class Replicas {
  private readonly parts: StoreParts;
  private readonly state: StoreState;
  private readonly log: ShardLog;
  private readonly objects: ObjectStore;
  private readonly filler: Filler;

  constructor(parts: StoreParts, machines: StoreMachines, state: StoreState, filler: Filler) {
    this.parts = parts;
    this.state = state;
    this.log = machines.log;
    this.objects = machines.objects;
    this.filler = filler;
  }

  /** See `LocalStore.createReplica`. */
  create(
    pg: number,
    replicaId: number,
    conf: Uint8Array,
    baseIndex: number,
    baseTerm: number,
  ): number {
    assert(
      conf.length <= RECORD_DATA_MAX,
      "LocalStore.createReplica: the configuration is too large",
    );
    if (this.state.failed || !this.mayCreate(pg, replicaId)) return -1;
    const group = this.log.openGroup(pg, replicaId, baseIndex, baseTerm);
    this.state.rows[group.row] = new RowState(GroupHealth.Ok, 0);
    const record = this.log.takeControl(RecordType.ReplicaCreated);
    record.row = group.row;
    record.pg = pg;
    record.replicaId = replicaId;
    record.index = baseIndex;
    record.term = baseTerm;
    record.data = conf;
    this.log.putControl(record);
    return group.row;
  }

  private mayCreate(pg: number, replicaId: number): boolean {
    if (this.isBuried(pg, replicaId)) return false;
    for (let row = 0; row < this.log.groups.length; row++) {
      const group = this.log.groups[row]!;
      if (group.pg !== pg) continue;
      // A replica that is being removed keeps its pg until its record is durable.
      if (group.alive || this.state.rows[row] !== undefined) return false;
    }
    return true;
  }

  private isBuried(pg: number, replicaId: number): boolean {
    const { tombstones } = this.parts;
    return tombstones.some((stone) => stone.pg === pg && stone.replicaId >= replicaId);
  }

  /** See `LocalStore.bury`. */
  bury(pg: number, replicaId: number): void {
    if (this.isBuried(pg, replicaId)) return;
    const record = this.log.takeControl(RecordType.ReplicaGone);
    record.row = NO_ROW;
    record.pg = pg;
    record.replicaId = replicaId;
    this.log.putControl(record);
    // At once: the next map may be followed before the record is durable.
    this.parts.tombstones.push({ pg, replicaId });
    this.state.changed = true;
  }

  /** See `LocalStore.removeReplica`. */
  remove(row: number): void {
    const group = this.log.group(row);
    this.filler.onRemoved(row);
    this.log.closeGroup(row);
    const record = this.log.takeControl(RecordType.ReplicaGone);
    record.row = row;
    record.pg = group.pg;
    record.replicaId = group.replicaId;
    this.log.putControl(record);
  }

  /** A local record is durable. */
  onControlDurable(record: ControlRecord): void {
    this.filler.onControlDurable(record);
    if (record.type === RecordType.ReplicaCreated) this.parts.owner.onReplicaCreated(record.row);
    if (record.type !== RecordType.ReplicaGone || record.row === NO_ROW) return;
    const { row, pg, replicaId } = record;
    this.parts.tombstones.push({ pg, replicaId });
    this.objects.freeRow(row);
    this.state.rows[row] = undefined;
    this.state.changed = true;
    this.log.freeRow(row);
    this.parts.owner.onReplicaGone(row, pg, replicaId);
  }
}
