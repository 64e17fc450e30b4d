// cold path: reads the whole log once per start.
import { BLOCK_SIZE, BLOCKS_PER_UNIT, UNIT_SIZE } from "../base/units.ts";
import { type Device, DeviceRegion, readOnce } from "../device/device.ts";
import type { World } from "../reactor/world.ts";
import {
  type CheckpointGroup,
  GroupHealth,
  type GroupState,
  type LayerParent,
  type Tombstone,
} from "../store/store.ts";
import {
  BATCH_BLOCKS_MAX,
  BATCH_HEADER_SIZE,
  BatchHeader,
  peekBatch,
  verifyBatch,
} from "./batch.ts";
import { BatchTable } from "./batch-table.ts";
import { EntryType } from "./entry.ts";
import { LogWindow } from "./log-window.ts";
import type { LogSpace } from "./log-space.ts";
import { headBlocks, RecordFlag, RecordType, RecordView, wholeUnits } from "./record.ts";

/**
 * Start-up's reading of the log (`store.md`, Start 3 and 4).
 *
 * The chain is followed from the checkpoint's tail. The first bad header, at sequence s, is either
 * the torn end or damage in the middle: damage when, within the next 64 MiB, a valid header with a
 * higher sequence, an incarnation not older than that of s − 1 and durableSeq ≥ s vouches for s. Bad
 * payload in a vouched batch makes the entry *faulty* (known, to be fetched, never cut); in an
 * unvouched one the log ends before that batch. A direct payload above directSeq that does not match
 * ends only its group's log: other groups' entries in and behind that batch were acknowledged.
 */
export interface ScanInput {
  readonly world: World;
  readonly device: Device;
  readonly space: LogSpace;
  readonly shard: number;
  readonly seed: number;
  /** Of this start: no batch may be newer. */
  readonly incarnationMax: number;
  readonly tailPosition: number;
  readonly tailSeq: number;
  readonly tailPrevCrc: number;
  readonly tailIncarnation: number;
  readonly groups: readonly CheckpointGroup[];
  readonly tombstones: readonly Tombstone[];
  /** Arena memory to read into, a multiple of 1 MiB, at least 2 MiB. */
  readonly buffer: number;
  readonly bufferBytes: number;
  isUnit(slot: number): boolean;
  unitOffset(slot: number): number;
}

/** One entry as the log holds it. */
export interface ScannedEntry {
  readonly index: number;
  readonly term: number;
  readonly type: number;
  readonly seq: number;
  /** Byte offset in its batch; log block of its first inline block, or -1. */
  readonly recordAt: number;
  readonly inlineBlock: number;
  readonly record: DataView;
  /** Its inline payload does not match. */
  readonly bad: boolean;
}

export interface ScannedGroup {
  readonly pg: number;
  readonly replicaId: number;
  health: GroupHealth;
  fillIndex: number;
  term: number;
  vote: number;
  commit: number;
  baseIndex: number;
  baseTerm: number;
  state: GroupState;
  /** base + 1 … last, without gaps. */
  entries: ScannedEntry[];
  faulty: number[];
  /** First index that was cut because its direct payload is torn; 0: none. */
  truncatedAt: number;
}

export interface ScanResult {
  readonly batches: BatchTable;
  readonly headPosition: number;
  readonly lastCrc: number;
  readonly groups: ScannedGroup[];
  readonly tombstones: Tombstone[];
  readonly parents: LayerParent[];
  /** Units that any record of the log names. */
  readonly namedUnits: Set<number>;
  /** Groups whose replica of the checkpoint, or of this log, was removed in this log. */
  readonly goneGroups: Set<number>;
  /** The log is damaged in its middle. */
  readonly damaged: boolean;
  /** For people. */
  readonly notes: string[];
}

const LOOK_AHEAD_BYTES = 64 * 1024 * 1024;

