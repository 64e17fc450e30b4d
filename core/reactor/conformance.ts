// cold: the suite that every implementation of a seam passes
import { Status } from "../base/status.ts";
import type { RunnableWorld } from "./reactor-base.ts";
import {
  type Acceptor,
  type Address,
  type Disk,
  DiskOp,
  DiskVerb,
  type Stream,
  type StreamHandler,
  type StreamOptions,
  Timer,
} from "./world.ts";

/**
 * One suite per seam: clock and timers, turns, disk, network, randomness. A case gets a harness and throws
 * when the implementation does something else than `world.ts` says.
 */
export interface Harness {
  /** Started. */
  readonly world: RunnableWorld;
  /** Another process in the simulator, the same world elsewhere. Started. */
  readonly other: RunnableWorld;
  /** Go on until the condition holds; throws naming `what` when it does not for long. */
  until(condition: () => boolean, what: string): Promise<void>;
  /** A path for a new device. */
  newPath(): string;
  /** The file at the path ends here from now on, though it was longer when it was opened. */
  shorten(path: string, sizeBytes: number): void;
  /** Where `world` can listen. */
  listenAddresses(): readonly Address[];
  /** An address that nobody listens on. */
  readonly deadAddress: Address;
  /** Bind address for connections of `other`; undefined when the backend has none. */
  readonly otherBind: string | undefined;
}

export interface ConformanceCase {
  readonly name: string;
  run(harness: Harness): Promise<void>;
}

/** Throw unless the condition holds. */
export function check(condition: boolean, text: string): void {
  if (!condition) throw new Error(`conformance: ${text}`);
}

function checkEqual(seen: unknown, wanted: unknown, what: string): void {
  if (seen !== wanted) {
    throw new Error(`conformance: ${what}: ${String(seen)}, wanted ${String(wanted)}`);
  }
}

/* ------------------------------------------------------------------ timers */

class NotingTimer extends Timer {
  fired = 0;
  firedUs = -1;
  private readonly world: RunnableWorld;
  private readonly note: (timer: NotingTimer) => void;

  constructor(world: RunnableWorld, note: (timer: NotingTimer) => void = () => undefined) {
    super();
    this.world = world;
    this.note = note;
  }

  onTimer(): void {
    this.fired += 1;
    this.firedUs = this.world.clock.turnUs;
    this.note(this);
  }
}

async function timersFireInOrder(harness: Harness): Promise<void> {
  const { world } = harness;
  const order: number[] = [];
  const delaysMs = [40, 3, 270, 12, 3, 0, 90];
  const timers = delaysMs.map((ms) => new NotingTimer(world, () => order.push(ms)));
  // Within one turn, so that all delays count from the same moment.
  const start = new NotingTimer(world, () => {
    delaysMs.forEach((ms, at) => world.timers.arm(timers[at]!, ms * 1000));
  });
  world.timers.arm(start, 0);
  await harness.until(() => order.length === delaysMs.length, "all timers");
  const sorted = [...delaysMs].sort((a, b) => a - b);
  checkEqual(order.join(" "), sorted.join(" "), "order of timers");
  timers.forEach((timer, at) => {
    checkEqual(timer.fired, 1, "times that a timer fired");
    check(timer.firedUs - start.firedUs >= delaysMs[at]! * 1000, "a timer fired early");
    checkEqual(timer.timerDueUs, -1, "due time of an idle timer");
  });
}

async function timersDisarmAndRearm(harness: Harness): Promise<void> {
  const { world } = harness;
  const never = new NotingTimer(world);
  const moved = new NotingTimer(world);
  const victim = new NotingTimer(world);
  const killer = new NotingTimer(world, () => world.timers.disarm(victim));
  const periodic: NotingTimer = new NotingTimer(world, () => {
    if (periodic.fired < 5) world.timers.arm(periodic, 0);
  });
  const startUs = world.clock.nowUs();
  world.timers.arm(never, 5_000);
  world.timers.disarm(never);
  world.timers.disarm(never);
  world.timers.arm(moved, 5_000);
  world.timers.arm(moved, 30_000);
  world.timers.arm(killer, 10_000);
  world.timers.arm(victim, 11_000);
  world.timers.arm(periodic, 0);
  await harness.until(() => moved.fired === 1 && periodic.fired === 5, "re-armed timers");
  check(moved.firedUs - startUs >= 30_000, "a re-armed timer fired at its first time");
  checkEqual(never.fired, 0, "disarmed timer");
  checkEqual(victim.fired, 0, "timer disarmed by another");
}

