// data path
import type { Checksum } from "../base/checksum.ts";
import type { Ciphers } from "../base/cipher.ts";
import type { Logger } from "../base/logger.ts";
import type { Random } from "../base/prng.ts";
import { Status } from "../base/status.ts";
import type { StageTrace } from "../metrics/metrics.ts";

/**
 * Every seam between fastblock and the outside: memory, time, randomness, disk and network.
 *
 * All of `core/` receives these through one `World` object; nothing else may reach the operating
 * system. Three implementations stand behind them: io_uring (`uring-*.ts`), the portable fall-back
 * on the runtime's own files and sockets (`bun-*.ts`), and the deterministic in-memory one of the
 * simulator (`sim-*.ts`). One conformance suite per seam runs on all three.
 *
 * A world belongs to one thread: one reactor, one arena. One turn of the reactor is
 * reap completions → their handlers → timers → drains in `DrainOrder` → gathered sends, submitted
 * disk operations → block. Handlers queue; drains act.
 */
export interface World {
  readonly arena: Arena;
  readonly slots: Slots;
  readonly clock: Clock;
  readonly random: Random;
  readonly timers: Timers;
  readonly turns: Turns;
  readonly disks: Disks;
  readonly network: Network;
  readonly checksum: Checksum;
  /** For connections that are encrypted. */
  readonly ciphers: Ciphers;
  readonly logger: Logger;
  /** Where the time of operations goes, while people want to know. */
  readonly trace: StageTrace;
  /** What carries disk and network: shown by every command as `backend`. */
  readonly backend: Backend;
  /**
   * End by the fatal path, as a handler that throws does: no turn follows, and this one sends nothing
   * more. For errors of promises, which no turn sees (`failOnBug`).
   */
  fail(error: unknown): void;
}

export type Backend = "uring" | "file" | "memory";

/* ------------------------------------------------------------------ memory */

/**
 * The one memory area of a thread, out of which every I/O buffer is carved: receive and send
 * buffers, slots. Addressed by byte offsets, which are 32-bit numbers. At most 4 GiB, untouched
 * parts cost nothing. Copies within it are `bytes.copyWithin`.
 */
export interface Arena {
  readonly bytes: Uint8Array;
  readonly view: DataView;
  readonly words: Int32Array;
  readonly sizeBytes: number;
  /** Carve out memory for good, zeroed, 4 KiB-aligned. Throws when the arena is exhausted. */
  allocate(sizeBytes: number): number;
  /** The view of one 4 KiB block at an aligned offset, made once and kept (for checksums). */
  block(offset: number): Uint8Array;
}

/**
 * Pooled 4 KiB-aligned buffers within the arena, in size classes of 4, 16, 64, 256 KiB and 1 MiB.
 * Content is undefined when taken (poisoned on release when verifying).
 */
export interface Slots {
  /** The offset of a free slot of at least `sizeBytes`, or -1 when the class is exhausted. */
  take(sizeBytes: number): number;
  /** Give a slot back. Asserts that it is taken (no double release). */
  release(offset: number): void;
  /** Bytes of slots in use, for metrics and leak checks. */
  readonly usedBytes: number;
  /** Bytes of all slots; how many of a size fit depends on the others. */
  readonly sizeBytes: number;
  /** How often `take` answered -1 since the start. */
  readonly refusals: number;
}

/* -------------------------------------------------------------------- time */

export interface Clock {
  /** Microseconds of CLOCK_BOOTTIME (goes on during suspend, never steps), read afresh. */
  nowUs(): number;
  /** The same clock as of the last reaping of this turn: free to read. */
  readonly turnUs: number;
  /**
   * µs so far that turns of this reactor went on beyond 20 ms each. What comes to an end meanwhile is
   * seen late: that is none of its own time. Free to read.
   */
  readonly overrunUs: number;
  /** Milliseconds since 1970, for people and logs only. Decides nothing. */
  wallMs(): number;
}

