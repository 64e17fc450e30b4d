// data path
import { assert } from "../base/assert.ts";
import { Status } from "../base/status.ts";
import type { Address, Stream } from "../reactor/world.ts";
import {
  type Admission,
  type ConnectionHandler,
  type ConnectionOwner,
  ConnectionState,
  PING_INTERVAL_US,
  SILENCE_LIMIT_US,
  SWEEP_INTERVAL_US,
  type WritableWaiter,
} from "./connection-types.ts";
import {
  DATA_LIMITS,
  FLAG_ENCRYPTED,
  FLAG_PAYLOAD_CRC,
  FRAME_VERSION_SHORT,
  Frame,
  FrameFault,
  FrameKind,
  type FrameLimits,
  faultName,
  HANDSHAKE_LIMITS,
  isShort,
  isZero,
  PREFIX_SIZE,
  padded,
  parsePrefix,
  parseShort,
  SHORT_HEADER_SIZE_MAX,
  SHORT_PREFIX_SIZE,
} from "./frame.ts";
import type { Handshake } from "./handshake.ts";
import { Link } from "./link.ts";
import type { RpcReceiver } from "./peer.ts";
import { PendingTable } from "./pending.ts";
import type { RequestOp } from "./request.ts";
import { FrameSealing } from "./sealing.ts";
import { WaiterQueue } from "./waiters.ts";

/**
 * One connection: dialled (it comes back by itself) or accepted.
 *
 * Frames are built in place: `begin…` reserves space and answers the arena offset of the header;
 * fill header (and payload at `payloadOffset`) and `finish` within the same handler or drain. A
 * frame that was begun and not finished is dropped by the next `begin…`.
 *
 * Frames arrive in the order of `finish`; replies come in any order. Bounds: `requestsMax` own
 * requests wait, `servingMax` of the peer's are served (then receiving pauses), unsent bytes are
 * bounded by the stream. Data requests go from the dialler to the acceptor only: two ends that
 * each wait for the other to read would wait forever.
 */
export class Connection extends Link {
  /** For the use of the owner. */
  context: unknown = null;
  /** Null until an accepted connection is admitted. */
  handler: ConnectionHandler | null;
  /** Why the last `begin…` answered -1: Busy (`onWritable` follows), Unreachable, or Invalid (the
   * peer never takes a frame of this size). */
  refusal: Status = Status.Ok;
  /** Arena offset of the payload of the frame that was begun last; a multiple of 8. */
  payloadOffset = 0;
  /** Requests of the peer that were delivered and not answered. */
  serving = 0;
  /** Replies whose request had timed out or was cancelled. */
  lateReplies = 0;

  private readonly admission: Admission | null;
  private readonly pending: PendingTable;
  private readonly incoming: Frame = new Frame();
  private readonly outgoing: Frame = new Frame();
  private begun = -1;
  private begunOp: RequestOp | null = null;
  private begunTimeoutUs = 0;
  private readonly sendSealing: FrameSealing = new FrameSealing();
  private readonly receiveSealing: FrameSealing = new FrameSealing();
  private sendLimits: Readonly<FrameLimits> = DATA_LIMITS;
  /** Both ends know short frames. */
  private takesShort = false;
  private pausedByOwner = false;
  private pausedByLoad = false;
  private starvedOfSpace = false;
  private starvedOfRows = false;
  private blockedSinceUs = 0;
  private readonly waiters: WaiterQueue = new WaiterQueue();
  private sentUs = 0;
  private heardUs = 0;

  /** By the endpoint: target, receiver and handler for a dialled one, admission for an accepted. */
  constructor(
    owner: ConnectionOwner,
    target: Address | null,
    receiver: RpcReceiver | null,
    handler: ConnectionHandler | null,
    admission: Admission | null,
  ) {
    super(owner, target, receiver);
    this.handler = handler;
    this.admission = admission;
    this.pending = new PendingTable(owner.requestsMax);
  }

