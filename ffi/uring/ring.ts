// data path
import { dlopen, FFIType, type Pointer, ptr, read } from "bun:ffi";
import { type MappedMemory, mapDescriptor, mapMemory, unmapMemory } from "../libc/libc.ts";

/**
 * io_uring over libc alone: set-up, submission, completion, registration.
 *
 * The kernel shares two rings with the process. The submission queue holds entries of 64 bytes
 * (here: 16 u32 words), the completion queue entries of 16 (4 i32 words). A ring belongs to the
 * thread that made it. Addresses of buffers are doubles below 2^53; the two words of user data
 * come back unchanged in the completion.
 *
 *     word  0 opcode | flags | ioprio   1 fd      2,3 offset   4,5 address   6 length
 *           7 flags of the operation    8,9 user  10 buffer index | personality  11 file index
 *
 * Invariant: 0 ≤ tail − head ≤ entries for the submission queue; `head` is the kernel's.
 */

const I32 = FFIType.i32;
const U32 = FFIType.u32;
const PTR = FFIType.ptr;
// `syscall` is variadic; integer arguments travel as for a plain function. One binding a shape.
const { symbols: setupCall } = dlopen("libc.so.6", {
  syscall: { args: [I32, U32, PTR], returns: I32 },
});
// The seventh argument travels on the stack, where a 32-bit value leaves the upper half of its place
// as it was: the kernel compares all 64 bits of `argsz` and answers EINVAL now and then. Hence PTR.
const { symbols: enterCall } = dlopen("libc.so.6", {
  syscall: { args: [I32, I32, U32, U32, U32, PTR, PTR], returns: I32 },
});
const { symbols: registerCall } = dlopen("libc.so.6", {
  syscall: { args: [I32, I32, U32, PTR, U32], returns: I32 },
});
const { symbols: libc } = dlopen("libc.so.6", {
  close: { args: [I32], returns: I32 },
  __errno_location: { args: [], returns: PTR },
});
const errnoAddress = libc.__errno_location() as Pointer;

const SYS_SETUP = 425;
const SYS_ENTER = 426;
const SYS_REGISTER = 427;

/** Operations of `prepare`. */
export enum UringOp {
  Nop = 0,
  Fsync = 3,
  ReadFixed = 4,
  WriteFixed = 5,
  PollAdd = 6,
  Accept = 13,
  AsyncCancel = 14,
  Connect = 16,
  Fallocate = 17,
  Read = 22,
  Write = 23,
  Send = 26,
  Receive = 27,
  MsgRing = 40,
}

const SETUP_CQSIZE = 8;
const SETUP_CLAMP = 16;
const SETUP_SUBMIT_ALL = 1 << 7;
const SETUP_COOP_TASKRUN = 1 << 8;
const SETUP_SINGLE_ISSUER = 1 << 12;
const SETUP_DEFER_TASKRUN = 1 << 13;
const SETUP_NO_SQARRAY = 1 << 16;

const ENTER_GETEVENTS = 1;
const ENTER_EXT_ARG = 8;
const ENTER_REGISTERED_RING = 16;

const OFFSET_SQES = 0x1000_0000;
const FEATURE_SINGLE_MMAP = 1;
const FEATURE_NODROP = 2;
const FEATURE_EXT_ARG = 256;

const REGISTER_BUFFERS2 = 15;
const REGISTER_BUFFERS_UPDATE = 16;
const REGISTER_RING_FDS = 20;
const RSRC_REGISTER_SPARSE = 1;

const EINTR = 4;
const EAGAIN = 11;
const EBUSY = 16;
const EINVAL = 22;
const ETIME = 62;
const FAILURES_MAX = 64;
const SUBMIT_TRIES_MAX = 1000;

/** The ring can not be had here; `reason` says why, for the warning of the fall-back. */
export class UringUnavailable extends Error {
  override readonly name = "UringUnavailable";
  readonly errno: number;

  constructor(reason: string, errno: number) {
    super(reason);
    this.errno = errno;
  }
}

/** Receives completions; a method instead of a closure, so that the call stays monomorphic. */
export interface CompletionHandler {
  /** `userLow`, `userHigh`: signed 32-bit, as given to `prepare`; `result`: ≥ 0 or -errno. */
  onCompletion(userLow: number, userHigh: number, result: number, flags: number): void;
}

