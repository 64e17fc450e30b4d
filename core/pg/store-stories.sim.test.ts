import { drainMicrotasks } from "bun:jsc";
import { describe, expect, test } from "bun:test";
import type { FastblockError } from "../base/errors.ts";
import { BLOCK_SIZE } from "../base/units.ts";
import { Status } from "../base/status.ts";
import {
  BATCH_BLOCKS_MAX,
  BATCH_HEADER_SIZE,
  BatchHeader,
  EntryType,
  peekBatch,
  RecordType,
  RecordView,
} from "../log/log.ts";
import { SystemChecksum } from "../reactor/bun-system.ts";
import type { Arena, Disk } from "../reactor/world.ts";
import { SLOT_SIZE } from "../store/store.ts";
import { BlockState, GroupHealth, SNAP_SEQ_HEAD } from "./local-store.ts";
import { Machine } from "./machine-harness.ts";
import { type RigEntry, StoreRig } from "./store-harness.ts";
import { fsckStore, inspectStore } from "./store-tools.ts";

/**
 * The four stories that decide most of the store's format, told on the device itself, with golden
 * files of what lies there (`UPDATE_GOLDEN=1` writes them anew), and what damage each part survives.
 */
const RUNTIME = { drainMicrotasks, checksum: new SystemChecksum() };
const MIB = 1024 * 1024;
const PG = 65_537;
const LAYER = 5;
/** Nothing moves home or is vouched for by itself. */
const STILL = { moverStartPercent: 100, checkpointStartPercent: 100, idleMs: 1e9, vouchMs: 1e9 };

function write(
  index: number,
  firstBlock: number,
  blocks: number,
  more: Partial<RigEntry> = {},
): RigEntry {
  return {
    index,
    term: 1,
    type: EntryType.Write,
    layer: LAYER,
    firstBlock,
    blocks,
    snapSeq: 0,
    stamp: index,
    data: null,
    ...more,
  };
}

interface Places {
  readonly logOffset: number;
  readonly logBlocks: number;
  readonly dataOffset: number;
}

/** Of the devices made here: 256 MiB, one zone of 4 MiB for the log, two for checkpoints. */
const PLACES: Places = { logOffset: 65_536, logBlocks: 1024, dataOffset: 65_536 + 3 * 4 * MIB };

async function machineOf(seed: number): Promise<Machine> {
  return await Machine.make(seed, RUNTIME, 256 * MIB, 4 * MIB);
}

async function started(
  machine: Machine,
  tuning: Partial<typeof STILL> = {},
): Promise<{ rig: StoreRig; row: number }> {
  const rig = await machine.open({ tuning: { ...STILL, ...tuning } });
  const row = await rig.create(PG);
  rig.store.finishRecovery();
  return { rig, row };
}

async function reopened(machine: Machine, tuning: Partial<typeof STILL> = {}): Promise<StoreRig> {
  return await machine.open({ tuning: { ...STILL, ...tuning } });
}

/** Append, wait until durable, commit and apply. */
async function put(rig: StoreRig, row: number, entries: readonly RigEntry[]): Promise<void> {
  for (const entry of entries) expect(rig.append(row, entry)).toBe(Status.Ok);
  const last = entries.at(-1)!.index;
  await rig.until(() => rig.store.durableIndex(row) === last, "durable");
  for (const entry of entries) rig.apply(row, entry);
}

