import { drainMicrotasks } from "bun:jsc";
import { expect, test } from "bun:test";
import { BLOCK_SIZE } from "../base/units.ts";
import { Device } from "../device/device.ts";
import { SystemChecksum } from "../reactor/bun-system.ts";
import { Simulation } from "../reactor/reactor.ts";
import { geometryOf, Quarantine, SlotTable } from "../store/store.ts";
import { BatchHeader, BatchTable, EntryPool, LogSpace, peekBatch, ShardLog } from "./log.ts";

const MIB = 1_048_576;
const RING_BLOCKS = 8;
const VOUCH_US = 10_000;
const ignore = (): void => undefined;

/** A log of eight blocks, full of as many batches, the first of which is 1. */
function full(): { simulation: Simulation; log: ShardLog } {
  const simulation = new Simulation(1, { drainMicrotasks, checksum: new SystemChecksum() });
  const world = simulation.createWorld("osd", "10.0.0.1", { arenaBytes: 64 * MIB });
  world.start();
  const disk = world.disks.open("disk", { createBytes: MIB });
  const device = new Device(world, disk, {
    onDeviceFailed: ignore,
    onDeviceSlow: ignore,
    onDeviceRecovered: ignore,
    onDeviceStarved: ignore,
  });
  const slots = new SlotTable(geometryOf(256 * MIB), []);
  const log = new ShardLog({
    world,
    device,
    owner: {
      onEntriesDurable: ignore,
      onHardStateDurable: ignore,
      onControlDurable: ignore,
      onFillDurable: ignore,
      onBatchDurable: ignore,
    },
    entries: new EntryPool(world.slots),
    space: new LogSpace([0], RING_BLOCKS * BLOCK_SIZE),
    batches: new BatchTable(1),
    slots,
    quarantine: new Quarantine(slots),
    shard: 0,
    incarnation: 1,
    seed: 7,
    headPosition: 0,
    tailPosition: 0,
    lastCrc: 0,
    isVouched: true,
    vouchUs: VOUCH_US,
    buffers: world.arena.allocate(2 * MIB),
  });
  const row = log.openGroup(65_537, 1, 0, 0).row;
  for (let term = 1; term <= RING_BLOCKS; term++) {
    log.putHardState(row, term, 1, 0);
    simulation.run(() => log.completedSeq === term);
  }
  expect(log.livingBlocks).toBe(RING_BLOCKS);
  return { simulation, log };
}

test("R7: a last batch that fills the ring is vouched for when there is room", () => {
  const { simulation, log } = full();
  const pass = (us: number): unknown => simulation.run(simulation.nowUs + us);
  pass(5 * VOUCH_US);
  expect([log.completedSeq, log.quiet]).toEqual([RING_BLOCKS, true]);
  log.moveTail(RING_BLOCKS);
  pass(5 * VOUCH_US);
  // One batch, and none behind it.
  expect(log.completedSeq).toBe(RING_BLOCKS + 1);
  const bytes = new Uint8Array(simulation.disk("disk").peek(0, BLOCK_SIZE));
  const header = new BatchHeader();
  const view = new DataView(bytes.buffer);
  const words = new Int32Array(bytes.buffer);
  const arena = {
    bytes,
    view,
    words,
    sizeBytes: BLOCK_SIZE,
    allocate: () => 0,
    block: () => bytes,
  };
  expect(peekBatch(arena, 0, header)).toBe(true);
  expect(header).toMatchObject({ seq: RING_BLOCKS + 1, durableSeq: RING_BLOCKS, records: 0 });
});

test("R7: a stop does not wait for room to vouch", () => {
  const { simulation, log } = full();
  log.vouchNow();
  log.moveTail(RING_BLOCKS);
  simulation.run(simulation.nowUs + 5 * VOUCH_US);
  expect([log.completedSeq, log.quiet]).toEqual([RING_BLOCKS, true]);
});
