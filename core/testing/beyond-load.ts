// cold: the simulator
import { assert } from "../base/assert.ts";
import { Prng } from "../base/prng.ts";
import { Status, statusName } from "../base/status.ts";
import { BLOCK_SIZE, BLOCKS_PER_UNIT } from "../base/units.ts";
import { type Image, ImageOp, OpKind } from "../client/client.ts";
import type { SimCluster } from "./sim-cluster.ts";
import { stampBlock, stampOf } from "./sim-stamps.ts";

/**
 * A client of a cluster that may have lost more than it can: it takes refusals, and no wrong answer.
 *
 * A read gives a block the last value that was acknowledged, or one of a write whose outcome nobody
 * knows; else it is refused. Never zeros where something was written, nothing older, nothing of another
 * block. Each block has one operation in flight at most.
 */

/** Two dozen objects of two units, so that every group has some. */
export const BLOCK_SPAN = 768;
const DEPTH = 12;
const THINK_US_MAX = 40_000;

export class BeyondLoad {
  /** Operations that were answered with Ok on each block, since `forget`. */
  readonly served: Uint32Array = new Uint32Array(BLOCK_SPAN);
  /** Answers other than Ok. */
  damaged = 0;
  timedOut = 0;
  readonly cluster: SimCluster;
  readonly image: Image;
  /** Blocks that are read, and not written: what was destroyed there stays so. */
  kept: ReadonlySet<number> = new Set();
  /** Blocks of groups that may not serve: seldom asked for, or all operations would wait there. */
  hurt: ReadonlySet<number> = new Set();
  private readonly random: Prng;
  /** Stamp of the last write that was acknowledged, by block; 0: none. */
  private readonly acknowledged = new Float64Array(BLOCK_SPAN);
  /** Stamps of writes without an answer. */
  private readonly unknown: number[][] = Array.from({ length: BLOCK_SPAN }, () => []);
  private readonly busy = new Uint8Array(BLOCK_SPAN);
  private readonly ops: BeyondOp[] = [];
  private stamps = 0;
  private running = 0;
  private stopping = true;
  private round = 0;

  constructor(cluster: SimCluster, image: Image) {
    this.cluster = cluster;
    this.image = image;
    this.random = new Prng(cluster.simulation.seed * 31 + 17);
    for (let at = 0; at < DEPTH; at++) this.ops.push(new BeyondOp(this));
  }

  start(): void {
    this.stopping = false;
    this.round += 1;
    for (const op of this.ops) this.next(op);
  }

  /** Begin nothing new, and wait for what is open. */
  stop(): void {
    this.stopping = true;
    const done = this.cluster.simulation.run(() => this.running === 0);
    assert(done, "BeyondLoad: an operation was neither answered nor refused");
    this.round += 1;
  }

  forget(): void {
    this.served.fill(0);
  }

  /** Blocks whose last write was acknowledged, and which nobody uses now; at most so many. */
  someBlocks(count: number): number[] {
    const blocks: number[] = [];
    for (let tries = 0; tries < count * 20 && blocks.length < count; tries++) {
      const block = this.random.below(BLOCK_SPAN);
      const isSure = this.acknowledged[block]! > 0 && this.unknown[block]!.length === 0;
      if (isSure && this.busy[block] === 0 && !blocks.includes(block)) blocks.push(block);
    }
    return blocks;
  }

  /** What the block holds, as of the last write that was acknowledged. */
  contentOf(block: number): Uint8Array {
    const content = new Uint8Array(BLOCK_SIZE);
    stampBlock(content, this.acknowledged[block]!);
    return content;
  }

  private next(op: BeyondOp): void {
    if (this.stopping) return;
    const isWhole = this.random.below(4) === 0;
    const blocks = isWhole ? BLOCKS_PER_UNIT : 1 + this.random.below(4);
    let first = this.random.below(BLOCK_SPAN - blocks + 1);
    if (isWhole) first -= first % BLOCKS_PER_UNIT;
    const range = Array.from({ length: blocks }, (_, at) => first + at);
    const isFree = range.every((block) => this.busy[block] === 0);
    const isAvoided = range.some((block) => this.hurt.has(block)) && this.random.below(32) > 0;
    const isKept = range.some((block) => this.kept.has(block));
    const kind = isKept || this.random.below(2) === 0 ? OpKind.Read : OpKind.Write;
    if (isFree && !isAvoided) this.begin(op, kind, first, blocks);
    else this.later(op);
  }

