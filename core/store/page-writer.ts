// data path
import { assert } from "../base/assert.ts";
import { Status } from "../base/status.ts";
import { BLOCK_SIZE, TWO_32 } from "../base/units.ts";
import { type Device, DeviceOp, DeviceRegion } from "../device/device.ts";
import { DiskVerb, type World } from "../reactor/world.ts";
import { PageHolds, type PageLoader } from "./page-loader.ts";
import { encodeSlot, pageCrcOf, SLOT_SIZE, SLOTS_PER_PAGE, slotSeed } from "./slot-codec.ts";
import type { SlotTable } from "./slot-table.ts";
import { SlotState } from "./slot-zone.ts";

export interface PageWriterOwner {
  /** May a change of version `version` (log index of the row's group) reach the disk? R2. */
  mayWrite(row: number, version: number): boolean;
  pgOf(row: number): number;
  /** Writes of pages have ended: their rows may be read. */
  onPageWriteEnded(): void;
  /** The round has ended: every page that was dirty at its start is written, but for `postponed`. */
  onPagesWritten(): void;
}

/** Pages of one write at most, and writes under way. */
const PAGES_PER_WRITE = 16;
const WRITES_MAX = 4;
/** Pages that are held at a time. */
const GROUP_PAGES: number = PAGES_PER_WRITE * WRITES_MAX;
/** Arena bytes that the page writer needs. */
export const PAGE_BUFFER_BYTES: number = PAGES_PER_WRITE * WRITES_MAX * BLOCK_SIZE;

/**
 * Writes changed index pages in rounds, neighbours merged, by plain writes (`store.md`, 8).
 *
 * A page carries a stamp that grows with every page write; a checkpoint remembers the newest stamp
 * and the crc of each page, so that a lost page write is seen at start. A page with a change that
 * is not durably committed (R2) is postponed and stays dirty; a checkpoint goes on with those alone
 * (`startPostponed`), whatever changed since.
 *
 * When the index is paged, a round goes in groups: the pages of one are held with all rows of their units
 * (`PageHolds`), then laid out and written.
 *
 * Invariants: at most one write of a page is under way, because rounds do not overlap; a page that is
 * marked dirty is in the table's list or among the postponed ones.
 */
export class PageWriter {
  /** The newest stamp given away. */
  stamp: number;
  /** Pages of the last round that were left dirty. */
  postponed = 0;
  running = false;
  failed = false;
  bytesWritten = 0;
  private readonly world: World;
  private readonly device: Device;
  private readonly table: SlotTable;
  private readonly owner: PageWriterOwner;
  private readonly seed: number;
  private readonly shard: number;
  private work: Uint32Array = new Uint32Array(0);
  private workCount = 0;
  private workAt = 0;
  private postponedPages: Uint32Array = new Uint32Array(0);
  /** Of the work: up to here it may be laid out. */
  private groupEnd = 0;
  /** Up to here its pages are held, or will be. */
  private heldEnd = 0;
  private holds: PageHolds | null = null;
  private inFlight = 0;
  private readonly ios: PageIo[] = [];
  private readonly slotViews: (Uint8Array | undefined)[] = [];
  private readonly buffer: number;

  constructor(
    world: World,
    device: Device,
    table: SlotTable,
    owner: PageWriterOwner,
    options: { seed: number; shard: number; incarnation: number; buffer: number },
  ) {
    this.world = world;
    this.device = device;
    this.table = table;
    this.owner = owner;
    this.seed = options.seed;
    this.shard = options.shard;
    this.buffer = options.buffer;
    this.stamp = options.incarnation * TWO_32;
    for (let at = 0; at < WRITES_MAX; at++) {
      this.ios.push(new PageIo(this, options.buffer + at * PAGES_PER_WRITE * BLOCK_SIZE));
    }
  }

  // cold: once per start, when the index is paged.
  /** Where rows come from that are not in memory. */
  setLoader(loader: PageLoader): void {
    this.holds = new PageHolds(this.table, loader, this);
  }

  // cold: once per round.
  /** Begin a round over the pages that are dirty now. `onPagesWritten` follows in a later turn. */
  start(): void {
    const table = this.table;
    const count = table.dirtyCount + this.postponed;
    if (this.work.length < count) this.work = new Uint32Array(count * 2);
    this.work.set(table.dirtyPages.subarray(0, table.dirtyCount));
    this.work.set(this.postponedPages.subarray(0, this.postponed), table.dirtyCount);
    table.dirtyCount = 0;
    this.begin(count);
  }

