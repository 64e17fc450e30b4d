// cold path: maps and configurations change a few times a day.
import type { ClusterMap, PgInfo } from "../cluster/cluster.ts";
import { bootstrapConfiguration, encodeConfiguration, freshRestore } from "../raft/raft.ts";
import { Group, GroupPeer } from "./group.ts";
import type { PgShard } from "./pg.ts";

/** Follow a map: make the groups that are being created, know where every peer lives. */
export function followMap(shard: PgShard, map: ClusterMap): void {
  for (const pg of map.pgs.values()) {
    const mine = pg.replicas.find(
      (one) => one.osd === shard.osd && one.shard === shard.shardIndex && !one.leaving,
    );
    let group = shard.groups.get(pg.id);
    if (group === undefined && mine !== undefined && pg.creating) {
      group = bootstrap(shard, pg, mine.replicaId, mine.storeUuid);
    }
    if (group === undefined) continue;
    group.lastChangeEpoch = pg.lastChangeEpoch;
    group.preferred = pg.replicas[0]?.replicaId ?? 0;
    setPeers(shard, group, pg);
  }
}

/** A group that has never existed: only the store that the map names may be its replica. */
function bootstrap(
  shard: PgShard,
  pg: PgInfo,
  replica: number,
  storeUuid: string,
): Group | undefined {
  if (plainUuid(storeUuid) !== plainUuid(shard.store.identity.storeUuid)) return undefined;
  const wanted = [...pg.replicas].sort((a, b) => a.replicaId - b.replicaId);
  if (wanted.some((one, at) => one.replicaId !== at + 1)) return undefined;
  const conf = bootstrapConfiguration(
    wanted.map((one) => ({ osd: one.osd, storeUuid: plainUuid(one.storeUuid) })),
  );
  const row = shard.store.createReplica(pg.id, replica, encodeConfiguration(conf), 0, 0);
  if (row < 0) return undefined;
  const group = new Group(shard, pg.id, replica, row);
  group.creating = true;
  shard.makeNode(group, freshRestore(conf));
  group.node.restored();
  shard.adopt(group);
  return group;
}

/** 32 hexadecimal digits. */
function plainUuid(text: string): string {
  return text.replaceAll("-", "").toLowerCase();
}

/** Where the members of a group live, by the map; a member that it does not name is unknown. */
function setPeers(shard: PgShard, group: Group, pg: PgInfo): void {
  group.peers = group.node.conf.members.map((member) => {
    const known = pg.replicas.find((one) => one.replicaId === member.id);
    if (member.id === group.replica || known === undefined) return null;
    const link = shard.link(known.osd, known.shard);
    const before = group.peers.find((one) => one?.replica === member.id);
    return before?.link === link ? before : new GroupPeer(member.id, link);
  });
  tellActive(group);
  shard.watch(group);
}

/** The configuration took effect: slots moved, peers stay who they are. */
export function followConfiguration(group: Group): void {
  group.peers = group.node.conf.members.map(
    (member) => group.peers.find((one) => one?.replica === member.id) ?? null,
  );
  tellActive(group);
}

function tellActive(group: Group): void {
  for (const peer of group.peers) {
    if (peer !== null) group.node.setPeerActive(peer.replica, peer.link.up);
  }
}
