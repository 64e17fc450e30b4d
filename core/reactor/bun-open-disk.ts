import { closeSync, fstatSync, fsyncSync, openSync, statfsSync } from "node:fs";
import { dirname } from "node:path";
import {
  blockDeviceSize,
  closeFile,
  lockRange,
  O_CREAT,
  O_DIRECT,
  O_EXCL,
  O_NONBLOCK,
  O_RDONLY,
  O_RDWR,
  openFile,
  truncateFile,
} from "../../ffi/libc/libc.ts";
import { errnoText } from "../../ffi/libc/socket-address.ts";
import { FastblockError } from "../base/errors.ts";
import { shellWord } from "../base/shell.ts";
import { exactSize } from "../base/size-text.ts";
import { BLOCK_SIZE } from "../base/units.ts";
import type { DiskFacts } from "./disk-base.ts";
import type { DiskOpenOptions } from "./world.ts";

/** A regular file or block device, open and locked. */
export interface OpenedDisk extends DiskFacts {
  readonly fd: number;
  readonly isBlockDevice: boolean;
}

const EPERM = 1;
const ENOENT = 2;
const EAGAIN = 11;
const EACCES = 13;
const EBUSY = 16;
const EEXIST = 17;
const ENOTDIR = 20;
const EISDIR = 21;
const EINVAL = 22;
const EFBIG = 27;

/** What `stat` counts in. */
const STAT_BLOCK_BYTES = 512;
/** How often a held lock is tried again. */
const LOCK_RETRY_MS = 10;

/**
 * Open a device for a world: created when asked, O_DIRECT where the file system has it (tmpfs only
 * from Linux 6.6), locked against every other process. Throws FB4005, FB4009 or FB4011.
 *
 * A process that was killed holds its lock until its last write has ended, which is after its death:
 * whoever starts it again waits for that.
 */
export function openDiskFile(path: string, options: DiskOpenOptions): OpenedDisk {
  const tries = Math.ceil((options.lockWaitUs ?? 0) / 1000 / LOCK_RETRY_MS);
  for (let left = tries; ; left--) {
    const opened = tryToOpen(path, options);
    if (opened !== null) return opened;
    if (left <= 0) {
      throw new FastblockError("FB4005", `opening ${path}: another process holds it`);
    }
    Bun.sleepSync(LOCK_RETRY_MS);
  }
}

/** See `Disk.bytesBeneath`. */
export function bytesBeneath({ fd, sizeBytes, isBlockDevice }: OpenedDisk): number {
  if (isBlockDevice) return Number.POSITIVE_INFINITY;
  const missing = sizeBytes - fstatSync(fd).blocks * STAT_BLOCK_BYTES;
  if (missing <= 0) return Number.POSITIVE_INFINITY;
  const { blocks, bavail, bsize } = statfsSync(`/proc/self/fd/${fd}`);
  // It tells nothing of its space.
  if (blocks === 0) return Number.POSITIVE_INFINITY;
  const free = bavail * bsize;
  return free >= missing ? Number.POSITIVE_INFINITY : free;
}

/** Null when another process holds it. */
function tryToOpen(path: string, options: DiskOpenOptions): OpenedDisk | null {
  const readOnly = options.readOnly === true;
  if (options.createBytes !== undefined && !readOnly) createFile(path, options.createBytes);
  const isBlockDevice = isBlock(path);
  const mode = readOnly ? O_RDONLY : O_RDWR;
  const shard = options.shard ?? 0;
  // O_EXCL without O_CREAT: refuse a block device that is mounted or held by somebody else.
  const flags = isBlockDevice && !readOnly && shard === 0 ? mode | O_EXCL : mode;
  let direct = true;
  let fd = openFile(path, flags | O_DIRECT, 0);
  if (fd === -EINVAL) {
    direct = false;
    fd = openFile(path, flags, 0);
  }
  if (fd === -EBUSY) return null;
  if (fd < 0) throw failed("opening", path, fd);
  const locked = lockFor(fd, shard, readOnly);
  if (locked < 0) {
    closeFile(fd);
    if (locked === -EAGAIN) return null;
    throw failed("locking", path, locked);
  }
  const size = isBlockDevice ? blockDeviceSize(fd) : fstatSync(fd).size;
  if (size < 0) {
    closeFile(fd);
    throw failed("measuring", path, size);
  }
  const sizeBytes = Math.floor(size / BLOCK_SIZE) * BLOCK_SIZE;
  return { path, fd, sizeBytes, direct, readOnly, isBlockDevice };
}

/**
 * Byte N of the device stands for shard N. Shard 0 must get all of them, as the process before may
 * have had more shards, and leaves the rest to the others; a reader shares all of them.
 */
function lockFor(fd: number, shard: number, readOnly: boolean): number {
  if (readOnly) return lockRange(fd, "shared", 0, 0);
  if (shard > 0) return lockRange(fd, "exclusive", shard, 1);
  const result = lockRange(fd, "exclusive", 0, 0);
  return result < 0 ? result : lockRange(fd, "none", 1, 0);
}

/** Make a sparse file when nothing stands at the path, its name durable. */
function createFile(path: string, sizeBytes: number): void {
  const fd = openFile(path, O_RDWR | O_CREAT | O_EXCL, 0o600);
  if (fd === -EEXIST) return;
  if (fd === -ENOENT) {
    throw new FastblockError("FB4009", `creating ${path}: no such directory`, {
      hint: `make it first: mkdir -p ${shellWord(dirname(path))}`,
    });
  }
  if (fd < 0) throw failed("creating", path, fd);
  try {
    const result = truncateFile(fd, sizeBytes);
    if (result < 0) throw failed(`extending to ${exactSize(sizeBytes)}`, path, result);
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
  const probe = openFile(path, O_RDONLY | O_NONBLOCK, 0);
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
    { hint: "name a regular file or a block device" },
  );
}

function failed(what: string, path: string, result: number): FastblockError {
  const hint = hintOf(path, result);
  const details = hint === undefined ? {} : { hint };
  const code = result === -ENOENT ? "FB4011" : "FB4009";
  return new FastblockError(code, `${what} ${path}: ${errnoText(-result)}`, details);
}

/** What to do about an errno; undefined: nothing else than about any device that fails. */
function hintOf(path: string, result: number): string | undefined {
  const data = shellWord(path);
  switch (-result) {
    case ENOENT:
      return `make it first: fastblock osd format --data ${data} --id OSD --size 8GiB`;
    case EPERM:
    case EACCES:
      return "check the rights on it";
    case EFBIG:
      return "raise the limit of file sizes (ulimit -f), or take another file system";
    case EISDIR:
    case ENOTDIR:
      return "name a regular file or a block device";
    default:
      return undefined;
  }
}
