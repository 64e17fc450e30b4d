// cold path: damage is rare.
/**
 * Puts damaged blocks right, or finds out that nobody can.
 *
 * A block whose bytes do not match its checksum is asked for at all other replicas with data at
 * once, at the same version: from a replica that lags it would be old data, from one that is ahead
 * it might not be committed. The first whole copy is written in its place.
 *
 *   whole      a replica has it at this version
 *   none       a replica has it at this version and can not read it either
 *   lost       a replica knows already that nobody has it
 *   other      a replica has applied this version and shows another one
 *   unsure     no answer, or the replica has not applied this version yet
 *
 * Lost is what all members of the group answered for without a whole copy; several times, because a
 * device that fails to read may succeed at the next try. Only a leader that has applied all that is
 * committed concludes so: it knows all members, and `other` can not be something newer. The rest
 * believe whoever says lost. Nobody has to agree, for a whole copy of that version can not come into
 * being any more. As long as one is unsure, the block is damaged, refused for the time being, and
 * looked at again and again.
 */
import { failOnBug } from "../base/assert.ts";
import type { Logger } from "../base/logger.ts";
import { Status, statusName } from "../base/status.ts";
import { BLOCK_SIZE, BLOCKS_PER_UNIT } from "../base/units.ts";
import { BlockState, type Group, type GroupPeer, ReadRequestOp, StoreRepairOp } from "../pg/pg.ts";
import { CallbackTimer, type World } from "../reactor/world.ts";
import type { Connection } from "../rpc/rpc.ts";
import { type BlockAnswer, fetchBlocks } from "./block-fetch.ts";

/** So often in a row nobody may have a whole copy before a block is lost, with this between. */
const LOST_ROUNDS = 3;
const ROUND_PAUSE_US = 20_000;
/** Blocks that wait are looked at again after this long, twice as long each time. */
const RETRY_US_MIN = 250_000;
const RETRY_US_MAX = 8_000_000;
const RETRY_TICK_US = 250_000;
/** Repairs that begin at one look. */
const RETRIES_AT_ONCE = 64;
/** Damaged blocks that are remembered; the others are found again by who meets them. */
const WAITING_MAX = 4096;

/** One block of one group that does not match its checksum here. */
export interface DamagedBlock {
  readonly group: Group;
  readonly layer: number;
  readonly block: number;
  readonly snapSeq: number;
  /** The version that was damaged: only the same one of a peer puts it right. */
  readonly version: number;
}

/** What became of a damaged block. */
export enum Healing {
  /** Whole again, or written anew. */
  Right = 0,
  /** No replica has a whole copy: it is refused until it is written again. */
  Lost = 1,
  /** Some replica can not be asked now. */
  Waiting = 2,
}

/** What a peer says of a block. */
enum Word {
  Unsure = 0,
  Whole = 1,
  None = 2,
  Lost = 3,
  Other = 4,
}

interface Waiting {
  readonly damaged: DamagedBlock;
  tries: number;
  dueUs: number;
}

export class Healer {
  private readonly world: World;
  private readonly logger: Logger;
  private readonly connectionTo: (peer: GroupPeer) => Connection | null;
  /** One repair of a block at a time, whoever asks. */
  private readonly running = new Map<string, Promise<Healing>>();
  private readonly waiting = new Map<string, Waiting>();
  private readonly timer: CallbackTimer;
  /** Links that were up at the last look: one more is a reason to look at once. */
  private linksUp = 0;

  constructor(world: World, logger: Logger, connectionTo: (peer: GroupPeer) => Connection | null) {
    this.world = world;
    this.logger = logger;
    this.connectionTo = connectionTo;
    this.timer = new CallbackTimer(() => this.retry());
  }

  /** Damaged blocks that wait for a peer. */
  get waitingCount(): number {
    return this.waiting.size;
  }

