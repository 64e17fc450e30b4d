import { assert } from "../base/assert.ts";
import { FastblockError } from "../base/errors.ts";
import { Prng } from "../base/prng.ts";
import { Status } from "../base/status.ts";
import { BLOCK_SIZE, PAYLOAD_BLOCKS_MAX } from "../base/units.ts";
import { type Entry, EntryType } from "../log/log.ts";
import { LatencyHistogram } from "../metrics/metrics.ts";
import type { GroupState, LocalStore, StoreCounters, StoreOwner, StoreUsage } from "../pg/pg.ts";
import { CallbackTimer, type Drain, DrainOrder, sleep, type World } from "../reactor/world.ts";

/** Of the one replica that a load writes to. */
export const LOAD_PG = 65_537;
/** Where the log of that replica begins: what was there before is older. */
export const LOAD_BASE = 1;
const LOOK_US = 1000;

export interface TurnDone {
  readonly us: number;
  readonly histogram: LatencyHistogram;
  readonly unitsCopied: number;
}

export interface StoreLoadOptions {
  readonly imageBytes: number;
  /** Writes open at a time. */
  readonly depth: number;
}

export interface LoadTarget {
  readonly layer: number;
  readonly snapSeq: number;
}

/**
 * Random 4 KiB writes to one replica of a local store. Stands where raft and the groups stand: what is
 * durable is committed, and applied at once.
 */
export class StoreLoad implements StoreOwner, Drain {
  row = -1;
  private readonly world: World;
  private readonly options: StoreLoadOptions;
  private readonly random = new Prng(1);
  private readonly retry: CallbackTimer;
  private readonly open: { readonly entry: Entry; readonly sinceUs: number }[] = [];
  private histogram = new LatencyHistogram();
  private store: LocalStore | null = null;
  private failure = "";
  private created = -1;
  private last = LOAD_BASE;
  private durable = LOAD_BASE;
  private applied = LOAD_BASE;
  /** What is written; null: nothing. */
  private target: LoadTarget | null = null;
  /** Next block of a layer that is written in full; -1: random places. */
  private fillBlock = -1;

  constructor(world: World, options: StoreLoadOptions) {
    this.world = world;
    this.options = options;
    this.retry = new CallbackTimer(() => undefined);
    // Before the log's: what follows on what has become durable is in the same turn's batch.
    world.turns.addDrain(DrainOrder.Receive, this);
  }

  /** Make the replica in a store that was just opened. */
  async begin(store: LocalStore): Promise<void> {
    this.store = store;
    this.created = store.createReplica(LOAD_PG, 1, new Uint8Array([1]), LOAD_BASE, LOAD_BASE);
    store.finishRecovery();
    this.world.turns.again();
    await this.until(() => this.row >= 0);
  }

  /** Go on with the replica that `begin` made before the store was closed, and nobody wrote to. */
  goOn(store: LocalStore): void {
    const found = store.recovered.find(({ pg }) => pg === LOAD_PG);
    assert(found !== undefined, "StoreLoad.goOn: the replica is not there");
    this.store = store;
    this.row = found.row;
    store.finishRecovery();
    this.world.turns.again();
  }

  async fill(layer: number): Promise<void> {
    this.fillBlock = 0;
    this.target = { layer, snapSeq: 0 };
    this.world.turns.again();
    await this.until(() => this.target === null && this.open.length === 0);
    this.fillBlock = -1;
    await this.home();
  }

  /** Write random blocks of the target until `enough` resolves, then wait until all is home. */
  async turn(target: LoadTarget, enough: () => Promise<void>): Promise<TurnDone> {
    const { clock } = this.world;
    const { unitsCopied } = this.counters;
    const fromUs = clock.nowUs();
    this.histogram = new LatencyHistogram();
    this.target = target;
    this.world.turns.again();
    await enough();
    this.target = null;
    await this.until(() => this.open.length === 0);
    await this.home();
    const us = clock.nowUs() - fromUs;
    const { histogram } = this;
    return { us, histogram, unitsCopied: this.counters.unitsCopied - unitsCopied };
  }

  async end(): Promise<void> {
    const { store } = this;
    this.store = null;
    await store!.close();
  }

