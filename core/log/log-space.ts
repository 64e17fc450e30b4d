// data path
import { assert } from "../base/assert.ts";
import { BLOCK_SIZE } from "../base/units.ts";

/**
 * The log ring of a shard as one endless row of 4 KiB blocks.
 *
 * Log block v lies at ring block v mod ringBlocks. Zones that follow each other on the device make
 * one run; a batch never crosses the end of a run: it begins at the next run instead, and what was
 * left is skipped.
 */
export class LogSpace {
  readonly ringBlocks: number;
  private readonly runStart: Float64Array;
  private readonly runOffset: Float64Array;
  private readonly runCount: number;

  /** `zoneOffsets`: device offsets of the log zones in ring order, each `zoneSize` bytes. */
  constructor(zoneOffsets: readonly number[], zoneSize: number) {
    assert(zoneOffsets.length > 0, "LogSpace: no log zones");
    const zoneBlocks = zoneSize / BLOCK_SIZE;
    this.runStart = new Float64Array(zoneOffsets.length + 1);
    this.runOffset = new Float64Array(zoneOffsets.length);
    let runs = 0;
    for (let zone = 0; zone < zoneOffsets.length; zone++) {
      const offset = zoneOffsets[zone]!;
      if (zone > 0 && zoneOffsets[zone - 1]! + zoneSize === offset) continue;
      this.runStart[runs] = zone * zoneBlocks;
      this.runOffset[runs] = offset;
      runs += 1;
    }
    this.ringBlocks = zoneOffsets.length * zoneBlocks;
    this.runStart[runs] = this.ringBlocks;
    this.runCount = runs;
  }

  /** Device offset of a log block. */
  deviceOffset(block: number): number {
    const ring = block % this.ringBlocks;
    const run = this.runOf(ring);
    return this.runOffset[run]! + (ring - this.runStart[run]!) * BLOCK_SIZE;
  }

  /** Blocks from here to the end of the run, at least 1. */
  contiguous(block: number): number {
    const ring = block % this.ringBlocks;
    return this.runStart[this.runOf(ring) + 1]! - ring;
  }

  private runOf(ring: number): number {
    let run = 0;
    while (run + 1 < this.runCount && this.runStart[run + 1]! <= ring) run += 1;
    return run;
  }
}
