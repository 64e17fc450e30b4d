// cold path: a replica is filled in rounds of milliseconds.
import { bitCount } from "./fill-parts.ts";
import type { FillCounters } from "./fills.ts";

/** How far a fill is. */
export interface FillState {
  /** It waits for other groups of its shard, or for a leader. */
  readonly waiting: boolean;
  /** Passes through all units so far, with the one that goes on. */
  readonly pass: number;
  /** Units of this pass. */
  readonly unitsDone: number;
  readonly unitsLeft: number;
  /** Since the pass began, pauses left out. */
  readonly passUs: number;
  /** Blocks with data that differed, and that were fetched for them; all passes. */
  readonly blocksDiffering: number;
  readonly blocksCopied: number;
}

/** Counts what one fill does, for itself and for its shard. */
export class FillProgress {
  private readonly counters: FillCounters;
  private pass = 0;
  private compared = 0;
  private total = 0;
  private beganUs = 0;
  private pausedUs = 0;
  private blocksDiffering = 0;
  private blocksCopied = 0;

  constructor(counters: FillCounters) {
    this.counters = counters;
  }

  beginPass(nowUs: number): void {
    this.pass += 1;
    this.compared = 0;
    this.beganUs = nowUs;
    this.pausedUs = 0;
  }

  /** Nothing was done for so long because nothing might be. */
  onPaused(us: number): void {
    this.pausedUs += us;
  }

  /** The leader has so many units. */
  onTotal(units: number): void {
    this.total = units;
  }

  onCompared(): void {
    this.compared += 1;
    this.counters.fillUnitsCompared += 1;
  }

  onAsked(units: number): void {
    this.counters.fillUnitsAsked += units;
  }

  /** A unit has other blocks here; `data`: bits of those that hold something. */
  onDiffering(data: number): void {
    const count = bitCount(data);
    this.counters.fillUnitsDiffering += 1;
    this.counters.fillBlocksDiffering += count;
    this.blocksDiffering += count;
  }

  onCopied(blocks: number): void {
    this.counters.fillBlocksCopied += blocks;
    this.blocksCopied += blocks;
  }

  /** `pending`: units that were compared and are not done. */
  state(nowUs: number, pending: number): FillState {
    const { pass, blocksDiffering, blocksCopied } = this;
    const unitsDone = Math.max(0, this.compared - pending);
    return {
      waiting: pass === 0,
      pass,
      unitsDone,
      // Units may have come to the leader since it told how many there are.
      unitsLeft: Math.max(0, this.total - this.compared) + pending,
      passUs: pass === 0 ? 0 : Math.max(0, nowUs - this.beganUs - this.pausedUs),
      blocksDiffering,
      blocksCopied,
    };
  }
}
