// cold: the simulator
import { assert } from "../base/assert.ts";
import { FastblockError } from "../base/errors.ts";
import type { Random } from "../base/prng.ts";
import { BLOCK_SIZE } from "../base/units.ts";
import { DiskBase } from "./disk-base.ts";
import { type DiskOneShots, DiskStrikes } from "./sim-disk-strikes.ts";
import { type SimEngine, type SimHost, TraceKind } from "./sim-engine.ts";
import { keptPage, type SimMemory, type SimPage } from "./sim-pages.ts";
import {
  type Arena,
  type Disk,
  type DiskOp,
  type DiskOpenOptions,
  type Disks,
  DiskVerb,
} from "./world.ts";

/**
 * A device with a volatile cache.
 *
 * Each 4 KiB block has its stable content and, newest last, the contents written since and not yet
 * flushed. A read sees the newest. A flush makes stable what was *completed before the flush was
 * submitted*; a durable write its own range. When the power fails, each 512-byte sector keeps any
 * one of the contents it had since it was last stable, chosen by chance: so unflushed writes are
 * lost, torn and reordered. A flush that fails does the same, by chance, to what it covered, and the
 * device goes on without: a later flush has nothing to say of that.
 */

const SECTOR_SIZE = 512;
const SECTORS_PER_BLOCK = 8;
const VERSIONS_MAX = 6;
/** Words of a block of memory where its header is; between those that are looked at behind it. */
const HEAD_WORDS = 16;
const WORDS_STEP = 61;
const EIO = 5;
const ENOSPC = 28;
const ZERO_BLOCK = keptPage(new Uint8Array(BLOCK_SIZE));
const RUBBISH = 0xa5;
const RUBBISH_BLOCK = keptPage(new Uint8Array(BLOCK_SIZE).fill(RUBBISH));

/** What goes wrong with a simulated device; change it at any time. Shares are 0 to 1. */
export interface DiskFaults extends DiskOneShots {
  readErrorShare: number;
  writeErrorShare: number;
  /** Flushes and durable writes answer this errno with this share. */
  flushErrno: number;
  flushErrorShare: number;
  /** Latency of each operation is drawn between these, in µs. */
  latencyUsMin: number;
  latencyUsMax: number;
  /** Discards answer this errno; 0: they are taken. */
  discardErrno: number;
  /** Holes can not be filled, though space is told to be there: a quota. */
  noSpace: boolean;
  /** Nothing completes while set. */
  stalled: boolean;
  /** Flushes and durable writes answer Ok and make nothing stable. */
  lyingFlush: boolean;
  /** A write answers Ok and goes nowhere with this share. */
  lostWriteShare: number;
  /** A write lands elsewhere (another 4 KiB block) with this share. */
  misdirectedWriteShare: number;
  /** A read answers Ok with what lies elsewhere with this share. */
  misdirectedReadShare: number;
}

/** Sees every call of a device in the order of the device, and may fail it. */
export interface DiskWatcher {
  /** `contents`: of a write, block by block from `op.offsetBytes` on; never changed later. */
  onSubmit(op: DiskOp, contents: readonly Uint8Array[]): void;
  /** The device finished it. True: it answers EIO and does nothing. */
  onLand(op: DiskOp): boolean;
}

interface Version {
  readonly content: SimPage;
  /** Count of completions at its own. */
  readonly seq: number;
}

/** A persistent simulated device: outlives the processes that open it. */
export class SimDiskFile {
  readonly path: string;
  readonly sizeBytes: number;
  readonly faults: DiskFaults = {
    readErrorShare: 0,
    writeErrorShare: 0,
    flushErrno: EIO,
    flushErrorShare: 0,
    discardErrno: 0,
    latencyUsMin: 30,
    latencyUsMax: 200,
    noSpace: false,
    stalled: false,
    lyingFlush: false,
    lostWriteShare: 0,
    misdirectedWriteShare: 0,
    misdirectedReadShare: 0,
    failFlushes: 0,
    hangReads: 0,
    hangWrites: 0,
    shortShare: 0,
  };
  /** What faults did to it. */
  readonly strikes: DiskStrikes;
  /** Bytes written and made stable since the beginning. */
  bytesWritten = 0;
  flushes = 0;
  /** The process that holds it, or null. */
  owner: SimHost | null = null;
  /** Where a file that was cut under its owner ends: reads past it fall short. */
  endBytes: number;
  /** What the file system beneath has left; Infinity: it has all; 0: holes can not be filled. */
  bytesBeneath: number = Number.POSITIVE_INFINITY;
  watcher: DiskWatcher | null = null;
  /** See `Disk.direct`, of what is opened from now on. */
  direct = true;
  private readonly engine: SimEngine;
  private readonly memory: SimMemory;
  private readonly stable = new Map<number, SimPage>();
  private readonly pending = new Map<number, Version[]>();
  /** Blocks that can not be read before they are written again. */
  private readonly unreadable = new Set<number>();
  private completions = 0;

