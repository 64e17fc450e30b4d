// cold: the simulator
import { assert } from "../base/assert.ts";
import type { Checksum } from "../base/checksum.ts";
import type { Logger } from "../base/logger.ts";
import { Prng } from "../base/prng.ts";
import type { Image } from "../client/client.ts";
import {
  checkStopped,
  checkUnits,
  compareReplicas,
  describe,
  SimWatch,
  unrest,
} from "./sim-check.ts";
import { SimCluster } from "./sim-cluster.ts";
import { type FaultPlan, SimFaults } from "./sim-faults.ts";
import { SimLoad } from "./sim-load.ts";

/**
 * One run of the simulator: a cluster, clients that write and read, faults, a verdict.
 *
 * The seed draws everything: how many osds and shards there are, how large their logs, which faults
 * there may be (`sim-faults.ts`), and when. A run has one or two rounds. In each of them faults come
 * first: crashes (what was not made stable is lost, torn or kept by chance), partitions, pauses,
 * resets, replicas that move, damage and lost disks. Then they end, and everything finishes: every
 * block is what was written last, on every replica, all replicas are equal, nothing is filled,
 * nothing is lost. At the end of a run each store is stopped in order and looked at on its device.
 */

export interface SimRunOptions {
  readonly seed: number;
  readonly checksum: Checksum;
  readonly drainMicrotasks: () => void;
  readonly logger?: Logger;
  /** Simulated time with faults, of each round. Default 4 s. */
  readonly faultUs?: number;
}

export interface SimVerdict {
  readonly seed: number;
  /** Answered with Ok; and reads refused for damage that could not be healed at once. */
  readonly operations: number;
  readonly refused: number;
  readonly crashes: number;
  readonly partitions: number;
  readonly pauses: number;
  /** Replicas that were moved; disks that were lost; blocks of devices that were damaged. */
  readonly moves: number;
  readonly disks: number;
  readonly rotted: number;
  readonly blocksHealed: number;
  /** Replicas that were filled by difference, and blocks copied for it. */
  readonly fills: number;
  readonly blocksFilled: number;
  readonly simulatedUs: number;
  readonly traceHash: string;
}

const MIB = 1_048_576;
const IMAGE_BYTES = 16 * MIB;
/** Two units: the workload has a dozen objects, and parts of an operation go to several groups. */
const OBJECT_BYTES = 131_072;
const DEVICE_BYTES = 256 * MIB;
const PG_COUNT = 4;
const REPLICAS = 3;
const CLIENTS = 2;
const FAULT_US_DEFAULT = 4_000_000;
const FINISH_LIMIT_US = 60_000_000;
const LOOK_US = 20_000;

/** What the seed makes of a run. */
interface Plan extends FaultPlan {
  readonly osds: number;
  readonly shards: number;
  readonly rounds: number;
  /**
   * In a third of the seeds the log is small and keeps next to nothing for followers: whoever was
   * away comes back by difference.
   */
  readonly smallLog: boolean;
  /** Latencies of wires and of devices reach this: long ones leave room for what comes between. */
  readonly wireUsMax: number;
  readonly deviceUsMax: number;
  /** Share of what is sent that arrives with a bit flipped. */
  readonly corruptShare: number;
}

const SMALL_LOG = {
  logBytes: 4 * MIB,
  tuning: { moverStartPercent: 5, checkpointStartPercent: 10, retentionPercent: 2 },
};
const LARGE_LOG = { logBytes: 16 * MIB };

