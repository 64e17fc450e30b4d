// cold: the simulator
import { assert } from "../base/assert.ts";
import type { Checksum } from "../base/checksum.ts";
import { type Ciphers, NO_CIPHERS } from "../base/cipher.ts";
import { type LogFields, type Logger, OverheardLogger, silentLogger } from "../base/logger.ts";
import { Prng } from "../base/prng.ts";
import { type ChannelReceiver, Mailbox, type ShardChannel, type ShardMail } from "./channel.ts";
import { ReactorBase, type RunnableWorld, TurnClock } from "./reactor-base.ts";
import { PlainChecksum } from "./sim-checksum.ts";
import { type FlyingWrite, SimDiskFile, SimDisks } from "./sim-disk.ts";
import { SimEngine, type SimHost, TraceKind } from "./sim-engine.ts";
import { type NetworkCounts, type NetworkFaults, SimFabric, SimNetwork } from "./sim-network.ts";
import { SimMemory } from "./sim-pages.ts";
import type { Backend } from "./world.ts";

/**
 * Many processes in one thread, under one clock and one seed.
 *
 * Each process has a world of its own: arena, timers, disks, network. Its turns are events of the
 * simulation; a turn takes some µs of simulated time, during which what arrives waits for the next.
 * Everything that happens is a function of the seed and the code: two runs of a seed have equal
 * trace hashes.
 */

/** A failure found by the simulation; the message begins with the seed. */
export class SimulationError extends Error {
  override readonly name = "SimulationError";
}

export interface SimulationOptions {
  /** Runs the promise jobs that are ready, in each turn (`drainMicrotasks` of the runtime).
   * Without it nothing that awaits proceeds while the simulation runs. */
  readonly drainMicrotasks?: () => void;
  /** Default: a pure, slower one. */
  readonly checksum?: Checksum;
  /** Default: nothing can be encrypted. */
  readonly ciphers?: Ciphers;
  /** Where worlds log; default silent. An `error` fails the run unless `errorsAllowed`. */
  readonly logger?: Logger;
  readonly errorsAllowed?: boolean;
  /** Of a message that is logged as an error: whether a fault that was planted explains it. */
  readonly isExcused?: (logged: LoggedError) => boolean;
  /** Memory of each world. Default 64 MiB. */
  readonly arenaBytes?: number;
  /** Clocks of different machines run up to this share fast or slow. Default 0. */
  readonly clockDriftShare?: number;
  /** Where worlds get their memory, and leave it. */
  readonly memory?: SimMemory;
}

/** What a process logged as an error. */
export interface LoggedError {
  /** The name of its world. */
  readonly who: string;
  readonly message: string;
  readonly fields: LogFields | undefined;
}

export interface SimWorldOptions {
  readonly arenaBytes?: number;
  readonly slotsBytes?: number;
  /** Of `arenaBytes`, used by a world before that is gone: for runs by the thousand. */
  readonly memory?: ArrayBuffer;
}

/** One simulated process. */
export interface SimWorld extends RunnableWorld {
  readonly name: string;
  readonly address: string;
  readonly alive: boolean;
  /** The process dies and its device loses power; peers see resets. The machine's clock goes on. */
  crash(): void;
  /**
   * The machine loses power: like crash, but peers hear nothing before it is back (the next world there),
   * and its clock begins anew. `arrives`: whether a write on its way is there as a whole, by its offset;
   * default: by chance, also torn.
   */
  powerCut(arrives?: (offsetBytes: number) => boolean): void;
  /** Writes on their way to a device of this process, in the order of their submission. */
  flying(path: string): FlyingWrite[];
  /** SIGSTOP: no turns; connections stay, the clock goes on. */
  pause(): void;
  resume(): void;
  /** Set the machine's wall clock forward or back. */
  stepWall(byMs: number): void;
  /** Let the machine's other clock run by this share fast, or slow (below 0), from now on. */
  setRate(share: number): void;
}