  constructor(engine: SimEngine, memory: SimMemory, path: string, sizeBytes: number) {
    assert(sizeBytes % BLOCK_SIZE === 0, "SimDiskFile: size is not a multiple of 4 KiB");
    this.engine = engine;
    this.memory = memory;
    this.path = path;
    this.sizeBytes = sizeBytes;
    this.endBytes = sizeBytes;
    this.strikes = new DiskStrikes(engine.seed, path);
  }

  /** Flip a bit in each 512-byte sector of the range, on stable storage and in the cache. */
  rot(offsetBytes: number, lengthBytes: number): void {
    const bytes = this.peek(offsetBytes, lengthBytes);
    for (let at = 0; at < bytes.length; at += SECTOR_SIZE) {
      const place = at + this.engine.random.below(SECTOR_SIZE);
      bytes[place] = bytes[place]! ^ (1 << this.engine.random.below(8));
    }
    this.poke(offsetBytes, bytes);
  }

  /** Reads of the blocks of the range answer EIO until they are written again. */
  spoil(offsetBytes: number, lengthBytes: number): void {
    const end = offsetBytes + lengthBytes;
    for (let at = offsetBytes; at < end; at += BLOCK_SIZE) this.unreadable.add(at / BLOCK_SIZE);
  }

  /** Whether nothing was ever written to one of `count` blocks: a sparse file has none there. */
  isHole(block: number, count: number): boolean {
    for (let at = block; at < block + count; at++) {
      if (!this.stable.has(at) && !this.pending.has(at)) return true;
    }
    return false;
  }

  /** Whether a read of `count` blocks meets one that can not be read. */
  isUnreadable(block: number, count: number): boolean {
    if (this.unreadable.size === 0) return false;
    for (let at = 0; at < count; at++) if (this.unreadable.has(block + at)) return true;
    return false;
  }

  /** Device offsets of all 4 KiB blocks that a read would see with exactly this content. */
  find(content: Uint8Array): number[] {
    const blocks = new Set([...this.stable.keys(), ...this.pending.keys()]);
    return [...blocks]
      .filter((block) => isEqual(this.newest(block).bytes, content))
      .map((block) => block * BLOCK_SIZE)
      .sort((a, b) => a - b);
  }

  /** What a read would see now (a copy). */
  peek(offsetBytes: number, lengthBytes: number): Uint8Array {
    return this.gather(offsetBytes, lengthBytes, (block) => this.newest(block));
  }

  /** What is there after a power cut that keeps nothing volatile (a copy). */
  peekDurable(offsetBytes: number, lengthBytes: number): Uint8Array {
    return this.gather(offsetBytes, lengthBytes, (block) => this.stable.get(block) ?? ZERO_BLOCK);
  }

  /** Overwrite, stable at once. */
  poke(offsetBytes: number, bytes: Uint8Array): void {
    const first = Math.floor(offsetBytes / BLOCK_SIZE);
    const last = Math.floor((offsetBytes + bytes.length - 1) / BLOCK_SIZE);
    for (let block = first; block <= last; block++) {
      const content = this.memory.takePage(this.newest(block).bytes);
      const start = block * BLOCK_SIZE;
      const from = Math.max(start, offsetBytes);
      const to = Math.min(start + BLOCK_SIZE, offsetBytes + bytes.length);
      content.bytes.set(bytes.subarray(from - offsetBytes, to - offsetBytes), from - start);
      this.settle(block, content);
    }
  }

