// data path
import { assert } from "../base/assert.ts";
import { Status } from "../base/status.ts";
import { BLOCK_SIZE } from "../base/units.ts";
import { type Backend, type Disk, type DiskOp, DiskVerb } from "./world.ts";

const EIO = 5;

/** What is known of a device that was opened. */
export interface DiskFacts {
  readonly path: string;
  readonly sizeBytes: number;
  readonly direct: boolean;
  readonly readOnly: boolean;
}

/** What the disks of all worlds have in common: the checks of their caller, and the outcome. */
export abstract class DiskBase implements Disk {
  readonly path: string;
  readonly sizeBytes: number;
  readonly direct: boolean;
  readonly backend: Backend;
  inFlight = 0;
  private readonly readOnly: boolean;
  private closed = false;

  constructor(backend: Backend, facts: DiskFacts) {
    this.backend = backend;
    this.path = facts.path;
    this.sizeBytes = facts.sizeBytes;
    this.direct = facts.direct;
    this.readOnly = facts.readOnly;
  }

  /** Begin the operation; `complete` follows in a handler phase. */
  protected abstract launch(op: DiskOp): void;
  /** Let go of the device. */
  protected abstract release(): void;

  submit(op: DiskOp): void {
    assert(!this.closed, "Disk.submit: the disk is closed");
    this.check(op);
    this.inFlight += 1;
    this.launch(op);
  }

  // cold: not beneath every device is a file system.
  bytesBeneath(): number {
    return Number.POSITIVE_INFINITY;
  }

  close(): void {
    if (this.closed) return;
    assert(this.inFlight === 0, "Disk.close: operations are in flight");
    this.closed = true;
    this.release();
  }

  /** The operation is over: `result` is a count of bytes, or -errno. */
  complete(op: DiskOp, result: number): void {
    this.inFlight -= 1;
    setOutcome(op, result);
    op.onDone();
  }

  private check(op: DiskOp): void {
    assert(op.offsetBytes % BLOCK_SIZE === 0, "Disk.submit: offset is not aligned to 4 KiB");
    assert(op.lengthBytes % BLOCK_SIZE === 0, "Disk.submit: length is not aligned to 4 KiB");
    assert(op.arenaOffset % BLOCK_SIZE === 0, "Disk.submit: memory is not aligned to 4 KiB");
    assert(op.offsetBytes >= 0, "Disk.submit: offset is negative");
    assert(
      op.verb === DiskVerb.Read || !this.readOnly,
      "Disk.submit: the disk is open for reading only",
    );
    if (op.verb === DiskVerb.Flush) return;
    assert(op.lengthBytes > 0, "Disk.submit: length is not positive");
    assert(op.offsetBytes + op.lengthBytes <= this.sizeBytes, "Disk.submit: range past the end");
  }
}

function setOutcome(op: DiskOp, result: number): void {
  const transfers = op.verb !== DiskVerb.Flush && op.verb !== DiskVerb.Discard;
  if (op.verb === DiskVerb.Discard && result !== -EIO) {
    // A hint: devices and file systems without it refuse it in several ways.
    op.status = Status.Ok;
    op.errno = result < 0 ? -result : 0;
  } else if (result < 0) {
    op.status = Status.DeviceFailed;
    op.errno = -result;
  } else if (transfers && result !== op.lengthBytes) {
    op.status = Status.DeviceFailed;
    op.errno = EIO;
  } else {
    op.status = Status.Ok;
    op.errno = 0;
  }
}
