import { describe, expect, test } from "bun:test";
import { TWO_32 } from "../base/units.ts";
import { SystemChecksum } from "../reactor/bun-system.ts";
import type { Arena } from "../reactor/world.ts";
import { Prng } from "../base/prng.ts";
import {
  BATCH_HEADER_SIZE,
  BatchHeader,
  ControlRecord,
  Entry,
  EntryType,
  encodeControl,
  encodeEntry,
  encodeFill,
  fillSize,
  headBlocks,
  inlineBlocks,
  peekBatch,
  RecordFlag,
  RecordType,
  RecordView,
  recordSize,
  sealBatch,
  StoreFillOp,
  verifyBatch,
  wholeUnits,
} from "./log.ts";

/** Batches and records as bytes; see `core/store/formats.test.ts` for the golden files. */
const checksum = new SystemChecksum();
const SEED = 0x1234_5678;

function dump(bytes: Uint8Array): string {
  const lines: string[] = [];
  for (let at = 0; at < bytes.length; at += 16) {
    const row = bytes.subarray(at, at + 16);
    if (row.every((byte) => byte === 0)) continue;
    lines.push(`${at.toString(16).padStart(5, "0")}  ${row.toHex()}`);
  }
  return `${bytes.length} bytes\n${lines.join("\n")}\n`;
}

async function golden(name: string, bytes: Uint8Array): Promise<void> {
  const path = `${import.meta.dir}/testdata/${name}.golden`;
  const text = dump(bytes);
  if (process.env["UPDATE_GOLDEN"] === "1") await Bun.write(path, text);
  expect(text).toBe(await Bun.file(path).text());
}

/** An arena over bytes that are there already. */
function arenaOver(bytes: Uint8Array<ArrayBuffer>): Arena {
  return {
    bytes,
    view: new DataView(bytes.buffer),
    words: new Int32Array(bytes.buffer),
    sizeBytes: bytes.length,
    allocate: () => 0,
    block: (offset) => bytes.subarray(offset, offset + 4096),
  };
}

function writeEntry(): Entry {
  const entry = new Entry();
  entry.index = TWO_32 + 7;
  entry.term = 5;
  entry.type = EntryType.Write;
  entry.session = 0x1_0000_0001;
  entry.number = 12;
  entry.below = 11;
  entry.layer = 0x2_0000_0003;
  entry.firstBlock = 14;
  entry.blocks = 40;
  entry.snapSeq = 6;
  entry.lockEpoch = 7;
  entry.ifVersion = 9;
  for (let block = 0; block < 40; block++) entry.crcs[block] = 0x100 + block;
  entry.units.set([500, 501]);
  entry.unitCount = 2;
  entry.truncates = true;
  return entry;
}

function entryWith(type: EntryType, data: Uint8Array | null): Entry {
  const entry = new Entry();
  entry.index = 3;
  entry.term = 2;
  entry.type = type;
  entry.data = data;
  return entry;
}

function encoded(entry: Entry): Uint8Array {
  const bytes = new Uint8Array(recordSize(entry));
  const size = encodeEntry(new DataView(bytes.buffer), 0, entry, 65_537, 4, 99, 3);
  expect(size).toBe(bytes.length);
  return bytes;
}

function controlOf(type: RecordType): ControlRecord {
  const record = new ControlRecord();
  record.type = type;
  record.pg = 65_537;
  record.replicaId = 4;
  record.term = 5;
  record.index = 6;
  record.commit = 7;
  record.session = 8;
  record.layer = 9;
  record.snapSeq = 10;
  return record;
}

class FormatFill extends StoreFillOp {
  onDone(): void {
    // Nobody waits.
  }
}

/** Blocks 1 and 9 become data, 0 and 3 zero, 15 lost. */
function fillOp(): FormatFill {
  const op = new FormatFill();
  op.layer = 0x2_0000_0003;
  op.unit = 5;
  op.snapSeq = 6;
  op.at = TWO_32 + 7;
  op.mask = 0x820b;
  op.dataBits = 0x0202;
  op.zeroBits = 0x0009;
  op.lostBits = 0x8000;
  op.versions.set([TWO_32 + 3], 1);
  op.versions.set([12], 9);
  op.versions.set([13], 15);
  op.crcs.set([0x1234_5678], 1);
  op.crcs.set([0x9abc_def0], 9);
  return op;
}