async function clockGoesOn(harness: Harness): Promise<void> {
  const { world } = harness;
  const first = world.clock.nowUs();
  const timer = new NotingTimer(world);
  world.timers.arm(timer, 2_000);
  await harness.until(() => timer.fired === 1, "a timer");
  check(world.clock.nowUs() >= first + 2_000, "the clock stood still");
  check(world.clock.turnUs <= world.clock.nowUs(), "the turn's time lies in the future");
  check(world.clock.wallMs() > 1_600_000_000_000, "the wall clock is not of this century");
}

async function drainsRunInOrder(harness: Harness): Promise<void> {
  const { world } = harness;
  const seen: number[] = [];
  let rounds = 0;
  for (const order of [4, 2, 0, 3, 1]) {
    world.turns.addDrain(order, {
      drain() {
        if (rounds >= 3) return;
        seen.push(order);
        if (order !== 4) return;
        rounds += 1;
        world.turns.again();
      },
    });
  }
  const kick = new NotingTimer(world);
  world.timers.arm(kick, 0);
  await harness.until(() => rounds === 3, "three turns");
  checkEqual(seen.join(""), "012340123401234", "order of drains");
}

async function promisesProceed(harness: Harness): Promise<void> {
  const { world } = harness;
  let step = 0;
  const timer = new NotingTimer(world, () => {
    // Ends by setting `step`, for which the case waits.
    void (async (): Promise<void> => {
      for (let at = 0; at < 50; at++) await Promise.resolve();
      step = 1;
    })();
  });
  world.timers.arm(timer, 1_000);
  await harness.until(() => step === 1, "promise jobs begun in a timer");
}

export const TIMER_CASES: readonly ConformanceCase[] = [
  { name: "timers fire once, in order, never early", run: timersFireInOrder },
  { name: "timers are disarmed and re-armed, by others too", run: timersDisarmAndRearm },
  { name: "the clock goes on", run: clockGoesOn },
  { name: "drains run in their order in every turn", run: drainsRunInOrder },
  { name: "promise jobs proceed", run: promisesProceed },
];

/* -------------------------------------------------------------------- disk */

class NotingOp extends DiskOp {
  done = 0;

  onDone(): void {
    this.done += 1;
  }
}

const MIB = 1_048_576;

/** Fill a range with a pattern that depends on place and stamp. */
export function fillPattern(bytes: Uint8Array, at: number, length: number, stamp: number): void {
  for (let index = 0; index < length; index++) {
    bytes[at + index] = (index * 31 + (index >>> 8) * 7 + stamp * 101) & 0xff;
  }
}

/** True when the range holds the pattern. */
export function hasPattern(bytes: Uint8Array, at: number, length: number, stamp: number): boolean {
  for (let index = 0; index < length; index++) {
    const wanted = (index * 31 + (index >>> 8) * 7 + stamp * 101) & 0xff;
    if (bytes[at + index] !== wanted) return false;
  }
  return true;
}

function newOp(verb: DiskVerb, arenaOffset: number, offset: number, length: number): NotingOp {
  const op = new NotingOp();
  op.verb = verb;
  op.arenaOffset = arenaOffset;
  op.offsetBytes = offset;
  op.lengthBytes = length;
  return op;
}

async function runOp(harness: Harness, disk: Disk, op: NotingOp): Promise<void> {
  disk.submit(op);
  await harness.until(() => op.done > 0, "a disk operation");
  checkEqual(op.done, 1, "completions of one operation");
}

const EIO = 5;

