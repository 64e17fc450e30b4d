// cold: the simulator
import { Prng } from "../base/prng.ts";
import { DiskVerb } from "./world.ts";

/**
 * The rarer faults of a simulated device, which strike one operation and leave the others alone: what
 * is to happen (`DiskOneShots`), what happened since the device was made, and a stream of chance for it,
 * beside that of the engine: what a run without them draws stays what it is.
 */

/** Faults that strike an operation or a few, then are over; change them at any time. */
export interface DiskOneShots {
  /** So many flushes fail from now on. */
  failFlushes: number;
  /** So many reads from now on never complete, while their process lives. */
  hangReads: number;
  /** As many writes or flushes. */
  hangWrites: number;
  /** A read or a write moves less than it was to, with this share. */
  shortShare: number;
}

const SALT = 7919;
/** What a flush that fails does to the writes that it covered: of so many cases each one. */
const FLUSH_FATES = 3;

export class DiskStrikes {
  flushesFailed = 0;
  /** Blocks whose unflushed writes a failed flush has dropped. */
  blocksDropped = 0;
  /** Operations that never completed, that moved too little, and reads that failed. */
  hung = 0;
  short = 0;
  readsFailed = 0;
  /** Writes that went nowhere or elsewhere, and reads from elsewhere. */
  strayed = 0;
  readonly odds: Prng;

  constructor(seed: number, path: string) {
    let salt = SALT;
    for (const letter of path) salt = (salt * 31 + letter.charCodeAt(0)) % 1_000_003;
    this.odds = new Prng(seed * SALT + salt);
  }

  /** True with the given probability; draws nothing for 0. */
  chance(share: number): boolean {
    return share > 0 && this.odds.u32() < share * 4_294_967_296;
  }

  /** Whether an operation that is submitted now never completes. */
  hangs(verb: DiskVerb, shots: DiskOneShots): boolean {
    if (verb === DiskVerb.Read) {
      if (shots.hangReads === 0) return false;
      shots.hangReads -= 1;
    } else {
      if (verb === DiskVerb.Discard || shots.hangWrites === 0) return false;
      shots.hangWrites -= 1;
    }
    this.hung += 1;
    return true;
  }

  /** How a flush that fails drops blocks that it covered: all, none, or this one and not that one. */
  drawDrop(): () => boolean {
    this.flushesFailed += 1;
    const fate = this.odds.below(FLUSH_FATES);
    return () => {
      const drops = fate === 0 || (fate === 1 && this.odds.below(2) === 0);
      if (drops) this.blocksDropped += 1;
      return drops;
    };
  }

  /** How many of `sectors` an operation moves; all, when it is not short. */
  drawMoved(sectors: number, shots: DiskOneShots): number {
    if (!this.chance(shots.shortShare)) return sectors;
    this.short += 1;
    return this.odds.below(sectors);
  }
}
