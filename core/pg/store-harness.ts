// cold path: drives one local store in the simulator, for tests.
import { assert } from "../base/assert.ts";
import type { Logger } from "../base/logger.ts";
import { Prng } from "../base/prng.ts";
import { Status } from "../base/status.ts";
import { BLOCK_SIZE, BLOCKS_PER_UNIT } from "../base/units.ts";
import { type Entry, EntryType } from "../log/log.ts";
import type { Disk, World } from "../reactor/world.ts";
import {
  BlockState,
  type GroupState,
  LocalStore,
  type RecoveredGroup,
  SNAP_SEQ_HEAD,
  StoreFillOp,
  StoreLoadOp,
  type StoreOptions,
  type StoreOwner,
  StoreReadOp,
  StoreRepairOp,
  type StoreTuning,
  UnitListing,
  UnitState,
} from "./local-store.ts";

export const RIG_CLUSTER: Uint8Array = new Uint8Array(16).fill(7);

/** Runs the world until a condition holds. */
export interface RigRunner {
  /** Lets the world run until `done`; throws when it takes too long. */
  until(done: () => boolean, what: string): Promise<void>;
}

/** One operation of a group's log, as the test knows it. */
export interface RigEntry {
  readonly index: number;
  readonly term: number;
  readonly type: EntryType;
  readonly layer: number;
  readonly firstBlock: number;
  readonly blocks: number;
  readonly snapSeq: number;
  /** What the blocks hold: block i is the pattern (stamp, firstBlock + i). */
  readonly stamp: number;
  readonly data: Uint8Array | null;
  /** Default 11; its number is the index. */
  readonly session?: number;
}

/** The owner of a store in tests: remembers what it was told. */
export class RigOwner implements StoreOwner {
  readonly durable = new Map<number, number>();
  readonly created = new Set<number>();
  readonly begun = new Set<number>();
  readonly ended = new Set<number>();
  readonly gone = new Set<number>();
  readonly hardStates = new Map<number, number>();
  readonly damaged: { layer: number; block: number; version: number }[] = [];
  failed = "";
  slow = 0;
  starved = 0;
  applied = new Map<number, number>();
  /** First entry that others need, by row. */
  readonly needed = new Map<number, number>();
  /** Rows that take another position, and which; rows that are being renewed. */
  readonly beginning = new Map<number, number>();
  readonly renewing = new Set<number>();
  conf = new Uint8Array([1, 2, 3]);

  onDurable(row: number, index: number): void {
    this.durable.set(row, index);
  }
  onHardStateDurable(row: number): void {
    this.hardStates.set(row, (this.hardStates.get(row) ?? 0) + 1);
  }
  onReplicaCreated(row: number): void {
    this.created.add(row);
    if (this.renewing.delete(row)) this.applied.set(row, 0);
  }
  onFillBegun(row: number): void {
    this.begun.add(row);
    this.applied.set(row, this.beginning.get(row)!);
  }
  onFillEnded(row: number): void {
    this.ended.add(row);
  }
  onReplicaGone(row: number): void {
    this.gone.add(row);
  }
  onDeviceFailed(reason: string): void {
    this.failed = reason;
  }
  onDeviceSlow(): void {
    this.slow += 1;
  }
  onDeviceStarved(): void {
    this.starved += 1;
  }
  onDeviceRecovered(): void {
    this.slow -= 1;
  }
  onDamaged(_row: number, layer: number, block: number, _snapSeq: number, version: number): void {
    this.damaged.push({ layer, block, version });
  }
  encodeState(row: number): GroupState {
    return this.stateAt(this.applied.get(row) ?? 0);
  }
  neededFrom(row: number): number {
    return this.needed.get(row) ?? Number.POSITIVE_INFINITY;
  }

  stateAt(applied: number): GroupState {
    const bits = new Uint32Array(8);
    bits[0] = 5;
    return {
      applied,
      conf: this.conf,
      confIndex: 0,
      expiredBelow: 3,
      sessions: [{ session: 11, base: 4, bits, lastIndex: 2 }],
      fences: [{ layer: 9, lockEpoch: 2, snapSeq: 1 }],
    };
  }
}

