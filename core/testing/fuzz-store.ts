// cold: fuzzing of decoders
import { assert } from "../base/assert.ts";
import type { Checksum } from "../base/checksum.ts";
import { BLOCK_SIZE } from "../base/units.ts";
import { decodeConfiguration, encodeConfiguration } from "../raft/raft.ts";
import {
  type CheckpointBody,
  type CheckpointHeader,
  decodeBody,
  decodeCheckpointHeader,
  decodeGroupState,
  decodeSlot,
  decodeSuperblock,
  decodeZoneTable,
  encodeBody,
  encodeCheckpointHeader,
  encodeGroupState,
  encodeSuperblock,
  encodeZoneTable,
  SLOT_SIZE,
  SlotImage,
  slotSeed,
} from "../store/store.ts";
import type { FuzzTarget } from "./fuzz.ts";
import { FuzzMedia } from "./fuzz-media.ts";
import type { FuzzPorts, RecordedDisk } from "./fuzz-traffic.ts";

/** What lies on a device, structure by structure: a disk that somebody else has written. */
export function storeTargets(ports: FuzzPorts, disk: RecordedDisk): FuzzTarget[] {
  const media = new FuzzMedia(ports, disk);
  return [
    superblockTarget(ports.checksum, disk),
    zoneTableTarget(ports.checksum, disk),
    checkpointTarget(ports.checksum, disk),
    groupStateTarget(disk),
    configurationTarget(disk),
    slotTarget(ports.checksum, disk),
    media.indexTarget(),
    media.logTarget(),
  ];
}

type Input = Uint8Array<ArrayBuffer>;

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}

/** Put the crc32 of all bytes, itself taken as zero, at `at`. */
function sealWhole(bytes: Input, at: number, size: number, seed: number, checksum: Checksum): void {
  if (bytes.length < size) return;
  const view = viewOf(bytes);
  view.setUint32(at, 0, true);
  view.setUint32(at, checksum.crc32(bytes.subarray(0, size), seed), true);
}

export function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false;
  for (let at = 0; at < a.length; at++) if (a[at] !== b[at]) return false;
  return true;
}

function superblockTarget(checksum: Checksum, disk: RecordedDisk): FuzzTarget {
  return {
    name: "superblock",
    seeds: [disk.superblockBytes, encodeSuperblock({ ...disk.superblock, clean: true }, checksum)],
    sizeMin: BLOCK_SIZE,
    sizeMax: BLOCK_SIZE,
    bytesMax: 4 * BLOCK_SIZE,
    repair: (input) => sealWhole(input, 12, BLOCK_SIZE, 0, checksum),
    run: (input) => {
      const block = decodeSuperblock(input, checksum);
      if (block === undefined) return false;
      const again = decodeSuperblock(encodeSuperblock(block, checksum), checksum);
      assert(again !== undefined, "superblock: what was encoded is refused");
      assert(JSON.stringify(again) === JSON.stringify(block), "superblock: it changed");
      return true;
    },
  };
}

function zoneTableTarget(checksum: Checksum, disk: RecordedDisk): FuzzTarget {
  const { seed, geometry, tableBytes } = disk;
  const { zoneCount } = geometry;
  const size = tableBytes.length;
  return {
    name: "zone-table",
    seeds: [tableBytes],
    sizeMin: size,
    sizeMax: size,
    bytesMax: 8 * size,
    repair: (input) => {
      if (input.length < size) return;
      const view = viewOf(input);
      for (let zone = 0; zone < zoneCount; zone++) {
        const at = BLOCK_SIZE + zone * 16;
        view.setUint32(at + 12, checksum.crc32(input.subarray(at, at + 12), zone), true);
      }
      sealWhole(input, 20, size, seed, checksum);
    },
    run: (input) => {
      if (input.length !== size) return false;
      const table = decodeZoneTable(input, zoneCount, seed, checksum);
      if (table === undefined) return false;
      const bytes = encodeZoneTable(table.zones, table.generation, size, seed, checksum);
      const again = decodeZoneTable(bytes, zoneCount, seed, checksum);
      assert(JSON.stringify(again) === JSON.stringify(table), "zone-table: it changed");
      return true;
    },
  };
}

/** A checkpoint with everything in it that a body can hold. */
function richBody(disk: RecordedDisk): CheckpointBody {
  const group = disk.body.groups[0]!;
  const bits = new Uint32Array([1, 2, 3, 4, 5, 6, 7, 8]);
  const sessions = [1, 2, 3].map((session) => ({ session, base: 9, bits, lastIndex: 41 }));
  const fences = [{ layer: 4_294_967_299, lockEpoch: 4, snapSeq: 5 }];
  return {
    groups: [...disk.body.groups, { ...group, pg: 9, state: { ...group.state, sessions, fences } }],
    tombstones: [{ pg: 65_537, replicaId: 2 }],
    parents: [{ layer: 30, parent: 20, snapSeq: 6 }],
    pageCrcs: new Uint32Array([0, 0xdead_beef, 1]),
  };
}

