import { edenGC, fullGC } from "bun:jsc";
import { Timer, type World } from "../core/reactor/world.ts";

/** So many groups that were parked leave some MiB of garbage. */
const PARKED_GROUPS = 256;

/** How often the size of the process is looked at. */
const LOOK_US = 1_000_000;
/** Growth since the last collection that calls for the next. */
const GROWTH_BYTES = 24 * 1_048_576;

/** A process rests when all of its threads took no more than this share of a core for so long. */
const REST_SHARE = 0.05;
const REST_US = 5_000_000;
/** Growth of a thread's heap since its last full collection that a process at rest gives back. */
const REST_GROWTH_BYTES = 2 * 1_048_576;

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

/** When a thread of a process at rest collects, and how. */
export interface RestGarbage {
  /** Whether there is enough to be collected. */
  isDue(): boolean;
  /** Collect it. */
  collect(): void;
}

/**
 * Calls for a collection of the calling thread's garbage when the process rests: none of its threads did
 * more than what always goes on in the last 5 s.
 *
 * `startCollector` alone was not enough: what it asks for the engine does beside the thread, as far as it
 * likes. The main thread of an osd that was told of 10,000 groups kept 60 MB of heap, 5 of them in use.
 */
export function collectAtRest(world: World, garbage: RestGarbage, cpuUs = ownCpuUs): void {
  new RestCollector(world, garbage, cpuUs).look();
}

/**
 * All garbage: 10 to 30 ms in which the thread does nothing else. Young objects alone: some ms, and code that
 * was compiled for a load stays, as it has to in a reactor.
 */
type Collection = "all" | "young";

/** Whatever the heap of the calling thread has grown by since the last collection. */
export class GrownHeap implements RestGarbage {
  /** What the heap took after the last collection, or least since. */
  private leastBytes = 0;
  private readonly kind: Collection;
  private readonly heapBytes: () => number | undefined;

  /** `heapBytes`: what the heap takes, garbage included; undefined: not known now. */
  constructor(kind: Collection, heapBytes: () => number | undefined = ownHeapBytes) {
    this.kind = kind;
    this.heapBytes = heapBytes;
  }

  isDue(): boolean {
    const bytes = this.heapBytes();
    if (bytes === undefined) return false;
    const isDue = bytes - this.leastBytes >= REST_GROWTH_BYTES;
    // What a collection frees goes a while after it: the next look sees it.
    this.leastBytes = isDue ? bytes : Math.min(this.leastBytes, bytes);
    return isDue;
  }

  collect(): void {
    if (this.kind === "all") fullGC();
    else edenGC();
  }
}

/**
 * All garbage of the calling thread and its compiled code, whenever many groups of a shard were parked, in
 * waves or a few at a time, and no more follow: what they leave has outlived collections of young objects.
 *
 * After each wave was not enough: groups whose leaders go home are woken and parked again a few at a time,
 * for minutes. While clients come and go, however few, groups are parked at all times.
 */
export class ParkedGroups implements RestGarbage {
  private count = 0;
  /** `count` at the last look. */
  private seen = 0;

  /** So many were parked. */
  add(count: number): void {
    this.count += count;
  }

  isDue(): boolean {
    const isSettled = this.count === this.seen;
    this.seen = this.count;
    return isSettled && this.count >= PARKED_GROUPS;
  }

  collect(): void {
    this.count = 0;
    this.seen = 0;
    Bun.gc(true);
  }
}

class RestCollector extends Timer {
  private readonly world: World;
  private readonly garbage: RestGarbage;
  private readonly cpuUs: () => number;
  private spentUs = 0;
  private atUs = 0;

  constructor(world: World, garbage: RestGarbage, cpuUs: () => number) {
    super();
    this.world = world;
    this.garbage = garbage;
    this.cpuUs = cpuUs;
  }

  look(): void {
    this.world.timers.armPeriod(this, REST_US);
    this.spentUs = this.cpuUs();
    this.atUs = this.world.clock.nowUs();
  }

  override onTimer(): void {
    const spentUs = this.cpuUs() - this.spentUs;
    const passedUs = this.world.clock.nowUs() - this.atUs;
    if (spentUs <= passedUs * REST_SHARE && this.garbage.isDue()) this.garbage.collect();
    this.look();
  }
}

function ownCpuUs(): number {
  const { user, system } = process.cpuUsage();
  return user + system;
}

/** Undefined while no descriptor is left to ask the kernel with. */
function ownHeapBytes(): number | undefined {
  try {
    return process.memoryUsage().heapTotal;
  } catch {
    return undefined;
  }
}
