// data path
import { assert } from "../base/assert.ts";
import type { World } from "../reactor/world.ts";
import type { Entry } from "./entry.ts";
import type { EntryPool } from "./entry-pool.ts";
import type { StoreFillOp } from "./fill-op.ts";
import type { GroupLog } from "./group-log.ts";
import { ControlRecord, RecordFlag, type RecordType } from "./record.ts";
import { RowList } from "./row-list.ts";

const ENTRIES_CAPACITY_START = 256;

/**
 * What waits for a batch: local records, hard states, fills and entries, each kind in its order.
 *
 * A batch takes the kinds in that order, because entries and fills may rely on the local records
 * queued before them. An entry is retained while it waits; whoever shifts it out releases it.
 */
export class LogQueue {
  /** Rows whose hard state is to be written; each at most once. */
  readonly hardRows: RowList = new RowList();
  fillHead: StoreFillOp | null = null;
  controlHead: ControlRecord | null = null;
  entryCount = 0;
  private readonly world: World;
  private readonly pool: EntryPool;
  private readonly groups: readonly GroupLog[];
  private entries: (Entry | null)[];
  private entryHead = 0;
  private fillTail: StoreFillOp | null = null;
  private controlTail: ControlRecord | null = null;
  private controlFree: ControlRecord | null = null;
  /** Rows whose commit index no record carries; each at most once. */
  private readonly commitRows = new RowList();

  constructor(world: World, pool: EntryPool, groups: readonly GroupLog[]) {
    this.world = world;
    this.pool = pool;
    this.groups = groups;
    this.entries = new Array<Entry | null>(ENTRIES_CAPACITY_START).fill(null);
  }

  get hasWork(): boolean {
    if (this.entryCount > 0 || this.fillHead !== null) return true;
    return this.controlHead !== null || this.hardRows.count > 0;
  }

  /* --------------------------------------------------------------- entries */

  pushEntry(entry: Entry): void {
    this.pool.retain(entry);
    if (this.entryCount === this.entries.length) this.grow();
    this.entries[(this.entryHead + this.entryCount) & (this.entries.length - 1)] = entry;
    this.entryCount += 1;
    this.world.turns.again();
  }

  entryAt(which: number): Entry {
    const entry = this.entries[(this.entryHead + which) & (this.entries.length - 1)];
    assert(entry !== null && entry !== undefined, "ShardLog: hole in the queue of entries");
    return entry;
  }

  shiftEntry(): Entry {
    const entry = this.entryAt(0);
    this.entries[this.entryHead] = null;
    this.entryHead = (this.entryHead + 1) & (this.entries.length - 1);
    this.entryCount -= 1;
    return entry;
  }

  // cold: doubles when it is full.
  private grow(): void {
    const size = this.entries.length;
    const grown = new Array<Entry | null>(size * 2).fill(null);
    for (let at = 0; at < size; at++) {
      grown[at] = this.entries[(this.entryHead + at) & (size - 1)] ?? null;
    }
    this.entries = grown;
    this.entryHead = 0;
  }

  /* ----------------------------------------------------------------- fills */

  // cold: fills are recovery.
  pushFill(op: StoreFillOp): void {
    op.orphaned = false;
    op.fillNext = null;
    if (this.fillTail === null) this.fillHead = op;
    else this.fillTail.fillNext = op;
    this.fillTail = op;
    this.world.turns.again();
  }

  /** Requires: there is one. */
  shiftFill(): StoreFillOp {
    const op = this.fillHead!;
    this.fillHead = op.fillNext;
    if (this.fillHead === null) this.fillTail = null;
    return op;
  }

  // cold: once per failed device.
  /** Let go of the fills. Answers them as a chain. */
  takeFills(): StoreFillOp | null {
    const chain = this.fillHead;
    this.fillHead = null;
    this.fillTail = null;
    return chain;
  }

  /* --------------------------------------------------------- local records */

  /** A cleared local record from the pool. */
  takeControl(type: RecordType): ControlRecord {
    let record = this.controlFree;
    if (record === null) record = makeControl();
    else this.controlFree = record.controlNext;
    record.type = type;
    record.flags = RecordFlag.None;
    record.row = 0;
    record.pg = 0;
    record.replicaId = 0;
    record.term = 0;
    record.index = 0;
    record.commit = 0;
    record.session = 0;
    record.layer = 0;
    record.snapSeq = 0;
    record.data = null;
    record.controlNext = null;
    return record;
  }

  pushControl(record: ControlRecord): void {
    if (this.controlTail === null) this.controlHead = record;
    else this.controlTail.controlNext = record;
    this.controlTail = record;
    this.world.turns.again();
  }

  /** Requires: there is one. */
  shiftControl(): ControlRecord {
    const record = this.controlHead!;
    this.controlHead = record.controlNext;
    if (this.controlHead === null) this.controlTail = null;
    return record;
  }

  recycle(record: ControlRecord): void {
    record.data = null;
    record.controlNext = this.controlFree;
    this.controlFree = record;
  }

  // cold: when many groups fell quiet.
  /** Let go of all records that are in the pool: each replica that was made took one. */
  shrink(): void {
    this.controlFree = null;
  }

  /* ----------------------------------------------- hard states, commit index */

  pushHardState(group: GroupLog): void {
    if (group.hardStateQueued) return;
    group.hardStateQueued = true;
    this.hardRows.push(group.row);
    this.world.turns.again();
  }

  /** The group's commit index moved: remember that no record carries it. */
  listCommit(group: GroupLog): void {
    if (group.commit <= group.commitLogged || group.commitListed) return;
    group.commitListed = true;
    this.commitRows.push(group.row);
  }

  /** Queue the commit index of the group, unless a record carries it already. */
  wantCommit(group: GroupLog): void {
    if (group.commit > group.commitLogged) this.pushHardState(group);
  }

  /** Queue every commit index that no record carries. */
  wantCommits(): void {
    for (let at = 0; at < this.commitRows.count; at++) {
      const group = this.groups[this.commitRows.items[at]!]!;
      group.commitListed = false;
      if (group.alive) this.wantCommit(group);
    }
    this.commitRows.count = 0;
  }
}

// cold: when the pool is empty.
function makeControl(): ControlRecord {
  return new ControlRecord();
}
