// cold: the simulator
import { assert } from "../base/assert.ts";
import { FastblockError } from "../base/errors.ts";
import { Prng } from "../base/prng.ts";
import { Status, statusName } from "../base/status.ts";
import { BLOCK_SIZE, BLOCKS_PER_UNIT } from "../base/units.ts";
import { ImageOp, type ImageTarget, LEADER, OpKind } from "../client/client.ts";
import { checkRegisters } from "./linearizable.ts";
import { RegisterHistory } from "./linearizable-history.ts";
import type { SimClient, SimCluster } from "./sim-cluster.ts";
import { SimPace, type Thinking } from "./sim-pace.ts";
import { stampBlock, stampOf } from "./sim-stamps.ts";

/**
 * Clients that write and read the same few blocks at the same time, as gateways of one image do.
 *
 * Nobody knows what a read must see; what all of them did and saw is kept, and at the end of a round
 * each block must have been a register (`linearizable.ts`): G2. A block that is a mix of two writes
 * is found at once: G3. Some blocks are written by sectors too, within one or across two of them, each
 * sector a register of its own; some get zeros. Clients give up after a while, or die with all that they have open: such a write may
 * take effect later or never. But what a client gave up takes effect before the next write of that
 * client to the block that is answered, or never: G4.
 */

/** Blocks on both sides of a unit's border, in two units of their own. */
const FIRST_BLOCK = 400;
const BLOCKS = 32;
/** Operations that a client has open. */
const DEPTH = 4;
const BLOCKS_MAX = BLOCKS_PER_UNIT;
const BLOCKS_PARTIAL_MAX = 6;
const SECTOR_BYTES = 512;
const SECTORS = BLOCK_SIZE / SECTOR_BYTES;
/** Of a write that is not of whole blocks. */
const SECTORS_MAX = 6;
const THINK_US_MAX = 5_000;
/** Stamps of this load, apart from those of others. */
const STAMPS_FIRST = 0x4000_0000;
const RETRY_US = 100_000;

export class SimHot {
  /** Answered with Ok; writes without an answer. */
  operations = 0;
  /** Operations that were refused for damage. */
  refused = 0;
  unanswered = 0;
  /** A replica may be damaged, or a device full: operations may be refused. */
  mayRefuse = false;
  /** Groups remember few sessions: whoever was forgotten may be told that his has ended. */
  mayExpire = false;
  expired = 0;
  readonly random: Prng;
  private readonly cluster: SimCluster;
  private readonly clients: HotClient[] = [];
  private readonly recorder = new Recorder();
  private readonly lastStamps = new Float64Array(BLOCKS);
  private stamps = STAMPS_FIRST;
  private stopping = true;
  private errands = 0;
  private round = 0;
  /** How long clients wait for an answer; 0: for ever. */
  private readonly timeoutMs: number;
  private readonly pace: SimPace;

  /** `images`: the same one, as each client of the cluster has opened it; `thinking`: see `SimPace`. */
  constructor(
    cluster: SimCluster,
    images: readonly ImageTarget[],
    timeoutMs: number,
    thinking: Thinking,
  ) {
    this.cluster = cluster;
    this.timeoutMs = timeoutMs;
    this.pace = new SimPace(THINK_US_MAX, thinking);
    this.random = new Prng(cluster.simulation.seed * 37 + 3);
    cluster.clients.forEach((client, at) => {
      this.clients.push(new HotClient(this, at, client, images[at]!));
    });
  }

  start(): void {
    assert(this.stopping, "SimHot.start: it runs");
    this.stopping = false;
    this.round += 1;
    this.pace.begin(this.operations);
    for (const client of this.clients) client.startAll();
  }

  stop(): void {
    this.stopping = true;
    this.round += 1;
  }

  get idle(): boolean {
    return this.stopping && this.errands === 0 && this.clients.every(({ open }) => open === 0);
  }

  get nowNs(): number {
    return this.cluster.simulation.nowUs * 1000;
  }

