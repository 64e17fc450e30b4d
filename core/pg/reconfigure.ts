// cold path: configurations and leaders change a few times a day.
/**
 * What a leader does so that its group becomes what the map wants.
 *
 * One step at a time, each from the configuration that is applied; a leader that comes in between
 * goes on from there:
 *
 *   wanted and no member      add as learner, under the id of the map
 *   learner, caught up        becomes a voter; in the same joint step leaves a voter that is not
 *                             wanted, so that never fewer copies count than before
 *   learner, not wanted       remove
 *   this leader, not wanted   hand leadership to a wanted voter first
 *   joint                     raft leaves it
 *
 * A voter goes only against another one, or where there are more than wanted; and only if enough of
 * those that stay are reachable to go on without it. A witness goes against a witness, data against
 * data.
 *
 * Leaders also go home: to the replica that the map names first, once it has been reachable for a
 * while and lacks nothing; each second one of the shard's, or one in 32 of those that wait. One by one
 * was not enough: 4,096 groups took an hour, in which every second brought another map. Leadership that
 * came by a transfer stays for a minute: somebody had a reason, such as a slow device. A restart of the
 * preferred osd ends that. A shard that stops, or whose device is slow, hands over all that it leads
 * (`transferAll`); while the device is slow it takes no leadership that is handed to it, and gives away
 * what it is elected to.
 *
 * A configuration is told to the monitor once it is settled: a majority of its voters knows on disk
 * that it is committed. Only then may a replica that it lacks be destroyed (`membership.ts`).
 *
 * Knowing it in memory was not enough. Story: 4 comes for 1, all know that 2,3,4 is committed, 1 is
 * destroyed. Power fails everywhere, and the disk of 3 does not come back. 2 and 4 have the entry, and
 * not that it is committed: they ask for majorities of 2,3,4 and of 1,2,3, for ever.
 *
 * Who has an entry that was proposed when the configuration was committed has that on its disk, as the
 * record of an entry tells the commit index that came with it. So one entry behind it settles it once
 * that is committed: voters without it have older logs, and vote for one with it. A new leader's Noop
 * is such an entry; where nobody writes, a Noop is proposed.
 */
import type { PgInfo } from "../cluster/cluster.ts";
import { type Entry, EntryType } from "../log/log.ts";
import { Status } from "../base/status.ts";
import { uuidDigits } from "../base/uuid.ts";
import {
  changeConfiguration,
  type ConfChange,
  type Configuration,
  encodeConfiguration,
  ENTRY_KIND_NOOP,
  formatConfiguration,
  hasQuorum,
  type Member,
} from "../raft/raft.ts";
import { CallbackTimer } from "../reactor/world.ts";
import type { Group } from "./group.ts";
import type { PeerLink } from "./peer-link.ts";
import type { PgShard } from "./pg.ts";

/** After something changed, and while what is there differs from what is wanted. */
const SOON_US = 10_000;
const LOOK_US = 500_000;
/** The preferred leader must have been reachable for this long. */
const HOME_LINK_US = 10_000_000;
/** Between two times that leaders go home, and how many shares of those that wait do so at each. */
const HOME_PACE_US = 1_000_000;
const HOME_SHARES = 32;
const TRANSFER_RETRY_US = 5_000_000;
/** Leadership that was handed over stays at least this long. */
const STAY_US = 60_000_000;

/** What a leader knows of the members, as masks of slots. */
export interface MemberView {
  /** Reachable, this leader included. */
  readonly live: number;
  /** Learners that hold all that they need to vote. */
  readonly ready: number;
  /** This leader. */
  readonly self: number;
}

/**
 * The configuration that comes next on the way from `conf` to one with `wanted` as its voters; null:
 * nothing to do now.
 */
