/** What a `verifying` run checks at each checkpoint: each invariant is broken once, and found. */
import { drainMicrotasks } from "bun:jsc";
import { beforeAll, describe, expect, test } from "bun:test";
import { EntryType } from "../log/log.ts";
import { SystemChecksum } from "../reactor/bun-system.ts";
import type { StoreMachines, StoreParts, StoreState } from "./local-store-parts.ts";
import { Machine } from "./machine-harness.ts";
import { SESSIONS_MAX, SessionTable } from "./session-window.ts";
import type { RigEntry, StoreRig } from "./store-harness.ts";
import { checkStore } from "./store-invariants.ts";

const MIB = 1_048_576;
const RUNTIME = { drainMicrotasks, checksum: new SystemChecksum() };
/** Nothing moves home, and nothing that was freed is given back, but by a checkpoint. */
const STILL = { moverStartPercent: 100, checkpointStartPercent: 100, idleMs: 1e9 };

/** What a store is made of. */
interface Insides {
  readonly parts: StoreParts;
  readonly machines: StoreMachines;
  readonly state: StoreState;
}

function write(index: number, firstBlock: number, blocks: number): RigEntry {
  const entry = { index, term: 1, type: EntryType.Write, layer: 5, firstBlock, blocks };
  return { ...entry, snapSeq: 0, stamp: index, data: null };
}

/** A store with units in every state: in use, with blocks in the log, in quarantine, taken. */
async function busyStore(): Promise<Insides> {
  const machine = await Machine.make(1, RUNTIME, 256 * MIB, 4 * MIB);
  const rig: StoreRig = await machine.open({ tuning: STILL });
  const row = await rig.create(65_537);
  rig.store.finishRecovery();
  const apply = async (entry: RigEntry): Promise<void> => {
    rig.append(row, entry);
    await rig.until(() => rig.store.durableIndex(row) === entry.index, "durable");
    rig.apply(row, entry);
  };
  await apply(write(1, 0, 32));
  await apply(write(2, 0, 16));
  rig.store.requestCheckpoint();
  await rig.until(() => rig.store.counters.checkpoints === 1, "checkpoint");
  await apply(write(3, 35, 4));
  await apply(write(4, 16, 16));
  rig.append(row, write(5, 64, 18));
  await rig.until(() => rig.store.durableIndex(row) === 5, "durable");
  return rig.store as unknown as Insides;
}

function check({ parts, machines, state }: Insides): void {
  checkStore(parts, machines, state);
}

/** One broken promise each: what breaks it, and undoes that; what the check says. */
interface Break {
  readonly what: string;
  readonly wanted: RegExp;
  readonly change: (insides: Insides, by: number) => void;
}

const BREAKS: readonly Break[] = [
  {
    what: "a free unit that is not counted",
    wanted: /free units, wrong count/,
    change: ({ parts }, by) => (parts.slots.freeUnits += by),
  },
  {
    what: "a unit in quarantine that is not counted",
    wanted: /in quarantine, wrong count/,
    change: ({ parts }, by) => (parts.slots.quarantined += by),
  },
  {
    what: "a unit that is discarded and not counted",
    wanted: /discarded, wrong count/,
    change: ({ parts }, by) => (parts.slots.discarding += by),
  },
  {
    what: "a stale unit that is not counted",
    wanted: /stale units, wrong count/,
    change: ({ parts }, by) => (parts.slots.staleUnits += by),
  },
  {
    what: "units set aside for nobody",
    wanted: /set aside for nobody/,
    change: ({ machines }, by) => (machines.log.reservedUnits += by),
  },
  {
    what: "the tail has passed what waits in quarantine",
    wanted:
      /the tail passed what it still holds|the batch of an entry is gone|the tail is no batch/,
    change: ({ parts }, by) => (parts.batches.tailSeq += 3 * by),
  },
  {
    what: "an overlay block that is not counted",
    wanted: /Overlay: the count is wrong/,
    change: ({ machines }, by) => (machines.objects.overlay.count += by),
  },
  {
    what: "blocks that are not applied, of a group",
    wanted: /not applied, wrong sum/,
    change: ({ machines }, by) => (machines.log.groups[0]!.unappliedBlocks += by),
  },
  {
    what: "an applied index that falls",
    wanted: /not applied/,
    change: ({ machines }, by) => (machines.log.groups[0]!.applied -= 2 * by),
  },
  {
    what: "a durable index behind the last one",
    wanted: /durable, and not there/,
    change: ({ machines }, by) => (machines.log.groups[0]!.durable += by),
  },
];