  /** Own requests that wait for replies. */
  get waiting(): number {
    return this.pending.waiting;
  }

  /** µs since the last whole frame came in; 0: nobody listens now. */
  get silentUs(): number {
    if (this.pausedByOwner || this.pausedByLoad) return 0;
    return this.world.clock.turnUs - this.heardUs;
  }

  /** What both ends send now is encrypted. */
  get isEncrypted(): boolean {
    return this.sendSealing.isEncrypting;
  }

  /** Bytes that the kernel has not taken. */
  get unsentBytes(): number {
    return this.stream === null ? 0 : this.stream.unsentBytes;
  }

  /* ---------------------------------------------------------------- sending */

  /**
   * Start a request: `op.onReply` or `op.onFail` follows once it is finished.
   *
   * `timeoutUs` 0: no limit (kept to within 50 ms). Answers the arena offset of the header, or -1:
   * see `refusal`.
   */
  beginRequest(
    op: RequestOp,
    method: number,
    headerBytes: number,
    payloadBytes: number,
    timeoutUs: number,
  ): number {
    if (this.stage === ConnectionState.Open && this.pending.isFull) {
      this.starvedOfRows = true;
      this.refusal = Status.Busy;
      return -1;
    }
    const at = this.begin(FrameKind.Request, method, headerBytes, payloadBytes, PREFIX_SIZE);
    if (at < 0) return -1;
    this.outgoing.requestId = this.pending.nextId();
    this.begunOp = op;
    this.begunTimeoutUs = timeoutUs;
    return at;
  }

  /** Start the answer to a request that `onRequest` delivered. -1: wait, and try again. */
  beginReply(requestId: number, method: number, headerBytes: number, payloadBytes: number): number {
    if (this.serving === 0) {
      this.refusal = Status.Unreachable;
      return -1;
    }
    const at = this.begin(FrameKind.Reply, method, headerBytes, payloadBytes, PREFIX_SIZE);
    this.outgoing.requestId = requestId;
    return at;
  }

  /** Start a frame that has no answer. */
  beginOneway(method: number, headerBytes: number, payloadBytes: number): number {
    return this.begin(FrameKind.Oneway, method, headerBytes, payloadBytes, PREFIX_SIZE);
  }

  /** The same of a small frame that is sent however idle both ends are: short, if the peer knows that. */
  beginShort(method: number, headerBytes: number): number {
    assert(headerBytes <= SHORT_HEADER_SIZE_MAX, "Connection.beginShort: too long");
    const prefixBytes = this.takesShort ? SHORT_PREFIX_SIZE : PREFIX_SIZE;
    return this.begin(FrameKind.Oneway, method, headerBytes, 0, prefixBytes);
  }

  /**
   * Tell in the reply's prefix why the rpc layer did not execute a request. `finish` follows.
   * For statuses of the data path use the reply message's own field.
   */
  beginRefusal(requestId: number, method: number, status: Status, headerBytes: number): number {
    const at = this.beginReply(requestId, method, headerBytes, 0);
    this.outgoing.status = status;
    return at;
  }

  /** `beginRefusal` without a header, and `finish`. False: wait, and try again. */
  refuse(requestId: number, method: number, status: Status): boolean {
    if (this.beginRefusal(requestId, method, status, 0) < 0) return false;
    this.finish();
    return true;
  }

  /** Sign or encrypt, and hand over, the frame that was begun last: its content is gone then. */
  finish(): void {
    const frame = this.outgoing;
    const stream = this.stream;
    assert(this.begun >= 0, "Connection.finish: nothing was begun");
    assert(stream !== null, "Connection.finish: no stream");
    if ((frame.flags & FLAG_PAYLOAD_CRC) !== 0) frame.payloadCrc = this.payloadCrcOf(frame);
    this.sendSealing.seal(frame, this.world.arena.words, this.begun);
    stream.commit(frame.sizeBytes);
    this.begun = -1;
    this.sentUs = this.world.clock.turnUs;
    if (frame.kind === FrameKind.Request) this.enterRequest(frame.requestId);
    else if (frame.kind === FrameKind.Reply) this.leaveServing();
  }