  /** All that is stable: content by block; blocks that are not in it are zero (a copy). */
  image(): Map<number, Uint8Array> {
    const image = new Map<number, Uint8Array>();
    for (const [block, content] of this.stable) {
      content.holders = Number.POSITIVE_INFINITY;
      image.set(block, content.bytes);
    }
    return image;
  }

  /** Hold this image instead, all of it stable. */
  restore(image: ReadonlyMap<number, Uint8Array>): void {
    this.clear();
    for (const [block, content] of image) this.stable.set(block, keptPage(content));
  }

  /** Hold nothing. */
  clear(): void {
    for (const content of this.stable.values()) this.memory.release(content);
    for (const versions of this.pending.values()) this.releaseAll(versions);
    this.stable.clear();
    this.pending.clear();
    this.unreadable.clear();
  }

  /** Blocks with content that a power cut may take. */
  get unstableBlocks(): number {
    return this.pending.size;
  }

  /* --------------------------------------------- for the disks of a world */

  /** Completions so far: what a flush submitted now covers. */
  get mark(): number {
    return this.completions;
  }

  read(block: number): SimPage {
    return this.newest(block);
  }

  /** A write completed. */
  put(block: number, content: SimPage): void {
    this.unreadable.delete(block);
    const versions = this.pending.get(block);
    const version = { content, seq: this.completions };
    content.holders += 1;
    if (versions === undefined) this.pending.set(block, [version]);
    else {
      versions.push(version);
      if (versions.length > VERSIONS_MAX) this.memory.release(versions.shift()!.content);
    }
    this.bytesWritten += BLOCK_SIZE;
  }

  /** A durable write completed. */
  putDurable(block: number, content: SimPage): void {
    this.bytesWritten += BLOCK_SIZE;
    this.settle(block, content);
  }

  noteCompletion(): void {
    this.completions += 1;
  }

  /** A flush completed that was submitted at `mark`. */
  flush(mark: number): void {
    this.flushes += 1;
    for (const [block, versions] of this.pending) {
      let covered = versions.length - 1;
      while (covered >= 0 && versions[covered]!.seq > mark) covered -= 1;
      if (covered < 0) continue;
      this.store(block, versions[covered]!.content);
      if (covered === versions.length - 1) {
        this.pending.delete(block);
        this.releaseAll(versions);
      } else this.releaseAll(versions.splice(0, covered + 1));
    }
  }

  /**
   * A flush failed that was submitted at `mark`: of what it covered some is dropped, whole or by sector.
   * Each who has the device open is told of that once (`SimDisks`), and a read sees what is left.
   */
  failFlush(mark: number): void {
    const isDropped = this.strikes.drawDrop();
    for (const [block, versions] of this.pending) {
      const covered = versions.filter((version) => version.seq <= mark);
      if (covered.length === 0 || !isDropped()) continue;
      const before = this.stable.get(block) ?? ZERO_BLOCK;
      const contents = [before, ...covered.map((version) => version.content)];
      this.store(block, this.survivorOf(contents, this.strikes.odds));
      if (covered.length === versions.length) this.pending.delete(block);
      else versions.splice(0, covered.length);
      this.releaseAll(covered);
    }
  }

  /** A write ended early: of this block only the first sectors are there. */
  putPart(block: number, content: SimPage, sectors: number): void {
    const mixed = this.memory.takePage(this.newest(block).bytes);
    mixed.bytes.set(content.bytes.subarray(0, sectors * SECTOR_SIZE));
    this.put(block, mixed);
  }

  /** The power failed; `flying` are the writes that were not completed. */
  losePower(flying: readonly { readonly block: number; readonly content: SimPage }[]): void {
    for (const { block, content } of flying) this.put(block, content);
    for (const [block, versions] of this.pending) {
      const before = this.stable.get(block) ?? ZERO_BLOCK;
      const contents = [before, ...versions.map((version) => version.content)];
      this.store(block, this.survivorOf(contents, this.engine.random));
      this.releaseAll(versions);
    }
    this.pending.clear();
    this.owner = null;
  }