async function diskReadsWhatWasWritten(harness: Harness): Promise<void> {
  const { world } = harness;
  const disk = world.disks.open(harness.newPath(), { createBytes: 4 * MIB });
  checkEqual(disk.sizeBytes, 4 * MIB, "size of the disk");
  const memory = world.arena.allocate(MIB);
  const back = world.arena.allocate(MIB);
  let stamp = 1;
  for (const verb of [DiskVerb.Write, DiskVerb.WriteDurable]) {
    for (const length of [4096, 65_536, MIB]) {
      fillPattern(world.arena.bytes, memory, length, stamp);
      const write = newOp(verb, memory, 2 * MIB, length);
      await runOp(harness, disk, write);
      checkEqual(write.status, Status.Ok, "status of a write");
      const read = newOp(DiskVerb.Read, back, 2 * MIB, length);
      await runOp(harness, disk, read);
      checkEqual(read.status, Status.Ok, "status of a read");
      check(hasPattern(world.arena.bytes, back, length, stamp), "a read saw something else");
      stamp += 1;
    }
  }
  const end = newOp(DiskVerb.Read, back, disk.sizeBytes - 4096, 4096);
  await runOp(harness, disk, end);
  check(world.arena.bytes[back] === 0, "a sparse block is not zero");
  const flush = newOp(DiskVerb.Flush, 0, 0, 0);
  await runOp(harness, disk, flush);
  checkEqual(flush.status, Status.Ok, "status of a flush");
  const discard = newOp(DiskVerb.Discard, 0, 2 * MIB, MIB);
  await runOp(harness, disk, discard);
  checkEqual(discard.status, Status.Ok, "status of a discard");
  checkEqual(disk.inFlight, 0, "operations in flight at the end");
  disk.close();
}

async function diskRunsManyAtOnce(harness: Harness): Promise<void> {
  const { world } = harness;
  const disk = world.disks.open(harness.newPath(), { createBytes: 16 * MIB });
  const count = 3000;
  const memory = world.arena.allocate(64 * 4096);
  for (let at = 0; at < 64; at++) fillPattern(world.arena.bytes, memory + at * 4096, 4096, at);
  const ops: NotingOp[] = [];
  for (let at = 0; at < count; at++) {
    const op = newOp(DiskVerb.Write, memory + (at % 64) * 4096, at * 4096, 4096);
    ops.push(op);
    disk.submit(op);
  }
  checkEqual(disk.inFlight, count, "operations in flight");
  check(
    ops.every((op) => op.done === 0),
    "an operation completed within submit",
  );
  await harness.until(() => ops.every((op) => op.done === 1), "3000 writes");
  check(
    ops.every((op) => op.status === Status.Ok),
    "a write failed",
  );
  const back = world.slots.take(4096);
  check(back >= 0, "no slot");
  for (const block of [0, 63, 64, 1717, count - 1]) {
    await runOp(harness, disk, newOp(DiskVerb.Read, back, block * 4096, 4096));
    check(hasPattern(world.arena.bytes, back, 4096, block % 64), "a block holds another's content");
  }
  world.slots.release(back);
  disk.close();
}

async function diskTellsShortTransfers(harness: Harness): Promise<void> {
  const { world } = harness;
  const path = harness.newPath();
  const disk = world.disks.open(path, { createBytes: 4 * MIB });
  const memory = world.arena.allocate(MIB);
  harness.shorten(path, MIB + 65_536);
  for (const [offset, length, wanted] of [
    [MIB - 4096, 65_536, Status.Ok],
    [MIB, MIB, Status.DeviceFailed],
    [MIB + 61_440, 8192, Status.DeviceFailed],
    [2 * MIB, 4096, Status.DeviceFailed],
  ] as const) {
    const read = newOp(DiskVerb.Read, memory, offset, length);
    await runOp(harness, disk, read);
    checkEqual(read.status, wanted, `status of a read of ${length} at ${offset}`);
    checkEqual(read.errno, wanted === Status.Ok ? 0 : EIO, "errno of a read");
  }
  checkEqual(disk.inFlight, 0, "operations in flight at the end");
  disk.close();
}

