// cold path: start-up and inspection read the log through it.
import { BLOCK_SIZE } from "../base/units.ts";
import { type Device, DeviceRegion, readOnce } from "../device/device.ts";
import type { Arena } from "../reactor/world.ts";
import type { LogSpace } from "./log-space.ts";

const READ_BYTES = 1024 * 1024;

/** A sliding window over the log ring, filled by parallel 1 MiB reads. */
export class LogWindow {
  /** 1 MiB pieces that could not be read (their content counts as zero). */
  unreadable = 0;
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
    done.forEach((read, piece) => {
      if (read.status === "fulfilled") return;
      this.unreadable += 1;
      const from = this.buffer + piece * READ_BYTES;
      this.arena.bytes.fill(0, from, Math.min(from + READ_BYTES, this.buffer + bytes));
    });
  }
}