interface RawBatch {
  readonly seq: number;
  readonly position: number;
  readonly blocks: number;
  readonly crc: number;
  readonly incarnation: number;
  readonly durableSeq: number;
  readonly directSeq: number;
  readonly records: RawRecord[];
  bad: boolean;
}

interface RawRecord {
  readonly view: DataView;
  readonly recordAt: number;
  readonly inlineBlock: number;
  readonly bad: boolean;
}

/** Read the log from the tail on. */
export async function scanLog(input: ScanInput): Promise<ScanResult> {
  const chain = new ChainReader(input);
  await chain.read();
  const damaged = await chain.lookAhead();
  const builder = new GroupBuilder(input);
  const end = chain.end();
  for (const batch of chain.batches) {
    if (batch.seq < end) for (const record of batch.records) builder.add(record, batch.seq);
  }
  const kept = chain.batches.filter((batch) => batch.seq < end);
  const groups = builder.finish(damaged);
  const directVouched = kept.reduce((most, batch) => Math.max(most, batch.directSeq), 0);
  for (const group of groups) await cutTornDirect(input, group, directVouched, chain.notes);
  const table = new BatchTable(input.tailSeq);
  for (const batch of kept) table.push(batch.position, batch.crc, batch.incarnation, 0);
  const last = kept.at(-1);
  return {
    batches: table,
    headPosition: last === undefined ? input.tailPosition : last.position + last.blocks,
    lastCrc: last === undefined ? input.tailPrevCrc : last.crc,
    groups,
    tombstones: builder.tombstones,
    parents: builder.parents,
    namedUnits: builder.namedUnits,
    goneGroups: builder.goneGroups,
    damaged,
    notes: chain.notes,
  };
}

/** Follows the chain of batches and verifies headers and inline payload. */
class ChainReader {
  readonly batches: RawBatch[] = [];
  readonly notes: string[] = [];
  private readonly input: ScanInput;
  private readonly window: LogWindow;
  /** Sees the beginning of the next run without moving the window. */
  private readonly probe: LogWindow;
  private readonly header = new BatchHeader();
  private readonly record: RecordView;
  private position: number;
  private seq: number;
  private prevCrc: number;
  private incarnation: number;

  constructor(input: ScanInput) {
    this.input = input;
    const { device, space, buffer, world } = input;
    const windowBytes = input.bufferBytes - BLOCK_SIZE;
    this.window = new LogWindow(world.arena, device, space, buffer, windowBytes);
    this.probe = new LogWindow(world.arena, device, space, buffer + windowBytes, BLOCK_SIZE);
    this.record = new RecordView(input.world.arena.view);
    this.position = input.tailPosition;
    this.seq = input.tailSeq;
    this.prevCrc = input.tailPrevCrc;
    this.incarnation = input.tailIncarnation;
  }

  async read(): Promise<void> {
    const { ringBlocks } = this.input.space;
    for (;;) {
      if (this.position - this.input.tailPosition >= ringBlocks) return;
      const batch = await this.nextBatch();
      if (batch === undefined) return;
      this.batches.push(batch);
      this.position = batch.position + batch.blocks;
      this.seq = batch.seq + 1;
      this.prevCrc = batch.crc;
      this.incarnation = batch.incarnation;
    }
  }

  /**
   * The next batch of the chain: here, or at the beginning of the next run, when it did not fit before
   * the end of this one.
   *
   * Both may hold one that fits the chain: a batch of k blocks was torn here, the next start wrote a
   * longer one in its place, which had to go to the next run. The newer incarnation counts; taking
   * the older one ended the log before what was acknowledged since.
   */
  private async nextBatch(): Promise<RawBatch | undefined> {
    const { space, tailPosition } = this.input;
    const contiguous = space.contiguous(this.position);
    const next = this.position + contiguous;
    const mayJump = contiguous < BATCH_BLOCKS_MAX && next - tailPosition < space.ringBlocks;
    const here = await this.batchAt(this.position);
    if (!mayJump || !(await this.mayContinueAt(next, here))) return here;
    return (await this.batchAt(next)) ?? here;
  }

