// cold path: random histories of a local store against a plain model, for tests.
import { assert } from "../base/assert.ts";
import { Prng } from "../base/prng.ts";
import { Status } from "../base/status.ts";
import { EntryType } from "../log/log.ts";
import { BlockState, GroupHealth, type RecoveredGroup, SNAP_SEQ_HEAD } from "./local-store.ts";
import type { Machine } from "./machine-harness.ts";
import type { RigEntry, StoreRig } from "./store-harness.ts";

const GROUPS = 3;
/** Units of each group's layers. */
const UNITS = 6;
const BLOCKS = UNITS * 16;

/** The change that a block shows. */
interface Write {
  readonly index: number;
  readonly snapSeq: number;
  readonly stamp: number;
}

/** One group: what its log holds and what was applied. */
export class GroupModel {
  readonly pg: number;
  readonly firstBlock: number;
  row: number;
  entries: RigEntry[] = [];
  base = 0;
  term = 1;
  commit = 0;
  applied = 0;
  snapSeq = 0;
  layer: number;
  readonly layers: number[];
  /** Without quorum: nothing commits. */
  stuck = false;
  readonly known = new Map<string, RigEntry>();

  constructor(pg: number, row: number, number: number) {
    this.pg = pg;
    this.row = row;
    this.firstBlock = number * 64 * 16;
    this.layer = 100 + number * 10;
    this.layers = [this.layer];
  }

  get last(): number {
    return this.entries.length;
  }

  at(index: number): RigEntry {
    return this.entries[index - 1]!;
  }

  add(entry: RigEntry): void {
    this.entries.length = entry.index - 1;
    this.entries.push(entry);
    this.known.set(`${entry.index}/${entry.term}`, entry);
  }

  isGone(layer: number): boolean {
    return this.entries.some(
      (entry) => entry.type === EntryType.LayerGone && entry.layer === layer,
    );
  }

  /** The newest change of a block up to `applied`, as of a snapshot. */
  expected(layer: number, block: number, snapSeq: number): Write | null {
    for (let index = this.applied; index > 0; index--) {
      const entry = this.at(index);
      if (entry.layer !== layer) continue;
      if (entry.type === EntryType.LayerGone) return null;
      if (entry.snapSeq > snapSeq) continue;
      if (block < entry.firstBlock || block >= entry.firstBlock + entry.blocks) continue;
      if (entry.type === EntryType.Zero) return null;
      if (entry.type === EntryType.Write) return entry;
    }
    return null;
  }
}

/** One history. Throws when the store contradicts the model. */
export class ModelRun {
  readonly machine: Machine;
  readonly random: Prng;
  private readonly moverStartBlocks: number;
  readonly groups: GroupModel[] = [];
  rig!: StoreRig;
  stamp = 0;
  crashes = 0;
  reads = 0;
  checkpoints = 0;
  moved = 0;
  copied = 0;
  discarded = 0;
  again = 0;
  pageLoads = 0;
  pageEvictions = 0;
  busy = 0;

  constructor(machine: Machine, seed: number) {
    this.machine = machine;
    this.random = new Prng(seed);
    this.moverStartBlocks = seed % 2 === 0 ? 1 : 16;
  }

  async open(): Promise<void> {
    this.rig = await this.machine.open({
      tuning: {
        moverStartPercent: this.random.below(30),
        moverStartBlocks: this.moverStartBlocks,
        checkpointStartPercent: 10 + this.random.below(40),
        idleMs: 5 + this.random.below(100),
        vouchMs: 1 + this.random.below(50),
        backgroundDepth: 1 + this.random.below(16),
        discardRestMs: this.random.below(4),
        staleKeptPercent: 0,
      },
    });
  }

  async start(): Promise<void> {
    await this.open();
    for (let number = 0; number < GROUPS; number++) {
      const pg = 65_536 + number;
      this.groups.push(new GroupModel(pg, await this.rig.create(pg), number));
    }
    this.rig.store.finishRecovery();
  }

  pick(): GroupModel {
    return this.groups[this.random.below(GROUPS)]!;
  }

  async step(): Promise<void> {
    const dice = this.random.below(100);
    if (dice < 45) this.append(this.pick());
    else if (dice < 60) this.commitSome(this.pick());
    else if (dice < 75) await this.readSome(this.pick());
    else if (dice < 80) this.cut(this.pick());
    else if (dice < 84) this.rig.store.requestCheckpoint();
    else if (dice < 96) this.pass(this.random.below(this.random.below(8) === 0 ? 60_000 : 1500));
    else if (dice < 98) await this.loadSome(this.pick());
    else await this.crash();
  }

  pass(us: number): void {
    this.machine.simulation.run(this.machine.simulation.nowUs + us);
  }

