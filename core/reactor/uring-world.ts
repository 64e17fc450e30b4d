// data path
import { drainMicrotasks } from "bun:jsc";
import { mapMemory, type MappedMemory, releasePages } from "../../ffi/libc/libc.ts";
import { type CompletionHandler, Ring, UringOp } from "../../ffi/uring/ring.ts";
import {
  findGuestEpoll,
  runBesideGuest,
  SystemChecksum,
  SystemCiphers,
  SystemClock,
  SystemRandom,
  throwUncaught,
} from "./bun-system.ts";
import { type ChannelReceiver, Mailbox, type ShardChannel, type ShardMail } from "./channel.ts";
import { ReactorBase, type RunnableWorld, type WorldOptions } from "./reactor-base.ts";
import { UringDisks } from "./uring-disk.ts";
import { UserKind } from "./uring-kinds.ts";
import { UringMemory } from "./uring-memory.ts";
import { UringNetwork } from "./uring-network.ts";
import { Rest } from "./uring-rest.ts";
import type { Backend } from "./world.ts";

/**
 * The reactor on io_uring: the ring is the only place where the thread blocks.
 *
 *     submit, wait → completions → deferred calls → promise jobs → timers → promise jobs
 *       → drains → promise jobs → gathered sends and receives → again
 *
 * The runtime's own event loop (HTTP, timers, messages between threads) is a guest: the ring polls
 * its epoll descriptor; when that is readable the loop gets one turn by awaiting an immediate. The
 * runtime keeps its timers in the epoll timeout, which the ring does not see: whoever relies on
 * them says so (`holdGuest`), else they fire at the next of the turns that come once a second.
 * After a guest turn the reactor takes a turn without blocking, so that what the guest queued is
 * drained at once.
 *
 * Promise jobs that queue work for a drain after the drains of their turn must call
 * `turns.again()`; jobs that run before are covered.
 */

export interface UringOptions extends WorldOptions {
  /** Poll this long (µs) before blocking; adaptive. Default 0: block at once. */
  readonly spinUs?: number;
  /** Entries of the submission queue, a power of two. Default 512. */
  readonly entries?: number;
  /** When completion work runs; see `RingOptions`. Default `defer`. */
  readonly taskrun?: "defer" | "coop";
}

const ENTRIES_DEFAULT = 512;
const COMPLETIONS_PER_ENTRY = 8;
/** Each turn of a guest that has nothing to do costs two system calls and a turn of ours. */
const IDLE_BLOCK_US = 1_000_000;
const GUEST_BLOCK_US = 5_000;
/** Without the epoll descriptor the guest's events are only seen by giving it turns. */
const BLIND_BLOCK_US = 1_000;
/** A spin that found nothing this often in a row is tried only at every 64th block. */
const SPIN_MISSES_MAX = 16;
const SPIN_RETRY_MASK = 63;
const POLLIN = 1;

export class UringWorld extends ReactorBase implements RunnableWorld, CompletionHandler, ShardMail {
  readonly backend: Backend = "uring";
  readonly disks: UringDisks;
  readonly network: UringNetwork;
  readonly ring: Ring;
  readonly mail: ShardMail = this;
  private readonly mailbox: Mailbox = new Mailbox();
  private readonly mapped: MappedMemory;
  private readonly onFatal: (error: unknown) => void;
  private readonly spinUs: number;
  private readonly guestFd: number;
  private running = false;
  private stopped = false;
  private finished: Promise<void> = Promise.resolve();
  private holds = 0;
  private polling = false;
  private guestReady = true;
  private lastGuestUs = 0;
  private spinMisses = 0;

  constructor(options: UringOptions) {
    const entries = options.entries ?? ENTRIES_DEFAULT;
    const completions = entries * COMPLETIONS_PER_ENTRY;
    const ring = new Ring({ entries, completions, taskrun: options.taskrun ?? "defer" });
    const mapped = mapMemory(options.arenaBytes);
    super({
      options,
      memory: mapped.buffer,
      clock: new SystemClock(),
      random: new SystemRandom(),
      checksum: new SystemChecksum(),
      ciphers: new SystemCiphers(),
    });
    this.ring = ring;
    this.mapped = mapped;
    const memory = new UringMemory(ring, mapped.address, options.arenaBytes, options.logger);
    this.disks = new UringDisks(ring, memory);
    this.network = new UringNetwork(ring, this, memory);
    new Rest(this, memory, this.network).start();
    this.onFatal = options.onFatal ?? throwUncaught;
    this.spinUs = options.spinUs ?? 0;
    this.guestFd = findGuestEpoll();
    if (this.guestFd < 0) {
      options.logger.warn("the runtime's event loop was not found: giving it a turn every 1 ms");
    }
  }

  /** cold: once in its life */
  start(): void {
    if (this.running || this.stopped) return;
    this.running = true;
    this.finished = runBesideGuest(this);
  }

  /** cold: once in its life */
  async stop(): Promise<void> {
    if (this.stopped) return;
    this.stopped = true;
    this.running = false;
    await this.finished;
    this.network.closeAll();
    this.disks.closeAll();
    this.ring.close();
    // The pages that the kernel still holds for cancelled operations are its own until it drops
    // them; ours read as zeros from now on.
    releasePages(this.mapped.address, this.mapped.buffer.byteLength);
  }

