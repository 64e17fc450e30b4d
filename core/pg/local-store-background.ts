// data path
import { failOnBug } from "../base/assert.ts";
import { type Device, DeviceOp, DeviceRegion } from "../device/device.ts";
import type { Mover, ObjectStore } from "../object/object.ts";
import type { ShardLog } from "../log/log.ts";
import { CallbackTimer, DiskVerb, type Drain, DrainOrder } from "../reactor/world.ts";
import type { PageLoader, PageWriter } from "../store/store.ts";
import { Checkpointer, type TurnWaiter } from "./local-store-checkpoint.ts";
import { Discarder } from "./local-store-discard.ts";
import type { Filler } from "./local-store-fill.ts";
import { markClean, type OpenedStore } from "./local-store-open.ts";
import type { StoreMachines, StoreParts, StoreState } from "./local-store-parts.ts";
import type { Space } from "./local-store-space.ts";

/** Share of the log that must have filled since the last checkpoint before the next one. */
const GROWTH_SHARE = 0.05;

/** Operations that the mover has under way while clients come one at a time. */
const MOVER_DEPTH_LONE = 4;

/** Sweeps of a checkpoint that find nothing but damage, before it is adopted as it is. */
const DAMAGE_TRIES = 3;

interface Waiter {
  readonly ready: () => boolean;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

/**
 * The store's own work, looked at in each turn: blocks move home when the log is somewhat full or
 * nothing is appended for a while, checkpoints begin when the log or the quarantine has grown, what
 * they made free is discarded. The checkpointer, which alone knows their order, waits here for turns.
 *
 * Nothing is moved, checkpointed or discarded before `begin`.
 */
export class Background implements Drain, TurnWaiter {
  /** The replay has ended. */
  begun = false;
  private readonly parts: StoreParts;
  private readonly state: StoreState;
  private readonly log: ShardLog;
  private readonly objects: ObjectStore;
  private readonly mover: Mover;
  private readonly pages: PageWriter;
  private readonly rows: PageLoader | null;
  private readonly filler: Filler;
  private readonly checkpointer: Checkpointer;
  private readonly discarder: Discarder;
  private readonly idleTimer: CallbackTimer;
  private readonly waiters: Waiter[] = [];
  private backgroundHeld = false;
  private draining = false;
  private idle = false;
  private checkpointRequested = false;
  /** The mover found nothing that may be moved; it looks again after the next batch. */
  private moverStalled = false;
  /** The page writer found pages that may not be written yet. */
  private pagesStalled = false;
  /** Batches that became durable; how many had when the page writer began its round. */
  private batches = 0;
  private roundBatches = 0;
  /** As of the last sweep's begin, with the entries that had come by then. */
  private sweepBatches = 0;
  private sweepEntries = 0;
  /** The page writer is a checkpoint's. */
  private pagesHeld = false;
  private readonly flush = new PageFlush();
  private fruitlessSweeps = 0;

  constructor(opened: OpenedStore, machines: StoreMachines, filler: Filler, space: Space) {
    const { parts, state } = opened;
    this.parts = parts;
    this.state = state;
    this.log = machines.log;
    this.objects = machines.objects;
    this.mover = machines.mover;
    this.pages = machines.pages;
    this.rows = machines.rows;
    this.filler = filler;
    this.checkpointer = new Checkpointer(parts, machines, state, this);
    this.checkpointer.tailCrc = opened.tailPrevCrc;
    this.checkpointer.tailIncarnation = opened.tailIncarnation;
    this.discarder = new Discarder(parts, state, space);
    this.idleTimer = new CallbackTimer(() => this.onIdleTimer());
    parts.world.turns.addDrain(DrainOrder.Apply, this);
  }

  /** The replay has ended: work may start. */
  begin(): void {
    this.begun = true;
    this.state.changed = true;
    this.discarder.begin();
    this.armIdle(this.parts.tuning.idleMs * 1000);
  }

  /** Something was appended. */
  onAppended(): void {
    this.idle = false;
    if (this.idleTimer.timerDueUs < 0) this.armIdle(this.parts.tuning.idleMs * 1000);
  }

  /** R2: whether what this version wrote may go home; asks for what it lacks. */
  mayWrite(row: number, version: number): boolean {
    const group = this.log.groups[row];
    if (group === undefined || !group.alive) return true;
    if (version <= group.commitDurable || version <= group.homeVersion) return true;
    this.log.wantCommit(group);
    return false;
  }

  /** What could not be moved home perhaps can be now. */
  retryMoves(): void {
    this.moverStalled = false;
    this.pagesStalled = false;
    this.batches += 1;
  }

  drain(): void {
    this.wakeWaiters();
    if (!this.begun || this.state.failed) return;
    this.mover.advance();
    this.pages.advance();
    if (this.mover.failed || this.pages.failed) return;
    if (this.objects.gone.count > 0) {
      if (this.objects.gone.scan(this.objects)) this.parts.world.turns.again();
      this.state.changed = true;
    }
    this.writeBack();
    this.moveHome();
    this.startCheckpoint();
    this.watchIdle();
    this.discarder.advance(this.idle);
  }

