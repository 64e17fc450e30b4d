// cold: the simulator
import { assert } from "../base/assert.ts";
import { UNIT_SIZE } from "../base/units.ts";
import {
  fsckStore,
  GroupHealth,
  type Group,
  inspectStore,
  UnitListing,
  UnitState,
} from "../pg/pg.ts";
import { formatConfiguration } from "../raft/raft.ts";
import { awakeOf, groupsOf, isServing, type SimCluster, type SimOsd } from "./sim-cluster.ts";
import type { SimDevices } from "./sim-devices.ts";
import { SimCommits } from "./sim-commits.ts";
import type { SimProbes } from "./sim-probes.ts";
import { FORMATS_NEXT } from "./sim-versions.ts";

/** What must hold at any time, and what must be once all faults have ended. */

/**
 * Looks at all replicas every few milliseconds.
 *
 * One leader a term; what is committed (`sim-commits.ts`). Nobody becomes a voter that lacks something: not while it is filled, and not
 * before it has learned of the configuration that made it a learner; else the group would lose one
 * of its copies with the voter that goes for it.
 */
export class SimWatch {
  private readonly cluster: SimCluster;
  /** Osd that led a group in a term. */
  private readonly leaders = new Map<string, number>();
  /** Replicas that were filled at the last look, and by what; that have applied a configuration with them. */
  private filled = new Map<string, object>();
  private readonly members = new Set<string>();
  private readonly voters = new Set<string>();

  /** Osds whose devices have lost or misdirected writes, or lied about flushes. */
  readonly liars = new Set<number>();
  readonly probes: SimProbes;
  private readonly commits: SimCommits;

  constructor(cluster: SimCluster, probes: SimProbes) {
    this.cluster = cluster;
    this.probes = probes;
    this.commits = new SimCommits(this.liars);
  }

  look(): void {
    const groups = this.cluster.osds
      .filter((osd) => osd.world?.alive === true)
      .flatMap((osd) => awakeOf(osd));
    const filled = new Map<string, object>();
    for (const group of groups) {
      const key = keyOf(group, group.replica);
      if (group.shard.store.healthOf(group.row) === GroupHealth.Filling) {
        filled.set(key, group.fill ?? group);
      }
      if (group.node.conf.slotOf(group.replica) >= 0) this.members.add(key);
    }
    for (const group of groups) if (group.isLeader) this.lookAt(group, groups, filled);
    this.filled = filled;
    this.commits.look(groups);
    this.probes.look(groups);
  }

  /** A process has opened its stores. */
  begin(osd: SimOsd): void {
    this.commits.begin(groupsOf(osd));
  }

  /** A process ends. */
  end(osd: SimOsd): void {
    this.probes.count(osd);
    this.commits.end(groupsOf(osd), osd.session !== null);
  }

  private lookAt(
    leader: Group,
    groups: readonly Group[],
    filled: ReadonlyMap<string, object>,
  ): void {
    const { osd } = leader.shard;
    const term = `${String(leader.pg)}/${String(leader.node.term)}`;
    const before = this.leaders.get(term) ?? osd;
    assert(
      before === osd,
      `two leaders in term ${term}: osd.${String(before)}, osd.${String(osd)}`,
    );
    this.leaders.set(term, osd);
    checkLease(leader, groups);
    for (const member of leader.node.conf.members) {
      const key = keyOf(leader, member.id);
      if (!leader.node.conf.isVoter(member.id) || this.voters.has(key)) continue;
      this.voters.add(key);
      if (!groups.some((one) => keyOf(one, one.replica) === key)) continue;
      // By the same fill: between two looks one may have ended, and another begun.
      const lacks = filled.has(key) && filled.get(key) === this.filled.get(key);
      assert(!lacks, `replica ${key} became a voter while it was filled`);
      assert(this.members.has(key), `replica ${key} became a voter before it knew that it is one`);
    }
  }
}

/** G2, seen from inside: while a lease holds nobody else is elected. */
function checkLease(leader: Group, groups: readonly Group[]): void {
  const { pg, shard, node } = leader;
  const isLater = (one: Group): boolean =>
    one.pg === pg && one.isLeader && one.node.term > node.term;
  if (!groups.some(isLater)) return;
  assert(
    !leader.leaseHolds(shard.world.clock.nowUs()),
    `the lease of osd.${String(shard.osd)} for group ${String(pg)} holds, and another leader was elected`,
  );
}

function keyOf(group: Group, replica: number): string {
  return `${String(group.pg)}/${String(replica)}`;
}

