import { drainMicrotasks } from "bun:jsc";
import { mapMemory, type MappedMemory, releasePages } from "../../ffi/libc/libc.ts";
import { BunDisks } from "./bun-disk.ts";
import { BunNetwork } from "./bun-network.ts";
import {
  SystemChecksum,
  SystemCiphers,
  SystemClock,
  SystemRandom,
  throwUncaught,
} from "./bun-system.ts";
import { type ChannelReceiver, Mailbox, type ShardChannel, type ShardMail } from "./channel.ts";
import { ReactorBase, type RunnableWorld, type WorldOptions } from "./reactor-base.ts";
import type { Backend } from "./world.ts";

/**
 * The portable reactor: the runtime's own event loop carries everything, turns are taken in it
 * when something happened. For systems that forbid io_uring, and for processes that have hardly
 * any I/O (mon, the main thread of an osd).
 */
export class BunWorld extends ReactorBase implements RunnableWorld, ShardMail {
  readonly backend: Backend = "file";
  readonly disks: BunDisks;
  readonly network: BunNetwork;
  readonly mail: ShardMail = this;
  private readonly mailbox = new Mailbox();
  private readonly bells = new Map<number, BroadcastChannel>();
  private readonly mapped: MappedMemory;
  private readonly onFatal: (error: unknown) => void;
  private running = false;
  private stopped = false;
  private scheduled = false;
  private sleeper: ReturnType<typeof setTimeout> | undefined;
  private sleepUntilUs = Number.POSITIVE_INFINITY;

  constructor(options: WorldOptions) {
    const mapped = mapMemory(options.arenaBytes);
    super({
      options,
      memory: mapped.buffer,
      clock: new SystemClock(),
      random: new SystemRandom(),
      checksum: new SystemChecksum(),
      ciphers: new SystemCiphers(),
    });
    this.mapped = mapped;
    this.onFatal = options.onFatal ?? throwUncaught;
    const requestTurn = (): void => this.requestTurn();
    this.disks = new BunDisks({ arenaBytes: this.arena.bytes, requestTurn });
    this.network = new BunNetwork(this);
    this.turns.wake = requestTurn;
    this.clock.wake = (): void => this.sleep();
  }

  start(): void {
    if (this.running || this.stopped) return;
    this.running = true;
    this.scheduled = false;
    this.requestTurn();
  }

  async stop(): Promise<void> {
    if (this.stopped) return;
    this.stopped = true;
    this.running = false;
    clearTimeout(this.sleeper);
    for (const bell of this.bells.values()) bell.close();
    this.network.closeAll();
    await this.disks.closeAll();
    releasePages(this.mapped.address, this.mapped.buffer.byteLength);
  }

  /** The runtime's loop is the host here: it always has its turns. */
  holdGuest(): void {}

  releaseGuest(): void {}

  receive(channel: ShardChannel, receiver: ChannelReceiver): void {
    this.mailbox.add(channel, receiver);
    this.bellOf(channel).onmessage = (): void => this.requestTurn();
    this.requestTurn();
  }

  publish(channel: ShardChannel): void {
    if (channel.commit()) this.bellOf(channel).postMessage(0);
  }

  /** Wakes the thread at the other end. */
  private bellOf(channel: ShardChannel): BroadcastChannel {
    let bell = this.bells.get(channel.identity);
    if (bell === undefined) {
      bell = new BroadcastChannel(`fastblock-channel-${channel.identity}`);
      this.bells.set(channel.identity, bell);
    }
    return bell;
  }

  fail(error: unknown): void {
    if (this.hasFailed) return;
    this.hasFailed = true;
    this.running = false;
    this.onFatal(error);
  }

  private requestTurn(): void {
    if (!this.running || this.scheduled) return;
    this.scheduled = true;
    setImmediate(() => this.takeTurn());
  }

  private takeTurn(): void {
    this.scheduled = false;
    if (!this.running) return;
    try {
      this.turn();
    } catch (error) {
      this.fail(error);
    }
    if (!this.running) return;
    if (this.turns.againRequested || !this.mailbox.prepareToSleep()) this.requestTurn();
    else this.sleep();
  }

  private turn(): void {
    const { clock, stats } = this;
    this.turns.againRequested = false;
    clock.begin();
    stats.turns += 1;
    this.mailbox.wokeUp();
    stats.completions += this.disks.complete() + this.network.deliver() + this.mailbox.drain();
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
    this.noteTurn(clock.looksAgain(clock.nowUs()));
  }

  /** Be woken for the next timer. */
  private sleep(): void {
    if (!this.running || this.scheduled) return;
    const dueUs = this.timers.nextDueUs();
    if (dueUs === this.sleepUntilUs) return;
    clearTimeout(this.sleeper);
    this.sleepUntilUs = dueUs;
    if (dueUs === Number.POSITIVE_INFINITY) return;
    const delayMs = Math.max(0, Math.ceil((dueUs - this.clock.nowUs()) / 1000));
    this.sleeper = setTimeout(() => {
      this.sleepUntilUs = Number.POSITIVE_INFINITY;
      this.requestTurn();
    }, delayMs);
  }
}

/** Make a world on the runtime's own files and sockets, for the calling thread. */
export function createBunWorld(options: WorldOptions): BunWorld {
  return new BunWorld(options);
}
