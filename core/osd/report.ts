// cold path: once a second per shard.
import type { Group, StoreUsage } from "../pg/pg.ts";
import { Role } from "../raft/raft.ts";

/** What a shard tells of one group: PgReport of `proto/control.proto` as plain values. */
export interface GroupReport {
  readonly pg: number;
  readonly replica: number;
  /** PgRole of `proto/control.proto`. */
  readonly role: number;
  readonly term: number;
  readonly leader: number;
  readonly commitIndex: number;
  readonly appliedIndex: number;
  readonly established: boolean;
  readonly configuration: {
    readonly index: number;
    readonly voters: number[];
    readonly outgoing: number[];
    readonly learners: number[];
  };
}

/** What a shard tells its osd's main thread: structured-clone-able. */
export interface ShardReport {
  readonly shard: number;
  readonly generation: number;
  readonly epoch: number;
  readonly pgs: GroupReport[];
  readonly unreachable: number[];
  readonly usage: StoreUsage;
  readonly counters: Readonly<Record<string, number>>;
  readonly requests: Readonly<Record<string, number>>;
  readonly raft: {
    readonly elections: number;
    readonly groups: number;
    readonly leaders: number;
    readonly heartbeats: number;
  };
}

const ROLE_FOLLOWER = 1;
const ROLE_CANDIDATE = 2;
const ROLE_LEADER = 3;
const ROLE_LEARNER = 4;
const ROLE_FILLING = 5;

/** Describe a group as it is now. */
export function reportOf(group: Group): GroupReport {
  const node = group.node;
  const conf = node.conf;
  const pick = (mask: number): number[] =>
    conf.members.filter((_, slot) => (mask & (1 << slot)) !== 0).map((member) => member.id);
  return {
    pg: group.pg,
    replica: group.replica,
    role: roleOf(group),
    term: node.term,
    leader: node.leader,
    commitIndex: group.commitIndex,
    appliedIndex: group.appliedIndex,
    established: group.serving,
    configuration: {
      index: group.confIndex,
      voters: pick(conf.voters),
      outgoing: pick(conf.outgoing),
      learners: pick(conf.learners),
    },
  };
}

function roleOf(group: Group): number {
  const node = group.node;
  if (group.isLeader) return ROLE_LEADER;
  if (node.filling || group.silent) return ROLE_FILLING;
  if (node.role !== Role.Follower) return ROLE_CANDIDATE;
  return (node.conf.learners & node.selfBit) === 0 ? ROLE_FOLLOWER : ROLE_LEARNER;
}
