// cold: fuzzing of decoders
import { assert } from "../base/assert.ts";
import { Status } from "../base/status.ts";
import { BLOCK_SIZE, PAYLOAD_BLOCKS_MAX } from "../base/units.ts";
import { Device } from "../device/device.ts";
import {
  BatchHeader,
  Entry,
  encodeEntry,
  encodeFill,
  LogSpace,
  peekBatch,
  recordSize,
  RecordType,
  RecordView,
  scanLog,
  StoreFillOp,
} from "../log/log.ts";
import { Simulation, type SimWorld } from "../reactor/reactor.ts";
import { type Backend, type Disk, type DiskOp, DiskVerb } from "../reactor/world.ts";
import { scanIndex, SLOT_SIZE, SlotTable, slotSeed } from "../store/store.ts";
import type { FuzzTarget } from "./fuzz.ts";
import type { FuzzPorts, RecordedDisk } from "./fuzz-traffic.ts";

type Input = Uint8Array<ArrayBuffer>;

/** Where inputs lie on the device: beyond anything that was recorded. */
const INPUT_AT = 2 ** 40;
const RING_BYTES = 262_144;
const LOG_BYTES_MAX = 131_072;
const SCAN_BUFFER_BYTES = 2 * 1_048_576;
const PROMISE_ROUNDS_MAX = 100_000;

/** The scans that a start makes: the log's chain and the index pages, from a device in memory. */
export class FuzzMedia {
  private readonly ports: FuzzPorts;
  private readonly disk: RecordedDisk;
  private readonly world: SimWorld;
  private readonly media: MemoryDisk;
  private readonly device: Device;
  private readonly buffer: number;

  constructor(ports: FuzzPorts, disk: RecordedDisk) {
    this.ports = ports;
    this.disk = disk;
    const { checksum, drainMicrotasks } = ports;
    const simulation = new Simulation(1, { checksum, drainMicrotasks });
    this.world = simulation.createWorld("fuzz", "10.0.0.1", { arenaBytes: 8 * 1_048_576 });
    this.media = new MemoryDisk(this.world, disk);
    this.device = new Device(this.world, this.media, NOBODY);
    this.buffer = this.world.arena.allocate(SCAN_BUFFER_BYTES);
  }

  /** Reads are done, and promises run, until this one is settled. */
  private settle<Value>(promise: Promise<Value>): Value {
    let outcome: { value: Value } | { error: unknown } | undefined;
    promise.then(
      (value) => {
        outcome = { value };
      },
      (error: unknown) => {
        outcome = { error };
      },
    );
    for (let round = 0; outcome === undefined; round++) {
      assert(round < PROMISE_ROUNDS_MAX, "fuzz: a scan does not end");
      this.ports.drainMicrotasks();
      this.media.complete();
    }
    if ("error" in outcome) throw outcome.error;
    return outcome.value;
  }

  /* ----------------------------------------------------------------- index */

  /** The index pages of one data zone. */
  indexTarget(): FuzzTarget {
    const { disk } = this;
    const { pages } = disk;
    return {
      name: "index-pages",
      seeds: [pages],
      sizeMin: pages.length,
      sizeMax: pages.length,
      bytesMax: 4 * 1_048_576,
      repair: (input) => this.sealSlots(input),
      run: (input) => this.runIndex(input),
    };
  }

  private sealSlots(input: Input): void {
    const { checksum } = this.ports;
    const view = new DataView(input.buffer);
    for (let slot = 0; (slot + 1) * SLOT_SIZE <= input.length; slot++) {
      const at = slot * SLOT_SIZE;
      // Never written: all zero.
      if (view.getUint16(at + 6, true) === 0) continue;
      view.setUint32(at, 0, true);
      const bytes = input.subarray(at, at + SLOT_SIZE);
      view.setUint32(at, checksum.crc32(bytes, slotSeed(this.disk.seed, 0, slot)), true);
    }
  }