async function diskIsExclusive(harness: Harness): Promise<void> {
  const { world } = harness;
  const path = harness.newPath();
  const disk = world.disks.open(path, { createBytes: MIB });
  let code = "";
  try {
    world.disks.open(path, {});
  } catch (error) {
    code = codeOf(error);
  }
  checkEqual(code, "FB4005", "second open of a disk");
  disk.close();
  const again = world.disks.open(path, { createBytes: 2 * MIB });
  checkEqual(again.sizeBytes, MIB, "size after opening an existing disk");
  again.close();
  const reader = world.disks.open(path, { readOnly: true });
  reader.close();
  code = "";
  try {
    world.disks.open(harness.newPath(), {});
  } catch (error) {
    code = codeOf(error);
  }
  checkEqual(code, "FB4011", "open of nothing");
}

function codeOf(error: unknown): string {
  return (error as { readonly code?: string }).code ?? String(error);
}

export const DISK_CASES: readonly ConformanceCase[] = [
  { name: "a read sees what was written", run: diskReadsWhatWasWritten },
  { name: "thousands of operations at once", run: diskRunsManyAtOnce },
  { name: "a short transfer is a failure of the device", run: diskTellsShortTransfers },
  { name: "a disk has one owner", run: diskIsExclusive },
];

/* -------------------------------------------------------------- randomness */

function randomIsRandom({ world, other }: Harness): Promise<void> {
  const { random } = world;
  const seen = new Set<number>();
  let low = 0;
  for (let at = 0; at < 4096; at++) {
    const word = random.u32();
    check(Number.isInteger(word) && word >= 0 && word < 4_294_967_296, "a word out of range");
    if (word < 2_147_483_648) low += 1;
    seen.add(word);
  }
  check(seen.size > 4080, "words repeat");
  check(low > 1700 && low < 2400, "the upper bit is not one of chance");
  for (const bound of [1, 2, 10, 4_294_967_296]) {
    const values = new Set<number>();
    for (let at = 0; at < 500; at++) {
      const value = random.below(bound);
      check(Number.isInteger(value) && value >= 0 && value < bound, "a number past its bound");
      values.add(value);
    }
    check(values.size >= Math.min(bound, 490), "some numbers below the bound never come");
  }
  // Nothing outside of the range, nothing of it left out, also past what is drawn at once.
  const bytes = new Uint8Array(200_000);
  random.fill(bytes.subarray(1, bytes.length - 1));
  checkEqual(bytes[0], 0, "byte in front of the range");
  checkEqual(bytes[bytes.length - 1], 0, "byte behind the range");
  for (let from = 1; from + 1000 < bytes.length; from += 1000) {
    const kinds = new Set(bytes.subarray(from, from + 1000)).size;
    check(kinds > 200, "a part of the range was not filled");
  }
  const again = new Uint8Array(32);
  const elsewhere = new Uint8Array(32);
  random.fill(again);
  other.random.fill(elsewhere);
  check(again.toHex() !== elsewhere.toHex(), "two fills are one");
  return Promise.resolve();
}

export const RANDOM_CASES: readonly ConformanceCase[] = [
  { name: "random numbers keep to their bounds, and differ", run: randomIsRandom },
];

/* ----------------------------------------------------------------- network */

/** Collects what arrives; everything can be overridden by fields. */
export class NotingHandler implements StreamHandler {
  opens = 0;
  writables = 0;
  closes: string[] = [];
  received: number[] = [];
  receivedBytes = 0;
  /** Keep the bytes in `received` (else only count). */
  keep = true;
  /** Leave the bytes where they are. */
  hold = false;
  onReceiveHook: ((stream: Stream) => void) | null = null;
  stream: Stream | null = null;
  private readonly world: RunnableWorld;

  constructor(world: RunnableWorld) {
    this.world = world;
  }

  onOpen(stream: Stream): void {
    this.stream = stream;
    this.opens += 1;
  }

  onReceive(stream: Stream): void {
    if (this.onReceiveHook !== null) this.onReceiveHook(stream);
    if (this.hold) return;
    const length = stream.receiveLength;
    const at = stream.receiveOffset;
    if (this.keep) {
      for (let index = 0; index < length; index++) {
        this.received.push(this.world.arena.bytes[at + index]!);
      }
    }
    this.receivedBytes += length;
    stream.consume(length);
  }

