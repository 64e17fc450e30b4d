// cold: the simulator
import { assert } from "../base/assert.ts";
import type { Checksum } from "../base/checksum.ts";
import type { Ciphers } from "../base/cipher.ts";
import { OverheardLogger, silentLogger } from "../base/logger.ts";
import { Prng } from "../base/prng.ts";
import type { Image } from "../client/client.ts";
import type { StoreTuning } from "../pg/pg.ts";
import type { LoggedError, SimMemory } from "../reactor/reactor.ts";
import {
  checkStopped,
  checkUnits,
  compareReplicas,
  describe,
  SimWatch,
  unrest,
} from "./sim-check.ts";
import { DRIFT_SHARE } from "./sim-clocks.ts";
import { type SimClient, SimCluster } from "./sim-cluster.ts";
import { type FaultNote, type FaultPlan, SimFaults, type SimLoads } from "./sim-faults.ts";
import { SimHot } from "./sim-hot.ts";
import { SimImages } from "./sim-images.ts";
import { SimLoad } from "./sim-load.ts";
import { LOCKED_IMAGE, SimLocks } from "./sim-locks.ts";
import { isOperated, isScrubLeft, SimOperators } from "./sim-operators.ts";
import type { Thinking } from "./sim-pace.ts";
import { SimPart, SimParts } from "./sim-parts.ts";
import { SimProbes } from "./sim-probes.ts";
import { type SimTunables, tunablesOf } from "./sim-tunables.ts";
import { NO_TROUBLES, troublesOf } from "./sim-troubles.ts";
import { SimVersions } from "./sim-versions.ts";
import { TraceLogger, type TraceSink } from "./sim-trace.ts";

/**
 * One run of the simulator: a cluster, clients that write and read, faults, a verdict.
 *
 * The seed draws everything: how many osds and shards there are, whether the pool has three replicas
 * or two and a witness, how large their logs, the limits of background work, how clocks drift, which faults there may be (`sim-faults.ts`), and when. A run has
 * one or two rounds. In each of them faults come first. Then they end, and everything heals, while clients
 * go on or not, and finishes: every block is what was written last (`sim-load.ts`), blocks that clients
 * share were registers (`sim-hot.ts`), and so were those of an image that is handed around
 * (`sim-locks.ts`), all replicas are equal, nothing is filled, nothing is lost. At the end of a run each
 * store is stopped in order and looked at on its device.
 */

export interface SimRunOptions {
  readonly seed: number;
  readonly checksum: Checksum;
  /** Used by one seed in `ENCRYPTED_SEEDS`. */
  readonly ciphers: Ciphers;
  readonly drainMicrotasks: () => void;
  /** Kept from run to run. */
  readonly memory?: SimMemory;
  /** Called every now and then: a chance to collect what processes of the run have left. */
  readonly collect?: () => void;
  /** Hears of everything that is logged, and of faults. */
  readonly trace?: TraceSink;
  /** Simulated time with faults, of each round. Default: as the seed draws it. */
  readonly faultUs?: number;
  /** Faults that are left out, by their number. */
  readonly without?: ReadonlySet<number>;
}

