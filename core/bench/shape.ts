import { FastblockError } from "../base/errors.ts";
import { BLOCK_SIZE } from "../base/units.ts";

/** What a load does, in the words of fio. `rw` and `randrw` both mix at random places. */
export type LoadShape = "randwrite" | "randread" | "write" | "read" | "rw" | "randrw";

export interface ShapeLimits {
  readonly rw: LoadShape;
  readonly blockBytes: number;
  readonly depth: number;
  readonly jobs: number;
  readonly verify: boolean;
  readonly history: boolean;
  /** Bytes of the image that the load may touch. */
  readonly rangeBytes: number;
}

const SECTOR_SIZE = 512;
const BLOCK_BYTES_MAX = 1024 * 1024;
/** All operations of all jobs; each owns a buffer. */
const DEPTH_MAX = 4096;
/** Buffers of a load on a disk, within the arena of a command. */
const DISK_MEMORY_BYTES_MAX = 256 * 1024 ** 2;
/** Payload of a frame, and requests that may be open on a connection. */
const FRAME_BYTES_MAX = 256 * 1024;
const RPC_DEPTH_MAX = 1024;
/** Off-heap rows of verify mode: 8 B a block, so 256 GiB of image cost 512 MiB. */
const VERIFY_BYTES_MAX = 256 * 1024 ** 3;

/** Check a load before anything is opened. Throws FB1001. */
export function checkShape(shape: ShapeLimits): void {
  const { blockBytes } = shape;
  if (blockBytes < SECTOR_SIZE || blockBytes > BLOCK_BYTES_MAX || blockBytes % SECTOR_SIZE !== 0) {
    throw refused("--bs", blockBytes, "a multiple of 512 between 512 and 1 MiB");
  }
  if (shape.depth < 1 || shape.jobs < 1 || shape.depth * shape.jobs > DEPTH_MAX) {
    throw refused("--depth × --jobs", shape.depth * shape.jobs, `1 to ${DEPTH_MAX}`);
  }
  if (shape.rangeBytes < blockBytes) {
    throw refused("the image's range", shape.rangeBytes, `at least --bs ${blockBytes}`);
  }
  const stamped = shape.verify || shape.history;
  if (stamped && blockBytes % BLOCK_SIZE !== 0) {
    throw refused("--bs", blockBytes, "a multiple of 4 KiB with --verify or --history");
  }
  if (stamped && shape.rangeBytes > VERIFY_BYTES_MAX) {
    throw refused("the image's range", shape.rangeBytes, "at most 256 GiB with --verify (--range)");
  }
}

/** The same for a disk without an image. Throws FB1001. */
export function checkDiskShape(sizeBytes: number, blockBytes: number, depth: number): void {
  if (blockBytes < BLOCK_SIZE || blockBytes > BLOCK_BYTES_MAX || blockBytes % BLOCK_SIZE !== 0) {
    throw refused("--bs", blockBytes, "a multiple of 4 KiB between 4 KiB and 1 MiB");
  }
  if (depth * blockBytes > DISK_MEMORY_BYTES_MAX) {
    throw refused("--depth × --bs", depth * blockBytes, `at most ${DISK_MEMORY_BYTES_MAX}`);
  }
  if (sizeBytes < blockBytes) throw refused("the disk", sizeBytes, `at least --bs ${blockBytes}`);
}

/** The same for frames. Throws FB1001. */
export function checkRpcShape(blockBytes: number, depth: number): void {
  if (blockBytes > FRAME_BYTES_MAX) {
    throw refused("--bs", blockBytes, `at most ${FRAME_BYTES_MAX}, which a frame holds`);
  }
  if (depth > RPC_DEPTH_MAX) throw refused("--depth", depth, `1 to ${RPC_DEPTH_MAX}`);
}

function refused(what: string, seen: number, wanted: string): FastblockError {
  return new FastblockError("FB1001", `reading the load: ${what} is ${seen}, wanted ${wanted}`);
}