/** Fill a block with a pattern that no other (stamp, block) has. */
function fillBlock(bytes: Uint8Array, at: number, stamp: number, block: number): void {
  const words = new Uint32Array(BLOCK_SIZE / 4);
  const random = new Prng(stamp * 1_000_003 + block);
  for (let word = 0; word < words.length; word += 64) words.fill(random.u32(), word, word + 64);
  words[0] = stamp;
  words[1] = block >>> 0;
  bytes.set(new Uint8Array(words.buffer), at);
}

class AwaitedRead extends StoreReadOp {
  done = false;
  onDone(): void {
    this.done = true;
  }
}

class AwaitedRepair extends StoreRepairOp {
  done = false;
  onDone(): void {
    this.done = true;
  }
}

class AwaitedLoad extends StoreLoadOp {
  done = false;
  onDone(): void {
    this.done = true;
  }
}

/** One block of a fill. */
export interface RigFillBlock {
  readonly bit: number;
  readonly state: BlockState;
  readonly version: number;
  readonly stamp: number;
}

/** A fill under way; gives its payload back when it is answered. */
export class RigFill extends StoreFillOp {
  done = false;
  private readonly world: World;

  constructor(world: World, row: number, key: RigKey, at: number, blocks: readonly RigFillBlock[]) {
    super();
    this.world = world;
    this.row = row;
    this.layer = key.layer;
    this.unit = key.unit;
    this.snapSeq = key.snapSeq;
    this.at = at;
    const data = blocks.filter((block) => block.state === BlockState.Data);
    if (data.length > 0) this.arenaOffset = world.slots.take(data.length * BLOCK_SIZE);
    let payload = this.arenaOffset;
    for (const { bit, state, version, stamp } of blocks) {
      this.mask |= 1 << bit;
      this.states[bit] = state;
      this.versions[bit] = version;
      if (state !== BlockState.Data) continue;
      fillBlock(world.arena.bytes, payload, stamp, key.unit * BLOCKS_PER_UNIT + bit);
      this.crcs[bit] = world.checksum.crc32(world.arena.block(payload), 0);
      payload += BLOCK_SIZE;
    }
  }

  onDone(): void {
    assert(!this.done, "rig: a fill was answered twice");
    this.done = true;
    if (this.arenaOffset >= 0) this.world.slots.release(this.arenaOffset);
  }
}

/** Names a unit. */
export interface RigKey {
  readonly layer: number;
  readonly unit: number;
  readonly snapSeq: number;
}

/** What a read answered. */
export interface RigBlock {
  readonly state: BlockState;
  readonly version: number;
  /** First two words of the pattern, when it is data and whole. */
  readonly stamp: number;
}

/** A store under test. */
export class StoreRig {
  readonly owner: RigOwner;
  readonly store: LocalStore;
  readonly world: World;
  private readonly runner: RigRunner;

  private constructor(world: World, store: LocalStore, owner: RigOwner, runner: RigRunner) {
    this.world = world;
    this.store = store;
    this.owner = owner;
    this.runner = runner;
  }

  static async open(
    world: World,
    disk: Disk,
    logger: Logger,
    runner: RigRunner,
    more: Partial<StoreOptions> & { tuning?: Partial<StoreTuning>; owner?: RigOwner } = {},
  ): Promise<StoreRig> {
    const owner = more.owner ?? new RigOwner();
    const opening = LocalStore.open({
      world,
      disk,
      clusterId: RIG_CLUSTER,
      osd: 1,
      shard: 0,
      shardCount: 1,
      owner,
      logger,
      ...more,
    });
    return new StoreRig(world, await settle(opening, runner, "open"), owner, runner);
  }

  until(done: () => boolean, what: string): Promise<void> {
    return this.runner.until(done, what);
  }

  await<T>(promise: Promise<T>, what: string): Promise<T> {
    return settle(promise, this.runner, what);
  }

  async create(pg: number, replicaId = 1, base = 0, baseTerm = 0): Promise<number> {
    const row = this.store.createReplica(pg, replicaId, this.owner.conf, base, baseTerm);
    assert(row >= 0, "rig: the replica was refused");
    this.owner.applied.set(row, base);
    await this.until(() => this.owner.created.has(row), "replica created");
    return row;
  }