export interface SimVerdict {
  readonly seed: number;
  /** Answered with Ok; and reads refused for damage that could not be healed at once. */
  readonly operations: number;
  readonly refused: number;
  /** Of them, those on blocks that clients share; writes there without an answer. */
  readonly shared: number;
  readonly unanswered: number;
  /** Faults that happened, by kind. */
  readonly faults: Readonly<Record<string, number>>;
  /** Rare situations that were met, by name: 0 for those that were not. */
  readonly probes: Readonly<Record<string, number>>;
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
const REPLICAS = 3;
/**
 * In one seed of so many the pool has two replicas and a witness, on as many osds. Drawn beside
 * everything else, and so that no seed is among them that once found something.
 */
const WITNESSED_SEEDS = 5;
/**
 * In one of so many the monitor's catalogue is put back from an older copy. Drawn as the one before. No
 * disk is replaced then: a replica that came since the copy, and whose disk is lost too, is for people.
 */
const RESTORED_SEEDS = 7;
/** In one of so many, programs of two versions run mixed. Drawn as the one before. */
const MIXED_SEEDS = 6;
/** One in so many is encrypted, this one; nothing is drawn for it, so all others are as they were. */
const ENCRYPTED_SEEDS = 16;
const ENCRYPTED_SEED = 9;
/**
 * In one of so many an image is resized, removed and made again. Drawn as the one before. What becomes of
 * that when the catalogue is put back from an older copy is for people: not in the same seeds.
 */
const CHANGED_SEEDS = 4;
/**
 * In one of so many, faults are aimed (`sim-aimed.ts`): for long enough, and while no device lies. Drawn as
 * the one before.
 */
const AIMED_SEEDS = 10;
const AIMED_FAULT_US = 2_500_000;
/** Clients that live as long as the run, and those that may die. */
const CLIENTS = 2;
const MORTALS = 2;
/**
 * Simulated time with faults of a round: many short runs are more clusters than few long ones, and
 * some things take their time.
 */
const FAULT_US: readonly number[] = [800_000, 1_200_000, 1_600_000];
const FAULT_US_MORE: readonly number[] = [3_000_000, 3_000_000, 4_000_000, 4_000_000, 6_000_000];
const MORE_SEEDS = 6;
/** Longest time between two faults. */
const PACE_US: readonly number[] = [500_000, 500_000, 200_000];
const PACE_US_MORE: readonly number[] = [900_000, 900_000, 250_000];
const PAUSE_US_MAX = 2_000_000;
/** Of runs with pauses of many seconds: there clients take their time, too. */
const LONG_FAULT_US = 60_000_000;
const LONG_PACE_US = 4_000_000;
const LONG_PAUSE_US_MAX = 80_000_000;
const LONG_THINK_TIMES = 16;
/** Of a round: from there on clients take their time. Where file systems get full, they write on. */
const LIVELY_OPERATIONS = 100;
const LIVELY_OPERATIONS_FILLING = 400;
const FINISH_LIMIT_US = 60_000_000;
const LOOK_US = 20_000;
/** Between two chances to collect garbage. */
const COLLECT_US = 4_000_000;

/** A run with fewer says little: faults go on, step by step, then the load does, until there are so many. */
const FLOOR: Floor = { operations: 500, shared: 100 };
const NO_FLOOR: Floor = { operations: 0, shared: 0 };
const STEP_US = 400_000;
const STEPS_MAX = 5;
/**
 * Operations that are answered while everything heals. In half of the rounds clients stop with the last
 * fault: what waits then must come to its end without a request that wakes it.
 */
const HEALING_OPERATIONS = 200;

/** Logged as errors by an osd whose device fails, before it ends. */
const EXCUSED = new Set(["checkpoint failed", "fetching payloads failed", "healing failed"]);
/** Whom somebody dialled, and who was there. */
const MISTAKEN = /^wrong receiver: (osd\.\d+(?: shard \d+)?).*this is (\S+(?: shard \d+)?)/;
/** Logged by a monitor whose catalogue is older than what somebody was told. */
const NEWER_MAP = "somebody has a newer map than this mon";
/** Of a peer by whoever leads it. */
const FORGOT = "a replica lost what it had acknowledged";
/** By one whose file system is full. */
const FULL = "no space beneath the store: what the log holds waits there";

/** What the seed makes of a run. */
interface Plan extends FaultPlan {
  readonly faultUs: number;
  readonly thinking: Thinking;
  readonly clockDriftShare: number;
  readonly osds: number;
  readonly shards: number;
  readonly pgCount: number;
  readonly rounds: number;
  /**
   * Limits of the stores' background work. In a third of the seeds the log is small and keeps next to
   * nothing for followers: whoever was away comes back by difference.
   */
  readonly store: { readonly logBytes: number; readonly tuning: Partial<StoreTuning> };
  /** Latencies of wires and of devices reach this: long ones leave room for what comes between. */
  readonly wireUsMax: number;
  readonly deviceUsMax: number;
  /** Share of what is sent that arrives with a bit flipped. */
  readonly corruptShare: number;
  /** How long clients that share blocks wait for an answer; 0: without limit. */
  readonly timeoutMs: number;
  /** Of 16 operations so many are of whole units, which are written beside the log. */
  readonly wholes: number;
  /** Clients take an image from each other. */
  readonly locks: boolean;
  /** An operator resizes an image, removes it, and makes it again. */
  readonly changes: boolean;
  /** Copies of the data. */
  readonly replicas: number;
  /** Operators are at work. */
  readonly isOperated: boolean;
}

/** Operations that a run must have made at least. */
interface Floor {
  readonly operations: number;
  readonly shared: number;
}

/** Looks for quiet groups in most seeds: they are parked between two requests. */
const PARK_LOOKS_US = [8_000, 40_000, 500_000];
/** Where space runs out, groups have few moments in which they are quiet. */
const PARK_LOOK_FULL_US = 2_000;

/** In so many seeds one has an index that is paged. */
const PAGED_SEEDS = 4;
/** From 8 pages of rows, fewer than what is looked at together, to as many as a device has. */
const INDEX_BYTES = [20 * 1024, 100 * 1024, MIB];

function indexBytesOf(seed: number): number {
  const random = new Prng(seed * 101 + 31);
  if (random.below(PAGED_SEEDS) > 0) return 0;
  return INDEX_BYTES[random.below(INDEX_BYTES.length)]!;
}

/** From what may be moved at once to what only a checkpoint or a rest moves in so small a log. */
const MOVER_START_BLOCKS = [1, 16, 256];

function moverBlocksOf(seed: number): number {
  return MOVER_START_BLOCKS[new Prng(seed * 89 + 43).below(MOVER_START_BLOCKS.length)]!;
}

function storeOf(random: Prng): Plan["store"] {
  const tuning = {
    idleMs: [20, 200, 2000][random.below(3)]!,
    vouchMs: [2, 10, 30][random.below(3)]!,
    backgroundDepth: [1, 4, 16][random.below(3)]!,
  };
  if (random.below(3) > 0) return { logBytes: 8 * MIB, tuning };
  const small = { moverStartPercent: 5, checkpointStartPercent: 10, retentionPercent: 2 };
  return { logBytes: 4 * MIB, tuning: { ...tuning, ...small } };
}

/**
 * Two copies are no copy to spare: while one of them is away the other is all there is. So nothing is
 * destroyed then but a whole disk, at a moment when the other one has everything.
 */
function planOf(seed: number, without: ReadonlySet<number>): Plan {
  const full = fullPlanOf(seed, without);
  const restores = new Prng(seed * 37 + 15).below(RESTORED_SEEDS) === 0;
  const mild = restores
    ? { ...full, diskLoss: false, strays: false, lies: false, changes: false }
    : full;
  const plan = isAimed(seed) ? aimedPlanOf(mild) : mild;
  const isWitnessed = new Prng(seed * 37 + 36).below(WITNESSED_SEEDS) === 0;
  if (!isWitnessed) return { ...plan, restores };
  const spared = { rot: false, strays: false, lies: false };
  return { ...plan, ...spared, restores, isWitnessed, replicas: REPLICAS - 1 };
}

function isAimed(seed: number): boolean {
  return new Prng(seed * 83 + 77).below(AIMED_SEEDS) === 0;
}

function aimedPlanOf(plan: Plan): Plan {
  const faultUs = Math.max(plan.faultUs, AIMED_FAULT_US);
  const spared = { strays: false, lies: false, errors: false, rot: false };
  return { ...plan, ...spared, faultUs, troubles: NO_TROUBLES, aimed: true };
}

function fullPlanOf(seed: number, without: ReadonlySet<number>): Plan {
  const random = new Prng(seed * 13 + 7);
  const osds = [3, 3, 4, 5][random.below(4)]!;
  const isLong = random.below(100) === 0;
  const isMore = random.below(MORE_SEEDS) === 0;
  const faultUs = isMore ? pick(random, FAULT_US_MORE) : pick(random, FAULT_US);
  const paceUs = pick(random, isMore ? PACE_US_MORE : PACE_US);
  const drawn = {
    without,
    faultUs: isLong ? LONG_FAULT_US : faultUs,
    pauseUsMax: isLong ? LONG_PAUSE_US_MAX : PAUSE_US_MAX,
    clockDriftShare: random.below(2) === 0 ? 0 : DRIFT_SHARE,
    errors: random.below(3) === 0,
    troubles: troublesOf(seed),
    strays: random.below(6) === 0,
    lies: random.below(8) === 0,
    shards: pick(random, [1, 1, 2, 2, 3]),
    rounds: random.below(4) === 0 ? 2 : 1,
    store: storeOf(random),
    wireUsMax: [120, 120, 1500, 6000][random.below(4)]!,
    deviceUsMax: [200, 200, 1500][random.below(3)]!,
    corruptShare: [0, 0, 0, 0.0005][random.below(4)]!,
    moves: osds > REPLICAS && random.below(4) > 0,
    rot: random.below(5) < 3,
    diskLoss: random.below(3) === 0,
    mortalsFirst: CLIENTS,
    timeoutMs: [0, 300, 1500][random.below(3)]!,
    paceUs: isLong ? LONG_PACE_US : paceUs,
    locks: random.below(4) === 0,
    wholes: [1, 1, 8][random.below(3)]!,
    pgCount: [4, 4, 4, 2, 8, 16][random.below(6)]!,
    osds: osds + [0, 0, 0, 0, 1, 2][random.below(6)]!,
    beneath: random.below(4) === 0,
    monitorDies: random.below(3) === 0,
    replicas: REPLICAS,
    isWitnessed: false,
    restores: false,
    changes: new Prng(seed * 37 + 73).below(CHANGED_SEEDS) === 0,
    isOperated: isOperated(seed),
    aimed: false,
  };
  const livelyOperations = drawn.beneath ? LIVELY_OPERATIONS_FILLING : LIVELY_OPERATIONS;
  return { ...drawn, thinking: { times: isLong ? LONG_THINK_TIMES : 1, livelyOperations } };
}

/** Of a handshake that failed: another one than was meant listens there. */
function isMistaken(reason: unknown): boolean {
  const meant = typeof reason === "string" ? MISTAKEN.exec(reason) : null;
  return meant !== null && meant[1] !== meant[2];
}

function parkLookOf(seed: number, plan: Plan): number {
  const look = seed % PARK_LOOKS_US.length;
  return look === 0 && plan.beneath ? PARK_LOOK_FULL_US : PARK_LOOKS_US[look]!;
}

/** Less what a failing run is shrunk by. What it spares for the sake of a part stays spared. */
function withParts(plan: Plan, parts: SimParts): Plan {
  return {
    ...plan,
    isOperated: parts.has(SimPart.Operators, plan.isOperated),
    restores: parts.has(SimPart.OldCatalogue, plan.restores),
    corruptShare: parts.has(SimPart.FlippedBits, plan.corruptShare > 0) ? plan.corruptShare : 0,
    clockDriftShare: parts.has(SimPart.ClockDrift, plan.clockDriftShare > 0)
      ? plan.clockDriftShare
      : 0,
  };
}

/** Whose data nothing may destroy is spared what of them does. */
function withTroubles(plan: Plan): Plan {
  const isSpared = plan.restores || plan.isWitnessed;
  const troubles = isSpared ? { ...plan.troubles, strays: false, lies: false } : plan.troubles;
  const strays = plan.strays || troubles.strays;
  return { ...plan, troubles, strays, lies: plan.lies || troubles.lies };
}

function operationsOf({ load, hot, locks, images }: SimLoads): number {
  return [load, hot, locks, images].reduce((sum, one) => sum + (one?.operations ?? 0), 0);
}

function isReached(loads: SimLoads, floor: Floor): boolean {
  return operationsOf(loads) >= floor.operations && loads.hot.operations >= floor.shared;
}

function pick<Value>(random: Prng, values: readonly Value[]): Value {
  return values[random.below(values.length)]!;
}

/** A promise was broken; the message begins with the seed. */
export class SimFailure extends Error {
  override readonly name = "SimFailure";
  /** Faults that had happened. */
  readonly faults: readonly FaultNote[];

