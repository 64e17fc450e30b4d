// data path
import { assert } from "../base/assert.ts";
import { BLOCKS_PER_UNIT, PAYLOAD_BLOCKS_MAX } from "../base/units.ts";
import { fitU53, getU48, getU64, putU48, putU64 } from "../store/store.ts";
import { type Entry, EntryType } from "./entry.ts";
import type { StoreFillOp } from "./fill-op.ts";

/**
 * A record: one entry, or one local fact, within the header blocks of a batch.
 *
 * ```
 *   0 type u8 | 1 flags u8 | 2 size u16 (multiple of 8) | 4 pg u32 | 8 replicaId u32 | 12 blocks u32
 *  16 term u64 | 24 index u64 | 32 commitIndex u64
 *  40 session u64 | 48 number u64 | 56 below u64
 *  64 layer u64 | 72 firstBlock u64 | 80 snapSeq u32 | 84 lockEpoch u32 | 88 ifVersion u64
 *  96 inlineFirst u32 (payload block of the batch) | 100 inlineCount u16 | 102 runs u8 | 103 reserved
 * 104 crc32 per block u32 (Write: `blocks` of them) | runs: unit u32, count u32 | dataSize u16, data
 * ```
 * Everything but inline place and runs is the replicated entry. A 4 KiB write takes 112 bytes: 36 to
 * a header block. On a witness every entry is `Bare`: a write keeps its crc32s and has neither inline
 * blocks nor runs.
 *
 * hardState: term, session = vote, commitIndex. replicaCreated: index, term = log base, data = conf;
 * with `Renews` it follows replica `session` of its group, whose units stay: that one is gone with
 * this record. logBase: index, term. truncated: index = first entry that is no more.
 * filling: index = 0: the catch-up by difference has ended. (Its beginning is in a checkpoint: the
 * blocks that the log still holds for the old position have to be home by then.)
 *
 * fill: blocks of one unit as another replica has them as of index `index`, applied right behind that
 * entry, in the order of the log. firstBlock = 16 · unit, snapSeq; blocks = inlineCount = bits in
 * dataBits. Behind the crc32 per data block:
 * ```
 * dataBits u16, zeroBits u16, lostBits u16 (disjoint: what block i of the unit becomes), reserved u16
 * | version u48 of each data or lost block, ascending
 * ```
 */
const RECORD_SIZE_MIN = 104;
/** Body of Conf and Session entries. */
export const RECORD_DATA_MAX = 3072;

/** Records that are not entries. Entries carry their `EntryType`. Numbers are disk format. */
export enum RecordType {
  HardState = 64,
  LogBase = 65,
  Filling = 66,
  // 67 was set aside for a unit that is copied to another place, and never written. Not to be reused.
  ReplicaCreated = 68,
  ReplicaGone = 69,
  /** Start-up cut the group's log: entries from `index` on are no more. */
  Truncated = 70,
  /** As old programs said that a replica is not to be trusted again; now a checkpoint does. */
  Distrusted = 71,
  /** `layer` shows `session` (parent layer) at `snapSeq` where it holds nothing. */
  LayerParent = 72,
  /** Blocks copied from a peer by difference. */
  Fill = 73,
}

export enum RecordFlag {
  None = 0,
  /** The entry replaced a suffix of the group's log: everything from `index` on was cut first. */
  Truncates = 1,
  /** The record ends with a body. */
  Data = 2,
  /** The new replica takes over the units of the one it follows. */
  Renews = 4,
  /** An entry on a witness: what it does to blocks is not done here, and its payload is nowhere. */
  Bare = 8,
}

const FILL_BITS_SIZE = 8;
const FILL_VERSION_SIZE = 6;

/** Bytes of an entry's record. */
export function recordSize(entry: Entry): number {
  let size = RECORD_SIZE_MIN;
  if (entry.type === EntryType.Write) size += entry.blocks * 4;
  size += runCount(entry) * 8;
  if (entry.data !== null) size += 2 + entry.data.length;
  return (size + 7) & ~7;
}

/** Payload blocks of an entry that go into the batch: all but the direct units. */
export function inlineBlocks(entry: Entry): number {
  if (entry.type !== EntryType.Write || entry.bare) return 0;
  return entry.blocks - entry.unitCount * BLOCKS_PER_UNIT;
}

/** Blocks before the first whole unit of a range (all when it holds no whole unit). */
export function headBlocks(firstBlock: number, blocks: number): number {
  const within = firstBlock % BLOCKS_PER_UNIT;
  const head = within === 0 ? 0 : BLOCKS_PER_UNIT - within;
  return head < blocks ? head : blocks;
}

/** Whole aligned units of a range. */
export function wholeUnits(firstBlock: number, blocks: number): number {
  return Math.floor((blocks - headBlocks(firstBlock, blocks)) / BLOCKS_PER_UNIT);
}