const ARENA_DEFAULT = 64 * 1_048_576;
const LIMIT_US_DEFAULT = 60_000_000;
const TURN_US_MAX = 12;
const BOOT_US_MAX = 4_000_000_000;
const WALL_MS_START = 1_750_000_000_000;
/** More than the rounding errors of a clock's rate. */
const ROUNDING_US = 0.001;

/** The clock of one machine: goes on while processes come and go. */
class SimMachine {
  offsetUs: number;
  rate: number;
  /** How far its wall clock is off: people and daemons set it. */
  wallOffMs = 0;
  /** Off: connections to it are not even refused. */
  dark = false;

  constructor(engine: SimEngine, driftShare: number) {
    this.offsetUs = engine.random.below(BOOT_US_MAX) - engine.nowUs;
    const drift = (engine.random.u32() / 2_147_483_648 - 1) * driftShare;
    this.rate = 1 + drift;
  }

  read(nowUs: number): number {
    return Math.floor(nowUs * this.rate + this.offsetUs);
  }

  /** Another rate: the clock goes on from where it is, never back. */
  setRate(nowUs: number, rate: number): void {
    this.offsetUs += nowUs * (this.rate - rate) + ROUNDING_US;
    this.rate = rate;
  }

  /** When the machine's clock will show `localUs`, in simulated time. */
  whenUs(localUs: number): number {
    return Math.ceil((localUs - this.offsetUs) / this.rate);
  }
}

class SimClock extends TurnClock {
  private readonly engine: SimEngine;
  private readonly machine: SimMachine;

  constructor(engine: SimEngine, machine: SimMachine) {
    super();
    this.engine = engine;
    this.machine = machine;
  }

  nowUs(): number {
    return this.machine.read(this.engine.nowUs);
  }

  wallMs(): number {
    return WALL_MS_START + this.machine.wallOffMs + Math.floor(this.engine.nowUs / 1000);
  }
}

/** Many simulated processes under one clock and one seed. */
export class Simulation {
  readonly seed: number;
  readonly engine: SimEngine;
  private readonly options: SimulationOptions;
  private readonly memory: SimMemory;
  private readonly fabric: SimFabric;
  private readonly checksum: Checksum;
  private readonly files = new Map<string, SimDiskFile>();
  private readonly machines = new Map<string, SimMachine>();
  private readonly worlds = new Map<string, SimProcess>();
  private worldCount = 0;
  private failure: SimulationError | null = null;

  constructor(seed: number, options: SimulationOptions = {}) {
    this.seed = seed;
    this.options = options;
    this.engine = new SimEngine(seed);
    this.memory = options.memory ?? new SimMemory();
    this.fabric = new SimFabric(
      this.engine,
      this.memory,
      (address) => this.machines.get(address)?.dark ?? true,
    );
    this.checksum = options.checksum ?? new PlainChecksum();
  }

  /** Simulated µs since the start. */
  get nowUs(): number {
    return this.engine.nowUs;
  }

  /** What the network does to traffic; change it at any time. */
  get network(): NetworkFaults {
    return this.fabric.faults;
  }

  /** What has happened on the wires. */
  get networkCounts(): Readonly<NetworkCounts> {
    return this.fabric.counts;
  }

  /** A generator for the test itself, of the simulation's seed. */
  newRandom(salt: number): Prng {
    return new Prng(this.seed * 7919 + salt);
  }

  /**
   * A process on a machine: `address` (like `10.0.0.1`) names the machine. The same name may be
   * made again when the earlier one is gone. Start it when it is set up.
   */
  createWorld(name: string, address: string, options: SimWorldOptions = {}): SimWorld {
    const earlier = this.worlds.get(name);
    assert(earlier === undefined || !earlier.alive, "Simulation.createWorld: the name is in use");
    const arenaBytes = options.arenaBytes ?? this.options.arenaBytes ?? ARENA_DEFAULT;
    if (earlier !== undefined) this.recycle(earlier);
    const machine = this.machineAt(address);
    machine.dark = false;
    this.worldCount += 1;
    const world = new SimProcess(this, machine, this.worldCount, name, address, {
      arenaBytes,
      slotsBytes: options.slotsBytes,
      memory: options.memory ?? this.memory.takeArena(arenaBytes),
      simMemory: this.memory,
      checksum: this.checksum,
      ciphers: this.options.ciphers ?? NO_CIPHERS,
      logger: this.loggerFor(name),
      drainMicrotasks: this.options.drainMicrotasks ?? nothing,
      fabric: this.fabric,
    });
    this.worlds.set(name, world);
    return world;
  }