/** Header block and body behind each other, as on the device. */
function checkpointTarget(checksum: Checksum, disk: RecordedDisk): FuzzTarget {
  const { seed } = disk;
  const rich = richBody(disk);
  const richBytes = encodeBody(rich);
  const header: CheckpointHeader = {
    ...disk.header,
    bodyBytes: richBytes.length,
    bodyCrc: checksum.crc32(richBytes, seed),
    groups: rich.groups.length,
    pages: rich.pageCrcs.length,
    tombstones: 1,
    parents: 1,
  };
  const sealedHeader = encodeCheckpointHeader(header, seed, checksum);
  return {
    name: "checkpoint",
    seeds: [join(disk.headerBytes, disk.bodyBytes), join(sealedHeader, richBytes)],
    sizeMin: BLOCK_SIZE,
    sizeMax: 4 * BLOCK_SIZE,
    bytesMax: 1_048_576,
    repair: (input) => {
      if (input.length < BLOCK_SIZE) return;
      const view = viewOf(input);
      const at = BLOCK_SIZE;
      // One of two: the length as it is, so that headers lie about their bodies.
      if ((input[at] ?? 0) % 2 === 0) {
        view.setUint32(24, input.length - at, true);
        view.setUint32(28, 0, true);
      }
      const end = Math.min(input.length, at + view.getUint32(24, true));
      view.setUint32(32, checksum.crc32(input.subarray(at, end), seed), true);
      sealWhole(input, 12, BLOCK_SIZE, seed, checksum);
    },
    run: (input) => {
      const found = decodeCheckpointHeader(input, 0, seed, checksum);
      if (found === undefined || found.bodyBytes > input.length - BLOCK_SIZE) return false;
      const bytes = input.slice(BLOCK_SIZE, BLOCK_SIZE + found.bodyBytes);
      if (checksum.crc32(bytes, seed) !== found.bodyCrc) return false;
      const body = decodeBody(bytes, found);
      if (body === undefined) return false;
      const again = decodeBody(encodeBody(body), found);
      assert(again !== undefined, "checkpoint: what was encoded is refused");
      assert(JSON.stringify(again) === JSON.stringify(body), "checkpoint: it changed");
      return true;
    },
  };
}

function join(...parts: readonly Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

/** How a leader tells a replica that is filled what its group is. */
function groupStateTarget(disk: RecordedDisk): FuzzTarget {
  return {
    name: "group-state",
    seeds: richBody(disk).groups.map((group) => encodeGroupState(group.state)),
    sizeMax: BLOCK_SIZE,
    bytesMax: 1_048_576,
    repair: (input) => {
      if (input.length >= 4) viewOf(input).setUint32(0, input.length, true);
    },
    run: (input) => {
      const state = decodeGroupState(input);
      if (state === undefined) return false;
      const bytes = encodeGroupState(state);
      const again = decodeGroupState(bytes);
      assert(again !== undefined, "group-state: what was encoded is refused");
      assert(JSON.stringify(again) === JSON.stringify(state), "group-state: it changed");
      return true;
    },
  };
}

function configurationTarget(disk: RecordedDisk): FuzzTarget {
  return {
    name: "configuration",
    seeds: disk.body.groups.map((group) => group.state.conf),
    sizeMax: 2048,
    bytesMax: 65_536,
    repair: (input) => {
      if (input.length > 2) input[2] = Math.max(0, Math.floor((input.length - 8) / 28));
    },
    run: (input) => {
      const configuration = decodeConfiguration(input);
      if (configuration === null) return false;
      const bytes = encodeConfiguration(configuration);
      assert(sameBytes(bytes, input), "configuration: it changed");
      return true;
    },
  };
}

function slotTarget(checksum: Checksum, disk: RecordedDisk): FuzzTarget {
  const { pages } = disk;
  const seeds: Uint8Array[] = [];
  for (let at = 0; at < pages.length; at += SLOT_SIZE) {
    const slot = pages.slice(at, at + SLOT_SIZE);
    if (slot[4] !== 0) seeds.push(slot);
  }
  const own = slotSeed(disk.seed, 0, 0);
  const seal = (input: Input): void => sealWhole(input, 0, SLOT_SIZE, own, checksum);
  for (const slot of seeds) seal(slot as Input);
  const image = new SlotImage();
  return {
    name: "slot",
    seeds,
    sizeMin: SLOT_SIZE,
    sizeMax: SLOT_SIZE,
    bytesMax: BLOCK_SIZE,
    repair: seal,
    run: (input) => {
      if (input.length !== SLOT_SIZE) return false;
      const before = input.slice();
      const taken = decodeSlot(viewOf(input), 0, input, own, checksum, image);
      assert(sameBytes(before, input), "slot: reading it changed it");
      if (!taken) return false;
      for (let bit = 0; bit < 16; bit++) {
        assert(Number.isSafeInteger(image.versions[bit]), "slot: a version is no number");
      }
      return true;
    },
  };
}