  private runIndex(input: Input): boolean {
    const { geometry, body, seed } = this.disk;
    this.media.load(input);
    const table = new SlotTable(geometry, [INPUT_AT]);
    const slots = geometry.slotsPerZone;
    const result = this.settle(
      scanIndex({
        world: this.world,
        device: this.device,
        table,
        shard: 0,
        seed,
        // Every page was written behind the checkpoint.
        pageStamp: 0,
        pageCrcs: new Uint32Array(geometry.pagesPerZone),
        buffer: this.buffer,
        bufferBytes: SCAN_BUFFER_BYTES,
        rowOf: (pg) => body.groups.findIndex((group) => group.pg === pg),
      }),
    );
    const free = table.freeUnits + table.freeHoles;
    const used = table.quarantined + result.liveUnits;
    assert(free + used === slots, "index-pages: slots are counted twice, or not at all");
    return result.damage.length === 0 && result.liveUnits > 0;
  }

  /* ------------------------------------------------------------------- log */

  /** The log from its tail on: batches in a chain, records, payload. */
  logTarget(): FuzzTarget {
    const { log } = this.disk;
    return {
      name: "log-scan",
      seeds: [log, log.subarray(0, 3 * BLOCK_SIZE), log.subarray(0, 10 * BLOCK_SIZE)],
      sizeMin: BLOCK_SIZE,
      grain: BLOCK_SIZE,
      sizeMax: LOG_BYTES_MAX,
      bytesMax: 4 * 1_048_576,
      repair: (input) => this.sealChain(input),
      run: (input) => this.runLog(input),
    };
  }

  /** Crc and chain of every batch that stands where the one before it ends. */
  private sealChain(input: Input): void {
    const { checksum } = this.ports;
    const { arena } = this.world;
    const view = new DataView(input.buffer);
    const header = new BatchHeader();
    let previous = this.disk.header.tailPrevCrc;
    arena.bytes.set(input, this.buffer);
    for (let at = 0; at + BLOCK_SIZE <= input.length; ) {
      if (!peekBatch(arena, this.buffer + at, header)) {
        at += BLOCK_SIZE;
        continue;
      }
      const end = Math.min(input.length, at + header.headerBlocks * BLOCK_SIZE);
      view.setUint32(at + 40, previous, true);
      view.setUint32(at + 12, 0, true);
      let crc = this.disk.seed;
      for (let block = at; block < end; block += BLOCK_SIZE) {
        crc = checksum.crc32(input.subarray(block, block + BLOCK_SIZE), crc);
      }
      view.setUint32(at + 12, crc, true);
      previous = crc;
      at += (header.headerBlocks + header.payloadBlocks) * BLOCK_SIZE;
    }
  }

  private runLog(input: Input): boolean {
    const { header, body, seed, geometry } = this.disk;
    this.media.load(input);
    const slots = new SlotTable(geometry, [geometry.zonesOffset]);
    const result = this.settle(
      scanLog({
        world: this.world,
        device: this.device,
        space: new LogSpace([INPUT_AT], RING_BYTES),
        shard: 0,
        seed,
        incarnationMax: header.incarnation + 4,
        tailPosition: 0,
        tailSeq: header.tailSeq,
        tailPrevCrc: header.tailPrevCrc,
        tailIncarnation: header.tailIncarnation,
        headSeq: header.headSeq,
        distrustedBelow: header.distrustedBelow,
        groups: body.groups,
        tombstones: body.tombstones,
        buffer: this.buffer,
        bufferBytes: SCAN_BUFFER_BYTES,
        isUnit: (slot) => slots.isUnit(slot),
        unitOffset: (slot) => slots.unitOffset(slot),
      }),
    );
    for (const group of result.groups) {
      const first = group.baseIndex + 1;
      group.entries.forEach((entry, at) => {
        assert(entry.index === first + at, "log-scan: the entries of a group have a gap");
        checkRecord(entry.record);
      });
      for (const fill of group.fills) checkRecord(fill.record);
    }
    return result.batches.nextSeq > header.tailSeq;
  }
}

