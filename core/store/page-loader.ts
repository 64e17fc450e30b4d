// data path
import { assert } from "../base/assert.ts";
import { Status } from "../base/status.ts";
import { BLOCK_SIZE } from "../base/units.ts";
import { type Device, DeviceOp, DeviceRegion } from "../device/device.ts";
import { CallbackTimer, DiskVerb, type World } from "../reactor/world.ts";
import type { IndexFrames } from "./index-frames.ts";
import { NONE } from "./layer-table.ts";
import { pageCrcOf } from "./slot-codec.ts";
import type { SlotTable } from "./slot-table.ts";

/** Loads under way at a time; further ones wait in their order. */
const LOADS_MAX = 64;
/** Arena bytes that loads need. */
export const LOAD_BUFFER_BYTES: number = LOADS_MAX * BLOCK_SIZE;
/** A page that can not be read is tried so often, with rests of 10 ms to 2.5 s between: 3.4 s in all. */
const TRIES_MAX = 6;
const REST_US = 10_000;
const REST_STEP = 4;

/** Waits for a page. Pooled by its owner; under way it is the loader's. */
export abstract class PageWaiter {
  waitNext: PageWaiter | null = null;
  /** Hold the frame for the waiter from then on: who waits for more than one page would lose it. */
  holds = false;
  /** The rows of the page are here until this returns; false: the device has failed. */
  abstract onPage(isLoaded: boolean): void;
}

/** What the loader asks and tells. */
export interface PageLoaderOwner {
  /** Is a write of the page under way? Then what is read may be torn. */
  isWriting(page: number): boolean;
  /** A page can not be read any more. Once. */
  onPageLost(offsetBytes: number): void;
}

/**
 * Loads index pages into frames when the rows of a slot are wanted that are not here (README, "The
 * paged index").
 *
 * What is read must have the checksum that the page was written with, which memory knows: so a write
 * that the device lost is seen, as at a start. A page that is not so, or can not be read, is tried again
 * with rests; then the store ends, and what its next start can not read costs it its trust.
 *
 * Loads need no frame before they end, and frames are never waited for: nobody who holds some can keep
 * another one from his.
 */
export class PageLoader {
  loads = 0;
  failed = false;
  private readonly world: World;
  private readonly device: Device;
  private readonly table: SlotTable;
  private readonly frames: IndexFrames;
  private readonly owner: PageLoaderOwner;
  /** Under way, waiting for a buffer, or resting. */
  private readonly underWay = new Map<number, PageLoad>();
  private readonly buffers: number[] = [];
  private free: PageLoad | null = null;
  private queueHead: PageLoad | null = null;
  private queueTail: PageLoad | null = null;
  /** Loads of pages that are being written. */
  private stalled: PageLoad | null = null;

  constructor(
    world: World,
    device: Device,
    table: SlotTable,
    frames: IndexFrames,
    owner: PageLoaderOwner,
    buffer: number,
  ) {
    this.world = world;
    this.device = device;
    this.table = table;
    this.frames = frames;
    this.owner = owner;
    for (let at = LOADS_MAX - 1; at >= 0; at--) this.buffers.push(buffer + at * BLOCK_SIZE);
  }

  /** Load the page of a slot. `onPage` follows, never within the call. */
  load(slot: number, waiter: PageWaiter): void {
    const page = this.table.pageOf(slot);
    let load = this.underWay.get(page);
    if (load === undefined) {
      load = this.free ?? makeLoad(this);
      this.free = load.loadNext;
      load.page = page;
      load.tries = 0;
      this.underWay.set(page, load);
      this.queue(load);
    }
    waiter.waitNext = null;
    if (load.waitTail === null) load.waitHead = waiter;
    else load.waitTail.waitNext = waiter;
    load.waitTail = waiter;
    if (this.failed) this.tellLater();
    else this.submit();
  }

  /** Nobody waits for a page. */
  get isIdle(): boolean {
    return this.underWay.size === 0;
  }

  private queue(load: PageLoad): void {
    load.loadNext = null;
    if (this.queueTail === null) this.queueHead = load;
    else this.queueTail.loadNext = load;
    this.queueTail = load;
  }

  private submit(): void {
    while (this.queueHead !== null && this.buffers.length > 0 && !this.failed) {
      const load: PageLoad = this.queueHead;
      this.queueHead = load.loadNext;
      if (this.queueHead === null) this.queueTail = null;
      if (this.owner.isWriting(load.page)) {
        load.loadNext = this.stalled;
        this.stalled = load;
        continue;
      }
      load.verb = DiskVerb.Read;
      load.region = DeviceRegion.Meta;
      load.arenaOffset = this.buffers.pop()!;
      load.lengthBytes = BLOCK_SIZE;
      load.offsetBytes = this.table.pageOffset(load.page);
      load.crc = this.table.pageCrc(load.page);
      this.loads += 1;
      this.device.submit(load);
    }
  }

  /** Pages were written: what waited for that goes on. */
  onPagesWritten(): void {
    let load = this.stalled;
    this.stalled = null;
    while (load !== null) {
      const next: PageLoad | null = load.loadNext;
      this.queue(load);
      load = next;
    }
    this.submit();
  }

  /** Called by `PageLoad` only. */
  onRead(load: PageLoad): void {
    const { page, arenaOffset } = load;
    const { world } = this;
    let good = load.status === Status.Ok;
    if (good) {
      const crc = pageCrcOf(world.checksum.crc32(world.arena.block(arenaOffset), 0));
      good = crc === this.table.pageCrc(page);
    }
    this.buffers.push(arenaOffset);
    if (this.failed) return;
    if (good) {
      this.frames.fill(page, world.arena.words, arenaOffset >>> 2);
      this.finish(load);
    } else this.retry(load);
    this.submit();
  }

