// data path
import { assert } from "../base/assert.ts";
import { BLOCKS_PER_UNIT } from "../base/units.ts";
import { type Entry, EntryType, type GroupLog, RecordView, type ShardLog } from "../log/log.ts";
import { type ObjectStore, unitsForWrite, unitsForZero, zeroRange } from "../object/object.ts";
import { GroupHealth, type SlotTable } from "../store/store.ts";
import type { StoreMachines, StoreParts, StoreState } from "./local-store-parts.ts";

/**
 * What entries do to blocks: which units one may take, and its effect once it is committed, in memory
 * alone. The same serves entries that start-up found in the log, whose payload lies there already.
 */
export class Applier {
  private readonly parts: StoreParts;
  private readonly state: StoreState;
  private readonly log: ShardLog;
  private readonly objects: ObjectStore;
  private readonly slots: SlotTable;
  private readonly record: RecordView;

  constructor(parts: StoreParts, machines: StoreMachines, state: StoreState) {
    this.parts = parts;
    this.state = state;
    this.log = machines.log;
    this.objects = machines.objects;
    this.slots = parts.slots;
    this.record = new RecordView(parts.world.arena.view);
  }

  /**
   * Units that the entry may take when it is appended and applied; `direct`: its whole units are
   * written beside the log.
   */
  unitsFor(row: number, entry: Entry, direct: boolean): number {
    const { layer, firstBlock, blocks, snapSeq } = entry;
    if (entry.bare) return 0;
    if (entry.type === EntryType.Write) {
      // A fill may free what is there now, too.
      const filling = this.state.rows[row]!.health === GroupHealth.Filling;
      const freeing = filling || this.log.group(row).unappliedFreeing > 0;
      return unitsForWrite(this.objects, layer, firstBlock, blocks, snapSeq, freeing, direct);
    }
    if (entry.type !== EntryType.Zero) return 0;
    return unitsForZero(this.objects, layer, firstBlock, blocks, snapSeq, row);
  }

  /** See `LocalStore.apply`. The fills of its index follow it. */
  apply(row: number, entry: Entry): void {
    const group = this.log.group(row);
    const facts = this.state.rows[row]!;
    const index = entry.index;
    assert(facts.fillsPending === 0, "LocalStore.apply: a fill is under way");
    assert(!group.frozen, "LocalStore.apply: the replica takes another position or id");
    assert(index === group.applied + 1, "LocalStore.apply: the index does not follow");
    assert(index <= group.durable, "LocalStore.apply: the entry is not durable here");
    assert(group.termAt(index) === entry.term, "LocalStore.apply: another entry is in the log");
    if (!entry.bare) this.applyToBlocks(row, group, entry);
    this.log.setApplied(group, index);
    this.state.changed = true;
    if (facts.recovered.length > 0 && index >= facts.recovered.at(-1)!.index) {
      facts.recovered = NO_RECOVERED;
    }
  }

  private applyToBlocks(row: number, group: GroupLog, entry: Entry): void {
    switch (entry.type) {
      case EntryType.Write:
        this.applyWrite(group, entry);
        break;
      case EntryType.Zero:
        this.applyZero(group, entry);
        break;
      case EntryType.LayerGone:
        this.objects.gone.add(row, entry.layer, entry.index);
        break;
      case EntryType.Noop:
      case EntryType.Fence:
      case EntryType.Session:
      case EntryType.Conf:
      case EntryType.Cut:
        break;
    }
  }

  private applyWrite(group: GroupLog, entry: Entry): void {
    const index = entry.index;
    const directs = group.unitCountAt(index);
    let inline = group.inlineAt(index);
    let direct = 0;
    let at = 0;
    while (at < entry.blocks) {
      const block = entry.firstBlock + at;
      const unit = Math.floor(block / BLOCKS_PER_UNIT);
      const bit = block % BLOCKS_PER_UNIT;
      const count = Math.min(BLOCKS_PER_UNIT - bit, entry.blocks - at);
      if (count === BLOCKS_PER_UNIT && directs > 0) {
        this.applyDirect(group, entry, unit, at, group.unitAt(index, direct));
        direct += 1;
      } else {
        const { layer, snapSeq } = entry;
        const slot = this.objects.slotForWrite(group.row, layer, unit, snapSeq, index);
        for (let of = 0; of < count; of++) {
          this.objects.putBlock(slot, bit + of, inline, index, entry.crcs[at + of]!);
          inline += 1;
        }
      }
      at += count;
    }
  }

  private applyDirect(group: GroupLog, entry: Entry, unit: number, at: number, slot: number): void {
    const { layer, snapSeq, index } = entry;
    if (!this.objects.putDirect(group.row, slot, layer, unit, snapSeq, index)) return;
    for (let bit = 0; bit < BLOCKS_PER_UNIT; bit++) {
      this.slots.setBlock(slot, bit, index, entry.crcs[at + bit]!);
    }
  }

  private applyZero(group: GroupLog, entry: Entry): void {
    const position = this.parts.batches.positionOf(group.seqAt(entry.index));
    const { layer, firstBlock, blocks, snapSeq, index } = entry;
    zeroRange(this.objects, group.row, layer, firstBlock, blocks, snapSeq, index, position);
  }

  /* ------------------------------------------------------- found at start */

  /** See `LocalStore.recoveredEntry`. */
  recoveredEntry(row: number, index: number, entry: Entry): boolean {
    const entries = this.state.rows[row]!.recovered;
    if (entries.length === 0) return false;
    const group = this.log.group(row);
    const scanned = entries[index - entries[0]!.index];
    if (scanned === undefined || !group.holds(index)) return false;
    if (group.termAt(index) !== scanned.term) return false;
    this.record.load(scanned.record, 0, scanned.record.byteLength);
    this.record.fill(entry);
    entry.group = row;
    entry.inlineBlock = group.inlineAt(index);
    entry.batchSeq = group.seqAt(index);
    return true;
  }

  // cold: once per start.
  /** The replay has ended: set space aside for entries that were found and are not applied. */
  finishRecovery(): void {
    const scratch = this.parts.entries.take();
    for (let row = 0; row < this.log.groups.length; row++) {
      const group = this.log.groups[row]!;
      if (!group.alive) continue;
      const facts = this.state.rows[row]!;
      facts.recovered = facts.recovered.filter((entry) => entry.index > group.applied);
      this.reserveRecovered(group, scratch);
    }
    scratch.payload = -1;
    this.parts.entries.release(scratch);
  }

  /** Set space aside for entries that were found in the log and are not applied. */
  private reserveRecovered(group: GroupLog, scratch: Entry): void {
    for (let index = group.applied + 1; index <= group.last; index++) {
      if (!this.recoveredEntry(group.row, index, scratch)) continue;
      const direct = scratch.unitCount > 0;
      const units = Math.max(0, this.unitsFor(group.row, scratch, direct) - scratch.unitCount);
      group.setReserved(index, units);
      this.log.reservedUnits += units;
    }
  }
}

const NO_RECOVERED: readonly never[] = [];