  private survivorOf(contents: readonly SimPage[], random: Random): SimPage {
    const fate = random.below(4);
    if (fate === 0) return contents[0]!;
    if (fate === 1) return contents[contents.length - 1]!;
    const mixed = this.memory.takePage(contents[0]!.bytes);
    for (let sector = 0; sector < SECTORS_PER_BLOCK; sector++) {
      const from = contents[random.below(contents.length)]!;
      const at = sector * SECTOR_SIZE;
      mixed.bytes.set(from.bytes.subarray(at, at + SECTOR_SIZE), at);
    }
    return mixed;
  }

  private newest(block: number): SimPage {
    const versions = this.pending.get(block);
    if (versions !== undefined) return versions[versions.length - 1]!.content;
    return this.stable.get(block) ?? ZERO_BLOCK;
  }

  private settle(block: number, content: SimPage): void {
    this.unreadable.delete(block);
    this.store(block, content);
    const versions = this.pending.get(block);
    if (versions === undefined) return;
    this.pending.delete(block);
    this.releaseAll(versions);
  }

  private store(block: number, content: SimPage): void {
    const before = this.stable.get(block);
    if (before === content) return;
    content.holders += 1;
    if (content === ZERO_BLOCK) this.stable.delete(block);
    else this.stable.set(block, content);
    if (before !== undefined) this.memory.release(before);
  }

  private releaseAll(versions: readonly Version[]): void {
    for (const { content } of versions) this.memory.release(content);
  }

  private gather(
    offsetBytes: number,
    lengthBytes: number,
    from: (block: number) => SimPage,
  ): Uint8Array {
    const out = new Uint8Array(lengthBytes);
    let at = 0;
    while (at < lengthBytes) {
      const place = offsetBytes + at;
      const block = Math.floor(place / BLOCK_SIZE);
      const within = place - block * BLOCK_SIZE;
      const length = Math.min(BLOCK_SIZE - within, lengthBytes - at);
      out.set(from(block).bytes.subarray(within, within + length), at);
      at += length;
    }
    return out;
  }
}

/** A write on its way to a device. */
export interface FlyingWrite {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  /** The first 4 KiB of it; for reading. */
  readonly head: Uint8Array;
}

/** An operation on its way. */
interface Flight {
  readonly op: DiskOp;
  readonly disk: SimDisk;
  /** What each block becomes, as of the submission; held. */
  readonly contents: readonly SimPage[];
  /** What a flush covers. */
  readonly mark: number;
  /** Waits for a stall to end. */
  held: boolean;
}

/** The disks of one simulated process. */
export class SimDisks implements Disks {
  readonly arena: Arena;
  readonly host: SimHost;
  private readonly memory: SimMemory;
  private readonly find: (path: string, createBytes: number | undefined) => SimDiskFile | undefined;
  private readonly flights = new Set<Flight>();
  private readonly opened = new Set<SimDisk>();
  private landed: Flight[] = [];

  constructor(
    arena: Arena,
    host: SimHost,
    memory: SimMemory,
    find: (path: string, createBytes: number | undefined) => SimDiskFile | undefined,
  ) {
    this.arena = arena;
    this.host = host;
    this.memory = memory;
    this.find = find;
  }

  open(path: string, options: DiskOpenOptions): Disk {
    const file = this.find(path, options.readOnly === true ? undefined : options.createBytes);
    if (file === undefined) {
      throw new FastblockError("FB4011", `opening ${path}: no such file`);
    }
    const joins = (options.shard ?? 0) > 0 && file.owner === this.host;
    if (file.owner !== null && !joins) {
      throw new FastblockError("FB4005", `opening ${path}: another process holds it`);
    }
    file.owner = this.host;
    const disk = new SimDisk(this, file, options.readOnly === true);
    this.opened.add(disk);
    return disk;
  }

  launch(disk: SimDisk, op: DiskOp): void {
    const { engine } = this.host;
    const { faults } = disk.file;
    const flight = {
      op,
      disk,
      contents: this.contentsOf(op),
      mark: disk.file.mark,
      held: false,
    };
    this.flights.add(flight);
    if (disk.file.watcher !== null) this.show(disk.file.watcher, flight);
    engine.trace(TraceKind.DiskSubmit, this.host.id * 8 + op.verb, op.offsetBytes);
    // It stays among the flights until the process ends; then its fate is that of all of them.
    if (disk.file.strikes.hangs(op.verb, faults)) return;
    engine.after(engine.between(faults.latencyUsMin, faults.latencyUsMax), () => this.land(flight));
  }