  /** Reserve and append. Answers the status of the reservation. */
  append(row: number, what: RigEntry): Status {
    const entry = this.store.entries.take();
    this.setEntry(entry, what);
    const status = this.store.reserve(row, entry);
    if (status === Status.Ok) this.store.append(row, entry);
    this.store.entries.release(entry);
    return status;
  }

  private setEntry(entry: Entry, what: RigEntry): void {
    entry.index = what.index;
    entry.term = what.term;
    entry.type = what.type;
    entry.layer = what.layer;
    entry.firstBlock = what.firstBlock;
    entry.blocks = what.blocks;
    entry.snapSeq = what.snapSeq;
    entry.session = what.session ?? 11;
    entry.number = what.index;
    entry.data = what.data;
    if (what.type !== EntryType.Write) return;
    const { arena, slots, checksum } = this.world;
    entry.payload = slots.take(what.blocks * BLOCK_SIZE);
    assert(entry.payload >= 0, "rig: no slot");
    for (let block = 0; block < what.blocks; block++) {
      const at = entry.payload + block * BLOCK_SIZE;
      fillBlock(arena.bytes, at, what.stamp, what.firstBlock + block);
      entry.crcs[block] = checksum.crc32(arena.block(at), 0);
    }
  }

  /** Apply an entry whose payload needs no memory any more. */
  apply(row: number, what: RigEntry): void {
    const entry = this.store.entries.take();
    entry.index = what.index;
    entry.term = what.term;
    entry.type = what.type;
    entry.layer = what.layer;
    entry.firstBlock = what.firstBlock;
    entry.blocks = what.blocks;
    entry.snapSeq = what.snapSeq;
    if (what.type === EntryType.Write) {
      const bytes = new Uint8Array(BLOCK_SIZE);
      for (let block = 0; block < what.blocks; block++) {
        fillBlock(bytes, 0, what.stamp, what.firstBlock + block);
        entry.crcs[block] = this.world.checksum.crc32(bytes, 0);
      }
    }
    this.store.apply(row, entry);
    this.owner.applied.set(row, what.index);
    this.store.entries.release(entry);
  }

  /** Apply entries found at start, up to `commit`. */
  replay(group: RecoveredGroup, commit: number): void {
    this.owner.applied.set(group.row, this.store.appliedIndex(group.row));
    for (let index = this.store.appliedIndex(group.row) + 1; index <= commit; index++) {
      const entry = this.store.entries.take();
      assert(this.store.recoveredEntry(group.row, index, entry), "rig: no recovered entry");
      this.store.apply(group.row, entry);
      this.owner.applied.set(group.row, index);
      this.store.entries.release(entry);
    }
  }

  async read(
    row: number,
    layer: number,
    firstBlock: number,
    blocks: number,
    snapSeq: number = SNAP_SEQ_HEAD,
  ): Promise<RigBlock[]> {
    const op = new AwaitedRead();
    op.row = row;
    op.layer = layer;
    op.firstBlock = firstBlock;
    op.blocks = blocks;
    op.snapSeq = snapSeq;
    op.arenaOffset = this.world.slots.take(blocks * BLOCK_SIZE);
    assert(op.arenaOffset >= 0, "rig: no slot");
    const now = this.store.read(op);
    if (!now) await this.until(() => op.done, "read");
    assert(op.status === Status.Ok, "rig: the read failed");
    const found: RigBlock[] = [];
    const { view } = this.world.arena;
    for (let at = 0; at < blocks; at++) {
      const offset = op.arenaOffset + at * BLOCK_SIZE;
      const data = op.states[at] === BlockState.Data;
      const whole = data && view.getUint32(offset + 4, true) === (firstBlock + at) >>> 0;
      found.push({
        state: op.states[at]!,
        version: op.versions[at]!,
        stamp: whole ? view.getUint32(offset, true) : 0,
      });
    }
    this.world.slots.release(op.arenaOffset);
    return found;
  }

