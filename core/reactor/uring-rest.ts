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
/** As many as the little that goes on at rest touches between two looks. */
const FEW_SLABS = 4;

/**
 * Gives the memory of a load back to the system when the load is over: slabs of slots, buffers of
 * connections, and the garbage of the load. What the slots held goes while nobody works, the rest once
 * after each load, when no more slabs become free.
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
    else if (this.vacate() < FEW_SLABS && !this.rested) this.tidy();
  }

  /**
   * Give back slabs that nobody uses; how many. At each look: slots of a load are released for as long
   * as it takes to bring home what they hold.
   */
  private vacate(): number {
    const { arena, slots } = this.world;
    for (let count = 0; count < SLABS_PER_LOOK; count++) {
      const slab = slots.vacate();
      if (slab < 0) return count;
      arena.forgetBlocks(slab, SLAB_SIZE);
      this.memory.giveBack(slab, SLAB_SIZE);
    }
    return SLABS_PER_LOOK;
  }

  private tidy(): void {
    this.rested = true;
    this.network.rest();
    edenGC();
  }
}
