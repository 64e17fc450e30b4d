import { expect, test } from "bun:test";
import { makesGarbage } from "../base/bun-garbage-harness.ts";
import { SystemChecksum } from "../reactor/bun-system.ts";
import type { Arena, Slots } from "../reactor/world.ts";
import {
  BATCH_HEADER_SIZE,
  BatchHeader,
  Entry,
  EntryPool,
  EntryType,
  encodeEntry,
  peekBatch,
  RecordView,
  sealBatch,
  verifyBatch,
} from "./log.ts";

const BATCH_ENTRIES = 8;
const BATCHES = 40_000;
const SLOT_BYTES = 4096;

/** Entries on their way into a batch and out of it again. */
class Rows {
  wrong = 0;
  private readonly arena: Arena;
  private readonly pool: EntryPool;
  private readonly entries: Entry[] = [];
  private readonly header = new BatchHeader();
  private readonly seen = new BatchHeader();
  private readonly record: RecordView;
  private readonly back = new Entry();
  private readonly checksum = new SystemChecksum();
  private index = 0;

  constructor() {
    const bytes = new Uint8Array(4096);
    this.arena = {
      bytes,
      view: new DataView(bytes.buffer),
      words: new Int32Array(bytes.buffer),
      sizeBytes: bytes.length,
      allocate: () => 0,
      block: () => bytes,
    };
    const slots: Slots = {
      take: () => 0,
      release: () => undefined,
      usedBytes: 0,
      sizeBytes: SLOT_BYTES,
      refusals: 0,
    };
    this.pool = new EntryPool(slots);
    this.record = new RecordView(this.arena.view);
    for (let at = 0; at < BATCH_ENTRIES; at++) this.entries.push(this.pool.take());
    for (const entry of this.entries) this.pool.release(entry);
  }

  batch(): void {
    const { arena, header, pool } = this;
    arena.bytes.fill(0);
    let at = BATCH_HEADER_SIZE;
    for (let row = 0; row < BATCH_ENTRIES; row++) {
      const entry = this.fill(pool.take());
      this.entries[row] = entry;
      at += encodeEntry(arena.view, at, entry, 65_537, 4, this.index, row);
    }
    header.seq += 1;
    header.headerBlocks = 1;
    header.payloadBlocks = BATCH_ENTRIES;
    header.records = BATCH_ENTRIES;
    header.recordBytes = at - BATCH_HEADER_SIZE;
    sealBatch(arena, 0, header, 7, this.checksum);
    this.readBack();
    for (let row = 0; row < BATCH_ENTRIES; row++) pool.release(this.entries[row]!);
  }

  private fill(entry: Entry): Entry {
    this.index += 1;
    entry.index = this.index;
    entry.term = 3;
    entry.type = EntryType.Write;
    entry.number = this.index;
    entry.below = this.index;
    entry.blocks = 1;
    entry.crcs[0] = this.index;
    entry.payload = 0;
    return entry;
  }

  private readBack(): void {
    const { arena, seen, record, back } = this;
    const whole = peekBatch(arena, 0, seen) && verifyBatch(arena, 0, seen, 7, this.checksum);
    if (!whole || seen.records !== BATCH_ENTRIES) this.wrong += 1;
    let at = BATCH_HEADER_SIZE;
    for (let row = 0; row < BATCH_ENTRIES; row++) {
      if (!record.load(arena.view, at, BATCH_HEADER_SIZE + seen.recordBytes - at)) this.wrong += 1;
      record.fill(back);
      if (back.index !== this.entries[row]!.index) this.wrong += 1;
      at += record.size;
    }
  }
}

test("rows are taken, laid out in a batch, read back and released without garbage", () => {
  const rows = new Rows();
  const place: unknown[] = [null];
  const control = (): void => {
    rows.batch();
    for (let at = 0; at < BATCH_ENTRIES; at++) place[0] = { at, before: at, next: null, place };
  };
  expect(makesGarbage(BATCHES, () => rows.batch(), control)).toBe(false);
  expect(rows.wrong).toBe(0);
}, 120_000);
