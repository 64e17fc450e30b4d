// cold: once per replica and start
import { assert } from "../base/assert.ts";
import { CONFIGURATION_EMPTY, type Configuration } from "./conf-change.ts";
import { markDirty, type RaftState } from "./state.ts";

/** What a restarted replica knows of itself. */
export interface RaftRestore {
  readonly term: number;
  readonly vote: number;
  /** Highest commitIndex seen in any record. */
  readonly commitIndex: number;
  /** As of the checkpoint; `conf` is the configuration applied by then. */
  readonly appliedIndex: number;
  readonly conf: Configuration;
  /** What the log begins behind (logBase). */
  readonly baseIndex: number;
  readonly baseTerm: number;
}

/** What a member of a new group starts from: term 0, empty log, the bootstrap configuration. */
export function freshRestore(conf: Configuration = CONFIGURATION_EMPTY): RaftRestore {
  return {
    term: 0,
    vote: 0,
    commitIndex: 0,
    appliedIndex: 0,
    conf,
    baseIndex: 0,
    baseTerm: 0,
  };
}

/** All entries of the log on disk are there: everything so far is durable. */
export function endRestore(node: RaftState): void {
  const last = node.log.lastIndex;
  assert(node.appliedIndex <= last, "RaftNode: log ends before what was applied");
  // The last record may vouch for an entry of which only other replicas have a whole copy.
  if (node.commitIndex > last) node.commitIndex = last;
  // Entries prove the term as much as the hard state record does.
  if (node.log.lastTerm > node.term) {
    node.term = node.log.lastTerm;
    node.vote = 0;
  }
  node.durableIndex = last;
  node.matchedIndex = node.commitIndex;
  node.durableVersion = node.version;
  node.handedVersion = node.version;
  node.handedIndex = last;
  node.handedCommit = node.appliedIndex;
  if (node.commitIndex > node.appliedIndex) markDirty(node);
}