/** Runs of units that follow each other on the device. */
function runCount(entry: Entry): number {
  let runs = 0;
  for (let at = 0; at < entry.unitCount; at++) {
    if (at === 0 || entry.units[at] !== entry.units[at - 1]! + 1) runs += 1;
  }
  return runs;
}

/** Write an entry's record at `at` (zeroed memory); answers its size. */
export function encodeEntry(
  view: DataView,
  at: number,
  entry: Entry,
  pg: number,
  replicaId: number,
  commit: number,
  inlineFirst: number,
): number {
  const size = recordSize(entry);
  view.setUint8(at, entry.type);
  let flags: number = entry.truncates ? RecordFlag.Truncates : RecordFlag.None;
  if (entry.data !== null) flags |= RecordFlag.Data;
  if (entry.bare) flags |= RecordFlag.Bare;
  view.setUint8(at + 1, flags);
  view.setUint16(at + 2, size, true);
  view.setUint32(at + 4, pg, true);
  view.setUint32(at + 8, replicaId, true);
  view.setUint32(at + 12, entry.blocks, true);
  putU64(view, at + 16, entry.term);
  putU64(view, at + 24, entry.index);
  putU64(view, at + 32, commit);
  putU64(view, at + 40, entry.session);
  putU64(view, at + 48, entry.number);
  putU64(view, at + 56, entry.below);
  putU64(view, at + 64, entry.layer);
  putU64(view, at + 72, entry.firstBlock);
  view.setUint32(at + 80, entry.snapSeq, true);
  view.setUint32(at + 84, entry.lockEpoch, true);
  putU64(view, at + 88, entry.ifVersion);
  view.setUint32(at + 96, inlineFirst, true);
  view.setUint16(at + 100, inlineBlocks(entry), true);
  view.setUint8(at + 102, runCount(entry));
  encodeTail(view, at + RECORD_SIZE_MIN, entry);
  return size;
}

function encodeTail(view: DataView, start: number, entry: Entry): void {
  let at = start;
  if (entry.type === EntryType.Write) {
    for (let block = 0; block < entry.blocks; block++) {
      view.setUint32(at, entry.crcs[block]!, true);
      at += 4;
    }
  }
  let run = -1;
  for (let unit = 0; unit < entry.unitCount; unit++) {
    if (unit > 0 && entry.units[unit] === entry.units[unit - 1]! + 1) {
      view.setUint32(run + 4, view.getUint32(run + 4, true) + 1, true);
      continue;
    }
    run = at;
    view.setUint32(at, entry.units[unit]!, true);
    view.setUint32(at + 4, 1, true);
    at += 8;
  }
  const data = entry.data;
  if (data === null) return;
  view.setUint16(at, data.length, true);
  for (let byte = 0; byte < data.length; byte++) view.setUint8(at + 2 + byte, data[byte]!);
}

/** Bytes of the record of a fill. */
export function fillSize(op: StoreFillOp): number {
  const data = bitCount(op.dataBits);
  const versions = bitCount(op.dataBits | op.lostBits);
  return fillSizeOf(data, versions);
}

function fillSizeOf(data: number, versions: number): number {
  const size = RECORD_SIZE_MIN + data * 4 + FILL_BITS_SIZE + versions * FILL_VERSION_SIZE;
  return (size + 7) & ~7;
}

/** Write the record of a fill at `at` (zeroed memory); answers its size. */
export function encodeFill(
  view: DataView,
  at: number,
  op: StoreFillOp,
  pg: number,
  replicaId: number,
  commit: number,
  inlineFirst: number,
): number {
  const size = fillSize(op);
  const blocks = bitCount(op.dataBits);
  view.setUint8(at, RecordType.Fill);
  view.setUint16(at + 2, size, true);
  view.setUint32(at + 4, pg, true);
  view.setUint32(at + 8, replicaId, true);
  view.setUint32(at + 12, blocks, true);
  putU64(view, at + 24, op.at);
  putU64(view, at + 32, commit);
  putU64(view, at + 64, op.layer);
  putU64(view, at + 72, op.unit * BLOCKS_PER_UNIT);
  view.setUint32(at + 80, op.snapSeq, true);
  view.setUint32(at + 96, inlineFirst, true);
  view.setUint16(at + 100, blocks, true);
  let to = at + RECORD_SIZE_MIN;
  for (let bit = 0; bit < BLOCKS_PER_UNIT; bit++) {
    if (((op.dataBits >>> bit) & 1) === 0) continue;
    view.setUint32(to, op.crcs[bit]!, true);
    to += 4;
  }
  view.setUint16(to, op.dataBits, true);
  view.setUint16(to + 2, op.zeroBits, true);
  view.setUint16(to + 4, op.lostBits, true);
  to += FILL_BITS_SIZE;
  for (let bit = 0; bit < BLOCKS_PER_UNIT; bit++) {
    if ((((op.dataBits | op.lostBits) >>> bit) & 1) === 0) continue;
    putU48(view, to, op.versions[bit]!);
    to += FILL_VERSION_SIZE;
  }
  return size;
}

