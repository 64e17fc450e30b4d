// cold: the simulator
import { assert } from "../base/assert.ts";
import type { Checksum } from "../base/checksum.ts";
import type { Logger } from "../base/logger.ts";
import { Prng } from "../base/prng.ts";
import { Status, statusName } from "../base/status.ts";
import { BLOCK_SIZE } from "../base/units.ts";
import { type Image, ImageOp, OpKind } from "../client/client.ts";
import type { Group } from "../pg/pg.ts";
import { ProgressState } from "../raft/raft.ts";
import { SimCluster, type SimOsd } from "./sim-cluster.ts";

/**
 * One run of the simulator: a cluster, a client that writes and reads, faults, a verdict.
 *
 * Phase one, with faults: crashes (what was not made stable is lost, torn or kept by chance),
 * partitions in one or both directions, pauses, resets. Phase two, without: everything finishes,
 * every block is what was written last, all replicas are equal.
 *
 * Each block has at most one operation in flight, so that a read has exactly one right answer: the
 * content of the last write that was answered. Writes are answered late, never with an error: the
 * client retries under the same number until the cluster is back.
 */

export interface SimRunOptions {
  readonly seed: number;
  readonly checksum: Checksum;
  readonly drainMicrotasks: () => void;
  readonly logger?: Logger;
  /** Simulated time of phase one. Default 4 s. */
  readonly faultUs?: number;
}

export interface SimVerdict {
  readonly seed: number;
  readonly operations: number;
  readonly crashes: number;
  readonly partitions: number;
  readonly pauses: number;
  /** Replicas left behind because the leader's log no longer reached back to them. */
  readonly beyondLog: number;
  readonly simulatedUs: number;
  readonly traceHash: string;
}

const IMAGE_BYTES = 16 * 1_048_576;
const PG_COUNT = 4;
const DEPTH = 12;
const BLOCKS_MAX = 8;
/** Pause of a client between two operations, µs. */
const THINK_US_MAX = 10_000;
/** Blocks that the workload touches: few, so that they are overwritten often. */
const BLOCK_SPAN = 384;
const FAULT_US_DEFAULT = 4_000_000;
const FINISH_LIMIT_US = 60_000_000;

/** Run one seed. Throws with the seed in the message when a promise is broken. */
export function runSimulation(options: SimRunOptions): SimVerdict {
  const run = new SimRun(options);
  try {
    return run.go();
  } catch (error) {
    const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
    throw new Error(`seed ${String(options.seed)}: ${text}`);
  }
}

class SimRun {
  readonly cluster: SimCluster;
  private readonly options: SimRunOptions;
  private readonly random: Prng;
  private readonly leaders = new Map<string, number>();
  private image!: Image;
  private readonly ops: WorkOp[] = [];
  /** Stamp of the content that each block must have; 0: zeros. */
  readonly wanted = new Float64Array(BLOCK_SPAN);
  readonly busy = new Uint8Array(BLOCK_SPAN);
  private stamps = 0;
  private running = 0;
  private stopping = false;
  operations = 0;
  private crashes = 0;
  private partitions = 0;
  private pauses = 0;
  private beyondLog = 0;

  constructor(options: SimRunOptions) {
    this.options = options;
    this.random = new Prng(options.seed * 31 + 5);
    this.cluster = new SimCluster(options.seed, {
      osds: 3,
      replicas: 3,
      pgCount: PG_COUNT,
      imageBytes: IMAGE_BYTES,
      checksum: options.checksum,
      drainMicrotasks: options.drainMicrotasks,
      ...(options.logger === undefined ? {} : { logger: options.logger }),
    });
  }

  go(): SimVerdict {
    const { cluster } = this;
    cluster.start();
    this.image = cluster.await("image open", cluster.client.openImage("pool/image"));
    const arena = cluster.clientWorld.arena;
    for (let at = 0; at < DEPTH; at++) {
      this.ops.push(new WorkOp(this, arena.allocate(BLOCKS_MAX * BLOCK_SIZE)));
    }
    const { simulation } = cluster;
    const endUs = simulation.nowUs + (this.options.faultUs ?? FAULT_US_DEFAULT);
    for (const op of this.ops) this.next(op);
    this.planFault(endUs);
    while (simulation.nowUs < endUs) {
      simulation.run(simulation.nowUs + 20_000);
      cluster.checkLeaders(this.leaders);
    }
    this.finish();
    return {
      seed: this.options.seed,
      operations: this.operations,
      crashes: this.crashes,
      partitions: this.partitions,
      pauses: this.pauses,
      beyondLog: this.beyondLog,
      simulatedUs: simulation.nowUs,
      traceHash: simulation.traceHash,
    };
  }