  append(group: GroupModel): void {
    const kind = this.random.below(100);
    this.stamp += 1;
    let type = EntryType.Write;
    let firstBlock = group.firstBlock + this.random.below(BLOCKS);
    let blocks = 1 + this.random.below(this.random.below(3) === 0 ? 64 : 6);
    const layer = group.layer;
    if (kind < 25) {
      type = EntryType.Zero;
      if (this.random.below(2) === 0) {
        firstBlock -= firstBlock % 16;
        blocks = 16 * (1 + this.random.below(3));
      }
    } else if (kind < 28) type = EntryType.Noop;
    else if (kind < 30) type = EntryType.LayerGone;
    else if (kind < 40) {
      firstBlock -= firstBlock % 16;
      blocks = 16 * (1 + this.random.below(4));
    }
    if (kind >= 97) group.snapSeq += 1;
    const end = group.firstBlock + BLOCKS;
    if (firstBlock + blocks > end) blocks = end - firstBlock;
    if (type === EntryType.Noop || type === EntryType.LayerGone) {
      firstBlock = 0;
      blocks = 0;
    }
    const entry: RigEntry = {
      index: group.last + 1,
      term: group.term,
      type,
      layer: type === EntryType.Noop ? 0 : layer,
      firstBlock,
      blocks,
      snapSeq: group.snapSeq,
      stamp: this.stamp,
      data: null,
    };
    this.put(group, entry);
    if (type === EntryType.LayerGone && group.at(group.last) === entry) {
      group.layer += 1;
      group.layers.push(group.layer);
    }
  }

  put(group: GroupModel, entry: RigEntry): void {
    const status = this.rig.append(group.row, entry);
    if (status === Status.Ok) {
      group.add(entry);
      if (this.random.below(4) === 0) {
        this.rig.store.putHardState(group.row, group.term, 1, group.commit);
      }
      return;
    }
    same("an append was refused", status, Status.Busy);
    this.busy += 1;
    this.pass(3000);
    if (group.stuck && this.random.below(20) === 0) group.stuck = false;
    this.commitSome(group);
  }

  /** A new leader replaces the uncommitted suffix. */
  cut(group: GroupModel): void {
    if (group.last <= group.commit) return;
    const index = group.commit + 1 + this.random.below(group.last - group.commit);
    const from = group.at(index);
    group.term += 1;
    this.stamp += 1;
    const entry: RigEntry = {
      ...from,
      term: group.term,
      type: EntryType.Write,
      layer: group.layer,
      firstBlock: group.firstBlock + this.random.below(BLOCKS - 20),
      blocks: 1 + this.random.below(20),
      snapSeq: group.snapSeq,
      stamp: this.stamp,
    };
    this.put(group, entry);
  }

  commitSome(group: GroupModel): void {
    const durable = this.rig.store.durableIndex(group.row);
    if (this.random.below(30) === 0) group.stuck = !group.stuck;
    if (durable > group.commit && !group.stuck) {
      group.commit += 1 + this.random.below(durable - group.commit);
      if (this.random.below(3) > 0) this.rig.store.setCommit(group.row, group.commit);
    }
    const upTo = this.random.below(4) === 0 ? group.applied : group.commit;
    this.applyTo(group, upTo);
  }

  applyTo(group: GroupModel, upTo: number): void {
    while (group.applied < upTo) {
      group.applied += 1;
      this.rig.apply(group.row, group.at(group.applied));
    }
  }

  async readSome(group: GroupModel): Promise<void> {
    const layer = group.layers[this.random.below(group.layers.length)]!;
    const at = this.random.below(BLOCKS);
    const blocks = 1 + this.random.below(Math.min(64, BLOCKS - at));
    const snapSeq =
      this.random.below(2) === 0 ? SNAP_SEQ_HEAD : this.random.below(group.snapSeq + 1);
    await this.check(group, layer, group.firstBlock + at, blocks, snapSeq);
  }

  async check(
    group: GroupModel,
    layer: number,
    firstBlock: number,
    blocks: number,
    snapSeq: number,
  ): Promise<void> {
    this.reads += 1;
    // The scan that frees a deleted layer runs in the background.
    if (group.isGone(layer)) return;
    const wanted: (Write | null)[] = [];
    for (let at = 0; at < blocks; at++)
      wanted.push(group.expected(layer, firstBlock + at, snapSeq));
    const found = await this.rig.read(group.row, layer, firstBlock, blocks, snapSeq);
    found.forEach((block, at) => {
      const write = wanted[at];
      const where = `layer ${layer} block ${firstBlock + at} snapSeq ${snapSeq}`;
      if (write === null || write === undefined) {
        same(where, block.state, BlockState.Zero);
      } else {
        const data = { state: BlockState.Data, version: write.index, stamp: write.stamp };
        same(where, block, data);
      }
    });
  }