  /** Handler phase: complete what the devices finished. */
  complete(): number {
    const { landed } = this;
    if (landed.length === 0) return 0;
    this.landed = [];
    for (const flight of landed) {
      const result = this.carryOut(flight);
      const { op, disk } = flight;
      this.flights.delete(flight);
      this.releaseAll(flight);
      this.host.engine.trace(TraceKind.DiskDone, this.host.id, result);
      disk.complete(op, result);
    }
    return landed.length;
  }

  /** Writes on their way to a device, in the order of their submission. */
  flying(file: SimDiskFile): FlyingWrite[] {
    const writes: FlyingWrite[] = [];
    for (const { op, disk, contents } of this.flights) {
      if (disk.file !== file || !isWrite(op.verb)) continue;
      const { offsetBytes, lengthBytes } = op;
      writes.push({ offsetBytes, lengthBytes, head: contents[0]!.bytes });
    }
    return writes;
  }

  /** The power of this process failed; `arrives`: as of `SimWorld.powerCut`. */
  losePower(arrives?: (offsetBytes: number) => boolean): void {
    const files = new Set<SimDiskFile>();
    for (const disk of this.opened) files.add(disk.file);
    const { random } = this.host.engine;
    // What is on its way is torn to pieces; or each write is there as a whole or not at all.
    const isTorn = arrives === undefined && random.below(2) === 0;
    for (const file of files) {
      const flying: { block: number; content: SimPage }[] = [];
      for (const { op, disk, contents } of this.flights) {
        if (disk.file !== file) continue;
        const first = op.offsetBytes / BLOCK_SIZE;
        const isWhole = !isTorn && (arrives?.(op.offsetBytes) ?? random.below(2) === 0);
        contents.forEach((content, index) => {
          if (isTorn) flying.push({ block: first + index, content });
          else if (isWhole) file.putDurable(first + index, content);
        });
      }
      file.losePower(flying);
    }
    for (const flight of this.flights) this.releaseAll(flight);
    this.flights.clear();
    this.opened.clear();
    this.landed = [];
  }

  /** The process ended in order: writes on their way arrive. */
  closeAll(): void {
    for (const flight of this.flights) {
      const { op, disk, contents } = flight;
      const first = op.offsetBytes / BLOCK_SIZE;
      contents.forEach((content, index) => disk.file.put(first + index, content));
      this.releaseAll(flight);
    }
    this.flights.clear();
    this.landed = [];
    for (const disk of this.opened) disk.file.owner = null;
    this.opened.clear();
  }

  closeDisk(disk: SimDisk): void {
    this.opened.delete(disk);
    for (const other of this.opened) if (other.file === disk.file) return;
    disk.file.owner = null;
  }

  private land(flight: Flight): void {
    if (!this.host.alive || !this.flights.has(flight)) return;
    if (flight.disk.file.faults.stalled) {
      // Looked at again until the stall is over.
      this.host.engine.after(1_000, () => this.land(flight));
      return;
    }
    this.landed.push(flight);
    this.host.requestTurn();
  }

  private contentsOf(op: DiskOp): SimPage[] {
    if (op.verb === DiskVerb.Discard) return this.discarded(op.lengthBytes / BLOCK_SIZE);
    const contents: SimPage[] = [];
    if (!isWrite(op.verb)) return contents;
    for (let at = 0; at < op.lengthBytes; at += BLOCK_SIZE) {
      const start = op.arenaOffset + at;
      const content = isZero(this.arena.words, start >>> 2)
        ? ZERO_BLOCK
        : this.memory.takePage(this.arena.block(start));
      content.holders += 1;
      contents.push(content);
    }
    return contents;
  }

  private releaseAll({ contents }: Flight): void {
    for (const content of contents) this.memory.release(content);
  }

  /** A watcher may keep what it sees. */
  private show(watcher: DiskWatcher, { op, contents }: Flight): void {
    for (const content of contents) content.holders = Number.POSITIVE_INFINITY;
    watcher.onSubmit(
      op,
      contents.map(({ bytes }) => bytes),
    );
  }