  constructor(message: string, faults: readonly FaultNote[]) {
    super(message);
    this.faults = faults;
  }
}

/** Run one seed. Throws SimFailure when a promise is broken. */
export function runSimulation(options: SimRunOptions): SimVerdict {
  const run = new SimRun(options);
  try {
    return run.go();
  } catch (error) {
    const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
    throw new SimFailure(`seed ${String(options.seed)}: ${text}`, run.faultNotes);
  } finally {
    run.dispose();
  }
}

class SimRun {
  private readonly options: SimRunOptions;
  private readonly plan: Plan;
  private readonly cluster: SimCluster;
  private readonly parts: SimParts;
  private readonly probes: SimProbes;
  private readonly watch: SimWatch;
  private faults: SimFaults | null = null;
  private readonly versions: SimVersions | null;
  private readonly tunables: SimTunables | null;
  private operators: SimOperators | null = null;
  /** Whether clients go on while everything heals: beside all else, as what operators do. */
  private readonly healing: Prng;

  constructor(options: SimRunOptions) {
    this.options = options;
    const without = options.without ?? new Set();
    const parts = new SimParts(without);
    this.parts = parts;
    this.plan = withParts(withTroubles(planOf(options.seed, without)), parts);
    const { osds, shards, pgCount, store } = this.plan;
    const { seed } = options;
    const drawn = tunablesOf(seed, shards);
    const tunables = parts.has(SimPart.Tunables, drawn !== null) ? drawn : null;
    this.tunables = tunables;
    this.healing = new Prng(seed * 97 + 14);
    const isMixed = new Prng(seed * 65 + 9).below(MIXED_SEEDS) === 0;
    const versions = parts.has(SimPart.Versions, isMixed) ? new SimVersions(seed) : null;
    this.versions = versions;
    this.cluster = new SimCluster(options.seed, {
      osds,
      shards,
      replicas: this.plan.replicas,
      clients: CLIENTS + MORTALS,
      pgCount,
      imageBytes: IMAGE_BYTES,
      objectBytes: OBJECT_BYTES,
      deviceBytes: DEVICE_BYTES,
      logBytes: store.logBytes,
      tuning: { ...store.tuning, moverStartBlocks: moverBlocksOf(seed), ...tunables?.tuning },
      indexBytes: indexBytesOf(seed),
      ...(tunables === null ? {} : { limits: tunables.limits, slotsBytes: tunables.slotsBytes }),
      parkLookUs: parkLookOf(seed, this.plan),
      clockDriftShare: this.plan.clockDriftShare,
      ...(options.memory === undefined ? {} : { memory: options.memory }),
      ...(versions === null ? {} : { formatsOf: (who) => versions.draw(who) }),
      onRefused: (osd, error) => this.cluster.simulation.fail(`osd.${String(osd.id)}`, error),
      isExcused: (logged) => this.isExcused(logged),
      checksum: options.checksum,
      ...(seed % ENCRYPTED_SEEDS === ENCRYPTED_SEED ? { ciphers: options.ciphers } : {}),
      drainMicrotasks: options.drainMicrotasks,
      logger: new OverheardLogger(
        options.trace === undefined
          ? silentLogger
          : new TraceLogger(options.trace, () => this.cluster.simulation.nowUs),
        "warn",
        (_, fields) => {
          if (isMistaken(fields?.["reason"])) this.probes.onMistaken();
        },
      ),
    });
    this.probes = new SimProbes(this.cluster, this.plan.store.logBytes);
    this.watch = new SimWatch(this.cluster, this.probes);
    this.cluster.onOpened = (osd) => this.watch.begin(osd);
  }