  /** Stop waiting for the reply: `onFail(Cancelled)` now. The peer may still execute it. */
  cancel(op: RequestOp): void {
    if (op.rpcRequestId !== 0 && this.pending.take(op.rpcRequestId) === op) {
      op.onFail(Status.Cancelled);
    }
  }

  /** Call `waiter.onWritable` once when there is space, first come first served. Requires Busy. */
  wait(waiter: WritableWaiter): void {
    assert(this.stage === ConnectionState.Open, "Connection.wait: not open");
    this.waiters.push(waiter);
  }

  /** Deliver nothing more, and let the peer feel it, until `resume`. */
  pause(): void {
    this.pausedByOwner = true;
    this.applyPause();
  }

  resume(): void {
    this.pausedByOwner = false;
    this.applyPause();
  }

  private begin(
    kind: FrameKind,
    method: number,
    headerBytes: number,
    payloadBytes: number,
    prefixBytes: number,
  ): number {
    this.begun = -1;
    this.begunOp = null;
    const stream = this.stream;
    if (this.stage !== ConnectionState.Open || stream === null) {
      this.refusal = Status.Unreachable;
      return -1;
    }
    if (headerBytes > this.sendLimits.headerBytes || payloadBytes > this.sendLimits.payloadBytes) {
      this.refusal = Status.Invalid;
      return -1;
    }
    const size = prefixBytes + padded(headerBytes) + padded(payloadBytes);
    const at = stream.reserve(size);
    if (at < 0) {
      this.refusal = Status.Busy;
      this.starvedOfSpace = true;
      if (this.blockedSinceUs === 0) this.blockedSinceUs = this.world.clock.turnUs;
      return -1;
    }
    const frame = this.outgoing;
    frame.kind = kind;
    frame.method = method;
    frame.status = Status.Ok;
    frame.requestId = 0;
    frame.flags = (payloadBytes & 4095) === 0 ? 0 : FLAG_PAYLOAD_CRC;
    if (this.sendSealing.isEncrypting && prefixBytes === PREFIX_SIZE) frame.flags = FLAG_ENCRYPTED;
    frame.headerSize = headerBytes;
    frame.payloadSize = payloadBytes;
    frame.payloadCrc = 0;
    frame.sizeBytes = size;
    frame.prefixSize = prefixBytes;
    frame.headerOffset = at + prefixBytes;
    frame.payloadOffset = frame.headerOffset + padded(headerBytes);
    this.payloadOffset = frame.payloadOffset;
    this.begun = at;
    this.zeroPadding(frame.headerOffset, headerBytes);
    this.zeroPadding(frame.payloadOffset, payloadBytes);
    return frame.headerOffset;
  }

  /** Zero the last 8 bytes of an area that does not fill them. Its content comes afterwards. */
  private zeroPadding(offset: number, sizeBytes: number): void {
    if ((sizeBytes & 7) === 0) return;
    const last = (offset + padded(sizeBytes) - 8) >>> 2;
    this.world.arena.words[last] = 0;
    this.world.arena.words[last + 1] = 0;
  }

  private enterRequest(requestId: number): void {
    const op = this.begunOp;
    assert(op !== null, "Connection.finish: a request has an op");
    this.begunOp = null;
    op.rpcSentUs = this.sentUs;
    op.rpcDueUs = this.begunTimeoutUs > 0 ? this.sentUs + this.begunTimeoutUs : 0;
    this.pending.add(op);
    assert(op.rpcRequestId === requestId, "Connection.finish: request id changed");
    if (op.rpcDueUs > 0) this.sweepBy(op.rpcDueUs);
  }

  private leaveServing(): void {
    this.serving -= 1;
    if (this.pausedByLoad && this.serving <= this.owner.servingMax >>> 1) {
      this.pausedByLoad = false;
      this.applyPause();
    }
  }