function bitCount(bits: number): number {
  let count = 0;
  for (let left = bits; left !== 0; left &= left - 1) count += 1;
  return count;
}

/** A record as it stands in memory; the accessors read it in place. */
export class RecordView {
  view: DataView;
  at = 0;
  size = 0;
  type = 0;
  flags = 0;
  pg = 0;
  replicaId = 0;
  blocks = 0;
  term = 0;
  index = 0;
  commit = 0;
  inlineFirst = 0;
  inlineCount = 0;
  runs = 0;

  constructor(view: DataView) {
    this.view = view;
  }

  /** Read the fixed fields; false when the record does not fit into `bytesLeft` or contradicts itself. */
  load(view: DataView, at: number, bytesLeft: number): boolean {
    if (bytesLeft < RECORD_SIZE_MIN) return false;
    this.view = view;
    this.at = at;
    this.type = view.getUint8(at);
    this.flags = view.getUint8(at + 1);
    this.size = view.getUint16(at + 2, true);
    this.pg = view.getUint32(at + 4, true);
    this.replicaId = view.getUint32(at + 8, true);
    this.blocks = view.getUint32(at + 12, true);
    this.term = getU64(view, at + 16);
    this.index = getU64(view, at + 24);
    this.commit = getU64(view, at + 32);
    this.inlineFirst = view.getUint32(at + 96, true);
    this.inlineCount = view.getUint16(at + 100, true);
    this.runs = view.getUint8(at + 102);
    if (this.size < RECORD_SIZE_MIN || this.size > bytesLeft || this.size % 8 !== 0) return false;
    if (this.crcCount > PAYLOAD_BLOCKS_MAX) return false;
    if (!fitU53(view, at + 16, 8) || !fitU53(view, at + 88, 1)) return false;
    if (this.type === RecordType.Fill) return this.fillFits();
    if (this.isBare && this.inlineCount + this.runs > 0) return false;
    if (this.dataAt + (this.hasData ? 2 : 0) > at + this.size) return false;
    return this.dataFits() && this.runsFit();
  }

  get session(): number {
    return getU64(this.view, this.at + 40);
  }

  get layer(): number {
    return getU64(this.view, this.at + 64);
  }

  get firstBlock(): number {
    return getU64(this.view, this.at + 72);
  }

  get snapSeq(): number {
    return this.view.getUint32(this.at + 80, true);
  }

  crc(block: number): number {
    return this.view.getUint32(this.at + RECORD_SIZE_MIN + block * 4, true);
  }

  private get crcCount(): number {
    return this.type === EntryType.Write || this.type === RecordType.Fill ? this.blocks : 0;
  }

  runUnit(run: number): number {
    return this.view.getUint32(this.at + RECORD_SIZE_MIN + this.crcCount * 4 + run * 8, true);
  }

  runLength(run: number): number {
    return this.view.getUint32(this.at + RECORD_SIZE_MIN + this.crcCount * 4 + run * 8 + 4, true);
  }

  private get dataAt(): number {
    return this.at + RECORD_SIZE_MIN + this.crcCount * 4 + this.runs * 8;
  }

  /** An entry of a witness. */
  get isBare(): boolean {
    return (this.flags & RecordFlag.Bare) !== 0;
  }

  private get hasData(): boolean {
    return (this.flags & RecordFlag.Data) !== 0;
  }

  private dataFits(): boolean {
    if (!this.hasData) return true;
    const end = this.dataAt + 2 + this.view.getUint16(this.dataAt, true);
    return end <= this.at + this.size;
  }

  /** Runs name the whole units of a write, each once: who reads them trusts the count. */
  private runsFit(): boolean {
    return this.runs === 0 || (this.type === EntryType.Write && this.unitTotal() > 0);
  }

  // cold: Conf and Session entries only.
  /** A copy of the body; null when the record has none. */
  copyData(): Uint8Array | null {
    if (!this.hasData) return null;
    const length = this.view.getUint16(this.dataAt, true);
    const bytes = new Uint8Array(length);
    for (let byte = 0; byte < length; byte++)
      bytes[byte] = this.view.getUint8(this.dataAt + 2 + byte);
    return bytes;
  }