/**
 * Every osd is up, every group has the replicas that the map wants and no others, each counts and has
 * applied what its leader has, and the monitor is content. Answers what is missing; empty: nothing.
 *
 * Who is down is looked at first: what a process that ended had applied can still be seen, its next one
 * begins with less, and the monitor misses a machine that lost its power only some seconds later.
 */
export function unrest(cluster: SimCluster): string {
  const away = cluster.osds.find((osd) => !isServing(osd));
  if (away !== undefined) return `osd.${String(away.id)} is down`;
  if (!cluster.settled) return "configurations are not what the map wants";
  const groups = cluster.osds.flatMap(groupsOf);
  const { pgs } = cluster;
  const wanted = pgs.flatMap((pg) => pg.replicas.map((one) => one.replicaId));
  if (groups.length !== wanted.length) {
    return `${String(groups.length)} replicas, wanted ${String(wanted.length)}`;
  }
  for (const pg of pgs) {
    const members = groups.filter((group) => group.pg === pg.id);
    const leader = members.find((group) => group.serving);
    if (leader === undefined) return `nobody leads group ${String(pg.id)}`;
    for (const member of members) {
      const what = unrestOf(member, leader);
      if (what !== "")
        return `replica ${String(member.replica)} of group ${String(pg.id)}: ${what}`;
    }
  }
  // What devices have failed to read is a warning for an hour.
  const check = [...cluster.health].find(([code]) => code !== "OSD_READ_ERRORS");
  return check === undefined ? "" : `health: ${check[1].summary}`;
}

function unrestOf(group: Group, leader: Group): string {
  const { store } = group.shard;
  if (group.creating || group.silent) return "takes no part";
  if (store.healthOf(group.row) !== GroupHealth.Ok || group.fill !== null) return "is filled";
  if (group.faulty.length > 0) return "lacks payloads";
  if (group.appliedIndex !== leader.node.log.lastIndex) return "is behind";
  return "";
}

/** What the replicas of all groups are at, for the message of a failure. */
export function describe(cluster: SimCluster): string {
  const lines = cluster.osds.map((osd) => {
    const isUp = osd.world?.alive === true;
    return [`osd.${String(osd.id)} ${isUp ? "is up" : "is down"}`, ...groupsOf(osd).map(textOf)];
  });
  return lines.flat().join("\n");
}

function textOf(group: Group): string {
  const { node, shard } = group;
  const facts = {
    role: group.isLeader ? "leads" : "follows",
    health: group.silent ? "Silent" : GroupHealth[shard.store.healthOf(group.row)],
    term: node.term,
    base: node.log.baseIndex,
    applied: group.appliedIndex,
    commit: group.commitIndex,
    last: node.log.lastIndex,
  };
  return `  ${keyOf(group, group.replica)} of ${formatConfiguration(node.conf)}: ${JSON.stringify(facts)}`;
}

/**
 * All replicas of a group know the same of sessions and fences, and those with data show the same,
 * block by block: state, version and checksum. A witness holds nothing.
 */
export function compareReplicas(cluster: SimCluster): void {
  for (const pg of cluster.pgs) {
    const members = cluster.osds.flatMap((osd) => {
      const group = groupsOf(osd).find((one) => one.pg === pg.id);
      return group === undefined ? [] : [{ osd, group, text: shown(cluster, group) }];
    });
    const first = members.find(({ group }) => !group.witness);
    for (const { osd, group, text } of members) {
      if (group.witness) {
        assert(group.shard.store.bytesOf(group.row) === 0, "a witness holds units");
        const state = stateOf(group);
        assert(text === state, `a witness shows blocks:\n${text}`);
        assert(state === stateOf(first!.group), `a witness knows something else:\n${state}`);
        continue;
      }
      assert(
        text === first!.text,
        `replicas of group ${String(pg.id)} differ: osd.${String(osd.id)} shows\n${text}\nosd.${String(first!.osd.id)} shows\n${first!.text}`,
      );
    }
  }
}

/**
 * All units of a group, as its store shows them: the same object each time. Time passes when rows of its
 * index have to be loaded.
 */