export interface RingOptions {
  /** Entries of the submission queue; a power of two. */
  readonly entries: number;
  /** Entries of the completion queue; a power of two. */
  readonly completions: number;
  /** `defer` (default): completion work runs only while the thread waits for it. `coop`: at any
   * system call. Which is cheaper depends on the device; both need a kernel of 6.0. */
  readonly taskrun?: "defer" | "coop";
}

interface SetupResult {
  readonly fd: number;
  readonly flags: number;
  readonly params: Uint32Array;
}

export class Ring {
  readonly fd: number;
  /** What the kernel accepted: `single-issuer defer-taskrun no-sqarray`. For the start-up line. */
  readonly features: string;
  /** System calls for submissions and completions so far. */
  enters = 0;
  private readonly sq: Int32Array;
  private readonly sqes: Uint32Array;
  private readonly sqHeadAt: number;
  private readonly sqTailAt: number;
  private readonly sqMask: number;
  private readonly entries: number;
  private readonly cqHeadAt: number;
  private readonly cqTailAt: number;
  private readonly cqMask: number;
  private readonly cqesAt: number;
  private readonly ringMemory: MappedMemory;
  private readonly sqeMemory: MappedMemory;
  private readonly argument: MappedMemory;
  private readonly argumentWords: Uint32Array;
  private enterFd: number;
  private enterFlags = 0;
  private tail: number;
  private cqHead: number;
  private closed = false;
  /** Failed calls in a row whose errno was none of the expected; it is not fully reliable. */
  private failures = 0;

  /** Throws `UringUnavailable` when the kernel, a setting or a sandbox refuses. */
  constructor(options: RingOptions) {
    const made = setup(options);
    const words = made.params;
    this.fd = made.fd;
    this.enterFd = made.fd;
    this.features = featureText(made.flags);
    this.entries = words[0]!;
    // Offsets of the submission ring lie at words 10 to 19, of the completion ring at 20 to 29.
    const sqBytes = words[16]! + this.entries * 4;
    const cqBytes = words[25]! + words[1]! * 16;
    const ringBytes = Math.ceil(Math.max(sqBytes, cqBytes) / 4096) * 4096;
    this.ringMemory = mapDescriptor(made.fd, ringBytes, 0);
    this.sqeMemory = mapDescriptor(made.fd, this.entries * 64, OFFSET_SQES);
    this.sq = new Int32Array(this.ringMemory.buffer);
    this.sqes = new Uint32Array(this.sqeMemory.buffer);
    this.sqHeadAt = words[10]! >>> 2;
    this.sqTailAt = words[11]! >>> 2;
    this.sqMask = this.sq[words[12]! >>> 2]!;
    this.cqHeadAt = words[20]! >>> 2;
    this.cqTailAt = words[21]! >>> 2;
    this.cqMask = this.sq[words[22]! >>> 2]!;
    this.cqesAt = words[25]! >>> 2;
    if ((made.flags & SETUP_NO_SQARRAY) === 0) {
      const arrayAt = words[16]! >>> 2;
      for (let at = 0; at < this.entries; at++) this.sq[arrayAt + at] = at;
    }
    this.tail = this.sq[this.sqTailAt]!;
    this.cqHead = this.sq[this.cqHeadAt]!;
    this.argument = mapMemory(4096);
    this.argumentWords = new Uint32Array(this.argument.buffer);
    // A timespec at 0; io_uring_getevents_arg at 64: signal mask 8, its size 4, pad 4, timespec 8.
    this.argumentWords[18] = 8;
    this.argumentWords[20] = this.argument.address;
    this.argumentWords[21] = this.argument.address / 4_294_967_296;
    this.registerRing();
  }

  /** Entries prepared and not yet taken by the kernel. */
  get prepared(): number {
    return (this.tail - this.sq[this.sqHeadAt]!) | 0;
  }

  /**
   * Queue one operation; it starts with the next `enter`, or now when the queue is full.
   * Answers the word index of the entry, for `setWord`.
   */
  prepare(
    op: UringOp,
    fd: number,
    address: number,
    length: number,
    offset: number,
    opFlags: number,
    userLow: number,
    userHigh: number,
  ): number {
    if (this.prepared >= this.entries) this.submitFull();
    const at = (this.tail & this.sqMask) << 4;
    this.tail = (this.tail + 1) | 0;
    const words = this.sqes;
    words[at] = op;
    words[at + 1] = fd;
    words[at + 2] = offset;
    words[at + 3] = offset / 4_294_967_296;
    words[at + 4] = address;
    words[at + 5] = address / 4_294_967_296;
    words[at + 6] = length;
    words[at + 7] = opFlags;
    words[at + 8] = userLow;
    words[at + 9] = userHigh;
    words[at + 10] = 0;
    words[at + 11] = 0;
    words[at + 12] = 0;
    words[at + 13] = 0;
    words[at + 14] = 0;
    words[at + 15] = 0;
    return at;
  }