describe("the checks of a verifying run", () => {
  let insides: Insides;
  beforeAll(async () => {
    insides = await busyStore();
  });

  test("find nothing where nothing is broken", () => {
    const { slots, quarantine } = insides.parts;
    expect(quarantine.size).toBeGreaterThan(0);
    expect(insides.machines.objects.overlay.count).toBe(4);
    expect(slots.unitsOfRow(0)).toBe(3);
    check(insides);
  });

  test.each(BREAKS.map((one) => [one.what, one] as const))("find %s", (_, one) => {
    one.change(insides, 1);
    try {
      expect(() => check(insides)).toThrow(one.wanted);
    } finally {
      one.change(insides, -1);
    }
    check(insides);
  });

  test("find an overlay block that lies behind the tail, or past the head", () => {
    const { log, objects } = insides.machines;
    const { overlay } = objects;
    const at = Array.from({ length: overlay.capacity }, (_, place) => place).find(
      (place) => overlay.keyAt(place) >= 0,
    )!;
    const slot = Math.floor(overlay.keyAt(at) / 16);
    const bit = overlay.keyAt(at) % 16;
    const kind = overlay.kind(at);
    const position = overlay.position(at);
    const version = overlay.version(at);
    const crc = overlay.crc(at);
    overlay.put(slot, bit, kind, log.headPosition - log.livingBlocks - 1, version, crc);
    expect(() => check(insides)).toThrow(/the tail passed/);
    overlay.put(slot, bit, kind, log.headPosition, version, crc);
    expect(() => check(insides)).toThrow(/past the head/);
    overlay.put(slot, bit, kind, position, version, crc);
    check(insides);
  });

  test("find a unit that is taken for nobody, and a slot that its key does not lead to", () => {
    const { slots } = insides.parts;
    const leaked = slots.takeUnit();
    expect(() => check(insides)).toThrow(/taken that no entry names/);
    slots.untake(leaked);
    const zone = slots.zones[0]!;
    // Each slot is looked for at one of so many checkpoints.
    const looks = Array.from({ length: 61 }, (_, turn) => turn);
    const { state } = insides;
    const before = state.checkpointSeq;
    const index = slots.indexOf(slots.newest(slots.layers.find(5), 1));
    zone.unit[index] = 77;
    const found = looks.filter((turn) => {
      state.checkpointSeq = turn;
      try {
        check(insides);
        return false;
      } catch (error) {
        return String(error).includes("not where its key leads");
      }
    });
    zone.unit[index] = 1;
    state.checkpointSeq = before;
    expect(found.length).toBeGreaterThan(0);
    check(insides);
  });
});

describe("the checks of session windows", () => {
  const NO_BITS = new Uint32Array(8);

  test("find two sessions that one entry used, and one that was used by none", () => {
    const table = new SessionTable();
    table.apply(7, 1, 1, 10);
    table.apply(8, 1, 1, 11);
    table.invariants(11);
    expect(() => table.invariants(10)).toThrow(/not applied/);
    table.restore(9, 4, NO_BITS, 11);
    expect(() => table.invariants(11)).toThrow(/one entry/);
  });

  test("find a table that outgrew its bound, and a base that is no number", () => {
    const table = new SessionTable();
    for (let session = 1; session <= SESSIONS_MAX + 5; session++)
      table.apply(session, 0, 0, session);
    table.invariants(SESSIONS_MAX + 5);
    table.restore(1, 0, NO_BITS, 1);
    expect(() => table.invariants(SESSIONS_MAX + 5)).toThrow(/more windows/);
    const other = new SessionTable();
    other.restore(1, 0.5, NO_BITS, 1);
    expect(() => other.invariants(5)).toThrow(/no number/);
  });
});