  onWritable(): void {
    this.writables += 1;
  }

  onClose(_stream: Stream, reason: string): void {
    this.closes.push(reason);
  }
}

class NotingAcceptor implements Acceptor {
  readonly handlers: NotingHandler[] = [];
  readonly streams: Stream[] = [];
  private readonly world: RunnableWorld;

  constructor(world: RunnableWorld) {
    this.world = world;
  }

  onAccept(stream: Stream): StreamHandler {
    const handler = new NotingHandler(this.world);
    handler.stream = stream;
    this.handlers.push(handler);
    this.streams.push(stream);
    return handler;
  }
}

/** Send bytes; false when there is no space. */
function sendBytes(world: RunnableWorld, stream: Stream, bytes: Uint8Array): boolean {
  const at = stream.reserve(bytes.length);
  if (at < 0) return false;
  world.arena.bytes.set(bytes, at);
  stream.commit(bytes.length);
  world.turns.again();
  return true;
}

interface Pair {
  readonly client: NotingHandler;
  readonly server: NotingHandler;
  readonly clientStream: Stream;
  readonly serverStream: Stream;
  close(): Promise<void>;
}

async function connectPair(
  harness: Harness,
  address: Address,
  options: StreamOptions = {},
): Promise<Pair> {
  const { world, other } = harness;
  const acceptor = new NotingAcceptor(world);
  const listener = world.network.listen(address, acceptor, options);
  const client = new NotingHandler(other);
  const clientStream = other.network.connect(listener.address, client, options);
  other.turns.again();
  await harness.until(() => client.opens === 1 && acceptor.handlers.length === 1, "a connection");
  const server = acceptor.handlers[0]!;
  return {
    client,
    server,
    clientStream,
    serverStream: acceptor.streams[0]!,
    async close(): Promise<void> {
      if (client.closes.length === 0) clientStream.close("done");
      other.turns.again();
      world.turns.again();
      await harness.until(
        () => client.closes.length === 1 && server.closes.length === 1,
        "the end of both streams",
      );
      listener.close();
    },
  };
}

async function networkCarriesBytes(harness: Harness): Promise<void> {
  for (const address of harness.listenAddresses()) {
    const pair = await connectPair(harness, address);
    const message = new Uint8Array(100_000);
    fillPattern(message, 0, message.length, 5);
    check(sendBytes(harness.other, pair.clientStream, message), "no space to send");
    await harness.until(() => pair.server.receivedBytes === message.length, "100000 bytes");
    check(
      hasPattern(new Uint8Array(pair.server.received), 0, message.length, 5),
      "the bytes came out otherwise",
    );
    check(sendBytes(harness.world, pair.serverStream, message.subarray(0, 64)), "no space");
    await harness.until(() => pair.client.receivedBytes === 64, "the answer");
    check(pair.clientStream.peer.length > 0, "the peer has no name");
    checkEqual(pair.clientStream.unsentBytes, 0, "unsent bytes");
    await pair.close();
    checkEqual(pair.client.closes.join(), "done", "reason of our own close");
    checkEqual(pair.server.closes.length, 1, "closes of the other end");
  }
}

