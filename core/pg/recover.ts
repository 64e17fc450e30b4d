// cold path: runs once per group at start.
import { assert } from "../base/assert.ts";
import { decodeConfiguration } from "../raft/raft.ts";
import { type FaultyEntry, Group } from "./group.ts";
import { GroupHealth, type RecoveredGroup } from "./local-store.ts";
import type { PgShard } from "./pg.ts";

/**
 * Rebuild a group as its store holds it, and apply what is known as committed.
 *
 * A new process holds no lease and no promise: `PgShard.voteBlocked` answers true for 400 ms.
 */
export function recoverGroup(shard: PgShard, recovered: RecoveredGroup): Group {
  const group = new Group(shard, recovered.pg, recovered.replicaId, recovered.row);
  const state = recovered.state;
  const conf = decodeConfiguration(state.conf);
  assert(conf !== null, "recoverGroup: the checkpoint's configuration can not be read");
  group.restoreState(state);
  shard.makeNode(group, {
    term: recovered.term,
    vote: recovered.vote,
    commitIndex: recovered.commit,
    appliedIndex: state.applied,
    conf,
    baseIndex: recovered.baseIndex,
    baseTerm: recovered.baseTerm,
  });
  const scratch = shard.store.entries.take();
  const faultyIndexes = new Set(recovered.faulty);
  const faulty: FaultyEntry[] = [];
  for (let index = recovered.baseIndex + 1; index <= recovered.lastIndex; index++) {
    assert(
      shard.store.recoveredEntry(recovered.row, index, scratch),
      "recoverGroup: an entry of the log is missing",
    );
    group.node.restoreEntry(scratch.term, scratch.type);
    if (!faultyIndexes.has(index)) continue;
    const { term, layer, firstBlock, blocks, snapSeq } = scratch;
    faulty.push({ index, term, layer, firstBlock, blocks, snapSeq });
  }
  shard.store.entries.release(scratch);
  group.node.restored();
  judgeHealth(group, recovered.health, faulty);
  group.appliedIndex = state.applied;
  group.appendedIndex = recovered.lastIndex;
  group.ring.first = recovered.lastIndex + 1;
  group.ring.last = recovered.lastIndex;
  group.commitIndex = group.node.commitIndex;
  group.marks.reach(recovered.lastIndex, group.node.log.lastTerm);
  group.applyCommitted();
  return group;
}

/**
 * What the start of the store found out decides what the replica may do.
 *
 * Distrusted (its log or index lost something): it is silent, neither votes nor acknowledges nor
 * serves; its peers are the group. Filling: votes, never campaigns, never counts. Entries whose
 * payload is damaged: no campaign while another replica may lead. One that is alone leads at once:
 * nobody else has what it lacks.
 */
function judgeHealth(group: Group, health: GroupHealth, faulty: readonly FaultyEntry[]): void {
  switch (health) {
    case GroupHealth.Distrusted:
      group.silent = true;
      return;
    case GroupHealth.Filling:
      group.node.setUncounted();
      break;
    case GroupHealth.Ok:
      break;
  }
  group.faulty = faulty;
  if (faulty.length > 0 && group.node.conf.members.length > 1) group.node.setFaulty(true);
}