  /** The simulation is over: the memory of all worlds is free. */
  dispose(): void {
    for (const world of this.worlds.values()) {
      world.crash();
      this.recycle(world);
    }
    this.worlds.clear();
    for (const file of this.files.values()) file.clear();
  }

  private recycle(world: SimProcess): void {
    const { buffer } = world.arena.bytes;
    if (buffer instanceof ArrayBuffer) this.memory.giveArena(buffer);
  }

  /** All devices that were ever made. */
  get disks(): Iterable<SimDiskFile> {
    return this.files.values();
  }

  /** The persistent device at a path; made with `sizeBytes` when it is not there yet. */
  disk(path: string, sizeBytes?: number): SimDiskFile {
    const file = this.fileAt(path, sizeBytes);
    assert(file !== undefined, "Simulation.disk: no device at the path, and no size given");
    return file;
  }

  /**
   * Let things happen: until simulated time `until` (µs since the start), or until the predicate
   * holds. Answers false when the predicate did not hold within `limitUs`. Throws
   * `SimulationError` when a handler threw or something was logged as an error.
   */
  run(until: number | (() => boolean), limitUs: number = LIMIT_US_DEFAULT): boolean {
    this.throwFailure();
    if (typeof until === "number") {
      this.runTo(until);
      return true;
    }
    this.options.drainMicrotasks?.();
    const endUs = this.engine.nowUs + limitUs;
    while (!until()) {
      if (this.engine.nextUs > endUs) {
        this.engine.nowUs = endUs;
        return until();
      }
      this.engine.step();
      this.throwFailure();
    }
    return true;
  }

  /** Do something once, µs from now. */
  after(delayUs: number, action: () => void): void {
    this.engine.after(delayUs, action);
  }

  /** Cut one direction between two addresses; `*` is everybody. Bytes wait until it is healed. */
  cut(from: string, to: string): void {
    this.fabric.cut(from, to);
  }

  /** End one cut, or all of them. */
  heal(from?: string, to?: string): void {
    this.fabric.heal(from, to);
  }

  /** Whether anything is cut. */
  get hasCuts(): boolean {
    return this.fabric.hasCuts;
  }

  /** Reset every connection between two addresses; `*` is everybody. */
  reset(a: string, b: string): void {
    this.fabric.reset(a, b);
  }

  /**
   * Connections between two addresses end at the first one; `*` is everybody. The other end is not told:
   * what it sends from then on is answered with a reset.
   */
  orphan(forgetful: string, other: string): void {
    this.fabric.orphan(forgetful, other);
  }

  /** 16 hex digits over everything that happened. */
  get traceHash(): string {
    return this.engine.traceHash;
  }

  /* ---------------------------------------------------- for the processes */

  fileAt(path: string, createBytes: number | undefined): SimDiskFile | undefined {
    let file = this.files.get(path);
    if (file === undefined && createBytes !== undefined) {
      file = new SimDiskFile(this.engine, this.memory, path, createBytes);
      this.files.set(path, file);
    }
    return file;
  }

  /** Give a turn to the process with this number. */
  wake(id: number): void {
    for (const world of this.worlds.values()) {
      if (world.id === id && world.alive) world.requestTurn();
    }
  }

  fail(who: string, error: unknown): void {
    if (this.failure !== null) return;
    const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
    const where = `seed ${this.seed}, ${who}, at ${this.engine.nowUs} µs`;
    this.failure = new SimulationError(`${where}: ${text}`);
  }