  /**
   * The last entries may be applied, and a layer gone through, when nothing was appended for long:
   * without another look what they freed would wait for the next write.
   */
  private watchIdle(): void {
    const { changed, closing } = this.state;
    if (!changed || closing || this.checkpointRequested || this.idleTimer.timerDueUs >= 0) return;
    this.armIdle(this.parts.tuning.idleMs * 1000);
  }

  /**
   * When the index is paged, pages that changed are written before too many of them hold memory. Not
   * while a checkpoint writes them: it counts on what its own rounds have left.
   */
  private writeBack(): void {
    const { frames } = this.parts.slots;
    if (frames === null || !frames.wantsWriting || this.pages.running) return;
    if (this.backgroundHeld || this.pagesHeld || this.pagesStalled || this.flush.isRunning) return;
    this.roundBatches = this.batches;
    this.pages.start();
    this.pages.advance();
  }

  /** A round of page writes has ended. What it left is not durably committed: the next batch may say so. */
  onPagesWritten(): void {
    // One that was durable before the round had ended may be the one that was asked for.
    this.pagesStalled = this.pages.postponed > 0 && this.batches === this.roundBatches;
    if (this.pagesHeld || this.parts.slots.frames === null || this.state.failed) return;
    // Redo needs memory for rows that a power cut takes back: no more than two rounds of them.
    this.flush.start(this.parts.device);
  }

  private moveHome(): void {
    if (this.backgroundHeld || !this.mover.idle) return;
    // Each unit that is moved is one more to be written. A checkpoint's own rounds write all of them.
    const isCrowded = this.parts.slots.frames?.isCrowded === true;
    if (isCrowded && !(this.draining && this.pagesStalled)) return;
    if (this.moverStalled && !this.draining) return;
    if (this.objects.dirty.count === 0) return;
    if (this.mover.fruitless) this.onFruitlessSweep();
    if (!this.draining && !this.idle && !this.isWorthMoving()) return;
    this.paceMover();
    if (!this.mover.start()) this.moverStalled = true;
  }

  /**
   * A write that comes alone waits behind all of a sweep that the device has: there are few at a time,
   * when batches had fewer than two entries in the mean since the last one. Many clients at once wait
   * for each other anyway, and longer if blocks go home late.
   */
  private paceMover(): void {
    const batches = this.batches - this.sweepBatches;
    const entries = this.log.entriesAppended - this.sweepEntries;
    this.sweepBatches = this.batches;
    this.sweepEntries = this.log.entriesAppended;
    const isLone = !this.draining && !this.idle && batches > 0 && entries < 2 * batches;
    const { backgroundDepth } = this.parts.tuning;
    this.mover.depth = isLone ? Math.min(MOVER_DEPTH_LONE, backgroundDepth) : backgroundDepth;
  }

  /** Damage that nobody healed yet: it must not hold a checkpoint, nor be tried again and again. */
  private onFruitlessSweep(): void {
    this.mover.fruitless = false;
    this.fruitlessSweeps += 1;
    if (this.draining) this.mover.adoptDamage = this.fruitlessSweeps >= DAMAGE_TRIES;
    else this.moverStalled = true;
  }

  private isWorthMoving(): boolean {
    const { moverStartPercent, moverStartBlocks } = this.parts.tuning;
    return this.objects.overlay.count >= moverStartBlocks && this.isFuller(moverStartPercent);
  }

  private isFuller(percent: number): boolean {
    return this.log.usedBlocks * 100 >= this.log.space.ringBlocks * percent;
  }

  private startCheckpoint(): void {
    if (this.checkpointer.running || this.state.closing) return;
    if (!this.state.changed || !this.wantsCheckpoint()) return;
    this.checkpointRequested = false;
    this.runCheckpoint();
  }

  private wantsCheckpoint(): boolean {
    if (this.checkpointRequested) return true;
    // What the last checkpoint could not release does not call for the next one by itself.
    const { slots, space } = this.parts;
    const gone = slots.quarantined + this.objects.emptied.count;
    const freed = gone - this.state.quarantinedAfter;
    if (freed * 100 > slots.unitsTotal * this.parts.tuning.quarantinePercent) return true;
    if (!this.isFuller(this.parts.tuning.checkpointStartPercent)) return false;
    return this.log.usedBlocks - this.state.usedAfter > space.ringBlocks * GROWTH_SHARE;
  }

  // cold: once per checkpoint.
  private runCheckpoint(): void {
    const { logger, space, world } = this.parts;
    const beganUs = world.clock.nowUs();
    const onFailed = (error: unknown): void => {
      if (failOnBug(world, error) || this.state.failed) return;
      logger.error("checkpoint failed", { error: String(error) });
    };
    const onWritten = (): void => {
      const ms = Math.round((world.clock.nowUs() - beganUs) / 1000);
      const logTurns = Math.round((100 * this.log.headPosition) / space.ringBlocks) / 100;
      logger.debug("checkpoint written", { ms, logTurns });
    };
    this.checkpointer.run().then(onWritten, onFailed);
  }

