import { describe, expect, test } from "bun:test";
import { BLOCKS_PER_UNIT, TWO_32 } from "../base/units.ts";
import { SystemChecksum } from "../reactor/bun-system.ts";
import {
  type CheckpointBody,
  type CheckpointHeader,
  decodeBody,
  decodeCheckpointHeader,
  decodeSlot,
  decodeSuperblock,
  decodeZoneTable,
  encodeBody,
  encodeCheckpointHeader,
  encodeSlot,
  encodeSuperblock,
  encodeZoneTable,
  GroupHealth,
  geometryOf,
  newestSuperblock,
  SLOT_SIZE,
  SlotImage,
  SlotState,
  SlotZone,
  shareZones,
  slotSeed,
  type Superblock,
  superblockOffset,
  type ZoneEntry,
  ZoneKind,
  zonesOf,
} from "./store.ts";

/**
 * Every fixed structure of the store as bytes. The files in `testdata` change only together with a
 * `Format:` line in the commit; `UPDATE_GOLDEN=1 bun test core/store` writes them anew.
 */
const checksum = new SystemChecksum();
const SEED = 0x1234_5678;
const MIB = 1024 * 1024;

/** Rows of 16 bytes; rows of zeros are left out. */
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

function flip(bytes: Uint8Array, at: number): Uint8Array {
  const copy = bytes.slice();
  copy[at] = copy[at]! ^ 1;
  return copy;
}

const SUPERBLOCK: Superblock = {
  clusterId: new Uint8Array(16).map((_, at) => at + 1),
  storeUuid: new Uint8Array(16).map((_, at) => 0xf0 + at),
  osd: 7,
  shardCount: 2,
  generation: TWO_32 + 5,
  deviceBytes: 8 * 1024 * MIB,
  zoneSize: 16 * MIB,
  zoneCount: 511,
  unitsPerZone: 254,
  slotsPerZone: 272,
  format: 2,
  incarnation: 9,
  clean: true,
  starts: [
    { incarnation: 7, mark: 1, id: "0123456789abcdef" },
    { incarnation: 9, mark: 12, id: "00112233445566ff" },
  ],
};

describe("superblock", () => {
  test("is laid out as the golden file says, and reads back", async () => {
    const bytes = encodeSuperblock(SUPERBLOCK, checksum);
    await golden("superblock", bytes);
    expect(decodeSuperblock(bytes, checksum)).toEqual(SUPERBLOCK);
  });

  test("one of format 1 has no starts, and is otherwise the same", async () => {
    const first = { ...SUPERBLOCK, format: 1, starts: [] };
    const bytes = encodeSuperblock(first, checksum);
    await golden("superblock-format-1", bytes);
    expect(decodeSuperblock(bytes, checksum)).toEqual(first);
  });

  test("a history that is not one makes no superblock", () => {
    const starts = [...SUPERBLOCK.starts].reverse();
    const bytes = encodeSuperblock({ ...SUPERBLOCK, starts }, checksum);
    expect(decodeSuperblock(bytes, checksum)).toBeUndefined();
  });

  test("one with any flipped bit is none", () => {
    const bytes = encodeSuperblock(SUPERBLOCK, checksum);
    for (let at = 0; at < 160; at++)
      expect(decodeSuperblock(flip(bytes, at), checksum)).toBeUndefined();
  });

  test("generations alternate between the copies, and the higher one counts", () => {
    expect(superblockOffset(2, 8192)).toBe(0);
    expect(superblockOffset(3, 8192)).toBe(4096);
    const older = { ...SUPERBLOCK, generation: 4 };
    expect(newestSuperblock(older, SUPERBLOCK)).toBe(SUPERBLOCK);
    expect(newestSuperblock(older, undefined)).toBe(older);
  });
});

describe("geometry", () => {
  test.each([
    [256 * MIB, 4 * MIB],
    [1024 * MIB, 16 * MIB],
    [8 * 1024 * MIB, 16 * MIB],
    [64 * 1024 * MIB, 64 * MIB],
    [1024 * 1024 * MIB, 1024 * MIB],
  ])("of %d bytes has zones of %d that hold their units and slots", (size, zone) => {
    const geometry = geometryOf(size);
    expect(geometry.zoneSize).toBe(zone);
    expect(geometry.unitsOffset + geometry.unitsPerZone * 65_536).toBeLessThanOrEqual(zone);
    expect(geometry.slotsPerZone).toBeGreaterThanOrEqual(geometry.unitsPerZone * 1.06);
    expect(geometry.zonesOffset + geometry.zoneCount * zone).toBeLessThanOrEqual(size - 4096);
    const share = shareZones(geometry, 1);
    expect(share.log + share.meta + share.data).toBe(geometry.zoneCount);
  });

  test("a device that is too small is refused", () => {
    expect(() => geometryOf(255 * MIB)).toThrow("too small");
    expect(() => shareZones(geometryOf(256 * MIB), 8)).toThrow("too small");
  });
});