  get faultNotes(): readonly FaultNote[] {
    return [...this.parts.notes, ...(this.faults?.notes ?? [])];
  }

  dispose(): void {
    this.cluster.simulation.dispose();
  }

  go(): SimVerdict {
    const { cluster, plan } = this;
    const { simulation } = cluster;
    cluster.start();
    const open = (client: SimClient, timeoutMs: number): Image =>
      cluster.await("image open", client.client.openImage("pool/image", { timeoutMs }));
    const owners = cluster.clients.slice(0, CLIENTS);
    const load = new SimLoad(
      cluster,
      owners.map((client) => open(client, 0)),
      plan.wholes,
      plan.thinking,
    );
    const shared = cluster.clients.map((client) => open(client, plan.timeoutMs));
    const hot = new SimHot(cluster, shared, plan.timeoutMs, plan.thinking);
    if (plan.locks) cluster.createImage(LOCKED_IMAGE);
    const locks = plan.locks ? new SimLocks(cluster, owners, plan.thinking) : null;
    const { monitorDies } = this.plan;
    const images = plan.changes ? new SimImages(cluster, this.probes, monitorDies) : null;
    if (this.tunables !== null) {
      const { speed } = this.tunables;
      cluster.await("recovery dial", cluster.recovery.set({ speed }, false));
    }
    for (const one of [load, hot, images]) {
      if (one !== null) one.mayExpire = this.tunables !== null;
    }
    this.slowDown();
    const loads = { load, hot, locks, images };
    const faults = new SimFaults(cluster, loads, this.watch, plan, this.versions);
    this.faults = faults;
    faults.trace = this.options.trace ?? null;
    if (plan.isOperated) this.operators = new SimOperators(cluster, faults, this.probes);
    for (let round = 0; round < plan.rounds; round++) {
      load.start();
      hot.start();
      locks?.start();
      const floor = round < plan.rounds - 1 ? NO_FLOOR : FLOOR;
      this.strike(loads, faults, floor);
      this.heal(loads, faults, floor);
      this.finish(loads, faults);
    }
    for (const osd of cluster.osds) faults.count(osd);
    this.probes.countClients();
    this.probes.countExpired(load.expired + hot.expired);
    this.probes.countDevices();
    for (const osd of cluster.osds) {
      cluster.await("stop", checkStopped(cluster, osd, faults.devices));
    }
    const refused = load.refused + hot.refused + (locks?.refused ?? 0);
    const { woes } = faults.devices;
    assert(
      refused <= woes,
      `${String(refused)} operations were refused for damage: ${String(woes)} blocks or operations were hit`,
    );
    return {
      seed: this.options.seed,
      operations: operationsOf(loads),
      refused,
      shared: hot.operations,
      unanswered: hot.unanswered,
      faults: faults.counts,
      probes: this.probes.counts,
      blocksHealed: faults.blocksHealed,
      fills: faults.fills,
      blocksFilled: faults.blocksFilled,
      simulatedUs: simulation.nowUs,
      traceHash: simulation.traceHash,
    };
  }

