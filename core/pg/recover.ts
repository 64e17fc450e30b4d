// cold path: runs once per group at start.
import { assert } from "../base/assert.ts";
import { decodeConfiguration, type RaftRestore } from "../raft/raft.ts";
import { type FaultyEntry, Group } from "./group.ts";
import { GroupHealth, type GroupState, type RecoveredGroup } from "./local-store.ts";
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
  rebuild(group, state, {
    term: recovered.term,
    vote: recovered.vote,
    commitIndex: recovered.commit,
    appliedIndex: state.applied,
    conf,
    baseIndex: recovered.baseIndex,
    baseTerm: recovered.baseTerm,
  });
  judgeHealth(group, recovered.health, faultyOf(shard, recovered));
  group.applyCommitted();
  return group;
}

/**
 * Give a group its node and its state, as they are in its store: when the store is opened, and when
 * the group wakes. Nothing is under way, and everything in the log is durable.
 */
export function rebuild(group: Group, state: GroupState, restore: RaftRestore): void {
  const { shard, row } = group;
  const { store } = shard;
  group.restoreState(state);
  shard.makeNode(group, restore);
  const last = store.lastIndex(row);
  for (let index = restore.baseIndex + 1; index <= last; index++) {
    group.node.restoreEntry(store.termAt(row, index), store.typeAt(row, index));
  }
  group.node.restored();
  group.appliedIndex = state.applied;
  group.appendedIndex = last;
  group.ring.first = last + 1;
  group.ring.last = last;
  group.commitIndex = group.node.commitIndex;
  group.marks.reach(last);
}

function faultyOf(shard: PgShard, { row, faulty }: RecoveredGroup): FaultyEntry[] {
  return faulty.map((index) => faultyAt(shard, row, index));
}

function faultyAt(shard: PgShard, row: number, index: number): FaultyEntry {
  const scratch = shard.store.entries.take();
  const isThere = shard.store.recoveredEntry(row, index, scratch);
  assert(isThere, "recoverGroup: an entry of the log is missing");
  const { term, layer, firstBlock, blocks, snapSeq } = scratch;
  shard.store.entries.release(scratch);
  return { index, term, layer, firstBlock, blocks, snapSeq };
}

/**
 * An entry that is not applied turns out to be damaged in the log, and no start told: what lies in
 * units is not read there, and it may have been whole. Requires: it is not in memory.
 */
export function noteFaulty(group: Group, index: number): void {
  const { shard, row } = group;
  const others = group.faulty.filter((one) => one.index !== index);
  group.faulty = [...others, faultyAt(shard, row, index)].sort((a, b) => a.index - b.index);
  group.node.setFaulty(true);
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