  /** The first `max` of the blocks that wait. */
  listWaiting(max: number): DamagedBlock[] {
    const list: DamagedBlock[] = [];
    for (const one of this.waiting.values()) {
      if (list.length === max) break;
      list.push(one.damaged);
    }
    return list;
  }

  /** Put one block right now. Never rejects. */
  heal(damaged: DamagedBlock): Promise<Healing> {
    const key = keyOf(damaged);
    let healing = this.running.get(key);
    if (healing === undefined) {
      damaged.group.users += 1;
      healing = this.healOnce(damaged).then(
        (result) => this.note(key, damaged, result),
        (error: unknown) => {
          if (!failOnBug(this.world, error)) {
            this.logger.error("healing failed", { ...placeOf(damaged), reason: String(error) });
          }
          return this.note(key, damaged, Healing.Waiting);
        },
      );
      this.running.set(key, healing);
    }
    return healing;
  }

  /** Background work met a damaged block: begin, unless it is known. */
  meet(damaged: DamagedBlock): void {
    const key = keyOf(damaged);
    if (this.running.has(key) || this.waiting.has(key)) return;
    if (this.running.size < RETRIES_AT_ONCE) this.begin(damaged);
    else this.remember(key, damaged);
  }

  private begin(damaged: DamagedBlock): void {
    // `heal` never rejects, and notes its result itself.
    void this.heal(damaged);
  }

  private note(key: string, damaged: DamagedBlock, result: Healing): Healing {
    this.running.delete(key);
    if (result === Healing.Waiting) this.remember(key, damaged);
    else this.forget(key);
    damaged.group.users -= 1;
    return result;
  }

  private forget(key: string): void {
    const one = this.waiting.get(key);
    if (one === undefined) return;
    this.waiting.delete(key);
    one.damaged.group.users -= 1;
  }

  private remember(key: string, damaged: DamagedBlock): void {
    const known = this.waiting.get(key);
    if (known === undefined && this.waiting.size >= WAITING_MAX) return;
    const tries = known === undefined ? 0 : known.tries + 1;
    const pauseUs = Math.min(RETRY_US_MIN * 2 ** Math.min(tries, 10), RETRY_US_MAX);
    const dueUs = this.world.clock.nowUs() + pauseUs;
    if (known !== undefined) this.forget(key);
    damaged.group.users += 1;
    this.waiting.set(key, { damaged, tries, dueUs });
    if (known === undefined) this.logger.warn("damaged block waits for a peer", placeOf(damaged));
    if (this.timer.timerDueUs < 0) {
      this.linksUp = this.countLinks(damaged.group);
      this.world.timers.arm(this.timer, RETRY_TICK_US);
    }
  }

  /** The timer: look again at what waits. */
  retry(): void {
    let links: number | undefined;
    const now = this.world.clock.nowUs();
    for (const [key, one] of this.waiting) {
      const { group } = one.damaged;
      if (group.shard.groups.get(group.pg) !== group || group.silent) {
        this.forget(key);
        continue;
      }
      links ??= this.countLinks(group);
      if (links > this.linksUp) one.tries = 0;
      else if (one.dueUs > now) continue;
      if (this.running.size >= RETRIES_AT_ONCE) break;
      this.begin(one.damaged);
    }
    if (links !== undefined) this.linksUp = links;
    if (this.waiting.size > 0) this.world.timers.arm(this.timer, RETRY_TICK_US);
  }

  stop(): void {
    this.world.timers.disarm(this.timer);
    for (const key of this.waiting.keys()) this.forget(key);
  }

  private countLinks(group: Group): number {
    let up = 0;
    for (const link of group.shard.peers.links.values()) if (link.up) up += 1;
    return up;
  }

  /* ---------------------------------------------------------- one block */

