import { expect, test } from "bun:test";
import { drainMicrotasks } from "bun:jsc";
import type { FastblockError } from "../base/errors.ts";
import { BLOCK_SIZE } from "../base/units.ts";
import { SystemChecksum } from "../reactor/bun-system.ts";
import { DiskVerb } from "../reactor/world.ts";
import { Prng } from "../base/prng.ts";
import { decodeSuperblock, geometryOf, type Superblock, withStart } from "../store/store.ts";
import { badSector, Machine } from "./machine-harness.ts";
import { zoneTableOffsets } from "./store-device.ts";
import { fsckStore, inspectStore } from "./store-tools.ts";

const DEVICE_BYTES = 256 * 1_048_576;
const END = DEVICE_BYTES - BLOCK_SIZE;
const [TABLE_A, TABLE_B] = zoneTableOffsets(geometryOf(DEVICE_BYTES));
const checksum = new SystemChecksum();

function superblockAt(machine: Machine, offset: number): Superblock | undefined {
  return decodeSuperblock(machine.simulation.disk("disk").peek(offset, BLOCK_SIZE), checksum);
}

// Whichever is the newer one: one start more, and it is the other.
test.each([
  ["A", "overwritten", 0, 1],
  ["A", "overwritten", 0, 2],
  ["B", "overwritten", END, 1],
  ["B", "overwritten", END, 2],
  ["A", "unreadable", 0, 1],
  ["B", "unreadable", END, 2],
])(
  "copy %s of the superblock is %s, at %d, after %d starts: found, and written anew",
  async (copy, fate, offsetBytes, starts) => {
    const machine = await Machine.make(5, { drainMicrotasks, checksum }, DEVICE_BYTES);
    for (let start = 0; start < starts; start++) {
      await machine.open({});
      machine.crash();
    }
    const check = (): ReturnType<typeof fsckStore> => machine.tool(fsckStore);
    expect(await check()).toMatchObject({ clean: true, findings: [] });
    const disk = machine.simulation.disk("disk");
    if (fate === "unreadable") disk.spoil(offsetBytes, BLOCK_SIZE);
    else disk.poke(offsetBytes, new Uint8Array(BLOCK_SIZE).fill(0xa5));
    const { clean, startable, findings } = await check();
    expect({ clean, startable, findings }).toEqual({
      clean: false,
      startable: true,
      findings: [
        {
          region: "superblock",
          offsetBytes,
          text: `copy ${copy} is not valid; the other one serves, and the next start of the osd writes it anew`,
        },
      ],
    });
    const rig = await machine.open({});
    // The start itself writes the damaged one; that it serves is written to both.
    expect(superblockAt(machine, offsetBytes)?.incarnation).toBe(rig.store.identity.incarnation);
    machine.crash();
    expect(await check()).toMatchObject({ clean: true, findings: [] });
  },
);

test.each([
  ["superblock", [0, END]],
  ["zone table", [TABLE_A, TABLE_B]],
])(
  "no copy of the %s can be read: said so, and not that there is no store",
  async (what, places) => {
    const machine = await Machine.make(5, { drainMicrotasks, checksum }, DEVICE_BYTES);
    for (const offset of places) machine.simulation.disk("disk").spoil(offset, BLOCK_SIZE);
    const words = await machine.open({}).then(String, String);
    expect(words).toContain(`Reading the ${what} of disk failed each time`);
  },
);

test.each([
  ["A", "overwritten", TABLE_A],
  ["B", "overwritten", TABLE_B],
  ["A", "unreadable", TABLE_A],
  ["B", "unreadable", TABLE_B],
  ["A", "unreadable for good", TABLE_A],
])(
  "copy %s of the zone table is %s, at %d: found, and written anew",
  async (copy, fate, offsetBytes) => {
    const machine = await Machine.make(9, { drainMicrotasks, checksum }, DEVICE_BYTES);
    const check = (): ReturnType<typeof fsckStore> => machine.tool(fsckStore);
    expect(await check()).toMatchObject({ clean: true, findings: [] });
    const disk = machine.simulation.disk("disk");
    if (fate === "overwritten") disk.rot(offsetBytes, 512);
    else if (fate === "unreadable") disk.spoil(offsetBytes, BLOCK_SIZE);
    else disk.watcher = badSector(offsetBytes);
    const text = `copy ${copy} of the zone table is not valid; the other one serves, and the next start of the osd writes it anew`;
    const one = [{ region: "zone-table", offsetBytes, text }];
    expect(await check()).toMatchObject({ clean: false, startable: true, findings: one });
    await machine.open({});
    machine.crash();
    const left = fate === "unreadable for good" ? one : [];
    expect(await check()).toMatchObject({ clean: left.length === 0, findings: left });
    // It is the same table: the one that is left of the two serves alone.
    disk.watcher = null;
    disk.rot(offsetBytes === TABLE_A ? TABLE_B : TABLE_A, 512);
    await machine.open({});
  },
);

test("a start that can not write a damaged zone table anew ends: the device has failed", async () => {
  const machine = await Machine.make(9, { drainMicrotasks, checksum }, DEVICE_BYTES);
  const disk = machine.simulation.disk("disk");
  disk.rot(TABLE_A, 512);
  disk.watcher = {
    onSubmit: () => undefined,
    onLand: (op) => op.verb === DiskVerb.WriteDurable && op.offsetBytes === TABLE_A,
  };
  expect(await codeOf(machine.open({}))).toBe("FB4009");
});

