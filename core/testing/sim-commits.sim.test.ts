/** The check of what is committed (`sim-commits.ts`) sees what it is there for. */
import { describe, expect, test } from "bun:test";
import { drainMicrotasks } from "bun:jsc";
import { BLOCK_SIZE } from "../base/units.ts";
import { OpKind, PromisedOp } from "../client/client.ts";
import { type Group, GroupHealth } from "../pg/pg.ts";
import {
  bootstrapConfiguration,
  changeConfiguration,
  type Configuration,
  CONFIGURATION_EMPTY,
} from "../raft/raft.ts";
import { SystemChecksum } from "../reactor/bun-system.ts";
import { groupsOf, SimCluster, type SimOsd } from "./sim-cluster.ts";
import { isElsewhere, SimCommits } from "./sim-commits.ts";

const LIMIT_US = 20_000_000;
const PG = 7;
const TERM = 3;

/** A replica of a group, on the osd of its number, with nothing but what the check looks at. */
function replicaOf(
  replica: number,
  durable: number,
  leads: [Configuration, number] = [CONFIGURATION_EMPTY, 0],
  durableOfRaft = durable,
): Group {
  const [conf, commitIndex] = leads;
  const store = { durableIndex: () => durable, healthOf: () => GroupHealth.Ok };
  const log = { termAt: () => TERM, baseIndex: 0, lastIndex: durable, lastTerm: TERM };
  return {
    ...{
      pg: PG,
      replica,
      row: 0,
      isLeader: conf !== CONFIGURATION_EMPTY,
      isMute: false,
      gone: false,
    },
    ...{ renewedAs: 0, beginning: null, fill: null },
    ...{
      shard: { osd: replica, store },
      node: { conf, commitIndex, log, durableIndex: durableOfRaft },
    },
  } as unknown as Group;
}

function members(count: number): Configuration {
  return bootstrapConfiguration(
    Array.from({ length: count }, (_, at) => ({ osd: at + 1, storeUuid: "0".repeat(32) })),
  );
}

describe("a committed entry that one of three has", () => {
  const leader = replicaOf(1, 10, [members(3), 10]);
  const behind = replicaOf(2, 9);

  const down = (durable: number, liars: ReadonlySet<number> = new Set()): SimCommits => {
    const commits = new SimCommits(liars);
    const third = replicaOf(3, durable);
    commits.begin([leader, behind, third]);
    commits.end([third], true);
    return commits;
  };

  test("is found while another one is down", () => {
    const text = "entry 10 of group 7 is committed, and not durable at replicas 2, 3 of 3";
    expect(() => down(9).look([leader, behind])).toThrow(text);
  });

  test("is none when the one that is down had it", () => {
    expect(() => down(10).look([leader, behind])).not.toThrow();
  });

  test("an entry that raft replaced, and the store not yet, is not at the end of who dies then", () => {
    const commits = new SimCommits(new Set());
    commits.end([replicaOf(3, 10, undefined, 9)], true);
    expect(() => commits.begin([replicaOf(3, 9)])).not.toThrow();
    commits.end([replicaOf(3, 10)], true);
    expect(() => commits.begin([replicaOf(3, 9)])).toThrow("ends with entry 9 of term 3");
  });

  test("is not known of devices that lied", () => {
    expect(() => down(9, new Set([3])).look([leader, behind])).not.toThrow();
    expect(() => down(9, new Set([4])).look([leader, behind])).toThrow();
  });

  test("is not known of what runs and is parked", () => {
    const commits = down(9);
    commits.begin([replicaOf(3, 9)]);
    expect(() => commits.look([leader, behind])).not.toThrow();
  });
});

describe("in a joint configuration", () => {
  // Voters 1, 2, 3 are being left for 3, 4, 5.
  const storeUuid = "0".repeat(32);
  const addLearners = [4, 5].map((osd) => ({ osd, storeUuid }));
  const before = changeConfiguration(members(3), { addLearners });
  const joint = changeConfiguration(before, { promote: [4, 5], remove: [1, 2] });
  const look = (commits: SimCommits, index: number, durable: readonly number[]): void => {
    const leader = replicaOf(3, index, [joint, index]);
    Object.assign(leader, { node: Object.assign(node, leader.node) });
    const others = [1, 2, 4, 5].map((id, at) => replicaOf(id, durable[at]!));
    commits.look([Object.assign(only, leader), ...others]);
  };
  // One object for all looks, as a replica is.
  const node = {};
  const only = {} as unknown as Group;

  test("the half that is left has what is committed", () => {
    expect(() => look(new SimCommits(new Set()), 10, [9, 9, 10, 10])).toThrow("replicas 1, 2 of 3");
  });

  test("the new half has what is committed since it counts", () => {
    const commits = new SimCommits(new Set());
    look(commits, 10, [10, 10, 5, 5]);
    look(commits, 10, [10, 10, 5, 5]);
    look(commits, 11, [11, 11, 11, 5]);
    expect(() => look(commits, 12, [12, 12, 11, 5])).toThrow("replicas 4, 5 of 3");
  });
});

