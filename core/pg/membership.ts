// cold path: maps and configurations change a few times a day.
/**
 * Which replicas live on this shard, and where their peers are.
 *
 * The map says what is wanted; raft's applied configuration is the truth, and only the leader moves
 * it (`reconfigure.ts`). A replica comes to life in one of three ways:
 *
 *   founder   the group is `creating`: all of its replicas start with the same configuration
 *   waiting   the map names a replica that this store does not have: it starts with an empty log and
 *             no configuration, takes what the leader sends, and learns from it who is a member
 *   renewed   as waiting, in the place of a replica that its store no longer trusts, whose blocks
 *             stay for the difference
 *
 * A waiting replica never campaigns. It does vote when a candidate asks: only one whose configuration
 * counts it does, and a new id can not have voted before. Refusing was not enough: made a voter, and
 * restarted before it learned so, it would leave its group without a majority.
 *
 * A replica goes when the map shows that a configuration without it is settled: committed, and known
 * to be so on the disks of a majority of its voters. Going at the entry that removes it was not
 * enough: the leader may die before anybody else knows that this entry is committed, and what they
 * know until then makes them ask the removed replica for its vote. Until the map tells, it stays and
 * answers; the leader says farewell with its last commit index and sends it nothing more.
 *
 * Maps of a monitor that was restored from a backup may lack what happened since. Hence nothing is
 * removed because a map merely lacks it: the map's configuration must be newer than the replica's.
 */
import { uuidDigits } from "../base/uuid.ts";
import type { ClusterMap, PgConfiguration, PgInfo, ReplicaInfo } from "../cluster/cluster.ts";
import {
  bootstrapConfiguration,
  CONFIGURATION_EMPTY,
  type Configuration,
  encodeConfiguration,
  freshRestore,
} from "../raft/raft.ts";
import { Group, GroupPeer } from "./group.ts";
import type { PgShard } from "./pg.ts";

/** Follow a map: make, renew and remove replicas, know where every peer lives. */
export function followMap(shard: PgShard, map: ClusterMap): void {
  shard.missing.clear();
  for (const pg of map.pgs.values()) {
    const group = shard.groups.awakeOf(pg.id);
    const isKnown =
      group === null ? isAsParked(shard, map, pg) : isAsFollowed(shard, map, group, pg);
    if (!isKnown) followPg(shard, map, pg);
  }
  if (!shard.forgetful) return;
  shard.forgetful = false;
  shard.store.endForgetful();
}

/**
 * Whether a group is awake and has followed this very row, which names it, with all stores of its peers
 * in their places, as they still are: nothing would come of following it again, but arrays. A map tells
 * of some groups, and thousands are awake when many are made.
 */
function isAsFollowed(shard: PgShard, map: ClusterMap, group: Group, pg: PgInfo): boolean {
  if (group.info !== pg || group.silent || group.renewedAs > 0) return false;
  if (group.named.length !== pg.replicas.length - 1) return false;
  if (!pg.replicas.some((one) => one.replicaId === group.replica)) return false;
  return !arePeersReplaced(shard, map, pg);
}

/** Whether a group is parked, and the map wants of it what it wanted then, on the same stores. */
function isAsParked(shard: PgShard, map: ClusterMap, pg: PgInfo): boolean {
  if (shard.parking.infoOf(pg.id) !== pg) return false;
  // None of its peers' stores was replaced then: it had the way to every member.
  return !arePeersReplaced(shard, map, pg);
}

function arePeersReplaced(shard: PgShard, map: ClusterMap, pg: PgInfo): boolean {
  return pg.replicas.some((one) => one.osd !== shard.osd && isReplaced(map, one));
}

function followPg(shard: PgShard, map: ClusterMap, pg: PgInfo): void {
  const row = shard.groups.rowsOf().get(pg.id);
  let group = row === undefined ? undefined : shard.groups.at(row);
  // Whatever the map says by then, it is followed again once the renewal is durable.
  if (group !== undefined && group.renewedAs > 0) return;
  if (group !== undefined && isOut(group, pg)) {
    // What else may be wanted here is made once it is gone.
    shard.logger.info("removing a replica that its group is without", {
      pg: pg.id,
      replica: group.replica,
    });
    shard.remove(group);
    return;
  }
  const mine = pg.replicas.find((one) => isHere(shard, one));
  if (mine !== undefined && group === undefined) group = create(shard, map, pg, mine);
  if (group === undefined) return;
  if (mine !== undefined && group.silent && mine.replicaId > group.replica) {
    if (!wasHere(shard, pg, mine)) {
      renew(shard, group, mine);
      return;
    }
    // It was renewed before, and may have voted since.
    miss(shard, map, pg, mine);
  }
  followInfo(shard, map, group, pg);
  shard.reconfigurer.look(group);
}