  private runTo(untilUs: number): void {
    this.options.drainMicrotasks?.();
    while (this.engine.nextUs <= untilUs) {
      this.engine.step();
      this.throwFailure();
    }
    if (this.engine.nowUs < untilUs) this.engine.nowUs = untilUs;
  }

  private throwFailure(): void {
    if (this.failure !== null) throw this.failure;
  }

  private machineAt(address: string): SimMachine {
    let machine = this.machines.get(address);
    if (machine === undefined) {
      machine = new SimMachine(this.engine, this.options.clockDriftShare ?? 0);
      this.machines.set(address, machine);
    }
    return machine;
  }

  private loggerFor(name: string): Logger {
    const inner = (this.options.logger ?? silentLogger).child({ name });
    if (this.options.errorsAllowed === true) return inner;
    return new OverheardLogger(inner, "error", (message, fields) => {
      if (this.options.isExcused?.({ who: name, message, fields }) === true) return;
      this.fail(name, `logged an error: ${message} ${JSON.stringify(fields ?? {})}`);
    });
  }
}

interface ProcessParts {
  readonly arenaBytes: number;
  readonly slotsBytes: number | undefined;
  readonly memory: ArrayBuffer;
  readonly simMemory: SimMemory;
  readonly checksum: Checksum;
  readonly ciphers: Ciphers;
  readonly logger: Logger;
  readonly drainMicrotasks: () => void;
  readonly fabric: SimFabric;
}

class SimProcess extends ReactorBase implements SimWorld, SimHost, ShardMail {
  readonly backend: Backend = "memory";
  readonly disks: SimDisks;
  readonly network: SimNetwork;
  readonly name: string;
  readonly address: string;
  readonly id: number;
  readonly engine: SimEngine;
  alive = true;
  readonly mail: ShardMail = this;
  private readonly mailbox = new Mailbox();
  private readonly simulation: Simulation;
  private readonly machine: SimMachine;
  private readonly drainMicrotasks: () => void;
  private started = false;
  private paused = false;
  private wanted = false;
  private plannedUs = Number.POSITIVE_INFINITY;
  /** When the event happens that looks for timers that are due. */
  private timersUs = Number.POSITIVE_INFINITY;
  private busyUntilUs = 0;
  private readonly onPlanned = (): void => {
    if (this.plannedUs === this.engine.nowUs) this.takeTurn();
  };
  private readonly onTimers = (): void => {
    if (this.timersUs !== this.engine.nowUs) return;
    this.timersUs = Number.POSITIVE_INFINITY;
    this.planTimers();
  };

  constructor(
    simulation: Simulation,
    machine: SimMachine,
    id: number,
    name: string,
    address: string,
    parts: ProcessParts,
  ) {
    const { arenaBytes, slotsBytes, checksum, ciphers, logger } = parts;
    super({
      options:
        slotsBytes === undefined ? { arenaBytes, logger } : { arenaBytes, logger, slotsBytes },
      memory: parts.memory,
      clock: new SimClock(simulation.engine, machine),
      random: simulation.newRandom(id * 1_000_003),
      checksum,
      ciphers,
    });
    this.simulation = simulation;
    this.machine = machine;
    this.engine = simulation.engine;
    this.id = id;
    this.name = name;
    this.address = address;
    this.drainMicrotasks = parts.drainMicrotasks;
    this.disks = new SimDisks(this.arena, this, parts.simMemory, (path, size) =>
      simulation.fileAt(path, size),
    );
    this.network = new SimNetwork(this, this, parts.fabric);
    this.clock.wake = (): void => this.planTimers();
    this.turns.wake = (): void => this.requestTurn();
  }

  start(): void {
    if (this.started) return;
    this.started = true;
    this.requestTurn();
  }

  stop(): Promise<void> {
    if (this.alive) {
      this.alive = false;
      this.disks.closeAll();
      this.network.die(false);
    }
    return Promise.resolve();
  }