function planOf(seed: number): Plan {
  const random = new Prng(seed * 13 + 7);
  const osds = [3, 3, 4, 5][random.below(4)]!;
  return {
    osds,
    shards: random.below(5) === 0 ? 2 : 1,
    rounds: random.below(4) === 0 ? 2 : 1,
    smallLog: random.below(3) === 0,
    wireUsMax: [120, 120, 1500, 6000][random.below(4)]!,
    deviceUsMax: [200, 200, 1500][random.below(3)]!,
    corruptShare: [0, 0, 0, 0.0005][random.below(4)]!,
    moves: osds > REPLICAS && random.below(4) > 0,
    rot: random.below(5) < 3,
    diskLoss: random.below(3) === 0,
  };
}

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
  private readonly options: SimRunOptions;
  private readonly plan: Plan;
  private readonly cluster: SimCluster;
  private readonly watch: SimWatch;

  constructor(options: SimRunOptions) {
    this.options = options;
    this.plan = planOf(options.seed);
    const { osds, shards, smallLog } = this.plan;
    this.cluster = new SimCluster(options.seed, {
      osds,
      shards,
      replicas: REPLICAS,
      clients: CLIENTS,
      pgCount: PG_COUNT,
      imageBytes: IMAGE_BYTES,
      objectBytes: OBJECT_BYTES,
      deviceBytes: DEVICE_BYTES,
      ...(smallLog ? SMALL_LOG : LARGE_LOG),
      checksum: options.checksum,
      drainMicrotasks: options.drainMicrotasks,
      ...(options.logger === undefined ? {} : { logger: options.logger }),
    });
    this.watch = new SimWatch(this.cluster);
  }

  go(): SimVerdict {
    const { cluster, plan } = this;
    const { simulation } = cluster;
    cluster.start();
    const images: Image[] = cluster.clients.map(({ client }) =>
      cluster.await("image open", client.openImage("pool/image")),
    );
    this.slowDown();
    const load = new SimLoad(cluster, images);
    const faults = new SimFaults(cluster, load, plan);
    for (let round = 0; round < plan.rounds; round++) {
      load.start();
      const endUs = simulation.nowUs + (this.options.faultUs ?? FAULT_US_DEFAULT);
      faults.begin(endUs);
      while (simulation.nowUs < endUs) {
        simulation.run(simulation.nowUs + LOOK_US);
        this.watch.look();
      }
      this.finish(load, faults);
    }
    for (const osd of cluster.osds) faults.count(osd);
    for (const osd of cluster.osds) {
      cluster.await("stop", checkStopped(cluster, osd, faults.rotted > 0));
    }
    return {
      seed: this.options.seed,
      operations: load.operations,
      refused: load.refused,
      crashes: faults.crashes,
      partitions: faults.partitions,
      pauses: faults.pauses,
      moves: faults.moves,
      disks: faults.disks,
      rotted: faults.rotted,
      blocksHealed: faults.blocksHealed,
      fills: faults.fills,
      blocksFilled: faults.blocksFilled,
      simulatedUs: simulation.nowUs,
      traceHash: simulation.traceHash,
    };
  }

  private slowDown(): void {
    const { simulation, osds } = this.cluster;
    const { wireUsMax, deviceUsMax, corruptShare } = this.plan;
    Object.assign(simulation.network, { latencyUsMax: wireUsMax, corruptShare });
    for (const osd of osds) simulation.disk(osd.path).faults.latencyUsMax = deviceUsMax;
  }

  /** No more faults: everything must come to its end, and be right. */
  private finish(load: SimLoad, faults: SimFaults): void {
    const { cluster } = this;
    const { simulation } = cluster;
    load.stop();
    faults.end();
    const answered = simulation.run(() => load.idle, FINISH_LIMIT_US);
    assert(answered, `operations are open long after the last fault:\n${describe(cluster)}`);
    const repaired = simulation.run(() => faults.idle, FINISH_LIMIT_US);
    assert(repaired, `a repair goes on long after the last fault:\n${describe(cluster)}`);
    this.watch.look();
    this.rest();
    load.mayRefuse = false;
    load.verify(REPLICAS);
    this.rest();
    compareReplicas(cluster);
    checkUnits(cluster);
  }

  /** Looks at the whole cluster are dear: one at a time, with some time between. */
  private rest(): void {
    const { cluster } = this;
    const endUs = cluster.simulation.nowUs + FINISH_LIMIT_US;
    for (;;) {
      const what = unrest(cluster);
      if (what === "") return;
      const isLate = cluster.simulation.nowUs > endUs;
      assert(!isLate, `no rest long after the last fault: ${what}\n${describe(cluster)}`);
      cluster.simulation.run(cluster.simulation.nowUs + LOOK_US);
    }
  }
}
