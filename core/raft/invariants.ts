// data path
import { assert } from "../base/assert.ts";
import { type RaftState, Role } from "./state.ts";
import { isWitness } from "./witness.ts";

/** Check what `RaftNode` promises of its fields; after each call while `verifying`. */
export function checkInvariants(node: RaftState): void {
  const log = node.log;
  log.invariants();
  assert(log.baseIndex <= node.appliedIndex, "raft: base passed applied");
  assert(node.appliedIndex <= node.commitIndex, "raft: applied passed commit");
  assert(node.commitIndex <= log.lastIndex, "raft: commit passed last");
  assert(node.durableIndex <= log.lastIndex, "raft: durable passed last");
  assert(log.lastTerm <= node.term, "raft: entry of a later term");
  assert(node.ackedIndex <= node.durableIndex, "raft: acknowledged more than is durable");
  assert(node.durableVersion <= node.version, "raft: durable version from the future");
  const leading = node.role === Role.Leader;
  assert(!leading || node.leader === node.id, "raft: leader does not know itself");
  assert(leading || node.leader !== node.id, "raft: leader without leading");
  assert(leading === node.progress.length > 0, "raft: progress without leading");
  if (!leading) return;
  assert(!isWitness(node), "raft: a witness leads");
  for (let slot = 0; slot < node.progress.length; slot++) {
    if (slot !== node.selfSlot) node.progress[slot]!.invariants(node.shared.options.windowEntries);
  }
}
