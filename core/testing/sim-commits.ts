// cold: the simulator
import { assert } from "../base/assert.ts";
import { type Group, GroupHealth } from "../pg/pg.ts";

/** Of a log; a later term comes behind, whatever its index. */
interface Position {
  readonly index: number;
  readonly term: number;
}

/**
 * What is committed stays, and lies on stable storage of a majority: G1, seen from inside.
 *
 * Clients meet a loss only when the few replicas that have an entry go at the wrong moment; here it
 * shows at once. A replica counts as having an entry unless it is there, whole, and says otherwise:
 * one that is down or filled had it before, or is damaged, which is another matter. And a process
 * that starts again has what was durable when it ended, or what a later leader put in its place.
 */
export class SimCommits {
  /** The highest committed entry of each group that was seen, with its term. */
  private readonly highest = new Map<number, Position>();
  /** By replica: the end of what was durable when its process ended. */
  private readonly ends = new Map<string, Position>();
  /** Devices lie about what is stable: what a replica says of itself proves nothing. */
  private readonly trusts: boolean;

  constructor(trusts: boolean) {
    this.trusts = trusts;
  }

  look(groups: readonly Group[]): void {
    for (const group of groups) if (isWhole(group)) this.compare(group);
    if (!this.trusts) return;
    for (const group of groups) if (group.isLeader && !group.node.conf.joint) count(group, groups);
  }

  /** A process ends, by a crash or a power cut. */
  end(groups: readonly Group[]): void {
    for (const group of groups) {
      if (!isWhole(group)) continue;
      const index = group.shard.store.durableIndex(group.row);
      const term = group.node.log.termAt(index);
      if (term >= 0) this.ends.set(keyOf(group), { index, term });
    }
  }

  /** A process has started, and heard of nobody yet. */
  begin(groups: readonly Group[]): void {
    if (this.trusts) for (const group of groups) this.checkEnd(group);
  }

  private checkEnd(group: Group): void {
    const end = this.ends.get(keyOf(group));
    this.ends.delete(keyOf(group));
    // What is filled begins elsewhere, what was damaged is gone.
    if (end === undefined || !isWhole(group)) return;
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
}

function keyOf({ pg, replica }: Group): string {
  return `${String(pg)}/${String(replica)}`;
}

/** A majority of the voters has what their leader takes for committed. */
function count(leader: Group, groups: readonly Group[]): void {
  const { pg, node } = leader;
  const { conf, commitIndex } = node;
  const voters = conf.members.filter(({ id }) => conf.isVoter(id));
  const lacking = voters.filter(({ id }) =>
    groups.some((one) => one.pg === pg && one.replica === id && lacks(one, commitIndex)),
  );
  assert(
    lacking.length * 2 < voters.length,
    `entry ${String(commitIndex)} of group ${String(pg)} is committed, and not durable at replicas ${lacking.map(({ id }) => String(id)).join(", ")} of ${String(voters.length)}`,
  );
}

function lacks(group: Group, index: number): boolean {
  return isWhole(group) && group.shard.store.durableIndex(group.row) < index;
}

function isWhole(group: Group): boolean {
  const { store } = group.shard;
  if (group.isMute || group.gone || group.renewedAs > 0 || group.beginning !== null) return false;
  return group.fill === null && store.healthOf(group.row) === GroupHealth.Ok;
}