  private async healOnce(damaged: DamagedBlock): Promise<Healing> {
    const key = keyOf(damaged);
    let version = damaged.version;
    // What waited may have been written anew, or its device may read it again.
    if (this.waiting.has(key)) {
      version = await this.look(damaged);
      if (version < 0) return Healing.Right;
    }
    for (let round = 1; ; round++) {
      const result = await this.askOnce({ ...damaged, version });
      if (result !== Healing.Lost) return result;
      if (round === LOST_ROUNDS) break;
      await this.pause(ROUND_PAUSE_US);
      version = await this.look(damaged);
      if (version < 0) return Healing.Right;
    }
    return this.giveUp({ ...damaged, version });
  }

  /** Read the block here. Answers the version that is damaged, -1 when none is. */
  private look({ group, layer, block, snapSeq, version }: DamagedBlock): Promise<number> {
    const slot = this.world.slots.take(BLOCK_SIZE);
    if (slot < 0) return Promise.resolve(version);
    return new Promise((resolve) => {
      const op = new LookOp((state, found) => {
        this.world.slots.release(slot);
        this.world.turns.again();
        resolve(state === BlockState.Damaged ? found : -1);
      });
      op.layer = layer;
      op.firstBlock = block;
      op.blocks = 1;
      op.snapSeq = snapSeq;
      op.own = true;
      op.arenaOffset = slot;
      const status = group.requests.read(op);
      if (status === Status.Ok) return;
      this.world.slots.release(slot);
      resolve(version);
    });
  }

  /** Ask everybody once; Lost means that nobody has it. */
  private async askOnce(damaged: DamagedBlock): Promise<Healing> {
    const inquiry = this.ask(damaged);
    await inquiry.answered;
    if (inquiry.wholeSlot < 0) return this.judge(damaged.group, inquiry);
    try {
      const status = await this.repair(damaged, inquiry.wholeSlot, inquiry.wholeCrc);
      if (status === Status.Ok) this.logger.warn("damaged block healed", placeOf(damaged));
      // Another version by now: the block was written anew, the damage is gone.
      if (status === Status.Ok || status === Status.Conflict) return Healing.Right;
      const name = statusName(status);
      this.logger.warn("repair refused", { ...placeOf(damaged), status: name });
      return Healing.Waiting;
    } finally {
      this.world.slots.release(inquiry.wholeSlot);
    }
  }

  private ask(damaged: DamagedBlock): Inquiry {
    const { group, version } = damaged;
    const inquiry = new Inquiry(this.world);
    const { witnesses } = group.node.conf;
    // Members, not peers: those of a group whose map is not here yet are not known, and there.
    for (let at = 0; at < group.node.conf.members.length; at++) {
      if (at === group.node.selfSlot || (witnesses & (1 << at)) !== 0) continue;
      const peer = group.peers[at] ?? null;
      const connection = peer === null || !peer.link.up ? null : this.connectionTo(peer);
      const slot = this.world.slots.take(BLOCK_SIZE);
      if (peer === null || connection === null || !connection.isOpen || slot < 0) {
        if (slot >= 0) this.world.slots.release(slot);
        inquiry.words.push(Word.Unsure);
        continue;
      }
      const range = {
        pg: group.pg,
        replica: peer.replica,
        layer: damaged.layer,
        firstBlock: damaged.block,
        blocks: 1,
        snapSeq: damaged.snapSeq,
      };
      inquiry.open += 1;
      // `fetchBlocks` never rejects.
      fetchBlocks(this.world, connection, range, slot, version)
        .then((answer) => inquiry.take(answer, version, slot))
        .catch((error: unknown) => this.world.fail(error));
    }
    if (inquiry.open === 0) inquiry.settle();
    this.world.turns.again();
    return inquiry;
  }

  private judge(group: Group, inquiry: Inquiry): Healing {
    const { words } = inquiry;
    if (words.includes(Word.Lost)) return Healing.Lost;
    if (words.includes(Word.Unsure)) return Healing.Waiting;
    const knowsAll = group.serving && group.appliedIndex === group.commitIndex;
    return knowsAll ? Healing.Lost : Healing.Waiting;
  }

