import { fdatasync, read, write } from "node:fs";
import { closeFile, punchHole } from "../../ffi/libc/libc.ts";
import { bytesBeneath, type OpenedDisk, openDiskFile } from "./bun-open-disk.ts";
import { DiskBase } from "./disk-base.ts";
import { type Disk, type DiskOp, type DiskOpenOptions, type Disks, DiskVerb } from "./world.ts";

/** What disks need of their world. */
export interface DiskHost {
  readonly arenaBytes: Uint8Array;
  requestTurn(): void;
}

/**
 * Disks on the runtime's thread pool. A durable write is a write and an fdatasync behind it, and
 * is done only when both are: as durable as on the ring, only slower.
 */
export class BunDisks implements Disks {
  private readonly host: DiskHost;
  private readonly opened: BunDisk[] = [];
  private done: { readonly disk: BunDisk; readonly op: DiskOp; readonly result: number }[] = [];
  private stopped = false;

  constructor(host: DiskHost) {
    this.host = host;
  }

  open(path: string, options: DiskOpenOptions): Disk {
    const disk = new BunDisk(this, this.host.arenaBytes, openDiskFile(path, options));
    this.opened.push(disk);
    return disk;
  }

  /** Handler phase: complete what the thread pool finished. */
  complete(): number {
    const finished = this.done;
    if (finished.length === 0) return 0;
    this.done = [];
    for (const { disk, op, result } of finished) disk.complete(op, result);
    return finished.length;
  }

  /** An operation is over with a count of bytes or -errno. */
  finish(disk: BunDisk, op: DiskOp, result: number): void {
    if (this.stopped) return;
    this.done.push({ disk, op, result });
    this.host.requestTurn();
  }

  closeDisk(disk: BunDisk): void {
    const at = this.opened.indexOf(disk);
    if (at < 0) return;
    this.opened.splice(at, 1);
    closeFile(disk.fd);
  }

  /** The world ends: close when the thread pool has let go of the descriptors and the memory. */
  async closeAll(): Promise<void> {
    this.stopped = true;
    for (const disk of [...this.opened]) {
      await disk.idle();
      this.closeDisk(disk);
    }
  }
}

class BunDisk extends DiskBase {
  readonly fd: number;
  private pooled = 0;
  private whenIdle: (() => void) | null = null;
  private readonly disks: BunDisks;
  private readonly bytes: Uint8Array;
  private readonly file: OpenedDisk;

  constructor(disks: BunDisks, bytes: Uint8Array, file: OpenedDisk) {
    super("file", file);
    this.disks = disks;
    this.bytes = bytes;
    this.file = file;
    this.fd = file.fd;
  }

  override bytesBeneath(): number {
    return bytesBeneath(this.file);
  }

  protected launch(op: DiskOp): void {
    this.pooled += 1;
    const { fd } = this;
    const { arenaOffset: at, lengthBytes: length, offsetBytes: offset } = op;
    switch (op.verb) {
      case DiskVerb.Read:
        read(fd, this.bytes, at, length, offset, (error, count) => this.over(op, error, count));
        break;
      case DiskVerb.Write:
        write(fd, this.bytes, at, length, offset, (error, count) => this.over(op, error, count));
        break;
      case DiskVerb.WriteDurable:
        write(fd, this.bytes, at, length, offset, (error, count) => {
          if (error !== null || count !== length) this.over(op, error, count);
          else fdatasync(fd, (failure) => this.over(op, failure, count));
        });
        break;
      case DiskVerb.Flush:
        fdatasync(fd, (error) => this.over(op, error, 0));
        break;
      case DiskVerb.Discard:
        this.settle(op, punchHole(fd, offset, length));
        break;
    }
  }

  protected release(): void {
    this.disks.closeDisk(this);
  }

  /** Resolves when the thread pool holds nothing of this disk. */
  idle(): Promise<void> {
    if (this.pooled === 0) return Promise.resolve();
    return new Promise((resolve) => {
      this.whenIdle = resolve;
    });
  }

  private over(op: DiskOp, error: NodeJS.ErrnoException | null, count: number): void {
    this.settle(op, error === null ? count : -Math.abs(error.errno ?? 5));
  }

  private settle(op: DiskOp, result: number): void {
    this.pooled -= 1;
    this.disks.finish(this, op, result);
    if (this.pooled === 0 && this.whenIdle !== null) this.whenIdle();
  }
}