  /** Stamps that some blocks may hold. */
  someStamps(random: Prng, count: number): number[] {
    const stamps = Array.from({ length: count }, () => this.lastStamps[random.below(BLOCKS)]!);
    return [...new Set(stamps)].filter((stamp) => stamp > 0);
  }

  /**
   * One of the clients from `first` on dies with what it has open; another process opens the image
   * in its place. False: it is dead.
   */
  killClient(first: number): boolean {
    const at = first + this.random.below(this.clients.length - first);
    const client = this.clients[at]!;
    if (client.dead) return false;
    for (const op of client.ops) if (op.isOpen) this.giveUp(op);
    client.dead = true;
    client.open = 0;
    this.errands += 1;
    this.renew(at).then(
      () => {
        this.errands -= 1;
      },
      (error: unknown) => this.cluster.simulation.fail("client", error),
    );
    return true;
  }

  private async renew(at: number): Promise<void> {
    const fresh = this.cluster.renewClient(at);
    for (;;) {
      try {
        await fresh.client.start();
        const image = await fresh.client.openImage("pool/image", { timeoutMs: this.timeoutMs });
        const client = new HotClient(this, at, fresh, image);
        this.clients[at] = client;
        if (!this.stopping) client.startAll();
        return;
      } catch (error) {
        // The monitor can not be reached, or not in time.
        if (!(error instanceof FastblockError)) throw error;
        await new Promise<void>((resolve) => this.cluster.simulation.after(RETRY_US, resolve));
      }
    }
  }

  /* ----------------------------------------------------------- operations */

  next(op: HotOp): void {
    if (this.stopping || op.owner.dead) return;
    this.draw(op);
    op.begin(this.nowNs);
    op.owner.image.submit(op);
  }

  private draw(op: HotOp): void {
    const { random } = this;
    const chance = random.below(32);
    op.kind = chance < 15 ? OpKind.Read : chance < 31 ? OpKind.Write : OpKind.Flush;
    const size = random.below(24);
    op.blocks = size === 0 ? BLOCKS_MAX : size < 6 ? 1 + random.below(BLOCKS_PARTIAL_MAX) : 1;
    op.first = random.below(BLOCKS - op.blocks + 1);
    if (size === 0) op.first -= op.first % BLOCKS_MAX;
    op.cut(0, op.blocks * SECTORS);
    if (op.blocks === 1 && isSplit(op.first) && random.below(4) > 0) this.drawSectors(op);
    if (op.kind === OpKind.Write && op.blocks === 1 && isZeroed(op.first)) {
      if (random.below(3) === 0) op.kind = OpKind.Zero;
    }
    op.place(FIRST_BLOCK);
    if (op.kind !== OpKind.Write) return;
    for (let at = 0; at < op.blocks; at++) {
      this.stamps += 1;
      op.stamps[at] = this.stamps;
      const content = op.content(at);
      if (!isSplit(op.first + at)) stampBlock(content, this.stamps);
      else for (const part of sectorsOf(content)) stampBlock(part, this.stamps);
    }
  }

  /** Some sectors of one block or of two, instead of a block. */
  private drawSectors(op: HotOp): void {
    const { random } = this;
    const from = random.below(SECTORS);
    const length = 1 + random.below(Math.min(SECTORS_MAX, 2 * SECTORS - from));
    op.first -= op.first % 2;
    op.blocks = Math.ceil((from + length) / SECTORS);
    op.cut(from, from + length);
    if (op.kind === OpKind.Write && random.below(8) === 0) op.kind = OpKind.Zero;
  }