async function networkPushesBack(harness: Harness): Promise<void> {
  const { world, other } = harness;
  const address = harness.listenAddresses()[0]!;
  const options = { receiveBytes: 65_536, sendBytes: 131_072 };
  const pair = await connectPair(harness, address, options);
  pair.serverStream.pause();
  pair.server.keep = false;
  const piece = new Uint8Array(16_384);
  let sent = 0;
  const pump = (): void => {
    fillPattern(piece, 0, piece.length, sent);
    while (sendBytes(other, pair.clientStream, piece)) {
      sent += 1;
      fillPattern(piece, 0, piece.length, sent);
    }
  };
  let stamp = 0;
  let bad = 0;
  pair.server.onReceiveHook = (stream): void => {
    while (stream.receiveLength >= piece.length) {
      if (!hasPattern(world.arena.bytes, stream.receiveOffset, piece.length, stamp)) bad += 1;
      pair.server.receivedBytes += piece.length;
      stream.consume(piece.length);
      stamp += 1;
    }
  };
  pair.server.hold = true;
  // Kernel buffers take some megabytes; the stream refuses when its own are full too.
  let before = -1;
  while (sent !== before || pair.clientStream.unsentBytes === 0) {
    before = sent;
    const seen = pair.client.writables;
    pump();
    check(sent * piece.length < 256 * MIB, "there is no end to what is taken");
    const pause = new NotingTimer(other);
    other.timers.arm(pause, 60_000);
    await harness.until(
      () => pause.fired === 1 || pair.client.writables > seen,
      "space or nothing",
    );
    if (pause.fired === 0) other.timers.disarm(pause);
  }
  check(sent > 0, "nothing was taken");
  checkEqual(pair.server.receivedBytes, 0, "bytes delivered to a paused stream");
  check(pair.clientStream.unsentBytes <= options.sendBytes, "more unsent than the limit");
  const stalled = pair.client.writables;
  pair.serverStream.resume();
  world.turns.again();
  await harness.until(() => pair.client.writables > stalled, "space after resuming");
  pump();
  const wanted = sent * piece.length;
  await harness.until(() => pair.server.receivedBytes === wanted, "everything that was sent");
  checkEqual(bad, 0, "damaged pieces");
  await pair.close();
}

async function networkHoldsUnconsumed(harness: Harness): Promise<void> {
  const { world, other } = harness;
  const options = { receiveBytes: 8192, sendBytes: 65_536 };
  const pair = await connectPair(harness, harness.listenAddresses()[0]!, options);
  pair.server.hold = true;
  const message = new Uint8Array(20_480);
  fillPattern(message, 0, message.length, 9);
  check(sendBytes(other, pair.clientStream, message), "no space");
  await harness.until(() => pair.serverStream.receiveLength === 8192, "a full buffer");
  checkEqual(pair.serverStream.receiveOffset % 8, 0, "alignment of what was received");
  const back = new Uint8Array(message.length);
  let got = 0;
  while (got < message.length) {
    await harness.until(() => pair.serverStream.receiveLength > 0, "more bytes");
    const length = Math.min(pair.serverStream.receiveLength, 4096);
    const at = pair.serverStream.receiveOffset;
    back.set(world.arena.bytes.subarray(at, at + length), got);
    pair.serverStream.consume(length);
    world.turns.again();
    got += length;
  }
  check(hasPattern(back, 0, back.length, 9), "the bytes came out otherwise");
  await pair.close();
}

async function networkFlushesOnClose(harness: Harness): Promise<void> {
  const { world, other } = harness;
  for (const address of harness.listenAddresses()) {
    const pair = await connectPair(harness, address, {});
    pair.server.keep = false;
    const message = new Uint8Array(1_000_000);
    check(sendBytes(other, pair.clientStream, message), "no space");
    pair.clientStream.close("finished", true);
    checkEqual(pair.clientStream.reserve(8), -1, "space on a closing stream");
    checkEqual(pair.client.closes.length, 0, "onClose from within close");
    await harness.until(() => pair.server.closes.length === 1, "the end at the receiver");
    checkEqual(pair.server.receivedBytes, message.length, "bytes that arrived before the end");
    await harness.until(() => pair.client.closes.length === 1, "the end at the sender");
    checkEqual(pair.client.closes.join(), "finished", "reason at the sender");
    world.turns.again();
    await pair.close();
  }
}

async function networkEndsWithIoInFlight(harness: Harness): Promise<void> {
  const { world, other } = harness;
  const address = harness.listenAddresses()[0]!;
  const options = { receiveBytes: 65_536, sendBytes: 262_144 };
  for (let round = 0; round < 8; round++) {
    const pair = await connectPair(harness, address, options);
    pair.serverStream.pause();
    pair.server.hold = true;
    const piece = new Uint8Array(65_536);
    while (sendBytes(other, pair.clientStream, piece)) {
      // Until no more is taken: a send is in flight, and stays there.
    }
    const message = new Uint8Array(64);
    sendBytes(world, pair.serverStream, message);
    if (round % 2 === 1) await harness.until(() => pair.client.receivedBytes > 0, "the answer");
    if (round % 4 < 2) pair.clientStream.close("killed");
    else pair.serverStream.close("killed");
    // A stream that is paused or full sees no end before it reads on.
    pair.server.hold = false;
    pair.serverStream.resume();
    other.turns.again();
    world.turns.again();
    await pair.close();
    checkEqual(pair.client.closes.length, 1, "closes of the client");
    checkEqual(pair.server.closes.length, 1, "closes of the server");
  }
}