/** An intrusive timer. Armed at most once at a time; extend and implement `onTimer`. */
export abstract class Timer {
  /** Owned by the wheel. */
  timerNext: Timer | null = null;
  timerPrevious: Timer | null = null;
  /** When it fires, in µs of the clock; -1 while idle. */
  timerDueUs = -1;
  abstract onTimer(): void;
}

/** A timer of something that has several: calls a function, made once with its owner. */
export class CallbackTimer extends Timer {
  private readonly callback: () => void;

  constructor(callback: () => void) {
    super();
    this.callback = callback;
  }

  onTimer(): void {
    this.callback();
  }
}

/** Resolve after `delayUs` on the clock of a world. cold: for control code */
export function sleep(timers: Timers, delayUs: number): Promise<void> {
  return new Promise((resolve) => timers.arm(new CallbackTimer(resolve), delayUs));
}

export interface Timers {
  /** (Re)arm: `onTimer` runs once in the first turn at or after `delayUs` (1 ms grain). */
  arm(timer: Timer, delayUs: number): void;
  /**
   * As `arm`, for the next moment at which the clock shows a multiple of `periodUs`: what is done
   * once a period shares its wake-ups, within a reactor and among the processes of a machine.
   */
  armPeriod(timer: Timer, periodUs: number): void;
  /** Disarm; nothing happens when it is idle. */
  disarm(timer: Timer): void;
}

/** The fixed order of a turn's drains. */
export enum DrainOrder {
  Receive = 0,
  Raft = 1,
  Log = 2,
  Apply = 3,
  Send = 4,
}

export interface Drain {
  drain(): void;
}

/** A drain of something that has several: calls a function, made once with its owner. */
export class CallbackDrain implements Drain {
  private readonly callback: () => void;

  constructor(callback: () => void) {
    this.callback = callback;
  }

  drain(): void {
    this.callback();
  }
}

export interface Turns {
  /** Run `drain` in every turn, for the life of the world. Same order: in order of adding. */
  addDrain(order: DrainOrder, drain: Drain): void;
  /**
   * Do not block after this turn: there is more queued. From outside of a turn (a promise job, a
   * request served by the runtime): a turn follows. Whoever queues work for a drain from there must
   * call it; timers, disks and streams do it themselves.
   */
  again(): void;
}

/* -------------------------------------------------------------------- disk */

export enum DiskVerb {
  Read = 0,
  /** On completion visible to reads; on stable storage only after a `Flush` that follows it. */
  Write = 1,
  /** On completion this range, and no other, is on stable storage (RWF_DSYNC, FUA). */
  WriteDurable = 2,
  /** On completion everything completed before its submission is on stable storage. */
  Flush = 3,
  /**
   * Give the range back to the device; reads after it return anything. A hint: whoever refuses it
   * answers `Ok` with the errno of the refusal.
   */
  Discard = 4,
}

/**
 * One disk operation, extended and pooled by its owner. Offsets and lengths are multiples of
 * 4096 bytes. The memory belongs to the disk from `submit` until `onDone`. Completion order is
 * free. A short transfer is an error.
 */
export abstract class DiskOp {
  verb: DiskVerb = DiskVerb.Read;
  arenaOffset = 0;
  lengthBytes = 0;
  offsetBytes = 0;
  /** `Ok`, or `DeviceFailed`, with the positive errno in `errno`. Valid in `onDone`. */
  status: Status = Status.Ok;
  errno = 0;
  /** Owned by whoever holds the op: pool or queue. */
  diskNext: DiskOp | null = null;
  abstract onDone(): void;
}

export interface Disk {
  readonly sizeBytes: number;
  readonly path: string;
  readonly backend: Backend;
  /** True when O_DIRECT (or an equal) is in force: reads come from the device. */
  readonly direct: boolean;
  /** Start an operation; it is issued at the end of the turn at the latest. */
  submit(op: DiskOp): void;
  /** Operations submitted and not done. */
  readonly inFlight: number;
  // cold: a system call.
  /**
   * Bytes that the file system beneath a sparse file can still give; Infinity when it has given
   * everything, or can give all that is missing, and for block devices.
   */
  bytesBeneath(): number;
  /** Release the device; requires `inFlight === 0`. */
  close(): void;
}

