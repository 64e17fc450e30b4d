import { drainMicrotasks } from "bun:jsc";
import { describe, expect, test } from "bun:test";
import { Prng } from "../base/prng.ts";
import { Status } from "../base/status.ts";
import { BLOCK_SIZE, UNIT_SIZE } from "../base/units.ts";
import { EntryType } from "../log/log.ts";
import type { DiskWatcher, SimDiskFile } from "../reactor/reactor.ts";
import { SystemChecksum } from "../reactor/bun-system.ts";
import { type DiskOp, DiskVerb } from "../reactor/world.ts";
import { BlockState, type StoreTuning } from "./local-store.ts";
import { Machine } from "./machine-harness.ts";
import type { RigEntry, StoreRig } from "./store-harness.ts";
import { fsckStore } from "./store-tools.ts";

/** Space that is free for good goes back to what lies beneath the store, and nothing else does. */
const MIB = 1024 * 1024;
const RUNTIME = { drainMicrotasks, checksum: new SystemChecksum() };
const LAYER = 5;
const BLOCKS = 64;
const SECOND_US = 1_000_000;
/** Of the devices made here: one zone of 4 MiB for the log, two for checkpoints, then data. */
const DATA_OFFSET = 65_536 + 12 * MIB;
const EIO = 5;
const EOPNOTSUPP = 95;

/** A range of a device in 4 KiB blocks. */
interface Range {
  readonly first: number;
  readonly end: number;
}

function rangeOf(op: DiskOp): Range {
  const first = op.offsetBytes / BLOCK_SIZE;
  return { first, end: first + op.lengthBytes / BLOCK_SIZE };
}

/** Looks at every call: a discard and a write of the same place are never under way together. */
class Guard implements DiskWatcher {
  /** In order of submitting. */
  readonly discards: Range[] = [];
  readonly given = new Set<number>();
  /** Blocks that were written again behind their discard; writes beside a discard. */
  reused = 0;
  beside = 0;
  readonly clashes: string[] = [];
  /** How long discards take; 0: as long as anything else. */
  discardUs = 0;
  private readonly open = new Map<DiskOp, Range>();
  private readonly file: SimDiskFile;

  constructor(file: SimDiskFile) {
    this.file = file;
  }

  onSubmit(op: DiskOp): void {
    if (this.discardUs > 0) {
      const us = op.verb === DiskVerb.Discard ? this.discardUs : 500;
      Object.assign(this.file.faults, { latencyUsMin: us, latencyUsMax: us });
    }
    if (op.verb === DiskVerb.Flush || op.offsetBytes < DATA_OFFSET) return;
    const range = rangeOf(op);
    const isDiscard = op.verb === DiskVerb.Discard;
    for (const [other, at] of this.open) {
      if ((other.verb === DiskVerb.Discard) === isDiscard) continue;
      if (op.verb !== DiskVerb.Read) this.beside += 1;
      if (range.first >= at.end || at.first >= range.end) continue;
      this.clashes.push(`${DiskVerb[op.verb]} over ${DiskVerb[other.verb]} at ${range.first}`);
    }
    this.open.set(op, range);
    if (isDiscard) this.discards.push(range);
    for (let block = range.first; block < range.end; block++) {
      if (isDiscard) this.given.add(block);
      else if (op.verb !== DiskVerb.Read && this.given.delete(block)) this.reused += 1;
    }
  }

  onLand(op: DiskOp): boolean {
    this.open.delete(op);
    return false;
  }
}

/** One machine with one replica, and what its blocks hold. */
class Story {
  readonly machine: Machine;
  guard!: Guard;
  rig!: StoreRig;
  row = 0;
  index = 0;
  readonly lines: string[] = [];
  /** Entry by the first block that it wrote whole. */
  readonly live = new Map<number, number>();

  private constructor(machine: Machine) {
    this.machine = machine;
  }

  static async make(seed: number, tuning: Partial<StoreTuning> = {}): Promise<Story> {
    const story = new Story(await Machine.make(seed, RUNTIME, 256 * MIB, 4 * MIB));
    await story.open(tuning);
    story.row = await story.rig.create(65_537);
    story.rig.store.finishRecovery();
    return story;
  }

  get file() {
    return this.machine.simulation.disk("disk");
  }

  async open(tuning: Partial<StoreTuning>): Promise<void> {
    this.guard = new Guard(this.file);
    this.file.watcher = this.guard;
    const note = (text: string): number => this.lines.push(text);
    const logger = { debug: note, info: note, warn: note, error: note };
    this.rig = await this.machine.open({
      tuning: { staleKeptPercent: 0, ...tuning },
      logger: { ...this.machine.world.logger, ...logger },
    });
  }

