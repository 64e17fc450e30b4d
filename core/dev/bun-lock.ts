import { closeFile, isLocked, lockRange, O_CREAT, O_RDWR, openFile } from "../../ffi/libc/libc.ts";
import { errnoText } from "../../ffi/libc/socket-address.ts";
import { FastblockError } from "../base/errors.ts";

const O_RDONLY = 0;
const EAGAIN = 11;

/**
 * A file that one process holds for as long as it lives; its content means nothing. The kernel
 * lets go of it with the process, so that none is ever left over.
 */
export class FileLock {
  private fd: number;

  private constructor(fd: number) {
    this.fd = fd;
  }

  /** Take it without waiting; undefined when another process has it. Throws FB1008. */
  static take(path: string): FileLock | undefined {
    const fd = openFile(path, O_RDWR | O_CREAT, 0o644);
    if (fd < 0) throw new FastblockError("FB1008", `opening ${path}: ${errnoText(-fd)}`);
    const result = lockRange(fd, "exclusive", 0, 0);
    if (result === 0) return new FileLock(fd);
    closeFile(fd);
    if (result === -EAGAIN) return undefined;
    throw new FastblockError("FB1008", `locking ${path}: ${errnoText(-result)}`);
  }

  /** Let it go before the process ends. Idempotent. */
  release(): void {
    if (this.fd >= 0) closeFile(this.fd);
    this.fd = -1;
  }
}

/** Whether a process holds the file. Never stands in the way of one that takes it. */
export function isHeld(path: string): boolean {
  const fd = openFile(path, O_RDONLY, 0);
  if (fd < 0) return false;
  const held = isLocked(fd);
  closeFile(fd);
  return held;
}