/** Take over what the map says of a group. */
export function followInfo(shard: PgShard, map: ClusterMap, group: Group, pg: PgInfo): void {
  group.info = pg;
  group.lastChangeEpoch = pg.lastChangeEpoch;
  group.preferred = pg.replicas[0]?.replicaId ?? 0;
  const mine = pg.replicas.find((one) => one.replicaId === group.replica);
  if (mine !== undefined) group.namedWitness = mine.witness;
  setPeers(shard, map, group);
}

/** Whether this very store is to hold the replica. */
function isHere(shard: PgShard, one: ReplicaInfo): boolean {
  if (one.leaving || one.osd !== shard.osd || one.shard !== shard.shardIndex) return false;
  return uuidDigits(one.storeUuid) === uuidDigits(shard.store.identity.storeUuid);
}

/* ------------------------------------------------------------------- going */

/** Whether the group goes on without this replica for good. */
function isOut(group: Group, pg: PgInfo): boolean {
  const { configuration } = pg;
  if (pg.replicas.some((one) => one.replicaId === group.replica)) return false;
  if (configuration === undefined || names(configuration, group.replica)) return false;
  const { node } = group;
  if (hasLeft(group, configuration)) return true;
  // A map from before the leader that this replica knows says nothing about it.
  if (pg.leaderTerm < node.term) return false;
  const last = node.log.lastIndex;
  if (node.conf.members.length === 0) return last === 0 || configuration.index > last;
  return configuration.index > group.confIndex || node.conf.slotOf(group.replica) < 0;
}

/**
 * Whether the replica was a member, and is none at a later index of the same log: it never is again, as
 * no id is given out twice. A member that both name shows that it is the same log: ids of another
 * history of the group are others. Where the group has replaced all members that this replica knows,
 * nothing shows it, and people remove what is left.
 *
 * Its term says nothing against that. Story: A and B campaign while the disk of A hangs; B takes over
 * the term of a refusal of A, which A forgets in a power cut; the group goes on without B, in a term
 * below that one, and nobody there hears of it: B is asked for nothing any more.
 */
function hasLeft(group: Group, configuration: PgConfiguration): boolean {
  const { conf } = group.node;
  if (conf.slotOf(group.replica) < 0 || configuration.index <= group.confIndex) return false;
  return conf.members.some((member) => names(configuration, member.id));
}

function names(configuration: PgConfiguration, replica: number): boolean {
  const { voters, outgoing, learners } = configuration;
  return [voters, outgoing, learners].some((ids) => ids.some((id) => id === replica));
}

/* ------------------------------------------------------------------ coming */

function create(shard: PgShard, map: ClusterMap, pg: PgInfo, mine: ReplicaInfo): Group | undefined {
  const conf = pg.creating ? foundingConfiguration(pg) : CONFIGURATION_EMPTY;
  if (conf === undefined) return undefined;
  if (wasHere(shard, pg, mine)) {
    miss(shard, map, pg, mine);
    return undefined;
  }
  const row = shard.store.createReplica(pg.id, mine.replicaId, encodeConfiguration(conf), 0, 0);
  if (row < 0) return undefined;
  const group = new Group(shard, pg.id, mine.replicaId, row);
  group.creating = true;
  begin(shard, group, conf);
  return group;
}

function begin(shard: PgShard, group: Group, conf: Configuration): void {
  shard.makeNode(group, freshRestore(conf));
  group.node.restored();
  shard.adopt(group);
}

/**
 * Whether the replica has voted and acknowledged, or may have, though its store knows nothing of it:
 * what told of it in the log is damaged. To begin anew would forget that; the monitor gives the
 * group another one, under another id.
 */
function wasHere(shard: PgShard, pg: PgInfo, mine: ReplicaInfo): boolean {
  if (shard.forgetful || (!pg.creating && isVoter(pg, mine))) return true;
  return shard.store.tombstones.some(
    (stone) => stone.pg === pg.id && stone.replicaId >= mine.replicaId,
  );
}