  /** Throws FB5001 when the store has failed meanwhile. */
  async until(done: () => boolean): Promise<void> {
    while (!done()) {
      await sleep(this.world.timers, LOOK_US);
      if (this.failure === "") continue;
      throw new FastblockError("FB5001", `writing to the store: ${this.failure}`);
    }
  }

  private async home(): Promise<void> {
    const store = this.store!;
    store.requestCheckpoint();
    await this.until(() => store.usage().overlayBlocks === 0);
  }

  /** Of the store now. */
  get usage(): StoreUsage {
    return this.store!.usage();
  }

  /** Of the store, since it was opened. */
  get counters(): StoreCounters {
    return this.store!.counters;
  }

  drain(): void {
    const { store } = this;
    if (store === null || this.row < 0 || this.failure !== "") return;
    if (this.durable > this.applied) store.setCommit(this.row, this.durable);
    const nowUs = this.world.clock.nowUs();
    for (let count = this.durable - this.applied; count > 0; count--) {
      const { entry, sinceUs } = this.open.shift()!;
      store.apply(this.row, entry);
      this.applied = entry.index;
      store.entries.release(entry);
      this.histogram.record(nowUs - sinceUs);
    }
    while (this.target !== null && this.open.length < this.options.depth) {
      if (!this.submit(store, nowUs)) return;
    }
  }

  /** False: not now. */
  private submit(store: LocalStore, nowUs: number): boolean {
    const { imageBytes } = this.options;
    const blocks = this.fillBlock < 0 ? 1 : PAYLOAD_BLOCKS_MAX;
    const imageBlocks = imageBytes / BLOCK_SIZE;
    const entry = store.entries.take();
    this.describe(
      entry,
      this.fillBlock < 0 ? this.random.below(imageBlocks) : this.fillBlock,
      blocks,
    );
    const status = entry.payload < 0 ? Status.Busy : store.reserve(this.row, entry);
    if (status !== Status.Ok) {
      store.entries.release(entry);
      if (status !== Status.Busy) this.failure = `status ${Status[status]}, wanted Ok`;
      else this.world.timers.arm(this.retry, LOOK_US);
      return false;
    }
    this.last = entry.index;
    this.open.push({ entry, sinceUs: nowUs });
    store.append(this.row, entry);
    if (this.fillBlock < 0) return true;
    this.fillBlock += blocks;
    if (this.fillBlock >= imageBlocks) this.target = null;
    return true;
  }

  private describe(entry: Entry, firstBlock: number, blocks: number): void {
    const { target, world } = this;
    assert(target !== null, "StoreLoad: nothing is written");
    const { arena, checksum, slots } = world;
    entry.index = this.last + 1;
    entry.term = 1;
    entry.type = EntryType.Write;
    entry.layer = target.layer;
    entry.snapSeq = target.snapSeq;
    entry.firstBlock = firstBlock;
    entry.blocks = blocks;
    entry.session = 1;
    entry.number = entry.index;
    entry.payload = slots.take(blocks * BLOCK_SIZE);
    if (entry.payload < 0) return;
    for (let block = 0; block < blocks; block++) {
      const at = entry.payload + block * BLOCK_SIZE;
      arena.words[at >>> 2] = this.random.u32();
      entry.crcs[block] = checksum.crc32(arena.block(at), 0);
    }
  }

  /* ------------------------------------------------------------ of the store */

  onDurable(_row: number, index: number): void {
    this.durable = index;
  }

  onReplicaCreated(): void {
    this.row = this.created;
  }

  onDeviceFailed(reason: string): void {
    this.failure = reason;
  }

  onDamaged(_row: number, layer: number, block: number): void {
    this.failure = `block ${block} of layer ${layer} does not match its checksum`;
  }

  encodeState(): GroupState {
    const conf = new Uint8Array([1]);
    return { applied: this.applied, conf, confIndex: 0, expiredBelow: 0, sessions: [], fences: [] };
  }

  neededFrom(): number {
    return Number.POSITIVE_INFINITY;
  }

  onHardStateDurable(): void {}
  onReplicaGone(): void {}
  onFillBegun(): void {}
  onFillEnded(): void {}
  onDeviceSlow(): void {}
  onDeviceRecovered(): void {}
  onDeviceStarved(): void {}
}