  /** An operation was answered. */
  onAnswered(op: HotOp): void {
    const { owner } = op;
    op.isOpen = false;
    owner.open -= 1;
    if (op.status === Status.Ok) {
      this.operations += 1;
      if (op.kind === OpKind.Flush) owner.checkFlush(op);
      else this.record(op);
    } else {
      const { status } = op;
      const mayBe =
        (status === Status.TimedOut && this.timeoutMs > 0) ||
        (status === Status.Unreachable && op.replica !== LEADER) ||
        (this.mayExpire && status === Status.SessionExpired && op.kind !== OpKind.Read) ||
        (this.mayRefuse && (status === Status.Damaged || status === Status.NoSpace));
      assert(mayBe, `operation of ${owner.client.world.name} answered ${statusName(status)}`);
      if (status === Status.SessionExpired) this.expired += 1;
      if (status === Status.Damaged) this.refused += 1;
      this.giveUp(op);
    }
    const { round } = this;
    this.cluster.simulation.after(this.pace.thinkUs(this.random, this.operations), () => {
      if (this.round === round) this.next(op);
    });
  }

  private record(op: HotOp): void {
    const { owner } = op;
    for (let at = 0; at < op.blocks; at++) {
      const block = op.first + at;
      if (op.kind !== OpKind.Read) {
        const stamp = op.kind === OpKind.Zero ? 0 : op.stamps[at]!;
        for (const key of op.keysOf(at)) {
          this.recorder.wrote(key, owner, stamp, op.beganNs, this.nowNs);
        }
        if (!isSplit(block)) this.lastStamps[block] = stamp;
        continue;
      }
      const content = op.content(at);
      for (const key of op.keysOf(at)) {
        const from = (key % SECTORS) * SECTOR_BYTES;
        const part = isSplit(block) ? content.subarray(from, from + SECTOR_BYTES) : content;
        const stamp = stampOf(part);
        if (stamp < 0) this.failTorn(op, block, part);
        // A replica's own store may lag behind its leader: it is compared, and no read of the register.
        if (op.replica !== LEADER) continue;
        this.recorder.saw(key, owner, stamp, op.beganNs, this.nowNs);
      }
    }
  }

  private failTorn(op: HotOp, block: number, part: Uint8Array): void {
    const name = `block ${String(FIRST_BLOCK + block)} read by ${op.owner.client.world.name}`;
    assert(false, `${name} is no whole write: it begins with ${String(wordOf(part))}`);
  }

  /** A write that may take effect later, once, or never. */
  private giveUp(op: HotOp): void {
    if (op.kind !== OpKind.Write && op.kind !== OpKind.Zero) return;
    this.unanswered += 1;
    for (let at = 0; at < op.blocks; at++) {
      const stamp = op.kind === OpKind.Zero ? 0 : op.stamps[at]!;
      for (const key of op.keysOf(at)) {
        this.recorder.gaveUp(key, op.owner, stamp, op.beganNs, this.nowNs);
      }
    }
  }

  /* -------------------------------------------------------------- at rest */

  /**
   * Judge everything so far, the present content included: of the leaders and of each replica.
   *
   * A write that was given up may still be on its way, and take effect while all of this is read (G4):
   * then some replicas show it and others do not yet. Where every difference has such a write on one of
   * its sides, all is read anew once the cluster is at `rest` again. A write explains one reading and no
   * other: what differs for good is found.
   */
  verify(replicas: number, rest: () => void): void {
    assert(this.idle, "SimHot.verify: operations are open");
    while (!this.areEqual(replicas)) rest();
    const { violations } = checkRegisters(this.recorder.history());
    assert(violations.length === 0, `not linearizable:\n${violations.join("\n")}`);
  }

  /** Whether each replica shows what the leaders do; false: not yet. */
  private areEqual(replicas: number): boolean {
    const wanted = this.readEach(LEADER);
    for (let replica = 0; replica < replicas; replica++) {
      const seen = this.readEach(replica);
      if (String(seen) === String(wanted)) continue;
      assert(
        this.isExplained(seen, wanted),
        `hot blocks of replica ${String(replica)}: ${String(seen)}, wanted ${String(wanted)}`,
      );
      return false;
    }
    return true;
  }

