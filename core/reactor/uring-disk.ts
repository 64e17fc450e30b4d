// data path
import { closeFile } from "../../ffi/libc/libc.ts";
import { type Ring, UringOp } from "../../ffi/uring/ring.ts";
import { assert } from "../base/assert.ts";
import { bytesBeneath, type OpenedDisk, openDiskFile } from "./bun-open-disk.ts";
import { DiskBase } from "./disk-base.ts";
import { UserKind } from "./uring-kinds.ts";
import type { UringMemory } from "./uring-memory.ts";
import { type Disk, type DiskOp, type DiskOpenOptions, type Disks, DiskVerb } from "./world.ts";

/**
 * Disks of a ring: one table of operations in flight for all disks of the thread; the low word of
 * the user data is the place in it.
 *
 * A short transfer is an error (EIO): on a preallocated file or a device it means trouble, and a
 * retry of the rest could hide it. The kernel itself finishes transfers that a signal cut short.
 */

const OPS_MAX = 2048;
const RWF_DSYNC = 2;
const FSYNC_DATASYNC = 1;
const PUNCH_HOLE_KEEP_SIZE = 3;
const NO_BUFFER = -1;

export class UringDisks implements Disks {
  private readonly ring: Ring;
  private readonly memory: UringMemory;
  private readonly ops: (DiskOp | null)[] = [];
  private readonly owners: (UringDisk | null)[] = [];
  private readonly freePlaces: Int32Array = new Int32Array(OPS_MAX);
  private freeCount = OPS_MAX;
  private waitingHead: DiskOp | null = null;
  private waitingTail: DiskOp | null = null;
  private readonly waitingOwners: UringDisk[] = [];
  private readonly opened: UringDisk[] = [];

  constructor(ring: Ring, memory: UringMemory) {
    this.ring = ring;
    this.memory = memory;
    for (let place = 0; place < OPS_MAX; place++) {
      this.ops.push(null);
      this.owners.push(null);
      this.freePlaces[place] = OPS_MAX - 1 - place;
    }
  }

  /** cold: start-up */
  open(path: string, options: DiskOpenOptions): Disk {
    const file = openDiskFile(path, options);
    const disk = new UringDisk(this, file);
    this.opened.push(disk);
    return disk;
  }

  /** Close what is open; operations in flight are abandoned. */
  closeAll(): void {
    while (this.opened.length > 0) this.closeDisk(this.opened[0]!);
  }

  closeDisk(disk: UringDisk): void {
    const at = this.opened.indexOf(disk);
    if (at < 0) return;
    this.opened.splice(at, 1);
    closeFile(disk.fd);
  }

  start(disk: UringDisk, op: DiskOp): void {
    if (this.freeCount === 0) {
      op.diskNext = null;
      if (this.waitingTail === null) this.waitingHead = op;
      else this.waitingTail.diskNext = op;
      this.waitingTail = op;
      this.waitingOwners.push(disk);
      return;
    }
    this.freeCount -= 1;
    const place = this.freePlaces[this.freeCount]!;
    this.ops[place] = op;
    this.owners[place] = disk;
    this.issue(disk, op, place);
  }

  onCompletion(place: number, result: number): void {
    const op = this.ops[place]!;
    const disk = this.owners[place]!;
    assert(op !== null, "UringDisks: completion of no operation");
    this.ops[place] = null;
    this.owners[place] = null;
    this.freePlaces[this.freeCount] = place;
    this.freeCount += 1;
    if (this.waitingHead !== null) this.startWaiting();
    disk.complete(op, result);
  }

  private startWaiting(): void {
    const op = this.waitingHead!;
    this.waitingHead = op.diskNext;
    if (this.waitingHead === null) this.waitingTail = null;
    op.diskNext = null;
    this.start(this.waitingOwners.shift()!, op);
  }

  private issue(disk: UringDisk, op: DiskOp, place: number): void {
    const { fd } = disk;
    const length = op.lengthBytes;
    const offset = op.offsetBytes;
    const kind = UserKind.Disk;
    switch (op.verb) {
      case DiskVerb.Read:
        this.transfer(UringOp.Read, UringOp.ReadFixed, fd, op, 0, place);
        break;
      case DiskVerb.Write:
        this.transfer(UringOp.Write, UringOp.WriteFixed, fd, op, 0, place);
        break;
      case DiskVerb.WriteDurable:
        this.transfer(UringOp.Write, UringOp.WriteFixed, fd, op, RWF_DSYNC, place);
        break;
      case DiskVerb.Flush:
        this.ring.prepare(UringOp.Fsync, fd, 0, 0, 0, FSYNC_DATASYNC, place, kind);
        break;
      case DiskVerb.Discard: {
        // Fallocate takes its length in the address and its mode in the length.
        const mode = PUNCH_HOLE_KEEP_SIZE;
        this.ring.prepare(UringOp.Fallocate, fd, length, mode, offset, 0, place, kind);
        break;
      }
    }
  }

  private transfer(
    plain: UringOp,
    pinned: UringOp,
    fd: number,
    op: DiskOp,
    opFlags: number,
    place: number,
  ): void {
    const memory = this.memory;
    const address = memory.address + op.arenaOffset;
    const length = op.lengthBytes;
    const offset = op.offsetBytes;
    const buffer = memory.bufferAt(op.arenaOffset, length);
    if (buffer === NO_BUFFER) {
      this.ring.prepare(plain, fd, address, length, offset, opFlags, place, UserKind.Disk);
      return;
    }
    const at = this.ring.prepare(
      pinned,
      fd,
      address,
      length,
      offset,
      opFlags,
      place,
      UserKind.Disk,
    );
    this.ring.setWord(at, 10, buffer);
  }
}

class UringDisk extends DiskBase {
  readonly fd: number;
  private readonly disks: UringDisks;
  private readonly file: OpenedDisk;

  constructor(disks: UringDisks, file: OpenedDisk) {
    super("uring", file);
    this.disks = disks;
    this.file = file;
    this.fd = file.fd;
  }

  // cold: a system call.
  override bytesBeneath(): number {
    return bytesBeneath(this.file);
  }

  protected launch(op: DiskOp): void {
    this.disks.start(this, op);
  }

  protected release(): void {
    this.disks.closeDisk(this);
  }
}
