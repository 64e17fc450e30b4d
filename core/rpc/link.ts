// cold: the life of a connection
import { assert, failOnBug } from "../base/assert.ts";
import {
  type Address,
  type Stream,
  type StreamHandler,
  Timer,
  type World,
} from "../reactor/world.ts";
import {
  CONNECT_LIMIT_US,
  type ConnectionOwner,
  ConnectionState,
  HANDSHAKE_LIMIT_US,
} from "./connection-types.ts";
import { type Frame, FrameFault } from "./frame.ts";
import { Greeting } from "./greeting.ts";
import type { Handshake } from "./handshake.ts";
import type { RpcPeer, RpcReceiver } from "./peer.ts";

/**
 * The life of a connection: dial or accept, handshake, end, dial again.
 *
 * ```
 * Waiting ──▶ Connecting ──▶ Handshake ──▶ Open ──▶ Closing ──▶ (dialled) Waiting
 *    ▲             │              │          │          └─────▶ (accepted, or closed) Closed
 *    └─────────────┴──────────────┴──────────┘
 * ```
 *
 * Invariants: `stream` is null in Waiting and Closed; there is one stream at a time: the next is
 * made after `onClose` of the one before; one timer serves the pause before an attempt, the limit
 * of the handshake, and the sweeps of the open connection, which never overlap.
 */
export abstract class Link extends Timer implements StreamHandler {
  /** Who the peer proved to be; null before the first `onOpen`. */
  peer: RpcPeer | null = null;
  /** Why the handshake of the last attempt was refused, by either end; empty when it was not. */
  handshakeRefusal = "";
  /** Grows with each `onOpen`: an answer to a request of an earlier one must not be sent. */
  generation = 0;

  protected readonly owner: ConnectionOwner;
  protected readonly world: World;
  protected stream: Stream | null = null;
  protected stage: ConnectionState = ConnectionState.Waiting;
  protected greeting: Greeting | null = null;
  private readonly target: Address | null;
  private readonly receiver: RpcReceiver | null;
  private attempts = 0;
  private closeWanted = false;
  private dialFault = "";
  /** The owner heard of the present stream. */
  private opened = false;
  private proved = false;

  constructor(owner: ConnectionOwner, target: Address | null, receiver: RpcReceiver | null) {
    super();
    this.owner = owner;
    this.world = owner.world;
    this.target = target;
    this.receiver = receiver;
  }

  get state(): ConnectionState {
    return this.stage;
  }

  get isOpen(): boolean {
    return this.stage === ConnectionState.Open;
  }

  get isDialled(): boolean {
    return this.target !== null;
  }

  /** The peer of this connection has proved the key, now or earlier. */
  get hasProved(): boolean {
    return this.proved;
  }

  /** `127.0.0.1:4711`, for logs. */
  get address(): string {
    if (this.stream !== null) return this.stream.peer;
    return this.target === null ? "" : describeAddress(this.target);
  }

  /** Take the keys and say hello to the owner; false when the owner does not want the peer. */
  protected abstract admit(handshake: Handshake): boolean;
  /** The connection is open: tell the owner. */
  protected abstract announce(): void;
  /** The stream is over: fail what waits, tell the owner. */
  protected abstract release(reason: string, opened: boolean): void;
  /** The timer of an open connection. */
  protected abstract sweep(): void;
  abstract onReceive(stream: Stream): void;
  abstract onWritable(stream: Stream): void;

  /** By the endpoint: dial for the first time. */
  start(): void {
    assert(this.target !== null, "Link.start: not dialled");
    this.dial();
  }

  /** By the endpoint: a stream came in. Without room for it, it ends at once. */
  accept(stream: Stream, hasRoom: boolean): void {
    assert(this.target === null, "Link.accept: dialled");
    this.stream = stream;
    this.startGreeting(stream);
    if (hasRoom) this.world.timers.arm(this, HANDSHAKE_LIMIT_US);
    else this.fail("too many connections", "");
  }

  /** The peer is there, as it showed elsewhere: do not wait for the next attempt, dial now. */
  hurry(): void {
    if (this.stage !== ConnectionState.Waiting || this.closeWanted || this.target === null) return;
    this.world.timers.disarm(this);
    this.attempts = 0;
    this.dial();
  }

  /** Nothing comes back over the open stream: dial another one. What waits for answers fails. */
  renew(reason: string): void {
    if (this.stage === ConnectionState.Open) this.endStream(reason, false);
  }

  /** End the connection for good; what is sent already still goes out. `onClose` follows. */
  close(reason: string): void {
    if (this.closeWanted || this.stage === ConnectionState.Closed) return;
    this.closeWanted = true;
    if (this.stream !== null) this.endStream(reason, true);
    else this.becomeGone();
  }

