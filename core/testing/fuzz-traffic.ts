// cold: fuzzing of decoders
import type { Checksum } from "../base/checksum.ts";
import { BLOCK_SIZE } from "../base/units.ts";
import { LogSpace } from "../log/log.ts";
import type { SimWorld } from "../reactor/reactor.ts";
import type { Stream } from "../reactor/world.ts";
import { FrameKind } from "../rpc/rpc.ts";
import {
  type CheckpointBody,
  type CheckpointHeader,
  decodeBody,
  decodeCheckpointHeader,
  decodeSuperblock,
  decodeZoneTable,
  type Geometry,
  geometryOf,
  type Superblock,
  ZoneKind,
  type ZoneTable,
  zoneOffset,
  zonesOf,
} from "../store/store.ts";
import { assert } from "../base/assert.ts";
import { SimCluster } from "./sim-cluster.ts";

/**
 * Real frames and real devices to begin with: a small simulated cluster writes, reads, zeroes, loses
 * an osd and gets it back. What its processes sent each other and what lies on a device behind the
 * crash is the corpus.
 */
export interface FuzzTraffic {
  readonly frames: readonly RecordedFrame[];
  readonly disk: RecordedDisk;
}

/** One frame as it was handed to a stream: the header in plain, the payload if it has one. */
export interface RecordedFrame {
  readonly kind: number;
  readonly method: number;
  readonly header: Uint8Array;
  readonly payload: Uint8Array;
  /** It was sent as a short frame. */
  readonly isShort: boolean;
}

/** The structures of one device, and how they were found. */
export interface RecordedDisk {
  readonly superblockBytes: Uint8Array;
  readonly superblock: Superblock;
  readonly seed: number;
  readonly geometry: Geometry;
  readonly tableBytes: Uint8Array;
  readonly table: ZoneTable;
  readonly headerBytes: Uint8Array;
  readonly header: CheckpointHeader;
  readonly bodyBytes: Uint8Array;
  readonly body: CheckpointBody;
  /** The index pages of the first data zone. */
  readonly pages: Uint8Array;
  /** From the tail of the log on: what its chain holds, and two blocks behind. */
  readonly log: Uint8Array;
  /** What a read of the device sees. */
  peek(offsetBytes: number, lengthBytes: number): Uint8Array;
}

/** What the process supplies to record, and to run targets. */
export interface FuzzPorts {
  readonly checksum: Checksum;
  readonly drainMicrotasks: () => void;
}

const MIB = 1_048_576;
const LOG_BLOCKS_MAX = 24;
/** Bounds what is kept of one method: the first ones differ most. */
const FRAMES_MAX = 24;
const FRAME_MAGIC = 0x3146_4246;
const SHORT_MAGIC = 0x3153_4246;

/** Record the same traffic each time. */
export function recordTraffic({ checksum, drainMicrotasks }: FuzzPorts): FuzzTraffic {
  const recorder = new FrameRecorder();
  const cluster = new SimCluster(7, {
    osds: 3,
    replicas: 3,
    pgCount: 2,
    imageBytes: 4 * MIB,
    objectBytes: 131_072,
    deviceBytes: 256 * MIB,
    logBytes: 16 * MIB,
    checksum,
    drainMicrotasks,
    onWorld: (world) => recorder.watch(world),
  });
  cluster.start();
  const image = cluster.await("open", cluster.client.openImage("pool/image"));
  const osd = cluster.osds[0]!;
  for (let round = 0; round < 3; round++) {
    for (const blocks of [1, 2, 16, 7, 32]) {
      const data = new Uint8Array(blocks * BLOCK_SIZE).fill(1 + round + blocks);
      const unit = blocks >= 16 ? blocks : round;
      cluster.await(`write ${round} ${blocks}`, image.write(unit * 65_536, data));
    }
    cluster.await("zero", image.zero(round * 131_072, 65_536));
    cluster.await("read", image.read(0, 65_536));
    cluster.await("flush", image.flush());
    // The first round ends with a checkpoint, the last with a log that is longer than it.
    if (round !== 0) continue;
    cluster.await("stop", cluster.stopOsd(osd));
    cluster.startOsd(osd);
    const { simulation } = cluster;
    const inOrder = simulation.run(() => cluster.isUp(osd) && cluster.serving);
    assert(inOrder, "recordTraffic: the osd does not come back");
    simulation.run(simulation.nowUs + 1_000_000);
  }
  osd.world!.crash();
  const file = cluster.simulation.disk(osd.path);
  const disk = readDisk(checksum, file.sizeBytes, (at, length) => file.peek(at, length));
  return { frames: recorder.frames, disk };
}

class FrameRecorder {
  readonly frames: RecordedFrame[] = [];
  private readonly counts = new Map<number, number>();

  /** See what the streams of a process send from here on. */
  watch(world: SimWorld): void {
    const { network } = world;
    const connect = network.connect.bind(network);
    const listen = network.listen.bind(network);
    const tapped: Pick<typeof network, "connect" | "listen"> = {
      connect: (target, handler, options) => this.tap(world, connect(target, handler, options)),
      listen: (address, acceptor, options) =>
        listen(
          address,
          { onAccept: (stream) => acceptor.onAccept(this.tap(world, stream)) },
          options,
        ),
    };
    Object.assign(network, tapped);
  }