  /** Set a further word of an entry just prepared. */
  setWord(at: number, word: number, value: number): void {
    this.sqes[at + word] = value;
  }

  /**
   * Submit what was prepared, then wait for a completion up to `timeoutUs` (0: do not wait).
   * Completions lie ready for `reap` afterwards, overflown ones included.
   */
  enter(timeoutUs: number): void {
    Atomics.store(this.sq, this.sqTailAt, this.tail);
    const count = this.prepared;
    if (timeoutUs <= 0) {
      this.call(count, 0, this.enterFlags | ENTER_GETEVENTS, 0, 0);
      return;
    }
    const words = this.argumentWords;
    const seconds = Math.floor(timeoutUs / 1_000_000);
    words[0] = seconds;
    words[1] = 0;
    words[2] = (timeoutUs - seconds * 1_000_000) * 1000;
    words[3] = 0;
    const flags = this.enterFlags | ENTER_GETEVENTS | ENTER_EXT_ARG;
    this.call(count, 1, flags, this.argument.address + 64, 24);
  }

  /** Hand every completion there is to the handler; answers how many there were. */
  reap(handler: CompletionHandler): number {
    const ring = this.sq;
    const tail = Atomics.load(ring, this.cqTailAt);
    let head = this.cqHead;
    let count = 0;
    while (head !== tail) {
      const at = this.cqesAt + ((head & this.cqMask) << 2);
      head = (head + 1) | 0;
      count += 1;
      handler.onCompletion(ring[at]!, ring[at + 1]!, ring[at + 2]!, ring[at + 3]!);
    }
    if (count > 0) {
      this.cqHead = head;
      Atomics.store(ring, this.cqHeadAt, head);
    }
    return count;
  }

  /** True when `reap` would find something. */
  get ready(): boolean {
    return Atomics.load(this.sq, this.cqTailAt) !== this.cqHead;
  }

  /** Make a table of `count` empty places for buffers; false when not allowed. cold: start-up */
  registerBufferTable(count: number): boolean {
    const words = new Uint32Array(new ArrayBuffer(32));
    words[0] = count;
    words[1] = RSRC_REGISTER_SPARSE;
    return this.register(REGISTER_BUFFERS2, ptr(words), 32) === 0;
  }

  /**
   * Pin a range of memory as buffer `place`, instead of what was pinned there, or nothing (address
   * and size 0); 0, or -errno (-ENOMEM: the limit of locked memory). Operations in flight keep what
   * they began with. cold: once per slab
   */
  updateBuffer(place: number, address: number, sizeBytes: number): number {
    const vector = new Uint32Array(new ArrayBuffer(16));
    vector[0] = address;
    vector[1] = address / 4_294_967_296;
    vector[2] = sizeBytes;
    const vectorAddress: number = ptr(vector);
    const words = new Uint32Array(new ArrayBuffer(32));
    words[0] = place;
    words[2] = vectorAddress;
    words[3] = vectorAddress / 4_294_967_296;
    words[6] = 1;
    const result = this.register(REGISTER_BUFFERS_UPDATE, ptr(words), 32);
    return result === 1 ? 0 : result;
  }

  /** Close the ring; operations in flight are cancelled by the kernel in its own time. */
  close(): void {
    if (this.closed) return;
    this.closed = true;
    libc.close(this.fd);
    unmapMemory(this.ringMemory);
    unmapMemory(this.sqeMemory);
    unmapMemory(this.argument);
  }

  /** Saves taking and dropping a reference to the ring's file at each `enter`. cold: start-up */
  private registerRing(): void {
    const update = new Uint32Array(new ArrayBuffer(16));
    update[0] = 0xffff_ffff;
    update[2] = this.fd;
    if (this.register(REGISTER_RING_FDS, ptr(update), 1) !== 1) return;
    this.enterFd = update[0]!;
    this.enterFlags = ENTER_REGISTERED_RING;
  }