  onOpen(stream: Stream): void {
    // Given up meanwhile.
    if (this.stage !== ConnectionState.Connecting) return;
    this.stream = stream;
    this.startGreeting(stream);
    this.world.timers.arm(this, HANDSHAKE_LIMIT_US);
    this.greeting!.hello();
  }

  onClose(stream: Stream, reason: string): void {
    if (this.stream === stream) this.ended(reason);
  }

  onTimer(): void {
    switch (this.stage) {
      case ConnectionState.Waiting:
        this.dial();
        return;
      case ConnectionState.Connecting:
        if (this.stream === null) this.ended(this.dialFault);
        else this.endStream("no answer within 1 s", false);
        return;
      case ConnectionState.Handshake:
        this.fail("no handshake within 3 s", "");
        return;
      case ConnectionState.Open:
        this.sweep();
        return;
      case ConnectionState.Closing:
      case ConnectionState.Closed:
        return;
    }
  }

  /** Take in a frame of the handshake. */
  protected greet(greeting: Greeting, frame: Frame): FrameFault {
    const fault = greeting.onFrame(frame);
    if (fault !== FrameFault.None) return fault;
    if (greeting.refusal !== "") {
      const fields = { peer: this.address, reason: greeting.refusal };
      this.owner.logger.warn("connection refused", fields);
      this.handshakeRefusal = greeting.refusal;
      this.endStream(greeting.refusal, true);
    } else if (greeting.handshake.isDone) {
      this.becomeOpen(greeting.handshake);
    }
    return FrameFault.None;
  }

  /** End the stream at once, and say why in the log. */
  protected fail(what: string, detail: string): void {
    const reason = detail === "" ? what : `${what}: ${detail}`;
    const fields = { peer: this.address, name: this.peer?.name, reason };
    this.owner.logger.warn("connection closed", fields);
    this.endStream(reason, false);
  }

  private dial(): void {
    this.stage = ConnectionState.Connecting;
    this.dialFault = "";
    this.handshakeRefusal = "";
    try {
      this.stream = this.world.network.connect(this.target!, this, this.owner.streamOptions);
      this.world.timers.arm(this, CONNECT_LIMIT_US);
    } catch (error) {
      if (failOnBug(this.world, error)) return;
      // Told in a turn to come, as every other failure is.
      this.dialFault = String(error);
      this.world.timers.arm(this, 0);
    }
  }

  private startGreeting(stream: Stream): void {
    this.stage = ConnectionState.Handshake;
    this.greeting = new Greeting(this.world.arena, stream, this.owner.handshake, this.receiver);
  }

  private becomeOpen(handshake: Handshake): void {
    this.greeting = null;
    this.peer = handshake.peer;
    this.generation += 1;
    this.attempts = 0;
    if (!this.proved && this.target === null) this.owner.onProved();
    this.proved = true;
    if (!this.admit(handshake)) {
      this.fail("not admitted", "");
      return;
    }
    this.stage = ConnectionState.Open;
    this.opened = true;
    this.announce();
  }

  private ended(reason: string): void {
    const opened = this.opened;
    this.stream = null;
    this.greeting = null;
    this.opened = false;
    this.stage = ConnectionState.Waiting;
    this.world.timers.disarm(this);
    this.release(reason, opened);
    if (this.target === null || this.closeWanted) this.becomeGone();
    else this.scheduleDial(this.target, reason, opened);
  }

  /** Try again after 1, 2, 4 … times the shortest pause, half of it drawn by lot. */
  private scheduleDial(target: Address, reason: string, opened: boolean): void {
    const { minUs, maxUs } = this.owner.backoff;
    const ceiling = Math.min(maxUs, minUs * 2 ** Math.min(this.attempts, 20));
    const delayUs = ceiling / 2 + this.world.random.below(Math.floor(ceiling / 2) + 1);
    const fields = { peer: describeAddress(target), reason };
    // An absent peer is told once, not once an attempt.
    if (opened || this.attempts === 0) this.owner.logger.info("connection lost, dialling", fields);
    else this.owner.logger.debug("dialling failed", fields);
    this.attempts += 1;
    this.world.timers.arm(this, delayUs);
  }

  private becomeGone(): void {
    if (this.stage === ConnectionState.Closed) return;
    this.stage = ConnectionState.Closed;
    this.world.timers.disarm(this);
    this.owner.onGone(this);
  }

  private endStream(reason: string, flush: boolean): void {
    const stream = this.stream;
    if (stream === null || this.stage === ConnectionState.Closing) return;
    this.stage = ConnectionState.Closing;
    this.world.timers.disarm(this);
    stream.close(reason, flush);
  }
}

function describeAddress(address: Address): string {
  return address.kind === "tcp" ? `${address.host}:${address.port}` : address.path;
}