  pass(us: number): void {
    const { simulation } = this.machine;
    simulation.run(simulation.nowUs + us);
  }

  /** Write 64 aligned blocks, or zero some, and apply it. */
  async put(firstBlock: number, type = EntryType.Write, blocks = BLOCKS): Promise<void> {
    const { rig, row } = this;
    const index = this.index + 1;
    const more = { term: 1, layer: LAYER, snapSeq: 0, stamp: index, data: null };
    const entry: RigEntry = { index, type, firstBlock, blocks, ...more };
    let status = rig.append(row, entry);
    while (status === Status.Busy) {
      this.pass(5000);
      status = rig.append(row, entry);
    }
    expect(status).toBe(Status.Ok);
    this.index = index;
    await rig.until(() => rig.store.durableIndex(row) === index, "durable");
    rig.store.setCommit(row, index);
    rig.apply(row, entry);
    if (type === EntryType.Write) this.live.set(firstBlock, index);
    else for (let at = 0; at < blocks; at += BLOCKS) this.live.delete(firstBlock + at);
  }

  /** Bytes that are nobody's any more and wait for R5 are free for good behind this. */
  async checkpoint(): Promise<void> {
    const before = this.rig.store.counters.checkpoints;
    this.rig.store.requestCheckpoint();
    await this.rig.until(() => this.rig.store.counters.checkpoints > before, "a checkpoint");
  }

  /** Every block that is in use reads as it was written. */
  async expectLive(): Promise<void> {
    for (const [firstBlock, stamp] of this.live) {
      const found = await this.rig.read(this.row, LAYER, firstBlock, BLOCKS);
      const wrong = found.filter(
        (block) => block.state !== BlockState.Data || block.stamp !== stamp,
      );
      expect(wrong).toEqual([]);
    }
  }

  get discarded(): number {
    return this.rig.store.counters.bytesDiscarded;
  }
}

