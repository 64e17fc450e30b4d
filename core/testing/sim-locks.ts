// cold: the simulator
import { assert } from "../base/assert.ts";
import { FastblockError } from "../base/errors.ts";
import { Prng } from "../base/prng.ts";
import { Status, statusName } from "../base/status.ts";
import { BLOCK_SIZE } from "../base/units.ts";
import { type Image, ImageOp, OpKind } from "../client/client.ts";
import type { SimWorld } from "../reactor/reactor.ts";
import { checkRegisters } from "./linearizable.ts";
import { RegisterHistory } from "./linearizable-history.ts";
import type { SimClient, SimCluster } from "./sim-cluster.ts";
import { SimPace, type Thinking } from "./sim-pace.ts";
import { stampBlock, stampOf } from "./sim-stamps.ts";

/**
 * Clients that take an image from each other by its exclusive lock, as a gateway does that replaces
 * another one: G4.
 *
 * Once a holder got an answer for a block, the holders before it are fenced there: what they begin
 * afterwards does not succeed, and what they had open takes effect before that moment or never. And
 * blocks are registers, whoever holds the image.
 */

/** The image that is handed around. */
export const LOCKED_IMAGE = "locked";
/** In two objects, so in two groups mostly. */
const BLOCKS: readonly number[] = [0, 1, 40, 41];
/** Operations that a holder has open. */
const DEPTH = 3;
const THINK_US_MAX = 4_000;
/** How long an image is held. */
const HOLD_US_MIN = 100_000;
const HOLD_US_SPAN = 900_000;
const STEP_US = 5_000;
const RETRY_US = 50_000;
const STAMPS_FIRST = 0x2000_0000;

/** A write whose holder got no good answer. */
interface OpenWrite {
  readonly holder: number;
  readonly key: number;
  readonly value: number;
  readonly callNs: number;
}

/** Since when holders below this one are fenced. */
interface Fence {
  readonly holder: number;
  readonly atNs: number;
}

export class SimLocks {
  operations = 0;
  /** Operations that were refused for damage. */
  refused = 0;
  /** A replica may be damaged: operations may be refused. */
  mayRefuse = false;
  private readonly cluster: SimCluster;
  private readonly random: Prng;
  private readonly pace: SimPace;
  private readonly clients: readonly SimClient[];
  private readonly history = new RegisterHistory();
  private readonly seen = new Set<number>();
  private readonly given: OpenWrite[] = [];
  /** By block: every moment at which another holder was answered there first. */
  private readonly fences: Fence[][] = BLOCKS.map(() => []);
  private readonly holders: Holder[] = [];
  private stamps = STAMPS_FIRST;
  private stopping = true;
  private hurries = false;
  private passing = false;
  /** Grows with each start: who waits since an earlier one does not go on. */
  private round = 0;

  /** `clients`: those that live as long as the run; `thinking`: see `SimPace`. */
  constructor(cluster: SimCluster, clients: readonly SimClient[], thinking: Thinking) {
    this.cluster = cluster;
    this.clients = clients;
    this.random = new Prng(cluster.simulation.seed * 41 + 9);
    this.pace = new SimPace(THINK_US_MAX, thinking);
  }

  start(): void {
    this.stopping = false;
    this.round += 1;
    this.passing = true;
    this.pace.begin(this.operations);
    this.pass().then(
      () => {
        this.passing = false;
      },
      (error: unknown) => this.cluster.simulation.fail("lock", error),
    );
  }

  stop(): void {
    this.stopping = true;
  }

  get idle(): boolean {
    return this.stopping && !this.passing && this.holders.every(({ open }) => open === 0);
  }

  /** The process that holds the image; null: nobody. Another one takes it soon. */
  hasten(): SimWorld | null {
    const holder = this.holders.at(-1);
    if (holder === undefined || this.hurries) return null;
    this.hurries = true;
    return holder.client.world;
  }

  private async pass(): Promise<void> {
    const { simulation } = this.cluster;
    for (let turn = this.random.below(2); !this.stopping; turn++) {
      await this.take(this.clients[turn % this.clients.length]!);
      const endUs = simulation.nowUs + HOLD_US_MIN + this.random.below(HOLD_US_SPAN);
      this.hurries = false;
      while (!this.stopping && !this.hurries && simulation.nowUs < endUs) await this.sleep(STEP_US);
    }
  }

  private async take(client: SimClient): Promise<Holder | null> {
    for (;;) {
      try {
        const options = { exclusive: true, takeOver: true };
        const image = await client.client.openImage(`pool/${LOCKED_IMAGE}`, options);
        const holder = new Holder(this, this.holders.length + 1, client, image);
        this.holders.push(holder);
        for (const op of holder.ops) this.next(op);
        return holder;
      } catch (error) {
        // The monitor can not be reached.
        if (!(error instanceof FastblockError)) throw error;
        if (this.stopping) return null;
        await this.sleep(RETRY_US);
      }
    }
  }

  private sleep(us: number): Promise<void> {
    return new Promise((resolve) => this.cluster.simulation.after(us, resolve));
  }

  private get nowNs(): number {
    return this.cluster.simulation.nowUs * 1000;
  }

  /* ----------------------------------------------------------- operations */