  // cold: once per round.
  /** Begin a round over the pages that the last one postponed. */
  startPostponed(): void {
    if (this.work.length < this.postponed) this.work = new Uint32Array(this.postponed * 2);
    this.work.set(this.postponedPages.subarray(0, this.postponed));
    this.begin(this.postponed);
  }

  // cold: once per round.
  private begin(count: number): void {
    assert(!this.running, "PageWriter.start: a round is running");
    this.running = true;
    this.work.subarray(0, count).sort();
    this.workCount = dropTwins(this.work, count);
    this.workAt = 0;
    this.groupEnd = 0;
    this.heldEnd = 0;
    this.postponed = 0;
    if (this.postponedPages.length < count) this.postponedPages = new Uint32Array(count * 2);
    for (let at = 0; at < this.workCount; at++) this.setClean(this.work[at]!);
  }

  /** Go on: called in each turn while a round runs. */
  advance(): void {
    if (!this.running) return;
    while (this.inFlight < WRITES_MAX && this.workAt < this.workCount && !this.failed) {
      if (this.workAt === this.groupEnd && !this.nextGroup()) return;
      this.submitNext();
    }
    if (this.inFlight > 0 || (this.workAt < this.workCount && !this.failed)) return;
    if (this.holds !== null) {
      if (this.holds.pending > 0) return;
      this.holds.release();
    }
    this.running = false;
    this.owner.onPagesWritten();
  }

  /** What is laid out next. False: rows of it are being loaded. */
  private nextGroup(): boolean {
    const { holds } = this;
    if (holds === null) {
      this.groupEnd = this.workCount;
      return true;
    }
    if (this.heldEnd === this.groupEnd) {
      holds.release();
      this.heldEnd = Math.min(this.workCount, this.groupEnd + GROUP_PAGES);
      for (let at = this.groupEnd; at < this.heldEnd; at++) holds.addPage(this.work[at]!);
    }
    if (holds.failed) this.failed = true;
    if (holds.pending > 0 || this.failed) return false;
    this.groupEnd = this.heldEnd;
    return true;
  }

  /** Called by `PageHolds` only. */
  onPagesHeld(): void {
    this.world.turns.again();
  }

  /** Whether a write of the page is under way. */
  isWriting(page: number): boolean {
    for (let at = 0; at < WRITES_MAX; at++) {
      const io = this.ios[at]!;
      if (io.busy && page >= io.firstPage && page < io.firstPage + io.count) return true;
    }
    return false;
  }

  /** Called by `PageIo` only. */
  onWritten(io: PageIo): void {
    this.inFlight -= 1;
    io.busy = false;
    if (io.status !== Status.Ok) {
      this.failed = true;
      return;
    }
    const perZone = this.table.geometry.pagesPerZone;
    const { frames } = this.table;
    for (let at = 0; at < io.count; at++) {
      const page = io.firstPage + at;
      const zone = this.table.zones[Math.floor(page / perZone)]!;
      zone.pageCrc[page % perZone] = io.crcs[at]!;
      if (frames !== null) frames.written(page);
    }
    this.owner.onPageWriteEnded();
    this.world.turns.again();
  }

  private setClean(page: number): void {
    const perZone = this.table.geometry.pagesPerZone;
    this.table.zones[Math.floor(page / perZone)]!.pageDirty[page % perZone] = 0;
  }

  /** Encode pages that follow each other and may be written; submit them as one write. */
  private submitNext(): void {
    const io = this.freeIo();
    const perZone = this.table.geometry.pagesPerZone;
    io.count = 0;
    while (this.workAt < this.groupEnd && io.count < PAGES_PER_WRITE) {
      const page = this.work[this.workAt]!;
      if (io.count > 0) {
        if (page !== io.firstPage + io.count) break;
        if (page % perZone === 0) break;
      }
      if (!this.mayWritePage(page)) {
        if (io.count > 0) break;
        this.workAt += 1;
        this.postpone(page);
        continue;
      }
      if (io.count === 0) io.firstPage = page;
      io.crcs[io.count] = this.encodePage(page, io.buffer + io.count * BLOCK_SIZE);
      io.count += 1;
      this.workAt += 1;
    }
    if (io.count === 0) return;
    const zone = this.table.zones[Math.floor(io.firstPage / perZone)]!;
    io.busy = true;
    io.verb = DiskVerb.Write;
    io.region = DeviceRegion.Meta;
    io.arenaOffset = io.buffer;
    io.lengthBytes = io.count * BLOCK_SIZE;
    io.offsetBytes = zone.offset + (io.firstPage % perZone) * BLOCK_SIZE;
    this.inFlight += 1;
    this.bytesWritten += io.lengthBytes;
    this.device.submit(io);
  }