  /* -------------------------------------------------------------- receiving */

  /** Deliver what lies in the receive buffer. */
  onReceive(_stream: Stream): void {
    const words = this.world.arena.words;
    while (this.isReceiving()) {
      const stream: Stream = this.stream!;
      const available = stream.receiveLength;
      if (available < SHORT_PREFIX_SIZE) return;
      const short = this.takesShort && isShort(words, stream.receiveOffset);
      if (!short && available < PREFIX_SIZE) return;
      const frame = this.incoming;
      const greeting = this.greeting;
      const limits = greeting === null ? this.owner.limits : HANDSHAKE_LIMITS;
      let fault = short
        ? parseShort(frame, words, stream.receiveOffset, limits)
        : parsePrefix(frame, words, stream.receiveOffset, limits);
      if (fault === FrameFault.None) {
        if (available < frame.sizeBytes) return;
        fault = greeting === null ? this.deliver(frame) : this.greet(greeting, frame);
      }
      if (fault !== FrameFault.None) {
        this.fail("malformed frame", faultName(fault));
        return;
      }
      if (this.stream !== stream || this.stage === ConnectionState.Closing) return;
      stream.consume(frame.sizeBytes);
      // Whole frames count: bytes that never make one are silence.
      this.heardUs = this.world.clock.turnUs;
    }
  }

  private isReceiving(): boolean {
    const live = this.stage === ConnectionState.Open || this.stage === ConnectionState.Handshake;
    return live && this.stream !== null && !this.pausedByOwner && !this.pausedByLoad;
  }

  private deliver(frame: Frame): FrameFault {
    const fault = this.receiveSealing.open(frame, this.world.arena.words);
    if (fault !== FrameFault.None) return fault;
    if ((frame.flags & FLAG_PAYLOAD_CRC) !== 0) {
      const padding = padded(frame.payloadSize) - frame.payloadSize;
      const end = frame.payloadOffset + frame.payloadSize;
      if (!isZero(this.world.arena.bytes, end, padding)) return FrameFault.Reserved;
      if (this.payloadCrcOf(frame) !== frame.payloadCrc) return FrameFault.PayloadCrc;
    }
    switch (frame.kind) {
      case FrameKind.Request:
        return this.deliverRequest(frame);
      case FrameKind.Reply:
        return this.deliverReply(frame);
      case FrameKind.Oneway:
        if (frame.requestId !== 0) return FrameFault.RequestId;
        this.handler!.onOneway(this, frame);
        return FrameFault.None;
      case FrameKind.Ping:
        return frame.headerSize + frame.payloadSize === 0 ? FrameFault.None : FrameFault.HeaderSize;
      case FrameKind.Handshake:
        return FrameFault.Kind;
    }
  }

  private deliverRequest(frame: Frame): FrameFault {
    if (frame.requestId === 0) return FrameFault.RequestId;
    this.serving += 1;
    this.handler!.onRequest(this, frame);
    if (this.serving >= this.owner.servingMax && this.stage === ConnectionState.Open) {
      this.pausedByLoad = true;
      this.applyPause();
    }
    return FrameFault.None;
  }

  private deliverReply(frame: Frame): FrameFault {
    const op = this.pending.take(frame.requestId);
    if (op === null) {
      if (!this.pending.wasGiven(frame.requestId)) return FrameFault.RequestId;
      this.lateReplies += 1;
      return FrameFault.None;
    }
    if (frame.status === Status.Ok) op.onReply(frame);
    else op.onRefused(frame);
    if (this.starvedOfRows) this.writable();
    return FrameFault.None;
  }

  // cold: bodies of a few kilobytes, never blocks.
  private payloadCrcOf(frame: Frame): number {
    const end = frame.payloadOffset + frame.payloadSize;
    const bytes = this.world.arena.bytes.subarray(frame.payloadOffset, end);
    return this.world.checksum.crc32(bytes, 0);
  }