/** Report it; and leave a tombstone: a start that finds no damage any more must not make it either. */
function miss(shard: PgShard, map: ClusterMap, pg: PgInfo, mine: ReplicaInfo): void {
  const isNews = shard.forgetful || pg.changeEpoch === map.epoch;
  shard.missing.set(pg.id, mine.replicaId);
  if (shard.forgetful) shard.store.bury(pg.id, mine.replicaId);
  if (isNews) {
    shard.logger.warn("a replica of this store is not there", {
      pg: pg.id,
      replica: mine.replicaId,
    });
  }
}

/** A group that has never existed: its ids follow each other, and nobody leaves yet. */
function foundingConfiguration(pg: PgInfo): Configuration | undefined {
  const founders = [...pg.replicas].sort((a, b) => a.replicaId - b.replicaId);
  const first = founders[0]!.replicaId;
  if (founders.some((one, at) => one.leaving || one.replicaId !== first + at)) return undefined;
  return bootstrapConfiguration(
    founders.map((one) => ({
      osd: one.osd,
      storeUuid: uuidDigits(one.storeUuid),
      witness: one.witness,
    })),
    first,
  );
}

function isVoter(pg: PgInfo, one: ReplicaInfo): boolean {
  const { configuration } = pg;
  if (configuration === undefined) return false;
  return [configuration.voters, configuration.outgoing].some((ids) => ids.includes(one.replicaId));
}

/** Until `onRenewed` the old replica stands, silent as it is. */
function renew(shard: PgShard, group: Group, mine: ReplicaInfo): void {
  shard.logger.info("renewing a replica that its store does not trust", {
    pg: group.pg,
    replica: group.replica,
    renewed: mine.replicaId,
  });
  group.renewedAs = mine.replicaId;
  const conf = encodeConfiguration(CONFIGURATION_EMPTY);
  shard.store.renewReplica(group.row, mine.replicaId, conf);
  shard.world.turns.again();
}

/** The new replica is durable in the row of the old one: it begins to wait for its leader. */
export function onRenewed(shard: PgShard, old: Group): void {
  shard.release(old);
  const group = new Group(shard, old.pg, old.renewedAs, old.row);
  begin(shard, group, CONFIGURATION_EMPTY);
  group.node.setUncounted();
}

/* ------------------------------------------------------------------- peers */

/** Where the other replicas live, by the map. */
function setPeers(shard: PgShard, map: ClusterMap, group: Group): void {
  const named: GroupPeer[] = [];
  for (const one of group.info!.replicas) {
    if (one.replicaId === group.replica || isReplaced(map, one)) continue;
    const link = shard.peers.link(one.osd, one.shard);
    const before = group.peerOf(one.replicaId);
    named.push(before?.link === link ? before : new GroupPeer(one.replicaId, link));
  }
  usePeers(group, named, (replica) => {
    const isNamed = group.info!.replicas.some((one) => one.replicaId === replica);
    return isNamed ? null : group.peerOf(replica);
  });
  shard.watch(group);
}

/** The configuration took effect: slots moved, peers stay who they are. */
export function followConfiguration(group: Group): void {
  const before = group.peers;
  usePeers(group, group.named, (replica) => before.find((one) => one?.replica === replica) ?? null);
}

/** `unnamed`: the peer of a member that the map does not name. */
function usePeers(
  group: Group,
  named: readonly GroupPeer[],
  unnamed: (replica: number) => GroupPeer | null,
): void {
  const before = [...group.peers, ...group.named];
  const { node } = group;
  const peers = node.conf.members.map((member) => {
    if (member.id === group.replica) return null;
    return named.find((one) => one.replica === member.id) ?? unnamed(member.id);
  });
  for (const peer of before) {
    peer?.link.groups.delete(group.row);
    if (peer === null || named.includes(peer) || peers.includes(peer)) continue;
    peer.drop();
  }
  group.named = named;
  group.peers = peers;
  for (const peer of [...peers, ...named]) peer?.link.groups.add(group.row);
  node.conf.members.forEach((member, slot) => {
    node.setPeerActive(member.id, peers[slot]?.link.up ?? false);
  });
}

/** Whether the store that held the replica is there no more: another one answers for its osd. */
function isReplaced(map: ClusterMap, one: ReplicaInfo): boolean {
  const osd = map.osds.get(one.osd);
  return osd !== undefined && osd.storeUuid !== one.storeUuid;
}
