// cold path: start-up and inspection read the log through it.
import { BLOCK_SIZE } from "../base/units.ts";
import { type Device, DeviceRegion, readOnce, readSurely } from "../device/device.ts";
import type { Arena } from "../reactor/world.ts";
import type { LogSpace } from "./log-space.ts";

const READ_BYTES = 1024 * 1024;

/** A sliding window over the log ring, filled by parallel 1 MiB reads. */
export class LogWindow {
  /** Log blocks that the device did not give, also when asked again; their content counts as zero. */
  private readonly unreadable = new Set<number>();
  private readonly arena: Arena;
  private readonly device: Device;
  private readonly space: LogSpace;
  private readonly buffer: number;
  private readonly blocks: number;
  private from = 0;
  private to = 0;

  /** `bufferBytes` of arena memory at `buffer`. */
  constructor(arena: Arena, device: Device, space: LogSpace, buffer: number, bufferBytes: number) {
    this.arena = arena;
    this.device = device;
    this.space = space;
    this.buffer = buffer;
    this.blocks = Math.floor(bufferBytes / BLOCK_SIZE);
  }

  /** Arena offset of `count` blocks from log block `position` on; -1 when a run ends before. */
  async load(position: number, count: number): Promise<number> {
    if (position < this.from || position + count > this.to) {
      const contiguous = this.space.contiguous(position);
      if (contiguous < count) return -1;
      this.from = position;
      this.to = position + Math.min(contiguous, this.blocks);
      await this.fill();
    }
    return this.buffer + (position - this.from) * BLOCK_SIZE;
  }

  /** Is there one of `count` blocks from `position` on that was looked at and can not be read? */
  hides(position: number, count: number): boolean {
    for (const block of this.unreadable) {
      if (block >= position && block < position + count) return true;
    }
    return false;
  }

  private async fill(): Promise<void> {
    const bytes = (this.to - this.from) * BLOCK_SIZE;
    const offset = this.space.deviceOffset(this.from);
    const reads: Promise<void>[] = [];
    for (let at = 0; at < bytes; at += READ_BYTES) {
      const length = Math.min(READ_BYTES, bytes - at);
      const read = readOnce(this.device, this.buffer + at, offset + at, length, DeviceRegion.Log);
      reads.push(read);
    }
    const done = await Promise.allSettled(reads);
    for (let piece = 0; piece < done.length; piece++) {
      if (done[piece]!.status === "fulfilled") continue;
      const from = this.from + (piece * READ_BYTES) / BLOCK_SIZE;
      await this.fillSingly(from, Math.min(from + READ_BYTES / BLOCK_SIZE, this.to));
    }
  }

  /** One bad sector must not hide the blocks around it. */
  private async fillSingly(from: number, to: number): Promise<void> {
    for (let block = from; block < to; block++) {
      const at = this.buffer + (block - this.from) * BLOCK_SIZE;
      const offset = this.space.deviceOffset(block);
      if (await readSurely(this.device, at, offset, BLOCK_SIZE, DeviceRegion.Log)) continue;
      this.unreadable.add(block);
      this.arena.bytes.fill(0, at, at + BLOCK_SIZE);
    }
  }
}
