// data path
import { assert } from "../base/assert.ts";
import type { Checksum } from "../base/checksum.ts";
import type { Ciphers } from "../base/cipher.ts";
import type { Logger } from "../base/logger.ts";
import type { Random } from "../base/prng.ts";
import { StageTrace } from "../metrics/metrics.ts";
import { LinearArena } from "./arena.ts";
import type { ShardMail } from "./channel.ts";
import { SLAB_SIZE, SlotPool } from "./slots.ts";
import { TimerWheel } from "./timer-wheel.ts";
import type { Backend, Clock, Disks, Drain, DrainOrder, Network, Turns, World } from "./world.ts";

/**
 * A world with its life: what `cmd/` and tests hold. Set up disks, listeners, drains; then start.
 */
export interface RunnableWorld extends World {
  /** Begin taking turns. Returns at once; turns run from the runtime's own event loop. */
  start(): void;
  /**
   * End: no further turn, every connection, listener and device closed. Operations in flight are
   * abandoned without `onDone`. Idempotent.
   */
  stop(): Promise<void>;
  /**
   * The runtime is expected to run timers or requests of its own until the matching release: its
   * loop then gets a turn at least every 5 ms instead of every second. Counted.
   */
  holdGuest(): void;
  releaseGuest(): void;
  /** Messages to and from the other threads of the process. */
  readonly mail: ShardMail;
  /** Counters of the loop, for metrics and benches. */
  readonly stats: ReactorStats;
}

/** Counters since the start of the world. */
export class ReactorStats {
  turns = 0;
  /** Turns that blocked in the kernel. */
  blocks = 0;
  /** Turns given to the runtime's own loop. */
  guestTurns = 0;
  completions = 0;
  /** System calls of the reactor itself; 0 where the runtime makes them. */
  systemCalls = 0;
  /** Longest time between two looks at the completions, µs: what one long handler costs all. */
  turnUsMax = 0;
}

/** Turns from here on are logged, at level debug: people notice them in the tail of latencies. */
const LONG_TURN_US = 10_000;

/** What every world is made with. */
export interface WorldOptions {
  /** Size of the arena: at most 4 GiB, multiples of 1 MiB; untouched parts cost nothing. */
  readonly arenaBytes: number;
  readonly logger: Logger;
  /** Share of the arena set aside for slots; default half, rounded down to 1 MiB. */
  readonly slotsBytes?: number;
  /**
   * Called once when a handler, timer or drain threw; no turn follows. Default: the error becomes
   * an uncaught exception of the thread, which ends the process.
   */
  readonly onFatal?: (error: unknown) => void;
}

/** Drains by order, and the wish for another turn. */
export class TurnDrains implements Turns {
  private readonly drains: Drain[][] = [[], [], [], [], []];
  /** Set by `again`, cleared by whoever runs the turns. */
  againRequested = false;
  /** Called by `again` from outside of a turn; null where turns come by themselves. */
  wake: (() => void) | null = null;

  addDrain(order: DrainOrder, drain: Drain): void {
    this.drains[order]!.push(drain);
  }

  again(): void {
    this.againRequested = true;
    if (this.wake !== null) this.wake();
  }

  /** Run every drain once, in order. */
  run(): void {
    for (let order = 0; order < this.drains.length; order++) {
      const row = this.drains[order]!;
      for (let at = 0; at < row.length; at++) row[at]!.drain();
    }
  }
}

/** A turn that goes on for longer keeps others waiting. */
const TURN_FAIR_US = 20_000;

/** A clock whose cached reading is set by the reactor. */
export abstract class TurnClock implements Clock {
  turnUs = 0;
  overrunUs = 0;
  /** False between turns, when `turnUs` is old. */
  inTurn = false;
  /** Called when a timer is armed between turns; null where turns come by themselves. */
  wake: (() => void) | null = null;
  abstract nowUs(): number;
  abstract wallMs(): number;

  /** What delays count from: the turn's time within a turn, else the time now. */
  baseUs(): number {
    return this.inTurn ? this.turnUs : this.nowUs();
  }

  armed(): void {
    if (!this.inTurn && this.wake !== null) this.wake();
  }

  begin(): void {
    this.turnUs = this.nowUs();
    this.inTurn = true;
  }

  end(): void {
    this.inTurn = false;
  }

  /** Nobody looked at completions since the turn began, until `nowUs`. Answers for how long. */
  looksAgain(nowUs: number): number {
    if (this.turnUs === 0) return 0;
    const took = nowUs - this.turnUs;
    if (took > TURN_FAIR_US) this.overrunUs += took - TURN_FAIR_US;
    return took;
  }
}

/** What the three worlds share: memory, timers and drains. */
export abstract class ReactorBase implements World {
  readonly arena: LinearArena;
  readonly slots: SlotPool;
  readonly clock: TurnClock;
  readonly random: Random;
  readonly timers: TimerWheel;
  readonly turns: TurnDrains;
  readonly checksum: Checksum;
  readonly ciphers: Ciphers;
  readonly logger: Logger;
  readonly trace: StageTrace;
  readonly stats: ReactorStats;
  abstract readonly disks: Disks;
  abstract readonly network: Network;
  abstract readonly backend: Backend;
  /** Set by `fail`. */
  protected hasFailed = false;

  protected constructor(parts: ReactorParts) {
    this.arena = new LinearArena(parts.memory);
    const slotsBytes =
      parts.options.slotsBytes ?? Math.floor(parts.memory.byteLength / 2 / SLAB_SIZE) * SLAB_SIZE;
    assert(slotsBytes >= SLAB_SIZE, "world: the slots get less than 1 MiB");
    this.slots = new SlotPool(this.arena, slotsBytes);
    this.clock = parts.clock;
    this.random = parts.random;
    this.timers = new TimerWheel(parts.clock);
    this.turns = new TurnDrains();
    this.checksum = parts.checksum;
    this.ciphers = parts.ciphers;
    this.logger = parts.options.logger;
    this.trace = new StageTrace(parts.clock);
    this.stats = new ReactorStats();
  }

  abstract fail(error: unknown): void;

  /**
   * Keep what a turn took, in µs. One that was long is told: who waits for an answer then waits for the
   * turn, be it a long handler, a collection of garbage, or a processor that was not there.
   */
  protected noteTurn(tookUs: number): void {
    if (tookUs > this.stats.turnUsMax) this.stats.turnUsMax = tookUs;
    if (tookUs >= LONG_TURN_US) this.tellLongTurn(tookUs);
  }

  // cold: turns are shorter.
  private tellLongTurn(tookUs: number): void {
    this.logger.debug("long turn", { ms: Math.round(tookUs / 1000) });
  }

  /** Expire timers, then run the drains: the middle of every turn, alike in all worlds. */
  protected runTimersAndDrains(): void {
    this.timers.expire(this.clock.turnUs);
    this.turns.run();
  }
}

/** What an implementation supplies to `ReactorBase`. */
export interface ReactorParts {
  readonly options: WorldOptions;
  /** Zeroed, page-aligned where the kernel uses it. */
  readonly memory: ArrayBufferLike;
  readonly clock: TurnClock;
  readonly random: Random;
  readonly checksum: Checksum;
  readonly ciphers: Ciphers;
}