  /** What a planted fault explains, and on the osd whose device it struck. */
  private isExcused({ who, message, fields }: LoggedError): boolean {
    if (this.plan.beneath && message === FULL) return true;
    if (this.plan.isOperated && isScrubLeft(message)) return true;
    if (message.startsWith(FORGOT)) return this.faults?.mayForget(fields?.["osd"]) === true;
    const isSameGeneration = fields?.["generation"] === fields?.["ownGeneration"];
    if (this.plan.restores && isSameGeneration && message.startsWith(NEWER_MAP)) {
      return this.restoreAgain();
    }
    if (!EXCUSED.has(message) || this.faults === null) return false;
    const reason = String(fields?.["error"] ?? fields?.["reason"] ?? "");
    return this.faults.mayFail(who, reason);
  }

  /**
   * A copy was put back a second time, and no osd that was heard knew of the life between: its monitor
   * says so when somebody else tells, and is started with `--restored` once more, as people are told.
   */
  private restoreAgain(): true {
    const { cluster } = this;
    cluster.simulation.after(0, () => {
      cluster.restoreMonitor(cluster.copyCatalogue());
      cluster.startMonitor();
    });
    return true;
  }

  private slowDown(): void {
    const { simulation, osds } = this.cluster;
    const { wireUsMax, deviceUsMax, corruptShare } = this.plan;
    Object.assign(simulation.network, { latencyUsMax: wireUsMax, corruptShare });
    for (const osd of osds) simulation.disk(osd.path).faults.latencyUsMax = deviceUsMax;
  }

