// cold path: a replica is filled in rounds of milliseconds.
import { CallbackTimer } from "../reactor/world.ts";
import { LeaderLoad } from "./fill-source.ts";
import type { PgShard } from "./pg.ts";

/** Pauses up to this end early when something was applied. */
const WOKEN_US_MAX = 5000;

/** When one fill works, and when it waits: for what it needs, and for clients. */
export class FillTurns {
  /** What its leader has to do besides, as of its last answer. */
  load: LeaderLoad = LeaderLoad.None;
  private readonly shard: PgShard;
  private cancelled = false;
  private wake: (() => void) | null = null;

  constructor(shard: PgShard) {
    this.shard = shard;
  }

  /** Whether clients are at work here or at the leader. A group that waits for a replica is hurried. */
  get isBusy(): boolean {
    if (this.load === LeaderLoad.Stalled) return false;
    const { pace, world } = this.shard;
    return this.load === LeaderLoad.Clients || pace.isBusy(world.clock.nowUs());
  }

  /** Leave the shard to clients after what was done since `begunUs`. */
  rest(begunUs: number): Promise<void> {
    const { fills, pace, world } = this.shard;
    const tookUs = world.clock.nowUs() - begunUs;
    return this.pause(this.isBusy ? pace.restUs(tookUs, fills.runningCount) : 0);
  }

  /** Long pauses are not cut short by what is applied meanwhile. */
  pause(delayUs: number): Promise<void> {
    const { timers } = this.shard.world;
    return new Promise((resolve) => {
      const timer = new CallbackTimer(() => {
        this.wake = null;
        timers.disarm(timer);
        resolve();
      });
      this.wake = delayUs <= WOKEN_US_MAX || this.cancelled ? (): void => timer.onTimer() : null;
      timers.arm(timer, delayUs);
    });
  }

  /** What is waited for may have come. */
  wakeUp(): void {
    this.wake?.();
  }

  cancel(): void {
    this.cancelled = true;
    this.wakeUp();
  }
}
