import { drainMicrotasks } from "bun:jsc";
import { describe, expect, test } from "bun:test";
import { BLOCK_SIZE } from "../base/units.ts";
import { EntryType } from "../log/log.ts";
import { SystemChecksum } from "../reactor/bun-system.ts";
import type { SimDiskFile } from "../reactor/reactor.ts";
import {
  CallRecorder,
  type Image,
  imageOf,
  momentsOf,
  remainsOf,
  Timeline,
} from "./failpoint-disk-harness.ts";
import { GroupHealth } from "./local-store.ts";
import { Machine } from "./machine-harness.ts";
import type { StoreRig } from "./store-harness.ts";
import { inspectStore } from "./store-tools.ts";

/**
 * What a start finds damaged hides behind what this start writes. The power fails at every device call
 * from there to the checkpoint behind the first map, again and again: no later start trusts what an
 * earlier one did not, and none begins a replica anew that may have been forgotten.
 */
const RUNTIME = { drainMicrotasks, checksum: new SystemChecksum() };
const MIB = 1024 * 1024;
const MEMORY_BYTES = 64 * MIB;
const LOG_OFFSET = 65_536;
const LOG_BYTES = 4 * MIB;
const META_OFFSET = LOG_OFFSET + LOG_BYTES;
const DATA_OFFSET = META_OFFSET + 8 * MIB;
/** More than local records of one batch. */
const GROUPS = 330;
const FIRST_PG = 65_537;
/** Its first record is in the batch that the damaged log has lost. */
const FORGOTTEN_PG = FIRST_PG + GROUPS;
const ALL_PGS = Array.from({ length: GROUPS + 1 }, (_, at) => FIRST_PG + at);
const LIVES = 3;
/** States that live on, of those of a life. */
const LIVE_ON = 2;
const IDLE = { idleMs: 5, vouchMs: 5 };

/** A store with all its groups, in the image of its device, and places of batches of its log. */
interface Prepared {
  readonly image: Map<number, Uint8Array>;
  /** The batch that holds the first record of `FORGOTTEN_PG`. */
  readonly forgottenAt: number;
}

async function checkpoint(rig: StoreRig): Promise<void> {
  const before = rig.store.counters.checkpoints;
  rig.store.requestCheckpoint();
  await rig.until(() => rig.store.counters.checkpoints > before, "checkpoint");
}

async function put(rig: StoreRig, row: number, index: number): Promise<void> {
  const entry = {
    ...{ index, term: 1, type: EntryType.Write, layer: 5, firstBlock: index, blocks: 1 },
    ...{ snapSeq: 0, stamp: index, data: null },
  };
  rig.append(row, entry);
  await rig.until(() => rig.store.durableIndex(row) === index, "durable");
  rig.apply(row, entry);
}

async function prepare(): Promise<Prepared> {
  const machine = await Machine.make(1, RUNTIME, 256 * MIB, LOG_BYTES);
  const rig = await machine.open({ tuning: { idleMs: 3_600_000, vouchMs: 3_600_000 } });
  rig.store.finishRecovery();
  const made = Array.from({ length: GROUPS }, (_, at) => rig.create(FIRST_PG + at));
  const row = (await Promise.all(made))[0]!;
  await put(rig, row, 1);
  await checkpoint(rig);
  await put(rig, row, 2);
  await rig.create(FORGOTTEN_PG);
  // Two batches vouch for it, the first of which is overwritten with it.
  await put(rig, row, 3);
  machine.crash();
  const { batches } = (await machine.tool((world, disk) =>
    inspectStore(world, disk, "batches"),
  )) as { readonly batches: readonly { readonly offsetBytes: number }[] };
  const forgottenAt = batches.at(-2)!.offsetBytes;
  return { image: new Map(machine.simulation.disk("disk").image()), forgottenAt };
}

/** What of a store may be damaged, so that its next start trusts nothing of it. */
const DAMAGES: Readonly<Record<string, (disk: SimDiskFile, forgottenAt: number) => void>> = {
  "a batch in the middle of the log": (disk, forgottenAt) => {
    disk.rot(forgottenAt, 512);
  },
  // What stood behind the older one is overwritten by then: all replicas are forgotten.
  "the newest checkpoint": (disk) => {
    disk.rot(META_OFFSET + BLOCK_SIZE, 512);
    disk.poke(LOG_OFFSET, new Uint8Array(LOG_BYTES));
  },
  "a page of the index": (disk) => {
    disk.rot(DATA_OFFSET, 512);
  },
};

class Story {
  states = 0;
  readonly failures: string[] = [];
  private readonly seen = new Set<number>();
  private readonly memory = new ArrayBuffer(MEMORY_BYTES);