  crash(): void {
    if (!this.alive) return;
    this.alive = false;
    this.engine.trace(TraceKind.Crash, this.id, 0);
    this.disks.losePower();
    this.network.die(false);
  }

  flying(path: string): FlyingWrite[] {
    return this.disks.flying(this.simulation.disk(path));
  }

  powerCut(arrives?: (offsetBytes: number) => boolean): void {
    if (!this.alive) return;
    this.alive = false;
    this.engine.trace(TraceKind.Crash, this.id, 1);
    this.disks.losePower(arrives);
    this.network.die(true);
    this.machine.dark = true;
    this.machine.offsetUs = -Math.floor(this.engine.nowUs * this.machine.rate);
  }

  pause(): void {
    this.paused = true;
  }

  resume(): void {
    if (!this.paused) return;
    this.paused = false;
    this.requestTurn();
  }

  stepWall(byMs: number): void {
    this.machine.wallOffMs += byMs;
  }

  setRate(share: number): void {
    this.machine.setRate(this.engine.nowUs, 1 + share);
    this.planTimers();
  }

  holdGuest(): void {}

  releaseGuest(): void {}

  receive(channel: ShardChannel, receiver: ChannelReceiver): void {
    channel.setWaker(this.id);
    this.mailbox.add(channel, receiver);
    this.requestTurn();
  }

  publish(channel: ShardChannel): void {
    if (!channel.commit()) return;
    const { waker } = channel;
    this.engine.after(1 + this.engine.random.below(TURN_US_MAX), () => this.simulation.wake(waker));
  }

  requestTurn(): void {
    this.wanted = true;
    this.planAt(this.engine.nowUs);
  }

  fail(error: unknown): void {
    if (!this.alive) return;
    this.alive = false;
    this.hasFailed = true;
    this.simulation.fail(this.name, error);
  }

  private planAt(atUs: number): void {
    if (!this.started || !this.alive || this.paused) return;
    const when = Math.max(atUs, this.busyUntilUs, this.engine.nowUs);
    if (when >= this.plannedUs) return;
    this.plannedUs = when;
    this.engine.after(when - this.engine.nowUs, this.onPlanned);
  }

  /** Most turns are taken for something else before a timer is due: one event looks after all. */
  private planTimers(): void {
    if (!this.started || !this.alive) return;
    const dueUs = this.timers.nextDueUs();
    if (dueUs === Number.POSITIVE_INFINITY) return;
    const { nowUs } = this.engine;
    const when = Math.max(this.machine.whenUs(dueUs), nowUs);
    if (when === nowUs) this.planAt(when);
    else if (when < this.timersUs) {
      this.timersUs = when;
      this.engine.after(when - nowUs, this.onTimers);
    }
  }

  private takeTurn(): void {
    this.plannedUs = Number.POSITIVE_INFINITY;
    if (!this.alive || this.paused) return;
    this.wanted = false;
    this.turns.againRequested = false;
    const startUs = this.engine.nowUs;
    this.busyUntilUs = startUs + 1 + this.engine.random.below(TURN_US_MAX);
    this.engine.trace(TraceKind.Turn, this.id, 0);
    try {
      this.turn();
    } catch (error) {
      this.fail(error);
    }
    if (!this.alive) return;
    if (this.wanted || this.turns.againRequested) this.planAt(startUs);
    this.planTimers();
  }

  private turn(): void {
    const { clock, stats } = this;
    clock.begin();
    stats.turns += 1;
    this.mailbox.wokeUp();
    stats.completions += this.disks.complete() + this.network.deliver() + this.mailbox.drain();
    this.drainMicrotasks();
    if (!this.alive) return;
    this.timers.expire(clock.turnUs);
    this.drainMicrotasks();
    this.turns.run();
    this.drainMicrotasks();
    if (!this.alive) return;
    this.network.flush();
    if (!this.mailbox.prepareToSleep()) this.turns.again();
    clock.end();
  }
}

function nothing(): void {}