  private tap(world: SimWorld, stream: Stream): Stream {
    const reserve = stream.reserve.bind(stream);
    const commit = stream.commit.bind(stream);
    let at = -1;
    const tapped: Pick<Stream, "reserve" | "commit"> = {
      reserve: (lengthBytes) => {
        at = reserve(lengthBytes);
        return at;
      },
      commit: (lengthBytes) => {
        this.add(world.arena.bytes.subarray(at, at + lengthBytes));
        commit(lengthBytes);
      },
    };
    return Object.assign(stream, tapped);
  }

  private add(bytes: Uint8Array): void {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    if (bytes.length >= 24 && view.getUint32(0, true) === SHORT_MAGIC) {
      const header = bytes.slice(24, 24 + view.getUint16(6, true));
      const method = view.getUint16(4, true);
      this.keep({
        kind: FrameKind.Oneway,
        method,
        header,
        payload: bytes.slice(0, 0),
        isShort: true,
      });
      return;
    }
    if (bytes.length < 64 || view.getUint32(0, true) !== FRAME_MAGIC) return;
    const headerSize = view.getUint32(12, true);
    const payloadAt = 64 + ((headerSize + 7) & ~7);
    this.keep({
      kind: view.getUint8(5),
      method: view.getUint16(8, true),
      header: bytes.slice(64, 64 + headerSize),
      payload: bytes.slice(payloadAt, payloadAt + view.getUint32(24, true)),
      isShort: false,
    });
  }

  private keep(frame: RecordedFrame): void {
    const key = frame.kind * 65_536 + frame.method;
    const count = this.counts.get(key) ?? 0;
    if (count >= FRAMES_MAX) return;
    this.counts.set(key, count + 1);
    this.frames.push(frame);
  }
}

/** Find the structures of a device. */
function readDisk(
  checksum: Checksum,
  sizeBytes: number,
  peek: (offsetBytes: number, lengthBytes: number) => Uint8Array,
): RecordedDisk {
  const copies = [0, sizeBytes - BLOCK_SIZE].map((at) => peek(at, BLOCK_SIZE));
  const [superblockBytes, superblock] = newest(
    copies.map((bytes) => [bytes, decodeSuperblock(bytes, checksum)] as const),
    (one) => one.generation,
  );
  const seed = checksum.crc32(superblock.storeUuid, 0);
  const geometry = geometryOf(superblock.deviceBytes, superblock.zoneSize);
  const tables = [0, 1].map((copy) => {
    const bytes = peek(BLOCK_SIZE + copy * geometry.tableBytes, geometry.tableBytes);
    return [bytes, decodeZoneTable(bytes, geometry.zoneCount, seed, checksum)] as const;
  });
  const [tableBytes, table] = newest(tables, (one) => one.generation);
  const offsets = (kind: ZoneKind): number[] =>
    zonesOf(table, kind, 0).map((zone) => zoneOffset(geometry, zone));
  const meta = offsets(ZoneKind.Meta);
  const half = Math.floor((meta.length * geometry.zoneSize) / 2 / BLOCK_SIZE) * BLOCK_SIZE;
  const headers = [0, 1].map((copy) => {
    const bytes = peek(meta[0]! + copy * half, BLOCK_SIZE);
    return [bytes, decodeCheckpointHeader(bytes, 0, seed, checksum)] as const;
  });
  const [headerBytes, header] = newest(headers, (one) => one.seq);
  const bodyAt = meta[0]! + (header.seq % 2) * half + BLOCK_SIZE;
  const bodyBytes = peek(bodyAt, Math.ceil(header.bodyBytes / BLOCK_SIZE) * BLOCK_SIZE);
  const body = decodeBody(bodyBytes.slice(0, header.bodyBytes), header);
  assert(body !== undefined, "readDisk: the body of the checkpoint is malformed");
  const space = new LogSpace(offsets(ZoneKind.Log), geometry.zoneSize);
  const log = peek(space.deviceOffset(header.tailPosition), LOG_BLOCKS_MAX * BLOCK_SIZE);
  const pages = peek(offsets(ZoneKind.Data)[0]!, geometry.pagesPerZone * BLOCK_SIZE);
  return {
    superblockBytes,
    superblock,
    seed,
    geometry,
    tableBytes,
    table,
    headerBytes,
    header,
    bodyBytes: bodyBytes.slice(0, header.bodyBytes),
    body,
    pages,
    log,
    peek,
  };
}

function newest<Value>(
  copies: readonly (readonly [Uint8Array, Value | undefined])[],
  order: (value: Value) => number,
): [Uint8Array, Value] {
  let best: [Uint8Array, Value] | undefined;
  for (const [bytes, value] of copies) {
    if (value === undefined) continue;
    if (best === undefined || order(value) > order(best[1])) best = [bytes, value];
  }
  assert(best !== undefined, "readDisk: no copy is valid");
  return best;
}
