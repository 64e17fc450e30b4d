import { assert } from "../base/assert.ts";
import { Status } from "../base/status.ts";
import { BLOCK_SIZE } from "../base/units.ts";
import {
  type Acceptor,
  type Address,
  CallbackDrain,
  CallbackTimer,
  type Disk,
  DiskOp,
  DiskVerb,
  DrainOrder,
  type Listener,
  type Stream,
  type StreamHandler,
  type World,
} from "../reactor/world.ts";
import { ECHO_HEADER_BYTES } from "./reactor-bench.ts";

/**
 * What a write of three copies comes down to: its messages and device writes on the same reactor, and
 * nothing else. No consensus, no checksums, no index, nobody is known, and nothing could be found again.
 *
 * Who has followers takes messages of one block as `runEchoBench` sends them, passes each on to all of
 * them, and answers when a majority has it. Everybody writes what came since the last batch into a log,
 * durable, behind a block of its own, with `batchesUnderWay` at once; they count in their order. Each block
 * is written once more to a random place behind the log: `HOMES_TOGETHER` at a time, later.
 */
export function serveBareReplica(
  world: World,
  address: Address,
  disk: Disk,
  followers: readonly Address[],
  batchesUnderWay: number,
): Listener {
  const replica = new BareReplica(world, disk, followers, batchesUnderWay);
  const acceptor: Acceptor = { onAccept: () => replica };
  return world.network.listen(address, acceptor);
}

const LOG_SHARE = 0.25;
const BATCH_BYTES = 262_144;
const BATCH_BLOCKS = BATCH_BYTES / BLOCK_SIZE - 1;
/** Batches in memory: most of them wait for blocks on their way home. */
const BATCHES_MAX = 64;
/** Blocks that go home in one turn. */
const HOMES_TOGETHER = 64;
/** Fewer go home when nothing came for so long. */
const REST_US = 50_000;
/** To a follower: half of what a stream takes. */
const UNSENT_MAX = 1_048_576;
const PEER_GONE = "closed by the peer";
/** Messages that are remembered: more than anybody has open. */
const OPEN_MAX = 4096;

class BareReplica implements StreamHandler {
  private readonly world: World;
  private readonly disk: Disk;
  private readonly links: readonly FollowerLink[];
  private readonly batches: BareBatch[] = [];
  private readonly homes: HomeOp[] = [];
  private readonly logBlocks: number;
  private readonly homeBlocks: number;
  private readonly gone = new WeakSet<Stream>();
  /** Who waits for memory, or for a follower that is behind: a majority answers without it. */
  private readonly stalled = new Set<Stream>();
  /** Of messages that are passed on, by number: the window place of its sender, how many copies are durable. */
  private readonly places = new Int32Array(OPEN_MAX);
  private readonly copies = new Uint8Array(OPEN_MAX);
  private client: Stream | null = null;
  private nextNumber = 0;
  private nextLogBlock = 0;
  private gathering: BareBatch | null = null;
  private readonly batchesUnderWay: number;
  /** On their way to the log: the oldest first. */
  private readonly writing: BareBatch[] = [];
  /** Durable, and on the way home: the oldest first. */
  private readonly homeward: BareBatch[] = [];
  /** Blocks of those that are not on their way yet. */
  private homesDue = 0;
  private readonly rest: CallbackTimer;

  constructor(world: World, disk: Disk, followers: readonly Address[], batchesUnderWay: number) {
    this.world = world;
    this.disk = disk;
    this.batchesUnderWay = batchesUnderWay;
    this.rest = new CallbackTimer(() => this.writeHome());
    const blocks = disk.sizeBytes / BLOCK_SIZE;
    this.logBlocks = Math.floor(blocks * LOG_SHARE);
    this.homeBlocks = blocks - this.logBlocks;
    assert(this.logBlocks > BATCH_BLOCKS, "bare replica: the disk is too small for a log");
    this.links = followers.map((address) => new FollowerLink(world, address, this));
    for (let at = 0; at < BATCHES_MAX; at++) {
      this.batches.push(new BareBatch(this, world.arena.allocate(BATCH_BYTES)));
    }
    for (let at = 0; at < HOMES_TOGETHER; at++) this.homes.push(new HomeOp(this));
    world.turns.addDrain(DrainOrder.Log, new CallbackDrain(() => this.writeBatch()));
  }