  private next(op: LockOp): void {
    if (this.stopping || op.holder.fenced) return;
    op.key = this.random.below(BLOCKS.length);
    op.kind = this.random.below(2) === 0 ? OpKind.Read : OpKind.Write;
    op.stamp = 0;
    if (op.kind === OpKind.Write) {
      this.stamps += 1;
      op.stamp = this.stamps;
      stampBlock(op.content, op.stamp);
    }
    this.submit(op);
  }

  private submit(op: LockOp): void {
    op.offsetBytes = BLOCKS[op.key]! * BLOCK_SIZE;
    op.lengthBytes = BLOCK_SIZE;
    op.begin(this.nowNs);
    op.holder.image.submit(op);
  }

  /** An operation was answered. */
  onAnswered(op: LockOp): void {
    const { holder } = op;
    op.isOpen = false;
    holder.open -= 1;
    if (op.status === Status.Ok) this.record(op);
    else {
      const { status } = op;
      const isFenced = status === Status.Fenced || status === Status.SessionExpired;
      const isRefused = this.mayRefuse && (status === Status.Damaged || status === Status.NoSpace);
      assert(isFenced || isRefused, `operation of a holder answered ${statusName(status)}`);
      holder.fenced ||= isFenced;
      if (status === Status.Damaged) this.refused += 1;
      if (op.kind === OpKind.Write) {
        this.given.push({ holder: holder.number, key: op.key, value: op.stamp, callNs: op.callNs });
      }
    }
    const thinkUs = this.pace.thinkUs(this.random, this.operations);
    const { round } = this;
    this.cluster.simulation.after(thinkUs, () => {
      if (this.round === round) this.next(op);
    });
  }

  private record(op: LockOp): void {
    const { holder, key, callNs } = op;
    const returnNs = this.nowNs;
    const isWrite = op.kind === OpKind.Write;
    this.operations += 1;
    assert(
      callNs <= this.fencedNs(key, holder.number),
      "a holder that is fenced was answered with Ok",
    );
    const before = this.fences[key]!.at(-1);
    if (before === undefined || before.holder < holder.number) {
      this.fences[key]!.push({ holder: holder.number, atNs: returnNs });
    }
    const value = isWrite ? op.stamp : stampOf(op.content);
    assert(value >= 0, "a block of the locked image is no whole write");
    if (!isWrite) this.seen.add(value);
    this.history.add({ key, client: holder.number, isWrite, value, callNs, returnNs });
  }

  /** When the holder was fenced at a block; Infinity: it is not. */
  private fencedNs(key: number, holder: number): number {
    return this.fences[key]!.find((fence) => fence.holder > holder)?.atNs ?? Infinity;
  }

  /* -------------------------------------------------------------- at rest */

  /** Judge everything so far, the present content included. */
  verify(): void {
    assert(this.idle, "SimLocks.verify: operations are open");
    this.readAll();
    const all = new RegisterHistory();
    for (let at = 0; at < this.history.count; at++) all.add(this.history.at(at));
    for (const { holder, key, value, callNs } of this.given) {
      if (!this.seen.has(value)) continue;
      const returnNs = this.fencedNs(key, holder);
      assert(callNs <= returnNs, "a write of a holder that was fenced took effect");
      all.add({ key, client: holder, isWrite: true, value, callNs, returnNs });
    }
    const { violations } = checkRegisters(all);
    assert(violations.length === 0, `locked image: not linearizable:\n${violations.join("\n")}`);
  }

  private readAll(): void {
    const { cluster } = this;
    const holder = cluster.await("lock", this.take(this.clients[0]!));
    assert(holder !== null, "SimLocks.verify: the image can not be opened");
    const op = holder.ops[0]!;
    for (op.key = 0; op.key < BLOCKS.length; op.key++) {
      op.kind = OpKind.Read;
      this.submit(op);
      const done = cluster.simulation.run(() => holder.open === 0);
      assert(done && op.status === Status.Ok, "final read of the locked image: no answer");
    }
  }
}

/** One time that a client holds the image; numbered in their order. */
class Holder {
  readonly number: number;
  readonly client: SimClient;
  readonly image: Image;
  readonly ops: LockOp[] = [];
  open = 0;
  /** It knows that it is over. */
  fenced = false;

  constructor(locks: SimLocks, number: number, client: SimClient, image: Image) {
    this.number = number;
    this.client = client;
    this.image = image;
    for (let count = 0; count < DEPTH; count++) this.ops.push(new LockOp(locks, this));
  }
}

class LockOp extends ImageOp {
  /** Which of the blocks. */
  key = 0;
  stamp = 0;
  callNs = 0;
  isOpen = false;
  readonly holder: Holder;
  private readonly locks: SimLocks;

  constructor(locks: SimLocks, holder: Holder) {
    super();
    this.locks = locks;
    this.holder = holder;
    this.arenaOffset = holder.client.world.arena.allocate(BLOCK_SIZE);
  }

  begin(nowNs: number): void {
    assert(!this.isOpen, "LockOp.begin: it is open");
    this.isOpen = true;
    this.callNs = nowNs;
    this.holder.open += 1;
  }

  get content(): Uint8Array {
    const { bytes } = this.holder.client.world.arena;
    return bytes.subarray(this.arenaOffset, this.arenaOffset + BLOCK_SIZE);
  }

  override onDone(): void {
    this.locks.onAnswered(this);
  }
}
