// cold path: a simulated machine with one store, for tests.
import type { Checksum } from "../base/checksum.ts";
import { type Disk, DiskVerb, type World } from "../reactor/world.ts";
import {
  type DiskWatcher,
  type LoggedError,
  type SimWorld,
  Simulation,
} from "../reactor/reactor.ts";
import { RIG_CLUSTER, type RigRunner, StoreRig, settle } from "./store-harness.ts";
import { formatStore } from "./store-tools.ts";

const MIB = 1024 * 1024;

export class SimRunner implements RigRunner {
  readonly simulation: Simulation;
  constructor(simulation: Simulation) {
    this.simulation = simulation;
  }
  until(done: () => boolean, what: string): Promise<void> {
    if (!this.simulation.run(done)) throw new Error(`waited 60 simulated s for ${what}`);
    return Promise.resolve();
  }
}

/** What the runtime supplies to a simulation. */
export interface MachineRuntime {
  readonly drainMicrotasks: () => void;
  readonly checksum: Checksum;
  /** Of a message that is logged as an error: whether a fault that was planted explains it. */
  readonly isExcused?: (logged: LoggedError) => boolean;
}

/** One machine: a disk that outlives its processes. */
export class Machine {
  readonly simulation: Simulation;
  readonly runner: SimRunner;
  world: SimWorld;
  /** Of the stores that are opened: see `StoreOptions.indexBytes`. */
  indexBytes = 0;

  private readonly memory: ArrayBuffer | undefined;

  private constructor(seed: number, runtime: MachineRuntime, memory?: ArrayBuffer) {
    this.simulation = new Simulation(seed, runtime);
    this.runner = new SimRunner(this.simulation);
    this.memory = memory;
    this.world = this.boot();
  }

  private boot(): SimWorld {
    const { memory } = this;
    const options = memory === undefined ? {} : { memory, arenaBytes: memory.byteLength };
    const world = this.simulation.createWorld("osd", "10.0.0.1", options);
    world.start();
    return world;
  }

  /** A machine with a disk that holds `image`; `memory` is used by one machine at a time. */
  static over(
    seed: number,
    runtime: MachineRuntime,
    image: ReadonlyMap<number, Uint8Array>,
    memory: ArrayBuffer,
    sizeBytes = 256 * MIB,
  ): Machine {
    const machine = new Machine(seed, runtime, memory);
    machine.simulation.disk("disk", sizeBytes).restore(image);
    return machine;
  }

  static async make(
    seed: number,
    runtime: MachineRuntime,
    sizeBytes = 256 * MIB,
    logBytes = 16 * MIB,
  ): Promise<Machine> {
    const machine = new Machine(seed, runtime);
    machine.simulation.disk("disk", sizeBytes);
    await machine.format(logBytes);
    return machine;
  }

  async format(logBytes: number, force = false, shardCount = 1): Promise<void> {
    await this.tool((world, disk) =>
      formatStore({
        world,
        disk,
        clusterId: RIG_CLUSTER,
        osd: 1,
        shardCount,
        logBytes,
        force,
      }),
    );
  }

  /** Run a tool on the stopped store. */
  async tool<T>(body: (world: World, disk: Disk) => Promise<T>): Promise<T> {
    const disk = this.world.disks.open("disk", {});
    try {
      return await settle(body(this.world, disk), this.runner, "tool");
    } finally {
      disk.close();
    }
  }

  open(more: Parameters<typeof StoreRig.open>[4] = {}): Promise<StoreRig> {
    const disk = this.world.disks.open("disk", {});
    const options = { indexBytes: this.indexBytes, ...more };
    return StoreRig.open(this.world, disk, this.world.logger, this.runner, options);
  }

  /** The process ends in order; the machine goes on. */
  restart(): void {
    // The simulated world has stopped when this returns.
    void this.world.stop();
    this.world = this.boot();
  }

  /** The power fails; the machine comes back. */
  crash(): void {
    this.world.powerCut();
    this.world = this.boot();
  }
}

/** Every read of the block at `offset` fails; it takes all writes. */
export function badSector(offset: number): DiskWatcher {
  return {
    onSubmit: () => undefined,
    onLand: (op) =>
      op.verb === DiskVerb.Read &&
      op.offsetBytes <= offset &&
      offset < op.offsetBytes + op.lengthBytes,
  };
}