describe("zone table", () => {
  const zones: ZoneEntry[] = [
    { kind: ZoneKind.Log, shard: 0, order: 1, generation: 3 },
    { kind: ZoneKind.Log, shard: 0, order: 0, generation: 3 },
    { kind: ZoneKind.Meta, shard: 1, order: 0, generation: 4 },
    { kind: ZoneKind.Data, shard: 1, order: 70_000, generation: 5 },
    { kind: ZoneKind.Free, shard: 0, order: 0, generation: 1 },
  ];

  test("is laid out as the golden file says, and reads back", async () => {
    const bytes = encodeZoneTable(zones, 6, 8192, SEED, checksum);
    await golden("zone-table", bytes);
    const table = decodeZoneTable(bytes, zones.length, SEED, checksum)!;
    expect(table).toEqual({ generation: 6, zones });
    expect(zonesOf(table, ZoneKind.Log, 0)).toEqual([1, 0]);
  });

  test("another store's table and one with a flipped bit are none", () => {
    const bytes = encodeZoneTable(zones, 6, 8192, SEED, checksum);
    expect(decodeZoneTable(bytes, zones.length, SEED + 1, checksum)).toBeUndefined();
    for (const at of [0, 9, 20, 4096, 4100, 4111, 8000]) {
      expect(decodeZoneTable(flip(bytes, at), zones.length, SEED, checksum)).toBeUndefined();
    }
  });
});

test("a zone that got no memory for its slots is not open", () => {
  const zone = new SlotZone(geometryOf(256 * MIB), 0);
  // As when memory runs out: an array can not be made.
  expect(() => zone.open(-1, true)).toThrow(RangeError);
  expect(zone.opened).toBe(false);
});

function slotOf(state: SlotState): { bytes: Uint8Array; zone: SlotZone } {
  const geometry = geometryOf(256 * MIB);
  const zone = new SlotZone(geometry, 0);
  zone.open(geometry.slotsPerZone, true);
  zone.openHoles();
  zone.holes.set([0, 0x0101_0101], 6);
  zone.state[3] = state;
  zone.unit[3] = state === SlotState.Hole ? 128 : 77;
  zone.snapSeq[3] = 4;
  zone.version[3] = 5 * TWO_32 + 6;
  zone.dataBits[3] = 0x80ff;
  zone.lostBits[3] = 0x0100;
  for (let bit = 0; bit < BLOCKS_PER_UNIT; bit++) {
    zone.crcs[48 + bit] = 0x0101_0101 * bit;
    zone.versionLow[48 + bit] = 1000 + bit;
    zone.versionHigh[48 + bit] = bit;
  }
  const bytes = new Uint8Array(SLOT_SIZE);
  const view = new DataView(bytes.buffer);
  const seed = slotSeed(SEED, 1, 3);
  encodeSlot(view, 0, bytes, zone, 3, TWO_32 + 99, 65_540, 9 * TWO_32 + 12, seed, checksum);
  return { bytes, zone };
}

describe("index slot", () => {
  const seed = slotSeed(SEED, 1, 3);
  const read = (bytes: Uint8Array, image: SlotImage, from = seed): boolean =>
    decodeSlot(new DataView(bytes.buffer), 0, bytes, from, checksum, image);

  test("of data is laid out as the golden file says, and reads back", async () => {
    const { bytes } = slotOf(SlotState.Live);
    await golden("slot-data", bytes);
    const image = new SlotImage();
    expect(read(bytes, image)).toBe(true);
    expect(image).toMatchObject({
      state: 1,
      layer: TWO_32 + 99,
      unit: 77,
      snapSeq: 4,
      version: 5 * TWO_32 + 6,
      dataBits: 0x80ff,
      lostBits: 0x0100,
      pageStamp: 9 * TWO_32 + 12,
      pg: 65_540,
    });
    expect(Array.from(image.crcs)).toEqual(
      Array.from({ length: 16 }, (_, bit) => (0x0101_0101 * bit) >>> 0),
    );
    expect(Array.from(image.versions)).toEqual(
      Array.from({ length: 16 }, (_, bit) => 1000 + bit + bit * TWO_32),
    );
  });

  test("of holes is laid out as the golden file says, and reads back", async () => {
    const { bytes, zone } = slotOf(SlotState.Hole);
    await golden("slot-hole", bytes);
    const image = new SlotImage();
    expect(read(bytes, image)).toBe(true);
    expect(image).toMatchObject({ state: 2, unit: 128, snapSeq: 4 });
    expect(image.crcs[1]).toBe(zone.holes[7]!);
  });

  const unnamed = [SlotState.Free, SlotState.Taken, SlotState.Forming, SlotState.Quarantined];
  test.each([...unnamed, SlotState.Discarding])("in state %d is free on disk", (state) => {
    const image = new SlotImage();
    expect(read(slotOf(state).bytes, image)).toBe(true);
    expect(image.state).toBe(0);
  });

  test("a slot with a flipped bit, of another store or in another place is none", () => {
    const { bytes } = slotOf(SlotState.Live);
    const image = new SlotImage();
    for (let at = 0; at < SLOT_SIZE; at++) expect(read(flip(bytes, at), image)).toBe(false);
    expect(read(bytes, image, slotSeed(SEED + 1, 1, 3))).toBe(false);
    expect(read(bytes, image, slotSeed(SEED, 0, 3))).toBe(false);
    expect(read(bytes, image, slotSeed(SEED, 1, 4))).toBe(false);
  });
});