  /* ------------------------------------------------------------ phase two */

  private finish(): void {
    const { cluster } = this;
    this.stopping = true;
    cluster.simulation.heal();
    for (const osd of cluster.osds) {
      osd.world?.resume();
      if (osd.world?.alive !== true) cluster.startOsd(osd);
    }
    const done = cluster.simulation.run(() => this.running === 0, FINISH_LIMIT_US);
    assert(done, "operations are open long after the last fault");
    cluster.checkLeaders(this.leaders);
    this.verifyAll();
    this.verifyReplicas();
  }

  private verifyAll(): void {
    for (let block = 0; block < BLOCK_SPAN; block += 16) {
      const bytes = this.cluster.await(
        "final read",
        this.image.read(block * BLOCK_SIZE, 16 * BLOCK_SIZE),
      );
      for (let at = 0; at < 16; at++) {
        const content = bytes.subarray(at * BLOCK_SIZE, (at + 1) * BLOCK_SIZE);
        this.checkBlock(block + at, content, "final read");
      }
    }
  }

  /** Nobody stays behind its leader. */
  private verifyReplicas(): void {
    const { cluster } = this;
    const equal = cluster.simulation.run(() => this.caughtUp(), FINISH_LIMIT_US);
    assert(equal, "replicas did not catch up");
  }

  /**
   * Every replica has applied what its leader has. One that was away for longer than the leader's
   * log reaches back needs the catch-up by difference, which is not there yet: counted apart.
   */
  private caughtUp(): boolean {
    this.beyondLog = 0;
    for (const osd of this.cluster.osds) {
      for (const group of osd.shard!.pg.groups.values()) {
        if (group.isLeader && !this.followersCaughtUp(group)) return false;
      }
    }
    return true;
  }

  private followersCaughtUp(group: Group): boolean {
    for (const osd of this.cluster.osds) {
      const other = osd.shard!.pg.groups.get(group.pg);
      if (other === undefined || other.creating) return false;
      if (other.appliedIndex === group.appliedIndex) continue;
      const slot = group.node.conf.slotOf(other.replica);
      if (group.node.peerState(slot) !== ProgressState.Fill) return false;
      this.beyondLog += 1;
    }
    return true;
  }

  /* ------------------------------------------------------------- workload */