  /** The first word of each sector. */
  private readEach(replica: number): number[] {
    const op = this.clients[0]!.ops[0]!;
    const words: number[] = [];
    for (op.first = 0; op.first < BLOCKS; op.first += BLOCKS_MAX) {
      this.readAll(op, replica);
      for (let at = 0; at < BLOCKS_MAX; at++) {
        for (const part of sectorsOf(op.content(at))) words.push(wordOf(part));
      }
    }
    return words;
  }

  /** Whether wherever two replicas differ one of them shows a write that was given up. */
  private isExplained(seen: readonly number[], wanted: readonly number[]): boolean {
    const late = new Set<Abandoned>();
    for (let sector = 0; sector < seen.length; sector++) {
      const values = [seen[sector]!, wanted[sector]!];
      if (values[0] === values[1]) continue;
      const one = this.recorder.findLate(keyOf(sector), values);
      if (one === undefined) return false;
      late.add(one);
    }
    for (const one of late) one.hasExplained = true;
    return true;
  }

  private readAll(op: HotOp, replica: number): void {
    const { simulation } = this.cluster;
    op.kind = OpKind.Read;
    op.blocks = BLOCKS_MAX;
    op.cut(0, BLOCKS_MAX * SECTORS);
    op.place(FIRST_BLOCK);
    for (let tries = 0; ; tries++) {
      op.replica = replica;
      op.begin(this.nowNs);
      op.owner.image.submit(op);
      const done = simulation.run(() => !op.isOpen);
      assert(done, "final read of hot blocks: no answer");
      op.replica = LEADER;
      if (op.status === Status.Ok) return;
      assert(tries < 100, `final read of hot blocks answered ${statusName(op.status)}`);
    }
  }
}

/** Blocks that are written by sectors as well, by twos; and those that get zeros. */
function isSplit(block: number): boolean {
  return block % 8 === 4 || block % 8 === 5;
}

function isZeroed(block: number): boolean {
  return block % 8 === 2;
}

/** The register that a sector is of. */
function keyOf(sector: number): number {
  return isSplit(Math.floor(sector / SECTORS)) ? sector : sector - (sector % SECTORS);
}

function sectorsOf(content: Uint8Array): Uint8Array[] {
  return Array.from({ length: SECTORS }, (_, at) =>
    content.subarray(at * SECTOR_BYTES, (at + 1) * SECTOR_BYTES),
  );
}

function wordOf(content: Uint8Array): number {
  return new Uint32Array(content.buffer, content.byteOffset, 1)[0]!;
}

/** One process' attachment, with the operations that it has open. */
class HotClient {
  readonly client: SimClient;
  readonly image: ImageTarget;
  readonly at: number;
  readonly ops: HotOp[] = [];
  dead = false;
  open = 0;
  /** Order of submission. */
  submitted = 0;
  private readonly load: SimHot;

  constructor(load: SimHot, at: number, client: SimClient, image: ImageTarget) {
    this.load = load;
    this.at = at;
    this.client = client;
    this.image = image;
    for (let count = 0; count < DEPTH; count++) this.ops.push(new HotOp(load, this));
  }

  startAll(): void {
    for (const op of this.ops) if (!op.isOpen) this.load.next(op);
  }

  /** G5: every write that was submitted before is done. */
  checkFlush(flush: HotOp): void {
    for (const op of this.ops) {
      const isWrite = op.kind === OpKind.Write || op.kind === OpKind.Zero;
      assert(
        !(op.isOpen && isWrite && op.number < flush.number),
        "a flush was answered before a write that was submitted before it",
      );
    }
  }
}

class HotOp extends ImageOp {
  first = 0;
  blocks = 0;
  /** Sectors that it is of, counted from the first one of its first block. */
  private from = 0;
  private end = 0;
  beganNs = 0;
  number = 0;
  isOpen = false;
  readonly stamps = new Float64Array(BLOCKS_MAX);
  readonly owner: HotClient;
  private readonly load: SimHot;
  private readonly memory: number;

