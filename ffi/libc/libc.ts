import { dlopen, FFIType, type Pointer, ptr, read, toArrayBuffer } from "bun:ffi";
import { MappingFailed } from "./mapping-failed.ts";

/**
 * The system calls that the runtime does not offer. Functions answer a result, or the negative
 * errno; nothing here throws but what maps memory (`MappingFailed`).
 *
 * Pointers are taken only from buffers that were made as `new ArrayBuffer(n)` or mapped: the bytes
 * of a small typed array move when its buffer is touched.
 */

const I32 = FFIType.i32;
const U32 = FFIType.u32;
const PTR = FFIType.ptr;
const U64 = FFIType.u64;

const { symbols: libc } = dlopen("libc.so.6", {
  mmap: { args: [PTR, U64, I32, I32, I32, U64], returns: PTR },
  munmap: { args: [PTR, U64], returns: I32 },
  madvise: { args: [PTR, U64, I32], returns: I32 },
  open: { args: [PTR, I32, I32], returns: I32 },
  close: { args: [I32], returns: I32 },
  ioctl: { args: [I32, U64, PTR], returns: I32 },
  fallocate: { args: [I32, I32, U64, U64], returns: I32 },
  ftruncate: { args: [I32, U64], returns: I32 },
  fcntl: { args: [I32, I32, I32], returns: I32 },
  clock_gettime: { args: [I32, PTR], returns: I32 },
  sched_setaffinity: { args: [I32, U64, PTR], returns: I32 },
  getrusage: { args: [I32, PTR], returns: I32 },
  socket: { args: [I32, I32, I32], returns: I32 },
  bind: { args: [I32, PTR, U32], returns: I32 },
  listen: { args: [I32, I32], returns: I32 },
  connect: { args: [I32, PTR, U32], returns: I32 },
  shutdown: { args: [I32, I32], returns: I32 },
  setsockopt: { args: [I32, I32, I32, PTR, U32], returns: I32 },
  getsockopt: { args: [I32, I32, I32, PTR, PTR], returns: I32 },
  poll: { args: [PTR, U64, I32], returns: I32 },
  getsockname: { args: [I32, PTR, PTR], returns: I32 },
  getpeername: { args: [I32, PTR, PTR], returns: I32 },
  __errno_location: { args: [], returns: PTR },
});

// `fcntl` is variadic: one binding for each shape of its last argument.
const { symbols: lockCall } = dlopen("libc.so.6", {
  fcntl: { args: [I32, I32, PTR], returns: I32 },
});

const errnoAddress = libc.__errno_location() as Pointer;

/** Turn a result of -1 into the negative errno. */
function answer(result: number): number {
  const errno = read.i32(errnoAddress, 0);
  return result === -1 ? -errno : result;
}

function textBuffer(text: string): Uint8Array {
  const encoded = new TextEncoder().encode(text);
  const bytes = new Uint8Array(new ArrayBuffer(encoded.length + 1));
  bytes.set(encoded);
  return bytes;
}

export const O_RDONLY = 0;
export const O_RDWR = 2;
export const O_CREAT = 0o100;
export const O_EXCL = 0o200;
const O_CLOEXEC = 0o2000000;
/** x86-64 and arm64 differ. */
export const O_DIRECT: number = process.arch === "arm64" ? 0o200000 : 0o40000;

/* ------------------------------------------------------------------ memory */

/** Zeroed, page-aligned memory whose address never changes. Pages cost nothing until touched. */
export interface MappedMemory {
  readonly address: number;
  readonly buffer: ArrayBuffer;
}

const PROT_READ_WRITE = 3;
const MAP_SHARED = 1;
const MAP_PRIVATE = 2;
const MAP_ANONYMOUS = 0x20;
const MAP_NORESERVE = 0x4000;
const MAP_POPULATE = 0x8000;
const MADV_DONTNEED = 4;