  /** Let faults happen; when clients could do next to nothing meanwhile, for longer. */
  private strike(loads: SimLoads, faults: SimFaults, floor: Floor): void {
    const { simulation } = this.cluster;
    let endUs = simulation.nowUs + (this.options.faultUs ?? this.plan.faultUs);
    faults.begin(endUs);
    this.operators?.begin();
    this.pass(() => simulation.nowUs >= endUs);
    for (let step = 0; step < STEPS_MAX && !isReached(loads, floor); step++) {
      endUs += STEP_US;
      faults.prolong(endUs);
      this.pass(() => simulation.nowUs >= endUs);
    }
  }

  /** No more faults; clients go on while everything heals, or until they have done enough. */
  private heal(loads: SimLoads, faults: SimFaults, floor: Floor): void {
    const { simulation } = this.cluster;
    faults.end();
    this.operators?.end();
    const endUs = simulation.nowUs + FINISH_LIMIT_US;
    const more = this.healing.below(2) === 0 ? 0 : HEALING_OPERATIONS;
    const enough = operationsOf(loads) + more;
    const isHealed = (): boolean => operationsOf(loads) >= enough && isReached(loads, floor);
    this.pass(() => isHealed() || simulation.nowUs >= endUs);
    assert(
      isHealed(),
      `${String(operationsOf(loads))} operations, ${String(loads.hot.operations)} of them on shared blocks, wanted ${String(Math.max(enough, floor.operations))} and ${String(floor.shared)}:\n${describe(this.cluster)}`,
    );
  }

