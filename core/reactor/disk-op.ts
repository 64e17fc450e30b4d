// data path
import { assert } from "../base/assert.ts";
import { Status } from "../base/status.ts";
import { BLOCK_SIZE } from "../base/units.ts";
import { type DiskOp, DiskVerb } from "./world.ts";

const EIO = 5;

/** Translate a kernel result into the op's status. Shared with the fall-back. */
export function setDiskOutcome(op: DiskOp, result: number): void {
  const transfers = op.verb !== DiskVerb.Flush && op.verb !== DiskVerb.Discard;
  if (op.verb === DiskVerb.Discard && result !== -EIO) {
    // A hint: devices and file systems without it refuse it in several ways.
    op.status = Status.Ok;
    op.errno = 0;
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

/** Check what `submit` was given, once for every implementation. */
export function checkDiskOp(op: DiskOp, sizeBytes: number, readOnly: boolean): void {
  assert(op.offsetBytes % BLOCK_SIZE === 0, "Disk.submit: offset is not aligned to 4 KiB");
  assert(op.lengthBytes % BLOCK_SIZE === 0, "Disk.submit: length is not aligned to 4 KiB");
  assert(op.arenaOffset % BLOCK_SIZE === 0, "Disk.submit: memory is not aligned to 4 KiB");
  assert(op.offsetBytes >= 0, "Disk.submit: offset is negative");
  assert(op.verb === DiskVerb.Read || !readOnly, "Disk.submit: the disk is open for reading only");
  if (op.verb === DiskVerb.Flush) return;
  assert(op.lengthBytes > 0, "Disk.submit: length is not positive");
  assert(op.offsetBytes + op.lengthBytes <= sizeBytes, "Disk.submit: range past the end");
}