export function nextConfiguration(
  conf: Configuration,
  wanted: readonly Member[],
  view: MemberView,
): Configuration | null {
  if (conf.joint) return null;
  const isWanted = (member: Member): boolean => wanted.some((one) => one.id === member.id);
  const slotsOf = (mask: number): Member[] =>
    conf.members.filter((_, slot) => (mask & (1 << slot)) !== 0);
  // An id below the next one was given out before: its replica has left, or never comes. Where it is
  // wanted, a leader with an older map took it for a stray: the monitor gives the place a new one.
  const missing = wanted
    .filter((one) => one.id >= conf.nextReplicaId)
    .sort((left, right) => left.id - right.id);
  const strays = slotsOf(conf.learners).filter((member) => !isWanted(member));
  if (missing.length + strays.length > 0) {
    return changeConfiguration(conf, { addLearners: missing, remove: idsOf(strays) });
  }
  const promote = slotsOf(conf.learners & view.ready).filter(isWanted);
  const voters = slotsOf(conf.voters);
  const rank = (member: Member): number => {
    if (member.id === view.self) return 2;
    return (view.live & (1 << conf.slotOf(member.id))) === 0 ? 0 : 1;
  };
  const spare = (isWitness: boolean): Member[] => {
    const count = (members: readonly Member[]): number =>
      members.filter((member) => (member.witness === true) === isWitness).length;
    const kept = Math.min(count(voters), count(wanted));
    return voters
      .filter((member) => (member.witness === true) === isWitness && !isWanted(member))
      .sort((left, right) => rank(left) - rank(right))
      .slice(0, count(voters) + count(promote) - kept);
  };
  const remove = [...spare(false), ...spare(true)].sort((left, right) => rank(left) - rank(right));
  while (promote.length + remove.length > 0) {
    const change: ConfChange = { promote: idsOf(promote), remove: idsOf(remove) };
    const next = hasMajorityOfData(conf, change) ? changeConfiguration(conf, change) : null;
    if (next !== null && staysAlive(conf, next, view.live)) return next;
    if (remove.pop() === undefined) return null;
  }
  return null;
}

/** Whether the voters behind a change are mostly such with data, as raft wants it. */
function hasMajorityOfData(conf: Configuration, change: ConfChange): boolean {
  const { promote = [], remove = [] } = change;
  const voters = conf.members.filter((member) =>
    conf.isVoter(member.id) ? !remove.includes(member.id) : promote.includes(member.id),
  );
  return voters.filter((member) => member.witness !== true).length * 2 > voters.length;
}

function idsOf(members: readonly Member[]): number[] {
  return members.map((member) => member.id);
}

/** Whether the reachable members are a quorum of `next`, and of what comes behind it. */
function staysAlive(conf: Configuration, next: Configuration, live: number): boolean {
  let mask = 0;
  next.members.forEach((member, slot) => {
    if ((live & (1 << conf.slotOf(member.id))) !== 0) mask |= 1 << slot;
  });
  return hasQuorum(mask, next.voters, next.outgoing);
}

/** Looks after the groups that this shard leads. */
export class Reconfigurer {
  private readonly shard: PgShard;
  private readonly watched = new Set<Group>();
  private readonly timer: CallbackTimer;
  /** No leader goes home before, and how many do then. */
  private nextHomeUs = 0;
  private homesLeft = 0;
  private stopped = false;
  /** An entry is under way that settles a configuration. */
  private settling = false;

  constructor(shard: PgShard) {
    this.shard = shard;
    this.timer = new CallbackTimer(() => this.onTimer());
  }

  /** The map's row or the configuration of a group changed. */
  look(group: Group): void {
    if (!group.isLeader || this.stopped) return;
    this.watched.add(group);
    const { world } = this.shard;
    const soonUs = world.clock.nowUs() + SOON_US;
    if (this.timer.timerDueUs < 0 || this.timer.timerDueUs > soonUs) {
      world.timers.arm(this.timer, SOON_US);
    }
  }

  /** This shard leads the group, from now on. */
  onLeader(group: Group): void {
    const handed = group.node.campaignTransfer;
    group.stayUntilUs = handed ? this.shard.world.clock.nowUs() + STAY_US : 0;
    group.transferAfterUs = 0;
    group.settledTold = -1;
    this.look(group);
  }

  /** What made a leader leave the process at the other end ended with it. */
  onPeerRestarted(link: PeerLink): void {
    for (const group of this.watched) {
      if (group.peerOf(group.preferred)?.link === link) group.stayUntilUs = 0;
    }
  }

