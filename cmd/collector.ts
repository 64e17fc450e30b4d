import { Timer, type World } from "../core/reactor/world.ts";

/** How often the size of the process is looked at. */
const LOOK_US = 1_000_000;
/** Growth since the last collection that calls for the next. */
const GROWTH_BYTES = 24 * 1_048_576;

/**
 * Collects the garbage of the calling thread whenever the process has grown.
 *
 * The engine by itself is not enough: it collects when its heap has grown by a share, and takes the
 * arena for heap. The runtime therefore collects every second, on threads of its own; that is most
 * of what an idle process does, and is switched off (`SERVING_ENVIRONMENT` of `core/dev/plan.ts`).
 */
export function startCollector(world: World): void {
  world.timers.armPeriod(new Collector(world), LOOK_US);
}

/**
 * Collect all garbage of the calling thread at once: tens of milliseconds in which it does nothing
 * else. Rarely, when much is known to be gone: left to itself the engine keeps the memory of that.
 */
export function collectNow(): void {
  Bun.gc(true);
}

class Collector extends Timer {
  private readonly world: World;
  /** The least that the process had since the last collection began. */
  private leastBytes = Number.POSITIVE_INFINITY;

  constructor(world: World) {
    super();
    this.world = world;
  }

  override onTimer(): void {
    this.world.timers.armPeriod(this, LOOK_US);
    const bytes = residentBytes();
    if (bytes === undefined) return;
    if (bytes - this.leastBytes >= GROWTH_BYTES) {
      Bun.gc(false);
      this.leastBytes = bytes;
    }
    if (bytes < this.leastBytes) this.leastBytes = bytes;
  }
}

/** Undefined while no descriptor is left to ask the kernel with: the next look will tell. */
function residentBytes(): number | undefined {
  try {
    return process.memoryUsage.rss();
  } catch {
    return undefined;
  }
}
