// data path
import { Status } from "../base/status.ts";
import { BLOCKS_PER_UNIT } from "../base/units.ts";
import type { SlotTable } from "../store/store.ts";
import { BATCH_BLOCKS_MAX } from "./batch.ts";
import { type Entry, EntryType } from "./entry.ts";
import type { StoreFillOp } from "./fill-op.ts";
import { type GroupLog, Unapplied } from "./group-log.ts";
import type { LogSpace } from "./log-space.ts";

/** Share of the ring that entries may fill; the rest is for local records and R4. */
const ENTRY_SHARE_MAX = 0.7;
/**
 * Share of the ring for entries and their second copies (R4), less what a batch leaves empty at the
 * end of a run; the rest is for local records.
 */
const AGAIN_SHARE_MAX = 0.95;
/** Share of the ring beyond which fills wait: the rest is for clients. */
const COPY_SHARE_MAX = 0.5;
/** Payload of fills in one batch, in blocks: half of it at most. */
export const COPY_BLOCKS_MAX = 128;
/** R4: entries of a group that are not applied, in inline blocks (8 MiB). */
const UNAPPLIED_BLOCKS_MAX = 2048;

/**
 * The room of a shard's log: what is used, queued and set aside of the ring, and of the units.
 *
 * Room is set aside before an entry is proposed or accepted, so that nothing behind it can fail for
 * want of it: reserved → queued → between tail and head. Units stay set aside until the entry is
 * applied, because applying may take some.
 *
 * Invariants (`log-invariants.ts`): tailPosition ≤ headPosition ≤ tailPosition + ringBlocks; the tail
 * is where the oldest batch begins; what is queued and set aside is the sum over those it is for.
 */
export class LogRoom {
  headPosition: number;
  tailPosition: number;
  /** Units set aside for entries that are not applied, log blocks for entries not appended. */
  reservedUnits = 0;
  reservedBlocks = 0;
  /** Log blocks that the queued entries and fills will take. */
  queuedBlocks = 0;
  readonly unapplied: Unapplied = new Unapplied();
  /** R4: log blocks that entries and the second copies of those that are not applied may take. */
  readonly roomAgain: number;
  private readonly space: LogSpace;
  private readonly slots: SlotTable;
  private readonly unitSlack: number;

  constructor(space: LogSpace, slots: SlotTable, headPosition: number, tailPosition: number) {
    this.space = space;
    this.slots = slots;
    this.headPosition = headPosition;
    this.tailPosition = tailPosition;
    this.unitSlack = Math.max(32, Math.floor(slots.unitsTotal / 256));
    this.roomAgain = space.ringBlocks * AGAIN_SHARE_MAX - BATCH_BLOCKS_MAX;
  }

  /** Whether the ring has what lies between tail and head; never false. */
  get fits(): boolean {
    return this.headPosition - this.tailPosition <= this.space.ringBlocks;
  }

  /** Blocks between tail and head, with what is queued. */
  get usedBlocks(): number {
    return this.headPosition - this.tailPosition + this.queuedBlocks;
  }

  /**
   * Set log space and `units` units aside for an entry, of them `direct` for whole units that are
   * written beside the log. Answers Ok, NoSpace, Busy.
   */
  reserve(group: GroupLog, entry: Entry, units: number, direct: number): Status {
    const hasPayload = entry.type === EntryType.Write && !entry.bare;
    const inline = hasPayload ? entry.blocks - direct * BLOCKS_PER_UNIT : 0;
    if (!this.hasUnits(units)) return Status.NoSpace;
    if (inline > 0 && group.unappliedBlocks + inline > UNAPPLIED_BLOCKS_MAX) return Status.Busy;
    const blocks = inline + 1;
    if (!this.hasRoom(blocks)) return Status.Busy;
    entry.reservedUnits = units;
    entry.reservedLogBlocks = blocks;
    entry.reservedDirect = direct;
    this.reservedUnits += units;
    this.reservedBlocks += blocks;
    return Status.Ok;
  }

  /** Give back what was set aside for an entry that is not appended. */
  unreserve(entry: Entry): void {
    this.reservedUnits -= entry.reservedUnits;
    this.reservedBlocks -= entry.reservedLogBlocks;
    entry.reservedUnits = 0;
    entry.reservedLogBlocks = 0;
  }

  /** The log blocks set aside for an entry are queued. */
  queueReserved(entry: Entry): void {
    this.reservedBlocks -= entry.reservedLogBlocks;
    this.queuedBlocks += entry.reservedLogBlocks;
  }

  // cold: fills are recovery.
  /** Set `units` units aside for a fill and queue its log blocks. Answers Ok, NoSpace, Busy. */
  queueFill(op: StoreFillOp, units: number): Status {
    if (!this.hasUnits(units)) return Status.NoSpace;
    let blocks = 1;
    for (let bits = op.dataBits; bits !== 0; bits &= bits - 1) blocks += 1;
    if (!this.hasRoomToCopy(blocks)) return Status.Busy;
    op.reservedUnits = units;
    op.reservedLogBlocks = blocks;
    this.reservedUnits += units;
    this.queuedBlocks += blocks;
    return Status.Ok;
  }

  /** Log block at which a batch of `blocks` begins: here, or at the next run; -1: there is no room. */
  startOf(blocks: number): number {
    const contiguous = this.space.contiguous(this.headPosition);
    const start = this.headPosition + (contiguous < blocks ? contiguous : 0);
    return start + blocks - this.tailPosition > this.space.ringBlocks ? -1 : start;
  }

  private hasUnits(units: number): boolean {
    return units === 0 || this.slots.freeUnits - this.reservedUnits - units >= this.unitSlack;
  }

  /**
   * R4: without a quorum nothing is applied, and the tail moves only when all that is not applied has
   * been appended again behind it. A log that is too full for that would stay so for ever.
   */
  private hasRoom(blocks: number): boolean {
    const used = this.usedBlocks + this.reservedBlocks + blocks;
    if (used > this.space.ringBlocks * ENTRY_SHARE_MAX) return false;
    const again = this.unapplied.blocks + this.reservedBlocks + blocks;
    return used + again <= this.roomAgain - COPY_BLOCKS_MAX;
  }

  /** Entries leave some room to fills: a replica that is filled may be what the quorum lacks. */
  private hasRoomToCopy(blocks: number): boolean {
    const used = this.usedBlocks + this.reservedBlocks + blocks;
    if (used > this.space.ringBlocks * COPY_SHARE_MAX) return false;
    return used + this.unapplied.blocks + this.reservedBlocks <= this.roomAgain;
  }
}
