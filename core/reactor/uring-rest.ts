// cold path: looks once in some seconds, acts once after a load.
import { edenGC } from "bun:jsc";
import type { ReactorBase } from "./reactor-base.ts";
import { SLAB_SIZE } from "./slots.ts";
import type { UringMemory } from "./uring-memory.ts";
import type { UringNetwork } from "./uring-network.ts";
import { Timer } from "./world.ts";

const LOOK_US = 5_000_000;
/** Fewer slots taken between two looks: nobody works. */
const BUSY_TAKES = 100;
/** Slabs given back at one look: each costs a pair of system calls, and heartbeats wait. */
const SLABS_PER_LOOK = 64;

/**
 * Gives the memory of a load back to the system when the load is over: slabs of slots, buffers of
 * connections, and the garbage of the load. Once after each load, a period or two behind its end.
 *
 * The collection is of young objects: a full one also drops compiled code that has not run for some
 * seconds, and the next load begins at half the rate.
 */
export class Rest extends Timer {
  private readonly world: ReactorBase;
  private readonly memory: UringMemory;
  private readonly network: UringNetwork;
  private takesSeen = 0;
  private rested = false;

  constructor(world: ReactorBase, memory: UringMemory, network: UringNetwork) {
    super();
    this.world = world;
    this.memory = memory;
    this.network = network;
  }

  /** Begin to look. */
  start(): void {
    this.world.timers.arm(this, LOOK_US);
  }

  onTimer(): void {
    this.start();
    const { takes } = this.world.slots;
    const isBusy = takes - this.takesSeen >= BUSY_TAKES;
    this.takesSeen = takes;
    if (isBusy) this.rested = false;
    else if (!this.rested) this.rested = this.rest();
  }

  /** True when there is nothing more to give back. */
  private rest(): boolean {
    const { arena, slots } = this.world;
    for (let count = 0; count < SLABS_PER_LOOK; count++) {
      const slab = slots.vacate();
      if (slab < 0) {
        this.network.rest();
        edenGC();
        return true;
      }
      arena.forgetBlocks(slab, SLAB_SIZE);
      this.memory.giveBack(slab, SLAB_SIZE);
    }
    return false;
  }
}