function encodedFill(op: StoreFillOp): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(fillSize(op));
  const size = encodeFill(new DataView(bytes.buffer), 0, op, 65_537, 4, TWO_32 + 9, 3);
  expect(size).toBe(bytes.length);
  return bytes;
}

describe("split of a write into units", () => {
  test.each([
    // firstBlock, blocks → head, whole
    [0, 1, 0, 0],
    [0, 16, 0, 1],
    [0, 64, 0, 4],
    [1, 15, 15, 0],
    [1, 64, 15, 3],
    [14, 40, 2, 2],
    [15, 2, 1, 0],
    [8, 4, 4, 0],
  ])("at %d, %d blocks: %d before the first of %d whole units", (first, blocks, head, whole) => {
    expect(headBlocks(first, blocks)).toBe(head);
    expect(wholeUnits(first, blocks)).toBe(whole);
  });
});

describe("record", () => {
  test("of a write with direct units is laid out as the golden file says", async () => {
    const entry = writeEntry();
    const bytes = encoded(entry);
    await golden("record-write", bytes);
    const record = new RecordView(new DataView(bytes.buffer));
    expect(record.load(new DataView(bytes.buffer), 0, bytes.length)).toBe(true);
    expect([record.pg, record.replicaId, record.commit]).toEqual([65_537, 4, 99]);
    expect([record.inlineFirst, record.inlineCount, record.runs]).toEqual([3, 8, 1]);
    const back = new Entry();
    record.fill(back);
    expect(back).toEqual(entry);
    expect(inlineBlocks(back)).toBe(8);
  });

  test("of a write on a witness has its checksums and no blocks", async () => {
    const entry = writeEntry();
    entry.bare = true;
    entry.unitCount = 0;
    const bytes = encoded(entry);
    await golden("record-write-bare", bytes);
    const view = new DataView(bytes.buffer);
    const record = new RecordView(view);
    expect(record.load(view, 0, bytes.length)).toBe(true);
    expect([record.blocks, record.inlineCount, record.runs]).toEqual([40, 0, 0]);
    const back = new Entry();
    record.fill(back);
    expect([...back.crcs]).toEqual([...entry.crcs]);
    expect([back.bare, back.blocks, inlineBlocks(back)]).toEqual([true, 40, 0]);
    // It contradicts itself with blocks in the batch, and with units.
    bytes[100] = 40;
    expect(record.load(view, 0, bytes.length)).toBe(false);
    bytes[100] = 0;
    bytes[102] = 1;
    expect(record.load(view, 0, bytes.length)).toBe(false);
  });

  test("of a 4 KiB write takes 112 bytes", () => {
    const entry = entryWith(EntryType.Write, null);
    entry.blocks = 1;
    expect(recordSize(entry)).toBe(112);
  });

  test("of a configuration carries its body", async () => {
    const entry = entryWith(EntryType.Conf, new Uint8Array([9, 8, 7]));
    const bytes = encoded(entry);
    await golden("record-conf", bytes);
    const record = new RecordView(new DataView(bytes.buffer));
    expect(record.load(new DataView(bytes.buffer), 0, bytes.length)).toBe(true);
    expect(record.copyData()).toEqual(new Uint8Array([9, 8, 7]));
  });

  /** As their makers fill them; a field that a type does not use is zero. */
  const others: readonly (readonly [string, Partial<Entry>])[] = [
    ["noop", { type: EntryType.Noop }],
    [
      "zero",
      {
        ...{ type: EntryType.Zero, session: 0x1_0000_0001, number: 12, below: 11 },
        ...{ layer: 0x2_0000_0003, firstBlock: 14, blocks: 70_000, snapSeq: 6, lockEpoch: 7 },
      },
    ],
    [
      "layer-gone",
      {
        ...{ type: EntryType.LayerGone, session: 0x1_0000_0001, number: 12, below: 11 },
        ...{ layer: 0x2_0000_0003, lockEpoch: 7 },
      },
    ],
    ["fence", { type: EntryType.Fence, layer: 0x2_0000_0003, lockEpoch: 8 }],
    ["session", { type: EntryType.Session, session: 0x1_0000_0001, data: new Uint8Array([6, 5]) }],
    ["cut", { type: EntryType.Cut, number: 13 }],
  ];
  test.each(others)("of a %s entry is laid out as the golden file says", async (name, fields) => {
    const entry = Object.assign(new Entry(), { index: TWO_32 + 7, term: 5 }, fields);
    const bytes = encoded(entry);
    await golden(`record-${name}`, bytes);
    const record = new RecordView(new DataView(bytes.buffer));
    expect(record.load(new DataView(bytes.buffer), 0, bytes.length)).toBe(true);
    const back = new Entry();
    record.fill(back);
    expect(back).toEqual(entry);
  });

  test("types have the numbers of the golden file", async () => {
    const lines = [EntryType, RecordType].flatMap((numbers) =>
      Object.entries(numbers).filter(([, value]) => typeof value === "number"),
    );
    const text = lines.map(([name, value]) => `${value} ${name}\n`).join("");
    const path = `${import.meta.dir}/testdata/record-types.golden`;
    if (process.env["UPDATE_GOLDEN"] === "1") await Bun.write(path, text);
    expect(text).toBe(await Bun.file(path).text());
  });

  test("units that do not follow each other make runs of their own", () => {
    const entry = writeEntry();
    entry.units.set([500, 700]);
    const bytes = encoded(entry);
    const record = new RecordView(new DataView(bytes.buffer));
    record.load(new DataView(bytes.buffer), 0, bytes.length);
    expect(record.runs).toBe(2);
    expect([record.runUnit(0), record.runLength(0), record.runUnit(1)]).toEqual([500, 1, 700]);
    expect(record.unitTotal()).toBe(2);
  });

  const local = [
    RecordType.HardState,
    RecordType.LogBase,
    RecordType.Filling,
    RecordType.ReplicaCreated,
    RecordType.ReplicaGone,
    RecordType.Truncated,
    RecordType.Distrusted,
    RecordType.LayerParent,
  ];
  test("local ones are laid out as the golden file says", async () => {
    const parts: number[] = [];
    for (const type of local) {
      const control = controlOf(type);
      if (type === RecordType.ReplicaCreated) control.data = new Uint8Array([1, 2, 3, 4]);
      const bytes = new Uint8Array(256);
      const size = encodeControl(new DataView(bytes.buffer), 0, control);
      parts.push(...bytes.subarray(0, size));
    }
    await golden("records-local", new Uint8Array(parts));
  });

  test("of a renewed replica names the one it follows", async () => {
    const control = controlOf(RecordType.ReplicaCreated);
    control.flags = RecordFlag.Renews;
    control.data = new Uint8Array([1, 2, 3, 4]);
    const bytes = new Uint8Array(256);
    const size = encodeControl(new DataView(bytes.buffer), 0, control);
    await golden("record-replica-renewed", bytes.subarray(0, size));
    const record = new RecordView(new DataView(bytes.buffer));
    expect(record.load(new DataView(bytes.buffer), 0, size)).toBe(true);
    expect(record.flags & RecordFlag.Renews).toBe(RecordFlag.Renews);
    expect([record.session, record.copyData()]).toEqual([8, new Uint8Array([1, 2, 3, 4])]);
  });

  test("of a fill is laid out as the golden file says, and reads back", async () => {
    const op = fillOp();
    const bytes = encodedFill(op);
    await golden("record-fill", bytes);
    const record = new RecordView(new DataView(bytes.buffer));
    expect(record.load(new DataView(bytes.buffer), 0, bytes.length)).toBe(true);
    expect([record.pg, record.replicaId, record.commit]).toEqual([65_537, 4, TWO_32 + 9]);
    expect([record.inlineFirst, record.inlineCount, record.runs]).toEqual([3, 2, 0]);
    const back = new FormatFill();
    record.readFill(back);
    expect(back).toEqual(op);
  });

  test("of a fill that only zeroes carries no block", () => {
    const op = new FormatFill();
    op.mask = 0xffff;
    op.zeroBits = 0xffff;
    expect(encodedFill(op).length).toBe(112);
  });

  test.each([
    ["another count of blocks", 12, 3],
    ["a bit both data and zero", 112, 3],
    ["a bit both zero and lost", 116, 0x88],
    ["a data bit more", 113, 4],
    ["a run", 102, 1],
  ])("of a fill with %s is refused", (_, at, value) => {
    const bytes = encodedFill(fillOp());
    bytes[at] = bytes[at]! | value;
    const record = new RecordView(new DataView(bytes.buffer));
    expect(record.load(new DataView(bytes.buffer), 0, bytes.length)).toBe(false);
  });

  test.each([
    ["runs of no unit", (view: DataView) => view.setUint32(104 + 40 * 4 + 4, 0, true)],
    [
      "more units than its range has",
      (view: DataView) => view.setUint32(104 + 40 * 4 + 4, 9, true),
    ],
    ["units, and is no write", (view: DataView) => view.setUint8(0, EntryType.Zero)],
    ["an index from 2^53 on", (view: DataView) => view.setUint32(28, 0x20_0000, true)],
    ["a condition from 2^53 on", (view: DataView) => view.setUint32(92, 0x20_0000, true)],
  ])("of an entry with %s is refused", (_, change) => {
    const view = new DataView(encoded(writeEntry()).buffer);
    const record = new RecordView(view);
    expect(record.load(view, 0, view.byteLength)).toBe(true);
    change(view);
    expect(record.load(view, 0, view.byteLength)).toBe(false);
  });

  test.each([
    ["write", (): Uint8Array => encoded(writeEntry())],
    ["fill", (): Uint8Array => encodedFill(fillOp())],
  ])("hostile bytes of a %s are refused or read within bounds", (_, make) => {
    const random = new Prng(5);
    const good = make();
    const bytes = new Uint8Array(512);
    const view = new DataView(bytes.buffer);
    const record = new RecordView(view);
    const scratch = new Entry();
    let refused = 0;
    for (let round = 0; round < 20_000; round++) {
      bytes.fill(0);
      bytes.set(good);
      for (let flips = 1 + random.below(4); flips > 0; flips--) {
        bytes[random.below(good.length)] = random.below(256);
      }
      if (!record.load(view, 0, good.length)) {
        refused += 1;
        continue;
      }
      expect(record.at + record.size).toBeLessThanOrEqual(good.length);
      if (record.type === RecordType.Fill) record.readFill(new FormatFill());
      else if (record.unitTotal() >= 0 && record.unitTotal() <= 4) record.fill(scratch);
    }
    expect(refused).toBeGreaterThan(100);
  });
});

