// data path
import { assert } from "../base/assert.ts";
import { Timer, type Timers } from "./world.ts";

const LEVEL_BITS = 8;
const LEVEL_SLOTS = 256;
const LEVEL_MASK = 255;
const LEVELS = 4;
const TICK_US = 1000;
/** Of a slot with more timers than this, the next due one is not looked for. */
const SEARCH_MAX = 16;
/** 2^32 ticks of 1 ms: 49 days; a longer delay is a bug. */
const DELAY_TICKS_MAX = 4_294_967_295;

/** Where delays count from. */
export interface TimerBase {
  baseUs(): number;
  /** A timer was armed: between turns the next one may have to come earlier. */
  armed(): void;
}

/** Head of a circular list of timers. */
class Sentinel extends Timer {
  onTimer(): void {
    assert(false, "TimerWheel: the head of a list fired");
  }
}

/**
 * A hierarchical timer wheel of four levels of 256 slots with a grain of 1 ms.
 *
 * A timer due at tick d (d = ⌈due / 1 ms⌉) stands in the level of the highest byte in which d and
 * the present tick differ; when the present tick enters that byte's slot, the slot's timers move a
 * level down. Arming, disarming and firing are O(1); a timer moves at most three times. Timers
 * never fire early, in one tick in no stated but in a reproducible order. A timer armed by a timer
 * fires in a later turn at the earliest.
 *
 * The simpler heap was not enough: heartbeats and RPC time-outs are re-armed all the time, and a
 * heap pays O(log n) and a search for each.
 */
export class TimerWheel implements Timers {
  private readonly base: TimerBase;
  /** Heads of the slots' lists, made when a slot is first used. */
  private readonly heads: (Sentinel | null)[] = [];
  /** A bit per slot, set when a timer enters; found stale (and cleared) when looked at. */
  private readonly occupied: Int32Array = new Int32Array((LEVELS * LEVEL_SLOTS) / 32);
  private tick: number;
  private armed = 0;

  constructor(base: TimerBase) {
    this.base = base;
    for (let at = 0; at < LEVELS * LEVEL_SLOTS; at++) this.heads.push(null);
    this.tick = Math.floor(base.baseUs() / TICK_US);
  }

  /** Timers that are armed. */
  get count(): number {
    return this.armed;
  }

  arm(timer: Timer, delayUs: number): void {
    assert(delayUs >= 0, "Timers.arm: delay is negative");
    this.disarm(timer);
    timer.timerDueUs = this.base.baseUs() + delayUs;
    this.armed += 1;
    this.place(timer);
    this.base.armed();
  }

  armPeriod(timer: Timer, periodUs: number): void {
    this.arm(timer, periodUs - (this.base.baseUs() % periodUs));
  }

  disarm(timer: Timer): void {
    if (timer.timerDueUs < 0) return;
    const next = timer.timerNext!;
    const previous = timer.timerPrevious!;
    next.timerPrevious = previous;
    previous.timerNext = next;
    timer.timerNext = null;
    timer.timerPrevious = null;
    timer.timerDueUs = -1;
    this.armed -= 1;
  }

  /** Fire what is due at `nowUs`. */
  expire(nowUs: number): void {
    const target = Math.floor(nowUs / TICK_US);
    while (this.tick < target) {
      if (this.armed === 0) {
        this.tick = target;
        return;
      }
      this.skipEmpty(target);
      if (this.tick >= target) return;
      this.tick += 1;
      this.cascade();
      this.fire(this.heads[this.tick & LEVEL_MASK] ?? null);
    }
  }

  /**
   * When `expire` next has work, in µs; Infinity when nothing is armed. Of many timers far away it
   * is an earlier moment, at which they move a level down: at most three such for the life of each.
   */
  nextDueUs(): number {
    if (this.armed === 0) return Number.POSITIVE_INFINITY;
    let span = 1;
    for (let level = 0; level < LEVELS; level++) {
      const present = Math.floor(this.tick / span);
      const here = present & LEVEL_MASK;
      const slot = this.nextOccupied(level, here + 1);
      if (slot < LEVEL_SLOTS) {
        const beginUs = (present - here + slot) * span * TICK_US;
        return level === 0 ? beginUs : this.firstOf(level * LEVEL_SLOTS + slot, beginUs);
      }
      span *= LEVEL_SLOTS;
    }
    // Everything armed lies behind a wrap of the highest byte: look again at the next slot.
    return (this.tick + 1) * TICK_US;
  }

