// cold path: once per start.
import { BLOCK_SIZE, BLOCKS_PER_UNIT, UNIT_SIZE } from "../base/units.ts";
import { DeviceRegion, readSurely } from "../device/device.ts";
import { EntryType } from "./entry.ts";
import type { ScanInput, ScannedGroup } from "./log-scan-types.ts";
import { headBlocks, RecordView, wholeUnits } from "./record.ts";

enum Direct {
  Good = 0,
  Torn = 1,
  /** The device does not give it. */
  Unreadable = 2,
}

/**
 * End a group's log before the first entry whose direct payload was not written in full. What lies in
 * batches up to `vouched` was. One that can not be read may have been: its entry is faulty.
 */
export async function cutTornDirect(
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
    if (record.runs === 0) continue;
    const found = await lookAtDirect(input, group, at, record);
    if (found === Direct.Unreadable && !group.faulty.includes(entry.index)) {
      group.faulty = [...group.faulty, entry.index].sort((one, other) => one - other);
    }
    if (found !== Direct.Torn) continue;
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

async function lookAtDirect(
  input: ScanInput,
  group: ScannedGroup,
  at: number,
  record: RecordView,
): Promise<Direct> {
  if (record.unitTotal() !== wholeUnits(record.firstBlock, record.blocks)) return Direct.Torn;
  let whole = Direct.Good;
  let block = headBlocks(record.firstBlock, record.blocks);
  for (let run = 0; run < record.runs; run++) {
    for (let unit = 0; unit < record.runLength(run); unit++) {
      const slot = record.runUnit(run) + unit;
      if (!input.isUnit(slot)) return Direct.Torn;
      const good = await readSurely(
        input.device,
        input.buffer,
        input.unitOffset(slot),
        UNIT_SIZE,
        DeviceRegion.Data,
      );
      if (!good) whole = Direct.Unreadable;
      for (let bit = 0; good && bit < BLOCKS_PER_UNIT; bit++) {
        const bytes = input.world.arena.block(input.buffer + bit * BLOCK_SIZE);
        if (input.world.checksum.crc32(bytes, 0) === record.crc(block + bit)) continue;
        if (!isSuperseded(input, group, at, record, block + bit)) return Direct.Torn;
      }
      block += BLOCKS_PER_UNIT;
    }
  }
  return whole;
}

/**
 * A committed later entry of this log wrote the block, or a fill did: it may have been moved into the
 * unit already, which is then no sign of a torn write. The old payload is dead either way.
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
  for (const fill of group.fills) {
    later.load(fill.record, 0, fill.record.byteLength);
    if (later.layer !== record.layer || later.snapSeq !== record.snapSeq) continue;
    const unit = Math.floor(block / BLOCKS_PER_UNIT) * BLOCKS_PER_UNIT;
    if (later.firstBlock === unit && fill.at >= record.index) return true;
  }
  for (const entry of group.entries.slice(at + 1)) {
    if (entry.index > group.commit) return false;
    if (entry.type !== EntryType.Write) continue;
    later.load(entry.record, 0, entry.record.byteLength);
    if (later.layer !== record.layer || later.snapSeq !== record.snapSeq) continue;
    if (block >= later.firstBlock && block < later.firstBlock + later.blocks) return true;
  }
  return false;
}
