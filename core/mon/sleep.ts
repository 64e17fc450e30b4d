import { Timer, type Timers } from "../reactor/world.ts";

/** Resolve after `delayUs` on the timers of a world. */
export function sleep(timers: Timers, delayUs: number): Promise<void> {
  return new Promise((resolve) => timers.arm(new Sleeper(resolve), delayUs));
}

class Sleeper extends Timer {
  private readonly wake: () => void;

  constructor(wake: () => void) {
    super();
    this.wake = wake;
  }

  onTimer(): void {
    this.wake();
  }
}
