// cold: the simulator
import { assert } from "../base/assert.ts";
import { Prng } from "../base/prng.ts";
import { Status, statusName } from "../base/status.ts";
import { BLOCK_SIZE, BLOCKS_PER_UNIT } from "../base/units.ts";
import { type Image, ImageOp, LEADER, OpKind } from "../client/client.ts";
import type { SimClient, SimCluster } from "./sim-cluster.ts";
import { SimPace, type Thinking } from "./sim-pace.ts";
import { stampBlock, stampOf } from "./sim-stamps.ts";

/**
 * Clients that write and read, and know what every block must be. (Those that share blocks:
 * `sim-hot.ts`.)
 *
 * Each block has at most one operation in flight, whichever client it comes from, so that a read has
 * exactly one right answer: the content of the last write that was answered to anybody. Writes are
 * answered late, never with an error: the client retries under the same number until the cluster is
 * back.
 */

/** Blocks that the workload touches: few, so that they are overwritten often. */
const BLOCK_SPAN = 384;
/** Operations in flight, all clients together. */
const DEPTH = 16;
/** Blocks of an operation, within a unit or across; some are whole units, on their own border. */
const BLOCKS_MAX = 16;
const BLOCKS_PARTIAL_MAX = 8;
/** Pause of a client between two operations, µs. */
const THINK_US_MAX = 30_000;
/** A final read that is refused so often stays refused. */
const TRIES_MAX = 100;
/** No space: try again after this long. */
const NO_SPACE_US = 50_000;
/** Somebody is there: try elsewhere after this long. */
const ELSEWHERE_US = 200;

export class SimLoad {
  /** Answered with Ok; reads that were refused because a replica is damaged and others are away. */
  operations = 0;
  refused = 0;
  /** Writes that had no space, and were made again. */
  refusedForSpace = 0;
  /** A block is damaged on some replica: a read may be refused while the others can not be asked. */
  mayRefuse = false;
  /** Groups remember few sessions: whoever was forgotten may be told that his has ended. */
  mayExpire = false;
  /** Writes that were told so: each was made again. */
  expired = 0;
  private readonly cluster: SimCluster;
  private readonly random: Prng;
  private readonly wholes: number;
  private readonly pace: SimPace;
  /** Stamp of the content that each block must have; 0: zeros. */
  private readonly wanted = new Float64Array(BLOCK_SPAN);
  private readonly busy = new Uint8Array(BLOCK_SPAN);
  private readonly ops: WorkOp[] = [];
  private stamps = 0;
  private running = 0;
  private stopping = true;
  private verifying = false;
  /** Grows with each start: who waits since an earlier one does not go on. */
  private round = 0;

  /**
   * `images`: the same one, as each of the first clients has opened it. `wholes`: of 16 operations so
   * many are of a whole unit. `thinking`: see `SimPace`.
   */
  constructor(cluster: SimCluster, images: readonly Image[], wholes: number, thinking: Thinking) {
    this.cluster = cluster;
    this.wholes = wholes;
    this.pace = new SimPace(THINK_US_MAX, thinking);
    this.random = new Prng(cluster.simulation.seed * 31 + 5);
    for (let at = 0; at < DEPTH; at++) {
      const which = at % images.length;
      this.ops.push(new WorkOp(this, cluster.clients[which]!, images[which]!));
    }
  }

  start(): void {
    assert(this.stopping && this.running === 0, "SimLoad.start: it runs");
    this.stopping = false;
    this.round += 1;
    this.pace.begin(this.operations);
    for (const op of this.ops) this.next(op);
  }

  /** Begin nothing new; `idle` tells when everything was answered. */
  stop(): void {
    this.stopping = true;
  }

  get idle(): boolean {
    return this.stopping && this.running === 0;
  }

  /** Stamps of some blocks that hold data and that nobody writes now. */
  someStamps(random: Prng, count: number): number[] {
    const stamps: number[] = [];
    for (let tries = 0; tries < count * 8 && stamps.length < count; tries++) {
      const block = random.below(BLOCK_SPAN);
      const stamp = this.wanted[block]!;
      if (stamp > 0 && this.busy[block] === 0 && !stamps.includes(stamp)) stamps.push(stamp);
    }
    return stamps;
  }

  /* ----------------------------------------------------------- operations */

  /** Start the next operation on blocks that nobody uses now. */
  private next(op: WorkOp): void {
    if (this.stopping) return;
    const chance = this.random.below(16);
    let blocks = 1;
    if (chance < this.wholes) blocks = BLOCKS_PER_UNIT;
    else if (chance < this.wholes + 3) blocks = 1 + this.random.below(BLOCKS_PARTIAL_MAX);
    let first = this.random.below(BLOCK_SPAN - blocks + 1);
    if (chance < this.wholes) first -= first % BLOCKS_PER_UNIT;
    for (let at = 0; at < blocks; at++) {
      if (this.busy[first + at] === 0) continue;
      this.nextAfter(op, ELSEWHERE_US);
      return;
    }
    for (let at = 0; at < blocks; at++) this.busy[first + at] = 1;
    op.first = first;
    op.blocks = blocks;
    this.fill(op);
    this.running += 1;
    op.image.submit(op);
  }