  /** Whether there is something to do about a group that is led here. */
  minds(group: Group): boolean {
    return this.watched.has(group);
  }

  /** Move nothing any more. */
  stop(): void {
    this.stopped = true;
    this.watched.clear();
    this.shard.world.timers.disarm(this.timer);
  }

  /** The timer. */
  onTimer(): void {
    const now = this.shard.world.clock.nowUs();
    this.settling = false;
    if (now >= this.nextHomeUs) this.homesLeft = Math.ceil(this.watched.size / HOME_SHARES);
    for (const group of this.watched) {
      if (!this.advance(group, now)) this.watched.delete(group);
    }
    const delayUs = this.settling ? SOON_US : LOOK_US;
    if (this.watched.size > 0) this.shard.world.timers.arm(this.timer, delayUs);
  }

  /** Do what is due. Answers whether something is left to do. */
  private advance(group: Group, now: number): boolean {
    const { info } = group;
    if (group.gone || !group.serving || info === null) return false;
    const settled = this.tellSettled(group);
    if (this.shard.raft.reluctant) return this.giveAway(group, now);
    const changing = this.change(group, info, now);
    if (changing) return true;
    return this.goHome(group, now) || !settled;
  }

  private tellSettled(group: Group): boolean {
    if (!isSettled(group)) {
      if (group.node.log.lastIndex <= group.settlesBehind) this.settle(group);
      return false;
    }
    if (group.settledTold !== group.confIndex) this.shard.onSettled(group);
    group.settledTold = group.confIndex;
    return true;
  }

  /** Nobody wrote since the configuration was applied: a Noop stands behind it as well. */
  private settle(group: Group): void {
    const entry = this.shard.store.entries.take();
    entry.type = EntryType.Noop;
    if (this.append(group, entry, () => group.node.propose(ENTRY_KIND_NOOP)) >= 0) {
      this.settling = true;
    }
  }

  /* ---------------------------------------------------------- configuration */

  /** One step towards what the map wants. Answers whether there is more to do. */
  private change(group: Group, info: PgInfo, now: number): boolean {
    const { node } = group;
    if (isReached(node.conf, info)) return false;
    const wanted = wantedOf(info);
    if (this.leaveFirst(group, wanted, now)) return true;
    const next = nextConfiguration(node.conf, wanted, viewOf(group));
    if (next !== null) this.propose(group, next);
    return true;
  }

  /** A leader that is not wanted hands over, while there is somebody. Answers whether it began. */
  private leaveFirst(group: Group, wanted: readonly Member[], now: number): boolean {
    const { node } = group;
    if (wanted.some((one) => one.id === group.replica) || now < group.transferAfterUs) return false;
    for (const one of wanted) {
      const slot = node.conf.slotOf(one.id);
      if (slot < 0 || one.witness === true) continue;
      if ((node.conf.voters & (1 << slot)) === 0 || !node.caughtUp(slot)) continue;
      group.transferAfterUs = now + TRANSFER_RETRY_US;
      return node.transferLeadership(one.id);
    }
    return false;
  }

  private propose(group: Group, next: Configuration): void {
    const entry = this.shard.store.entries.take();
    entry.type = EntryType.Conf;
    entry.data = encodeConfiguration(next);
    const index = this.append(group, entry, () => group.node.proposeConfiguration(next));
    if (index < 0) return;
    this.shard.logger.info("changing a configuration", {
      pg: group.pg,
      index,
      to: formatConfiguration(next),
    });
  }

  /** Answers the index; negative: not now, and the entry is released. */
  private append(group: Group, entry: Entry, propose: () => number): number {
    const { store } = this.shard;
    if (store.reserve(group.row, entry) !== Status.Ok) {
      // The log is full: at the next look there is room again.
      store.entries.release(entry);
      return -1;
    }
    const index = propose();
    if (index < 0) {
      store.unreserve(entry);
      store.entries.release(entry);
      return -1;
    }
    group.keep(entry, index, group.node.term);
    return index;
  }

  /* ------------------------------------------------------------- leadership */