  /** Reads of a discarded block may see its old content, zeros or rubbish. */
  private discarded(blocks: number): SimPage[] {
    const fate = this.host.engine.random.below(3);
    if (fate === 0) return [];
    return new Array<SimPage>(blocks).fill(fate === 1 ? ZERO_BLOCK : RUBBISH_BLOCK);
  }

  /** Apply a landed operation; answers like the kernel. */
  private carryOut(flight: Flight): number {
    const { op, disk } = flight;
    const { engine } = this.host;
    const { file } = disk;
    const { faults } = file;
    file.noteCompletion();
    if (file.watcher?.onLand(op) === true) return -EIO;
    switch (op.verb) {
      case DiskVerb.Read:
        if (engine.chance(faults.readErrorShare)) return this.failRead(file);
        return this.carryOutRead(op, file);
      case DiskVerb.Write:
        if (engine.chance(faults.writeErrorShare)) return -EIO;
        return this.carryOutWrite(flight, false);
      case DiskVerb.WriteDurable:
        if (engine.chance(faults.writeErrorShare)) return -EIO;
        if (engine.chance(faults.flushErrorShare)) return this.failDurable(flight);
        return this.carryOutWrite(flight, !faults.lyingFlush);
      case DiskVerb.Flush:
        return this.carryOutFlush(flight);
      case DiskVerb.Discard:
        return this.carryOutDiscard(flight);
    }
  }

  /** As with fsync: who has the device open hears once of what was lost, for whomever. */
  private carryOutFlush({ disk, mark }: Flight): number {
    const { file } = disk;
    const { faults, strikes } = file;
    const fails = faults.failFlushes > 0 || this.host.engine.chance(faults.flushErrorShare);
    if (faults.failFlushes > 0) faults.failFlushes -= 1;
    if (fails) file.failFlush(mark);
    const isNews = disk.failuresTold < strikes.flushesFailed;
    disk.failuresTold = strikes.flushesFailed;
    if (isNews) return -faults.flushErrno;
    if (!faults.lyingFlush) file.flush(mark);
    return 0;
  }

  /** A durable write that failed may have written, and made nothing durable. */
  private failDurable(flight: Flight): number {
    const { file } = flight.disk;
    if (file.strikes.odds.below(2) === 0) this.carryOutWrite(flight, false);
    return -file.faults.flushErrno;
  }

  private failRead(file: SimDiskFile): number {
    file.strikes.readsFailed += 1;
    return -EIO;
  }

  private carryOutRead(op: DiskOp, file: SimDiskFile): number {
    let first = op.offsetBytes / BLOCK_SIZE;
    const count = op.lengthBytes / BLOCK_SIZE;
    if (this.host.engine.chance(file.faults.misdirectedReadShare)) {
      first = this.host.engine.random.below(file.sizeBytes / BLOCK_SIZE - count + 1);
      file.strikes.strayed += 1;
    }
    if (file.isUnreadable(first, count)) return this.failRead(file);
    const { bytes } = this.arena;
    let zeros = 0;
    for (let index = 0; index <= count; index++) {
      const content = index < count ? file.read(first + index) : null;
      const at = op.arenaOffset + index * BLOCK_SIZE;
      if (content === ZERO_BLOCK) {
        zeros += 1;
        continue;
      }
      // A device is mostly empty: zeros in one go.
      if (zeros > 0) bytes.fill(0, at - zeros * BLOCK_SIZE, at);
      zeros = 0;
      if (content !== null) bytes.set(content.bytes, at);
    }
    const sectors = op.lengthBytes / SECTOR_SIZE;
    const moved = file.strikes.drawMoved(sectors, file.faults) * SECTOR_SIZE;
    if (moved < op.lengthBytes) {
      bytes.fill(RUBBISH, op.arenaOffset + moved, op.arenaOffset + op.lengthBytes);
      return moved;
    }
    return Math.max(0, Math.min(op.lengthBytes, file.endBytes - op.offsetBytes));
  }