describe("what one replica has lies elsewhere", () => {
  const storeUuid = "0".repeat(32);
  const before = changeConfiguration(members(3), {
    addLearners: [4, 5].map((osd) => ({ osd, storeUuid })),
  });
  const joint = changeConfiguration(before, { promote: [4, 5], remove: [1, 2] });
  // Durable indexes of replicas 1, 2, …; the first one may lose 10.
  const among = (conf: Configuration, durable: readonly number[], who = 1): boolean => {
    const all = durable.map((index, at) => replicaOf(at + 1, index, [conf, 9]));
    return isElsewhere(all[who - 1]!, all);
  };

  test.each([
    [3, [10, 10, 10], true],
    [3, [10, 10, 9], false],
    [3, [10, 12, 11], true],
    [3, [10, 10], false],
    [5, [10, 10, 10, 10, 9], true],
    [5, [10, 10, 10, 9, 9], false],
  ] as const)("of %d, with %j durable: %p", (count, durable, isThere) => {
    expect(among(members(count), durable)).toBe(isThere);
  });

  test("in each half of a joint configuration that it votes in", () => {
    expect(among(joint, [10, 10, 10, 0, 0])).toBe(true);
    expect(among(joint, [10, 10, 10, 0, 0], 3)).toBe(false);
    expect(among(joint, [10, 10, 10, 10, 10], 3)).toBe(true);
  });

  test("with the same term, or beneath what is left of a log", () => {
    const conf = members(3);
    const liar = replicaOf(1, 10, [conf, 9]);
    const isThere = (log: object): boolean => {
      const other = replicaOf(2, 10);
      Object.assign(other.node.log, log);
      return isElsewhere(liar, [liar, other, replicaOf(3, 10)]);
    };
    expect(isThere({})).toBe(true);
    expect(isThere({ termAt: () => TERM - 1 })).toBe(false);
    expect(isThere({ termAt: () => -1, baseIndex: 11 })).toBe(true);
  });
});

test("a follower that acknowledges before its log is durable is found while the third one is down", () => {
  const cluster = new SimCluster(3, {
    osds: 3,
    replicas: 3,
    pgCount: 1,
    imageBytes: 1_048_576,
    checksum: new SystemChecksum(),
    drainMicrotasks,
  });
  cluster.start();
  const { simulation, osds, clientWorld } = cluster;
  const image = cluster.await("open", cluster.client.openImage("pool/image"));
  const offset = clientWorld.arena.allocate(BLOCK_SIZE);
  const write = (block: number): Promise<unknown> => {
    const op = new PromisedOp();
    op.kind = OpKind.Write;
    op.offsetBytes = block * BLOCK_SIZE;
    op.lengthBytes = BLOCK_SIZE;
    op.arenaOffset = offset;
    return image.run(op);
  };
  cluster.await("write", write(0));
  const groupOf = (osd: SimOsd): Group => groupsOf(osd)[0]!;
  const leader = osds.find((osd) => groupOf(osd).isLeader)!;
  const [early, away] = osds.filter((osd) => osd !== leader);
  const commits = new SimCommits(new Set());
  commits.begin(osds.map(groupOf));
  commits.end([groupOf(away!)], true);
  away!.world!.crash();
  const look = (): void => commits.look([groupOf(leader), groupOf(early!)]);
  cluster.await("write", write(1));
  look();
  // The planted bug: what has arrived counts as durable. And nothing becomes so any more.
  const { node } = groupOf(early!);
  Object.defineProperty(node, "durableIndex", { get: () => node.log.lastIndex, set: () => {} });
  simulation.disk(early!.path).faults.stalled = true;
  let isAnswered = false;
  const answer = write(2).then(() => {
    isAnswered = true;
  });
  expect(simulation.run(() => isAnswered, LIMIT_US)).toBe(true);
  expect(look).toThrow("is committed, and not durable at replicas");
  simulation.dispose();
  return answer;
});