  private register(op: number, argument: number, count: number): number {
    const result = registerCall.syscall(SYS_REGISTER, this.fd, op, argument as Pointer, count);
    return result === -1 ? -read.i32(errnoAddress, 0) : result;
  }

  /** The queue is full: let the kernel take it, without reaping (no handler may run here). */
  private submitFull(): void {
    Atomics.store(this.sq, this.sqTailAt, this.tail);
    for (let attempt = 0; attempt < SUBMIT_TRIES_MAX; attempt++) {
      this.call(this.prepared, 0, this.enterFlags, 0, 0);
      if (this.prepared < this.entries) return;
    }
    failWith("io_uring: the kernel takes no more submissions, errno", 0);
  }

  private call(submit: number, wait: number, flags: number, argument: number, size: number): void {
    const pointer = (argument === 0 ? null : argument) as Pointer | null;
    const bytes = (size === 0 ? null : size) as Pointer | null;
    this.enters += 1;
    const result = enterCall.syscall(SYS_ENTER, this.enterFd, submit, wait, flags, pointer, bytes);
    // Read before any branch: where optimised code leaves for a path it has not seen, the runtime
    // makes calls of its own, and errno is theirs.
    const errno = read.i32(errnoAddress, 0);
    if (result >= 0) {
      this.failures = 0;
      return;
    }
    // ETIME: nothing came in time. EINTR: a signal. EBUSY, EAGAIN: reap first, then submit again;
    // what was not taken stays prepared.
    if (errno === ETIME || errno === EINTR || errno === EBUSY || errno === EAGAIN) return;
    this.failures += 1;
    if (this.failures > FAILURES_MAX) failWith("io_uring_enter: errno", errno);
  }
}

/** End the thread. cold: the ring is broken */
function failWith(what: string, errno: number): never {
  throw new Error(`${what} ${errno}`);
}

/** Try the flags from the best to the oldest kernel's; 6.1 lacks NO_SQARRAY (6.6). cold: start-up */
function setup(options: RingOptions): SetupResult {
  const taskrun =
    options.taskrun === "coop" ? SETUP_COOP_TASKRUN : SETUP_DEFER_TASKRUN | SETUP_COOP_TASKRUN;
  const common = SETUP_CQSIZE | SETUP_CLAMP;
  const full = common | SETUP_SUBMIT_ALL | SETUP_SINGLE_ISSUER | taskrun;
  const plain = common | SETUP_SUBMIT_ALL | SETUP_COOP_TASKRUN;
  const choices = [full | SETUP_NO_SQARRAY, full, plain, common];
  let errno = 0;
  for (let at = 0; at < choices.length; at++) {
    const flags = choices[at]!;
    const params = new Uint32Array(new ArrayBuffer(120));
    params[1] = options.completions;
    params[2] = flags;
    const fd = setupCall.syscall(SYS_SETUP, options.entries, ptr(params));
    if (fd >= 0) return checkFeatures({ fd, flags, params });
    errno = read.i32(errnoAddress, 0);
    if (errno !== EINVAL) break;
  }
  throw new UringUnavailable(`io_uring_setup: errno ${errno} (${whyNot(errno)})`, errno);
}

/** cold: start-up */
function checkFeatures(made: SetupResult): SetupResult {
  const wanted = FEATURE_SINGLE_MMAP | FEATURE_NODROP | FEATURE_EXT_ARG;
  if ((made.params[5]! & wanted) === wanted) return made;
  libc.close(made.fd);
  throw new UringUnavailable("io_uring_setup: kernel older than 5.11, wanted 6.1 or newer", 0);
}

function whyNot(errno: number): string {
  if (errno === 1) return "forbidden: kernel.io_uring_disabled or a sandbox";
  if (errno === 12) return "not enough locked memory";
  if (errno === 38) return "the kernel has none";
  if (errno === 24 || errno === 23) return "too many open files";
  return "refused";
}

/** cold: start-up */
function featureText(flags: number): string {
  const names: string[] = [];
  if ((flags & SETUP_SINGLE_ISSUER) !== 0) names.push("single-issuer");
  if ((flags & SETUP_DEFER_TASKRUN) !== 0) names.push("defer-taskrun");
  else if ((flags & SETUP_COOP_TASKRUN) !== 0) names.push("coop-taskrun");
  if ((flags & SETUP_NO_SQARRAY) !== 0) names.push("no-sqarray");
  return names.join(" ");
}