  constructor(load: SimHot, owner: HotClient) {
    super();
    this.load = load;
    this.owner = owner;
    this.memory = owner.client.world.arena.allocate(BLOCKS_MAX * BLOCK_SIZE);
  }

  /** Let it be of these sectors of its blocks. */
  cut(from: number, end: number): void {
    this.from = from;
    this.end = end;
  }

  /** Registers of one of its blocks: one, or one a sector. */
  keysOf(at: number): number[] {
    const block = this.first + at;
    if (!isSplit(block)) return [block * SECTORS];
    const keys: number[] = [];
    for (let sector = 0; sector < SECTORS; sector++) {
      const place = at * SECTORS + sector;
      if (place >= this.from && place < this.end) keys.push(block * SECTORS + sector);
    }
    return keys;
  }

  /** Set what the client reads. */
  place(firstBlock: number): void {
    const skip = this.from * SECTOR_BYTES;
    const isFlush = this.kind === OpKind.Flush;
    this.offsetBytes = isFlush ? 0 : (firstBlock + this.first) * BLOCK_SIZE + skip;
    this.lengthBytes = isFlush ? 0 : (this.end - this.from) * SECTOR_BYTES;
    this.arenaOffset = this.memory + skip;
  }

  begin(nowNs: number): void {
    assert(!this.isOpen, "HotOp.begin: it is open");
    this.isOpen = true;
    this.beganNs = nowNs;
    this.owner.open += 1;
    this.owner.submitted += 1;
    this.number = this.owner.submitted;
  }

  content(at: number): Uint8Array {
    const start = this.memory + at * BLOCK_SIZE;
    return this.owner.client.world.arena.bytes.subarray(start, start + BLOCK_SIZE);
  }

  override onDone(): void {
    this.load.onAnswered(this);
  }
}

/** A write that its client gave up. */
interface Abandoned {
  readonly key: number;
  readonly client: HotClient;
  readonly value: number;
  readonly callNs: number;
  readonly givenUpNs: number;
  /** When the client's next write to the block was answered. */
  endNs: number;
  /** Why replicas differed, once. */
  hasExplained: boolean;
}

/** Collects what was done and seen. */
class Recorder {
  private readonly answered = new RegisterHistory();
  private readonly seen = new Set<number>();
  private readonly abandoned: Abandoned[] = [];

  saw(key: number, client: HotClient, value: number, callNs: number, returnNs: number): void {
    this.seen.add(value);
    this.answered.add({ key, client: client.at, isWrite: false, value, callNs, returnNs });
  }

  wrote(key: number, client: HotClient, value: number, callNs: number, returnNs: number): void {
    this.answered.add({ key, client: client.at, isWrite: true, value, callNs, returnNs });
    for (const one of this.abandoned) {
      const isNext = one.key === key && one.client === client && one.givenUpNs <= callNs;
      if (isNext && returnNs < one.endNs) one.endNs = returnNs;
    }
  }

  gaveUp(key: number, client: HotClient, value: number, callNs: number, givenUpNs: number): void {
    const hasExplained = false;
    this.abandoned.push({ key, client, value, callNs, givenUpNs, endNs: Infinity, hasExplained });
  }

  /** A write of one of the values that was given up, may happen yet, and has explained nothing. */
  findLate(key: number, values: readonly number[]): Abandoned | undefined {
    return this.abandoned.find(
      (one) =>
        one.key === key &&
        !one.hasExplained &&
        one.endNs === Infinity &&
        values.includes(one.value),
    );
  }

  /** What was given up has happened, and when at the latest, if somebody saw it. */
  history(): RegisterHistory {
    const all = new RegisterHistory();
    for (let at = 0; at < this.answered.count; at++) all.add(this.answered.at(at));
    for (const { key, client, value, callNs, endNs } of this.abandoned) {
      const hasHappened = value !== 0 && this.seen.has(value);
      const returnNs = hasHappened ? endNs : Infinity;
      all.add({ key, client: client.at, isWrite: true, value, callNs, returnNs });
    }
    return all;
  }
}