  async checkAll(): Promise<void> {
    for (const group of this.groups) {
      for (let seq = 0; seq <= group.snapSeq + 1; seq++) {
        const snapSeq = seq > group.snapSeq ? SNAP_SEQ_HEAD : seq;
        const half = BLOCKS / 2;
        await this.check(group, group.layer, group.firstBlock, half, snapSeq);
        await this.check(group, group.layer, group.firstBlock + half, half, snapSeq);
      }
    }
  }

  async loadSome(group: GroupModel): Promise<void> {
    const first = this.rig.store.firstIndex(group.row);
    const durable = this.rig.store.durableIndex(group.row);
    if (durable < first) return;
    const index = first + this.random.below(durable - first + 1);
    const wanted = group.at(index);
    const { status, entry } = await this.rig.load(group.row, index);
    same("load", status, Status.Ok);
    const { term, type, layer, firstBlock, blocks, snapSeq } = wanted;
    same(
      "loaded entry",
      [entry.index, entry.term, entry.type, entry.layer, entry.firstBlock, entry.blocks],
      [index, term, type, layer, firstBlock, blocks],
    );
    same("loaded entry's snapSeq", entry.snapSeq, snapSeq);
    if (entry.type === EntryType.Write) {
      for (let block = 0; block < entry.blocks; block++) {
        const at = entry.payload + block * 4096;
        const stamp = this.rig.world.arena.view.getUint32(at, true);
        // Direct payload that a later committed entry replaced in place is sent as zeros.
        assert(stamp === wanted.stamp || stamp === 0, "model: the payload of another entry");
        const crc = this.rig.world.checksum.crc32(this.rig.world.arena.block(at), 0);
        same("crc of loaded payload", crc, entry.crcs[block]);
      }
    }
    this.rig.store.entries.release(entry);
  }

  note(): void {
    const counters = this.rig.store.counters;
    this.checkpoints += counters.checkpoints;
    this.moved += counters.blocksMoved;
    this.copied += counters.unitsCopied;
    this.discarded += counters.bytesDiscarded;
    this.again += counters.entriesAppendedAgain;
    this.pageLoads += counters.pageLoads;
    this.pageEvictions += counters.pageEvictions;
  }

  async crash(): Promise<void> {
    this.crashes += 1;
    this.note();
    const durable = this.groups.map((group) => this.rig.store.durableIndex(group.row));
    this.machine.crash();
    await this.open();
    while (this.random.below(4) === 0) {
      // The power fails again, while the store starts.
      this.pass(this.random.below(2000));
      this.machine.crash();
      await this.open();
    }
    same("groups recovered", this.rig.store.recovered.length, GROUPS);
    for (const recovered of this.rig.store.recovered) {
      const at = this.groups.findIndex((group) => group.pg === recovered.pg);
      await this.recover(this.groups[at]!, recovered, durable[at]!);
    }
    this.rig.store.finishRecovery();
    await this.checkAll();
  }

  /** Compare what was found of a group with what had to be found. */
  recover(group: GroupModel, recovered: RecoveredGroup, durable: number): Promise<void> {
    same("health", recovered.health, this.healthOf(group));
    assert(recovered.lastIndex >= durable, "model: a durable entry is missing");
    assert(recovered.commit <= group.commit, "model: the commit index is too high");
    same("faulty entries", recovered.faulty, []);
    group.row = recovered.row;
    this.takeLog(group, recovered.baseIndex, recovered.lastIndex, durable);
    this.rig.replay(recovered, recovered.commit);
    this.rig.replay(recovered, group.commit);
    group.applied = group.commit;
    return Promise.resolve();
  }

  healthOf(_group: GroupModel): GroupHealth {
    return GroupHealth.Ok;
  }

  /** What was recovered becomes the model's log; what was durable must be in it. */
  takeLog(group: GroupModel, base: number, last: number, durable: number): void {
    const entries = group.entries.slice(0, base);
    for (let index = base + 1; index <= last; index++) {
      const term = this.rig.store.termAt(group.row, index);
      const entry = group.known.get(`${index}/${term}`);
      assert(entry !== undefined, "model: an entry that nobody appended");
      if (index <= durable) same("durable entry", entry, group.at(index));
      entries.push(entry);
    }
    group.entries = entries;
    group.term = Math.max(group.term, entries.at(-1)?.term ?? 0) + 1;
    // Layers that a lost entry deleted are in use again.
    const first = group.layers[0]!;
    const newest = entries.reduce((most, entry) => Math.max(most, entry.layer), first);
    group.layer = group.isGone(newest) ? newest + 1 : newest;
    group.layers.length = 0;
    for (let layer = first; layer <= group.layer; layer++) group.layers.push(layer);
    group.snapSeq = Math.max(group.snapSeq, ...entries.map((entry) => entry.snapSeq));
  }
}

/** Throw unless two plain values are the same. */
export function same(what: string, found: unknown, wanted: unknown): void {
  const is = JSON.stringify(found);
  const should = JSON.stringify(wanted);
  if (is !== should) throw new Error(`${what}: ${is}, ${should} wanted`);
}
