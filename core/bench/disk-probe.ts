import { Status } from "../base/status.ts";
import { BLOCK_SIZE } from "../base/units.ts";
import { LatencyHistogram } from "../metrics/metrics.ts";
import { CallbackTimer, type Disk, DiskOp, DiskVerb, type World } from "../reactor/world.ts";

const EVERY_US = 10_000;
const SLOW_US = 20_000;

/** A write of the probe that took long. */
export interface SlowProbe {
  readonly fromMs: number;
  readonly toMs: number;
}

/**
 * Writes one block durably to a disk every 10 ms, for as long as something else is measured on the same
 * disk: what was slow at the same time was the disk's. At 100 a second it takes nothing worth speaking of.
 */
export class DiskProbe {
  readonly latency = new LatencyHistogram();
  /** Since 1970, as logs tell it. */
  readonly slow: SlowProbe[] = [];
  private readonly world: World;
  private readonly disk: Disk;
  private readonly op: DiskOp;
  private readonly timer: CallbackTimer;
  private dueUs = 0;
  private isOpen = false;
  private failedErrno = 0;
  private onEnd: (() => void) | null = null;

  constructor(world: World, disk: Disk) {
    this.world = world;
    this.disk = disk;
    this.op = new ProbeOp(() => this.done());
    this.op.arenaOffset = world.arena.allocate(BLOCK_SIZE);
    this.timer = new CallbackTimer(() => this.next());
  }

  start(): void {
    this.world.timers.armPeriod(this.timer, EVERY_US);
  }

  /** Resolves when nothing is under way. Answers the errno of a write that failed; 0: none did. */
  async stop(): Promise<number> {
    this.world.timers.disarm(this.timer);
    if (this.isOpen) {
      await new Promise<void>((resolve) => {
        this.onEnd = resolve;
      });
    }
    return this.failedErrno;
  }

  private next(): void {
    const { clock, random, timers } = this.world;
    timers.armPeriod(this.timer, EVERY_US);
    // Those that would have been due meanwhile are part of the one that is slow.
    if (this.isOpen) return;
    this.isOpen = true;
    this.dueUs = clock.nowUs();
    const { op } = this;
    op.verb = DiskVerb.WriteDurable;
    op.lengthBytes = BLOCK_SIZE;
    op.offsetBytes = random.below(this.disk.sizeBytes / BLOCK_SIZE) * BLOCK_SIZE;
    op.status = Status.Ok;
    op.errno = 0;
    this.disk.submit(op);
  }

  private done(): void {
    const { clock, timers } = this.world;
    const us = clock.nowUs() - this.dueUs;
    this.isOpen = false;
    this.latency.record(us);
    if (us >= SLOW_US) {
      const toMs = clock.wallMs();
      this.slow.push({ fromMs: toMs - Math.round(us / 1000), toMs });
    }
    if (this.op.status !== Status.Ok) {
      this.failedErrno = this.op.errno;
      timers.disarm(this.timer);
    }
    if (this.onEnd !== null) this.onEnd();
  }
}

class ProbeOp extends DiskOp {
  private readonly callback: () => void;

  constructor(callback: () => void) {
    super();
    this.callback = callback;
  }

  onDone(): void {
    this.callback();
  }
}
