import { closeSync, fstatSync, fsyncSync, openSync } from "node:fs";
import { dirname } from "node:path";
import {
  blockDeviceSize,
  closeFile,
  lockFile,
  O_CREAT,
  O_DIRECT,
  O_EXCL,
  O_RDONLY,
  O_RDWR,
  openFile,
  truncateFile,
} from "../../ffi/libc/libc.ts";
import { errnoText } from "../../ffi/libc/socket-address.ts";
import { FastblockError } from "../base/errors.ts";
import { BLOCK_SIZE } from "../base/units.ts";
import type { DiskOpenOptions } from "./world.ts";

/** A regular file or block device, open and locked. */
export interface OpenedDisk {
  readonly fd: number;
  readonly sizeBytes: number;
  /** O_DIRECT is in force. */
  readonly direct: boolean;
  readonly isBlockDevice: boolean;
}

const ENOENT = 2;
const EWOULDBLOCK = 11;
const EBUSY = 16;
const EEXIST = 17;
const EINVAL = 22;

/**
 * Open a device for a world: created when asked, O_DIRECT where the file system has it (tmpfs only
 * from Linux 6.6), locked against every other process. Throws FB4005 or FB4009.
 */
export function openDiskFile(path: string, options: DiskOpenOptions): OpenedDisk {
  const readOnly = options.readOnly === true;
  if (options.createBytes !== undefined && !readOnly) createFile(path, options.createBytes);
  const isBlockDevice = isBlock(path);
  const mode = readOnly ? O_RDONLY : O_RDWR;
  // O_EXCL without O_CREAT: refuse a block device that is mounted or held by somebody else.
  const lockHeld = options.lockHeld === true;
  const flags = isBlockDevice && !readOnly && !lockHeld ? mode | O_EXCL : mode;
  let direct = true;
  let fd = openFile(path, flags | O_DIRECT, 0);
  if (fd === -EINVAL) {
    direct = false;
    fd = openFile(path, flags, 0);
  }
  if (fd === -EBUSY) throw inUse(path);
  if (fd < 0) throw failed("opening", path, fd);
  const locked = lockHeld ? 0 : lockFile(fd, !readOnly);
  if (locked < 0) {
    closeFile(fd);
    throw locked === -EWOULDBLOCK ? inUse(path) : failed("locking", path, locked);
  }
  const size = isBlockDevice ? blockDeviceSize(fd) : fstatSync(fd).size;
  if (size < 0) {
    closeFile(fd);
    throw failed("measuring", path, size);
  }
  return { fd, sizeBytes: Math.floor(size / BLOCK_SIZE) * BLOCK_SIZE, direct, isBlockDevice };
}

/** Make a sparse file when nothing stands at the path, its name durable. */
function createFile(path: string, sizeBytes: number): void {
  const fd = openFile(path, O_RDWR | O_CREAT | O_EXCL, 0o600);
  if (fd === -EEXIST) return;
  if (fd < 0) throw failed("creating", path, fd);
  try {
    const result = truncateFile(fd, sizeBytes);
    if (result < 0) throw failed(`extending to ${sizeBytes} bytes`, path, result);
    fsyncSync(fd);
  } finally {
    closeFile(fd);
  }
  const directory = openSync(dirname(path), "r");
  try {
    fsyncSync(directory);
  } finally {
    closeSync(directory);
  }
}

function isBlock(path: string): boolean {
  const probe = openFile(path, O_RDONLY, 0);
  if (probe < 0) throw failed("opening", path, probe);
  try {
    const status = fstatSync(probe);
    if (status.isBlockDevice()) return true;
    if (status.isFile()) return false;
  } finally {
    closeFile(probe);
  }
  throw new FastblockError(
    "FB4009",
    `opening ${path}: neither file nor block device, wanted one of them`,
  );
}

function inUse(path: string): FastblockError {
  return new FastblockError("FB4005", `opening ${path}: another process holds it`);
}

function failed(what: string, path: string, result: number): FastblockError {
  const hint = result === -ENOENT ? { hint: "create it first: fastblock osd format" } : {};
  return new FastblockError("FB4009", `${what} ${path}: ${errnoText(-result)}`, hint);
}
