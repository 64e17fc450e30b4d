// cold path: only where damage was found in the log.
import { failOnBug } from "../base/assert.ts";
import type { Logger } from "../base/logger.ts";
import { Status } from "../base/status.ts";
import { BLOCK_SIZE } from "../base/units.ts";
import { BlockState, type FaultyEntry, type Group, ReadRequestOp } from "../pg/pg.ts";
import { CallbackTimer, type World } from "../reactor/world.ts";
import { type Healer, Healing } from "./healer.ts";

/** Between two looks at a group's entries; twice as long after each look that changed nothing. */
const LOOK_US_MIN = 50_000;
const LOOK_US_MAX = 2_000_000;
/** A group without leader for this long needs one more than it needs whole payloads. */
const LEADERLESS_US = 2_000_000;

interface Watched {
  readonly group: Group;
  pauseUs: number;
  dueUs: number;
  leaderlessSinceUs: number;
  looking: boolean;
}

/**
 * Fetches what entries with a damaged payload lack (`recover.ts`).
 *
 * A start finds them; those whose units rotted are found by a leader that is to send them. Such an
 * entry is known and counts, so nothing is done about it before it is applied, or cut by a
 * new leader. Once it is applied its blocks are damaged blocks like others, found in the log: the
 * healer gets them at the entry's version. What was overwritten meanwhile needs nothing. When all
 * entries of a group are right, or lost on all replicas, the replica may campaign again.
 *
 * A group whose entries are complete only on replicas like this one would have no leader for ever:
 * after a while without one the replica campaigns with what it has. It can send a follower no
 * payload that it lacks; but what a majority holds is committed, applied, and then healed. When
 * nothing comes of it, it makes room again (`pg/peers.ts`): others may be back by then.
 */
export class FaultyEntries {
  private readonly world: World;
  private readonly logger: Logger;
  private readonly healer: Healer;
  private readonly watched = new Map<Group, Watched>();
  private readonly timer: CallbackTimer;

  constructor(world: World, logger: Logger, healer: Healer) {
    this.world = world;
    this.logger = logger;
    this.healer = healer;
    this.timer = new CallbackTimer(() => this.tick());
  }

  /** Entries whose payload is not right yet. */
  get count(): number {
    let count = 0;
    for (const group of this.watched.keys()) count += group.faulty.length;
    return count;
  }

  /** Take care of the entries of a group, if it has some; again when there are more. */
  watch(group: Group): void {
    if (group.faulty.length === 0) return;
    const now = this.world.clock.nowUs();
    this.logger.warn("payload of entries is damaged in the log: it is fetched from peers", {
      pg: group.pg,
      entries: group.faulty.length,
      firstIndex: group.faulty[0]!.index,
    });
    const since = { pauseUs: LOOK_US_MIN, dueUs: now, leaderlessSinceUs: now };
    const before = this.watched.get(group);
    if (before === undefined) this.watched.set(group, { group, ...since, looking: false });
    else Object.assign(before, since);
    this.world.timers.arm(this.timer, LOOK_US_MIN);
  }

  stop(): void {
    this.world.timers.disarm(this.timer);
    this.watched.clear();
  }

  /** The timer: look at every group that is due. */
  tick(): void {
    const now = this.world.clock.nowUs();
    for (const [group, one] of this.watched) {
      if (group.shard.groups.get(group.pg) !== group || group.silent) {
        this.watched.delete(group);
        continue;
      }
      this.endBan(one, now);
      if (one.looking || one.dueUs > now) continue;
      one.looking = true;
      this.look(one).then(
        () => this.looked(one),
        (error: unknown) => {
          if (failOnBug(this.world, error)) return;
          this.logger.error("fetching payloads failed", { pg: group.pg, reason: String(error) });
          this.looked(one);
        },
      );
    }
    if (this.watched.size > 0) this.world.timers.arm(this.timer, LOOK_US_MIN);
  }

  /** Let the replica campaign when nobody else comes to lead. */
  private endBan(one: Watched, now: number): void {
    const { group } = one;
    if (!group.node.leaderless) one.leaderlessSinceUs = now;
    if (!group.node.faulty || now - one.leaderlessSinceUs < LEADERLESS_US) return;
    this.logger.warn("no leader: a replica with damaged payloads may campaign", { pg: group.pg });
    group.node.setFaulty(false);
    this.world.turns.again();
  }

  private async look(one: Watched): Promise<void> {
    const { group } = one;
    const done: FaultyEntry[] = [];
    for (const entry of group.faulty) {
      const applied = entry.index <= group.appliedIndex;
      if (isCut(group, entry) || (applied && (await this.isRight(group, entry)))) done.push(entry);
    }
    one.pauseUs = done.length > 0 ? LOOK_US_MIN : Math.min(one.pauseUs * 2, LOOK_US_MAX);
    // More may have been found meanwhile.
    group.faulty = group.faulty.filter((entry) => !done.includes(entry));
  }

  private looked(one: Watched): void {
    const { group } = one;
    one.looking = false;
    one.dueUs = this.world.clock.nowUs() + one.pauseUs;
    if (group.faulty.length > 0) return;
    this.watched.delete(group);
    group.node.setFaulty(false);
    this.logger.info("no entry lacks its payload any more", { pg: group.pg });
    this.world.turns.again();
  }

  /** Read the blocks of an applied entry here, and heal what is damaged. */
  private async isRight(group: Group, entry: FaultyEntry): Promise<boolean> {
    // Its record alone was damaged, and is known from the start.
    if (entry.blocks === 0) return true;
    const slot = this.world.slots.take(entry.blocks * BLOCK_SIZE);
    if (slot < 0) return false;
    let op: LookOp;
    try {
      op = await this.read(group, entry, slot);
    } finally {
      this.world.slots.release(slot);
    }
    if (op.status !== Status.Ok) return false;
    const healing: Promise<Healing>[] = [];
    for (let at = 0; at < entry.blocks; at++) {
      if (op.states[at] !== BlockState.Damaged) continue;
      const { layer, snapSeq } = entry;
      const block = entry.firstBlock + at;
      healing.push(this.healer.heal({ group, layer, block, snapSeq, version: op.versions[at]! }));
    }
    return !(await Promise.all(healing)).includes(Healing.Waiting);
  }

  private read(group: Group, entry: FaultyEntry, slot: number): Promise<LookOp> {
    return new Promise((resolve) => {
      const op = new LookOp(() => {
        this.world.turns.again();
        resolve(op);
      });
      op.layer = entry.layer;
      op.firstBlock = entry.firstBlock;
      op.blocks = entry.blocks;
      op.snapSeq = entry.snapSeq;
      op.own = true;
      op.arenaOffset = slot;
      op.status = group.requests.read(op);
      if (op.status !== Status.Ok) resolve(op);
      this.world.turns.again();
    });
  }
}

/** Whether a later leader's log has replaced the entry before it was applied. */
function isCut(group: Group, entry: FaultyEntry): boolean {
  if (entry.index <= group.appliedIndex) return false;
  return group.node.log.termAt(entry.index) !== entry.term;
}

class LookOp extends ReadRequestOp {
  private readonly done: () => void;

  constructor(done: () => void) {
    super();
    this.done = done;
  }

  override onAnswer(): void {
    this.done();
  }
}