  /** It was elected here though the device is slow. Answers that it is still to be done. */
  private giveAway(group: Group, now: number): boolean {
    if (now >= group.transferAfterUs) {
      group.transferAfterUs = now + TRANSFER_RETRY_US;
      this.transfer(group, 0);
    }
    return true;
  }

  /** Hand leadership to the preferred replica. Answers whether it is still to be done. */
  private goHome(group: Group, now: number): boolean {
    const { node, preferred } = group;
    if (preferred === group.replica || preferred === 0) return false;
    const slot = node.conf.slotOf(preferred);
    if (slot < 0 || (node.conf.voters & (1 << slot)) === 0) return false;
    const link = group.peers[slot]?.link;
    const isDue = this.homesLeft > 0 && now >= Math.max(group.stayUntilUs, group.transferAfterUs);
    const isUp = link !== undefined && link.up && now - link.upSinceUs >= HOME_LINK_US;
    if (!isDue || !isUp || !node.caughtUp(slot)) return true;
    group.transferAfterUs = now + TRANSFER_RETRY_US;
    this.nextHomeUs = now + HOME_PACE_US;
    this.homesLeft -= 1;
    if (node.transferLeadership(preferred)) {
      this.shard.logger.debug("leadership goes home", { pg: group.pg, to: preferred });
    }
    return true;
  }

  /** Groups that are led here and could be led elsewhere. */
  ledGroups(): Group[] {
    const { groups, parking } = this.shard;
    for (const row of parking.rows.ledRows()) groups.at(row);
    return groups.awake().filter((group) => group.isLeader && group.node.conf.members.length > 1);
  }

  /** Begin to hand every leadership over that another replica can take. */
  transferAll(): void {
    for (const group of this.ledGroups()) {
      this.transfer(group, 0);
      this.look(group);
    }
  }

  /** Begin a transfer to `to`, or to the peer with data that is furthest (0). Answers whether it began. */
  transfer(group: Group, to: number): boolean {
    if (to !== 0) return group.node.transferLeadership(to);
    let best = 0;
    let bestMatch = -1;
    for (let slot = 0; slot < group.node.progress.length; slot++) {
      const progress = group.node.progress[slot]!;
      const peer = group.peers[slot] ?? null;
      if (peer === null || !peer.link.up || progress.match <= bestMatch) continue;
      const { conf } = group.node;
      if (!conf.isVoter(peer.replica) || (conf.witnesses & (1 << slot)) !== 0) continue;
      best = peer.replica;
      bestMatch = progress.match;
    }
    return best !== 0 && group.node.transferLeadership(best);
  }
}

/** Whether the configuration that this leader applied may be told, see the file's comment. */
export function isSettled(group: Group): boolean {
  return group.serving && group.commitIndex > group.settlesBehind;
}

function wantedOf(info: PgInfo): Member[] {
  return info.replicas
    .filter((one) => !one.leaving)
    .map((one) => ({
      id: one.replicaId,
      osd: one.osd,
      storeUuid: uuidDigits(one.storeUuid),
      witness: one.witness,
    }));
}

/** Whether the voters are the wanted ones, and nobody else is a member. Makes nothing: thousands wait to go home. */
function isReached(conf: Configuration, { replicas }: PgInfo): boolean {
  if (conf.joint || conf.learners !== 0) return false;
  let wanted = 0;
  for (const one of replicas) {
    if (one.leaving) continue;
    if (conf.slotOf(one.replicaId) < 0) return false;
    wanted += 1;
  }
  return conf.members.length === wanted;
}

function viewOf(group: Group): MemberView {
  const { node, peers } = group;
  let live = node.selfBit;
  let ready = 0;
  node.conf.members.forEach((_, slot) => {
    const bit = 1 << slot;
    if (peers[slot]?.link.up === true) live |= bit;
    // It knows the configuration that made it a learner once it has it on its disk, and that it is
    // committed. The latter alone is told from memory: of a disk that answers nothing it says no more.
    const { match, commitKnown } = node.progress[slot]!;
    const knows = Math.min(match, commitKnown) >= group.confIndex;
    if (knows && node.caughtUp(slot)) ready |= bit;
  });
  return { live, ready, self: group.replica };
}