  private carryOutWrite(flight: Flight, durable: boolean): number {
    const { op, disk, contents } = flight;
    const { engine } = this.host;
    const { file } = disk;
    this.checkUnchanged(op, contents);
    if (engine.chance(file.faults.lostWriteShare)) {
      file.strikes.strayed += 1;
      return op.lengthBytes;
    }
    let first = op.offsetBytes / BLOCK_SIZE;
    const isFull = file.faults.noSpace || file.bytesBeneath === 0;
    if (isFull && file.isHole(first, contents.length)) return -ENOSPC;
    if (engine.chance(file.faults.misdirectedWriteShare)) {
      first = engine.random.below(file.sizeBytes / BLOCK_SIZE - contents.length + 1);
      file.strikes.strayed += 1;
    }
    const sectors = op.lengthBytes / SECTOR_SIZE;
    const moved = file.strikes.drawMoved(sectors, file.faults);
    if (moved < sectors) return this.carryOutPart(flight, moved);
    for (let index = 0; index < contents.length; index++) {
      if (durable) file.putDurable(first + index, contents[index]!);
      else file.put(first + index, contents[index]!);
    }
    return op.lengthBytes;
  }

  /** The first sectors of a write, none of them durable. */
  private carryOutPart({ op, disk, contents }: Flight, sectors: number): number {
    const first = op.offsetBytes / BLOCK_SIZE;
    for (let left = sectors, at = 0; left > 0; left -= SECTORS_PER_BLOCK, at++) {
      if (left < SECTORS_PER_BLOCK) disk.file.putPart(first + at, contents[at]!, left);
      else disk.file.put(first + at, contents[at]!);
    }
    return sectors * SECTOR_SIZE;
  }

  /**
   * The memory belongs to the disk until `onDone`: whoever wrote into it has a bug. Looked at are the
   * first words of a block, where headers differ, and some of the rest.
   */
  private checkUnchanged(op: DiskOp, contents: readonly SimPage[]): void {
    const { words } = this.arena;
    let differ = 0;
    for (let index = 0; index < contents.length; index++) {
      const content = contents[index]!.words;
      const start = (op.arenaOffset + index * BLOCK_SIZE) >>> 2;
      for (let at = 0; at < HEAD_WORDS; at++) differ |= words[start + at]! ^ content[at]!;
      for (let at = HEAD_WORDS; at < BLOCK_SIZE / 4; at += WORDS_STEP) {
        differ |= words[start + at]! ^ content[at]!;
      }
    }
    assert(differ === 0, "SimDisk: the memory of a write in flight was changed");
  }

  private carryOutDiscard({ op, disk, contents }: Flight): number {
    const { file } = disk;
    if (file.faults.discardErrno !== 0) return -file.faults.discardErrno;
    const first = op.offsetBytes / BLOCK_SIZE;
    contents.forEach((content, index) => file.put(first + index, content));
    return 0;
  }
}

class SimDisk extends DiskBase {
  readonly file: SimDiskFile;
  /** Failed flushes of the device that whoever opened it knows of. */
  failuresTold: number;
  private readonly disks: SimDisks;

  constructor(disks: SimDisks, file: SimDiskFile, readOnly: boolean) {
    const { path, sizeBytes, direct } = file;
    super("memory", { path, sizeBytes, direct, readOnly });
    this.disks = disks;
    this.file = file;
    this.failuresTold = file.strikes.flushesFailed;
  }

  protected launch(op: DiskOp): void {
    this.disks.launch(this, op);
  }

  override bytesBeneath(): number {
    return this.file.bytesBeneath;
  }

  protected release(): void {
    this.disks.closeDisk(this);
  }
}

function isWrite(verb: DiskVerb): boolean {
  return verb === DiskVerb.Write || verb === DiskVerb.WriteDurable;
}

function isZero(words: Int32Array, at: number): boolean {
  for (let next = at; next < at + BLOCK_SIZE / 4; next += 4) {
    const any = words[next]! | words[next + 1]! | words[next + 2]! | words[next + 3]!;
    if (any !== 0) return false;
  }
  return true;
}

function isEqual(left: Uint8Array, right: Uint8Array): boolean {
  for (let at = 0; at < left.length; at++) if (left[at] !== right[at]) return false;
  return left.length === right.length;
}