  private fill(op: WorkOp): void {
    op.offsetBytes = op.first * BLOCK_SIZE;
    op.lengthBytes = op.blocks * BLOCK_SIZE;
    const chance = this.random.below(10);
    if (chance < 5) {
      op.kind = OpKind.Write;
      for (let at = 0; at < op.blocks; at++) {
        this.stamps += 1;
        op.stamps[at] = this.stamps;
        stampBlock(op.content(at), this.stamps);
      }
    } else if (chance < 6) {
      op.kind = this.random.below(2) === 0 ? OpKind.Zero : OpKind.Discard;
      op.stamps.fill(0);
    } else {
      op.kind = OpKind.Read;
    }
  }

  /** An operation was answered. */
  onAnswered(op: WorkOp): void {
    if (this.isEarly(op)) {
      op.image.submit(op);
      return;
    }
    if (op.status === Status.NoSpace && this.mayRefuse && op.kind !== OpKind.Read) {
      this.refusedForSpace += 1;
      this.cluster.simulation.after(NO_SPACE_US, () => op.image.submit(op));
      return;
    }
    if (op.status === Status.SessionExpired && this.mayExpire && op.kind !== OpKind.Read) {
      this.expired += 1;
      op.image.submit(op);
      return;
    }
    this.running -= 1;
    const isRead = op.kind === OpKind.Read;
    const isRefused = isRead && op.status === Status.Damaged && this.mayRefuse;
    if (isRefused) this.refused += 1;
    else {
      assert(op.status === Status.Ok, `operation answered ${statusName(op.status)}`);
      this.operations += 1;
    }
    for (let at = 0; at < op.blocks; at++) {
      const block = op.first + at;
      if (!isRead) this.wanted[block] = op.stamps[at]!;
      else if (!isRefused) this.check(block, op.content(at), `read by ${op.client.world.name}`);
      this.busy[block] = 0;
    }
    this.nextAfter(op, this.pace.thinkUs(this.random, this.operations));
  }

  /**
   * A machine that lost its power said no goodbye: until the connection ends, nobody answers, and what
   * is damaged can not be asked for at all replicas.
   */
  private isEarly(op: WorkOp): boolean {
    if (op.status === Status.Unreachable) return op.replica !== LEADER;
    if (!this.verifying || op.status !== Status.Damaged) return false;
    op.tries += 1;
    return op.tries <= TRIES_MAX;
  }

  private nextAfter(op: WorkOp, delayUs: number): void {
    const { round } = this;
    this.cluster.simulation.after(delayUs, () => {
      if (this.round === round) this.next(op);
    });
  }

  private check(block: number, content: Uint8Array, what: string): void {
    const wanted = this.wanted[block]!;
    const seen = stampOf(content);
    if (seen === wanted) return;
    assert(
      false,
      `${what} of block ${String(block)}: stamp ${String(seen)}, wanted ${String(wanted)}`,
    );
  }

  /* ---------------------------------------------------------------- at rest */

  /** Everything is what was written last, at the leaders and, `replicas` of them, at each replica. */
  verify(replicas: number): void {
    assert(this.idle, "SimLoad.verify: operations are open");
    this.round += 1;
    this.verifying = true;
    for (let replica = LEADER; replica < replicas; replica++) {
      for (let first = 0; first < BLOCK_SPAN; first += BLOCKS_MAX * this.ops.length) {
        const left = Math.ceil((BLOCK_SPAN - first) / BLOCKS_MAX);
        this.ops.slice(0, left).forEach((op, at) => {
          op.kind = OpKind.Read;
          op.first = first + at * BLOCKS_MAX;
          op.blocks = BLOCKS_MAX;
          op.offsetBytes = op.first * BLOCK_SIZE;
          op.lengthBytes = BLOCKS_MAX * BLOCK_SIZE;
          op.replica = replica;
          op.tries = 0;
          this.running += 1;
          op.image.submit(op);
        });
        assert(
          this.cluster.simulation.run(() => this.running === 0),
          "final read: no answer",
        );
      }
    }
    for (const op of this.ops) op.replica = LEADER;
    this.verifying = false;
  }
}

class WorkOp extends ImageOp {
  first = 0;
  blocks = 0;
  /** Of the final read: how often it was refused. */
  tries = 0;
  readonly stamps = new Float64Array(BLOCKS_MAX);
  readonly client: SimClient;
  readonly image: Image;
  private readonly load: SimLoad;

  constructor(load: SimLoad, client: SimClient, image: Image) {
    super();
    this.load = load;
    this.client = client;
    this.image = image;
    this.arenaOffset = client.world.arena.allocate(BLOCKS_MAX * BLOCK_SIZE);
  }

  /** The memory of one of its blocks. */
  content(at: number): Uint8Array {
    const start = this.arenaOffset + at * BLOCK_SIZE;
    return this.client.world.arena.bytes.subarray(start, start + BLOCK_SIZE);
  }

  override onDone(): void {
    this.load.onAnswered(this);
  }
}