describe("checkpoint", () => {
  const body: CheckpointBody = {
    groups: [
      {
        pg: 65_537,
        replicaId: 3,
        health: GroupHealth.Filling,
        term: TWO_32 + 1,
        vote: 2,
        commit: 44,
        baseIndex: 40,
        baseTerm: 9,
        fillIndex: 43,
        state: {
          applied: 42,
          conf: new Uint8Array([1, 2, 3, 4, 5]),
          confIndex: 17,
          expiredBelow: 6,
          sessions: [
            { session: 8, base: 9, bits: new Uint32Array([1, 2, 3, 4, 5, 6, 7, 8]), lastIndex: 41 },
          ],
          fences: [{ layer: TWO_32 + 3, lockEpoch: 4, snapSeq: 5 }],
        },
      },
    ],
    tombstones: [{ pg: 65_537, replicaId: 2 }],
    parents: [{ layer: 30, parent: 20, snapSeq: 6 }],
    pageCrcs: new Uint32Array([0, 0xdead_beef, 1]),
  };
  const bytes = encodeBody(body);
  const header: CheckpointHeader = {
    shard: 1,
    incarnation: 9,
    seq: 12,
    bodyBytes: bytes.length,
    bodyCrc: checksum.crc32(bytes, SEED),
    groups: 1,
    pages: 3,
    tombstones: 1,
    parents: 1,
    tailPosition: TWO_32 + 70,
    tailSeq: 71,
    tailPrevCrc: 72,
    tailIncarnation: 8,
    headSeq: 0x2_0000_0009,
    distrustedBelow: 0,
    forgetful: false,
    pageStamp: 9 * TWO_32 + 1,
  };

  test("is laid out as the golden files say, and reads back", async () => {
    const block = encodeCheckpointHeader(header, SEED, checksum);
    await golden("checkpoint-header", block);
    await golden("checkpoint-body", bytes);
    expect(decodeCheckpointHeader(block, 1, SEED, checksum)).toEqual(header);
    const marked = { ...header, distrustedBelow: TWO_32 + 3, forgetful: true };
    const other = encodeCheckpointHeader(marked, SEED, checksum);
    await golden("checkpoint-header-distrusted", other);
    expect(decodeCheckpointHeader(other, 1, SEED, checksum)).toEqual(marked);
    expect(decodeBody(bytes, header)).toEqual(body);
  });

  test.each([
    ["generation", "generation"],
    ["device size", "deviceBytes"],
  ] as const)("a superblock whose %s is 2^53 or more is none", (_, field) => {
    const block = { ...SUPERBLOCK, [field]: 2 ** 53 };
    expect(decodeSuperblock(encodeSuperblock(block, checksum), checksum)).toBeUndefined();
  });

  test("numbers from 2^53 on, and a block that is cut short, make no checkpoint", () => {
    for (const field of [
      "seq",
      "bodyBytes",
      "tailPosition",
      "tailSeq",
      "pageStamp",
      "distrustedBelow",
    ] as const) {
      const block = encodeCheckpointHeader({ ...header, [field]: 2 ** 53 }, SEED, checksum);
      expect(decodeCheckpointHeader(block, 1, SEED, checksum)).toBeUndefined();
    }
    const block = encodeCheckpointHeader(header, SEED, checksum);
    expect(decodeCheckpointHeader(block.subarray(0, 80), 1, SEED, checksum)).toBeUndefined();
    const group = { ...body.groups[0]!, baseIndex: 2 ** 53 };
    expect(decodeBody(encodeBody({ ...body, groups: [group] }), header)).toBeUndefined();
  });

  test("another shard's, another store's or a damaged header is none", () => {
    const block = encodeCheckpointHeader(header, SEED, checksum);
    expect(decodeCheckpointHeader(block, 0, SEED, checksum)).toBeUndefined();
    expect(decodeCheckpointHeader(block, 1, SEED + 1, checksum)).toBeUndefined();
    for (let at = 0; at < 101; at++) {
      expect(decodeCheckpointHeader(flip(block, at), 1, SEED, checksum)).toBeUndefined();
    }
  });

  test("a body that contradicts its header is none", () => {
    expect(decodeBody(bytes.subarray(0, bytes.length - 4), header)).toBeUndefined();
    expect(decodeBody(bytes, { ...header, groups: 2 })).toBeUndefined();
    const lying = bytes.slice();
    new DataView(lying.buffer).setUint32(28, 1_000_000, true);
    expect(decodeBody(lying, header)).toBeUndefined();
    const zero = bytes.slice();
    new DataView(zero.buffer).setUint32(0, 0, true);
    expect(decodeBody(zero, header)).toBeUndefined();
  });
});