async function networkRefuses(harness: Harness): Promise<void> {
  const { world, other } = harness;
  const handler = new NotingHandler(other);
  other.network.connect(harness.deadAddress, handler);
  checkEqual(handler.closes.length, 0, "onClose from within connect");
  other.turns.again();
  await harness.until(() => handler.closes.length === 1, "a refusal");
  checkEqual(handler.closes.join(), "connection refused", "reason");
  checkEqual(handler.opens, 0, "opens");
  const gone = new NotingHandler(other);
  other.network.connect(harness.deadAddress, gone).close("changed my mind");
  other.turns.again();
  await harness.until(() => gone.closes.length === 1, "the end of a connection not yet up");
  checkEqual(gone.closes.join(), "changed my mind", "reason of closing early");
  const address = harness.listenAddresses()[0]!;
  const first = world.network.listen(address, new NotingAcceptor(world));
  let code = "";
  try {
    world.network.listen(first.address, new NotingAcceptor(world));
  } catch (error) {
    code = codeOf(error);
  }
  checkEqual(code, "FB4005", "listening twice");
  first.close();
  world.turns.again();
}

async function networkServesMany(harness: Harness): Promise<void> {
  const { world, other } = harness;
  const options = { receiveBytes: 16_384, sendBytes: 16_384 };
  const listeners = [0, 1].map(() => {
    const acceptor = new NotingAcceptor(world);
    const address = harness.listenAddresses()[0]!;
    return { acceptor, listener: world.network.listen(address, acceptor, options) };
  });
  const clients: NotingHandler[] = [];
  const bind = harness.otherBind;
  const connectOptions = bind === undefined ? options : { ...options, bind };
  for (let at = 0; at < 40; at++) {
    const client = new NotingHandler(other);
    const target = listeners[at % 2]!.listener.address;
    const stream = other.network.connect(target, client, connectOptions);
    // Before the connection is up.
    sendBytes(other, stream, Uint8Array.of(at, at, at, at, at, at, at, at));
    clients.push(client);
  }
  const accepted = (): NotingHandler[] => listeners.flatMap(({ acceptor }) => acceptor.handlers);
  await harness.until(
    () => accepted().length === 40 && accepted().every((handler) => handler.receivedBytes === 8),
    "40 connections and their bytes",
  );
  const values = accepted().map((handler) => handler.received[0]!);
  checkEqual(new Set(values).size, 40, "different senders");
  if (bind !== undefined) {
    const peers = accepted().map((handler) => handler.stream!.peer);
    check(
      peers.every((peer) => peer.startsWith(`${bind}:`)),
      `a connection does not come from ${bind}: ${peers[0]}`,
    );
  }
  for (const handler of accepted()) handler.stream!.close("enough");
  world.turns.again();
  await harness.until(() => clients.every((client) => client.closes.length === 1), "40 ends");
  for (const { listener } of listeners) listener.close();
  world.turns.again();
}

export const NETWORK_CASES: readonly ConformanceCase[] = [
  { name: "bytes travel both ways", run: networkCarriesBytes },
  { name: "a paused reader stops the sender, which is told of space", run: networkPushesBack },
  { name: "unconsumed bytes stay, a full buffer stops receiving", run: networkHoldsUnconsumed },
  { name: "a flushing close delivers everything first", run: networkFlushesOnClose },
  { name: "connections end with transfers in flight", run: networkEndsWithIoInFlight },
  { name: "refused connections and taken addresses", run: networkRefuses },
  { name: "many connections on several listeners", run: networkServesMany },
];