test("of several shards the one that claims the device writes the zone table anew", async () => {
  const machine = await Machine.make(9, { drainMicrotasks, checksum }, DEVICE_BYTES);
  const { claim } = (await machine.open({})).store;
  machine.restart();
  machine.simulation.disk("disk").rot(TABLE_B, 512);
  await machine.open({ claim });
  machine.crash();
  expect((await machine.tool(fsckStore)).findings).toHaveLength(1);
});

test.each([
  ["damaged", "unreadable"],
  ["unreadable", "damaged"],
  ["unreadable", "unreadable"],
])("copy A of the zone table is %s, copy B %s: only a format helps", async (...fates) => {
  const machine = await Machine.make(10, { drainMicrotasks, checksum }, DEVICE_BYTES);
  const disk = machine.simulation.disk("disk");
  for (const [copy, offset] of [TABLE_A, TABLE_B].entries()) {
    if (fates[copy] === "damaged") disk.rot(offset, 512);
    else disk.spoil(offset, BLOCK_SIZE);
  }
  const text = "Reading the zone table of disk failed each time: one of two copies wanted";
  expect(await machine.tool(fsckStore)).toMatchObject({
    osd: 1,
    clean: false,
    startable: false,
    findings: [
      {
        region: "zone-table",
        offsetBytes: TABLE_A,
        text: `${text}; look for errors of the device in the kernel's log before you format it`,
      },
    ],
  });
  expect(await codeOf(machine.tool(inspectStore))).toBe("FB4009");
  // What the superblock says can be told still.
  const told = await machine.tool((world, tool) => inspectStore(world, tool, "superblock"));
  expect(told["superblock"]).toMatchObject({ osd: 1, copyA: true, copyB: true });
  expect(await codeOf(machine.open({}))).toBe("FB4009");
});

test("no copy of the superblock is valid, and one can not be read: the tools say so, and what to do", async () => {
  const machine = await Machine.make(11, { drainMicrotasks, checksum }, DEVICE_BYTES);
  const disk = machine.simulation.disk("disk");
  disk.rot(0, 512);
  disk.spoil(END, BLOCK_SIZE);
  for (const tool of [fsckStore, inspectStore]) {
    const error = await machine.tool<unknown>(tool).catch((caught: unknown) => caught);
    expect(error).toMatchObject({
      code: "FB4009",
      message: "Reading the superblock of disk failed each time: one of two copies wanted",
      hint: expect.stringContaining("replace the disk"),
    });
  }
});

test.each([
  ["superblock", 0],
  ["zone table", TABLE_A],
  ["zone table", TABLE_B],
])("one copy of the %s, at %d, can not be read: the other one serves", async (_, offset) => {
  const machine = await Machine.make(5, { drainMicrotasks, checksum }, DEVICE_BYTES);
  machine.simulation.disk("disk").spoil(offset, BLOCK_SIZE);
  await machine.open({});
});

function codeOf(promise: Promise<unknown>): Promise<unknown> {
  return promise.then(
    () => "it was not refused",
    (caught: unknown) => (caught as FastblockError).code,
  );
}

/** The copy that the last start claimed the device in. */
function newestAt(machine: Machine): number {
  const [a, b] = [superblockAt(machine, 0)!, superblockAt(machine, END)!];
  return a.generation > b.generation ? 0 : END;
}

// A crash before the start is recorded: one copy knows of it.
test.each([
  ["damaged", 1],
  ["damaged", 2],
  ["unreadable", 1],
  ["unreadable", 2],
  ["unreadable for good", 1],
  ["unreadable for good", 2],
])(
  "the newest copy of the superblock is %s, after %d starts: no incarnation comes twice",
  async (fate, starts) => {
    const machine = await Machine.make(6, { drainMicrotasks, checksum }, DEVICE_BYTES);
    const stopped = await machine.open({});
    stopped.store.finishRecovery();
    await stopped.await(stopped.store.close(), "close");
    const seen = [stopped.store.identity.incarnation];
    for (let start = 0; start < starts; start++) {
      machine.crash();
      seen.push((await machine.open({})).store.identity.incarnation);
    }
    machine.crash();
    const disk = machine.simulation.disk("disk");
    const newest = newestAt(machine);
    if (fate === "damaged") disk.rot(newest, 512);
    else if (fate === "unreadable") disk.spoil(newest, BLOCK_SIZE);
    else disk.watcher = badSector(newest);
    for (let start = 0; start < 3; start++) {
      const { store } = await machine.open({});
      expect(store.identity.wasClean).toBe(false);
      seen.push(store.identity.incarnation);
      machine.crash();
    }
    expect(seen).toEqual([...new Set(seen)].sort((one, other) => one - other));
  },
);

test("a start is recorded though one copy of the superblock can not be read for good", async () => {
  const machine = await Machine.make(7, { drainMicrotasks, checksum }, DEVICE_BYTES);
  machine.simulation.disk("disk").watcher = badSector(END);
  const rig = await machine.open({});
  const { starts, incarnation } = rig.store.identity;
  const recorded = withStart(starts, incarnation, new Prng(1));
  await rig.await(rig.store.recordStarts(recorded), "recorded");
  machine.crash();
  expect((await machine.open({})).store.identity.starts).toEqual(recorded);
});

test.each([1, 2])(
  "a format that start %d raised is in both copies of the superblock",
  async (starts) => {
    const machine = await Machine.make(8, { drainMicrotasks, checksum }, DEVICE_BYTES);
    for (let start = 1; start < starts; start++) {
      await machine.open({});
      machine.crash();
    }
    await machine.open({ formats: { min: 3, max: 3 } });
    machine.crash();
    machine.simulation.disk("disk").rot(newestAt(machine), 512);
    const words = await machine.open({ formats: { min: 2, max: 2 } }).then(String, String);
    expect(words).toContain("The store's format is newer: version 3, at most 2 wanted");
  },
);
