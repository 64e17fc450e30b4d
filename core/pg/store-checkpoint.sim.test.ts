import { drainMicrotasks } from "bun:jsc";
import { describe, expect, test } from "bun:test";
import { SystemChecksum } from "../reactor/bun-system.ts";
import { DiskVerb } from "../reactor/world.ts";
import { GroupHealth } from "./local-store.ts";
import { Machine } from "./machine-harness.ts";
import type { StoreRig } from "./store-harness.ts";
import { fsckStore } from "./store-tools.ts";

/**
 * A replica goes while a checkpoint is on its way to the device; then the power fails. Which of the
 * device's calls are slow decides what of both is there.
 */
const RUNTIME = { drainMicrotasks, checksum: new SystemChecksum() };
const MIB = 1024 * 1024;
const LOG_BYTES = 4 * MIB;
const META_OFFSET = 65_536 + LOG_BYTES;
const HALF_BYTES = 4 * MIB;
const PG = 65_537;
const STILL = { moverStartPercent: 100, checkpointStartPercent: 100, idleMs: 1e9, vouchMs: 1e9 };
const SLOW_US = 50_000;

function regionOf(offsetBytes: number): string {
  const place = offsetBytes - META_OFFSET;
  if (place >= 2 * HALF_BYTES) return "unit";
  if (place >= 0) return place % HALF_BYTES === 0 ? "header" : "body";
  return place >= -LOG_BYTES ? "batch" : "super";
}

/** A store with three replicas of id 3, whose device tells of a checkpoint's calls. */
class Scene {
  readonly machine: Machine;
  readonly rig: StoreRig;
  readonly rows: readonly number[];
  /** Calls of the checkpoint under way that were submitted. */
  calls: string[] = [];

  private constructor(machine: Machine, rig: StoreRig, rows: readonly number[]) {
    this.machine = machine;
    this.rig = rig;
    this.rows = rows;
    this.disk.watcher = {
      onSubmit: ({ verb, offsetBytes }) => {
        if (verb === DiskVerb.Flush) this.calls.push("flush");
        if (verb === DiskVerb.WriteDurable) this.calls.push(regionOf(offsetBytes));
      },
      onLand: () => false,
    };
  }

  static async make(seed: number): Promise<Scene> {
    const machine = await Machine.make(seed, RUNTIME, 256 * MIB, LOG_BYTES);
    const rig = await machine.open({ tuning: STILL });
    rig.store.finishRecovery();
    const rows: number[] = [];
    for (let pg = PG; pg < PG + 3; pg++) rows.push(await rig.create(pg, 3));
    return new Scene(machine, rig, rows);
  }

  private get disk(): ReturnType<Machine["simulation"]["disk"]> {
    return this.machine.simulation.disk("disk");
  }

  /** Whatever is submitted from now on takes so long. */
  latency(us: number): void {
    Object.assign(this.disk.faults, { latencyUsMin: us, latencyUsMax: us });
  }

  /** Begin a checkpoint, and stop when it has submitted its flush or its body, which takes long. */
  async checkpointUntil(call: "flush" | "body"): Promise<void> {
    this.calls = [];
    this.rig.store.requestCheckpoint();
    if (call === "body") await this.rig.until(() => this.calls.includes("flush"), "flush");
    this.latency(SLOW_US);
    await this.rig.until(() => this.calls.includes(call), call);
  }

  async checkpointed(count: number): Promise<void> {
    await this.rig.until(() => this.rig.store.counters.checkpoints === count, "checkpoint");
  }

  /** The power fails; what the next start finds. */
  async after(): Promise<{ trusted: number[]; buried: number[]; findings: unknown[] }> {
    const { machine } = this;
    this.disk.watcher = null;
    this.latency(30);
    machine.world.powerCut(() => false);
    machine.crash();
    const { findings } = await machine.tool((world, tool) => fsckStore(world, tool));
    machine.crash();
    const { store } = await machine.open({ tuning: STILL });
    const trusted = store.recovered.filter(({ health }) => health !== GroupHealth.Distrusted);
    const pgsOf = (rows: readonly { pg: number }[]): number[] => rows.map(({ pg }) => pg);
    return { trusted: pgsOf(trusted), buried: pgsOf(store.tombstones), findings: [...findings] };
  }
}

describe("a replica goes while a checkpoint is written", () => {
  test("G7: its tombstone comes behind the body: the checkpoint is whole", async () => {
    const scene = await Scene.make(1);
    await scene.checkpointUntil("body");
    scene.latency(30);
    scene.rig.store.removeReplica(scene.rows[1]!);
    await scene.rig.until(() => scene.rig.owner.gone.has(scene.rows[1]!), "gone");
    expect(scene.calls).toEqual(["flush", "body", "batch"]);
    await scene.checkpointed(1);
    expect(await scene.after()).toEqual({
      trusted: [PG, PG + 2],
      buried: [PG + 1],
      findings: [],
    });
  });

  test("G7: one is buried that is not here: the checkpoint is whole", async () => {
    const scene = await Scene.make(2);
    await scene.checkpointUntil("body");
    scene.rig.store.bury(PG + 9, 1);
    await scene.checkpointed(1);
    expect((await scene.after()).trusted).toEqual([PG, PG + 1, PG + 2]);
  });

  test("G1: its record takes longer than all the rest: nobody forgets that it was here", async () => {
    const scene = await Scene.make(3);
    await scene.checkpointUntil("flush");
    scene.latency(10 * SLOW_US);
    scene.rig.store.removeReplica(scene.rows[1]!);
    await scene.rig.until(() => scene.calls.includes("batch"), "batch");
    expect(scene.calls).toEqual(["flush", "batch"]);
    scene.latency(30);
    await scene.checkpointed(1);
    expect(await scene.after()).toEqual({
      trusted: [PG, PG + 2],
      buried: [PG + 1],
      findings: [],
    });
  });

  test("its row is another's when the checkpoint is written: that one is not taken for it", async () => {
    const scene = await Scene.make(4);
    const { rig, rows } = scene;
    const row = rows[1]!;
    rig.renew(row, 4);
    await scene.checkpointUntil("flush");
    scene.latency(30);
    rig.store.removeReplica(row);
    await rig.until(() => rig.owner.gone.has(row), "gone");
    expect(await rig.create(PG + 3, 3)).toBe(row);
    expect(scene.calls).not.toContain("body");
    await scene.checkpointed(1);
    expect(await scene.after()).toEqual({
      trusted: [PG, PG + 2, PG + 3],
      buried: [PG + 1],
      findings: [],
    });
  });
});
