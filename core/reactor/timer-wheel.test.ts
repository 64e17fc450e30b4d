import { describe, expect, test } from "bun:test";
import { Prng } from "../base/prng.ts";
import { TimerWheel } from "./timer-wheel.ts";
import { Timer } from "./world.ts";

class Noting extends Timer {
  firedUs = -1;
  private readonly base: Base;
  constructor(base: Base) {
    super();
    this.base = base;
  }
  onTimer(): void {
    this.firedUs = this.base.now;
  }
}

class Base {
  now = 0;
  baseUs(): number {
    return this.now;
  }
  armed(): void {}
}

describe("timer wheel", () => {
  test("fires each timer at its tick when it is woken at nextDueUs", () => {
    for (let seed = 1; seed <= 20; seed++) {
      const random = new Prng(seed);
      const base = new Base();
      base.now = random.u32() * 1000 + random.below(1000);
      const wheel = new TimerWheel(base);
      const timers: { timer: Noting; dueUs: number }[] = [];
      for (let at = 0; at < 300; at++) {
        const timer = new Noting(base);
        const scale = [1_000, 300_000, 70_000_000, 20_000_000_000][random.below(4)]!;
        const delayUs = Math.floor((random.u32() / 4_294_967_296) * scale);
        wheel.arm(timer, delayUs);
        timers.push({ timer, dueUs: base.now + delayUs });
      }
      let wakes = 0;
      while (wheel.count > 0) {
        const next = wheel.nextDueUs();
        expect(next).toBeGreaterThan(base.now);
        base.now = next;
        wheel.expire(base.now);
        wakes += 1;
      }
      for (const { timer, dueUs } of timers) {
        expect(timer.firedUs).toBeGreaterThanOrEqual(dueUs);
        expect(timer.firedUs).toBeLessThan(dueUs + 2_000);
      }
      expect(wakes).toBeLessThan(300 * 4);
      expect(wheel.nextDueUs()).toBe(Number.POSITIVE_INFINITY);
    }
  });

  test("a few timers far away wake the reactor once each", () => {
    const base = new Base();
    base.now = 123_456;
    const wheel = new TimerWheel(base);
    const delaysMs = [700, 70_000, 20_000_000];
    for (const ms of delaysMs) wheel.arm(new Noting(base), ms * 1000);
    for (const ms of delaysMs) {
      const next = wheel.nextDueUs();
      expect(next).toBe(124_000 + ms * 1000);
      base.now = next;
      wheel.expire(base.now);
    }
    expect(wheel.count).toBe(0);
  });

  test("periods begin together on the clock", () => {
    const base = new Base();
    base.now = 1_234_567_890;
    const wheel = new TimerWheel(base);
    const timers = [new Noting(base), new Noting(base)];
    wheel.armPeriod(timers[0]!, 1_000_000);
    base.now += 500_000;
    wheel.armPeriod(timers[1]!, 5_000_000);
    expect(timers.map((timer) => timer.timerDueUs)).toEqual([1_235_000_000, 1_240_000_000]);
    base.now = 1_235_000_000;
    wheel.expire(base.now);
    wheel.armPeriod(timers[0]!, 1_000_000);
    expect(timers[0]!.timerDueUs).toBe(1_236_000_000);
  });

  test("fires everything due after a long sleep, in order of ticks", () => {
    const base = new Base();
    const wheel = new TimerWheel(base);
    const order: number[] = [];
    for (const ms of [70_000, 5, 300, 255, 256, 257, 1, 65_536, 65_535]) {
      const timer = new (class extends Timer {
        onTimer(): void {
          order.push(ms);
        }
      })();
      wheel.arm(timer, ms * 1000);
    }
    base.now = 3_600_000_000;
    wheel.expire(base.now);
    expect(order).toEqual([1, 5, 255, 256, 257, 300, 65_535, 65_536, 70_000]);
  });

  test("a timer armed while firing waits for a later turn", () => {
    const base = new Base();
    const wheel = new TimerWheel(base);
    let fired = 0;
    const timer: Timer = new (class extends Timer {
      onTimer(): void {
        fired += 1;
        wheel.arm(this, 0);
      }
    })();
    wheel.arm(timer, 0);
    base.now = 1_000;
    wheel.expire(base.now);
    wheel.expire(base.now);
    expect(fired).toBe(1);
    base.now = 2_000;
    wheel.expire(base.now);
    expect(fired).toBe(2);
  });
});