async function checkpoint(rig: StoreRig): Promise<void> {
  const before = rig.store.counters.checkpoints;
  rig.store.requestCheckpoint();
  await rig.until(() => rig.store.counters.checkpoints > before, "checkpoint");
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

/** One line a batch header that lies in the log, valid or not: what a reader of the device finds. */
function logText(machine: Machine): string {
  const bytes = machine.simulation
    .disk("disk")
    .peek(PLACES.logOffset, PLACES.logBlocks * BLOCK_SIZE);
  const arena = arenaOver(new Uint8Array(bytes));
  const lines: string[] = [];
  const header = new BatchHeader();
  for (let block = 0; block < PLACES.logBlocks; block++) {
    if (!peekBatch(arena, block * BLOCK_SIZE, header)) continue;
    expect(header.headerBlocks + header.payloadBlocks).toBeLessThanOrEqual(BATCH_BLOCKS_MAX);
    const { seq, incarnation, durableSeq, directSeq, headerBlocks, payloadBlocks, records } =
      header;
    lines.push(
      `block ${block}: incarnation ${incarnation} seq ${seq} durable ${durableSeq} direct ${directSeq} ` +
        `prev ${header.prevCrc.toString(16)} crc ${header.crc.toString(16)} ` +
        `blocks ${headerBlocks}+${payloadBlocks} records ${records}`,
    );
  }
  return lines.join("\n");
}

/** The records of identities that lie in the log, in its order: in words, and every byte of them. */
function identityText(machine: Machine): string {
  const { logOffset, logBlocks } = PLACES;
  const bytes = new Uint8Array(
    machine.simulation.disk("disk").peek(logOffset, logBlocks * BLOCK_SIZE),
  );
  const arena = arenaOver(bytes);
  const header = new BatchHeader();
  const record = new RecordView(arena.view);
  const lines: string[] = [];
  const told = [RecordType.HardState, RecordType.ReplicaCreated, RecordType.ReplicaGone];
  for (let block = 0; block < logBlocks; block++) {
    if (!peekBatch(arena, block * BLOCK_SIZE, header)) continue;
    const end = (block + header.headerBlocks) * BLOCK_SIZE;
    let at = block * BLOCK_SIZE + BATCH_HEADER_SIZE;
    for (let count = 0; count < header.records; count++, at += record.size) {
      expect(record.load(arena.view, at, end - at)).toBe(true);
      if (!told.includes(record.type)) continue;
      const { pg, replicaId, term, index, commit } = record;
      lines.push(
        `seq ${header.seq}: ${RecordType[record.type]} pg ${pg} replica ${replicaId} ` +
          `term ${term} index ${index} commit ${commit}`,
        ...(bytes
          .subarray(at, at + record.size)
          .toHex()
          .match(/.{1,64}/g) ?? []),
      );
    }
  }
  return lines.join("\n");
}

async function golden(name: string, text: string): Promise<void> {
  const path = `${import.meta.dir}/testdata/${name}.golden`;
  if (process.env["UPDATE_GOLDEN"] === "1") await Bun.write(path, text);
  expect(text).toBe(await Bun.file(path).text());
}

/** Block of the log at which batch `seq` of an incarnation begins. */
function blockOf(machine: Machine, incarnation: number, seq: number): number {
  const line = logText(machine)
    .split("\n")
    .find((one) => one.includes(`incarnation ${incarnation} seq ${seq} `));
  expect(line).toBeDefined();
  return Number(/^block (\d+):/.exec(line!)![1]);
}

function zeroLog(machine: Machine, block: number, blocks: number): void {
  const offset = PLACES.logOffset + block * BLOCK_SIZE;
  machine.simulation.disk("disk").poke(offset, new Uint8Array(blocks * BLOCK_SIZE));
}

/** The promise must be rejected with a code. */
async function refused(promise: Promise<unknown>, code: string): Promise<void> {
  const error: unknown = await promise.then(
    () => null,
    (caught: unknown) => caught,
  );
  expect(error).toMatchObject({ code });
}

/** What a refusal says is to be done. */
function hintOf(promise: Promise<unknown>): Promise<string> {
  return promise.then(
    () => "it was not refused",
    (caught: unknown) => String((caught as FastblockError).hint),
  );
}

describe("story 1: the batch that came back", () => {
  test("G1: an old batch behind a rewritten torn one is not valid again", async () => {
    const machine = await machineOf(11);
    const first = await started(machine);
    await put(first.rig, first.row, [write(1, 0, 1)]);
    // Batches k and k + 1 in flight together: the second is composed before the first is durable.
    const disk = machine.simulation.disk("disk");
    disk.faults.latencyUsMin = 5000;
    disk.faults.latencyUsMax = 5000;
    first.rig.append(first.row, write(2, 1, 1));
    machine.simulation.run(machine.simulation.nowUs + 1000);
    first.rig.append(first.row, write(3, 2, 1));
    await first.rig.until(() => first.rig.store.durableIndex(first.row) === 3, "durable");
    disk.faults.latencyUsMin = 30;
    disk.faults.latencyUsMax = 200;
    const lines: string[] = ["both written", logText(machine)];
    // The power cut took k (seq 3) and left k + 1 (seq 4).
    const torn = blockOf(machine, 1, 3);
    zeroLog(machine, torn, 2);
    machine.crash();
    let rig = await reopened(machine);
    const group = rig.store.recovered[0]!;
    expect(group).toMatchObject({ lastIndex: 1, health: GroupHealth.Ok });
    rig.replay(group, 1);
    rig.store.finishRecovery();
    // k′ of the same length over k, committed here; the old k + 1 lies behind it, whole.
    const again = write(2, 8, 1, { term: 2, stamp: 20 });
    rig.append(group.row, again);
    await rig.until(() => rig.store.durableIndex(group.row) === 2, "durable");
    lines.push("k written again", logText(machine));
    expect(blockOf(machine, 2, 3)).toBe(torn);
    machine.crash();
    rig = await reopened(machine);
    expect(rig.store.recovered[0]).toMatchObject({ lastIndex: 2, health: GroupHealth.Ok });
    expect(rig.store.termAt(0, 2)).toBe(2);
    await golden("story-1", `${lines.join("\n")}\n`);
  });

  test("G6: a batch that others vouch for is damage, not the end of the log", async () => {
    const machine = await machineOf(12);
    const { rig, row } = await started(machine);
    for (let index = 1; index <= 6; index++) await put(rig, row, [write(index, index, 1)]);
    zeroLog(machine, blockOf(machine, 1, 4), 1);
    machine.crash();
    let again = await reopened(machine);
    expect(again.store.recovered[0]).toMatchObject({
      lastIndex: 2,
      health: GroupHealth.Distrusted,
    });
    again.store.finishRecovery();
    await again.create(PG + 1);
    // The damage is overwritten; the distrust stays, and is nothing to what was made behind it.
    machine.crash();
    again = await reopened(machine);
    expect(again.store.recovered.map(({ pg, health }) => [pg, health])).toEqual([
      [PG, GroupHealth.Distrusted],
      [PG + 1, GroupHealth.Ok],
    ]);
  });

  test("a damaged payload that was vouched for is faulty, and its entry is never cut", async () => {
    const machine = await machineOf(13);
    const { rig, row } = await started(machine);
    for (let index = 1; index <= 4; index++) {
      rig.append(row, write(index, index, 1));
      await rig.until(() => rig.store.durableIndex(row) === index, "durable");
    }
    const damaged = blockOf(machine, 1, 4) + 1;
    machine.simulation.disk("disk").rot(PLACES.logOffset + damaged * BLOCK_SIZE, 512);
    machine.crash();
    const again = await reopened(machine);
    expect(again.store.recovered[0]).toMatchObject({
      lastIndex: 4,
      health: GroupHealth.Ok,
      faulty: [3],
    });
  });

  test("a torn payload that nobody vouched for ends the log", async () => {
    const machine = await machineOf(14);
    const { rig, row } = await started(machine);
    for (let index = 1; index <= 4; index++) {
      rig.append(row, write(index, index, 1));
      await rig.until(() => rig.store.durableIndex(row) === index, "durable");
    }
    const damaged = blockOf(machine, 1, 5) + 1;
    machine.simulation.disk("disk").rot(PLACES.logOffset + damaged * BLOCK_SIZE, 512);
    machine.crash();
    const again = await reopened(machine);
    expect(again.store.recovered[0]).toMatchObject({ lastIndex: 3, faulty: [] });
  });

  test("G1: the last batch of an earlier start is vouched for though nobody writes", async () => {
    const machine = await machineOf(15);
    const { rig, row } = await started(machine);
    for (let index = 1; index <= 2; index++) {
      rig.append(row, write(index, index, 1));
      await rig.until(() => rig.store.durableIndex(row) === index, "durable");
    }
    machine.crash();
    await reopened(machine, { vouchMs: 10 });
    machine.simulation.run(machine.simulation.nowUs + 20_000);
    const damaged = blockOf(machine, 1, 3) + 1;
    machine.simulation.disk("disk").rot(PLACES.logOffset + damaged * BLOCK_SIZE, 512);
    machine.crash();
    const again = await reopened(machine, { vouchMs: 10 });
    expect(again.store.recovered[0]).toMatchObject({ lastIndex: 2, faulty: [2] });
    // What was written only to vouch needs nobody: a start behind it writes nothing by itself.
    expect(logText(machine)).toContain("incarnation 2 seq 4 durable 3");
    machine.simulation.run(machine.simulation.nowUs + 20_000);
    expect(logText(machine)).not.toContain("incarnation 3");
  });

  test("G1: whole units that took longer than their batch are vouched for as well", async () => {
    const machine = await machineOf(16);
    const { rig, row } = await started(machine, { vouchMs: 10 });
    const { faults } = machine.simulation.disk("disk");
    const usual = { ...faults };
    Object.assign(faults, { latencyUsMin: 30_000, latencyUsMax: 30_000 });
    rig.append(row, write(1, 0, 16));
    Object.assign(faults, usual);
    await rig.until(() => rig.store.durableIndex(row) === 1, "durable");
    machine.simulation.run(machine.simulation.nowUs + 30_000);
    machine.simulation.disk("disk").rot(PLACES.dataOffset + 65_536, 512);
    machine.crash();
    const again = await reopened(machine);
    // The damage is found when the unit is read, and healed.
    expect(again.store.recovered[0]).toMatchObject({ lastIndex: 1, health: GroupHealth.Ok });
  });
});

describe("story 2: the torn index page", () => {
  const page = PLACES.dataOffset;

  test("a lost page write is seen though the older page is valid in itself", async () => {
    const machine = await machineOf(21);
    const { rig, row } = await started(machine);
    await put(rig, row, [write(1, 0, 16)]);
    await checkpoint(rig);
    const disk = machine.simulation.disk("disk");
    const older = disk.peek(page, BLOCK_SIZE);
    // A new unit for the same blocks; the page write that says so is lost.
    await put(rig, row, [write(2, 0, 16)]);
    await checkpoint(rig);
    const newer = disk.peek(page, BLOCK_SIZE);
    disk.poke(page, older);
    machine.crash();
    const again = await reopened(machine);
    expect(again.store.recovered[0]!.health).toBe(GroupHealth.Distrusted);
    expect(again.owner.failed).toBe("");
    const dump = (bytes: Uint8Array): string => {
      const slots: string[] = [];
      for (let slot = 0; slot < 3; slot++) {
        slots.push(bytes.subarray(slot * SLOT_SIZE, slot * SLOT_SIZE + 64).toHex());
      }
      return slots.join("\n");
    };
    await golden("story-2", `older\n${dump(older)}\nnewer\n${dump(newer)}\n`);
  });

  test("a page torn behind the checkpoint is repaired by redo", async () => {
    const machine = await machineOf(22);
    const { rig, row } = await started(machine, { moverStartPercent: 0 });
    await put(rig, row, [write(1, 0, 16), write(2, 32, 3)]);
    await checkpoint(rig);
    const disk = machine.simulation.disk("disk");
    const older = disk.peek(page, BLOCK_SIZE);
    const checkpoints = disk.peek(65_536 + 4 * MIB, 8 * MIB);
    await put(rig, row, [write(3, 0, 16), write(4, 33, 1)]);
    await checkpoint(rig);
    const newer = disk.peek(page, BLOCK_SIZE);
    // The page was written in part, and the checkpoint behind it not at all.
    const torn = newer.slice();
    torn.set(older.subarray(512, 1024), 512);
    torn.set(older.subarray(2048), 2048);
    disk.poke(page, torn);
    disk.poke(65_536 + 4 * MIB, checkpoints);
    machine.crash();
    const again = await reopened(machine);
    const group = again.store.recovered[0]!;
    expect(group).toMatchObject({ health: GroupHealth.Ok, commit: 4 });
    again.replay(group, 4);
    again.store.finishRecovery();
    const blocks = await again.read(group.row, LAYER, 0, 36);
    expect(blocks.map((block) => block.stamp)).toEqual([
      ...Array<number>(16).fill(3),
      ...Array<number>(16).fill(0),
      ...[2, 4, 2, 0],
    ]);
  });

  test("a slot with a bad checksum costs the groups their trust, also after the next start", async () => {
    const machine = await machineOf(23);
    const { rig, row } = await started(machine);
    await put(rig, row, [write(1, 0, 16), write(2, 16, 16)]);
    await checkpoint(rig);
    machine.simulation.disk("disk").rot(page + SLOT_SIZE * 2, 512);
    machine.crash();
    let again = await reopened(machine);
    expect(again.store.recovered[0]!.health).toBe(GroupHealth.Distrusted);
    again.replay(again.store.recovered[0]!, 2);
    again.store.finishRecovery();
    // Nothing is known of the 16 slots of the page; their units are free.
    expect(await again.list(0)).toEqual([]);
    expect(again.store.usage().bytesUsed).toBe(0);
    await checkpoint(again);
    machine.crash();
    again = await reopened(machine);
    expect(again.store.recovered[0]!.health).toBe(GroupHealth.Distrusted);
  });
});

describe("story 3: the unit given away too early", () => {
  /** What the units of the first data zone hold: stamps at the beginning of each. */
  function unitStamps(machine: Machine, units: number): number[] {
    const disk = machine.simulation.disk("disk");
    const stamps: number[] = [];
    for (let unit = 0; unit < units; unit++) {
      const at = PLACES.dataOffset + 65_536 + unit * 65_536;
      stamps.push(new DataView(disk.peek(at, 8).buffer).getUint32(0, true));
    }
    return stamps;
  }

  test("a freed unit is not reused before a checkpoint covers the freeing", async () => {
    const machine = await machineOf(31);
    const { rig, row } = await started(machine);
    await put(rig, row, [write(1, 0, 16)]);
    const lines = [`written: ${unitStamps(machine, 6).join(" ")}`];
    await put(rig, row, [write(2, 0, 16)]);
    expect(rig.store.usage().bytesQuarantined).toBe(65_536);
    for (let index = 3; index <= 5; index++) await put(rig, row, [write(index, index * 16, 16)]);
    lines.push(`freed: ${unitStamps(machine, 6).join(" ")}`);
    // Redo of entry 1 finds its unit as it was.
    machine.crash();
    const again = await reopened(machine);
    const group = again.store.recovered[0]!;
    again.replay(group, group.commit);
    again.replay(group, 5);
    again.store.finishRecovery();
    expect((await again.read(group.row, LAYER, 0, 1))[0]).toEqual({
      state: BlockState.Data,
      version: 2,
      stamp: 2,
    });
    await checkpoint(again);
    expect(again.store.usage().bytesQuarantined).toBe(0);
    for (let index = 6; index <= 70; index++) {
      await put(again, group.row, [write(index, index * 16, 16)]);
    }
    const reused = unitStamps(machine, 6);
    expect(reused).not.toContain(1);
    lines.push(`reused: ${reused.slice(1).join(" ")}`);
    await golden("story-3", `${lines.join("\n")}\n`);
  });

  test("a truncated entry frees its direct units through quarantine", async () => {
    const machine = await machineOf(32);
    const { rig, row } = await started(machine);
    rig.append(row, write(1, 0, 32));
    await rig.until(() => rig.store.durableIndex(row) === 1, "durable");
    rig.append(row, write(1, 0, 1, { term: 2, stamp: 9 }));
    expect(rig.store.usage().bytesQuarantined).toBe(2 * 65_536);
    await rig.until(() => rig.store.durableIndex(row) === 1, "durable");
    rig.apply(row, write(1, 0, 1, { term: 2, stamp: 9 }));
    await checkpoint(rig);
    expect(rig.store.usage()).toMatchObject({ bytesQuarantined: 0, bytesUsed: 65_536 });
  });
});

describe("story 4: the empty disk that voted", () => {
  test("identities are bound in the log, and stay when it begins anew", async () => {
    const machine = await machineOf(47);
    const { rig, row } = await started(machine);
    const lines = ["created", identityText(machine)];
    rig.store.putHardState(row, 3, 2, 0);
    await rig.until(() => rig.owner.hardStates.get(row) === 1, "the vote");
    lines.push("voted", identityText(machine));
    rig.store.removeReplica(row);
    await rig.until(() => rig.owner.gone.has(row), "gone");
    lines.push("removed", identityText(machine));
    machine.crash();
    // The log forgets it with the next checkpoint: that holds the tombstone then.
    const again = await reopened(machine);
    again.store.finishRecovery();
    const next = await again.create(PG, 2);
    await put(again, next, [write(1, 0, 1)]);
    await checkpoint(again);
    machine.crash();
    const shown = await machine.tool((world, tool) => inspectStore(world, tool, "checkpoint"));
    lines.push("checkpoint", JSON.stringify(shown, null, 1), identityText(machine));
    await golden("story-4", `${lines.join("\n")}\n`);
    const last = await reopened(machine);
    expect(last.store.tombstones).toEqual([{ pg: PG, replicaId: 1 }]);
    expect(last.store.createReplica(PG, 1, new Uint8Array(0), 0, 0)).toBe(-1);
    // The disk is lost: on the empty one in its place nothing of a replica is left to vote.
    machine.crash();
    await machine.format(4 * MIB, true);
    const empty = await reopened(machine);
    expect([empty.store.recovered, empty.store.tombstones]).toEqual([[], []]);
    expect(empty.store.identity.storeUuid).not.toBe(last.store.identity.storeUuid);
  });

  test("a removed replica, a lower id and a second replica of a pg are refused for ever", async () => {
    const machine = await machineOf(41);
    const { rig, row } = await started(machine);
    expect(rig.store.createReplica(PG, 2, new Uint8Array(0), 0, 0)).toBe(-1);
    await put(rig, row, [write(1, 0, 20)]);
    rig.store.removeReplica(row);
    expect(rig.store.createReplica(PG, 2, new Uint8Array(0), 0, 0)).toBe(-1);
    await rig.until(() => rig.owner.gone.has(row), "gone");
    expect(rig.store.usage().bytesUsed).toBe(0);
    expect(rig.store.createReplica(PG, 1, new Uint8Array(0), 0, 0)).toBe(-1);
    machine.crash();
    let again = await reopened(machine);
    expect(again.store.recovered).toEqual([]);
    expect(again.store.tombstones).toEqual([{ pg: PG, replicaId: 1 }]);
    expect(again.store.createReplica(PG, 1, new Uint8Array(0), 0, 0)).toBe(-1);
    const next = await again.create(PG, 2);
    again.store.finishRecovery();
    // Nothing of the removed replica shows in the new one.
    expect(
      (await again.read(next, LAYER, 0, 20)).every((block) => block.state === BlockState.Zero),
    ).toBe(true);
    await put(again, next, [write(1, 4, 3, { stamp: 77 })]);
    await checkpoint(again);
    machine.crash();
    again = await reopened(machine);
    expect(again.store.recovered).toMatchObject([{ pg: PG, replicaId: 2, lastIndex: 1 }]);
    again.replay(again.store.recovered[0]!, 1);
    again.store.finishRecovery();
    expect((await again.read(0, LAYER, 0, 20)).map((block) => block.stamp).join(" ")).toBe(
      "0 0 0 0 77 77 77 0 0 0 0 0 0 0 0 0 0 0 0 0",
    );
  });

  test("a replica is nobody before its record is durable", async () => {
    const machine = await machineOf(42);
    const rig = await reopened(machine);
    rig.store.createReplica(PG, 1, new Uint8Array(0), 0, 0);
    expect(rig.owner.created.size).toBe(0);
    machine.crash();
    const again = await reopened(machine);
    expect(again.store.recovered).toEqual([]);
  });

  test.each([
    ["another cluster", { clusterId: new Uint8Array(16) }, "FB4002"],
    ["another osd", { osd: 2 }, "FB4002"],
    ["another shard count", { shardCount: 2 }, "FB4006"],
  ])("%s is refused", async (_name, more, code) => {
    const machine = await machineOf(43);
    await refused(machine.open(more), code);
  });

  test("N22: a device without a store, and one of a newer format, are refused", async () => {
    const machine = await machineOf(44);
    const disk = machine.simulation.disk("disk");
    for (const offset of [0, 256 * MIB - BLOCK_SIZE]) {
      const bytes = disk.peek(offset, BLOCK_SIZE);
      const view = new DataView(bytes.buffer);
      view.setUint32(8, 99, true);
      view.setUint32(12, 0, true);
      view.setUint32(12, RUNTIME.checksum.crc32(bytes, 0), true);
      disk.poke(offset, bytes);
    }
    await refused(machine.open(), "FB4003");
    machine.crash();
    // Nothing of it is judged by this program's own format, but what every format shares.
    await refused(
      machine.tool((world, tool) => fsckStore(world, tool)),
      "FB4003",
    );
    await refused(
      machine.tool((world, tool) => inspectStore(world, tool)),
      "FB4003",
    );
    const shown = await machine.tool((world, tool) => inspectStore(world, tool, "superblock"));
    expect(shown["superblock"]).toMatchObject({ format: 99, osd: 1 });
    disk.poke(0, new Uint8Array(BLOCK_SIZE));
    disk.rot(256 * MIB - 512, 512);
    machine.crash();
    expect(await hintOf(machine.open())).toContain("replace the disk");
    disk.poke(256 * MIB - BLOCK_SIZE, new Uint8Array(BLOCK_SIZE));
    machine.crash();
    expect(await hintOf(machine.open())).toContain("format it first");
    machine.crash();
    await refused(machine.open(), "FB4001");
  });

  test("a vote that is cast while a checkpoint looks at other groups is not forgotten", async () => {
    const machine = await machineOf(46);
    const { rig, row } = await started(machine);
    for (let pg = PG + 1; pg < PG + 40; pg++) await rig.create(pg);
    await put(rig, row, [write(1, 0, 1)]);
    rig.store.putHardState(row, 3, 1, 1);
    await rig.until(() => rig.owner.hardStates.get(row) === 1, "the first vote");
    const stateOf = rig.owner.encodeState.bind(rig.owner);
    rig.owner.encodeState = (asked) => {
      if (asked === 20) rig.store.putHardState(row, 4, 2, 1);
      return stateOf(asked);
    };
    await checkpoint(rig);
    await rig.until(() => rig.owner.hardStates.get(row) === 2, "the second vote");
    machine.crash();
    const again = await reopened(machine);
    expect(again.store.recovered[0]).toMatchObject({ pg: PG, term: 4, vote: 2 });
  });

  test("a second format gives another uuid, and finds nothing of the first", async () => {
    const machine = await machineOf(45);
    const { rig, row } = await started(machine);
    await put(rig, row, [write(1, 0, 64)]);
    await checkpoint(rig);
    const uuid = rig.store.identity.storeUuid;
    machine.crash();
    await refused(machine.format(4 * MIB), "FB4008");
    await machine.format(4 * MIB, true);
    const again = await reopened(machine);
    expect(again.store.identity.storeUuid).not.toBe(uuid);
    expect(again.store.recovered).toEqual([]);
    expect(again.store.usage().bytesUsed).toBe(0);
  });
});

describe("damage", () => {
  test("a rotten block is told, repaired in place and read again", async () => {
    const machine = await machineOf(51);
    const { rig, row } = await started(machine);
    await put(rig, row, [write(1, 0, 16), write(2, 16, 2)]);
    await checkpoint(rig);
    const disk = machine.simulation.disk("disk");
    disk.rot(PLACES.dataOffset + 65_536 + 3 * BLOCK_SIZE, 512);
    const blocks = await rig.read(row, LAYER, 0, 18);
    expect(blocks.map((block) => block.state === BlockState.Damaged)).toEqual(
      blocks.map((_, at) => at === 3),
    );
    expect(blocks[3]!.version).toBe(1);
    expect(rig.store.counters.checksumFailures).toBe(1);
    expect(await rig.repair(row, LAYER, 3, 1, 7)).toBe(Status.Invalid);
    expect(await rig.repair(row, LAYER, 3, 2, 1)).toBe(Status.Conflict);
    expect(await rig.repair(row, LAYER, 3, 1, 1)).toBe(Status.Ok);
    expect((await rig.read(row, LAYER, 3, 1))[0]).toMatchObject({
      state: BlockState.Data,
      stamp: 1,
    });
    expect(rig.store.counters.blocksHealed).toBe(1);
  });

  test("a block damaged in the log is reported by the mover, healed, and then moved", async () => {
    const machine = await machineOf(52);
    const { rig, row } = await started(machine);
    await put(rig, row, [write(1, 0, 3)]);
    const block = blockOf(machine, 1, 2) + 2;
    machine.simulation.disk("disk").rot(PLACES.logOffset + block * BLOCK_SIZE, 512);
    rig.store.requestCheckpoint();
    await rig.until(() => rig.owner.damaged.length > 0, "damage is told");
    expect(rig.owner.damaged[0]).toEqual({ layer: LAYER, block: 1, version: 1 });
    expect((await rig.read(row, LAYER, 1, 1))[0]!.state).toBe(BlockState.Damaged);
    expect(await rig.repair(row, LAYER, 1, 1, 1)).toBe(Status.Ok);
    await checkpoint(rig);
    expect(rig.store.usage().overlayBlocks).toBe(0);
    expect((await rig.read(row, LAYER, 0, 3)).map((one) => one.stamp)).toEqual([1, 1, 1]);
  });

  test("damage that nobody heals holds no log, and stays damage", async () => {
    const machine = await machineOf(56);
    const { rig, row } = await started(machine);
    await put(rig, row, [write(1, 0, 3), write(2, 100, 3)]);
    const block = blockOf(machine, 1, 2) + 2;
    machine.simulation.disk("disk").rot(PLACES.logOffset + block * BLOCK_SIZE, 512);
    await checkpoint(rig);
    expect(rig.store.usage().overlayBlocks).toBe(0);
    expect(rig.store.firstIndex(row)).toBe(3);
    expect((await rig.read(row, LAYER, 0, 3)).map((one) => one.state)).toEqual([
      BlockState.Data,
      BlockState.Damaged,
      BlockState.Data,
    ]);
    machine.crash();
    const again = await reopened(machine);
    expect(again.store.recovered[0]).toMatchObject({ commit: 2, health: GroupHealth.Ok });
    again.replay(again.store.recovered[0]!, 2);
    again.store.finishRecovery();
    expect((await again.read(row, LAYER, 1, 1))[0]).toMatchObject({
      state: BlockState.Damaged,
      version: 1,
    });
    expect((await again.read(row, LAYER, 100, 1))[0]).toMatchObject({ stamp: 2 });
    expect(await again.repair(row, LAYER, 1, 1, 1)).toBe(Status.Ok);
    expect((await again.read(row, LAYER, 0, 3)).map((one) => one.stamp)).toEqual([1, 1, 1]);
  });

  test("a damaged block below a new snapshot's unit is copied as damage", async () => {
    const machine = await machineOf(58);
    const { rig, row } = await started(machine);
    await put(rig, row, [write(1, 0, 16)]);
    await checkpoint(rig);
    machine.simulation.disk("disk").rot(PLACES.dataOffset + 65_536 + 3 * BLOCK_SIZE, 512);
    await put(rig, row, [write(2, 5, 1, { snapSeq: 1 })]);
    await checkpoint(rig);
    expect(rig.store.counters.unitsCopied).toBe(1);
    const blocks = await rig.read(row, LAYER, 0, 16);
    expect(blocks[3]).toMatchObject({ state: BlockState.Damaged, version: 1 });
    expect(await rig.repair(row, LAYER, 3, 1, 1)).toBe(Status.Ok);
    expect((await rig.read(row, LAYER, 0, 16)).map((block) => block.stamp)).toEqual(
      blocks.map((_, at) => (at === 5 ? 2 : 1)),
    );
    // The snapshot's own copy is another block on the device.
    expect((await rig.read(row, LAYER, 3, 1, 0))[0]!.state).toBe(BlockState.Damaged);
  });

  test("a sector that can not be read costs no block beside it, in the log and at home", async () => {
    const machine = await machineOf(59);
    const { rig, row } = await started(machine);
    const disk = machine.simulation.disk("disk");
    await put(rig, row, [write(1, 0, 16)]);
    await checkpoint(rig);
    // The unit is copied for the snapshot's successor, and blocks come from two batches beside each other.
    await put(rig, row, [write(2, 5, 1, { snapSeq: 1 })]);
    await put(rig, row, [write(3, 9, 1, { snapSeq: 1 })]);
    disk.spoil(PLACES.dataOffset + 65_536 + 3 * BLOCK_SIZE, BLOCK_SIZE);
    // The header of the later batch: nobody needs it, and it lies between the two blocks.
    const header = blockOf(machine, 1, 5);
    disk.spoil(PLACES.logOffset + header * BLOCK_SIZE, BLOCK_SIZE);
    await checkpoint(rig);
    expect(rig.store.counters.unitsCopied).toBe(1);
    expect(new Set(rig.owner.damaged.map(({ block }) => block))).toEqual(new Set([3]));
    for (const snapSeq of [1, 0]) {
      const blocks = await rig.read(row, LAYER, 0, 16, snapSeq);
      const bad = blocks.flatMap(({ state }, at) => (state === BlockState.Data ? [] : [at]));
      expect(bad).toEqual([3]);
    }
  });

  test("G8: a lost block stays lost until it is written again", async () => {
    const machine = await machineOf(53);
    const { rig, row } = await started(machine);
    await put(rig, row, [write(1, 0, 3)]);
    await checkpoint(rig);
    expect(rig.store.markLost(row, LAYER, 1, SNAP_SEQ_HEAD, 5)).toBe(false);
    expect(rig.store.markLost(row, LAYER, 1, SNAP_SEQ_HEAD, 1)).toBe(true);
    await checkpoint(rig);
    machine.crash();
    const again = await reopened(machine);
    again.replay(again.store.recovered[0]!, 1);
    again.store.finishRecovery();
    expect((await again.read(0, LAYER, 0, 3)).map((one) => one.state)).toEqual([
      BlockState.Data,
      BlockState.Lost,
      BlockState.Data,
    ]);
    await put(again, 0, [write(2, 1, 1)]);
    await checkpoint(again);
    expect((await again.read(0, LAYER, 1, 1))[0]).toMatchObject({
      state: BlockState.Data,
      version: 2,
    });
  });

  test("G1, G5: a failed write fails the device: nothing is acknowledged after it", async () => {
    const machine = await machineOf(54);
    const { rig, row } = await started(machine);
    await put(rig, row, [write(1, 0, 1)]);
    machine.simulation.disk("disk").faults.flushErrorShare = 1;
    rig.append(row, write(2, 1, 1));
    await rig.until(() => rig.owner.failed !== "", "failure");
    expect(rig.owner.failed).toContain("errno 5");
    machine.simulation.disk("disk").faults.flushErrorShare = 0;
    machine.simulation.run(machine.simulation.nowUs + 100_000);
    expect(rig.store.durableIndex(row)).toBe(1);
    expect(rig.append(row, write(3, 2, 1))).toBe(Status.DeviceFailed);
    await rig.await(rig.store.close(), "close");
  });

  test("a torn direct payload ends only its group's log, also after the next start", async () => {
    const machine = await machineOf(55);
    const { rig, row } = await started(machine);
    const other = await rig.create(PG + 1);
    rig.append(row, write(1, 0, 16));
    await rig.until(() => rig.store.durableIndex(row) === 1, "durable");
    // Both groups in one batch; no later batch vouches for the direct unit of entry 2.
    rig.append(row, write(2, 16, 16));
    rig.append(other, write(1, 6401, 1));
    await rig.until(() => rig.store.durableIndex(other) === 1, "durable");
    machine.crash();
    machine.simulation.disk("disk").poke(PLACES.dataOffset + 2 * 65_536, new Uint8Array(4096));
    for (let start = 0; start < 3; start++) {
      const again = await reopened(machine);
      const found = again.store.recovered.map((group) => [group.pg, group.lastIndex]);
      expect(found).toEqual([
        [PG, 1],
        [PG + 1, 1],
      ]);
      again.store.finishRecovery();
      // From here on later batches vouch for everything before them.
      again.store.putHardState(0, 1 + start, 1, 0);
      await again.until(() => again.owner.hardStates.get(0) === 1, "hard state");
      again.store.putHardState(0, 1 + start, 2, 0);
      await again.until(() => again.owner.hardStates.get(0) === 2, "hard state");
      machine.crash();
    }
  });
});

describe("shards", () => {
  test("share a device under one claim", async () => {
    const machine = await Machine.make(57, RUNTIME, 256 * MIB, 4 * MIB);
    await machine.format(4 * MIB, true, 2);
    const disk = machine.world.disks.open("disk", {});
    const open = (shard: number, claim?: { incarnation: number; generation: number }) =>
      StoreRig.open(machine.world, disk, machine.world.logger, machine.runner, {
        shard,
        shardCount: 2,
        tuning: STILL,
        ...(claim === undefined ? {} : { claim }),
      });
    const first = await open(0);
    await refused(open(1, { incarnation: 9, generation: 1 }), "FB4006");
    const second = await open(1, first.store.claim);
    expect(second.store.identity.incarnation).toBe(first.store.identity.incarnation);
    for (const [at, rig] of [first, second].entries()) {
      const row = await rig.create(PG + at);
      rig.store.finishRecovery();
      await put(rig, row, [write(1, 0, 20, { stamp: 100 + at })]);
      await checkpoint(rig);
    }
    expect((await first.read(0, LAYER, 0, 20)).every((block) => block.stamp === 100)).toBe(true);
    expect((await second.read(0, LAYER, 0, 20)).every((block) => block.stamp === 101)).toBe(true);
    machine.crash();
    const report = await machine.tool((world, tool) => fsckStore(world, tool));
    expect(report).toMatchObject({ clean: true, blocksChecked: 40 });
  });
});

describe("space", () => {
  test("G13: a full device answers NoSpace before the proposal, and serves again after a discard", async () => {
    const machine = await machineOf(61);
    const { rig, row } = await started(machine, {
      checkpointStartPercent: 40,
      moverStartPercent: 25,
    });
    let index = 0;
    let status: Status = Status.Ok;
    for (let unit = 0; ; unit++) {
      index += 1;
      const entry = write(index, unit * 16, 16);
      status = rig.append(row, entry);
      if (status === Status.Busy) {
        index -= 1;
        unit -= 1;
        machine.simulation.run(machine.simulation.nowUs + 5000);
        continue;
      }
      if (status !== Status.Ok) break;
      await rig.until(() => rig.store.durableIndex(row) === index, "durable");
      rig.apply(row, entry);
    }
    const full = rig.store.usage();
    expect(full.bytesUsed / full.bytesTotal).toBeGreaterThan(0.98);
    expect((await rig.read(row, LAYER, 0, 1))[0]!.stamp).toBe(1);
    // Overwriting in place still needs no space; a discard gives some back.
    const zero = write(index, 0, 64 * 16, { type: EntryType.Zero });
    await put(rig, row, [write(index, 8, 1), { ...zero, index: index + 1 }]);
    const refill = write(index + 2, 0, 16);
    while (rig.append(row, refill) === Status.Busy)
      machine.simulation.run(machine.simulation.nowUs + 5000);
    await rig.until(() => rig.store.durableIndex(row) === index + 2, "durable");
    rig.apply(row, refill);
    expect((await rig.read(row, LAYER, 0, 17)).map((block) => block.state).at(-1)).toBe(
      BlockState.Zero,
    );
  }, 30_000);

  test("the row of a removed replica serves one whose commit index is far lower", async () => {
    const machine = await machineOf(66);
    const { rig, row } = await started(machine);
    await put(rig, row, [write(1, 0, 16), write(2, 16, 1), write(3, 0, 16)]);
    rig.store.removeReplica(row);
    await rig.until(() => rig.owner.gone.has(row), "gone");
    rig.owner.created.delete(row);
    expect(await rig.create(PG + 1)).toBe(row);
    // The pages name units that were freed at indexes which the new replica has not reached.
    await checkpoint(rig);
    expect(rig.store.usage().bytesUsed).toBe(0);
  });

  test("entries of a group without quorum do not hold the log for the others", async () => {
    const machine = await machineOf(62);
    const { rig, row } = await started(machine, {
      checkpointStartPercent: 40,
      moverStartPercent: 25,
    });
    const stuck = await rig.create(PG + 1);
    for (let index = 1; index <= 4; index++) rig.append(stuck, write(index, 6400 + index, 3));
    await rig.until(() => rig.store.durableIndex(stuck) === 4, "durable");
    for (let index = 1; index <= 300; index++) {
      const entry = write(index, (index * 7) % 60, 17);
      while (rig.append(row, entry) === Status.Busy)
        machine.simulation.run(machine.simulation.nowUs + 2000);
      await rig.until(() => rig.store.durableIndex(row) === index, "durable");
      rig.apply(row, entry);
    }
    expect(rig.store.counters.bytesLog).toBeGreaterThan(3 * 4 * MIB);
    expect(rig.store.counters.entriesAppendedAgain).toBeGreaterThan(3);
    machine.crash();
    const again = await reopened(machine);
    const group = again.store.recovered.find((one) => one.pg === PG + 1)!;
    expect(group).toMatchObject({ lastIndex: 4, commit: 0 });
    again.replay(again.store.recovered.find((one) => one.pg === PG)!, 300);
    again.replay(group, 4);
    again.store.finishRecovery();
    expect((await again.read(group.row, LAYER, 6401, 6)).map((block) => block.stamp)).toEqual([
      1, 2, 3, 4, 4, 4,
    ]);
  }, 30_000);

  test("entries kept for a slow follower stay until they hold too much", async () => {
    const machine = await machineOf(63);
    const { rig, row } = await started(machine, {
      checkpointStartPercent: 20,
      moverStartPercent: 5,
    });
    rig.owner.needed.set(row, 1);
    let held = 0;
    for (let index = 1; index <= 300; index++) {
      const entry = write(index, (index * 7) % 60, 10);
      while (rig.append(row, entry) === Status.Busy)
        machine.simulation.run(machine.simulation.nowUs + 2000);
      await rig.until(() => rig.store.durableIndex(row) === index, "durable");
      rig.apply(row, entry);
      held = Math.max(held, index + 1 - rig.store.firstIndex(row));
      if (index === 20) {
        await checkpoint(rig);
        expect(rig.store.firstIndex(row)).toBe(1);
        const loaded = await rig.load(row, 2);
        expect(loaded.status).toBe(Status.Ok);
        expect(loaded.entry.blocks).toBe(10);
        rig.store.entries.release(loaded.entry);
      }
    }
    // Half of the log's 1024 blocks at 11 blocks an entry.
    expect(held).toBeGreaterThan(35);
    expect(rig.store.firstIndex(row)).toBeGreaterThan(200);
  }, 30_000);
});

test("blocks go home many at a time, and no batch is written to say that they are committed", async () => {
  const machine = await Machine.make(61, RUNTIME, 256 * MIB, 16 * MIB);
  const { rig, row } = await started(machine, { moverStartPercent: 0 });
  const before = rig.store.counters.batches;
  let overlayBlocks = 0;
  // A unit each, one after another: what was applied last would always be there to be moved.
  for (let index = 1; index <= 600; index++) {
    await put(rig, row, [write(index, index * 16, 1)]);
    overlayBlocks = Math.max(overlayBlocks, rig.store.usage().overlayBlocks);
  }
  const { batches, blocksMoved } = rig.store.counters;
  expect(batches - before).toBeLessThan(600 + 10);
  expect(blocksMoved).toBeGreaterThan(240);
  expect(overlayBlocks).toBeGreaterThan(250);
  await checkpoint(rig);
  expect(rig.store.usage().overlayBlocks).toBe(0);
});

test("blocks go home a few at a time while writes come alone, and many at a time else", async () => {
  const deepest = async (seed: number, together: number): Promise<number> => {
    const machine = await Machine.make(seed, RUNTIME, 256 * MIB, 16 * MIB);
    const { rig, row } = await started(machine, { moverStartPercent: 0 });
    const { parts } = rig.store as unknown as { parts: { device: { disk: Disk } } };
    let most = 0;
    for (let last = together; last <= 900; last += together) {
      const indexes = Array.from({ length: together }, (_, at) => last - at).reverse();
      const entries = indexes.map((index) => write(index, index * 16, 1));
      for (const entry of entries) expect(rig.append(row, entry)).toBe(Status.Ok);
      await rig.until(() => {
        most = Math.max(most, parts.device.disk.inFlight);
        return rig.store.durableIndex(row) === last;
      }, "durable");
      for (const entry of entries) rig.apply(row, entry);
    }
    expect(rig.store.counters.blocksMoved).toBeGreaterThan(500);
    return most;
  };
  // With the batch, and one that says that others are committed.
  expect(await deepest(64, 1)).toBeLessThanOrEqual(6);
  expect(await deepest(65, 3)).toBeGreaterThan(30);
});

describe("clones", () => {
  test("a child shows its parent's snapshot until it is written or zeroed", async () => {
    const machine = await machineOf(71);
    const { rig, row } = await started(machine, { moverStartPercent: 0 });
    await put(rig, row, [write(1, 0, 48)]);
    rig.store.setParent(6, LAYER, 0);
    // Behind the snapshot, the parent goes on.
    await put(rig, row, [write(2, 0, 4, { snapSeq: 1 })]);
    await put(rig, row, [
      write(3, 2, 2, { layer: 6 }),
      write(4, 16, 16, { layer: 6, type: EntryType.Zero }),
      write(5, 33, 1, { layer: 6, type: EntryType.Zero }),
    ]);
    const wanted = [
      1,
      1,
      3,
      3,
      ...Array<number>(12).fill(1),
      ...Array<number>(16).fill(0),
      1,
      0,
      ...Array<number>(14).fill(1),
    ];
    const stamps = async (from: StoreRig): Promise<number[]> =>
      (await from.read(row, 6, 0, 48)).map((block) => block.stamp);
    expect(await stamps(rig)).toEqual(wanted);
    await checkpoint(rig);
    expect(await stamps(rig)).toEqual(wanted);
    expect(rig.store.counters.unitsCopied).toBeGreaterThan(1);
    machine.crash();
    const again = await reopened(machine);
    again.replay(again.store.recovered[0]!, 5);
    again.store.finishRecovery();
    expect(await stamps(again)).toEqual(wanted);
    expect((await again.read(row, LAYER, 0, 5)).map((block) => block.stamp)).toEqual([
      2, 2, 2, 2, 1,
    ]);
    expect((await again.read(row, LAYER, 0, 5, 0)).map((block) => block.stamp)).toEqual([
      1, 1, 1, 1, 1,
    ]);
  });
});

describe("fsck and inspect", () => {
  async function filled(seed: number): Promise<Machine> {
    const machine = await machineOf(seed);
    const { rig, row } = await started(machine);
    await put(rig, row, [write(1, 0, 40), write(2, 5, 3)]);
    await checkpoint(rig);
    await put(rig, row, [write(3, 100, 3), write(4, 0, 1)]);
    machine.crash();
    return machine;
  }

  test("a store after a power cut is clean, and is told in words", async () => {
    const machine = await filled(81);
    const report = await machine.tool((world, disk) => fsckStore(world, disk));
    expect(report).toMatchObject({ clean: true, findings: [] });
    expect(report.blocksChecked).toBeGreaterThan(30);
    expect(report.batchesChecked).toBeGreaterThan(0);
    expect(report.slotsChecked).toBeGreaterThan(100);
    const told = await machine.tool((world, disk) => inspectStore(world, disk));
    expect(Object.keys(told)).toEqual([
      "superblock",
      "zones",
      "checkpoint",
      "log",
      "groups",
      "objects",
    ]);
    expect(told["groups"]).toMatchObject([{ pg: PG, replica: 1, last: 4, appliedAtCheckpoint: 2 }]);
    expect(told["objects"]).toMatchObject([
      { unitsUsed: 3, layers: [{ layer: LAYER, units: 3, blocks: 40 }] },
    ]);
  });

  test.each([
    ["data", PLACES.dataOffset + 65_536 + 2 * BLOCK_SIZE],
    ["index", PLACES.dataOffset],
  ])("damage in %s is found", async (region, offset) => {
    const machine = await filled(82);
    machine.simulation.disk("disk").rot(offset, 512);
    const report = await machine.tool((world, disk) => fsckStore(world, disk));
    expect(report.clean).toBe(false);
    expect(report.findings[0]!.region).toBe(region);
    expect(report.findings[0]!.offsetBytes).toBe(offset);
  });

  test("damage in the log is found", async () => {
    const machine = await filled(83);
    const batches = logText(machine).split("\n").length;
    expect(batches).toBeGreaterThan(3);
    const line = logText(machine).split("\n").at(-2)!;
    const block = Number(/^block (\d+):/.exec(line)![1]);
    machine.simulation.disk("disk").rot(PLACES.logOffset + block * BLOCK_SIZE, 512);
    const report = await machine.tool((world, disk) => fsckStore(world, disk));
    // The last batch vouches for the one before it only when it was composed after its completion.
    expect(report.clean).toBe(false);
    expect(report.findings[0]!.region).toBe("log");
  });

  test("a store that no osd starts on is told from one that heals", async () => {
    const machine = await filled(84);
    const disk = machine.simulation.disk("disk");
    disk.rot(PLACES.dataOffset, 512);
    const healing = await machine.tool((world, at) => fsckStore(world, at));
    expect([healing.clean, healing.startable]).toEqual([false, true]);
    disk.rot(0, 16 * BLOCK_SIZE);
    const lost = await machine.tool((world, at) => fsckStore(world, at));
    expect([lost.clean, lost.startable]).toEqual([false, false]);
    expect(lost.findings[0]!.text).toContain("Both zone tables are damaged");
    expect(await hintOf(machine.open())).toContain("replace the disk");
  });
});