describe("discards of freed units", () => {
  test("what was freed goes back in long ranges once R5 allows it, and not before", async () => {
    // No checkpoint before all of it is freed.
    const story = await Story.make(1, { quarantinePercent: 100 });
    for (let at = 0; at < 64; at++) await story.put(at * BLOCKS);
    for (let at = 0; at < 48; at++) await story.put(at * BLOCKS, EntryType.Zero);
    expect(story.rig.store.usage().bytesQuarantined).toBe(48 * 4 * UNIT_SIZE);
    expect(story.guard.discards).toEqual([]);
    await story.rig.until(() => story.discarded === 48 * 4 * UNIT_SIZE, "all of it");
    story.pass(5 * SECOND_US);
    expect(story.discarded).toBe(48 * 4 * UNIT_SIZE);
    // Neighbours of a zone go together, as far as one checkpoint has freed them.
    expect(story.rig.store.counters.deviceDiscards).toBeLessThan(10);
    expect(story.rig.store.usage()).toMatchObject({
      bytesUsed: 16 * 4 * UNIT_SIZE,
      bytesQuarantined: 0,
    });
    await story.expectLive();
    story.machine.crash();
    const report = await story.machine.tool((world, disk) => fsckStore(world, disk));
    expect(report).toMatchObject({ clean: true });
  }, 30_000);

  test("a unit is not handed out while it is discarded, however few there are", async () => {
    const story = await Story.make(2, { discardRestMs: 0, idleMs: 20, checkpointStartPercent: 10 });
    const { guard } = story;
    guard.discardUs = 60_000;
    const random = new Prng(9);
    // Nearly full: whoever takes a unit comes by those that are being discarded.
    const pieces = 820;
    for (let at = 0; at < pieces; at++) await story.put(at * BLOCKS);
    for (let step = 0; step < 1000; step++) {
      const at = random.below(pieces) * BLOCKS;
      await story.put(at, random.below(4) === 0 ? EntryType.Zero : EntryType.Write);
    }
    expect(guard.clashes).toEqual([]);
    expect(guard.discards.length).toBeGreaterThan(3);
    expect(guard.beside).toBeGreaterThan(20);
    expect(guard.reused).toBeGreaterThan(100);
    await story.expectLive();
  }, 60_000);

  test("while clients write it rests after each range", async () => {
    const story = await Story.make(3, { idleMs: 1e9, discardRestMs: 1000 });
    for (let at = 0; at < 64; at++) await story.put(at * BLOCKS);
    for (let at = 0; at < 64; at += 2) await story.put(at * BLOCKS, EntryType.Zero);
    await story.checkpoint();
    const before = story.guard.discards.length;
    story.pass(5.5 * SECOND_US);
    expect(story.guard.discards.length - before).toBeWithin(4, 7);
    // A file system that is nearly full does not let it rest.
    story.file.bytesBeneath = MIB;
    story.pass(SECOND_US);
    expect(story.rig.store.isFull).toBe(true);
    story.pass(2 * SECOND_US);
    expect(story.discarded).toBe(32 * 4 * UNIT_SIZE);
  }, 30_000);

  test("what a crash left is found by the next start, which leaves alone what was never used", async () => {
    const story = await Story.make(4, { idleMs: 1e9, discardRestMs: 1e6 });
    for (let at = 0; at < 64; at++) await story.put(at * BLOCKS);
    await story.checkpoint();
    for (let at = 0; at < 32; at++) await story.put(at * BLOCKS, EntryType.Zero);
    await story.checkpoint();
    expect(story.discarded).toBe(0);
    story.machine.crash();
    await story.open({});
    story.rig.replay(story.rig.store.recovered[0]!, story.index);
    story.rig.store.finishRecovery();
    await story.rig.until(() => story.discarded >= 32 * 4 * UNIT_SIZE, "what was freed before");
    story.pass(5 * SECOND_US);
    // A page of the index names 16 units; the last one written to has free ones besides.
    expect(story.discarded).toBeLessThan((32 * 4 + 64) * UNIT_SIZE);
    expect(story.guard.clashes).toEqual([]);
    await story.expectLive();
  }, 30_000);

  test("what is freed long after the last entry was appended goes back too", async () => {
    const story = await Story.make(7, { idleMs: 50 });
    for (let at = 0; at < 32; at++) await story.put(at * BLOCKS);
    // The store has fallen idle by the time at which an entry is durable, and is applied.
    Object.assign(story.file.faults, { latencyUsMin: 100_000, latencyUsMax: 100_000 });
    story.pass(5 * SECOND_US);
    await story.put(0, EntryType.Zero, BLOCKS);
    await story.rig.until(() => story.discarded === 4 * UNIT_SIZE, "the discard");
    // It does so once, and not for ever.
    const before = story.rig.store.counters.checkpoints;
    story.pass(30 * SECOND_US);
    expect(story.rig.store.counters.checkpoints - before).toBeLessThan(3);
  });

  test("what is freed while a checkpoint is written calls for the next one", async () => {
    const story = await Story.make(8, { idleMs: 1e9 });
    for (let at = 0; at < 32; at++) await story.put(at * BLOCKS);
    const { counters } = story.rig.store;
    Object.assign(story.file.faults, { latencyUsMin: 20_000, latencyUsMax: 20_000 });
    story.rig.store.requestCheckpoint();
    await story.put(0, EntryType.Zero, 32 * BLOCKS);
    expect(story.rig.store.counters.checkpoints).toBe(counters.checkpoints);
    await story.rig.until(() => story.discarded === 32 * 4 * UNIT_SIZE, "all of it");
  });

  test("a device that knows no discards is asked once, and told of once", async () => {
    const story = await Story.make(5);
    story.file.faults.discardErrno = EOPNOTSUPP;
    for (let round = 0; round < 3; round++) {
      await story.put(0);
      await story.put(0, EntryType.Zero);
      story.pass(15 * SECOND_US);
    }
    expect(story.guard.discards.length).toBe(1);
    expect(story.lines.filter((line) => line.includes("discards"))).toHaveLength(1);
    expect(story.rig.store.counters).toMatchObject({ deviceDiscards: 0, bytesDiscarded: 0 });
    expect(story.rig.store.usage()).toMatchObject({ bytesUsed: 0, bytesQuarantined: 0 });
    expect(story.rig.owner.failed).toBe("");
  });

  test("a discard that failed is made again later, and the device has not failed", async () => {
    const story = await Story.make(6);
    story.file.faults.discardErrno = EIO;
    await story.put(0);
    await story.put(0, EntryType.Zero);
    story.pass(35 * SECOND_US);
    expect(story.guard.discards.length).toBeWithin(3, 5);
    expect(story.lines.filter((line) => line.includes("discard"))).toHaveLength(1);
    story.file.faults.discardErrno = 0;
    await story.rig.until(() => story.discarded === 4 * UNIT_SIZE, "the discard");
    expect(story.rig.owner.failed).toBe("");
    await story.put(0);
    await story.expectLive();
  });
});