  /** Start the next operation on blocks that nobody uses now. */
  next(op: WorkOp): void {
    if (this.stopping) return;
    const blocks = this.random.below(4) === 0 ? 1 + this.random.below(BLOCKS_MAX) : 1;
    const first = this.random.below(BLOCK_SPAN - blocks + 1);
    for (let at = 0; at < blocks; at++) {
      if (this.busy[first + at] !== 0) {
        // Somebody is there: try elsewhere, a little later.
        this.cluster.simulation.after(200, () => this.next(op));
        return;
      }
    }
    for (let at = 0; at < blocks; at++) this.busy[first + at] = 1;
    op.first = first;
    op.blocks = blocks;
    this.fill(op);
    this.running += 1;
    this.image.submit(op);
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
        const start = op.arenaOffset + at * BLOCK_SIZE;
        stampBlock(this.arenaBytes.subarray(start, start + BLOCK_SIZE), this.stamps);
      }
    } else if (chance < 6) {
      op.kind = this.random.below(2) === 0 ? OpKind.Zero : OpKind.Discard;
      op.stamps.fill(0);
    } else {
      op.kind = OpKind.Read;
    }
  }

  get arenaBytes(): Uint8Array {
    return this.cluster.clientWorld.arena.bytes;
  }

  /** An operation was answered. */
  onAnswered(op: WorkOp): void {
    this.running -= 1;
    this.operations += 1;
    assert(op.status === Status.Ok, `operation answered ${statusName(op.status)}`);
    for (let at = 0; at < op.blocks; at++) {
      const block = op.first + at;
      if (op.kind === OpKind.Read) {
        const start = op.arenaOffset + at * BLOCK_SIZE;
        this.checkBlock(block, this.arenaBytes.subarray(start, start + BLOCK_SIZE), "read");
      } else {
        this.wanted[block] = op.stamps[at]!;
      }
      this.busy[block] = 0;
    }
    this.cluster.simulation.after(this.random.below(THINK_US_MAX), () => this.next(op));
  }

  private checkBlock(block: number, content: Uint8Array, what: string): void {
    const wanted = this.wanted[block]!;
    const seen = stampOf(content);
    assert(
      seen === wanted,
      `${what} of block ${String(block)}: stamp ${String(seen)}, wanted ${String(wanted)}`,
    );
  }

  /* --------------------------------------------------------------- faults */

  private planFault(endUs: number): void {
    const { simulation } = this.cluster;
    const delay = 50_000 + this.random.below(900_000);
    if (simulation.nowUs + delay >= endUs) return;
    simulation.after(delay, () => {
      this.inject();
      this.planFault(endUs);
    });
  }

  private inject(): void {
    const { cluster } = this;
    const osd = cluster.osds[this.random.below(cluster.osds.length)]!;
    switch (this.random.below(6)) {
      case 0:
      case 1:
        this.crash(osd);
        break;
      case 2:
        for (const one of cluster.osds) if (this.random.below(2) === 0) this.crash(one);
        break;
      case 3:
        this.cut(osd);
        break;
      case 4:
        this.pause(osd);
        break;
      default:
        cluster.simulation.reset(osd.address, "*");
    }
  }

  private crash(osd: SimOsd): void {
    if (osd.world?.alive !== true) return;
    this.crashes += 1;
    if (this.random.below(2) === 0) osd.world.crash();
    else osd.world.powerCut();
    osd.session = null;
    this.cluster.simulation.after(10_000 + this.random.below(1_500_000), () => {
      if (osd.world?.alive !== true) this.cluster.startOsd(osd);
    });
  }

  private cut(osd: SimOsd): void {
    const other = this.cluster.osds[this.random.below(this.cluster.osds.length)]!;
    if (other === osd) return;
    this.partitions += 1;
    const { simulation } = this.cluster;
    simulation.cut(osd.address, other.address);
    const both = this.random.below(2) === 0;
    if (both) simulation.cut(other.address, osd.address);
    simulation.after(100_000 + this.random.below(2_000_000), () => {
      simulation.heal(osd.address, other.address);
      if (both) simulation.heal(other.address, osd.address);
    });
  }

  private pause(osd: SimOsd): void {
    const world = osd.world;
    if (world?.alive !== true) return;
    this.pauses += 1;
    world.pause();
    this.cluster.simulation.after(50_000 + this.random.below(2_000_000), () => {
      if (world.alive) world.resume();
    });
  }
}

class WorkOp extends ImageOp {
  first = 0;
  blocks = 0;
  readonly stamps = new Float64Array(BLOCKS_MAX);
  private readonly run: SimRun;

  constructor(run: SimRun, arenaOffset: number) {
    super();
    this.run = run;
    this.arenaOffset = arenaOffset;
  }

  override onDone(): void {
    this.run.onAnswered(this);
  }
}

/** Content of a block that only this stamp makes. */
function stampBlock(block: Uint8Array, stamp: number): void {
  const view = new DataView(block.buffer, block.byteOffset, block.byteLength);
  for (let at = 0; at < block.length; at += 8) {
    view.setUint32(at, stamp, true);
    view.setUint32(at + 4, Math.imul(stamp, 0x9e37_79b1) ^ at, true);
  }
}

/** The stamp of a block's content; 0 for zeros, -1 when it is not one whole stamp. */
function stampOf(block: Uint8Array): number {
  const view = new DataView(block.buffer, block.byteOffset, block.byteLength);
  const stamp = view.getUint32(0, true);
  for (let at = 0; at < block.length; at += 8) {
    const check = stamp === 0 ? 0 : (Math.imul(stamp, 0x9e37_79b1) ^ at) >>> 0;
    if (view.getUint32(at, true) !== stamp || view.getUint32(at + 4, true) !== check) return -1;
  }
  return stamp;
}