  onOpen(): void {}

  onReceive(stream: Stream): void {
    const { words } = this.world.arena;
    while (stream.receiveLength >= ECHO_HEADER_BYTES) {
      const at = stream.receiveOffset;
      const length = ECHO_HEADER_BYTES + words[at >>> 2]!;
      if (stream.receiveLength < length) return;
      assert(
        length === ECHO_HEADER_BYTES + BLOCK_SIZE,
        "bare replica: messages of one block wanted",
      );
      const batch = this.links.every(({ hasRoom }) => hasRoom) ? this.room() : null;
      if (batch === null) {
        this.stalled.add(stream);
        return;
      }
      this.take(batch, stream, words[(at >>> 2) + 1]!, at + ECHO_HEADER_BYTES);
      stream.consume(length);
    }
  }

  onWritable(): void {}

  onClose(stream: Stream): void {
    this.gone.add(stream);
  }

  /** By a follower, too: one more copy of a message is durable. */
  onDurable(number: number): void {
    const copies = this.copies[number]! + 1;
    this.copies[number] = copies;
    const majority = Math.floor((this.links.length + 1) / 2) + 1;
    if (copies === majority) this.answer(this.client!, this.places[number]!);
  }

  /** By a batch whose write has ended. */
  onWritten(batch: BareBatch): void {
    assert(batch.status === Status.Ok, "bare replica: a log write failed");
    batch.isDurable = true;
    // What lies behind a hole in the log is no good yet.
    while (this.writing[0]?.isDurable === true) this.count(this.writing.shift()!);
    if (this.homesDue >= HOMES_TOGETHER) this.writeHome();
    else if (this.rest.timerDueUs < 0) this.world.timers.arm(this.rest, REST_US);
    this.world.turns.again();
  }

  private count(batch: BareBatch): void {
    for (let at = 0; at < batch.count; at++) {
      const stream = batch.streams[at]!;
      if (this.links.length > 0) this.onDurable(batch.numbers[at]!);
      else this.answer(stream, batch.numbers[at]!);
    }
    this.homeward.push(batch);
    this.homesDue += batch.count;
  }

  /** By a home write that has ended. */
  onHome(op: HomeOp): void {
    assert(op.status === Status.Ok && op.batch !== null, "bare replica: a home write failed");
    const { batch } = op;
    op.batch = null;
    this.homes.push(op);
    batch.homeLeft -= 1;
    if (batch.homeLeft === 0) {
      batch.count = 0;
      this.batches.push(batch);
      this.goOn();
    }
    const isLast = this.homes.length === HOMES_TOGETHER;
    if (isLast && this.homesDue >= HOMES_TOGETHER) this.writeHome();
  }

  /** There may be room again. */
  goOn(): void {
    if (this.stalled.size === 0) return;
    const streams = [...this.stalled];
    this.stalled.clear();
    for (const stream of streams) this.onReceive(stream);
  }

  /** A batch that takes one more; null: it is full, or all are on their way home. */
  private room(): BareBatch | null {
    this.gathering ??= this.batches.pop() ?? null;
    return this.gathering?.count === BATCH_BLOCKS ? null : this.gathering;
  }

  /** `name`: what the sender calls it. */
  private take(batch: BareBatch, stream: Stream, name: number, payload: number): void {
    let number = name;
    if (this.links.length > 0) {
      this.client = stream;
      number = this.nextNumber++ % OPEN_MAX;
      this.places[number] = name;
      this.copies[number] = 0;
      for (const link of this.links) link.pass(number, payload);
    }
    batch.streams[batch.count] = stream;
    batch.numbers[batch.count] = number;
    batch.count += 1;
    const { bytes } = this.world.arena;
    bytes.copyWithin(batch.arenaOffset + batch.count * BLOCK_SIZE, payload, payload + BLOCK_SIZE);
  }