export function* unitsOf(cluster: SimCluster, group: Group): Generator<UnitState> {
  const { store } = group.shard;
  const listing = new UnitListing();
  const state = new UnitState();
  for (let cursor = 0; cursor >= 0; ) {
    cursor = store.listUnits(group.row, cursor, listing);
    for (let at = 0; at < listing.count; at++) {
      state.layer = listing.layers[at]!;
      state.unit = listing.units[at]!;
      state.snapSeq = listing.snapSeqs[at]!;
      const look = (): void => store.unitState(group.row, state);
      if (store.isPaged) cluster.await("index", store.withUnits(group.row, [state], look));
      else look();
      yield state;
    }
  }
}

/** All units of a group as its store shows them, one line each. */
function shown(cluster: SimCluster, group: Group): string {
  const lines: string[] = [];
  for (const { layer, unit, snapSeq, states, versions, crcs } of unitsOf(cluster, group)) {
    if (states.every((one) => one === 0)) continue;
    const blocks = [...versions].map(
      (version, bit) => `${String(states[bit])}:${String(version)}:${String(crcs[bit])}`,
    );
    lines.push(`${String(layer)}/${String(unit)}/${String(snapSeq)} ${blocks.join(" ")}`);
  }
  lines.push(stateOf(group));
  return [...new Set(lines)].sort().join("\n");
}

function stateOf(group: Group): string {
  return JSON.stringify(group.encodeState());
}

/** Every unit in use belongs to a replica that is there, and no block was given up. */
export function checkUnits(cluster: SimCluster): void {
  for (const osd of cluster.osds) {
    for (const { pg } of osd.shards) {
      const name = `osd.${String(osd.id)} shard ${String(pg.shardIndex)}`;
      let held = 0;
      for (const group of pg.groups.values()) held += pg.store.bytesOf(group.row) / UNIT_SIZE;
      const used = pg.store.usage().bytesUsed / UNIT_SIZE;
      assert(
        used === held,
        `${name}: ${String(used)} units in use, its replicas hold ${String(held)}`,
      );
      const lost = pg.store.lost(1).count;
      assert(lost === 0, `${name}: ${String(lost)} blocks are lost`);
    }
  }
}

/** A process has opened its stores: it distrusts none whose device was never damaged. */
export function checkOpened(osd: SimOsd, devices: SimDevices): void {
  if (devices.isMarred(osd)) return;
  for (const group of groupsOf(osd)) {
    const isTrusted = group.shard.store.healthOf(group.row) !== GroupHealth.Distrusted;
    const name = `replica ${keyOf(group, group.replica)} of osd.${String(osd.id)}`;
    assert(isTrusted, `${name} is distrusted, and nothing of its device was damaged`);
  }
}

/** A process ends: it has read nothing wrong from a device that was never damaged, and never failed a read. */
export function checkEnded(osd: SimOsd, devices: SimDevices): void {
  if (devices.isMarred(osd) || devices.hasFailedReads(osd)) return;
  for (const { pg } of osd.shards) {
    const count = osd.session === null ? 0 : pg.store.counters.checksumFailures;
    const text = `${String(count)} checksums failed, and nothing of its device was damaged`;
    assert(count === 0, `osd.${String(osd.id)}: ${text}`);
  }
}

/**
 * Stop an osd in order: its store holds the replicas that the map wants and no others, and is whole, but
 * for what was damaged and nobody reads any more.
 */
export async function checkStopped(
  cluster: SimCluster,
  osd: SimOsd,
  devices: SimDevices,
): Promise<void> {
  await cluster.stopOsd(osd);
  await cluster.withDevice(osd, async (world, disk) => {
    const { groups } = (await inspectStore(world, disk, "groups", FORMATS_NEXT)) as {
      readonly groups: readonly { readonly pg: number; readonly replica: number }[];
    };
    const seen = groups.map((one) => `${String(one.pg)}/${String(one.replica)}`);
    const wanted = cluster.pgs.flatMap((pg) =>
      pg.replicas
        .filter((one) => one.osd === osd.id)
        .map((one) => `${String(pg.id)}/${String(one.replicaId)}`),
    );
    assert(
      String(seen.sort()) === String(wanted.sort()),
      `osd.${String(osd.id)} holds ${seen.join(" ")}, wanted ${wanted.join(" ")}`,
    );
    const { findings } = await fsckStore(world, disk, FORMATS_NEXT);
    // Of the log it tells where that ends, which is before what is damaged.
    const wrong = findings.filter(
      ({ region, offsetBytes }) =>
        !devices.isMarred(osd, region === "log" ? undefined : offsetBytes),
    );
    assert(
      wrong.length === 0,
      `osd.${String(osd.id)}: ${wrong.map((one) => `${one.region} ${one.text}`).join(", ")}`,
    );
  });
}
