// cold: the simulator
import { assert } from "../base/assert.ts";
import { type Group, GroupHealth } from "../pg/pg.ts";
import type { Configuration } from "../raft/raft.ts";

/** Of a log; a later term comes behind, whatever its index. */
interface Position {
  readonly index: number;
  readonly term: number;
}

/** What was durable at a replica when its process ended. */
interface End extends Position {
  readonly osd: number;
}

/** A joint configuration, and the commit index when it was first seen at its leader. */
interface Joint {
  readonly conf: Configuration;
  readonly fromIndex: number;
}

/**
 * What is committed stays, and lies on stable storage of a majority, of both in a joint configuration:
 * G1, seen from inside.
 *
 * Clients meet a loss only when the few replicas that have an entry go at the wrong moment; here it
 * shows at once. A replica that is there and whole says itself what it has, one that is down has what
 * was durable when its process ended. Others count as having an entry: one that is filled had it
 * before, or is damaged, which is another matter. And a process that starts again has what was durable
 * when it ended, or what a later leader put in its place.
 */
export class SimCommits {
  /** The highest committed entry of each group that was seen, with its term. */
  private readonly highest = new Map<number, Position>();
  /** By replica. Of one that runs: as of the end before. */
  private readonly ends = new Map<string, End>();
  /** Replicas that run, parked ones among them: those have all that there is. */
  private readonly running = new Set<string>();
  /** By leader. */
  private readonly joints = new WeakMap<Group, Joint>();
  /** Osds whose devices lied about what is stable: what they say of themselves proves nothing. */
  private readonly liars: ReadonlySet<number>;

  constructor(liars: ReadonlySet<number>) {
    this.liars = liars;
  }

  look(groups: readonly Group[]): void {
    for (const group of groups) if (isWhole(group)) this.compare(group);
    for (const group of groups) if (group.isLeader) this.count(group, groups);
  }

  /** A process ends, by a crash or a power cut. `served`: others heard of it. */
  end(groups: readonly Group[], served: boolean): void {
    for (const group of groups) {
      this.running.delete(keyOf(group));
      if (!served) continue;
      // The store may not know yet that its end was replaced: what raft counts on.
      const index = Math.min(group.node.durableIndex, group.shard.store.durableIndex(group.row));
      const term = group.node.log.termAt(index);
      const { osd } = group.shard;
      if (isWhole(group) && term >= 0) this.ends.set(keyOf(group), { index, term, osd });
      else this.ends.delete(keyOf(group));
    }
  }

  /** A process has started, and heard of nobody yet. */
  begin(groups: readonly Group[]): void {
    for (const group of groups) {
      this.running.add(keyOf(group));
      // What is filled begins elsewhere, what was damaged is gone.
      if (!isWhole(group)) this.ends.delete(keyOf(group));
      else if (!this.liars.has(group.shard.osd)) this.checkEnd(group);
    }
  }

  private checkEnd(group: Group): void {
    const end = this.ends.get(keyOf(group));
    if (end === undefined) return;
    const { lastIndex, lastTerm } = group.node.log;
    assert(
      lastTerm > end.term || (lastTerm === end.term && lastIndex >= end.index),
      `replica ${keyOf(group)} ends with entry ${String(lastIndex)} of term ${String(lastTerm)}, and entry ${String(end.index)} of term ${String(end.term)} was durable`,
    );
  }

  private compare({ pg, replica, node }: Group): void {
    const { log, commitIndex } = node;
    const known = this.highest.get(pg);
    if (known !== undefined && commitIndex >= known.index && log.baseIndex <= known.index) {
      const term = log.termAt(known.index);
      assert(
        term === known.term,
        `entry ${String(known.index)} of group ${String(pg)} was committed with term ${String(known.term)}, replica ${String(replica)} has it with term ${String(term)}`,
      );
    }
    if (known !== undefined && commitIndex <= known.index) return;
    this.highest.set(pg, { index: commitIndex, term: log.termAt(commitIndex) });
  }

  /** A majority of the voters has what their leader takes for committed. */
  private count(leader: Group, groups: readonly Group[]): void {
    const { pg, node } = leader;
    const { conf, commitIndex } = node;
    const lacking = conf.members.filter(({ id }) => this.lacks(leader, id, groups));
    const check = (half: number): void => {
      const voters = conf.members.filter((_, slot) => (half & (1 << slot)) !== 0);
      const without = voters.filter((voter) => lacking.includes(voter));
      assert(
        voters.length === 0 || without.length * 2 < voters.length,
        `entry ${String(commitIndex)} of group ${String(pg)} is committed, and not durable at replicas ${without.map(({ id }) => String(id)).join(", ")} of ${String(voters.length)}`,
      );
    };
    check(conf.outgoing);
    if (!conf.joint || this.isCommittedIn(leader)) check(conf.voters);
  }

  /** Whether the new half of a joint configuration was asked: not for what was committed before it. */
  private isCommittedIn(leader: Group): boolean {
    const { conf, commitIndex } = leader.node;
    const known = this.joints.get(leader);
    if (known?.conf === conf) return commitIndex > known.fromIndex;
    this.joints.set(leader, { conf, fromIndex: commitIndex });
    return false;
  }

  /** Whether a member does not have on stable storage what its leader takes for committed. */
  private lacks({ pg, node }: Group, replica: number, groups: readonly Group[]): boolean {
    const { commitIndex, log } = node;
    const member = groups.find((one) => one.pg === pg && one.replica === replica);
    if (member !== undefined) {
      if (this.liars.has(member.shard.osd) || !isWhole(member)) return false;
      return member.shard.store.durableIndex(member.row) < commitIndex;
    }
    const key = `${String(pg)}/${String(replica)}`;
    const end = this.running.has(key) ? undefined : this.ends.get(key);
    if (end === undefined || this.liars.has(end.osd)) return false;
    return end.index < commitIndex || end.term < log.termAt(commitIndex);
  }
}

/** Whether all that a replica has called durable lies on stable storage of a majority without it. */
export function isElsewhere(group: Group, groups: readonly Group[]): boolean {
  const { pg, replica, row, node, shard } = group;
  const { conf, log } = node;
  const index = shard.store.durableIndex(row);
  const holders = new Set<number>();
  for (const one of groups) {
    if (one.pg !== pg || one.replica === replica || !isWhole(one)) continue;
    if (one.shard.store.durableIndex(one.row) < index) continue;
    const other = one.node.log;
    if (other.baseIndex > index || other.termAt(index) === log.termAt(index)) {
      holders.add(one.replica);
    }
  }
  const isCovered = (half: number): boolean => {
    const voters = conf.members.filter((_, slot) => (half & (1 << slot)) !== 0);
    if (!voters.some(({ id }) => id === replica)) return true;
    return voters.filter(({ id }) => holders.has(id)).length * 2 > voters.length;
  };
  return isCovered(conf.voters) && isCovered(conf.outgoing);
}

function keyOf({ pg, replica }: Group): string {
  return `${String(pg)}/${String(replica)}`;
}

function isWhole(group: Group): boolean {
  const { store } = group.shard;
  if (group.isMute || group.gone || group.renewedAs > 0 || group.beginning !== null) return false;
  return group.fill === null && store.healthOf(group.row) === GroupHealth.Ok;
}