/** Map anonymous memory: private to the process, seen by all of its threads. At most 4 GiB. */
export function mapMemory(sizeBytes: number): MappedMemory {
  return map(sizeBytes, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}

/** Map `sizeBytes` of a descriptor at an offset, shared and populated (rings). */
export function mapDescriptor(fd: number, sizeBytes: number, offset: number): MappedMemory {
  return map(sizeBytes, MAP_SHARED | MAP_POPULATE, fd, offset);
}

function map(sizeBytes: number, flags: number, fd: number, offset: number): MappedMemory {
  const size = BigInt(sizeBytes);
  const address: unknown = libc.mmap(null, size, PROT_READ_WRITE, flags, fd, BigInt(offset));
  // A failure is the pointer -1, which arrives as a BigInt.
  if (typeof address !== "number") {
    throw new MappingFailed(sizeBytes, read.i32(errnoAddress, 0));
  }
  return { address, buffer: toArrayBuffer(address as Pointer, 0, sizeBytes) };
}

/** Give whole pages back; the mapping stays and reads zeros. 0, or -errno. */
export function releasePages(address: number, sizeBytes: number): number {
  return answer(libc.madvise(address as Pointer, BigInt(sizeBytes), MADV_DONTNEED));
}

/** End a mapping. The buffer must never be touched again. */
export function unmapMemory(memory: MappedMemory): void {
  libc.munmap(memory.address as Pointer, BigInt(memory.buffer.byteLength));
}

/* ------------------------------------------------------------------- files */

const F_OFD_GETLK = 36;
const F_OFD_SETLK = 37;
const F_RDLCK = 0;
const F_WRLCK = 1;
const F_UNLCK = 2;
const BLKGETSIZE64 = 0x8008_1272n;
const FALLOC_KEEP_SIZE = 1;
const FALLOC_PUNCH_HOLE = 2;

export function openFile(path: string, flags: number, mode: number): number {
  return answer(libc.open(ptr(textBuffer(path)), flags | O_CLOEXEC, mode));
}

export function closeFile(fd: number): number {
  return answer(libc.close(fd));
}

/**
 * Lock, or unlock, `length` bytes from `start` (length 0: to the end of all files) without waiting:
 * -EAGAIN (-11) when another holder stands against it.
 *
 * The lock is of the open file, not of the process: it ends with the last reference, and each
 * operation that the kernel still works on is one.
 */
export function lockRange(
  fd: number,
  kind: "shared" | "exclusive" | "none",
  start: number,
  length: number,
): number {
  // type 2 | whence 2 | pad 4 | start 8 | length 8 | pid 4 | pad 4
  const words = new Int32Array(new ArrayBuffer(32));
  words[0] = kind === "shared" ? F_RDLCK : kind === "exclusive" ? F_WRLCK : F_UNLCK;
  words[2] = start;
  words[4] = length;
  return answer(lockCall.fcntl(fd, F_OFD_SETLK, ptr(words)));
}

/** Whether another open file holds an exclusive lock on any byte; nothing is locked by asking. */
export function isLocked(fd: number): boolean {
  const words = new Int32Array(new ArrayBuffer(32));
  words[0] = F_RDLCK;
  const result = answer(lockCall.fcntl(fd, F_OFD_GETLK, ptr(words)));
  return result === 0 && (words[0]! & 0xffff) !== F_UNLCK;
}

/** Bytes of a block device. */
export function blockDeviceSize(fd: number): number {
  const size = new Uint32Array(new ArrayBuffer(8));
  const result = answer(libc.ioctl(fd, BLKGETSIZE64, ptr(size)));
  return result < 0 ? result : size[0]! + size[1]! * 4_294_967_296;
}

export function punchHole(fd: number, offset: number, length: number): number {
  const mode = FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE;
  return answer(libc.fallocate(fd, mode, BigInt(offset), BigInt(length)));
}

export function truncateFile(fd: number, sizeBytes: number): number {
  return answer(libc.ftruncate(fd, BigInt(sizeBytes)));
}

/* -------------------------------------------------------------------- time */

const CLOCK_BOOTTIME = 7;
const timespec = new Uint32Array(new ArrayBuffer(16));
const timespecAddress = ptr(timespec);

/** Microseconds of CLOCK_BOOTTIME, with fractions dropped. */
export function boottimeUs(): number {
  libc.clock_gettime(CLOCK_BOOTTIME, timespecAddress);
  const seconds = timespec[0]! + timespec[1]! * 4_294_967_296;
  return seconds * 1_000_000 + Math.floor(timespec[2]! / 1000);
}

/* ----------------------------------------------------------------- process */

const RUSAGE_SELF = 0;
const RUSAGE_THREAD = 1;

/** Bind the calling thread to one core. */
export function pinThread(cpu: number): number {
  const mask = new Uint32Array(new ArrayBuffer(128));
  mask[cpu >>> 5] = 1 << (cpu & 31);
  return answer(libc.sched_setaffinity(0, 128n, ptr(mask)));
}

/** Processor time so far, in µs. */
export interface CpuTimes {
  readonly userUs: number;
  readonly systemUs: number;
}

export function cpuTimes(of: "process" | "thread"): CpuTimes {
  const usage = new Uint32Array(new ArrayBuffer(144));
  libc.getrusage(of === "process" ? RUSAGE_SELF : RUSAGE_THREAD, ptr(usage));
  const at = (word: number): number => usage[word]! + usage[word + 1]! * 4_294_967_296;
  return { userUs: at(0) * 1_000_000 + at(2), systemUs: at(4) * 1_000_000 + at(6) };
}

/* ----------------------------------------------------------------- sockets */

export const AF_UNIX = 1;
export const AF_INET = 2;
export const AF_INET6 = 10;
const SOCK_STREAM_CLOEXEC = 0o2000001;
const SOL_SOCKET = 1;
const SO_REUSEADDR = 2;
const IPPROTO_TCP = 6;
const TCP_NODELAY = 1;
const SHUT_WR = 1;
const SHUT_RDWR = 2;
const one = new Int32Array(new ArrayBuffer(4)).fill(1);
/** Room for any socket address: path of 108 bytes and its family. */
const SOCKET_ADDRESS_MAX = 112;

export function openSocket(family: number): number {
  return answer(libc.socket(family, SOCK_STREAM_CLOEXEC, 0));
}

/** `address`: its bytes as the kernel wants them, in a stable buffer of their own. */
export function bindSocket(fd: number, address: Uint8Array): number {
  return answer(libc.bind(fd, ptr(stable(address)), address.length));
}

export function listenSocket(fd: number, backlog: number): number {
  return answer(libc.listen(fd, backlog));
}

const F_GETFL = 3;
const F_SETFL = 4;
/** Also: opening a pipe does not wait for its other end. */
export const O_NONBLOCK = 0o4000;
const SO_ERROR = 4;
const POLLOUT = 4;

/** Make calls on the descriptor answer -EAGAIN (-11) or -EINPROGRESS (-115) instead of waiting. */
export function setNonBlocking(fd: number): number {
  const flags = libc.fcntl(fd, F_GETFL, 0);
  return answer(libc.fcntl(fd, F_SETFL, flags | O_NONBLOCK));
}

/** How a begun connect stands: 1 in progress, 0 connected, else -errno. */
export function connectOutcome(fd: number): number {
  const poll = new Int32Array(new ArrayBuffer(8));
  poll[0] = fd;
  poll[1] = POLLOUT;
  if (libc.poll(ptr(poll), 1n, 0) <= 0) return 1;
  const value = new Int32Array(new ArrayBuffer(4));
  const size = new Uint32Array(new ArrayBuffer(4)).fill(4);
  if (libc.getsockopt(fd, SOL_SOCKET, SO_ERROR, ptr(value), ptr(size)) !== 0) return -104;
  return -value[0]!;
}

/** Connect; waits for the outcome unless the descriptor is non-blocking. */
export function connectSocket(fd: number, address: Uint8Array): number {
  return answer(libc.connect(fd, ptr(stable(address)), address.length));
}

/** End sending, or both directions. */
export function shutdownSocket(fd: number, both: boolean): number {
  return answer(libc.shutdown(fd, both ? SHUT_RDWR : SHUT_WR));
}

export function setNoDelay(fd: number): number {
  return answer(libc.setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, ptr(one), 4));
}

export function setReuseAddress(fd: number): number {
  return answer(libc.setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, ptr(one), 4));
}

/** The socket address of this end, or of the other; empty when there is none. */
export function socketAddress(fd: number, end: "own" | "peer"): Uint8Array {
  const bytes = new Uint8Array(new ArrayBuffer(SOCKET_ADDRESS_MAX));
  const length = new Uint32Array(new ArrayBuffer(4));
  length[0] = SOCKET_ADDRESS_MAX;
  const ask = end === "own" ? libc.getsockname : libc.getpeername;
  const result = ask(fd, ptr(bytes), ptr(length));
  return result === 0 ? bytes.slice(0, length[0]) : bytes.slice(0, 0);
}

function stable(bytes: Uint8Array): Uint8Array {
  const copy = new Uint8Array(new ArrayBuffer(Math.max(bytes.length, SOCKET_ADDRESS_MAX)));
  copy.set(bytes);
  return copy;
}