  /** Move everything home and write a checkpoint soon. */
  requestCheckpoint(): void {
    this.checkpointRequested = true;
    this.parts.world.turns.again();
  }

  /** Called by the idle timer only. */
  onIdleTimer(): void {
    const idleUs = this.parts.tuning.idleMs * 1000;
    const quietUs = this.parts.world.clock.turnUs - this.log.appendedAtUs;
    if (quietUs < idleUs) {
      this.armIdle(idleUs - quietUs);
      return;
    }
    this.idle = true;
    this.moverStalled = false;
    if (this.state.changed) this.requestCheckpoint();
  }

  private armIdle(delayUs: number): void {
    this.parts.world.timers.arm(this.idleTimer, delayUs);
  }

  /* ---------------------------------------------------- for the checkpointer */

  // cold: the checkpointer waits with it.
  waitUntil(ready: () => boolean): Promise<void> {
    return new Promise((resolve, reject) => {
      this.waiters.push({ ready, resolve, reject });
      this.parts.world.turns.again();
    });
  }

  private wakeWaiters(): void {
    for (let at = this.waiters.length - 1; at >= 0; at--) {
      const waiter = this.waiters[at]!;
      if (this.state.failed) {
        this.waiters.splice(at, 1);
        rejectWaiter(waiter);
      } else if (waiter.ready()) {
        this.waiters.splice(at, 1);
        waiter.resolve();
      }
    }
  }

  holdBackground(hold: boolean): void {
    this.backgroundHeld = hold;
    this.pagesHeld = hold;
  }

  holdPages(): void {
    this.pagesHeld = true;
  }

  // cold: once per checkpoint.
  async drainOverlay(position: number): Promise<void> {
    this.draining = true;
    this.mover.depth = this.parts.tuning.backgroundDepth;
    this.moverStalled = false;
    this.fruitlessSweeps = 0;
    try {
      await this.waitUntil(
        () => this.mover.idle && this.objects.overlay.lowestPosition() >= position,
      );
    } finally {
      this.draining = false;
      this.mover.adoptDamage = false;
    }
  }

  // cold: once per fill of a replica.
  onBeginningDurable(row: number): void {
    this.filler.onBeginningDurable(row);
  }

  // cold: once per renewed replica.
  onRenewable(row: number): void {
    this.filler.onRenewable(row);
  }

  /* ------------------------------------------------------------------ stop */

  // cold: once per stop.
  /**
   * See `LocalStore.close`. `recorded`: ends when what was begun beside the checkpoints is written.
   */
  async close(recorded: () => Promise<void>): Promise<void> {
    const { parts, state } = this;
    // From here on no checkpoint begins by itself: one that began between the end of the wait and
    // what follows it would share buffers with the clean mark.
    state.closing = true;
    parts.device.failStarved();
    if (!state.failed && this.begun) {
      try {
        await this.finish();
        await recorded();
        if (parts.claimed) await markClean(parts);
      } catch (error) {
        if (failOnBug(parts.world, error)) throw error;
        parts.logger.warn("the store was not closed cleanly", { error: String(error) });
      }
    }
    parts.world.timers.disarm(this.idleTimer);
    this.discarder.close();
    this.log.close();
    while (parts.device.pending > 0 || this.rows?.isIdle === false) await this.turn();
    parts.device.close();
  }

  // cold: once per stop.
  /**
   * Wait until all is durable, and write the last checkpoint; behind it the log's last batch. From then
   * on the memory of batches is free: the clean mark is made in it. Rejects when the device has failed.
   */
  private async finish(): Promise<void> {
    await this.waitUntil(() => this.log.quiet && !this.checkpointer.running);
    if (this.state.changed) await this.checkpointer.run();
    this.begun = false;
    // The turn in which a wait ends may begin something yet.
    while (!this.log.quiet) await this.waitUntil(() => this.log.quiet);
    this.log.vouchNow();
    while (!this.log.quiet) await this.waitUntil(() => this.log.quiet);
  }

  // cold: once per stop.
  /** Resolves in the next turn, also when the device has failed. */
  private turn(): Promise<void> {
    return this.waitUntil(() => true).catch(() => undefined);
  }
}

/** Behind a round of page writes. A failure is the device's, and told by it. */
class PageFlush extends DeviceOp {
  isRunning = false;

  start(device: Device): void {
    this.isRunning = true;
    this.verb = DiskVerb.Flush;
    this.region = DeviceRegion.Meta;
    device.submit(this);
  }

  onComplete(): void {
    this.isRunning = false;
  }
}

// cold: once per failed device.
function rejectWaiter(waiter: Waiter): void {
  waiter.reject(new Error("the device has failed"));
}