class FuzzFill extends StoreFillOp {
  onDone(): void {
    // Nobody waits.
  }
}

/** What a record says is the same when it is written and read again. */
function checkRecord(view: DataView): void {
  const record = new RecordView(view);
  assert(record.load(view, 0, view.byteLength), "log-scan: a record is refused the second time");
  const out = new DataView(new ArrayBuffer(8192));
  const again = new RecordView(out);
  if (record.type === RecordType.Fill) {
    const fill = new FuzzFill();
    record.readFill(fill);
    const size = encodeFill(out, 0, fill, record.pg, record.replicaId, 0, record.inlineFirst);
    assert(again.load(out, 0, size), "log-scan: a fill that was encoded is refused");
    const back = new FuzzFill();
    again.readFill(back);
    assert(JSON.stringify(back) === JSON.stringify(fill), "log-scan: a fill changed");
    return;
  }
  const entry = new Entry();
  record.fill(entry);
  assert(entry.blocks <= PAYLOAD_BLOCKS_MAX || record.inlineCount === 0, "log-scan: a large entry");
  const size = recordSize(entry);
  if (size > out.byteLength) return;
  encodeEntry(out, 0, entry, record.pg, record.replicaId, 0, record.inlineFirst);
  assert(again.load(out, 0, size), "log-scan: an entry that was encoded is refused");
  const back = new Entry();
  again.fill(back);
  assert(JSON.stringify(back) === JSON.stringify(entry), "log-scan: an entry changed");
}

/** What was recorded, and an input at `INPUT_AT`. Reads only. */
class MemoryDisk implements Disk {
  readonly sizeBytes: number = INPUT_AT * 2;
  readonly path: string = "fuzz";
  readonly backend: Backend = "memory";
  readonly direct: boolean = true;
  inFlight = 0;
  private readonly world: SimWorld;
  private readonly recorded: RecordedDisk;
  private readonly units = new Map<number, Uint8Array>();
  private input: Uint8Array = new Uint8Array(0);
  private queue: DiskOp[] = [];

  constructor(world: SimWorld, recorded: RecordedDisk) {
    this.world = world;
    this.recorded = recorded;
  }

  bytesBeneath(): number {
    return Number.POSITIVE_INFINITY;
  }

  load(input: Uint8Array): void {
    this.input = input;
  }

  submit(op: DiskOp): void {
    this.inFlight += 1;
    this.queue.push(op);
  }

  complete(): void {
    const queue = this.queue;
    this.queue = [];
    for (const op of queue) {
      this.inFlight -= 1;
      assert(op.verb === DiskVerb.Read, "fuzz: a scan writes");
      this.read(op);
      op.status = Status.Ok;
      op.onDone();
    }
  }

  close(): void {
    // Nothing is held.
  }

  private read(op: DiskOp): void {
    const { bytes } = this.world.arena;
    const end = op.arenaOffset + op.lengthBytes;
    if (op.offsetBytes < INPUT_AT) {
      bytes.set(this.unit(op.offsetBytes, op.lengthBytes), op.arenaOffset);
      return;
    }
    const from = op.offsetBytes - INPUT_AT;
    const part = this.input.subarray(from, from + op.lengthBytes);
    bytes.set(part, op.arenaOffset);
    bytes.fill(0, op.arenaOffset + part.length, end);
  }

  private unit(offsetBytes: number, lengthBytes: number): Uint8Array {
    let unit = this.units.get(offsetBytes);
    if (unit === undefined) {
      unit = this.recorded.peek(offsetBytes, lengthBytes);
      this.units.set(offsetBytes, unit);
    }
    return unit;
  }
}

const NOBODY = {
  onDeviceFailed(): void {},
  onDeviceSlow(): void {},
  onDeviceRecovered(): void {},
  onDeviceStarved(): void {},
};