  holdGuest(): void {
    this.holds += 1;
  }

  releaseGuest(): void {
    this.holds -= 1;
  }

  receive(channel: ShardChannel, receiver: ChannelReceiver): void {
    channel.setWaker(this.ring.fd);
    this.mailbox.add(channel, receiver);
    this.turns.again();
  }

  publish(channel: ShardChannel): void {
    if (!channel.commit()) return;
    // A completion appears in the other ring; its user data travels in the offset.
    const user = UserKind.Channel * 4_294_967_296;
    const kind = UserKind.Ignored;
    this.ring.prepare(UringOp.MsgRing, channel.waker, 0, 0, user, 0, 0, kind);
    this.turns.again();
  }

  onCompletion(userLow: number, userHigh: number, result: number, _flags: number): void {
    switch (userHigh) {
      case UserKind.Disk:
        this.disks.onCompletion(userLow, result);
        break;
      case UserKind.Receive:
      case UserKind.Send:
      case UserKind.Connect:
      case UserKind.Accept:
        this.network.onCompletion(userHigh, userLow, result);
        break;
      case UserKind.Guest:
        this.polling = false;
        this.guestReady = true;
        break;
      // A wake-up by another thread: the mail is looked at in every turn.
      default:
        break;
    }
  }

  /**
   * Take turns until the guest is due one; false when the world has ended. The caller gives the
   * guest its turn and calls again.
   */
  runUntilGuest(): boolean {
    while (this.running) {
      this.turn();
      const nowUs = this.clock.turnUs;
      if (this.guestReady || nowUs - this.lastGuestUs >= this.guestEveryUs) {
        this.guestReady = false;
        this.lastGuestUs = nowUs;
        this.stats.guestTurns += 1;
        // What the guest will queue waits for drains.
        this.turns.again();
        return true;
      }
    }
    return false;
  }

  fail(error: unknown): void {
    if (this.hasFailed) return;
    this.hasFailed = true;
    this.running = false;
    this.onFatal(error);
  }

  private turn(): void {
    this.wait();
    const clock = this.clock;
    clock.begin();
    this.stats.turns += 1;
    this.stats.completions += this.ring.reap(this);
    this.stats.completions += this.mailbox.drain();
    this.network.deliver();
    drainMicrotasks();
    if (this.hasFailed) return;
    this.timers.expire(clock.turnUs);
    drainMicrotasks();
    if (this.hasFailed) return;
    this.turns.run();
    drainMicrotasks();
    if (this.hasFailed) return;
    this.network.flush();
    clock.end();
  }

  /** Submit, and block until there is something to do. */
  private wait(): void {
    const turns = this.turns;
    if (!this.polling && this.guestFd >= 0) {
      const kind = UserKind.Guest;
      this.ring.prepare(UringOp.PollAdd, this.guestFd, 0, 0, 0, POLLIN, 0, kind);
      this.polling = true;
    }
    const again = turns.againRequested || this.guestReady;
    turns.againRequested = false;
    let timeoutUs = 0;
    const nowUs = this.clock.nowUs();
    this.noteTurn(this.clock.looksAgain(nowUs));
    if (!again) {
      timeoutUs = this.guestEveryUs;
      const timerUs = this.timers.nextDueUs() - nowUs;
      if (timerUs < timeoutUs) timeoutUs = timerUs > 0 ? timerUs : 0;
    }
    if (timeoutUs > 0 && !this.mailbox.prepareToSleep()) timeoutUs = 0;
    if (timeoutUs > 0 && this.spinUs > 0 && this.spin(nowUs, timeoutUs)) timeoutUs = -1;
    if (timeoutUs >= 0) this.ring.enter(timeoutUs);
    this.stats.systemCalls = this.ring.enters;
    if (timeoutUs !== 0) this.mailbox.wokeUp();
    if (timeoutUs > 0) this.stats.blocks += 1;
  }

  /** Look for completions without blocking; true when there are some. */
  private spin(nowUs: number, timeoutUs: number): boolean {
    if (this.spinMisses >= SPIN_MISSES_MAX && (this.stats.blocks & SPIN_RETRY_MASK) !== 0) {
      return false;
    }
    const endUs = nowUs + (timeoutUs < this.spinUs ? timeoutUs : this.spinUs);
    do {
      this.ring.enter(0);
      if (this.ring.ready) {
        this.spinMisses = 0;
        return true;
      }
    } while (this.clock.nowUs() < endUs);
    this.spinMisses += 1;
    return false;
  }

  /** How often the guest gets a turn, and how long a block lasts at most. */
  private get guestEveryUs(): number {
    if (this.guestFd < 0) return BLIND_BLOCK_US;
    return this.holds > 0 ? GUEST_BLOCK_US : IDLE_BLOCK_US;
  }
}

/** cold: once. Make a world on io_uring for the calling thread; throws `UringUnavailable` where it is not. */
export function createUringWorld(options: UringOptions): UringWorld {
  return new UringWorld(options);
}