  private repair(damaged: DamagedBlock, slot: number, crc: number): Promise<Status> {
    return new Promise((resolve) => {
      const op = new RepairOp((status) => {
        this.world.turns.again();
        resolve(status);
      });
      op.row = damaged.group.row;
      op.layer = damaged.layer;
      op.block = damaged.block;
      op.snapSeq = damaged.snapSeq;
      op.version = damaged.version;
      op.crc = crc;
      op.arenaOffset = slot;
      damaged.group.shard.store.repair(op);
      this.world.turns.again();
    });
  }

  private async giveUp(damaged: DamagedBlock): Promise<Healing> {
    const { group, layer, block, snapSeq, version } = damaged;
    const { store } = group.shard;
    const unit = { layer, unit: Math.floor(block / BLOCKS_PER_UNIT), snapSeq };
    const mark = (): boolean => store.markLost(group.row, layer, block, snapSeq, version);
    const marked = store.isPaged ? await store.withUnits(group.row, [unit], mark) : mark();
    if (!marked) return Healing.Right;
    this.logger.error("block lost: no replica has a whole copy", placeOf(damaged));
    return Healing.Lost;
  }

  private pause(us: number): Promise<void> {
    return new Promise((resolve) => {
      this.world.timers.arm(new CallbackTimer(resolve), us);
      this.world.turns.again();
    });
  }
}

function keyOf({ group, layer, block, snapSeq }: DamagedBlock): string {
  return `${group.pg}/${layer}/${block}/${snapSeq}`;
}

function placeOf({ group, layer, block, version }: DamagedBlock): Record<string, number> {
  return { pg: group.pg, layer, block, version };
}

/** One question to all peers; the first whole copy ends it. */
class Inquiry {
  readonly answered: Promise<void>;
  readonly words: Word[] = [];
  open = 0;
  /** Where the whole copy lies, for the asker to release, and its checksum; -1: there is none. */
  wholeSlot = -1;
  wholeCrc = 0;
  private readonly world: World;
  private resolve!: () => void;

  constructor(world: World) {
    this.world = world;
    this.answered = new Promise((resolve) => {
      this.resolve = resolve;
    });
  }

  settle(): void {
    this.world.turns.again();
    this.resolve();
  }

  /** A peer answered, or can not. */
  take(answer: BlockAnswer, version: number, slot: number): void {
    const word = wordOf(answer, version);
    this.open -= 1;
    this.words.push(word);
    if (word === Word.Whole && this.wholeSlot < 0) {
      this.wholeSlot = slot;
      this.wholeCrc = answer.blocks[0]!.crc;
      this.settle();
      return;
    }
    this.world.slots.release(slot);
    if (this.open === 0) this.settle();
  }
}

function wordOf({ status, blocks }: BlockAnswer, version: number): Word {
  const [block] = blocks;
  if (status !== Status.Ok || block === undefined) return Word.Unsure;
  if (block.version !== version) return Word.Other;
  switch (block.state) {
    case BlockState.Data:
      return Word.Whole;
    case BlockState.Lost:
      return Word.Lost;
    case BlockState.Zero:
    case BlockState.Damaged:
      return Word.None;
  }
}

class RepairOp extends StoreRepairOp {
  private readonly resolve: (status: Status) => void;

  constructor(resolve: (status: Status) => void) {
    super();
    this.resolve = resolve;
  }

  override onDone(): void {
    this.resolve(this.status);
  }
}

/** Reads one block of the own store. */
class LookOp extends ReadRequestOp {
  private readonly answer: (state: BlockState, version: number) => void;

  constructor(answer: (state: BlockState, version: number) => void) {
    super();
    this.answer = answer;
  }

  override onAnswer(): void {
    // A device that answers nothing at all is about to fail as a whole.
    const state = this.status === Status.Ok ? this.states[0]! : BlockState.Damaged;
    this.answer(state, this.versions[0]!);
  }
}