  private retry(load: PageLoad): void {
    const { page } = load;
    // It was written meanwhile: this was the page before, or both in part.
    if (this.owner.isWriting(page) || this.table.pageCrc(page) !== load.crc) {
      this.queue(load);
      return;
    }
    load.tries += 1;
    if (load.tries < TRIES_MAX) this.rest(load);
    else {
      this.owner.onPageLost(this.table.pageOffset(page));
      this.stop();
    }
  }

  // cold: a page that can not be read.
  private rest(load: PageLoad): void {
    const timer = new CallbackTimer(() => {
      if (this.failed) return;
      this.queue(load);
      this.submit();
    });
    this.world.timers.arm(timer, REST_US * REST_STEP ** (load.tries - 1));
  }

  private finish(load: PageLoad): void {
    const { page } = load;
    this.underWay.delete(page);
    // Whoever is told first may load others.
    this.frames.hold(page);
    let waiter = load.waitHead;
    load.waitHead = null;
    load.waitTail = null;
    load.loadNext = this.free;
    this.free = load;
    while (waiter !== null) {
      const next: PageWaiter | null = waiter.waitNext;
      waiter.waitNext = null;
      if (waiter.holds) this.frames.hold(page);
      waiter.onPage(true);
      waiter = next;
    }
    this.frames.release(page);
  }

  // cold: once per failed device.
  /** The device has failed: everybody who waits is told, in a later turn. */
  stop(): void {
    if (this.failed) return;
    this.failed = true;
    this.tellLater();
  }

  // cold: once per failed device.
  private tellLater(): void {
    const timer = new CallbackTimer(() => this.tellAll());
    this.world.timers.arm(timer, 0);
  }

  // cold: once per failed device.
  private tellAll(): void {
    const loads = [...this.underWay.values()];
    this.underWay.clear();
    for (const load of loads) {
      let waiter = load.waitHead;
      load.waitHead = null;
      while (waiter !== null) {
        const next: PageWaiter | null = waiter.waitNext;
        waiter.waitNext = null;
        waiter.onPage(false);
        waiter = next;
      }
    }
  }
}

class PageLoad extends DeviceOp {
  readonly loader: PageLoader;
  page = 0;
  /** Of the page when the read began. */
  crc = 0;
  tries = 0;
  waitHead: PageWaiter | null = null;
  waitTail: PageWaiter | null = null;
  loadNext: PageLoad | null = null;

  constructor(loader: PageLoader) {
    super();
    this.loader = loader;
  }

  onComplete(): void {
    this.loader.onRead(this);
  }
}

// cold: when the pool is empty.
function makeLoad(loader: PageLoader): PageLoad {
  return new PageLoad(loader);
}

/** Who waits for several pages at once. */
export interface PageHoldsOwner {
  /** Every page that was added is here; or the device has failed. */
  onPagesHeld(): void;
}

/** Pages that one owner needs at the same time: each stays, once loaded, until all are released. */
export class PageHolds {
  /** Pages that are not here yet. */
  pending = 0;
  failed = false;
  private readonly table: SlotTable;
  private readonly loader: PageLoader;
  private readonly owner: PageHoldsOwner;
  private pages: Uint32Array = new Uint32Array(64);
  private count = 0;
  private free: HoldWaiter | null = null;

  constructor(table: SlotTable, loader: PageLoader, owner: PageHoldsOwner) {
    this.table = table;
    this.loader = loader;
    this.owner = owner;
  }

  /** Hold the page of a slot of which the row is wanted. */
  add(slot: number): void {
    if (this.table.isAbsent(slot)) this.load(slot);
    else this.hold(this.table.pageOf(slot));
  }

  /** Hold a page with the rows of all its units. */
  addPage(page: number): void {
    const absent = this.table.absentOf(page);
    if (absent !== NONE) this.load(absent);
    else this.hold(page);
  }

  private load(slot: number): void {
    let waiter = this.free;
    if (waiter === null) waiter = makeHoldWaiter(this);
    else this.free = waiter.holdNext;
    waiter.page = this.table.pageOf(slot);
    this.pending += 1;
    this.loader.load(slot, waiter);
  }

  private hold(page: number): void {
    if (this.table.frames!.hold(page)) this.note(page);
  }

  /** Called by `HoldWaiter` only. */
  onPage(waiter: HoldWaiter, isLoaded: boolean): void {
    this.pending -= 1;
    waiter.holdNext = this.free;
    this.free = waiter;
    if (isLoaded) this.note(waiter.page);
    else this.failed = true;
    if (this.pending === 0) this.owner.onPagesHeld();
  }

  private note(page: number): void {
    if (this.count === this.pages.length) this.grow();
    this.pages[this.count] = page;
    this.count += 1;
  }

  /** Let go of all. Requires: nothing is pending. */
  release(): void {
    assert(this.pending === 0, "PageHolds.release: a page is being loaded");
    for (let at = 0; at < this.count; at++) this.table.frames!.release(this.pages[at]!);
    this.count = 0;
  }

  // cold: doubles when it is full.
  private grow(): void {
    const grown = new Uint32Array(this.pages.length * 2);
    grown.set(this.pages);
    this.pages = grown;
  }
}

class HoldWaiter extends PageWaiter {
  readonly holdsOf: PageHolds;
  page = 0;
  holdNext: HoldWaiter | null = null;

  constructor(holdsOf: PageHolds) {
    super();
    this.holdsOf = holdsOf;
    this.holds = true;
  }

  onPage(isLoaded: boolean): void {
    this.holdsOf.onPage(this, isLoaded);
  }
}

// cold: when the pool is empty.
function makeHoldWaiter(holds: PageHolds): HoldWaiter {
  return new HoldWaiter(holds);
}