  /** Repair a block of version `version` with the pattern of `stamp`. */
  async repair(
    row: number,
    layer: number,
    block: number,
    version: number,
    stamp: number,
  ): Promise<Status> {
    const op = new AwaitedRepair();
    op.row = row;
    op.layer = layer;
    op.block = block;
    op.version = version;
    op.arenaOffset = this.world.slots.take(BLOCK_SIZE);
    fillBlock(this.world.arena.bytes, op.arenaOffset, stamp, block);
    op.crc = this.world.checksum.crc32(this.world.arena.block(op.arenaOffset), 0);
    this.store.repair(op);
    await this.until(() => op.done, "repair");
    this.world.slots.release(op.arenaOffset);
    return op.status;
  }

  /** Put a replica to another position. `owner.begun` tells the end. */
  beginFill(row: number, index: number, term: number): void {
    this.owner.begun.delete(row);
    this.owner.beginning.set(row, index);
    this.store.beginFill(row, index, term, this.owner.stateAt(index));
  }

  /** Give a replica another id. `owner.created` tells the end. */
  renew(row: number, replicaId: number): void {
    this.owner.created.delete(row);
    this.owner.renewing.add(row);
    this.store.renewReplica(row, replicaId, this.owner.conf);
  }

  /** Hand a fill to the store. */
  startFill(row: number, key: RigKey, blocks: readonly RigFillBlock[]): RigFill {
    const op = new RigFill(this.world, row, key, this.store.appliedIndex(row), blocks);
    this.store.fill(op);
    return op;
  }

  async fill(row: number, key: RigKey, blocks: readonly RigFillBlock[]): Promise<Status> {
    const op = this.startFill(row, key, blocks);
    await this.until(() => op.done, "fill");
    return op.status;
  }

  /** What a reader sees of a unit. */
  async unit(row: number, key: RigKey): Promise<UnitState> {
    const state = new UnitState();
    state.layer = key.layer;
    state.unit = key.unit;
    state.snapSeq = key.snapSeq;
    const look = (): void => this.store.unitState(row, state);
    if (this.store.isPaged) await this.await(this.store.withUnits(row, [key], look), "unit");
    else look();
    return state;
  }

  /** All units that a replica holds. */
  async list(row: number): Promise<RigKey[]> {
    const keys: RigKey[] = [];
    const page = new UnitListing();
    let cursor = 0;
    while (cursor >= 0) {
      cursor = this.store.listUnits(row, cursor, page);
      for (let at = 0; at < page.count; at++) {
        const key = { layer: page.layers[at]!, unit: page.units[at]!, snapSeq: page.snapSeqs[at]! };
        const state = await this.unit(row, key);
        this.store.digestOf(state);
        if (this.store.isPaged) {
          const digest = (): void => this.store.digestListing(row, page, at, at + 1);
          await this.await(this.store.withUnits(row, [key], digest), "digest");
        }
        assert(state.digestLow === page.digestsLow[at], "rig: the listing tells another digest");
        assert(state.digestHigh === page.digestsHigh[at], "rig: the listing tells another digest");
        keys.push(key);
      }
    }
    return keys;
  }

  /** crc32 of the pattern (stamp, block). */
  crcOf(stamp: number, block: number): number {
    const bytes = new Uint8Array(BLOCK_SIZE);
    fillBlock(bytes, 0, stamp, block);
    return this.world.checksum.crc32(bytes, 0);
  }

  /** Read an entry back from the log; the caller releases it. */
  async load(row: number, index: number): Promise<{ status: Status; entry: Entry }> {
    const op = new AwaitedLoad();
    op.row = row;
    op.index = index;
    op.entry = this.store.entries.take();
    this.store.loadEntry(op);
    await this.until(() => op.done, "load");
    return { status: op.status, entry: op.entry };
  }
}

/** Let the world run until a promise settles. */
export async function settle<T>(promise: Promise<T>, runner: RigRunner, what: string): Promise<T> {
  let value: T | undefined;
  let error: unknown;
  let state = 0;
  promise.then(
    (got) => {
      value = got;
      state = 1;
    },
    (caught: unknown) => {
      error = caught;
      state = 2;
    },
  );
  await runner.until(() => state !== 0, what);
  if (state === 2) throw error;
  return value as T;
}