describe("batch", () => {
  function batch(): { arena: Arena; header: BatchHeader } {
    const arena = arenaOver(new Uint8Array(260 * 4096));
    const entry = entryWith(EntryType.Write, null);
    entry.blocks = 1;
    entry.crcs[0] = 77;
    const size = encodeEntry(arena.view, BATCH_HEADER_SIZE, entry, 65_537, 4, 2, 0);
    const header = new BatchHeader();
    header.shard = 1;
    header.incarnation = 9;
    header.seq = TWO_32 + 3;
    header.durableSeq = TWO_32 + 1;
    header.directSeq = TWO_32;
    header.prevCrc = 0xabcd_ef01;
    header.headerBlocks = 1;
    header.payloadBlocks = 1;
    header.records = 1;
    header.recordBytes = size;
    sealBatch(arena, 0, header, SEED, checksum);
    return { arena, header };
  }

  test("is laid out as the golden file says, and reads back", async () => {
    const { arena, header } = batch();
    await golden("batch", arena.bytes.slice(0, 4096));
    const back = new BatchHeader();
    expect(peekBatch(arena, 0, back)).toBe(true);
    expect(verifyBatch(arena, 0, back, SEED, checksum)).toBe(true);
    expect(back).toEqual(header);
  });

  test("with any flipped bit, or of another store, is none", () => {
    const { arena } = batch();
    const back = new BatchHeader();
    peekBatch(arena, 0, back);
    expect(verifyBatch(arena, 0, back, SEED + 1, checksum)).toBe(false);
    for (let at = 0; at < 4096; at += at < 200 ? 1 : 97) {
      arena.bytes[at] = arena.bytes[at]! ^ 4;
      const good = peekBatch(arena, 0, back) && verifyBatch(arena, 0, back, SEED, checksum);
      expect([at, good]).toEqual([at, false]);
      arena.bytes[at] = arena.bytes[at]! ^ 4;
    }
  });
});