  /** Let time pass until `ready`, with a look every now and then. */
  private pass(ready: () => boolean): void {
    const { simulation } = this.cluster;
    for (let collectUs = simulation.nowUs + COLLECT_US; !ready(); ) {
      simulation.run(simulation.nowUs + LOOK_US);
      this.watch.look();
      this.operators?.look();
      if (simulation.nowUs < collectUs) continue;
      this.options.collect?.();
      collectUs += COLLECT_US;
    }
  }

  /** Everything must come to its end, and be right. */
  private finish({ load, hot, locks, images }: SimLoads, faults: SimFaults): void {
    const { cluster } = this;
    const { simulation } = cluster;
    load.stop();
    hot.stop();
    locks?.stop();
    images?.stop();
    const all = [load, hot, locks, images].filter((one) => one !== null);
    const areIdle = (): boolean => all.every((one) => one.idle);
    const answered = simulation.run(areIdle, FINISH_LIMIT_US);
    assert(answered, `operations are open long after the last fault:\n${describe(cluster)}`);
    const repaired = simulation.run(() => faults.idle, FINISH_LIMIT_US);
    assert(repaired, `a repair goes on long after the last fault:\n${describe(cluster)}`);
    this.watch.look();
    this.operators?.look();
    this.rest();
    for (const one of all) one.mayRefuse = false;
    load.verify(this.plan.replicas);
    hot.verify(this.plan.replicas, () => this.rest());
    locks?.verify();
    images?.verify(this.plan.replicas);
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
