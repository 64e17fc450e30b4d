// cold path: inspect run by hand on a stopped store.
import { BLOCK_SIZE, BLOCKS_PER_UNIT } from "../base/units.ts";
import { EntryType, type LogSpace, RecordView, type ScanResult } from "../log/log.ts";
import { SLOTS_PER_PAGE, SlotState, type SlotTable } from "../store/store.ts";

/** What is read of one shard, as far as places go. */
export interface PlacedShard {
  readonly shard: number;
  readonly space: LogSpace;
  readonly slots: SlotTable;
  readonly scan: ScanResult | undefined;
}

type Row = Readonly<Record<string, unknown>>;

/**
 * Sections that name places on the device, in bytes from its beginning; only shown when asked for,
 * for they are as long as the store is full.
 *
 *   units     each unit in use: whose it is, where it lies, and where its slot in the index does
 *   batches   each batch of the log, oldest first: where its header lies
 *   entries   each entry of the log: its batch, and where its blocks of payload lie
 */
export const PLACE_SECTIONS: Readonly<Record<string, (shard: PlacedShard) => Row[]>> = {
  units: unitPlaces,
  batches: batchPlaces,
  entries: entryPlaces,
};

function unitPlaces({ shard, slots, scan }: PlacedShard): Row[] {
  const rows: Row[] = [];
  slots.zones.forEach((zone, number) => {
    if (!zone.opened) return;
    for (let index = 0; index < slots.geometry.unitsPerZone; index++) {
      if (zone.state[index] !== SlotState.Live) continue;
      rows.push({
        shard,
        pg: scan?.groups[zone.row[index]!]?.pg,
        layer: slots.layers.idOf(zone.layer[index]!),
        firstBlock: zone.unit[index]! * BLOCKS_PER_UNIT,
        snapSeq: zone.snapSeq[index]!,
        version: zone.version[index]!,
        dataBits: zone.dataBits[index]!,
        lostBits: zone.lostBits[index]!,
        offsetBytes: slots.unitOffset(slots.slotAt(number, index)),
        pageOffsetBytes: zone.offset + Math.floor(index / SLOTS_PER_PAGE) * BLOCK_SIZE,
      });
    }
  });
  return rows;
}

function batchPlaces({ shard, space, scan }: PlacedShard): Row[] {
  const rows: Row[] = [];
  if (scan === undefined) return rows;
  const { batches } = scan;
  for (let seq = batches.tailSeq; seq < batches.nextSeq; seq++) {
    const offsetBytes = space.deviceOffset(batches.positionOf(seq));
    rows.push({ shard, seq, incarnation: batches.incarnationOf(seq), offsetBytes });
  }
  return rows;
}

function entryPlaces({ shard, space, slots, scan }: PlacedShard): Row[] {
  const rows: Row[] = [];
  for (const group of scan?.groups ?? []) {
    for (const entry of group.entries) {
      const record = new RecordView(entry.record);
      record.load(entry.record, 0, entry.record.byteLength);
      const inline: number[] = [];
      for (let at = 0; at < record.inlineCount; at++) {
        inline.push(space.deviceOffset(entry.inlineBlock + at));
      }
      rows.push({
        shard,
        pg: group.pg,
        index: entry.index,
        term: entry.term,
        type: EntryType[entry.type] ?? String(entry.type),
        layer: record.layer,
        firstBlock: record.firstBlock,
        blocks: record.blocks,
        seq: entry.seq,
        applied: entry.index <= group.state.applied,
        faulty: group.faulty.includes(entry.index),
        bare: record.isBare,
        inlineOffsetsBytes: inline,
        unitOffsetsBytes: unitsOf(record, slots),
      });
    }
  }
  return rows;
}

/** Where the whole units lie that a record names. */
function unitsOf(record: RecordView, slots: SlotTable): number[] {
  const units: number[] = [];
  for (let run = 0; run < record.runs; run++) {
    for (let unit = 0; unit < record.runLength(run); unit++) {
      const slot = record.runUnit(run) + unit;
      if (slots.isUnit(slot)) units.push(slots.unitOffset(slot));
    }
  }
  return units;
}