  /**
   * When the first timer of a slot is due. A reactor that has little to do sleeps until then: with
   * the slot's begin it would wake once more for each of its few timers.
   */
  private firstOf(at: number, beginUs: number): number {
    const head = this.heads[at]!;
    let firstUs = Number.POSITIVE_INFINITY;
    let left = SEARCH_MAX;
    for (let timer = head.timerNext!; timer !== head; timer = timer.timerNext!) {
      left -= 1;
      if (left < 0) return beginUs;
      if (timer.timerDueUs < firstUs) firstUs = timer.timerDueUs;
    }
    return Math.ceil(firstUs / TICK_US) * TICK_US;
  }

  /** Go on to the last tick before the lowest level has something or ends, at most to `target`. */
  private skipEmpty(target: number): void {
    const start = this.tick - (this.tick & LEVEL_MASK);
    const slot = this.nextOccupied(0, (this.tick & LEVEL_MASK) + 1);
    const end = Math.min(target, start + slot - 1);
    if (end > this.tick) this.tick = end;
  }

  /** The first slot of a level from `slot` on that has a timer; LEVEL_SLOTS when there is none. */
  private nextOccupied(level: number, slot: number): number {
    let at = level * LEVEL_SLOTS + slot;
    const end = (level + 1) * LEVEL_SLOTS;
    while (at < end) {
      const word = at >>> 5;
      const bits = this.occupied[word]! & (-1 << (at & 31));
      if (bits === 0) {
        at = (word + 1) << 5;
        continue;
      }
      at = (word << 5) + 31 - Math.clz32(bits & -bits);
      const head = this.heads[at] ?? null;
      if (head !== null && head.timerNext !== head) return at - level * LEVEL_SLOTS;
      this.occupied[word] = this.occupied[word]! & ~(1 << (at & 31));
      at += 1;
    }
    return LEVEL_SLOTS;
  }

  private place(timer: Timer): void {
    let due = Math.ceil(timer.timerDueUs / TICK_US);
    if (due <= this.tick) due = this.tick + 1;
    const delta = due - this.tick;
    assert(delta <= DELAY_TICKS_MAX, "Timers.arm: delay is above 49 days");
    const level = levelOf(due, this.tick);
    const slot = Math.floor(due / 2 ** (level * LEVEL_BITS)) & LEVEL_MASK;
    this.append(level * LEVEL_SLOTS + slot, timer);
  }

  private append(at: number, timer: Timer): void {
    const head = this.heads[at] ?? this.makeHead(at);
    const last = head.timerPrevious!;
    timer.timerNext = head;
    timer.timerPrevious = last;
    last.timerNext = timer;
    head.timerPrevious = timer;
    this.occupied[at >>> 5] = this.occupied[at >>> 5]! | (1 << (at & 31));
  }

  /** cold: once per slot of the wheel */
  private makeHead(at: number): Sentinel {
    const head = new Sentinel();
    head.timerNext = head;
    head.timerPrevious = head;
    this.heads[at] = head;
    return head;
  }

  /** Move the slots that the present tick has just entered a level down, the highest first. */
  private cascade(): void {
    let levels = 0;
    let value = this.tick;
    while (levels < LEVELS - 1 && (value & LEVEL_MASK) === 0) {
      levels += 1;
      value = Math.floor(value / LEVEL_SLOTS);
    }
    for (let level = levels; level > 0; level--) {
      const slot = Math.floor(this.tick / 2 ** (level * LEVEL_BITS)) & LEVEL_MASK;
      this.moveDown(this.heads[level * LEVEL_SLOTS + slot] ?? null);
    }
  }

  private moveDown(head: Timer | null): void {
    if (head === null) return;
    let timer = head.timerNext!;
    head.timerNext = head;
    head.timerPrevious = head;
    while (timer !== head) {
      const next = timer.timerNext!;
      this.placeMoved(timer);
      timer = next;
    }
  }

  /** Like `place`, but a timer due at the present tick goes into its slot, which fires next. */
  private placeMoved(timer: Timer): void {
    const due = Math.ceil(timer.timerDueUs / TICK_US);
    if (due > this.tick) this.place(timer);
    else this.append(this.tick & LEVEL_MASK, timer);
  }

  private fire(head: Timer | null): void {
    if (head === null) return;
    for (let timer = head.timerNext!; timer !== head; timer = head.timerNext!) {
      this.disarm(timer);
      timer.onTimer();
    }
  }
}

/** The highest byte (0 to 3) in which two ticks differ, of those that the wheel has. */
function levelOf(due: number, tick: number): number {
  let span = LEVEL_SLOTS;
  for (let level = 0; level < LEVELS - 1; level++) {
    if (Math.floor(due / span) === Math.floor(tick / span)) return level;
    span *= LEVEL_SLOTS;
  }
  return LEVELS - 1;
}
