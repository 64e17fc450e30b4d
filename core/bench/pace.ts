// data path
import { assert } from "../base/assert.ts";
import { type Clock, Timer, type Timers } from "../reactor/world.ts";

const TICK_US = 1000;
const TICKS_PER_SECOND = 1000;

/**
 * When the operations of an open loop are due: at a fixed rate from `begin` on, whatever becomes of those
 * before. Whoever counts from then on sees what a stall costs everybody who came during it; a closed loop
 * waits with the store, and notices one slow operation for each that it keeps open.
 *
 * Timers have a grain of 1 ms, so operation k is due at the full millisecond in which k / rate lies: each
 * brings rate / 1000 of them at once. To wake more often would take processor time from the osds beside.
 */
export class Pace extends Timer {
  /** So many operations were taken. */
  taken = 0;
  private readonly clock: Clock;
  private readonly timers: Timers;
  private readonly opsPerTick: number;
  private onDue: (() => void) | null = null;
  private startUs = 0;
  private endUs = Number.POSITIVE_INFINITY;

  constructor(clock: Clock, timers: Timers, opsPerSecond: number) {
    super();
    assert(opsPerSecond > 0, "Pace: the rate is not above 0");
    this.clock = clock;
    this.timers = timers;
    this.opsPerTick = opsPerSecond / TICKS_PER_SECOND;
  }

  /** Count from the next full millisecond on; `onDue` is called whenever there may be something to take. */
  begin(onDue: () => void): void {
    this.onDue = onDue;
    this.startUs = Math.ceil(this.clock.nowUs() / TICK_US) * TICK_US;
    this.arm();
  }

  /** Nothing is due after `endUs`. What was due by then, and is not taken, stays so. */
  end(endUs: number): void {
    this.endUs = endUs;
    this.onDue = null;
    this.timers.disarm(this);
  }

  /** Take the next operation. Answers the µs at which it is due; -1: none is by now. */
  take(): number {
    const dueUs = this.nextUs();
    if (dueUs > this.clock.nowUs() || dueUs > this.endUs) return -1;
    this.taken++;
    return dueUs;
  }

  override onTimer(): void {
    const { onDue } = this;
    if (onDue !== null) onDue();
    // The load may have ended it.
    if (this.onDue !== null) this.arm();
  }

  private nextUs(): number {
    return this.startUs + Math.floor(this.taken / this.opsPerTick) * TICK_US;
  }

  /** When all operations are open already, the next one is overdue: those that end take it, too. */
  private arm(): void {
    this.timers.arm(this, Math.max(0, this.nextUs() - this.clock.nowUs()));
  }
}