  private applyPause(): void {
    const stream = this.stream;
    if (stream === null) return;
    // Bytes that came before the pause are delivered again after `resume`.
    if (this.pausedByOwner || this.pausedByLoad) stream.pause();
    else stream.resume();
  }

  onWritable(_stream: Stream): void {
    this.writable();
  }

  private writable(): void {
    this.starvedOfSpace = false;
    this.starvedOfRows = false;
    this.blockedSinceUs = 0;
    while (!this.starvedOfSpace && !this.starvedOfRows) {
      const waiter = this.waiters.pop();
      if (waiter === null) break;
      waiter.onWritable(this);
    }
    if (this.starvedOfSpace || this.starvedOfRows) return;
    if (this.stage === ConnectionState.Open) this.handler!.onWritable(this);
  }

  /* -------------------------------------------------------------- life cycle */

  protected admit(handshake: Handshake): boolean {
    this.sendLimits = handshake.peerLimits;
    this.takesShort = handshake.version >= FRAME_VERSION_SHORT;
    const { ciphers, arena } = this.world;
    const { sendKey, receiveKey, keyId, sendCipherKey, receiveCipherKey, isEncrypted } = handshake;
    const seal = isEncrypted ? ciphers.create(arena.bytes, sendCipherKey, "seal") : null;
    const open = isEncrypted ? ciphers.create(arena.bytes, receiveCipherKey, "open") : null;
    this.sendSealing.reset(sendKey, keyId, seal);
    this.receiveSealing.reset(receiveKey, keyId, open);
    this.sentUs = this.world.clock.turnUs;
    this.heardUs = this.sentUs;
    this.world.timers.armPeriod(this, PING_INTERVAL_US);
    if (this.admission !== null) this.handler = this.admission(this);
    return this.handler !== null;
  }

  protected announce(): void {
    this.handler!.onOpen(this);
  }

  protected release(reason: string, opened: boolean): void {
    this.begun = -1;
    this.sendSealing.end();
    this.receiveSealing.end();
    this.takesShort = false;
    this.serving = 0;
    this.pausedByOwner = false;
    this.pausedByLoad = false;
    this.starvedOfSpace = false;
    this.starvedOfRows = false;
    this.blockedSinceUs = 0;
    this.pending.failAll(Status.Unreachable);
    this.waiters.callAll(this);
    if (this.handler !== null) this.handler.onClose(this, reason, opened);
  }

  /** Time limits of requests, and signs of life. */
  protected sweep(): void {
    const nowUs = this.world.clock.turnUs;
    // First: what fails may ask again, under a limit that ends before.
    this.world.timers.armPeriod(this, PING_INTERVAL_US);
    const dueUs = this.pending.expire(nowUs);
    if (this.stage !== ConnectionState.Open) return;
    if (this.silentUs > SILENCE_LIMIT_US) {
      this.fail("peer is silent for 15 s", "");
      return;
    }
    if (this.blockedSinceUs > 0 && nowUs - this.blockedSinceUs > SILENCE_LIMIT_US) {
      this.fail("peer takes nothing for 15 s", "");
      return;
    }
    if (this.sendSealing.isUsedUp) {
      this.fail("the key was used for its most blocks", "");
      return;
    }
    if (nowUs - this.sentUs > PING_INTERVAL_US / 2) this.ping();
    this.sweepBy(dueUs);
  }

  private ping(): void {
    if (this.begin(FrameKind.Ping, 0, 0, 0, PREFIX_SIZE) >= 0) this.finish();
  }

  /** Look at the time limits when this one ends, unless that is done before. */
  private sweepBy(dueUs: number): void {
    if (dueUs >= this.timerDueUs) return;
    const delayUs = dueUs - this.world.clock.turnUs;
    this.world.timers.arm(this, delayUs < SWEEP_INTERVAL_US ? SWEEP_INTERVAL_US : delayUs);
  }
}