  /** Does a header stand there that continues the chain, newer than the one found `here`? */
  private async mayContinueAt(position: number, here: RawBatch | undefined): Promise<boolean> {
    const header = this.header;
    const at = await this.probe.load(position, 1);
    if (at < 0 || !peekBatch(this.input.world.arena, at, header)) return false;
    if (header.seq !== this.seq || header.prevCrc !== this.prevCrc) return false;
    return here === undefined || header.incarnation > here.incarnation;
  }

  /** Sequence at which the log ends: the first batch with bad payload that nobody vouched for. */
  end(): number {
    const vouched = this.batches.reduce((most, batch) => Math.max(most, batch.durableSeq), 0);
    for (const batch of this.batches) {
      if (!batch.bad || batch.seq <= vouched) continue;
      this.notes.push(`log: batch ${String(batch.seq)} has a torn payload, the log ends before it`);
      return batch.seq;
    }
    return this.seq;
  }

  private async batchAt(position: number): Promise<RawBatch | undefined> {
    const header = this.header;
    const arena = this.input.world.arena;
    let at = await this.window.load(position, 1);
    if (at < 0 || !peekBatch(arena, at, header)) return undefined;
    if (header.shard !== this.input.shard || header.seq !== this.seq) return undefined;
    if (header.prevCrc !== this.prevCrc || header.incarnation < this.incarnation) return undefined;
    if (header.incarnation > this.input.incarnationMax) return undefined;
    const blocks = header.headerBlocks + header.payloadBlocks;
    at = await this.window.load(position, blocks);
    if (at < 0) return undefined;
    const checksum = this.input.world.checksum;
    if (!verifyBatch(arena, at, header, this.input.seed, checksum)) return undefined;
    const records = this.recordsOf(at, position);
    if (records === undefined) return undefined;
    return {
      seq: header.seq,
      position,
      blocks,
      crc: header.crc,
      incarnation: header.incarnation,
      durableSeq: header.durableSeq,
      directSeq: header.directSeq,
      records,
      bad: records.some((record) => record.bad),
    };
  }

  /** Copy the records out of the window, payload verified; undefined when they are malformed. */
  private recordsOf(at: number, position: number): RawRecord[] | undefined {
    const header = this.header;
    const arena = this.input.world.arena;
    const end = at + BATCH_HEADER_SIZE + header.recordBytes;
    const copy = arena.bytes.slice(at + BATCH_HEADER_SIZE, end);
    const records: RawRecord[] = [];
    let from = at + BATCH_HEADER_SIZE;
    for (let count = 0; count < header.records; count++) {
      const record = this.record;
      if (!record.load(arena.view, from, end - from)) return undefined;
      if (record.inlineFirst + record.inlineCount > header.payloadBlocks) return undefined;
      const payload = at + (header.headerBlocks + record.inlineFirst) * BLOCK_SIZE;
      const first = position + header.headerBlocks + record.inlineFirst;
      const start = from - at - BATCH_HEADER_SIZE;
      records.push({
        view: new DataView(copy.buffer, start, record.size),
        recordAt: from - at,
        inlineBlock: record.inlineCount > 0 ? first : -1,
        bad: !this.inlineGood(record, payload),
      });
      from += record.size;
    }
    return records;
  }

  private inlineGood(record: RecordView, payload: number): boolean {
    if (record.inlineCount === 0) return true;
    const arena = this.input.world.arena;
    const direct = record.unitTotal();
    if (direct < 0 || record.inlineCount + direct * BLOCKS_PER_UNIT !== record.blocks) return false;
    const head = direct === 0 ? record.blocks : headBlocks(record.firstBlock, record.blocks);
    for (let inline = 0; inline < record.inlineCount; inline++) {
      const block = inline < head ? inline : inline + direct * BLOCKS_PER_UNIT;
      const bytes = arena.block(payload + inline * BLOCK_SIZE);
      if (this.input.world.checksum.crc32(bytes, 0) !== record.crc(block)) return false;
    }
    return true;
  }

