// data path
/** The face of raft. Read `raw-node.ts` first: it holds the owner's turn and its order. */
export {
  bootstrapConfiguration,
  changeConfiguration,
  type ConfChange,
  Configuration,
  CONFIGURATION_BYTES_MAX,
  CONFIGURATION_EMPTY,
  decodeConfiguration,
  encodeConfiguration,
  formatConfiguration,
  leaveJoint,
  type Member,
  type MemberAddress,
  type NewMember,
} from "./conf-change.ts";
export {
  ENTRY_KIND_CONF,
  ENTRY_KIND_NOOP,
  MessageFlag,
  MessageType,
  RaftMessage,
} from "./message.ts";
export { mayPark, resume } from "./parking.ts";
export { ProgressState } from "./progress.ts";
export { hasQuorum } from "./quorum.ts";
export { RaftGroups, RaftNode } from "./raw-node.ts";
export { Ready, Refusal } from "./ready.ts";
export { freshRestore, type RaftRestore } from "./restore.ts";
export { StepResult } from "./replication.ts";
export { RAFT_OPTIONS_DEFAULT, type RaftHost, type RaftOptions, Role } from "./state.ts";