export interface DiskOpenOptions {
  /** Create a regular file of this size (sparse) when nothing stands at the path. */
  readonly createBytes?: number;
  readonly readOnly?: boolean;
  /**
   * The shard (default 0) of the process that opens: the one of shard 0 keeps other processes away,
   * and comes first. Each shard holds a part of the lock for as long as an operation of its own is
   * in flight, even when the process was killed: nobody reads what is still being written.
   */
  readonly shard?: number;
  /** Wait this long (µs, default 0) for the lock, blocking the thread: its holder may just have died. */
  readonly lockWaitUs?: number;
}

export interface Disks {
  /**
   * Open a regular file or block device, locked against other processes (and held by O_EXCL, when
   * it is a block device); `readOnly` shares it with other readers.
   * Throws FB4005 when another process holds it, FB4011 when it does not exist, FB4009 for
   * other failures. Cold.
   */
  open(path: string, options: DiskOpenOptions): Disk;
}

/* ----------------------------------------------------------------- network */

export type Address =
  | { readonly kind: "tcp"; readonly host: string; readonly port: number }
  | { readonly kind: "unix"; readonly path: string };

export interface StreamOptions {
  /** Size of the linear receive buffer: at least the largest frame. Default 1 MiB. */
  readonly receiveBytes?: number;
  /** The most unsent bytes a stream holds before `reserve` answers -1. Default 2 MiB. */
  readonly sendBytes?: number;
  /** Local address for outgoing connections (`--bind`). */
  readonly bind?: string;
}

/** What the owner of a stream implements. Calls come in the handler phase of a turn. */
export interface StreamHandler {
  /** A connection made by `connect` is up. */
  onOpen(stream: Stream): void;
  /** There are new bytes at `receiveOffset`. Parse in place, then `consume`. */
  onReceive(stream: Stream): void;
  /** Space came back after `reserve` answered -1. */
  onWritable(stream: Stream): void;
  /** The stream is over, for the reason given (constant or errno text); called exactly once. */
  onClose(stream: Stream, reason: string): void;
}

/**
 * One connected byte stream. Receives into a linear buffer, parsed in place; sends what was
 * produced in a turn by one system call.
 */
export interface Stream {
  handler: StreamHandler;
  /** Arena offset and length of the received and not yet consumed bytes. 8-byte aligned as long as
   * only multiples of 8 are consumed. Valid until the handler returns. */
  readonly receiveOffset: number;
  readonly receiveLength: number;
  /** Drop `lengthBytes` from the front. */
  consume(lengthBytes: number): void;
  /** Stop or go on receiving: back-pressure towards the peer. Bytes already received stay. */
  pause(): void;
  resume(): void;
  /**
   * Arena offset of `lengthBytes` contiguous bytes of send space (8-byte aligned when all lengths
   * are multiples of 8), or -1 when the unsent bytes would pass the limit: then `onWritable`
   * follows. Fill and `commit` within the same handler or drain.
   */
  reserve(lengthBytes: number): number;
  /** Hand over the last reserved bytes; sent at the end of the turn. */
  commit(lengthBytes: number): void;
  /** Bytes committed and not yet taken by the kernel. */
  readonly unsentBytes: number;
  /** End the stream after (true) or without sending what is committed. `onClose` follows. */
  close(reason: string, flush?: boolean): void;
  /** `127.0.0.1:4711`, for logs. */
  readonly peer: string;
}

export interface Listener {
  /** The bound address, with the port that was chosen. */
  readonly address: Address;
  close(): void;
}

export interface Acceptor {
  /** A connection came in; answer its handler. */
  onAccept(stream: Stream): StreamHandler;
}

export interface Network {
  /** Listen; port 0 lets the system choose. Throws FB4005 when the address is in use. Cold. */
  listen(address: Address, acceptor: Acceptor, options?: StreamOptions): Listener;
  /** Start connecting; `onOpen` or `onClose` follows in a later turn. */
  connect(target: Address, handler: StreamHandler, options?: StreamOptions): Stream;
}