  /** Fill an entry with everything that the record tells; payload stays as it is. */
  fill(entry: Entry): void {
    entry.type = this.type;
    entry.truncates = (this.flags & RecordFlag.Truncates) !== 0;
    entry.bare = this.isBare;
    entry.blocks = this.blocks;
    entry.term = this.term;
    entry.index = this.index;
    entry.session = getU64(this.view, this.at + 40);
    entry.number = getU64(this.view, this.at + 48);
    entry.below = getU64(this.view, this.at + 56);
    entry.layer = this.layer;
    entry.firstBlock = this.firstBlock;
    entry.snapSeq = this.snapSeq;
    entry.lockEpoch = this.view.getUint32(this.at + 84, true);
    entry.ifVersion = getU64(this.view, this.at + 88);
    for (let block = 0; block < this.crcCount; block++) entry.crcs[block] = this.crc(block);
    entry.unitCount = 0;
    for (let run = 0; run < this.runs; run++) {
      const length = this.runLength(run);
      for (let unit = 0; unit < length; unit++) {
        assert(entry.unitCount < entry.units.length, "RecordView.fill: too many units");
        entry.units[entry.unitCount] = this.runUnit(run) + unit;
        entry.unitCount += 1;
      }
    }
    entry.data = this.copyData();
  }

  private fillFits(): boolean {
    const to = this.at + RECORD_SIZE_MIN + this.blocks * 4;
    if (to + FILL_BITS_SIZE > this.at + this.size || this.hasData || this.runs > 0) return false;
    const data = this.view.getUint16(to, true);
    const zero = this.view.getUint16(to + 2, true);
    const lost = this.view.getUint16(to + 4, true);
    if ((data & zero) !== 0 || ((data | zero) & lost) !== 0) return false;
    if (bitCount(data) !== this.blocks || this.inlineCount !== this.blocks) return false;
    return this.size === fillSizeOf(this.blocks, bitCount(data | lost));
  }

  // cold: at start.
  /** Of a Fill: set everything that the record tells; the place in the log stays as it is. */
  readFill(op: StoreFillOp): void {
    op.at = this.index;
    op.layer = this.layer;
    op.unit = this.firstBlock / BLOCKS_PER_UNIT;
    op.snapSeq = this.snapSeq;
    let to = this.at + RECORD_SIZE_MIN + this.blocks * 4;
    op.dataBits = this.view.getUint16(to, true);
    op.zeroBits = this.view.getUint16(to + 2, true);
    op.lostBits = this.view.getUint16(to + 4, true);
    op.mask = op.dataBits | op.zeroBits | op.lostBits;
    to += FILL_BITS_SIZE;
    let crc = 0;
    for (let bit = 0; bit < BLOCKS_PER_UNIT; bit++) {
      op.versions[bit] = 0;
      op.crcs[bit] = 0;
      if ((((op.dataBits | op.lostBits) >>> bit) & 1) === 0) continue;
      op.versions[bit] = getU48(this.view, to);
      to += FILL_VERSION_SIZE;
      if (((op.dataBits >>> bit) & 1) === 0) continue;
      op.crcs[bit] = this.crc(crc);
      crc += 1;
    }
  }

  /** Units that the runs name; -1 when they contradict the range of the record. */
  unitTotal(): number {
    let units = 0;
    for (let run = 0; run < this.runs; run++) units += this.runLength(run);
    if (units === 0) return 0;
    return units === wholeUnits(this.firstBlock, this.blocks) ? units : -1;
  }
}

/** A local fact on its way into the log. Pooled by the log. */
export class ControlRecord {
  type: RecordType = RecordType.HardState;
  /** `RecordFlag`, without `Data`. */
  flags: RecordFlag = RecordFlag.None;
  row = 0;
  pg = 0;
  replicaId = 0;
  term = 0;
  index = 0;
  commit = 0;
  session = 0;
  layer = 0;
  snapSeq = 0;
  data: Uint8Array | null = null;
  controlNext: ControlRecord | null = null;
}

export function controlSize(record: ControlRecord): number {
  const data = record.data;
  return (RECORD_SIZE_MIN + (data === null ? 0 : 2 + data.length) + 7) & ~7;
}

/** Write a local record at `at` (zeroed memory); answers its size. */
export function encodeControl(view: DataView, at: number, record: ControlRecord): number {
  const size = controlSize(record);
  view.setUint8(at, record.type);
  view.setUint8(at + 1, record.flags | (record.data === null ? 0 : RecordFlag.Data));
  view.setUint16(at + 2, size, true);
  view.setUint32(at + 4, record.pg, true);
  view.setUint32(at + 8, record.replicaId, true);
  putU64(view, at + 16, record.term);
  putU64(view, at + 24, record.index);
  putU64(view, at + 32, record.commit);
  putU64(view, at + 40, record.session);
  putU64(view, at + 64, record.layer);
  view.setUint32(at + 80, record.snapSeq, true);
  const data = record.data;
  if (data !== null) {
    view.setUint16(at + RECORD_SIZE_MIN, data.length, true);
    for (let byte = 0; byte < data.length; byte++) {
      view.setUint8(at + RECORD_SIZE_MIN + 2 + byte, data[byte]!);
    }
  }
  return size;
}
