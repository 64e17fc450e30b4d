// cold: once per replica and start
import { CONFIGURATION_EMPTY, type Configuration } from "./conf-change.ts";

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