  private writeBatch(): void {
    const batch = this.gathering;
    if (batch === null || this.writing.length === this.batchesUnderWay) return;
    this.gathering = null;
    this.writing.push(batch);
    batch.isDurable = false;
    const blocks = 1 + batch.count;
    if (this.nextLogBlock + blocks > this.logBlocks) this.nextLogBlock = 0;
    batch.lengthBytes = blocks * BLOCK_SIZE;
    batch.offsetBytes = this.nextLogBlock * BLOCK_SIZE;
    this.nextLogBlock += blocks;
    batch.homeLeft = batch.count;
    batch.homeNext = 0;
    this.disk.submit(batch);
    this.goOn();
  }

  private answer(stream: Stream, place: number): void {
    if (this.gone.has(stream)) return;
    const at = stream.reserve(ECHO_HEADER_BYTES);
    assert(at >= 0, "bare replica: nobody reads the answers");
    const { words } = this.world.arena;
    words[at >>> 2] = 0;
    words[(at >>> 2) + 1] = place;
    stream.commit(ECHO_HEADER_BYTES);
  }

  private writeHome(): void {
    while (this.homeward.length > 0 && this.homes.length > 0) {
      const batch = this.homeward[0]!;
      const op = this.homes.pop()!;
      batch.homeNext += 1;
      this.homesDue -= 1;
      op.batch = batch;
      op.arenaOffset = batch.arenaOffset + batch.homeNext * BLOCK_SIZE;
      op.offsetBytes = (this.logBlocks + this.world.random.below(this.homeBlocks)) * BLOCK_SIZE;
      this.disk.submit(op);
      if (batch.homeNext === batch.count) this.homeward.shift();
    }
  }
}

/** One write of the log. */
class BareBatch extends DiskOp {
  count = 0;
  isDurable = false;
  homeNext = 0;
  homeLeft = 0;
  readonly streams: Stream[] = [];
  readonly numbers = new Int32Array(BATCH_BLOCKS);
  private readonly replica: BareReplica;

  constructor(replica: BareReplica, arenaOffset: number) {
    super();
    this.replica = replica;
    this.verb = DiskVerb.WriteDurable;
    this.arenaOffset = arenaOffset;
  }

  onDone(): void {
    this.replica.onWritten(this);
  }
}

class HomeOp extends DiskOp {
  batch: BareBatch | null = null;
  private readonly replica: BareReplica;

  constructor(replica: BareReplica) {
    super();
    this.replica = replica;
    this.verb = DiskVerb.Write;
    this.lengthBytes = BLOCK_SIZE;
  }

  onDone(): void {
    this.replica.onHome(this);
  }
}

/** To a follower. */
class FollowerLink implements StreamHandler {
  private readonly world: World;
  private readonly replica: BareReplica;
  private readonly stream: Stream;

  constructor(world: World, address: Address, replica: BareReplica) {
    this.world = world;
    this.replica = replica;
    this.stream = world.network.connect(address, this);
  }

  get hasRoom(): boolean {
    return this.stream.unsentBytes < UNSENT_MAX;
  }

  pass(number: number, payload: number): void {
    const at = this.stream.reserve(ECHO_HEADER_BYTES + BLOCK_SIZE);
    assert(at >= 0, "bare replica: a follower does not follow");
    const { words, bytes } = this.world.arena;
    words[at >>> 2] = BLOCK_SIZE;
    words[(at >>> 2) + 1] = number;
    bytes.copyWithin(at + ECHO_HEADER_BYTES, payload, payload + BLOCK_SIZE);
    this.stream.commit(ECHO_HEADER_BYTES + BLOCK_SIZE);
  }

  onOpen(): void {}

  onReceive(stream: Stream): void {
    const { words } = this.world.arena;
    while (stream.receiveLength >= ECHO_HEADER_BYTES) {
      const number = words[(stream.receiveOffset >>> 2) + 1]!;
      stream.consume(ECHO_HEADER_BYTES);
      this.replica.onDurable(number);
    }
    this.replica.goOn();
  }

  onWritable(): void {}

  onClose(_stream: Stream, reason: string): void {
    assert(reason !== PEER_GONE, "bare replica: a follower is gone");
  }
}