  private later(op: BeyondOp): void {
    const { round } = this;
    this.cluster.simulation.after(1 + this.random.below(THINK_US_MAX), () => {
      if (this.round === round) this.next(op);
    });
  }

  private begin(op: BeyondOp, kind: OpKind, first: number, blocks: number): void {
    op.kind = kind;
    op.first = first;
    op.blocks = blocks;
    op.offsetBytes = first * BLOCK_SIZE;
    op.lengthBytes = blocks * BLOCK_SIZE;
    for (let at = 0; at < blocks; at++) {
      this.busy[first + at] = 1;
      if (kind !== OpKind.Write) continue;
      this.stamps += 1;
      op.stamps[at] = this.stamps;
      stampBlock(op.content(at), this.stamps);
    }
    this.running += 1;
    this.image.submit(op);
  }

  onAnswered(op: BeyondOp): void {
    this.running -= 1;
    this.judge(op);
    if (op.isAlone) op.isAlone = false;
    else this.later(op);
  }

  private judge(op: BeyondOp): void {
    const { status } = op;
    const isRefused = status === Status.Damaged || status === Status.TimedOut;
    assert(isRefused || status === Status.Ok, `beyond: answered ${statusName(status)}`);
    if (status === Status.Damaged) this.damaged += 1;
    if (status === Status.TimedOut) this.timedOut += 1;
    for (let at = 0; at < op.blocks; at++) {
      const block = op.first + at;
      this.busy[block] = 0;
      if (status === Status.Ok) this.served[block] = this.served[block]! + 1;
      if (op.kind === OpKind.Read) {
        if (status === Status.Ok) this.check(block, stampOf(op.content(at)));
      } else if (status === Status.Ok) this.acknowledged[block] = op.stamps[at]!;
      else this.unknown[block]!.push(op.stamps[at]!);
    }
  }

  private check(block: number, stamp: number): void {
    const wanted = this.acknowledged[block]!;
    const maybe = this.unknown[block]!;
    assert(
      stamp === wanted || maybe.includes(stamp),
      `beyond: block ${String(block)} read as ${String(stamp)}, wanted ${String(wanted)}, a refusal${maybe.length === 0 ? "" : `, or one of ${String(maybe)}`}`,
    );
  }

  /* ---------------------------------------------------------------- at rest */

  /** Read each block alone; answers how each read ended. Requires: stopped. */
  readAll(): Status[] {
    return this.each(
      OpKind.Read,
      Array.from({ length: BLOCK_SPAN }, (_, block) => block),
    );
  }

  /** Write these blocks, each alone; answers how each write ended. */
  writeAll(blocks: readonly number[]): Status[] {
    return this.each(OpKind.Write, blocks);
  }

  private each(kind: OpKind, blocks: readonly number[]): Status[] {
    const statuses: Status[] = [];
    for (let from = 0; from < blocks.length; from += DEPTH) {
      const part = blocks.slice(from, from + DEPTH);
      part.forEach((block, at) => {
        this.ops[at]!.isAlone = true;
        this.begin(this.ops[at]!, kind, block, 1);
      });
      const done = this.cluster.simulation.run(() => this.running === 0);
      assert(done, "BeyondLoad: a last operation was neither answered nor refused");
      part.forEach((_, at) => statuses.push(this.ops[at]!.status));
    }
    return statuses;
  }
}

class BeyondOp extends ImageOp {
  first = 0;
  blocks = 0;
  /** Nothing follows it. */
  isAlone = false;
  readonly stamps = new Float64Array(BLOCKS_PER_UNIT);
  private readonly load: BeyondLoad;

  constructor(load: BeyondLoad) {
    super();
    this.load = load;
    this.arenaOffset = load.cluster.clientWorld.arena.allocate(BLOCKS_PER_UNIT * BLOCK_SIZE);
  }

  /** The memory of one of its blocks. */
  content(at: number): Uint8Array {
    const start = this.arenaOffset + at * BLOCK_SIZE;
    return this.load.cluster.clientWorld.arena.bytes.subarray(start, start + BLOCK_SIZE);
  }

  override onDone(): void {
    this.load.onAnswered(this);
  }
}