  /** Is there a header behind the end that vouches for the missing batch? Then it is damage. */
  async lookAhead(): Promise<boolean> {
    const input = this.input;
    const limit = Math.min(
      this.position + LOOK_AHEAD_BYTES / BLOCK_SIZE,
      input.tailPosition + input.space.ringBlocks,
    );
    for (let position = this.position; position < limit; position++) {
      const at = await this.window.load(position, 1);
      if (at < 0 || !peekBatch(input.world.arena, at, this.header)) continue;
      const header = this.header;
      if (header.shard !== input.shard || header.seq <= this.seq) continue;
      if (header.incarnation < this.incarnation || header.durableSeq < this.seq) continue;
      if (header.incarnation > input.incarnationMax) continue;
      const whole = await this.window.load(position, header.headerBlocks);
      if (whole < 0) continue;
      const checksum = input.world.checksum;
      if (!verifyBatch(input.world.arena, whole, header, input.seed, checksum)) continue;
      this.notes.push(
        `log: batch ${String(this.seq)} is damaged; batch ${String(header.seq)} vouches for it`,
      );
      return true;
    }
    return false;
  }
}

/** Builds the groups' logs from the records, in order (`store.md`, Start 4). */
class GroupBuilder {
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
    for (const group of input.groups) this.groups.set(group.pg, new BuildingGroup(group));
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
      this.addReplica(record);
      return;
    }
    if (record.type <= EntryType.Cut) this.nameUnits(record);
    const group = this.groups.get(record.pg);
    if (group === undefined || group.replicaId !== record.replicaId) return;
    if (record.type === RecordType.ReplicaGone) {
      this.groups.delete(record.pg);
      this.goneGroups.add(record.pg);
      this.tombstones.push({ pg: record.pg, replicaId: record.replicaId });
      return;
    }
    group.commit = Math.max(group.commit, record.commit);
    if (record.type <= EntryType.Cut) group.addEntry(raw, record, seq);
    else group.addFact(record);
  }

  private addReplica(record: RecordView): void {
    if (this.groups.has(record.pg)) return;
    const buried = this.tombstones.some(
      (stone) => stone.pg === record.pg && stone.replicaId >= record.replicaId,
    );
    if (buried) return;
    const created: CheckpointGroup = {
      pg: record.pg,
      replicaId: record.replicaId,
      health: GroupHealth.Ok,
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
    this.groups.set(record.pg, new BuildingGroup(created));
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
    if (index <= this.baseIndex) return;
    if ((record.flags & RecordFlag.Truncates) !== 0) this.cut(index);
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

  addFact(record: RecordView): void {
    switch (record.type) {
      case RecordType.HardState:
        if (record.term < this.term) return;
        this.term = record.term;
        this.vote = record.session;
        return;
      case RecordType.LogBase:
        this.fillIndex = 0;
        if (this.health === GroupHealth.Filling) this.health = GroupHealth.Ok;
        if (record.index <= this.baseIndex) return;
        this.baseIndex = record.index;
        this.baseTerm = record.term;
        for (const index of this.entries.keys()) {
          if (index <= record.index) this.entries.delete(index);
        }
        return;
      case RecordType.Filling:
        this.fillIndex = record.index;
        if (this.health === GroupHealth.Ok) this.health = GroupHealth.Filling;
        return;
      case RecordType.Truncated:
        this.cut(record.index);
        return;
      case RecordType.Distrusted:
        this.health = GroupHealth.Distrusted;
        return;
    }
  }

  private cut(index: number): void {
    for (let at = index; at <= this.highest; at++) this.entries.delete(at);
    this.highest = Math.min(this.highest, index - 1);
  }

  finish(): ScannedGroup {
    const entries: ScannedEntry[] = [];
    const faulty: number[] = [];
    for (let index = this.baseIndex + 1; ; index++) {
      const entry = this.entries.get(index);
      if (entry === undefined) break;
      entries.push(entry);
      if (entry.bad && index > this.from.state.applied) faulty.push(index);
    }
    const last = this.baseIndex + entries.length;
    const whole = entries.length === this.entries.size && last >= this.from.state.applied;
    const trusted = whole && !this.contradiction;
    return {
      pg: this.from.pg,
      replicaId: this.replicaId,
      health: trusted ? this.health : GroupHealth.Distrusted,
      fillIndex: this.fillIndex,
      term: this.term,
      vote: this.vote,
      commit: Math.min(this.commit, last),
      baseIndex: this.baseIndex,
      baseTerm: this.baseTerm,
      state: this.from.state,
      entries,
      faulty,
      truncatedAt: 0,
    };
  }
}

/** End a group's log before the first entry whose direct payload was not written in full. */
async function cutTornDirect(
  input: ScanInput,
  group: ScannedGroup,
  vouched: number,
  notes: string[],
): Promise<void> {
  const record = new RecordView(input.world.arena.view);
  for (let at = 0; at < group.entries.length; at++) {
    const entry = group.entries[at]!;
    if (entry.seq <= vouched || entry.index <= group.state.applied) continue;
    record.load(entry.record, 0, entry.record.byteLength);
    if (record.runs === 0 || (await directGood(input, group, at, record))) continue;
    notes.push(
      `pg ${String(group.pg)}: entry ${String(entry.index)} has a torn direct payload, its log ends there`,
    );
    group.entries.length = at;
    group.truncatedAt = entry.index;
    group.commit = Math.min(group.commit, entry.index - 1);
    group.faulty = group.faulty.filter((index) => index < entry.index);
    return;
  }
}

async function directGood(
  input: ScanInput,
  group: ScannedGroup,
  at: number,
  record: RecordView,
): Promise<boolean> {
  if (record.unitTotal() !== wholeUnits(record.firstBlock, record.blocks)) return false;
  let block = headBlocks(record.firstBlock, record.blocks);
  for (let run = 0; run < record.runs; run++) {
    for (let unit = 0; unit < record.runLength(run); unit++) {
      const slot = record.runUnit(run) + unit;
      if (!input.isUnit(slot)) return false;
      const offset = input.unitOffset(slot);
      await readOnce(input.device, input.buffer, offset, UNIT_SIZE, DeviceRegion.Data);
      for (let bit = 0; bit < BLOCKS_PER_UNIT; bit++) {
        const bytes = input.world.arena.block(input.buffer + bit * BLOCK_SIZE);
        if (input.world.checksum.crc32(bytes, 0) === record.crc(block + bit)) continue;
        if (!isSuperseded(input, group, at, record, block + bit)) return false;
      }
      block += BLOCKS_PER_UNIT;
    }
  }
  return true;
}

/**
 * A committed later entry of this log wrote the block: it may have been moved into the unit already,
 * which is then no sign of a torn write. The old payload is dead either way.
 */
function isSuperseded(
  input: ScanInput,
  group: ScannedGroup,
  at: number,
  record: RecordView,
  offset: number,
): boolean {
  const block = record.firstBlock + offset;
  const later = new RecordView(input.world.arena.view);
  for (const entry of group.entries.slice(at + 1)) {
    if (entry.index > group.commit) return false;
    if (entry.type !== EntryType.Write) continue;
    later.load(entry.record, 0, entry.record.byteLength);
    if (later.layer !== record.layer || later.snapSeq !== record.snapSeq) continue;
    if (block >= later.firstBlock && block < later.firstBlock + later.blocks) return true;
  }
  return false;
}