  /** A state: what a start makes of it, and of what a power cut leaves of that start. */
  async live(name: string, image: Image, life: number, isMapFirst: boolean): Promise<void> {
    const machine = Machine.over(1, RUNTIME, image, this.memory);
    const timeline = new Timeline();
    const recorder = new CallRecorder(machine.simulation.disk("disk"), timeline);
    const rig = await machine.open({ tuning: IDLE });
    await live(rig, isMapFirst);
    await rig.await(rig.store.close(), "close");
    const left: { name: string; image: Image }[] = [];
    for (const moment of momentsOf(recorder, timeline.next())) {
      for (const remains of remainsOf(moment)) {
        const { image: after, hash } = imageOf(moment, remains);
        if (this.seen.has(hash)) continue;
        this.seen.add(hash);
        const title = `${name}/${String(moment.number)}/${remains.name}`;
        await this.check(title, after);
        left.push({ name: title, image: after });
      }
    }
    if (life === LIVES) return;
    // Spread over the life: many are alike.
    const step = Math.max(1, Math.floor(left.length / LIVE_ON));
    for (let at = 0; at < left.length; at += step) {
      await this.live(left[at]!.name, left[at]!.image, life + 1, at % 2 === 0);
    }
  }

  private async check(name: string, image: Image): Promise<void> {
    this.states += 1;
    const machine = Machine.over(1, RUNTIME, image, this.memory);
    const { store } = await machine.open({ tuning: IDLE });
    const trusted = store.recovered.filter(({ health }) => health !== GroupHealth.Distrusted);
    const isKnown = new Set([...store.recovered, ...store.tombstones].map(({ pg }) => pg));
    const anew = store.forgetful ? [] : ALL_PGS.filter((pg) => !isKnown.has(pg));
    if (trusted.length === 0 && anew.length === 0) return;
    const counts = `${String(trusted.length)} are trusted, ${String(anew.length)} may begin anew`;
    this.failures.push(`${name}: ${counts}`);
  }
}

/** A start that follows its first map at once, or when it has moved home what it has. */
async function live(rig: StoreRig, isMapFirst: boolean): Promise<void> {
  const { store } = rig;
  for (const group of store.recovered) rig.replay(group, group.commit);
  store.finishRecovery();
  if (isMapFirst) followMap(rig);
  await rig.until(() => store.counters.checkpoints > 0, "the checkpoint of an idle store");
  if (isMapFirst || !store.forgetful) return;
  followMap(rig);
  await rig.until(() => store.counters.checkpoints > 1, "a checkpoint with the tombstones");
}

function followMap({ store }: StoreRig): void {
  if (!store.forgetful) return;
  const known = new Set(store.recovered.map(({ pg }) => pg));
  for (const pg of ALL_PGS) if (!known.has(pg)) store.bury(pg, 1);
  store.endForgetful();
}

describe("distrust outlives power cuts", () => {
  for (const [what, damage] of Object.entries(DAMAGES)) {
    test(`G6: ${what}`, async () => {
      const prepared = await prepare();
      const machine = Machine.over(1, RUNTIME, prepared.image, new ArrayBuffer(MEMORY_BYTES));
      const disk = machine.simulation.disk("disk");
      damage(disk, prepared.forgottenAt);
      const damaged = disk.image();
      const story = new Story();
      await story.live("map", damaged, 1, true);
      await story.live("idle", damaged, 1, false);
      expect(story.failures.slice(0, 10)).toEqual([]);
      // A story of fewer proves little.
      expect(story.states).toBeGreaterThan(150);
    }, 600_000);
  }
});

test("a replica that is buried is refused from then on; one of a lower id beside it stays", async () => {
  const machine = await Machine.make(2, RUNTIME, 256 * MIB, LOG_BYTES);
  const conf = new Uint8Array(3);
  let rig = await machine.open({ tuning: IDLE });
  rig.store.finishRecovery();
  await rig.create(FIRST_PG, 3);
  for (const pg of [FIRST_PG, FORGOTTEN_PG]) {
    rig.store.bury(pg, 7);
    rig.store.bury(pg, 7);
  }
  expect(rig.store.createReplica(FORGOTTEN_PG, 7, conf, 0, 0)).toBe(-1);
  rig.world.turns.again();
  for (const life of ["log", "checkpoint"]) {
    if (life === "checkpoint") await checkpoint(rig);
    else machine.simulation.run(machine.simulation.nowUs + 1000);
    machine.crash();
    rig = await machine.open({ tuning: IDLE });
    expect(rig.store.recovered).toMatchObject([{ pg: FIRST_PG, replicaId: 3 }]);
    expect(rig.store.tombstones).toEqual([
      { pg: FIRST_PG, replicaId: 7 },
      { pg: FORGOTTEN_PG, replicaId: 7 },
    ]);
    rig.store.finishRecovery();
    expect(rig.store.createReplica(FORGOTTEN_PG, 6, conf, 0, 0)).toBe(-1);
  }
  await rig.create(FORGOTTEN_PG, 8);
});