  /** The page stays dirty. It may be in the table's list too, when it changed since: once is enough. */
  private postpone(page: number): void {
    this.table.zoneOfPage(page).pageDirty[page % this.table.geometry.pagesPerZone] = 1;
    this.postponedPages[this.postponed] = page;
    this.postponed += 1;
  }

  private firstSlotOf(page: number): number {
    const perZone = this.table.geometry.pagesPerZone;
    return this.table.slotAt(Math.floor(page / perZone), (page % perZone) * SLOTS_PER_PAGE);
  }

  private mayWritePage(page: number): boolean {
    const first = this.firstSlotOf(page);
    const zone = this.table.zoneOf(first);
    const from = this.table.indexOf(first);
    for (let index = from; index < from + SLOTS_PER_PAGE; index++) {
      const state = zone.state[index]!;
      if (state === SlotState.Taken || state === SlotState.Forming) continue;
      const version = zone.version[index]!;
      if (version > 0 && !this.owner.mayWrite(zone.row[index]!, version)) return false;
    }
    return true;
  }

  /** Lay a page out; answers its crc (never 0: that stands for "not written yet"). */
  private encodePage(page: number, at: number): number {
    const first = this.firstSlotOf(page);
    const zone = this.table.zoneOf(first);
    const from = this.table.indexOf(first);
    const world = this.world;
    const { frames } = this.table;
    this.stamp += 1;
    for (let slot = 0; slot < SLOTS_PER_PAGE; slot++) {
      const index = from + slot;
      const state = zone.state[index]!;
      const named = state === SlotState.Live || state === SlotState.Hole;
      encodeSlot(
        world.arena.view,
        at + slot * SLOT_SIZE,
        this.slotView(at + slot * SLOT_SIZE),
        zone,
        index,
        named ? this.table.layers.idOf(zone.layer[index]!) : 0,
        named ? this.owner.pgOf(zone.row[index]!) : 0,
        this.stamp,
        slotSeed(this.seed, this.shard, first + slot),
        world.checksum,
        frames,
        page,
      );
    }
    if (frames !== null) frames.writing(page);
    return pageCrcOf(world.checksum.crc32(world.arena.block(at), 0));
  }

  private slotView(at: number): Uint8Array {
    const number = (at - this.buffer) / SLOT_SIZE;
    let view = this.slotViews[number];
    if (view === undefined) {
      view = this.makeSlotView(at);
      this.slotViews[number] = view;
    }
    return view;
  }

  // cold: once per place in the buffer.
  private makeSlotView(at: number): Uint8Array {
    return this.world.arena.bytes.subarray(at, at + SLOT_SIZE);
  }

  private freeIo(): PageIo {
    for (let at = 0; at < WRITES_MAX; at++) if (!this.ios[at]!.busy) return this.ios[at]!;
    assert(false, "PageWriter: no write is free");
    return this.ios[0]!;
  }
}

/** Leave one of each of `count` sorted numbers; answers how many those are. */
function dropTwins(sorted: Uint32Array, count: number): number {
  let kept = 0;
  for (let at = 0; at < count; at++) {
    if (at > 0 && sorted[at] === sorted[at - 1]) continue;
    sorted[kept] = sorted[at]!;
    kept += 1;
  }
  return kept;
}

class PageIo extends DeviceOp {
  readonly writer: PageWriter;
  readonly buffer: number;
  readonly crcs: Uint32Array = new Uint32Array(PAGES_PER_WRITE);
  busy = false;
  firstPage = 0;
  count = 0;

  constructor(writer: PageWriter, buffer: number) {
    super();
    this.writer = writer;
    this.buffer = buffer;
  }

  onComplete(): void {
    this.writer.onWritten(this);
  }
}
